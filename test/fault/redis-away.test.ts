// P10, Redis may go away: stopped for ten seconds, its connections killed, its data flushed. Clients stay
// connected, publishes that were under way complete, and everything works again by itself.
import { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import { partitionsOfCluster, hashIndex } from '../../bridge/redis/keys.ts'
import type { TestClient } from '../support/client.ts'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { startRedisCluster } from '../support/redis-cluster.ts'

interface Traffic {
  readonly cluster: TestCluster
  readonly publisher: TestClient
  readonly subscribers: TestClient[]
  /** Publishes on and on until `stop`; resolves to what was acknowledged. */
  run(): { stop(): Promise<string[]> }
}

async function traffic(cluster: TestCluster): Promise<Traffic> {
  // far less than the outage: held back, not dropped
  const publisher = await cluster.node(0).connect('publisher', { keepalive: 3 })
  const subscribers = await Promise.all(
    cluster.nodes.map(async (node, i) => {
      const client = await node.connect(`subscriber-${i}`)
      await client.subscribe('traffic/+', { qos: 1 })
      return client
    }),
  )
  const run = (): { stop(): Promise<string[]> } => {
    let stopped = false
    const acknowledged: string[] = []
    const loop = (async () => {
      for (let n = 0; !stopped; n++) {
        await publisher.publish(`traffic/${n % 3}`, `${n}`, { qos: 1 })
        acknowledged.push(`${n}`)
      }
    })()
    return {
      stop: async () => {
        stopped = true
        await loop
        return acknowledged
      },
    }
  }
  return { cluster, publisher, subscribers, run }
}

/** Every acknowledged message came to every subscriber at least once, first arrivals in order. */
async function complete({ subscribers }: Traffic, acknowledged: readonly string[]): Promise<void> {
  for (const subscriber of subscribers) {
    await subscriber.arrives((packet) => packet.payload.toString() === acknowledged.at(-1))
    const first = [...new Set(subscriber.packets.map((packet) => packet.payload.toString()))]
    expect(first).toEqual(acknowledged)
    expect(subscriber.mqtt.connected).toBe(true)
  }
}

/** A connection of the test's own; what it kills may be itself. */
const adminOf = (cluster: TestCluster): Redis => new Redis(cluster.redis.url).on('error', () => undefined)

const ready = async (cluster: TestCluster): Promise<number[]> =>
  Promise.all(cluster.nodes.map(async (node) => (await node.admin('/readyz')).status))

test('Redis stopped (kill -9) for ten seconds and started again', async () => {
  await using cluster = await startCluster({ nodes: 2, argv: ['--claim-timeout-ms', '60000'] })
  const all = await traffic(cluster)
  const running = all.run()
  await all.subscribers[0]!.arrivals(200)
  await cluster.redis.stop('SIGKILL')
  await expect.poll(() => ready(cluster), { timeout: 20_000 }).toEqual([503, 503])
  const connecting = cluster.node(0).connect('meanwhile') // is served when Redis is back
  await new Promise((resolve) => setTimeout(resolve, 10_000)) // the outage itself, not a wait for something
  await cluster.redis.start()
  await expect.poll(() => ready(cluster), { timeout: 20_000 }).toEqual([200, 200])
  const before = all.subscribers[1]!.packets.length
  await expect
    .poll(() => all.subscribers[1]!.packets.length, { timeout: 20_000 })
    .toBeGreaterThan(before + 100)
  await complete(all, await running.stop())
  const meanwhile = await connecting
  await meanwhile.subscribe('traffic/meanwhile')
  await all.publisher.publish('traffic/meanwhile', 'served')
  await meanwhile.receives([{ topic: 'traffic/meanwhile', payload: 'served' }])
})

test.each(['is killed', 'falls silent'] as const)(
  'Redis %s, and the node is told to stop in the same moment: it does not wait for it',
  async (what) => {
    await using cluster = await startCluster({ nodes: 1, argv: ['--shutdown-ms', '70000'] })
    const node = cluster.node(0)
    const stored = await node.connect('stored', { clean: false })
    await stored.subscribe('t', { qos: 1 })
    const publisher = await node.connect('publisher')
    if (what === 'is killed') await cluster.redis.stop('SIGKILL')
    else cluster.redis.pause()
    publisher.mqtt.publish('t', 'never stored', { qos: 1 })
    expect(await node.stop()).toBe(0)
    cluster.redis.resume()
  },
)

test('every connection to Redis killed, again and again', async () => {
  await using cluster = await startCluster({ nodes: 2 })
  const all = await traffic(cluster)
  const running = all.run()
  const admin = adminOf(cluster)
  for (let round = 1; round <= 5; round++) {
    const before = all.subscribers[1]!.packets.length
    await expect
      .poll(() => all.subscribers[1]!.packets.length, { timeout: 20_000 })
      .toBeGreaterThan(before + 50)
    await admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
    await admin.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
  }
  await complete(all, await running.stop())
  admin.disconnect()
})

test('FLUSHALL: routes come back from the live connections; what was acknowledged before may be gone, nothing after', async () => {
  await using cluster = await startCluster({ nodes: 3 })
  const all = await traffic(cluster)
  const admin = adminOf(cluster)
  await all.publisher.publish('traffic/1', 'before')
  for (const subscriber of all.subscribers)
    await subscriber.receives([{ topic: 'traffic/1', payload: 'before' }])
  await admin.flushall()
  await all.publisher.publish('traffic/1', 'after the flush')
  for (const subscriber of all.subscribers)
    await subscriber.receives([{ topic: 'traffic/1', payload: 'after the flush' }])
  const late = await cluster.node(2).connect('late')
  await late.subscribe('late')
  await cluster.node(1).publish('late', 'works')
  await late.receives([{ topic: 'late', payload: 'works' }])
  admin.disconnect()
})

// What a replica has not heard of is gone: sessions that began, came back or moved meanwhile, and what they
// subscribed to.
test('a master of a Redis Cluster fails over behind its replica: whoever is connected goes on getting everything', async () => {
  await using redis = await startRedisCluster({ masters: 2 })
  await using cluster = await startCluster({ nodes: 2, redis })
  const [a, b] = [cluster.node(0), cluster.node(1)]
  const here = (name: string): string =>
    Array.from({ length: 1_000 }, (_, n) => `${name}${n}`).find(
      (id) => hashIndex(id, partitionsOfCluster) === 0,
    )!
  const lasting = { version: 5, clean: false, properties: { sessionExpiryInterval: 600 } } as const
  const connected = await b.connect(here('connected'), lasting)
  await connected.subscribe('all')
  const away = await b.connect(here('back'), lasting)
  await away.subscribe('all')
  await away.disconnect()
  await (await a.connect(here('moved'), lasting)).subscribe('all')
  const publisher = await a.connect(here('publisher'))
  const fail = await redis.leaveBehind('s0')
  const fresh = await b.connect(here('fresh'), {
    ...lasting,
    will: { topic: 'wills', payload: 'fresh', qos: 1, retain: false },
  })
  await fresh.subscribe('all')
  const [back, moved] = [await b.connect(here('back'), lasting), await b.connect(here('moved'), lasting)]
  await connected.subscribe('later', { qos: 2 })
  for (let n = 0; n < 20; n++) await publisher.publish('all', `before ${n}`)
  const all = [connected, back, moved, fresh]
  await Promise.all(all.map((client) => client.arrives(({ payload }) => payload.toString() === 'before 19')))
  await fail()
  await Promise.all(
    cluster.nodes.flatMap((node) => [
      node.publish('all', `from ${node.id}`),
      node.publish('later', `from ${node.id}`, { qos: 2 }),
    ]),
  )
  for (const { id } of cluster.nodes) {
    for (const client of all)
      await client.arrives(({ topic, payload }) => topic === 'all' && payload.toString() === `from ${id}`)
    await connected.arrives(({ topic, payload }) => topic === 'later' && payload.toString() === `from ${id}`)
  }
  expect(all.map(({ mqtt }) => mqtt.connected)).toEqual([true, true, true, true])
  const wills = await a.connect(here('wills'))
  await wills.subscribe('wills')
  await fresh.drop()
  await wills.arrives(({ payload }) => payload.toString() === 'fresh')
})
