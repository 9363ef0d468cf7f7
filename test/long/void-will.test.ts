// The will of a client that says good-bye at one node and connects at another at once, with Redis 4 ms away,
// as issue 12 (A4) has it: fifty rounds, none of which may publish the old will. And what else stands before
// the DISCONNECT, on a machine that has time to answer: the node that is asked for the session has 50 ms for
// it (bridge/sessions/handover.ts).
import { expect, test } from 'vitest'
import { startCluster } from '../support/cluster.ts'
import { startRedis } from '../support/redis.ts'
import { startSlowLink } from '../support/slow-link.ts'
import { WireClient } from '../support/wire.ts'

const will = {
  clean: false,
  properties: { sessionExpiryInterval: 60 },
  will: { topic: 'will', payload: Buffer.from('will'), qos: 1, retain: false },
} as const

test('PUBLISH and DISCONNECT in one write, CONNECT at another node at once: the old will is not published', async () => {
  await using redis = await startRedis()
  await using link = await startSlowLink(redis.port, 4)
  await using cluster = await startCluster({ nodes: 2, argv: ['--redis', link.url], redis })
  const watcher = await cluster.node(0).connect('watcher')
  await watcher.subscribe('will')
  for (let round = 1; round <= 50; round++) {
    const client = await WireClient.connect(cluster.node(0).url, 'moves', will)
    client.send(
      { cmd: 'publish', topic: 'x', payload: '', qos: 1, messageId: round, retain: false, dup: false },
      { cmd: 'disconnect', reasonCode: 0 },
    )
    const again = await WireClient.connect(cluster.node(1).url, 'moves', will)
    client.socket.destroy()
    again.send({ cmd: 'disconnect', reasonCode: 0 })
    await again.closed
  }
  await watcher.settle()
  expect(watcher.takeAll()).toEqual([])
})

test('PUBLISH, SUBSCRIBE and DISCONNECT in one write, CONNECT at another node at once: no will, and subscribed', async () => {
  await using redis = await startRedis()
  await using link = await startSlowLink(redis.port, 4)
  await using cluster = await startCluster({ nodes: 2, argv: ['--redis', link.url], redis })
  const watcher = await cluster.node(0).connect('watcher')
  await watcher.subscribe('will')
  for (let round = 1; round <= 25; round++) {
    const client = await WireClient.connect(cluster.node(0).url, 'moves', { ...will, clean: true })
    client.send(
      { cmd: 'publish', topic: 'x', payload: '', qos: 1, messageId: round, retain: false, dup: false },
      {
        cmd: 'subscribe',
        messageId: 2,
        subscriptions: [{ topic: 'subscribed', qos: 1, nl: false, rap: false, rh: 0 }],
      },
      { cmd: 'disconnect', reasonCode: 0 },
    )
    const again = await WireClient.connect(cluster.node(1).url, 'moves', {
      clean: false,
      properties: will.properties,
    })
    expect(again.connack.sessionPresent).toBe(true)
    again.send({ cmd: 'publish', topic: 'subscribed', payload: '', qos: 0, retain: false, dup: false })
    await again.next('publish')
    again.send({ cmd: 'disconnect', reasonCode: 0, properties: { sessionExpiryInterval: 0 } })
    const third = await WireClient.connect(cluster.node(0).url, 'moves', will)
    expect(third.connack.sessionPresent).toBe(false)
    third.send({ cmd: 'disconnect', reasonCode: 0 })
    await third.closed
  }
  await watcher.settle()
  expect(watcher.takeAll()).toEqual([])
})
