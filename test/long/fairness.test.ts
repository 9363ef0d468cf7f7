// The attacks of test/fault/fairness.test.ts with about what a socket carries in ten seconds; prints how long
// a healthy client's pings took (budget of P12: 200 ms on a machine that has time for it).
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
