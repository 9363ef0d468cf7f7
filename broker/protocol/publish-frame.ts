// PUBLISH as it goes out: encoded once per variant of a message, and shared by all its deliveries. How PUBLISH is read
// stands in packet-reader.ts. A frame is head + Packet Identifier (of one delivery, QoS ≥ 1) + properties + payload.
// State: the frames that hang on the message while it is delivered, and the last head: who publishes one thing
// mostly publishes more of it.
import { ownTopic, secondsLeft, type Message } from '../../bridge/index.ts'
import { propertyIds, readVariable, variableLength, writeVariable } from './properties.ts'

const none = Buffer.alloc(0)
const noProperties = Buffer.from([0])
const emptyTopic = Buffer.from([0, 0])

/** A PUBLISH without its Packet Identifier. */
export class Frame {
  /** Fixed header and Topic Name. */
  readonly head: Buffer
  /** MQTT 5: the properties, their length included. */
  readonly properties: Buffer
  #payload: Buffer
  #isCopied = false
  /** Bytes on the wire, Packet Identifier included. */
  readonly length: number
  /**
   * When the message expires (as Message says it), and where in the properties its interval stands; 0: it has
   * none.
   */
  readonly expiresAt: number
  readonly expiryOffset: number
  readonly variant: number
  /** Another variant of the same message. */
  readonly next: Frame | undefined

  constructor(
    head: Buffer,
    properties: Buffer,
    payload: Buffer,
    length: number,
    expiresAt: number,
    expiryOffset: number,
    variant: number,
    next: Frame | undefined,
  ) {
    this.head = head
    this.properties = properties
    this.#payload = payload
    this.length = length
    this.expiresAt = expiresAt
    this.expiryOffset = expiryOffset
    this.variant = variant
    this.next = next
  }

  get payload(): Buffer {
    return this.#payload
  }

  get topic(): string {
    let at = 1
    while ((this.head[at++]! & 128) !== 0); // over the remaining length
    return this.head.toString('utf8', at + 2)
  }

  /**
   * Copies the payload, which may be a slice of something larger; for all that share the frame, and for the
   * variants that it leads to.
   */
  copyPayload(payload?: Buffer): void {
    if (this.#isCopied) return
    this.#payload = payload ?? Buffer.from(this.#payload)
    this.#isCopied = true
    this.next?.copyPayload(this.#payload)
  }
}

/** The property section of a PUBLISH to an MQTT 5 subscriber, its length included. */
function propertySection(message: Message, identifiers: readonly number[] | undefined): Buffer {
  if (message.properties === undefined && identifiers === undefined && message.expiresAt === 0)
    return noProperties
  const own: number[] = []
  if (message.expiresAt !== 0) {
    const left = secondsLeft(message.expiresAt, message.expirySeconds)
    own.push(
      propertyIds.messageExpiryInterval,
      left >>> 24,
      (left >>> 16) & 255,
      (left >>> 8) & 255,
      left & 255,
    )
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

let lastHead = none
let lastFirst = 0
let lastRemaining = 0
let lastTopic = ''

/** Fixed header and Topic Name; never changed, since others share it. */
function headOf(first: number, remaining: number, topic: string, topicLength: number): Buffer {
  if (first === lastFirst && remaining === lastRemaining && topic === lastTopic) return lastHead
  const head = Buffer.allocUnsafe(1 + variableLength(remaining) + 2 + topicLength)
  head[0] = first
  let at = writeVariable(head, remaining, 1)
  head[at++] = topicLength >> 8
  head[at++] = topicLength & 255
  head.write(topic, at, 'utf8')
  lastFirst = first
  lastRemaining = remaining
  lastTopic = topic
  return (lastHead = head)
}

function encode(
  message: Message,
  mqtt5: boolean,
  qos: number,
  retain: boolean,
  identifiers: readonly number[] | undefined,
  variant: number,
  next: Frame | undefined,
): Frame {
  const properties = mqtt5 ? propertySection(message, identifiers) : none
  const { payload } = message
  const topic = ownTopic(message.topic) // its tenant's alone get it
  const topicLength = Buffer.byteLength(topic)
  const remaining = 2 + topicLength + (qos > 0 ? 2 : 0) + properties.length + payload.length
  const head = headOf(0x30 | (qos << 1) | (retain ? 1 : 0), remaining, topic, topicLength)
  const expires = message.expiresAt !== 0 && mqtt5
  let expiryOffset = 0
  if (expires) {
    while ((properties[expiryOffset++]! & 128) !== 0); // over the length; the interval is the first property
    expiryOffset++
  }
  const length = head.length - 2 - topicLength + remaining
  return new Frame(
    head,
    properties,
    payload,
    length,
    expires ? message.expiresAt : 0,
    expiryOffset,
    variant,
    next,
  )
}

/**
 * The frame for one kind of delivery, encoded once per message and kind.
 * @param identifiers Subscription Identifiers; frames that carry some are not shared
 */
export function publishFrame(
  message: Message,
  mqtt5: boolean,
  qos: 0 | 1 | 2,
  retain: boolean,
  identifiers: readonly number[] | undefined,
): Frame {
  const variant = (mqtt5 ? 8 : 0) | (retain ? 4 : 0) | qos
  if (mqtt5 && identifiers !== undefined)
    return encode(message, true, qos, retain, identifiers, variant, undefined)
  const known = message.frames as Frame | undefined
  for (let frame = known; frame !== undefined; frame = frame.next) if (frame.variant === variant) return frame
  const frame = encode(message, mqtt5, qos, retain, undefined, variant, known)
  message.frames = frame
  return frame
}

/** What a Topic Alias may add to a frame: itself, and longer lengths. */
export const aliasBytesMax = 5

/**
 * Head and properties of a frame with a Topic Alias, which stands first among the properties.
 * @param alias negative: the topic is there, too
 */
export function aliased(
  { head, properties, payload }: Frame,
  alias: number,
): { readonly head: Buffer; readonly properties: Buffer } {
  let topicAt = 1
  while ((head[topicAt++]! & 128) !== 0); // over the remaining length
  const topic = alias < 0 ? head.subarray(topicAt) : emptyTopic
  const { value, next } = readVariable(properties, 0, properties.length)
  const section = Buffer.allocUnsafe(variableLength(value + 3) + value + 3)
  let at = writeVariable(section, value + 3, 0)
  section[at] = propertyIds.topicAlias
  at = section.writeUInt16BE(Math.abs(alias), at + 1)
  properties.copy(section, at, next)
  const remaining = topic.length + ((head[0]! & 6) === 0 ? 0 : 2) + section.length + payload.length
  const start = Buffer.allocUnsafe(1 + variableLength(remaining) + topic.length)
  start[0] = head[0]!
  topic.copy(start, writeVariable(start, remaining, 1))
  return { head: start, properties: section }
}
