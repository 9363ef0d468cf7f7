// Files that a node reads again when they change: users, rules, certificates. Looked at once a second, by what they are and
// not by events: a file that is renamed into its place, and one behind a link that turns, are seen as well. State: the
// files that are watched. What is read of them is nobody's business here.
import { unwatchFile, watchFile, type StatsListener } from 'node:fs'

const everyMs = 1_000

export class WatchedFiles {
  readonly #paths: ReadonlySet<string>
  readonly #changed: StatsListener
  #isTold = false

  /** @param changed one of them, or several at once */
  constructor(paths: readonly string[], changed: () => void) {
    this.#paths = new Set(paths)
    this.#changed = (now, before) => {
      const isSame = now.mtimeMs === before.mtimeMs && now.ino === before.ino && now.size === before.size
      if (isSame || this.#isTold) return
      this.#isTold = true
      setImmediate(() => {
        this.#isTold = false
        changed()
      })
    }
    for (const path of this.#paths) watchFile(path, { interval: everyMs, persistent: false }, this.#changed)
  }

  close(): void {
    for (const path of this.#paths) unwatchFile(path, this.#changed)
  }
}
