// The cluster's errors: a code that is never reused, whether trying again can help, what it means and what to
// do about it. What Redis replies is told apart by its first word, here and nowhere else. Invariant: what no
// table knows is never taken for Redis being away: an error of JavaScript, or one of Lua that no data can cause, is a
// bug and ends the node, an unknown reply is damaged data.

interface ErrorClass {
  /**
   * `redis`: Redis cannot do it now. `operator`: it refuses until somebody changes something. `peer`: another
   * node is not ready. `damaged`: a key does not hold what it should. `disk`: the file of a node without
   * Redis cannot be written now. All of these are waited for and named. `answer`: the caller knows what to
   * do. `bug`: ours; it ends the node.
   */
  readonly kind: 'redis' | 'operator' | 'peer' | 'damaged' | 'disk' | 'answer' | 'bug'
  readonly retryable: boolean
  readonly meaning: string
  /** What an operator does about it; empty where nobody need do anything. */
  readonly remedy: string
}

export const bridgeErrors = {
  ERR_BRIDGE_REDIS_UNREACHABLE: {
    kind: 'redis',
    retryable: true,
    meaning: 'Redis did not answer within its deadline or refused the connection',
    remedy: 'Start Redis, or check its address and the network between it and this node',
  },
  ERR_BRIDGE_DESCRIPTORS: {
    kind: 'redis',
    retryable: true,
    meaning: 'no file descriptor is left for a connection to Redis',
    remedy: 'Raise the limit of open files of this node (ulimit -n, LimitNOFILE=)',
  },
  ERR_BRIDGE_REDIS_SLOW: {
    kind: 'redis',
    retryable: true,
    meaning: 'what waits for Redis has no answer yet, and no error either',
    remedy: 'Look at the load of Redis (SLOWLOG GET, INFO) and of this node, and at the network between them',
  },
  ERR_BRIDGE_REDIS_LOADING: {
    kind: 'redis',
    retryable: true,
    meaning: 'Redis has started and is still reading its data',
    remedy: 'Wait: INFO persistence says how far it is (loading_eta_seconds)',
  },
  ERR_BRIDGE_REDIS_BUSY: {
    kind: 'redis',
    retryable: true,
    meaning: "Redis is busy with somebody's script, or has as many clients as it takes",
    remedy: 'End the script with SCRIPT KILL, or raise maxclients',
  },
  ERR_BRIDGE_REDIS_READONLY: {
    kind: 'operator',
    retryable: true,
    meaning: 'this Redis is a read-only replica: nothing can be stored in it',
    remedy:
      'Name the master in --redis, or its Sentinels (redis+sentinel://), or promote this one: REPLICAOF NO ONE',
  },
  ERR_BRIDGE_REDIS_MISCONF: {
    kind: 'operator',
    retryable: true,
    meaning: 'Redis cannot write its data to disk and takes no writes',
    remedy: 'Make room on its disk and look at its log: INFO persistence says which of rdb and aof fails',
  },
  ERR_BRIDGE_REDIS_FULL: {
    kind: 'operator',
    retryable: true,
    meaning: 'Redis reached maxmemory; publishers are held until there is room',
    remedy: 'Raise maxmemory, or remove sessions, queues and Retained Messages that nobody needs',
  },
  ERR_BRIDGE_REDIS_NOREPLICAS: {
    kind: 'operator',
    retryable: true,
    meaning: 'Redis has fewer replicas than its min-replicas-to-write and takes no writes',
    remedy: 'Start its replicas, or lower min-replicas-to-write',
  },
  ERR_BRIDGE_REDIS_CLUSTER: {
    kind: 'redis',
    retryable: true,
    meaning: 'the Redis Cluster does not serve the slot now: a failover, a move of slots, a master lost',
    remedy: 'Look at CLUSTER INFO and CLUSTER NODES, and start the masters that are down',
  },
  ERR_BRIDGE_REDIS_REFUSED: {
    kind: 'operator',
    retryable: true,
    meaning: 'Redis refuses this user, its password or one of its commands',
    remedy:
      'Check user and password in --redis; the user needs ACL SETUSER name ~PREFIX:* &PREFIX/$SYS* &PREFIX/ask/* +@all -@admin, at least',
  },
  ERR_BRIDGE_REDIS_LACKS: {
    kind: 'operator',
    retryable: true,
    meaning: 'Redis has no command of this name: it was renamed away, or is forbidden there',
    remedy:
      'Take it out of rename-command in redis.conf and start Redis anew; a service that forbids it will not do',
  },
  ERR_BRIDGE_REDIS_TOO_OLD: {
    kind: 'answer',
    retryable: false,
    meaning: 'Redis is older than 7.0',
    remedy: 'Run Redis 7 or later',
  },
  ERR_BRIDGE_REDIS_DAMAGED: {
    kind: 'damaged',
    retryable: true,
    meaning: 'a key in Redis does not hold what it should: of another type, or a field is missing',
    remedy:
      'It is put aside and made anew, see aedes_cluster_damaged_total; who overwrote it shares our prefix in Redis',
  },
  ERR_BRIDGE_REPLICAS: {
    kind: 'redis',
    retryable: true,
    meaning: 'fewer replicas than asked for have what was written: it is not acknowledged yet',
    remedy: 'Start the replicas of Redis (INFO replication), or lower --durability-replicas',
  },
  ERR_BRIDGE_SCRIPT_UNKNOWN: {
    kind: 'redis',
    retryable: true,
    meaning: 'Redis did not know a script; it is loaded and sent again',
    remedy: '',
  },
  ERR_BRIDGE_INBOX_FULL: {
    kind: 'peer',
    retryable: true,
    meaning: 'the inbox of another node is above its mark',
    remedy: 'Look at that node: it reads too slowly',
  },
  ERR_BRIDGE_GONE: {
    kind: 'peer',
    retryable: true,
    meaning: 'the inbox of another node does not exist',
    remedy: '',
  },
  ERR_BRIDGE_FORMAT: {
    kind: 'answer',
    retryable: false,
    meaning: 'the data in Redis were written by a version with another layout',
    remedy: 'Run the version of aedes-cluster that wrote them, or begin anew under another --prefix',
  },
  ERR_BRIDGE_DUPLICATE_NODE: {
    kind: 'answer',
    retryable: false,
    meaning: 'a node of the same name is alive',
    remedy: 'Give each node its own --id',
  },
  ERR_BRIDGE_FENCED: {
    kind: 'answer',
    retryable: false,
    meaning: 'the cluster declared this boot of the node dead; it closes its connections and starts anew',
    remedy: '',
  },
  ERR_BRIDGE_AMNESIA: {
    kind: 'answer',
    retryable: true,
    meaning: 'Redis lost data; the node registers again and asserts its live state',
    remedy: '',
  },
  ERR_BRIDGE_ORDER: {
    kind: 'answer',
    retryable: false,
    meaning: 'a numbered batch came out of order: the store lost an earlier one',
    remedy: '',
  },
  ERR_BRIDGE_SEALED: {
    kind: 'answer',
    retryable: false,
    meaning: 'the inbox of another node made no progress and takes nothing any more',
    remedy: '',
  },
  ERR_BRIDGE_MOVED: {
    kind: 'answer',
    retryable: false,
    meaning: 'the session has another owner by now: its connection here must go',
    remedy: '',
  },
  ERR_BRIDGE_STALE: {
    kind: 'answer',
    retryable: true,
    meaning: 'the client got another session while its CONNECT was under way; claim again',
    remedy: '',
  },
  ERR_BRIDGE_QUOTA: {
    kind: 'answer',
    retryable: false,
    meaning: 'there are as many sessions, or members of a group, as there may be: a new one is refused',
    remedy:
      'Sessions: raise --sessions-max on every node, or let them end sooner: --session-expiry-seconds-max. Members: a group with a backlog has at most 1,000',
  },
  ERR_BRIDGE_USER_QUOTA: {
    kind: 'answer',
    retryable: false,
    meaning: 'a user has as many sessions as one may have: a new one is refused',
    remedy: 'Raise --user-sessions-max on every node, or let them end sooner: --session-expiry-seconds-max',
  },
  ERR_BRIDGE_TENANT_QUOTA: {
    kind: 'answer',
    retryable: false,
    meaning: 'a tenant has as many sessions as one may have: a new one is refused',
    remedy: 'Raise --tenant-sessions-max on every node, or let them end sooner: --session-expiry-seconds-max',
  },
  ERR_BRIDGE_FOREIGN: {
    kind: 'answer',
    retryable: false,
    meaning: 'another user made the session of this Client Identifier, and its client may not have it',
    remedy: '',
  },
  ERR_BRIDGE_FILE: {
    kind: 'answer',
    retryable: false,
    meaning: 'the file that keeps the state of a node without Redis cannot be used',
    remedy: 'Name another file, or one that only this node uses, in a folder that it may write to',
  },
  ERR_BRIDGE_DISK_FULL: {
    kind: 'disk',
    retryable: true,
    meaning:
      'the disk of the file that keeps the state of this node is full; publishers are held until there is room',
    remedy: 'Make room on it',
  },
  ERR_BRIDGE_DISK_SLOW: {
    kind: 'disk',
    retryable: true,
    meaning: 'what was written to the file that keeps the state of this node is not on its disk yet',
    remedy: 'Look at the load of the disk; --fsync everysec waits for it no more',
  },
  ERR_BRIDGE_LATE: {
    kind: 'answer',
    retryable: true,
    meaning: 'a CONNECT did not get its session within claimTimeoutMs: its client is told to come again',
    remedy: '',
  },
  ERR_BRIDGE_CROWD: {
    kind: 'answer',
    retryable: true,
    meaning:
      'as many CONNECTs wait for their sessions as may, and none of them moves: one more is told to come again',
    remedy: '',
  },
  ERR_BRIDGE_ASKS: {
    kind: 'answer',
    retryable: true,
    meaning: 'as many requests from this node to the others are under way as may be, or one is too large',
    remedy: 'Ask again in a moment, and for less',
  },
  ERR_BRIDGE_BACKUP: {
    kind: 'answer',
    retryable: false,
    meaning: 'a backup cannot be made, or a file is none that can be restored',
    remedy: 'Name the file, or the prefix, that a cluster has its data under',
  },
  ERR_BRIDGE_CLOSED: { kind: 'answer', retryable: false, meaning: 'the bridge is closing', remedy: '' },
  ERR_BRIDGE_BUG: {
    kind: 'bug',
    retryable: false,
    meaning: 'an error of ours: the node ends, the others take over',
    remedy: 'Report it with its stack trace',
  },
} as const satisfies Record<string, ErrorClass>

