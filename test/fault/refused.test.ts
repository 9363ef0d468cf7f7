// Redis is there and takes no writes, or not all that a node does. Publishers wait, unacknowledged; log,
// metrics and /readyz say why, what to do and who waits, each cause once; when it is mended everything goes
// on, nothing is lost, and that is said too (P13).
import { mkdirSync, readFileSync, rmdirSync } from 'node:fs'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { test, type ExpectStatic } from 'vitest'
import { openClient } from '../bridge/planes.ts'
import type { TestClient } from '../support/client.ts'
import { startCluster, type TestCluster, type TestNode } from '../support/cluster.ts'

interface Cause {
  readonly code: string
  readonly says: RegExp
  readonly remedy: RegExp
  /** Another cause comes before it: of the outage the end is told by that one. */
  readonly isSecond?: true
  happen(admin: Redis, cluster: TestCluster, expect: ExpectStatic): Promise<void>
  mend(admin: Redis, cluster: TestCluster): Promise<void>
}

const config = (admin: Redis, name: string, value: string): Promise<void> =>
  admin.call('CONFIG', 'SET', name, value).then(() => undefined)
const dump = (cluster: TestCluster): string => join(cluster.redis.folder, 'dump.rdb')

const causes: readonly Cause[] = [
  {
    code: 'REDIS_NOREPLICAS',
    says: /NOREPLICAS/,
    remedy: /min-replicas-to-write/,
    happen: (admin) => config(admin, 'min-replicas-to-write', '1'),
    mend: (admin) => config(admin, 'min-replicas-to-write', '0'),
  },
  {
    code: 'REDIS_FULL',
    says: /OOM/,
    remedy: /maxmemory/,
    happen: (admin) => config(admin, 'maxmemory', '1'),
    mend: (admin) => config(admin, 'maxmemory', '0'),
  },
  {
    code: 'REDIS_READONLY',
    says: /READONLY/,
    remedy: /Name the master/,
    happen: async (admin) => {
      await admin.call('REPLICAOF', '127.0.0.1', '1')
    },
    mend: async (admin) => {
      await admin.call('REPLICAOF', 'NO', 'ONE')
    },
  },
  {
    code: 'REDIS_MISCONF',
    says: /MISCONF/,
    remedy: /disk/,
    happen: async (admin, cluster, expect) => {
      mkdirSync(dump(cluster)) // a snapshot cannot take the place of a folder
      await config(admin, 'save', '3600 1')
      await admin.call('BGSAVE')
      await expect.poll(() => admin.info('persistence')).toContain('rdb_last_bgsave_status:err')
    },
    mend: async (admin, cluster) => {
      rmdirSync(dump(cluster))
      await admin.call('BGSAVE')
    },
  },
  {
    code: 'REDIS_REFUSED',
    says: /not let this user run RPUSH on test:\*/,
    remedy: /ACL SETUSER/,
    happen: async (admin) => {
      await admin.call('ACL', 'SETUSER', 'default', '-rpush')
    },
    mend: async (admin) => {
      await admin.call('ACL', 'SETUSER', 'default', '+rpush')
    },
  },
  {
    code: 'REDIS_REFUSED',
    says: /NOPERM/,
    remedy: /ACL SETUSER/,
    happen: async (admin) => {
      await admin.call('ACL', 'SETUSER', 'default', '-evalsha')
    },
    mend: async (admin) => {
      await admin.call('ACL', 'SETUSER', 'default', '+evalsha')
    },
  },
  {
    code: 'REDIS_REFUSED',
    says: /NOPERM.*script/,
    remedy: /ACL SETUSER/,
    happen: async (admin) => {
      // in one: a renewal in between would load them all again
      await admin.multi().call('SCRIPT', 'FLUSH').call('ACL', 'SETUSER', 'default', '-script').exec()
    },
    mend: async (admin) => {
      await admin.call('ACL', 'SETUSER', 'default', '+script')
    },
  },
  {
    code: 'REDIS_BUSY',
    says: /max number of clients/,
    remedy: /raise maxclients/,
    happen: async (admin) => {
      await config(admin, 'maxclients', '1')
      await admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
    },
    mend: (admin) => config(admin, 'maxclients', '1000'),
  },
  {
    code: 'REDIS_LOADING',
    says: /LOADING/,
    remedy: /loading_eta_seconds/,
    isSecond: true,
    happen: async (admin, { redis }) => {
      admin.on('error', () => undefined) // it connects again
      const fill = admin.pipeline()
      for (let n = 0; n < 6_000; n++) fill.set(`other:${n}`, 'x')
      await fill.exec()
      await redis.stop()
      reading = redis.start('--key-load-delay', '5000', '--loading-process-events-interval-bytes', '1024')
    },
    mend: async (_admin, { redis }) => {
      const quick = new Redis(redis.port, { enableReadyCheck: false })
      await quick.call('CONFIG', 'SET', 'key-load-delay', '0')
      quick.disconnect()
      await reading
    },
  },
]
/** Redis begins to read its data: resolves when it has. */
let reading: Promise<void> | undefined

