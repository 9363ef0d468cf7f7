// Connections for the two stock packages, which expect ioredis as it comes: offline queue on, commands resent, patient
// for as long as Redis is away (a rejected command would be an unhandled rejection inside them and end the process).
import { Redis, type RedisOptions } from 'ioredis'
import { BridgeError } from './errors.ts'

/** A connection to `url` (redis://, rediss://, unix:///path); keys of its commands get `keyPrefix`. */
export function connectStock(url: string, keyPrefix: string, onError: (error: Error) => void): Redis {
  const options: RedisOptions = {
    keyPrefix, maxRetriesPerRequest: null,
    retryStrategy: (attempt) => Math.min(50 * attempt, 500),
  }
  const redis = url.startsWith('unix://') ? new Redis(url.slice('unix://'.length), options) : new Redis(url, options)
  return redis.on('error', onError)
}

/**
 * Asks Redis for its version on a connection of its own (INFO server).
 * @throws BridgeError ERR_BRIDGE_REDIS_UNREACHABLE after `timeoutMs`, or at once when it refuses
 */
export async function ping(url: string, timeoutMs: number): Promise<string> {
  const options: RedisOptions = { lazyConnect: true, connectTimeout: timeoutMs, commandTimeout: timeoutMs, retryStrategy: () => null, maxRetriesPerRequest: 0, enableOfflineQueue: false }
  const redis = url.startsWith('unix://') ? new Redis(url.slice('unix://'.length), options) : new Redis(url, options)
  let reason = ''
  redis.on('error', (error: Error) => { reason = error.message })
  try {
    await redis.connect()
    return /redis_version:(\S+)/.exec(await redis.info('server'))?.[1] ?? '0'
  } catch (error) {
    throw new BridgeError('ERR_BRIDGE_REDIS_UNREACHABLE', `Redis does not answer (${reason || (error as Error).message})`, { cause: error })
  } finally {
    redis.disconnect()
  }
}

/**
 * The PONG of a connection that is there already, within `timeoutMs`.
 * @throws BridgeError ERR_BRIDGE_REDIS_UNREACHABLE
 */
export async function pingOn(redis: Redis, timeoutMs: number): Promise<void> {
  if (redis.status !== 'ready') throw new BridgeError('ERR_BRIDGE_REDIS_UNREACHABLE', `not connected to Redis (${redis.status})`)
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new BridgeError('ERR_BRIDGE_REDIS_UNREACHABLE', `Redis did not answer within ${timeoutMs} ms`)), timeoutMs)
  })
  const pong = redis.ping()
  pong.catch(() => undefined) // the race may be over when it fails
  await Promise.race([pong, late]).finally(() => clearTimeout(timer))
}
