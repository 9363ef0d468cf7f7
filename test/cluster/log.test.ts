// The log of a node process, with a reader that does not read and with clients that would fill it.
import { once } from 'node:events'
import { expect, test } from 'vitest'
import { TestClient } from '../support/client.ts'
import { mainPath, startCluster, TestNode } from '../support/cluster.ts'
import { startRedis } from '../support/redis.ts'
import { spawned } from '../support/spawned.ts'
import { frame, WireClient } from '../support/wire.ts'

test('standard error that is full from the start, and never read: the node starts, serves and ends', async () => {
  await using redis = await startRedis()
  const command = `yes >&2 & exec "$0" "${mainPath}" node --id a --redis "$1" --listen mqtt://127.0.0.1:0 --admin http://127.0.0.1:0 --log-level debug`
  const node = spawned('/bin/sh', ['-c', command, process.execPath, redis.url], {
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  })
  const [{ listen, admin }] = (await once(node, 'message')) as [{ listen: [string]; admin: string }]
  for (let n = 0; n < 20; n++) {
    const garbage = await WireClient.connect(listen[0], 'x'.repeat(65_000) + `${n}`)
    garbage.send(frame(0x00))
    await garbage.untilClosed()
  }
  await using client = await TestClient.connect(listen[0], 'healthy')
  await client.ping()
  expect(await fetch(admin + '/readyz').then(({ status }) => status)).toBe(200)
  const ended = once(node, 'exit')
  node.kill('SIGTERM')
  expect(await ended).toEqual([0, null])
})

test('level debug: who came, and why each connection ended, with Client Identifier and address', async () => {
  await using cluster = await startCluster({ nodes: 2, argv: ['--log-level', 'debug'] })
  const [here, there] = [cluster.node(0), cluster.node(1)]
  await here.connect('taken', { version: 5 })
  await here.connect('taken')
  await there.connect('taken', { ws: true }).then((client) => client.disconnect())
  await here.connect('gone').then((client) => client.drop())
  const wrong = await WireClient.connect(there.url, 'wrong')
  wrong.send(frame(0x00))
  await wrong.untilClosed()
  await there.connect('stays')
  await there.stop()
  const ended = (node: TestNode): string[] =>
    node.log
      .split('\n')
      .filter((line) => line.includes('a connection ended'))
      .map((line) => {
        const { level, clientId, address, reason } = JSON.parse(line) as Record<string, string>
        return `${level} ${clientId} ${/^127\.0\.0\.1 \d+$/.test(address!) ? '' : `${address} `}${reason}`
      })
  const takenOver = 'debug taken taken over by another connection of its Client Identifier'
  await expect
    .poll(() => ended(here))
    .toEqual([takenOver, takenOver, 'debug gone its socket was closed, without DISCONNECT'])
  expect(ended(there)).toEqual([
    'debug taken DISCONNECT 0x00',
    'debug wrong a packet of type 0 from a client',
    'debug stays this node stops',
  ])
  await expect.poll(() => here.log).toMatch(/"nodeId":"b@\d+","msg":"a node left"/)
  expect(here.log).toMatch(
    /"clientId":"taken","address":"127\.0\.0\.1 \d+","protocolLevel":5,"sessionPresent":false,"msg":"a client connected"/,
  )
})

test('who is there, who joined, and who was declared dead by whom', async () => {
  await using cluster = await startCluster({ nodes: 1 })
  const here = cluster.node(0)
  await using there = new TestNode('b', ['--redis', cluster.redis.url, '--prefix', 'test'])
  await there.start()
  await expect.poll(() => there.log).toMatch(/"nodes":\["[ab]@\d+","[ab]@\d+"\],"msg":"serving"/)
  await expect.poll(() => here.log).toMatch(/"nodeId":"b@\d+","msg":"a node joined"/)
  await there.kill()
  await there.start() // who comes back under its name buries the one before
  await expect
    .poll(() => here.log)
    .toMatch(/"level":"warn".*"nodeId":"b@\d+","by":"b@\d+","msg":"a node had ended without leaving/)
})

test('an identifier of 64 KiB, again and again, is one short line', async () => {
  await using cluster = await startCluster({ nodes: 1, argv: ['--client-id-bytes-max', '65535'] })
  const node = cluster.node(0)
  for (let n = 0; n < 50; n++) {
    const client = await WireClient.connect(node.url, 'x'.repeat(65_000))
    client.send(frame(0x00))
    await client.untilClosed()
  }
  await cluster.node(0).stop()
  const lines = node.log.split('\n').filter((line) => line.includes('xxx'))
  expect(lines).toHaveLength(2) // at once, and at the end
  expect(lines.map((line) => (JSON.parse(line) as { leftOut?: number }).leftOut)).toEqual([undefined, 49])
  for (const line of lines) expect(line.length).toBeLessThan(600)
})
