// What `check` finds out about Redis without joining: each thing that would keep a node from starting or
// storing, by its code.
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect, createServer, type AddressInfo } from 'node:net'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { BridgeError } from '../../bridge/errors.ts'
import { adviceOnRedis } from '../../bridge/redis/redis-advice.ts'
import { preflight, type PreflightOptions } from '../../bridge/redis/preflight.ts'
import { startRedisCluster } from '../support/redis-cluster.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'

let redis: TestRedis
let client: Redis
beforeAll(async () => {
  redis = await startRedis()
  client = new Redis(redis.url)
})
afterAll(async () => {
  client.disconnect()
  await redis[Symbol.asyncDispose]()
})

const problems = (options: Partial<PreflightOptions>): Promise<BridgeError[]> =>
  preflight({
    redis: redis.url,
    prefix: 'p',
    name: 'a',
    redisTimeoutMs: 2_000,
    leaseMs: 15_000,
    durabilityReplicas: 0,
    ...options,
  })
const codes = async (options: Partial<PreflightOptions> = {}): Promise<string[]> =>
  (await problems(options)).map(({ code }) => code)
const messages = async (options: Partial<PreflightOptions>): Promise<string[]> =>
  (await problems(options)).map(({ message }) => message)

test('a Redis that will do: nothing is wrong, and nothing is left in it', async () => {
  expect(await codes()).toEqual([])
  expect(await client.keys('*')).toEqual([])
})

test('fewer replicas than must have a message', async () => {
  expect(await codes({ durabilityReplicas: 1 })).toEqual(['ERR_BRIDGE_REPLICAS'])
  await using replica = await startRedis('--replicaof', '127.0.0.1', String(redis.port))
  await expect.poll(() => client.info('replication')).toContain('connected_slaves:1')
  expect(await codes({ durabilityReplicas: 1 })).toEqual([])
  expect(await codes({ durabilityReplicas: 2 })).toEqual(['ERR_BRIDGE_REPLICAS'])
  expect(await codes({ redis: replica.url }), 'a replica takes no writes').toEqual([
    'ERR_BRIDGE_REDIS_READONLY',
  ])
})

test('data of another layout', async () => {
  await client.set('other:{bus}:format', '99')
  expect(await codes({ prefix: 'other' })).toEqual(['ERR_BRIDGE_FORMAT'])
})

test('a boot of the same name whose lease is not over; not one whose process has ended', async () => {
  const now = Number((await client.time())[0]) * 1_000_000
  const of = (info: object, renewed: number): Promise<unknown> =>
    client
      .multi()
      .hset('p:{bus}:names', 'a', 'a@1')
      .hset('p:{bus}:nodes', 'a@1', JSON.stringify(info))
      .hset('p:{bus}:leases', 'a@1', `${now}:${renewed}`)
      .exec()
  await of({ host: 'elsewhere', pid: 1, started: '', boot: 'x' }, now)
  expect(await codes()).toEqual(['ERR_BRIDGE_DUPLICATE_NODE'])
  expect(await codes({ name: 'b' })).toEqual([])
  await of({ host: 'elsewhere', pid: 1, started: '', boot: 'x' }, now - 60_000_000)
  expect(await codes()).toEqual([])
})

test('each right that a node needs, when it is the only one that is missing', async () => {
  const rights = readFileSync(new URL('../../bridge/redis/lua/rights.lua', import.meta.url), 'utf8')
  const needed = [...rights.matchAll(/'([A-Z]{3,})'/g)]
    .map(([, command]) => command!)
    .filter((command) => !/LOAD|USAGE|STREAMS|PUBLISH|SUBSCRIBE/.test(command))
  const address = `redis://almost:pw@127.0.0.1:${redis.port}`
  for (const command of needed) {
    await client.call('ACL', 'SETUSER', 'almost', 'reset', 'on', '>pw', '~*', '&*', '+@all', `-${command}`)
    expect(await messages({ redis: address })).toEqual([
      expect.stringContaining(`Redis does not let this user run ${command} on p:*`),
    ])
  }
})

test('a user that may not do what a node does, a wrong password, no Redis', async () => {
  await client.call('ACL', 'SETUSER', 'reader', 'on', '>pw', '~*', '+@read', '+info')
  const address = `redis://reader:pw@127.0.0.1:${redis.port}`
  expect(await codes({ redis: address })).toEqual(['ERR_BRIDGE_REDIS_REFUSED'])
  expect(await codes({ redis: address.replace('pw', 'no') })).toEqual(['ERR_BRIDGE_REDIS_REFUSED'])
  expect(await codes({ redis: 'redis://127.0.0.1:1' })).toEqual(['ERR_BRIDGE_REDIS_UNREACHABLE'])
})

test('a Redis Cluster without one of its masters is no start that never ends', async () => {
  await using masters = await startRedisCluster({ replicas: 0 })
  await masters.servers[1]!.stop('SIGKILL')
  await expect
    .poll(() => codes({ redis: masters.url, redisTimeoutMs: 300 }))
    .toEqual([expect.stringMatching(/^ERR_BRIDGE_REDIS_(UNREACHABLE|CLUSTER)$/)])
  expect(
    (
      await adviceOnRedis({ redis: masters.servers[0]!.url, prefix: 'p', name: 'a', redisTimeoutMs: 2_000 })
    ).join('\n'),
  ).toMatch(/Name it as redis\+cluster:\/\//)
})

test('commands that are renamed away; as many clients as may be', async () => {
  await using renamed = await startRedis('--rename-command', 'LPOP', '', '--rename-command', 'CONFIG', '')
  expect(await messages({ redis: renamed.url })).toEqual(['Redis has no command LPOP'])
  await client.config('SET', 'maxclients', '1')
  try {
    expect(await codes()).toEqual(['ERR_BRIDGE_REDIS_BUSY'])
  } finally {
    await client.config('SET', 'maxclients', '1000')
  }
})

test.each([
  ['is too old: version 6', /redis_version:\d/, 'redis_version:6', /is older than 7/],
  ['is a Sentinel', 'redis_mode:standalone', 'redis_mode:sentinel  ', /it is a Sentinel/],
])('a Redis that %s', async (_what, said, says, message) => {
  const other = createServer((socket) => {
    const upstream = connect(redis.port, '127.0.0.1')
    for (const end of [socket, upstream])
      end
        .on('error', () => undefined)
        .on('close', () => {
          socket.destroy()
          upstream.destroy()
        })
    socket
      .pipe(upstream)
      .on('data', (chunk: Buffer) => socket.write(chunk.toString('latin1').replace(said, says), 'latin1'))
  }).listen(0, '127.0.0.1')
  await once(other, 'listening')
  expect(await messages({ redis: `redis://127.0.0.1:${(other.address() as AddressInfo).port}` })).toEqual([
    expect.stringMatching(message),
  ])
  other.close()
})
