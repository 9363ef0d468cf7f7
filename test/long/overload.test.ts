// P9, everything is bounded: floods against subscribers that are frozen or slow. Memory stays under a stated
// bound, other traffic flows, QoS 0 that was dropped is counted, and no node dies.
import { connect, type Socket } from 'node:net'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import mqttPacket, { type Packet } from 'mqtt-packet'
import { expect, test } from 'vitest'
import { startCluster, type TestNode } from '../support/cluster.ts'

/** What nodes hold, MiB. */
const held = (nodes: readonly TestNode[]): Promise<number[]> =>
  Promise.all(nodes.map(async (node) => (await node.heldBytes()) / 1_048_576))
/**
 * A bound on what floods may make a node hold more: two connections at their bounds, an inbox at its mark.
 */
const heldMax = 50
/** Resident memory of a node process, MiB, from /proc; told, since garbage comes and goes. */
const memory = (node: TestNode): number =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${node.pid}/status`, 'utf8'))![1]) / 1024
const metric = async (node: TestNode, pattern: RegExp): Promise<number> =>
  Number(pattern.exec((await node.admin('/metrics')).body)?.[1] ?? NaN)

/** A raw connection that subscribes and then reads nothing at all: a frozen subscriber. */
async function frozen(node: TestNode, filter: string, qos: 0 | 1): Promise<Socket> {
  const socket = connect(Number(new URL(node.url).port), '127.0.0.1')
  const send = (packet: Packet): void => {
    socket.write(mqttPacket.generate(packet))
  }
  send({
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: 4,
    clean: true,
    clientId: `frozen-${node.id}`,
    keepalive: 0,
  })
  await once(socket, 'data')
  send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: filter, qos }] })
  await once(socket, 'data')
  socket.pause()
  socket.on('error', () => undefined)
  return socket
}

/**
 * Writes `count` PUBLISH packets, 50 at a time, each 50 complete before the next; resolves to the longest
 * that took, in ms.
 */
async function flood(
  node: TestNode,
  topic: string,
  payload: Buffer,
  qos: 0 | 1,
  count: number,
): Promise<number> {
  const client = await node.connect(`flood-${topic}-${qos}`)
  let longest = 0
  for (let n = 0; n < count; n += 50) {
    const start = performance.now()
    await Promise.all(Array.from({ length: 50 }, () => client.publish(topic, payload, { qos })))
    longest = Math.max(longest, performance.now() - start)
  }
  await client.disconnect()
  return longest
}

test.each([0, 1] as const)(
  'a QoS %i flood against a frozen subscriber, local and remote: bounded memory, others served',
  async (qos) => {
    await using cluster = await startCluster({ nodes: 2 })
    const sockets = [
      await frozen(cluster.node(0), 'flood/#', qos),
      await frozen(cluster.node(1), 'flood/#', qos),
    ]
    const healthy = await cluster.node(1).connect('healthy')
    await healthy.subscribe('other/#', { qos: 1 })
    const [before, heldBefore] = [cluster.nodes.map(memory), await held(cluster.nodes)]
    const payload = Buffer.alloc(32_768, 'x')
    const count = 1_200 // 37 MiB for each frozen subscriber, more than twice what may wait for it
    const flooding = flood(cluster.node(0), 'flood/x', payload, qos, count)
    for (let n = 0; n < 100; n++) {
      await cluster.node(0).publish('other/x', `${n}`, { qos: 1 })
      await healthy.receives([{ topic: 'other/x', payload: `${n}` }])
    }
    await flooding
    const grown = cluster.nodes.map((node, i) => memory(node) - before[i]!)
    console.log(
      `QoS ${qos}: memory grew by ${grown.map((mib) => mib.toFixed(0)).join(' and ')} MiB under ${((count * payload.length) / 1_048_576).toFixed(0)} MiB`,
    )
    for (const [i, mib] of (await held(cluster.nodes)).entries())
      expect(mib - heldBefore[i]!).toBeLessThan(heldMax)
    expect(cluster.nodes.map((node) => node.running)).toEqual([true, true])
    const dropped = await Promise.all(
      cluster.nodes.map((node) =>
        metric(node, /^aedes_cluster_messages_dropped_total\{[^}]*cause="slow-subscriber"[^}]*\} (\d+)/m),
      ),
    )
    if (qos === 0) for (const count of dropped) expect(count).toBeGreaterThan(0)
    for (const socket of sockets) socket.destroy()
  },
)

test('a frozen node under a QoS 1 flood: its inbox is sealed, publishers go on, awake it is fenced and serves anew', async () => {
  await using cluster = await startCluster({ nodes: 3 })
  const [publisherNode, otherNode, victim] = [cluster.node(0), cluster.node(1), cluster.node(2)]
  const doomed = await victim.connect('doomed')
  await doomed.subscribe('flood/#', { qos: 1 })
  const healthy = await otherNode.connect('healthy')
  await healthy.subscribe('flood/#', { qos: 1 })
  const heldBefore = await held([publisherNode, otherNode])
  victim.pause()
  const payload = Buffer.alloc(32_768, 'x')
  const count = 1_500 // 47 MiB: three times what an inbox holds
  const longest = await flood(publisherNode, 'flood/x', payload, 1, count)
  console.log(`the longest a publisher waited for 50 acknowledgements: ${longest.toFixed(0)} ms`)
  await healthy.arrivals(count)
  expect(await metric(publisherNode, /^aedes_cluster_inboxes_sealed_total (\d+)/m)).toBe(1)
  expect((await publisherNode.admin('/routes')).body).not.toContain('"nodeId":"c@')
  const heldBehind = await held([publisherNode, otherNode])
  console.log(
    `held by the publisher's node and the other one: ${heldBehind.map((mib, i) => (mib - heldBefore[i]!).toFixed(0)).join(' and ')} MiB more`,
  )
  for (const [i, mib] of heldBehind.entries()) expect(mib - heldBefore[i]!).toBeLessThan(heldMax)
  const closed = doomed.closed()
  victim.resume()
  await closed
  await expect.poll(async () => (await victim.admin('/readyz')).status, { timeout: 20_000 }).toBe(200)
  const back = await victim.connect('back')
  await back.subscribe('after/#', { qos: 1 })
  await publisherNode.publish('after/x', 'works', { qos: 1 })
  await back.receives([{ topic: 'after/x', payload: 'works' }])
})

test('a subscriber that reads slowly: QoS 1 publishers are held to its pace or it is ended, nobody else suffers', async () => {
  await using cluster = await startCluster({ nodes: 2 })
  const socket = await frozen(cluster.node(1), 'flood/#', 1)
  const healthy = await cluster.node(1).connect('healthy')
  await healthy.subscribe('flood/#', { qos: 1 })
  const heldBefore = await held(cluster.nodes)
  let read = 0
  const reading = setInterval(() => {
    read += (socket.read(32_768) as Buffer | null)?.length ?? 0
  }, 20) // 1.6 MB/s, unacknowledged
  const count = 1_000
  await flood(cluster.node(0), 'flood/x', Buffer.alloc(32_768, 'x'), 1, count)
  await healthy.arrivals(count)
  clearInterval(reading)
  expect(read).toBeGreaterThan(0)
  for (const [i, mib] of (await held(cluster.nodes)).entries())
    expect(mib - heldBefore[i]!).toBeLessThan(heldMax)
  expect(cluster.nodes.map((node) => node.running)).toEqual([true, true])
  socket.destroy()
})
