// A client that is told why its connection ends gets to read it, whatever it is still sending: its socket is
// closed, not reset. And one that does not end its side is ended all the same.
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import mqttPacket, { type IConnectPacket } from 'mqtt-packet'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { WireClient } from '../support/wire.ts'

/** More than a node has read when it says why: what is unread when a socket is closed resets it. */
const behind = Buffer.alloc(16 * 1024 * 1024)
const badPublish = Buffer.from([0x30, 4, 0, 1, 0x23, 0]) // to the topic `#` [MQTT-3.3.2-2]
const connectPacket = (more: Partial<IConnectPacket> = {}): IConnectPacket => ({
  cmd: 'connect',
  protocolId: 'MQTT',
  protocolVersion: 5,
  clean: true,
  clientId: 'told',
  keepalive: 0,
  ...more,
})

let cluster: TestCluster
beforeAll(async () => {
  cluster = await startCluster({
    nodes: 2,
    argv: ['--shutdown-ms', '50000', '--connect-timeout-ms', '60000'],
  })
})
afterAll(() => cluster[Symbol.asyncDispose]())

const connections = async (): Promise<string | undefined> =>
  /^aedes_cluster_connections (\d+)$/m.exec((await cluster.node(0).admin('/metrics')).body)?.[1]

test('a violation, and 16 MB behind it: DISCONNECT is read', async () => {
  await using client = await WireClient.connect(cluster.node(0).url, 'violates')
  client.send(badPublish, behind)
  expect((await client.next('disconnect')).reasonCode).toBe(0x90) // Topic Name invalid
  await client.closed
  expect(client.socket.errored).toBeNull()
})

test('a CONNECT that is refused, and 16 MB behind it: CONNACK is read', async () => {
  await using client = await WireClient.open(cluster.node(0).url)
  client.send(connectPacket({ properties: { authenticationMethod: 'SCRAM' } }), behind)
  expect((await client.next('connack')).reasonCode).toBe(0x8c) // Bad authentication method
  await client.closed
  expect(client.socket.errored).toBeNull()
})

test('Session taken over, and 8 MB on their way: DISCONNECT is read', async () => {
  await using client = await WireClient.connect(cluster.node(0).url, 'moves')
  const frames = Array.from({ length: 128 }, (_, n) =>
    mqttPacket.generate(
      {
        cmd: 'publish',
        topic: 'x',
        payload: behind.subarray(0, 65_536),
        qos: 1,
        messageId: n + 1,
        dup: false,
        retain: false,
      },
      { protocolVersion: 5 },
    ),
  )
  client.send(...frames)
  await using there = await WireClient.connect(cluster.node(1).url, 'moves')
  await client.closed
  expect(client.packets.at(-1)).toMatchObject({ cmd: 'disconnect', reasonCode: 0x8e })
  expect(client.socket.errored).toBeNull()
  expect(there.packets).toEqual([])
})

/** A connection that never ends its side by itself. */
function halfOpen(url: string): Socket & Disposable {
  const socket = connect({ port: Number(new URL(url).port), host: '127.0.0.1', allowHalfOpen: true }).on(
    'error',
    () => undefined,
  )
  return Object.assign(socket, {
    [Symbol.dispose]: () => {
      socket.destroy()
    },
  })
}

/** Resolves when the other side has closed it for good: until then what is written is taken. */
const closedOver = (socket: Socket): Promise<void> =>
  expect
    .poll(() => {
      socket.write('x')
      return socket.destroyed
    })
    .toBe(true)

test('who never ends its side is closed all the same', async () => {
  using socket = halfOpen(cluster.node(0).url)
  socket.write(mqttPacket.generate(connectPacket(), { protocolVersion: 5 }))
  await once(socket, 'data')
  socket.write(badPublish)
  await once(socket.resume(), 'end')
  expect(socket.writable).toBe(true)
  await closedOver(socket)
})

const frame = (opcode: number, body: Buffer): Buffer =>
  Buffer.concat([Buffer.from([opcode, 0x80 | body.length, 0, 0, 0, 0]), body]) // masked with zeros

/**
 * MQTT over WebSocket by a client that never ends its side nor answers a close frame; resolves when its
 * CONNACK came.
 */
async function halfOpenWebSocket(url: string, packet: IConnectPacket): Promise<Socket & Disposable> {
  const { port, host } = new URL(url)
  const socket = halfOpen(`tcp://127.0.0.1:${port}`)
  socket.write(
    `GET /mqtt HTTP/1.1\r\nHost: ${host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n`,
  )
  await once(socket, 'data')
  socket.write(frame(0x82, mqttPacket.generate(packet, { protocolVersion: 5 })))
  await once(socket, 'data')
  socket.resume()
  return socket
}

test('a WebSocket frame that is none, from a client that does not answer: closed in a moment, and its will is published', async () => {
  const watcher = await cluster.node(1).connect('watcher')
  await watcher.subscribe('wills/#', { qos: 1 })
  using socket = await halfOpenWebSocket(
    cluster.node(0).wsUrl,
    connectPacket({
      clientId: 'no frame',
      will: { topic: 'wills/ws', payload: Buffer.from('gone'), qos: 1, retain: false },
    }),
  )
  socket.write(frame(0xf0, Buffer.alloc(0))) // reserved bits
  await watcher.receives([{ topic: 'wills/ws', payload: 'gone' }])
  await closedOver(socket)
}, 20_000)

test('a QoS 2 PUBLISH waits to be recorded when its client breaks off: the session is released, and its will published', async () => {
  const watcher = await cluster.node(1).connect('watcher')
  await watcher.subscribe('wills/#', { qos: 1 })
  await using client = await WireClient.connect(cluster.node(0).url, 'in the middle', {
    clean: false,
    properties: { sessionExpiryInterval: 60 },
    will: { topic: 'wills/qos2', payload: Buffer.from('gone'), qos: 1, retain: false },
  })
  cluster.redis.pause()
  client.send(
    { cmd: 'publish', topic: 'x', payload: 'x', qos: 2, messageId: 1, dup: false, retain: false },
    { cmd: 'pingreq' },
  )
  await client.next('pingresp') // it was read
  client.socket.destroy()
  await expect.poll(connections).toBe('0')
  cluster.redis.resume()
  await watcher.receives([{ topic: 'wills/qos2', payload: 'gone' }])
})

test('SIGTERM waits neither for who never ends its side, nor for who never sent a CONNECT, nor for a handshake that began before', async () => {
  using silent = halfOpen(cluster.node(0).url)
  await once(silent, 'connect') // and is accepted before the next one
  using told = halfOpen(cluster.node(0).url)
  using shaking = halfOpen(cluster.node(0).wsUrl)
  told.write(mqttPacket.generate(connectPacket(), { protocolVersion: 5 }))
  await once(told, 'data')
  shaking.write('GET /mqtt HTTP/1.1\r\n')
  using toldByWebSocket = await halfOpenWebSocket(
    cluster.node(0).wsUrl,
    connectPacket({ clientId: 'by WebSocket' }),
  )
  expect(await cluster.node(0).stop()).toBe(0) // its deadline is 50 s
  await closedOver(toldByWebSocket)
}, 20_000)
