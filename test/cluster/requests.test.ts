// What a client may send in one breath, and may leave in the middle of, without harm to itself or to others.
import type { Packet } from 'mqtt-packet'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { frame, u16, WireClient } from '../support/wire.ts'

let cluster: TestCluster
beforeAll(async () => {
  cluster = await startCluster({ nodes: 2, argv: ['--receive-maximum', '20000'] })
})
afterAll(async () => {
  await cluster[Symbol.asyncDispose]()
})

/** A session that outlives its connection. */
const kept = { clean: false, properties: { sessionExpiryInterval: 600 } } as const

test('12,000 QoS 2 publishes released in one breath are all completed', async () => {
  await using client = await WireClient.connect(cluster.node(0).url, 'releases', kept)
  for (let first = 1; first <= 12_000; first += 500) {
    const ids = Array.from({ length: 500 }, (_, n) => first + n)
    client.send(
      ...ids.map(
        (messageId) =>
          ({
            cmd: 'publish',
            topic: 't',
            payload: '',
            qos: 2,
            messageId,
            retain: false,
            dup: false,
          }) as const,
      ),
    )
    for (const _ of ids) await client.next('pubrec')
  }
  cluster.redis.pause() // so that they are written in one call, rather than as they are read
  client.send(...Array.from({ length: 12_000 }, (_, n) => frame(0x62, u16(n + 1))), { cmd: 'pingreq' })
  await client.next('pingresp')
  cluster.redis.resume()
  for (let n = 0; n < 12_000; n++) await client.next('pubcomp')
})

/** Is ended for a packet that is none while its SUBSCRIBE waits for Redis: before a FIN it would be done first. */
async function leaveInTheMiddle(clientId: string, topic: string, qos: 0 | 1): Promise<void> {
  const leaves = await WireClient.connect(cluster.node(0).url, clientId, kept)
  cluster.redis.pause()
  leaves.send(
    { cmd: 'subscribe', messageId: 1, subscriptions: [{ topic, qos, nl: false, rap: false, rh: 0 }] },
    { cmd: 'pingreq' },
  )
  await leaves.next('pingresp')
  leaves.send(frame(0x00))
  await leaves.closed
  cluster.redis.resume()
}

test("who leaves in the middle of its SUBSCRIBE takes nobody else's route with it", async () => {
  await using stays = await WireClient.connect(cluster.node(0).url, 'stays')
  await stays.subscribe('shared')
  for (let n = 0; n < 5; n++) {
    await leaveInTheMiddle(`leaves-${n}`, 'shared', 0)
  }
  await cluster.node(0).publish('other', '', { qos: 1 }) // behind whatever is journaled of those that left
  await cluster.node(1).publish('shared', 'for all', { qos: 1 })
  expect(String((await stays.next('publish')).payload)).toBe('for all')
})

test('nor does it leave a route behind', async () => {
  for (let n = 0; n < 5; n++) {
    await leaveInTheMiddle(`left-${n}`, 'left', 1)
  }
  const routes = async (): Promise<string> => (await cluster.node(1).admin('/routes')).body
  await cluster.node(0).publish('other', '', { qos: 1 })
  await expect.poll(routes).not.toContain('"left"')
})

const subscribe = (messageId: number, topic: string): Packet => ({
  cmd: 'subscribe',
  messageId,
  subscriptions: [{ topic, qos: 1, nl: false, rap: false, rh: 0 }],
})

describe.each([
  { kind: 'clean', options: {} },
  { kind: 'persistent', options: kept },
])('a $kind session', ({ kind, options }) => {
  test('UNSUBSCRIBE and SUBSCRIBE in one breath: answered in order, and subscribed', async () => {
    const topic = `again/${kind}`
    await using client = await WireClient.connect(cluster.node(0).url, topic, options)
    await client.subscribe(topic)
    client.send({ cmd: 'unsubscribe', messageId: 2, unsubscriptions: [topic] }, subscribe(3, topic))
    expect([await client.any(), await client.any()].map(({ cmd }) => cmd)).toEqual(['unsuback', 'suback'])
    await cluster.node(1).publish(topic, 'x', { qos: 1 })
    expect(String((await client.next('publish')).payload)).toBe('x')
  })

  test('100 requests in one breath are answered in order, publishes among them', async () => {
    const topic = `many/${kind}`
    await using client = await WireClient.connect(cluster.node(0).url, topic, options)
    const ids = Array.from({ length: 100 }, (_, n) => n + 1)
    client.send(
      ...ids.flatMap((messageId) => [
        subscribe(messageId, topic),
        {
          cmd: 'publish',
          topic: 'other',
          payload: '',
          qos: 1,
          messageId,
          retain: false,
          dup: false,
        } as const,
      ]),
    )
    const answers: number[] = []
    while (answers.length < 100) {
      const packet = await client.any()
      if (packet.cmd === 'suback') answers.push(packet.messageId!)
    }
    expect(answers).toEqual(ids)
  })
})

test('[MQTT-3.3.4-9] who returns with a smaller Receive Maximum gets no more at once of what was in flight, then the rest, then what is new', async () => {
  const first = await WireClient.connect(cluster.node(0).url, 'shrinks', kept)
  await first.subscribe('shrink', { qos: 2 })
  for (let n = 0; n < 5; n++) await cluster.node(1).publish('shrink', String(n), { qos: n === 3 ? 2 : 1 })
  const before = []
  for (let n = 0; n < 5; n++) before.push(await first.next('publish'))
  first.send({ cmd: 'pubrec', messageId: before[3]!.messageId! })
  await first.next('pubrel')
  first.socket.destroy()
  await using second = await WireClient.connect(cluster.node(1).url, 'shrinks', {
    clean: false,
    properties: { sessionExpiryInterval: 600, receiveMaximum: 2 },
  })
  await cluster.node(0).publish('shrink', 'new', { qos: 1 })
  const got = [await second.next('publish'), await second.next('publish')]
  expect(await second.settled()).toEqual([])
  second.send({ cmd: 'puback', messageId: got[0]!.messageId! })
  got.push(await second.next('publish'))
  second.send({ cmd: 'puback', messageId: got[1]!.messageId! })
  expect((await second.next('pubrel')).messageId).toBe(before[3]!.messageId)
  expect(await second.settled()).toEqual([])
  second.send({ cmd: 'pubcomp', messageId: before[3]!.messageId! })
  got.push(await second.next('publish'))
  for (const { messageId } of got.slice(2)) second.send({ cmd: 'puback', messageId: messageId! })
  got.push(await second.next('publish'))
  expect(got.map(({ payload, dup }) => [String(payload), dup])).toEqual([
    ['0', true],
    ['1', true],
    ['2', true],
    ['4', true],
    ['new', false],
  ])
})
