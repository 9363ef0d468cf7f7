// Between the data plane and the connections: what a connection publishes goes out through the data plane,
// what the data plane hands in goes to the connections whose subscriptions match; sessions are claimed for
// connections and released. State: the subscriptions and sessions of this node's connections; gone with it.
import {
  atEndAsync,
  BridgeError,
  GroupRules,
  isBacklogged,
  isShared,
  type Making,
  Moment,
  RouteKind,
  SessionOption,
  type Cluster,
  type GroupHolder,
  type Message,
  type OwedReplay,
  type OwedReplays,
  type Receiver,
  type Session,
  type SessionHolder,
  type SessionRequest,
  worked,
  workOff,
  type Stamps,
} from '../../bridge/index.ts'
import type { Connection } from '../connection/connection.ts'
import type { StoredMatch } from '../connection/stored-session.ts'
import type { Config } from '../config/config.ts'
import type { AskedReplay, DropCause } from '../connection/host.ts'
import { withinDeadline } from '../connection/claim-deadline.ts'
import { LocalGroups } from '../groups/local-groups.ts'
import { LocalDelivery, ownOrAll } from './delivery.ts'
import { LocalTable, type Match, type Subscription, type SubscriptionOptions } from './local-table.ts'
import { Pressure } from './pressure.ts'
import { Holdings } from '../connection/holdings.ts'
import { Replays } from './retained-replay.ts'
import type { Subscriber } from './subscriber.ts'
import { SubscriptionBounds, type FilterRefusal } from './subscription-bounds.ts'
import type { EngineHost } from '../aedes/host.ts'
import { Gate, Refusal } from '../access/gate.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'
import type { HeldCause, RefusalCause } from '../access/refusals.ts'

/** Subscribers of one message that get it in one go: some tenths of a millisecond. */
const atOnceMax = 100

export interface RouterEvents {
  onPublish(qos: number): void
  onDrop(cause: DropCause, qos: number): void
  onRefusal(cause: RefusalCause): void
  /** An exception while one message was delivered: a bug, and the message is passed by. */
  onFailed(error: unknown): void
  onHeldBack(cause: HeldCause): void
  /** Publishers on `topic` go on waiting for a client that reads, but slower than they publish. */
  onHoldsOn(connection: Connection, topic: string): void
  onClient(connection: Connection): void
  onClientError(connection: Connection, error: Error): void
  /** Nothing of it is left. */
  onEnd(connection: Connection): void
  onError(error: Error): void
  onFenced(): void
}

export class Router implements EngineHost, Receiver {
  readonly config: Config
  readonly holdings: Holdings
  readonly gate: Gate<Connection>
  readonly #events: RouterEvents
  readonly #table = new LocalTable<Subscriber>()
  readonly #groups: LocalGroups<Connection>
  readonly #pressure: Pressure<Connection>
  readonly #bounds: SubscriptionBounds<Subscriber>
  readonly #bySid = new Map<string, Connection>()
  readonly #releasing = new Set<Promise<void>>()
  /** Moments of subscriptions, by the lease in which they were made: this one and the one before. */
  #moments: [Moment[], Moment[]] = [[], []]
  #forgetting: NodeJS.Timeout | undefined
  #plane!: Cluster
  #connections: Iterable<Connection> = []

