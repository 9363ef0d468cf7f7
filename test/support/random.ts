// Random choices that can be had again: the seed is printed by the test that uses it and taken from SEED.

export interface Random {
  readonly seed: number
  /** An integer from 0 to below `n`. */
  below(n: number): number
  pick<T>(list: readonly T[]): T
}

/** mulberry32: 32 bits of state are enough to choose interleavings. */
export function seededRandom(seed = Number(process.env.SEED ?? Date.now() % 1_000_000_007)): Random {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
  const below = (n: number): number => Math.floor(next() * n)
  return { seed, below, pick: (list) => list[below(list.length)]! }
}
