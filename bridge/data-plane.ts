// The data plane of one boot of a node: routes in, messages out and in. Composes its parts; each keeps its own
// invariant, this file their order at start and at the end. When the boot is fenced the whole data plane is thrown
// away, and the node asks its bridge for a new one (bridge/redis/index.ts).
import { Audit } from './membership/audit.ts'
import { Batches } from './publish/batches.ts'
import { Bells } from './publish/bells.ts'
import type { Clock } from './pace/clock.ts'
import type { Cluster, RetainedRead } from './cluster.ts'
import { Requests } from './control/requests.ts'
import { Groups, type Subscriber as GroupSubscriber } from './groups/groups.ts'
import { isShared } from './groups/shared-filter.ts'
import { GroupRules } from './groups/group-rules.ts'
import { recordsOfGroups, type Change } from './messages/codec.ts'
import { noReports, type Reports } from './diagnostics.ts'
import { BridgeError, endNode } from './errors.ts'
import { FanOut, type Handed } from './publish/fan-out.ts'
import { RedisInspection } from './inspection/redis-inspection.ts'
import { InboxReader } from './links/inbox-reader.ts'
import { everyOne } from './links/inbox-writer.ts'
import { handOnUnread } from './links/unread.ts'
import { ClusterView } from './routes/known-cluster.ts'
import { Journal } from './routes/journal.ts'
import type { Keys } from './redis/keys.ts'
import { Links } from './links/links.ts'
import { RedisLoss } from './membership/redis-loss.ts'
import { Membership } from './membership/membership.ts'
import { noTrace, type MessageTrace } from './messages/message-trace.ts'
import type { Message } from './messages/message.ts'
import type { Stamps, StampsRead } from './retained/moment.ts'
import type { DataPlaneOptions, Receiver } from './options.ts'
import { OwnRoutes, routeChange } from './routes/own-routes.ts'
import { Queues } from './publish/queues.ts'
import { connectAll, type Connections, type Redis } from './redis/redis.ts'
import { Retained } from './retained/retained.ts'
import { RouteKind, type Route, type RoutingTable } from './routes/routing-table.ts'
import { loadScripts } from './redis/scripts.ts'
import { authorizedWill, withRoom } from './sessions/session-events.ts'
import { SessionWriter, type SessionHolder } from './sessions/session-writer.ts'
import type { Session } from './sessions/session.ts'
import { SessionOption } from './sessions/session-options.ts'
import { Sessions } from './sessions/sessions.ts'
import { allSubscriptions } from './sessions/stored.ts'
import { SingleFlight } from './pace/single-flight.ts'
import { atMost } from './pace/together.ts'
import { Slice } from './pace/turns.ts'

const blockMs = 1_000
/** How long a start that is ended may take to leave in order; when it takes longer the others wait for its lease. */
const leaveMs = 500
/** How long a node that leaves sees to what it has read and not handed on; then others do. */
const handOnMs = 2_000
/** How long a node that starts waits for what the others know and Redis has lost. */
const lackingMs = 1_000
/** How often a node looks whether Redis still has what it must have of it; several times a lease. */
const auditMsMax = 1_000
const auditsPerLease = 6
/**
 * How long messages wait for a session that is not there: its owner writes it down again, or is declared dead
 * meanwhile.
 */
const missingLeases = 2

