// The admin API and the commands that ask it, on a cluster of two nodes: what is seen and done at one node is seen and done
// in the whole cluster, by whoever has a token for it.
import { Validator } from '@seriousme/openapi-schema-validator'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { isOpenFor } from '../../broker/admin/guard.ts'
import { ClusterView } from '../../broker/admin/cluster-answers.ts'
import { askNodes } from '../../broker/admin/questions.ts'
import { TraceStream } from '../../broker/admin/trace-stream.ts'
import type { AdminClient } from '../../broker/cli/admin-client.ts'
import { operate, operations } from '../../broker/cli/operate.ts'
import { loadConfig } from '../../broker/config/config.ts'
import { openClient } from '../bridge/planes.ts'
import { startCluster, TestNode, type TestCluster } from '../support/cluster.ts'
import { WireClient } from '../support/wire.ts'

const [seeing, acting] = ['r'.repeat(20), 'w'.repeat(20)] as const
let folder: string
let cluster: TestCluster
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-tokens-'))
  writeFileSync(join(folder, 'tokens'), `# of a test\nread dashboard ${seeing}\n\nwrite admin ${acting}\n`)
  writeFileSync(join(folder, 'token'), `${acting}\n`)
  writeFileSync(
    join(folder, 'rules'),
    'rules: [{ deny: publish, topic: t/denied }, { deny: subscribe, topic: no/# }, { allow: all, topic: ["#", "$SYS/#"] }]',
  )
  cluster = await startCluster({
    nodes: 2,
    argv: [
      ['--admin-tokens-file', join(folder, 'tokens')],
      ['--rules-file', join(folder, 'rules')],
      ['--queue-messages-max', '2'],
      ['--advertised-address', 'other.example:1883'],
      ['--sys-interval-seconds', '1'],
    ].flat(),
  })
})
afterAll(async () => {
  await cluster[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true })
})

interface Answer {
  readonly status: number
  readonly body: Record<string, never>
}

