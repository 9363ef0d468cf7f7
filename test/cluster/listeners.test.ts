// TCP, TLS, WebSocket and WebSocket over TLS on one node, which clients of one broker cannot tell apart.
import { once } from 'node:events'
import { connect } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { diagnostics } from '../../bridge/index.ts'
import { createNode, type Node } from '../../broker/index.ts'
import { makeCertificates, type Certificates } from '../support/certificates.ts'
import { TestClient, type ConnectOptions } from '../support/client.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'

let redis: TestRedis
let certificates: Certificates
let node: Node
let strict: Node
beforeAll(async () => {
  redis = await startRedis()
  certificates = makeCertificates()
  const common = {
    redis: redis.url,
    admin: 'off',
    logLevel: 'silent',
    tlsCert: certificates.server.cert,
    tlsKey: certificates.server.key,
  } as const
  node = await createNode({
    ...common,
    id: 'tls',
    listen: ['mqtt://127.0.0.1:0', 'mqtts://127.0.0.1:0', 'ws://127.0.0.1:0/mqtt', 'wss://127.0.0.1:0/mqtt'],
  })
  strict = await createNode({
    ...common,
    id: 'strict',
    tlsCa: certificates.ca,
    listen: ['mqtts://127.0.0.1:0', 'wss://127.0.0.1:0/mqtt'],
  })
})
afterAll(async () => {
  await node.close()
  await strict.close()
  await redis[Symbol.asyncDispose]()
  certificates[Symbol.dispose]()
})

test('each transport hears every other', async () => {
  expect(node.endpoints.map((url) => new URL(url).protocol)).toEqual(['mqtt:', 'mqtts:', 'ws:', 'wss:'])
  const clients = await Promise.all(
    node.endpoints.map((url, i) => TestClient.connect(url, `c${i}`, { ca: certificates.caBytes })),
  )
  for (const client of clients) await client.subscribe('all')
  for (const [i, client] of clients.entries()) {
    await client.publish('all', `from ${i}`)
    for (const listener of clients) await listener.receives([{ topic: 'all', payload: `from ${i}` }])
  }
  for (const client of clients) await client.disconnect()
})

test('a payload of many frames and segments passes every transport unchanged', async () => {
  const payload = Buffer.alloc(900_000, 'abcdefgh')
  for (const [i, url] of node.endpoints.entries()) {
    await using client = await TestClient.connect(url, `big${i}`, { ca: certificates.caBytes })
    await client.subscribe(`big/${i}`)
    await client.publish(`big/${i}`, payload)
    await client.arrivals(1)
    expect((client.packets[0]!.payload as Buffer).equals(payload)).toBe(true)
  }
})

test('with a certificate authority only clients that show a certificate of it come in', async () => {
  for (const url of strict.endpoints) {
    const options: ConnectOptions = { ca: certificates.caBytes }
    await expect(TestClient.connect(url, 'nobody', options)).rejects.toThrow()
    await using client = await TestClient.connect(url, 'somebody', { ...options, ...certificates.client })
    expect(client.mqtt.connected).toBe(true)
  }
})

test('[MQTT-6.0.0-1] WebSocket: only the path of the listener, and no text frames', async () => {
  const url = node.endpoints[2]!
  await expect(TestClient.connect(url.replace('/mqtt', '/other'), 'lost')).rejects.toThrow()
  const socket = new WebSocket(url, 'mqtt')
  await new Promise((resolve) => socket.once('open', resolve))
  expect(socket.protocol).toBe('mqtt') // [MQTT-6.0.0-4]
  socket.send('text')
  await new Promise((resolve) => socket.once('close', resolve))
  expect(await fetch(url.replace('ws://', 'http://')).then((response) => response.status)).toBe(426)
})

