// The connections of this node, and Aedes beside each of them. Aedes keeps CONNECT (connect.ts), SUBSCRIBE
// and UNSUBSCRIBE (subscribe.ts), keep alive and the end of a connection; PUBLISH and its acknowledgements
// are ours (broker/connection/). Inbound, the bytes of a connection come to our reader, and only those
// packets go on to Aedes (`#passToAedes`). Outbound, a hook in mqtt-packet's writeToStream hands what Aedes
// writes to the connection's outbox (aedes-packets.ts), and AedesStream hears when Aedes has accepted a CONNECT
// (aedes-client.ts). Each assumption about Aedes' insides has a contract test in test/conformance/engine.test.ts or
// aedes-client.test.ts, so that an upgrade fails loudly and here. State: the connections of this process.
import { Aedes } from 'aedes'
import type { IPublishPacket, Packet } from 'mqtt-packet'
import type { EventEmitter } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { Readable, type Duplex } from 'node:stream'
import { Message, ownName, Slice, type Bridge } from '../../bridge/index.ts'
import { BanList } from '../access/ban-list.ts'
import { Admission } from '../access/admission.ts'
import { Refusal } from '../access/gate.ts'
import { userKeyOf } from '../access/tenancy.ts'
import {
  AedesStream,
  nothing,
  strip,
  type AedesClient,
  type AedesInsides,
  type Done,
  type PacketHandlers,
} from './aedes-client.ts'
import { Connects, goneUser } from './connect.ts'
import type { EngineHost } from './engine-host.ts'
import { parse } from './aedes-packets.ts'
import { Subscribes } from './subscribe.ts'
import type { Config, ListenerConfig } from '../config/config.ts'
import { Connection } from '../connection/connection.ts'
import type { ConnectionHost } from '../connection/connection-host.ts'
import type { Peer } from '../connection/peer.ts'
import { attach } from '../connection/stream.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'
import { inItsTenant, isTold } from '../observe/system-topics.ts'
import { withoutUserProperties } from '../protocol/user-properties.ts'

/** Aedes' listener of a parser's `packet`. */
type Enqueue = (this: { client: AedesClient }, packet: Packet) => void

const stops = 'this node stops'

/** Waits that are worth a timer, ms. */
const pauseMin = 20
const after = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms).unref())

