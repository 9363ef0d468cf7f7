// The data plane of one boot of a node: routes in, messages out and in. Composes membership, journal, routing
// table, batches, inboxes and Retained Messages; each keeps its own invariant, this file their order. When
// the boot is fenced the whole data plane is thrown away, and the node asks its bridge for a new one
// (bridge/redis/index.ts).
import { AbsentNodes } from './routes/absent-nodes.ts'
import { Audit } from './membership/audit.ts'
import { Batches } from './publish/batches.ts'
import { Bells } from './publish/bells.ts'
import type { Clock } from './pace/clock.ts'
import type { Cluster, RetainedRead } from './cluster.ts'
import { Groups } from './groups/groups.ts'
import { isShared } from './groups/shared-filter.ts'
import { GroupRules } from './groups/strategies.ts'
import { recordsOfGroups, type Change } from './messages/codec.ts'
import { nobody, type Reports } from './diagnostics.ts'
import { BridgeError, endNode, toBridgeError } from './errors.ts'
import { FanOut, type Handed } from './publish/fan-out.ts'
import { InboxReader } from './links/inbox-reader.ts'
import { unreadShares } from './links/unread.ts'
import { Journal } from './routes/journal.ts'
import type { Keys } from './redis/keys.ts'
import { Links } from './links/links.ts'
import { Membership } from './membership/membership.ts'
import type { Message } from './messages/message.ts'
import type { Stamps, StampsRead } from './retained/moment.ts'
import type { DataPlaneOptions, Receiver } from './options.ts'
import { OwnRoutes, type RouteChange } from './routes/own-routes.ts'
import { Queues } from './publish/queues.ts'
import { connectAll, type Connections, type Redis } from './redis/redis.ts'
import { Retained } from './retained/retained.ts'
import { RouteKind, RoutingTable, type Route } from './routes/routing-table.ts'
import { loadScripts } from './redis/scripts.ts'
import { authorizedWill, withRoom } from './sessions/session-events.ts'
import { SessionWriter, type SessionHolder } from './sessions/session-writer.ts'
import type { Session } from './sessions/session.ts'
import { Sessions } from './sessions/sessions.ts'
import { Slice } from './pace/turns.ts'
import { SingleFlight } from './pace/single-flight.ts'
import { atMost } from './pace/together.ts'
import { allSubscriptions } from './sessions/stored.ts'
import { journaled } from './sessions/stored-subscription.ts'