/** Whether it is the store as a whole that cannot or will not. */
export const isOfStore = (kind: ErrorClass['kind']): boolean => isRedis(kind) || kind === 'disk'

/** The same of Redis. */
export const isRedis = (kind: ErrorClass['kind']): boolean => kind === 'redis' || kind === 'operator'

export type BridgeErrorCode = keyof typeof bridgeErrors

/** What an error says besides its code. */
export interface ErrorDetails {
  /** ERR_BRIDGE_ORDER: the number of the last batch that the store has; 0: of none. */
  readonly lastBatch?: number
  /** ERR_BRIDGE_STALE: what the claim is to be sent again with. */
  readonly claim?: StaleClaim
  /** ERR_BRIDGE_MOVED: the session that the client has by now. */
  readonly otherSid?: string
  /** There is no connection, and it says no more than that. */
  readonly isBrokenOff?: boolean
}

export interface StaleClaim {
  /** When the claim came first, µs of Redis' clock. */
  readonly asked: string
  /** The session that the client has; empty: none. */
  readonly sid: string
  /** Who owns it and is to be asked first; undefined: nobody. `leaves`: it is about to release the session. */
  readonly owner: { readonly name: string; readonly leaves: boolean } | undefined
}

export class BridgeError extends Error {
  override readonly name = 'BridgeError'
  readonly code: BridgeErrorCode
  readonly details: ErrorDetails

