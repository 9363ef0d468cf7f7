// JSON Web Tokens as proof of who a client is (broker/access/jwt.ts), from outside: tokens that are signed here by
// hand, real clients, a server of keys that hangs, breaks, lies and comes back.
import { createHmac, generateKeyPairSync, randomBytes, sign, type KeyObject } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import type { RequestListener } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { IConnackPacket, IPublishPacket, Packet } from 'mqtt-packet'
import { afterAll, describe, expect, test } from 'vitest'
import { UrlKeys } from '../../broker/access/key-source.ts'
import { fittingKeys } from '../../broker/access/token-keys.ts'
import { createNode, type Node, type NodeOptions } from '../../broker/index.ts'
import { HttpServer } from '../support/http-server.ts'
import { WireClient, type Version } from '../support/wire.ts'

const folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-tokens-'))
const nodes: Node[] = []
afterAll(async () => {
  rmSync(folder, { recursive: true })
  await Promise.all(nodes.map((node) => node.close()))
})

async function started(jwt: NonNullable<NodeOptions['jwt']>, more: NodeOptions = {}): Promise<Node> {
  const node = await createNode({ listen: ['mqtt://127.0.0.1:0'], jwt, ...more })
  nodes.push(node)
  return node
}
const serve = (jwt: NonNullable<NodeOptions['jwt']>, more: NodeOptions = {}): Promise<string> =>
  started(jwt, more).then(({ endpoints }) => endpoints[0]!)

let written = 0
function file(text: string): string {
  const path = join(folder, `file-${written++}`)
  writeFileSync(path, text)
  return path
}

const base64 = (data: string | Buffer): string => Buffer.from(data).toString('base64url')
const seconds = (): number => Date.now() / 1_000

