// From a file, the environment and flags to the configuration of a node, by the table in options.ts, in
// sections or by the names of options (sections.ts). Precedence: defaults < file < environment < flags.
// Nothing but reload.ts changes the result. Every source (config/sources.ts) gives texts, which the same rules judge; all that
// is wrong is said at once, each by the place where it stands. No error shows a value that may be a
// secret.
import { stringify } from 'yaml'
import {
  storeOf as storeOfOptions,
  tenantBytesMax,
  type BridgeError,
  type Option,
  type Store,
  type StoreOptions,
} from '../../bridge/index.ts'
import { authenticationProblems } from './listener-chains.ts'
import {
  addressProblems,
  fileProblems,
  storeProblems,
  tenantProblems,
  textOf,
  transportProblems,
  workerProblems,
  type PlacedListener,
  type PlaceOf,
} from './checks.ts'
import { readYaml } from './file.ts'
import { foreignProblems } from './foreign-options.ts'
import { listenUrl, options, type Config, type ListenerConfig, type OptionName } from './options.ts'
import { inSections, layerOf, merged, type ListenerGiven } from './sections.ts'
import { flagOf, fromEnvironment, listOf, readText, usage, type GivenValue, type Layer } from './sources.ts'
import { tlsProblems } from './tls-files.ts'
import { treeOf, type Mapping } from './tree.ts'
import type { AccessFiles } from '../access/access.ts'
import type { LinkName } from '../access/link-names.ts'
import { OperatorError } from '../operator-errors.ts'

export {
  options,
  type Config,
  type ListenerConfig,
  type ListenerOptions,
  type NodeOptions,
  type OptionName,
} from './options.ts'
export { environmentNameOf, flagOf, nearest, unknownOption } from './sources.ts'

const table = new Map<string, Option>(Object.entries(options))

