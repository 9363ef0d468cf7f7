// `--paired`: this build against another, where a shared machine's moods are larger than what is looked for. Both
// systems live at the same time, each with its clients; short windows alternate between them, one flows while the
// other rests, and each window is compared with its neighbour. What is reported is the median of those ratios, with
// the quarters. State: this process, which is the load as well.
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import type { Settings } from './flags.ts'
import { patterns, type Throughput } from './patterns.ts'
import { flow, people } from './people.ts'
import { digits } from './report.ts'
import { Running, systems, type System } from './systems.ts'
import { World } from './world.ts'

/** Of one pair of neighbours. */
const windowMs = 250
/** Each system flows so long before anything is measured: V8 has compiled what is hot by then. */
const warmMs = 4_000
/** In flight when a window ends: it is delivered before the other system's begins. */
const restMs = 20

/** CPU time of all threads of a process so far, microseconds; finer than the ticks of /proc/PID/stat. */
const cpuMicroseconds = (pid: number): number =>
  readdirSync(`/proc/${pid}/task`).reduce((sum, task) => {
    const [nanoseconds = '0'] = readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')
    return sum + Number(nanoseconds) / 1_000
  }, 0)

class Side {
  readonly name: string
  readonly #running: Running
  readonly #world: World

  constructor(name: string, running: Running, world: World) {
    this.name = name
    this.#running = running
    this.#world = world
  }

  static async start(system: System, pattern: Throughput, settings: Settings, folder: string): Promise<Side> {
    const running = await Running.start(system, `${folder}/${system.name}`, settings.fsync, pattern.nodes)
    const world = new World({
      pattern,
      payloadBytes: pattern.payloadBytes ?? settings.payload,
      warmMs,
      windowMs,
      ports: running.nodes.map(({ port }) => port),
      brokerPids: [],
      redisPid: undefined,
      redisPort: running.redis?.port,
    })
    await people(world, pattern)
    return new Side(system.name, running, world)
  }

  #cpu(): number {
    const { nodes, redis } = this.#running
    return [...nodes, ...(redis === undefined ? [] : [redis])].reduce(
      (sum, { child }) => sum + cpuMicroseconds(child.pid),
      0,
    )
  }

  /** CPU microseconds of nodes and Redis for a delivered message, within one window and what it leaves behind. */
  async window(ms = windowMs): Promise<number> {
    const [cpu, delivered] = [this.#cpu(), this.#world.delivered()]
    flow(this.#world, true)
    await delay(ms)
    flow(this.#world, false)
    await this.#world.settle()
    await delay(restMs)
    if (this.#world.lost !== undefined) throw new Error(`${this.name}: ${this.#world.lost}`)
    return (this.#cpu() - cpu) / (this.#world.delivered() - delivered)
  }

  async end(): Promise<void> {
    this.#world.end()
    await this.#running[Symbol.asyncDispose]()
  }
}

/** @param part 0 to 1 */
const quantile = (sorted: readonly number[], part: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))]!

const sorted = (values: readonly number[]): number[] => [...values].sort((a, b) => a - b)

async function compare(one: Side, other: Side, pairs: number): Promise<string> {
  for (const side of [one, other]) await side.window(warmMs)
  const [mine, theirs, ratios]: [number[], number[], number[]] = [[], [], []]
  for (let i = 0; i < pairs; i++) {
    // each goes first as often as the other
    const [first, second] = i % 2 === 0 ? [one, other] : [other, one]
    const [a, b] = [await first.window(), await second.window()]
    const [ours, before] = i % 2 === 0 ? [a, b] : [b, a]
    mine.push(ours)
    theirs.push(before)
    ratios.push(ours / before)
  }
  const quarter = (part: number): string => quantile(sorted(ratios), part).toFixed(3)
  const micros = (values: readonly number[]): string => digits(quantile(sorted(values), 0.5))
  return `${micros(mine)} | ${micros(theirs)} | **${quarter(0.5)}** (${quarter(0.25)}–${quarter(0.75)}) | ${pairs}`
}

/** @returns a table, a row for each pattern and other build */
export async function paired(settings: Settings, folder: string): Promise<string> {
  const ours = systems.find(({ name }) => name === settings.systems[0])!
  const rows = [
    `| pattern | ${ours.name}, µs/msg | the other, µs/msg | ratio: median (quarters) | pairs |`,
    '| --- | --- | --- | --- | --- |',
  ]
  for (const pattern of patterns.filter(({ name }) => settings.patterns.includes(name))) {
    if (pattern.kind !== 'throughput' || pattern.rate > 0) continue
    for (const other of settings.further) {
      const sides: Side[] = []
      try {
        for (const system of [ours, other]) sides.push(await Side.start(system, pattern, settings, folder))
        const [one, two] = sides as [Side, Side]
        rows.push(`| ${pattern.name} | ${await compare(one, two, settings.rounds)} |`)
        process.stderr.write(`${other.name} ${rows.at(-1)}\n`)
      } finally {
        for (const side of sides) await side.end()
      }
    }
  }
  return rows.join('\n') + '\n'
}
