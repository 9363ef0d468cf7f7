// The barrier for all who ask while another one is under way: the next one begins later than each of them
// asked, so what it waits for is at least what each would have waited for. One read of the position per round
// trip to Redis, not one per SUBSCRIBE. What it read is for all of them. State: the barrier under way and the
// one that follows.

export class SharedBarrier<Read = void> {
  readonly #barrier: () => Promise<Read>
  #underWay: Promise<Read> | undefined
  #next: Promise<Read> | undefined

  constructor(barrier: () => Promise<Read>) {
    this.#barrier = barrier
  }

  pass(): Promise<Read> {
    if (this.#next !== undefined) return this.#next
    if (this.#underWay === undefined) return this.#begin()
    return (this.#next = this.#underWay
      .catch(() => undefined)
      .then(() => {
        this.#next = undefined
        return this.#begin()
      }))
  }

  #begin(): Promise<Read> {
    const underWay = this.#barrier().finally(() => {
      if (this.#underWay === underWay) this.#underWay = undefined
    })
    return (this.#underWay = underWay)
  }
}
