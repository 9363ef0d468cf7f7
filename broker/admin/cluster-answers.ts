// What one node answers of its whole cluster: it asks the others (questions.ts), looks into the store, and puts the two
// together. Whoever did not answer is named beside what the others said. No state.
import {
  BridgeError,
  type Cluster,
  type QueuesLookedAt,
  type SessionFacts,
  type SessionRequest,
} from '../../bridge/index.ts'
import { withinDeadline } from '../connection/claim-deadline.ts'
import type { Busy } from '../observe/busiest.ts'
import type { ClientFilter, ConnectionFacts } from './connections.ts'
import {
  askNodes,
  nameOf,
  type ClientFacts,
  type DepartureFacts,
  type NodeFacts,
  type TopFacts,
  type Unanswered,
} from './questions.ts'

const withinMs = 2_000
/** A client that connects anew while its session is ended is told to go again, so often. */
const endsMax = 3
/** Sessions that are looked through for one page. */
const sessionsPerCall = 500
const sessionsLookedAtMax = 5_000

export type ListedClient =
  | (ConnectionFacts & { readonly node: string; readonly isConnected: true })
  | { readonly clientId: string; readonly isConnected: false }

export interface ClientsQuery extends ClientFilter {
  /** Name of a node. */
  readonly node?: string | undefined
  readonly state?: 'connected' | 'disconnected' | undefined
  readonly limit: number
  /** Where a page goes on, as the one before said. */
  readonly cursor?: string | undefined
}

export interface ClientsPage {
  readonly clients: readonly ListedClient[]
  /** Undefined: this was the last one. A page may be short, or empty, and have one. */
  readonly next: string | undefined
  readonly unanswered: readonly Unanswered[]
}

/** Where a page of clients goes on: at a node behind a connection, or among the sessions without one. */
type Place = { readonly node: string; readonly after: number } | { readonly stored: string }

const byName = (a: { readonly node: string }, b: { readonly node: string }): number =>
  a.node < b.node ? -1 : 1

const written = (place: Place): string => Buffer.from(JSON.stringify(place)).toString('base64url')

/** Undefined: it is no cursor of ours. */
function placeOf(cursor: string | undefined): Place | undefined {
  if (cursor === undefined) return { node: '', after: 0 }
  try {
    const place = JSON.parse(Buffer.from(cursor, 'base64url').toString()) as Partial<Record<string, unknown>>
    if (typeof place.stored === 'string') return { stored: place.stored }
    return typeof place.node === 'string' && typeof place.after === 'number'
      ? { node: place.node, after: place.after }
      : undefined
  } catch {
    return undefined
  }
}

const ratesOf = ({ seconds, received, receivedBytes, sent, sentBytes }: TopFacts) => ({
  receivedPerSecond: received / seconds,
  receivedBytesPerSecond: receivedBytes / seconds,
  sentPerSecond: sent / seconds,
  sentBytesPerSecond: sentBytes / seconds,
})

/** What several nodes have counted of one kind, by name. */
function busiestOf(
  said: readonly TopFacts[],
  of: (facts: TopFacts) => readonly Busy[],
  limit: number,
): object[] {
  const rates = new Map<
    string,
    { messagesPerSecond: number; bytesPerSecond: number; morePerSecond: number }
  >()
  for (const facts of said)
    for (const { name, messages, bytes, more } of of(facts)) {
      const before = rates.get(name)
      rates.set(name, {
        messagesPerSecond: (before?.messagesPerSecond ?? 0) + messages / facts.seconds,
        bytesPerSecond: (before?.bytesPerSecond ?? 0) + bytes / facts.seconds,
        morePerSecond: (before?.morePerSecond ?? 0) + more / facts.seconds,
      })
    }
  return [...rates]
    .map(([name, rate]) => ({ name, ...rate }))
    .sort((a, b) => b.messagesPerSecond - a.messagesPerSecond)
    .slice(0, limit)
}

/** What ends a session: whosever it is, nothing of it stays. */
const ending = (clientId: string): SessionRequest => ({
  clientId,
  cleanStart: true,
  expirySeconds: 0,
  will: undefined,
  mayTakeAnybodys: true,
})

export class ClusterView {
  readonly #plane: () => Cluster | undefined

  constructor(plane: () => Cluster | undefined) {
    this.#plane = plane
  }

  /** @throws BridgeError while the node starts, or begins anew */
  get plane(): Cluster {
    const plane = this.#plane()
    if (plane === undefined) throw new BridgeError('ERR_BRIDGE_CLOSED', 'the node does not serve yet')
    return plane
  }

  /** None while the node begins anew. */
  get knownNodes(): readonly string[] {
    return this.#plane()?.nodes ?? []
  }

  /** Rejects while the node starts, or begins anew. */
  ask: <K extends Parameters<typeof askNodes>[1]>(
    question: K,
    asked: Parameters<typeof askNodes<K>>[2],
    of?: readonly string[],
  ) => ReturnType<typeof askNodes<K>> = async (question, asked, of) =>
    askNodes(this.plane.requests, question, asked, withinMs, of)

