// The QoS ≥ 1 messages of a session that outlives its connection, while its client is connected here: moves
// them out of the session's queue as the window has room, under free Packet Identifiers, and writes down what
// the client acknowledges. One path for what comes live, what waited, and what an earlier connection left in
// flight. State: {s<n>}:queue, inflight and incoming (bridge/sessions/session-writer.ts); here a mirror of which
// identifiers are in use. Invariant: what is sent is in flight in Redis before, what is acknowledged leaves
// it before its identifier is used again [MQTT-2.2.1-3..4]. What this node cannot send (a later version wrote
// it, or writing it throws, which is a bug) is kept in flight, for a node that can. Bounds: messages in
// flight (Receive Maximum) and their bytes, since all of them come back at once with the next CONNECT;
// messages kept.
import {
  later,
  OwedReplays,
  Slice,
  type Field,
  type InFlightEntry,
  type Making,
  type Message,
  type OwedReplay,
  type Session,
  type SessionHolder,
  type SessionReply,
  type SessionWrites,
  type Stamps,
  type UnderWay,
} from '../../bridge/index.ts'
import { limits } from '../config/limits.ts'
import { identifierMax } from './identifier-set.ts'
import type { Match } from '../routing/local-table.ts'
import type { Replayed } from '../routing/replay-pages.ts'

/** A Retained Message as this session is granted it. */
interface Given {
  readonly replayed: Replayed
  readonly message: Message
  readonly identifiers: readonly number[] | undefined
  readonly owed: OwedReplay | undefined
}

/** By which subscriptions a message is delivered; undefined: by none any more. */
export interface StoredMatch {
  readonly match: Pick<Match<object>, 'identifiers' | 'retainAsPublished'> | undefined
}

/** It is in flight, and is sent when it is known what it matches. */
export interface ToSend {
  readonly message: Message
  readonly messageId: number
  readonly dup: boolean
  readonly identifiers: readonly number[] | undefined
  readonly matching: Making<StoredMatch>
}

/** What a stored session needs of its connection. */
export interface StoredSessionHost {
  /** Bytes in flight beyond which nothing more is taken out of the queue. */
  readonly inFlightBytesMax: number
  /** By which subscriptions it is delivered now. */
  matching(message: Message): Making<StoredMatch>
  /** Writes a PUBLISH; its QoS, or undefined when the client cannot take it and it counts as delivered. */
  write(toSend: ToSend, match: StoredMatch): 1 | 2 | undefined
  pubrel(messageId: number): void
  /** Writing a message threw. */
  failed(error: unknown): void
  /**
   * Bytes that may be written to the client now; 0: it is behind, and `ring` is called when it has caught up.
   */
  room(): number
  /** Deliveries of groups that are under way on the connection: Receive Maximum is about them, too. */
  openElsewhere?(): number
  /** Messages that may be sent at once, however many have room; without it any number. */
  most?(): number
  /** There is something to write; `mayWait`: nobody waits for it. */
  schedule(holder: SessionHolder, mayWait?: boolean): void
  writeRefused(): void
}

/** Messages moved by one call: bounds the time that the script takes. */
const moveMax = 500
/**
 * Identifiers that a bell asks messages under, while nobody knows how many wait: a device gets one now and
 * then, and each identifier costs (500 of them were four fifths of what a message cost).
 */
const expectedMin = 4
/** Messages that a session keeps in flight for another node; beyond them nothing more is moved. */
const leftForLaterMax = limits.inFlightMax
/** Smaller messages are not counted one by one: as many as may be in flight are a few MiB. */
const countedBytes = 4 * 1024

