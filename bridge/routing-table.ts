// Who gets what: the routes of the whole cluster as this node knows them from the journal. State: this process; every
// node's table is the same function of the journal. A route says that a node has live subscribers of a filter; which of
// its clients they are is that node's business (broker/delivery/local-table.ts).
import { FilterTrie } from './filter-trie.ts'

/** What a node wants of a filter's messages; bits, 0 = nothing (the route is removed). */
export const RouteKind = {
  /** Bodies of all messages: live clean-session subscribers, or QoS 0 subscriptions. */
  everything: 1,
  /** Bodies of QoS 0 publishes only: all its subscribers have queues for the rest. */
  qos0: 2,
} as const

interface Route {
  readonly filter: string
  /** nodeId → bits of RouteKind */
  readonly nodes: Map<string, number>
  version: number
}

/** The nodes that a topic's messages go to: for QoS ≥ 1 publishes and, these included, for QoS 0 publishes. */
export interface Targets {
  readonly everything: readonly string[]
  readonly qos0: readonly string[]
}

interface Cached extends Targets {
  readonly version: number
}

export class RoutingTable {
  readonly #routes = new FilterTrie<Route>()
  readonly #filtersOf = new Map<string, Map<string, number>>()
  /** Per array that the trie returned for a topic (the same array while no filter of the topic comes or goes). */
  #cache = new WeakMap<readonly Route[], Cached>()

  /** Applies one change; applying it again changes nothing. */
  set(nodeId: string, filter: string, kind: number): void {
    const filters = this.#filtersOf.get(nodeId) ?? new Map<string, number>()
    if ((filters.get(filter) ?? 0) === kind) return
    let route = this.#routes.get(filter)
    if (kind === 0) {
      filters.delete(filter)
      if (filters.size === 0) this.#filtersOf.delete(nodeId)
      if (route === undefined) return
      route.nodes.delete(nodeId)
      route.version++
      if (route.nodes.size === 0) this.#routes.delete(filter)
      return
    }
    this.#filtersOf.set(nodeId, filters.set(filter, kind))
    if (route === undefined) {
      route = { filter, nodes: new Map(), version: 0 }
      this.#routes.add(filter, route)
    }
    route.nodes.set(nodeId, kind)
    route.version++
  }

  /** Drops every route of a node that is gone. O(its routes). */
  removeNode(nodeId: string): void {
    for (const filter of [...(this.#filtersOf.get(nodeId)?.keys() ?? [])]) this.set(nodeId, filter, 0)
  }

  /** Replaces everything at once: after a gap in the journal. */
  replace(routes: Iterable<{ readonly nodeId: string; readonly filter: string; readonly kind: number }>): void {
    const next = new Map<string, Map<string, number>>()
    for (const { nodeId, filter, kind } of routes) next.set(nodeId, (next.get(nodeId) ?? new Map<string, number>()).set(filter, kind))
    for (const [nodeId, filters] of [...this.#filtersOf]) {
      for (const filter of [...filters.keys()]) if (next.get(nodeId)?.has(filter) !== true) this.set(nodeId, filter, 0)
    }
    for (const [nodeId, filters] of next) for (const [filter, kind] of filters) this.set(nodeId, filter, kind)
  }

  get nodes(): string[] {
    return [...this.#filtersOf.keys()]
  }

  get size(): number {
    let size = 0
    for (const filters of this.#filtersOf.values()) size += filters.size
    return size
  }

  /** The nodes for a topic. Cached: O(matching filters) when nothing changed. */
  match(topic: string): Targets {
    const routes = this.#routes.match(topic)
    let version = 0
    for (let i = 0; i < routes.length; i++) version += routes[i]!.version // versions only grow: an equal sum means no change
    const cached = this.#cache.get(routes)
    if (cached !== undefined && cached.version === version) return cached
    const kinds = new Map<string, number>()
    for (const { nodes } of routes) for (const [nodeId, kind] of nodes) kinds.set(nodeId, (kinds.get(nodeId) ?? 0) | kind)
    const targets: Cached = {
      version,
      everything: [...kinds].filter(([, kind]) => (kind & RouteKind.everything) !== 0).map(([nodeId]) => nodeId),
      qos0: [...kinds.keys()],
    }
    this.#cache.set(routes, targets)
    return targets
  }

  /** Every route, for comparing the tables of nodes. */
  *entries(): Iterable<{ nodeId: string; filter: string; kind: number }> {
    for (const [nodeId, filters] of this.#filtersOf) for (const [filter, kind] of filters) yield { nodeId, filter, kind }
  }
}
