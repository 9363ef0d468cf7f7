// P9, everything is bounded, also in bytes: what clients make a node keep, and the other nodes, is measured
// behind a collection.
import mqttPacket from 'mqtt-packet'
import { expect, test } from 'vitest'
import { startCluster, type TestNode } from '../support/cluster.ts'
import { WireClient } from '../support/wire.ts'

const mib = 1_048_576
const held = (nodes: readonly TestNode[]): Promise<number[]> =>
  Promise.all(nodes.map((node) => node.heldBytes()))
/** Of a counter; NaN when it is not there. */
const counted = async (node: TestNode, name: string, labels: string): Promise<number> =>
  Number(
    new RegExp(`^aedes_cluster_${name}\\{${labels}\\} (\\d+)`, 'm').exec(
      (await node.admin('/metrics')).body,
    )?.[1] ?? NaN,
  )
const refusals = (node: TestNode, cause: string): Promise<number> =>
  counted(node, 'refusals_total', `cause="${cause}"`)
const dropped = (node: TestNode, cause: string): Promise<number> =>
  counted(node, 'messages_dropped_total', `cause="${cause}",qos="0"`)

/** Subscribes to `count` filters of 80 levels; resolves to how many were granted. */
async function subscribeDeep(client: WireClient, name: string, count: number): Promise<number> {
  let granted = 0
  for (let from = 0; from < count; from += 1_000) {
    const topics = Array.from(
      { length: Math.min(1_000, count - from) },
      (_, n) => `+/${name}/${from + n}${'/abc'.repeat(77)}`,
    )
    client.send({
      cmd: 'subscribe',
      messageId: 1,
      subscriptions: topics.map((topic) => ({
        topic,
        qos: 1 as const,
        nl: false,
        rap: false,
        rh: 2 as const,
      })),
    })
    for (const code of (await client.next('suback')).granted as number[]) {
      if (code === 1) granted++
      else expect(code).toBe(0x97)
    }
  }
  return granted
}

test('deep filters: what one client, and all clients, may cost a node and the others', async () => {
  await using cluster = await startCluster({
    nodes: 2,
    argv: ['--subscription-bytes-max', `${12 * mib}`, '--routing-bytes-max', `${16 * mib}`],
  })
  const [here, there] = [cluster.node(0), cluster.node(1)]
  const before = await held(cluster.nodes)
  await using greedy = await WireClient.connect(here.url, 'greedy')
  expect(await subscribeDeep(greedy, 'one', 2_000)).toBeLessThan(1_000)
  expect(await refusals(here, 'subscription-bytes')).toBeGreaterThan(1_000)
  for (const [i, bytes] of (await held(cluster.nodes)).entries())
    expect(bytes - before[i]!).toBeLessThan(18 * mib)
  await using second = await WireClient.connect(here.url, 'second')
  await subscribeDeep(second, 'two', 1_000)
  expect(await refusals(here, 'routing-bytes')).toBeGreaterThan(0)
  await using third = await WireClient.connect(there.url, 'third') // its node has the routes of the others
  expect(await subscribeDeep(third, 'three', 2_000)).toBeLessThan(1_000)
  expect(await refusals(there, 'routing-bytes')).toBeGreaterThan(0)
  for (const [i, bytes] of (await held(cluster.nodes)).entries())
    expect(bytes - before[i]!).toBeLessThan(26 * mib)
  for (const client of [greedy, second, third]) await client[Symbol.asyncDispose]()
  let attempts = 0
  await expect
    .poll(
      async () => {
        // what they had makes room
        await using again = await WireClient.connect(here.url, `again-${++attempts}`)
        return await subscribeDeep(again, 'four', 300)
      },
      { timeout: 10_000 },
    )
    .toBe(300)
})

const bound = ['--client-bytes-max', `${32 * mib}`]

/** Connections of a node, with their CONNACK. */
const many = (node: TestNode, count: number, name: string): Promise<WireClient[]> =>
  Promise.all(Array.from({ length: count }, (_, n) => WireClient.connect(node.url, `${name}-${n}`)))

/** Resolves when the node takes nothing more of what they send: all of it, or as much as it wants. */
async function taken(clients: readonly WireClient[]): Promise<void> {
  const left = (): number => clients.reduce((sum, { socket }) => sum + socket.writableLength, 0)
  for (let before = Infinity; left() < before;) {
    before = left()
    await new Promise((resolve) => setTimeout(resolve, 300))
  }
}

const close = (clients: readonly WireClient[]): Promise<unknown> =>
  Promise.all(clients.map((client) => client[Symbol.asyncDispose]()))

