// The one place that knows the options: one table gives types, defaults, validation, flags, environment names, the help
// text and the table in broker/README.md. Precedence: defaults < file < environment < flags. The result is frozen.
// Only this file reads the environment and configuration files.
import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { parse, stringify } from 'yaml'
import { z } from 'zod'
import { redisAddressProblem, withoutRedisPassword, withRedisPassword, type BridgeOptions } from '../bridge/index.ts'
import { OperatorError } from './errors.ts'
import { limits } from './limits.ts'

const listenUrl = z.string().superRefine((text, context) => {
  const problem = urlProblem(text, ['mqtt:', 'mqtts:', 'ws:', 'wss:'])
  if (problem !== undefined) context.addIssue({ code: 'custom', message: problem })
})

const adminUrl = z.string().superRefine((text, context) => {
  const problem = text === 'off' ? undefined : urlProblem(text, ['http:'])
  if (problem !== undefined) context.addIssue({ code: 'custom', message: problem })
})

const redisUrl = z.string().superRefine((text, context) => {
  const problem = redisAddressProblem(text)
  if (problem !== undefined) context.addIssue({ code: 'custom', message: problem })
})

const whole = (min: number, max: number): z.ZodType<number> => z.coerce.number().int().min(min).max(max)
const positiveMs = z.coerce.number().int().min(1)

interface Option {
  readonly schema: z.ZodType
  readonly about: string
  /** How a value is written in help and tables. */
  readonly shape: string
  readonly hint: string
  readonly secret?: true
}

