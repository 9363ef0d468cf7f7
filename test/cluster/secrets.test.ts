// Secrets are planted wherever one may stand, and looked for wherever somebody else reads: the log at its most talkative,
// errors, what `check` prints, the list of processes and /proc, what the admin endpoint answers, and Redis.
import { spawnSync } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { afterAll, expect, test } from 'vitest'
import { makeCertificates } from '../support/certificates.ts'
import { mainPath } from '../support/cluster.ts'
import { freePort, startRedis } from '../support/redis.ts'
import { spawned } from '../support/spawned.ts'
import { frame, WireClient } from '../support/wire.ts'

const folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-secrets-'))
const certificates = makeCertificates()
afterAll(() => (rmSync(folder, { recursive: true }), certificates[Symbol.dispose]()))

/** By where it stands; long enough for each of them. */
const planted = (where: string): string => `planted${where}${'x'.repeat(32)}`
const file = (name: string, text: string): string => {
  writeFileSync(join(folder, name), text)
  return join(folder, name)
}
const base64 = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url')

test('what is planted anywhere is read nowhere', async () => {
  await using redis = await startRedis('--requirepass', planted('Redis'))
  const run = (input: string, ...argv: string[]): string => {
    const { stdout, stderr } = spawnSync(process.execPath, [mainPath, ...argv], {
      input,
      encoding: 'utf8',
      env: { PATH: process.env.PATH },
    })
    return stdout + stderr
  }
  const said: string[] = []
  const users = join(folder, 'users')
  said.push(run(`${planted('User')}\n`, 'passwd', '--password-file', users, '--user', 'ann'))
  const { port } = new URL(redis.url)
  const config = file(
    'node.yaml',
    `id: a
listeners:
  - mqtt://127.0.0.1:0
  - url: mqtts://127.0.0.1:0
    tls: { cert: ${certificates.server.cert}, key: ${certificates.server.key} }
authentication: [password-file, stored-users, jwt, webhook]
redis: { url: 'redis://127.0.0.1:${port}', passwordFile: ${file('redis', planted('Redis'))} }
admin: { url: 'http://127.0.0.1:0', tokensFile: ${file('tokens', `write admin ${planted('Admin')}\n`)} }
access: { passwordFile: ${users}, storedUsers: 'on' }
jwt: { keyFile: ${file('jwt', planted('Jwt'))}, algorithms: [HS256] }
webhook:
  secretFile: ${file('webhook', planted('Webhook'))}
log: { level: debug }
`,
  )
  const url = `http://127.0.0.1:${await freePort()}/hook?key=${planted('Query')}`
  said.push(run('', 'check', '--config', config, '--webhook-url', url))
  expect(said[1]).toContain('/hook?…')
  const node = spawned(process.execPath, [mainPath, 'node', '--config', config, '--webhook-url', url], {
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    env: { PATH: process.env.PATH },
  })
  let log = ''
  for (const stream of [node.stdout, node.stderr])
    stream!.on('data', (chunk: Buffer) => {
      log += chunk.toString()
    })
  const [{ listen, admin }] = (await once(node, 'message')) as [{ listen: [string]; admin: string }]
  const come = (username: string, password: string): ReturnType<typeof WireClient.connect> =>
    WireClient.connect(listen[0], 'c', {
      username,
      password: Buffer.from(password),
      will: { topic: 'wills', payload: Buffer.from(planted('Will')), qos: 1, retain: false },
    })
  const token = `${base64({ alg: 'HS256' })}.${base64({ sub: 'bob', exp: 1, key: planted('Token') })}`
  const signed = `${token}.${createHmac('sha256', planted('Jwt')).update(token).digest('base64url')}`
  for (const [user, password, code] of [
    ['ann', planted('User'), 0],
    ['ann', planted('Wrong'), 0x86],
    ['bob', signed, 0x86],
    ['eve', planted('Asked'), 0x88],
  ] as const)
    expect((await come(user, password)).connack.reasonCode, user).toBe(code)
  const client = await come('ann', planted('User'))
  client.send({
    cmd: 'publish',
    topic: 'a',
    payload: planted('Payload'),
    qos: 1,
    messageId: 1,
    retain: false,
    dup: false,
  })
  await client.next('puback')
  client.send(frame(0x00, Buffer.from(planted('Garbage'))))
  await client.untilClosed()
  // files that are not in order, with what must not be shown in them
  writeFileSync(users, `ann:${planted('Plain')}\n`)
  writeFileSync(join(folder, 'jwt'), planted('Short').slice(0, 20))
  node.kill('SIGHUP')
  await expect.poll(() => log).toContain('the files are not in order')
  said.push(run('', 'check', '--offline', '--config', config, '--webhook-url', url))
  said.push(run('', 'check', '--offline', `--redis=redis://:${planted('Argv')}@:x`))
  for (const path of ['metrics', 'readyz', 'routes', 'api/v1/nodes', 'api/v1/clients'])
    for (const authorization of [planted('Admin'), planted('Other')]) {
      const response = await fetch(`${admin}/${path}`, {
        headers: { authorization: `Bearer ${authorization}` },
      })
      said.push(await response.text())
    }
  for (const name of ['cmdline', 'environ', 'status'])
    said.push(readFileSync(`/proc/${node.pid!}/${name}`, 'latin1'))
  using store = Object.assign(new Redis(`redis://:${planted('Redis')}@127.0.0.1:${port}`), {
    [Symbol.dispose]: () => store.disconnect(),
  })
  for (const key of await store.keys('*')) said.push(key, (await store.dumpBuffer(key)).toString('latin1'))
  node.kill('SIGTERM')
  await once(node, 'exit')
  const all = [...said, log].join('\n')
  expect([...new Set([...all.matchAll(/planted[A-Z][a-z]*/g)].map(([found]) => found))]).toEqual([])
  expect(log).toMatch(/"level":"debug".*"clientId":"c"/)
  const key = readFileSync(certificates.server.key, 'utf8').split('\n')[1]!
  expect(all).not.toContain(key)
})