  async nodes(): Promise<{
    readonly nodes: readonly ({ readonly node: string; readonly boot: string } & NodeFacts)[]
    readonly unanswered: readonly Unanswered[]
  }> {
    const { answered, unanswered } = await this.ask('node', {})
    const nodes = [...answered].map(([boot, facts]) => ({ node: nameOf(boot), boot, ...facts }))
    return { nodes: nodes.sort(byName), unanswered }
  }

  /**
   * A page of the clients of the cluster: those that are connected, node by node, then the sessions that nobody is
   * connected to. A client that moves meanwhile may be named twice, or not; all others once.
   * @returns undefined: `cursor` is none
   */
  async clients(query: ClientsQuery): Promise<ClientsPage | undefined> {
    const { client, user, address, state, limit } = query
    const place = placeOf(query.cursor)
    if (place === undefined) return undefined
    const found: ListedClient[] = []
    const unanswered: Unanswered[] = []
    if ('node' in place && state !== 'disconnected') {
      const nodes = [...this.plane.nodes].sort().filter((nodeId) => nodeId >= place.node)
      for (const nodeId of nodes) {
        const node = nameOf(nodeId)
        if (query.node !== undefined && query.node !== node) continue
        const after = nodeId === place.node ? place.after : 0
        if (found.length >= limit)
          return { clients: found, next: written({ node: nodeId, after }), unanswered }
        const asked = { filter: { client, user, address }, after, limit: limit - found.length }
        const said = await this.ask('clients', asked, [nodeId])
        unanswered.push(...said.unanswered)
        const page = said.answered.get(nodeId)
        for (const facts of page?.clients ?? []) found.push({ ...facts, node, isConnected: true })
        if (page?.next !== undefined)
          return { clients: found, next: written({ node: nodeId, after: page.next }), unanswered }
      }
    }
    // whoever has a node, a user or an address is connected
    if (state === 'connected' || [query.node, user, address].some((one) => one !== undefined))
      return { clients: found, next: undefined, unanswered }
    const next = await this.#stored('stored' in place ? place.stored : '', client, limit, found)
    return { clients: found, next: next === undefined ? undefined : written({ stored: next }), unanswered }
  }

