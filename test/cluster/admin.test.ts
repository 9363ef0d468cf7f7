// The admin endpoint: for whom it is, what it answers to whatever it is asked, and that a large answer holds
// nobody up.
import { once } from 'node:events'
import { connect } from 'node:net'
import { hostname } from 'node:os'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { hostCheck } from '../../broker/admin/hosts.ts'
import { startCluster, type TestCluster, type TestNode } from '../support/cluster.ts'
import { ask, descriptorsOf, knock, untilClosed } from '../support/door.ts'

let cluster: TestCluster
let node: TestNode
beforeAll(async () => {
  cluster = await startCluster({ nodes: 1, argv: ['--admin-hosts', 'broker.example', '--admin-hosts', 'b'] })
  node = cluster.node(0)
})
afterAll(() => cluster[Symbol.asyncDispose]())

const statusOf = async (host: string | undefined, path = '/livez'): Promise<string> =>
  (
    await ask(
      node.adminUrl,
      `GET ${path} HTTP/1.${host === undefined ? '0' : '1'}\r\n${host === undefined ? '' : `host: ${host}\r\n`}\r\n`,
    )
  ).slice(9, 12)

test.each([
  'localhost',
  'LOCALHOST:18083',
  '127.0.0.1',
  '10.1.2.3:80',
  '[::1]:18083',
  'broker.example',
  'Broker.Example.:1',
  'b',
  hostname(),
  undefined,
])('asked as %s it answers', async (host) => {
  expect(await statusOf(host)).toBe('200')
})

test.each([
  'evil.example',
  'localhost.evil.example',
  '127.0.0.1.evil.example',
  'evil.example@127.0.0.1',
  '127.0.0.1/evil',
  '',
  '//',
  '[::1].evil',
  'constructor',
  '__proto__',
  'x'.repeat(10_000),
])('asked as %.30s it does not: a page may have pointed that name here', async (host) => {
  for (const path of ['/metrics', '/routes', '/nowhere']) expect(await statusOf(host, path)).toMatch(/^4\d\d/)
})

test('the name in its own address is one of its names', () => {
  expect(hostCheck(new URL('http://broker-7.internal:80'), [])('broker-7.internal')).toBe(true)
  expect(hostCheck(new URL('http://0.0.0.0:80'), [])('broker-7.internal')).toBe(false)
})

test('//, other methods and upgrades are answered, not by 500', async () => {
  for (const request of [
    'GET // HTTP/1.1',
    'GET http://[ HTTP/1.1',
    'DELETE /routes HTTP/1.1',
    'GET /routes?limit=-1 HTTP/1.1',
    'OPTIONS * HTTP/1.1',
    'NONSENSE',
  ]) {
    expect(await ask(node.adminUrl, `${request}\r\nhost: localhost\r\n\r\n`), request).toMatch(
      /^HTTP\/1.1 4\d\d /,
    )
  }
})

test.each(['h2c', 'websocket'])(
  'a client that offers another protocol, %s, gets its answer by this one',
  async (name) => {
    const upgrade = `connection: upgrade\r\nupgrade: ${name}\r\n`
    expect(await ask(node.adminUrl, `GET /livez HTTP/1.1\r\nhost: localhost\r\n${upgrade}\r\n`)).toMatch(
      /^HTTP\/1\.1 200 /,
    )
  },
)

test('/routes is written as its reader reads, and has a limit', async () => {
  const subscriber = await node.connect('subscriber')
  const filters = Array.from({ length: 3_000 }, (_, n) => `a/filter/that/is/long/${'x'.repeat(1_000)}/${n}`)
  for (let n = 0; n < filters.length; n += 1_000) await subscriber.subscribe(filters.slice(n, n + 1_000))
  expect((await node.routes()).split('\n')).toHaveLength(3_000)
  for (const [query, count, left] of [
    ['', 3_000, false],
    ['?limit=3000', 3_000, false],
    ['?limit=2999', 2_999, true],
    ['?limit=0', 0, true],
  ] as const) {
    const { routes, more } = JSON.parse((await node.admin(`/routes${query}`)).body) as {
      routes: unknown[]
      more: boolean
    }
    expect([routes.length, more], query).toEqual([count, left])
  }

  const held = await node.heldBytes()
  const unread = await Promise.all(
    Array.from({ length: 20 }, async () => {
      const socket = connect(Number(new URL(node.adminUrl).port), '127.0.0.1').pause()
      socket.write('GET /routes?limit=1000000 HTTP/1.1\r\nhost: localhost\r\n\r\n')
      await once(socket, 'readable')
      return socket
    }),
  )
  expect((await node.heldBytes()) - held).toBeLessThan(20_000_000) // of 20 times 3 MB
  await subscriber.ping()
  for (const socket of unread) socket.destroy()
})

test('a hundred who ask byte by byte, or not at all, keep no probe out and leave no descriptor behind', async () => {
  await node.admin('/livez')
  const before = descriptorsOf(node.pid)
  const slow = await Promise.all(Array.from({ length: 100 }, () => knock(node.adminUrl)))
  for (const socket of slow) socket.write('G')
  for (let n = 0; n < 10; n++) expect((await node.admin('/readyz')).status).toBe(200)
  await Promise.all(slow.map((socket) => untilClosed(socket)))
  await expect.poll(() => descriptorsOf(node.pid)).toBeLessThanOrEqual(before)
})
