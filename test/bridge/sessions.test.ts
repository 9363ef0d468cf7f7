// Sessions and their queues where many are concerned, or two things happen at once, on data planes of one process.
import { expect, test } from 'vitest'
import { partitions, shardOf } from '../../bridge/keys.ts'
import type { Session } from '../../bridge/index.ts'
import { startRedis } from '../support/redis.ts'
import { keys, messageOf, openClient, publish, startPlane, type Plane } from './planes.ts'

const claim = ({ plane }: Plane, clientId: string, { cleanStart = false, expirySeconds = 600 } = {}): Promise<Session> =>
  plane.sessions.claim({ clientId, cleanStart, expirySeconds, will: undefined })

/** So many Client Identifiers whose sessions lie in one partition. */
function neighbours(count: number): string[] {
  const names: string[] = []
  for (let n = 0; names.length < count; n++) if (shardOf(`c${n}`, partitions) === 3) names.push(`c${n}`)
  return names
}

async function subscribers(plane: Plane, count: number): Promise<Session[]> {
  const sessions = await Promise.all(neighbours(count).map((clientId) => claim(plane, clientId)))
  await Promise.all(sessions.map((session) => plane.plane.sessions.subscriptions.subscribe(session, 't', { options: 2, identifier: undefined })))
  return sessions
}

test.each([{ sessions: 2, messages: 1_000 }, { sessions: 1_001, messages: 1 }])('$messages QoS 2 messages at once reach each of $sessions sessions of one partition', async ({ sessions, messages }) => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using a = await startPlane(redis, 'a')
  const all = await subscribers(a, sessions)
  await Promise.all(Array.from({ length: messages }, (_, i) => publish(a, messageOf('t', String(i), { qos: 2, origin: { sid: 'publisher', n: i + 1 } }))))
  const lengths = await Promise.all(all.map(({ sid }) => admin.llen(keys.session(sid, 'queue'))))
  expect(lengths.filter((length) => length !== messages)).toEqual([])
})

test('a claim that ends the session of an earlier one of the same node leaves that with nothing, however far its own claim is', async () => {
  await using redis = await startRedis()
  await using a = await startPlane(redis, 'a')
  const { sessions } = a.plane
  const first = await claim(a, 'client')
  const second = await claim(a, 'client', { cleanStart: true })
  expect([second.sid === first.sid, sessions.own(first.sid), sessions.own(second.sid)]).toEqual([false, undefined, second])
  const third = await claim(a, 'client', { expirySeconds: 0 })
  expect([third.sid === second.sid, sessions.own(third.sid)]).toEqual([true, third])
})

test('a client that returns publishes QoS 2 under numbers that no partition has applied, though Redis lost what was noted of them', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  await using a = await startPlane(redis, 'a')
  const [subscriber] = await subscribers(a, 1)
  const publishNext = (session: Session): Promise<void> => publish(a, messageOf('t', String(++session.n), { qos: 2, retain: true, origin: { sid: session.sid, n: session.n } }))
  const applied = async ({ sid }: Session): Promise<(string | null)[]> =>
    [await admin.hget(keys.partition(3, 'published'), sid), await admin.hget(keys.partition(shardOf('t', partitions), 'published'), `retained:${sid}`)]
  const first = await claim(a, 'publisher')
  for (let i = 0; i < 3; i++) await publishNext(first)
  await admin.hdel(keys.session(first.sid, 'session'), 'n')
  const second = await claim(a, 'publisher')
  await publishNext(second)
  expect(second.n).toBeGreaterThan(first.n)
  expect([second.sid === first.sid, Number.isSafeInteger(second.n), await applied(second)]).toEqual([true, true, [String(second.n), String(second.n)]])
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
  await a.plane.sessions.assertAll()
  const stored = await Promise.all(sessions.map(({ sid }) => admin.hget(keys.session(sid, 'session'), 'n')))
  expect(stored).toEqual(['0', String(publishing.n)])
})
