// An application message, and the only place that makes one. It is three things, kept apart:
// - its value, what the publisher said: the same on every node; codec.ts writes it for the journey and the store;
// - `by`, who published it, as only the node knows that it came to;
// - what is cached of it: bytes that were made of its value, for all that need the same.
// A message never changes, but for its stamp: who needs another value makes another message with `with`, which has
// nothing cached. What belongs to one delivery (DUP, Packet Identifier, granted QoS) is not the message's. No state.

/** Who published a message, as its own node knows. */
export interface Publisher {
  /** Client Identifier, for No Local. */
  readonly clientId: string | undefined
  /**
   * Of a will: the user name that its client had proved, null for none; undefined: not known, or the client
   * had permissions of its own. By it the rules decide again when the will is published.
   */
  readonly user?: string | null | undefined
  /** Its session, where that has a queue: for No Local there. */
  readonly sid?: string | undefined
  /** Of a QoS 2 message or a will: with its session, what a second publishing is told by. 0: nothing needs to. */
  readonly number?: number
  /** Whose numbers these are, when not its session's: those of a will. */
  readonly numberedBy?: string
  /**
   * The session of the connection that it came by. Once that is taken, its client publishes elsewhere, and what this
   * node still has of it comes too late.
   */
  readonly session?: { readonly isTaken: boolean } | undefined
}

/** What a message is made of. */
export interface MessageFields {
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
  readonly expirySeconds: number | undefined
  /** A will: its publisher's Client Identifier goes with it, since its client may be connected anywhere by now. */
  readonly isWill: boolean
  /** A Retained Message because of a SUBSCRIBE: delivered with RETAIN 1 [MQTT-3.3.1-8]. */
  readonly replay: boolean
  /**
   * With `retain`, once it is stored: under which stamp (moment.ts). Infinity: it comes live whatever a
   * replay finds; undefined: too, and says nothing of others.
   */
  readonly stamp: number | undefined
  /** Undefined: another node knows, or it is the broker's own. */
  readonly by: Publisher | undefined
}

export class Message implements MessageFields {
  readonly topic: string
  readonly payload: Buffer
  readonly qos: 0 | 1 | 2
  readonly retain: boolean
  readonly properties: Buffer | undefined
  readonly expiresAt: number
  readonly expirySeconds: number | undefined
  readonly isWill: boolean
  readonly replay: boolean
  stamp: number | undefined
  readonly by: Publisher | undefined
  /** What it takes, User Properties and all. */
  readonly bytes: number
  /** Set when it is stored: nobody in the cluster was subscribed to it. */
  isUnmatched = false
  /** Cached: its PUBLISH packets, by variant. Who encodes them fills it (broker/protocol/publish-frame.ts). */
  frames: unknown = undefined
  /** Cached: its bytes as codec.ts makes them, once somebody needed them. */
  packed: Buffer | undefined = undefined

  /** By position and in one order, so that all messages have one hidden class. */
  private constructor(
    topic: string,
    payload: Buffer,
    qos: 0 | 1 | 2,
    retain: boolean,
    properties: Buffer | undefined,
    expiresAt: number,
    expirySeconds: number | undefined,
    by: Publisher | undefined,
    isWill: boolean,
    replay: boolean,
    stamp: number | undefined,
  ) {
    this.topic = topic
    this.payload = payload
    this.qos = qos
    this.retain = retain
    this.properties = properties
    this.expiresAt = expiresAt
    this.expirySeconds = expirySeconds
    this.isWill = isWill
    this.replay = replay
    this.stamp = stamp
    this.by = by
    this.bytes = topic.length + payload.length + (properties?.length ?? 0)
  }

  /** A client's PUBLISH. @param expirySeconds runs from now on; -1: it has no Message Expiry Interval */
  static published(
    topic: string,
    payload: Buffer,
    qos: 0 | 1 | 2,
    retain: boolean,
    properties: Buffer | undefined,
    expirySeconds: number,
    by: Publisher | undefined,
  ): Message {
    const expiresAt = expirySeconds < 0 ? 0 : expiryFrom(expirySeconds)
    const interval = expirySeconds < 0 ? undefined : expirySeconds
    return new Message(
      topic,
      payload,
      qos,
      retain,
      properties,
      expiresAt,
      interval,
      by,
      false,
      false,
      undefined,
    )
  }

  /** A will, as CONNECT names it. @param expirySeconds runs once it is published; -1: none */
  static will(
    {
      topic,
      payload,
      qos,
      retain,
      properties,
      expirySeconds,
    }: Pick<MessageFields, 'topic' | 'payload' | 'qos' | 'retain' | 'properties'> & {
      readonly expirySeconds: number
    },
    by: Pick<Publisher, 'clientId' | 'user'>,
  ): Message {
    const expires = expirySeconds < 0 ? undefined : expirySeconds
    return new Message(topic, payload, qos, retain, properties, 0, expires, by, true, false, undefined)
  }

  /** Of the broker itself ($SYS), or of the program around it. */
  static ofBroker(topic: string, payload: Buffer, qos: 0 | 1 | 2 = 0, retain = false): Message {
    return new Message(
      topic,
      payload,
      qos,
      retain,
      undefined,
      0,
      undefined,
      undefined,
      false,
      false,
      undefined,
    )
  }

  /** Another broker's, or another node's: what is not given is not there. */
  static of(
    fields: Pick<MessageFields, 'topic' | 'payload' | 'qos' | 'retain'> & Partial<MessageFields>,
  ): Message {
    const { topic, payload, qos, retain, properties, expiresAt = 0, expirySeconds, by } = fields
    const { isWill = false, replay = false, stamp } = fields
    return new Message(
      topic,
      payload,
      qos,
      retain,
      properties,
      expiresAt,
      expirySeconds,
      by,
      isWill,
      replay,
      stamp,
    )
  }

  /** Another message, which is this one but for what is given. */
  with(changes: Partial<MessageFields>): Message {
    return Message.of(Object.assign({} as MessageFields, this, changes))
  }

  /** A will as it is published: its Message Expiry Interval begins to run (MQTT 5 section 3.1.3.2.4). */
  willPublished(by: Omit<Publisher, 'clientId' | 'user'>): Message {
    const { expirySeconds } = this
    const { clientId, user } = this.by ?? {}
    return this.with({
      by: { ...by, clientId, user },
      expiresAt: expirySeconds === undefined ? 0 : expiryFrom(expirySeconds),
    })
  }
}

const noIdentity = ['', 0] as const

/** What tells a second publishing of a message: who numbers it, and its number; ['', 0] when nothing needs to. */
export function identityOf({ by }: Message): readonly [sid: string, n: number] {
  if (by?.number === undefined || by.number === 0) return noIdentity
  return [by.numberedBy ?? by.sid ?? '', by.number]
}

/** Its client's session was taken before it was stored: what comes of it here comes too late. */
export const isTooLate = ({ by }: Message): boolean => by?.session?.isTaken === true

/** Four bytes hold it. */
export const expirySecondsMax = 0xffffffff

/** When a message expires whose interval begins to run now. */
const expiryFrom = (expirySeconds: number): number => performance.now() + expirySeconds * 1_000

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
