// The admin API as the commands for operators ask it: one endpoint, of any node, and a token from a file. What goes wrong
// is one line with what to do. No state.
import { inOneLine } from '../observe/shown.ts'
import { readText, usage } from '../config/sources.ts'
import { OperatorError } from '../operator-errors.ts'
import { parseArguments, type FlagShape } from './arguments.ts'

export interface ShownFlag extends FlagShape {
  readonly shape: string
  readonly about: string
}

/** Flags of every command that asks the API. */
export const adminFlags: Readonly<Record<string, ShownFlag>> = {
  admin: { shape: 'url', about: 'admin endpoint of any node of the cluster [http://127.0.0.1:18083]' },
  tokenFile: { shape: 'file', about: 'file with a token of the API' },
  json: { shape: '', switch: true, about: 'prints what the API says, as JSON' },
}

export type Values = Readonly<Record<string, string | true | string[] | undefined>>

export interface Operation {
  /** What it wants to be told, in this order. */
  readonly words: readonly string[]
  readonly flags: Readonly<Record<string, ShownFlag>>
  readonly about: string
  run(api: AdminClient, words: readonly string[], values: Values): Promise<void>
}

const withinMs = 15_000

/** An answer that says no. */
interface Failure {
  readonly error?: string
  readonly hint?: string
}

export class AdminClient {
  readonly #url: URL
  readonly #token: string | undefined
  readonly isJson: boolean

  /** @throws OperatorError when the address is none, or the file cannot be read */
  constructor({ admin = 'http://127.0.0.1:18083', tokenFile, json }: Values) {
    if (typeof admin !== 'string' || !URL.canParse(admin) || !/^https?:/.test(admin))
      throw usage(
        '--admin',
        admin,
        'is not an address',
        'Write http://host:port, e.g. http://127.0.0.1:18083',
      )
    this.#url = new URL(admin)
    this.#token =
      typeof tokenFile === 'string'
        ? readText(tokenFile, '--token-file').split('\n')[0]!.trim().split(/\s+/).at(-1)
        : undefined
    this.isJson = json === true
  }

  get<T>(path: string, query: Readonly<Record<string, string | number | undefined>> = {}): Promise<T> {
    return this.#asked('GET', path, query, undefined)
  }

  delete<T>(path: string, query: Readonly<Record<string, string>>): Promise<T> {
    return this.#asked('DELETE', path, query, undefined)
  }

  send<T>(method: 'POST' | 'PUT', path: string, body?: object): Promise<T> {
    return this.#asked(method, path, {}, body)
  }

  async #asked<T>(
    method: string,
    path: string,
    query: Readonly<Record<string, string | number | undefined>>,
    body: object | undefined,
  ): Promise<T> {
    const response = await this.begin(method, path, query, body, AbortSignal.timeout(withinMs))
    return (await response.json()) as T
  }

  /** The answer, as it comes. @throws OperatorError when it is none, or says no */
  async begin(
    method: string,
    path: string,
    query: Readonly<Record<string, string | number | undefined>>,
    body?: object,
    signal?: AbortSignal,
  ): Promise<Response> {
    const url = new URL(`/api/v1${path}`, this.#url)
    for (const [name, value] of Object.entries(query))
      if (value !== undefined) url.searchParams.set(name, String(value))
    const headers = {
      ...(this.#token !== undefined && { authorization: `Bearer ${this.#token}` }),
      ...(body !== undefined && { 'content-type': 'application/json' }),
    }
    let response: Response
    try {
      response = await fetch(url, {
        method,
        headers,
        ...(body !== undefined && { body: JSON.stringify(body) }),
        ...(signal !== undefined && { signal }),
      })
    } catch (error) {
      const { cause } = error as { cause?: { code?: string } }
      throw this.#error(
        `does not answer (${cause?.code ?? (error as Error).name})`,
        'Name the admin endpoint of a node that runs, with --admin; its log says where it is',
        error,
      )
    }
    if (response.ok) return response
    const { error = `HTTP ${response.status}`, hint = 'Look at the log of the node' } = (await response
      .json()
      .catch(() => ({}))) as Failure
    throw this.#error(error, hint)
  }

  #error(problem: string, hint: string, cause?: unknown): OperatorError {
    return new OperatorError(problem, {
      reason: 'admin',
      field: '--admin',
      value: this.#url.origin,
      hint,
      cause,
    })
  }
}

/**
 * The words that stand first, and the options behind them.
 * @throws OperatorError all that is wrong
 */
export function operands(
  command: string,
  argv: readonly string[],
  names: readonly string[],
  flags: Readonly<Record<string, FlagShape>>,
): { readonly words: readonly string[]; readonly values: Values } {
  const end = argv.findIndex((word) => word.startsWith('-'))
  const words = end < 0 ? argv : argv.slice(0, end)
  const { values, problems } = parseArguments(argv.slice(words.length), { ...adminFlags, ...flags })
  const wrong =
    words.length === names.length
      ? []
      : [
          usage(
            command,
            undefined,
            words.length < names.length ? `wants ${names.slice(words.length).join(' ')}` : 'is told too much',
            `Write aedes-cluster ${[command, ...names].join(' ')}, and options behind it`,
          ),
        ]
  OperatorError.throwAll([...wrong, ...problems])
  return { words, values }
}

export type Cell = string | number | undefined

/** Lines of columns, each as wide as it needs; text of clients in one line each. */
export function columns(rows: readonly (readonly Cell[])[]): string {
  const texts = rows.map((row) => row.map((cell) => inOneLine(cell === undefined ? '-' : String(cell))))
  const widths = (texts[0] ?? []).map((_, i) => Math.max(...texts.map((row) => row[i]!.length)))
  return texts
    .map(
      (row) =>
        `${row
          .map((cell, i) => cell.padEnd(widths[i]!))
          .join('  ')
          .trimEnd()}\n`,
    )
    .join('')
}

export const print = (text: string): void => void process.stdout.write(text)
export const printJson = (value: unknown): void => print(`${JSON.stringify(value, undefined, 2)}\n`)

export interface Unanswered {
  readonly unanswered?: readonly { readonly node: string; readonly problem: string }[]
}

/** Whose answer is missing, on standard error. */
export function sayUnanswered({ unanswered = [] }: Unanswered): void {
  for (const { node, problem } of unanswered)
    process.stderr.write(`aedes-cluster: node ${node} is missing: ${problem}\n`)
}
