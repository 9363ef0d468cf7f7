// What the scripts of sessions and queues refuse or drop because there is too much of it, on a real Redis.
import type { Redis } from 'ioredis'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { appendToQueues } from '../../bridge/publish/queues.ts'
import { loadScripts, runScript } from '../../bridge/redis/scripts.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { keys, openClient } from './planes.ts'

let server: TestRedis
let redis: Redis & Disposable
const forgetMs = 60_000
const of = (...nouns: Parameters<typeof keys.partition>[1][]): string[] =>
  nouns.map((noun) => keys.partition(3, noun))
let claims = 0

/** A claim in a partition that may hold one session; resolves to the sid. */
async function claim(
  clientId: string,
  known: string,
  fresh: string,
  expiry: number,
  clean = false,
  [user, most]: readonly [user: string, most: number] = ['', 0],
  mostOfTenant = 0,
): Promise<string> {
  const sid = known === '' ? fresh : known
  const own = (['session', 'subscriptions', 'queue', 'inflight', 'incoming'] as const).map((noun) =>
    keys.session(sid, noun),
  )
  const reply = await runScript(
    redis,
    'session-claim',
    [
      ...of('clients', 'owners', 'due', 'wills'),
      ...own,
      ...of('tenants'),
      keys.session(fresh, 'session'),
      ...of('appended', 'users'),
    ],
    [
      clientId,
      known,
      fresh,
      'a@1',
      clean ? '1' : '0',
      expiry,
      '',
      0,
      forgetMs,
      ++claims,
      most + mostOfTenant === 0 ? 1 : 1_000,
      '',
      '0',
      '0',
      '',
      user,
      '0',
      most,
      mostOfTenant,
    ],
  )
  return String((reply as Buffer[])[0])
}

beforeAll(async () => {
  server = await startRedis()
  redis = openClient(server)
  await loadScripts(redis)
})
beforeEach(async () => {
  await redis.flushall()
  await redis.hset(keys.partition(3, 'appended'), 'a@1', 0, 'b@1', 0)
})
afterAll(async () => {
  redis.disconnect()
  await server[Symbol.asyncDispose]()
})

test('as many sessions as a partition may hold: one more that outlives its connection is refused, others are not', async () => {
  await claim('first', '', '3s', -1)
  await expect(claim('other', '', '3t', -1)).rejects.toMatchObject({ code: 'ERR_BRIDGE_QUOTA' })
  expect(await redis.hlen(keys.partition(3, 'clients'))).toBe(1)
  expect(await claim('other', '', '3t', 0)).toBe('3t') // ends with its connection
  expect(await claim('first', '3s', '3u', -1)).toBe('3s') // what is there may come again
  expect(await claim('first', '3s', '3v', -1, true)).toBe('3v') // and take its own place
})

test('as many sessions as a user may have: those that are there count, and no more is kept of users than of sessions', async () => {
  const two = (
    clientId: string,
    known: string,
    fresh: string,
    { expiry = -1, clean = false, user = 'ann' } = {},
  ) => claim(clientId, known, fresh, expiry, clean, [user, 2])
  const refused = { code: 'ERR_BRIDGE_USER_QUOTA' }
  await two('a', '', '3a')
  await two('b', '', '3b')
  await expect(two('c', '', '3c')).rejects.toMatchObject(refused)
  await two('c', '', '3c', { expiry: 0 }) // ends with its connection
  await expect(two('c', '3c', '3d')).rejects.toMatchObject(refused)
  await two('e', '', '3e', { user: 'eve' })
  expect(await two('a', '3a', '3f')).toBe('3a')
  expect(await two('a', '3a', '3g', { clean: true })).toBe('3g') // takes its own place
  await expect(two('c', '3c', '3h')).rejects.toMatchObject(refused)
  const users = keys.partition(3, 'users')
  await redis.hdel(keys.partition(3, 'owners'), '3g', '3e') // they ended
  expect(await two('c', '3c', '3i')).toBe('3i')
  expect((await redis.hget(users, 'ann'))?.split(' ').sort()).toEqual(['3b', '3i'])
  await expect(two('b', '3b', '3k', { user: 'bob' })).rejects.toMatchObject({ code: 'ERR_BRIDGE_FOREIGN' })
  await redis.zadd(keys.partition(3, 'due'), 1, 'e:3b') // its time is over, and nobody has looked yet
  expect(await two('b', '3b', '3k', { user: 'bob' })).toBe('3k')
  // found out, and those of before there was a bound, by the way
  await claim('z', '', '3z', -1, false, ['zoe', 1_000])
  expect(await redis.hkeys(users)).not.toContain('eve')
  await redis.del(users)
  await two('b', '3k', '3j', { user: 'bob' })
  expect(await redis.hgetall(users)).toEqual({ bob: '3k' })
})

