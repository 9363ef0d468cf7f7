// When calls to Redis begin: alone at once, under load no more often than every two milliseconds, and nothing
// that is wanted is forgotten.
import { setImmediate as turn, setTimeout as after } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { CallPace } from '../../bridge/pace/call-pace.ts'

/** Calls that take what was wanted by then. */
function calls(take: () => Promise<unknown> = turn) {
  const made = { begun: 0, wanted: 0, written: 0, atOnce: 0, atOnceMax: 0 }
  const pace = new CallPace(async () => {
    made.begun++
    made.atOnceMax = Math.max(made.atOnceMax, ++made.atOnce)
    const { wanted } = made
    await take()
    made.written = wanted
    made.atOnce--
  })
  const want = (withinMs?: number): void => {
    made.wanted++
    pace.need(withinMs)
  }
  return { made, pace, want }
}

test('what comes alone begins in the next turn', async () => {
  const { made, want } = calls()
  want()
  expect(made.begun).toBe(0) // what comes in the same turn goes along
  await turn()
  expect(made.begun).toBe(1)
})

test('one is under way at a time, and what comes meanwhile is written by the next one', async () => {
  let end!: () => void
  const { made, want } = calls(() => new Promise<void>((resolve) => (end = resolve)))
  want()
  await turn()
  for (let i = 0; i < 10; i++) want()
  await turn()
  expect(made.begun).toBe(1)
  end()
  await expect.poll(() => made.begun).toBe(2)
  end()
  await expect.poll(() => made.written).toBe(11)
  expect(made.atOnceMax).toBe(1)
})

test('under load calls begin no more often than every two milliseconds, and all is written', async () => {
  const { made, want } = calls()
  const began = performance.now()
  while (performance.now() - began < 150) {
    want()
    await turn()
  }
  const ms = performance.now() - began
  expect(made.begun).toBeLessThan(ms / 1.5 + 30) // the first few come as they come
  await expect.poll(() => made.written).toBe(made.wanted)
})

test('what may wait goes with the next call, and by itself after its time', async () => {
  const { made, want } = calls()
  want(60_000)
  await turn()
  await turn()
  expect(made.begun).toBe(0)
  want()
  await turn()
  await turn()
  expect(made).toMatchObject({ begun: 1, written: 2 })
  want(5)
  await after(5)
  await expect.poll(() => made.written).toBe(3)
})

test('more than a call takes does not linger', async () => {
  const { made, pace } = calls()
  for (let i = 0; i < 100; i++) {
    pace.needNow()
    await turn()
    await turn()
  }
  expect(made.begun).toBeGreaterThan(90)
})
