// Sessions of a node without Redis: who is connected to which, what outlives its connection, when it and its
// will are due. Nothing here waits in the middle of a change, so no change can be seen half-done; the routes
// of a session that ended go a while later. State: store.ts; here the sessions whose clients are connected.
import { randomBytes } from 'node:crypto'
import { isShared } from '../groups/shared-filter.ts'
import type { Clock } from '../pace/clock.ts'
import type { ClusterSessions } from '../cluster.ts'
import { packMessage, unpackMessage } from '../messages/codec.ts'
import { BridgeError } from '../errors.ts'
import { OwedReplays } from '../sessions/owed-replays.ts'
import type { RoutingTable } from '../routes/routing-table.ts'
import { tenantOfName } from '../matching/tenant.ts'
import type { DataPlaneOptions } from '../options.ts'
import { SessionOption } from '../sessions/session-options.ts'
import type { InFlightEntry, Session, SessionRequest } from '../sessions/session.ts'
import type { StoredSubscription } from '../sessions/stored-subscription.ts'
import type { Waits } from '../pace/waits.ts'
import { Slice } from '../pace/turns.ts'
import { DueTimes } from './due.ts'
import type { StoredState } from './stored-state.ts'
import type { StateStore } from './state-store.ts'
import type { DueWills } from './memory-wills.ts'

export interface MemorySessionEvents {
  /** A connection whose session another one of its client has claimed. */
  onMoved(session: Session): void
  /** A Retained Message is due to expire. */
  expireRetained(topic: string): void
  /** What is in flight, and wills, leave no room for more. */
  isFull(): boolean
  /** A session ended, and what it had is gone. */
  onEnded(): void
  /** A session is a member of a group no more. */
  onLeft(name: string, sid: string): void
}

/** How often a CONNECT that waits for the disk looks. */
const lookMs = 100
const never = new Promise<void>(() => undefined)

const dueWill = (sid: string): string => `w:${sid}`
const dueEnd = (sid: string): string => `e:${sid}`
const dueRetained = (topic: string): string => `r:${topic}`

export class MemorySessions implements ClusterSessions {
  readonly #store: StateStore
  readonly #table: RoutingTable
  readonly #nodeId: string
  readonly #sessionsMax: number
  readonly #userSessionsMax: number
  readonly #tenantSessionsMax: number
  readonly #clock: Clock
  readonly #waits: Waits
  readonly #wills: DueWills
  readonly #events: MemorySessionEvents
  readonly #connected = new Map<string, Session>()
  readonly #due = new DueTimes((name) => this.#onDue(name))
  /** Sessions that ended, and whose routes are being removed. */
  #ended: StoredState[] = []
  #claims = 0
  #lastEpoch = 0

  constructor(
    store: StateStore,
    table: RoutingTable,
    nodeId: string,
    {
      sessionsMax,
      userSessionsMax = Infinity,
      tenantSessionsMax = Infinity,
    }: Pick<DataPlaneOptions, 'sessionsMax' | 'userSessionsMax' | 'tenantSessionsMax'>,
    clock: Clock,
    waits: Waits,
    wills: DueWills,
    events: MemorySessionEvents,
  ) {
    this.#store = store
    this.#table = table
    this.#nodeId = nodeId
    this.#sessionsMax = sessionsMax
    this.#userSessionsMax = userSessionsMax
    this.#tenantSessionsMax = tenantSessionsMax
    this.#clock = clock
    this.#waits = waits
    this.#wills = wills
    this.#events = events
  }

  async start(): Promise<void> {
    const slice = new Slice()
    const all = [...this.#store.state.sessions.values()]
    for (const { sid, subscriptions } of all) {
      for (const [filter, subscription] of subscriptions) {
        if (slice.isOver) await slice.next()
        this.#route(sid, filter, subscription)
      }
    }
    this.#wills.start()
    for (const session of all) {
      // a will goes to all of them
      if (slice.isOver) await slice.next()
      this.#restore(session)
    }
  }

  /** After a restart: its client is not connected, whatever it was when the process ended. */
  #restore({ sid, isOwned, will: stored, releasedAt, expiry }: StoredState): void {
    if (isOwned) return this.#release(sid)
    // The wall clock may have been set meanwhile: then it waits no longer than it would have from now on.
    const dueAt = (seconds: number): number =>
      performance.now() + Math.min(seconds * 1_000, releasedAt + seconds * 1_000 - Date.now())
    if (stored !== undefined)
      this.#due.set(dueWill(sid), dueAt(expiry < 0 ? stored.delay : Math.min(stored.delay, expiry)))
    if (expiry > 0) this.#due.set(dueEnd(sid), dueAt(expiry))
  }

