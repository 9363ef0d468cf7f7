// What the router does between two answers of the data plane, where a message or a client comes in between:
// the data plane here answers when the test says so.
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { expect, test } from 'vitest'
import { RouteKind, type Cluster, type Message, type Session } from '../../bridge/index.ts'
import type { Connection } from '../../broker/connection/connection.ts'
import type { Match, SubscriptionOptions } from '../../broker/routing/local-table.ts'
import { workedOff } from '../../bridge/pace/backlog.ts'
import { loadConfig } from '../../broker/config/config.ts'
import { Router } from '../../broker/routing/router.ts'
import { messageOf } from '../bridge/planes.ts'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

const nothing = (): void => undefined
const options = (qos: 0 | 1 | 2): SubscriptionOptions => ({
  qos,
  noLocal: false,
  retainAsPublished: false,
  identifier: undefined,
})

/** A router on a data plane of which the test says what it does. */
function routerOn(plane: object): Router {
  const router = new Router(loadConfig({}, {}), {
    onPublish: nothing,
    onDrop: nothing,
    onRefusal: nothing,
    onFailed: nothing,
    onHeldBack: nothing,
    onHoldsOn: nothing,
    onClient: nothing,
    onClientError: nothing,
    onEnd: nothing,
    onError: (error) => {
      throw error
    },
    onFenced: nothing,
  })
  router.attach(plane as Cluster)
  return router
}

/** Routes that are counted, and subscriptions that are stored when the test says so. */
function subscribing() {
  const counted = new Map<number, number>()
  const count = (kind: number, by: number): void => {
    counted.set(kind, (counted.get(kind) ?? 0) + by)
  }
  const waiting: (() => void)[] = []
  const subscribe = (
    { subscriptions }: Session,
    filter: string,
    subscription: { options: number; identifier: number | undefined },
  ): Promise<void> => {
    subscriptions.set(filter, subscription)
    return new Promise((resolve) => waiting.push(resolve))
  }
  const router = routerOn({
    isRouted: () => true,
    addRoute: (_filter: string, kind: number) => {
      count(kind, 1)
      return Promise.resolve()
    },
    removeRoute: (_filter: string, kind: number) => count(kind, -1),
    sessions: { subscribe },
  })
  /** Of the match that each message was delivered by: its QoS, and whether the message is queued. */
  const delivered: string[] = []
  const deliver = (_message: Message, { qos, queued }: Match<Connection>): unknown =>
    delivered.push(`${qos} ${queued}`)
  const connection = {
    lasting: true,
    session: { subscriptions: new Map() },
    deliver,
  } as unknown as Connection
  const stored = (): void => {
    for (const resolve of waiting.splice(0)) resolve()
  }
  const subscribed = async (qos: 0 | 1 | 2, filter = 't'): Promise<void> => {
    const done = router.subscribe(connection, filter, options(qos), false)
    stored()
    await done
  }
  const kinds = (): number[] => [RouteKind.everything, RouteKind.qos0].map((kind) => counted.get(kind) ?? 0)
  return { router, connection, delivered, stored, subscribed, kinds }
}

test('a lasting session that goes from QoS 0 to QoS 1 has its messages live until they are queued everywhere', async () => {
  const { router, connection, delivered, stored, subscribed, kinds } = subscribing()
  await subscribed(0)
  const raised = router.subscribe(connection, 't', options(1), false)
  router.deliver(messageOf('t'))
  await workedOff()
  expect([delivered, kinds()]).toEqual([['1 no'], [1, 0]])
  stored()
  await raised
  router.deliver(messageOf('t'))
  await workedOff()
  expect([delivered, kinds()]).toEqual([
    ['1 no', '1 yes'],
    [0, 1],
  ])
})

test('a new QoS 1 subscription beside a QoS 0 one that overlaps it: live until the messages are queued everywhere', async () => {
  const { router, connection, delivered, stored, subscribed, kinds } = subscribing()
  await subscribed(0, '#')
  const added = router.subscribe(connection, 't', options(1), false)
  router.deliver(messageOf('t'))
  await workedOff()
  expect([delivered, kinds()]).toEqual([['1 no'], [1, 1]])
  stored()
  await added
  router.deliver(messageOf('t'))
  await workedOff()
  router.deliver(messageOf('other'))
  await workedOff()
  expect([delivered.slice(1), kinds()]).toEqual([
    ['1 yes', '0 no'],
    [1, 1],
  ])
})

test('a new QoS 1 subscription by itself: not live, and queued when the whole cluster knows of it', async () => {
  const { router, connection, delivered, stored, kinds } = subscribing()
  const added = router.subscribe(connection, 't', options(1), false)
  router.deliver(messageOf('t'))
  await workedOff()
  stored()
  await added
  router.deliver(messageOf('t'))
  await workedOff()
  expect([delivered, kinds()]).toEqual([
    ['1 soon', '1 yes'],
    [0, 1],
  ])
})

