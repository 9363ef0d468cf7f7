// Connects per second of one listener: beyond them whoever connects waits, in its order, and is not read: what it
// sends stays in its socket, and the deadline of CONNECT begins when it is let in. The system has accepted it (node
// cannot hand a connection back to its queue), so it has a descriptor and a socket, and nothing else. State: who waits.
// Bound: as many as are let in within `connectsWaitMs`; one more is refused, since its client would have given up
// before its turn.
import type { Socket } from 'node:net'
import { TokenBucket } from '../access/token-bucket.ts'
import { limits } from '../config/limits.ts'

/** Between two looks at who waits: several are let in at once. */
const lookMs = 10

export class ConnectPace {
  readonly #bucket: TokenBucket
  readonly #waitingMax: number
  readonly #letIn: (socket: Socket) => void
  readonly #waiting = new Set<Socket>()
  #timer: NodeJS.Timeout | undefined

  constructor(perSecond: number, letIn: (socket: Socket) => void) {
    this.#bucket = new TokenBucket(perSecond)
    this.#waitingMax = (perSecond * limits.connectsWaitMs) / 1_000
    this.#letIn = letIn
  }

  /** @param socket that was accepted with `pauseOnConnect` */
  come(socket: Socket): 'in' | 'waits' | 'refused' {
    if (this.#timer === undefined) {
      this.#take(socket)
      return 'in'
    }
    if (this.#waiting.size >= this.#waitingMax) return 'refused'
    this.#waiting.add(socket)
    socket.once('close', () => this.#waiting.delete(socket))
    return 'waits'
  }

  #take(socket: Socket): void {
    const ms = this.#bucket.take(1)
    if (ms > 0) this.#timer = setTimeout(() => this.#look(), Math.max(lookMs, ms)).unref()
    read(socket)
    this.#letIn(socket)
  }

  #look(): void {
    this.#timer = undefined
    for (const socket of this.#waiting) {
      if (this.#timer !== undefined) return
      this.#waiting.delete(socket)
      this.#take(socket)
    }
  }

  /** Nobody is let in any more. */
  close(): void {
    clearTimeout(this.#timer)
    for (const socket of this.#waiting) socket.destroy()
  }
}

/** As one that was accepted without `pauseOnConnect`: it begins to be read, and nobody has said how. */
function read(socket: Socket): void {
  const { readableFlowing } = socket
  if (readableFlowing === false) (socket as { readableFlowing: boolean | null }).readableFlowing = null
  socket.read(0)
}
