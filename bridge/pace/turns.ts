// Work in slices: whatever one client sends, all others are served meanwhile (P12). What takes longer than a
// slice goes on in a later turn of the event loop, behind what others have waiting, and a turn takes no more
// of such work than `turnMs`. State: this process: when the work of this turn began, and what waits for a
// turn. Bound: a connection waits at most once.

/** How long one client's work may go on while others wait. */
const sliceMs = 4
/** How much of such work a turn of the event loop takes. */
const turnMs = 12

let turnBegan = 0
let waiting: (() => void)[] = []
let first = 0
let scheduled = false
/** What was resolved runs behind the loop that resolved it: how long it takes cannot be seen there. */
let resolved = false

function endTurn(): void {
  turnBegan = 0
}

/** Whether this turn has taken so much time by now that what is not begun should wait for a later one. */
export function turnIsOver(): boolean {
  const now = performance.now()
  if (turnBegan === 0) {
    turnBegan = now
    setImmediate(endTurn)
  }
  return now - turnBegan > turnMs
}

/**
 * Of work in small pieces the clock is looked at once for so many: looking costs as much as a fiftieth of a
 * message.
 */
const strideMax = 8
const smallMs = 0.1
/** A piece of so many steps is not small: the clock is looked at behind it. */
const largeSteps = 100

let steps = 0

/**
 * Told by whoever does work of which nobody knows beforehand how much it is: so many steps of about a
 * microsecond.
 */
export function worked(count: number): void {
  steps += count
}

/** One piece of work: `isOver` when it has had its time in this turn; asked between any two parts of it. */
export class Slice {
  #began = performance.now()
  #looked = this.#began
  #stride = 1
  #left = 1
  #steps = steps

  get isOver(): boolean {
    if (--this.#left > 0 && steps - this.#steps < largeSteps) return false
    this.#steps = steps
    const now = performance.now()
    this.#stride = now - this.#looked > smallMs ? 1 : Math.min(this.#stride * 2, strideMax)
    this.#left = this.#stride
    this.#looked = now
    return now - this.#began > sliceMs
  }

  /** Goes on in a later turn, with a new slice. */
  async next(): Promise<void> {
    await nextTurn()
    this.#began = this.#looked = performance.now()
    this.#stride = this.#left = 1
  }
}

/** Whether anything waits for a later turn: what must not overtake it waits, too. */
export function othersWait(): boolean {
  return waiting.length > first
}

/** Calls `work` in a later turn, in the order of the calls. */
export function later(work: () => void): void {
  waiting.push(work)
  if (scheduled) return
  scheduled = true
  setImmediate(pump)
}

/** Resolves in a later turn. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) =>
    later(() => {
      resolved = true
      resolve()
    }),
  )
}

/** What was there when it began, until the turn is over: what comes meanwhile has had its slice. */
function pump(): void {
  const began = performance.now()
  const end = waiting.length
  resolved = false
  try {
    while (first < end && !resolved && performance.now() - began <= turnMs) waiting[first++]!()
  } finally {
    if (first > 1_024 || first === waiting.length) {
      waiting = waiting.slice(first)
      first = 0
    }
    scheduled = waiting.length > 0
    if (scheduled) setImmediate(pump)
  }
}
