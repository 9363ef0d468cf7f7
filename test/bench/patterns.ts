// What is measured: the table of patterns, and the words in which the processes of the benchmark speak of a
// run. A pattern says who publishes what to whom and where; it knows no system. `same` has all clients at
// node 0, `across` has the publishers at node 0 and the subscribers at node 1, so a system of one node takes
// part in `same` only.

export type Shape = 'pair' | 'fan-in' | 'fan-out'

interface Base {
  readonly name: string
  readonly about: string
  /** Whether publishers and subscribers are at different nodes. */
  readonly across: boolean
  /**
   * How many nodes it takes, when that is not a matter of the system; a system of one node then takes no
   * part.
   */
  readonly nodes?: number
  /** Bytes of payload, where the shape says so. */
  readonly payloadBytes?: number
  /** The only systems that take part. */
  readonly systems?: readonly string[]
}

export interface Throughput extends Base {
  readonly kind: 'throughput'
  readonly qos: 0 | 1
  readonly shape: Shape
  readonly publishers: number
  readonly subscribers: number
  readonly persistent: boolean
  /** The subscribers are one group: a message goes to one of them. */
  readonly shared?: true
  /** Idle wildcard filters that join and leave, twice, with a window each time; 0: there is one window. */
  readonly idleFilters: number
  /** How many messages a publisher may be ahead of its subscribers, so that nobody has to drop. */
  readonly aheadMax: number
  /**
   * Messages per second of all publishers together, whatever comes back (open loop); 0: as fast as it goes.
   */
  readonly rate: number
}

export interface Mixed extends Base {
  readonly kind: 'mixed'
  /** QoS 1 messages that one publisher sends … */
  readonly count: number
  /** … while another sends so many QoS 0 messages per second. */
  readonly rate: number
}

export interface IdleConnections extends Base {
  readonly kind: 'idle-connections'
  readonly count: number
  /** Connections made before the measured ones, so that code and heap are warm. */
  readonly warm: number
}

export interface Connects extends Base {
  readonly kind: 'connects'
  readonly clean: boolean
  /** Clients that connect and subscribe to one filter each. */
  readonly count: number
  /** Of them a second, over all nodes in turn (open loop); 0: as fast as it goes, a hundred under way. */
  readonly rate: number
  /** Came and went before the measured ones, so that code and heap are warm. */
  readonly warm: number
}

export interface Storm extends Base {
  readonly kind: 'storm'
  /** Persistent sessions whose node is killed; half of them have a message waiting when they come back. */
  readonly sessions: number
  /** Messages per second of a pair that is at the nodes that stay. */
  readonly rate: number
}

/** Ways to say who one is. */
export const loginKinds = [
  'anonymous',
  'password-file',
  'stored-users',
  'jwt',
  'webhook',
  'certificate',
] as const
export type LoginKind = (typeof loginKinds)[number]

/** What client `i` brings: user `i % users`, and one of the passwords. */
export interface Proofs {
  readonly users: number
  /** One for all, or one for each user. */
  readonly passwords: readonly string[]
  /** PEM. */
  readonly tls?: { readonly ca: string; readonly cert: string; readonly key: string }
}

/** A storm of logins, with each kind of authentication. */
export interface Logins extends Base {
  readonly kind: 'logins'
  readonly link: LoginKind
  /** Clients. */
  readonly count: number
}

export interface Overload extends Base {
  readonly kind: 'overload'
  /** Messages per second of the healthy pair. */
  readonly rate: number
  /** What the publishers of the flood offer together, at most. */
  readonly floodBytesPerSecond: number
  readonly floodPayloadBytes: number
}

export interface Failover extends Base {
  readonly kind: 'failover'
  /** Persistent sessions whose node is killed. */
  readonly clients: number
  /** Messages per second that are published for them meanwhile. */
  readonly rate: number
}

export interface ManySubscriptions extends Base {
  readonly kind: 'many-subscriptions'
  readonly sessions: number
  readonly filtersEach: number
}

export interface ManyRetained extends Base {
  readonly kind: 'many-retained'
  /** Topics are `bench/<a>/<b>/<c>`, each a number below this; a wildcard in place of one selects so many. */
  readonly side: number
  /** SUBSCRIBEs that are timed, one after the other. */
  readonly subscribes: number
}

export type Pattern =
  | Throughput
  | Mixed
  | IdleConnections
  | Connects
  | Storm
  | Logins
  | Overload
  | Failover
  | ManySubscriptions
  | ManyRetained

/** What the load process is told. */
export interface LoadOrder {
  readonly pattern: Pattern
  /** MQTT ports: one for each node. */
  readonly ports: readonly number[]
  readonly brokerPids: readonly number[]
  readonly redisPid: number | undefined
  readonly redisPort: number | undefined
  readonly payloadBytes: number
  readonly warmMs: number
  readonly windowMs: number
  /** What clients bring, where they are asked for it. */
  readonly proofs?: Proofs | undefined
}

