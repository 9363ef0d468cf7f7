// What a node holds for its clients as a whole: whoever was told to read no more is told to read on, whatever
// room there is.
import { expect, test } from 'vitest'
import { Holdings, type Holder } from '../../broker/connection/holdings.ts'

const chunk = 65_536

class Reader implements Holder {
  comingBytes: number
  readonly waitingBytes = 0
  goesOn = false
  constructor(bytes: number) {
    this.comingBytes = bytes
  }
  readForRoom(): void {
    this.goesOn = true
  }
  endForRoom(): void {
    throw new Error('ended')
  }
}

test('less room than a chunk, and nothing under way that would make more: the one of whose packet most is there goes on', async () => {
  const holdings = new Holdings(10 * chunk)
  const [small, large, other] = [new Reader(3 * chunk), new Reader(4 * chunk), new Reader(4 * chunk)] as const
  // there was room for two
  expect([small, large, other].map((reader) => holdings.heard(reader))).toEqual([false, false, true])
  expect(holdings.heard(large)).toBe(true)
  // its client went on with something smaller: less than a chunk of room is left
  other.comingBytes = 0.5 * chunk
  small.comingBytes = 5.2 * chunk
  for (const reader of [small, other]) holdings.count(reader)
  expect([holdings.isFull, large.goesOn]).toEqual([false, false])
  await expect.poll(() => large.goesOn || other.goesOn).toBe(true)
  holdings.close()
})

test('clientBytesMax, exactly: publishes under way have half of it, and beyond all of it QoS 0 is dropped', () => {
  const max = 100_000
  const holdings = new Holdings(max)
  const under: string[] = []
  /** A publish costs four times its bytes and 256 more. */
  const publish = (name: string, cost: number): Promise<() => void> =>
    new Promise((resolve) => {
      const bytes = cost / 4 - 256
      const go = (): void => {
        under.push(name)
        resolve(() => holdings.stored(bytes))
      }
      if (holdings.begin(bytes)) go()
      else holdings.wait(bytes, go)
    })
  void publish('first', 20_000).then((stored) => stored())
  void publish('exactly half', max / 2 - 20_000)
  void publish('one more', 4 * 256)
  expect(under).toEqual(['first', 'exactly half'])
  expect(holdings.bytes).toBe(max / 2 + 256)
  const reader = new Reader(max - holdings.bytes)
  holdings.count(reader)
  expect([holdings.bytes, holdings.isFull]).toEqual([max, false])
  reader.comingBytes++
  holdings.count(reader)
  expect([holdings.bytes, holdings.isFull]).toEqual([max + 1, true])
  holdings.close()
})
