// Every ceiling of a node in one table: what an operator may change is an option in config.ts with its default here.

export const limits = {
  /** Largest MQTT packet accepted, bytes on the wire; advertised as Maximum Packet Size. */
  packetBytesMax: 1024 * 1024,
  /** Time from a connection to its CONNECT packet. */
  connectTimeoutMs: 10_000,
  /** How long a client that reads nothing may hold its connection while data waits for it. */
  drainTimeoutMs: 60_000,
  /** Levels of a filter, Aedes' hard ceiling, and of a Topic Name. */
  topicLevelsMax: 100,
  /** How long a graceful stop may take before connections are cut. */
  shutdownMs: 5_000,
  /** Clients told to go elsewhere per 10 ms during a graceful stop, so that they do not all knock at once. */
  disconnectsPerTurn: 100,
  /** A Redis that has not answered within this time counts as away. */
  redisTimeoutMs: 2_000,
  /** A node whose lease was not renewed for so long may be declared dead by the others. */
  leaseMs: 15_000,
  /** Messages that wait in the queue of a session; beyond it the oldest goes, and is counted. */
  queueMessagesMax: 100_000,
  /** Topic Aliases a client may use towards us; advertised as Topic Alias Maximum. */
  topicAliasMax: 100,
  /** QoS ≥ 1 publishes of one connection that are not acknowledged: beyond it we stop reading. Advertised as Receive Maximum. */
  publishingMax: 1_000,
  /** The same in bytes: with all that waits before it in a node, it is what a small message of another client may have to wait for. */
  publishingBytesMax: 256 * 1024,
  /** SUBSCRIBE and UNSUBSCRIBE packets of one connection that wait for its publishes and for one another. */
  controlPacketsMax: 40,
  /** QoS ≥ 1 deliveries in flight to one connection, whatever Receive Maximum it names. */
  inFlightMax: 1_000,
  /** Bytes in flight of one session: more is not taken out of its queue, and a claim brings no more back; the last message may exceed it. */
  inFlightBytesMax: 16 * 1024 * 1024,
  /** Bytes waiting for a connection above which it is slow (QoS 0 is dropped), and at which it is drained again. */
  outboxHighBytes: 1024 * 1024,
  outboxLowBytes: 256 * 1024,
  /** Bytes waiting for a connection at which it is ended. */
  waitingBytesMax: 16 * 1024 * 1024,
  /** How long a slow subscriber may hold back who publishes to it before they go on without it. */
  slowHoldMs: 1_000,
  /** What a client has for reading why its connection ends, whether it ends its side or not. */
  lingerMs: 500,
} as const
