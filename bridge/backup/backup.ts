// What is durable of a cluster in Redis, read while it runs, as lines.ts has it. A session, and what waits for a group, is
// read by one script, so that it is as it was at one moment; two of them are of two moments. Nothing is written. What
// a later version wrote cannot be told by this one, and what is damaged by nobody: both are counted. Cost: Redis gives all
// of a session at once: one with the longest queue that it may have (queueBytesMax) makes it stand for some tenths of a
// second. State: none. Bound: one session, and one page of Retained Messages, in memory.
import { BridgeError, toBridgeError } from '../errors.ts'
import { recordVersions, unpackMessage, type Later } from '../messages/codec.ts'
import type { Message } from '../messages/message.ts'
import { Clock } from '../pace/clock.ts'
import { Slice } from '../pace/turns.ts'
import { banChanges } from '../redis/redis-bans.ts'
import { isSid, type Keys } from '../redis/keys.ts'
import { keysOf } from '../redis/layout.ts'
import type { Redis } from '../redis/redis.ts'
import { runLoaded, type ScriptName } from '../redis/scripts.ts'
import { decodeSubscription } from '../sessions/stored-subscription.ts'
import { pairs } from '../sessions/stored.ts'
import { storedMessage, type Line } from './lines.ts'

/** What a backup has, and what it could not take. */
export interface BackupCounts {
  sessions: number
  /** Those among them whose clients were connected. */
  connected: number
  subscriptions: number
  queued: number
  /** Sent and not acknowledged: clients get these again. */
  inFlight: number
  retained: number
  /** Of groups: what waits, and of it what members had in flight at that moment, which comes again. */
  backlog: number
  given: number
  users: number
  bans: number
  /** Written by a later version; damaged. */
  later: number
  damaged: number
}

export const noCounts = (): BackupCounts => ({
  sessions: 0,
  connected: 0,
  subscriptions: 0,
  queued: 0,
  inFlight: 0,
  retained: 0,
  backlog: 0,
  given: 0,
  users: 0,
  bans: 0,
  later: 0,
  damaged: 0,
})

const pageMax = 500
const stampBytes = 8

export class Backup {
  readonly counts = noCounts()
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #clock = new Clock()

  private constructor(redis: Redis, keys: Keys) {
    this.#redis = redis
    this.#keys = keys
  }

  /**
   * @throws BridgeError ERR_BRIDGE_FORMAT when what stands there is of another version; as the connection says when it
   * cannot be read
   */
  static async of(redis: Redis, prefix: string): Promise<Backup> {
    const keys = await keysOf(redis, prefix)
    const [format, records] = [await redis.get(keys.bus('format')), await redis.get(keys.bus('records'))]
    if (format === null)
      throw new BridgeError('ERR_BRIDGE_BACKUP', `no cluster has its data under the prefix ${prefix}`)
    if (Number(records ?? 1) > recordVersions.max)
      throw new BridgeError(
        'ERR_BRIDGE_FORMAT',
        `records are written in version ${records}, this version reads ${recordVersions.min} to ${recordVersions.max}`,
      )
    const backup = new Backup(redis, keys)
    const sent = performance.now()
    const [seconds, micros] = await redis.time()
    backup.#clock.sample(sent, performance.now(), Number(seconds) * 1_000 + Number(micros) / 1_000)
    return backup
  }

