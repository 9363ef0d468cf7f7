// The Lua scripts of sessions and queues on a real Redis, one by one: the documented reply, each documented
// failure, called twice, called by the loser, at maxmemory; and that every key they touch is declared, in the
// key table and in one slot.
import type { Redis } from 'ioredis'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { BridgeError, type BridgeErrorCode } from '../../bridge/errors.ts'
import { asideOf, keyTable } from '../../bridge/redis/keys.ts'
import { appendToQueues } from '../../bridge/publish/queues.ts'
import { serveSessions } from '../../bridge/sessions/session-writer.ts'
import { pack } from '../../bridge/redis/pack.ts'
import {
  loadScripts,
  runScript,
  scriptTable,
  scriptText,
  type ScriptName,
} from '../../bridge/redis/scripts.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { keys, openClient, prefix } from './planes.ts'

let server: TestRedis
let redis: Redis & Disposable
const calls: { name: ScriptName; keys: readonly string[] }[] = []

function run(
  name: ScriptName,
  its: readonly string[],
  argv: readonly (string | number | Buffer)[],
  whenFull = false,
): Promise<unknown> {
  calls.push({ name, keys: its })
  return runScript(redis, name, its, argv, { whenFull })
}

const text = (reply: unknown): unknown =>
  Buffer.isBuffer(reply) ? reply.toString() : Array.isArray(reply) ? reply.map(text) : reply
const of = (...nouns: Parameters<typeof keys.partition>[1][]): string[] =>
  nouns.map((noun) => keys.partition(3, noun))
const its = (sid: string, ...nouns: Parameters<typeof keys.session>[1][]): string[] =>
  nouns.map((noun) => keys.session(sid, noun))
const whole = (sid: string): string[] => [
  ...of('clients', 'owners', 'due', 'wills'),
  ...its(sid, 'session', 'subscriptions', 'queue', 'inflight', 'incoming'),
  ...of('tenants'),
]

interface Claim {
  sid: string
  epoch: string
  present: number
  before: string
  willDue: string
  subscriptions: string[]
  inFlight: string[]
  incoming: string[]
  n: string
  pending: string
  owner: string
}
let claims = 0
async function claim(
  node: string,
  known: string,
  fresh: string,
  {
    clean = false,
    expiry = -1,
    will = '',
    delay = 0,
    number = ++claims,
    most = 1_000,
    whenFull = false,
  } = {},
): Promise<Claim> {
  const reply = text(
    await run(
      'session-claim',
      [...whole(known === '' ? fresh : known), keys.session(fresh, 'session'), ...of('appended', 'users')],
      ['client', known, fresh, node, clean ? '1' : '0', expiry, will, delay, forgetMs, number, most],
      whenFull,
    ),
  ) as never[]
  const [sid, epoch, present, before, willDue, subscriptions, inFlight, incoming, n, pending] = reply
  return {
    sid: sid!,
    epoch: epoch!,
    present: present!,
    before: before!,
    willDue: willDue!,
    subscriptions: subscriptions!,
    inFlight: inFlight!,
    incoming: incoming!,
    n: n!,
    pending: pending!,
    owner: `${node} ${String(epoch)}`,
  }
}
const sayGoodbye = (sid: string, owner: string, { voids = true, expiry = '' } = {}): Promise<unknown> =>
  run(
    'session-farewell',
    [...of('owners', 'due', 'wills'), ...its(sid, 'session')],
    [sid, owner, voids ? '1' : '0', expiry],
  )
const release = async (sid: string, owner: string, { farewell = true, expiry = '' } = {}): Promise<unknown> =>
  sayGoodbye(sid, owner, { voids: farewell, expiry }).then(async () =>
    text(await run('session-release', whole(sid), [sid, owner, forgetMs])),
  )
const expire = async (sid: string): Promise<unknown> =>
  text(await run('session-expire', whole(sid), [sid, forgetMs]))
const subscribe = (sid: string, owner: string, ...argv: string[]): Promise<unknown> =>
  run('session-subscribe', [...of('owners'), ...its(sid, 'session', 'subscriptions')], [sid, owner, ...argv])
