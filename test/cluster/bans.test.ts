// Bans: by Client Identifier, user, address and network; on CONNECT and of who is connected; on all nodes of a cluster
// by its Redis, and on a node without one.
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { bansCommand } from '../../broker/cli/bans-command.ts'
import { createNode, type Node, type NodeOptions } from '../../broker/index.ts'
import { mainPath } from '../support/cluster.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { spawned } from '../support/spawned.ts'
import { WireClient } from '../support/wire.ts'

let redis: TestRedis
let count = 0
const nodes: Node[] = []
beforeAll(async () => {
  redis = await startRedis('--appendonly', 'no')
})
afterEach(async () => {
  await Promise.all(nodes.splice(0).map((node) => node.close()))
})
afterAll(() => redis[Symbol.asyncDispose]())

async function serve(options: NodeOptions = {}, id = 'a'): Promise<Node> {
  const node = await createNode(
    { id, listen: ['mqtt://127.0.0.1:0'], authentication: ['hooks'], ...options },
    { authenticate: (_client, _username, _password, done) => done(null, true) },
  )
  nodes.push(node)
  return node
}

const counted = async (node: Node, counter: string): Promise<number> =>
  Number(
    (await node.metricsText())
      .split('\n')
      .find((line) => line.startsWith(`aedes_cluster_${counter} `))
      ?.split(' ')[1],
  )

const come = (
  node: Node,
  clientId: string,
  options: Parameters<typeof WireClient.connect>[2] = {},
): ReturnType<typeof WireClient.connect> =>
  WireClient.connect(node.endpoints[0]!, clientId, { username: 'anna', ...options })
const answer = async (node: Node, clientId: string, username = 'anna'): Promise<number | undefined> => {
  const client = await come(node, clientId, { username })
  client.socket.destroy()
  return client.connack.reasonCode
}

describe.each(['memory', 'Redis'])('%s', (store) => {
  const where = (): NodeOptions => (store === 'Redis' ? { redis: redis.url, prefix: `ban${++count}` } : {})

  test.each([
    ['client', 'a'],
    ['user', 'anna'],
    ['network', '127.0.0.1'],
    ['network', '127.0.0.0/8'],
  ] as const)('by %s %s: who is connected is told to go, who connects is refused', async (kind, name) => {
    const node = await serve(where())
    const [five, three] = [
      await come(node, 'a'),
      await come(node, kind === 'client' ? 'a3' : 'b', { version: 4 }),
    ]
    if (kind === 'client') await node.ban('client', 'a3')
    expect(await node.ban(kind, name, { reason: 'noise' })).toBe(true)
    expect((await five.next('disconnect')).reasonCode).toBe(0x98)
    await Promise.all([five.untilClosed(), three.untilClosed()])
    expect(await answer(node, 'a')).toBe(0x8a)
    expect((await come(node, kind === 'client' ? 'a3' : 'b', { version: 4 })).connack.returnCode).toBe(5)
    expect(await counted(node, 'refusals_total{cause="banned"}')).toBe(4)
    if (kind !== 'network') expect(await answer(node, 'other', 'otto')).toBe(0)
    expect((await node.banned()).find((ban) => ban.name === name)).toMatchObject({
      kind,
      name,
      reason: 'noise',
    })
    expect(await node.unban(kind, name)).toBe(true)
    expect(await node.unban(kind, name)).toBe(false)
    expect(await answer(node, 'a')).toBe(0)
  })

  test('its end', async () => {
    const node = await serve(where())
    await node.ban('client', 'a', { seconds: 1 })
    expect(await answer(node, 'a')).toBe(0x8a)
    await expect.poll(() => answer(node, 'a'), { timeout: 5_000 }).toBe(0)
    expect(await node.banned()).toEqual([])
  })

  test('flappingConnectsMax: who connects too often is banned for a while, and nobody else', async () => {
    const node = await serve({ ...where(), limits: { flappingConnectsMax: 3, flappingBanSeconds: 60 } })
    const codes: unknown[] = []
    for (let n = 0; n < 5; n++) codes.push(await answer(node, 'flaps'))
    expect(codes).toEqual([0, 0, 0, 0x8a, 0x8a])
    expect(await node.banned()).toMatchObject([{ kind: 'client', name: 'flaps' }])
    for (let n = 0; n < 3; n++) expect(await answer(node, 'calm')).toBe(0)
  })
})

const run = async (...argv: string[]): Promise<{ code: number; out: string }> => {
  const child = spawned(process.execPath, [mainPath, 'bans', ...argv], { stdio: ['ignore', 'pipe', 'pipe'] })
  const exit = once(child, 'exit') as Promise<[number]>
  const [out, error] = await Promise.all([text(child.stdout), text(child.stderr)])
  return { code: (await exit)[0], out: out + error }
}

test('aedes-cluster bans add, list, remove: on all nodes, also of who is connected, and of those that start later', async () => {
  const to = { redis: redis.url, prefix: `ban${++count}` }
  const flags = ['--redis', redis.url, '--prefix', to.prefix]
  const [a, b] = [await serve(to, 'a'), await serve(to, 'b')]
  const clients = [await come(a, 'c1'), await come(b, 'c2')]
  expect(await run('add', '--user', 'anna', '--reason', 'noise', '--seconds', '600', ...flags)).toEqual({
    code: 0,
    out: 'banned user "anna"\n',
  })
  for (const client of clients) expect((await client.next('disconnect')).reasonCode).toBe(0x98)
  for (const node of [a, b, await serve(to, 'c')]) expect(await answer(node, 'c3')).toBe(0x8a)
  expect((await run('list', ...flags)).out).toMatch(/^user "anna" for \d{3} s: "noise"\n$/)
  expect(await run('remove', '--user', 'anna', ...flags)).toEqual({ code: 0, out: 'removed user "anna"\n' })
  for (const node of nodes) await expect.poll(() => answer(node, `c${count++}`)).toBe(0)
})

test.each([
  [['']],
  [[]],
  [['ad']],
  [['add', '--redis', 'redis://127.0.0.1:1']],
  [['add', '--client', 'a', '--user', 'b', '--redis', 'redis://127.0.0.1:1']],
  [['add', '--network', '10.0.0.0/33', '--redis', 'redis://127.0.0.1:1']],
  [['add', '--client', 'a', '--seconds', '0', '--redis', 'redis://127.0.0.1:1']],
  [['list']],
])('bans %j is an error of usage', async (argv) => {
  await expect(bansCommand(argv)).rejects.toMatchObject({ exitCode: 2 })
})
