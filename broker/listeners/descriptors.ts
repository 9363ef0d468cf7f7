// File descriptors: every connection has one, and so have Redis, the admin endpoint and the log. Some are
// kept back from the clients, so that a node that is full can still be asked and still stores. The limit may be
// lowered, and others of this process or of the system may take what is left. libuv closes whoever connects then
// and tells nobody, so that a look each second finds out. State: how many connections are open, whether none was
// left lately, and spare descriptors, which are let go when there is no other.
import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { devNull } from 'node:os'

/**
 * Kept back for Redis, for the admin endpoint and for what is accepted only to be refused; fewer when there
 * are few.
 */
const reserveMax = 128
/** Held open for the admin endpoint and the connections to Redis; while they are gone clients get none. */
const sparesMax = 8
const lookMs = 1_000

export interface DescriptorEvents {
  /** None was left. */
  none(): void
  /** There are some again. */
  again(): void
}

export class Descriptors {
  /** What the process may have; undefined when the system does not tell. */
  #limit: number | undefined
  /** What others than connections have. */
  readonly #others: number
  #open = 0
  readonly #spares: number[] = []
  #timer: NodeJS.Timeout | undefined
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
    this.#others = inUse()
    this.#readLimit()
  }

  #readLimit(): void {
    const limit = /^Max open files\s+(\d+)/m.exec(textOf('/proc/self/limits'))?.[1]
    if (limit === undefined || Number(limit) === this.#limit) return
    this.#limit = Number(limit)
    const free = this.#limit - this.#others
    this.#max = Math.max(1, free - Math.min(reserveMax, Math.floor(free / 2)))
  }

  /** From now on a look each second, until `close`. */
  watch(events: DescriptorEvents): void {
    let isNone = false
    const look = (): void => {
      const limit = this.#limit ?? 0
      this.#readLimit()
      if ((this.#limit ?? 0) > limit) this.#low = undefined
      if (this.isExhausted) {
        if (!isNone) events.none() // accept() had failed
        isNone = true
        return
      }
      if (this.#fill()) {
        if (isNone) events.again()
        isNone = false
        return
      }
      this.exhausted()
      this.#readLimit() // with one of those that were let go
      isNone = true
      events.none()
    }
    look()
    this.#timer = setInterval(look, lookMs).unref()
  }

  /** Opens what is missing of the spare descriptors. false: there is none. */
  #fill(): boolean {
    try {
      do this.#spares.push(openSync(devNull, 'r'))
      while (this.#spares.length < sparesMax)
      while (this.#spares.length > sparesMax) closeSync(this.#spares.pop()!)
      return true
    } catch {
      return false
    }
  }

  close(): void {
    clearInterval(this.#timer)
    this.#letGo()
  }

  #letGo(): void {
    for (const spare of this.#spares.splice(0)) closeSync(spare)
  }

  /** Whether the system said lately that none is left. */
  get isExhausted(): boolean {
    return this.#low !== undefined && performance.now() < this.#low.until
  }

  /** The system says that none is left, earlier than we thought: for a while fewer connections fit. */
  exhausted(): void {
    this.#letGo()
    const max = Math.max(1, Math.min(this.max, this.#open - Math.min(reserveMax, Math.floor(this.#open / 2))))
    this.#low = { max, until: performance.now() + this.#lowMs }
  }

  get limit(): number | undefined {
    return this.#limit
  }

  /** Connections that fit; Infinity when the system does not tell. */
  get max(): number {
    return this.isExhausted ? this.#low!.max : this.#max
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
