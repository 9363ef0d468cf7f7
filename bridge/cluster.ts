// What a node needs of its cluster, whatever keeps it: Redis (data-plane.ts) or this process alone (memory/).
// A node knows this and nothing behind it. What each promise means is a test that every implementation passes
// (test/contract/cluster.test.ts).
import type { ClusterRequests } from './control/requests.ts'
import type { GroupHolder } from './groups/group-holder.ts'
import type { ClusterInspection } from './inspection/inspection.ts'
import type { Message } from './messages/message.ts'
import type { Stamps, StampsRead } from './retained/moment.ts'
import type { Route } from './routes/routing-table.ts'
import type { SessionHolder } from './sessions/session-writer.ts'
import type { Session, SessionRequest } from './sessions/session.ts'
import type { StoredSubscription } from './sessions/stored-subscription.ts'

/** Of some topics the Retained Messages, as far as they fit. */
export interface RetainedRead {
  readonly messages: readonly Message[]
  /** Topics that were not read any more. */
  readonly unread: readonly string[]
  /** Bytes that the first of them takes; 0: unknown. */
  readonly nextBytes: number
}

/** One boot of a node in its cluster: from joining until it closes, or is fenced. */
export interface Cluster {
  /** Name and boot: no two boots have one. */
  readonly nodeId: string
  /** Nodes alive as this node knows them, itself included. */
  readonly nodes: readonly string[]
  readonly routes: Iterable<Route>
  /** Memory that the routes of the cluster take here, bytes, roughly. */
  readonly routingBytes: number
  /** Messages to many sessions that are not stored yet, counted for each session, and the bytes that they hold. */
  readonly unstored: { readonly deliveries: number; readonly bytes: number }
  /** Whether there is a route for a filter, whosever it is. */
  isRouted(filter: string): boolean
  /** The others declared this boot dead: its receiver was told. */
  readonly isFenced: boolean
  readonly sessions: ClusterSessions
  readonly requests: ClusterRequests
  readonly inspection: ClusterInspection

  // Live subscribers of this node

  /**
   * Resolves when every PUBLISH that is handed in anywhere from now on finds the subscription (P2).
   * @param kind a bit of RouteKind
   * @param sessionWrite the write of a session that it may wait for, to be journaled together
   */
  addRoute(filter: string, kind: number, sessionWrite?: Promise<unknown>): Promise<void>
  removeRoute(filter: string, kind: number): void
  /** Whether all nodes know Shared Subscriptions: while one of an earlier version is there nobody may have one. */
  readonly hasGroups: boolean
  /**
   * A member of a group is connected here: resolves when every PUBLISH from now on may come to it, on every node.
   * @param group `$share/{ShareName}/{filter}`
   */
  addMember(group: string): Promise<void>
  removeMember(group: string): void
  readonly groups: ClusterGroups
  /** Whether anybody in the cluster has a live subscription that matches. */
  isWanted(topic: string): boolean

  // Messages

  /** A QoS 0 message that is not to be retained: handed on at once, never stored. */
  publishQos0(message: Message): void
  /**
   * A message to be stored first: QoS ≥ 1, or retained. `done` is called when it is stored for everybody who
   * was subscribed (P1), in order.
   */
  publish(message: Message, done: () => void): void
  /**
   * Publishers on `topic` are to be held back everywhere, since subscribers here are behind; or no longer.
   */
  hold(topic: string, held: boolean): void

  // Retained Messages