test('one that leaves while its subscription goes from QoS 0 to QoS 1 leaves no route and gets nothing more', async () => {
  const { router, connection, delivered, stored, subscribed, kinds } = subscribing()
  await subscribed(0)
  const raised = router.subscribe(connection, 't', options(1), false)
  void router.unsubscribe(connection, 't')
  stored()
  await raised
  router.deliver(messageOf('t'))
  await workedOff()
  expect([delivered, kinds()]).toEqual([[], [0, 0]])
})

test.each([
  [1, 0],
  [1, 2],
  [2, 1],
] as const)(
  'the same filter at QoS %i and behind it at QoS %i, in one SUBSCRIBE, instead of QoS 0: the last one has its way',
  async (first, second) => {
    const { router, connection, delivered, stored, subscribed, kinds } = subscribing()
    await subscribed(0)
    const both = [
      router.subscribe(connection, 't', options(first), false),
      router.subscribe(connection, 't', options(second), false),
    ]
    stored()
    await Promise.all(both)
    router.deliver(messageOf('t'))
    await workedOff()
    expect([delivered, kinds()]).toEqual([
      [second === 0 ? '0 no' : `${second} yes`],
      second === 0 ? [1, 0] : [0, 1],
    ])
  },
)

test('an exception while one subscriber is given a message, a bug, is counted; the others get it', async () => {
  const dropped: string[] = []
  const router = new Router(loadConfig({}, {}), {
    onPublish: nothing,
    onDrop: (cause, qos) => {
      dropped.push(`${cause} ${qos}`)
    },
    onRefusal: nothing,
    onFailed: nothing,
    onHeldBack: nothing,
    onHoldsOn: nothing,
    onClient: nothing,
    onClientError: nothing,
    onEnd: nothing,
    onError: nothing,
    onFenced: nothing,
  })
  router.attach({
    isRouted: () => true,
    addRoute: () => Promise.resolve(),
    removeRoute: nothing,
  } as unknown as Cluster)
  let got = 0
  for (const broken of [false, true, false]) {
    const deliver = (): void => {
      if (broken) throw new RangeError('a bug')
      got++
    }
    void router.subscribe({ lasting: false, deliver } as unknown as Connection, 't', options(1), false)
  }
  router.deliver(messageOf('t'))
  await workedOff()
  expect([got, dropped]).toEqual([2, ['failed 1']])
})

test('who subscribes to one filter again and again has ten replays of it at once, and one more behind them', async () => {
  let asked = 0
  let answer: () => void = nothing
  const answered = new Promise<void>((resolve) => {
    answer = resolve
  })
  const router = routerOn({
    isRouted: () => true,
    addRoute: () => Promise.resolve(),
    removeRoute: nothing,
    hasRetained: () => Promise.resolve(false),
    stamps: () => (
      asked++,
      answered.then(() => ({ stamps: { of: new Float64Array(1), era: { isOver: false } }, told: answered }))
    ),
  })
  const connection = { lasting: false, connackWritten: false } as unknown as Connection
  await router.subscribe(connection, 't', options(1), false)
  for (let n = 0; n < 10_000; n++) router.replay(connection, 't')
  router.replay(connection, 'other')
  expect(asked).toBe(11)
  answer()
  await expect.poll(() => asked).toBe(12)
})

test('a SUBSCRIBE that nothing is retained for reads nothing; of what came live meanwhile it hears behind a barrier of its own', async () => {
  const era = { isOver: false }
  const told = Promise.resolve()
  const asked: unknown[] = []
  let ready = Promise.resolve()
  const router = routerOn({
    isRouted: () => true,
    addRoute: () => Promise.resolve(),
    removeRoute: nothing,
    stamps: () => ready.then(() => ({ stamps: { of: new Float64Array(1), era }, told })),
    hasRetained: (filter: string, behind?: Promise<void>) => {
      asked.push(`has ${filter} ${behind === told ? 'as told' : 'as of now'}`)
      return Promise.resolve(false)
    },
    topics: (filter: string) => {
      asked.push(`read ${filter}`)
      return Promise.resolve([][Symbol.iterator]())
    },
  })
  const connection = {
    lasting: false,
    connackWritten: true,
    roomForMore: () => Promise.resolve(),
    deliver: nothing,
  } as unknown as Connection
  const subscribe = async (filter: string, meanwhile = nothing): Promise<void> => {
    const subscribed = router.subscribe(connection, filter, options(1), true)
    meanwhile()
    await subscribed
    router.replay(connection, filter)
    await new Promise(setImmediate)
  }
  await subscribe('t')
  await subscribe('u', () => {
    router.deliver(messageOf('u', 'live', { stamp: 1 }))
    ready = workedOff() // it may have to wait for its turn
  })
  expect(asked).toEqual(['has t as told', 'has u as of now'])
  era.isOver = true
  await subscribe('v')
  expect(asked.slice(2)).toEqual(['has v as told', 'read v']) // after Redis lost data nothing follows from stamps
})

