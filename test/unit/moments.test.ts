// Where a subscription stands among the Retained Messages, also while that is being read; and how many bytes
// of them are held at once.
import { expect, test } from 'vitest'
import { Allowance } from '../../bridge/pace/allowance.ts'
import { partitionsOfCluster as partitions } from '../../bridge/redis/keys.ts'
import { isOfBefore, Moment, type Stamps } from '../../bridge/retained/moment.ts'
import { ReplayPages, type Replayed } from '../../broker/routing/replay-pages.ts'
import { messageOf } from '../bridge/planes.ts'

const stampsAt = (stamp: number): Stamps => ({
  of: new Float64Array(partitions).fill(stamp),
  era: { isOver: false },
})

test('what was stored before a moment is replayed and does not come live, what was stored later the other way round', () => {
  const moment = new Moment()
  moment.settle(stampsAt(10))
  expect([moment.includes('t', 10), isOfBefore(moment.stamps, 't', 10)]).toEqual([true, true])
  expect([moment.includes('t', 11), isOfBefore(moment.stamps, 't', 11)]).toEqual([false, false])
})

test('what comes live while the counters are being read is left to the replay, whatever they say then', () => {
  const moment = new Moment()
  expect(moment.includes('t', 12)).toBe(true)
  expect([moment.settle(stampsAt(10)), new Moment().settle(stampsAt(10))]).toEqual([false, true]) // it was moved
  expect([moment.includes('t', 11), isOfBefore(moment.stamps, 't', 12), moment.includes('t', 13)]).toEqual([
    true,
    true,
    false,
  ])
})

test('rather twice than not at all: a stamp that says nothing, a moment that is forgotten, an index that was read anew', () => {
  const [moment, forgotten, over] = [new Moment(), new Moment(), new Moment()]
  const stamps = stampsAt(10)
  moment.settle(stampsAt(10))
  for (const one of [forgotten, over]) one.settle(stamps)
  forgotten.forget()
  expect([moment.includes('t', Infinity), forgotten.includes('t', 1)]).toEqual([false, false])
  stamps.era.isOver = true
  expect([over.includes('t', 1), isOfBefore(over.stamps, 't', 99)]).toEqual([false, true])
})

test('an allowance: in turn, and what is larger than all of it when nobody else holds any', async () => {
  const allowance = new Allowance(10)
  const taken: string[] = []
  await allowance.take(6)
  const large = allowance.take(100).then(() => taken.push('large'))
  const small = allowance.take(1).then(() => taken.push('small'))
  allowance.give(6)
  await large
  expect(taken).toEqual(['large'])
  allowance.give(100)
  await small
})

test('twenty replays of values of every size to a client that takes its time: bounded in bytes, and all of them come', async () => {
  const sizes = Array.from({ length: 300 }, (_, n) => [10, 5_000, 100_000, 700_000, 3_000_000][n % 5]!)
  let [held, most, sent] = [0, 0, 0]
  const replays = new ReplayPages({
    topics: () =>
      Promise.resolve(
        (async function* () {
          yield* sizes.map((_, n) => String(n))
        })(),
      ),
    retained: (topics, bytesMax) => {
      let [left, count] = [bytesMax, 0]
      while (count < topics.length && sizes[Number(topics[count])]! <= left)
        left -= sizes[Number(topics[count++])]!
      held += bytesMax - left
      most = Math.max(most, held)
      const nextBytes = count < topics.length ? sizes[Number(topics[count])]! : 0
      return Promise.resolve({
        messages: topics.slice(0, count).map((topic) => messageOf(topic, topic, { stamp: 1 })),
        unread: topics.slice(count),
        nextBytes,
      })
    },
  })
  const moment = new Moment()
  moment.settle(stampsAt(1))
  const replay = async (page: readonly Replayed[]): Promise<void> => {
    await new Promise((resolve) => setImmediate(resolve))
    sent += page.length
    for (const {
      message: { topic },
    } of page)
      held -= sizes[Number(topic)]!
  }
  await Promise.all(
    Array.from({ length: 20 }, () =>
      replays.add(
        { filter: '#', stamps: moment.stamps, isWanted: () => true, isDone: () => false },
        { roomForMore: () => Promise.resolve(), send: replay },
      ),
    ),
  )
  expect([sent, held]).toEqual([20 * sizes.length, 0])
  expect(most).toBeLessThanOrEqual(3_000_000)
})
