// What stands between a message and a socket, each piece alone: the window (identifiers never reused in
// flight, Receive Maximum, order), the outbox (one write per turn, order, slow and drained), the table of
// subscriptions against a naive model, and the pressure that slow subscribers put on publishers. Random parts
// are seeded: SEED=… repeats a run.
import { Duplex } from 'node:stream'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, test, vi } from 'vitest'
import { Message } from '../../bridge/index.ts'
import { filterMatches } from '../../bridge/matching/topic.ts'
import { LocalDelivery as SlicedDelivery } from '../../broker/routing/delivery.ts'
import { LocalTable, type Match, type Subscription } from '../../broker/routing/local-table.ts'
import type { Subscriber } from '../../broker/routing/subscriber.ts'
import { Outbox } from '../../broker/connection/outbox.ts'
import { Pressure, type SlowPolicy, type SlowSubscriber } from '../../broker/routing/pressure.ts'
import { Window, type Delivery } from '../../broker/connection/window.ts'
import { publishFrame, type Frame } from '../../broker/protocol/publish-frame.ts'
import { seededRandom } from '../support/random.ts'

class Item implements Delivery {
  readonly bytes = 10
  readonly number: number
  readonly qos: 1 | 2
  owned = false
  constructor(number: number, qos: 1 | 2 = 1) {
    this.number = number
    this.qos = qos
  }

  copyPayload(): void {
    this.owned = true
  }
}

/** A window that writes down what it sends. */
function windowOf(max: number): { window: Window<Item>; sent: { number: number; messageId: number }[] } {
  const sent: { number: number; messageId: number }[] = []
  return {
    sent,
    window: new Window<Item>(max, { put: ({ number }, messageId) => sent.push({ number, messageId }) > 0 }),
  }
}

describe('window', () => {
  test('random deliveries and acknowledgements: order, Receive Maximum, no identifier twice in flight', () => {
    const random = seededRandom()
    console.log(`SEED=${random.seed}`)
    for (let round = 0; round < 20; round++) {
      const max = 1 + random.below(200)
      const { window, sent } = windowOf(max)
      for (let n = random.below(300); n < 65_535; n++) {
        // to the end of the identifiers, or nearly
        window.push(new Item(n))
        window.complete(sent.pop()!.messageId)
      }
      const inFlight = new Set<number>()
      let pushed = 0
      let seen = 0
      const look = (): void => {
        for (; seen < sent.length; seen++) {
          const { number, messageId } = sent[seen]!
          const right = number === seen && messageId >= 1 && messageId <= 65_535 && !inFlight.has(messageId)
          expect(
            right,
            `${number} under ${messageId}, which is out of order, out of range or in flight, SEED=${random.seed}`,
          ).toBe(true)
          inFlight.add(messageId)
        }
        const open = Math.min(max, pushed - (seen - inFlight.size))
        expect([inFlight.size, window.inFlight, window.waitingBytes]).toEqual([
          open,
          open,
          (pushed - seen) * 10,
        ])
      }
      for (let step = 0; step < 300; step++) {
        if (random.below(2) === 0 || inFlight.size === 0) window.push(new Item(pushed++, random.pick([1, 2])))
        else {
          const messageId = random.pick([...inFlight])
          inFlight.delete(messageId)
          expect(window.complete(messageId)).toBe(true)
        }
        look()
      }
    }
  })

  test('identifiers wrap around at 49,151 (the rest is for groups), never through 0, and step over those in flight', () => {
    const { window, sent } = windowOf(65_535)
    for (let n = 0; n < 200_000; n++) {
      window.push(new Item(n))
      if (n !== 4) window.complete(sent[n]!.messageId)
    }
    const given = sent.map(({ messageId }) => messageId)
    const wraps = given.flatMap((id, n) => (n > 0 && id < given[n - 1]! ? [[given[n - 1], id]] : []))
    expect(given.filter((id) => id === 5 || id < 1 || id > 49_151)).toEqual([5])
    expect(wraps).toEqual([
      [49_151, 1],
      [49_151, 1],
      [49_151, 1],
      [49_151, 1],
    ])
  })

  test('all 49,151 identifiers in flight: the next waits, and gets the one that comes free', () => {
    const { window, sent } = windowOf(100_000)
    for (let n = 0; n < 65_536; n++) window.push(new Item(n))
    expect(sent).toHaveLength(49_151)
    window.complete(777)
    expect(sent[49_151]).toEqual({ number: 49_151, messageId: 777 })
  })

  test('what waits is made its own, what is sent at once is not', () => {
    const { window } = windowOf(1)
    const items = [new Item(0), new Item(1)]
    for (const item of items) window.push(item)
    expect(items.map(({ owned }) => owned)).toEqual([false, true])
  })

  test('what is not worth sending any more takes no place, and what waits behind it goes', () => {
    const sent: number[] = []
    const window = new Window<Item>(1, { put: ({ number }) => number % 2 === 0 && sent.push(number) > 0 })
    for (let n = 0; n < 5; n++) window.push(new Item(n))
    expect(sent).toEqual([0])
    window.complete(1)
    expect(sent).toEqual([0, 2])
    expect(window.inFlight).toBe(1)
    expect(window.waitingBytes).toBe(20)
  })

  test('an acknowledgement of what is not in flight changes nothing; PUBREC keeps the identifier', () => {
    const { window, sent } = windowOf(1)
    window.push(new Item(0, 2))
    window.push(new Item(1, 2))
    const { messageId } = sent[0]!
    expect([window.complete(messageId + 1), window.has(messageId + 1)]).toEqual([false, false])
    expect(window.has(messageId)).toBe(true)
    expect(window.has(messageId)).toBe(true) // PUBREC came again: PUBREL goes again
    expect(sent).toHaveLength(1)
    window.complete(messageId)
    expect(sent).toHaveLength(2)
    expect(window.complete(messageId)).toBe(false)
  })

  test('10,000 that wait leave in order, and clear() forgets the rest', () => {
    const { window, sent } = windowOf(3)
    for (let n = 0; n < 10_000; n++) window.push(new Item(n))
    for (let n = 0; n < 9_000; n++) window.complete(sent[n]!.messageId)
    expect(sent.map(({ number }) => number)).toEqual(Array.from({ length: 9_003 }, (_, n) => n))
    window.clear()
    expect([window.inFlight, window.waitingBytes]).toEqual([0, 0])
    window.pump()
    expect(sent).toHaveLength(9_003)
  })
})

