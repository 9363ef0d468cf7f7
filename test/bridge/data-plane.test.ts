// Two or three data planes on one Redis, as nodes use them: routes reach everybody, what is subscribed gets
// what is published afterwards on any node (P2), in order (P3), each kind of route what it asks for. When
// Redis loses everything, the planes register again, nobody is fenced and every live route comes back (P10),
// also when it happens again meanwhile.
import { setTimeout as wait } from 'node:timers/promises'
import { beforeAll, afterAll, beforeEach, describe, expect, test } from 'vitest'
import { diagnostics } from '../../bridge/diagnostics.ts'
import { RouteKind } from '../../bridge/routes/routing-table.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { startLink } from './link.ts'
import {
  killConnections,
  keys,
  listen,
  messageOf,
  openClient,
  publish,
  routesOf,
  startPlane,
  untilEqual,
  type Plane,
} from './planes.ts'

const { everything, qos0 } = RouteKind
let redis: TestRedis

beforeAll(async () => {
  redis = await startRedis('--appendonly', 'no')
})
beforeEach(async () => {
  using client = openClient(redis)
  await client.flushall()
})
afterAll(() => redis[Symbol.asyncDispose]())

/** A message published at each plane reaches each subscriber of `topic`. */
async function reachesAll(planes: readonly Plane[], topic: string): Promise<void> {
  for (const [n, from] of planes.entries()) {
    await publish(from, messageOf(topic, `${topic} from ${n}`))
    for (const to of planes)
      await expect.poll(() => to.payloads, { interval: 5 }).toContain(`${topic} from ${n}`)
  }
}

