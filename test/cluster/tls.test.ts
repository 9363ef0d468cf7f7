// What a TLS listener shows, by the name that a client asks for and while its files change, and whose certificates it
// believes: revocation lists, chains with an authority below another. Certificates made by openssl, TLS 1.2 and 1.3.
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import { connect, type ConnectionOptions, type SecureVersion, type TLSSocket } from 'node:tls'
import { afterAll, describe, expect, test, vi } from 'vitest'
import { namedIn, readRevocationLists } from '../../broker/access/revocation-lists.ts'
import { keepPassword } from '../../broker/access/passwords.ts'
import { operate } from '../../broker/cli/operate.ts'
import { adviceOn } from '../../broker/config/config-advice.ts'
import { loadConfig } from '../../broker/config/config.ts'
import { createNode, type Node } from '../../broker/index.ts'
import { listen, type Listener } from '../../broker/listeners/index.ts'
import { Authority } from '../support/authority.ts'
import { makeCertificates } from '../support/certificates.ts'
import { WireClient } from '../support/wire.ts'

const authority = new Authority()
const server = authority.issue('server', { names: 'DNS:localhost', by: 'root' })
const open: { close: () => unknown }[] = []
afterAll(async () => {
  await Promise.all(open.map((one) => one.close()))
  authority[Symbol.dispose]()
})

const ca = authority.read('root.pem')
const versions: SecureVersion[] = ['TLSv1.2', 'TLSv1.3']
const ofVersion = (version: SecureVersion): ConnectionOptions => ({
  minVersion: version,
  maxVersion: version,
})

async function handshake(url: string, options: ConnectionOptions = {}): Promise<TLSSocket> {
  const socket = connect({
    host: '127.0.0.1',
    port: Number(new URL(url).port),
    ca,
    checkServerIdentity: () => undefined,
    ...options,
  })
  socket.on('session', (session: Buffer) => sessionOf.set(socket, session)) // the last one that it may resume
  await once(socket, 'secureConnect')
  return socket
}
const sessionOf = new WeakMap<TLSSocket, Buffer>()

async function shownBy(url: string, servername: string, version: SecureVersion): Promise<string> {
  const socket = await handshake(url, { servername, ...ofVersion(version) })
  const { CN } = socket.getPeerCertificate().subject
  socket.destroy()
  return String(CN)
}

/** A listener, without a node; what comes is sent back. */
async function echo(scheme: 'mqtts' | 'wss', tls: object): Promise<Listener> {
  const { listeners } = loadConfig({ listeners: [{ url: `${scheme}://127.0.0.1:0`, tls }] }, {})
  const onConnection = (stream: Duplex): void => void stream.pipe(stream).on('error', () => undefined)
  const listener = await listen({
    config: listeners[0]!,
    places: { take: () => true, give: () => undefined, exhausted: () => undefined },
    events: { turnedAway: () => undefined, heldBack: () => undefined, failed: () => undefined },
    addresses: undefined,
    onConnection,
  })
  open.push(listener)
  return listener
}

