// The links of this node: a writer for each node that got something, and one for each lane of it (inbox-writer.ts), made
// when it is first needed. State: this process.
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
  /** By node, then by lane: in what order they were made does not matter. */
  readonly #writers = new Map<string, Map<number, InboxWriter>>()
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

  /** @param lane how often what goes there was handed on: 0, never */
  to(nodeId: string, lane = 0): InboxWriter {
    const known = this.#writers.get(nodeId)
    return known?.get(lane) ?? this.#make(nodeId, known ?? new Map<number, InboxWriter>(), lane)
  }

  #make(nodeId: string, lanes: Map<number, InboxWriter>, lane: number): InboxWriter {
    const writer = new InboxWriter(
      this.#redis,
      this.#keys,
      this.#nodeId,
      nodeId,
      this.#clock,
      this.#events,
      lane,
    )
    if (this.#isClosed) writer.close()
    else {
      if (this.out.has(nodeId)) writer.out()
      this.#writers.set(nodeId, lanes.set(lane, writer))
    }
    return writer
  }

  /** Writes what was pushed, rather than at the end of the turn. */
  flush(): void {
    for (const lanes of this.#writers.values()) lanes.get(0)?.flush()
  }

  /**
   * The inbox of that node is sealed or gone: publishers wait no longer for what is on its way there. Until `gone`
   * settles (its routes are out of the table) messages for it may still be pushed; nobody waits for those either.
   */
  async drop(nodeId: string, gone: Promise<void>): Promise<void> {
    this.to(nodeId)
    const lanes = this.#writers.get(nodeId)
    this.out.add(nodeId)
    for (const writer of lanes?.values() ?? []) writer.out()
    await gone
    if (this.#writers.get(nodeId) === lanes) this.#forget(nodeId)
  }

  /** The node has routes: if it was out, it is back. */
  returns(nodeId: string): void {
    if (this.out.has(nodeId)) this.#forget(nodeId)
  }

  #forget(nodeId: string): void {
    this.#writers.delete(nodeId)
    this.out.delete(nodeId)
  }

  close(): void {
    this.#isClosed = true
    for (const lanes of this.#writers.values()) for (const writer of lanes.values()) writer.close()
    this.#writers.clear()
  }
}
