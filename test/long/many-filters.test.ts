// More filters in one SUBSCRIBE than a session's script or Lua takes at once.
import { expect, test } from 'vitest'
import { startCluster } from '../support/cluster.ts'
import { WireClient } from '../support/wire.ts'

const kept = { clean: false, properties: { sessionExpiryInterval: 600 } } as const

test('a SUBSCRIBE of 70,000 filters from a session that outlives its connection is answered, and a message for the last one comes', async () => {
  await using busy = await startCluster({ nodes: 1 })
  await using client = await WireClient.connect(busy.node(0).url, 'many-filters', kept)
  const filters = Array.from({ length: 70_000 }, (_, n) => n.toString(36))
  client.send({
    cmd: 'subscribe',
    messageId: 1,
    subscriptions: filters.map((topic) => ({ topic, qos: 1, nl: false, rap: false, rh: 0 })),
  })
  await expect.poll(() => client.packets.length, { timeout: 100_000 }).toBe(1)
  expect((await client.next('suback')).granted).toHaveLength(filters.length)
  client.send({
    cmd: 'publish',
    topic: filters.at(-1)!,
    payload: 'found',
    qos: 1,
    messageId: 2,
    retain: false,
    dup: false,
  })
  const came = [await client.any(), await client.any()].map((packet) =>
    packet.cmd === 'publish' ? String(packet.payload) : packet.cmd,
  )
  expect(came.sort()).toEqual(['found', 'puback'])
}, 120_000)
