// Messages that wait, the oldest first. State: this object. Taking one is O(1), however many there are.
export class Queue {
  /** Those before the first are taken, and forgotten. */
  #bodies: (Buffer | undefined)[] = []
  #first = 0
  #bytes = 0

  static of(bodies: readonly Buffer[]): Queue {
    const queue = new Queue()
    for (const body of bodies) queue.push(body)
    return queue
  }

  get length(): number {
    return this.#bodies.length - this.#first
  }

  get bytes(): number {
    return this.#bytes
  }

  /** All of them, the oldest first. */
  *oldest(): Generator<Buffer> {
    for (let i = this.#first; i < this.#bodies.length; i++) yield this.#bodies[i]!
  }

  /** The oldest ones, which stay. */
  first(count: number): Buffer[] {
    return this.#bodies.slice(this.#first, this.#first + count) as Buffer[]
  }

  push(body: Buffer): void {
    this.#bodies.push(body)
    this.#bytes += body.length
  }

  shift(): Buffer | undefined {
    const body = this.#bodies[this.#first]
    if (body === undefined) return undefined
    this.#bytes -= body.length
    this.#bodies[this.#first++] = undefined
    if (this.#first > 1_024 || this.#first === this.#bodies.length) {
      this.#bodies = this.#bodies.slice(this.#first)
      this.#first = 0
    }
    return body
  }
}
