// The systems that are compared, each started afresh for every run: our cluster of two nodes, one node of it,
// two nodes of the stock stack, and Mosquitto when it is installed. Also the Redis they share: one
// redis-server of our own per run, in an empty folder.
import { execFileSync } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { freePort } from '../support/redis.ts'
import { Child } from './children.ts'
import { childrenOf } from './proc.ts'

export type Fsync = 'always' | 'everysec'

export interface System {
  readonly name: string
  readonly about: string
  readonly nodes: 1 | 2
  readonly redis: boolean
  /** Redis' appendfsync, when it is not a matter of the run. */
  readonly fsync?: Fsync
  /** Takes part only when it is named. */
  readonly byName?: true
  /** Node `index`; resolves when it serves. @param more flags, for ours */
  start(index: number, redisPort: number, folder: string, more: readonly string[]): Promise<Node>
}

export interface Node {
  readonly child: Child
  readonly port: number
  /** Processes that the child started, which do its work. */
  readonly workers?: readonly number[]
}

/** Of our keys in Redis. */
export const prefix = 'bench'

const mainPath = fileURLToPath(new URL('../../aedes-cluster.js', import.meta.url))
const stockPath = fileURLToPath(new URL('./stock-node.js', import.meta.url))
/** A node among a million things takes its time. */
const startMs = 60_000
const idOf = (index: number): string => String.fromCharCode(97 + index)

/** A Node.js broker: it says over IPC where it listens. */
async function startNode(name: string, argv: readonly string[], program = process.execPath): Promise<Node> {
  const child = new Child(name, program, argv, { ipc: true })
  let port: number | undefined
  child.process.once('message', (message: { listen: string[] }) => {
    port = Number(new URL(message.listen[0]!).port)
  })
  return { child, port: await child.until(() => port, startMs) }
}

const flagsOf = (index: number, more: readonly string[] = []): string[] => [
  ...[mainPath, 'node', '--id', idOf(index)],
  ...(more.includes('--listen') ? [] : ['--listen', 'mqtt://127.0.0.1:0']),
  ...['--admin', 'off', '--log-level', 'warn'],
]
const startWith = (index: number, ...argv: string[]): Promise<Node> =>
  startNode(`ours ${idOf(index)}`, [...flagsOf(index, argv), ...argv])

const ofRedis = (port: number): string[] => ['--redis', `redis://127.0.0.1:${port}`, '--prefix', prefix]
const startOurs = (
  index: number,
  redisPort: number,
  _folder: string,
  more: readonly string[],
): Promise<Node> => startWith(index, ...ofRedis(redisPort), ...more)

/** Two nodes of another build of ours: `file` is its dist/aedes-cluster.js. */
export const ofBuild = (name: string, file: string): System => ({
  name: `ours@${name}`,
  about: `two nodes of aedes-cluster, from ${file}`,
  nodes: 2,
  redis: true,
  start: (index, redisPort) =>
    startNode(`ours@${name} ${idOf(index)}`, [file, ...flagsOf(index).slice(1), ...ofRedis(redisPort)]),
})

/** Two nodes of ours that another Node runs. */
export const onNode = (name: string, program: string): System => ({
  name: `ours@${name}`,
  about: `two nodes of aedes-cluster, run by ${program}`,
  nodes: 2,
  redis: true,
  start: (index, redisPort) =>
    startNode(`ours@${name} ${idOf(index)}`, [...flagsOf(index), ...ofRedis(redisPort)], program),
})

const accepts = (port: number): Promise<true | undefined> =>
  new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy()
      resolve(true)
    }).on('error', () => resolve(undefined))
  })

/** No limits that drop, nothing on disk, no Nagle: as fast and as lossless as it can be. */
async function startMosquitto(_index: number, _redisPort: number, folder: string): Promise<Node> {
  const port = await freePort()
  const file = join(folder, 'mosquitto.conf')
  writeFileSync(
    file,
    [
      `listener ${port} 127.0.0.1`,
      'user root',
      'allow_anonymous true',
      'persistence false',
      'set_tcp_nodelay true',
      'sys_interval 0',
      'max_inflight_messages 0',
      'max_queued_messages 0',
      'max_queued_bytes 0',
      'connection_messages false',
      'log_type error',
      'log_dest stderr',
      '',
    ].join('\n'),
  )
  const child = new Child('mosquitto', 'mosquitto', ['-c', file])
  await child.until(() => accepts(port))
  return { child, port }
}

