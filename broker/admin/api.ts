// The admin API, /api/v1, over fastify: what an operator sees of the cluster and does in it, described by an OpenAPI
// document that it serves itself. Loaded with the first request, since most nodes are never asked and fastify takes a
// while. Every error is JSON with what to do. State: none; each request is judged by the guard. Bounds: those of the
// admin endpoint (server.ts), the size of a body, and of each page.
import swagger from '@fastify/swagger'
import {
  fastify,
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
} from 'fastify'
import { isUtf8 } from 'node:buffer'
import type { IncomingMessage, ServerResponse } from 'node:http'
import {
  BridgeError,
  isValidFilter,
  ownFilter,
  ownName,
  ownTopic,
  secondsLeft,
  Tenant,
  tenantOf,
  type BanChanges,
  type BanKind,
  type Message,
} from '../../bridge/index.ts'
import { isNetwork } from '../access/networks.ts'
import type { Config } from '../config/config.ts'
import type { ClientsQuery, ClusterView } from './cluster-answers.ts'
import type { TraceWish } from '../observe/traces.ts'
import type { Guard } from './guard.ts'
import type { Bearer, Role } from './tokens.ts'
import { failure, schemas, tenant as tenantSchema } from './api-schemas.ts'
import { enterTenant, jsonOf } from './api-tenants.ts'
import { TraceStream } from './trace-stream.ts'

/** What of the node the API acts on. */
export interface ApiNode {
  readonly view: ClusterView
  readonly guard: Guard
  readonly version: string
  readonly config: Config
  readonly bans: BanChanges
  store(): Promise<object>
  /** @throws Error why it may not be */
  publish(
    topic: string,
    payload: Buffer,
    options: {
      readonly qos: 0 | 1 | 2
      readonly retain: boolean
      readonly properties?: Buffer | undefined
      readonly expirySeconds?: number | undefined
      readonly tenant?: string | undefined
    },
  ): Promise<void>
  /** @returns ends it @throws TypeError when it is no filter */
  subscribe(filter: string, handle: (message: Message) => void, tenant?: string): Promise<() => void>
  /** What was done, for the log. */
  did(by: string, what: string, fields: Readonly<Record<string, unknown>>): void
  failed(error: Error): void
}

/** @param keep gives the answer another minute */
export type Handle = (request: IncomingMessage, response: ServerResponse, keep: () => void) => void

declare module 'fastify' {
  interface FastifyContextConfig {
    role?: Role
  }
  interface FastifyRequest {
    /** Who asks. */
    bearer: Bearer
  }
}

/** An answer that is none. */
class Failure extends Error {
  readonly status: number
  readonly hint: string

  constructor(status: number, error: string, hint: string) {
    super(error)
    this.status = status
    this.hint = hint
  }
}

const document = '/api/v1/openapi.json'
/** Bytes of Retained Messages that a page reads. */
const retainedBytesMax = 1_048_576
/** Topics that a page passes by. */
const cursorMax = 10_000_000

type Schema = (typeof schemas)[keyof typeof schemas]

/** How each request that is being answered gets more time. */
const keeping = new WeakMap<IncomingMessage, () => void>()

interface Route {
  readonly schema: Schema
  readonly handle: (request: FastifyRequest, reply: FastifyReply) => Promise<object>
}

