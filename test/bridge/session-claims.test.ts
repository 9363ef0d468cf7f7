// Two claims of one client that overtake each other, and a farewell that comes behind the next claim: what
// the scripts of sessions make of it, on a real Redis.
import type { Redis } from 'ioredis'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { BridgeError, type BridgeErrorCode } from '../../bridge/errors.ts'
import { loadScripts, runScript } from '../../bridge/redis/scripts.ts'
import { ConnectedSessions } from '../../bridge/sessions/connected.ts'
import type { Session } from '../../bridge/sessions/session.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { keys, openClient } from './planes.ts'

let server: TestRedis
let redis: Redis & Disposable
const forgetMs = 60_000
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
    number = ++claims,
    asked = '',
    left = false,
    spares = false,
    came = '',
  } = {},
): Promise<Claim> {
  const reply = (await runScript(
    redis,
    'session-claim',
    [...whole(known === '' ? fresh : known), keys.session(fresh, 'session'), ...of('appended', 'users')],
    [
      'client',
      known,
      fresh,
      node,
      clean ? '1' : '0',
      expiry,
      will,
      0,
      forgetMs,
      number,
      1_000,
      asked,
      left ? '1' : '0',
      spares ? '1' : '0',
      came,
    ],
  )) as unknown[]
  const [sid, epoch, present, before, willDue] = reply.map((item) =>
    Buffer.isBuffer(item) ? item.toString() : item,
  ) as [string, string, number, string, string]
  return { sid, epoch, present, before, willDue, owner: `${node} ${epoch}` }
}
const sayGoodbye = (
  sid: string,
  owner: string,
  { voids = true, expiry = '', leaves = false } = {},
): Promise<unknown> =>
  runScript(
    redis,
    'session-farewell',
    [...of('owners', 'due', 'wills'), ...its(sid, 'session')],
    [sid, owner, voids ? '1' : '0', expiry, leaves ? '1' : '0'],
  )
const release = (sid: string, owner: string): Promise<unknown> =>
  runScript(redis, 'session-release', whole(sid), [sid, owner, forgetMs])

