// Who of this node's connections gets what: filter → subscriptions of live connections, merged per connection
// when several filters of one connection match (one copy at the highest QoS with every Subscription
// Identifier). State: this process, gone with it; what other nodes must know of it goes through the bridge's
// routes.
import { FilterTrie, MatchCache, SmallMap, type Moment } from '../../bridge/index.ts'

/** The options of one subscription as granted (MQTT 5 section 3.8.3.1). */
export interface SubscriptionOptions {
  readonly qos: 0 | 1 | 2
  readonly noLocal: boolean
  readonly retainAsPublished: boolean
  readonly identifier: number | undefined
}

/**
 * Whether QoS ≥ 1 messages come through the queue of the subscriber's session; `soon`: not before the whole
 * cluster knows of the subscription, and not live either.
 */
type Queued = 'no' | 'soon' | 'yes'

/** A subscription as it is served now. */
export interface Subscription extends SubscriptionOptions {
  readonly queued: Queued
  /** Where it began among the Retained Messages; undefined when it is older than this connection. */
  readonly since: Moment | undefined
}

interface Filter<Subscriber> {
  readonly subscriptions: SmallMap<Subscriber, Subscription>
  version: number
}

/** One delivery to make: all matching subscriptions of one subscriber in one. */
export interface Match<Subscriber> {
  readonly subscriber: Subscriber
  readonly qos: 0 | 1 | 2
  readonly retainAsPublished: boolean
  /** Subscription Identifiers of all matching subscriptions, undefined when none has one [MQTT-3.3.4-4]. */
  readonly identifiers: readonly number[] | undefined
  /** Some matching subscription is No Local: for the subscriber's own messages ask `matchOf`. */
  readonly noLocal: boolean
  /** Moments of matching subscriptions: for a message that was stored before some of them ask `matchOf`. */
  readonly since: readonly Moment[] | undefined
  /** Of all of them together: what one has in the queue does not come live because of another. */
  readonly queued: Queued
}

/** One pass, since one publish may match tens of thousands of them. */
function merge<Subscriber>(subscriber: Subscriber, all: readonly Subscription[]): Match<Subscriber> {
  let qos: 0 | 1 | 2 = 0
  let [retainAsPublished, noLocal, isLive, isQueued] = [false, false, false, false]
  let identifiers: number[] | undefined
  let since: Moment[] | undefined
  for (const subscription of all) {
    if (subscription.qos > qos) qos = subscription.qos
    retainAsPublished ||= subscription.retainAsPublished
    noLocal ||= subscription.noLocal
    isLive ||= subscription.queued === 'no'
    isQueued ||= subscription.queued === 'yes'
    if (subscription.identifier !== undefined) (identifiers ??= []).push(subscription.identifier)
    if (subscription.since !== undefined) (since ??= []).push(subscription.since)
  }
  const queued = isQueued ? 'yes' : isLive ? 'no' : 'soon'
  return { subscriber, qos, retainAsPublished, identifiers, noLocal, since, queued }
}

function mergeAll<Subscriber extends object>(
  filters: readonly Filter<Subscriber>[],
): readonly Match<Subscriber>[] {
  const matches: Match<Subscriber>[] = []
  // of one filter nothing is to be merged: it may have a hundred thousand subscribers
  if (filters.length === 1) {
    filters[0]!.subscriptions.forEach((options, subscriber) => matches.push(merge(subscriber, [options])))
    return matches
  }
  const bySubscriber = new Map<Subscriber, Subscription[]>()
  for (const { subscriptions } of filters) {
    subscriptions.forEach((options, subscriber) => {
      const known = bySubscriber.get(subscriber)
      if (known === undefined) bySubscriber.set(subscriber, [options])
      else known.push(options)
    })
  }
  for (const [subscriber, all] of bySubscriber) matches.push(merge(subscriber, all))
  return matches
}

/** Memory: an object and a place for each, and their identifiers. */
function bytesOfMatches(matches: readonly Match<object>[]): number {
  let bytes = 32
  for (const { identifiers } of matches)
    bytes += 88 + (identifiers === undefined ? 0 : 32 + 8 * identifiers.length)
  return bytes
}

export class LocalTable<Subscriber extends object> {
  readonly #filters = new FilterTrie<Filter<Subscriber>>()
  readonly #matches = new MatchCache<Filter<Subscriber>, readonly Match<Subscriber>[]>(
    this.#filters,
    mergeAll,
    bytesOfMatches,
  )

  #removals = 0

  /** Grows with every subscription that goes. */
  get removals(): number {
    return this.#removals
  }

  /** Adds or replaces a subscription. */
  add(filter: string, subscriber: Subscriber, subscription: Subscription): void {
    let entry = this.#filters.get(filter)
    if (entry === undefined) {
      entry = { subscriptions: new SmallMap(), version: 0 }
      this.#filters.add(filter, entry)
    }
    entry.subscriptions.set(subscriber, subscription)
    entry.version++
  }

  remove(filter: string, subscriber: Subscriber): void {
    const entry = this.#filters.get(filter)
    if (entry === undefined || !entry.subscriptions.delete(subscriber)) return
    entry.version++
    this.#removals++
    if (entry.subscriptions.size === 0) this.#filters.delete(filter)
  }

  get(filter: string, subscriber: Subscriber): Subscription | undefined {
    return this.#filters.get(filter)?.subscriptions.get(subscriber)
  }

  /** The deliveries for a topic. Cached: O(matching filters) when nothing changed. */
  match(topic: string): readonly Match<Subscriber>[] {
    return this.#matches.match(topic)
  }

  /** Whether a subscription of the subscriber matches. O(matching filters). */
  isMatched(topic: string, subscriber: Subscriber): boolean {
    return this.#filters.match(topic).some(({ subscriptions }) => subscriptions.has(subscriber))
  }

  /** The subscriptions of one subscriber that match. */
  allOf(topic: string, subscriber: Subscriber): Subscription[] {
    return this.#filters.match(topic).flatMap(({ subscriptions }) => subscriptions.get(subscriber) ?? [])
  }

  /** The delivery to `subscriber` by those of its subscriptions that `counts`. */
  matchOf(
    topic: string,
    subscriber: Subscriber,
    counts: (subscription: Subscription) => boolean,
  ): Match<Subscriber> | undefined {
    const all = this.allOf(topic, subscriber).filter(counts)
    return all.length === 0 ? undefined : merge(subscriber, all)
  }
}
