// Which claims of sessions (CONNECT) are sent to Redis, which wait before that, and which are refused.
// Invariant: so many may be sent and unanswered as may wait for Redis, since one that was sent may have
// been done, and can be refused no more. Of a crowd that Redis answers as fast as it can nobody is refused.
// State: this process.
import { BridgeError, toBridgeError } from '../errors.ts'
import type { Redis } from '../redis/redis.ts'

/** How often claims that were not sent yet look whether Redis has gone. */
const lookMs = 100
/** Looks in which Redis answered no claim as it should: then they are refused. */
const idleLooksMax = 5

const tooMany = (): BridgeError =>
  new BridgeError('ERR_BRIDGE_CROWD', 'as many CONNECTs wait for Redis as may')

export class ClaimQueue {
  readonly #redis: Redis
  /** Claims that are to be sent when Redis has answered others. Called with why they are refused. */
  readonly #unsent = new Set<(refusal?: BridgeError) => void>()
  /** Those that were sent and wait for their first answer. */
  #sentFirst = 0
  #looking: NodeJS.Timeout | undefined
  /** When Redis answered one, or the first of those that it owes an answer was sent; looks since then. */
  #answeredAt = 0
  #idleLooks = 0

  constructor(redis: Redis) {
    this.#redis = redis
  }

  /**
   * A place among those that were sent and not answered, at once when there is one.
   * @returns gives it back, however often it is called
   * @throws BridgeError when Redis has gone before it answered as many as may wait
   */
  enter(): (() => void) | Promise<() => void> {
    let isTaken = false
    const take = (): void => {
      isTaken = true
      if (this.#sentFirst++ === 0 && (this.#redis.waits?.connects ?? 0) === 0) this.#noteAnswer()
    }
    const give = (): void => {
      if (isTaken) this.#sentFirst--
      isTaken = false
      this.#sendMore()
    }
    if (this.#unsent.size === 0 && this.#hasPlace) {
      take()
      return give
    }
    if (this.#redis.status !== 'ready' || performance.now() - this.#answeredAt > idleLooksMax * lookMs)
      throw tooMany()
    return new Promise((resolve, reject) => {
      const go = (refusal?: BridgeError): void => {
        this.#unsent.delete(go)
        if (refusal !== undefined) return reject(refusal)
        take()
        resolve(give)
      }
      this.#unsent.add(go)
      this.#looking ??= setInterval(() => this.#look(), lookMs)
    })
  }

  /** Sends a claim. An answer that refuses nothing but this very claim is one, too. */
  async send<T>(claim: () => Promise<T>): Promise<T> {
    try {
      const reply = await claim()
      this.#noteAnswer()
      return reply
    } catch (error) {
      if (toBridgeError(error).kind === 'answer') this.#noteAnswer()
      throw error
    }
  }

  /** @throws BridgeError the given one when no more claims may wait for Redis */
  stay(error: BridgeError): void {
    if (this.#redis.waits?.mayConnect === false) throw error
  }

  close(closing: BridgeError): void {
    for (const go of this.#unsent) go(closing)
    this.#sendMore()
  }

  get #hasPlace(): boolean {
    return this.#redis.waits?.mayConnectBeside(this.#sentFirst) !== false
  }

  /** In the order in which they came. */
  #sendMore(): void {
    for (const go of this.#unsent) {
      if (!this.#hasPlace) return
      go()
    }
    clearInterval(this.#looking)
    this.#looking = undefined
  }

  /**
   * Redis is gone, says nothing, or refuses those that were sent, which are as many as may wait. A process
   * that stands still looks once in that time, and does not take its Redis for the culprit.
   */
  #look(): void {
    if (this.#redis.status !== 'ready' || ++this.#idleLooks > idleLooksMax)
      for (const go of this.#unsent) go(tooMany())
    this.#sendMore()
  }

  #noteAnswer(): void {
    this.#idleLooks = 0
    this.#answeredAt = performance.now()
  }
}
