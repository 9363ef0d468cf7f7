// Files that a node reads again while it runs, and that are not in order: what was read of them before holds. Each is
// named once, and once more when it is in order again; meanwhile a gauge counts them and /readyz tells of them. State: what
// is wrong with which.
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'

export class DamagedFiles {
  readonly #log: Log
  readonly #metrics: Metrics
  readonly #problems = new Map<string, string>()

  constructor(log: Log, metrics: Metrics) {
    this.#log = log
    this.#metrics = metrics
  }

  /** @param error what is wrong; undefined: it is in order */
  tell(what: string, error: Error | undefined): void {
    const before = this.#problems.get(what)
    if (error === undefined) {
      if (this.#problems.delete(what)) this.#log.event('reload-works', { what })
    } else {
      const problem = error.message
      this.#problems.set(what, problem)
      if (problem !== before) this.#log.event('reload-failed', { what, problem })
    }
    this.#metrics.damagedFiles.set(this.#problems.size)
  }

  /**
   * For /readyz, which asks for no password: names without folders, and not what is in them. Undefined when all are in
   * order.
   */
  get text(): string | undefined {
    const all = [...this.#problems.keys()].map((what) =>
      what.replaceAll(/(?<=^|[\s=])(?:\/?[^\s/:]*\/)+/g, ''),
    )
    return all.length === 0 ? undefined : `what was read before holds, the log says why: ${all.join(', ')}`
  }
}