describe('the certificate that is shown', () => {
  const a = authority.issue('a', { names: 'DNS:a.example,DNS:A2.example', by: 'root' })
  const b = authority.issue('b', { names: 'DNS:*.b.example', by: 'root' })
  const sni = { sniCert: [a.cert, b.cert], sniKey: [a.key, b.key] }

  test.each(['mqtts', 'wss'] as const)(
    '%s: is the one that has the name which the client asks for',
    async (scheme) => {
      const { url } = await echo(scheme, { ...server, ...sni })
      const wanted = [
        ['a.example', 'a'],
        ['a2.EXAMPLE', 'a'],
        ['x.b.example', 'b'],
        ['x.y.b.example', 'server'],
        ['b.example', 'server'],
        ['other.example', 'server'],
        ['', 'server'],
      ] as const
      for (const version of versions)
        expect(await Promise.all(wanted.map(([name]) => shownBy(url, name, version)))).toEqual(
          wanted.map(([, cn]) => cn),
        )
    },
  )

  test('changes under load with no connection dropped, open ones and those that come', async () => {
    const files = { cert: authority.path('live.pem'), key: authority.path('live.key') }
    const show = (name: string): void => {
      copyFileSync(authority.path(`${name}.pem`), files.cert)
      copyFileSync(authority.path(`${name}.key`), files.key)
    }
    authority.issue('a', { names: 'DNS:a.example', by: 'root', file: 'a-newer' })
    show('a')
    const listener = await echo('mqtts', { ...server, sniCert: [files.cert], sniKey: [files.key] })
    const serialsShown = new Set<string>()
    let [rounds, isOver] = [0, false]
    const roundTrip = async (socket: TLSSocket): Promise<void> => {
      socket.write('x')
      await once(socket, 'data')
    }
    const load = async (version: SecureVersion): Promise<void> => {
      for (; !isOver; rounds++) {
        const socket = await handshake(listener.url, { servername: 'a.example', ...ofVersion(version) })
        await roundTrip(socket)
        serialsShown.add(socket.getPeerCertificate().serialNumber)
        socket.destroy()
      }
    }
    const opened = await Promise.all(
      versions.map((version) => handshake(listener.url, { servername: 'a.example', ...ofVersion(version) })),
    )
    const loads = Promise.all([...versions, ...versions].map(load))
    for (let change = 1; change <= 10; change++) {
      await expect.poll(() => rounds, { interval: 1 }).toBeGreaterThan(change * 8)
      show(change % 2 === 0 ? 'a' : 'a-newer')
      listener.renew()
    }
    writeFileSync(files.key, 'half a key')
    expect(() => listener.renew()).toThrow()
    await expect.poll(() => rounds, { interval: 1 }).toBeGreaterThan(100)
    isOver = true
    await loads // none failed
    for (const socket of opened) await roundTrip(socket)
    for (const socket of opened) socket.destroy()
    expect(serialsShown.size).toBe(2)
  })

  test('must have its key and a name, and lists an authority and a time: else nothing starts', () => {
    const problem = (tls: object): string => {
      try {
        loadConfig({ listeners: [{ url: 'mqtts://127.0.0.1:0', tls: { ...server, ...tls } }] }, {})
        return ''
      } catch (error) {
        return String(error)
      }
    }
    const [lists, over] = [authority.path('lists'), authority.path('over')]
    writeFileSync(lists, authority.lists())
    writeFileSync(over, authority.lists(true))
    expect(problem({ ...sni })).toBe('')
    expect(problem({ sniCert: [a.cert, b.cert], sniKey: [a.key] })).toContain(
      'has 2 certificates, and there are 1 keys',
    )
    expect(problem({ sniCert: [a.cert], sniKey: [b.key] })).toContain('does not fit the certificate')
    expect(problem({ sniCert: [lists], sniKey: [a.key] })).toContain('holds no certificate in PEM')
    expect(problem({ crl: lists })).toContain('stands without tls')
    expect(problem({ ca: authority.path('root.pem'), crl: over })).toMatch(
      /has a list that was over at 2020-01-02/,
    )
    expect(problem({ ca: authority.path('root.pem'), crl: server.cert })).toContain(
      'holds no revocation list in PEM',
    )
  })
})

