// The queues of sessions that outlive their connections, from the publisher's side: the messages of a batch are
// appended to the queue of every session that they match, one numbered call per partition at a time, in order. A
// message to very many sessions goes in parts (parts.ts). Then the bells of the owners ring. State: {s<n>}:queue:*,
// appended, published; here what is on its way. Invariant: what `push` resolved for is stored once, whatever happened
// to connections meanwhile. Bound: the publishers' in-flight windows.
import { randomBytes } from 'node:crypto'
import { CallPace } from '../pace/call-pace.ts'
import type { Clock } from '../pace/clock.ts'
import { packMessage, unpackMessage } from '../messages/codec.ts'
import { BridgeError } from '../errors.ts'
import { partitionOf, type Keys } from '../redis/keys.ts'
import type { MessageTrace } from '../messages/message-trace.ts'
import { identityOf, type Message } from '../messages/message.ts'
import type { Collected, Granted, Parts } from './parts.ts'
import { retrying, type Redis } from '../redis/redis.ts'
import { pack, type Packable } from '../redis/pack.ts'
import { runScript } from '../redis/scripts.ts'

/**
 * Messages, their bytes and sessions of one call: bounds the time that the script takes, and what is copied
 * for all partitions at once, 16 on a Redis Cluster.
 */
const messagesMax = 1_000
const bytesMax = 1024 * 1024
const sessionsMax = 1_000
/** A message to more sessions than this is pushed by `pushAll`. */
export const pushedAtOnce = sessionsMax
const pushesMax = 4_000

export interface QueueEvents {
  readonly trace: MessageTrace
  /** The owner of a session that got something, to be rung; the session may be on this node. */
  onOwner(nodeId: string, sid: string): void
  /**
   * A session that is matched but is not there: it ended, or Redis lost it. What was appended waits for its
   * owner to write it down again.
   */
  onMissing(sid: string): void
  /** The numbers of this node are gone, or it has no place: Redis lost data, or we were declared dead. */
  onFenced(): Promise<void>
  /** Messages that a full queue dropped. */
  onDropped(count: number): void
}

export interface QueueLimits {
  /** Most messages that a queue holds; beyond it the oldest goes. */
  readonly queueMax: number
  /** Most bytes that a queue holds; beyond it the oldest message goes. */
  readonly queueBytesMax: number
  /** How long messages wait for a session that is not there. */
  readonly waitMs: number
}

/**
 * A message at one granted QoS. The QoS is fixed when the message is queued: later subscriptions of a session do not
 * change it.
 */
interface Variant {
  readonly message: Message
  readonly qos: number
  /** The message before it is the same one, at another QoS. */
  readonly isSecond: boolean
}

/** What is to be written, for whoever waits until it is. */
abstract class Waiting {
  readonly settled: Promise<void>
  settle!: () => void
  fail!: (error: Error) => void

  constructor() {
    this.settled = new Promise((resolve, reject) => {
      this.settle = resolve
      this.fail = reject
    })
    this.settled.catch(() => undefined)
  }
}

class Batch extends Waiting {
  readonly variants: Variant[] = []
  /** sid → indexes of its variants, from 1 */
  readonly sessions = new Map<string, number[]>()
  /** Of a part that others follow: up to which place the sessions have its message. */
  upTo: number | undefined
  pushes = 0
  bytes = 0

  get isFull(): boolean {
    return (
      this.variants.length >= messagesMax ||
      this.bytes >= bytesMax ||
      this.sessions.size >= sessionsMax ||
      this.pushes >= pushesMax
    )
  }

  /**
   * All sessions of a partition that get a message with a number (those that are pushed at once) must go into one
   * call: once the partition has noted the number it refuses a second call with it.
   */
  mustTake(message: Message): boolean {
    return this.variants.at(-1)?.message === message && identityOf(message)[1] > 0
  }

  add(message: Message, sid: string, granted: number): void {
    const index = this.#variant(message, Math.min(message.qos, granted))
    const indexes = this.sessions.get(sid)
    if (indexes === undefined) this.sessions.set(sid, [index])
    else indexes.push(index)
    this.pushes++
  }

  /** Its variants are neighbours, one or two. */
  #variant(message: Message, qos: number): number {
    const { length } = this.variants
    const last = this.variants[length - 1]
    const isSecond = last?.message === message
    if (isSecond && last.qos === qos) return length
    if (isSecond && last.isSecond) return length - 1
    this.bytes += message.bytes
    return this.variants.push({ message, qos, isSecond })
  }
}

