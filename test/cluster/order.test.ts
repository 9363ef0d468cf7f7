// P3, order: ten publishers on three nodes, QoS 0 and QoS 1 mixed on the same topics, overlapping filters of
// one client. Nothing of QoS 1 is missing, nothing comes twice without a fault, and each subscriber sees each
// publisher's order per topic and QoS.
import { expect, test } from 'vitest'
import type { TestClient } from '../support/client.ts'
import { startCluster } from '../support/cluster.ts'

const publishersCount = 10
const perPublisher = 300
const topics = ['order/a', 'order/b', 'order/deep/c']

interface Seen {
  readonly publisher: number
  readonly n: number
  readonly qos: number
  readonly topic: string
}

function seenBy(client: TestClient): Seen[] {
  return client.packets.map(({ topic, payload, qos }) => {
    const [publisher, n] = payload.toString().split(' ').map(Number)
    return { publisher: publisher!, n: n!, qos, topic }
  })
}

test('QoS 0 and QoS 1 mixed: complete, once, in order, on every node', async () => {
  await using cluster = await startCluster({ nodes: 3 })
  const subscribers = await Promise.all(
    cluster.nodes.flatMap((node, i) =>
      ['#', 'order/+', 'overlap'].map(async (kind) => {
        const client = await node.connect(`s-${i}-${kind}`, { version: i === 1 ? 5 : 4 })
        if (kind === 'overlap')
          await client.subscribe(['order/#', 'order/+', 'order/a', '+/deep/c'], { qos: 1 })
        else await client.subscribe(kind, { qos: 1 })
        return { client, matches: (topic: string) => kind !== 'order/+' || topic !== 'order/deep/c' }
      }),
    ),
  )
  const publishers = await Promise.all(
    Array.from({ length: publishersCount }, (_, i) => cluster.node(i % 3).connect(`p-${i}`)),
  )
  await Promise.all(
    publishers.map(async (publisher, p) => {
      const open: Promise<void>[] = []
      for (let n = 0; n < perPublisher; n++) {
        open.push(
          publisher.publish(topics[n % topics.length]!, `${p} ${n}`, {
            qos: (Math.floor(n / 3) % 2) as 0 | 1,
          }),
        )
        if (open.length >= 100) await Promise.all(open.splice(0))
      }
      await Promise.all(open)
    }),
  )
  for (const { client, matches } of subscribers) {
    const expected =
      Array.from({ length: perPublisher }, (_, n) => topics[n % topics.length]!).filter(matches).length *
      publishersCount
    await client.arrivals(expected)
    await client.settle()
    const seen = seenBy(client)
    expect(seen.length, 'missing or twice').toBe(expected) // QoS 0, too: nothing here is overloaded
    const last = new Map<string, number>()
    for (const { publisher, topic, qos, n } of seen) {
      const stream = `${publisher} ${topic} ${qos}`
      expect(n, stream).toBeGreaterThan(last.get(stream) ?? -1)
      last.set(stream, n)
    }
  }
})
