// The load process: forked by run.ts for one run, told what to do in one LoadOrder, answers with one
// LoadAnswer and is ended. Here the patterns become clients: who connects where, when the window opens, how
// it is wound up. The kinds of patterns that need more than that have files of their own.
import { failover } from './failover.ts'
import { connects } from './connects.ts'
import { logins } from './logins.ts'
import { manyRetained } from './many-retained.ts'
import { manySubscriptions } from './many-subscriptions.ts'
import { pace, quantilesOf } from './open-loop.ts'
import { overload } from './overload.ts'
import type { IdleConnections, LoadAnswer, LoadOrder, Mixed, Throughput, Window } from './patterns.ts'
import { Peer, Publisher, Subscriber } from './peers.ts'
import { flow, people } from './people.ts'
import { rssBytes } from './proc.ts'
import { storm } from './storm.ts'
import { stampBytes } from './wire.ts'
import { World } from './world.ts'

/** Idle clients at the far node, 1,000 filters each, none of which matches anything. */
async function idleFilters(world: World, count: number): Promise<void> {
  const perClient = 1_000
  const perPacket = 100
  for (let client = 0; client * perClient < count; client++) {
    const peer = await new Peer(world.order.ports[1]!, 4096).connect(`idle-${client}`)
    world.idle.push(peer)
    for (let first = 0; first < perClient; first += perPacket) {
      await peer.subscribe(
        Array.from({ length: perPacket }, (_, i) => `idle/${client}/${first + i}/+/state`),
        0,
        first + 1,
      )
    }
  }
  world.watch(...world.idle)
}

/** Some windows as one; undefined when one of them is missing. */
function pooled(windows: readonly (Window | undefined)[]): Window | undefined {
  const all = windows.filter((window) => window !== undefined)
  if (all.length < windows.length) return undefined
  const sum = (of: (window: Window) => number): number => all.reduce((total, window) => total + of(window), 0)
  return {
    seconds: sum(({ seconds }) => seconds),
    delivered: sum(({ delivered }) => delivered),
    cpu: {
      broker: sum(({ cpu }) => cpu.broker),
      redis: sum(({ cpu }) => cpu.redis),
      load: sum(({ cpu }) => cpu.load),
      machine: sum(({ cpu }) => cpu.machine),
    },
  }
}

/**
 * Without, with, without, with, without: brokers get cheaper while they run and the machine has its moods, so
 * neither may have the better place.
 */
async function filtersBetween(world: World, count: number): Promise<{ window?: Window; without?: Window }> {
  const { warmMs } = world.order
  const change = async (how: () => Promise<void>): Promise<void> => {
    flow(world, false)
    await world.settle()
    await how()
    flow(world, true)
    await world.wait(warmMs)
  }
  await world.wait(2 * warmMs)
  const without = [await world.window()]
  const having = []
  for (let i = 0; i < 2; i++) {
    await change(() => idleFilters(world, count))
    having.push(await world.window())
    await change(async () => {
      for (const peer of world.idle.splice(0)) peer.end()
    })
    without.push(await world.window())
  }
  const [window, bare] = [pooled(having), pooled(without)]
  return { ...(window && { window }), ...(bare && { without: bare }) }
}

async function throughput(world: World, pattern: Throughput): Promise<LoadAnswer> {
  await people(world, pattern)
  flow(world, true)
  await world.wait(world.order.warmMs)
  const windows =
    pattern.idleFilters > 0
      ? await filtersBetween(world, pattern.idleFilters)
      : { window: await world.window() }
  flow(world, false)
  const settled = await world.settle()
  return world.answer(world.stuck ? 'stalled' : settled, {
    ...(windows.window && { window: windows.window }),
    ...('without' in windows && { without: windows.without }),
  })
}

async function openLoop(world: World, pattern: Throughput): Promise<LoadAnswer> {
  await people(world, pattern)
  const late: number[] = []
  const stopPace = pace(world.publishers, pattern.rate, late)
  await world.wait(world.order.warmMs)
  const latencies: number[] = []
  for (const subscriber of world.subscribers) subscriber.latencies = latencies
  const window = await world.window()
  for (const subscriber of world.subscribers) subscriber.latencies = undefined
  stopPace()
  const settled = await world.settle()
  return world.answer(world.stuck ? 'stalled' : settled, {
    ...(window && { window }),
    ...(latencies.length > 0 && {
      latency: { ...quantilesOf(latencies), sendLateP99: quantilesOf(late).p99 },
    }),
  })
}