  constructor(
    code: BridgeErrorCode,
    message: string,
    { details = {}, ...options }: ErrorOptions & { readonly details?: ErrorDetails } = {},
  ) {
    super(message, options)
    this.code = code
    this.details = details
  }

  get retryable(): boolean {
    return bridgeErrors[this.code].retryable
  }

  get kind(): ErrorClass['kind'] {
    return bridgeErrors[this.code].kind
  }

  get remedy(): string {
    return bridgeErrors[this.code].remedy
  }
}

/** First word of an error reply of a script or of Redis → our code. */
const replies = new Map<string, BridgeErrorCode>(
  Object.entries({
    FENCED: 'ERR_BRIDGE_FENCED',
    AMNESIA: 'ERR_BRIDGE_AMNESIA',
    ORDER: 'ERR_BRIDGE_ORDER',
    SEALED: 'ERR_BRIDGE_SEALED',
    FULL: 'ERR_BRIDGE_INBOX_FULL',
    GONE: 'ERR_BRIDGE_GONE',
    DUPLICATE: 'ERR_BRIDGE_DUPLICATE_NODE',
    NOTOWNER: 'ERR_BRIDGE_MOVED',
    STALE: 'ERR_BRIDGE_STALE',
    QUOTA: 'ERR_BRIDGE_QUOTA',
    USERQUOTA: 'ERR_BRIDGE_USER_QUOTA',
    TENANTQUOTA: 'ERR_BRIDGE_TENANT_QUOTA',
    FOREIGN: 'ERR_BRIDGE_FOREIGN',
    FORMAT: 'ERR_BRIDGE_FORMAT',
    OOM: 'ERR_BRIDGE_REDIS_FULL',
    LOADING: 'ERR_BRIDGE_REDIS_LOADING',
    BUSY: 'ERR_BRIDGE_REDIS_BUSY',
    READONLY: 'ERR_BRIDGE_REDIS_READONLY',
    MISCONF: 'ERR_BRIDGE_REDIS_MISCONF',
    NOREPLICAS: 'ERR_BRIDGE_REDIS_NOREPLICAS',
    NOSCRIPT: 'ERR_BRIDGE_SCRIPT_UNKNOWN',
    CLUSTERDOWN: 'ERR_BRIDGE_REDIS_CLUSTER',
    MASTERDOWN: 'ERR_BRIDGE_REDIS_CLUSTER',
    TRYAGAIN: 'ERR_BRIDGE_REDIS_CLUSTER',
    MOVED: 'ERR_BRIDGE_REDIS_CLUSTER',
    ASK: 'ERR_BRIDGE_REDIS_CLUSTER',
    UNBLOCKED: 'ERR_BRIDGE_REDIS_CLUSTER',
    NOPERM: 'ERR_BRIDGE_REDIS_REFUSED',
    NOAUTH: 'ERR_BRIDGE_REDIS_REFUSED',
    WRONGPASS: 'ERR_BRIDGE_REDIS_REFUSED',
    DENIED: 'ERR_BRIDGE_REDIS_REFUSED',
    WRONGTYPE: 'ERR_BRIDGE_REDIS_DAMAGED',
  } satisfies Record<string, BridgeErrorCode>),
)