test('each listener has its own certificate, client authority, origins, packets, connections and time for CONNECT', async () => {
  using other = makeCertificates()
  const [{ server, ca, caBytes, client }, tls] = [certificates, other.server]
  const one = await createNode({
    id: 'apart',
    admin: 'off',
    log: { level: 'silent' },
    tls: { cert: server.cert, key: server.key },
    listeners: [
      { url: 'mqtt://127.0.0.1:0', limits: { connectionsMax: 1, connectTimeoutMs: 250 } },
      { url: 'mqtts://127.0.0.1:0' },
      { url: 'mqtts://127.0.0.1:0', tls: { ...tls, ca } },
      {
        url: 'ws://127.0.0.1:0/mqtt',
        websocket: { origins: ['https://app.example'] },
        limits: { packetBytesMax: 2_048 },
      },
      'ws://127.0.0.1:0',
    ],
  })
  const [plain, secure, strictly, page, open] = one.endpoints as [string, string, string, string, string]

  // certificates, and who must show one
  const byTls = await TestClient.connect(secure, 'own', { ca: caBytes })
  await expect(TestClient.connect(secure, 'wrong', { ca: other.caBytes })).rejects.toThrow()
  await expect(TestClient.connect(strictly, 'without', { ca: other.caBytes })).rejects.toThrow()
  await expect(TestClient.connect(strictly, 'wrong', { ca: caBytes, ...client })).rejects.toThrow()
  const shown = await TestClient.connect(strictly, 'shown', { ca: other.caBytes, ...client })

  // origins
  const upgrade = (url: string, origin: string): Promise<number> =>
    new Promise((resolve) => {
      const socket = new WebSocket(url, 'mqtt', { origin })
        .on('unexpected-response', (_, { statusCode }) => resolve(statusCode!))
        .on('open', () => {
          socket.close()
          resolve(101)
        })
        .on('error', () => undefined)
    })
  expect(
    await Promise.all([
      upgrade(page, 'https://app.example'),
      upgrade(page, 'https://x.example'),
      upgrade(open, 'https://x.example'),
    ]),
  ).toEqual([101, 403, 101])

  // packets: as CONNACK says, and by the reader
  const small = await TestClient.connect(page, 'small', { version: 5 })
  const large = await TestClient.connect(open, 'large', { version: 5 })
  expect(small.connack?.properties?.maximumPacketSize).toBe(2_048)
  expect(large.connack?.properties?.maximumPacketSize).toBe(1_048_576)
  for (const subscriber of [byTls, shown]) await subscriber.subscribe('size')
  await large.publish('size', Buffer.alloc(4_096), { qos: 1 })
  for (const subscriber of [byTls, shown]) await subscriber.arrivals(1)
  const ended = small.closed()
  small.mqtt.publish('size', Buffer.alloc(4_096))
  await ended

  // connections, and their time for CONNECT
  const first = await TestClient.connect(plain, 'first', { version: 5 })
  await expect(TestClient.connect(plain, 'second', { version: 5 })).rejects.toThrow() // 0x97
  const silent = [plain, secure].map((url) => connect(Number(new URL(url).port), '127.0.0.1'))
  await once(silent[0]!.resume(), 'close')
  expect(silent[1]!.destroyed).toBe(false)
  silent[1]!.destroy()
  await first.disconnect()
  await expect
    .poll(() =>
      TestClient.connect(plain, 'third').then(
        (third) => third.disconnect().then(() => 'served'),
        (error: Error) => error.message,
      ),
    )
    .toBe('served')
  for (const each of [byTls, shown, large]) await each.disconnect()
  await one.close()
})

test('a node that is stopped, or that could not start, hears nothing any more of what is diagnosed in its process', async () => {
  const heard = (): string[] =>
    Object.entries(diagnostics)
      .filter(([, { hasSubscribers }]) => hasSubscribers)
      .map(([name]) => name)
  const options = { redis: redis.url, admin: 'off', logLevel: 'silent', prefix: 'diagnosed' } as const
  await node.close()
  await strict.close()
  const before = heard()
  const first = await createNode({ ...options, id: 'first', listen: ['mqtt://127.0.0.1:0'] })
  expect(heard()).toEqual(expect.arrayContaining(['shed', 'garbage', 'inboxSealed']))
  await expect(createNode({ ...options, id: 'second', listen: first.endpoints })).rejects.toThrow('in use')
  await first.close()
  expect(heard()).toEqual(before)
})
