// The journal when its past cannot be trusted: trimmed under a reader, replaced by an older prefix as a
// failover does, another entry where the cursor stands, or bytes that are not ours in it. The tables are
// rebuilt and equal again, what the snapshot has is found, what was lost and is alive is asserted anew, and
// new subscriptions arrive.
import { describe, expect, test } from 'vitest'
import type { Redis } from 'ioredis'
import { encodeJournalEntry, type Change } from '../../bridge/messages/codec.ts'

import { RouteKind } from '../../bridge/routes/routing-table.ts'
import type { TestRedis } from '../support/redis.ts'
import { startLink } from './link.ts'
import {
  keys,
  killConnections,
  listen,
  messageOf,
  onEmptyRedis,
  publish,
  retainedOf,
  routesOf,
  startPlane,
  untilEqual,
  valueOf,
  type Plane,
} from './planes.ts'

const { everything } = RouteKind
let redis: TestRedis
let client: Redis
onEmptyRedis((...both) => {
  ;[redis, client] = both
})

type Multi = ReturnType<Redis['multi']>

/**
 * Entries of a node that nobody runs, as one transaction: no reader sees what stands between its first and
 * its last step.
 */
async function appendAtOnce(
  entries: readonly Buffer[],
  alsoWith: (multi: Multi) => void = () => undefined,
): Promise<void> {
  let position = Number(await client.get(keys.bus('position')))
  const multi = client.multi().incrby(keys.bus('position'), entries.length)
  for (const entry of entries) multi.xadd(keys.bus('journal'), `${++position}-0`, 'e', entry)
  alsoWith(multi)
  for (const [error] of (await multi.exec())!) if (error !== null) throw error
}

const ghost = 'ghost@1'
const routeOf = (filter: string): Change => ({ type: 'route', filter, kind: everything })

async function inStep(planes: readonly Plane[]): Promise<void> {
  for (const plane of planes) await publish(plane, messageOf('in/step')) // a barrier
}

async function confirmedReaches(from: Plane, to: Plane, filter: string): Promise<void> {
  await to.plane.addRoute(filter, everything)
  await publish(from, messageOf(filter, filter))
  await expect.poll(() => to.payloads).toContain(filter)
}

describe('trimmed under its readers', () => {
  const trimmed = async (): Promise<void> => {
    await appendAtOnce(
      [
        encodeJournalEntry(ghost, [{ type: 'joined' }]),
        encodeJournalEntry(ghost, [routeOf('one'), routeOf('two')]),
        encodeJournalEntry(ghost, [routeOf('three')]),
      ],
      (multi) => {
        multi
          .hset(keys.bus('nodes'), ghost, '{}')
          .hset(keys.routes(ghost), { one: everything, two: everything, three: everything })
        multi.xtrim(keys.bus('journal'), 'MAXLEN', 1)
      },
    )
  }

  test('the tables are rebuilt from the snapshot, on every plane the same, and the journal goes on', async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    await a.plane.addRoute('mine', everything)
    await inStep([a, b])
    using rebuilt = listen('rebuilt')
    await trimmed()
    const wanted = [`${a.plane.nodeId} mine 1`, `${ghost} one 1`, `${ghost} three 1`, `${ghost} two 1`].sort()
    for (const plane of [a, b]) await expect.poll(() => routesOf(plane)).toEqual(wanted)
    for (const { plane } of [a, b])
      expect([...plane.nodes].sort()).toEqual([a.plane.nodeId, b.plane.nodeId, ghost].sort())
    expect(rebuilt.events.length).toBeGreaterThanOrEqual(2)
    await confirmedReaches(a, b, 'later')
    await confirmedReaches(b, a, 'later')
  })

  test('a node that went in the gap is gone from the tables', async () => {
    await using a = await startPlane(redis, 'a')
    await trimmed()
    await inStep([a])
    await expect.poll(() => routesOf(a)).toHaveLength(3)
    await appendAtOnce(
      [encodeJournalEntry('a@0', [{ type: 'gone', nodeId: ghost }]), encodeJournalEntry('a@0', [])],
      (multi) => {
        multi.hdel(keys.bus('nodes'), ghost).del(keys.routes(ghost)).xtrim(keys.bus('journal'), 'MAXLEN', 1)
      },
    )
    await expect.poll(() => [routesOf(a), a.plane.nodes]).toEqual([[], [a.plane.nodeId]])
  })

  test('a retained topic told in the gap is found', async () => {
    await using a = await startPlane(redis, 'a')
    await inStep([a])
    using rebuilt = listen('rebuilt')
    await appendAtOnce(
      [
        encodeJournalEntry(ghost, [{ type: 'retained', topic: 'kept/1', present: true }]),
        encodeJournalEntry(ghost, [{ type: 'joined' }]),
      ],
      (multi) => {
        multi
          .hset(keys.bus('nodes'), ghost, '{}')
          .hset(
            keys.partition(keys.partitionFor('kept/1'), 'retained'),
            'kept/1',
            valueOf(messageOf('kept/1', 'value')),
          )
        multi.xtrim(keys.bus('journal'), 'MAXLEN', 1)
      },
    )
    await expect.poll(() => rebuilt.events.length).toBeGreaterThan(0)
    expect(await retainedOf(a, 'kept/1')).toEqual(['kept/1=value'])
    expect(await retainedOf(a, 'kept/+')).toEqual(['kept/1=value'])
  })
})

