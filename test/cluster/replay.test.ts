// Retained Messages because of a SUBSCRIBE, far more than a connection has room for: every one arrives and the client stays,
// whatever QoS and however small its Receive Maximum; and once it unsubscribed, nothing that is published afterwards comes.
import type { Socket } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import type { TestClient } from '../support/client.ts'

const topics = Array.from({ length: 250 }, (_, n) => `kept/${n}`)
let cluster: TestCluster
let publisher: TestClient

beforeAll(async () => {
  cluster = await startCluster({ nodes: 1 })
  publisher = await cluster.node(0).connect('publisher')
  for (const topic of topics) await publisher.publish(topic, Buffer.alloc(100_000, 'x'), { qos: 1, retain: true })
})
afterAll(() => cluster[Symbol.asyncDispose]())

test.each([{ qos: 0, clean: true }, { qos: 1, clean: true }, { qos: 2, clean: true }, { qos: 1, clean: false }] as const)('25 MB arrive with QoS $qos, clean $clean', async ({ qos, clean }) => {
  await using subscriber = await cluster.node(0).connect(`subscriber-${qos}`, { version: 5, clean, properties: { receiveMaximum: 20, sessionExpiryInterval: clean ? 0 : 60 } })
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