export class StoredSession implements SessionHolder {
  readonly session: Session
  readonly #host: StoredSessionHost
  readonly #receiveMaximum: number
  /**
   * Identifiers in use; `owed`: in flight, and not sent again yet; `done`: acknowledged, and not yet written
   * down; `kept`: not for us to send.
   */
  readonly #inUse = new Map<number, 'owed' | 'sent' | 'received' | 'done' | 'kept'>()
  #leftForLater = 0
  /** Bytes in flight whose body is still stored, of large messages; by identifier. */
  readonly #large = new Map<number, number>()
  #largeBytes = 0
  /** What an earlier connection left in flight and this one has not sent again. */
  #unsent: readonly InFlightEntry[] = []
  /** Those whose turn has come, in their order: what the first one matches is being looked for. */
  #toSend: ToSend[] = []
  /** Deliveries under way on this connection: Receive Maximum is about them. */
  #open = 0
  #lastId = 0
  /** Messages that the queue may hold, by what the last call found. */
  #expected = expectedMin
  #order = 0
  #mayHaveQueued: boolean
  /**
   * Retained Messages because of a SUBSCRIBE. They are not queued: what is in the queue would come before
   * them, newer or not.
   */
  #given: Given[] = []
  /** Those among them that are being written, by identifier. */
  readonly #giving = new Map<number, Given>()
  #isGivenTurn = true
  #allGiven: (() => void)[] = []
  /** Its connection is over: nothing is sent any more, and what its client said is still written down. */
  #closed = false
  /** QoS 2 publishes of the client as they were written down, while nobody released them. */
  readonly #incomingEntries = new Map<number, string>()
  #writing = false
  #whenSettled: (() => void) | undefined
  #acknowledged: number[] = []
  #received: number[] = []
  #incoming: (readonly [number, string])[] = []
  #released: number[] = []
  #fields: Field[] = []
  /** Who waits for the fields above; for those that are being written. */
  #noted: (() => void)[] = []
  #noting: (() => void)[] = []
  /** By number: an identifier may come again while its publish is being written. */
  readonly #recorded = new Map<number, (written: boolean) => void>()
  readonly #forgotten = new Map<number, () => void>()

  constructor(session: Session, receiveMaximum: number, host: StoredSessionHost) {
    this.session = session
    this.#receiveMaximum = receiveMaximum
    this.#host = host
    this.#mayHaveQueued = session.isResumed // nobody knows of a new one before it has subscribed
    for (const [messageId, { n, published }] of session.incoming)
      this.#incomingEntries.set(messageId, published ? `${n} published` : String(n))
    session.underWay = () => this.#underWay()
  }

