// How fast one client is sent messages: messages and bytes in a second. Beyond that QoS 0 is dropped, and QoS ≥ 1 waits where
// it waits for a slow client: in its window, or in the queue of its session. State: two buckets, and until when nothing
// more goes out.
import { TokenBucket } from '../access/token-bucket.ts'
import type { ListenerConfig } from '../config/config.ts'

type PaceLimits = Pick<ListenerConfig, 'deliveriesPerSecondMax' | 'deliveryBytesPerSecondMax'>

export class DeliveryPace {
  readonly #messages: TokenBucket | undefined
  readonly #bytes: TokenBucket | undefined
  readonly #onRoom: () => void
  #timer: NodeJS.Timeout | undefined

  private constructor({ deliveriesPerSecondMax, deliveryBytesPerSecondMax }: PaceLimits, onRoom: () => void) {
    const bucketOf = (max: number | undefined): TokenBucket | undefined =>
      max === undefined ? undefined : new TokenBucket(max)
    this.#messages = bucketOf(deliveriesPerSecondMax)
    this.#bytes = bucketOf(deliveryBytesPerSecondMax)
    this.#onRoom = onRoom
  }

  /** Undefined: there is no limit. @param onRoom something may go out again */
  static of(limits: PaceLimits, onRoom: () => void): DeliveryPace | undefined {
    const { deliveriesPerSecondMax, deliveryBytesPerSecondMax } = limits
    if (deliveriesPerSecondMax === undefined && deliveryBytesPerSecondMax === undefined) return undefined
    return new DeliveryPace(limits, onRoom)
  }

  /** Nothing goes out for a while. */
  get isSpent(): boolean {
    return this.#timer !== undefined
  }

  /** Messages that may go out at once: one at least, which may be paid back. */
  get most(): number {
    return this.isSpent ? 0 : Math.max(1, Math.floor(this.#messages?.left ?? Infinity))
  }

  /** A message went out. */
  sent(bytes: number): void {
    const waitMs = Math.max(this.#messages?.take(1) ?? 0, this.#bytes?.take(bytes) ?? 0)
    if (waitMs === 0 || this.isSpent) return
    this.#timer = setTimeout(() => this.#look(), waitMs).unref()
  }

  /** More may have gone out meanwhile: what was under way. */
  #look(): void {
    const waitMs = Math.max(this.#messages?.take(0) ?? 0, this.#bytes?.take(0) ?? 0)
    this.#timer = waitMs === 0 ? undefined : setTimeout(() => this.#look(), waitMs).unref()
    if (waitMs === 0) this.#onRoom()
  }

  close(): void {
    clearTimeout(this.#timer)
  }
}
