// Cluster time as one process estimates it: samples of Redis' clock, each between sending and answer, narrow
// its bounds; a step of Redis' clock shows in a sample that contradicts the ones before.
import { expect, test } from 'vitest'
import { Clock } from '../../bridge/pace/clock.ts'

const redisAhead = 1_700_000_000_000

test('a quick reply tells more than slow ones, before and behind it', () => {
  const clock = new Clock()
  clock.sample(1_000, 1_400, redisAhead + 1_390) // slow on its way there
  expect(Math.abs(clock.toCluster(2_000) - redisAhead - 2_000)).toBeLessThanOrEqual(200)
  clock.sample(2_000, 2_002, redisAhead + 2_001)
  clock.sample(3_000, 3_900, redisAhead + 3_001)
  expect(Math.abs(clock.toCluster(4_000) - redisAhead - 4_000)).toBeLessThan(3)
  expect(clock.toLocal(clock.toCluster(4_000))).toBeCloseTo(4_000, 1)
})

test('what a quick reply told stays for the next seconds, when only slow ones come', () => {
  const clock = new Clock()
  clock.sample(0, 0.2, redisAhead + 0.1)
  // all of the time went by on the way back: by these alone it is 4 ms behind
  for (let at = 1_000; at <= 5_000; at += 1_000) clock.sample(at, at + 8, redisAhead + at)
  expect(Math.abs(clock.toCluster(6_000) - redisAhead - 6_000)).toBeLessThan(0.5)
})

test.each([-3_600_000, -20, 20, 3_600_000])("a step of Redis' clock by %i ms is followed at once", (step) => {
  const clock = new Clock()
  for (let at = 0; at < 10_000; at += 1_000) clock.sample(at, at + 1, redisAhead + at)
  clock.sample(10_000, 10_001, redisAhead + 10_000 + step)
  expect(Math.abs(clock.toCluster(10_000) - redisAhead - 10_000 - step)).toBeLessThan(2)
})

test('clocks that drift apart stay in step; what is no time is no sample', () => {
  const clock = new Clock()
  for (let at = 0; at < 1e6; at += 1_000) clock.sample(at, at + 1, redisAhead + at * 1.0005)
  clock.sample(1e6, 1e6 + 1, Number.NaN)
  expect(Math.abs(clock.toCluster(1e6) - redisAhead - 1e6 * 1.0005)).toBeLessThan(5)
})
