// A real Redis Cluster, and a real master with replicas under Sentinels, for one test: each server on its own
// port and data folder, ended by its pid. Failure detection is set to about a second, so that a failover does
// not take a test's time.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { freePort, startRedis, type TestRedis, type TestStore } from './redis.ts'

const slots = 16_384
const detectMs = 1_000
const patienceMs = 30_000

/** Asks one server, and only it. */
async function ask<T>(port: number, question: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis({ port, host: '127.0.0.1', retryStrategy: null, maxRetriesPerRequest: 0 }).on(
    'error',
    () => undefined,
  )
  try {
    return await question(redis)
  } finally {
    redis.disconnect()
  }
}

async function until(what: string, there: () => Promise<boolean>): Promise<void> {
  for (const end = Date.now() + patienceMs; ; await new Promise((resolve) => setTimeout(resolve, 50))) {
    if (await there().catch(() => false)) return
    if (Date.now() > end) throw new Error(`${what}: not within ${patienceMs} ms`)
  }
}

const isMaster = async (port: number): Promise<boolean> =>
  /role:master/.test(await ask(port, (redis) => redis.info('replication')))

/** Whether a replica has caught up with its master. */
const isSynchronised = async (port: number): Promise<boolean> =>
  /master_link_status:up/.test(await ask(port, (redis) => redis.info('replication')))

/** Servers of which some are masters and the others their replicas. */
export abstract class Replicated implements TestStore {
  readonly servers: readonly TestRedis[]
  abstract readonly url: string

  constructor(servers: readonly TestRedis[]) {
    this.servers = servers
  }

  async stop(signal?: NodeJS.Signals): Promise<void> {
    await Promise.all(this.servers.map((server) => server.stop(signal)))
  }

  async start(): Promise<void> {
    await Promise.all(this.servers.map((server) => server.start()))
    await this.settled()
  }

  pause(): void {
    for (const server of this.servers) server.pause()
  }

  resume(): void {
    for (const server of this.servers) server.resume()
  }

  /** Resolves when every master is reachable and every replica has caught up. */
  abstract settled(): Promise<void>

  /**
   * kill -9 of a master; resolves when a replica has taken its place. The dead server can be started again:
   * as a replica.
   */
  abstract failover(which: number): Promise<TestRedis>

  async masters(): Promise<TestRedis[]> {
    const roles = await Promise.all(
      this.servers.map(async (server) => server.running && (await isMaster(server.port))),
    )
    return this.servers.filter((_, i) => roles[i])
  }

  /** Ends all connections of clients, as a switch that lost its table would. */
  async killConnections(): Promise<void> {
    await Promise.all(this.servers.map((server) => server.killConnections()))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.servers.map((server) => server[Symbol.asyncDispose]()))
  }
}

export class TestRedisCluster extends Replicated {
  get url(): string {
    return `redis+cluster://${this.servers.map(({ port }) => `127.0.0.1:${port}`).join(',')}`
  }

  async settled(): Promise<void> {
    await until('the Redis Cluster serves all slots', async () => {
      for (const { port } of this.servers) {
        if (!/cluster_state:ok/.test(await ask(port, (redis) => redis.cluster('INFO')))) return false
        if (!(await isMaster(port)) && !(await isSynchronised(port))) return false
      }
      return true
    })
  }

  async failover(which: number): Promise<TestRedis> {
    const before = await this.masters()
    const victim = before[which % before.length]!
    await victim.stop('SIGKILL')
    await until('a replica takes over', async () => {
      const masters = await this.masters()
      if (masters.length < before.length) return false
      return /cluster_state:ok/.test(await ask(masters[0]!.port, (redis) => redis.cluster('INFO')))
    })
    return victim
  }

  /**
   * The replica of the master that has the slot of a hash tag is left behind from now on: stopped, its link
   * cut. What the function that is returned does is to kill that master, and the replica takes its place:
   * what was written meanwhile is lost.
   */
  async leaveBehind(tag: string): Promise<() => Promise<void>> {
    const { port } = this.servers[0]!
    const nodes = await ask(port, async (redis) => {
      const slot = Number(await redis.cluster('KEYSLOT', `{${tag}}`))
      return {
        slot,
        lines: String(await redis.cluster('NODES'))
          .trim()
          .split('\n')
          .map((line) => line.split(' ')),
      }
    })
    const holds = (range: string): boolean => {
      const [from, to = from] = range.split('-').map(Number)
      return nodes.slot >= from! && nodes.slot <= to!
    }
    const at = (line: readonly string[] | undefined): TestRedis =>
      this.servers.find((server) => line?.[1]?.startsWith(`127.0.0.1:${server.port}@`) === true)!
    const masterLine = nodes.lines.find((line) => line.slice(8).some(holds))!
    const [master, replica] = [at(masterLine), at(nodes.lines.find((line) => line[3] === masterLine[0]))]
    replica.pause()
    await ask(master.port, (redis) => redis.call('CLIENT', 'KILL', 'TYPE', 'replica'))
    return async () => {
      await master.stop('SIGKILL')
      replica.resume()
      await until(
        'the replica takes over',
        async () =>
          String(await ask(replica.port, (redis) => redis.cluster('FAILOVER', 'TAKEOVER' as never))) === 'OK',
      )
    }
  }
}

