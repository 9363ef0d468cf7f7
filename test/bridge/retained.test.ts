// Retained Messages on two planes: stored before they are acknowledged and found by every SUBSCRIBE behind
// that (P2), by name and by wildcard, cleared by an empty payload, left out when expired. Invariant: a topic
// with a value is in every plane's index, also after planes set and clear the same topics at the same time,
// and on a plane that joins later.
import { describe, expect, test } from 'vitest'
import type { Redis } from 'ioredis'
import { Clock } from '../../bridge/pace/clock.ts'
import type { Message } from '../../bridge/messages/message.ts'
import { encodeJournalEntry, unpackMessage } from '../../bridge/messages/codec.ts'

import { RouteKind } from '../../bridge/routes/routing-table.ts'
import { seededRandom } from '../support/random.ts'
import type { TestRedis } from '../support/redis.ts'
import type { Session } from '../../bridge/index.ts'
import { startLink } from './link.ts'
import {
  keys,
  killConnections,
  listen,
  messageOf,
  onEmptyRedis,
  publish,
  retainedBy,
  retainedOf,
  startPlane,
  valueOf,
  type Plane,
} from './planes.ts'

let redis: TestRedis
let client: Redis
onEmptyRedis((...both) => {
  ;[redis, client] = both
})

const retain = (plane: Plane, topic: string, payload: string, more = {}): Promise<void> =>
  publish(plane, messageOf(topic, payload, { retain: true, ...more }))

/** What Redis holds, of all partitions. */
async function stored(): Promise<string[]> {
  const all: string[] = []
  for (let partition = 0; partition < keys.partitions; partition++) {
    const values = Object.entries(await client.hgetallBuffer(keys.partition(partition, 'retained'))).filter(
      ([topic]) => topic !== '',
    )
    for (const [, value] of values) {
      const { topic, payload } = unpackMessage(value.subarray(8), new Clock()) as Message // behind its stamp
      expect(keys.partitionFor(topic)).toBe(partition)
      all.push(`${topic}=${payload.toString()}`)
    }
  }
  return all.sort()
}

describe('store, tell, find', () => {
  test('what was acknowledged on one plane is found on the other, by name and by wildcard', async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    for (const topic of ['x/1', 'x/2', 'x', '/', '$SYS/x', 'y/1']) {
      await retain(a, topic, 'one', { qos: topic === 'x' ? 0 : 1 })
      expect(await retainedOf(b, topic)).toEqual([`${topic}=one`]) // at once
    }
    await retain(b, 'x/1', 'two')
    expect(await retainedOf(a, 'x/#')).toEqual(['x/1=two', 'x/2=one', 'x=one'])
    // not $SYS [MQTT-4.7.2-1]
    expect(await retainedOf(a, '#')).toEqual(['/=one', 'x/1=two', 'x/2=one', 'x=one', 'y/1=one'])
    expect(await retainedOf(b, '$SYS/+')).toEqual(['$SYS/x=one'])
    expect(await retainedOf(b, '+/1')).toEqual(['x/1=two', 'y/1=one'])
    await using late = await startPlane(redis, 'late')
    expect(await retainedOf(late, '#')).toEqual(await retainedOf(a, '#'))
  })

  test('all of a message comes back', async () => {
    await using a = await startPlane(redis, 'a')
    const message = messageOf('t', 'payload', {
      retain: true,
      qos: 2,
      properties: Buffer.from([1, 1]),
      expiresAt: performance.now() + 5e8,
      expirySeconds: 500_000,
    })
    await publish(a, message)
    expect(await retainedBy(a, 't')).toEqual([
      message.with({ expiresAt: expect.closeTo(message.expiresAt, -3) as number, replay: true }),
    ])
    expect(message.stamp).toBeGreaterThan(0)
  })

  test('an empty payload clears, on every plane; what is not retained stores nothing', async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    await retain(a, 'x/1', 'one')
    await retain(b, 'x/1', '')
    await publish(b, messageOf('x/2', 'not to be kept'))
    expect([await retainedOf(a, '#'), await retainedOf(b, 'x/1'), await stored()]).toEqual([[], [], []])
    await retain(a, 'x/1', 'again')
    expect(await retainedOf(b, 'x/+')).toEqual(['x/1=again'])
    a.plane.publish(messageOf('x/1', 'first', { retain: true }), () => undefined)
    a.plane.publish(messageOf('x/1', '', { retain: true }), () => undefined)
    await retain(a, 'x/1', 'last') // all in one batch
    expect(await retainedOf(b, 'x/+')).toEqual(['x/1=last'])
  })

  test('expired ones are left out, and bytes that are not ours are counted', async () => {
    await using a = await startPlane(redis, 'a')
    using garbage = listen('garbage')
    await retain(a, 'x/old', 'one', { expiresAt: performance.now() - 1 })
    await retain(a, 'x/young', 'one', { expiresAt: performance.now() + 60_000 })
    await retain(a, 'x/bad', 'one')
    await client.hset(keys.partition(keys.partitionFor('x/bad'), 'retained'), 'x/bad', 'nonsense')
    expect(await retainedOf(a, 'x/+')).toEqual(['x/young=one'])
    expect(garbage.events).toEqual([{ where: 'retained', bytes: 8 }])
  })

  test('one that expired goes, from Redis and from every index, unless a newer one stands there', async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    for (const topic of ['x/old', 'x/replaced'])
      await retain(a, topic, 'one', { expiresAt: performance.now() - 1 })
    await retain(b, 'x/replaced', 'two')
    await a.plane.sessions.sweep()
    expect(await stored()).toEqual(['x/replaced=two'])
    expect(await retainedOf(b, 'x/+')).toEqual(['x/replaced=two'])
  })

  test('many of them, over more than one read', async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    const wanted = Array.from({ length: 1_500 }, (_, n) => `many/${n}`)
    await Promise.all(wanted.map((topic) => retain(a, topic, 'x')))
    expect(await retainedOf(b, 'many/+')).toEqual(wanted.map((topic) => `${topic}=x`).sort())
  })
})

