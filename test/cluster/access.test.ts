// Who may connect and do what (broker/access/), from outside: real clients against nodes in this process.
import type { IConnackPacket, IConnectPacket, IPubackPacket, IPublishPacket, Packet } from 'mqtt-packet'
import { execFileSync, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from 'node:tls'
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Redis } from 'ioredis'
import { afterAll, describe, expect, test } from 'vitest'
import { Keys } from '../../bridge/redis/keys.ts'
import type { Answer, Refusal } from '../../broker/access/gate.ts'
import { loginLimits, Logins } from '../../broker/access/logins.ts'
import { keepPassword } from '../../broker/access/passwords.ts'
import { nobody } from '../../broker/access/principal.ts'
import type { Question } from '../../broker/access/rule.ts'
import { readRules } from '../../broker/access/rules-file.ts'
import { accessEvents } from '../../broker/observe/gate-events.ts'
import { DamagedFiles } from '../../broker/observe/damaged-files.ts'
import { Log } from '../../broker/observe/log.ts'
import { Metrics } from '../../broker/observe/metrics.ts'
import { loadConfig, storeOf } from '../../broker/config/config.ts'
import { createNode, type Hooks, type Node, type NodeOptions } from '../../broker/index.ts'
import { makeCertificates } from '../support/certificates.ts'
import { mainPath } from '../support/cluster.ts'
import { startRedis } from '../support/redis.ts'
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

