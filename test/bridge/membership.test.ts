// Who is in the cluster: a live name is refused, a lost reply does not lock a node out, a node that stops
// renewing is declared dead by a survivor and its whole estate goes (place, lease, number, routes, inbox),
// also when the survivor dies in the middle of it; who was dead and wakes up is fenced. A node that leaves is
// gone at once and leaves no key behind.
import { describe, expect, test } from 'vitest'
import type { Redis } from 'ioredis'
import { encodeJournalEntry } from '../../bridge/messages/codec.ts'
import { BridgeError } from '../../bridge/errors.ts'
import { Membership, thisProcess } from '../../bridge/membership/membership.ts'
import { RouteKind } from '../../bridge/routes/routing-table.ts'
import { runScript } from '../../bridge/redis/scripts.ts'
import type { TestRedis } from '../support/redis.ts'
import { startLink } from './link.ts'
import { keys, listen, messageOf, onEmptyRedis, publish, routesOf, startPlane, untilEqual } from './planes.ts'

const { everything } = RouteKind
const leaseMs = 600
let redis: TestRedis
let client: Redis
onEmptyRedis((...both) => {
  ;[redis, client] = both
})

describe('joining', () => {
  test('a live name is refused, and the live node notices nothing of it', async () => {
    await using a = await startPlane(redis, 'a')
    await a.plane.addRoute('t', everything)
    await expect(startPlane(redis, 'a')).rejects.toMatchObject({
      code: 'ERR_BRIDGE_DUPLICATE_NODE',
      retryable: false,
    })
    await publish(a, messageOf('t', 'on'))
    expect([a.fenced, routesOf(a), await client.hkeys(keys.bus('nodes'))]).toEqual([
      false,
      [`${a.plane.nodeId} t 1`],
      [a.plane.nodeId],
    ])
  })

  test('a name is free at once when its node left, under another node id', async () => {
    const first = await startPlane(redis, 'a')
    await first.close()
    await using second = await startPlane(redis, 'a')
    expect(second.plane.nodeId).not.toBe(first.plane.nodeId)
    expect(second.plane.nodes).toEqual([second.plane.nodeId])
  })

  test('of two that join under one name at the same moment, one is in', async () => {
    for (let round = 0; round < 5; round++) {
      const joined = await Promise.allSettled([
        startPlane(redis, 'a'),
        startPlane(redis, 'a'),
        startPlane(redis, 'a'),
      ])
      const planes = joined.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
      expect(planes).toHaveLength(1)
      for (const one of joined)
        if (one.status === 'rejected') expect(one.reason).toMatchObject({ code: 'ERR_BRIDGE_DUPLICATE_NODE' })
      await planes[0]!.close()
    }
  })

  test.each([
    ['pid namespace', { pids: 'pid:[1]' }, 'renews its lease'],
    ['time namespace', { times: 'time:[1]' }, 'renews its lease'],
    ['machine of this host name', { machine: 'cloned' }, 'renews its lease'],
    ['pid namespace', { pids: 'pid:[1]' }, 'does not'],
  ])(
    'a boot of the name in another %s, whose pid is nobody here: %j, %s',
    async (_where, elsewhere, does) => {
      const lease = async (): Promise<unknown> => {
        const [seconds, micros] = (await client.time()).map(Number) as [number, number]
        return client.hset(keys.bus('leases'), 'a@5', `5:${seconds * 1e6 + micros}`)
      }
      await client.hset(keys.bus('names'), 'a', 'a@5')
      await client.hset(
        keys.bus('nodes'),
        'a@5',
        JSON.stringify({ ...thisProcess(), ...elsewhere, pid: 1, started: '1', boot: 'x' }),
      )
      await lease()
      const renewing = setInterval(() => {
        if (does !== 'does not') void lease()
      }, 100)
      const joined = await startPlane(redis, 'a', { leaseMs }).then(
        (plane) => plane,
        (error: unknown) => error as BridgeError,
      )
      clearInterval(renewing)
      if (joined instanceof BridgeError)
        expect([does, joined.code]).toEqual(['renews its lease', 'ERR_BRIDGE_DUPLICATE_NODE'])
      else {
        expect([does, joined.plane.nodes]).toEqual(['does not', [joined.plane.nodeId]])
        await joined.close()
      }
    },
  )

  test('the reply to the registration is lost: the node is not locked out by itself', async () => {
    await using link = await startLink(redis)
    const lost = link.loseReply('\r\na@') // the node id, in the reply of node-join
    const joining = startPlane(redis, 'a', { url: link.url })
    await Promise.race([lost, joining])
    await using a = await joining
    expect(await client.hkeys(keys.bus('nodes'))).toEqual([a.plane.nodeId])
  })
})

