// Wills survive their node, and are what they would have been without its death: each QoS, plain and
// retained, delayed or not, with their whole Message Expiry Interval, and not for their own client when it
// said No Local.
import { expect, test } from 'vitest'
import { startCluster } from '../support/cluster.ts'
import { WireClient } from '../support/wire.ts'

test('kill -9 of their node: every QoS, plain and retained, at once and delayed, once, and not to its own client', async () => {
  await using cluster = await startCluster({ nodes: 3, argv: ['--lease-ms', '3000'] })
  const wire = (node: number, id: string, options: Parameters<typeof WireClient.connect>[2] = {}) =>
    WireClient.connect(cluster.node(node).url, id, options)
  await using watcher = await wire(1, 'watcher')
  await watcher.subscribe('will/#', { qos: 2 })
  await using own = await wire(0, 'plain 1', {
    clean: false,
    properties: { sessionExpiryInterval: 600 },
    will: { topic: 'will/own', payload: Buffer.from('own'), qos: 1, retain: false },
  })
  await own.subscribe('will/#', { qos: 1, nl: true })
  const doomed: string[] = ['will/own']
  for (const qos of [0, 1, 2] as const) {
    for (const retain of [false, true]) {
      const willDelayInterval = qos === 0 ? 0 : 1
      const topic = `will/${qos}/${retain ? 'retained' : 'plain'}`
      doomed.push(topic)
      await wire(0, topic, {
        clean: false,
        properties: { sessionExpiryInterval: 600 },
        will: {
          topic,
          payload: Buffer.from(topic),
          qos,
          retain,
          properties: { willDelayInterval, messageExpiryInterval: 60 },
        },
      })
    }
  }
  // an interval that ran from CONNECT on would show
  await new Promise((resolve) => setTimeout(resolve, 1_100))
  await cluster.node(0).kill()
  const got = new Map<string, number | undefined>()
  const begun = performance.now()
  while (got.size < doomed.length) {
    if (performance.now() - begun > 30_000) throw new Error(`only ${[...got.keys()].join(' ')} came`)
    for (const packet of await watcher.settled()) {
      if (packet.cmd !== 'publish') continue
      if (packet.qos > 0)
        watcher.send({ cmd: packet.qos === 1 ? 'puback' : 'pubrec', messageId: packet.messageId! })
      expect(got.has(packet.topic), packet.topic).toBe(false)
      got.set(packet.topic, packet.properties?.messageExpiryInterval)
    }
  }
  expect([...got.keys()].sort()).toEqual(doomed.sort())
  for (const [topic, interval] of got) expect(interval, topic).toBe(topic === 'will/own' ? undefined : 60)
  await using again = await wire(2, 'plain 1', { clean: false, properties: { sessionExpiryInterval: 600 } })
  expect(again.connack.sessionPresent).toBe(true)
  watcher.send({
    cmd: 'publish',
    topic: 'will/marker',
    payload: '',
    qos: 1,
    messageId: 1,
    retain: false,
    dup: false,
  })
  for (let topic = ''; topic !== 'will/marker';) {
    // behind everything that was queued
    const packet = await again.next('publish')
    expect((topic = packet.topic)).not.toBe('will/own')
    again.send({ cmd: 'puback', messageId: packet.messageId! })
  }
  await using late = await wire(2, 'late')
  await late.subscribe('will/#')
  const kept = [await late.next('publish'), await late.next('publish'), await late.next('publish')].map(
    ({ topic }) => topic,
  )
  expect(kept.sort()).toEqual([0, 1, 2].map((qos) => `will/${qos}/retained`))
})
