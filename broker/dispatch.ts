// Between the data plane and the connections: what a connection publishes goes out through the data plane, what the data
// plane hands in goes to the connections whose subscriptions match. Also the queues of sessions that outlive their
// connection: a message is stored in them before it is acknowledged, then a bell is rung for their connections, wherever
// they are. State: the subscriptions of this node's connections; gone with it.
import { packMessage, RouteKind, unpackMessage, type Bridge, type DataPlane, type Message, type Receiver, type StoredPacket } from '../bridge/index.ts'
import type { Connection} from './connection.ts';
import { type DropCause } from './connection.ts'
import { LocalTable, type SubscriptionOptions } from './delivery/local-table.ts'
import { Pressure } from './delivery/pressure.ts'
import { StoredSession } from './delivery/stored-session.ts'
import type { Engine, EngineHost } from './engine.ts'
import { limits } from './limits.ts'

export interface DispatchEvents {
  onPublish(qos: number): void
  onDrop(cause: DropCause, qos: number): void
  onClient(): void
  onClientGone(): void
  onClientError(clientId: string | undefined, error: Error): void
  onError(error: Error): void
  onFenced(): void
}

export class Dispatch implements EngineHost, Receiver {
  readonly packetBytesMax: number
  readonly #bridge: Bridge
  readonly #events: DispatchEvents
  readonly #table = new LocalTable<Connection>()
  readonly #pressure = new Pressure<Connection>(limits.slowHoldMs)
  #plane!: DataPlane
  #engine!: Engine
  #counter = 0

  constructor(bridge: Bridge, packetBytesMax: number, events: DispatchEvents) {
    this.#bridge = bridge
    this.packetBytesMax = packetBytesMax
    this.#events = events
  }

  attach(plane: DataPlane, engine: Engine): void {
    this.#plane = plane
    this.#engine = engine
    this.#bridge.emitter.on('$SYS/+/bell', ({ payload }, heard) => {
      for (const clientId of JSON.parse(String(payload)) as string[]) this.#engine.connectionOf(clientId)?.ring()
      heard()
    })
  }

  // From the connections

  publish(message: Message, _from: Connection, done: (() => void) | undefined): void {
    this.#events.onPublish(message.qos)
    if (done === undefined) this.#plane.publishQos0(message) // at once, whatever Redis does
    else this.#plane.publish(message, done)
  }

  publishOwn(message: Message, done: () => void): void {
    this.#plane.publish(message, done)
  }

  /** Local table first, then the journal, then (by the caller) SUBACK. */
  async subscribed(connection: Connection, filter: string, options: SubscriptionOptions): Promise<void> {
    const before = this.#table.get(filter, connection)
    this.#table.add(filter, connection, options)
    const kind = kindOf(connection, options)
    if (before !== undefined) {
      const old = kindOf(connection, before)
      if (old === kind) return
      await this.#plane.subscribed(filter, kind)
      this.#plane.unsubscribed(filter, old)
    } else await this.#plane.subscribed(filter, kind)
  }

  unsubscribed(connection: Connection, filter: string): void {
    const options = this.#table.get(filter, connection)
    if (options === undefined) return
    this.#table.remove(filter, connection)
    this.#plane.unsubscribed(filter, kindOf(connection, options))
  }

  replay(connection: Connection, subscriptions: readonly { filter: string; options: SubscriptionOptions }[]): void {
    connection.beginReplay()
    const sent = new Set<string>()
    const all = async (): Promise<void> => {
      for (const { filter, options } of subscriptions) {
        const match = { qos: options.qos, identifiers: options.identifier === undefined ? undefined : [options.identifier] }
        for await (const messages of this.#plane.retained(filter)) {
          for (const message of messages) {
            if (sent.has(message.topic) || !connection.mayReplay(message.topic)) continue
            sent.add(message.topic)
            connection.send(message, match, true) // [MQTT-3.3.1-8]
          }
          await connection.roomForMore()
        }
      }
    }
    all().catch((error: unknown) => this.#events.onError(error as Error)).finally(() => connection.endReplay())
  }

  dropped(cause: DropCause, qos: number): void {
    this.#events.onDrop(cause, qos)
  }

  slow(connection: Connection, slow: boolean): void {
    if (slow) this.#pressure.slow(connection)
    else this.#pressure.drained(connection)
  }

  onClient(): void {
    this.#events.onClient()
  }

  onClientGone(): void {
    this.#events.onClientGone()
  }

  onClientError(clientId: string | undefined, error: Error): void {
    this.#events.onClientError(clientId, error)
  }

  onError(error: Error): void {
    this.#events.onError(error)
  }

  // From the data plane

  deliver(message: Message): void {
    const matches = this.#table.match(message.topic)
    for (let i = 0; i < matches.length; i++) {
      const match = matches[i]!
      if (match.noLocal && message.publisher === match.subscriber.clientId) {
        const own = this.#table.matchOwn(message.topic, match.subscriber)
        if (own !== undefined) match.subscriber.deliver(message, own)
      } else match.subscriber.deliver(message, match)
    }
  }

  pressure(): Promise<void> | undefined {
    return this.#pressure.clear
  }

  onFenced(): void {
    this.#events.onFenced()
  }

  // Queues

  stored(connection: Connection): StoredSession {
    return new StoredSession(this.#bridge.persistence, Math.min(connection.client.receiveMaximum, limits.inFlightMax), {
      clientId: connection.clientId,
      unpack: (packet) => unpackMessage(packet.payload),
      write: (message, messageId) => {
        const match = this.#table.match(message.topic).find(({ subscriber }) => subscriber === connection)
        connection.writeStored(message, match ?? { qos: message.qos, identifiers: undefined }, messageId)
      },
      pubrel: (messageId) => connection.writePubrel(messageId),
      onError: (error) => connection.client.emit('error', error),
    })
  }

  /** Stores a batch in the queues of the sessions it is for, in order, then rings their bells. */
  enqueue(batch: readonly Message[]): Promise<void> | undefined {
    const wanted = batch.filter(({ qos }) => qos > 0)
    return wanted.length === 0 ? undefined : this.#enqueue(wanted)
  }

  async #enqueue(batch: readonly Message[]): Promise<void> {
    const bells = new Set<string>()
    for (const message of batch) {
      const sessions = (await this.#bridge.persistence.subscriptionsByTopic(message.topic))
        .filter(({ topic }) => !message.topic.startsWith('$') || topic.startsWith('$')) // [MQTT-4.7.2-1]
      if (sessions.length === 0) continue
      const packet: StoredPacket = {
        cmd: 'publish', topic: message.topic, payload: packMessage(message), qos: message.qos, retain: false,
        brokerId: this.#plane.nodeId, brokerCounter: ++this.#counter,
      }
      await this.#bridge.persistence.outgoingEnqueueCombi(sessions, packet)
      for (const { clientId } of sessions) bells.add(clientId)
    }
    if (bells.size > 0) this.#bridge.emitter.emit({ topic: `$SYS/${this.#plane.nodeId}/bell`, payload: JSON.stringify([...bells]) })
  }
}

/** Sessions with a queue want bodies of QoS 0 publishes only, unless they subscribed with QoS 0. */
function kindOf(connection: Connection, { qos }: SubscriptionOptions): number {
  return connection.client.clean || qos === 0 ? RouteKind.everything : RouteKind.qos0
}
