// With aedes/client.ts the only file that reaches into Aedes and mqtt-packet. Aedes keeps CONNECT, SUBSCRIBE,
// UNSUBSCRIBE, keep alive, wills and the end of a connection; PUBLISH and its acknowledgements are ours
// (connection.ts). Two hooks do it: inbound, the bytes of a connection come to our reader and only other
// packets go on to Aedes; outbound, mqtt-packet's writeToStream hands what Aedes writes to the connection's
// outbox. Each assumption about Aedes' insides has a contract test in test/conformance/engine.test.ts or
// aedes-client.test.ts, so that an upgrade fails loudly and here. State: the connections of this process.
import { Aedes } from 'aedes'
import mqttPacket, { type IPublishPacket, type Packet } from 'mqtt-packet'
import { randomBytes } from 'node:crypto'
import type { EventEmitter } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { Readable, type Duplex } from 'node:stream'
import {
  later,
  othersWait,
  SessionOption,
  Slice,
  turnIsOver,
  type Bridge,
  type Message,
  type SessionRequest,
} from '../../bridge/index.ts'
import { Admission } from '../access/admission.ts'
import {
  AedesStream,
  nothing,
  strip,
  Trap,
  type AedesClient,
  type AedesInsides,
  type AedesSubscription,
  type Done,
  type Listener,
  type Noted,
} from './client.ts'
import type { Config } from '../config/config.ts'
import { Connection } from '../connection/connection.ts'
import type { ConnectionHost } from '../connection/host.ts'
import type { SubscriptionOptions } from '../routing/local-table.ts'
import type { FilterRefusal } from '../routing/subscription-bounds.ts'
import { limits } from '../config/limits.ts'
import { hex, ReasonCode } from '../protocol/reason-codes.ts'
import { isTold } from '../observe/system-topics.ts'
import { isReserved, PacketType } from '../protocol/control-packets.ts'
import { messageOf } from '../protocol/publish.ts'
import { joinParts, Parts } from '../protocol/parts.ts'
import { withoutUserProperties } from '../protocol/user-properties.ts'

/** Aedes' listener of a parser's `packet`. */
type Enqueue = (this: { client: AedesClient }, packet: Packet) => void

/** What a node does for its engine. */
export interface EngineHost extends Omit<
  ConnectionHost<Connection>,
  'violated' | 'handle' | 'readerLimits' | 'broken' | 'over'
> {
  /** Makes this node the owner of the client's session, as `connection.session`; before CONNACK. */
  claim(connection: Connection, request: SessionRequest): Promise<void>
  /** Takes filters out of the connection's session; before UNSUBACK. */
  forget(connection: Connection, filters: readonly string[]): Promise<void>
  /**
   * Resolves when every node can know of the subscription: then SUBACK is sent. `replays`: and Retained
   * Messages behind it.
   */
  subscribe(
    connection: Connection,
    filter: string,
    options: SubscriptionOptions,
    replays: boolean,
  ): Promise<void>
  unsubscribe(connection: Connection, filter: string): void
  /** Why the connection may not subscribe to a filter; undefined: it may. */
  refusalOf(connection: Connection, filter: string): FilterRefusal | undefined
  /** SUBACK is on its way: Retained Messages may follow. */
  replay(connection: Connection, filter: string): void
  /** Whether anybody in the cluster subscribed to what `topic` matches. */
  isWanted(topic: string): boolean
  onClientError(connection: Connection, error: Error): void
  /** Nothing of it is left. */
  onEnd(connection: Connection): void
  onError(error: Error): void
}

/** The message of a packet as Aedes and its persistences hold it. */
export const messageOfPacket = (packet: Omit<IPublishPacket, 'cmd'>): Message =>
  messageOf(packet, (publish) => mqttPacket.generate(publish, { protocolVersion: 5 }))

