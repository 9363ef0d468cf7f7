// Groups with a backlog on a node without Redis: what bridge/groups/groups.ts does there is done here in one process. A group is
// kept as a session that no client has (its Client Identifier begins with U+0000, which no client's can): its queue is the backlog,
// its in flight what members have at QoS 1. QoS 2 goes over to the session of a member that outlives its connection, in the turn in
// which it is given, and is completed there. State: store.ts; here the members, and who has what.
import { workOff } from '../pace/backlog.ts'
import { randomBytes } from 'node:crypto'
import type { ClusterGroups } from '../cluster.ts'
import type { Reports } from '../diagnostics.ts'
import { groupIds, type GroupHolder } from '../groups/group-holder.ts'
import { hashedOf } from '../groups/node-picks.ts'
import { isShared } from '../groups/shared-filter.ts'
import type { GroupRule, GroupRules } from '../groups/group-rules.ts'
import { unpackMessage } from '../messages/codec.ts'
import type { Message } from '../messages/message.ts'
import type { Clock } from '../pace/clock.ts'
import { hashIndex } from '../redis/keys.ts'
import type { RoutingTable } from '../routes/routing-table.ts'
import type { Served } from './state.ts'
import type { StateStore } from './state-store.ts'

/** Messages that are looked at beyond one that waits for its member or its topic. */
const aheadMax = 100
const prefix = '\0'

/** A message that left the backlog. */
interface Item {
  /** Its number in the group; under it it is in flight there. */
  readonly k: number
  readonly body: Buffer
  readonly message: Message
}

interface Given {
  readonly seq: number
  readonly qos: 0 | 1 | 2
  readonly item: Item
  /** It is in flight in the member's session, not in the group. */
  readonly isHanded: boolean
}

interface Member {
  readonly sid: string
  holder: GroupHolder | undefined
  lasting: boolean
  isLeaving: boolean
  limit: number
  seq: number
  cursor: number
  given: Map<number, Given>
}

interface Group {
  readonly name: string
  readonly gid: string
  readonly rule: GroupRule
  readonly members: Map<string, Member>
  /** What left the backlog and nobody has, in its order. */
  back: Item[]
  lastK: number
  turn: string
  sticky: string
  /** Of an ordered group: topics of which a message is in flight. */
  readonly locked: Set<string>
}

const served = (sid: string, what: Partial<Served>): Served => ({
  type: 'served',
  sid,
  n: 0,
  acknowledged: [],
  received: [],
  incoming: [],
  released: [],
  order: 0,
  given: [],
  moved: [],
  fields: [],
  ...what,
})

export class MemoryGroups implements ClusterGroups {
  readonly #store: StateStore
  readonly #table: RoutingTable
  readonly #rules: GroupRules
  readonly #clock: Clock
  readonly #reports: Reports
  readonly #enqueue: (message: Message, gids: readonly string[]) => Buffer
  readonly #groups = new Map<string, Group>()
  /** Members of groups without a backlog. */
  readonly #idle = new Map<string, Set<GroupHolder>>()
  /** Who published what waits, as long as this process lives: for hash-client. */
  readonly #hashes = new WeakMap<Buffer, string>()
  readonly counts = new Map<string, { readonly messages: number; readonly bytes: number }>()
  #ready = new Set<GroupHolder>()

  constructor(
    store: StateStore,
    table: RoutingTable,
    rules: GroupRules,
    clock: Clock,
    reports: Reports,
    enqueue: (message: Message, gids: readonly string[]) => Buffer,
  ) {
    this.#store = store
    this.#table = table
    this.#rules = rules
    this.#clock = clock
    this.#reports = reports
    this.#enqueue = enqueue
  }

