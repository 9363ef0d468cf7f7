// A webhook that says who a client is: it is asked by POST, in JSON, and what it says is remembered for a while, by a digest
// of what the client brought that is salted with a secret of this process; of a client that it let in for as long as that one
// is connected, too, which it would be without being asked about again. A thousand clients that come at once are a few
// requests at a time; those with the same name and password are one. Whom it hangs, breaks or lies to is decided by an
// option: nobody whom it has not let in comes in, or whoever it said yes to last. broker/README.md has what it is sent and
// may say. State: what it said; those that wait for a request; the circuit breaker. Bounds: of each answer, of all that are
// remembered, of requests at a time, of those that wait and for how long.
import { createHmac, randomBytes } from 'node:crypto'
import { boundedRequest, RequestError } from './bounded-request.ts'
import { notAuthenticated, type Credentials, type Verdict } from './chain.ts'
import { CircuitBreaker } from './circuit-breaker.ts'
import { Refusal, type Answer } from './gate.ts'
import type { Principal } from './principal.ts'
import { Remembered } from './remembered.ts'
import { readPermissions } from './rules-file.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'

export const whenDownPolicies = ['deny', 'last'] as const

export interface WebhookOptions {
  readonly url: string
  /** Sent as `Authorization: Bearer`. */
  readonly secret: () => string | undefined
  readonly timeoutMs: number
  readonly whenDown: (typeof whenDownPolicies)[number]
  readonly allowedMs: number
  readonly refusedMs: number
  readonly requestsMax: number
  /** Else a `tenant` in its answer is of its own use. */
  readonly hasTenants: boolean
}

export interface WebhookEvents {
  /** It answered as it should, or not: then this is why. */
  onAnswer(problem: string | undefined): void
  /** How a client was decided about. */
  onDecided(by: DecidedBy): void
}

export const decidedBy = ['request', 'remembered', 'last', 'nobody'] as const
export type DecidedBy = (typeof decidedBy)[number]

export const webhookLimits = {
  answerBytesMax: 64 * 1024,
  breaker: { failuresMax: 5, openMs: 2_000 },
  /** Less than a decision has: who waits longer is told to come again. */
  waitMs: 3_000,
  waiting: 10_000,
  waitingBytes: 32 * 1024 * 1024,
  allowed: { count: 200_000, bytes: 64 * 1024 * 1024, lastMs: 86_400_000 },
  /** Few: who guesses must not take the place of the others. */
  refused: { count: 5_000, bytes: 4 * 1024 * 1024, lastMs: 86_400_000 },
}

/** Those that came at once do not come back at once. */
const jittered = (ms: number): number => ms * (0.8 + 0.4 * Math.random())
const rulesMax = 100

/** Who it lets in; no; not its. */
type Said = Principal | 'deny' | 'ignore'
const no = notAuthenticated('the webhook refuses it')
const verdictOf = (said: Said): Verdict => (said === 'deny' ? no : said === 'ignore' ? undefined : said)

/** It did not answer as it should: the text is for the log. */
class WebhookError extends Error {}

interface Told {
  readonly username: string | undefined
  readonly password: string | undefined
  readonly clientid: string
  readonly cert_common_name: string | undefined
  readonly cert_fingerprint: string | undefined
}

/** A password that is no text is sent in base64, behind this. */
const base64Mark = 'base64:'
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
function textOf(password: Buffer): string {
  try {
    return utf8.decode(password)
  } catch {
    return base64Mark + password.toString('base64')
  }
}

export class Webhook {
  readonly #options: WebhookOptions
  readonly #events: WebhookEvents
  readonly #limits: typeof webhookLimits
  readonly #secret = randomBytes(32)
  readonly #allowed: Remembered<Said>
  readonly #refused: Remembered<Said>
  readonly #breaker: CircuitBreaker
  readonly #underWay = new Map<string, Promise<Verdict>>()
  /** In their order. */
  /** Of the bodies of those. */
  #waitingBytes = 0
  readonly #waiting = new Set<(isTurn: boolean) => void>()
  #requests = 0

  constructor(options: WebhookOptions, events: WebhookEvents, limits = webhookLimits) {
    this.#options = options
    this.#events = events
    this.#limits = limits
    this.#allowed = new Remembered(limits.allowed)
    this.#refused = new Remembered(limits.refused)
    this.#breaker = new CircuitBreaker(limits.breaker)
  }

