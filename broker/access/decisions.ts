// What follows decisions about one client's packets, in the order in which they were asked for: while one
// waits, those after it wait too, whether they are decided or not. State: the waiting callers. Bound: the
// caller's; what waits is a publish of the client, which is counted as one that is not stored
// (broker/connection/unstored-publishes.ts).
import type { Answer } from './gate.ts'

interface Waiting {
  /** Goes on with what was decided; undefined: it is not decided yet. */
  goOn: (() => void) | undefined
}

export class Decisions {
  #waiting: Waiting[] = []
  /** Index of the first that waits: shifting an array is not O(1) at every size. */
  #first = 0

  get isEmpty(): boolean {
    return this.#first === this.#waiting.length
  }

  /** Calls `then` when `answer` is there and those before it have gone on: at once where nothing waits. */
  add<T>(answer: Answer<T>, then: (decided: T) => void): void {
    const isNow = !(answer instanceof Promise)
    if (isNow && this.isEmpty) return then(answer)
    const waiting: Waiting = { goOn: isNow ? () => then(answer) : undefined }
    this.#waiting.push(waiting)
    if (isNow) return
    void answer.then((decided) => {
      waiting.goOn = () => then(decided)
      this.#goOn()
    })
  }

  #goOn(): void {
    while (this.#first < this.#waiting.length) {
      const { goOn } = this.#waiting[this.#first]!
      if (goOn === undefined) break
      this.#first++
      goOn()
    }
    if (this.isEmpty) {
      this.#waiting = []
      this.#first = 0
    } else if (this.#first > 1_024) {
      this.#waiting = this.#waiting.slice(this.#first)
      this.#first = 0
    }
  }
}
