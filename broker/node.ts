// One node: the bridge to the others, the engine, the listeners and the admin endpoint, composed; start, drain, stop.
// Holds no state of its own that matters: kill -9 of this process loses nothing that was acknowledged beyond what
// README.md's guarantees table says.
import { BridgeError, createBridge, type Bridge } from '../bridge/index.ts'
import { startAdmin, type AdminServer, type Readiness } from './admin/server.ts'
import { redisUrlWithPassword, withoutPassword, type Config } from './config.ts'
import { Engine } from './engine.ts'
import { OperatorError } from './errors.ts'
import { listen, type Listener } from './listeners/index.ts'
import { createLog, type Log } from './log.ts'
import { Metrics } from './metrics.ts'

export class Node {
  readonly config: Config
  readonly metrics = new Metrics()
  readonly #log: Log
  readonly #bridge: Bridge
  readonly #engine: Engine
  #listeners: Listener[] = []
  #admin: AdminServer | undefined
  #state: 'starting' | 'serving' | 'stopping' | 'stopped' = 'starting'

  private constructor(config: Config, bridge: Bridge, log: Log) {
    this.config = config
    this.#bridge = bridge
    this.#log = log
    this.#engine = new Engine(config.id, bridge, config, {
      onClient: () => { this.metrics.connects.inc(); this.metrics.connections.inc() },
      onClientGone: () => this.metrics.connections.dec(),
      onPublish: (qos) => this.metrics.published.inc({ qos }),
      onClientError: (clientId, error) => {
        this.metrics.clientErrors.inc()
        log.info({ clientId, reason: error.message }, 'connection ended by an error')
      },
      onError: (error) => log.error({ error: error.message }, 'engine error'),
    })
  }

  /**
   * Starts a node: resolves when it serves clients.
   * @throws OperatorError when Redis cannot be reached or an address cannot be listened on; nothing is left running
   */
  static async start(config: Config): Promise<Node> {
    const log = createLog(config)
    const bridge = await connectBridge(config, log)
    const node = new Node(config, bridge, log)
    try {
      await node.#engine.listen()
      await node.#open()
    } catch (error) {
      await node.stop()
      throw error
    }
    return node
  }

  async #open(): Promise<void> {
    const onError = (error: Error): void => this.#log.debug({ error: error.message }, 'listener')
    // The admin endpoint first: what watches a start-up sees "not ready" rather than nothing.
    if (this.config.admin !== 'off') this.#admin = await startAdmin(new URL(this.config.admin), () => this.readiness(), this.metrics)
    for (const address of this.config.listen) {
      this.#listeners.push(await listen(address, this.config, (connection, request) => this.#engine.handle(connection, request), onError))
    }
    this.#state = 'serving'
    this.#log.info({ listen: this.endpoints, admin: this.#admin?.url }, 'serving')
  }

  /** Where clients can connect, with real port numbers. */
  get endpoints(): string[] {
    return this.#listeners.map((listener) => listener.url)
  }

  get adminUrl(): string | undefined {
    return this.#admin?.url
  }

  /** What /readyz says: Redis is asked each time, with a deadline. */
  async readiness(): Promise<Readiness> {
    const redis = await this.#bridge.ping(this.config.redisTimeoutMs).then(() => 'ok', (error: unknown) => (error as Error).message)
    this.metrics.redisUp.set(redis === 'ok' ? 1 : 0)
    const node = this.#state === 'serving' ? 'ok' : this.#state
    return { ready: redis === 'ok' && node === 'ok', checks: { redis, node } }
  }

  /**
   * Stops gracefully: not ready → listeners closed → clients told to go, rate-limited → closed, within `shutdownMs`.
   * Safe to call twice.
   */
  async stop(): Promise<void> {
    if (this.#state === 'stopping' || this.#state === 'stopped') return
    this.#state = 'stopping'
    const deadline = new Promise<void>((resolve) => setTimeout(resolve, this.config.shutdownMs).unref())
    await Promise.all(this.#listeners.map((listener) => listener.close()))
    await Promise.race([deadline, this.#engine.disconnectAll().then(() => this.#engine.close())])
    await Promise.race([deadline, this.#bridge.close()])
    await this.#admin?.close()
    this.#state = 'stopped'
    this.#log.info('stopped')
  }
}

/** Passes an error on when its message differs from the last: Redis away for an hour is one line, not thousands. */
function oncePerCause(report: (cause: string) => void): (error: Error) => void {
  let last = ''
  return ({ message }) => {
    if (message !== last) report(message)
    last = message
  }
}

async function connectBridge(config: Config, log: Log): Promise<Bridge> {
  try {
    return await createBridge({
      nodeId: config.id, redis: redisUrlWithPassword(config), prefix: config.prefix, redisTimeoutMs: config.redisTimeoutMs,
      onError: oncePerCause((cause) => log.warn({ error: cause }, 'redis')),
    })
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error
    throw new OperatorError(error.message, {
      reason: 'redis', field: '--redis', value: withoutPassword(config.redis), cause: error,
      hint: 'Start Redis (or `aedes-cluster up`, which brings its own) and check address, password and network',
    })
  }
}
