// Retained Messages: values in Redis, in hashes sharded by topic; the topics, told by the journal, in every node's trie,
// so that a wildcard SUBSCRIBE walks the trie and reads only what it matches. State: {s<n>}:retained; here the index.
// Invariants: a value is stored before the barrier of its PUBLISH is read, and read behind the barrier of a SUBSCRIBE, so
// that one of the two sees the other (ATTACKS 2); a topic with a value is in the index, one without may be.
import { packMessage, unpackMessage, type Change } from './codec.ts'
import { diagnostics } from './diagnostics.ts'
import { toBridgeError } from './errors.ts'
import { partitions, shardOf, type Keys } from './keys.ts'
import type { Message } from './message.ts'
import { retrying, type Redis } from './redis.ts'
import { runScript } from './scripts.ts'
import { hasWildcard } from './topic.ts'
import { TopicTrie } from './topic-trie.ts'

/** Values read at once. */
const readMax = 200

/** What stands in Redis: nothing when the payload is empty, which clears [MQTT-3.3.1-6]. */
const encode = (message: Message): Buffer => message.payload.length === 0 ? Buffer.alloc(0) : packMessage(message)

function decode(bytes: Buffer): Message | undefined {
  const message = unpackMessage(bytes)
  if (message === undefined) diagnostics.garbage.publish({ where: 'retained', bytes: bytes.length })
  return message
}

export interface RetainedEvents {
  append(changes: readonly Change[]): Promise<void>
  /** A partition has no place for us: resolves when it has again, rejects when we were declared dead. */
  onFenced(): Promise<void>
}

export class Retained {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #identity: { readonly nodeId: string }
  readonly #events: RetainedEvents
  readonly #index = new TopicTrie<true>()

  constructor(redis: Redis, keys: Keys, identity: { readonly nodeId: string }, events: RetainedEvents) {
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
    if (present) this.#index.set(topic, true)
    else this.#index.delete(topic)
  }

  /** Reads the index anew from the values. */
  async load(): Promise<void> {
    const topics: string[] = []
    for (let shard = 0; shard < partitions; shard++) {
      let cursor = '0'
      do {
        const [next, fields] = await retrying(this.#redis, () => this.#redis.hscan(this.#keys.partition(shard, 'retained'), cursor, 'COUNT', 1_000))
        cursor = next
        for (let i = 0; i < fields.length; i += 2) topics.push(fields[i]!)
      } while (cursor !== '0')
    }
    for (const topic of topics) this.#index.set(topic, true) // never removes: a stale topic costs a look-up, a missing one a message
  }

  /** Stores the values of a batch, each shard's in order. Undefined when there is nothing to store. */
  store(batch: readonly Message[]): Promise<unknown> | undefined {
    const shards = new Map<number, (string | number | Buffer)[]>()
    for (const message of batch) {
      if (!message.retain) continue
      const shard = shardOf(message.topic, partitions)
      const argv = shards.get(shard)
      const record = [message.topic, encode(message), message.origin?.sid ?? '', message.origin?.n ?? 0]
      if (argv === undefined) shards.set(shard, record)
      else argv.push(...record)
    }
    if (shards.size === 0) return undefined
    return Promise.all([...shards].map(([shard, argv]) => this.#write(shard, argv)))
  }

  async #write(shard: number, argv: readonly (string | number | Buffer)[]): Promise<void> {
    const keys = (['appended', 'retained', 'published'] as const).map((noun) => this.#keys.partition(shard, noun))
    for (;;) {
      try {
        await retrying(this.#redis, () => runScript(this.#redis, 'retained-store', keys, [this.#identity.nodeId, ...argv]))
        return
      } catch (reason) {
        if (toBridgeError(reason).code !== 'ERR_BRIDGE_FENCED') throw reason
        await this.#events.onFenced() // heals when Redis lost its data; otherwise it rejects
      }
    }
  }

  /** Behind the barrier of a batch: tells the others of topics that came or went. Undefined when none did. */
  tell(batch: readonly Message[]): Promise<void> | undefined {
    const changes = new Map<string, boolean>()
    for (const { retain, topic, payload } of batch) if (retain) changes.set(topic, payload.length > 0)
    for (const [topic, present] of changes) if (this.#index.has(topic) === present) changes.delete(topic)
    if (changes.size === 0) return undefined
    return this.#tell(changes)
  }

  async #tell(changes: ReadonlyMap<string, boolean>): Promise<void> {
    await this.#events.append([...changes].map(([topic, present]) => ({ type: 'retained', topic, present })))
    // Another node may have stored a value between our clearing and our telling, and relied on the index that still had
    // the topic: who tells that a topic is gone looks once more.
    for (const [topic, present] of changes) {
      if (present) continue
      const value = await retrying(this.#redis, () => this.#redis.hexists(this.#keys.partition(shardOf(topic, partitions), 'retained'), topic))
      if (value === 1) await this.#events.append([{ type: 'retained', topic, present: true }])
    }
  }

  /** The Retained Messages that `filter` matches, some at a time. To be called behind a barrier; expired ones are left out. */
  async *find(filter: string): AsyncGenerator<Message[]> {
    const topics = hasWildcard(filter) ? [...this.#index.match(filter)].map(([topic]) => topic) : [filter]
    for (let i = 0; i < topics.length; i += readMax) yield await this.read(topics.slice(i, i + readMax))
  }

  /** The Retained Messages of these topics, as they are now; at most a few hundred topics. */
  async read(topics: readonly string[]): Promise<Message[]> {
    const shards = new Map<number, string[]>()
    for (const topic of topics) {
      const shard = shardOf(topic, partitions)
      shards.set(shard, [...(shards.get(shard) ?? []), topic])
    }
    const found: Message[] = []
    await Promise.all([...shards].map(async ([shard, names]) => {
      const values = await retrying(this.#redis, () => this.#redis.hmgetBuffer(this.#keys.partition(shard, 'retained'), ...names))
      for (const value of values) {
        const message = value === null ? undefined : decode(value)
        if (message !== undefined && (message.expiresAt === 0 || message.expiresAt > Date.now())) found.push(message)
      }
    }))
    return found
  }
}
