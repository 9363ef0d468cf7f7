// What the clients of a node may subscribe to: levels and length of a filter, how many of them one client may
// have and what they may cost in memory, here and in the tables of all nodes. A filter beyond a bound is
// refused in SUBACK, alone; access/refusals.ts says with what. The one bound of a packet,
// `subscribeFiltersMax`, is asked in aedes/subscribe.ts. What a session resumes with was within the bounds
// once, and is not held against them again; the gate is asked again (broker/aedes/connect.ts). A route counts
// from when its filter is let in, though the table has it a while later: ten thousand filters may come in one
// SUBSCRIBE. State: what each connection has, all of them together, and the routes to come.
import { filterBytes, ownFilter } from '../../bridge/index.ts'
import type { RefusalCause } from '../access/refusals.ts'

export interface SubscriptionLimits {
  readonly topicLevelsMax: number
  readonly topicBytesMax: number
  readonly subscriptionsMax: number
  readonly subscriptionBytesMax: number
  readonly routingBytesMax: number
}

/** Why a filter is refused. */
export type FilterRefusal = Extract<
  RefusalCause,
  'topic-levels' | 'topic-bytes' | 'subscriptions' | 'subscription-bytes' | 'routing-bytes'
>

/** What the bounds ask the routing table of the cluster. */
export interface Routes {
  /** Memory that all of them take here. */
  readonly bytes: number
  has(filter: string): boolean
}

interface Subscribed {
  count: number
  bytes: number
  /** Filters that were let in and are not in the table yet. */
  readonly coming: Set<string>
}

/** Memory of one subscription here, roughly: Aedes' table and ours. The route is as much again, shared or not. */
const ownBytes = (filter: string): number => 128 + filterBytes(filter)
const costOf = (filter: string): number => 2 * ownBytes(filter)

/** Filters that were let in and had no route then. */
class ComingRoutes {
  readonly #routes: Routes
  /** filter → how many subscribers wait for it */
  readonly #coming = new Map<string, number>()
  #bytes = 0
  /** More than twice as many as were left when it was looked: some will have come. */
  #lookAt = 1_000

  constructor(routes: Routes) {
    this.#routes = routes
  }

  /** What a route of `filter` would take, were it let in. */
  bytesOf(filter: string): number {
    return this.#coming.has(filter) || this.#routes.has(filter) ? 0 : filterBytes(filter)
  }

  /** All routes, also those to come. @param most above it those are taken out that have come meanwhile */
  bytes(most: number): number {
    if (this.#routes.bytes + this.#bytes > most) this.#look()
    return this.#routes.bytes + this.#bytes
  }

  add(filter: string): void {
    const waiting = this.#coming.get(filter)
    if (waiting === undefined && this.#routes.has(filter)) return
    if (waiting === undefined) this.#bytes += filterBytes(filter)
    this.#coming.set(filter, (waiting ?? 0) + 1)
    if (this.#coming.size > this.#lookAt) this.#look()
  }

  /** A subscriber of it is gone. */
  remove(filter: string): void {
    const waiting = this.#coming.get(filter)
    if (waiting === undefined) return
    if (waiting > 1) this.#coming.set(filter, waiting - 1)
    else this.#forget(filter)
  }

  #look(): void {
    for (const filter of this.#coming.keys()) if (this.#routes.has(filter)) this.#forget(filter)
    this.#lookAt = Math.max(1_000, 2 * this.#coming.size)
  }

  #forget(filter: string): void {
    this.#coming.delete(filter)
    this.#bytes -= filterBytes(filter)
  }
}

export class SubscriptionBounds<Subscriber extends object> {
  readonly #limits: SubscriptionLimits
  readonly #routes: ComingRoutes
  readonly #held = new WeakMap<Subscriber, Subscribed>()
  #bytes = 0
  /** Of all subscribers. */
  count = 0

  constructor(limits: SubscriptionLimits, routes: Routes) {
    this.#limits = limits
    this.#routes = new ComingRoutes(routes)
  }

  #of(subscriber: Subscriber): Subscribed {
    let held = this.#held.get(subscriber)
    if (held === undefined) this.#held.set(subscriber, (held = { count: 0, bytes: 0, coming: new Set() }))
    return held
  }

  /**
   * Why `subscriber` may not subscribe to a filter that it does not have; undefined: it may, and is about to.
   */
  refusal(subscriber: Subscriber, filter: string): FilterRefusal | undefined {
    const { topicLevelsMax, topicBytesMax, subscriptionsMax, subscriptionBytesMax, routingBytesMax } =
      this.#limits
    const own = ownFilter(filter) // as its client sees it
    if (Buffer.byteLength(own) > topicBytesMax) return 'topic-bytes'
    if (hasMoreLevels(own, topicLevelsMax)) return 'topic-levels'
    const held = this.#of(subscriber)
    if (held.coming.has(filter)) return undefined
    const cost = costOf(filter)
    if (held.count >= subscriptionsMax) return 'subscriptions'
    if (held.bytes + cost > subscriptionBytesMax) return 'subscription-bytes'
    const room = routingBytesMax - this.#bytes - ownBytes(filter) - this.#routes.bytesOf(filter)
    if (this.#routes.bytes(room) > room) return 'routing-bytes'
    this.#routes.add(filter)
    held.coming.add(filter)
    this.#count(held, 1, cost)
    return undefined
  }

  /** `filter` is in the table now, where it was not before. */
  added(subscriber: Subscriber, filter: string): void {
    const held = this.#of(subscriber)
    if (held.coming.delete(filter)) return
    this.#routes.add(filter) // resumed: `removed` takes it out again, and not what another one waits for
    this.#count(held, 1, costOf(filter))
  }

  removed(subscriber: Subscriber, filter: string): void {
    this.#routes.remove(filter)
    this.#count(this.#of(subscriber), -1, -costOf(filter))
  }

  /**
   * `subscriber` is gone, and what it has in the table is removed: what did not come to be in it counts no
   * more.
   */
  gone(subscriber: Subscriber): void {
    const held = this.#held.get(subscriber)
    if (held === undefined) return
    for (const filter of held.coming) {
      this.#routes.remove(filter)
      this.#count(held, -1, -costOf(filter))
    }
    held.coming.clear()
  }

  #count(held: Subscribed, count: number, bytes: number): void {
    held.count += count
    this.count += count
    held.bytes += bytes
    this.#bytes += bytes / 2 // the other half is for the route, which is counted by itself
  }
}

function hasMoreLevels(filter: string, max: number): boolean {
  let levels = 1
  for (let at = filter.indexOf('/'); at >= 0; at = filter.indexOf('/', at + 1))
    if (++levels > max) return true
  return levels > max
}
