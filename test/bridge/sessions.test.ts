// Sessions and their queues where many are concerned, or two things happen at once, on data planes of one
// process.
import { setTimeout as wait } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { diagnostics } from '../../bridge/diagnostics.ts'
import { RouteKind, type Session } from '../../bridge/index.ts'
import type { Message } from '../../bridge/messages/message.ts'
import type { ScriptName } from '../../bridge/redis/scripts.ts'
import { partitionOf } from '../../bridge/redis/keys.ts'
import { epochOf } from '../../bridge/sessions/session.ts'
import { startRedis } from '../support/redis.ts'
import { plantSessions } from '../support/sessions.ts'
import { startLink } from './link.ts'
import { keys, listen, messageOf, openClient, publish, startPlane, untilEqual, type Plane } from './planes.ts'

const claim = (
  { plane }: Plane,
  clientId: string,
  {
    cleanStart = false,
    expirySeconds = 600,
    will,
    user,
  }: { cleanStart?: boolean; expirySeconds?: number; will?: string; user?: string } = {},
): Promise<Session> =>
  plane.sessions.claim({
    user,
    clientId,
    cleanStart,
    expirySeconds,
    will: will === undefined ? undefined : { message: messageOf('t', will), delaySeconds: 0 },
  })

/** So many Client Identifiers whose sessions lie in one partition. */
function neighbours(count: number): string[] {
  const names: string[] = []
  for (let n = 0; names.length < count; n++) if (keys.partitionFor(`c${n}`) === 3) names.push(`c${n}`)
  return names
}

async function subscribers(plane: Plane, count: number): Promise<Session[]> {
  const sessions = await Promise.all(neighbours(count).map((clientId) => claim(plane, clientId)))
  await Promise.all(
    sessions.map((session) =>
      plane.plane.sessions.subscriptions.subscribe(session, 't', { options: 2, identifier: undefined }),
    ),
  )
  return sessions
}

/** The QoS 2 message `number` of a publisher. */
const numbered = (number: number): Message =>
  messageOf('t', String(number), { qos: 2, by: { clientId: undefined, sid: 'publisher', number } })

test('1,000 QoS 2 messages at once reach each of two sessions of one partition', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using a = await startPlane(redis, 'a')
  const all = await subscribers(a, 2)
  await Promise.all(Array.from({ length: 1_000 }, (_, i) => publish(a, numbered(i + 1))))
  expect(await Promise.all(all.map(({ sid }) => admin.llen(keys.session(sid, 'queue'))))).toEqual([
    1_000, 1_000,
  ])
})

test('a QoS 2 message to 2,500 sessions of a partition goes in calls of a thousand, and to each once, though two nodes write it at once', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  const all = await plantSessions(admin, keys, 3, 2_500, 't', { options: 2 })
  await using a = await startPlane(redis, 'a')
  expect((await callsOf('queue-append', () => publish(a, numbered(1)))).all).toBe(3)
  const late = await plantSessions(admin, keys, 3, 300, 't', { options: 2 }) // of which only the second node hears
  await using b = await startPlane(redis, 'b')
  await Promise.all([2, 3].flatMap((n) => [publish(a, numbered(n)), publish(b, numbered(n))]))
  const queues = await Promise.all(all.map((sid) => admin.lrange(keys.session(sid, 'queue'), 0, -1)))
  const payloads = queues.map((queue) => queue.map((body) => body.at(-1)).join(''))
  expect(payloads.filter((text) => text !== '123')).toEqual([])
  expect(late).toHaveLength(300)
})

// A node of the version before reads one number of a publisher, and what is no number as none.
test('while a QoS 2 message comes in parts, who knows of no parts reads that what came before it is whole', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  const all = await plantSessions(admin, keys, 3, 1_500, 't', { options: 2 })
  await using link = await startLink(redis)
  await using a = await startPlane(redis, 'a', { url: link.url })
  await publish(a, numbered(7))
  const held = link.holdReply(':0\r\n$0\r\n') // of the first part: none dropped, and no owner of the first session
  void publish(a, numbered(8))
  const go = await held
  const reading = `return tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0') or 0`
  const published = keys.partition(3, 'published')
  const read = (): Promise<unknown> => admin.eval(reading, 1, published, numbered(8).by!.sid!)
  expect(await read()).toBe(7)
  go()
  await expect.poll(read).toBe(8)
  expect(await admin.hlen(published)).toBe(1)
  expect(all).toHaveLength(1_500)
})

