// Whatever one client sends, the others are served meanwhile (P12), at the attacker's own node and at the
// other one. Counted are the pings of a healthy client, one after the other, that are answered while the
// attacker's work lasts: a node that does it in one breath answers one or two. `test/long/fairness.test.ts`
// does the same with all that a socket carries, and prints how long a ping took.
import { afterAll, beforeAll, test } from 'vitest'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { attacks } from '../support/attacks.ts'

let cluster: TestCluster
beforeAll(async () => {
  cluster = await startCluster({ nodes: 2 })
})
afterAll(async () => {
  await cluster[Symbol.asyncDispose]()
})

test.each(Object.entries(attacks))('pings are answered during: %s', async (_about, attack) => {
  await attack(cluster, 0.5)
})
