// Every key in Redis: built here, and by the scripts whose heads say MADE, from beginnings that are built
// here. All stand under one prefix, so that one ACL rule fits; each carries a hash tag, and no script touches
// two tags, so that the same code runs on Redis Cluster. Client text never stands in a key.
import { randomFillSync } from 'node:crypto'

/**
 * The keys by noun: type and meaning. The table in bridge/README.md is checked against it; which scripts write a key
 * is read from the heads of redis/lua/*.lua.
 */
export const keyTable = {
  generation: {
    key: '{bus}:generation',
    type: 'string',
    meaning: 'random bytes of this data set; missing or changed means that Redis lost data',
  },
  format: {
    key: '{bus}:format',
    type: 'string',
    meaning:
      'version of the layout of these keys, and how many partitions there are; a node that knows another refuses to join',
  },
  records: {
    key: '{bus}:records',
    type: 'string',
    meaning:
      'version in which records are written: the last one that all nodes read; a node that cannot read it refuses to join',
  },
  names: { key: '{bus}:names', type: 'hash', meaning: 'node name → node id of its last boot' },
  nodes: {
    key: '{bus}:nodes',
    type: 'hash',
    meaning: 'node id → what is known of it (JSON); a node without a field here and in batches is fenced',
  },
  leases: {
    key: '{bus}:leases',
    type: 'hash',
    meaning: "node id → since when unbroken and when last renewed, µs of Redis' clock",
  },
  batches: {
    key: '{bus}:batches',
    type: 'hash',
    meaning: 'node id → number of its last journal batch, and who numbered it',
  },
  dead: {
    key: '{bus}:dead',
    type: 'set',
    meaning: 'node ids that were declared dead and whose estate is not done',
  },
  bans: {
    key: '{bus}:bans',
    type: 'hash',
    meaning:
      'c:, u: or n: and a Client Identifier, user or network → end of the ban (ms, 0: never) and reason; `version` changes with each',
  },
  access: {
    key: '{bus}:access',
    type: 'hash',
    meaning:
      'u: and a user → what is kept of the password; `rules` → the rules (YAML); `version` changes with each',
  },
  imported: {
    key: '{bus}:imported',
    type: 'set',
    meaning: 'wills that `import` has published: broker id, space, Client Identifier',
  },
  probe: {
    key: '{bus}:probe, {s<n>}:probe',
    type: 'string',
    meaning: 'written and removed at once, to see whether Redis stores',
  },
  position: {
    key: '{bus}:position',
    type: 'string',
    meaning: 'number of the last journal entry: what a barrier reads',
  },
  journal: {
    key: '{bus}:journal',
    type: 'stream',
    meaning: 'changes of the tables all nodes hold; ids n-0, contiguous',
  },
  routes: {
    key: '{bus}:routes:<node id>',
    type: 'hash',
    meaning: 'filter → kind: the routes of one node, the snapshot of the journal',
  },
  inbox: {
    key: '{inbox:<node id>}:stream',
    type: 'stream',
    meaning: 'messages for one boot of a node; made by it alone',
  },
  senders: {
    key: '{inbox:<node id>}:senders',
    type: 'hash',
    meaning: "sender's node id → number of its last batch and who numbered it, or F when it is fenced",
  },
  inboxState: {
    key: '{inbox:<node id>}:state',
    type: 'hash',
    meaning: 'when the reader last made progress (µs), since when it is full, and whether it is sealed',
  },
  clients: {
    key: '{s<n>}:clients',
    type: 'hash',
    meaning: 'Client Identifier → sid of its session; partitioned by Client Identifier',
  },
  owners: {
    key: '{s<n>}:owners',
    type: 'hash',
    meaning:
      'sid → node id and epoch of its owner, empty when nobody is connected, `?` when it was found missing by a message for it',
  },
  users: {
    key: '{s<n>}:users',
    type: 'hash',
    meaning:
      'user → sids of sessions that he made and that outlive their connections, those among them that have ended, too, where userSessionsMax is set',
  },
  tenants: {
    key: '{s<n>}:tenants',
    type: 'hash',
    meaning: 'tenant → how many Client Identifiers of it stand in `clients`',
  },
  due: {
    key: '{s<n>}:due',
    type: 'zset',
    meaning:
      'e:sid, w:sid:epoch, f:sid, r:topic → when the session expires, the will is published, the publisher is forgotten, the Retained Message expires (ms)',
  },
  wills: {
    key: '{s<n>}:wills',
    type: 'hash',
    meaning:
      'sid:epoch → the will of that connection; with `taken:` before it once somebody publishes it; `taking:sid` → which one of the session that is',
  },
  appended: {
    key: '{s<n>}:appended',
    type: 'hash',
    meaning:
      'node id → number of its last batch for queues, and who numbered it; without a field a node is fenced in the partition',
  },
  published: {
    key: '{s<n>}:published',
    type: 'hash',
    meaning:
      'sid of a publisher (of a will: w and sid) → highest QoS 2 message of it that stands in all of the queues here; with `part:` before it the one that comes in parts, and up to which place sessions have it; with `retained:` before it the highest that was stored, with `group:` the highest that groups have, and with `part:group:` as with `part:`',
  },
  session: {
    key: '{s<n>}:session:<sid>',
    type: 'hash',
    meaning:
      'client, user (who made it), epoch, expiry (s), willDelay (s), claim (which one of its owner), n of the last QoS 2 publish, in `changed` the last change of its subscriptions, in `counted` how many there were after it, in `lost` that Redis has lost some and its client has not subscribed again, in `pending` a change that is not journaled yet, in `replay …` which Retained Messages it is owed (owed-replays.ts)',
  },
  subscriptions: { key: '{s<n>}:subscriptions:<sid>', type: 'hash', meaning: 'filter → options' },
  queue: { key: '{s<n>}:queue:<sid>', type: 'list', meaning: 'messages that were not sent' },
  inflight: {
    key: '{s<n>}:inflight:<sid>',
    type: 'hash',
    meaning: 'Packet Identifier → order and message, without message once PUBREC came',
  },
  incoming: {
    key: '{s<n>}:incoming:<sid>',
    type: 'hash',
    meaning:
      'Packet Identifier → n, and whether it was published: QoS 2 publishes between PUBLISH and PUBREL',
  },
  groups: {
    key: '{s<n>}:groups',
    type: 'hash',
    meaning: 'group with a backlog → its gid, and 1 when all nodes were told; partitioned by its name',
  },
  calls: {
    key: '{s<n>}:calls',
    type: 'hash',
    meaning:
      'node id → number of its last call about groups, and who numbered it; indexes of messages that it held',
  },
  group: {
    key: '{s<n>}:group:<gid>',
    type: 'hash',
    meaning: 'the order of its last message, whose turn it was, who is stuck to, bytes of its backlog',
  },
  members: {
    key: '{s<n>}:members:<gid>',
    type: 'hash',
    meaning:
      'sid → QoS, whether it outlives its connection, 0 away, 1 connected or 2 leaving, its identifiers (first, how many), how many it takes, has, where it looks for a free one, the number of its next message, owner',
  },
  backlog: {
    key: '{s<n>}:backlog:<gid>',
    type: 'list',
    meaning: 'messages that no member has: order, QoS, hashes, message',
  },
  given: {
    key: '{s<n>}:given:<gid>',
    type: 'hash',
    meaning:
      'sid and Packet Identifier → number, s or r (PUBREC came), granted QoS, message; of an ordered group `topic …` → which one of it is in flight',
  },
  retained: {
    key: '{s<n>}:retained',
    type: 'hash',
    meaning: 'topic → Retained Message, partitioned by topic',
  },
  damaged: {
    key: '{<tag>}:damaged:<noun and the rest>',
    type: 'any',
    meaning: 'what stood under a key and was of a wrong type, for a week: the key was made anew',
  },
} as const

