// Nodes that stand still for long: their sessions live on elsewhere, publishers elsewhere go on, and what
// wakes up is fenced, harms nothing and has the table of everyone.
import { readFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { startCluster, type TestCluster, type TestNode } from '../support/cluster.ts'
import { orphans } from '../support/orphans.ts'
import { seededRandom } from '../support/random.ts'
import { Publisher, Subscriber } from '../fault/ledger/clients.ts'
import { check } from '../fault/ledger/ledger.ts'

const patience = { timeout: 60_000, interval: 100 }
const memory = (node: TestNode): number =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${node.pid}/status`, 'utf8'))![1]) / 1024
const metric = async (node: TestNode, pattern: RegExp): Promise<number> =>
  Number(pattern.exec((await node.admin('/metrics')).body)?.[1] ?? 0)
/** The routing tables without what differs by node: its own id. */
const tables = (cluster: TestCluster): Promise<string[]> =>
  Promise.all(cluster.nodes.map((node) => node.routes()))

test('a node paused for 30 s whose sessions moved: nothing lost, QoS 2 once, and awake it takes nothing back', async () => {
  const random = seededRandom()
  await using cluster = await startCluster({ nodes: 3, argv: ['--lease-ms', '3000'] })
  const urls = cluster.nodes.map(({ url }) => url)
  const publishers = ['p0', 'p1'].map(
    (clientId, i) => new Publisher(clientId, i === 0 ? urls : urls.slice(0, 2), random),
  )
  const subscribers = ['s0', 's1', 's2'].map((clientId) => new Subscriber(clientId, 'ledger/#', urls, random))
  for (const client of subscribers) client.start()
  await expect.poll(() => subscribers.every(({ subscribed }) => subscribed), patience).toBe(true)
  for (const publisher of publishers) {
    publisher.paceMs = 10
    publisher.start()
  }
  await expect.poll(() => subscribers.every(({ received }) => received.length > 500), patience).toBe(true)
  cluster.node(2).pause()
  // those that were there would not notice for a while
  for (const client of [...subscribers, ...publishers]) client.hop()
  await pause(30_000)
  const connects = (): number[] => subscribers.map((client) => client.connects)
  await expect.poll(() => subscribers.every(({ connected }) => connected), patience).toBe(true)
  const before = connects()
  cluster.node(2).resume()
  await expect.poll(async () => (await cluster.node(2).admin('/readyz')).status, patience).toBe(200)
  await pause(3_000)
  expect(connects(), 'connections that a node which wakes up took away').toEqual(before)
  for (const client of subscribers) client.hop()
  await pause(1_000)
  for (const publisher of publishers) publisher.finish()
  await expect.poll(() => publishers.map(({ open }) => open), patience).toEqual([0, 0])
  const book = {
    sent: publishers.flatMap(({ sent }) => sent),
    acknowledged: new Set(publishers.flatMap(({ acknowledged }) => [...acknowledged])),
    received: new Map(subscribers.map(({ clientId, received }) => [clientId, received])),
    wants: () => true,
  }
  await expect.poll(() => check(book).slice(0, 10), patience).toEqual([])
  console.log(`SEED=${random.seed}: ${book.acknowledged.size} acknowledged`)
  for (const client of [...subscribers, ...publishers]) client.stop()
  await expect.poll(() => orphans(cluster.redis.url, 'test'), patience).toEqual([])
}, 180_000)

test('a node frozen for 20 s under a flood: publishers elsewhere wait for it once, memory is bounded, drops are counted', async () => {
  await using cluster = await startCluster({ nodes: 3 })
  const victim = cluster.node(2)
  const doomed = await victim.connect('doomed')
  await doomed.subscribe('flood/#')
  const healthy = await cluster.node(1).connect('healthy')
  await healthy.subscribe('calm/#')
  const publishers = await Promise.all([0, 1].map((i) => cluster.node(i).connect(`publisher-${i}`)))
  const ticker = await cluster.node(0).connect('ticker')
  const before = cluster.nodes.map(memory)
  const payload = Buffer.alloc(4_096, 'x')
  victim.pause()
  const end = performance.now() + 20_000
  let [longest, sent] = [0, 0]
  const flood = async (client: typeof doomed): Promise<void> => {
    while (performance.now() < end) {
      const start = performance.now()
      for (let n = 0; n < 100; n++) void client.publish('flood/0', payload, { qos: 0 })
      await Promise.all(Array.from({ length: 100 }, () => client.publish('flood/1', payload)))
      longest = Math.max(longest, performance.now() - start)
      sent += 200
    }
  }
  const flooding = Promise.all(publishers.map(flood))
  const ticking = setInterval(
    () => void ticker.publish('flood/0', 'also while the flood waits', { qos: 0 }),
    20,
  )
  let calm = 0
  while (performance.now() < end) {
    await cluster.node(0).publish('calm/x', `${calm}`)
    await healthy.receives([{ topic: 'calm/x', payload: `${calm++}` }])
  }
  await flooding
  clearInterval(ticking)
  const grown = cluster.nodes.slice(0, 2).map((node, i) => memory(node) - before[i]!)
  const shed = await Promise.all(
    cluster.nodes
      .slice(0, 2)
      .map((node) => metric(node, /^aedes_cluster_messages_dropped_total\{cause="slow-node"[^}]*\} (\d+)/m)),
  )
  console.log(
    `${sent} published; the longest wait for 100 acknowledgements ${longest.toFixed(0)} ms; memory grew by ${grown.map((mib) => mib.toFixed(0)).join(' and ')} MiB; QoS 0 shed: ${shed.join(' and ')}; ${calm} calm messages meanwhile`,
  )
  expect(shed.reduce((a, b) => a + b)).toBeGreaterThan(0)
  for (const mib of grown) expect(mib).toBeLessThan(100)
  const closed = doomed.closed()
  victim.resume()
  await closed
  await expect.poll(async () => (await victim.admin('/readyz')).status, patience).toBe(200)
  await expect.poll(async () => new Set(await tables(cluster)).size, patience).toBe(1)
}, 180_000)

test.each([
  ['declared dead meanwhile', 3_000],
  ['alive by its lease, behind a trimmed journal', 120_000],
])(
  'a node paused for a minute, %s, ends with the table of everyone',
  async (_name, leaseMs) => {
    await using cluster = await startCluster({ nodes: 3, argv: ['--lease-ms', `${leaseMs}`] })
    const subscribers = await Promise.all([0, 1].map((i) => cluster.node(i).connect(`s${i}`)))
    const sleeping = await cluster.node(2).connect('sleeping')
    await sleeping.subscribe('sleeping/+')
    await Promise.all(subscribers.map((client, i) => client.subscribe(`before/${i}/+`)))
    cluster.node(2).pause()
    const minute = pause(60_000)
    await Promise.all(
      subscribers.map(async (client, i) => {
        await client.unsubscribe(`before/${i}/+`)
        for (let n = 0; n < 6_000; n++)
          await (n % 2 === 0
            ? client.subscribe(`meanwhile/${i}/${n % 100}/+`)
            : client.unsubscribe(`meanwhile/${i}/${(n * 7) % 100}/+`))
      }),
    )
    await minute
    cluster.node(2).resume()
    await expect.poll(async () => new Set(await tables(cluster)).size, patience).toBe(1)
    const [table] = await tables(cluster)
    expect(table).not.toContain('before/')
    expect(table!.includes('sleeping/+')).toBe(leaseMs > 60_000)
  },
  240_000,
)
