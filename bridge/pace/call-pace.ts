// When the next of a row of calls to Redis begins, of which one is under way at a time: what comes meanwhile
// gathers for the next one. A call costs some hundred microseconds of nodes and Redis whatever is in it, a
// message in it hardly ten: so under load a call begins no sooner than `lingerMs` after the one before began.
// With little load nothing lingers: a message that comes alone leaves in its turn. State: this process.

/** What a call costs in latency under load, at most. */
const lingerMs = 2
/** Under load: calls began this often, on average. Lingering alone never makes them rarer than that. */
const busyMs = 2 * lingerMs
/** How many calls the average is about. */
const averageOf = 8
/** A longer pause counts as much: after it a few calls make no load. */
const pauseMs = 100

export class CallPace {
  readonly #call: () => Promise<void>
  #isRunning = false
  /** When the next call is wanted; undefined: nobody wants one. */
  #due: number | undefined
  #timer: NodeJS.Timeout | undefined
  #isSoon = false
  #began = 0
  /** Milliseconds between the beginnings of two calls, on average. */
  #interval = pauseMs

  /** @param call one call; that it rejects is a bug, and ends the node */
  constructor(call: () => Promise<void>) {
    this.#call = call
  }

  get isRunning(): boolean {
    return this.#isRunning
  }

  /** There is something to write: with the next call, or within so many milliseconds. */
  need(withinMs = 0): void {
    const due = withinMs === 0 ? 0 : performance.now() + withinMs
    if (this.#due !== undefined && this.#due <= due) return
    this.#due = due
    if (!this.#isRunning) this.#arm()
  }

  /** More is waiting than the next call takes: it begins at once. */
  needNow(): void {
    this.#due = -1
    if (!this.#isRunning) this.#arm()
  }

  #arm(): void {
    if (this.#isSoon || this.#due === undefined) return
    const now = performance.now()
    const earliest = this.#due >= 0 && this.#interval < busyMs ? this.#began + lingerMs : 0
    const ms = Math.max(this.#due, earliest) - now
    clearTimeout(this.#timer)
    if (ms > 0.5) this.#timer = setTimeout(() => this.#begin(), Math.ceil(ms))
    else {
      this.#isSoon = true
      setImmediate(() => this.#begin())
    }
  }

  #begin(): void {
    clearTimeout(this.#timer)
    this.#isSoon = false
    if (this.#isRunning) return
    this.#isRunning = true
    this.#due = undefined
    const now = performance.now()
    this.#interval += (Math.min(now - this.#began, pauseMs) - this.#interval) / averageOf
    this.#began = now
    void this.#call().then(() => {
      this.#isRunning = false
      this.#arm()
    })
  }
}