  connected(sid: string): Session | undefined {
    return this.#connected.get(sid)
  }

  async claim(
    request: SessionRequest,
    abandoned: () => boolean = () => false,
    givenUp: Promise<void> = never,
  ): Promise<Session> {
    if (this.#store.standstill !== undefined) await this.#untilStored(abandoned, givenUp)
    return await this.#claim(request, abandoned)
  }

  /**
   * While the disk stands nothing is claimed: who tries again and again would have something written each
   * time.
   */
  async #untilStored(abandoned: () => boolean, givenUp: Promise<void>): Promise<void> {
    const why = this.#store.standstill!
    if (!this.#waits.mayConnect) throw why
    const wait = this.#waits.begin('connect')
    wait.because(why)
    try {
      while (this.#store.standstill !== undefined && !abandoned()) {
        await Promise.race([givenUp, new Promise((resolve) => setTimeout(resolve, lookMs).unref())])
      }
    } finally {
      wait.end()
    }
  }

  async #claim(request: SessionRequest, abandoned: () => boolean): Promise<Session> {
    const { clientId, expirySeconds, user } = request
    if (abandoned())
      throw new BridgeError('ERR_BRIDGE_CLOSED', `${clientId} left before its session was claimed`)
    const { state } = this.#store
    const known = state.of(clientId)
    if (known !== undefined && this.#isForeign(known, request))
      throw new BridgeError('ERR_BRIDGE_FOREIGN', "the session of this Client Identifier is another user's")
    // who has one that ends with its connection has none yet that outlives it
    const others = state.sessions.size - (known === undefined ? 0 : 1)
    if (expirySeconds !== 0 && others >= this.#sessionsMax && (known?.expiry ?? 0) === 0)
      throw new BridgeError('ERR_BRIDGE_QUOTA', `${this.#sessionsMax} sessions`)
    if (user !== undefined && expirySeconds !== 0) this.#checkUser(user, known)
    if (expirySeconds !== 0 && (known?.expiry ?? 0) === 0) this.#checkTenant(clientId, known)
    const isMore = request.will !== undefined || (expirySeconds !== 0 && (known?.expiry ?? 0) === 0)
    if (isMore && this.#events.isFull())
      throw new BridgeError('ERR_BRIDGE_QUOTA', 'no memory for what sessions have in flight (storedBytesMax)')
    const isResumed = known !== undefined && !this.#ends(known, request.cleanStart)
    const sid = isResumed ? known.sid : `0${randomBytes(9).toString('base64url')}`
    if (known !== undefined) this.#leave(known, sid)
    const epoch = (this.#lastEpoch = Math.max(
      this.#lastEpoch + 1,
      (known?.epoch ?? 0) + 1,
      Date.now() * 1_000,
    ))
    const stored =
      request.will === undefined
        ? undefined
        : { body: packMessage(request.will.message, this.#clock), delay: request.will.delaySeconds }
    this.#store.change({ type: 'claimed', sid, clientId, user, epoch, expiry: expirySeconds, will: stored })
    this.#due.delete(dueWill(sid))
    this.#due.delete(dueEnd(sid))
    const session = this.#sessionOf(state.sessions.get(sid)!, request, isResumed)
    this.#connected.set(sid, session)
    await this.#store.settled()
    return session
  }

  /** O(sessions of the user), where they are bounded. */
  #checkUser(user: string, known: StoredState | undefined): void {
    if (this.#userSessionsMax === Infinity || (known?.user === user && known.expiry !== 0)) return
    let count = 0
    for (const { expiry } of this.#store.state.sessionsOf(user)) if (expiry !== 0) count++
    if (count >= this.#userSessionsMax)
      throw new BridgeError('ERR_BRIDGE_USER_QUOTA', `${this.#userSessionsMax} sessions of the user`)
  }

  #checkTenant(clientId: string, known: StoredState | undefined): void {
    const tenant = tenantOfName(clientId)
    if (tenant === undefined || this.#tenantSessionsMax === Infinity) return
    const others = this.#store.state.sessionsOfTenant(tenant) - (known === undefined ? 0 : 1)
    if (others >= this.#tenantSessionsMax)
      throw new BridgeError('ERR_BRIDGE_TENANT_QUOTA', `${this.#tenantSessionsMax} sessions of the tenant`)
  }

  /** A session whose time is over is nobody's. */
  #isForeign({ sid, user: owner }: StoredState, { user, mayTakeAnybodys }: SessionRequest): boolean {
    if (owner === undefined || owner === user || mayTakeAnybodys === true) return false
    return (this.#due.at(dueEnd(sid)) ?? Infinity) > performance.now()
  }

  /**
   * It ends with its connection, also when we hear of the new one first [MQTT-3.1.2-23], and when its time is
   * over and nobody looked yet.
   */
  #ends({ sid, expiry }: StoredState, cleanStart: boolean): boolean {
    return cleanStart || expiry === 0 || (this.#due.at(dueEnd(sid)) ?? Infinity) <= performance.now()
  }

  /**
   * What becomes of the connection before: it is thrown out, and its will is published, or cancelled by a
   * return within its delay [MQTT-3.1.3-9]. A session that ends sends it.
   * @param sid of the session that its client has from now on
   */
  #leave(known: StoredState, sid: string): void {
    const old = this.#connected.get(known.sid)
    if (old !== undefined) {
      this.#connected.delete(known.sid)
      this.#events.onMoved(old)
    }
    const dueAt = this.#due.at(dueWill(known.sid))
    const isOver = dueAt === undefined ? known.will?.delay === 0 : dueAt <= performance.now()
    if (sid !== known.sid || isOver) this.#publishWill(known, sid)
    if (sid !== known.sid) this.#end(known)
  }

  #sessionOf(stored: StoredState, request: SessionRequest, present: boolean): Session {
    const { sid, epoch, subscriptions, inFlight, incoming, fields } = stored
    const n = present ? Math.max(stored.n, epoch) : 0
    return {
      sid,
      owner: `${this.#nodeId} ${epoch}`,
      claim: ++this.#claims,
      request,
      isResumed: present,
      lost: 0,
      present,
      subscriptions,
      reading: undefined,
      inFlight: [...inFlight]
        .map(([messageId, { order, body }]) => this.#delivery(messageId, order, body))
        .sort((a, b) => a.order - b.order),
      incoming: new Map(
        [...incoming].map(([messageId, entry]) => [
          messageId,
          { n: Number.parseInt(entry, 10), published: entry.includes(' ') },
        ]),
      ),
      replays:
        fields.size === 0
          ? undefined
          : OwedReplays.of(
              [...fields]
                .filter(([name]) => name !== 'replays')
                .flat()
                .map((text) => Buffer.from(text)),
              this.#waits.reports,
            ),
      changed: '',
      later: [],
      n,
      unpublishedN: stored.n > 0 ? undefined : n,
      underWay: undefined,
      isWanted: false,
      isTaken: false,
    }
  }

  #delivery(messageId: number, order: number, body: Buffer | undefined): InFlightEntry {
    return { messageId, order, message: body === undefined ? undefined : unpackMessage(body, this.#clock) }
  }

  /** Its state, as long as it is this connection's. */
  of({ sid, owner }: Session): StoredState | undefined {
    const stored = this.#store.state.sessions.get(sid)
    return stored?.isOwned === true && owner === `${this.#nodeId} ${stored.epoch}` ? stored : undefined
  }

  #ofOrMoved(session: Session): StoredState {
    const stored = this.of(session)
    if (stored === undefined)
      throw new BridgeError('ERR_BRIDGE_MOVED', `${session.sid} is not owned by ${session.owner}`)
    return stored
  }

  async farewell(session: Session, voidsWill: boolean, expirySeconds: number | undefined): Promise<void> {
    const { request, sid } = session
    session.request = {
      ...request,
      will: voidsWill ? undefined : request.will,
      expirySeconds: expirySeconds ?? request.expirySeconds,
    }
    if (this.of(session) === undefined) return
    this.#store.change({ type: 'farewell', sid, voidsWill, expiry: expirySeconds })
    await this.#store.settled()
  }

  async leaves(): Promise<void> {
    /* there is no other node */
  }

  async settled(): Promise<void> {
    await this.#wills.settled()
    await this.#store.settled()
  }

  async release(session: Session): Promise<void> {
    if (this.#connected.get(session.sid) === session) this.#connected.delete(session.sid)
    if (this.of(session) === undefined) return
    this.#release(session.sid)
    await this.#store.settled()
  }

  #release(sid: string): void {
    this.#store.change({ type: 'released', sid, at: Date.now() })
    const stored = this.#store.state.sessions.get(sid)!
    const { expiry } = stored
    const delay =
      // no later than the session ends
      stored.will === undefined ? undefined : Math.min(stored.will.delay, expiry < 0 ? Infinity : expiry)
    if (delay === 0) this.#publishWill(stored, sid)
    else if (delay !== undefined) this.#due.set(dueWill(sid), performance.now() + delay * 1_000)
    if (expiry === 0) this.#end(stored)
    else if (expiry > 0) this.#due.set(dueEnd(sid), performance.now() + expiry * 1_000)
  }

  /** @param sid of the session that its client has by now: No Local is about that */
  #publishWill(stored: StoredState, sid: string): void {
    const { body } = stored.will ?? {}
    if (body === undefined) return
    this.#due.delete(dueWill(stored.sid))
    this.#store.change({ type: 'will-gone', sid: stored.sid })
    this.#wills.publish({ body, sid })
  }

  #end(stored: StoredState): void {
    const { sid } = stored
    if (this.#ended.push(stored) === 1) void this.#removeRoutes()
    this.#due.delete(dueWill(sid))
    this.#due.delete(dueEnd(sid))
    this.#store.change({ type: 'ended', sid })
    this.#events.onEnded()
  }

  /**
   * In slices. Meanwhile they lead to a session that is not there: nothing is queued, and no other one ever
   * has its name.
   */
  async #removeRoutes(): Promise<void> {
    const slice = new Slice()
    for (const { sid, subscriptions } of this.#ended) {
      // those that come meanwhile, too
      for (const filter of subscriptions.keys()) {
        if (slice.isOver) await slice.next()
        this.#removeRoute(sid, filter)
      }
    }
    this.#ended = []
  }

  #removeRoute(sid: string, filter: string): void {
    if (isShared(filter)) this.#events.onLeft(filter, sid)
    else this.#table.setSession(sid, filter, undefined)
  }

  #route(sid: string, filter: string, { options }: StoredSubscription): void {
    if (isShared(filter)) return // its group has the route
    this.#table.setSession(sid, filter, (options & SessionOption.qos) === 0 ? undefined : options)
  }

  async subscribe(session: Session, filter: string, subscription: StoredSubscription): Promise<void> {
    const { sid } = this.#ofOrMoved(session)
    this.#store.change({ type: 'subscribed', sid, filter, subscription })
    this.#route(sid, filter, subscription)
    await this.#store.settled()
  }

  subscribedAgain(): Promise<void> {
    return Promise.resolve() // nothing is lost here
  }

  async unsubscribe(session: Session, filters: readonly string[]): Promise<void> {
    const { sid } = this.#ofOrMoved(session)
    const slice = new Slice()
    for (const filter of filters) {
      if (slice.isOver) {
        await slice.next()
        this.#ofOrMoved(session)
      }
      this.#store.change({ type: 'unsubscribed', sid, filter })
      this.#removeRoute(sid, filter)
    }
    await this.#store.settled()
  }

  /** @param at ms by performance.now(); 0: never */
  retain(topic: string, at: number): void {
    if (at === 0) this.#due.delete(dueRetained(topic))
    else this.#due.set(dueRetained(topic), at)
  }

  #onDue(name: string): void {
    const what = name.slice(2)
    if (name === dueRetained(what)) return this.#events.expireRetained(what)
    const stored = this.#store.state.sessions.get(what)
    if (stored === undefined || stored.isOwned) return
    this.#publishWill(stored, what)
    if (name === dueEnd(what)) this.#end(stored)
  }

  close(): void {
    this.#due.close()
  }
}
