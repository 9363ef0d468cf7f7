// What a node says of a Redis and of neighbours that work, but not as they should: a line each at start, with
// what to do. It starts all the same, also at a Redis that tells nothing.
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import { openClient } from '../bridge/planes.ts'
import { bridgeErrors } from '../../bridge/errors.ts'
import type { Option } from '../../bridge/index.ts'
import { options } from '../../broker/config/config.ts'
import { mainPath, startCluster, TestNode } from '../support/cluster.ts'
import { startRedis } from '../support/redis.ts'

const warnings = (node: TestNode): string[] =>
  node.log
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as { level: string; msg: string })
    .filter(({ level }) => level === 'warn')
    .map(({ msg }) => msg)

test('a Redis that forgets, and one that evicts: a line each', async () => {
  await using redis = await startRedis('--appendonly', 'no', '--maxmemory-policy', 'allkeys-lru')
  await using cluster = await startCluster({ nodes: 1, redis })
  const said = warnings(cluster.node(0))
  expect(said).toEqual([
    expect.stringMatching(/append-only file.*appendonly yes/),
    expect.stringMatching(/allkeys-lru.*noeviction/),
  ])
  const check = spawnSync(
    process.execPath,
    [
      mainPath,
      'check',
      '--redis',
      redis.url,
      '--prefix',
      'test',
      '--id',
      'b',
      '--lease-ms',
      '5000',
      '--listen',
      'mqtt://127.0.0.1:0',
      '--admin',
      'off',
    ],
    { encoding: 'utf8' },
  )
  expect(check.stderr.trimEnd().split('\n'), 'check says the same').toEqual(
    [...said, 'leaseMs is 5000 here and 15000 on node a. Give every node the same'].map(
      (line) => `aedes-cluster: warning: ${line}`,
    ),
  )
  expect(check.status).toBe(0)
})

test('the rights that are named are enough, $SYS included; with fewer channels that is said', async () => {
  await using redis = await startRedis('--appendonly', 'yes')
  using client = openClient(redis)
  await client.call(
    'ACL',
    'SETUSER',
    'u',
    'on',
    '>pw',
    '~test:*',
    '&test/$SYS*',
    '&test/ask/*',
    '+@all',
    '-@admin',
  )
  await client.call('ACL', 'SETUSER', 'v', 'on', '>pw', '~test:*', '&test/*', '+@all', '-@admin')
  const [, rules] = /SETUSER name (.*), at least/.exec(bridgeErrors.ERR_BRIDGE_REDIS_REFUSED.remedy)!
  expect(rules!.replaceAll('PREFIX', 'test')).toBe('~test:* &test/$SYS* &test/ask/* +@all -@admin')
  const node = (id: string, user: string): TestNode =>
    new TestNode(id, [
      '--redis',
      redis.url.replace('redis://', `redis://${user}:pw@`),
      '--prefix',
      'test',
      '--sys-events',
      'on',
    ])
  await using a = node('a', 'u')
  await using b = node('b', 'u')
  await using c = node('c', 'v')
  await Promise.all([a.start(), b.start(), c.start()])
  expect([...warnings(a), ...warnings(b)]).toEqual([])
  expect(warnings(c)).toEqual([expect.stringMatching(/PSUBSCRIBE on test\/\$SYS\*.*'&test\/\$SYS\*'/)])
  const listener = await a.connect('listener')
  await listener.subscribe('$SYS/+/new/clients')
  await b.connect('newcomer')
  await listener.arrives(
    ({ topic, payload }) => topic === '$SYS/b/new/clients' && payload.toString() === 'newcomer',
  )
})

test('settings that differ between nodes: the one that joins says which, and with whom', async () => {
  await using cluster = await startCluster({ nodes: 1 })
  expect(warnings(cluster.node(0))).toEqual([])
  await using late = new TestNode('late', [
    '--redis',
    cluster.redis.url,
    '--prefix',
    'test',
    '--lease-ms',
    '5000',
    '--queue-messages-max',
    '7',
  ])
  await late.start()
  await expect
    .poll(() => warnings(late).sort())
    .toEqual([
      'leaseMs is 5000 here and 15000 on node a. Give every node the same',
      'queueMessagesMax is 7 here and 100000 on node a. Give every node the same',
    ])
  await late.stop()
})

test('a Redis that tells nothing is served, and nothing is said', async () => {
  await using redis = await startRedis()
  using client = openClient(redis)
  await client.call('ACL', 'SETUSER', 'default', '-config', '-info', '-acl')
  await using cluster = await startCluster({ nodes: 1, redis })
  await cluster.node(0).publish('t', 'served')
  expect(warnings(cluster.node(0)), 'nor does ioredis say it on the console').toEqual([])
})

test('a password that Redis does not want: ioredis says so on the console at each connection, the log once', async () => {
  await using redis = await startRedis('--appendonly', 'yes')
  await using node = new TestNode('a', ['--redis', redis.url.replace('//', '//:pw@'), '--prefix', 'test'])
  await node.start()
  await expect
    .poll(() => warnings(node))
    .toEqual([expect.stringMatching(/does not require a password, but a password was supplied/)])
})

test('every command of a script is among the rights that are asked for, every option that says so among the settings compared', () => {
  const bridge = new URL('../../bridge/', import.meta.url)
  const commands = new Set(new Redis({ lazyConnect: true }).getBuiltinCommands())
  const folder = new URL('redis/lua/', bridge)
  const used = readdirSync(folder).flatMap((name) =>
    [...readFileSync(new URL(name, folder), 'utf8').matchAll(/redis\.call\('([A-Z]+)'/g)].map(
      ([, command]) => command!,
    ),
  )
  const asked = [...readFileSync(new URL('rights.lua', folder), 'utf8').matchAll(/'([A-Z]{3,})'/g)].map(
    ([, command]) => command!,
  )
  for (const name of readdirSync(bridge, { recursive: true, encoding: 'utf8' }))
    if (name.endsWith('.ts') && !name.startsWith('import') && !/stock|preflight|advice/.test(name))
      for (const [, method] of readFileSync(new URL(name, bridge), 'utf8').matchAll(
        /#(?:redis|control|reader)\.([a-z]+)(?:Buffer)?\(/g,
      ))
        if (commands.has(method!)) used.push(method!.toUpperCase())
  expect(used).toContain('HSCAN')
  expect([...new Set(used)].filter((command) => !asked.includes(command))).toEqual([])
  const named = (says: (option: Option) => boolean): string[] =>
    Object.entries<Option>(options)
      .filter(([, option]) => says(option))
      .map(([name]) => name)
  expect(named(({ shared }) => shared === true)).toEqual(
    named(({ about }) => about.includes('the same on every node')),
  )
})