  /**
   * What is known here when Redis lost it: of deliveries only that PUBREL is owed, since the messages were in
   * Redis alone.
   */
  #underWay(): UnderWay {
    const received = [...this.#inUse]
      .filter(([, state]) => state === 'received')
      .map(([messageId]) => messageId)
    return {
      inFlight: received.map((messageId, i) => [messageId, String(i)]),
      incoming: [...this.#incomingEntries],
      fields: this.session.replays?.heads ?? [],
    }
  }

  /**
   * CONNACK is written: sends again what is in flight, in its order and under its identifiers [MQTT-4.4.0-1],
   * then looks into the queue.
   */
  start(): void {
    const { inFlight } = this.session
    this.session.inFlight = [] // they are not held for as long as the connection lasts
    this.#unsent = inFlight.filter(({ message }) => message !== 'later')
    for (const { messageId, order, message } of inFlight) {
      if (message === 'later') this.#leaveForLater(messageId)
      else this.#inUse.set(messageId, 'owed')
      if (message !== undefined && message !== 'later') this.#count(messageId, message)
      this.#order = Math.max(this.#order, order + 1)
      this.#lastId = messageId
    }
    this.#sendUnsent()
    this.#host.schedule(this)
  }

  /**
   * As many as this client takes at once, which the one before may have taken more of [MQTT-3.3.4-9], and as
   * there is room for.
   */
  #sendUnsent(): void {
    let at = 0
    for (; at < this.#unsent.length && this.#open < this.#max && this.#host.room() > 0; at++) {
      const { messageId, message } = this.#unsent[at]!
      if (this.#inUse.get(messageId) !== 'owed') continue // acknowledged without having been sent again
      this.#inUse.set(messageId, message === undefined ? 'received' : 'sent')
      this.#open++
      if (message === undefined) this.#host.pubrel(messageId)
      else if (message !== 'later') this.#send(message, messageId, true)
    }
    if (at > 0) this.#unsent = this.#unsent.slice(at)
  }

  /** In its order, after what waits to be sent. */
  #send(message: Message, messageId: number, dup: boolean, identifiers?: readonly number[]): void {
    const matching = this.#host.matching(message)
    if (this.#toSend.push({ message, messageId, dup, identifiers, matching }) === 1) this.#sendOn()
  }

  /** At once, as a rule. In slices where one session has tens of thousands of filters that match. */
  #sendOn(): void {
    const slice = new Slice()
    for (let next = this.#toSend[0]; next !== undefined; next = this.#toSend[0]) {
      const match = next.matching.goOn(slice)
      if (match === undefined) return later(() => this.#sendOn())
      if (this.#inUse.get(next.messageId) === 'sent') this.#sendNow(next, match)
      this.#toSend.shift()
      if (slice.isOver && this.#toSend.length > 0) return later(() => this.#sendOn())
    }
  }

  #sendNow(toSend: ToSend, match: StoredMatch): void {
    const { message, messageId, dup } = toSend
    try {
      if (this.#host.write(toSend, match) !== undefined) return
      // What was sent before its receiver may have: until PUBCOMP it takes what comes under the identifier for that
      // [MQTT-4.3.3-10], and PUBREL ends the exchange, whichever it is.
      if (dup && message.qos === 2) this.received(messageId)
      else this.#done(messageId)
    } catch (error) {
      this.#open--
      this.#uncount(messageId)
      this.#leaveForLater(messageId)
      this.#host.failed(error)
    }
  }

  /**
   * It stays in flight as it is: neither sent nor acknowledged away. The next owner of the session looks at
   * it anew.
   */
  #leaveForLater(messageId: number): void {
    this.#inUse.set(messageId, 'kept')
    this.#leftForLater++
  }

  get #max(): number {
    return this.#receiveMaximum - (this.#host.openElsewhere?.() ?? 0)
  }

  /** Deliveries under way. */
  get open(): number {
    return this.#open
  }

  /** The bell: there may be something in the queue. */
  ring(): void {
    this.#mayHaveQueued = true
    this.#sendUnsent()
    this.#host.schedule(this)
  }

  /** What is in flight under an identifier; `owed`: not on this connection. */
  stateOf(messageId: number): 'owed' | 'sent' | 'received' | 'done' | 'kept' | undefined {
    return this.#inUse.get(messageId)
  }

  /** PUBACK, PUBCOMP, or a PUBREC that refuses. */
  complete(messageId: number): void {
    this.#done(messageId)
    this.#sendUnsent()
  }

  /** A replay begins: resolves when whoever has the session next will know of it. */
  async beginReplay(filter: string, isFirst: boolean, { of }: Stamps): Promise<OwedReplay> {
    const replays = (this.session.replays ??= new OwedReplays())
    const replay = replays.begin(filter, isFirst, of)
    await new Promise<void>((noted) => {
      this.#noted.push(noted)
      this.#note(replays.begun(replay))
    })
    return replay
  }

  /** A replay is over. */
  endReplay(replay: OwedReplay): void {
    if (!this.#closed) this.#note(this.session.replays?.end(replay) ?? [])
  }

  #note(fields: readonly Field[]): void {
    for (const field of fields) this.#fields.push(field)
    this.#host.schedule(this)
  }

  /**
   * Retained Messages that a SUBSCRIBE found, to be sent beside what is queued; resolves when all of them had
   * their turn.
   */
  give(
    page: readonly Replayed[],
    granted: 1 | 2,
    identifiers: readonly number[] | undefined,
    owed: OwedReplay | undefined,
  ): Promise<void> {
    if (this.#closed) return Promise.resolve()
    for (const replayed of page) {
      const { message } = replayed
      this.#given.push({
        replayed,
        message: message.with({ qos: Math.min(message.qos, granted) as 1 | 2, replay: true }),
        identifiers,
        owed,
      })
    }
    this.#host.schedule(this)
    return new Promise((resolve) => this.#allGiven.push(resolve))
  }

  #count(messageId: number, message: Message): void {
    const bytes = message.bytes
    if (bytes < countedBytes) return
    this.#large.set(messageId, bytes)
    this.#largeBytes += bytes
  }

  /** Its body goes out of Redis with the next write, before anything is moved. */
  #uncount(messageId: number): void {
    if (this.#large.size === 0) return
    this.#largeBytes -= this.#large.get(messageId) ?? 0
    this.#large.delete(messageId)
  }

