// The CONNACK that refuses, as we write it; the one that accepts, and one that refuses what Aedes was asked, is written
// by Aedes (broker/aedes/aedes-packets.ts). CONNECT is read in packet-reader.ts and control-packets.ts (`checkConnect`). No state.
import { ReasonCode } from './reason-codes.ts'
import { withReason } from './acknowledgements.ts'

/** CONNACK's return codes of 3.1.1 for reason codes of MQTT 5. */
const returnCodes = new Map<number, number>([
  [ReasonCode.unsupportedProtocolVersion, 1],
  [ReasonCode.clientIdentifierNotValid, 2],
  [ReasonCode.serverUnavailable, 3],
  [ReasonCode.serverBusy, 3],
  [ReasonCode.quotaExceeded, 3],
  [ReasonCode.badUserNameOrPassword, 4],
  [ReasonCode.notAuthorized, 5],
  [ReasonCode.banned, 5],
  [ReasonCode.topicNameInvalid, 5],
])

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
