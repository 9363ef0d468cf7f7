// The command line's contract, which deployments rely on: what it prints, what it refuses and how it ends.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parse } from 'yaml'
import { TestClient } from '../support/client.ts'
import { mainPath, startCluster } from '../support/cluster.ts'
import { readPids } from '../support/processes.ts'
import { freePort, startRedis, type TestRedis } from '../support/redis.ts'

interface Ended { code: number | null; stdout: string; stderr: string }

async function run(argv: readonly string[], env: Record<string, string> = {}): Promise<Ended> {
  const child = spawn(process.execPath, [mainPath, ...argv], { env: { PATH: process.env.PATH, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk: Buffer) => { stdout += chunk.toString() })
  child.stderr.on('data', (chunk: Buffer) => { stderr += chunk.toString() })
  const [code] = await once(child, 'close') as [number | null]
  return { code, stdout, stderr }
}

let folder = ''
let redis: TestRedis
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-cli-'))
  redis = await startRedis()
})
afterAll(async () => {
  rmSync(folder, { recursive: true, force: true })
  await redis[Symbol.asyncDispose]()
})

function file(name: string, text: string): string {
  const path = join(folder, name)
  writeFileSync(path, text)
  return path
}

const wrong: [name: string, argv: () => string[], code: number, says: RegExp][] = [
  ['an unknown option names the nearest', () => ['node', '--lisen', 'mqtt://127.0.0.1:0'], 2, /--lisen.*not an option.*Did you mean --listen\?/],
  ['an unknown command names the nearest', () => ['chek'], 2, /command=chek.*Did you mean check\?/],
  ['a bad URL', () => ['node', '--listen', 'http://127.0.0.1:1'], 2, /--listen=.*http.*scheme.*mqtt:\/\/host|--listen/],
  ['a bad number', () => ['node', '--packet-bytes-max', 'many'], 2, /--packet-bytes-max=many.*1024/],
  ['a missing value', () => ['node', '--id'], 2, /--id.*no value/],
  ['a missing file', () => ['node', '--config', join(folder, 'none.yaml')], 2, /--config=.*ENOENT/],
  ['a file that is not YAML', () => ['check', '--config', file('bad.yaml', 'a: [')], 2, /--config=.*not YAML/],
  ['an unknown key in the file', () => ['check', '--config', file('typo.yaml', 'prefx: x')], 2, /prefx=x.*Did you mean prefix\?/],
  ['TLS without a certificate', () => ['node', '--listen', 'mqtts://127.0.0.1:0'], 2, /needs --tls-cert/],
  ['Redis unreachable', () => ['node', '--redis', 'redis://:secret@127.0.0.1:1', '--listen', 'mqtt://127.0.0.1:0', '--admin', 'http://127.0.0.1:0'], 4, /--redis=redis:\/\/:\*\*\*@127.0.0.1:1.*ECONNREFUSED.*Start Redis/],
  ['a bad number of nodes', () => ['up', '--nodes', '0'], 2, /--nodes=0.*1 to 26/],
]

test.each(wrong)('%s: one line, exit code, no stack trace', async (_name, argv, code, says) => {
  const ended = await run(argv())
  expect(ended.stderr).toMatch(says)
  expect(ended.stderr.trimEnd().split('\n')).toHaveLength(1)
  expect(ended.stderr).not.toContain('secret')
  expect(ended.code).toBe(code)
})

test('an unknown environment variable of ours is refused, foreign ones are not', async () => {
  const ended = await run(['check', '--offline'], { AEDES_CLUSTER_PREFX: 'x', OTHER: 'y' })
  expect(ended.stderr).toMatch(/AEDES_CLUSTER_PREFX=x.*Did you mean AEDES_CLUSTER_PREFIX\?/)
  expect(ended.code).toBe(2)
})

test('a port in use: one line with field and value, exit code 3, for node and check', async () => {
  const holder = createServer().listen(0, '127.0.0.1')
  await once(holder, 'listening')
  const { port } = holder.address() as { port: number }
  for (const command of ['node', 'check']) {
    const ended = await run([command, '--redis', redis.url, '--admin', 'off', '--listen', `mqtt://127.0.0.1:${port}`, '--log-level', 'silent'])
    expect(ended.stderr).toMatch(new RegExp(`--listen=mqtt://127.0.0.1:${port}: the port is in use`))
    expect(ended.stderr.trimEnd().split('\n')).toHaveLength(1)
    expect(ended.code).toBe(3)
  }
  holder.close()
})

test('check prints the effective configuration: defaults < file < environment < flags, secrets hidden', async () => {
  const config = file('node.yaml', 'id: from-file\nprefix: from-file\nshutdownMs: 1\nredis: redis://u:hunter2@h:1\n')
  const ended = await run(['check', '--offline', '--config', config, '--id', 'from-flag'], { AEDES_CLUSTER_ID: 'from-env', AEDES_CLUSTER_PREFIX: 'from-env', AEDES_CLUSTER_LISTEN: 'mqtt://127.0.0.1:1, ws://127.0.0.1:2/mqtt' })
  expect(ended.code).toBe(0)
  expect(parse(ended.stdout)).toMatchObject({
    id: 'from-flag', prefix: 'from-env', shutdownMs: 1, redisTimeoutMs: 2_000, redis: 'redis://u:***@h:1',
    listen: ['mqtt://127.0.0.1:1', 'ws://127.0.0.1:2/mqtt'],
  })
})

