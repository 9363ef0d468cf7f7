// What a node tells the bridge when it joins, and what it does with what comes.
import type { SystemEvents } from './control/system-events.ts'
import type { Reports } from './diagnostics.ts'
import type { MessageTrace } from './messages/message-trace.ts'
import type { Message } from './messages/message.ts'
import type { Session } from './sessions/session.ts'
import type { Waits } from './pace/waits.ts'

/** Settings that must be the same on every node, by the name of their option. */
export type SharedSettings = Readonly<Record<string, number | string>>

export interface DataPlaneOptions {
  readonly name: string
  readonly redis: string
  readonly prefix: string
  readonly redisTimeoutMs: number
  readonly leaseMs: number
  /** Replicas of Redis that must have a message before it is acknowledged. */
  readonly durabilityReplicas: number
  /** Messages that the queue of a session holds; beyond it the oldest goes. */
  readonly queueMessagesMax: number
  /** The same in bytes. */
  readonly queueBytesMax: number
  /** Sessions in the cluster: a new one that outlives its connection is refused beyond it. */
  readonly sessionsMax: number
  /** Which groups distribute their messages how (groups/group-rules.ts). */
  readonly groupStrategies?: string
  /**
   * Settings that must be the same on every node, by the name of their option: written beside the node, for
   * the next one to compare.
   */
  readonly settings?: SharedSettings
  /** Memory that the topics of Retained Messages may take on each node: a new one is refused beyond it. */
  readonly retainedBytesMax: number
  /** How many of them there may be; undefined: any number. */
  readonly retainedMessagesMax?: number | undefined
  /** Bytes of the payload of one; undefined: any number. */
  readonly retainedMessageBytesMax?: number | undefined
  /** Retained Messages of a tenant, and what their topics may take on each node; undefined: any. */
  readonly tenantRetainedMax?: number | undefined
  readonly tenantRetainedBytesMax?: number | undefined
  /** Sessions of a tenant, in the cluster; undefined: any number. */
  readonly tenantSessionsMax?: number | undefined
  /** Sessions of a user that outlive their connections; undefined: any number. */
  readonly userSessionsMax?: number | undefined
  readonly onError: (error: Error) => void
  /** The channels of the node; undefined: nobody hears them as its own. */
  readonly reports?: Reports | undefined
  /** What requests from node to node go by; undefined: this one is asked by itself alone. */
  readonly events?: SystemEvents | undefined
  /** Where whoever waits for Redis is written down. */
  readonly waits?: Waits | undefined
}

/** What a node does with messages; all synchronous, but for a decision about a will. */
export interface Receiver {
  /** Clients whose publishes are not all acknowledged. */
  readonly publishers: number
  /** Who hears what becomes of single messages; undefined: nobody. */
  readonly traces?: MessageTrace
  /** A message for this node's own subscribers: published here or on another node. */
  deliver(message: Message): void
  /**
   * The same for one member of a group (Shared Subscription). False: none is connected here any more; settles when it
   * is stored, where the group proved to have a backlog.
   */
  deliverShared(message: Message, group: string): boolean | Promise<void>
  /**
   * Another node has subscribers that are behind: publishers on these topics are to be held back for it, or
   * no longer.
   */
  hold(nodeId: string, topics: readonly string[], held: boolean): void
  /**
   * A will is to be published by this node: as it may be published now, or undefined when it may not. Without it
   * every will may. Never rejects.
   */
  authorizeWill?(message: Message): Message | undefined | Promise<Message | undefined>
  /** A session that is connected here has something in its queue. */
  ring(sid: string): void
  /** A session that is connected here has another owner: its connection must go. */
  taken(session: Session): void
  /**
   * The client of a session that is connected here connects at another node: what it sent before comes first,
   * then its connection must go.
   */
  wanted(session: Session): void
  /** This boot is out: close every connection and start again. */
  onFenced(): void
}