export async function createApi(node: ApiNode): Promise<Handle> {
  const app = fastify({
    logger: false,
    bodyLimit: Math.ceil((node.config.packetBytesMax * 4) / 3) + 65_536,
    routerOptions: { maxParamLength: 16_384 },
    ajv: { customOptions: { removeAdditional: false, coerceTypes: true } },
  })
  // Compiling a serializer for each answer would make the first one wait, and every client of the node with it (P12).
  const areTenantsOn = node.config.tenants === 'on'
  app.setSerializerCompiler(() => (data) => jsonOf(data, areTenantsOn))
  app.removeContentTypeParser('text/plain')
  app.decorateRequest('bearer')
  app.setErrorHandler<FastifyError | Error>((error, _request, reply) => answerError(node, error, reply))
  app.setNotFoundHandler((_request, reply) => {
    void reply
      .code(404)
      .send({ error: 'there is nothing of this name', hint: `${document} says what there is` })
  })
  app.addHook('onRequest', async (request, reply) => {
    const checked = node.guard.check(request.raw, request.routeOptions.config.role ?? 'read')
    if (!('status' in checked)) {
      request.bearer = checked
      return
    }
    if (checked.status === 401) reply.header('www-authenticate', 'Bearer')
    throw new Failure(checked.status, checked.error, checked.hint)
  })
  app.addHook('preHandler', (request, _reply, done) => {
    const path = (request.routeOptions.url ?? '').slice('/api/v1'.length)
    const wrong = enterTenant(request, request.method, path, areTenantsOn)
    done(wrong === undefined ? undefined : new Failure(400, wrong.error, wrong.hint))
  })
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'aedes-cluster admin API',
        version: node.version,
        description: 'What an operator sees of a cluster and does in it. Any node answers for all.',
        license: { name: 'MIT', identifier: 'MIT' },
      },
      servers: [{ url: '/' }],
      components: { securitySchemes: { token: { type: 'http', scheme: 'bearer' } } },
      security: [{ token: [] }],
    },
  })
  for (const route of [...seeing(node), ...acting(node)]) addRoute(app, route)
  app.get(document, { schema: { hide: true } }, () => Promise.resolve(app.swagger()))
  await app.ready()
  return (request, response, keep) => {
    keeping.set(request, keep)
    app.routing(request, response)
  }
}

function addRoute(app: FastifyInstance, { schema, handle }: Route): void {
  const { response, at, querystring, ...rest } = { querystring: undefined, ...schema }
  const [method, path] = at.split(' ') as ['GET' | 'POST' | 'PUT' | 'DELETE', string]
  const role: Role = method === 'GET' ? 'read' : 'write'
  app.route({
    method,
    url: `/api/v1${path}`,
    config: { role },
    schema: {
      ...rest,
      querystring: withTenant(querystring),
      operationId: Object.entries(schemas).find(([, one]) => one === schema)![0],
      tags: [role === 'read' ? 'see' : 'act'],
      response: { 200: { description: 'done', ...response }, '4xx': problem, '5xx': problem },
    },
    handler: async (request, reply) => {
      reply.header('cache-control', 'no-store')
      return handle(request, reply)
    },
  })
}

/** Each route takes it. */
const withTenant = (
  querystring: { readonly properties: object; readonly required: string[] } | undefined,
): object => ({
  type: 'object',
  ...querystring,
  properties: { ...querystring?.properties, tenant: tenantSchema },
})

const problem = { description: 'what is wrong, and what to do', ...failure }

function answerError(node: ApiNode, error: FastifyError | Error, reply: FastifyReply): void {
  const [status, hint] =
    error instanceof Failure
      ? [error.status, error.hint]
      : error instanceof BridgeError
        ? [503, error.remedy === '' ? 'Ask again in a moment' : error.remedy]
        : 'statusCode' in error && error.statusCode !== undefined && error.statusCode < 500
          ? [error.statusCode, `${document} says what it takes`]
          : [500, 'This is a bug: please report it']
  if (status === 500) node.failed(error)
  void reply.code(status).send({ error: error.message, hint })
}

/** What a request of a route has, as its schema has checked it. */
const queryOf = <T>(request: FastifyRequest): T => request.query as T
const bodyOf = <T>(request: FastifyRequest): T => request.body as T
const clientOf = (request: FastifyRequest): string => (request.params as { clientId: string }).clientId

/** Which names are of the tenant that is asked for; all, where none is. */
const isOf = (request: FastifyRequest): ((of: { readonly name: string }) => boolean) => {
  const { tenant } = queryOf<{ tenant?: string }>(request)
  return ({ name }) => tenant === undefined || tenantOf(name) === tenant
}

const noNode = new Failure(404, 'there is no node of this name', 'GET /api/v1/nodes lists them')
const noCursor = new Failure(400, 'the cursor is none', 'Take `next` of the page before, or leave it out')