/** A message to more sessions of a partition than one call takes: a batch is made of it a part at a time. */
class Parted extends Waiting {
  readonly #message: Message
  readonly #parts: Parts<Granted>

  constructor(message: Message, parts: Parts<Granted>) {
    super()
    this.#message = message
    this.#parts = parts
  }

  next(): Batch {
    const batch = new Batch()
    const { items, upTo } = this.#parts.take(sessionsMax)
    for (const { sid, granted } of items) batch.add(this.#message, sid, granted)
    batch.upTo = upTo
    return batch
  }
}

/** What lua/queue-append.lua takes. */
export interface QueueAppend extends QueueLimits {
  readonly nodeId: string
  /** Its number and who numbers it. */
  readonly batch: string
  /** Body, publisher's sid and n of each. */
  readonly messages: readonly Packable[]
  /** sid → numbers of its messages, from 1 */
  readonly sessions: ReadonlyMap<string, readonly number[]>
  /** Of a part of a message: up to which place the sessions have it once this is stored (parts.ts). */
  readonly upTo?: number | undefined
  /** What full queues dropped is answered, too: of a call a hundred messages. */
  readonly tellsDropped?: boolean
}

/**
 * Resolves to how many a full queue dropped, the owner of each session and, when asked, behind them a sid and a body for
 * each that was dropped.
 */
export const appendToQueues = (
  redis: Redis,
  keys: Keys,
  partition: number,
  { nodeId, batch, messages, sessions, upTo, queueMax, queueBytesMax, waitMs, tellsDropped }: QueueAppend,
): Promise<[number, ...(Buffer | null)[]]> =>
  runScript(
    redis,
    'queue-append',
    (['appended', 'owners', 'published', 'due'] as const).map((noun) => keys.partition(partition, noun)),
    [
      nodeId,
      batch,
      queueMax,
      queueBytesMax,
      waitMs,
      keys.sessions(partition),
      pack([messages, [...sessions].flat()]),
      upTo ?? '',
      tellsDropped === true ? '1' : '',
    ],
    { made: () => [...sessions.keys()].map((sid) => keys.session(sid, 'queue')) },
  ) as Promise<[number, ...(Buffer | null)[]]>

/**
 * The queues of one partition: one call at a time. Meanwhile the next batch grows, under load a moment longer
 * (CallPace).
 */
class Partition {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #number: number
  readonly #nodeId: string
  readonly #limits: QueueLimits
  readonly #clock: Clock
  readonly #events: QueueEvents
  readonly #waiting: (Batch | Parted)[] = []
  #last = 0
  /** Signs the numbers: those of another writer, or damaged ones, are not taken for ours. */
  readonly #writer = randomBytes(6).toString('hex')
  readonly #pace = new CallPace(() => this.#run())
  closed = false

  constructor(
    redis: Redis,
    keys: Keys,
    number: number,
    nodeId: string,
    limits: QueueLimits,
    clock: Clock,
    events: QueueEvents,
  ) {
    this.#redis = redis
    this.#keys = keys
    this.#number = number
    this.#nodeId = nodeId
    this.#limits = limits
    this.#clock = clock
    this.#events = events
  }

  push(message: Message, sid: string, granted: number): Promise<void> {
    const last = this.#waiting.at(-1)
    let batch = last instanceof Batch && (!last.isFull || last.mustTake(message)) ? last : undefined
    if (batch === undefined) this.#waiting.push((batch = new Batch()))
    batch.add(message, sid, granted)
    if (batch.isFull) this.#pace.needNow()
    else this.#pace.need()
    return batch.settled
  }

  pushParts(message: Message, parts: Parts<Granted>): Promise<void> {
    const parted = new Parted(message, parts)
    this.#waiting.push(parted)
    this.#pace.needNow()
    return parted.settled
  }