/** Signs as `alg` says, whether the key is for that or not. */
function signed(
  header: object,
  claims: object,
  key: KeyObject | Buffer,
  as = (header as { alg: string }).alg,
): string {
  const text = `${base64(JSON.stringify(header))}.${base64(JSON.stringify(claims))}`
  const hash = `sha${as.slice(2)}`
  const signature = Buffer.isBuffer(key)
    ? createHmac(hash, key).update(text).digest()
    : as === 'EdDSA'
      ? sign(null, Buffer.from(text), key)
      : as.startsWith('PS')
        ? sign(hash, Buffer.from(text), { key, padding: 6, saltLength: Number(as.slice(2)) / 8 })
        : sign(hash, Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' })
  return `${text}.${base64(signature)}`
}

const rsa = generateKeyPairSync('rsa', { modulusLength: 2_048 })
const curves = { ES256: 'P-256', ES384: 'P-384', ES512: 'P-521' } as const
const ec = Object.fromEntries(
  Object.entries(curves).map(([alg, namedCurve]) => [alg, generateKeyPairSync('ec', { namedCurve })]),
)
const ed = generateKeyPairSync('ed25519')
const pem = (key: KeyObject): string => key.export({ type: 'spki', format: 'pem' }) as string
const ann = (): { sub: string; exp: number } => ({ sub: 'ann', exp: seconds() + 60 })

const connect = (
  url: string,
  token: string,
  clientId = 'client',
  version: Version = 5,
): Promise<WireClient & { connack: IConnackPacket }> =>
  WireClient.connect(url, clientId, { version, username: 'any', password: Buffer.from(token) })

async function codeOf(url: string, token: string, clientId?: string): Promise<number> {
  await using client = await connect(url, token, clientId)
  return client.connack.reasonCode!
}

describe('a token is right', () => {
  const publicKeys = [rsa, ...Object.values(ec), ed].map(({ publicKey }) => pem(publicKey)).join('')
  const keyOf = (alg: string): KeyObject =>
    alg === 'EdDSA' ? ed.privateKey : alg.startsWith('ES') ? ec[alg]!.privateKey : rsa.privateKey
  const asymmetric = [
    'RS256',
    'RS384',
    'RS512',
    'PS256',
    'PS384',
    'PS512',
    'ES256',
    'ES384',
    'ES512',
    'EdDSA',
  ] as const

  test('by each algorithm, and by no other than those of the option, whatever it says of itself', async () => {
    const url = await serve({ keyFile: file(publicKeys), algorithms: [...asymmetric] })
    for (const alg of asymmetric)
      expect([alg, await codeOf(url, signed({ alg }, ann(), keyOf(alg)))]).toEqual([alg, 0])
    const some = await serve({ keyFile: file(publicKeys) }) // RS256, ES256 and EdDSA
    for (const alg of asymmetric)
      expect([alg, await codeOf(some, signed({ alg }, ann(), keyOf(alg)))]).toEqual([
        alg,
        ['RS256', 'ES256', 'EdDSA'].includes(alg) ? 0 : 0x86,
      ])
    // the public key as the secret of HS256
    for (const secret of [publicKeys, pem(rsa.publicKey), pem(rsa.publicKey).trim()])
      expect(await codeOf(url, signed({ alg: 'HS256' }, ann(), Buffer.from(secret)))).toBe(0x86)
    const none = `${base64('{"alg":"none"}')}.${base64(JSON.stringify(ann()))}.`
    expect([await codeOf(url, none), await codeOf(some, none)]).toEqual([0x86, 0x86])
    // a key that the token itself brings, or says where it is
    const foreign = generateKeyPairSync('rsa', { modulusLength: 2_048 })
    const jwk = foreign.publicKey.export({ format: 'jwk' })
    for (const more of [{ jwk }, { jku: 'http://127.0.0.1:9/keys' }, { x5u: 'http://127.0.0.1:9/cert' }])
      expect(await codeOf(url, signed({ alg: 'RS256', ...more }, ann(), foreign.privateKey))).toBe(0x86)
    expect(await codeOf(url, signed({ alg: 'RS256', crit: ['x'], x: 1 }, ann(), rsa.privateKey))).toBe(0x86)
  })

  test('by secrets of a file, of which each line is one; and the configurations that would mix them up', async () => {
    const secrets = [randomBytes(24).toString('hex'), randomBytes(40).toString('base64')]
    const url = await serve({ keyFile: file(`${secrets.join('\n')}\n`), algorithms: ['HS256', 'HS384'] })
    for (const secret of secrets)
      expect(await codeOf(url, signed({ alg: 'HS256' }, ann(), Buffer.from(secret)))).toBe(0)
    expect(await codeOf(url, signed({ alg: 'HS384' }, ann(), Buffer.from(secrets[1]!)))).toBe(0)
    expect(await codeOf(url, signed({ alg: 'HS256' }, ann(), randomBytes(32)))).toBe(0x86)
    const problems = async (jwt: NonNullable<NodeOptions['jwt']>): Promise<string> => {
      const error = await createNode({ listen: ['mqtt://127.0.0.1:0'], jwt }).catch(
        (reason: unknown) => reason,
      )
      expect(String(error)).not.toContain(secrets[0])
      return String(error)
    }
    const secretFile = file(secrets[0]!)
    const keyFile = file(publicKeys)
    const keysUrl = 'https://id.example/keys'
    expect(await problems({ keyFile: secretFile, algorithms: ['HS256', 'RS256'] })).toContain(
      'beside those of public keys',
    )
    expect(await problems({ keyFile: secretFile })).toContain(
      'has no algorithm of a secret, and the file of keys has one',
    )
    expect(await problems({ keyFile, algorithms: ['HS256'] })).toContain('and the file of keys has none')
    expect(await problems({ keysUrl, algorithms: ['HS256'] })).toContain('the keys come from a URL')
    expect(await problems({ keysUrl, keyFile })).toContain('stands beside a file of keys')
    expect(await problems({ keyFile: file('short') })).toContain('of less than 32 bytes')
    expect(await problems({ keyFile: file('{"keys":[]}') })).toContain('has no key for signatures')
    const own = ed.privateKey.export({ type: 'pkcs8', format: 'pem' }) as string
    expect(await problems({ keyFile: file(own) })).toContain('holds a private key')
    expect(await problems({ keysUrl: 'https://a:b@id.example/' })).toContain('has a user or password')
  })

  test('for now, from whom and for whom it must be, with all its claims; else it is not', async () => {
    const jwt = {
      keyFile: file(pem(ed.publicKey)),
      issuer: 'https://id.example/',
      audience: 'mqtt',
      clientClaim: 'cid',
      leewaySeconds: 0,
    }
    const url = await serve(jwt)
    const right = { ...ann(), iss: 'https://id.example/', aud: ['other', 'mqtt'], cid: 'client' }
    const token = (claims: object, key = ed.privateKey): string => signed({ alg: 'EdDSA' }, claims, key)
    const without = (name: string): object =>
      Object.fromEntries(Object.entries(right).filter(([key]) => key !== name))
    const codes = Promise.all(
      [
        token(right),
        token({ ...right, cid: 'other' }),
        token({ ...right, exp: seconds() - 2 }),
        token({ ...right, nbf: seconds() + 60 }),
        token({ ...right, iss: 'https://id.example' }),
        token({ ...right, aud: 'mqtts' }),
        ...['exp', 'sub', 'iss', 'aud', 'cid'].map((name) => token(without(name))),
        token({ ...right, sub: 7 }),
        token({ ...right, sub: 'a\nb' }),
        token({ ...right, exp: '9999999999' }),
        token({ ...right, rules: ['read:all'] }),
        token(right, generateKeyPairSync('ed25519').privateKey),
        `${token(right).slice(0, -4)}AAAA`,
        token(right).replace(/\.[^.]*\./, `.${base64(JSON.stringify({ ...right, sub: 'root' }))}.`),
        'hunter2',
        'a.b.c',
      ].map((one) => codeOf(url, one)),
    )
    expect(await codes).toEqual([0, 0x85, ...Array.from({ length: 18 }, () => 0x86)])
    // without an audience of ours a token that is meant for somebody is not meant for us
    const open = await serve({ keyFile: jwt.keyFile })
    expect([await codeOf(open, token(without('aud'))), await codeOf(open, token(right))]).toEqual([0, 0x86])
  })

  test('for as long as a token may live, from when it was issued', async () => {
    const keyFile = file(pem(ed.publicKey))
    const code = (url: string, iat: number | undefined, exp: number): Promise<number> =>
      codeOf(url, signed({ alg: 'EdDSA' }, { sub: 'ann', iat, exp }, ed.privateKey))
    const url = await serve({ keyFile, lifeSecondsMax: 3_600 })
    const now = Math.floor(seconds())
    const hour = 3_600
    expect([
      await code(url, now, now + hour),
      await code(url, undefined, now + hour),
      await code(url, now, now + hour + 10),
      await code(url, undefined, now + hour + 10),
      await code(url, now - hour, now + 60), // it has lived for most of it
      await code(url, now + 1_000, now + hour + 900), // its signer says what it likes
    ]).toEqual([0, 0, 0x86, 0x86, 0x86, 0x86])
    expect(await code(await serve({ keyFile }), now, now + 1_000 * hour)).toBe(0)
  })

  test('as user name where an option says so; beside other links a password that is none is not its', async () => {
    const url = await serve(
      { keyFile: file(pem(ed.publicKey)), from: 'username' },
      { authentication: ['jwt', 'anonymous'] },
    )
    const codes = await Promise.all(
      [
        signed({ alg: 'EdDSA' }, ann(), ed.privateKey),
        signed({ alg: 'EdDSA' }, { ...ann(), exp: 1 }, ed.privateKey),
        'ann',
        undefined,
      ].map(async (username, i) => {
        // a session is its user's: each has one of its own
        await using client = await WireClient.connect(
          url,
          `c${i}`,
          username === undefined ? {} : { username },
        )
        return client.connack.reasonCode
      }),
    )
    expect(codes).toEqual([0, 0x86, 0x86, 0])
  })
})

describe('what a token says of its owner', () => {
  const keyFile = file(pem(ed.publicKey))
  const token = (claims: object): string => signed({ alg: 'EdDSA' }, { ...ann(), ...claims }, ed.privateKey)
  const publish = (messageId: number, topic: string): Packet => ({
    cmd: 'publish',
    topic,
    payload: '',
    qos: 1,
    retain: false,
    dup: false,
    messageId,
  })

  test('its rules come before those of files, and what none is about is denied; without any everything is allowed', async () => {
    const url = await serve({ keyFile })
    await using free = await connect(url, token({}), 'free')
    await using bound = await connect(
      url,
      token({
        rules: [
          { allow: 'publish', topic: 'devices/%u/#' },
          { allow: 'subscribe', topic: 'news/#' },
          { allow: 'receive', topic: 'news/today' },
        ],
      }),
      'bound',
    )
    bound.send(publish(1, 'devices/ann/on'), publish(2, 'devices/bob/on'))
    const codes = [await bound.next('puback'), await bound.next('puback')].map(({ reasonCode }) => reasonCode)
    expect(codes).toEqual([0x10, 0x87])
    bound.send({
      cmd: 'subscribe',
      messageId: 3,
      subscriptions: ['news/#', 'other'].map((topic) => ({
        topic,
        qos: 1 as const,
        nl: false,
        rap: false,
        rh: 0 as const,
      })),
    })
    expect((await bound.next('suback')).granted).toEqual([1, 0x87])
    for (const [i, topic] of ['news/secret', 'news/today', 'other'].entries()) {
      free.send(publish(i + 1, topic))
      expect((await free.next('puback')).reasonCode! < 0x80).toBe(true)
    }
    expect((await bound.settled()).map((packet) => (packet as IPublishPacket).topic)).toEqual(['news/today'])
    const rulesFile = file('rules: [{ allow: publish, topic: x }, { allow: publish, topic: y }]')
    const both = await serve({ keyFile }, { access: { rulesFile } })
    await using client = await connect(both, token({ rules: [{ deny: 'publish', topic: 'x' }] }))
    client.send(publish(1, 'x'), publish(2, 'y'), publish(3, 'z'))
    const all = [await client.next('puback'), await client.next('puback'), await client.next('puback')]
    expect(all.map(({ reasonCode }) => reasonCode)).toEqual([0x87, 0x10, 0x87])
  })

  test('its end is that of the connection (0xA0; 3.1.1: closed), which a newer token of the same user puts off', async () => {
    const url = await serve({ keyFile, leewaySeconds: 0, clientClaim: 'cid' })
    const exp = seconds() + 1
    const method = async (clientId: string, first: string): Promise<WireClient> => {
      const client = await WireClient.open(url)
      client.send({
        cmd: 'connect',
        protocolId: 'MQTT',
        protocolVersion: 5,
        clean: true,
        clientId,
        keepalive: 0,
        properties: { authenticationMethod: 'JWT', authenticationData: Buffer.from(first) },
      })
      return client
    }
    const auth = (data: string): Packet => ({
      cmd: 'auth',
      reasonCode: 0x19,
      properties: { authenticationMethod: 'JWT', authenticationData: Buffer.from(data) },
    })
    await using five = await connect(url, token({ exp, cid: 'five' }), 'five')
    await using four = await connect(url, token({ exp, cid: 'four' }), 'four', 4)
    await using prolonged = await method('prolonged', token({ exp, cid: 'prolonged' }))
    await using other = await method('other', token({ exp: exp + 60, cid: 'other' }))
    await using elsewhere = await method('elsewhere', token({ exp: exp + 60, cid: 'another' }))
    expect((await elsewhere.next('connack')).reasonCode).toBe(0x85)
    for (const client of [prolonged, other]) expect((await client.next('connack')).reasonCode).toBe(0)
    prolonged.send(auth(token({ cid: 'prolonged' })))
    expect((await prolonged.next('auth')).reasonCode).toBe(0)
    other.send(auth(token({ sub: 'bob', cid: 'other' })))
    expect((await other.untilClosed())[0]).toMatchObject({ cmd: 'disconnect', reasonCode: 0x87 })
    expect(await five.untilClosed()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0xa0 }])
    expect(await four.untilClosed()).toEqual([])
    expect(seconds()).toBeGreaterThanOrEqual(exp)
    expect(await prolonged.settled()).toEqual([])
  })
})

