// A client as hooks and events of the program that embeds a node get it: with Aedes' names. One for each connection,
// made when somebody asks for it, so that what a hook hangs on it is there for the next one. State: the connection's.
import { EventEmitter } from 'node:events'
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { IDisconnectPacket, ISubscription } from 'mqtt-packet'
import { ownName } from '../../bridge/index.ts'
import { aedesClientOf, type AedesClient } from '../aedes/aedes-client.ts'
import { messageOfPacket } from '../aedes/aedes-packets.ts'
import type { Connection } from '../connection/connection.ts'
import type { PeerTls } from '../connection/peer.ts'
import { completed, type PublishPacket } from './hook-packets.ts'

type Done = (error?: Error) => void

const clients = new WeakMap<Connection, Client>()

/** The same one for a connection each time. */
export function clientOf(connection: Connection): Client {
  let client = clients.get(connection)
  if (client === undefined) clients.set(connection, (client = new Client(connection)))
  return client
}

export class Client extends EventEmitter {
  readonly #connection: Connection
  /** The stream that the client is connected by. */
  readonly conn: Duplex
  /** Of a WebSocket: the HTTP request that it began with. */
  readonly req: IncomingMessage | undefined

  constructor(connection: Connection) {
    super()
    this.#connection = connection
    this.conn = connection.stream
    this.req = connection.request
  }

  /** Who it proved to be; a program may write it, too. */
  get user(): string | undefined {
    return this.#connection.principal.user
  }

  set user(user: string | undefined) {
    this.#connection.principal = { ...this.#connection.principal, user }
  }

  /** Where tenants are on: which one it belongs to. A program may write it until its session is claimed. */
  get tenant(): string | undefined {
    return this.#connection.tenant?.name ?? this.#connection.principal.tenant
  }

  /** @throws Error it belongs to one, and cannot change it */
  set tenant(tenant: string | undefined) {
    if (this.#connection.tenant !== undefined) throw new Error('a client stays in its tenant')
    this.#connection.principal = { ...this.#connection.principal, tenant }
  }

  get #client(): AedesClient {
    return aedesClientOf(this.#connection)
  }

  /** The address that it connects from, also behind a proxy that says so (`proxyNetworks`). */
  get address(): string {
    return this.#connection.address
  }

  /** What such a proxy says of the TLS that it has ended. */
  get proxyTls(): PeerTls | undefined {
    return this.#connection.peer?.tls
  }

  /** Client Identifier; empty before CONNECT is checked, in `preConnect`. */
  get id(): string {
    return ownName(this.#connection.clientId)
  }

  /** Protocol level: 3, 4 or 5. */
  get version(): number {
    return this.#connection.level
  }

  /** Its session ends with its connection. */
  get clean(): boolean {
    return this.#client.clean
  }

  get connecting(): boolean {
    return !this.#connection.isConnected && !this.closed
  }

  get connected(): boolean {
    return this.#connection.isClient
  }

  get closed(): boolean {
    return this.#connection.isClosed || this.#connection.client.isClosed
  }

  /** Seconds; 0xFFFFFFFF: never. */
  get sessionExpiryInterval(): number | undefined {
    return this.#client.sessionExpiryInterval
  }

  get maximumPacketSize(): number | undefined {
    return this.#client.maximumPacketSize
  }

  get receiveMaximum(): number {
    return this.#client.receiveMaximum
  }

  /** The reason code of the DISCONNECT that the node sent; null: it sent none. */
  get disconnectReasonCode(): number | null {
    return this.#connection.disconnectCode ?? null
  }

  /** Sends it a message, to it alone, at QoS 0, whatever it has subscribed to. */
  publish(packet: PublishPacket, callback?: Done): void {
    const topic = this.#connection.tenant?.topic(packet.topic) ?? packet.topic
    const message = messageOfPacket({ ...completed({ ...packet, topic }), qos: 0 })
    this.#connection.outbound.send(message, { qos: 0, identifiers: undefined }, message.retain)
    if (callback !== undefined) setImmediate(callback)
  }

  /** Subscribes it, as if it had sent the SUBSCRIBE itself; no hook is asked. */
  subscribe(
    subscriptions:
      ISubscription | readonly ISubscription[] | { readonly subscriptions: readonly ISubscription[] },
    callback?: Done,
  ): void {
    const all = 'subscriptions' in subscriptions ? subscriptions.subscriptions : [subscriptions].flat()
    this.#client.subscribe(
      { subscriptions: all.map((one) => ({ ...one, topic: this.#inside(one.topic) })) },
      callback ?? ignore,
    )
  }

  #inside(filter: string): string {
    return this.#connection.tenant?.filter(filter) ?? filter
  }

  unsubscribe(
    filters: string | readonly string[] | { readonly unsubscriptions: readonly string[] },
    callback?: Done,
  ): void {
    const all =
      typeof filters === 'object' && 'unsubscriptions' in filters ? filters.unsubscriptions : [filters].flat()
    this.#client.unsubscribe(
      { unsubscriptions: (all as string[]).map((filter) => this.#inside(filter)) },
      callback ?? ignore,
    )
  }

  close(callback?: () => void): void {
    this.#client.close(callback)
  }

  /** MQTT 5: sends DISCONNECT first. */
  disconnect(
    options:
      | { readonly reasonCode?: number; readonly properties?: IDisconnectPacket['properties'] }
      | (() => void) = {},
    callback?: () => void,
  ): void {
    const isCallback = typeof options === 'function'
    this.#client.disconnect(isCallback ? {} : options, isCallback ? options : callback)
  }
}

const ignore = (): void => undefined
