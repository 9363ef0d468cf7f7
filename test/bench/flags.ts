// The flags of the benchmark: one table gives parsing, defaults and help. A flag that is not there, or a
// value that makes no sense, is one line and exit code 2.
import { patterns, quickPatterns, shapeNames } from './patterns.ts'
import { ofBuild, onNode, systems, type Fsync, type System } from './systems.ts'

export interface Settings {
  readonly systems: readonly string[]
  /** Beside those. */
  readonly further: readonly System[]
  readonly patterns: readonly string[]
  readonly rounds: number
  readonly seconds: number
  readonly warm: number
  readonly payload: number
  readonly fsync: Fsync
  readonly out: string
  /** Short windows that alternate between the first system and each further one, `rounds` of them each. */
  readonly paired: boolean
}

/** The operator's mistake. */
export class UsageError extends Error {}

const flags: Record<string, string> = {
  '--systems a,b': `which systems (all installed that need not be named): ${systems.map(({ name }) => name).join(', ')}`,
  '--nodes NAME=PROGRAM,…': 'two nodes of ours as `ours@NAME`, run by another Node, besides',
  '--builds NAME=FILE,…':
    'two nodes of another build as `ours@NAME`, by its aedes-cluster.js, besides: before and after',
  '--patterns a,b': 'which patterns (all); see below',
  '--rounds N': 'how often each is run, systems alternating (3)',
  '--seconds N': 'length of the measured window (3)',
  '--warm N': 'seconds before it (1)',
  '--payload N': 'bytes of payload, at least 16 (64)',
  '--fsync WHEN': "Redis' appendfsync: everysec or always (everysec)",
  '--out FOLDER': 'where bench.json and bench.md go (./bench-results)',
  '--quick': `1 round of 1 second of ${quickPatterns.join(', ')}`,
  '--paired':
    'the first of --systems against each of --builds, in windows of 250 ms that alternate, --rounds of each: what differs by a few per cent shows on a shared machine, too',
  '--shapes': 'the shapes of fleets, by the names of the public suites: many connections, few messages each',
  '--help': 'this text',
}

export function helpText(): string {
  const rows = (entries: readonly (readonly [string, string])[]): string =>
    entries.map(([name, about]) => `  ${name.padEnd(30)}${about}`).join('\n')
  return [
    'npm run bench -- [flags]',
    '',
    rows(Object.entries(flags)),
    '',
    'Systems',
    rows(systems.map(({ name, about }) => [name, about])),
    '',
    'Patterns (those across nodes only for systems of two nodes)',
    rows(patterns.map(({ name, about }) => [name, about])),
    '',
  ].join('\n')
}

const number =
  (min: number, max: number) =>
  (value: string, flag: string): number => {
    const parsed = Number(value)
    if (value === '' || !(parsed >= min && parsed <= max))
      throw new UsageError(`${flag} ${value}: is not a number from ${min} to ${max}`)
    return parsed
  }

const integer =
  (min: number, max: number) =>
  (value: string, flag: string): number => {
    const parsed = number(min, max)(value, flag)
    if (!Number.isInteger(parsed)) throw new UsageError(`${flag} ${value}: is not a whole number`)
    return parsed
  }

const oneOf =
  (known: readonly string[]) =>
  (value: string, flag: string): string => {
    if (!known.includes(value)) throw new UsageError(`${flag} ${value}: is not one of ${known.join(', ')}`)
    return value
  }

const list =
  (known: readonly string[]) =>
  (value: string, flag: string): string[] => {
    const names = value
      .split(',')
      .map((name) => name.trim())
      .filter((name) => name !== '')
    if (names.length === 0) throw new UsageError(`${flag}: names nothing`)
    for (const name of names) oneOf(known)(name, flag)
    return known.filter((name) => names.includes(name))
  }

const named =
  (make: (name: string, file: string) => System, what: string) =>
  (value: string, flag: string): System[] =>
    value.split(',').map((one) => {
      const [name, file] = one.split(/=(.*)/s)
      if (file === undefined || file === '') throw new UsageError(`${flag} ${one}: is not NAME=${what}`)
      return make(name!, file)
    })

const systemNames = systems.map(({ name }) => name)
const patternNames = patterns.map(({ name }) => name)
const parsers: Record<string, (value: string, flag: string) => unknown> = {
  systems: list(systemNames),
  nodes: named(onNode, 'PROGRAM'),
  builds: named(ofBuild, 'FILE'),
  patterns: list(patternNames),
  rounds: integer(1, 1_000),
  seconds: number(0.2, 600),
  warm: number(0, 600),
  payload: integer(16, 65_536),
  fsync: oneOf(['everysec', 'always']),
  out: (value) => value,
}

/**
 * `help` when the text is wanted.
 * @throws UsageError with one line that says what is wrong
 */
export function parseFlags(argv: readonly string[]): Settings | 'help' {
  const given: Record<string, unknown> = {}
  let quick = false
  for (let i = 0; i < argv.length; i++) {
    const [flag, inline] = argv[i]!.split(/=(.*)/s) as [string, string?]
    if (flag === '--help' || flag === '-h') return 'help'
    if (flag === '--shapes') {
      given['patterns'] ??= shapeNames
      continue
    }
    if (flag === '--paired') {
      given['paired'] = true
      continue
    }
    if (flag === '--quick') {
      quick = true
      continue
    }
    const name = flag.slice(2)
    if (!flag.startsWith('--') || !Object.hasOwn(parsers, name))
      throw new UsageError(`${flag}: is not a flag; see --help`)
    const value = inline ?? argv[++i]
    if (value === undefined) throw new UsageError(`${flag}: needs a value`)
    const parsed = parsers[name]!(value, flag)
    if (name === 'nodes' || name === 'builds')
      given['further'] = [...((given['further'] as System[] | undefined) ?? []), ...(parsed as System[])]
    else given[name] = parsed
  }
  const usual = {
    systems: systems.filter(({ byName }) => byName === undefined).map(({ name }) => name),
    further: [],
    paired: false,
    patterns: patternNames,
    rounds: 3,
    seconds: 3,
    warm: 1,
    payload: 64,
    fsync: 'everysec',
    out: 'bench-results',
  }
  return { ...usual, ...(quick && { patterns: quickPatterns, rounds: 1, seconds: 1 }), ...given } as Settings
}
