// The calls of this node about the groups of one partition (lua/group-serve.lua): one at a time, numbered;
// what comes meanwhile goes with the next. While a group is missing its messages wait here, and only its name
// is sent, until Redis has the group. State: what is on its way. Invariant: messages on one topic, and
// numbered ones of one publisher, are appended in the order in which they came, to whichever groups. Bound:
// the publishers' windows, and what members may have in flight.
import { randomBytes } from 'node:crypto'
import { BridgeError, endNode, mayHaveRun, toBridgeError } from '../errors.ts'
import { packMessage } from '../messages/codec.ts'
import { identityOf, type Message } from '../messages/message.ts'
import type { Clock } from '../pace/clock.ts'
import type { Parts } from '../publish/parts.ts'
import { isSid, type Keys } from '../redis/keys.ts'
import { pack, type Packable } from '../redis/pack.ts'
import { reportsOf, retrying, type Redis } from '../redis/redis.ts'
import { runScript } from '../redis/scripts.ts'
import type { GroupRule } from './group-rules.ts'

/** What one call takes: bounds the time of the script. */
const operationsMax = 500
const messagesMax = 500
const bytesMax = 1024 * 1024
/** Groups of its messages, counted for each message. */
const groupsMax = 1_000
/** Members of a group. */
const membersMax = 1_000

/** An operation of the script, and what becomes of its reply; called once. */
export interface Operation {
  readonly packed: readonly Packable[]
  readonly done: (result: unknown) => void
  readonly failed: (error: Error) => void
}

export interface Append {
  readonly message: Message
  /** Group → what its strategy hashes of the message. */
  groups: ReadonlyMap<string, number>
  /** Of a part of a message that others follow: up to which place groups have it then (publish/parts.ts). */
  readonly upTo?: number | undefined
  readonly done: () => void
  readonly failed: (error: Error) => void
}

/** A group's name, and what its strategy hashes of the message. */
export type NamedHash = readonly [name: string, hash: number]

/** A message to so many groups of the partition that it goes in several calls, alone in each. */
export class PartedAppend {
  readonly message: Message
  readonly #parts: Parts<NamedHash>
  readonly #done: () => void
  readonly failed: (error: Error) => void
  /** Parts not stored yet, plus one until all parts are made. */
  #left = 1

  constructor(
    message: Message,
    parts: Parts<NamedHash>,
    { done, failed }: { readonly done: () => void; readonly failed: (error: Error) => void },
  ) {
    this.message = message
    this.#parts = parts
    this.#done = done
    this.failed = failed
  }

  next(): Append {
    const { items, upTo } = this.#parts.take(groupsMax)
    if (upTo !== undefined) this.#left++
    const done = (): void => {
      if (--this.#left === 0) this.#done()
    }
    return { message: this.message, groups: new Map(items), upTo, done, failed: this.failed }
  }
}

/** Where a group stands among those of a message that comes in parts. */
export const placeOfGroup = (name: string): number => hashOf(name) >>> 20

/** What a call says of a group, as this node knows it. */
export interface KnownGroup {
  readonly rule: GroupRule
  readonly gid: string | undefined
  /** All nodes know it. */
  readonly isTold: boolean
}

/** One message that a member was given; `message`: one of the call's own, or what waited. */
export interface GivenMessage {
  readonly name: string
  readonly gid: string
  readonly sid: string
  readonly owner: string
  readonly id: number
  readonly seq: number
  readonly qos: number
  readonly message: Message | Buffer
}

export interface CallReply {
  readonly names: readonly string[]
  /** It came before: what was given then, and told to nobody, is to be looked for. */
  readonly again: boolean
  readonly dropped: number
  readonly more: boolean
  readonly given: readonly GivenMessage[]
  readonly counts: readonly { readonly name: string; readonly messages: number; readonly bytes: number }[]
  readonly givenBack: number
  readonly ended: number
  /** Groups that have no member in Redis, which lost them. */
  readonly deserted: readonly string[]
}

export interface CallEvents {
  /** What members have to write, as operations; called when a call is made. */
  takeWrites(max: number): Operation[]
  onReply(reply: CallReply): void
  onFenced(): Promise<void>
  known(name: string): KnownGroup
  /**
   * A group is not there, and messages for it are held since `since`: true when it is to be asked for again, false when
   * there is no such group any more.
   */
  missing(name: string, since: number, isFirst: boolean): Promise<boolean>
}

interface Call {
  operations: readonly Operation[]
  appends: readonly Append[]
}

type Reply = [number, number, number, unknown[], unknown[], unknown[], number, number, number[]]

const nameOf = ({ packed }: Operation): string => packed[1] as string

export class GroupCalls {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #partition: number
  readonly #nodeId: string
  readonly #limits: { readonly queueMax: number; readonly queueBytesMax: number }
  readonly #clock: Clock
  readonly #events: CallEvents
  #operations: Operation[] = []
  #appends: (Append | PartedAppend)[] = []
  /** Missing groups, each with one running query. */
  readonly #missing = new Set<string>()
  /** Messages for them, in their order, and behind them those on the same topics and numbered ones of the same publishers. */
  #held: (Append | PartedAppend)[] = []
  /** Topics of messages that are held. */
  #heldTopics = new Set<string>()
  /** Publishers of numbered messages that are held. */
  #heldPublishers = new Set<string>()
  #touched = new Set<string>()
  #hasWrites = false
  #last = 0
  /** Signs the numbers: those of another writer, or damaged ones, are not taken for ours. */
  readonly #writer = randomBytes(6).toString('hex')
  #running = false
  #scheduled = false
  closed = false

