// What bridges the nodes to one another through Redis, as one door: a node imports this file and nothing else of bridge/.
// The data plane carries the messages and keeps the sessions. The control plane (mqemitter-redis) carries what may be missed
// once: $SYS.
import { DataPlane } from './data-plane.ts'
import { Emitter } from './emitter.ts'
import { BridgeError } from './errors.ts'
import type { importInstallation as importer } from './import.ts'
import type { DataPlaneOptions, Receiver } from './options.ts'
import { connectStock, ping, pingOn } from './stock-redis.ts'

export type { DataPlane } from './data-plane.ts'
export type { Receiver } from './options.ts'
export type { Later } from './codec.ts'
export { diagnostics } from './diagnostics.ts'
export { BridgeError, type BridgeErrorCode } from './errors.ts'
export { FilterTrie } from './filter-trie.ts'
export { SmallMap } from './small-map.ts'
export type { ImportCounts, StockPacket } from './import.ts'
export { expiryFrom, isExpired, secondsLeft, type Message } from './message.ts'
export { SessionOption } from './session-options.ts'
export type { SessionHolder, SessionReply, SessionWrites } from './session-writer.ts'
export type { InFlightEntry, Session, SessionRequest } from './session.ts'
export type { StoredSubscription } from './subscriptions.ts'
export { RouteKind } from './routing-table.ts'
export { ping } from './stock-redis.ts'
export { redisAddressProblem, withoutRedisPassword, withRedisPassword } from './redis-address.ts'
export { later, nextTurn, Slice, turnIsOver } from './turns.ts'
export { filterMatches, isValidFilter, isValidTopic } from './topic.ts'

export interface BridgeOptions extends DataPlaneOptions {
  /** Hears of lost connections and failed commands; the bridge itself goes on. */
  readonly onError: (error: Error) => void
}

export interface Bridge {
  /** The control plane. */
  readonly emitter: Emitter
  /** Joins the cluster with the data plane of a new boot; again after it was fenced. */
  join(receiver: Receiver): Promise<DataPlane>
  /** @throws BridgeError ERR_BRIDGE_REDIS_UNREACHABLE */
  ping(timeoutMs: number): Promise<void>
  close(): Promise<void>
}

/** Moves an installation over, as bridge/import.ts says; a node that does not has no use for the package that reads it. */
export const importInstallation: typeof importer = async (...given) => (await import('./import.ts')).importInstallation(...given)

/** The oldest Redis with what we use: functions of scripts' first line, XADD NOMKSTREAM. */
const redisMajorMin = 7

/** @throws BridgeError ERR_BRIDGE_REDIS_UNREACHABLE when Redis does not answer at start, ERR_BRIDGE_REDIS_TOO_OLD */
export async function createBridge(options: BridgeOptions): Promise<Bridge> {
  const version = await ping(options.redis, options.redisTimeoutMs)
  if (Number.parseInt(version, 10) < redisMajorMin) throw new BridgeError('ERR_BRIDGE_REDIS_TOO_OLD', `Redis ${version} is older than ${redisMajorMin}.0`)
  const emitter = new Emitter(options.redis, options.prefix, options.onError)
  const connection = connectStock(options.redis, '', options.onError)
  return {
    emitter,
    join: (receiver) => DataPlane.start(options, receiver),
    ping: (timeoutMs) => pingOn(connection, timeoutMs),
    close: async () => {
      await new Promise<void>((resolve) => emitter.close(() => resolve()))
      connection.disconnect()
    },
  }
}
