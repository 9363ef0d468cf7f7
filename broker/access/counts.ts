// Counts by key, such as connections of an address or of a user. State: a number for each of which there are
// some. Bound: the number of what is counted.
export class Counts {
  readonly #counts = new Map<string, number>()
  readonly #max: number

  /** @param max of each */
  constructor(max: number) {
    this.#max = max
  }

  /** One more. False: there are as many as there may be, and it is not counted. */
  take(key: string, max = this.#max): boolean {
    const count = this.#counts.get(key) ?? 0
    if (count >= max) return false
    this.#counts.set(key, count + 1)
    return true
  }

  give(key: string): void {
    const count = this.#counts.get(key)! - 1
    if (count === 0) this.#counts.delete(key)
    else this.#counts.set(key, count)
  }
}