test('eighty megabyte publishes at once, while Redis stands still: all are stored, a few at a time', async () => {
  await using cluster = await startCluster({ nodes: 1, argv: bound })
  const node = cluster.node(0)
  const before = await node.heldBytes()
  const publishers = await many(node, 80, 'publisher')
  cluster.redis.pause()
  const payload = Buffer.alloc(1_000_000)
  for (const publisher of publishers)
    publisher.send({ cmd: 'publish', topic: 'big', payload, qos: 1, messageId: 1, retain: false, dup: false })
  await taken(publishers)
  expect((await node.heldBytes()) - before).toBeLessThan(64 * mib)
  cluster.redis.resume()
  await expect
    .poll(() => publishers.filter(({ packets }) => packets[0]?.cmd === 'puback').length, { timeout: 20_000 })
    .toBe(80)
  expect(await refusals(node, 'client-bytes')).toBe(0)
  await close(publishers)
})

test('fifty subscribers that read nothing: those that hold most are ended, QoS 0 is dropped, others are served', async () => {
  await using cluster = await startCluster({ nodes: 1, argv: bound })
  const node = cluster.node(0)
  const before = await node.heldBytes()
  const frozen = await many(node, 50, 'frozen')
  for (const client of frozen) {
    await client.subscribe('flood/#', { qos: 0 })
    client.socket.pause()
  }
  expect(await dropped(node, 'client-bytes')).toBe(0)
  const healthy = await node.connect('healthy')
  await healthy.subscribe('flood/#', { qos: 0 })
  const payload = 'x'.repeat(100_000)
  for (let n = 0; n < 60; n++) {
    await node.publish(`flood/${n}`, payload) // each after the one before
    await healthy.receives([{ topic: `flood/${n}`, payload }])
  }
  expect((await node.heldBytes()) - before).toBeLessThan(48 * mib)
  expect(await dropped(node, 'client-bytes')).toBeGreaterThan(0)
  await close(frozen)
})

test('packets that are begun and not ended: what sixty strangers make a node keep', async () => {
  await using cluster = await startCluster({ nodes: 1, argv: bound })
  const node = cluster.node(0)
  const before = await node.heldBytes()
  const clients = await many(node, 60, 'slow')
  const packet = mqttPacket.generate({
    cmd: 'publish',
    topic: 'big',
    payload: Buffer.alloc(1_000_000),
    qos: 0,
    retain: false,
    dup: false,
  })
  for (const client of clients) client.send(packet.subarray(0, 900_000))
  await expect.poll(() => refusals(node, 'client-bytes'), { timeout: 20_000 }).toBeGreaterThan(5)
  expect((await node.heldBytes()) - before).toBeLessThan(48 * mib)
  await using healthy = await WireClient.connect(node.url, 'healthy')
  healthy.send({
    cmd: 'publish',
    topic: 'big',
    payload: Buffer.alloc(1_000_000),
    qos: 1,
    messageId: 1,
    retain: false,
    dup: false,
  })
  await healthy.next('puback')
  await close(clients)
})

test('SUBSCRIBEs that wait, large ones: what they hold is bounded, and each is answered', async () => {
  await using cluster = await startCluster({ nodes: 1 })
  const node = cluster.node(0)
  const before = await node.heldBytes()
  const clients = await many(node, 10, 'waiting')
  cluster.redis.pause()
  const subscriptions = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'].map((letter) => ({
    topic: letter.repeat(60_000),
    qos: 1 as const,
    nl: false,
    rap: false,
    rh: 2 as const,
  }))
  for (const client of clients)
    for (let messageId = 1; messageId <= 20; messageId++)
      client.send({ cmd: 'subscribe', messageId, subscriptions })
  await taken(clients)
  expect((await node.heldBytes()) - before).toBeLessThan(40 * mib)
  expect(await counted(node, 'held_back_total', 'cause="requests"')).toBe(10)
  cluster.redis.resume()
  for (const client of clients)
    for (let messageId = 1; messageId <= 20; messageId++)
      expect((await client.next('suback')).messageId).toBe(messageId)
  await close(clients)
})

test('a client that takes the place of its earlier connection again and again leaves nothing of them', async () => {
  await using cluster = await startCluster({ nodes: 1 })
  const node = cluster.node(0)
  const again = async (times: number): Promise<void> => {
    for (let n = 0; n < times; n++) await WireClient.connect(node.url, 'again')
    await expect.poll(async () => (await node.admin('/metrics')).body).toMatch(/^aedes_cluster_sockets 1$/m)
  }
  await again(100)
  const [before] = await held([node])
  await again(400)
  const [after] = await held([node])
  expect(after! - before!).toBeLessThan(mib) // 1.8 MB once: each knew the one before
})
