// What a load balancer and an orchestrator see of a node: /livez, /readyz, /metrics and a graceful end.
import { expect, test } from 'vitest'
import { TestClient } from '../support/client.ts'
import { startCluster, type TestNode } from '../support/cluster.ts'
import { WireClient } from '../support/wire.ts'

const ready = async (node: TestNode): Promise<number> => (await node.admin('/readyz')).status

test('/readyz tells the truth about Redis: gone, silent and back', async () => {
  await using cluster = await startCluster({ nodes: 1, argv: ['--redis-timeout-ms', '300'] })
  const node = cluster.node(0)
  expect(await node.admin('/readyz')).toEqual({
    status: 200,
    body: '{"ready":true,"checks":{"redis":"ok","node":"ok"}}\n',
  })
  const client = await node.connect('here')
  cluster.redis.pause()
  expect(await node.admin('/readyz')).toMatchObject({
    status: 503,
    body: expect.stringContaining('did not answer within 300 ms') as string,
  })
  cluster.redis.resume()
  await expect.poll(() => ready(node), { timeout: 20_000 }).toBe(200)
  await cluster.redis.stop('SIGKILL')
  await expect.poll(() => ready(node), { timeout: 20_000 }).toBe(503)
  expect((await node.admin('/livez')).status).toBe(200)
  expect((await node.admin('/metrics')).body).toMatch(/^aedes_cluster_store_up 0$/m)
  await cluster.redis.start()
  await expect.poll(() => ready(node), { timeout: 20_000 }).toBe(200)
  expect(client.mqtt.connected).toBe(true)
  await client.subscribe('after')
  await client.publish('after', 'works')
  await client.receives([{ topic: 'after', payload: 'works' }])
})

test('/metrics counts connections, packets and publishes; anything else is 404', async () => {
  await using cluster = await startCluster({ nodes: 1 })
  const node = cluster.node(0)
  const client = await node.connect('counted')
  await client.subscribe('x/#', { qos: 2 })
  for (const qos of [0, 1, 2] as const) await client.publish(`x/${qos}`, 'y', { qos, retain: qos === 1 })
  const both = ['publish', 'puback', 'pubrec', 'pubrel', 'pubcomp'].map((type) => [
    type,
    type === 'publish' ? 3 : 1,
  ])
  const counted = [
    ...[['connect', 1], ['subscribe', 1], ...both].map(
      ([type, count]) => `packets_received_total{type="${type}"} ${count}`,
    ),
    ...[['connack', 1], ['suback', 1], ...both].map(
      ([type, count]) => `packets_sent_total{type="${type}"} ${count}`,
    ),
    ...[0, 1, 2].map((qos) => `deliveries_total{qos="${qos}"} 1`),
    ...['acknowledge_seconds_count 2', 'acknowledge_seconds_bucket{le="+Inf"} 2'],
    ...['subscriptions 1', 'retained_topics 1', 'takeovers_total 0'],
  ].map((line) => `aedes_cluster_${line}`)
  await expect
    .poll(async () =>
      (await node.admin('/metrics')).body.split('\n').filter((line) => counted.includes(line)),
    )
    .toHaveLength(counted.length)
  await using stranger = await WireClient.open(node.url) // no client: neither without CONNECT nor refused
  await using refused = await WireClient.open(node.url)
  refused.send(Buffer.from([0x10, 1, 0]))
  await refused.untilClosed()
  expect(stranger.isClosed).toBe(false)
  await expect
    .poll(async () => (await node.admin('/metrics')).body)
    .toMatch(/^aedes_cluster_publishes_received_total\{qos="1"\} 1$/m)
  expect((await node.admin('/metrics')).body).toMatch(/^aedes_cluster_connections 1$/m)
  await client.disconnect()
  await expect.poll(async () => (await node.admin('/metrics')).body).toMatch(/^aedes_cluster_connections 0$/m)
  expect((await node.admin('/')).status).toBe(404)
})

test('SIGTERM: clients are told to go, nothing is accepted any more, exit code 0, within the bound', async () => {
  await using cluster = await startCluster({ nodes: 2 })
  const [going, staying] = [cluster.node(0), cluster.node(1)]
  const clients = await Promise.all(
    Array.from({ length: 250 }, (_, i) =>
      going.connect(`c${i}`, { version: 5, properties: { sessionExpiryInterval: 60 } }),
    ),
  )
  await clients[0]!.subscribe('kept', { qos: 1 })
  const closed = Promise.all(clients.map((client) => client.closed()))
  const exit = going.stop()
  await closed
  expect(await exit).toBe(0)
  // Server shutting down
  expect(clients.map((client) => client.serverDisconnect)).toEqual(clients.map(() => 0x8b))
  await expect(TestClient.connect(going.url, 'late')).rejects.toThrow()
  const again = await staying.connect('c0', {
    version: 5,
    clean: false,
    properties: { sessionExpiryInterval: 60 },
  })
  expect(again.sessionPresent).toBe(true)
})

test('SIGTERM ends a node also while Redis is away', async () => {
  await using cluster = await startCluster({ nodes: 1, argv: ['--shutdown-ms', '500'] })
  await cluster.node(0).connect('waiting')
  await cluster.redis.stop('SIGKILL')
  expect(await cluster.node(0).stop()).toBe(0)
})
