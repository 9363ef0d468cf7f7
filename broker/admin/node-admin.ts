// What a node is to whoever operates it: it answers the questions of other nodes, and the admin API. State: the last
// connections that ended; who may use the API; the API once somebody asked for it.
import type { IncomingMessage, ServerResponse } from 'node:http'
import { performance, type EventLoopUtilization } from 'node:perf_hooks'
import {
  BridgeError,
  Message,
  Slice,
  type BanChanges,
  type Cluster,
  type Waiting,
} from '../../bridge/index.ts'
import type { Engine } from '../aedes/engine.ts'
import type { Config } from '../config/config.ts'
import type { Reloaded } from '../config/reload.ts'
import type { Connection } from '../connection/connection.ts'
import {
  allowedProperties,
  propertyIds,
  scanProperties,
  variableLength,
  writeVariable,
} from '../protocol/properties.ts'
import type { Router } from '../routing/router.ts'
import { countsOf, tellCounts, type SystemCounts } from '../observe/system-counts.ts'
import type { Traces } from '../observe/traces.ts'
import type { Traffic } from '../observe/traffic.ts'
import { PacketType } from '../protocol/control-packets.ts'
import { version } from '../version.ts'
import type { ApiNode, Handle } from './api.ts'
import { ClusterView } from './cluster-answers.ts'
import { slowest } from './connections.ts'
import { Departures } from './departures.ts'
import { Guard, isOpenFor } from './guard.ts'
import {
  answerQuestion,
  nameOf,
  type AskedNode,
  type Finding,
  type NodeFacts,
  type Questions,
  type Subscribing,
  type TopFacts,
} from './questions.ts'
import type { Readiness } from './server.ts'
import { Tokens } from './tokens.ts'

/** The node, as it runs. */
export interface RunningNode {
  readonly config: Config
  readonly traces: Traces
  readonly traffic: Traffic
  /** Undefined: it starts, or begins anew. */
  readonly boot: { readonly plane: Cluster; readonly engine: Engine; readonly router: Router } | undefined
  readonly bans: BanChanges
  /** Whether a program decides who clients are. */
  readonly hasHooks: boolean
  readonly endpoints: readonly string[]
  readiness(): Promise<Readiness>
  store(): { readonly label: string; readonly isStoring: boolean; readonly waiting: Waiting | undefined }
  /** Lines about what should be otherwise: what it is, and what to do. */
  advice(): Promise<readonly string[]>
  publishMessage(message: Message, tenant: string | undefined): Promise<void>
  subscribeMessages(
    filter: string,
    handle: (message: Message) => void,
    tenant: string | undefined,
  ): Promise<() => void>
  /** Where clients of other nodes may be sent; undefined: nowhere. */
  readonly address: string | undefined
  /** It was drained, and neither a client is left nor a session of one. */
  readonly isDrained: boolean
  /** @returns how many clients it has */
  drain(perSecond: number | undefined): number
  /** Reads options, users, rules, certificates and tokens again. */
  reload(): Reloaded
  did(by: string, what: string, fields: Readonly<Record<string, unknown>>): void
  failed(error: Error): void
}

/** PUBLISH properties that a message keeps: the others are of one delivery. */
const kept = new Set(
  [...allowedProperties.publish].filter(
    (id) =>
      id !== propertyIds.topicAlias &&
      id !== propertyIds.messageExpiryInterval &&
      id !== propertyIds.subscriptionIdentifier,
  ),
)

/** @throws ProtocolViolation when they are none of a message */
function checkProperties(properties: Buffer): void {
  const whole = Buffer.alloc(variableLength(properties.length) + properties.length)
  properties.copy(whole, writeVariable(whole, properties.length, 0))
  scanProperties(whole, 0, whole.length, kept)
}

export class NodeAdmin implements AskedNode {
  readonly #node: RunningNode
  readonly #departures = new Departures()
  readonly #guard: Guard
  #api: Promise<Handle> | undefined
  #utilization: EventLoopUtilization | undefined

  constructor(node: RunningNode) {
    this.#node = node
    this.#guard = new Guard(() => isOpenFor(node.config) && !node.hasHooks)
  }

  /** @param text of the file of tokens; undefined: there is none */
  loadTokens(text: string | undefined): void {
    this.#guard.tokens = text === undefined ? undefined : new Tokens(text)
  }

  /** A boot has joined: it answers the others. */
  joined({ requests }: Cluster): void {
    requests.answerWith((request) => answerQuestion(this, request))
  }

