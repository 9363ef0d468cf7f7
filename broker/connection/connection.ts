// One client connection as we serve it: its reader, its outbox, its window, and the PUBLISH flow in both
// directions. Aedes' client stands beside it for everything else. State: this connection. Bounds: publishes
// of it that are not acknowledged (count and bytes: beyond them we stop reading, and keep its keep alive
// fresh), deliveries that wait (bytes: beyond them the connection ends with 0x97, since a clean session's
// promise ends with its connection), QoS 0 while it is slow (dropped and counted). The end of a connection
// comes behind what came before it: when its client says good-bye, ends its side or is gone altogether, what
// we have read of it by then is still done, in its order; only then the session is released. The will is void
// as soon as a DISCONNECT that says so has been read, also while what stands before it waits.
import type { Duplex } from 'node:stream'
import type { AedesClient, AedesSubscription } from '../aedes/client.ts'
import { expiryFrom, isExpired, type Message, type OwedReplay, type Session } from '../../bridge/index.ts'
import type { Asked, ConnectionHost } from './host.ts'
import { Goodbye } from './goodbye.ts'
import type { Holder } from './holdings.ts'
import { Incoming } from './incoming.ts'
import { closeBehind, linger } from './linger.ts'
import { Outbox, type OutboxHost } from './outbox.ts'
import { Publishing } from './publishing.ts'
import { Requests } from './requests.ts'
import type { Match } from '../routing/local-table.ts'
import { noWindow, Pending } from './pending.ts'
import type { Replayed, Replays } from '../routing/retained-replay.ts'
import { Room } from './room.ts'
import { StoredSession } from './stored-session.ts'
import { Window, type WindowHost } from './window.ts'
import { limits, outboxLimits } from '../config/limits.ts'
import type { HeldCause } from '../access/refusals.ts'
import { hex, ReasonCode } from '../protocol/reason-codes.ts'
import { isReserved, PacketType, readDisconnect, type Will } from '../protocol/control-packets.ts'
import { PacketReader, type PacketHandler } from '../protocol/packet-reader.ts'
import type { ProtocolViolation } from '../protocol/properties.ts'
import { publishFrame, refusingConnack } from '../protocol/publish.ts'

const pingresp = Buffer.from([PacketType.pingresp << 4, 0])
const noSubscriptions = Object.freeze(Object.create(null) as Record<string, AedesSubscription>)

export class Connection implements PacketHandler, OutboxHost, WindowHost<Pending>, Holder {
  readonly stream: Duplex
  readonly #host: ConnectionHost<Connection>
  readonly #reader: PacketReader
  readonly outbox: Outbox
  /** Filters of the SUBSCRIBE that Aedes is working on → whether the connection did not have them before. */
  isNew: Map<string, boolean> | undefined
  /** Made for it by Aedes, and tied to it at once. */
  client!: AedesClient
  /** What Aedes notes of it, by filter. */
  subscriptions: Record<string, AedesSubscription> = noSubscriptions
  #window: Window<Pending> = noWindow
  #stored: StoredSession | undefined
  #mqtt5 = false
  #origin: Message['origin']
  /** Its CONNECT was in order, and is Aedes' to answer. */
  #asked = false
  #connected = false
  #closed = false
  /** Its client has ended its side: nothing more comes, and what came is still to be done. */
  #ended = false
  /** Its socket is closed. */
  #gone = false
  /** Made when the reader waits, or DISCONNECT comes. */
  #saysGoodbye: Goodbye | undefined
  #over: Room | undefined
  /** Made when the first PUBLISH comes that is to be stored. */
  #publishing: Publishing | undefined
  /** QoS 0 publishes that are not stored yet: retained ones, and those behind one. */
  #retaining = 0
  #held = false
  /** More was read than fits into a slice: it waits for its turn, and the socket for it. */
  isBehind = false
  /** Made when the first SUBSCRIBE or UNSUBSCRIBE comes, gone when none waits or is under way. */
  #requests: Requests | undefined
  /**
   * Filters of SUBSCRIBEs that are not answered yet → which Retained Messages are to be sent behind SUBACK.
   */
  asked: Map<string, Asked> | undefined
  /** Made with the first SUBSCRIBE that asks for Retained Messages. */
  replays: Replays | undefined
  #room: Room | undefined
  /** Made when a QoS 2 PUBLISH or PUBREL comes, or with the stored session. */
  #known: Incoming | undefined
  /** When its CONNECT came. */
  cameAt = 0
  /** From now on a DISCONNECT may be sent [MQTT-3.14.0-1]. */
  connackWritten = false
  /** Why it ended, for the log: what came first. */
  endReason = ''
  /** Settles when its session is released. */
  #released: Promise<void> | undefined
  /** Who ends it: nobody in words, we (`written`) or the client (`said`). */
  #farewell: 'none' | 'written' | 'said' | 'over' = 'none'
  /**
   * Its session has a queue: it outlives the connection, or an earlier one left it; known with the session.
   */
  lasting = false
  /** Settles when Redis knows that the client said good-bye; undefined: there is nothing to know. */
  farewell: Promise<void> | undefined
  /**
   * Settles when the acknowledgements that are held back for slow subscribers have left; undefined: none is.
   */
  held: Promise<void> | undefined
  /** The client's session, once this node owns it. */
  session: Session | undefined

