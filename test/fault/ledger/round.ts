// One round of the ledger: publishers and subscribers on three real nodes, and a seeded schedule of faults
// against nodes and Redis. When the faults are over everybody drains, the book is checked, and no key may be
// left over.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startCluster } from '../../support/cluster.ts'
import { orphans } from '../../support/orphans.ts'
import { seededRandom, type Random } from '../../support/random.ts'
import { Replicated, startRedisCluster, startSentinel } from '../../support/redis-cluster.ts'
import { startRedis, type TestStore } from '../../support/redis.ts'
import { Publisher, RestlessMember, Subscriber, Watcher } from './clients.ts'
import { check, type Book } from './ledger.ts'
import { startStock } from './stock.ts'

export interface RoundOptions {
  readonly seconds: number
  readonly nodes: number
  readonly seed: number
  /**
   * What the nodes stand on; the replicated ones fail over, and every message must be on a replica before it
   * is acknowledged.
   */
  readonly store: keyof typeof stores
  /** Whose nodes; the stock stack is the peer, and breaks promises. */
  readonly system?: 'ours' | 'stock'
  /** False: nodes and Redis are left alone, only clients come and go. */
  readonly faults?: boolean
}

/** A node as the ledger needs it. */
export interface LedgerNode {
  readonly id: string
  readonly url: string
  readonly log: string
  readonly running: boolean
  start(): Promise<void>
  kill(): Promise<void>
  pause(): void
  resume(): void
}

interface Broken {
  readonly nodes: readonly LedgerNode[]
  readonly redis: TestStore
}

