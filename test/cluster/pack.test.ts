// What a user gets: the package as npm packs it, installed in an empty folder. It brings what it depends on
// in the very versions that the tests ran with: npm must not choose anew, and our package.json's `overrides`
// would not hold there. Then a cluster is started by npx, used and ended.
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { TestClient } from '../support/client.ts'
import { readPids } from '../support/processes.ts'
import { freePort } from '../support/redis.ts'
import { spawned } from '../support/spawned.ts'

const run = promisify(execFile)
// What npm tells the commands it runs, `npm test` among them, is about this folder and would mislead an npm
// in another.
const env = Object.fromEntries(
  Object.entries(process.env).filter(
    ([name]) => !/^npm_(?!config_(registry|cache|cafile|userconfig|globalconfig)$)/i.test(name),
  ),
)
const root = fileURLToPath(new URL('../..', import.meta.url))

let folder = ''
let installed: { stdout: string; stderr: string }
beforeAll(async () => {
  const packed = mkdtempSync(join(tmpdir(), 'aedes-cluster-pack-'))
  folder = join(packed, 'empty')
  mkdirSync(folder)
  writeFileSync(join(folder, 'package.json'), '{}') // npm looks for one above it otherwise
  await run('npm', ['pack', '--ignore-scripts', '--pack-destination', packed], { cwd: root, env })
  const tarball = readdirSync(packed).find((name) => name.endsWith('.tgz'))!
  installed = await run('npm', ['install', `../${tarball}`, '--prefer-offline', '--no-audit', '--no-fund'], {
    cwd: folder,
    env,
  })
}, 300_000) // npm unpacks and links some hundred packages, beside three other test files
afterAll(() => rmSync(join(folder, '..'), { recursive: true, force: true }))

interface Lock {
  packages: Record<string, { version: string; dev?: boolean }>
}
const readLock = (path: string): Lock['packages'] => (JSON.parse(readFileSync(path, 'utf8')) as Lock).packages
const ours = 'node_modules/aedes-cluster/'

test('npm installs it without a conflict: exactly the versions of package-lock.json, one copy of each', () => {
  expect(installed.stderr).not.toMatch(/ERESOLVE|peer/i)
  const locked = Object.entries(readLock(join(root, 'package-lock.json'))).filter(
    ([path, { dev = false }]) => path !== '' && !dev,
  )
  const found = Object.entries(readLock(join(folder, 'node_modules/.package-lock.json'))).filter(
    ([path]) => path !== ours.slice(0, -1),
  )
  expect(found.map(([path, { version }]) => `${path} ${version}`).sort()).toEqual(
    locked.map(([path, { version }]) => `${ours}${path} ${version}`).sort(),
  )
  const names = found.map(([path]) => path.split('node_modules/').at(-1))
  expect(names).toEqual(expect.arrayContaining(['aedes', 'mqtt-packet', 'mqemitter', 'ioredis']))
  for (const name of ['aedes', 'mqtt-packet', 'mqemitter', 'ioredis'])
    expect(
      names.filter((one) => one === name),
      name,
    ).toHaveLength(1)
})

test('it brings npm-shrinkwrap.json, for a registry that serves it, and says where it comes from', () => {
  const read = (path: string): string => readFileSync(path, 'utf8')
  expect(read(join(folder, ours, 'npm-shrinkwrap.json'))).toBe(read(join(root, 'package-lock.json')))
  expect(JSON.parse(read(join(folder, ours, 'package.json')))).toMatchObject({
    repository: { type: 'git', url: expect.stringMatching(/^git\+https:/) as string },
  })
})

test('each file that one of its pages links to is there, and each source map has its sources', () => {
  const files = readdirSync(join(folder, ours), { recursive: true, encoding: 'utf8' }).filter(
    (name) => !name.startsWith('node_modules'),
  )
  const dead = files
    .filter((name) => name.endsWith('.md'))
    .flatMap((name) =>
      [
        ...readFileSync(join(folder, ours, name), 'utf8').matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)/g),
      ].map(([, to]) => join(dirname(name), to!)),
    )
    .filter((path) => !existsSync(join(folder, ours, path)))
  expect(dead).toEqual([])
  const maps = files
    .filter((name) => name.endsWith('.map'))
    .map((name) => ({
      name,
      ...(JSON.parse(readFileSync(join(folder, ours, name), 'utf8')) as {
        sources: string[]
        sourcesContent?: string[]
      }),
    }))
  expect(
    maps
      .filter(({ sources, sourcesContent }) => sourcesContent?.length !== sources.length)
      .map(({ name }) => name),
  ).toEqual([])
  expect(maps.length).toBeGreaterThan(50)
})

