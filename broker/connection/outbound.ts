// What goes to the client of one connection: messages live and out of its session's queue, Retained Messages,
// acknowledgements; all of it through one outbox. State: this connection's outbox and window. Bounds:
// deliveries that wait (bytes: beyond them the connection ends with 0x97, since a clean session's promise ends
// with its connection), QoS 0 while it is slow (dropped and counted).
import type { Duplex } from 'node:stream'
import { isExpired, ownTopic, type Message, type OwedReplay, type Session } from '../../bridge/index.ts'
import type { ConnectionHost, DropCause } from './connection-host.ts'
import type { ConnectionParts } from './connection-parts.ts'
import type { GroupMember } from '../groups/group-member.ts'
import { Memberships } from '../groups/memberships.ts'
import type { Gate, Sent } from '../access/gate.ts'
import { Outbox, type OutboxHost } from './outbox.ts'
import type { Match } from '../routing/local-table.ts'
import type { SlowPolicy } from '../routing/pressure.ts'
import { noWindow, Pending } from './pending.ts'
import type { Replayed } from '../routing/replay-pages.ts'
import { DeliveryPace } from './delivery-pace.ts'
import { RoomWaiters } from './room-waiters.ts'
import { StoredSession, type StoredMatch, type ToSend } from './stored-session.ts'
import { TopicAliases } from './topic-aliases.ts'
import { Window, type WindowHost } from './window.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'
import { PacketType } from '../protocol/control-packets.ts'
import { aliasBytesMax, publishFrame, type Frame } from '../protocol/publish-frame.ts'

/**
 * What a bridge of Mosquitto takes at once (its `max_inflight_messages`) and has no words for: at one QoS 2 more it closes
 * the connection, and it would connect for ever.
 */
const bridgeReceiveMaximum = 20

/** No bound of what waits for a client may be set lower (`slowBytesMax`, `waitingBytesMax`). */
const boundBytesMin = 1_024

export class Outbound<Connection extends ConnectionParts> implements OutboxHost, WindowHost<Pending> {
  readonly outbox: Outbox
  readonly #connection: Connection
  readonly #host: ConnectionHost<Connection>
  readonly #gate: Gate<Connection>
  #window: Window<Pending> = noWindow
  #stored: StoredSession | undefined
  #receiveMaximum = 0
  /** Made with the first Shared Subscription. */
  #groups: Memberships | undefined
  #room: RoomWaiters | undefined
  #pace: DeliveryPace | undefined
  /** More than `slowBytesMax` waits, and publishers were held for it or may be. */
  #isBehind = false
  /** Of a client that takes some. */
  #aliases: TopicAliases | undefined
  /** QoS 2 deliveries of this connection that are in flight, by Packet Identifier: whether PUBREC came. */
  #qos2InFlight: Map<number, boolean> | undefined
  /** By Packet Identifier, when somebody wants to hear of acknowledgements. */
  #sent: Map<number, Sent> | undefined

  constructor(stream: Duplex, connection: Connection, host: ConnectionHost<Connection>) {
    this.outbox = new Outbox(stream, host.outboxLimits, this, host.traffic)
    this.#connection = connection
    this.#host = host
    this.#gate = host.gate
  }

