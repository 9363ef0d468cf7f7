// From runs to figures: each figure of a system in a pattern is the median over its rounds with the smallest
// and largest. Systems are compared by messages per CPU second (brokers and Redis), which a machine with few
// cores distorts least.
import type { RunResult } from './run.ts'

export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
}

/** Undefined when there is no value at all. */
export function spread(values: readonly (number | undefined)[]): Spread | undefined {
  const sorted = values
    .filter((value): value is number => value !== undefined && Number.isFinite(value))
    .sort((a, b) => a - b)
  if (sorted.length === 0) return undefined
  const middle = sorted.length >> 1
  const median = sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
  return { median, min: sorted[0]!, max: sorted.at(-1)! }
}

/** What is derived from one run, or undefined where the run does not have it. */
export const figures = {
  /** Messages delivered per second of the window. */
  perSecond: ({ window }: RunResult) => window && window.delivered / window.seconds,
  /** CPU µs of brokers and Redis per delivered message. */
  cpuMicros: ({ window }: RunResult) => window && (window.cpu.broker + window.cpu.redis) / window.delivered,
  /** CPU µs of the brokers alone per delivered message. */
  brokerMicros: ({ window }: RunResult) => window && window.cpu.broker / window.delivered,
  /** Cores that brokers and Redis kept busy. */
  systemCores: ({ window }: RunResult) =>
    window && (window.cpu.broker + window.cpu.redis) / (window.seconds * 1e6),
  /** Cores that the load process kept busy: near 1, it was the bottleneck. */
  loadCores: ({ window }: RunResult) => window && window.cpu.load / (window.seconds * 1e6),
  /**
   * Cores that something else kept busy, or the host of a virtual machine took: the less, the better the run.
   */
  othersCores: ({ window }: RunResult) =>
    window &&
    Math.max(0, window.cpu.machine - window.cpu.broker - window.cpu.redis - window.cpu.load) /
      (window.seconds * 1e6),
  p50: ({ latency }: RunResult) => latency?.p50,
  p99: ({ latency }: RunResult) => latency?.p99,
  latencyMax: ({ latency }: RunResult) => latency?.max,
  sendLateP99: ({ latency }: RunResult) => latency?.sendLateP99,
  peakRssMiB: ({ peakRssMiB }: RunResult) => peakRssMiB,
  /** CPU µs per message without the idle filters. */
  withoutMicros: ({ without }: RunResult) =>
    without && (without.cpu.broker + without.cpu.redis) / without.delivered,
  /** Cost of a message with the idle filters, relative to without. */
  filtersCost: ({ window, without }: RunResult) =>
    window &&
    without &&
    (window.cpu.broker + window.cpu.redis) /
      window.delivered /
      ((without.cpu.broker + without.cpu.redis) / without.delivered),
  bytesEach: ({ connections }: RunResult) => connections?.bytesEach,
  redisBytesEach: ({ connections }: RunResult) => connections?.redisBytesEach,
  connectsPerSecond: ({ connections }: RunResult) => connections?.perSecond,
  p99Without: ({ overload }: RunResult) => overload?.p99Without,
  p99With: ({ overload }: RunResult) => overload?.p99With,
  /** p99 of the healthy pair under overload, relative to without. */
  overloadRatio: ({ overload }: RunResult) => overload && overload.p99With / overload.p99Without,
  growthMiB: ({ overload }: RunResult) => overload?.growthMiB,
  /** What the broker took of the flood. */
  floodMBPerSecond: ({ overload }: RunResult) => overload?.floodMBPerSecond,
  /** How often it ended the connection of a subscriber that did not keep up. */
  floodEnded: ({ overload }: RunResult) => overload?.ended,
  /** CPU of brokers and Redis per second while nobody comes. */
  idleMicros: ({ idleMicros }: RunResult) => idleMicros,
  resumeP50: ({ resume }: RunResult) => resume?.p50,
  resumeP99: ({ resume }: RunResult) => resume?.p99,
  resumeMax: ({ resume }: RunResult) => resume?.max,
  sessionsGone: ({ resume }: RunResult) => resume?.sessionsGone,
  stormConnected: ({ storm }: RunResult) => storm?.connectedSeconds,
  stormDrained: ({ storm }: RunResult) => storm?.drainedSeconds,
  stormP99Before: ({ storm }: RunResult) => storm?.p99Before,
  stormP99During: ({ storm }: RunResult) => storm?.p99During,
  loginsFirst: ({ logins }: RunResult) => logins?.first.perSecond,
  loginsFirstMicros: ({ logins }: RunResult) => logins?.first.cpuMicros,
  loginsBack: ({ logins }: RunResult) => logins?.back.perSecond,
  loginsBackMicros: ({ logins }: RunResult) => logins?.back.cpuMicros,
  loginsElsewhere: ({ logins }: RunResult) => logins?.elsewhere.perSecond,
  loginsElsewhereMicros: ({ logins }: RunResult) => logins?.elsewhere.cpuMicros,
  loginsPingP99: ({ logins }: RunResult) => logins && Math.max(logins.back.pingP99, logins.elsewhere.pingP99),
  loginsPingMax: ({ logins }: RunResult) =>
    logins && Math.max(logins.first.pingMax, logins.back.pingMax, logins.elsewhere.pingMax),
  loginsTold: ({ logins }: RunResult) =>
    logins && logins.first.told + logins.back.told + logins.elsewhere.told,
  askedFirst: ({ logins }: RunResult) => logins?.first.asked,
  askedBack: ({ logins }: RunResult) => logins?.back.asked,
  askedElsewhere: ({ logins }: RunResult) => logins?.elsewhere.asked,
  startSeconds: ({ start }: RunResult) => start?.seconds,
  startBytesEach: ({ start }: RunResult) => start?.bytesEach,
  wildcardP50: ({ wildcard }: RunResult) => wildcard?.p50,
  wildcardP99: ({ wildcard }: RunResult) => wildcard?.p99,
  wildcardMax: ({ wildcard }: RunResult) => wildcard?.max,
  wildcardMissing: ({ wildcard }: RunResult) => wildcard?.missing,
} as const satisfies Record<string, (run: RunResult) => number | undefined>