describe('routes and messages', () => {
  test('routes reach everybody, also who joins later, and go with the last subscription and with their node', async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    await a.plane.addRoute('x/#', everything)
    await a.plane.addRoute('x/#', everything)
    await b.plane.addRoute('y', qos0)
    const c = await startPlane(redis, 'c')
    await c.plane.addRoute('z', everything)
    await untilEqual([a, b, c], (routes) =>
      expect(routes).toEqual([`${a.plane.nodeId} x/# 1`, `${b.plane.nodeId} y 2`, `${c.plane.nodeId} z 1`]),
    )
    a.plane.removeRoute('x/#', everything)
    b.plane.removeRoute('y', qos0)
    await untilEqual([a, b, c], (routes) =>
      expect(routes).toEqual([`${a.plane.nodeId} x/# 1`, `${c.plane.nodeId} z 1`]),
    )
    await c.close()
    a.plane.removeRoute('x/#', everything)
    await untilEqual([a, b], (routes) => expect(routes).toEqual([]))
    using client = openClient(redis)
    expect(await client.keys(`*${c.plane.nodeId}*`)).toEqual([])
  })

  test('a route for everything gets every QoS, one for QoS 0 only that, and a plane its own messages once', async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    await using c = await startPlane(redis, 'c')
    await Promise.all([b.plane.addRoute('t', everything), c.plane.addRoute('t', qos0)])
    await untilEqual([a, b, c], (routes) => expect(routes).toHaveLength(2))
    a.plane.publishQos0(messageOf('t', 'zero', { qos: 0 }))
    await publish(a, messageOf('t', 'one'))
    const expiring = {
      qos: 2,
      properties: Buffer.from([1, 1]),
      expiresAt: performance.now() + 5e8,
      expirySeconds: 500_000,
    } as const
    await publish(a, messageOf('t', 'two', expiring))
    await publish(a, messageOf('u', 'nobody'))
    await publish(a, messageOf('t', 'last'))
    a.plane.publishQos0(messageOf('t', 'last zero', { qos: 0 }))
    await expect.poll(() => b.payloads).toEqual(['zero', 'one', 'two', 'last', 'last zero'])
    await expect.poll(() => c.payloads).toEqual(['zero', 'last zero'])
    expect(a.payloads).toEqual(['zero', 'one', 'two', 'nobody', 'last', 'last zero'])
    expect(b.received[2]).toEqual(
      messageOf('t', 'two', { ...expiring, expiresAt: expect.closeTo(expiring.expiresAt, -3) as number }),
    ) // two nodes know the time to some ms
  })

  test('what is published after subscribed resolved arrives: 1,000 rounds on all pairs of three planes', async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    await using c = await startPlane(redis, 'c')
    const pairs = [
      [a, b],
      [b, c],
      [c, a],
      [b, a],
    ] as const
    const missed: string[] = []
    await Promise.all(
      pairs.map(async ([subscriber, publisher], lane) => {
        for (let round = 0; round < 250; round++) {
          const topic = `lane/${lane}/${round}`
          const filter = round % 2 === 0 ? topic : `lane/${lane}/${round}/#`
          await subscriber.plane.addRoute(filter, everything)
          await publish(publisher, messageOf(topic, topic))
          subscriber.plane.removeRoute(filter, everything)
        }
        const wanted = Array.from({ length: 250 }, (_, round) => `lane/${lane}/${round}`)
        const arrived = (): string[] => {
          const all = new Set(subscriber.payloads)
          return wanted.filter((topic) => !all.has(topic))
        }
        await expect
          .poll(() => arrived().length, { timeout: 10_000 })
          .toBe(0)
          .catch(() => missed.push(...arrived()))
      }),
    )
    expect(missed).toEqual([])
  })

  test("a publisher's messages keep their order on every plane, whatever QoS ≥ 1 they have", async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    await b.plane.addRoute('#', everything)
    const wanted = Array.from({ length: 3_000 }, (_, n) => String(n))
    const done: string[] = []
    for (const payload of wanted) {
      a.plane.publish(messageOf('t', payload, { qos: Number(payload) % 2 === 0 ? 1 : 2 }), () =>
        done.push(payload),
      )
      if (Number(payload) % 100 === 0)
        await new Promise((resolve) => {
          setImmediate(resolve)
        })
    }
    await expect.poll(() => b.payloads.length).toBe(wanted.length)
    await expect.poll(() => done.length).toBe(wanted.length)
    for (const list of [a.payloads, b.payloads, done]) expect(list).toEqual(wanted)
  })

  test('a plane closes while messages for it are on their way, whenever that is', async () => {
    await using a = await startPlane(redis, 'a')
    for (let round = 0; round < 10; round++) {
      const b = await startPlane(redis, 'b')
      await b.plane.addRoute('t', everything)
      await publish(a, messageOf('t', 'first')) // a knows the route
      let publishing = true
      const flood = (async () => {
        while (publishing) {
          a.plane.publishQos0(messageOf('t', 'zero', { qos: 0 }))
          await publish(a, messageOf('t', 'one'))
        }
      })()
      await expect.poll(() => b.payloads.length, { interval: 1 }).toBeGreaterThan(round * 2)
      await b.close()
      publishing = false
      await flood
    }
    await expect.poll(() => a.plane.nodes).toEqual([a.plane.nodeId])
  })
})

