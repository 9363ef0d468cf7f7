// Requests from node to node, for operators: one node asks another, or all, and gathers what they answer within a
// deadline. They go by the control plane, on two channels that a node hears (`ask/all` and `ask/<node id>`): what is
// lost is not sent again, and a node that does not answer is named. What is asked and answered are bytes of the
// broker's. A node answers itself without any channel, so also while Redis is away. State: the asks of this process
// that wait. Bounds: asks and answers under way, bytes of each, bytes that one ask gathers.
import { BridgeError } from '../errors.ts'
import type { SystemEvents } from './system-events.ts'

/** What one node answers: bytes, or in words why there are none. */
export type NodeAnswer =
  | { readonly nodeId: string; readonly body: Buffer; readonly problem?: undefined }
  | { readonly nodeId: string; readonly body?: undefined; readonly problem: string }

export interface ClusterRequests {
  /** From now on `answer` answers what nodes ask, this one included. What it rejects with is told as a problem. */
  answerWith(answer: (request: Buffer) => Promise<Buffer>): void
  /**
   * Asks nodes, all that are known unless `of` says which.
   * @returns an answer of each, in their order, after `withinMs` at the latest
   * @throws BridgeError ERR_BRIDGE_ASKS when too much is asked at once
   */
  ask(request: Buffer, withinMs: number, of?: readonly string[]): Promise<readonly NodeAnswer[]>
}

/** Asks of this node that wait, and what it answers at once. */
const asksMax = 100
const answeringMax = 32
const requestBytesMax = 65_536
const answerBytesMax = 1_048_576
/** Answers of all nodes to one ask. */
const gatheredBytesMax = 16_777_216
const withinMsMax = 30_000
const everybody = 'ask/all'

const channelOf = (nodeId: string): string => `ask/${nodeId}`

/** The first line of what goes by a channel; a body follows. */
type Head =
  | { readonly ask: string; readonly from: string; readonly withinMs: number }
  | { readonly answers: string; readonly from: string; readonly problem?: string }

interface Ask {
  readonly answers: Map<string, NodeAnswer | undefined>
  left: number
  bytes: number
  readonly done: () => void
}

/** Undefined: it is none of ours, or of a later version. */
function headOf(text: string): Head | undefined {
  try {
    const head = JSON.parse(text) as Partial<Record<string, unknown>>
    const isAsk = typeof head.ask === 'string' && typeof head.withinMs === 'number'
    const isAnswer =
      typeof head.answers === 'string' && (head.problem === undefined || typeof head.problem === 'string')
    return typeof head.from === 'string' && (isAsk || isAnswer) ? (head as unknown as Head) : undefined
  } catch {
    return undefined
  }
}

export class Requests implements ClusterRequests {
  readonly #nodeId: string
  readonly #nodes: () => readonly string[]
  readonly #channel: SystemEvents | undefined
  readonly #endHearing: (() => void)[]
  readonly #asks = new Map<string, Ask>()
  #answer: ((request: Buffer) => Promise<Buffer>) | undefined
  #answering = 0
  #asked = 0
  #isClosed = false

  /** @param channel undefined: no other node hears this one */
  constructor(nodeId: string, nodes: () => readonly string[], channel?: SystemEvents) {
    this.#nodeId = nodeId
    this.#nodes = nodes
    this.#channel = channel
    const hear = (_topic: string, payload: Buffer): void => this.#hear(payload)
    this.#endHearing =
      channel === undefined ? [] : [everybody, channelOf(nodeId)].map((topic) => channel.on(topic, hear))
  }

  answerWith(answer: (request: Buffer) => Promise<Buffer>): void {
    this.#answer = answer
  }

