// Damaged data on two live nodes: every kind of key, lost, of a wrong type, full of garbage, set back, set
// ahead. Whatever it is, nobody is fenced, what is published elsewhere goes on at once, and what is affected
// heals from live state without anybody's help: what is acknowledged from then on arrives, at live
// subscribers, at connected sessions and at sessions whose clients are away.
import { setTimeout as wait } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { asideOf, keyTable, partitionOf } from '../../bridge/redis/keys.ts'
import type { Session } from '../../bridge/index.ts'
import { RouteKind } from '../../bridge/routes/routing-table.ts'
import type { TestClient } from '../support/client.ts'
import { startCluster } from '../support/cluster.ts'
import { damages, type Damage } from '../support/damage.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { Member } from './member.ts'
import { keys, listen, messageOf, openClient, publish, retainedOf, startPlane, type Plane } from './planes.ts'

const leaseMs = 900
const one = { options: 1, identifier: undefined }
const inPartition = (partition: number, name: string, rest = ''): string =>
  Array.from({ length: 1_000 }, (_, n) => `${name}${n}${rest}`).find(
    (id) => keys.partitionFor(id) === partition,
  )!

let redis: TestRedis
let client: Redis & Disposable
let a: Plane
let b: Plane
/** Connected to b, in partition 3; `elsewhere` in another. */
let session: Session
let elsewhere: Session
let away: Session
let count = 0

let member: Member

const claim = ({ plane }: Plane, clientId: string): Promise<Session> =>
  plane.sessions.claim({
    clientId,
    cleanStart: false,
    expirySeconds: 600,
    will: { message: messageOf('wills', clientId), delaySeconds: 600 },
  })

beforeAll(async () => {
  redis = await startRedis('--appendonly', 'no')
  client = openClient(redis)
  ;[a, b] = await Promise.all([startPlane(redis, 'a', { leaseMs }), startPlane(redis, 'b', { leaseMs })])
  while ([a, b].some(({ plane }) => plane.nodes.length < 2)) await wait(5)
  await Promise.all([a, b].map(({ plane }) => plane.addRoute('live', RouteKind.everything)))
  ;[session, elsewhere] = await Promise.all([
    claim(b, inPartition(3, 'device')),
    claim(b, inPartition(7, 'device')),
  ])
  await b.plane.sessions.subscriptions.subscribe(session, 'stored', one)
  member = new Member(b, session, inPartition(3, '$share/group', '/shared'))
  await b.plane.addRoute(member.name, 1)
  await b.plane.groups.join(member)
  await b.plane.sessions.subscriptions.subscribe(session, member.name, one)
  await b.plane.sessions.subscriptions.subscribe(elsewhere, 'elsewhere', one)
  await leave()
})

afterAll(async () => {
  await Promise.all([a.close(), b.close()])
  client.disconnect()
  await redis[Symbol.asyncDispose]()
})

/**
 * A client of the same partition that is away; it comes and goes before each round, since some damage ends
 * its session.
 */
async function leave(): Promise<void> {
  away = await claim(a, inPartition(3, 'away'))
  await a.plane.sessions.subscriptions.subscribe(away, 'stored', one)
  await a.plane.sessions.release(away)
}

/** The end of its queue, which nobody reads. */
const queued = async ({ sid }: Session): Promise<string> =>
  (await client.lrange(keys.session(sid, 'queue'), -100, -1).catch(() => [])).join(' ')

/** Publishes everywhere, both ways; resolves to what did not arrive. */
async function lost(): Promise<string[]> {
  const text = `#${++count}#`
  const stuck: string[] = []
  await Promise.all(
    [a, b].flatMap((plane, i) =>
      ['live', 'stored', 'elsewhere', 'shared'].map((topic) =>
        Promise.race([
          publish(plane, messageOf(topic, text)),
          wait(3_000).then(() => stuck.push(`${'ab'[i]!} waits to publish ${topic}`)),
        ]),
      ),
    ),
  )
  if (stuck.length > 0) return stuck
  const missing = async (): Promise<string[]> => [
    ...[a, b].flatMap(({ payloads }, i) =>
      payloads.filter((payload) => payload === text).length < 2 ? [`live at ${'ab'[i]!}`] : [],
    ),
    ...(member.payloads.filter((payload) => payload === text).length < 2 ? ['a member of a group'] : []),
    ...(
      await Promise.all(
        [session, elsewhere, away].map(async (one, i) =>
          (await queued(one)).split(text).length < 3
            ? [['the connected session', 'a session elsewhere', 'a session away'][i]!]
            : [],
        ),
      )
    ).flat(),
  ]
  for (let tries = 0; tries < 10 && (await missing()).length > 0; tries++) await wait(10)
  return missing()
}