/** What the load process asks of the process that started the nodes: a kill -9, a start, how often a webhook was asked. */
export interface NodeOrder {
  readonly order: 'kill' | 'start' | 'asked'
  readonly node: number
}

export interface NodeAnswer {
  readonly port: number
  readonly pid: number
  /** From the start of the process until it served. */
  readonly seconds: number
  readonly asked?: number | undefined
}

/** All of them came once. */
export interface LoginPhase {
  readonly perSecond: number
  /** CPU of the node that they came to and of Redis, for each. */
  readonly cpuMicros: number
  /** ms that a ping of somebody else took there. */
  readonly pingP99: number
  readonly pingMax: number
  /** How often one was told to come again. */
  readonly told: number
  /** How often the webhook was asked. */
  readonly asked: number
}

/** CPU microseconds. */
export interface Cpu {
  readonly broker: number
  readonly redis: number
  readonly load: number
  /** All that the machine was busy with, and what its host took from it. */
  readonly machine: number
}

/** One window: what was delivered in it and what it cost. */
export interface Window {
  readonly seconds: number
  readonly delivered: number
  readonly cpu: Cpu
}

/** What the load process answers. Counts of messages are of the whole run, not of the window. */
export interface LoadAnswer {
  /** `incomplete`: not all was delivered when the time to settle was over, though it still moved. */
  readonly status: 'ok' | 'incomplete' | 'stalled' | 'disconnected'
  readonly detail?: string
  readonly window?: Window
  /** The windows before the idle filters joined and after they left. */
  readonly without?: Window
  readonly sent: number
  readonly acknowledged: number
  /** Deliveries that are due: what was sent (QoS 0) or acknowledged (QoS 1), times its subscribers. */
  readonly due: number
  /** Of those, the ones that never came. */
  readonly lost: number
  readonly duplicates: number
  readonly misordered: number
  /** Came with another QoS than they were sent and subscribed with. */
  readonly wrongQos: number
  readonly peakRssMiB: number
  /** CPU of brokers and Redis per second while nobody comes, which is not in the window. */
  readonly idleMicros?: number
  readonly latency?: {
    readonly p50: number
    readonly p99: number
    readonly max: number
    readonly sendLateP99: number
  }
  /**
   * ms of the healthy pair without and with the flood; growth of the brokers' resident memory while it went
   * on.
   */
  readonly overload?: {
    readonly p99Without: number
    readonly p99With: number
    readonly growthMiB: number
    readonly floodMBPerSecond: number
    readonly ended: number
  }
  /** ms from a client's CONNECT (connecting the socket included) to its CONNACK. */
  readonly resume?: {
    readonly p50: number
    readonly p99: number
    readonly max: number
    readonly sessionsGone: number
  }
  /**
   * Seconds from the kill until all were connected again, and until all had what waited for them; p99 of
   * others, ms.
   */
  readonly storm?: {
    readonly connectedSeconds: number
    readonly drainedSeconds: number
    readonly p99Before: number
    readonly p99During: number
  }
  /** At their node for the first time and when they are back, and at another one that knows none of them. */
  readonly logins?: { readonly first: LoginPhase; readonly back: LoginPhase; readonly elsewhere: LoginPhase }
  /** A node that starts among so many things, and what each takes of its memory. */
  readonly start?: { readonly seconds: number; readonly bytesEach: number }
  /** ms from a SUBSCRIBE to the last Retained Message. */
  readonly wildcard?: {
    readonly p50: number
    readonly p99: number
    readonly max: number
    readonly missing: number
  }
  readonly connections?: {
    readonly bytesEach: number
    readonly perSecond: number
    readonly redisBytesEach: number
  }
}

const both = [false, true] as const
/** Of `aheadMax`: a publisher knows nothing of its subscribers. */
export const unheld = 2 ** 31
const where = (across: boolean): string => (across ? 'across' : 'same')
const shapeTable: Record<
  Shape,
  { publishers: number; subscribers: number; aheadMax: number; about: string }
> = {
  pair: { publishers: 4, subscribers: 4, aheadMax: 2_000, about: '4 publishers, each to its own subscriber' },
  'fan-in': { publishers: 8, subscribers: 1, aheadMax: 500, about: '8 publishers to 1 subscriber' },
  'fan-out': { publishers: 1, subscribers: 50, aheadMax: 500, about: '1 publisher to 50 subscribers' },
}

