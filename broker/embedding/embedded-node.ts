// A node in a program of your own, with Aedes' hooks and events: what `createNode` gives. It does nothing to the
// process: no signals, no flags of V8, and by default no listener, no admin endpoint and no log. State: the hooks and
// listeners of the program, and the handlers that it subscribed.
import { EventEmitter } from 'node:events'
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type {
  IConnackPacket,
  IPingreqPacket,
  IPublishPacket,
  IPubrelPacket,
  ISubscription,
} from 'mqtt-packet'
import { ownFilter, ownName, ownTopic, tenantOfName, type Ban, type BanKind } from '../../bridge/index.ts'
import { isNetwork } from '../access/networks.ts'
import type { Gate, Guard } from '../access/gate.ts'
import { bannedIn } from '../access/tenancy.ts'
import type { Connection } from '../connection/connection.ts'
import { OperatorError } from '../operator-errors.ts'
import type { RoutesOfNode } from '../admin/server.ts'
import { loadConfig, type Config, type NodeOptions } from '../config/config.ts'
import { Node } from '../node.ts'
import type { LocalMessage, PublishOptions } from '../routing/local-messages.ts'
import { clientOf, type Client } from './hook-client.ts'
import { guardOf, hookNames, type Hooks } from './hooks.ts'
import { completed, packetOf, type AedesPublishPacket, type PublishPacket } from './hook-packets.ts'
import { messageOfPacket } from '../aedes/aedes-packets.ts'

/** Aedes' events, with Aedes' signatures. */
export interface NodeEvents {
  client: [client: Client]
  clientReady: [client: Client]
  clientDisconnect: [client: Client]
  keepaliveTimeout: [client: Client]
  clientError: [client: Client, error: Error]
  connectionError: [client: Client, error: Error]
  connackSent: [packet: IConnackPacket, client: Client]
  ping: [packet: IPingreqPacket, client: Client]
  publish: [packet: AedesPublishPacket, client: Client | null]
  ack: [packet: IPublishPacket | IPubrelPacket, client: Client]
  subscribe: [subscriptions: ISubscription[], client: Client]
  unsubscribe: [filters: string[], client: Client]
  /** A bug of ours, or a disk that fails under its state file: the node ends. */
  error: [error: Error]
  closed: []
}

type Callback = (error?: Error) => void
/** Aedes' form of a handler. */
type Deliver = (packet: AedesPublishPacket, callback: () => void) => void

export class EmbeddedNode extends EventEmitter<NodeEvents> {
  /** Aedes' hooks: each may be set at any time. */
  declare preConnect: Hooks['preConnect']
  declare authenticate: Hooks['authenticate']
  declare enhancedAuthenticate: Hooks['enhancedAuthenticate']
  declare authorizePublish: Hooks['authorizePublish']
  declare authorizeSubscribe: Hooks['authorizeSubscribe']
  declare authorizeForward: Hooks['authorizeForward']
  declare published: Hooks['published']
  readonly config: Config
  readonly #listens: boolean
  readonly #hooks: Hooks
  #gate: Gate<Connection> | undefined
  #node: Node | undefined
  #closing: Promise<void> | undefined
  /** Of Aedes' form: ends each. */
  readonly #subscribed = new Map<Deliver, Map<string, Promise<() => void>>>()