test('SUBSCRIBE of a session writes one entry of the journal: the subscription, and the route beside it', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using a = await startPlane(redis, 'a')
  const session = await claim(a, 'client')
  const before = Number(await admin.get(keys.bus('position')))
  const stored = a.plane.sessions.subscribe(session, 't', { options: 1, identifier: undefined })
  await Promise.all([a.plane.addRoute('t', RouteKind.qos0, stored), stored])
  expect(Number(await admin.get(keys.bus('position'))) - before).toBe(1)
  expect([...a.plane.routes].map(({ filter, kind }) => [filter, kind])).toEqual([['t', RouteKind.qos0]])
})

test('a claim that ends the session of an earlier one of the same node leaves that with nothing, however far its own claim is', async () => {
  await using redis = await startRedis()
  await using a = await startPlane(redis, 'a')
  const { sessions } = a.plane
  const first = await claim(a, 'client')
  const second = await claim(a, 'client', { cleanStart: true })
  expect([second.sid === first.sid, sessions.connected(first.sid), sessions.connected(second.sid)]).toEqual([
    false,
    undefined,
    second,
  ])
  const third = await claim(a, 'client', { expirySeconds: 0 })
  expect([third.sid === second.sid, sessions.connected(third.sid)]).toEqual([true, third])
})

test('a client that returns publishes QoS 2 under numbers that no partition has applied, though Redis lost what was noted of them', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using a = await startPlane(redis, 'a')
  const [subscriber] = await subscribers(a, 1)
  const publishNext = (session: Session): Promise<void> =>
    publish(
      a,
      messageOf('t', String(++session.n), {
        qos: 2,
        retain: true,
        by: { clientId: undefined, sid: session.sid, number: session.n },
      }),
    )
  const applied = async ({ sid }: Session): Promise<(string | null)[]> => [
    await admin.hget(keys.partition(3, 'published'), sid),
    await admin.hget(keys.partition(keys.partitionFor('t'), 'published'), `retained:${sid}`),
  ]
  const first = await claim(a, 'publisher')
  for (let i = 0; i < 3; i++) await publishNext(first)
  await admin.hdel(keys.session(first.sid, 'session'), 'n')
  const second = await claim(a, 'publisher')
  await publishNext(second)
  expect(second.n).toBeGreaterThan(first.n)
  expect([second.sid === first.sid, Number.isSafeInteger(second.n), await applied(second)]).toEqual([
    true,
    true,
    [String(second.n), String(second.n)],
  ])
  expect(await admin.llen(keys.session(subscriber!.sid, 'queue'))).toBe(4)
})

test('after Redis lost its data a session that never published QoS 2 is no publisher to be forgotten', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using a = await startPlane(redis, 'a')
  const sessions: Session[] = []
  for (const clientId of ['silent', 'publisher']) {
    await claim(a, clientId)
    sessions.push(await claim(a, clientId))
  }
  const publishing = sessions[1]!
  publishing.n++
  await a.plane.sessions.recovery.assertAll()
  const stored = await Promise.all(sessions.map(({ sid }) => admin.hget(keys.session(sid, 'session'), 'n')))
  expect(stored).toEqual(['0', String(publishing.n)])
})

/**
 * How many calls of a script were made while `work` was done, and how many of them were under way at once.
 */
