// Where the keys of tokens come from: a file, whose text is set again when it changes, or a URL with a JSON Web Key Set.
// Those of a URL are fetched when the node starts, anew when they are old, when files are read again, and when a token names a key that is not among
// them, but never more often than `refreshSeconds` says, whoever comes with whatever token. Those that were fetched last
// hold while the server is away, for a day. State: the keys, when they were fetched, the request that is under way.
// Bounds: one request at a time, with a deadline and a bound on its answer.
import { boundedRequest, RequestError } from './bounded-request.ts'
import { readTokenKeys, type TokenKey } from './token-keys.ts'

export interface KeySource {
  /** Digests of the keys that there are; undefined: nobody knows. */
  readonly known: ReadonlySet<string> | undefined
  /** Undefined: there are none. */
  current(): readonly TokenKey[] | undefined | Promise<readonly TokenKey[] | undefined>
  /** One that is not among them is asked for. Undefined: they are the same as before. */
  renewed(): Promise<readonly TokenKey[] | undefined>
}

const digestsOf = (keys: readonly TokenKey[] | undefined): Set<string> | undefined =>
  keys && new Set(keys.map(({ digest }) => digest))

export class FileKeys implements KeySource {
  #keys: readonly TokenKey[] | undefined
  known: ReadonlySet<string> | undefined

  /** A text with something wrong in it is refused before it comes here. */
  set(text: string): void {
    const keys = readTokenKeys(text)
    this.#keys = typeof keys === 'string' ? undefined : keys
    this.known = digestsOf(this.#keys)
  }

  current(): readonly TokenKey[] | undefined {
    return this.#keys
  }

  renewed(): Promise<undefined> {
    return Promise.resolve(undefined)
  }
}

export const keySourceLimits = {
  /** A deadline that is shorter than that of a decision. */
  timeoutMs: 3_000,
  bytesMax: 256 * 1024,
  /** Fetched anew. */
  oldMs: 600_000,
  /** Not used any more. */
  tooOldMs: 86_400_000,
}

export interface KeySourceEvents {
  /** They were fetched, or not: then this is why. */
  onKeys(problem: string | undefined): void
  /** One of them is not there any more. */
  onTaken(): void
}

export class UrlKeys implements KeySource {
  readonly #url: string
  readonly #everyMs: number
  readonly #events: KeySourceEvents
  readonly #limits: typeof keySourceLimits
  #keys: readonly TokenKey[] | undefined
  known: ReadonlySet<string> | undefined
  #fetchedAt = -Infinity
  #triedAt = -Infinity
  #fetching: Promise<void> | undefined
  #timer: NodeJS.Timeout | undefined

  /** @param everyMs between the beginnings of two requests, at least */
  constructor(url: string, everyMs: number, events: KeySourceEvents, limits = keySourceLimits) {
    this.#url = url
    this.#everyMs = everyMs
    this.#events = events
    this.#limits = limits
  }

  /** Fetches them now and whenever they are old, also when nobody comes: a key may be taken away. */
  begin(): void {
    void this.fetch()
    this.#timer ??= setInterval(() => void this.fetch(), this.#limits.oldMs).unref()
  }

  close(): void {
    clearInterval(this.#timer)
  }

  /** Fetches them, unless that is too early or under way. */
  fetch(): Promise<void> {
    if (this.#fetching !== undefined) return this.#fetching
    if (performance.now() - this.#triedAt < this.#everyMs) return Promise.resolve()
    this.#triedAt = performance.now()
    return (this.#fetching = this.#fetch().finally(() => {
      this.#fetching = undefined
    }))
  }

  /** Never rejects. */
  async #fetch(): Promise<void> {
    this.#events.onKeys(await this.#problem())
  }

  async #problem(): Promise<string | undefined> {
    const { timeoutMs, bytesMax } = this.#limits
    try {
      const { status, text } = await boundedRequest(this.#url, {
        headers: { accept: 'application/jwk-set+json, application/json' },
        timeoutMs,
        bytesMax,
      })
      if (status !== 200) return `answers with status ${status}`
      if (!text.trimStart().startsWith('{')) return 'is not JSON'
      const keys = readTokenKeys(text)
      if (typeof keys === 'string') return keys
      const before = this.known ?? new Set<string>()
      this.#keys = keys
      this.known = digestsOf(keys)
      this.#fetchedAt = performance.now()
      if ([...before].some((digest) => !this.known!.has(digest))) this.#events.onTaken()
      return undefined
    } catch (error) {
      if (error instanceof RequestError) return error.message
      throw error
    }
  }

  current(): Promise<readonly TokenKey[] | undefined> | readonly TokenKey[] | undefined {
    const age = performance.now() - this.#fetchedAt
    if (age > this.#limits.tooOldMs) this.#keys = undefined
    if (this.#keys === undefined) return this.fetch().then(() => this.#keys)
    if (age > this.#limits.oldMs) void this.fetch()
    return this.#keys
  }

  async renewed(): Promise<readonly TokenKey[] | undefined> {
    const before = this.#fetchedAt
    await this.fetch()
    return this.#fetchedAt === before ? undefined : this.#keys
  }
}
