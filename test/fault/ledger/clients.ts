// The ledger's clients: nothing but a socket and mqtt-packet, so that what they keep over connections is
// exactly what the standard says a client keeps: unacknowledged publishes under their identifiers, and the
// identifiers of QoS 2 messages between PUBLISH and PUBREL. They go to any node that answers.
import { connect, type Socket } from 'node:net'
import mqttPacket, { type IPublishPacket, type Packet } from 'mqtt-packet'
import type { Random } from '../../support/random.ts'
import { keyOf, type Sent } from './ledger.ts'

const connectMs = 1_500
const retryMs = 50

export abstract class LedgerClient {
  readonly clientId: string
  readonly #urls: readonly string[]
  readonly #random: Random
  /** Begins each connection with a new session. */
  protected readonly clean: boolean = false
  #socket: Socket | undefined
  #connected = false
  #stopped = false
  /** What this client found wrong by itself. */
  readonly problems: string[] = []
  /** CONNACKs, and sockets that were opened for one. */
  connects = 0
  attempts = 0

  constructor(clientId: string, urls: readonly string[], random: Random) {
    this.clientId = clientId
    this.#urls = urls
    this.#random = random
  }

  protected abstract onPacket(packet: Packet): void
  /** CONNACK came. */
  protected abstract onConnected(sessionPresent: boolean): void

