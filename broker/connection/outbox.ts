// What one connection is to be sent: collected during a turn of the event loop and written once. Small frames
// are copied into one buffer, so that nothing here pins the chunk or reply that a payload came in. A large
// payload is copied once for all who get it: a megabyte for three thousand subscribers is a megabyte. State:
// this connection. Bound: `highBytes`; above it QoS 0 is refused and the caller holds QoS ≥ 1 back until
// `onDrain`.
import type { Duplex } from 'node:stream'
import { secondsLeft, Slice } from '../../bridge/index.ts'
import { Traffic } from '../observe/traffic.ts'
import { PacketType } from '../protocol/control-packets.ts'
import { withReason, writeAcknowledgement } from '../protocol/acknowledgements.ts'
import { aliasBytesMax, aliased, type Frame } from '../protocol/publish-frame.ts'

const initialBytes = 1_024
const flushBytes = 65_536
/** From so many bytes on a payload is not copied for each connection. */
const sharedBytes = 32_768
/** Of large writes the clock is looked at once for so many bytes. */
const lookBytes = 256 * 1024

export interface OutboxLimits {
  /** Above so many bytes waiting the connection counts as slow. */
  readonly highBytes: number
  /** At or below so many it counts as drained. */
  readonly lowBytes: number
}

export interface OutboxHost {
  /** The bytes waiting fell to `lowBytes` after `slow` was true. */
  onDrain(): void
}

/** Of a socket; TLS has that of TCP under its own. */
interface Handle {
  readonly writeQueueSize?: number
  readonly _parent?: Handle | null
}

const noPieces: readonly Buffer[] = []

/** The outboxes with something to write in this turn. */
let scheduled: Outbox[] = []

/**
 * One message to ten thousand subscribers is ten thousand writes: as many as a slice has time for, the rest
 * in the next turn. Who gets little does not wait for hundreds of megabytes that go to others.
 */
function flushAll(): void {
  const outboxes = scheduled
  scheduled = []
  const large = outboxes.filter(({ hasLarge }) => hasLarge)
  if (large.length === 0) return flushSome(outboxes, 0)
  flushSome(
    outboxes.filter(({ hasLarge }) => !hasLarge),
    0,
  )
  flushSome(large, 0)
}

/** An outbox that waits for its turn takes more meanwhile, and writes it in order. */
function flushSome(outboxes: readonly Outbox[], from: number): void {
  const slice = new Slice()
  let bytes = 0
  for (let i = from; i < outboxes.length; i++) {
    bytes += outboxes[i]!.turn()
    if ((i & 63) !== 63 && bytes < lookBytes) continue
    if (slice.isOver) return void setImmediate(flushSome, outboxes, i + 1)
    bytes = 0
  }
}

export class Outbox {
  readonly #stream: Duplex
  readonly #limits: OutboxLimits
  readonly #host: OutboxHost
  readonly #traffic: Traffic
  #buffer: Buffer | undefined
  #used = 0
  /** What comes before the buffer: large payloads, and what came before each. */
  #pieces: Buffer[] | undefined
  #piecesBytes = 0
  #scheduled = false
  #slow = false
  /** Told of what leaves the stream once so much waits that it may be slow. */
  #drained: (() => void) | undefined
  #closed = false
  /**
   * Handed to the stream so far, and how much of that had left it when we looked, and when that changed last.
   */
  #handed = 0
  #left = ''
  #leftAt = 0
  /** When `progress` was asked last: what the stream had written, and what the system had not taken. */
  #done = 0
  #queued = 0
  /**
   * Maximum Packet Size of the client: what is larger is not sent [MQTT-3.1.2-24]. PUBLISH is the caller's to
   * look at.
   */
  packetBytesMax = Infinity
  /** What the bytes of the stream leave by in the end: of a WebSocket, the socket under it. */
  socket: Duplex