/** The key of each kind that is damaged: that of b, of the session's partition, of the session. */
async function keyOf(pattern: string): Promise<string> {
  const entry = (await client.hget(keys.partition(3, 'groups'), member.name)) ?? ''
  const key = pattern
    .replace('<node id>', b.plane.nodeId)
    .replace('<n>', '3')
    .replace('<sid>', session.sid)
    .replace('<gid>', entry.split(' ')[0]!)
  return `${keys.prefix}:${key}`
}

/** Each key has what it may have: in flight, coming in, retained, published. */
async function fill(): Promise<void> {
  await publish(
    a,
    messageOf('kept', 'value', {
      retain: true,
      qos: 2,
      by: { clientId: undefined, sid: '3publisher', number: ++count },
    }),
  )
  // What nobody reads before the session moves on may still be damaged by the test before.
  const [inFlight, incoming, imported, bans, access, users] = [
    keys.session(session.sid, 'inflight'),
    keys.session(session.sid, 'incoming'),
    keys.bus('imported'),
    keys.bus('bans'),
    keys.bus('access'),
    keys.partition(3, 'users'),
  ]
  await client.del(inFlight, incoming, imported, bans, access, users)
  await client
    .multi()
    .hset(inFlight, 1, '0')
    .hset(incoming, 1, '5 published')
    .sadd(imported, 'broker client')
    .hset(bans, 'c:banned', '0 reason')
    .hset(access, 'u:ann', 'kept')
    .hset(users, 'ann', session.sid)
    .exec()
}

async function heals(what: string): Promise<void> {
  const end = performance.now() + 4_000
  for (let missing = await lost(); missing.length > 0; missing = await lost())
    if (performance.now() > end) expect(missing, what).toEqual([])
  expect([a.fenced, b.fenced], `${what}: nobody is fenced`).toEqual([false, false])
  expect(member.isLost, `${what}: no connection of a member ends`).toBe(false)
  // What nobody needs at once is written down again with the next renewal or round: two losses in between may
  // be more than can be told apart.
  const places = async (): Promise<unknown[]> =>
    [
      ...(await Promise.all(
        (['nodes', 'batches', 'leases'] as const).flatMap((noun) =>
          [a, b].map(({ plane }) => client.hexists(keys.bus(noun), plane.nodeId)),
        ),
      )),
      ...(await Promise.all(
        [session, elsewhere].map(({ sid }) => client.hget(keys.partition(partitionOf(sid), 'owners'), sid)),
      )),
      ...(await Promise.all(
        [session, elsewhere].map(({ sid }) => client.hget(keys.session(sid, 'session'), 'claim')),
      )),
      ...(await Promise.all(
        [session, elsewhere].map(({ sid }) => client.hlen(keys.session(sid, 'subscriptions'))),
      )),
    ].map((value) => (value === null ? null : String(value)))
  const wanted = [
    ...Array.from({ length: 6 }, () => 1),
    session.owner,
    elsewhere.owner,
    session.claim,
    elsewhere.claim,
    2,
    1,
  ].map(String)
  await expect
    .poll(() => places().catch((error: unknown) => [(error as Error).message]), {
      interval: 10,
      message: what,
    })
    .toEqual(wanted)
}

describe.each(Object.keys(damages) as Damage[])('%s', (damage) => {
  test.each(Object.entries(keyTable).filter(([kind]) => kind !== 'damaged' && kind !== 'probe'))(
    '%s',
    async (kind, { key: pattern, type }) => {
      await fill()
      await leave()
      const key = await keyOf(pattern)
      await damages[damage](client, key, type)
      await heals(`${kind} ${damage}`)
      // A text is written whole by the next renewal that finds it otherwise, whatever stood there.
      if (damage === 'wrong type' && type !== 'string' && (await client.exists(asideOf(key))) === 0)
        expect(await client.type(key), 'it is put aside, or nobody needs it').not.toBe(type)
    },
  )
})

