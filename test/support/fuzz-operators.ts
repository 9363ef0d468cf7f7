// Random input for what is an operator's, or another node's: requests to the admin API, and what nodes ask and answer one
// another on their channels. What would be right and is harm (drain a node, ban everybody) is left out.
import type { Redis } from 'ioredis'
import { Emitter } from '../../bridge/control/emitter.ts'
import { bytes, chance, damage, names, send, untilOver } from './fuzz.ts'
import { oddJson, oddObject } from './fuzz-json.ts'
import { knock } from './door.ts'
import type { Random } from './random.ts'

const json = (texts: readonly string[]): string[] => texts.map((text) => JSON.stringify(text))

/** What a request may say: of the API, as a rule. */
const asked: Readonly<Record<string, readonly string[]>> = {
  limit: ['1', '5', '1000', '1001', '0', '-1', '1e3', 'NaN', ''],
  cursor: ['0', '5', '99999999', 'e30', 'bnVsbA', 'W10', 'eyJub2RlIjoiIiwiYWZ0ZXIiOjFlOTk5fQ', '%', '-'],
  filter: ['#', '+', 'a/+/b', '$SYS/#', '#/#', '', '$share/g/x', '/'.repeat(8_000), `${'+/'.repeat(4_000)}#`],
  topic: ['a/b', '#', '$SYS/x', '', '/'.repeat(8_000)],
  client: ['*', 'healthy', 'a*', '**', ''],
  user: ['*', ''],
  address: ['127.0.0.1', '10.0.0.0/8', '::/0', '1/1', '999.1.1.1', '/', '::%lo'],
  node: ['a', 'b', 'c', ''],
  state: ['connected', 'disconnected', 'x'],
  kind: ['client', 'user', 'network'],
  name: ['10.0.0.0/8', 'nobody', 'fd00::/8'],
}
const paths = [
  ...[
    'nodes',
    'clients',
    'clients/healthy',
    'subscribers',
    'groups',
    'retained',
    'bans',
    'store',
    'findings',
  ],
  ...[
    'messages',
    'publish',
    'openapi.json',
    'nodes/c/drain',
    'nodes/c',
    'clients/x/disconnect',
    'retained/x',
  ],
]
const bodies: readonly Readonly<Record<string, readonly string[]>>[] = [
  {
    topic: json(['a/b', 'x', '#', '', '$SYS/x', '$share/g/a']),
    payload: json(['', 'x', '\0', '==']),
    encoding: json(['utf8', 'base64', 'hex']),
    qos: ['0', '1', '2', '3', '"1"'],
    retain: ['true', 'false'],
    properties: json(['', 'AA==', 'JgABYQABYg==', 'AgAAAAE=', 'CwE=']),
    expiresInSeconds: ['0', '1', '-1', '-5', '4294967295', '4294967296', '1e15', '0.5'],
  },
  {
    kind: json(['client', 'user', 'network']),
    name: json(['10.0.0.0/8', 'nobody', 'x/y', '999.0.0.0/8', 'fd00::/129']),
    reason: json(['', 'x']),
    seconds: ['1', '0', '315360001', '0.5'],
  },
  { clientsPerSecond: ['1', '0', '-1', '1e400'] },
]

const text = (random: Random): string => {
  const raw = chance(random, 6) ? bytes(random, 20).toString('latin1') : random.pick(names)
  return chance(random, 3) ? raw.replaceAll(/\s/g, '') : encodeURIComponent(raw)
}

function query(random: Random): string {
  const pairs = Array.from({ length: random.below(5) }, () => {
    const name = random.pick(Object.keys(asked))
    const odd = random.pick([name, name, name, `${name}[]`, `${name}[__proto__]`, '__proto__', 'constructor'])
    return `${odd}${random.pick(['=', '=', '=', ''])}${chance(random, 3) ? text(random) : random.pick(asked[name]!)}`
  })
  return pairs.length === 0 ? '' : `?${pairs.join('&')}`
}

function body(random: Random): string {
  switch (random.below(6)) {
    case 0:
      return oddJson(random)
    case 1:
      return chance(random, 20) ? `[${'{"a":1},'.repeat(200_000)}0]` : ''
    case 2:
      return `{"topic":"huge","payload":"${'x'.repeat(random.below(chance(random, 10) ? 3_000_000 : 3_000))}"}`
    default:
      return oddObject(random, random.pick(bodies))
  }
}