function seeing(node: ApiNode): Route[] {
  const { view } = node
  const traces = new Set<TraceStream>()
  const get = (schema: Schema, handle: Route['handle']): Route => ({ schema, handle })
  return [
    get(schemas.nodes, () => view.nodes()),
    get(schemas.clients, async (request) => {
      const query = queryOf<ClientsQuery>(request)
      if (query.address !== undefined && !isNetwork(query.address))
        throw new Failure(400, 'address is no address or network', 'Write 192.0.2.7, 10.0.0.0/8 or fd00::/8')
      const page = await view.clients(query)
      if (page === undefined) throw noCursor
      return page
    }),
    get(schemas.client, async (request) => {
      const client = await view.client(clientOf(request))
      if (client === undefined)
        throw new Failure(
          404,
          'no node and no session knows this client',
          'List them: GET /api/v1/clients?client=BEGIN*',
        )
      return client
    }),
    get(schemas.subscribers, (request) => view.subscribers(queryOf<{ topic: string }>(request).topic)),
    get(schemas.groups, async (request) => groupsOf(view, queryOf(request))),
    get(schemas.retained, (request) => retainedPage(view, queryOf(request))),
    get(schemas.bans, async (request) => ({
      bans: (await node.bans.list())
        .filter(isOf(request))
        .map(({ kind, name, reason, endsAt }) => ({
          kind,
          name,
          reason,
          ...(endsAt !== Infinity && { secondsLeft: Math.ceil((endsAt - performance.now()) / 1_000) }),
        })),
    })),
    get(schemas.store, () => node.store()),
    get(schemas.messages, (request, reply) => stream(node, request, reply)),
    get(schemas.top, (request) => {
      const { seconds, limit } = queryOf<{ seconds: number; limit: number }>(request)
      keeping.get(request.raw)?.()
      return view.top(seconds, limit)
    }),
    get(schemas.queues, (request) => view.queues(queryOf<{ limit: number }>(request).limit)),
    get(schemas.trace, (request, reply) => traced(node, traces, request, reply)),
    get(schemas.findings, () => view.findings()),
  ]
}

function acting(node: ApiNode): Route[] {
  const act = (schema: Schema, handle: (request: FastifyRequest, by: string) => Promise<object>): Route => ({
    schema,
    handle: (request) => handle(request, request.bearer.name),
  })
  return [
    act(schemas.drain, async (request, by) => {
      const { clientsPerSecond } = bodyOf<{ clientsPerSecond?: number }>(request)
      const name = (request.params as { node: string }).node
      const done = await node.view.drain(name, clientsPerSecond, by)
      if (done === undefined) throw noNode
      return done
    }),
    act(schemas.reload, async (request, by) => {
      const done = await node.view.reload(by, queryOf<{ node?: string }>(request).node)
      if (done === undefined) throw noNode
      return done
    }),
    act(schemas.disconnect, async (request, by) => {
      const clientId = clientOf(request)
      const done = await node.view.disconnect(clientId, by)
      node.did(by, 'a client is disconnected', { clientId, nodes: done.nodes })
      return done
    }),
    act(schemas.endSession, async (request, by) => {
      const clientId = clientOf(request)
      const done = await node.view.endSession(clientId, by)
      if (done === undefined)
        throw new Failure(404, 'this client has no session', 'List them: GET /api/v1/clients?client=BEGIN*')
      node.did(by, 'the session of a client is ended', { clientId, nodes: done.nodes })
      return done
    }),
    act(schemas.publish, async (request, by) => {
      const message = bodyOf<RetainedBody & { retain: boolean }>(request)
      return published(node, by, message, message.retain)
    }),
    act(schemas.retain, (request, by) => published(node, by, bodyOf<RetainedBody>(request), true)),
    act(schemas.clearRetained, async (request, by) => {
      const { topic } = queryOf<{ topic: string }>(request)
      return published(node, by, { topic, payload: '', qos: 1 }, true)
    }),
    act(schemas.ban, async (request, by) => {
      const {
        kind,
        name,
        reason = '',
        seconds,
      } = bodyOf<{ kind: BanKind; name: string; reason?: string; seconds?: number }>(request)
      if (kind === 'network' && !isNetwork(ownName(name)))
        throw new Failure(400, 'name is no address or network', 'Write 192.0.2.7, 10.0.0.0/8 or fd00::/8')
      if (!(await node.bans.add(kind, name, reason, seconds)))
        throw new Failure(409, 'there are as many bans as there may be', 'Lift some: DELETE /api/v1/bans')
      node.did(by, 'banned', { kind, whom: name, reason, seconds })
      return { kind, name }
    }),
    act(schemas.unban, async (request, by) => {
      const { kind, name } = queryOf<{ kind: BanKind; name: string }>(request)
      if (!(await node.bans.remove(kind, name)))
        throw new Failure(404, 'there is no such ban', 'GET /api/v1/bans lists them')
      node.did(by, 'a ban is lifted', { kind, whom: name })
      return { kind, name }
    }),
  ]
}

