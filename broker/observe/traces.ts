// Traces: what an operator follows of one client, or of the messages of some topics, step by step. Whoever sees a step
// tells it here, while `isOn`: looking at that is all that a trace costs while there is none. Another node, or this one,
// asks for the lines again and again (admin/trace-stream.ts): who does not ask for some seconds is gone, and so is its
// trace. No line has a password, a user name's secret or a User Property; payloads stand in it only where they were
// asked for. State: the traces, and the lines that were not fetched. Bounds: traces, lines a second of each, lines and
// bytes that wait, deliveries that are remembered until they are acknowledged; what is beyond them is counted.
import { isUtf8 } from 'node:buffer'
import { StringDecoder } from 'node:string_decoder'
import { filterMatches, type BridgeFacts, type MessageTrace } from '../../bridge/index.ts'
import { TokenBucket } from '../access/token-bucket.ts'
import { Busiest } from './busiest.ts'

/** The steps, as a line names them. */
export const traceSteps = {
  connected: 'CONNACK accepted the client',
  refused: 'its CONNECT, PUBLISH or SUBSCRIBE is refused; `why` and `code` say by what',
  disconnected: 'its connection ended; `why`',
  subscribed: 'SUBACK answered a filter; `granted`',
  unsubscribed: 'UNSUBACK answered a filter',
  received: 'a PUBLISH came from its publisher: `from`',
  matched: 'whom the cluster has for it: `nodes` with live subscribers, `sessions` with a queue, `groups`',
  unmatched: 'nobody gets it; `why`',
  sent: 'it went to other nodes',
  arrived: 'it came from another node',
  queued: 'it is in the queues of sessions, or the backlogs of groups',
  stored: 'it is stored for everybody: PUBACK or PUBREC leaves',
  delivered: 'a PUBLISH left for a subscriber: `client`',
  acknowledged: 'the subscriber acknowledged it: PUBACK or PUBCOMP',
  dropped: '`client` does not get it; `cause`, and `why` in words',
} as const

export type TraceStep = keyof typeof traceSteps

/** Why a message was dropped, in words. */
export const dropReasons = {
  denied: 'the client may not receive it (rules, hooks)',
  'client-bytes': 'the node has no more room for what clients do not read (clientBytesMax)',
  'slow-subscriber':
    'the client reads slower than it is sent to (slowSubscriber, slowBytesMax, waitingBytesMax)',
  'delivery-rate': 'the client is sent as much as it may be within a second (deliveriesPerSecondMax)',
  'too-large': 'the client takes no packet of that size (its Maximum Packet Size)',
  expired: 'its Message Expiry Interval was over',
  failed: 'a bug: the log of the node says more',
  refused: 'its publisher may not publish it',
  'full-queue': 'the queue of the session was full: its oldest goes (queueMessagesMax, queueBytesMax)',
  'full-store': 'the node has no more room for messages of sessions: the oldest goes (storedBytesMax)',
  'slow-node': 'the other node is behind with what it was sent, and QoS 0 does not wait',
} as const

/** What is followed: a client, topics, or what both are about. */
export interface TraceWish {
  readonly client?: string | undefined
  readonly topic?: string | undefined
  readonly payload: boolean
}

/** What a step says of a message. */
export interface TracedMessage {
  readonly topic: string
  /** Undefined: it is known no more. */
  readonly payload: Buffer | undefined
  readonly qos: number
  readonly retain?: boolean
  readonly by?: { readonly clientId: string | undefined } | undefined
}

/** What a step says besides: whom it is about, and why. */
interface TraceFacts extends Omit<BridgeFacts, 'cause'> {
  readonly cause?: keyof typeof dropReasons | undefined
  readonly client?: string | undefined
  readonly packetId?: number | undefined
  readonly isDup?: boolean | undefined
  readonly why?: string | undefined
  /** Reason code, in hex. */
  readonly code?: string | undefined
}

/** One step, as it is shown. */
export type TraceLine = Readonly<Record<string, unknown>> & { readonly step: TraceStep }

/** What the store knows of sessions. */
export interface TracedSessions {
  sidOf(clientId: string): Promise<string | undefined>
  clientsOf(sids: readonly string[]): Promise<readonly (string | undefined)[]>
}

const tracesMax = 4
const countingMax = 4
const linesPerSecond = 1_000
const linesMax = 2_000
const bytesMax = 524_288
const unaskedMs = 5_000
/** Of a text of a client, and of a payload. */
const textMax = 1_024
const payloadMax = 256
/** Sessions, nodes and groups that one line names, and how much of the name of a session. */
const namedMax = 10
const nameMax = 128
const deliveriesMax = 10_000

const cut = (text: string, max = textMax): string => (text.length <= max ? text : `${text.slice(0, max)}…`)
const nameOf = (nodeId: string): string => nodeId.slice(0, nodeId.lastIndexOf('@'))

interface Kept {
  readonly number: number
  readonly line: Record<string, unknown>
  /** Sessions that are not named yet. */
  readonly sids: readonly string[]
  readonly bytes: number
}