function throughput(
  name: string,
  shape: Shape,
  qos: 0 | 1,
  across: boolean,
  more: Partial<Throughput> = {},
): Throughput {
  const { about, ...counts } = shapeTable[shape]
  return {
    kind: 'throughput',
    name,
    about: `QoS ${qos}, ${about}${across ? ' at another node' : ''}`,
    qos,
    shape,
    across,
    persistent: false,
    idleFilters: 0,
    rate: 0,
    ...counts,
    ...more,
  }
}

/**
 * A fleet: many connections, few messages each. Named as the public suites name them; where one is larger
 * than two cores carry, what it is divided by stands in `about`.
 */
function fleet(name: string, about: string, more: Partial<Throughput>): Throughput[] {
  return both.map((across) =>
    throughput(`${name}${across ? '-across' : ''}`, more.shape ?? 'pair', more.qos ?? 1, across, {
      aheadMax: unheld,
      ...more,
      about: `${about}${across ? ', subscribers at another node' : ''}`,
    }),
  )
}

const pairs = (count: number, rate: number, more: Partial<Throughput> = {}): Partial<Throughput> => ({
  publishers: count,
  subscribers: count,
  rate,
  ...more,
})

/** What `--shapes` runs. */
const shapePatterns: readonly Pattern[] = [
  ...fleet('p2p-1K-1K-1K-1K', 'QoS 1, 1,000 → 1,000, 1,000 msg/s', pairs(1_000, 1_000)),
  ...fleet('p2p-1K-1K-10K', 'QoS 1, 1,000 → 1,000, 10,000 msg/s', pairs(1_000, 10_000)),
  ...fleet(
    'p2p-persistent-1K-1K-1K',
    'QoS 1, persistent sessions, 1,000 → 1,000, 1,000 msg/s',
    pairs(1_000, 1_000, { persistent: true }),
  ),
  ...fleet(
    'p2p-persistent-1K-1K-3K',
    'QoS 1, persistent sessions, 1,000 → 1,000, 3,000 msg/s',
    pairs(1_000, 3_000, { persistent: true }),
  ),
  ...fleet(
    'p2p-persistent-1K-1K-5K',
    'QoS 1, persistent sessions, 1,000 → 1,000, 5,000 msg/s',
    pairs(1_000, 5_000, { persistent: true }),
  ),
  ...fleet('p2p-clean-1K-1K-5K', 'QoS 1, clean sessions, 1,000 → 1,000, 5,000 msg/s', pairs(1_000, 5_000)),
  ...fleet('fanout-1-1K-1-1K', 'QoS 1, 1 → 1,000, 1 msg/s', {
    shape: 'fan-out',
    publishers: 1,
    subscribers: 1_000,
    rate: 1,
  }),
  ...fleet('fanout-persistent-1-1K-5', 'QoS 1, persistent sessions, 1 → 1,000, 5 msg/s', {
    shape: 'fan-out',
    publishers: 1,
    subscribers: 1_000,
    rate: 5,
    persistent: true,
  }),
  ...fleet('fan-in-2K-2-10K', 'QoS 1, 2,000 → 2, 10,000 msg/s', {
    shape: 'fan-in',
    publishers: 2_000,
    subscribers: 2,
    rate: 10_000,
  }),
  ...fleet('fan-in-1K-5-1K', 'QoS 1, 1,000 → 5, 1,000 msg/s', {
    shape: 'fan-in',
    publishers: 1_000,
    subscribers: 5,
    rate: 1_000,
  }),
  ...fleet('sharedsub-1K-5-1K-1K', 'QoS 1, 1,000 → a group of 5, 1,000 msg/s', {
    shape: 'fan-in',
    publishers: 1_000,
    subscribers: 5,
    rate: 1_000,
    shared: true,
    systems: ['ours', 'ours-1', 'ours-memory', 'mosquitto'],
  }),
  ...fleet(
    'tbmq-p2p-persistent-5K-5K-5K',
    "TBMQ's persistent point-to-point divided by 100: 5,000 → 5,000, 5,000 msg/s, 62 bytes",
    pairs(5_000, 5_000, { persistent: true, payloadBytes: 62 }),
  ),
  ...[false, true].map((persistent) =>
    throughput(`bifromq-3K-3K-qos1-p256-1mps-3n${persistent ? '-persistent' : ''}`, 'pair', 1, true, {
      aheadMax: unheld,
      ...pairs(3_000, 3_000, { persistent, payloadBytes: 256 }),
      nodes: 3,
      about: `BifroMQ's 15k_15k_qos1_p256_1mps divided by 5, on three nodes: ${persistent ? 'persistent sessions, ' : ''}3,000 → 3,000, 3,000 msg/s, 256 bytes`,
    }),
  ),
  ...[200, 0].flatMap((rate) =>
    [true, false].map((clean): Connects => ({
      kind: 'connects',
      name: `conn-tcp-${clean ? 'clean' : 'persistent'}-2K-${rate === 0 ? 'max' : rate}`,
      about: `the public conn-tcp-10K-100 divided by 5, ${rate === 0 ? 'as fast as it goes' : 'at twice the rate'}: 2,000 clients, CONNECT and SUBSCRIBE, ${clean ? 'clean' : 'persistent'} sessions`,
      across: false,
      clean,
      count: 2_000,
      rate,
      warm: 6_000,
    })),
  ),
  ...[5_000, 20_000].map((sessions): Storm => ({
    kind: 'storm',
    name: `storm-${sessions / 1_000}K`,
    about: `kill -9 of one of three nodes: its ${sessions.toLocaleString('en-US')} persistent sessions come back at once at the other two, half of them with a message waiting`,
    across: true,
    nodes: 3,
    systems: ['ours'],
    sessions,
    rate: 200,
  })),
  ...loginKinds.map((link): Logins => {
    const count = link === 'certificate' ? 2_000 : 10_000
    return {
      kind: 'logins',
      name: `storm-logins-${link}`,
      about: `${count.toLocaleString('en-US')} clients come, break all at once and come back, and come to another node when theirs is killed: ${link}`,
      across: true,
      nodes: 2,
      systems: ['ours'],
      link,
      count,
    }
  }),
]

