// A node is killed at every named point: before and after each script that it sends to Redis, while clients
// publish, receive, move, come and go. Whoever was connected goes on at another node, and every promise
// holds: acknowledged messages are there, QoS 2 once, in order; a will is published once; a Retained Message
// that was acknowledged is there; and no key is left over.
import type { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import { Keys } from '../../bridge/redis/keys.ts'
import type { ScriptName } from '../../bridge/redis/scripts.ts'
import { openClient } from '../bridge/planes.ts'
import { TestClient } from '../support/client.ts'
import { startCluster, type TestCluster, type TestNode } from '../support/cluster.ts'
import type { FaultPoint } from '../support/inside.ts'
import { orphans } from '../support/orphans.ts'
import { startRedis } from '../support/redis.ts'
import { plantGroups, plantSessions } from '../support/sessions.ts'
import { WireClient } from '../support/wire.ts'
import { seededRandom, type Random } from '../support/random.ts'
import { Publisher, Subscriber, Watcher } from './ledger/clients.ts'
import { check, type Book } from './ledger/ledger.ts'

const nowhere: FaultPoint = { script: '', when: 'before' }

/**
 * Which node comes to a point: any, one that starts or else who buries its last boot first, or the one that
 * looks for what is due.
 */
type Where = 'any' | 'start' | 'sweeper'
const where: Record<
  Exclude<
    ScriptName,
    | 'session-adopt'
    | 'session-assert'
    | 'node-rejoin'
    | 'probe'
    | 'rights'
    | 'key-aside'
    | 'will-hold'
    | 'bans-change'
    | 'bans-read'
    | 'access-change'
    | 'session-read'
    | 'group-read'
    | 'orphan-remove'
    | 'orphan-client'
  >,
  Where
> = {
  // those: import.test.ts, below, damage.test.ts, bridge/sessions.test.ts; `probe`, `rights`, `session-read` and `group-read` change nothing;
  // cluster/bans.test.ts, cluster/access.test.ts, cluster/backup.test.ts
  'node-join': 'start',
  'inbox-create': 'start',
  'node-remove': 'start',
  'inbox-fence': 'start',
  'inbox-seal': 'start',
  'node-renew': 'any',
  'journal-append': 'any',
  'journal-mend': 'start',
  'inbox-append': 'any',
  'inbox-trim': 'any',
  'retained-store': 'any',
  'retained-read': 'any',
  'retained-expire': 'sweeper',
  'queue-append': 'any',
  'session-claim': 'any',
  'session-farewell': 'any',
  'session-release': 'any',
  'session-subscribe': 'any',
  'session-serve': 'any',
  'session-check': 'any',
  'group-serve': 'any',
  'session-expire': 'sweeper',
  'due-list': 'sweeper',
  'will-take': 'any',
  'will-done': 'any',
}
const all = Object.entries(where).flatMap(([script, at]) =>
  (['before', 'after'] as const).map((when) => ({ script, when, at })),
)

/** The normal suite takes four of them, others each time; test/long/points.test.ts takes all. */
const some = 4
function pointsOf(random: Random): typeof all {
  const asked = process.env.TEST_POINTS // or the name of a script
  if (asked === 'all') return all
  if (asked !== undefined) return all.filter(({ script }) => script === asked)
  return all
    .map((point) => ({ point, order: random.below(1e9) }))
    .sort((a, b) => a.order - b.order)
    .slice(0, some)
    .map(({ point }) => point)
}

/** Visitors come one after the other, not as fast as they can: what is tested is the points. */
const paceMs = 100
const patience = { timeout: 30_000, interval: 100 }

/**
 * Clients with a will that come, subscribe, publish a Retained Message and are cut off, or say good-bye,
 * every third; their session ends a second later.
 */
class Visitors {
  readonly #cluster: TestCluster
  readonly #random: Random
  #going = true
  #count = 0
  /**
   * Whose CONNACK came and who are cut off: their wills are due. Topics whose Retained Message was
   * acknowledged.
   */
  readonly connected: string[] = []
  readonly stored: string[] = []
  readonly done: Promise<unknown>

  constructor(cluster: TestCluster, random: Random) {
    this.#cluster = cluster
    this.#random = random
    this.done = Promise.all(
      [0, 1].map(async () => {
        while (this.#going) await this.#visit()
      }),
    )
  }

  async #visit(): Promise<void> {
    const name = `visitor-${++this.#count}`
    const client = new TestClient(this.#random.pick(this.#cluster.nodes).url, name, {
      version: 5,
      clean: false,
      connectTimeout: 2_000,
      properties: { sessionExpiryInterval: 1 },
      will: { topic: `wills/${name}`, payload: Buffer.from(name), qos: 2, retain: false },
    })
    const isPolite = this.#count % 3 === 0
    client.mqtt.on('connect', () => {
      if (!isPolite) this.connected.push(name)
    })
    const stay = (async () => {
      await new Promise((resolve) => client.mqtt.once('connect', resolve))
      await client.subscribe(`nobody/${name}`)
      await client.publish(`kept/${name}`, name, { retain: true })
      this.stored.push(`kept/${name}`)
      await client.subscribe(`kept/${name}`)
      await client.publish(`brief/${name}`, name, { retain: true, properties: { messageExpiryInterval: 1 } })
    })()
    stay.catch(() => undefined) // the node died meanwhile
    await Promise.race([stay.catch(() => undefined), client.closed()])
    if (isPolite) await Promise.race([client.disconnect(), client.closed()])
    else await client.drop()
    await client[Symbol.asyncDispose]()
    await new Promise((resolve) => setTimeout(resolve, paceMs))
  }

  async finish(): Promise<void> {
    this.#going = false
    await this.done
  }
}

