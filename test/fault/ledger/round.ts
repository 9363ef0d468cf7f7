// One round of the ledger: publishers and subscribers on three real nodes, and a seeded schedule of faults against nodes and
// Redis. When the faults are over everybody drains, the book is checked, and no key may be left over.
import { startCluster, type TestCluster } from '../../support/cluster.ts'
import { orphans } from '../../support/orphans.ts'
import { seededRandom, type Random } from '../../support/random.ts'
import { Replicated, startRedisCluster, startSentinel } from '../../support/redis-cluster.ts'
import { startRedis, type TestStore } from '../../support/redis.ts'
import { Publisher, Subscriber } from './clients.ts'
import { check } from './ledger.ts'

export interface RoundOptions {
  readonly seconds: number
  readonly nodes: number
  readonly seed: number
  /** What the nodes stand on; the replicated ones fail over, and every message must be on a replica before it is acknowledged. */
  readonly store: keyof typeof stores
}

export const stores = { redis: startRedis, sentinel: startSentinel, cluster: startRedisCluster } as const satisfies Record<string, () => Promise<TestStore>>

export interface RoundResult {
  readonly seed: number
  readonly sent: number
  readonly acknowledged: number
  readonly received: number
  readonly connects: number
  /** What was done to the cluster, with the second it began. */
  readonly faults: readonly string[]
  /** Broken promises; empty when all were kept. */
  readonly problems: readonly string[]
}

const patienceMs = 60_000
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

async function until(there: () => boolean | Promise<boolean>): Promise<boolean> {
  for (const end = Date.now() + patienceMs; Date.now() < end; await pause(50)) if (await there()) return true
  return false
}

const wanted: Record<string, RegExp> = { exact: /^ledger\/p0\/1$/, plus: /^ledger\/[^/]+\/2$/, all: /^ledger\//, sleeper: /^ledger\//, hopper: /^ledger\// }
const filters: Record<string, string> = { exact: 'ledger/p0/1', plus: 'ledger/+/2', all: '#', sleeper: 'ledger/#', hopper: 'ledger/#' }

/** One fault, from its beginning to its end. Each is a verb on nodes or on Redis. The first one of a store that can is a failover. */
async function fault(cluster: TestCluster<TestStore>, random: Random, first: boolean, note: (what: string) => void): Promise<void> {
  const node = random.pick(cluster.nodes)
  const store = cluster.redis
  const kind = first && store instanceof Replicated ? 9 : random.below(10)
  if (kind < 4) {
    note(`kill ${node.id}`)
    await node.kill()
    await pause(random.below(1_500))
    await node.start()
  } else if (kind > 6 && store instanceof Replicated) {
    note('failover')
    const dead = await store.failover(random.below(3))
    await pause(random.below(1_000))
    await dead.start()
    await store.settled()
  } else if (kind < 7) {
    const ms = 500 + random.below(5_000)
    note(`pause ${node.id} ${ms} ms`)
    node.pause()
    await pause(ms)
    node.resume()
  } else if (kind < 9) {
    note('cut all connections to Redis')
    await store.killConnections()
  } else {
    note('kill Redis')
    await store.stop('SIGKILL')
    await pause(random.below(2_000))
    await store.start()
  }
}

export async function runRound({ seconds, nodes, seed, store }: RoundOptions): Promise<RoundResult> {
  const random = seededRandom(seed)
  await using redis = await stores[store]()
  await using cluster = await startCluster({ nodes, redis, argv: ['--lease-ms', '3000', '--log-level', 'info', '--durability-replicas', store === 'redis' ? '0' : '1'] })
  const urls = cluster.nodes.map(({ url }) => url)
  const publishers = [0, 1, 2].map((i) => new Publisher(`p${i}`, urls, random))
  const subscribers = Object.entries(filters).map(([name, filter]) => new Subscriber(name, filter, urls, random))
  const everybody = [...publishers, ...subscribers]
  const problems: string[] = []
  const faults: string[] = []
  for (const subscriber of subscribers) subscriber.start()
  if (!await until(() => subscribers.every(({ subscribed }) => subscribed))) problems.push('not everybody could subscribe')
  for (const publisher of publishers) publisher.start()
  const begun = Date.now()
  const restless = setInterval(() => subscribers.find(({ clientId }) => clientId === 'hopper')!.hop(), 1_700)
  const sleeping = setInterval(() => subscribers.find(({ clientId }) => clientId === 'sleeper')!.hop(), 300) // mostly on its way
  while (Date.now() - begun < seconds * 1_000) {
    await pause(300 + random.below(1_500))
    await fault(cluster, random, faults.length === 0, (what) => faults.push(`${((Date.now() - begun) / 1_000).toFixed(1)} s ${what}`))
  }
  await pause(1_000) // the cluster as the last fault left it, under traffic
  clearInterval(restless)
  clearInterval(sleeping)
  for (const publisher of publishers) publisher.finish()
  if (!await until(() => publishers.every(({ open }) => open === 0))) problems.push(`publishes never completed: ${publishers.map(({ clientId, open }) => `${clientId} ${open}`).join(', ')}`)
  const book = {
    sent: publishers.flatMap(({ sent }) => sent), acknowledged: new Set(publishers.flatMap(({ acknowledged }) => [...acknowledged])),
    received: new Map(subscribers.map(({ clientId, received }) => [clientId, received])), wants: (subscriber: string, topic: string) => wanted[subscriber]!.test(topic),
  }
  await until(() => !check(book).some((problem) => problem.includes('never got')))
  await pause(300) // what comes twice may come late
  problems.push(...everybody.flatMap((client) => client.problems), ...check(book))
  for (const client of everybody) client.stop()
  let left: string[] = []
  if (!await until(async () => (left = await orphans(cluster.redis.url, 'test')).length === 0)) problems.push(...left.map((line) => `left over: ${line}`))
  const crashed = cluster.nodes.filter(({ running }) => !running)
  for (const node of crashed) problems.push(`node ${node.id} died by itself: ${node.log.slice(-2_000)}`)
  return {
    seed, sent: book.sent.length, acknowledged: book.acknowledged.size, received: subscribers.reduce((sum, { received }) => sum + received.length, 0),
    connects: everybody.reduce((sum, { connects }) => sum + connects, 0), faults, problems,
  }
}
