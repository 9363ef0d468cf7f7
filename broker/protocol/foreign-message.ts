// A message out of a packet that our reader did not read: one that another broker stored (`import`), or one that a
// program gives (embedding). No state.
import type { IPublishPacket } from 'mqtt-packet'
import { Message } from '../../bridge/index.ts'
import { allowedProperties, scanProperties } from './properties.ts'

/**
 * The message of a packet as mqtt-packet has it. Its Will Delay Interval stays behind.
 * @param generate mqtt-packet's encoder, for the properties
 */
export function messageOf(
  packet: Omit<IPublishPacket, 'cmd'>,
  generate: (packet: IPublishPacket) => Buffer,
): Message {
  const { topic, qos, retain } = packet
  const payload = Buffer.isBuffer(packet.payload) ? packet.payload : Buffer.from(packet.payload)
  const {
    willDelayInterval: _delay,
    messageExpiryInterval,
    ...rest
  } = (packet.properties ?? {}) as Record<string, unknown>
  let properties: Buffer | undefined
  if (Object.keys(rest).length > 0) {
    const frame = generate({
      cmd: 'publish',
      topic: 't',
      payload: Buffer.alloc(0),
      qos: 0,
      retain: false,
      dup: false,
      properties: rest,
    })
    let at = 1
    while ((frame[at++]! & 128) !== 0); // over the remaining length
    at += 3 // over the topic
    const kept: Buffer[] = []
    scanProperties(frame, at, frame.length, allowedProperties.publish, (_id, start, _value, end) =>
      kept.push(frame.subarray(start, end)),
    )
    properties = Buffer.concat(kept)
  }
  const expirySeconds = typeof messageExpiryInterval === 'number' ? messageExpiryInterval : -1
  return Message.published(topic, payload, qos, retain, properties, expirySeconds, undefined)
}
