// The groups of Shared Subscriptions as this node knows them from the journal: which nodes have members that are
// connected, how many, and whether the group has a backlog. Beside the ordinary routes (routes/routing-table.ts), which
// has it follow the journal. State: this process.
import { FilterTrie } from '../matching/filter-trie.ts'
import type { Making, Pace } from '../matching/making.ts'
import { MatchCache, type Maker } from '../matching/match-cache.ts'
import { filterBytes } from '../matching/topic.ts'
import { worked } from '../pace/turns.ts'
import { sharedFilterOf } from './shared-filter.ts'

export interface Group {
  /** `$share/{ShareName}/{filter}` */
  readonly name: string
  readonly filter: string
  /** What it is called in Redis, where it has a backlog; undefined: it has none. */
  gid: string | undefined
  /** Node → members of the group that are connected to it; the nodes in their order. */
  readonly nodes: Map<string, number>
  /** All of them. */
  members: number
  /** Round-robin: where the last message went, an index among the members. */
  turn: number
}

/** Most members of a node that count: the number is sent as a byte. */
export const membersMax = 255

/** The groups of one filter. */
interface Groups {
  readonly byName: Map<string, Group>
  version: number
}

/** Of some filters all groups. */
class AllGroups implements Maker<Groups, readonly Group[]> {
  readonly value: Group[] = []
  #rest: Iterator<Group> | undefined
  /**
   * Names seen so far, for filters with many groups: a group removed and added again meanwhile would be listed
   * twice.
   */
  #names: Set<string> | undefined

  take({ byName }: Groups, slice: Pace): boolean {
    if (this.#rest === undefined) {
      this.#rest = byName.values()
      this.#names = byName.size >= groupsAtOnce ? new Set() : undefined
    }
    for (let n = 1; ; n++) {
      const next = this.#rest.next()
      if (next.done === true) break
      if (this.#names?.has(next.value.name) === true) continue
      this.#names?.add(next.value.name)
      this.value.push(next.value)
      if (n % groupsAtOnce !== 0) continue
      worked(groupsAtOnce)
      if (slice.isOver) return false
    }
    this.#rest = undefined
    return true
  }
}

/** Groups that are taken in without a look at the clock. */
const groupsAtOnce = 64
/** Bytes per entry of the match cache. */
const placeBytes = 8

export class GroupTable {
  readonly #byName = new Map<string, Group>()
  readonly #filters = new FilterTrie<Groups>()
  #version = 0
  readonly #matches = new MatchCache<Groups, readonly Group[]>(
    this.#filters,
    () => this.#version,
    () => new AllGroups(),
    ({ length }) => length * placeBytes,
  )
  bytes = 0

  get size(): number {
    return this.#byName.size
  }

  values(): Iterable<Group> {
    return this.#byName.values()
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

  /** @param isThere false: the backlog is gone, unless the group has another one by now. */
  setBacklog(name: string, gid: string, isThere: boolean): void {
    const group = this.#byName.get(name) ?? (isThere ? this.#add(name) : undefined)
    if (group === undefined) return
    if (isThere) group.gid = gid
    else if (group.gid === gid) group.gid = undefined
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
    const group: Group = { name, filter, gid: undefined, nodes: new Map(), members: 0, turn: 0 }
    this.#byName.set(name, group)
    let groups = this.#filters.get(filter)
    if (groups === undefined) this.#filters.add(filter, (groups = { byName: new Map(), version: 0 }))
    groups.byName.set(name, group)
    groups.version++
    this.#version++
    this.bytes += filterBytes(name)
    return group
  }

  #removeUnused({ name, filter, nodes, gid }: Group): void {
    if (nodes.size > 0 || gid !== undefined) return
    this.#byName.delete(name)
    const groups = this.#filters.get(filter)
    if (groups !== undefined) {
      groups.byName.delete(name)
      groups.version++
      this.#version++
      if (groups.byName.size === 0) this.#filters.delete(filter)
    }
    this.bytes -= filterBytes(name)
  }

  /** The groups that a topic's messages go to, each message to one member of each; if they are remembered. */
  known(topic: string): readonly Group[] | undefined {
    return this.#byName.size === 0 ? none : this.#matches.known(topic)
  }

  /** The same in slices. */
  making(topic: string): Making<readonly Group[]> {
    return this.#byName.size === 0 ? { goOn: () => none } : this.#matches.making(topic)
  }
}

/** No groups. */
export const none: readonly Group[] = []
