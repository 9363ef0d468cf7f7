// mqtt-packet, as Aedes uses it: whole frames → packets for Aedes, and what Aedes writes → the connection's
// outbox, by a hook in mqtt-packet's writeToStream: CONNACK, and the SUBACK that the parts of a SUBSCRIBE are joined
// to (broker/protocol/split-request.ts). The only file that runs mqtt-packet; others know its types. State: the parsers.
import mqttPacket, {
  type IConnackPacket,
  type IPublishPacket,
  type ISubackPacket,
  type IUnsubackPacket,
  type Packet,
} from 'mqtt-packet'
import type { EventEmitter } from 'node:events'
import type { Message } from '../../bridge/index.ts'
import { AedesStream } from './aedes-client.ts'
import type { Connection } from '../connection/connection.ts'
import { reasonOf } from '../protocol/reason-codes.ts'
import { PacketType } from '../protocol/control-packets.ts'
import { variableLength, writeVariable } from '../protocol/properties.ts'
import { joinParts } from '../protocol/split-request.ts'
import { messageOf } from '../protocol/foreign-message.ts'

/** The message of a packet as Aedes and its persistences hold it. */
export const messageOfPacket = (packet: Omit<IPublishPacket, 'cmd'>): Message =>
  messageOf(packet, (publish) => mqttPacket.generate(publish, { protocolVersion: 5 }))

const writeToStream = mqttPacket.writeToStream
mqttPacket.writeToStream = Object.assign(
  (packet: Packet, stream: NodeJS.WritableStream, options?: object): boolean => {
    if (!((stream as unknown) instanceof AedesStream)) return writeToStream(packet, stream, options)
    const { connection } = stream as unknown as AedesStream
    // taken over while Aedes was still at it: a CONNACK would be the second one of the client
    if (connection.isClosed) return true
    const frameOf = (one: Packet): Buffer => mqttPacket.generate(one, options)
    if (packet.cmd === 'connack') {
      complete(packet, connection)
      // false: Aedes waits, see `accepted`
      return !connection.onConnack(packet, frameOf(packet), () => frameOf(shortened(packet)))
    }
    if (packet.cmd === 'suback' || packet.cmd === 'unsuback') {
      const whole = joinParts(packet)
      if (whole === undefined) return true
      giveReason(whole, connection)
      connection.onSuback(whole.granted as number[], frameOf(whole), () => frameOf(shortened(whole)))
    } else if (packet.cmd === 'disconnect')
      connection.onDisconnect(packet.reasonCode ?? 0, frameOf(packet), () => frameOf(shortened(packet)))
    else connection.outbox.push(frameOf(packet))
    return true
  },
  { cacheNumbers: writeToStream.cacheNumbers },
)

/** What Aedes does not know of the answer. */
function complete(packet: IConnackPacket, connection: Connection): void {
  const { session, authentication, level } = connection
  // [MQTT-3.2.2-2], also without subscriptions; reserved in 3.1
  if (session !== undefined) packet.sessionPresent = session.present && level !== 3
  // of its listener
  if (packet.properties?.maximumPacketSize !== undefined)
    packet.properties.maximumPacketSize = connection.packetBytesMax
  if (packet.properties?.sharedSubscriptionAvailable === false)
    packet.properties.sharedSubscriptionAvailable = connection.mayShare
  if (packet.reasonCode === 0 && authentication !== undefined)
    packet.properties = {
      ...packet.properties,
      authenticationMethod: authentication.method, // [MQTT-4.12.0-5]
      ...(authentication.data && { authenticationData: authentication.data }),
    }
}

/** Why the first of the filters was refused, or not unsubscribed, for who wants to hear it [MQTT-3.1.2-29]. */
function giveReason(packet: ISubackPacket | IUnsubackPacket, { level, inbound }: Connection): void {
  const refused = ((packet.granted ?? []) as number[]).find((granted) => granted > 2)
  const reasonString = refused === undefined ? undefined : reasonOf(refused)
  if (reasonString !== undefined && level === 5 && inbound.wishes?.problemInformation === true)
    packet.properties = { reasonString }
}

/**
 * Without the properties that its client can do without, when it takes only smaller packets [MQTT-3.1.2-24]
 * [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.9.2-1] [MQTT-3.11.2-1] [MQTT-3.14.2-3].
 */
function shortened(packet: Packet): Packet {
  if (packet.cmd === 'suback' || packet.cmd === 'unsuback' || packet.cmd === 'disconnect') {
    const { properties: _properties, ...rest } = packet
    return rest
  }
  if (packet.cmd !== 'connack' || packet.properties === undefined) return packet
  const { assignedClientIdentifier, serverKeepAlive, sessionExpiryInterval } = packet.properties
  const { authenticationMethod, authenticationData } = packet.properties
  const needed = Object.entries({
    assignedClientIdentifier,
    serverKeepAlive,
    sessionExpiryInterval,
    authenticationMethod,
    authenticationData,
  }).filter(([, value]) => value !== undefined)
  return { ...packet, properties: Object.fromEntries(needed) }
}

/**
 * mqtt-packet's parsers by protocol version, 0 before it is known. Frames are whole, so that one parser
 * serves all connections.
 */
const parsers = new Map<
  number,
  { readonly parse: (frame: Buffer) => number; packet: Packet | undefined; error: Error | undefined }
>()

/** @throws whatever mqtt-packet makes of a packet that it does not like */
export function parse(frame: Buffer, version: number): Packet {
  let parser = parsers.get(version)
  if (parser === undefined) {
    const made = mqttPacket.parser({ protocolVersion: version }) as EventEmitter & {
      parse(frame: Buffer): number
    }
    const shared = {
      parse: (whole: Buffer) => made.parse(whole),
      packet: undefined as Packet | undefined,
      error: undefined as Error | undefined,
    }
    made.on('packet', (packet: Packet) => {
      shared.packet = packet
    })
    made.on('error', (error: Error) => {
      shared.error = error
    })
    parsers.set(version, (parser = shared))
  }
  parsers.delete(version) // what throws may have left something behind
  const left = parser.parse(frame)
  const { packet, error } = parser
  if (error !== undefined || packet === undefined || left > 0) throw error ?? new Error('not one packet')
  parser.packet = undefined
  parsers.set(version, parser)
  return packet
}

/** The properties of a message as mqtt-packet has them; undefined: it has none. */
export function propertiesOf({
  properties = Buffer.alloc(0),
  expirySeconds,
}: Message): IPublishPacket['properties'] {
  if (properties.length === 0 && expirySeconds === undefined) return undefined
  const length = 4 + variableLength(properties.length) + properties.length // a topic of a byte comes first
  const frame = Buffer.alloc(1 + variableLength(length - 1) + length - 1)
  frame[0] = PacketType.publish << 4
  let at = writeVariable(frame, length - 1, 1)
  frame[at + 1] = 1
  frame[at + 2] = 0x74
  at = writeVariable(frame, properties.length, at + 3)
  properties.copy(frame, at)
  const { properties: parsed } = parse(frame, 5) as IPublishPacket
  return { ...parsed, ...(expirySeconds === undefined ? {} : { messageExpiryInterval: expirySeconds }) }
}

/** Writes a packet as Aedes would. */
export function writePacket(packet: Packet, stream: AedesStream, version: number): void {
  mqttPacket.writeToStream(packet, stream as unknown as NodeJS.WritableStream, { protocolVersion: version })
}
