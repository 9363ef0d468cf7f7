// The admin endpoint: plain HTTP for probes and Prometheus, on loopback unless told otherwise.
//   /livez    200 while the process serves its event loop
//   /readyz   200 when a client sent here would be served: listening, Redis answers, not stopping; otherwise 503 and why
//   /metrics  Prometheus' text format
//   /routes   which node has subscribers of which filter, as this node knows it
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { bind, stopAccepting } from '../listeners/listener.ts'
import type { Metrics } from '../metrics.ts'

export interface AdminServer {
  readonly url: string
  close(): Promise<void>
}

export interface Readiness {
  readonly ready: boolean
  /** One entry per condition: `ok` or what is wrong. */
  readonly checks: Readonly<Record<string, string>>
}

/** What the endpoint asks of its node. */
export interface AdminSource {
  readonly metrics: Metrics
  readiness(): Promise<Readiness>
  metricsText(): Promise<string>
  routes(): unknown
}

/** @throws OperatorError (reason `listen`) when the address cannot be had */
export async function startAdmin(url: URL, node: AdminSource): Promise<AdminServer> {
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const json = (status: number, body: unknown): void => {
      response.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store' }).end(JSON.stringify(body) + '\n')
    }
    if (request.method !== 'GET' && request.method !== 'HEAD') return json(405, { error: 'only GET' })
    switch (new URL(request.url ?? '/', 'http://admin').pathname) {
      case '/livez': return json(200, { live: true })
      case '/readyz': {
        const state = await node.readiness()
        return json(state.ready ? 200 : 503, state)
      }
      case '/metrics':
        response.writeHead(200, { 'content-type': node.metrics.registry.contentType }).end(await node.metricsText())
        return
      case '/routes': return json(200, node.routes())
      default: return json(404, { error: 'there are /livez, /readyz, /metrics and /routes' })
    }
  }
  const server = createServer((request, response) => {
    answer(request, response).catch((error: unknown) => response.writeHead(500).end(String(error)))
  })
  const bound = await bind(server, url, '--admin', 80)
  return {
    url: bound,
    close: async () => {
      await stopAccepting(server)
      server.closeAllConnections()
    },
  }
}