/** The value of an option by its schema; undefined when it is wrong, which is among the problems then. */
export function valueOf(option: Option, given: GivenValue | undefined, problems: OperatorError[]): unknown {
  if (given === undefined) return option.schema.safeParse(undefined).data
  const { value, source, sources } = option.list === true ? listOf(given) : given
  const before = problems.length
  const wrong = (at: string, what: unknown, problem: string): void => {
    problems.push(
      usage(at, option.secret !== undefined && what !== undefined ? '***' : what, problem, option.hint),
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
 * limits.leaseMs`.
 * @param value of a list, the entry that is meant; of what listeners have for themselves, the one of which
 */
export function sourceOf(config: Config, name: OptionName, value?: string): string {
  return placeOf(origins.get(config) ?? new Map(), name, flagOf, value)
}

function placeOf(given: Layer, name: OptionName, nameOf: (name: string) => string, value?: string): string {
  const listeners = (given.get('listeners')?.value ?? []) as readonly ListenerGiven[]
  const own = listeners.map((listener) => listener.given.get(name === 'listen' ? 'url' : name))
  const found = own.find((one) => one !== undefined && one.value === value) ?? given.get(name)
  if (found === undefined) return nameOf(name)
  const list = table.get(name)?.list === true ? listOf(found) : found
  const index = Array.isArray(list.value) ? list.value.indexOf(value) : -1
  return list.sources?.[index] ?? list.source
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

const urlOption: Option = {
  schema: listenUrl,
  about: 'where MQTT clients connect',
  shape: 'url',
  hint: 'Write url: scheme://host:port, e.g. url: mqtt://127.0.0.1:1883',
}
const ofListener = [...table].filter(([, one]) => one.ofListener === true)

/** The listeners of a configuration, each with where its options stand. */
function listenersOf(
  given: Layer,
  values: Readonly<Record<string, unknown>>,
  nameOf: (name: string) => string,
  problems: OperatorError[],
): PlacedListener[] {
  const inherited = Object.fromEntries(ofListener.map(([name]) => [name, values[name]]))
  const list = given.get('listeners')
  if (list === undefined) {
    const urls = (valueOf(options.listen, given.get('listen'), problems) ?? []) as readonly string[]
    return urls.map((url) => ({
      listener: { url, ...inherited } as unknown as ListenerConfig,
      own: new Set(),
      at: (name) => placeOf(given, name === 'url' ? 'listen' : name, nameOf, url),
    }))
  }
  const listeners = list.value as readonly ListenerGiven[]
  if (listeners.length === 0)
    problems.push(usage(list.source, undefined, 'names no listener', 'Write one at least, or leave it out'))
  return listeners.flatMap(({ source, given: own }) => {
    const url = own.has('url') ? valueOf(urlOption, own.get('url'), problems) : undefined
    if (!own.has('url')) problems.push(usage(source, undefined, 'has no url', urlOption.hint))
    const listener: Record<string, unknown> = { url, ...inherited }
    for (const [name, option] of ofListener)
      if (own.has(name)) listener[name] = valueOf(option, own.get(name), problems)
    if (url === undefined) return []
    return {
      listener: listener as unknown as ListenerConfig,
      own: new Set(own.keys()),
      at: (name) => own.get(name)?.source ?? (name === 'url' ? source : placeOf(given, name, nameOf)),
    } satisfies PlacedListener
  })
}

/** A UTF-8 Encoded String (MQTT 5 section 1.5.4). */
const textBytesMax = 65_535

function checked(
  given: Layer,
  problems: OperatorError[],
  nameOf: (name: string) => string,
  elsewhere: readonly LinkName[] | undefined,
): Config {
  const config: Record<string, unknown> = {}
  for (const [name, option] of table) {
    if (name === 'listen') continue
    const value = valueOf(option, given.get(name), problems)
    if (value !== undefined || problems.length === 0) config[name] = value
  }
  if (config.tenants === 'on') {
    // outside, the name of a tenant stands before them, and both together are one text of MQTT
    for (const name of ['topicBytesMax', 'clientIdBytesMax'])
      config[name] = Math.min(config[name] as number, textBytesMax - tenantBytesMax)
  }
  const listeners = listenersOf(given, config, nameOf, problems)
  const valid = config as Partial<Config>
  const at: PlaceOf = (name) => placeOf(given, name, nameOf)
  const ofListenerName = given.has('listeners')
    ? (name: OptionName) => table.get(name)!.at ?? `${name}:`
    : nameOf
  problems.push(...authenticationProblems(valid, listeners, ofListenerName, elsewhere))
  config.listeners = Object.freeze(listeners.map(({ listener }) => listener))
  problems.push(
    ...transportProblems(listeners, ofListenerName),
    ...addressProblems(valid, listeners, at),
    ...fileProblems(valid, listeners, at),
    ...storeProblems(valid, at),
    ...workerProblems(valid, at),
    ...tenantProblems(valid, listeners),
    ...foreignProblems(valid, at, (path) => textOf('jwtKeyFile', path, at('jwtKeyFile'), [])),
  )
  OperatorError.throwAll(problems)
  const whole = config as unknown as Config
  origins.set(whole, given)
  return whole
}

/**
 * The effective configuration of a node.
 * @param given what the command line says, by option name (`config` there names the file), or a program, in
 * sections or not
 * @param found what is wrong with the command line already
 * @param nameOf how the one who gave it writes an option
 * @param elsewhere the chain of a listener that others can reach, where none is written down
 * @throws OperatorError (reason `usage`) for all that is wrong: where it stands, the value unless it may be a
 * secret, what to do
 */
export function loadConfig(
  given: Readonly<Record<string, unknown>>,
  environment: NodeJS.ProcessEnv,
  found: readonly OperatorError[] = [],
  nameOf = flagOf,
  elsewhere?: readonly LinkName[],
): Config {
  const { config: file, ...flags } = given
  const problems = [...found]
  const source = file === undefined ? 'AEDES_CLUSTER_CONFIG' : nameOf('config')
  const path = file ?? environment.AEDES_CLUSTER_CONFIG
  if (path === '')
    problems.push(usage(source, undefined, 'has no value', 'Name a YAML file, or leave it out'))
  const layers: Layer[] = [
    typeof path === 'string' && path !== '' ? fromFile(path, source, problems) : new Map(),
    fromEnvironment(environment, [...table.keys()], problems),
    layerOf(treeOf(flags, nameOf) as Mapping, problems),
  ]
  return checked(merged(layers), problems, nameOf, elsewhere)
}

function fromFile(path: string, source: string, problems: OperatorError[]): Layer {
  try {
    return layerOf(readYaml(path, readText(path, source), problems), problems)
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error
    problems.push(error)
    return new Map()
  }
}

/** The store that a configuration names. @throws OperatorError when a file of it cannot be read */
export function storeOf(config: Config): Store {
  const shared = [...table].filter(([, { shared }]) => shared === true).map(([name]) => name as keyof Config)
  return storeOfOptions(
    config,
    Object.fromEntries(shared.map((name) => [name, config[name] as number | string])),
    (name: keyof StoreOptions) => readText(config[name] as string, sourceOf(config, name), true),
  )
}

const accessFileNames = ['passwordFile', 'rulesFile', 'aclFile', 'jwtKeyFile', 'webhookSecretFile'] as const

/**
 * What the files of access say; those that are not in order are left out.
 * @param read hears of each: what is wrong, when it cannot be read or says what it must not
 */
export function accessFilesOf(
  config: Config,
  read: (what: string, problem: OperatorError | undefined) => void = (_, problem) => {
    if (problem !== undefined) throw problem
  },
): AccessFiles {
  const textIn = (name: OptionName, path: string): string | undefined => {
    const problems: OperatorError[] = []
    const text = textOf(name, path, sourceOf(config, name, path), problems)
    if (name === 'tlsCa' && text !== undefined)
      for (const { problem, hint } of tlsProblems({ tlsCa: text }))
        problems.push(usage(sourceOf(config, name, path), path, problem, hint))
    read(`${name} ${path}`, problems[0])
    return problems.length === 0 ? text : undefined
  }
  const files = Object.fromEntries(
    accessFileNames.map((name) => {
      const path = config[name]
      const text = path === undefined ? undefined : textIn(name, path)
      return [name, path === undefined || text === undefined ? undefined : { path, text }]
    }),
  )
  const ofListeners = (name: 'tlsCrl' | 'tlsCa'): Map<string, string> => {
    const paths = new Set(
      config.listeners.map((listener) => listener[name]).filter((path) => path !== undefined),
    )
    const texts = [...paths].map((path) => [path, textIn(name, path)] as const)
    return new Map(texts.filter((one): one is readonly [string, string] => one[1] !== undefined))
  }
  return { ...files, revocationLists: ofListeners('tlsCrl'), authorities: ofListeners('tlsCa') }
}

/** The tokens of the admin API; undefined: there are none. @throws OperatorError when the file cannot be read, or is none */
export function adminTokensOf(config: Config): string | undefined {
  const problems: OperatorError[] = []
  const path = config.adminTokensFile
  const text =
    path === undefined
      ? undefined
      : textOf('adminTokensFile', path, sourceOf(config, 'adminTokensFile'), problems)
  OperatorError.throwAll(problems)
  return text
}

/** The files that are read again when they change. */
export const watchedFilesOf = (config: Config): string[] =>
  [
    ...accessFileNames.map((name) => config[name]),
    ...[config.adminTokensFile, config.adminTlsCert, config.adminTlsKey, config.adminTlsCa],
    ...config.listeners.flatMap(({ tlsCert, tlsKey, tlsCa, tlsCrl, tlsSniCert = [], tlsSniKey = [] }) => [
      ...[tlsCert, tlsKey, tlsCa, tlsCrl],
      ...tlsSniCert,
      ...tlsSniKey,
    ]),
  ].filter((path) => path !== undefined)

/** An error of the store as the operator's: which option it is about, and what to do. */
export function operatorErrorOf(
  config: Config,
  store: Pick<Store, 'explain'>,
  error: BridgeError,
): OperatorError {
  const { reason, option, problem = error.message, hint } = store.explain(error)
  return new OperatorError(problem, {
    reason,
    field: sourceOf(config, option as OptionName),
    value: printed(option, config[option as keyof Config]),
    hint,
    cause: error,
  })
}

/** A value as it may be printed. */
function printed(name: string, value: unknown): unknown {
  const print = table.get(name)?.printed
  return print === undefined || typeof value !== 'string' ? value : print(value)
}

export const yamlOf = (values: object): string => stringify(values)

/** The configuration as YAML, in sections, secrets hidden: what `aedes-cluster check` prints. */
export function showConfig(config: Config): string {
  const { id, listeners, ...others } = config
  const shownOf = (values: object): Record<string, unknown> =>
    inSections(
      Object.fromEntries(
        Object.entries(values)
          .filter(([, value]) => value !== undefined)
          .map(([name, value]) => [name, printed(name, value)]),
      ),
    )
  /** Of a listener what it has for itself. */
  const own = ({ url, ...values }: ListenerConfig): object => ({
    url,
    ...shownOf(
      Object.fromEntries(
        Object.entries(values).filter(([name, value]) => value !== config[name as keyof typeof values]),
      ),
    ),
  })
  return stringify({ id, listeners: listeners.map(own), ...shownOf(others) })
}
