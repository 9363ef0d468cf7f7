// Every ceiling of a node in one table: what an operator may change is an option in config.ts with its default here.

export const limits = {
  /** Largest MQTT packet accepted, bytes on the wire; advertised as Maximum Packet Size. */
  packetBytesMax: 1024 * 1024,
  /** Time from a connection to its CONNECT packet. */
  connectTimeoutMs: 10_000,
  /** How long a client that reads nothing may hold its connection while data waits for it. */
  drainTimeoutMs: 60_000,
  /** Levels of a topic or filter; Aedes' hard ceiling. */
  topicLevelsMax: 100,
  /** How long a graceful stop may take before connections are cut. */
  shutdownMs: 5_000,
  /** Clients told to go elsewhere per 10 ms during a graceful stop, so that they do not all knock at once. */
  disconnectsPerTurn: 100,
  /** A Redis that has not answered within this time counts as away. */
  redisTimeoutMs: 2_000,
} as const