  protected send(packet: Packet): void {
    if (this.#connected) this.#socket!.write(mqttPacket.generate(packet))
  }

  get connected(): boolean {
    return this.#connected
  }

  /** Connects to any node, again whenever the connection breaks, until `stop`. */
  start(): void {
    if (this.#stopped) return
    this.attempts++
    const socket = (this.#socket = connect(Number(new URL(this.#random.pick(this.#urls)).port), '127.0.0.1'))
    const late = setTimeout(() => socket.destroy(), connectMs)
    const parser = mqttPacket.parser({ protocolVersion: 4 })
    parser.on('packet', (packet) => {
      if (packet.cmd !== 'connack') return this.onPacket(packet)
      clearTimeout(late)
      this.#connected = true
      this.connects++
      this.onConnected(packet.sessionPresent)
    })
    socket.on('connect', () =>
      socket.write(
        mqttPacket.generate({
          cmd: 'connect',
          protocolId: 'MQTT',
          protocolVersion: 4,
          clean: this.clean,
          clientId: this.clientId,
          keepalive: 5,
        }),
      ),
    )
    socket.on('data', (chunk: Buffer) => {
      if (socket === this.#socket) parser.parse(chunk)
    })
    socket.on('error', () => undefined)
    socket.on('close', () => {
      clearTimeout(late)
      if (socket !== this.#socket) return
      this.#connected = false
      setTimeout(() => this.start(), retryMs)
    })
    const ping = setInterval(() => {
      if (socket.destroyed) clearInterval(ping)
      else this.send({ cmd: 'pingreq' })
    }, 2_000)
  }

  /** Breaks the connection; the next one may be to another node. */
  hop(): void {
    this.#socket?.destroy()
  }

  stop(): void {
    this.#stopped = true
    this.#socket?.destroy()
  }
}

const windowMax = 20

export class Publisher extends LedgerClient {
  readonly sent: Sent[] = []
  readonly acknowledged = new Set<string>()
  /** Identifier → message; `released` once PUBREC came. */
  readonly #open = new Map<number, { message: Sent; released: boolean }>()
  #lastId = 0
  #publishing = true
  /** Between an acknowledgement and the next PUBLISH: a pace that leaves the machine to the faults. */
  paceMs = 2

  protected onConnected(): void {
    for (const [messageId, { message, released }] of this.#open) {
      // [MQTT-4.4.0-1]
      if (released) this.send({ cmd: 'pubrel', messageId, qos: 1, dup: false, retain: false } as Packet)
      else this.#write(message, messageId, true)
    }
    this.#fill()
  }

  #write(message: Sent, messageId: number, dup: boolean): void {
    this.send({
      cmd: 'publish',
      topic: message.topic,
      payload: keyOf(message),
      qos: message.qos,
      dup,
      retain: false,
      messageId,
    })
  }

  #fill(): void {
    while (this.#publishing && this.connected && this.#open.size < windowMax) {
      const n = this.sent.length
      const message: Sent = {
        publisher: this.clientId,
        topic: `ledger/${this.clientId}/${n % 3}`,
        qos: n % 2 === 0 ? 1 : 2,
        n,
      }
      do this.#lastId = (this.#lastId % 65_535) + 1
      while (this.#open.has(this.#lastId))
      this.sent.push(message)
      this.#open.set(this.#lastId, { message, released: false })
      this.#write(message, this.#lastId, false)
    }
  }

  protected onPacket(packet: Packet): void {
    const messageId = packet.messageId!
    const open = this.#open.get(messageId)
    if (packet.cmd === 'pubrec') {
      if (open !== undefined) open.released = true
      this.send({ cmd: 'pubrel', messageId, qos: 1, dup: false, retain: false } as Packet)
    } else if ((packet.cmd === 'puback' || packet.cmd === 'pubcomp') && open !== undefined) {
      this.acknowledged.add(keyOf(open.message))
      this.#open.delete(messageId)
      setTimeout(() => this.#fill(), this.paceMs)
    }
  }

  /** Publishes nothing new; what is open is still completed. */
  finish(): void {
    this.#publishing = false
  }

  get open(): number {
    return this.#open.size
  }
}

export class Subscriber extends LedgerClient {
  readonly received: string[] = []
  readonly #filter: string
  readonly #qos: 1 | 2
  /** QoS 2 identifiers between PUBLISH and PUBREL. */
  readonly #known = new Set<number>()
  subscribed = false

  constructor(clientId: string, filter: string, urls: readonly string[], random: Random, qos: 1 | 2 = 2) {
    super(clientId, urls, random)
    this.#filter = filter
    this.#qos = qos
  }

  protected onConnected(sessionPresent: boolean): void {
    if (this.subscribed && !sessionPresent && !this.clean)
      this.problems.push(`${this.clientId} lost its session at connect ${this.connects}`)
    if (!sessionPresent) this.#known.clear()
    if (!sessionPresent || !this.subscribed) this.subscribe()
  }

  protected subscribe(): void {
    this.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: this.#filter, qos: this.#qos }] })
  }

  protected unsubscribe(): void {
    this.send({ cmd: 'unsubscribe', messageId: 2, unsubscriptions: [this.#filter] })
  }

  protected onPacket(packet: Packet): void {
    if (packet.cmd === 'suback') this.subscribed = true
    else if (packet.cmd === 'publish') this.#onPublish(packet)
    else if (packet.cmd === 'pubrel') {
      this.#known.delete(packet.messageId!)
      this.send({ cmd: 'pubcomp', messageId: packet.messageId! })
    }
  }

  #onPublish({ qos, messageId, payload }: IPublishPacket): void {
    if (qos === 1) {
      this.received.push(payload.toString())
      this.send({ cmd: 'puback', messageId: messageId! })
    } else {
      if (!this.#known.has(messageId!)) this.received.push(payload.toString())
      this.#known.add(messageId!)
      this.send({ cmd: 'pubrec', messageId: messageId! })
    }
  }
}

/**
 * A live subscriber without a session: it gets what comes while it is connected, and is owed nothing
 * afterwards.
 */
export class Watcher extends Subscriber {
  protected override readonly clean = true
}

/** A member of a group that leaves it and comes back. */
export class RestlessMember extends Subscriber {
  readonly #timer = setInterval(() => this.#toggle(), 700)
  #isIn = true

  #toggle(): void {
    if (!this.connected || !this.subscribed) return
    this.#isIn = !this.#isIn
    if (this.#isIn) this.subscribe()
    else this.unsubscribe()
  }

  protected override onConnected(sessionPresent: boolean): void {
    super.onConnected(sessionPresent)
    this.#isIn = true
    this.subscribe()
  }

  override stop(): void {
    clearInterval(this.#timer)
    super.stop()
  }
}
