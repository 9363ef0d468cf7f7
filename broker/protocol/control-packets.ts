// Validates, on the raw bytes, the packets that Aedes will see: CONNECT, SUBSCRIBE, UNSUBSCRIBE, PINGREQ,
// DISCONNECT, AUTH. Aedes 2.0.0-beta.1 and mqtt-packet check MQTT 5 input hardly at all; one CONNECT with a
// doubled property would end the process. Nothing of Aedes sees a packet that has not passed here. No state.
import { isUtf8 } from 'node:buffer'
import { isValidFilter } from '../../bridge/index.ts'
import { ReasonCode } from './reason-codes.ts'
import {
  allowedProperties,
  checkUtf8,
  hasUnusual,
  malformed,
  propertyIds,
  protocolError,
  ProtocolViolation,
  scanProperties,
  skipString,
} from './properties.ts'

/** MQTT Control Packet types (MQTT 5 section 2.1.2). */
export const PacketType = {
  connect: 1,
  connack: 2,
  publish: 3,
  puback: 4,
  pubrec: 5,
  pubrel: 6,
  pubcomp: 7,
  subscribe: 8,
  suback: 9,
  unsubscribe: 10,
  unsuback: 11,
  pingreq: 12,
  pingresp: 13,
  disconnect: 14,
  auth: 15,
} as const

/** How long names may be that come over the wire, and what of. */
export interface NameLimits {
  /** Whether a payload that says so is looked at for being UTF-8. */
  readonly payloadFormat: 'pass' | 'check'
  /** Control characters and non-characters in Topic Names, Topic Filters and Client Identifiers (1.5.4). */
  readonly unusualCharacters: 'pass' | 'refuse'
  readonly clientIdBytesMax: number
  readonly topicBytesMax: number
  readonly topicLevelsMax: number
}

/** The protocol level that a CONNECT names: 3 (MQIsdp), 4 or 5, or one that is not known. */
export function connectLevel(bytes: Buffer, body: number, end: number): number {
  if (body + 3 > end) throw malformed('truncated CONNECT')
  const nameEnd = body + 2 + bytes.readUInt16BE(body)
  if (nameEnd >= end) throw malformed('truncated CONNECT')
  const name = bytes.toString('latin1', body + 2, nameEnd)
  if (name !== 'MQTT' && name !== 'MQIsdp') throw new ProtocolViolation(0x84, 'not MQTT') // [MQTT-3.1.2-1]
  return bytes[nameEnd]! & ~bridgeBit
}

/** The highest bit of the level is how bridges of Mosquitto and others mark themselves (`try_private`). */
const bridgeBit = 0x80

export const isForeignBridge = (bytes: Buffer, body: number): boolean =>
  (bytes[body + 2 + bytes.readUInt16BE(body)]! & bridgeBit) !== 0

/**
 * MQTT 3.1 leaves to the server what 3.1.1 forbids: bits that mean nothing are cleared, a user name or
 * password that the packet ends before, too.
 */
function mend31(bytes: Buffer, flagsAt: number, end: number): void {
  let flags = bytes[flagsAt]! & 0xfe
  if ((flags & 4) === 0) flags &= ~0x38
  let at = skipString(bytes, flagsAt + 3, end)
  if ((flags & 4) !== 0) at = skipBinary(bytes, skipString(bytes, at, end), end)
  if (at === end) flags &= ~0xc0
  else if ((flags & 0xc0) === 0xc0 && skipString(bytes, at, end) === end) flags &= ~0x40
  bytes[flagsAt] = flags
}

function skipBinary(bytes: Buffer, offset: number, end: number): number {
  if (offset + 2 > end) throw malformed('truncated CONNECT')
  const next = offset + 2 + bytes.readUInt16BE(offset)
  if (next > end) throw malformed('truncated CONNECT')
  return next
}

/**
 * A will as it stands in CONNECT: the message that is published for the client, and how long after its end.
 */
