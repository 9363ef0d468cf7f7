// What one client has published and is not stored yet: how much it is, and how much of it came before which
// request. State: this connection. Bound: `isFull`; the caller then stops reading.
import type { Config } from '../config/config.ts'
import { limits } from '../config/limits.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'
import { ProtocolViolation } from '../protocol/properties.ts'

/** Publishes that came between two requests; they need not be stored in the order in which they came. */
export interface Publishes {
  left: number
}

export type PublishingLimits = Pick<Config, 'receiveMaximum' | 'publishingBytesMax'>

interface Refused {
  readonly behind: number
  readonly acknowledge: () => void
}

/** One of them; on the hot path, so an object and no closure. */
export class UnstoredPublish {
  readonly #all: UnstoredPublishes
  readonly #publishes: Publishes
  readonly #bytes: number
  readonly #qos: 0 | 1 | 2

  constructor(all: UnstoredPublishes, publishes: Publishes, bytes: number, qos: 0 | 1 | 2) {
    this.#all = all
    this.#publishes = publishes
    this.#bytes = bytes
    this.#qos = qos
  }

  end(): void {
    this.#publishes.left--
    this.#all.ended(this.#bytes, this.#qos)
  }
}

export class UnstoredPublishes {
  readonly #limits: PublishingLimits
  count = 0
  /** Those of QoS 1. */
  qos1 = 0
  #bytes = 0
  /** Those that came since the last SUBSCRIBE, UNSUBSCRIBE or DISCONNECT. */
  #latest: Publishes | undefined
  #whenNone: (() => void) | undefined
  #isGivenUp = false
  /** By QoS: how many were handed on or refused, and how many came to their end. */
  readonly #decided = [0, 0, 0]
  readonly #ended = [0, 0, 0]
  readonly #isAcknowledging = [false, false, false]
  /** By QoS: those whose acknowledgement waits until so many have ended; made with the first. */
  #refused: readonly Refused[][] | undefined

  /** @param limits how many, and how many bytes, may be left before it is full */
  constructor(limits: PublishingLimits) {
    this.#limits = limits
  }

  /** One came; the caller ends what it gets back when it is stored, once. */
  begin(bytes: number, qos: 0 | 1 | 2): UnstoredPublish {
    const publishes = (this.#latest ??= { left: 0 })
    publishes.left++
    this.count++
    this.#bytes += bytes
    if (qos === 1) this.qos1++
    return new UnstoredPublish(this, publishes, bytes, qos)
  }

  /** One came to its end. */
  ended(bytes: number, qos: 0 | 1 | 2): void {
    this.count--
    this.#bytes -= bytes
    if (qos === 1) this.qos1--
    this.#ended[qos]!++
    if (this.#refused !== undefined) this.#acknowledgeRefused(qos, this.#refused[qos]!)
    if (this.count === 0) this.#whenNone?.()
  }

  /** One is handed on, to be stored. */
  handOn(qos: 0 | 1 | 2): void {
    this.#decided[qos]!++
  }

  /**
   * One is not to be stored: `acknowledge` is called, at once or later, when those of its QoS that came before it
   * have been acknowledged [MQTT-4.6.0-2] [MQTT-4.6.0-3]; it ends the publish.
   */
  refuse(qos: 1 | 2, acknowledge: () => void): void {
    const refused = (this.#refused ??= [[], [], []])[qos]!
    refused.push({ behind: this.#decided[qos]!++, acknowledge })
    this.#acknowledgeRefused(qos, refused)
  }

  /** Each ends its publish, which may let the next one go: that one is this loop's, too. */
  #acknowledgeRefused(qos: 0 | 1 | 2, refused: Refused[]): void {
    if (refused.length === 0 || this.#isAcknowledging[qos]) return
    this.#isAcknowledging[qos] = true
    try {
      while (refused.length > 0 && this.#ended[qos]! >= refused[0]!.behind) refused.shift()!.acknowledge()
    } finally {
      this.#isAcknowledging[qos] = false
    }
  }

  get isFull(): boolean {
    const { receiveMaximum, publishingBytesMax } = this.#limits
    return this.count >= receiveMaximum || this.#bytes >= publishingBytesMax
  }

  get hasRoom(): boolean {
    const { receiveMaximum, publishingBytesMax } = this.#limits
    return this.count <= receiveMaximum / 2 && this.#bytes <= publishingBytesMax / 2
  }

  /**
   * QoS 1 is held back before it comes to that: only what waits for its PUBREL leads here, `more` with the
   * one that came. Who was told nothing (3.1.1) may have more.
   * @throws ProtocolViolation
   */
  checkReceiveMaximum(more: number, wasTold: boolean): void {
    const open = this.qos1 + more
    const { receiveMaximum } = this.#limits
    if (open <= (wasTold ? receiveMaximum : receiveMaximum * limits.unannouncedFactor)) return
    // 4.9
    throw new ProtocolViolation(
      ReasonCode.receiveMaximumExceeded,
      `${open} publishes that are not acknowledged`,
      'receive-maximum',
    )
  }

  /** A request came: what it waits for, besides what the one before it does; undefined: nothing. */
  takeLatest(): Publishes | undefined {
    const publishes = this.#latest
    this.#latest = undefined
    return publishes
  }

  /** Resolves when nothing is left; once, and when nothing more comes. */
  async none(): Promise<void> {
    if (this.count > 0 && !this.#isGivenUp)
      await new Promise<void>((resolve) => {
        this.#whenNone = resolve
      })
  }

  /** Nobody waits any longer. */
  giveUp(): void {
    this.#isGivenUp = true
    this.#whenNone?.()
  }
}