/** Every option of a node: key in the file, `--kebab-case` as flag, `AEDES_CLUSTER_SNAKE_CASE` in the environment. */
export const options = {
  id: {
    schema: z.string().regex(/^[A-Za-z0-9._-]{1,64}$/).default(hostname().replaceAll(/[^A-Za-z0-9._-]/g, '-').slice(0, 64) || 'node'),
    about: 'name of this node, unique in the cluster (default: the host name)', shape: 'name',
    hint: 'Use 1 to 64 letters, digits, dots, dashes or underscores, e.g. --id a',
  },
  listen: {
    schema: z.array(listenUrl).min(1).default(['mqtt://127.0.0.1:1883']),
    about: 'where MQTT clients connect; repeats; mqtt://, mqtts://, ws://, wss:// (comma-separated in the environment)', shape: 'url',
    hint: 'Write scheme://host:port, e.g. --listen mqtt://127.0.0.1:1883 --listen ws://127.0.0.1:8083/mqtt',
  },
  redis: {
    schema: redisUrl.default('redis://127.0.0.1:6379'),
    about: 'the Redis that the nodes share: redis://, unix:///path, redis+sentinel://host:port,…/service, redis+cluster://host:port,…; rediss is the same over TLS', shape: 'url', secret: true,
    hint: 'Write redis://host:6379, unix:///run/redis.sock, redis+sentinel://host:26379/mymaster or redis+cluster://host:6379; start one with: aedes-cluster up',
  },
  redisPasswordFile: {
    schema: z.string().optional(), about: 'file that holds the Redis password', shape: 'file',
    hint: 'Name a readable file whose first line is the password',
  },
  prefix: {
    schema: z.string().regex(/^[A-Za-z0-9._-]{1,64}$/).default('aedes'),
    about: 'what all our keys and channels in Redis begin with; one prefix is one cluster', shape: 'name',
    hint: 'Use 1 to 64 letters, digits, dots, dashes or underscores',
  },
  admin: {
    schema: adminUrl.default('http://127.0.0.1:18083'),
    about: 'where /livez, /readyz and /metrics answer; `off` for nowhere', shape: 'url',
    hint: 'Write http://host:port, e.g. --admin http://127.0.0.1:18083, or --admin off',
  },
  tlsCert: { schema: z.string().optional(), about: 'certificate chain for mqtts:// and wss://', shape: 'file', hint: 'Name a readable PEM file' },
  tlsKey: { schema: z.string().optional(), about: 'private key for mqtts:// and wss://', shape: 'file', hint: 'Name a readable PEM file' },
  tlsCa: { schema: z.string().optional(), about: 'certificate authority for client certificates; with it, clients must show one', shape: 'file', hint: 'Name a readable PEM file' },
  logLevel: {
    schema: z.enum(['debug', 'info', 'warn', 'error', 'silent']).default('info'),
    about: 'how much is logged (on standard error: JSON lines, text at a terminal)', shape: 'level',
    hint: 'Use debug, info, warn, error or silent',
  },
  packetBytesMax: {
    schema: z.coerce.number().int().min(1024).max(268_435_455).default(limits.packetBytesMax),
    about: 'largest MQTT packet accepted, in bytes', shape: 'bytes', hint: 'Use a number from 1024 to 268435455',
  },
  connectTimeoutMs: { schema: positiveMs.default(limits.connectTimeoutMs), about: 'time a new connection has to send its CONNECT', shape: 'ms', hint: 'Use a number of milliseconds' },
  drainTimeoutMs: { schema: positiveMs.default(limits.drainTimeoutMs), about: 'time after which a client that reads nothing is disconnected', shape: 'ms', hint: 'Use a number of milliseconds' },
  shutdownMs: { schema: positiveMs.default(limits.shutdownMs), about: 'time a graceful stop may take', shape: 'ms', hint: 'Use a number of milliseconds' },
  redisTimeoutMs: { schema: positiveMs.default(limits.redisTimeoutMs), about: 'time after which a silent Redis counts as away', shape: 'ms', hint: 'Use a number of milliseconds' },
  leaseMs: { schema: z.coerce.number().int().min(3_000).default(limits.leaseMs), about: 'time without a sign of life after which the others may declare this node dead; the same on every node', shape: 'ms', hint: 'Use 3000 or more milliseconds' },
  durabilityReplicas: { schema: z.coerce.number().int().min(0).default(0), about: 'replicas of Redis that must have a message before it is acknowledged (WAIT); with 0 a failover may lose what was acknowledged just before it; the same on every node', shape: 'count', hint: 'Use a whole number: at least as many as may be promoted, or 0' },
  queueMessagesMax: { schema: z.coerce.number().int().min(1).default(limits.queueMessagesMax), about: 'messages that wait for a session that is not connected; beyond it the oldest goes; the same on every node', shape: 'count', hint: 'Use a whole number, 1 or more' },
  sessionExpirySecondsMax: { schema: whole(1, 0xfffffffe).default(limits.sessionExpirySecondsMax), about: 'longest time that a session outlives its connection, in seconds; who asks for more gets this; the same on every node', shape: 's', hint: 'Use a number of seconds, from 1 to 4294967294' },
  clientIdBytesMax: { schema: whole(23, 65_535).default(limits.clientIdBytesMax), about: 'longest Client Identifier, in bytes', shape: 'bytes', hint: 'Use a number from 23 to 65535' },
  connectBytesMax: { schema: whole(1_024, 268_435_455).default(limits.connectBytesMax), about: 'largest CONNECT packet accepted, in bytes', shape: 'bytes', hint: 'Use a number from 1024 to 268435455' },
  connectionsMax: { schema: whole(1, 10_000_000).default(limits.connectionsMax), about: 'connections of this node; one more is refused', shape: 'count', hint: 'Use a whole number, 1 or more' },
  connectingMax: { schema: whole(1, 10_000_000).default(limits.connectingMax), about: 'connections that have not sent their CONNECT; one more, and the oldest of them goes', shape: 'count', hint: 'Use a whole number, 1 or more' },
  subscriptionsMax: { schema: whole(1, 100_000_000).default(limits.subscriptionsMax), about: 'subscriptions of one client; one more is refused', shape: 'count', hint: 'Use a whole number, 1 or more' },
  subscriptionBytesMax: { schema: whole(1_024, 2 ** 40).default(limits.subscriptionBytesMax), about: 'memory that the subscriptions of one client may cost, in bytes (about 800 for a short one, 240 more for each level of one with wildcards); one more is refused', shape: 'bytes', hint: 'Use a number of bytes, 1024 or more' },
  routingBytesMax: { schema: whole(1_024, 2 ** 40).default(limits.routingBytesMax), about: 'memory that all subscriptions of the cluster may cost this node, in bytes; it takes no more of them beyond it', shape: 'bytes', hint: 'Use a number of bytes, 1024 or more' },
  topicBytesMax: { schema: whole(1, 65_535).default(limits.topicBytesMax), about: 'longest filter and topic, in bytes', shape: 'bytes', hint: 'Use a number from 1 to 65535' },
  topicLevelsMax: { schema: whole(1, limits.topicLevelsMax).default(limits.topicLevelsMax), about: 'levels that a filter or topic may have', shape: 'count', hint: 'Use a number from 1 to 100' },
  receiveMaximum: { schema: whole(1, 65_535).default(limits.receiveMaximum), about: 'publishes of one client that are not acknowledged; a client of MQTT 5 that sends more is disconnected', shape: 'count', hint: 'Use a number from 1 to 65535' },
} as const satisfies Record<string, Option>

