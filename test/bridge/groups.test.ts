// Groups with a backlog on two live nodes and a real Redis: what nodes do when Redis has lost a group, or when one
// of them dies in the middle.
import { expect, test } from 'vitest'
import type { Redis } from 'ioredis'
import type { Session } from '../../bridge/index.ts'
import { packMessage } from '../../bridge/messages/codec.ts'
import { partitionOf } from '../../bridge/redis/keys.ts'
import { pack } from '../../bridge/redis/pack.ts'
import { runScript } from '../../bridge/redis/scripts.ts'
import { startRedis } from '../support/redis.ts'
import { plantGroups } from '../support/sessions.ts'
import { startLink } from './link.ts'
import { Member } from './member.ts'
import { keys, listen, messageOf, openClient, publish, startPlane, untilEqual, type Plane } from './planes.ts'

const name = '$share/g/t'
const p = keys.partitionFor(name)
const entriesOf = (client: Redis): Promise<Record<string, string>> =>
  client.hgetall(keys.partition(p, 'groups'))
const gidIn = async (client: Redis): Promise<string> => ((await entriesOf(client))[name] ?? '').split(' ')[0]!
const waiting = async (client: Redis): Promise<number> =>
  client.llen(keys.group(await gidIn(client), 'backlog'))

const claim = ({ plane }: Plane, clientId: string): Promise<Session> =>
  plane.sessions.claim({ clientId, cleanStart: false, expirySeconds: 600, will: undefined })

/** A client that subscribes, as its node does it; it takes nothing, so that messages wait. */
async function subscribe(at: Plane, clientId: string): Promise<[Session, Member]> {
  const session = await claim(at, clientId)
  const member = new Member(at, session, name)
  member.limit = 0
  await Promise.all([
    at.plane.addMember(name),
    at.plane.sessions.subscriptions.subscribe(session, name, {
      options: 2,
      identifier: undefined,
      base: member.base,
    }),
  ])
  await at.plane.groups.join(member)
  return [session, member]
}

async function disconnect(at: Plane, [session, member]: [Session, Member]): Promise<void> {
  at.plane.removeMember(name)
  await at.plane.groups.leave(member, false)
  await at.plane.sessions.release(session)
}

async function start(options: { leaseMs?: number } = {}) {
  const redis = await startRedis()
  const client = openClient(redis)
  const [a, b] = await Promise.all([startPlane(redis, 'a', options), startPlane(redis, 'b', options)])
  await untilEqual([a, b])
  return {
    client,
    a,
    b,
    async [Symbol.asyncDispose]() {
      await Promise.all([a.close(), b.close()])
      client.disconnect()
      await redis[Symbol.asyncDispose]()
    },
  }
}

test('a node dies while a QoS 2 message waits for a group that Redis lost: sent again at another node it is stored', async () => {
  await using cluster = await start()
  const { client, a, b } = cluster
  await disconnect(b, await subscribe(b, 'device'))
  const gid = await gidIn(client)
  await client.del(
    keys.partition(p, 'groups'),
    ...(['group', 'members', 'backlog', 'given'] as const).map((noun) => keys.group(gid, noun)),
  )
  const by = { clientId: undefined, sid: `${partitionOf(gid)}publisher`, number: 5 }
  const message = messageOf('t', 'x', { qos: 2, by })
  void publish(a, message)
  await expect.poll(() => client.hexists(keys.partition(p, 'calls'), a.plane.nodeId)).toBe(1)
  await a.close()
  await subscribe(b, 'device')
  await publish(b, message)
  expect(await waiting(client)).toBe(1)
})

test('the entry of a group is lost while nobody is connected: what waits is there, and what comes waits, too', async () => {
  await using cluster = await start()
  const { client, a, b } = cluster
  await disconnect(b, await subscribe(b, 'device'))
  await publish(a, messageOf('t', 'x'))
  await client.del(keys.partition(p, 'groups'))
  await publish(a, messageOf('t', 'y'))
  expect(await waiting(client)).toBe(2)
})

