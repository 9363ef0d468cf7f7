// Puts the messages that a group member gets from several nodes into their order, each once. State: what came
// too early. Bound: what a member may have.
import type { Delivery } from './group-holder.ts'

export class Arrivals {
  readonly #give: (delivery: Delivery) => void
  readonly #early = new Map<number, Delivery>()
  #next = 0
  #isCut = false

  constructor(give: (delivery: Delivery) => void) {
    this.#give = give
  }

  /** The member begins: what has a smaller number is no news to it. */
  begin(next: number): void {
    this.#next = next
    this.#isCut = false
    this.#early.clear()
  }

  /** What came too early, or comes from now on, goes to others: until the next look. */
  cut(): void {
    this.#isCut = true
    this.#early.clear()
  }

  /** The number of the message that comes next. */
  get next(): number {
    return this.#next
  }

  /** Whether something is missing between what came and what came before. */
  get hasGap(): boolean {
    return this.#early.size > 0
  }

  come(delivery: Delivery): void {
    if (this.#isCut || delivery.seq < this.#next) return
    this.#early.set(delivery.seq, delivery)
    for (let next = this.#early.get(this.#next); next !== undefined; next = this.#early.get(this.#next)) {
      this.#early.delete(this.#next++)
      this.#give(next)
    }
  }

  /** All messages given to the member below `next`, as Redis has them. */
  look(all: readonly Delivery[], next: number): void {
    this.#isCut = false
    for (const delivery of all) if (delivery.seq >= this.#next) this.#early.set(delivery.seq, delivery)
    const known = [...this.#early.values()].filter(({ seq }) => seq < next).sort((a, b) => a.seq - b.seq)
    for (const delivery of known) {
      this.#early.delete(delivery.seq)
      this.#give(delivery)
    }
    this.#next = Math.max(this.#next, next)
    const [first] = [...this.#early.values()].sort((a, b) => a.seq - b.seq)
    if (first?.seq !== this.#next) return
    this.#early.delete(first.seq)
    this.come(first)
  }
}