  /** CONNACK is written: from now on messages are delivered. `session`: it has a queue. */
  start(session: Session | undefined): StoredSession | undefined {
    const { client, inbound } = this.#connection
    const receiveMaximum = Math.min(
      client.receiveMaximum,
      this.#host.config.inFlightMax,
      inbound.isForeignBridge ? bridgeReceiveMaximum : Infinity,
    )
    this.#receiveMaximum = receiveMaximum
    this.#window = new Window(receiveMaximum, this)
    const { topicAliasMaximum = 0 } = this.#connection.inbound.wishes ?? {}
    if (topicAliasMaximum > 0) this.#aliases = new TopicAliases(topicAliasMaximum)
    this.#window.elsewhere = () => this.#groups?.open ?? 0
    this.#pace = DeliveryPace.of(this.#host.listener ?? this.#host.config, () => this.#goOn())
    if (this.#pace !== undefined) this.#window.isHeld = () => this.#isHeld
    if (session === undefined) return undefined
    return (this.#stored = new StoredSession(session, receiveMaximum, {
      matching: (message) => this.#host.matching(this.#connection, message),
      write: (toSend, match) => this.#writeStored(toSend, match),
      pubrel: (messageId) => this.acknowledge(PacketType.pubrel, messageId, 0),
      failed: (error) => this.#host.failed(error, 1),
      room: () => (this.#isHeld ? 0 : this.#host.outboxLimits.lowBytes),
      ...(this.#pace !== undefined && { most: () => this.#pace!.most }),
      inFlightBytesMax: this.#host.config.inFlightBytesMax,
      openElsewhere: () => this.#groups?.open ?? 0,
      schedule: (holder, mayWait) => this.#host.schedule(holder, mayWait),
      writeRefused: () => this.#host.writeRefused(this.#connection),
    }))
  }

  /** Of a session that has a queue. */
  get stored(): StoredSession | undefined {
    return this.#stored
  }

  /** Deliveries that were sent and are not acknowledged. */
  get inFlight(): number {
    return (this.#stored?.open ?? this.#window.inFlight) + (this.#groups?.open ?? 0)
  }

  /** Nothing more is to be sent now: it reads too slowly, or is sent as much as it may be. */
  get #isHeld(): boolean {
    return this.outbox.slow || this.#pace?.isSpent === true
  }

  /** It may be sent more. */
  #goOn(): void {
    this.#window.pump()
    this.onDrain()
  }

