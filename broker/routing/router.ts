// Routing at one node: what clients publish goes to the data plane, and messages of the data plane go to the
// subscribers here whose subscriptions match. Sessions of clients, replays and Shared Subscriptions have a file
// each, which it composes. State: the subscriptions of this node's connections.
import {
  BridgeError,
  GroupRules,
  isBacklogged,
  isShared,
  Moment,
  RouteKind,
  worked,
  workOff,
  type Cluster,
  type GroupHolder,
  type Making,
  type Message,
  type OwedReplays,
  type Receiver,
  type Session,
  type SessionHolder,
  type SessionRequest,
} from '../../bridge/index.ts'
import { Gate, Refusal } from '../access/gate.ts'
import { Tenants } from '../access/tenancy.ts'
import type { HeldCause, RefusalCause } from '../access/refusals.ts'
import type { EngineHost } from '../aedes/engine-host.ts'
import type { Config } from '../config/config.ts'
import { ClientSessions } from '../connection/client-sessions.ts'
import type { Connection } from '../connection/connection.ts'
import { Holdings } from '../connection/holdings.ts'
import type { DropCause } from '../connection/connection-host.ts'
import type { StoredMatch } from '../connection/stored-session.ts'
import { Traces } from '../observe/traces.ts'
import { Traffic, turnTime } from '../observe/traffic.ts'
import { SharedSubscriptions } from '../groups/shared-subscriptions.ts'
import { LocalDelivery, ownOrAll } from './delivery.ts'
import {
  LocalTable,
  storedOptions,
  type Match,
  type Subscription,
  type SubscriptionOptions,
} from './local-table.ts'
import { Pressure } from './pressure.ts'
import { SubscribeReplays } from './subscribe-replays.ts'
import type { Subscriber } from './subscriber.ts'
import { SubscriptionBounds, type FilterRefusal } from './subscription-bounds.ts'

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
  readonly traffic: Traffic
  readonly traces: Traces
  readonly tenants = new Tenants()
  readonly #events: RouterEvents
  readonly #table = new LocalTable<Subscriber>()
  readonly #pressure: Pressure<Connection>
  readonly #bounds: SubscriptionBounds<Subscriber>
  readonly #shared: SharedSubscriptions
  readonly #replays: SubscribeReplays
  readonly #sessions: ClientSessions
  #plane!: Cluster
  #connections: Iterable<Connection> = []

  constructor(
    config: Config,
    events: RouterEvents,
    gate = new Gate<Connection>(),
    traffic = new Traffic(),
    traces = new Traces(),
  ) {
    this.config = config
    this.gate = gate
    this.traffic = traffic
    this.traces = traces
    this.#events = events
    this.holdings = new Holdings(config.clientBytesMax)
    this.#pressure = new Pressure(config, {
      announce: (topic, held) => this.#plane.hold(topic, held),
      holdsOn: (connection, topic) => events.onHoldsOn(connection, topic),
    })
    const plane = (): Cluster => this.#plane
    this.#bounds = new SubscriptionBounds(config, {
      get bytes() {
        return plane().routingBytes
      },
      has: (filter) => plane().isRouted(filter),
    })
    const host = {
      plane,
      refused: (cause: RefusalCause) => events.onRefusal(cause),
      onError: (error: Error) => events.onError(error),
    }
    this.#replays = new SubscribeReplays(config, this.#table, host)
    this.#shared = new SharedSubscriptions(new GroupRules(config.groupStrategies), this.#bounds, {
      ...host,
      give: (message, subscriber, match) => this.#give(message, subscriber, match),
    })
    this.#sessions = new ClientSessions(config, {
      ...host,
      leave: (connection) => this.#shared.leaveAll(connection),
    })
  }

  attach(plane: Cluster, connections: Iterable<Connection> = []): void {
    this.#plane = plane
    this.#connections = connections
  }

  /** Connections with a publish that is not acknowledged. O(connections). */
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
      const since = turnTime()
      if (this.holdings.begin(message.bytes)) this.#store(message, from, since, done)
      else this.holdings.wait(message.bytes, () => this.#store(message, from, since, done))
    }
  }

  /**
   * When handing a message on throws, the publisher's connection ends, also when another one's turn made room for
   * it.
   */
  #store(message: Message, from: Connection, since: number, done: () => void): void {
    try {
      this.#plane.publish(message, () => this.#stored(message, from, since, done))
    } catch (error) {
      this.holdings.stored(message.bytes)
      from.onBug(error)
    }
  }

  /**
   * It is stored: acknowledged at once, or when the subscribers that are behind with its topic let go, in the
   * connection's order [MQTT-4.6.0-2].
   */
  #stored(message: Message, from: Connection, since: number, done: () => void): void {
    const clear = message.qos === 0 ? undefined : this.#pressure.of(message.topic)
    if (clear === undefined && from.holdsNone) this.#acknowledge(message, from, since, done)
    else from.whenClear(clear, () => this.#acknowledge(message, from, since, done))
  }

  #acknowledge(message: Message, from: Connection, since: number, done: () => void): void {
    this.holdings.stored(message.bytes)
    if (this.traces.isOn) this.traces.tell('stored', message, {})
    if (message.qos > 0) this.traffic.acknowledged.took(since)
    from.guarded(done) // a bug is this connection's end, and not that of the others of its batch
    this.gate.published?.(message, 'client', from)
  }

  /**
   * The local table and the count of the route change in one turn (`#serve`); session and journal are written side
   * by side; the caller sends SUBACK when all of it is done. Until the journal says that QoS ≥ 1 messages for a
   * session are queued they keep coming live, at QoS 0, if the filter or an overlapping one was subscribed with QoS
   * 0. Around that moment one message may arrive both ways.
   */
  async subscribe(
    connection: Connection,
    filter: string,
    options: SubscriptionOptions,
    replays: boolean,
  ): Promise<void> {
    const { session } = connection
    const before = this.#table.get(filter, connection)
    // before CONNACK it is a subscription that comes back with its session, and has no moment of its own
    const moment = connection.connackWritten ? new Moment() : undefined
    const isFirst = before === undefined && session?.subscriptions.has(filter) !== true
    const since = isFirst
      ? moment
      : (before?.since ?? (moment === undefined ? this.#replays.owedMoment(session, filter) : undefined))
    if (!connection.lasting || session === undefined)
      await this.#serve(connection, filter, { ...options, queued: 'no', since })
    else await this.#subscribeLasting(connection, session, filter, { ...options, since })
    if (moment === undefined) return
    const read = await this.#plane.stamps()
    const isThere = moment.settle(read.stamps)
    if (this.#table.get(filter, connection)?.since === moment) this.#replays.forgetLater(moment)
    if (replays)
      await this.#replays.prepare(
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
    const stored = this.#plane.sessions.subscribe(session, filter, storedOptions(options))
    const served = { ...options, queued: options.qos === 0 ? 'no' : (before?.queued ?? 'soon') } as const
    await Promise.all([this.#serve(connection, filter, served, stored), stored])
    // Otherwise it left or unsubscribed, or a later SUBSCRIBE of this filter replaced this one.
    if (options.qos > 0 && this.#table.get(filter, connection) === served)
      await this.#serve(connection, filter, { ...served, queued: 'yes' })
  }

  share(
    connection: Connection,
    name: string,
    options: SubscriptionOptions,
    resumes?: boolean,
  ): Promise<number> {
    return this.#shared.join(connection, name, options, resumes)
  }

  scheduleMember(holder: GroupHolder): void {
    this.#plane.groups.schedule(holder)
  }

  /** Members of groups that are connected here. O(groups). */
  get groupMembers(): number {
    return this.#shared.size
  }

  /** Of the clients that are connected here, Shared Subscriptions among them. */
  get subscriptions(): number {
    return this.#bounds.count
  }

  get hasGroups(): boolean {
    return this.#plane.hasGroups
  }

  deliverShared(message: Message, name: string): boolean | Promise<void> {
    return this.#shared.deliver(message, name)
  }

  /**
   * The route is counted in the same turn as the table changes, so a subscriber that leaves meanwhile is uncounted
   * exactly once.
   * @param sessionWrite the write of its session, which the route goes into the journal with
   */
  async #serve(
    subscriber: Subscriber,
    filter: string,
    subscription: Subscription,
    sessionWrite?: Promise<void>,
  ): Promise<void> {
    const before = this.#table.get(filter, subscriber)
    const [kind, old] = [kindOf(subscription), before === undefined ? undefined : kindOf(before)]
    this.#table.add(filter, subscriber, subscription)
    if (before === undefined) this.#bounds.added(subscriber, filter)
    if (kind === old) return
    try {
      await this.#plane.addRoute(filter, kind, sessionWrite)
    } finally {
      if (old !== undefined) this.#plane.removeRoute(filter, old)
    }
  }

  unsubscribe(connection: Connection, filter: string): Promise<void> | undefined {
    if (isShared(filter)) return this.#shared.leave(connection, filter)
    this.removeSubscriber(connection, filter)
    return undefined
  }

  // From within the process

  /**
   * Subscribes whatever can `deliver`: a connection, or a handler of the embedding program. Resolves when
   * everything that is published from now on comes to it.
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
    if (this.traces.isOn) this.traces.tell('received', message, { why: 'the program publishes it' })
    if (stored === undefined) {
      this.#plane.publishQos0(message)
      this.gate.published?.(message, 'program', undefined)
      return
    }
    const store = (): void => {
      const onStored = (): void => {
        this.holdings.stored(message.bytes)
        if (this.traces.isOn) this.traces.tell('stored', message, {})
        stored()
        this.gate.published?.(message, 'program', undefined)
      }
      try {
        this.#plane.publish(message, onStored)
      } catch (error) {
        this.holdings.stored(message.bytes)
        onBug(error as Error)
      }
    }
    if (this.holdings.begin(message.bytes)) store()
    else this.holdings.wait(message.bytes, store)
  }

  authorizeWill(will: Message): Message | undefined | Promise<Message | undefined> {
    const answer = this.gate.publish?.(will, 'will', undefined) ?? will
    return answer instanceof Promise
      ? answer.then((decided) => this.#onWillDecided(will, decided))
      : this.#onWillDecided(will, answer)
  }

  #onWillDecided(will: Message, decided: Message | Refusal): Message | undefined {
    if (decided instanceof Refusal) {
      if (this.traces.isOn) this.traces.tell('refused', will, { why: `a will: ${decided.reason}` })
      return (this.dropped('refused', will.qos), undefined)
    }
    if (this.traces.isOn) this.traces.tell('received', decided, { why: 'a will' })
    this.gate.published?.(decided, 'will', undefined)
    return decided
  }

  removeSubscriber(subscriber: Subscriber, filter: string): void {
    const options = this.#table.get(filter, subscriber)
    if (options === undefined) return
    this.#table.remove(filter, subscriber)
    if (options.since !== undefined) this.#replays.dropMoment(options.since)
    this.#bounds.removed(subscriber, filter)
    this.#plane.removeRoute(filter, kindOf(options))
  }

  refusalOf(connection: Connection, filter: string): FilterRefusal | undefined {
    const known = isShared(filter)
      ? this.#shared.get(filter, connection)
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
    this.#replays.begin(connection, filter)
  }

  subscribedAgain(session: Session): void {
    this.#plane.sessions.subscribedAgain(session).catch((error: unknown) => {
      const isMoved = error instanceof BridgeError && error.code === 'ERR_BRIDGE_MOVED' // the next owner finds it
      if (!isMoved) this.#events.onError(error as Error)
    })
  }

  goOn(connection: Connection, replays: OwedReplays): void {
    this.#replays.goOn(connection, replays)
  }

  dropped(cause: DropCause, qos: number): void {
    this.#events.onDrop(cause, qos)
  }

  failed(error: unknown, qos: number): void {
    this.#events.onDrop('failed', qos)
    this.#events.onFailed(error)
  }

  mayRetain(topic: string, bytes: number): boolean {
    return this.#plane.mayRetain(topic, bytes)
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

  /** Who of this node gets a topic's messages as they come. */
  subscribersOf(topic: string): Making<readonly Match<Subscriber>[]> {
    return this.#table.making(topic)
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

  /** @throws ServerUnavailable after the deadline, or when too many wait */
  claim(connection: Connection, request: SessionRequest): Promise<void> {
    return this.#sessions.claim(connection, request)
  }

  farewell(connection: Connection, voidsWill: boolean, expirySeconds: number | undefined): void {
    this.#sessions.farewell(connection, voidsWill, expirySeconds)
  }

  releaseSession(connection: Connection): Promise<void> | undefined {
    this.#bounds.gone(connection)
    return this.#sessions.release(connection)
  }

  /** Resolves when every session that was released is written down, and its will stored. */
  settled(): Promise<void> {
    return this.#sessions.settled()
  }

  ring(sid: string): void {
    this.#sessions.ring(sid)
  }

  schedule(holder: SessionHolder, mayWait = false): void {
    this.#plane.schedule(holder, mayWait)
  }

  taken(session: Session): void {
    this.#sessions.taken(session)
  }

  writeRefused(connection: Connection): void {
    this.#sessions.writeRefused(connection)
  }

  wanted(session: Session): void {
    this.#sessions.wanted(session)
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

/** A subscriber with a queue needs only QoS 0 messages live. */
const kindOf = ({ queued }: Subscription): number => (queued === 'no' ? RouteKind.everything : RouteKind.qos0)