  async ask(request: Buffer, withinMs: number, of?: readonly string[]): Promise<readonly NodeAnswer[]> {
    if (request.length > requestBytesMax || this.#asks.size >= asksMax || this.#isClosed)
      throw new BridgeError('ERR_BRIDGE_ASKS', 'too much is asked of the other nodes at once')
    const answers = new Map<string, NodeAnswer | undefined>(
      (of ?? this.#nodes()).map((nodeId) => [nodeId, undefined]),
    )
    const ms = Math.min(withinMs, withinMsMax)
    const id = `${++this.#asked}`
    let timer: NodeJS.Timeout | undefined
    await new Promise<void>((done) => {
      this.#asks.set(id, { answers, left: answers.size, bytes: 0, done })
      timer = setTimeout(done, ms)
      if (answers.size === 0) done()
      for (const nodeId of this.#addressed(of, answers)) {
        if (nodeId === this.#nodeId)
          void this.#answerTo(request).then((answer) => this.#gather(id, nodeId, answer))
        else this.#send(nodeId, { ask: id, from: this.#nodeId, withinMs: ms }, request)
      }
    })
    clearTimeout(timer)
    this.#asks.delete(id)
    const silent = this.#isClosed ? 'this node leaves the cluster' : `no answer within ${ms / 1_000} s`
    return [...answers].map(([nodeId, answer]) => answer ?? { nodeId, problem: silent })
  }

  /** Whom a message goes to: all others hear one. */
  #addressed(of: readonly string[] | undefined, answers: ReadonlyMap<string, unknown>): string[] {
    if (of !== undefined) return [...answers.keys()]
    const hasOthers = answers.size > (answers.has(this.#nodeId) ? 1 : 0)
    return [...(answers.has(this.#nodeId) ? [this.#nodeId] : []), ...(hasOthers ? [''] : [])]
  }

  /** @param nodeId empty: all */
  #send(nodeId: string, head: Head, body: Buffer): void {
    const line = Buffer.from(JSON.stringify(head) + '\n')
    this.#channel?.emit(nodeId === '' ? everybody : channelOf(nodeId), Buffer.concat([line, body]))
  }

  #hear(payload: Buffer): void {
    const end = payload.indexOf('\n')
    const head = end === -1 ? undefined : headOf(payload.toString('utf8', 0, end))
    if (head === undefined || head.from === this.#nodeId || this.#isClosed) return
    const body = payload.subarray(end + 1)
    if ('answers' in head) {
      const { answers: id, from, problem } = head
      return this.#gather(id, from, problem === undefined ? { body } : { problem })
    }
    const { ask, from, withinMs } = head
    const asked = performance.now()
    void this.#answerTo(body).then((answer) => {
      if (this.#isClosed || performance.now() - asked > withinMs) return // nobody waits for it any more
      if (answer.problem === undefined) this.#send(from, { answers: ask, from: this.#nodeId }, answer.body)
      else this.#send(from, { answers: ask, from: this.#nodeId, problem: answer.problem }, Buffer.alloc(0))
    })
  }

  /** Never rejects. */
  async #answerTo(
    request: Buffer,
  ): Promise<{ body: Buffer; problem?: undefined } | { body?: undefined; problem: string }> {
    if (this.#answer === undefined) return { problem: 'it is starting' }
    if (this.#answering >= answeringMax) return { problem: `it answers ${answeringMax} requests already` }
    this.#answering++
    try {
      const body = await this.#answer(request)
      if (body.length <= answerBytesMax) return { body }
      return { problem: `its answer is larger than ${answerBytesMax} bytes: ask for less` }
    } catch (error) {
      return { problem: error instanceof Error ? error.message : String(error) }
    } finally {
      this.#answering--
    }
  }

  /** The first answer of each node that was asked; what comes twice, or late, or unasked, is nothing. */
  #gather(
    id: string,
    nodeId: string,
    answer: { body: Buffer; problem?: undefined } | { body?: undefined; problem: string },
  ): void {
    const ask = this.#asks.get(id)
    if (ask === undefined || !ask.answers.has(nodeId) || ask.answers.get(nodeId) !== undefined) return
    ask.bytes += answer.body?.length ?? 0
    ask.answers.set(
      nodeId,
      ask.bytes > gatheredBytesMax
        ? { nodeId, problem: `all answers are larger than ${gatheredBytesMax} bytes: ask for less` }
        : { nodeId, ...answer },
    )
    if (--ask.left === 0) ask.done()
  }

  /** Whoever waits gets what has come. */
  close(): void {
    this.#isClosed = true
    for (const end of this.#endHearing) end()
    for (const { done } of this.#asks.values()) done()
  }
}
