// Transitions of sessions whose replies are lost, and nodes that are declared dead in the middle of them: a
// script ran, and who called it does not know. On a real Redis behind a link that loses the one reply that
// the test names.
import { expect, onTestFinished, test } from 'vitest'
import { partitionOf, hashIndex } from '../../bridge/redis/keys.ts'
import type { Session } from '../../bridge/index.ts'
import { Reports } from '../../bridge/diagnostics.ts'
import { Waits } from '../../bridge/pace/waits.ts'
import { startRedis } from '../support/redis.ts'
import { startLink } from './link.ts'
import { keys, messageOf, openClient, publish, startPlane, untilEqual, type Plane } from './planes.ts'

const claim = (
  { plane }: Plane,
  clientId: string,
  options: { cleanStart?: boolean; will?: string } = {},
): Promise<Session> =>
  plane.sessions.claim({
    clientId,
    cleanStart: options.cleanStart ?? false,
    expirySeconds: 600,
    will:
      options.will === undefined ? undefined : { message: messageOf('will', options.will), delaySeconds: 0 },
  })

test('a claim of a node that was declared dead meanwhile is refused: the session has no dead owner', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using link = await startLink(redis)
  await using a = await startPlane(redis, 'a', { leaseMs: 1_000, url: link.url })
  await using b = await startPlane(redis, 'b', { leaseMs: 1_000 })
  await untilEqual([a, b])
  link.freeze()
  const claiming = claim(a, 'client').then(
    (session) => session.owner,
    (error: { code: string }) => error.code,
  )
  await expect
    .poll(async () => [await admin.hlen(keys.bus('nodes')), await admin.scard(keys.bus('dead'))], {
      timeout: 10_000,
    })
    .toEqual([1, 0])
  link.thaw()
  expect(await claiming).toBe('ERR_BRIDGE_FENCED')
  expect(await admin.hgetall(keys.partition(hashIndex('client', 16), 'owners'))).toEqual({})
})

test('a refusal that arrives when the node has its place again is no death: the claim goes on', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using link = await startLink(redis)
  await using a = await startPlane(redis, 'a', { url: link.url })
  const appended = Array.from({ length: keys.partitions }, (_, p) => keys.partition(p, 'appended'))
  for (const key of appended) await admin.hdel(key, a.plane.nodeId)
  const refused = link.holdReply('FENCED')
  const claiming = claim(a, 'client')
  const arrive = await refused
  for (const key of appended) await admin.hset(key, a.plane.nodeId, 0)
  arrive()
  expect((await claiming).owner).toContain(a.plane.nodeId)
  expect(a.fenced).toBe(false)
})

test('a takeover whose reply was lost stands in the journal all the same: the connection before is gone', async () => {
  await using redis = await startRedis()
  await using link = await startLink(redis)
  await using a = await startPlane(redis, 'a')
  await using b = await startPlane(redis, 'b', { url: link.url })
  await untilEqual([a, b])
  const first = await claim(a, 'client')
  const lost = link.loseReply(`${a.plane.nodeId} `)
  await claim(b, 'client')
  await lost
  await publish(a, messageOf('x')) // a has caught up with the journal
  expect(a.plane.sessions.connected(first.sid)).toBeUndefined()
})

test('a will is not published because the reply to the CONNECT that brought it was lost', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using link = await startLink(redis)
  await using a = await startPlane(redis, 'a', { url: link.url })
  const subscriber = await claim(a, 'subscriber')
  await a.plane.sessions.subscriptions.subscribe(subscriber, 'will', { options: 2, identifier: undefined })
  const lost = link.loseReply(`$1\r\n0\r\n*0\r\n`)
  await claim(a, 'client', { will: 'client is gone' })
  await lost
  await a.plane.sessions.sweep()
  expect(await admin.llen(keys.session(subscriber.sid, 'queue'))).toBe(0)
})

test('a session begun by an attempt whose reply was lost is a new one', async () => {
  await using redis = await startRedis()
  await using link = await startLink(redis)
  await using a = await startPlane(redis, 'a', { url: link.url })
  // no will due, no subscriptions: the reply of session-claim
  const lost = link.loseReply(`$1\r\n0\r\n*0\r\n`)
  const session = await claim(a, 'client')
  await lost
  expect(session.present).toBe(false)
})

test('the end of a session whose reply was lost leaves nothing of its publisher, nor does a batch that comes late', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using link = await startLink(redis)
  await using a = await startPlane(redis, 'a', { leaseMs: 1_000, url: link.url })
  const subscriber = await claim(a, 'subscriber')
  await a.plane.sessions.subscriptions.subscribe(subscriber, 't', { options: 2, identifier: undefined })
  const publisher = await claim(a, 'publisher')
  await a.plane.sessions.subscriptions.subscribe(publisher, 'mine', { options: 2, identifier: undefined })
  // as the node writes it with a QoS 2 PUBLISH
  await admin.hset(keys.session(publisher.sid, 'session'), 'n', 1)
  const lost = link.loseReply('mine')
  const released = a.plane.sessions
    .farewell(publisher, true, 0)
    .then(() => a.plane.sessions.release(publisher))
  await lost
  await released
  await publish(
    a,
    messageOf('t', 'late', { qos: 2, by: { clientId: undefined, sid: publisher.sid, number: 1 } }),
  )
  const published = keys.partition(partitionOf(subscriber.sid), 'published')
  expect(await admin.hkeys(published)).toEqual([publisher.sid])
  await expect
    .poll(
      async () => [
        await admin.exists(published),
        await admin.exists(keys.partition(partitionOf(publisher.sid), 'due')),
      ],
      { timeout: 10_000 },
    )
    .toEqual([0, 0])
})

