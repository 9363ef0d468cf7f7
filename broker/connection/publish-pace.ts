// How fast one client may publish: messages and bytes in a second. Who is faster is read no further for a while, or,
// by option, refused or sent away. While it is not read its PINGREQs are looked for among what waits and answered, so that its
// Keep Alive holds. State: two buckets; where the look ahead stands, and how many PINGREQs it has answered that the
// reader has still to come to. Only what a connection reads ahead is looked through (inbound.ts bounds it).
import { TokenBucket } from '../access/token-bucket.ts'
import type { ListenerConfig } from '../config/config.ts'
import { PacketType } from '../protocol/control-packets.ts'
import { LookAhead } from '../protocol/look-ahead.ts'

type PaceLimits = Pick<
  ListenerConfig,
  'publishesPerSecondMax' | 'publishBytesPerSecondMax' | 'publishTooFast'
>

export class PublishPace {
  readonly #messages: TokenBucket | undefined
  readonly #bytes: TokenBucket | undefined
  /** What is too fast is refused, where there are words for it. */
  readonly refuses: boolean
  /** It ends the connection. */
  readonly disconnects: boolean
  #lookAhead: LookAhead | undefined
  #answered = 0

  private constructor({ publishesPerSecondMax, publishBytesPerSecondMax, publishTooFast }: PaceLimits) {
    const bucketOf = (max: number | undefined): TokenBucket | undefined =>
      max === undefined ? undefined : new TokenBucket(max)
    this.#messages = bucketOf(publishesPerSecondMax)
    this.#bytes = bucketOf(publishBytesPerSecondMax)
    this.refuses = publishTooFast === 'refuse'
    this.disconnects = publishTooFast === 'disconnect'
  }

  /** Undefined: there is no limit. */
  static of(limits: PaceLimits): PublishPace | undefined {
    const { publishesPerSecondMax, publishBytesPerSecondMax } = limits
    if (publishesPerSecondMax === undefined && publishBytesPerSecondMax === undefined) return undefined
    return new PublishPace(limits)
  }

  /** A message came. @returns ms after which the next one may */
  take(bytes: number): number {
    return Math.max(this.#messages?.take(1) ?? 0, this.#bytes?.take(bytes) ?? 0)
  }

  /** The next one comes too early. */
  get isSpent(): boolean {
    return (this.#messages?.take(0) ?? 0) > 0 || (this.#bytes?.take(0) ?? 0) > 0
  }

  get isLooking(): boolean {
    return this.#lookAhead !== undefined
  }

  /** Looks through the next bytes that wait; the first begin with a packet. @returns how many PINGREQs are in them */
  look(bytes: Buffer): number {
    this.#lookAhead ??= new LookAhead(PacketType.pingreq)
    let found = 0
    for (let rest = bytes; rest.length > 0; rest = rest.subarray(this.#lookAhead.readTo)) {
      const packet = this.#lookAhead.feed(rest)
      if (packet === undefined) break
      if (packet.length === 2) found++
    }
    this.#answered += found
    return found
  }

  /** All that was looked through is read. */
  lookNoMore(): void {
    this.#lookAhead = undefined
    this.#answered = 0
  }

  /** A PINGREQ is read: whether it was answered when it came. */
  wasAnswered(): boolean {
    if (this.#answered === 0) return false
    this.#answered--
    return true
  }
}
