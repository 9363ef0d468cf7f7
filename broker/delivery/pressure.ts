// How subscribers that are behind hold publishers back, and for how long: a connection that is slow holds everybody up
// until it has drained, but for `slowHoldMs` at most; after that its own bounds are its own affair until it has drained
// once. However many are slow one after the other, nobody waits longer for them at a time. State: this node. Bound: one timer
// per slow connection.

export class Pressure<Subscriber extends object> {
  readonly #holdMs: number
  readonly #holding = new Map<Subscriber, NodeJS.Timeout>()
  /** Had their time and are still behind. */
  readonly #givenUp = new WeakSet<Subscriber>()
  #waiting: { readonly clear: Promise<void>; readonly done: () => void; readonly timer: NodeJS.Timeout } | undefined

  constructor(holdMs: number) {
    this.#holdMs = holdMs
  }

  /** `subscriber` is behind. */
  slow(subscriber: Subscriber): void {
    if (this.#holding.has(subscriber) || this.#givenUp.has(subscriber)) return
    this.#holding.set(subscriber, setTimeout(() => {
      this.#givenUp.add(subscriber)
      this.#release(subscriber)
    }, this.#holdMs).unref())
  }

  /** `subscriber` has drained, or is gone. */
  drained(subscriber: Subscriber): void {
    this.#givenUp.delete(subscriber)
    this.#release(subscriber)
  }

  #release(subscriber: Subscriber): void {
    clearTimeout(this.#holding.get(subscriber))
    this.#holding.delete(subscriber)
    if (this.#holding.size === 0) this.#goOn()
  }

  #goOn(): void {
    clearTimeout(this.#waiting?.timer)
    this.#waiting?.done()
    this.#waiting = undefined
  }

  /** What a publisher waits for before it is acknowledged; undefined when nobody is behind. */
  get clear(): Promise<void> | undefined {
    if (this.#holding.size === 0) return undefined
    if (this.#waiting === undefined) {
      let done!: () => void
      this.#waiting = { clear: new Promise((resolve) => { done = resolve }), done, timer: setTimeout(() => this.#goOn(), this.#holdMs).unref() }
    }
    return this.#waiting.clear
  }
}
