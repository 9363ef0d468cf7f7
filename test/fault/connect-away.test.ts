// CONNECTs while Redis is away: told to come again, 0x88 or 3, after a deadline; at once when too many wait;
// never that they are not authorized, and never nothing. What such a claim still gets is handed back. A start
// that waits says what for, and ends when it is told.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { expect, test } from 'vitest'
import { openClient } from '../bridge/planes.ts'
import { TestClient } from '../support/client.ts'
import { mainPath, startCluster, type TestNode } from '../support/cluster.ts'
import { startRedis, freePort } from '../support/redis.ts'

/** The code of the CONNACK, or that it was another end. */
async function answered(
  node: TestNode,
  clientId: string,
  version: 4 | 5,
  clean = true,
): Promise<number | string> {
  const client = new TestClient(node.url, clientId, { version, clean })
  try {
    return await new Promise((resolve) => {
      client.mqtt.on('packetreceive', (packet) => {
        if (packet.cmd === 'connack') resolve(packet.reasonCode ?? packet.returnCode ?? -1)
      })
      client.mqtt.on('close', () => resolve('closed'))
    })
  } finally {
    await client.mqtt.endAsync(true)
  }
}

test('Redis away: a CONNECT is answered after the deadline, and the client is served when Redis is back', async () => {
  await using cluster = await startCluster({ nodes: 1, argv: ['--claim-timeout-ms', '300'] })
  const node = cluster.node(0)
  await cluster.redis.stop('SIGKILL')
  const codes = await Promise.all(
    Array.from({ length: 30 }, (_, i) => answered(node, `c${i}`, i % 2 === 0 ? 4 : 5)),
  )
  expect(codes).toEqual(Array.from({ length: 30 }, (_, i) => (i % 2 === 0 ? 3 : 0x88)))
  await expect
    .poll(async () => (await node.admin('/metrics')).body)
    .toMatch(/^aedes_cluster_waiting\{who="connects"\} 0$/m)
  expect((await node.admin('/metrics')).body).toMatch(/^aedes_cluster_refusals_total\{cause="claims"\} 30$/m)
  expect(node.log).not.toContain('MaxListeners')
  expect(node.log).toMatch(/"reason":"server unavailable/)
  await cluster.redis.start()
  await expect.poll(() => answered(node, 'c0', 4)).toBe(0)
})

test('Redis away: beyond the bound a CONNECT is answered at once; who waits within it is served', async () => {
  await using cluster = await startCluster({
    nodes: 1,
    argv: ['--claim-timeout-ms', '60000', '--claims-waiting-max', '3'],
  })
  const node = cluster.node(0)
  await cluster.redis.stop('SIGKILL')
  const waiting = Promise.all([answered(node, 'w0', 4), answered(node, 'w1', 5), answered(node, 'w2', 5)])
  await expect
    .poll(async () => (await node.admin('/metrics')).body)
    .toMatch(/^aedes_cluster_waiting\{who="connects"\} 3$/m)
  const beyond = await Promise.all(
    Array.from({ length: 30 }, (_, i) => answered(node, `b${i}`, i % 2 === 0 ? 4 : 5)),
  )
  expect(beyond).toEqual(Array.from({ length: 30 }, (_, i) => (i % 2 === 0 ? 3 : 0x89)))
  await cluster.redis.start()
  expect(await waiting).toEqual([0, 0, 0])
})

test('Redis is silent: beyond the bound a CONNECT is answered at once; who waits is served', async () => {
  await using cluster = await startCluster({
    nodes: 1,
    argv: ['--claim-timeout-ms', '60000', '--claims-waiting-max', '3', '--redis-timeout-ms', '300'],
  })
  const node = cluster.node(0)
  cluster.redis.pause()
  const waiting = Promise.all([answered(node, 'w0', 4), answered(node, 'w1', 5), answered(node, 'w2', 5)])
  await expect
    .poll(async () => (await node.admin('/metrics')).body)
    .toMatch(/^aedes_cluster_waiting\{who="connects"\} 3$/m)
  expect(await Promise.all([answered(node, 'b0', 4), answered(node, 'b1', 5)])).toEqual([3, 0x89])
  cluster.redis.resume()
  expect(await waiting).toEqual([0, 0, 0])
})

test.each(['is silent', 'is gone'])(
  'Redis %s: of a burst of CONNECTs as many wait as may, the others are answered before any deadline',
  async (how) => {
    await using cluster = await startCluster({
      nodes: 1,
      argv: ['--claim-timeout-ms', '60000', '--claims-waiting-max', '3', '--redis-timeout-ms', '60000'],
    })
    const node = cluster.node(0)
    cluster.redis.pause()
    const codes: (number | string)[] = []
    const all = Array.from({ length: 20 }, async (_, i) => {
      const code = await answered(node, `b${i}`, 5)
      codes.push(code)
    })
    if (how === 'is gone') {
      await expect
        .poll(async () => (await node.admin('/metrics')).body)
        .toMatch(/^aedes_cluster_sockets 20$/m)
      await cluster.redis.stop('SIGKILL')
    }
    await expect.poll(() => codes.length).toBe(17)
    expect(codes).toEqual(Array(17).fill(0x89))
    if (how === 'is gone') await cluster.redis.start()
    else cluster.redis.resume()
    await Promise.all(all)
    expect(codes.slice(17)).toEqual([0, 0, 0])
  },
)

test('sessions of a crowd larger than the bound are resumed while Redis is there', async () => {
  await using cluster = await startCluster({ nodes: 1, argv: ['--claims-waiting-max', '3'] })
  const node = cluster.node(0)
  const names = Array.from({ length: 60 }, (_, i) => `crowd-${i}`)
  for (let round = 0; round < 2; round++)
    expect(await Promise.all(names.map((name) => answered(node, name, 4, false)))).toEqual(names.map(() => 0))
})

test('Redis takes no writes: as many CONNECTs as may wait are tried again and again; beyond it one is answered at once', async () => {
  await using cluster = await startCluster({
    nodes: 1,
    argv: ['--claim-timeout-ms', '60000', '--claims-waiting-max', '3'],
  })
  const node = cluster.node(0)
  using admin = openClient(cluster.redis)
  await admin.config('SET', 'min-replicas-to-write', '1')
  const waiting = Promise.all([answered(node, 'w0', 4), answered(node, 'w1', 5), answered(node, 'w2', 5)])
  await expect
    .poll(async () => (await node.admin('/metrics')).body)
    .toMatch(/^aedes_cluster_waiting\{who="connects"\} 3$/m)
  const refused = async (): Promise<number> =>
    Number(
      /^aedes_cluster_store_errors_total\{code="ERR_BRIDGE_REDIS_NOREPLICAS"\} (\d+)$/m.exec(
        (await node.admin('/metrics')).body,
      )?.[1],
    )
  const before = await refused()
  await expect.poll(refused).toBeGreaterThan(before + 12)
  expect((await node.admin('/metrics')).body).toMatch(/^aedes_cluster_waiting\{who="connects"\} 3$/m)
  expect(await Promise.all([answered(node, 'b0', 4), answered(node, 'b1', 5)])).toEqual([3, 0x89])
  await admin.config('SET', 'min-replicas-to-write', '0')
  expect(await waiting).toEqual([0, 0, 0])
})

test('a claim that succeeded though its CONNECT was refused is handed back, without a will', async () => {
  await using cluster = await startCluster({
    nodes: 2,
    argv: ['--claim-timeout-ms', '300', '--redis-timeout-ms', '10000'],
  })
  const [node, other] = [cluster.node(0), cluster.node(1)]
  const watcher = await other.connect('watcher')
  await watcher.subscribe('wills')
  using admin = openClient(cluster.redis)
  cluster.redis.pause() // the claim lies in the socket, and runs when Redis goes on
  const refused = new TestClient(node.url, 'mine', {
    version: 5,
    clean: false,
    properties: { sessionExpiryInterval: 600 },
    will: { topic: 'wills', payload: Buffer.from('no'), qos: 1, retain: false },
  })
  await refused.closed()
  cluster.redis.resume()
  await expect.poll(() => partitionOf(admin, 'mine')).toBeGreaterThanOrEqual(0) // it was claimed
  const tag = `test:{s${await partitionOf(admin, 'mine')}}`
  await expect.poll(async () => Object.values(await admin.hgetall(`${tag}:owners`))).toContain('')
  expect(await admin.hlen(`${tag}:wills`)).toBe(0)
  const again = await other.connect('mine', {
    version: 5,
    clean: false,
    properties: { sessionExpiryInterval: 600 },
  })
  expect(again.sessionPresent).toBe(true)
  await other.publish('wills', 'end')
  await watcher.receives([{ topic: 'wills', payload: 'end' }])
})

async function partitionOf(
  admin: { hexists(key: string, field: string): Promise<number> },
  clientId: string,
): Promise<number> {
  for (let p = 0; p < 16; p++) if ((await admin.hexists(`test:{s${p}}:clients`, clientId)) === 1) return p
  return -1
}

const hanging: [
  name: string,
  argv: string[],
  redis: string[],
  acl: string[],
  says: RegExp,
  isSilent?: 'silent',
][] = [
  [
    'no replica for --durability-replicas 1',
    ['--durability-replicas', '1'],
    [],
    [],
    /0 of 1 replicas.*--durability-replicas/,
  ],
  ['a read-only replica', [], ['--replicaof', '127.0.0.1 1'], [], /READONLY.*Name the master/],
  ['a user without EVALSHA', [], [], ['-evalsha'], /NOPERM.*ACL SETUSER/],
  ['a user without SCRIPT', [], [], ['-script'], /NOPERM.*ACL SETUSER/],
  ['a user without XADD', [], [], ['-xadd'], /run XADD on .*ACL SETUSER/],
  ['a user without XREAD', [], [], ['-xread'], /run XREAD on .*ACL SETUSER/],
  [
    'a Redis whose LPOP is renamed away',
    [],
    ['--rename-command', 'LPOP', ''],
    [],
    /has no command LPOP.*rename-command/,
  ],
  [
    'a Redis that says nothing',
    ['--redis-timeout-ms', '60000'],
    [],
    [],
    /there is no answer yet.*Look at the load/,
    'silent',
  ],
]

test.concurrent.for(hanging)(
  '%s: the start waits, says for what, and the first signal ends it',
  async ([, argv, redisArgv, acl, says, isSilent], { expect }) => {
    await using redis = await startRedis(...redisArgv)
    using client = openClient(redis)
    if (acl.length > 0) await client.call('ACL', 'SETUSER', 'default', ...acl)
    if (isSilent !== undefined) redis.pause()
    let admin = ''
    let log = ''
    const start = async (): Promise<ChildProcess> => {
      admin = `http://127.0.0.1:${await freePort()}`
      log = ''
      const flags = ['--redis', redis.url, '--listen', 'mqtt://127.0.0.1:0', '--admin', admin, ...argv]
      const child = spawn(process.execPath, [mainPath, 'node', ...flags], {
        stdio: ['ignore', 'ignore', 'pipe'],
      })
      child.stderr.on('data', (chunk: Buffer) => {
        log += chunk.toString()
      })
      return child
    }
    let child = await start()
    try {
      await expect
        .poll(async () => {
          if (log.includes('the port is in use')) child = await start() // another test took it first
          return log
        })
        .toMatch(says)
      const ready = await fetch(`${admin}/readyz`)
      expect(ready.status).toBe(503)
      expect(await ready.text()).toMatch(says)
      expect(await (await fetch(`${admin}/metrics`)).text()).toMatch(/^aedes_cluster_waiting_seconds [1-9]/m)
      expect((await fetch(`${admin}/livez`)).status).toBe(200)
      child.kill('SIGTERM')
      expect(await once(child, 'exit')).toEqual([0, null])
      expect(log).not.toContain('stopped')
    } finally {
      child.kill('SIGKILL')
    }
  },
)