  ended({ clientId, address, endReason, since, isConnected }: Connection): void {
    if (!isConnected) return
    const at = performance.now()
    this.#departures.add(clientId, {
      reason: endReason === '' ? 'its socket was closed, without DISCONNECT' : endReason,
      address,
      at,
      connectedSeconds: Math.floor((at - since) / 1_000),
    })
  }

  // What it answers of itself

  get hasTenants(): boolean {
    return this.#node.config.tenants === 'on'
  }

  get connections(): Iterable<Connection> {
    return this.#node.boot?.engine.connections ?? []
  }

  connectionOf(clientId: string): Connection | undefined {
    return this.#node.boot?.engine.connectionOf(clientId)
  }

  departureOf(clientId: string): ReturnType<Departures['of']> {
    return this.#departures.of(clientId)
  }

  async facts(): Promise<NodeFacts> {
    const { ready, checks } = await this.#node.readiness()
    const before = this.#utilization
    const now = (this.#utilization = performance.eventLoopUtilization())
    return {
      version: version(),
      uptimeSeconds: Math.floor(process.uptime()),
      isReady: ready,
      isDrained: this.#node.isDrained,
      checks,
      listen: this.#node.endpoints,
      connections: this.#node.boot?.engine.clientCount ?? 0,
      memoryBytes: process.memoryUsage.rss(),
      loopUtilization: performance.eventLoopUtilization(now, before).utilization,
    }
  }

  /** Without those that have a queue: the cluster's routes name them. */
  async subscribersOf(topic: string): Promise<readonly Subscribing[]> {
    const making = this.#node.boot?.router.subscribersOf(topic)
    const slice = new Slice()
    for (;;) {
      const matches = making === undefined ? [] : making.goOn(slice)
      if (matches !== undefined)
        return matches
          .filter(({ queued }) => queued !== 'yes')
          .map(({ subscriber, qos }) => ({ clientId: subscriber.clientId, qos }))
      await slice.next()
    }
  }

  /** A line of advice is what it is, and after the first full stop what to do. */
  async findings(): Promise<readonly Finding[]> {
    const { checks } = await this.#node.readiness()
    const wrong = Object.entries(checks).filter(([, state]) => state !== 'ok')
    const lines = [...(await this.#node.advice()), ...wrong.map(([check, state]) => `${check}: ${state}`)]
    return lines.map((line) => {
      const [, what, todo] = /^(.*?)(?:\. (.*))?$/s.exec(line)!
      return { what: what!, todo: todo ?? 'See the log of the node' }
    })
  }

  get address(): string | undefined {
    return this.#node.address
  }

  counts(): SystemCounts {
    const { boot, traffic } = this.#node
    return countsOf(traffic, {
      clients: boot?.engine.clientCount ?? 0,
      subscriptions: boot?.router.subscriptions ?? 0,
      retained: boot?.plane.retainedTopics ?? 0,
    })
  }

  /** Tells them to the subscribers of this node, until it is ended. */
  tellCounts(): () => void {
    const { config } = this.#node
    const view = new ClusterView(() => this.#node.boot?.plane)
    return tellCounts(config.sysIntervalSeconds, Object.keys(this.counts()), {
      get nodes() {
        return view.knownNodes.map(nameOf)
      },
      isWanted: (topic) => this.#node.boot?.plane.isWanted(topic) === true,
      ask: async () => {
        const { answered } = await view.ask('counts', {})
        return new Map([...answered].map(([nodeId, counts]) => [nameOf(nodeId), counts]))
      },
      tell: (topic, value) => this.#node.boot?.router.deliver(Message.ofBroker(topic, Buffer.from(value))),
    })
  }

  /** @throws Error when it counts as often at once as it may */
  async top(ms: number, limit: number): Promise<TopFacts> {
    const { traces, traffic } = this.#node
    const counts = (): number[] => [
      traffic.received[PacketType.publish]!,
      traffic.receivedBytes,
      traffic.sent[PacketType.publish]!,
      traffic.sentBytes,
    ]
    const [before, since] = [counts(), performance.now()]
    const { topics, publishers, receivers } = await traces.busiest(ms)
    const seconds = (performance.now() - since) / 1_000
    const [received, receivedBytes, sent, sentBytes] = counts().map((count, i) => count - before[i]!)
    return {
      seconds,
      received: received!,
      receivedBytes: receivedBytes!,
      sent: sent!,
      sentBytes: sentBytes!,
      topics: topics.top(limit),
      publishers: publishers.top(limit),
      receivers: receivers.top(limit),
      slow: await slowest(this.connections, limit),
    }
  }

  /** @throws Error when it follows as many traces as it may */
  async trace({
    id,
    wish,
    after,
    isOver,
  }: Questions['trace']['asks']): Promise<Questions['trace']['answers']> {
    const { traces, boot } = this.#node
    if (!isOver && boot !== undefined) return traces.ask(id, wish, after, boot.plane.inspection)
    traces.end(id)
    return { lines: [], last: after, leftOut: 0 }
  }

  drain(perSecond: number | undefined, by: string): number {
    this.#node.did(by, 'the node is drained', { perSecond })
    return this.#node.drain(perSecond)
  }

  reload(by: string): Reloaded {
    this.#node.did(by, 'the node reads its files again', {})
    return this.#node.reload()
  }

  // The API

  /** Loads the API with the first request. */
  async answer(request: IncomingMessage, response: ServerResponse, keep: () => void): Promise<void> {
    this.#api ??= import('./api.ts').then(({ createApi }) => createApi(this.#apiNode()))
    const handle = await this.#api
    handle(request, response, keep)
  }

  #apiNode(): ApiNode {
    const node = this.#node
    return {
      view: new ClusterView(() => node.boot?.plane),
      guard: this.#guard,
      version: version(),
      config: node.config,
      get bans() {
        return node.bans
      },
      store: async () => {
        const { label, isStoring, waiting } = node.store()
        if (waiting === undefined)
          throw new BridgeError('ERR_BRIDGE_CLOSED', 'the node has not reached its store yet')
        const { checks } = await node.readiness()
        const said = checks[label]
        return { store: label, isStoring, waiting, ...(said !== 'ok' && { problem: said }) }
      },
      publish: async (topic, payload, { qos, retain, properties, expirySeconds = -1, tenant }) => {
        if (properties !== undefined) checkProperties(properties)
        await node.publishMessage(
          Message.published(topic, payload, qos, retain, properties, expirySeconds, undefined),
          tenant,
        )
      },
      subscribe: (filter, handle, tenant) => node.subscribeMessages(filter, handle, tenant),
      did: (by, what, fields) => node.did(by, what, fields),
      failed: (error) => node.failed(error),
    }
  }
}
