// The admin API in JSON Schema: what each request takes and each answer has. fastify checks requests by it and writes
// answers by it, and the OpenAPI document is made of it. No state.

import { traceSteps } from '../observe/traces.ts'

const text = { type: 'string' } as const
const count = { type: 'integer', minimum: 0 } as const
const seconds = { type: 'integer', description: 'seconds' } as const
const yes = { type: 'boolean' } as const
const list = <T extends object>(items: T, description?: string) => ({
  type: 'array' as const,
  items,
  ...(description !== undefined && { description }),
})
const of = (properties: Readonly<Record<string, object>>, optional: readonly string[] = []) => ({
  type: 'object' as const,
  properties,
  required: Object.keys(properties).filter((name) => !optional.includes(name)),
})

const limit = { type: 'integer', minimum: 1, maximum: 1_000, default: 100, description: 'how many at most' }
const cursor = { ...text, maxLength: 1_000, description: '`next` of the page before' }
const next = { ...text, description: 'where the next page begins; missing on the last one' }
const name = { ...text, minLength: 1, maxLength: 8_192 }

/** Of each request. */
export const tenant = {
  ...text,
  description:
    'where tenants are on: whose the names in the request are; lists without it are of all tenants, as top, queues and findings are with it',
}

const unanswered = list(
  of({ node: text, problem: text }),
  'nodes that did not answer in time, or could not, and why: what they know is missing',
)

export const failure = of({ error: text, hint: { ...text, description: 'what to do' } })

const connection = {
  node: text,
  clientId: text,
  tenant: { ...text, description: 'where tenants are on: its tenant' },
  user: { ...text, description: 'who it proved to be; missing: nobody knows' },
  address: text,
  listener: { ...text, description: 'by which it came' },
  protocolLevel: { type: 'integer', description: '3, 4 (3.1.1) or 5' },
  connectedSeconds: seconds,
  isLasting: { ...yes, description: 'its session outlives the connection' },
  isSlow: { ...yes, description: 'it reads slower than it is sent to' },
  unhandledBytes: { ...count, description: 'that came of it and are not handled' },
  waitingBytes: { ...count, description: 'that wait for it' },
}

const group = of(
  {
    group: text,
    members: list(of({ nodeId: text, count })),
    hasBacklog: yes,
    backlog: of({ messages: count, bytes: count }),
  },
  ['backlog'],
)

const rate = { type: 'number', minimum: 0 } as const

const busy = of({
  name: text,
  messagesPerSecond: rate,
  bytesPerSecond: rate,
  morePerSecond: { ...rate, description: 'so many of the messages may be of others: it is counted roughly' },
})

const ban = of(
  { kind: { ...text, enum: ['client', 'user', 'network'] }, name: text, reason: text, secondsLeft: seconds },
  ['secondsLeft'],
)

const qos = { type: 'integer', enum: [0, 1, 2] }

const retainedMessage = of(
  {
    topic: text,
    qos,
    payload: text,
    encoding: { ...text, enum: ['utf8', 'base64'], description: 'of the payload' },
    properties: { ...text, description: 'PUBLISH properties of MQTT 5, base64' },
    expiresInSeconds: { ...count, maximum: 0xffffffff, description: 'seconds' },
  },
  ['properties', 'expiresInSeconds'],
)