describe('a failover lost the last entries', () => {
  /** All keys of {bus} as they are now, and a way to bring them back: what the promoted replica had. */
  async function copyBus(): Promise<(alsoWith?: (multi: Multi) => void) => Promise<void>> {
    const names = await client.keys('*{bus}*')
    const dumps = await Promise.all(names.map((key) => client.dumpBuffer(key)))
    return async (alsoWith = () => undefined) => {
      const later = (await client.keys('*{bus}*')).filter((key) => !names.includes(key))
      const multi = client.multi()
      if (later.length > 0) multi.del(...later)
      names.forEach((key, n) => multi.restore(key, 0, dumps[n]!, 'REPLACE'))
      alsoWith(multi)
      for (const [error] of (await multi.exec())!) if (error !== null) throw error
      await killConnections(client)
    }
  }

  test('the tables are rebuilt, equal, and new subscriptions arrive', async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    await a.plane.addRoute('before', everything)
    const failOver = await copyBus()
    await a.plane.addRoute('lost/1', everything)
    a.plane.removeRoute('lost/1', everything)
    await b.plane.addRoute('lost/2', everything)
    b.plane.removeRoute('lost/2', everything)
    await inStep([a, b])
    using rebuilt = listen('rebuilt')
    await failOver()
    await expect.poll(() => rebuilt.events.length).toBeGreaterThanOrEqual(2)
    await confirmedReaches(a, b, 'later')
    await confirmedReaches(b, a, 'later')
    await untilEqual([a, b], (routes) =>
      expect(routes).toEqual([
        `${a.plane.nodeId} before 1`,
        `${a.plane.nodeId} later 1`,
        `${b.plane.nodeId} later 1`,
      ]),
    )
    expect([a.fenced, b.fenced]).toEqual([false, false])
  })

  test('a live subscription whose route was lost is asserted again', async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    const failOver = await copyBus()
    await a.plane.addRoute('alive', everything)
    await inStep([a, b])
    await failOver()
    await untilEqual([a, b], (routes) => expect(routes).toEqual([`${a.plane.nodeId} alive 1`]))
    await publish(b, messageOf('alive', 'still'))
    await expect.poll(() => a.payloads).toContain('still')
  })

  test('one that its own node had not read back either', async () => {
    await using link = await startLink(redis)
    await using a = await startPlane(redis, 'a', { url: link.url })
    await using b = await startPlane(redis, 'b')
    const failOver = await copyBus()
    const goOn = link.loseReplies('unread')
    await a.plane.addRoute('unread', everything)
    await failOver()
    goOn()
    await untilEqual([a, b], (routes) => expect(routes).toEqual([`${a.plane.nodeId} unread 1`]))
  })

  test('a Retained Message that was told in the lost entries is found also on a node that had not read them', async () => {
    await using link = await startLink(redis)
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b', { url: link.url })
    await inStep([a, b])
    const failOver = await copyBus()
    const away = link.loseReply('kept/1').then(() => link.freeze())
    await publish(a, messageOf('kept/1', 'value', { retain: true }))
    await away
    await failOver()
    link.thaw()
    await expect.poll(() => retainedOf(b, 'kept/+'), { timeout: 10_000 }).toEqual(['kept/1=value'])
    expect(await retainedOf(a, 'kept/+')).toEqual(['kept/1=value'])
  })

  test('another entry under the number of the cursor is noticed', async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    const failOver = await copyBus()
    await a.plane.addRoute('lost', everything)
    a.plane.removeRoute('lost', everything)
    await expect.poll(() => [routesOf(a), routesOf(b)]).toEqual([[], []])
    await inStep([a, b])
    const position = Number(await client.get(keys.bus('position')))
    await failOver((multi) => {
      const entry = encodeJournalEntry(ghost, [{ type: 'joined' }, routeOf('ghost')])
      for (let n = position - 1; n <= position; n++) multi.xadd(keys.bus('journal'), `${n}-0`, 'e', entry)
      multi
        .set(keys.bus('position'), position)
        .hset(keys.bus('nodes'), ghost, '{}')
        .hset(keys.routes(ghost), 'ghost', everything)
    })
    for (const plane of [a, b])
      await expect.poll(() => routesOf(plane), { timeout: 10_000 }).toEqual([`${ghost} ghost 1`])
  })
})

test('bytes that are not ours are counted and skipped', async () => {
  await using a = await startPlane(redis, 'a')
  await using b = await startPlane(redis, 'b')
  using garbage = listen('garbage')
  const whole = encodeJournalEntry(ghost, [routeOf('never')])
  await appendAtOnce([Buffer.from('nonsense'), whole.subarray(0, whole.length - 1), Buffer.alloc(0)])
  await confirmedReaches(a, b, 'later')
  await untilEqual([a, b], (routes) => expect(routes).toEqual([`${b.plane.nodeId} later 1`]))
  const wanted = [8, whole.length - 1, 0].map((bytes) => ({ where: 'journal', bytes }))
  expect([...garbage.events].sort((x, y) => JSON.stringify(x).localeCompare(JSON.stringify(y)))).toEqual(
    [...wanted, ...wanted].sort((x, y) => JSON.stringify(x).localeCompare(JSON.stringify(y))),
  ) // once per plane
})
