// A long queue and a long connection: 100,000 queued messages come in order at the window's pace and block
// nobody; Packet Identifiers wrap around and none is used while it is in flight.
import type { IPublishPacket } from 'mqtt-packet'
import { expect, test } from 'vitest'
import { startCluster } from '../support/cluster.ts'
import { WireClient } from '../support/wire.ts'

const kept = (receiveMaximum: number): object => ({
  clean: false,
  properties: { sessionExpiryInterval: 600, receiveMaximum },
})

/** Takes `count` messages and acknowledges each when `lag` later ones have come; tells each before that. */
async function take(
  client: WireClient,
  count: number,
  lag: number,
  receiveMaximum: number,
  tell: (packet: IPublishPacket) => void,
): Promise<void> {
  const inFlight: number[] = []
  for (let n = 0; n < count; n++) {
    const packet = await client.next('publish')
    const messageId = packet.messageId!
    if (messageId < 1 || messageId > 65_535 || inFlight.includes(messageId))
      throw new Error(`Packet Identifier ${messageId} at message ${n}`)
    inFlight.push(messageId)
    if (inFlight.length > receiveMaximum)
      throw new Error(
        `${inFlight.length} messages in flight at message ${n}, Receive Maximum is ${receiveMaximum}`,
      )
    tell(packet)
    if (inFlight.length > lag || n === count - 1)
      client.send(
        ...inFlight
          .splice(0, n === count - 1 ? inFlight.length : inFlight.length - lag)
          .map((id) => ({ cmd: 'puback', messageId: id }) as const),
      )
  }
}

test('100,000 queued messages come in order, Receive Maximum is kept, and another pair at the same node goes on', async () => {
  await using cluster = await startCluster({ nodes: 2 })
  const sleeper = await WireClient.connect(cluster.node(0).url, 'sleeper', kept(100))
  await sleeper.subscribe('queue/#')
  sleeper.socket.destroy()
  const publisher = await cluster.node(0).connect('publisher')
  const count = 100_000
  for (let n = 0; n < count; n += 1_000)
    await Promise.all(Array.from({ length: 1_000 }, (_, i) => publisher.publish('queue/x', `${n + i}`)))
  const other = await cluster.node(1).connect('other')
  await other.subscribe('other/#')
  const [start, payloads] = [performance.now(), [] as number[]]
  const awake = await WireClient.connect(cluster.node(1).url, 'sleeper', kept(100))
  let draining = true
  const drain = take(awake, count, 50, 100, ({ payload }) =>
    payloads.push(Number(payload.toString())),
  ).finally(() => {
    draining = false
  })
  let beside = 0
  while (draining) {
    await publisher.publish('other/x', `${beside}`)
    await other.arrives(({ payload }) => payload.toString() === `${beside}`)
    beside++
  }
  await drain
  console.log(
    `${count} messages in ${((performance.now() - start) / 1_000).toFixed(1)} s, ${beside} of another pair meanwhile`,
  )
  expect(payloads).toEqual(Array.from({ length: count }, (_, n) => n))
  expect(beside).toBeGreaterThan(10)
  awake.socket.destroy()
}, 300_000)

test('Packet Identifiers wrap around: 140,000 messages over one connection, all in order, none under an identifier that is in flight', async () => {
  await using cluster = await startCluster({ nodes: 2 })
  const subscriber = await WireClient.connect(cluster.node(1).url, 'subscriber', kept(1_000))
  await subscriber.subscribe('wrap/#')
  const publisher = await cluster.node(0).connect('publisher')
  const count = 140_000
  const payloads: number[] = []
  const taking = take(subscriber, count, 700, 1_000, ({ payload }) =>
    payloads.push(Number(payload.toString())),
  )
  for (let n = 0; n < count; n += 500) {
    await Promise.all(Array.from({ length: 500 }, (_, i) => publisher.publish('wrap/x', `${n + i}`)))
  }
  await taking
  expect(payloads).toEqual(Array.from({ length: count }, (_, n) => n))
  subscriber.socket.destroy()
}, 300_000)
