// What bridges the nodes to one another through Redis, as one door: a node imports this file and nothing else of bridge/.
// In this version the two stock packages carry the cluster: mqemitter-redis the messages, aedes-persistence-redis the state.
import { Emitter } from './emitter.ts'
import { createPersistence, type Persistence } from './persistence.ts'
import { ping, pingOn } from './stock-redis.ts'

export { BridgeError, type BridgeErrorCode } from './errors.ts'
export { ping } from './stock-redis.ts'

export interface BridgeOptions {
  /** This node's name, unique in the cluster. */
  readonly nodeId: string
  /** redis://, rediss:// or unix:///path */
  readonly redis: string
  readonly prefix: string
  /** A Redis that is silent for so long counts as away. */
  readonly redisTimeoutMs: number
  /** Hears of lost connections and failed commands; the bridge itself goes on. */
  readonly onError: (error: Error) => void
}

export interface Bridge {
  /** Aedes' `mq`. */
  readonly emitter: Emitter
  /** Aedes' `persistence`. */
  readonly persistence: Persistence
  /** @throws BridgeError ERR_BRIDGE_REDIS_UNREACHABLE */
  ping(timeoutMs: number): Promise<void>
  close(): Promise<void>
}

/** @throws BridgeError ERR_BRIDGE_REDIS_UNREACHABLE when Redis does not answer at start */
export async function createBridge(options: BridgeOptions): Promise<Bridge> {
  await ping(options.redis, options.redisTimeoutMs)
  const emitter = new Emitter(options.redis, options.prefix, options.onError)
  const { persistence, connection } = createPersistence(options.redis, options.prefix, options.onError)
  return {
    emitter,
    persistence,
    ping: (timeoutMs) => pingOn(connection, timeoutMs),
    close: async () => {
      await new Promise<void>((resolve) => emitter.close(() => resolve()))
      connection.disconnect()
    },
  }
}
