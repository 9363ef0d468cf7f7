// The sessions of the cluster, as a node has to do with them: what each job is stands in a file of its own
// (claims, releases, recovery, subscriptions, wills, sweep); here they are put together. All of a session
// lies in one partition (of 16 on a Redis Cluster) by hash of its Client Identifier, so that every transition
// is one script. State: {s<n>}:*. Invariants: every write of an owner names the owner (node id and epoch) and
// is refused once there is another (P6); a sid is never used again, so what was matched for an old session
// cannot reach a new one.
import type { ClusterSessions } from '../cluster.ts'
import type { DataPlaneOptions } from '../options.ts'
import type { Clock } from '../pace/clock.ts'
import type { Keys } from '../redis/keys.ts'
import type { Redis } from '../redis/redis.ts'
import { Claims } from './claims.ts'
import { ConnectedSessions } from './connected.ts'
import { SessionRecovery } from './recovery.ts'
import { Releases } from './releases.ts'
import type { SessionEvents } from './session-events.ts'
import type { Session, SessionRequest } from './session.ts'
import { journaled, type StoredSubscription } from './stored-subscription.ts'
import { Subscriptions } from './subscriptions.ts'
import { Sweep } from './sweep.ts'
import { Wills } from './due-wills.ts'

const sweepMs = 1_000
/**
 * What was applied of a publisher outlives it for so many leases: a batch of a node that is alive is not
 * later.
 */
const forgetLeases = 2

export class Sessions implements ClusterSessions {
  /** Those of clients that are connected to this node. */
  readonly here: ConnectedSessions
  readonly subscriptions: Subscriptions
  readonly releases: Releases
  readonly recovery: SessionRecovery
  readonly #events: SessionEvents
  readonly #wills: Wills
  readonly #claims: Claims
  readonly #sweep: Sweep
  #sweeping: NodeJS.Timeout | undefined

  constructor(
    redis: Redis,
    keys: Keys,
    nodeId: () => string,
    options: Pick<DataPlaneOptions, 'leaseMs' | 'sessionsMax' | 'userSessionsMax' | 'tenantSessionsMax'>,
    clock: Clock,
    events: SessionEvents,
  ) {
    const { leaseMs } = options
    const forgetMs = forgetLeases * leaseMs
    this.#events = events
    this.here = new ConnectedSessions(events, (owner) => owner.startsWith(`${nodeId()} `))
    const context = { redis, keys, nodeId, clock, forgetMs, connected: this.here, events }
    this.subscriptions = new Subscriptions(redis, keys, events)
    this.#wills = new Wills(redis, keys, clock, forgetMs, leaseMs, events)
    this.#claims = new Claims(context, this.subscriptions, this.#wills, options)
    this.releases = new Releases(context, this.#wills, (claim) => this.#claims.isUnderWay(claim))
    this.recovery = new SessionRecovery(context)
    this.#sweep = new Sweep(redis, keys, clock, this.#wills, {
      expire: (sid, vanished) => this.releases.expire(sid, vanished),
      expireRetained: (topic) => events.expireRetained(topic),
      onVanished: (sids) => events.onVanished(sids),
    })
  }

  connected(sid: string): Session | undefined {
    return this.here.get(sid)
  }

  async claim(request: SessionRequest, abandoned?: () => boolean, givenUp?: Promise<void>): Promise<Session> {
    const session = await this.#claims.claim(request, abandoned, givenUp)
    if (session.lost > 0) await this.recovery.subscribeAgain(session)
    return session
  }

  farewell(session: Session, voidsWill: boolean, expirySeconds: number | undefined): Promise<void> {
    return this.releases.farewell(session, voidsWill, expirySeconds)
  }

  leaves(session: Session): Promise<void> {
    return this.releases.leaves(session)
  }

  release(session: Session): Promise<void> {
    return this.releases.release(session)
  }

  /** Wills that are taken and not stored. */
  get willsUnderWay(): number {
    return this.#wills.underWay
  }

  /** Resolves when they are. */
  settled(): Promise<void> {
    return this.#wills.settled()
  }

  subscribe(session: Session, filter: string, subscription: StoredSubscription): Promise<void> {
    return this.subscriptions.subscribe(session, filter, subscription)
  }

  subscribedAgain(session: Session): Promise<void> {
    return this.subscriptions.subscribedAgain(session)
  }

  unsubscribe(session: Session, filters: readonly string[]): Promise<void> {
    return this.subscriptions.unsubscribe(session, filters)
  }

  /** Tells all nodes of the stored subscriptions of a session that is no client's yet. */
  announce(sid: string, subscriptions: ReadonlyMap<string, StoredSubscription>): Promise<void> {
    return this.#events.append(
      [...subscriptions].map(([filter, { options }]) => journaled(sid, filter, options)),
    )
  }

  /**
   * Begins to look, every second, for what is due, as long as `isFirst` says that this node does it for all.
   */
  start(isFirst: () => boolean, onError: (error: Error) => void): void {
    this.#scheduleSweep(isFirst, onError)
  }

  #scheduleSweep(isFirst: () => boolean, onError: (error: Error) => void): void {
    this.#sweeping = setTimeout(() => {
      const swept = isFirst() ? this.sweep().catch(onError) : Promise.resolve()
      void swept.finally(() => {
        if (this.#sweeping !== undefined) this.#scheduleSweep(isFirst, onError)
      })
    }, sweepMs)
    this.#sweeping.unref()
  }

  close(): void {
    clearTimeout(this.#sweeping)
    this.#sweeping = undefined
    this.#claims.close()
    this.#wills.close()
  }

  /**
   * Publishes the wills, ends the sessions and forgets the publishers that are due. Anybody may; one node of
   * the cluster does, every second.
   */
  sweep(): Promise<void> {
    return this.#sweep.all()
  }
}
