// The command line's contract, which deployments rely on: what it prints, what it refuses and how it ends.
import { spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parse } from 'yaml'
import { makeCertificates } from '../support/certificates.ts'
import { TestClient } from '../support/client.ts'
import { mainPath, startCluster } from '../support/cluster.ts'
import { readPids } from '../support/processes.ts'
import { freePort, startRedis, type TestRedis } from '../support/redis.ts'
import { python } from '../support/setup.ts'
import { spawned } from '../support/spawned.ts'
import { WireClient } from '../support/wire.ts'

interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

/** @param within a command that runs the program: `unshare` and its options */
async function run(
  argv: readonly string[],
  env: Record<string, string> = {},
  within: readonly string[] = [],
): Promise<Ended> {
  const [command, ...rest] = [...within, process.execPath, mainPath, ...argv]
  const child = spawned(command!, rest, {
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk.toString()
  })
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString()
  })
  const [code] = (await once(child, 'close')) as [number | null]
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

/** Ports that nobody has, for three nodes. */
async function upPorts(): Promise<string[]> {
  const port = await freePort([0, 1, 2, 100, 101, 102, 200, 201, 202])
  return ['--port', String(port), '--ws-port', String(port + 100), '--admin-port', String(port + 200)]
}

test('a signal ends `up` also while its Redis reads its data, and `check` while Redis does not answer', async () => {
  const bin = join(folder, 'bin')
  mkdirSync(bin)
  writeFileSync(join(bin, 'redis-server'), '#!/bin/sh\necho begun >&2\nexec sleep 60\n', { mode: 0o755 })
  const start = (argv: readonly string[], path = ''): ChildProcess =>
    spawned(process.execPath, [mainPath, ...argv], {
      env: { PATH: path + process.env.PATH! },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  const up = start(['up', '--data', join(folder, 'slow'), ...(await upPorts())], `${bin}:`)
  await once(up.stderr!, 'data')
  up.kill('SIGTERM')
  expect(await once(up, 'exit')).toEqual([0, null])
  const silent = createServer().listen(0, '127.0.0.1')
  await once(silent, 'listening')
  const check = start([
    'check',
    '--redis',
    `redis://127.0.0.1:${(silent.address() as AddressInfo).port}`,
    '--redis-timeout-ms',
    '60000',
    '--listen',
    'mqtt://127.0.0.1:0',
    '--admin',
    'off',
  ])
  const [asked] = (await once(silent, 'connection')) as [Socket]
  check.kill('SIGTERM')
  expect(await once(check, 'exit')).toEqual([null, 'SIGTERM'])
  asked.destroy()
  silent.close()
})

const wrong: [name: string, argv: () => string[] | Promise<string[]>, code: number, says: RegExp][] = [
  [
    'an unknown option names the nearest',
    () => ['node', '--lisen', 'mqtt://127.0.0.1:0'],
    2,
    /--lisen.*not an option.*Did you mean --listen\?/,
  ],
  ['an unknown command names the nearest', () => ['chek'], 2, /command=chek.*Did you mean check\?/],
  [
    'a bad URL',
    () => ['node', '--listen', 'http://127.0.0.1:1'],
    2,
    /--listen=.*http.*scheme.*mqtt:\/\/host|--listen/,
  ],
  ['a bad number', () => ['node', '--packet-bytes-max', 'many'], 2, /--packet-bytes-max=many.*1024/],
  ['a missing value', () => ['node', '--id'], 2, /--id.*no value/],
  ['a missing file', () => ['node', '--config', join(folder, 'none.yaml')], 2, /--config=.*ENOENT/],
  [
    'a file that is not YAML',
    () => ['check', '--config', file('bad.yaml', 'a: [')],
    2,
    /bad\.yaml:1:5: is not YAML \(the indentation/,
  ],
  [
    'an unknown key in the file',
    () => ['check', '--config', file('typo.yaml', 'prefx: x')],
    2,
    /typo\.yaml:1:1 prefx=x.*Did you mean prefix\?/,
  ],
  [
    'a malformed Redis address',
    () => ['node', '--redis', 'redis//:secret@h:6379'],
    2,
    /--redis=\*\*\*: must be a redis:\/\//,
  ],
  [
    'a password as an option of its own',
    () => ['node', '--redis-password=secret'],
    2,
    /--redis-password: is not an option. Did you mean --redis-password-file\?/,
  ],
  [
    'a malformed address to import from',
    () => ['import', '--from', 'http://:secret@h'],
    2,
    /--from=\*\*\*: is not a Redis address/,
  ],
  ['a command that every object has', () => ['constructor'], 2, /command=constructor: is not a command/],
  ['a secret for a command', () => ['redis://:secret@h'], 2, /^aedes-cluster: command: is not a command/],
  ['help for no command', () => ['help', 'nod'], 2, /Did you mean node\?/],
  [
    'a data folder that cannot be',
    async () => ['up', '--data', file('file', ''), ...(await upPorts())],
    2,
    /--data=.*cannot be written \(E/,
  ],
  [
    'ports of `up` that meet',
    () => ['up', '--port', '40100', '--ws-port', '40102', '--admin-port', '40200'],
    2,
    /--ws-port=40102: meets the ports of --port 40100/,
  ],
  ['TLS without a certificate', () => ['node', '--listen', 'mqtts://127.0.0.1:0'], 2, /needs --tls-cert/],
  [
    'a file beside Redis',
    () => ['node', '--redis', 'redis://127.0.0.1:1', '--state-file', 'x'],
    2,
    /--state-file: is for a node without Redis\. Leave it out/,
  ],
  [
    'replicas without Redis',
    () => ['node', '--durability-replicas', '1'],
    2,
    /--durability-replicas=1: is about Redis, and no Redis is named\. Name it with --redis/,
  ],
  [
    'a file in no folder',
    () => ['node', '--state-file', '/nowhere/at/all', '--listen', 'mqtt://127.0.0.1:0', '--admin', 'off'],
    10,
    /--state-file=\/nowhere\/at\/all: .*ENOENT.*Name another file/,
  ],
  [
    'Redis unreachable',
    () => [
      'node',
      '--redis',
      'redis://:secret@127.0.0.1:1',
      '--listen',
      'mqtt://127.0.0.1:0',
      '--admin',
      'http://127.0.0.1:0',
    ],
    4,
    /--redis=redis:\/\/:\*\*\*@127.0.0.1:1.*ECONNREFUSED.*Start Redis/,
  ],
  [
    'a database that Redis has not',
    () => ['node', '--redis', `${redis.url}/99`, '--listen', 'mqtt://127.0.0.1:0', '--admin', 'off'],
    4,
    /DB index is out of range.*fewer databases/,
  ],
  [
    'one Redis for a Redis Cluster',
    () => [
      'check',
      '--redis',
      redis.url.replace('redis:', 'redis+cluster:'),
      '--listen',
      'mqtt://127.0.0.1:0',
      '--admin',
      'off',
    ],
    4,
    /cluster support disabled.*name it as redis:\/\//,
  ],
  ['a bad number of nodes', () => ['up', '--nodes', '0'], 2, /--nodes=0.*1 to 26/],
]

test.each(wrong)('%s: one line, exit code, no stack trace', async (_name, argv, code, says) => {
  const ended = await run(await argv())
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

test('several problems are as many lines', async () => {
  const ended = await run(
    ['node', '--config', file('two.yaml', 'id: a b\nredisPassword: secret\n'), '--admin', 'x'],
    { AEDES_CLUSTER_REDIS_PASSWORD: 'secret' },
  )
  expect(ended.stderr.trimEnd().split('\n').sort()).toEqual([
    expect.stringMatching(/^aedes-cluster: --admin=x: is not a URL/),
    expect.stringMatching(/^aedes-cluster: .*two\.yaml:1:5 id=a b: /),
    expect.stringMatching(
      /^aedes-cluster: .*two\.yaml:2:1 redisPassword: is not an option. Did you mean redisPasswordFile/,
    ),
    expect.stringMatching(
      /^aedes-cluster: AEDES_CLUSTER_REDIS_PASSWORD: is not an option. Did you mean AEDES_CLUSTER_REDIS_PASSWORD_FILE/,
    ),
  ])
  expect(ended).toMatchObject({ code: 2, stdout: '' })
})

test('a port in use: one line with its place, value and what to do, exit code 3, for node, check and up', async () => {
  const holder = createServer().listen(0, '127.0.0.1')
  await once(holder, 'listening')
  const { port } = holder.address() as { port: number }
  const listen = `mqtt://127.0.0.1:${port}`
  const config = file('port.yaml', `prefix: x\nlisten:\n  - mqtt://127.0.0.1:0\n  - ${listen}\n`)
  const places: [argv: string[], env: Record<string, string>, place: string][] = [
    [['--listen', listen, '--admin', 'off'], {}, `--listen=${listen}`],
    [['--admin', 'off'], { AEDES_CLUSTER_LISTEN: listen }, `AEDES_CLUSTER_LISTEN=${listen}`],
    [['--config', config, '--admin', 'off'], {}, `${config}:4:5 listen=${listen}`],
    [
      ['--listen', 'mqtt://127.0.0.1:0', '--admin', `http://127.0.0.1:${port}`],
      {},
      `--admin=http://127.0.0.1:${port}`,
    ],
  ]
  await Promise.all(
    places.flatMap(([argv, env, place], i) =>
      ['node', 'check'].map(async (command) => {
        const ended = await run([command, '--redis', redis.url, '--id', `${command}-${i}`, ...argv], env)
        const said = ended.stderr
          .trimEnd()
          .split('\n')
          .filter((line) => line.startsWith('aedes-cluster: '))
        expect(said).toEqual([
          expect.stringMatching(
            /^.*: the port is in use\. .*aedes-cluster up.*or choose another port, e\.g\. --(listen mqtt|admin http):\/\/127\.0\.0\.1:\d+(, or --admin off)?$/,
          ),
        ])
        expect(said[0]).toContain(`aedes-cluster: ${place}: `)
        expect(ended.stderr).not.toContain('stopped') // it never served
        expect(ended.code).toBe(3)
      }),
    ),
  )
  const ended = await run([
    'up',
    '--nodes',
    '1',
    '--port',
    String(port),
    '--ws-port',
    String(port),
    '--admin-port',
    String(port),
    '--data',
    join(folder, 'unused'),
  ])
  expect(ended.stderr).toMatch(/meets the ports/)
  const up = await run([
    'up',
    '--nodes',
    '1',
    '--port',
    String(port),
    '--ws-port',
    String(await freePort()),
    '--admin-port',
    String(await freePort()),
    '--data',
    join(folder, 'unused'),
  ])
  expect(up.stderr).toBe(
    `aedes-cluster: --port=${port}: port ${port}, for node a, is in use. Another \`aedes-cluster up\` or another broker, such as Mosquitto, may be running: end it, or choose another port, e.g. --port ${port + 10_000}\n`,
  )
  expect(up.code).toBe(3)
  expect(existsSync(join(folder, 'unused'))).toBe(false)
  holder.close()
})

test('check prints the effective configuration: defaults < file < environment < flags, secrets hidden', async () => {
  const config = file(
    'node.yaml',
    'id: from-file\nprefix: from-file\nshutdownMs: 1\nredis: redis://u:hunter2@h:1\n',
  )
  const ended = await run(['check', '--offline', '--config', config, '--id', 'from-flag'], {
    AEDES_CLUSTER_ID: 'from-env',
    AEDES_CLUSTER_PREFIX: 'from-env',
    AEDES_CLUSTER_LISTEN: 'mqtt://127.0.0.1:1, ws://127.0.0.1:2/mqtt',
  })
  expect(ended.code).toBe(0)
  expect(parse(ended.stdout)).toMatchObject({
    id: 'from-flag',
    limits: { shutdownMs: 1 },
    redis: { url: 'redis://u:***@h:1', prefix: 'from-env', timeoutMs: 2_000 },
    listeners: [{ url: 'mqtt://127.0.0.1:1' }, { url: 'ws://127.0.0.1:2/mqtt' }],
  })
})

test('check tries Redis', async () => {
  const argv = ['check', '--listen', 'mqtt://127.0.0.1:0', '--admin', 'http://127.0.0.1:0', '--redis']
  expect((await run([...argv, redis.url])).code).toBe(0)
  expect((await run([...argv, 'redis://127.0.0.1:1'])).code).toBe(4)
})

test('check tells a live node of the same name and missing replicas, a line each, and a certificate of yesterday', async () => {
  await using cluster = await startCluster({ nodes: 1, redis, prefix: 'checked' })
  const argv = [
    'check',
    '--listen',
    'mqtt://127.0.0.1:0',
    '--admin',
    'off',
    '--redis',
    redis.url,
    '--prefix',
    'checked',
  ]
  using certificates = makeCertificates()
  const [cert, key] = certificates.wasValid()
  const [fine, wrong] = await Promise.all([
    run([...argv, '--id', 'other']),
    run([...argv, '--id', 'a', '--durability-replicas', '1', '--tls-cert', cert, '--tls-key', key]),
  ])
  expect(fine).toMatchObject({ code: 0, stderr: '' })
  expect(wrong.stderr.trimEnd().split('\n')).toEqual([
    expect.stringMatching(/^aedes-cluster: --tls-cert=.*: was valid until 2\d{3}-.*renewed/),
    expect.stringMatching(
      /^aedes-cluster: --durability-replicas=1: a master of Redis has 0 of 1 replicas.*Start the replicas/,
    ),
    expect.stringMatching(/^aedes-cluster: --id=a: a@\d+ is live\. Give each node its own --id/),
  ])
  expect(wrong.code).toBe(2)
  expect((await run([...argv, '--id', 'a'])).code).toBe(7)
  expect((await cluster.node(0).admin('/readyz')).status).toBe(200)
})

/** Ways into namespaces of one's own: of root, and of anybody where the kernel lets them. */
const ofPids = [
  ['--pid', '--fork', '--mount-proc', '--kill-child'],
  ['--user', '--map-root-user', '--pid', '--fork', '--mount-proc', '--kill-child'],
]
/** Another user, who sees nobody else's processes: as systemd's ProtectProc=invisible has it. */
const invisible =
  'mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid=65534 --regid=65534 --clear-groups "$0" "$@"'

test.for<[which: string, ways: string[][]]>([
  ['whose pids are counted in different namespaces', ofPids],
  ['in namespaces of different times', [['--time', '--boottime', '100000']]],
  ['of two users who do not see one another', [['--mount', 'sh', '-c', invisible]]],
])(
  'two nodes of one id %s: the second is refused, the first notices nothing',
  async ([, ways], { annotate }) => {
    const argv = ['--redis', redis.url, '--prefix', 'namespaces', '--admin', 'off']
    const second = ['node', '--id', 'a', '--listen', 'mqtt://127.0.0.1:0', '--log-level', 'silent', ...argv]
    await using cluster = await startCluster({ nodes: 1, redis, prefix: 'namespaces' })
    const client = await cluster.node(0).connect('client')
    const unshare = ways.find(
      (way) => spawnSync('unshare', [...way, process.execPath, mainPath, '--version']).status === 0,
    )
    if (unshare === undefined)
      await annotate(
        'unshare is not permitted here: both are in one namespace. What a node makes of one in another is asked in test/bridge/membership.test.ts',
      )
    const refused = await run(second, {}, unshare === undefined ? [] : ['unshare', ...unshare])
    expect(refused.stderr).toMatch(/^aedes-cluster: --id=a: .*a@\d+ is live\. Give each node its own --id/)
    expect(refused.code).toBe(7)
    await client.subscribe('t')
    await client.publish('t', 'still here', { qos: 1 })
    await client.receives([{ topic: 't', payload: 'still here' }])
  },
)

test('--help names every command, --version the version', async () => {
  const outputs = async (...all: string[][]): Promise<string[]> =>
    Promise.all(all.map(async (argv) => (await run(argv)).stdout))
  const [help, ...same] = await outputs(['--help'], ['-h'], ['help'], [])
  expect(help).toMatch(/up[^]*node[^]*check[^]*import/)
  expect(new Set(same)).toEqual(new Set([help]))
  const [version, ...versions] = await outputs(['--version'], ['-v'], ['version'])
  expect(version).toMatch(/^\d+\.\d+\.\d+\n$/)
  expect(new Set(versions)).toEqual(new Set([version]))
  const [node, ...nodes] = await outputs(
    ['help', 'node'],
    ['node', '--help'],
    ['node', '--id', 'a', '-h'],
    ['node', 'help'],
  )
  expect(node).toMatch(/^aedes-cluster node [^]*--lease-ms/)
  expect(node).not.toContain('--from')
  expect(new Set(nodes)).toEqual(new Set([node]))
})

test('data of another layout are left alone', async () => {
  await using other = await startRedis()
  const client = new Redis(other.url)
  await client.set('aedes:{bus}:format', '999')
  const refused = await run([
    'node',
    '--listen',
    'mqtt://127.0.0.1:0',
    '--admin',
    'off',
    '--redis',
    other.url,
    '--log-level',
    'silent',
  ])
  expect(refused.stderr.replace(/knows format \d+\/\d+/, 'knows format N')).toBe(
    'aedes-cluster: --prefix=aedes: FORMAT the data are in format 999, this version knows format N. Run the version of aedes-cluster that wrote them, or begin anew under another --prefix\n',
  )
  expect(refused.code).toBe(8)
  expect(await client.keys('*')).toEqual(['aedes:{bus}:format'])
  client.disconnect()
})

test('a wrong Redis password is told as such', async () => {
  await using locked = await startRedis('--requirepass', 'right')
  const argv = [
    'node',
    '--admin',
    'off',
    '--listen',
    'mqtt://127.0.0.1:0',
    '--redis',
    locked.url,
    '--log-level',
    'silent',
  ]
  const refused = await run(argv)
  expect(refused.code).toBe(4)
  expect(refused.stderr).toMatch(/--redis.*NOAUTH/)
  await using cluster = await startCluster({
    nodes: 1,
    redis: locked,
    argv: ['--redis-password-file', file('password', 'right\n')],
  })
  expect((await cluster.node(0).admin('/readyz')).status).toBe(200)
})

/** Free neighbouring ports for `up`, which counts on from the first. */
const upArgv = async (data: string): Promise<{ argv: string[]; port: number }> => {
  const port = await freePort([0, 1, 100, 101, 200, 201])
  return {
    port,
    argv: [
      'up',
      '--nodes',
      '2',
      '--port',
      String(port),
      '--ws-port',
      String(port + 100),
      '--admin-port',
      String(port + 200),
      '--data',
      data,
    ],
  }
}

async function untilServing(child: ChildProcess): Promise<string> {
  let output = ''
  for await (const chunk of child.stdout!.iterator({ destroyOnReturn: false })) {
    output += String(chunk)
    if (output.includes('Ctrl-C')) break
  }
  child.stdout!.resume()
  return output
}

function childrenOf(data: string): number[] {
  return readPids()
    .filter(({ command }) => command.includes(data))
    .map(({ pid }) => pid)
}

test('up: a local cluster with its own Redis; its data outlives it; Ctrl-C and kill -9 leave no process behind', async () => {
  const data = join(folder, 'data')
  const { argv, port } = await upArgv(data)
  const first = spawned(process.execPath, [mainPath, ...argv], { stdio: ['ignore', 'pipe', 'inherit'] })
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

  const again = spawned(process.execPath, [mainPath, ...argv], { stdio: ['ignore', 'pipe', 'inherit'] })
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
  const child = spawned(process.execPath, [mainPath, ...argv], { stdio: ['ignore', 'pipe', 'pipe'] })
  await untilServing(child)
  const node = readPids().find(
    ({ command }) => command.includes(data) && command.includes('aedes-cluster.js node --id a'),
  )
  process.kill(node!.pid, 'SIGKILL')
  for await (const chunk of child.stderr.iterator({ destroyOnReturn: false }))
    if (String(chunk).includes('node a serves again')) break
  await using client = await TestClient.connect(`mqtt://127.0.0.1:${port}`, 'back')
  expect(client.mqtt.connected).toBe(true)
  child.kill('SIGTERM')
  expect(await once(child, 'exit')).toEqual([0, null])
})

test('a node whose terminal goes drains as by SIGTERM', async () => {
  const terminal = spawned(
    'script',
    [
      '--quiet',
      '--command',
      `echo "pid $$"; exec ${process.execPath} ${mainPath} node --id a --listen mqtt://127.0.0.1:0 --admin off`,
      '/dev/null',
    ],
    { stdio: ['pipe', 'pipe', 'ignore'] },
  )
  let shown = ''
  terminal.stdout.on('data', (chunk: Buffer) => {
    shown += chunk.toString()
  })
  const found = async (pattern: RegExp): Promise<string> => {
    await expect.poll(() => pattern.test(shown), { timeout: 10_000 }).toBe(true)
    return pattern.exec(shown)![1]!
  }
  const pid = Number(await found(/pid (\d+)/))
  await using client = await TestClient.connect(await found(/(mqtt:\/\/127[\d.]+:\d+)/), 'told', {
    version: 5,
  })
  terminal.kill('SIGKILL')
  await expect.poll(() => client.serverDisconnect).toBe(0x8b) // server shutting down
  await expect.poll(() => existsSync(`/proc/${pid}`)).toBe(false)
})

test('systemd hears that a node serves, that its event loop goes round, and that it stops', async () => {
  const socket = join(folder, 'notify')
  const listening = `import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(${JSON.stringify(socket)})
print('listens', flush=True)
while True: print(s.recv(4096).decode().strip().replace(chr(10), ' '), flush=True)`
  const manager = spawned(python, ['-c', listening], { stdio: ['ignore', 'pipe', 'inherit'] })
  let heard = ''
  manager.stdout.on('data', (chunk: Buffer) => {
    heard += chunk.toString()
  })
  await expect.poll(() => heard).toContain('listens')
  const child = spawned(
    process.execPath,
    [mainPath, 'node', '--id', 'a', '--listen', 'mqtt://127.0.0.1:0', '--admin', 'off'],
    {
      stdio: 'ignore',
      env: { ...process.env, NOTIFY_SOCKET: socket, WATCHDOG_USEC: '40000', WATCHDOG_PID: undefined },
    },
  )
  await expect
    .poll(() => heard)
    .toMatch(/READY=1 STATUS=serving\n(?:[^\n]*\n)*WATCHDOG=1\n(?:[^\n]*\n)*WATCHDOG=1/)
  child.kill('SIGTERM')
  expect(await once(child, 'exit')).toEqual([0, null])
  await expect.poll(() => heard).toContain('STOPPING=1')
})

test('the unit of systemd is one', () => {
  const [from, to] = ['aedes-cluster@.service', 'aedes-cluster@a.service']
  const unit = readFileSync(new URL(`../../deploy/systemd/${from}`, import.meta.url), 'utf8')
  writeFileSync(join(folder, to), unit.replace('ExecStart=aedes-cluster ', `ExecStart=${process.execPath} `))
  const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', join(folder, to)], {
    encoding: 'utf8',
  })
  expect([status, stderr.split('\n').filter((line) => line.includes(to))]).toEqual([0, []])
})

test('SIGHUP has a node read its options, users and rules again, and it serves on; its password stands in no list of processes', async () => {
  await using locked = await startRedis('--requirepass', 'hunter2')
  const folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-reload-'))
  const [config, rules] = [join(folder, 'node.yaml'), join(folder, 'rules.yaml')]
  const write = (subscriptions: number, prefix: string, topic: string): void => {
    writeFileSync(
      config,
      `limits:\n  subscriptionsMax: ${subscriptions}\nredis:\n  prefix: ${prefix}\naccess:\n  rulesFile: ${rules}\n`,
    )
    writeFileSync(rules, `rules: [{ allow: read, topic: ${topic} }]`)
  }
  write(1, 'p', 'a/#')
  const url = locked.url.replace('//', '//:hunter2@')
  const child = spawned(
    process.execPath,
    [
      ...[mainPath, 'node', '--id', 'a', '--listen', 'mqtt://127.0.0.1:0', '--admin', 'off'],
      ...[`--redis=${url}`, '--config', config],
    ],
    { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] },
  )
  let log = ''
  child.stderr!.on('data', (chunk: Buffer) => {
    log += chunk.toString()
  })
  const [message] = (await once(child, 'message')) as [{ listen: [string] }]
  expect(readFileSync(`/proc/${child.pid!}/cmdline`, 'utf8')).toMatch(
    /^aedes-cluster node --id a .*--redis=redis:\/\/:\*\*\*@127/,
  )
  await using client = await WireClient.connect(message.listen[0], 'c')
  const subscribe = async (topic: string): Promise<unknown> => {
    client.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic, qos: 1 }] })
    return (await client.next('suback')).granted[0]
  }
  expect([await subscribe('a/1'), await subscribe('a/2'), await subscribe('b/1')]).toEqual([1, 0x97, 0x87])
  write(2, 'q', '[a/#, b/#]')
  child.kill('SIGHUP')
  await expect.poll(() => log).toContain('"what":"users and rules"')
  expect(await subscribe('b/1')).toBe(1)
  expect(log).toMatch(/"options":\["subscriptionsMax"\],"msg":"these options hold as they are now"/)
  expect(log).toMatch(/"options":\["prefix"\],"msg":"these options are others by now/)
  writeFileSync(config, 'limits: { subscriptionsMax: none }')
  child.kill('SIGHUP')
  await expect.poll(() => log).toContain('what was read before holds')
  expect(await subscribe('a/1')).toBe(1)
  child.kill('SIGTERM')
  expect(await once(child, 'exit')).toEqual([0, null])
  expect(log).not.toContain('hunter2')
  rmSync(folder, { recursive: true })
})