class Trace {
  readonly wish: TraceWish
  /** Of the session of its client. */
  sid: string | undefined
  askedAt = performance.now()
  /** Lines that found no room since the last answer. */
  leftOut = 0
  readonly #pace = new TokenBucket(linesPerSecond)
  #kept: Kept[] = []
  #bytes = 0
  #last = 0

  constructor(wish: TraceWish) {
    this.wish = wish
  }

  isAbout({ topic, by }: TracedMessage, { client, sids }: TraceFacts): boolean {
    const { wish } = this
    if (wish.topic !== undefined && !filterMatches(wish.topic, topic)) return false
    if (wish.client === undefined || client === wish.client || by?.clientId === wish.client) return true
    return this.sid !== undefined && sids?.includes(this.sid) === true
  }

  /** Otherwise a line is counted and not made: it costs the most. */
  get hasRoom(): boolean {
    if (this.#kept.length < linesMax && this.#bytes < bytesMax && this.#pace.left >= 1) return true
    this.leftOut++
    return false
  }

  add(line: Record<string, unknown>, sids: readonly string[] = []): void {
    const bytes = Buffer.byteLength(JSON.stringify(line)) + (nameMax + 20) * sids.length
    if (this.#bytes + bytes > bytesMax) return void this.leftOut++
    this.#pace.take(1)
    this.#bytes += bytes
    this.#kept.push({ number: ++this.#last, line, sids, bytes })
  }

  /** Lines after one that its asker has; the others are his by now. */
  after(number: number): readonly Kept[] {
    const kept = this.#kept.filter((one) => one.number > number)
    this.#kept = kept
    this.#bytes = kept.reduce((sum, { bytes }) => sum + bytes, 0)
    return kept
  }
}

/** What a node answers to whoever asks for the lines of a trace. */
export interface TraceAnswer {
  readonly lines: readonly object[]
  /** Number of the last one. */
  readonly last: number
  readonly leftOut: number
}

export class Traces implements MessageTrace {
  isOn = false
  /** A trace is on, or somebody asks who is busiest: what comes and goes is told. */
  isWatching = false
  readonly #counting = new Set<Busiest>()
  readonly #byId = new Map<string, Trace>()
  /** Topics of deliveries that were told and are not acknowledged, by connection and Packet Identifier. */
  readonly #deliveries = new Map<string, TracedMessage>()
  #lapsing: NodeJS.Timeout | undefined

  /**
   * Begins a trace, or goes on with it. @param after number of the last line that was fetched
   * @throws Error when there are as many as may be
   */
  async ask(id: string, wish: TraceWish, after: number, sessions: TracedSessions): Promise<TraceAnswer> {
    let trace = this.#byId.get(id)
    if (trace === undefined) {
      if (this.#byId.size >= tracesMax) throw new Error(`it follows ${tracesMax} traces already`)
      this.#byId.set(id, (trace = new Trace(wish)))
      this.isOn = this.isWatching = true
      this.#lapsing ??= setInterval(() => this.#lapse(), unaskedMs / 2).unref()
    }
    trace.askedAt = performance.now()
    const isStored = wish.client !== undefined
    // without the store the lines come, and sessions are not named
    if (isStored) trace.sid = (await sessions.sidOf(wish.client).catch(() => undefined)) ?? trace.sid
    const kept = trace.after(after)
    const sids = [...new Set(kept.flatMap((one) => one.sids))]
    const names = sids.length === 0 ? [] : await sessions.clientsOf(sids).catch((): undefined[] => [])
    const clients = new Map(sids.map((sid, i) => [sid, names[i]]))
    const { leftOut } = trace
    trace.leftOut = 0
    return {
      lines: kept.map(({ line, sids: own }) =>
        own.length === 0
          ? line
          : { ...line, clients: own.map((sid) => cut(clients.get(sid) ?? `session ${sid}`, nameMax)) },
      ),
      last: kept.at(-1)?.number ?? after,
      leftOut,
    }
  }

  end(id: string): void {
    this.#byId.delete(id)
    if (this.#byId.size > 0) return
    this.isOn = false
    this.isWatching = this.#counting.size > 0
    this.#deliveries.clear()
    clearInterval(this.#lapsing)
    this.#lapsing = undefined
  }

  #lapse(): void {
    const before = performance.now() - unaskedMs
    for (const [id, { askedAt }] of this.#byId) if (askedAt < before) this.end(id)
  }

  /** The node ends: nobody follows anything. */
  close(): void {
    for (const id of [...this.#byId.keys()]) this.end(id)
  }

  /** Counts for so long. @throws Error when as many count as may */
  async busiest(ms: number): Promise<Busiest> {
    if (this.#counting.size >= countingMax) throw new Error(`it counts ${countingMax} times at once already`)
    const busiest = new Busiest()
    this.#counting.add(busiest)
    this.isWatching = true
    await new Promise((resolve) => setTimeout(resolve, ms).unref())
    this.#counting.delete(busiest)
    this.isWatching = this.isOn || this.#counting.size > 0
    return busiest
  }

  // Steps

  /** A PUBLISH came from a client. */
  received(message: TracedMessage & { readonly payload: Buffer }, packetId: number, isDup: boolean): void {
    const { topic, payload, qos, by } = message
    for (const one of this.#counting) one.received(topic, by?.clientId, topic.length + payload.length)
    if (this.isOn) this.tell('received', message, qos === 0 ? {} : { packetId, isDup })
  }

  /** A step of a message. @returns whether anybody follows it */
  tell(step: TraceStep, message: TracedMessage, facts: TraceFacts): boolean {
    let isTold = false
    for (const trace of this.#byId.values()) {
      if (!trace.isAbout(message, facts)) continue
      isTold = true
      if (!trace.hasRoom) continue
      const { line, sids } = lineOf(step, message, facts, trace)
      trace.add(line, sids)
    }
    return isTold
  }

  /** A PUBLISH left for a client. */
  delivered(
    connection: { readonly number: number; readonly clientId: string },
    message: TracedMessage,
    packetId: number,
    isDup: boolean,
  ): void {
    const { clientId: client, number } = connection
    const { length = 0 } = message.payload ?? {}
    for (const one of this.#counting) one.delivered(client, message.topic.length + length)
    if (!this.isOn) return
    const isTold = this.tell('delivered', message, {
      client,
      packetId: packetId === 0 ? undefined : packetId,
      isDup,
    })
    if (!isTold || packetId === 0 || message.topic.length > textMax) return
    const { topic, qos } = message
    this.#deliveries.set(`${number}:${packetId}`, { topic, qos, payload: undefined })
    if (this.#deliveries.size > deliveriesMax) this.#deliveries.delete(this.#deliveries.keys().next().value!)
  }

  /** PUBACK or PUBCOMP came, or a PUBREC that refuses. */
  acknowledged(
    { number, clientId: client }: { readonly number: number; readonly clientId: string },
    packetId: number,
  ): void {
    const message = this.#deliveries.get(`${number}:${packetId}`)
    if (message === undefined) return
    this.#deliveries.delete(`${number}:${packetId}`)
    this.tell('acknowledged', message, { client, packetId })
  }

  /** A step of a client. */
  client(step: TraceStep, client: string, fields: Readonly<Record<string, string | number | boolean>>): void {
    for (const trace of this.#byId.values()) {
      if (trace.wish.client !== client || trace.wish.topic !== undefined || !trace.hasRoom) continue
      const shown = Object.entries(fields).map(([name, value]) => [
        name,
        typeof value === 'string' ? cut(value) : value,
      ])
      const line = { time: new Date().toISOString(), step, client: cut(client) }
      trace.add({ ...line, ...(Object.fromEntries(shown) as object) })
    }
  }
}

/** The beginning of a payload: text where all of it is. */
function payloadFacts(payload: Buffer): object {
  const shown = payload.subarray(0, payloadMax)
  return isUtf8(payload)
    ? { payload: new StringDecoder('utf8').write(shown), encoding: 'utf8' }
    : { payload: shown.toString('base64'), encoding: 'base64' }
}

/** Why nobody gets a message that is matched; undefined: somebody does. */
function unmatchedWhy({ nodes, sids, groups }: TraceFacts, qos: number): string | undefined {
  if (nodes?.length !== 0 || groups?.length !== 0) return undefined
  if (sids?.length === 0) return 'nobody is subscribed to it'
  return qos > 0 ? undefined : 'QoS 0 is not queued, and the clients of all sessions that it matches are away'
}

function lineOf(
  step: TraceStep,
  message: TracedMessage,
  facts: TraceFacts,
  { wish, sid }: Trace,
): { readonly line: Record<string, unknown>; readonly sids: readonly string[] } {
  const { topic, payload, qos, retain, by } = message
  const { nodes = [], sids = [], groups = [], cause, client, packetId, isDup, code } = facts
  const unmatched = step === 'matched' ? unmatchedWhy(facts, qos) : undefined
  const why = unmatched ?? facts.why ?? (cause === undefined ? undefined : dropReasons[cause])
  const line = {
    time: new Date().toISOString(),
    step: unmatched === undefined ? step : 'unmatched',
    ...(client !== undefined && { client: cut(client) }),
    ...(by?.clientId !== undefined && { from: cut(by.clientId) }),
    topic: cut(topic),
    qos,
    ...(retain === true && { retain }),
    ...(packetId !== undefined && { packetId }),
    ...(isDup === true && { dup: true }),
    ...(payload !== undefined && { bytes: payload.length }),
    ...(payload !== undefined && wish.payload && payloadFacts(payload)),
    ...(nodes.length > 0 && { nodes: nodes.slice(0, namedMax).map(nameOf) }),
    ...(sids.length > 0 && { sessions: sids.length }),
    ...(groups.length > 0 && { groups: groups.slice(0, namedMax).map((group) => cut(group)) }),
    ...(code !== undefined && { code }),
    ...(cause !== undefined && { cause }),
    ...(why !== undefined && { why }),
  }
  // of a trace of one client: it alone
  const named = sid !== undefined && sids.includes(sid) ? [sid] : sids.slice(0, namedMax)
  return { line, sids: named }
}
