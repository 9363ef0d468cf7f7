// One node: the bridge to the others, the engine, the listeners and the admin endpoint, composed; start,
// drain, stop. Holds no state of its own that matters: kill -9 of this process loses nothing that was
// acknowledged beyond what README.md's guarantees table says.
import {
  BridgeError,
  type BanChanges,
  Reports,
  isOfStore,
  type Bridge,
  type ChannelName,
  type Cluster,
  Message,
  retryPause,
  tenantOfName,
  type Store,
  type WaitReport,
} from '../bridge/index.ts'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { Counts } from './access/counts.ts'
import { Access } from './access/access.ts'
import { ForeignLinks } from './access/foreign-links.ts'
import { NodeAdmin } from './admin/node-admin.ts'
import { askNodes } from './admin/questions.ts'
import { shownIn } from './access/certificate.ts'
import { openAdmin } from './admin/open.ts'
import { routesText, type AdminServer, type Readiness, type RoutesOfNode } from './admin/server.ts'
import { clientEvents } from './observe/client-events.ts'
import { adviceOn } from './config/config-advice.ts'
import { handedInChain } from './config/listener-chains.ts'
import {
  accessFilesOf,
  adminTokensOf,
  atSource,
  operatorErrorOf,
  storeOf,
  watchedFilesOf,
  type Config,
  type ListenerConfig,
} from './config/config.ts'
import { changeTo, type Reloaded } from './config/reload.ts'
import { WatchedFiles } from './config/watched-files.ts'
import { Router, type RouterEvents } from './routing/router.ts'
import {
  descriptorAdvice,
  descriptorEvents,
  doorEvents,
  noDescriptors,
  sayLowLimit,
} from './observe/door-events.ts'
import { Engine } from './aedes/engine.ts'
import { OperatorError } from './operator-errors.ts'
import type { Connection } from './connection/connection.ts'
import { Gate } from './access/gate.ts'
import { tenantWall } from './access/tenancy.ts'
import { accessEvents, foreignEvents, gateEvents } from './observe/gate-events.ts'
import { Descriptors, listen, type HandedOver, type Listener, type OnConnection } from './listeners/index.ts'
import { LocalMessages, type LocalMessage, type PublishOptions } from './routing/local-messages.ts'
import { DamagedFiles } from './observe/damaged-files.ts'
import { Log } from './observe/log.ts'
import { Metrics } from './observe/metrics.ts'
import { observe, problemOf, waitingText } from './observe/cluster-events.ts'
import { inItsTenant, isTold } from './observe/system-topics.ts'
import { Traces } from './observe/traces.ts'

/** What leaving the cluster has at least, when telling the clients took all the time of a stop. */
const leaveMs = 1_000
/** While a node stops: what the store has for an answer, and when it is asked again. */
const storeAnswersMs = 1_000
const askAgainMs = 250
/** What other nodes have for saying where they are. */
const addressesMs = 300
/** What leaving a store has that does not answer. */
const awayMs = 200
/** When everybody is looked at once more after files were read again: behind each decision that was under way. */
const lookAgainMs = 1_000
/** Sessions that a start with tenants looks at for those of no tenant. */
const untenantedLookedAt = 1_000
/** Tenants with metrics of their own: those with most connections. */
const tenantsShown = 100
/** How long /readyz tells of damaged data. */
const damageToldMs = 60_000

/** One boot of the node: from joining the cluster until it leaves or is fenced. */
interface Boot {
  readonly plane: Cluster
  readonly engine: Engine
  readonly router: Router
}

/** What a program that embeds the node makes of it. */
export interface Embedding {
  /** False: it hands in every connection itself. */
  readonly listens: boolean
  /** The gate, before anything passes it. */
  attach(gate: Gate<Connection>): void
  /** Whether a hook decides who a client without an Authentication Method is. */
  authenticates(): boolean
  /** Whether a hook decides anything: then not everybody may do everything. */
  hasHooks(): boolean
  /** Whether one of those hooks is asked for its password. */
  provesNames(): boolean
  /** A bug, or a disk that fails: the node has cut its connections. Without it the process ends. */
  onEnd?(bug: unknown): void
}

/** No program embeds it. */
const itself: Embedding = {
  listens: true,
  attach: () => undefined,
  authenticates: () => false,
  hasHooks: () => false,
  provesNames: () => false,
}

