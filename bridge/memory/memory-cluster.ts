// One node without Redis: a cluster of one. What is published is matched, handed on and queued in the turn in
// which it comes, so there is no barrier, no journal and nobody to be fenced by. A message is done when it is
// stored for everybody: at once, or when the file that keeps the state has it. State: store.ts. Bounds: those
// of the data plane (limits of queues, sessions, Retained Messages).
import type { Clock } from '../pace/clock.ts'
import type { Group } from '../groups/group-table.ts'
import type { Cluster, RetainedRead } from '../cluster.ts'
import { Requests } from '../control/requests.ts'
import { packMessage, unpackMessage } from '../messages/codec.ts'
import type { Reports } from '../diagnostics.ts'
import { noTrace, type BridgeFacts, type MessageTrace } from '../messages/message-trace.ts'
import { identityOf, isExpired, type Message } from '../messages/message.ts'
import type { Stamps, StampsRead } from '../retained/moment.ts'
import type { DataPlaneOptions, Receiver } from '../options.ts'
import { OwnRoutes } from '../routes/own-routes.ts'
import { RouteKind, RoutingTable, type Route, type Targets } from '../routes/routing-table.ts'
import { authorizedWill, withRoom } from '../sessions/session-events.ts'
import type { SessionHolder, SessionReply, SessionWrites } from '../sessions/session-writer.ts'
import type { Session } from '../sessions/session.ts'
import { TopicTrie } from '../matching/topic-trie.ts'
import { TopicWalks } from '../retained/topic-walks.ts'
import { isBacklogged, workOff } from '../pace/backlog.ts'
import { Slice } from '../pace/turns.ts'
import type { Waits } from '../pace/waits.ts'
import { GroupRules } from '../groups/group-rules.ts'
import { hasRoomOfTenant } from '../retained/tenant-room.ts'
import { MemoryInspection } from './memory-inspection.ts'
import { MemoryGroups } from './memory-groups.ts'
import { MemorySessions } from './memory-sessions.ts'
import type { StoredState } from './stored-state.ts'
import type { StateStore } from './state-store.ts'
import { DueWills } from './memory-wills.ts'

export type MemoryOptions = Pick<
  DataPlaneOptions,
  | 'name'
  | 'queueMessagesMax'
  | 'queueBytesMax'
  | 'sessionsMax'
  | 'userSessionsMax'
  | 'groupStrategies'
  | 'retainedBytesMax'
  | 'retainedMessagesMax'
  | 'retainedMessageBytesMax'
  | 'tenantRetainedMax'
  | 'tenantSessionsMax'
  | 'tenantRetainedBytesMax'
> & {
  /** Memory that the messages of all sessions take: beyond it those that wait longest, where most wait, go. */
  readonly storedBytesMax: number
}

/** Retained Messages whose topics have them already, as a part of the bound. */
const grownMax = 1.25

