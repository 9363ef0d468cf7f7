// What may not come over a WebSocket (RFC 6455 sections 5 to 7, MQTT 5 section 6): it closes its connection, in
// whatever state that is, and no other one.
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import mqttPacket from 'mqtt-packet'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createNode, type Node } from '../../broker/index.ts'
import { makeCertificates, type Certificates } from '../support/certificates.ts'
import { TestClient } from '../support/client.ts'
import { knock, untilClosed, upgrade } from '../support/door.ts'

let certificates: Certificates
let node: Node
/** What would have ended the process. */
const thrown: unknown[] = []
const note = (error: unknown): void => void thrown.push(error)
beforeAll(async () => {
  process.on('uncaughtException', note)
  certificates = makeCertificates()
  node = await createNode({
    id: 'frames',
    admin: 'off',
    logLevel: 'silent',
    tlsCert: certificates.server.cert,
    tlsKey: certificates.server.key,
    listen: ['ws://127.0.0.1:0/mqtt', 'wss://127.0.0.1:0/mqtt'],
  })
})
afterAll(async () => {
  process.off('uncaughtException', note)
  await node.close()
  certificates[Symbol.dispose]()
})

/** A frame as a client sends it, masked with zeros, unless its second byte says something else. */
const framed = (first: number, payload: Buffer | string = '', second?: number): Buffer => {
  const bytes = Buffer.from(payload as string)
  const at = second ?? 0x80 | bytes.length
  return Buffer.concat([Buffer.from([first, at]), Buffer.alloc(at < 0x80 ? 0 : 4), bytes])
}
const pingreq = Buffer.from([0xc0, 0])
const rows: readonly (readonly [name: string, bytes: Buffer])[] = [
  ['RSV1: compressed, which was not agreed on', framed(0xc2, Buffer.from('deadbeef00ff', 'hex'))],
  ['RSV2', framed(0xa2, pingreq)],
  ['RSV3 of a ping', framed(0x99)],
  ['an opcode of data that is none', framed(0x83, pingreq)],
  ['an opcode of control that is none', framed(0x8b)],
  ['a ping in fragments', framed(0x09)],
  ['a close in fragments', framed(0x08, Buffer.from([3, 232]))],
  ['a ping of 126 bytes', Buffer.concat([Buffer.from([0x89, 0xfe, 0, 126]), Buffer.alloc(130)])],
  ['a length of 2^63', Buffer.from([0x82, 0xff, 0x80, ...Buffer.alloc(11)])],
  ['no mask', framed(0x82, pingreq, 2)],
  ['text [MQTT-6.0.0-1]', framed(0x81, 'text')],
  ['text that is no UTF-8', framed(0x81, Buffer.from([0xff, 0xfe, 0xc0]))],
  ['text in fragments', Buffer.concat([framed(0x01, 'te'), framed(0x80, 'xt')])],
  ['the end of a message that never began', framed(0x80, pingreq)],
  ['a message within another', Buffer.concat([framed(0x02, pingreq), framed(0x82, pingreq)])],
  ['a close whose reason is no UTF-8', framed(0x88, Buffer.from([3, 232, 0xff, 0xfe]))],
  ['a close of one byte', framed(0x88, Buffer.from([3]))],
  ['a close whose code is none', framed(0x88, Buffer.from([3, 237]))],
  ['more after a close', Buffer.concat([framed(0x88, Buffer.from([3, 232])), framed(0x83, pingreq)])],
]

/** What the upgrade can be sent on, and the TCP connection below it. */
async function reach(url: string): Promise<{ stream: Socket; raw: Socket }> {
  const raw = await knock(url)
  if (url.startsWith('ws:')) return { stream: raw, raw }
  const stream = connectTls({ socket: raw, ca: certificates.caBytes, servername: 'localhost' })
  stream.on('error', () => undefined)
  await once(stream, 'secureConnect')
  return { stream, raw }
}

const connect = framed(
  0x82,
  mqttPacket.generate({
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: 4,
    clean: true,
    clientId: '',
    keepalive: 0,
  }),
)
const connack = Buffer.from([0x82, 4, 0x20, 2, 0, 0])

async function untilConnack(stream: Socket): Promise<void> {
  for (let got = Buffer.alloc(0); !got.includes(connack);)
    got = Buffer.concat([got, ((await once(stream, 'data')) as [Buffer])[0]])
}

const urlOf = (scheme: string): string =>
  node.endpoints.find((endpoint) => endpoint.startsWith(`${scheme}:`))!

/** Does it for every row while a client is connected, which is there, and heard, afterwards. */
async function besideAnother(
  scheme: string,
  one: (name: string, bytes: Buffer) => Promise<void>,
): Promise<void> {
  await using other = await TestClient.connect(urlOf(scheme), '', { ca: certificates.caBytes })
  await other.subscribe('beside')
  await Promise.all(rows.map(([name, bytes]) => one(name, bytes)))
  await other.publish('beside', 'x')
  await other.receives([{ topic: 'beside', payload: 'x' }])
  expect(thrown).toEqual([])
}

describe.each(['ws', 'wss'])('over %s', (scheme) => {
  const url = (): string => urlOf(scheme)

  test('in one segment with the upgrade', () =>
    besideAnother(scheme, async (name, bytes) => {
      const { stream } = await reach(url())
      stream.write(Buffer.concat([Buffer.from(upgrade('/mqtt')), bytes]))
      expect(await untilClosed(stream), name).toMatch(/^HTTP\/1.1 101 /)
    }))

  test('behind CONNACK', () =>
    besideAnother(scheme, async (_name, bytes) => {
      const { stream } = await reach(url())
      stream.write(Buffer.concat([Buffer.from(upgrade('/mqtt')), connect]))
      await untilConnack(stream)
      stream.write(bytes)
      await untilClosed(stream)
    }))

  test('behind an upgrade that is refused', () =>
    besideAnother(scheme, async (name, bytes) => {
      const { stream } = await reach(url())
      stream.write(Buffer.concat([Buffer.from(upgrade('/other')), bytes]))
      expect(await untilClosed(stream), name).toMatch(/^HTTP\/1.1 404 /)
    }))

  test('by a client that is gone before its upgrade is read', () =>
    besideAnother(scheme, async (_name, bytes) => {
      const { stream, raw } = await reach(url())
      stream.write(Buffer.concat([Buffer.from(upgrade('/mqtt')), bytes]))
      raw.resetAndDestroy()
      await once(raw, 'close')
    }))
})

/** The node's ends of connections, by the client's port. */
async function acceptedWhile<Result>(
  work: (accepted: ReadonlyMap<number, Socket>) => Promise<Result>,
): Promise<Result> {
  const accepted = new Map<number, Socket>()
  const note = (event: unknown): void => {
    const { socket } = event as { readonly socket: Socket }
    accepted.set(socket.remotePort!, socket)
  }
  subscribe('net.server.socket', note)
  return work(accepted).finally(() => unsubscribe('net.server.socket', note))
}

test('by a client that is gone between the answer to its upgrade and the next step', () =>
  acceptedWhile((accepted) =>
    besideAnother('ws', async (_name, bytes) => {
      const raw = await knock(urlOf('ws'))
      await expect.poll(() => accepted.get(raw.localPort!)).toBeDefined()
      // What the system says of a connection that was reset: it has no other end. No client can time that.
      Object.defineProperty(accepted.get(raw.localPort!), 'remoteAddress', { value: undefined })
      raw.write(Buffer.concat([Buffer.from(upgrade('/mqtt')), bytes]))
      await untilClosed(raw)
    }),
  ))