describe('Redis lost everything', () => {
  test('every plane registers again and asserts its routes; nobody is fenced, what waits arrives', async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    await using c = await startPlane(redis, 'c')
    const planes = [a, b, c]
    const ids = planes.map(({ plane }) => plane.nodeId)
    for (const { plane } of planes)
      await Promise.all([plane.addRoute('t', everything), plane.addRoute(`own/${plane.nodeId}`, qos0)])
    await untilEqual(planes, (routes) => expect(routes).toHaveLength(6))
    const before = routesOf(a)
    using amnesia = listen<{ nodeId: string }>('amnesia')
    using client = openClient(redis)
    for (let round = 0; round < 3; round++) {
      await client.flushall()
      await reachesAll(planes, 't') // at once: the publisher finds out and waits for the routes
      await expect.poll(async () => (await client.hkeys(keys.bus('nodes'))).sort()).toEqual([...ids].sort())
      await untilEqual(planes, (routes) => expect(routes).toEqual(before))
      for (const to of planes) to.payloads.splice(0)
    }
    expect(planes.map(({ fenced }) => fenced)).toEqual([false, false, false])
    expect(new Set(amnesia.events.map(({ nodeId }) => nodeId))).toEqual(new Set(ids))
    expect(planes.map(({ plane }) => plane.nodeId)).toEqual(ids)
  })

  test('a node that tells its many routes in several entries is missed in none of them', async () => {
    await using link = await startLink(redis)
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b', { url: link.url })
    const filters = Array.from({ length: 5_000 }, (_, n) => `many/${n}`)
    await Promise.all(filters.map((filter) => b.plane.addRoute(filter, everything)))
    await untilEqual([a, b], (routes) => expect(routes).toHaveLength(5_000))
    using client = openClient(redis)
    link.freeze()
    await client.flushall()
    await publish(a, messageOf('nobody')) // it has healed, and given up waiting for the other
    const first = new Promise<void>((resolve) => {
      const hear = (event: unknown): void => {
        if ((event as { script: string }).script !== 'journal-append') return
        diagnostics.script.unsubscribe(hear)
        link.freeze() // behind its first entry, before the next
        resolve()
      }
      diagnostics.script.subscribe(hear)
    })
    link.thaw()
    await first
    const done = filters.map((filter) => publish(a, messageOf(filter, filter)))
    await wait(300)
    link.thaw()
    await Promise.all(done)
    await expect.poll(() => b.payloads.length, { timeout: 10_000 }).toBe(5_000)
    await untilEqual([a, b], (routes) => expect(routes).toHaveLength(5_000))
  })

  test('a subscription that is being made meanwhile is in the new data set when it is confirmed', async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    using client = openClient(redis)
    for (let round = 0; round < 4; round++) {
      const flushed = client.flushall()
      await Promise.all(
        Array.from({ length: 5 }, (_, n) => a.plane.addRoute(`round/${round}/${n}`, everything)),
      )
      await flushed
      await untilEqual([a, b], (routes) =>
        expect(routes.filter((route) => route.includes(` round/${round}/`))).toHaveLength(5),
      )
      for (let n = 0; n < 5; n++) await publish(b, messageOf(`round/${round}/${n}`, `${round}/${n}`))
      await expect
        .poll(() => a.payloads.filter((payload) => payload.startsWith(`${round}/`)), {
          message: `round ${round}`,
        })
        .toHaveLength(5)
    }
    expect([a.fenced, b.fenced]).toEqual([false, false])
  })

  test.each(['', ', and the connections break'])(
    'it does so again while a plane is healing%s: it heals all the same',
    async (alsoThat) => {
      await using a = await startPlane(redis, 'a')
      await using b = await startPlane(redis, 'b')
      for (const { plane } of [a, b]) await plane.addRoute('t', everything)
      await untilEqual([a, b], (routes) => expect(routes).toHaveLength(2))
      using client = openClient(redis)
      let again: Promise<unknown> | undefined
      const hear = (event: unknown): void => {
        if ((event as { script: string }).script !== 'node-rejoin' || again !== undefined) return
        again = client.flushall() // between the first step of healing and the last
        if (alsoThat !== '') again = Promise.all([again, killConnections(client)])
      }
      diagnostics.script.subscribe(hear)
      await client.flushall()
      await expect.poll(() => again, { timeout: 10_000 }).toBeDefined()
      diagnostics.script.unsubscribe(hear)
      await again
      await expect
        .poll(async () => (await client.hkeys(keys.bus('nodes'))).sort(), { timeout: 10_000 })
        .toEqual([a.plane.nodeId, b.plane.nodeId].sort())
      await untilEqual([a, b], (routes) => expect(routes).toHaveLength(2))
      await reachesAll([a, b], 't')
      expect([a.fenced, b.fenced]).toEqual([false, false])
    },
    15_000,
  )
})
