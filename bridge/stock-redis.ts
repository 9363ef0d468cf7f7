// Connections for the two stock packages, which expect ioredis as it comes: offline queue on, commands resent, patient
// for as long as Redis is away (a rejected command would be an unhandled rejection inside them and end the process).
import { Cluster } from 'ioredis'
import { BridgeError } from './errors.ts'
import { open, type Redis } from './redis.ts'

/**
 * A connection to `url`, as redis-address.ts has it; keys of its commands get `keyPrefix`. Its QUIT never rejects: mqemitter-redis
 * does not await it, and a connection that breaks before the answer is closed as it was meant to be.
 */
export function connectStock(url: string, keyPrefix: string, onError: (error: Error) => void): Redis {
  const retry = (attempt: number): number => Math.min(50 * attempt, 500)
  const redis = open(url, { keyPrefix, maxRetriesPerRequest: null, retryStrategy: retry }, { keyPrefix, clusterRetryStrategy: retry }).on('error', onError)
  const quit = redis.quit.bind(redis)
  return Object.assign(redis, { quit: () => quit().catch(() => 'OK' as const) })
}

/**
 * Asks Redis for its version on a connection of its own (INFO server).
 * @throws BridgeError ERR_BRIDGE_REDIS_UNREACHABLE after `timeoutMs`, or at once when it refuses
 */
export async function ping(url: string, timeoutMs: number): Promise<string> {
  const once = { connectTimeout: timeoutMs, commandTimeout: timeoutMs, retryStrategy: () => null, sentinelRetryStrategy: () => null, maxRetriesPerRequest: 0, enableOfflineQueue: false }
  const redis = open(url, { ...once, lazyConnect: true }, { lazyConnect: true, clusterRetryStrategy: () => null })
  let reason = ''
  redis.on('error', (error: Error & { lastNodeError?: Error }) => { reason = error.lastNodeError?.message ?? error.message })
  try {
    await redis.connect()
    return /redis_version:(\S+)/.exec(await redis.info('server'))?.[1] ?? '0'
  } catch (error) {
    throw new BridgeError('ERR_BRIDGE_REDIS_UNREACHABLE', `Redis does not answer (${reason || (error as Error).message})`, { cause: error })
  } finally {
    redis.disconnect()
  }
}

/** That Redis takes commands: PING, or in Redis Cluster that all slots are served (CLUSTER INFO). */
async function answers(redis: Redis): Promise<void> {
  if (!(redis instanceof Cluster)) return void await redis.ping()
  const info = await redis.cluster('INFO')
  if (!info.includes('cluster_state:ok')) throw new BridgeError('ERR_BRIDGE_REDIS_UNREACHABLE', 'not all slots of the Redis Cluster are served')
}

/**
 * Asks a connection that is there already whether Redis takes commands, within `timeoutMs`.
 * @throws BridgeError ERR_BRIDGE_REDIS_UNREACHABLE
 */
export async function pingOn(redis: Redis, timeoutMs: number): Promise<void> {
  if (redis.status !== 'ready') throw new BridgeError('ERR_BRIDGE_REDIS_UNREACHABLE', `not connected to Redis (${redis.status})`)
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new BridgeError('ERR_BRIDGE_REDIS_UNREACHABLE', `Redis did not answer within ${timeoutMs} ms`)), timeoutMs)
  })
  const pong = answers(redis)
  pong.catch(() => undefined) // the race may be over when it fails
  await Promise.race([pong, late]).finally(() => clearTimeout(timer))
}
