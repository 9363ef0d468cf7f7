// A cluster of real node processes on a real Redis, with faults as verbs. Node processes run the built dist/,
// as in production; each is ended by its pid.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { TestClient, type ConnectOptions } from './client.ts'
import type { FaultPoint } from './inside.ts'
import { startRedisCluster } from './redis-cluster.ts'
import { startRedis, type TestRedis, type TestStore } from './redis.ts'

/** A file of the built dist/. */
export const built = (path: string): string =>
  fileURLToPath(new URL((import.meta.url.endsWith('.ts') ? '../../dist/' : '../../') + path, import.meta.url))

/** The built program: what `npm start` and the package run. */
export const mainPath = built('aedes-cluster.js')

export class TestNode {
  readonly id: string
  readonly #argv: readonly string[]
  #process: ChildProcess | undefined
  #clients: TestClient[] = []
  url = ''
  wsUrl = ''
  adminUrl = ''
  /** Of `--listen` among its further arguments. */
  furtherUrls: string[] = []
  /** What the node wrote to standard error since its last start. */
  log = ''
  /** What its next start runs: this build, unless a test has another one beside it (builds.ts). */
  program = mainPath

  constructor(id: string, argv: readonly string[]) {
    this.id = id
    this.#argv = argv
  }

  get pid(): number {
    return this.#process?.pid ?? 0
  }

  get running(): boolean {
    return this.#process !== undefined && this.#process.exitCode === null && this.#process.signalCode === null
  }

  /**
   * Starts the process; after the first start it keeps its ports. `dieAt`: the node ends itself there;
   * rejects when that is before it serves.
   */
  async start(dieAt?: FaultPoint): Promise<void> {
    const [listen, ws, admin] =
      this.url === ''
        ? ['mqtt://127.0.0.1:0', 'ws://127.0.0.1:0/mqtt', 'http://127.0.0.1:0']
        : [this.url, this.wsUrl, this.adminUrl]
    const child = spawn(
      process.execPath,
      [
        '--import',
        built('test/support/inside.js'),
        this.program,
        'node',
        '--id',
        this.id,
        '--listen',
        listen,
        '--listen',
        ws,
        '--admin',
        admin,
        ...this.#argv,
      ],
      {
        stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
        env: { ...process.env, ...(dieAt === undefined ? {} : { TEST_DIE_AT: JSON.stringify(dieAt) }) },
      },
    )
    this.#process = child
    this.log = ''
    child.stderr!.on('data', (chunk: Buffer) => {
      this.log = (this.log + chunk.toString()).slice(-100_000)
    })
    const ready = once(child, 'message') as Promise<
      [{ listen: [string, string, ...string[]]; admin: string }]
    >
    const ended = once(child, 'exit').then(() => {
      throw new Error(`node ${this.id} did not start:\n${this.log}`)
    })
    const [message] = await Promise.race([ready, ended])
    ;[this.url, this.wsUrl, ...this.furtherUrls] = message.listen
    this.adminUrl = message.admin
  }

  /** From now on the node ends itself by kill -9 when it comes to this point. */
  dieAt(point: FaultPoint): void {
    this.#process!.send(point, () => undefined) // it may have died meanwhile
  }