async function killed(
  { at, ...point }: FaultPoint & { at: Where },
  cluster: TestCluster,
  random: Random,
): Promise<void> {
  const armed: TestNode[] = []
  if (at === 'start') {
    const node = random.pick(cluster.nodes)
    await node.kill()
    armed.push(...cluster.nodes)
    for (const other of armed) if (other !== node) other.dieAt(point)
    await node.start(point).catch(() => undefined)
  } else {
    armed.push(...cluster.nodes)
    // one node or more, so that others die at the same time, too
    if (at === 'any') armed.splice(0, random.below(armed.length))
    for (const node of armed) node.dieAt(point)
  }
  await Promise.any(armed.map((node) => node.ended()))
  // Who answers a later message is disarmed; who came to the point before that is dead, and is started again
  // with the others.
  await Promise.all(
    armed.map(async (node) => {
      if (!node.running) return
      node.dieAt(nowhere)
      await Promise.race([node.heldBytes(), node.ended()])
    }),
  )
  for (const node of cluster.nodes) if (!node.running) await node.start()
}

test('a node is killed before and after every script, and every promise holds', async () => {
  const random = seededRandom()
  const points = pointsOf(random)
  await using cluster = await startCluster({ nodes: 3, argv: ['--lease-ms', '3000'] })
  const urls = cluster.nodes.map(({ url }) => url)
  const publishers = ['p0', 'p1'].map((clientId) => new Publisher(clientId, urls, random))
  const subscribers = { exact: 'ledger/p0/1', all: 'ledger/#', hopper: 'ledger/#', wills: 'wills/#' }
  const clients = Object.entries(subscribers).map(
    ([name, filter]) => new Subscriber(name, filter, urls, random),
  )
  const members = ['m0', 'm1'].map((name) => new Subscriber(name, '$share/g/ledger/#', urls, random))
  const watchers = urls.map((url, i) => new Watcher(`watcher-${i}`, 'ledger/+/0', [url], random))
  for (const client of [...clients, ...members, ...watchers]) client.start()
  await expect
    .poll(() => [...clients, ...members].filter(({ subscribed }) => !subscribed), patience)
    .toEqual([])
  for (const publisher of publishers) {
    publisher.paceMs = 200
    publisher.start()
  }
  const visitors = new Visitors(cluster, random)
  const restless = setInterval(() => [clients[2]!, members[0]!].forEach((client) => client.hop()), 500)
  for (const point of points) {
    let late: NodeJS.Timeout | undefined
    const never = new Promise<never>((_, reject) => {
      late = setTimeout(
        () =>
          reject(new Error(`no node came to the point ${point.when} ${point.script} (SEED=${random.seed})`)),
        patience.timeout,
      )
    })
    await Promise.race([killed(point, cluster, random), never])
    clearTimeout(late)
  }
  clearInterval(restless)
  await visitors.finish()
  for (const publisher of publishers) publisher.finish()
  await expect.poll(() => publishers.map(({ open }) => open), patience).toEqual([0, 0])

  const book = (): Book => ({
    sent: publishers.flatMap(({ sent }) => sent),
    acknowledged: new Set(publishers.flatMap(({ acknowledged }) => [...acknowledged])),
    received: new Map<string, readonly string[]>([
      ...clients
        .filter(({ clientId }) => clientId !== 'wills')
        .map(({ clientId, received }) => [clientId, received] as const),
      ['group', members.flatMap(({ received }) => received)],
    ]),
    groups: new Map([['group', 2]]),
    wants: (subscriber: string, topic: string) => (subscriber === 'exact' ? topic === 'ledger/p0/1' : true),
  })
  const wills = clients.at(-1)!.received
  await expect
    .poll(() => check(book()).filter((problem) => problem.includes('never got')), patience)
    .toEqual([])
  await expect.poll(() => visitors.connected.filter((name) => !wills.includes(name)), patience).toEqual([])
  expect(check(book()).slice(0, 20), `SEED=${random.seed}`).toEqual([])
  expect(
    wills.filter((name, i) => wills.indexOf(name) !== i),
    `wills published twice, SEED=${random.seed}`,
  ).toEqual([])
  expect([...clients, ...members, ...publishers].flatMap(({ problems }) => problems)).toEqual([])
  await using reader = await cluster.node(0).connect('reader')
  await reader.subscribe('kept/#')
  await expect
    .poll(() => {
      const got = new Set(reader.packets.map(({ topic }) => topic))
      return visitors.stored.filter((topic) => !got.has(topic))
    }, patience)
    .toEqual([])
  console.log(
    `SEED=${random.seed}: ${points.length} points; ${book().acknowledged.size} acknowledged of ${book().sent.length}, ${visitors.connected.length} visitors, ${visitors.stored.length} retained`,
  )
  for (const client of [...clients, ...members, ...publishers, ...watchers]) client.stop()
  await expect.poll(() => orphans(cluster.redis.url, 'test'), patience).toEqual([])
}, 240_000)

