// HAProxy with the configuration that ships, deploy/haproxy/haproxy.cfg, before the three nodes of a cluster. State: the
// process, ended with the balancer.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { findProgram } from '../../broker/cli/packages.ts'
import { TestClient } from './client.ts'
import type { TestNode } from './cluster.ts'
import { freePort } from './redis.ts'

const configuration = fileURLToPath(
  new URL(
    `${import.meta.url.endsWith('.ts') ? '../../' : '../../../'}deploy/haproxy/haproxy.cfg`,
    import.meta.url,
  ),
)
const patienceMs = 20_000

export class Balancer {
  readonly url: string
  readonly wsUrl: string
  readonly statusUrl: string
  readonly #process: ChildProcess
  log = ''

  constructor(process: ChildProcess, [mqtt, ws, status]: readonly [number, number, number]) {
    this.url = `mqtt://127.0.0.1:${mqtt}`
    this.wsUrl = `ws://127.0.0.1:${ws}/mqtt`
    this.statusUrl = `http://127.0.0.1:${status}`
    this.#process = process
    for (const stream of [process.stdout, process.stderr])
      stream?.on('data', (chunk: Buffer) => {
        this.log += chunk.toString()
      })
  }

  /** Waits until HAProxy has logged something like `pattern` since it started, or since `from` of its log. */
  async says(pattern: RegExp, from = 0): Promise<void> {
    for (const end = performance.now() + patienceMs; !pattern.test(this.log.slice(from)); await pause(20))
      if (performance.now() > end) throw new Error(`HAProxy did not say ${pattern}:\n${this.log.slice(from)}`)
  }

  connect(clientId: string, options: { clean?: boolean } = {}): Promise<TestClient> {
    return TestClient.connect(this.url, clientId, { reconnectPeriod: 200, resubscribe: false, ...options })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process.exitCode !== null) return
    this.#process.kill('SIGTERM')
    await once(this.#process, 'exit')
  }
}

/** `await using`: it is before the nodes when it resolves. */
export async function startBalancer({ nodes }: { readonly nodes: readonly TestNode[] }): Promise<Balancer> {
  const ports = [await freePort(), await freePort(), await freePort()] as const
  const env: Record<string, string> = {
    MQTT_BIND: `127.0.0.1:${ports[0]}`,
    WS_BIND: `127.0.0.1:${ports[1]}`,
    STATUS_BIND: `127.0.0.1:${ports[2]}`,
  }
  for (const { id, url, wsUrl, adminUrl } of nodes) {
    const name = `NODE_${id.toUpperCase()}`
    Object.assign(env, {
      [`${name}_MQTT`]: new URL(url).host,
      [`${name}_WS`]: new URL(wsUrl).host,
      [`${name}_ADMIN_PORT`]: new URL(adminUrl).port,
    })
  }
  const child = spawn(findProgram('haproxy') ?? 'haproxy', ['-W', '-db', '-f', configuration], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const balancer = new Balancer(child, ports)
  await balancer.says(/Loading success/)
  return balancer
}
