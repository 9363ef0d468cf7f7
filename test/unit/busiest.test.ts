// The busiest of many names, counted in little room: who is far busier than the others is among them, whatever comes.
import { expect, test } from 'vitest'
import { TopCounts } from '../../broker/observe/busiest.ts'
import { seededRandom } from '../support/random.ts'

test('the busiest are found among a hundred thousand names, each with how far its count may be off', () => {
  const random = seededRandom(7)
  const counts = new TopCounts()
  const truth = new Map<string, number>()
  for (let i = 0; i < 60_000; i++) {
    const name = i % 4 === 0 ? `busy ${random.below(10)}` : `rare ${random.below(100_000)}`
    truth.set(name, (truth.get(name) ?? 0) + 1)
    counts.count(name, 10)
  }
  const top = counts.top(10)
  expect(top.map(({ name }) => name).sort()).toEqual(Array.from({ length: 10 }, (_, i) => `busy ${i}`))
  for (const { name, messages, more } of top) {
    expect(messages).toBeGreaterThanOrEqual(truth.get(name)!)
    expect(messages - more).toBeLessThanOrEqual(truth.get(name)!)
  }
})

test('a name that is too long is cut, and counted as what begins so', () => {
  const counts = new TopCounts()
  for (const end of ['a', 'b']) counts.count(`${'x'.repeat(60_000)}${end}`, 1)
  expect(counts.top(5)).toEqual([{ name: 'x'.repeat(1_024), messages: 2, bytes: 2, more: 0 }])
})