test.each([
  ['a partition', '{s3}'],
  ['the partition of the cluster', '{bus}'],
  ['an inbox', '{inbox:b'],
])('all keys of %s at once', async (_what, tag) => {
  await leave()
  const all = (await client.keys(`${keys.prefix}:*`)).filter(
    (key) => key.includes(tag) && !key.includes('damaged'),
  )
  expect(all.length).toBeGreaterThan(1)
  await client.del(...all)
  await heals(tag)
})

// In one go: the first must not be mended before the second is damaged. An emptied journal remembers its last
// number, the position does not.
test.each([
  ['journal', 'position', 'set back'],
  ['format', 'generation', 'set back'],
  ['format', 'generation', 'garbage'],
  ['format', 'generation', 'absurd'],
] as const)('%s and %s %s at once', async (first, second, damage) => {
  await leave()
  const other = new Redis({ port: redis.port })
  await Promise.all(
    [first, second].map((kind) => damages[damage](other, keys.bus(kind), keyTable[kind].type)),
  )
  other.disconnect()
  await heals(`${first} and ${second} ${damage}`)
})

// A master fails over behind its replica: what happened since the replica fell behind has not happened. What
// is connected stays as it is, what has left leaves once more.
test('all keys of a partition go back to what they were', async () => {
  const names = ['back', 'moved', 'ended', 'left'].map((name) => inPartition(3, name))
  const before = await Promise.all(names.map((name) => claim(a, name)))
  for (const session of before) await a.plane.sessions.subscriptions.subscribe(session, 'out', one)
  await a.plane.sessions.release(before[0]!)
  const keysOfIt = async (): Promise<string[]> =>
    (await client.keys(`${keys.prefix}:*`)).filter((key) => key.includes('{s3}'))
  const dumps = await Promise.all(
    (await keysOfIt()).map(async (key) => [key, await client.dumpBuffer(key)] as const),
  )
  const [back, moved] = [await claim(b, names[0]!), await claim(b, names[1]!)]
  const ended = await b.plane.sessions.claim({
    clientId: names[2]!,
    cleanStart: true,
    expirySeconds: 600,
    will: undefined,
  })
  const fresh = await claim(b, inPartition(3, 'fresh'))
  const connected = [back, moved, ended, fresh]
  for (const session of connected) await b.plane.sessions.subscriptions.subscribe(session, 'in', one)
  for (const session of [back, moved]) await b.plane.sessions.subscriptions.unsubscribe(session, ['out'])
  await a.plane.sessions.release(before[3]!)
  // at once: nodes write meanwhile
  const goingBack = client.multi().del(...(await keysOfIt()), ...dumps.map(([key]) => key))
  for (const [key, dump] of dumps) goingBack.restore(key, 0, dump)
  for (const [error] of (await goingBack.exec())!) expect(error).toBeNull()
  await heals('a partition that went back')
  const owners = keys.partition(3, 'owners')
  const redisHas = (): Promise<unknown[]> =>
    Promise.all([
      ...connected.map(async ({ sid, owner, request }) => [
        (await client.hget(owners, sid)) === owner,
        (await client.hget(keys.partition(3, 'clients'), request.clientId)) === sid,
        await client.hkeys(keys.session(sid, 'subscriptions')),
      ]),
      client.hget(owners, before[2]!.sid), // it ends again, and who left is nobody's again
      client.hget(owners, before[3]!.sid),
    ])
  await expect.poll(redisHas).toEqual([...connected.map(() => [true, true, ['in']]), null, ''])
  expect(
    connected.map(({ sid, isTaken }) => [isTaken, b.plane.sessions.connected(sid) !== undefined]),
  ).toEqual(connected.map(() => [false, true]))
  await publish(a, messageOf('in', 'to those who are connected'))
  for (const session of connected) expect(await queued(session)).toContain('to those who are connected')
  await publish(a, messageOf('out', 'to nobody who is'))
  for (const session of connected) expect(await queued(session)).not.toContain('to nobody who is')
  for (const session of connected) await b.plane.sessions.release(session)
})

test('what was damaged is named, once a minute and key', async () => {
  using damaged = listen<{ key: string; problem: string }>('damaged')
  const key = keys.session(elsewhere.sid, 'queue')
  for (let twice = 0; twice < 2; twice++) {
    await client.set(key, 'x')
    await heals('queue')
  }
  expect(damaged.events.filter((event) => event.key === key)).toEqual([
    { key, problem: `it was a string, not a list; it was put aside as ${asideOf(key)}` },
  ])
  expect(await retainedOf(a, 'nothing')).toEqual([])
})