/**
 * Replies that Redis gives no word of their own; what begins with ERR and stands not here is damaged data.
 */
const unnamed: readonly (readonly [pattern: RegExp, code: BridgeErrorCode])[] = [
  [
    /^ERR (The user executing the script|ACL failure|invalid password|AUTH |Client sent AUTH|DB index)/,
    'ERR_BRIDGE_REDIS_REFUSED',
  ],
  [/^ERR ([Uu]nknown command|Unknown \w+ command called from script)/, 'ERR_BRIDGE_REDIS_LACKS'],
  [/^ERR WAIT cannot be used with replica/, 'ERR_BRIDGE_REDIS_READONLY'],
  [/^ERR max number of clients/, 'ERR_BRIDGE_REDIS_BUSY'],
  [/Script killed by user/, 'ERR_BRIDGE_REDIS_BUSY'],
  // What no data can do to a script of ours. That a value is none, or of another type, may come of data, and ends
  // nobody (P12): whoever met it would end one node after the other.
  [/^ERR (Error compiling script|Script attempted to access a non local key)/, 'ERR_BRIDGE_BUG'],
  [/^ERR user_script:\d+: .*(attempt to call |nonexistent global variable|readonly table)/, 'ERR_BRIDGE_BUG'],
]

/**
 * What ioredis itself rejects a command with while its connection is not there; test/bridge/errors.test.ts
 * looks into its sources.
 */
const noConnection =
  /^(Connection is closed|Stream isn't writeable|Socket timeout|Command timed out|connect ETIMEDOUT|Ready check failed|timeout$|None of startup nodes|Cluster (isn't|is) |Node is disconnected|Too many Cluster redirections|Failed to refresh slots|All sentinels are unreachable|Reached the max retries|Command queue state error|Connection in subscriber mode)/
const bugs = [TypeError, RangeError, ReferenceError, SyntaxError, EvalError, URIError]

