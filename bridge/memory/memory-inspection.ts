// What an operator sees of the sessions of a node without Redis: those of its state. No state of its own. Cost: a page
// passes by those before it.
import {
  subscriptionsShown,
  type ClusterInspection,
  type GroupFacts,
  type QueuesLookedAt,
  type SessionEntry,
  type SessionFacts,
  type SessionPage,
  type TopicTargets,
} from '../inspection/inspection.ts'
import {
  allGroups,
  headOf,
  secondsTo,
  subscriptionFacts,
  topicTargets,
  type RoutesView,
} from '../inspection/seen.ts'
import type { Clock } from '../pace/clock.ts'
import { Slice } from '../pace/turns.ts'
import type { State } from './state.ts'

export class MemoryInspection implements ClusterInspection {
  readonly #nodeId: string
  readonly #state: State
  readonly #view: () => RoutesView
  readonly #clock: Clock

  constructor(nodeId: string, state: State, view: () => RoutesView, clock: Clock) {
    this.#nodeId = nodeId
    this.#state = state
    this.#view = view
    this.#clock = clock
  }

  async sessions(cursor: string, count: number, begin = ''): Promise<SessionPage> {
    const first = /^\d{0,15}$/.test(cursor) ? Number(cursor) : Infinity
    const entries: SessionEntry[] = []
    const slice = new Slice()
    let place = 0
    for (const { clientId, isOwned } of this.#state.sessions.values()) {
      if (slice.isOver) await slice.next()
      if (place++ < first) continue
      if (place > first + count) return { entries, next: String(first + count) }
      if (clientId.startsWith(begin)) entries.push({ clientId, nodeId: isOwned ? this.#nodeId : undefined })
    }
    return { entries, next: undefined }
  }

  async session(clientId: string): Promise<SessionFacts | undefined> {
    const session = this.#state.of(clientId)
    if (session === undefined) return undefined
    const { isOwned, expiry, releasedAt, subscriptions, queue, inFlight, incoming } = session
    const subscribed = [...subscriptions].slice(0, subscriptionsShown)
    return {
      clientId,
      nodeId: isOwned ? this.#nodeId : undefined,
      expirySeconds: expiry,
      endsInSeconds: isOwned || expiry < 0 ? undefined : secondsTo(this.#clock, releasedAt + 1_000 * expiry),
      subscriptions: subscribed.map(([filter, stored]) => subscriptionFacts(filter, stored)),
      subscriptionCount: subscriptions.size,
      queue: { messages: queue.length, bytes: queue.bytes, head: headOf(this.#clock, queue.first(1)[0]) },
      inFlight: inFlight.size,
      incoming: incoming.size,
    }
  }

  async sidOf(clientId: string): Promise<string | undefined> {
    return this.#state.of(clientId)?.sid
  }

  async clientsOf(sids: readonly string[]): Promise<readonly (string | undefined)[]> {
    return sids.map((sid) => this.#state.sessions.get(sid)?.clientId)
  }

  /** All of them, in slices. */
  async queues(count: number): Promise<QueuesLookedAt> {
    const slice = new Slice()
    let found: { clientId: string; isOwned: boolean; messages: number; bytes: number }[] = []
    const most = (): void => {
      found = found.sort((a, b) => b.messages - a.messages).slice(0, count)
    }
    for (const { clientId, isOwned, queue } of this.#state.sessions.values()) {
      if (slice.isOver) await slice.next()
      if (queue.length === 0) continue
      if (found.push({ clientId, isOwned, messages: queue.length, bytes: queue.bytes }) > 2 * count + 100)
        most()
    }
    most()
    return { queues: found, lookedAt: this.#state.sessions.size, isCut: false }
  }

  targets(topic: string): Promise<TopicTargets> {
    return topicTargets(this.#view(), topic, (sids) => this.clientsOf(sids))
  }

  groups(): Iterable<GroupFacts> {
    return allGroups(this.#view())
  }
}
