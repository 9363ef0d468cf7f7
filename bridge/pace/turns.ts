// Work in slices: whatever one client sends, all others are served meanwhile (P12). What takes longer than a
// slice goes on in a later turn of the event loop, after what others have waiting, and a turn takes no more
// of such work than `turnMs`. State: this process: when the work of this turn began, and what waits for a
// turn. Bound: a connection waits at most once.

/** How long one client's work may go on while others wait. */
const sliceMs = 4
/** How much of such work a turn of the event loop takes. */
const turnMs = 12

/** What of a turn is kept for CONNECTs, whatever those that are connected have waiting. */
const connectsMs = 4
/** The same for the ends of connections. */
const endsMs = 4

class Queue {
  #waiting: (() => void)[] = []
  #first = 0

  get isEmpty(): boolean {
    return this.#waiting.length === this.#first
  }

  push(work: () => void): void {
    this.#waiting.push(work)
  }

  /** What was there when it began, until the time is over: what comes meanwhile has had its slice. */
  work(until: number): void {
    const end = this.#waiting.length
    resolved = false
    try {
      while (this.#first < end && !resolved && performance.now() <= until) this.#waiting[this.#first++]!()
    } finally {
      if (this.#first > 1_024 || this.#first === this.#waiting.length) {
        this.#waiting = this.#waiting.slice(this.#first)
        this.#first = 0
      }
    }
  }
}

let turnBegan = 0
const others = new Queue()
const connects = new Queue()
const heavy = new Queue()
const ends = new Queue()
let scheduled = false
/** What was resolved runs after the loop that resolved it: how long it takes cannot be seen there. */
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
/** A piece of so many steps is not small: the clock is looked at after it. */
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
  readonly #ms: number

  constructor(ms = sliceMs) {
    this.#ms = ms
  }

  get isOver(): boolean {
    if (--this.#left > 0 && steps - this.#steps < largeSteps) return false
    this.#steps = steps
    const now = performance.now()
    this.#stride = now - this.#looked > smallMs ? 1 : Math.min(this.#stride * 2, strideMax)
    this.#left = this.#stride
    this.#looked = now
    return now - this.#began > this.#ms
  }

  /** Goes on in a later turn, with a new slice: after those who have had none. */
  async next(): Promise<void> {
    await turnOf(heavy)
    this.#began = this.#looked = performance.now()
    this.#stride = this.#left = 1
  }
}

/** Whether a CONNECT waits for a later turn: one that must not overtake it waits, too. */
export function connectsWait(): boolean {
  return !connects.isEmpty
}

/** Calls `work` in a later turn, in the order of the calls. */
export function later(work: () => void): void {
  others.push(work)
  schedule()
}

/**
 * The same for a CONNECT, in the order of the calls: of thousands that come together nobody waits who is
 * connected by now.
 */
export function laterConnect(work: () => void): void {
  connects.push(work)
  schedule()
}

function schedule(): void {
  if (scheduled) return
  scheduled = true
  setImmediate(pump)
}

/** The same for who had a slice, and has more: after whoever has little, but some of it in each turn. */
export function laterOn(work: () => void): void {
  heavy.push(work)
  schedule()
}

/**
 * What the end of a connection takes, at once or in a later turn, in the order of the calls. It is little; of
 * thousands that end at once it is more than a turn has, and nobody who goes on waits behind it.
 */
export function atEnd(work: () => void): void {
  if (ends.isEmpty && !turnIsOver()) return work()
  ends.push(work)
  schedule()
}

/** The same of what is waited for: what it does before its first `await` has its turn. */
export function atEndAsync<Result>(work: () => Promise<Result>): Promise<Result> {
  return new Promise((resolve) => atEnd(() => resolve(work())))
}

/** Resolves in a later turn. */
export const nextTurn = (): Promise<void> => turnOf(others)

/** The same where a CONNECT goes on. */
export const nextConnectTurn = (): Promise<void> => turnOf(connects)

/** One at a time goes on: what it does then is not seen by the loop that resolves it. */
function turnOf(queue: Queue): Promise<void> {
  return new Promise((resolve) => {
    queue.push(() => {
      resolved = true
      resolve()
    })
    schedule()
  })
}

function pump(): void {
  const began = performance.now()
  try {
    others.work(began + turnMs)
    connects.work(Math.max(began + turnMs, performance.now() + connectsMs))
    heavy.work(Math.max(began + turnMs, performance.now() + sliceMs))
    ends.work(Math.max(began + turnMs, performance.now() + endsMs))
  } finally {
    scheduled = !others.isEmpty || !connects.isEmpty || !heavy.isEmpty || !ends.isEmpty
    if (scheduled) setImmediate(pump)
  }
}
