// What a connection needs of the node around it: broker/aedes/engine.ts and broker/routing/router.ts give it. No state.
import type {
  GroupHolder,
  Making,
  Message,
  OwedReplay,
  OwedReplays,
  Session,
  SessionHolder,
  Stamps,
} from '../../bridge/index.ts'
import type { Config, ListenerConfig } from '../config/config.ts'
import type { OutboxLimits } from './outbox.ts'
import type { Holdings } from './holdings.ts'
import type { StoredMatch } from './stored-session.ts'
import type { Ahead } from '../routing/replay-pages.ts'
import type { Gate } from '../access/gate.ts'
import type { HeldCause, RefusalCause } from '../access/refusals.ts'
import type { Traces } from '../observe/traces.ts'
import type { Traffic } from '../observe/traffic.ts'
import type { ReaderLimits } from '../protocol/packet-reader.ts'
import type { ProtocolViolation } from '../protocol/properties.ts'

/** A replay that a SUBSCRIBE asked for, by its moment among the Retained Messages. */
export interface AskedReplay {
  readonly stamps: Stamps | undefined
  /** Whether its filter may match one that was stored before them. */
  readonly hasAny: boolean
  /** Of a session that has a queue: what stands in Redis of it. */
  readonly owed: OwedReplay | undefined
  /** What was read of it before SUBACK. */
  readonly ahead?: Ahead | undefined
}

export interface ConnectionHost<Connection> {
  readonly config: Config
  /** By which it came; undefined: the program handed it in. */
  readonly listener: ListenerConfig | undefined
  readonly readerLimits: ReaderLimits
  readonly outboxLimits: OutboxLimits
  readonly holdings: Holdings
  readonly traffic: Traffic
  readonly traces: Traces
  readonly gate: Gate<Connection>
  /** Takes a message of this connection; `done` when it may be acknowledged. */
  publish(message: Message, from: Connection, done: (() => void) | undefined): void
  /** Whether it may have Shared Subscriptions: CONNACK says so. */
  mayShare(): boolean
  /** Counts a message that this connection does not get. */
  dropped(cause: DropCause, qos: number): void
  /** A bug: delivering one message threw. That message is passed by, and the bug named. */
  failed(error: unknown, qos: number): void
  /** Whether there is room for a Retained Message of this topic. */
  mayRetain(topic: string, bytes: number): boolean
  /** Counts what a bound refused. */
  refused(cause: RefusalCause): void
  /** Counts that a connection is read no further until there is room. */
  heldBack(cause: HeldCause): void
  violated(connection: Connection, violation: ProtocolViolation): void
  /** The connection is behind and was given a QoS ≥ 1 message on `topic`. */
  slow(connection: Connection, topic: string): void
  /** It is behind, takes what waits for it, and who publishes on `topic` waits for it. */
  isReading(connection: Connection, topic: string): boolean
  /** It has caught up, or is gone. */
  drained(connection: Connection): void
  /** A session that outlives its connection has something to write. */
  schedule(holder: SessionHolder, mayWait?: boolean): void
  /** A member of a group has something to write. */
  scheduleMember(holder: GroupHolder): void
  /** A write for the session was refused: it is another's, or Redis lost its data. */
  writeRefused(connection: Connection): void
  /** With what a stored message is delivered, by the subscriptions that the session has now. */
  matching(connection: Connection, message: Message): Making<StoredMatch>
  /**
   * A message out of the session's queue was stored before all subscriptions that it is queued for: the
   * replay brings it.
   */
  isReplayed(connection: Connection, message: Message): boolean
  /** The client of a session that had lost subscriptions has its SUBACK or UNSUBACK. */
  subscribedAgain(session: Session): void
  /** It has a session that is owed replays: they go on. */
  goOn(connection: Connection, replays: OwedReplays): void
  /** It is another principal: what it was granted and may not have ends. */
  lookAt(connection: Connection): void
  /** Its CONNACK is written and accepts it. */
  onClient(connection: Connection): void
  /** The client said good-bye: its will is void, or its session is to live so long (s; -1: for ever). */
  farewell(connection: Connection, voidsWill: boolean, expirySeconds: number | undefined): void
  /** The connection is over: its session is nobody's. */
  releaseSession(connection: Connection): Promise<void> | undefined
  /** Its socket failed. */
  broken(connection: Connection, error: Error): void
  /** Its socket is closed, and nothing of it is left to be done; may be called again. */
  over(connection: Connection): void
}

export type DropCause =
  | 'denied'
  | 'client-bytes'
  | 'slow-subscriber'
  | 'delivery-rate'
  | 'too-large'
  | 'expired'
  | 'failed'
  | 'refused'