test('a will that was published is not published again when the reply to that was lost', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using link = await startLink(redis)
  await using a = await startPlane(redis, 'a', { leaseMs: 1_000, url: link.url })
  const subscriber = await claim(a, 'subscriber')
  await a.plane.sessions.subscriptions.subscribe(subscriber, 'will', { options: 2, identifier: undefined })
  const session = await claim(a, 'client', { will: 'gone' })
  const queue = keys.session(subscriber.sid, 'queue')
  const [, epoch] = session.owner.split(' ')
  const lost = link.loseReply('gone') // of will-take: the will is taken, and nobody knows
  const released = a.plane.sessions.release(session)
  await lost
  await released
  const due = keys.partition(partitionOf(session.sid), 'due')
  await expect.poll(() => admin.zscore(due, `w:${session.sid}:${epoch}`)).not.toBeNull()
  await admin.zadd(due, 1, `w:${session.sid}:${epoch}`) // the hold of who took it is over
  await expect.poll(() => admin.llen(queue), { timeout: 10_000 }).toBe(1)
  const left = async (): Promise<unknown> => [
    await admin.exists(keys.partition(partitionOf(session.sid), 'wills')),
    await admin.zrange(due, 0, -1),
    await admin.exists(keys.partition(partitionOf(subscriber.sid), 'published')),
  ]
  await expect.poll(left, { timeout: 10_000 }).toEqual([0, [`e:${session.sid}`], 0])
  expect(await admin.llen(queue)).toBe(1)
})

test('a SUBSCRIBE asked for twice at once is not acknowledged before it is journaled', async () => {
  await using redis = await startRedis()
  await using a = await startPlane(redis, 'a')
  await using b = await startPlane(redis, 'b')
  await untilEqual([a, b])
  const session = await claim(a, 'client')
  const subscription = { options: 1, identifier: undefined }
  const first = a.plane.sessions.subscriptions.subscribe(session, 't', subscription)
  let journaled = false
  void first.then(() => {
    journaled = true
  })
  await a.plane.sessions.subscriptions.subscribe(session, 't', subscription)
  expect(journaled).toBe(true)
})

test('a CONNECT that waited for Redis and was given up takes the session from nobody', async () => {
  await using redis = await startRedis()
  await using link = await startLink(redis)
  await using a = await startPlane(redis, 'a', { url: link.url })
  await using b = await startPlane(redis, 'b')
  await untilEqual([a, b])
  link.freeze()
  await expect.poll(() => a.plane.connection.status, { timeout: 10_000 }).not.toBe('ready')
  let left = false
  const claiming = a.plane.sessions
    .claim({ clientId: 'client', cleanStart: false, expirySeconds: 600, will: undefined }, () => left)
    .then(
      (session) => session.owner,
      (error: { code: string }) => error.code,
    )
  left = true
  const elsewhere = await claim(b, 'client', { will: 'it was thrown out' })
  link.thaw()
  expect(await claiming).toBe('ERR_BRIDGE_CLOSED')
  expect(await b.plane.sessions.recovery.isOwned(elsewhere)).toBe(true)
})

test('a Redis that stands still owes so many claims an answer, and one more is refused; a crowd that it answers is none of them', async () => {
  await using redis = await startRedis()
  await using link = await startLink(redis)
  const waits = new Waits(new Reports('a'), 3)
  onTestFinished(() => {
    waits.close()
  })
  await using a = await startPlane(redis, 'a', { url: link.url, waits })
  await Promise.all(Array.from({ length: 100 }, (_, i) => claim(a, `crowd ${i}`)))
  link.freeze()
  const claiming: Promise<Session>[] = []
  let refused: unknown
  await expect
    .poll(
      () => {
        const next = claim(a, `c${claiming.length}`)
        next.catch((error: unknown) => {
          refused ??= error
        })
        claiming.push(next)
        return refused
      },
      { timeout: 1_500, interval: 20 },
    )
    .toMatchObject({
      code: 'ERR_BRIDGE_CROWD',
      message: expect.stringContaining('as many CONNECTs wait') as string,
    })
  link.thaw()
  const served = (await Promise.allSettled(claiming)).map(({ status }) => status)
  expect([served.slice(0, 3), served.includes('rejected')]).toEqual([
    ['fulfilled', 'fulfilled', 'fulfilled'],
    true,
  ])
})
