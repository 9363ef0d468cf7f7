// The clients of a throughput pattern: who publishes what to whom, at which node; and how they begin and stop.
import { unheld, type Throughput } from './patterns.ts'
import { Publisher, someAtOnce, Subscriber } from './peers.ts'
import type { World } from './world.ts'

/** Bytes that publishers may be ahead of one subscriber, whatever the payload: no sane buffer overflows. */
const aheadBytesMax = 512 * 1024
const frameBytes = 40

/** Connects the clients of a throughput pattern; subscribers first. */
export async function people(world: World, pattern: Throughput): Promise<void> {
  const { ports, payloadBytes } = world.order
  const [near, far] = ports
  /** Among more than two nodes both kinds are everywhere, no pair at one node. */
  const portOf = (i: number, isSubscriber: boolean): number =>
    ports.length > 2
      ? ports[(isSubscriber ? i + 1 : i) % ports.length]!
      : (isSubscriber && pattern.across ? far : near)!
  const { shape, qos, publishers, subscribers, persistent, shared } = pattern
  const fanIn = shape === 'fan-in' ? publishers : 1
  const aheadMax =
    pattern.aheadMax === unheld
      ? unheld
      : Math.max(
          32,
          Math.min(pattern.aheadMax, Math.floor(aheadBytesMax / (payloadBytes + frameBytes) / fanIn)),
        )
  const topic = (i: number): string =>
    shape === 'fan-in' ? `bench/${shape}/${i % subscribers}/${i}` : `bench/${shape}/${i}`
  for (let i = 0; i < publishers; i++) {
    world.publishers.push(
      new Publisher(portOf(i, false), {
        index: i,
        topic: topic(i),
        qos,
        fan: shape === 'fan-out' ? subscribers : 1,
        payloadBytes,
        aheadMax,
      }),
    )
  }
  for (let i = 0; i < subscribers; i++) {
    const from =
      shape === 'pair'
        ? [world.publishers[i]!]
        : world.publishers.filter((_, p) => shape === 'fan-out' || p % subscribers === i)
    const subscriber = new Subscriber(portOf(i, true), shared === true ? world.publishers : from, world.came)
    if (shared === true && i > 0) subscriber.join(world.subscribers[0]!)
    world.subscribers.push(subscriber)
  }
  const filter = (i: number): string => (shape === 'fan-in' ? `bench/${shape}/${i}/+` : topic(i % publishers))
  await someAtOnce(world.subscribers, async (subscriber, i) => {
    await subscriber.connect(`subscriber-${i}`, !persistent)
    await subscriber.subscribe([shared === true ? `$share/bench/bench/${shape}/#` : filter(i)], qos)
  })
  await someAtOnce(world.publishers, (publisher, i) => publisher.connect(`publisher-${i}`))
  world.watch(...world.publishers, ...world.subscribers)
}

export function flow(world: World, flowing: boolean): void {
  for (const publisher of world.publishers) {
    publisher.flowing = flowing
    publisher.pump()
  }
}
