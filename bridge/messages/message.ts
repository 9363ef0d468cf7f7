// An application message on its way: what a publisher handed in and every subscriber is owed, without what
// belongs to one delivery (DUP, Packet Identifier, granted QoS). The same shape in every node;
// bridge/messages/codec.ts writes it for the journey.

export interface Message {
  readonly topic: string
  readonly payload: Buffer
  /** As published; a delivery has the lower of this and the granted one [MQTT-3.8.4-8]. */
  readonly qos: 0 | 1 | 2
  /** As published. */
  readonly retain: boolean
  /**
   * The PUBLISH properties as bytes (MQTT 5 section 3.3.2.3, without length, Topic Alias, Message Expiry
   * Interval).
   */
  readonly properties: Buffer | undefined
  /**
   * When it expires, by performance.now() of this process; 0 = never, or not before it is published: a will.
   */
  readonly expiresAt: number
  /** Its Message Expiry Interval as the publisher gave it, s: it is never sent with more. */
  readonly expirySeconds?: number | undefined
  /**
   * Client Identifier of the publisher, for No Local; undefined for messages of other nodes, unless they are
   * wills, and of the broker.
   */
  readonly publisher: string | undefined
  /**
   * The publisher's session: for No Local of sessions with queues, and, with n > 0, the identity of a QoS 2
   * message or a will, whose numbers are not those of its session: `name` stands for it. On its own node
   * only.
   */
  readonly origin: { readonly sid: string; readonly n: number; readonly name?: string } | undefined
  /** A will: its publisher goes with it to all nodes, since its client may be connected to any by now. */
  readonly isWill?: boolean | undefined
  /**
   * The session of the connection that handed it in. Once that is taken, its client publishes elsewhere, and
   * what this node still has of it comes too late.
   */
  readonly from?: { readonly isTaken: boolean } | undefined
  /** A Retained Message because of a SUBSCRIBE: delivered with RETAIN 1 [MQTT-3.3.1-8]. */
  readonly replay?: boolean
  /**
   * With `retain`, once it is stored: under which stamp (moment.ts). Infinity: it comes live whatever a
   * replay finds; undefined: too, and says nothing of others.
   */
  stamp?: number | undefined
  /** Set when it is stored: nobody in the cluster was subscribed to it. */
  isUnmatched?: boolean
  /** Encoded frames of this message, by variant; filled by who encodes (broker/protocol/publish.ts). */
  frames: unknown
  /** Its bytes as `packMessage` makes them, once somebody needed them. */
  packed?: Buffer | undefined
}

/**
 * What tells a second publishing of a message: its publisher's session and a number; ['', 0] when nothing
 * needs to.
 */
export function identityOf({ origin }: Message): readonly [sid: string, n: number] {
  return origin === undefined || origin.n === 0 ? ['', 0] : [origin.name ?? origin.sid, origin.n]
}

/** Four bytes hold it. */
export const expirySecondsMax = 0xffffffff

/** When a message expires whose interval begins to run now. */
export const expiryFrom = (expirySeconds: number): number => performance.now() + expirySeconds * 1_000

/** Its Message Expiry Interval has passed [MQTT-3.3.2-5]. */
export const isExpired = ({ expiresAt }: Pick<Message, 'expiresAt'>): boolean =>
  expiresAt !== 0 && expiresAt <= performance.now()

/**
 * Message Expiry Interval as it is when the message leaves: what was received, less what it waited
 * [MQTT-3.3.2-6].
 */
export function secondsLeft(expiresAt: number, expirySeconds = expirySecondsMax): number {
  const left = Math.max(1, Math.ceil((expiresAt - performance.now()) / 1_000))
  return Math.min(left, expirySeconds, expirySecondsMax)
}