describe('certificates of clients', () => {
  const [ann, bob] = [authority.issue('ann'), authority.issue('bob')]
  const both = authority.path('authorities.pem')
  writeFileSync(both, authority.texts('root.pem', 'devices.pem'))
  const of = ({ cert, key }: typeof ann): ConnectionOptions => ({
    cert: authority.texts(`${cert.split('/').at(-1)}`, 'devices.pem'),
    key: authority.read(key.split('/').at(-1)!),
  })
  const nodes: Node[] = []
  open.push({ close: () => Promise.all(nodes.map((node) => node.close())) })

  /** Undefined: it is closed, or refused. */
  async function connectBy(
    url: string,
    options: ConnectionOptions,
    password?: string,
  ): Promise<WireClient | undefined> {
    const socket = await handshake(url, options).catch(() => undefined) // with TLS 1.2 it is closed before
    if (socket === undefined) return undefined
    const client = new WireClient(socket, 5)
    client.send({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 5,
      clean: true,
      clientId: '',
      keepalive: 0,
      ...(password !== undefined && { username: 'eve', password: Buffer.from(password) }),
    })
    const answer = await client.any().catch(() => undefined)
    return answer?.cmd === 'connack' && answer.reasonCode === 0 ? client : undefined
  }

  test('that are revoked come in no more, by no session of before, and who is connected by one is told to go', async () => {
    const crl = authority.path('crl.pem')
    writeFileSync(crl, authority.lists())
    const a = authority.issue('sni', { names: 'DNS:a.example', by: 'root' })
    const node = await createNode({
      listeners: [
        { url: 'mqtts://127.0.0.1:0', tls: { ...server, ca: both, crl, sniCert: [a.cert], sniKey: [a.key] } },
        { url: 'wss://127.0.0.1:0', tls: { ...server, ca: both, crl } },
      ],
    })
    nodes.push(node)
    const [url, wss] = node.endpoints as [string, string]
    const sessions: Buffer[] = []
    const byAnn: WireClient[] = []
    for (const version of versions) {
      const client = (await connectBy(url, { ...of(ann), ...ofVersion(version) }))!
      sessions.push(sessionOf.get(client.socket as TLSSocket)!)
      byAnn.push(client)
    }
    const byBob = (await connectBy(url, of(bob)))!
    authority.revoke('ann')
    writeFileSync(crl, authority.lists())
    for (const client of byAnn) expect(await client.next('disconnect')).toMatchObject({ reasonCode: 0x87 })
    for (const [i, version] of versions.entries()) {
      expect(await connectBy(url, { ...of(ann), ...ofVersion(version) })).toBeUndefined()
      expect(
        await connectBy(url, { ...of(ann), ...ofVersion(version), servername: 'a.example' }),
      ).toBeUndefined()
      expect(
        await connectBy(url, { ...of(ann), ...ofVersion(version), session: sessions[i]! }),
      ).toBeUndefined()
    }
    const upgrade = await handshake(wss, of(ann))
    upgrade.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    expect(await once(upgrade, 'close').then(() => upgrade.bytesRead)).toBe(0)
    expect(await byBob.settled()).toEqual([])
    await using again = (await connectBy(url, of(bob)))!
    expect(again.isClosed).toBe(false)
    // a list that was fetched in vain lists nobody, and lets nobody in again
    for (const text of ['', 'not found\n']) {
      writeFileSync(crl, text)
      node.reload()
      expect(await connectBy(url, of(ann))).toBeUndefined()
    }
    await byBob[Symbol.asyncDispose]()
  })

  test('what who has none may do, and what a renewed one is by its fingerprint, is said until it is written down', () => {
    const passwordFile = authority.path('no-users')
    writeFileSync(passwordFile, '')
    const advice = (clients: object, certificateUser: string): string[] =>
      adviceOn(
        loadConfig(
          {
            listeners: [
              {
                url: 'mqtts://127.0.0.1:0',
                tls: { ...server, ca: both, ...clients },
                authentication: ['certificate', 'password-file'],
              },
            ],
            access: { passwordFile, certificateUser },
          },
          {},
        ),
      )
    expect(advice({}, 'fingerprint')).toEqual([
      expect.stringContaining('without a certificate is let in when password-file knows it'),
      expect.stringContaining('makes a client with a renewed certificate another user'),
    ])
    for (const clients of ['any', 'certificate']) expect(advice({ clients }, 'cn')).toEqual([])
  })

  test('whose authority is taken away are told to go, whoever else shows one stays', async () => {
    using others = makeCertificates()
    const authorities = authority.path('changing.pem')
    writeFileSync(authorities, authority.texts('root.pem', 'devices.pem') + others.caBytes.toString())
    const node = await createNode({
      listeners: [{ url: 'mqtts://127.0.0.1:0', tls: { ...server, ca: authorities } }],
    })
    nodes.push(node)
    const [url] = node.endpoints as [string]
    const by = (version: SecureVersion, options: ConnectionOptions): Promise<WireClient | undefined> =>
      connectBy(url, { ...options, ...ofVersion(version) })
    const staying = await Promise.all(versions.map((version) => by(version, of(bob))))
    const going = await Promise.all(versions.map((version) => by(version, others.client)))
    writeFileSync(authorities, authority.texts('root.pem')) // the one below it is shown by its clients
    node.reload()
    for (const client of going) expect(await client!.next('disconnect')).toMatchObject({ reasonCode: 0x87 })
    for (const client of staying) expect(await client!.settled()).toEqual([])
    expect(await by('TLSv1.3', others.client)).toBeUndefined()
    await Promise.all([...staying, await by('TLSv1.3', of(bob))].map((one) => one![Symbol.asyncDispose]()))
  })

  test('may be missing where others prove who they are otherwise; one that is revoked is none', async () => {
    const crl = authority.path('short.pem')
    writeFileSync(crl, authority.lists())
    const passwordFile = authority.path('users')
    writeFileSync(passwordFile, `eve:${await keepPassword('right', 'scrypt')}\n`)
    const node = await createNode({
      listeners: [
        {
          url: 'mqtts://127.0.0.1:0',
          tls: { ...server, ca: both, crl },
          authentication: ['certificate', 'password-file'],
        },
        {
          url: 'mqtts://127.0.0.1:0',
          tls: { ...server, ca: both, clients: 'certificate' },
          authentication: ['certificate', 'password-file'],
        },
        { url: 'mqtts://127.0.0.1:0', tls: { ...server, ca: both }, authentication: ['password-file'] },
        {
          url: 'mqtts://127.0.0.1:0',
          tls: { ...server, ca: both, clients: 'any' },
          authentication: ['password-file'],
        },
      ],
      access: { passwordFile },
    })
    nodes.push(node)
    const [url, ...others] = node.endpoints as [string, string, string, string]
    const codes = await Promise.all(
      [of(bob), of(ann), {}].flatMap((options) =>
        [undefined, 'right', 'wrong'].map(async (password) => {
          const client = await connectBy(url, options, password)
          await client?.[Symbol.asyncDispose]()
          return client !== undefined
        }),
      ),
    )
    // whose certificate is good; whose is revoked, which is none; who has none
    expect(codes).toEqual([true, true, true, false, true, false, false, true, false])
    const withoutOne = others.map(async (other) => {
      const client = await connectBy(other, {}, 'right').catch(() => undefined)
      await client?.[Symbol.asyncDispose]()
      return client !== undefined
    })
    // where each must show one, also beside its password; where none need
    expect(await Promise.all(withoutOne)).toEqual([false, false, true])
  })
})

