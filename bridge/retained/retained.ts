// Retained Messages: values in Redis, in one hash per partition, by topic; the topics, told by the journal, in every
// node's trie, so that a wildcard SUBSCRIBE walks the trie and reads only what it matches. State:
// {s<n>}:retained; here the index. Invariants:
// - A value is stored before the barrier of its PUBLISH is read, and read after the barrier of a SUBSCRIBE. So one of
//   the two sees the other (R1), and the stamp says which (moment.ts).
// - A topic is told before its value is stored: a node that knows the stamp knows the topic.
// - It is told again afterwards when there was no value: a node may have read the index anew in between.
// - A topic leaves an index only when its value is gone.
// Bound: bytes of values being read.
import { Allowance } from '../pace/allowance.ts'
import type { Clock } from '../pace/clock.ts'
import type { RetainedRead } from '../cluster.ts'
import { packMessage, unpackMessage, type Change } from '../messages/codec.ts'
import type { BridgeError } from '../errors.ts'
import type { Reports } from '../diagnostics.ts'
import type { Keys } from '../redis/keys.ts'
import { identityOf, isExpired, isTooLate, type Message } from '../messages/message.ts'
import type { Stamps, StampsRead } from './moment.ts'
import { reportsOf, retrying, type Connections, type Redis } from '../redis/redis.ts'
import { runScript } from '../redis/scripts.ts'
import { SingleFlight } from '../pace/single-flight.ts'
import { hasRoomOfTenant, type TenantBounds } from './tenant-room.ts'
import { TopicTrie } from '../matching/topic-trie.ts'
import { TopicWalks } from './topic-walks.ts'

/** Topics looked at at once. */
const lookMax = 200
/** Bytes of values that are being read, of all replays together. */
const readingBytesMax = 8 * 1024 * 1024
const stampBytes = 8

/** What stands in Redis after the stamp: nothing when the payload is empty, which clears [MQTT-3.3.1-6]. */
const encode = (message: Message, clock: Clock): Buffer =>
  message.payload.length === 0 ? Buffer.alloc(0) : packMessage(message.with({ replay: true }), clock)

function decode(topic: string, bytes: Buffer, clock: Clock, reports: Reports): Message | undefined {
  const message = bytes.length < stampBytes ? undefined : unpackMessage(bytes.subarray(stampBytes), clock)
  // it stays for who understands it
  if (message === 'later') return (reports.tell('later', { where: 'retained', id: topic }), undefined)
  if (message !== undefined) return message.with({ stamp: bytes.readDoubleBE(0) })
  reports.tell('garbage', { where: 'retained', bytes: bytes.length })
  return undefined
}

/** What the script adds to its own clock; -1: never. Of this attempt: it may have waited. */
const leftMs = ({ payload, expiresAt }: Message): number =>
  payload.length === 0 || expiresAt === 0 ? -1 : Math.max(0, expiresAt - performance.now())

/**
 * How a topic came into the index: all nodes have it; this node read it with the values; it was cleared, and
 * has to be looked at.
 */
type Known = 'told' | 'loaded' | 'cleared'

interface Stored {
  readonly message: Message
  readonly argv: readonly (string | number | Buffer)[]
}

export interface RetainedEvents {
  /** @param ahead is read no later than the journal's position */
  barrier(ahead?: () => Promise<unknown>): Promise<void>
  append(changes: readonly Change[]): Promise<void>
  /** A partition has no place of us: resolves when it has again, rejects when we were declared dead. */
  onFenced(): Promise<void>
}

