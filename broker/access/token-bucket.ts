// How much may happen in a second: connects at a listener, messages and bytes of a client. What comes after a pause
// may come at once, up to `burst`; more is paid back by waiting. State: what is left, and when that was.
export class TokenBucket {
  readonly #perMs: number
  readonly #burst: number
  #left: number
  #at = performance.now()

  /** @param burst what may come at once after a pause: by default what comes in a second */
  constructor(perSecond: number, burst = perSecond) {
    this.#perMs = perSecond / 1_000
    this.#left = this.#burst = burst
  }

  /** What is there; less than 0: so much is to be paid back. */
  get left(): number {
    return Math.min(this.#burst, this.#left + (performance.now() - this.#at) * this.#perMs)
  }

  /** Takes so much, whether it is there or not. @returns ms until it is: nothing more may be taken before */
  take(amount: number): number {
    const now = performance.now()
    this.#left = Math.min(this.#burst, this.#left + (now - this.#at) * this.#perMs) - amount
    this.#at = now
    return this.#left >= 0 ? 0 : -this.#left / this.#perMs
  }
}
