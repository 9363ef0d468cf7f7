// Clients that come one after the other at a fixed rate, over all nodes: what CONNECT and SUBSCRIBE cost, and how long
// they take. CPU is that of all nodes and Redis over the window, for each client.
import { quantilesOf } from './open-loop.ts'
import type { Connects, LoadAnswer } from './patterns.ts'
import { Peer, someAtOnce } from './peers.ts'
import { windowBetween, type World } from './world.ts'

export async function connects(world: World, pattern: Connects): Promise<LoadAnswer> {
  const { ports, warmMs } = world.order
  const { clean, count, rate, warm } = pattern
  const open = async (i: number): Promise<void> => {
    const peer = new Peer(ports[i % ports.length]!, 1_024)
    world.idle.push(peer)
    await peer.connect(`client-${i}`, clean)
    await peer.subscribe([`bench/connects/${i}`], 1)
  }
  await someAtOnce(Array.from({ length: warm }), (_, i) => open(i))
  await world.wait(warmMs)
  const [times, late]: [number[], number[]] = [[], []]
  const opening: Promise<void>[] = []
  const before = world.sample()
  const start = performance.now()
  for (let n = 0; n < count; n++) {
    const due = start + (n * 1_000) / rate
    if (due > performance.now()) await world.wait(due - performance.now())
    late.push(performance.now() - due)
    opening.push(open(warm + n).then(() => void times.push(performance.now() - due)))
  }
  await Promise.all(opening)
  const after = world.sample()
  world.watch(...world.idle)
  return world.answer('ok', {
    ...(before !== undefined &&
      after !== undefined && { window: { ...windowBetween(before, after), delivered: count } }),
    latency: { ...quantilesOf(times), sendLateP99: quantilesOf(late).p99 },
  })
}
