// One SUBSCRIBE with several filters as several with one: Aedes collects the filters of one packet in an object, which
// loses their order and their number, and dies of one that is called `__proto__`. The codes come back together, in the order
// of the filters [MQTT-3.9.3-1]. State: the SUBACK that is not complete.
import type { ISubackPacket, ISubscribePacket } from 'mqtt-packet'

/** Stands in for the Packet Identifier of a part, all the way through Aedes and back. */
interface Part {
  readonly whole: Whole
  readonly index: number
}

interface Whole {
  readonly messageId: number
  readonly granted: number[]
  left: number
}

/** The parts of `packet`, to be handed to Aedes instead of it. */
export function splitSubscribe(packet: ISubscribePacket): ISubscribePacket[] {
  const whole: Whole = { messageId: packet.messageId!, granted: [], left: packet.subscriptions.length }
  return packet.subscriptions.map((subscription, index) => ({ ...packet, subscriptions: [subscription], messageId: { whole, index } as Part as unknown as number }))
}

/** What to send for the SUBACK of a part: nothing until the last one came. */
export function joinSuback(packet: ISubackPacket): ISubackPacket | undefined {
  const part = packet.messageId as unknown as Part | number
  if (typeof part === 'number') return packet
  part.whole.granted[part.index] = packet.granted[0] as number
  return --part.whole.left > 0 ? undefined : { ...packet, messageId: part.whole.messageId, granted: part.whole.granted }
}
