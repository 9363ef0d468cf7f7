// PUBACK, PUBREC, PUBREL and PUBCOMP as they go out, and a Reason String in any short packet. How they are read stands in
// packet-reader.ts. No state.
import { propertyIds, variableLength, writeVariable } from './properties.ts'

/**
 * With a Reason String, where the client takes a packet of that size [MQTT-3.2.2-19] [MQTT-3.4.2-2] [MQTT-3.5.2-2]
 * [MQTT-3.14.2-3].
 * @param frame a short packet of MQTT 5 that ends with an empty property section
 */
export function withReason(frame: Buffer, reason: string, packetBytesMax: number): Buffer {
  const text = Buffer.from(reason)
  const properties = 3 + text.length
  const length = frame.length - 3 + variableLength(properties) + properties
  if (text.length === 0 || 1 + variableLength(length) + length > packetBytesMax) return frame
  const bytes = Buffer.alloc(1 + variableLength(length) + length)
  bytes[0] = frame[0]!
  let at = writeVariable(bytes, length, 1)
  at += frame.copy(bytes, at, 2, frame.length - 1)
  at = writeVariable(bytes, properties, at)
  bytes[at] = propertyIds.reasonString
  bytes.writeUInt16BE(text.length, at + 1)
  text.copy(bytes, at + 3)
  return bytes
}

/**
 * Writes a PUBACK, PUBREC, PUBREL or PUBCOMP; the reason code goes to MQTT 5 clients when it is not 0.
 * @returns its bytes, at most 5
 */
export function writeAcknowledgement(
  bytes: Buffer,
  at: number,
  type: 4 | 5 | 6 | 7,
  messageId: number,
  mqtt5: boolean,
  reasonCode: number,
): number {
  const reasoned = mqtt5 && reasonCode !== 0
  bytes[at] = (type << 4) | (type === 6 ? 2 : 0)
  bytes[at + 1] = reasoned ? 3 : 2
  bytes[at + 2] = messageId >> 8
  bytes[at + 3] = messageId & 255
  if (reasoned) bytes[at + 4] = reasonCode
  return reasoned ? 5 : 4
}
