// Nothing is mixed up: foreign keys and channels on the same Redis, another cluster under another prefix, and
// topics with every character that the standard allows.
import { Redis } from 'ioredis'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startCluster, type TestCluster } from '../support/cluster.ts'

let cluster: TestCluster
beforeAll(async () => {
  cluster = await startCluster({ nodes: 2 })
})
afterAll(async () => {
  await cluster[Symbol.asyncDispose]()
})

const topics = [
  'a[b]c',
  'a*b',
  'a?b',
  'a\\b',
  'with space',
  ' ',
  '/',
  '//',
  'a//b',
  'ünïcödé/✓/😀',
  '{p0}:q',
  '__proto__',
  'constructor/toString',
  'a:b',
  'a%2Fb',
  '"quotes"/\'single\'',
  '\ttab',
  'x'.repeat(65_535),
  'a,b;c|d',
  '$share',
  '$not/sys',
]

test('every legal topic: live, retained and by an exact filter, from the other node', async () => {
  const [publisher, live, late] = [
    await cluster.node(0).connect('publisher'),
    await cluster.node(1).connect('live', { version: 5 }),
    await cluster.node(1).connect('late'),
  ]
  for (const topic of topics) {
    await live.subscribe(topic, { qos: 1, rh: 2 }) // nothing retained: only what is published from now on
    await publisher.publish(topic, topic.slice(0, 20), { qos: 1, retain: true })
    await live.receives([{ topic, payload: topic.slice(0, 20), retain: false }])
    await late.subscribe(topic, { qos: 1 })
    await late.receives([{ topic, payload: topic.slice(0, 20), retain: true }])
    await publisher.publish(topic, '', { qos: 1, retain: true })
    for (const client of [live, late]) {
      await client.receives([{ topic, payload: '', retain: false }])
      await client.unsubscribe(topic)
    }
  }
})

test('every legal topic by wildcards: each comes once', async () => {
  const [publisher, all] = [await cluster.node(0).connect('publisher2'), await cluster.node(1).connect('all')]
  await all.subscribe('#', { qos: 1 })
  const visible = topics.filter((topic) => !topic.startsWith('$'))
  for (const topic of topics) await publisher.publish(topic, 'x', { qos: 1 })
  await all.receives(visible.map((topic) => ({ topic, payload: 'x' })))
})

test('foreign keys and channels on the same Redis, also under our prefix, harm nothing', async () => {
  const foreign = new Redis(cluster.redis.url)
  await foreign.mset('foreign', '1', 'test', '2', 'test:foreign', '3')
  const listener = await cluster.node(0).connect('listener')
  await listener.subscribe('#', { qos: 1 }) // nothing is retained any more
  for (const channel of ['foreign', 'test/foreign/topic', 'test/$SYS/garbage', 'test:foreign', 'test']) {
    for (const message of ['text', Buffer.from([0xc1, 0xff, 0]), Buffer.alloc(100_000, 0x93)])
      await foreign.publish(channel, message)
  }
  await cluster.node(1).publish('still', 'works')
  await listener.receives([{ topic: 'still', payload: 'works' }])
  for (const node of cluster.nodes)
    expect((await node.admin('/metrics')).body).toMatch(
      /^aedes_cluster_garbage_total\{where="channel"\} [1-9]/m,
    )
  expect(await foreign.mget('foreign', 'test', 'test:foreign')).toEqual(['1', '2', '3'])
  foreign.disconnect()
})

test('$SYS names no client and no filter', async () => {
  const watcher = await cluster.node(1).connect('watcher')
  await watcher.subscribe('$SYS/#', { qos: 1 })
  const newcomer = await cluster.node(0).connect('newcomer')
  await newcomer.subscribe('its/filter')
  await newcomer.unsubscribe('its/filter')
  await newcomer.disconnect()
  await cluster.node(0).publish('behind', 'all of it')
  for (const { topic, payload } of watcher.packets) {
    expect(topic).toMatch(/^\$SYS\/[ab]\/(birth|heartbeat)$/)
    expect(['a', 'b']).toContain(payload.toString())
  }
})

test('where the operator wants it, $SYS tells on every node who came; clients cannot publish there', async () => {
  await using cluster = await startCluster({ nodes: 2, argv: ['--sys-events', 'on'] })
  const watcher = await cluster.node(1).connect('watcher')
  await watcher.subscribe('$SYS/+/new/clients', { qos: 1 })
  const intruder = await cluster.node(0).connect('newcomer', { version: 5 })
  await watcher.arrives(
    (packet) => packet.topic === '$SYS/a/new/clients' && packet.payload.toString() === 'newcomer',
  )
  watcher.takeAll()
  await expect(intruder.publish('$SYS/a/new/clients', 'nobody')).rejects.toThrow(/not authorized/i)
  await watcher.receives([])
})

test('another cluster under another prefix on the same Redis hears nothing', async () => {
  await using other = await startCluster({ nodes: 1, prefix: 'test2', redis: cluster.redis })
  const there = await other.node(0).connect('there')
  await there.subscribe(['#', '$SYS/#'], { qos: 1 })
  await cluster.node(0).publish('where', 'here', { retain: true })
  await there.publish('own', 'own')
  await there.arrives((packet) => packet.topic === 'own')
  expect(there.packets.map(({ topic }) => topic).filter((topic) => !topic.startsWith('$SYS/'))).toEqual([
    'own',
  ])
})
