// The stored subscriptions of sessions that are connected here: stored, journaled, noted as journaled, then
// the caller sends SUBACK (R10). One change of a session is under way; what its client asks for
// meanwhile goes together with the next. State: {s<n>}:subscriptions, `pending` in {s<n>}:session; here what
// is under way. Invariant: while a change is stored and not journaled, `pending` names it, whatever replies
// are lost: whoever claims the session then journals all of it again.
import type { Change } from '../messages/codec.ts'
import { toBridgeError } from '../errors.ts'
import { partitionOf, type Keys } from '../redis/keys.ts'
import { retrying, type Redis } from '../redis/redis.ts'
import { runScript } from '../redis/scripts.ts'
import type { Session } from './session.ts'
import { encodeSubscription, journaled, type StoredSubscription } from './stored-subscription.ts'

/** What one session has to change. */
interface Changes {
  /** Filter → subscription, undefined removes; gathers until `written` begins. */
  next: Map<string, StoredSubscription | undefined>
  /** Settles when `next` is stored and journaled; undefined while nothing gathers. */
  gathering: Promise<void> | undefined
  /** Settles when all that was taken is stored and journaled. */
  last: Promise<void>
  count: number
  /** Changes that are stored and journaled, or failed. */
  done: number
}

export interface SubscriptionEvents {
  append(changes: readonly Change[]): Promise<void>
  stillOwned(session: Session): Promise<boolean>
}

export class Subscriptions {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #events: SubscriptionEvents
  readonly #changes = new WeakMap<Session, Changes>()

  constructor(redis: Redis, keys: Keys, events: SubscriptionEvents) {
    this.#redis = redis
    this.#keys = keys
    this.#events = events
  }

  /** @throws BridgeError ERR_BRIDGE_MOVED */
  async subscribe(session: Session, filter: string, subscription: StoredSubscription): Promise<void> {
    const known = session.subscriptions.get(filter)
    // The same SUBSCRIBE may be under way: its acknowledgement is no earlier for being asked for twice.
    if (
      known !== undefined &&
      known.options === subscription.options &&
      known.identifier === subscription.identifier &&
      known.base === subscription.base
    )
      return this.#changes.get(session)?.last
    if (session.subscriptions.size === 0) session.subscriptions = new Map() // the empty one is shared
    session.subscriptions.set(filter, subscription)
    await this.#change(session, [[filter, subscription]])
  }

  /**
   * Its client has subscribed, be it to what it has: what Redis lost of it is no longer to be told. Without this only
   * another filter, or other options, would end that.
   */
  async subscribedAgain(session: Session): Promise<void> {
    session.lost = 0
    const [known] = session.subscriptions
    if (known !== undefined) await this.#change(session, [known])
  }

  /** @throws BridgeError ERR_BRIDGE_MOVED */
  async unsubscribe(session: Session, filters: readonly string[]): Promise<void> {
    const known = filters.filter(
      (filter) => session.subscriptions.delete(filter) || session.later.includes(filter),
    )
    if (known.length > 0)
      await this.#change(
        session,
        known.map((filter) => [filter, undefined]),
      )
  }

  /**
   * Changes of the session so far; undefined while one is under way, and Redis may have it or not, or they
   * are read.
   */
  settledAt(session: Session): number | undefined {
    const queue = this.#changes.get(session)
    if (session.reading !== undefined) return undefined
    if (queue === undefined) return 0
    return queue.gathering === undefined && queue.done === queue.count ? queue.count : undefined
  }

  #change(
    session: Session,
    changes: readonly (readonly [string, StoredSubscription | undefined])[],
  ): Promise<void> {
    let queue = this.#changes.get(session)
    if (queue === undefined)
      this.#changes.set(
        session,
        (queue = { next: new Map(), gathering: undefined, last: Promise.resolve(), count: 0, done: 0 }),
      )
    for (const [filter, subscription] of changes) queue.next.set(filter, subscription)
    return (queue.gathering ??= this.#write(session, queue))
  }

  #write(session: Session, queue: Changes): Promise<void> {
    const written = queue.last.then(async () => {
      const changes = [...queue.next]
      queue.next = new Map()
      queue.gathering = undefined
      const name = `${session.owner} ${++queue.count}`
      await this.#script(session, [
        name,
        ...changes.flatMap(([filter, subscription]) => [
          filter,
          subscription === undefined ? '' : encodeSubscription(subscription),
        ]),
      ])
      session.changed = name
      if (session.later.length > 0)
        session.later = session.later.filter((filter) => !changes.some(([changed]) => changed === filter))
      await this.#events.append(
        changes.map(([filter, subscription]) => journaled(session.sid, filter, subscription?.options)),
      )
      await this.noteJournaled(session, name)
    })
    const done = (): void => {
      queue.done++
    }
    written.then(done, done)
    queue.last = written // once one failed the session is not ours, and all that follow fail
    return written
  }

  /** The change stands in the journal: what an earlier owner left pending and a claim has told again. */
  noteJournaled(session: Session, change: string): Promise<void> {
    return this.#script(session, [change])
  }

  async #script(session: Session, argv: readonly string[]): Promise<void> {
    const { sid, owner } = session
    const keys = [
      this.#keys.partition(partitionOf(sid), 'owners'),
      this.#keys.session(sid, 'session'),
      this.#keys.session(sid, 'subscriptions'),
    ]
    // filters are at odd places, options after them
    const frees = argv.every((value, i) => i === 0 || i % 2 === 1 || value === '')
    for (;;) {
      try {
        await retrying(this.#redis, () =>
          runScript(this.#redis, 'session-subscribe', keys, [sid, owner, ...argv], { whenFull: frees }),
        )
        return
      } catch (reason) {
        if (toBridgeError(reason).code !== 'ERR_BRIDGE_MOVED' || !(await this.#events.stillOwned(session)))
          throw reason
      }
    }
  }
}
