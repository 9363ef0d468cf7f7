// `node --workers N`: several processes behind one address, each a node of the cluster. They share what comes,
// die alone, stop together, and one admin endpoint speaks for all.
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { ChildProcess } from 'node:child_process'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { TestClient } from '../support/client.ts'
import { mainPath } from '../support/cluster.ts'
import { readPids } from '../support/processes.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { spawned } from '../support/spawned.ts'

let redis: TestRedis
beforeAll(async () => {
  redis = await startRedis()
})
afterAll(() => redis[Symbol.asyncDispose]())

interface Workers {
  readonly child: ChildProcess
  readonly url: string
  readonly admin: string
  readonly log: () => string
}

const start = (id: string, ...argv: string[]): { child: ChildProcess; log: () => string } => {
  const child = spawned(
    process.execPath,
    [mainPath, 'node', '--id', id, '--workers', '2', '--redis', redis.url, '--prefix', id, ...argv],
    { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] },
  )
  let log = ''
  child.stderr!.on('data', (chunk: Buffer) => {
    log += chunk.toString()
  })
  return { child, log: () => log }
}

async function serving(id: string, ...argv: string[]): Promise<Workers> {
  const { child, log } = start(id, ...argv, '--listen', 'mqtt://127.0.0.1:0', '--admin', 'http://127.0.0.1:0')
  const [{ listen, admin }] = (await once(child, 'message')) as [{ listen: [string]; admin: string }]
  return { child, url: listen[0], admin, log }
}

/** Pids of the workers, by number. */
const workersOf = (id: string): Map<number, number> =>
  new Map(
    readPids().flatMap(({ pid, command }) => {
      const [, worker] = new RegExp(`node --id ${id} .*--worker (\\d+)`).exec(command) ?? []
      return worker === undefined ? [] : [[Number(worker), pid]]
    }),
  )

const get = async ({ admin }: Workers, path: string): Promise<string> => (await fetch(admin + path)).text()
const metric = async (workers: Workers, name: string): Promise<number> =>
  Number(new RegExp(`^${name} (.*)$`, 'm').exec(await get(workers, '/metrics'))?.[1])

test('two workers are two nodes behind one address: clients of both hear one another; one that is killed comes back while the other serves; a stop ends both', async () => {
  const workers = await serving('both')
  expect(JSON.parse(await get(workers, '/readyz'))).toEqual({
    ready: true,
    checks: { 'both-1': 'redis: ok; node: ok', 'both-2': 'redis: ok; node: ok' },
  })
  const clients: TestClient[] = []
  for (let i = 0; i < 4; i++) {
    const client = await TestClient.connect(workers.url, `c${i}`, { version: 5 })
    await client.subscribe('to/all', { qos: 1 })
    clients.push(client)
  }
  for (const [i, client] of clients.entries()) await client.publish('to/all', `by ${i}`, { qos: 1 })
  for (const client of clients) await client.arrivals(4)
  const routes = JSON.parse(await get(workers, '/routes')) as {
    nodes: string[]
    routes: { nodeId: string }[]
  }
  expect(routes.nodes.map((node) => node.replace(/@.*/, ''))).toEqual(['both-1', 'both-2'])
  expect(new Set(routes.routes.map(({ nodeId }) => nodeId.replace(/@.*/, ''))), 'each has clients').toEqual(
    new Set(['both-1', 'both-2']),
  )
  expect(await metric(workers, 'aedes_cluster_connections')).toBe(4)
  expect(await metric(workers, 'aedes_cluster_connects_total')).toBe(4)
  expect(await metric(workers, 'aedes_cluster_nodes')).toBe(2)
  const { clients: listed } = JSON.parse(await get(workers, '/api/v1/clients?client=c*')) as {
    clients: { clientId: string }[]
  }
  expect(listed.map(({ clientId }) => clientId).sort(), 'a worker answers for all').toEqual([
    'c0',
    'c1',
    'c2',
    'c3',
  ])
  const published = await fetch(`${workers.admin}/api/v1/publish`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', origin: 'http://evil.example' },
    body: '{"topic":"t"}',
  })
  expect([published.status, Object.keys((await published.json()) as object)], 'not for a web page').toEqual([
    403,
    ['error', 'hint'],
  ])

  const killed = workersOf('both').get(1)!
  process.kill(killed, 'SIGKILL')
  const connected = (): TestClient[] => clients.filter(({ mqtt }) => mqtt.connected)
  await expect.poll(workers.log).toContain('a worker ended')
  await expect
    .poll(async () => connected().length - (await metric(workers, 'aedes_cluster_connections')))
    .toBe(0)
  const left = connected()
  expect(left.length, 'the other worker keeps its own').toBeGreaterThan(0)
  expect(left.length).toBeLessThan(4)
  expect(await metric(workers, 'aedes_cluster_connects_total'), 'no counter goes back').toBe(4)
  await using meanwhile = await TestClient.connect(workers.url, 'meanwhile', { version: 5 })
  await meanwhile.publish('to/all', 'while one is away', { qos: 1 })
  await left[0]!.arrivals(5)
  await expect.poll(workers.log).toContain('the worker serves again')
  expect(workersOf('both').get(1)).not.toBe(killed)
  expect(JSON.parse(await get(workers, '/readyz'))).toMatchObject({ ready: true })

  workers.child.kill('SIGTERM')
  expect(await once(workers.child, 'exit')).toEqual([0, null])
  expect(workersOf('both')).toEqual(new Map())
  await meanwhile.closed()
  expect(meanwhile.serverDisconnect, 'Server shutting down').toBe(0x8b)
})

test('workers whose admin tokens change take the new ones; those whose first process is killed stop in order: their clients are told', async () => {
  const tokens = join(mkdtempSync(join(tmpdir(), 'aedes-cluster-workers-')), 'tokens')
  writeFileSync(tokens, 'read ops token-of-yesterday-0123\n')
  const workers = await serving('orphans', '--admin-tokens-file', tokens)
  const statuses = (): Promise<number[]> =>
    Promise.all(
      ['token-of-yesterday-0123', 'token-of-today-456789012'].map(async (token) => {
        const headers = { authorization: `Bearer ${token}` }
        return (await fetch(`${workers.admin}/api/v1/clients`, { headers })).status
      }),
    )
  expect(await statuses()).toEqual([200, 401])
  writeFileSync(tokens, 'read ops token-of-today-456789012\n')
  workers.child.kill('SIGHUP')
  await expect.poll(statuses).toEqual([401, 200])
  rmSync(dirname(tokens), { recursive: true })
  const clients = await Promise.all(
    ['a', 'b'].map((id) => TestClient.connect(workers.url, id, { version: 5 })),
  )
  workers.child.kill('SIGKILL')
  for (const client of clients) await client.closed()
  expect(clients.map(({ serverDisconnect }) => serverDisconnect)).toEqual([0x8b, 0x8b])
  await expect.poll(() => workersOf('orphans')).toEqual(new Map())
})

test('what is wrong with all workers is said once, and ends them', async () => {
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const { port } = taken.address() as AddressInfo
  const { child, log } = start('once', '--listen', `mqtt://127.0.0.1:${port}`, '--admin', 'off')
  const [code] = (await once(child, 'exit')) as [number]
  taken.close()
  expect(log().match(/the port is in use/g)).toHaveLength(1)
  expect(code).toBe(3)
  expect(workersOf('once')).toEqual(new Map())
})