/**
 * Partitions of sessions and Retained Messages in a Redis Cluster, so that its masters share them. Where one
 * server has all of it there is one: a call costs much more than what is in it, and one partition takes one
 * call where sixteen take sixteen.
 */
export const partitionsOfCluster = 16

export class Keys {
  readonly prefix: string
  /**
   * How many partitions the data have, 1 to 16; part of the layout ({bus}:format). A sid begins with its
   * partition as a hexadecimal digit.
   */
  readonly partitions: number

  constructor(prefix: string, partitions = 1) {
    this.prefix = prefix
    this.partitions = partitions
  }

  /** The partition of a Client Identifier or of a Topic Name. */
  partitionFor(text: string): number {
    return hashIndex(text, this.partitions)
  }

  bus(
    noun:
      | 'generation'
      | 'format'
      | 'records'
      | 'names'
      | 'nodes'
      | 'leases'
      | 'batches'
      | 'dead'
      | 'imported'
      | 'bans'
      | 'access'
      | 'position'
      | 'journal'
      | 'probe',
  ): string {
    return `${this.prefix}:{bus}:${noun}`
  }

  routes(nodeId: string): string {
    return `${this.prefix}:{bus}:routes:${nodeId}`
  }

  inbox(nodeId: string, noun: 'stream' | 'senders' | 'state'): string {
    return `${this.prefix}:{inbox:${nodeId}}:${noun}`
  }

