// The PROXY protocol: who is behind a proxy of a trusted network is who it says, over every transport and however
// its header is cut; everything else at such a listener is closed.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { findProgram } from '../../broker/cli/packages.ts'
import { createNode, type Client, type Node } from '../../broker/index.ts'
import { makeCertificates, type Certificates } from '../support/certificates.ts'
import { TestClient } from '../support/client.ts'
import { knock, untilClosed, upgrade } from '../support/door.ts'
import { freePort } from '../support/redis.ts'

let certificates: Certificates
let node: Node
const seen: Client[] = []
beforeAll(async () => {
  certificates = makeCertificates()
  const proxied = { proxy: { networks: ['127.0.0.0/8'] } }
  const elsewhere = { proxy: { networks: ['10.0.0.0/8', 'fd00::/8', '127.0.0.2'] } }
  node = await createNode(
    {
      id: 'proxied',
      admin: 'http://127.0.0.1:0',
      tls: { cert: certificates.server.cert, key: certificates.server.key },
      limits: { connectTimeoutMs: 2_000 },
      listeners: [
        { url: 'mqtt://127.0.0.1:0', ...proxied },
        { url: 'mqtts://127.0.0.1:0', ...proxied },
        { url: 'ws://127.0.0.1:0/mqtt', ...proxied },
        { url: 'wss://127.0.0.1:0/mqtt', ...proxied },
        { url: 'mqtt://127.0.0.1:0', ...elsewhere },
      ],
    },
    {
      preConnect: (client, _packet, done) => {
        seen.push(client)
        done(null, true)
      },
    },
  )
})
afterAll(async () => {
  await node.close()
  certificates[Symbol.dispose]()
})

const turnedAway = async (cause: string): Promise<number> => {
  const text = await (await fetch(`${node.adminUrl}/metrics`)).text()
  return Number(new RegExp(`turned_away_total{cause="${cause}"} (\\d+)`).exec(text)?.[1])
}

const signature = '0d0a0d0a000d0a515549540a'
const tlv = (type: number, value: Buffer | string): Buffer => {
  const bytes = Buffer.from(value)
  return Buffer.concat([Buffer.from([type, bytes.length >> 8, bytes.length & 255]), bytes])
}
/** Of version 2. */
const binary = (command: number, family: number, ...body: (Buffer | string)[]): Buffer => {
  const bytes = Buffer.concat(
    body.map((part) => (typeof part === 'string' ? Buffer.from(part, 'hex') : part)),
  )
  const head = Buffer.from([command, family, bytes.length >> 8, bytes.length & 255])
  return Buffer.concat([Buffer.from(signature, 'hex'), head, bytes])
}
/** 192.0.2.7:1234 → 127.0.0.1:1883 */
const from4 = 'c00002077f00000104d2075b'
const from6 = `20010db8${'0'.repeat(23)}9${'0'.repeat(31)}104d2075b`
const tlsFacts = tlv(
  0x20,
  Buffer.concat([
    Buffer.from('0700000000', 'hex'),
    tlv(0x21, 'TLSv1.3'),
    tlv(0x22, 'boiler'),
    tlv(0x23, 'AES'),
  ]),
)
const line = (text: string): Buffer => Buffer.from(text, 'latin1')

