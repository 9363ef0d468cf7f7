// Retained Messages: values in Redis, in hashes sharded by topic; the topics, told by the journal, in every node's trie,
// so that a wildcard SUBSCRIBE walks the trie and reads only what it matches. State: {s<n>}:retained; here the index.
// Invariants: a value is stored before the barrier of its PUBLISH is read, and read behind the barrier of a SUBSCRIBE, so
// that one of the two sees the other (ATTACKS 2); a topic with an acknowledged value is in every node's index, one without
// may be: so a topic is told unless this node knows that all have it, and it leaves an index only when its value is gone.
import type { Clock } from './clock.ts'
import { packMessage, unpackMessage, type Change } from './codec.ts'
import { diagnostics } from './diagnostics.ts'
import { partitions, shardOf, type Keys } from './keys.ts'
import { identityOf, isExpired, type Message } from './message.ts'
import { retrying, type Redis } from './redis.ts'
import { runScript } from './scripts.ts'
import { SharedBarrier } from './shared-barrier.ts'
import { hasWildcard } from './topic.ts'
import { TopicTrie } from './topic-trie.ts'

/** Values read at once. */
const readMax = 200

/** What stands in Redis: nothing when the payload is empty, which clears [MQTT-3.3.1-6]. */
const encode = (message: Message, clock: Clock): Buffer => message.payload.length === 0 ? Buffer.alloc(0) : packMessage(message, clock)

function decode(topic: string, bytes: Buffer, clock: Clock): Message | undefined {
  const message = unpackMessage(bytes, clock)
  if (message === 'later') return diagnostics.later.publish({ where: 'retained', id: topic }), undefined // it stays for who understands it
  if (message === undefined) diagnostics.garbage.publish({ where: 'retained', bytes: bytes.length })
  return message
}

/** What the script adds to its own clock; -1: never. Of this attempt: it may have waited. */
const leftMs = ({ payload, expiresAt }: Message): number => payload.length === 0 || expiresAt === 0 ? -1 : Math.max(0, expiresAt - performance.now())

/** How a topic came into the index: all nodes have it; this node read it with the values; it was cleared, and has to be looked at. */
type Known = 'told' | 'loaded' | 'cleared'

interface Stored {
  readonly message: Message
  readonly argv: readonly (string | number | Buffer)[]
}

export interface RetainedEvents {
  barrier(): Promise<void>
  append(changes: readonly Change[]): Promise<void>
  /** A partition has no place for us: resolves when it has again, rejects when we were declared dead. */
  onFenced(): Promise<void>
}

export class Retained {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #identity: { readonly nodeId: string; readonly clock: Clock }
  readonly #events: RetainedEvents
  #index = new TopicTrie<Known>()
  /** Messages that were the first of their topic: nobody else may have told of it, whatever the index says. */
  readonly #fresh = new WeakSet<Message>()
  /** Topics told to be cleared since they were last looked at. */
  readonly #cleared = new Set<string>()
  #looking = false
  readonly #untold = new SharedBarrier(() => this.#eachTopic((topic) => { if (this.#index.get(topic) === undefined) this.#index.set(topic, 'loaded') }))
  /** Settles when the index has what no journal tells any more. */
  #missing: Promise<void> = Promise.resolve()

  constructor(redis: Redis, keys: Keys, identity: { readonly nodeId: string; readonly clock: Clock }, events: RetainedEvents) {
    this.#redis = redis
    this.#keys = keys
    this.#identity = identity
    this.#events = events
  }

  /** Topics in the index. */
  get size(): number {
    return this.#index.size
  }

  /** What the journal says of a topic. */
  apply(topic: string, present: boolean): void {
    this.#index.set(topic, present ? 'told' : 'cleared')
    if (present) return
    this.#cleared.add(topic)
    this.#look().catch(() => { this.#looking = false }) // closed
  }