  /** Sets the wall clock of the process apart from the machine's, from now on. */
  async setClock(ms: number): Promise<void> {
    const told = once(this.#process!, 'message')
    this.#process!.send({ clockMs: ms })
    await told
  }

  /** Resolves when the process has ended, by itself. */
  async ended(): Promise<void> {
    if (this.running) await once(this.#process!, 'exit')
  }

  /**
   * Bytes that it holds, on the heap and in buffers, garbage collected: resident memory has garbage in it,
   * more or less.
   */
  async heldBytes(): Promise<number> {
    const told = once(this.#process!, 'message') as Promise<[{ memory: number }]>
    this.#process!.send('memory', () => undefined)
    return (await told)[0].memory
  }

  /** Processor time of the longest turn of its event loop since this was asked before, ms. */
  async longestTurnMs(): Promise<number> {
    const told = once(this.#process!, 'message') as Promise<[{ longestMs: number }]>
    this.#process!.send('longest', () => undefined)
    return (await told)[0].longestMs
  }

  async connect(clientId: string, options: ConnectOptions & { ws?: boolean } = {}): Promise<TestClient> {
    const { ws = false, ...rest } = options
    const client = await TestClient.connect(ws ? this.wsUrl : this.url, clientId, rest)
    this.#clients.push(client)
    return client
  }

  /** Publishes by a client of its own and resolves when the publish is complete. */
  async publish(
    topic: string,
    payload: string,
    options: { qos?: 0 | 1 | 2; retain?: boolean } = {},
  ): Promise<void> {
    await using client = await TestClient.connect(
      this.url,
      `publisher-${this.id}-${Math.random().toString(36).slice(2)}`,
    )
    await client.publish(topic, payload, options)
    await client.disconnect()
  }

  async admin(path: string): Promise<{ status: number; body: string }> {
    const response = await fetch(this.adminUrl + path)
    return { status: response.status, body: await response.text() }
  }

  /** The routes of the cluster as it knows them, in order, as text. */
  async routes(): Promise<string> {
    const { routes } = JSON.parse((await this.admin('/routes?limit=1000000')).body) as { routes: object[] }
    return routes
      .map((route) => JSON.stringify(route))
      .sort()
      .join('\n')
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    if (!this.running) return
    const exited = once(this.#process!, 'exit')
    this.#process!.kill(signal)
    await exited
  }

  /** kill -9: nothing is flushed, nobody is told. */
  kill(): Promise<void> {
    return this.#end('SIGKILL')
  }

  /** SIGTERM: resolves to the exit code once the node has ended gracefully. */
  async stop(): Promise<number | null> {
    await this.#end('SIGTERM')
    return this.#process?.exitCode ?? null
  }

  async restart(): Promise<void> {
    await this.kill()
    await this.start()
  }

  pause(): void {
    this.#process?.kill('SIGSTOP')
  }

  resume(): void {
    this.#process?.kill('SIGCONT')
  }

  signal(name: NodeJS.Signals): void {
    this.#process?.kill(name)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.resume()
    await Promise.all(this.#clients.map((client) => client[Symbol.asyncDispose]()))
    await this.kill()
  }
}

export interface ClusterOptions<Store extends TestStore = TestRedis> {
  readonly nodes?: number
  readonly prefix?: string
  /** Further arguments of every node. */
  readonly argv?: readonly string[]
  /** A store to share; otherwise the cluster brings a Redis of its own. */
  readonly redis?: Store
  /** What the nodes run; this build unless it is named. */
  readonly program?: string
}

export class TestCluster<Store extends TestStore = TestRedis> {
  readonly redis: Store
  readonly nodes: readonly TestNode[]
  readonly #ownRedis: boolean

  constructor(redis: Store, nodes: readonly TestNode[], ownRedis: boolean) {
    this.redis = redis
    this.nodes = nodes
    this.#ownRedis = ownRedis
  }

  node(index: number): TestNode {
    const node = this.nodes[index]
    if (node === undefined) throw new Error(`the cluster has ${this.nodes.length} nodes`)
    return node
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.nodes.map((node) => node[Symbol.asyncDispose]()))
    if (this.#ownRedis) await this.redis[Symbol.asyncDispose]()
  }
}

/**
 * What the cluster of a test stands on when the test does not say: a Redis, or what vitest's project says
 * (vitest.config.ts).
 */
const startStore = (): Promise<TestStore> =>
  process.env.TEST_STORE === 'redis-cluster' ? startRedisCluster({ replicas: 0 }) : startRedis()

/** One node without Redis: every node of the test is this one. */
async function startAlone(nodes: number, argv: readonly string[]): Promise<TestCluster> {
  const node = new TestNode('a', argv)
  const none = { url: '', [Symbol.asyncDispose]: () => Promise.resolve() } as TestRedis
  const cluster = new TestCluster(
    none,
    Array.from({ length: nodes }, () => node),
    true,
  )
  await node.start()
  return cluster
}

/**
 * `await using cluster = await startCluster({ nodes: 3 })`: all nodes serve when it resolves, all are gone
 * when it goes.
 */
export async function startCluster<Store extends TestStore = TestRedis>({
  nodes = 3,
  prefix = 'test',
  argv = [],
  redis,
  program = mainPath,
}: ClusterOptions<Store> = {}): Promise<TestCluster<Store>> {
  if (redis === undefined ? process.env.TEST_STORE === 'memory' : redis.url === '')
    return (await startAlone(nodes, argv)) as unknown as TestCluster<Store>
  const store = redis ?? ((await startStore()) as Store)
  const list = Array.from(
    { length: nodes },
    (_, i) => new TestNode(String.fromCharCode(97 + i), ['--redis', store.url, '--prefix', prefix, ...argv]),
  )
  for (const node of list) node.program = program
  const cluster = new TestCluster(store, list, redis === undefined)
  try {
    await Promise.all(list.map((node) => node.start()))
  } catch (error) {
    await cluster[Symbol.asyncDispose]()
    throw error
  }
  return cluster
}
