// Enhanced authentication (MQTT 5 section 4.12): AUTH between CONNECT and CONNACK and later, as a program's
// hook decides it, and SCRAM-SHA-256, whose client's side is written here from RFC 5802. Raw sockets against
// a node in this process.
import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto'
import type { IAuthPacket, IConnackPacket, IConnectPacket, Packet } from 'mqtt-packet'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { createNode, scramKeys, scramSha256, type Config, type Hooks, type Node } from '../../broker/index.ts'
import { keepPassword } from '../../broker/access/passwords.ts'
import { frame, properties, str, u16, WireClient } from '../support/wire.ts'

const folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-scram-'))
const nodes: Node[] = []
afterAll(async () => {
  rmSync(folder, { recursive: true })
  await Promise.all(nodes.map((node) => node.close()))
})

async function serve(hooks: Hooks, options: Partial<Config> = {}): Promise<{ node: Node; url: string }> {
  const node = await createNode({ listen: ['mqtt://127.0.0.1:0'], ...options }, hooks)
  nodes.push(node)
  return { node, url: node.endpoints[0]! }
}

const connect = (
  authenticationMethod: string,
  authenticationData?: Buffer,
  more: Partial<IConnectPacket> = {},
): Packet => ({
  cmd: 'connect',
  protocolId: 'MQTT',
  protocolVersion: 5,
  clean: true,
  clientId: 'prover',
  keepalive: 0,
  ...more,
  properties: { ...more.properties, authenticationMethod, ...(authenticationData && { authenticationData }) },
})
const auth = (reasonCode: 0x18 | 0x19, authenticationMethod: string, data?: string | Buffer): Packet => ({
  cmd: 'auth',
  reasonCode,
  properties: { authenticationMethod, ...(data !== undefined && { authenticationData: Buffer.from(data) }) },
})
const dataOf = ({ properties }: IAuthPacket | IConnackPacket): string =>
  properties?.authenticationData?.toString() ?? ''

/** `count`: asks three times for a number that is one more than its own. */
const counting: NonNullable<Hooks['enhancedAuthenticate']> = (_client, { method, data, stage }, callback) => {
  if (method !== 'count') return callback(null)
  const n = Number(data?.toString() ?? '0')
  if (Number.isNaN(n)) return callback(Object.assign(new Error('no number'), { reasonCode: 0x86 }))
  if (stage !== 'continue') callback(null, { done: false, data: Buffer.from('1') })
  else if (n < 6) setTimeout(() => callback(null, { done: false, data: Buffer.from(`${n + 1}`) }), 1)
  else callback(null, { done: true, data: Buffer.from(`right at ${n}`) })
}

async function count(client: WireClient, first: IAuthPacket): Promise<Packet> {
  let packet: Packet = first
  while (packet.cmd === 'auth' && packet.reasonCode === 0x18) {
    client.send(auth(0x18, 'count', `${Number(dataOf(packet)) + 1}`))
    packet = await client.any()
  }
  return packet
}

test('[MQTT-4.12.0-2] [MQTT-4.12.0-3] [MQTT-4.12.0-5] [MQTT-3.2.0-1] an exchange of several steps: AUTH 0x18 each way, then CONNACK, all with the method', async () => {
  const { url } = await serve({
    enhancedAuthenticate: counting,
    authenticate: (_client, _user, _password, callback) => callback(null, false), // who proved it is not asked
  })
  await using client = await WireClient.open(url)
  client.send(connect('count'))
  const first = await client.next('auth')
  expect(first).toMatchObject({ reasonCode: 0x18, properties: { authenticationMethod: 'count' } })
  const last = (await count(client, first)) as IConnackPacket
  expect(last).toMatchObject({ cmd: 'connack', reasonCode: 0, properties: { authenticationMethod: 'count' } })
  expect(dataOf(last)).toBe('right at 6')
  await client.subscribe('works')
  expect(await client.settled()).toEqual([])
  // who brings no method is asked for its password, as ever [MQTT-4.12.0-6]
  await using other = await WireClient.connect(url, 'other')
  expect(other.connack.reasonCode).toBe(0x87)
  expect(other.connack.properties?.authenticationMethod).toBeUndefined()
})

