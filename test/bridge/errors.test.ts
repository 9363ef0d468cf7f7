// What Redis and ioredis say, as real ones say it, and what it is to us: waited for, answered, damaged data
// or a bug of ours.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import { bridgeErrors, toBridgeError, type BridgeErrorCode } from '../../bridge/errors.ts'
import { whenReady, connect, retrying } from '../../bridge/redis/redis.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { openClient } from './planes.ts'

const codeOf = async (attempt: Promise<unknown>): Promise<string> =>
  attempt.then(
    () => 'no error',
    (error: unknown) => toBridgeError(error).code,
  )
const write = '#!lua\nreturn redis.call("SET", KEYS[1], "1")'
const push = '#!lua\nreturn redis.call("RPUSH", KEYS[1], "1")'

async function under(
  redis: TestRedis,
  state: readonly string[][],
  attempt: (client: Redis) => Promise<unknown>,
  mend: readonly string[][] = [],
): Promise<string> {
  using client = openClient(redis)
  for (const [name, ...argv] of state) await client.call(name!, ...argv)
  const code = await codeOf(attempt(client))
  for (const [name, ...argv] of mend) await client.call(name!, ...argv)
  return code
}

test('what a real Redis refuses is told apart', async () => {
  await using redis = await startRedis()
  const script = (source: string) => (client: Redis) => client.eval(source, 1, 'k')
  const asUser =
    (...rights: string[]) =>
    async (client: Redis): Promise<unknown> => {
      await client.call('ACL', 'SETUSER', 'u', 'reset', 'on', 'nopass', ...rights)
      const user = new Redis(redis.url, { username: 'u', password: 'x' }).on('error', () => undefined)
      return user.eval(push, 1, 'k').finally(() => user.disconnect())
    }
  const none: string[][] = []
  const cases: [
    name: string,
    code: BridgeErrorCode,
    attempt: (client: Redis) => Promise<unknown>,
    state?: string[][],
    mend?: string[][],
  ][] = [
    [
      'too few replicas',
      'ERR_BRIDGE_REDIS_NOREPLICAS',
      script(write),
      [['CONFIG', 'SET', 'min-replicas-to-write', '1']],
      [['CONFIG', 'SET', 'min-replicas-to-write', '0']],
    ],
    [
      'full',
      'ERR_BRIDGE_REDIS_FULL',
      script(write),
      [['CONFIG', 'SET', 'maxmemory', '1']],
      [['CONFIG', 'SET', 'maxmemory', '0']],
    ],
    [
      'a replica',
      'ERR_BRIDGE_REDIS_READONLY',
      script(write),
      [['REPLICAOF', '127.0.0.1', '1']],
      [['REPLICAOF', 'NO', 'ONE']],
    ],
    [
      'WAIT at a replica',
      'ERR_BRIDGE_REDIS_READONLY',
      (client) => client.wait(1, 1),
      [['REPLICAOF', '127.0.0.1', '1']],
      [['REPLICAOF', 'NO', 'ONE']],
    ],
    [
      'no master',
      'ERR_BRIDGE_REDIS_CLUSTER',
      (client) => client.get('k'),
      [
        ['REPLICAOF', '127.0.0.1', '1'],
        ['CONFIG', 'SET', 'replica-serve-stale-data', 'no'],
      ],
      [
        ['CONFIG', 'SET', 'replica-serve-stale-data', 'yes'],
        ['REPLICAOF', 'NO', 'ONE'],
      ],
    ],
    ['no right to a command', 'ERR_BRIDGE_REDIS_REFUSED', asUser('~*', '+@all', '-eval')],
    ['no right to a command in a script', 'ERR_BRIDGE_REDIS_REFUSED', asUser('~*', '+@all', '-rpush')],
    ['no right to a key', 'ERR_BRIDGE_REDIS_REFUSED', asUser('~other', '+@all')],
    [
      'a command that is not there',
      'ERR_BRIDGE_REDIS_LACKS',
      (client) => client.call('EVALSHA_RENAMED', 'x'),
    ],
    [
      'one that a script misses',
      'ERR_BRIDGE_REDIS_LACKS',
      script('#!lua\nreturn redis.call("RENAMED_AWAY")'),
    ],
    [
      'a script that is not there',
      'ERR_BRIDGE_SCRIPT_UNKNOWN',
      (client) => client.evalsha('0'.repeat(40), 0),
    ],
    ['a key of another type', 'ERR_BRIDGE_REDIS_DAMAGED', script(push), [['SET', 'k', 'x']]],
    [
      'a number that is none',
      'ERR_BRIDGE_REDIS_DAMAGED',
      script('#!lua\nreturn redis.call("INCR", KEYS[1])'),
      none,
    ],
    [
      'a script that finds nothing where it wants something',
      'ERR_BRIDGE_REDIS_DAMAGED',
      script('#!lua\nreturn redis.call("GET", "none") + 1'),
    ],
    [
      'an id that was there',
      'ERR_BRIDGE_REDIS_DAMAGED',
      script(
        '#!lua\nredis.call("XADD", "st", "5-0", "a", "b")\nreturn redis.call("XADD", "st", "4-0", "a", "b")',
      ),
    ],
    ['a script that is none', 'ERR_BRIDGE_BUG', script('#!lua\nreturn (')],
    ['a script that calls what is not there', 'ERR_BRIDGE_BUG', script('#!lua\nreturn none(1)')],
    ['a script that calls a value', 'ERR_BRIDGE_BUG', script('#!lua\nlocal t = {} return t.none(1)')],
    [
      'a script that an operator killed',
      'ERR_BRIDGE_REDIS_BUSY',
      async (client) => {
        const running = script('#!lua\nwhile true do end')(client)
        const admin = new Redis(redis.url)
        const kill = async (): Promise<void> => {
          while ((await admin.script('KILL').catch(() => 'not yet')) !== 'OK');
        }
        return Promise.all([running, kill().finally(() => admin.disconnect())])
      },
    ],
    ['our own answer', 'ERR_BRIDGE_FENCED', script('#!lua\nreturn redis.error_reply("FENCED a@1")')],
  ]
  for (const [name, code, attempt, state = none, mend] of cases)
    expect([name, await under(redis, state, attempt, mend)]).toEqual([name, code])
})

