// Connections for the two stock packages, which expect ioredis as it comes: offline queue on, commands
// resent, patient for as long as Redis is away (a rejected command would be an unhandled rejection inside
// them and end the process).
import { BridgeError, toBridgeError } from '../errors.ts'
import { open, type Redis } from './redis.ts'
import { retryMs } from '../pace/retry.ts'

/**
 * A connection to `url`, as redis/address.ts has it; keys of its commands get `keyPrefix`. Its QUIT never
 * rejects: mqemitter-redis does not await it, and a connection that breaks before the answer is closed as it
 * was meant to be.
 */
export function connectStock(url: string, keyPrefix: string, onError: (error: Error) => void): Redis {
  const redis = open(
    url,
    { keyPrefix, maxRetriesPerRequest: null, retryStrategy: retryMs },
    { keyPrefix, clusterRetryStrategy: retryMs },
  ).on('error', onError)
  const quit = redis.quit.bind(redis)
  return Object.assign(redis, { quit: () => quit().catch(() => 'OK' as const) })
}

/**
 * Runs `use` on a connection of its own, which neither waits nor tries again.
 * @throws BridgeError after twice `timeoutMs` at the latest, or at once when Redis refuses us
 */
export async function ask<T>(url: string, timeoutMs: number, use: (redis: Redis) => Promise<T>): Promise<T> {
  const once = {
    connectTimeout: timeoutMs,
    commandTimeout: timeoutMs,
    retryStrategy: () => null,
    sentinelRetryStrategy: () => null,
    maxRetriesPerRequest: 0,
    enableOfflineQueue: false,
    enableReadyCheck: false,
    disableClientInfo: true, // its answer would be the one that says why Redis hangs up, and nobody reads it
  }
  const redis = open(
    url,
    { ...once, lazyConnect: true },
    { lazyConnect: true, clusterRetryStrategy: () => null },
  )
  let reason: BridgeError | undefined
  let timer: NodeJS.Timeout | undefined
  // Of a Redis Cluster without one of its masters ioredis may neither connect nor say so; and nothing would
  // keep the process alive.
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new BridgeError('ERR_BRIDGE_REDIS_UNREACHABLE', `no answer within ${2 * timeoutMs} ms`)),
      2 * timeoutMs,
    )
  })
  redis.on('error', (error: Error & { lastNodeError?: Error }) => {
    const why = toBridgeError(error.lastNodeError ?? error)
    if (reason === undefined || why.details.isBrokenOff !== true) reason = why
  })
  try {
    const answer = await Promise.race([redis.connect().then(() => use(redis)), late])
    // SELECT: ioredis goes on in database 0
    if (reason?.code === 'ERR_BRIDGE_REDIS_REFUSED') throw reason
    return answer
  } catch (error) {
    const said = toBridgeError(error)
    const why = [reason, said].find((one) => one !== undefined && one.details.isBrokenOff !== true) ?? said
    throw new BridgeError(why.code, `Redis does not answer (${why.message})`, { cause: error })
  } finally {
    clearTimeout(timer)
    redis.disconnect()
  }
}

/**
 * Asks Redis for its version (INFO server).
 * @returns '' when this user may not ask
 * @throws BridgeError as `ask`
 */
export const ping = (url: string, timeoutMs: number): Promise<string> =>
  ask(url, timeoutMs, async (redis) => {
    try {
      const info = await redis.info('server')
      if (info.includes('redis_mode:sentinel'))
        throw new BridgeError('ERR_BRIDGE_REDIS_UNREACHABLE', 'it is a Sentinel, which stores nothing')
      return /redis_version:(\S+)/.exec(info)?.[1] ?? ''
    } catch (error) {
      if (error instanceof Error && error.message.startsWith('NOPERM')) return ''
      throw error
    }
  })