type OptionName = keyof typeof options
export type Config = { readonly [K in OptionName]: z.infer<(typeof options)[K]['schema']> }
type RawConfig = Partial<Record<string, unknown>>

export const flagOf = (name: string): string => '--' + name.replaceAll(/[A-Z]/g, (letter) => '-' + letter.toLowerCase())
export const environmentNameOf = (name: string): string => 'AEDES_CLUSTER_' + name.replaceAll(/[A-Z]/g, (letter) => '_' + letter).toUpperCase()

function urlProblem(text: string, schemes: readonly string[]): string | undefined {
  if (!URL.canParse(text)) return 'is not a URL'
  const url = new URL(text)
  if (!schemes.includes(url.protocol)) return `has scheme ${url.protocol}// where ${schemes.map((scheme) => scheme + '//').join(', ')} is expected`
  return url.hostname === '' ? 'has no host' : undefined
}

/** The known name nearest to `name` by edits, when it is near enough to be a slip of the finger. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  const distance = (a: string, b: string): number => {
    let row = Array.from({ length: b.length + 1 }, (_, i) => i)
    for (let i = 1; i <= a.length; i++) {
      const next = [i]
      for (let j = 1; j <= b.length; j++) next[j] = Math.min(next[j - 1]! + 1, row[j]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1))
      row = next
    }
    return row[b.length]!
  }
  const [best] = known.map((candidate) => ({ candidate, far: distance(name, candidate) })).sort((a, b) => a.far - b.far)
  return best !== undefined && best.far <= Math.max(2, name.length / 3) ? best.candidate : undefined
}

/** The error for an option that does not exist, with the nearest that does. */
export function unknownOption(field: string, value: unknown, known: readonly string[]): OperatorError {
  const near = nearest(field, known)
  return new OperatorError('is not an option', {
    reason: 'usage', field, value,
    hint: near === undefined ? 'See aedes-cluster --help' : `Did you mean ${near}?`,
  })
}

function readText(file: string, field: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new OperatorError(`cannot be read (${(error as NodeJS.ErrnoException).code ?? 'error'})`, {
      reason: 'usage', field, value: file, hint: 'Name a file that exists and is readable', cause: error,
    })
  }
}

function fromFile(file: string): RawConfig {
  let parsed: unknown
  const text = readText(file, '--config')
  try {
    parsed = parse(text)
  } catch (error) {
    throw new OperatorError(`is not YAML (${(error as Error).message.split('\n')[0] ?? ''})`, { reason: 'usage', field: '--config', value: file, hint: 'See deploy/config/node.yaml for an example', cause: error })
  }
  if (parsed === null || parsed === undefined) return {}
  if (typeof parsed !== 'object' || Array.isArray(parsed)) {
    throw new OperatorError('is not a mapping of options', { reason: 'usage', field: '--config', value: file, hint: 'See deploy/config/node.yaml for an example' })
  }
  for (const [key, value] of Object.entries(parsed)) {
    if (!(key in options)) throw unknownOption(key, value, Object.keys(options))
  }
  return parsed
}