const connackOf = async (
  url: string,
  username?: string,
  password?: string,
  clientId = 'client',
): Promise<number> => {
  await using client = await WireClient.connect(url, clientId, {
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
      [line.replace('ln=14,r=8', 'ln=16,r=1'), 'line 2 has none of'], // RFC 7914 has no such cost
      [`${line}${'A'.repeat(88)}`, 'line 2 has none of'], // each block more is all the work again
      ['ann:$scram-sha-256$4096$AAAA$AAAA$AAAA', 'line 2 has none of'], // no keys: a proof could not be compared
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

  test('a name that nobody has is remembered, waits and is told that there is no time as one that somebody has', async () => {
    const kept = await keepPassword('hunter2', 'scrypt')
    const logins = new Logins({ ...loginLimits, atWork: 1, waiting: 0 })
    const password = Buffer.from('hunter3')
    const known = logins.isRight('ann', password, kept)
    expect(await logins.waste('eve', password, [kept])).toMatchObject({ reasonCode: 0x89 })
    expect(await known).toBe(false)
    expect(await logins.waste('eve', password, [kept])).toBeUndefined()
    const busy = logins.isRight('bob', password, kept)
    expect([logins.isRight('ann', password, kept), await logins.waste('eve', password, [kept])]).toEqual([
      false, // at once, and so is this one
      undefined,
    ])
    await busy
  })
})

describe('rules', () => {
  const rulesFile = join(folder, 'rules.yaml')
  writeFileSync(
    rulesFile,
    `rules:
  - { deny: publish, topic: devices/+/lock }
  - { allow: publish, topic: devices/%c/#, qos: [0, 1], retain: false }
  - { allow: [subscribe, receive], topic: devices/%c/# }
  - { allow: subscribe, topic: news/#, qos: 0 }
  - { allow: receive, topic: [news/today, jobs/#] }
  - { allow: subscribe, topic: jobs/#, group: workers }
`,
  )
  const publish = (messageId: number, topic: string, qos: 0 | 1 | 2 = 1, retain = false): Packet => ({
    cmd: 'publish',
    topic,
    payload: topic,
    qos,
    retain,
    dup: false,
    ...(qos === 0 ? {} : { messageId }),
  })

  test.each([5, 4] as const)('MQTT %i: what is denied is answered, and the rest goes on', async (version) => {
    const { node, url } = await serve({ rulesFile })
    const heard: string[] = []
    await node.subscribe('#', ({ topic }) => heard.push(topic))
    await using client = await WireClient.connect(url, 'c', { version })
    client.send({
      cmd: 'subscribe',
      messageId: 1,
      subscriptions: [
        'devices/c/+',
        'devices/#',
        'news/#',
        'jobs/1',
        '$share/workers/jobs/1',
        '$share/x/jobs/1',
        '#',
      ].map((topic) => ({ topic, qos: 2 as const, nl: false, rap: false, rh: 0 as const })),
    })
    const no = version === 5 ? 0x87 : 0x80
    expect((await client.next('suback')).granted).toEqual([2, no, 0, no, 2, no, no])
    client.send(
      publish(1, 'devices/c/on'),
      publish(2, 'devices/d/on'),
      publish(3, 'devices/c/lock'),
      publish(4, 'devices/c/on', 1, true),
      publish(5, 'devices/c/on', 2),
      publish(6, '$x'),
      publish(7, 'devices/d/on', 0),
      publish(8, 'devices/c/off'),
    )
    const told: [number | undefined, number | undefined][] = []
    while (told.length < 7) {
      const { cmd, messageId, reasonCode } = (await client.any()) as Omit<IPubackPacket, 'cmd'> & {
        cmd: string
      }
      if (cmd !== 'publish') told.push([messageId, version === 5 ? reasonCode : 0])
    }
    const refused = version === 5 ? 0x87 : 0
    expect(told.sort(([a], [b]) => a! - b!)).toEqual([
      [1, 0],
      ...[2, 3, 4, 5, 6].map((id) => [id, refused]),
      [8, 0],
    ])
    expect(heard).toEqual(['devices/c/on', 'devices/c/off'])
    // `subscribe` let it have the filter, `receive` not all that is in it
    await node.publish('news/today', '')
    await node.publish('news/secret', '')
    await node.publish('jobs/1', '')
    const got = (await client.settled()).map((packet) => (packet as IPublishPacket).topic)
    // its own last one may come after its PUBACK
    expect(got.filter((topic) => topic !== 'devices/c/off')).toEqual(['news/today', 'jobs/1'])
  })

  test('a will that may not be published is not taken, whatever rules say of $ topics', async () => {
    const all = join(folder, 'all.yaml')
    writeFileSync(all, 'rules: [{ allow: all, topic: [a, "$x", "$SYS/#"] }]')
    const { url } = await serve({ rulesFile: all })
    const codeOf = async (topic: string): Promise<number> => {
      await using client = await WireClient.open(url)
      client.send({
        cmd: 'connect',
        protocolId: 'MQTT',
        protocolVersion: 5,
        clean: true,
        clientId: 'c',
        keepalive: 0,
        will: { topic, payload: Buffer.from(''), qos: 1, retain: false },
      })
      return (await client.next('connack')).reasonCode!
    }
    expect([await codeOf('a'), await codeOf('b'), await codeOf('$x')]).toEqual([0, 0x87, 0x87])
  })

  test.each([
    ['rulesFile', ''],
    ['rulesFile', 'rules: []'],
    ['aclFile', '# none yet'],
  ])(
    'a file without rules opens nothing: it may be one that is just being written: %s %j',
    async (option, text) => {
      const empty = join(folder, 'empty')
      writeFileSync(empty, text)
      const { url } = await serve({ [option]: empty })
      const client = await WireClient.connect(url, 'c')
      client.send({
        cmd: 'publish',
        topic: 'a',
        payload: '',
        qos: 1,
        messageId: 1,
        retain: false,
        dup: false,
      })
      expect(await client.next('puback')).toMatchObject({ reasonCode: 0x87 })
    },
  )

  test('a session that comes back has no more than it may have now', async () => {
    await using redis = await startRedis()
    const connect = async (options: NodeOptions): Promise<WireClient & { connack: IConnackPacket }> => {
      const { url } = await serve({ redis: redis.url, ...options })
      return WireClient.connect(url, 'c', { clean: false, properties: { sessionExpiryInterval: 100 } })
    }
    await using before = await connect({ id: 'a' })
    for (const filter of ['devices/c/x', 'devices/d/x']) await before.subscribe(filter)
    await using after = await connect({ id: 'b', rulesFile })
    expect(after.connack.sessionPresent).toBe(true)
    const node = nodes[nodes.length - 1]!
    for (const topic of ['devices/d/x', 'devices/c/x']) await node.publish(topic, '', { qos: 1 })
    expect((await after.next('publish')).topic).toBe('devices/c/x') // and not the one before it
  })

  test('`access explain` names the rule that decides, and so does the log, once', async () => {
    const { status, stdout } = spawnSync(
      process.execPath,
      [
        mainPath,
        'access',
        'explain',
        '--rules-file',
        rulesFile,
        '--client',
        'c',
        '--publish',
        'devices/c/lock',
      ],
      { encoding: 'utf8' },
    )
    expect([status, stdout]).toEqual([0, `denied by ${rulesFile}:2 (deny: publish; topic: devices/+/lock)\n`])
    let lines = ''
    const stream = new Writable({ write: (chunk, _encoding, done) => ((lines += String(chunk)), done()) })
    const log = new Log({ id: 'a', logLevel: 'info' }, undefined, stream)
    const [rule] = readRules('rules.yaml', 'rules: [{ deny: publish, topic: x }]').rules
    const asker = { clientId: 'c', principal: nobody, listener: undefined, certificate: undefined }
    const question: Question = { action: 'publish', topic: 'x', qos: 0, retain: false, group: undefined }
    for (const decided of [rule, rule, undefined]) accessEvents(log).onDenied(asker, question, decided)
    await log.close()
    const told = lines
      .trim()
      .split('\n')
      .map((line) => (JSON.parse(line) as { rule: string }).rule)
    expect(told.slice(0, 2)).toEqual(['rules.yaml:1 deny: publish; topic: x', 'none is about it'])
  })
})

describe('a Client Identifier and its user', () => {
  const proving: Hooks = { authenticate: (_client, _username, _password, callback) => callback(null, true) }
  const connectPacket: IConnectPacket = {
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: 5,
    clientId: 'c',
    clean: false,
    keepalive: 0,
    properties: { sessionExpiryInterval: 100 },
  }
  const connect = (
    url: string,
    username: string | undefined,
    options: Parameters<typeof WireClient.connect>[2] = {},
    clientId = 'c',
  ): Promise<WireClient & { connack: IConnackPacket }> =>
    WireClient.connect(url, clientId, {
      clean: false,
      ...(options.version === 4 ? {} : { properties: { sessionExpiryInterval: 100 } }),
      ...(username === undefined ? {} : { username }),
      ...options,
    })

  test('the session of one user is not taken over by another, on whatever node', async () => {
    await using redis = await startRedis()
    const at = { redis: redis.url, authentication: ['hooks'] as ['hooks'] }
    const [a, b] = [await serve({ ...at, id: 'a' }, proving), await serve({ ...at, id: 'b' }, proving)]
    await using ann = await connect(a.url, 'ann')
    await ann.subscribe('a')
    for (const { url } of [a, b])
      for (const username of ['bob', undefined])
        for (const clean of [false, true]) {
          await using other = await connect(url, username, { clean })
          expect(other.connack).toMatchObject({ reasonCode: 0x85 })
          await using older = await connect(url, username, { clean, version: 4 })
          expect(older.connack).toMatchObject({ returnCode: 2 })
        }
    for (const { node } of [a, b])
      expect(await node.metricsText()).toContain('aedes_cluster_refusals_total{cause="session-user"} 8')
    await b.node.publish('a', '', { qos: 1 })
    const { topic, messageId } = await ann.next('publish') // nothing happened to it
    expect(topic).toBe('a')
    ann.send({ cmd: 'puback', messageId: messageId! })
    await ann.settled()
    await using again = await connect(b.url, 'ann')
    expect(again.connack.sessionPresent).toBe(true)
    // nor does who only says its Client Identifier keep its user out, or throw him out who is about to have it
    again.socket.destroy()
    await again.closed
    for (let round = 0; round < 10; round++)
      for (const strangers of [['bob', undefined], [undefined], ['bob']]) {
        const others = await Promise.all(strangers.map(() => WireClient.open(a.url)))
        const owner = await WireClient.open(a.url)
        const come = (client: WireClient, username: string | undefined): void =>
          client.send({ ...connectPacket, ...(username === undefined ? {} : { username }) })
        if (round % 2 === 0) come(owner, 'ann')
        others.forEach((other, i) => come(other, strangers[i]))
        if (round % 2 === 1) come(owner, 'ann')
        expect(await owner.next('connack'), `round ${round}, ${String(strangers)}`).toMatchObject({
          reasonCode: 0,
          sessionPresent: true,
        })
        for (const other of others) expect(await other.next('connack')).toMatchObject({ reasonCode: 0x85 })
        expect(await owner.settled()).toEqual([])
        owner.socket.destroy()
        await owner.closed
      }
    await using free = await serve({ ...at, id: 'free', access: { sessionTakeover: 'any' } }, proving).then(
      ({ url }) => connect(url, 'bob'),
    )
    expect(free.connack.sessionPresent).toBe(true)
    // of two who come at once, to one node or to two, one has it
    for (let round = 0; round < 20; round++) {
      const both = await Promise.all(
        [a, round % 2 === 0 ? a : b].map(({ url }, i) => connect(url, ['ann', 'bob'][i], {}, `r${round}`)),
      )
      expect(both.map(({ connack }) => connack.reasonCode).sort(), `round ${round}`).toEqual([0, 0x85])
      const winner = both.find(({ connack }) => connack.reasonCode === 0)!
      expect(await winner.settled()).toEqual([])
      for (const client of both) client.socket.destroy()
    }
  })
})

test('users and rules of the cluster hold on all nodes, for who comes at once and for who is there within a second', async () => {
  await using redis = await startRedis()
  const key = new Keys('of-cluster').bus('access')
  using admin = Object.assign(new Redis(redis.url), { [Symbol.dispose]: () => admin.disconnect() })
  const to = ['--redis', redis.url, '--prefix', 'of-cluster']
  const command = (input: string, ...argv: string[]): string => {
    const { stdout, stderr } = spawnSync(process.execPath, [mainPath, ...argv, ...to], {
      input,
      encoding: 'utf8',
    })
    return stdout + stderr
  }
  const options = {
    redis: redis.url,
    prefix: 'of-cluster',
    access: { storedUsers: 'on' as const, storedRules: 'on' as const },
  }
  const [a, b] = [await serve({ ...options, id: 'a' }), await serve({ ...options, id: 'b' })]
  const codes = (user: string, password: string): Promise<number[]> =>
    Promise.all([a, b].map(({ url }, i) => connackOf(url, user, password, `client-${i}`)))
  expect(await codes('ann', 'hunter2')).toEqual([0x86, 0x86])
  expect(command('hunter2\n', 'passwd', '--user', 'ann')).toBe('wrote ann\n')
  expect(await codes('ann', 'hunter2')).toEqual([0, 0])
  expect(await codes('ann', 'hunter3')).toEqual([0x86, 0x86])
  await using ann = await WireClient.connect(b.url, 'ann', {
    username: 'ann',
    password: Buffer.from('hunter2'),
  })
  // nothing is allowed while there are no rules
  const rules = join(folder, 'of-cluster.yaml')
  writeFileSync(
    rules,
    'rules: [{ allow: read, topic: a, user: ann }, { allow: write, topic: w/#, user: ann }]',
  )
  const { changeAccess } = storeOf(loadConfig({ redis: redis.url, prefix: 'of-cluster' }, {}))
  const subscribe = async (): Promise<unknown> => {
    ann.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'a', qos: 1 }] })
    return (await ann.next('suback')).granted[0]
  }
  expect(await subscribe()).toBe(0x87)
  expect(command('', 'access', 'write', '--rules-file', rules)).toBe(
    'the rules of the cluster are those of the file\n',
  )
  await expect.poll(subscribe).toBe(1)
  const heard = async (): Promise<unknown[]> => {
    await a.node.publish('a', '', { qos: 1 })
    return (await ann.settled()).map((packet) => (packet as IPublishPacket).topic)
  }
  await expect.poll(heard).toContain('a')
  await admin.hset(key, 'rules', 'rules: [{ allow: reed }]', 'version', 'x') // somebody else wrote it
  await expect.poll(() => b.node.metricsText()).toContain('aedes_cluster_damaged_total 1')
  expect(await subscribe()).toBe(1) // what was read before holds
  const wills: string[] = []
  await a.node.subscribe('w/#', ({ topic }) => wills.push(topic))
  const doomed = await Promise.all(
    ['w/1', 'w/2'].map((topic) =>
      WireClient.connect(b.url, topic, {
        username: 'ann',
        password: Buffer.from('hunter2'),
        will: { topic, payload: Buffer.from(''), qos: 1, retain: false },
      }),
    ),
  )
  await changeAccess!((access) =>
    access.setRules('rules: [{ allow: read, topic: b }, { allow: write, topic: w/2, user: ann }]'),
  )
  await expect.poll(async () => [await heard(), await heard()]).toEqual([[], []])
  // a will is decided again, by its client's user, which stands in Redis with it
  doomed[0]!.socket.destroy()
  await expect.poll(() => b.node.metricsText()).toContain('dropped_total{cause="refused",qos="1"} 1')
  doomed[1]!.socket.destroy()
  await expect.poll(() => wills).toEqual(['w/2'])
  // another password, and no user any more
  const kept = await keepPassword('hunter4', 'scrypt')
  expect(await changeAccess!((access) => access.setUser('ann', kept))).toBe(true)
  expect(await ann.next('disconnect')).toMatchObject({ reasonCode: 0x87 })
  expect([await codes('ann', 'hunter2'), await codes('ann', 'hunter4')]).toEqual([
    [0x86, 0x86],
    [0, 0],
  ])
  // what is damaged is named, and lets nobody in
  await admin.hset(key, 'u:eve', 'hunter2')
  expect(await codes('eve', 'hunter2')).toEqual([0x86, 0x86])
  expect(await changeAccess!((access) => access.users())).toEqual(['ann', 'eve'])
  expect(command('', 'passwd', '--user', 'eve', '--remove')).toBe('removed eve\n')
  expect(await codes('eve', 'hunter2')).toEqual([0x86, 0x86])
  // names that strangers give are not kept
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  collect()
  const { heapUsed } = process.memoryUsage()
  for (let i = 0; i < 200; i++) expect(await connackOf(a.url, `${i}`.padEnd(60_000))).toBe(0x86)
  collect()
  expect(process.memoryUsage().heapUsed - heapUsed).toBeLessThan(6 * 1024 * 1024) // of 12 MB
  await admin.set(key, 'a text')
  expect(await codes('ann', 'hunter4')).toEqual([0x86, 0x86])
  const metrics = `${await a.node.metricsText()}${await b.node.metricsText()}`
  expect(
    [...metrics.matchAll(/damaged_total (\d)/g)].reduce((sum, [, count]) => sum + Number(count), 0),
  ).toBe(5)
})

