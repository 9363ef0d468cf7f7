// Groups with a backlog (ARCHITECTURE.md, Groups): what is published for them, and their members that are
// connected here. Which member gets a message is Redis' to say, in one script: there is no leader among the
// nodes that could die, and whoever appends or acknowledges is told what was given to whom, and tells their
// nodes. State: {s<n>}:groups and what a group has; here the members. Invariant: what a member is given
// reaches its holder once and in its order, whoever dies on the way: a gap, a call that came twice and a node
// that died make its node look what Redis has given it.
import { BridgeError } from '../errors.ts'
import type { Given } from '../messages/codec.ts'
import { unpackMessage, type Change, type Later } from '../messages/codec.ts'
import type { Message } from '../messages/message.ts'
import type { Clock } from '../pace/clock.ts'
import { together } from '../pace/together.ts'
import { Parts } from '../publish/parts.ts'
import { freshSid, isSid, partitionOf, type Keys } from '../redis/keys.ts'
import { nameDamage } from '../redis/damage.ts'
import { reportsOf, retrying, type Redis } from '../redis/redis.ts'
import { Arrivals } from './arrivals.ts'
import {
  GroupCalls,
  hashOf,
  PartedAppend,
  placeOfGroup,
  type CallReply,
  type GivenMessage,
  type KnownGroup,
  type NamedHash,
  type Operation,
} from './group-calls.ts'
import { groupIds, type Delivery, type GroupHolder, type GroupWrites } from './group-holder.ts'
import { hashedOf } from './node-picks.ts'
import type { GroupRules } from './group-rules.ts'

/** How long a message waits for the ones before it. */
const gapMs = 50
/** Pause between two looks for a missing group. */
const missingMs = 20

export interface GroupEvents {
  append(changes: readonly Change[]): Promise<void>
  /** Brings the table to the journal. */
  barrier(): Promise<void>
  /** The gid of a group with a backlog, as this node knows it; undefined: it has none. */
  gidOf(name: string): string | undefined
  /** Sessions that are subscribed to groups, as Redis has them. O(all sessions), in slices. */
  subscribersOf(names: ReadonlySet<string>): AsyncIterable<Subscriber>
  /** Nodes with members of it that are connected, and how many. */
  nodesOf(name: string): Iterable<readonly [nodeId: string, members: number]>
  giveTo(nodeId: string, name: string, message: Message, given: Given): void
  tellToLook(nodeId: string, name: string): void
  /** Whether it is the owner of the session after all: Redis named another one. */
  isOwner(sid: string, owner: string): Promise<boolean>
  onFenced(): Promise<void>
}

export interface GroupLimits {
  /** Messages and bytes that a backlog holds. */
  readonly queueMax: number
  readonly queueBytesMax: number
  /** How long messages wait for a group that is not there. */
  readonly waitMs: number
}

/** A session that is subscribed to a group. */
export interface Subscriber {
  readonly name: string
  readonly sid: string
  /** Granted. */
  readonly qos: number
  /** The first of its identifiers. */
  readonly base: number
}

/** Groups of one message that have a backlog. */
export interface CollectedGroups {
  add(name: string): void
  /** Resolves when it is stored for all of them. */
  push(): Promise<void>
}

interface Member {
  readonly holder: GroupHolder
  readonly arrivals: Arrivals
  /** Undefined: it has not joined, since its group has no backlog. */
  gid: string | undefined
  /** It unsubscribed, and goes on acknowledging what it has. */
  isLeaving: boolean
  /** A `join` is under way, because of SUBSCRIBE or because the group got a backlog. */
  joining: Promise<void> | undefined
  gap: NodeJS.Timeout | undefined
}

/** Of the reply to `join`. */
type Joined = [Buffer, number, number, number, ...(number | Buffer)[]]

export interface GroupCount {
  readonly messages: number
  readonly bytes: number
}