  /** @param options as in broker/README.md; nothing of them is read from the environment */
  constructor(options: NodeOptions = {}, hooks: Hooks = {}) {
    super()
    this.#listens = options.listen !== undefined || options.listeners !== undefined
    const given = {
      ...(options.admin === undefined ? { admin: 'off' } : {}),
      ...(options.log === undefined ? { logLevel: 'silent' } : {}),
      ...options,
    }
    this.#hooks = Object.fromEntries(hookNames.map((name) => [name, hooks[name]]))
    // who brings hooks has them asked; where nobody else is, others may come as well
    const elsewhere =
      this.#authenticates() || hooks.enhancedAuthenticate !== undefined ? (['hooks'] as const) : undefined
    this.config = loadConfig(given, {}, [], (name) => name, elsewhere)
    if (this.config.workers > 1)
      throw new OperatorError('is for the command `aedes-cluster node`', {
        reason: 'usage',
        field: 'workers',
        value: this.config.workers,
        hint: 'Call createNode in each of your processes, with an id of its own',
      })
    for (const name of hookNames)
      Object.defineProperty(this, name, {
        get: () => this.#hooks[name],
        set: (hook: undefined) => {
          this.#hooks[name] = hook
          this.#setGuards()
        },
      })
    this.on('newListener' as never, ((name: string) => this.#setGuards(name)) as never)
    this.on('removeListener' as never, (() => this.#setGuards()) as never)
  }

  /**
   * Resolves when it serves.
   * @throws OperatorError naming the field, the value and what to do
   */
  async start(): Promise<this> {
    this.#node = await Node.start(this.config, undefined, {
      listens: this.#listens,
      authenticates: () => this.#authenticates(),
      hasHooks: () => Object.values(this.#hooks).some((hook) => hook !== undefined),
      provesNames: () => this.#hooks.authenticate !== undefined,
      onEnd: (bug) => {
        this.emit('error', bug as Error) // throws where nobody listens
        void this.close()
      },
      attach: (gate) => {
        this.#gate = gate
        this.#setGuards()
      },
    })
    return this
  }

  /** Whether a client without an Authentication Method is asked by a hook who it is. */
  #authenticates(): boolean {
    return this.#hooks.preConnect !== undefined || this.#hooks.authenticate !== undefined
  }

  get #running(): Node {
    if (this.#node === undefined) throw new Error('the node has not started')
    return this.#node
  }

  /** Reads files of users, rules and certificates again, at once: they are looked at once a second otherwise. */
  reload(): void {
    this.#running.reload()
  }

  get id(): string {
    return this.config.id
  }

  get closed(): boolean {
    return this.#node === undefined || this.#closing !== undefined
  }

  /** Serves a stream of the program's own: a socket, an HTTP upgrade. Bound, as in `createServer(node.handle)`. */
  readonly handle = (stream: Duplex, request?: IncomingMessage): Client | undefined => {
    if (this.#node === undefined) return void stream.destroy()
    const connection = this.#node.handle(stream, request)
    return connection === undefined ? undefined : clientOf(connection)
  }

  /**
   * Clients that are connected to this node, by Client Identifier, where tenants are on by tenant, `/` and Client
   * Identifier; made anew each time.
   */
  get clients(): ReadonlyMap<string, Client> {
    const clients = new Map<string, Client>()
    for (const connection of this.#node?.connections ?? [])
      if (connection.isClient) clients.set(connection.clientId.replace('\0', '/'), clientOf(connection))
    return clients
  }

  get connectedClients(): number {
    return this.clients.size
  }

  /** Where clients can connect, with real port numbers. */
  get endpoints(): string[] {
    return this.#running.endpoints
  }

  get adminUrl(): string | undefined {
    return this.#running.adminUrl
  }

  /**
   * From now on it may not connect, in the whole cluster, and its connections end within a second.
   * @param name a Client Identifier, a user, an address or a network (10.0.0.0/8); of one tenant where that is said
   * @returns false: as many are banned as may be
   */
  ban(
    kind: BanKind,
    name: string,
    {
      reason = '',
      seconds,
      tenant,
    }: { readonly reason?: string; readonly seconds?: number; readonly tenant?: string } = {},
  ): Promise<boolean> {
    if (kind === 'network' && !isNetwork(name)) throw new TypeError(`${name} is no address and no network`)
    if (seconds !== undefined && !(seconds >= 1))
      throw new TypeError(
        `${seconds} is no number of seconds: from 1 on, or none for as long as it is not lifted`,
      )
    return this.#running.bans.add(kind, bannedIn(tenant, kind, name), reason, seconds)
  }

  /** @returns false: it was not banned */
  unban(kind: BanKind, name: string, { tenant }: { readonly tenant?: string } = {}): Promise<boolean> {
    return this.#running.bans.remove(kind, bannedIn(tenant, kind, name))
  }

  /** Who is banned. */
  async banned(): Promise<readonly (Ban & { readonly tenant?: string })[]> {
    return (await this.#running.bans.list()).map((ban) => {
      const tenant = tenantOfName(ban.name)
      return tenant === undefined ? ban : { ...ban, name: ownName(ban.name), tenant }
    })
  }

  /** What /metrics shows. */
  metricsText(): Promise<string> {
    return this.#running.metricsText()
  }

  /** What /routes shows. */
  routes(): RoutesOfNode {
    return this.#running.routes()
  }

  /**
   * Publishes a message, as a client does.
   * @returns resolves when it is stored for everybody who is subscribed, at once for QoS 0 that is not
   * retained
   * @throws TypeError when the topic is none; Error when the node does not serve, or ends meanwhile
   */
  publish(topic: string, payload: Buffer | string, options?: PublishOptions): Promise<void>
  /** Aedes' form. */
  publish(packet: PublishPacket, callback?: Callback): void
  publish(
    what: string | PublishPacket,
    payload: Buffer | string | Callback = '',
    options?: PublishOptions,
  ): Promise<void> | void {
    if (typeof what === 'string') return this.#running.publish(what, payload as Buffer | string, options)
    const callback = typeof payload === 'function' ? payload : undefined
    const published = this.#running.publishMessage(messageOfPacket(completed(what)), what.tenant)
    settle(published, callback)
  }

  /**
   * Hears what is published anywhere in the cluster from the moment it resolves; not what is retained by
   * then.
   * @param handle called in order; what it throws is counted (aedes_cluster_failed_messages_total) and named
   * in the log
   * @returns ends it
   */
  subscribe(
    filter: string,
    handle: (message: LocalMessage) => void,
    options?: { readonly qos?: 0 | 1 | 2; readonly tenant?: string },
  ): Promise<() => void>
  /** Aedes' form: `callback` when every message from now on is delivered. */
  subscribe(filter: string, deliver: Deliver, callback: () => void): void
  subscribe(
    filter: string,
    handle: ((message: LocalMessage) => void) | Deliver,
    how?: { readonly qos?: 0 | 1 | 2; readonly tenant?: string } | (() => void),
  ): Promise<() => void> | void {
    if (typeof how !== 'function')
      return this.#running.subscribe(filter, handle as (message: LocalMessage) => void, how)
    const deliver = handle
    const subscribed = this.#running.subscribeMessages(filter, (message) =>
      deliver(packetOf(message, this.id), () => undefined),
    )
    const known = this.#subscribed.get(deliver)
    if (known === undefined) this.#subscribed.set(deliver, new Map([[filter, subscribed]]))
    else known.set(filter, subscribed)
    settle(subscribed, how)
  }

  /** Aedes' form: ends what `subscribe` began with the same filter and function. */
  unsubscribe(filter: string, deliver: Deliver, callback?: () => void): void {
    const known = this.#subscribed.get(deliver)
    const subscribed = known?.get(filter)
    known?.delete(filter)
    if (known?.size === 0) this.#subscribed.delete(deliver)
    settle(subscribed === undefined ? Promise.resolve() : subscribed.then((end) => end()), callback)
  }

  /** Tells the clients to go, and leaves the cluster, within `shutdownMs` and a second. */
  close(callback?: () => void): Promise<void> {
    this.#closing ??= (this.#node?.stop() ?? Promise.resolve()).then(() => {
      this.emit('closed')
    })
    if (callback !== undefined) void this.#closing.then(callback)
    return this.#closing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #setGuards(added?: string): void {
    this.#gate?.setGuards([
      guardOf(this.#hooks, this, this.id, (client, error) => this.emit('clientError', client, error)),
      this.#listening(added),
    ])
  }

  /** Events that nobody listens for are not made. */
  #listening(added: string | undefined): Guard<Connection> {
    const isHeard = (...names: (keyof NodeEvents)[]): boolean =>
      names.some((name) => name === added || this.listenerCount(name) > 0)
    return {
      ...(isHeard('client', 'clientReady') && {
        accepted: (connection) => {
          this.emit('client', clientOf(connection))
          this.emit('clientReady', clientOf(connection))
        },
      }),
      ...(isHeard('clientDisconnect') && {
        ended: (connection, wasClient) => {
          if (wasClient) this.emit('clientDisconnect', clientOf(connection))
        },
      }),
      ...(isHeard('keepaliveTimeout') && {
        keepAliveExpired: (connection) => this.emit('keepaliveTimeout', clientOf(connection)),
      }),
      ...(isHeard('clientError', 'connectionError') && {
        failed: (connection, error) =>
          this.emit(
            connection.clientId === '' ? 'connectionError' : 'clientError',
            clientOf(connection),
            error,
          ),
      }),
      ...(isHeard('connackSent') && {
        connackSent: (packet, to) => this.emit('connackSent', packet, clientOf(to)),
      }),
      ...(isHeard('ping') && { pinged: (by) => this.emit('ping', { cmd: 'pingreq' }, clientOf(by)) }),
      ...(isHeard('publish') && {
        published: (message, _source, from) => {
          this.emit('publish', packetOf(message, this.id), from === undefined ? null : clientOf(from))
        },
      }),
      ...(isHeard('ack') && {
        acknowledged: (messageId, sent, by) =>
          this.emit(
            'ack',
            sent === undefined
              ? { cmd: 'pubrel', messageId }
              : {
                  cmd: 'publish',
                  messageId,
                  retain: false,
                  dup: false,
                  ...sent,
                  topic: ownTopic(sent.topic),
                },
            clientOf(by),
          ),
      }),
      ...(isHeard('subscribe') && {
        subscribed: (granted, by) =>
          this.emit(
            'subscribe',
            granted.map(({ filter, granted: qos }) => ({ topic: ownFilter(filter), qos: qos as 0 | 1 | 2 })),
            clientOf(by),
          ),
      }),
      ...(isHeard('unsubscribe') && {
        unsubscribed: (filters, by) => this.emit('unsubscribe', filters.map(ownFilter), clientOf(by)),
      }),
    }
  }
}

/** Aedes' callbacks: an error is told to who gave one, and is nobody's otherwise. */
function settle(done: Promise<unknown>, callback: Callback | undefined): void {
  done.then(
    () => callback?.(),
    (error: unknown) => callback?.(error as Error),
  )
}
