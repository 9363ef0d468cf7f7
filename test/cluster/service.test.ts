// The service across nodes, as a client sees it: for MQTT 3.1.1 and 5, over TCP and WebSocket, on one
// cluster.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startCluster, type TestCluster } from '../support/cluster.ts'

let cluster: TestCluster
beforeAll(async () => {
  cluster = await startCluster({ nodes: 3 })
})
afterAll(async () => {
  await cluster[Symbol.asyncDispose]()
})

const transports = [
  { version: 4, ws: false },
  { version: 4, ws: true },
  { version: 5, ws: false },
  { version: 5, ws: true },
] as const

describe.each(transports)('MQTT level $version, WebSocket $ws', ({ version, ws }) => {
  const base = `t${version}${ws ? 'ws' : 'tcp'}`
  const persistent =
    version === 5 ? { clean: false, properties: { sessionExpiryInterval: 3_600 } } : { clean: false }

  test.each([0, 1, 2] as const)('a QoS %i PUBLISH on one node reaches subscribers on all', async (qos) => {
    const topic = `${base}/q${qos}/temperature`
    const subscribers = await Promise.all(
      cluster.nodes.map((node, i) => node.connect(`${base}-s${qos}-${i}`, { version, ws })),
    )
    await subscribers[0]!.subscribe(topic, { qos })
    await subscribers[1]!.subscribe(`${base}/q${qos}/+`, { qos })
    await subscribers[2]!.subscribe(`${base}/q${qos}/#`, { qos })
    const publisher = await cluster.node(0).connect(`${base}-p${qos}`, { version, ws })
    for (const payload of ['20', '21', '22']) await publisher.publish(topic, payload, { qos })
    for (const subscriber of subscribers) {
      await subscriber.receives(['20', '21', '22'].map((payload) => ({ topic, payload, qos, retain: false })))
    }
  })

  test('a Retained Message is seen from another node, and goes when it is emptied', async () => {
    const topic = `${base}/retained`
    for (const clean of [true, false]) {
      // whatever becomes of the publisher's session
      const publisher = await cluster
        .node(0)
        .connect(`${base}-r-${clean}`, {
          version,
          ws,
          clean,
          ...(version === 5 && !clean ? { properties: { sessionExpiryInterval: 60 } } : {}),
        })
      await publisher.publish(topic, clean ? 'first' : 'last', { qos: 1, retain: true })
    }
    const early = await cluster.node(1).connect(`${base}-r1`, { version, ws })
    await early.subscribe(`${base}/+`)
    await early.receives([{ topic, payload: 'last', retain: true }])
    await cluster.node(2).publish(topic, '', { qos: 1, retain: true })
    await early.receives([{ topic, payload: '', retain: false }])
    const late = await cluster.node(0).connect(`${base}-r2`, { version, ws })
    await late.subscribe(topic)
    await late.receives([])
  })

  test('a persistent session is resumed on another node, with its queue', async () => {
    const topic = `${base}/orders/7`
    const sensor = await cluster.node(0).connect(`${base}-sensor`, { version, ws, ...persistent })
    expect(sensor.sessionPresent).toBe(false)
    await sensor.subscribe(`${base}/orders/+`, { qos: 1 })
    await sensor.disconnect()
    // PUBREC follows the enqueueing, Aedes' PUBACK does not
    for (const payload of ['1', '2', '3']) await cluster.node(2).publish(topic, payload, { qos: 2 })
    const again = await cluster.node(1).connect(`${base}-sensor`, { version, ws, ...persistent })
    expect(again.sessionPresent).toBe(true) // [MQTT-3.2.2-2]
    await again.receives(['1', '2', '3'].map((payload) => ({ topic, payload })))
  })

  test('a Will is delivered on the other nodes when the connection breaks, not when it ends', async () => {
    const topic = `${base}/wills`
    const watchers = await Promise.all(
      cluster.nodes.map((node, i) => node.connect(`${base}-w${i}`, { version, ws })),
    )
    for (const watcher of watchers) await watcher.subscribe(topic)
    const polite = await cluster
      .node(0)
      .connect(`${base}-polite`, {
        version,
        ws,
        will: { topic, payload: Buffer.from('polite'), qos: 1, retain: false },
      })
    await polite.disconnect()
    const fragile = await cluster
      .node(0)
      .connect(`${base}-fragile`, {
        version,
        ws,
        will: { topic, payload: Buffer.from('gone'), qos: 1, retain: false },
      })
    await fragile.drop()
    for (const watcher of watchers) await watcher.receives([{ topic, payload: 'gone' }])
  })

  test('a Client Identifier that connects to another node takes its session over', async () => {
    const first = await cluster.node(0).connect(`${base}-twin`, { version, ws })
    const closed = first.closed()
    const second = await cluster.node(1).connect(`${base}-twin`, { version, ws })
    await closed
    await second.subscribe(`${base}/twin`)
    await cluster.node(2).publish(`${base}/twin`, 'for the second')
    await second.receives([{ topic: `${base}/twin`, payload: 'for the second' }])
    expect(first.packets).toEqual([])
  })
})

test('clients of different levels and transports hear one another', async () => {
  const old = await cluster.node(0).connect('old', { version: 4 })
  const modern = await cluster.node(1).connect('modern', { version: 5, ws: true })
  await old.subscribe('mixed/#')
  await modern.subscribe('mixed/#')
  await modern.publish('mixed/a', 'from 5', { properties: { userProperties: { unit: 'C' } } })
  for (const client of [old, modern]) await client.receives([{ topic: 'mixed/a', payload: 'from 5' }])
  await old.publish('mixed/b', 'from 3.1.1')
  for (const client of [old, modern]) await client.receives([{ topic: 'mixed/b', payload: 'from 3.1.1' }])
  expect(modern.packets[0]?.properties?.userProperties).toEqual({ unit: 'C' })
})

test('two clusters with different prefixes on one Redis do not hear each other', async () => {
  await using other = await startCluster({ nodes: 1, redis: cluster.redis, prefix: 'test2' })
  const here = await cluster.node(0).connect('here')
  const there = await other.node(0).connect('there')
  await here.subscribe('#')
  await there.subscribe('#')
  await cluster.node(1).publish('where', 'here', { retain: true })
  await here.receives([{ topic: 'where', payload: 'here' }])
  await there.receives([])
})
