// A session as its owner knows it: what its client asked for, and what the claim found.
// bridge/sessions/claims.ts makes it.
import type { Later } from '../messages/codec.ts'
import type { Message } from '../messages/message.ts'
import type { Field, OwedReplays } from './owed-replays.ts'
import type { StoredSubscription } from './stored-subscription.ts'

export interface InFlightEntry {
  readonly messageId: number
  /** Deliveries are sent again in this order. */
  readonly order: number
  /**
   * undefined: PUBREC came, only PUBREL is owed [MQTT-4.3.3-5]; `later`: it stays in flight for a node that
   * understands it.
   */
  readonly message: Message | Later | undefined
}

export interface SessionRequest {
  /** When its CONNECT came, by performance.now(); undefined: now. */
  readonly cameAt?: number
  readonly clientId: string
  readonly cleanStart: boolean
  /** Seconds; -1: never; 0: it ends with the connection. */
  readonly expirySeconds: number
  readonly will: { readonly message: Message; readonly delaySeconds: number } | undefined
  /** Who connects; the session that a claim makes is this one's. Undefined: nobody knows. */
  readonly user?: string | undefined
  /** It may have what another user made: the session is its own from then on. */
  readonly mayTakeAnybodys?: boolean | undefined
}

/** Fields and values of {s<n>}:inflight, incoming and session. */
export interface UnderWay {
  readonly inFlight: readonly (readonly [messageId: number, entry: string])[]
  readonly incoming: readonly (readonly [messageId: number, entry: string])[]
  readonly fields: readonly Field[]
}

/** A session whose client is connected here. */
export interface Session {
  readonly sid: string
  /** Node id, space, epoch: what every write of ours carries. */
  readonly owner: string
  /** Which claim of this node it is: of two claims of one session the later one counts. */
  readonly claim: number
  /** What CONNECT asked for, and DISCONNECT changed. */
  request: SessionRequest
  /** An earlier connection left it: it may have something in its queue. */
  readonly isResumed: boolean
  /** Subscriptions that an earlier connection left, and that Redis has lost; 0 again when its client has subscribed. */
  lost: number
  /** Session Present as CONNACK says it: not of one that has lost subscriptions, so that its client subscribes again. */
  readonly present: boolean
  /** Changed by bridge/sessions/subscriptions.ts alone; sessions without any share one. */
  subscriptions: Map<string, StoredSubscription>
  /** Settles when those that an earlier connection left are among them; undefined: they are. */
  reading: Promise<void> | undefined
  /**
   * Filters of its subscriptions that a later version wrote and this one does not understand: they stay in
   * Redis.
   */
  later: readonly string[]
  /** The name of their last change, as Redis has it. */
  changed: string
  /** What an earlier connection left in flight, until this one takes it over. */
  inFlight: readonly InFlightEntry[]
  /** Replays that SUBSCRIBEs began and that are not over; undefined: there never was one. */
  replays: OwedReplays | undefined
  /** QoS 2 publishes of the client between PUBLISH and PUBREL, by Packet Identifier. */
  readonly incoming: ReadonlyMap<number, { readonly n: number; readonly published: boolean }>
  /**
   * Number of its last QoS 2 publish. An earlier session begins at the time of its claim (µs): whatever Redis
   * lost of its numbers, none is given again that a partition may have applied, since such a publish would
   * pass for a duplicate. Of a new one nothing is.
   */
  n: number
  /** `n` as long as no QoS 2 publish of the session is known: there is nobody to forget when it ends. */
  readonly unpublishedN: number | undefined
  /**
   * What its connection knows of deliveries and publishes under way, to be written down again when Redis lost
   * it.
   */
  underWay: (() => UnderWay) | undefined
  /** Its client connects at another node, which has asked for it. */
  isWanted: boolean
  /** Another connection of its client has it. */
  isTaken: boolean
}

/** Which claim of its session made it the owner: of two owners the one with the greater epoch is later. */
export const epochOf = (owner: string): number => Number(owner.slice(owner.indexOf(' ') + 1))