  async #run(): Promise<void> {
    const first = this.#waiting[0]
    if (first === undefined) return
    const batch = first instanceof Parted ? first.next() : first
    const isLast = batch.upTo === undefined
    if (isLast) this.#waiting.shift() // what comes from now on is in the next one
    try {
      await this.#append(batch)
      if (isLast) first.settle()
    } catch (error) {
      // Nothing of it may be acknowledged; the node stops or starts again. No part follows one that is missing.
      if (!isLast) this.#waiting.shift()
      first.fail(error as Error)
    }
    if (this.#waiting.length > 1 || this.#waiting[0] instanceof Parted) this.#pace.needNow()
    else if (this.#waiting.length > 0) this.#pace.need()
  }

  async #append({ variants, sessions, upTo }: Batch): Promise<void> {
    const messages = variants.flatMap(({ message, qos, isSecond }) => [
      qos < message.qos
        ? packMessage(message.with({ qos: 1 }), this.#clock)
        : (message.packed ??= packMessage(message, this.#clock)),
      ...(isSecond ? ['=', 0] : identityOf(message)),
    ])
    const [dropped, ...owners] = await this.#call(messages, sessions, upTo)
    if (dropped > 0) this.#events.onDropped(dropped)
    if (this.#events.trace.isOn) this.#tell(variants, sessions, owners.slice(sessions.size))
    let i = 0
    for (const sid of sessions.keys()) {
      const owner = owners[i++]
      const space = owner?.indexOf(0x20) ?? -1
      if (owner === null) this.#events.onMissing(sid)
      else if (space > 0) this.#events.onOwner(owner!.toString('utf8', 0, space), sid)
    }
  }

  #tell(
    variants: readonly Variant[],
    sessions: ReadonlyMap<string, readonly number[]>,
    dropped: readonly (Buffer | null)[],
  ): void {
    const { trace } = this.#events
    const sidsOf = variants.map((): string[] => [])
    for (const [sid, indexes] of sessions) for (const index of indexes) sidsOf[index - 1]!.push(sid)
    for (const [i, sids] of sidsOf.entries()) trace.tell('queued', variants[i]!.message, { sids })
    for (let i = 0; i + 1 < dropped.length; i += 2) {
      const message = unpackMessage(dropped[i + 1]!, this.#clock)
      if (message !== undefined && message !== 'later')
        trace.tell('dropped', message, { sids: [String(dropped[i])], cause: 'full-queue' })
    }
  }

  /** Until it is stored. The number is the same in each attempt, so that a second one changes nothing. */
  #call(
    messages: readonly Packable[],
    sessions: ReadonlyMap<string, readonly number[]>,
    upTo: number | undefined,
  ): Promise<[number, ...(Buffer | null)[]]> {
    this.#last++
    const append = async (): Promise<[number, ...(Buffer | null)[]]> => {
      if (this.closed) throw new BridgeError('ERR_BRIDGE_CLOSED', 'the bridge is closing')
      return appendToQueues(this.#redis, this.#keys, this.#number, {
        nodeId: this.#nodeId,
        batch: `${this.#last}-${this.#writer}`,
        messages,
        sessions,
        upTo,
        tellsDropped: this.#events.trace.isOn,
        ...this.#limits,
      })
    }
    return retrying(this.#redis, append, { mend: (error) => this.#mend(error) })
  }

  async #mend(error: BridgeError): Promise<boolean> {
    if (error.code === 'ERR_BRIDGE_FENCED') await this.#events.onFenced()
    else if (error.code === 'ERR_BRIDGE_ORDER')
      // registered anew, or a failover lost a batch
      this.#last = (error.details.lastBatch ?? 0) + 1
    else return false
    return true
  }
}

export class Queues {
  readonly #partitions: readonly Partition[]

  constructor(
    redis: Redis,
    keys: Keys,
    nodeId: string,
    limits: QueueLimits,
    clock: Clock,
    events: QueueEvents,
  ) {
    this.#partitions = Array.from(
      { length: keys.partitions },
      (_, p) => new Partition(redis, keys, p, nodeId, limits, clock, events),
    )
  }

  /**
   * Appends to the queue of a session, at the lower of its own and the granted QoS (1 or 2); resolves when it
   * is stored. All sessions of one message are pushed in one turn; when they are more than `pushedAtOnce`, by
   * `pushAll`.
   */
  push(message: Message, sid: string, granted: number): Promise<void> {
    return this.#partitions[partitionOf(sid)]!.push(message, sid, granted)
  }

  /** The same for all of a message's sessions. */
  async pushAll(message: Message, { partitions }: Collected): Promise<void> {
    const stored: Promise<void>[] = []
    for (const [number, parts] of partitions) {
      const partition = this.#partitions[number]!
      if (parts.count > sessionsMax) stored.push(partition.pushParts(message, parts))
      else
        for (const { sid, granted } of parts.take(sessionsMax).items)
          stored.push(partition.push(message, sid, granted))
    }
    await Promise.all(stored)
  }

  close(): void {
    for (const partition of this.#partitions) partition.closed = true
  }
}
