// The CONNACK that refuses, as we write it; the one that accepts, and one that refuses what Aedes was asked, is written
// by Aedes (broker/aedes/aedes-packets.ts). CONNECT is read in packet-reader.ts and control-packets.ts (`checkConnect`). No state.
import { ReasonCode } from './reason-codes.ts'
import { withReason } from './acknowledgements.ts'
import { propertyIds, variableLength, writeVariable } from './properties.ts'

/** CONNACK's return codes of 3.1.1 for reason codes of MQTT 5. */
const returnCodes = new Map<number, number>([
  [ReasonCode.unsupportedProtocolVersion, 1],
  [ReasonCode.clientIdentifierNotValid, 2],
  [ReasonCode.serverUnavailable, 3],
  [ReasonCode.serverBusy, 3],
  [ReasonCode.quotaExceeded, 3],
  [ReasonCode.useAnotherServer, 3],
  [ReasonCode.serverMoved, 3],
  [ReasonCode.badUserNameOrPassword, 4],
  [ReasonCode.notAuthorized, 5],
  [ReasonCode.banned, 5],
  [ReasonCode.topicNameInvalid, 5],
])

/** CONNACK of MQTT 5 with a Server Reference (4.11); without it where the client takes no packet as large. */
function withServerReference(reasonCode: number, reference: string, packetBytesMax: number): Buffer {
  const text = Buffer.from(reference)
  const properties = 3 + text.length
  const length = 2 + variableLength(properties) + properties
  const bytes = Buffer.alloc(1 + variableLength(length) + length)
  if (bytes.length > packetBytesMax) return Buffer.from([0x20, 3, 0, reasonCode, 0])
  bytes[0] = 0x20
  let at = writeVariable(bytes, length, 1)
  bytes[at + 1] = reasonCode
  at = writeVariable(bytes, properties, at + 2)
  bytes[at] = propertyIds.serverReference
  bytes.writeUInt16BE(text.length, at + 1)
  text.copy(bytes, at + 3)
  return bytes
}

/** A client is sent elsewhere; where it is told, if it can be. */
export function elsewhereConnack(
  level: number,
  reasonCode: number,
  reference: string,
  packetBytesMax: number,
): Buffer {
  return level >= 5
    ? withServerReference(reasonCode, reference, packetBytesMax)
    : refusingConnack(level, reasonCode)!
}

/**
 * A CONNACK that refuses, of a CONNECT that is not in order; under 3.1.1 only where it has a code for it
 * [MQTT-3.1.4-1].
 */
export function refusingConnack(
  level: number,
  reasonCode: number,
  packetBytesMax = 0,
  reason = '',
): Buffer | undefined {
  if (level >= 5) return withReason(Buffer.from([0x20, 3, 0, reasonCode, 0]), reason, packetBytesMax)
  const returnCode = returnCodes.get(reasonCode)
  return level > 0 && returnCode !== undefined ? Buffer.from([0x20, 2, 0, returnCode]) : undefined
}
