// Files that a node reads again when they change: users, rules, certificates. Looked at once a second, by what they are and
// not by events: a file that is renamed into its place, and one behind a link that turns, are seen as well. State: the
// files that are watched. What is read of them is nobody's business here.
import { unwatchFile, watchFile, type StatsListener } from 'node:fs'

const everyMs = 1_000
/** A look may be late by so much. */
const lateMs = 200

export class WatchedFiles {
  readonly #paths: ReadonlySet<string>
  readonly #changed: StatsListener
  #telling: NodeJS.Timeout | undefined

  /** @param changed one of them, or several at once; told when none has changed for a look: one may be half written */
  constructor(paths: readonly string[], changed: () => void) {
    this.#paths = new Set(paths)
    this.#changed = (now, before) => {
      // who may read it is in `ctime` alone
      if (now.ctimeMs === before.ctimeMs && now.ino === before.ino && now.size === before.size) return
      clearTimeout(this.#telling)
      this.#telling = setTimeout(changed, everyMs + lateMs).unref()
    }
    for (const path of this.#paths) watchFile(path, { interval: everyMs, persistent: false }, this.#changed)
  }

  close(): void {
    clearTimeout(this.#telling)
    for (const path of this.#paths) unwatchFile(path, this.#changed)
  }
}
