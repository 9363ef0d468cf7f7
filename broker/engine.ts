// The only file that reaches into Aedes and mqtt-packet. Aedes keeps CONNECT, SUBSCRIBE, UNSUBSCRIBE, keep alive, wills and
// the end of a connection; PUBLISH and its acknowledgements are ours (connection.ts). Two hooks do it: inbound, the bytes
// of a connection come to our reader and only other packets go on to Aedes' parser; outbound, mqtt-packet's writeToStream
// hands what Aedes writes to the connection's outbox. Each assumption about Aedes' insides has a contract test in
// test/conformance/engine.test.ts, so that an upgrade fails loudly and here. State: the connections of this process.
import { Aedes } from 'aedes'
import mqttPacket, { type IPublishPacket, type ISubscribePacket, type Packet } from 'mqtt-packet'
import type { EventEmitter } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { Readable, type Duplex } from 'node:stream'
import { SessionOption, type Bridge, type Message, type SessionRequest } from '../bridge/index.ts'
import type { Config } from './config.ts'
import { Connection, type ConnectionHost } from './connection.ts'
import type { SubscriptionOptions } from './delivery/local-table.ts'
import { limits } from './limits.ts'
import { ReasonCode } from './reason-codes.ts'
import { PacketType } from './wire/control-packets.ts'
import { messageOf } from './wire/publish.ts'
import { joinSuback, splitSubscribe } from './wire/suback.ts'

type Done = (error?: Error | null) => void
type Listener = (packet: unknown, done: () => void) => void

/** What of an Aedes client we rely on. */
export interface AedesClient extends EventEmitter {
  readonly id: string | null
  readonly version: number
  readonly clean: boolean
  readonly receiveMaximum: number
  readonly maximumPacketSize: number | undefined
  /** Seconds; 0xFFFFFFFF: never. DISCONNECT may change it. */
  readonly sessionExpiryInterval: number | undefined
  readonly _cleanStart: boolean
  readonly _will: WillPacket | undefined
  /** The client sent a DISCONNECT that makes its will void. */
  readonly _disconnected: boolean
  readonly closed: boolean
  subscriptions: Record<string, AedesSubscription>
  readonly _keepaliveTimer: NodeJS.Timeout | null
  readonly _keepaliveInterval: number
  _parsingBatch: number
  _nextBatch: (error?: Error) => void
  readonly _parser: EventEmitter & { parse(bytes: Buffer): number }
  disconnect(options: { reasonCode: number }, done?: () => void): void
  close(done?: () => void): void
}

interface AedesSubscription {
  readonly qos: 0 | 1 | 2
  readonly func: Listener
  readonly nl?: boolean
  readonly rap?: boolean
  readonly rh?: 0 | 1 | 2
  readonly si?: number
}

type WillPacket = Omit<IPublishPacket, 'cmd'> & { readonly properties?: { readonly willDelayInterval?: number } }

interface AedesInsides extends EventEmitter {
  clients: Record<string, AedesClient>
  brokers: Record<string, unknown>
  handle(stream: Duplex, request?: IncomingMessage): AedesClient
  listen(): Promise<void>
  close(done: () => void): void
  publish(packet: IPublishPacket, client: AedesClient | Done | null, done?: Done): void
  authenticate(client: AedesClient, username: string | undefined, password: Buffer | undefined, done: (error: Error | null, ok: boolean) => void): void
  unregisterClient(client: AedesClient): void
  publishWill(): void
  scheduleWill(): void
  scheduleSessionExpiry(): void
}

/** What a node does for its engine. */
export interface EngineHost extends Omit<ConnectionHost, 'violated' | 'handle'> {
  /** Makes this node the owner of the client's session, as `connection.session`; before CONNACK. */
  claim(connection: Connection, request: SessionRequest): Promise<void>
  /** Takes filters out of the connection's session; before UNSUBACK. */
  forget(connection: Connection, filters: readonly string[]): Promise<void>
  /** Resolves when every node can know of the subscription: then SUBACK is sent. */
  subscribed(connection: Connection, filter: string, options: SubscriptionOptions): Promise<void>
  unsubscribed(connection: Connection, filter: string): void
  /** SUBACK is on its way: Retained Messages may follow. */
  replay(connection: Connection, subscriptions: readonly { filter: string; options: SubscriptionOptions }[]): void
  /** Whether anybody in the cluster subscribed to what `topic` matches. */
  isWanted(topic: string): boolean
  onClient(): void
  onClientGone(): void
  onClientError(clientId: string | undefined, error: Error): void
  onError(error: Error): void
}