describe('what was decided before', () => {
  const lasting = { clean: false, properties: { sessionExpiryInterval: 100 } }
  const publish = (topic: string, messageId = 1): Packet => ({
    cmd: 'publish',
    topic,
    payload: '',
    qos: 1,
    messageId,
    retain: false,
    dup: false,
  })

  test('what waits in a session is not sent to who may not receive it by now', async () => {
    const changing = join(folder, 'waiting.yaml')
    writeFileSync(changing, 'rules: [{ allow: read, topic: [a/#, b/#] }]')
    const { node, url } = await serve({ rulesFile: changing })
    {
      await using before = await WireClient.connect(url, 'c', lasting)
      for (const filter of ['a/#', 'b/#']) await before.subscribe(filter)
    }
    for (const topic of ['a/1', 'b/1']) await node.publish(topic, '', { qos: 1 })
    writeFileSync(changing, 'rules: [{ allow: read, topic: b/# }]')
    node.reload()
    await using after = await WireClient.connect(url, 'c', lasting)
    expect((await after.next('publish')).topic).toBe('b/1') // and not the one before it
  })

  test('a will is decided again by the rules of the moment when it is published', async () => {
    const changing = join(folder, 'wills.yaml')
    writeFileSync(changing, 'rules: [{ allow: write, topic: will/%c }]')
    const { node, url } = await serve({ rulesFile: changing })
    const heard: string[] = []
    await node.subscribe('will/#', ({ topic }) => heard.push(topic))
    const [denied, allowed] = await Promise.all(
      ['denied', 'allowed'].map((id) =>
        WireClient.connect(url, id, {
          will: { topic: `will/${id}`, payload: Buffer.from(''), qos: 1, retain: false },
        }),
      ),
    )
    writeFileSync(changing, 'rules: [{ allow: write, topic: will/%c, client: allowed }]')
    node.reload()
    denied!.socket.destroy()
    await denied!.closed
    await expect.poll(() => node.metricsText()).toContain('dropped_total{cause="refused",qos="1"} 1')
    allowed!.socket.destroy()
    await expect.poll(() => heard).toEqual(['will/allowed'])
  })

  test('who is no user any more does not come in, however long its CONNECT has waited', async () => {
    const passwordFile = join(folder, 'waiting-users')
    writeFileSync(passwordFile, `ann:${await keepPassword('a', 'scrypt')}\n`)
    let ask!: (decide: () => void) => void
    const asked = new Promise<() => void>((resolve) => (ask = resolve))
    const { node, url } = await serve(
      { passwordFile },
      { authorizePublish: (_client, _packet, callback) => ask(callback) },
    )
    await using client = await WireClient.open(url)
    client.send({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 5,
      clean: true,
      clientId: 'c',
      keepalive: 0,
      username: 'ann',
      password: Buffer.from('a'),
      will: { topic: 'a', payload: Buffer.from(''), qos: 1, retain: false },
    })
    const decide = await asked
    writeFileSync(passwordFile, '')
    node.reload()
    decide()
    expect((await client.next('connack')).reasonCode).toBe(0x87)
  })

  test('a client that is another user by now may do what that one may, and no more', async () => {
    const rules = join(folder, 'another.yaml')
    writeFileSync(rules, 'rules: [{ allow: all, topic: "of/%u" }, { allow: read, topic: bob, user: bob }]')
    const { node, url } = await serve(
      { rulesFile: rules, authentication: ['hooks'] },
      { authenticate: (_client, _username, _password, callback) => callback(null, true) },
    )
    await using client = await WireClient.connect(url, 'c', { username: 'bob' })
    await client.subscribe('bob')
    const answers = async (): Promise<(number | undefined)[]> => {
      client.send(publish('of/ann', 1), publish('of/bob', 2))
      return [(await client.next('puback')).reasonCode, (await client.next('puback')).reasonCode]
    }
    expect(await answers()).toEqual([0x87, 0x10])
    node.clients.get('c')!.user = 'ann'
    expect(await answers()).toEqual([0x10, 0x87])
    await node.publish('bob', '')
    expect(await client.settled()).toEqual([])
  })

  test('a name that nobody was asked to prove is none, whatever else a hook looks at', async () => {
    const rules = join(folder, 'said.yaml')
    writeFileSync(rules, 'rules: [{ allow: publish, user: [ann, bob] }]')
    const { url } = await serve(
      { rulesFile: rules, authentication: ['hooks'] },
      {
        preConnect: (client, { clientId }, callback) => {
          if (clientId === 'b') client.user = 'bob' // the program knows it
          callback(null, true)
        },
      },
    )
    const codes: unknown[] = []
    for (const clientId of ['a', 'b']) {
      await using client = await WireClient.connect(url, clientId, { username: 'ann' })
      client.send(publish('x'))
      codes.push((await client.next('puback')).reasonCode)
    }
    expect(codes).toEqual([0x87, 0x10])
  })
})

