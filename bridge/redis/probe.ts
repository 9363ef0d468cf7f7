// Whether Redis stores, and lets this user do all that a node does: a write by the way that messages take (a
// script, and WAIT for replicas), on a connection of its own, so that it stands behind nobody's megabyte.
// Tried every second, and whenever /readyz asks; one at a time for all who ask. What it is refused with
// explains why others wait, and while it is refused it stands among them, also when nobody else waits. State:
// this process.
import { BridgeError, toBridgeError } from '../errors.ts'
import { partitionsOfCluster, type Keys } from './keys.ts'
import { SingleFlight } from '../pace/single-flight.ts'
import { connect, isCluster, type Redis, type RedisAddress } from './redis.ts'
import { refuseDenied } from './redis-rights.ts'
import { runLoaded } from './scripts.ts'
import type { Wait, Waits } from '../pace/waits.ts'

const everyMs = 1_000

export class Probe {
  readonly #redis: Redis
  #keys: Keys
  #places: readonly string[]
  readonly #timeoutMs: number
  readonly #waits: Waits
  readonly #tries = new SingleFlight(() => this.#try())
  #timer: NodeJS.Timeout | undefined
  #wait: Wait | undefined
  #problem: BridgeError | undefined
  /** How long the last try took, ms. */
  lastMs = 0
  #closed = false

  constructor(address: RedisAddress, keys: Keys, replicas: number, waits: Waits) {
    // Not asked whether it is ready: what it refuses a command with says more than that it is not.
    this.#redis = connect(
      { ...address, waits },
      { blockMs: replicas > 0 ? everyMs : 0, replicas, readyCheck: false },
    )
    this.#keys = keys
    this.#places = this.#placesOf(keys, partitionsOfCluster) // what the data have is known when it has joined
    this.#timeoutMs = address.timeoutMs
    this.#waits = waits
    this.#again()
  }

  /**
   * Of a Redis Cluster each master must store that has a partition of the data: data that were made on one server
   * have one, wherever they are.
   */
  #placesOf(keys: Keys, partitions: number): readonly string[] {
    const count = isCluster(this.#redis) ? partitions : 0
    return [keys.bus('probe'), ...Array.from({ length: count }, (_, p) => keys.partition(p, 'probe'))]
  }

  /** The node has joined, and knows how its data are laid out. */
  joined(keys: Keys): void {
    this.#keys = keys
    this.#places = this.#placesOf(keys, keys.partitions)
  }

  /** What it was refused with the last time; undefined: Redis stores. */
  get problem(): BridgeError | undefined {
    return this.#problem
  }

  /** @throws BridgeError why Redis does not store, after the deadline at the latest */
  try(): Promise<void> {
    return this.#tries.current()
  }

  async #try(): Promise<void> {
    const began = performance.now()
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () =>
          reject(
            new BridgeError(
              'ERR_BRIDGE_REDIS_UNREACHABLE',
              `Redis did not answer within ${this.#timeoutMs} ms`,
            ),
          ),
        this.#timeoutMs,
      )
    })
    try {
      if (this.#redis.status !== 'ready')
        throw (
          this.#waits.connectionError ??
          new BridgeError('ERR_BRIDGE_REDIS_UNREACHABLE', `not connected to Redis (${this.#redis.status})`, {
            details: { isBrokenOff: true },
          })
        )
      const written = Promise.all(
        this.#places.map(async (key) => {
          const stored = runLoaded(this.#redis, 'probe', [key], [])
          stored.catch(() => undefined) // a right that is missing says more
          await refuseDenied(this.#redis, this.#keys, key)
          await stored
        }),
      )
      written.catch(() => undefined) // the race may be over when it fails
      await Promise.race([written, late])
      this.#stored()
    } catch (reason) {
      throw this.#refused(toBridgeError(reason))
    } finally {
      clearTimeout(timer)
      this.lastMs = performance.now() - began
    }
  }

  #stored(): void {
    this.#problem = undefined
    this.#waits.connected(true)
    this.#wait?.end()
    this.#wait = undefined
  }

  #refused(error: BridgeError): BridgeError {
    this.#problem = error
    if (this.#closed) return error
    this.#waits.connectionFailed(error)
    this.#wait ??= this.#waits.begin('probe')
    this.#wait.because(error)
    return error
  }

  #again(): void {
    this.#timer = setTimeout(() => {
      this.try()
        .catch(() => undefined)
        .finally(() => {
          if (!this.#closed) this.#again()
        }) // it is named already
    }, everyMs).unref()
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
    this.#wait?.end()
    this.#redis.disconnect()
  }
}