/** The message of a packet as Aedes and its persistences hold it. */
export const messageOfPacket = (packet: Omit<IPublishPacket, 'cmd'>): Message => messageOf(packet, (publish) => mqttPacket.generate(publish, { protocolVersion: 5 }))

/** Connections by the stream that Aedes writes to: the outbound hook. */
const connections = new WeakMap<object, Connection>()
const writeToStream = mqttPacket.writeToStream
mqttPacket.writeToStream = Object.assign((packet: Packet, stream: NodeJS.WritableStream, options?: object): boolean => {
  const connection = connections.get(stream)
  if (connection === undefined) return writeToStream(packet, stream, options)
  if (connection.isClosed) return true // taken over while Aedes was still at it: a CONNACK would be the second one of the client
  if (packet.cmd === 'connack' && connection.session !== undefined) packet.sessionPresent = connection.session.present // [MQTT-3.2.2-2], also without subscriptions
  const whole = packet.cmd === 'suback' ? joinSuback(packet) : packet
  if (whole !== undefined) connection.outbox.push(mqttPacket.generate(whole, options))
  if (packet.cmd === 'connack') connection.connackWritten = true
  if (packet.cmd === 'unsuback' || (packet.cmd === 'suback' && whole !== undefined)) connection.answered()
  if (packet.cmd === 'disconnect') connection.outbox.flush() // Aedes cuts the connection next
  return true
}, { cacheNumbers: writeToStream.cacheNumbers })

export class Engine {
  readonly #aedes: AedesInsides
  readonly #host: EngineHost
  readonly #bridge: Bridge
  readonly #byClient = new WeakMap<object, Connection>()
  readonly #open = new Set<Connection>()
  /** Client Identifier → the connection that claimed its session last. */
  readonly #claimed = new Map<string, Connection>()
  /** Deliver functions that Aedes registers for client subscriptions → whose they are. */
  readonly #subscriptions = new WeakMap<Listener, { connection: Connection; filter: string; subscription: AedesSubscription }>()
  readonly #excusing: NodeJS.Timeout