/** A node without Redis: it has a file, and is all there is. */
class StateFile implements TestStore {
  readonly url = ''
  readonly #folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-ledger-'))
  readonly path = join(this.#folder, 'state')
  async stop(): Promise<void> {
    /* it is no process */
  }
  async start(): Promise<void> {
    /* the same */
  }
  pause(): void {
    /* the same */
  }
  resume(): void {
    /* the same */
  }
  async killConnections(): Promise<void> {
    /* the same */
  }
  async [Symbol.asyncDispose](): Promise<void> {
    rmSync(this.#folder, { recursive: true })
  }
}

export const stores = {
  redis: startRedis,
  sentinel: startSentinel,
  cluster: startRedisCluster,
  file: () => Promise.resolve(new StateFile()),
} as const satisfies Record<string, () => Promise<TestStore>>

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

/** How long everything may take to come to rest; the stock stack mostly does not. */
export const patienceMs = { ours: 60_000, stock: 10_000 }
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

export async function until(patienceMs: number, there: () => boolean | Promise<boolean>): Promise<boolean> {
  for (const end = Date.now() + patienceMs; Date.now() < end; await pause(50)) if (await there()) return true
  return false
}

const wanted: Record<string, RegExp> = {
  exact: /^ledger\/p0\/1$/,
  plus: /^ledger\/[^/]+\/2$/,
  all: /^ledger\//,
  sleeper: /^ledger\//,
  hopper: /^ledger\//,
}
const filters: Record<string, string> = {
  exact: 'ledger/p0/1',
  plus: 'ledger/+/2',
  all: '#',
  sleeper: 'ledger/#',
  hopper: 'ledger/#',
}

/** Who breaks its connection by itself, and every how many ms; the sleeper is mostly on its way. */
const hoppers: ReadonlyMap<string, number> = new Map([
  ['hopper', 1_700],
  ['sleeper', 300],
])

/** Groups by name → granted QoS. */
const grants = new Map<string, 1 | 2>([
  ['exact group', 2],
  ['loose group', 1],
])

/**
 * One whose members' sessions outlive their connections, so that QoS 2 comes once, and one of all kinds of
 * members: what one of them has in flight at QoS 1 goes to another.
 */
function membersOf(urls: readonly string[], random: Random): [string, readonly Subscriber[]][] {
  const [exact, loose] = ['$share/exact/ledger/#', '$share/loose/ledger/#']
  return [
    ['exact group', ['e0', 'e1', 'e2'].map((name) => new Subscriber(name, exact, urls, random))],
    [
      'loose group',
      [
        new Watcher('l0', loose, urls, random, 1),
        new RestlessMember('l1', loose, urls, random, 1),
        new Subscriber('l2', loose, urls, random, 1),
      ],
    ],
  ]
}

/**
 * One fault, from its beginning to its end. Each is a verb on nodes or on Redis. The first one of a store
 * that can is a failover.
 */
async function fault(
  cluster: Broken,
  random: Random,
  first: boolean,
  note: (what: string) => void,
): Promise<void> {
  const node = random.pick(cluster.nodes)
  const store = cluster.redis
  const kind = first && store instanceof Replicated ? 9 : random.below(store instanceof StateFile ? 7 : 10)
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

/** Publishes that must be acknowledged behind the last fault, however slow the machine is. */
const afterwards = 200

/** The clients of a round, from the first CONNECT until everybody has drained. */
export class Crowd {
  readonly publishers: readonly Publisher[]
  readonly subscribers: readonly Subscriber[]
  /** Group → its members. */
  readonly groups: ReadonlyMap<string, readonly Subscriber[]>
  readonly #patienceMs: number
  readonly problems: string[] = []
  #hopping: NodeJS.Timeout[] = []

  constructor(urls: readonly string[], random: Random, patience: number, withGroups: boolean) {
    this.publishers = [0, 1, 2].map((i) => new Publisher(`p${i}`, urls, random))
    this.subscribers = Object.entries(filters).map(
      ([name, filter]) => new Subscriber(name, filter, urls, random),
    )
    this.groups = new Map(withGroups ? membersOf(urls, random) : [])
    this.#patienceMs = patience
  }

  get all(): readonly (Publisher | Subscriber)[] {
    return [...this.publishers, ...this.subscribers, ...this.members]
  }

  get members(): readonly Subscriber[] {
    return [...this.groups.values()].flat()
  }

  /** Those whose connections end only when a node does. */
  get steady(): readonly (Publisher | Subscriber)[] {
    const stay = [...this.groups.values()].map((members) => members.at(-1)!)
    return [...this.publishers, ...this.subscribers.filter(({ clientId }) => !hoppers.has(clientId)), ...stay]
  }

  get acknowledged(): number {
    return this.publishers.reduce((sum, { acknowledged }) => sum + acknowledged.size, 0)
  }

  async start(): Promise<void> {
    const all = [...this.subscribers, ...this.members]
    for (const subscriber of all) subscriber.start()
    if (!(await until(this.#patienceMs, () => all.every(({ subscribed }) => subscribed))))
      this.problems.push('not everybody could subscribe')
    for (const publisher of this.publishers) publisher.start()
    const hop = (name: string) => (): void =>
      this.subscribers.find(({ clientId }) => clientId === name)!.hop()
    this.#hopping = [...hoppers].map(([name, ms]) => setInterval(hop(name), ms))
    // of each group the last one stays, so that it goes on while the others are on their way
    for (const members of this.groups.values())
      for (const [i, member] of members.slice(0, -1).entries())
        this.#hopping.push(setInterval(() => member.hop(), 900 + 400 * i))
  }

  /** Nobody begins anything; resolves to the book when all that is under way has come, or will not. */
  async finish(): Promise<Book> {
    for (const timer of this.#hopping) clearInterval(timer)
    for (const publisher of this.publishers) publisher.finish()
    if (!(await until(this.#patienceMs, () => this.publishers.every(({ open }) => open === 0))))
      this.problems.push(
        `publishes never completed: ${this.publishers.map(({ clientId, open }) => `${clientId} ${open}`).join(', ')}`,
      )
    const book = {
      sent: this.publishers.flatMap(({ sent }) => sent),
      acknowledged: new Set(this.publishers.flatMap(({ acknowledged }) => [...acknowledged])),
      received: new Map([
        ...this.subscribers.map(({ clientId, received }) => [clientId, received] as const),
        ...[...this.groups].map(
          ([name, members]) => [name, members.flatMap(({ received }) => received)] as const,
        ),
      ]),
      wants: (subscriber: string, topic: string) => wanted[subscriber]?.test(topic) ?? true,
      groups: grants,
    }
    const received = (): Book => ({
      ...book,
      received: new Map([
        ...book.received,
        ...[...this.groups].map(
          ([name, members]) => [name, members.flatMap(({ received }) => received)] as const,
        ),
      ]),
    })
    await until(this.#patienceMs, () => !check(received()).some((problem) => problem.includes('never got')))
    await pause(300) // what comes twice may come late
    return received()
  }

  stop(): void {
    for (const timer of this.#hopping) clearInterval(timer)
    for (const client of this.all) client.stop()
  }
}

export async function runRound({
  seconds,
  nodes,
  seed,
  store,
  system = 'ours',
  faults: withFaults = true,
}: RoundOptions): Promise<RoundResult> {
  const random = seededRandom(seed)
  const problems: string[] = []
  const faults: string[] = []
  let begun = Date.now()
  const note = (what: string): void => {
    faults.push(`${((Date.now() - begun) / 1_000).toFixed(1)} s ${what}`)
  }
  await using redis = await stores[store]()
  await using cluster =
    system === 'stock'
      ? await startStock(nodes, redis, (reason) => problems.push(`died by itself: ${reason}`))
      : await startCluster({
          nodes,
          redis,
          argv: ['--lease-ms', '3000', '--log-level', 'info', ...storeArguments(redis)],
        })
  const crowd = new Crowd(
    cluster.nodes.map(({ url }) => url),
    random,
    patienceMs[system],
    system === 'ours',
  )
  try {
    await crowd.start()
    begun = Date.now()
    while (Date.now() - begun < seconds * 1_000) {
      await pause(300 + random.below(1_500))
      if (withFaults) await fault({ nodes: cluster.nodes, redis }, random, faults.length === 0, note)
    }
    const before = crowd.acknowledged
    await pause(1_000) // the cluster as the last fault left it, under traffic
    await until(patienceMs[system], () => crowd.acknowledged >= before + afterwards)
    const book = await crowd.finish()
    problems.push(...crowd.problems, ...crowd.all.flatMap((client) => client.problems), ...check(book))
    crowd.stop()
    if (system === 'ours') problems.push(...(await leftOver(redis.url, cluster.nodes)))
    return {
      seed,
      sent: book.sent.length,
      acknowledged: book.acknowledged.size,
      received: crowd.subscribers.reduce((sum, { received }) => sum + received.length, 0),
      connects: crowd.all.reduce((sum, { connects }) => sum + connects, 0),
      faults,
      problems,
    }
  } finally {
    crowd.stop()
  }
}

const storeArguments = (store: TestStore): string[] =>
  store instanceof StateFile
    ? ['--state-file', store.path]
    : ['--durability-replicas', store instanceof Replicated ? '1' : '0']

/** Keys that belong to nobody, and nodes that died by themselves. */
export async function leftOver(url: string, nodes: readonly LedgerNode[]): Promise<string[]> {
  let left: string[] = []
  const clean =
    url === '' || (await until(patienceMs.ours, async () => (left = await orphans(url, 'test')).length === 0))
  return [
    ...(clean ? [] : left.map((line) => `left over: ${line}`)),
    ...nodes
      .filter(({ running }) => !running)
      .map(({ id, log }) => `node ${id} died by itself: ${log.slice(-2_000)}`),
  ]
}
