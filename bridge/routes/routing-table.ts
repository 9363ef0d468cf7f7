// Who gets what: the routes of the whole cluster as this node knows them from the journal. State: this
// process; every node's table is the same function of the journal. A route says that a node has live
// subscribers of a filter (which of its clients they are is that node's business,
// broker/routing/local-table.ts), or that a session has a queue for it. A filter with one session and no
// node, the common case of a million devices, costs one small object.
import { GroupTable, none, type Group } from '../groups/group-table.ts'
import { isShared } from '../groups/shared-filter.ts'
import { FilterTrie } from '../matching/filter-trie.ts'
import { MatchCache, type Maker } from '../matching/match-cache.ts'
import { atOnce, type Making, type Pace } from '../matching/making.ts'
import { SessionOption } from '../sessions/session-options.ts'
import { SmallMap } from '../matching/small-map.ts'
import { filterBytes } from '../matching/topic.ts'
import { Slice, worked } from '../pace/turns.ts'

/** What a node wants of a filter's messages; bits, 0 = nothing (the route is removed). */
export const RouteKind = {
  /** Bodies of all messages: live clean-session subscribers, or QoS 0 subscriptions. */
  everything: 1,
  /** Bodies of QoS 0 publishes only: all its subscribers have queues for the rest. */
  qos0: 2,
} as const

/** What a node has live subscribers for. */
export interface Route {
  readonly nodeId: string
  readonly filter: string
  /** Bits of RouteKind; of a Shared Subscription how many members of it are connected to the node. */
  readonly kind: number
}

interface FilterRoutes {
  readonly filter: string
  /** nodeId → bits of RouteKind */
  nodes: SmallMap<string, number> | undefined
  /** sid → options (bridge/sessions/stored-subscription.ts): the only one, or all of several. */
  sid: string | undefined
  options: number
  sessions: Map<string, number> | undefined
  version: number
}

/** A session that a topic's QoS ≥ 1 messages are queued for. */
export interface SessionTarget {
  readonly sid: string
  /**
   * The highest granted QoS of its matching subscriptions, 1 or 2: a stored message is delivered at the lower
   * of this and its own, whatever becomes of the subscription.
   */
  readonly qos: number
  /** The same for its own messages: without its No Local subscriptions, 0 when all are. */
  readonly ownQos: number
}

/**
 * The nodes that a topic's messages go to: for QoS ≥ 1 publishes and, these included, for QoS 0 publishes.
 */
export interface Targets {
  readonly everything: readonly string[]
  readonly qos0: readonly string[]
  readonly sessions: readonly SessionTarget[]
  /** Of each of them one member. */
  readonly groups: readonly Group[]
}

/** Memory of a session's place in a route that it shares, at most. */
const sessionBytes = 64
/** Sessions of one route that are taken in without a look at the clock. */
const sessionsAtOnce = 64

interface MutableTarget extends SessionTarget {
  qos: number
  ownQos: number
}

/** The targets of some routes. */
class Merging implements Maker<FilterRoutes, Targets> {
  readonly value = {
    everything: [] as string[],
    qos0: [] as string[],
    sessions: [] as MutableTarget[],
    groups: none,
  }
  readonly #kinds = new Map<string, number>()
  readonly #targets = new Map<string, MutableTarget>()
  /** Sessions of the route that is being taken in. */
  #rest: Iterator<readonly [string, number]> | undefined
  readonly #node = (kind: number, nodeId: string): void => {
    const before = this.#kinds.get(nodeId)
    if (before === undefined) this.value.qos0.push(nodeId)
    if ((kind & RouteKind.everything) > ((before ?? 0) & RouteKind.everything))
      this.value.everything.push(nodeId)
    this.#kinds.set(nodeId, (before ?? 0) | kind)
  }

  take({ nodes, sid, options, sessions }: FilterRoutes, slice: Pace): boolean {
    if (this.#rest === undefined) {
      nodes?.forEach(this.#node)
      if (sid !== undefined) this.#session(sid, options)
      if (sessions === undefined) return true
      this.#rest = sessions.entries()
    }
    for (let n = 1; ; n++) {
      const next = this.#rest.next()
      if (next.done === true) break
      this.#session(next.value[0], next.value[1])
      if (n % sessionsAtOnce !== 0) continue
      worked(sessionsAtOnce)
      if (slice.isOver) return false
    }
    this.#rest = undefined
    return true
  }

  #session(sid: string, options: number): void {
    const granted = options & SessionOption.qos
    const own = (options & SessionOption.noLocal) === 0 ? granted : 0
    const target = this.#targets.get(sid)
    if (target === undefined) {
      const made = { sid, qos: granted, ownQos: own }
      this.#targets.set(sid, made)
      this.value.sessions.push(made)
      return
    }
    target.qos = Math.max(target.qos, granted)
    target.ownQos = Math.max(target.ownQos, own)
  }
}

