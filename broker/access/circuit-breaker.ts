// Whether a failing server is asked at all: after some failures in a row nobody asks for a while, then one
// does, and its answer is what the others go by. State: the failures in a row, until when it is open, and
// whether one tries.

export interface BreakerLimits {
  readonly failuresMax: number
  readonly openMs: number
}

export class CircuitBreaker {
  readonly #limits: BreakerLimits
  #failures = 0
  #openUntil = -Infinity
  #isTrying = false

  constructor(limits: BreakerLimits) {
    this.#limits = limits
  }

  /** Whether to ask now. Whoever is told yes says what became of it. */
  mayAsk(): boolean {
    if (this.#failures < this.#limits.failuresMax) return true
    if (this.#isTrying || performance.now() < this.#openUntil) return false
    return (this.#isTrying = true)
  }

  succeeded(): void {
    this.#failures = 0
    this.#isTrying = false
  }

  failed(): void {
    this.#failures++
    this.#isTrying = false
    this.#openUntil = performance.now() + this.#limits.openMs
  }
}