test('a subscriber gets a retained message live or behind its subscription, whatever the moment', async () => {
  await using a = await startPlane(redis, 'a')
  await using b = await startPlane(redis, 'b')
  const missed: string[] = []
  await Promise.all(
    Array.from({ length: 200 }, async (_, n) => {
      const topic = `race/${n}`
      const retained = retain(a, topic, topic)
      await b.plane.addRoute(`${topic}/#`, RouteKind.everything)
      const found = await retainedOf(b, `${topic}/#`)
      await retained
      if (found.length === 0)
        await expect
          .poll(() => b.payloads, { timeout: 10_000 })
          .toContain(topic)
          .catch(() => missed.push(topic))
    }),
  )
  expect(missed).toEqual([])
})

describe('the index has every topic with a value', () => {
  /** What another node tells, at this moment and not when it did what it tells of. */
  async function tells(topic: string, present: boolean): Promise<void> {
    const position = await client.incr(keys.bus('position'))
    await client.xadd(
      keys.bus('journal'),
      `${position}-0`,
      'e',
      encodeJournalEntry('another@1', [{ type: 'retained', topic, present }]),
    )
  }

  test('a node stored a value and died before it told: who stores the next one tells, though it knew of the topic', async () => {
    await using a = await startPlane(redis, 'a')
    await client.hset(
      keys.partition(keys.partitionFor('x/1'), 'retained'),
      'x/1',
      valueOf(messageOf('x/1', 'never acknowledged')),
    )
    await using late = await startPlane(redis, 'late') // has it with the values
    await retain(late, 'x/1', 'two')
    expect(await retainedOf(a, 'x/+')).toEqual(['x/1=two'])
  })

  test('a node that died cleared a value without telling: who stores the next one tells, though it knew of the topic', async () => {
    await using a = await startPlane(redis, 'a')
    await retain(a, 'x/1', 'one')
    await client.hdel(keys.partition(keys.partitionFor('x/1'), 'retained'), 'x/1')
    await using late = await startPlane(redis, 'late') // it was gone when this one read the values
    await retain(a, 'x/1', 'two')
    expect(await retainedOf(late, 'x/+')).toEqual(['x/1=two'])
  })

  test('the same when the reply to the first attempt was lost: the second one finds what the first one stored', async () => {
    await using link = await startLink(redis)
    await using a = await startPlane(redis, 'a', { url: link.url })
    await retain(a, 'x/1', 'one')
    await client.hdel(keys.partition(keys.partitionFor('x/1'), 'retained'), 'x/1')
    await using late = await startPlane(redis, 'late')
    // a stamp, and that it was the first
    const lost = link.loseReply(`*2\r\n:${String(Date.now()).slice(0, 4)}`)
    await Promise.all([retain(a, 'x/1', 'two'), lost])
    expect(await retainedOf(late, 'x/+')).toEqual(['x/1=two'])
  })

  test('a clearing that is told late, behind a value that was stored after it, hides nothing at any moment', async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    await retain(a, 'x/1', 'one')
    for (let n = 0; n < 20; n++) {
      await tells('x/1', false)
      for (const plane of [a, b]) expect(await retainedOf(plane, 'x/+')).toEqual(['x/1=one'])
    }
  })

  test('after Redis lost its data a topic that was known before is told anew', async () => {
    await using a = await startPlane(redis, 'a')
    await retain(a, 'x/1', 'one')
    await client.flushall()
    await using late = await startPlane(redis, 'late')
    await retain(a, 'x/1', 'two')
    expect(await retainedOf(late, 'x/+')).toEqual(['x/1=two'])
  })

  test('what was cleared leaves every index, and a topic that comes back is found', async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    for (let n = 0; n < 50; n++)
      await Promise.all(
        Array.from({ length: 20 }, (_, i) =>
          retain(n % 2 === 0 ? a : b, `x/${i}`, n % 3 === 0 ? '' : `${n}`),
        ),
      )
    expect(await retainedOf(a, 'x/+')).toEqual(await stored())
    for (let i = 0; i < 20; i++) await retain(b, `x/${i}`, '')
    await expect
      .poll(() => [a.plane.retainedTopics, b.plane.retainedTopics], { timeout: 10_000 })
      .toEqual([0, 0])
  })
})

