// SUBSCRIBE and UNSUBSCRIBE of one connection, and a DISCONNECT after them: what was sent first happens
// first. Each waits until the publishes before it are stored and the request before it is answered: of two at
// once Aedes would answer the second by what the first one is about to change. They are answered in
// broker/aedes/subscribe.ts. State: this connection. Bound: the caller stops reading when too many wait.
import type { Publishes } from './unstored-publishes.ts'

interface Request {
  /** What came between it and the request before; undefined: nothing. */
  readonly after: Publishes | undefined
  readonly type: number
  readonly frame: Buffer
}

export class RequestQueue {
  readonly #handle: (type: number, frame: Buffer) => void
  /** As many of these as may wait are the bytes that may. */
  readonly #largeBytes: number
  #waiting: Request[] = []
  #underWay = false

  /** @param max how many may wait, and `bytesMax` how many bytes of them */
  constructor(handle: (type: number, frame: Buffer) => void, max: number, bytesMax: number) {
    this.#handle = handle
    this.#largeBytes = bytesMax / max
  }

  /** How many wait; a large one counts as several: they are bounded in bytes, too. */
  get waiting(): number {
    let waiting = 0
    for (const { frame } of this.#waiting) waiting += Math.max(1, frame.length / this.#largeBytes)
    return waiting
  }

  take(type: number, frame: Buffer, after: Publishes | undefined): void {
    if (this.#underWay || this.#waiting.length > 0 || (after?.left ?? 0) > 0)
      this.#waiting.push({ after, type, frame: Buffer.from(frame) })
    else this.#begin(type, frame)
  }

  #begin(type: number, frame: Buffer): void {
    this.#underWay = true
    this.#handle(type, frame)
  }

  /** The answer to the one under way was written. */
  answered(): void {
    this.#underWay = false
  }

  /** False when none waits or is under way: nothing that matters is kept here any more. */
  goOn(): boolean {
    while (!this.#underWay && this.#waiting.length > 0 && (this.#waiting[0]!.after?.left ?? 0) === 0) {
      const { type, frame } = this.#waiting.shift()!
      this.#begin(type, frame)
    }
    return this.#underWay || this.#waiting.length > 0
  }
}
