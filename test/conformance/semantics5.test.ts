// MQTT 5 end to end, from a publisher on one node to a subscriber on it or on the other: what a client says
// that it can take is respected, what a message carries arrives, sessions and wills keep their promises.
// Subscribers are raw sockets where it matters that nothing is acknowledged behind a test's back. Complements
// test/cluster/semantics.test.ts.
import type { Packet } from 'mqtt-packet'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { frame, properties, str, u16, WireClient } from '../support/wire.ts'

let cluster: TestCluster
beforeAll(async () => {
  cluster = await startCluster({ nodes: 2 })
})
afterAll(async () => {
  await cluster[Symbol.asyncDispose]()
})

type Options = Parameters<typeof WireClient.connect>[2]
const wire = (node: number, id: string, options: Options = {}) =>
  WireClient.connect(cluster.node(node).url, id, options)
const publisher = () => cluster.node(0).connect(`publisher-${Math.random()}`, { version: 5 })

/** A fixed window, for absences only. */
const absence = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 150))

/** Until the clock has passed `at`: what expires does so in real time. */
const passes = (at: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, at - Date.now()))

const acknowledge = (cmd: 'puback' | 'pubrec', { messageId = 0 }: Packet): Packet => ({ cmd, messageId })

const session = { clean: false, properties: { sessionExpiryInterval: 600 } } as const

