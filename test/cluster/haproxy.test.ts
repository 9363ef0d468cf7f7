// HAProxy with the configuration that ships, deploy/haproxy/haproxy.cfg, before three real nodes: clients
// that know only the balancer's address live through the death, the stop and the return of a node and the
// silence of Redis.
import { expect, test } from 'vitest'
import { startBalancer } from '../support/balancer.ts'
import { TestClient } from '../support/client.ts'
import { startCluster, type TestCluster, type TestNode } from '../support/cluster.ts'

const patience = { timeout: 20_000, interval: 20 }

function next(client: TestClient, event: 'connect' | 'close'): Promise<void> {
  return new Promise((resolve) => client.mqtt.once(event, () => resolve()))
}

async function connectionsOf(node: TestNode): Promise<number> {
  const { body } = await node.admin('/metrics')
  return Number(/^aedes_cluster_connections (\d+)$/m.exec(body)?.[1])
}

/** Clients on each node that runs, by the node's name. */
async function connections(cluster: TestCluster): Promise<Record<string, number>> {
  return Object.fromEntries(
    await Promise.all(
      cluster.nodes
        .filter(({ running }) => running)
        .map(async (node) => [node.id, await connectionsOf(node)] as const),
    ),
  )
}

/** The node that the cluster's only client is on. */
async function homeOf(cluster: TestCluster): Promise<TestNode> {
  const counts = await connections(cluster)
  expect(Object.values(counts).sort()).toEqual([0, 0, 1])
  return cluster.nodes.find(({ id }) => counts[id] === 1)!
}

test('a persistent session gets everything though its node is killed under it', async () => {
  await using cluster = await startCluster()
  await using balancer = await startBalancer(cluster)
  await using subscriber = await balancer.connect('subscriber', { clean: false })
  for (const topic of ['orders', 'hello']) await subscriber.subscribe(topic, { qos: 1 })
  const home = await homeOf(cluster)
  await using left = await balancer.connect('left')
  await using right = await balancer.connect('right')
  const publishers = { left, right }
  expect(await connections(cluster)).toEqual({ a: 1, b: 1, c: 1 }) // so the publishers' nodes survive

  // A node hears of a subscription by the same Redis channel as of messages, so who hears this knows of
  // `orders`.
  for (const publisher of [left, right]) await publisher.subscribe('hello')
  await subscriber.publish('hello', 'all')
  for (const client of [subscriber, left, right]) await client.receives([{ topic: 'hello', payload: 'all' }])

  const acknowledged: string[] = []
  const gone = next(subscriber, 'close').then(() => acknowledged.length)
  const back = next(subscriber, 'connect').then(() => acknowledged.length)
  let publishing = true
  const publish = async ([name, client]: [string, TestClient]): Promise<void> => {
    for (let n = 1; publishing; n++) {
      if (n === 1_000) await back // on a slow machine enough are waiting
      await client.publish('orders', `${name} ${n}`)
      acknowledged.push(`${name} ${n}`)
    }
  }
  const published = Promise.all(Object.entries(publishers).map(publish))

  await subscriber.arrivals(100)
  await home.kill()
  expect(await back, 'messages published in between').toBeGreaterThan(await gone)
  expect(subscriber.sessionPresent).toBe(true)
  await subscriber.arrivals(subscriber.packets.length + 100)
  publishing = false
  await published

  const missing = (): string[] => {
    const received = new Set(subscriber.packets.map(({ payload }) => payload.toString()))
    return acknowledged.filter((payload) => !received.has(payload))
  }
  await expect.poll(missing, patience).toEqual([])
})

test('a node that stops is left out at once and taken back when it returns; no client is refused', async () => {
  await using cluster = await startCluster()
  await using balancer = await startBalancer(cluster)
  await using first = await balancer.connect('first')
  const home = await homeOf(cluster)
  const back = next(first, 'connect')
  expect(await home.stop()).toBe(0)
  await using early = await balancer.connect('early') // HAProxy may not know yet: it asks the next node
  await back
  for (const backend of ['mqtt', 'websocket'])
    await balancer.says(new RegExp(`Server ${backend}/${home.id} is DOWN`))
  await using late = await balancer.connect('late')
  await using later = await balancer.connect('later')
  expect(Object.values(await connections(cluster))).toEqual([2, 2])

  await home.start()
  await balancer.says(new RegExp(`Server mqtt/${home.id} is UP`))
  await using newest = await balancer.connect('newest')
  expect(await connectionsOf(home)).toBe(1)
  for (const client of [first, early, late, later, newest]) expect(client.mqtt.connected).toBe(true)
})

test('while Redis is silent clients keep their connections, over TCP and WebSocket', async () => {
  await using cluster = await startCluster()
  await using balancer = await startBalancer(cluster)
  await using tcp = await balancer.connect('tcp')
  await using ws = await TestClient.connect(balancer.wsUrl, 'ws')
  await tcp.subscribe('news')
  await ws.subscribe('news')
  const closed: (string | undefined)[] = []
  for (const { mqtt } of [tcp, ws]) mqtt.on('close', () => closed.push(mqtt.options.clientId))
  const status = async (): Promise<number> => (await fetch(balancer.statusUrl + '/readyz')).status
  expect(await status()).toBe(200)

  cluster.redis.pause()
  await expect.poll(status, patience).toBe(503) // no node takes new clients
  cluster.redis.resume()
  for (const { id } of cluster.nodes) await balancer.says(new RegExp(`Server mqtt/${id} is UP`))
  await using publisher = await balancer.connect('publisher')
  await publisher.publish('news', 'Redis is back')
  for (const client of [tcp, ws]) await client.receives([{ topic: 'news', payload: 'Redis is back' }])
  expect(closed).toEqual([])
})
