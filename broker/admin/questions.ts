// What nodes ask one another for an operator, and how each answers of itself: as JSON over the cluster's requests. A node
// of another version may not know a question, and says so. No state.
import { tenantOfName, type ClusterRequests } from '../../bridge/index.ts'
import type { Reloaded } from '../config/reload.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'
import type { Connection } from '../connection/connection.ts'
import {
  connectionFacts,
  connectionPage,
  jsonBytes,
  pageBytesMax,
  type ClientFilter,
  type ConnectionFacts,
  type ConnectionPage,
} from './connections.ts'
import type { Departure } from './departures.ts'
import type { Busy } from '../observe/busiest.ts'
import type { SystemCounts } from '../observe/system-counts.ts'
import type { TraceAnswer, TraceWish } from '../observe/traces.ts'

/** What an operator sees of a node at once. */
export interface NodeFacts {
  readonly version: string
  readonly uptimeSeconds: number
  readonly isReady: boolean
  /** It was drained, and no client is left. */
  readonly isDrained: boolean
  /** One entry per condition of readiness: `ok` or what is wrong. */
  readonly checks: Readonly<Record<string, string>>
  readonly listen: readonly string[]
  readonly connections: number
  readonly memoryBytes: number
  /** Which part of the time since it was last asked its event loop was busy, 0 to 1. */
  readonly loopUtilization: number
}

/** Something that should be otherwise. */
export interface Finding {
  readonly what: string
  readonly todo: string
}

/** Of a while: what came and went at a node, and by whom. */
export interface TopFacts {
  readonly seconds: number
  /** PUBLISH packets, and bytes of all packets. */
  readonly received: number
  readonly receivedBytes: number
  readonly sent: number
  readonly sentBytes: number
  readonly topics: readonly Busy[]
  readonly publishers: readonly Busy[]
  readonly receivers: readonly Busy[]
  /** Those for whom most waits. */
  readonly slow: readonly ConnectionFacts[]
}

export interface DepartureFacts {
  readonly reason: string
  readonly address: string
  readonly secondsAgo: number
  readonly connectedSeconds: number
}

/** What a node knows of one client. */
export interface ClientFacts {
  readonly connection: (ConnectionFacts & { readonly inFlight: number }) | undefined
  readonly lastDisconnect: DepartureFacts | undefined
}

export interface Subscribing {
  readonly clientId: string | undefined
  readonly qos: number
}

/** The questions: what each asks with, and what a node answers. */
export interface Questions {
  node: { asks: object; answers: NodeFacts }
  clients: {
    asks: { readonly filter: ClientFilter; readonly after: number; readonly limit: number }
    answers: ConnectionPage
  }
  client: { asks: { readonly clientId: string }; answers: ClientFacts }
  disconnect: {
    asks: { readonly clientId: string; readonly by: string }
    answers: { readonly isDone: boolean }
  }
  subscribers: {
    asks: { readonly topic: string }
    answers: { readonly subscribers: readonly Subscribing[]; readonly isCut: boolean }
  }
  drain: {
    asks: { readonly perSecond: number | undefined; readonly by: string }
    answers: { readonly clients: number }
  }
  /** Where clients may be sent that are to leave another node. */
  address: { asks: object; answers: { readonly address: string | undefined } }
  reload: { asks: { readonly by: string }; answers: Reloaded }
  findings: { asks: object; answers: { readonly findings: readonly Finding[] } }
  counts: { asks: object; answers: SystemCounts }
  top: { asks: { readonly ms: number; readonly limit: number }; answers: TopFacts }
  trace: {
    asks: {
      /** Who asks names it. */
      readonly id: string
      readonly wish: TraceWish
      /** The last line that he has. */
      readonly after: number
      readonly isOver: boolean
    }
    answers: TraceAnswer
  }
}

export type Question = keyof Questions

/** The node, as what is asked of it needs it. */
export interface AskedNode {
  readonly hasTenants: boolean
  readonly connections: Iterable<Connection>
  connectionOf(clientId: string): Connection | undefined
  departureOf(clientId: string): Departure | undefined
  facts(): Promise<NodeFacts>
  subscribersOf(topic: string): Promise<readonly Subscribing[]>
  findings(): Promise<readonly Finding[]>
  /** @returns how many clients it has */
  drain(perSecond: number | undefined, by: string): number
  readonly address: string | undefined
  reload(by: string): Reloaded
  counts(): SystemCounts
  top(ms: number, limit: number): Promise<TopFacts>
  trace(asked: Questions['trace']['asks']): Promise<TraceAnswer>
}

/** Live subscribers of one topic that a node names. */
const subscribersMax = 1_000

const departureFacts = ({ reason, address, at, connectedSeconds }: Departure): DepartureFacts => ({
  reason,
  address,
  secondsAgo: Math.floor((performance.now() - at) / 1_000),
  connectedSeconds,
})

type Answers = {
  [K in Question]: (node: AskedNode, asked: Questions[K]['asks']) => Promise<Questions[K]['answers']>
}

