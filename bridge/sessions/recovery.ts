// What Redis lost of the sessions that are connected here is written down again, as this node knows them.
// Invariant: of two owners of one session, and of two sessions of one client, the later one stays (P6): a
// node that finds a later one than its own lets its connection go. State: all that a session has in {s<n>};
// none here.
import { packMessage, type Change } from '../messages/codec.ts'
import { nameDamage } from '../redis/damage.ts'
import { toBridgeError } from '../errors.ts'
import type { Clock } from '../pace/clock.ts'
import { together } from '../pace/together.ts'
import { isSid, partitionOf, type Keys } from '../redis/keys.ts'
import { retrying, type Redis } from '../redis/redis.ts'
import { runScript } from '../redis/scripts.ts'
import type { ConnectedSessions } from './connected.ts'
import type { SessionContext } from './session-context.ts'
import type { SessionEvents } from './session-events.ts'
import { keysOf } from './session-keys.ts'
import { epochOf, type Session } from './session.ts'
import { encodeSubscription, journaled } from './stored-subscription.ts'

export class SessionRecovery {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #clock: Clock
  readonly #connected: ConnectedSessions
  readonly #events: Pick<SessionEvents, 'append' | 'onWritten' | 'subscriptionsOf'>

  constructor({ redis, keys, clock, connected, events }: SessionContext) {
    this.#redis = redis
    this.#keys = keys
    this.#clock = clock
    this.#connected = connected
    this.#events = events
  }

  /**
   * After Redis lost its data: every session that is connected here is written down again, as we know it.
   * Resolves to what to journal of them.
   */
  async assertAll(): Promise<Change[]> {
    const stale: Change[] = []
    await together(this.#connected, async (session) => {
      for (const change of (await this.#assert(session)) ?? []) stale.push(change)
    })
    return stale
  }

  /**
   * The same of some partitions, or of some sessions; and all nodes are told again, who may have read a
   * snapshot without them.
   */
  async assertSome(sessions: Iterable<Session>): Promise<Session[]> {
    const changes: Change[] = []
    const written: Session[] = []
    await together(sessions, async (session) => {
      const stale = await this.#assert(session)
      if (stale === undefined) return
      written.push(session)
      for (const change of stale) changes.push(change)
      for (const [filter, { options }] of session.subscriptions)
        changes.push(journaled(session.sid, filter, options))
    })
    if (changes.length > 0) await this.#events.append(changes)
    for (const session of written) this.#events.onWritten(session)
    return written
  }

  /** Whether Redis has this node as the owner. */
  async isOwned({ sid, owner }: Session): Promise<boolean> {
    return (
      (await retrying(this.#redis, () =>
        this.#redis.hget(this.#keys.partition(partitionOf(sid), 'owners'), sid),
      )) === owner
    )
  }

  /** Another owner stands in Redis: ours is written down again when it is the later one. */
  async reclaim(session: Session): Promise<boolean> {
    if ((await this.assertSome([session])).length === 0) return false
    nameDamage(
      this.#redis,
      this.#keys.partition(partitionOf(session.sid), 'owners'),
      'a connected session had an earlier owner again; its node wrote it down again',
    )
    return true
  }

  /** A message found no session where one was subscribed: ours is written down again. */
  async missing(sid: string): Promise<void> {
    const session = this.#connected.get(sid)
    if (session === undefined || (await this.assertSome([session])).length === 0) return
    nameDamage(
      this.#redis,
      this.#keys.partition(partitionOf(sid), 'owners'),
      'a connected session was missing; its owner wrote it down again',
    )
  }

  /**
   * A session was claimed, and Redis has lost some of its subscriptions: those by which messages are queued for it are
   * known to every node, and written down again. What nobody knows any more (Subscription Identifiers, QoS 0, groups)
   * its client subscribes to again, since it is told that it has no session; so nothing that is queued, or will be
   * until then, is lost.
   */
  async subscribeAgain(session: Session): Promise<void> {
    const before = session.subscriptions.size
    const subscriptions = new Map(session.subscriptions)
    for (const { filter, options } of await this.#events.subscriptionsOf(session.sid))
      if (!subscriptions.has(filter) && !session.later.includes(filter))
        subscriptions.set(filter, { options, identifier: undefined })
    session.subscriptions = subscriptions
    const known = subscriptions.size - before
    if (known > 0) await this.assertSome([session])
    nameDamage(
      this.#redis,
      this.#keys.session(session.sid, 'subscriptions'),
      `it lacked ${session.lost} subscriptions of a client that was away; ${known} were written down again, and the client is told to subscribe again`,
    )
  }

  /**
   * What the journal must say of it besides; undefined: somebody else has it by now, or the partition has no
   * entry of us.
   */
  async #assert(session: Session): Promise<Change[] | undefined> {
    let earlier: readonly [sid: string, epoch: number] | undefined
    for (;;) {
      try {
        const stale = await retrying(this.#redis, async () =>
          this.#connected.has(session) ? ((await this.#writeDown(session, earlier)) as Buffer[]) : undefined,
        )
        return stale?.map((filter) => journaled(session.sid, filter.toString(), undefined))
      } catch (reason) {
        const error = toBridgeError(reason)
        // the audit finds it, too, and writes all of it down
        if (error.code === 'ERR_BRIDGE_FENCED') return undefined
        if (error.code !== 'ERR_BRIDGE_MOVED') throw error
        const { otherSid: other = '' } = error.details
        const epoch =
          isSid(other, partitionOf(session.sid)) && other !== earlier?.[0]
            ? await this.#epochOf(other)
            : Infinity
        if (epoch < epochOf(session.owner)) earlier = [other, epoch]
        else {
          // otherwise it left, or was claimed again here
          if (this.#connected.has(session)) this.#connected.taken(session.sid, ' Infinity')
          return undefined
        }
      }
    }
  }

  /** When a session was claimed last. */
  async #epochOf(sid: string): Promise<number> {
    return Number(
      (await retrying(this.#redis, () => this.#redis.hget(this.#keys.session(sid, 'session'), 'epoch'))) ?? 0,
    )
  }

  async #writeDown(
    session: Session,
    [earlier, earlierEpoch]: readonly [sid: string, epoch: number] = ['', 0],
  ): Promise<unknown> {
    await session.reading
    const { request, sid, owner, claim, subscriptions, changed, later } = session
    const at = keysOf(this.#keys, sid)
    const underWay = session.underWay?.() ?? { inFlight: [], incoming: [], fields: [] }
    const fields = request.user === undefined ? underWay.fields : [...underWay.fields, ['user', request.user]]
    return runScript(
      this.#redis,
      'session-assert',
      [
        at.clients,
        at.owners,
        at.due,
        at.wills,
        at.session,
        at.subscriptions,
        at.inflight,
        at.incoming,
        at.appended,
        at.tenants,
      ],
      [
        request.clientId,
        sid,
        owner,
        epochOf(owner),
        claim,
        request.expirySeconds,
        request.will === undefined ? '' : packMessage(request.will.message, this.#clock),
        request.will?.delaySeconds ?? 0,
        session.n === session.unpublishedN ? 0 : session.n,
        changed,
        earlier,
        earlierEpoch,
        later.length,
        ...later,
        ...[underWay.inFlight, underWay.incoming, fields].flatMap<string | number | Buffer>((entries) => [
          2 * entries.length,
          ...entries.flat(),
        ]),
        ...[...subscriptions].flatMap(([filter, subscription]) => [filter, encodeSubscription(subscription)]),
      ],
    )
  }
}
