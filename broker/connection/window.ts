// The QoS 1 and 2 deliveries of one connection: at most `receiveMaximum` are in flight [MQTT-3.3.4-9], what
// comes beyond waits here in order, bounded in bytes. State: this connection; a clean session's promise ends
// with it (P4). Invariant: a Packet Identifier is never given out while it is in flight [MQTT-2.2.1-3..4].
import { identifierMax, Identifiers } from './identifier-set.ts'

/** A QoS ≥ 1 delivery of one connection. */
export interface Delivery {
  readonly qos: 1 | 2
  /** What it holds of memory while it waits. */
  readonly bytes: number
  /**
   * Called when it has to wait: from now on it may not pin the chunk or reply that it is a slice of.
   */
  copyPayload(): void
}

export interface WindowHost<Item> {
  /** Writes a PUBLISH under its Packet Identifier; false when it is not worth sending any more (expired). */
  put(delivery: Item, messageId: number): boolean
}

const noneWaiting: never[] = []
const none = (): number => 0
const never = (): boolean => false

export class Window<Item extends Delivery> {
  readonly #max: number
  readonly #host: WindowHost<Item>
  readonly #inFlight = new Identifiers()
  #waiting: Item[] = noneWaiting
  /** Index of the first in #waiting that has not been sent: shifting an array is not O(1) at every size. */
  #first = 0
  #waitingBytes = 0
  #lastId = identifierMax
  /** Deliveries of groups that are in flight on the connection: they count, too. */
  elsewhere: () => number = none
  /** Nothing more is sent for now: it is sent faster than it may be. */
  isHeld: () => boolean = never

  constructor(receiveMaximum: number, host: WindowHost<Item>) {
    this.#host = host
    this.#max = Math.min(receiveMaximum, identifierMax)
  }

  /** Bytes that wait for room in the window. */
  get waitingBytes(): number {
    return this.#waitingBytes
  }

  /** Deliveries that would be sent at once; less than 0: so many wait. */
  get room(): number {
    return this.#max - this.elsewhere() - this.#inFlight.size - (this.#waiting.length - this.#first)
  }

  get inFlight(): number {
    return this.#inFlight.size
  }

  get #mayGo(): boolean {
    return this.#inFlight.size + this.elsewhere() < this.#max && !this.isHeld()
  }

  /** Sends now when there is room and nothing waits, otherwise in turn. */
  push(delivery: Item): void {
    if (this.#mayGo && this.#first === this.#waiting.length) this.#send(delivery)
    else {
      delivery.copyPayload()
      if (this.#waiting === noneWaiting) this.#waiting = []
      this.#waiting.push(delivery)
      this.#waitingBytes += delivery.bytes
    }
  }

  /**
   * PUBACK or PUBCOMP, or a PUBREC that refuses: the identifier is free again. False: it was not in flight.
   */
  complete(messageId: number): boolean {
    if (!this.#inFlight.delete(messageId)) return false
    this.pump()
    return true
  }

  /** Something is in flight under the identifier: after PUBREC only PUBREL may be sent [MQTT-4.3.3-5]. */
  has(messageId: number): boolean {
    return this.#inFlight.has(messageId)
  }

  /** Sends what waits while there is room. */
  pump(): void {
    while (this.#first < this.#waiting.length && this.#mayGo) {
      const delivery = this.#waiting[this.#first]!
      this.#first++
      this.#waitingBytes -= delivery.bytes
      this.#send(delivery)
    }
    if (this.#first === this.#waiting.length) {
      this.#waiting = noneWaiting
      this.#first = 0
    } else if (this.#first > 1_024) {
      this.#waiting = this.#waiting.slice(this.#first)
      this.#first = 0
    }
  }

  clear(): void {
    this.#waiting = noneWaiting
    this.#first = 0
    this.#waitingBytes = 0
    this.#inFlight.clear()
  }

  #send(delivery: Item): void {
    let id = this.#lastId
    do id = id === identifierMax ? 1 : id + 1
    while (
      // ends: fewer than 65,535 are in flight, or `push` would not have come here
      !this.#inFlight.isFree(id)
    )
    this.#lastId = id
    if (this.#host.put(delivery, id)) this.#inFlight.add(id)
  }
}