export interface Will {
  readonly topic: string
  readonly payload: Buffer
  readonly qos: 0 | 1 | 2
  readonly retain: boolean
  readonly properties: Buffer | undefined
  /** -1: none; it begins to run when the will is published. */
  readonly expirySeconds: number
  readonly delaySeconds: number
}

/** What properties of CONNECT ask of us (MQTT 5 section 3.1.2.11); as it is without them. */
export interface Wishes {
  maximumPacketSize: number
  /** Aliases that it takes. */
  topicAliasMaximum: number
  /** Reason Strings may stand in other packets than CONNACK and DISCONNECT, too [MQTT-3.1.2-29]. */
  problemInformation: boolean
  authenticationMethod: string | undefined
}

export interface Connect {
  /** It asks for a session that outlives the connection. */
  keeps: boolean
  will: Will | undefined
  /** Known as soon as its properties are in order, also when what stands after them is not. */
  wishes: Wishes | undefined
}

/**
 * @param connect is filled
 * @throws ProtocolViolation
 */
export function checkConnect(
  bytes: Buffer,
  body: number,
  end: number,
  limits: NameLimits,
  connect: Connect,
): void {
  const level = connectLevel(bytes, body, end)
  const hasName31 = bytes.readUInt16BE(body) === 6 // MQIsdp
  if (level < 3 || level > 5 || hasName31 !== (level === 3))
    // [MQTT-3.1.2-2]
    throw new ProtocolViolation(ReasonCode.unsupportedProtocolVersion, `protocol level ${level}`)
  let at = skipString(bytes, body, end) + 1
  if (at + 3 > end) throw malformed('truncated CONNECT')
  if (level === 3) mend31(bytes, at, end)
  const flags = bytes[at]!
  at += 3 // flags and Keep Alive
  if ((flags & 1) !== 0) throw malformed('the reserved flag of CONNECT is set') // [MQTT-3.1.2-3]
  const hasWill = (flags & 4) !== 0
  const willQos = (flags >> 3) & 3
  if (willQos === 3 || (!hasWill && (flags & 0x38) !== 0))
    throw malformed('will flags that contradict each other') // [MQTT-3.1.2-11..15]
  if (level < 5 && (flags & 0x80) === 0 && (flags & 0x40) !== 0)
    throw malformed('a password without a user name') // 3.1.1 [MQTT-3.1.2-22]
  connect.keeps = level < 5 && (flags & 2) === 0
  const wishes: Wishes = {
    maximumPacketSize: Infinity,
    topicAliasMaximum: 0,
    problemInformation: true,
    authenticationMethod: undefined,
  }
  let hasData = false
  if (level === 5) {
    at = scanProperties(bytes, at, end, allowedProperties.connect, (id, _start, value, next) => {
      if (id === propertyIds.sessionExpiryInterval) connect.keeps = bytes.readUInt32BE(value) > 0
      else if (id === propertyIds.maximumPacketSize) wishes.maximumPacketSize = bytes.readUInt32BE(value)
      else if (id === propertyIds.topicAliasMaximum) wishes.topicAliasMaximum = bytes.readUInt16BE(value)
      else if (id === propertyIds.requestProblemInformation) wishes.problemInformation = bytes[value] === 1
      else if (id === propertyIds.authenticationMethod)
        wishes.authenticationMethod = bytes.toString('utf8', value + 2, next)
      else if (id === propertyIds.authenticationData) hasData = true
    })
    if (hasData && wishes.authenticationMethod === undefined)
      throw protocolError('Authentication Data without a method') // 3.1.2.11.10
  }
  connect.wishes = wishes
  if (at + 2 <= end && bytes.readUInt16BE(at) > limits.clientIdBytesMax) {
    throw new ProtocolViolation(
      ReasonCode.clientIdentifierNotValid,
      `a Client Identifier of ${bytes.readUInt16BE(at)} bytes`,
      'client-id',
    ) // [MQTT-3.1.3-8]
  }
  const idEnd = skipString(bytes, at, end)
  checkCharacters(bytes, at + 2, idEnd, limits)
  if (level === 3 && idEnd === at + 2)
    // one that is assigned came with 3.1.1
    throw new ProtocolViolation(ReasonCode.clientIdentifierNotValid, 'an empty Client Identifier of MQTT 3.1')
  at = idEnd
  if (hasWill) {
    const found = willAt(bytes, at, end, level, willQos as 0 | 1 | 2, (flags & 0x20) !== 0, limits)
    connect.will = found.will
    at = found.at
  }
  if ((flags & 0x80) !== 0) at = skipString(bytes, at, end)
  if ((flags & 0x40) !== 0) at = skipBinary(bytes, at, end)
  if (at !== end) throw malformed('bytes after the end of CONNECT')
}