export type Figure = keyof typeof figures

/** One system in one pattern over all rounds. */
export interface Summary {
  readonly pattern: string
  readonly system: string
  readonly runs: number
  /** Every status but a plain `ok`, with its detail, each once. */
  readonly troubles: readonly string[]
  readonly sent: number
  readonly acknowledged: number
  readonly due: number
  readonly lost: number
  readonly duplicates: number
  readonly misordered: number
  readonly wrongQos: number
  readonly figures: Readonly<Partial<Record<Figure, Spread>>>
  /** Messages per CPU second relative to these systems, same pattern, same run of the benchmark. */
  readonly timesStock?: number
  readonly timesMosquitto?: number
}

function summarizeOne(runs: readonly RunResult[]): Summary {
  const sum = (of: (run: RunResult) => number | undefined): number =>
    runs.reduce((total, run) => total + (of(run) ?? 0), 0)
  const troubles = runs
    .filter(({ status, detail }) => status !== 'ok' || detail !== undefined)
    .map(({ status, detail }) => (detail === undefined ? status : `${status}: ${detail}`))
  return {
    pattern: runs[0]!.pattern,
    system: runs[0]!.system,
    runs: runs.length,
    troubles: [...new Set(troubles)],
    sent: sum((run) => run.sent),
    acknowledged: sum((run) => run.acknowledged),
    due: sum((run) => run.due),
    lost: sum((run) => run.lost),
    duplicates: sum((run) => run.duplicates),
    misordered: sum((run) => run.misordered),
    wrongQos: sum((run) => run.wrongQos),
    figures: Object.fromEntries(
      Object.entries(figures)
        .map(([name, of]) => [name, spread(runs.map(of))] as const)
        .filter(([, value]) => value !== undefined),
    ),
  }
}

/** How many times as many messages per CPU second `one` moves as `other`. */
export function times(one: Summary | undefined, other: Summary | undefined): number | undefined {
  const mine = one?.figures.cpuMicros?.median
  const theirs = other?.figures.cpuMicros?.median
  return mine === undefined || theirs === undefined || mine === 0 ? undefined : theirs / mine
}

/** Sorted as the results came first: patterns in order, systems in order within them. */
export function summarize(results: readonly RunResult[]): Summary[] {
  const groups = new Map<string, RunResult[]>()
  for (const result of results) {
    const key = `${result.pattern} ${result.system}`
    groups.set(key, [...(groups.get(key) ?? []), result])
  }
  const all = [...groups.values()].map(summarizeOne)
  return all.map((summary) => {
    const peer = (system: string): Summary | undefined =>
      all.find((other) => other.system === system && other.pattern === summary.pattern)
    const timesStock = summary.system === 'stock' ? undefined : times(summary, peer('stock'))
    const timesMosquitto = summary.system === 'mosquitto' ? undefined : times(summary, peer('mosquitto'))
    return {
      ...summary,
      ...(timesStock !== undefined && { timesStock }),
      ...(timesMosquitto !== undefined && { timesMosquitto }),
    }
  })
}
