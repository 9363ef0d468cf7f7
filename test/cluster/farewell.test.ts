// A client that is told why its connection ends gets to read it, whatever it is still sending: its socket is closed, not reset.
// And one that does not end its side is ended all the same.
import { once } from 'node:events'
import { connect } from 'node:net'
import mqttPacket, { type IConnectPacket } from 'mqtt-packet'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { WireClient } from '../support/wire.ts'

const behind = Buffer.alloc(512 * 1024)
const badPublish = Buffer.from([0x30, 4, 0, 1, 0x23, 0]) // to the topic `#` [MQTT-3.3.2-2]
const connectPacket = (more: Partial<IConnectPacket> = {}): IConnectPacket => ({ cmd: 'connect', protocolId: 'MQTT', protocolVersion: 5, clean: true, clientId: 'told', keepalive: 0, ...more })

let cluster: TestCluster
beforeAll(async () => { cluster = await startCluster({ nodes: 2 }) })
afterAll(() => cluster[Symbol.asyncDispose]())

const connections = async (): Promise<string | undefined> => /^aedes_cluster_connections (\d+)$/m.exec((await cluster.node(0).admin('/metrics')).body)?.[1]

test('a violation, and half a megabyte behind it: DISCONNECT is read', async () => {
  await using client = await WireClient.connect(cluster.node(0).url, 'violates')
  client.send(badPublish, behind)
  expect((await client.next('disconnect')).reasonCode).toBe(0x90) // Topic Name invalid
  await client.closed
  expect(client.socket.errored).toBeNull()
})

test('a CONNECT that is refused, and half a megabyte behind it: CONNACK is read', async () => {
  await using client = await WireClient.open(cluster.node(0).url)
  client.send(connectPacket({ properties: { authenticationMethod: 'SCRAM' } }), behind)
  expect((await client.next('connack')).reasonCode).toBe(0x8c) // Bad authentication method
  await client.closed
  expect(client.socket.errored).toBeNull()
})

test('Session taken over, and half a megabyte on its way: DISCONNECT is read', async () => {
  await using client = await WireClient.connect(cluster.node(0).url, 'moves')
  const frames = Array.from({ length: 8 }, (_, n) => mqttPacket.generate({ cmd: 'publish', topic: 'x', payload: behind.subarray(0, 65_536), qos: 1, messageId: n + 1, dup: false, retain: false }, { protocolVersion: 5 }))
  client.send(...frames)
  await using there = await WireClient.connect(cluster.node(1).url, 'moves')
  await client.closed
  expect(client.packets.at(-1)).toMatchObject({ cmd: 'disconnect', reasonCode: 0x8e })
  expect(client.socket.errored).toBeNull()
  expect(there.packets).toEqual([])
})

test('who never ends its side is ended all the same, and holds up neither others nor SIGTERM', async () => {
  await using halfOpen = { socket: connect({ port: Number(new URL(cluster.node(0).url).port), host: '127.0.0.1', allowHalfOpen: true }).on('error', () => undefined), [Symbol.asyncDispose]() { this.socket.destroy(); return Promise.resolve() } }
  const { socket } = halfOpen
  socket.write(mqttPacket.generate(connectPacket()))
  await once(socket, 'data')
  await expect.poll(connections).toBe('1')
  socket.write(badPublish)
  await once(socket, 'end')
  expect(socket.writable).toBe(true)
  await expect.poll(connections).toBe('0')
  const second = connect({ port: Number(new URL(cluster.node(0).url).port), host: '127.0.0.1', allowHalfOpen: true }).on('error', () => undefined)
  try {
    second.write(mqttPacket.generate(connectPacket({ properties: { sessionExpiryInterval: 60 } })))
    await once(second, 'data')
    expect(await cluster.node(0).stop()).toBe(0)
  } finally {
    second.destroy()
  }
  await using back = await WireClient.connect(cluster.node(1).url, 'told', { clean: false, properties: { sessionExpiryInterval: 60 } })
  expect(back.connack.sessionPresent).toBe(true)
})
