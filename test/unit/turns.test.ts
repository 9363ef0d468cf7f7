// Work in slices: between two parts the clock is looked at, of small ones not each time, and behind a large
// one always.
import { expect, test } from 'vitest'
import { isBacklogged, whenWorkedOff, workedOff, workOff } from '../../bridge/pace/backlog.ts'
import {
  atEnd,
  later,
  laterConnect,
  laterOn,
  nextConnectTurn,
  nextTurn,
  Slice,
  worked,
} from '../../bridge/pace/turns.ts'
import { limits } from '../../broker/config/limits.ts'
import { PacketReader, type PacketHandler } from '../../broker/protocol/packet-reader.ts'
import { frame, str } from '../support/wire.ts'

const stand = (ms: number): void => {
  for (const end = performance.now() + ms; performance.now() < end;);
}

test('a part that is large behind many that were small ends the slice', async () => {
  const slice = new Slice()
  for (let round = 0; round < 20; round++) {
    await slice.next()
    for (let small = 0; small < 100 && !slice.isOver; small++);
    stand(5)
    worked(1_000)
    expect(slice.isOver, `round ${round}`).toBe(true)
  }
})

/** Work of so many parts that take longer than a slice each. */
function long(parts: number, done: (part: number) => void): void {
  let part = 0
  workOff((slice) => {
    for (; part < parts; part++) {
      if (slice.isOver) return false
      stand(5)
      worked(1_000)
      done(part)
    }
    return true
  })
}

test('what is more than a slice is worked off in later turns, nothing of its kind overtakes it, and who waits goes on in turn', async () => {
  const order: string[] = []
  long(3, (part) => order.push(`first ${part}`))
  expect(order).toEqual(['first 0'])
  workOff(() => order.push('second') > 0)
  whenWorkedOff(() => {
    order.push('third')
    long(2, (part) => order.push(`third ${part}`))
  })
  const all = workedOff()
  await nextTurn()
  expect(order.length).toBeLessThan(4) // others had a turn in between
  await all
  expect(order).toEqual(['first 0', 'first 1', 'first 2', 'second', 'third', 'third 0', 'third 1'])
  expect(isBacklogged()).toBe(false)
})

test('a PUBLISH waits for what the ones before it left to be done; a PINGREQ does not', async () => {
  const read: string[] = []
  const handler = {
    onOther: (type: number) => read.push(type === 12 ? 'PINGREQ' : 'CONNECT'),
    onPublish: () => read.push('PUBLISH'),
    onBehind: () => read.push('behind'),
    onCaughtUp: () => read.push('caught up'),
  } as unknown as PacketHandler
  const limitsOfReader = {
    ...limits,
    topicAliasMax: 0,
    payloadFormat: 'pass',
    unusualCharacters: 'pass',
  } as const
  const reader = new PacketReader(handler, limitsOfReader)
  reader.feed(frame(0x10, str('MQTT'), 4, 2, 0, 0, str('c')))
  while (read.at(-1) !== 'CONNECT' && read.at(-1) !== 'caught up') await nextTurn() // the turn may be over
  read.length = 0
  let isDone = false
  workOff(() => isDone)
  const [ping, publish] = [Buffer.from([0xc0, 0]), frame(0x30, str('t'))]
  reader.feed(Buffer.concat([ping, publish, ping]))
  const packets = (): string[] => read.filter((what) => what === 'PINGREQ' || what === 'PUBLISH')
  while (packets().length === 0) await nextTurn()
  for (let turn = 0; turn < 5; turn++) await nextTurn()
  expect(packets()).toEqual(['PINGREQ'])
  isDone = true
  while (packets().length < 3) await nextTurn()
  expect(packets()).toEqual(['PINGREQ', 'PUBLISH', 'PINGREQ'])
})

test('who goes on does not wait behind connections that end together, and they do not wait for ever', async () => {
  const order: string[] = []
  await nextTurn()
  for (let n = 0; n < 60; n++)
    atEnd(() => {
      stand(2)
      order.push('end')
    })
  const begun = order.length
  later(() => order.push('other'))
  const busy = (): void => {
    stand(20)
    if (order.length < 61) later(busy)
  }
  later(busy)
  while (order.length < 61) await new Promise(setImmediate)
  expect(begun).toBeLessThan(20) // a turn has 12 ms
  expect(order.indexOf('other')).toBe(begun)
})

test('who has little does not wait behind two hundred who have had a slice and send on, nor do these wait for ever', async () => {
  const order: string[] = []
  await nextTurn()
  let left = 60
  const heavy = (): void => {
    stand(4)
    order.push('heavy')
    if (--left >= 30) laterOn(heavy)
  }
  for (let n = 0; n < 30; n++) laterOn(heavy)
  later(() => order.push('light'))
  while (left > 0) await nextTurn()
  expect(order.indexOf('light')).toBe(0)
  expect(order).toHaveLength(61)
})

test('who has little waits neither behind a crowd of CONNECTs nor behind promises that go on in slices', async () => {
  const order: string[] = []
  await nextTurn()
  const all = Array.from({ length: 30 }, async () => {
    const slice = new Slice()
    await slice.next()
    order.push('slice')
  })
  for (let n = 0; n < 30; n++)
    laterConnect(() => {
      stand(1)
      order.push('connect')
    })
  later(() => order.push('light'))
  await Promise.all(all)
  while (order.length < 61) await nextTurn()
  expect(order.indexOf('light')).toBe(0)
  // Nor do they wait for each other: of a millisecond each, a turn has twelve CONNECTs.
  expect(order.slice(1, 15)).toContain('slice')
  expect(order.slice(1, 15)).toContain('connect')
})

test('a crowd whose CONNECTs go on by promises takes no turn each, and what each does counts', async () => {
  await nextTurn()
  let turns = 0
  let isOver = false
  const count = (): void => {
    turns++
    if (!isOver) setImmediate(count)
  }
  setImmediate(count)
  await Promise.all(Array.from({ length: 1_000 }, () => nextConnectTurn()))
  expect(turns).toBeLessThan(500)

  const perTurn = new Map<number, number>()
  const resumes = async (): Promise<void> => {
    await nextConnectTurn()
    for (let step = 0; step < 3; step++) await Promise.resolve() // what it does comes some steps later
    stand(2)
    perTurn.set(turns, (perTurn.get(turns) ?? 0) + 1)
  }
  await Promise.all(Array.from({ length: 30 }, resumes))
  isOver = true
  expect(Math.max(...perTurn.values())).toBeLessThanOrEqual(7) // a turn has 12 ms
})