/** What session-serve takes of a session, where a test says nothing. */
const nothing = {
  acknowledged: [] as number[],
  received: [] as number[],
  incoming: [] as (number | string)[],
  released: [] as number[],
  order: 0,
  given: [] as (number | string)[],
  bytes: 0,
  free: [] as number[],
}
const serve = async (sid: string, owner: string, writes: Partial<typeof nothing>): Promise<unknown> => {
  calls.push({ name: 'session-serve', keys: of('owners') })
  const { acknowledged, received, incoming, released, order, given, bytes, free } = { ...nothing, ...writes }
  return text(
    await serveSessions(
      redis,
      keys,
      3,
      [[sid, owner, '0', acknowledged, received, incoming, released, order, given, bytes, free, []]],
      [sid],
    ),
  )
}
const append = async (
  node: string,
  batch: number,
  messages: [string, string, number][],
  sessions: Record<string, number[]>,
  queueMax = 100,
  queueBytesMax = 1_000_000,
): Promise<unknown> => {
  calls.push({ name: 'queue-append', keys: of('appended', 'owners', 'published', 'due') })
  return text(
    await appendToQueues(redis, keys, 3, {
      nodeId: node,
      batch: String(batch),
      messages: messages.flat(),
      sessions: new Map(Object.entries(sessions)),
      queueMax,
      queueBytesMax,
      waitMs: forgetMs,
    }),
  )
}
const writeDown = (
  clientId: string,
  sid: string,
  owner: string,
  ...subscriptions: string[]
): Promise<unknown> =>
  run(
    'session-assert',
    [
      ...of('clients', 'owners', 'due', 'wills'),
      ...its(sid, 'session', 'subscriptions', 'inflight', 'incoming'),
      ...of('appended', 'tenants'),
    ],
    [clientId, sid, owner, owner.split(' ')[1]!, 1, -1, '', 0, 0, '', '', 0, 0, 0, 0, 0, ...subscriptions],
  )
const forgetMs = 60_000