export const systems: readonly System[] = [
  { name: 'ours', about: 'two nodes of aedes-cluster', nodes: 2, redis: true, start: startOurs },
  {
    name: 'ours-always',
    about: "the same, with Redis' appendfsync always; only when it is named",
    nodes: 2,
    redis: true,
    fsync: 'always',
    byName: true,
    start: startOurs,
  },
  { name: 'ours-1', about: 'one node of aedes-cluster', nodes: 1, redis: true, start: startOurs },
  {
    name: 'ours-workers',
    about: 'one address of aedes-cluster, served by two processes (--workers 2); only when it is named',
    nodes: 1,
    redis: true,
    byName: true,
    start: async (index, redisPort) => {
      const node = await startWith(index, '--workers', '2', ...ofRedis(redisPort))
      return { ...node, workers: childrenOf(node.child.pid) }
    },
  },
  {
    name: 'ours-memory',
    about: 'one node of aedes-cluster without Redis',
    nodes: 1,
    redis: false,
    start: (index) => startWith(index),
  },
  {
    name: 'ours-file',
    about: 'the same with a file, on disk within a second',
    nodes: 1,
    redis: false,
    start: (index, _redisPort, folder) =>
      startWith(index, '--state-file', join(folder, 'state'), '--fsync', 'everysec'),
  },
  {
    name: 'stock',
    about: 'two nodes of Aedes with mqemitter-redis and aedes-persistence-redis',
    nodes: 2,
    redis: true,
    start: (index, redisPort) =>
      startNode(`stock ${idOf(index)}`, [stockPath, idOf(index), String(redisPort)]),
  },
  {
    name: 'mosquitto',
    about: 'Mosquitto, when it is installed',
    nodes: 1,
    redis: false,
    start: startMosquitto,
  },
]

/** The first line that a program says of its version; undefined when it is not installed. */
export function versionOf(program: string, ...argv: readonly string[]): string | undefined {
  try {
    return execFileSync(program, argv, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).split(
      '\n',
    )[0]
  } catch (error) {
    const { stdout } = error as { stdout?: string } // `mosquitto -h` says its version and exits with 3
    return stdout === undefined || stdout === '' ? undefined : stdout.split('\n')[0]
  }
}

async function startRedis(folder: string, fsync: Fsync): Promise<Node> {
  const port = await freePort()
  // No rewrite of the file in the middle of a window: it would fork.
  const child = new Child('redis-server', 'redis-server', [
    '--port',
    String(port),
    '--bind',
    '127.0.0.1',
    '--dir',
    folder,
    '--save',
    '',
    '--appendonly',
    'yes',
    '--appendfsync',
    fsync,
    '--auto-aof-rewrite-percentage',
    '0',
  ])
  await child.until(() => (child.output.includes('Ready to accept connections') ? true : undefined))
  return { child, port }
}

/** A running system with its Redis; `await using` ends it. */
export class Running implements AsyncDisposable {
  readonly nodes: Node[] = []
  redis: Node | undefined
  readonly #system: System
  readonly #folder: string
  /** Of each node. */
  #flags: readonly string[] = []
  /** Settles when no start is under way. */
  #starting: Promise<unknown> = Promise.resolve()

  private constructor(system: System, folder: string) {
    this.#system = system
    this.#folder = folder
  }

  /**
   * @param nodes how many, when not as many as the system has
   * @param prepare gives further flags of each of them
   */
  static async start(
    system: System,
    folder: string,
    fsync: Fsync,
    nodes: number = system.nodes,
    prepare: (folder: string, redisPort: number) => Promise<readonly string[]> = () => Promise.resolve([]),
  ): Promise<Running> {
    mkdirSync(folder, { recursive: true })
    const running = new Running(system, folder)
    try {
      if (system.redis) running.redis = await startRedis(folder, system.fsync ?? fsync)
      running.#flags = await prepare(folder, running.redis?.port ?? 0)
      for (let i = 0; i < nodes; i++) await running.startNode(i)
      return running
    } catch (error) {
      await running[Symbol.asyncDispose]()
      throw error
    }
  }

  /** Node `index`, beside those that run or in place of one that was killed. */
  startNode(index: number): Promise<Node> {
    const started = this.#system
      .start(index, this.redis?.port ?? 0, this.#folder, this.#flags)
      .then((node) => (this.nodes[index] = node))
    this.#starting = started.catch(() => undefined)
    return started
  }

  /** kill -9. */
  async killNode(index: number): Promise<void> {
    await this.nodes[index]!.child.end()
  }

  /** Why one of its processes is gone. */
  get crash(): string | undefined {
    return [...this.nodes, ...(this.redis === undefined ? [] : [this.redis])]
      .map(({ child }) => child.crash)
      .find((reason) => reason !== undefined)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#starting
    await Promise.all(this.nodes.map(({ child }) => child.end()))
    await this.redis?.child.end()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