const good: [what: string, header: Buffer, address: string][] = [
  ['version 1', line('PROXY TCP4 192.0.2.7 127.0.0.1 1234 1883\r\n'), '192.0.2.7'],
  ['version 1, IPv6', line('PROXY TCP6 2001:db8::9 ::1 1234 1883\r\n'), '2001:db8::9'],
  ['version 1, mapped', line('PROXY TCP6 ::ffff:192.0.2.7 ::1 1234 1883\r\n'), '192.0.2.7'],
  ['version 1 of nobody', line('PROXY UNKNOWN\r\n'), '127.0.0.1'],
  ['version 1 of nobody, with words', line('PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n'), '127.0.0.1'],
  ['version 2', binary(0x21, 0x11, from4), '192.0.2.7'],
  ['version 2, IPv6', binary(0x21, 0x21, from6), '2001:db8::9'],
  [
    'version 2, mapped',
    binary(0x21, 0x21, `${'0'.repeat(20)}ffffc0000207${'0'.repeat(32)}04d2075b`),
    '192.0.2.7',
  ],
  ['version 2 with facts', binary(0x21, 0x11, from4, tlv(0x02, 'sni'), tlsFacts, tlv(0x04, '')), '192.0.2.7'],
  ['version 2, a check of the proxy itself', binary(0x20, 0x00), '127.0.0.1'],
  ['version 2, a UNIX socket', binary(0x21, 0x31, Buffer.alloc(216)), '127.0.0.1'],
  // echo of https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt 2.2.3: the sum of the bytes with itself as 0
  ['version 2 with a checksum', binary(0x21, 0x11, from4, '0300044a0bfd66'), '192.0.2.7'],
]
const bad: [what: string, bytes: Buffer][] = [
  ['CONNECT without a header', Buffer.from('101000044d5154540402000000046e616d65', 'hex')],
  ['HTTP', line(upgrade('/mqtt'))],
  ['a line that does not end', line(`PROXY TCP4 ${'1'.repeat(120)}`)],
  ['another protocol', line('PROXY UDP4 192.0.2.7 127.0.0.1 1234 1883\r\n')],
  ['half an address', line('PROXY TCP4 192.0.2 127.0.0.1 1234 1883\r\n')],
  ['an address of the other family', line('PROXY TCP4 ::1 ::1 1234 1883\r\n')],
  ['a name', line('PROXY TCP4 localhost 127.0.0.1 1234 1883\r\n')],
  ['two blanks', line('PROXY TCP4  192.0.2.7 127.0.0.1 1234 1883\r\n')],
  ['a port too large', line('PROXY TCP4 192.0.2.7 127.0.0.1 65536 1883\r\n')],
  ['a port with a 0 before it', line('PROXY TCP4 192.0.2.7 127.0.0.1 01234 1883\r\n')],
  ['a sixth word', line('PROXY TCP4 192.0.2.7 127.0.0.1 1234 1883 1\r\n')],
  ['lower case', line('proxy TCP4 192.0.2.7 127.0.0.1 1234 1883\r\n')],
  ['another version', binary(0x31, 0x11, from4)],
  ['another command', binary(0x22, 0x11, from4)],
  ['datagrams', binary(0x21, 0x12, from4)],
  ['addresses that end', binary(0x21, 0x21, from4)],
  ['half a fact', binary(0x21, 0x11, from4, '0200')],
  ['a fact longer than the header', binary(0x21, 0x11, from4, '020009aa')],
  ['half a fact of TLS', binary(0x21, 0x11, from4, tlv(0x20, 'abc'))],
  ['a wrong checksum', binary(0x21, 0x11, from4, '0300044a0bfd67')],
  ['a header of more than there may be', binary(0x21, 0x11, from4, tlv(0xe0, Buffer.alloc(9_000)))],
]

/** CONNECT of MQTT 3.1.1, clean, without a Client Identifier. */
const connectPacket = Buffer.from('100c00044d51545404020000' + '0000', 'hex')

async function comeIn(pieces: readonly Buffer[]): Promise<void> {
  const socket = (await knock(node.endpoints[0]!)).setNoDelay()
  for (const piece of pieces) {
    socket.write(piece)
    await new Promise(setImmediate)
  }
  expect((await once(socket, 'data'))[0]).toEqual(Buffer.from('20020000', 'hex'))
  socket.destroy()
}

describe('plain TCP', () => {
  test.each(good)('%s, cut at every byte', async (_what, header, address) => {
    const bytes = Buffer.concat([header, connectPacket])
    const cuts = bytes.length > 80 ? [1, 15, 16, 17, 60, header.length] : [...bytes.keys()].slice(1)
    const drip = [...header].map((byte) => Buffer.from([byte])).concat(connectPacket)
    await Promise.all([
      ...cuts.map((cut) => comeIn([bytes.subarray(0, cut), bytes.subarray(cut)])),
      comeIn(drip),
      comeIn([bytes]),
    ])
    expect(new Set(seen.splice(0).map((client) => client.address))).toEqual(new Set([address]))
  })

  test('facts of TLS are taken over', async () => {
    const facts = [tlv(0x02, 'broker.example'), tlsFacts]
    await comeIn([binary(0x21, 0x11, from4, ...facts), connectPacket])
    expect(seen.pop()!.proxyTls).toEqual({
      version: 'TLSv1.3',
      cipher: 'AES',
      serverName: 'broker.example',
      isVerified: true,
      commonName: 'boiler',
      certificate: undefined,
    })
    // the proxy did not find the certificate valid: whose it says that it is counts for nothing
    const doubted = Buffer.from(tlsFacts)
    doubted.writeUInt32BE(1, 4)
    await comeIn([binary(0x21, 0x11, from4, doubted), connectPacket])
    const { proxyTls } = seen.pop()!
    expect([proxyTls?.isVerified, proxyTls?.commonName]).toEqual([false, undefined])
  })

  test.each(bad)('%s is closed, and counted', async (_what, bytes) => {
    const before = await turnedAway('proxy')
    const socket = await knock(node.endpoints[0]!)
    socket.write(bytes)
    expect(await untilClosed(socket)).toBe('')
    expect(await turnedAway('proxy')).toBe(before + 1)
    expect(seen).toEqual([])
  })

  test('whoever stops within it is closed by the deadline of CONNECT, and at once when it ends its side', async () => {
    const closed = ['', 'PROXY TCP4 192.0.2.7', good[0]![1].toString()].flatMap((text) =>
      ([false, true] as const).map(async (ends) => {
        const socket = await knock(node.endpoints[0]!)
        if (ends) socket.end(text)
        else socket.write(text)
        return untilClosed(socket)
      }),
    )
    expect(new Set(await Promise.all(closed))).toEqual(new Set(['']))
  })

  test('a header from another network is closed', async () => {
    const socket = await knock(node.endpoints[4]!)
    socket.write(Buffer.concat([good[0]![1], connectPacket]))
    expect(await untilClosed(socket)).toBe('')
    expect(seen).toEqual([])
  })
})

