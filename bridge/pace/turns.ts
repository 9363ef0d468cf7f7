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

  get length(): number {
    return this.#waiting.length - this.#first
  }

  take(): () => void {
    const work = this.#waiting[this.#first++]!
    if (this.#first > 1_024 || this.#first === this.#waiting.length) {
      this.#waiting = this.#waiting.slice(this.#first)
      this.#first = 0
    }
    return work
  }
}

let turnBegan = 0
const others = new Queue()
const connects = new Queue()
const heavy = new Queue()
const ends = new Queue()
let scheduled = false

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

function turnOf(queue: Queue): Promise<void> {
  return new Promise((resolve) => {
    queue.push(() => {
      turn.hasResolved = true
      resolve()
    })
    schedule()
  })
}

/** A queue, and what it has of each turn at least. */
interface Share {
  readonly queue: Queue
  readonly ms: number
  /** What was there when the turn began: what comes meanwhile has had its slice. */
  left: number
}
const share = (queue: Queue, ms: number): Share => ({ queue, ms, left: 0 })
/** In the order in which a turn works them off. */
const shares = [share(others, 0), share(connects, connectsMs), share(heavy, sliceMs), share(ends, endsMs)]

/** Where the turn stands that is worked off. */
const turn = {
  began: 0,
  /** Which of `shares`. */
  at: 0,
  until: 0,
  /** A promise was resolved, and what waited for it has not run yet. */
  hasResolved: false,
}

function pump(): void {
  turn.began = performance.now()
  for (const share of shares) share.left = share.queue.length
  begin(0)
  goOn()
}

function begin(at: number): void {
  turn.at = at
  turn.until = Math.max(turn.began + turnMs, performance.now() + (shares[at]?.ms ?? 0))
}

/**
 * Works on. What a promise lets go on runs behind whatever resolves it: so that the clock sees it, this ends
 * there, and goes on when nothing more runs of it.
 */
function goOn(): void {
  try {
    for (let share = shares[turn.at]; share !== undefined; share = shares[turn.at]) {
      while (share.left > 0 && performance.now() <= turn.until) {
        share.left--
        share.queue.take()()
        if (turn.hasResolved) return
      }
      begin(turn.at + 1)
    }
  } finally {
    if (turn.hasResolved) {
      turn.hasResolved = false
      queueMicrotask(() => process.nextTick(goOn)) // a tick comes when no microtask is left
    } else if (shares.some(({ queue }) => !queue.isEmpty)) setImmediate(pump)
    else scheduled = false
  }
}