function fromEnvironment(environment: NodeJS.ProcessEnv): RawConfig {
  const names = new Map(Object.keys(options).map((name) => [environmentNameOf(name), name]))
  const raw: RawConfig = {}
  for (const [variable, value] of Object.entries(environment)) {
    if (!variable.startsWith('AEDES_CLUSTER_') || variable === 'AEDES_CLUSTER_CONFIG' || value === undefined) continue
    const name = names.get(variable)
    if (name === undefined) throw unknownOption(variable, value, [...names.keys()])
    raw[name] = name === 'listen' ? value.split(',').map((item) => item.trim()) : value
  }
  return raw
}

function validate(raw: RawConfig): Config {
  const config: Record<string, unknown> = {}
  for (const [name, option] of Object.entries(options)) {
    const result = option.schema.safeParse(raw[name])
    if (!result.success) {
      const message = result.error.issues[0]?.message ?? 'is not valid'
      throw new OperatorError(`is not valid (${message.replace(/^Invalid string: must match pattern.*$/, 'unexpected characters or length')})`, { reason: 'usage', field: flagOf(name), value: raw[name], hint: option.hint })
    }
    config[name] = result.data
  }
  const valid = config as Config
  const needsTls = valid.listen.find((url) => url.startsWith('mqtts:') || url.startsWith('wss:'))
  for (const name of ['tlsCert', 'tlsKey'] as const) {
    if (needsTls !== undefined && valid[name] === undefined) {
      throw new OperatorError(`needs ${flagOf(name)}`, { reason: 'usage', field: '--listen', value: needsTls, hint: `Add ${flagOf(name)} with a PEM file` })
    }
  }
  for (const name of ['tlsCert', 'tlsKey', 'tlsCa', 'redisPasswordFile'] as const) {
    if (valid[name] !== undefined) readText(valid[name], flagOf(name))
  }
  return Object.freeze(valid)
}

/**
 * The effective configuration of a node.
 * @param flags what the command line says, by option name; `config` there names the file
 * @throws OperatorError (reason `usage`) naming the field, the value and what to do
 */
export function loadConfig(flags: RawConfig, environment: NodeJS.ProcessEnv): Config {
  const { config: file, ...given } = flags
  const path = file ?? environment.AEDES_CLUSTER_CONFIG
  const layers = { ...(typeof path === 'string' ? fromFile(path) : {}), ...fromEnvironment(environment), ...given }
  return validate(layers)
}

/** The Redis address with the password of `redisPasswordFile` filled in. */
export function redisUrlWithPassword(config: Config): string {
  if (config.redisPasswordFile === undefined) return config.redis
  return withRedisPassword(config.redis, readText(config.redisPasswordFile, '--redis-password-file').split('\n')[0]!.trim())
}

/** What the bridge is told of a configuration. */
export const bridgeOptionsOf = (config: Config): Omit<BridgeOptions, 'name' | 'onError'> => ({
  redis: redisUrlWithPassword(config), prefix: config.prefix, redisTimeoutMs: config.redisTimeoutMs, leaseMs: config.leaseMs,
  queueMessagesMax: config.queueMessagesMax, durabilityReplicas: config.durabilityReplicas,
})

/** The configuration as YAML, secrets hidden: what `aedes-cluster check` prints. */
export function showConfig(config: Config): string {
  const shown = Object.entries(config).filter(([, value]) => value !== undefined)
    .map(([name, value]) => [name, 'secret' in options[name as OptionName] && typeof value === 'string' ? withoutRedisPassword(value) : value])
  return stringify(Object.fromEntries(shown))
}