  /** At once where it is remembered. */
  decide(credentials: Credentials): Answer<Verdict> {
    const told = toldOf(credentials)
    const body = JSON.stringify(told)
    const digest = createHmac('sha256', this.#secret).update(body).digest('base64')
    const said = this.#allowed.fresh(digest) ?? this.#refused.fresh(digest)
    if (said !== undefined) {
      this.#events.onDecided('remembered')
      return verdictOf(said)
    }
    let answer = this.#underWay.get(digest)
    if (answer === undefined) {
      answer = this.#ask(digest, body, told).finally(() => this.#underWay.delete(digest))
      this.#underWay.set(digest, answer)
    }
    return answer
  }

  /** A client that it let in is connected, or is not any more. */
  connected({ kept }: Principal): void {
    if (kept !== undefined) this.#allowed.hold(kept)
  }

  left({ kept }: Principal): void {
    if (kept !== undefined) this.#allowed.release(kept, jittered(this.#options.allowedMs))
  }

  async #ask(digest: string, body: string, told: Told): Promise<Verdict> {
    if (!(await this.#turn(body.length)))
      return this.#withoutIt(
        digest,
        new Refusal(ReasonCode.serverBusy, 'too many wait for the webhook', { isUndecided: true }),
      )
    try {
      if (!this.#breaker.mayAsk()) return this.#withoutIt(digest, down)
      const said = await this.#request(digest, body, told)
      this.#events.onDecided('request')
      return verdictOf(said)
    } catch (error) {
      if (!(error instanceof WebhookError)) throw error
      return this.#withoutIt(digest, down)
    } finally {
      this.#next()
    }
  }

  async #request(digest: string, body: string, told: Told): Promise<Said> {
    try {
      const { said: answer, bytes } = await this.#said(body, told)
      const said = typeof answer === 'string' ? answer : { ...answer, kept: digest }
      this.#breaker.succeeded()
      this.#events.onAnswer(undefined)
      this.#remember(digest, said, bytes)
      return said
    } catch (error) {
      this.#breaker.failed()
      if (error instanceof WebhookError) this.#events.onAnswer(error.message)
      throw error
    }
  }

  /** @throws WebhookError */
  async #said(body: string, told: Told): Promise<{ said: Said; bytes: number }> {
    const { url, timeoutMs, hasTenants } = this.#options
    const secret = this.#options.secret()
    const asked = {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        accept: 'application/json',
        ...(secret !== undefined && { authorization: `Bearer ${secret}` }),
      },
      body,
      timeoutMs,
      bytesMax: this.#limits.answerBytesMax,
    } as const
    try {
      const { status, text } = await boundedRequest(url, asked)
      return { said: saidBy(status, text, told, hasTenants), bytes: text.length }
    } catch (error) {
      if (error instanceof RequestError) throw new WebhookError(error.message)
      throw error
    }
  }

  #remember(digest: string, said: Said, bytes: number): void {
    const isAllowed = typeof said !== 'string'
    const { allowedMs, refusedMs } = this.#options
    // no answer outlives its own `expire_at`
    const lastMs = isAllowed && said.expiresAt !== undefined ? said.expiresAt - Date.now() : Infinity
    const [to, from] = isAllowed ? [this.#allowed, this.#refused] : [this.#refused, this.#allowed]
    to.set(digest, said, bytes, jittered(isAllowed ? allowedMs : refusedMs), lastMs)
    from.delete(digest)
  }

  /** Nobody decides now. */
  #withoutIt(digest: string, refusal: Refusal): Verdict {
    const last =
      this.#options.whenDown === 'last'
        ? (this.#allowed.last(digest) ?? this.#refused.last(digest))
        : undefined
    this.#events.onDecided(last === undefined ? 'nobody' : 'last')
    return last === undefined ? refusal : verdictOf(last)
  }

  /** Resolves when a request may begin; false: it would be too late. */
  #turn(bytes: number): Promise<boolean> | true {
    if (this.#requests < this.#options.requestsMax) {
      this.#requests++
      return true
    }
    const { waiting, waitingBytes, waitMs } = this.#limits
    if (this.#waiting.size >= waiting || this.#waitingBytes + bytes > waitingBytes)
      return Promise.resolve(false)
    this.#waitingBytes += bytes
    return new Promise((resolve) => {
      const go = (isTurn: boolean): void => {
        clearTimeout(timer)
        this.#waiting.delete(go)
        this.#waitingBytes -= bytes
        resolve(isTurn)
      }
      const timer = setTimeout(() => go(false), waitMs)
      this.#waiting.add(go)
    })
  }

  #next(): void {
    const [next] = this.#waiting
    if (next === undefined) this.#requests--
    else next(true)
  }
}

const down = new Refusal(ReasonCode.serverUnavailable, 'the webhook does not answer', { isUndecided: true })

function toldOf({ username, password, clientId, certificate: certificateOf }: Credentials): Told {
  const certificate = certificateOf()
  return {
    username,
    password: password === undefined ? undefined : textOf(password),
    clientid: clientId,
    cert_common_name: certificate?.commonName,
    cert_fingerprint: certificate?.fingerprint,
  }
}

/** @throws WebhookError */
function saidBy(status: number, text: string, { username }: Told, hasTenants: boolean): Said {
  if (status === 204) return { user: username, by: 'webhook' }
  if (status === 401 || status === 403) return 'deny'
  if (status !== 200) throw new WebhookError(`it answers with status ${status}`)
  let answer: Record<string, unknown>
  try {
    answer = JSON.parse(text) as Record<string, unknown>
  } catch {
    throw new WebhookError('its answer is not JSON')
  }
  const { result, user = username, clientid, rules, expire_at: expires } = answer ?? {}
  const tenant = hasTenants ? answer?.tenant : undefined
  if (result === 'deny' || result === 'ignore') return result
  if (result !== 'allow') throw new WebhookError('its answer has none of the results allow, deny and ignore')
  if (user !== undefined && (typeof user !== 'string' || user === ''))
    throw new WebhookError('its user is no name')
  if (clientid !== undefined && typeof clientid !== 'string')
    throw new WebhookError('its clientid is no text')
  if (tenant !== undefined && typeof tenant !== 'string') throw new WebhookError('its tenant is no text')
  if (expires !== undefined && typeof expires !== 'number')
    throw new WebhookError('its expire_at is no number')
  const isTooLong = Array.isArray(rules) && rules.length > rulesMax
  const permissions = rules === undefined || isTooLong ? undefined : readPermissions(rules, 'webhook')
  if (rules !== undefined && permissions === undefined)
    throw new WebhookError(`its rules are no list of up to ${rulesMax} rules`)
  return {
    user,
    by: 'webhook',
    ...(clientid !== undefined && { clientId: clientid }),
    ...(tenant !== undefined && { tenant }),
    ...(permissions !== undefined && { permissions }),
    ...(expires !== undefined && { expiresAt: expires * 1_000 }),
  }
}