  /** Topics that have one in the cluster, as this node knows them. */
  readonly retainedTopics: number
  /** Tenants that have some. */
  readonly retainedTenants: readonly string[]
  /** Whether there is room for one of this topic. @param bytes of its payload */
  mayRetain(topic: string, bytes: number): boolean
  /** Where what is subscribed by now stands among them (moment.ts). */
  stamps(): Promise<StampsRead>
  /** Counters that were stored, of a subscription that an earlier connection began. */
  stampsOf(of: Float64Array): Stamps
  /**
   * Whether `filter` may match one that is stored by now.
   * @param told of stamps: one that was stored before them
   */
  hasRetained(filter: string, told?: Promise<void>): Promise<boolean>
  /** The topics that `filter` matches and that may have one. */
  topics(filter: string): Promise<AsyncIterator<string>>
  /**
   * Those of some topics as they are now, as many as have room in `bytesMax`; none when even the first is
   * larger.
   */
  retained(topics: readonly string[], bytesMax: number): Promise<RetainedRead>

  // Sessions

  /** A write of an owner was refused: whether the session is its own after all. */
  stillOwned(session: Session): Promise<boolean>
  /**
   * A session's holder has something to write, or should look into its queue. `mayWait`: nobody waits for it,
   * so it may be written a few milliseconds later, with what comes meanwhile.
   */
  schedule(holder: SessionHolder, mayWait?: boolean): void

  /** Leaves the cluster. */
  close(): Promise<void>
}

/** Groups as their members' node has to do with them; a session that outlives its connection makes a backlog. */
export interface ClusterGroups {
  /**
   * A member is connected here: resolves when what is published from now on may come to it.
   * @throws BridgeError ERR_BRIDGE_QUOTA when the group is full, ERR_BRIDGE_MOVED
   */
  join(holder: GroupHolder): Promise<void>
  /**
   * Its connection is over, or it unsubscribed (`isLeft`): resolves when what it did not acknowledge goes to
   * others, and a group that has no member any more is forgotten.
   */
  leave(holder: GroupHolder, isLeft: boolean): Promise<void>
  /** It has something to write. */
  schedule(holder: GroupHolder): void
  /** Puts a message into the backlogs of groups that have one; resolves when it is stored. */
  push(message: Message, names: readonly string[]): Promise<void>
  /** Backlogs as this node saw them last. */
  readonly counts: ReadonlyMap<string, { readonly messages: number; readonly bytes: number }>
}

export interface ClusterSessions {
  /** The session of a client that is connected here. */
  connected(sid: string): Session | undefined
  /**
   * Makes this node the owner of the client's session. When it resolves no earlier connection of the client
   * can touch the session, and nothing that one hands in from now on is acknowledged (P6).
   * @param abandoned whether the client has left meanwhile
   * @param givenUp settles when nobody waits for it any more
   * @throws BridgeError ERR_BRIDGE_QUOTA when there are as many sessions as there may be, ERR_BRIDGE_FOREIGN when it
   * is another user's, ERR_BRIDGE_CLOSED when the client has left,
   *   ERR_BRIDGE_MOVED when it has connected anew meanwhile
   */
  claim(request: SessionRequest, abandoned?: () => boolean, givenUp?: Promise<void>): Promise<Session>
  /**
   * The client said good-bye.
   * @param voidsWill DISCONNECT with reason code 0 [MQTT-3.14.4-3]
   * @param expirySeconds when DISCONNECT changes it; -1: never
   */
  farewell(session: Session, voidsWill: boolean, expirySeconds: number | undefined): Promise<void>
  /** Tells another node, which waits for the session, that what its client sent before takes a moment yet. */
  leaves(session: Session): Promise<void>
  /** The connection is gone. Resolves when another one of its client may come, and publish after its will. */
  release(session: Session): Promise<void>
  /** Resolves when the wills that it is publishing are stored. */
  settled(): Promise<void>
  /**
   * Resolves when the subscription is stored and every PUBLISH from now on finds it.
   * @throws BridgeError ERR_BRIDGE_MOVED
   */
  subscribe(session: Session, filter: string, subscription: StoredSubscription): Promise<void>
  /** The client of a session that had `lost` subscriptions has subscribed: it is no longer told so. */
  subscribedAgain(session: Session): Promise<void>
  /** @throws BridgeError ERR_BRIDGE_MOVED */
  unsubscribe(session: Session, filters: readonly string[]): Promise<void>
}