test('[MQTT-4.12.0-1] [MQTT-4.12.0-4] [MQTT-3.1.4-2] an unknown method is refused by 0x8C, a failed exchange by what the hook says, at any point', async () => {
  const { url } = await serve({ enhancedAuthenticate: counting })
  for (const [packets, reasonCode] of [
    [[connect('unheard of')], 0x8c],
    [[connect('count', Buffer.from('x'))], 0x86],
    [[connect('count'), auth(0x18, 'count', 'x')], 0x86],
  ] as const) {
    await using client = await WireClient.open(url)
    client.send(packets[0])
    if (packets.length > 1) {
      await client.next('auth')
      client.send(packets[1]!)
    }
    const came = await client.untilClosed()
    expect(came).toMatchObject([{ cmd: 'connack', reasonCode, sessionPresent: false }])
  }
  const { url: without } = await serve({})
  await using client = await WireClient.open(without)
  client.send(connect('count'))
  expect(await client.untilClosed()).toMatchObject([{ cmd: 'connack', reasonCode: 0x8c }])
})

describe('what a client may not do', () => {
  const begin = async (options: Partial<Config> = {}): Promise<WireClient> => {
    const { url } = await serve({ enhancedAuthenticate: counting }, options)
    const client = await WireClient.open(url)
    client.send(connect('count'))
    await client.next('auth')
    return client
  }

  test.each([
    ['[MQTT-3.1.2-30] PINGREQ', frame(0xc0), 0x82],
    ['[MQTT-3.1.2-30] PUBLISH', frame(0x30, str('t'), properties(5)), 0x82],
    ['[MQTT-3.1.2-30] SUBSCRIBE', frame(0x82, u16(1), properties(5), str('t'), 0), 0x82],
    ['[MQTT-3.1.0-2] CONNECT', connect('count'), 0x82],
    ['[MQTT-4.12.0-5] AUTH of another method', auth(0x18, 'other'), 0x82],
    ['[MQTT-4.12.0-5] AUTH without a method', frame(0xf0, 0x18, 0), 0x82],
    ['[MQTT-4.12.1-1] AUTH 0x19', auth(0x19, 'count'), 0x82],
    ['[MQTT-3.15.2-1] AUTH 0x00', frame(0xf0), 0x81],
    ['[MQTT-3.15.2-1] AUTH with a code of DISCONNECT', frame(0xf0, 0x87, 8, 0x15, str('count')), 0x81],
    ['[MQTT-3.15.1-1] AUTH with flags', frame(0xf2, 0x18, 8, 0x15, str('count')), 0x81],
  ])('before CONNACK: %s', async (_, bytes, reasonCode) => {
    await using client = await begin()
    client.send(bytes)
    expect(await client.untilClosed()).toMatchObject([{ cmd: 'connack', reasonCode }])
  })

  test.each([
    ['AUTH is no larger than a CONNECT may be', 0xf0, 0x95],
    ['[MQTT-3.1.2-30] PUBLISH is not waited for', 0x30, 0x82],
  ])('before CONNACK a stranger makes us keep little: %s', async (_, first, reasonCode) => {
    await using client = await begin({ connectBytesMax: 4_096 })
    client.send(Buffer.from([first, 0xff, 0xff, 3]), Buffer.alloc(8_192)) // of 65,535
    expect(await client.untilClosed()).toMatchObject([{ cmd: 'connack', reasonCode }])
  })

  test.each([
    ['[MQTT-4.12.0-3] AUTH 0x18 that nobody asked for', [auth(0x18, 'count')], 0x82],
    ['[MQTT-4.12.1-1] AUTH 0x19 of another method', [auth(0x19, 'other')], 0x82],
    ['[MQTT-4.12.1-1] AUTH 0x19 within an exchange', [auth(0x19, 'count'), auth(0x19, 'count')], 0x82],
    ['[MQTT-3.15.2-1] AUTH 0x00', [frame(0xf0)], 0x81],
  ])('behind CONNACK: %s', async (_, packets, reasonCode) => {
    await using client = await begin()
    client.send(auth(0x18, 'count', '9'))
    await client.next('connack')
    client.send(...packets)
    expect((await client.untilClosed()).at(-1)).toMatchObject({ cmd: 'disconnect', reasonCode })
  })

  test('DISCONNECT instead of AUTH ends the connection, without a CONNACK', async () => {
    await using client = await begin()
    client.send(frame(0xe0))
    expect(await client.untilClosed()).toEqual([])
  })

  test('an exchange has connectTimeoutMs, before CONNACK and later', async () => {
    const { url } = await serve({ enhancedAuthenticate: counting }, { connectTimeoutMs: 200 })
    await using never = await WireClient.open(url)
    never.send(connect('count'))
    await never.next('auth')
    expect(await never.untilClosed()).toMatchObject([{ cmd: 'connack', reasonCode: 0x87 }])
    await using later = await WireClient.open(url)
    later.send(connect('count'))
    await later.next('auth')
    later.send(auth(0x18, 'count', '9'))
    await later.next('connack')
    later.send(auth(0x19, 'count'))
    await later.next('auth')
    expect(await later.untilClosed()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x87 }])
  })
})

