// Who waits for Redis, since when and why. Everything that waits stands here: a retry (redis.ts) with what it
// was refused with and since its first attempt, also of a CONNECT; the publishers by the data plane. Whoever
// waits longer than two seconds is named on a channel, once per cause, and named again when it is over (P13).
// State: this process; a look every 250 ms, O(waits).
import type { Reports } from '../diagnostics.ts'
import { bridgeErrors, BridgeError, isRedis, type BridgeErrorCode } from '../errors.ts'

/** Waits that take so long are named. */
const namedMs = 2_000
const lookMs = 250

/** A `probe` explains why others wait, and is not counted among them. */
export type Waiter = 'connect' | 'write' | 'probe'

/**
 * What the channels `waiting` and `waited` tell: a cause, and at most how many waited at once while it
 * lasted.
 */
export interface WaitReport {
  /** The node that waits. */
  readonly name: string
  /** What is waited for, as an operator calls it: Redis, or the disk. */
  readonly store: string
  readonly code: BridgeErrorCode
  readonly kind: BridgeError['kind']
  readonly reason: string
  readonly remedy: string
  readonly seconds: number
  readonly publishers: number
  readonly connects: number
  readonly writes: number
  readonly wills: number
}

export interface Waiting {
  readonly publishers: number
  readonly connects: number
  readonly writes: number
  readonly wills: number
  /** Since when the oldest waits; 0 when nobody does. */
  readonly seconds: number
}

/** Publishes that are not stored yet. */
export interface PublishWaits {
  /** Clients that have one or more. */
  readonly publishers: number
  /** Wills that are due. */
  readonly wills: number
  /** Since when the oldest waits (performance.now()); undefined: none does. */
  readonly since: number | undefined
}

export interface Wait {
  /** It was refused with `error`, and is tried again. */
  because(error: BridgeError): void
  end(): void
}

interface Open {
  readonly who: Waiter
  readonly since: number
  error: BridgeError | undefined
}

/** A cause that somebody waits for now. */
interface Cause {
  since: number
  error: BridgeError
  /** As it was named. */
  said?: BridgeError
  named: boolean
  publishers: number
  connects: number
  writes: number
  wills: number
}

const isOfRedis = (code: BridgeErrorCode): boolean => isRedis(bridgeErrors[code].kind)

function widen(
  cause: Cause,
  { publishers, connects, writes, wills }: Pick<Cause, 'publishers' | 'connects' | 'writes' | 'wills'>,
): void {
  cause.publishers = Math.max(cause.publishers, publishers)
  cause.connects = Math.max(cause.connects, connects)
  cause.writes = Math.max(cause.writes, writes)
  cause.wills = Math.max(cause.wills, wills)
}

export class Waits {
  /** The channels of the node that waits. */
  readonly reports: Reports
  readonly #slow: BridgeErrorCode
  readonly #open = new Set<Open>()
  readonly #connectsMax: number
  #connects = 0
  readonly #publishes = new Set<() => PublishWaits>()
  readonly #causes = new Map<BridgeErrorCode, Cause>()
  /** What a connection was refused with: says more than that it is not there. */
  #connectionError: BridgeError | undefined
  readonly #timer: NodeJS.Timeout

  /** @param slow what it is when there is no answer and no error either */
  constructor(reports: Reports, connectsMax: number, slow: BridgeErrorCode = 'ERR_BRIDGE_REDIS_SLOW') {
    this.reports = reports
    this.#slow = slow
    this.#connectsMax = connectsMax
    this.#timer = setInterval(() => this.look(), lookMs).unref()
  }

  /** CONNECTs that wait. */
  get connects(): number {
    return this.#connects
  }

  /** Whether one more CONNECT may wait. */
  get mayConnect(): boolean {
    return this.mayConnectBeside(0)
  }

  /** The same beside so many that were refused nothing and wait for an answer all the same. */
  mayConnectBeside(unanswered: number): boolean {
    return this.#connects + unanswered < this.#connectsMax
  }

