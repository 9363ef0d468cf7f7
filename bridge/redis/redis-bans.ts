// Bans in Redis: one hash that every node asks for twice a second, by its version; a change is known to all within a
// second, whatever was missed, and what Redis lost is lifted. Their ends are by Redis' clock, what is left of them by
// ours. While Redis is away the last ones hold. State: {bus}:bans, and the version that was read last.
import { toBridgeError } from '../errors.ts'
import { bansMax, type Ban, type BanKind, type Bans } from '../ban.ts'
import type { Keys } from './keys.ts'
import { connect, type Redis, type RedisAddress } from './redis.ts'
import { runLoaded } from './scripts.ts'

const everyMs = 500
const letters = { client: 'c', user: 'u', network: 'n' } as const
const kinds = new Map(Object.entries(letters).map(([kind, letter]) => [letter as string, kind as BanKind]))

/** Undefined: it is none of ours, and passed by. */
function banOf(whom: string, value: string, redisNow: number): Ban | undefined {
  const kind = kinds.get(whom.slice(0, whom.indexOf(':')))
  const [, ends, reason] = /^(\d{1,15}) (.*)$/s.exec(value) ?? []
  if (kind === undefined || ends === undefined) return undefined
  const endsAt = ends === '0' ? Infinity : performance.now() + (Number(ends) - redisNow)
  return { kind, name: whom.slice(whom.indexOf(':') + 1), reason: reason!, endsAt }
}

/** Undefined: the version is still that one. */
async function readBans(
  redis: Redis,
  key: string,
  version: string,
): Promise<{ version: string; bans: Ban[] } | undefined> {
  const reply = ((await runLoaded(redis, 'bans-read', [key], [version])) as Buffer[]).map(String)
  if (reply.length === 1) return undefined
  const bans: Ban[] = []
  for (let i = 2; i < reply.length; i += 2) {
    const ban = banOf(reply[i]!, reply[i + 1]!, Number(reply[1]))
    if (ban !== undefined && ban.endsAt > performance.now()) bans.push(ban)
  }
  return { version: reply[0]!, bans }
}

/** What may be done about bans by a connection. */
export const banChanges = (redis: Redis, keys: Keys): Omit<Bans, 'hear' | 'close'> => {
  const key = keys.bus('bans')
  const change = async (kind: BanKind, name: string, seconds: number, reason: string): Promise<boolean> =>
    (await runLoaded(redis, 'bans-change', [key], [`${letters[kind]}:${name}`, seconds, reason, bansMax])) ===
    1
  return {
    list: async () => (await readBans(redis, key, ''))?.bans ?? [],
    add: (kind, name, reason, seconds) => change(kind, name, seconds ?? 0, reason),
    remove: (kind, name) => change(kind, name, -1, ''),
  }
}

export class RedisBans implements Bans {
  readonly #redis: Redis
  readonly #key: string
  readonly #changes: Omit<Bans, 'hear' | 'close'>
  #version = ''
  #changed: ((bans: readonly Ban[]) => void) | undefined
  #timer: NodeJS.Timeout | undefined
  #isClosed = false

  constructor(address: RedisAddress, keys: Keys) {
    this.#redis = connect(address, { blockMs: 0, replicas: 0, readyCheck: false })
    this.#key = keys.bus('bans')
    this.#changes = banChanges(this.#redis, keys)
  }

  list(): Promise<readonly Ban[]> {
    return this.#changes.list()
  }

  async add(kind: BanKind, name: string, reason: string, seconds: number | undefined): Promise<boolean> {
    const isDone = await this.#changes.add(kind, name, reason, seconds)
    await this.#look()
    return isDone
  }

  async remove(kind: BanKind, name: string): Promise<boolean> {
    const isDone = await this.#changes.remove(kind, name)
    await this.#look()
    return isDone
  }

  hear(changed: (bans: readonly Ban[]) => void): Promise<void> {
    this.#changed = changed
    this.#version = '' // it knows none
    clearTimeout(this.#timer)
    return this.#lookOn()
  }

  async #look(): Promise<void> {
    const known = this.#version
    const read = await readBans(this.#redis, this.#key, known)
    if (read === undefined || this.#isClosed || known !== this.#version) return // a later look was sooner
    this.#changed?.(read.bans)
    this.#version = read.version
  }

  /** A Redis that is away is the probe's to name; a bug ends the node. */
  async #lookOn(): Promise<void> {
    await this.#look().catch((error: unknown) => {
      if (toBridgeError(error).code === 'ERR_BRIDGE_BUG') throw error
    })
    clearTimeout(this.#timer)
    if (!this.#isClosed) this.#timer = setTimeout(() => void this.#lookOn(), everyMs).unref()
  }

  close(): void {
    this.#isClosed = true
    clearTimeout(this.#timer)
    this.#redis.disconnect()
  }
}
