// What a client may send in one breath, and may leave in the middle of, without harm to itself or to others.
import { afterAll, beforeAll, test } from 'vitest'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { frame, u16, WireClient } from '../support/wire.ts'

let cluster: TestCluster
beforeAll(async () => { cluster = await startCluster({ nodes: 2 }) })
afterAll(async () => { await cluster[Symbol.asyncDispose]() })

/** A session that outlives its connection. */
const kept = { clean: false, properties: { sessionExpiryInterval: 600 } } as const

test('12,000 QoS 2 publishes released in one breath are all completed', async () => {
  await using client = await WireClient.connect(cluster.node(0).url, 'releases', kept)
  for (let first = 1; first <= 12_000; first += 500) {
    const ids = Array.from({ length: 500 }, (_, n) => first + n)
    client.send(...ids.map((messageId) => ({ cmd: 'publish', topic: 't', payload: '', qos: 2, messageId, retain: false, dup: false }) as const))
    for (const _ of ids) await client.next('pubrec')
  }
  client.send(...Array.from({ length: 12_000 }, (_, n) => frame(0x62, u16(n + 1))))
  for (let n = 0; n < 12_000; n++) await client.next('pubcomp')
})
