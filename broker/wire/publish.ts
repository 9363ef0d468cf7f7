// Outbound frames: PUBLISH encoded once per variant of a message and shared by all its deliveries, and the
// acknowledgements. A QoS ≥ 1 frame is head + two bytes of the delivery's own (Packet Identifier) + tail. No state but
// the frames that hang on the message while it is delivered.
import type { IPublishPacket } from 'mqtt-packet'
import type { Message } from '../../bridge/index.ts'
import { allowedProperties, propertyIds, scanProperties } from './properties.ts'

/** A PUBLISH without its Packet Identifier; `tail` holds properties and payload. QoS 0: all of it is in `head`. */
export class Frame {
  readonly head: Buffer
  #tail: Buffer
  #owned: boolean
  /** Bytes on the wire, Packet Identifier included. */
  readonly length: number
  /** When the message expires, and where in the tail its Message Expiry Interval stands; 0: it has none. */
  expiresAt = 0
  expiryOffset = 0

  constructor(head: Buffer, tail: Buffer, owned: boolean, length: number) {
    this.head = head
    this.#tail = tail
    this.#owned = owned
    this.length = length
  }

  get tail(): Buffer {
    return this.#tail
  }

  /** Copies the tail when it is a slice of something larger; for all that share the frame. */
  own(): void {
    if (this.#owned) return
    this.#tail = Buffer.from(this.#tail)
    this.#owned = true
  }
}

interface Frames {
  [variant: number]: Frame | undefined
}

const none = Buffer.alloc(0)

function variableLength(value: number): number {
  return value < 128 ? 1 : value < 16_384 ? 2 : value < 2_097_152 ? 3 : 4
}

function writeVariable(bytes: Buffer, value: number, offset: number): number {
  do {
    const rest = value >>> 7
    bytes[offset++] = rest > 0 ? (value & 127) | 128 : value
    value = rest
  } while (value > 0)
  return offset
}

/** Message Expiry Interval as it is when the message leaves [MQTT-3.3.2-6]. */
export const secondsLeft = (expiresAt: number, now: number): number => Math.max(1, Math.ceil((expiresAt - now) / 1000))

/** The property section of a PUBLISH to an MQTT 5 subscriber, its length included. */
function propertySection(message: Message, identifiers: readonly number[] | undefined, now: number): Buffer {
  if (message.properties === undefined && identifiers === undefined && message.expiresAt === 0) return Buffer.from([0])
  const own: number[] = []
  if (message.expiresAt !== 0) {
    const left = secondsLeft(message.expiresAt, now)
    own.push(propertyIds.messageExpiryInterval, left >>> 24, (left >>> 16) & 255, (left >>> 8) & 255, left & 255)
  }
  for (const identifier of identifiers ?? []) {
    own.push(propertyIds.subscriptionIdentifier)
    for (let value = identifier; ; value >>>= 7) {
      own.push(value > 127 ? (value & 127) | 128 : value)
      if (value <= 127) break
    }
  }
  const length = own.length + (message.properties?.length ?? 0)
  const section = Buffer.allocUnsafe(variableLength(length) + length)
  let at = writeVariable(section, length, 0)
  for (const byte of own) section[at++] = byte
  if (message.properties !== undefined) message.properties.copy(section, at)
  return section
}

function encode(message: Message, mqtt5: boolean, qos: number, retain: boolean, identifiers: readonly number[] | undefined): Frame {
  const properties = mqtt5 ? propertySection(message, identifiers, Date.now()) : none
  const topicLength = Buffer.byteLength(message.topic)
  const remaining = 2 + topicLength + (qos > 0 ? 2 : 0) + properties.length + message.payload.length
  const headLength = 1 + variableLength(remaining) + 2 + topicLength
  const length = headLength + (qos > 0 ? 2 : 0) + properties.length + message.payload.length
  const head = Buffer.allocUnsafe(qos > 0 ? headLength : length)
  head[0] = 0x30 | (qos << 1) | (retain ? 1 : 0)
  let at = writeVariable(head, remaining, 1)
  head[at++] = topicLength >> 8
  head[at++] = topicLength & 255
  at += head.write(message.topic, at, 'utf8')
  if (qos === 0) {
    at += properties.copy(head, at)
    message.payload.copy(head, at)
    return new Frame(head, none, true, length)
  }
  if (properties.length === 0) return new Frame(head, message.payload, false, length)
  const frame = new Frame(head, Buffer.concat([properties, message.payload]), true, length)
  if (message.expiresAt !== 0) {
    frame.expiresAt = message.expiresAt
    let at = 0
    while ((properties[at++]! & 128) !== 0); // over the length; the interval is the first property
    frame.expiryOffset = at + 1
  }
  return frame
}

/**
 * The frame for one kind of delivery, encoded once per message and kind.
 * @param identifiers Subscription Identifiers; frames that carry some are not shared
 */
export function publishFrame(message: Message, mqtt5: boolean, qos: 0 | 1 | 2, retain: boolean, identifiers: readonly number[] | undefined): Frame {
  if (mqtt5 && identifiers !== undefined) return encode(message, true, qos, retain, identifiers)
  const variant = (mqtt5 ? 8 : 0) | (retain ? 4 : 0) | qos
  const frames = (message.frames ??= {}) as Frames
  return (frames[variant] ??= encode(message, mqtt5, qos, retain, undefined))
}

/** PUBACK, PUBREC, PUBREL or PUBCOMP; the reason code goes to MQTT 5 clients when it is not 0. */
export function acknowledgement(type: 4 | 5 | 6 | 7, messageId: number, mqtt5: boolean, reasonCode: number): Buffer {
  const first = (type << 4) | (type === 6 ? 2 : 0)
  return mqtt5 && reasonCode !== 0
    ? Buffer.from([first, 3, messageId >> 8, messageId & 255, reasonCode])
    : Buffer.from([first, 2, messageId >> 8, messageId & 255])
}

/**
 * The message of a parsed packet: a will, or what the broker itself publishes. Its Will Delay Interval stays behind.
 * @param generate mqtt-packet's encoder, for the properties
 */
export function messageOf(packet: Omit<IPublishPacket, 'cmd'>, generate: (packet: IPublishPacket) => Buffer): Message {
  const { topic, qos, retain } = packet
  const payload = Buffer.isBuffer(packet.payload) ? packet.payload : Buffer.from(packet.payload)
  const { willDelayInterval: _delay, messageExpiryInterval, ...rest } = (packet.properties ?? {}) as Record<string, unknown>
  let properties: Buffer | undefined
  if (Object.keys(rest).length > 0) {
    const frame = generate({ cmd: 'publish', topic: 't', payload: Buffer.alloc(0), qos: 0, retain: false, dup: false, properties: rest })
    let at = 1
    while ((frame[at++]! & 128) !== 0); // over the remaining length
    at += 3 // over the topic
    const kept: Buffer[] = []
    scanProperties(frame, at, frame.length, allowedProperties.publish, (_id, start, _value, end) => kept.push(frame.subarray(start, end)))
    properties = Buffer.concat(kept)
  }
  return {
    topic, payload, qos, retain, properties, publisher: undefined, origin: undefined, frames: undefined,
    expiresAt: typeof messageExpiryInterval === 'number' ? Date.now() + messageExpiryInterval * 1_000 : 0,
  }
}
