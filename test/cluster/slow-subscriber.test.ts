// A client that reads all the time, but slower than others publish to it: what becomes of it, and of who
// publishes, by `slowSubscriber`. It acknowledges a few messages at a time under a small Receive Maximum, so that what
// waits for it waits in the node, and not in the buffers of sockets.
import { afterEach, expect, test } from 'vitest'
import { createNode, type Config, type Node } from '../../broker/index.ts'
import { TestClient } from '../support/client.ts'
import { startCluster } from '../support/cluster.ts'
import { WireClient } from '../support/wire.ts'

/** Of a KiB each; all of them are more than may wait for one client, many times. */
const count = 1_500
const payload = Buffer.alloc(1_024)
const options = {
  slowBytesMax: 64 * 1024,
  waitingBytesMax: 256 * 1024,
  packetBytesMax: 16 * 1024,
  slowHoldMs: 200,
  receiveMaximum: 60, // what of each publisher may be on its way when the others begin to wait
}

const nodes: Node[] = []
afterEach(async () => {
  await Promise.all(nodes.splice(0).map((node) => node.close()))
})

async function alone(further: Partial<Config>): Promise<Node> {
  const node = await createNode({ listen: ['mqtt://127.0.0.1:0'], ...options, ...further })
  nodes.push(node)
  return node
}

/** Takes ten messages in each turn until `until` says that it is enough, or it is disconnected; resolves to how many. */
async function readSlowly(client: WireClient, until: (taken: number) => boolean): Promise<number> {
  let taken = 0
  while (!until(taken) && !client.isClosed) {
    for (const packet of client.packets.splice(0, 10))
      if (packet.cmd === 'publish') {
        taken++
        client.send({ cmd: 'puback', messageId: packet.messageId! })
      } else client.packets.push(packet)
    await new Promise((resolve) => setTimeout(resolve, 4)) // slower than it could
  }
  return taken
}

async function subscriber(url: string): Promise<WireClient> {
  const client = await WireClient.connect(url, 'slow', { properties: { receiveMaximum: 10 } })
  await client.subscribe('t', { qos: 1 })
  return client
}

/** Five of them publish as fast as they can; resolves when all is acknowledged. */
async function publishAll(url: string): Promise<void> {
  const publishers = await Promise.all([1, 2, 3, 4, 5].map((n) => TestClient.connect(url, `publisher-${n}`)))
  await Promise.all(
    Array.from({ length: count }, (_, n) => publishers[n % 5]!.mqtt.publishAsync('t', payload, { qos: 1 })),
  )
  await Promise.all(publishers.map((publisher) => publisher.disconnect()))
}

test('hold: publishers on another node wait for it, nothing is dropped, and it stays', async () => {
  await using cluster = await startCluster({
    nodes: 2,
    argv: Object.entries(options).flatMap(([name, value]) => [
      `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`,
      String(value),
    ]),
  })
  const client = await subscriber(cluster.node(0).url)
  let taken = 0
  let unread = 0
  const published = publishAll(cluster.node(1).url).then(() => (unread = count - taken))
  expect(await readSlowly(client, (now) => (taken = now) === count)).toBe(count)
  await published
  expect(unread, 'acknowledged before it was read: what may wait, and is on its way').toBeLessThan(count / 2)
  const { body } = await cluster.node(0).admin('/metrics')
  expect(body).toContain('aedes_cluster_messages_dropped_total{cause="slow-subscriber",qos="1"} 0\n')
  expect(cluster.node(0).log).toContain('a client that reads slower than they publish')
  await client.settled()
})

test('disconnect: publishers wait a moment, then it goes with 0x97', async () => {
  const node = await alone({ slowSubscriber: 'disconnect' })
  const client = await subscriber(node.endpoints[0]!)
  const published = publishAll(node.endpoints[0]!)
  expect(await readSlowly(client, (taken) => taken === count)).toBeLessThan(count)
  expect(client.packets.at(-1)).toMatchObject({ cmd: 'disconnect', reasonCode: 0x97 })
  await published
})

test('drop: nobody waits, it stays, and does not get what did not fit', async () => {
  const node = await alone({ slowSubscriber: 'drop' })
  const client = await subscriber(node.endpoints[0]!)
  await publishAll(node.endpoints[0]!)
  const [, dropped] = /dropped_total\{cause="slow-subscriber",qos="1"\} (\d+)/.exec(await node.metricsText())!
  expect(Number(dropped)).toBeGreaterThan(count / 2)
  expect(await readSlowly(client, (taken) => taken === count - Number(dropped))).toBe(count - Number(dropped))
  await client.settled()
  expect(client.isClosed).toBe(false)
})
