// What an operator sees of a cluster that no connection knows of: sessions as they are stored, and who gets a topic.
// It only reads; each question has a bound on what it looks at, and an answer that was cut says so. No state.

/** A session in a page of them. */
export interface SessionEntry {
  readonly clientId: string
  /** Who owns it: its client is connected there; undefined: nobody is connected. */
  readonly nodeId: string | undefined
}

export interface SessionPage {
  readonly entries: readonly SessionEntry[]
  /** What the next page begins with; undefined: this was the last one. */
  readonly next: string | undefined
}

export interface SubscriptionFacts {
  readonly filter: string
  readonly qos: number
  readonly noLocal: boolean
  readonly retainAsPublished: boolean
  readonly identifier: number | undefined
}

/** The message that a session gets next. */
export interface QueueHead {
  readonly topic: string
  readonly qos: number
  readonly payloadBytes: number
}

export interface SessionFacts extends SessionEntry {
  /** How long it outlives its connection, s; -1: for ever. */
  readonly expirySeconds: number
  /** When it ends, s from now; undefined: somebody is connected, or never. */
  readonly endsInSeconds: number | undefined
  /** Some of them. */
  readonly subscriptions: readonly SubscriptionFacts[]
  readonly subscriptionCount: number
  readonly queue: {
    readonly messages: number
    /** Memory that they take where they are stored, roughly. */
    readonly bytes: number
    /** Undefined: none waits, or what does cannot be read. */
    readonly head: QueueHead | undefined
  }
  /** Messages that were sent and are not acknowledged. */
  readonly inFlight: number
  /** QoS 2 publishes of the client between PUBLISH and PUBREL. */
  readonly incoming: number
}

export interface GroupFacts {
  /** `$share/{ShareName}/{filter}` */
  readonly group: string
  /** Connected members by node. */
  readonly members: readonly { readonly nodeId: string; readonly count: number }[]
  /** Undefined: it has none, or this node has not seen it. */
  readonly backlog: { readonly messages: number; readonly bytes: number } | undefined
  readonly hasBacklog: boolean
}

/** Who gets a message of one topic. */
export interface TopicTargets {
  /** Those with a queue, whether or not they are connected. */
  readonly sessions: readonly { readonly clientId: string; readonly qos: number }[]
  readonly groups: readonly GroupFacts[]
  /** Nodes with live subscribers, which know them. */
  readonly nodes: readonly string[]
  /** There are more sessions or groups than are named. */
  readonly isCut: boolean
}

/** The longest queues among those that were looked at. */
export interface QueuesLookedAt {
  readonly queues: readonly {
    readonly clientId: string
    /** Whether somebody is connected. */
    readonly isOwned: boolean
    readonly messages: number
    /** Memory that they take where they are stored, roughly. */
    readonly bytes: number
  }[]
  readonly lookedAt: number
  /** There are more sessions than were looked at. */
  readonly isCut: boolean
}

export interface ClusterInspection {
  /**
   * A page of all sessions, by a cursor: a session that is there all the time is named at least once.
   * @param cursor empty for the first one
   * @param count about so many; fewer, or none, are no end
   * @param begin Client Identifiers that begin so
   */
  sessions(cursor: string, count: number, begin?: string): Promise<SessionPage>
  /** Undefined: there is none. */
  session(clientId: string): Promise<SessionFacts | undefined>
  /** The sid of a client's session: how traces name it. Undefined: it has none. */
  sidOf(clientId: string): Promise<string | undefined>
  /** Whose sessions these are; undefined: it has ended. */
  clientsOf(sids: readonly string[]): Promise<readonly (string | undefined)[]>
  /** The longest queues, of so many sessions as may be looked at. */
  queues(count: number): Promise<QueuesLookedAt>
  targets(topic: string): Promise<TopicTargets>
  /** All groups, in no order; may be iterated over several turns. */
  groups(): Iterable<GroupFacts>
}

/** Sessions whose queues are looked at. */
export const queuesLookedAtMax = 20_000
/** Sessions and groups of one topic that are named, subscriptions of one session. */
export const targetsMax = 1_000
export const subscriptionsShown = 100
