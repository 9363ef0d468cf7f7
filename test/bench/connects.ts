// Clients that come one after the other at a fixed rate, or a hundred at once as fast as it goes, over all nodes: what
// CONNECT and SUBSCRIBE cost, and how long they take. CPU is that of all nodes and Redis over the window, for each client,
// without what they take while nobody comes: a window before says how much that is. Code is warm: as many clients
// came and went that V8 has compiled what a CONNECT takes, which is half of what the first thousand cost.
import { quantilesOf } from './open-loop.ts'
import type { Connects, LoadAnswer } from './patterns.ts'
import { Peer, someAtOnce } from './peers.ts'
import { windowBetween, type World } from './world.ts'

const atOnce = 100

export async function connects(world: World, pattern: Connects): Promise<LoadAnswer> {
  const { ports, warmMs, windowMs } = world.order
  const { clean, count, rate, warm } = pattern
  const open = async (i: number): Promise<Peer> => {
    const peer = new Peer(ports[i % ports.length]!, 1_024)
    await peer.connect(`client-${i}`, clean)
    await peer.subscribe([`bench/connects/${i}`], 1)
    return peer
  }
  await someAtOnce(Array.from({ length: warm }), async (_, i) => (await open(i)).end())
  await world.wait(warmMs)
  const idle = await world.window(windowMs)
  const [times, late]: [number[], number[]] = [[], []]
  const before = world.sample()
  const start = performance.now()
  const come = async (n: number, due: number): Promise<void> => {
    world.idle.push(await open(warm + n))
    times.push(performance.now() - due)
  }
  if (rate === 0)
    await someAtOnce(Array.from({ length: count }), (_, n) => come(n, performance.now()), atOnce)
  else {
    const coming: Promise<void>[] = []
    for (let n = 0; n < count; n++) {
      const due = start + (n * 1_000) / rate
      if (due > performance.now()) await world.wait(due - performance.now())
      late.push(performance.now() - due)
      coming.push(come(n, due))
    }
    await Promise.all(coming)
  }
  const after = world.sample()
  world.watch(...world.idle)
  if (before === undefined || after === undefined || idle === undefined) return world.answer('ok', {})
  const { seconds, cpu } = windowBetween(before, after)
  const without = (busy: number, resting: number): number =>
    Math.max(0, busy - (resting * seconds) / idle.seconds)
  return world.answer('ok', {
    window: {
      seconds,
      delivered: count,
      cpu: {
        ...cpu,
        broker: without(cpu.broker, idle.cpu.broker),
        redis: without(cpu.redis, idle.cpu.redis),
      },
    },
    idleMicros: (idle.cpu.broker + idle.cpu.redis) / idle.seconds,
    latency: { ...quantilesOf(times), sendLateP99: quantilesOf(late).p99 },
  })
}
