// Connections to Redis: one server, a master that Sentinels name, or a Redis Cluster. A data connection never
// resends by itself and queues nothing while it is down: retries are ours, in order, and numbered so that
// they are harmless (R3). A read that hangs on a half-open link is cut by ioredis' socketTimeout. An
// error is reported through `onError`, never thrown from an event.
import { Cluster, Redis as Server, type ClusterOptions, type RedisOptions } from 'ioredis'
import { mendDamage } from './damage.ts'
import { BridgeError, endNode, toBridgeError } from '../errors.ts'
import { parseRedisAddress, type RedisTarget } from './address.ts'
import { noReports, type Reports } from '../diagnostics.ts'
import { retryMs, retryPause } from '../pace/retry.ts'
import type { Wait, Waiter, Waits } from '../pace/waits.ts'

export type Redis = (Server | Cluster) & {
  /**
   * Replicas that must have what a script wrote before it counts as written (WAIT); such a connection is for
   * scripts only.
   */
  readonly replicas?: number
  /** Where whoever waits for it is written down. */
  readonly waits?: Waits | undefined
  /** Where what is found by it is told. */
  readonly reports?: Reports | undefined
}

/** Of whose node a connection is. */
export const reportsOf = ({ reports }: Pick<Redis, 'reports'>): Reports => reports ?? noReports

export interface RedisAddress {
  /** As redis/address.ts has it. */
  readonly url: string
  /** A connection that is silent for so long with a command under way is cut. */
  readonly timeoutMs: number
  readonly onError: (error: Error) => void
  readonly waits?: Waits | undefined
  readonly reports?: Reports | undefined
}

const lookMs = 100

/**
 * Redis Cluster without resending: a command that met the wrong node, or a broken connection, is refused, and
 * the map of slots is read anew for the next attempt. Only ASK is followed: the slot is on its way, and the
 * one node knows whether the key went.
 */
class StrictCluster extends Cluster {
  #looked = 0

  override handleError(error: Error, ttl: { value?: number }, handlers: { defaults(): void }): void {
    if (error.message.startsWith('ASK ')) return super.handleError(error, ttl, handlers)
    if (error.name !== 'ReplyError' || /^(MOVED|CLUSTERDOWN|MASTERDOWN|READONLY) /.test(error.message))
      this.lookAgain()
    handlers.defaults()
  }

