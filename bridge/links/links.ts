// The links of this node: one writer per node that got something, made when it is first needed. State: this
// process.
import type { Clock } from '../pace/clock.ts'
import { InboxWriter, type InboxWriterEvents } from './inbox.ts'
import type { Keys } from '../redis/keys.ts'
import type { Redis } from '../redis/redis.ts'

export class Links {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #nodeId: string
  readonly #clock: Clock
  readonly #events: InboxWriterEvents
  readonly #writers = new Map<string, InboxWriter>()

  constructor(redis: Redis, keys: Keys, nodeId: string, clock: Clock, events: InboxWriterEvents) {
    this.#redis = redis
    this.#keys = keys
    this.#nodeId = nodeId
    this.#clock = clock
    this.#events = events
  }

  to(nodeId: string): InboxWriter {
    let writer = this.#writers.get(nodeId)
    if (writer === undefined)
      this.#writers.set(
        nodeId,
        (writer = new InboxWriter(this.#redis, this.#keys, this.#nodeId, nodeId, this.#clock, this.#events)),
      )
    return writer
  }

  /** Writes what was pushed, rather than at the end of the turn. */
  flush(): void {
    for (const writer of this.#writers.values()) writer.flush()
  }

  /** The node is out: nobody waits for it any longer. */
  drop(nodeId: string): void {
    this.#writers.get(nodeId)?.out()
    this.#writers.delete(nodeId)
  }

  close(): void {
    for (const nodeId of [...this.#writers.keys()]) this.drop(nodeId)
  }
}
