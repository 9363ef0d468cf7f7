// The state of a node without Redis and the file that keeps it, when there is one: what changes the one is
// written to the other.
import type { BridgeError } from '../errors.ts'
import type { RecordLog } from './state-file.ts'
import type { StateRecord, State } from './state.ts'

export class StateStore {
  readonly state: State
  readonly #log: RecordLog | undefined
  #closed = false

  constructor(state: State, log: RecordLog | undefined) {
    this.state = state
    this.#log = log
  }

  /** What comes after the end is told to nobody: the file is closed, and another node may have it. */
  change(record: StateRecord): void {
    if (this.#closed) return
    this.state.apply(record)
    this.#log?.append(record)
  }

  /**
   * Resolves when all that was changed so far is on disk, as far as the operator wants it; undefined: it is
   * not to be waited for.
   */
  settled(): Promise<void> | undefined {
    return this.#log?.settled()
  }

  /** Why what is changed is not on disk: it has been waiting for a while. */
  get standstill(): BridgeError | undefined {
    return this.#log?.standstill
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#log?.close()
  }
}
