// A node that is killed or frozen harms nobody else: publishers elsewhere are held up for about two seconds
// at most, its routes go, and when a frozen node wakes up it is fenced and starts again. All on real
// processes and signals.
import { setTimeout as pause } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { TestClient } from '../support/client.ts'
import { startCluster, type TestCluster } from '../support/cluster.ts'

/** Leaves the machine to others: what is tested is how long one waits. */
const paceMs = 3

/**
 * Publishes one QoS 1 message after the other until `isOver`; how many, and how long the slowest took, in ms.
 */
async function publishUntil(
  publisher: TestClient,
  topic: string,
  isOver: (count: number) => boolean,
): Promise<{ count: number; slowestMs: number }> {
  let [count, slowestMs] = [0, 0]
  for (; !isOver(count); count++) {
    const start = performance.now()
    await publisher.publish(topic, `${count}`, { qos: 1 })
    slowestMs = Math.max(slowestMs, performance.now() - start)
    await pause(paceMs)
  }
  return { count, slowestMs }
}

const readyAll = (cluster: TestCluster): Promise<number[]> =>
  Promise.all(cluster.nodes.map(async (node) => (await node.admin('/readyz')).status))

test.each(['killed', 'frozen'])(
  'a node that is %s while it has subscribers: publishers go on, other subscribers miss nothing',
  async (how) => {
    await using cluster = await startCluster({ nodes: 3, argv: ['--lease-ms', '3000'] })
    const victim = cluster.node(2)
    const [publisher, survivor, doomed] = [
      await cluster.node(0).connect('publisher'),
      await cluster.node(1).connect('survivor'),
      await victim.connect('doomed'),
    ]
    await survivor.subscribe('t/#', { qos: 1 })
    await doomed.subscribe('t/#', { qos: 1 })
    await publishUntil(publisher, 't/x', (count) => count === 50)
    if (how === 'killed') await victim.kill()
    else victim.pause()
    let over = false // another node has declared it dead, or never will
    const buried = expect
      .poll(async () => (await cluster.node(0).admin('/metrics')).body, { interval: 100 })
      .toMatch(/^aedes_cluster_nodes 2$/m)
      .finally(() => {
        over = true
      })
    const [silent] = await Promise.all([publishUntil(publisher, 't/x', () => over), buried])
    const behind = await publishUntil(publisher, 't/x', (count) => count === 100)
    console.log(
      `slowest acknowledgement with a ${how} node: ${Math.max(silent.slowestMs, behind.slowestMs).toFixed(0)} ms, ${silent.count} until it was declared dead`,
    )
    await survivor.receives(
      [50, silent.count, 100].flatMap((count) =>
        Array.from({ length: count }, (_, n) => ({ topic: 't/x', payload: `${n}` })),
      ),
    )
    if (how === 'killed') return
    // Awake, it must notice, close its connections and serve anew.
    const closed = doomed.closed()
    victim.resume()
    await closed
    await expect.poll(() => readyAll(cluster), { timeout: 20_000 }).toEqual([200, 200, 200])
    const back = await victim.connect('back')
    await back.subscribe('t/#', { qos: 1 })
    await publisher.publish('t/y', 'again')
    await back.receives([{ topic: 't/y', payload: 'again' }])
    await survivor.receives([{ topic: 't/y', payload: 'again' }])
  },
)

test('a node that joins late, is restarted or was frozen for less than its lease has the same table as everyone', async () => {
  await using cluster = await startCluster({ nodes: 3 })
  const subscribers = await Promise.all(cluster.nodes.slice(0, 2).map((node, i) => node.connect(`s${i}`)))
  for (const [i, subscriber] of subscribers.entries())
    for (let n = 0; n < 50; n++) await subscriber.subscribe(`table/${i}/${n}/+`)
  cluster.node(1).pause()
  await subscribers[0]!.unsubscribe('table/0/0/+')
  await subscribers[0]!.subscribe('table/0/new')
  await cluster.node(2).restart()
  cluster.node(1).resume()
  await expect
    .poll(async () => new Set(await Promise.all(cluster.nodes.map((node) => node.routes()))).size, {
      timeout: 20_000,
    })
    .toBe(1)
  const routes = await cluster.node(2).routes()
  for (const filter of ['table/0/new', 'table/0/49/+', 'table/1/0/+']) expect(routes).toContain(`"${filter}"`)
  expect(routes).not.toContain('"table/0/0/+"')
})

test('two live nodes of one name: the second is refused with a clear error', async () => {
  await using cluster = await startCluster({ nodes: 1 })
  await expect(startCluster({ nodes: 1, redis: cluster.redis })).rejects.toThrow(/--id=a: .*live/)
})
