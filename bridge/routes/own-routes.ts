// The routes of this node: which filters its connections want, counted here, and told to the other nodes by
// the journal. Invariant: when `add` resolves, the journal holds a route that covers the subscription,
// so that every PUBLISH whose barrier is read from then on finds this node (P2). Removing needs no waiting:
// what still comes finds no subscription here. State: this process; after a reset of the journal all of it is
// asserted anew.
import { membersMax } from '../groups/group-table.ts'
import { isShared } from '../groups/shared-filter.ts'
import type { Change } from '../messages/codec.ts'
import { RouteKind } from './routing-table.ts'

export interface RouteChange {
  readonly filter: string
  /** Bits of RouteKind, or members of a group that are connected here; 0 removes the route. */
  readonly kind: number
}

/** Appends changes of this node's routes to the journal; resolves when they are stored there. */
export type AppendRoutes = (changes: readonly RouteChange[]) => Promise<void>

interface Subscriptions {
  /** Subscriptions that want every body, and those that want bodies of QoS 0 publishes only. */
  everything: number
  qos0: number
  /** What the journal holds or will hold when what is under way is stored. */
  journaled: number
  /** Settles when `told` is stored. */
  stored: Promise<void> | undefined
}

export class OwnRoutes {
  readonly #append: AppendRoutes
  readonly #wanted = new Map<string, Subscriptions>()
  #dirty = new Set<string>()
  #flush: Promise<void> | undefined
  /** What `writeNow` took from the flush that is to come. */
  #now: Promise<void> | undefined

  constructor(append: AppendRoutes) {
    this.#append = append
  }

  /**
   * Counts a subscription; resolves when every node can know of it. `everything` as in RouteKind.
   * @param sessionWrite what the change may wait for: it goes into the journal with what that write appends
   */
  async add(filter: string, kind: number, sessionWrite?: Promise<unknown>): Promise<void> {
    const wanted = this.#wanted.get(filter) ?? { everything: 0, qos0: 0, journaled: 0, stored: undefined }
    this.#wanted.set(filter, wanted)
    if (kind === RouteKind.everything) wanted.everything++
    else wanted.qos0++
    // A removal of this filter that is under way is overtaken by nothing: changes of one filter are appended
    // in order.
    if (kindOf(filter, wanted) === wanted.journaled) return wanted.stored
    if (sessionWrite !== undefined) {
      this.#dirty.add(filter)
      await sessionWrite.catch(() => undefined)
      if (!this.#dirty.has(filter)) return this.#wanted.get(filter)?.stored
    }
    return this.#writeSoon(filter)
  }

  /** Writes what waits for sessions, with what its caller appends in this turn. */
  writeNow(): void {
    if (this.#dirty.size === 0) return
    const written = Promise.all([this.#now, this.#write()]).then(() => undefined)
    written.catch(() => undefined) // whoever waits for a change hears of it
    this.#now = written
  }

  /** Uncounts a subscription; the route goes with the last one, a tick later. */
  remove(filter: string, kind: number): void {
    const wanted = this.#wanted.get(filter)
    if (wanted === undefined) return
    if (kind === RouteKind.everything) wanted.everything--
    else wanted.qos0--
    // the bridge reports what became of the append
    if (kindOf(filter, wanted) !== wanted.journaled) this.#writeSoon(filter).catch(() => undefined)
  }

  /** All routes as they are wanted now: what a new snapshot of this node must hold. */
  *all(): Iterable<RouteChange> {
    for (const [filter, wanted] of this.#wanted) {
      const kind = kindOf(filter, wanted)
      if (kind !== 0) yield { filter, kind }
    }
  }

  get size(): number {
    return this.#wanted.size
  }

  #writeSoon(filter: string): Promise<void> {
    this.#dirty.add(filter)
    this.#flush ??= new Promise<void>((resolve, reject) => {
      setImmediate(() => {
        this.#flush = undefined
        const taken = this.#now
        this.#now = undefined
        Promise.all([taken, this.#write()]).then(() => resolve(), reject)
      })
    })
    return this.#flush
  }

  /** One journal entry for all that changed in a tick: a connect storm is not an entry per client. */
  #write(): Promise<void> {
    const changes: RouteChange[] = []
    const written: Subscriptions[] = []
    const earlier: Promise<void>[] = []
    for (const filter of this.#dirty) {
      const wanted = this.#wanted.get(filter)
      if (wanted === undefined) continue
      const kind = kindOf(filter, wanted)
      if (kind !== wanted.journaled) {
        changes.push({ filter, kind })
        wanted.journaled = kind
        written.push(wanted)
        // told by an earlier write, which may be under way
      } else if (wanted.stored !== undefined) earlier.push(wanted.stored)
      if (kind === 0) this.#wanted.delete(filter)
    }
    this.#dirty = new Set()
    const stored = changes.length === 0 ? Promise.resolve() : this.#append(changes)
    for (const wanted of written) {
      wanted.stored = stored
      stored.then(
        () => {
          if (wanted.stored === stored) wanted.stored = undefined
        },
        () => undefined,
      )
    }
    return Promise.all([stored, ...earlier]).then(() => undefined)
  }
}

const kindOf = (filter: string, { everything, qos0 }: Subscriptions): number =>
  isShared(filter)
    ? Math.min(everything, membersMax)
    : (everything > 0 ? RouteKind.everything : 0) | (qos0 > 0 ? RouteKind.qos0 : 0)

/** As the journal tells it. */
export const routeChange = ({ filter, kind }: RouteChange): Change => ({ type: 'route', filter, kind })