  constructor(
    redis: Redis,
    keys: Keys,
    partition: number,
    nodeId: string,
    limits: { readonly queueMax: number; readonly queueBytesMax: number },
    clock: Clock,
    events: CallEvents,
  ) {
    this.#redis = redis
    this.#keys = keys
    this.#partition = partition
    this.#nodeId = nodeId
    this.#limits = limits
    this.#clock = clock
    this.#events = events
  }

  run(operation: Operation): void {
    this.#operations.push(operation)
    this.#schedule()
  }

  append(append: Append | PartedAppend): void {
    if (this.#mustWait(append)) return this.#hold(append)
    this.#appends.push(append)
    this.#schedule()
  }

  #mustWait(append: Append | PartedAppend): boolean {
    if (this.#missing.size === 0 && this.#held.length === 0) return false
    if (this.#heldTopics.has(append.message.topic) || this.#heldPublishers.has(publisherOf(append)))
      return true
    if (append instanceof PartedAppend) return false // its parts may have to
    for (const name of append.groups.keys()) if (this.#missing.has(name)) return true
    return false
  }

  #hold(append: Append | PartedAppend): void {
    this.#held.push(append)
    this.#heldTopics.add(append.message.topic)
    const publisher = publisherOf(append)
    if (publisher !== '') this.#heldPublishers.add(publisher)
  }

  /** Those of a call that were appended nowhere, then those that were to go with the next one and must wait, too. */
  #holdAll(appends: readonly Append[], missing: readonly string[]): void {
    const found = missing.filter((name) => !this.#missing.has(name))
    for (const name of found) this.#missing.add(name)
    for (const append of appends) this.#hold(append)
    const next = this.#appends
    this.#appends = []
    for (const append of next)
      if (this.#mustWait(append)) this.#hold(append)
      else this.#appends.push(append)
    for (const name of found) void this.#await(name)
    if (found.length === 0) this.#letGo()
  }

  /** Until the group is there, or is none any more. */
  async #await(name: string): Promise<void> {
    const since = performance.now()
    let failure: BridgeError | undefined
    try {
      for (let isFirst = true; await this.#events.missing(name, since, isFirst); isFirst = false)
        if (await this.#isThere(name)) return
      for (const append of this.#held)
        if (!(append instanceof PartedAppend) && append.groups.has(name))
          append.groups = new Map([...append.groups].filter(([group]) => group !== name))
    } catch (reason) {
      failure = toBridgeError(reason)
    } finally {
      this.#missing.delete(name)
      this.#letGo(failure)
    }
  }

  /** Appends nothing to it. */
  async #isThere(name: string): Promise<boolean> {
    const members = await new Promise((done, failed) => {
      this.run({ packed: ['append', name, []], done, failed })
    })
    return typeof members === 'number'
  }

  /** What waits for nothing any more goes with the next call, ahead of what came later; when there is no next one it fails. */
  #letGo(failure?: BridgeError): void {
    const held = this.#held
    this.#held = []
    this.#heldTopics = new Set()
    this.#heldPublishers = new Set()
    const free: (Append | PartedAppend)[] = []
    for (const append of held)
      if (failure !== undefined) append.failed(failure)
      else if (this.#mustWait(append)) this.#hold(append)
      else if (!(append instanceof PartedAppend) && append.groups.size === 0) append.done()
      else free.push(append)
    this.#appends.unshift(...free)
    this.#schedule()
  }

  /** What waits in a group is given to who has room. */
  touch(name: string): void {
    this.#touched.add(name)
    this.#schedule()
  }

  /** Some member has something to write. */
  write(): void {
    this.#hasWrites = true
    this.#schedule()
  }

  #schedule(): void {
    if (this.#running || this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      void this.#run()
    })
  }

  async #run(): Promise<void> {
    if (this.#running) return
    this.#running = true
    try {
      for (let call = this.#next(); call !== undefined; call = this.#next()) await this.#make(call)
    } catch (error) {
      endNode(error, reportsOf(this.#redis)) // a bug: no call of this partition would be made any more
    }
    this.#running = false
  }

  async #make(call: Call): Promise<void> {
    try {
      await this.#call(call)
    } catch (reason) {
      const error = toBridgeError(reason)
      for (const { failed } of call.operations) failed(error)
      for (const append of call.appends) append.failed(error)
    }
  }

  #takeOperations(): Operation[] {
    const operations = this.#operations.splice(0, operationsMax)
    if (this.#hasWrites && operations.length < operationsMax) {
      const writes = this.#events.takeWrites(operationsMax - operations.length)
      if (writes.length < operationsMax - operations.length) this.#hasWrites = false
      operations.push(...writes)
    }
    for (const name of this.#touched)
      operations.push({ packed: ['touch', name], done: nothing, failed: nothing })
    this.#touched.clear()
    return operations
  }

  #next(): Call | undefined {
    const operations = this.#takeOperations()
    const appends = this.#takeAppends()
    return operations.length + appends.length === 0 ? undefined : { operations, appends }
  }

  #takeAppends(): Append[] {
    const appends: Append[] = []
    let [bytes, groups] = [0, 0]
    for (const append of this.#appends) {
      if (append instanceof PartedAppend) break
      bytes += append.message.bytes
      groups += append.groups.size
      if (appends.push(append) === messagesMax || bytes >= bytesMax || groups >= groupsMax) break
    }
    const first = this.#appends[0]
    if (!(first instanceof PartedAppend)) {
      this.#appends.splice(0, appends.length)
      return appends
    }
    const part = first.next()
    if (part.upTo === undefined) this.#appends.shift()
    return [part]
  }

  /**
   * Until it is stored. The number is the same in each attempt, so that a second one appends nothing. While Redis is
   * full, and refuses all of it, what frees memory need not wait for what takes it: operations go ahead, also those
   * that come meanwhile, and the messages follow under the next number. Two things must be known before that:
   * - whether the operations went: those whose reply was lost go again alone, since messages under their number would
   *   be taken for stored;
   * - whether the messages did, when an earlier attempt had no answer: operations that go ahead are called by another
   *   name, which Redis refuses after that attempt. Then the call is told again, which appends nothing, so that it
   *   may be when Redis is full.
   */
  async #call(call: Call): Promise<void> {
    this.#last++
    let isRefused = false
    let isUnknown = false
    let isStored = false
    const ahead = async (): Promise<void> => {
      const { operations } = call
      try {
        await this.#attempt({ operations, appends: [] }, `${this.#last}-${this.#writer}-ahead`)
      } catch (reason) {
        const { code, details } = toBridgeError(reason)
        isStored = isUnknown && code === 'ERR_BRIDGE_ORDER' && details.lastBatch === this.#last
        if (!isStored) throw reason
        return
      }
      this.#last++
      isUnknown = false
      call.operations = []
    }
    await retrying(
      this.#redis,
      async () => {
        if (this.closed) throw new BridgeError('ERR_BRIDGE_CLOSED', 'the bridge is closing')
        if (isRefused && call.operations.length === 0) call.operations = this.#takeOperations()
        if (isRefused && !isStored && call.operations.length > 0) await ahead()
        try {
          await this.#attempt(call, `${this.#last}-${this.#writer}`, isStored)
        } catch (reason) {
          const error = toBridgeError(reason)
          // otherwise they may be stored by now, under this number
          isRefused = call.appends.length > 0 && error.code === 'ERR_BRIDGE_REDIS_FULL'
          isUnknown ||= mayHaveRun(error)
          throw reason
        }
      },
      { mend: (error) => this.#mend(error) },
    )
  }

  async #mend(error: BridgeError): Promise<boolean> {
    if (error.code === 'ERR_BRIDGE_FENCED') await this.#events.onFenced()
    else if (error.code === 'ERR_BRIDGE_ORDER') this.#last = (error.details.lastBatch ?? 0) + 1
    else return false
    return true
  }

  async #attempt({ operations, appends }: Call, name: string, isStored = false): Promise<void> {
    const lists = new Map<string, number[]>()
    for (const [i, { groups }] of appends.entries())
      for (const [name, hash] of groups) {
        const list = lists.get(name)
        if (list === undefined) lists.set(name, [i + 1, hash])
        else list.push(i + 1, hash)
      }
    const messages = appends.flatMap(({ message }): Packable[] => [
      (message.packed ??= packMessage(message, this.#clock)),
      ...identityOf(message),
      message.qos,
      hashOf(message.topic),
    ])
    const packed = [
      ...operations.map((each) => each.packed),
      ...[...lists].map(([name, list]) => ['append', name, list, placeOfGroup(name)]),
    ]
    const names = new Set([...operations.map(nameOf), ...lists.keys()])
    const reply = (await runScript(
      this.#redis,
      'group-serve',
      (['groups', 'calls', 'appended', 'published'] as const).map((noun) =>
        this.#keys.partition(this.#partition, noun),
      ),
      [
        this.#nodeId,
        name,
        this.#keys.sessions(this.#partition),
        this.#limits.queueMax,
        this.#limits.queueBytesMax,
        Math.floor(Math.random() * 2 ** 31),
        membersMax,
        pack([messages, packed, [...names].flatMap((name) => this.#known(name))]),
        appends[0]?.upTo ?? '',
      ],
      { whenFull: appends.length === 0 || isStored, made: () => this.#made(names) },
    )) as Reply
    this.#onReply(reply, operations, appends, [...lists.keys()])
  }

  #known(name: string): Packable[] {
    const { rule, gid, isTold } = this.#events.known(name)
    return [name, rule.strategy, rule.ordered ? 1 : 0, gid === undefined ? '' : `${gid} ${isTold ? 1 : 0}`]
  }

  /** Keys that the script makes of groups: as Redis names them, and as this node knows them. */
  async #made(names: ReadonlySet<string>): Promise<string[]> {
    const entries = await this.#redis
      .hmget(this.#keys.partition(this.#partition, 'groups'), ...names)
      .catch(() => []) // it is of a wrong type itself
    const gids = [
      ...entries.map((entry) => entry?.split(' ')[0]),
      ...[...names].map((name) => this.#events.known(name).gid),
    ]
    return gids.flatMap((gid) =>
      gid === undefined || !isSid(gid, this.#partition)
        ? []
        : (['group', 'members', 'backlog', 'given'] as const).map((noun) => this.#keys.group(gid, noun)),
    )
  }

  #onReply(
    reply: Reply,
    operations: readonly Operation[],
    appends: readonly Append[],
    names: readonly string[],
  ): void {
    const [again, dropped, more, results, given, counts, givenBack, ended, indexes] = reply
    for (const [i, { done }] of operations.entries()) done(results[i])
    const members = new Map(names.map((name, i) => [name, results[operations.length + i]]))
    const held = new Set(indexes)
    this.#events.onReply({
      names: [...new Set([...operations.map(nameOf), ...names])],
      again: again === 1,
      dropped,
      more: more === 1,
      given: givenOf(given, appends),
      counts: countsOf(counts),
      givenBack,
      ended,
      deserted: names.filter((name) => members.get(name) === 0),
    })
    if (more === 1) for (const name of [...operations.map(nameOf), ...names]) this.#touched.add(name)
    const isHeld = (_: Append, i: number): boolean => held.has(i + 1)
    if (held.size > 0)
      this.#holdAll(
        appends.filter(isHeld),
        names.filter((name) => typeof members.get(name) !== 'number'),
      )
    for (const [i, append] of appends.entries()) if (!isHeld(append, i)) append.done()
  }
}

/** Of a message that is numbered; empty: it is not. */
const publisherOf = ({ message }: Append | PartedAppend): string => identityOf(message)[0]

const nothing = (): void => undefined

/** FNV-1a: for what is in one order, collisions only make longer waits. */
export function hashOf(text: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return hash >>> 0
}

const givenFields = 8

function givenOf(list: readonly unknown[], appends: readonly Append[]): GivenMessage[] {
  const given: GivenMessage[] = []
  for (let i = 0; i + givenFields <= list.length; i += givenFields) {
    const [name, gid, sid, owner, id, seq, qos, what] = list.slice(i, i + givenFields) as [
      Buffer,
      Buffer,
      Buffer,
      Buffer,
      number,
      number,
      number,
      number | Buffer,
    ]
    given.push({
      name: name.toString(),
      gid: gid.toString(),
      sid: sid.toString(),
      owner: owner.toString(),
      id,
      seq,
      qos,
      message: typeof what === 'number' ? appends[what - 1]!.message : what,
    })
  }
  return given
}

function countsOf(list: readonly unknown[]): CallReply['counts'] {
  const counts: { name: string; messages: number; bytes: number }[] = []
  for (let i = 0; i + 3 <= list.length; i += 3)
    counts.push({ name: String(list[i]), messages: Number(list[i + 1]), bytes: Number(list[i + 2]) })
  return counts
}