// Nobody looks after them while the client is away. It is told that it has no session until it subscribes again, since
// what Redis alone knew (QoS 0, groups, Subscription Identifiers) is gone; all else of its session stays.
test.each([
  ['all', 2, (key: string) => client.del(key)],
  ['some', 1, (key: string) => client.hdel(key, 'stored')],
  ['those under a key of a wrong type, which is named for that', 2, (key: string) => client.set(key, 'x')],
] as const)('subscriptions of a client that is away, %s', async (what, lacking, damage) => {
  using damaged = listen<{ key: string; problem: string }>('damaged')
  const id = inPartition(3, `asleep ${what}`)
  const first = await claim(a, id)
  await a.plane.sessions.subscriptions.subscribe(first, 'stored', one)
  await a.plane.sessions.subscriptions.subscribe(first, 'zero', { options: 0, identifier: undefined })
  await a.plane.sessions.release(first)
  await client.hset(keys.session(first.sid, 'incoming'), 7, '5')
  await publish(a, messageOf('stored', 'before'))
  const key = keys.session(first.sid, 'subscriptions')
  await damage(key)
  await publish(b, messageOf('stored', 'after'))
  let again = await claim(b, id)
  expect([again.sid, again.present, again.isResumed, again.incoming.size]).toEqual([
    first.sid,
    false,
    true,
    0,
  ])
  expect([...again.subscriptions.keys()]).toEqual(lacking === 2 ? ['stored'] : ['zero', 'stored'])
  expect(await client.hkeys(key)).toEqual([...again.subscriptions.keys()])
  expect(damaged.events.filter((event) => event.key === key).map(({ problem }) => problem)).toEqual([
    what.includes('type')
      ? `it was a string, not a hash; it was put aside as ${asideOf(key)}`
      : `it lacked ${lacking} subscriptions of a client that was away; 1 were written down again, and the client is told to subscribe again`,
  ])
  await b.plane.sessions.release(again)
  again = await claim(a, id)
  expect(again.present, 'it has not subscribed').toBe(false)
  if (lacking === 2) await a.plane.sessions.subscribedAgain(again)
  else await a.plane.sessions.subscriptions.subscribe(again, 'more', one)
  await a.plane.sessions.release(again)
  again = await claim(b, id)
  expect(again.present).toBe(true)
  expect(await queued(again)).toMatch(/before.*after/)
  await b.plane.sessions.release(again)
})

// Its snapshot lacks what Redis lost; the others have it from the journal.
test('a node that starts while subscriptions of a client that is away are lost queues for it all the same, and says so', async () => {
  using damaged = listen<{ key: string; problem: string }>('damaged')
  const id = inPartition(3, 'asleep at a start')
  const first = await claim(a, id)
  await a.plane.sessions.subscriptions.subscribe(first, 'stored', one)
  await a.plane.sessions.release(first)
  const key = keys.session(first.sid, 'subscriptions')
  await client.del(key)
  await using c = await startPlane(redis, 'c', { leaseMs })
  await publish(c, messageOf('stored', 'by the new one'))
  expect(damaged.events).toContainEqual({
    key,
    problem: 'it lacks 1 subscriptions of a client that is away; the other nodes are asked for them',
  })
  const again = await claim(c, id)
  expect([again.present, [...again.subscriptions.keys()]]).toEqual([false, ['stored']])
  expect(await queued(again)).toMatch(/by the new one/)
  await c.plane.sessions.release(again)
})

test.each([4, 5] as const)(
  'MQTT %i: who subscribes again to what he had is not told again that something was lost',
  async (version) => {
    await using cluster = await startCluster({ nodes: 1 })
    const admin = new Redis(cluster.redis.port)
    onTestFinished(() => admin.disconnect())
    const asleep = `again ${version}`
    const come = (): Promise<TestClient> =>
      cluster.node(0).connect(asleep, { version, clean: false, properties: { sessionExpiryInterval: 600 } })
    const first = await come()
    await first.subscribe('again', { qos: 1 })
    await first.disconnect()
    const [subscriptions] = await admin.keys('*:subscriptions:*')
    await admin.del(subscriptions!)
    const lost = await come()
    expect(lost.sessionPresent).toBe(false)
    await lost.subscribe('again', { qos: 1 })
    await lost.disconnect()
    await expect
      .poll(async () => {
        const next = await come()
        await next.disconnect()
        return next.sessionPresent
      })
      .toBe(true)
  },
)
