// What bridges the nodes to one another through Redis, as one door: a node imports this file and nothing else
// of bridge/. The data plane carries the messages and keeps the sessions. The control plane (mqemitter-redis)
// carries what may be missed once: $SYS.
import type { Cluster } from './cluster.ts'
import { DataPlane } from './data-plane.ts'
import { Reports } from './diagnostics.ts'
import { Emitter } from './control/emitter.ts'
import { endNode, toBridgeError } from './errors.ts'
import type { importInstallation as importer } from './import/import.ts'
import type { DataPlaneOptions, Receiver } from './options.ts'
import { Keys } from './redis/keys.ts'
import { createMemoryBridge, type MemoryBridgeOptions } from './memory/index.ts'
import { Probe } from './redis/probe.ts'
import { refuseOld } from './redis/preflight.ts'
import { ping } from './redis/stock-redis.ts'
import { Waits, type Waiting, type WaitReport } from './pace/waits.ts'

export type { Cluster, ClusterSessions, RetainedRead, Route } from './cluster.ts'
export type { Receiver } from './options.ts'
export { adviceOnNodes, adviceOnRedis } from './redis/advice.ts'
export { Allowance } from './pace/allowance.ts'
export type { Later } from './messages/codec.ts'
export { diagnostics, Reports, type ChannelName } from './diagnostics.ts'
export { BridgeError, bridgeErrors, isRedis, type BridgeErrorCode } from './errors.ts'
export { FilterTrie } from './matching/filter-trie.ts'
export { MatchCache } from './matching/match-cache.ts'
export { SmallMap } from './matching/small-map.ts'
export type { ImportCounts, StockPacket } from './import/import.ts'
export { expiryFrom, isExpired, secondsLeft, type Message } from './messages/message.ts'
export { isOfBefore, Moment, type Stamps } from './retained/moment.ts'
export { OwedReplays, type Field, type OwedReplay } from './sessions/owed-replays.ts'
export { SessionOption } from './sessions/session-options.ts'
export type { SessionHolder, SessionReply, SessionWrites } from './sessions/session-writer.ts'
export type { InFlightEntry, Session, SessionRequest, UnderWay } from './sessions/session.ts'
export type { StoredSubscription } from './sessions/subscriptions.ts'
export { RouteKind } from './routes/routing-table.ts'
export { preflight } from './redis/preflight.ts'
export { ping } from './redis/stock-redis.ts'
export { redisAddressProblem, withoutRedisPassword, withRedisPassword } from './redis/address.ts'
export { later, nextTurn, othersWait, Slice, turnIsOver, worked } from './pace/turns.ts'
export type { Waiting, WaitReport } from './pace/waits.ts'
export { filterBytes, filterMatches, hasWildcard, isValidFilter, isValidTopic } from './matching/topic.ts'

export interface BridgeOptions extends Omit<DataPlaneOptions, 'redis'>, MemoryBridgeOptions {
  /** Undefined: there is one node, which keeps all in memory or in `file`. */
  readonly redis: string | undefined
  /** CONNECTs that may wait for Redis; one beyond that is refused at once. */
  readonly claimsWaitingMax: number
  /** Hears of lost connections and failed commands; the bridge itself goes on. */
  readonly onError: (error: Error) => void
}

/** What is told under $SYS on all nodes; what may be missed once. */
export interface SystemEvents {
  on(filter: string, listener: (topic: string, payload: Buffer) => void): void
  emit(topic: string, payload: Buffer): void
}

export interface Bridge {
  /** The control plane. */
  readonly emitter: SystemEvents
  /**
   * Joins the cluster with the data plane of a new boot; again after it was fenced. Waits for Redis until
   * `ended`.
   */
  join(receiver: Receiver, ended?: AbortSignal): Promise<Cluster>
  /** Tries to store something, within `redisTimeoutMs`. @throws BridgeError why Redis does not */
  probe(): Promise<void>
  /** Whether Redis stored what was tried last, at most a second ago. */
  readonly isStoring: boolean
  /** Who waits now. */
  readonly waiting: Waiting
  /** What is waited for by now for longer than two seconds. */
  readonly named: readonly WaitReport[]
  close(): Promise<void>
}

/**
 * Moves an installation over, as bridge/import/import.ts says; a node that does not has no use for the package that
 * reads it.
 */
export const importInstallation: typeof importer = async (...given) =>
  (await import('./import/import.ts')).importInstallation(...given)

/**
 * @throws BridgeError ERR_BRIDGE_FILE without Redis; why Redis cannot be used when it does not answer at
 * start; ERR_BRIDGE_REDIS_TOO_OLD
 */
export async function createBridge(given: BridgeOptions): Promise<Bridge> {
  const { redis, reports = new Reports(given.name) } = given
  if (redis === undefined) return createMemoryBridge(given)
  const waits = new Waits(reports, given.claimsWaitingMax)
  const options = { ...given, redis, reports, waits, onError: reportOf(given.onError) }
  try {
    refuseOld(await ping(options.redis, options.redisTimeoutMs))
  } catch (error) {
    waits.close()
    throw error
  }
  const emitter = new Emitter(options.redis, options.prefix, options.onError, reports)
  const probe = new Probe(
    { url: options.redis, timeoutMs: options.redisTimeoutMs, onError: options.onError, reports },
    new Keys(options.prefix),
    options.durabilityReplicas,
    waits,
  )
  return {
    emitter,
    join: (receiver, ended) => DataPlane.start(options, receiver, ended),
    probe: () => probe.try(),
    get isStoring() {
      return probe.problem === undefined
    },
    get waiting() {
      return waits.waiting
    },
    get named() {
      return waits.named
    },
    close: async () => {
      probe.close()
      waits.close()
      await new Promise<void>((resolve) => emitter.close(() => resolve()))
    },
  }
}

/** What goes wrong beside what anybody waits for; a bug among it ends the node. */
const reportOf =
  (onError: (error: Error) => void) =>
  (reason: Error): void => {
    const error = toBridgeError(reason)
    if (error.code === 'ERR_BRIDGE_BUG') endNode(error)
    else onError(error)
  }