test.each([1, 3])('below TLS, in one piece with what follows: listener %i', async (at) => {
  const socket = await knock(node.endpoints[at]!)
  socket.write('PROXY TCP4 192.0.2.7 127.0.0.1 1234 1883\r\n')
  const secure = connectTls({ socket, ca: certificates.caBytes, host: '127.0.0.1' })
  await once(secure, 'secureConnect')
  secure.write(at === 1 ? connectPacket : upgrade('/mqtt'))
  expect((await once(secure, 'data')).toString()).toMatch(at === 1 ? '\x20\x02\0\0' : /^HTTP\/1.1 101 /)
  secure.destroy()
  if (at === 1) expect(seen.pop()!.address).toBe('192.0.2.7')
})

test('below WebSocket, in one piece with the upgrade and CONNECT', async () => {
  const socket = await knock(node.endpoints[2]!)
  const frame = Buffer.concat([Buffer.from([0x82, 0x80 | connectPacket.length, 0, 0, 0, 0]), connectPacket])
  socket.write(Buffer.concat([binary(0x21, 0x21, from6), line(upgrade('/mqtt')), frame]))
  let text = ''
  for await (const chunk of socket)
    if ((text += (chunk as Buffer).toString('latin1')).endsWith('\x20\x02\0\0')) break
  expect(text).toMatch(/^HTTP\/1.1 101 /)
  expect(seen.pop()!.address).toBe('2001:db8::9')
})

test('a real HAProxy says who connects, from which certificate, by TLS that it ends or passes on', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-proxy-'))
  const { cert, key } = certificates.server
  writeFileSync(join(folder, 'both.pem'), readFileSync(cert, 'utf8') + readFileSync(key, 'utf8'))
  const [plain, ended, passed, ws] = [await freePort(), await freePort(), await freePort(), await freePort()]
  const hostOf = (at: number): string => new URL(node.endpoints[at]!).host
  const frontend = (name: string, bind: string, server: string): string =>
    `frontend ${name}\n  bind 127.0.0.1:${bind}\n  default_backend ${name}\nbackend ${name}\n  server node ${server} source 127.0.0.3\n`
  writeFileSync(
    join(folder, 'haproxy.cfg'),
    `defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n${[
      frontend('plain', `${plain}`, `${hostOf(0)} send-proxy`),
      frontend(
        'ended',
        `${ended} ssl crt ${join(folder, 'both.pem')} ca-file ${certificates.ca} verify optional`,
        `${hostOf(0)} send-proxy-v2-ssl-cn proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c`,
      ),
      frontend('passed', `${passed}`, `${hostOf(1)} send-proxy-v2`),
      frontend('ws', `${ws}`, `${hostOf(2)} send-proxy`),
    ].join('')}`,
  )
  const haproxy = spawn(findProgram('haproxy') ?? 'haproxy', ['-W', '-db', '-f', join(folder, 'haproxy.cfg')])
  let log = ''
  for (const stream of [haproxy.stdout, haproxy.stderr])
    stream.on('data', (chunk: Buffer) => {
      log += chunk.toString()
    })
  try {
    await expect.poll(() => log, { timeout: 20_000 }).toMatch(/Loading success/)
    const tls = { ca: certificates.caBytes, ...certificates.client, servername: 'localhost' }
    for (const [url, options] of [
      [`mqtt://127.0.0.1:${plain}`, {}],
      [`mqtts://127.0.0.1:${ended}`, tls],
      [`mqtts://127.0.0.1:${passed}`, tls],
      [`ws://127.0.0.1:${ws}/mqtt`, {}],
    ] as const) {
      await using client = await TestClient.connect(url, 'behind', options)
      await client.ping()
      const { address, proxyTls } = seen.pop()!
      expect(address, url).toBe('127.0.0.1')
      if (url.endsWith(`${ended}`))
        expect(proxyTls).toMatchObject({ version: 'TLSv1.3', serverName: 'localhost', commonName: 'client' })
      else expect(proxyTls?.commonName).toBeUndefined()
    }
  } finally {
    haproxy.kill('SIGTERM')
    await once(haproxy, 'exit')
    rmSync(folder, { recursive: true })
  }
})