/**
 * What it holds is copied: a will waits for as long as its connection lasts. What PUBLISH would be refused
 * for, CONNECT is.
 */
function willAt(
  bytes: Buffer,
  at: number,
  end: number,
  level: number,
  qos: 0 | 1 | 2,
  retain: boolean,
  limits: NameLimits,
): { will: Will; at: number } {
  const {
    properties,
    expirySeconds,
    delaySeconds,
    isText,
    at: topicAt,
  } = level === 5 ? messageProperties(bytes, at, end, allowedProperties.will, limits) : noProperties(at)
  const topicEnd = skipString(bytes, topicAt, end)
  checkTopicName(bytes, topicAt + 2, topicEnd, limits)
  const topic = bytes.toString('utf8', topicAt + 2, topicEnd)
  if (level === 5 && isReserved(topic) && !isOfBridge(topic))
    throw new ProtocolViolation(ReasonCode.topicNameInvalid, 'a will on a topic of the broker') // 3.2.2.2
  const next = skipBinary(bytes, topicEnd, end)
  const payload = Buffer.from(bytes.subarray(topicEnd + 2, next))
  if (isText && limits.payloadFormat === 'check' && !isUtf8(payload))
    throw new ProtocolViolation(ReasonCode.payloadFormatInvalid, 'a will that is not UTF-8, as it says') // 3.1.3.2.3
  return {
    at: next,
    will: {
      topic,
      payload,
      qos,
      retain,
      properties: properties === undefined ? undefined : Buffer.from(properties),
      expirySeconds,
      delaySeconds,
    },
  }
}

/** Topics that clients may not publish to: the broker does. A filter `$SYS/#` matches `$SYS`, too. */
export const isReserved = (topic: string): boolean =>
  topic.startsWith('$SYS') && (topic.length === 4 || topic[4] === '/')

/**
 * The will that each bridge of Mosquitto has. Refused it would connect for ever: it is left out, as its PUBLISH to that
 * topic is.
 */
const isOfBridge = (topic: string): boolean => /^\$SYS\/broker\/connection\/.+\/state$/.test(topic)

/** Of a message, in PUBLISH or as a will. */
export interface MessageProperties {
  /**
   * What travels with it, as it came: order and doubles of User Properties are the publisher's
   * [MQTT-3.3.2-18].
   */
  readonly properties: Buffer | undefined
  /** -1: none. */
  readonly expirySeconds: number
  /** 0: none. */
  readonly topicAlias: number
  readonly delaySeconds: number
  /** Payload Format Indicator 1: the payload is UTF-8. */
  readonly isText: boolean
  /** Behind them. */
  readonly at: number
}

const noProperties = (at: number): MessageProperties => ({
  properties: undefined,
  expirySeconds: -1,
  topicAlias: 0,
  delaySeconds: 0,
  isText: false,
  at,
})