  constructor(stream: Duplex, host: ConnectionHost<Connection>) {
    this.stream = stream
    this.#host = host
    this.#reader = new PacketReader(this, host.readerLimits)
    this.outbox = new Outbox(stream, outboxLimits, this)
  }

  feed(chunk: Buffer): void {
    if (this.#reader.level === 0) this.cameAt = performance.now()
    this.#reader.feed(chunk)
    if (this.#waits) this.#readAhead(chunk)
    // it may write far more than it reads
    else if (this.outbox.bytes > this.#waitingBytesMax) this.#checkWaiting()
    this.#count()
  }

  // The bound of all clients together

  get comingBytes(): number {
    return this.#reader.heldBytes
  }

  #count(): void {
    if (this.#host.holdings.heard(this)) this.stream.pause()
  }

  readForRoom(): void {
    this.#readOn()
  }

  #countWaiting(): void {
    if (this.waitingBytes >= this.#host.holdings.smallBytes) this.#host.holdings.count(this)
  }

  /** There is no room in the node, and what it has shall be read first. */
  get #waitsForRoom(): boolean {
    return this.#host.holdings.isFull && this.outbox.bytes >= this.#host.holdings.smallBytes
  }

  endForRoom(): void {
    this.#host.refused('client-bytes')
    if (this.connackWritten) this.client.disconnect({ reasonCode: ReasonCode.quotaExceeded })
    else this.destroy()
  }

  /** The reader waits: for its publishes, or for CONNACK, for which the client need not wait. */
  get #waits(): boolean {
    return this.#held || (!this.#connected && this.#reader.level > 0)
  }

  /**
   * We read on while the reader waits, up to a bound: behind what waits there may be a good-bye, and a socket
   * may close unread.
   */
  #readAhead(chunk?: Buffer): void {
    if (this.#reader.heldBytes > limits.publishingBytesMax) this.stream.pause()
    this.#goodbye?.look(chunk, () => this.#reader.held())
  }

  get #goodbye(): Goodbye | undefined {
    return this.session === undefined
      ? undefined
      : (this.#saysGoodbye ??= new Goodbye(this.session, this.client.version, (voidsWill, expirySeconds) =>
          this.#host.farewell(this, voidsWill, expirySeconds),
        ))
  }

  /** The will of its CONNECT. */
  get will(): Will | undefined {
    return this.#reader.will
  }

  get clientId(): string {
    return this.client.id ?? ''
  }

  /** Of a session that has a queue. */
  get stored(): StoredSession | undefined {
    return this.#stored
  }

  /** The protocol level that CONNECT names; 0 before it. */
  get level(): number {
    return this.#reader.level
  }

  /** It is another broker's bridge, and says so in CONNECT. */
  get isBridge(): boolean {
    return this.#reader.isBridge
  }

  get mqtt5(): boolean {
    return this.#mqtt5
  }

  /** It is a client's: CONNACK accepted it, and it is not over. */
  get isClient(): boolean {
    return this.#connected && !this.#closed
  }

  /** CONNACK is written: packets that came behind CONNECT are read now. */
  connected(): void {
    this.#connected = true
    this.#host.onClient(this)
    this.#mqtt5 = this.client.version === 5
    const receiveMaximum = Math.min(this.client.receiveMaximum, limits.inFlightMax)
    this.#window = new Window(receiveMaximum, this)
    if (this.lasting && this.session !== undefined) {
      this.#stored = new StoredSession(this.session, receiveMaximum, {
        write: (message, messageId, dup, identifiers) =>
          this.#writeStored(message, messageId, dup, identifiers),
        pubrel: (messageId) => this.#acknowledge(PacketType.pubrel, messageId, 0),
        failed: (error) => this.#host.failed(error, 1),
        room: () => (this.outbox.slow ? 0 : limits.outboxLowBytes),
        schedule: (holder) => this.#host.schedule(holder),
        moved: () => this.#host.moved(this),
      })
      this.#known = new Incoming(this.#stored)
      this.#origin = { sid: this.session.sid, n: 0 }
      this.#stored.start()
      if (this.session.replays !== undefined) this.#host.goOn(this, this.session.replays)
    }
    this.#reader.resume()
    if (this.#held) this.#readAhead()
    this.#readOn()
    this.#finish()
  }

  /** From the socket, unless enough waits to be read. */
  #readOn(): void {
    if (this.isBehind || this.#host.holdings.isWaiting(this)) return
    if (!this.#waits || this.#reader.heldBytes <= limits.publishingBytesMax) this.stream.resume()
  }

  get #incoming(): Incoming {
    return (this.#known ??= new Incoming(undefined))
  }

  /** Something may be in the session's queue. */
  ring(): void {
    this.#stored?.ring()
  }

  /** Whether it is over: nothing is acknowledged any more. */
  get isClosed(): boolean {
    return this.#closed
  }

  /** Whether something that it published is not acknowledged. */
  get isPublishing(): boolean {
    return (this.#publishing?.count ?? 0) > 0
  }

  /**
   * Resolves when all that it published is stored, and what it acknowledged is written down; once, and when
   * nothing more comes.
   */
  async settled(): Promise<void> {
    await this.#publishing?.none()
    await Promise.all([this.#stored?.settled(), this.farewell])
  }

  // The end

  /** Its CONNECT was not accepted, and that is not because its client left. */
  get isRefused(): boolean {
    return !this.connackWritten && !this.#ended
  }

  /** What came before its end is still being done. */
  get isLeaving(): boolean {
    return this.#ended && !this.#closed
  }

  /** Its end has come: what is left of it is done, and its session released, soon. */
  get isEnding(): boolean {
    return this.#closed || this.#ended || this.#saysGoodbye?.isSaid === true
  }

  /** Resolves when it is over, at once when it is. */
  over(): Promise<void> {
    return this.#closed ? Promise.resolve() : (this.#over ??= new Room()).wait()
  }

  /**
   * The client has ended its side: what it sent before comes first [MQTT-4.6.0]; it need not have waited for
   * CONNACK (3.1.4).
   */
  ended(): void {
    this.#ended = true
    this.#finish()
  }

  /** The socket is closed. What was read of it is still done, with nobody to answer to. */
  gone(): void {
    this.#gone = true
    this.outbox.close()
    const rest = this.stream.read() as Buffer | null // what the stream had read when it was closed
    if (rest !== null && !this.#closed) this.feed(rest)
    if (this.client.closed) this.#host.over(this)
    else this.ended()
  }

  failed(error: Error): void {
    if (!this.client.closed) this.#host.broken(this, error)
  }

  #finish(): void {
    if (!this.#ended || this.client.closed || this.#requests !== undefined || this.isBehind) return
    if (!this.#waits || this.#reader.heldBytes === 0) this.client.close()
  }

  /**
   * A DISCONNECT was read: nothing behind it is taken [MQTT-3.14.4-1], and what waits before it comes first.
   */
  #disconnect(frame: Buffer): void {
    this.#reader.close()
    this.#goodbye?.take(frame)
    this.endReason ||= `DISCONNECT ${hex(readDisconnect(frame, this.client.version).reasonCode)}`
    if (this.#requests === undefined) this.#leave()
    else this.#request(PacketType.disconnect, frame)
  }

  /** Its socket closes when what it sent is done and its session is released. */
  #leave(): void {
    this.#farewell = 'said'
    this.#end()
    this.client.close()
  }

  /** Its session is another's: from this moment nothing that it hands in is acknowledged (P6). */
  takenOver(): void {
    if (this.#closed) return
    this.endReason ||= 'taken over by another connection of its Client Identifier'
    if (this.connackWritten && this.client.version === 5)
      this.outbox.push(Buffer.from([PacketType.disconnect << 4, 1, ReasonCode.sessionTakenOver]))
    if (this.connackWritten) this.toldWhy()
    else this.#end()
    this.client.close()
  }

  /** Nothing goes in or out any more, but what is written by now. */
  #end(): void {
    this.#closed = true
    this.#stored?.close()
    this.#reader.close()
    this.#requests = undefined
    this.outbox.close()
  }

  /**
   * The last packet for the client is written [MQTT-3.14.4-1]: a DISCONNECT, or a CONNACK that refuses it.
   */
  toldWhy(reason = ''): void {
    this.#end()
    this.#farewell = 'written'
    this.endReason ||= reason
  }

  /** A valid CONNECT is refused. */
  refuse(reasonCode: number): void {
    this.#sayRefused(reasonCode)
    this.client.close()
  }

  #sayRefused(reasonCode: number): void {
    const refusal = refusingConnack(this.#reader.level, reasonCode)
    if (refusal !== undefined) this.outbox.push(refusal)
    if (refusal !== undefined) this.toldWhy(`refused with ${hex(reasonCode)}`)
  }

  /** Closes the connection. A client that was told why gets a moment for reading it. */
  destroy(): void {
    this.#end()
    if (this.#gone) return this.#host.over(this)
    if (this.#farewell === 'none') this.stream.destroy()
    else if (this.#farewell === 'written') linger(this.stream)
    else if (this.#farewell === 'said') {
      this.#host.over(this)
      closeBehind(this.stream, this.#released)
    }
    this.#farewell = 'over'
  }

  closed(): void {
    this.#end()
    this.#host.holdings.forget(this)
    if (this.session !== undefined) this.#released = this.#host.releaseSession(this)
    this.#window.clear()
    this.onDrain()
    this.#over?.give()
  }

  // From the client

  onOther(type: number, frame: Buffer): void {
    this.#alive()
    if (type === PacketType.connect) {
      this.#asked = true
      this.#reader.pause() // nothing is read until CONNACK [MQTT-3.1.4-4]
    }
    if (type === PacketType.pingreq) return void this.outbox.push(pingresp)
    if (type === PacketType.disconnect) return this.#disconnect(frame)
    if (type !== PacketType.subscribe && type !== PacketType.unsubscribe)
      return this.#host.handle(this, type, frame)
    this.#request(type, frame)
    // the request may have ended it
    if ((this.#requests?.waiting ?? 0) >= this.#host.config.controlPacketsMax) this.#hold('requests')
  }

  #request(type: number, frame: Buffer): void {
    this.#requests ??= new Requests((type, frame) => {
      if (type === PacketType.disconnect) this.#leave()
      else this.#host.handle(this, type, frame)
    }, this.#host.config.controlPacketsMax)
    this.#requests.take(type, frame, this.#publishing?.takeLatest())
  }

  /** SUBACK or UNSUBACK was written; the next may begin when Aedes is done with this one. */
  answered(): void {
    this.#requests?.answered()
    queueMicrotask(() => this.#guarded(() => this.#goOn()))
  }

  onPublish(
    topic: string,
    payload: Buffer,
    qos: 0 | 1 | 2,
    retain: boolean,
    _dup: boolean,
    messageId: number,
    properties: Buffer | undefined,
    expirySeconds: number,
  ): void {
    this.#alive()
    if (isReserved(topic)) return this.#refuse(qos, messageId, ReasonCode.notAuthorized)
    if (retain && payload.length > 0 && !this.#host.mayRetain(topic)) {
      this.#host.refused('retained')
      if (this.#mqtt5 && qos > 0) return this.#refuse(qos, messageId, ReasonCode.quotaExceeded)
      retain = false // there is nothing to say it with: it goes to those who are subscribed
    }
    // QoS 0 goes out at once, but not past a retained one of this connection, which is stored first
    // [MQTT-4.6.0-6].
    if (qos === 0 && !retain && this.#retaining === 0)
      return this.#host.publish(
        this.#message(topic, payload, 0, false, properties, expirySeconds),
        this,
        undefined,
      )
    if (qos === 0) this.#retaining++
    if (
      qos === 2 &&
      !this.#incoming.begin(messageId, () => this.#acknowledge(PacketType.pubrec, messageId, 0))
    )
      return
    const publishing = (this.#publishing ??= new Publishing(this.#host.config.receiveMaximum))
    if (qos > 0) publishing.checkReceiveMaximum((this.#known?.open ?? 0) + (qos === 1 ? 1 : 0), this.#mqtt5)
    const stored = publishing.begin(payload.length + topic.length, qos)
    if (publishing.isFull) this.#hold('publishes')
    const message = this.#message(topic, payload, qos, retain, properties, expirySeconds)
    const done = (): void => {
      stored()
      if (this.#closed) return // nobody is there to be told
      if (qos === 0) this.#retaining--
      if (qos === 2) this.#incoming.markPublished(messageId)
      if (qos > 0) this.#acknowledge(qos === 1 ? PacketType.puback : PacketType.pubrec, messageId, 0)
      this.#goOn()
    }
    if (qos < 2) this.#host.publish(message, this, done)
    else {
      const sid = this.session?.sid ?? ''
      this.#incoming.record(messageId, (n, written) =>
        written ? this.#host.publish({ ...message, origin: { sid, n } }, this, done) : done(),
      )
    }
  }

  #message(
    topic: string,
    payload: Buffer,
    qos: 0 | 1 | 2,
    retain: boolean,
    properties: Buffer | undefined,
    expirySeconds: number,
  ): Message {
    return {
      topic,
      payload,
      qos,
      retain,
      properties,
      publisher: this.client.id ?? undefined,
      expiresAt: expirySeconds < 0 ? 0 : expiryFrom(expirySeconds),
      expirySeconds: expirySeconds < 0 ? undefined : expirySeconds,
      origin: this.#origin,
      from: this.session,
      frames: undefined,
    }
  }

  #refuse(qos: 0 | 1 | 2, messageId: number, reasonCode: number): void {
    this.#host.dropped('refused', qos)
    if (qos === 0) return // there is nothing to say it with
    // 3.1.1 has no way to say it: bridges of Mosquitto begin with such a PUBLISH, and go on when it is
    // acknowledged [MQTT-3.3.5-2].
    if (this.#mqtt5 || this.#host.config.refusedPublish === 'drop')
      this.#acknowledge(qos === 1 ? PacketType.puback : PacketType.pubrec, messageId, reasonCode)
    else this.client.emit('error', new Error('not authorized to publish'))
  }

  onPuback(messageId: number): void {
    this.#alive()
    this.#complete(messageId)
  }

  #complete(messageId: number): void {
    if (this.#stored !== undefined) return this.#stored.complete(messageId)
    this.#window.complete(messageId)
    this.#giveRoom()
  }

  onPubrec(messageId: number, reasonCode: number): void {
    this.#alive()
    if (reasonCode >= 0x80)
      this.#complete(messageId) // [MQTT-4.3.3-8]
    else if (this.#stored === undefined)
      this.#acknowledge(
        PacketType.pubrel,
        messageId,
        this.#window.received(messageId) ? 0 : ReasonCode.packetIdentifierNotFound,
      )
    else if (!this.#stored.received(messageId))
      this.#acknowledge(PacketType.pubrel, messageId, ReasonCode.packetIdentifierNotFound)
  }

  onPubcomp(messageId: number): void {
    this.onPuback(messageId)
  }

  onPubrel(messageId: number): void {
    this.#alive()
    this.#incoming.release(messageId, (known) => {
      if (!this.#closed)
        this.#acknowledge(PacketType.pubcomp, messageId, known ? 0 : ReasonCode.packetIdentifierNotFound)
    })
  }

  onViolation(violation: ProtocolViolation): void {
    if (!this.#asked) this.#sayRefused(violation.reasonCode)
    this.#host.violated(this, violation)
  }

  /** A bug of ours is this connection's end, not everybody's: whoever calls, in whichever turn. */
  onBug(error: unknown): void {
    this.failed(error as Error)
    this.stream.destroy()
  }

  #guarded(work: () => void): void {
    try {
      work()
    } catch (error) {
      this.onBug(error)
    }
  }

  onBehind(): void {
    this.isBehind = true
    this.stream.pause()
  }

  onCaughtUp(): void {
    this.isBehind = false
    if (this.#closed) return
    this.#readOn()
    this.#finish()
  }

  // To the client

  /** Delivers a message once, at the QoS and with the identifiers of `match`. */
  deliver(message: Message, match: Match<object>): void {
    const queued = this.#stored !== undefined && message.qos > 0
    if (queued && match.queued !== 'no') return // the bell rings
    if (message.stamp !== undefined) this.replays?.delivered(message.topic, message.stamp)
    this.send(
      message,
      queued ? { qos: 0, identifiers: match.identifiers } : match,
      message.retain && match.retainAsPublished,
    )
  }

  /** A delivery out of the session's queue. undefined: the client cannot take it, or it expired. */
  #writeStored(
    message: Message,
    messageId: number,
    dup: boolean,
    identifiers?: readonly number[],
  ): 1 | 2 | undefined {
    if (message.stamp !== undefined && message.replay !== true) {
      if (!dup && this.#host.isReplayed(this, message)) return undefined
      this.replays?.delivered(message.topic, message.stamp)
    }
    // Its QoS is what was granted when it was queued: sent again at another one, a QoS 2 message would be
    // doubled.
    const match = this.#host.matchOf(this, message)
    const qos = message.qos === 2 ? 2 : 1
    if (!dup && isExpired(message)) return (this.#host.dropped('expired', qos), undefined)
    const retain = message.replay === true || (message.retain && match?.retainAsPublished === true)
    const frame = publishFrame(message, this.#mqtt5, qos, retain, identifiers ?? match?.identifiers)
    if (this.client.maximumPacketSize !== undefined && frame.length > this.client.maximumPacketSize)
      return (this.#host.dropped('too-large', qos), undefined)
    this.outbox.pushPublish(frame, messageId, dup)
    this.#countWaiting()
    return qos
  }

  // Retained Messages because of a SUBSCRIBE

  /**
   * Sends some, one at a time: together they may be more than there is room for. Those of QoS ≥ 1 of a stored
   * session are its to send.
   */
  async replay(
    page: readonly Replayed[],
    match: Pick<Match<object>, 'qos' | 'identifiers'>,
    owed: OwedReplay | undefined,
  ): Promise<void> {
    const stored = this.#stored
    const isStored = ({ message }: Replayed): boolean =>
      stored !== undefined && message.qos > 0 && match.qos > 0
    for (const replayed of page) {
      if (isStored(replayed)) continue
      await this.roomForMore()
      if (replayed.isWanted()) this.send(replayed.message, match, true) // [MQTT-3.3.1-8]
    }
    if (match.qos !== 0) await stored?.give(page.filter(isStored), match.qos, match.identifiers, owed)
  }

  /**
   * Delivers with the RETAIN flag as given: 1 for retained messages sent because of a SUBSCRIBE
   * [MQTT-3.3.1-8].
   */
  send(message: Message, match: Pick<Match<object>, 'qos' | 'identifiers'>, retain: boolean): void {
    // nothing leaves before CONNACK [MQTT-3.2.0-1]: a resumed session's QoS 0; the rest is in its queue
    if (this.#closed || !this.#connected) return
    const qos = Math.min(message.qos, match.qos) as 0 | 1 | 2
    if (isExpired(message)) return this.#host.dropped('expired', qos) // [MQTT-3.3.2-5]
    const frame = publishFrame(message, this.#mqtt5, qos, retain, match.identifiers)
    if (this.client.maximumPacketSize !== undefined && frame.length > this.client.maximumPacketSize)
      return this.#host.dropped('too-large', qos) // [MQTT-3.1.2-24]
    if (qos === 0) {
      if (this.outbox.slow) return this.#host.dropped('slow-subscriber', qos)
      if (this.#waitsForRoom) return this.#host.dropped('client-bytes', qos)
      this.outbox.pushPublish(frame)
    } else this.#window.push(new Pending(frame, qos, message.expiresAt))
    this.#countWaiting()
    if (qos > 0) this.#checkWaiting(message.topic)
  }

  put({ frame, qos, expiresAt }: Pending, messageId: number): boolean {
    if (isExpired({ expiresAt })) {
      this.#host.dropped('expired', qos)
      return false
    }
    try {
      this.outbox.pushPublish(frame, messageId)
      return true
    } catch (error) {
      this.#host.failed(error, qos)
      return false
    }
  }

  /** However large the packets are that are accepted, there is room for one. */
  get #waitingBytesMax(): number {
    return limits.waitingBytesMax + this.#host.readerLimits.packetBytesMax
  }

  /** What waits for this connection, bytes. */
  get waitingBytes(): number {
    return this.#window.waitingBytes + this.outbox.bytes
  }

  #checkWaiting(topic?: string): void {
    const waiting = this.waitingBytes
    if (this.client.closed) return // told to go already
    if (waiting > this.#waitingBytesMax) {
      this.#host.dropped('slow-subscriber', 1)
      this.client.disconnect({ reasonCode: ReasonCode.quotaExceeded })
    } else if (topic !== undefined && waiting > limits.outboxHighBytes && this.outbox.slow)
      this.#host.slow(this, topic)
  }

  onDrain(): void {
    this.#host.drained(this)
    this.#stored?.ring()
    this.#giveRoom()
  }

  /** Resolves when there is room for more: at once, or when what waits in outbox and window has drained. */
  roomForMore(): Promise<void> {
    if (this.#closed || (!this.outbox.slow && this.#window.waitingBytes <= limits.outboxHighBytes))
      return Promise.resolve()
    return (this.#room ??= new Room()).wait()
  }

  #giveRoom(): void {
    if (this.#closed || (!this.outbox.slow && this.#window.waitingBytes <= limits.outboxLowBytes))
      this.#room?.give()
  }

  #acknowledge(type: 4 | 5 | 6 | 7, messageId: number, reasonCode: number): void {
    if (this.#closed) return
    this.outbox.pushAcknowledgement(type, messageId, this.#mqtt5, reasonCode)
  }

  // Holding a publisher back

  #hold(cause: HeldCause): void {
    if (this.#held) return
    this.#held = true
    this.#host.heldBack(cause)
    this.#reader.pause()
  }

  #goOn(): void {
    if (this.#requests?.goOn() === false) this.#requests = undefined
    if (this.#held && this.#publishing?.hasRoom !== false && (this.#requests?.waiting ?? 0) === 0) {
      this.#held = false
      this.#reader.resume()
      if (!this.#waits) this.#saysGoodbye?.lookNoMore()
      this.#readOn()
    }
    this.#finish()
  }

  /**
   * A packet came: keep alive starts anew [MQTT-3.1.2-22]. Called too, now and then, while we do not read.
   */
  #alive(): void {
    if (this.client._keepaliveInterval > 0) this.client._keepaliveTimer?.refresh()
  }

  /** While we hold it back the client cannot be blamed for its silence. */
  excuse(): void {
    if (this.#held || this.#ended) this.#alive()
  }
}