export class DataPlane implements Cluster {
  readonly #options: DataPlaneOptions
  readonly #receiver: Receiver
  readonly #trace: MessageTrace
  readonly #reports: Reports
  readonly keys: Keys
  readonly #redis: Redis
  readonly #connections: Connections
  readonly #reader: InboxReader
  readonly #membership: Membership
  readonly #journal: Journal
  readonly #routes: OwnRoutes
  readonly #sharedBarrier = new SingleFlight(() => this.#journal.barrier())
  readonly #retained: Retained
  readonly sessions: Sessions
  readonly requests: Requests
  readonly inspection = new RedisInspection(() => ({
    redis: this.#redis,
    keys: this.keys,
    clock: this.clock,
    table: this.#view.table,
    counts: this.groups.counts,
  }))
  readonly #audit: Audit
  readonly #queues: Queues
  readonly groups: Groups
  #suspects: ReadonlySet<string> = new Set()
  #auditing: NodeJS.Timeout | undefined
  readonly #sessionWriter: SessionWriter
  readonly #fanOut: FanOut
  readonly #batches: Batches<Message, Handed>
  readonly #links: Links
  readonly #bells = new Bells({
    isKnown: (nodeId) => nodeId === this.nodeId || this.#view.nodes.has(nodeId),
    catchUp: () => this.#journal.barrier(),
    ring: (nodeId, sid) => {
      if (nodeId === this.nodeId) this.#receiver.ring(sid)
      else this.#links.to(nodeId).ring(sid)
    },
  })
  readonly #view: ClusterView
  readonly #healing: RedisLoss
  readonly #ringing = new SingleFlight(() => this.#ringAll())
  isFenced = false // the node looks at it after the start: `onFenced` may have come before it listened
  #isStarted = false
  #closed = false
  #refuse: (error: BridgeError) => void = () => undefined
  /** Rejects when this node was declared dead: nothing that it sends is taken. */
  readonly #refused = new Promise<never>((_, reject) => {
    this.#refuse = reject
  })
  readonly #unwatch: (() => void) | undefined

  private constructor(
    options: DataPlaneOptions,
    receiver: Receiver,
    connections: Connections,
    membership: Membership,
  ) {
    this.#options = options
    this.#receiver = receiver
    this.#refused.catch(() => undefined) // asked when it leaves
    this.#trace = receiver.traces ?? noTrace
    this.#reports = options.reports ?? noReports
    this.keys = membership.keys
    this.#redis = connections.redis
    this.#connections = connections
    this.#membership = membership
    this.requests = new Requests(membership.nodeId, () => this.nodes, options.events)
    this.#journal = new Journal(connections, this.keys, () => membership, {
      onChange: (nodeId, change) => this.#view.apply(nodeId, change),
      readMore: () => this.#view.readMore(),
      onSnapshot: (nodes, routes, table) => this.#view.replace(nodes, routes, table as RoutingTable),
      onLost: () => this.#healing.onLost(),
      onLater: () => this.#onFenced(), // the next boot begins with the snapshot, after that entry, or is refused
      onAmnesia: () => this.#healing.heal(),
    })
    const { clock } = membership
    this.#reader = this.#readerOf(membership, connections, receiver)
    this.#links = new Links(this.#redis, this.keys, membership.nodeId, clock, {
      onFenced: () => this.#onFenced(),
      onOut: (nodeId) => this.#view.dropNode(nodeId),
      isGone: async (nodeId) => {
        await this.#journal.barrier()
        return !this.#view.nodes.has(nodeId)
      },
    })
    this.#routes = new OwnRoutes((changes) => this.#journal.append(changes.map(routeChange)))
    this.#retained = new Retained(connections, this.keys, membership, {
      barrier: (ahead) => this.#journal.barrier(ahead),
      append: (changes) => this.#journal.append(changes),
      onFenced: () => this.#healing.checkFence(),
    })
    this.sessions = this.#sessionsOf(membership, options)
    this.#audit = new Audit(this.#redis, this.keys, membership.nodeId, this.sessions, {
      isPlaced: () => membership.isPlaced(),
      onFenced: () => this.#healing.checkFence(),
    })
    this.#queues = this.#queuesOf(membership, options)
    this.groups = this.#groupsOf(membership, options)
    this.#sessionWriter = new SessionWriter(this.#redis, this.keys, clock)
    this.#fanOut = new FanOut({
      nodeId: membership.nodeId,
      receiver,
      links: this.#links,
      queues: this.#queues,
      retained: this.#retained,
      groups: this.groups,
      table: () => this.#view.table,
      barrier: () => this.#barrier(),
      onFailed: (error) => this.#reports.tell('failed', { where: 'inbox', error }),
    })
    this.#batches = new Batches({
      store: (batch) => this.#retained.store(batch),
      barrier: () => this.#barrier(),
      handOnAhead: (batch) => this.#fanOut.handOnAhead(batch),
      handOnAfter: (batch, handed) => this.#fanOut.handOnAfter(batch, handed),
      broken: (error) => endNode(error, this.#reports),
    })
    this.#view = new ClusterView(options, {
      nodeId: membership.nodeId,
      redis: this.#redis,
      keys: this.keys,
      journal: this.#journal,
      routes: this.#routes,
      links: this.#links,
      retained: this.#retained,
      sessions: this.sessions,
      groups: this.groups,
      isHealing: () => this.#healing.isUnderWay,
      isStarted: () => this.#isStarted,
      onFenced: () => {
        if (!this.#closed) this.#onFenced() // it says itself that it is gone
      },
    })
    this.#healing = new RedisLoss(options, {
      receiver,
      membership,
      reader: this.#reader,
      audit: this.#audit,
      sessions: this.sessions,
      groups: this.groups,
      journal: this.#journal,
      routes: this.#routes,
      view: this.#view,
      onFenced: () => this.#onFenced(),
    })
    this.#unwatch = options.waits?.watchPublishes(() => ({
      publishers: receiver.publishers,
      wills: this.sessions.willsUnderWay,
      since: this.#batches.since,
    }))
  }

  /** In slices: each looks into its queue, and there may be a million. Once for all who ask meanwhile (`#ringing`). */
  async #ringAll(): Promise<void> {
    const slice = new Slice()
    for (const session of this.sessions.here) {
      if (slice.isOver) await slice.next()
      this.#receiver.ring(session.sid)
    }
  }

  #readerOf({ nodeId, clock }: Membership, connections: Connections, receiver: Receiver): InboxReader {
    return new InboxReader(connections, this.keys, nodeId, clock, {
      onMessage: (message) => {
        if (this.#trace.isOn) this.#trace.tell('arrived', message, {})
        receiver.deliver(message)
      },
      onShared: (message, share) => this.#fanOut.onShared(message, share),
      onGiven: (message, given) => this.groups.onGiven(message, given),
      onLook: (name) => (name === everyOne ? this.groups.lookAll() : this.groups.look(name)),
      onBell: (sid) => {
        if (sid !== everyOne) return receiver.ring(sid)
        this.#ringing.next().catch((error: unknown) => endNode(error, this.#reports))
      },
      onHold: (nodeId, topics, held) => receiver.hold(nodeId, topics, held),
      onFenced: () => this.#onFenced(),
      onAmnesia: () => this.#healing.heal(),
    })
  }

  #sessionsOf(membership: Membership, options: DataPlaneOptions): Sessions {
    return new Sessions(this.#redis, this.keys, () => membership.nodeId, options, membership.clock, {
      append: (changes) => this.#appendOfSessions(changes),
      authorizeWill: (message) => authorizedWill(this.#receiver, message),
      publishWill: (message) =>
        new Promise((resolve) =>
          this.publish(
            withRoom(message, (topic, bytes) => this.mayRetain(topic, bytes), this.#reports),
            resolve,
          ),
        ),
      expireRetained: (topic) => this.#retained.expire(topic),
      stillOwned: (session) => this.stillOwned(session),
      onFenced: () => this.#healing.checkFence(),
      onMoved: (session) => this.#receiver.taken(session),
      onWanted: (session) => this.#receiver.wanted(session),
      subscriptionsOf: (sid) => this.#view.subscriptionsOf(sid),
      onWritten: (session) => this.#receiver.ring(session.sid),
      onVanished: (sids) => this.#view.vanished(sids),
    })
  }

  #queuesOf(
    { nodeId, clock }: Membership,
    { queueMessagesMax, queueBytesMax, leaseMs, onError }: DataPlaneOptions,
  ): Queues {
    return new Queues(
      this.#redis,
      this.keys,
      nodeId,
      { queueMax: queueMessagesMax, queueBytesMax: queueBytesMax, waitMs: missingLeases * leaseMs },
      clock,
      {
        trace: this.#trace,
        onOwner: (nodeId, sid) => this.#bells.ring(nodeId, sid),
        onMissing: (sid) => {
          this.#journal.append([{ type: 'missing', sid }]).catch(onError)
        },
        onFenced: () => this.#healing.checkFence(),
        onDropped: (count) => this.#reports.tell('shed', { cause: 'full-queue', count }),
      },
    )
  }

  #groupsOf(
    { nodeId, clock }: Membership,
    { queueMessagesMax, queueBytesMax, leaseMs, groupStrategies }: DataPlaneOptions,
  ): Groups {
    const rules = new GroupRules(groupStrategies)
    const waitMs = missingLeases * leaseMs
    const queueLimits = { queueMax: queueMessagesMax, queueBytesMax, waitMs }
    return new Groups(this.#redis, this.keys, nodeId, queueLimits, clock, rules, {
      append: (changes) => this.#journal.append(changes),
      barrier: () => this.#sharedBarrier.next(),
      gidOf: (name) => this.#view.table.groups.get(name)?.gid,
      subscribersOf: (names) => this.#subscribersOf(names),
      nodesOf: (name) => this.#view.table.groups.get(name)?.nodes ?? [],
      giveTo: (nodeId, ...what) => this.#links.to(nodeId).give(...what),
      tellToLook: (nodeId, name) => this.#links.to(nodeId).look(name),
      isOwner: async (sid, owner) => {
        const session = this.sessions.connected(sid)
        return session?.owner === owner && this.stillOwned(session)
      },
      onFenced: () => this.#healing.checkFence(),
    })
  }

  async *#subscribersOf(names: ReadonlySet<string>): AsyncGenerator<GroupSubscriber> {
    for await (const [sid, subscriptions] of allSubscriptions(this.#redis, this.keys, new Slice()))
      for (const [name, { options, base }] of subscriptions) {
        const qos = options & SessionOption.qos
        if (names.has(name) && base !== undefined && qos > 0) yield { name, sid, qos, base }
      }
  }

  /**
   * Joins the cluster, waiting for as long as Redis does not let it; `ended` ends that.
   * @throws BridgeError ERR_BRIDGE_DUPLICATE_NODE, ERR_BRIDGE_FORMAT, ERR_BRIDGE_CLOSED when it was ended
   */
  static async start(options: DataPlaneOptions, receiver: Receiver, ended?: AbortSignal): Promise<DataPlane> {
    const connections = connectAll(
      {
        url: options.redis,
        timeoutMs: options.redisTimeoutMs,
        onError: options.onError,
        waits: options.waits,
        reports: options.reports,
      },
      blockMs,
      options.durabilityReplicas,
    )
    connections.redis.on('ready', () => {
      loadScripts(connections.redis).catch(options.onError)
    })
    const membership = new Membership(
      connections.control,
      options.prefix,
      options.name,
      options.leaseMs,
      options.settings,
    )
    const disconnect = (): void => {
      for (const connection of Object.values(connections) as Redis[]) connection.disconnect()
    }
    const leave = (): void => void membership.leave(leaveMs).finally(disconnect)
    ended?.addEventListener('abort', leave)
    if (ended?.aborted === true) leave()
    let plane: DataPlane | undefined
    try {
      await membership.join()
      plane = new DataPlane(options, receiver, connections, membership)
      await plane.#start()
      return plane
    } catch (error) {
      await plane?.close() // it follows the journal and renews its lease already
      disconnect()
      throw error
    } finally {
      ended?.removeEventListener('abort', leave)
    }
  }

  async #start(): Promise<void> {
    this.#membership.start({
      // at once: reading the snapshot may take longer than a lease
      onFenced: () => this.#onFenced(),
      onAmnesia: () => {
        if (this.#isStarted) this.#healing.heal().catch(this.#options.onError)
      }, // it is told again with the next renewal
      onError: this.#options.onError,
      onDead: async (nodeId) => {
        await this.sessions.releases.estate(nodeId)
        if (nodeId !== this.nodeId) {
          // of its own that was done before its fence
          await this.groups.estate(nodeId)
          await this.#handOnUnread(nodeId)
        }
        await this.groups.forgetCalls(nodeId)
      },
      onLeft: () => Promise.race([this.#handOnOwn(), this.#refused]),
    })
    await this.#reader.create() // before anybody can have a route to us
    await this.#audit.join()
    await this.#journal.start()
    await this.#journal.append([{ type: 'joined' }])
    await atMost(lackingMs, this.#view.askForLacking())
    this.#reader.start()
    this.#isStarted = true
    this.#auditGroups()
    this.sessions.start(() => this.#view.isFirst, this.#options.onError)
    this.#audit.start(Math.min(auditMsMax, this.#options.leaseMs / auditsPerLease), this.#options.onError)
  }

  get nodeId(): string {
    return this.#membership.nodeId
  }

  /** Nodes alive as this node knows them, itself included. */
  get nodes(): readonly string[] {
    return [...this.#view.nodes]
  }

  get routes(): Iterable<Route> {
    return this.#view.table.entries()
  }

  /** Memory that the routes of the cluster take here, roughly. */
  get routingBytes(): number {
    return this.#view.table.bytes
  }

  get unstored(): Cluster['unstored'] {
    return this.#fanOut.unstored
  }

  isRouted(filter: string): boolean {
    return this.#view.table.has(filter)
  }

  isWanted(topic: string): boolean {
    const { qos0, groups } = this.#view.table.match(topic)
    return qos0.length + groups.length > 0
  }

  get hasGroups(): boolean {
    return this.#membership.records >= recordsOfGroups
  }

  /** Resolves when this node has read its own route back: groups are matched by the table of the cluster alone. */
  async addMember(group: string): Promise<void> {
    await this.#routes.add(group, RouteKind.everything)
    await this.#sharedBarrier.next()
  }

  removeMember(group: string): void {
    this.#routes.remove(group, RouteKind.everything)
  }

  /** Cluster time. */
  get clock(): Clock {
    return this.#membership.clock
  }

  get connection(): Redis {
    return this.#redis
  }

  // Routes

  /** Resolves when every PUBLISH whose barrier is read from now on finds the subscription. */
  addRoute(filter: string, kind: number, sessionWrite?: Promise<unknown>): Promise<void> {
    return this.#routes.add(filter, kind, sessionWrite)
  }

  removeRoute(filter: string, kind: number): void {
    this.#routes.remove(filter, kind)
  }

  /** The stamps of all partitions as they are now: the moment of what is subscribed by now. Read before SUBACK. */
  stamps(): Promise<StampsRead> {
    return this.#retained.stamps()
  }

  /** Counters that were stored, of a subscription that an earlier connection began. */
  stampsOf(of: Float64Array): Stamps {
    return this.#retained.stampsOf(of)
  }

  /** Whether `filter` may match a Retained Message. Waits for the barrier `told`, or for a new one. */
  async hasRetained(filter: string, told = this.#sharedBarrier.next()): Promise<boolean> {
    await told
    return this.#retained.hasTopic(filter)
  }

  /**
   * The topics that `filter` matches and that may have a Retained Message, as of now or later: after a
   * barrier.
   */
  async topics(filter: string): Promise<AsyncIterator<string>> {
    await this.#sharedBarrier.next()
    return this.#retained.topics(filter)
  }

  /** Which of these topics have a Retained Message now. */
  haveRetained(topics: readonly string[]): Promise<string[]> {
    return this.#retained.existing(topics)
  }

  /** Topics in the index of Retained Messages. */
  get retainedTopics(): number {
    return this.#retained.size
  }

  get retainedTenants(): readonly string[] {
    return this.#retained.tenants
  }

  /** Whether there is room for a Retained Message: nodes keep the topics of all of them. */
  mayRetain(topic: string, bytes: number): boolean {
    const { retainedBytesMax, retainedMessagesMax, retainedMessageBytesMax = Infinity } = this.#options
    return (
      bytes <= retainedMessageBytesMax &&
      this.#retained.mayStore(topic, retainedBytesMax, retainedMessagesMax) &&
      this.#retained.mayStoreOfTenant(topic, this.#options)
    )
  }

  /** The Retained Messages of these topics as they are now, as many as have room in `bytesMax`. */
  retained(topics: readonly string[], bytesMax: number): Promise<RetainedRead> {
    return this.#retained.read(topics, bytesMax)
  }

  // Messages

  /** A QoS 0 message that is not to be retained: matched and handed on at once. */
  publishQos0(message: Message): void {
    this.#fanOut.qos0(message)
  }

  /**
   * A message to be stored first: QoS ≥ 1, or retained; `done` when it is stored for everyone who was
   * subscribed when it came.
   */
  publish(message: Message, done: () => void): void {
    this.#batches.push(message, done)
  }

  /**
   * Shared Subscriptions of sessions are not journaled as subscriptions: publishers know the group by its nodes and
   * its backlog. What a session had in a group that it left, or that it was a member of when it ended, goes to
   * others.
   */
  async #appendOfSessions(changes: readonly Change[]): Promise<void> {
    this.#routes.writeNow()
    const shared = changes.filter((change) => change.type === 'session' && isShared(change.filter))
    if (shared.length === 0) return this.#journal.append(changes)
    const others = changes.filter((change) => !shared.includes(change))
    await Promise.all([
      others.length === 0 ? undefined : this.#journal.append(others),
      ...shared.map((change) =>
        change.type === 'session' && change.options === undefined
          ? this.groups.left(change.filter, change.sid)
          : undefined,
      ),
    ])
  }

  /** The first node by id looks after the groups of the whole cluster, once a lease. */
  #auditGroups(): void {
    this.#auditing = setTimeout(() => {
      const isFirst = this.#view.isFirst
      void (isFirst ? this.groups.audit(this.#suspects) : Promise.resolve(new Set<string>()))
        .then((suspects) => {
          this.#suspects = suspects
        }, this.#options.onError)
        .finally(() => {
          if (!this.#closed) this.#auditGroups()
        })
    }, this.#options.leaseMs)
    this.#auditing.unref()
  }

  /** Tells the other nodes whether to hold back who publishes on `topic`: subscribers here are behind. */
  hold(topic: string, held: boolean): void {
    for (const nodeId of this.#view.nodes)
      if (nodeId !== this.nodeId) this.#links.to(nodeId).hold(topic, held)
  }

  // Sessions

  /** A session's holder has something to write, or should look into its queue. */
  schedule(holder: SessionHolder, mayWait = false): void {
    this.#sessionWriter.touch(holder, mayWait)
  }

  /**
   * Puts a message into the queue of a session, after what is there, at the lower of its own and the granted
   * QoS; resolves when it is stored.
   */
  enqueue(message: Message, sid: string, granted: number): Promise<void> {
    return this.#queues.push(message, sid, granted)
  }

  /** Stores Retained Messages without publishing them. */
  async importRetained(messages: readonly Message[]): Promise<void> {
    await this.#retained.store(messages)
    await this.#retained.journalTopics(messages)
  }

  /**
   * A write of an owner was refused: true when the session is ours after all, because Redis lost its data, or
   * went back, and we wrote it down again.
   */
  async stillOwned(session: Session): Promise<boolean> {
    await this.#journal.barrier() // heals when Redis lost its data
    return (await this.sessions.recovery.isOwned(session)) || this.sessions.recovery.reclaim(session)
  }

  /** Also waits for nodes that have not asserted their routes since Redis lost data. */
  async #barrier(): Promise<void> {
    await this.#journal.barrier()
    if (this.#view.absent.settled === undefined) return
    await this.#view.absent.settled
    await this.#journal.barrier()
  }

  /** What a node had not read of its inbox for members of groups goes to others. */
  async #handOnUnread(nodeId: string): Promise<void> {
    // one for all: what is left was published before, and the table lacks the node after it
    let barrier: Promise<void> | undefined
    await handOnUnread(this.#redis, this.keys, nodeId, this.#membership.clock, async (message, share) => {
      await (barrier ??= this.#barrier())
      await this.#fanOut.handOver(message, { ...share, visited: [] })
    })
  }

  /** This node has left: what it has not read, and what its members had. */
  async #handOnOwn(): Promise<void> {
    await this.#handOnUnread(this.nodeId)
    await this.groups.estate(this.nodeId)
  }

  #onFenced(): void {
    this.#refuse(new BridgeError('ERR_BRIDGE_FENCED', `${this.nodeId} was declared dead`))
    if (this.isFenced || this.#closed) return
    this.isFenced = true
    this.#batches.close()
    this.#reports.tell('fenced', { nodeId: this.nodeId })
    this.#receiver.onFenced()
  }

  /** Leaves the cluster: the others drop our routes at once. */
  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#auditing)
    this.#unwatch?.()
    for (const part of [
      this.requests,
      this.sessions,
      this.#audit,
      this.#view,
      this.#batches,
      this.#queues,
      this.#sessionWriter,
    ])
      part.close()
    await this.#reader.close()
    // what it has read, before it has left; what it has not read, after
    await atMost(
      handOnMs,
      Promise.race([this.#reader.handedOn(), this.#refused]).catch(() => undefined),
    )
    await this.#reader.free()
    await this.#membership.close()
    this.groups.close()
    this.#links.close()
    await this.#journal.close()
    for (const connection of Object.values(this.#connections) as Redis[]) connection.disconnect()
  }
}
