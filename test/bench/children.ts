// Child processes of the benchmark: every one is listed from its start to its end and is ended by its pid,
// also when the benchmark is interrupted. State: the list, in this process.
import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process'
import { once } from 'node:events'

const alive = new Set<Child>()

export class Child {
  readonly name: string
  readonly process: ChildProcess
  /** The end of what it wrote, both streams. */
  output = ''
  #ending = false

  constructor(name: string, command: string, argv: readonly string[], { ipc = false } = {}) {
    this.name = name
    const stdio: StdioOptions = ['ignore', 'pipe', 'pipe', ...(ipc ? ['ipc' as const] : [])]
    this.process = spawn(command, argv, { stdio })
    const keep = (chunk: Buffer): void => {
      this.output = (this.output + chunk.toString()).slice(-20_000)
    }
    this.process.stdout?.on('data', keep)
    this.process.stderr?.on('data', keep)
    this.process.on('error', (error) => keep(Buffer.from(error.message)))
    alive.add(this)
    this.process.once('exit', () => alive.delete(this))
    if (this.process.pid === undefined) alive.delete(this)
  }

  get pid(): number {
    return this.process.pid ?? 0
  }

  get running(): boolean {
    return (
      this.process.pid !== undefined && this.process.exitCode === null && this.process.signalCode === null
    )
  }

  /** Why it ended, when it was not us who ended it: the error it wrote, or how it exited. */
  get crash(): string | undefined {
    if (this.running || this.#ending) return undefined
    const error = /^.*(?:Error|error|FATAL)\b.*$/m.exec(this.output)?.[0].trim().slice(0, 160)
    return `${this.name} ended (${this.process.signalCode ?? this.process.exitCode}): ${error ?? 'no error written'}`
  }

  /** Resolves with what `there` gives, asked again whenever something may have changed. */
  async until<T>(there: () => T | undefined | Promise<T | undefined>, timeoutMs = 20_000): Promise<T> {
    for (const deadline = Date.now() + timeoutMs; ;) {
      const value = await there()
      if (value !== undefined) return value
      if (!this.running || Date.now() > deadline)
        throw new Error(`${this.name} did not start: ${this.output.slice(-500)}`)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }

  kill(): void {
    this.#ending = true
    if (this.running) this.process.kill('SIGKILL')
  }

  async end(): Promise<void> {
    if (!this.running) return
    const exited = once(this.process, 'exit')
    this.kill()
    await exited
  }
}

/** For an interrupted benchmark: nothing of ours stays. */
export function killAll(): void {
  for (const child of alive) child.kill()
}
