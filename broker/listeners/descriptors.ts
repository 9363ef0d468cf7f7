// File descriptors: every connection has one, and so have Redis, the admin endpoint and the log. Some are
// kept back from the clients, so that a node that is full can still be asked and still stores. State: how
// many connections are open, and whether none was left lately.
import { readdirSync, readFileSync } from 'node:fs'

/**
 * Kept back for Redis, for the admin endpoint and for what is accepted only to be refused; fewer when there
 * are few.
 */
const reserveMax = 128

export class Descriptors {
  /** What the process may have; undefined when the system does not tell. */
  #limit: number | undefined
  #open = 0
  #max = Infinity
  /**
   * As long as none was missing lately: others of this process, or of the system, may have taken them for a
   * moment.
   */
  #low: { readonly max: number; readonly until: number } | undefined
  readonly #lowMs: number

  /** Looks what there is once what a node needs besides its clients is open. */
  constructor(lowMs = 10_000) {
    this.#lowMs = lowMs
    const limit = /^Max open files\s+(\d+)/m.exec(textOf('/proc/self/limits'))?.[1]
    if (limit === undefined) return
    this.#limit = Number(limit)
    const free = this.#limit - inUse()
    this.#max = Math.max(1, free - Math.min(reserveMax, Math.floor(free / 2)))
  }

  /** The system says that none is left, earlier than we thought: for a while fewer connections fit. */
  exhausted(): void {
    const max = Math.max(1, Math.min(this.max, this.#open - Math.min(reserveMax, Math.floor(this.#open / 2))))
    this.#low = { max, until: performance.now() + this.#lowMs }
  }

  get limit(): number | undefined {
    return this.#limit
  }

  /** Connections that fit; Infinity when the system does not tell. */
  get max(): number {
    if (this.#low !== undefined && performance.now() >= this.#low.until) this.#low = undefined
    return this.#low?.max ?? this.#max
  }

  get open(): number {
    return this.#open
  }

  /** Counts a connection that was accepted. false: it must be closed, and is not counted. */
  take(): boolean {
    if (this.#open >= this.max) return false
    this.#open++
    return true
  }

  give(): void {
    this.#open--
  }
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return '' // not Linux
  }
}

/** Descriptors of this process that are in use. */
function inUse(): number {
  try {
    return readdirSync('/proc/self/fd').length
  } catch {
    return 0
  }
}
