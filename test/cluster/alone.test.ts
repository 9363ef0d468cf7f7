// A node without Redis: it says what it keeps, and where; what was acknowledged is there when it was killed
// and starts again; no second node takes its file.
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { mainPath, TestNode } from '../support/cluster.ts'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-alone-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

const readiness = async (node: TestNode): Promise<unknown> => (await fetch(`${node.adminUrl}/readyz`)).json()

test('in memory: it serves at once and says that nothing outlives it', async () => {
  await using node = new TestNode('m', [])
  await node.start()
  expect(node.log).toMatch(
    /no Redis is named: one node, which keeps sessions and messages in memory: they are gone when it stops/,
  )
  expect(await readiness(node)).toMatchObject({ ready: true, checks: { memory: 'ok', node: 'ok' } })
  await using client = await node.connect('c')
  await client.subscribe('t')
  await client.publish('t', 'x')
  await client.receives([{ topic: 't', payload: 'x' }])
})

test('with a file: killed and started again it has sessions, their queues and Retained Messages; a second node is refused', async () => {
  const file = join(folder, 'state')
  await using node = new TestNode('f', ['--state-file', file])
  await node.start()
  expect(await readiness(node)).toMatchObject({ checks: { file: 'ok' } })
  const sleeper = await node.connect('sleeper', { clean: false })
  await sleeper.subscribe('t/#')
  await sleeper.disconnect()
  await using publisher = await node.connect('publisher')
  for (const n of [1, 2, 3]) await publisher.publish(`t/${n}`, String(n), { qos: 1, retain: n === 3 })
  const second = spawnSync(
    process.execPath,
    [mainPath, 'node', '--id', 'g', '--listen', 'mqtt://127.0.0.1:0', '--admin', 'off', '--state-file', file],
    { encoding: 'utf8' },
  )
  expect([second.status, second.stderr]).toEqual([
    10,
    expect.stringMatching(
      /^aedes-cluster: --state-file=.*: .* is used by another node, which .*state\.lock names\. Name another file, .*\n$/,
    ),
  ])
  await node.kill()
  await node.start()
  await using again = await node.connect('sleeper', { clean: false })
  await again.receives([1, 2, 3].map((n) => ({ topic: `t/${n}`, payload: String(n), retain: false })))
  await using late = await node.connect('late')
  await late.subscribe('t/#')
  await late.receives([{ topic: 't/3', payload: '3', retain: true }])
})

test('when its disk is full publishers wait, and some CONNECTs, log and /readyz say so, and all goes on when there is room', async () => {
  await using node = new TestNode('full', ['--state-file', join(folder, 'full'), '--claims-waiting-max', '2'])
  await node.start()
  const limit = (bytes: number | 'unlimited'): unknown =>
    execFileSync('prlimit', ['--pid', String(node.pid), `--fsize=${bytes}:unlimited`])
  await using publisher = await node.connect('publisher')
  limit(200_000)
  const publishes = Array.from({ length: 30 }, (_, n) =>
    publisher.publish(`t/${n}`, Buffer.alloc(10_000), { qos: 1, retain: true }),
  )
  await expect
    .poll(() => node.log)
    .toMatch(/the disk: EFBIG.*: 1 publisher, 1 write waiting for .*Make room on it/)
  const coming = [1, 2].map((n) => node.connect(`waits${n}`, { clean: false }))
  await expect
    .poll(async () => (await fetch(`${node.adminUrl}/metrics`)).text())
    .toContain('aedes_cluster_waiting{who="connects"} 2')
  await expect(node.connect('too many', { clean: false })).rejects.toThrow(/Server unavailable/)
  expect(await readiness(node)).toMatchObject({
    ready: false,
    checks: { file: expect.stringMatching(/EFBIG.*Make room/) as string },
  })
  limit('unlimited')
  await Promise.all(publishes)
  for (const client of await Promise.all(coming)) await client[Symbol.asyncDispose]()
  await expect.poll(() => node.log).toMatch(/the disk is back after/)
  expect(await readiness(node)).toMatchObject({ ready: true })
  await node.kill()
  await node.start()
  await using late = await node.connect('late')
  await late.subscribe('t/#')
  await late.arrivals(30)
})