/** A stream that writes down each write and takes it only when told to. */
class Sink extends Duplex {
  readonly writes: Buffer[] = []
  #stuck: (() => void) | undefined
  stuck = false
  constructor() {
    super({ writableHighWaterMark: 1_000 })
  }
  override _read(): void {
    /* nothing comes */
  }
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.writes.push(chunk)
    this.emit('wrote')
    if (this.stuck) this.#stuck = done
    else done()
  }

  release(): void {
    this.stuck = false
    this.#stuck?.()
  }
}

const limits = { highBytes: 10_000, lowBytes: 2_000 }
const frameOf = (payload: Buffer, qos: 0 | 1 | 2): Frame =>
  publishFrame(Message.of({ topic: 't', payload, qos, retain: false }), false, qos, false, undefined)

describe('outbox', () => {
  test('what comes in a turn leaves in one write, in order', async () => {
    const sink = new Sink()
    const outbox = new Outbox(sink, limits, { onDrain: () => undefined })
    outbox.push(Buffer.from('one'))
    outbox.pushPublish(frameOf(Buffer.from('two'), 0))
    outbox.pushPublish(frameOf(Buffer.from('three'), 1), 0x1234, false)
    outbox.pushPublish(frameOf(Buffer.from('four'), 2), 0xfffe, true)
    expect(sink.writes).toHaveLength(0)
    await nextTurn()
    expect(sink.writes).toHaveLength(1)
    expect(sink.writes[0]!.toString('hex')).toBe(
      Buffer.concat([
        Buffer.from('one'),
        Buffer.from([0x30, 6, 0, 1]),
        Buffer.from('ttwo'),
        Buffer.from([0x32, 10, 0, 1]),
        Buffer.from('t'),
        Buffer.from([0x12, 0x34]),
        Buffer.from('three'),
        Buffer.from([0x3c, 9, 0, 1]),
        Buffer.from('t'),
        Buffer.from([0xff, 0xfe]),
        Buffer.from('four'),
      ]).toString('hex'),
    )
    await nextTurn()
    expect(sink.writes).toHaveLength(1)
  })

  test('DUP is set for one delivery, not for all that share the frame', async () => {
    const sink = new Sink()
    const outbox = new Outbox(sink, limits, { onDrain: () => undefined })
    const frame = frameOf(Buffer.from('p'), 1)
    outbox.pushPublish(frame, 1, true)
    outbox.pushPublish(frame, 2, false)
    await nextTurn()
    expect([sink.writes[0]![0], sink.writes[0]![frame.length]]).toEqual([0x3a, 0x32])
  })

  test('random sizes over many turns: every byte, in order, in few writes; later writes do not touch earlier ones', async () => {
    const random = seededRandom()
    const sink = new Sink()
    const outbox = new Outbox(sink, limits, { onDrain: () => undefined })
    const all: Buffer[] = []
    const turns = 100
    for (let turn = 0; turn < turns; turn++) {
      for (let n = random.below(8); n >= 0; n--) {
        const bytes = Buffer.alloc(random.pick([1, 10, 1_000, 5_000]), random.below(256))
        all.push(Buffer.from(bytes))
        outbox.push(bytes)
        bytes.fill(0) // it is copied: whoever gave it may use it again
      }
      await nextTurn()
    }
    expect(Buffer.concat(sink.writes).equals(Buffer.concat(all))).toBe(true)
    expect(sink.writes.length).toBeLessThanOrEqual(turns)
  })

  test('a large payload is one piece for all who get it, in order with what is small, and who gets only small things goes first', async () => {
    const sinks = [new Sink(), new Sink(), new Sink()]
    const [first, second, third] = sinks.map(
      (sink) => new Outbox(sink, limits, { onDrain: () => undefined }),
    ) as [Outbox, Outbox, Outbox]
    const large = frameOf(Buffer.alloc(100_000, 0xaa), 1)
    const writes: Sink[] = []
    for (const sink of sinks) sink.on('wrote', () => writes.push(sink))
    for (const outbox of [first, second]) {
      outbox.push(Buffer.from('one'))
      outbox.pushPublish(large, 7)
      outbox.push(Buffer.from('two'))
    }
    expect(first.bytes).toBe(3 + large.length + 3)
    third.push(Buffer.from('small'))
    await nextTurn()
    await nextTurn()
    expect(writes[0]).toBe(sinks[2])
    const [a, b] = sinks.map((sink) => sink.writes.find(({ length }) => length === 100_000)!) as [
      Buffer,
      Buffer,
    ]
    expect(a.buffer).toBe(b.buffer)
    for (const sink of sinks.slice(0, 2))
      expect(Buffer.concat(sink.writes).toString('latin1')).toMatch(/^one2.{3}\0\x01t\0\x07\xaa{100000}two$/s)
  })

  test('a turn that brings more than 64 KiB is written in several parts, and one big packet whole', async () => {
    const sink = new Sink()
    const outbox = new Outbox(sink, limits, { onDrain: () => undefined })
    for (let n = 0; n < 100; n++) outbox.push(Buffer.alloc(2_000, n))
    outbox.push(Buffer.alloc(300_000, 0xaa))
    await nextTurn()
    expect(Buffer.concat(sink.writes).length).toBe(500_000)
    expect(sink.writes.length).toBeLessThan(10)
    expect(Math.max(...sink.writes.slice(0, -1).map(({ length }) => length))).toBeLessThanOrEqual(65_536)
  })

  test('slow above highBytes, until drained to lowBytes: reported once each time', async () => {
    const sink = new Sink()
    const drained = vi.fn()
    const outbox = new Outbox(sink, limits, { onDrain: drained })
    for (let round = 1; round <= 3; round++) {
      sink.stuck = true
      outbox.push(Buffer.alloc(9_000))
      expect([outbox.slow, outbox.bytes]).toEqual([false, 9_000])
      outbox.push(Buffer.alloc(1_001))
      expect([outbox.slow, outbox.bytes]).toEqual([true, 10_001])
      await nextTurn()
      // the stream has it now, and has not sent it
      expect([outbox.slow, outbox.bytes]).toEqual([true, 10_001])
      expect(drained).toHaveBeenCalledTimes(round - 1)
      sink.release()
      await nextTurn()
      expect([outbox.slow, outbox.bytes]).toEqual([false, 0])
      expect(drained).toHaveBeenCalledTimes(round)
    }
  })

  test('close writes what is there, then nothing; a destroyed stream is not written to', async () => {
    const sink = new Sink()
    const outbox = new Outbox(sink, limits, { onDrain: () => undefined })
    outbox.push(Buffer.from('last'))
    outbox.close()
    outbox.push(Buffer.from('too late'))
    await nextTurn()
    expect(Buffer.concat(sink.writes).toString()).toBe('last')
    const dead = new Sink()
    const other = new Outbox(dead, limits, { onDrain: () => undefined })
    dead.destroy()
    other.push(Buffer.from('x'))
    await nextTurn()
    expect(dead.writes).toEqual([])
  })
})