const metric = async (node: TestNode, name: string): Promise<number> =>
  Number(
    (await node.admin('/metrics')).body
      .split('\n')
      .find((line) => line.startsWith(`${name} `))
      ?.split(' ')[1],
  )

const linesOf = (node: TestNode, pattern: RegExp): string[] =>
  node.log.split('\n').filter((line) => pattern.test(line))

test.concurrent.for(causes)('$code, $says', async (cause, { expect }) => {
  const { code, says, remedy } = cause
  await using cluster = await startCluster({ nodes: 1 })
  const node = cluster.node(0)
  using admin = openClient(cluster.redis)
  const live = await node.connect('live')
  await live.subscribe('t', { qos: 1 })
  const stored = await node.connect('stored', { clean: false })
  await stored.subscribe('t', { qos: 1 })
  const publishers = await Promise.all(['p1', 'p2', 'p3'].map((clientId) => node.connect(clientId)))
  expect(await metric(node, 'aedes_cluster_store_up')).toBe(1)

  await cause.happen(admin, cluster, expect)
  let acknowledged = 0
  const sent = publishers.flatMap((publisher: TestClient, p) =>
    [0, 1].map((n) =>
      publisher.publish('t', `${p}-${n}`, { qos: 1 }).then(() => {
        acknowledged++
      }),
    ),
  )
  const all = Promise.all(sent)
  all.catch(() => undefined) // when something else fails before
  await expect.poll(() => linesOf(node, says).length).toBe(1)
  expect(linesOf(node, says)[0]).toMatch(remedy)
  expect(JSON.parse(linesOf(node, says)[0]!)).toMatchObject({ code: `ERR_BRIDGE_${code}`, publishers: 3 })
  const { status, body } = await node.admin('/readyz')
  expect(status).toBe(503)
  expect(body).toMatch(says)
  expect(body).toMatch(remedy)
  expect(body).toMatch(/3 publishers/)
  expect(await metric(node, 'aedes_cluster_waiting{who="publishers"}')).toBe(3)
  expect(await metric(node, 'aedes_cluster_waiting_seconds')).toBeGreaterThan(1)
  expect(await metric(node, `aedes_cluster_store_errors_total{code="ERR_BRIDGE_${code}"}`)).toBeGreaterThan(0)
  expect(acknowledged).toBe(0)

  await cause.mend(admin, cluster)
  await all
  await expect.poll(() => linesOf(node, /Redis is back after [\d.]+ s; 3 publishers/).length).toBe(1)
  expect(linesOf(node, says)).toHaveLength(cause.isSecond === true ? 1 : 2) // it began, it is over
  await expect.poll(async () => (await node.admin('/readyz')).status).toBe(200)
  for (const subscriber of [live, stored]) {
    await subscriber.arrivals(6)
    expect([...new Set(subscriber.takeAll())].sort()).toEqual(['0-0', '0-1', '1-0', '1-1', '2-0', '2-1'])
  }
})

/** Commands that a node needs a right for, by the script that looks. */
const needed = [
  ...readFileSync(new URL('../../bridge/redis/lua/rights.lua', import.meta.url), 'utf8').matchAll(
    /'([A-Z]{3,})'/g,
  ),
]
  .map(([, command]) => command!)
  .filter((command) => !/LOAD|USAGE|STREAMS|PUBLISH|SUBSCRIBE/.test(command))

test('each right of a node that serves: taken away it is named at once, in log and metrics, too, and when it is given back', async ({
  expect,
}) => {
  await using cluster = await startCluster({ nodes: 1, argv: ['--shutdown-ms', '70000'] })
  const node = cluster.node(0)
  using admin = openClient(cluster.redis)
  const stored = await node.connect('stored', { clean: false })
  await stored.subscribe('t', { qos: 1 })
  const publisher = await node.connect('publisher')
  const ready = (): Promise<string> => node.admin('/readyz').then(({ status, body }) => `${status} ${body}`)
  expect(needed).toContain('XREAD')
  for (const command of needed) {
    await admin.call('ACL', 'SETUSER', 'default', `-${command}`)
    await expect.poll(ready).toMatch(new RegExp(`^503 .*run ${command} on test:\\*.*ACL SETUSER`))
    await admin.call('ACL', 'SETUSER', 'default', `+${command}`)
    await expect.poll(ready).toMatch(/^200 /)
  }
  const said = (pattern: RegExp): number => linesOf(node, pattern).length
  await admin.call('ACL', 'SETUSER', 'default', '-xread')
  await expect.poll(() => said(/run XREAD on test:\*.*ACL SETUSER/)).toBe(1)
  expect(await metric(node, 'aedes_cluster_store_up')).toBe(0)
  await admin.call('ACL', 'SETUSER', 'default', '+xread')
  await expect.poll(() => said(/Redis is back after/)).toBeGreaterThan(0)
  await admin.call('ACL', 'SETUSER', 'default', '-rpush')
  publisher.mqtt.publish('t', 'never stored', { qos: 1 })
  await expect.poll(ready).toMatch(/^503 .*: 1 publisher, .*waiting for/)
  expect(await node.stop(), 'at once: a minute it does not wait').toBe(0)
})
