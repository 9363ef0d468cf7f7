// Users and rules in Redis: one hash, which each node asks for its version twice a second and for a user when one
// connects: so a change holds at once for whoever comes, and within a second for who is there. State: {bus}:access, and
// the version that was heard last.
import { toBridgeError } from '../errors.ts'
import { storedUsersMax, type AccessChanges, type StoredAccess } from '../stored-access.ts'
import { mendDamage } from './damage.ts'
import type { Keys } from './keys.ts'
import { connect, type Redis, type RedisAddress } from './redis.ts'
import { runLoaded } from './scripts.ts'

const everyMs = 500
const scanned = 1_000
const ofUser = 'u:'

/** What may be done by a connection. */
export function accessChanges(redis: Redis, keys: Keys): AccessChanges {
  const key = keys.bus('access')
  const change = async (field: string, value: string | undefined): Promise<boolean> =>
    (await runLoaded(
      redis,
      'access-change',
      [key],
      [field, value === undefined ? '0' : '1', value ?? '', storedUsersMax],
    )) === 1
  return {
    users: async () => {
      const names = new Set<string>() // a field may come twice
      let cursor = '0'
      do {
        const [next, some] = await redis.hscan(key, cursor, 'COUNT', scanned)
        cursor = next
        for (let i = 0; i < some.length; i += 2)
          if (some[i]!.startsWith(ofUser)) names.add(some[i]!.slice(ofUser.length))
      } while (cursor !== '0')
      return [...names].sort()
    },
    setUser: (name, kept) => change(ofUser + name, kept),
    removeUser: (name) => change(ofUser + name, undefined),
    rules: async () => (await redis.hget(key, 'rules')) ?? undefined,
    setRules: async (text) => void (await change('rules', text)),
  }
}

export class RedisStoredAccess implements StoredAccess {
  readonly #address: RedisAddress
  readonly #key: string
  #connection: Redis | undefined
  #heard: string | undefined
  #timer: NodeJS.Timeout | undefined
  #isClosed = false

  constructor(address: RedisAddress, keys: Keys) {
    this.#address = address
    this.#key = keys.bus('access')
  }

  /** Most clusters have nothing there: their nodes have no connection for it. */
  get #redis(): Redis {
    return (this.#connection ??= connect(this.#address, { blockMs: 0, replicas: 0, readyCheck: false }))
  }

  /** What is of another type is put aside and named, and is not there from then on. */
  async #read<T>(read: () => Promise<T>): Promise<T> {
    try {
      return await read()
    } catch (error) {
      if (await mendDamage(this.#redis, error, [this.#key])) return read()
      throw toBridgeError(error)
    }
  }

  async keptOf(names: readonly string[]): Promise<(string | undefined)[]> {
    if (names.length === 0) return []
    const kept = await this.#read(() => this.#redis.hmget(this.#key, ...names.map((name) => ofUser + name)))
    return kept.map((one) => one ?? undefined)
  }

  async rules(): Promise<string | undefined> {
    return (await this.#read(() => this.#redis.hget(this.#key, 'rules'))) ?? undefined
  }

  async hear(changed: () => Promise<void>): Promise<void> {
    clearTimeout(this.#timer)
    try {
      const version = (await this.#read(() => this.#redis.hget(this.#key, 'version'))) ?? ''
      if (version !== this.#heard && !this.#isClosed) {
        await changed() // reads what is there by then, which is this version or a later one
        this.#heard = version
      }
    } catch (error) {
      // a Redis that is away is the probe's to name; a bug ends the node
      if (toBridgeError(error).code === 'ERR_BRIDGE_BUG') throw error
    }
    if (!this.#isClosed) this.#timer = setTimeout(() => void this.hear(changed), everyMs).unref()
  }

  close(): void {
    this.#isClosed = true
    clearTimeout(this.#timer)
    this.#connection?.disconnect()
  }
}
