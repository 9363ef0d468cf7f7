// What may happen thousands of times a second is said once a minute: each cause and client has a line at
// once, and when its minute is over a line that tells how many were left out. State: the causes and clients
// of the last minute, bounded in number; what is beyond the bound is counted together.

/** Causes with their clients that are told apart. */
const keysMax = 1_000
const minuteMs = 60_000

interface Minute {
  readonly endsAt: number
  leftOut: number
  /** Says the last one of those that were left out. */
  say: (leftOut: number) => void
}

export class OnceAMinute {
  /** In the order in which they end. */
  readonly #minutes = new Map<string, Minute>()
  readonly #sayOthers: (count: number) => void
  #others = 0
  #timer: NodeJS.Timeout | undefined

  /** `sayOthers` tells how many found no place in the table. */
  constructor(sayOthers: (count: number) => void) {
    this.#sayOthers = sayOthers
  }

  /**
   * Calls `say` with 0 at once, or, when `key` was said within the last minute, with a count at the end of
   * it.
   */
  say(key: string, say: (leftOut: number) => void): void {
    const minute = this.#minutes.get(key)
    if (minute !== undefined) {
      minute.leftOut++
      minute.say = say
    } else if (this.#minutes.size >= keysMax) this.#others++
    else {
      this.#begin(key, say)
      say(0)
    }
  }

  #begin(key: string, say: Minute['say']): void {
    this.#minutes.set(key, { endsAt: performance.now() + minuteMs, leftOut: 0, say })
    this.#timer ??= setTimeout(() => this.#end(), minuteMs).unref()
  }

  /** Ends the minutes that are over. What was left out is said, and begins a new one. */
  #end(): void {
    this.#timer = undefined
    const now = performance.now()
    const over = [...this.#minutes].filter(([, { endsAt }]) => endsAt <= now)
    for (const [key] of over) this.#minutes.delete(key)
    this.#tellOthers()
    for (const [key, { leftOut, say }] of over) {
      if (leftOut === 0) continue
      this.#begin(key, say)
      say(leftOut)
    }
    const [next] = this.#minutes.values()
    if (next !== undefined)
      this.#timer ??= setTimeout(() => this.#end(), Math.max(1, next.endsAt - now)).unref()
  }

  #tellOthers(): void {
    if (this.#others === 0) return
    this.#sayOthers(this.#others)
    this.#others = 0
  }

  /** Says what was left out so far. Nothing is limited in time any more. */
  close(): void {
    clearTimeout(this.#timer)
    this.#tellOthers()
    for (const { leftOut, say } of this.#minutes.values()) if (leftOut > 0) say(leftOut)
    this.#minutes.clear()
  }
}