export const patterns: readonly Pattern[] = [
  ...shapePatterns,
  ...([0, 1] as const).flatMap((qos) =>
    (['pair', 'fan-in', 'fan-out'] as const).flatMap((shape) =>
      both.map((across) => throughput(`qos${qos}-${shape}-${where(across)}`, shape, qos, across)),
    ),
  ),
  ...both.map((across) =>
    throughput(`qos1-pair-persistent-${where(across)}`, 'pair', 1, across, {
      persistent: true,
      about: `QoS 1, 4 pairs, persistent sessions${across ? ' at another node' : ''}`,
    }),
  ),
  throughput('qos1-pair-unheld', 'pair', 1, true, {
    aheadMax: unheld,
    about: 'qos1-pair-across with publishers that only their acknowledgements hold, as real ones are',
  }),
  ...both.map((across) =>
    throughput(`qos1-latency-${where(across)}`, 'pair', 1, across, {
      rate: 2_000,
      about: `QoS 1, 4 pairs, 2,000 msg/s in all, open loop${across ? ', across nodes' : ''}`,
    }),
  ),
  ...both.map((across): Mixed => ({
    kind: 'mixed',
    name: `mixed-${where(across)}`,
    across,
    count: 2_000,
    rate: 2_000,
    about: `2,000 QoS 1 messages while another client publishes 2,000 QoS 0 msg/s; one subscriber${across ? ' at another node' : ''} has both`,
  })),
  throughput('idle-filters', 'pair', 0, true, {
    idleFilters: 10_000,
    about: 'qos0-pair-across, alternately without and with 10,000 idle wildcard filters at the other node',
  }),
  ...both.map((across): Overload => ({
    kind: 'overload',
    name: `overload-${where(across)}`,
    across,
    rate: 500,
    floodBytesPerSecond: 16_000_000,
    floodPayloadBytes: 8_192,
    about: `QoS 1 pair${across ? ' across nodes' : ''}, 500 msg/s, without and with a flood of 16 MB/s (QoS 0 and QoS 1) to a slow and a frozen subscriber`,
  })),
  {
    kind: 'failover',
    name: 'failover',
    across: true,
    nodes: 3,
    clients: 50,
    rate: 1_000,
    about:
      'kill -9 of one of three nodes: 50 persistent sessions, 1,000 QoS 1 msg/s for them, resume at the other two',
  },
  {
    kind: 'many-subscriptions',
    name: 'many-subscriptions',
    across: false,
    nodes: 1,
    systems: ['ours'],
    sessions: 100_000,
    filtersEach: 10,
    about:
      'a node starts among 1,000,000 stored subscriptions: 100,000 sessions with 10 filters each, half of them with wildcards',
  },
  {
    kind: 'many-retained',
    name: 'many-retained',
    across: false,
    nodes: 1,
    systems: ['ours', 'mosquitto'],
    side: 100,
    subscribes: 300,
    about:
      'wildcard SUBSCRIBEs with 100 matches among 1,000,000 Retained Messages; a node that starts among them',
  },
  {
    kind: 'idle-connections',
    name: 'idle-connections',
    across: false,
    count: 2_000,
    warm: 500,
    about: '2,000 idle connections with one subscription each, over all nodes',
  },
]

/** What `--quick` runs when it is not told otherwise. */
export const quickPatterns: readonly string[] = [
  'qos0-pair-across',
  'qos1-pair-across',
  'qos1-latency-across',
]

export const shapeNames: readonly string[] = shapePatterns.map(({ name }) => name)
