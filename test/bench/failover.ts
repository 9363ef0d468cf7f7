// Failover (B10): kill -9 of the node that all subscribers are connected to, while others publish for them at
// the nodes that stay. Each subscriber comes back when its connection breaks, at one of those, and what was
// acknowledged must reach it.
import { orderNode } from './node-order.ts'
import { pace, quantilesOf } from './open-loop.ts'
import type { Failover, LoadAnswer } from './patterns.ts'
import { Publisher, Subscriber } from './peers.ts'
import type { World } from './world.ts'

/** How long a client goes on trying. */
const tryMs = 15_000

/** Comes back as another connection of the same session; resolves to how long it took, in ms. */
async function comeBack(world: World, index: number, clientId: string, port: number): Promise<number> {
  const begun = performance.now()
  for (;;) {
    const next = (world.subscribers[index] = world.subscribers[index]!.again(port))
    try {
      await next.connect(clientId, false)
      world.watch(next)
      return performance.now() - begun
    } catch (error) {
      if (performance.now() - begun > tryMs) throw error
    }
  }
}

export async function failover(world: World, pattern: Failover): Promise<LoadAnswer> {
  const {
    ports: [victim, ...others],
    payloadBytes,
    warmMs,
    windowMs,
  } = world.order
  const port = (i: number): number => others[i % others.length]!
  const clientId = (i: number): string => `client-${i}`
  for (let i = 0; i < pattern.clients; i++) {
    const publisher = new Publisher(port(i), {
      index: i,
      topic: `bench/failover/${i}`,
      qos: 1,
      fan: 1,
      payloadBytes,
      aheadMax: Infinity,
    })
    const subscriber = new Subscriber(victim!, [publisher], world.came)
    world.publishers.push(publisher)
    world.subscribers.push(subscriber)
    await subscriber.connect(clientId(i), false)
    await subscriber.subscribe([publisher.options.topic], 1)
    await publisher.connect(`publisher-${i}`)
  }
  world.watch(...world.publishers)
  const stopPace = pace(world.publishers, pattern.rate, [])
  await world.wait(warmMs + windowMs)
  const back = Promise.all(
    world.subscribers.map(
      (subscriber, i) =>
        new Promise<number>((resolve, reject) => {
          subscriber.onLost = () => {
            comeBack(world, i, clientId(i), port(i)).then(resolve, reject)
          }
        }),
    ),
  )
  await orderNode('kill', 0)
  const times = await back
  const sessionsGone = world.subscribers.filter(({ sessionPresent }) => !sessionPresent).length
  await world.wait(windowMs)
  stopPace()
  const settled = await world.settle()
  return world.answer(settled, { resume: { ...quantilesOf(times), sessionsGone } })
}
