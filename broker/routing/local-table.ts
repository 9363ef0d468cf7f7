// Who of this node's connections gets what: filter → subscriptions of live connections, merged per connection
// when several filters of one connection match (one copy at the highest QoS with every Subscription
// Identifier). State: this process, gone with it; what other nodes must know of it goes through the bridge's
// routes.
import {
  atOnce,
  FilterTrie,
  MatchCache,
  SessionOption,
  SmallMap,
  worked,
  type Maker,
  type Making,
  type Moment,
  type Pace,
} from '../../bridge/index.ts'

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
  /** Some matching subscription is No Local: the subscriber's own messages are delivered as `own` says. */
  readonly noLocal: boolean
  /** By the subscriptions that are not No Local; undefined: all are. */
  readonly own: Match<Subscriber> | undefined
  /** Moments of matching subscriptions: for a message that was stored before some of them ask `matchOf`. */
  readonly since: readonly Moment[] | undefined
  /** Of all of them together: what one has in the queue does not come live because of another. */
  readonly queued: Queued
}

/** A match while subscriptions are being taken in, one after the other: one publish may match tens of thousands. */
class Merged<Subscriber> implements Match<Subscriber> {
  readonly subscriber: Subscriber
  qos: 0 | 1 | 2 = 0
  retainAsPublished = false
  identifiers: number[] | undefined
  noLocal = false
  since: Moment[] | undefined
  queued: Queued = 'soon'
  #own: Merged<Subscriber> | undefined
  #count = 0

  constructor(subscriber: Subscriber) {
    this.subscriber = subscriber
  }

  get own(): Match<Subscriber> | undefined {
    return this.noLocal ? this.#own : this
  }

  add(subscription: Subscription): this {
    if (subscription.noLocal && !this.noLocal) {
      this.noLocal = true
      if (this.#count > 0) this.#own = this.#copy()
    } else if (this.noLocal && !subscription.noLocal)
      (this.#own ??= new Merged(this.subscriber)).add(subscription)
    this.#count++
    if (subscription.qos > this.qos) this.qos = subscription.qos
    this.retainAsPublished ||= subscription.retainAsPublished
    if (subscription.queued !== 'soon' && this.queued !== 'yes') this.queued = subscription.queued
    if (subscription.identifier !== undefined) (this.identifiers ??= []).push(subscription.identifier)
    if (subscription.since !== undefined) (this.since ??= []).push(subscription.since)
    return this
  }

  /** Of subscriptions none of which is No Local. */
  #copy(): Merged<Subscriber> {
    const copy = new Merged(this.subscriber)
    copy.qos = this.qos
    copy.retainAsPublished = this.retainAsPublished
    copy.identifiers = this.identifiers?.slice()
    copy.since = this.since?.slice()
    copy.queued = this.queued
    return copy
  }
}

/** Subscribers of one filter that are taken in without a look at the clock. */
const subscribersAtOnce = 64

/** The matches of all subscribers of some filters. */
class Merging<Subscriber extends object> implements Maker<Filter<Subscriber>, readonly Match<Subscriber>[]> {
  readonly value: Match<Subscriber>[] = []
  /** Undefined: of one filter, where nothing is to be merged. */
  readonly #merged: Map<Subscriber, Merged<Subscriber>> | undefined
  /** Subscribers of the filter that is being taken in. */
  #rest: Iterator<readonly [Subscriber, Subscription]> | undefined
  readonly #add = (subscription: Subscription, subscriber: Subscriber): void => {
    let merged = this.#merged?.get(subscriber)
    if (merged === undefined) {
      this.value.push((merged = new Merged(subscriber)))
      this.#merged?.set(subscriber, merged)
    }
    merged.add(subscription)
  }

  constructor(filters: number) {
    this.#merged = filters > 1 ? new Map() : undefined
  }