const blockMs = 1_000
/** What a start that is ended has for leaving in order; its lease tells otherwise. */
const leaveMs = 500
/** How long members of groups have for joining again before the others hear of us. */
const regroupMs = 1_000
/** How long routes of nodes that have not come back are kept after Redis lost its data. */
const graceLeases = 1
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
  readonly #reports: Reports
  readonly keys: Keys
  readonly #redis: Redis
  readonly #connections: Connections
  readonly #reader: InboxReader
  readonly #membership: Membership
  readonly #journal: Journal
  #table = new RoutingTable()
  readonly #routes: OwnRoutes
  readonly #sharedBarrier = new SingleFlight(() => this.#journal.barrier())
  readonly #retained: Retained
  readonly sessions: Sessions
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
    isKnown: (nodeId) => nodeId === this.nodeId || this.#nodes.has(nodeId),
    catchUp: () => this.#journal.barrier(),
    ring: (nodeId, sid) => {
      if (nodeId === this.nodeId) this.#receiver.ring(sid)
      else this.#links.to(nodeId).ring(sid)
    },
  })
  readonly #nodes = new Set<string>()
  readonly #healing = new SingleFlight(() => this.#rejoin())
  isFenced = false // its receiver was told, who may not have been there yet
  #isStarted = false
  #closed = false
  #grace: NodeJS.Timeout | undefined
  #graceEnds = 0
  readonly #unwatch: (() => void) | undefined
  /** Settles when what the last snapshot lacked of us is told and written down again. */
  #asserted: Promise<unknown> = Promise.resolve()
  readonly #absent = new AbsentNodes()

  private constructor(
    options: DataPlaneOptions,
    receiver: Receiver,
    connections: Connections,
    membership: Membership,
  ) {
    this.#options = options
    this.#receiver = receiver
    this.#reports = options.reports ?? nobody
    this.keys = membership.keys
    this.#redis = connections.redis
    this.#connections = connections
    this.#membership = membership
    this.#journal = new Journal(connections, this.keys, () => membership, {
      onChange: (nodeId, change) => this.#apply(nodeId, change),
      readMore: () => this.#readMore(),
      onSnapshot: (nodes, routes, table) => this.#replace(nodes, routes, table as RoutingTable),
      onLost: () => this.#onLost(),
      onLater: () => this.#onFenced(), // it joins again after the entry, by the snapshot, or is refused
      onAmnesia: () => this.#heal(),
    })
    const { clock } = membership
    this.#reader = new InboxReader(connections, this.keys, membership.nodeId, clock, {
      onMessage: (message) => receiver.deliver(message),
      onShared: (message, share) => this.#fanOut.onShared(message, share),
      onGiven: (message, given) => this.groups.onGiven(message, given),
      onLook: (name) => this.groups.look(name),
      onBell: (sid) => receiver.ring(sid),
      onHold: (nodeId, topics, held) => receiver.hold(nodeId, topics, held),
      onFenced: () => this.#onFenced(),
      onAmnesia: () => this.#heal(),
    })
    this.#links = new Links(this.#redis, this.keys, membership.nodeId, clock, {
      onFenced: () => this.#onFenced(),
      onOut: (nodeId) => this.#dropNode(nodeId),
    })
    this.#routes = new OwnRoutes((changes) => this.#journal.append(changes.map(routeChange)))
    this.#retained = new Retained(connections, this.keys, membership, {
      barrier: (ahead) => this.#journal.barrier(ahead),
      append: (changes) => this.#journal.append(changes),
      onFenced: () => this.#checkFence(),
    })
    this.sessions = new Sessions(this.#redis, this.keys, () => membership.nodeId, options, clock, {
      append: (changes) => this.#appendOfSessions(changes),
      authorizeWill: (message) => authorizedWill(receiver, message),
      publishWill: (message) =>
        new Promise((resolve) =>
          this.publish(
            withRoom(message, (topic) => this.mayRetain(topic), this.#reports),
            resolve,
          ),
        ),
      expireRetained: (topic) => this.#retained.expire(topic),
      stillOwned: (session) => this.stillOwned(session),
      onFenced: () => this.#checkFence(),
      onMoved: (session) => receiver.taken(session),
      onWanted: (session) => receiver.wanted(session),
      onWritten: (session) => receiver.ring(session.sid),
      onVanished: (sids) => this.#vanished(sids),
    })
    this.#audit = new Audit(this.#redis, this.keys, membership.nodeId, this.sessions, {
      isPlaced: () => membership.isPlaced(),
      onFenced: () => this.#checkFence(),
    })
    this.#queues = new Queues(
      this.#redis,
      this.keys,
      membership.nodeId,
      {
        queueMax: options.queueMessagesMax,
        queueBytesMax: options.queueBytesMax,
        waitMs: missingLeases * options.leaseMs,
      },
      clock,
      {
        onOwner: (nodeId, sid) => this.#bells.ring(nodeId, sid),
        onMissing: (sid) => {
          this.#journal.append([{ type: 'missing', sid }]).catch(options.onError)
        },
        onFenced: () => this.#checkFence(),
        onDropped: (count) => this.#reports.tell('shed', { cause: 'full-queue', count }),
      },
    )
    this.groups = this.#groupsOf(membership, options)
    this.#sessionWriter = new SessionWriter(this.#redis, this.keys, clock)
    this.#fanOut = new FanOut({
      nodeId: membership.nodeId,
      receiver,
      links: this.#links,
      queues: this.#queues,
      retained: this.#retained,
      groups: this.groups,
      table: () => this.#table,
      barrier: () => this.#barrier(),
      onFailed: (error) => this.#reports.tell('failed', { where: 'inbox', error }),
    })
    this.#batches = new Batches({
      store: (batch) => this.#retained.store(batch),
      barrier: () => this.#barrier(),
      handOnAhead: (batch) => this.#fanOut.handOnAhead(batch),
      handOnAfter: (batch, handed) => this.#fanOut.handOnAfter(batch, handed),
      broken: endNode,
    })
    this.#unwatch = options.waits?.watchPublishes(() => ({
      publishers: receiver.publishers,
      wills: this.sessions.willsUnderWay,
      since: this.#batches.since,
    }))
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
      gidOf: (name) => this.#table.groups.get(name)?.gid,
      nodesOf: (name) => this.#table.groups.get(name)?.nodes ?? [],
      giveTo: (nodeId, ...what) => this.#links.to(nodeId).give(...what),
      tellToLook: (nodeId, name) => this.#links.to(nodeId).look(name),
      isOwner: async (sid, owner) => {
        const session = this.sessions.connected(sid)
        return session?.owner === owner && this.stillOwned(session)
      },
      onFenced: () => this.#checkFence(),
    })
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
        if (this.#isStarted) this.#heal().catch(this.#options.onError)
      }, // it is told again with the next renewal
      onDead: async (nodeId) => {
        await this.sessions.releases.estate(nodeId)
        await this.groups.estate(nodeId)
        // the barrier of `onShared` brings a table without it
        await unreadShares(this.#redis, this.keys, nodeId, this.#membership.clock, (message, share) => {
          try {
            this.#fanOut.onShared(message, { ...share, hops: 0 })
          } catch (error) {
            this.#reports.tell('failed', { where: 'inbox', error }) // the rest comes all the same
          }
        })
      },
    })
    await this.#reader.create() // before anybody can have a route to us
    await this.#audit.join()
    await this.#journal.start()
    await this.#journal.append([{ type: 'joined' }])
    this.#reader.start()
    this.#isStarted = true
    this.#auditGroups()
    this.sessions.start(() => [...this.#nodes].sort()[0] === this.nodeId, this.#options.onError)
    this.#audit.start(Math.min(auditMsMax, this.#options.leaseMs / auditsPerLease), this.#options.onError)
  }

  get nodeId(): string {
    return this.#membership.nodeId
  }

  /** Nodes alive as this node knows them, itself included. */
  get nodes(): readonly string[] {
    return [...this.#nodes]
  }

  get routes(): Iterable<Route> {
    return this.#table.entries()
  }

  /** Memory that the routes of the cluster take here, roughly. */
  get routingBytes(): number {
    return this.#table.bytes
  }

  isRouted(filter: string): boolean {
    return this.#table.has(filter)
  }

  isWanted(topic: string): boolean {
    const { qos0, groups } = this.#table.match(topic)
    return qos0.length + groups.length > 0
  }

  get hasGroups(): boolean {
    return this.#membership.records >= recordsOfGroups
  }

  /** Groups are matched by the table of the cluster alone, which is behind the journal by a moment. */
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
  addRoute(filter: string, kind: number, company?: Promise<unknown>): Promise<void> {
    return this.#routes.add(filter, kind, company)
  }

  removeRoute(filter: string, kind: number): void {
    this.#routes.remove(filter, kind)
  }

  /** Where what is subscribed by now stands among the Retained Messages, to be read before SUBACK. */
  stamps(): Promise<StampsRead> {
    return this.#retained.stamps()
  }

  /** Counters that were stored, of a subscription that an earlier connection began. */
  stampsOf(of: Float64Array): Stamps {
    return this.#retained.stampsOf(of)
  }

  /** Whether `filter` may match a Retained Message, as of when `told` was begun, or as of now: after a barrier. */
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

  /** Whether there is room for a Retained Message: nodes keep the topics of all of them. */
  mayRetain(topic: string): boolean {
    return this.#retained.mayStore(topic, this.#options.retainedBytesMax)
  }

  /** The Retained Messages of these topics as they are now, as many as have room in `bytesMax`. */
  retained(topics: readonly string[], bytesMax: number): Promise<RetainedRead> {
    return this.#retained.read(topics, bytesMax)
  }

  #apply(nodeId: string, change: Change): void {
    switch (change.type) {
      case 'route':
        if (change.kind !== 0) this.#links.returns(nodeId)
        this.#table.set(nodeId, change.filter, change.kind)
        break
      case 'anew':
        this.#table.beginReassertion(nodeId)
        break
      case 'joined':
        // also said by a node that has told all of its routes again, after Redis lost them
        if (!this.#nodes.has(nodeId)) this.#reports.tell('nodeJoined', { name: this.#options.name, nodeId })
        this.#nodes.add(nodeId)
        this.#links.returns(nodeId)
        this.#table.endReassertion(nodeId).catch(this.#options.onError)
        this.#absent.heard(nodeId)
        break
      case 'gone':
        this.#reports.tell('nodeLeft', { name: this.#options.name, nodeId: change.nodeId, by: nodeId })
        if (change.nodeId === this.nodeId) return this.#onFenced()
        this.#dropNode(change.nodeId)
        this.groups.lookAll() // it may have given something, and told nobody
        break
      case 'retained':
        this.#retained.apply(change.topic, change.present)
        break
      case 'session':
        this.#table.setSession(change.sid, change.filter, change.options)
        if (isShared(change.filter) && change.options !== undefined) this.groups.onBacklog(change.filter)
        else if (isShared(change.filter)) this.groups.onForgotten(change.filter, change.sid)
        break
      case 'taken':
        this.sessions.here.taken(change.sid, change.owner)
        break
      case 'wanted':
        this.sessions.here.wanted(change.sid, change.owner)
        break
      case 'missing':
        this.sessions.recovery.missing(change.sid).catch(this.#options.onError)
        break
      case 'lost':
        if (nodeId !== this.nodeId) this.#retained.loadMissing().catch(this.#options.onError)
    }
  }

  /**
   * The rest of the snapshot: retained topics, and a table with the subscriptions of all sessions. O(all of
   * them).
   */
  async #readMore(): Promise<RoutingTable> {
    await this.#retained.load()
    const table = new RoutingTable()
    const slice = new Slice()
    for await (const [sid, subscriptions] of allSubscriptions(this.#redis, this.keys, slice))
      for (const [filter, { options }] of subscriptions) {
        if (slice.isOver) await slice.next()
        const change = journaled(sid, filter, options)
        if (change.type === 'session' && !isShared(filter)) table.setSession(sid, filter, change.options)
      }
    for await (const [name, gid] of this.groups.all()) table.setSession(gid, name, 1)
    return table
  }

  /**
   * The snapshot takes the place of the table. After Redis lost its data it is empty at first: the routes
   * that we knew stay until their nodes have asserted theirs, or for a lease (P10); a message for them waits
   * in its writer meanwhile.
   */
  async #replace(nodes: readonly string[], routes: readonly Route[], table: RoutingTable): Promise<void> {
    const known = new Set(nodes)
    const isHealing = this.#healing.isUnderWay
    const missing = [...this.#nodes].filter((nodeId) => !known.has(nodeId) && nodeId !== this.nodeId)
    for (const nodeId of known) this.#nodes.add(nodeId)
    const slice = new Slice()
    for (const { nodeId, filter, kind } of routes) {
      if (slice.isOver) await slice.next()
      table.set(nodeId, filter, kind)
    }
    const kept = new Set<string>()
    for (const { nodeId, filter, kind } of missing.length > 0 || isHealing ? this.#table.entries() : []) {
      if (slice.isOver) await slice.next()
      // of a node that is asserting its routes perhaps a part only is there
      if (
        !missing.includes(nodeId) &&
        !(isHealing && nodeId !== this.nodeId && !table.hasRoute(nodeId, filter))
      )
        continue
      table.set(nodeId, filter, kind)
      kept.add(nodeId)
    }
    this.#table = table
    if (!isHealing) await this.#assertLost(routes, slice) // that asserts everything
    if (this.#isStarted) this.groups.lookAll()
    if (isHealing) this.#absent.await([...new Set([...missing, ...kept])])
    if (missing.length === 0 && kept.size === 0) return
    clearTimeout(this.#grace)
    // Another snapshot may be read meanwhile, and not for healing: what was granted is not taken back.
    const now = performance.now()
    this.#graceEnds = Math.max(this.#graceEnds, isHealing ? now + this.#options.leaseMs * graceLeases : now)
    this.#grace = setTimeout(() => {
      this.#journal.rebuild().then(() => this.#dropMissing(missing), this.#options.onError)
    }, this.#graceEnds - now)
    this.#grace.unref()
  }

  /** What the snapshot lacks of us, because a failover lost it, is told again. */
  async #assertLost(routes: readonly Route[], slice: Slice): Promise<void> {
    const own = new Map<string, number>()
    for (const { nodeId, filter, kind } of routes) {
      if (slice.isOver) await slice.next()
      if (nodeId === this.nodeId) own.set(filter, kind)
    }
    const lost: Change[] = []
    for (const route of this.#routes.all()) {
      if (slice.isOver) await slice.next()
      if (own.get(route.filter) !== route.kind) lost.push(routeChange(route))
    }
    for (const change of this.sessions.here.changes()) {
      if (slice.isOver) await slice.next()
      if (
        change.type === 'session' &&
        change.options !== undefined &&
        !this.#table.hasSession(change.sid, change.filter)
      )
        lost.push(change)
    }
    if (lost.length > 0)
      this.#asserted = Promise.all([
        this.#journal.append(lost),
        this.sessions.recovery.assertAll().then((stale) => this.#journal.append(stale)),
      ]).catch(this.#options.onError)
  }

  #dropMissing(candidates: readonly string[]): void {
    this.#redis
      .hkeys(this.keys.bus('nodes'))
      .then(
        (nodes) =>
          candidates.filter((nodeId) => !nodes.includes(nodeId)).forEach((nodeId) => this.#dropNode(nodeId)),
        this.#options.onError,
      )
  }

  #dropNode(nodeId: string): void {
    this.#nodes.delete(nodeId)
    this.#absent.heard(nodeId)
    this.#links.drop(nodeId, this.#table.removeNode(nodeId)).catch(this.#options.onError)
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
   * A session's subscription to a group is no route: who publishes knows the group. What it had in a group
   * that it left, or that it was a member of when it ended, goes to others.
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

  /** One node does it for all, once a lease. */
  #auditGroups(): void {
    this.#auditing = setTimeout(() => {
      const isFirst = [...this.#nodes].sort()[0] === this.nodeId
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
    for (const nodeId of this.#nodes) if (nodeId !== this.nodeId) this.#links.to(nodeId).hold(topic, held)
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

  /**
   * The sessions ended, their end was not journaled by who ended them: told by who notices (R6).
   */
  async #vanished(sids: ReadonlySet<string>): Promise<void> {
    const changes = (await this.#table.filtersOf(sids)).map(({ sid, filter }): Change => ({
      type: 'session',
      sid,
      filter,
      options: undefined,
    }))
    if (changes.length > 0) await this.#journal.append(changes)
  }

  // Faults

  /**
   * Redis lost its data: register again, make the inbox again, assert all routes. One at a time; FENCED ends
   * it.
   */
  #heal(): Promise<void> {
    return this.#healing.current()
  }

  /** All that this node has to tell the others, each thing as it is when it is asked for. */
  *#everything(stale: readonly Change[]): Iterable<Change> {
    for (const route of this.#routes.all()) yield routeChange(route)
    yield* stale
    yield* this.sessions.here.changes()
    yield* this.groups.changes()
    yield { type: 'joined' } // the last word
  }

  async #rejoin(): Promise<void> {
    for (;;) {
      this.#reports.tell('amnesia', { nodeId: this.nodeId })
      try {
        await this.#membership.rejoin()
        await this.#reader.create()
        await this.#audit.join()
        const stale = await this.sessions.recovery.assertAll()
        await atMost(regroupMs, this.groups.rejoinAll()) // if Redis loses its data again, that waits for us
        await this.#journal.assertAll(this.#everything(stale))
        await this.#journal.rebuild()
        for (const { sid } of this.sessions.here) this.#receiver.ring(sid)
        this.groups.lookAll() // they are told of
        return
      } catch (reason) {
        const error = toBridgeError(reason)
        if (error.code === 'ERR_BRIDGE_AMNESIA') continue // it was lost once more meanwhile
        this.#onFenced()
        throw error
      }
    }
  }

  /** Also waits for nodes that have not asserted their routes since Redis lost data. */
  async #barrier(): Promise<void> {
    await this.#journal.barrier()
    if (this.#absent.settled === undefined) return
    await this.#absent.settled
    await this.#journal.barrier()
  }

  /**
   * A failover lost the last journal entries, also those of others: each node says when it has asserted what
   * is missing.
   */
  #onLost(): void {
    this.#absent.await([...this.#nodes].filter((nodeId) => nodeId !== this.nodeId))
    // Behind what #assertLost tells and writes down: whoever hears it goes on publishing.
    void this.#asserted
      .then(() => this.#journal.append([{ type: 'lost' }, { type: 'joined' }]))
      .catch(this.#options.onError)
  }

  /**
   * A partition has no place of us: Redis lost data, all of it or this partition's, which heals it, or we
   * were declared dead.
   */
  async #checkFence(): Promise<void> {
    const { generation } = this.#membership
    if (this.#healing.isUnderWay) return this.#healing.current() // it registers us there, too
    await this.#journal.barrier()
    // the refusal is older than that
    if (!generation.equals(this.#membership.generation) || (await this.#audit.takePlaces())) return
    this.#onFenced()
    throw new BridgeError('ERR_BRIDGE_FENCED', `${this.nodeId} was declared dead`)
  }

  #onFenced(): void {
    if (this.isFenced || this.#closed) return
    this.isFenced = true
    this.#batches.close()
    this.#reports.tell('fenced', { nodeId: this.nodeId })
    this.#receiver.onFenced()
  }

  /** Leaves the cluster: the others drop our routes at once. */
  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#grace)
    clearTimeout(this.#auditing)
    this.#unwatch?.()
    for (const part of [
      this.sessions,
      this.#audit,
      this.#absent,
      this.#batches,
      this.#queues,
      this.groups,
      this.#sessionWriter,
    ])
      part.close()
    await this.#reader.close()
    await this.#membership.close()
    this.#links.close()
    await this.#journal.close()
    for (const connection of Object.values(this.#connections) as Redis[]) connection.disconnect()
  }
}

const routeChange = ({ filter, kind }: RouteChange): Change => ({ type: 'route', filter, kind })