  /**
   * A cleared topic stays until its value proves to be gone: another node may have stored one behind the clearing, and not
   * have told of it because it had not read of the clearing yet (in which case it stored it before that was journaled).
   */
  async #look(): Promise<void> {
    if (this.#looking) return
    this.#looking = true
    while (this.#cleared.size > 0) {
      const topics = [...this.#cleared].slice(0, readMax)
      for (const topic of topics) this.#cleared.delete(topic)
      const values = new Map(await this.#values(topics))
      for (const topic of topics) {
        if (this.#cleared.has(topic) || this.#index.get(topic) !== 'cleared') continue // cleared or set again meanwhile
        if (values.get(topic) == null) this.#index.delete(topic)
        else this.#index.set(topic, 'loaded')
      }
    }
    this.#looking = false
  }

  /** Reads the index anew from the values. What changed meanwhile stands in the journal behind the position noted before. */
  async load(): Promise<void> {
    const index = new TopicTrie<Known>()
    await this.#eachTopic((topic) => index.set(topic, 'loaded'))
    this.#index = index
  }

  /** Adds topics that no entry of the journal tells any more. One that is cleared meanwhile may stay without a value. */
  loadMissing(): Promise<void> {
    return this.#missing = this.#untold.pass()
  }

  async #eachTopic(each: (topic: string) => void): Promise<void> {
    for (let shard = 0; shard < partitions; shard++) {
      let cursor = '0'
      do {
        const [next, fields] = await retrying(this.#redis, () => this.#redis.hscan(this.#keys.partition(shard, 'retained'), cursor, 'COUNT', 1_000))
        cursor = next
        for (let i = 0; i < fields.length; i += 2) each(fields[i]!)
      } while (cursor !== '0')
    }
  }

  /** Stores the values of a batch, each shard's in order. Undefined when there is nothing to store. */
  store(batch: readonly Message[]): Promise<unknown> | undefined {
    const shards = new Map<number, Stored[]>()
    for (const message of batch) {
      if (!message.retain) continue
      const shard = shardOf(message.topic, partitions)
      const records = shards.get(shard)
      const record: Stored = { message, argv: [message.topic, encode(message, this.#identity.clock), ...identityOf(message)] }
      if (records === undefined) shards.set(shard, [record])
      else records.push(record)
    }
    if (shards.size === 0) return undefined
    return Promise.all([...shards].map(([shard, records]) => this.#write(shard, records)))
  }

  async #write(shard: number, records: readonly Stored[]): Promise<void> {
    const keys = (['appended', 'retained', 'published', 'due'] as const).map((noun) => this.#keys.partition(shard, noun))
    await retrying(this.#redis, async () => {
      // A client that moved on may have set a newer value elsewhere: what this node still had of it comes too late. Behind the
      // barrier this node knows; a node that stands still between the two for a whole lease has no place in the partition.
      await this.#events.barrier()
      const live = records.filter(({ message }) => message.from?.isTaken !== true)
      if (live.length === 0) return
      const fresh = await runScript(this.#redis, 'retained-store', keys, [this.#identity.nodeId, ...live.flatMap(({ message, argv }) => [...argv, leftMs(message)])]) as number[]
      for (const [i, { message }] of live.entries()) if (fresh[i] === 1) this.#fresh.add(message)
    }, { mend: async ({ code }) => code === 'ERR_BRIDGE_FENCED' && this.#events.onFenced().then(() => true) }) // heals when Redis lost its data; otherwise it rejects
  }

  /** Behind the barrier of a batch: tells the others of topics that came or went. Undefined when none did. */
  tell(batch: readonly Message[]): Promise<void> | undefined {
    const last = new Map<string, Message>()
    for (const message of batch) if (message.retain) last.set(message.topic, message)
    const changes: Change[] = []
    for (const [topic, message] of last) {
      const [present, known] = [message.payload.length > 0, this.#index.get(topic)]
      if (present ? known !== 'told' || this.#fresh.has(message) : known !== undefined) changes.push({ type: 'retained', topic, present })
    }
    return changes.length === 0 ? undefined : this.#events.append(changes)
  }

  /** It is due to expire: cleared, for all nodes, unless a newer one stands there. */
  async expire(topic: string): Promise<void> {
    // By cluster time: the clock of this partition's server is another one, perhaps, or was set meanwhile.
    const [[, value]] = await this.#values([topic]) as [[string, Buffer | null]]
    const message = value === null ? undefined : unpackMessage(value, this.#identity.clock)
    const left = message === undefined || message === 'later' || isExpired(message) ? -1 : message.expiresAt - performance.now()
    const keys = (['due', 'retained'] as const).map((noun) => this.#keys.partition(shardOf(topic, partitions), noun))
    if (await runScript(this.#redis, 'retained-expire', keys, [topic, left]) === 1) await this.#events.append([{ type: 'retained', topic, present: false }])
  }

  /** The Retained Messages that `filter` matches, some at a time. To be called behind a barrier; expired ones are left out. */
  async *find(filter: string): AsyncGenerator<Message[]> {
    await this.#missing
    const topics = hasWildcard(filter) ? [...this.#index.match(filter)].map(([topic]) => topic) : [filter]
    for (let i = 0; i < topics.length; i += readMax) yield await this.read(topics.slice(i, i + readMax))
  }

  /** The Retained Messages of these topics, as they are now; at most a few hundred topics. */
  async read(topics: readonly string[]): Promise<Message[]> {
    const messages = (await this.#values(topics)).map(([topic, value]) => value === null ? undefined : decode(topic, value, this.#identity.clock))
    return messages.filter((message) => message !== undefined).filter((message) => !isExpired(message))
  }

  async #values(topics: readonly string[]): Promise<[topic: string, value: Buffer | null][]> {
    const shards = new Map<number, string[]>()
    for (const topic of topics) {
      const shard = shardOf(topic, partitions)
      const names = shards.get(shard)
      if (names === undefined) shards.set(shard, [topic])
      else names.push(topic)
    }
    const found = await Promise.all([...shards].map(async ([shard, names]) => {
      const values = await retrying(this.#redis, () => this.#redis.hmgetBuffer(this.#keys.partition(shard, 'retained'), ...names))
      return names.map((topic, i): [string, Buffer | null] => [topic, values[i]!])
    }))
    return found.flat()
  }
}