  async *lines(): AsyncGenerator<Line> {
    yield* this.#access()
    yield* this.#bans()
    for (let p = 0; p < this.#keys.partitions; p++) yield* this.#retained(p)
    for (let p = 0; p < this.#keys.partitions; p++) yield* this.#sessions(p)
    for (let p = 0; p < this.#keys.partitions; p++) yield* this.#groups(p)
  }

  /** Fields of a hash and their values; one that comes and goes meanwhile may come twice, or not. */
  async *#scan(key: string): AsyncGenerator<readonly [field: string, value: Buffer]> {
    let cursor = '0'
    do {
      const [next, list] = await this.#redis.hscanBuffer(key, cursor, 'COUNT', pageMax)
      cursor = next.toString()
      for (const [field, value] of pairs(list)) yield [field.toString(), value]
    } while (cursor !== '0')
  }

  async #run(name: ScriptName, keys: readonly string[], argv: readonly string[]): Promise<unknown[]> {
    try {
      return (await runLoaded(this.#redis, name, keys, argv)) as unknown[]
    } catch (error) {
      // a key of a wrong type was put aside: once more without it
      if (toBridgeError(error).code !== 'ERR_BRIDGE_REDIS_DAMAGED') throw error
      this.counts.damaged++
      return (await runLoaded(this.#redis, name, keys, argv)) as unknown[]
    }
  }

  async *#access(): AsyncGenerator<Line> {
    for await (const [field, value] of this.#scan(this.#keys.bus('access')))
      if (field === 'rules') yield { kind: 'rules', text: value.toString() }
      else if (field.startsWith('u:')) {
        this.counts.users++
        yield { kind: 'user', name: field.slice(2), kept: value.toString() }
      }
  }

  async *#bans(): AsyncGenerator<Line> {
    for (const { kind, name, reason, endsAt } of await banChanges(this.#redis, this.#keys).list()) {
      this.counts.bans++
      const left = Math.ceil((endsAt - performance.now()) / 1_000)
      yield { kind: 'ban', of: kind, name, reason, ...(endsAt !== Infinity && { secondsLeft: left }) }
    }
  }

  /** Undefined: it cannot be told, which is counted, or it has expired. */
  #read(bytes: Buffer): Message | undefined {
    const message: Message | Later | undefined = unpackMessage(bytes, this.#clock)
    if (message === 'later') this.counts.later++
    else if (message === undefined) this.counts.damaged++
    else if (message.expiresAt === 0 || message.expiresAt > performance.now()) return message
    return undefined
  }

  async *#retained(partition: number): AsyncGenerator<Line> {
    for await (const [topic, value] of this.#scan(this.#keys.partition(partition, 'retained'))) {
      if (topic === '') continue // the counter of stamps
      const message = this.#read(value.subarray(stampBytes))
      if (message === undefined) continue
      this.counts.retained++
      yield { kind: 'retained', message: storedMessage(message) }
    }
  }

  async *#sessions(partition: number): AsyncGenerator<Line> {
    const nouns = ['clients', 'owners', 'due', 'wills'] as const
    const keys = nouns.map((noun) => this.#keys.partition(partition, noun))
    const own = ['session', 'subscriptions', 'queue', 'inflight', 'incoming'] as const
    for await (const [clientId, value] of this.#scan(keys[0]!)) {
      const sid = value.toString()
      if (!isSid(sid, partition)) {
        this.counts.damaged++
        continue
      }
      const all = [...keys, ...own.map((noun) => this.#keys.session(sid, noun))]
      const reply = await this.#run('session-read', all, [clientId, sid])
      if (reply.length > 0) yield* this.#session(clientId, reply)
    }
  }

  async *#session(clientId: string, reply: readonly unknown[]): AsyncGenerator<Line> {
    const [time, owner, session, ends, will, due, subscriptions, inflight, incoming, queue] = reply as [
      Buffer,
      Buffer,
      readonly (Buffer | null)[],
      Buffer | null,
      Buffer | null,
      Buffer | null,
      ...(readonly Buffer[])[],
    ]
    const now = Number(time)
    const left = (at: Buffer): number => Math.max(0, Math.round(Number(at) - now))
    const expirySeconds = Number(session[1] ?? -1)
    const isConnected = owner.length > 0
    if (expirySeconds === 0) return // it ends with its connection
    this.counts.sessions++
    if (isConnected) this.counts.connected++
    yield {
      kind: 'session',
      client: clientId,
      ...(session[0] != null && { user: session[0].toString() }),
      expirySeconds,
      isConnected,
      ...(ends !== null && { endsInMs: left(ends) }),
      subscriptions: await this.#subscriptions(subscriptions!),
      // PUBREC was sent, and nothing but PUBREL is to come; the others come again, as what they are: new
      received: [...pairs(incoming!)].flatMap(([id, n]) => (n.includes(0x20) ? [Number(id)] : [])),
    }
    if (will !== null && due !== null) {
      const message = this.#read(will)
      if (message !== undefined) yield { kind: 'will', message: storedMessage(message), dueInMs: left(due) }
    }
    yield* this.#inFlight(inflight!)
    const slice = new Slice()
    for (const bytes of queue!) {
      if (slice.isOver) await slice.next()
      const message = this.#read(bytes)
      if (message === undefined) continue
      this.counts.queued++
      yield { kind: 'queued', message: storedMessage(message) }
    }
  }

  async #subscriptions(
    list: readonly Buffer[],
  ): Promise<(readonly [filter: string, options: number, identifier: number])[]> {
    const found: (readonly [string, number, number])[] = []
    const slice = new Slice()
    for (const [filter, text] of pairs(list)) {
      if (slice.isOver) await slice.next()
      const stored = decodeSubscription(text.toString())
      if (stored === 'later') this.counts.later++
      else if (stored === undefined) this.counts.damaged++
      else found.push([filter.toString(), stored.options, stored.identifier ?? 0])
    }
    this.counts.subscriptions += found.length
    return found
  }

  /** In the order in which they were sent: order, and the message unless PUBREC came. */
  *#inFlight(list: readonly Buffer[]): Generator<Line> {
    const entries = [...pairs(list)].map(([id, bytes]) => {
      const space = bytes.indexOf(0x20)
      const order = Number(bytes.toString('latin1', 0, space < 0 ? bytes.length : Math.min(space, 20)))
      return { id: Number(id), order, body: space < 0 ? undefined : bytes.subarray(space + 1) }
    })
    for (const { id, body } of entries.sort((a, b) => a.order - b.order)) {
      const message = body === undefined ? undefined : this.#read(body)
      if (body !== undefined && message === undefined) continue
      this.counts.inFlight++
      yield { kind: 'inflight', id, ...(message !== undefined && { message: storedMessage(message) }) }
    }
  }

  async *#groups(partition: number): AsyncGenerator<Line> {
    const groupsKey = this.#keys.partition(partition, 'groups')
    for await (const [group, value] of this.#scan(groupsKey)) {
      const gid = value.toString().split(' ')[0]!
      if (!isSid(gid, partition)) {
        this.counts.damaged++
        continue
      }
      const keys = [groupsKey, this.#keys.group(gid, 'backlog'), this.#keys.group(gid, 'given')]
      const reply = await this.#run('group-read', keys, [group, gid])
      if (reply.length > 0) yield* this.#group(group, reply as (readonly Buffer[])[])
    }
  }

  /** What members have in flight goes back into its place, as if their connections had ended. */
  async *#group(group: string, [given, backlog]: readonly (readonly Buffer[])[]): AsyncGenerator<Line> {
    yield { kind: 'group', group }
    const items: Buffer[] = []
    for (const [field, entry] of pairs(given!)) {
      // number, s or r (PUBREC came: then the client has it), granted QoS, item
      const [head] = /^\d{1,15} s [012] /.exec(entry.toString('latin1', 0, 22)) ?? []
      if (head === undefined || field.toString('latin1', 0, 6) === 'topic ') continue
      this.counts.given++
      items.push(entry.subarray(head.length))
    }
    const slice = new Slice()
    for (const item of [...items, ...backlog!].map(ordered).sort((a, b) => a.order - b.order)) {
      if (slice.isOver) await slice.next()
      const message = this.#read(item.body)
      if (message === undefined) continue
      this.counts.backlog++
      yield { kind: 'backlog', message: storedMessage(message) }
    }
  }
}

/** Of what waits in a group: order, QoS, two hashes, message. */
function ordered(item: Buffer): { readonly order: number; readonly body: Buffer } {
  let at = 0
  for (let spaces = 0; spaces < 4; spaces++) at = item.indexOf(0x20, at) + 1
  return { order: Number.parseInt(item.toString('latin1', 0, 20), 10), body: item.subarray(at) }
}
