// A webhook that says who clients are (broker/access/webhook.ts), against a real server that hangs, answers slowly,
// breaks and comes back, answers too much, redirects, lies.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import type { IncomingMessage, RequestListener } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import type { Verdict } from '../../broker/access/chain.ts'
import type { Answer } from '../../broker/access/gate.ts'
import { Webhook, webhookLimits, type DecidedBy, type WebhookOptions } from '../../broker/access/webhook.ts'
import { createNode, type Node, type NodeOptions } from '../../broker/index.ts'
import { HttpServer } from '../support/http-server.ts'
import { WireClient } from '../support/wire.ts'

const folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-webhook-'))
const nodes: Node[] = []
afterAll(async () => {
  rmSync(folder, { recursive: true })
  await Promise.all(nodes.map((node) => node.close()))
})

async function serve(webhook: NonNullable<NodeOptions['webhook']>): Promise<string> {
  const node = await createNode({ listen: ['mqtt://127.0.0.1:0'], webhook })
  nodes.push(node)
  return node.endpoints[0]!
}

async function codeOf(
  url: string,
  username: string,
  password = 'right',
  clientId = 'client',
): Promise<number> {
  await using client = await WireClient.connect(url, clientId, { username, password: Buffer.from(password) })
  return client.connack.reasonCode!
}

const allow: RequestListener = (_request, response) => response.writeHead(204).end()

test('it is sent what the client brought, and says who that is and what it may do', async () => {
  await using server = await HttpServer.start(allow)
  const secretFile = join(folder, 'secret')
  writeFileSync(secretFile, 'planted-secret\n')
  const url = await serve({ url: server.url, secretFile })
  const sent: unknown[] = []
  server.say((told) => {
    sent.push(told)
    if (told.username === 'renamed')
      return { result: 'allow', user: 'ann', rules: [{ allow: 'publish', topic: '%u/#' }] }
    if (told.username === 'tied') return { result: 'allow', clientid: 'tied' }
    if (told.username === 'own-use') return { result: 'allow', tenant: 42 } // tenants are off
    if (told.username === 'soon') return { result: 'allow', expire_at: Date.now() / 1_000 + 0.3 }
    return { result: String(told.username) }
  })
  await using soon = await WireClient.connect(url, 'soon', { username: 'soon' })
  expect(soon.connack.reasonCode).toBe(0)
  expect([
    await codeOf(url, 'allow'),
    await codeOf(url, 'own-use'),
    await codeOf(url, 'deny'),
    await codeOf(url, 'ignore'),
    await codeOf(url, 'nonsense'),
    await codeOf(url, 'tied'),
    await codeOf(url, 'tied', 'right', 'tied'),
  ]).toEqual([0, 0, 0x86, 0x86, 0x88, 0x85, 0])
  expect(sent[1]).toEqual({ username: 'allow', password: 'right', clientid: 'client' })
  await using client = await WireClient.connect(url, 'c', { username: 'renamed' })
  const packet = { cmd: 'publish', qos: 1, payload: '', retain: false, dup: false } as const
  client.send({ ...packet, messageId: 1, topic: 'ann/x' }, { ...packet, messageId: 2, topic: 'bob/x' })
  expect([(await client.next('puback')).reasonCode, (await client.next('puback')).reasonCode]).toEqual([
    0x10, 0x87,
  ])
  const headers: IncomingMessage['headers'][] = []
  server.answer((request, response) => {
    headers.push(request.headers)
    response.writeHead(request.headers.authorization === 'Bearer planted-secret' ? 204 : 401).end()
  })
  expect(await codeOf(url, 'ann')).toBe(0)
  server.answer((_request, response) => response.writeHead(403).end())
  expect(await codeOf(url, 'eve')).toBe(0x86)
  expect(await soon.untilClosed()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0xa0 }])
})

