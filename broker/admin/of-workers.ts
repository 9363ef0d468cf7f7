// What the admin endpoint of `node --workers N` answers: it asks the endpoint that each worker has for
// itself, on a loopback port of its own. Ready: a worker is, and none that answers is not, since connections
// go to all of them in turn. Metrics are summed (summed.ts), routes are the first worker's: all know the
// same. State: where the workers are asked. Bounds: a deadline for each answer.
import type { ChildProcess } from 'node:child_process'
import { request as ask, type IncomingMessage, type ServerResponse } from 'node:http'
import { adminTokensOf, type Config } from '../config/config.ts'
import { pathOf, queryOf } from '../listeners/request-path.ts'
import { Guard, isOpenFor } from './guard.ts'
import type { AdminSource, Readiness } from './server.ts'
import { SummedMetrics } from './summed.ts'
import { Tokens } from './tokens.ts'

const answerMs = 3_000

interface Worker {
  readonly name: string
  /** Undefined: it has told none yet. */
  url: string | undefined
}

export class AdminOfWorkers implements AdminSource {
  readonly #guard: Guard
  readonly #config: Config
  readonly #workers = new Map<string, Worker>()
  readonly #metrics = new SummedMetrics()

  /** @throws OperatorError when the file of tokens cannot be read, or is none */
  constructor(config: Config) {
    this.#guard = new Guard(() => isOpenFor(config))
    this.#config = config
    this.readTokens()
  }

  /** @throws OperatorError when the file of tokens cannot be read, or is none: then those before hold */
  readTokens(): void {
    const tokens = adminTokensOf(this.#config)
    this.#guard.tokens = tokens === undefined ? undefined : new Tokens(tokens)
  }

  /** A process of the worker was started: what it tells is heard until it ends. */
  follow(name: string, child: ChildProcess): void {
    const worker: Worker = { name, url: undefined }
    this.#workers.set(name, worker)
    child.on('message', (told) => {
      if (typeof told === 'object' && 'admin' in told && typeof told.admin === 'string')
        worker.url = told.admin
    })
    child.once('exit', () => {
      this.#metrics.ended(worker)
      worker.url = undefined
    })
  }

  async readiness(): Promise<Readiness> {
    const said = await Promise.all([...this.#workers.values()].map(readinessOf))
    return {
      ready: said.some(({ ready }) => ready === true) && !said.some(({ ready }) => ready === false),
      checks: Object.fromEntries(said.map(({ name, text }) => [name, text])),
    }
  }

  async metricsText(): Promise<string> {
    const texts = await Promise.all(
      [...this.#workers.values()].map(
        async (worker) =>
          [worker, worker.url === undefined ? undefined : await asked(worker.url, '/metrics')] as const,
      ),
    )
    for (const [worker, text] of texts) if (text !== undefined) this.#metrics.heard(worker, text)
    return this.#metrics.text(texts.flatMap(([worker, text]) => (text === undefined ? [] : [worker])))
  }

  /** Any worker answers for the whole cluster. Who may ask is judged here: a worker's endpoint is on loopback. */
  async answer(request: IncomingMessage, response: ServerResponse, keep: () => void): Promise<void> {
    const isSeen = request.method === 'GET' || request.method === 'HEAD'
    const checked = this.#guard.check(request, isSeen ? 'read' : 'write')
    if ('status' in checked) return refuse(response, checked.status, checked.error, checked.hint)
    if (pathOf(request.url) === '/api/v1/reload')
      try {
        this.readTokens()
      } catch {
        // those before hold, and a worker says so
      }
    for (const { url } of this.#workers.values())
      if (url !== undefined) return handOn(url, request, response, keep)
    refuse(response, 503, 'no worker runs', 'See the log')
  }

  async *routesText(limit: number): AsyncGenerator<Uint8Array | string> {
    for (const { url } of this.#workers.values()) {
      const answer = url === undefined ? undefined : await begun(url, `/routes?limit=${limit}`)
      if (answer?.body == null) continue
      for await (const piece of answer.body as AsyncIterable<Uint8Array>) yield piece
      return
    }
    yield '{"node":"","nodes":[],"routes":[],"more":false}\n' // no worker runs
  }
}

/** `ready` is undefined when the worker does not run: no connection goes to it. */
async function readinessOf({
  name,
  url,
}: Worker): Promise<{ name: string; ready: boolean | undefined; text: string }> {
  if (url === undefined) return { name, ready: undefined, text: 'does not run' }
  const answer = await asked(url, '/readyz')
  if (answer === undefined)
    return { name, ready: false, text: `does not answer within ${answerMs / 1_000} s` }
  const { ready, checks } = JSON.parse(answer) as Readiness
  const text = Object.entries(checks).map(([check, state]) => `${check}: ${state}`)
  return { name, ready, text: text.join('; ') }
}

function refuse(response: ServerResponse, status: number, error: string, hint: string): void {
  response
    .writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store' })
    .end(JSON.stringify({ error, hint }) + '\n')
}

/** The request goes to a worker, and its answer back. */
function handOn(url: string, request: IncomingMessage, response: ServerResponse, keep: () => void): void {
  const { host: _, ...headers } = request.headers
  const to = new URL(url) // whatever the request line says, to no other host
  to.pathname = pathOf(request.url)
  to.search = queryOf(request.url).toString()
  const asked = ask(to, { method: request.method, headers }, (answer) => {
    response.writeHead(answer.statusCode ?? 502, { ...answer.headers, connection: 'close' })
    answer
      .on('data', keep)
      .on('close', () => {
        if (!answer.complete) response.destroy() // the worker ended in the middle
      })
      .pipe(response)
  })
  asked.on('error', () => {
    if (response.headersSent) response.destroy()
    else refuse(response, 503, 'a worker ended while it answered', 'Ask again')
  })
  response.once('close', () => asked.destroy())
  request.pipe(asked)
}

/** The whole answer. Undefined: it does not come, or not in time. */
async function asked(url: string, path: string): Promise<string | undefined> {
  try {
    return await (await fetch(new URL(path, url), { signal: AbortSignal.timeout(answerMs) })).text()
  } catch {
    return undefined // it ended, or its loop stands
  }
}

/** An answer that may be long: its beginning has a deadline. */
async function begun(url: string, path: string): Promise<Response | undefined> {
  const late = new AbortController()
  const timer = setTimeout(() => late.abort(), answerMs)
  try {
    return await fetch(new URL(path, url), { signal: late.signal })
  } catch {
    return undefined
  } finally {
    clearTimeout(timer)
  }
}
