// One message on its way to the subscribers of this node, in slices: half a million filters may match it, or a hundred
// thousand subscribers get it. What comes after it waits (bridge/pace/backlog.ts), so that each subscriber gets its
// messages in their order. Invariant: who is subscribed from the beginning to the end gets it once; who unsubscribes
// meanwhile has had its UNSUBACK, and gets nothing more [MQTT-3.10.4-1]. State: how far it is.
import type { Making, Message, Pace } from '../../bridge/index.ts'
import type { LocalTable, Match } from './local-table.ts'
import type { Subscriber } from './subscriber.ts'

/** What becomes of a match when it is looked at anew; undefined: nothing is delivered. */
type Anew = Making<{ readonly match: Match<Subscriber> | undefined }>

/** By which match a subscriber gets a message; undefined: it is its own, and all that match are No Local. */
export const ownOrAll = ({ by }: Message, match: Match<Subscriber>): Match<Subscriber> | undefined =>
  match.noLocal && by?.clientId === match.subscriber.clientId ? match.own : match

/** Some subscription that matches may be younger than the message, which the replay brings then. */
const isYounger = ({ topic, stamp }: Message, { since }: Match<Subscriber>): boolean =>
  stamp !== undefined && since?.some((moment) => moment.includes(topic, stamp)) === true

export class LocalDelivery {
  readonly #table: LocalTable<Subscriber>
  readonly #message: Message
  readonly #deliver: (subscriber: Subscriber, match: Match<Subscriber>) => void
  #making: Making<readonly Match<Subscriber>[]> | undefined
  #matches: readonly Match<Subscriber>[] | undefined
  #i = 0
  #anew: Anew | undefined
  /** Who has lost a subscription since it was interrupted. */
  #removed: Set<Subscriber> | undefined
  /** Those of them that were looked at anew: who subscribed again meanwhile may be among the matches twice. */
  #again: Set<Subscriber> | undefined
  #unwatch: (() => void) | undefined

  constructor(
    table: LocalTable<Subscriber>,
    message: Message,
    deliver: (subscriber: Subscriber, match: Match<Subscriber>) => void,
  ) {
    this.#table = table
    this.#message = message
    this.#deliver = deliver
  }

  /** False: there is more of it. */
  goOn(slice: Pace): boolean {
    this.#matches ??= this.#match(slice)
    if (this.#matches === undefined) return this.#interrupt()
    for (; this.#i < this.#matches.length; this.#i++) {
      if (slice.isOver || !this.#give(this.#matches[this.#i]!, slice)) return this.#interrupt()
    }
    this.#unwatch?.()
    return true
  }

  #match(slice: Pace): readonly Match<Subscriber>[] | undefined {
    const { topic } = this.#message
    const known = this.#making === undefined ? this.#table.known(topic) : undefined
    return known ?? (this.#making ??= this.#table.making(topic)).goOn(slice)
  }

  #interrupt(): false {
    this.#unwatch ??= this.#table.watchRemovals((this.#removed ??= new Set()))
    return false
  }

  /** False: what it is to get is still being looked for. */
  #give(match: Match<Subscriber>, slice: Pace): boolean {
    const message = this.#message
    const { subscriber } = match
    const some = ownOrAll(message, match)
    if (some === undefined) return true
    if (this.#anew === undefined) {
      const isRemoved = this.#removed?.has(subscriber) === true
      if (isRemoved && this.#again?.has(subscriber) === true) return true
      if (isRemoved) (this.#again ??= new Set()).add(subscriber)
      else if (!isYounger(message, some)) {
        this.#deliver(subscriber, some)
        return true
      }
      const isOwn = message.by?.clientId === subscriber.clientId
      const { topic, stamp } = message
      this.#anew = this.#table.makingOf(
        topic,
        subscriber,
        ({ noLocal, since }) =>
          !(isOwn && noLocal) && (stamp === undefined || since?.includes(topic, stamp) !== true),
      )
    }
    const made = this.#anew.goOn(slice)
    if (made === undefined) return false
    this.#anew = undefined
    if (made.match !== undefined) this.#deliver(subscriber, made.match)
    return true
  }
}