  take({ subscriptions }: Filter<Subscriber>, slice: Pace): boolean {
    if (this.#rest === undefined && subscriptions.size <= subscribersAtOnce) {
      subscriptions.forEach(this.#add)
      return true
    }
    this.#rest ??= subscriptions.entries()
    for (let n = 1; ; n++) {
      const next = this.#rest.next()
      if (next.done === true) break
      this.#add(next.value[1], next.value[0])
      if (n % subscribersAtOnce !== 0) continue
      worked(subscribersAtOnce)
      if (slice.isOver) return false
    }
    this.#rest = undefined
    return true
  }
}

/** Memory: an object and a place for each, and their identifiers. */
function bytesOfMatches(matches: readonly Match<object>[]): number {
  let bytes = 32
  for (const { identifiers, own, noLocal } of matches) {
    bytes += 112 + (identifiers === undefined ? 0 : 32 + 8 * identifiers.length)
    if (noLocal && own?.identifiers !== undefined) bytes += 8 * own.identifiers.length
  }
  return bytes
}

export class LocalTable<Subscriber extends object> {
  readonly #filters = new FilterTrie<Filter<Subscriber>>()
  readonly #matches = new MatchCache<Filter<Subscriber>, readonly Match<Subscriber>[]>(
    this.#filters,
    () => this.#version,
    (filters) => new Merging(filters.length),
    bytesOfMatches,
  )
  #version = 0
  /** Of those who want to know: who has lost a subscription since. */
  readonly #watched = new Set<Set<Subscriber>>()

  /** Who has lost a subscription from now on. @returns ends that */
  watchRemovals(removed: Set<Subscriber>): () => void {
    this.#watched.add(removed)
    return () => {
      this.#watched.delete(removed)
    }
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
    this.#version++
  }

  remove(filter: string, subscriber: Subscriber): void {
    const entry = this.#filters.get(filter)
    if (entry === undefined || !entry.subscriptions.delete(subscriber)) return
    entry.version++
    this.#version++
    for (const removed of this.#watched) removed.add(subscriber)
    if (entry.subscriptions.size === 0) this.#filters.delete(filter)
  }

  get(filter: string, subscriber: Subscriber): Subscription | undefined {
    return this.#filters.get(filter)?.subscriptions.get(subscriber)
  }

  /** The deliveries for a topic; in no order. */
  match(topic: string): readonly Match<Subscriber>[] {
    return this.#matches.match(topic)
  }

  /** The same, if they are remembered. */
  known(topic: string): readonly Match<Subscriber>[] | undefined {
    return this.#matches.known(topic)
  }

  /** The same in slices: half a million filters may match, or one with a hundred thousand subscribers. */
  making(topic: string): Making<readonly Match<Subscriber>[]> {
    return this.#matches.making(topic)
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
    return this.makingOf(topic, subscriber, counts).goOn(atOnce)!.match
  }

  /** The same in slices. */
  makingOf(
    topic: string,
    subscriber: Subscriber,
    counts: (subscription: Subscription) => boolean,
  ): Making<{ readonly match: Match<Subscriber> | undefined }> {
    let matching: Making<readonly Filter<Subscriber>[]> | undefined
    let filters: readonly Filter<Subscriber>[] | undefined
    let match: Merged<Subscriber> | undefined
    let i = 0
    return {
      goOn: (slice) => {
        if (matching === undefined) filters ??= this.#filters.known(topic)
        filters ??= (matching ??= this.#filters.matching(topic)).goOn(slice)
        if (filters === undefined) return undefined
        for (; i < filters.length; i++) {
          if (i % subscribersAtOnce === subscribersAtOnce - 1) {
            worked(subscribersAtOnce)
            if (slice.isOver) return undefined
          }
          const subscription = filters[i]!.subscriptions.get(subscriber)
          if (subscription !== undefined && counts(subscription))
            match = (match ?? new Merged(subscriber)).add(subscription)
        }
        return { match }
      },
    }
  }
}

/** As a session keeps them. */
export const storedOptions = ({
  qos,
  noLocal,
  retainAsPublished,
  identifier,
}: SubscriptionOptions): { options: number; identifier: number | undefined } => ({
  options:
    qos | (noLocal ? SessionOption.noLocal : 0) | (retainAsPublished ? SessionOption.retainAsPublished : 0),
  identifier,
})