/** What waits for who reads a stream: beyond it messages are left out, and counted. */
const streamBytesMax = 1_048_576
const aliveMs = 15_000

/** One line, also for readers that take these two separators of JavaScript for ends of lines, as Node 24 does. */
const asLine = (message: object): string =>
  jsonOf(message, true).replaceAll('\u2028', '\\u2028').replaceAll('\u2029', '\\u2029')

/** Lines for who reads a stream; those that find no room are counted, and told as `name`. */
function linesTo({ raw: response }: FastifyReply, name: string): (line: object) => void {
  let left = 0
  return (line) => {
    if (response.writableEnded) return
    if (response.writableLength > streamBytesMax) return void left++
    if (left > 0) response.write(`${JSON.stringify({ [name]: left })}\n`)
    left = 0
    response.write(`${asLine(line)}\n`)
  }
}

const noFilter = '# is the last level, + a whole one'

async function stream(node: ApiNode, request: FastifyRequest, reply: FastifyReply): Promise<object> {
  const { filter } = queryOf<{ filter: string }>(request)
  const write = linesTo(reply, 'dropped')
  const end = await node
    .subscribe(
      ownFilter(filter),
      ({ topic, qos, retain, payload }) => write({ topic, qos, retain, ...payloadFacts(payload) }),
      tenantOf(filter),
    )
    .catch((error: unknown) => {
      throw new Failure(400, (error as Error).message, noFilter)
    })
  return hijacked(request, reply, end)
}

/** As many as one node follows. */
const tracesMax = 4

