// P9, everything is bounded, from the side of clients that write: what comes before CONNACK, and answers that
// nobody reads.
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setTimeout as wait } from 'node:timers/promises'
import mqttPacket, { type Packet } from 'mqtt-packet'
import { expect, test } from 'vitest'
import { startCluster, type TestNode } from '../support/cluster.ts'

const bytesOf = (packet: Packet): Buffer => mqttPacket.generate(packet)

function open(node: TestNode, clientId: string): Socket {
  const socket = connect(Number(new URL(node.url).port), '127.0.0.1').on('error', () => undefined)
  socket.write(
    bytesOf({ cmd: 'connect', protocolId: 'MQTT', protocolVersion: 4, clean: true, clientId, keepalive: 0 }),
  )
  return socket
}

/** Writes `chunk` again and again as the node takes it, for `ms` at most; the bytes that were taken. */
async function writeAll(socket: Socket, chunk: Buffer, bytesMax: number, ms: number): Promise<number> {
  const end = Date.now() + ms
  while (Date.now() < end && socket.bytesWritten < bytesMax && !socket.destroyed) {
    if (!socket.write(chunk))
      await Promise.race([once(socket, 'drain'), once(socket, 'close'), wait(end - Date.now())])
  }
  return socket.bytesWritten - socket.writableLength
}

test('a client that writes on while its CONNECT waits for Redis is read up to a bound, and all of it when it is connected', async () => {
  await using cluster = await startCluster({ nodes: 1 })
  const node = cluster.node(0)
  const listener = await node.connect('listener')
  await listener.subscribe('t', { qos: 1 })
  cluster.redis.pause()
  const socket = open(node, 'eager')
  const chunk = bytesOf({
    cmd: 'publish',
    topic: 't',
    payload: Buffer.alloc(500_000),
    qos: 1,
    messageId: 1,
    retain: false,
    dup: false,
  })
  const taken = await writeAll(socket, chunk, 200e6, 1_500)
  const written = Math.floor(socket.bytesWritten / chunk.length) // how much that is depends on the kernel
  cluster.redis.resume()
  expect(taken).toBeLessThan(20e6) // most of it lies in the kernel
  await once(socket, 'data') // CONNACK
  socket.end()
  await listener.arrivals(written)
  expect(node.running).toBe(true)
})
