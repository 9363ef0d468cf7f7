// The inbound bytes of one connection → packets. PUBLISH and the acknowledgements are read here, on the hot
// path, without intermediate objects; every other packet is validated and handed on as bytes. State: what is
// incomplete, and the topic aliases of the connection. Invariants: nothing that violates the standard gets
// past, whatever the bytes nothing is thrown to the caller, and after the first violation or `close` nothing
// more is reported. What takes longer than a slice goes on in a later turn of the event loop, whatever its
// packets are (P12). Bound: one incomplete packet of at most `packetBytesMax`; while paused or behind, the
// caller stops reading from the socket, sooner or later.
import { isUtf8 } from 'node:buffer'
import { checkAuth } from './auth.ts'
import { ReasonCode } from './reason-codes.ts'
import {
  connectsWait,
  isBacklogged,
  later,
  laterConnect,
  laterOn,
  Slice,
  turnIsOver,
  whenWorkedOff,
} from '../../bridge/index.ts'
import {
  checkAcknowledgement,
  checkConnect,
  checkDisconnect,
  checkSubscribe,
  checkTopicName,
  checkUnsubscribe,
  connectLevel,
  isForeignBridge,
  messageIdAt,
  messageProperties,
  PacketType,
  type Connect,
  type NameLimits,
  type Will,
  type Wishes,
} from './control-packets.ts'
import { allowedProperties, checkUtf8, malformed, protocolError, ProtocolViolation } from './properties.ts'

export interface PacketHandler {
  /**
   * `payload` and `properties` are slices of what came in; `expirySeconds` -1 = no Message Expiry Interval;
   * `isMistyped`: it says that its payload is UTF-8, which it is not.
   */
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
  ): void
  onPuback(messageId: number): void
  onPubrec(messageId: number, reasonCode: number): void
  onPubrel(messageId: number): void
  onPubcomp(messageId: number): void
  /** A valid packet of another type, whole. */
  onOther(type: number, frame: Buffer): void
  onViolation(violation: ProtocolViolation): void
  /** Something threw that is no violation. */
  onBug(error: unknown): void
  /** There is more than a slice of work in what was fed: nothing should be fed until `onCaughtUp`. */
  onBehind(): void
  onCaughtUp(): void
}

export interface ReaderLimits extends NameLimits {
  readonly packetBytesMax: number
  /** The same of CONNECT: all that a stranger may make us keep. */
  readonly connectBytesMax: number
  /** Highest Topic Alias that a client may use; 0 = none. */
  readonly topicAliasMax: number
}

const smallBytes = 4_096
/** Who had a whole slice stands after those who have little, for so long. */
const heavyMs = 1_000
/** What one has who waited for a turn, and may have little. */
const shortSliceMs = 1
/** The topics of all aliases of a connection: a hundred of ordinary length, not a hundred of 64 KiB. */
const aliasBytesMax = 256 * 1024
/** `MQIsdp`, of MQTT 3.1. */
const longestNameBytes = 6
const noBytes = Buffer.alloc(0)
const noParts: Buffer[] = []

export class PacketReader {
  readonly #handler: PacketHandler
  readonly #limits: ReaderLimits
  readonly #isSliced: boolean
  #level = 0
  readonly #connect: Connect = { keeps: false, will: undefined, wishes: undefined }
  #buffer: Buffer | undefined
  #at = 0
  #parts = noParts
  #partBytes = 0
  /** Bytes from #at on that are needed before anything can be read. */
  #need = 2
  /** CONNECT says that it is another broker's bridge. */
  isForeignBridge = false
  /** Between CONNECT and CONNACK, while an exchange of AUTH is under way. */
  isAuthenticating = false
  #paused = false
  #draining = false
  /** Waits for a later turn. */
  #behind = false
  /** When a slice was not enough, last. */
  #overAt = -heavyMs
  #closed = false
  #aliases: Map<number, string> | undefined
  #aliasBytes = 0
  /**
   * The last topic, as bytes and as string: publishers mostly stay with theirs, and one string keeps its
   * hash.
   */
  #topicBytes: Buffer = noBytes
  #topic = ''

  /**
   * @param isSliced false: reads all that it is fed at once, however long it takes; what a test compares is
   * there when `feed` returns
   */
  constructor(handler: PacketHandler, limits: ReaderLimits, isSliced = true) {
    this.#isSliced = isSliced
    this.#handler = handler
    this.#limits = limits
  }

  /** The protocol level of the connection: 3, 4 or 5; 0 before CONNECT. */
  get level(): number {
    return this.#level
  }

