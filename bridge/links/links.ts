// The links of this node: one writer per node that got something, made when it is first needed. State: this
// process.
import type { Clock } from '../pace/clock.ts'
import { InboxWriter, type InboxWriterEvents } from './inbox-writer.ts'
import type { Keys } from '../redis/keys.ts'
import type { Redis } from '../redis/redis.ts'

export class Links {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #nodeId: string
  readonly #clock: Clock
  readonly #events: InboxWriterEvents
  readonly #writers = new Map<string, InboxWriter>()
  /** Nodes that take nothing any more, and whose routes still stand in the table. */
  readonly out = new Set<string>()
  #isClosed = false

  constructor(redis: Redis, keys: Keys, nodeId: string, clock: Clock, events: InboxWriterEvents) {
    this.#redis = redis
    this.#keys = keys
    this.#nodeId = nodeId
    this.#clock = clock
    this.#events = events
  }

  to(nodeId: string): InboxWriter {
    let writer = this.#writers.get(nodeId)
    if (writer === undefined) {
      writer = new InboxWriter(this.#redis, this.#keys, this.#nodeId, nodeId, this.#clock, this.#events)
      if (this.#isClosed) writer.close()
      else this.#writers.set(nodeId, writer)
    }
    return writer
  }

  /** Writes what was pushed, rather than at the end of the turn. */
  flush(): void {
    for (const writer of this.#writers.values()) writer.flush()
  }

  /**
   * The inbox of that node is sealed or gone: publishers wait no longer for what is on its way there. Until `gone`
   * settles (its routes are out of the table) messages for it may still be pushed; nobody waits for those either.
   */
  async drop(nodeId: string, gone: Promise<void>): Promise<void> {
    const writer = this.to(nodeId)
    this.out.add(nodeId)
    writer.out()
    await gone
    if (this.#writers.get(nodeId) === writer) this.#forget(nodeId)
  }

  /** The node has routes: if it was out, it is back. */
  returns(nodeId: string): void {
    if (this.#writers.get(nodeId)?.isOut === true) this.#forget(nodeId)
  }

  #forget(nodeId: string): void {
    this.#writers.delete(nodeId)
    this.out.delete(nodeId)
  }

  close(): void {
    this.#isClosed = true
    for (const writer of this.#writers.values()) writer.close()
    this.#writers.clear()
  }
}
