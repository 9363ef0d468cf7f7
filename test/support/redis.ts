// A real redis-server for one test: its own port and data folder, append-only file with `appendfsync always`,
// as the embedded Redis of `aedes-cluster up` has it. The process is ours alone and is ended by its pid.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'

async function isFree(port: number): Promise<boolean> {
  const server = createServer()
  try {
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    return true
  } catch {
    return false
  } finally {
    server.close()
  }
}

/**
 * A TCP port on 127.0.0.1 that nobody has, nor its neighbours at `offsets`; below the range that the kernel
 * gives out, so that nothing else in the suite is given it meanwhile.
 */
export async function freePort(offsets: readonly number[] = [0]): Promise<number> {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 22_000)
    const free = await Promise.all(offsets.map((offset) => isFree(port + offset)))
    if (!free.includes(false)) return port
  }
}

/** What a cluster of ours stands on: a Redis, a Redis Cluster, a master under Sentinels. */
export interface TestStore extends AsyncDisposable {
  /** As `--redis` takes it. */
  readonly url: string
  start(): Promise<void>
  /** `SIGTERM` by default; `SIGKILL` is the crash. */
  stop(signal?: NodeJS.Signals): Promise<void>
  /** `SIGSTOP` and `SIGCONT`: it is there and does not answer. */
  pause(): void
  resume(): void
  /** Ends all connections of clients, as a switch that lost its table would. */
  killConnections(): Promise<void>
}

export class TestRedis implements TestStore {
  readonly port: number
  readonly folder: string
  readonly #extra: readonly string[]
  #process: ChildProcess | undefined

  constructor(port: number, folder: string, extra: readonly string[]) {
    this.port = port
    this.folder = folder
    this.#extra = extra
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`
  }

  /**
   * Starts the server on its port and data folder; resolves when it has read its data.
   * @param more arguments for this start
   */
  async start(...more: readonly string[]): Promise<void> {
    const child = spawn(
      'redis-server',
      [
        '--port',
        String(this.port),
        '--bind',
        '127.0.0.1',
        '--dir',
        this.folder,
        '--save',
        '',
        '--appendonly',
        'yes',
        '--appendfsync',
        'always',
        ...this.#extra,
        ...more,
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    this.#process = child
    let output = ''
    for await (const chunk of child.stdout.iterator({ destroyOnReturn: false })) {
      output += String(chunk)
      if (output.includes('Ready to accept connections')) break
    }
    if (child.exitCode !== null || !output.includes('Ready to accept'))
      throw new Error(`redis-server did not start:\n${output}`)
    child.stdout.resume()
  }

  /**
   * `SIGTERM` by default: Redis writes its append-only file and ends. `SIGKILL` is the crash,
   * `SIGSTOP`/`SIGCONT` the freeze.
   */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const child = this.#process
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    child.kill(signal)
    await once(child, 'exit')
  }

  get running(): boolean {
    return this.#process !== undefined && this.#process.exitCode === null && this.#process.signalCode === null
  }

  async killConnections(): Promise<void> {
    const redis = new Redis({ port: this.port, host: '127.0.0.1', retryStrategy: null }).on(
      'error',
      () => undefined,
    )
    // it may be away
    await redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes').catch(() => undefined)
    redis.disconnect()
  }

  pause(): void {
    this.#process?.kill('SIGSTOP')
  }

  resume(): void {
    this.#process?.kill('SIGCONT')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop('SIGKILL')
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** Starts a Redis of its own; `await using redis = await startRedis()` ends it and removes its data. */
export async function startRedis(...extra: string[]): Promise<TestRedis> {
  for (let attempt = 1; ; attempt++) {
    const redis = new TestRedis(await freePort(), mkdtempSync(join(tmpdir(), 'aedes-cluster-redis-')), extra)
    try {
      await redis.start()
      return redis
    } catch (error) {
      await redis[Symbol.asyncDispose]()
      if (attempt === 5) throw error // otherwise another test took the port first
    }
  }
}
