// Retained Messages because of a SUBSCRIBE, far more than a connection has room for: every one arrives and
// the client stays, whatever QoS and however small its Receive Maximum; and once it unsubscribed, nothing
// that is published afterwards comes. What is retained while they are being sent comes live.
import { Store, type IPublishPacket } from 'mqtt'
import type { Socket } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import type { TestClient } from '../support/client.ts'

const topics = Array.from({ length: 250 }, (_, n) => `kept/${n}`)
let cluster: TestCluster
let publisher: TestClient

beforeAll(async () => {
  cluster = await startCluster({ nodes: 1 })
  publisher = await cluster.node(0).connect('publisher')
  for (const topic of topics)
    await publisher.publish(topic, Buffer.alloc(100_000, 'x'), { qos: 1, retain: true })
})
afterAll(() => cluster[Symbol.asyncDispose]())

test.each([
  { qos: 0, clean: true },
  { qos: 1, clean: true },
  { qos: 2, clean: true },
  { qos: 1, clean: false },
] as const)('25 MB arrive with QoS $qos, clean $clean', async ({ qos, clean }) => {
  await using subscriber = await cluster
    .node(0)
    .connect(`subscriber-${qos}`, {
      version: 5,
      clean,
      properties: { receiveMaximum: 20, sessionExpiryInterval: clean ? 0 : 60 },
    })
  await subscriber.subscribe('kept/#', { qos })
  await subscriber.arrivals(topics.length)
  expect(new Set(subscriber.packets.map(({ topic }) => topic)).size).toBe(topics.length)
  await subscriber.settle()
  expect([subscriber.packets.length, subscriber.mqtt.connected]).toEqual([topics.length, true])
})

test('a replay ends with UNSUBSCRIBE: what is published behind the UNSUBACK does not come', async () => {
  await using subscriber = await cluster.node(0).connect('leaving')
  const socket = subscriber.mqtt.stream as unknown as Socket
  await subscriber.subscribe('kept/#', { qos: 0 })
  socket.pause() // the replay waits for room
  const unsubscribed = subscriber.unsubscribe('kept/#')
  await new Promise((resolve) => setTimeout(resolve, 300))
  socket.resume()
  await unsubscribed
  expect(subscriber.packets.length).toBeLessThan(topics.length)
  subscriber.takeAll()
  await Promise.all(topics.map((topic) => publisher.publish(topic, 'new', { qos: 1, retain: true })))
  await subscriber.settle()
  expect(subscriber.takeAll().filter((payload) => payload === 'new')).toEqual([])
})

