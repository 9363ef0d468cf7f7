// What an operator sees of the sessions of a node without Redis: those of its state. No state of its own. Cost: a page
// passes by those before it.
import {
  subscriptionsShown,
  type ClusterInspection,
  type GroupFacts,
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

  targets(topic: string): Promise<TopicTargets> {
    const { sessions } = this.#state
    return topicTargets(this.#view(), topic, async (sids) => sids.map((sid) => sessions.get(sid)?.clientId))
  }

  groups(): Iterable<GroupFacts> {
    return allGroups(this.#view())
  }
}