describe.each([
  { where: 'local', node: 0 },
  { where: 'remote', node: 1 },
])('$where delivery', ({ where, node }) => {
  describe.each([
    { kind: 'clean', options: {} },
    { kind: 'persistent', options: session },
  ])('to a $kind session', ({ kind, options }) => {
    const name = (what: string): string => `${where}/${kind}/${what}`
    const connect = (what: string, more: object = {}) =>
      wire(node, name(what), { ...options, properties: { ...(options as Options)?.properties, ...more } })

    test('[MQTT-3.3.4-9] no more than Receive Maximum in flight, the rest in order as they are acknowledged', async () => {
      await using client = await connect('window', { receiveMaximum: 2 })
      await client.subscribe(name('window'))
      const from = await publisher()
      for (const n of ['0', '1', '2', '3', '4']) await from.publish(name('window'), n)
      const got = [await client.next('publish'), await client.next('publish')]
      await absence()
      expect(await client.settled()).toEqual([])
      for (let n = 0; n < 5; n++) {
        client.send({ cmd: 'puback', messageId: got[n]!.messageId! })
        if (n < 3) got.push(await client.next('publish'))
      }
      expect(got.map(({ payload }) => String(payload))).toEqual(['0', '1', '2', '3', '4'])
      expect(await client.settled()).toEqual([])
    })

    test('[MQTT-3.3.4-9] Receive Maximum counts QoS 2 until PUBCOMP, and not QoS 0', async () => {
      await using client = await connect('window2', { receiveMaximum: 1 })
      await client.subscribe(name('window2'), { qos: 2 })
      const from = await publisher()
      await from.publish(name('window2'), 'first', { qos: 2 })
      await from.publish(name('window2'), 'second', { qos: 2 })
      await from.publish(name('window2'), 'at once', { qos: 0 })
      const come = [await client.next('publish'), await client.next('publish')].sort((a, b) => b.qos - a.qos)
      expect(come.map(({ payload }) => String(payload))).toEqual(['first', 'at once'])
      const { messageId } = come[0]!
      client.send({ cmd: 'pubrec', messageId: messageId! })
      await client.next('pubrel')
      await absence()
      expect(await client.settled()).toEqual([])
      client.send({ cmd: 'pubcomp', messageId: messageId! })
      expect(String((await client.next('publish')).payload)).toBe('second')
    })

    test('[MQTT-3.3.4-9] Receive Maximum counts live messages and Retained Messages together', async () => {
      const from = await publisher()
      for (const n of ['1', '2']) await from.publish(name(`mixed/${n}`), 'kept', { retain: true })
      await using client = await connect('mixed', { receiveMaximum: 1 })
      await client.subscribe(name('mixed/+'))
      await client.next('publish')
      await from.publish(name('mixed/3'), 'live')
      await absence()
      expect(await client.settled()).toEqual([])
    })

    test('[MQTT-3.1.2-24] [MQTT-3.1.2-25] a packet larger than the client takes is not sent to it, and others are', async () => {
      await using client = await connect('large', { maximumPacketSize: 200 })
      await client.subscribe(name('large'))
      const from = await publisher()
      for (const qos of [0, 1] as const) {
        const most = 194 - name('large').length - (qos === 0 ? 0 : 2) // a packet of 200 bytes
        for (const length of [300, most + 1, most]) {
          await from.publish(name('large'), 'x'.repeat(length), { qos })
        }
        const packet = await client.next('publish')
        expect(packet.payload).toHaveLength(most)
        if (qos > 0) client.send({ cmd: 'puback', messageId: packet.messageId! })
      }
      await absence()
      expect(await client.settled()).toEqual([])
    })

    test('[MQTT-3.3.2-6] Message Expiry Interval is passed on, less the time that passed', async () => {
      await using client = await connect('expiry', { receiveMaximum: 1 })
      await client.subscribe(name('expiry'))
      const from = await publisher()
      const sent = Date.now()
      for (const n of ['1', '2', 'late'])
        await from.publish(name('expiry'), n, {
          properties: { messageExpiryInterval: n === 'late' ? 1 : 100 },
        })
      const first = await client.next('publish')
      expect(first.properties?.messageExpiryInterval).toBeGreaterThanOrEqual(99)
      expect(first.properties?.messageExpiryInterval).toBeLessThanOrEqual(100)
      await passes(sent + 1_600)
      client.send({ cmd: 'puback', messageId: first.messageId! })
      const second = await client.next('publish')
      expect(String(second.payload)).toBe('2')
      expect(second.properties?.messageExpiryInterval).toBeGreaterThanOrEqual(97)
      expect(second.properties?.messageExpiryInterval).toBeLessThanOrEqual(99)
      client.send({ cmd: 'puback', messageId: second.messageId! })
      await absence()
      expect(await client.settled()).toEqual([]) // the third expired while it waited [MQTT-3.3.2-5]
    })

    test('[MQTT-3.8.3-3] No Local: own QoS 1 messages do not come back, those of others do', async () => {
      await using client = await connect('nl')
      await client.subscribe(name('nl'), { nl: true })
      client.send({
        cmd: 'publish',
        topic: name('nl'),
        payload: 'own',
        qos: 1,
        messageId: 9,
        retain: false,
        dup: false,
      })
      await client.next('puback')
      await (await publisher()).publish(name('nl'), 'other')
      expect(String((await client.next('publish')).payload)).toBe('other')
      expect(await client.settled()).toEqual([])
    })

    test('[MQTT-3.3.1-13] Retain As Published keeps RETAIN at QoS 1', async () => {
      await using client = await connect('rap')
      await client.subscribe(name('rap'), { rap: true })
      await (await publisher()).publish(name('rap'), 'p', { retain: true })
      expect(await client.next('publish')).toMatchObject({ retain: true })
    })

    test('[MQTT-3.3.2-17] [MQTT-3.3.2-18] all properties of a message arrive, User Properties in their order', async () => {
      await using client = await connect('props')
      await client.subscribe(name('props'))
      const user = ['b', 'a', 'b'].map((key, n) =>
        Buffer.concat([Buffer.from([0x26]), str(key), str(`${n}`)]),
      )
      const section = Buffer.concat([
        Buffer.from([0x01, 1, 0x03]),
        str('text/plain'),
        Buffer.from([0x08]),
        str('answer/to'),
        Buffer.from([0x09]),
        str(Buffer.from([0, 255])),
        ...user,
      ])
      await using from = await wire(0, name('props-from'))
      const raw: Buffer[] = []
      client.socket.on('data', (chunk: Buffer) => raw.push(chunk))
      from.send(frame(0x32, str(name('props')), u16(1), properties(5, section), Buffer.from('p')))
      await from.next('puback')
      await client.next('publish')
      expect(Buffer.concat(raw).includes(section)).toBe(true)
    })
  })

  test('[MQTT-3.3.2-7] [MQTT-3.3.2-12] Topic Aliases are the business of one connection: subscribers see topics', async () => {
    await using client = await wire(node, `${where}-alias`)
    await client.subscribe(`${where}/alias/+`, { qos: 0 })
    await using from = await wire(0, `${where}-alias-from`)
    expect(from.connack.properties?.topicAliasMaximum).toBeGreaterThan(0)
    const base = { cmd: 'publish', qos: 0, retain: false, dup: false } as const
    const highest = from.connack.properties!.topicAliasMaximum!
    for (const [topic, topicAlias] of [
      ['one', 1],
      ['two', highest],
      ['', 1],
      ['', highest],
      ['three', 1],
      ['', 1],
    ] as const) {
      from.send({
        ...base,
        topic: topic === '' ? '' : `${where}/alias/${topic}`,
        payload: '',
        properties: { topicAlias },
      })
    }
    for (const topic of ['one', 'two', 'one', 'two', 'three', 'three']) {
      const packet = await client.next('publish')
      expect(packet.topic).toBe(`${where}/alias/${topic}`)
      // the client named no Topic Alias Maximum [MQTT-3.1.2-26]
      expect(packet.properties?.topicAlias).toBeUndefined()
    }
    await using other = await wire(0, `${where}-alias-other`)
    other.send({ ...base, topic: '', payload: '', properties: { topicAlias: 1 } })
    expect(await other.next('disconnect')).toMatchObject({ reasonCode: 0x82 })
  })

  test('[MQTT-3.1.2-8] a will comes with its properties, without Will Delay Interval', async () => {
    await using client = await wire(node, `${where}-witness`)
    await client.subscribe(`${where}/will`)
    const willProperties = {
      payloadFormatIndicator: true,
      contentType: 'text/plain',
      responseTopic: 'r',
      correlationData: Buffer.from([1]),
      userProperties: { a: 'b' },
    }
    const doomed = await wire(0, `${where}-doomed`, {
      will: {
        topic: `${where}/will`,
        payload: Buffer.from('gone'),
        qos: 1,
        retain: false,
        properties: { ...willProperties, messageExpiryInterval: 50 },
      },
    })
    doomed.socket.destroy()
    const packet = await client.next('publish')
    expect(packet).toMatchObject({ payload: Buffer.from('gone'), qos: 1, properties: willProperties })
    expect(packet.properties?.messageExpiryInterval).toBeGreaterThanOrEqual(49)
  })

  test('[MQTT-3.1.2-10] [MQTT-3.14.4-3] a will is not sent after DISCONNECT 0x00, and is after 0x04', async () => {
    await using client = await wire(node, `${where}-witness`)
    await client.subscribe(`${where}/parting`)
    for (const [payload, reasonCode] of [
      ['normal', 0],
      ['with will', 4],
    ] as const) {
      await using leaving = await wire(0, `${where}-leaving`, {
        will: { topic: `${where}/parting`, payload: Buffer.from(payload), qos: 1, retain: false },
      })
      leaving.send({ cmd: 'disconnect', reasonCode })
      await leaving.untilClosed()
    }
    expect(String((await client.next('publish')).payload)).toBe('with will')
    await absence()
    expect(await client.settled()).toEqual([])
  })

  test('[MQTT-3.3.1-1] an unacknowledged QoS 1 message comes again with DUP', async () => {
    const first = await wire(0, `${where}-again`, session)
    await first.subscribe(`${where}/again`)
    await (await publisher()).publish(`${where}/again`, 'p')
    expect((await first.next('publish')).dup).toBe(false)
    first.socket.destroy()
    await first.closed
    await using second = await wire(node, `${where}-again`, session)
    expect(second.connack.sessionPresent).toBe(true)
    expect(await second.next('publish')).toMatchObject({ payload: Buffer.from('p'), dup: true })
  })

  /**
   * Two connections of a session: on the first 1 (QoS 1), 2 (QoS 2, PUBREC sent) and 3 (QoS 2) stay open; the
   * second is fresh.
   */
  async function resumed(
    what: string,
  ): Promise<{
    second: WireClient
    open: (number | undefined)[]
    publish: (payload: string) => Promise<void>
  }> {
    const first = await wire(0, `${where}-${what}`, {
      clean: false,
      properties: { sessionExpiryInterval: 600, receiveMaximum: 3 },
    })
    await first.subscribe(`${where}/${what}`, { qos: 2 })
    const from = await publisher()
    for (const [n, qos] of [
      [0, 1],
      [1, 1],
      [2, 2],
      [3, 2],
    ] as const)
      await from.publish(`${where}/${what}`, `${n}`, { qos })
    const got = [await first.next('publish'), await first.next('publish'), await first.next('publish')]
    first.send(acknowledge('puback', got[0]!))
    got.push(await first.next('publish')) // there was no room for it before the first was gone from the queue
    first.send(acknowledge('pubrec', got[2]!))
    await first.next('pubrel') // it is recorded that the client has that one
    first.socket.destroy()
    await first.closed
    const second = await wire(node, `${where}-${what}`, session)
    return {
      second,
      open: got.slice(1).map(({ messageId }) => messageId),
      publish: (payload) => from.publish(`${where}/${what}`, payload, { qos: 1 }),
    }
  }

  test('[MQTT-4.4.0-1] [MQTT-4.6.0-1] what comes again comes in order, under the Packet Identifiers that it had', async () => {
    const { second, open } = await resumed('same')
    const again = [await second.any(), await second.any(), await second.any()]
    const idsOf = (wanted: string): unknown[] =>
      again.filter(({ cmd }) => cmd === wanted).map(({ messageId }) => messageId)
    expect([idsOf('pubrel'), idsOf('publish')]).toEqual([[open[1]], [open[0], open[2]]])
    second.socket.destroy()
  })

  test('[MQTT-2.2.1-4] the identifier of a PUBREL that came again is not used for another message before PUBCOMP', async () => {
    const { second, open, publish } = await resumed('fresh')
    for (const payload of ['4', '5', '6']) await publish(payload)
    const publishes: unknown[] = []
    while (publishes.length < 5) {
      const packet = await second.any()
      if (packet.cmd === 'publish') publishes.push(packet.messageId)
    }
    expect(publishes).not.toContain(open[1])
    expect(new Set(publishes).size).toBe(5)
    second.socket.destroy()
  })

  test('[MQTT-4.3.3-10] [MQTT-4.1.0-1] a QoS 2 message that is sent again on a new connection of its session is not published again', async () => {
    await using client = await wire(1 - node, `${where}-once-witness`)
    await client.subscribe(`${where}/once`, { qos: 0 })
    const publish = {
      cmd: 'publish',
      topic: `${where}/once`,
      payload: 'once',
      qos: 2,
      messageId: 5,
      retain: false,
    } as const
    const first = await wire(0, `${where}-once`, session)
    await first.subscribe(`${where}/anything`)
    first.send({ ...publish, dup: false })
    await first.next('pubrec')
    first.socket.destroy()
    await first.closed
    await using second = await wire(node, `${where}-once`, session)
    expect(second.connack.sessionPresent).toBe(true)
    second.send({ ...publish, dup: true })
    expect(await second.next('pubrec')).toMatchObject({ messageId: 5 })
    second.send({ cmd: 'pubrel', messageId: 5 })
    expect(await second.next('pubcomp')).toMatchObject({ messageId: 5, reasonCode: 0 })
    await client.next('publish')
    await absence()
    expect(await client.settled()).toEqual([])
  })

  test('[MQTT-3.3.2-5] a message that expired while its session was away is not delivered', async () => {
    const away = await wire(0, `${where}-away`, session)
    await away.subscribe(`${where}/away`)
    away.socket.destroy()
    await away.closed
    const from = await publisher()
    await from.publish(`${where}/away`, 'short', { properties: { messageExpiryInterval: 1 } })
    await from.publish(`${where}/away`, 'long', { properties: { messageExpiryInterval: 100 } })
    await passes(Date.now() + 1_200)
    await using back = await wire(node, `${where}-away`, session)
    const packet = await back.next('publish')
    expect(String(packet.payload)).toBe('long')
    expect(packet.properties?.messageExpiryInterval).toBeLessThanOrEqual(99)
  })
})

