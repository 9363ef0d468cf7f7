// The will of a client that says good-bye at one node and connects at another at once, with Redis 4 ms away,
// as issue 12 (A4) has it: fifty rounds, none of which may publish the old will. And what else stands before
// the DISCONNECT, on a machine that has time to answer: the node that is asked for the session has 50 ms for
// it (bridge/sessions/handover.ts).
import { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import { startCluster, TestNode } from '../support/cluster.ts'
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

// The node that is asked for the session may hear of that before it knows that the session is its own: then a quarter
// of the rounds forgot the SUBSCRIBE (bridge/sessions/connected.ts).
test('CONNECT, SUBSCRIBE and DISCONNECT in one write, and CONNECT at another node before CONNACK: subscribed', async () => {
  await using redis = await startRedis()
  await using link = await startSlowLink(redis.port, 1)
  await using far = new TestNode('far', ['--redis', link.url])
  await using near = new TestNode('near', ['--redis', redis.url])
  await Promise.all([far.start(), near.start()])
  const other = await WireClient.connect(far.url, 'other', { version: 4 })
  const admin = new Redis(redis.url)
  const leaves = { cmd: 'disconnect', reasonCode: 0 } as const
  const kept = { clean: false, properties: { sessionExpiryInterval: 60 } } as const
  const before = await WireClient.connect(near.url, 'goes on', kept)
  await before.subscribe('first')
  before.send(leaves)
  await before.closed
  const sid = (await admin.hget('aedes:{s0}:clients', 'goes on'))!
  const ownedByFar = async (): Promise<boolean> =>
    (await admin.hget('aedes:{s0}:owners', sid))?.startsWith('far') === true
  link.delayMs = 4
  const client = await WireClient.open(far.url)
  const named = { protocolId: 'MQTT', protocolVersion: 5, clientId: 'goes on', keepalive: 0 } as const
  const subscriptions = [{ topic: 'then', qos: 1, nl: false, rap: false, rh: 0 } as const]
  client.send(
    { cmd: 'connect', ...named, ...kept },
    { cmd: 'subscribe', messageId: 1, subscriptions },
    leaves,
  )
  while (!(await ownedByFar())) await new Promise(setImmediate) // its CONNACK comes three ways of the link later
  await using again = await WireClient.connect(near.url, 'goes on', kept)
  other.send({ cmd: 'publish', topic: 'then', payload: '', qos: 1, messageId: 1, retain: false, dup: false })
  expect((await again.next('publish')).topic).toBe('then')
  admin.disconnect()
})
