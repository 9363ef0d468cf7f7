// MQTT 5 properties as bytes: which exist, where a client may send them, and a scanner that validates a
// property section without decoding it. PUBLISH properties stay bytes from publisher to subscriber. No state.
import { isUtf8 } from 'node:buffer'
import { ReasonCode } from './reason-codes.ts'
import type { RefusalCause } from '../access/refusals.ts'

/** A violation by a client; the connection ends with `reasonCode` (MQTT 5 section 4.13). */
export class ProtocolViolation extends Error {
  readonly reasonCode: number
  /** What the standard allows and a bound of ours does not: which bound, as the metric has it. */
  readonly bound: RefusalCause | undefined

  constructor(reasonCode: number, message: string, bound?: RefusalCause) {
    super(message)
    this.reasonCode = reasonCode
    this.bound = bound
  }
}

export const malformed = (message: string): ProtocolViolation =>
  new ProtocolViolation(ReasonCode.malformedPacket, message)
export const protocolError = (message: string): ProtocolViolation =>
  new ProtocolViolation(ReasonCode.protocolError, message)

type Kind = 'boolean' | 'two' | 'two>0' | 'four' | 'four>0' | 'variable>0' | 'string' | 'binary' | 'pair'

/**
 * A new property of PUBLISH: its identifier here, its kind below, and its name in `allowedProperties.publish`. It is passed
 * on as it came from then on, unless `messageProperties` (control-packets.ts) reads it.
 */
export const propertyIds = {
  payloadFormatIndicator: 0x01,
  messageExpiryInterval: 0x02,
  contentType: 0x03,
  responseTopic: 0x08,
  correlationData: 0x09,
  subscriptionIdentifier: 0x0b,
  sessionExpiryInterval: 0x11,
  authenticationMethod: 0x15,
  authenticationData: 0x16,
  requestProblemInformation: 0x17,
  willDelayInterval: 0x18,
  requestResponseInformation: 0x19,
  serverReference: 0x1c,
  reasonString: 0x1f,
  receiveMaximum: 0x21,
  topicAliasMaximum: 0x22,
  topicAlias: 0x23,
  userProperty: 0x26,
  maximumPacketSize: 0x27,
} as const

const kinds: Readonly<Partial<Record<number, Kind>>> = {
  [propertyIds.payloadFormatIndicator]: 'boolean',
  [propertyIds.messageExpiryInterval]: 'four',
  [propertyIds.contentType]: 'string',
  [propertyIds.responseTopic]: 'string',
  [propertyIds.correlationData]: 'binary',
  [propertyIds.subscriptionIdentifier]: 'variable>0',
  [propertyIds.sessionExpiryInterval]: 'four',
  [propertyIds.authenticationMethod]: 'string',
  [propertyIds.authenticationData]: 'binary',
  [propertyIds.requestProblemInformation]: 'boolean',
  [propertyIds.willDelayInterval]: 'four',
  [propertyIds.requestResponseInformation]: 'boolean',
  [propertyIds.reasonString]: 'string',
  [propertyIds.receiveMaximum]: 'two>0',
  [propertyIds.topicAliasMaximum]: 'two',
  [propertyIds.topicAlias]: 'two>0',
  [propertyIds.userProperty]: 'pair',
  [propertyIds.maximumPacketSize]: 'four>0',
}

const ids = (...names: (keyof typeof propertyIds)[]): ReadonlySet<number> =>
  new Set(names.map((name) => propertyIds[name]))

