// Connections to Redis. A data connection never resends by itself and queues nothing while it is down: retries are ours,
// in order, and numbered so that they are harmless (ATTACKS 4). A read that hangs on a half-open link is cut by
// ioredis' socketTimeout. An error is reported once through `onError`, never thrown from an event.
import { Redis, type RedisOptions } from 'ioredis'
import { BridgeError, toBridgeError } from './errors.ts'

export type { Redis } from 'ioredis'

export interface RedisAddress {
  /** redis://, rediss:// or unix:///path */
  readonly url: string
  /** A connection that is silent for so long with a command under way is cut. */
  readonly timeoutMs: number
  readonly onError: (error: Error) => void
}

function open(url: string, options: RedisOptions): Redis {
  return url.startsWith('unix://') ? new Redis(url.slice('unix://'.length), options) : new Redis(url, options)
}

/** A connection for commands; `blockMs` is how long its commands may block in Redis. */
export function connect({ url, timeoutMs, onError }: RedisAddress, blockMs = 0): Redis {
  const redis = open(url, {
    autoResendUnfulfilledCommands: false, enableOfflineQueue: false, maxRetriesPerRequest: 0, socketTimeout: blockMs + timeoutMs,
    connectTimeout: timeoutMs, retryStrategy: (attempt) => Math.min(20 * attempt, 250), noDelay: true, keepAlive: 10_000,
  })
  return redis.on('error', onError)
}

/** Resolves when `redis` is ready for commands, rejects when it is closed for good. */
export function whenReady(redis: Redis): Promise<void> {
  if (redis.status === 'ready') return Promise.resolve()
  return new Promise((resolve, reject) => {
    const ready = (): void => { redis.off('end', ended); resolve() }
    const ended = (): void => { redis.off('ready', ready); reject(new BridgeError('ERR_BRIDGE_CLOSED', 'the connection to Redis is closed')) }
    redis.once('ready', ready)
    redis.once('end', ended)
  })
}

/**
 * Runs `attempt` until it succeeds, waiting for the connection in between, as long as trying again can help.
 * @throws BridgeError that is not retryable, or ERR_BRIDGE_AMNESIA, which the caller must answer first
 */
export async function retrying<T>(redis: Redis, attempt: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await attempt()
    } catch (reason) {
      const error = toBridgeError(reason)
      if (!error.retryable || error.code === 'ERR_BRIDGE_AMNESIA') throw error
      await whenReady(redis)
      await new Promise((resolve) => setTimeout(resolve, 20)) // Redis answers, but not as we like: full, loading, or a NOSCRIPT just mended
    }
  }
}
