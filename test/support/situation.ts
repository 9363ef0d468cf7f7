// A situation that clients see: what a broker must do, whoever it is. Each runs on one node, over two nodes
// (who acts `there` is connected to another node than who is `here`) and against Debian's Mosquitto: a test
// that Mosquitto fails is wrong, or says with `ours` why it is only ours. No state but the brokers, which
// live as long as the file's tests.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect as connectTcp } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe } from 'vitest'
import { findProgram } from '../../broker/cli/packages.ts'
import { TestClient, type ConnectOptions } from './client.ts'
import { startCluster } from './cluster.ts'
import { freePort } from './redis.ts'
import { WireClient } from './wire.ts'

interface Broker extends AsyncDisposable {
  readonly here: string
  readonly there: string
  /** WebSocket; the same broker as `here`. */
  readonly ws: string
  /** What its nodes count, as text. */
  metrics(): Promise<string>
}

/** The broker of a situation, as its clients see it. URLs are known when the tests run. */
export interface Place {
  readonly name: 'one node' | 'two nodes' | 'Mosquitto'
  readonly isOurs: boolean
  readonly here: string
  readonly there: string
  readonly ws: string
  metrics: () => Promise<string>
  /** MQTT.js clients: one at the first node, one at the other. MQTT 5 unless the options say otherwise. */
  connect: (clientId: string, options?: ConnectOptions) => Promise<TestClient>
  connectThere: (clientId: string, options?: ConnectOptions) => Promise<TestClient>
  /** A socket with its CONNACK, for what no client library does. */
  wire: (
    clientId: string,
    options?: Parameters<typeof WireClient.connect>[2],
  ) => ReturnType<typeof WireClient.connect>
  wireThere: (
    clientId: string,
    options?: Parameters<typeof WireClient.connect>[2],
  ) => ReturnType<typeof WireClient.connect>
}

/**
 * A Mosquitto on ports of its own; what it holds is gone with it. `more`: further lines of its configuration.
 */
export async function startMosquitto(
  more: readonly string[] = [],
): Promise<Broker & { readonly process: ChildProcess }> {
  const port = await freePort([0, 1])
  const folder = mkdtempSync(join(tmpdir(), 'mosquitto-'))
  const file = join(folder, 'mosquitto.conf')
  writeFileSync(
    file,
    [
      'per_listener_settings false',
      'allow_anonymous true',
      'persistence false',
      'max_queued_messages 0',
      'user root',
      `listener ${port} 127.0.0.1`,
      `listener ${port + 1} 127.0.0.1`,
      'protocol websockets',
      ...more,
      '',
    ].join('\n'),
  )
  const child = spawn(findProgram('mosquitto')!, ['-c', file], { stdio: 'ignore' })
  const ended = once(child, 'exit')
  for (;;) {
    // until it listens
    const socket = connectTcp(port, '127.0.0.1')
    const open = await new Promise<boolean>((resolve) =>
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false)),
    )
    socket.destroy()
    if (open) break
    if (child.exitCode !== null) throw new Error('mosquitto did not start')
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  const url = `mqtt://127.0.0.1:${port}`
  return {
    here: url,
    there: url,
    ws: `ws://127.0.0.1:${port + 1}`,
    process: child,
    metrics: () => Promise.resolve(''),
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await ended
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

async function startOurs(nodes: 1 | 2, argv: readonly string[]): Promise<Broker> {
  const cluster = await startCluster({ nodes, argv })
  return {
    here: cluster.node(0).url,
    there: cluster.node(nodes - 1).url,
    ws: cluster.node(0).wsUrl,
    metrics: async () =>
      (await Promise.all(cluster.nodes.map(async (node) => (await node.admin('/metrics')).body))).join(''),
    [Symbol.asyncDispose]: () => cluster[Symbol.asyncDispose](),
  }
}

export interface SituationOptions {
  /** Why Mosquitto cannot be asked: what is tested is an option or a promise of ours alone. */
  readonly ours?: string
  /** Further arguments of every node. */
  readonly argv?: readonly string[]
  /** Further lines of Mosquitto's configuration. */
  readonly mosquitto?: readonly string[]
}

/** Defines the tests of a situation once for each place. */
export function situation(
  about: string,
  define: (place: Place) => void,
  { ours, argv = [], mosquitto = [] }: SituationOptions = {},
): void {
  const others = ['two nodes', ...(ours === undefined ? ['Mosquitto'] : [])]
  const names = ['one node', ...(process.env.TEST_STORE === 'memory' ? [] : others)] as Place['name'][]
  describe.each(names)(`${about}: %s`, (name) => {
    let broker: Broker
    const clients: AsyncDisposable[] = []
    const kept = <Client extends AsyncDisposable>(client: Client): Client => {
      clients.push(client)
      return client
    }
    beforeAll(async () => {
      broker =
        name === 'Mosquitto'
          ? await startMosquitto(mosquitto)
          : await startOurs(name === 'one node' ? 1 : 2, argv)
    })
    afterAll(async () => {
      await Promise.all(clients.map((client) => client[Symbol.asyncDispose]()))
      await broker[Symbol.asyncDispose]()
    })
    define({
      name,
      isOurs: name !== 'Mosquitto',
      get here() {
        return broker.here
      },
      get there() {
        return broker.there
      },
      get ws() {
        return broker.ws
      },
      metrics: () => broker.metrics(),
      connect: async (clientId, options) =>
        kept(await TestClient.connect(broker.here, clientId, { version: 5, ...options })),
      connectThere: async (clientId, options) =>
        kept(await TestClient.connect(broker.there, clientId, { version: 5, ...options })),
      wire: async (clientId, options) => kept(await WireClient.connect(broker.here, clientId, options)),
      wireThere: async (clientId, options) => kept(await WireClient.connect(broker.there, clientId, options)),
    })
  })
}