test('Redis loses everything: what is acknowledged from then on is in a backlog, and comes to a member', async () => {
  await using cluster = await start()
  const { client, a, b } = cluster
  const [, member] = await subscribe(b, 'device')
  const before = await gidIn(client)
  await client.flushall()
  await publish(a, messageOf('t', 'x'))
  expect([await waiting(client), (await gidIn(client)) === before]).toEqual([1, false])
  await publish(b, messageOf('t', 'y'))
  member.limit = 100
  b.plane.groups.schedule(member)
  await expect.poll(() => member.payloads).toEqual(['x', 'y'])
  expect(member.isLost).toBe(false)
})

// Of a group without a backlog: what members of a node had is gone with it, what it never read is not.
test('a node dies before it reads what it was picked for: a member elsewhere gets it, once the node is declared dead', async () => {
  await using redis = await startRedis()
  await using link = await startLink(redis)
  const [here, there]: [string[], string[]] = [[], []]
  const into = (list: string[]) => ({
    deliverShared: (message: { payload: Buffer }) => (list.push(message.payload.toString()), true),
  })
  await using a = await startPlane(redis, 'a', { leaseMs: 900, ...into(here) })
  await using b = await startPlane(redis, 'b', { leaseMs: 900, url: link.url, ...into(there) })
  await untilEqual([a, b])
  await Promise.all([a, b].map(({ plane }) => plane.addMember(name)))
  const all = ['1', '2', '3', '4', '5', '6']
  for (const payload of all.slice(0, 2)) await publish(a, messageOf('t', payload))
  await expect.poll(() => here.length + there.length).toBe(2)
  link.freeze()
  try {
    for (const payload of all.slice(2)) await publish(a, messageOf('t', payload))
    // what it had read and not noted may come as well
    await expect.poll(() => here, { timeout: 10_000 }).toEqual(expect.arrayContaining(all.slice(2)))
  } finally {
    link.thaw()
  }
})

// Another sender found its inbox full, and its reader standing still; or it was declared dead this very moment.
test('a node takes nothing any more when it is picked: before PUBACK each message is with a member elsewhere, once', async () => {
  await using redis = await startRedis()
  using client = openClient(redis)
  const here: string[] = []
  await using a = await startPlane(redis, 'a', {
    deliverShared: ({ payload }) => here.push(payload.toString()) > 0,
  })
  await using b = await startPlane(redis, 'b', { deliverShared: () => true })
  await untilEqual([a, b])
  await Promise.all([a, b].map(({ plane }) => plane.addMember(name)))
  await client.hset(keys.inbox(b.plane.nodeId, 'state'), 'sealed', '1')
  const all = ['1', '2', '3', '4', '5', '6']
  await Promise.all(all.map((payload, i) => publish(a, messageOf('t', payload, { qos: i < 3 ? 1 : 2 }))))
  expect(here.sort()).toEqual(all)
})

/** What a node gives to a member, and dies before it tells the member's node. */
async function giveUntold(client: Redis, { plane }: Plane, payload: string): Promise<void> {
  await client.hset(keys.partition(p, 'appended'), 'gone@1', 0)
  const nouns = ['groups', 'calls', 'appended', 'published'] as const
  await runScript(
    client,
    'group-serve',
    nouns.map((noun) => keys.partition(p, noun)),
    [
      'gone@1',
      '1-w',
      keys.sessions(p),
      100,
      1e6,
      1,
      10,
      pack([
        [packMessage(messageOf('t', payload), plane.clock), '', 0, 1, 7],
        [['append', name, [1, 0]]],
        [name, 'demand', 0, ''],
      ]),
    ],
    { made: () => [] },
  )
  for (const noun of ['appended', 'calls'] as const) await client.hdel(keys.partition(p, noun), 'gone@1')
}

