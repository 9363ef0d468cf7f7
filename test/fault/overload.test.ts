// P9, everything is bounded: floods against subscribers that are frozen or slow. Memory stays under a stated bound, other
// traffic flows, QoS 0 that was dropped is counted, and no node dies.
import { connect, type Socket } from 'node:net'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import mqttPacket, { type Packet } from 'mqtt-packet'
import { expect, test } from 'vitest'
import { startCluster, type TestNode } from '../support/cluster.ts'

/** Resident memory of a node process, MiB, from /proc. */
const memory = (node: TestNode): number => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${node.pid}/status`, 'utf8'))![1]) / 1024
const metric = async (node: TestNode, pattern: RegExp): Promise<number> => Number(pattern.exec((await node.admin('/metrics')).body)?.[1] ?? NaN)

/** A raw connection that subscribes and then reads nothing at all: a frozen subscriber. */
async function frozen(node: TestNode, filter: string, qos: 0 | 1): Promise<Socket> {
  const socket = connect(Number(new URL(node.url).port), '127.0.0.1')
  const send = (packet: Packet): void => { socket.write(mqttPacket.generate(packet)) }
  send({ cmd: 'connect', protocolId: 'MQTT', protocolVersion: 4, clean: true, clientId: `frozen-${node.id}`, keepalive: 0 })
  await once(socket, 'data')
  send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: filter, qos }] })
  await once(socket, 'data')
  socket.pause()
  socket.on('error', () => undefined)
  return socket
}

/** Writes `count` PUBLISH packets as fast as the node takes them; with QoS 1 waits for each window's acknowledgements. */
async function flood(node: TestNode, topic: string, payload: Buffer, qos: 0 | 1, count: number): Promise<void> {
  const client = await node.connect(`flood-${topic}-${qos}`)
  const open: Promise<void>[] = []
  for (let n = 0; n < count; n++) {
    open.push(client.publish(topic, payload, { qos }))
    if (open.length >= 200) await Promise.all(open.splice(0))
  }
  await Promise.all(open)
  await client.disconnect()
}

test.each([0, 1] as const)('a QoS %i flood against a frozen subscriber, local and remote: bounded memory, others served', async (qos) => {
  await using cluster = await startCluster({ nodes: 2 })
  const sockets = [await frozen(cluster.node(0), 'flood/#', qos), await frozen(cluster.node(1), 'flood/#', qos)]
  const healthy = await cluster.node(1).connect('healthy')
  await healthy.subscribe('other/#', { qos: 1 })
  const before = cluster.nodes.map(memory)
  const payload = Buffer.alloc(8_192, 'x')
  const count = 16_000 // 128 MiB per frozen subscriber
  const flooding = flood(cluster.node(0), 'flood/x', payload, qos, count)
  for (let n = 0; n < 100; n++) {
    await cluster.node(0).publish('other/x', `${n}`, { qos: 1 })
    await healthy.receives([{ topic: 'other/x', payload: `${n}` }])
  }
  await flooding
  const grown = cluster.nodes.map((node, i) => memory(node) - before[i]!)
  console.log(`QoS ${qos}: memory grew by ${grown.map((mib) => mib.toFixed(0)).join(' and ')} MiB under ${(count * payload.length / 1_048_576).toFixed(0)} MiB`)
  for (const mib of grown) expect(mib).toBeLessThan(100)
  expect(cluster.nodes.map((node) => node.running)).toEqual([true, true])
  const dropped = await Promise.all(cluster.nodes.map((node) => metric(node, /^aedes_cluster_messages_dropped_total\{[^}]*cause="slow-subscriber"[^}]*\} (\d+)/m)))
  if (qos === 0) for (const count of dropped) expect(count).toBeGreaterThan(0)
  for (const socket of sockets) socket.destroy()
})