const stops = 'this node stops'
const writeToStream = mqttPacket.writeToStream
mqttPacket.writeToStream = Object.assign(
  (packet: Packet, stream: NodeJS.WritableStream, options?: object): boolean => {
    if (!((stream as unknown) instanceof AedesStream)) return writeToStream(packet, stream, options)
    const { connection } = stream as unknown as AedesStream
    // taken over while Aedes was still at it: a CONNACK would be the second one of the client
    if (connection.isClosed) return true
    if (packet.cmd === 'connack' && connection.session !== undefined)
      // [MQTT-3.2.2-2], also without subscriptions; reserved in 3.1
      packet.sessionPresent = connection.session.present && connection.level !== 3
    const whole = packet.cmd === 'suback' || packet.cmd === 'unsuback' ? joinParts(packet) : packet
    if (whole === undefined) return true
    if (packet.cmd === 'connack')
      connection.outbox.packetBytesMax = connection.client.maximumPacketSize ?? Infinity
    const sent =
      connection.outbox.push(mqttPacket.generate(whole, options)) ||
      connection.outbox.push(mqttPacket.generate(shortened(whole), options))
    if (!sent && packet.cmd === 'connack') connection.destroy() // it would wait for ever
    if (packet.cmd === 'suback' || packet.cmd === 'unsuback') connection.answered()
    // Aedes cuts the connection next
    if (packet.cmd === 'disconnect') connection.toldWhy(`told to go with ${hex(packet.reasonCode ?? 0)}`)
    if (packet.cmd !== 'connack') return true
    connection.connackWritten = true
    const refused = (packet.reasonCode ?? packet.returnCode) !== 0
    if (refused) connection.toldWhy(`refused with ${hex(packet.reasonCode ?? packet.returnCode ?? 0)}`)
    return refused // false: Aedes waits, see `accepted`
  },
  { cacheNumbers: writeToStream.cacheNumbers },
)

/**
 * Without the properties that its client can do without, when it takes only smaller packets [MQTT-3.1.2-24]
 * [MQTT-3.2.2-19] [MQTT-3.2.2-20].
 */
function shortened(packet: Packet): Packet {
  if (packet.cmd !== 'connack' || packet.properties === undefined) return packet
  const { assignedClientIdentifier, serverKeepAlive, sessionExpiryInterval } = packet.properties
  const needed = Object.entries({ assignedClientIdentifier, serverKeepAlive, sessionExpiryInterval }).filter(
    ([, value]) => value !== undefined,
  )
  return { ...packet, properties: Object.fromEntries(needed) }
}

/**
 * mqtt-packet's parsers by protocol version, 0 before it is known. Frames are whole, so that one parser
 * serves all connections.
 */
const parsers = new Map<
  number,
  { readonly parse: (frame: Buffer) => number; packet: Packet | undefined; error: Error | undefined }
>()

/** @throws whatever mqtt-packet makes of a packet that it does not like */
function parse(frame: Buffer, version: number): Packet {
  let parser = parsers.get(version)
  if (parser === undefined) {
    const made = mqttPacket.parser({ protocolVersion: version }) as EventEmitter & {
      parse(frame: Buffer): number
    }
    const shared = {
      parse: (whole: Buffer) => made.parse(whole),
      packet: undefined as Packet | undefined,
      error: undefined as Error | undefined,
    }
    made.on('packet', (packet: Packet) => {
      shared.packet = packet
    })
    made.on('error', (error: Error) => {
      shared.error = error
    })
    parsers.set(version, (parser = shared))
  }
  parsers.delete(version) // what throws may have left something behind
  const left = parser.parse(frame)
  const { packet, error } = parser
  if (error !== undefined || packet === undefined || left > 0) throw error ?? new Error('not one packet')
  parser.packet = undefined
  parsers.set(version, parser)
  return packet
}

/** Of a stream: the connection that it is. */
const connectionOf = Symbol('connection')
type Stream = Duplex & { [connectionOf]?: Connection }

/** A bug of ours is this connection's end, not everybody's. */
function guarded(stream: Stream, work: (connection: Connection) => void): void {
  const connection = stream[connectionOf]!
  try {
    work(connection)
  } catch (error) {
    connection.onBug(error)
  }
}

function onData(this: Stream, chunk: Buffer): void {
  guarded(this, (connection) => connection.feed(chunk))
}