test('whom a key let in that is taken away from its file is told to go, and nobody else', async () => {
  const [kept, taken] = [generateKeyPairSync('ed25519'), generateKeyPairSync('ed25519')]
  const keyFile = file(pem(kept.publicKey) + pem(taken.publicKey))
  const node = await started({ keyFile })
  const [url] = node.endpoints as [string]
  const token = (pair: typeof kept): string => signed({ alg: 'EdDSA' }, ann(), pair.privateKey)
  await using staying = await connect(url, token(kept), 'staying')
  await using going = await connect(url, token(taken), 'going')
  const authenticationData = Buffer.from(token(kept))
  await using changed = await WireClient.open(url)
  changed.send({
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: 5,
    clean: true,
    clientId: 'changed',
    keepalive: 0,
    properties: { authenticationMethod: 'JWT', authenticationData: Buffer.from(token(taken)) },
  })
  expect((await changed.next('connack')).reasonCode).toBe(0)
  changed.send({
    cmd: 'auth',
    reasonCode: 0x19,
    properties: { authenticationMethod: 'JWT', authenticationData },
  })
  expect((await changed.next('auth')).reasonCode).toBe(0) // it is by the other key now
  writeFileSync(keyFile, pem(kept.publicKey))
  node.reload()
  expect(await going.next('disconnect')).toMatchObject({ reasonCode: 0x87 })
  expect(await codeOf(url, token(taken))).toBe(0x86)
  // a file that is not in order takes nobody's key away
  writeFileSync(keyFile, 'no key')
  node.reload()
  expect([await staying.settled(), await changed.settled()]).toEqual([[], []])
})

