// The only file that reaches into Aedes. Owns the Aedes instance of a node: the protocol engine behind every connection.
// Each assumption about Aedes' insides has a contract test in test/conformance/engine.test.ts, so that an upgrade fails
// loudly and here. State: the connections of this process; sessions and messages are the bridge's.
import { Aedes, type Client } from 'aedes'
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Bridge } from '../bridge/index.ts'
import type { Config } from './config.ts'
import { limits } from './limits.ts'
import { ReasonCode } from './reason-codes.ts'

export interface EngineEvents {
  onClient(): void
  onClientGone(): void
  onPublish(qos: number): void
  onClientError(clientId: string | undefined, error: Error): void
  onError(error: Error): void
}

type Deliver = (packet: unknown, done: () => void) => void

interface ClientInsides {
  readonly connackSent: boolean
  deliver0: Deliver
  deliverQoS: Deliver
  once(event: 'connected', listener: () => void): void
}

/**
 * Aedes restores a session's subscriptions before it sends the CONNACK, and a message that comes in between is written
 * first: clients take that for a broken server [MQTT-3.2.0-1]. Deliveries wait until the client is connected.
 */
function holdUntilConnected(client: ClientInsides): void {
  const held = (deliver: Deliver): Deliver => (packet, done) => {
    if (client.connackSent) deliver(packet, done)
    else client.once('connected', () => deliver(packet, done))
  }
  client.deliver0 = held(client.deliver0)
  client.deliverQoS = held(client.deliverQoS)
}

interface AedesInsides {
  clients: Record<string, Client>
  brokers: Record<string, unknown>
}

export class Engine {
  readonly #aedes: Aedes

  constructor(nodeId: string, bridge: Bridge, config: Config, events: EngineEvents) {
    this.#aedes = new Aedes({
      id: nodeId,
      mq: bridge.emitter,
      persistence: bridge.persistence,
      connectTimeout: config.connectTimeoutMs,
      drainTimeout: config.drainTimeoutMs,
      maximumPacketSize: config.packetBytesMax,
      maxTopicLevels: limits.topicLevelsMax,
      maxClientsIdLength: 65_535, // [MQTT-3.1.3-5] lets a server take more than 23 bytes; devices use them
    })
    // Keyed by what comes over the wire: no prototype, so that a client named `__proto__` is just a client.
    const insides = this.#aedes as unknown as AedesInsides
    insides.clients = Object.create(null) as Record<string, Client>
    insides.brokers = Object.create(null) as Record<string, unknown>
    this.#aedes.on('client', () => events.onClient())
    this.#aedes.on('clientDisconnect', () => events.onClientGone())
    this.#aedes.on('publish', (packet, client) => { if (client !== null) events.onPublish(packet.qos) })
    this.#aedes.on('clientError', (client, error) => events.onClientError(client?.id, error))
    this.#aedes.on('connectionError', (client, error) => events.onClientError(client?.id, error))
    ;(this.#aedes as unknown as NodeJS.EventEmitter).on('error', (error: Error) => events.onError(error))
  }

  async listen(): Promise<void> {
    await this.#aedes.listen()
  }

  /** Serves one connection until it closes. */
  handle(connection: Duplex, request?: IncomingMessage): void {
    holdUntilConnected(this.#aedes.handle(connection, request) as unknown as ClientInsides)
  }

  get connections(): number {
    return Object.keys((this.#aedes as unknown as AedesInsides).clients).length
  }

  /** Tells every client to go (MQTT 5: DISCONNECT 0x8B), a bounded number per 10 ms; resolves when all were told. */
  async disconnectAll(): Promise<void> {
    const clients = Object.values((this.#aedes as unknown as AedesInsides).clients)
    for (let i = 0; i < clients.length; i += limits.disconnectsPerTurn) {
      for (const client of clients.slice(i, i + limits.disconnectsPerTurn)) client.disconnect({ reasonCode: ReasonCode.serverShuttingDown })
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }

  /** Closes every connection and Aedes itself. */
  close(): Promise<void> {
    return new Promise((resolve) => this.#aedes.close(resolve))
  }
}
