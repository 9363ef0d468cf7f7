// What is due when: one look a second finds it. Counted by performance.now(), which nobody sets (P14). State:
// this process.
import { Slice } from '../pace/turns.ts'

const lookMs = 1_000
const bucketOf = (at: number): number => Math.ceil(at / lookMs)

export class DueTimes {
  readonly #onDue: (name: string) => void
  readonly #times = new Map<string, number>()
  /** Second in which it is due → names. */
  readonly #buckets = new Map<number, Set<string>>()
  #looked = bucketOf(performance.now())
  readonly #timer: NodeJS.Timeout
  #looking = false
  #closed = false

  constructor(onDue: (name: string) => void) {
    this.#onDue = onDue
    this.#timer = setInterval(() => void this.#look(), lookMs).unref()
  }

  /** @param at ms, by performance.now() */
  set(name: string, at: number): void {
    this.delete(name)
    this.#times.set(name, at)
    const number = Math.max(bucketOf(at), this.#looked + 1)
    const bucket = this.#buckets.get(number)
    if (bucket === undefined) this.#buckets.set(number, new Set([name]))
    else bucket.add(name)
  }

  /** When it is due; undefined: it is not. */
  at(name: string): number | undefined {
    return this.#times.get(name)
  }

  delete(name: string): void {
    const at = this.#times.get(name)
    if (at === undefined) return
    this.#times.delete(name)
    // It may stand in a later second than its own: when it was set, that had passed.
    const number = Math.max(bucketOf(at), this.#looked + 1)
    if (this.#buckets.get(number)?.delete(name) !== true)
      for (const bucket of this.#buckets.values()) if (bucket.delete(name)) break
  }

  /** In slices: one second may have all there is. */
  async #look(): Promise<void> {
    if (this.#looking) return
    this.#looking = true
    const slice = new Slice()
    const now = bucketOf(performance.now()) - 1
    while (this.#looked < now) {
      const names = this.#buckets.get(++this.#looked) ?? []
      this.#buckets.delete(this.#looked)
      for (const name of names) {
        if (slice.isOver) await slice.next()
        if (this.#closed) return
        // what came before it took it out, or put it off
        if ((this.#times.get(name) ?? Infinity) > performance.now()) continue
        this.#times.delete(name)
        this.#onDue(name)
      }
    }
    this.#looking = false
  }

  close(): void {
    this.#closed = true
    clearInterval(this.#timer)
  }
}
