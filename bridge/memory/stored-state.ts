// What a node without Redis keeps of one session. state.ts alone changes it.
import type { StoredSubscription } from '../sessions/stored-subscription.ts'
import type { Queue } from './queue.ts'

/** A will that is not published yet. */
export interface StoredWill {
  readonly body: Buffer
  /** s */
  readonly delay: number
}

/** A will that is due and not decided yet: its session may have ended since, or have another will. */
export interface DueWill {
  readonly body: Buffer
  /** Of the session that its client has by now: No Local is about that. */
  readonly sid: string
}

export interface StoredDelivery {
  readonly order: number
  /** undefined: PUBREC came, only PUBREL is owed. */
  readonly body: Buffer | undefined
}

/** What outlives a connection. */
export interface StoredState {
  readonly sid: string
  readonly clientId: string
  /** Who made it; undefined: nobody knows. */
  user: string | undefined
  /** Of its owner; grows with every claim. */
  epoch: number
  /** A client is connected to it. */
  isOwned: boolean
  /** s; -1: never; 0: it ends with the connection. */
  expiry: number
  will: StoredWill | undefined
  /** When its client went (wall clock, ms). */
  releasedAt: number
  readonly subscriptions: Map<string, StoredSubscription>
  readonly queue: Queue
  readonly inFlight: Map<number, StoredDelivery>
  /** QoS 2 publishes of the client between PUBLISH and PUBREL: Packet Identifier → n, and " published". */
  readonly incoming: Map<number, string>
  /** Number of its last QoS 2 publish, and of the last one that is stored for everybody. */
  n: number
  published: number
  /** Replays that it is owed (owed-replays.ts). */
  readonly fields: Map<string, Buffer | string>
}
