// The attacks of test/fault/fairness.test.ts with about what a socket carries in ten seconds, and larger ones. A
// ping of a healthy client waits for less than 200 ms of its node's work (P12), whatever else the machine does;
// prints how long it took by the clock, too.
import { afterAll, beforeAll, test } from 'vitest'
import { attacks, largeAttacks } from '../support/attacks.ts'
import { startCluster, type TestCluster } from '../support/cluster.ts'

let cluster: TestCluster
beforeAll(async () => {
  cluster = await startCluster({ nodes: 2 })
})
afterAll(async () => {
  await cluster[Symbol.asyncDispose]()
})

test.each(Object.entries({ ...attacks, ...largeAttacks }))(
  'pings are answered during: %s, at length',
  async (_about, attack) => {
    await attack(cluster, 4)
  },
  300_000,
)