describe('a lease', () => {
  test('a frozen node is declared dead, its estate goes, and it is fenced when it wakes up', async () => {
    await using link = await startLink(redis)
    await using a = await startPlane(redis, 'a', { leaseMs })
    await using b = await startPlane(redis, 'b', { leaseMs })
    await using victim = await startPlane(redis, 'victim', { leaseMs, url: link.url })
    await victim.plane.addRoute('t', everything)
    await untilEqual([a, b, victim], (routes) => expect(routes).toHaveLength(1))
    await publish(a, messageOf('t', 'alive'))
    using gone = listen<{ nodeId: string }>('nodeGone')
    link.freeze()
    await expect.poll(() => gone.events, { timeout: 10_000 }).toContainEqual({ nodeId: victim.plane.nodeId })
    await untilEqual([a, b], (routes) => expect(routes).toEqual([]))
    expect(await client.keys(`*${victim.plane.nodeId}*`)).toEqual([])
    for (const noun of ['nodes', 'leases', 'batches'] as const)
      expect((await client.hkeys(keys.bus(noun))).sort(), noun).toEqual(
        [a.plane.nodeId, b.plane.nodeId].sort(),
      )
    await publish(a, messageOf('t', 'without it')) // waits for nobody
    expect(victim.fenced).toBe(false)
    link.thaw()
    await expect.poll(() => victim.fenced, { timeout: 10_000 }).toBe(true)
    expect(victim.payloads).not.toContain('without it')
    expect([a.fenced, b.fenced]).toEqual([false, false])
  })

  test('a node that needs longer than a lease to read the snapshot is not declared dead meanwhile', async () => {
    await using a = await startPlane(redis, 'a', { leaseMs })
    using scripts = listen<{ script: string }>('script')
    // a was there for a whole lease: it may judge
    await expect.poll(() => scripts.events.length).toBeGreaterThan(12)
    await using link = await startLink(redis)
    await client.hset(keys.partition(0, 'owners'), '0sid', '')
    await client.hset(keys.session('0sid', 'subscriptions'), 'device/#', '1')
    const held = link.holdReply('device/#') // the snapshot
    const starting = startPlane(redis, 'b', { leaseMs, url: link.url })
    const go = await held
    await new Promise((resolve) => setTimeout(resolve, 2 * leaseMs)) // the fault itself
    go()
    await using b = await starting
    await untilEqual([a, b], (routes) => expect(routes).toEqual([]))
    expect([a.fenced, b.fenced]).toEqual([false, false])
  })

  test('nobody judges after Redis stood still for longer than every lease', async () => {
    await using a = await startPlane(redis, 'a', { leaseMs })
    await using b = await startPlane(redis, 'b', { leaseMs })
    using gone = listen('nodeGone')
    using scripts = listen<{ script: string }>('script')
    // both were there for a whole lease: both may judge
    await expect.poll(() => scripts.events.length).toBeGreaterThan(12)
    redis.pause()
    await new Promise((resolve) => setTimeout(resolve, 2 * leaseMs)) // the fault itself
    redis.resume()
    scripts.events.splice(0)
    await expect
      .poll(() => scripts.events.filter(({ script }) => script === 'node-renew').length, { timeout: 10_000 })
      .toBeGreaterThan(20)
    expect([gone.events, a.fenced, b.fenced]).toEqual([[], false, false])
  })

  test('the survivor dies between the fence and the rest of the estate: another one finishes it', async () => {
    await using a = await startPlane(redis, 'a', { leaseMs })
    const dead = new Membership(a.plane.connection, keys.prefix, 'dead', leaseMs)
    await dead.join()
    const { nodeId } = dead
    await runScript(
      a.plane.connection,
      'inbox-create',
      [keys.inbox(nodeId, 'stream'), keys.inbox(nodeId, 'state')],
      [],
    )
    // Its first step, by a node that is not heard of again:
    await runScript(
      a.plane.connection,
      'node-remove',
      [
        ...(['generation', 'nodes', 'leases', 'batches', 'dead', 'position', 'journal'] as const).map(
          (noun) => keys.bus(noun),
        ),
        keys.routes(nodeId),
      ],
      [nodeId, 0, dead.generation, encodeJournalEntry('survivor@1', [{ type: 'gone', nodeId }]), 100],
    )
    await expect
      .poll(async () => client.keys(`*${nodeId}*`), { timeout: 10_000, message: 'orphan keys' })
      .toEqual([])
    expect(
      await client.hget(keys.inbox(a.plane.nodeId, 'senders'), nodeId),
      'what the dead node may still send is refused',
    ).toBe('F')
  })
})

test('whose format was lost or damaged, the data go on with the partitions that they have', async () => {
  await using a = await startPlane(redis, 'a')
  await a.plane.addRoute('t', everything)
  for (const format of ['', '\u0000']) {
    await client.set(keys.bus('format'), format)
    const joining = new Membership(a.plane.connection, keys.prefix, 'b', leaseMs)
    await joining.join() // one server, and sixteen partitions
    expect(joining.keys.partitions).toBe(16)
    await joining.leave(1_000)
  }
})

test('a cluster that was left by all keeps nothing of its nodes', async () => {
  for (let round = 0; round < 3; round++) {
    const planes = await Promise.all(['a', 'b', 'c'].map((name) => startPlane(redis, name)))
    for (const { plane } of planes) await plane.addRoute('t', everything)
    await publish(planes[0]!, messageOf('t', 'hello'))
    for (const plane of planes) await plane.close()
  }
  expect(await client.keys('*{inbox:*')).toEqual([])
  expect(await client.keys('*routes*')).toEqual([])
  for (const noun of ['nodes', 'leases', 'batches'] as const)
    expect(await client.hlen(keys.bus(noun)), noun).toBe(0)
})