  /** After a restart: nobody is connected, and what members had at QoS 1 goes to others. */
  start(): void {
    const { sessions } = this.#store.state
    for (const { sid, clientId, inFlight } of [...sessions.values()]) {
      if (!clientId.startsWith(prefix)) continue
      const group = this.#add(clientId.slice(1), sid)
      for (const [k, { body }] of [...inFlight].sort(([a], [b]) => a - b)) {
        group.lastK = Math.max(group.lastK, k)
        const item = this.#itemOf(k, body)
        if (item === undefined) this.#store.change(served(sid, { acknowledged: [k] }))
        else group.back.push(item)
      }
    }
    for (const { sid, subscriptions } of sessions.values())
      for (const name of subscriptions.keys()) {
        const group = isShared(name) ? this.#groups.get(name) : undefined
        if (group !== undefined) this.#member(group, sid).lasting = true
      }
    for (const group of [...this.#groups.values()]) if (group.members.size === 0) this.#forget(group)
  }

  #itemOf(k: number, body: Buffer | undefined): Item | undefined {
    const message = body === undefined ? undefined : unpackMessage(body, this.#clock)
    return body === undefined || message === undefined || message === 'later'
      ? undefined
      : { k, body, message }
  }

  #add(name: string, gid: string): Group {
    const group: Group = {
      name,
      gid,
      rule: this.#rules.of(name),
      members: new Map(),
      back: [],
      lastK: 0,
      turn: '',
      sticky: '',
      locked: new Set(),
    }
    this.#groups.set(name, group)
    this.#table.setSession(gid, name, 1)
    return group
  }

  #member(group: Group, sid: string): Member {
    let member = group.members.get(sid)
    if (member === undefined) {
      member = {
        sid,
        holder: undefined,
        lasting: false,
        isLeaving: false,
        limit: 0,
        seq: 0,
        cursor: 0,
        given: new Map(),
      }
      group.members.set(sid, member)
    }
    return member
  }