test('a message for very many subscribers goes in slices; each has its messages in order, and who unsubscribes meanwhile gets nothing more', async () => {
  const router = routerOn({ isRouted: () => true, addRoute: () => Promise.resolve(), removeRoute: nothing })
  const got = Array.from({ length: 200 }, (): string[] => [])
  const subscribers = got.map((payloads) => ({
    clientId: undefined,
    deliver: ({ payload }: Message) => {
      payloads.push(payload.toString())
      for (const end = performance.now() + 0.1; performance.now() < end;);
    },
  }))
  await Promise.all(subscribers.map((subscriber) => router.addSubscriber(subscriber, 't', 0)))
  router.deliver(messageOf('t', '1'))
  router.deliver(messageOf('t', '2'))
  expect(got[0]).not.toContain('2')
  expect(got[199]).toEqual([]) // 20 ms are several slices
  router.removeSubscriber(subscribers[199]!, 't')
  await workedOff()
  expect(new Set(got.slice(0, 199).map((payloads) => payloads.join()))).toEqual(new Set(['1,2']))
  expect(got[199]).toEqual([])
})

/** All combinations of `+` and `a` on so many levels. */
const deep = (levels: number): string[] =>
  Array.from({ length: 2 ** levels }, (_, n) =>
    Array.from({ length: levels }, (_, bit) => (((n >> bit) & 1) === 1 ? '+' : 'a')).join('/'),
  )

test('a message that eight thousand filters match is matched in slices; who unsubscribes meanwhile gets nothing, who has one left gets it', async () => {
  const router = routerOn({ isRouted: () => true, addRoute: () => Promise.resolve(), removeRoute: nothing })
  const got: string[] = []
  const subscribers = ['first', 'second', 'third'].map((clientId) => ({
    clientId,
    deliver: ({ payload }: Message) => got.push(`${clientId} ${payload.toString()}`),
  }))
  const filters = deep(13)
  for (const subscriber of subscribers)
    await Promise.all(filters.map((filter) => router.addSubscriber(subscriber, filter, 0)))
  const topic = filters[0]!
  router.deliver(messageOf(topic, '1'))
  router.deliver(messageOf(topic, '2'))
  expect(got).toEqual([])
  for (const filter of filters) router.removeSubscriber(subscribers[0]!, filter)
  for (const filter of filters.slice(1)) router.removeSubscriber(subscribers[1]!, filter)
  await workedOff()
  expect(got).toEqual(['second 1', 'third 1', 'second 2', 'third 2'])
})

test('what throws when one publish is acknowledged keeps no acknowledgement from the others of its batch', () => {
  const stored: (() => void)[] = []
  const router = routerOn({ publish: (_message: Message, done: () => void) => stored.push(done) })
  const bugs: unknown[] = []
  const guarded = (work: () => void): void => {
    try {
      work()
    } catch (error) {
      bugs.push(error)
    }
  }
  const whenClear = (_clear: undefined, done: () => void): void => done()
  const connection = { guarded, whenClear } as unknown as Connection
  let acknowledged = 0
  router.publish(messageOf('t', '1', { qos: 1 }), connection, () => {
    throw new Error('a bug')
  })
  router.publish(messageOf('t', '2', { qos: 1 }), connection, () => acknowledged++)
  for (const done of stored) done()
  expect([acknowledged, bugs]).toEqual([1, [new Error('a bug')]])
})

test('who subscribes and unsubscribes without end leaves no moment behind', async () => {
  let waiting = 0
  const registry = new FinalizationRegistry(() => waiting--)
  const router = routerOn({
    isRouted: () => true,
    addRoute: () => Promise.resolve(),
    removeRoute: nothing,
    stamps: () => {
      const stamps = { of: new Float64Array(1), era: { isOver: false } }
      registry.register(stamps.of, undefined)
      waiting++
      return Promise.resolve({ stamps, told: Promise.resolve() })
    },
  })
  const connection = { lasting: false, connackWritten: true } as unknown as Connection
  for (let n = 0; n < 1_000; n++) {
    await router.subscribe(connection, `t/${n}`, options(1), false)
    await router.unsubscribe(connection, `t/${n}`)
  }
  await expect.poll(() => (collect(), waiting), { timeout: 10_000 }).toBeLessThan(10)
})
