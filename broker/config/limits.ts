// The defaults of the ceilings that an operator may set; options.ts makes options of them, and has those that are unset by
// default. What a store bounds stands in its own options (bridge/redis/options.ts, bridge/memory/options.ts). A few that
// belong together with one of these are no options, and say why. Which file checks a bound, and what the client gets that
// goes beyond it: access/refusals.ts, also a table in broker/README.md. Ceilings that nobody need set are constants at
// the head of the file that keeps them, and are called `…Max` or `…Bytes`.

export const limits = {
  /** Largest MQTT packet accepted, bytes on the wire; advertised as Maximum Packet Size. */
  packetBytesMax: 1024 * 1024,
  /** Time from a connection to its CONNECT packet. */
  connectTimeoutMs: 10_000,
  /**
   * What a CONNECT waits for its session while the store is away; then it is told to come again. Less than
   * clients wait for CONNACK.
   */
  claimTimeoutMs: 10_000,
  /** CONNECTs that wait so; one beyond that is told to come again at once. */
  claimsWaitingMax: 1_000,
  /** How long a client that reads nothing may hold its connection while data waits for it. */
  drainTimeoutMs: 60_000,
  /** What a guard at the gate has for a decision. */
  decisionTimeoutMs: 5_000,
  /** Filters of one SUBSCRIBE that a guard decides at once. No option: the others wait, and none is refused. */
  decisionsMax: 100,
  /** Levels of a filter, Aedes' hard ceiling, and of a Topic Name: each costs every node memory. */
  topicLevelsMax: 100,
  /** Bytes of a filter and of a Topic Name: by default what the standard has room for. */
  topicBytesMax: 65_535,
  /**
   * Bytes of a Client Identifier: it stands in keys, logs and entries of the journal. A longer one is refused
   * with 0x85.
   */
  clientIdBytesMax: 1_024,
  /**
   * Bytes of CONNECT, which is all that a stranger may make us keep: a Will, a user name and a password of 64
   * KiB each fit in.
   */
  connectBytesMax: 384 * 1024,
  /** Connections of a node; one more is refused with 0x97. */
  connectionsMax: 200_000,
  /** Connections that have not sent their CONNECT: one more, and the oldest of them goes. */
  connectingMax: 5_000,
  /** Connections that a listener lets in within a second: the others wait, unread. Any number by default. */
  connectsPerSecondMax: undefined,
  /** What a connection may wait for that: less than clients wait for CONNACK. No option: its client has gone by then. */
  connectsWaitMs: 20_000,
  /**
   * Connections of an address (IPv6: of a network of 64 bits) to a node, also before CONNECT: one more is closed. Any
   * number by default: a proxy that says nothing, or a whole country behind one address, is one.
   */
  addressConnectionsMax: undefined,
  /** Connections of a user to a node: one more is refused with 0x97. Any number by default. */
  userConnectionsMax: undefined,
  /** PUBLISH packets of a client within a second: it is read no further for a while. Any number by default. */
  publishesPerSecondMax: undefined,
  /** The same for the bytes of their topics and payloads. */
  publishBytesPerSecondMax: undefined,
  /** Connects of a client to a node within a minute: who connects more often is banned for a while. Any number by default. */
  flappingConnectsMax: undefined,
  flappingBanSeconds: 300,
  /** Filters of one SUBSCRIBE: those after them are refused with 0x97. Their bytes are the packet's. */
  subscribeFiltersMax: 100_000,
  /** Subscriptions of one client: one more is refused with 0x97. */
  subscriptionsMax: 100_000,
  /**
   * What the subscriptions of one client may cost this node in memory, bytes (bridge/matching/topic.ts): one more is
   * refused with 0x97.
   */
  subscriptionBytesMax: 96 * 1024 * 1024,
  /**
   * What all subscriptions here, and all routes of the cluster, may cost a node: no more are taken at this
   * one.
   */
  routingBytesMax: 1024 * 1024 * 1024,
  /** Longest Session Expiry Interval: who asks for more, or for ever, gets this, and is told in CONNACK. */
  sessionExpirySecondsMax: 90 * 24 * 3_600,
  /** Longest Message Expiry Interval, of each message that a client publishes, also without one. None by default. */
  messageExpirySecondsMax: undefined,
  /** How long a graceful stop may take before connections are cut. */
  shutdownMs: 5_000,
  /** Clients that are told to go within a second, when a node stops or is drained: so many knock elsewhere. */
  drainRate: 1_000,
  /** Messages that wait in the queue of a session; beyond it the oldest goes, and is counted. */
  queueMessagesMax: 100_000,
  /** The same in bytes: that many small messages fit in, and some large ones. */
  queueBytesMax: 64 * 1024 * 1024,
  /**
   * Memory that the topics of all Retained Messages may take on each node: about two million of three levels.
   * A store in memory: the messages, too.
   */
  retainedBytesMax: 1024 * 1024 * 1024,
  /** Sessions in the cluster; one more that outlives its connection is refused with 0x97. */
  sessionsMax: 2_000_000,
  /**
   * What a node holds for its clients as a whole, bytes: incomplete packets, publishes that are not stored,
   * what waits to be read.
   */
  clientBytesMax: 512 * 1024 * 1024,
  /**
   * Topic Aliases that we use towards a client, however many it takes, and the longest topic that gets one. No
   * option: beyond them a topic is sent as it is.
   */
  topicAliasesMax: 64,
  aliasedTopicMax: 512,
  /** Topic Aliases a client may use towards us; advertised as Topic Alias Maximum, beyond it 0x94. */
  topicAliasMax: 100,
  /**
   * Advertised as Receive Maximum: QoS ≥ 1 publishes of one connection that are not acknowledged. At so many
   * we stop reading; QoS 2 ones that are not released cannot be held back, one more ends the connection with
   * 0x93.
   */
  receiveMaximum: 1_000,
  /**
   * QoS 2 publishes that are not released, of a connection that was told no Receive Maximum (3.1.1), as many
   * times as of one that was. No option: it follows receiveMaximum.
   */
  unannouncedFactor: 10,
  /**
   * The same in bytes: with all that waits before it in a node, it is what a small message of another client
   * may have to wait for.
   */
  publishingBytesMax: 256 * 1024,
  /**
   * SUBSCRIBE and UNSUBSCRIBE packets of one connection that wait for its publishes and for one another;
   * together they have `publishingBytesMax`.
   */
  controlPacketsMax: 40,
  /**
   * Bytes of Retained Messages that are read for one client and not sent yet, because of its SUBSCRIBEs; the
   * rest waits for room.
   */
  replayBytesMax: 1024 * 1024,
  /**
   * Subscriptions of a session registered at once when its client returns. No option: the others wait, and none is
   * refused.
   */
  restoredPerTurn: 200,
  /** QoS ≥ 1 deliveries in flight to one connection, whatever Receive Maximum it names. */
  inFlightMax: 1_000,
  /**
   * Bytes in flight of one session: more is not taken out of its queue, and a claim brings no more back; the
   * last message may exceed it.
   */
  inFlightBytesMax: 16 * 1024 * 1024,
  /**
   * Bytes waiting for a connection above which it is slow (QoS 0 is dropped, publishers wait); at a quarter of it
   * the connection has drained.
   */
  slowBytesMax: 1024 * 1024,
  /** Bytes waiting for a connection, besides a packet of the largest size, at which it is ended with 0x97. */
  waitingBytesMax: 16 * 1024 * 1024,
  /** How long a slow subscriber may hold back who publishes to it before they go on without it. */
  slowHoldMs: 1_000,
  /**
   * What a connection whose client has ended its side has for doing what was sent before, when the same
   * client connects anew. No option: it is less than clients wait for CONNACK, and its client has gone.
   */
  leaveMs: 2_000,
  /**
   * What a client has for reading why its connection ends, whether it ends its side or not. No option: a round trip
   * to anywhere.
   */
  lingerMs: 500,
} as const
