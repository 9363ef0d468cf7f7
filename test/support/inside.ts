// Loaded into every node that a test starts (node --import). It ends the process by kill -9 at a point that
// the test names: nothing runs after that, neither a callback nor a write of what is buffered. It tells how
// much memory is in use, garbage collected, and how much processor time the longest turn of the event loop took. And it
// sets the wall clock of the process apart from the
// machine's, at start or while it runs; the monotonic clock is left alone.
import { subscribe } from 'node:diagnostics_channel'
import { openSync, readSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/** Just before a script is sent to Redis, or just after its answer came and before anything is made of it. */
export interface FaultPoint {
  readonly script: string
  readonly when: 'before' | 'after'
  /** The so-manieth time from now on; 1 unless it says otherwise. */
  readonly time?: number
}

let apartMs = Number(process.env.TEST_CLOCK_MS ?? 0)
const now = Date.now.bind(Date)
globalThis.Date = class extends Date {
  constructor(...given: [] | [number]) {
    super(...(given.length === 0 ? ([now() + apartMs] as const) : given))
  }

  static override now(): number {
    return now() + apartMs
  }
} as DateConstructor

let times = 0
let point =
  process.env.TEST_DIE_AT === undefined ? undefined : (JSON.parse(process.env.TEST_DIE_AT) as FaultPoint)
process.on('message', (message: FaultPoint | 'memory' | 'longest' | { readonly clockMs: number }) => {
  if (message === 'memory') void heldBytes().then((memory) => process.send!({ memory }))
  else if (message === 'longest') process.send!({ longestMs: longestTurn() })
  else if ('clockMs' in message) {
    apartMs = message.clockMs
    process.send!({ clockMs: apartMs })
  } else {
    point = message
    times = 0
  }
})
const dieAt =
  (when: FaultPoint['when']) =>
  (event: unknown): void => {
    if (point?.when !== when || point.script !== (event as { script: string }).script) return
    if (++times === (point.time ?? 1)) process.kill(process.pid, 'SIGKILL')
  }
subscribe('aedes-cluster:scriptBegins', dieAt('before'))
subscribe('aedes-cluster:script', dieAt('after'))

/**
 * Several collections: what one finds to be garbage outside the heap is freed later. The last one directly
 * before: what came since is not held.
 */
async function heldBytes(): Promise<number> {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  for (let n = 0; n < 2; n++) {
    collect()
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  collect()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

/** Of the thread that runs the event loop (Linux): what it had of a processor so far, ms. */
const used = Buffer.alloc(64)
let usage: number | undefined
function usedMs(): number {
  usage ??= openSync('/proc/thread-self/schedstat', 'r')
  return Number.parseInt(used.toString('latin1', 0, readSync(usage, used, 0, used.length, 0)), 10) / 1e6
}

let looking: NodeJS.Timeout | undefined
let [longestMs, before] = [0, 0]

/**
 * Processor time of the longest turn since this was asked before; looked at every millisecond from then on. On a
 * machine that has no time for it a turn takes longer than that, but no more of it.
 */
function longestTurn(): number {
  const longest = longestMs
  looking ??= setInterval(() => {
    const now = usedMs()
    longestMs = Math.max(longestMs, now - before)
    before = usedMs()
  }, 1).unref()
  longestMs = 0
  before = usedMs()
  return longest
}
