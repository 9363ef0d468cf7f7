// One trace over all nodes: each is asked for its lines again and again, by itself, so that one that stands holds up no
// other. The first ask begins it there, and each tells which lines have come, so that an answer that was lost is given
// again; a node that joins is asked as soon as it is known. Lines of two nodes are in no order but that of their coming:
// each has the time of its own clock. State: this trace. Bounds: those of each node (observe/traces.ts), and the time.
import { randomUUID } from 'node:crypto'
import type { TraceWish } from '../observe/traces.ts'
import type { ClusterView } from './cluster-answers.ts'
import { nameOf, type Gathered } from './questions.ts'

const askAgainMs = 200

/** What comes of a trace: a step, lines that a node left out, a node that does not answer, or the end. */
export type Traced = object

export class TraceStream {
  readonly #view: ClusterView
  readonly #wish: TraceWish
  readonly #write: (line: Traced) => void
  readonly #id = randomUUID()
  readonly #asked = new Set<string>()
  readonly #ended = new AbortController()

  constructor(view: ClusterView, wish: TraceWish, write: (line: Traced) => void) {
    this.#view = view
    this.#wish = wish
    // it may end between any two awaits, and who reads is gone then
    this.#write = (line) => {
      if (!this.#isOver) write(line)
    }
  }

  /** Follows until it is ended. Resolves when every node that answers has begun. */
  async begin(): Promise<void> {
    const first = this.#newNodes()
    await Promise.all(first)
    this.#write({ tracing: [...this.#asked].map(nameOf).sort() })
    void this.#lookForNodes()
  }

  end(): void {
    if (this.#ended.signal.aborted) return
    this.#ended.abort()
    const asks = { id: this.#id, wish: this.#wish, after: 0, isOver: true }
    this.#view.ask('trace', asks, [...this.#asked]).catch(() => undefined) // else it lapses
  }

  get #isOver(): boolean {
    return this.#ended.signal.aborted
  }

  /** @returns each settles when the node has answered once, or not in time */
  #newNodes(): Promise<void>[] {
    const nodes = this.#view.knownNodes
    for (const nodeId of this.#asked) if (!nodes.includes(nodeId)) this.#asked.delete(nodeId)
    return nodes
      .filter((nodeId) => !this.#asked.has(nodeId))
      .map((nodeId) => new Promise<void>((begun) => void this.#follow(nodeId, begun)))
  }

  async #lookForNodes(): Promise<void> {
    while (!this.#isOver) {
      await pause(1_000)
      if (!this.#isOver) void this.#newNodes()
    }
  }

  async #follow(nodeId: string, begun: () => void): Promise<void> {
    const node = nameOf(nodeId)
    let after = 0
    let problem: string | undefined
    this.#asked.add(nodeId)
    while (!this.#isOver && this.#asked.has(nodeId)) {
      const { answered, unanswered } = await this.#ask(nodeId, after)
      const said = answered.get(nodeId)
      const wrong = said === undefined ? (unanswered[0]?.problem ?? 'no answer') : undefined
      if (wrong !== undefined && wrong !== problem) this.#write({ node, problem: wrong })
      problem = wrong
      if (said !== undefined) {
        after = said.last
        if (said.leftOut > 0) this.#write({ node, leftOut: said.leftOut })
        for (const line of said.lines) this.#write({ node, ...line })
      }
      begun()
      await pause(askAgainMs)
    }
  }

  async #ask(nodeId: string, after: number): Promise<Gathered<'trace'>> {
    try {
      return await this.#view.ask('trace', { id: this.#id, wish: this.#wish, after, isOver: false }, [nodeId])
    } catch (error) {
      const { message } = error as Error
      return { answered: new Map(), unanswered: [{ node: nameOf(nodeId), problem: message }] }
    }
  }
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms).unref())