test('a wrong password, and none', async () => {
  await using redis = await startRedis('--requirepass', 'right')
  for (const options of [{}, { password: 'wrong' }]) {
    const client = new Redis(redis.url, options).on('error', () => undefined)
    expect(await codeOf(client.get('k'))).toBe('ERR_BRIDGE_REDIS_REFUSED')
    client.disconnect()
  }
})

test('a connection that is not there is waited for; whatever JavaScript throws is a bug', async () => {
  const gone = new Redis('redis://127.0.0.1:1', { enableOfflineQueue: false, retryStrategy: () => null }).on(
    'error',
    () => undefined,
  )
  expect(await codeOf(gone.get('k'))).toBe('ERR_BRIDGE_REDIS_UNREACHABLE')
  for (const error of [
    Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' }),
    Object.assign(new Error('self-signed certificate'), { code: 'DEPTH_ZERO_SELF_SIGNED_CERT' }),
  ]) {
    expect(toBridgeError(error).code).toBe('ERR_BRIDGE_REDIS_UNREACHABLE')
  }
  for (const error of [
    new TypeError('x is not a function'),
    Object.assign(new RangeError('out of range'), { code: 'ERR_OUT_OF_RANGE' }),
    new Error('anything'),
    'a string',
    undefined,
  ]) {
    expect([toBridgeError(error).code, toBridgeError(error).retryable]).toEqual(['ERR_BRIDGE_BUG', false])
  }
})

test('who is turned away when it connects, since Redis has as many clients as it takes, comes back when there is room', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await admin.ping()
  const reasons = new Set<string>()
  const connections = [true, false].map((readyCheck) =>
    connect({ url: redis.url, timeoutMs: 1_000, onError: () => undefined }, { readyCheck }),
  )
  const works = async (connection: (typeof connections)[number]): Promise<boolean> =>
    connection.set('k', 'v').then(
      () => true,
      (error: unknown) => {
        reasons.add(toBridgeError(error).message)
        return false
      },
    )
  for (const connection of connections) await expect.poll(() => works(connection)).toBe(true)
  await admin.config('SET', 'maxclients', '1')
  const turnedAway = connections.map((connection) => {
    const times = { count: 0 }
    connection.on('reconnecting', () => {
      times.count++
    })
    return times
  })
  await admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  await expect.poll(() => turnedAway.every(({ count }) => count >= 2)).toBe(true)
  await admin.config('SET', 'maxclients', '100')
  for (const connection of connections) await expect.poll(() => works(connection)).toBe(true)
  for (const reason of reasons)
    expect(reason).toMatch(/^(the connection to Redis broke off|ERR max number of clients reached)$/)
  for (const connection of connections) connection.disconnect()
})

