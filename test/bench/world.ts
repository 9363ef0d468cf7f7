// The clients of one run and the watch over them: samples of what was delivered and what it cost, at window
// borders and ten times a second (the last sample is what remains of a system that dies), whether anything
// still moves, and the final count. State: this process, for one run.
import { setTimeout as delay } from 'node:timers/promises'
import type { Cpu, LoadAnswer, LoadOrder, Window } from './patterns.ts'
import type { Peer, Publisher, Subscriber } from './peers.ts'
import { cpuMicroseconds, machineMicroseconds, peakRssBytes } from './proc.ts'

const sampleMs = 100
/** Nothing delivered for so long: what is missing will not come. */
const quietMs = 2_000
const settleMs = 15_000

interface Sample {
  readonly time: number
  readonly delivered: number
  readonly cpu: Cpu
}

export const windowBetween = (first: Sample, last: Sample): Window => ({
  seconds: (last.time - first.time) / 1000,
  delivered: last.delivered - first.delivered,
  cpu: {
    broker: last.cpu.broker - first.cpu.broker,
    redis: last.cpu.redis - first.cpu.redis,
    load: last.cpu.load - first.cpu.load,
    machine: last.cpu.machine - first.cpu.machine,
  },
})

type Counts = Pick<
  LoadAnswer,
  'sent' | 'acknowledged' | 'due' | 'lost' | 'duplicates' | 'misordered' | 'wrongQos'
>

export class World {
  readonly order: LoadOrder
  readonly publishers: Publisher[] = []
  readonly subscribers: Subscriber[] = []
  /** Connected, but quiet. */
  readonly idle: Peer[] = []
  /** Why the run cannot go on. */
  lost: string | undefined
  /** Nothing was delivered in the later half of a window. */
  stuck = false
  #onLost: () => void = () => undefined
  /** Settles when it is. */
  readonly whenLost = new Promise<void>((resolve) => {
    this.#onLost = resolve
  })
  readonly #timer: NodeJS.Timeout
  #samples: Sample[] = []
  #peakRss = new Map<number, number>()
  #ticks = 0
  #pumpSoon = false

  constructor(order: LoadOrder) {
    this.order = order
    this.#timer = setInterval(() => this.#tick(), sampleMs)
  }

  get peakRssMiB(): number {
    return [...this.#peakRss.values()].reduce((sum, bytes) => sum + bytes, 0) / 2 ** 20
  }

  /** All watched peers must stay connected; the first that does not ends the run. */
  watch(...peers: readonly Peer[]): void {
    for (const peer of peers) {
      peer.onLost = () => {
        this.lost ??= 'a connection was closed by the broker'
        this.#onLost()
      }
    }
  }

  /** Subscribers call it; publishers go on once in the turn, however many subscribers got something. */
  readonly came = (): void => {
    if (this.#pumpSoon) return
    this.#pumpSoon = true
    setImmediate(() => {
      this.#pumpSoon = false
      for (const publisher of this.publishers) publisher.pump()
    })
  }

  delivered(): number {
    return this.subscribers.reduce((sum, subscriber) => sum + subscriber.delivered, 0)
  }

  #tick(): void {
    this.sample()
    if (++this.#ticks % 5 !== 0) return
    for (const publisher of this.publishers) {
      publisher.forgive()
      publisher.pump()
    }
  }

  /** Undefined when a process whose cost counts is gone. */
  sample(): Sample | undefined {
    const { brokerPids, redisPid } = this.order
    const broker = brokerPids.map(cpuMicroseconds)
    const redis = redisPid === undefined ? 0 : cpuMicroseconds(redisPid)
    for (const pid of brokerPids) this.#peakRss.set(pid, peakRssBytes(pid) ?? this.#peakRss.get(pid) ?? 0)
    if (redis === undefined || broker.includes(undefined)) return undefined
    const load = process.cpuUsage()
    const sample: Sample = {
      time: performance.now(),
      delivered: this.delivered(),
      cpu: {
        broker: (broker as number[]).reduce((sum, micros) => sum + micros, 0),
        redis,
        load: load.user + load.system,
        machine: machineMicroseconds(),
      },
    }
    this.#samples.push(sample)
    return sample
  }

  /** Waits, but not for a run that is lost. */
  async wait(ms: number): Promise<void> {
    if (this.lost === undefined) await Promise.race([delay(ms), this.whenLost])
  }

  /**
   * One window, of the ordered length unless told otherwise, or of what there is of it when the system dies
   * in it.
   */
  async window(ms = this.order.windowMs): Promise<Window | undefined> {
    this.#samples = []
    const first = this.sample()
    await this.wait(ms)
    if (this.lost === undefined) this.sample()
    const last = this.#samples.at(-1)
    if (first === undefined || last === undefined || last.time - first.time < sampleMs) return undefined
    const middle = this.#samples.findLast(({ time }) => time <= (first.time + last.time) / 2)
    this.stuck ||= middle?.delivered === last.delivered
    return windowBetween(first, last)
  }

  /**
   * Waits until all that is due was delivered or nothing more comes. `incomplete`: it still came at the
   * deadline.
   */
  async settle(complete: () => boolean = () => this.#complete()): Promise<'ok' | 'incomplete'> {
    const deadline = performance.now() + settleMs
    let moved = performance.now()
    let before = -1
    while (this.lost === undefined && !complete()) {
      const now = performance.now()
      const movement = this.delivered() + this.#acknowledged()
      if (movement !== before) {
        before = movement
        moved = now
      } else if (now - moved > quietMs) return 'ok'
      if (now > deadline) return 'incomplete'
      await this.wait(10)
    }
    return 'ok'
  }

  #acknowledged(of: readonly Publisher[] = this.publishers): number {
    return of.reduce((sum, publisher) => sum + publisher.acknowledged.size, 0)
  }

  #complete(): boolean {
    const sent = this.publishers.reduce((sum, { sent, options: { fan } }) => sum + sent * fan, 0)
    const qos1 = this.publishers.filter(({ options: { qos } }) => qos === 1)
    return this.delivered() === sent && qos1.every(({ sent, acknowledged }) => acknowledged.size === sent)
  }

  /** What became of the messages of `of`; duplicates, misordered and wrong ones are of all. */
  count(of: readonly Publisher[] = this.publishers): Counts {
    const sum = (of: (subscriber: Subscriber) => number): number =>
      this.subscribers.reduce((total, subscriber) => total + of(subscriber), 0)
    return {
      sent: of.reduce((total, { sent }) => total + sent, 0),
      acknowledged: this.#acknowledged(of),
      due: of.reduce(
        (total, { sent, acknowledged, options: { qos, fan } }) =>
          total + (qos === 0 ? sent : acknowledged.size) * fan,
        0,
      ),
      lost: sum((subscriber) => subscriber.lost(of)),
      duplicates: sum((subscriber) => subscriber.duplicates),
      misordered: sum((subscriber) => subscriber.misordered),
      wrongQos: sum((subscriber) => subscriber.wrongQos),
    }
  }

  answer(status: LoadAnswer['status'], more: Partial<LoadAnswer>): LoadAnswer {
    const lost = this.lost === undefined ? {} : { status: 'disconnected' as const, detail: this.lost }
    return { status, ...this.count(), peakRssMiB: this.peakRssMiB, ...more, ...lost }
  }

  end(): void {
    clearInterval(this.#timer)
    for (const peer of [...this.publishers, ...this.subscribers, ...this.idle]) peer.end()
  }
}