export class Retained {
  readonly #redis: Redis
  readonly #control: Redis
  readonly #keys: Keys
  readonly #identity: { readonly nodeId: string; readonly clock: Clock }
  readonly #events: RetainedEvents
  #index = new TopicTrie<Known>()
  readonly #walks = new TopicWalks()
  /**
   * Messages that were the first of their topic, or may have been: nobody else may have told of it, whatever
   * the index says.
   */
  readonly #fresh = new WeakSet<Message>()
  /** Topics told to be cleared since they were last looked at. */
  readonly #cleared = new Set<string>()
  readonly #looks = new SingleFlight(() => this.#look())
  readonly #untold = new SingleFlight(() =>
    this.#eachTopic((topic) => {
      if (this.#index.get(topic) === undefined) this.#index.set(topic, 'loaded')
    }),
  )
  readonly #counters = new SingleFlight(() => this.#readStamps())
  readonly #reading = new Allowance(readingBytesMax)
  #era = { isOver: false }
  /** Heals when Redis lost its data; otherwise it rejects. */
  readonly #unlessDead = {
    mend: async ({ code }: BridgeError): Promise<boolean> =>
      code === 'ERR_BRIDGE_FENCED' && this.#events.onFenced().then(() => true),
  }
  /** Settles when the index has what no journal tells any more. */
  #missing: Promise<void> = Promise.resolve()

  constructor(
    { redis, control }: Pick<Connections, 'redis' | 'control'>,
    keys: Keys,
    identity: { readonly nodeId: string; readonly clock: Clock },
    events: RetainedEvents,
  ) {
    this.#redis = redis
    this.#control = control
    this.#keys = keys
    this.#identity = identity
    this.#events = events
  }

  /** Topics in the index. */
  get size(): number {
    return this.#index.size
  }

  /** Tenants that have some of them. */
  get tenants(): readonly string[] {
    return this.#index.tenants
  }

  /** Whether a value may be stored: its topic is known, or there is room for one more. */
  mayStore(topic: string, bytesMax: number, countMax = Infinity): boolean {
    return (this.#index.bytes < bytesMax && this.#index.size < countMax) || this.#index.has(topic)
  }

  /** The same of its tenant. */
  mayStoreOfTenant(topic: string, bounds: TenantBounds): boolean {
    return hasRoomOfTenant(this.#index, topic, bounds)
  }

  /** What the journal says of a topic. */
  apply(topic: string, present: boolean): void {
    this.#index.set(topic, present ? 'told' : 'cleared')
    if (present) return
    this.#cleared.add(topic)
    this.#looks.next().catch(() => undefined) // closed
  }

  /**
   * A cleared topic stays until its value proves to be gone: another node may have stored one after the
   * clearing, and not have told of it because it had not read of the clearing yet (in which case it stored it
   * before that was journaled).
   */
  async #look(): Promise<void> {
    while (this.#cleared.size > 0) {
      const topics = [...this.#cleared].slice(0, lookMax)
      for (const topic of topics) this.#cleared.delete(topic)
      const there = new Set(await this.existing(topics))
      for (const topic of topics) {
        // cleared or set again meanwhile
        if (this.#cleared.has(topic) || this.#index.get(topic) !== 'cleared') continue
        if (!there.has(topic)) this.#index.delete(topic)
        else this.#index.set(topic, 'loaded')
      }
    }
  }

  /**
   * Reads the index anew from the values. What changed meanwhile stands in the journal after the position
   * noted before.
   */
  async load(): Promise<void> {
    const index = new TopicTrie<Known>()
    await this.#eachTopic((topic) => index.set(topic, 'loaded'))
    this.#index = index
    this.#endEra()
  }

  /**
   * Adds topics that no entry of the journal tells any more. One that is cleared meanwhile may stay without a
   * value.
   */
  loadMissing(): Promise<void> {
    return (this.#missing = this.#untold.next())
  }

  /**
   * What was told while the values were being read may be in neither: nothing follows from stamps that were
   * read before.
   */
  #endEra(): void {
    this.#era.isOver = true
    this.#era = { isOver: false }
  }

  async #eachTopic(each: (topic: string) => void): Promise<void> {
    for (let partition = 0; partition < this.#keys.partitions; partition++) {
      let cursor = '0'
      do {
        const [next, fields] = await retrying(this.#redis, () =>
          this.#redis.hscan(this.#keys.partition(partition, 'retained'), cursor, 'COUNT', 1_000),
        )
        cursor = next
        // the stamps stand there
        for (let i = 0; i < fields.length; i += 2) if (fields[i] !== '') each(fields[i]!)
      } while (cursor !== '0')
    }
  }

  /**
   * The counters of all partitions, as of now or later. Behind the journal's entry of a subscription they are
   * its moment (moment.ts).
   */
  stamps(): Promise<StampsRead> {
    return this.#counters.next()
  }

  /** Counters that an earlier connection of a session read: they are compared with what stands here now. */
  stampsOf(of: Float64Array): Stamps {
    return { of, era: this.#era }
  }

  /**
   * A topic is told before its value is stored: the position of the journal, read no earlier than the counters, is
   * behind all that was told of what they count.
   */
  #readStamps(): Promise<StampsRead> {
    const era = this.#era
    return new Promise((resolve, reject) => {
      const told = this.#events.barrier(async () => {
        const of = await this.#readCounters()
        resolve({ stamps: { of, era }, told })
      })
      told.catch(reject) // and whoever waits for it hears of it, too
    })
  }

  async #readCounters(): Promise<Float64Array> {
    const partitions = Array.from({ length: this.#keys.partitions }, (_, partition) =>
      this.#control.hget(this.#keys.partition(partition, 'retained'), ''),
    )
    return Float64Array.from(await Promise.all(partitions), (stamp) => Number(stamp ?? 0))
  }

  /**
   * Stores the values of a batch, each partition's in order, their topics told. Undefined when there is nothing
   * to store.
   */
  store(batch: readonly Message[]): Promise<void> | undefined {
    const retained = batch.filter(({ retain }) => retain)
    return retained.length === 0 ? undefined : this.#store(retained)
  }

  async #store(messages: readonly Message[]): Promise<void> {
    const untold = new Set(
      messages
        .filter(({ topic, payload }) => payload.length > 0 && this.#index.get(topic) !== 'told')
        .map(({ topic }) => topic),
    )
    const changes = [...untold].map((topic): Change => ({ type: 'retained', topic, present: true }))
    if (changes.length > 0) await retrying(this.#redis, () => this.#events.append(changes), this.#unlessDead)
    await this.#events.barrier()
    const partitions = new Map<number, Stored[]>()
    for (const message of messages) {
      const partition = this.#keys.partitionFor(message.topic)
      const records = partitions.get(partition)
      const record: Stored = {
        message,
        argv: [message.topic, encode(message, this.#identity.clock), ...identityOf(message)],
      }
      if (records === undefined) partitions.set(partition, [record])
      else records.push(record)
    }
    await Promise.all([...partitions].map(([partition, records]) => this.#write(partition, records)))
  }

  async #write(partition: number, records: readonly Stored[]): Promise<void> {
    const keys = (['appended', 'retained', 'published', 'due'] as const).map((noun) =>
      this.#keys.partition(partition, noun),
    )
    let isAgain = false
    await retrying(
      this.#redis,
      async () => {
        const wasTried = isAgain // what stands there may be our own, whose reply was lost
        if (isAgain) await this.#events.barrier()
        isAgain = true
        // A client that moved on may have set a newer value elsewhere: what this node still had of it comes
        // too late. Behind the barrier this node knows; a node that stands still between the two for a whole
        // lease has no place in the partition.
        const live = records.filter(({ message }) => !isTooLate(message))
        if (live.length === 0) return
        const reply = (await runScript(this.#redis, 'retained-store', keys, [
          this.#identity.nodeId,
          ...live.flatMap(({ message, argv }) => [...argv, leftMs(message)]),
        ])) as number[]
        for (const [i, { message }] of live.entries()) {
          const [stamp, fresh] = [reply[2 * i]!, reply[2 * i + 1]!]
          message.stamp = stamp === 0 ? undefined : stamp
          if (fresh === 1 || wasTried) this.#fresh.add(message)
        }
      },
      this.#unlessDead,
    )
  }

  /**
   * Behind the barrier of a batch: tells the others of topics that came or went. Undefined when none did. A
   * topic that somebody cleared between our telling it and our storing its value may have left an index: then
   * no replay need find it, and the message comes live whatever its stamp.
   */
  journalTopics(batch: readonly Message[]): Promise<void> | undefined {
    const last = new Map<string, Message>()
    for (const message of batch) if (message.retain) last.set(message.topic, message)
    const changes: Change[] = []
    const lost = new Set<string>()
    for (const [topic, message] of last) {
      const [present, known] = [message.payload.length > 0, this.#index.get(topic)]
      if (present && known !== 'told') lost.add(topic)
      if (present ? known !== 'told' || this.#fresh.has(message) : known !== undefined)
        changes.push({ type: 'retained', topic, present })
    }
    if (lost.size > 0)
      for (const message of batch)
        if (message.stamp !== undefined && lost.has(message.topic)) message.stamp = Infinity
    return changes.length === 0 ? undefined : this.#events.append(changes)
  }

  /** It is due to expire: cleared, for all nodes, unless a newer one stands there. */
  async expire(topic: string): Promise<void> {
    // By cluster time: the clock of this partition's server is another one, perhaps, or was set meanwhile.
    const value = await retrying(this.#redis, () =>
      this.#redis.hgetBuffer(this.#keys.partition(this.#keys.partitionFor(topic), 'retained'), topic),
    )
    const message =
      value === null ? undefined : unpackMessage(value.subarray(stampBytes), this.#identity.clock)
    const left =
      message === undefined || message === 'later' || isExpired(message)
        ? -1
        : message.expiresAt - performance.now()
    const keys = (['due', 'retained'] as const).map((noun) =>
      this.#keys.partition(this.#keys.partitionFor(topic), noun),
    )
    if ((await runScript(this.#redis, 'retained-expire', keys, [topic, left])) === 1)
      await this.#events.append([{ type: 'retained', topic, present: false }])
  }

  /** The topics that `filter` matches and that may have a Retained Message. To be called after a barrier. */
  async topics(filter: string): Promise<AsyncIterator<string>> {
    await this.#missing
    return this.#walks.topics(this.#index, filter)
  }

  /** Whether `filter` matches a topic that may have a Retained Message. To be called after a barrier. */
  async hasTopic(filter: string): Promise<boolean> {
    await this.#missing
    return this.#walks.has(this.#index, filter)
  }

  /**
   * The Retained Messages of these topics as they are now, as many as have room in `bytesMax`; none when even
   * the first one is larger: then the caller asks for that one by itself. Expired ones are left out.
   */
  async read(topics: readonly string[], bytesMax: number): Promise<RetainedRead> {
    await this.#reading.take(bytesMax)
    try {
      const partitions = byPartition(topics, this.#keys)
      const found = await Promise.all(
        [...partitions].map(async ([partition, names]) => {
          const [next, ...values] = (await retrying(this.#redis, () =>
            runScript(
              this.#redis,
              'retained-read',
              [this.#keys.partition(partition, 'retained')],
              [Math.floor(bytesMax / partitions.size), ...names],
            ),
          )) as [number, ...(Buffer | null)[]]
          return { next, names, values, unread: names.slice(values.length) }
        }),
      )
      const messages = found.flatMap(({ values, names }) =>
        values.flatMap(
          (value, i) =>
            (value === null
              ? undefined
              : decode(names[i]!, value, this.#identity.clock, reportsOf(this.#redis))) ?? [],
        ),
      )
      const unread = found.flatMap(({ unread }) => unread)
      return {
        messages: messages.filter((message) => !isExpired(message)),
        unread,
        nextBytes: found.find(({ next }) => next > 0)?.next ?? 0,
      }
    } finally {
      this.#reading.give(bytesMax)
    }
  }

  /** Which of these topics have a Retained Message now. */
  async existing(topics: readonly string[]): Promise<string[]> {
    const found = await Promise.all(
      [...byPartition(topics, this.#keys)].map(([partition, names]) =>
        Promise.all(
          names.map(async (topic) => {
            const there = await retrying(this.#redis, () =>
              this.#redis.hexists(this.#keys.partition(partition, 'retained'), topic),
            )
            return there === 1 ? topic : []
          }),
        ),
      ),
    )
    return found.flat(2)
  }
}

function byPartition(topics: readonly string[], keys: Keys): Map<number, string[]> {
  const partitions = new Map<number, string[]>()
  for (const topic of topics) {
    const partition = keys.partitionFor(topic)
    const names = partitions.get(partition)
    if (names === undefined) partitions.set(partition, [topic])
    else names.push(topic)
  }
  return partitions
}
