// A node in a process of its own: started, watched, started again when it dies, later each time that it dies soon,
// until it is stopped, and killed when it does not stop. The process tells by IPC where it serves, and hears there that
// it is to stop.
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'

/** When a process is to stop, it has this long beyond the `shutdownMs` of its node: leaving takes two seconds. */
export const leavingMs = 5_000

/** What a process tells whoever started it. */
export interface Serving {
  readonly listen: readonly string[]
  readonly admin?: string | undefined
}

/** What it hears: the interrupt comes, as by a signal; it is to read its files again, as by SIGHUP. */
export const stopMessage = 'stop'
export const reloadMessage = 'reload'

export interface Interrupt {
  /** Settles at the first SIGINT or SIGTERM, or when the terminal or the parent process is gone. */
  readonly first: Promise<void>
  /** From now on SIGHUP is to read files again; without it, it ends the command. */
  onReload(reload: () => void): void
}

export interface NodeProcessEvents {
  /** A process was started; what else than `Serving` it tells is the caller's. */
  onStart?(child: ChildProcess): void
  /** It is started again after `againMs`. */
  onEnd(name: string, how: string, againMs: number): void
  onServingAgain(name: string): void
  /** It was told to stop, and did not. */
  onKill(name: string): void
}

export interface Patience {
  /** Told to stop, it may take so long. */
  readonly stopMs: number
  /** Until it is started again: at first, and doubled each time, to the longest, until it has served for `steadyMs`. */
  readonly restartMs?: number
  readonly restartMsMax?: number
  readonly steadyMs?: number
}

export class NodeProcess {
  readonly name: string
  readonly #spawn: () => ChildProcess
  readonly #events: NodeProcessEvents
  readonly #patience: Required<Patience>
  #child: ChildProcess | undefined
  #stopping = false
  /** Ends in a row, none of which came after it had served for long. */
  #ends = 0
  #servesSince = 0
  /** It is started again soon: ends that wait. */
  #wake: () => void = () => undefined

  constructor(name: string, spawn: () => ChildProcess, events: NodeProcessEvents, patience: Patience) {
    this.name = name
    this.#spawn = spawn
    this.#events = events
    this.#patience = { restartMs: 1_000, restartMsMax: 30_000, steadyMs: 60_000, ...patience }
  }

  /**
   * Resolves once the node serves.
   * @throws ChildEnded when it ends before that; it said why itself
   */
  async start(): Promise<Serving> {
    if (this.#stopping) throw new ChildEnded(0) // told to stop while another was starting
    const child = this.#spawn()
    this.#child = child
    this.#events.onStart?.(child)
    const serving = await new Promise<Serving>((resolve, reject) => {
      child.on('message', (told) => {
        if (typeof told === 'object' && 'listen' in told) resolve(told as Serving)
      })
      child.once('exit', (code) => reject(new ChildEnded(code ?? 1)))
      child.on('error', () => reject(new ChildEnded(1))) // it could not be started, or not be told something
    })
    this.#servesSince = performance.now()
    child.once('exit', (code, signal) => {
      if (!this.#stopping) void this.#again(signal ?? `exit code ${code ?? '?'}`)
    })
    return serving
  }

  async #again(how: string): Promise<void> {
    const { restartMs, restartMsMax, steadyMs } = this.#patience
    if (this.#servesSince > 0 && performance.now() - this.#servesSince > steadyMs) this.#ends = 0
    this.#servesSince = 0
    const againMs = Math.min(restartMs * 2 ** this.#ends++, restartMsMax)
    this.#events.onEnd(this.name, how, againMs)
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, againMs)
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
    if (this.#stopping) return
    try {
      await this.start()
      this.#events.onServingAgain(this.name)
    } catch (error) {
      if (!(error instanceof ChildEnded)) throw error
      if (!this.#stopping) await this.#again(`exit code ${error.code}`)
    }
  }

  /** It reads its files again, when it runs. */
  reload(): void {
    if (this.#child?.connected === true) this.#child.send(reloadMessage, () => undefined)
  }

  /** By IPC: a terminal's Ctrl-C reaches the process itself, and a second signal would end it at once. */
  async stop(): Promise<void> {
    this.#stopping = true
    this.#wake()
    const child = this.#child
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    if (child.connected) child.send(stopMessage, () => undefined) // it may end meanwhile
    const late = setTimeout(() => {
      this.#events.onKill(this.name)
      child.kill('SIGKILL') // also one that stands still: SIGSTOP, a debugger, a disk that does not answer
    }, this.#patience.stopMs)
    await ended
    clearTimeout(late)
  }
}

/** A node ended before it served; its own one-line error stands on standard error already. */
export class ChildEnded extends Error {
  readonly code: number

  constructor(code: number) {
    super(`a node ended with exit code ${code}`)
    this.code = code
  }
}