  /** Groups that it is a member of. */
  get groups(): Memberships {
    return (this.#groups ??= new Memberships({
      room: () => (this.#isHeld ? 0 : this.#receiveMaximum - (this.#stored?.open ?? this.#window.inFlight)),
      isSlow: () => this.#isHeld,
      inFlightBytesMax: this.#host.config.inFlightBytesMax,
      isReady: () => this.#connection.isConnected && !this.#connection.isClosed,
      write: (message, id, qos, dup, member) => this.#writeShared(message, id, qos, dup, member),
      pubrel: (id) => this.acknowledge(PacketType.pubrel, id, 0),
      failed: (error) => this.#host.failed(error, 1),
      schedule: (holder) => this.#host.scheduleMember(holder),
      over: () => {
        this.#window.pump()
        this.#giveRoom()
        this.#checkDrained()
        this.#stored?.ring()
      },
    }))
  }

  /** Those that it has by now; undefined: it never had one. */
  get knownGroups(): Memberships | undefined {
    return this.#groups
  }

  /** A delivery of a group. undefined: the client cannot take it, or it expired. */
  #writeShared(
    given: Message,
    id: number,
    qos: 0 | 1 | 2,
    dup: boolean,
    { options }: GroupMember,
  ): 0 | 1 | 2 | undefined {
    const message = this.#forwardedOfSession(given, qos)
    if (message === undefined) return undefined
    const identifiers = options.identifier === undefined ? undefined : [options.identifier]
    const retain = message.retain && options.retainAsPublished
    const frame = this.#frameFor(message, qos, retain, identifiers, dup)
    if (frame === undefined) return undefined
    this.#push(frame, message.topic, qos === 0 ? 0 : id, dup)
    if (qos > 0 && this.#gate.acknowledged !== undefined)
      this.#remember(id, { topic: message.topic, payload: message.payload, qos: qos as 1 | 2 })
    this.#countWaiting()
    return qos
  }

  /** As the gate forwards it to this client; undefined: not at all, and that is counted. */
  #forwarded(message: Message, qos: number): Message | undefined {
    const { forward } = this.#gate
    if (forward === undefined) return message
    const forwarded = forward(message, this.#connection)
    if (forwarded === undefined) this.#drop('denied', qos, message)
    return forwarded
  }

  /** The same of what waited in its session: by whom it was let in may not hold any more. */
  #forwardedOfSession(message: Message, qos: number): Message | undefined {
    if (this.#gate.mayReceive?.(message, this.#connection) !== false) return this.#forwarded(message, qos)
    return (this.#drop('denied', qos, message), undefined)
  }

  /**
   * undefined: it expired [MQTT-3.3.2-5], or its client takes no packet of that size [MQTT-3.1.2-24], and that is
   * counted. @param dup sent again: what was sent before it expired is brought to its end
   */
  #frameFor(
    message: Message,
    qos: 0 | 1 | 2,
    retain: boolean,
    identifiers: readonly number[] | undefined,
    dup: boolean,
  ): Frame | undefined {
    if (!dup && isExpired(message)) return (this.#drop('expired', qos, message), undefined)
    const { client, mqtt5 } = this.#connection
    const frame = publishFrame(message, mqtt5, qos, retain, identifiers)
    if (client.maximumPacketSize === undefined || frame.length <= client.maximumPacketSize) return frame
    this.#drop('too-large', qos, message)
    return undefined
  }

  /** Nothing goes out any more, but what is written by now. */
  end(): void {
    this.#pace?.close()
    this.#stored?.close()
    this.#groups?.close()
    this.outbox.close()
  }

  /** Nothing is left of the connection. */
  closed(): void {
    this.#window.clear()
    this.#host.drained(this.#connection)
    this.onDrain()
  }

  #countWaiting(): void {
    if (this.waitingBytes >= this.#host.holdings.smallBytes) this.#host.holdings.count(this.#connection)
  }

  /** There is no room in the node, and what it has shall be read first. */
  get #waitsForRoom(): boolean {
    return this.#host.holdings.isFull && this.outbox.bytes >= this.#host.holdings.smallBytes
  }

  // Answers of the client

  /**
   * PUBACK answers QoS 1, PUBREC QoS 2, PUBCOMP what PUBREC came for [MQTT-3.3.4-1] [MQTT-4.3.3-4]. True, too: nothing
   * was sent under the identifier on this connection, which is no error (4.3).
   */
  mayAnswer(type: 4 | 5 | 7, messageId: number): boolean {
    const ofGroup = this.#groups?.mayAnswer(type, messageId)
    if (ofGroup !== undefined) return ofGroup
    const state = this.#stored === undefined ? undefined : this.#stored.stateOf(messageId)
    if (state === 'received') return type !== PacketType.puback
    if (state !== 'sent' && (this.#stored !== undefined || !this.#window.has(messageId))) return true
    const isReceived = this.#qos2InFlight?.get(messageId)
    if (isReceived === undefined) return type === PacketType.puback
    return type === PacketType.pubrec || (type === PacketType.pubcomp && isReceived)
  }

  /** PUBACK, PUBCOMP, or a PUBREC that refuses. */
  complete(messageId: number): void {
    const { acknowledged } = this.#gate
    this.#qos2InFlight?.delete(messageId)
    if (this.#host.traces.isOn) this.#host.traces.acknowledged(this.#traced, messageId)
    if (acknowledged !== undefined) {
      acknowledged(messageId, this.#sent?.get(messageId), this.#connection)
      this.#sent?.delete(messageId)
    }
    if (this.#groups?.complete(messageId) === true) return
    if (this.#stored !== undefined) this.#stored.complete(messageId)
    else {
      this.#window.complete(messageId)
      this.#giveRoom()
      this.#checkDrained()
    }
    this.#groups?.pump()
  }

  /** PUBREC. */
  received(messageId: number): void {
    if (this.#groups?.received(messageId) === true) return
    if (this.#qos2InFlight?.has(messageId) === true) this.#qos2InFlight.set(messageId, true)
    if (this.#stored === undefined)
      this.acknowledge(
        PacketType.pubrel,
        messageId,
        this.#window.has(messageId) ? 0 : ReasonCode.packetIdentifierNotFound,
      )
    else if (!this.#stored.received(messageId))
      this.acknowledge(PacketType.pubrel, messageId, ReasonCode.packetIdentifierNotFound)
  }

  // Deliveries

  /** Delivers a message once, at the QoS and with the identifiers of `match`. */
  deliver(message: Message, match: Match<object>): void {
    const queued = this.#stored !== undefined && message.qos > 0
    if (queued && match.queued !== 'no') return // the bell rings
    if (message.stamp !== undefined) this.#connection.replays?.delivered(message.topic, message.stamp)
    this.send(
      message,
      queued ? { qos: 0, identifiers: match.identifiers } : match,
      message.retain && match.retainAsPublished,
    )
  }

  /** A delivery out of the session's queue. undefined: the client cannot take it, or it expired. */
  #writeStored(
    { message: stored, messageId, dup, identifiers }: ToSend,
    { match }: StoredMatch, // of what was published, whatever is made of it
  ): 1 | 2 | undefined {
    if (stored.stamp !== undefined && !stored.replay) {
      if (!dup && this.#host.isReplayed(this.#connection, stored)) return undefined
      this.#connection.replays?.delivered(stored.topic, stored.stamp)
    }
    const message = this.#forwardedOfSession(stored, stored.qos)
    if (message === undefined) return undefined
    // Its QoS is what was granted when it was queued: sent again at another one, a QoS 2 message would be
    // doubled.
    const qos = message.qos === 2 ? 2 : 1
    const retain = message.replay || (message.retain && match?.retainAsPublished === true)
    const frame = this.#frameFor(message, qos, retain, identifiers ?? match?.identifiers, dup)
    if (frame === undefined) return undefined
    this.#push(frame, message.topic, messageId, dup)
    this.#note(messageId, qos)
    if (this.#gate.acknowledged !== undefined)
      this.#remember(messageId, { topic: message.topic, payload: message.payload, qos })
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
      if (replayed.isWanted()) this.send(replayed.message, match, true, false) // [MQTT-3.3.1-8]
    }
    if (match.qos !== 0) await stored?.give(page.filter(isStored), match.qos, match.identifiers, owed)
  }

  /**
   * Delivers with the RETAIN flag as given: 1 for retained messages sent because of a SUBSCRIBE
   * [MQTT-3.3.1-8].
   */
  send(
    given: Message,
    match: Pick<Match<object>, 'qos' | 'identifiers'>,
    retain: boolean,
    mayDrop = true,
  ): void {
    // nothing leaves before CONNACK [MQTT-3.2.0-1]: a resumed session's QoS 0; the rest is in its queue
    if (this.#connection.isClosed || !this.#connection.isConnected) return
    const qos = Math.min(given.qos, match.qos) as 0 | 1 | 2
    const message = this.#forwarded(given, qos)
    if (message === undefined) return
    const frame = this.#frameFor(message, qos, retain, match.identifiers, false)
    if (frame === undefined) return
    if (qos === 0) {
      if (this.outbox.slow) return this.#drop('slow-subscriber', qos, message)
      if (mayDrop && this.#pace?.isSpent === true) return this.#drop('delivery-rate', qos, message)
      if (this.#waitsForRoom) return this.#drop('client-bytes', qos, message)
      this.#push(frame, message.topic)
    } else if (mayDrop && this.slowPolicy === 'drop' && this.waitingBytes > this.#host.outboxLimits.highBytes)
      return this.#drop('slow-subscriber', qos, message)
    else this.#window.push(new Pending(frame, qos, message.expiresAt))
    const waiting = this.waitingBytes
    if (waiting < boundBytesMin) return
    if (waiting >= this.#host.holdings.smallBytes) this.#host.holdings.count(this.#connection)
    if (qos > 0) this.#checkWaiting(message.topic, waiting)
  }

  /** Its client does not get a message. */
  #drop(cause: DropCause, qos: number, { topic, payload }: Pick<Message, 'topic' | 'payload'>): void {
    this.#host.dropped(cause, qos)
    const { traces } = this.#host
    if (traces.isOn)
      traces.tell('dropped', { topic, payload, qos }, { cause, client: this.#connection.client.clientId })
  }

  #tellDelivered(frame: Frame, topic: string, messageId: number, isDup: boolean): void {
    const [qos, retain] = [messageId === 0 ? 0 : (frame.head[0]! >> 1) & 3, (frame.head[0]! & 1) === 1]
    this.#host.traces.delivered(
      this.#traced,
      { topic, payload: frame.payload, qos, retain },
      messageId,
      isDup,
    )
  }

  get #traced(): { readonly number: number; readonly clientId: string } {
    return { number: this.#connection.number, clientId: this.#connection.client.clientId }
  }

  #push(frame: Frame, topic?: string, messageId = 0, dup = false): void {
    this.#pace?.sent(frame.length)
    if (this.#host.traces.isWatching) this.#tellDelivered(frame, topic ?? frame.topic, messageId, dup)
    const aliases = this.#aliases
    if (aliases === undefined) return this.outbox.pushPublish(frame, messageId, dup)
    const mayGive = frame.length + aliasBytesMax <= this.outbox.packetBytesMax
    this.outbox.pushPublish(
      frame,
      messageId,
      dup,
      aliases.of(topic === undefined ? frame.topic : ownTopic(topic), mayGive),
    )
  }

  put({ frame, qos, expiresAt }: Pending, messageId: number): boolean {
    if (isExpired({ expiresAt })) {
      this.#drop('expired', qos, frame)
      return false
    }
    try {
      this.#push(frame, undefined, messageId)
      this.#note(messageId, qos)
      if (this.#gate.acknowledged !== undefined)
        this.#remember(messageId, { topic: frame.topic, payload: frame.payload, qos })
      return true
    } catch (error) {
      this.#host.failed(error, qos)
      return false
    }
  }

  /** Something was answered: a client may write far more than it reads. */
  checkAnswers(): void {
    if (this.outbox.bytes > this.#waitingBytesMax) this.#checkWaiting()
  }

  #note(messageId: number, qos: 1 | 2): void {
    if (qos === 2) (this.#qos2InFlight ??= new Map<number, boolean>()).set(messageId, false)
    else this.#qos2InFlight?.delete(messageId)
  }

  #remember(messageId: number, sent: Sent): void {
    ;(this.#sent ??= new Map<number, Sent>()).set(messageId, sent)
  }

  /** However large the packets are that are accepted, there is room for one. */
  get #waitingBytesMax(): number {
    return this.#host.config.waitingBytesMax + this.#host.readerLimits.packetBytesMax
  }

  /** What waits for this connection, bytes. */
  get waitingBytes(): number {
    return this.#window.waitingBytes + this.outbox.bytes
  }

  #checkWaiting(topic?: string, waiting = this.waitingBytes): void {
    if (this.#connection.client.isClosed) return // told to go already
    if (
      waiting > this.#waitingBytesMax &&
      (topic === undefined || !this.#host.isReading(this.#connection, topic)) // answers are its own doing
    ) {
      this.#host.dropped('slow-subscriber', 1)
      this.#connection.disconnect(
        ReasonCode.quotaExceeded,
        'more waits for you than there may be: read faster',
      )
    } else if (
      topic !== undefined &&
      waiting > this.#host.outboxLimits.highBytes &&
      this.slowPolicy !== 'drop'
    ) {
      this.#isBehind = true
      this.#host.slow(this.#connection, topic)
    }
  }

  /** What is done when it reads slower than others publish to it. */
  get slowPolicy(): SlowPolicy {
    return (this.#host.listener ?? this.#host.config).slowSubscriber
  }

  #checkDrained(): void {
    if (!this.#isBehind || this.outbox.slow) return
    if (!this.#connection.isClosed && this.#window.waitingBytes > this.#host.outboxLimits.lowBytes) return
    this.#isBehind = false
    this.#host.drained(this.#connection)
  }

  onDrain(): void {
    this.#checkDrained()
    this.#stored?.ring()
    this.#groups?.roomChanged()
    this.#giveRoom()
  }

  /** Of its window. */
  get groupRoom(): number {
    return this.#isHeld ? Math.min(0, this.#window.room) : this.#window.room
  }

  /** Resolves when there is room for more: at once, or when what waits in outbox and window has drained. */
  roomForMore(): Promise<void> {
    if (
      this.#connection.isClosed ||
      (!this.#isHeld && this.#window.waitingBytes <= this.#host.outboxLimits.highBytes)
    )
      return Promise.resolve()
    return (this.#room ??= new RoomWaiters()).wait()
  }

  #giveRoom(): void {
    if (
      this.#connection.isClosed ||
      (!this.#isHeld && this.#window.waitingBytes <= this.#host.outboxLimits.lowBytes)
    )
      this.#room?.give()
  }

  /** @param reason a Reason String, for who wants to hear it [MQTT-3.1.2-29] */
  acknowledge(type: 4 | 5 | 6 | 7, messageId: number, reasonCode: number, reason?: string): void {
    if (this.#connection.isClosed) return
    const { mqtt5, inbound } = this.#connection
    const told = mqtt5 && inbound.wishes?.problemInformation === true ? reason : undefined
    this.outbox.pushAcknowledgement(type, messageId, mqtt5, reasonCode, told)
  }
}