const flushed = (['node-rejoin', 'session-assert'] as const).flatMap((script) =>
  (['before', 'after'] as const).map((when) => [when, script] as const),
)
const turn = seededRandom().below(2)

// Two of them in the normal suite, one of each script.
test.concurrent.for(
  flushed.filter((_, i) => process.env.TEST_POINTS === 'all' || i % 2 === (i < 2 ? turn : 1 - turn)),
)(
  'Redis is flushed, and a node is killed %s %s: the others go on, and so does it when it is back',
  async ([when, script], { expect }) => {
    await using cluster = await startCluster({ nodes: 2, argv: ['--lease-ms', '3000'] })
    using admin = openClient(cluster.redis)
    const [a, b] = [cluster.node(0), cluster.node(1)]
    const there = await b.connect('there', { clean: false })
    await there.subscribe('t')
    const here = await a.connect('here', { clean: false })
    await here.subscribe('t')
    a.dieAt({ script, when })
    await admin.flushall()
    await a.ended()
    await b.publish('t', 'while it is dead')
    await there.receives([{ topic: 't', payload: 'while it is dead' }])
    await a.start()
    const again = await b.connect('here', { clean: false })
    await again.subscribe('t')
    again.takeAll() // whether its session was written down again before the node died is open
    await a.publish('t', 'both')
    await there.receives([{ topic: 't', payload: 'both' }])
    await again.arrives(({ payload }) => payload.toString() === 'both')
    await Promise.all([there, again].map((client) => client.disconnect()))
    await expect.poll(() => orphans(cluster.redis.url, 'test'), patience).toEqual([])
  },
)

/** The three calls that a message to so many sessions, or groups, of one partition takes. */
const many = 2_500
const callsOf = (script: ScriptName): FaultPoint[] =>
  [1, 2, 3].flatMap((time) => (['before', 'after'] as const).map((when) => ({ script, when, time })))

/** The normal suite takes one of them, another each time; test/long/points.test.ts each after each. */
function rowsOf(script: ScriptName, random: Random): FaultPoint[][] {
  const calls = callsOf(script)
  return process.env.TEST_POINTS === 'all'
    ? calls.flatMap((first) => calls.map((second) => [first, second]))
    : [[random.pick(calls)]]
}

