// The sessions whose clients are connected to this node, as it knows them. State: this process. Invariant: a
// session that another owner has taken is here no more, and its connection has been told. Bound of those that were
// asked for before their claim was answered: `earlyMax`.
import { isShared } from '../groups/shared-filter.ts'
import type { Change } from '../messages/codec.ts'
import { partitionOf } from '../redis/keys.ts'
import type { SessionEvents } from './session-events.ts'
import { epochOf, type Session } from './session.ts'
import { journaled } from './stored-subscription.ts'

/** The oldest goes: its client is thrown out when another node takes the session, as if nobody had asked. */
const earlyMax = 1_000

export class ConnectedSessions {
  readonly #events: Pick<SessionEvents, 'onMoved' | 'onWanted'>
  readonly #isOurs: (owner: string) => boolean
  readonly #sessions = new Map<string, Session>()
  /**
   * Owners of this node, by the sid that another node asked them for, of which nothing is known here: Redis has made
   * us the owner, and its answer is on the way, or being journaled.
   */
  readonly #early = new Map<string, string>()

  constructor(
    events: Pick<SessionEvents, 'onMoved' | 'onWanted'>,
    isOurs: (owner: string) => boolean = () => true,
  ) {
    this.#events = events
    this.#isOurs = isOurs
  }

  get(sid: string): Session | undefined {
    return this.#sessions.get(sid)
  }

  get size(): number {
    return this.#sessions.size
  }

  [Symbol.iterator](): Iterator<Session> {
    return this.#sessions.values()
  }

  /** Whether it is connected here, as this very connection. */
  has(session: Session): boolean {
    return this.#sessions.get(session.sid) === session
  }

  add(session: Session): void {
    this.#sessions.set(session.sid, session)
    session.isWanted ||= this.#early.get(session.sid) === session.owner
    this.#early.delete(session.sid)
  }

  /** Its connection is gone; a later one of the same session stays. */
  remove(session: Session): void {
    if (this.has(session)) this.#sessions.delete(session.sid)
  }

  /** Another connection of its client has come: its own is told. */
  move(session: Session): void {
    this.remove(session)
    this.#events.onMoved(session)
  }

  /** Sessions that are connected here, of these partitions. */
  in(partitions: readonly number[]): Session[] {
    return [...this.#sessions.values()].filter(({ sid }) => partitions.includes(partitionOf(sid)))
  }

  /** What the journal says of a client that connects at another node, while `owner` has its session. */
  wanted(sid: string, owner: string): void {
    const session = this.#sessions.get(sid)
    if (session?.owner !== owner) {
      if (!this.#isOurs(owner)) return
      this.#early.delete(sid)
      this.#early.set(sid, owner)
      if (this.#early.size > earlyMax) this.#early.delete(this.#early.keys().next().value!)
      return
    }
    session.isWanted = true
    this.#events.onWanted(session)
  }

  /** What the journal says of takeovers: a connection of ours whose session is another's goes. */
  taken(sid: string, owner: string): void {
    const session = this.#sessions.get(sid)
    // Of two claims the earlier one may be journaled later: it is no news to the later one.
    if (session === undefined || epochOf(owner) <= epochOf(session.owner)) return
    session.isTaken = true
    this.move(session)
  }

  /** What the journal must say of all sessions that are connected here: after Redis lost its data. */
  *changes(): Iterable<Change> {
    for (const { sid, subscriptions } of this.#sessions.values())
      for (const [filter, { options }] of subscriptions)
        if (!isShared(filter)) yield journaled(sid, filter, options)
  }
}