test('check tries Redis', async () => {
  const argv = ['check', '--listen', 'mqtt://127.0.0.1:0', '--admin', 'http://127.0.0.1:0', '--redis']
  expect((await run([...argv, redis.url])).code).toBe(0)
  expect((await run([...argv, 'redis://127.0.0.1:1'])).code).toBe(4)
})

test('--help names every command, --version the version', async () => {
  expect((await run(['--help'])).stdout).toMatch(/up[^]*node[^]*check/)
  expect((await run(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/)
})

test('data of another layout are left alone', async () => {
  await using other = await startRedis()
  const client = new Redis(other.url)
  await client.set('aedes:{bus}:format', '2')
  const refused = await run(['node', '--listen', 'mqtt://127.0.0.1:0', '--admin', 'off', '--redis', other.url, '--log-level', 'silent'])
  expect(refused.stderr).toBe('aedes-cluster: --prefix=aedes: FORMAT the data are in format 2, this version knows format 1. Run the version of aedes-cluster that wrote them, or begin anew under another --prefix\n')
  expect(refused.code).toBe(8)
  expect(await client.keys('*')).toEqual(['aedes:{bus}:format'])
  client.disconnect()
})

test('a wrong Redis password is told as such', async () => {
  await using locked = await startRedis('--requirepass', 'right')
  const argv = ['node', '--admin', 'off', '--listen', 'mqtt://127.0.0.1:0', '--redis', locked.url, '--log-level', 'silent']
  const refused = await run(argv)
  expect(refused.code).toBe(4)
  expect(refused.stderr).toMatch(/--redis.*NOAUTH/)
  await using cluster = await startCluster({ nodes: 1, redis: locked, argv: ['--redis-password-file', file('password', 'right\n')] })
  expect((await cluster.node(0).admin('/readyz')).status).toBe(200)
})

/** Free neighbouring ports for `up`, which counts on from the first. */
const upArgv = async (data: string): Promise<{ argv: string[]; port: number }> => {
  const port = await freePort([0, 1, 100, 101, 200, 201])
  return { port, argv: ['up', '--nodes', '2', '--port', String(port), '--ws-port', String(port + 100), '--admin-port', String(port + 200), '--data', data] }
}

async function untilServing(child: ReturnType<typeof spawn>): Promise<string> {
  let output = ''
  for await (const chunk of child.stdout!.iterator({ destroyOnReturn: false })) {
    output += String(chunk)
    if (output.includes('Ctrl-C')) break
  }
  child.stdout!.resume()
  return output
}

function childrenOf(data: string): number[] {
  return readPids().filter(({ command }) => command.includes(data)).map(({ pid }) => pid)
}

test('up: a local cluster with its own Redis; its data outlives it; Ctrl-C and kill -9 leave no process behind', async () => {
  const data = join(folder, 'data')
  const { argv, port } = await upArgv(data)
  const first = spawn(process.execPath, [mainPath, ...argv], { stdio: ['ignore', 'pipe', 'inherit'] })
  expect(await untilServing(first)).toContain(`mqtt://127.0.0.1:${port + 1}`)
  const sensor = await TestClient.connect(`mqtt://127.0.0.1:${port}`, 'sensor', { clean: false })
  await sensor.publish('up/state', 'kept', { qos: 1, retain: true })
  const other = await TestClient.connect(`mqtt://127.0.0.1:${port + 1}`, 'other')
  await other.subscribe('up/#')
  await other.receives([{ topic: 'up/state', payload: 'kept', retain: true }])
  const second = await run([...argv.slice(0, -2), '--data', data])
  expect(second.stderr).toMatch(/--data=.*running/)
  expect(second.code).toBe(6)
  expect(childrenOf(data).length).toBeGreaterThan(2)
  first.kill('SIGINT')
  expect(await once(first, 'exit')).toEqual([0, null])
  expect(childrenOf(data)).toEqual([])

  const again = spawn(process.execPath, [mainPath, ...argv], { stdio: ['ignore', 'pipe', 'inherit'] })
  await untilServing(again)
  const late = await TestClient.connect(`mqtt://127.0.0.1:${port + 1}`, 'late')
  await late.subscribe('up/#')
  await late.receives([{ topic: 'up/state', payload: 'kept', retain: true }])
  again.kill('SIGKILL')
  await once(again, 'exit')
  await expect.poll(() => childrenOf(data), { timeout: 20_000 }).toEqual([])
})

test('up starts a node again that was killed', async () => {
  const data = join(folder, 'again')
  const { argv, port } = await upArgv(data)
  const child = spawn(process.execPath, [mainPath, ...argv], { stdio: ['ignore', 'pipe', 'pipe'] })
  await untilServing(child)
  const node = readPids().find(({ command }) => command.includes(data) && command.includes('main.js node --id a'))
  process.kill(node!.pid, 'SIGKILL')
  for await (const chunk of child.stderr.iterator({ destroyOnReturn: false })) if (String(chunk).includes('node a serves again')) break
  await using client = await TestClient.connect(`mqtt://127.0.0.1:${port}`, 'back')
  expect(client.mqtt.connected).toBe(true)
  child.kill('SIGTERM')
  expect(await once(child, 'exit')).toEqual([0, null])
})