describe('asked by a node', () => {
  const limits = { ...webhookLimits, breaker: { failuresMax: 3, openMs: 50 } }
  const made = (
    server: HttpServer,
    options: Partial<WebhookOptions> = {},
    own: Partial<typeof webhookLimits> = {},
  ): {
    ask: (user: string) => Answer<Verdict>
    webhook: Webhook
    by: DecidedBy[]
    told: (string | undefined)[]
  } => {
    const by: DecidedBy[] = []
    const told: (string | undefined)[] = []
    const webhook = new Webhook(
      {
        url: server.url,
        secret: () => undefined,
        timeoutMs: 200,
        hasTenants: true,
        whenDown: 'deny',
        allowedMs: 60_000,
        refusedMs: 60_000,
        requestsMax: 4,
        ...options,
      },
      { onAnswer: (problem) => told.push(problem), onDecided: (what) => by.push(what) },
      { ...limits, ...own },
    )
    const ask = (username: string): Answer<Verdict> =>
      webhook.decide({
        username,
        password: Buffer.from('right'),
        clientId: 'c',
        certificate: () => undefined,
      })
    return { ask, webhook, by, told }
  }

  test('once about those that bring the same, and never about thousands that come back', async () => {
    await using server = await HttpServer.start(allow)
    server.say(({ username }) => ({ result: username === 'eve' ? 'deny' : 'allow' }))
    const { ask, webhook } = made(server, { allowedMs: 0 })
    const principals = await Promise.all(Array.from({ length: 20 }, async () => ask('ann')))
    expect([server.asked, principals[19]]).toMatchObject([1, { user: 'ann', by: 'webhook' }])
    expect(await ask('eve')).toMatchObject({ reasonCode: 0x86 })
    expect(ask('eve')).toMatchObject({ reasonCode: 0x86 }) // at once
    expect(server.asked).toBe(2)
    // nothing is remembered but who is connected: by 0 ms
    const users = Array.from({ length: 300 }, (_, i) => `user-${i}`)
    for (const principal of await Promise.all(users.map(async (user) => ask(user))))
      if (principal !== undefined && 'by' in principal) webhook.connected(principal)
    expect(server.asked).toBe(302)
    // three thousand times they come back while they are, or seem to be, connected
    for (let round = 0; round < 10; round++)
      for (const user of users) expect(ask(user)).toMatchObject({ user }) // at once
    expect(server.asked).toBe(302)
    const [first] = users
    webhook.left(ask(first!) as Parameters<typeof webhook.left>[0])
    expect(ask(first!)).toBeInstanceOf(Promise)
  })

  test.each([
    ['hangs', () => undefined, 'no answer within 200 ms'],
    ['begins an answer and hangs', (_request, response) => response.write('{'), 'no answer within 200 ms'],
    ['answers 1 MB', (_request, response) => response.end('x'.repeat(1024 * 1024)), 'more than 65536 bytes'],
    ['redirects', (_request, response) => response.writeHead(307, { location: '/' }).end(), 'status 307'],
    ['breaks', (_request, response) => response.destroy(), 'cannot be reached'],
    ['fails', (_request, response) => response.writeHead(500).end('{"result":"allow"}'), 'status 500'],
    ['says no JSON', (_request, response) => response.end('allow'), 'not JSON'],
    [
      'says a tenant that is no text',
      (_request, response) => response.end('{"result":"allow","tenant":42}'),
      'its tenant is no text',
    ],
    ['says nothing', (_request, response) => response.end('null'), 'none of the results'],
    [
      'says rules that are none',
      (_request, response) => response.end('{"result":"allow","rules":[1]}'),
      'its rules are',
    ],
    [
      'says rules that are nested as deep as they can be',
      (_request, response) =>
        response.end(`{"result":"allow","rules":${'['.repeat(30_000)}${']'.repeat(30_000)}}`),
      'its rules are',
    ],
  ] satisfies [string, RequestListener, string][])(
    'one that %s lets nobody in, or whom it let in last; it is left alone for a while, and comes back',
    async (_, listener, problem) => {
      await using server = await HttpServer.start(allow)
      const denying = made(server)
      const last = made(server, { whenDown: 'last', allowedMs: 0 })
      expect(await last.ask('ann')).toMatchObject({ user: 'ann' })
      server.answer(listener)
      expect(await last.ask('ann')).toMatchObject({ user: 'ann' })
      expect(await last.ask('bob')).toMatchObject({ reasonCode: 0x88, isUndecided: true })
      expect(last.by).toEqual(['request', 'last', 'nobody'])
      expect(last.told[1]).toContain(problem)
      const before = server.asked
      const refused = await Promise.all('abcdefghij'.split('').map(async (user) => denying.ask(user)))
      for (const refusal of refused) expect(refusal).toMatchObject({ reasonCode: 0x88, isUndecided: true })
      const asked = server.asked
      expect(asked - before).toBeLessThanOrEqual(6) // four at a time, until three had failed
      expect(await denying.ask('z')).toMatchObject({ reasonCode: 0x88 })
      expect(server.asked).toBe(asked)
      server.answer(allow)
      await expect.poll(() => denying.ask('z')).toMatchObject({ user: 'z' })
      expect(denying.told.at(-1)).toBeUndefined()
    },
  )

  test('a few at a time: others wait, not too many and not too long', async () => {
    const open: (() => void)[] = []
    await using server = await HttpServer.start((_request, response) =>
      open.push(() => response.writeHead(204).end()),
    )
    const { ask, by } = made(server, { requestsMax: 2, timeoutMs: 5_000 }, { waiting: 1, waitMs: 50 })
    const [a, b, c, d] = [ask('a'), ask('b'), ask('c'), ask('d')]
    expect(await d).toMatchObject({ reasonCode: 0x89 }) // as many as may wait
    expect(await c).toMatchObject({ reasonCode: 0x89 }) // too long
    await expect.poll(() => open.length).toBe(2)
    for (const answer of open) answer()
    expect([await a, await b]).toMatchObject([{ user: 'a' }, { user: 'b' }])
    expect([by, server.asked]).toEqual([['nobody', 'nobody', 'request', 'request'], 2])
    // nor with more bytes than may wait, however few they are
    const large = made(server, { requestsMax: 1, timeoutMs: 5_000 }, { waitingBytes: 1_000 })
    const [first, second, third] = ['e', 'f', 'g'.repeat(1_000)].map((user) => large.ask(user))
    expect(await third).toMatchObject({ reasonCode: 0x89 })
    await expect.poll(() => open.length).toBe(3)
    open[2]!()
    await expect.poll(() => open.length).toBe(4)
    open[3]!()
    expect([await first, await second]).toMatchObject([{ user: 'e' }, { user: 'f' }])
    const again = ['h', 'i'].map((user) => large.ask(user)) // what has gone does not count
    for (const at of [4, 5]) {
      await expect.poll(() => open.length).toBe(at + 1)
      open[at]!()
    }
    expect([await again[0], await again[1]]).toMatchObject([{ user: 'h' }, { user: 'i' }])
  })
})
