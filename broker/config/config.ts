// From a file, the environment and flags to the configuration of a node, by the table in options.ts. Precedence:
// defaults < file < environment < flags. The result is frozen. Every source (config/sources.ts) gives texts, which the same rules judge; all that is
// wrong is said at once, each by the place where it stands. No error shows a value that may be a secret.
import { stringify } from 'yaml'
import {
  storeOf as storeOfOptions,
  type BridgeError,
  type Option,
  type Store,
  type StoreOptions,
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
import { options, type Config, type OptionName } from './options.ts'

export { options, type Config, type OptionName } from './options.ts'
export { environmentNameOf, flagOf, nearest, unknownOption } from './sources.ts'

const table = new Map<string, Option>(Object.entries(options))

/** The value of an option by its schema; undefined when it is wrong, which is among the problems then. */
export function valueOf(option: Option, given: Given | undefined, problems: OperatorError[]): unknown {
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

/** The store that a configuration names. @throws OperatorError when a file of it cannot be read */
export function storeOf(config: Config): Store {
  const shared = [...table].filter(([, { shared }]) => shared === true).map(([name]) => name as OptionName)
  return storeOfOptions(
    config,
    Object.fromEntries(shared.map((name) => [name, config[name] as number | string])),
    (name: keyof StoreOptions) => readText(config[name] as string, sourceOf(config, name), true),
  )
}

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
    value: printed(option, config[option as OptionName]),
    hint,
    cause: error,
  })
}

/** A value as it may be printed. */
function printed(name: string, value: unknown): unknown {
  const print = table.get(name)?.printed
  return print === undefined || typeof value !== 'string' ? value : print(value)
}

/** The configuration as YAML, secrets hidden: what `aedes-cluster check` prints. */
export function showConfig(config: Config): string {
  const shown = Object.entries(config)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => [name, printed(name, value)])
  return stringify(Object.fromEntries(shown))
}