export class Node {
  readonly config: Config
  readonly metrics = new Metrics()
  readonly #traces = new Traces()
  /** Its configuration as it is by now, for who reads options again; undefined: they stay. */
  source: (() => Config) | undefined
  readonly #listens: boolean
  readonly #log: Log
  readonly #local: LocalMessages
  readonly #store: Store
  readonly gate: Gate<Connection>
  readonly #access: Access<Connection>
  readonly #operated: NodeAdmin
  #bridge: Bridge | undefined
  /** While there is no bridge: since when the store is asked, and what it says about a wait of some time. */
  #opening: { readonly since: number; said?: WaitReport } = { since: performance.now() }
  #boot: Boot | undefined
  #listeners: Listener[] = []
  #descriptors: Descriptors | undefined
  #admin: AdminServer | undefined
  /** The last key that was damaged. */
  #damage = { what: '', at: -Infinity }
  #watched: WatchedFiles | undefined
  readonly #damagedFiles: DamagedFiles
  /** It takes no connections any more, and its clients are told to go; at last none is left, and no session of one. */
  #draining: 'no' | 'begun' | 'done' = 'no'
  /** Addresses of other nodes, for clients that are to go. */
  #elsewhere: readonly string[] = []
  #lookingAgain: NodeJS.Timeout | undefined
  #state: 'starting' | 'serving' | 'fenced' | 'stopping' | 'stopped' = 'starting'
  /** Ends what waits for Redis before there is a boot. */
  readonly #ended = new AbortController()
  readonly #unsubscribe: (() => void)[] = []
  readonly #reports: Reports