const inOnePartition = new Keys('test', 1)
const plantMany = async (admin: Redis): Promise<string[]> =>
  (await plantSessions(admin, inOnePartition, 0, many, 'parts/#', { options: 2 })).map((sid) =>
    inOnePartition.session(sid, 'queue'),
  )
const plantManyGroups = async (admin: Redis): Promise<string[]> => {
  const names = Array.from({ length: many }, (_, n) => `$share/${n}/parts/#`)
  return (await plantGroups(admin, inOnePartition, 0, names)).map((gid) =>
    inOnePartition.group(gid, 'backlog'),
  )
}

test.each([
  ['sessions', 'queue-append', plantMany] as const,
  // only there: bridge/groups.test.ts has two nodes that write one at once
  ...(process.env.TEST_POINTS === 'all' ? [['groups', 'group-serve', plantManyGroups] as const] : []),
])(
  'a node is killed between two parts of a QoS 2 message to very many %s: each gets it once, in order',
  async (_who, script, plant) => {
    const random = seededRandom()
    await using redis = await startRedis()
    using admin = openClient(redis)
    const lists = await plant(admin)
    await using cluster = await startCluster({ nodes: 2, redis, argv: ['--lease-ms', '3000'] })
    let n = 0
    /** False: the node died before it acknowledged. */
    const publish = async (node: TestNode, dup: boolean): Promise<boolean> => {
      const publisher = await WireClient.connect(node.url, 'publisher', { clean: false, version: 4 })
      const payload = `<${n}>`
      publisher.send({ cmd: 'publish', topic: 'parts/x', payload, qos: 2, messageId: 1, dup, retain: false })
      await Promise.race([publisher.next('pubrec'), publisher.closed]).catch(() => undefined)
      if (publisher.isClosed) return false
      publisher.send({ cmd: 'pubrel', messageId: 1 })
      await publisher.next('pubcomp')
      publisher.socket.destroy()
      await publisher.closed
      return true
    }
    for (const row of rowsOf(script, random)) {
      n++
      for (const [i, point] of [...row, nowhere].entries()) {
        const node = cluster.node(i % 2)
        if (!node.running) await node.start()
        node.dieAt(point)
        await node.setClock(0) // it has heard of the point
        if (await publish(node, i > 0)) continue // also when fewer parts were left than the point wants
        expect(point, `SEED=${random.seed}`).not.toBe(nowhere)
        await node.ended()
      }
    }
    const queues = await Promise.all(lists.map((key) => admin.lrange(key, 0, -1)))
    const wrong = queues.map((queue) => queue.map((text) => Number(/<(\d+)>/.exec(text)![1])).join())
    const all = Array.from({ length: n }, (_, i) => i + 1).join()
    expect(wrong.filter((got) => got !== all).slice(0, 5), `SEED=${random.seed}`).toEqual([])
  },
  400_000,
)

/** Of the estate of a dead node, in their order. */
const estate = (['inbox-seal', 'inbox-append'] as const).flatMap((script) =>
  (['before', 'after'] as const).map((when): FaultPoint => ({ script, when })),
)

// One of them in the normal suite, another each time; all of them with TEST_POINTS=all.
test('a node dies over the inbox of a dead one: what that had not read for members of a group comes to a member elsewhere', async () => {
  const random = seededRandom()
  await using cluster = await startCluster({ nodes: 2, argv: ['--lease-ms', '3000'] })
  const [a, b] = [cluster.node(0), cluster.node(1)]
  const here = await a.connect('here')
  await here.subscribe('$share/g/t', { qos: 1 })
  for (const [i, point] of (process.env.TEST_POINTS === 'all' ? estate : [random.pick(estate)]).entries()) {
    const there = await b.connect(`there-${i}`)
    await there.subscribe('$share/g/t', { qos: 1 })
    b.pause()
    const all = Array.from({ length: 6 }, (_, n) => `${i} ${n}`)
    for (const payload of all) await a.publish('t', payload) // every other one stands in b's inbox
    await b.kill()
    await b.start(point).catch(() => undefined) // its new boot buries the last one
    await b.ended()
    await b.start()
    await expect
      .poll(() => here.packets.map(({ payload }) => payload.toString()), patience)
      .toEqual(expect.arrayContaining(all)) // what was handed on before it died comes twice
  }
}, 60_000)
