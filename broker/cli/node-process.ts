// A node in a process of its own: started, watched, started again when it dies, until it is stopped. The
// process tells by IPC where it serves, and hears there that it is to stop.
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'

const restartMs = 1_000

/** What a process tells whoever started it. */
export interface Serving {
  readonly listen: readonly string[]
  readonly admin?: string | undefined
}

/** What it hears: the interrupt comes, as by a signal. */
export const stopMessage = 'stop'

export interface Interrupt {
  /** Settles at the first SIGINT, SIGTERM or SIGHUP, or when the parent process is gone. */
  readonly first: Promise<void>
}

export interface NodeProcessEvents {
  /** A process was started; what else than `Serving` it tells is the caller's. */
  onStart?(child: ChildProcess): void
  onEnd(name: string, how: string): void
  onServingAgain(name: string): void
}

export class NodeProcess {
  readonly name: string
  readonly #spawn: () => ChildProcess
  readonly #events: NodeProcessEvents
  #child: ChildProcess | undefined
  #stopping = false

  constructor(name: string, spawn: () => ChildProcess, events: NodeProcessEvents) {
    this.name = name
    this.#spawn = spawn
    this.#events = events
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
    child.once('exit', (code, signal) => {
      if (!this.#stopping) void this.#again(signal ?? `exit code ${code ?? '?'}`)
    })
    return serving
  }

  async #again(how: string): Promise<void> {
    this.#events.onEnd(this.name, how)
    await new Promise((resolve) => setTimeout(resolve, restartMs))
    if (this.#stopping) return
    try {
      await this.start()
      this.#events.onServingAgain(this.name)
    } catch (error) {
      if (!(error instanceof ChildEnded)) throw error
      if (!this.#stopping) await this.#again(`exit code ${error.code}`)
    }
  }

  /** By IPC: a terminal's Ctrl-C reaches the process itself, and a second signal would end it at once. */
  async stop(): Promise<void> {
    this.#stopping = true
    const child = this.#child
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    if (child.connected) child.send(stopMessage, () => undefined) // it may end meanwhile
    await ended
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