  constructor(stream: Duplex, limits: OutboxLimits, host: OutboxHost, traffic = new Traffic()) {
    this.#stream = stream
    this.#traffic = traffic
    this.socket = stream
    this.#limits = limits
    this.#host = host
  }

  /** Bytes waiting: here and in the stream. */
  get bytes(): number {
    return this.#used + this.#piecesBytes + this.#stream.writableLength
  }

  get hasLarge(): boolean {
    return this.#pieces !== undefined
  }

  /** Above `highBytes`, until drained. */
  get slow(): boolean {
    if (!this.#slow && this.bytes > this.#limits.highBytes) this.#slow = true
    return this.#slow
  }

  #onDrain(): void {
    if (!this.#slow || this.#closed || this.bytes > this.#limits.lowBytes) return
    this.#slow = false
    this.#host.onDrain()
  }

  /**
   * Takes a frame of anything but PUBLISH, in order with the rest. False: it is larger than the client takes.
   */
  push(bytes: Buffer): boolean {
    if (bytes.length > this.packetBytesMax) return false
    if (this.#closed) return true
    this.#traffic.sent[bytes[0]! >> 4]!++
    this.#room(bytes.length)
    this.#used += bytes.copy(this.#buffer!, this.#used)
    return true
  }

  /** Takes a PUBACK, PUBREC, PUBREL or PUBCOMP. */
  pushAcknowledgement(
    type: 4 | 5 | 6 | 7,
    messageId: number,
    mqtt5: boolean,
    reasonCode: number,
    reason?: string,
  ): void {
    if (reason !== undefined && this.#pushReasoned(type, messageId, reasonCode, reason)) return
    if (this.#closed) return // five bytes at most, as CONNACK: no client takes less
    this.#traffic.sent[type]!++
    this.#room(5)
    this.#used += writeAcknowledgement(this.#buffer!, this.#used, type, messageId, mqtt5, reasonCode)
  }

  /** With a Reason String; false: the client takes no packet of that size. */
  #pushReasoned(type: number, messageId: number, reasonCode: number, reason: string): boolean {
    const frame = Buffer.from([type << 4, 4, messageId >> 8, messageId & 255, reasonCode, 0])
    const reasoned = withReason(frame, reason, this.packetBytesMax)
    return reasoned !== frame && this.push(reasoned)
  }

  /**
   * Takes a PUBLISH; a QoS ≥ 1 one under its Packet Identifier.
   * @param alias Topic Alias in place of the topic; negative: beside it (topic-aliases.ts)
   */
  pushPublish(frame: Frame, messageId = 0, dup = false, alias = 0): void {
    if (this.#closed) return
    const isShared = frame.payload.length >= sharedBytes
    if (isShared) frame.copyPayload()
    const { payload, length, expiresAt, expiryOffset } = frame
    const { head, properties } = alias === 0 ? frame : aliased(frame, alias)
    this.#room((isShared ? length - payload.length : length) + (alias === 0 ? 0 : aliasBytesMax))
    const buffer = this.#buffer!
    const start = this.#used
    buffer.set(head, start)
    this.#traffic.sent[PacketType.publish]!++
    this.#traffic.delivered[(head[0]! >> 1) & 3]!++
    let at = start + head.length
    if (messageId !== 0) {
      if (dup) buffer[start]! |= 8 // [MQTT-3.3.1-1]
      buffer[at++] = messageId >> 8
      buffer[at++] = messageId & 255
    }
    buffer.set(properties, at)
    // It may have waited since it was encoded: less is left than stands there, never more.
    if (expiresAt !== 0)
      this.#expire(frame, at + expiryOffset + (properties.length - frame.properties.length))
    at += properties.length
    if (!isShared) buffer.set(payload, at)
    this.#used = isShared ? at : at + payload.length
    if (isShared) this.#share(payload)
  }

  /** Message Expiry Interval stands after a Topic Alias, at the place given. */
  #expire({ expiresAt, expiryOffset, properties }: Frame, at: number): void {
    this.#buffer!.writeUInt32BE(secondsLeft(expiresAt, properties.readUInt32BE(expiryOffset)), at)
  }

  #share(payload: Buffer): void {
    ;(this.#pieces ??= []).push(this.#buffer!.subarray(0, this.#used), payload)
    this.#piecesBytes += this.#used + payload.length
    this.#used = 0
    this.#buffer = undefined
  }

  #room(bytes: number): void {
    if (this.#used + bytes > flushBytes && this.#used > 0) this.flush()
    if (this.#buffer === undefined) this.#buffer = Buffer.allocUnsafeSlow(Math.max(initialBytes, bytes))
    else if (this.#used + bytes > this.#buffer.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(this.#buffer.length * 4, this.#used + bytes))
      this.#buffer.copy(larger, 0, 0, this.#used)
      this.#buffer = larger
    }
    if (this.#scheduled) return
    this.#scheduled = true
    if (scheduled.push(this) === 1) setImmediate(flushAll)
  }

  /** The turn is over. @returns how many bytes it had */
  turn(): number {
    this.#scheduled = false
    const bytes = this.#used + this.#piecesBytes
    this.flush()
    return bytes
  }

  /** Hands everything to the stream, in one write where it is one piece. */
  flush(): void {
    const [buffer, pieces] = [this.#buffer, this.#pieces ?? noPieces]
    const bytes = this.#used + this.#piecesBytes
    if (bytes === 0 || this.#closed) return
    const last = this.#used === 0 ? undefined : buffer!.subarray(0, this.#used)
    this.#used = this.#piecesBytes = 0
    // The stream may keep it: the next turn gets a new one. What the stream cannot send at once it holds as
    // it is.
    this.#buffer = this.#pieces = undefined
    if (this.#stream.destroyed || !this.#stream.writable) return
    this.#handed += bytes
    this.#traffic.sentBytes += bytes
    // The stream's `drain` would say nothing of less than its own highWaterMark.
    const mayBeSlow = this.#slow || bytes + this.#stream.writableLength > this.#limits.highBytes
    const wrote = mayBeSlow ? (this.#drained ??= () => this.#onDrain()) : undefined
    if (pieces.length > 0) this.#stream.cork()
    for (const piece of pieces) this.#stream.write(piece, wrote)
    if (last !== undefined) this.#stream.write(last, wrote)
    if (pieces.length > 0) this.#stream.uncork()
  }

  /**
   * Whether nothing has left for `ms` although bytes wait; asked every now and then. Of a large write what
   * the system has taken of it counts, which only the socket's handle knows.
   */
  isStuck(ms: number): boolean {
    const waiting = this.#stream.writableLength
    if (this.#closed || waiting === 0) {
      this.#left = ''
      return false
    }
    const { _handle: handle } = this.socket as { _handle?: Handle | null }
    const left = `${this.#handed - waiting} ${handle?.writeQueueSize ?? 0} ${handle?._parent?.writeQueueSize ?? 0}`
    const now = performance.now()
    if (left !== this.#left) this.#leftAt = now
    this.#left = left
    return now - this.#leftAt >= ms
  }

  /** Bytes that have left since this was asked last, at least: of a write under way the system tells. */
  progress(): number {
    const { _handle: handle } = this.socket as { _handle?: Handle | null }
    const queued = (handle?.writeQueueSize ?? 0) + (handle?._parent?.writeQueueSize ?? 0)
    const done = this.#handed - this.#stream.writableLength
    const sinceLast = done - this.#done
    const progress =
      sinceLast <= 0
        ? Math.max(this.#queued - queued, 0)
        : this.#queued === 0
          ? sinceLast // nothing was under way: all of it has left
          : this.#queued
    this.#done = done
    this.#queued = queued
    return progress
  }

  close(): void {
    this.flush()
    this.#closed = true
    this.#buffer = this.#pieces = undefined
  }
}