  #done(messageId: number): void {
    const state = this.#inUse.get(messageId)
    if (state === undefined || state === 'done' || state === 'kept') return
    this.#uncount(messageId)
    this.#inUse.set(messageId, 'done')
    if (state !== 'owed') this.#open--
    this.#acknowledged.push(messageId)
    this.#host.schedule(this, this.#mayWait)
  }

  /** Nothing waits for the room in the window that an acknowledgement makes once it is written. */
  get #mayWait(): boolean {
    return !this.#mayHaveQueued && this.#given.length === 0 && !this.#closed
  }

  /**
   * PUBREC: written down before PUBREL is sent [MQTT-4.3.3-5]. False: nothing is in flight under the
   * identifier.
   */
  received(messageId: number): boolean {
    const state = this.#inUse.get(messageId)
    if (state === undefined || state === 'done' || state === 'kept') return false
    if (state === 'received') this.#host.pubrel(messageId)
    else {
      if (state === 'owed') this.#open++
      this.#inUse.set(messageId, 'received')
      this.#uncount(messageId)
      this.#received.push(messageId)
      this.#host.schedule(this)
    }
    return true
  }

  /**
   * A QoS 2 PUBLISH of the client came: `recorded` when it will be known again, whatever happens; with false
   * when the session is another's.
   */
  record(messageId: number, n: number, recorded: (written: boolean) => void): void {
    this.#push(messageId, String(n))
    this.#recorded.set(n, recorded)
    this.#host.schedule(this)
  }

  /** It is stored for everybody who was subscribed. */
  recordPublished(messageId: number, n: number): void {
    this.#push(messageId, `${n} published`)
    this.#host.schedule(this)
  }

  #push(messageId: number, entry: string): void {
    this.#incoming.push([messageId, entry])
    this.#incomingEntries.set(messageId, entry)
  }

  /** PUBREL came: `forgotten` when the identifier may be used for another message. */
  forget(messageId: number, forgotten: () => void): void {
    this.#incomingEntries.delete(messageId)
    this.#released.push(messageId)
    this.#forgotten.set(messageId, forgotten)
    this.#host.schedule(this)
  }

  takeWrites(mayGive = true): SessionWrites | undefined {
    const bytes = Math.min(this.#host.room(), this.#host.inFlightBytesMax - this.#largeBytes)
    const ids =
      !this.#closed &&
      (this.#mayHaveQueued || this.#given.length > 0) &&
      bytes > 0 &&
      this.#unsent.length === 0
        ? this.#free()
        : []
    const given = mayGive ? this.#takeGiven(ids) : []
    const free = this.#mayHaveQueued ? ids.slice(given.length) : []
    if (free.length > 0) this.#mayHaveQueued = false
    const writes = {
      acknowledged: this.#acknowledged,
      received: this.#received,
      incoming: this.#incoming,
      released: this.#released,
      fields: this.#fields,
      given,
      free,
      order: this.#order,
      bytes,
    }
    if (given.length + free.length + this.#toWrite === 0) return undefined
    this.#writing = true
    this.#acknowledged = []
    this.#received = []
    this.#incoming = []
    this.#released = []
    this.#fields = []
    this.#noting = this.#noted
    this.#noted = []
    return writes
  }

  /**
   * Those whose turn it is, each under one of the free `ids`. What was delivered until now is known, and what
   * is moved by this call or a later one comes after them: so one that is current now does not overtake a
   * newer one. They share the window with the queue.
   */
  #takeGiven(ids: readonly number[]): (readonly [number, Message])[] {
    const count = this.#mayHaveQueued ? (ids.length + (this.#isGivenTurn ? 1 : 0)) >> 1 : ids.length
    if (ids.length > 0) this.#isGivenTurn = !this.#isGivenTurn
    const taken: [number, Message][] = []
    const pages = new Map<OwedReplay, Message[]>()
    let at = 0
    for (; at < this.#given.length && taken.length < count; at++) {
      const given = this.#given[at]!
      if (!given.replayed.isWanted()) continue
      const messageId = ids[taken.length]!
      this.#giving.set(messageId, given)
      taken.push([messageId, given.message])
      if (given.owed === undefined) continue
      const page = pages.get(given.owed)
      if (page === undefined) pages.set(given.owed, [given.message])
      else page.push(given.message)
    }
    this.#given.splice(0, at)
    for (const [owed, page] of pages) this.#fields.push(owed.page(page))
    this.#checkGiven()
    return taken
  }

  #checkGiven(): void {
    if (this.#given.length + this.#giving.size > 0) return
    for (const resolve of this.#allGiven.splice(0)) resolve()
  }

  get #toWrite(): number {
    return (
      this.#acknowledged.length +
      this.#received.length +
      this.#incoming.length +
      this.#released.length +
      this.#fields.length
    )
  }

  #free(): number[] {
    const free: number[] = []
    if (this.#leftForLater >= leftForLaterMax) return free
    const wanted = Math.min(this.#expected + this.#given.length, this.#host.most?.() ?? Infinity)
    const count = Math.min(this.#max - this.#open, moveMax, identifierMax - this.#inUse.size, wanted)
    for (let id = this.#lastId; free.length < count;) {
      id = id >= identifierMax ? 1 : id + 1
      if (!this.#inUse.has(id)) free.push(id)
    }
    return free
  }

  written(
    { acknowledged, received, incoming, released, given, free }: SessionWrites,
    { messages, left }: SessionReply,
  ): void {
    this.#writing = false
    for (const id of acknowledged) this.#inUse.delete(id)
    for (const [, entry] of incoming) settle(this.#recorded, Number.parseInt(entry, 10), true)
    for (const noted of this.#noting.splice(0)) noted()
    if (this.#closed) return this.#settle()
    for (const id of received) this.#host.pubrel(id)
    for (const id of released) settle(this.#forgotten, id, true)
    this.#order += given.length + messages.length
    this.#expected = Math.max(expectedMin, left, 2 * messages.length)
    for (const [id, message] of given) {
      const { replayed, identifiers } = this.#giving.get(id)!
      this.#giving.delete(id)
      this.#lastId = id
      this.#inUse.set(id, 'sent')
      this.#open++
      this.#count(id, message)
      if (replayed.isWanted()) this.#send(message, id, false, identifiers)
      else this.#done(id)
    }
    this.#checkGiven()
    for (const [i, message] of messages.entries()) {
      const id = (this.#lastId = free[i]!)
      if (message === 'later') {
        this.#leaveForLater(id)
        continue
      }
      this.#inUse.set(id, 'sent')
      this.#open++
      if (message !== undefined) this.#count(id, message)
      if (message === undefined) this.#done(id)
      else this.#send(message, id, false)
    }
    if (left > 0) this.#mayHaveQueued = true
    if (this.#mayHaveQueued || this.#acknowledged.length > 0 || this.#given.length > 0)
      this.#host.schedule(this, this.#mayWait)
  }

  /** What was not written is written when the session proves to be ours after all. */
  moved({ acknowledged, received, incoming, released, fields, given }: SessionWrites): void {
    this.#writing = false
    if (this.#closed) return this.#lose()
    this.#given = [...given.map(([id]) => this.#giving.get(id)!), ...this.#given]
    this.#giving.clear()
    this.#acknowledged = [...acknowledged, ...this.#acknowledged]
    this.#received = [...received, ...this.#received]
    this.#incoming = [...incoming, ...this.#incoming]
    this.#released = [...released, ...this.#released]
    this.#fields = [...fields, ...this.#fields]
    this.#noted = [...this.#noting.splice(0), ...this.#noted]
    this.#host.writeRefused()
  }

  close(): void {
    this.#closed = true
    this.#unsent = []
    this.#toSend = []
    this.#given = []
    this.#giving.clear()
    this.#checkGiven()
    // What a refused write left has nobody else who asks for it, and a QoS 2 PUBLISH waits for its end.
    if (this.#toWrite > 0 && !this.#writing) this.#host.schedule(this)
  }

  /**
   * Resolves when what the client said before the end of its connection is written down, or the session is
   * another's.
   */
  settled(): Promise<void> {
    return new Promise((resolve) => {
      this.#whenSettled = resolve
      this.#settle()
    })
  }

  #settle(): void {
    if (this.#toWrite > 0) this.#host.schedule(this)
    else if (!this.#writing) this.#whenSettled?.()
  }

  /** Whoever has the session now is told it all again by the client. */
  #lose(): void {
    this.#acknowledged = this.#received = this.#released = []
    this.#incoming = []
    this.#fields = []
    for (const noted of [...this.#noting.splice(0), ...this.#noted.splice(0)]) noted()
    for (const n of this.#recorded.keys()) settle(this.#recorded, n, false)
    this.#settle()
  }
}

function settle(waiting: Map<number, (written: boolean) => void>, id: number, written: boolean): void {
  const done = waiting.get(id)
  waiting.delete(id)
  done?.(written)
}
