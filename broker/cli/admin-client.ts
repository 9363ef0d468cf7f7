// The admin API as the commands for operators ask it: one endpoint, of any node, and a token from a file. What goes wrong
// is one line with what to do. No state.
import { once } from 'node:events'
import { request as ask, type IncomingMessage } from 'node:http'
import { request as askByTls } from 'node:https'
import { text } from 'node:stream/consumers'
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
  ca: { shape: 'file', about: 'PEM certificates of the authority of an https:// endpoint' },
  cert: { shape: 'file', about: 'PEM certificate to show, in place of a token' },
  key: { shape: 'file', about: 'its PEM private key' },
  tenant: {
    shape: 'name',
    about: 'where tenants are on: whose the names are that you give, and that you see',
  },
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

function failureOf(body: string): Failure {
  try {
    return JSON.parse(body) as Failure
  } catch {
    return {}
  }
}

/** An answer that says no. */
interface Failure {
  readonly error?: string
  readonly hint?: string
}

export class AdminClient {
  readonly #url: URL
  readonly #token: string | undefined
  readonly #tenant: string | undefined
  /** For https://. */
  readonly #tls: Readonly<Record<'ca' | 'cert' | 'key', string | undefined>>
  readonly isJson: boolean

  /** @throws OperatorError when the address is none, or the file cannot be read */
  constructor({ admin = 'http://127.0.0.1:18083', tokenFile, tenant, json, ...values }: Values) {
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
    const textOf = (name: 'ca' | 'cert' | 'key'): string | undefined =>
      typeof values[name] === 'string' ? readText(values[name], `--${name}`, name === 'key') : undefined
    this.#tls = { ca: textOf('ca'), cert: textOf('cert'), key: textOf('key') }
    this.#tenant = typeof tenant === 'string' ? tenant : undefined
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
    const answer = await this.#begin(method, path, query, body, AbortSignal.timeout(withinMs))
    return JSON.parse(await text(answer)) as T
  }

  /** Lines of JSON that come until the node ends it. @throws OperatorError when it ends, or says no */
  async *lines<T>(
    path: string,
    query: Readonly<Record<string, string | undefined>>,
  ): AsyncGenerator<{ readonly said: T; readonly line: string }> {
    const answer = await this.#begin('GET', path, query)
    try {
      for await (const line of linesOf(answer)) if (line !== '') yield { said: JSON.parse(line) as T, line }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ECONNRESET') throw error // it is gone
    }
    throw this.#error('ended it', 'The node was stopped, or what you read waited too long: begin anew')
  }

  /** The answer, as it comes. @throws OperatorError when it is none, or says no */
  async #begin(
    method: string,
    path: string,
    query: Readonly<Record<string, string | number | undefined>>,
    body?: object,
    signal?: AbortSignal,
  ): Promise<IncomingMessage> {
    const url = new URL(`/api/v1${path}`, this.#url)
    for (const [name, value] of Object.entries({ ...query, tenant: this.#tenant }))
      if (value !== undefined) url.searchParams.set(name, String(value))
    const headers = {
      ...(this.#token !== undefined && { authorization: `Bearer ${this.#token}` }),
      ...(body !== undefined && { 'content-type': 'application/json' }),
    }
    let answer: IncomingMessage
    try {
      const request = (url.protocol === 'https:' ? askByTls : ask)(url, {
        method,
        headers,
        ...this.#tls,
        ...(signal !== undefined && { signal }),
      })
      request.end(body === undefined ? undefined : JSON.stringify(body))
      ;[answer] = (await once(request, 'response')) as [IncomingMessage]
      request.on('error', () => undefined) // of what comes by then the reader hears
    } catch (error) {
      const { code = (error as Error).name } = error as { code?: string }
      throw this.#error(
        `does not answer (${code})`,
        /CERT|SIGN|ALTNAME/.test(code)
          ? 'Name the authority of its certificate with --ca, and the endpoint as its certificate does'
          : 'Name the admin endpoint of a node that runs, with --admin; its log says where it is',
        error,
      )
    }
    const { statusCode = 0 } = answer
    if (statusCode >= 200 && statusCode < 300) return answer
    const { error = `HTTP ${statusCode}`, hint = 'Look at the log of the node' } = failureOf(
      await text(answer),
    )
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

/**
 * Lines of what comes in pieces, ended by LF alone: readline takes U+2028 and U+2029 for ends of lines in some versions
 * of Node.js, and they may stand in a text of JSON.
 */
export async function* linesOf(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const piece of pieces) {
    const lines = (rest + decoder.decode(piece, { stream: true })).split('\n')
    rest = lines.pop()!
    for (const line of lines) yield line.endsWith('\r') ? line.slice(0, -1) : line
  }
  rest += decoder.decode()
  if (rest !== '') yield rest
}

/** @throws OperatorError when it is no number */
export function countOf(value: Values[string], flag: string, preset: number): number {
  if (value === undefined) return preset
  if (typeof value === 'string' && /^\d{1,7}$/.test(value) && Number(value) > 0) return Number(value)
  throw usage(flag, value, 'is not a number', 'Use 1 to 9999999')
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
