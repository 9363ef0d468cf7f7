// Wildcard SUBSCRIBEs among many Retained Messages (B6): published through node 0 like any others. Then,
// where there can be another node, how long one takes to start among them and what it keeps in memory of
// each.
import { orderNode } from './node-order.ts'
import { quantilesOf } from './open-loop.ts'
import type { LoadAnswer, ManyRetained } from './patterns.ts'
import { Peer } from './peers.ts'
import { restingRssBytes } from './proc.ts'
import { encodeRetained } from './wire.ts'
import type { World } from './world.ts'

const publishersCount = 4
const unacknowledgedMax = 500
const answerMs = 10_000
/** SUBSCRIBEs before those that are timed. */
const warm = 10

/** Publishes the topics `from`, `from + step` …, each once. */
class Retainer extends Peer {
  readonly #topics: Iterator<string>
  readonly #payload: Buffer
  #sent = 0
  #acknowledged = 0
  #exhausted = false
  #done: () => void = () => undefined
  readonly done = new Promise<void>((resolve) => {
    this.#done = resolve
  })

  constructor(port: number, topics: Iterator<string>, payloadBytes: number) {
    super(port)
    this.#topics = topics
    this.#payload = Buffer.alloc(payloadBytes, 'r')
  }

  pump(): void {
    const frames: Buffer[] = []
    while (!this.#exhausted && this.#sent - this.#acknowledged < unacknowledgedMax) {
      const next = this.#topics.next()
      if (next.done === true) this.#exhausted = true
      else frames.push(encodeRetained((this.#sent++ % 65_535) + 1, next.value, this.#payload))
    }
    if (frames.length > 0) this.socket.write(Buffer.concat(frames))
    if (this.#exhausted && this.#sent === this.#acknowledged) this.#done()
  }

  override onPuback(): void {
    this.#acknowledged++
  }

  override onChunkEnd(): void {
    if (this.#sent - this.#acknowledged <= unacknowledgedMax / 2) this.pump()
  }
}

/** Counts what comes. */
class Reader extends Peer {
  #left = 0
  #all: () => void = () => undefined

  override onPublish(): void {
    if (--this.#left === 0) this.#all()
  }

  /** Resolves to how many of `count` did not come. */
  async expect(count: number): Promise<number> {
    this.#left = count
    let timer: NodeJS.Timeout | undefined
    await new Promise<void>((resolve) => {
      this.#all = resolve
      timer = setTimeout(resolve, answerMs)
    })
    clearTimeout(timer)
    return this.#left
  }
}

function* topicsOf(side: number): Generator<string> {
  for (let a = 0; a < side; a++)
    for (let b = 0; b < side; b++) for (let c = 0; c < side; c++) yield `bench/${a}/${b}/${c}`
}

/** A wildcard at the first, second, third level in turn. */
function filterOf(n: number, side: number): string {
  const levels = [(n * 7) % side, (n * 13) % side, (n * 29) % side].map(String)
  levels[n % 3] = '+'
  return `bench/${levels.join('/')}`
}

async function publishAll(world: World, { side }: ManyRetained): Promise<void> {
  const topics = topicsOf(side)
  for (let i = 0; i < publishersCount; i++)
    world.idle.push(
      await new Retainer(world.order.ports[0]!, topics, world.order.payloadBytes).connect(`retainer-${i}`),
    )
  world.watch(...world.idle)
  const retainers = world.idle as Retainer[]
  for (const retainer of retainers) retainer.pump()
  await Promise.race([Promise.all(retainers.map(({ done }) => done)), world.whenLost])
  if (world.lost !== undefined) throw new Error(world.lost)
}

/** ms from SUBSCRIBE to the last message, by a new client each time. */
async function subscribeAll(
  port: number,
  { side, subscribes }: ManyRetained,
): Promise<{ times: number[]; missing: number }> {
  const times: number[] = []
  let missing = 0
  for (let n = 0; n < warm + subscribes; n++) {
    const reader = await new Reader(port).connect(`reader-${n}`)
    const begun = performance.now()
    const [left] = await Promise.all([reader.expect(side), reader.subscribe([filterOf(n, side)], 1)])
    if (n >= warm) times.push(performance.now() - begun)
    missing += left
    reader.end()
  }
  return { times, missing }
}

export async function manyRetained(world: World, pattern: ManyRetained): Promise<LoadAnswer> {
  const {
    brokerPids: [emptyPid],
    ports: [port],
    redisPort,
  } = world.order
  const empty = redisPort === undefined ? NaN : await restingRssBytes(emptyPid!)
  await publishAll(world, pattern)
  const { times, missing } = await subscribeAll(port!, pattern)
  const more = { wildcard: { ...quantilesOf(times), missing } }
  if (redisPort === undefined) return world.answer('ok', more)
  const { pid, seconds } = await orderNode('start', 1)
  return world.answer('ok', {
    ...more,
    start: { seconds, bytesEach: ((await restingRssBytes(pid)) - empty) / pattern.side ** 3 },
  })
}
