// Five minutes of random damage to what two live nodes have in Redis, with clients, members of a group, users and bans: any key, damaged
// in any way, again and again. No node ends, and none hangs: once the damage stops, what is acknowledged from
// then on arrives at every subscriber that is still connected, and new ones are served. FUZZ_SECONDS says how
// long, SEED which.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { damages, type Damage } from '../support/damage.ts'
import { seededRandom } from '../support/random.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { openClient } from '../bridge/planes.ts'

const seconds = Number(process.env.FUZZ_SECONDS ?? 300)
let redis: TestRedis
let cluster: TestCluster
beforeAll(async () => {
  redis = await startRedis()
  cluster = await startCluster({
    nodes: 2,
    redis,
    argv: ['--lease-ms', '3000', '--stored-users', 'on', '--authentication', 'stored-users,anonymous'],
  })
})
afterAll(async () => {
  await cluster[Symbol.asyncDispose]()
  await redis[Symbol.asyncDispose]()
})

test(
  'keys in Redis',
  async () => {
    const random = seededRandom()
    using client = openClient(redis)
    const persistent = { version: 5, clean: false, properties: { sessionExpiryInterval: 600 } } as const
    const subscribers = await Promise.all(
      Array.from({ length: 10 }, async (_, n) => {
        const subscriber = await cluster.node(n % 2).connect(`subscriber-${n}`, n < 5 ? persistent : {})
        await subscriber.subscribe('t/+', { qos: 1 })
        return subscriber
      }),
    )
    for (const [n, node] of cluster.nodes.entries()) {
      const member = await node.connect(`member-${n}`, n === 0 ? persistent : {})
      await member.subscribe('$share/g/t/+', { qos: 1 })
    }
    await client.hset('test:{bus}:access', 'u:ann', '$6$AAAA$AAAA', 'version', '1')
    await client.hset('test:{bus}:bans', 'c:banned', '0 reason', 'version', '1')
    const publishers = await Promise.all(cluster.nodes.map((node) => node.connect(`publisher-${node.id}`)))
    await publishers[0]!.publish('t/kept', 'kept', { retain: true })
    const kinds = Object.keys(damages) as Damage[]
    let [damaged, acknowledged] = [0, 0]
    for (const end = performance.now() + seconds * 1_000; performance.now() < end;) {
      const keys = await client.keys('test:*')
      const key = random.pick(keys)
      const type = await client.type(key)
      const damage = random.pick(kinds)
      // it may be gone, or another type by now
      await damages[damage](client, key, type).catch(() => undefined)
      damaged++
      publishers
        .filter(({ mqtt }) => mqtt.connected)
        .forEach((publisher, n) => {
          publisher.publish(`t/${n}`, 'meanwhile').then(
            () => {
              acknowledged++
            },
            () => undefined,
          ) // it may be cut off
        })
      await new Promise((resolve) => setTimeout(resolve, random.below(200)))
      for (const node of cluster.nodes)
        expect(
          node.running,
          `seed ${random.seed}: node ${node.id} after ${damage} of ${key} (${type})\n${node.log.slice(-3_000)}`,
        ).toBe(true)
    }
    console.log(
      `seed ${random.seed}: ${damaged} keys damaged, ${acknowledged} publishes acknowledged meanwhile, ${subscribers.filter(({ mqtt }) => mqtt.connected).length} of 10 subscribers still connected`,
    )
    const fresh = await Promise.all(
      cluster.nodes.map(async (node) => {
        await expect
          .poll(() => node.admin('/readyz').then(({ status }) => status), {
            timeout: 60_000,
            message: `seed ${random.seed}`,
          })
          .toBe(200)
        const subscriber = await node.connect(`fresh-${node.id}`)
        await subscriber.subscribe('t/+', { qos: 1 })
        return subscriber
      }),
    )
    const publisher = await cluster.node(0).connect('last')
    await publisher.publish('t/last', 'last')
    const connected = [...fresh, ...subscribers.filter(({ mqtt }) => mqtt.connected)]
    await Promise.all(connected.map((subscriber) => subscriber.arrives(({ topic }) => topic === 't/last')))
  },
  (seconds + 120) * 1_000,
)
