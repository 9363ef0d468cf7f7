// The operator's errors and the exit codes they end with. One line each: field, value, what is wrong, what to do.
// Client errors are reason codes on the wire; a broken invariant of ours is a plain Error, which ends the process.

/** Exit codes of `aedes-cluster`; the table in broker/README.md is checked against this one. */
export const exitCodes = {
  ok: { code: 0, meaning: 'ended as asked' },
  internal: { code: 1, meaning: 'a bug of ours: the one case with a stack trace' },
  usage: { code: 2, meaning: 'unknown command or option, or a value that is not valid' },
  listen: { code: 3, meaning: 'an address cannot be listened on (port in use, no permission)' },
  redis: { code: 4, meaning: 'Redis cannot be reached or refuses us' },
  redisMissing: { code: 5, meaning: '`up` found no redis-server or valkey-server and could not install one' },
  dataInUse: { code: 6, meaning: '`up`: the data folder belongs to a cluster that is running' },
  duplicate: { code: 7, meaning: 'a node of this name is alive in the cluster' },
  format: { code: 8, meaning: 'the data in Redis were written by a version with another layout' },
} as const

export type ExitReason = keyof typeof exitCodes

export interface OperatorErrorDetails {
  readonly reason: ExitReason
  /** The option's path as the operator writes it, for example `--listen` or `tlsCert`. */
  readonly field: string
  readonly value: unknown
  /** What to do about it; may name a command to run. */
  readonly hint: string
  readonly cause?: unknown
}

/** An error that the operator can mend. `oneLine` is all that the CLI prints of it. */
export class OperatorError extends Error {
  override readonly name = 'OperatorError'
  readonly details: OperatorErrorDetails

  constructor(message: string, details: OperatorErrorDetails) {
    super(message, { cause: details.cause })
    this.details = details
  }

  get exitCode(): number {
    return exitCodes[this.details.reason].code
  }

  get oneLine(): string {
    const { field, value, hint } = this.details
    const shown = value === undefined ? '' : `=${typeof value === 'string' ? value : JSON.stringify(value)}`
    return `${field}${shown}: ${this.message}. ${hint}`.replaceAll(/\s*\n\s*/g, ' ')
  }
}