/** Each route by its name: where it is, below /api/v1, what it takes and gives. GET sees, all others act. */
export const schemas = {
  nodes: {
    at: 'GET /nodes',
    summary: 'The nodes of the cluster',
    response: of({
      nodes: list(
        of({
          node: text,
          boot: { ...text, description: 'name and boot of the node' },
          version: text,
          uptimeSeconds: seconds,
          isReady: yes,
          isDrained: { ...yes, description: 'it was drained, and no client is left' },
          checks: { type: 'object', additionalProperties: text },
          listen: list(text),
          connections: count,
          memoryBytes: count,
          loopUtilization: { type: 'number', description: 'how busy its event loop is, 0 to 1' },
        }),
      ),
      unanswered,
    }),
  },
  clients: {
    at: 'GET /clients',
    summary: 'Clients of the whole cluster, a page at a time; a page may be short and have a next one',
    querystring: of(
      {
        limit,
        cursor,
        client: { ...name, description: 'Client Identifier; * at the end is any rest' },
        user: { ...name, description: 'user; * at the end is any rest' },
        address: { ...name, description: 'address or network' },
        node: { ...name, description: 'name of a node' },
        state: { ...text, enum: ['connected', 'disconnected'] },
      },
      ['limit', 'cursor', 'client', 'user', 'address', 'node', 'state'],
    ),
    response: of(
      {
        clients: list(
          of(
            { ...connection, isConnected: yes },
            Object.keys(connection).filter((key) => key !== 'clientId'),
          ),
        ),
        next,
        unanswered,
      },
      ['next'],
    ),
  },
  client: {
    at: 'GET /clients/:clientId',
    summary: 'One client: connection, session, last disconnect',
    params: of({ clientId: name }),
    response: of(
      {
        clientId: text,
        connection: of({ ...connection, inFlight: count }, ['user', 'listener']),
        session: of(
          {
            clientId: text,
            nodeId: { ...text, description: 'who owns it; missing: nobody is connected' },
            expirySeconds: { ...seconds, description: 'how long it outlives its connection; -1: for ever' },
            endsInSeconds: seconds,
            subscriptions: list(
              of(
                { filter: text, qos, noLocal: yes, retainAsPublished: yes, identifier: { type: 'integer' } },
                ['identifier'],
              ),
              'a hundred of them at most',
            ),
            subscriptionCount: count,
            queue: of(
              {
                messages: count,
                bytes: count,
                head: of({ topic: text, qos, payloadBytes: count, from: text }, ['from']),
              },
              ['head'],
            ),
            inFlight: count,
            incoming: { ...count, description: 'QoS 2 between PUBLISH and PUBREL' },
          },
          ['nodeId', 'endsInSeconds'],
        ),
        lastDisconnect: of({
          node: text,
          reason: text,
          address: text,
          secondsAgo: seconds,
          connectedSeconds: seconds,
        }),
        unanswered,
      },
      ['connection', 'session', 'lastDisconnect'],
    ),
  },
  drain: {
    at: 'POST /nodes/:node/drain',
    summary:
      'A node takes no connections any more, and tells its clients to go; it is stopped when none is left',
    params: of({ node: name }),
    body: of({ clientsPerSecond: { type: 'integer', minimum: 1, maximum: 1_000_000 } }, ['clientsPerSecond']),
    response: of({ clients: { ...count, description: 'that are told to go' }, unanswered }),
  },
  reload: {
    at: 'POST /reload',
    summary:
      'Nodes read their options, users, rules, certificates and admin tokens again, as by SIGHUP: all of them, or one',
    querystring: of({ node: { ...name, description: 'name of a node' } }, ['node']),
    response: of({
      nodes: list(
        of({
          node: text,
          options: list(text, 'that hold as they are now'),
          later: list(text, 'options that are others by now and hold from the next start'),
          problems: list(text, 'what is not in order: of it holds what was read before'),
        }),
      ),
      unanswered,
    }),
  },
  disconnect: {
    at: 'POST /clients/:clientId/disconnect',
    summary: 'Ends the connection of a client (0x98); its session stays',
    params: of({ clientId: name }),
    response: of({ nodes: list(text, 'where it was connected'), unanswered }),
  },
  endSession: {
    at: 'DELETE /clients/:clientId/session',
    summary:
      'Ends the session of a client, with its queue and subscriptions; who is connected is told to go (0x98)',
    params: of({ clientId: name }),
    response: of({ nodes: list(text, 'where it was connected'), unanswered }),
  },
  subscribers: {
    at: 'GET /subscribers',
    summary: 'Who would get a message of this topic',
    querystring: of({ topic: name }),
    response: of({
      topic: text,
      live: list(
        of({ node: text, clientId: text, qos }, ['clientId']),
        'connections that get it as it comes; without a clientId: the program that embeds the node',
      ),
      sessions: list(
        of({ clientId: text, qos }),
        'sessions that it is queued for; at QoS 0 it comes to those that are connected',
      ),
      groups: list(group, 'of each of them one member gets it'),
      isCut: { ...yes, description: 'there are more than are named' },
      unanswered,
    }),
  },
  groups: {
    at: 'GET /groups',
    summary: 'Shared Subscriptions: members by node, backlog',
    querystring: of({ limit }, ['limit']),
    response: of({ groups: list(group), isCut: yes }),
  },
  retained: {
    at: 'GET /retained',
    summary: 'Retained Messages whose topics a filter matches, a page at a time',
    querystring: of(
      {
        filter: { ...name, default: '#' },
        limit,
        cursor: { ...count, description: '`next` of the page before' },
      },
      ['filter', 'limit', 'cursor'],
    ),
    response: of({ messages: list(retainedMessage), next: count }, ['next']),
  },
  retain: {
    at: 'PUT /retained',
    summary: 'Retains a message, as a PUBLISH with RETAIN 1 does: subscribers get it',
    body: { ...retainedMessage, required: ['topic', 'payload'] },
    response: of({ topic: text }),
  },
  clearRetained: {
    at: 'DELETE /retained',
    summary: 'Clears the Retained Message of a topic',
    querystring: of({ topic: name }),
    response: of({ topic: text }),
  },
  bans: { at: 'GET /bans', summary: 'Who may not connect', response: of({ bans: list(ban) }) },
  ban: {
    at: 'POST /bans',
    summary: 'Bans a Client Identifier, a user or a network in the whole cluster',
    body: of(
      {
        kind: { ...text, enum: ['client', 'user', 'network'] },
        name,
        reason: { ...text, maxLength: 1_024 },
        seconds: { type: 'integer', minimum: 1, maximum: 315_360_000 },
      },
      ['reason', 'seconds'],
    ),
    response: of({ kind: text, name: text }),
  },
  unban: {
    at: 'DELETE /bans',
    summary: 'Lifts a ban',
    querystring: of({ kind: { ...text, enum: ['client', 'user', 'network'] }, name }),
    response: of({ kind: text, name: text }),
  },
  store: {
    at: 'GET /store',
    summary: 'What keeps sessions and messages, as this node sees it',
    response: of(
      {
        store: text,
        isStoring: yes,
        problem: text,
        waiting: of({
          publishers: count,
          connects: count,
          writes: count,
          wills: count,
          seconds: { type: 'number' },
        }),
      },
      ['problem'],
    ),
  },
  publish: {
    at: 'POST /publish',
    summary: 'Publishes a message; answered when it is stored for everybody who is subscribed',
    body: {
      ...of({
        topic: name,
        payload: { ...text, default: '' },
        encoding: { ...text, enum: ['utf8', 'base64'], default: 'utf8' },
        qos: { ...qos, default: 0 },
        retain: { ...yes, default: false },
      }),
      required: ['topic'],
    },
    response: of({ topic: text }),
  },
  messages: {
    at: 'GET /messages',
    summary:
      'Messages that a filter matches, as they are published, one in a line (NDJSON), until you hang up',
    querystring: of({ filter: name }),
    response: of({ topic: text, qos, retain: yes, payload: text, encoding: text }),
  },
  top: {
    at: 'GET /top',
    summary: 'Rates of the nodes, and the busiest topics and clients of some seconds, counted while you wait',
    querystring: of(
      {
        seconds: {
          type: 'number',
          minimum: 0.1,
          maximum: 10,
          default: 2,
          description: 'how long is counted',
        },
        limit: { ...limit, maximum: 100, default: 20 },
      },
      ['seconds', 'limit'],
    ),
    response: of({
      nodes: list(
        of({
          node: text,
          receivedPerSecond: { ...rate, description: 'PUBLISH packets of clients' },
          receivedBytesPerSecond: rate,
          sentPerSecond: { ...rate, description: 'PUBLISH packets to clients' },
          sentBytesPerSecond: rate,
        }),
      ),
      topics: list(busy, 'by what is published to them'),
      publishers: list(busy, 'clients, by what they publish'),
      receivers: list(busy, 'clients, by what they are sent'),
      slow: list(
        of(connection, ['user', 'listener']),
        'clients that have not read what they were sent; those for whom most waits first',
      ),
      unanswered,
    }),
  },
  queues: {
    at: 'GET /queues',
    summary: 'Sessions for which most messages wait, of the first 20,000 sessions',
    querystring: of({ limit: { ...limit, default: 20 } }, ['limit']),
    response: of({
      queues: list(
        of({
          clientId: text,
          isOwned: { ...yes, description: 'somebody is connected' },
          messages: count,
          bytes: count,
        }),
      ),
      lookedAt: { ...count, description: 'sessions' },
      isCut: { ...yes, description: 'there are more sessions' },
    }),
  },
  trace: {
    at: 'GET /trace',
    summary:
      'What becomes of the messages of a client or of topics, step by step on all nodes, one step in a line (NDJSON), until you hang up',
    querystring: of(
      {
        client: {
          ...name,
          description: 'Client Identifier: its connection, what it publishes, what it is to get',
        },
        topic: { ...name, description: 'a filter: all steps of the messages that it matches' },
        payload: { ...yes, default: false, description: 'with the first 256 bytes of payloads' },
        seconds: { type: 'integer', minimum: 1, maximum: 3_600, default: 600, description: 'when it ends' },
      },
      ['client', 'topic', 'payload', 'seconds'],
    ),
    response: {
      ...of(
        {
          node: { ...text, description: 'where it happened' },
          time: { ...text, description: "by that node's clock" },
          step: { ...text, enum: Object.keys(traceSteps) },
          client: { ...text, description: 'whom the step is about: a subscriber, or the traced client' },
          from: { ...text, description: 'who published it, where that is known' },
          topic: text,
          qos,
          why: text,
        },
        ['client', 'from', 'topic', 'qos', 'why'],
      ),
      additionalProperties: true,
    },
  },
  findings: {
    at: 'GET /findings',
    summary: 'What should be otherwise, on any node, and what to do',
    response: of({ findings: list(of({ node: text, what: text, todo: text })), unanswered }),
  },
} as const
