// What this node knows of its cluster: the nodes, their routes and the subscriptions of sessions, as the journal and
// its snapshots tell them. What a snapshot lacks of us, because a failover lost it, is told again. State: a copy of
// what stands in Redis, made anew from there at any time; after Redis lost its data the only copy of it for a while.
import { noReports, type Reports } from '../diagnostics.ts'
import type { Groups } from '../groups/groups.ts'
import { isShared } from '../groups/shared-filter.ts'
import type { Links } from '../links/links.ts'
import type { Change } from '../messages/codec.ts'
import type { DataPlaneOptions } from '../options.ts'
import { SingleFlight } from '../pace/single-flight.ts'
import { Slice } from '../pace/turns.ts'
import { nameDamage } from '../redis/damage.ts'
import { partitionOf, type Keys } from '../redis/keys.ts'
import { retrying, type Redis } from '../redis/redis.ts'
import type { Retained } from '../retained/retained.ts'
import type { Sessions } from '../sessions/sessions.ts'
import { allSubscriptions, lackingOf } from '../sessions/stored.ts'
import { journaled } from '../sessions/stored-subscription.ts'
import { AbsentNodes } from './absent-nodes.ts'
import type { Journal } from './journal.ts'
import { routeChange, type OwnRoutes } from './own-routes.ts'
import { RoutingTable, type Route, type SessionFilter } from './routing-table.ts'

/** How long routes of nodes that have not come back are kept after Redis lost its data. */
const graceLeases = 1

/** Sessions that others are asked for. */
const lackingMax = 1_000

/** The parts of the data plane that the view tells of a change, or that tell it what is this node's. */
export interface ViewParts {
  readonly nodeId: string
  readonly redis: Redis
  readonly keys: Keys
  readonly journal: Journal
  readonly routes: OwnRoutes
  readonly links: Links
  readonly retained: Retained
  readonly sessions: Sessions
  readonly groups: Groups
  /** Redis lost its data, and everything is being told again. */
  isHealing(): boolean
  /** False while this node joins: it has no clients yet. */
  isStarted(): boolean
  /** The journal says that this node is gone. */
  onFenced(): void
}

