// A storm (F6): kill -9 of a node with thousands of persistent sessions. Half of them get a message while their node is
// dead; then all come back at once at the nodes that stay, where a pair of others goes on publishing all the time.
import { orderNode } from './node-order.ts'
import { pace, quantilesOf } from './open-loop.ts'
import type { LoadAnswer, Storm } from './patterns.ts'
import { Publisher, someAtOnce, Subscriber } from './peers.ts'
import type { World } from './world.ts'

/** How long a client goes on trying; how long what waited for it may take. */
const tryMs = 60_000
/** As many SYNs are under way as a listener's backlog takes. */
const comingAtOnce = 400

const now = (): number => performance.now()

async function comeBack(world: World, index: number, port: number): Promise<void> {
  const begun = now()
  for (;;) {
    const next = (world.subscribers[index] = world.subscribers[index]!.again(port))
    try {
      await next.connect(`session-${index}`, false)
      return
    } catch (error) {
      if (now() - begun > tryMs) throw error
      next.end()
    }
  }
}

export async function storm(world: World, pattern: Storm): Promise<LoadAnswer> {
  const {
    ports: [victim, ...others],
    payloadBytes,
    windowMs,
  } = world.order
  const { sessions, rate } = pattern
  const port = (i: number): number => others[i % others.length]!
  const options = { qos: 1, fan: 1, payloadBytes, aheadMax: Infinity } as const
  // One message waits for every other session: its filter is the same.
  const waiting = new Publisher(port(0), { ...options, index: 0, topic: 'bench/storm/all' })
  const healthy = new Publisher(port(0), { ...options, index: 1, topic: 'bench/healthy' })
  const healthySubscriber = new Subscriber(port(1), [healthy], world.came)
  await healthySubscriber.connect('healthy')
  await healthySubscriber.subscribe(['bench/healthy'], 1)
  await Promise.all([waiting.connect('waiting'), healthy.connect('publisher')])
  for (let i = 0; i < sessions; i++)
    world.subscribers.push(new Subscriber(victim!, [waiting], world.came, 4_096))
  await someAtOnce(world.subscribers, async (subscriber, i) => {
    await subscriber.connect(`session-${i}`, false)
    await subscriber.subscribe([i % 2 === 0 ? 'bench/storm/all' : `bench/storm/${i}`], 1)
  })
  world.publishers.push(healthy)
  world.watch(waiting, healthy, healthySubscriber)
  const late: number[] = []
  const stopPace = pace([healthy], rate, late)
  const during = async (what: () => Promise<void>): Promise<number> => {
    const latencies = (healthySubscriber.latencies = [] as number[])
    await what()
    healthySubscriber.latencies = undefined
    return quantilesOf(latencies).p99
  }
  const p99Before = await during(() => world.wait(windowMs))
  const storm = { connectedSeconds: 0, drainedSeconds: 0 }
  const times: number[] = []
  const p99During = await during(async () => {
    await orderNode('kill', 0)
    waiting.send(1)
    while (waiting.acknowledged.size < 1 && world.lost === undefined) await world.wait(10)
    const begun = now()
    await someAtOnce(
      world.subscribers,
      async (_, i) => {
        const from = now()
        await comeBack(world, i, port(i))
        times.push(now() - from)
      },
      comingAtOnce,
    )
    storm.connectedSeconds = (now() - begun) / 1_000
    const isDrained = (): boolean => world.delivered() >= Math.ceil(sessions / 2)
    while (!isDrained() && now() - begun < tryMs && world.lost === undefined) await world.wait(10)
    storm.drainedSeconds = (now() - begun) / 1_000
  })
  stopPace()
  const sessionsGone = world.subscribers.filter(({ sessionPresent }) => !sessionPresent).length
  const due = Math.ceil(sessions / 2)
  world.idle.push(waiting, healthySubscriber)
  return world.answer('ok', {
    sent: due,
    acknowledged: due,
    due,
    lost: due - Math.min(due, world.delivered()),
    resume: { ...quantilesOf(times), sessionsGone },
    storm: { ...storm, p99Before, p99During },
  })
}
