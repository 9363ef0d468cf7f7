// What the clients of a node may subscribe to: levels and length of a filter, how many of them one client may
// have and what they may cost in memory, here and in the tables of all nodes. A filter beyond a bound is
// refused in SUBACK, alone; access/refusals.ts says with what. What a session resumes with was within the bounds
// once, and is not held against them again; the gate is asked again (broker/aedes/connect.ts). State: what each
// connection has, and all of them together.
import { filterBytes } from '../../bridge/index.ts'
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

interface Subscribed {
  count: number
  bytes: number
  /** Filters that were let in and are not in the table yet. */
  readonly coming: Set<string>
}

/** Memory of one subscription here, roughly: Aedes' table and ours, and the route of this node. */
const costOf = (filter: string): number => 256 + 2 * filterBytes(filter)

export class SubscriptionBounds<Subscriber extends object> {
  readonly #limits: SubscriptionLimits
  readonly #routingBytes: () => number
  readonly #held = new WeakMap<Subscriber, Subscribed>()
  #bytes = 0

  /** @param routingBytes memory that the routes of the cluster take here */
  constructor(limits: SubscriptionLimits, routingBytes: () => number) {
    this.#limits = limits
    this.#routingBytes = routingBytes
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
    if (Buffer.byteLength(filter) > topicBytesMax) return 'topic-bytes'
    if (hasMoreLevels(filter, topicLevelsMax)) return 'topic-levels'
    const held = this.#of(subscriber)
    if (held.coming.has(filter)) return undefined
    const cost = costOf(filter)
    if (held.count >= subscriptionsMax) return 'subscriptions'
    if (held.bytes + cost > subscriptionBytesMax) return 'subscription-bytes'
    if (this.#bytes + this.#routingBytes() + cost > routingBytesMax) return 'routing-bytes'
    held.coming.add(filter)
    this.#count(held, 1, cost)
    return undefined
  }

  /** `filter` is in the table now, where it was not before. */
  added(subscriber: Subscriber, filter: string): void {
    const held = this.#of(subscriber)
    if (!held.coming.delete(filter)) this.#count(held, 1, costOf(filter)) // resumed
  }

  removed(subscriber: Subscriber, filter: string): void {
    this.#count(this.#of(subscriber), -1, -costOf(filter))
  }

  /**
   * `subscriber` is gone, and what it has in the table is removed: what did not come to be in it counts no
   * more.
   */
  gone(subscriber: Subscriber): void {
    const held = this.#held.get(subscriber)
    if (held === undefined) return
    for (const filter of held.coming) this.#count(held, -1, -costOf(filter))
    held.coming.clear()
  }

  #count(held: Subscribed, count: number, bytes: number): void {
    held.count += count
    held.bytes += bytes
    this.#bytes += bytes / 2 // the other half is the route, which the routing table counts
  }
}

function hasMoreLevels(filter: string, max: number): boolean {
  let levels = 1
  for (let at = filter.indexOf('/'); at >= 0; at = filter.indexOf('/', at + 1))
    if (++levels > max) return true
  return levels > max
}
