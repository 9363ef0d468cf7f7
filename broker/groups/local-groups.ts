// The members of groups (Shared Subscriptions) that are connected to this node, and which of them gets a message that
// came here. State: this process.
import { hashIndex, hashedOf, type GroupRules, type Message } from '../../bridge/index.ts'
import type { SubscriptionOptions } from '../routing/local-table.ts'

/** A connection, as a group knows it. */
export interface GroupSubscriber {
  /** Messages that it can take at once; less than 1: as many wait for it beyond its window. */
  readonly groupRoom: number
  /** It acknowledges nothing more, though its socket may be open for a while. */
  readonly isEnding: boolean
}

interface Member<Subscriber> {
  readonly subscriber: Subscriber
  readonly options: SubscriptionOptions
}

interface LocalGroup<Subscriber> {
  members: Member<Subscriber>[]
  turn: number
}

export class LocalGroups<Subscriber extends GroupSubscriber> {
  readonly #rules: GroupRules
  readonly #groups = new Map<string, LocalGroup<Subscriber>>()

  constructor(rules: GroupRules) {
    this.#rules = rules
  }

  /** Members here, of all groups. */
  get size(): number {
    let size = 0
    for (const { members } of this.#groups.values()) size += members.length
    return size
  }

  get(name: string, subscriber: Subscriber): SubscriptionOptions | undefined {
    return this.#groups.get(name)?.members.find((member) => member.subscriber === subscriber)?.options
  }

  /** Adds a member, or changes its options. True: it is new. */
  set(name: string, subscriber: Subscriber, options: SubscriptionOptions): boolean {
    const group = this.#groups.get(name) ?? { members: [], turn: 0 }
    this.#groups.set(name, group)
    const at = group.members.findIndex((member) => member.subscriber === subscriber)
    if (at < 0) group.members.push({ subscriber, options })
    else group.members[at] = { subscriber, options }
    return at < 0
  }

  /** False: it was none. */
  delete(name: string, subscriber: Subscriber): boolean {
    const group = this.#groups.get(name)
    const at = group?.members.findIndex((member) => member.subscriber === subscriber) ?? -1
    if (group === undefined || at < 0) return false
    group.members.splice(at, 1)
    if (group.members.length === 0) this.#groups.delete(name)
    return true
  }

  /** Who gets a message; undefined: nobody is here any more. O(members here). */
  pick(name: string, message: Message): Member<Subscriber> | undefined {
    const group = this.#groups.get(name)
    if (group === undefined) return undefined
    const members = served(group.members)
    if (members.length === 0) return undefined
    const { strategy } = this.#rules.of(name)
    const hashed = hashedOf(strategy, message)
    if (hashed !== undefined) return members[hashIndex(hashed, members.length)]
    if (strategy === 'sticky') group.turn = 0
    else if (strategy === 'random') group.turn = Math.floor(Math.random() * members.length)
    else group.turn = (group.turn + 1) % members.length
    const pick = strategy === 'demand' || strategy === 'local-first' ? freest : nextWithRoom
    group.turn = pick(members, group.turn)
    return members[group.turn]
  }
}

/** Those that are not over: one that was told to go stays a member until its socket is closed. */
function served<Subscriber extends GroupSubscriber>(
  members: readonly Member<Subscriber>[],
): readonly Member<Subscriber>[] {
  const isOver = ({ subscriber }: Member<Subscriber>): boolean => subscriber.isEnding
  return members.some(isOver) ? members.filter((member) => !isOver(member)) : members
}

/** The next one that can take it; when none can, the next one: it waits there. */
function nextWithRoom(members: readonly Member<GroupSubscriber>[], turn: number): number {
  for (let i = 0; i < members.length; i++) {
    const at = (turn + i) % members.length
    if (members[at]!.subscriber.groupRoom >= 1) return at
  }
  return turn
}

/** Of those that are alike the next one. */
function freest(members: readonly Member<GroupSubscriber>[], turn: number): number {
  let [best, room] = [turn, members[turn]!.subscriber.groupRoom]
  for (let i = 1; i < members.length; i++) {
    const at = (turn + i) % members.length
    const { groupRoom } = members[at]!.subscriber
    if (groupRoom > room) [best, room] = [at, groupRoom]
  }
  return best
}