describe('while many are being sent', () => {
  const many = process.env.TEST_REPLAY === 'all' ? 100_000 : 4_000
  let both: TestCluster
  let keeper: TestClient
  beforeAll(async () => {
    both = await startCluster({ nodes: 2 })
    keeper = await both.node(1).connect('keeper')
    for (let n = 0; n < many; n += 1_000)
      await Promise.all(
        Array.from({ length: 1_000 }, (_, i) =>
          keeper.publish(`many/${n + i}`, 'old', { qos: 2, retain: true }),
        ),
      )
  }, 120_000)
  afterAll(() => both[Symbol.asyncDispose]())

  test.each([
    { qos: 0, clean: true },
    { qos: 1, clean: true },
    { qos: 2, clean: true },
    { qos: 1, clean: false },
    { qos: 2, clean: false },
  ] as const)(
    'what is retained meanwhile comes live, once, and nothing older behind it: QoS $qos, clean $clean',
    { timeout: 120_000 },
    async ({ qos, clean }) => {
      const name = `${qos}-${clean ? 'clean' : 'lasting'}`
      await using subscriber = await both
        .node(0)
        .connect(`during-${name}`, {
          version: 5,
          clean,
          properties: { sessionExpiryInterval: clean ? 0 : 60 },
        })
      await subscriber.subscribe('many/#', { qos })
      // Some of them were sent already, most were not.
      const changed = new Set(Array.from({ length: 50 }, (_, n) => `many/${Math.floor((n * many) / 50)}`))
      await Promise.all([...changed].map((topic) => keeper.publish(topic, name, { qos, retain: true })))
      await expect
        .poll(() => new Set(subscriber.packets.map(({ topic }) => topic)).size, { timeout: 100_000 })
        .toBe(many)
      await expect
        .poll(() => subscriber.packets.filter(({ payload }) => payload.toString() === name).length)
        .toBe(changed.size)
      await subscriber.settle()
      const byTopic = new Map<string, IPublishPacket[]>()
      for (const packet of subscriber.packets)
        byTopic.set(packet.topic, [...(byTopic.get(packet.topic) ?? []), packet])
      const wrong = [...byTopic].filter(([topic, all]) => {
        const [last, ...others] = [...all].reverse()
        if (!changed.has(topic)) return all.length !== 1 || !last!.retain
        return (
          last!.payload.toString() !== name ||
          last!.retain ||
          last!.qos !== qos ||
          others.length > 1 ||
          others.some(({ retain }) => !retain)
        )
      })
      expect(wrong.slice(0, 3)).toEqual([])
    },
  )

  // What a SUBSCRIBE of a lasting session found is the session's [MQTT-3.1.2-23..24]: the rest comes with the
  // next connection, wherever that is.
  test.skipIf(process.env.TEST_STORE === 'memory').each([{ qos: 1 }, { qos: 2 }] as const)(
    'the connection ends, or its node, and the next one at another node gets the rest, each value once: QoS $qos',
    { timeout: 120_000 },
    async ({ qos }) => {
      const [seen, doubled] = [new Map<string, IPublishPacket[]>(), new Set<string>()]
      // a QoS 2 message counts when its PUBREL came, wherever that is
      const incomingStore = new Store({ clean: false })
      const away = new Map(
        Array.from({ length: 20 }, (_, n) => [`many/${Math.floor(((n + 0.5) * many) / 20)}`, `away ${qos}`]),
      )
      for (let turn = 0, left = many; left > 0; turn++) {
        await using subscriber = await both
          .node(turn % 2)
          .connect(`moving-${qos}`, {
            version: 5,
            clean: turn === 0,
            incomingStore,
            properties: { receiveMaximum: 200, sessionExpiryInterval: 60 },
          })
        if (turn === 0) await subscriber.subscribe('many/#', { qos })
        await subscriber.arrivals(Math.min(left, Math.ceil(many / 4)))
        if (turn === 0) await both.node(0).kill()
        else if (left > many / 4) await subscriber.drop()
        for (const packet of subscriber.packets) {
          const known = seen.get(packet.topic) ?? []
          const again = known.some(({ payload }) => payload.toString() === packet.payload.toString())
          if (again && !packet.dup) doubled.add(packet.topic)
          if (!again) seen.set(packet.topic, [...known, packet])
        }
        left = many - seen.size
        if (turn === 0) await both.node(0).start()
        if (turn === 0)
          await Promise.all(
            [...away].map(([topic, payload]) => keeper.publish(topic, payload, { qos, retain: true })),
          )
        if (left === 0) await subscriber.settle()
      }
      await using again = await both
        .node(0)
        .connect(`moving-${qos}`, { version: 5, clean: false, properties: { sessionExpiryInterval: 60 } })
      await again.settle()
      expect([[...doubled], again.packets]).toEqual([[], []])
      const wrong = [...seen].filter(([topic, all]) => {
        const last = all.at(-1)!
        return away.has(topic)
          ? last.payload.toString() !== away.get(topic) || last.retain || all.length > 2
          : all.length !== 1 || !last.retain
      })
      expect([wrong.slice(0, 3), [...seen.values()].some(([first]) => first!.qos === qos)]).toEqual([
        [],
        true,
      ])
    },
  )
})