  private constructor(config: Config, embedding: Embedding = itself) {
    this.config = config
    this.#reports = new Reports(config.id)
    this.#store = storeOf(config)
    this.#listens = embedding.listens
    this.#local = new LocalMessages(config)
    this.#log = new Log(config, (count) => this.metrics.logLinesDropped.inc(count))
    this.gate = new Gate<Connection>(config.decisionTimeoutMs, gateEvents(this.#log, this.metrics))
    this.#access = new Access<Connection>({
      handedIn: handedInChain(config),
      hasHooks: () => embedding.authenticates(),
      haveHooksProof: () => embedding.provesNames(),
      certificateUser: config.certificateUser,
      certificateClient: config.certificateClient,
      shownBy: ({ outbox }) => shownIn(outbox.socket),
      foreign: new ForeignLinks(
        config,
        foreignEvents(this.#log, this.metrics, () => this.#looks()),
      ),
      hasStoredRules: config.storedRules === 'on',
      hasStoredUsers: config.storedUsers === 'on',
      events: accessEvents(this.#log, (key, problem) => this.#onDamaged({ key, problem })),
      stand: (guard) => this.gate.setStanding(config.tenants === 'on' ? [tenantWall, guard] : [guard]),
    })
    this.#damagedFiles = new DamagedFiles(this.#log, this.metrics)
    this.#operated = this.#operatedBy(embedding)
    this.#hear<{ cause: string; count: number }>('shed', ({ cause, count }) =>
      this.metrics.dropped.inc(
        { cause, qos: cause.startsWith('full-') ? 1 : cause === 'ended-session' ? 2 : 0 },
        count,
      ),
    )
    this.#hear<{ count: number }>('givenBack', ({ count }) => this.metrics.givenBack.inc(count))
    this.#hear('unretained', () => this.metrics.refused.inc({ cause: 'retained' }))
    this.#hear('willsLeft', () => {
      this.metrics.willsLeft.inc()
      this.#log.eventPerMinute('wills-left', '', {})
    })
    this.#hear('inboxSealed', () => this.metrics.sealed.inc())
    this.#hear<{ key: string; problem: string }>('damaged', (damage) => this.#onDamaged(damage))
    this.#hear<{ where: string }>('garbage', ({ where }) => this.metrics.garbage.inc({ where }))
    this.#hear<{ where: string; id: string }>('later', ({ where, id }) => {
      this.metrics.later.inc({ where })
      this.#log.eventPerMinute('later', where, { where, id })
    })
    this.#hear<{ where: string; error: unknown }>('failed', ({ where, error }) => {
      this.metrics.failed.inc({ where })
      const [reason, at] =
        error instanceof Error ? (error.stack ?? error.message).split('\n') : [String(error)]
      this.#log.eventPerMinute('message-failed', `${reason}${at}`, { where, reason, at: at?.trim() })
    })
    this.#unsubscribe.push(observe(this.#reports, this.#log, this.metrics))
    if (embedding.onEnd !== undefined)
      this.#reports.onEnd = (bug) => this.#onEnd(bug, (what) => embedding.onEnd?.(what))
  }

  /** It cannot go on: nothing more is taken or acknowledged, then the program that embeds it is told, once. */
  #onEnd(bug: unknown, tell: (bug: unknown) => void): void {
    this.#reports.onEnd = () => undefined
    const reason = bug instanceof Error ? (bug.stack ?? bug.message) : String(bug)
    this.#log.event('node-failed', { reason })
    for (const listener of this.#listeners) listener.close()
    this.#boot?.engine.cutAll().catch(() => undefined)
    tell(bug)
  }

  /** What whoever operates it sees of it, and does with it. */
  #operatedBy(embedding: Embedding): NodeAdmin {
    const [boot, endpoints, bans] = [() => this.#boot, () => this.endpoints, () => this.bans]
    const [address, isDrained] = [() => this.#address, () => this.#draining === 'done']
    return new NodeAdmin({
      config: this.config,
      traces: this.#traces,
      traffic: this.metrics.traffic,
      get boot() {
        return boot()
      },
      get endpoints() {
        return endpoints()
      },
      get bans() {
        return bans()
      },
      get hasHooks() {
        return embedding.hasHooks()
      },
      get address() {
        return address()
      },
      get isDrained() {
        return isDrained()
      },
      readiness: () => this.readiness(),
      store: () => ({
        label: this.#store.label,
        isStoring: this.#bridge?.isStoring === true,
        waiting: this.#bridge?.waiting,
      }),
      advice: async () => [
        ...adviceOn(this.config),
        ...(await this.#store.advice()),
        ...(await this.#store.adviceOnNodes()),
        ...(await this.#store.health()),
        ...descriptorAdvice(this.#descriptors, this.config.connectionsMax),
      ],
      publishMessage: (message, tenant) => this.publishMessage(message, tenant),
      subscribeMessages: (filter, handle, tenant) => this.subscribeMessages(filter, handle, tenant),
      drain: (perSecond) => this.#drain(perSecond),
      reload: () => this.reload(true),
      did: (by, what, fields) =>
        this.#log.event('by-operator', { by, what, ...fields }, `by the admin API: ${what}`),
      failed: (error) => this.#reports.tell('failed', { where: 'admin', error }),
    })
  }

  #hear<Event extends object>(name: ChannelName, heard: (event: Event) => void): void {
    this.#unsubscribe.push(this.#reports.hear(name, heard))
  }

  /**
   * Starts a node: resolves when it serves clients. When Redis lets it not, it waits, and says so.
   * @param interrupted ends a start that waits: then there is no node
   * @param onAdmin the admin endpoint answers, also while the node waits for its store
   * @throws OperatorError when Redis cannot be reached at all, a node of this name is alive or an address
   * cannot be listened on;
   *   nothing is left running
   */
  static async start(config: Config, interrupted?: undefined, embedding?: Embedding): Promise<Node>
  static async start(
    config: Config,
    interrupted: Promise<void>,
    embedding?: Embedding,
    onAdmin?: (url: string) => void,
  ): Promise<Node | undefined>
  static async start(
    config: Config,
    interrupted?: Promise<void>,
    embedding?: Embedding,
    onAdmin?: (url: string) => void,
  ): Promise<Node | undefined> {
    const node = new Node(config, embedding)
    embedding?.attach(node.gate)
    const starting = asOperator(config, node.#store, () => node.#start(onAdmin))
    try {
      await Promise.race(interrupted === undefined ? [starting] : [starting, interrupted])
      if (node.#state !== 'starting') return node
      await node.stop()
      // It was ended, whatever it says. A store that is asked for the first time may have a minute for its answer.
      await Promise.race([starting.catch(() => undefined), after(leaveMs)])
      return undefined
    } catch (error) {
      await node.stop()
      throw error
    }
  }

  /** The admin endpoint first: who watches a start sees what it waits for, rather than nothing. */
  async #start(onAdmin?: (url: string) => void): Promise<void> {
    // ahead of reading them: a start may wait for its store, and they may change meanwhile
    this.#watched = new WatchedFiles(watchedFilesOf(this.config), () => void this.reload())
    this.#access.load(accessFilesOf(this.config))
    this.#operated.loadTokens(adminTokensOf(this.config))
    this.#admin = await openAdmin(this.config, this, this.#log)
    if (this.#admin !== undefined) onAdmin?.(this.#admin.url)
    this.#opening = { since: performance.now() }
    const endHearing = this.#reports.hear<WaitReport>('waiting', (report) => {
      this.#opening.said = report
    })
    const bridge = (this.#bridge = await this.#store.open({
      reports: this.#reports,
      onWarning: (text) => this.#log.event('advice', {}, text),
      onError: oncePerCause((cause) => this.#log.event('store-error', { error: cause }, this.#store.label)),
    }))
    endHearing()
    if (this.#state !== 'starting') return bridge.close() // interrupted meanwhile
    await this.#hearStored(bridge)
    this.#advise([...adviceOn(this.config), ...(await this.#store.advice())])
    const boot = await this.#join(bridge)
    if (this.#state !== 'starting') return void (await Promise.all([boot.engine.close(), boot.plane.close()]))
    this.#boot = boot
    this.#advise(await this.#store.adviceOnNodes())
    if (this.config.tenants === 'on') await this.#sayUntenanted(boot.plane)
    await this.#untilStoring(bridge)
    if (this.#state !== 'starting') return // `stop` has ended the boot
    const told = isTold(this.config)
    bridge.emitter.on('$SYS/#', (topic, payload) => {
      if (!told(topic)) return
      const inside = this.config.tenants === 'on' ? inItsTenant(topic, payload) : undefined
      this.#boot?.router.deliver(Message.ofBroker(inside?.topic ?? topic, inside?.payload ?? payload))
    })
    this.#unsubscribe.push(this.#operated.tellCounts())
    await this.#open()
  }

  /** Users and rules in the store, where they are asked for: before anybody may connect. */
  async #hearStored({ storedAccess }: Bridge): Promise<void> {
    const { storedUsers, storedRules } = this.config
    if (storedAccess === undefined || (storedUsers === 'off' && storedRules === 'off')) return
    this.#access.ask(storedAccess)
    await storedAccess.hear(async () => {
      await this.#access.loadStored(this.connections)
      this.#looks(() => this.#access.loadStored(this.connections))
    })
  }

  #advise(lines: readonly string[]): void {
    for (const line of lines) this.#log.event('advice', {}, line)
  }

  /** What was made before tenants were on is nobody's: no client can name it, and it ends in its time. */
  async #sayUntenanted(plane: Cluster): Promise<void> {
    const page = await plane.inspection.sessions('', untenantedLookedAt).catch(() => undefined)
    const sessions = page?.entries.filter(({ clientId }) => tenantOfName(clientId) === undefined).length ?? 0
    const retained = await (await plane.topics('#')).next() // of a tenant none matches
    if (sessions === 0 && retained.done === true) return
    this.#advise([
      `${sessions} sessions${retained.done === true ? '' : ' and Retained Messages'} were made before tenants were on, and are of none: no client meets them. Sessions end in their time, Retained Messages are cleared with tenants off`,
    ])
  }

  /**
   * Who says that it serves is ready: in a Redis Cluster the probe makes its connections to the masters when
   * it first needs them.
   */
  async #untilStoring(bridge: Bridge): Promise<void> {
    for (let tries = 0; this.#state === 'starting'; tries++) {
      if (
        await bridge.probe().then(
          () => true,
          () => false,
        )
      )
        return // what refuses it is named by then
      await retryPause(tries)
    }
  }

  async #join(bridge: Bridge): Promise<Boot> {
    const { gate } = this
    const clients = clientEvents(this.#log, this.metrics, this.#traces)
    const events: RouterEvents = {
      onPublish: (qos) => this.metrics.publish(qos),
      onDrop: (cause, qos) => this.metrics.dropped.inc({ cause, qos }),
      onRefusal: (cause) => this.metrics.refused.inc({ cause }),
      onFailed: (error) => this.#reports.tell('failed', { where: 'delivery', error }),
      onHeldBack: (cause) => this.metrics.heldBack.inc({ cause }),
      onHoldsOn: ({ clientId }, topic) =>
        this.#log.eventPerMinute('subscriber-slow', clientId, { client: clientId, topic }),
      onClient: (connection) => {
        clients.onClient(connection)
        gate.accepted?.(connection)
      },
      onClientError: (connection, error) => {
        clients.onClientError(connection, error)
        gate.failed?.(connection, error)
      },
      onEnd: (connection) => {
        clients.onEnd(connection)
        this.#operated.ended(connection)
        gate.ended?.(connection, connection.isConnected)
      },
      onError: (error) => this.#log.event('engine-error', { error: error.message }),
      onFenced: () => this.#onFenced(),
    }
    const router = new Router(this.config, events, this.gate, this.metrics.traffic, this.#traces)
    const plane = await bridge.join(router, this.#ended.signal)
    const engine = new Engine(this.config.id, bridge, this.config, router)
    router.attach(plane, engine.connections)
    this.#operated.joined(plane)
    if (this.#draining !== 'no') {
      engine.elsewhere = this.#elsewhere // this boot follows one that was fenced
      engine.sendElsewhere()
    }
    try {
      await engine.listen()
      await this.#local.attach(router)
    } catch (error) {
      // it has joined: nobody else would let it leave
      await Promise.all([engine.close(), plane.close()])
      throw error
    }
    return { plane, engine, router }
  }

  #onFenced(): void {
    if (this.#state !== 'serving') return // `#serve` looks
    this.#startAgain().catch((error: unknown) => {
      if (this.#state === 'fenced') throw error
    })
  }

  /** From now on clients are served; a boot that was declared dead before that is answered now. */
  #serve(): void {
    this.#state = 'serving'
    if (this.#boot!.plane.isFenced) this.#onFenced()
  }

  /** This boot was declared dead: nothing of it may go on. Its connections are cut, and a new boot begins. */
  async #startAgain(): Promise<void> {
    this.#state = 'fenced'
    this.#local.detach()
    const { engine, plane } = this.#boot!
    this.#log.event('fenced', { boot: plane.nodeId })
    await engine.cutAll()
    await Promise.all([engine.close(), plane.close()])
    const boot = await this.#rejoin()
    // stopped meanwhile, with the boot before
    if (this.#state !== 'fenced') return void (await Promise.all([boot.engine.close(), boot.plane.close()]))
    this.#boot = boot
    this.#log.event('serving-again', { boot: boot.plane.nodeId })
    this.#serve()
  }

  /**
   * Joins again, for as long as it takes: Redis may go away between leaving and joining, and the old lease
   * live on for a while.
   */
  async #rejoin(): Promise<Boot> {
    for (let tries = 0; ; tries++) {
      try {
        return await this.#join(this.#bridge!)
      } catch (error) {
        if (!(error instanceof BridgeError) || this.#state !== 'fenced') throw error
        this.#log.eventPerMinute('rejoin-waits', error.code, { error: error.message })
        await retryPause(tries)
      }
    }
  }

  async #open(): Promise<void> {
    const places = (this.#descriptors = new Descriptors())
    const events = doorEvents(this.#log, this.metrics, places)
    const { addressConnectionsMax } = this.config
    const addresses = addressConnectionsMax === undefined ? undefined : new Counts(addressConnectionsMax)
    for (const config of this.#listens ? this.config.listeners : []) {
      const onConnection: OnConnection = (connection, handedOver, request) =>
        this.#accept(connection, handedOver, request, config)
      this.#listeners.push(await listen({ config, places, events, addresses, onConnection }))
    }
    this.#log.event('serving', {
      listen: this.endpoints,
      admin: this.#admin?.url,
      nodes: this.#boot!.plane.nodes,
    })
    if (this.#store.notice !== undefined) this.#log.event('notice', {}, this.#store.notice)
    sayLowLimit(this.#log, places)
    places.watch(descriptorEvents(this.#log, places))
    this.#serve()
  }

  /**
   * Files of users, rules or certificates are others by now, and with `isAll` maybe options: of one that is not in order
   * what it said before holds, and the others are read all the same.
   */
  reload(isAll = false): Reloaded {
    const done: Reloaded = { options: [], later: [], problems: [] }
    const tell = (what: string, problem: Error | undefined): void => {
      if (problem !== undefined) done.problems.push(`${what}: ${problem.message}`)
      this.#damagedFiles.tell(what, problem)
    }
    const tried = (what: string, read: () => void): void => {
      try {
        read()
        this.#log.event('reloaded', { what })
        tell(what, undefined)
      } catch (error) {
        tell(what, error as Error)
      }
    }
    const { source } = this
    if (isAll && source !== undefined)
      tried('options', () => {
        const { now, later } = changeTo(this.config, source())
        done.options.push(...now)
        done.later.push(...later)
        if (now.length > 0) this.#log.event('options-changed', { options: now })
        if (later.length > 0) this.#log.event('options-wait', { options: later })
      })
    for (const listener of this.#listeners) tried(`certificate of ${listener.url}`, () => listener.renew())
    if (this.#admin !== undefined) tried('certificate of the admin endpoint', () => this.#admin?.renew())
    tried('admin tokens', () => this.#operated.loadTokens(adminTokensOf(this.config)))
    this.#access.load(accessFilesOf(this.config, tell))
    this.#log.event('reloaded', { what: 'users and rules' })
    this.#looks()
    return done
  }

  /**
   * At everybody, since users or rules are others. What is granted in this very moment by what held before, by a hook or a
   * password that takes its time, is found by a second look.
   * @param again ahead of the second one
   */
  #looks(again: () => Promise<void> = () => Promise.resolve()): void {
    void this.#boot?.engine.lookAgain()
    clearTimeout(this.#lookingAgain)
    const look = (): void => {
      again().then(
        () => this.#boot?.engine.lookAgain(),
        () => this.#looks(again), // the store does not answer: later
      )
    }
    this.#lookingAgain = setTimeout(look, this.config.decisionTimeoutMs + lookAgainMs).unref()
  }

  #accept(
    stream: Duplex,
    handedOver: HandedOver,
    request?: IncomingMessage,
    listener?: ListenerConfig,
  ): Connection | undefined {
    if (this.#state === 'starting' || this.#state === 'serving')
      return this.#boot!.engine.handle(stream, handedOver, request, listener)
    return void stream.destroy() // a handshake of TLS or WebSocket that began before
  }

  /**
   * Publishes a message, as a client does.
   * @returns resolves when it is stored for everybody who is subscribed, at once for QoS 0 that is not
   * retained
   * @throws TypeError when the topic is none; Error when the node does not serve, or ends meanwhile
   */
  publish(topic: string, payload: Buffer | string, options?: PublishOptions): Promise<void> {
    return this.#local.publish(topic, payload, options)
  }

  publishMessage(message: Message, tenant?: string): Promise<void> {
    return this.#local.publishMessage(message, tenant)
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
  ): Promise<() => void> {
    return this.#local.subscribe(filter, handle, options)
  }

  /** The same, for whole messages. */
  subscribeMessages(
    filter: string,
    handle: (message: Message) => void,
    tenant?: string,
  ): Promise<() => void> {
    return this.#local.subscribeMessages(filter, handle, 2, tenant)
  }

  /** Serves a connection that the program accepted itself: an HTTP upgrade, a socket of another kind. */
  handle(stream: Duplex, request?: IncomingMessage): Connection | undefined {
    return this.#accept(stream, { withinMs: this.config.connectTimeoutMs, peer: undefined }, request)
  }

  get bans(): BanChanges {
    return this.#bridge!.bans
  }

  get connections(): Iterable<Connection> {
    return this.#boot?.engine.connections ?? []
  }

  #countGroups(): void {
    let [messages, bytes] = [0, 0]
    for (const backlog of this.#boot?.plane.groups.counts.values() ?? []) {
      messages += backlog.messages
      bytes += backlog.bytes
    }
    this.metrics.groupMembers.set(this.#boot?.router.groupMembers ?? 0)
    this.metrics.groupMessages.set(messages)
    this.metrics.groupBytes.set(bytes)
    const unstored = this.#boot?.plane.unstored
    this.metrics.unstored.set(unstored?.deliveries ?? 0)
    this.metrics.unstoredBytes.set(unstored?.bytes ?? 0)
  }

  /** What /metrics shows. */
  metricsText(): Promise<string> {
    const { clientBytes, nodes, connections, sockets, socketsMax, storeUp, waiting, waitingSeconds } =
      this.metrics
    connections.set(this.#boot?.engine.clientCount ?? 0)
    sockets.set(this.#descriptors?.open ?? 0)
    socketsMax.set(this.#descriptors?.max ?? Infinity)
    nodes.set(this.#boot?.plane.nodes.length ?? 0)
    storeUp.set(this.#bridge?.isStoring === true ? 1 : 0)
    this.metrics.probeSeconds.set((this.#bridge?.probeMs ?? 0) / 1_000)
    this.metrics.retainedTopics.set(this.#boot?.plane.retainedTopics ?? 0)
    this.metrics.routingBytes.set(this.#boot?.plane.routingBytes ?? 0)
    this.metrics.subscriptions.set(this.#boot?.router.subscriptions ?? 0)
    const { seconds, ...counts } = this.#bridge?.waiting ?? {
      publishers: 0,
      connects: 0,
      writes: 1,
      wills: 0,
      seconds: this.#openingSeconds,
    }
    for (const [who, count] of Object.entries(counts)) waiting.set({ who }, count)
    waitingSeconds.set(seconds)
    clientBytes.set(this.#boot?.router.holdings.bytes ?? 0)
    const slow = this.#boot?.router.slowCounts
    this.metrics.slowSubscribers.set(slow?.subscribers ?? 0)
    this.metrics.heldTopics.set(slow?.topics ?? 0)
    this.#countGroups()
    this.metrics.showTenants(this.#boot?.router.tenants.most(tenantsShown) ?? [])
    return this.metrics.text()
  }

  /** The routes of the cluster as this node knows them: what /routes shows. */
  routes(): RoutesOfNode {
    const plane = this.#boot?.plane
    return { node: plane?.nodeId ?? '', nodes: [...(plane?.nodes ?? [])].sort(), routes: plane?.routes ?? [] }
  }

  answer(request: IncomingMessage, response: ServerResponse, keep: () => void): Promise<void> {
    return this.#operated.answer(request, response, keep)
  }

  routesText(limit: number): AsyncIterable<string> {
    return routesText(this.routes(), limit)
  }

  /**
   * Not ready from now on, no connection any more, and so many clients a second are told to go; the node stays one of the
   * cluster until it is stopped. @returns how many clients it has
   */
  #drain(perSecond = this.config.drainRate): number {
    const boot = this.#boot
    const clients = boot?.engine.clientCount ?? 0
    if (this.#draining !== 'no' || boot === undefined) return clients
    this.#draining = 'begun'
    this.#log.event('draining', { clients, perSecond })
    void this.#evacuate(boot, perSecond)
    return clients
  }

  /**
   * Who connects meanwhile is told where else to go. Where nobody knows, listeners are closed: whoever balances, or a
   * client that has several addresses, asks the next node, and no CONNECT is refused.
   */
  async #evacuate({ engine, router }: Boot, perSecond: number): Promise<void> {
    this.#elsewhere = engine.elsewhere = await this.#addressesElsewhere()
    if (!engine.sendElsewhere()) for (const listener of this.#listeners) listener.close()
    await engine.drain(perSecond)
    await router.settled()
    this.#draining = 'done'
    this.#log.event('drained', {})
  }

  /** Of the other nodes that serve, as far as they say so at once. */
  async #addressesElsewhere(): Promise<readonly string[]> {
    const { advertisedAddress, serverReference } = this.config
    const plane = this.#boot?.plane
    if (advertisedAddress === undefined || serverReference !== undefined || plane === undefined) return []
    const others = plane.nodes.filter((nodeId) => nodeId !== plane.nodeId)
    const { answered } = await askNodes(plane.requests, 'address', {}, addressesMs, others)
    return [...answered.values()].flatMap(({ address }) => (address === undefined ? [] : [address]))
  }

  /** Where clients may be sent by others. */
  get #address(): string | undefined {
    return this.#state === 'serving' && this.#draining === 'no' ? this.config.advertisedAddress : undefined
  }

  get #openingSeconds(): number {
    return (performance.now() - this.#opening.since) / 1_000
  }

  /** What the store says before it has said anything. */
  get #openingText(): string {
    const { said } = this.#opening
    if (said === undefined) return 'is being asked for the first time'
    return waitingText({ ...said, seconds: Math.round(this.#openingSeconds * 10) / 10 })
  }

  #onDamaged({ key, problem }: { readonly key: string; readonly problem: string }): void {
    this.metrics.damaged.inc()
    this.#damage = { what: `${key}: ${problem}`, at: performance.now() }
    this.#log.event('damaged', { key, problem })
  }

  /** Where clients can connect, with real port numbers. */
  get endpoints(): string[] {
    return this.#listeners.map((listener) => listener.url)
  }

  get adminUrl(): string | undefined {
    return this.#admin?.url
  }

  /** What /readyz says: a write is tried each time, with a deadline, and what is waited for is named. */
  async readiness(): Promise<Readiness> {
    const bridge = this.#bridge
    const stores =
      bridge === undefined
        ? this.#openingText
        : await bridge.probe().then(
            () => 'ok',
            (error: unknown) => problemOf(error as BridgeError),
          )
    const node = this.#state !== 'serving' ? this.#state : this.#draining === 'no' ? 'ok' : 'is drained'
    // Damaged data make a node no less ready: what could not be mended is the same for all nodes.
    const data = performance.now() - this.#damage.at < damageToldMs ? this.#damage.what : undefined
    const files = this.#damagedFiles.text
    const named = bridge?.named ?? []
    const descriptors = this.#descriptors?.isExhausted === true ? noDescriptors : 'ok'
    const slow = this.#boot?.router.slowCounts
    const waiting = [
      ...named.map((report) => waitingText(report)),
      ...(slow === undefined || slow.topics === 0
        ? []
        : [`publishers on ${slow.topics} topics wait for clients that read slower than they publish.`]),
    ]
    return {
      ready:
        stores === 'ok' &&
        node === 'ok' &&
        descriptors === 'ok' &&
        !named.some(({ kind }) => isOfStore(kind)),
      checks: {
        [this.#store.label]: stores,
        node,
        ...(descriptors === 'ok' ? {} : { descriptors }),
        ...(data === undefined ? {} : { data }),
        ...(files === undefined ? {} : { files }),
        ...(waiting.length === 0 ? {} : { waiting: waiting.join(' ') }),
      },
    }
  }

  /** Clients are told to go, so many a second, and all who are left when half of the time is over. */
  async #tellAll({ engine }: Boot): Promise<void> {
    const { drainRate, shutdownMs } = this.config
    if (this.#draining === 'no') engine.elsewhere = await this.#addressesElsewhere()
    await engine.disconnectAll(drainRate, shutdownMs / 2)
  }

  /**
   * Resolves when the store does not answer, or refuses to store, while the node stops: nobody knows for how long, and
   * a stop does not wait for it.
   */
  async #storeGone(): Promise<void> {
    const bridge = this.#bridge
    while (bridge !== undefined && this.#state === 'stopping') {
      if (bridge.named.some(({ kind }) => isOfStore(kind))) return
      const stores = await Promise.race([
        bridge.probe().then(
          () => true,
          () => false,
        ),
        after(storeAnswersMs),
      ])
      if (stores !== true) return
      await after(askAgainMs)
    }
  }

  /**
   * Stops gracefully: not ready → listeners closed → clients told to go, drainRate of them a second → closed, within
   * `shutdownMs` → left, within a second more → the store closed, within another. Without its store it ends
   * as soon as the clients are told: what waited was not acknowledged. Ends a start that is under way. Safe
   * to call twice.
   */
  async stop(): Promise<void> {
    if (this.#state === 'stopping' || this.#state === 'stopped') return
    const wasServing = this.#state !== 'starting'
    this.#state = 'stopping'
    this.#ended.abort()
    this.#watched?.close()
    this.#access.close()
    clearTimeout(this.#lookingAgain)
    this.#traces.close()
    this.#local.detach()
    const deadline = after(this.config.shutdownMs)
    for (const listener of this.#listeners) listener.close()
    this.#descriptors?.close()
    const boot = this.#boot
    const gone = this.#storeGone()
    const away = gone.then(() => after(awayMs))
    if (boot !== undefined) {
      await Promise.race([
        deadline,
        this.#tellAll(boot)
          .then(() => boot.engine.close())
          .then(() => Promise.race([gone, boot.router.settled()])),
      ])
      // Whoever is late: the others would wait for the end of our lease, and so would wills.
      const late = Promise.all([deadline, after(leaveMs)])
      await Promise.race([late, away, boot.plane.close()])
    }
    // Whatever time that took: the file of a node without Redis is another one's only when it is closed.
    await Promise.race([after(leaveMs), this.#bridge?.close()])
    await this.#admin?.close()
    for (const unsubscribe of this.#unsubscribe.splice(0)) unsubscribe()
    this.#state = 'stopped'
    if (wasServing) this.#log.event('stopped', {})
    await this.#log.close()
  }
}

const after = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms).unref())

/**
 * Passes an error on when its message differs from the last: Redis away for an hour is one line, not
 * thousands.
 */
function oncePerCause(report: (cause: string) => void): (error: Error) => void {
  let last = ''
  return ({ message }) => {
    if (message !== last) report(message)
    last = message
  }
}

/** Runs `start` with the bridge's errors as the operator's. */
async function asOperator<T>(config: Config, store: Store, start: () => Promise<T>): Promise<T> {
  try {
    return await start()
  } catch (error) {
    if (error instanceof OperatorError) throw atSource(config, error)
    if (!(error instanceof BridgeError)) throw error
    throw operatorErrorOf(config, store, error)
  }
}