export class MemoryCluster implements Cluster {
  readonly nodeId: string
  readonly sessions: MemorySessions
  readonly isFenced = false
  readonly requests: Requests
  readonly inspection: MemoryInspection
  readonly #options: MemoryOptions
  readonly #receiver: Receiver
  readonly #trace: MessageTrace
  readonly #reports: Reports
  readonly #store: StateStore
  readonly #clock: Clock
  readonly #table = new RoutingTable()
  readonly #routes = new OwnRoutes(async (changes) => {
    for (const { filter, kind } of changes) this.#table.set(this.nodeId, filter, kind)
  })
  readonly #retained = new TopicTrie<true>()
  readonly #walks = new TopicWalks()
  readonly #era = { isOver: false }
  #done: (() => void)[] = []
  /**
   * Turns whose publishes are not stored yet, and since when the oldest of them waits, or the one before it
   * was stored.
   */
  #unstored = 0
  #since: number | undefined
  readonly #unwatch: () => void
  #ready = new Set<SessionHolder>()
  /** Those that may have something to give, and had no room for it. */
  readonly #withoutRoom = new Set<SessionHolder>()
  #serving = false
  readonly #wills: DueWills
  #closed = false

  /**
   * @param clock wall clock against performance.now(), as it was when the process began: what is stored says
   * in it when it expires
   */
  constructor(options: MemoryOptions, receiver: Receiver, store: StateStore, clock: Clock, waits: Waits) {
    this.nodeId = `${options.name}@${Date.now()}`
    this.#options = options
    this.requests = new Requests(this.nodeId, () => this.nodes)
    this.inspection = new MemoryInspection(
      this.nodeId,
      store.state,
      () => ({ table: this.#table, counts: this.groups.counts }),
      clock,
    )
    this.#reports = waits.reports
    this.#receiver = receiver
    this.#trace = receiver.traces ?? noTrace
    this.#store = store
    this.#clock = clock
    this.#wills = new DueWills(store, clock, waits.reports, {
      authorizeWill: (message) => authorizedWill(receiver, message),
      publishWill: (will) =>
        this.#publishWill(withRoom(will, (topic, bytes) => this.mayRetain(topic, bytes), this.#reports)),
    })
    this.sessions = new MemorySessions(store, this.#table, this.nodeId, options, clock, waits, this.#wills, {
      onMoved: (session) => receiver.taken(session),
      expireRetained: (topic) => this.#clear(topic),
      isFull: () => this.#isFull,
      onEnded: () => this.#giveRoom(),
      onLeft: (name, sid) => this.groups.left(name, sid),
    })
    this.groups = new MemoryGroups(
      store,
      this.#table,
      new GroupRules(options.groupStrategies),
      clock,
      this.#reports,
      (message, gids) => {
        const body = packMessage(message, clock)
        this.#queue(body, gids)
        return body
      },
    )
    this.#unwatch = waits.watchPublishes(() => ({
      publishers: receiver.publishers,
      wills: 0,
      since: this.#since,
    }))
  }

  /** What was kept over a restart: its receiver may be called from now on. */
  async start(): Promise<this> {
    const slice = new Slice()
    for (const [topic, { body }] of this.#store.state.retained) {
      if (slice.isOver) await slice.next()
      const message = unpackMessage(body, this.#clock)
      this.#retained.set(topic, true)
      if (message !== undefined && message !== 'later') this.sessions.retain(topic, message.expiresAt)
    }
    await this.sessions.start()
    this.groups.start()
    while (this.#dropOldest()) if (slice.isOver) await slice.next() // the bound may have been higher
    return this
  }

  get nodes(): readonly string[] {
    return [this.nodeId]
  }

  get routes(): Iterable<Route> {
    return this.#table.entries()
  }

  get retainedTenants(): readonly string[] {
    return this.#retained.tenants
  }

  get retainedTopics(): number {
    return this.#retained.size
  }

  get routingBytes(): number {
    return this.#table.bytes
  }

  /** They are in their queues in the turn in which they are handed on. */
  readonly unstored = { deliveries: 0, bytes: 0 }

  isRouted(filter: string): boolean {
    return this.#table.has(filter)
  }

  // Live subscribers

  addRoute(filter: string, kind: number): Promise<void> {
    return this.#routes.add(filter, kind)
  }

  removeRoute(filter: string, kind: number): void {
    this.#routes.remove(filter, kind)
  }

  isWanted(topic: string): boolean {
    const { qos0, groups } = this.#table.match(topic)
    return qos0.length + groups.length > 0
  }

  readonly hasGroups = true
  readonly groups: MemoryGroups

  addMember(group: string): Promise<void> {
    return this.#routes.add(group, RouteKind.everything)
  }

  removeMember(group: string): void {
    this.#routes.remove(group, RouteKind.everything)
  }

  // Messages

  publishQos0(message: Message): void {
    if (this.#table.groups.size === 0 && !this.#trace.isOn) this.#receiver.deliver(message)
    else
      this.#match(message, (targets) => {
        this.#tellMatched(message, targets.qos0, targets)
        this.#deliver(message, targets.groups)
      })
  }

  #tellMatched(message: Message, nodes: readonly string[], { sessions, groups }: Targets): void {
    if (!this.#trace.isOn) return
    const facts = { nodes, sids: sessions.map(({ sid }) => sid), groups: groups.map(({ name }) => name) }
    this.#trace.tell('matched', message, facts)
  }

  /** @param groups that have no backlog, or none for this message: in slices where there are very many */
  #deliver(message: Message, groups: readonly Group[]): void {
    this.#receiver.deliver(message)
    if (groups.length === 0) return
    const left = groups.values()
    workOff((slice) => {
      for (let next = left.next(); next.done !== true; next = left.next()) {
        void this.#receiver.deliverShared(message, next.value.name)
        if (slice.isOver) return false
      }
      return true
    })
  }

  publish(message: Message, done: () => void): void {
    if (this.#closed) return
    this.#match(message, (targets) => {
      this.#handOn(message, targets)
      this.#done.push(done)
      if (this.#done.length === 1) setImmediate(() => void this.#finish())
    })
  }

  /** In one go: it has been taken out of what is kept. */
  #publishWill(will: Message): void {
    this.#handOn(will, this.#table.match(will.topic))
  }

  /** In slices where very much matches: what comes after it waits (bridge/pace/backlog.ts). */
  #match(message: Message, handOn: (targets: Targets) => void): void {
    const known = isBacklogged() ? undefined : this.#table.known(message.topic)
    if (known !== undefined) return handOn(known)
    const making = this.#table.making(message.topic)
    workOff((slice) => {
      const targets = making.goOn(slice)
      if (targets !== undefined && !this.#closed) handOn(targets)
      return targets !== undefined
    })
  }

  /** In order, also when a later turn has less to wait for: the file is written in order. */
  async #finish(): Promise<void> {
    const done = this.#done
    this.#done = []
    this.#unstored++
    this.#since ??= performance.now()
    await this.#store.settled()
    this.#since = --this.#unstored > 0 ? performance.now() : undefined
    if (!this.#closed) for (const one of done) one()
  }

  /**
   * A QoS 2 message that was stored before is left out, whoever sends it again. Its number, the queues and the backlogs
   * of groups are written in one turn, so in one frame of the file: a kill leaves all of it or nothing (P5).
   */
  #handOn(message: Message, targets: Targets): void {
    const { everything, sessions, groups } = targets
    const { qos } = message
    const [publisher, n] = identityOf(message)
    if (n > 0) {
      const known = this.#store.state.sessions.get(publisher)
      if (known !== undefined && n <= known.published) return
      this.#store.change({ type: 'published', sid: publisher, n })
    }
    if (message.retain) this.#retain(message)
    if (everything.length + sessions.length + groups.length === 0) message.isUnmatched = true
    this.#tellMatched(message, everything, targets)
    const granted: string[][] = [[], [], []]
    if (qos > 0)
      for (const { sid, qos: highest, ownQos } of sessions)
        granted[Math.min(qos, message.by?.sid === sid ? ownQos : highest)]!.push(sid)
    for (const at of [1, 2] as const)
      if (granted[at]!.length > 0) {
        if (this.#trace.isOn) this.#trace.tell('queued', message, { sids: granted[at]! })
        this.#queue(packMessage(message.with({ qos: at }), this.#clock), granted[at]!)
      }
    const backlogs = qos === 0 ? [] : groups.filter(({ gid }) => gid !== undefined)
    if (backlogs.length > 0)
      void this.groups.push(
        message,
        backlogs.map(({ name }) => name),
      )
    this.#deliver(message, backlogs.length === 0 ? groups : groups.filter(({ gid }) => gid === undefined))
  }

  #queue(body: Buffer, sids: readonly string[]): void {
    const { queueMessagesMax, queueBytesMax } = this.#options
    this.#store.change({ type: 'queued', body, sids })
    for (const sid of sids) {
      const queue = this.#store.state.sessions.get(sid)?.queue
      if (queue === undefined) continue // it has ended
      let [count, bytes] = [0, queue.bytes]
      for (const oldest of queue.oldest()) {
        if (queue.length - count <= 1 || (queue.length - count <= queueMessagesMax && bytes <= queueBytesMax))
          break
        count++
        bytes -= oldest.length
        this.#tellDropped(oldest, sid, 'full-queue')
      }
      if (count > 0) {
        this.#store.change({ type: 'dropped', sid, count })
        this.#reports.tell('shed', { cause: 'full-queue', count })
      }
      this.#receiver.ring(sid)
    }
    this.#makeRoom()
  }

  #tellDropped(body: Buffer | undefined, sid: string, cause: BridgeFacts['cause']): void {
    const message = !this.#trace.isOn || body === undefined ? undefined : unpackMessage(body, this.#clock)
    if (message !== undefined && message !== 'later')
      this.#trace.tell('dropped', message, { sids: [sid], cause })
  }

  /** What is in flight goes when it is acknowledged: beyond the bound there may be nothing else left. */
  get #isFull(): boolean {
    return this.#store.state.held.bytes > this.#options.storedBytesMax
  }

  #makeRoom(): void {
    while (this.#dropOldest());
  }

  /** False: there is room, or nothing waits. */
  #dropOldest(): boolean {
    const fullest = this.#isFull ? this.#store.state.held.fullest() : undefined
    if (fullest === undefined) return false
    this.#tellDropped(fullest.queue.first(1)[0], fullest.sid, 'full-store')
    this.#store.change({ type: 'dropped', sid: fullest.sid, count: 1 })
    this.#reports.tell('shed', { cause: 'full-store', count: 1 })
    return true
  }

  hold(): void {
    /* there is no other node */
  }

  // Retained Messages

  #retain(message: Message): void {
    const { topic, payload } = message
    if (payload.length === 0)
      this.#clear(topic) // [MQTT-3.3.1-6]
    else {
      this.#store.change({
        type: 'retained',
        topic,
        stamp: this.#store.state.stamp + 1,
        body: packMessage(message.with({ replay: true }), this.#clock),
      })
      this.#retained.set(topic, true)
      this.sessions.retain(topic, message.expiresAt)
    }
    message.stamp = this.#store.state.stamp
  }

  #clear(topic: string): void {
    this.#store.change({ type: 'retained', topic, stamp: this.#store.state.stamp + 1, body: undefined })
    this.#retained.delete(topic)
    this.sessions.retain(topic, 0)
  }

  /**
   * Bodies count here, since they are in this process. What has its place may change beyond the bound, and
   * grow by so much together.
   */
  mayRetain(topic: string, bytes: number): boolean {
    const { retainedMessagesMax = Infinity, retainedMessageBytesMax = Infinity } = this.#options
    if (bytes > retainedMessageBytesMax) return false
    if (!hasRoomOfTenant(this.#retained, topic, this.#options)) return false
    if (this.#store.state.retained.size >= retainedMessagesMax && !this.#retained.has(topic)) return false
    const part = (this.#retained.bytes + this.#store.state.retainedBytes) / this.#options.retainedBytesMax
    return part < 1 || (part < grownMax && this.#retained.has(topic))
  }

  async stamps(): Promise<StampsRead> {
    const stamps = this.stampsOf(new Float64Array(1).fill(this.#store.state.stamp))
    return { stamps, told: Promise.resolve() }
  }

  stampsOf(of: Float64Array): Stamps {
    return { of, era: this.#era }
  }

  hasRetained(filter: string): Promise<boolean> {
    return this.#walks.has(this.#retained, filter)
  }

  async topics(filter: string): Promise<AsyncIterator<string>> {
    return this.#walks.topics(this.#retained, filter)
  }

  async retained(topics: readonly string[], bytesMax: number): Promise<RetainedRead> {
    const messages: Message[] = []
    let room = bytesMax
    for (const [i, topic] of topics.entries()) {
      const value = this.#store.state.retained.get(topic)
      if (value === undefined) continue
      if (value.body.length > room) return { messages, unread: topics.slice(i), nextBytes: value.body.length }
      room -= value.body.length
      const message = unpackMessage(value.body, this.#clock)
      if (message !== undefined && message !== 'later' && !isExpired(message))
        messages.push(message.with({ stamp: value.stamp }))
    }
    return { messages, unread: [], nextBytes: 0 }
  }

  // Sessions

  async stillOwned(session: Session): Promise<boolean> {
    return this.sessions.of(session) !== undefined
  }

  schedule(holder: SessionHolder): void {
    this.#ready.add(holder)
    if (this.#serving) return
    this.#serving = true
    setImmediate(() => void this.#serve())
  }

  /**
   * What each writes, and what is sent next when that is stored; in slices. Nobody is asked again before it
   * was answered.
   */
  async #serve(): Promise<void> {
    const slice = new Slice()
    while (this.#ready.size > 0 && !this.#closed) {
      const replies: (() => void)[] = []
      const holders = this.#ready
      this.#ready = new Set()
      for (const holder of holders) {
        if (slice.isOver) await slice.next()
        const isFull = this.#isFull
        const writes = holder.takeWrites(!isFull)
        if (isFull) this.#withoutRoom.add(holder)
        if (writes === undefined) continue
        const stored = this.sessions.of(holder.session)
        if (stored === undefined) holder.moved(writes)
        else {
          const reply = this.#write(stored, holder.session, writes)
          replies.push(() => holder.written(writes, reply))
        }
      }
      this.#makeRoom()
      await this.#store.settled()
      for (const reply of replies) reply()
      this.#giveRoom()
    }
    this.#serving = false
  }

  /** Retained Messages for sessions wait until what others have in flight is acknowledged. */
  #giveRoom(): void {
    if (this.#withoutRoom.size === 0 || this.#isFull) return
    for (const holder of this.#withoutRoom) this.schedule(holder)
    this.#withoutRoom.clear()
  }

  #write({ sid, queue }: StoredState, { n }: Session, writes: SessionWrites): SessionReply {
    const moved: number[] = []
    let room = writes.bytes
    for (const body of queue.oldest()) {
      if (room <= 0 || moved.length === writes.free.length) break
      moved.push(writes.free[moved.length]!)
      room -= body.length
    }
    const bodies = queue.first(moved.length)
    this.#store.change({
      type: 'served',
      sid,
      n,
      acknowledged: writes.acknowledged,
      received: writes.received,
      incoming: writes.incoming,
      released: writes.released,
      order: writes.order,
      given: writes.given.map(([id, message]) => [id, packMessage(message, this.#clock)]),
      moved,
      fields: writes.fields,
    })
    return { messages: bodies.map((body) => unpackMessage(body, this.#clock)), left: queue.length }
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#unwatch()
    this.requests.close()
    this.sessions.close()
    this.#wills.close()
    await this.#store.settled()
  }
}
