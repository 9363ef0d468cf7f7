// The groups of Shared Subscriptions as this node knows them from the journal: which nodes have members that are
// connected, how many, and whether the group has a backlog. Beside the ordinary routes (routes/routing-table.ts), which
// has it follow the journal. State: this process.
import { FilterTrie } from '../matching/filter-trie.ts'
import { filterBytes } from '../matching/topic.ts'
import { sharedFilterOf } from './shared-filter.ts'

export interface Group {
  /** `$share/{ShareName}/{filter}` */
  readonly name: string
  readonly filter: string
  /** Node → members of the group that are connected to it; the nodes in their order. */
  readonly nodes: Map<string, number>
  /** All of them. */
  members: number
  /** Where the last message went: an index among the members. */
  turn: number
}

/** Members of a node that are told apart: a byte says how many there are. */
export const membersMax = 255

/** The groups of one filter. */
type Groups = Map<string, Group>

export class GroupTable {
  readonly #byName = new Map<string, Group>()
  readonly #filters = new FilterTrie<Groups>()
  bytes = 0

  get size(): number {
    return this.#byName.size
  }

  get(name: string): Group | undefined {
    return this.#byName.get(name)
  }

  /** @param members of the group on this node; 0: none */
  setMembers(name: string, nodeId: string, members: number): void {
    const group = this.#byName.get(name) ?? (members === 0 ? undefined : this.#add(name))
    if (group === undefined) return
    group.members += members - (group.nodes.get(nodeId) ?? 0)
    if (members === 0) group.nodes.delete(nodeId)
    else if (group.nodes.has(nodeId)) group.nodes.set(nodeId, members)
    else this.#insert(group, nodeId, members)
    this.#removeUnused(group)
  }

  /** In the order of their names, so that every node counts the members alike. */
  #insert({ nodes }: Group, nodeId: string, members: number): void {
    const all = [...nodes, [nodeId, members] as const].sort(([a], [b]) => (a < b ? -1 : 1))
    nodes.clear()
    for (const [each, count] of all) nodes.set(each, count)
  }

  #add(name: string): Group | undefined {
    const { filter } = sharedFilterOf(name) ?? {}
    if (filter === undefined) return undefined // damaged
    const group: Group = { name, filter, nodes: new Map(), members: 0, turn: 0 }
    this.#byName.set(name, group)
    const groups = this.#filters.get(filter)
    if (groups === undefined) this.#filters.add(filter, new Map([[name, group]]))
    else groups.set(name, group)
    this.bytes += filterBytes(name)
    return group
  }

  #removeUnused({ name, filter, nodes }: Group): void {
    if (nodes.size > 0) return
    this.#byName.delete(name)
    const groups = this.#filters.get(filter)
    groups?.delete(name)
    if (groups?.size === 0) this.#filters.delete(filter)
    this.bytes -= filterBytes(name)
  }

  /** The groups that a topic's messages go to, each message to one member of each. O(groups that match). */
  match(topic: string): readonly Group[] {
    if (this.#byName.size === 0) return none
    const found = this.#filters.match(topic)
    return found.length === 0 ? none : found.flatMap((groups) => [...groups.values()])
  }
}

const none: readonly Group[] = []