async function fails(code: BridgeErrorCode, what: Promise<unknown>): Promise<void> {
  const error: unknown = await what.then(
    () => 'no failure',
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(BridgeError)
  expect((error as BridgeError).code).toBe(code)
}

beforeAll(async () => {
  redis = openClient((server = await startRedis()))
  await loadScripts(redis)
})
beforeEach(async () => {
  await redis.flushall()
  await redis.hset(keys.partition(3, 'appended'), 'a@1', 0, 'b@1', 0)
})
afterAll(() => (redis.disconnect(), server[Symbol.asyncDispose]()))

describe('session-claim', () => {
  test('a new session, then the same by another node: epochs grow, the owner before is told', async () => {
    const first = await claim('a@1', '', '3new')
    expect(first).toMatchObject({ sid: '3new', present: 0, before: '' })
    const second = await claim('b@1', '3new', '3other')
    expect(second).toMatchObject({ sid: '3new', present: 1, before: first.owner })
    expect(Number(second.epoch)).toBeGreaterThan(Number(first.epoch))
    expect(await redis.hget(keys.partition(3, 'owners'), '3new')).toBe(second.owner)
  })

  test('FENCED for a node that was declared dead', async () => {
    await fails('ERR_BRIDGE_FENCED', claim('dead@1', '', '3new'))
    expect(await redis.exists(keys.partition(3, 'clients'), keys.partition(3, 'owners'))).toBe(0)
  })

  test('STALE when the caller knows another session than there is', async () => {
    await claim('a@1', '', '3new')
    await fails('ERR_BRIDGE_STALE', claim('b@1', '', '3other'))
    await fails('ERR_BRIDGE_STALE', claim('b@1', '3gone', '3other'))
  })

  test('Clean Start ends the old session and tells what of it is to be forgotten', async () => {
    const { owner } = await claim('a@1', '', '3old')
    await subscribe('3old', owner, 'c1', 'x', '1')
    await append('a@1', 1, [['m', '', 0]], { '3old': [1] })
    expect(await claim('b@1', '3old', '3new', { clean: true })).toMatchObject({
      sid: '3new',
      present: 0,
      before: owner,
      subscriptions: ['x', '1'],
    })
    expect(await redis.keys('*3old*')).toEqual([])
    await fails('ERR_BRIDGE_MOVED', subscribe('3old', owner, 'c2', 'x', '1'))
  })

  test('a will: cancelled by a return within its delay, due by takeover without delay and by Clean Start', async () => {
    await claim('a@1', '', '3s', { will: 'w1', delay: 60 })
    const second = await claim('b@1', '3s', '3x', { will: 'w2' })
    expect(second).toMatchObject({ willDue: '0' })
    expect(await redis.hvals(keys.partition(3, 'wills'))).toEqual(['w2'])
    const third = await claim('a@1', '3s', '3x', { will: 'w3', delay: 60 })
    expect(third).toMatchObject({ willDue: second.epoch })
    expect(await claim('a@1', '3s', '3y', { clean: true })).toMatchObject({ willDue: third.epoch })
    expect((await redis.hvals(keys.partition(3, 'wills'))).sort()).toEqual(['w2', 'w3'])
    expect(await redis.zcard(keys.partition(3, 'due'))).toBe(2)
  })
})

describe('session-farewell, session-release and session-expire', () => {
  test('by the loser nothing happens; by the owner nobody owns it; with expiry 0 it ends', async () => {
    const { owner } = await claim('a@1', '', '3s')
    expect(await release('3s', 'a@1 1')).toEqual([0, '0', []])
    await subscribe('3s', owner, 'c1', 'x', '1')
    expect(await release('3s', owner)).toEqual([1, '0', []])
    expect(await release('3s', owner)).toEqual([0, '0', []])
    expect(await redis.hget(keys.partition(3, 'owners'), '3s')).toBe('')
    const again = await claim('b@1', '3s', '3x')
    expect(await release('3s', again.owner, { expiry: '0' })).toEqual([1, '0', ['x', '1']])
    expect((await redis.keys('*')).sort()).toEqual([keys.partition(3, 'appended')])
  })

  test('a will is void after a farewell, due after a break, no later than the session ends', async () => {
    const first = await claim('a@1', '', '3s', { will: 'w', delay: 60, expiry: 1 })
    expect(await release('3s', first.owner)).toEqual([1, '0', []])
    expect(await redis.hlen(keys.partition(3, 'wills'))).toBe(0)
    const second = await claim('a@1', '3s', '3x', { will: 'w', delay: 60, expiry: 1 })
    expect(await release('3s', second.owner, { farewell: false })).toEqual([1, '0', []])
    const due = await redis.zrange(keys.partition(3, 'due'), 0, -1, 'WITHSCORES')
    expect(due.filter((_, i) => i % 2 === 0).sort()).toEqual(['e:3s', `w:3s:${second.epoch}`])
    expect(new Set(due.filter((_, i) => i % 2 === 1)).size).toBe(1)
  })

  test('expire: not before it is due, not while somebody owns it, and all of it', async () => {
    const { owner } = await claim('a@1', '', '3s', { expiry: 600, will: 'w', delay: 600 })
    await subscribe('3s', owner, 'c1', 'x', '1')
    await release('3s', owner, { farewell: false })
    expect(await expire('3s')).toEqual([0, '0', []])
    await redis.zadd(keys.partition(3, 'due'), 1, 'e:3s')
    expect(await expire('3s')).toEqual([1, '1', ['x', '1']])
    expect(await expire('3s')).toEqual([0, '0', []])
    expect(await redis.keys('*3s*')).toEqual([])
  })
})

test('session-subscribe: stores, names the change until it is journaled, whatever is sent again; NOTOWNER for the loser', async () => {
  const { owner } = await claim('a@1', '', '3s')
  const pending = (): Promise<string | null> => redis.hget(keys.session('3s', 'session'), 'pending')
  for (let twice = 0; twice < 2; twice++) await subscribe('3s', owner, 'c1', 'x', '1', 'y', '2')
  for (let twice = 0; twice < 2; twice++) await subscribe('3s', owner, 'c1')
  expect(await pending()).toBeNull()
  await subscribe('3s', owner, 'c2', 'y', '')
  await subscribe('3s', owner, 'c1') // the second attempt of an older one
  expect(await pending()).toBe('c2')
  expect(await claim('a@1', '3s', '3x')).toMatchObject({ pending: 'c2', subscriptions: ['x', '1'] })
  await fails('ERR_BRIDGE_MOVED', subscribe('3s', owner, 'c3', 'z', '1'))
})

test('session-assert: writes a session down again; NOTOWNER when there is another', async () => {
  for (let twice = 0; twice < 2; twice++)
    expect(await writeDown('client', '3s', 'a@1 7', 'x', '1')).toEqual([])
  expect(await claim('b@1', '3s', '3x')).toMatchObject({
    present: 1,
    before: 'a@1 7',
    subscriptions: ['x', '1'],
  })
  await fails('ERR_BRIDGE_MOVED', writeDown('client', '3s', 'a@1 7', 'x', '1'))
})

test('session-check: what is missing of a node and its sessions', async () => {
  const { owner, epoch } = await claim('a@1', '', '3s', { will: 'w', number: 5 })
  await subscribe('3s', owner, 'c1', 'x', '1')
  const check = (): Promise<unknown> =>
    run('session-check', of('appended', 'owners', 'clients', 'wills'), [
      'a@1',
      keys.sessions(3),
      pack([['client', '3s', owner, epoch, '5', 1, 1, changed]]),
    ])
  let changed = 'another'
  expect(await check()).toEqual([1, 1, 1])
  changed = 'c1'
  expect(await check()).toEqual([1, 1])
  const all = [...of('owners', 'clients', 'wills'), ...its('3s', 'session', 'subscriptions')]
  for (const key of all) {
    const whole = await redis.dumpBuffer(key)
    await redis.del(key)
    expect(await check(), key).toEqual([1, key.endsWith('owners') || key.endsWith('clients') ? 0 : 1, 1])
    await redis.restore(key, 0, whole)
  }
  await redis.hdel(keys.partition(3, 'appended'), 'a@1')
  expect(await check()).toEqual([0, 1])
})

test('session-assert: over what is lost or damaged, in flight and coming in where nothing stands; not over another owner', async () => {
  const { owner } = await claim('a@1', '', '3s', { number: 5 })
  const [owners] = of('owners') as [string]
  const assert = async (claimed = 5): Promise<unknown> =>
    text(
      await run(
        'session-assert',
        [
          ...of('clients', 'owners', 'due', 'wills'),
          ...its('3s', 'session', 'subscriptions', 'inflight', 'incoming'),
          ...of('appended', 'tenants'),
        ],
        [
          'client',
          '3s',
          owner,
          owner.split(' ')[1]!,
          claimed,
          -1,
          'w',
          0,
          0,
          'c1',
          '',
          0,
          1,
          'later',
          4,
          7,
          '0',
          8,
          '1',
          2,
          9,
          '5',
          2,
          'replays',
          '1',
          'x',
          '1',
        ],
      ),
    )
  await redis.hset(keys.session('3s', 'inflight'), 7, '0 m')
  await redis.hset(keys.session('3s', 'subscriptions'), 'gone', '1', 'later', '1 2 3')
  expect(await assert()).toEqual(['gone'])
  for (const known of ['garbage', '?', `a@1 ${10 ** 17}`, 'b@1 7', '']) {
    await redis.hset(owners, '3s', known)
    expect(await assert(), known).toEqual([])
    expect(await redis.hget(owners, '3s')).toBe(owner)
  }
  expect(await redis.hgetall(keys.session('3s', 'inflight'))).toEqual({ 7: '0 m', 8: '1' })
  expect(await redis.hgetall(keys.session('3s', 'incoming'))).toEqual({ 9: '5' })
  expect(await redis.hgetall(keys.session('3s', 'subscriptions'))).toEqual({ x: '1', later: '1 2 3' })
  await redis.hset(owners, '3s', 'a@1 9')
  await fails('ERR_BRIDGE_MOVED', assert(4)) // our own later claim
})

test('a claim over damaged data: no other client is touched, and nothing that is there is lost', async () => {
  const [clients, owners] = of('clients', 'owners') as [string, string]
  const other = await claim('a@1', '', '3other')
  await redis.hset(clients, 'client', '3x garbage \0')
  expect(await claim('a@1', '', '3new')).toMatchObject({ sid: '3new', present: 0 })
  await redis.hset(clients, 'client', '3nothing')
  await fails('ERR_BRIDGE_STALE', claim('a@1', '', '3next'))
  expect(await claim('a@1', '3nothing', '3next')).toMatchObject({ sid: '3next', present: 0 })
  await append('b@1', 1, [['m', '', 0]], { '3next': [1] })
  await redis.hdel(owners, '3next')
  await redis.hset(
    keys.session('3next', 'session'),
    'epoch',
    'garbage',
    'expiry',
    'x',
    'willDelay',
    'y',
    'n',
    'z',
  )
  expect(await claim('a@1', '3next', '3last')).toMatchObject({ sid: '3next', present: 1 })
  expect(await redis.llen(keys.session('3next', 'queue'))).toBe(1)
  await redis.del(keys.session('3next', 'session'))
  await expect(release('3next', (await redis.hget(owners, '3next'))!)).resolves.toEqual([1, '0', []])
  await redis.hset(keys.session('3other', 'session'), 'client', 'somebody')
  await redis.hset(clients, 'client', '3other')
  expect(await claim('a@1', '3other', '3mine')).toMatchObject({ sid: '3mine', present: 0 })
  expect(await redis.hget(owners, '3other')).toBe(other.owner)
})

test('queue-append: one queue of a wrong type: nothing is written, so that a second attempt adds nothing twice', async () => {
  await claim('a@1', '', '3s')
  const queue = keys.session('3t', 'queue')
  await redis.set(queue, 'x')
  for (let attempt = 0; attempt < 2; attempt++) {
    const done = append('b@1', 1, [['m', '3p', 1]], { '3s': [1], '3t': [1] })
    await (attempt === 0 ? fails('ERR_BRIDGE_REDIS_DAMAGED', done) : expect(done).resolves.toHaveLength(3))
    expect(await redis.llen(keys.session('3s', 'queue'))).toBe(attempt)
  }
  expect(await redis.get(asideOf(queue))).toBe('x')
})

test('session-adopt: whole and for good, called twice too; the loser ends with the next sweep; one that ended is given to nobody', async () => {
  const adopt = (sid: string): Promise<unknown> =>
    run('session-adopt', of('clients', 'owners', 'due', 'tenants'), ['client', sid, -1])
  const [clients, owners, due] = of('clients', 'owners', 'due') as [string, string, string]
  expect(await adopt('3gone')).toBe(0)
  expect(await redis.exists(clients, due)).toBe(0)
  await redis.hset(owners, '3first', '', '3second', '')
  await redis.zadd(due, 9e15, 'e:3first', 9e15, 'e:3second')
  for (let twice = 0; twice < 2; twice++) expect(await adopt('3first')).toBe(1)
  expect(await adopt('3second')).toBe(0)
  expect(await redis.hgetall(clients)).toEqual({ client: '3first' })
  expect(await redis.zrange(due, 0, -1, 'WITHSCORES')).toEqual(['e:3second', '0'])
})

test('session-read: all of a session at one moment; nothing of one that is not its client’s', async () => {
  const { owner } = await claim('a@1', '', '3s', { expiry: 600 })
  await subscribe('3s', owner, 'change', 'a/b', '1')
  const read = async (sid: string): Promise<unknown[]> =>
    text(await run('session-read', whole(sid), ['client', sid])) as unknown[]
  expect(await read('3other')).toEqual([])
  const [, by, [, expiry], , , , subscriptions] = (await read('3s')) as [
    unknown,
    unknown,
    unknown[],
    ...unknown[],
  ]
  expect([by, expiry, subscriptions]).toEqual([owner, '600', ['a/b', '1']])
})

test('session-adopt with a time of its own: the session ends by then', async () => {
  const [, owners, due] = of('clients', 'owners', 'due') as [string, string, string]
  await redis.hset(owners, '3first', '')
  await run('session-adopt', of('clients', 'owners', 'due', 'tenants'), ['client', '3first', 600_000])
  const [seconds] = await redis.time()
  expect(Number(await redis.zscore(due, 'e:3first')) / 1_000 - Number(seconds)).toBeCloseTo(600, -1)
})

describe('queue-append and session-serve', () => {
  test('once and in order; DUP is success, ORDER and FENCED store nothing; a full queue drops its oldest', async () => {
    const { owner } = await claim('a@1', '', '3s')
    expect(
      await append(
        'b@1',
        1,
        [
          ['1', '', 0],
          ['2', '', 0],
        ],
        { '3s': [1, 2] },
      ),
    ).toEqual([0, owner])
    expect(
      await append(
        'b@1',
        1,
        [
          ['1', '', 0],
          ['2', '', 0],
        ],
        { '3s': [1, 2] },
      ),
    ).toEqual([0, owner])
    await fails('ERR_BRIDGE_ORDER', append('b@1', 3, [['x', '', 0]], { '3s': [1] }))
    await fails('ERR_BRIDGE_FENCED', append('dead@1', 1, [['x', '', 0]], { '3s': [1] }))
    expect(await append('b@1', 2, [['3', '', 0]], { '3s': [1] }, 2)).toEqual([1, owner])
    expect(await redis.lrange(keys.session('3s', 'queue'), 0, -1)).toEqual(['2', '3'])
  })

  test('for a session that is not there messages wait, for a while: it is told once, then they go with it, or it is written down again', async () => {
    expect(await append('b@1', 1, [['1', '', 0]], { '3gone': [1], '3back': [1] })).toEqual([0, null, null])
    expect(await append('b@1', 2, [['2', '', 0]], { '3gone': [1], '3back': [1] })).toEqual([0, '?', '?'])
    expect(await writeDown('back', '3back', 'a@1 7')).toEqual([])
    expect(await redis.lrange(keys.session('3back', 'queue'), 0, -1)).toEqual(['1', '2'])
    await redis.zadd(keys.partition(3, 'due'), 1, 'e:3gone')
    expect([await expire('3gone'), await expire('3back')]).toEqual([
      [2, '0', []],
      [0, '0', []],
    ])
    expect(await redis.keys('*3gone*')).toEqual([])
    expect(await redis.hgetall(keys.partition(3, 'owners'))).toEqual({ '3back': 'a@1 7' })
  })

  test('a QoS 2 message that was applied is left out, whoever sends it again', async () => {
    await claim('a@1', '', '3s')
    await append(
      'b@1',
      1,
      [
        ['m1', '3p', 1],
        ['m2', '3p', 2],
      ],
      { '3s': [1, 2] },
    )
    await append(
      'a@1',
      1,
      [
        ['m1', '3p', 1],
        ['m2', '3p', 2],
        ['m3', '3p', 3],
      ],
      { '3s': [1, 2, 3] },
    )
    expect(await redis.lrange(keys.session('3s', 'queue'), 0, -1)).toEqual(['m1', 'm2', 'm3'])
  })

  test('for sessions of another QoS it is applied, or left out, with the message before', async () => {
    await redis.hset(keys.partition(3, 'owners'), '3s', '', '3t', '')
    await append(
      'b@1',
      1,
      [
        ['m1', '3p', 1],
        ['m1 low', '=', 0],
      ],
      { '3s': [1], '3t': [2] },
    )
    await append(
      'a@1',
      1,
      [
        ['m1', '3p', 1],
        ['m1 low', '=', 0],
        ['m2', '3p', 2],
        ['m2 low', '=', 0],
      ],
      { '3s': [1, 4], '3t': [2, 3] },
    )
    expect(
      await Promise.all(['3s', '3t'].map((sid) => redis.lrange(keys.session(sid, 'queue'), 0, -1))),
    ).toEqual([
      ['m1', 'm2 low'],
      ['m1 low', 'm2'],
    ])
  })

  test('9,000 sessions in one call: more than Lua unpacks at once', async () => {
    const { owner } = await claim('a@1', '', '3s')
    const others = Array.from({ length: 9_000 }, (_, n) => `3gone${n}`)
    expect(
      await append(
        'b@1',
        1,
        [['m', '3p', 1]],
        Object.fromEntries([...others, '3s'].map((sid) => [sid, [1]])),
      ),
    ).toEqual([0, ...others.map(() => null), owner])
    expect(await redis.lrange(keys.session('3s', 'queue'), 0, -1)).toEqual(['m'])
  })

  test('9,000 identifiers of a client in one call: more than Lua unpacks at once', async () => {
    const { owner } = await claim('a@1', '', '3s')
    const ids = Array.from({ length: 9_000 }, (_, n) => n + 1)
    await redis.hset(keys.session('3s', 'inflight'), ...ids.flatMap((id) => [id, '0 m']))
    expect(await serve('3s', owner, { incoming: ids.flatMap((id) => [id, id]) })).toEqual([[0]])
    expect(await redis.hlen(keys.session('3s', 'incoming'))).toBe(9_000)
    expect(await serve('3s', owner, { acknowledged: ids, released: ids })).toEqual([[0]])
    expect(await redis.exists(keys.session('3s', 'incoming'), keys.session('3s', 'inflight'))).toBe(0)
  })

  test('moves, acknowledges, receives; sent again it changes nothing; the loser is told', async () => {
    const { owner } = await claim('a@1', '', '3s')
    await append(
      'a@1',
      1,
      [
        ['m1', '', 0],
        ['m2', '', 0],
        ['m3', '', 0],
      ],
      { '3s': [1, 2, 3] },
    )
    const few = { order: 10, bytes: 1, free: [7, 8] }
    for (let twice = 0; twice < 2; twice++) expect(await serve('3s', owner, few)).toEqual([[2, 'm1']])
    const move = { ...few, bytes: 1_000 }
    for (let twice = 0; twice < 2; twice++) expect(await serve('3s', owner, move)).toEqual([[1, 'm1', 'm2']])
    expect(await redis.hgetall(keys.session('3s', 'inflight'))).toEqual({ 7: '10 m1', 8: '11 m2' })
    expect(
      await serve('3s', owner, {
        acknowledged: [7],
        received: [8],
        incoming: [5, '1'],
        order: 12,
        bytes: 1_000,
        free: [9],
      }),
    ).toEqual([[0, 'm3']])
    expect(await redis.hgetall(keys.session('3s', 'inflight'))).toEqual({ 8: '11', 9: '12 m3' })
    expect(await redis.hgetall(keys.session('3s', 'incoming'))).toEqual({ 5: '1' })
    expect(await serve('3s', owner, { released: [5] })).toEqual([[0]])
    expect(await redis.exists(keys.session('3s', 'incoming'))).toBe(0)
    expect(await serve('3s', 'a@1 1', {})).toEqual(['NOTOWNER'])
  })

  test.each([10, 2e14])(
    'what begins without having been queued comes before what is moved; sent again it changes nothing: from %i on',
    async (order) => {
      const { owner } = await claim('a@1', '', '3s')
      await append('a@1', 1, [['m1', '', 0]], { '3s': [1] })
      for (let twice = 0; twice < 2; twice++)
        expect([
          await serve('3s', owner, { order, given: [7, 'kept 1', 8, 'kept 2'], bytes: 1_000, free: [9] }),
          await redis.hgetall(keys.session('3s', 'inflight')),
        ]).toEqual([[[0, 'm1']], { 7: `${order} kept 1`, 8: `${order + 1} kept 2`, 9: `${order + 2} m1` }])
    },
  )
})

test('whoever published QoS 2 is forgotten a while after its session ended, however it ended', async () => {
  const forgotten = async (): Promise<string[]> =>
    (await redis.zrange(keys.partition(3, 'due'), 0, -1)).filter((member) => member.startsWith('f:'))
  const published = (sid: string): Promise<number> => redis.hset(keys.session(sid, 'session'), 'n', 1)
  const first = await claim('a@1', '', '3first')
  await published('3first')
  await release('3first', first.owner, { expiry: '0' })
  await claim('a@1', '', '3second')
  await published('3second')
  const third = await claim('a@1', '3second', '3third', { clean: true, expiry: 600 })
  await published('3third')
  await release('3third', third.owner)
  await redis.zadd(keys.partition(3, 'due'), 1, 'e:3third')
  await expire('3third')
  expect((await forgotten()).sort()).toEqual(['f:3first', 'f:3second', 'f:3third'])
  expect(text(await run('due-list', of('due'), [10]))).toEqual([])
})

test('due-list: what is due, the longest first, no more than asked for', async () => {
  await redis.zadd(keys.partition(3, 'due'), 3, 'e:3c', 1, 'w:3a:1', 2, 'f:3b', 9e15, 'e:3later')
  expect(text(await run('due-list', of('due'), [2]))).toEqual(['w:3a:1', 'f:3b'])
  expect(text(await run('due-list', of('due'), [10]))).toEqual(['w:3a:1', 'f:3b', 'e:3c'])
})

test('will-done: nobody takes the will again, its identity is forgotten later; not while the next one is published', async () => {
  const wills = of('due', 'wills')
  await redis.hset(keys.partition(3, 'wills'), 'taken:3s:1', 'w', '3s:2', 'v')
  await redis.zadd(keys.partition(3, 'due'), 1, 'w:3s:1', 1, 'w:3s:2')
  for (let twice = 0; twice < 2; twice++) await run('will-done', wills, ['w:3s:1', forgetMs])
  expect(await redis.hgetall(keys.partition(3, 'wills'))).toEqual({ '3s:2': 'v' })
  expect((await redis.zrange(keys.partition(3, 'due'), 0, -1)).sort()).toEqual(['f:w3s', 'w:3s:2'])
  expect(text(await run('will-take', wills, ['w:3s:2', 60_000, 0]))).toBe('v')
  expect(await redis.zrange(keys.partition(3, 'due'), 0, -1)).toEqual(['w:3s:2'])
})

test('will-take: once, and again when who took it did not publish it', async () => {
  const { owner, epoch } = await claim('a@1', '', '3s', { will: 'w' })
  const take = async (holdMs: number): Promise<unknown> =>
    text(await run('will-take', of('due', 'wills'), [`w:3s:${epoch}`, holdMs, 0]))
  expect(await take(0)).toBeNull()
  await release('3s', owner, { farewell: false })
  expect(await take(60_000)).toBe('w')
  expect(await take(60_000)).toBeNull()
  await redis.zadd(keys.partition(3, 'due'), 1, `w:3s:${epoch}`)
  expect(await take(60_000)).toBe('w')
  await redis.hdel(keys.partition(3, 'wills'), `taken:3s:${epoch}`)
  await redis.zadd(keys.partition(3, 'due'), 1, `w:3s:${epoch}`)
  expect(await take(60_000)).toBeNull()
  expect(await redis.exists(keys.partition(3, 'due'))).toBe(0)
})

test('will-hold: what was taken is held for longer, never for less; what is done with does not come back', async () => {
  const due = keys.partition(3, 'due')
  await redis.zadd(due, 1, 'w:3s:1', 9e15, 'w:3s:2')
  const before = Date.now()
  for (let twice = 0; twice < 2; twice++)
    await run('will-hold', of('due'), [60_000, 'w:3s:1', 'w:3s:2', 'w:3gone:1'])
  expect(Number(await redis.zscore(due, 'w:3s:1'))).toBeGreaterThanOrEqual(before + 60_000)
  expect(await redis.zrange(due, 0, -1)).toEqual(['w:3s:1', 'w:3s:2'])
  expect(Number(await redis.zscore(due, 'w:3s:2'))).toBe(9e15)
})

test('will-take: a will that its caller has no room for stays as it is, taken before or not', async () => {
  await redis.hset(keys.partition(3, 'wills'), '3s:1', 'large', 'taken:3other:1', 'large')
  await redis.zadd(keys.partition(3, 'due'), 1, 'w:3s:1', 1, 'w:3other:1')
  const take = async (member: string, room: number): Promise<unknown> =>
    text(await run('will-take', of('due', 'wills'), [member, 60_000, room]))
  expect([await take('w:3s:1', 4), await take('w:3other:1', 4)]).toEqual([5, 5])
  expect(await redis.zrangebyscore(keys.partition(3, 'due'), 1, 1)).toEqual(['w:3other:1', 'w:3s:1'])
  expect([await take('w:3s:1', 5), await take('w:3other:1', 0)]).toEqual(['large', 'large'])
})

test('will-take: the next will of a session waits until the one before it is published, whoever dies over it', async () => {
  await redis.hset(keys.partition(3, 'wills'), '3s:1', 'first', '3s:2', 'second', '3other:1', 'other')
  await redis.zadd(keys.partition(3, 'due'), 1, 'w:3s:1', 1, 'w:3s:2', 1, 'w:3other:1')
  const take = async (member: string): Promise<unknown> =>
    text(await run('will-take', of('due', 'wills'), [member, 60_000, 0]))
  expect([await take('w:3s:1'), await take('w:3s:2'), await take('w:3other:1')]).toEqual([
    'first',
    null,
    'other',
  ])
  await redis.zadd(keys.partition(3, 'due'), 1, 'w:3s:1') // who took it has not published it for too long
  expect(await take('w:3s:1')).toBe('first')
  await run('will-done', of('due', 'wills'), ['w:3s:1', forgetMs])
  expect(await take('w:3s:2')).toBe('second')
  for (const member of ['w:3s:2', 'w:3other:1'])
    await run('will-done', of('due', 'wills'), [member, forgetMs])
  expect(await redis.exists(keys.partition(3, 'wills'))).toBe(0)
})

test.each([
  ['returns', false],
  ['begins anew', true],
])('a will that was taken is published by somebody, once, though the client %s', async (_how, clean) => {
  const { owner, epoch } = await claim('a@1', '', '3s', { will: 'w', expiry: 1 })
  await release('3s', owner, { farewell: false })
  const take = async (): Promise<unknown> =>
    text(await run('will-take', of('due', 'wills'), [`w:3s:${epoch}`, 60_000, 0]))
  expect(await take()).toBe('w')
  expect(await claim('b@1', '3s', '3x', { clean })).toMatchObject({ willDue: '0' })
  expect(await take()).toBeNull()
  // who took it has not published it for too long
  await redis.zadd(keys.partition(3, 'due'), 1, `w:3s:${epoch}`)
  expect(await take()).toBe('w')
})

test('a will that was taken is not sent again by the end of its session', async () => {
  const { owner, epoch } = await claim('a@1', '', '3s', { will: 'w', expiry: 1 })
  await release('3s', owner, { farewell: false })
  await run('will-take', of('due', 'wills'), [`w:3s:${epoch}`, 60_000, 0])
  await redis.zadd(keys.partition(3, 'due'), 1, 'e:3s')
  expect(await expire('3s')).toEqual([1, '0', []])
  expect(await redis.zcount(keys.partition(3, 'due'), 0, Date.now() + 30_000)).toBe(0)
})

test('a claim that is sent again, because its reply was lost, resumes its own session and sends no will', async () => {
  const old = await claim('b@1', '', '3old', { will: 'old' })
  expect(
    await claim('a@1', '3old', '3new', { clean: true, will: 'mine', expiry: 0, number: 7 }),
  ).toMatchObject({ before: old.owner, willDue: old.epoch })
  const again = await claim('a@1', '3new', '3other', { clean: true, will: 'mine', expiry: 0, number: 7 })
  expect(again).toMatchObject({ sid: '3new', willDue: '0' })
  expect(await redis.hgetall(keys.partition(3, 'wills'))).toEqual({
    [`3old:${old.epoch}`]: 'old',
    [`3new:${again.epoch}`]: 'mine',
  })
  expect(await claim('a@1', '3new', '3next', { clean: true, number: 8 })).toMatchObject({
    sid: '3next',
    willDue: again.epoch,
  })
})

test('at maxmemory sessions that are there are claimed, served and released; queues and what is new take nothing', async () => {
  const { owner } = await claim('a@1', '', '3s')
  await append('a@1', 1, [['m1', '', 0]], { '3s': [1] })
  await redis.config('SET', 'maxmemory', '1')
  try {
    await fails('ERR_BRIDGE_REDIS_FULL', append('a@1', 2, [['m2', '', 0]], { '3s': [1] }))
    expect(await serve('3s', owner, { bytes: 1_000, free: [1] })).toEqual([[0, 'm1']])
    await fails('ERR_BRIDGE_REDIS_FULL', claim('b@1', '', '3x'))
    await fails('ERR_BRIDGE_REDIS_FULL', subscribe('3s', owner, 'c', 'x', '1'))
    expect(await claim('b@1', '3s', '3x', { whenFull: true })).toMatchObject({
      present: 1,
      inFlight: ['1', '0 m1'],
    })
  } finally {
    await redis.config('SET', 'maxmemory', '0')
  }
})

const names = (Object.keys(scriptTable) as ScriptName[]).filter((name) =>
  /^(session|queue|will|due)-/.test(name),
)
test.each(names)('%s: documented, and every key declared, in the key table and in one slot', (name) => {
  const source = scriptText(name)
  expect(source).toMatch(/^#!lua.*\n-- [A-Z]/)
  for (const part of ['KEYS', 'ARGV', 'REPLY', 'COST'])
    expect(source, part).toMatch(new RegExp(`^-- ${part} `, 'm'))
  for (const [, key] of source.matchAll(/redis\.call\('(?:MEMORY', 'USAGE|(?!TIME|MEMORY)\w+)', ?([^,)]+)/g))
    expect(key!.trim(), name).toMatch(/Key$/)
  const used = calls.filter((call) => call.name === name)
  expect(used.length).toBeGreaterThan(0)
  const patterns = Object.values(keyTable).map(
    ({ key }) =>
      new RegExp(
        `^${prefix}:${key
          .replace(/[{}]/g, '\\$&')
          .replace(/<n>/, '\\d+')
          .replace('<tag>', 's\\d+')
          .replace('<noun and the rest>', '.*')
          .replace('<sid>', '[0-9a-f][\\w-]+')
          .replace(/<node id>/, '[^{}:]+')}$`,
      ),
  )
  for (const { keys: theirs } of used) {
    for (const key of theirs)
      expect(
        patterns.filter((pattern) => pattern.test(key)),
        key,
      ).toHaveLength(1)
    expect(new Set(theirs.map((key) => /\{.*?\}/.exec(key)![0])).size).toBe(1)
  }
})
