// Nothing leaks: 10,000 sessions come and go three times over, with subscriptions, queued messages, wills and
// expiries, and neither Redis nor the nodes keep anything of them.
import { expect, test } from 'vitest'
import { openClient } from '../bridge/planes.ts'
import { startCluster, type TestNode } from '../support/cluster.ts'
import { orphans } from '../support/orphans.ts'
import { seededRandom } from '../support/random.ts'

const sessions = 10_000
const atOnce = 100
const growthMiB = 5
const patience = { timeout: 60_000, interval: 250 }

const memory = async (node: TestNode): Promise<number> => (await node.heldBytes()) / 1_048_576

test('10,000 sessions come and go three times: DBSIZE, routes and memory are what they were', async () => {
  const random = seededRandom()
  await using cluster = await startCluster({ nodes: 3, argv: ['--lease-ms', '3000'] })
  using redis = openClient(cluster.redis)
  const publisher = await cluster.node(0).connect('publisher')

  const each = async (count: number, visit: (n: number) => Promise<void>): Promise<void> => {
    for (let n = 0; n < count; n += atOnce)
      await Promise.all(Array.from({ length: Math.min(atOnce, count - n) }, (_, i) => visit(n + i)))
  }
  /**
   * A third says good-bye, a third is cut off and expires, a third is cut off and comes back to begin anew.
   */
  const wave = async (count: number): Promise<void> => {
    await each(count, async (n) => {
      const will = { topic: `churn/wills/${n}`, payload: Buffer.from('gone'), qos: 1 as const, retain: false }
      const client = await random
        .pick(cluster.nodes)
        .connect(`c${n}`, {
          version: 5,
          clean: false,
          properties: { sessionExpiryInterval: n % 3 === 2 ? 600 : 1 },
          will,
        })
      await client.subscribe(`churn/${n}/+`)
      await (n % 3 === 0 ? client.disconnect() : client.drop())
    })
    await each(count, (n) => publisher.publish(`churn/${n}/x`, 'queued'))
    await each(count, async (n) => {
      if (n % 3 !== 2) return
      const client = await random.pick(cluster.nodes).connect(`c${n}`, { version: 5, clean: true })
      await client.disconnect()
    })
    await expect.poll(() => orphans(cluster.redis.url, 'test'), patience).toEqual([])
    // the publisher's
    await expect.poll(async () => (await redis.keys('test:{s*}:session:*')).length, patience).toBe(1)
    // who published a will is forgotten two leases later
    await expect.poll(async () => (await redis.keys('test:{s*}:due')).length, patience).toBe(0)
  }
  await wave(atOnce)
  const keys = await redis.dbsize()
  const used: number[][] = []
  for (let n = 0; n < 3; n++) {
    await wave(sessions)
    expect(await redis.dbsize()).toBe(keys)
    used.push(await Promise.all(cluster.nodes.map(memory)))
  }
  for (const node of cluster.nodes) expect((await node.admin('/routes')).body).not.toContain('churn/')
  console.log(
    `heaps of the nodes, MiB: ${used.map((wave) => wave.map((mib) => mib.toFixed(1)).join(' ')).join(' → ')}; ${keys} keys`,
  )
  for (const [i, mib] of used[2]!.entries()) expect(mib - used[0]![i]!).toBeLessThan(growthMiB)
}, 900_000)