/** Memory: the object and its arrays, and one object for each session. */
const bytesOfTargets = ({ everything, qos0, sessions }: Targets): number =>
  120 + 8 * (everything.length + qos0.length) + 48 * sessions.length

/** By which messages are queued for a session. */
export interface SessionFilter {
  readonly sid: string
  readonly filter: string
  readonly options: number
}

export class RoutingTable {
  readonly groups = new GroupTable()
  readonly #routes = new FilterTrie<FilterRoutes>()
  readonly #filtersOf = new Map<string, Map<string, number>>()
  /** Nodes that are asserting their routes anew → the filters that they have named so far. */
  readonly #reasserted = new Map<string, Set<string>>()
  #sessionCount = 0
  #filterBytes = 0
  #version = 0
  readonly #targets = new MatchCache<FilterRoutes, Targets>(
    this.#routes,
    () => this.#version,
    () => new Merging(),
    bytesOfTargets,
  )

  /** Grows with every change: while it is the same, what was matched is. */
  get version(): number {
    return this.#version
  }

  /** Applies one change; applying it again changes nothing. */
  set(nodeId: string, filter: string, kind: number): void {
    this.#reasserted.get(nodeId)?.add(filter)
    const filters = this.#filtersOf.get(nodeId) ?? new Map<string, number>()
    if ((filters.get(filter) ?? 0) === kind) return
    if (kind === 0) {
      filters.delete(filter)
      if (filters.size === 0) this.#filtersOf.delete(nodeId)
      return this.#removeRoute(nodeId, filter)
    }
    this.#filtersOf.set(nodeId, filters.set(filter, kind))
    if (isShared(filter)) return this.#setMembers(nodeId, filter, kind)
    const route = this.#route(filter)
    route.nodes ??= new SmallMap()
    route.nodes.set(nodeId, kind)
    this.#changed(route)
  }

  #setMembers(nodeId: string, filter: string, members: number): void {
    this.groups.setMembers(filter, nodeId, members)
    this.#version++
  }

  #removeRoute(nodeId: string, filter: string): void {
    if (isShared(filter)) return this.#setMembers(nodeId, filter, 0)
    const route = this.#routes.get(filter)
    if (route?.nodes === undefined) return
    route.nodes.delete(nodeId)
    if (route.nodes.size === 0) route.nodes = undefined
    this.#changed(route)
  }

  /** Whether anybody has it. */
  has(filter: string): boolean {
    return isShared(filter) ? this.groups.get(filter) !== undefined : this.#routes.get(filter) !== undefined
  }

  hasRoute(nodeId: string, filter: string): boolean {
    return this.#filtersOf.get(nodeId)?.has(filter) === true
  }

  #route(filter: string): FilterRoutes {
    let route = this.#routes.get(filter)
    if (route === undefined) {
      route = { filter, nodes: undefined, sid: undefined, options: 0, sessions: undefined, version: 0 }
      this.#routes.add(filter, route)
      this.#filterBytes += filterBytes(filter)
    }
    return route
  }

  #changed(route: FilterRoutes): void {
    this.#version++
    route.version++
    if (route.nodes !== undefined || route.sid !== undefined || route.sessions !== undefined) return
    this.#routes.delete(route.filter)
    this.#filterBytes -= filterBytes(route.filter)
  }

  /**
   * A subscription of a session that has a queue; undefined options: it is gone. Applying it again changes
   * nothing.
   */
  setSession(sid: string, filter: string, options: number | undefined): void {
    if (isShared(filter)) {
      this.groups.setBacklog(filter, sid, options !== undefined)
      this.#version++
      return
    }
    if (options === undefined) return this.#removeSession(sid, filter)
    const route = this.#route(filter)
    if (route.sessions !== undefined) {
      this.#sessionCount += route.sessions.has(sid) ? 0 : 1
      route.sessions.set(sid, options)
    } else if (route.sid === undefined || route.sid === sid) {
      this.#sessionCount += route.sid === sid ? 0 : 1
      route.sid = sid
      route.options = options
    } else {
      route.sessions = new Map([
        [route.sid, route.options],
        [sid, options],
      ])
      route.sid = undefined
      this.#sessionCount++
    }
    this.#changed(route)
  }

  #removeSession(sid: string, filter: string): void {
    const route = this.#routes.get(filter)
    if (route === undefined) return
    if (route.sid === sid) route.sid = undefined
    else if (route.sessions?.delete(sid) !== true) return
    else if (route.sessions.size === 0) route.sessions = undefined
    this.#sessionCount--
    this.#changed(route)
  }

  hasSession(sid: string, filter: string): boolean {
    if (isShared(filter)) return this.groups.get(filter)?.gid === sid
    const route = this.#routes.get(filter)
    return route?.sid === sid || route?.sessions?.has(sid) === true
  }

  /**
   * The filters by which anything is queued for these sessions. O(all routes), in slices: for sessions that
   * ended without anybody knowing of what, or that Redis lost something of.
   */
  async filtersOf(sids: ReadonlySet<string>): Promise<SessionFilter[]> {
    const found: SessionFilter[] = []
    const slice = new Slice()
    for (const { filter, sid, options, sessions } of this.#routes.values()) {
      if (sid !== undefined && sids.has(sid)) found.push({ sid, filter, options })
      if (sessions !== undefined)
        for (const one of sessions.size > sids.size ? sids : sessions.keys()) {
          const its = sids.has(one) ? sessions.get(one) : undefined
          if (its !== undefined) found.push({ sid: one, filter, options: its })
        }
      if (slice.isOver) await slice.next()
    }
    return found
  }

  /**
   * A node begins to name all its routes, in several entries perhaps: those it had stay until `endReassertion`,
   * since they may well come.
   */
  beginReassertion(nodeId: string): void {
    this.#reasserted.set(nodeId, new Set())
  }

  /** It has named all of them: what it did not name goes, in slices. Without `beginReassertion` nothing does. */
  async endReassertion(nodeId: string): Promise<void> {
    const named = this.#reasserted.get(nodeId)
    if (named === undefined) return
    const slice = new Slice()
    for (const filter of this.#filtersOf.get(nodeId)?.keys() ?? []) {
      if (slice.isOver) await slice.next()
      if (this.#reasserted.get(nodeId) !== named) return // it begins once more, or is gone
      if (!named.has(filter)) this.set(nodeId, filter, 0)
    }
    this.#reasserted.delete(nodeId)
  }

  /**
   * Drops every route of a node that is gone, in slices: until it resolves, what is matched may name the node.
   * What it names meanwhile, being back, stays. O(its routes).
   */
  async removeNode(nodeId: string): Promise<void> {
    this.#reasserted.delete(nodeId)
    const filters = this.#filtersOf.get(nodeId)
    this.#filtersOf.delete(nodeId)
    const slice = new Slice()
    for (const filter of filters?.keys() ?? []) {
      if (slice.isOver) await slice.next()
      if (!this.hasRoute(nodeId, filter)) this.#removeRoute(nodeId, filter)
    }
  }

  get nodes(): string[] {
    return [...this.#filtersOf.keys()]
  }

  /** Subscriptions of sessions with queues. */
  get sessions(): number {
    return this.#sessionCount
  }

  /** Memory that the routes take, roughly. */
  get bytes(): number {
    return this.#filterBytes + this.groups.bytes + this.#sessionCount * sessionBytes
  }

  /** Routes of nodes. */
  get size(): number {
    let size = 0
    for (const filters of this.#filtersOf.values()) size += filters.size
    return size
  }

  /** Who a topic's messages go to. */
  match(topic: string): Targets {
    return this.known(topic) ?? this.making(topic).goOn(atOnce)!
  }

  /** The same, if it is remembered. */
  known(topic: string): Targets | undefined {
    const [targets, groups] = [this.#targets.known(topic), this.groups.known(topic)]
    if (targets === undefined || groups === undefined) return undefined
    return groups.length === 0 ? targets : { ...targets, groups }
  }

  /** The same in slices: half a million routes may match, or one with a hundred thousand sessions. */
  making(topic: string): Making<Targets> {
    const [makingTargets, makingGroups] = [this.#targets.making(topic), this.groups.making(topic)]
    let targets: Targets | undefined
    return {
      goOn: (slice) => {
        targets ??= makingTargets.goOn(slice)
        const groups = targets === undefined ? undefined : makingGroups.goOn(slice)
        return groups === undefined || groups.length === 0 ? groups && targets : { ...targets!, groups }
      },
    }
  }

  /** Every route, for comparing the tables of nodes. */
  *entries(): Iterable<{ nodeId: string; filter: string; kind: number }> {
    for (const [nodeId, filters] of this.#filtersOf)
      for (const [filter, kind] of filters) yield { nodeId, filter, kind }
  }
}
