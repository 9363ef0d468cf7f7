// The bells of sessions that got something, rung at the nodes that own them. An owner that this node has not
// heard of may be dead, and its sessions look into their queues when they are claimed; or it has just joined,
// and nobody else would ring. State: the bells for nodes that this one has not heard of, until it has caught
// up with the journal.
import { SingleFlight } from '../pace/single-flight.ts'

export interface BellEvents {
  isKnown(nodeId: string): boolean
  ring(nodeId: string, sid: string): void
  /** Every node that joined before the call is known when it resolves. */
  catchUp(): Promise<void>
}

export class Bells {
  readonly #events: BellEvents
  /** sid → owner */
  #unheard = new Map<string, string>()
  readonly #asking = new SingleFlight(() => this.#ask())

  constructor(events: BellEvents) {
    this.#events = events
  }

  ring(nodeId: string, sid: string): void {
    if (this.#events.isKnown(nodeId)) return this.#events.ring(nodeId, sid)
    this.#unheard.set(sid, nodeId)
    void this.#asking.next()
  }

  async #ask(): Promise<void> {
    const unheard = this.#unheard // what comes from now on may have joined after what is being asked for
    this.#unheard = new Map()
    await this.#events.catchUp().catch(() => undefined) // the boot is over
    for (const [sid, nodeId] of unheard) if (this.#events.isKnown(nodeId)) this.#events.ring(nodeId, sid)
  }
}
