// The MQTT clients of the load process, on raw sockets. A Publisher keeps itself within two windows: messages
// not yet acknowledged (QoS 1) and messages its subscribers have not seen yet, so that no system has to drop
// to keep up. A Subscriber notes which sequence numbers of which publisher came: what is lost, double or out
// of order is counted, not guessed. State: this process; a bit per message and subscriber.
import { connect, type Socket } from 'node:net'
import {
  encodeConnect,
  encodeSubscribe,
  FrameScanner,
  messageIdOf,
  Pubacks,
  PublishFrames,
  type FrameSink,
} from './wire.ts'

/** Connects all of them, so many at once. */
export async function someAtOnce<T>(
  all: readonly T[],
  connect: (one: T, i: number) => Promise<unknown>,
  atOnce = 20,
): Promise<void> {
  let next = 0
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      while (next < all.length) {
        const i = next++
        await connect(all[i]!, i)
      }
    }),
  )
}

/** Unacknowledged PUBLISHes of a QoS 1 publisher. */
const unacknowledgedMax = 150
const framesPerWrite = 256

/** A set of small integers that counts itself. */
class Sequences {
  #bits = new Uint8Array(8192)
  size = 0

  has(value: number): boolean {
    return (this.#bits[value >> 3]! & (1 << (value & 7))) !== 0
  }

  /** False when it was there. */
  add(value: number): boolean {
    const at = value >> 3
    if (at >= this.#bits.length) {
      const larger = new Uint8Array(Math.max(this.#bits.length * 2, at + 1))
      larger.set(this.#bits)
      this.#bits = larger
    }
    const mask = 1 << (value & 7)
    if ((this.#bits[at]! & mask) !== 0) return false
    this.#bits[at]! |= mask
    this.size++
    return true
  }
}

/** One connection: CONNECT and SUBSCRIBE are awaited, everything else is for the subclass. */
export class Peer implements FrameSink {
  readonly #port: number
  readonly #readBytes: number
  #socket: Socket | undefined
  #control: ((type: number, body: Buffer) => void) | undefined
  /** As CONNACK said it. */
  sessionPresent = false
  /** Called once when the connection ends without our doing. */
  onLost: () => void = () => undefined

  constructor(port: number, readBytes = 65_536) {
    this.#port = port
    this.#readBytes = readBytes
  }

  /** There is none before it connects: a node waits a few seconds for CONNECT. */
  get socket(): Socket {
    return (this.#socket ??= this.#open())
  }

  #open(): Socket {
    const scanner = new FrameScanner(this)
    return connect({
      port: this.#port,
      host: '127.0.0.1',
      noDelay: true,
      onread: {
        buffer: Buffer.allocUnsafe(this.#readBytes),
        callback: (length, buffer) => {
          this.onChunk()
          scanner.scan(buffer as Buffer, length)
          this.onChunkEnd()
          return true
        },
      },
    })
      .on('error', () => undefined) // 'close' follows
      .once('close', () => this.onLost())
  }

  async connect(clientId: string, clean = true): Promise<this> {
    const connack = this.#answer(2)
    this.socket.write(encodeConnect(clientId, clean))
    const body = await connack
    this.sessionPresent = (body[0]! & 1) === 1
    if (body[1] !== 0) throw new Error(`${clientId}: CONNACK ${body[1]}`)
    return this
  }

  async subscribe(filters: readonly string[], qos: 0 | 1, messageId = 1): Promise<void> {
    const suback = this.#answer(9)
    this.socket.write(encodeSubscribe(messageId, filters, qos))
    const body = await suback
    if (body.subarray(2).some((code) => code >= 0x80)) throw new Error(`SUBACK refuses ${filters[0] ?? ''}`)
  }

  #answer(type: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const lost = (): void => reject(new Error('connection closed'))
      this.socket.once('close', lost)
      this.#control = (came, body) => {
        if (came !== type) return
        this.socket.off('close', lost)
        this.#control = undefined
        resolve(Buffer.from(body))
      }
    })
  }

  onControl(type: number, body: Buffer): void {
    this.#control?.(type, body)
  }

  onChunk(): void {
    /* for subclasses */
  }
  onChunkEnd(): void {
    /* for subclasses */
  }
  onPublish(_buffer: Buffer, _qos: number, _messageId: number, _payloadAt: number): void {
    /* for subclasses */
  }
  onPuback(_messageId: number): void {
    /* for subclasses */
  }

  end(): void {
    this.onLost = () => undefined
    this.#socket?.destroy()
  }
}

export interface PublisherOptions {
  readonly index: number
  readonly topic: string
  readonly qos: 0 | 1
  /** How many subscribers get each message. */
  readonly fan: number
  readonly payloadBytes: number
  readonly aheadMax: number
}

export class Publisher extends Peer {
  readonly options: PublisherOptions
  readonly #frames: PublishFrames
  readonly #sequenceOfId = new Uint32Array(65_536)
  readonly acknowledged = new Sequences()
  sent = 0
  /** Stops by itself after so many. */
  countMax = Infinity
  /** Sum over subscribers of how far each has come in the sequence. */
  seen = 0
  #seenBefore = -1
  #forgiven = 0
  /** May send as fast as the windows allow. */
  flowing = false

  constructor(port: number, options: PublisherOptions) {
    super(port, 16_384)
    this.options = options
    this.#frames = new PublishFrames(
      options.index,
      options.topic,
      options.qos,
      options.payloadBytes,
      framesPerWrite,
    )
  }

  #room(): number {
    const { qos, fan, aheadMax } = this.options
    const ahead = aheadMax - (this.sent - Math.floor(this.seen / fan) - this.#forgiven)
    const unacknowledged = qos === 0 ? Infinity : unacknowledgedMax - (this.sent - this.acknowledged.size)
    return Math.min(ahead, unacknowledged, this.countMax - this.sent)
  }

  /** Sends what the windows allow, in writes worth it. */
  pump(): void {
    if (!this.flowing) return
    const worthIt = Math.min(this.options.qos === 0 ? 64 : 16, this.countMax - this.sent)
    for (let room = this.#room(); room > 0 && room >= worthIt; room -= framesPerWrite)
      this.send(Math.min(room, framesPerWrite))
  }

  /** Sends `count` (at most 256) now, whatever the windows say. */
  send(count: number): void {
    if (this.options.qos > 0)
      for (let i = this.sent; i < this.sent + count; i++) this.#sequenceOfId[messageIdOf(i)] = i
    this.socket.write(this.#frames.take(count, this.sent, performance.now()))
    this.sent += count
  }

  /**
   * When nothing came back for a while, the messages ahead are lost or stuck: let others follow, once each
   * time it is called.
   */
  forgive(): void {
    const ahead = this.sent - Math.floor(this.seen / this.options.fan) - this.#forgiven
    if (this.seen === this.#seenBefore && ahead >= this.options.aheadMax) this.#forgiven += ahead
    this.#seenBefore = this.seen
  }

  override onPuback(messageId: number): void {
    this.acknowledged.add(this.#sequenceOfId[messageId]!)
  }

  override onChunkEnd(): void {
    this.pump()
  }
}

/** What one subscriber has of one publisher. */
interface Track {
  readonly publisher: Publisher
  readonly came: Sequences
  next: number
}

export class Subscriber extends Peer {
  #tracks: (Track | undefined)[] = []
  readonly #pubacks = new Pubacks()
  readonly #came: () => void
  readonly #bytes: number | undefined
  delivered = 0
  duplicates = 0
  misordered = 0
  /** Came with another QoS than they were sent and subscribed with. */
  wrongQos = 0
  /** Latencies in ms go here while it is set. */
  latencies: number[] | undefined
  #now = 0
  #isMember = false
  #countsLost = true

  /** @param came called after every chunk that brought messages */
  constructor(port: number, publishers: readonly Publisher[], came: () => void, readBytes?: number) {
    super(port, readBytes)
    this.#bytes = readBytes
    this.#came = came
    for (const publisher of publishers)
      this.#tracks[publisher.options.index] = { publisher, came: new Sequences(), next: 0 }
  }

  /**
   * It is of one group with `first`, which counts what none of them got. Among members there is no order to be kept.
   */
  join(first: Subscriber): void {
    this.#tracks = first.#tracks
    this.#isMember = first.#isMember = true
    this.#countsLost = false
  }

  /** The same subscriber with another connection: what came before counts on. */
  again(port: number): Subscriber {
    const next = new Subscriber(port, [], this.#came, this.#bytes)
    next.#tracks = this.#tracks
    for (const count of ['delivered', 'duplicates', 'misordered', 'wrongQos'] as const)
      next[count] = this[count]
    return next
  }

  override onChunk(): void {
    if (this.latencies !== undefined) this.#now = performance.now()
  }

  override onPublish(buffer: Buffer, qos: number, messageId: number, payloadAt: number): void {
    if (qos > 0) this.#pubacks.add(messageId)
    const track = this.#tracks[buffer.readUInt32BE(payloadAt)]
    if (track === undefined) throw new Error('a message that nobody sent')
    if (qos !== track.publisher.options.qos) this.wrongQos++
    const sequence = buffer.readUInt32BE(payloadAt + 4)
    if (!track.came.add(sequence)) this.duplicates++
    else {
      this.delivered++
      if (sequence < track.next && !this.#isMember) this.misordered++
    }
    if (sequence >= track.next) {
      track.publisher.seen += sequence + 1 - track.next
      track.next = sequence + 1
    }
    this.latencies?.push(this.#now - buffer.readDoubleBE(payloadAt + 8))
  }

  override onChunkEnd(): void {
    const pubacks = this.#pubacks.take()
    if (pubacks !== undefined) this.socket.write(pubacks)
    this.#came()
  }

  /**
   * Of what is due from these publishers, how much never came: what was sent at QoS 0, what was acknowledged
   * at QoS 1.
   */
  lost(of: readonly Publisher[]): number {
    let lost = 0
    if (!this.#countsLost) return 0
    for (const track of this.#tracks) {
      if (track === undefined || !of.includes(track.publisher)) continue
      const { publisher, came } = track
      for (let i = 0; i < publisher.sent; i++) {
        if (!came.has(i) && (publisher.options.qos === 0 || publisher.acknowledged.has(i))) lost++
      }
    }
    return lost
  }
}