  constructor(config: Config, events: RouterEvents, gate = new Gate<Connection>()) {
    this.config = config
    this.gate = gate
    this.#events = events
    this.holdings = new Holdings(config.clientBytesMax)
    this.#pressure = new Pressure(config, {
      announce: (topic, held) => this.#plane.hold(topic, held),
      holdsOn: (connection, topic) => events.onHoldsOn(connection, topic),
    })
    this.#groups = new LocalGroups(new GroupRules(config.groupStrategies))
    const plane = (): Cluster => this.#plane
    this.#bounds = new SubscriptionBounds(config, {
      get bytes() {
        return plane().routingBytes
      },
      has: (filter) => plane().isRouted(filter),
    })
  }

  attach(plane: Cluster, connections: Iterable<Connection> = []): void {
    this.#plane = plane
    this.#connections = connections
  }

  /** O(connections). */
  get publishers(): number {
    let publishers = 0
    for (const connection of this.#connections) if (connection.isPublishing) publishers++
    return publishers
  }

  // From the connections

  publish(message: Message, from: Connection, done: (() => void) | undefined): void {
    this.#events.onPublish(message.qos)
    if (done === undefined) {
      this.#plane.publishQos0(message) // at once, whatever Redis does
      this.gate.published?.(message, 'client', from)
    } else {
      const bytes = message.bytes
      const onStored = (stored: () => void): void =>
        this.#stored(message, from, () => {
          stored()
          done()
          this.gate.published?.(message, 'client', from)
        })
      this.#publish(message, bytes, onStored, (error) => from.onBug(error))
    }
  }

  /** A bug is its publisher's end, also in the turn of another one, whose message made room for this one. */
  #publish(
    message: Message,
    bytes: number,
    onStored: (stored: () => void) => void,
    onBug: (error: Error) => void,
  ): void {
    this.holdings.publish(bytes, (stored) => {
      try {
        this.#plane.publish(message, () => onStored(stored))
      } catch (error) {
        stored()
        onBug(error as Error)
      }
    })
  }

  /**
   * It is stored: acknowledged at once, or when the subscribers that are behind with its topic let go, in the
   * connection's order [MQTT-4.6.0-2].
   */
  #stored({ qos, topic }: Message, from: Connection, done: () => void): void {
    const clear = qos === 0 ? undefined : this.#pressure.of(topic)
    if (clear === undefined && from.acknowledgementsHeld === undefined) return done()
    const held = Promise.all([from.acknowledgementsHeld, clear]).then(() => {
      if (from.acknowledgementsHeld === held) from.acknowledgementsHeld = undefined
      done()
    })
    from.acknowledgementsHeld = held
  }

  /**
   * The local table and the count of the route change in one turn (`#serve`); session and journal are written side
   * by side; SUBACK (by the caller) comes when all of it is done. While the journal does
   * not say that a session's QoS ≥ 1 messages are queued, they come as they came before: live at QoS 0, if
   * the filter or an overlapping one was subscribed with QoS 0. Around that moment one may come by both ways.
   */
  async subscribe(
    connection: Connection,
    filter: string,
    options: SubscriptionOptions,
    replays: boolean,
  ): Promise<void> {
    const { session } = connection
    const before = this.#table.get(filter, connection)
    // otherwise it comes back with its session
    const moment = connection.connackWritten ? new Moment() : undefined
    const isFirst = before === undefined && session?.subscriptions.has(filter) !== true
    const since = isFirst
      ? moment
      : (before?.since ?? (moment === undefined ? this.#owedMoment(session, filter) : undefined))
    if (!connection.lasting || session === undefined)
      await this.#serve(connection, filter, { ...options, queued: 'no', since })
    else await this.#subscribeLasting(connection, session, filter, { ...options, since })
    if (moment === undefined) return
    const read = await this.#plane.stamps()
    const isThere = moment.settle(read.stamps)
    this.#forgetLater(moment)
    if (replays)
      await this.#prepareReplay(
        connection,
        filter,
        options,
        isFirst,
        moment.stamps,
        isThere ? read.told : undefined,
      )
  }

  async #subscribeLasting(
    connection: Connection,
    session: Session,
    filter: string,
    options: SubscriptionOptions & Pick<Subscription, 'since'>,
  ): Promise<void> {
    const before = this.#table.get(filter, connection)
    const stored = this.#plane.sessions.subscribe(session, filter, storedOf(options))
    const served = { ...options, queued: options.qos === 0 ? 'no' : (before?.queued ?? 'soon') } as const
    await Promise.all([this.#serve(connection, filter, served, stored), stored])
    // It left or unsubscribed, or another SUBSCRIBE of this filter came after this one: the last one has
    // its way.
    if (options.qos > 0 && this.#table.get(filter, connection) === served)
      await this.#serve(connection, filter, { ...served, queued: 'yes' })
  }

  /** Before SUBACK: what is owed is written down, and the first page is read. `replay` sends it after SUBACK. */
  async #prepareReplay(
    connection: Connection,
    filter: string,
    options: SubscriptionOptions,
    isFirst: boolean,
    stamps: Stamps | undefined,
    told: Promise<void> | undefined,
  ): Promise<void> {
    const hasAny = await this.#plane.hasRetained(filter, told)
    const [owed, ahead] = await Promise.all([
      hasAny ? this.#recordReplay(connection, filter, options, isFirst, stamps) : undefined,
      hasAny ? this.#replaysOf(connection).readAhead(filter) : undefined,
    ])
    // no SUBACK will be sent; what is owed is there for the session's next owner
    if (connection.isClosed) return ahead?.drop()
    connection.replaysAfterSuback ??= new Map<string, AskedReplay>()
    // of two SUBSCRIBEs of a filter in one packet the second one is replayed
    const earlier = connection.replaysAfterSuback.get(filter)
    earlier?.ahead?.drop()
    if (earlier?.owed !== undefined) connection.stored?.endReplay(earlier.owed)
    connection.replaysAfterSuback.set(filter, { stamps, hasAny, owed, ahead })
  }

  /**
   * SUBSCRIBE of a Shared Subscription, or its session that resumes: resolves to what SUBACK says, when every
   * PUBLISH from now on may come to it. No Retained Messages (MQTT 5 section 4.8.2). The session first, then
   * the group: who dies in between leaves a subscription that joins its group with the next connection.
   * @param resumes refused, the session keeps its subscription: its client does not subscribe anew
   */
  async share(
    connection: Connection,
    name: string,
    options: SubscriptionOptions,
    resumes = false,
  ): Promise<number> {
    const { session, lasting } = connection
    const { groups } = this.#plane
    if (!this.hasGroups || session === undefined) return ReasonCode.sharedSubscriptionsNotSupported
    const memberships = connection.outbound.groups
    const known = memberships.get(name) ?? memberships.revive(name, options)
    const base = session.subscriptions.get(name)?.base ?? known?.base ?? memberships.freeBase(session)
    if (base === undefined) return this.#noMember()
    if (known !== undefined) known.options = options
    const member = known ?? memberships.add(name, session, lasting, base, options)
    const isNew = this.#groups.set(name, connection, options)
    if (isNew) this.#bounds.added(connection, name)
    try {
      await Promise.all([
        isNew ? this.#plane.addMember(name) : undefined,
        lasting ? this.#plane.sessions.subscribe(session, name, { ...storedOf(options), base }) : undefined,
      ])
      await groups.join(member)
    } catch (error) {
      if (!(error instanceof BridgeError) || error.code !== 'ERR_BRIDGE_QUOTA') throw error
      await this.#unshare(connection, name)
      if (lasting && !resumes) await this.#plane.sessions.unsubscribe(session, [name])
      return this.#noMember()
    }
    // it left, or unsubscribed, meanwhile
    if (connection.isClosed || memberships.get(name) !== member) await groups.leave(member, false)
    return options.qos
  }

  #noMember(): number {
    this.refused('group-members')
    return ReasonCode.quotaExceeded
  }

  scheduleMember(holder: GroupHolder): void {
    this.#plane.groups.schedule(holder)
  }

  /**
   * Its connection is over: what it had of groups and did not acknowledge goes to others, before its session
   * is nobody's.
   */
  async #leaveGroups(connection: Connection): Promise<void> {
    const { groups } = this.#plane
    const members = [...(connection.outbound.knownGroups?.all() ?? [])]
    await Promise.all(members.map((member) => groups.leave(member, false)))
  }

  /** Members of groups that are connected here. O(groups). */
  get groupMembers(): number {
    return this.#groups.size
  }

  get hasGroups(): boolean {
    return this.#plane.hasGroups
  }

  #unshare(connection: Connection, name: string): Promise<void> | undefined {
    if (!this.#groups.delete(name, connection)) return undefined
    this.#bounds.removed(connection, name)
    this.#plane.removeMember(name)
    const member = connection.isClosed ? undefined : connection.outbound.groups.leave(name)
    return member === undefined ? undefined : this.#plane.groups.leave(member, true)
  }

  deliverShared(message: Message, name: string): boolean {
    const member = this.#groups.pick(name, message)
    if (member === undefined) return false
    const { subscriber, options } = member
    // Who published it did not know that the group has a backlog.
    if (message.qos > 0 && options.qos > 0 && subscriber.lasting) {
      this.#plane.groups.push(message, [name]).catch((error: unknown) => this.#events.onError(error as Error))
      return true
    }
    const { qos, retainAsPublished, identifier } = options
    this.#give(message, subscriber, {
      subscriber,
      qos,
      retainAsPublished,
      identifiers: identifier === undefined ? undefined : [identifier],
      noLocal: false, // [MQTT-3.8.3-4]
      own: undefined,
      since: undefined,
      queued: 'no',
    })
    return true
  }

  #replaysOf(connection: Connection): Replays {
    return (connection.replays ??= new Replays(this.#plane, this.config.replayBytesMax))
  }

  /** Of a subscription that an earlier connection began, and whose replay goes on with this one. */
  #owedMoment(session: Session | undefined, filter: string): Moment | undefined {
    const owed = session?.replays?.firstOf(filter)
    if (owed === undefined) return undefined
    const moment = new Moment()
    moment.settle(this.#plane.stampsOf(owed.stamps))
    this.#forgetLater(moment)
    return moment
  }

  /**
   * What a session that has a queue is to get is written down before SUBACK: its connection may end sooner.
   */
  async #recordReplay(
    { stored }: Connection,
    filter: string,
    { qos }: SubscriptionOptions,
    isFirst: boolean,
    stamps: Stamps | undefined,
  ): Promise<OwedReplay | undefined> {
    if (stored === undefined || qos === 0 || stamps === undefined) return undefined
    return stored.beginReplay(filter, isFirst, stamps)
  }

  /**
   * What was stored before a subscription may come live for as long as it is on its way. A lease later its
   * sender is dead, or this node.
   */
  #forgetLater(moment: Moment): void {
    this.#moments[0].push(moment)
    this.#forgetting ??= this.#forgetOld()
  }

  #forgetOld(): NodeJS.Timeout {
    return setTimeout(() => {
      const [young, old] = this.#moments
      this.#moments = [[], young]
      for (const moment of old) moment.forget()
      this.#forgetting = young.length > 0 ? this.#forgetOld() : undefined
    }, this.config.leaseMs).unref()
  }

  /**
   * The route is counted in the same turn as the table changes: whoever leaves meanwhile is taken out of the
   * table, and uncounts what was counted, no more.
   * @param company what is written of its session: the route goes with it
   */
  async #serve(
    subscriber: Subscriber,
    filter: string,
    subscription: Subscription,
    company?: Promise<void>,
  ): Promise<void> {
    const before = this.#table.get(filter, subscriber)
    const [kind, old] = [kindOf(subscription), before === undefined ? undefined : kindOf(before)]
    this.#table.add(filter, subscriber, subscription)
    if (before === undefined) this.#bounds.added(subscriber, filter)
    if (kind === old) return
    try {
      await this.#plane.addRoute(filter, kind, company)
    } finally {
      if (old !== undefined) this.#plane.removeRoute(filter, old)
    }
  }

  unsubscribe(connection: Connection, filter: string): Promise<void> | undefined {
    if (isShared(filter)) return this.#unshare(connection, filter)
    this.removeSubscriber(connection, filter)
    return undefined
  }

  // From within the process

  /**
   * Resolves when everything that is published from now on comes to it, whether it is a connection or not.
   */
  addSubscriber(subscriber: Subscriber, filter: string, qos: 0 | 1 | 2): Promise<void> {
    return this.#serve(subscriber, filter, {
      qos,
      noLocal: false,
      retainAsPublished: true,
      identifier: undefined,
      queued: 'no',
      since: undefined,
    })
  }

  /**
   * @param stored called when it is stored for everybody; undefined: it is not to be stored
   * @param onBug called when it never will be
   */
  publishHere(
    message: Message,
    stored: (() => void) | undefined,
    onBug: (error: Error) => void = () => undefined,
  ): void {
    this.#events.onPublish(message.qos)
    if (stored === undefined) {
      this.#plane.publishQos0(message)
      this.gate.published?.(message, 'program', undefined)
      return
    }
    const onStored = (done: () => void): void => {
      done()
      stored()
      this.gate.published?.(message, 'program', undefined)
    }
    this.#publish(message, message.bytes, onStored, onBug)
  }

  authorizeWill(will: Message): Message | undefined | Promise<Message | undefined> {
    const answer = this.gate.publish?.(will, 'will', undefined) ?? will
    return answer instanceof Promise
      ? answer.then((decided) => this.#onWillDecided(will, decided))
      : this.#onWillDecided(will, answer)
  }

  #onWillDecided(will: Message, decided: Message | Refusal): Message | undefined {
    if (decided instanceof Refusal) return (this.dropped('refused', will.qos), undefined)
    this.gate.published?.(decided, 'will', undefined)
    return decided
  }

  removeSubscriber(subscriber: Subscriber, filter: string): void {
    const options = this.#table.get(filter, subscriber)
    if (options === undefined) return
    this.#table.remove(filter, subscriber)
    this.#bounds.removed(subscriber, filter)
    this.#plane.removeRoute(filter, kindOf(options))
  }

  refusalOf(connection: Connection, filter: string): FilterRefusal | undefined {
    const known = isShared(filter)
      ? this.#groups.get(filter, connection)
      : this.#table.get(filter, connection)
    return known === undefined ? this.#bounds.refusal(connection, filter) : undefined
  }

  /** The filters are gone for good, not only because the connection ends. */
  async forget(connection: Connection, filters: readonly string[]): Promise<void> {
    if (connection.session === undefined) return
    const gone = new Set(filters)
    for (const owed of connection.session.replays?.all ?? [])
      if (gone.has(owed.filter)) connection.stored?.endReplay(owed)
    await this.#plane.sessions.unsubscribe(connection.session, filters)
  }

  replay(connection: Connection, filter: string): void {
    const asked = connection.replaysAfterSuback?.get(filter)
    connection.replaysAfterSuback?.delete(filter)
    // What is stored from its moment on comes live. After Redis lost data nothing follows from stamps.
    if (asked?.hasAny === false && asked.stamps?.era.isOver === false) return
    const replays = this.#replaysOf(connection)
    if (!replays.begins(filter)) {
      // each SUBSCRIBE of it is ten bytes
      asked?.ahead?.drop()
      if (asked?.owed !== undefined) connection.stored?.endReplay(asked.owed)
      return
    }
    const replayed =
      asked === undefined ? this.#askAgain(connection, filter) : this.#startReplay(connection, filter, asked)
    void replayed
      .catch((error: unknown) => this.#events.onError(error as Error))
      .then(() => {
        if (replays.over(filter) && !connection.isClosed) this.replay(connection, filter)
      })
  }

  /**
   * It was subscribed with the same options before: Aedes has registered nothing, and SUBACK is on its way.
   */
  async #askAgain(connection: Connection, filter: string): Promise<void> {
    const { stamps, told } = await this.#plane.stamps()
    const options = this.#table.get(filter, connection)
    if (options === undefined || !(await this.#plane.hasRetained(filter, told))) return
    await this.#startReplay(connection, filter, {
      stamps,
      hasAny: true,
      owed: await this.#recordReplay(connection, filter, options, false, stamps),
    })
  }

  goOn(connection: Connection, replays: OwedReplays): void {
    for (const owed of replays.all) {
      this.#startReplay(
        connection,
        owed.filter,
        { stamps: this.#plane.stampsOf(owed.stamps), hasAny: true, owed },
        true,
      ).catch((error: unknown) => this.#events.onError(error as Error))
    }
  }

  /** @param again an earlier connection began it, and had what is QoS 0 of it, or lost it */
  async #startReplay(
    connection: Connection,
    filter: string,
    { stamps, owed, ahead }: AskedReplay,
    again = false,
  ): Promise<void> {
    const subscription = this.#table.get(filter, connection)
    if (subscription !== undefined) {
      const { qos, identifier } = subscription
      const match = { qos, identifiers: identifier === undefined ? undefined : [identifier] }
      // Once UNSUBSCRIBE came nothing more is sent: what is read from now on may have been published after
      // the UNSUBACK.
      const isWanted = (): boolean =>
        !connection.isClosed && this.#table.get(filter, connection) !== undefined
      const isDone = (message: Message): boolean =>
        again && (message.qos === 0 || owed?.isDone(message) === true)
      await this.#replaysOf(connection).add(
        { filter, stamps, ahead, isWanted, isDone },
        { roomForMore: () => connection.roomForMore(), send: (page) => connection.replay(page, match, owed) },
      )
    }
    if (subscription === undefined) ahead?.drop()
    if (owed !== undefined) connection.stored?.endReplay(owed)
  }

  dropped(cause: DropCause, qos: number): void {
    this.#events.onDrop(cause, qos)
  }

  failed(error: unknown, qos: number): void {
    this.#events.onDrop('failed', qos)
    this.#events.onFailed(error)
  }

  mayRetain(topic: string): boolean {
    return this.#plane.mayRetain(topic)
  }

  refused(cause: RefusalCause): void {
    this.#events.onRefusal(cause)
  }

  heldBack(cause: HeldCause): void {
    this.#events.onHeldBack(cause)
  }

  slow(connection: Connection, topic: string): void {
    this.#pressure.slow(connection, topic)
  }

  isReading(connection: Connection, topic: string): boolean {
    return this.#pressure.isReading(connection, topic)
  }

  get slowCounts(): Pressure<Connection>['counts'] {
    return this.#pressure.counts
  }

  drained(connection: Connection): void {
    this.#pressure.drained(connection)
  }

  isWanted(topic: string): boolean {
    return this.#plane.isWanted(topic)
  }

  onClient(connection: Connection): void {
    this.#events.onClient(connection)
  }

  onClientError(connection: Connection, error: Error): void {
    this.#events.onClientError(connection, error)
  }

  onEnd(connection: Connection): void {
    this.#events.onEnd(connection)
  }

  onError(error: Error): void {
    this.#events.onError(error)
  }

  // From the data plane

  /**
   * In slices when there are many subscribers, or many filters of few: what comes after it waits
   * (bridge/pace/backlog.ts).
   */
  deliver(message: Message): void {
    const { topic, stamp } = message
    const matches = stamp !== undefined || isBacklogged() ? undefined : this.#table.known(topic)
    if (matches === undefined || matches.length > atOnceMax) return this.#deliverInSlices(message)
    worked(matches.length)
    for (let i = 0; i < matches.length; i++) {
      const match = ownOrAll(message, matches[i]!)
      if (match !== undefined) this.#give(message, match.subscriber, match)
    }
  }

  #deliverInSlices(message: Message): void {
    const delivery = new LocalDelivery(this.#table, message, (subscriber, match) =>
      this.#give(message, subscriber, match),
    )
    workOff((slice) => delivery.goOn(slice))
  }

  #give(message: Message, subscriber: Subscriber, match: Match<Subscriber>): void {
    try {
      subscriber.deliver(message, match)
    } catch (error) {
      this.failed(error, Math.min(message.qos, match.qos)) // the others get theirs, and the node goes on
    }
  }

  hold(nodeId: string, topics: readonly string[], held: boolean): void {
    this.#pressure.other(nodeId, topics, held)
  }

  onFenced(): void {
    this.#events.onFenced()
  }

  // Sessions

  /**
   * While Redis is away the client waits.
   * @throws ServerUnavailable after the deadline, or when too many wait
   */
  async claim(connection: Connection, request: SessionRequest): Promise<void> {
    const session = await withinDeadline(
      this.config.claimTimeoutMs,
      (abandoned, givenUp) =>
        this.#plane.sessions.claim(request, () => connection.isClosed || abandoned(), givenUp),
      (session) => {
        // its CONNECT was refused: there is no will [MQTT-3.1.2-8]
        void this.#release(session, this.#plane.sessions.farewell(session, true, undefined))
      },
    ).catch((error: unknown) => this.#notClaimed(connection, error as Error))
    if (session === undefined) return
    connection.session = session
    // what an earlier connection left it has, and gets, whatever becomes of it (P15)
    connection.lasting = request.expirySeconds !== 0 || session.present
    if (connection.isClosed)
      void this.releaseSession(connection) // it left while we asked
    // Taken over, or asked for, while its claim was being journaled: nobody knew it by its session yet.
    else if (this.#plane.sessions.connected(session.sid) !== session || session.isWanted)
      connection.takenOver()
    else this.#bySid.set(session.sid, connection)
  }

  #notClaimed(connection: Connection, error: Error): undefined {
    const code = error.cause instanceof BridgeError ? error.cause.code : undefined
    // a later CONNECT of the client was there first
    if (code === 'ERR_BRIDGE_MOVED') return void connection.takenOver()
    if (code === 'ERR_BRIDGE_QUOTA') {
      this.refused('sessions')
      connection.refuse(ReasonCode.quotaExceeded)
    } else if (code === 'ERR_BRIDGE_CROWD') {
      this.refused('claims')
      connection.refuse(ReasonCode.serverBusy)
    } else if (error.cause instanceof BridgeError && error.cause.retryable) this.refused('claims')
    throw error
  }

  farewell(connection: Connection, voidsWill: boolean, expirySeconds: number | undefined): void {
    if (connection.session === undefined) return
    const max = this.config.sessionExpirySecondsMax
    const expiry =
      expirySeconds === undefined || max === 0
        ? expirySeconds
        : expirySeconds < 0
          ? max
          : Math.min(expirySeconds, max)
    const said = this.#plane.sessions
      .farewell(connection.session, voidsWill, expiry)
      .catch((error: unknown) => this.#events.onError(error as Error))
    connection.goodbyeStored = said
  }

  releaseSession(connection: Connection): Promise<void> | undefined {
    const { session } = connection
    this.#bounds.gone(connection)
    if (session === undefined) return undefined
    connection.session = undefined
    if (this.#bySid.get(session.sid) === connection) this.#bySid.delete(session.sid)
    // Behind what it published: from its release on nobody is told when its client goes on elsewhere.
    // What was not accepted has no will [MQTT-3.1.2-8].
    return this.#release(
      session,
      connection.isRefused
        ? this.#plane.sessions.farewell(session, true, undefined)
        : connection.settled().then(() => this.#leaveGroups(connection)),
    )
  }

  #release(session: Session, behind: Promise<void>): Promise<void> {
    const releasing = behind
      .then(() => atEndAsync(() => this.#plane.sessions.release(session)))
      .catch((error: unknown) => this.#events.onError(error as Error))
      .finally(() => this.#releasing.delete(releasing))
    this.#releasing.add(releasing)
    return releasing
  }

  /** Resolves when every session that was released is written down, and its will stored. */
  async settled(): Promise<void> {
    await Promise.all(this.#releasing)
    await this.#plane.sessions.settled()
  }

  ring(sid: string): void {
    this.#bySid.get(sid)?.ring()
  }

  schedule(holder: SessionHolder, mayWait = false): void {
    this.#plane.schedule(holder, mayWait)
  }

  /** Its session is another connection's by now. */
  taken(session: Session): void {
    const connection = this.#bySid.get(session.sid)
    if (connection?.session === session) connection.takenOver()
  }

  /** A write of its session was refused. */
  writeRefused(connection: Connection): void {
    const { session } = connection
    if (session === undefined) return
    this.#plane.stillOwned(session).then(
      (ours) => {
        if (ours) connection.ring()
        else connection.takenOver()
      },
      (error: unknown) => this.#events.onError(error as Error),
    )
  }

  /**
   * What another node's CONNECT came after is in the socket by now, if not read: one more turn of the event
   * loop reads it.
   */
  wanted(session: Session): void {
    const connection = this.#bySid.get(session.sid)
    const leaves = (): void => {
      this.#plane.sessions.leaves(session).catch((error: unknown) => this.#events.onError(error as Error))
    }
    if (connection?.session !== session) return leaves() // it is over, and is being released
    const giveUp = (): void => {
      if (connection.inbound.isBehind) return void setImmediate(giveUp)
      if (connection.session !== session || connection.isEnding) return leaves()
      connection.takenOver()
      void this.releaseSession(connection) // at once, not when its client closes
    }
    setImmediate(setImmediate, giveUp)
  }

  matching(connection: Connection, { topic }: Message): Making<StoredMatch> {
    return this.#table.makingOf(topic, connection, () => true)
  }

  isReplayed(connection: Connection, { topic, stamp }: Message): boolean {
    if (stamp === undefined) return false
    const queued = this.#table.allOf(topic, connection).filter(({ qos }) => qos > 0)
    return (
      queued.length > 0 && queued.filter(({ since }) => since?.includes(topic, stamp) !== true).length === 0
    )
  }
}

const storedOf = ({
  qos,
  noLocal,
  retainAsPublished,
  identifier,
}: SubscriptionOptions): { options: number; identifier: number | undefined } => ({
  options:
    qos | (noLocal ? SessionOption.noLocal : 0) | (retainAsPublished ? SessionOption.retainAsPublished : 0),
  identifier,
})

/** Who has a queue for the rest wants bodies of QoS 0 publishes only. */
const kindOf = ({ queued }: Subscription): number => (queued === 'no' ? RouteKind.everything : RouteKind.qos0)