describe('keys of a URL', () => {
  const pair = (): { kid: string; privateKey: KeyObject; jwk: object } => {
    const { publicKey, privateKey } = generateKeyPairSync('ed25519')
    const kid = randomBytes(4).toString('hex')
    return { kid, privateKey, jwk: { ...publicKey.export({ format: 'jwk' }), kid, use: 'sig', alg: 'EdDSA' } }
  }
  const tokenOf = ({ kid, privateKey }: { kid: string; privateKey: KeyObject }): string =>
    signed({ alg: 'EdDSA', kid }, ann(), privateKey)

  const keys =
    (...jwks: object[]): RequestListener =>
    (_request, response) =>
      response.end(JSON.stringify({ keys: jwks }))

  test('are fetched anew for a key that is not among them, at most once in a while, whoever comes', async () => {
    const [first, second] = [pair(), pair()]
    await using server = await HttpServer.start(
      keys(first.jwk, { kty: 'unheard of' }, { kty: 'RSA', use: 'enc' }),
    )
    const url = await serve({ keysUrl: server.url, keysRefreshSeconds: 1 })
    await using byFirst = await connect(url, tokenOf(first), 'first')
    expect(byFirst.connack.reasonCode).toBe(0)
    const strangers = await Promise.all(Array.from({ length: 20 }, () => codeOf(url, tokenOf(pair()))))
    expect(strangers).toEqual(strangers.map(() => 0x86))
    expect(server.asked).toBe(1) // within a second
    server.answer(keys(second.jwk))
    await expect.poll(() => codeOf(url, tokenOf(second)), { timeout: 4_000 }).toBe(0)
    expect(await byFirst.next('disconnect')).toMatchObject({ reasonCode: 0x87 })
    expect(await codeOf(url, tokenOf(first))).toBe(0x86) // what is not among them any more is none
    server.answer((_request, response) => response.destroy())
    expect(await codeOf(url, tokenOf(second))).toBe(0) // they hold while the server is away
  })

  test.each([
    ['hangs', () => undefined, 'no answer within 200 ms'],
    ['answers and never ends', (_request, response) => response.write('{'), 'no answer within 200 ms'],
    [
      'answers 1 MB',
      (_request, response) => response.end('{'.padEnd(1024 * 1024)),
      'its answer has more than 262144 bytes',
    ],
    [
      'redirects',
      (_request, response) => response.writeHead(302, { location: '/' }).end(),
      'answers with status 302',
    ],
    ['breaks', (_request, response) => response.writeHead(500).end('{}'), 'answers with status 500'],
    [
      'says something else',
      (_request, response) => response.end('secret-of-thirty-two-bytes-or-more'),
      'is not JSON',
    ],
    [
      'has no keys',
      (_request, response) => response.end('{"keys":[{"kty":"RSA"}]}'),
      'has no key for signatures',
    ],
  ] satisfies [string, RequestListener, string][])('a server that %s', async (_, listener, problem) => {
    await using server = await HttpServer.start(listener)
    const told: (string | undefined)[] = []
    const source = new UrlKeys(
      server.url,
      1,
      { onKeys: (what) => told.push(what), onTaken: () => undefined },
      { timeoutMs: 200, bytesMax: 256 * 1024, oldMs: 1_000, tooOldMs: 2_000 },
    )
    expect([await source.current(), told]).toEqual([undefined, [problem]])
    server.answer(keys(pair().jwk))
    expect(await source.renewed()).toHaveLength(1) // it comes back
    expect(told).toEqual([problem, undefined])
  })

  test('that cannot be had are nobody’s fault: the client is told to come again', async () => {
    await using server = await HttpServer.start((_request, response) => response.destroy())
    const url = await serve({ keysUrl: server.url })
    expect(await codeOf(url, tokenOf(pair()))).toBe(0x88)
  })
})

test('an RSA key that is too short signs nothing, and is in the way of no other', () => {
  const keyOf = (modulusLength: number): KeyObject => generateKeyPairSync('rsa', { modulusLength }).publicKey
  const keys = [1_024, 2_048].map((bits) => ({
    id: undefined,
    algorithm: undefined,
    key: keyOf(bits),
    digest: `${bits}`,
  }))
  expect(fittingKeys(keys, { alg: 'RS256' })).toEqual([keys[1]!])
})