describe('CONNACK', () => {
  test('[MQTT-3.1.3-6] [MQTT-3.2.2-16] an empty Client Identifier is assigned one, each its own, and it can be used', async () => {
    await using one = await wire(0, '')
    await using two = await wire(1, '')
    const names = [one, two].map(({ connack }) => connack.properties?.assignedClientIdentifier)
    expect(names.every((name) => typeof name === 'string' && name.length > 0)).toBe(true)
    expect(new Set(names).size).toBe(2)
    await using named = await wire(0, 'named')
    expect(named.connack.properties?.assignedClientIdentifier).toBeUndefined()
    await using thief = await wire(0, names[0]!)
    expect(thief.connack.reasonCode).toBe(0)
    expect(await one.next('disconnect')).toMatchObject({ reasonCode: 0x8e })
  })

  test('[MQTT-3.2.2-2] [MQTT-3.2.2-3] sessionPresent: 0 for a new session, 1 for one resumed on another node, 0 again after Clean Start', async () => {
    const connect = async (node: number, options: Options): Promise<boolean> => {
      await using client = await wire(node, 'present', options)
      await client.subscribe('present')
      return client.connack.sessionPresent
    }
    expect(await connect(0, session)).toBe(false)
    expect(await connect(1, session)).toBe(true)
    expect(await connect(0, { ...session, clean: true })).toBe(false)
    expect(await connect(1, session)).toBe(true)
    expect(await connect(1, { clean: true })).toBe(false)
    expect(await connect(0, session)).toBe(false)
  })

  test('[MQTT-3.2.2-2] sessionPresent is 1 for a session without subscriptions too', async () => {
    const first = await wire(0, 'bare', session)
    first.socket.destroy()
    await first.closed
    await using second = await wire(0, 'bare', session)
    expect(second.connack.sessionPresent).toBe(true)
  })

  test('what the node can take is named: Maximum Packet Size, Receive Maximum, Topic Alias Maximum', async () => {
    await using client = await wire(0, 'capabilities')
    expect(client.connack.properties).toMatchObject({
      maximumPacketSize: 1_048_576,
      receiveMaximum: 1_000,
      topicAliasMaximum: 100,
    })
    expect(client.connack.properties?.serverKeepAlive).toBeUndefined()
  })
})