async function fails(code: BridgeErrorCode, what: Promise<unknown>): Promise<void> {
  const error: unknown = await what.then(
    () => 'no failure',
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(BridgeError)
  expect((error as BridgeError).code).toBe(code)
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

test('of two claims the one that was asked for later has the session, though the earlier one comes again behind it; not when nobody has it any more', async () => {
  await claim('a@1', '', '3old')
  const refused: unknown = await claim('a@1', '', '3first').catch((reason: unknown) => reason)
  const asked = /STALE (\d+) 3old/.exec((refused as Error).message)![1]!
  const later = await claim('b@1', '3old', '3later', { clean: true })
  await fails('ERR_BRIDGE_MOVED', claim('a@1', '3later', '3first', { asked }))
  expect(await redis.hget(keys.partition(3, 'owners'), '3later')).toBe(later.owner)
  await redis.hset(keys.session('3later', 'session'), 'asked', 4e15) // a clock that was set back since
  expect(await claim('a@1', '3later', '3first', { asked })).toMatchObject({ sid: '3later' })
  const last = await claim('b@1', '3later', '3last')
  await release('3later', last.owner)
  expect(await claim('a@1', '3later', '3first', { asked })).toMatchObject({ sid: '3later', present: 1 })
})

test('of two claims the one whose CONNECT came later has the session, also when Redis is asked for it first; what is estimated is believed within a second', async () => {
  const now = async (ms: number): Promise<string> => {
    const [s = 0, us = 0] = (await redis.time()).map(Number)
    return String(s * 1e6 + us + ms * 1e3)
  }
  const later = await claim('b@1', '', '3s', { came: await now(-10) })
  // nobody is asked for it
  await fails('ERR_BRIDGE_MOVED', claim('a@1', '3s', '3x', { came: await now(-40), spares: true }))
  expect(await redis.hget(keys.partition(3, 'owners'), '3s')).toBe(later.owner)
  const last = await claim('a@1', '3s', '3x', { came: await now(-5) })
  await redis.hset(keys.session('3s', 'session'), 'asked', await now(-3_000))
  // it cannot have come so long ago
  expect(await claim('b@1', '3s', '3x', { came: '1' })).toMatchObject({ sid: '3s', before: last.owner })
})

test('of two CONNECTs that come to one node the later one is asked for later, however long ago the node says they came', async () => {
  await claim('a@1', '', '3s')
  const asked = async (came: number): Promise<number> => {
    const refused: unknown = await claim('a@1', '', '3x', { came: String(came) }).catch(
      (reason: unknown) => reason,
    )
    return Number(/^STALE (\d+) 3s$/.exec((refused as Error).message)?.[1])
  }
  const [s, us] = (await redis.time()).map(Number) as [number, number]
  const now = s * 1e6 + us
  const all: number[] = []
  for (const came of [1, 2, now - 2e6, now - 5e5, now - 4e5, now + 1e9, now + 2e9])
    all.push(await asked(came))
  expect(all).toEqual([...all].sort((one, other) => one - other))
  expect([all[3], all[4]]).toEqual([now - 5e5, now - 4e5])
})

test('for a client that has left it finds out what an attempt before took, and takes nothing else', async () => {
  const taken = await claim('a@1', '', '3new', { number: 700 })
  expect(await claim('a@1', '3new', '3x', { number: 700, left: true })).toMatchObject({
    sid: '3new',
    before: taken.owner,
  })
  await fails('ERR_BRIDGE_MOVED', claim('a@1', '3new', '3x', { number: 701, left: true }))
  await redis.flushall()
  await redis.hset(keys.partition(3, 'appended'), 'a@1', 0)
  await fails('ERR_BRIDGE_MOVED', claim('a@1', '', '3x', { number: 702, left: true }))
  expect(await redis.exists(keys.partition(3, 'clients'))).toBe(0)
})

test('an owner on another node is spared while it has its place, and may say that it leaves', async () => {
  const refusal = async (known: string, node = 'b@1'): Promise<string> => {
    const refused: unknown = await claim(node, known, '3x', { spares: true }).catch(
      (reason: unknown) => reason,
    )
    return (refused as Error).message.replace(/^STALE \d+ /, '')
  }
  const { owner } = await claim('a@1', '', '3s', { number: 700 })
  expect([await refusal(''), await refusal('3s')]).toEqual(['3s', `3s 0 ${owner}`])
  await sayGoodbye('3s', 'b@1 1', { voids: false, leaves: true }) // not the owner
  expect(await refusal('3s')).toBe(`3s 0 ${owner}`)
  await sayGoodbye('3s', owner, { voids: false, leaves: true })
  expect(await refusal('3s')).toBe(`3s 1 ${owner}`)
  const again = await claim('a@1', '3s', '3x', { spares: true }) // its own
  expect(await refusal('3s')).toBe(`3s 0 ${again.owner}`) // of another connection
  await release('3s', again.owner)
  const third = await claim('b@1', '3s', '3x', { spares: true })
  expect(third).toMatchObject({ sid: '3s', present: 1, before: '' })
  await redis.hdel(keys.partition(3, 'appended'), 'b@1')
  expect(await claim('a@1', '3s', '3x', { spares: true })).toMatchObject({ sid: '3s', before: third.owner })
})

test('a farewell voids the will of its own connection, also when another has the session by now, and changes the expiry when none has', async () => {
  const first = await claim('a@1', '', '3s', { will: 'w1', expiry: 60 })
  const second = await claim('b@1', '3s', '3x', { will: 'w2', expiry: 60 })
  expect(second.willDue).toBe(first.epoch) // and nobody has taken it
  await sayGoodbye('3s', first.owner, { expiry: '5' })
  expect(await redis.hvals(keys.partition(3, 'wills'))).toEqual(['w2'])
  expect(await redis.zrange(keys.partition(3, 'due'), 0, -1)).toEqual([])
  expect(await redis.hget(keys.session('3s', 'session'), 'expiry')).toBe('60')
  await sayGoodbye('3s', second.owner, { voids: false, expiry: '5' })
  expect(await redis.hvals(keys.partition(3, 'wills'))).toEqual(['w2'])
  expect(await redis.hget(keys.session('3s', 'session'), 'expiry')).toBe('5')
})

test('a failover undoes claims: of two owners the later one has the session, and what the client had before ends once more', async () => {
  const { sid, owner, epoch } = await claim('a@1', '', '3s', { number: 5 })
  const [clients, owners, due, wills] = of('clients', 'owners', 'due', 'wills') as [
    string,
    string,
    string,
    string,
  ]
  const assert = (...earlier: [] | [string, number]): Promise<unknown> =>
    runScript(
      redis,
      'session-assert',
      [
        ...of('clients', 'owners', 'due', 'wills'),
        ...its('3s', 'session', 'subscriptions', 'inflight', 'incoming'),
        ...of('appended', 'tenants'),
      ],
      [
        'client',
        sid,
        owner,
        epoch,
        5,
        -1,
        '',
        0,
        0,
        '',
        ...(earlier.length === 0 ? ['', 0] : earlier),
        0,
        0,
        0,
        0,
      ],
    )
  const went = async (to: string, at: number): Promise<void> =>
    void (await redis.multi().hset(owners, sid, to).hset(keys.session(sid, 'session'), 'epoch', at).exec())
  const later = Number(epoch) + 1
  for (const [to, at] of [
    [`b@1 ${later}`, later],
    ['', later],
  ] as const) {
    await went(to, at)
    await fails('ERR_BRIDGE_MOVED', assert())
  }
  for (const [to, at] of [
    ['b@1 7', 7],
    ['', 7],
  ] as const) {
    await went(to, at)
    expect(await assert()).toEqual([])
    expect(await redis.hget(owners, sid)).toBe(owner)
  }
  await redis.multi().hset(clients, 'client', '-1').hset(owners, '-1', '-1').exec() // no session's identifier
  expect(await assert()).toEqual([])
  await redis
    .multi()
    .hset(clients, 'client', '3before')
    .hset(owners, '3before', 'b@1 3')
    .hset(wills, '3before:3', 'void')
    .exec()
  await fails('ERR_BRIDGE_MOVED', assert())
  expect(await assert('3before', 3)).toEqual([])
  expect([
    await redis.hget(clients, 'client'),
    await redis.hget(owners, '3before'),
    await redis.hexists(wills, '3before:3'),
    await redis.zscore(due, 'e:3before'),
  ]).toEqual([sid, '', 0, '0'])
  await redis.hdel(keys.partition(3, 'appended'), 'a@1')
  await fails('ERR_BRIDGE_FENCED', assert())
})

test('who is asked for a session before the answer to its claim comes knows it when it comes', () => {
  const wanted: string[] = []
  const events = { onMoved: () => undefined, onWanted: ({ sid }: Session) => void wanted.push(sid) }
  const here = new ConnectedSessions(events, (owner) => owner.startsWith('a@1 '))
  const sessionOf = (sid: string, epoch: number): Session =>
    ({ sid, owner: `a@1 ${epoch}`, isWanted: false, subscriptions: new Map() }) as unknown as Session
  here.wanted('early', 'a@1 7')
  here.wanted('older', 'a@1 6') // that owner is gone: the claim on its way is another one
  here.wanted('foreign', 'b@1 7')
  const all = ['early', 'older', 'foreign', 'nobody'].map((sid) => sessionOf(sid, 7))
  for (const session of all) here.add(session)
  expect(all.map(({ isWanted }) => isWanted)).toEqual([true, false, false, false])
  here.wanted('nobody', 'a@1 7')
  expect(wanted).toEqual(['nobody'])
  for (let n = 0; n <= 1_000; n++) here.wanted(`${n}`, `a@1 ${n}`) // bounded: the oldest is forgotten
  const [first, last] = [sessionOf('0', 0), sessionOf('1000', 1_000)]
  for (const session of [first, last]) here.add(session)
  expect([first.isWanted, last.isWanted]).toEqual([false, true])
})