export class ClusterView {
  readonly #options: DataPlaneOptions
  readonly #reports: Reports
  readonly #parts: ViewParts
  readonly #nodes = new Set<string>()
  readonly absent = new AbsentNodes()
  #table = new RoutingTable()
  /** Sessions whose filters are asked for: all of them in one go. */
  #asked = new Set<string>()
  readonly #filtersOfAsked = new SingleFlight(async () => {
    const asked = this.#asked
    this.#asked = new Set()
    await this.#parts.journal.barrier()
    return this.#table.filtersOf(asked)
  })
  /** Nodes that were dropped while a snapshot was being taken over, which may still have their routes. */
  #dropped = new Set<string>()
  /** Sessions of which the snapshot lacks subscriptions, and how many. */
  readonly #lacking = new Map<string, number>()
  /** Settles when others have told what they know of them. */
  #whole: Promise<void> = Promise.resolve()
  #isWhole: () => void = () => undefined
  #grace: NodeJS.Timeout | undefined
  #graceEnds = 0
  /** Settles when what the last snapshot lacked of us is told and written down again. */
  #asserted: Promise<unknown> = Promise.resolve()

  constructor(options: DataPlaneOptions, parts: ViewParts) {
    this.#options = options
    this.#reports = options.reports ?? noReports
    this.#parts = parts
  }

  /** Nodes alive, this one included. */
  get nodes(): ReadonlySet<string> {
    return this.#nodes
  }

  /**
   * This node is the first, by id, of those alive: it does the chores of the whole cluster (the sweep, the audit of
   * groups).
   */
  get isFirst(): boolean {
    return [...this.#nodes].sort()[0] === this.#parts.nodeId
  }

  get table(): RoutingTable {
    return this.#table
  }

  get asserted(): Promise<unknown> {
    return this.#asserted
  }

  apply(nodeId: string, change: Change): void {
    switch (change.type) {
      case 'route':
        if (change.kind !== 0) this.#parts.links.returns(nodeId)
        this.#table.set(nodeId, change.filter, change.kind)
        break
      case 'anew':
        this.#table.beginReassertion(nodeId)
        break
      case 'joined':
        // also said by a node that has told all of its routes again, after Redis lost them
        if (!this.#nodes.has(nodeId)) this.#reports.tell('nodeJoined', { name: this.#options.name, nodeId })
        this.#nodes.add(nodeId)
        this.#parts.links.returns(nodeId)
        this.#table.endReassertion(nodeId).catch(this.#options.onError)
        this.absent.heard(nodeId)
        break
      case 'gone':
        this.#reports.tell('nodeLeft', { name: this.#options.name, nodeId: change.nodeId, by: nodeId })
        if (change.nodeId === this.#parts.nodeId) return this.#parts.onFenced()
        this.dropNode(change.nodeId)
        this.#parts.groups.lookAll() // it may have given something, and told nobody
        break
      case 'retained':
        this.#parts.retained.apply(change.topic, change.present)
        break
      case 'session':
        if (nodeId !== this.#parts.nodeId && this.#lacking.delete(change.sid) && this.#lacking.size === 0)
          this.#isWhole()
        this.#table.setSession(change.sid, change.filter, change.options)
        if (isShared(change.filter) && change.options !== undefined)
          this.#parts.groups.onBacklog(change.filter)
        else if (isShared(change.filter)) this.#parts.groups.onForgotten(change.filter, change.sid)
        break
      case 'taken':
        this.#parts.sessions.here.taken(change.sid, change.owner)
        break
      case 'wanted':
        this.#parts.sessions.here.wanted(change.sid, change.owner)
        break
      case 'missing':
        this.#parts.sessions.recovery.missing(change.sid).catch(this.#options.onError)
        if (this.#isFirstBeside(nodeId)) this.#tellOf(change.sid).catch(this.#options.onError)
        break
      case 'lost':
        if (nodeId !== this.#parts.nodeId) this.#parts.retained.loadMissing().catch(this.#options.onError)
    }
  }

  /**
   * The rest of the snapshot: retained topics, and a table with the subscriptions of all sessions. O(all of
   * them).
   */
  async readMore(): Promise<RoutingTable> {
    await this.#parts.retained.load()
    const table = new RoutingTable()
    const slice = new Slice()
    this.#lacking.clear()
    const all = allSubscriptions(this.#parts.redis, this.#parts.keys, slice)
    for await (const [sid, subscriptions, lacking] of all) {
      if (lacking > 0 && this.#lacking.size < lackingMax) this.#lacking.set(sid, lacking)
      for (const [filter, { options }] of subscriptions) {
        if (slice.isOver) await slice.next()
        const change = journaled(sid, filter, options)
        if (change.type === 'session' && !isShared(filter)) table.setSession(sid, filter, change.options)
      }
    }
    for await (const [name, gid] of this.#parts.groups.all()) table.setSession(gid, name, 1)
    return table
  }

  /**
   * The snapshot takes the place of the table. After Redis lost its data it is empty at first: the routes
   * that we knew stay until their nodes have asserted theirs, or for a lease (P10); a message for them waits
   * in its writer meanwhile.
   */
  async replace(nodes: readonly string[], routes: readonly Route[], table: RoutingTable): Promise<void> {
    const known = new Set(nodes)
    const dropped = (this.#dropped = new Set())
    const isHealing = this.#parts.isHealing()
    const missing = [...this.#nodes].filter((nodeId) => !known.has(nodeId) && nodeId !== this.#parts.nodeId)
    for (const nodeId of known) this.#nodes.add(nodeId)
    const slice = new Slice()
    for (const { nodeId, filter, kind } of routes) {
      if (slice.isOver) await slice.next()
      table.set(nodeId, filter, kind)
    }
    const kept = new Set<string>()
    for (const { nodeId, filter, kind } of missing.length > 0 || isHealing ? this.#table.entries() : []) {
      if (slice.isOver) await slice.next()
      // while healing the snapshot may have only a part of a node's routes
      if (
        !missing.includes(nodeId) &&
        !(isHealing && nodeId !== this.#parts.nodeId && !table.hasRoute(nodeId, filter))
      )
        continue
      table.set(nodeId, filter, kind)
      kept.add(nodeId)
    }
    // what Redis lost of sessions whose clients are away, and this node knows from the journal
    if (this.#lacking.size > 0)
      for (const { sid, filter, options } of await this.#table.filtersOf(new Set(this.#lacking.keys())))
        if (!table.hasSession(sid, filter)) table.setSession(sid, filter, options)
    for (const nodeId of dropped) table.removeNode(nodeId).catch(this.#options.onError)
    this.#table = table
    if (!isHealing) await this.#assertLost(routes, slice) // healing asserts everything anyway
    if (this.#parts.isStarted()) this.#parts.groups.lookAll()
    if (isHealing) this.absent.await([...new Set([...missing, ...kept])])
    if (missing.length === 0 && kept.size === 0) return
    clearTimeout(this.#grace)
    // a later snapshot, one that is not read for healing, never shortens the time of an earlier one
    const now = performance.now()
    this.#graceEnds = Math.max(this.#graceEnds, isHealing ? now + this.#options.leaseMs * graceLeases : now)
    this.#grace = setTimeout(() => {
      // Only what was kept for healing is not in a snapshot.
      const rebuilt = isHealing ? this.#parts.journal.rebuild() : Promise.resolve()
      rebuilt.then(() => this.#dropMissing(missing), this.#options.onError)
    }, this.#graceEnds - now)
    this.#grace.unref()
  }

  /** What the snapshot lacks of us, because a failover lost it, is told again. */
  async #assertLost(routes: readonly Route[], slice: Slice): Promise<void> {
    const own = new Map<string, number>()
    for (const { nodeId, filter, kind } of routes) {
      if (slice.isOver) await slice.next()
      if (nodeId === this.#parts.nodeId) own.set(filter, kind)
    }
    const lost: Change[] = []
    for (const route of this.#parts.routes.all()) {
      if (slice.isOver) await slice.next()
      if (own.get(route.filter) !== route.kind) lost.push(routeChange(route))
    }
    for (const change of this.#parts.sessions.here.changes()) {
      if (slice.isOver) await slice.next()
      if (
        change.type === 'session' &&
        change.options !== undefined &&
        !this.#table.hasSession(change.sid, change.filter)
      )
        lost.push(change)
    }
    if (lost.length > 0)
      this.#assert(
        Promise.all([
          this.#parts.journal.append(lost),
          this.#parts.sessions.recovery.assertAll().then((stale) => this.#parts.journal.append(stale)),
        ]),
      )
  }

  /** @param asserted rejects when it is not told: then nobody hears that it is (`RedisLoss.onLost`) */
  #assert(asserted: Promise<unknown>): void {
    asserted.catch(this.#options.onError)
    this.#asserted = asserted
  }

  #dropMissing(candidates: readonly string[]): void {
    this.#parts.redis
      .hkeys(this.#parts.keys.bus('nodes'))
      .then(
        (nodes) =>
          candidates.filter((nodeId) => !nodes.includes(nodeId)).forEach((nodeId) => this.dropNode(nodeId)),
        this.#options.onError,
      )
  }

  /**
   * Redis lost subscriptions of sessions whose clients are away, and the snapshot lacks them: what is published here
   * would not be queued by them. The other nodes, which have them from the journal, are asked (`missing`).
   * @returns settles when they have told; not when none of them knows
   */
  askForLacking(): Promise<void> {
    if (this.#lacking.size === 0) return Promise.resolve()
    const others = this.#nodes.size - (this.#nodes.has(this.#parts.nodeId) ? 1 : 0)
    for (const [sid, lacking] of this.#lacking)
      nameDamage(
        this.#parts.redis,
        this.#parts.keys.session(sid, 'subscriptions'),
        `it lacks ${lacking} subscriptions of a client that is away; ${others > 0 ? 'the other nodes are asked for them' : 'no other node is there to know them: nothing is queued by them until it subscribes again'}`,
      )
    if (others === 0) return Promise.resolve()
    this.#whole = new Promise((resolve) => {
      this.#isWhole = resolve
    })
    const asked = [...this.#lacking.keys()].map((sid): Change => ({ type: 'missing', sid }))
    return this.#parts.journal.append(asked).then(() => this.#whole)
  }

  /** Of the nodes that may know what that one lacks, one tells it. */
  #isFirstBeside(nodeId: string): boolean {
    if (nodeId === this.#parts.nodeId) return false
    return [...this.#nodes].filter((each) => each !== nodeId).sort()[0] === this.#parts.nodeId
  }

  /** A node lacks subscriptions of a session whose client is away: told by what this node has from the journal. */
  async #tellOf(sid: string): Promise<void> {
    const { redis, keys, journal } = this.#parts
    const isAway = async (): Promise<boolean> =>
      (await retrying(redis, () => redis.hget(keys.partition(partitionOf(sid), 'owners'), sid))) === ''
    if (!(await isAway())) return // its owner tells it, or it has none
    const known = await this.subscriptionsOf(sid)
    await journal.append(known.map(({ filter, options }) => ({ type: 'session', sid, filter, options })))
    if (await isAway()) return
    // Its client came meanwhile, and may have unsubscribed before that was told.
    const stored = await retrying(redis, () => redis.hkeys(keys.session(sid, 'subscriptions')))
    const [lost, ...counts] = await retrying(redis, () =>
      redis.hmget(keys.session(sid, 'session'), 'lost', 'changed', 'counted'),
    )
    // What Redis lost is missing there, too: that is its owner's to tell, and none of it is gone.
    if (lost != null || lackingOf(counts, stored.length) > 0) return
    const gone = known.filter(({ filter }) => !stored.includes(filter))
    await journal.append(gone.map(({ filter }) => ({ type: 'session', sid, filter, options: undefined })))
  }

  dropNode(nodeId: string): void {
    this.#dropped.add(nodeId)
    this.#nodes.delete(nodeId)
    this.absent.heard(nodeId)
    this.#parts.links.drop(nodeId, this.#table.removeNode(nodeId)).catch(this.#options.onError)
  }

  /** By which messages are queued for a session, after a barrier. O(all routes) for all who ask at once. */
  async subscriptionsOf(sid: string): Promise<readonly SessionFilter[]> {
    this.#asked.add(sid)
    return (await this.#filtersOfAsked.next()).filter((found) => found.sid === sid)
  }

  /**
   * Journals the end of sessions that nobody journaled, since the node that ended them died before (R6).
   */
  async vanished(sids: ReadonlySet<string>): Promise<void> {
    const changes = (await this.#table.filtersOf(sids)).map(({ sid, filter }): Change => ({
      type: 'session',
      sid,
      filter,
      options: undefined,
    }))
    if (changes.length > 0) await this.#parts.journal.append(changes)
  }

  close(): void {
    clearTimeout(this.#grace)
    this.absent.close()
  }
}
