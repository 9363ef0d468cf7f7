// One call under way for all who ask. Who needs what holds from now on (a barrier, a read) asks for `next`:
// what is under way may have looked before it asked, so it gets one that begins later than it asked,
// together with all who ask meanwhile: one round trip to Redis for a crowd, not one each. Who needs only
// that it is being done asks for `current`. State: the call under way and the one that follows.

export class SingleFlight<Result = void> {
  readonly #call: () => Promise<Result>
  #underWay: Promise<Result> | undefined
  #next: Promise<Result> | undefined

  constructor(call: () => Promise<Result>) {
    this.#call = call
  }

  get isUnderWay(): boolean {
    return this.#underWay !== undefined
  }

  /** Begins no earlier than this is called. */
  next(): Promise<Result> {
    if (this.#next !== undefined) return this.#next
    if (this.#underWay === undefined) return this.#begin()
    return (this.#next = this.#underWay
      .catch(() => undefined)
      .then(() => {
        this.#next = undefined
        return this.#begin()
      }))
  }

  /** The one under way; when there is none it begins. */
  current(): Promise<Result> {
    return this.#underWay ?? this.#next ?? this.#begin()
  }

  #begin(): Promise<Result> {
    const underWay = this.#call().finally(() => {
      if (this.#underWay === underWay) this.#underWay = undefined
    })
    return (this.#underWay = underWay)
  }
}