  /** Reads the map of slots anew, not much more often than that can help: each time costs a connection. */
  lookAgain(): void {
    if (performance.now() - this.#looked < lookMs) return
    this.#looked = performance.now()
    this.refreshSlotsCache()
  }
}

/** What a demoted master says: whoever asked for the master must look for it again. */
const isDemoted = (error: Error): boolean => error.message.startsWith('READONLY')

const serverOptions = ({ username, password, tls }: RedisTarget): RedisOptions => ({
  ...(username === undefined ? {} : { username }),
  ...(password === undefined ? {} : { password }),
  ...(tls ? { tls: {} } : {}),
})

/** @param cluster options of the cluster as a whole; `options` are those of each server */
export function open(
  url: string,
  options: RedisOptions,
  cluster: ClusterOptions,
  Strict: typeof Cluster = Cluster,
): Server | Cluster {
  const target = parseRedisAddress(url)
  if (typeof target === 'string')
    throw new BridgeError('ERR_BRIDGE_REDIS_UNREACHABLE', `the address of Redis ${target}`)
  const { kind, hosts, path } = target
  const all: RedisOptions = { ...serverOptions(target), reconnectOnError: isDemoted, ...options }
  if (kind === 'socket') return new Server(path, all)
  if (kind === 'server') return new Server({ ...all, ...hosts[0]!, db: Number(path) })
  if (kind === 'sentinel') {
    const [name, db = '0'] = path.split('/')
    return new Server({
      ...all,
      sentinels: hosts.map((host) => ({ ...host })),
      name: name!,
      db: Number(db),
      ...(target.tls ? { enableTLSForSentinelMode: true } : {}),
    })
  }
  return new Strict(
    hosts.map((host) => ({ ...host })),
    {
      redisOptions: all,
      // names in a certificate are not the addresses that CLUSTER SLOTS has
      slotsRefreshTimeout: options.connectTimeout ?? 1_000,
      ...(target.tls ? { dnsLookup: (address, found) => found(null, address) } : {}),
      ...cluster,
    },
  )
}

/**
 * What is sent in a turn of the event loop leaves in one write: a system call for each command is what a node
 * of many clients would do most.
 */
function writeOncePerTurn(server: Server): void {
  const send = server.sendCommand.bind(server)
  let corked: Server['stream'] | undefined
  const uncork = (): void => {
    const stream = corked
    corked = undefined
    stream?.uncork()
  }
  server.sendCommand = (command, through) => {
    if (corked === undefined && server.status === 'ready') {
      corked = server.stream
      corked.cork()
      setImmediate(uncork)
    }
    return send(command, through)
  }
}

/** How often a Redis that is reading its data is asked whether it is done. */
const loadingMs = 250

/**
 * `disconnect` ends a connection for good, also between two attempts to connect: there ioredis has no socket
 * whose end it would tell of (`end`), and whoever waits for the connection would wait for ever.
 */
function endsForGood<Connection extends Server | Cluster>(redis: Connection): Connection {
  const disconnect = redis.disconnect.bind(redis)
  return Object.assign(redis, {
    disconnect: (reconnect = false) => {
      const { status } = redis
      disconnect(reconnect)
      if (reconnect || status !== 'reconnecting') return
      redis.status = 'end'
      redis.emit('end')
    },
  })
}

/** A connection for commands; `blockMs` is how long its commands may block in Redis. */
export function connect(
  { url, timeoutMs, onError, waits, reports }: RedisAddress,
  { blockMs = 0, replicas = 0, readyCheck = true } = {},
): Redis {
  const redis = open(
    url,
    {
      autoResendUnfulfilledCommands: false,
      enableOfflineQueue: false,
      maxRetriesPerRequest: 0,
      socketTimeout: blockMs + timeoutMs,
      connectTimeout: timeoutMs,
      retryStrategy: retryMs,
      sentinelRetryStrategy: retryMs,
      noDelay: true,
      keepAlive: 10_000,
      maxLoadingRetryTime: loadingMs,
      enableReadyCheck: readyCheck,
      // Without a ready check ioredis takes a connection for ready when the answer to this comes, also when
      // that is its end: for ever.
      disableClientInfo: !readyCheck,
    },
    { enableOfflineQueue: false, clusterRetryStrategy: retryMs },
    StrictCluster,
  )
  if (redis instanceof Cluster) redis.on('+node', writeOncePerTurn)
  else writeOncePerTurn(redis)
  redis.on('error', (error: Error & { lastNodeError?: Error }) => {
    waits?.connectionFailed(toBridgeError(error.lastNodeError ?? error))
    onError(error)
  })
  redis.on('ready', () => waits?.connected())
  return Object.assign(endsForGood(redis), { replicas, waits, reports })
}

/** The connections of a data plane. */
export interface Connections {
  /** For scripts, and what may wait behind them. */
  readonly redis: Redis
  /**
   * For what must not wait behind a megabyte of messages, nor for replicas: leases, barriers, what was read.
   */
  readonly control: Redis
  /** Two that block. */
  readonly journal: Redis
  readonly inbox: Redis
}

/** @param replicas that must have what a script of `redis` wrote */
export function connectAll(address: RedisAddress, blockMs: number, replicas: number): Connections {
  const redis = connect(address, { blockMs: replicas > 0 ? blockMs : 0, replicas })
  const control = connect(address)
  // A barrier must not be read from a server that commands have left: behind a Sentinel an old master may
  // answer for a while.
  if (!(redis instanceof Cluster) && !(control instanceof Cluster))
    redis.on('close', () => {
      if (control.status === 'ready') control.stream.destroy()
    })
  return { redis, control, journal: connect(address, { blockMs }), inbox: connect(address, { blockMs }) }
}

/** Connection → what settles when it is ready: one listener, however many wait. */
const becomingReady = new WeakMap<Redis, Promise<void>>()

/** Resolves when `redis` is ready for commands, rejects when it is closed for good. */
export function whenReady(redis: Redis): Promise<void> {
  if (redis.status === 'ready') return Promise.resolve()
  if (redis.status === 'end')
    return Promise.reject(new BridgeError('ERR_BRIDGE_CLOSED', 'the connection to Redis is closed'))
  let becoming = becomingReady.get(redis)
  if (becoming === undefined) {
    becoming = new Promise<void>((resolve, reject) => {
      const ready = (): void => {
        redis.off('end', ended)
        resolve()
      }
      const ended = (): void => {
        redis.off('ready', ready)
        reject(new BridgeError('ERR_BRIDGE_CLOSED', 'the connection to Redis is closed'))
      }
      redis.once('ready', ready)
      redis.once('end', ended)
    }).finally(() => becomingReady.delete(redis))
    becomingReady.set(redis, becoming)
  }
  return becoming
}

/** Calls `changed` whenever the next command may meet another server, or the same one with another past. */
export function onServerChange(redis: Redis, changed: () => void): void {
  for (const event of redis instanceof Cluster ? ['refresh', '-node'] : ['close']) redis.on(event, changed)
}

export const isCluster = (redis: Redis): boolean => redis instanceof Cluster

/** The servers that scripts must be loaded into. */
export const mastersOf = (redis: Redis): readonly Server[] =>
  redis instanceof Cluster ? redis.nodes('master') : [redis]

/**
 * A command of a pipeline met the wrong server of a cluster: outside a pipeline StrictCluster sees that
 * itself.
 */
export function lookAgain(redis: Redis): void {
  if (redis instanceof StrictCluster) redis.lookAgain()
}

export interface Retry {
  readonly who?: Waiter
  /** What the caller does about an answer; true: try again. */
  readonly mend?: (error: BridgeError) => boolean | Promise<boolean>
  /** It is written down as somebody who waits, in this very moment; may be called again. */
  readonly counted?: () => void
  /** Settles when nobody waits for it any more: `attempt` is called once more, at once, and says so. */
  readonly givenUp?: Promise<void> | undefined
}

/**
 * The one way in which anything waits for Redis: runs `attempt` until it succeeds, waiting for the connection
 * in between, for as long as trying again can help, and written down as somebody who waits. A bug ends the
 * node.
 * @throws BridgeError that is not retryable, or ERR_BRIDGE_AMNESIA, which the caller must answer first
 */
export async function retrying<T>(
  redis: Redis,
  attempt: () => Promise<T>,
  { who = 'write', mend, counted, givenUp }: Retry = {},
): Promise<T> {
  const since = performance.now()
  let awake = givenUp
  void givenUp?.then(() => {
    awake = undefined
  })
  let wait: Wait | undefined
  try {
    for (let tries = 0; ; tries++) {
      try {
        return await attempt()
      } catch (reason) {
        const error = toBridgeError(reason)
        if (error.code === 'ERR_BRIDGE_BUG') endNode(error, redis.reports)
        if ((await mend?.(error)) !== true) {
          if (!error.retryable || error.code === 'ERR_BRIDGE_AMNESIA') throw error
          if (error.code === 'ERR_BRIDGE_REDIS_DAMAGED') await mendDamage(redis, reason).catch(() => false)
          wait ??= redis.waits?.begin(who, since)
          wait?.because(error)
          counted?.()
        }
        await retryTime(redis, error, tries, awake)
      }
    }
  } finally {
    wait?.end()
  }
}

/**
 * Resolves when trying again may help: the connection is there; and Redis may have answered, but not as we
 * like: full, or a NOSCRIPT just mended. A Redis that was away is asked at once when it is back.
 */
async function retryTime(
  redis: Redis,
  { kind }: BridgeError,
  tries: number,
  awake: Promise<void> | undefined,
): Promise<void> {
  await (awake === undefined ? whenReady(redis) : Promise.race([whenReady(redis), awake]))
  const refused = kind === 'operator' || kind === 'damaged'
  await retryPause(refused ? tries : 0)
}

/** @throws BridgeError when a transaction or a command in it was refused */
export function allDone(replies: readonly [Error | null, unknown][] | null): void {
  const failed = replies?.find(([error]) => error !== null)?.[0]
  if (replies === null || (failed !== undefined && failed !== null))
    throw toBridgeError(failed ?? new Error('the transaction was not run'))
}