/**
 * What the end of a connection takes is little; of thousands that end at once it is more than a turn has, and
 * goes on in later ones, in order.
 */
function inTurns(work: () => void): void {
  if (othersWait() || turnIsOver()) later(work)
  else work()
}

function onEnd(this: Stream): void {
  inTurns(() => guarded(this, (connection) => connection.ended()))
}

function onError(this: Stream, error: Error): void {
  this[connectionOf]!.failed(error)
}

function onClose(this: Stream): void {
  inTurns(() => guarded(this, (connection) => connection.gone()))
}

export class Engine {
  readonly #aedes: AedesInsides
  readonly #host: EngineHost
  readonly #bridge: Bridge
  readonly #connectionHost: ConnectionHost<Connection>
  #enqueue: Enqueue | undefined
  readonly #open = new Set<Connection>()
  readonly #admission: Admission
  /** Client Identifier → the connection here whose CONNECT came last. */
  readonly #latest = new Map<string, Connection>()
  #noted: Noted | undefined
  readonly #note = (noted: Noted): void => {
    this.#noted = noted
  }
  readonly #isAnnounced: (topic: string) => boolean
  readonly #excusing: NodeJS.Timeout
  #whenEmpty: (() => void) | undefined
  #closing: Promise<void> | undefined

  constructor(name: string, bridge: Bridge, config: Config, host: EngineHost) {
    this.#host = host
    this.#bridge = bridge
    this.#admission = new Admission(config, (cause) => host.refused(cause))
    this.#connectionHost = this.#hostOfConnections()
    this.#isAnnounced = isTold(config)
    this.#aedes = new Aedes({
      id: name,
      mq: this.#mq(),
      persistence: this.#persistence(),
      drainTimeout: 0, // ours: delivery/outbox.ts
      maximumPacketSize: config.packetBytesMax,
      maxClientsIdLength: 65_535, // [MQTT-3.1.3-5] lets a server take more than 23 bytes; devices use them
      topicAliasMaximum: limits.topicAliasMax,
      receiveMaximum: config.receiveMaximum,
      // told in CONNACK where it is less than was asked for (3.2.2.3.2)
      sessionExpiryIntervalLimit: config.sessionExpirySecondsMax,
    }) as unknown as AedesInsides
    // ours: delivery/subscription-bounds.ts; UNSUBSCRIBE is answered whatever it names [MQTT-3.10.4-5]
    this.#aedes.maxTopicLevels = Infinity
    // Keyed by what comes over the wire: no prototype, so that a client named `__proto__` is just a client.
    this.#aedes.clients = Object.create(null) as Record<string, AedesClient>
    this.#aedes.brokers = Object.create(null) as Record<string, unknown>
    this.#aedes.authenticate = (client, _username, _password, done) => this.#claim(client, done)
    const register = this.#aedes.registerClient.bind(this.#aedes)
    this.#aedes.registerClient = (client) => {
      // Aedes goes on with a CONNECT whose client is closed by now, and would throw out whoever came behind
      // it
      if (!client.closed) register(client)
    }
    const unregister = this.#aedes.unregisterClient.bind(this.#aedes)
    this.#aedes.unregisterClient = (client) => {
      // Aedes would take out whoever has the name by now
      if (this.#aedes.clients[client.id!] === client) unregister(client)
    }
    // Wills and expiries are the session's (bridge/sessions/sessions.ts).
    this.#aedes.publishWill = this.#aedes.scheduleWill = this.#aedes.scheduleSessionExpiry = () => undefined
    this.#aedes.publish = (packet, client, done) =>
      this.#publish(packet, typeof client === 'function' ? client : done)
    for (const event of ['clientError', 'connectionError'])
      this.#aedes.on(event, ({ conn }: AedesClient, error: Error) => this.#failed(conn.connection, error))
    this.#aedes.on('error', (error: Error) => host.onError(error))
    this.#aedes.on('subscribe', (subscriptions: { topic: string }[], client: AedesClient) =>
      this.#onSubscribed(subscriptions, client),
    )
    this.#excusing = setInterval(
      () => this.#look(config.drainTimeoutMs),
      Math.min(500, config.drainTimeoutMs / 2),
    )
    this.#excusing.unref()
  }

  #look(drainTimeoutMs: number): void {
    for (const connection of this.#open) {
      connection.excuse()
      if (connection.outbox.isStuck(drainTimeoutMs) && !connection.client.closed)
        connection.client.emit('error', new Error(`reads nothing for ${drainTimeoutMs} ms`))
    }
  }

  async listen(): Promise<void> {
    await this.#aedes.listen()
  }

  /** Clients that CONNACK accepted and whose connection is open. O(connections). */
  get clientCount(): number {
    return [...this.#open].filter(({ isClient }) => isClient).length
  }

  get connections(): Iterable<Connection> {
    return this.#open
  }

  // The two hooks

  /** Serves one connection until it closes; its CONNECT must come within the time given. */
  handle(stream: Stream, connectWithinMs: number, request?: IncomingMessage): void {
    this.#aedes.connectTimeout = connectWithinMs
    const connection = new Connection(stream, this.#connectionHost)
    if (request !== undefined) connection.outbox.socket = request.socket
    const client = this.#aedes.handle(new AedesStream(stream, connection), request)
    this.#enqueue ??= (client._parser as EventEmitter).listeners('packet')[0] as Enqueue
    strip(client)
    connection.subscriptions = Object.create(null) as Record<string, AedesSubscription>
    client.subscriptions = new Proxy(connection.subscriptions, new Trap(connection, this.#note))
    this.#open.add(connection)
    connection.client = client
    stream[connectionOf] = connection
    stream.on('data', onData).on('end', onEnd).on('error', onError).on('close', onClose)
    this.#admission.came(connection)
  }

  /**
   * Nothing is delivered to it any more: its filters are taken out in slices, since they may be a hundred
   * thousand.
   */
  async #unsubscribe(connection: Connection): Promise<void> {
    const slice = new Slice()
    for (const filter in connection.subscriptions) {
      if (slice.isOver) await slice.next()
      this.#host.unsubscribe(connection, filter)
    }
  }

  #failed(connection: Connection, error: Error): void {
    connection.endReason ||= error.message
    this.#host.onClientError(connection, error)
  }

  #over(connection: Connection): void {
    if (!this.#open.delete(connection)) return
    this.#admission.over(connection)
    connection.client.close()
    connection.closed()
    void this.#unsubscribe(connection)
    this.#host.onEnd(connection)
    if (this.#open.size === 0) this.#whenEmpty?.()
    if (this.#latest.get(connection.clientId) === connection) this.#latest.delete(connection.clientId)
  }

  /** Everything that is not PUBLISH or an acknowledgement goes on to Aedes, whatever it makes of it. */
  #handle(connection: Connection, type: number, frame: Buffer): void {
    const { client } = connection
    if (type === PacketType.subscribe || type === PacketType.unsubscribe)
      return void this.#handleParts(client, new Parts(frame, client.version)).catch((error: unknown) =>
        client.emit('error', error),
      )
    if (type === PacketType.connect && !this.#admission.admit(connection, this.#open.size)) return
    try {
      if (type === PacketType.connect)
        this.#passToAedes(client, parse(connection.level === 5 ? withoutUserProperties(frame) : frame, 0))
      else this.#passToAedes(client, parse(frame, client.version))
    } catch (error) {
      client.emit('error', error)
    }
  }

  /**
   * In slices, and no more at once than Redis is asked for in one go. Meanwhile nothing else of the
   * connection goes to Aedes but its end.
   */
  async #handleParts(client: AedesClient, parts: Parts): Promise<void> {
    const slice = new Slice()
    const { connection } = client.conn
    let filters = 0
    for (const part of parts) {
      if (parts.isFull) await parts.room()
      if (slice.isOver) await slice.next()
      if (client.closed) return
      if (part.cmd === 'subscribe' && connection.isBridge)
        // nothing of its own comes back, and RETAIN as published
        Object.assign(part.subscriptions[0]!, { nl: true, rap: true })
      const refused =
        part.cmd === 'subscribe'
          ? this.#refusal(connection, part.subscriptions[0]!.topic, ++filters)
          : undefined
      if (refused === undefined) this.#passToAedes(client, part)
      else
        mqttPacket.writeToStream(
          { cmd: 'suback', messageId: part.messageId!, granted: [refused] },
          client.conn as unknown as NodeJS.WritableStream,
          { protocolVersion: client.version },
        ) // as Aedes would
    }
  }

  /** What SUBACK says of a filter that the connection may not have; it is the `count`th of its packet. */
  #refusal(connection: Connection, filter: string, count: number): number | undefined {
    if (filter.startsWith('$share/'))
      // Aedes would for MQTT 5 only, when it has been counted
      return connection.mqtt5 ? ReasonCode.sharedSubscriptionsNotSupported : 0x80
    const cause =
      count > this.#host.config.subscribeFiltersMax
        ? 'subscribe-filters'
        : this.#host.refusalOf(connection, filter)
    if (cause === undefined) return undefined
    this.#host.refused(cause)
    if (!connection.mqtt5) return 0x80 // [MQTT-3.9.3-2]
    return cause.startsWith('topic-') ? ReasonCode.topicFilterInvalid : ReasonCode.quotaExceeded
  }

  #passToAedes(client: AedesClient, packet: Packet): void {
    client._parsingBatch = 0
    client._nextBatch = (error) => {
      if (error !== undefined && error !== null) client.emit('error', error)
    }
    this.#enqueue!.call({ client }, packet)
    client._nextBatch = nothing // Aedes has taken it along; what it calls otherwise is to read on
  }

  #hostOfConnections(): ConnectionHost<Connection> {
    return {
      config: this.#host.config,
      holdings: this.#host.holdings,
      readerLimits: { ...this.#host.config, topicAliasMax: limits.topicAliasMax },
      refused: (cause) => this.#host.refused(cause),
      heldBack: (cause) => this.#host.heldBack(cause),
      mayRetain: (topic) => this.#host.mayRetain(topic),
      publish: (message, from, done) => this.#host.publish(message, from, done),
      dropped: (cause, qos) => this.#host.dropped(cause, qos),
      failed: (error, qos) => this.#host.failed(error, qos),
      slow: (connection, topic) => this.#host.slow(connection, topic),
      drained: (connection) => this.#host.drained(connection),
      handle: (connection, type, frame) => this.#handle(connection, type, frame),
      schedule: (holder) => this.#host.schedule(holder),
      moved: (connection) => this.#host.moved(connection),
      matchOf: (connection, message) => this.#host.matchOf(connection, message),
      isReplayed: (connection, message) => this.#host.isReplayed(connection, message),
      goOn: (connection, replays) => this.#host.goOn(connection, replays),
      onClient: (connection) => this.#host.onClient(connection),
      farewell: (connection, voidsWill, expirySeconds) =>
        this.#host.farewell(connection, voidsWill, expirySeconds),
      releaseSession: (connection) => this.#host.releaseSession(connection),
      broken: (connection, error) => this.#failed(connection, error),
      over: (connection) => this.#over(connection),
      violated: (connection, violation) => {
        this.#failed(connection, violation)
        if (violation.bound !== undefined) this.#host.refused(violation.bound)
        connection.client.disconnect({ reasonCode: violation.reasonCode })
      },
    }
  }

  // Sessions

  /** CONNECT: the session first, then what it is subscribed to; Aedes goes on with what it is told. */
  #claim(client: AedesClient, done: (error: Error | null, ok: boolean) => void): void {
    const { connection } = client.conn
    // An identifier that we made is one that its client may come again with.
    if (client._assignedClientId !== undefined && client.id!.length > this.#host.config.clientIdBytesMax)
      client.id = client._assignedClientId = randomBytes(16).toString('base64url')
    const earlier = this.#latest.get(client.id!)
    this.#latest.set(client.id!, connection)
    const claimed = async (): Promise<void> => {
      if (earlier !== undefined) await this.#makeWay(earlier)
      if (connection.isClosed) return // a later one came
      const never = client.sessionExpiryInterval! >= 0xffffffff
      await this.#host.claim(connection, {
        clientId: client.id!,
        cleanStart: client._cleanStart,
        expirySeconds: never ? -1 : client.sessionExpiryInterval!,
        will: this.#willOf(client),
        cameAt: connection.cameAt,
      })
      client.clean = !connection.lasting
      await this.#restore(connection)
    }
    // Aedes looks whether the client is still there.
    claimed().then(
      () => done(null, true),
      (error: unknown) => done(error as Error, false),
    )
  }

  /**
   * The later CONNECT wins. An earlier connection that has its session gives it up when the later one claims
   * it. One that is still waiting for its own ends here: its claim, should it be sent again, must not come
   * behind. And one whose client has ended its side gets a moment for doing what was sent before, if only
   * CONNECT, PUBLISH, DISCONNECT in one segment.
   */
  async #makeWay(earlier: Connection): Promise<void> {
    if (earlier.isLeaving) {
      let timer: NodeJS.Timeout | undefined
      await Promise.race([
        earlier.over(),
        new Promise<void>((resolve) => {
          timer = setTimeout(resolve, limits.leaveMs)
        }),
      ])
      clearTimeout(timer)
    }
    if (!earlier.connackWritten) earlier.takenOver()
  }

  /**
   * Registers what the session is subscribed to, some at a time. Aedes would collect the filters in an
   * object, and die of one that is called `__proto__`; nothing of what it does with them otherwise is needed.
   */
  async #restore(connection: Connection): Promise<void> {
    const { client, session } = connection
    let some: Promise<void>[] = []
    const slice = new Slice()
    for (const [filter, { options: bits, identifier: si }] of session?.subscriptions ?? []) {
      const subscription: AedesSubscription = {
        qos: (bits & SessionOption.qos) as 0 | 1 | 2,
        nl: (bits & SessionOption.noLocal) !== 0,
        rap: (bits & SessionOption.retainAsPublished) !== 0,
        rh: 0,
        si,
        func: connection,
      }
      Object.defineProperty(client.subscriptions, filter, {
        value: subscription,
        writable: true,
        enumerable: true,
        configurable: true,
      }) // not as SUBSCRIBE, which the trap hears of
      if (slice.isOver) await slice.next()
      if (client.closed) return // and unsubscribed from what it had by then
      if (
        some.push(this.#host.subscribe(connection, filter, optionsOf(subscription), false)) <
        limits.restoredPerTurn
      )
        continue
      await Promise.all(some)
      some = []
    }
    await Promise.all(some)
  }

  /**
   * From the bytes of its CONNECT. One that 3.1.1 has no words to refuse is not published, like a PUBLISH:
   * bridges of Mosquitto have such a will.
   */
  #willOf(client: AedesClient): SessionRequest['will'] {
    const { will } = client.conn.connection
    if (will === undefined) return undefined
    const { delaySeconds, expirySeconds, ...message } = will
    if (isReserved(message.topic)) return (this.#host.dropped('refused', message.qos), undefined)
    const expires = { expiresAt: 0, expirySeconds: expirySeconds < 0 ? undefined : expirySeconds }
    return {
      delaySeconds,
      message: {
        ...message,
        ...expires,
        publisher: client.id!,
        isWill: true,
        origin: undefined,
        frames: undefined,
      },
    }
  }

  /**
   * Aedes' `persistence`: sessions are claimed before it asks, and nothing else of it is its own any more.
   */
  #persistence(): unknown {
    const nothing = (): Promise<void> => Promise.resolve()
    const none = (): Readable => Readable.from([])
    const noRetained = { pipe: () => undefined }
    return {
      setup: async () => nothing(),
      subscriptionsByClient: () => Promise.resolve([]), // restored by now
      removeSubscriptions: (client: AedesClient, filters: readonly string[]) =>
        this.#host.forget(client.conn.connection, filters),
      addSubscriptions: nothing,
      cleanSubscriptions: nothing,
      putWill: nothing,
      delWill: nothing,
      storeRetained: nothing,
      streamWill: none,
      outgoingStream: none,
      createRetainedStreamCombi: () => noRetained,
    }
  }

  // Subscriptions

  /** Aedes' `mq`: subscriptions of clients are the data plane's, its own ($SYS) the control plane's. */
  #mq(): unknown {
    const on = (_topic: string, listener: Listener, done?: () => void): void => {
      const noted = this.#noted
      this.#noted = undefined
      if (noted?.listener !== listener)
        done?.() // Aedes' own: takeovers, wills and dead nodes are the bridge's
      else
        this.#host
          .subscribe(
            noted.connection,
            noted.filter,
            optionsOf(noted.subscription),
            wantsReplay(noted.connection, noted.filter, noted.subscription),
          )
          .then(
            () => done?.(),
            (error: unknown) => noted.connection.client.emit('error', error),
          )
    }
    const removeListener = (filter: string, whose: Listener | Connection, done?: () => void): void => {
      // A new subscription to the same filter takes the place of the old one: it is noted by now, and
      // registered next.
      if (whose instanceof Connection && this.#noted?.filter !== filter) this.#host.unsubscribe(whose, filter)
      if (done !== undefined) setImmediate(done)
    }
    return { on, removeListener, close: (done: () => void) => setImmediate(done), current: 0 }
  }

  /**
   * Aedes' own publishes: its heartbeat and, where the operator wants it, who came and went; when somebody in
   * the cluster wants to hear it.
   */
  #publish(packet: IPublishPacket, done: Done | undefined): void {
    if (this.#isAnnounced(packet.topic) && this.#host.isWanted(packet.topic))
      this.#bridge.emitter.emit(packet.topic, Buffer.from(packet.payload))
    if (done !== undefined) setImmediate(done)
  }

  /** Emitted by Aedes behind the SUBACK. */
  #onSubscribed(subscriptions: readonly { topic: string }[], client: AedesClient): void {
    const { connection } = client.conn
    for (const { topic: filter } of subscriptions) {
      const subscription = client.subscriptions[filter]
      if (subscription !== undefined && wantsReplay(connection, filter, subscription))
        this.#host.replay(connection, filter)
      connection.isNew?.delete(filter)
    }
    if (connection.isNew?.size === 0) connection.isNew = undefined
  }

  // The end

  /**
   * Tells every client to go (MQTT 5: DISCONNECT 0x8B), a bounded number per 10 ms; resolves when all were
   * told.
   */
  async disconnectAll(reasonCode: number = ReasonCode.serverShuttingDown): Promise<void> {
    const clients = Object.values(this.#aedes.clients)
    for (const { conn } of clients) conn.connection.endReason ||= stops
    for (let i = 0; i < clients.length; i += limits.disconnectsPerTurn) {
      for (const client of clients.slice(i, i + limits.disconnectsPerTurn)) client.disconnect({ reasonCode })
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }

  /**
   * Cuts every connection at once, without a word: this boot was declared dead, and nothing of it may be
   * acknowledged.
   */
  cutAll(reason = 'this node was declared dead'): void {
    for (const connection of this.#open) {
      connection.endReason ||= reason
      connection.destroy()
    }
  }

  /** Closes Aedes itself and every connection; who was told why gets to read it. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close())
  }

  async #close(): Promise<void> {
    clearInterval(this.#excusing)
    await new Promise<void>((resolve) => this.#aedes.close(resolve))
    this.cutAll(stops)
    if (this.#open.size > 0)
      await new Promise<void>((resolve) => {
        this.#whenEmpty = resolve
      })
  }
}

/** [MQTT-3.3.1-9..11] */
const wantsReplay = ({ isNew }: Connection, filter: string, { rh }: AedesSubscription): boolean =>
  rh !== 2 && (rh !== 1 || isNew?.get(filter) === true)

const optionsOf = ({ qos, nl, rap, si }: AedesSubscription): SubscriptionOptions => ({
  qos,
  noLocal: nl === true,
  retainAsPublished: rap === true,
  identifier: si,
})
