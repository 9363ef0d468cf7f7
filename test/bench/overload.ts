// Overload (B9): how a healthy QoS 1 pair fares, and what the brokers' memory does, while publishers flood a
// subscriber that reads slowly and one that reads nothing. The flood is offered at a bounded rate, so that
// what is measured is what unread bytes do, not the contention for two cores; within that rate each of its
// publishers sends as fast as the broker takes it. A subscriber of the flood that the broker ends comes back
// at once: the pressure lasts.
import type { LoadAnswer, Overload } from './patterns.ts'
import { pace, quantilesOf } from './open-loop.ts'
import { Peer, Publisher, Subscriber } from './peers.ts'
import { rssBytes } from './proc.ts'
import { Pubacks } from './wire.ts'
import type { World } from './world.ts'

const floodFilter = 'bench/flood/#'
/** The slow subscriber's pace: so many bytes, then so long nothing. */
const slowBytes = 32_768
const slowMs = 20
const againMs = 100
const floodMs = 2
/** What a publisher of the flood has under way at most: not acknowledged (QoS 1), not taken by the kernel. */
const unacknowledgedMax = 1_000
const unwrittenBytesMax = 1024 * 1024
/** The overload lasts this many windows: memory that grows has time to show it. */
const windows = 3

/** Reads 1.6 MB/s and acknowledges it. */
class Slow extends Peer {
  readonly #pubacks = new Pubacks()

  constructor(port: number) {
    super(port, slowBytes)
  }

  override onPublish(_buffer: Buffer, qos: number, messageId: number): void {
    if (qos > 0) this.#pubacks.add(messageId)
  }

  override onChunkEnd(): void {
    const pubacks = this.#pubacks.take()
    if (pubacks !== undefined) this.socket.write(pubacks)
    this.socket.pause()
    setTimeout(() => this.socket.resume(), slowMs)
  }
}

class Flood {
  readonly publishers: readonly Publisher[]
  readonly #world: World
  readonly #port: number
  #timer: NodeJS.Timeout | undefined
  #over = false
  /** Connections that the broker ended. */
  ended = 0

  constructor(world: World, { floodPayloadBytes, floodBytesPerSecond }: Overload, near: number, far: number) {
    this.#world = world
    this.#port = far
    this.publishers = ([0, 1] as const).map(
      (qos) =>
        new Publisher(near, {
          index: 1 + qos,
          topic: `bench/flood/${qos}`,
          qos,
          fan: 1,
          payloadBytes: floodPayloadBytes,
          aheadMax: Infinity,
        }),
    )
    this.#perMs = floodBytesPerSecond / floodPayloadBytes / this.publishers.length / 1_000
  }

  /** Messages of one publisher. */
  readonly #perMs: number

  async start(): Promise<void> {
    await this.#join('slow')
    await this.#join('frozen')
    for (const publisher of this.publishers) await publisher.connect(`flood-${publisher.options.qos}`)
    this.#world.idle.push(...this.publishers)
    this.#world.watch(...this.publishers)
    let last = performance.now()
    this.#timer = setInterval(() => {
      const now = performance.now()
      for (const publisher of this.publishers)
        this.#send(publisher, Math.round(now * this.#perMs) - Math.round(last * this.#perMs))
      last = now
    }, floodMs)
  }

  /** What it may not send now is not made up for later: a publisher that is held is slower. */
  #send(publisher: Publisher, due: number): void {
    const {
      acknowledged,
      sent,
      options: { qos },
      socket,
    } = publisher
    const room = qos === 0 ? Infinity : unacknowledgedMax - (sent - acknowledged.size)
    const count = socket.writableLength > unwrittenBytesMax ? 0 : Math.min(due, room, 256)
    if (count > 0) publisher.send(count)
  }

  async #join(name: 'slow' | 'frozen'): Promise<void> {
    const peer = name === 'slow' ? new Slow(this.#port) : new Peer(this.#port)
    this.#world.idle.push(peer)
    await peer.connect(name)
    await peer.subscribe([floodFilter], 1)
    if (name === 'frozen') peer.socket.pause()
    peer.onLost = () => {
      if (this.#over) return
      this.ended++
      setTimeout(() => {
        if (!this.#over) this.#join(name).catch(() => undefined)
      }, againMs) // a broker that is gone shows elsewhere
    }
  }

  stop(): void {
    this.#over = true
    clearInterval(this.#timer)
  }
}

export async function overload(world: World, pattern: Overload): Promise<LoadAnswer> {
  const {
    ports: [near, far],
    payloadBytes,
    brokerPids,
    warmMs,
    windowMs,
  } = world.order
  const away = (pattern.across ? far : near)!
  const publisher = new Publisher(near!, {
    index: 0,
    topic: 'bench/healthy',
    qos: 1,
    fan: 1,
    payloadBytes,
    aheadMax: Infinity,
  })
  const subscriber = new Subscriber(away, [publisher], world.came)
  world.publishers.push(publisher)
  world.subscribers.push(subscriber)
  await subscriber.connect('healthy-subscriber')
  await subscriber.subscribe(['bench/healthy'], 1)
  await publisher.connect('healthy-publisher')
  world.watch(publisher, subscriber)
  const stopPace = pace([publisher], pattern.rate, [])
  await world.wait(2 * warmMs)
  const without: number[] = (subscriber.latencies = [])
  await world.window()
  subscriber.latencies = undefined
  const flood = new Flood(world, pattern, near!, away)
  const rss = (): number => brokerPids.reduce((sum, pid) => sum + (rssBytes(pid) ?? 0), 0) / 2 ** 20
  const before = rss()
  await flood.start()
  const sentBefore = flood.publishers.reduce((sum, { sent }) => sum + sent, 0)
  const during: number[] = (subscriber.latencies = [])
  const window = await world.window(windows * windowMs)
  subscriber.latencies = undefined
  const growthMiB = rss() - before
  const flooded = flood.publishers.reduce((sum, { sent }) => sum + sent, 0) - sentBefore
  flood.stop()
  stopPace()
  const settled = await world.settle()
  return world.answer(world.stuck ? 'stalled' : settled, {
    ...(window && { window }),
    ...(window &&
      without.length > 0 &&
      during.length > 0 && {
        overload: {
          p99Without: quantilesOf(without).p99,
          p99With: quantilesOf(during).p99,
          growthMiB,
          floodMBPerSecond: (flooded * pattern.floodPayloadBytes) / 1e6 / window.seconds,
          ended: flood.ended,
        },
      }),
  })
}