/** Three masters by default, each with a replica. */
export async function startRedisCluster({ masters = 3, replicas = 1 } = {}): Promise<TestRedisCluster> {
  const servers = await Promise.all(
    Array.from({ length: masters * (1 + replicas) }, async () =>
      startRedis(
        '--cluster-enabled',
        'yes',
        '--cluster-node-timeout',
        String(detectMs),
        '--cluster-port',
        String(await freePort()),
        '--cluster-replica-validity-factor',
        '0',
        '--repl-diskless-sync-delay',
        '0',
      ),
    ),
  )
  const cluster = new TestRedisCluster(servers)
  try {
    const ids = await Promise.all(servers.map(({ port }) => ask(port, (redis) => redis.cluster('MYID'))))
    const per = Math.ceil(slots / masters)
    for (const [i, { port }] of servers.entries()) {
      await ask(port, async (redis) => {
        await redis.call('CLUSTER', 'SET-CONFIG-EPOCH', i + 1)
        if (i < masters)
          await redis.call('CLUSTER', 'ADDSLOTSRANGE', i * per, Math.min(slots, (i + 1) * per) - 1)
      })
    }
    const busPort = async (port: number): Promise<string> =>
      ((await ask(port, (redis) => redis.config('GET', 'cluster-port'))) as string[])[1]!
    const first = servers[0]!
    for (const { port } of servers.slice(1))
      await ask(port, async (redis) =>
        redis.call('CLUSTER', 'MEET', '127.0.0.1', first.port, await busPort(first.port)),
      )
    await until('all know one another', async () => {
      for (const { port } of servers)
        if (
          !new RegExp(`cluster_known_nodes:${servers.length}\\b`).test(
            await ask(port, (redis) => redis.cluster('INFO')),
          )
        )
          return false
      return true
    })
    for (const [i, { port }] of servers.entries()) {
      if (i >= masters)
        await until(
          'a replica knows its master',
          async () => (await ask(port, (redis) => redis.cluster('REPLICATE', ids[i % masters]!))) === 'OK',
        )
    }
    await cluster.settled()
    return cluster
  } catch (error) {
    await cluster[Symbol.asyncDispose]()
    throw error
  }
}

const service = 'cluster'
const sentinelCount = 3

export class TestSentinel extends Replicated {
  readonly #sentinels: readonly { readonly port: number; readonly child: ChildProcess }[]

  constructor(
    servers: readonly TestRedis[],
    sentinels: readonly { readonly port: number; readonly child: ChildProcess }[],
  ) {
    super(servers)
    this.#sentinels = sentinels
  }

  get url(): string {
    return `redis+sentinel://${this.#sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',')}/${service}`
  }

  async settled(): Promise<void> {
    await until('the Sentinels know all', async () => {
      for (const { port } of this.#sentinels) {
        const flat = await ask(
          port,
          (redis) => redis.call('SENTINEL', 'MASTER', service) as Promise<string[]>,
        )
        const known = (name: string): string | undefined => flat[flat.indexOf(name) + 1]
        if (
          known('flags') !== 'master' ||
          Number(known('num-slaves')) < this.servers.length - 1 ||
          Number(known('num-other-sentinels')) < sentinelCount - 1
        )
          return false
      }
      for (const { port } of this.servers)
        if (!(await isMaster(port)) && !(await isSynchronised(port))) return false
      return (await this.masters()).length === 1
    })
  }

  async failover(): Promise<TestRedis> {
    const [victim] = await this.masters()
    await victim!.stop('SIGKILL')
    await until('the Sentinels name another master', async () => {
      const [, port] = await ask(
        this.#sentinels[0]!.port,
        (redis) => redis.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', service) as Promise<string[]>,
      )
      return Number(port) !== victim!.port && (await isMaster(Number(port)))
    })
    return victim!
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    for (const { child } of this.#sentinels) child.kill('SIGKILL')
    await super[Symbol.asyncDispose]()
  }
}

/** A master, its replicas, and three Sentinels. */
export async function startSentinel({ replicas = 1 } = {}): Promise<TestSentinel> {
  const master = await startRedis('--repl-diskless-sync-delay', '0')
  const servers = [
    master,
    ...(await Promise.all(
      Array.from({ length: replicas }, () =>
        startRedis('--replicaof', `127.0.0.1 ${master.port}`, '--repl-diskless-sync-delay', '0'),
      ),
    )),
  ]
  const sentinels = await Promise.all(
    Array.from({ length: sentinelCount }, async (_, i) => {
      const port = await freePort()
      const file = join(master.folder, `sentinel-${i}.conf`)
      writeFileSync(
        file,
        [
          `port ${port}`,
          'bind 127.0.0.1',
          `dir ${master.folder}`,
          `sentinel monitor ${service} 127.0.0.1 ${master.port} 2`,
          `sentinel down-after-milliseconds ${service} ${detectMs}`,
          `sentinel failover-timeout ${service} 3000`,
        ].join('\n'),
      )
      const child = spawn('redis-server', [file, '--sentinel'], { stdio: 'ignore' })
      await once(child, 'spawn')
      return { port, child }
    }),
  )
  const store = new TestSentinel(servers, sentinels)
  try {
    await store.settled()
    return store
  } catch (error) {
    await store[Symbol.asyncDispose]()
    throw error
  }
}
