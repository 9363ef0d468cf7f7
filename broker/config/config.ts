// The one place that knows the options: one table gives types, defaults, validation, flags, environment
// names, the help text and the table in broker/README.md. Precedence: defaults < file < environment < flags.
// The result is frozen. Every source (config/sources.ts) gives texts, which the same rules judge; all that is
// wrong is said at once, each by the place where it stands. No error shows a value that may be a secret.
import { hostname } from 'node:os'
import { stringify } from 'yaml'
import { z } from 'zod'
import {
  redisAddressProblem,
  withoutRedisPassword,
  withRedisPassword,
  type BridgeOptions,
} from '../../bridge/index.ts'
import { addressProblems, fileProblems, storeProblems, type PlaceOf } from './checks.ts'
import type { Given } from './file.ts'
import {
  flagOf,
  fromEnvironment,
  fromFile,
  fromFlags,
  listOf,
  readText,
  usage,
  type Layer,
} from './sources.ts'
import { OperatorError } from '../errors.ts'
import { limits } from './limits.ts'

export { environmentNameOf, flagOf, nearest, unknownOption } from './sources.ts'

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

/** A whole number, also as text: digits and nothing else, no unit, no 1e3, no 0x10. */
export const whole = (min: number, max: number): z.ZodType<number> =>
  z.preprocess(
    (value) => (typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : value),
    z
      .number('is not a whole number in digits alone')
      .int('is not a whole number')
      .min(min, `is less than ${min}`)
      .max(max, `is more than ${max}`),
  )

/** Above 2^31 − 1 a timer of Node would fire at once. */
const dayMs = 86_400_000
const positiveMs = whole(1, dayMs)

const name = z
  .string()
  .regex(
    /^[A-Za-z0-9._-]{1,64}$/,
    'has more than 64 characters, or others than letters, digits, dots, dashes and underscores',
  )

const hostName = z.string().regex(/^[A-Za-z0-9._-]{1,253}$/, 'is not a host name')

const originUrl = z.string().superRefine((text, context) => {
  const problem =
    urlProblem(text, ['http:', 'https:']) ??
    (new URL(text).origin === text.toLowerCase() ? undefined : 'is more than an origin')
  if (problem !== undefined) context.addIssue({ code: 'custom', message: problem })
})

interface Option {
  readonly schema: z.ZodType
  readonly about: string
  /** How a value is written in help and tables. */
  readonly shape: string
  readonly hint: string
  /** Takes several values: the flag repeats, a text has commas, the file a list. */
  readonly list?: true
  /** A text that may be a secret, or one in the wrong place: no error shows it. */
  readonly secret?: true
}

/**
 * Every option of a node: key in the file, `--kebab-case` as flag, `AEDES_CLUSTER_SNAKE_CASE` in the
 * environment.
 */
