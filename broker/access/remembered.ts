// Answers that are remembered by a digest, each for a time of its own, and as long as somebody holds it. One that is over is
// kept as the last that is known, as long as there is room and it is not too old. State: the answers, in the order in which they were given. Bounds: their
// number and bytes; the oldest makes room.

interface Entry<T> {
  readonly value: T
  readonly bytes: number
  /** performance.now() */
  freshUntil: number
  readonly lastUntil: number
  /** Clients that use this answer: it is fresh while there are any. */
  holders: number
}

export interface RememberedLimits {
  readonly count: number
  readonly bytes: number
  /** Older answers are forgotten, also as last known. */
  readonly lastMs: number
}

/** Of an entry, besides what its value takes. */
const entryBytes = 300

export class Remembered<T> {
  readonly #limits: RememberedLimits
  readonly #all = new Map<string, Entry<T>>()
  #bytes = 0

  constructor(limits: RememberedLimits) {
    this.#limits = limits
  }

  fresh(key: string): T | undefined {
    const entry = this.#all.get(key)
    if (entry === undefined) return undefined
    return performance.now() < (entry.holders > 0 ? entry.lastUntil : entry.freshUntil)
      ? entry.value
      : undefined
  }

  /** Also when it is over. */
  last(key: string): T | undefined {
    const entry = this.#all.get(key)
    return entry !== undefined && performance.now() < entry.lastUntil ? entry.value : undefined
  }

  /**
   * @param ms for which it is fresh
   * @param lastMs for which it may be the last one at most
   */
  set(key: string, value: T, valueBytes: number, ms: number, lastMs = Infinity): void {
    const now = performance.now()
    const bytes = valueBytes + entryBytes
    const lastUntil = now + Math.min(lastMs, this.#limits.lastMs)
    const holders = this.#all.get(key)?.holders ?? 0
    this.delete(key)
    this.#all.set(key, { value, bytes, freshUntil: Math.min(now + ms, lastUntil), lastUntil, holders })
    this.#bytes += bytes
    for (const [oldest] of this.#all) {
      if (this.#all.size <= this.#limits.count && this.#bytes <= this.#limits.bytes) break
      this.delete(oldest)
    }
  }

  hold(key: string): void {
    const entry = this.#all.get(key)
    if (entry !== undefined) entry.holders++
  }

  /** @param ms for which it is fresh, when nobody holds it any more */
  release(key: string, ms: number): void {
    const entry = this.#all.get(key)
    if (entry === undefined || entry.holders === 0 || --entry.holders > 0) return
    entry.freshUntil = Math.min(performance.now() + ms, entry.lastUntil)
  }

  delete(key: string): void {
    const entry = this.#all.get(key)
    if (entry === undefined) return
    this.#all.delete(key)
    this.#bytes -= entry.bytes
  }
}
