// Whether a password is the one that is kept, asked as often as clients connect: a thousand that come at once take turns
// in few threads, and what was found out is not worked out again. State: digests of logins that were right, and of those
// that were wrong; those that wait. Bounds: both in number; those at work, those that wait, and for how long. A digest is
// salted with a secret of this process and covers what is kept: it holds for as long as that is kept.
import { createHmac, randomBytes } from 'node:crypto'
import { Refusal, type Answer } from './gate.ts'
import { keptOf } from './passwords.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'

export const loginLimits = {
  /** Threads that Node has for such work are four: others need them, too. */
  atWork: 2,
  waiting: 1_000,
  waitMs: 5_000,
  right: 200_000,
  /** Few: who guesses must not take their place. */
  wrong: 5_000,
}

const busy = (reason: string): Refusal => new Refusal(ReasonCode.serverBusy, reason, { isUndecided: true })

interface Waiting {
  readonly since: number
  begin(): void
}

/** A set that forgets the oldest. */
class Recent {
  readonly #max: number
  readonly #all = new Set<string>()

  constructor(max: number) {
    this.#max = max
  }

  has(key: string): boolean {
    if (!this.#all.delete(key)) return false
    this.#all.add(key)
    return true
  }

  add(key: string): void {
    this.#all.add(key)
    if (this.#all.size > this.#max) this.#all.delete(this.#all.values().next().value!)
  }
}

export class Logins {
  readonly #secret = randomBytes(32)
  readonly #limits: typeof loginLimits
  readonly #right: Recent
  readonly #wrong: Recent
  readonly #underWay = new Map<string, Promise<boolean | Refusal>>()
  #waiting: Waiting[] = []
  #atWork = 0

  constructor(limits = loginLimits) {
    this.#limits = limits
    this.#right = new Recent(limits.right)
    this.#wrong = new Recent(limits.wrong)
  }

  /** @param kept what is kept of the user's password, as a text; a refusal: there was no time to find out */
  isRight(user: string, password: Buffer, kept: string): Answer<boolean | Refusal> {
    const digest = createHmac('sha256', this.#secret)
      .update(`${Buffer.byteLength(user)} ${user}${kept.length} ${kept}`)
      .update(password)
      .digest('base64')
    if (this.#right.has(digest)) return true
    if (this.#wrong.has(digest)) return false
    let answer = this.#underWay.get(digest)
    if (answer === undefined) {
      answer = this.#find(password, kept)
        .then((found) => {
          if (found === true) this.#right.add(digest)
          else if (found === false) this.#wrong.add(digest)
          return found
        })
        .finally(() => this.#underWay.delete(digest)) // also when it was not found out
      this.#underWay.set(digest, answer)
    }
    return answer
  }

  /**
   * The same work for an unknown name, with the hash of a known user. So how long it takes tells nobody which
   * users there are.
   */
  async waste(user: string, password: Buffer, others: readonly string[]): Promise<Refusal | undefined> {
    const pick = createHmac('sha256', this.#secret).update(user).digest().readUInt32BE()
    const found = await this.isRight(user, password, others[pick % others.length] ?? nobodys)
    return found instanceof Refusal ? found : undefined
  }

  async #find(password: Buffer, kept: string): Promise<boolean | Refusal> {
    const known = keptOf(kept)
    if (known === undefined) return false
    if (!known.isSlow) return known.isRight(password)
    if (this.#atWork >= this.#limits.atWork) {
      if (this.#waiting.length >= this.#limits.waiting)
        return busy('as many passwords as may wait are checked')
      const since = performance.now()
      await new Promise<void>((resolve) => this.#waiting.push({ since, begin: resolve }))
      if (performance.now() - since > this.#limits.waitMs) {
        this.#next()
        return busy('its password could not be checked in time')
      }
    } else this.#atWork++
    try {
      return await known.isRight(password)
    } finally {
      this.#next()
    }
  }

  /** Whoever waited too long goes at once: nobody waits for the answer any more. */
  #next(): void {
    const next = this.#waiting.shift()
    if (next === undefined) this.#atWork--
    else next.begin()
  }
}

/** Of no password that anybody has. */
const nobodys = `$scrypt$ln=14,r=8,p=1$${randomBytes(16).toString('base64')}$${randomBytes(32).toString('base64')}`