test('as many sessions as a tenant may have: counted as they come and go, whoever ends them', async () => {
  const two = (clientId: string, known: string, fresh: string, expiry = -1, clean = false): Promise<string> =>
    claim(clientId, known, fresh, expiry, clean, undefined, 2)
  const refused = { code: 'ERR_BRIDGE_TENANT_QUOTA' }
  const tenants = keys.partition(3, 'tenants')
  const whole = (sid: string): string[] => [
    ...of('clients', 'owners', 'due', 'wills'),
    ...(['session', 'subscriptions', 'queue', 'inflight', 'incoming'] as const).map((noun) =>
      keys.session(sid, noun),
    ),
    ...of('tenants'),
  ]
  await two('acme\0a', '', '3a')
  await two('acme\0b', '', '3b')
  await expect(two('acme\0c', '', '3c')).rejects.toMatchObject(refused)
  await two('globex\0a', '', '3d')
  await two('plain', '', '3e')
  expect(await redis.hgetall(tenants)).toEqual({ acme: '2', globex: '1' })
  expect(await two('acme\0a', '3a', '3f')).toBe('3a')
  expect(await two('acme\0a', '3a', '3f', -1, true)).toBe('3f') // takes its own place
  await two('acme\0c', '', '3c', 0) // ends with its connection, and counts until then
  expect(await redis.hgetall(tenants)).toEqual({ acme: '3', globex: '1' })
  const owner = async (sid: string): Promise<string> => (await redis.hget(keys.partition(3, 'owners'), sid))!
  await runScript(redis, 'session-release', whole('3c'), ['3c', await owner('3c'), forgetMs])
  await runScript(redis, 'session-release', whole('3b'), ['3b', await owner('3b'), forgetMs])
  expect(await redis.hget(tenants, 'acme')).toBe('2')
  await redis.zadd(keys.partition(3, 'due'), 1, 'e:3b')
  for (const _ of 'it is called twice'.split(' ', 2))
    await runScript(redis, 'session-expire', whole('3b'), ['3b', forgetMs])
  expect(await redis.hgetall(tenants)).toEqual({ acme: '1', globex: '1' })
  await redis.hset(keys.partition(3, 'owners'), '3g', '')
  for (const _ of 'it is called twice'.split(' ', 2))
    await runScript(redis, 'session-adopt', of('clients', 'owners', 'due', 'tenants'), ['acme\0g', '3g', -1])
  expect(await redis.hget(tenants, 'acme')).toBe('2')
  await expect(two('acme\0h', '', '3h')).rejects.toMatchObject(refused)
})

test('a queue holds so many bytes: the oldest goes for a large one, the last one stays, small ones are bounded by number', async () => {
  await claim('client', '', '3s', -1)
  const queue = keys.session('3s', 'queue')
  let batch = 0
  const put = (...bodies: string[]): Promise<unknown> =>
    appendToQueues(redis, keys, 3, {
      nodeId: 'b@1',
      batch: String(++batch),
      messages: bodies.flatMap((body) => [body, '', 0]),
      sessions: new Map([['3s', bodies.map((_, i) => i + 1)]]),
      queueMax: 100,
      queueBytesMax: 100_000,
      waitMs: forgetMs,
    })
  await put('small', 'x'.repeat(500), 'y'.repeat(900))
  for (const letter of ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l'])
    await put(letter.repeat(10_000))
  const left = await redis.lrange(queue, 0, -1)
  expect(left.length).toBeGreaterThan(5)
  // the oldest went, whatever its size
  expect(left.map((body) => body[0]).join('')).toBe('abcdefghijkl'.slice(-left.length))
  expect(await redis.memory('USAGE', queue)).toBeLessThanOrEqual(110_000)
  expect(((await put('z'.repeat(300_000))) as number[])[0]).toBe(left.length)
  expect(await redis.llen(queue)).toBe(1)
  for (let n = 0; n < 10; n++) await put(...Array<string>(9).fill('tiny'))
  // the large one is over the bound, and nobody looks until another large one comes
  expect(await redis.llen(queue)).toBe(91)
  await put('a'.repeat(2_000))
  expect(await redis.llen(queue)).toBe(91)
})
