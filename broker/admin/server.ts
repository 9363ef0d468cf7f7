// The admin endpoint: HTTP, or HTTPS, for probes and Prometheus, on loopback unless told otherwise.
//   /livez    200 while the process serves its event loop
//   /readyz 200 when a client sent here would be served (`readiness` in node.ts says when); otherwise 503
//   and why
//   /metrics  Prometheus' text format
//   /routes which node has subscribers of which filter, as this node knows it; ?limit=N, written in slices
//   /api/v1 the API of whoever operates the cluster (api.ts)
//   Whoever connects is answered or closed: a request has a deadline, and of too many connections the oldest
//   goes.
import { ownFilter, tenantOf } from '../../bridge/index.ts'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { Duplex } from 'node:stream'
import { Door, type DoorEvents } from '../listeners/door.ts'
import { pathOf, queryOf } from '../listeners/request-path.ts'
import type { TlsContexts } from '../listeners/tls-contexts.ts'
import { metricsContentType } from '../observe/metrics.ts'
import { hostCheck } from './hosts.ts'

/** What the head of a request may take, and the answer. A connection has one request. */
const headMs = 5_000
const answerMs = 60_000
const connectionsMax = 64
/**
 * Routes that are shown unless `limit` says how many, and that are written between two looks at the event
 * loop.
 */
const routesShown = 10_000
const routesPerTurn = 500

export interface AdminServer {
  readonly url: string
  /** Reads its certificate again. @throws Error when it is none: then the one before holds */
  renew(): void
  close(): Promise<void>
}

export interface Readiness {
  readonly ready: boolean
  /** One entry per condition: `ok` or what is wrong. */
  readonly checks: Readonly<Record<string, string>>
}

/** What the endpoint asks of its node, or of the process whose workers are nodes. */
export interface AdminSource {
  readiness(): Promise<Readiness>
  /** Prometheus' text format. */
  metricsText(): Promise<string>
  /** `{ node, nodes, routes: […], more }` as text, in pieces; `more`: the limit left some out. */
  routesText(limit: number): AsyncIterable<string | Uint8Array>
  /** Answers what is asked below /api. @param keep gives the answer another minute */
  answer(request: IncomingMessage, response: ServerResponse, keep: () => void): Promise<void>
}

/** In no order; may be iterated over several turns. */
export interface RoutesOfNode {
  readonly node: string
  readonly nodes: readonly string[]
  readonly routes: Iterable<{ readonly filter: string; readonly nodeId: string; readonly kind: number }>
}

const isOfApi = (path: string): boolean => path === '/api' || path.startsWith('/api/')

/** Routes as `AdminSource.routesText` has them, so many at a time that no turn of the event loop is long. */
export async function* routesText(
  { node, nodes, routes }: RoutesOfNode,
  limit: number,
): AsyncGenerator<string> {
  let piece = `{"node":${JSON.stringify(node)},"nodes":${JSON.stringify(nodes)},"routes":[`
  let count = 0
  let more = false
  for (const { filter, nodeId, kind } of routes) {
    if (count === limit) {
      more = true
      break
    }
    const tenant = tenantOf(filter)
    const route = { filter: ownFilter(filter), ...(tenant !== undefined && { tenant }), nodeId, kind }
    piece += `${count++ === 0 ? '' : ','}\n${JSON.stringify(route)}`
    if (count % routesPerTurn !== 0) continue
    yield piece
    piece = ''
    await new Promise(setImmediate)
  }
  yield `${piece}],"more":${more}}\n`
}

/** Writes JSON that comes in pieces, as fast as the client reads. */
async function writePieces(
  response: ServerResponse,
  pieces: AsyncIterable<string | Uint8Array>,
): Promise<void> {
  response.writeHead(200, { 'content-type': 'application/json', 'cache-control': 'no-store' })
  const gone = new AbortController()
  response.once('close', () => gone.abort())
  for await (const piece of pieces) {
    if (!response.write(piece) && !gone.signal.aborted)
      await once(response, 'drain', { signal: gone.signal }).catch(() => undefined)
    if (gone.signal.aborted) return
  }
  response.end()
}

/**
 * @param names what it may be called besides its address and this machine's name
 * @param contexts of https://: certificates are asked for, and who has none is let in all the same (guard.ts)
 * @throws OperatorError (reason `listen`) when the address cannot be had
 */
export async function startAdmin(
  url: URL,
  names: readonly string[],
  node: AdminSource,
  events: DoorEvents,
  contexts?: TlsContexts,
): Promise<AdminServer> {
  const isKnown = hostCheck(url, names)
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const json = (status: number, body: unknown): void => {
      response
        .writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store' })
        .end(JSON.stringify(body) + '\n')
    }
    if (!isKnown(request.headers.host))
      return json(421, { error: 'this is not a name of the admin endpoint; --admin-hosts says more' })
    if (isOfApi(pathOf(request.url)))
      return node.answer(request, response, () => door.extend(request.socket, answerMs))
    if (request.method !== 'GET' && request.method !== 'HEAD') return json(405, { error: 'only GET' })
    switch (pathOf(request.url)) {
      case '/livez':
        return json(200, { live: true })
      case '/readyz': {
        const state = await node.readiness()
        return json(state.ready ? 200 : 503, state)
      }
      case '/metrics':
        response.writeHead(200, { 'content-type': metricsContentType }).end(await node.metricsText())
        return
      case '/routes': {
        const limit = queryOf(request.url).get('limit') ?? String(routesShown)
        return /^\d{1,9}$/.test(limit)
          ? writePieces(response, node.routesText(Number(limit)))
          : json(400, { error: 'limit is a number' })
      }
      default:
        return json(404, { error: 'there are /livez, /readyz, /metrics, /routes and /api/v1' })
    }
  }
  const onRequest: RequestListener = (request, response) => {
    door.extend(request.socket, answerMs)
    response.setHeader('connection', 'close')
    answer(request, response).catch((error: unknown) => {
      events.failed(error as Error)
      if (response.headersSent) response.destroy()
      else response.writeHead(500).end('internal error\n')
    })
  }
  const server =
    contexts === undefined
      ? createServer(onRequest)
      : createTlsServer({ ...contexts.options, handshakeTimeout: headMs }, onRequest)
  server.on('tlsClientError', (_error: Error, socket: Duplex) => socket.destroy())
  const places = { take: () => true, give: () => undefined, exhausted: () => undefined }
  const door = new Door({
    deadlineMs: headMs,
    events,
    places,
    allowHalfOpen: true,
    connectionsMax,
    serve: (socket) => server.emit('connection', socket),
  })
  const bound = await door.open(url, '--admin', contexts === undefined ? 80 : 443, true)
  const renew = (): void => {
    contexts?.read()
    if (contexts !== undefined && 'setSecureContext' in server) server.setSecureContext(contexts.first)
  }
  return { url: bound, renew, close: () => Promise.resolve(door.close()) }
}