test('[MQTT-4.12.1-1] [MQTT-4.12.1-2] a client authenticates again while its messages go on; one that fails is told to go by 0x87', async () => {
  const { url } = await serve({ enhancedAuthenticate: counting })
  await using client = await WireClient.open(url)
  client.send(connect('count'))
  await count(client, await client.next('auth'))
  await client.subscribe('goes/on', { qos: 0 })
  client.send(auth(0x19, 'count'))
  const first = await client.next('auth')
  client.send(frame(0x30, str('goes/on'), properties(5), Buffer.from('during it')))
  expect(String((await client.next('publish')).payload)).toBe('during it')
  expect(await count(client, first)).toMatchObject({
    cmd: 'auth',
    reasonCode: 0,
    properties: { authenticationMethod: 'count', authenticationData: Buffer.from('right at 6') },
  })
  client.send(auth(0x19, 'count', 'x'))
  expect(await client.untilClosed()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x87 }])
})

test('[MQTT-3.1.2-24] an AUTH larger than the client takes is not sent to it', async () => {
  const { url } = await serve({
    enhancedAuthenticate: (_client, _step, callback) =>
      callback(null, { done: false, data: Buffer.alloc(100) }),
  })
  await using client = await WireClient.open(url)
  client.send(connect('any', undefined, { properties: { maximumPacketSize: 50 } }))
  expect(await client.untilClosed()).toMatchObject([{ cmd: 'connack', reasonCode: 0x95 }])
})