/** The properties that travel with a message, and those that end here. @throws ProtocolViolation */
export function messageProperties(
  bytes: Buffer,
  offset: number,
  end: number,
  allowed: ReadonlySet<number>,
  limits: NameLimits,
): MessageProperties {
  let [expirySeconds, topicAlias, delaySeconds] = [-1, 0, 0]
  let isText = false
  const kept: Buffer[] = []
  let [from, to] = [0, 0] // what is kept lies side by side mostly: thousands of User Properties are one piece
  const at = scanProperties(bytes, offset, end, allowed, (id, start, value, next) => {
    if (id === propertyIds.topicAlias) topicAlias = bytes.readUInt16BE(value)
    else if (id === propertyIds.messageExpiryInterval) expirySeconds = bytes.readUInt32BE(value)
    else if (id === propertyIds.willDelayInterval) delaySeconds = bytes.readUInt32BE(value)
    else {
      if (id === propertyIds.responseTopic) checkTopicName(bytes, value + 2, next, limits) // [MQTT-3.3.2-14]
      if (id === propertyIds.payloadFormatIndicator) isText = bytes[value] === 1
      if (start !== to) {
        if (to > 0) kept.push(bytes.subarray(from, to))
        from = start
      }
      to = next
    }
  })
  if (to > 0) kept.push(bytes.subarray(from, to))
  return {
    properties: kept.length === 0 ? undefined : kept.length === 1 ? kept[0] : Buffer.concat(kept),
    expirySeconds,
    topicAlias,
    delaySeconds,
    isText,
    at,
  }
}

/**
 * @throws ProtocolViolation when the Topic Name is empty or holds a wildcard [MQTT-3.3.2-2] [MQTT-4.7.3-1],
 * or has more levels
 *   than a filter may have: each costs every node memory, and one name has room for 65,535
 */
export function checkTopicName(bytes: Buffer, start: number, end: number, limits: NameLimits): void {
  if (start === end) throw protocolError('an empty Topic Name')
  if (end - start > limits.topicBytesMax)
    throw new ProtocolViolation(
      ReasonCode.topicNameInvalid,
      `a Topic Name of ${end - start} bytes`,
      'topic-bytes',
    )
  checkCharacters(bytes, start, end, limits)
  const { topicLevelsMax } = limits
  let levels = 1
  for (let i = start; i < end; i++) {
    if (bytes[i] === 0x2f) levels++
    else if (bytes[i] === 0x2b || bytes[i] === 0x23)
      throw new ProtocolViolation(ReasonCode.topicNameInvalid, 'a wildcard in a Topic Name')
  }
  if (levels > topicLevelsMax)
    throw new ProtocolViolation(
      ReasonCode.topicNameInvalid,
      `a Topic Name of ${levels} levels`,
      'topic-levels',
    )
}

/**
 * U+0001..U+001F, U+007F..U+009F and code points that are no characters: the standard lets a receiver take a packet
 * that has some for malformed (1.5.4), and so does the operator.
 */
function checkCharacters(bytes: Buffer, start: number, end: number, { unusualCharacters }: NameLimits): void {
  if (unusualCharacters === 'refuse' && hasUnusual(bytes, start, end))
    throw malformed('a control character or non-character in a name')
}

function messageIdAt(bytes: Buffer, body: number, end: number): number {
  if (body + 2 > end) throw malformed('truncated packet identifier')
  const messageId = bytes.readUInt16BE(body)
  if (messageId === 0) throw protocolError('Packet Identifier 0') // [MQTT-2.2.1-3]
  return messageId
}

function filterAt(
  bytes: Buffer,
  at: number,
  end: number,
  limits: NameLimits,
): { filter: string; next: number } {
  const next = skipString(bytes, at, end)
  checkCharacters(bytes, at + 2, next, limits)
  const filter = bytes.toString('utf8', at + 2, next)
  // [MQTT-4.7.1-1..3]
  if (!isValidFilter(filter)) throw new ProtocolViolation(0x8f, 'a Topic Filter that is not valid')
  return { filter, next }
}

/** @throws ProtocolViolation */
export function checkSubscribe(
  bytes: Buffer,
  body: number,
  end: number,
  level: number,
  limits: NameLimits,
): void {
  messageIdAt(bytes, body, end)
  let at = body + 2
  if (level === 5) at = scanProperties(bytes, at, end, allowedProperties.subscribe)
  if (at === end) throw protocolError('SUBSCRIBE without a filter') // [MQTT-3.8.3-2]
  while (at < end) {
    const { filter, next } = filterAt(bytes, at, end, limits)
    if (next >= end) throw malformed('SUBSCRIBE without options')
    const options = bytes[next]!
    at = next + 1
    // [MQTT-3.8.3-5]
    if ((options & (level === 5 ? 0xc0 : 0xfc)) !== 0) throw malformed('reserved subscription options')
    // 3.8.3.1
    if ((options & 3) === 3 || (options & 0x30) === 0x30) throw protocolError('QoS or Retain Handling 3')
    if ((options & 4) !== 0 && filter.startsWith('$share/'))
      throw protocolError('No Local on a Shared Subscription') // [MQTT-3.8.3-4]
  }
}

