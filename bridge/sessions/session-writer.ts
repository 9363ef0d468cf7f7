// What owners write about their sessions' messages: acknowledged, received, taken in, released, and which
// ones to send next. Many sessions share one call per partition; one is under way, meanwhile the next one
// gathers (what a session wants is asked for when the call is made). State: {s<n>}:queue, inflight, incoming;
// here which sessions have something to say.
import { CallPace } from '../pace/call-pace.ts'
import type { Clock } from '../pace/clock.ts'
import type { Reports } from '../diagnostics.ts'
import { packMessage, unpackMessage, type Later } from '../messages/codec.ts'
import { Slice } from '../pace/turns.ts'
import { BridgeError, toBridgeError } from '../errors.ts'
import { partitionOf, type Keys } from '../redis/keys.ts'
import type { Message } from '../messages/message.ts'
import type { Field } from './owed-replays.ts'
import { reportsOf, retrying, type Redis } from '../redis/redis.ts'
import { pack, type Packable } from '../redis/pack.ts'
import { runScript } from '../redis/scripts.ts'
import type { Session } from './session.ts'

/** What a session has to write. Packet Identifiers. */
export interface SessionWrites {
  /** PUBACK or PUBCOMP came: deliveries that are done. */
  readonly acknowledged: readonly number[]
  /** PUBREC came: only PUBREL is owed from now on. */
  readonly received: readonly number[]
  /**
   * QoS 2 publishes of the client, to be known when they come again: identifier, n, and " published" when it
   * was.
   */
  readonly incoming: readonly (readonly [number, string])[]
  /** PUBREL came. */
  readonly released: readonly number[]
  /** Of its hash: what it is owed of replays (owed-replays.ts). */
  readonly fields: readonly Field[]
  /**
   * Messages that begin without having been queued, each under a free identifier; the first of them has
   * `order`.
   */
  readonly given: readonly (readonly [messageId: number, message: Message])[]
  readonly order: number
  /** Free identifiers for messages out of the queue. */
  readonly free: readonly number[]
  /** Bytes that there is room for. */
  readonly bytes: number
}

export interface SessionReply {
  /**
   * The next messages, each under the free identifier at its place; undefined: bytes that are not a message;
   * `later`: for who understands it.
   */
  readonly messages: readonly (Message | Later | undefined)[]
  /** Messages left in the queue. */
  readonly left: number
}

/** Whoever sends a session's messages to its client. */
export interface SessionHolder {
  readonly session: Session
  /**
   * What to write now; undefined when there is nothing. The same until `written` is called.
   * @param mayGive false: there is no room for `given`, which waits until it is asked again
   */
  takeWrites(mayGive?: boolean): SessionWrites | undefined
  written(writes: SessionWrites, reply: SessionReply): void
  /** The session has another owner, or is gone: nothing of `writes` is written. */
  moved(writes: SessionWrites): void
}

/** Sessions of one call: bounds the time that the script takes. */
const sessionsMax = 100
/** How long what nobody waits for waits for company: acknowledgements, which come again if the node dies. */
const patienceMs = 5
/** Bytes of messages that begin without having been queued, of one call; the last session may exceed it. */
const bytesMax = 1024 * 1024

interface Call {
  readonly holder: SessionHolder
  readonly writes: SessionWrites
}

function decode(bytes: Buffer, clock: Clock, sid: string, reports: Reports): Message | Later | undefined {
  const message = unpackMessage(bytes, clock)
  if (message === undefined) reports.tell('garbage', { where: 'queue', bytes: bytes.length })
  if (message === 'later') reports.tell('later', { where: 'queue', id: sid })
  return message
}

/**
 * Calls lua/session-serve.lua.
 * @param sessions of each what the script takes
 */
