// A node that starts among many stored subscriptions (B7). They are written straight into Redis, as
// bridge/redis/keys.ts lays them out: through the broker it would take minutes. That a session of them works is
// shown before the run counts.
import { Redis } from 'ioredis'
import { Keys } from '../../bridge/redis/keys.ts'
import { SessionOption } from '../../bridge/sessions/session-options.ts'
import { encodeSubscription } from '../../bridge/sessions/stored-subscription.ts'
import { orderNode } from './node-order.ts'
import type { LoadAnswer, ManySubscriptions } from './patterns.ts'
import { Publisher, Subscriber } from './peers.ts'
import { restingRssBytes } from './proc.ts'
import { prefix } from './systems.ts'
import type { World } from './world.ts'

const sessionsAtOnce = 500
const clientIdOf = (session: number): string => `device-${session}`
const topicOf = (session: number, n: number): string => `fleet/${session}/channel-${n}/command`
/** Every other one has a wildcard. */
const filterOf = (session: number, n: number): string =>
  n % 2 === 0 ? topicOf(session, n) : `fleet/${session}/channel-${n}/+`

async function store(redisPort: number, { sessions, filtersEach }: ManySubscriptions): Promise<void> {
  const keys = new Keys(prefix)
  const redis = new Redis(redisPort, '127.0.0.1', { enableAutoPipelining: false })
  const options = encodeSubscription({ options: 1 & SessionOption.qos, identifier: undefined })
  try {
    for (let first = 0; first < sessions; first += sessionsAtOnce) {
      const pipeline = redis.pipeline()
      for (let i = first; i < Math.min(sessions, first + sessionsAtOnce); i++) {
        const partition = keys.partitionFor(clientIdOf(i))
        const sid = partition.toString(16) + i.toString(36).padStart(12, '0')
        pipeline.hset(
          keys.session(sid, 'subscriptions'),
          ...Array.from({ length: filtersEach }, (_, n) => [filterOf(i, n), options]).flat(),
        )
        pipeline.hset(
          keys.session(sid, 'session'),
          'client',
          clientIdOf(i),
          'epoch',
          1,
          'expiry',
          -1,
          'willDelay',
          0,
          'claim',
          0,
        )
        pipeline.hset(keys.partition(partition, 'clients'), clientIdOf(i), sid)
        pipeline.hset(keys.partition(partition, 'owners'), sid, '')
      }
      for (const [error] of (await pipeline.exec()) ?? []) if (error !== null) throw error
    }
  } finally {
    redis.disconnect()
  }
}

/** A client of a stored session connects and is sent what its filters match, each message once. */
async function proveOne(world: World, port: number, session: number, filtersEach: number): Promise<void> {
  for (let n = 0; n < filtersEach; n++) {
    world.publishers.push(
      new Publisher(port, {
        index: n,
        topic: topicOf(session, n),
        qos: 1,
        fan: 1,
        payloadBytes: world.order.payloadBytes,
        aheadMax: Infinity,
      }),
    )
  }
  const subscriber = new Subscriber(port, world.publishers, world.came)
  world.subscribers.push(subscriber)
  await subscriber.connect(clientIdOf(session), false)
  if (!subscriber.sessionPresent) throw new Error('a stored session is not known')
  for (const [n, publisher] of world.publishers.entries()) {
    await publisher.connect(`publisher-${n}`)
    publisher.send(1)
  }
  await world.settle()
}

export async function manySubscriptions(world: World, pattern: ManySubscriptions): Promise<LoadAnswer> {
  const {
    brokerPids: [emptyPid],
    redisPort,
  } = world.order
  const empty = await restingRssBytes(emptyPid!)
  await store(redisPort!, pattern)
  const { pid, port, seconds } = await orderNode('start', 1)
  const bytesEach = ((await restingRssBytes(pid)) - empty) / (pattern.sessions * pattern.filtersEach)
  await proveOne(world, port, Math.floor(pattern.sessions / 2), pattern.filtersEach)
  return world.answer('ok', { start: { seconds, bytesEach } })
}
