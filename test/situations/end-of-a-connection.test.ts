// What a client sent before the end of its connection comes before it, whether it says good-bye, ends its
// side or hangs up. And a DISCONNECT that was sent makes the will void, whatever waits before it
// [MQTT-3.14.4-3].
import { once } from 'node:events'
import { connect as connectTcp } from 'node:net'
import mqttPacket, { type IConnectPacket, type Packet } from 'mqtt-packet'
import { describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import type { TestClient } from '../support/client.ts'
import { situation } from '../support/situation.ts'
import type { Version } from '../support/wire.ts'

const bytes = (version: Version, ...packets: Packet[]): Buffer =>
  Buffer.concat(packets.map((packet) => mqttPacket.generate(packet, { protocolVersion: version })))
const connectPacket = (clientId: string, more: Partial<IConnectPacket> = {}): IConnectPacket => ({
  cmd: 'connect',
  protocolId: 'MQTT',
  protocolVersion: 5,
  clean: true,
  clientId,
  keepalive: 0,
  ...more,
})
const publish = (topic: string, n: number, more: object = {}): Packet => ({
  cmd: 'publish',
  topic,
  payload: String(n),
  qos: 1,
  messageId: n,
  retain: false,
  dup: false,
  ...more,
})
const subscribe = (messageId: number, topic: string): Packet => ({
  cmd: 'subscribe',
  messageId,
  subscriptions: [{ topic, qos: 1, nl: false, rap: false, rh: 0 }],
})
const unsubscribe = (messageId: number, topic: string): Packet => ({
  cmd: 'unsubscribe',
  messageId,
  unsubscriptions: [topic],
})
const disconnect: Packet = { cmd: 'disconnect', reasonCode: 0 }
const will = (topic: string) =>
  ({ will: { topic, payload: Buffer.from('will'), qos: 1, retain: false } }) as const
const kept = { clean: false, properties: { sessionExpiryInterval: 60 } } as const

/** Sends all of it over a connection of its own and closes it at once, without waiting for anything. */
async function inOneSegment(url: string, data: Buffer): Promise<void> {
  if (url.startsWith('mqtt')) {
    const socket = connectTcp(Number(new URL(url).port), '127.0.0.1').on('error', () => undefined)
    await once(socket, 'connect')
    socket.end(data)
    socket.resume()
    await once(socket, 'close')
    return
  }
  const socket = new WebSocket(url, 'mqtt')
  await once(socket, 'open')
  socket.send(data)
  socket.close()
  await once(socket, 'close')
}

/** What comes until a message of this topic, from somebody else, behind all that was sent before. */
async function until(watcher: TestClient, topic: string, end: () => Promise<void>): Promise<string[]> {
  await end()
  await watcher.arrives((packet) => packet.topic === topic && packet.payload.toString() === 'end')
  return watcher.takeAll()
}

situation('the end of a connection', (place) => {
  const { connect, connectThere, wire, wireThere } = place
  const at = (address: string): string => (address === 'TCP' ? place.here : place.ws)

  describe.each(['TCP', 'WebSocket'] as const)('over %s', (address) => {
    test.each([
      ['QoS 0', { qos: 0, messageId: undefined }],
      ['QoS 1', { qos: 1 }],
      ['QoS 0, retained', { qos: 0, messageId: undefined, retain: true }],
      ['QoS 1, retained', { retain: true }],
    ])(
      'CONNECT with a will, PUBLISH, DISCONNECT and the close in one segment, %s: published, and no will',
      async (kind, more) => {
        const topic = `segment/${address}/${kind}`
        const watcher = await connectThere(`watches ${topic}`)
        await watcher.subscribe(`${topic}/#`)
        for (let round = 1; round <= 5; round++) {
          await inOneSegment(
            at(address),
            bytes(5, connectPacket(topic, will(`${topic}/will`)), publish(topic, round, more), disconnect),
          ) // the same client again and again
        }
        await watcher.arrivals(5)
        await watcher.settle()
        expect(watcher.takeAll()).toEqual(['1', '2', '3', '4', '5'])
      },
    )

    test('without DISCONNECT: published, then the will', async () => {
      const topic = `segment/${address}/breaks off`
      const watcher = await connectThere(`watches ${topic}`)
      await watcher.subscribe(`${topic}/#`)
      await inOneSegment(
        at(address),
        bytes(5, connectPacket(topic, will(`${topic}/will`)), publish(topic, 1)),
      )
      await watcher.arrivals(2)
      expect(watcher.takeAll()).toEqual(['1', 'will'])
    })
  })

  test.each([1_001, 3_000])(
    '%i QoS 1 publishes and DISCONNECT in one go, then FIN: all of them, in order, and no will',
    async (count) => {
      const topic = `many/${count}`
      const watcher = await connectThere(`watches ${topic}`)
      await watcher.subscribe(`${topic}/#`)
      const client = await wire(topic, will(`${topic}/will`))
      client.socket.end(
        bytes(5, ...Array.from({ length: count }, (_, n) => publish(topic, n + 1)), disconnect),
      )
      await client.closed
      await watcher.arrivals(count)
      await watcher.settle()
      expect(watcher.takeAll()).toEqual(Array.from({ length: count }, (_, n) => String(n + 1)))
    },
  )

  test('300 KiB and DISCONNECT in one go, then FIN: all of it, and no will', async () => {
    const watcher = await connectThere('watches bytes')
    await watcher.subscribe('bytes/#')
    const client = await wire('bytes', will('bytes/will'))
    client.socket.end(
      bytes(
        5,
        ...Array.from({ length: 10 }, (_, n) =>
          publish('bytes/x', n + 1, { payload: Buffer.alloc(30 * 1024, n) }),
        ),
        disconnect,
      ),
    )
    await client.closed
    await watcher.arrivals(10)
    await watcher.settle()
    expect(watcher.packets.map(({ topic, payload }) => `${topic} ${payload[0]}`)).toEqual(
      Array.from({ length: 10 }, (_, n) => `bytes/x ${n}`),
    )
  })

  // Mosquitto forgets what it has not read when it cannot write an answer.
  const ways = [
    ['an answer is waited for', true],
    ...(place.isOurs ? [['nobody waits for the answer', false] as const] : []),
  ] as const
  describe.each(ways)(
    'PUBLISH, SUBSCRIBE, UNSUBSCRIBE, DISCONNECT in one write of a lasting session, %s',
    (_, waits) => {
      test.each([0, 1, 2] as const)('QoS %i: subscribed and unsubscribed when it comes back', async (qos) => {
        if (!waits && !place.isOurs) return // Mosquitto may look at it after the next CONNECT
        const id = `requests ${qos} ${waits}`
        const before = await wire(id, kept)
        await before.subscribe(`${id}/old`)
        before.socket.write(
          bytes(
            5,
            publish(`${id}/x`, 1, qos === 0 ? { qos, messageId: undefined } : { qos }),
            subscribe(2, `${id}/new`),
            unsubscribe(3, `${id}/old`),
            disconnect,
          ),
        )
        if (!waits) before.socket.destroySoon()
        await before.closed
        const again = await wire(id, kept)
        expect(again.connack.sessionPresent).toBe(true)
        const publisher = await connectThere(`publishes ${id}`)
        for (const name of ['old', 'new']) await publisher.publish(`${id}/${name}`, name)
        expect(String((await again.next('publish')).payload)).toBe('new')
        expect(await again.settled()).toEqual([])
        again.socket.destroy()
      })
    },
  )

  test('[MQTT-3.14.4-1] what stands behind DISCONNECT is not taken', async () => {
    const watcher = await connectThere('watches behind')
    await watcher.subscribe('behind/#')
    const client = await wire('behind', kept)
    client.send(
      publish('behind/x', 1),
      subscribe(2, 'behind/new'),
      disconnect,
      publish('behind/x', 3),
      subscribe(4, 'behind/newer'),
      publish('behind/x', 5, { qos: 0, messageId: undefined }),
    )
    await client.closed
    const publisher = await connectThere('publishes behind')
    expect(await until(watcher, 'behind/end', () => publisher.publish('behind/end', 'end'))).toEqual([
      '1',
      'end',
    ])
    const again = await wire('behind', kept)
    await publisher.publish('behind/newer', '')
    await publisher.publish('behind/new', 'new')
    expect(String((await again.next('publish')).payload)).toBe('new')
    again.socket.destroy()
  })

  test('PUBACK and DISCONNECT in one write: the message does not come again', async () => {
    const publisher = await connectThere('publishes acked')
    const first = await wire('acked', kept)
    await first.subscribe('acked')
    await publisher.publish('acked', 'once')
    const { messageId } = await first.next('publish')
    first.send({ cmd: 'puback', messageId: messageId! }, disconnect)
    await first.closed
    const again = await wireThere('acked', kept)
    expect(await again.settled()).toEqual([])
    again.socket.destroy()
  })

  test('the will is void when the DISCONNECT is sent: a CONNECT at another node right behind it publishes none', async () => {
    const watcher = await connect('watches void')
    await watcher.subscribe('void/#')
    for (let round = 0; round < 10; round++) {
      const client = await wire('void', { ...kept, ...will('void/will') })
      client.send(publish('void/x', round + 1), disconnect)
      await client.closed
      const again = await wireThere('void', { ...kept, ...will('void/will') })
      again.send(disconnect)
      await again.closed
    }
    await watcher.arrivals(10)
    await watcher.settle()
    expect(watcher.takeAll()).toEqual(Array.from({ length: 10 }, (_, n) => String(n + 1)))
  })

  test('an expiry that DISCONNECT changes holds: to nothing, the session is gone; longer, it is there', async () => {
    const client = await wire('shorter', { clean: true, properties: { sessionExpiryInterval: 60 } })
    await client.subscribe('shorter')
    client.send({ ...disconnect, properties: { sessionExpiryInterval: 0 } })
    await client.closed
    const again = await wireThere('shorter', { clean: false, properties: { sessionExpiryInterval: 1 } })
    expect(again.connack.sessionPresent).toBe(false)
    await again.subscribe('longer')
    again.send({ ...disconnect, properties: { sessionExpiryInterval: 60 } })
    await again.closed
    const publisher = await connectThere('publishes longer')
    await new Promise((resolve) => setTimeout(resolve, 1_500)) // what CONNECT had asked for is over
    await publisher.publish('longer', 'still there')
    const third = await wire('shorter', { clean: false })
    expect(third.connack.sessionPresent).toBe(true)
    expect(String((await third.next('publish')).payload)).toBe('still there')
    third.socket.destroy()
  })
})
