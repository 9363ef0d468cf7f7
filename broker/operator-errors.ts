// The operator's errors and the exit codes they end with. One line each: field, value, what is wrong, what to
// do. Client errors are reason codes on the wire; a broken invariant of ours is a plain Error, which ends the
// process.
import { inOneLine, shown } from './observe/shown.ts'

/** Exit codes of `aedes-cluster`; the table in broker/README.md is checked against this one. */
export const exitCodes = {
  ok: { code: 0, meaning: 'ended as asked' },
  internal: { code: 1, meaning: 'a bug of ours: the one case with a stack trace' },
  usage: { code: 2, meaning: 'unknown command or option, or a value that is not valid' },
  listen: { code: 3, meaning: 'an address cannot be listened on (port in use, no permission)' },
  store: { code: 4, meaning: 'the store (Redis) cannot be reached or refuses us' },
  programMissing: {
    code: 5,
    meaning: '`up` found no redis-server or valkey-server and could not install one',
  },
  dataInUse: { code: 6, meaning: '`up`: the data folder belongs to a cluster that is running' },
  duplicate: { code: 7, meaning: 'a node of this name is alive in the cluster' },
  format: { code: 8, meaning: 'the data in the store were written by a version with another layout' },
  file: { code: 10, meaning: 'the file that keeps the state of a node without Redis cannot be used' },
  admin: { code: 11, meaning: 'the admin API of a node cannot be reached, or refuses what was asked' },
  interrupted: {
    code: 9,
    meaning: '`import`, `backup` or `restore` was ended by a signal before it was done',
  },
} as const

export type ExitReason = keyof typeof exitCodes

export interface OperatorErrorDetails {
  readonly reason: ExitReason
  /**
   * Where it stands, as the operator wrote it: `--listen`, `AEDES_CLUSTER_LISTEN`, `/etc/node.yaml:3:9
   * listen`.
   */
  readonly field: string
  /** Kept as broker/observe/shown.ts shows it. */
  readonly value: unknown
  /** What to do about it; may name a command to run. */
  readonly hint: string
  readonly cause?: unknown
}

/**
 * An error that the operator can mend, or several that were found at once. `lines` are all that the CLI
 * prints of it.
 */
export class OperatorError extends Error {
  override readonly name = 'OperatorError'
  /** What is wrong, without field and hint. */
  readonly problem: string
  readonly details: OperatorErrorDetails
  /** What else is wrong. */
  readonly others: readonly OperatorError[]

  constructor(problem: string, details: OperatorErrorDetails, others: readonly OperatorError[] = []) {
    const { field, hint, cause } = details
    const value = details.value === undefined ? undefined : shown(details.value)
    const line = inOneLine(`${field}${value === undefined ? '' : `=${value}`}: ${problem}. ${hint}`)
    super([line, ...others.map(({ message }) => message)].join('\n'), { cause })
    this.problem = problem
    this.details = { ...details, value } // an error may be printed whole, by who embeds a node
    this.others = others
  }

  /** Several as one, which ends with the exit code of the first. @throws itself when there is any */
  static throwAll(problems: readonly OperatorError[]): void {
    const [first, ...others] = problems
    if (first !== undefined)
      throw others.length === 0
        ? first
        : new OperatorError(first.problem, first.details, [...first.others, ...others])
  }

  get exitCode(): number {
    return exitCodes[this.details.reason].code
  }

  /** A line for each thing that is wrong. */
  get lines(): string[] {
    return this.message.split('\n')
  }
}