test('every error that ioredis makes is known: of its connection, or of a call that we do not make', () => {
  const ours =
    /already connecting|Invalid (option|role|node key|argument)|Invalid argument|Requires (at least|the name)|same slot|monitoring mode|Pipeline cannot|not implemented|startupNodes|Sharded subscriber|^c$|^$/
  const folder = new URL('../../node_modules/ioredis/built/', import.meta.url).pathname
  const messages = readdirSync(folder, { recursive: true })
    .map(String)
    .filter((name) => name.endsWith('.js'))
    .flatMap((name) =>
      [...readFileSync(join(folder, name), 'utf8').matchAll(/new Error\((?:(["'`])(.*?)(?:\1|\$))?/g)].map(
        ([, , message = '']) => message,
      ),
    )
  expect(messages.length).toBeGreaterThan(20)
  const unknown = messages.filter(
    (message) =>
      !ours.test(message) && toBridgeError(new Error(message)).code !== 'ERR_BRIDGE_REDIS_UNREACHABLE',
  )
  expect(unknown).toEqual([])
})

test('whatever is waited for says what to do about it, unless it mends itself', () => {
  for (const [code, { kind, remedy }] of Object.entries(bridgeErrors)) {
    if (['operator', 'damaged', 'bug'].includes(kind)) expect([code, remedy]).not.toEqual([code, ''])
  }
})

test('who waits for a connection costs it no listener each, and hears that it is closed', async () => {
  const redis = connect({ url: 'redis://127.0.0.1:1', timeoutMs: 1_000, onError: () => undefined })
  const listeners = redis.listenerCount('ready')
  const waiting = Array.from({ length: 100 }, () => codeOf(whenReady(redis)))
  const retried = codeOf(retrying(redis, () => redis.get('k')))
  expect(redis.listenerCount('ready')).toBe(listeners + 1)
  redis.disconnect()
  expect(new Set(await Promise.all([...waiting, retried, codeOf(whenReady(redis))]))).toEqual(
    new Set(['ERR_BRIDGE_CLOSED']),
  )
})

test('what the refusal of a script says besides its word is a field', () => {
  const detailsOf = (message: string): unknown =>
    toBridgeError(Object.assign(new Error(message), { name: 'ReplyError' })).details
  expect(detailsOf('ORDER batch 9-ab after 7')).toEqual({ lastBatch: 7 })
  expect(detailsOf('ORDER 9-ab after 0')).toEqual({ lastBatch: 0 })
  const asked = '1700000000000000'
  expect(detailsOf(`STALE ${asked} `)).toEqual({ claim: { asked, sid: '', owner: undefined } })
  expect(detailsOf(`STALE ${asked} 3x-y_`)).toEqual({ claim: { asked, sid: '3x-y_', owner: undefined } })
  expect(detailsOf(`STALE ${asked} 3x-y_ 1 a@2 17`)).toEqual({
    claim: { asked, sid: '3x-y_', owner: { name: 'a@2 17', leaves: true } },
  })
  expect(detailsOf('NOTOWNER a client has another session 3x-y_')).toEqual({ otherSid: '3x-y_' })
  expect(detailsOf('NOTOWNER a has another connection')).toEqual({})
  const turnedAway = (reply: string): string =>
    toBridgeError(new Error(`Command queue state error. If you can, report it. Last error: ${reply}`)).code
  expect(turnedAway('ERR max number of clients reached')).toBe('ERR_BRIDGE_REDIS_BUSY')
  expect(turnedAway('DENIED Redis is running in protected mode')).toBe('ERR_BRIDGE_REDIS_REFUSED')
  const lost = toBridgeError(new Error('Connection is closed.'))
  expect([lost.details, lost.cause]).toEqual([{ isBrokenOff: true }, expect.any(Error)])
})