async function callsOf(
  script: ScriptName,
  work: () => Promise<unknown>,
): Promise<{ all: number; atOnce: number }> {
  let [all, underWay, atOnce] = [0, 0, 0]
  const begins = (event: unknown): void => {
    if ((event as { script: string }).script === script) {
      all++
      atOnce = Math.max(atOnce, ++underWay)
    }
  }
  const ends = (event: unknown): void => {
    if ((event as { script: string }).script === script) underWay--
  }
  diagnostics.scriptBegins.subscribe(begins)
  diagnostics.script.subscribe(ends)
  await work()
  diagnostics.scriptBegins.unsubscribe(begins)
  diagnostics.script.unsubscribe(ends)
  return { all, atOnce }
}

test('an owner on another node is asked first: who gives the session up, in its own time, is not thrown out; who does not answer is', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  const asked: string[] = []
  let onWanted: (session: Session) => Promise<void> = async () => undefined
  await using a = await startPlane(redis, 'a', {
    wanted: (session) => {
      asked.push(session.sid)
      void onWanted(session)
    },
  })
  await using b = await startPlane(redis, 'b')
  for (const { plane } of [a, b]) plane.sessions.close() // they sweep when the test says so
  const first = await claim(a, 'client', { will: 'first' })
  const second = await claim(b, 'client') // nobody answers
  expect([second.sid, second.present, asked, first.isTaken]).toEqual([first.sid, true, [first.sid], true])
  const wills = await admin.hkeys(keys.partition(keys.partitionFor('client'), 'wills'))
  // the earlier one is being published, or was
  expect(wills.filter((name) => !name.startsWith('tak'))).toEqual([])
  await b.plane.sessions.release(second)
  // It says that it takes a moment, which is longer than an answer is waited for; its client had said
  // good-bye, and wanted no session.
  const third = await claim(a, 'client', { will: 'third' })
  await a.plane.sessions.leaves(third)
  onWanted = async (session) => {
    await new Promise((resolve) => setTimeout(resolve, 120))
    await a.plane.sessions.farewell(session, true, 0)
    await a.plane.sessions.release(session)
  }
  const fourth = await claim(b, 'client')
  expect([third.isWanted, third.isTaken, fourth.present, fourth.sid === third.sid]).toEqual([
    true,
    false,
    false,
    false,
  ])
})

test('a will is held for as long as it is decided: nobody else publishes it meanwhile', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  let decide: (() => void) | undefined
  const leaseMs = 1_500
  await using a = await startPlane(redis, 'a', {
    leaseMs,
    authorizeWill: (will) => new Promise((resolve) => (decide = () => resolve(will))),
  })
  await using b = await startPlane(redis, 'b', { leaseMs })
  for (const { plane } of [a, b]) {
    plane.sessions.close() // they sweep when the test says so
    await plane.addRoute('t', RouteKind.everything)
  }
  await untilEqual([a, b])
  const session = await claim(a, 'client', { will: 'once', expirySeconds: 0 })
  const released = a.plane.sessions.release(session)
  const due = keys.partition(keys.partitionFor('client'), 'due')
  const heldUntil = async (): Promise<number> => {
    const [, score] = await admin.zrange(due, 0, 0, 'WITHSCORES')
    return Number(score)
  }
  await expect.poll(() => decide).toBeDefined()
  const [first, now] = [await heldUntil(), Date.now()]
  expect(first - now).toBeLessThanOrEqual(leaseMs)
  while ((await heldUntil()) < first + leaseMs) await b.plane.sessions.sweep() // the first hold would have ended
  decide!()
  await released
  await a.plane.sessions.settled()
  expect(await admin.zrange(due, 0, -1)).toEqual([expect.stringMatching(/^f:/)])
  await publish(a, messageOf('t', 'behind'))
  await expect.poll(() => b.payloads).toEqual(['once', 'behind'])
  expect(a.payloads).toEqual(['once', 'behind'])
})

