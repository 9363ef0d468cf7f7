// With Redis some milliseconds away: what a client sent before its DISCONNECT, and the DISCONNECT itself,
// count for a CONNECT at another node right behind it; and the later CONNECT of a Client Identifier wins, at
// one node.
import { setTimeout as sleep } from 'node:timers/promises'
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
  for (let round = 1; round <= 12; round++) {
    const client = await WireClient.connect(cluster.node(0).url, 'moves', will)
    client.send(
      { cmd: 'publish', topic: 'x', payload: '', qos: 1, messageId: round, retain: false, dup: false },
      { cmd: 'disconnect', reasonCode: 0 },
    )
    const again = await WireClient.connect(cluster.node(1).url, 'moves', will)
    expect(again.connack.sessionPresent).toBe(true)
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
  for (const [n, client] of all.entries())
    client.send({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 4,
      clean: n % 2 === 0,
      clientId: 'storm',
      keepalive: 0,
    })
  await using last = all.pop()!
  await Promise.all(all.map(({ closed }) => closed))
  await last.next('connack')
  expect(await last.settled()).toEqual([])
})

test('of two CONNECTs at different nodes the later one stays, though Redis hears of it first', async () => {
  await using redis = await startRedis()
  await using link = await startSlowLink(redis.port, 1)
  await using far = new TestNode('far', ['--redis', link.url])
  await using near = new TestNode('near', ['--redis', redis.url])
  await Promise.all([far.start(), near.start()])
  const other = await WireClient.connect(far.url, 'other', { version: 4 })
  link.delayMs = 60
  for (let round = 0; round < 4; round++) {
    const [earlier, later] = [await WireClient.open(far.url, 4), await WireClient.open(near.url, 4)]
    const connect = {
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 4,
      clean: round % 2 === 0,
      clientId: 'two',
      keepalive: 0,
    } as const
    earlier.send(connect)
    other.send({ cmd: 'pingreq' })
    await other.next('pingresp') // by now it was read
    await sleep(40) // the clocks of both nodes are to be nearer than that
    later.send(connect)
    await later.next('connack')
    await earlier.closed
    expect(await later.settled()).toEqual([])
    later.send({ cmd: 'disconnect' })
    await later.closed
  }
})
