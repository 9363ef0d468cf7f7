// For a program that was written for Aedes: the class and the options by Aedes' names. What is different is in
// broker/EMBEDDING.md. No state of its own.
import { randomUUID } from 'node:crypto'
import type { Config, NodeOptions } from '../config/config.ts'
import { EmbeddedNode } from './embedded-node.ts'
import { hookNames, type Hooks } from './hooks.ts'

/** Aedes' options that have a meaning here, besides ours. */
export interface AedesOptions extends NodeOptions, Hooks {
  connectTimeout?: number
  drainTimeout?: number
  /** 0: the default. */
  maximumPacketSize?: number
  maxClientsIdLength?: number
  maxTopicLevels?: number
  /** Seconds; 0: the default. */
  sessionExpiryIntervalLimit?: number
  /** Nodes share sessions through their store: give its address. */
  persistence?: never
  mq?: never
}

const options = new Map<string, keyof Config>([
  ['connectTimeout', 'connectTimeoutMs'],
  ['drainTimeout', 'drainTimeoutMs'],
  ['maximumPacketSize', 'packetBytesMax'],
  ['maxClientsIdLength', 'clientIdBytesMax'],
  ['maxTopicLevels', 'topicLevelsMax'],
  ['sessionExpiryIntervalLimit', 'sessionExpirySecondsMax'],
])
/** Of Aedes, without a meaning here: what they bound has bounds of its own, or is not there. */
const ignored = new Set([
  'concurrency',
  'heartbeatInterval',
  'queueLimit',
  'topicAliasMaximum',
  'pendingSessionsLimit',
  'trustProxy',
  'trustedProxies',
])

function configOf(given: AedesOptions): NodeOptions {
  const config: Record<string, unknown> = { id: randomUUID() }
  for (const [name, value] of Object.entries(given) as [string, unknown][]) {
    if (name === 'persistence' || name === 'mq')
      throw new TypeError(
        `${name} is not an option here: nodes share sessions and messages through their store, which has an address (see broker/README.md), or none for one node in memory`,
      )
    if ((hookNames as readonly string[]).includes(name) || ignored.has(name) || value === undefined) continue
    const ours = options.get(name)
    if (ours === undefined) config[name] = value
    else if (value !== 0) config[ours] = value // of Aedes, 0 is no limit: ours is the default
  }
  return config
}

export class Aedes extends EmbeddedNode {
  constructor(options: AedesOptions = {}) {
    super(configOf(options), options)
  }

  static async createBroker(options: AedesOptions = {}): Promise<Aedes> {
    return new Aedes(options).start()
  }

  async listen(): Promise<void> {
    await this.start()
  }
}
