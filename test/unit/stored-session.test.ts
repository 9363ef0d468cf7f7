// The messages of a session with a queue, between Redis, which the test is, and a client that acknowledges
// when the test says so: how much is in flight at once.
import { describe, expect, test } from 'vitest'
import type { InFlightEntry, Message, Session } from '../../bridge/index.ts'
import { nextTurn } from '../../bridge/pace/turns.ts'
import type { Replayed } from '../../broker/routing/replay-pages.ts'
import { StoredSession } from '../../broker/connection/stored-session.ts'
import { limits } from '../../broker/config/limits.ts'
import { messageOf } from '../bridge/planes.ts'

const room = 256 * 1024

/**
 * A session with these messages in its queue; `serve` does what session-serve.lua does until there is nothing
 * to do.
 */
function sessionOf(queue: (Message | 'later')[], inFlight: readonly InFlightEntry[] = [], present = true) {
  const sent: number[] = []
  const payloads: string[] = []
  const failed: unknown[] = []
  const inRedis = new Map<number, Message | 'later'>(
    inFlight.flatMap(({ messageId, message }) => (message === undefined ? [] : [[messageId, message]])),
  )
  let touched = false
  const stored = new StoredSession(
    { present, isResumed: present, inFlight, incoming: new Map() } as unknown as Session,
    limits.inFlightMax,
    {
      matching: ({ topic }) => {
        let turns = topic === 'much' ? 3 : 0 // until it is known what it matches
        return { goOn: () => (turns-- > 0 ? undefined : { match: undefined }) }
      },
      write: ({ message, messageId }) => {
        if (message.topic === 'poison') throw new RangeError('a bug')
        sent.push(messageId)
        payloads.push(message.payload.toString('latin1', 0, 10))
        return message.qos as 1 | 2
      },
      pubrel: () => undefined,
      failed: (error) => {
        failed.push(error)
      },
      room: () => room,
      inFlightBytesMax: limits.inFlightBytesMax,
      schedule: () => {
        touched = true
      },
      writeRefused: () => undefined,
    },
  )
  const serve = (): void => {
    while (touched) {
      touched = false
      const writes = stored.takeWrites()
      if (writes === undefined) continue
      for (const id of [...writes.acknowledged, ...writes.received]) inRedis.delete(id)
      for (const [id, message] of writes.given) inRedis.set(id, message)
      const messages: (Message | 'later')[] = []
      for (let i = 0, left = writes.bytes; i < writes.free.length && left > 0 && queue.length > 0; i++) {
        const message = queue.shift()!
        left -= message === 'later' ? 2 : message.payload.length
        inRedis.set(writes.free[i]!, message)
        messages.push(message)
      }
      stored.written(writes, { messages, left: queue.length })
    }
  }
  const bytes = (): number =>
    [...inRedis.values()].reduce(
      (sum, message) => sum + (message === 'later' ? 0 : message.payload.length),
      0,
    )
  return {
    stored,
    sent,
    payloads,
    serve,
    bytes,
    failed,
    inRedis,
    isScheduled: () => touched,
    unschedule: () => (touched = false),
  }
}

const big = (qos: 1 | 2 = 1): Message => messageOf('t', Buffer.alloc(limits.packetBytesMax), { qos })

test.each([1, 2] as const)(
  'large messages of QoS %i: no more in flight than the ceiling of bytes and one message, and all are sent as they are acknowledged',
  (qos) => {
    const { stored, sent, serve, bytes } = sessionOf(Array.from({ length: 50 }, () => big(qos)))
    stored.start()
    serve()
    const most = limits.inFlightBytesMax / limits.packetBytesMax
    expect(sent.length).toBeGreaterThanOrEqual(most)
    for (let done = 0; done < 50; done++) {
      expect(bytes()).toBeLessThanOrEqual(limits.inFlightBytesMax + limits.packetBytesMax)
      if (qos === 1) stored.complete(sent[done]!)
      else stored.received(sent[done]!) // from PUBREC on nothing of it is stored
      serve()
    }
    expect([sent.length, bytes()]).toEqual([50, 0])
  },
)

test('what an earlier connection left in flight counts: nothing is moved until some of it is acknowledged', () => {
  const inFlight = Array.from({ length: 16 }, (_, n) => ({ messageId: n + 1, order: n, message: big() }))
  const { stored, sent, serve } = sessionOf([big()], inFlight)
  stored.start()
  serve()
  stored.ring()
  serve()
  expect(sent).toEqual(inFlight.map(({ messageId }) => messageId))
  stored.complete(1)
  serve()
  expect(sent.at(-1)).toBe(17)
})

test('what one message matches takes several turns to find: what comes behind it waits, and what its client had by then is not sent', async () => {
  const { stored, payloads, serve } = sessionOf(
    ['1', '2', '3', '4'].map((text) => messageOf(text === '2' ? 'much' : 't', text)),
  )
  stored.start()
  serve()
  expect(payloads).toEqual(['1'])
  stored.complete(3) // never sent
  while (payloads.length < 3) await nextTurn()
  expect(payloads).toEqual(['1', '2', '4'])
})

test('small messages fill the window', () => {
  const { stored, sent, serve } = sessionOf(
    Array.from({ length: 2_000 }, () => messageOf('t', Buffer.alloc(1_000))),
  )
  stored.start()
  serve()
  expect(sent).toHaveLength(limits.inFlightMax)
})

