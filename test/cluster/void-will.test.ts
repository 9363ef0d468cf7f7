// With Redis some milliseconds away: a DISCONNECT makes the will void before the publishes that stand before it are stored, and the
// later CONNECT of a Client Identifier wins, at one node.
import { expect, test } from 'vitest'
import { startCluster } from '../support/cluster.ts'
import { startRedis } from '../support/redis.ts'
import { startSlowLink } from '../support/slow-link.ts'
import { WireClient } from '../support/wire.ts'

const will = { clean: false, properties: { sessionExpiryInterval: 60 }, will: { topic: 'will', payload: Buffer.from('will'), qos: 1, retain: false } } as const

test('PUBLISH and DISCONNECT in one write, CONNECT at another node when the node has closed: the old will is not published', async () => {
  await using redis = await startRedis()
  await using link = await startSlowLink(redis.port, 4)
  await using cluster = await startCluster({ nodes: 2, argv: ['--redis', link.url], redis })
  const watcher = await cluster.node(0).connect('watcher')
  await watcher.subscribe('will')
  for (let round = 1; round <= 25; round++) {
    const client = await WireClient.connect(cluster.node(0).url, 'moves', will)
    client.send({ cmd: 'publish', topic: 'x', payload: '', qos: 1, messageId: round, retain: false, dup: false }, { cmd: 'disconnect', reasonCode: 0 })
    await client.closed // sooner, it is a race of two connections to Redis which of the two is heard first
    const again = await WireClient.connect(cluster.node(1).url, 'moves', will)
    again.send({ cmd: 'disconnect', reasonCode: 0 })
    await again.closed
  }
  await watcher.settle()
  expect(watcher.takeAll()).toEqual([])
})

test('of 60 CONNECTs the last one stays', async () => {
  await using redis = await startRedis()
  await using link = await startSlowLink(redis.port, 10)
  await using cluster = await startCluster({ nodes: 1, argv: ['--redis', link.url], redis })
  const all = await Promise.all(Array.from({ length: 60 }, () => WireClient.open(cluster.node(0).url, 4)))
  for (const [n, client] of all.entries()) client.send({ cmd: 'connect', protocolId: 'MQTT', protocolVersion: 4, clean: n % 2 === 0, clientId: 'storm', keepalive: 0 })
  await using last = all.pop()!
  await Promise.all(all.map(({ closed }) => closed))
  await last.next('connack')
  expect(await last.settled()).toEqual([])
})
