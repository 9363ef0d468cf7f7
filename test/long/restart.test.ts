// The whole cluster is gone for a while: what was due meanwhile happens once when it is back, what was kept
// is there.
import { setTimeout as pause } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { TestClient } from '../support/client.ts'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { orphans } from '../support/orphans.ts'

const patience = { timeout: 30_000, interval: 100 }
const numbers = (count: number): number[] => Array.from({ length: count }, (_, n) => n)
const kept = (cluster: TestCluster, node: number, clientId: string): Promise<TestClient> =>
  cluster.node(node).connect(clientId, { clean: false })

interface Times {
  readonly expiry: number
  readonly delay: number
}

/**
 * A client with a will, so many seconds after its connection is gone, and a session that ends so many seconds
 * after it.
 */
async function mortal(
  cluster: TestCluster,
  node: number,
  clientId: string,
  { expiry, delay }: Times,
): Promise<TestClient> {
  const client = await cluster
    .node(node)
    .connect(clientId, {
      version: 5,
      clean: false,
      properties: { sessionExpiryInterval: expiry },
      will: {
        topic: `wills/${clientId}`,
        payload: Buffer.from(clientId),
        qos: 2,
        retain: false,
        properties: { willDelayInterval: delay },
      },
    })
  await client.subscribe(`to/${clientId}`)
  return client
}

test('every node is killed while wills and expiries are due: each will comes once, sessions that expired are gone, the others are kept', async () => {
  await using cluster = await startCluster({ nodes: 3, argv: ['--lease-ms', '3000'] })
  const watcher = await kept(cluster, 0, 'watcher')
  await watcher.subscribe('wills/#', { qos: 2 })
  await watcher.disconnect()
  const cut = await Promise.all(
    numbers(30).map((n) =>
      mortal(cluster, n % 3, `cut-${n}`, { expiry: n % 2 === 0 ? 2 : 600, delay: n % 3 }),
    ),
  ) // gone before the cluster is
  await Promise.all(
    numbers(30).map((n) =>
      mortal(cluster, n % 3, `held-${n}`, { expiry: n % 2 === 0 ? 2 : 600, delay: n % 3 }),
    ),
  ) // connected when it dies
  await Promise.all(cut.map((client) => client.drop()))
  await Promise.all(numbers(30).map((n) => cluster.node(0).publish(`to/cut-${n}`, 'kept')))
  await Promise.all(cluster.nodes.map((node) => node.kill()))
  await pause(5_000)
  await Promise.all(cluster.nodes.map((node) => node.start()))
  const back = await kept(cluster, 1, 'watcher')
  await back.arrivals(60)
  await pause(12_000) // a will that was taken by a node which died comes again after ten seconds, to nobody
  expect(back.packets.map(({ topic }) => topic).sort()).toEqual(
    numbers(30)
      .flatMap((n) => [`wills/cut-${n}`, `wills/held-${n}`])
      .sort(),
  )
  for (const [i, name] of numbers(30)
    .flatMap((n) => [`cut-${n}`, `held-${n}`])
    .entries()) {
    const expires = Number(name.split('-')[1]) % 2 === 0
    const client = await cluster
      .node(i % 3)
      .connect(name, { version: 5, clean: false, properties: { sessionExpiryInterval: 1 } })
    expect(client.sessionPresent, name).toBe(!expires)
    if (!expires && name.startsWith('cut'))
      await client.arrives(({ payload }) => payload.toString() === 'kept')
    await client.disconnect()
  }
  await expect.poll(() => orphans(cluster.redis.url, 'test'), patience).toEqual([])
}, 120_000)

test('Redis and all nodes are killed and started again: sessions, queues, what was in flight and Retained Messages are there', async () => {
  await using cluster = await startCluster({ nodes: 3, argv: ['--lease-ms', '3000'] })
  const sleepers = await Promise.all(numbers(20).map((n) => kept(cluster, n % 3, `sleeper-${n}`)))
  await Promise.all(sleepers.map((client, n) => client.subscribe([`to/${n}`, 'all/#'], { qos: 2 })))
  await Promise.all(sleepers.map((client) => client.disconnect()))
  await Promise.all(
    numbers(20).flatMap((n) => [
      cluster.node(n % 3).publish(`to/${n}`, `${n}`, { qos: 1 }),
      cluster.node(n % 3).publish(`retained/${n}`, `${n}`, { retain: true }),
    ]),
  )
  await cluster.node(0).publish('all/x', 'everybody', { qos: 2 })
  await cluster.redis.stop('SIGKILL')
  await Promise.all(cluster.nodes.map((node) => node.kill()))
  await cluster.redis.start()
  await Promise.all(cluster.nodes.map((node) => node.start()))
  for (const n of numbers(20)) {
    const client = await kept(cluster, (n + 1) % 3, `sleeper-${n}`)
    expect(client.sessionPresent).toBe(true)
    await client.arrivals(2)
    expect(client.takeAll().sort()).toEqual([`${n}`, 'everybody'].sort())
    await client.subscribe(`retained/${n}`)
    await client.receives([{ topic: `retained/${n}`, payload: `${n}`, retain: true }])
    await client.disconnect()
  }
  await expect.poll(() => orphans(cluster.redis.url, 'test'), patience).toEqual([])
}, 120_000)
