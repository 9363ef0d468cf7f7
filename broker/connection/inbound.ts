// What comes from the client of one connection, packet by packet, in the order in which it was sent: PUBLISH and
// the acknowledgements are ours, PINGREQ is answered at once, SUBSCRIBE and UNSUBSCRIBE wait for what came before
// them, everything else is the engine's. State: this connection's reader, and what of its publishes is not stored
// yet. Bounds: publishes that are not acknowledged (count and bytes), requests that wait: beyond them we stop
// reading, and keep the client's keep alive fresh meanwhile.
import { Message, type Publisher } from '../../bridge/index.ts'
import { Goodbye } from './goodbye.ts'
import type { ConnectionHost } from './connection-host.ts'
import type { ConnectionParts } from './connection-parts.ts'
import { Qos2Receiver } from './qos2-receiver.ts'
import { PublishPace } from './publish-pace.ts'
import { UnstoredPublishes, type UnstoredPublish } from './unstored-publishes.ts'
import { RequestQueue } from './request-queue.ts'
import type { StoredSession } from './stored-session.ts'
import { Decisions } from '../access/decisions.ts'
import { Refusal, type Gate } from '../access/gate.ts'
import type { LiveTenant } from '../access/tenancy.ts'
import type { HeldCause } from '../access/refusals.ts'
import { hex, ReasonCode, reasonOf } from '../protocol/reason-codes.ts'
import {
  isReserved,
  PacketType,
  readDisconnect,
  type Will,
  type Wishes,
} from '../protocol/control-packets.ts'
import { LookAhead } from '../protocol/look-ahead.ts'
import { PacketReader, type PacketHandler } from '../protocol/packet-reader.ts'
import { protocolError, ProtocolViolation } from '../protocol/properties.ts'

const reserved = new Refusal(ReasonCode.notAuthorized, 'a topic of the broker')
const noRoom = new Refusal(ReasonCode.quotaExceeded, 'there is no room for another Retained Message')
const noPublisher: Publisher = { clientId: undefined }
const pingresp = Buffer.from([PacketType.pingresp << 4, 0])

/** @param seconds -1: none */
export const boundedExpiry = (seconds: number, max: number | undefined): number =>
  max !== undefined && (seconds < 0 || seconds > max) ? max : seconds

export class Inbound<Connection extends ConnectionParts> implements PacketHandler {
  readonly #connection: Connection
  readonly #host: ConnectionHost<Connection>
  readonly #gate: Gate<Connection>
  readonly #reader: PacketReader
  /** As its messages say it, once CONNACK is written. */
  #publisher = noPublisher
  /** Where tenants are on, once CONNACK is written. */
  #tenant: LiveTenant | undefined
  /** CONNECT was valid, and was passed to Aedes, which answers it. */
  #hasConnect = false
  /** Made when the reader waits, or DISCONNECT comes. */
  #saysGoodbye: Goodbye | undefined
  /** Made when the first PUBLISH comes that is to be stored. */
  #publishing: UnstoredPublishes | undefined
  /** QoS 0 publishes that are not stored yet: retained ones, and those that wait behind one. */
  #retaining = 0
  #isPaused = false
  /** How fast it may publish, where that is bounded. */
  readonly #pace: PublishPace | undefined
  /** It has published too fast: until then it is held back. */
  #pacing: NodeJS.Timeout | undefined
  /** Made when a PUBLISH comes that the gate decides. */
  #decisions: Decisions | undefined
  /** More was read than fits into a slice: it waits for its turn, and the socket for it. */
  isBehind = false
  /** What waits for it to be caught up. */
  #whenCaughtUp: (() => void)[] = []
  /** Made when the first SUBSCRIBE or UNSUBSCRIBE comes, gone when none waits or is under way. */
  #requests: RequestQueue | undefined
  /** Made when a QoS 2 PUBLISH or PUBREL comes, or with the stored session. */
  #knownQos2: Qos2Receiver | undefined
  /** When its CONNECT came. */
  cameAt = 0

  constructor(connection: Connection, host: ConnectionHost<Connection>) {
    this.#connection = connection
    this.#host = host
    this.#gate = host.gate
    this.#reader = new PacketReader(this, host.readerLimits)
    this.#pace = PublishPace.of(host.listener ?? host.config)
  }

