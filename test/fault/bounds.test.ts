// P9, everything is bounded, also in bytes: what clients make a node keep, and the other nodes, is measured behind a collection.
import { expect, test } from 'vitest'
import { startCluster, type TestNode } from '../support/cluster.ts'
import { WireClient } from '../support/wire.ts'

const mib = 1_048_576
const held = (nodes: readonly TestNode[]): Promise<number[]> => Promise.all(nodes.map((node) => node.heldBytes()))
const refusals = async (node: TestNode, cause: string): Promise<number> =>
  Number(new RegExp(`^aedes_cluster_refusals_total\\{cause="${cause}"\\} (\\d+)`, 'm').exec((await node.admin('/metrics')).body)?.[1] ?? NaN)

/** Subscribes to `count` filters of 80 levels; resolves to how many were granted. */
async function subscribeDeep(client: WireClient, name: string, count: number): Promise<number> {
  let granted = 0
  for (let from = 0; from < count; from += 2_000) {
    const topics = Array.from({ length: 2_000 }, (_, n) => `+/${name}/${from + n}${'/abc'.repeat(77)}`)
    client.send({ cmd: 'subscribe', messageId: 1, subscriptions: topics.map((topic) => ({ topic, qos: 1 as const, nl: false, rap: false, rh: 2 as const })) })
    for (const code of (await client.next('suback')).granted as number[]) {
      if (code === 1) granted++
      else expect(code).toBe(0x97)
    }
  }
  return granted
}

test('deep filters: what one client, and all clients, may cost a node and the others', async () => {
  await using cluster = await startCluster({ nodes: 2, argv: ['--subscription-bytes-max', `${12 * mib}`, '--routing-bytes-max', `${20 * mib}`] })
  const [here, there] = [cluster.node(0), cluster.node(1)]
  const before = await held(cluster.nodes)
  await using greedy = await WireClient.connect(here.url, 'greedy')
  expect(await subscribeDeep(greedy, 'one', 4_000)).toBeLessThan(2_000)
  expect(await refusals(here, 'subscription-bytes')).toBeGreaterThan(2_000)
  for (const [i, bytes] of (await held(cluster.nodes)).entries()) expect(bytes - before[i]!).toBeLessThan(18 * mib)
  await using second = await WireClient.connect(here.url, 'second')
  await subscribeDeep(second, 'two', 2_000)
  expect(await refusals(here, 'routing-bytes')).toBeGreaterThan(0)
  await using third = await WireClient.connect(there.url, 'third') // its node has the routes of the others
  expect(await subscribeDeep(third, 'three', 4_000)).toBeLessThan(2_000)
  expect(await refusals(there, 'routing-bytes')).toBeGreaterThan(0)
  for (const [i, bytes] of (await held(cluster.nodes)).entries()) expect(bytes - before[i]!).toBeLessThan(26 * mib)
  for (const client of [greedy, second, third]) await client[Symbol.asyncDispose]()
  await expect.poll(async () => { // what they had makes room
    await using again = await WireClient.connect(here.url, 'again')
    return subscribeDeep(again, 'four', 2_000)
  }).toBeGreaterThan(500)
})
