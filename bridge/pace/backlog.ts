// Work that has begun, is more than a slice, and that nothing of its kind may overtake: one message to a hundred
// thousand subscribers of this node. It is worked off in slices; meanwhile whoever would make more of it waits,
// in turn, so that there is never more than each of them had under way. State: this process.
import { later, Slice } from './turns.ts'

/** Does a slice of it. True: it is done. */
type Work = (slice: Slice) => boolean

const works: Work[] = []
const waiting = new Set<() => void>()

/** Whether something is being worked off. */
export function isBacklogged(): boolean {
  return works.length > 0
}

/** Begins at once, unless something of its kind goes on. */
export function workOff(work: Work): void {
  if (works.length === 0 && work(new Slice())) return
  if (works.push(work) === 1) later(goOn)
}

function goOn(): void {
  const slice = new Slice()
  for (let work = works[0]; work !== undefined; work = works[0]) {
    let isDone = true // what throws is over, and the next one goes on
    try {
      isDone = work(slice)
    } catch (error) {
      later(goOn)
      throw error
    } finally {
      if (isDone) works.shift()
    }
    if (!isDone) return later(goOn)
  }
  letOn(slice)
}

/** One at a time: the next one waits for what this one makes. */
function letOn(slice: Slice): void {
  for (const begin of waiting) {
    if (works.length > 0) return
    if (slice.isOver) return later(() => letOn(new Slice()))
    waiting.delete(begin)
    begin()
  }
}

/** Calls `begin` when nothing is left, after those who waited before. */
export function whenWorkedOff(begin: () => void): void {
  waiting.add(begin)
  if (works.length === 0) later(() => letOn(new Slice()))
}

/** Resolves when nothing is left, after those who waited before. */
export function workedOff(): Promise<void> {
  return works.length === 0 ? Promise.resolve() : new Promise((resolve) => whenWorkedOff(resolve))
}