function apiRequest(random: Random): Buffer {
  const path = chance(random, 8) ? text(random) : random.pick(paths)
  const before = chance(random, 15)
    ? random.pick([
        '/api/v1//',
        '//api/v1/',
        '/api//',
        '/API/V1/',
        'http://x/api/v1/',
        'api/v1/',
        '/api/v1/../v1/',
      ])
    : '/api/v1/'
  const target = before + (chance(random, 12) ? `${path}/${text(random)}` : path) + query(random)
  const method = random.pick([
    'GET',
    'GET',
    'GET',
    'HEAD',
    'POST',
    'PUT',
    'DELETE',
    'PATCH',
    'OPTIONS',
    'TRACE',
  ])
  const content = method === 'GET' && !chance(random, 8) ? '' : body(random)
  const isChunked = chance(random, 5)
  const lines = [
    `${method} ${target} HTTP/1.1`,
    `host: ${chance(random, 15) ? random.pick([...names, '[::1]', 'x:99999', '127.0.0.1:0x50']) : 'localhost'}`,
    `content-type: ${chance(random, 8) ? random.pick(['text/plain', 'application/x-www-form-urlencoded', '', 'application/json; charset=x', '__proto__']) : 'application/json'}`,
    ...(chance(random, 6)
      ? [`authorization: ${random.pick(['Bearer x', 'Bearer ', 'Basic eDp4', 'bearer  y', ...names])}`]
      : []),
    ...(chance(random, 15) ? ['expect: 100-continue'] : []),
    ...(chance(random, 15) ? ['origin: null'] : []),
    ...(chance(random, 15) ? ['accept-encoding: gzip', 'content-encoding: gzip'] : []),
    isChunked
      ? 'transfer-encoding: chunked'
      : `content-length: ${chance(random, 12) ? random.below(100_000) : Buffer.byteLength(content)}`,
  ]
  const sent = isChunked ? `${Buffer.byteLength(content).toString(16)}\r\n${content}\r\n0\r\n\r\n` : content
  return Buffer.from(`${lines.join('\r\n')}\r\n\r\n${sent}`, 'latin1')
}

/** Requests to the admin API of a node that has no tokens. @returns how many there were */
export function fuzzApi(
  url: string,
  seconds: number,
  random: Random,
  goesOn: () => boolean,
): Promise<number> {
  return untilOver(seconds, random, goesOn, async () => {
    const request = apiRequest(random)
    await send(
      random,
      await knock(url, chance(random, 2)),
      chance(random, 6) ? damage(random, request) : request,
    )
  })
}

// Node to node

const questions: Readonly<Record<string, readonly string[]>> = {
  node: ['{}'],
  clients: [
    '{"filter":{},"after":0,"limit":10}',
    '{"filter":{"client":"*"},"after":-1,"limit":1e9}',
    '{"filter":{"address":"zzz"},"after":0,"limit":1}',
    '{"filter":{"client":7},"after":"x"}',
    '{"filter":null}',
  ],
  client: ['{"clientId":"healthy"}', '{"clientId":"__proto__"}', '{"clientId":7}'],
  disconnect: ['{"clientId":"nobody","by":"x"}', '{"clientId":null}'],
  subscribers: ['{"topic":"a/b"}', '{"topic":"#"}', '{"topic":7}', '{"topic":""}'],
  findings: ['{}', 'null'],
  'not known yet': ['{}'],
}
const answers = [
  ...['{}', 'null', '[]', '7', '"x"', '', '{', '{"clients":7}', '{"clients":[null]}', '{"findings":{}}'],
  ...[
    '{"clients":[{"clientId":"x"}],"next":"y"}',
    '{"subscribers":[7]}',
    '{"connection":7,"lastDisconnect":"x"}',
  ],
  ...[
    '{"isDone":"yes"}',
    '{"subscribers":null,"isCut":1}',
    '{"findings":[null]}',
    '{"node":{"__proto__":1}}',
  ],
]

function question(random: Random): string {
  const name = random.pick(Object.keys(questions))
  if (chance(random, 8)) return oddJson(random)
  return oddObject(random, { question: [JSON.stringify(name)], asked: questions[name]! })
}

/** What one node tells another. @param nodes their boots */
function told(random: Random, nodes: readonly string[]): Buffer {
  const from = json([...nodes, ...nodes, 'c@1', '', '#', '__proto__'])
  const head = chance(random, 2)
    ? oddObject(random, { ask: json(['1', '2', 'x']), from, withinMs: ['2000', '0', '-1', '1e400'] })
    : oddObject(random, { answers: json([String(1 + random.below(2_000))]), from })
  const content = chance(random, 2) ? question(random) : random.pick([...answers, oddJson(random)])
  const line = chance(random, 20) ? head : `${head}\n${content}`
  return Buffer.from(line)
}

/**
 * Messages on the channels by which nodes ask one another, whole and damaged, while both are asked for something.
 * @param url of an admin endpoint
 * @returns how many there were
 */
export async function fuzzAsks(
  { redis, redisUrl, prefix, url }: { redis: Redis; redisUrl: string; prefix: string; url: string },
  seconds: number,
  random: Random,
  goesOn: () => boolean,
): Promise<number> {
  const { nodes } = (await (await fetch(`${url}/routes`)).json()) as { nodes: string[] }
  const emitter = new Emitter(redisUrl, prefix, () => undefined)
  const channels = ['ask/all', ...nodes.map((nodeId) => `ask/${nodeId}`), '$SYS/x', 'ask/']
  let asking: Promise<unknown> = Promise.resolve()
  let isAsking = false
  try {
    return await untilOver(seconds, random, goesOn, async () => {
      const channel = random.pick(channels)
      if (chance(random, 4)) await redis.publish(`${prefix}/${channel}`, bytes(random, 200))
      else emitter.emit(channel, told(random, nodes))
      if (!isAsking) {
        isAsking = true
        const path = random.pick(['nodes', 'clients', 'clients/healthy', 'findings', 'subscribers?topic=a'])
        asking = fetch(`${url}/api/v1/${path}`)
          .then((response) => response.text())
          .catch(() => undefined)
          .finally(() => {
            isAsking = false
          })
      }
      await new Promise((resolve) => setTimeout(resolve, random.below(10)))
    })
  } finally {
    await asking
    await new Promise<void>((resolve) => emitter.close(resolve))
  }
}
