// Work in slices: between two parts the clock is looked at, of small ones not each time, and behind a large
// one always.
import { expect, test } from 'vitest'
import { Slice, worked } from '../../bridge/pace/turns.ts'

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
