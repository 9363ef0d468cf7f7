// Where the values of options come from: the environment and the rest; how a name is written in each; and
// what is said of one that does not exist. Judges no value: config.ts does.
import { readFileSync } from 'node:fs'
import { OperatorError } from '../operator-errors.ts'

export interface GivenValue {
  /** As it was given; what was given several times, or as a list, is a list. */
  readonly value: unknown
  /** Where, as an error names it. */
  readonly source: string
  /** Where each entry of a list stands. */
  readonly sources?: readonly string[]
}

/** What one source gives, by the names of options. */
export type Layer = ReadonlyMap<string, GivenValue>

export const flagOf = (name: string): string =>
  '--' + name.replaceAll(/[A-Z]/g, (letter) => '-' + letter.toLowerCase())
export const environmentNameOf = (name: string): string =>
  'AEDES_CLUSTER_' + name.replaceAll(/[A-Z]/g, (letter) => '_' + letter).toUpperCase()

/** The known name nearest to `name` by edits, when it is near enough to be a slip of the finger. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  const distance = (a: string, b: string): number => {
    let row = Array.from({ length: b.length + 1 }, (_, i) => i)
    for (let i = 1; i <= a.length; i++) {
      const next = [i]
      for (let j = 1; j <= b.length; j++)
        next[j] = Math.min(next[j - 1]! + 1, row[j]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1))
      row = next
    }
    return row[b.length]!
  }
  const [best] = known
    .map((candidate) => ({ candidate, far: distance(name, candidate) }))
    .sort((a, b) => a.far - b.far)
  return best !== undefined && best.far <= Math.max(2, name.length / 3) ? best.candidate : undefined
}

const soundsSecret = /pass|pw|secret|token|key|cred|auth|user|login|pin|redis/i

/** Whether `field` must be a slip of the finger for an option that is no secret. */
const isSlip = (field: string, near: string | undefined): boolean =>
  near !== undefined &&
  field.replace(/^(--|AEDES_CLUSTER_)/, '').length >= 4 &&
  !soundsSecret.test(field) &&
  !soundsSecret.test(near)

/**
 * The error for an option that does not exist, with the nearest that does.
 * @param value is shown only after a slip of the finger: `--redis-password=…` shows none
 * @param source where it stands, when that is more than its name
 */
export function unknownOption(
  field: string,
  value: unknown,
  known: readonly string[],
  source = field,
): OperatorError {
  const near = nearest(field, known)
  return new OperatorError('is not an option', {
    reason: 'usage',
    field: source,
    value: isSlip(field, near) ? value : undefined,
    hint: near === undefined ? 'See aedes-cluster --help' : `Did you mean ${near}?`,
  })
}

/** A value, or a name, that the operator can mend. */
export const usage = (
  field: string,
  value: unknown,
  problem: string,
  hint: string,
  cause?: unknown,
): OperatorError => new OperatorError(problem, { reason: 'usage', field, value, hint, cause })

/** @throws OperatorError */
export function readText(file: string, field: string, secret = false): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    const { code = 'error' } = error as NodeJS.ErrnoException
    throw usage(
      field,
      secret ? '***' : file,
      `cannot be read (${code})`,
      code === 'EACCES'
        ? 'Let the user of the node read it: chmod 640 and a group that both are in'
        : 'Name a file that exists and is readable',
    )
  }
}

/**
 * What Kubernetes puts into the environment of every container for a service whose name begins with
 * `aedes-cluster`.
 */
const isOfService = (variable: string, value: string): boolean =>
  /_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$/.test(variable) ||
  (/_PORT$/.test(variable) && /^(tcp|udp|sctp):\/\//.test(value))

export function fromEnvironment(
  environment: NodeJS.ProcessEnv,
  options: readonly string[],
  problems: OperatorError[],
): Layer {
  const names = new Map(options.map((name) => [environmentNameOf(name), name]))
  const known = [...names.keys(), 'AEDES_CLUSTER_CONFIG']
  const layer = new Map<string, GivenValue>()
  for (const [variable, value] of Object.entries(environment)) {
    if (value === undefined || !/^aedes/i.test(variable) || variable === 'AEDES_CLUSTER_CONFIG') continue
    const name = names.get(variable)
    if (name !== undefined) layer.set(name, { value, source: variable })
    else if (
      /^AEDES_?CLUSTER/i.test(variable)
        ? !isOfService(variable, value)
        : nearest(variable, known) !== undefined
    ) {
      problems.push(unknownOption(/^\w{1,80}$/.test(variable) ? variable : 'AEDES_CLUSTER_…', value, known))
    }
  }
  return layer
}

/** One text of a list may hold several, with commas in between. */
export function listOf({ value, source, sources }: GivenValue): GivenValue {
  const entries = (Array.isArray(value) ? (value as unknown[]) : [value]).flatMap((entry, i) =>
    (typeof entry === 'string' ? entry.split(',').map((part) => part.trim()) : [entry]).map((part) => ({
      part,
      source: sources?.[i] ?? source,
    })),
  )
  return { value: entries.map(({ part }) => part), source, sources: entries.map((entry) => entry.source) }
}
