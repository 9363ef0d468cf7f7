// CONNECT without its User Properties, as Aedes gets it: nobody there reads them, and mqtt-packet makes an
// object of them, 200,000 of one packet of 1 MiB, which stops the event loop for half a second (P12). No
// state.
import {
  propertyIds,
  readVariable,
  scanProperties,
  skipString,
  variableLength,
  writeVariable,
} from './properties.ts'

/** All that may stand in either section: they were checked before. */
const any: ReadonlySet<number> = new Set(Object.values(propertyIds))

/** A section of properties without its User Properties, its length included; and where the section ended. */
function section(bytes: Buffer, start: number): { kept: Buffer[]; end: number } {
  const first = readVariable(bytes, start, bytes.length).next
  const kept: Buffer[] = []
  let from = first
  const end = scanProperties(bytes, start, bytes.length, any, (id, at, _value, next) => {
    if (id !== propertyIds.userProperty) return
    if (at > from) kept.push(bytes.subarray(from, at))
    from = next
  })
  if (end > from) kept.push(bytes.subarray(from, end))
  return { kept: [variable(kept.reduce((sum, { length }) => sum + length, 0)), ...kept], end }
}

function variable(value: number): Buffer {
  const bytes = Buffer.alloc(variableLength(value))
  writeVariable(bytes, value, 0)
  return bytes
}

/** @param frame a whole CONNECT that is valid, of MQTT 5 */
export function withoutUserProperties(frame: Buffer): Buffer {
  const body = readVariable(frame, 1, frame.length).next
  const flagsAt = skipString(frame, body, frame.length) + 1
  const properties = flagsAt + 3
  const connect = section(frame, properties)
  const pieces = [frame.subarray(body, properties), ...connect.kept]
  let at = connect.end
  if ((frame[flagsAt]! & 4) !== 0) {
    // a will
    const willAt = skipString(frame, at, frame.length)
    const will = section(frame, willAt)
    pieces.push(frame.subarray(at, willAt), ...will.kept)
    at = will.end
  }
  pieces.push(frame.subarray(at))
  const length = pieces.reduce((sum, piece) => sum + piece.length, 0)
  return Buffer.concat([frame.subarray(0, 1), variable(length), ...pieces])
}
