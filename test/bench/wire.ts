// MQTT 3.1.1 on the wire, as little of it as a load generator needs. Frames are encoded once and then patched
// (Packet Identifier, sequence number, time); what comes in is only scanned for fixed header, Remaining
// Length, Packet Identifier and where the payload is. Every payload begins with 16 bytes of ours: publisher
// (u32), sequence number (u32), time of sending (f64, ms). State: the beginning of a frame whose rest has not
// come yet, per scanner.

export const stampBytes = 16

const string = (text: string): Buffer => {
  const bytes = Buffer.from(text)
  return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes])
}

function frame(first: number, ...parts: readonly Buffer[]): Buffer {
  const body = Buffer.concat(parts)
  const head = [first]
  for (let rest = body.length; ;) {
    const more = rest > 127
    head.push((rest & 127) | (more ? 128 : 0))
    rest >>>= 7
    if (!more) break
  }
  return Buffer.concat([Buffer.from(head), body])
}

/** CONNECT without keep alive: an idle connection of the benchmark is really idle. */
export const encodeConnect = (
  clientId: string,
  clean: boolean,
  said?: { readonly user: string; readonly password: string },
): Buffer =>
  frame(
    0x10,
    string('MQTT'),
    Buffer.from([4, (clean ? 2 : 0) | (said === undefined ? 0 : 0xc0), 0, 0]),
    string(clientId),
    ...(said === undefined ? [] : [string(said.user), string(said.password)]),
  )

export const encodePing = (): Buffer => frame(0xc0)

export const encodeSubscribe = (messageId: number, filters: readonly string[], qos: 0 | 1): Buffer =>
  frame(
    0x82,
    Buffer.from([messageId >> 8, messageId & 255]),
    ...filters.map((filter) => Buffer.concat([string(filter), Buffer.from([qos])])),
  )

export const encodeRetained = (messageId: number, topic: string, payload: Buffer): Buffer =>
  frame(0x33, string(topic), Buffer.from([messageId >> 8, messageId & 255]), payload)

export const encodeDisconnect = (): Buffer => frame(0xe0)

/** The Packet Identifier of the message with this sequence number. */
export const messageIdOf = (sequence: number): number => (sequence % 65_535) + 1

/** PUBLISH frames of one publisher on one topic: a block of them is encoded once, copied and patched. */
export class PublishFrames {
  readonly #block: Buffer
  readonly #size: number
  /** Offset of the Packet Identifier in a frame; -1 for QoS 0, which has none. */
  readonly #idAt: number
  readonly #stampAt: number
  /** Frames in a block: the most that one call gives. */
  readonly countMax: number

  constructor(publisher: number, topic: string, qos: 0 | 1, payloadBytes: number, countMax: number) {
    const payload = Buffer.alloc(payloadBytes, 'x')
    payload.writeUInt32BE(publisher, 0)
    const one = frame(0x30 | (qos << 1), string(topic), Buffer.alloc(qos === 0 ? 0 : 2), payload)
    this.#size = one.length
    this.#stampAt = one.length - payloadBytes + 4
    this.#idAt = qos === 0 ? -1 : one.length - payloadBytes - 2
    this.countMax = countMax
    this.#block = Buffer.concat(Array.from({ length: countMax }, () => one))
  }

  /** `count` frames in one buffer, from `sequence` on, all sent at `time`. */
  take(count: number, sequence: number, time: number): Buffer {
    const bytes = count * this.#size
    const out = Buffer.allocUnsafe(bytes)
    this.#block.copy(out, 0, 0, bytes)
    for (let i = 0, at = 0; i < count; i++, at += this.#size) {
      if (this.#idAt >= 0) out.writeUInt16BE(messageIdOf(sequence + i), at + this.#idAt)
      out.writeUInt32BE(sequence + i, at + this.#stampAt)
      out.writeDoubleBE(time, at + this.#stampAt + 4)
    }
    return out
  }
}

/** PUBACKs, gathered and written together. */
export class Pubacks {
  #buffer = Buffer.allocUnsafe(4096)
  #length = 0

  add(messageId: number): void {
    if (this.#length + 4 > this.#buffer.length)
      this.#buffer = Buffer.concat([this.#buffer], this.#buffer.length * 2)
    const buffer = this.#buffer
    buffer[this.#length] = 0x40
    buffer[this.#length + 1] = 2
    buffer[this.#length + 2] = messageId >> 8
    buffer[this.#length + 3] = messageId & 255
    this.#length += 4
  }

  /** What was gathered; undefined when there is nothing. */
  take(): Buffer | undefined {
    if (this.#length === 0) return undefined
    const out = Buffer.from(this.#buffer.subarray(0, this.#length))
    this.#length = 0
    return out
  }
}

export interface FrameSink {
  /** `payloadAt`: where the payload begins in `buffer`, which is only valid during the call. */
  onPublish(buffer: Buffer, qos: number, messageId: number, payloadAt: number): void
  onPuback(messageId: number): void
  /** Any other packet: its type and its body. */
  onControl(type: number, body: Buffer): void
}

/**
 * Cuts a byte stream into frames. Cost: a few byte reads per frame; only a frame cut by a chunk's end is
 * copied.
 */
export class FrameScanner {
  readonly #sink: FrameSink
  #rest: Buffer | undefined

  constructor(sink: FrameSink) {
    this.#sink = sink
  }

  /** The bytes of `buffer` up to `length` are not kept. */
  scan(buffer: Buffer, length: number): void {
    let bytes = buffer
    let end = length
    if (this.#rest !== undefined) {
      bytes = Buffer.concat([this.#rest, buffer.subarray(0, length)])
      end = bytes.length
      this.#rest = undefined
    }
    const at = this.#frames(bytes, end)
    if (at < end) this.#rest = Buffer.from(bytes.subarray(at, end))
  }

  /** Hands out the whole frames; returns where the first incomplete one begins. */
  #frames(bytes: Buffer, end: number): number {
    let start = 0
    while (start + 2 <= end) {
      let at = start + 1
      let byte = bytes[at++]!
      let remaining = byte & 127
      for (let shift = 7; byte > 127 && at < end; shift += 7) {
        byte = bytes[at++]!
        remaining |= (byte & 127) << shift
      }
      if (byte > 127 || at + remaining > end) return start
      const first = bytes[start]!
      const type = first >> 4
      if (type === 3) {
        const qos = (first >> 1) & 3
        let payloadAt = at + 2 + ((bytes[at]! << 8) | bytes[at + 1]!)
        let messageId = 0
        if (qos > 0) {
          messageId = (bytes[payloadAt]! << 8) | bytes[payloadAt + 1]!
          payloadAt += 2
        }
        this.#sink.onPublish(bytes, qos, messageId, payloadAt)
      } else if (type === 4) this.#sink.onPuback((bytes[at]! << 8) | bytes[at + 1]!)
      else this.#sink.onControl(type, bytes.subarray(at, at + remaining))
      start = at + remaining
    }
    return start
  }
}