  begin(who: Waiter, since = performance.now()): Wait {
    const open: Open = { who, since, error: undefined }
    this.#open.add(open)
    if (who === 'connect') this.#connects++
    return {
      because: (error) => {
        this.reports.tell('storeError', { name: this.reports.name, code: error.code, reason: error.message })
        open.error = error
      },
      end: () => {
        if (this.#open.delete(open) && who === 'connect') this.#connects--
      },
    }
  }

  /** @returns ends it */
  watchPublishes(publishes: () => PublishWaits): () => void {
    this.#publishes.add(publishes)
    return () => {
      this.#publishes.delete(publishes)
    }
  }

  /**
   * A connection to Redis broke or could not be made, or a probe was refused. That it is not there says less
   * than why.
   */
  connectionFailed(error: BridgeError): void {
    this.reports.tell('storeError', { name: this.reports.name, code: error.code, reason: error.message })
    if (this.#connectionError === undefined || error.details.isBrokenOff !== true)
      this.#connectionError = error
  }

  /** A connection is there; it was made for the asking, or something was `stored` by it. */
  connected(stored = false): void {
    if (stored || this.#connectionError?.code === 'ERR_BRIDGE_REDIS_UNREACHABLE')
      this.#connectionError = undefined
  }

  /** Why Redis cannot be reached or does not store, as far as a connection told. */
  get connectionError(): BridgeError | undefined {
    return this.#connectionError
  }

  /** How many wait now, and for how long. */
  get waiting(): Waiting {
    const now = performance.now()
    const { publishers, connects, writes, wills, since } = this.#count()
    return { publishers, connects, writes, wills, seconds: since === undefined ? 0 : (now - since) / 1_000 }
  }

  /** What is waited for by now for longer than two seconds. */
  get named(): readonly WaitReport[] {
    const now = performance.now()
    return [...this.#causes]
      .filter(([, { named }]) => named)
      .map(([code, cause]) => this.#report(code, cause, now))
  }

  close(): void {
    clearInterval(this.#timer)
    this.#open.clear()
    this.#publishes.clear()
    this.#causes.clear()
  }

  #count(): {
    publishers: number
    connects: number
    writes: number
    wills: number
    since: number | undefined
    unexplained: number | undefined
  } {
    let publishers = 0
    let wills = 0
    let since: number | undefined
    let unexplained: number | undefined
    const earlier = (one: number | undefined, other: number | undefined): number | undefined =>
      one === undefined || (other !== undefined && other < one) ? other : one
    for (const publishes of this.#publishes) {
      const waits = publishes()
      // on its way, as all of them are
      if (waits.since === undefined || performance.now() - waits.since < lookMs) continue
      publishers += waits.publishers
      wills += waits.wills
      unexplained = earlier(unexplained, waits.since)
    }
    let writes = 0
    for (const open of this.#open) {
      if (open.who === 'write') writes++
      since = earlier(since, open.since)
      if (open.error === undefined) unexplained = earlier(unexplained, open.since)
    }
    return {
      publishers,
      connects: this.#connects,
      writes,
      wills,
      since: earlier(since, unexplained),
      unexplained,
    }
  }

  /** Tells what has changed; several times a second by itself. */
  look(): void {
    const now = performance.now()
    const counted = this.#count()
    const present = this.#present(now, counted.unexplained)
    for (const [code, { since, error }] of present) {
      let cause = this.#causes.get(code)
      if (cause === undefined)
        this.#causes.set(
          code,
          (cause = { since, error, named: false, publishers: 0, connects: 0, writes: 0, wills: 0 }),
        )
      cause.error = error
      widen(cause, counted)
      if (cause.named || now - since < namedMs) continue
      cause.named = true
      cause.said = error
      this.reports.tell('waiting', this.#report(code, cause, now))
    }
    this.#end(present, now)
  }

  /**
   * What is waited for now, and since when. What a connection or the probe was refused with explains the
   * rest.
   */
  #present(
    now: number,
    unexplained: number | undefined,
  ): Map<BridgeErrorCode, { since: number; error: BridgeError }> {
    const present = new Map<BridgeErrorCode, { since: number; error: BridgeError }>()
    for (const { since, error } of this.#open) {
      if (error === undefined) continue
      const why = isRedis(error.kind) ? (this.#connectionError ?? error) : error
      const known = present.get(why.code)
      if (known === undefined || since < known.since) present.set(why.code, { since, error: why })
    }
    // Publishers, and CONNECTs that nothing was replied to, have the cause that the writes have. Without one
    // they wait all the same.
    if (present.size === 0 && unexplained !== undefined && now - unexplained >= namedMs) {
      const error = this.#connectionError ?? new BridgeError(this.#slow, 'there is no answer yet')
      present.set(error.code, { since: unexplained, error })
    }
    return present
  }

  /**
   * What nobody waits for any more. Of Redis the end is told once, when nothing of it is left: away, then
   * loading, then back.
   */
  #end(present: ReadonlyMap<BridgeErrorCode, unknown>, now: number): void {
    const redisIsBack = ![...present.keys()].some(isOfRedis)
    let outage: [BridgeErrorCode, Cause] | undefined
    for (const [code, cause] of this.#causes) {
      if (present.has(code) || (isOfRedis(code) && cause.named && !redisIsBack)) continue
      this.#causes.delete(code)
      if (!cause.named) continue
      cause.error = cause.said ?? cause.error // of the last to wait each may have met something else
      if (!isOfRedis(code)) this.reports.tell('waited', this.#report(code, cause, now))
      else if (outage === undefined)
        outage = [code, cause] // the first one, as they stand in their order
      else widen(outage[1], cause)
    }
    if (outage !== undefined) this.reports.tell('waited', this.#report(...outage, now))
  }

  #report(
    code: BridgeErrorCode,
    { since, error, publishers, connects, writes, wills }: Cause,
    now: number,
  ): WaitReport {
    return {
      name: this.reports.name,
      store: error.kind === 'disk' ? 'the disk' : 'Redis',
      code,
      kind: error.kind,
      reason: error.message,
      remedy: error.remedy,
      seconds: Math.round((now - since) / 100) / 10,
      publishers,
      connects,
      writes,
      wills,
    }
  }
}