export class Groups {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #nodeId: string
  readonly #limits: GroupLimits
  readonly #clock: Clock
  readonly rules: GroupRules
  readonly #events: GroupEvents
  readonly #calls: readonly GroupCalls[]
  /** By group and sid. */
  readonly #members = new Map<string, Map<string, Member>>()
  /** Those that have joined, by gid and sid. */
  readonly #joined = new Map<string, Member>()
  /** Members with something to write, by partition. */
  readonly #ready: readonly Set<Member>[]
  /** Backlogs as the last call found them. */
  readonly counts = new Map<string, GroupCount>()
  #closed = false
  /** What this node has goes to others: whoever joined now would be a member without a node. */
  #isLeaving = false

  constructor(
    redis: Redis,
    keys: Keys,
    nodeId: string,
    limits: GroupLimits,
    clock: Clock,
    rules: GroupRules,
    events: GroupEvents,
  ) {
    this.#redis = redis
    this.#keys = keys
    this.#nodeId = nodeId
    this.#limits = limits
    this.#clock = clock
    this.rules = rules
    this.#events = events
    this.#ready = Array.from({ length: keys.partitions }, () => new Set<Member>())
    this.#calls = Array.from(
      { length: keys.partitions },
      (_, p) =>
        new GroupCalls(redis, keys, p, nodeId, limits, clock, {
          takeWrites: (max) => this.#takeWrites(p, max),
          onReply: (reply) => this.#onReply(reply),
          onFenced: () => events.onFenced(),
          known: (name) => this.#known(name),
          missing: (name, since, isFirst) => this.#missing(name, since, isFirst),
        }),
    )
  }

  #callsOf(name: string): GroupCalls {
    return this.#calls[this.#keys.partitionFor(name)]!
  }

  #known(name: string): KnownGroup {
    const told = this.#events.gidOf(name)
    const gid = this.#joinedAs(name) ?? told
    return { rule: this.rules.of(name), gid, isTold: gid === told }
  }

  /** What the group is called by its members here. */
  #joinedAs(name: string): string | undefined {
    for (const { gid } of this.#members.get(name)?.values() ?? []) if (gid !== undefined) return gid
    return undefined
  }

  // Publishing

  /** Appends a message to the backlogs of groups: resolves when it is stored for all of them. */
  async push(message: Message, names: readonly string[]): Promise<void> {
    const partitions = new Map<number, string[]>()
    for (const name of names) {
      const partition = this.#keys.partitionFor(name)
      const known = partitions.get(partition)
      if (known === undefined) partitions.set(partition, [name])
      else known.push(name)
    }
    // Those of one partition in one call: the number of a message, once noted there, says that all of them
    // have it (R7).
    await Promise.all([...partitions].map(([partition, some]) => this.#push(partition, message, some)))
  }

  #push(partition: number, message: Message, names: readonly string[]): Promise<void> {
    const groups = new Map(names.map((name) => [name, this.#hashOf(name, message)]))
    return new Promise((done, failed) => {
      this.#calls[partition]!.append({ message, groups, done, failed })
    })
  }

  #hashOf(name: string, message: Message): number {
    return hashOf(hashedOf(this.rules.of(name).strategy, message) ?? '')
  }

  /** The same for so many that they are collected in slices: nothing is appended before all are known. */
  collect(message: Message): CollectedGroups {
    const partitions = new Map<number, Parts<NamedHash>>()
    return {
      add: (name) => {
        const partition = this.#keys.partitionFor(name)
        const parts = partitions.get(partition) ?? new Parts<NamedHash>()
        partitions.set(partition, parts)
        parts.add(placeOfGroup(name), [name, this.#hashOf(name, message)])
      },
      push: async () => {
        await Promise.all(
          [...partitions].map(
            ([partition, parts]) =>
              new Promise<void>((done, failed) => {
                this.#calls[partition]!.append(new PartedAppend(message, parts, { done, failed }))
              }),
          ),
        )
      },
    }
  }

  /**
   * A group that is not there: it was forgotten, and the journal says so by now or soon; or Redis lost it, and
   * its members join again. If it is still missing after `waitMs`, the node that forgot it died before it told
   * the others.
   */
  async #missing(name: string, since: number, isFirst: boolean): Promise<boolean> {
    if (this.#closed) throw new BridgeError('ERR_BRIDGE_CLOSED', 'the bridge is closing')
    if (isFirst) this.#tellToLook(name)
    await this.#events.barrier()
    const gid = this.#events.gidOf(name)
    const isOver = performance.now() - since > this.#limits.waitMs
    if (!isOver && this.#isWanted(name)) {
      await new Promise((resolve) => setTimeout(resolve, missingMs))
      return true
    }
    if (isOver && gid !== undefined) await this.#tellForgotten(name, gid)
    return false
  }

  /** The journal has its backlog, or a member here is about to make one. */
  #isWanted(name: string): boolean {
    const members = [...(this.#members.get(name)?.values() ?? [])]
    return (
      this.#events.gidOf(name) !== undefined ||
      members.some(({ holder, isLeaving }) => !isLeaving && this.#wantsBacklog(holder))
    )
  }

  /** Nodes with members look what these were given, and join again when the group does not know them. */
  #tellToLook(name: string): void {
    this.look(name)
    for (const [nodeId] of this.#events.nodesOf(name))
      if (nodeId !== this.#nodeId) this.#events.tellToLook(nodeId, name)
  }

  #tellForgotten(name: string, gid: string): Promise<void> {
    this.counts.delete(name)
    return this.#events.append([{ type: 'session', sid: gid, filter: name, options: undefined }])
  }

  // Members

  /**
   * A member is connected here. Resolves when it gets messages of its group: of one with a backlog when it
   * stands there, and a session that outlives its connection makes one.
   * @throws BridgeError ERR_BRIDGE_QUOTA when the group is full, ERR_BRIDGE_MOVED
   */
  async join(holder: GroupHolder): Promise<void> {
    const { name, sid } = holder
    const known = this.#members.get(name) ?? new Map<string, Member>()
    this.#members.set(name, known)
    const before = known.get(sid)
    if (before?.holder === holder) {
      // it subscribes again
      before.isLeaving = false
      if (before.gid !== undefined || this.#wantsBacklog(holder)) await this.#join(before)
      return
    }
    const member: Member = {
      holder,
      arrivals: new Arrivals((delivery) => holder.give(delivery)),
      gid: undefined,
      isLeaving: false,
      joining: undefined,
      gap: undefined,
    }
    clearTimeout(before?.gap)
    before?.holder.lost() // another connection has its session by now
    known.set(sid, member)
    if (this.#wantsBacklog(holder)) await this.#join(member)
  }

  #wantsBacklog({ name, lasting, qos }: GroupHolder): boolean {
    return (lasting && qos > 0) || this.#events.gidOf(name) !== undefined
  }

  /** The group has no backlog any more: members here that stand in that one make another. */
  onForgotten(name: string, gid: string): void {
    this.counts.delete(name)
    for (const member of this.#members.get(name)?.values() ?? [])
      if (member.gid === gid) this.#lookAgain(member)
  }

  /** The group has a backlog: members that have not joined do so. */
  onBacklog(name: string): void {
    for (const member of this.#members.get(name)?.values() ?? [])
      if (member.gid === undefined) this.#join(member).catch(() => undefined) // it is the session's end, or ours
  }

  #join(member: Member): Promise<void> {
    member.joining ??= this.#joinNow(member).finally(() => {
      member.joining = undefined
    })
    return member.joining
  }

  async #joinNow(member: Member): Promise<void> {
    const { holder } = member
    const [bytes, journaled] = await this.#look(member, false)
    const gid = bytes.toString()
    if (journaled === 1 && this.#events.gidOf(holder.name) !== gid) await this.#events.barrier()
    if (journaled === 1 && this.#events.gidOf(holder.name) === gid) return
    await this.#events.append([{ type: 'session', sid: gid, filter: holder.name, options: 1 }])
    if (journaled === 0) await this.#look(member, true)
  }

  /** Joins, or joins again, which changes nothing: told is all that the member has. */
  async #look(member: Member, journaled: boolean, none = ''): Promise<Joined> {
    const { holder, arrivals } = member
    const { name, sid, owner, base, qos, lasting } = holder
    if (this.#isLeaving) throw new BridgeError('ERR_BRIDGE_CLOSED', 'the node leaves')
    const reply = await this.#operate(name, [
      'join',
      name,
      freshGid(this.#keys.partitionFor(name)),
      sid,
      owner,
      base,
      groupIds.block,
      qos,
      lasting ? 1 : 0,
      journaled ? 1 : 0,
      member.gid === undefined ? 0 : holder.limit,
      member.gid === undefined ? -1 : arrivals.next,
      none,
    ])
    if (Buffer.isBuffer(reply)) return this.#refused(member, journaled, reply.toString(), none)
    const [gid, , next, , ...entries] = reply as Joined
    const all = this.#entries(sid, entries)
    if (member.gid === gid.toString()) arrivals.look(all, next)
    else {
      arrivals.begin(next)
      this.#setGid(member, gid.toString())
      holder.resume(all.sort((a, b) => a.seq - b.seq))
      this.schedule(holder)
    }
    return reply as Joined
  }

  /** Redis names another owner. If our claim still holds, that entry is damaged, and is replaced. */
  async #refused(member: Member, journaled: boolean, reply: string, before: string): Promise<Joined> {
    const { holder } = member
    const [, other = ''] = /^NOTOWNER (.*)$/s.exec(reply) ?? []
    if (other !== '' && other !== before && (await this.#events.isOwner(holder.sid, holder.owner)))
      return this.#look(member, journaled, other)
    const isFull = reply === 'FULL'
    this.#drop(member)
    if (!isFull) holder.lost()
    throw new BridgeError(isFull ? 'ERR_BRIDGE_QUOTA' : 'ERR_BRIDGE_MOVED', `${holder.name}: ${reply}`)
  }

  #setGid(member: Member, gid: string | undefined): void {
    const { sid } = member.holder
    if (this.#joined.get(`${member.gid} ${sid}`) === member) this.#joined.delete(`${member.gid} ${sid}`)
    member.gid = gid
    if (gid !== undefined) this.#joined.set(`${gid} ${sid}`, member)
  }

  #entries(sid: string, list: readonly (number | Buffer)[]): (Delivery & { readonly isReceived: boolean })[] {
    const found: (Delivery & { isReceived: boolean })[] = []
    for (let i = 0; i + 2 <= list.length; i += 2) {
      const [id, bytes] = [list[i] as number, list[i + 1] as Buffer]
      const [, seq, state, qos] = /^(\d{1,15}) ([sr]) ([012]) /.exec(bytes.toString('latin1', 0, 22)) ?? []
      if (qos === undefined) {
        reportsOf(this.#redis).tell('garbage', { where: 'given', bytes: bytes.length })
        continue
      }
      const head = seq!.length + 5
      found.push({
        id,
        seq: Number(seq),
        qos: Number(qos) as 0 | 1 | 2,
        isReceived: state === 'r',
        message: state === 'r' ? undefined : this.#messageOf(sid, bytes.subarray(head)),
      })
    }
    return found
  }

  /** Of what waited: order, QoS, hashes, message. */
  #messageOf(sid: string, item: Buffer): Message | Later | undefined {
    let at = 0
    for (let spaces = 0; spaces < 4; spaces++) at = item.indexOf(0x20, at) + 1
    const message = unpackMessage(item.subarray(at), this.#clock)
    if (message === undefined)
      reportsOf(this.#redis).tell('garbage', { where: 'backlog', bytes: item.length })
    if (message === 'later') reportsOf(this.#redis).tell('later', { where: 'queue', id: sid })
    return message
  }

  /**
   * The member's connection is over, or it unsubscribed. Resolves when what it had goes to others, and a group without
   * members is forgotten.
   */
  async leave(holder: GroupHolder, isLeft: boolean): Promise<void> {
    const member = this.#members.get(holder.name)?.get(holder.sid)
    if (member?.holder !== holder) return
    await member.joining?.catch(() => undefined)
    // Messages on their way here were not sent, so others may get them; of QoS 2 only the holder knows that.
    if (!isLeft && member.gid !== undefined && holder.qos === 2) {
      await holder.settled() // from now on it is given nothing
      await this.#look(member, false).catch(() => undefined) // the holder was told
      await holder.settled()
    }
    member.isLeaving = true
    if (!isLeft || member.gid === undefined) this.#drop(member)
    if (member.gid === undefined) return
    // What its client does not have goes to others with this, also what another node has told nobody, or is telling us.
    if (isLeft) member.arrivals.cut()
    await this.#leave(holder.name, holder.sid, holder.owner, isLeft, isLeft ? holder.kept : [])
    if (isLeft) this.#dropIdle(member)
  }

  /** It unsubscribed, and its client has acknowledged all that it had: there is nothing to write any more. */
  #dropIdle(member: Member): void {
    if (!member.isLeaving || member.holder.isBusy) return
    this.#drop(member)
    member.holder.lost()
  }

  /** A session ended, or its subscription did. */
  async left(name: string, sid: string): Promise<void> {
    if (this.#members.get(name)?.has(sid) === true) return // its connection says so
    await this.#leave(name, sid, '', true)
  }

  async #leave(
    name: string,
    sid: string,
    owner: string,
    isLeft: boolean,
    kept: readonly number[] = [],
  ): Promise<void> {
    const gid = String(await this.#operate(name, ['leave', name, sid, owner, isLeft ? 1 : 0, kept]))
    if (gid !== '') return this.#tellForgotten(name, gid)
    // Perhaps the first call did it and its reply was lost.
    const known = this.#events.gidOf(name)
    if (known === undefined) return
    const groups = this.#keys.partition(this.#keys.partitionFor(name), 'groups')
    const stored = await retrying(this.#redis, () => this.#redis.hget(groups, name))
    if (stored === null) await this.#tellForgotten(name, known)
  }

  #drop(member: Member): void {
    const { name, sid } = member.holder
    clearTimeout(member.gap)
    if (this.#joined.get(`${member.gid} ${sid}`) === member) this.#joined.delete(`${member.gid} ${sid}`)
    const known = this.#members.get(name)
    if (known?.get(sid) !== member) return
    known.delete(sid)
    if (known.size === 0) this.#members.delete(name)
    this.#ready[this.#keys.partitionFor(name)]!.delete(member)
  }

  #operate(name: string, packed: Operation['packed']): Promise<unknown> {
    return new Promise((done, failed) => this.#callsOf(name).run({ packed, done, failed }))
  }

  /** A member has something to write. One that is none here writes nothing any more, and must not wait for it. */
  schedule(holder: GroupHolder): void {
    const { name, sid } = holder
    const member = this.#members.get(name)?.get(sid)
    if (member === undefined) return holder.lost()
    this.#ready[this.#keys.partitionFor(name)]!.add(member)
    this.#callsOf(name).write()
  }

  #takeWrites(partition: number, max: number): Operation[] {
    const operations: Operation[] = []
    for (const member of this.#ready[partition]!) {
      if (operations.length === max) break
      this.#ready[partition]!.delete(member)
      const { holder } = member
      const writes = member.gid === undefined ? undefined : holder.takeWrites()
      if (writes === undefined) continue
      const { limit, acknowledged, received, returned } = writes
      operations.push({
        packed: ['write', holder.name, holder.sid, holder.owner, limit, acknowledged, received, returned],
        done: (result) => this.#onWritten(member, writes, result),
        failed: () => holder.lost(),
      })
    }
    return operations
  }

  #onWritten(member: Member, writes: GroupWrites, result: unknown): void {
    const { holder } = member
    if (typeof result === 'number') {
      holder.written(writes)
      return this.#dropIdle(member)
    }
    // Redis lost it, or another connection has the session.
    holder.unwritten(writes)
    if (member.isLeaving || this.#members.get(holder.name)?.get(holder.sid) !== member) return holder.lost()
    this.#join(member).then(
      () => this.schedule(holder),
      () => holder.lost(),
    )
  }

  // What is given

  #onReply({ names, again, dropped, given, counts, givenBack, ended, deserted }: CallReply): void {
    const reports = reportsOf(this.#redis)
    if (dropped > 0) reports.tell('shed', { cause: 'full-queue', count: dropped })
    if (givenBack > 0) reports.tell('givenBack', { count: givenBack })
    if (ended > 0) reports.tell('shed', { cause: 'ended-session', count: ended })
    for (const { name, messages, bytes } of counts) this.counts.set(name, { messages, bytes })
    for (const one of given) this.#hand(one)
    for (const name of again ? names : deserted) this.#tellToLook(name)
  }

  #hand({ name, gid, sid, owner, id, seq, qos, message: what }: GivenMessage): void {
    const given: Given = { gid, sid, id, seq, qos: qos as 0 | 1 | 2, owner }
    const nodeId = owner.slice(0, owner.indexOf(' '))
    if (nodeId !== this.#nodeId) {
      const message = Buffer.isBuffer(what) ? this.#messageOf(sid, what) : what
      if (message === undefined || message === 'later') this.#events.tellToLook(nodeId, name)
      else this.#events.giveTo(nodeId, name, message, given)
    } else this.#come(name, given, Buffer.isBuffer(what) ? this.#messageOf(sid, what) : what)
  }

  /** A message that another node gave to a member here. */
  onGiven(message: Message, given: Given): void {
    const member = this.#joined.get(`${given.gid} ${given.sid}`)
    if (member !== undefined) this.#come(member.holder.name, given, message)
  }

  #come(name: string, { gid, sid, owner, id, seq, qos }: Given, message: Delivery['message']): void {
    const member = this.#members.get(name)?.get(sid)
    if (member?.gid !== gid) return
    // An earlier connection's, from which it is taken back; or its record is damaged.
    if (member.holder.owner !== owner) return this.#lookAgain(member)
    member.arrivals.come({ id, seq, qos, message })
    if (member.arrivals.hasGap) member.gap ??= setTimeout(() => this.#lookForGap(member), gapMs).unref()
  }

  #lookForGap(member: Member): void {
    member.gap = undefined
    if (member.arrivals.hasGap) this.#lookAgain(member)
  }

  #lookAgain(member: Member): void {
    // the holder was told
    if (!member.isLeaving && (member.gid !== undefined || this.#wantsBacklog(member.holder)))
      this.#join(member).catch(() => undefined)
  }

  /** What its members here were given may be more than they know. */
  look(name: string): void {
    for (const member of this.#members.get(name)?.values() ?? []) this.#lookAgain(member)
  }

  /** The same of all groups: a node died that may have given something and told nobody, or Redis lost something. */
  lookAll(): void {
    for (const name of this.#members.keys()) {
      this.look(name)
    }
  }

  /**
   * After Redis lost its data: all join again, before anybody hears that this node is back; what groups are called
   * by now is told with the rest (`changes`).
   */
  async rejoinAll(): Promise<void> {
    await together(
      [...this.#members.values()].flatMap((members) => [...members.values()]),
      async (member) => {
        if (member.gid !== undefined && !member.isLeaving)
          await this.#look(member, false).catch(() => undefined)
      },
    )
  }

  /** Groups with a backlog that have members here. */
  *changes(): Generator<Change> {
    for (const name of this.#members.keys()) {
      const gid = this.#joinedAs(name)
      if (gid !== undefined) yield { type: 'session', sid: gid, filter: name, options: 1 }
    }
  }

  // Others

  /** Group, gid of all groups with a backlog of which all nodes were told. O(all). */
  async *all(): AsyncGenerator<readonly [name: string, gid: string]> {
    for (let p = 0; p < this.#keys.partitions; p++)
      for await (const [name, gid, isTold] of this.#inPartition(p)) if (isTold) yield [name, gid]
  }

  async *#inPartition(p: number): AsyncGenerator<readonly [name: string, gid: string, isTold: boolean]> {
    let cursor = '0'
    do {
      const [next, fields] = await retrying(this.#redis, () =>
        this.#redis.hscan(this.#keys.partition(p, 'groups'), cursor, 'COUNT', 500),
      )
      cursor = next
      for (let i = 0; i + 1 < fields.length; i += 2) {
        const [gid, told] = fields[i + 1]!.split(' ')
        if (isGid(gid!, p)) yield [fields[i]!, gid!, told === '1']
      }
    } while (cursor !== '0')
  }

  /**
   * The estate of a dead node: what its members had and did not acknowledge goes to others. Its own, before its fence: no
   * member joins any more.
   */
  async estate(nodeId: string): Promise<void> {
    if (nodeId === this.#nodeId) this.#isLeaving = true
    for (let p = 0; p < this.#keys.partitions; p++) {
      for await (const [name, gid] of this.#inPartition(p)) {
        const members = await retrying(this.#redis, () =>
          this.#redis.hgetall(this.#keys.group(gid, 'members')),
        )
        await together(Object.entries(members), async ([sid, record]) => {
          const owner = ownerIn(record)
          if (owner.startsWith(`${nodeId} `)) await this.#leave(name, sid, owner, false)
        })
      }
    }
  }

  /** Behind the fence of a node: it makes no call any more, and its last one need not be known. */
  async forgetCalls(nodeId: string): Promise<void> {
    for (let p = 0; p < this.#keys.partitions; p++)
      await retrying(this.#redis, () => this.#redis.hdel(this.#keys.partition(p, 'calls'), nodeId))
  }

  /**
   * Removes members whose session or subscription has ended and whose node died before it could remove them.
   * One node does it for all, now and then.
   * @param suspects what the last audit found missing: only what is missing twice goes
   */
  async audit(suspects: ReadonlySet<string>): Promise<Set<string>> {
    const missing = new Set<string>()
    const deserted = new Set<string>()
    for (let p = 0; p < this.#keys.partitions; p++)
      for await (const [name, gid] of this.#inPartition(p)) {
        const members = await retrying(this.#redis, () =>
          this.#redis.hgetall(this.#keys.group(gid, 'members')),
        )
        if (this.#tellMissing(name, Object.values(members))) continue
        if (Object.keys(members).length === 0) deserted.add(name)
        await together(Object.entries(members), async ([sid, record]) => {
          // one that ends with its connection goes with that, or with its node
          if (!/^\d 1 /.test(record) || !/^[0-9a-f]/.test(sid)) return
          const key = this.#keys.session(sid, 'subscriptions')
          if ((await retrying(this.#redis, () => this.#redis.hexists(key, name))) === 1) return
          if (suspects.has(`${gid} ${sid}`)) await this.#leave(name, sid, '', true)
          else missing.add(`${gid} ${sid}`)
        })
      }
    if (deserted.size > 0) await this.#joinAway(deserted)
    return missing
  }

  /**
   * A group without members has lost them in Redis: the last member to leave deletes its group. Sessions that
   * are subscribed to them and whose clients are away are members again, so that what waits is kept for them;
   * others join themselves. A group that has none is forgotten.
   */
  async #joinAway(deserted: Set<string>): Promise<void> {
    for await (const { name, sid, qos, base } of this.#events.subscribersOf(deserted)) {
      const owners = this.#keys.partition(partitionOf(sid), 'owners')
      if ((await retrying(this.#redis, () => this.#redis.hget(owners, sid))) !== '') continue
      const owner = `${this.#nodeId} 0` // any later one is the owner
      const gid = freshGid(this.#keys.partitionFor(name))
      await this.#operate(name, ['join', name, gid, sid, owner, base, groupIds.block, qos, 1, 0, 0, -1, ''])
      await this.#leave(name, sid, owner, false)
      if (deserted.delete(name))
        nameDamage(
          this.#redis,
          this.#keys.partition(this.#keys.partitionFor(name), 'groups'),
          'a group had lost its members while all of them were away; sessions that are subscribed to it were written down again',
        )
    }
    for (const name of deserted) await this.#leave(name, '', '', true)
  }

  /**
   * Redis lists fewer members of a node than the routes say: it lost some, or their records were damaged.
   * Their node looks after them; a group is not forgotten meanwhile.
   */
  #tellMissing(name: string, records: readonly string[]): boolean {
    const owners = records.map(ownerIn)
    const isMissing = [...this.#events.nodesOf(name)].some(
      ([nodeId, members]) => owners.filter((owner) => owner.startsWith(`${nodeId} `)).length < members,
    )
    if (isMissing) this.#tellToLook(name)
    return isMissing
  }

  close(): void {
    this.#closed = true
    for (const calls of this.#calls) calls.closed = true
    for (const members of this.#members.values()) for (const { gap } of members.values()) clearTimeout(gap)
  }
}

/** A gid that was never used before; no sid looks like one. */
const freshGid = (partition: number): string => `${freshSid(partition)}g`
const isGid = (text: string, partition: number): boolean => isSid(text, partition) && text.length === 14

const ownerIn = (record: string): string =>
  /^\d [01] [012] \d+ \d+ \d+ \d+ \d+ \d+ (.*)$/.exec(record)?.[1] ?? ''
