// What engine.ts makes of Aedes' side of a connection, so that an idle one costs little: the client without
// what we have no use for, the stream that it gets, and what it notes as its subscriptions. Each assumption
// about Aedes' insides has a contract test in test/conformance/aedes-client.test.ts. State: what Aedes keeps
// of a connection.
import type { IConnectPacket, IDisconnectPacket, ISubscription, IPublishPacket } from 'mqtt-packet'
import type { EventEmitter } from 'node:events'
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Connection } from '../connection/connection.ts'
import type { EngineClient } from '../connection/engine-client.ts'

export type PacketListener = (packet: unknown, done: () => void) => void

export type Done = (error?: Error | null) => void

/** What of Aedes itself we rely on. */
export interface AedesInsides extends EventEmitter {
  clients: Record<string, AedesClient>
  brokers: Record<string, unknown>
  /** Of a filter or topic; more is an error. Set after the constructor, which takes 100 at most. */
  maxTopicLevels: number
  handle(stream: AedesStream, request?: IncomingMessage): AedesClient
  listen(): Promise<void>
  close(done: () => void): void
  /** Read when a client is made. */
  connectTimeout: number
  publish(packet: IPublishPacket, client: AedesClient | Done | null, done?: Done): void
  preConnect(
    client: AedesClient,
    packet: IConnectPacket,
    done: (error: Error | null, ok: boolean) => void,
  ): void
  authenticate(
    client: AedesClient,
    username: string | undefined,
    password: Buffer | undefined,
    done: (error: Error | null, ok: boolean) => void,
  ): void
  registerClient(client: AedesClient): void
  unregisterClient(client: AedesClient): void
  publishWill(): void
  scheduleWill(): void
  scheduleSessionExpiry(): void
}

/** What of an Aedes client we rely on. */
export interface AedesClient extends EventEmitter {
  id: string | null
  /** By Aedes; told in CONNACK. */
  _assignedClientId: string | undefined
  readonly version: number
  /** What it asks us to forget it asks only of clients that are not. */
  clean: boolean
  readonly receiveMaximum: number
  readonly maximumPacketSize: number | undefined
  /** Seconds; 0xFFFFFFFF: never. */
  readonly sessionExpiryInterval: number | undefined
  readonly _cleanStart: boolean
  /** Keep Alive that CONNACK tells, in seconds. */
  _serverKeepAlive: number | undefined
  readonly closed: boolean
  readonly conn: AedesStream
  connecting: boolean
  connected: boolean
  connackSent: boolean
  subscriptions: Record<string, AedesSubscription>
  readonly _keepaliveTimer: NodeJS.Timeout | null
  readonly _keepaliveInterval: number
  _paused: boolean
  _parsingBatch: number
  _nextBatch: (error?: Error | null) => void
  _parser: EventEmitter | typeof noParser
  _eos: () => void
  deliver0: unknown
  deliverQoS: unknown
  duplicates: object
  _topicAliases: unknown
  _pendingDrains: readonly unknown[]
  waitForDrain: (done: unknown) => void
  disconnect(
    options: { readonly reasonCode?: number; readonly properties?: IDisconnectPacket['properties'] },
    done?: () => void,
  ): void
  subscribe(packet: { subscriptions: ISubscription[] }, done: (error?: Error) => void): void
  unsubscribe(packet: { unsubscriptions: string[] }, done: (error?: Error) => void): void
  close(done?: () => void): void
}

export interface AedesSubscription {
  readonly qos: 0 | 1 | 2
  /** The deliver function that Aedes made; in our place whose it is. */
  func: PacketListener | Connection
  readonly nl?: boolean
  readonly rap?: boolean
  readonly rh?: 0 | 1 | 2
  readonly si?: number | undefined
}

const noSubscriptions = Object.freeze(Object.create(null) as Record<string, AedesSubscription>)

/** What the engine does with packets of a connection. */
export interface PacketHandlers {
  onConnect(connection: Connection, client: AedesClient, frame: Buffer): void
  /** SUBSCRIBE or UNSUBSCRIBE. */
  onSubscribe(client: AedesClient, frame: Buffer): void
}

/**
 * The joint of a connection and Aedes: to the connection the engine's client, to Aedes the stream that it is served by.
 * Aedes hears nothing from the stream: bytes, errors and the end come through broker/connection/stream.ts to the
 * connection, and this class tells Aedes what it must know, so that none of the dozen listeners which Aedes and
 * stream.finished() hang on every connection costs anything. What Aedes does to it is destroy it.
 */
export class AedesStream implements EngineClient {
  readonly connection: Connection
  readonly #stream: Duplex
  readonly #handlers: PacketHandlers
  /** Set by Aedes. */
  client!: AedesClient
  /** What Aedes notes as its subscriptions, by filter. */
  subscriptions: Record<string, AedesSubscription> = noSubscriptions
  /** Filters of the SUBSCRIBE that Aedes is working on → whether the connection did not have them before. */
  isNew: Map<string, boolean> | undefined