async function ask(
  method: string,
  path: string,
  {
    at = 0,
    token = acting,
    body,
    headers = {},
  }: { at?: number; token?: string; body?: unknown; headers?: Record<string, string> } = {},
): Promise<Answer> {
  const response = await fetch(new URL(path, cluster.node(at).adminUrl), {
    method,
    headers: {
      ...(token !== '' && { authorization: `Bearer ${token}` }),
      ...(body !== undefined && { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  })
  return { status: response.status, body: (await response.json()) as Answer['body'] }
}

const get = async (path: string, at = 0): Promise<Answer['body']> => {
  const { status, body } = await ask('GET', `/api/v1${path}`, { at, token: seeing })
  expect(status, JSON.stringify(body)).toBe(200)
  return body
}

/** What a command prints. */
async function printed(name: string, ...argv: string[]): Promise<string> {
  const out: string[] = []
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((text) => out.push(String(text)) > 0)
  try {
    await operate(name, [...argv, '--admin', cluster.node(1).adminUrl, '--token-file', join(folder, 'token')])
  } finally {
    write.mockRestore()
  }
  return out.join('')
}

interface Operation {
  readonly operationId: string
  readonly summary: string
  readonly responses: Readonly<Record<string, object>>
}

test('the document is OpenAPI without a fault, and names what each route answers', async () => {
  const document = await get('/openapi.json')
  const validator = new Validator()
  expect(await validator.validate(document)).toMatchObject({ valid: true })
  const operationsOf = Object.entries(
    document.paths as unknown as Record<string, Record<string, Operation>>,
  ).flatMap(([path, methods]) => Object.values(methods).map((operation) => ({ path, ...operation })))
  expect(operationsOf.length).toBeGreaterThan(14)
  for (const { path, summary, responses } of operationsOf) {
    expect(path).toMatch(/^\/api\/v1\//)
    expect(summary, path).toMatch(/^[A-Z]/)
    expect(Object.keys(responses), path).toEqual(['200', '4XX', '5XX'])
  }
  const ids = operationsOf.map(({ operationId }) => operationId)
  expect(new Set(ids).size).toBe(ids.length)
})

describe('who may', () => {
  test.each([
    ['GET', '/api/v1/nodes', '', 401],
    ['GET', '/api/v1/nodes', 'x'.repeat(20), 401],
    ['GET', '/api/v1/openapi.json', '', 401],
    ['GET', '/api/v1/nowhere', '', 401],
    ['GET', '/api/v1/nowhere', seeing, 404],
    ['GET', '/api', seeing, 404],
    ['POST', '/api/v1/publish', seeing, 403],
    ['POST', '/api/v1/clients/x/disconnect', seeing, 403],
    ['DELETE', '/api/v1/retained?topic=x', seeing, 403],
    ['GET', '/api/v1/clients?limit=0', seeing, 400],
    ['GET', '/api/v1/clients?limit=1001', seeing, 400],
    ['GET', '/api/v1/clients?cursor=nonsense', seeing, 400],
    ['GET', '/api/v1/clients?address=nonsense', seeing, 400],
    ['GET', '/api/v1/clients/nobody', seeing, 404],
    ['GET', '/api/v1/retained?filter=a%23', seeing, 400],
    ['PATCH', '/api/v1/nodes', seeing, 404],
    ['DELETE', '/api/v1/bans?kind=user&name=nobody', acting, 404],
    ['POST', '/api/v1/publish', acting, 400],
  ])('%s %s with %s: %i, and what to do', async (method, path, token, status) => {
    const answer = await ask(method, path, { token })
    expect(answer).toEqual({
      status,
      body: { error: expect.stringMatching(/./) as string, hint: expect.stringMatching(/./) as string },
    })
  })

  test('a body that is none, too large, or no JSON is the fault of who sends it', async () => {
    for (const [body, headers, status] of [
      ['{', {}, 400],
      ['{"topic":"t"}', { 'content-type': 'text/plain' }, 415],
      [JSON.stringify({ topic: 't', payload: 'x'.repeat(3_000_000) }), {}, 413],
      [{ topic: 'a/#' }, {}, 400],
      [{ topic: '$SYS/x' }, {}, 400],
      [{ topic: 't', qos: 3 }, {}, 400],
    ] as const)
      expect((await ask('POST', '/api/v1/publish', { body, headers })).status).toBe(status)
    // what no message can have: one of these ended the node
    for (const expiresInSeconds of [-5, 0.5, 0x1_0000_0000, 1e15])
      expect(
        (await ask('PUT', '/api/v1/retained', { body: { topic: 't', payload: '', expiresInSeconds } }))
          .status,
      ).toBe(400)
    const properties = Buffer.concat(
      Array.from({ length: 12 }, () =>
        Buffer.concat([Buffer.from('2600016bffff', 'hex'), Buffer.alloc(65_535, 'v')]),
      ),
    ).toString('base64')
    expect(
      (
        await ask('PUT', '/api/v1/retained', {
          body: { topic: 't', payload: 'x'.repeat(300_000), properties },
        })
      ).status,
    ).toBe(400)
    expect((await ask('GET', `/api/v1/messages?filter=${'/'.repeat(200)}`)).status).toBe(400)
  })

  test.each([
    ...['', '{', 'null', '7', '[]', '{"clients":7}', '{"clients":[null]}', '{"clients":[],"next":"x"}'],
  ])('an answer of another node that says %j is none, and that node is named', async (text) => {
    const requests = {
      answerWith: () => undefined,
      ask: () =>
        Promise.resolve([
          { nodeId: 'a@1', body: Buffer.from('{"clients":[{"clientId":"c"}],"later":1}') },
          { nodeId: 'b@1', body: Buffer.from(text) },
        ]),
    }
    const { answered, unanswered } = await askNodes(
      requests,
      'clients',
      { filter: {}, after: 0, limit: 1 },
      1,
    )
    expect([...answered.keys()]).toEqual(['a@1'])
    expect(unanswered).toEqual([{ node: 'b', problem: 'its answer is none that this version understands' }])
  })
})

test('the nodes of the cluster, from any of them, and whether they store', async () => {
  const { nodes, unanswered } = (await get('/nodes', 1)) as unknown as {
    nodes: { node: string; isReady: boolean; checks: object; listen: string[] }[]
    unanswered: []
  }
  expect(nodes.map(({ node, isReady, checks }) => ({ node, isReady, checks }))).toEqual([
    { node: 'a', isReady: true, checks: { redis: 'ok', node: 'ok' } },
    { node: 'b', isReady: true, checks: { redis: 'ok', node: 'ok' } },
  ])
  expect(unanswered).toEqual([])
  expect(await get('/store')).toMatchObject({ store: 'redis', isStoring: true })
  expect(await printed('status')).toMatch(
    /^2 of 2 nodes are ready, 0 clients are connected, redis stores\nNODE .*\na +yes .*\nb +yes .*\n$/,
  )
  expect(JSON.parse(await printed('nodes', '--json'))).toMatchObject({
    nodes: [{ node: 'a' }, { node: 'b' }],
  })
})

test('clients of the whole cluster: pages, filters, one of them, and why it was disconnected', async () => {
  const { nodes } = cluster
  const lasting = { clean: false, protocolVersion: 4 as const }
  const here = await Promise.all(['s1', 's2', 'x1'].map((id) => nodes[0]!.connect(id)))
  await nodes[1]!.connect('s3', lasting)
  const away = await nodes[1]!.connect('s4', lasting)
  await away.subscribe('q/+', { qos: 1 })
  await away.disconnect()
  await nodes[0]!.publish('q/1', 'waits', { qos: 1 })
  const listed = async (query: string): Promise<string[]> => {
    const found: string[] = []
    let cursor = ''
    do {
      const page = (await get(`/clients?${query}${cursor}`, 1)) as unknown as {
        clients: { clientId: string; node?: string; isConnected: boolean }[]
        next?: string
        unanswered: []
      }
      expect(page.unanswered).toEqual([])
      for (const { clientId, node, isConnected } of page.clients)
        found.push(`${clientId} ${isConnected ? node : 'away'}`)
      cursor = page.next === undefined ? '' : `&cursor=${page.next}`
    } while (cursor !== '')
    return found.sort()
  }
  expect(await listed('limit=1')).toEqual(['s1 a', 's2 a', 's3 b', 's4 away', 'x1 a'])
  expect(await listed('client=s*')).toEqual(['s1 a', 's2 a', 's3 b', 's4 away'])
  expect(await listed('client=s4')).toEqual(['s4 away'])
  expect(await listed('client=s*&state=connected&limit=2')).toEqual(['s1 a', 's2 a', 's3 b'])
  expect(await listed('state=disconnected')).toEqual(['s4 away'])
  expect(await listed('node=b')).toEqual(['s3 b'])
  expect(await listed('address=127.0.0.0/8&limit=2')).toHaveLength(4)
  expect(await listed('address=10.0.0.0/8')).toEqual([])
  expect(await listed('user=nobody')).toEqual([])
  expect(await get('/clients/s4')).toMatchObject({
    clientId: 's4',
    session: {
      subscriptionCount: 1,
      subscriptions: [{ filter: 'q/+', qos: 1 }],
      queue: { messages: 1, head: { topic: 'q/1', qos: 1, payloadBytes: 5 } },
    },
    lastDisconnect: { node: 'b', reason: expect.stringMatching(/DISCONNECT/) as string },
    unanswered: [],
  })
  expect(await printed('client', 's4')).toMatch(
    /^connected +no\nsession +.*\nqueue +1 messages.*\nnext in it +q\/1, QoS 1, 5 bytes\nsubscriptions +1\n +q\/\+ \(QoS 1\)\nlast disconnect/,
  )
  expect(await printed('disconnect', 's1')).toBe('it was told to go by node a\n')
  await here[0]!.closed()
  await expect
    .poll(() => get('/clients/s1'))
    .toMatchObject({ lastDisconnect: { node: 'a', reason: 'disconnected by admin' } })
  expect(await printed('disconnect', 's1')).toBe('it is not connected\n')
  expect(await printed('clients', '--node', 'a')).toMatch(/^CLIENT .*\ns2 .*\nx1 .*\n$/)
  expect(cluster.node(0).log + cluster.node(1).log).toMatch(/"by":"admin".*a client is disconnected/)
})

test('who would get a topic: live, by a queue, as a member of a group', async () => {
  const live = await cluster.node(0).connect('live')
  await live.subscribe('w/#', { qos: 0 })
  const queued = await cluster.node(1).connect('queued', { clean: false })
  await queued.subscribe('w/+', { qos: 1 })
  const member = await cluster.node(1).connect('member')
  await member.subscribe('$share/g/w/1', { qos: 1 })
  await expect
    .poll(() => get('/subscribers?topic=w/1'))
    .toEqual({
      topic: 'w/1',
      live: [{ node: 'a', clientId: 'live', qos: 0 }],
      sessions: [{ clientId: 'queued', qos: 1 }],
      groups: [
        {
          group: '$share/g/w/1',
          members: [{ nodeId: expect.stringMatching(/^b@/) as string, count: 1 }],
          hasBacklog: false,
        },
      ],
      isCut: false,
      unanswered: [],
    })
  expect(await printed('topics', 'w/1')).toMatch(/live +live at node a +0\n/)
  expect(await printed('groups')).toMatch(/\$share\/g\/w\/1 +b:1 +none\n/)
})

test('messages are published, retained, browsed by filter and cleared', async () => {
  const reader = await cluster.node(0).connect('reader')
  await reader.subscribe('r/#', { qos: 1 })
  expect(await printed('publish', 'r/1', 'hello', '--qos', '1', '--retain')).toBe('published\n')
  const properties = Buffer.from([3, 0, 4, ...Buffer.from('text')])
  const body = {
    topic: 'r/2',
    payload: '/wA=',
    encoding: 'base64',
    qos: 0,
    properties: properties.toString('base64'),
  }
  expect(
    await ask('PUT', '/api/v1/retained', { at: 1, body: { ...body, expiresInSeconds: 60 } }),
  ).toMatchObject({ status: 200 })
  expect((await ask('PUT', '/api/v1/retained', { body: { ...body, properties: '/w==' } })).status).toBe(400)
  await reader.arrivals(2)
  const found: object[] = []
  for (let cursor: number | undefined = 0; cursor !== undefined;) {
    const page = (await get(`/retained?filter=r/%2B&limit=1&cursor=${cursor}`)) as unknown as {
      messages: object[]
      next?: number
    }
    found.push(...page.messages)
    cursor = page.next
  }
  expect(found).toHaveLength(2)
  expect(found).toEqual(
    expect.arrayContaining([
      { topic: 'r/1', qos: 1, payload: 'hello', encoding: 'utf8' },
      { ...body, expiresInSeconds: expect.toSatisfy((s: number) => s > 50 && s <= 60) as number },
    ]),
  )
  expect((await ask('DELETE', '/api/v1/retained?topic=r/1')).status).toBe(200)
  await expect.poll(() => get('/retained?filter=r/1', 1)).toEqual({ messages: [] })
})

test('Retained Messages are listed, exported, cleared and imported by command', async () => {
  await cluster.node(0).publish('e/1', 'one', { qos: 1, retain: true })
  await cluster.node(0).publish('e/2', 'two', { qos: 1, retain: true })
  const file = join(folder, 'retained')
  await expect
    .poll(() => printed('retained ls', '--filter', 'e/#'))
    .toMatch(/^e\/\d +QoS 1 +3 bytes +(one|two)\n.*\n$/)
  expect(await printed('retained', 'export', file, '--filter', 'e/#')).toBe(`2 messages are in ${file}\n`)
  await expect(printed('retained', 'export', file)).rejects.toMatchObject({
    problem: 'cannot be used (EEXIST)',
  })
  for (const topic of ['e/1', 'e/2']) expect(await printed('retained', 'rm', topic)).toBe('cleared\n')
  await expect.poll(() => get('/retained?filter=e/%23', 1)).toEqual({ messages: [] })
  expect(await printed('retained', 'import', file)).toBe('2 messages are retained\n')
  await expect.poll(() => printed('retained', 'get', 'e/2', '--json')).toMatch(/"payload": "two"/)
  await expect(printed('retained', 'get', 'e/3')).rejects.toMatchObject({
    problem: 'has no Retained Message',
  })
})

test('messages come by the API as they are published, until who reads them hangs up', async () => {
  const hangUp = new AbortController()
  const response = await fetch(new URL('/api/v1/messages?filter=m/%2B', cluster.node(1).adminUrl), {
    headers: { authorization: `Bearer ${seeing}` },
    signal: hangUp.signal,
  })
  const texts = response.body!.pipeThrough(new TextDecoderStream()).getReader()
  await cluster.node(0).publish('m/1', 'hello', { qos: 1 })
  let text = ''
  while (!text.includes('}')) text += (await texts.read()).value
  expect(JSON.parse(text)).toEqual({
    topic: 'm/1',
    qos: 1,
    retain: false,
    payload: 'hello',
    encoding: 'utf8',
  })
  hangUp.abort()
  await expect.poll(() => get('/subscribers?topic=m/1')).toMatchObject({ live: [] })
})

type Line = Readonly<Record<string, unknown>>

/** What a trace tells, from when all nodes follow. */
async function follow(
  query: string,
): Promise<{ readonly lines: Line[]; readonly text: () => string } & AsyncDisposable> {
  const hangUp = new AbortController()
  const response = await fetch(new URL(`/api/v1/trace?${query}`, cluster.node(1).adminUrl), {
    headers: { authorization: `Bearer ${seeing}` },
    signal: hangUp.signal,
  })
  expect(response.status).toBe(200)
  const texts = response.body!.pipeThrough(new TextDecoderStream()).getReader()
  const lines: Line[] = []
  let [text, rest] = ['', '']
  const reading = async (): Promise<void> => {
    for (let read = await texts.read(); !read.done; read = await texts.read()) {
      text += read.value
      const whole = (rest + read.value).split('\n')
      rest = whole.pop()!
      lines.push(...whole.filter((line) => line !== '').map((line) => JSON.parse(line) as Line))
    }
  }
  const over = reading().catch(() => undefined)
  await expect.poll(() => lines[0]).toEqual({ tracing: ['a', 'b'] })
  return {
    lines,
    text: () => text,
    [Symbol.asyncDispose]: async () => {
      hangUp.abort()
      await over
    },
  }
}

const about = (lines: readonly Line[], topic: string): string[] =>
  lines.filter((line) => line.topic === topic).map(({ node, step }) => `${String(node)} ${String(step)}`)

test('a trace tells every step of a message on all nodes, and why it did not arrive', async () => {
  const [here, there] = [cluster.node(0), cluster.node(1)]
  const lasting = { clean: false, version: 5 as const, properties: { sessionExpiryInterval: 600 } }
  for (const [id, topic] of [
    ['sleeper', 't/queued'],
    ['late', 't/brief'],
  ] as const) {
    const client = await there.connect(id, lasting)
    await client.subscribe(topic, { qos: 1 })
    await client.disconnect()
  }
  const live = await there.connect('awake', { password: 'of-awake', username: 'awake' })
  await live.subscribe('t/live', { qos: 1 })
  await using trace = await follow('topic=t/%23&payload=true')
  const from = await here.connect('source', { version: 5 })
  await from.publish('t/brief', 'b', { properties: { messageExpiryInterval: 1 } })
  const begun = performance.now()
  await from.publish('t/live', 'hello')
  await from.publish('t/denied', 'x').catch(() => undefined)
  for (const text of ['1', '2', '3']) await from.publish('t/queued', text)
  await from.publish('t/nobody', 'x')
  await from.publish('t/quick', 'x', { qos: 0 })
  await live.arrivals(1)
  await live.publish('other', 'is not followed')
  const { lines } = trace
  await expect
    .poll(() => about(lines, 't/live').sort())
    .toEqual(
      ['a received', 'a sent', 'a matched', 'a stored', 'b arrived', 'b delivered', 'b acknowledged'].sort(),
    )
  const step = (name: string, topic: string): Line =>
    lines.find((line) => line.step === name && line.topic === topic) ?? {}
  expect(step('received', 't/live')).toMatchObject({
    from: 'source',
    qos: 1,
    bytes: 5,
    payload: 'hello',
    encoding: 'utf8',
    packetId: expect.any(Number) as number,
  })
  expect(step('delivered', 't/live')).toMatchObject({ client: 'awake' })
  expect(step('sent', 't/live')).toMatchObject({ nodes: ['b'] })
  await expect.poll(() => about(lines, 't/denied')).toEqual(['a received', 'a refused'])
  expect(step('refused', 't/denied')).toMatchObject({
    code: '0x87',
    why: `denied by ${join(folder, 'rules')}:1`,
  })
  await expect
    .poll(() => lines.find(({ step: name }) => name === 'dropped'))
    .toMatchObject({ node: 'a', topic: 't/queued', payload: '1', clients: ['sleeper'], cause: 'full-queue' })
  expect(step('queued', 't/queued')).toMatchObject({ sessions: 1, clients: ['sleeper'] })
  for (const topic of ['t/nobody', 't/quick'])
    await expect.poll(() => step('unmatched', topic)).toMatchObject({ why: 'nobody is subscribed to it' })
  await vi.waitUntil(() => performance.now() - begun > 1_000, { interval: 20 }) // what it says expires
  await there.connect('late', lasting)
  await expect.poll(() => about(lines, 't/brief').at(-1)).toBe('b dropped')
  expect(step('dropped', 't/brief')).toMatchObject({ client: 'late', cause: 'expired' })
  expect(trace.text()).not.toMatch(/of-awake|is not followed/)
})

test('a trace of a client tells of its connection, of what it publishes and of what it is to get', async () => {
  await using trace = await follow('client=watched')
  const lasting = { clean: false, version: 5 as const, properties: { sessionExpiryInterval: 600 } }
  const watched = await cluster.node(0).connect('watched', lasting)
  await watched.subscribe('c/1', { qos: 1 })
  await watched.subscribe('no/1', { qos: 1 }).catch(() => undefined)
  await watched.unsubscribe('no/1')
  await watched.publish('c/2', 'x')
  await cluster.node(1).publish('c/1', 'awake', { qos: 1 })
  await watched.arrivals(1)
  await watched.disconnect()
  await expect.poll(() => trace.lines.at(-1)).toMatchObject({ step: 'disconnected', why: 'DISCONNECT 0x00' })
  // the lines of the other node take a round to know of its session
  await vi.waitFor(async () => {
    await cluster.node(1).publish('c/1', 'asleep', { qos: 1 })
    expect(trace.lines).toContainEqual(
      expect.objectContaining({ node: 'b', step: 'queued', topic: 'c/1', clients: ['watched'] }),
    )
  })
  expect(trace.lines.filter(({ node, topic }) => node === 'a' && topic === undefined)).toMatchObject([
    { step: 'connected', sessionPresent: false },
    { step: 'subscribed', filter: 'c/1', granted: 1 },
    { step: 'refused', filter: 'no/1', code: '0x87', why: `denied by ${join(folder, 'rules')}:1` },
    { step: 'unsubscribed', filter: 'no/1' },
    { step: 'disconnected' },
  ])
  expect(about(trace.lines, 'c/2')).toEqual(['a received', 'a unmatched', 'a stored'])
  expect(trace.text()).not.toMatch(/"payload"/)
  expect(await printed('trace', '--client', 'watched', '--seconds', '1')).toMatch(
    /^following at nodes a, b\n(?:.*\n)*it ended after 1 s\n$/,
  )
})

test('a trace may be ended at any time, also at a node that waits for its store, and writes nothing then', async () => {
  const view = new ClusterView(() => undefined)
  const lines: object[] = []
  const trace = new TraceStream(view, { client: 'x', payload: false }, (line) => lines.push(line))
  const begun = trace.begin()
  trace.end()
  await begun
  expect(lines).toEqual([])
  await expect(view.nodes()).rejects.toMatchObject({ name: 'BridgeError' })
})

test('an endpoint follows four traces at once, and no more', async () => {
  const hangUp = new AbortController()
  const begin = async (): Promise<number> => {
    const response = await fetch(new URL('/api/v1/trace?client=x', cluster.node(0).adminUrl), {
      headers: { authorization: `Bearer ${seeing}` },
      signal: hangUp.signal,
    })
    return response.status
  }
  expect(await Promise.all([begin(), begin(), begin(), begin()])).toEqual([200, 200, 200, 200])
  expect(await ask('GET', '/api/v1/trace?client=x')).toMatchObject({ status: 429 })
  hangUp.abort()
})

test('a session is ended by whoever operates the cluster: of a sleeping client, and of a connected one', async () => {
  const [here, there] = [cluster.node(0), cluster.node(1)]
  const lasting = { clean: false, version: 5 as const, properties: { sessionExpiryInterval: 600 } }
  const sleeping = await there.connect('ends-1', lasting)
  await sleeping.subscribe('ends/+', { qos: 1 })
  await sleeping.disconnect()
  const awake = await there.connect('ends-2', lasting)
  await awake.subscribe('ends/+', { qos: 1 })
  await here.publish('ends/1', 'waits', { qos: 1 })
  for (const id of ['ends-1', 'ends-2'])
    expect(await printed('disconnect', id, '--end-session')).toBe(
      `its session has ended\nit ${id === 'ends-1' ? 'is not connected' : 'was told to go by node b'}\n`,
    )
  await awake.closed()
  expect(awake.serverDisconnect).toBe(0x98)
  expect((await ask('DELETE', '/api/v1/clients/ends-1/session')).status).toBe(404)
  await expect
    .poll(() => get('/subscribers?topic=ends/1'))
    .toMatchObject({ live: [], sessions: [], unanswered: [] })
  for (const id of ['ends-1', 'ends-2']) {
    const again = await here.connect(id, lasting)
    expect(again.sessionPresent).toBe(false)
    await again.receives([])
  }
})

test('who is busy, who does not read, and for whom most waits', async () => {
  const [here, there] = [cluster.node(0), cluster.node(1)]
  const sleeper = await there.connect('full', { clean: false })
  await sleeper.subscribe('busy/q', { qos: 1 })
  await sleeper.disconnect()
  const receiver = await there.connect('receiver')
  await receiver.subscribe('busy/#', { qos: 0 })
  const publisher = await here.connect('publisher')
  let isOver = false
  const publishing = (async () => {
    for (let i = 0; !isOver; i++)
      await publisher.publish(i % 4 === 0 ? 'busy/q' : 'busy/most', 'x'.repeat(100))
  })()
  interface Top {
    nodes: { node: string; receivedPerSecond: number; sentPerSecond: number }[]
    topics: { name: string; messagesPerSecond: number; bytesPerSecond: number }[]
    publishers: { name: string }[]
    receivers: { name: string }[]
  }
  let top!: Top
  await expect
    .poll(async () => {
      top = (await get('/top?seconds=0.3&limit=2', 1)) as unknown as Top
      return top.topics.map(({ name }) => name)
    })
    .toEqual(['busy/most', 'busy/q'])
  const shown = await printed('top', '--rounds', '1', '--seconds', '1')
  isOver = true
  await publishing
  expect(top.nodes.map(({ node }) => node)).toEqual(['a', 'b'])
  expect(top.nodes[0]!.receivedPerSecond).toBeGreaterThan(0)
  expect(top.nodes[1]!.sentPerSecond).toBeGreaterThan(0)
  expect(top.topics[0]!.bytesPerSecond / top.topics[0]!.messagesPerSecond).toBeCloseTo(109)
  expect(top.publishers[0]).toMatchObject({ name: 'publisher' })
  expect(top.receivers[0]).toMatchObject({ name: 'receiver' })
  expect(shown).toMatch(/^NODE .*\na .*\nb .*\n\nTOPIC .*\nbusy\/most +[\d.]+ +[\d.]+\nbusy\/q /)
  expect(await get('/queues')).toMatchObject({
    queues: expect.arrayContaining([
      expect.objectContaining({ clientId: 'full', isOwned: false, messages: 2 }),
    ]) as unknown[],
    isCut: false,
  })
  expect(await printed('queues')).toMatch(/^CLIENT .*\n(?:.*\n)*full +no +2 +[\d.]+\n/)
})

test('who is subscribed below $SYS/broker/ gets counts in the names of Mosquitto, of the cluster and of each node', async () => {
  await using watching = await cluster.node(0).connect('watching')
  await watching.subscribe(['$SYS/broker/clients/#', '$SYS/broker/+/+/clients/connected'], { qos: 0 })
  await cluster.node(1).connect('counted')
  await watching.arrivals(3)
  const told = new Map(watching.packets.slice(0, 3).map(({ topic, payload }) => [topic, Number(payload)]))
  const [all, a, b] = ['', 'nodes/a/', 'nodes/b/'].map((of) =>
    told.get(`$SYS/broker/${of}clients/connected`)!,
  )
  expect(b).toBeGreaterThan(0)
  expect(all).toBe(a! + b!)
})

test('bans by the API end connections, and are lifted', async () => {
  const victim = await cluster.node(1).connect('victim')
  const ban = { kind: 'client', name: 'victim', reason: 'a test', seconds: 60 }
  expect((await ask('POST', '/api/v1/bans', { body: ban })).status).toBe(200)
  await victim.closed()
  expect(await get('/bans', 1)).toMatchObject({
    bans: [{ kind: 'client', name: 'victim', reason: 'a test' }],
  })
  expect((await ask('DELETE', '/api/v1/bans?kind=client&name=victim')).status).toBe(200)
  expect(await get('/bans')).toEqual({ bans: [] })
})

test('what should be otherwise is found on each node, with what to do', async () => {
  const { findings } = (await get('/findings')) as unknown as {
    findings: { node: string; what: string; todo: string }[]
  }
  for (const node of ['a', 'b'])
    expect(findings).toEqual(
      expect.arrayContaining([
        {
          node,
          what: 'Redis has no replica: what it stores is gone with its machine',
          todo: 'Start one (REPLICAOF), and let nodes wait for it: durabilityReplicas',
        },
        expect.objectContaining({ node, what: expect.stringMatching(/^Redis has no maxmemory/) as string }),
      ]),
    )
  using client = openClient(cluster.redis)
  const [, used] = /^used_memory:(\d+)/m.exec(await client.info('memory'))!
  await client.config('SET', 'maxmemory', Math.ceil(1.1 * Number(used)))
  try {
    expect(await printed('doctor')).toMatch(
      /a: Redis is nearly full \(\d+ % of maxmemory\).*\n {2}Raise maxmemory/,
    )
  } finally {
    await client.config('SET', 'maxmemory', 0)
  }
})

test('the metrics of a node are as promtool wants them', async () => {
  const text = await (await fetch(new URL('/metrics', cluster.node(0).adminUrl))).text()
  const { stdout, stderr, status } = spawnSync('promtool', ['check', 'metrics'], {
    input: text,
    encoding: 'utf8',
  })
  expect([stdout, stderr, status]).toEqual(['', '', 0])
})

test('reload: each node says what is another by now, and what is not in order', async () => {
  expect(await ask('POST', '/api/v1/reload')).toMatchObject({
    body: {
      nodes: ['a', 'b'].map((node) => ({ node, options: [], later: [], problems: [] })),
      unanswered: [],
    },
  })
  const tokens = readFileSync(join(folder, 'tokens'), 'utf8')
  writeFileSync(join(folder, 'tokens'), `${tokens}nonsense\n`)
  expect(await printed('reload', '--node', 'b')).toMatch(
    /^b: read again\n(?:b: as before, since it is not in order: .*\n)*b: as before, since it is not in order: admin tokens: .*\n$/,
  )
  writeFileSync(join(folder, 'tokens'), tokens)
  expect(await printed('reload')).toBe('a: read again\nb: read again\n')
  expect((await ask('POST', '/api/v1/reload?node=z')).status).toBe(404)
  expect((await ask('POST', '/api/v1/reload', { token: seeing })).status).toBe(403)
})

test('a node without an address for others is drained behind a balancer: nobody reaches it any more', async () => {
  await using plain = new TestNode('c', ['--redis', cluster.redis.url, '--prefix', 'test'])
  await plain.start()
  await using moving = await WireClient.connect(plain.url, 'plain')
  expect(await printed('drain', 'c', '--wait', '--rate', '1')).toBe('no client is left\n')
  expect(await moving.untilClosed()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x8b }])
  await expect(WireClient.open(plain.url)).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  expect(await plain.stop()).toBe(0)
})

test('drain --wait waits for a node that does not answer, and for sessions that are not released', async () => {
  const node = { node: 'b', connections: 0, isDrained: false }
  const said = [
    { nodes: [], unanswered: [{ node: 'b', problem: 'no answer' }] },
    { nodes: [{ ...node, connections: 1 }] },
    { nodes: [node] },
    { nodes: [{ ...node, isDrained: true }] },
  ]
  const asked = vi.fn(() => Promise.resolve(said.shift()))
  const api = { isJson: true, get: asked, send: () => Promise.resolve({ clients: 1 }) }
  const write = vi.spyOn(process.stdout, 'write').mockReturnValue(true)
  const told = vi.spyOn(process.stderr, 'write').mockReturnValue(true)
  await operations.drain!.run(api as unknown as AdminClient, ['b'], { wait: true })
  expect(told.mock.calls.map(([text]) => text)).toEqual([expect.stringMatching(/^b does not answer: waits/)])
  told.mockRestore()
  write.mockRestore()
  expect(said).toEqual([])
})

test('a drained node is not ready, takes nobody, and its clients are told where to go', async () => {
  const moving = await cluster.node(1).connect('moving', { clean: false })
  await using told = await WireClient.connect(cluster.node(1).url, 'told')
  expect((await ask('POST', '/api/v1/nodes/z/drain', { body: {} })).status).toBe(404)
  expect(await printed('drain', 'b', '--wait')).toBe('no client is left\n')
  await moving.closed()
  const elsewhere = { reasonCode: 0x9c, properties: { serverReference: 'other.example:1883' } }
  expect(await told.untilClosed()).toMatchObject([{ cmd: 'disconnect', ...elsewhere }])
  await using late = await WireClient.connect(cluster.node(1).url, 'late')
  expect(late.connack).toMatchObject(elsewhere)
  await using small = await WireClient.connect(cluster.node(1).url, 'small', {
    properties: { maximumPacketSize: 16 },
  })
  expect(small.connack).toMatchObject({ reasonCode: 0x9c })
  expect(small.connack.properties?.serverReference).toBeUndefined()
  await using old = await WireClient.connect(cluster.node(1).url, 'old', { version: 4 })
  expect(old.connack.returnCode).toBe(3)
  const { nodes } = (await get('/nodes')) as unknown as { nodes: { isReady: boolean; checks: object }[] }
  expect(nodes.map(({ isReady }) => isReady)).toEqual([true, false])
  expect(nodes[1]!.checks).toMatchObject({ node: 'is drained' })
  await expect(cluster.node(1).connect('late')).rejects.toThrow()
  const again = await cluster.node(0).connect('moving', { clean: false })
  expect(again.sessionPresent).toBe(true)
})

test('a node that stands still is named, and the others answer', async () => {
  cluster.node(1).pause()
  const { nodes, unanswered } = (await get('/nodes')) as unknown as {
    nodes: { node: string }[]
    unanswered: object[]
  }
  cluster.node(1).resume()
  expect(nodes.map(({ node }) => node)).toEqual(['a'])
  expect(unanswered).toEqual([{ node: 'b', problem: 'no answer within 2 s' }])
})

test.each(Object.keys(operations))('%s says what is wrong with its words', async (name) => {
  await expect(operate(name, ['--nonsense'])).rejects.toMatchObject({ name: 'OperatorError' })
  await expect(
    operate(name, [
      ...operations[name]!.words.map(() => folder),
      ...(name === 'trace' ? ['--client', 'x'] : []),
      ...['--admin', 'http://127.0.0.1:1'],
    ]),
  ).rejects.toMatchObject({ problem: expect.stringMatching(/^does not answer|^cannot be used/) as string })
})

test('without tokens it is open only where MQTT lets everybody do everything', () => {
  const openWith = (options: object): boolean =>
    isOpenFor(loadConfig({ listen: ['mqtt://127.0.0.1:0'], admin: 'http://127.0.0.1:0', ...options }, {}))
  expect(openWith({})).toBe(true)
  expect(openWith({ storedRules: 'on', redis: 'redis://127.0.0.1' })).toBe(false)
  writeFileSync(join(folder, 'users'), '')
  expect(openWith({ authentication: ['password-file'], passwordFile: join(folder, 'users') })).toBe(false)
})