test('Retained Messages for many sessions: a call takes a mebibyte of them, and the session that fills it', async () => {
  await using redis = await startRedis()
  await using a = await startPlane(redis, 'a')
  const sessions = await Promise.all(neighbours(10).map((clientId) => claim(a, clientId)))
  const payload = Buffer.alloc(300_000)
  const given = (session: Session): Promise<void> =>
    new Promise((resolve) => {
      let isAsked = false
      a.plane.schedule({
        session,
        takeWrites: () => {
          if (isAsked) return undefined
          isAsked = true
          const none = { acknowledged: [], received: [], incoming: [], released: [], fields: [], free: [] }
          return { ...none, given: [[1, messageOf('t', payload)]], order: 0, bytes: 0 }
        },
        written: () => resolve(),
        moved: () => undefined,
      })
    })
  // four fill a call
  expect((await callsOf('session-serve', () => Promise.all(sessions.map(given)))).all).toBe(3)
})

test('a return waits for nothing but its own will, which comes before what it publishes', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using a = await startPlane(redis, 'a')
  a.plane.sessions.close() // it sweeps when the test says so
  const subscriber = await claim(a, 'subscriber')
  await a.plane.sessions.subscriptions.subscribe(subscriber, 't', { options: 1, identifier: undefined })
  const [client, ...others] = neighbours(60) as [string, ...string[]]
  await claim(a, client, { will: 'offline' })
  for (const other of others) await admin.hset(keys.partition(3, 'wills'), `3${other}:1`, 'x')
  await admin.zadd(keys.partition(3, 'due'), ...others.flatMap((other) => [1, `w:3${other}:1`]))
  expect((await callsOf('will-take', () => claim(a, client))).all).toBe(1)
  await publish(a, messageOf('t', 'online'))
  const queued = await admin.lrange(keys.session(subscriber.sid, 'queue'), 0, -1)
  expect(queued.map((text) => /o\w+line/.exec(text)?.[0])).toEqual(['offline', 'online'])
})

test('many sessions at once: they end, send their wills, are written down again and are released by a hundred, not one by one', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using a = await startPlane(redis, 'a')
  a.plane.sessions.close() // it sweeps when the test says so
  const subscriber = await claim(a, 'subscriber')
  await a.plane.sessions.subscriptions.subscribe(subscriber, 't', { options: 1, identifier: undefined })
  const all = await Promise.all(
    neighbours(250).map((clientId) => claim(a, clientId, { will: clientId, user: 'ann' })),
  )
  await admin.del(...all.map(({ sid }) => keys.session(sid, 'session')))
  expect(
    (await callsOf('session-assert', () => a.plane.sessions.recovery.assertAll())).atOnce,
  ).toBeGreaterThanOrEqual(100)
  for (const { sid } of all) expect(await admin.hget(keys.session(sid, 'session'), 'user')).toBe('ann')
  for (const { sid } of all) a.plane.sessions.here.taken(sid, 'b@1 Infinity')
  await admin.hset(keys.partition(3, 'owners'), Object.fromEntries(all.map(({ sid }) => [sid, `b@1 ${sid}`])))
  expect(await callsOf('session-release', () => a.plane.sessions.releases.estate('b@1'))).toEqual({
    all: 250,
    atOnce: 200,
  })
  await admin.zadd(keys.partition(3, 'due'), ...all.flatMap(({ sid }) => [1, `e:${sid}`]))
  const sweep = () =>
    expect
      .poll(async () => {
        await a.plane.sessions.sweep()
        return admin.hlen(keys.partition(3, 'wills'))
      })
      .toBe(0)
  expect(
    await callsOf('will-take', () =>
      callsOf('session-expire', sweep).then((ended) => expect(ended).toEqual({ all: 250, atOnce: 100 })),
    ),
  ).toEqual({ all: 250, atOnce: 100 })
  expect(await admin.llen(keys.session(subscriber.sid, 'queue'))).toBe(250)
})

test('large messages go into queues some at a time, small ones together', async () => {
  await using redis = await startRedis()
  await using a = await startPlane(redis, 'a')
  const subscriber = await claim(a, 'subscriber')
  await a.plane.sessions.subscriptions.subscribe(subscriber, 't', { options: 1, identifier: undefined })
  const send = (count: number, bytes: number) =>
    callsOf('queue-append', () =>
      Promise.all(Array.from({ length: count }, () => publish(a, messageOf('t', 'x'.repeat(bytes))))),
    )
  expect((await send(50, 100)).all).toBeLessThanOrEqual(3)
  expect((await send(9, 600_000)).all).toBeGreaterThanOrEqual(5)
})

