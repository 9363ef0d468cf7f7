// The barrier for all who ask while another one is under way: the next one begins later than each of them asked, so what it
// waits for is at least what each would have waited for. One read of the position per round trip to Redis, not one per
// SUBSCRIBE. State: the barrier under way and the one that follows.

export class SharedBarrier {
  readonly #barrier: () => Promise<void>
  #underWay: Promise<void> | undefined
  #next: Promise<void> | undefined

  constructor(barrier: () => Promise<void>) {
    this.#barrier = barrier
  }

  pass(): Promise<void> {
    if (this.#next !== undefined) return this.#next
    if (this.#underWay === undefined) return this.#begin()
    return this.#next = this.#underWay.catch(() => undefined).then(() => {
      this.#next = undefined
      return this.#begin()
    })
  }

  #begin(): Promise<void> {
    const underWay = this.#barrier().finally(() => { if (this.#underWay === underWay) this.#underWay = undefined })
    return this.#underWay = underWay
  }
}