  /** Adds the sessions that nobody is connected to. @returns where the next page begins */
  async #stored(
    from: string,
    client: string | undefined,
    limit: number,
    found: ListedClient[],
  ): Promise<string | undefined> {
    const { inspection } = this.plane
    if (client !== undefined && !client.endsWith('*')) {
      const session = await inspection.session(client)
      if (session !== undefined && session.nodeId === undefined)
        found.push({ clientId: client, isConnected: false })
      return undefined
    }
    let cursor: string | undefined = from
    for (let n = 0; cursor !== undefined && found.length < limit && n < sessionsLookedAtMax;) {
      const count = Math.min(sessionsPerCall, limit - found.length)
      const page = await inspection.sessions(cursor, count, client?.slice(0, -1))
      for (const { clientId, nodeId } of page.entries)
        if (nodeId === undefined) found.push({ clientId, isConnected: false })
      cursor = page.next
      n += count
    }
    return cursor
  }

  /** All that is known of one client; undefined: nobody has heard of it. */
  async client(
    clientId: string,
  ): Promise<
    | {
        readonly clientId: string
        readonly connection: (ClientFacts['connection'] & { readonly node: string }) | undefined
        readonly session: SessionFacts | undefined
        readonly lastDisconnect: (DepartureFacts & { readonly node: string }) | undefined
        readonly unanswered: readonly Unanswered[]
      }
    | undefined
  > {
    const [{ answered, unanswered }, session] = await Promise.all([
      this.ask('client', { clientId }),
      this.plane.inspection.session(clientId),
    ])
    const said = [...answered].map(([nodeId, facts]) => ({ node: nameOf(nodeId), ...facts }))
    const connected = said.find(({ connection }) => connection !== undefined)
    const [last] = said
      .flatMap(({ node, lastDisconnect }) =>
        lastDisconnect === undefined ? [] : [{ ...lastDisconnect, node }],
      )
      .sort((a, b) => a.secondsAgo - b.secondsAgo)
    if (connected === undefined && session === undefined && last === undefined) return undefined
    return {
      clientId,
      connection: connected === undefined ? undefined : { ...connected.connection!, node: connected.node },
      session,
      lastDisconnect: last,
      unanswered,
    }
  }

  async disconnect(
    clientId: string,
    by: string,
  ): Promise<{ readonly nodes: readonly string[]; readonly unanswered: readonly Unanswered[] }> {
    const { answered, unanswered } = await this.ask('disconnect', { clientId, by })
    const nodes = [...answered].filter(([, { isDone }]) => isDone).map(([nodeId]) => nameOf(nodeId))
    return { nodes, unanswered }
  }

  /**
   * A session is gone everywhere, with its queue and its subscriptions; whoever is connected with it is told to go before
   * (0x98). It goes as a CONNECT with Clean Start and without expiry ends it, which then leaves: so it is safe against a
   * client that comes meanwhile, on any node.
   * @returns undefined: there was none
   * @throws BridgeError when the store does not answer in time, or the client comes again and again
   */
  async endSession(
    clientId: string,
    by: string,
  ): Promise<{ readonly nodes: readonly string[]; readonly unanswered: readonly Unanswered[] } | undefined> {
    const { inspection, sessions } = this.plane
    const nodes = new Set<string>()
    const unanswered: Unanswered[] = []
    const sid = await inspection.sidOf(clientId)
    for (let tries = 1; ; tries++) {
      const told = await this.disconnect(clientId, by)
      for (const node of told.nodes) nodes.add(node)
      if (tries === 1) unanswered.push(...told.unanswered)
      if (sid === undefined && nodes.size === 0) return undefined
      try {
        const session = await withinDeadline(
          withinMs,
          (abandoned, givenUp) => sessions.claim(ending(clientId), abandoned, givenUp),
          (late) => void sessions.release(late).catch(() => undefined), // by then it is this node's, and ends with it
        )
        await sessions.release(session)
        return { nodes: [...nodes], unanswered }
      } catch (error) {
        const cause = error instanceof BridgeError ? error : (error as Error).cause
        const isThere = cause instanceof BridgeError && cause.code === 'ERR_BRIDGE_MOVED'
        if (!isThere || tries === endsMax) throw cause instanceof BridgeError ? cause : error
      }
    }
  }

  /** Undefined: there is no such node. */
  async drain(
    name: string,
    perSecond: number | undefined,
    by: string,
  ): Promise<{ readonly clients: number; readonly unanswered: readonly Unanswered[] } | undefined> {
    const nodeId = this.plane.nodes.find((one) => nameOf(one) === name)
    if (nodeId === undefined) return undefined
    const { answered, unanswered } = await this.ask('drain', { perSecond, by }, [nodeId])
    return { clients: answered.get(nodeId)?.clients ?? 0, unanswered }
  }

  /** Nodes read their files again, all of them unless one is named. @returns undefined: there is no such node */
  async reload(
    by: string,
    name?: string,
  ): Promise<{ readonly nodes: readonly object[]; readonly unanswered: readonly Unanswered[] } | undefined> {
    const nodeIds = this.plane.nodes.filter((nodeId) => name === undefined || nameOf(nodeId) === name)
    if (nodeIds.length === 0) return undefined
    const { answered, unanswered } = await this.ask('reload', { by }, nodeIds)
    const nodes = [...answered].map(([nodeId, said]) => ({ node: nameOf(nodeId), ...said }))
    return { nodes: nodes.sort(byName), unanswered }
  }

  /** What comes and goes for so many seconds, and by whom most: each node counts, and this one adds up. */
  async top(seconds: number, limit: number): Promise<object> {
    const { answered, unanswered } = await askNodes(
      this.plane.requests,
      'top',
      { ms: 1_000 * seconds, limit: 2 * limit },
      1_000 * seconds + withinMs,
    )
    const said = [...answered].map(([nodeId, facts]) => ({ node: nameOf(nodeId), ...facts }))
    const slow = said.flatMap(({ node, slow: some }) => some.map((facts) => ({ node, ...facts })))
    return {
      nodes: said.map(({ node, ...facts }) => ({ node, ...ratesOf(facts) })).sort(byName),
      topics: busiestOf(said, ({ topics }) => topics, limit),
      publishers: busiestOf(said, ({ publishers }) => publishers, limit),
      receivers: busiestOf(said, ({ receivers }) => receivers, limit),
      slow: slow.sort((a, b) => b.waitingBytes - a.waitingBytes).slice(0, limit),
      unanswered,
    }
  }

  /** The sessions that most messages wait for. */
  queues(limit: number): Promise<QueuesLookedAt> {
    return this.plane.inspection.queues(limit)
  }

  /** Who would get a message of this topic. */
  async subscribers(topic: string): Promise<object> {
    const targets = await this.plane.inspection.targets(topic)
    const { answered, unanswered } = await this.ask('subscribers', { topic }, targets.nodes)
    return {
      topic,
      live: [...answered].flatMap(([nodeId, { subscribers }]) =>
        subscribers.map((subscriber) => ({ node: nameOf(nodeId), ...subscriber })),
      ),
      sessions: targets.sessions,
      groups: targets.groups,
      isCut: targets.isCut || [...answered.values()].some(({ isCut }) => isCut),
      unanswered,
    }
  }

  async findings(): Promise<{
    readonly findings: readonly { readonly node: string; readonly what: string; readonly todo: string }[]
    readonly unanswered: readonly Unanswered[]
  }> {
    const { answered, unanswered } = await this.ask('findings', {})
    const findings = [...answered].flatMap(([nodeId, said]) =>
      said.findings.map((finding) => ({ node: nameOf(nodeId), ...finding })),
    )
    return { findings, unanswered }
  }
}