test('when Redis is full a client that has a session comes and takes it, and a new one waits for room', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using a = await startPlane(redis, 'a')
  const first = await claim(a, 'client')
  await a.plane.sessions.subscriptions.subscribe(first, 'x', { options: 1, identifier: undefined })
  await a.plane.sessions.release(first)
  await admin.config('SET', 'maxmemory', '1')
  expect(await claim(a, 'client')).toMatchObject({ sid: first.sid, present: true })
  await a.plane.sessions.subscriptions.unsubscribe(a.plane.sessions.connected(first.sid)!, ['x'])
  let begun = false
  const fresh = claim(a, 'new').then((session) => {
    begun = true
    return session
  })
  const more = a.plane.sessions.subscriptions.subscribe(a.plane.sessions.connected(first.sid)!, 'y', {
    options: 1,
    identifier: undefined,
  })
  // the client comes again meanwhile
  const refused = expect(more).rejects.toMatchObject({ code: 'ERR_BRIDGE_MOVED' })
  await claim(a, 'client')
  expect([begun, await admin.hlen(keys.session(first.sid, 'subscriptions'))]).toEqual([false, 0])
  await admin.config('SET', 'maxmemory', '0')
  expect((await fresh).present).toBe(false)
  await refused
})

test('when Redis is full what frees memory goes on behind wills that wait for room, and each of them is sent when there is', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using a = await startPlane(redis, 'a')
  a.plane.sessions.close() // it sweeps when the test says so
  const subscriber = await claim(a, 'subscriber')
  await a.plane.sessions.subscriptions.subscribe(subscriber, 't', { options: 1, identifier: undefined })
  const all = await Promise.all(neighbours(150).map((clientId) => claim(a, clientId, { will: clientId })))
  for (const { sid } of all) a.plane.sessions.here.taken(sid, 'b@1 Infinity')
  await admin.hset(
    keys.partition(3, 'owners'),
    Object.fromEntries(all.map(({ sid, owner }) => [sid, `b@1 ${owner.split(' ')[1]!}`])),
  )
  await a.plane.sessions.releases.estate('b@1')
  const gone = await Promise.all(
    neighbours(170)
      .slice(150)
      .map((clientId) => claim(a, clientId)),
  )
  for (const session of gone) await a.plane.sessions.release(session)
  const dueKey = keys.partition(3, 'due')
  const atOnce = "#!lua flags=allow-oom\nfor i = 1, #ARGV do redis.call('ZADD', KEYS[1], 1, ARGV[i]) end"
  const putWillsFirst = async (): Promise<unknown> =>
    admin.eval(
      atOnce,
      1,
      dueKey,
      ...(await admin.zrange(dueKey, 0, -1)).filter((member) => member.startsWith('w:')),
    )
  await admin.zadd(dueKey, ...gone.flatMap(({ sid }) => [Date.now(), `e:${sid}`]))
  await putWillsFirst()
  await admin.config('SET', 'maxmemory', '1')
  const owners = (): Promise<number> => admin.hlen(keys.partition(3, 'owners'))
  const before = await owners()
  let swept = false
  const sweeps = (): Promise<void> =>
    a.plane.sessions.sweep().then(() => {
      swept = true
    })
  const first = sweeps()
  await expect.poll(async () => before - (await owners()), { timeout: 3_000 }).toBe(20)
  await first
  await putWillsFirst() // nobody holds them any more
  await sweeps()
  expect([swept, await admin.llen(keys.session(subscriber.sid, 'queue'))]).toEqual([true, 0])
  await admin.config('SET', 'maxmemory', '0')
  await expect
    .poll(async () => {
      await sweeps()
      return admin.hlen(keys.partition(3, 'wills'))
    })
    .toBe(0)
  expect(await admin.llen(keys.session(subscriber.sid, 'queue'))).toBe(150)
})

