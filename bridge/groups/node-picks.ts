// Which node gets a message of a group without a backlog: one of those whose members are connected, by how
// many it has. That node picks the member (broker/groups/local-groups.ts); of a group with a backlog
// redis/lua/group-serve.lua (`choose`) does. State: the turn of each group, in the table.
import { hashIndex } from '../redis/keys.ts'
import type { Message } from '../messages/message.ts'
import type { Group } from './group-table.ts'
import type { GroupRules } from './group-rules.ts'

export class NodePicks {
  readonly #rules: GroupRules

  constructor(rules: GroupRules) {
    this.#rules = rules
  }

  /**
   * @param own this node
   * @param without nodes that proved to have no member any more, or that take nothing any more
   * @returns undefined: there is none
   */
  nodeFor(
    group: Group,
    message: Message,
    own: string,
    without: ReadonlySet<string> = nowhere,
  ): string | undefined {
    let left = group.members
    for (const nodeId of without) left -= group.nodes.get(nodeId) ?? 0
    if (left <= 0) return undefined
    const { strategy } = this.#rules.of(group.name)
    if (strategy === 'local-first' && !without.has(own) && group.nodes.has(own)) return own
    if (strategy === 'sticky') return nodeAt(group, 0, without)
    if (strategy === 'random') return nodeAt(group, Math.floor(Math.random() * left), without)
    const hashed = hashedOf(strategy, message)
    if (hashed !== undefined) return nodeAt(group, hashIndex(hashed, left), without)
    group.turn = (group.turn + 1) % left
    return nodeAt(group, group.turn, without)
  }
}

const nowhere: ReadonlySet<string> = new Set()

/** What a strategy hashes of a message; undefined: it hashes nothing. */
export function hashedOf(strategy: string, { topic, by }: Message): string | undefined {
  return strategy === 'hash-topic' ? topic : strategy === 'hash-client' ? (by?.clientId ?? '') : undefined
}

function nodeAt({ nodes }: Group, member: number, without: ReadonlySet<string>): string | undefined {
  let before = 0
  for (const [nodeId, members] of nodes) {
    if (without.has(nodeId)) continue
    before += members
    if (member < before) return nodeId
  }
  return undefined
}
