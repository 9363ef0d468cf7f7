// What a user gets: the package as npm packs it, installed in an empty folder. Our package.json's `overrides` do not hold
// there, so npm chooses the tree anew: what must be one copy is counted. Then a cluster is started by npx, used and ended.
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { TestClient } from '../support/client.ts'
import { readPids } from '../support/processes.ts'
import { freePort } from '../support/redis.ts'

const run = promisify(execFile)
// What npm tells the commands it runs, `npm test` among them, is about this folder and would mislead an npm in another.
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_(?!config_(registry|cache|cafile|userconfig|globalconfig)$)/i.test(name)))
const root = fileURLToPath(new URL('../..', import.meta.url))
const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { dependencies: Record<string, string> }

let folder = ''
let installed: { stdout: string; stderr: string }
beforeAll(async () => {
  const packed = mkdtempSync(join(tmpdir(), 'aedes-cluster-pack-'))
  folder = join(packed, 'empty')
  mkdirSync(folder)
  await run('npm', ['pack', '--ignore-scripts', '--pack-destination', packed], { cwd: root, env })
  const tarball = readdirSync(packed).find((name) => name.endsWith('.tgz'))!
  installed = await run('npm', ['install', `../${tarball}`, '--prefer-offline', '--no-audit', '--no-fund'], { cwd: folder, env })
})
afterAll(() => rmSync(join(folder, '..'), { recursive: true, force: true }))

test('npm installs it without a conflict, with one copy of what connections and nodes share', () => {
  expect(installed.stderr).not.toMatch(/ERESOLVE|peer/i)
  const { packages } = JSON.parse(readFileSync(join(folder, 'node_modules/.package-lock.json'), 'utf8')) as { packages: Record<string, { version: string }> }
  const copies = (name: string): string[] => Object.keys(packages).filter((path) => path.endsWith(`node_modules/${name}`))
  for (const name of ['aedes', 'mqtt-packet', 'mqemitter', 'ioredis']) expect(copies(name), `copies of ${name}`).toHaveLength(1)
  for (const [name, wanted] of Object.entries(dependencies).filter(([, range]) => /^\d/.test(range))) {
    const found = packages[`node_modules/aedes-cluster/node_modules/${name}`] ?? packages[`node_modules/${name}`]
    expect(found?.version, `${name} as the product finds it`).toBe(wanted)
  }
})

test('npx runs it; the configuration file that it brings is valid', async () => {
  const { stdout } = await run('npx', ['--no', 'aedes-cluster', 'check', '--offline', '--config', 'node_modules/aedes-cluster/deploy/config/node.yaml'], { cwd: folder, env })
  expect(stdout).toContain('redis: redis://127.0.0.1:6379')
})

test('`npx aedes-cluster up` is one broker over two nodes and leaves nothing behind', async () => {
  const port = await freePort([0, 1, 2, 3, 4, 5])
  const data = join(folder, 'data')
  const ours = (): { pid: number; command: string }[] => readPids().filter(({ command }) => command.includes(data))
  const child = spawn('npx', ['--no', 'aedes-cluster', 'up', '--nodes', '2', '--port', `${port}`, '--ws-port', `${port + 2}`, '--admin-port', `${port + 4}`, '--data', data],
    { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] })
  const ended = once(child, 'exit')
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => { output += chunk.toString() })
  try {
    await expect.poll(() => output, { timeout: 20_000, interval: 20 }).toContain('Ctrl-C stops everything.')
    const [a, b] = [...output.matchAll(/^ {2}\w {2}(mqtt:\S+) {2}(ws:\S+) {2}(http:\S+)$/gm)]
    await using here = await TestClient.connect(a![1]!, 'here')
    await using there = await TestClient.connect(b![2]!, 'there', { version: 5 })
    await here.subscribe('letters/here')
    await there.subscribe('letters/there')
    await here.publish('letters/there', 'hello')
    await there.publish('letters/here', 'hello yourself')
    await there.receives([{ topic: 'letters/there', payload: 'hello' }])
    await here.receives([{ topic: 'letters/here', payload: 'hello yourself' }])
    expect((await fetch(b![3] + '/readyz')).status).toBe(200)

    const commands = ours().map(({ command }) => command)
    expect(commands.filter((command) => /main\.js node --id [ab] /.test(command))).toHaveLength(2)
    expect(commands.filter((command) => /^\S*(redis|valkey)-server /.test(command))).toHaveLength(1)
  } finally {
    // Not npx, which would pass a signal on and then end by it: npx ends as its command does.
    for (const { pid } of ours().filter(({ command }) => /^node \S+aedes-cluster up /.test(command))) process.kill(pid, 'SIGINT')
  }
  expect(await ended, output).toEqual([0, null])
  await expect.poll(() => ours().map(({ command }) => command)).toEqual([])
})