  constructor(stream: Duplex, connection: Connection, handlers: PacketHandlers) {
    this.#stream = stream
    this.connection = connection
    this.#handlers = handlers
  }

  // What the connection has of it

  connect(frame: Buffer): void {
    this.#handlers.onConnect(this.connection, this.client, frame)
  }

  subscribe(frame: Buffer): void {
    this.#handlers.onSubscribe(this.client, frame)
  }

  unsubscribe(frame: Buffer): void {
    this.#handlers.onSubscribe(this.client, frame)
  }

  heard(): void {
    if (this.client._keepaliveInterval > 0) this.client._keepaliveTimer?.refresh()
  }

  fail(error: Error): void {
    this.client.emit('error', error)
  }

  disconnect(reasonCode: number, reason: string): void {
    this.client.disconnect({ reasonCode, properties: { reasonString: reason } })
  }

  close(): void {
    this.client.close()
  }

  get clientId(): string {
    return this.client.id ?? ''
  }

  get receiveMaximum(): number {
    return this.client.receiveMaximum
  }

  get maximumPacketSize(): number | undefined {
    return this.client.maximumPacketSize
  }

  get isClosed(): boolean {
    return this.client.closed
  }

  // What Aedes has of it

  get destroyed(): boolean {
    return this.#stream.destroyed
  }

  /** Without the error: whoever destroys because of one has told of it. */
  destroy(): this {
    this.connection.destroy()
    return this
  }

  on(): this {
    return this
  }
  once(): this {
    return this
  }
  removeListener(): this {
    return this
  }
  removeAllListeners(): this {
    return this
  }
  setMaxListeners(): this {
    return this
  }
  emit(): boolean {
    return false
  }
  read(): null {
    return null
  }

  /** Makes it a stream in the eyes of stream.finished(). */
  write(): never {
    throw new Error('Aedes writes through mqttPacket.writeToStream')
  }
}

/**
 * A client's `waitForDrain`: its CONNACK is written and accepts it. Aedes would go on to send what is queued
 * for it, through a pipeline of streams that is always empty here, and call it connected then; this is the
 * rest of it, and Aedes waits for ever.
 */
function accepted(this: AedesClient): void {
  this.connackSent = true
  this.connecting = false
  this.connected = true
  this._paused = false
  this.conn.connection.connected()
}

export const nothing = (): void => undefined
/** Of all clients: nothing is kept in them. */
const noParser = { _queue: null, removeAllListeners: nothing }
const noDuplicates = Object.freeze({})
const noDrains: readonly unknown[] = Object.freeze([])

/** What Aedes reads and delivers with, and what it keeps for it: our reader and outbox do that. */
export function strip(client: AedesClient): void {
  client._parsingBatch = 0 // 1 until Aedes reads for the first time, which it never does here
  client._nextBatch = client._eos = nothing
  client._parser = noParser
  client.removeAllListeners('connected') // packets that it queued before: our reader waits
  client.deliver0 = client.deliverQoS = client._topicAliases = undefined
  client.duplicates = noDuplicates
  client._pendingDrains = noDrains
  client.waitForDrain = accepted
}

/**
 * What Aedes notes as a client's subscriptions: tells the engine whose the deliver function is that it
 * registers next.
 */
export class Trap implements ProxyHandler<Record<string, AedesSubscription>> {
  readonly #stream: AedesStream
  readonly #note: (noted: Noted) => void

  constructor(stream: AedesStream, note: (noted: Noted) => void) {
    this.#stream = stream
    this.#note = note
  }

  set(target: Record<string, AedesSubscription>, filter: string, subscription: AedesSubscription): true {
    const { connection } = this.#stream
    this.#stream.isNew ??= new Map()
    this.#stream.isNew.set(filter, target[filter] === undefined)
    target[filter] = subscription
    this.#note({ connection, filter, subscription, listener: subscription.func as PacketListener })
    subscription.func = connection // instead of a closure; what Aedes unregisters later is this
    return true
  }

  /**
   * Aedes would take out all filters of a client that is closed, in one go, however many they are: engine.ts
   * does it in slices.
   */
  ownKeys(target: Record<string, AedesSubscription>): (string | symbol)[] {
    return this.#stream.isClosed ? [] : Reflect.ownKeys(target)
  }
}

/** Aedes' client of a connection: for those parts of broker/ that hand on Aedes' own words (embedding/). */
export const aedesClientOf = ({ client }: Connection): AedesClient => (client as AedesStream).client

/** A subscription that Aedes noted and registers next, in the same turn. */
export interface Noted {
  readonly connection: Connection
  readonly filter: string
  readonly subscription: AedesSubscription
  readonly listener: PacketListener
}