test('npx runs it; the configuration file that it brings is valid', async () => {
  const { stdout } = await run(
    'npx',
    [
      '--no',
      'aedes-cluster',
      'check',
      '--offline',
      '--config',
      'node_modules/aedes-cluster/deploy/config/node.yaml',
    ],
    { cwd: folder, env },
  )
  expect(stdout).toContain('prefix: aedes')
})

test('a TypeScript program that embeds a node compiles, strict, by the types that it brings', async () => {
  writeFileSync(
    join(folder, 'program.mts'),
    `import { Aedes, createNode, type Client, type Hooks, type Node } from 'aedes-cluster'
const hooks: Hooks = {
  authenticate: (client, username, password, callback) =>
    callback(null, username === 'a' && password?.toString() === 'b' && client.id !== ''),
  authorizePublish: async (client, packet, callback) => callback(client === null ? null : new Error(packet.topic)),
  authorizeSubscribe: (_client, subscription, callback) => callback(null, { ...subscription, qos: 0 }),
  authorizeForward: (client, packet) => (client.id === 'x' ? null : packet),
}
export const node: Node = await createNode({ listeners: ['mqtt://127.0.0.1:0'], limits: { packetBytesMax: 1024 } }, hooks)
node.on('clientReady', (client: Client) => client.disconnect({ reasonCode: 0x8b }))
node.on('publish', (packet, client) => console.log(packet.payload.length, client?.id))
// @ts-expect-error there is no such event
node.on('nothing', () => undefined)
const end: () => void = await node.subscribe('a/+', ({ payload }) => payload.toString())
end()
const aedes = await Aedes.createBroker({ id: 'a', connectTimeout: 1 })
aedes.publish({ cmd: 'publish', topic: 't', payload: 'x', qos: 0, retain: false, dup: false }, () => undefined)
`,
  )
  const tsc = join(root, 'node_modules/.bin/tsc')
  const flags = [
    '--noEmit',
    '--strict',
    '--target',
    'es2022',
    '--module',
    'nodenext',
    '--exactOptionalPropertyTypes',
  ]
  const types = ['--typeRoots', join(root, 'node_modules/@types'), '--types', 'node', '--skipLibCheck']
  await run(process.execPath, [tsc, ...flags, ...types, 'program.mts'], { cwd: folder, env }).catch(
    ({ stdout }: { stdout: string }) => expect(stdout).toBe(''),
  )
})

test('`npx aedes-cluster up` is one broker over two nodes and leaves nothing behind', async () => {
  const port = await freePort([0, 1, 2, 3, 4, 5])
  const data = join(folder, 'data')
  const processes = (): { pid: number; command: string }[] =>
    readPids().filter(({ command }) => command.includes(data))
  onTestFinished(() => {
    for (const { pid } of processes()) process.kill(pid, 'SIGKILL') // npx may be gone, and passes no SIGKILL on
  })
  const child = spawned(
    'npx',
    [
      '--no',
      'aedes-cluster',
      'up',
      '--nodes',
      '2',
      '--port',
      `${port}`,
      '--ws-port',
      `${port + 2}`,
      '--admin-port',
      `${port + 4}`,
      '--data',
      data,
    ],
    { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] },
  )
  const ended = once(child, 'exit')
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString()
    })
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

    const commands = processes().map(({ command }) => command)
    expect(commands.filter((command) => /aedes-cluster\S* node --id [ab] /.test(command))).toHaveLength(2)
    expect(commands.filter((command) => /^\S*(redis|valkey)-server /.test(command))).toHaveLength(1)
  } finally {
    // Not npx, which would pass a signal on and then end by it: npx ends as its command does.
    for (const { pid } of processes().filter(({ command }) => /^node \S+aedes-cluster up /.test(command)))
      process.kill(pid, 'SIGINT')
  }
  expect(await ended, output).toEqual([0, null])
  await expect.poll(() => processes().map(({ command }) => command)).toEqual([])
})