async function mixed(world: World, pattern: Mixed): Promise<LoadAnswer> {
  const {
    ports: [near, far],
    payloadBytes,
  } = world.order
  const common = { fan: 1, payloadBytes, aheadMax: Infinity }
  const wanted = new Publisher(near!, { ...common, index: 0, topic: 'bench/mixed/1', qos: 1 })
  const flood = new Publisher(near!, { ...common, index: 1, topic: 'bench/mixed/0', qos: 0 })
  const subscriber = new Subscriber((pattern.across ? far : near)!, [wanted, flood], world.came)
  world.publishers.push(wanted, flood)
  world.subscribers.push(subscriber)
  await subscriber.connect('subscriber', false)
  await subscriber.subscribe(['bench/mixed/1'], 1)
  await subscriber.subscribe(['bench/mixed/0'], 0, 2)
  await Promise.all([wanted.connect('wanted'), flood.connect('flood')])
  world.watch(wanted, flood, subscriber)
  const stopPace = pace([flood], pattern.rate, [])
  await world.wait(world.order.warmMs)
  wanted.countMax = pattern.count
  wanted.flowing = true
  wanted.pump()
  const window = await world.window()
  await world.settle(() => wanted.acknowledged.size === pattern.count)
  stopPace()
  const settled = await world.settle()
  return world.answer(settled, { ...world.count([wanted]), ...(window && { window }) })
}

async function idleConnections(world: World, pattern: IdleConnections): Promise<LoadAnswer> {
  const { ports, brokerPids, redisPid } = world.order
  const atOnce = 50
  const open = async (from: number, to: number): Promise<void> => {
    let next = from
    await Promise.all(
      Array.from({ length: atOnce }, async () => {
        while (next < to) {
          const i = next++
          const peer = await new Peer(ports[i % ports.length]!, 1024).connect(`idle-${i}`)
          await peer.subscribe([`bench/idle/${i}`], 1)
          world.idle.push(peer)
        }
      }),
    )
    await world.wait(world.order.warmMs)
  }
  const rss = (pids: readonly number[]): number => pids.reduce((sum, pid) => sum + (rssBytes(pid) ?? 0), 0)
  const redisPids = redisPid === undefined ? [] : [redisPid]
  await open(0, pattern.warm)
  const before = { broker: rss(brokerPids), redis: rss(redisPids), time: performance.now() }
  await open(pattern.warm, pattern.warm + pattern.count)
  const seconds = (performance.now() - before.time - world.order.warmMs) / 1000
  world.watch(...world.idle)
  world.sample()
  return world.answer('ok', {
    connections: {
      bytesEach: (rss(brokerPids) - before.broker) / pattern.count,
      redisBytesEach: (rss(redisPids) - before.redis) / pattern.count,
      perSecond: pattern.count / seconds,
    },
  })
}

function drive(world: World): Promise<LoadAnswer> {
  const { pattern } = world.order
  switch (pattern.kind) {
    case 'throughput':
      return pattern.rate > 0 ? openLoop(world, pattern) : throughput(world, pattern)
    case 'mixed':
      return mixed(world, pattern)
    case 'idle-connections':
      return idleConnections(world, pattern)
    case 'connects':
      return connects(world, pattern)
    case 'storm':
      return storm(world, pattern)
    case 'logins':
      return logins(world, pattern)
    case 'overload':
      return overload(world, pattern)
    case 'failover':
      return failover(world, pattern)
    case 'many-subscriptions':
      return manySubscriptions(world, pattern)
    case 'many-retained':
      return manyRetained(world, pattern)
  }
}

process.once('disconnect', () => process.exit(0))
process.once('message', (message) => {
  const given = message as LoadOrder
  const world = new World({ ...given, payloadBytes: Math.max(given.payloadBytes, stampBytes) })
  drive(world)
    .catch((error: unknown): LoadAnswer => world.answer('disconnected', { detail: (error as Error).message }))
    .then(
      (result) => {
        world.end()
        process.send?.(result, () => process.disconnect())
      },
      (error: unknown) => {
        throw error
      },
    )
})