test.each([
  ['1,010 of them', 1_010, 1, 1_000],
  ['20 of 1 MB', 20, 1_000_000, 17],
])(
  'when Redis is full wills wait within a bound, the others stay in Redis, nobody waits for them, and all are sent when there is room: %s',
  async (_name, count, bytes, max) => {
    await using redis = await startRedis()
    using admin = openClient(redis)
    await using a = await startPlane(redis, 'a', { queueMessagesMax: count })
    a.plane.sessions.close() // it sweeps when the test says so
    using left = listen('willsLeft')
    const subscriber = await claim(a, 'subscriber')
    await a.plane.sessions.subscriptions.subscribe(subscriber, 't', { options: 1, identifier: undefined })
    const will = 'w'.repeat(bytes)
    const all = await Promise.all(Array.from({ length: count }, (_, i) => claim(a, `c${i}`, { will })))
    await admin.config('SET', 'maxmemory', '1')
    await Promise.all(all.map((session) => a.plane.sessions.release(session)))
    expect(a.plane.sessions.willsUnderWay).toBeGreaterThan(0)
    expect(a.plane.sessions.willsUnderWay).toBeLessThanOrEqual(max)
    expect(left.events.length).toBeGreaterThan(0)
    expect(await claim(a, 'c0')).toMatchObject({ present: true }) // and so may its client
    await admin.config('SET', 'maxmemory', '0')
    const inRedis = async (): Promise<number> => {
      const all = Array.from({ length: keys.partitions }, (_, p) => admin.hlen(keys.partition(p, 'wills')))
      return (await Promise.all(all)).reduce((sum, n) => sum + n)
    }
    await a.plane.sessions.settled()
    await expect
      .poll(async () => {
        await a.plane.sessions.sweep()
        return inRedis()
      })
      .toBe(0)
    expect(await admin.llen(keys.session(subscriber.sid, 'queue'))).toBe(count)
  },
)

test('partitions that fail keep no other one from being swept', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using a = await startPlane(redis, 'a')
  a.plane.sessions.close() // it sweeps when the test says so
  const session = await claim(a, neighbours(1)[0]!)
  await a.plane.sessions.release(session)
  const dueKey = keys.partition(3, 'due')
  await admin.zadd(
    dueKey,
    ...Array.from({ length: 100 }, (_, i) => [1, `f:3p${i}`]).flat(),
    2,
    `e:${session.sid}`,
  )
  await admin.call(
    'ACL',
    'SETUSER',
    'default',
    'resetkeys',
    '~test:{s3}:*',
    '~test:{bus}:*',
    '~test:{inbox:*',
  ) // the other partitions refuse
  await expect(a.plane.sessions.sweep()).rejects.toThrow('NOPERM')
  await expect.poll(() => admin.exists(keys.session(session.sid, 'session')), { timeout: 3_000 }).toBe(0)
  expect(await admin.zcard(dueKey)).toBe(100) // to forget a publisher all are asked
  await admin.call('ACL', 'SETUSER', 'default', 'allkeys')
  await expect.poll(() => admin.zcard(dueKey)).toBe(0)
})

test('what changed hands is not named as damage: a session that another node took, one that was released meanwhile', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using a = await startPlane(redis, 'a', { leaseMs: 600 })
  const { sessions } = a.plane
  const [taken, left] = [await claim(a, 'taken'), await claim(a, 'left')]
  await sessions.release(left)
  using damaged = listen<{ key: string; problem: string }>('damaged')
  await sessions.releases.releaseStray(left.sid, left.owner) // as the audit had read it before
  const later = epochOf(taken.owner) + 1
  await admin
    .multi()
    .hset(keys.session(taken.sid, 'session'), 'epoch', later)
    .hset(keys.partition(partitionOf(taken.sid), 'owners'), taken.sid, `b@1 ${later}`)
    .exec()
  while (sessions.connected(taken.sid) !== undefined) await wait(5) // the audit comes to it
  expect(damaged.events).toEqual([])
})
