// Who may connect and do what (broker/access/), from outside: real clients against nodes in this process.
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import type { Answer, Refusal } from '../../broker/access/gate.ts'
import { loginLimits, Logins } from '../../broker/access/logins.ts'
import { keepPassword } from '../../broker/access/passwords.ts'
import { createNode, type Hooks, type Node, type NodeOptions } from '../../broker/index.ts'
import { mainPath } from '../support/cluster.ts'
import { WireClient } from '../support/wire.ts'

const folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-access-'))
const nodes: Node[] = []
afterAll(async () => {
  rmSync(folder, { recursive: true })
  await Promise.all(nodes.map((node) => node.close()))
})

async function serve(options: NodeOptions = {}, hooks: Hooks = {}): Promise<{ node: Node; url: string }> {
  const node = await createNode(
    { ...(options.listeners === undefined ? { listen: ['mqtt://127.0.0.1:0'] } : {}), ...options },
    hooks,
  )
  nodes.push(node)
  return { node, url: node.endpoints[0]! }
}

const connackOf = async (url: string, username?: string, password?: string): Promise<number> => {
  await using client = await WireClient.connect(url, 'client', {
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password: Buffer.from(password) }),
  })
  return client.connack.reasonCode!
}

describe('the chain of a listener', () => {
  test('a node that others can reach does not start before somebody has said who may connect', async () => {
    const elsewhere = { listen: ['mqtt://0.0.0.0:0'] }
    await expect(createNode(elsewhere)).rejects.toThrow(
      /can be reached by others, and nobody is asked who he is. .* write authentication anonymous/,
    )
    const [own] = [{ listeners: [{ url: 'mqtt://127.0.0.1:0' }, { url: 'mqtt://0.0.0.0:0' }] }]
    await expect(createNode(own)).rejects.toThrow(/ write authentication: anonymous/)
  })

  test('each listener has its own; hooks are links of it', async () => {
    const asked: (string | undefined)[] = []
    const { node, url } = await serve(
      { listeners: [{ url: 'mqtt://127.0.0.1:0', authentication: ['hooks'] }, 'mqtt://127.0.0.1:0'] },
      {
        authenticate: (client, username, _password, callback) => {
          asked.push(client.user)
          callback(null, username !== 'bad')
        },
      },
    )
    expect([await connackOf(url, 'good'), await connackOf(url, 'bad')]).toEqual([0, 0x87])
    expect(asked).toEqual(['good', 'bad'])
    // a chain without them: they may still say no, of somebody whose name nobody has proved
    expect(await connackOf(node.endpoints[1]!, 'bad')).toBe(0x87)
    expect(asked).toEqual(['good', 'bad', undefined])
    node.authenticate = undefined
    expect([await connackOf(url), await connackOf(url, 'good')]).toEqual([0x87, 0x86])
    expect(await connackOf(node.endpoints[1]!, 'bad')).toBe(0)
  })
})

describe('users of a file', () => {
  const passwd = (input: string, ...argv: string[]): { status: number | null; out: string } => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [mainPath, 'passwd', ...argv], {
      input,
      encoding: 'utf8',
    })
    return { status, out: stdout + stderr }
  }

  test('`passwd` adds, changes and removes them, and nobody else comes in', async () => {
    const passwordFile = join(folder, 'users')
    writeFileSync(passwordFile, '# ours\n')
    const user = (name: string): string[] => ['--password-file', passwordFile, '--user', name]
    expect(passwd('hunter2\n', ...user('ann'))).toEqual({ status: 0, out: `wrote ann in ${passwordFile}\n` })
    expect(passwd('s3cret\r\n', ...user('bob'), '--format', 'scram-sha-256').status).toBe(0)
    const refused = passwd('', ...user('ann'), '--password', 'hunter2')
    expect(refused).toMatchObject({ status: 2, out: expect.not.stringContaining('hunter2') as string })
    const text = readFileSync(passwordFile, 'utf8')
    expect(text).toMatch(/^# ours\nann:\$scrypt\$ln=14,r=8,p=1\$\S+\nbob:\$scram-sha-256\$100000\$\S+\n$/)
    expect(text).not.toMatch(/hunter2|s3cret/)
    const { url } = await serve({ passwordFile })
    expect([
      await connackOf(url, 'ann', 'hunter2'),
      await connackOf(url, 'ann', 'hunter2'),
      await connackOf(url, 'bob', 's3cret'),
      await connackOf(url, 'ann', 'hunter3'),
      await connackOf(url, 'bob', 'hunter2'),
      await connackOf(url, 'ann'),
      await connackOf(url, 'eve', 'hunter2'),
      await connackOf(url),
    ]).toEqual([0, 0, 0, 0x86, 0x86, 0x86, 0x86, 0x87])
    expect(passwd('', ...user('ann'), '--remove').status).toBe(0)
    expect(readFileSync(passwordFile, 'utf8')).toBe(text.replace(/ann:.*\n/, ''))
    const line = text.split('\n')[1]!
    for (const [wrong, problem] of [
      ['ann:hunter2', 'line 2 has none of'],
      ['hunter2', 'line 2 has no user name'],
      [`${line}\n${line}`, 'line 3 has a user that'],
      [line.replace('ln=14', 'ln=30'), 'line 2 has none of'],
    ]) {
      writeFileSync(passwordFile, `\n${wrong}\n`)
      const error = await createNode({ passwordFile }).catch((reason: unknown) => String(reason))
      expect(error).toContain(problem)
      expect(error).not.toContain('hunter2')
    }
  })

  test('those that mosquitto_passwd writes', async () => {
    const passwordFile = join(folder, 'mosquitto-users')
    execFileSync('mosquitto_passwd', ['-b', '-c', passwordFile, 'ann', 'hunter2'])
    execFileSync('mosquitto_passwd', ['-b', '-H', 'sha512', passwordFile, 'bob', 's3cret'])
    expect(readFileSync(passwordFile, 'utf8')).toMatch(/^ann:\$7\$.*\nbob:\$6\$.*\n$/)
    const { url } = await serve({ passwordFile, authentication: ['password-file', 'anonymous'] })
    expect([
      await connackOf(url, 'ann', 'hunter2'),
      await connackOf(url, 'bob', 's3cret'),
      await connackOf(url, 'ann', 's3cret'),
      await connackOf(url, 'bob', 'hunter2'),
      await connackOf(url),
      await connackOf(url, 'eve', 'hunter2'), // a slip, and no anonymous
    ]).toEqual([0, 0, 0x86, 0x86, 0, 0x86])
  })

  test('a login that was found right or wrong is not worked out again; no more wait than may', async () => {
    const kept = await keepPassword('hunter2', 'scrypt')
    const logins = new Logins({ ...loginLimits, atWork: 1, waiting: 1, right: 1 })
    const ask = (user: string, password: string): Answer<boolean | Refusal> =>
      logins.isRight(user, Buffer.from(password), kept)
    const first = ask('ann', 'hunter2')
    expect(ask('ann', 'hunter2')).toBe(first)
    const second = ask('ann', 'hunter3')
    expect(await ask('ann', 'hunter4')).toMatchObject({ reasonCode: 0x89 })
    expect([await first, await second]).toEqual([true, false])
    expect([ask('ann', 'hunter2'), ask('ann', 'hunter3')]).toEqual([true, false]) // at once
    expect(await ask('bob', 'hunter2')).toBe(true)
    expect(ask('ann', 'hunter2')).toBeInstanceOf(Promise) // the oldest made room
    expect(logins.isRight('bob', Buffer.from('hunter2'), await keepPassword('other', 'scrypt'))).not.toBe(
      true,
    )
  })
})