  constructor(name: string, bridge: Bridge, config: Config, host: EngineHost) {
    this.#host = host
    this.#bridge = bridge
    this.#aedes = new Aedes({
      id: name,
      mq: this.#mq(),
      persistence: this.#persistence(),
      connectTimeout: config.connectTimeoutMs,
      drainTimeout: config.drainTimeoutMs,
      maximumPacketSize: config.packetBytesMax,
      maxTopicLevels: limits.topicLevelsMax,
      maxClientsIdLength: 65_535, // [MQTT-3.1.3-5] lets a server take more than 23 bytes; devices use them
      topicAliasMaximum: limits.topicAliasMax,
      receiveMaximum: limits.publishingMax,
    }) as unknown as AedesInsides
    // Keyed by what comes over the wire: no prototype, so that a client named `__proto__` is just a client.
    this.#aedes.clients = Object.create(null) as Record<string, AedesClient>
    this.#aedes.brokers = Object.create(null) as Record<string, unknown>
    this.#aedes.authenticate = (client, _username, _password, done) => this.#claim(client, done)
    const unregister = this.#aedes.unregisterClient.bind(this.#aedes)
    this.#aedes.unregisterClient = (client) => {
      if (this.#aedes.clients[client.id!] === client) unregister(client) // Aedes would take out whoever has the name by now
      else this.#aedes.emit('clientDisconnect', client)
    }
    // Wills and expiries are the session's (bridge/sessions.ts).
    this.#aedes.publishWill = this.#aedes.scheduleWill = this.#aedes.scheduleSessionExpiry = () => undefined
    this.#aedes.publish = (packet, client, done) => this.#publish(packet, typeof client === 'function' ? client : done)
    this.#aedes.on('client', () => host.onClient())
    this.#aedes.on('clientDisconnect', () => host.onClientGone())
    for (const event of ['clientError', 'connectionError']) this.#aedes.on(event, (client: AedesClient | null, error: Error) => host.onClientError(client?.id ?? undefined, error))
    this.#aedes.on('error', (error: Error) => host.onError(error))
    this.#aedes.on('subscribe', (subscriptions: { topic: string }[], client: AedesClient) => this.#subscribed(subscriptions, client))
    this.#excusing = setInterval(() => { for (const connection of this.#open) connection.excuse() }, 500)
    this.#excusing.unref()
  }

  async listen(): Promise<void> {
    await this.#aedes.listen()
  }

  get connections(): Iterable<Connection> {
    return this.#open
  }

  // The two hooks

  /** Serves one connection until it closes. */
  handle(stream: Duplex, request?: IncomingMessage): void {
    const connection = new Connection(stream, { ...this.#connectionHost, packetBytesMax: this.#host.packetBytesMax })
    connections.set(stream, connection)
    const client = this.#aedes.handle(stream, request)
    // Inbound: our reader instead of Aedes', which reads the next packet only when the last one is done.
    stream.removeAllListeners('readable')
    client._parsingBatch = 0 // 1 until Aedes reads for the first time, which it never does here
    client._nextBatch = (error) => {
      client._parsingBatch = 0
      if (error !== undefined && error !== null) client.emit('error', error)
    }
    client.subscriptions = this.#trap(connection)
    this.#byClient.set(client, connection)
    this.#open.add(connection)
    client.once('connected', () => connection.connected())
    stream.once('close', () => {
      connection.closed()
      this.#open.delete(connection)
      if (this.#claimed.get(connection.clientId) === connection) this.#claimed.delete(connection.clientId)
    })
    connection.attach(client)
  }

  /** Everything that is not PUBLISH or an acknowledgement goes on to Aedes, whatever it makes of it. */
  #handle(connection: Connection, type: number, frame: Buffer): void {
    const { client } = connection
    try {
      if (type === PacketType.subscribe) {
        const parser = mqttPacket.parser({ protocolVersion: client.version })
        parser.on('packet', (packet) => { for (const part of splitSubscribe(packet as ISubscribePacket)) client._parser.emit('packet', part) })
        parser.parse(frame)
      } else client._parser.parse(frame)
    } catch (error) {
      client.emit('error', error)
    }
  }

  get #connectionHost(): Omit<ConnectionHost, 'packetBytesMax'> {
    return {
      publish: (message, from, done) => this.#host.publish(message, from, done),
      dropped: (cause, qos) => this.#host.dropped(cause, qos),
      slow: (connection, topic) => this.#host.slow(connection, topic),
      drained: (connection) => this.#host.drained(connection),
      handle: (connection, type, frame) => this.#handle(connection, type, frame),
      touch: (holder) => this.#host.touch(holder),
      moved: (connection) => this.#host.moved(connection),
      matchOf: (connection, message) => this.#host.matchOf(connection, message),
      released: (connection, farewell) => this.#host.released(connection, farewell),
      violated: (connection, violation) => {
        this.#host.onClientError(connection.clientId, violation)
        connection.client.disconnect({ reasonCode: violation.reasonCode })
      },
    }
  }

  /** What Aedes notes as a client's subscriptions: tells us whose the deliver function is that it registers next. */
  #trap(connection: Connection): Record<string, AedesSubscription> {
    return new Proxy(Object.create(null) as Record<string, AedesSubscription>, {
      set: (target, filter: string, subscription: AedesSubscription) => {
        connection.isNew.set(filter, target[filter] === undefined)
        target[filter] = subscription
        this.#subscriptions.set(subscription.func, { connection, filter, subscription })
        return true
      },
    })
  }

  // Sessions

  /** CONNECT: the session first; Aedes goes on with what it is told. */
  #claim(client: AedesClient, done: (error: Error | null, ok: boolean) => void): void {
    const connection = this.#byClient.get(client)!
    const never = client.sessionExpiryInterval! >= 0xffffffff
    const will = client._will
    this.#host.claim(connection, {
      clientId: client.id!, cleanStart: client._cleanStart, expirySeconds: never ? -1 : client.sessionExpiryInterval!,
      will: will === undefined ? undefined : { message: messageOfPacket(will), delaySeconds: will.properties?.willDelayInterval ?? 0 },
    }).then(() => {
      if (!connection.isClosed) this.#claimed.set(client.id!, connection)
      done(null, true) // Aedes looks whether the client is still there
    }, (error: unknown) => done(error as Error, false))
  }

  /** Aedes' `persistence`: sessions are claimed before it asks, and nothing else of it is its own any more. */
  #persistence(): unknown {
    const nothing = (): Promise<void> => Promise.resolve()
    const none = (): Readable => Readable.from([])
    return {
      setup: async () => nothing(),
      subscriptionsByClient: ({ id }: { id: string }) => Promise.resolve(this.#storedSubscriptions(id)),
      removeSubscriptions: (client: AedesClient, filters: readonly string[]) => this.#host.forget(this.#byClient.get(client)!, filters),
      addSubscriptions: nothing, cleanSubscriptions: nothing, putWill: nothing, delWill: nothing, storeRetained: nothing,
      streamWill: none, outgoingStream: none, createRetainedStreamCombi: none,
    }
  }

  #storedSubscriptions(clientId: string): object[] {
    return [...this.#claimed.get(clientId)?.session?.subscriptions ?? []].map(([topic, { options, identifier }]) => ({
      topic, qos: options & SessionOption.qos, nl: (options & SessionOption.noLocal) !== 0, rap: (options & SessionOption.retainAsPublished) !== 0, rh: 0,
      ...(identifier === undefined ? {} : { subscriptionIdentifier: identifier }),
    }))
  }

  // Subscriptions

  /** Aedes' `mq`: subscriptions of clients are the data plane's, its own ($SYS) the control plane's. */
  #mq(): unknown {
    const on = (_topic: string, listener: Listener, done?: () => void): void => {
      const known = this.#subscriptions.get(listener)
      if (known === undefined) done?.() // Aedes' own: takeovers, wills and dead nodes are the bridge's
      else this.#host.subscribed(known.connection, known.filter, optionsOf(known.subscription)).then(() => done?.(), (error: unknown) => known.connection.client.emit('error', error))
    }
    const removeListener = (_topic: string, listener: Listener, done?: () => void): void => {
      const known = this.#subscriptions.get(listener)
      // A new subscription to the same filter takes the place of the old one: only then is another function noted by now.
      if (known?.connection.client.subscriptions[known.filter]?.func === listener) this.#host.unsubscribed(known.connection, known.filter)
      if (done !== undefined) setImmediate(done)
    }
    return { on, removeListener, close: (done: () => void) => setImmediate(done), current: 0 }
  }

  /** Aedes' own publishes: who came and went, on the control plane, when somebody in the cluster wants to hear it. */
  #publish(packet: IPublishPacket, done: Done | undefined): void {
    if (this.#host.isWanted(packet.topic)) this.#bridge.emitter.emit(packet.topic, Buffer.from(packet.payload))
    if (done !== undefined) setImmediate(done)
  }

  /** Emitted by Aedes behind the SUBACK. */
  #subscribed(subscriptions: readonly { topic: string }[], client: AedesClient): void {
    const connection = this.#byClient.get(client)
    if (connection === undefined) return
    const wanted = subscriptions.flatMap(({ topic: filter }) => {
      const subscription = client.subscriptions[filter]
      const isNew = connection.isNew.get(filter) ?? false
      connection.isNew.delete(filter)
      if (subscription === undefined || subscription.rh === 2 || (subscription.rh === 1 && !isNew)) return [] // [MQTT-3.3.1-9..11]
      return [{ filter, options: optionsOf(subscription) }]
    })
    if (wanted.length > 0) this.#host.replay(connection, wanted)
  }

  // The end

  /** Tells every client to go (MQTT 5: DISCONNECT 0x8B), a bounded number per 10 ms; resolves when all were told. */
  async disconnectAll(reasonCode: number = ReasonCode.serverShuttingDown): Promise<void> {
    const clients = Object.values(this.#aedes.clients)
    for (let i = 0; i < clients.length; i += limits.disconnectsPerTurn) {
      for (const client of clients.slice(i, i + limits.disconnectsPerTurn)) client.disconnect({ reasonCode })
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }

  /** Cuts every connection at once, without a word: this boot was declared dead, and nothing of it may be acknowledged. */
  cutAll(): void {
    for (const connection of this.#open) connection.stream.destroy()
  }

  /** Closes every connection and Aedes itself. */
  close(): Promise<void> {
    clearInterval(this.#excusing)
    return new Promise((resolve) => this.#aedes.close(resolve))
  }
}

const optionsOf = ({ qos, nl, rap, si }: AedesSubscription): SubscriptionOptions => ({
  qos, noLocal: nl === true, retainAsPublished: rap === true, identifier: si,
})