  async join(holder: GroupHolder): Promise<void> {
    const { name, lasting, qos } = holder
    let group = this.#groups.get(name)
    if (group === undefined && !(lasting && qos > 0)) {
      const idle = this.#idle.get(name) ?? new Set()
      this.#idle.set(name, idle.add(holder))
      return
    }
    if (group === undefined) {
      const gid = `0${randomBytes(9).toString('base64url')}g`
      this.#store.change({
        type: 'claimed',
        sid: gid,
        clientId: prefix + name,
        user: undefined,
        epoch: 0,
        expiry: -1,
        will: undefined,
      })
      this.#store.change({ type: 'released', sid: gid, at: Date.now() })
      group = this.#add(name, gid)
      for (const other of this.#idle.get(name) ?? []) this.#take(group, other)
      this.#idle.delete(name)
    }
    this.#take(group, holder)
    await this.#store.settled()
  }

  #take(group: Group, holder: GroupHolder): void {
    const member = this.#member(group, holder.sid)
    if (member.holder !== undefined && member.holder !== holder) this.#takeBack(group, member)
    if (member.holder !== holder) holder.resume([])
    Object.assign(member, { holder, lasting: holder.lasting, isLeaving: false })
    this.schedule(holder)
  }

  async leave(holder: GroupHolder, isLeft: boolean): Promise<void> {
    const { name, sid } = holder
    this.#idle.get(name)?.delete(holder)
    const group = this.#groups.get(name)
    const member = group?.members.get(sid)
    if (group === undefined || member?.holder !== holder) return
    if (isLeft && member.given.size > 0) Object.assign(member, { isLeaving: true, lasting: false, limit: 0 })
    else {
      this.#takeBack(group, member)
      if (!isLeft && member.lasting) Object.assign(member, { holder: undefined, limit: 0 })
      else group.members.delete(sid)
    }
    this.#look(group)
    await this.#store.settled()
  }

  /** A session ended, or its subscription did, while nobody was connected. */
  left(name: string, sid: string): void {
    const group = this.#groups.get(name)
    if (group?.members.get(sid)?.holder !== undefined || group?.members.delete(sid) !== true) return
    this.#look(group)
  }

  #look(group: Group): void {
    if ([...group.members.values()].every(({ isLeaving }) => isLeaving)) this.#forget(group)
    else this.#distribute(group)
  }

  #forget({ name, gid }: Group): void {
    this.#store.change({ type: 'ended', sid: gid })
    this.#table.setSession(gid, name, undefined)
    this.#groups.delete(name)
    this.counts.delete(name)
  }

  /** QoS 2 stays with the session that has it; with one that ends with its connection it ends. */
  #takeBack(group: Group, { given }: Member): void {
    let [back, ended] = [0, 0]
    for (const { item, qos, isHanded } of given.values()) {
      group.locked.delete(item.message.topic)
      if (isHanded) continue
      if (qos === 2) {
        ended++
        this.#store.change(served(group.gid, { acknowledged: [item.k] }))
      } else {
        back++
        group.back.push(item)
      }
    }
    given.clear()
    group.back.sort((a, b) => a.k - b.k)
    if (back > 0) this.#reports.tell('givenBack', { count: back })
    if (ended > 0) this.#reports.tell('shed', { cause: 'ended-session', count: ended })
  }

  async push(message: Message, names: readonly string[]): Promise<void> {
    const groups = names.flatMap((name) => this.#groups.get(name) ?? [])
    const body = this.#enqueue(
      message,
      groups.map(({ gid }) => gid),
    )
    this.#hashes.set(body, message.by?.clientId ?? '')
    const left = groups.values()
    workOff((slice) => {
      for (let next = left.next(); next.done !== true; next = left.next()) {
        this.#distribute(next.value)
        if (slice.isOver) return false
      }
      return true
    })
    await this.#store.settled()
  }

  schedule(holder: GroupHolder): void {
    if (this.#ready.size === 0) setImmediate(() => void this.#serve())
    this.#ready.add(holder)
  }

  /**
   * A later CONNECT takes a session over at once, and sends what is in flight in it. What the member of the connection
   * before still writes would free identifiers that the new one uses, and what it is given nobody would send.
   */
  #owns({ sid, owner, lasting }: GroupHolder): boolean {
    if (!lasting) return true
    const session = this.#store.state.sessions.get(sid)
    return session?.isOwned === true && owner.endsWith(` ${session.epoch}`)
  }

  async #serve(): Promise<void> {
    const holders = this.#ready
    this.#ready = new Set()
    const done: (() => void)[] = []
    for (const holder of holders) {
      const group = this.#groups.get(holder.name)
      const member = group?.members.get(holder.sid)
      if (group === undefined || member?.holder !== holder || !this.#owns(holder)) {
        holder.lost()
        continue
      }
      const writes = holder.takeWrites()
      if (writes === undefined) continue
      this.#write(group, member, writes)
      done.push(() => holder.written(writes))
      if (member.isLeaving && member.given.size === 0) group.members.delete(member.sid)
      this.#distribute(group)
    }
    await this.#store.settled()
    for (const one of done) one()
  }

  #write(
    group: Group,
    member: Member,
    { limit, acknowledged, received, returned }: ReturnType<GroupHolder['takeWrites']> & object,
  ): void {
    const { gid } = group
    if (!member.isLeaving) member.limit = limit
    const each = (list: readonly number[], what: (id: number, given: Given) => void): void => {
      for (let i = 0; i < list.length; i += 2) {
        const given = member.given.get(list[i]!)
        if (given?.seq === list[i + 1]) what(list[i]!, given!)
      }
    }
    const over = (id: number, { item, isHanded }: Given): void => {
      member.given.delete(id)
      group.locked.delete(item.message.topic)
      if (isHanded) this.#store.change(served(member.sid, { acknowledged: [id] }))
    }
    each(acknowledged, (id, given) => {
      over(id, given)
      if (!given.isHanded) this.#store.change(served(gid, { acknowledged: [given.item.k] }))
    })
    each(received, (id, { isHanded }) => {
      if (isHanded) this.#store.change(served(member.sid, { received: [id] }))
    })
    each(returned, (id, given) => {
      over(id, given)
      const { k, body } = given.item
      if (given.isHanded) this.#store.change(served(gid, { given: [[k, body]], order: k }))
      group.back.push(given.item)
    })
    group.back.sort((a, b) => a.k - b.k)
  }

  /** The next one out of the backlog; false: there is none. */
  #pull(group: Group): boolean {
    const queue = this.#store.state.sessions.get(group.gid)?.queue
    const body = queue?.first(1)[0]
    if (body === undefined) return false
    const k = ++group.lastK
    this.#store.change(served(group.gid, { moved: [k], order: k }))
    const item = this.#itemOf(k, body)
    if (item === undefined) this.#store.change(served(group.gid, { acknowledged: [k] }))
    else group.back.push(item)
    return true
  }

  #distribute(group: Group): void {
    const { strategy, ordered } = group.rule
    const isPicky = ordered || strategy.startsWith('hash-')
    const list = [...group.members.values()]
      .filter(({ holder, isLeaving }) => holder !== undefined && !isLeaving && this.#owns(holder))
      .sort((a, b) => (a.sid < b.sid ? -1 : 1))
    const blocked = new Set<Member | string>()
    for (let at = 0; list.some((member) => roomOf(member) > 0);) {
      const isFar = at >= aheadMax
      if (at === group.back.length && ((isFar && ordered) || !this.#pull(group))) break
      const item = group.back[at]
      if (item === undefined) continue
      const { topic } = item.message
      const isLocked = ordered && (group.locked.has(topic) || blocked.has(topic))
      const member = isLocked ? undefined : this.#choose(group, list, item, blocked, isFar)
      if (member === undefined) {
        if (!isPicky) break
        if (ordered) blocked.add(topic)
        at++
        continue
      }
      group.back.splice(at, 1)
      this.#give(group, member, item)
    }
    const { queue } = this.#store.state.sessions.get(group.gid) ?? {}
    const bytes = group.back.reduce((sum, { body }) => sum + body.length, queue?.bytes ?? 0)
    this.counts.set(group.name, { messages: group.back.length + (queue?.length ?? 0), bytes })
  }

  #choose(
    group: Group,
    list: readonly Member[],
    { body, message }: Item,
    blocked: Set<Member | string>,
    isFar: boolean,
  ): Member | undefined {
    const { strategy, ordered } = group.rule
    const hashed = strategy === 'hash-client' ? (this.#hashes.get(body) ?? '') : hashedOf(strategy, message)
    if (hashed !== undefined) {
      const at = hashIndex(hashed, list.length)
      const member = list[at]!
      if (roomOf(member) > 0 && !blocked.has(member)) return member
      blocked.add(member)
      // too much waits for it: it is passed by
      return isFar && !ordered
        ? [...list.slice(at), ...list.slice(0, at)].find((one) => roomOf(one) > 0)
        : undefined
    }
    const after = list.filter(({ sid }) => sid > group.turn)
    const inTurn = [...after, ...list.filter((member) => !after.includes(member))].filter(
      (member) => roomOf(member) > 0,
    )
    if (strategy === 'round-robin') return inTurn[0]
    if (strategy === 'random') return inTurn[Math.floor(Math.random() * inTurn.length)]
    const freest = inTurn.reduce<Member | undefined>(
      (best, member) => (best === undefined || roomOf(member) > roomOf(best) ? member : best),
      undefined,
    )
    if (strategy !== 'sticky') return freest
    const stuck = list.find(({ sid }) => sid === group.sticky)
    if (stuck === undefined && freest !== undefined) group.sticky = freest.sid
    return stuck !== undefined && roomOf(stuck) > 0 ? stuck : freest
  }

  /** To be sent when it stands in the file that it is the member's. */
  #give(group: Group, member: Member, item: Item): void {
    const holder = member.holder!
    const busy = this.#store.state.sessions.get(member.sid)?.inFlight
    let id = 0
    do id = holder.base + (member.cursor++ % groupIds.block)
    while (member.given.has(id) || busy?.has(id) === true)
    const qos = Math.min(item.message.qos, holder.qos) as 0 | 1 | 2
    const isHanded = qos === 2 && member.lasting
    if (isHanded) {
      this.#store.change(served(group.gid, { acknowledged: [item.k] }))
      this.#store.change(served(member.sid, { given: [[id, item.body]], order: item.k }))
    }
    const given: Given = { seq: member.seq++, qos, item, isHanded }
    member.given.set(id, given)
    group.turn = member.sid
    if (group.rule.ordered) group.locked.add(item.message.topic)
    const give = (): void => {
      if (member.holder === holder && member.given.get(id) === given)
        holder.give({ id, seq: given.seq, qos, message: item.message })
    }
    const settled = this.#store.settled()
    if (settled === undefined) setImmediate(give)
    else void settled.then(give)
  }
}

const roomOf = ({ limit, given }: Member): number => limit - given.size