test('planes that set and clear the same topics at the same time end with every value in every index', async () => {
  const random = seededRandom()
  await using a = await startPlane(redis, 'a')
  await using b = await startPlane(redis, 'b')
  const topics = ['r/0', 'r/1', 'r/2']
  for (let round = 0; round < 60; round++) {
    await Promise.all(
      [a, b].map(async (plane) => {
        for (let n = 0; n < 8; n++) {
          const did = retain(
            plane,
            random.pick(topics),
            random.below(2) === 0 ? '' : `${plane.plane.nodeId} ${round} ${n}`,
          )
          if (random.below(2) === 0) await did
          if (random.below(30) === 0 && n === 0) await killConnections(client)
        }
        await retain(plane, 'other', 'x') // everything before it is done, too
      }),
    )
    const wanted = await stored()
    for (const plane of [a, b])
      expect(await retainedOf(plane, '#'), `seed ${random.seed} round ${round}`).toEqual(wanted)
  }
})

test('a client that moved on has set a newer value: what its old node still had of it does not take its place, nor come behind it', async () => {
  await using link = await startLink(redis)
  await using a = await startPlane(redis, 'a', { url: link.url })
  await using b = await startPlane(redis, 'b')
  await b.plane.addRoute('x/#', RouteKind.everything)
  const claim = ({ plane }: Plane): Promise<Session> =>
    plane.sessions.claim({ clientId: 'client', cleanStart: false, expirySeconds: 600, will: undefined })
  const old = await claim(a)
  await retain(a, 'x/1', 'first', { by: { clientId: undefined, session: old } })
  link.freeze()
  let acknowledged = false
  a.plane.publish(
    messageOf('x/1', 'second', { retain: true, by: { clientId: undefined, session: old } }),
    () => {
      acknowledged = true
    },
  )
  const session = await claim(b)
  await retain(b, 'x/1', 'second', { by: { clientId: undefined, session: session } })
  await retain(b, 'x/1', 'third', { by: { clientId: undefined, session: session } })
  link.thaw()
  await expect.poll(() => old.isTaken).toBe(true)
  await retain(a, 'x/2', 'by another client') // behind it
  expect(await stored()).toEqual(['x/1=third', 'x/2=by another client'])
  await expect.poll(() => b.payloads.at(-1)).toBe('by another client')
  expect(b.payloads).toEqual(['first', 'second', 'third', 'by another client'])
  expect(acknowledged).toBe(true) // to nobody: its connection was taken over
})