describe('local table', () => {
  const words = ['a', 'b', '', '$x']
  const options = (qos: 0 | 1 | 2, more: Partial<Subscription> = {}): Subscription => ({
    qos,
    noLocal: false,
    retainAsPublished: false,
    identifier: undefined,
    queued: 'no',
    since: undefined,
    ...more,
  })

  test('random adds, removes and matches equal a naive model', () => {
    const random = seededRandom()
    console.log(`SEED=${random.seed}`)
    const level = (...more: string[]): string => random.pick([...words, ...more])
    const topicOf = (): string => Array.from({ length: 1 + random.below(3) }, () => level()).join('/')
    const filterOf = (): string =>
      [
        ...Array.from({ length: 1 + random.below(3) }, () => level('+')),
        ...(random.below(3) === 0 ? ['#'] : []),
      ].join('/')
    const subscribers = Array.from({ length: 5 }, (_, name) => ({ name }))
    for (let round = 0; round < 8; round++) {
      const table = new LocalTable<{ name: number }>()
      const model = new Map<string, Map<{ name: number }, Subscription>>()
      const naive = (topic: string, subscriber: { name: number }, own: boolean): Subscription[] =>
        [...model]
          .filter(([filter]) => filterMatches(filter, topic))
          .flatMap(([, all]) => all.get(subscriber) ?? [])
          .filter(({ noLocal }) => !own || !noLocal)
      const merged = (all: Subscription[]): object => ({
        qos: Math.max(...all.map(({ qos }) => qos)),
        retainAsPublished: all.some(({ retainAsPublished }) => retainAsPublished),
        noLocal: all.some(({ noLocal }) => noLocal),
        identifiers: all.flatMap(({ identifier }) => identifier ?? []).sort(),
        queued: (['yes', 'no', 'soon'] as const).find((way) => all.some(({ queued }) => queued === way)),
      })
      const shown = ({ qos, retainAsPublished, noLocal, identifiers, queued }: Match<object>): object => ({
        qos,
        retainAsPublished,
        noLocal,
        queued,
        identifiers: [...(identifiers ?? [])].sort(),
      })
      for (let step = 0; step < 250; step++) {
        const filter = filterOf()
        const subscriber = random.pick(subscribers)
        if (random.below(5) < 2) {
          const wanted = options(random.pick([0, 1, 2]), {
            noLocal: random.below(3) === 0,
            retainAsPublished: random.below(2) === 0,
            queued: random.pick(['no', 'soon', 'yes']),
            identifier: random.pick([undefined, step + 1]),
          })
          table.add(filter, subscriber, wanted)
          model.set(
            filter,
            (model.get(filter) ?? new Map<{ name: number }, Subscription>()).set(subscriber, wanted),
          )
        } else if (random.below(2) === 0) {
          const known = random.pick([filter, ...model.keys()])
          table.remove(known, subscriber)
          model.get(known)?.delete(subscriber)
        }
        expect(table.get(filter, subscriber)).toBe(model.get(filter)?.get(subscriber))
        const topic = topicOf()
        const matches = table.match(topic)
        expect(new Set(matches.map((match) => match.subscriber)).size).toBe(matches.length)
        const got = subscribers.map((one) =>
          [
            matches.find((match) => match.subscriber === one),
            table.matchOf(topic, one, ({ noLocal }) => !noLocal),
            matches.find((match) => match.subscriber === one)?.own,
          ].map((match) => match && shown(match)),
        )
        const wanted = subscribers.map((one) =>
          [naive(topic, one, false), naive(topic, one, true), naive(topic, one, true)].map((all) =>
            all.length === 0 ? undefined : merged(all),
          ),
        )
        expect(got, `${topic}, SEED=${random.seed}`).toEqual(wanted)
      }
    }
  })

  test('a subscriber with more matching filters than a call can have arguments', () => {
    const table = new LocalTable<object>()
    const subscriber = {}
    const filterOf = (n: number): string =>
      Array.from({ length: 17 }, (_, bit) => (((n >> bit) & 1) === 1 ? 'a' : '+')).join('/')
    for (let n = 0; n < 131_072; n++) table.add(filterOf(n), subscriber, options(1))
    expect(table.match('a/'.repeat(16) + 'a')).toMatchObject([{ qos: 1 }])
  })

  test('a match is remembered until one of its filters changes', () => {
    const table = new LocalTable<object>()
    const subscriber = {}
    table.add('a/+', subscriber, options(0))
    const first = table.match('a/b')
    expect(table.match('a/b')).toBe(first)
    table.add('other/+', subscriber, options(2))
    expect(table.match('a/b')).toBe(first)
    table.add('a/+', subscriber, options(1))
    expect(table.match('a/b')).toMatchObject([{ qos: 1 }])
    table.remove('a/+', subscriber)
    expect(table.match('a/b')).toEqual([])
    table.add('a/+', subscriber, options(2)) // gone and back: no old match comes up again
    expect(table.match('a/b')).toMatchObject([{ qos: 2 }])
  })
})