function codeOf(error: Error & { code?: unknown; errno?: unknown }): BridgeErrorCode {
  const { message, name } = error
  if (name === 'ReplyError') {
    const word = /^-?([A-Z]+)\b/.exec(message)?.[1] ?? ''
    return (
      replies.get(word) ??
      unnamed.find(([pattern]) => pattern.test(message))?.[1] ??
      'ERR_BRIDGE_REDIS_DAMAGED'
    )
  }
  if (bugs.some((type) => error instanceof type)) return 'ERR_BRIDGE_BUG'
  if (error.code === 'EMFILE' || error.code === 'ENFILE') return 'ERR_BRIDGE_DESCRIPTORS'
  // Of a socket or of TLS, or of ioredis. Node's own errors about wrong arguments are TypeErrors.
  const ofSocket = typeof error.code === 'string' && name !== 'AssertionError'
  const ofIoredis =
    noConnection.test(message) ||
    /^(AbortError|InterruptError|MaxRetriesPerRequestError|ClusterAllFailedError|ParserError)$/.test(name)
  return ofSocket || ofIoredis ? 'ERR_BRIDGE_REDIS_UNREACHABLE' : 'ERR_BRIDGE_BUG'
}

/**
 * That ioredis has no connection, or lost it, in words about itself or the system's: they tell an operator
 * nothing.
 */
const inItsOwnWords =
  /^(write EPIPE|(read|write) ECONNRESET|Connection is closed|Stream isn't writeable|Command queue state error|Cluster isn't ready|Node is disconnected|Reached the max retries)/
const brokenOff = 'the connection to Redis broke off'

/**
 * What Redis says before it is asked anything, and hangs up: that it has as many clients as it takes, or that
 * it is for its own machine alone. ioredis, which expects no reply then, packs it into an error of its own.
 */
const turnedAway = /^Command queue state error\..* Last error: ([A-Z]+ .*)/

/** Any failure as a BridgeError. */
export function toBridgeError(error: unknown): BridgeError {
  if (error instanceof BridgeError) return error
  if (!(error instanceof Error)) return new BridgeError('ERR_BRIDGE_BUG', String(error))
  const [, reply] = turnedAway.exec(error.message) ?? []
  if (reply !== undefined)
    return toBridgeError(Object.assign(new Error(reply, { cause: error }), { name: 'ReplyError' }))
  const code = codeOf(error)
  if (inItsOwnWords.test(error.message))
    return new BridgeError(code, brokenOff, { cause: error, details: { isBrokenOff: true } })
  return new BridgeError(code, error.message, { cause: error, details: detailsOf(code, error.message) })
}

/** Whether a script that failed so may have run all the same: its answer was lost, or replicas lack what it wrote. */
export const mayHaveRun = ({ code }: BridgeError): boolean =>
  code === 'ERR_BRIDGE_REDIS_UNREACHABLE' || code === 'ERR_BRIDGE_REPLICAS'

/** What the error reply of a script says after its word, as FAILS in lua/*.lua has it. */
function detailsOf(code: BridgeErrorCode, message: string): ErrorDetails {
  switch (code) {
    case 'ERR_BRIDGE_ORDER':
      return { lastBatch: Number(/ after (\d+)$/.exec(message)?.[1] ?? 0) }
    case 'ERR_BRIDGE_STALE': {
      const [, asked = '', sid = '', leaves, name] =
        /^STALE (\d+) (\S*)(?: ([01]) (.*))?$/.exec(message) ?? []
      return {
        claim: { asked, sid, owner: name === undefined ? undefined : { name, leaves: leaves === '1' } },
      }
    }
    case 'ERR_BRIDGE_MOVED': {
      const sid = / has another session (\S+)$/.exec(message)?.[1]
      return sid === undefined ? {} : { otherSid: sid }
    }
    default:
      return {}
  }
}

/** Who is told that a node cannot go on; undefined: the process ends. */
export interface Ending {
  onEnd?: ((bug: unknown) => void) | undefined
}

/**
 * A bug ends the node, whoever awaits what it was found in: the others take over, rather than it being tried
 * for ever. A program that embeds the node is told, and goes on without it; otherwise the process ends.
 */
export function endNode(error: unknown, of?: Ending): void {
  const bug = error instanceof BridgeError && error.cause instanceof Error ? error.cause : error
  setImmediate(() => {
    if (of?.onEnd === undefined) throw bug
    of.onEnd(bug)
  })
}