export const options = {
  id: {
    schema: name.default(
      hostname()
        .replaceAll(/[^A-Za-z0-9._-]/g, '-')
        .slice(0, 64) || 'node',
    ),
    about: 'name of this node, unique in the cluster (default: the host name)',
    shape: 'name',
    hint: 'Use 1 to 64 letters, digits, dots, dashes or underscores, e.g. --id a',
  },
  listen: {
    schema: z.array(listenUrl).min(1).default(['mqtt://127.0.0.1:1883']),
    about:
      'where MQTT clients connect; repeats; mqtt://, mqtts://, ws://, wss:// (comma-separated in the environment)',
    shape: 'url',
    list: true,
    hint: 'Write scheme://host:port, e.g. --listen mqtt://127.0.0.1:1883 --listen ws://127.0.0.1:8083/mqtt',
  },
  redis: {
    schema: redisUrl.optional(),
    about:
      'the Redis that the nodes share (without it there is one node, which keeps all in memory or in --state-file): redis://, unix:///path, redis+sentinel://host:port,…/service, redis+cluster://host:port,…; rediss is the same over TLS',
    shape: 'url',
    secret: true,
    hint: 'Write redis://host:6379, unix:///run/redis.sock, redis+sentinel://host:26379/mymaster or redis+cluster://host:6379; start one with: aedes-cluster up',
  },
  redisPasswordFile: {
    schema: z.string().optional(),
    about: 'file that holds the Redis password',
    shape: 'file',
    secret: true,
    hint: 'Name a readable file whose first line is the password: the file, not the password',
  },
  prefix: {
    schema: name.default('aedes'),
    about: 'what all our keys and channels in Redis begin with; one prefix is one cluster',
    shape: 'name',
    hint: 'Use 1 to 64 letters, digits, dots, dashes or underscores',
  },
  admin: {
    schema: adminUrl.default('http://127.0.0.1:18083'),
    about: 'where /livez, /readyz and /metrics answer; `off` for nowhere',
    shape: 'url',
    hint: 'Write http://host:port, e.g. --admin http://127.0.0.1:18083, or --admin off',
  },
  adminHosts: {
    schema: z.array(hostName).optional(),
    about:
      'names by which the admin endpoint is asked, besides IP addresses, localhost and the name of this machine; repeats',
    shape: 'name',
    list: true,
    hint: 'Write a host name without a port, e.g. --admin-hosts broker-a.example',
  },
  wsOrigins: {
    schema: z.array(originUrl).optional(),
    about:
      'origins of the web pages that may connect by WebSocket; repeats; without it pages of every origin may',
    shape: 'url',
    list: true,
    hint: 'Write scheme://host[:port] as browsers send it, e.g. --ws-origins https://app.example',
  },
  sysEvents: {
    schema: z.enum(['off', 'on'], 'is not on or off').default('off'),
    about:
      'whether $SYS/ tells everybody that may subscribe who comes and goes and what they subscribe to; the same on every node',
    shape: 'off|on',
    hint: 'Use on or off',
  },
  stateFile: {
    schema: z
      .string()
      .regex(/^(?!.*:\/)[^@\n]+$/, 'is an address or a text, not the name of a file')
      .optional(),
    shape: 'file',
    secret: true,
    hint: 'Name a file in a folder that this node may write to',
    about:
      'file in which a node without Redis keeps sessions, their queues and Retained Messages over a restart; made when it is not there',
  },
  fsync: {
    schema: z.enum(['always', 'everysec', 'never'], 'is not a way to write a file').default('always'),
    shape: 'always|everysec|never',
    hint: 'Use always, everysec or never',
    about:
      'when that file is on disk: before anything is acknowledged, within a second, or when the operating system likes; only a crash of the machine tells them apart',
  },
  tlsCert: {
    schema: z.string().optional(),
    about: 'certificate chain for mqtts:// and wss://',
    shape: 'file',
    hint: 'Name a readable PEM file',
  },
  tlsKey: {
    schema: z.string().optional(),
    about: 'private key for mqtts:// and wss://',
    shape: 'file',
    secret: true,
    hint: 'Name a readable PEM file',
  },
  tlsCa: {
    schema: z.string().optional(),
    about: 'certificate authority for client certificates; with it, clients must show one',
    shape: 'file',
    hint: 'Name a readable PEM file',
  },
  logLevel: {
    schema: z.enum(['debug', 'info', 'warn', 'error', 'silent'], 'is not a level').default('info'),
    about: 'how much is logged (on standard error: JSON lines, text at a terminal)',
    shape: 'level',
    hint: 'Use debug, info, warn, error or silent',
  },
  packetBytesMax: {
    schema: whole(1024, 268_435_455).default(limits.packetBytesMax),
    about: 'largest MQTT packet accepted, in bytes; the same on every node',
    shape: 'bytes',
    hint: 'Use a number from 1024 to 268435455',
  },
  connectTimeoutMs: {
    schema: positiveMs.default(limits.connectTimeoutMs),
    about: 'time a new connection has to send its CONNECT',
    shape: 'ms',
    hint: 'Use a number of milliseconds, from 1 to 86400000',
  },
  claimTimeoutMs: {
    schema: positiveMs.default(limits.claimTimeoutMs),
    about:
      'time that a CONNECT waits for its session while Redis is away; then the client is told to come again (0x88, or 3)',
    shape: 'ms',
    hint: 'Use a number of milliseconds, from 1 to 86400000',
  },
  claimsWaitingMax: {
    schema: whole(1, 10_000_000).default(limits.claimsWaitingMax),
    about: 'CONNECTs that may wait for Redis; beyond it they are refused at once (0x88, or 3)',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  drainTimeoutMs: {
    schema: positiveMs.default(limits.drainTimeoutMs),
    about: 'time after which a client that reads nothing is disconnected',
    shape: 'ms',
    hint: 'Use a number of milliseconds, from 1 to 86400000',
  },
  shutdownMs: {
    schema: positiveMs.default(limits.shutdownMs),
    about: 'time a graceful stop may take',
    shape: 'ms',
    hint: 'Use a number of milliseconds, from 1 to 86400000',
  },
  redisTimeoutMs: {
    schema: positiveMs.default(limits.redisTimeoutMs),
    about: 'time after which a silent Redis counts as away',
    shape: 'ms',
    hint: 'Use a number of milliseconds, from 1 to 86400000',
  },
  leaseMs: {
    schema: whole(3_000, dayMs).default(limits.leaseMs),
    about:
      'time without a sign of life after which the others may declare this node dead; the same on every node',
    shape: 'ms',
    hint: 'Use a number of milliseconds, from 3000 to 86400000',
  },
  durabilityReplicas: {
    schema: whole(0, 100).default(0),
    about:
      'replicas of Redis that must have a message before it is acknowledged (WAIT); with 0 a failover may lose what was acknowledged just before it; the same on every node',
    shape: 'count',
    hint: 'Use a whole number: at least as many as may be promoted, or 0',
  },
  queueMessagesMax: {
    schema: whole(1, 1_000_000_000).default(limits.queueMessagesMax),
    about:
      'messages that wait for a session that is not connected; beyond it the oldest goes; the same on every node',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  queueBytesMax: {
    schema: whole(1, 2 ** 40).default(limits.queueBytesMax),
    about: 'bytes that wait for such a session; beyond it the oldest message goes; the same on every node',
    shape: 'bytes',
    hint: 'Use a whole number, 1 or more',
  },
  retainedBytesMax: {
    schema: whole(1_024, 2 ** 40).default(limits.retainedBytesMax),
    about:
      'memory that the topics of all Retained Messages may take on each node, in bytes (without Redis: the messages, too); no new topic is retained beyond it',
    shape: 'bytes',
    hint: 'Use a number of bytes, 1024 or more',
  },
  sessionsMax: {
    schema: whole(1, 2 ** 32).default(limits.sessionsMax),
    about:
      'sessions in the cluster; a new one that outlives its connection is refused beyond it; the same on every node',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  sessionExpirySecondsMax: {
    schema: whole(1, 0xfffffffe).default(limits.sessionExpirySecondsMax),
    about:
      'longest time that a session outlives its connection, in seconds; who asks for more gets this; the same on every node',
    shape: 's',
    hint: 'Use a number of seconds, from 1 to 4294967294',
  },
  clientIdBytesMax: {
    schema: whole(23, 65_535).default(limits.clientIdBytesMax),
    about: 'longest Client Identifier, in bytes',
    shape: 'bytes',
    hint: 'Use a number from 23 to 65535',
  },
  connectBytesMax: {
    schema: whole(1_024, 268_435_455).default(limits.connectBytesMax),
    about: 'largest CONNECT packet accepted, in bytes',
    shape: 'bytes',
    hint: 'Use a number from 1024 to 268435455',
  },
  connectionsMax: {
    schema: whole(1, 10_000_000).default(limits.connectionsMax),
    about: 'connections of this node; one more is refused',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  connectingMax: {
    schema: whole(1, 10_000_000).default(limits.connectingMax),
    about: 'connections that have not sent their CONNECT; one more, and the oldest of them goes',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  subscribeFiltersMax: {
    schema: whole(1, 100_000_000).default(limits.subscribeFiltersMax),
    about: 'filters of one SUBSCRIBE; those behind them are refused',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  subscriptionsMax: {
    schema: whole(1, 100_000_000).default(limits.subscriptionsMax),
    about: 'subscriptions of one client; one more is refused',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  subscriptionBytesMax: {
    schema: whole(1_024, 2 ** 40).default(limits.subscriptionBytesMax),
    about:
      'memory that the subscriptions of one client may cost, in bytes (about 800 for a short one, 240 more for each level of one with wildcards); one more is refused',
    shape: 'bytes',
    hint: 'Use a number of bytes, 1024 or more',
  },
  routingBytesMax: {
    schema: whole(1_024, 2 ** 40).default(limits.routingBytesMax),
    about:
      'memory that all subscriptions of the cluster may cost this node, in bytes; it takes no more of them beyond it',
    shape: 'bytes',
    hint: 'Use a number of bytes, 1024 or more',
  },
  topicBytesMax: {
    schema: whole(1, 65_535).default(limits.topicBytesMax),
    about: 'longest filter and topic, in bytes',
    shape: 'bytes',
    hint: 'Use a number from 1 to 65535',
  },
  topicLevelsMax: {
    schema: whole(1, limits.topicLevelsMax).default(limits.topicLevelsMax),
    about: 'levels that a filter or topic may have',
    shape: 'count',
    hint: 'Use a number from 1 to 100',
  },
  refusedPublish: {
    schema: z.enum(['drop', 'close']).default('drop'),
    shape: 'drop|close',
    hint: 'Use drop or close',
    about:
      'what becomes of a PUBLISH of MQTT 3.1.1 that is refused (below $SYS/): it is acknowledged and dropped, or its connection is closed',
  },
  receiveMaximum: {
    schema: whole(1, 65_535).default(limits.receiveMaximum),
    about:
      'publishes of one client that are not acknowledged; a client of MQTT 5 that sends more is disconnected',
    shape: 'count',
    hint: 'Use a number from 1 to 65535',
  },
  controlPacketsMax: {
    schema: whole(1, 65_535).default(limits.controlPacketsMax),
    about:
      'SUBSCRIBE and UNSUBSCRIBE packets of one client that wait for one another; beyond it the client is read no further until they are done',
    shape: 'count',
    hint: 'Use a number from 1 to 65535',
  },
  replayBytesMax: {
    schema: whole(16_384, 2 ** 40).default(limits.replayBytesMax),
    about:
      'bytes of Retained Messages that are read for the SUBSCRIBEs of one client and not sent yet; the rest waits until it has read them',
    shape: 'bytes',
    hint: 'Use a number of bytes, 16384 or more',
  },
  clientBytesMax: {
    schema: whole(16_777_216, 2 ** 50).default(limits.clientBytesMax),
    about:
      'memory that this node holds for all its clients together, in bytes: publishers wait and QoS 0 is dropped beyond it',
    shape: 'bytes',
    hint: 'Use a number of bytes, 16777216 or more',
  },
} as const satisfies Record<string, Option>

export type OptionName = keyof typeof options
export type Config = { readonly [K in OptionName]: z.infer<(typeof options)[K]['schema']> }

const table = new Map<string, Option>(Object.entries(options))

function urlProblem(text: string, schemes: readonly string[]): string | undefined {
  if (!URL.canParse(text)) return 'is not a URL'
  const { protocol, hostname, username, password, pathname, search, hash } = new URL(text)
  if (!schemes.includes(protocol))
    return `has another scheme than ${schemes.map((scheme) => scheme + '//').join(', ')}`
  if (hostname === '') return 'has no host'
  if (username !== '' || password !== '') return 'has a user or password, which nobody would be asked for'
  if (search !== '' || hash !== '') return 'has something behind its path'
  return protocol.startsWith('ws') || pathname === '' || pathname === '/'
    ? undefined
    : 'has a path, which only ws:// and wss:// have'
}

/** The value of an option by its schema; undefined when it is wrong, which is among the problems then. */
function valueOf(option: Option, given: Given | undefined, problems: OperatorError[]): unknown {
  if (given === undefined) return option.schema.safeParse(undefined).data
  const { value, source, sources } = option.list === true ? listOf(given) : given
  const before = problems.length
  const wrong = (at: string, what: unknown, problem: string): void => {
    problems.push(
      usage(at, option.secret === true && what !== undefined ? '***' : what, problem, option.hint),
    )
  }
  const values = option.list === true ? (value as unknown[]) : [value]
  values.forEach((one, i) => {
    if (one === '' || one === null) wrong(sources?.[i] ?? source, undefined, 'has no value')
    else if (typeof one === 'object' && one !== null)
      wrong(sources?.[i] ?? source, undefined, 'must be one value')
  })
  if (problems.length > before) return undefined
  const result = option.schema.safeParse(value)
  if (result.success) return result.data
  const seen = new Set<number | undefined>() // one line for each value
  for (const { message, path } of result.error.issues) {
    const index = typeof path[0] === 'number' ? path[0] : undefined
    if (seen.has(index)) continue
    seen.add(index)
    const at = index === undefined ? source : (sources?.[index] ?? source)
    // A message of our own says what the value is or has; one of zod's begins with a capital.
    wrong(
      at,
      index === undefined ? value : values[index],
      /^[a-z]/.test(message) ? message : `is not valid (${message})`,
    )
  }
  return undefined
}

/** Where the values of a configuration came from. Weak: a configuration is all that anybody holds. */
const origins = new WeakMap<object, Layer>()

/**
 * Where an option stands, as an error names it: `--listen`, `AEDES_CLUSTER_LISTEN`, `/etc/node.yaml:3:9
 * listen`.
 * @param value of a list, the entry that is meant
 */
export function sourceOf(config: Config, name: OptionName, value?: string): string {
  const given = origins.get(config)?.get(name)
  if (given === undefined) return flagOf(name)
  const index = Array.isArray(given.value) ? given.value.indexOf(value) : -1
  return given.sources?.[index] ?? given.source
}

/** A `--flag` that an error names, as the operator wrote it. */
export function atSource(config: Config, error: OperatorError): OperatorError {
  const name = [...table.keys()].find((one) => flagOf(one) === error.details.field) as OptionName | undefined
  if (name === undefined) return error
  const { value } = error.details
  return new OperatorError(
    error.problem,
    { ...error.details, field: sourceOf(config, name, typeof value === 'string' ? value : undefined) },
    error.others,
  )
}

function checked(given: Layer, problems: OperatorError[], nameOf: (name: string) => string): Config {
  const config: Record<string, unknown> = {}
  for (const [name, option] of table) {
    const value = valueOf(option, given.get(name), problems)
    if (value !== undefined || problems.length === 0) config[name] = value
  }
  const valid = config as Partial<Config>
  const at: PlaceOf = (name, value) => {
    const found = given.get(name)
    const list = found === undefined ? undefined : listOf(found)
    return list?.sources?.[(list.value as unknown[]).indexOf(value)] ?? list?.source ?? nameOf(name)
  }
  const needsTls = valid.listen?.find((url) => url.startsWith('mqtts:') || url.startsWith('wss:'))
  const missing =
    needsTls === undefined ? [] : ['tlsCert', 'tlsKey'].filter((name) => !given.has(name)).map(nameOf)
  if (missing.length > 0)
    problems.push(
      usage(
        at('listen', needsTls),
        needsTls,
        `needs ${missing.join(' and ')}`,
        `Add ${missing.join(' and ')}, each with a PEM file`,
      ),
    )
  problems.push(...addressProblems(valid, at), ...fileProblems(valid, at), ...storeProblems(valid, at))
  OperatorError.throwAll(problems)
  const frozen = Object.freeze(config as Config)
  origins.set(
    frozen,
    new Map([...given].map(([name, one]) => [name, table.get(name)?.list === true ? listOf(one) : one])),
  )
  return frozen
}

/**
 * The effective configuration of a node.
 * @param flags what the command line says, by option name; `config` there names the file
 * @param found what is wrong with the command line already
 * @param nameOf how the one who gave `flags` writes an option
 * @throws OperatorError (reason `usage`) for all that is wrong: where it stands, the value unless it may be a
 * secret, what to do
 */
export function loadConfig(
  flags: Readonly<Record<string, unknown>>,
  environment: NodeJS.ProcessEnv,
  found: readonly OperatorError[] = [],
  nameOf = flagOf,
): Config {
  const { config: file, ...given } = flags
  const problems = [...found]
  const source = file === undefined ? 'AEDES_CLUSTER_CONFIG' : nameOf('config')
  const path = file ?? environment.AEDES_CLUSTER_CONFIG
  if (path === '')
    problems.push(usage(source, undefined, 'has no value', 'Name a YAML file, or leave it out'))
  const names = [...table.keys()]
  const layers: Layer[] = [
    fromEnvironment(environment, names, problems),
    fromFlags(given, nameOf, names, problems),
  ]
  if (typeof path === 'string' && path !== '') layers.unshift(fromFile(path, source, names, problems))
  return checked(new Map(layers.flatMap((layer) => [...layer])), problems, nameOf)
}

/** The Redis address with the password of `redisPasswordFile` filled in. */
export function redisUrlWithPassword(config: Config): string | undefined {
  if (config.redisPasswordFile === undefined || config.redis === undefined) return config.redis
  return withRedisPassword(
    config.redis,
    readText(config.redisPasswordFile, sourceOf(config, 'redisPasswordFile'), true).split('\n')[0]!.trim(),
  )
}

/** Options that must be the same on every node, as their table says. */
const sameOnEveryNode = [
  'packetBytesMax',
  'leaseMs',
  'durabilityReplicas',
  'queueMessagesMax',
  'queueBytesMax',
  'sessionsMax',
  'sessionExpirySecondsMax',
  'sysEvents',
] as const satisfies readonly OptionName[]

/** What the bridge is told of a configuration. */
export const bridgeOptionsOf = (config: Config): Omit<BridgeOptions, 'onError' | 'onWarning'> => ({
  name: config.id,
  redis: redisUrlWithPassword(config),
  file: config.stateFile,
  fsync: config.fsync,
  prefix: config.prefix,
  redisTimeoutMs: config.redisTimeoutMs,
  leaseMs: config.leaseMs,
  claimsWaitingMax: config.claimsWaitingMax,
  queueMessagesMax: config.queueMessagesMax,
  queueBytesMax: config.queueBytesMax,
  sessionsMax: config.sessionsMax,
  retainedBytesMax: config.retainedBytesMax,
  durabilityReplicas: config.durabilityReplicas,
  settings: Object.fromEntries(sameOnEveryNode.map((name) => [name, config[name]])),
})

/** The same for who asks Redis itself; undefined without Redis. */
export function redisOptionsOf(
  config: Config,
): (ReturnType<typeof bridgeOptionsOf> & { readonly redis: string }) | undefined {
  const { redis, ...options } = bridgeOptionsOf(config)
  return redis === undefined ? undefined : { ...options, redis }
}

/** The configuration as YAML, secrets hidden: what `aedes-cluster check` prints. */
export function showConfig(config: Config): string {
  const shown = Object.entries(config)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => [name, name === 'redis' ? withoutRedisPassword(value as string) : value])
  return stringify(Object.fromEntries(shown))
}
