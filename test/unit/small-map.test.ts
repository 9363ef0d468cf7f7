// A SmallMap is a Map, whatever is done to it.
import { expect, test } from 'vitest'
import { SmallMap } from '../../bridge/index.ts'
import { seededRandom } from '../support/random.ts'

test('random sets and deletes equal a Map, in the same order', () => {
  const random = seededRandom()
  console.log(`SEED=${random.seed}`)
  for (let round = 0; round < 200; round++) {
    const map = new Map<string, number>()
    const small = new SmallMap<string, number>()
    for (let step = 0; step < 30; step++) {
      const key = `k${random.below(4)}`
      if (random.below(2) === 0) {
        map.set(key, step)
        small.set(key, step)
      } else expect(small.delete(key)).toBe(map.delete(key))
      const entries: [string, number][] = []
      small.forEach((value, at) => entries.push([at, value]))
      expect([small.size, entries, small.get(key)]).toEqual([map.size, [...map], map.get(key)])
    }
  }
})