async function traced(
  node: ApiNode,
  traces: Set<TraceStream>,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<object> {
  const { client, topic, payload, seconds } = queryOf<{ seconds: number } & TraceWish>(request)
  if (client === undefined && topic === undefined)
    throw new Failure(400, 'neither a client nor topics', 'Name a client, a filter of topics, or both')
  if (topic !== undefined && !isValidFilter(ownFilter(topic)))
    throw new Failure(400, 'topic is no filter', noFilter)
  void node.view.plane // throws while there is nobody to ask
  if (traces.size >= tracesMax)
    throw new Failure(429, `${tracesMax} traces are followed here already`, 'End one of them first')
  const write = linesTo(reply, 'leftOut')
  const trace = new TraceStream(node.view, { client, topic, payload }, write)
  traces.add(trace)
  node.did(request.bearer.name, 'a trace begins', { client, topic, payload, seconds })
  const overIn = setTimeout(() => {
    trace.end() // `close` comes when all is read, which may be never
    write({ over: `after ${seconds} s` })
    reply.raw.end()
  }, 1_000 * seconds).unref()
  const hijacking = hijacked(request, reply, () => {
    clearTimeout(overIn)
    traces.delete(trace)
    trace.end()
  })
  await trace.begin()
  return hijacking
}

/** The reply goes on until the client hangs up. */
function hijacked(request: FastifyRequest, reply: FastifyReply, end: () => void): object {
  const response = reply.raw
  reply.hijack()
  response.on('error', () => undefined) // `close` follows
  const alive = setInterval(() => {
    keeping.get(request.raw)?.()
    if (response.writableLength === 0 && !response.writableEnded) response.write('\n')
  }, aliveMs)
  response.once('close', () => {
    clearInterval(alive)
    end()
  })
  if (response.destroyed)
    response.emit('close') // it hung up meanwhile
  else
    response
      .writeHead(200, { 'content-type': 'application/x-ndjson', 'cache-control': 'no-store' })
      .write('\n')
  return reply
}

interface RetainedBody {
  readonly topic: string
  readonly payload: string
  readonly encoding?: 'utf8' | 'base64'
  readonly qos?: 0 | 1 | 2
  readonly properties?: string
  readonly expiresInSeconds?: number
}

async function published(
  node: ApiNode,
  by: string,
  { topic, payload, encoding = 'utf8', qos = 1, properties, expiresInSeconds }: RetainedBody,
  retain: boolean,
): Promise<object> {
  try {
    await node.publish(ownTopic(topic), Buffer.from(payload, encoding), {
      tenant: tenantOf(topic),
      qos,
      retain,
      properties: properties === undefined ? undefined : Buffer.from(properties, 'base64'),
      expirySeconds: expiresInSeconds,
    })
  } catch (error) {
    if (error instanceof BridgeError) throw error
    throw new Failure(400, (error as Error).message, 'Mend it and publish it again')
  }
  node.did(by, retain ? 'published a Retained Message' : 'published', { topic })
  return { topic }
}

function groupsOf(view: ClusterView, { limit, tenant }: { limit: number; tenant?: string }): object {
  const groups: object[] = []
  for (const group of view.plane.inspection.groups()) {
    if (tenant !== undefined && tenantOf(group.group) !== tenant) continue
    if (groups.length === limit) return { groups, isCut: true }
    groups.push(group)
  }
  return { groups, isCut: false }
}

/** Where tenants are on and none is named, those of all of them. */
async function* topicsOf(plane: ClusterView['plane'], filter: string): AsyncGenerator<string, undefined> {
  const some = tenantOf(filter) === undefined ? plane.retainedTenants : []
  for (const each of [filter, ...some.map((tenant) => new Tenant(tenant).topic(filter))]) {
    const matching = await plane.topics(each)
    for (let one = await matching.next(); one.done !== true; one = await matching.next()) yield one.value
  }
}

/** Topics are in no order, but the same while none comes or goes: a page goes on behind so many. */
async function retainedPage(
  { plane }: ClusterView,
  { filter, limit, cursor = 0 }: { filter: string; limit: number; cursor?: number },
): Promise<object> {
  if (!isValidFilter(ownFilter(filter)) || cursor > cursorMax)
    throw new Failure(400, 'filter or cursor is none', '# is the last level, + a whole one')
  const topics: string[] = []
  const matching = topicsOf(plane, filter)
  let passed = 0
  let isMore = false
  for (let one = await matching.next(); one.done !== true; one = await matching.next()) {
    if (passed++ < cursor) continue
    if (topics.length === limit) {
      isMore = true
      break
    }
    topics.push(one.value)
  }
  await matching.return(undefined)
  let read = await plane.retained(topics, retainedBytesMax)
  // the first may be larger than a page
  if (read.messages.length === 0 && read.unread.length > 0)
    read = await plane.retained(read.unread, Math.max(retainedBytesMax, 2 * read.nextBytes))
  const next = cursor + topics.length - read.unread.length
  return {
    messages: read.messages.map(retainedFacts),
    ...((isMore || read.unread.length > 0) && next > cursor && { next }),
  }
}

function payloadFacts(payload: Buffer): { readonly payload: string; readonly encoding: string } {
  const encoding = isUtf8(payload) ? 'utf8' : 'base64'
  return { payload: payload.toString(encoding), encoding }
}

function retainedFacts({ topic, qos, payload, properties, expiresAt, expirySeconds }: Message): object {
  return {
    topic,
    qos,
    ...payloadFacts(payload),
    ...(properties !== undefined && { properties: properties.toString('base64') }),
    ...(expiresAt !== 0 && { expiresInSeconds: secondsLeft(expiresAt, expirySeconds) }),
  }
}