  feed(chunk: Buffer): void {
    if (this.#reader.level === 0) this.cameAt = performance.now()
    this.#host.traffic.receivedBytes += chunk.length
    if (this.#pace?.isLooking === true) this.#lookForPings(this.#pace, [chunk])
    this.#reader.feed(chunk)
    if (this.#pacing !== undefined) this.#beginToLook()
    if (this.#waits) this.#readAhead(chunk)
    // it may write far more than it reads
    else this.#connection.outbound.checkAnswers()
    if (this.#host.holdings.heard(this.#connection)) this.#connection.stream.pause()
  }

  /** Bytes of packets that are not whole or not read. */
  get unreadBytes(): number {
    return this.#reader.unreadBytes
  }

  /** The protocol level that CONNECT names; 0 before it. */
  get level(): number {
    return this.#reader.level
  }

  /** The will of its CONNECT. */
  get will(): Will | undefined {
    return this.#reader.will
  }

  /** What the properties of CONNECT ask for; undefined: they are not known. */
  get wishes(): Wishes | undefined {
    return this.#reader.wishes
  }

  /** It is another broker's bridge, and says so in CONNECT. */
  get isForeignBridge(): boolean {
    return this.#reader.isForeignBridge
  }

  /** Reading is paused by a bound, or because CONNACK is not written yet: a client may send before CONNACK. */
  get #waits(): boolean {
    return this.#isPaused || (!this.#connection.isConnected && this.#reader.level > 0)
  }

  /**
   * The socket is read while the reader waits, up to a bound: a DISCONNECT may stand behind what waits, and has to
   * be found before the socket closes.
   */
  #readAhead(chunk?: Buffer): void {
    if (this.#reader.unreadBytes > this.#host.config.publishingBytesMax) this.#connection.stream.pause()
    this.#goodbye?.look(chunk, () => this.#reader.unread())
    if (this.saidGoodbye) this.#connection.letGo()
  }

  get #goodbye(): Goodbye | undefined {
    const { session } = this.#connection
    return session === undefined
      ? undefined
      : (this.#saysGoodbye ??= new Goodbye(session, this.#connection.level, (voidsWill, expirySeconds) =>
          this.#host.farewell(this.#connection, voidsWill, expirySeconds),
        ))
  }

  /** CONNACK is written: packets that came after CONNECT are read now. */
  start(stored: StoredSession | undefined): void {
    const { client, session } = this.#connection
    this.#tenant = this.#connection.tenant
    this.#publisher = { clientId: client.clientId, sid: stored?.session.sid, session }
    if (stored !== undefined) this.#knownQos2 = new Qos2Receiver(stored)
  }

  /** @param isItsTurn the client may send AUTH now, before CONNACK; otherwise nothing is read */
  authenticate(isItsTurn: boolean): void {
    this.#reader.isAuthenticating = true
    if (!isItsTurn) this.#reader.pause()
    // in a later turn: this may be called by the reader, which `resume` would enter again
    else setImmediate(() => this.#connection.guarded(() => this.resume()))
  }

  resume(): void {
    if (this.#connection.isConnected) this.#reader.isAuthenticating = false
    this.#reader.resume()
    if (this.#isPaused) this.#readAhead()
    this.readOn()
  }

  /** From the socket, unless enough waits to be read. */
  readOn(): void {
    if (this.isBehind || this.#host.holdings.isWaiting(this.#connection)) return
    if (!this.#waits || this.#reader.unreadBytes <= this.#host.config.publishingBytesMax)
      this.#connection.stream.resume()
  }

  get #qos2(): Qos2Receiver {
    return (this.#knownQos2 ??= new Qos2Receiver(undefined))
  }

  /** Whether something that it published is not acknowledged. */
  get isPublishing(): boolean {
    return (this.#publishing?.count ?? 0) > 0
  }

  /** Resolves when all that it published is stored; once, and when nothing more comes. */
  async published(): Promise<void> {
    await this.#publishing?.none()
  }

  /** Handling something of it failed: what it published may never come to its end, and nothing waits for that. */
  giveUp(): void {
    this.#publishing?.giveUp()
  }

  /** A DISCONNECT was found, also among what is not read yet. */
  get saidGoodbye(): boolean {
    return this.#saysGoodbye?.isSaid === true
  }

  /** The same where it was not looked for, as before CONNACK. O(what waits to be read). */
  hasGoodbye(): boolean {
    if (this.saidGoodbye) return true
    const look = new LookAhead(PacketType.disconnect)
    for (const piece of this.#reader.unread()) if (look.feed(piece) !== undefined) return true
    return false
  }

  /** What was read of it is done, as far as it can be. */
  get isDone(): boolean {
    return this.#requests === undefined && !this.isBehind && (!this.#waits || this.#reader.unreadBytes === 0)
  }

  /** Nothing more is read. */
  end(): void {
    clearTimeout(this.#pacing)
    this.#reader.close()
    this.#requests = undefined
  }

  /**
   * A DISCONNECT was read: nothing after it is taken [MQTT-3.14.4-1], and what waits before it comes first.
   */
  #disconnect(frame: Buffer): void {
    this.#reader.close()
    this.#goodbye?.take(frame)
    const { reasonCode } = readDisconnect(frame, this.#connection.level)
    this.#connection.endReason ||= `DISCONNECT ${hex(reasonCode)}`
    this.#connection.letGo()
    if (this.#requests === undefined) this.#connection.leave()
    else this.#request(PacketType.disconnect, frame)
  }

  onOther(type: number, frame: Buffer): void {
    const { client } = this.#connection
    this.#host.traffic.received[type]!++
    client.heard()
    switch (type) {
      case PacketType.connect:
        this.#hasConnect = true
        this.#reader.pause() // nothing is read until CONNACK [MQTT-3.1.4-4]
        return client.connect(frame)
      case PacketType.pingreq:
        return this.#pace?.wasAnswered() === true ? undefined : this.#pinged()
      case PacketType.disconnect:
        return this.#disconnect(frame)
      case PacketType.auth:
        return this.#connection.authentication?.came(frame)
      default: // SUBSCRIBE, UNSUBSCRIBE
        this.#request(type, frame)
        // the request may have ended it
        if ((this.#requests?.waiting ?? 0) >= this.#host.config.controlPacketsMax) this.#hold('requests')
    }
  }

  #request(type: number, frame: Buffer): void {
    const { controlPacketsMax, publishingBytesMax } = this.#host.config
    this.#requests ??= new RequestQueue(
      (type, frame) => {
        if (type === PacketType.disconnect) this.#connection.leave()
        else if (type === PacketType.subscribe) this.#connection.client.subscribe(frame)
        else this.#connection.client.unsubscribe(frame)
      },
      controlPacketsMax,
      publishingBytesMax,
    )
    this.#requests.take(type, frame, this.#publishing?.takeLatest())
  }

  /** SUBACK or UNSUBACK was written; the next may begin when Aedes is done with this one. */
  answered(granted: readonly number[]): void {
    const { answering } = this.#connection
    const gate = this.#gate
    this.#connection.answering = undefined
    if (answering !== undefined && this.#host.traces.isOn)
      this.#tellAnswered(answering.isSubscribe, answering.filters, granted)
    if (answering?.isSubscribe === false) gate.unsubscribed?.(answering.filters, this.#connection)
    else if (answering !== undefined)
      gate.subscribed?.(
        answering.filters.map((filter, i) => ({ filter, granted: granted[i]! })),
        this.#connection,
      )
    const { session } = this.#connection
    if (session !== undefined && session.lost > 0) this.#host.subscribedAgain(session)
    this.#requests?.answered()
    queueMicrotask(() => this.#connection.guarded(() => this.#goOn()))
  }

  onPublish(
    topic: string,
    payload: Buffer,
    qos: 0 | 1 | 2,
    retain: boolean,
    dup: boolean,
    messageId: number,
    properties: Buffer | undefined,
    expirySeconds: number,
    isMistyped: boolean,
  ): void {
    this.#connection.client.heard()
    this.#host.traffic.received[PacketType.publish]!++
    const named = this.#tenant === undefined ? topic : this.#tenant.published(topic)
    if (this.#host.traces.isWatching)
      this.#host.traces.received({ topic: named, payload, qos, retain, by: this.#publisher }, messageId, dup)
    const pace = this.#pace
    if (
      pace !== undefined &&
      this.#isTooFast(pace, topic.length + payload.length + (properties?.length ?? 0), named, qos, messageId)
    )
      return
    const gate = this.#gate
    if (isMistyped) return this.#refuseNew(named, qos, messageId, ReasonCode.payloadFormatInvalid) // 3.3.2.3.2
    const expiry = boundedExpiry(expirySeconds, this.#host.config.messageExpirySecondsMax)
    const message = Message.published(named, payload, qos, retain, properties, expiry, this.#publisher)
    if (gate.publish !== undefined || this.#decisions?.isEmpty === false) this.#ask(message, messageId, topic)
    else if (isReserved(topic)) this.#refuse(named, qos, messageId, reserved)
    else if (qos === 0 && !retain && this.#retaining === 0)
      // QoS 0 goes out at once, but not past a retained one of this connection, which is stored first
      // [MQTT-4.6.0-6].
      this.#host.publish(message, this.#connection, undefined)
    else if (qos < 2 || this.#isNew(messageId)) this.#publish(message, qos, messageId, this.#begin(message))
  }

  /**
   * @param topic as it is called outside
   *
   * Refuses a PUBLISH that was never begun, after the answers to those before it.
   */
  #refuseNew(topic: string, qos: 0 | 1 | 2, messageId: number, reasonCode: number): void {
    const refusal = { reasonCode, reason: reasonOf(reasonCode) ?? hex(reasonCode) }
    if (this.#decisions?.isEmpty === false) {
      const publishing = (this.#publishing ??= new UnstoredPublishes(this.#host.config))
      const unstored = publishing.begin(0, qos)
      if (publishing.isFull) this.#hold('publishes') // as many wait as may, refused or not
      this.#decisions.add(undefined, () =>
        this.#connection.guarded(() => this.#refuse(topic, qos, messageId, refusal, unstored)),
      )
    } else this.#refuse(topic, qos, messageId, refusal)
  }

  /** False for a QoS 2 PUBLISH that is sent again. */
  #isNew(messageId: number): boolean {
    return this.#qos2.begin(messageId, () =>
      this.#connection.outbound.acknowledge(PacketType.pubrec, messageId, 0),
    )
  }

  /** Counts the message as not stored, until it is stored or refused: then the caller ends it. */
  #begin({ bytes, qos }: Message): UnstoredPublish {
    const publishing = (this.#publishing ??= new UnstoredPublishes(this.#host.config))
    const { mqtt5 } = this.#connection
    if (qos > 0) publishing.checkReceiveMaximum((this.#knownQos2?.open ?? 0) + (qos === 1 ? 1 : 0), mqtt5)
    const unstored = publishing.begin(bytes, qos)
    if (publishing.isFull) this.#hold('publishes')
    return unstored
  }

  /**
   * @param topic as the client has it
   *
   * The gate decides. What comes after it waits in its order; a PINGREQ does not. The connection may end meanwhile,
   * and its session be taken over: what the client sent before is published all the same where it may be, since its
   * session is released after it, and the bridge refuses what comes of a session that was taken (`isTooLate`).
   */
  #ask(message: Message, messageId: number, topic: string): void {
    const { qos } = message
    if (qos === 2 && !this.#isNew(messageId)) return
    const unstored = this.#begin(message)
    const answer = isReserved(topic)
      ? reserved
      : (this.#gate.publish?.(message, 'client', this.#connection) ?? message)
    this.#decisions ??= new Decisions()
    this.#decisions.add(answer, (decided) =>
      this.#connection.guarded(() => {
        if (decided instanceof Refusal) this.#refuse(message.topic, qos, messageId, decided, unstored)
        else this.#publish(decided, qos, messageId, unstored)
      }),
    )
  }

  /** @param qos of the PUBLISH packet, by which it is acknowledged: a hook may have changed that of the message */
  #publish(message: Message, qos: 0 | 1 | 2, messageId: number, unstored: UnstoredPublish): void {
    const { length } = message.payload
    if (message.retain && length > 0 && !this.#host.mayRetain(message.topic, length)) {
      this.#host.refused('retained')
      if (this.#connection.mqtt5 && qos > 0)
        return this.#refuse(message.topic, qos, messageId, noRoom, unstored)
      message = message.with({ retain: false }) // 3.1.1 and QoS 0 have no refusal: subscribers get it, not retained
    }
    this.#publishing!.handOn(qos)
    if (message.qos === 0 && !message.retain && this.#retaining === 0) {
      this.#host.publish(message, this.#connection, undefined)
      return this.#acknowledge(qos, messageId, 0, unstored)
    }
    if (qos === 2)
      return this.#qos2.record(messageId, (number, written) =>
        this.#connection.guarded(() =>
          written
            ? this.#store(message.with({ by: { ...this.#publisher, number } }), qos, messageId, unstored)
            : this.#acknowledge(qos, messageId, 0, unstored),
        ),
      )
    if (qos === 0) this.#retaining++
    this.#store(message, qos, messageId, unstored)
  }

  #store(message: Message, qos: 0 | 1 | 2, messageId: number, unstored: UnstoredPublish): void {
    this.#host.publish(message, this.#connection, () => {
      if (qos === 0) this.#retaining--
      const reasonCode = message.isUnmatched ? ReasonCode.noMatchingSubscribers : 0
      this.#acknowledge(qos, messageId, reasonCode, unstored)
    })
  }

  /** The PUBLISH is stored: acknowledges it. Refusals that wait behind it follow in their order. */
  #acknowledge(qos: 0 | 1 | 2, messageId: number, reasonCode: number, unstored: UnstoredPublish): void {
    const { isClosed, outbound } = this.#connection
    if (qos === 2 && !isClosed) this.#qos2.markPublished(messageId)
    if (qos > 0)
      outbound.acknowledge(qos === 1 ? PacketType.puback : PacketType.pubrec, messageId, reasonCode)
    unstored.end()
    if (!isClosed) this.#goOn()
  }

  /** @param begun of `#begin`, where the PUBLISH was counted as not stored */
  #refuse(
    topic: string,
    qos: 0 | 1 | 2,
    messageId: number,
    { reasonCode, reason }: Pick<Refusal, 'reasonCode' | 'reason'>,
    begun?: UnstoredPublish,
  ): void {
    this.#host.dropped('refused', qos)
    if (this.#host.traces.isOn) this.#tellRefused(topic, qos, messageId, reasonCode, reason)
    if (qos === 0) {
      // QoS 0 has no refusal
      begun?.end()
      return this.#goOn()
    }
    // 3.1.1 has no way to say it: bridges of Mosquitto begin with such a PUBLISH, and go on when it is
    // acknowledged [MQTT-3.3.5-2].
    const { mqtt5 } = this.#connection
    if (!mqtt5 && this.#host.config.refusedPublish === 'close') {
      begun?.end()
      return void this.#connection.client.fail(new Error('not authorized to publish'))
    }
    const publishing = (this.#publishing ??= new UnstoredPublishes(this.#host.config))
    const unstored = begun ?? publishing.begin(0, qos)
    publishing.refuse(qos, () => {
      const { isClosed, outbound } = this.#connection
      if (qos === 2 && !isClosed) this.#knownQos2?.refuse(messageId, !mqtt5)
      outbound.acknowledge(
        qos === 1 ? PacketType.puback : PacketType.pubrec,
        messageId,
        reasonCode,
        reasonOf(reasonCode),
      )
      unstored.end()
      if (!isClosed) this.#goOn()
    })
    if (publishing.isFull) this.#hold('publishes')
  }

  // What is told of it while somebody follows messages

  #tellRefused(topic: string, qos: number, packetId: number, reasonCode: number, why: string): void {
    const message = { topic, qos, payload: undefined, by: this.#publisher }
    const facts = { code: hex(reasonCode), why, ...(qos > 0 && { packetId }) }
    this.#host.traces.tell('refused', message, facts)
  }

  #tellAnswered(isSubscribe: boolean, filters: readonly string[], granted: readonly number[]): void {
    const { clientId } = this.#connection.client
    for (const [i, filter] of filters.entries()) {
      const code = granted[i] ?? 0
      if (code >= 0x80) continue // broker/aedes/subscribe.ts has told why
      if (isSubscribe) this.#host.traces.client('subscribed', clientId, { filter, granted: code })
      else this.#host.traces.client('unsubscribed', clientId, { filter })
    }
  }

  onPuback(messageId: number): void {
    this.#answers(PacketType.puback, messageId)
    this.#connection.outbound.complete(messageId)
  }

  /** @throws ProtocolViolation when it is no answer to what was sent under the identifier */
  #answers(type: 4 | 5 | 7, messageId: number): void {
    this.#connection.client.heard()
    this.#host.traffic.received[type]!++
    if (!this.#connection.outbound.mayAnswer(type, messageId))
      throw protocolError(`a packet of type ${type} where the QoS of what was sent asks for another`)
  }

  onPubrec(messageId: number, reasonCode: number): void {
    this.#answers(PacketType.pubrec, messageId)
    if (reasonCode >= 0x80)
      this.#connection.outbound.complete(messageId) // [MQTT-4.3.3-8]
    else this.#connection.outbound.received(messageId)
  }

  onPubcomp(messageId: number): void {
    this.#answers(PacketType.pubcomp, messageId)
    this.#connection.outbound.complete(messageId)
  }

  onPubrel(messageId: number): void {
    this.#connection.client.heard()
    this.#host.traffic.received[PacketType.pubrel]!++
    this.#qos2.release(messageId, (known) => {
      if (!this.#connection.isClosed)
        this.#connection.outbound.acknowledge(
          PacketType.pubcomp,
          messageId,
          known ? 0 : ReasonCode.packetIdentifierNotFound,
        )
    })
  }

  onViolation(violation: ProtocolViolation): void {
    if (!this.#hasConnect || this.#reader.isAuthenticating)
      this.#connection.sayRefused(violation.reasonCode, violation.message)
    this.#host.violated(this.#connection, violation)
  }

  onBug(error: unknown): void {
    this.#connection.onBug(error)
  }

  onBehind(): void {
    this.isBehind = true
    this.#connection.stream.pause()
  }

  whenCaughtUp(then: () => void): void {
    this.#whenCaughtUp.push(then)
  }

  onCaughtUp(): void {
    this.isBehind = false
    for (const then of this.#whenCaughtUp.splice(0)) setImmediate(then)
    if (this.#connection.isClosed) return
    this.readOn()
    this.#connection.finish()
  }

  // Holding a publisher back

  #hold(cause: HeldCause): void {
    if (this.#isPaused) return
    this.#isPaused = true
    this.#host.heldBack(cause)
    this.#reader.pause()
  }

  #goOn(): void {
    if (this.#requests?.goOn() === false) this.#requests = undefined
    const mayGoOn = this.#pacing === undefined && this.#publishing?.hasRoom !== false
    if (this.#isPaused && mayGoOn && (this.#requests?.waiting ?? 0) === 0) {
      this.#isPaused = false
      this.#reader.resume()
      if (!this.#waits) this.#saysGoodbye?.lookNoMore()
      this.readOn()
    }
    this.#connection.finish()
  }

  /** A PUBLISH came. @returns whether it is refused for that; otherwise it is taken, and those after it may wait */
  #isTooFast(pace: PublishPace, bytes: number, topic: string, qos: 0 | 1 | 2, messageId: number): boolean {
    // A PUBLISH of 3.1.1 at QoS ≥ 1 cannot be refused, and one that is sent again is not new: both wait.
    const isKnown = qos === 2 && this.#knownQos2?.has(messageId) === true
    const mayRefuse = pace.refuses && (qos === 0 || (this.#connection.mqtt5 && !isKnown))
    if (mayRefuse && pace.isSpent) {
      this.#host.refused('publish-rate')
      this.#refuseNew(topic, qos, messageId, ReasonCode.quotaExceeded) // PUBACK has no 0x96
      return true
    }
    if (pace.disconnects && pace.isSpent)
      throw new ProtocolViolation(
        ReasonCode.messageRateTooHigh,
        'more was published within a second than there may be',
        'publish-rate',
      )
    const ms = pace.take(bytes)
    if (ms === 0 || mayRefuse || pace.disconnects || this.#pacing !== undefined) return false
    if (this.#connection.isEnding) return false // nothing comes after what waits, which is bounded
    this.#hold('publish-rate')
    this.#pacing = setTimeout(() => this.#connection.guarded(() => this.#goOnPublishing(pace)), ms).unref()
    queueMicrotask(() => this.#connection.guarded(() => this.#beginToLook())) // when the reader has stopped
    return false
  }

  /** Its end has come: what waits is read at once. */
  paceNoMore(): void {
    if (this.#pacing === undefined || this.#pace === undefined) return
    clearTimeout(this.#pacing)
    this.#goOnPublishing(this.#pace)
  }

  #goOnPublishing(pace: PublishPace): void {
    this.#pacing = undefined
    if (this.#connection.isClosed) return
    this.#goOn()
    if (this.#reader.unreadBytes === 0) pace.lookNoMore()
  }

  /** Looks for PINGREQs in what is unread, and from then on in each chunk that comes, until all is read. */
  #beginToLook(): void {
    const pace = this.#pace
    if (pace === undefined || pace.isLooking || this.#pacing === undefined) return
    this.#lookForPings(pace, this.#reader.unread())
  }

  #lookForPings(pace: PublishPace, pieces: Iterable<Buffer>): void {
    let found = 0
    for (const piece of pieces) found += pace.look(piece)
    for (; found > 0; found--) this.#pinged()
  }

  #pinged(): void {
    this.#gate.pinged?.(this.#connection)
    this.#connection.outbox.push(pingresp)
  }

  /** While we hold it back the client cannot be blamed for its silence. */
  excuse(): void {
    if (this.#isPaused || this.#connection.hasEnded) this.#connection.client.heard()
  }
}
