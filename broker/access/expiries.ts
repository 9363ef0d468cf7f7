// Connections that end at a time that is known: that of a token. Each is told to go within a tenth of a second of it. The
// time is of the wall, as in a token: a clock that is set ends them with it. State: the connections, by the tenth of a
// second in which they end. One timer for all, while there are any.
import { later, turnIsOver } from '../../bridge/index.ts'

/** Those that end within one are ended together. */
const stepMs = 100
const stepNow = (): number => Math.floor(Date.now() / stepMs)

export class Expiries<Client> {
  readonly #end: (client: Client) => void
  readonly #byStep = new Map<number, Set<Client>>()
  readonly #stepOf = new Map<Client, number>()
  #timer: NodeJS.Timeout | undefined
  /** Steps up to this one are done. */
  #looked = 0

  constructor(end: (client: Client) => void) {
    this.#end = end
  }

  /** In place of what was said of it before. @param expiresAt ms since 1970; undefined: it has no end */
  set(client: Client, expiresAt: number | undefined): void {
    this.forget(client)
    if (expiresAt === undefined) return
    if (this.#timer === undefined) {
      this.#looked = stepNow()
      this.#timer = setInterval(() => this.#look(), stepMs).unref()
    }
    const step = Math.max(Math.ceil(expiresAt / stepMs), this.#looked + 1)
    const some = this.#byStep.get(step)
    if (some === undefined) this.#byStep.set(step, new Set([client]))
    else some.add(client)
    this.#stepOf.set(client, step)
  }

  forget(client: Client): void {
    const step = this.#stepOf.get(client)
    if (step === undefined) return
    this.#stepOf.delete(client)
    const some = this.#byStep.get(step)!
    some.delete(client)
    if (some.size === 0) this.#byStep.delete(step)
  }

  /** O(1), but when the clock was set ahead. */
  #look(): void {
    const now = stepNow()
    const due: Client[] = []
    if (now - this.#looked > this.#byStep.size) {
      for (const [step, some] of this.#byStep) if (step <= now) due.push(...some)
    } else for (let step = this.#looked + 1; step <= now; step++) due.push(...(this.#byStep.get(step) ?? []))
    this.#looked = now
    this.#endAll(due, 0)
    if (this.#stepOf.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  /** Those of a step may be thousands: they go in turns. */
  #endAll(due: readonly Client[], from: number): void {
    for (let i = from; i < due.length; i++) {
      if (turnIsOver()) return later(() => this.#endAll(due, i))
      const client = due[i]!
      const step = this.#stepOf.get(client)
      if (step === undefined || step > this.#looked) continue // gone, or prolonged
      this.forget(client)
      this.#end(client)
    }
  }
}