describe('certificates', () => {
  const certificates = makeCertificates()
  afterAll(() => certificates[Symbol.dispose]())
  const tls = { cert: certificates.server.cert, key: certificates.server.key }
  const handshake = async (url: string, options: ConnectionOptions = {}): Promise<TLSSocket> => {
    const socket = connectTls({
      port: Number(new URL(url).port),
      host: '127.0.0.1',
      ca: certificates.caBytes,
      ...options,
    })
    await once(socket, 'secureConnect')
    return socket
  }

  test('the user of a certificate, and the Client Identifier that it must have', async () => {
    const rules = join(folder, 'certificates.yaml')
    writeFileSync(rules, `rules: [{ allow: publish, topic: "devices/%{cn}/%u" }]`)
    const { url } = await serve({
      listeners: [{ url: 'mqtts://127.0.0.1:0', tls: { ...tls, ca: certificates.ca } }],
      access: { certificateClient: 'same', rulesFile: rules },
    })
    const connect = async (clientId: string): Promise<WireClient & { connack: IConnackPacket }> => {
      const client = new WireClient(await handshake(url, certificates.client), 5)
      client.send({
        cmd: 'connect',
        protocolId: 'MQTT',
        protocolVersion: 5,
        clean: true,
        clientId,
        keepalive: 0,
      })
      return Object.assign(client, { connack: await client.next('connack') })
    }
    await using other = await connect('other')
    expect(other.connack.reasonCode).toBe(0x85)
    await using client = await connect('client')
    expect(client.connack.reasonCode).toBe(0)
    const packet = { cmd: 'publish', qos: 1, payload: '', retain: false, dup: false } as const
    client.send(
      { ...packet, messageId: 1, topic: 'devices/client/client' },
      { ...packet, messageId: 2, topic: 'x' },
    )
    expect([(await client.next('puback')).reasonCode, (await client.next('puback')).reasonCode]).toEqual([
      0x10, 0x87,
    ])
    await expect(
      createNode({ authentication: ['certificate'], listen: ['mqtts://127.0.0.1:0'], tls }),
    ).rejects.toThrow('names certificate, and mqtts://127.0.0.1:0 asks for none')
  })

  test('rules see the certificate of a client that came by AUTH packets, too', async () => {
    const rules = join(folder, 'exchanged.yaml')
    writeFileSync(rules, `rules: [{ allow: publish, topic: x, cn: client }]`)
    const { url } = await serve(
      {
        listeners: [
          { url: 'mqtts://127.0.0.1:0', tls: { ...tls, ca: certificates.ca }, authentication: ['hooks'] },
        ],
        access: { rulesFile: rules },
      },
      { enhancedAuthenticate: (_client, _step, callback) => callback(null, { done: true }) },
    )
    await using client = new WireClient(await handshake(url, certificates.client), 5)
    client.send({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 5,
      clean: true,
      clientId: 'c',
      keepalive: 0,
      properties: { authenticationMethod: 'X' },
    })
    expect((await client.next('connack')).reasonCode).toBe(0)
    client.send({ cmd: 'publish', topic: 'x', messageId: 1, qos: 1, payload: '', retain: false, dup: false })
    expect((await client.next('puback')).reasonCode).toBe(0x10)
  })

  test('a file that is not in order keeps no other from being read, and is named once until it is', async () => {
    const at = (name: string): string => join(folder, name)
    const [passwordFile, rulesFile, aclFile] = [at('sick'), at('sick.yaml'), at('sick.acl')]
    const kept = await keepPassword('right', 'scrypt')
    const users = (...names: string[]): string => names.map((name) => `${name}:${kept}\n`).join('')
    writeFileSync(passwordFile, users('ann', 'bob', 'eve'))
    writeFileSync(rulesFile, 'rules: [{ allow: read, topic: [x, y] }]')
    writeFileSync(aclFile, 'topic read z\n')
    const { node, url } = await serve({
      access: { passwordFile, rulesFile, aclFile },
      admin: 'http://127.0.0.1:0',
    })
    const password = Buffer.from('right')
    const [ann, bob, eve] = await Promise.all(
      ['ann', 'bob', 'eve'].map((username) => WireClient.connect(url, username, { username, password })),
    )
    for (const filter of ['x', 'y', 'z']) await ann!.subscribe(filter)
    const state = async (): Promise<unknown[]> => {
      node.reload()
      const { checks } = (await (await fetch(`${node.adminUrl}/readyz`)).json()) as {
        checks: { files?: string }
      }
      const heard: string[] = []
      for (const topic of ['x', 'y', 'z']) await node.publish(topic, '', { qos: 1 })
      for (const packet of await ann!.settled()) heard.push((packet as IPublishPacket).topic)
      const [, files] = /damaged_files (\d)/.exec(await node.metricsText())!
      const named = checks.files && [...new Set(checks.files.match(/sick[.\w]*(?=, |$)/g))]
      return [heard.join(''), files, named]
    }
    writeFileSync(rulesFile, 'rules: [{ allow: reed }]')
    writeFileSync(passwordFile, users('ann', 'eve'))
    writeFileSync(aclFile, '')
    expect(await state()).toEqual(['xy', '1', ['sick.yaml']])
    expect(await bob!.next('disconnect')).toMatchObject({ reasonCode: 0x87 })
    writeFileSync(passwordFile, 'ann')
    writeFileSync(aclFile, 'tpoic read z\n')
    expect(await state()).toEqual(['xy', '3', ['sick.yaml', 'sick', 'sick.acl']])
    writeFileSync(rulesFile, 'rules: [{ allow: read, topic: y }]')
    expect(await state()).toEqual(['y', '2', ['sick', 'sick.acl']])
    expect(await eve!.settled()).toEqual([])
    rmSync(aclFile)
    writeFileSync(passwordFile, users('ann'))
    expect(await state()).toEqual(['y', '1', ['sick.acl']])
    expect(await eve!.next('disconnect')).toMatchObject({ reasonCode: 0x87 })
    writeFileSync(aclFile, '')
    expect(await state()).toEqual(['y', '0', undefined])
    // in the log
    const lines: string[] = []
    const log = new Log(
      { id: 'n', logLevel: 'info' },
      () => undefined,
      new Writable({ write: (line: Buffer, _, done) => (lines.push(String(line)), done()) }),
    )
    const damaged = new DamagedFiles(log, new Metrics())
    for (const problem of [undefined, 'a', 'a', 'b', undefined, undefined])
      damaged.tell('file', problem === undefined ? undefined : new Error(problem))
    await log.close()
    expect(lines.map((line) => (JSON.parse(line) as { problem?: string }).problem)).toEqual([
      'a',
      'b',
      undefined,
    ])
  })

  test('files that change hold from then on: a certificate, users, rules; nobody else is cut', async () => {
    const [passwordFile, changing] = [join(folder, 'reloaded'), join(folder, 'reloaded.yaml')]
    const [cert, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')]
    const kept = [await keepPassword('a', 'scrypt'), await keepPassword('b', 'scrypt')]
    const write = (ann: string | undefined, topics: string): void => {
      writeFileSync(changing, `rules: [{ allow: read, topic: [${topics}] }]`)
      writeFileSync(passwordFile, `${ann === undefined ? '' : `ann:${ann}\n`}bob:${kept[1]}\n`)
    }
    for (const [from, to] of [
      [tls.cert, cert],
      [tls.key, key],
    ] as const)
      copyFileSync(from, to)
    write(kept[0], 'x, y')
    const { node, url } = await serve({
      listeners: ['mqtt://127.0.0.1:0', { url: 'mqtts://127.0.0.1:0', tls: { cert, key } }],
      access: { passwordFile, rulesFile: changing },
    })
    const connect = (
      clientId: string,
      username: string,
      password: string,
    ): Promise<WireClient & { connack: IConnackPacket }> =>
      WireClient.connect(url, clientId, { username, password: Buffer.from(password) })
    await using ann = await connect('ann', 'ann', 'a')
    await using bob = await connect('bob', 'bob', 'b')
    await using secure = {
      socket: await handshake(node.endpoints[1]!),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    }
    for (const filter of ['x', 'y']) await bob.subscribe(filter)
    const shownBy = async (): Promise<string> => {
      const socket = await handshake(node.endpoints[1]!, { rejectUnauthorized: false })
      const { CN } = socket.getPeerCertificate().subject
      socket.destroy()
      return String(CN)
    }
    expect(await shownBy()).toBe('server')
    const [oldCert, oldKey] = certificates.wasValid()
    for (const [from, to] of [
      [oldCert, cert],
      [oldKey, key],
    ] as const)
      copyFileSync(from, to)
    write(undefined, 'x')
    expect(await ann.next('disconnect')).toMatchObject({ reasonCode: 0x87 })
    await expect.poll(shownBy).toBe('old')
    await expect
      .poll(async () => {
        for (const topic of ['y', 'x']) await node.publish(topic, '')
        return (await bob.settled()).map((packet) => (packet as IPublishPacket).topic)
      })
      .toEqual(['x'])
    expect([await connackOf(url, 'ann', 'a'), await connackOf(url, 'bob', 'b')]).toEqual([0x86, 0])
    expect(secure.socket.destroyed).toBe(false)
    secure.socket.destroy()
    // what is not in order changes nothing
    writeFileSync(passwordFile, 'no users')
    await expect(createNode({ passwordFile })).rejects.toThrow('line 1')
    expect(await connackOf(url, 'bob', 'b')).toBe(0)
  })
})