export const serveSessions = (
  redis: Redis,
  keys: Keys,
  partition: number,
  sessions: readonly Packable[],
  sids: readonly string[],
): Promise<(Buffer | [number, ...Buffer[]])[]> =>
  runScript(
    redis,
    'session-serve',
    [keys.partition(partition, 'owners')],
    [keys.sessions(partition), pack(sessions)],
    {
      made: () =>
        sids.flatMap((sid) =>
          (['session', 'queue', 'inflight', 'incoming'] as const).map((noun) => keys.session(sid, noun)),
        ),
    },
  ) as Promise<(Buffer | [number, ...Buffer[]])[]>

class Partition {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #number: number
  readonly #clock: Clock
  /** Who was scheduled first is first. */
  readonly #ready = new Set<SessionHolder>()
  readonly #pace = new CallPace(() => this.#run())
  closed = false

  constructor(redis: Redis, keys: Keys, number: number, clock: Clock) {
    this.#redis = redis
    this.#keys = keys
    this.#number = number
    this.#clock = clock
  }

  schedule(holder: SessionHolder, mayWait: boolean): void {
    this.#ready.add(holder)
    this.#pace.need(mayWait ? patienceMs : 0)
  }

  async #run(): Promise<void> {
    if (this.closed) return
    const call: Call[] = []
    let bytes = 0
    for (const holder of this.#ready) {
      this.#ready.delete(holder)
      const writes = holder.takeWrites()
      if (writes === undefined) continue
      call.push({ holder, writes })
      for (const [, message] of writes.given) bytes += message.bytes
      if (call.length === sessionsMax || bytes >= bytesMax) break
    }
    if (this.#ready.size > 0) this.#pace.needNow()
    if (call.length > 0) await this.#serve(call)
  }

  async #serve(call: readonly Call[]): Promise<void> {
    const replies = await this.#call(
      call.map(({ holder: { session }, writes }) => [
        session.sid,
        session.owner,
        String(session.n),
        writes.acknowledged,
        writes.received,
        writes.incoming.flat(),
        writes.released,
        writes.order,
        writes.given.flatMap(([messageId, message]) => [messageId, packMessage(message, this.#clock)]),
        writes.bytes,
        writes.free,
        writes.fields.flat(),
      ]),
      call.map(({ holder }) => holder.session.sid),
    )
    if (replies === undefined) return
    const slice = new Slice()
    for (const [i, { holder, writes }] of call.entries()) {
      if (slice.isOver) await slice.next()
      const reply = replies[i]!
      if (Buffer.isBuffer(reply)) holder.moved(writes)
      else
        holder.written(writes, {
          left: reply[0],
          messages: (reply.slice(1) as Buffer[]).map((bytes) =>
            decode(bytes, this.#clock, holder.session.sid, reportsOf(this.#redis)),
          ),
        })
    }
  }

  /** Until it is stored; the script changes nothing when it has run before. undefined: the bridge closes. */
  async #call(
    sessions: readonly Packable[],
    sids: readonly string[],
  ): Promise<(Buffer | [number, ...Buffer[]])[] | undefined> {
    const serve = async (): Promise<(Buffer | [number, ...Buffer[]])[]> => {
      if (this.closed) throw new BridgeError('ERR_BRIDGE_CLOSED', 'the bridge is closing')
      return serveSessions(this.#redis, this.#keys, this.#number, sessions, sids)
    }
    try {
      return await retrying(this.#redis, serve)
    } catch (error) {
      if (toBridgeError(error).code === 'ERR_BRIDGE_CLOSED') return undefined
      throw error
    }
  }
}

export class SessionWriter {
  readonly #partitions: readonly Partition[]

  constructor(redis: Redis, keys: Keys, clock: Clock) {
    this.#partitions = Array.from({ length: keys.partitions }, (_, p) => new Partition(redis, keys, p, clock))
  }

  /**
   * The session has something to write, or its bell rang. `mayWait`: it is written with what comes meanwhile,
   * since nobody waits for it.
   */
  touch(holder: SessionHolder, mayWait = false): void {
    this.#partitions[partitionOf(holder.session.sid)]!.schedule(holder, mayWait)
  }

  close(): void {
    for (const partition of this.#partitions) partition.closed = true
  }
}
