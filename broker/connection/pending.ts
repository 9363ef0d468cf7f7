// One QoS ≥ 1 delivery of a connection, in its window or before it: a frame that others share, and what is
// this delivery's own.
import type { Frame } from '../protocol/publish-frame.ts'
import { Window, type Delivery } from './window.ts'

export class Pending implements Delivery {
  readonly frame: Frame
  readonly qos: 1 | 2
  /** As Message says it. */
  readonly expiresAt: number

  constructor(frame: Frame, qos: 1 | 2, expiresAt: number) {
    this.frame = frame
    this.qos = qos
    this.expiresAt = expiresAt
  }

  get bytes(): number {
    return this.frame.length
  }

  copyPayload(): void {
    this.frame.copyPayload()
  }
}

/** Before CONNACK nothing is delivered. */
export const noWindow = new Window<Pending>(0, { put: () => false })