  /** The will of CONNECT. */
  get will(): Will | undefined {
    return this.#connect.will
  }

  /** What the properties of CONNECT ask for; undefined: they have not come, or are not in order. */
  get wishes(): Wishes | undefined {
    return this.#connect.wishes
  }

  /** Pieces that they lie in. */
  get unreadParts(): number {
    return this.#parts.length
  }

  /** Bytes that were fed and are not read yet. */
  get unreadBytes(): number {
    return (this.#buffer === undefined ? 0 : this.#buffer.length - this.#at) + this.#partBytes
  }

  /** What was fed and is not read yet, in its pieces. */
  *unread(): Iterable<Buffer> {
    if (this.#buffer !== undefined) yield this.#buffer.subarray(this.#at)
    yield* this.#parts
  }

  feed(chunk: Buffer): void {
    if (this.#closed) return
    if (this.#buffer === undefined) this.#buffer = chunk
    else this.#add(chunk)
    this.#drain()
  }

  /**
   * Small chunks are joined as they come, each byte a few times: alone, each would hold far more memory than
   * it has bytes.
   */
  #add(chunk: Buffer): void {
    this.#partBytes += chunk.length
    if (this.#parts === noParts) this.#parts = []
    let part = chunk
    for (
      let last = this.#parts.at(-1);
      last !== undefined && last.length < smallBytes && last.length <= part.length;
      last = this.#parts.at(-1)
    ) {
      part = Buffer.concat([last, part])
      this.#parts.pop()
    }
    this.#parts.push(part)
  }

  /** No packet is reported after this call until `resume`, also in the middle of a chunk. */
  pause(): void {
    this.#paused = true
  }

  resume(): void {
    this.#paused = false
    this.#drain()
  }

  close(): void {
    this.#closed = true
    this.#buffer = undefined
    this.#parts = noParts
    this.#partBytes = 0
  }

  #drain(isItsTurn = false): void {
    // the loop below goes on when the handler comes back, or the turn comes
    if (this.#draining || this.#behind) return
    this.#draining = true
    try {
      this.#readSlice(isItsTurn)
    } catch (error) {
      this.close()
      if (error instanceof ProtocolViolation) this.#handler.onViolation(error)
      else this.#handler.onBug(error)
    } finally {
      this.#draining = false
    }
  }

  get #hasPacket(): boolean {
    return !this.#paused && !this.#closed && this.#buffer !== undefined && this.unreadBytes >= this.#need
  }

  /**
   * The clock is asked between packets that came together only: of most connections one packet comes at a
   * time. A PUBLISH waits for what the ones before it left to be delivered, over all connections.
   */
  #readSlice(isItsTurn: boolean): void {
    let slice: Slice | undefined
    while (this.#hasPacket) {
      if (this.#isSliced && (slice === undefined ? !isItsTurn && this.#mustWait() : slice.isOver)) {
        if (slice !== undefined) this.#overAt = performance.now()
        return this.#goOnLater(this.#level === 0 ? laterConnect : this.#isHeavy ? laterOn : later)
      }
      if (this.#isSliced && isBacklogged() && this.#buffer![this.#at]! >> 4 === PacketType.publish)
        return this.#goOnLater(whenWorkedOff)
      slice ??= new Slice(isItsTurn && !this.#isHeavy ? shortSliceMs : undefined)
      if (this.#parts.length > 0) this.#join()
      if (!this.#readPacket(this.#buffer!)) this.#keepRest()
      else if (this.#at === this.#buffer?.length) this.#take()
    }
  }

  /**
   * CONNECTs are read in the order in which they come, over all connections: of two of one client the later
   * one wins.
   */
  #mustWait(): boolean {
    return (this.#level === 0 && connectsWait()) || turnIsOver()
  }

  /** Of two hundred who send without end nobody waits but they themselves. */
  get #isHeavy(): boolean {
    return performance.now() - this.#overAt < heavyMs
  }

  #goOnLater(when: (goOn: () => void) => void): void {
    this.#behind = true
    this.#handler.onBehind()
    when(() => {
      this.#behind = false
      this.#drain(true)
      if (!this.#behind) this.#handler.onCaughtUp()
    })
  }

  #join(): void {
    this.#buffer = Buffer.concat([this.#buffer!.subarray(this.#at), ...this.#parts])
    this.#at = 0
    this.#parts = noParts
    this.#partBytes = 0
  }

  /** The chunk is read to its end: the next one is read in place. */
  #take(): void {
    this.#buffer = this.#parts.length === 0 ? undefined : Buffer.concat(this.#parts)
    this.#parts = noParts
    this.#partBytes = 0
    this.#at = 0
    this.#need = 2
  }

  /** Keeps an incomplete packet without pinning the chunk that it came in. */
  #keepRest(): void {
    const buffer = this.#buffer!
    if (this.#at === buffer.length) {
      this.#buffer = undefined
      this.#need = 2
    } else if (this.#at > 0) this.#buffer = Buffer.from(buffer.subarray(this.#at))
    this.#at = 0
  }

  /** Reads one packet at #at; false when it is not whole yet, and #need says how much there must be. */
  #readPacket(bytes: Buffer): boolean {
    const start = this.#at
    if (this.#level === 0 && bytes[start]! >> 4 !== PacketType.connect)
      throw protocolError('the first packet is not CONNECT') // [MQTT-3.1.0-1]
    let body = start + 1
    let length = 0
    for (let shift = 0; ; shift += 7) {
      if (shift === 28) throw malformed('a remaining length of more than four bytes')
      if (body >= bytes.length) {
        this.#need = body - start + 1
        return false
      }
      const byte = bytes[body++]!
      length += (byte & 127) << shift
      if (byte < 128) {
        if (byte === 0 && shift > 0 && this.#level === 5)
          throw malformed('a remaining length that is longer than need be') // [MQTT-1.5.5-1]
        break
      }
    }
    const end = body + length
    if (
      this.#level === 0 &&
      end - start > Math.min(this.#limits.connectBytesMax, this.#limits.packetBytesMax)
    )
      return this.#refuseConnect(bytes, start, body, end)
    if (this.isAuthenticating) this.#checkBeforeConnack(bytes[start]! >> 4, end - start)
    if (end - start > this.#limits.packetBytesMax)
      throw new ProtocolViolation(
        ReasonCode.packetTooLarge,
        `a packet of ${end - start} bytes`,
        'packet-bytes',
      )
    if (end > bytes.length) {
      this.#need = end - start
      return false
    }
    this.#need = 2
    this.#at = end
    const first = bytes[start]!
    const type = first >> 4
    if (type === PacketType.publish && this.#level !== 0) this.#publish(bytes, first & 15, body, end)
    else this.#other(bytes, type, first & 15, start, body, end)
    return true
  }

  /** Nobody knows yet who it is: it makes us keep no more than by a CONNECT. */
  #checkBeforeConnack(type: number, bytes: number): void {
    if (type !== PacketType.auth && type !== PacketType.disconnect)
      throw protocolError('neither AUTH nor DISCONNECT before CONNACK') // [MQTT-3.1.2-30]
    if (bytes <= this.#limits.connectBytesMax) return
    throw new ProtocolViolation(ReasonCode.packetTooLarge, `a packet of ${bytes} bytes`, 'packet-bytes')
  }

  /** How it is told depends on its level, which stands first; the rest is not waited for. */
  #refuseConnect(bytes: Buffer, start: number, body: number, end: number): false {
    const nameEnd =
      body + 2 > bytes.length ? body + 2 : body + 2 + Math.min(bytes.readUInt16BE(body), longestNameBytes)
    this.#need = nameEnd + 1 - start
    if (bytes.length <= nameEnd) return false
    this.#level = connectLevel(bytes, body, end)
    throw new ProtocolViolation(
      ReasonCode.packetTooLarge,
      `a CONNECT of ${end - start} bytes`,
      'connect-bytes',
    )
  }

  #publish(bytes: Buffer, flags: number, body: number, end: number): void {
    const qos = (flags >> 1) & 3
    if (qos === 3) throw malformed('QoS 3') // [MQTT-3.3.1-4]
    // [MQTT-3.3.1-2]
    if (qos === 0 && (flags & 8) !== 0 && this.#level !== 3) throw malformed('DUP with QoS 0')
    if (body + 2 > end) throw malformed('truncated PUBLISH')
    let at = body + 2 + ((bytes[body]! << 8) | bytes[body + 1]!)
    if (at > end) throw malformed('truncated PUBLISH')
    let topic = at === body + 2 && this.#level === 5 ? '' : this.#topicAt(bytes, body + 2, at)
    let messageId = 0
    if (qos > 0) {
      messageId = messageIdAt(bytes, at, end)
      at += 2
    }
    let properties: Buffer | undefined
    let expiry = -1
    let isText = false
    if (this.#level === 5) {
      if (at < end && bytes[at] === 0) at++
      else {
        const found = messageProperties(bytes, at, end, allowedProperties.publish, this.#limits)
        ;({ properties, expirySeconds: expiry, isText, at } = found)
        if (found.topicAlias !== 0) topic = this.#aliased(found.topicAlias, topic)
      }
      if (topic === '') throw protocolError('neither a Topic Name nor a Topic Alias')
    }
    const payload = bytes.subarray(at, end)
    this.#handler.onPublish(
      topic,
      payload,
      qos as 0 | 1 | 2,
      (flags & 1) === 1,
      (flags & 8) !== 0,
      messageId,
      properties,
      expiry,
      isText && this.#limits.payloadFormat === 'check' && !isUtf8(payload),
    )
  }

  #topicAt(bytes: Buffer, start: number, end: number): string {
    const last = this.#topicBytes
    if (last.length === end - start) {
      let i = 0
      while (i < last.length && last[i] === bytes[start + i]) i++
      if (i === last.length && i > 0) return this.#topic
    }
    checkTopicName(bytes, start, end, this.#limits)
    checkUtf8(bytes, start, end)
    this.#topicBytes = Buffer.from(bytes.subarray(start, end))
    this.#topic = bytes.toString('utf8', start, end)
    return this.#topic
  }

  #aliased(alias: number, topic: string): string {
    if (alias > this.#limits.topicAliasMax)
      // [MQTT-3.3.2-9]
      throw new ProtocolViolation(
        ReasonCode.topicAliasInvalid,
        'a Topic Alias above the maximum',
        'topic-alias',
      )
    this.#aliases ??= new Map()
    if (topic !== '') {
      this.#aliasBytes += topic.length - (this.#aliases.get(alias)?.length ?? 0)
      if (this.#aliasBytes > aliasBytesMax)
        throw new ProtocolViolation(ReasonCode.quotaExceeded, 'too long Topic Aliases', 'alias-bytes')
      this.#aliases.set(alias, topic)
      return topic
    }
    const known = this.#aliases.get(alias)
    if (known === undefined) throw protocolError('an unknown Topic Alias')
    return known
  }

  #other(bytes: Buffer, type: number, flags: number, start: number, body: number, end: number): void {
    const isFirst = type === PacketType.connect && this.#level === 0
    // known, too, when the rest is refused; 0 is before CONNECT
    if (isFirst) this.#level = connectLevel(bytes, body, end) || 1
    const expected =
      type === PacketType.pubrel || type === PacketType.subscribe || type === PacketType.unsubscribe ? 2 : 0
    if (flags !== expected) {
      if (this.#level !== 3) throw malformed('fixed header flags that are not valid') // [MQTT-2.1.3-1]
      bytes[start] = (type << 4) | expected // MQTT 3.1 has DUP in some, and leaves the others open
    }
    switch (type) {
      case PacketType.connect:
        if (!isFirst) throw protocolError('a second CONNECT') // [MQTT-3.1.0-2]
        this.isForeignBridge = isForeignBridge(bytes, body)
        checkConnect(bytes, body, end, this.#limits, this.#connect)
        break
      case PacketType.puback:
        messageIdAt(bytes, body, end)
        checkAcknowledgement(type, bytes, body, end, this.#level)
        return this.#handler.onPuback(messageIdAt(bytes, body, end))
      case PacketType.pubrec:
        return this.#handler.onPubrec(
          messageIdAt(bytes, body, end),
          checkAcknowledgement(type, bytes, body, end, this.#level),
        )
      case PacketType.pubrel:
        checkAcknowledgement(type, bytes, body, end, this.#level)
        return this.#handler.onPubrel(messageIdAt(bytes, body, end))
      case PacketType.pubcomp:
        checkAcknowledgement(type, bytes, body, end, this.#level)
        return this.#handler.onPubcomp(messageIdAt(bytes, body, end))
      case PacketType.subscribe:
        checkSubscribe(bytes, body, end, this.#level, this.#limits)
        break
      case PacketType.unsubscribe:
        checkUnsubscribe(bytes, body, end, this.#level, this.#limits)
        break
      case PacketType.pingreq:
        if (body !== end) throw malformed('PINGREQ has a body')
        break
      case PacketType.disconnect:
        checkDisconnect(bytes, body, end, this.#level, this.#connect.keeps)
        break
      case PacketType.auth:
        checkAuth(bytes, body, end, this.#level, this.#connect.wishes?.authenticationMethod)
        break
      default:
        throw protocolError(`a packet of type ${type} from a client`)
    }
    this.#handler.onOther(type, bytes.subarray(start, end))
  }
}