describe.each(['a hook', 'a file'] as const)('SCRAM-SHA-256, users of %s', (where) => {
  const hmac = (key: Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest()
  const H = (bytes: Buffer): Buffer => createHash('sha256').update(bytes).digest()
  const xor = (a: Buffer, b: Buffer): Buffer => Buffer.from(a.map((byte, i) => byte ^ b[i]!))

  test('keys and proofs are those of the example in RFC 7677', async () => {
    const salt = Buffer.from('W22ZaJ0SNY7soEsUEjb6gQ==', 'base64')
    const { storedKey, serverKey } = await scramKeys('pencil', { salt, iterations: 4_096 })
    const nonce = 'rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0'
    const authMessage = `n=user,r=rOprNGfwEbeRWgbNEkqO,r=${nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=${nonce}`
    const proof = Buffer.from('dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=', 'base64')
    expect(H(xor(proof, hmac(storedKey, authMessage)))).toEqual(storedKey)
    expect(hmac(serverKey, authMessage).toString('base64')).toBe(
      '6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=',
    )
  })

  interface Prover {
    readonly first: Buffer
    /** Answers the challenge. */
    prove(challenge: string): Buffer
    isServer(final: string): boolean
  }

  function prover(user: string, password: string, header = 'n,,'): Prover {
    const bare = `n=${user.replaceAll('=', '=3D').replaceAll(',', '=2C')},r=${randomBytes(12).toString('hex')}`
    let [salted, message] = [Buffer.alloc(0), '']
    return {
      first: Buffer.from(header + bare),
      prove(challenge) {
        const [r, s, i] = challenge.split(',').map((part) => part.slice(2))
        salted = pbkdf2Sync(password, Buffer.from(s!, 'base64'), Number(i), 32, 'sha256')
        const without = `c=${Buffer.from(header).toString('base64')},r=${r}`
        message = `${bare},${challenge},${without}`
        const key = hmac(salted, 'Client Key')
        return Buffer.from(`${without},p=${xor(key, hmac(H(key), message)).toString('base64')}`)
      },
      isServer: (final) => final === `v=${hmac(hmac(salted, 'Server Key'), message).toString('base64')}`,
    }
  }

  const method = 'SCRAM-SHA-256'
  const passwordFile = join(folder, 'users')
  const users = async (hooks: Hooks = {}) => {
    const keys = new Map([
      ['anna', await scramKeys('sécret', { iterations: 5_000 })],
      ['a,b=c', await scramKeys('other')],
    ])
    if (where === 'a hook')
      return serve({ ...hooks, enhancedAuthenticate: scramSha256((user) => Promise.resolve(keys.get(user))) })
    const lines = [...keys].map(([user, { iterations, salt, storedKey, serverKey }]) =>
      [
        `${user}:`,
        'scram-sha-256',
        iterations,
        ...[salt, storedKey, serverKey].map((bytes) => bytes.toString('base64')),
      ].join('$'),
    )
    writeFileSync(passwordFile, `scrypt:${await keepPassword('sécret', 'scrypt')}\n${lines.join('\n')}\n`)
    return serve(hooks, { passwordFile, authentication: ['scram'] })
  }

  test.each([
    ['anna', 'sécret', 'n,,'],
    ['anna', 'sécret', 'y,,'],
    ['anna', 'sécret', 'n,a=anna,'],
    ['a,b=c', 'other', 'n,,'],
  ])(
    '%s with its password is let in, and knows that it is the server; again later, too (%s, %s)',
    async (user, password, header) => {
      const { node, url } = await users()
      await using client = await WireClient.open(url)
      for (const stage of ['connect', 'again'] as const) {
        const proving = prover(user, password, header)
        client.send(stage === 'connect' ? connect(method, proving.first) : auth(0x19, method, proving.first))
        const challenge = await client.next('auth')
        client.send(auth(0x18, method, proving.prove(dataOf(challenge))))
        const final = stage === 'connect' ? await client.next('connack') : await client.next('auth')
        expect(final.reasonCode).toBe(0)
        expect(proving.isServer(dataOf(final))).toBe(true)
        expect(node.clients.get('prover')?.user).toBe(user)
      }
      const other = prover('anna', 'sécret')
      if (user === 'anna') return
      client.send(auth(0x19, method, other.first)) // one cannot become another
      if (where === 'a file') client.send(auth(0x18, method, other.prove(dataOf(await client.next('auth')))))
      expect(await client.untilClosed()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x87 }])
    },
  )

  test('a wrong password and a user that is not there are refused alike, and the latter has the same salt each time', async () => {
    const { url } = await users()
    const salts: string[] = []
    const shapes = new Set<string>()
    for (const [user, password] of [
      ['anna', 'wrong'],
      ['nobody', 'sécret'],
      ['nobody', 'sécret'],
      ['scrypt', 'sécret'], // of whom no keys are kept
    ] as const) {
      await using client = await WireClient.open(url)
      const proving = prover(user, password)
      client.send(connect(method, proving.first))
      const challenge = dataOf(await client.next('auth'))
      salts.push(challenge.split(',')[1]!)
      shapes.add(challenge.replace(/r=[^,]{48}[^,]*/, 'r').replace(/s=[^,]{22}==/, 's'))
      client.send(auth(0x18, method, proving.prove(challenge)))
      expect(await client.untilClosed()).toMatchObject([{ cmd: 'connack', reasonCode: 0x87 }])
    }
    expect(salts[1]).toBe(salts[2])
    expect([...shapes].every((shape) => /^r,s,i=(5000|4096)$/.test(shape))).toBe(true)
  })

  test('a proof is of one exchange: whoever has heard it has nothing', async () => {
    const { url } = await users()
    const proving = prover('anna', 'sécret')
    const final = async (): Promise<[WireClient, Buffer]> => {
      const client = await WireClient.open(url)
      client.send(connect(method, proving.first))
      return [client, proving.prove(dataOf(await client.next('auth')))]
    }
    const [first, heard] = await final()
    first.send(auth(0x18, method, heard))
    expect((await first.next('connack')).reasonCode).toBe(0)
    const [second] = await final()
    second.send(auth(0x18, method, heard))
    expect(await second.untilClosed()).toMatchObject([{ cmd: 'connack', reasonCode: 0x87 }])
    await first[Symbol.asyncDispose]()
  })

  test.runIf(where === 'a file')(
    'a password that is another by now is none, however long ago its exchange began; a program may still say no',
    async () => {
      let isAllowed = true
      const asked: unknown[][] = []
      const { node, url } = await users({
        authenticate: (client, username, password, callback) => {
          asked.push([client.user, username, password])
          callback(null, isAllowed)
        },
      })
      const answer = async (
        client: WireClient,
        stage: 'connect' | 'again',
        change = (): void => undefined,
      ) => {
        const proving = prover('anna', 'sécret')
        client.send(stage === 'connect' ? connect(method, proving.first) : auth(0x19, method, proving.first))
        const challenge = await client.next('auth')
        change()
        client.send(auth(0x18, method, proving.prove(dataOf(challenge))))
        return client.any()
      }
      await using client = await WireClient.open(url)
      expect(await answer(client, 'connect')).toMatchObject({ cmd: 'connack', reasonCode: 0 })
      expect(asked).toEqual([['anna', 'anna', undefined]])
      isAllowed = false
      expect(await answer(client, 'again')).toMatchObject({ cmd: 'disconnect', reasonCode: 0x87 })
      await using vetoed = await WireClient.open(url)
      expect(await answer(vetoed, 'connect')).toMatchObject({ cmd: 'connack', reasonCode: 0x87 })
      isAllowed = true
      await using late = await WireClient.open(url)
      const before = readFileSync(passwordFile, 'utf8')
      const change = (): void => {
        writeFileSync(
          passwordFile,
          before.replace(/^anna:.*$/m, before.split('\n')[2]!.replace(/^.*?:/, 'anna:')),
        )
        node.reload()
      }
      const asking = asked.length
      expect(await answer(late, 'connect', change)).toMatchObject({ cmd: 'connack', reasonCode: 0x87 })
      expect(asked).toHaveLength(asking) // its proof itself was refused
    },
  )

  test('messages that are none of RFC 5802 are refused, and the node lives', async () => {
    const { url } = await users()
    const good = prover('anna', 'sécret')
    const firsts = [
      undefined,
      '',
      'n',
      'n,,',
      'n,,n=anna',
      'n,,n=anna,r=',
      'n,,n=anna,r=\u0000',
      'n,,n=an=na,r=abc',
      'n,a=somebody,n=anna,r=abc',
      'p=tls-unique,,n=anna,r=abc',
      'n,,m=ext,n=anna,r=abc',
      Buffer.from([0xff, 0xfe]),
    ]
    for (const first of firsts) {
      await using client = await WireClient.open(url)
      client.send(connect(method, first === undefined ? undefined : Buffer.from(first)))
      expect(await client.untilClosed(), String(first)).toMatchObject([{ cmd: 'connack', reasonCode: 0x87 }])
    }
    for (const change of [
      () => '',
      () => 'c=biws',
      (final: string) => final.replace('c=biws', 'c=eSws'),
      (final: string) => final.replace(/r=./, 'r='),
      (final: string) => final.replace(/p=.*/, 'p='),
      (final: string) => final.replace(/p=.*/, `p=${Buffer.alloc(32).toString('base64')}`),
    ]) {
      await using client = await WireClient.open(url)
      client.send(connect(method, good.first))
      const final = good.prove(dataOf(await client.next('auth'))).toString()
      client.send(auth(0x18, method, change(final)))
      expect(await client.untilClosed(), change(final)).toMatchObject([{ cmd: 'connack', reasonCode: 0x87 }])
    }
  })
})