/** @throws ProtocolViolation */
export function checkUnsubscribe(
  bytes: Buffer,
  body: number,
  end: number,
  level: number,
  limits: NameLimits,
): void {
  messageIdAt(bytes, body, end)
  let at = body + 2
  if (level === 5) at = scanProperties(bytes, at, end, allowedProperties.unsubscribe)
  if (at === end) throw protocolError('UNSUBSCRIBE without a filter') // [MQTT-3.10.3-2]
  while (at < end) at = filterAt(bytes, at, end, limits).next
}

/** What a client may say with a packet [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1]. */
const disconnectCodes = new Set([
  0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
])
const acceptanceCodes = new Set([0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99])
const releaseCodes = new Set([0x00, 0x92])

/**
 * @param mayKeep whether CONNECT asked for a session that outlives the connection
 * @throws ProtocolViolation
 */
export function checkDisconnect(
  bytes: Buffer,
  body: number,
  end: number,
  level: number,
  mayKeep: boolean,
): void {
  if (level < 5) {
    if (body !== end) throw malformed('DISCONNECT has a body')
    return
  }
  if (body === end) return
  // [MQTT-3.14.2-1]
  if (!disconnectCodes.has(bytes[body]!)) throw malformed('a reason code that DISCONNECT does not have')
  if (body + 1 === end) return
  const stop = scanProperties(bytes, body + 1, end, allowedProperties.disconnect, (id, _start, value) => {
    if (id === propertyIds.sessionExpiryInterval && !mayKeep && bytes.readUInt32BE(value) > 0)
      throw protocolError('a Session Expiry Interval that CONNECT did not ask for') // 3.14.2.2.2
  })
  if (stop !== end) throw malformed('bytes after the end of DISCONNECT')
}

/**
 * What a DISCONNECT says that has passed `checkDisconnect`; Session Expiry Interval in seconds, -1: for ever.
 */
export function readDisconnect(
  frame: Buffer,
  level: number,
): { reasonCode: number; expirySeconds: number | undefined } {
  let expirySeconds: number | undefined
  if (level < 5 || frame.length === 2) return { reasonCode: 0, expirySeconds }
  const body = frame.length < 130 ? 2 : frame.length < 16_387 ? 3 : frame.length < 2_097_156 ? 4 : 5
  if (body + 1 < frame.length) {
    scanProperties(frame, body + 1, frame.length, allowedProperties.disconnect, (id, _start, value) => {
      if (id === propertyIds.sessionExpiryInterval) expirySeconds = frame.readUInt32BE(value)
    })
  }
  return { reasonCode: frame[body]!, expirySeconds: expirySeconds === 0xffffffff ? -1 : expirySeconds }
}

/**
 * Checks the body of PUBACK, PUBREC, PUBREL or PUBCOMP; returns its reason code (0 when it stands for
 * success).
 */
export function checkAcknowledgement(
  type: number,
  bytes: Buffer,
  body: number,
  end: number,
  level: number,
): number {
  if (end - body > 2 && level < 5) throw malformed('bytes after the end of an acknowledgement')
  if (end - body === 2) return 0
  if (end - body > 3 && scanProperties(bytes, body + 3, end, allowedProperties.acknowledgement) !== end)
    throw malformed('bytes after the end of an acknowledgement')
  const codes = type === PacketType.puback || type === PacketType.pubrec ? acceptanceCodes : releaseCodes
  if (!codes.has(bytes[body + 2]!)) throw malformed('a reason code that the packet does not have')
  return bytes[body + 2]!
}

export { checkUtf8, messageIdAt }