  /** What a partition has one of. */
  partition(
    partition: number,
    noun:
      | 'clients'
      | 'owners'
      | 'users'
      | 'tenants'
      | 'due'
      | 'wills'
      | 'appended'
      | 'published'
      | 'retained'
      | 'groups'
      | 'calls'
      | 'probe',
  ): string {
    return `${this.prefix}:{s${partition}}:${noun}`
  }

  /** What the keys of a partition's sessions begin with: after it comes a noun, `:` and the sid. */
  sessions(partition: number): string {
    return `${this.prefix}:{s${partition}}:`
  }

  /** What a group with a backlog has. */
  group(gid: string, noun: 'group' | 'members' | 'backlog' | 'given'): string {
    return `${this.prefix}:{s${partitionOf(gid)}}:${noun}:${gid}`
  }

  /** What a session has. */
  session(sid: string, noun: 'session' | 'subscriptions' | 'queue' | 'inflight' | 'incoming'): string {
    return `${this.prefix}:{s${partitionOf(sid)}}:${noun}:${sid}`
  }
}

/** The noun of a key of ours. */
const nounOf = (key: string): string | undefined => /\{[^{}]*\}:([a-z]+)/.exec(key)?.[1]

const types = new Map(Object.values(keyTable).map(({ key, type }) => [nounOf(key), type]))

/** The type that a key must have; undefined: not a key of ours. */
export function typeOfKey(key: string): string | undefined {
  const type = types.get(nounOf(key))
  return type === 'any' ? undefined : type
}

/** Where a damaged key is put. */
export const asideOf = (key: string): string => key.replace(/\}:(?=[a-z]+)/, '}:damaged:')

/** Random bytes for many sids at once: asking for nine of them costs as much as for thousands. */
const random = Buffer.alloc(9 * 512)
let randomAt = random.length

/** A sid that was never used before. */
export function freshSid(partition: number): string {
  if (randomAt === random.length) {
    randomFillSync(random)
    randomAt = 0
  }
  return partition.toString(16) + random.toString('base64url', randomAt, (randomAt += 9))
}

/** Whether a text may be the sid of a session in a partition: what stands in Redis may be damaged. */
export const isSid = (text: string, partition: number): boolean =>
  /^[0-9a-f][\w-]+$/.test(text) && partitionOf(text) === partition

/** The partition of a session. */
export const partitionOf = (sid: string): number => Number.parseInt(sid.charAt(0), 16)

/** Which of `count` a text belongs to. FNV-1a over the UTF-16 units: stable, and part of the layout. */
export function hashIndex(text: string, count: number): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return (hash >>> 0) % count
}