// Whoever was told later, or by nobody, had nothing to give back: its node had forgotten it, and Redis had not.
test('a member unsubscribes before it hears what it was given: another one gets that, and it has nothing to wait for', async () => {
  await using cluster = await start()
  const { client, a, b } = cluster
  const [, left] = await subscribe(b, 'left')
  left.limit = 100
  b.plane.groups.schedule(left)
  await publish(b, messageOf('t', 'x'))
  await expect.poll(() => left.payloads).toEqual(['x'])
  const [, other] = await subscribe(a, 'other')
  await giveUntold(client, a, 'y')
  await b.plane.groups.leave(left, true)
  const members = keys.group(await gidIn(client), 'members')
  await expect.poll(() => client.hkeys(members)).toEqual([other.sid])
  other.limit = 100
  a.plane.groups.schedule(other)
  await expect.poll(() => other.payloads).toEqual(['y'])
  left.isLost = false
  b.plane.groups.schedule(left)
  expect([left.isLost, left.payloads]).toEqual([true, ['x']])
})

test('a node leaves while it has a member: what that had goes to another, and nothing of the node is left', async () => {
  await using cluster = await start()
  const { client, a, b } = cluster
  const [, member] = await subscribe(b, 'left')
  const [, other] = await subscribe(a, 'other')
  member.limit = 100
  b.plane.groups.schedule(member)
  member.acknowledges = false
  await publish(b, messageOf('t', 'x'))
  await expect.poll(() => member.payloads).toEqual(['x'])
  const { nodeId } = b.plane
  await b.close()
  other.limit = 100
  a.plane.groups.schedule(other)
  await expect.poll(() => other.payloads).toEqual(['x'])
  expect(await client.hkeys(keys.partition(p, 'calls'))).not.toContain(nodeId)
})

// An entry of `groups` whose group has no member is nobody's: its last member forgets it.
test('the members of a group are lost while all of them are away: what waits is there when they come back', async () => {
  await using cluster = await start({ leaseMs: 900 })
  const { client, a, b } = cluster
  await disconnect(b, await subscribe(b, 'device'))
  await publish(a, messageOf('t', 'x'))
  const gid = await gidIn(client)
  using damaged = listen('damaged')
  await client.del(keys.group(gid, 'members'))
  await expect.poll(() => damaged.events.length, { timeout: 10_000 }).toBe(1)
  await publish(a, messageOf('t', 'y'))
  const [, member] = await subscribe(a, 'device')
  expect(await gidIn(client)).toBe(gid)
  member.limit = 100
  a.plane.groups.schedule(member)
  await expect.poll(() => member.payloads).toEqual(['x', 'y'])
})

test('a QoS 2 message to 1,200 groups of a partition goes in two calls, and to each once, though two nodes write it at once', async () => {
  await using redis = await startRedis()
  using client = openClient(redis)
  const names: string[] = []
  for (let n = 0; names.length < 1_200; n++)
    if (keys.partitionFor(`$share/${n}/t`) === p) names.push(`$share/${n}/t`)
  const gids = await plantGroups(client, keys, p, names)
  const message = (number: number) =>
    messageOf('t', `<${number}>`, { qos: 2, by: { clientId: undefined, sid: 'publisher', number } })
  await using a = await startPlane(redis, 'a')
  using calls = listen<{ script: string }>('script')
  await publish(a, message(1))
  expect(calls.events.filter(({ script }) => script === 'group-serve').length).toBe(2)
  await using b = await startPlane(redis, 'b')
  await Promise.all([2, 3].flatMap((n) => [publish(a, message(n)), publish(b, message(n))]))
  const backlogs = await Promise.all(gids.map((gid) => client.lrange(keys.group(gid, 'backlog'), 0, -1)))
  const payloads = backlogs.map((items) => items.map((item) => /<(\d)>/.exec(item)![1]).join(''))
  expect(payloads.filter((text) => text !== '123')).toEqual([])
  expect(await client.hgetall(keys.partition(p, 'published'))).toEqual({ 'group:publisher': '3' })
})
