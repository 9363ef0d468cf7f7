// TCP, TLS, WebSocket and WebSocket over TLS on one node, which clients of one broker cannot tell apart.
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
  await node.stop()
  await strict.stop()
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

test('WebSocket: only the path of the listener, and no text frames [MQTT-6.0.0-1]', async () => {
  const url = node.endpoints[2]!
  await expect(TestClient.connect(url.replace('/mqtt', '/other'), 'lost')).rejects.toThrow()
  const socket = new WebSocket(url, 'mqtt')
  await new Promise((resolve) => socket.once('open', resolve))
  expect(socket.protocol).toBe('mqtt') // [MQTT-6.0.0-4]
  socket.send('text')
  await new Promise((resolve) => socket.once('close', resolve))
  expect(await fetch(url.replace('ws://', 'http://')).then((response) => response.status)).toBe(426)
})

test('a node that is stopped, or that could not start, hears nothing any more of what is diagnosed in its process', async () => {
  const heard = (): string[] =>
    Object.entries(diagnostics)
      .filter(([, { hasSubscribers }]) => hasSubscribers)
      .map(([name]) => name)
  const options = { redis: redis.url, admin: 'off', logLevel: 'silent', prefix: 'diagnosed' } as const
  await node.stop()
  await strict.stop()
  const before = heard()
  const first = await createNode({ ...options, id: 'first', listen: ['mqtt://127.0.0.1:0'] })
  expect(heard()).toEqual(expect.arrayContaining(['shed', 'garbage', 'inboxSealed']))
  await expect(createNode({ ...options, id: 'second', listen: first.endpoints })).rejects.toThrow('in use')
  await first.stop()
  expect(heard()).toEqual(before)
})
