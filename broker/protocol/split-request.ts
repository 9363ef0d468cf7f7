// One SUBSCRIBE or UNSUBSCRIBE with many filters as many with one, and their SUBACK or UNSUBACK: Aedes answers each
// part, `SplitRequest.answer` joins the answers. Aedes would collect the filters of one
// packet in an object, which loses their order and their number, and dies of one that is called `__proto__`;
// and a packet of 1 MiB, with 260,000 of them, would keep the event loop for seconds (P12). The parts are
// read from the bytes one by one, only so many are under way at once, and their codes come back together, in
// the order of the filters [MQTT-3.9.3-1]. State: the answer that is not complete. Bound: parts under way of
// one packet; a connection has one such packet under way (broker/connection/request-queue.ts).
import type { ISubackPacket, ISubscribePacket, IUnsubackPacket, IUnsubscribePacket } from 'mqtt-packet'
import { PacketType } from './control-packets.ts'
import { allowedProperties, propertyIds, readVariable, scanProperties } from './properties.ts'

/** Parts under way at once: together they share entries of the journal and writes to Redis. */
const underWayMax = 500

/** Stands in for the Packet Identifier of a part, all the way through Aedes and back. */
interface Part {
  readonly whole: SplitRequest
  readonly index: number
}

/** The filters of a packet that was checked, as packets of one filter each. */
export class SplitRequest implements Iterable<ISubscribePacket | IUnsubscribePacket> {
  readonly #bytes: Buffer
  readonly #isSubscribe: boolean
  readonly #messageId: number
  readonly #identifier: number | undefined
  readonly #filtersAt: number
  readonly #granted: number[] = []
  #begun = 0
  #answered = 0
  readonly #count: number
  #room: (() => void) | undefined

  /** @param frame a whole SUBSCRIBE or UNSUBSCRIBE that is valid; of `version` 3, 4 or 5 */
  constructor(frame: Buffer, version: number) {
    this.#bytes = frame
    this.#isSubscribe = frame[0]! >> 4 === PacketType.subscribe
    let at = readVariable(frame, 1, frame.length).next
    this.#messageId = frame.readUInt16BE(at)
    at += 2
    let identifier: number | undefined
    if (version === 5) {
      at = scanProperties(
        frame,
        at,
        frame.length,
        allowedProperties[this.#isSubscribe ? 'subscribe' : 'unsubscribe'],
        (id, _start, value, end) => {
          if (id === propertyIds.subscriptionIdentifier) identifier = readVariable(frame, value, end).value
        },
      )
    }
    this.#identifier = identifier
    this.#filtersAt = at
    let count = 0
    for (; at < frame.length; count++) at = this.#next(at)
    this.#count = count
  }

  #next(at: number): number {
    return at + 2 + this.#bytes.readUInt16BE(at) + (this.#isSubscribe ? 1 : 0)
  }

  *[Symbol.iterator](): Generator<ISubscribePacket | IUnsubscribePacket> {
    for (let at = this.#filtersAt; at < this.#bytes.length; at = this.#next(at)) {
      const end = at + 2 + this.#bytes.readUInt16BE(at)
      const topic = this.#bytes.toString('utf8', at + 2, end)
      const messageId = { whole: this, index: this.#begun++ } satisfies Part as unknown as number
      if (!this.#isSubscribe) yield { cmd: 'unsubscribe', messageId, unsubscriptions: [topic] }
      else {
        const options = this.#bytes[end]!
        const subscription = {
          topic,
          qos: options & 3,
          nl: (options & 4) !== 0,
          rap: (options & 8) !== 0,
          rh: (options >> 4) & 3,
        } as ISubscribePacket['subscriptions'][0]
        yield {
          cmd: 'subscribe',
          messageId,
          subscriptions: [subscription],
          ...(this.#identifier === undefined
            ? {}
            : { properties: { subscriptionIdentifier: this.#identifier } }),
        }
      }
    }
  }

  /** So many parts are under way that the next one waits for `room`. */
  get isFull(): boolean {
    return this.#begun - this.#answered > underWayMax
  }

  /** Resolves when a part was answered. */
  async room(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#room = resolve
    })
  }

  /** The answer to a part came: the answer to the whole packet, once it is the last one. */
  answer<Packet extends ISubackPacket | IUnsubackPacket>(index: number, packet: Packet): Packet | undefined {
    this.#granted[index] = (packet.granted as number[])[0]!
    this.#answered++
    if (this.#begun - this.#answered <= underWayMax) this.#room?.()
    return this.#answered < this.#count
      ? undefined
      : { ...packet, messageId: this.#messageId, granted: this.#granted }
  }
}

/** What to send for the SUBACK or UNSUBACK that Aedes writes: nothing until the last part has its answer. */
export function joinParts<Packet extends ISubackPacket | IUnsubackPacket>(
  packet: Packet,
): Packet | undefined {
  const part = packet.messageId as unknown as Part | number
  return typeof part === 'number' ? packet : part.whole.answer(part.index, packet)
}
