// The QoS ≥ 1 deliveries of a session that outlives its connection: its queue is in Redis (aedes-persistence-redis), this
// reads it when the bell rings and sends what was not sent on this connection. One path for what comes live and for what
// waited. State: which entries of the queue were sent on this connection, and under which Packet Identifier.
import type { Message, Persistence, StoredPacket } from '../../bridge/index.ts'
import { Window, type Delivery } from './window.ts'

/** What a stored session needs of its connection. */
export interface StoredSessionHost {
  readonly clientId: string
  /** Message of a stored packet; undefined when it is not one of ours. */
  unpack(packet: StoredPacket): Message | undefined
  /** Bytes of the frame, for the window's account. */
  write(message: Message, messageId: number): void
  pubrel(messageId: number): void
  onError(error: unknown): void
}

class Entry implements Delivery {
  readonly bytes = 0 // its body is in Redis' reply until it is written; the window bounds how many there are
  readonly qos: 1 | 2
  readonly packet: StoredPacket
  readonly message: Message

  constructor(packet: StoredPacket, message: Message) {
    this.packet = packet
    this.message = message
    this.qos = message.qos === 2 ? 2 : 1
  }

  own(): void {
    // the reply that it came in is its own
  }
}

/** The Packet Identifiers of deliveries out of a queue; the others of the connection are for live ones. */
export const storedIdentifiers = { first: 32_768, last: 65_535 } as const
export const liveIdentifiers = { first: 1, last: 32_767 } as const

const keyOf = ({ brokerId, brokerCounter }: StoredPacket): string => `${brokerId}:${brokerCounter}`

export class StoredSession {
  readonly #persistence: Persistence
  readonly #host: StoredSessionHost
  readonly #window: Window<Entry>
  /** Entries that are in the queue and were sent or wait in the window. */
  readonly #known = new Set<string>()
  readonly #inFlight = new Map<number, string>()
  /** Cleared from the queue; forgotten when the next reading of it begins. */
  #cleared: string[] = []
  #reading = false
  #again = false
  #closed = false

  constructor(persistence: Persistence, receiveMaximum: number, host: StoredSessionHost) {
    this.#persistence = persistence
    this.#host = host
    this.#window = new Window(receiveMaximum, (entry, messageId) => this.#send(entry, messageId), storedIdentifiers)
  }

  /** The bell: there may be something in the queue. */
  ring(): void {
    this.#again = true
    if (this.#reading || this.#closed) return
    this.#reading = true
    this.#read().catch((error: unknown) => this.#host.onError(error)).finally(() => { this.#reading = false })
  }

  async #read(): Promise<void> {
    while (this.#again && !this.#closed) {
      this.#again = false
      for (const key of this.#cleared.splice(0)) this.#known.delete(key)
      for await (const packet of this.#persistence.outgoingStream({ id: this.#host.clientId })) {
        if (this.#closed) return
        const key = keyOf(packet)
        if (this.#known.has(key)) continue
        this.#known.add(key)
        if (packet.cmd === 'pubrel') this.#release(packet, key)
        else {
          const message = this.#host.unpack(packet)
          if (message !== undefined) this.#window.push(new Entry(packet, message))
        }
      }
    }
  }

  /** A QoS 2 message whose PUBREC came on an earlier connection. */
  #release(packet: StoredPacket, key: string): void {
    this.#inFlight.set(packet.messageId!, key)
    this.#persistence.outgoingUpdate({ id: this.#host.clientId }, packet).then(() => this.#host.pubrel(packet.messageId!), (error: unknown) => this.#host.onError(error))
  }

  #send({ packet, message }: Entry, messageId: number): boolean {
    this.#inFlight.set(messageId, keyOf(packet))
    // Stored under its identifier before it is sent: the acknowledgement finds it by that.
    this.#persistence.outgoingUpdate({ id: this.#host.clientId }, { ...packet, messageId }).then(() => {
      if (!this.#closed) this.#host.write(message, messageId)
    }, (error: unknown) => this.#host.onError(error))
    return true
  }

  /** PUBACK, PUBCOMP, or a PUBREC that refuses. */
  complete(messageId: number): void {
    const key = this.#inFlight.get(messageId)
    if (key === undefined) return
    this.#inFlight.delete(messageId)
    this.#persistence.outgoingClearMessageId({ id: this.#host.clientId }, { messageId }).then(() => {
      this.#cleared.push(key)
      this.#window.complete(messageId) // only now may the identifier be used again
    }, (error: unknown) => this.#host.onError(error))
  }

  /** PUBREC: recorded before PUBREL is sent [MQTT-4.3.3-5]. */
  received(messageId: number): void {
    if (!this.#inFlight.has(messageId)) return this.#host.pubrel(messageId)
    this.#window.received(messageId)
    this.#persistence.outgoingUpdate({ id: this.#host.clientId }, { cmd: 'pubrel', messageId } as StoredPacket).then(() => {
      if (!this.#closed) this.#host.pubrel(messageId)
    }, (error: unknown) => this.#host.onError(error))
  }

  close(): void {
    this.#closed = true
    this.#window.clear()
  }
}