export class Engine {
  readonly #aedes: AedesInsides
  readonly #host: EngineHost
  readonly #bridge: Bridge
  readonly #connectionHost: ConnectionHost<Connection>
  /** The same for the connections of a listener. */
  readonly #hostsOf = new Map<ListenerConfig, ConnectionHost<Connection>>()
  readonly #handlers: PacketHandlers = {
    onConnect: (connection, client, frame) => this.#connect(connection, client, frame),
    onSubscribe: (client, frame) =>
      void this.#subscribes.onPacket(client, frame).catch((error: unknown) => client.emit('error', error)),
  }
  #enqueue: Enqueue | undefined
  readonly #open = new Set<Connection>()
  readonly #admission: Admission
  readonly #connects: Connects
  /** Those that were not accepted yet when everybody was looked at again. */
  readonly #unlooked = new WeakSet<Connection>()
  readonly #bans: BanList
  #lookForBanned: NodeJS.Timeout | undefined
  readonly #subscribes: Subscribes
  readonly #isAnnounced: (topic: string) => boolean
  readonly #excusing: NodeJS.Timeout
  #whenEmpty: (() => void) | undefined
  #closing: Promise<void> | undefined
  /** Addresses of other nodes, for clients that are to go; and which one comes first for the next of them. */
  #elsewhere: readonly string[] = []
  #nextElsewhere = 0
  /** Clients that were told to go, and may not be closed yet. */
  readonly #told = new WeakSet<AedesClient>()

  constructor(name: string, bridge: Bridge, config: Config, host: EngineHost) {
    this.#host = host
    this.#bridge = bridge
    this.#admission = new Admission(config, (cause) => host.refused(cause))
    this.#bans = new BanList(() => config.flappingConnectsMax)
    this.#connects = new Connects(host, this.#bans, (clientId) => this.#banFlapping(clientId))
    this.#subscribes = new Subscribes(host, (client, packet) => this.#passToAedes(client, packet))
    this.#connectionHost = this.#hostOfConnections()
    this.#isAnnounced = isTold(config)
    this.#aedes = new Aedes({
      id: name,
      mq: this.#subscribes.mq(),
      persistence: this.#persistence(),
      drainTimeout: 0, // ours: broker/connection/outbox.ts
      // a listener may take other packets: its reader says so, and CONNACK (aedes-packets.ts)
      maximumPacketSize: Math.max(
        config.packetBytesMax,
        ...config.listeners.map(({ packetBytesMax }) => packetBytesMax),
      ),
      maxClientsIdLength: 65_535, // [MQTT-3.1.3-5] lets a server take more than 23 bytes; devices use them
      topicAliasMaximum: config.topicAliasMax,
      receiveMaximum: config.receiveMaximum,
      // told in CONNACK where it is less than was asked for (3.2.2.3.2)
      sessionExpiryIntervalLimit: config.sessionExpirySecondsMax,
      ...(config.responseInformation === undefined
        ? {}
        : {
            responseInformation: ({ id }: { readonly id: string }) =>
              config.responseInformation?.replaceAll('%c', () => encodeURIComponent(ownName(id))),
          }),
    }) as unknown as AedesInsides
    // ours: broker/routing/subscription-bounds.ts; UNSUBSCRIBE is answered whatever it names [MQTT-3.10.4-5]
    this.#aedes.maxTopicLevels = Infinity
    // Keyed by what comes over the wire: no prototype, so that a client named `__proto__` is just a client.
    this.#aedes.clients = Object.create(null) as Record<string, AedesClient>
    this.#aedes.brokers = Object.create(null) as Record<string, unknown>
    this.#aedes.preConnect = (client, packet, done) => this.#connects.preConnect(client, packet, done)
    this.#aedes.authenticate = (client, username, password, done) =>
      this.#connects.authenticate(client, username, password, done)
    const register = this.#aedes.registerClient.bind(this.#aedes)
    this.#aedes.registerClient = (client) => {
      // Aedes goes on with a CONNECT whose client is closed by now, and would throw out whoever came after
      // it
      if (!client.closed) register(client)
    }
    const unregister = this.#aedes.unregisterClient.bind(this.#aedes)
    this.#aedes.unregisterClient = (client) => {
      // Aedes would take out whoever has the name by now
      if (this.#aedes.clients[client.id!] === client) unregister(client)
    }
    // Wills and expiries are the session's (bridge/sessions/).
    this.#aedes.publishWill = this.#aedes.scheduleWill = this.#aedes.scheduleSessionExpiry = () => undefined
    this.#aedes.publish = (packet, client, done) =>
      this.#publish(packet, typeof client === 'function' ? client : done)
    for (const event of ['clientError', 'connectionError'])
      this.#aedes.on(event, ({ conn }: AedesClient, error: Error) => this.#failed(conn.connection, error))
    // It ends the connection next [MQTT-3.1.2-22].
    this.#aedes.on('keepaliveTimeout', ({ conn: { connection } }: AedesClient) => {
      host.gate.keepAliveExpired?.(connection)
      connection.disconnect(
        ReasonCode.keepAliveTimeout,
        'nothing came for one and a half times the Keep Alive',
      )
    })
    this.#aedes.on('error', (error: Error) => host.onError(error))
    this.#aedes.on('subscribe', (subscriptions: { topic: string }[], client: AedesClient) =>
      this.#subscribes.answered(subscriptions, client),
    )
    this.#excusing = setInterval(
      () => this.#look(config.drainTimeoutMs),
      Math.min(500, config.drainTimeoutMs / 2),
    )
    this.#excusing.unref()
  }

  #look(drainTimeoutMs: number): void {
    for (const connection of this.#open) {
      connection.inbound.excuse()
      if (connection.outbox.isStuck(drainTimeoutMs) && !connection.client.isClosed)
        connection.client.fail(new Error(`reads nothing for ${drainTimeoutMs} ms`))
    }
  }

  async listen(): Promise<void> {
    await this.#bridge.bans.hear((bans) => {
      this.#bans.set(bans)
      if (!this.#bans.isEmpty) void this.#endBanned()
    })
    await this.#aedes.listen()
  }

  /** Clients that CONNACK accepted and whose connection is open. O(connections). */
  get clientCount(): number {
    return [...this.#open].filter(({ isClient }) => isClient).length
  }

  get connections(): Iterable<Connection> {
    return this.#open
  }

  connectionOf(clientId: string): Connection | undefined {
    const { clients } = this.#aedes
    return Object.hasOwn(clients, clientId) ? clients[clientId]!.conn.connection : undefined
  }

  // From the first byte of a connection to its end

  /**
   * Serves one connection until it closes; its CONNECT must come in time.
   * @param listener whose bounds hold for it; the node's, when it came by none
   */
  handle(
    stream: Duplex,
    { withinMs, peer }: { readonly withinMs: number; readonly peer: Peer | undefined },
    request?: IncomingMessage,
    listener?: ListenerConfig,
  ): Connection {
    this.#aedes.connectTimeout = withinMs
    const connection = new Connection(
      stream,
      listener === undefined ? this.#connectionHost : this.#hostOf(listener),
    )
    connection.peer = peer
    connection.request = request
    if (request !== undefined) connection.outbox.socket = request.socket
    const joint = (connection.client = new AedesStream(stream, connection, this.#handlers))
    const client = this.#aedes.handle(joint, request)
    this.#enqueue ??= (client._parser as EventEmitter).listeners('packet')[0] as Enqueue
    strip(client)
    this.#subscribes.watch(joint)
    this.#open.add(connection)
    attach(stream, connection)
    this.#admission.came(connection)
    return connection
  }

  /**
   * Nothing is delivered to it any more: its filters are taken out in slices, since they may be a hundred
   * thousand.
   */
  async #unsubscribe(connection: Connection): Promise<void> {
    const slice = new Slice()
    for (const filter in (connection.client as AedesStream).subscriptions) {
      if (slice.isOver) await slice.next()
      void this.#host.unsubscribe(connection, filter)
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
    connection.onOver()
    void this.#unsubscribe(connection)
    this.#host.onEnd(connection)
    if (this.#open.size === 0) this.#whenEmpty?.()
    this.#connects.over(connection)
  }

  /** CONNECT goes on to Aedes, whatever it makes of it: it asks `connect.ts`, and answers by `aedes-packets.ts`. */
  #connect(connection: Connection, client: AedesClient, frame: Buffer): void {
    try {
      const packet = parse(connection.level === 5 ? withoutUserProperties(frame) : frame, 0)
      // With tenants nobody knows yet whose connection it replaces.
      const isKnown = packet.cmd === 'connect' && this.#host.config.tenants === 'off'
      const earlier = isKnown ? this.#connects.latest(packet.clientId) : undefined
      if (this.#admission.admit(connection, this.#open.size, earlier)) this.#passToAedes(client, packet)
    } catch (error) {
      client.emit('error', error)
    }
  }

  #passToAedes(client: AedesClient, packet: Packet): void {
    client._parsingBatch = 0
    client._nextBatch = (error) => {
      if (error !== undefined && error !== null) client.emit('error', error)
    }
    this.#enqueue!.call({ client }, packet)
    client._nextBatch = nothing // Aedes has taken it along; what it calls otherwise is to read on
  }

  #hostOf(listener: ListenerConfig): ConnectionHost<Connection> {
    let host = this.#hostsOf.get(listener)
    if (host === undefined) {
      const { packetBytesMax, connectBytesMax } = listener
      const readerLimits = { ...this.#connectionHost.readerLimits, packetBytesMax, connectBytesMax }
      this.#hostsOf.set(listener, (host = { ...this.#connectionHost, listener, readerLimits }))
    }
    return host
  }

  #hostOfConnections(): ConnectionHost<Connection> {
    const { slowBytesMax } = this.#host.config
    return {
      listener: undefined,
      config: this.#host.config,
      holdings: this.#host.holdings,
      gate: this.#host.gate,
      traffic: this.#host.traffic,
      traces: this.#host.traces,
      readerLimits: this.#host.config,
      outboxLimits: { highBytes: slowBytesMax, lowBytes: slowBytesMax / 4 },
      refused: (cause) => this.#host.refused(cause),
      heldBack: (cause) => this.#host.heldBack(cause),
      mayRetain: (topic, bytes) => this.#host.mayRetain(topic, bytes),
      mayShare: () => this.#host.hasGroups,
      publish: (message, from, done) => this.#host.publish(message, from, done),
      dropped: (cause, qos) => this.#host.dropped(cause, qos),
      failed: (error, qos) => this.#host.failed(error, qos),
      slow: (connection, topic) => this.#host.slow(connection, topic),
      isReading: (connection, topic) => this.#host.isReading(connection, topic),
      drained: (connection) => this.#host.drained(connection),
      schedule: (holder, mayWait) => this.#host.schedule(holder, mayWait),
      scheduleMember: (holder) => this.#host.scheduleMember(holder),
      writeRefused: (connection) => this.#host.writeRefused(connection),
      matching: (connection, message) => this.#host.matching(connection, message),
      isReplayed: (connection, message) => this.#host.isReplayed(connection, message),
      subscribedAgain: (session) => this.#host.subscribedAgain(session),
      goOn: (connection, replays) => this.#host.goOn(connection, replays),
      lookAt: (connection) => void this.#lookAt(connection, new Slice()),
      onClient: (connection) => {
        this.#host.onClient(connection)
        if (this.#unlooked.delete(connection) && connection.isClient)
          void this.#lookAt(connection, new Slice())
      },
      farewell: (connection, voidsWill, expirySeconds) =>
        this.#host.farewell(connection, voidsWill, expirySeconds),
      releaseSession: (connection) => this.#host.releaseSession(connection),
      broken: (connection, error) => this.#failed(connection, error),
      over: (connection) => this.#over(connection),
      violated: (connection, violation) => {
        this.#failed(connection, violation)
        if (violation.bound !== undefined) this.#host.refused(violation.bound)
        connection.disconnect(violation.reasonCode, violation.message)
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

  /**
   * Aedes' own publishes: its heartbeat and, where the operator wants it, who came and went; when somebody in
   * the cluster wants to hear it.
   */
  #publish(packet: IPublishPacket, done: Done | undefined): void {
    if (this.#isAnnounced(packet.topic)) {
      const payload = Buffer.from(packet.payload)
      const inside = this.#host.config.tenants === 'on' ? inItsTenant(packet.topic, payload) : undefined
      if (this.#host.isWanted(inside?.topic ?? packet.topic)) void this.#announce(packet.topic, payload)
    }
    if (done !== undefined) setImmediate(done)
  }

  async #announce(topic: string, payload: Buffer): Promise<void> {
    const { gate } = this.#host
    const message = Message.ofBroker(topic, payload)
    const decided = gate.publish === undefined ? message : await gate.publish(message, 'broker', undefined)
    if (!(decided instanceof Refusal)) this.#bridge.emitter.emit(decided.topic, decided.payload)
  }

  // Bans

  /** Who is connected and banned is told to go. Who is between its CONNECT and CONNACK is looked at a moment later. */
  async #endBanned(): Promise<void> {
    let isConnecting = false
    const slice = new Slice()
    for (const connection of this.#open) {
      if (slice.isOver) await slice.next()
      if (connection.isClosed) continue
      if (!connection.isConnected) {
        isConnecting ||= connection.level > 0
        continue
      }
      const { clientId, address, tenant } = connection
      const ban = this.#bans.of(clientId, userKeyOf(connection), address, tenant?.name)
      if (ban === undefined) continue
      connection.endReason ||= `banned: ${ban.reason}`
      this.#host.refused('banned')
      connection.disconnect(ReasonCode.administrativeAction, 'banned') // 0x8A is CONNACK's alone
    }
    clearTimeout(this.#lookForBanned)
    if (isConnecting) this.#lookForBanned = setTimeout(() => void this.#endBanned(), 500).unref()
  }

  /** While the store is away it is not banned, but refused each time. */
  #banFlapping(clientId: string): void {
    const { flappingBanSeconds } = this.#host.config
    this.#bridge.bans
      .add('client', clientId, 'connects too often (flappingConnectsMax)', flappingBanSeconds)
      .catch(() => undefined)
  }

  /**
   * Looks at every client again, in slices: one that is not who it proved to be is told to go, and a subscription that it
   * may not have any more ends, in its session, too. Who is not accepted yet is looked at when it is, however long its
   * CONNECT waits.
   */
  async lookAgain(): Promise<void> {
    const slice = new Slice()
    for (const connection of this.#open) {
      if (slice.isOver) await slice.next()
      if (connection.isClient) await this.#lookAt(connection, slice)
      else if (!connection.isClosed) this.#unlooked.add(connection)
    }
  }

  async #lookAt(connection: Connection, slice: Slice): Promise<void> {
    const { isStill, mayKeep } = this.#host.gate
    if (isStill?.(connection) === false) {
      connection.endReason ||= goneUser
      return connection.disconnect(ReasonCode.notAuthorized, 'not authorized any more')
    }
    if (mayKeep === undefined) return
    const { client, subscriptions } = connection.client as AedesStream
    const gone: string[] = []
    for (const filter in subscriptions) {
      if (slice.isOver) await slice.next()
      const subscription = subscriptions[filter]
      if (subscription !== undefined && !mayKeep(connection, filter, subscription.qos)) gone.push(filter)
    }
    if (gone.length > 0 && connection.isClient) client.unsubscribe({ unsubscriptions: gone }, nothing)
  }

  // The end

  /**
   * Where clients are told to go from now on, unless the operator says it (serverReference).
   * @param references addresses of other nodes, none when nobody knows any
   */
  set elsewhere(references: readonly string[]) {
    this.#elsewhere = references
  }

  /** From now on whoever connects is told where else to go. @returns false: nobody knows where */
  sendElsewhere(): boolean {
    if (this.#reference === undefined) return false
    this.#admission.close((connection) => connection.sendElsewhere(this.#movingCode, this.#reference!))
    return true
  }

  /** Another one comes first each time, so that not all clients knock at the same node. */
  get #reference(): string | undefined {
    const { serverReference } = this.#host.config
    if (serverReference !== undefined || this.#elsewhere.length === 0) return serverReference
    const first = this.#nextElsewhere++ % this.#elsewhere.length
    return [...this.#elsewhere.slice(first), ...this.#elsewhere.slice(0, first)].join(' ')
  }

  /** What a client is told that is to go elsewhere. */
  get #goodbye(): Parameters<AedesClient['disconnect']>[0] {
    const serverReference = this.#reference
    return serverReference === undefined
      ? { reasonCode: ReasonCode.serverShuttingDown }
      : { reasonCode: this.#movingCode, properties: { serverReference } } // 4.11
  }

  get #movingCode(): number {
    return this.#host.config.serverMoved === 'on' ? ReasonCode.serverMoved : ReasonCode.useAnotherServer
  }

  /**
   * Tells so many clients a second to go (MQTT 5: DISCONNECT 0x8B, or where else to: 0x9C, 0x9D), so that not all of
   * them knock elsewhere at the same moment; resolves when there is none, or the engine is closed.
   */
  async drain(perSecond: number): Promise<void> {
    do await this.#tellAll(perSecond, Infinity, 'this node is drained')
    while (this.#closing === undefined && Object.keys(this.#aedes.clients).length > 0)
  }

  /** The same within a time: resolves when all were told, who is left by then at once. */
  async disconnectAll(perSecond: number, withinMs: number): Promise<void> {
    const end = performance.now() + withinMs
    while (await this.#tellAll(perSecond, end, stops));
  }

  /** @returns whether there was anybody to tell */
  async #tellAll(perSecond: number, end: number, reason: string): Promise<boolean> {
    const clients = Object.values(this.#aedes.clients).filter((client) => !this.#told.has(client))
    const slice = new Slice()
    let next = performance.now()
    for (const client of clients) {
      if (this.#closing !== undefined) return false
      this.#told.add(client)
      client.conn.connection.endReason ||= reason
      client.disconnect(this.#goodbye)
      next += 1_000 / perSecond
      const pause = Math.min(next, end) - performance.now()
      if (pause > pauseMin) await after(pause)
      else if (slice.isOver) await slice.next()
    }
    if (end === Infinity) await after(pauseMin) // those who were connecting are clients by now
    return clients.length > 0
  }

  /**
   * Cuts every connection, without a word, in slices: this boot was declared dead, and acknowledges nothing
   * that would have to be stored.
   */
  async cutAll(reason = 'this node was declared dead'): Promise<void> {
    const slice = new Slice()
    for (const connection of this.#open) {
      if (slice.isOver) await slice.next()
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
    clearTimeout(this.#lookForBanned)
    await this.cutAll(stops)
    await new Promise<void>((resolve) => this.#aedes.close(resolve))
    await this.cutAll(stops) // who came meanwhile
    if (this.#open.size > 0)
      await new Promise<void>((resolve) => {
        this.#whenEmpty = resolve
      })
  }
}