describe('what this node cannot send stays in flight, neither sent nor acknowledged away', () => {
  const small = (topic = 't'): Message => messageOf(topic, 'x')

  test.each([
    ['of a later version', 'later', 0],
    ['whose writing throws', small('poison'), 2],
  ] as const)('a message %s, out of the queue and from before', (_, bad, failures) => {
    const { stored, sent, serve, inRedis, failed } = sessionOf(
      [small(), bad, small()],
      [
        { messageId: 7, order: 0, message: bad },
        { messageId: 9, order: 1, message: small() },
      ],
    )
    stored.start()
    serve()
    expect([sent.length, failed.length]).toEqual([3, failures])
    for (const id of [...sent, ...inRedis.keys()]) stored.complete(id) // a client may say what it likes
    serve()
    expect([...inRedis.values()]).toEqual([bad, bad])
    expect(stored.received([...inRedis.keys()][0]!)).toBe(false)
  })

  test('their number is bounded: beyond it the queue stays as it is', () => {
    const queue = [...Array.from({ length: 2 * limits.inFlightMax }, () => 'later' as const), small()]
    const { stored, serve, inRedis } = sessionOf(queue)
    stored.start()
    for (let round = 0; round < 10; round++) {
      stored.ring()
      serve()
    }
    expect(inRedis.size).toBeLessThanOrEqual(2 * limits.inFlightMax)
    expect(inRedis.size + queue.length).toBe(2 * limits.inFlightMax + 1)
  })
})

describe('Retained Messages because of a SUBSCRIBE', () => {
  const page = (count: number, isWanted = (): boolean => true): Replayed[] =>
    Array.from({ length: count }, (_, n) => ({ message: messageOf('t', `kept ${n}`, { qos: 1 }), isWanted }))

  test('share the window with the queue, and all of them leave', async () => {
    const { stored, sent, payloads, serve } = sessionOf(
      Array.from({ length: 1_500 }, (_, n) => messageOf('t', `live ${n}`)),
    )
    stored.start()
    const given = stored.give(page(1_500), 1, undefined, undefined)
    serve()
    expect([payloads.filter((payload) => payload.startsWith('kept')).length, sent.length]).toEqual([
      limits.inFlightMax / 2,
      limits.inFlightMax,
    ])
    for (let done = 0; done < 3_000; done++) {
      stored.complete(sent[done]!)
      serve()
    }
    await given
    for (const what of ['kept', 'live'])
      expect(payloads.filter((payload) => payload.startsWith(what))).toEqual(
        Array.from({ length: 1_500 }, (_, n) => `${what} ${n}`),
      )
  })

  test('one that a newer message has overtaken is left out, also when it is in flight by then', async () => {
    let isCurrent = true
    const { stored, sent, payloads, serve } = sessionOf([])
    stored.start()
    serve()
    const given = stored.give(page(1), 1, undefined, undefined)
    const writes = stored.takeWrites()!
    expect(writes.given.length).toBe(1)
    isCurrent = false
    const later = stored.give(
      page(2, () => isCurrent),
      1,
      undefined,
      undefined,
    )
    stored.written(writes, { messages: [], left: 0 })
    serve()
    await Promise.all([given, later])
    expect([payloads, sent.length]).toEqual([['kept 0'], 1])
  })

  test("what Redis refused because the session is another's comes when it proves to be ours", async () => {
    const { stored, payloads, serve } = sessionOf([])
    stored.start()
    serve()
    const given = stored.give(page(3), 1, undefined, undefined)
    stored.moved(stored.takeWrites()!)
    stored.ring()
    serve()
    await given
    expect(payloads).toEqual(['kept 0', 'kept 1', 'kept 2'])
  })

  test("a QoS 2 PUBLISH whose write Redis refused hears that the session is another's, after the connection has closed", () => {
    const { stored, serve, isScheduled, unschedule } = sessionOf([])
    stored.start()
    serve()
    const written: boolean[] = []
    stored.record(1, 7, (is) => written.push(is))
    unschedule()
    stored.moved(stored.takeWrites()!)
    expect(isScheduled(), 'whoever refused it is asked whose it is').toBe(false)
    stored.close()
    expect(isScheduled()).toBe(true)
    stored.moved(stored.takeWrites()!)
    expect(written).toEqual([false])
  })

  test('who waits for its turn goes on when the connection closes', async () => {
    const { stored } = sessionOf([])
    stored.start()
    const given = stored.give(page(3), 1, undefined, undefined)
    stored.close()
    await given
  })
})

test('an identifier that comes again while its publish is being written: each is told when it is written itself', () => {
  const { stored, serve } = sessionOf([])
  stored.start()
  serve()
  const told: string[] = []
  stored.record(1, 7, () => told.push('first'))
  const writes = stored.takeWrites()! // on its way to Redis
  stored.forget(1, () => undefined)
  stored.record(1, 8, () => told.push('second'))
  stored.written(writes, { messages: [], left: 0 })
  expect(told).toEqual(['first'])
  serve()
  expect(told).toEqual(['first', 'second'])
})

test('a new session has nothing in its queue: it looks when its bell rings', () => {
  const { stored, sent, serve } = sessionOf([], [], false)
  stored.start()
  expect(stored.takeWrites()).toBeUndefined()
  const known = sessionOf([messageOf('t', 'one', { qos: 1 })], [], false)
  known.stored.start()
  known.stored.ring()
  known.serve()
  serve()
  expect([sent.length, known.sent.length]).toEqual([0, 1])
})
