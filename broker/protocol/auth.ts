// AUTH as bytes (MQTT 5 section 3.15): what a client sends is validated, what we send is written. No state.
import { ReasonCode } from './reason-codes.ts'
import {
  allowedProperties,
  malformed,
  propertyIds,
  protocolError,
  readVariable,
  scanProperties,
  variableLength,
  writeVariable,
} from './properties.ts'

export interface Auth {
  readonly reasonCode: number
  readonly method: string | undefined
  readonly data: Buffer | undefined
}

function authAt(bytes: Buffer, body: number, end: number): Auth {
  let [method, data]: [string | undefined, Buffer | undefined] = [undefined, undefined]
  if (body + 1 < end) {
    const stop = scanProperties(bytes, body + 1, end, allowedProperties.auth, (id, _start, value, next) => {
      if (id === propertyIds.authenticationMethod) method = bytes.toString('utf8', value + 2, next)
      else if (id === propertyIds.authenticationData) data = Buffer.from(bytes.subarray(value + 2, next))
    })
    if (stop !== end) throw malformed('bytes after the end of AUTH')
  }
  return { reasonCode: body === end ? ReasonCode.success : bytes[body]!, method, data }
}

/**
 * @param method that CONNECT named
 * @throws ProtocolViolation
 */
export function checkAuth(
  bytes: Buffer,
  body: number,
  end: number,
  level: number,
  method: string | undefined,
): void {
  if (level < 5) throw protocolError('AUTH is not of this protocol level')
  const auth = authAt(bytes, body, end)
  // [MQTT-4.12.0-7]
  if (method === undefined) throw protocolError('AUTH without an Authentication Method in CONNECT')
  // [MQTT-3.15.2-1] [MQTT-4.12.0-3]; success is ours to say
  if (auth.reasonCode !== ReasonCode.continueAuthentication && auth.reasonCode !== ReasonCode.reAuthenticate)
    throw malformed('a reason code that AUTH of a client does not have')
  // [MQTT-4.12.0-5] [MQTT-4.12.1-1]
  if (auth.method !== method) throw protocolError('another Authentication Method than that of CONNECT')
}

/** What an AUTH says that has passed `checkAuth`. */
export function readAuth(frame: Buffer): Auth {
  return authAt(frame, readVariable(frame, 1, frame.length).next, frame.length)
}

/** An AUTH of ours. */
export function authFrame(reasonCode: number, method: string, data: Buffer | undefined): Buffer {
  const name = Buffer.from(method)
  const properties = 3 + name.length + (data === undefined ? 0 : 3 + data.length)
  const length = 1 + variableLength(properties) + properties
  const frame = Buffer.alloc(1 + variableLength(length) + length)
  frame[0] = 0xf0
  let at = writeVariable(frame, length, 1)
  frame[at] = reasonCode
  at = writeVariable(frame, properties, at + 1)
  for (const [id, value] of [
    [propertyIds.authenticationMethod, name],
    [propertyIds.authenticationData, data],
  ] as const) {
    if (value === undefined) continue
    frame[at] = id
    at = frame.writeUInt16BE(value.length, at + 1)
    at += value.copy(frame, at)
  }
  return frame
}