/** Which properties a client may send, by packet (MQTT 5 section 2.2.2.2). */
export const allowedProperties = {
  connect: ids(
    'sessionExpiryInterval',
    'authenticationMethod',
    'authenticationData',
    'requestProblemInformation',
    'requestResponseInformation',
    'receiveMaximum',
    'topicAliasMaximum',
    'userProperty',
    'maximumPacketSize',
  ),
  will: ids(
    'payloadFormatIndicator',
    'messageExpiryInterval',
    'contentType',
    'responseTopic',
    'correlationData',
    'willDelayInterval',
    'userProperty',
  ),
  // no Subscription Identifier from a client [MQTT-3.3.4-6]
  publish: ids(
    'payloadFormatIndicator',
    'messageExpiryInterval',
    'contentType',
    'responseTopic',
    'correlationData',
    'topicAlias',
    'userProperty',
  ),
  acknowledgement: ids('reasonString', 'userProperty'),
  subscribe: ids('subscriptionIdentifier', 'userProperty'),
  unsubscribe: ids('userProperty'),
  disconnect: ids('sessionExpiryInterval', 'reasonString', 'userProperty'),
  auth: ids('authenticationMethod', 'authenticationData', 'reasonString', 'userProperty'),
} as const

/**
 * Where a Variable Byte Integer ends and what it says: `value` and the offset after it, in one number each.
 */
export function readVariable(bytes: Buffer, offset: number, end: number): { value: number; next: number } {
  let value = 0
  for (let i = 0, factor = 1; i < 4; i++, factor *= 128) {
    if (offset >= end) throw malformed('truncated variable byte integer')
    const byte = bytes[offset++]!
    value += (byte & 127) * factor
    if (byte < 128) {
      // [MQTT-1.5.5-1]
      if (i > 0 && byte === 0) throw malformed('variable byte integer is longer than need be')
      return { value, next: offset }
    }
  }
  throw malformed('variable byte integer of more than four bytes')
}

/** Bytes of a Variable Byte Integer (MQTT 5 section 1.5.5). */
export function variableLength(value: number): number {
  return value < 128 ? 1 : value < 16_384 ? 2 : value < 2_097_152 ? 3 : 4
}

/** Writes a Variable Byte Integer; returns the offset after it. */
export function writeVariable(bytes: Buffer, value: number, offset: number): number {
  do {
    const rest = value >>> 7
    bytes[offset++] = rest > 0 ? (value & 127) | 128 : value
    value = rest
  } while (value > 0)
  return offset
}

/** Checks a UTF-8 Encoded String at `offset` (MQTT 5 section 1.5.4); returns the offset after it. */
export function skipString(bytes: Buffer, offset: number, end: number): number {
  if (offset + 2 > end) throw malformed('truncated string')
  const next = offset + 2 + ((bytes[offset]! << 8) | bytes[offset + 1]!)
  if (next > end) throw malformed('truncated string')
  checkUtf8(bytes, offset + 2, next)
  return next
}

/** A call of isUtf8 costs as much as so many bytes one by one. */
const shortBytes = 32

/**
 * @throws ProtocolViolation when the bytes are not well-formed UTF-8 or hold U+0000 [MQTT-1.5.4-1]
 * [MQTT-1.5.4-2]
 */
export function checkUtf8(bytes: Buffer, start: number, end: number): void {
  let isAscii = true
  for (let i = start; i < end; i++) {
    const byte = bytes[i]!
    if (byte === 0) throw malformed('U+0000 in a string')
    if (byte > 127) isAscii = false
  }
  if (
    !isAscii &&
    !(end - start <= shortBytes ? isShortUtf8(bytes, start, end) : isUtf8(bytes.subarray(start, end)))
  )
    throw malformed('a string is not UTF-8')
}

/** Whether UTF-8 that is well-formed has control characters, or code points that are no characters (1.5.4). */
export function hasUnusual(bytes: Buffer, start: number, end: number): boolean {
  for (let i = start; i < end;) {
    const first = bytes[i]!
    if (first < 0x20 || first === 0x7f) return true
    if (first < 0x80) i++
    else {
      const more = first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3
      const [next, last] = [bytes[i + 1]!, bytes[i + more]!]
      if (first === 0xc2 && next < 0xa0) return true // U+0080..U+009F
      if (first === 0xef && next === 0xb7 && last >= 0x90 && last < 0xb0) return true // U+FDD0..U+FDEF
      // U+FFFE, U+FFFF and the same of every plane
      const isEnd = last >= 0xbe && bytes[i + more - 1] === 0xbf
      if (isEnd && ((more === 2 && first === 0xef) || (more === 3 && (next & 0x0f) === 0x0f))) return true
      i += more + 1
    }
  }
  return false
}