describe('the admin endpoint by TLS', () => {
  const tokens = authority.path('tokens')
  writeFileSync(tokens, `write ann certificate\nread eve certificate\nread dashboard ${'t'.repeat(20)}\n`)
  const shown = authority.issue('admin', { names: 'IP:127.0.0.1', by: 'root' })
  const stranger = new Authority()
  afterAll(() => stranger[Symbol.dispose]())
  const options = {
    listen: ['mqtt://127.0.0.1:0'],
    admin: 'https://127.0.0.1:0',
    adminTlsCert: shown.cert,
    adminTlsKey: shown.key,
    adminTlsCa: authority.path('root.pem'),
    adminTokensFile: tokens,
  }

  test('who shows a certificate may do what its line says; probes need none, and web pages may not use it', async () => {
    const node = await createNode({ ...options, id: 'by-tls' })
    open.push(node)
    const url = new URL(node.adminUrl!)
    const [write, read] = ['ann', 'eve'].map((name) =>
      authority.issue(name, { by: 'root', file: `${name}-admin` }),
    )
    const forged = stranger.issue('ann', { by: 'root' })
    const unknown = authority.issue('nobody', { by: 'root' })
    const asked = async (
      method: string,
      path: string,
      { pair, headers = {} }: { pair?: { cert: string; key: string }; headers?: object } = {},
    ): Promise<number> => {
      const files = pair && { cert: readFileSync(pair.cert), key: readFileSync(pair.key) }
      const options = { method, ca, agent: false as const, headers: { ...headers }, ...files }
      const request = httpsRequest(new URL(path, url), options).end()
      const [answer] = (await once(request, 'response')) as [IncomingMessage]
      answer.resume()
      return answer.statusCode!
    }
    const [see, act] = [
      ['GET', '/api/v1/nodes'],
      ['POST', '/api/v1/clients/x/disconnect'],
    ] as const
    const answers: number[] = []
    for (const pair of [undefined, write, read, forged, unknown])
      for (const [method, path] of [see, act]) answers.push(await asked(method, path, pair && { pair }))
    expect(answers).toEqual([401, 401, 200, 200, 200, 403, 401, 401, 401, 401])
    expect(await asked('GET', '/livez')).toBe(200)
    expect(await asked(...see, { headers: { authorization: `Bearer ${'t'.repeat(20)}` } })).toBe(200)
    expect(await asked(...act, { pair: write!, headers: { origin: 'https://elsewhere.example' } })).toBe(403)
    const out = vi.spyOn(process.stdout, 'write').mockReturnValue(true)
    const own = ['--ca', authority.path('root.pem'), '--cert', write!.cert, '--key', write!.key]
    try {
      await operate('status', ['--admin', url.href, ...own])
      expect(String(out.mock.calls[0]![0])).toMatch(/^1 of 1 nodes are ready/)
      await expect(operate('status', ['--admin', url.href])).rejects.toMatchObject({
        problem: expect.stringMatching(/^does not answer/) as string,
      })
    } finally {
      out.mockRestore()
    }
    // http:// to it, and what is no TLS at all, end nothing
    await expect(fetch(url.href.replace('https', 'http'))).rejects.toThrow()
    expect(await asked('GET', '/livez')).toBe(200)
  })

  test.each([
    [{ adminTlsKey: undefined }, /needs --admin-tls-key/],
    [{ adminTlsKey: server.cert }, /holds a certificate, not a private key/],
    [{ adminTlsCa: server.key }, /holds a private key, not a certificate/],
    [{ adminTokensFile: undefined }, /stands without a file of who may do what/],
    [{ admin: 'http://127.0.0.1:0' }, /is for TLS, and the admin endpoint has none/],
    [{ workers: '2', redis: 'redis://127.0.0.1' }, /does not work with --workers/],
  ])('%j is refused before anything listens', (changed, problem) => {
    expect(() => loadConfig({ ...options, ...changed }, {})).toThrow(problem)
  })
})

test('revocation lists are read as openssl reads them', () => {
  const lists = readRevocationLists(authority.lists())
  expect(lists).toHaveLength(2)
  if (typeof lists === 'string') return
  expect(lists.map(({ serials }) => serials.size)).toEqual([0, 1])
  expect(lists[1]!.nextUpdate!.getTime()).toBeGreaterThan(Date.now() + 86_400_000)
  const der = (name: string): Buffer =>
    Buffer.from(
      authority
        .read(`${name}.pem`)
        .toString()
        .replaceAll(/-----[^-]*-----/g, ''),
      'base64',
    )
  expect(['ann', 'bob', 'devices', 'server'].map((name) => namedIn(lists, der(name)))).toEqual([
    true,
    false,
    false,
    false,
  ])
  expect(readRevocationLists('-----BEGIN X509 CRL-----\nMAAw\n-----END X509 CRL-----')).toContain(
    'cannot be read',
  )
})