const answers: Answers = {
  node: (node) => node.facts(),
  clients: (node, { filter, after, limit }) => {
    const { client } = filter
    const isOne = client !== undefined && !client.endsWith('*')
    const one = isOne ? node.connectionOf(client) : undefined
    const mayBeOfAnyTenant = isOne && node.hasTenants && tenantOfName(client) === undefined
    const some = isOne && !mayBeOfAnyTenant ? (one === undefined ? [] : [one]) : node.connections
    return connectionPage(some, filter, after, limit)
  },
  client: async (node, { clientId }) => {
    const connection = node.connectionOf(clientId)
    const departure = node.departureOf(clientId)
    return {
      connection:
        connection?.isClient === true
          ? { ...connectionFacts(connection), inFlight: connection.outbound.inFlight }
          : undefined,
      lastDisconnect: departure === undefined ? undefined : departureFacts(departure),
    }
  },
  disconnect: async (node, { clientId, by }) => {
    const connection = node.connectionOf(clientId)
    if (connection?.isClient !== true) return { isDone: false }
    connection.endReason ||= `disconnected by ${by}`
    connection.disconnect(ReasonCode.administrativeAction, 'disconnected by an operator')
    return { isDone: true }
  },
  subscribers: async (node, { topic }) => {
    const all = await node.subscribersOf(topic)
    const subscribers: Subscribing[] = []
    let bytes = 0
    for (const one of all) {
      bytes += jsonBytes(one)
      if (subscribers.length >= subscribersMax || bytes > pageBytesMax) break
      subscribers.push(one)
    }
    return { subscribers, isCut: subscribers.length < all.length }
  },
  drain: async (node, { perSecond, by }) => ({ clients: node.drain(perSecond, by) }),
  address: async ({ address }) => ({ address }),
  reload: async (node, { by }) => node.reload(by),
  findings: async (node) => ({ findings: await node.findings() }),
  counts: async (node) => node.counts(),
  top: (node, { ms, limit }) => node.top(ms, limit),
  trace: (node, asked) => node.trace(asked),
}

/** What a node answers with to a question of another one, or of its own. @throws Error what is wrong with it */
export async function answerQuestion(node: AskedNode, request: Buffer): Promise<Buffer> {
  const { question, asked } = JSON.parse(request.toString()) as { question: string; asked: never }
  if (!Object.hasOwn(answers, question))
    throw new Error(`it is of another version and does not know the question ${question.slice(0, 40)}`)
  return Buffer.from(JSON.stringify(await answers[question as Question](node, asked)))
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
const areObjects = (value: unknown): boolean => Array.isArray(value) && value.every(isObject)
const areNumbers = (values: readonly unknown[]): boolean => values.every((value) => typeof value === 'number')
const areBusy = (some: unknown): boolean =>
  Array.isArray(some) &&
  some.every(
    (one) => isObject(one) && typeof one.name === 'string' && areNumbers([one.messages, one.bytes, one.more]),
  )

/** What of an answer is looked into here: a node of another version may say it otherwise. */
const isAnswer: Readonly<Record<Question, (answer: Record<string, unknown>) => boolean>> = {
  node: () => true,
  clients: ({ clients, next }) => areObjects(clients) && ['number', 'undefined'].includes(typeof next),
  client: ({ connection, lastDisconnect }) =>
    [connection, lastDisconnect].every((one) => one === undefined || isObject(one)),
  disconnect: ({ isDone }) => typeof isDone === 'boolean',
  subscribers: ({ subscribers }) => areObjects(subscribers),
  drain: ({ clients }) => typeof clients === 'number',
  address: ({ address }) => ['string', 'undefined'].includes(typeof address),
  reload: ({ options, later, problems }) => [options, later, problems].every((list) => Array.isArray(list)),
  findings: ({ findings }) => areObjects(findings),
  counts: (counts) => areNumbers(Object.values(counts)),
  top: ({ topics, publishers, receivers, slow, ...counts }) =>
    [topics, publishers, receivers].every(areBusy) && areObjects(slow) && areNumbers(Object.values(counts)),
  trace: ({ lines, last, leftOut }) => areObjects(lines) && areNumbers([last, leftOut]),
}

/** Undefined: it is none. */
function answerOf<K extends Question>(question: K, body: Buffer): Questions[K]['answers'] | undefined {
  try {
    const answer: unknown = JSON.parse(body.toString())
    return isObject(answer) && isAnswer[question](answer) ? (answer as Questions[K]['answers']) : undefined
  } catch {
    return undefined
  }
}

export interface Unanswered {
  readonly node: string
  readonly problem: string
}

/** What the nodes said, by their boots; and who said nothing, and why. */
export interface Gathered<K extends Question> {
  readonly answered: ReadonlyMap<string, Questions[K]['answers']>
  readonly unanswered: readonly Unanswered[]
}

export const nameOf = (nodeId: string): string => nodeId.slice(0, nodeId.lastIndexOf('@'))

/** Asks nodes, all unless `of` names some. */
export async function askNodes<K extends Question>(
  requests: ClusterRequests,
  question: K,
  asked: Questions[K]['asks'],
  withinMs: number,
  of?: readonly string[],
): Promise<Gathered<K>> {
  const answered = new Map<string, Questions[K]['answers']>()
  const unanswered: Unanswered[] = []
  const said = await requests.ask(Buffer.from(JSON.stringify({ question, asked })), withinMs, of)
  for (const { nodeId, body, problem } of said) {
    const answer = body === undefined ? undefined : answerOf(question, body)
    if (answer !== undefined) answered.set(nodeId, answer)
    else
      unanswered.push({
        node: nameOf(nodeId),
        problem: problem ?? 'its answer is none that this version understands',
      })
  }
  return { answered, unanswered }
}