describe('delivery in slices', () => {
  test('who unsubscribes and subscribes again while its filter is looked at gets the message once', () => {
    const table = new LocalTable<Subscriber>()
    const subscribers = Array.from({ length: 200 }, () => ({}) as Subscriber)
    const options: Subscription = {
      qos: 2,
      noLocal: false,
      retainAsPublished: false,
      identifier: undefined,
      queued: 'no',
      since: undefined,
    }
    for (const subscriber of subscribers) table.add('t', subscriber, options)
    const got = new Map<Subscriber, number>()
    const message = Message.of({ topic: 't', payload: Buffer.alloc(0), qos: 2, retain: false })
    const delivery = new SlicedDelivery(table, message, (subscriber) => {
      got.set(subscriber, (got.get(subscriber) ?? 0) + 1)
    })
    const over = { isOver: true }
    expect(delivery.goOn(over)).toBe(false) // some of them are taken in
    table.remove('t', subscribers[0]!)
    table.add('t', subscribers[0]!, options)
    while (!delivery.goOn({ isOver: false }));
    expect([...got.values()]).toEqual(subscribers.map(() => 1))
  })
})

describe('pressure', () => {
  /** A subscriber that takes what the test says, when it is asked. */
  class Reader implements SlowSubscriber {
    slowPolicy: SlowPolicy = 'hold'
    waitingBytes = 2_000
    takes = 0
    progress(): number {
      return this.takes
    }
  }

  /** Told to the other nodes: topics held and let go; a steady reader takes 100 bytes in each `holdMs`. */
  const pressureOf = (holdMs: number): { pressure: Pressure<Reader>; told: string[]; heldOn: Reader[] } => {
    const told: string[] = []
    const heldOn: Reader[] = []
    const sizes = { slowHoldMs: holdMs, slowBytesMax: 1_600, waitingBytesMax: 20_000 }
    const pressure = new Pressure<Reader>(sizes, {
      announce: (topic, held) => told.push(`${topic} ${held}`),
      holdsOn: (subscriber) => heldOn.push(subscriber),
    })
    return { pressure, told, heldOn }
  }
  const alive = (): Disposable => {
    const timer = setTimeout(() => undefined, 10_000) // those of pressure are unref'd
    return { [Symbol.dispose]: () => clearTimeout(timer) }
  }

  test('who published on a topic waits until all who are behind with it have drained; others do not wait', async () => {
    const { pressure, told } = pressureOf(60_000)
    const [one, two] = [new Reader(), new Reader()]
    expect(pressure.of('t')).toBeUndefined()
    pressure.slow(one, 't')
    pressure.slow(two, 't')
    pressure.slow(two, 'u')
    expect(pressure.of('other')).toBeUndefined()
    const clear = vi.fn()
    const waiting = pressure.of('t')!.then(clear)
    pressure.drained(one)
    await nextTurn()
    expect(clear).not.toHaveBeenCalled()
    pressure.drained(two)
    await waiting
    expect([pressure.of('t'), pressure.of('u')]).toEqual([undefined, undefined])
    expect(told).toEqual(['t true', 'u true', 't false', 'u false']) // once each, however many hold it here
  })

  test('who stays behind and takes nothing holds nobody up longer than its time, and not again before it has drained', async () => {
    const { pressure, told, heldOn } = pressureOf(20)
    using _ = alive()
    const subscriber = new Reader()
    subscriber.waitingBytes = 15_000
    pressure.slow(subscriber, 't')
    await pressure.of('t')
    await vi.waitFor(() => expect(told).toEqual(['t true', 't false']))
    expect([heldOn, pressure.isReading(subscriber, 't')]).toEqual([[], false])
    pressure.slow(subscriber, 't')
    expect(pressure.of('t')).toBeUndefined()
    pressure.drained(subscriber)
    pressure.slow(subscriber, 't')
    expect(pressure.of('t')).toBeInstanceOf(Promise)
    pressure.drained(subscriber)
    expect(pressure.of('t')).toBeUndefined()
  })

  test('who reads steadily holds on until it has drained, and the other nodes hear it again; those who wait go on now and then', async () => {
    const { pressure, told, heldOn } = pressureOf(20)
    using _ = alive()
    const subscriber = new Reader()
    subscriber.takes = 100
    pressure.slow(subscriber, 't')
    for (let n = 0; n < 2; n++) await pressure.of('t')
    expect(new Set(told)).toEqual(new Set(['t true']))
    expect(told.length).toBeGreaterThan(1) // how often depends on the machine
    expect(heldOn[0]).toBe(subscriber)
    expect(pressure.of('t')).toBeInstanceOf(Promise)
    subscriber.takes = 0
    await vi.waitFor(() => expect(told.at(-1)).toBe('t false'))
    pressure.drained(subscriber)
  })

  test('who reads slower than that holds again when half of what may wait does, until a quarter of that is gone', async () => {
    const { pressure, told } = pressureOf(20)
    using _ = alive()
    const subscriber = new Reader()
    subscriber.takes = 1
    pressure.slow(subscriber, 't')
    await vi.waitFor(() => expect(told.at(-1)).toBe('t false'))
    pressure.slow(subscriber, 't')
    expect(pressure.of('t')).toBeUndefined()
    expect(pressure.isReading(subscriber, 't'), 'it is not cut off').toBe(true)
    subscriber.waitingBytes = 10_000
    await vi.waitFor(() => {
      pressure.slow(subscriber, 't')
      expect(pressure.of('t')).toBeInstanceOf(Promise)
    })
    const before = told.length
    subscriber.waitingBytes = 7_501
    await vi.waitFor(() => expect(told.length).toBeGreaterThan(before + 2))
    expect(told.at(-1)).toBe('t true')
    subscriber.waitingBytes = 7_499
    await vi.waitFor(() => expect(told.at(-1)).toBe('t false'))
    pressure.drained(subscriber)
  })

  test('with disconnect it holds for its time, however it reads, and is not spared', async () => {
    const { pressure, told } = pressureOf(20)
    using _ = alive()
    const subscriber = new Reader()
    subscriber.slowPolicy = 'disconnect'
    subscriber.takes = 1_000
    pressure.slow(subscriber, 't')
    await vi.waitFor(() => expect(told).toEqual(['t true', 't false']))
    expect(pressure.isReading(subscriber, 't')).toBe(false)
    pressure.drained(subscriber)
  })

  test('topics of other nodes are held until they let go, or for as long as a node may hold', async () => {
    const { pressure, told } = pressureOf(30)
    pressure.other('b', ['t', 'u'], true)
    pressure.other('c', ['t'], true)
    const [t, u] = [pressure.of('t'), pressure.of('u')]
    pressure.other('b', ['t', 'u'], false)
    await u
    expect(pressure.of('t')).toBeInstanceOf(Promise)
    using _ = alive()
    await t
    await vi.waitFor(() => expect(pressure.of('t')).toBeUndefined())
    expect(told).toEqual([]) // theirs to tell
  })

  test('drained of one that was not behind changes nothing', () => {
    const { pressure } = pressureOf(60_000)
    const subscriber = new Reader()
    pressure.slow(subscriber, 't')
    pressure.drained(new Reader())
    expect(pressure.of('t')).toBeInstanceOf(Promise)
    pressure.drained(subscriber)
  })
})