/** Table 3-7 of the Unicode Standard. */
function isShortUtf8(bytes: Buffer, start: number, end: number): boolean {
  for (let i = start; i < end;) {
    const first = bytes[i++]!
    if (first < 0x80) continue
    if (first < 0xc2 || first > 0xf4) return false
    const more = first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3
    if (i + more > end) return false
    const second = bytes[i]!
    if (
      second < (first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80) ||
      second > (first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf)
    )
      return false
    for (let n = 1; n < more; n++) if ((bytes[i + n]! & 0xc0) !== 0x80) return false
    i += more
  }
  return true
}

function skipValue(kind: Kind, bytes: Buffer, offset: number, end: number): number {
  const need = (length: number): number => {
    if (offset + length > end) throw malformed('truncated property')
    return offset + length
  }
  switch (kind) {
    case 'boolean': {
      const next = need(1)
      if (bytes[offset]! > 1) throw protocolError('a property that is 0 or 1 has another value')
      return next
    }
    case 'two':
      return need(2)
    case 'two>0':
    case 'four>0': {
      const next = need(kind === 'two>0' ? 2 : 4)
      if (bytes.readUIntBE(offset, next - offset) === 0)
        throw protocolError('a property that must not be 0 is 0')
      return next
    }
    case 'four':
      return need(4)
    case 'variable>0': {
      const { value, next } = readVariable(bytes, offset, end)
      if (value === 0) throw protocolError('Subscription Identifier 0') // [MQTT-3.8.3-1]
      return next
    }
    case 'string':
      return skipString(bytes, offset, end)
    case 'pair':
      return skipString(bytes, skipString(bytes, offset, end), end)
    case 'binary': {
      const next = need(2) + bytes.readUInt16BE(offset)
      if (next > end) throw malformed('truncated binary data')
      return next
    }
  }
}

/**
 * Called for each property: its identifier, where it starts (the identifier's offset), where its value starts
 * and ends.
 */
export type OnProperty = (id: number, start: number, value: number, end: number) => void

/**
 * Validates the property section whose length stands at `offset`; returns the offset after it.
 * @throws ProtocolViolation for what is not allowed, doubled, truncated or out of range
 */
export function scanProperties(
  bytes: Buffer,
  offset: number,
  end: number,
  allowed: ReadonlySet<number>,
  onProperty?: OnProperty,
): number {
  const { value: length, next } = readVariable(bytes, offset, end)
  const stop = next + length
  if (stop > end) throw malformed('truncated properties')
  let [low, high] = [0, 0] // which were seen: bits, of those below 32 and of the others
  let at = next
  let hasUserProperty = false
  while (at < stop) {
    const start = at
    const id = bytes[at++]!
    if (hasUserProperty && id === propertyIds.userProperty) {
      // of these there may be two hundred thousand
      const value = at
      at = skipString(bytes, skipString(bytes, at, stop), stop)
      onProperty?.(id, start, value, at)
      continue
    }
    const kind = kinds[id]
    if (kind === undefined || id > 127) throw malformed(`unknown property 0x${id.toString(16)}`)
    if (!allowed.has(id)) throw malformed(`property 0x${id.toString(16)} is not allowed here`)
    const bit = 1 << (id & 31)
    if (((id < 32 ? low : high) & bit) !== 0 && id !== propertyIds.userProperty)
      throw protocolError(`property 0x${id.toString(16)} stands twice`)
    if (id < 32) low |= bit
    else high |= bit
    hasUserProperty ||= id === propertyIds.userProperty
    const value = at
    at = skipValue(kind, bytes, at, stop)
    onProperty?.(id, start, value, at)
  }
  return stop
}
