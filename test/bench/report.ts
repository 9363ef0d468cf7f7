// The Markdown of a benchmark: a head that says what ran where, a table for each kind of pattern, and the
// budgets.
import type { Machine } from './proc.ts'
import { patterns, shapeNames } from './patterns.ts'
import type { Figure, Spread, Summary } from './statistics.ts'
import type { Verdict } from './budgets.ts'

export interface Head {
  readonly date: string
  readonly command: string
  readonly machine: Machine
  /** Program or package → version. */
  readonly versions: Readonly<Record<string, string>>
  readonly settings: object
}

/** Three significant digits, thousands apart. */
export function digits(value: number): string {
  if (value === 0) return '0'
  const places = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))))
  return Number(value.toPrecision(3)).toLocaleString('en-US', {
    minimumFractionDigits: Math.min(places, 3),
    maximumFractionDigits: Math.min(places, 3),
  })
}

export function spreadText(value: Spread | undefined): string {
  if (value === undefined) return '–'
  return value.min === value.max
    ? digits(value.median)
    : `${digits(value.median)} (${digits(value.min)}–${digits(value.max)})`
}

const timesText = (value: number | undefined): string => (value === undefined ? '–' : `${digits(value)}x`)
const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('\n', ' ')

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.map(cell).join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

/** Lost of what was due; and what should not be there at all. */
function lossText({ lost, due, duplicates, misordered, wrongQos }: Summary): string {
  const extra = (
    [
      [duplicates, 'twice'],
      [misordered, 'misordered'],
      [wrongQos, 'with wrong QoS'],
    ] as const
  )
    .filter(([count]) => count > 0)
    .map(([count, what]) => `${digits(count)} ${what}`)
  const loss =
    lost === 0
      ? '0'
      : `${lost.toLocaleString('en-US')} of ${due.toLocaleString('en-US')} (${digits((100 * lost) / due)} %)`
  return [loss, ...extra].join(', ')
}

type Column = readonly [head: string, of: (summary: Summary) => string]

const figure = (head: string, name: Figure): Column => [head, ({ figures }) => spreadText(figures[name])]
const cost: readonly Column[] = [figure('CPU µs/msg', 'cpuMicros'), figure('brokers only', 'brokerMicros')]
const against: readonly Column[] = [
  ['vs stock', ({ timesStock }) => timesText(timesStock)],
  ['vs Mosquitto', ({ timesMosquitto }) => timesText(timesMosquitto)],
]
const troubles: Column = ['trouble', ({ troubles }) => troubles.join('; ')]
const tail: readonly Column[] = [
  ['lost', lossText],
  figure('peak RSS MiB', 'peakRssMiB'),
  figure('load cores', 'loadCores'),
  figure('others', 'othersCores'),
  troubles,
]

interface Section {
  readonly title: string
  readonly about: string
  readonly takes: (pattern: string) => boolean
  readonly columns: readonly Column[]
}

const isLatency = (name: string): boolean => name.startsWith('qos1-latency')
const sections: readonly Section[] = [
  {
    title: 'Fleets: many connections, few messages each',
    takes: (name) => shapeNames.includes(name) && !name.startsWith('storm') && !name.startsWith('conn'),
    about:
      'At a fixed rate, whatever comes back. CPU is of all broker processes and Redis, for each delivered message; ms from the write of the PUBLISH to its arrival.',
    columns: [
      figure('msg/s', 'perSecond'),
      ...cost,
      figure('p50', 'p50'),
      figure('p99', 'p99'),
      figure('max', 'latencyMax'),
      ['vs Mosquitto', ({ timesMosquitto }) => timesText(timesMosquitto)],
      ...tail,
    ],
  },
  {
    title: 'Connects',
    takes: (name) => name.startsWith('conn'),
    about:
      'CONNECT and SUBSCRIBE of clients that come: CPU of all broker processes and Redis for each, without what they take while nobody comes (`idle µs/s`); ms from the time that it was due to SUBACK.',
    columns: [
      figure('clients/s', 'perSecond'),
      figure('CPU µs/client', 'cpuMicros'),
      figure('brokers only', 'brokerMicros'),
      figure('idle µs/s', 'idleMicros'),
      figure('p50', 'p50'),
      figure('p99', 'p99'),
      figure('max', 'latencyMax'),
      ['vs Mosquitto', ({ timesMosquitto }) => timesText(timesMosquitto)],
      figure('peak RSS MiB', 'peakRssMiB'),
      figure('load cores', 'loadCores'),
      figure('others', 'othersCores'),
      troubles,
    ],
  },
  {
    title: 'A storm',
    takes: (name) => name.startsWith('storm') && !name.startsWith('storm-logins'),
    about:
      'Seconds from the moment that all come back (kill -9 of their node) until the last has its CONNACK, and until the last has what waited for it; ms from CONNECT to CONNACK; p99 in ms of a QoS 1 pair of others, before and during.',
    columns: [
      figure('connected s', 'stormConnected'),
      figure('drained s', 'stormDrained'),
      figure('CONNACK p50', 'resumeP50'),
      figure('p99', 'resumeP99'),
      figure('others p99 before', 'stormP99Before'),
      figure('during', 'stormP99During'),
      figure('sessions gone', 'sessionsGone'),
      ['lost', lossText],
      troubles,
    ],
  },
  {
    title: 'A storm of logins',
    takes: (name) => name.startsWith('storm-logins'),
    about:
      'Clients that connect: for the first time, back at the same node when all connections broke, and at another node (theirs was killed) that knows none of them: logins a second, and CPU µs of that node and Redis for each. Pings are of another client at that node, ms (p99 without the first time). `told`: how often one was told to come again; `asked`: how often the webhook was asked, each time.',
    columns: [
      figure('first/s', 'loginsFirst'),
      figure('µs', 'loginsFirstMicros'),
      figure('back/s', 'loginsBack'),
      figure('µs', 'loginsBackMicros'),
      figure('elsewhere/s', 'loginsElsewhere'),
      figure('µs', 'loginsElsewhereMicros'),
      figure('ping p99', 'loginsPingP99'),
      figure('max', 'loginsPingMax'),
      figure('told', 'loginsTold'),
      figure('asked first', 'askedFirst'),
      figure('back', 'askedBack'),
      figure('elsewhere', 'askedElsewhere'),
      troubles,
    ],
  },
  {
    title: 'Throughput at saturation',
    takes: (name) => name.startsWith('qos') && !isLatency(name),
    about:
      'msg/s is delivered messages. CPU is of all broker processes and Redis. `vs`: messages per CPU second, more is better.',
    columns: [figure('msg/s', 'perSecond'), ...cost, ...against, ...tail],
  },
  {
    title: 'Latency, ms',
    takes: isLatency,
    about: 'From the write of the PUBLISH to its arrival, at a fixed rate, whatever comes back.',
    columns: [
      figure('p50', 'p50'),
      figure('p99', 'p99'),
      figure('max', 'latencyMax'),
      figure('msg/s', 'perSecond'),
      ...cost,
      ...tail,
    ],
  },
  {
    title: 'QoS 1 beside QoS 0',
    takes: (name) => name.startsWith('mixed'),
    about: 'Counts are of the QoS 1 messages, over all rounds.',
    columns: [
      ['sent', ({ sent }) => sent.toLocaleString('en-US')],
      ['acknowledged', ({ acknowledged }) => acknowledged.toLocaleString('en-US')],
      ['delivered', ({ acknowledged, lost }) => (acknowledged - lost).toLocaleString('en-US')],
      ...tail,
    ],
  },
  {
    title: 'Idle filters',
    takes: (name) => name === 'idle-filters',
    about:
      'CPU of a QoS 0 message across nodes, without 10,000 idle wildcard filters at the other node and with them: five windows in turn.',
    columns: [
      figure('µs/msg without', 'withoutMicros'),
      figure('µs/msg with', 'cpuMicros'),
      figure('cost', 'filtersCost'),
      figure('msg/s', 'perSecond'),
      ...tail,
    ],
  },
  {
    title: 'Idle connections',
    takes: (name) => name === 'idle-connections',
    about:
      'Growth of resident memory of all brokers for each of 2,000 connections with one subscription, and how fast they came.',
    columns: [
      figure('bytes each', 'bytesEach'),
      figure('Redis bytes each', 'redisBytesEach'),
      figure('connects/s', 'connectsPerSecond'),
      figure('peak RSS MiB', 'peakRssMiB'),
      troubles,
    ],
  },
  {
    title: 'Overload',
    takes: (name) => name.startsWith('overload'),
    about:
      "p99 of a healthy QoS 1 pair, ms, without and with a flood of at most 16 MB/s to a subscriber that reads slowly and one that reads nothing; growth of the brokers' resident memory while it goes on; how often the broker ended one of the two.",
    columns: [
      figure('p99 without', 'p99Without'),
      figure('p99 with', 'p99With'),
      figure('ratio', 'overloadRatio'),
      figure('RSS growth MiB', 'growthMiB'),
      figure('flood MB/s taken', 'floodMBPerSecond'),
      figure('ended', 'floodEnded'),
      ...tail,
    ],
  },
  {
    title: 'Failover',
    takes: (name) => name === 'failover',
    about:
      'ms from CONNECT to CONNACK at another node of 50 clients whose node was killed, all at once, the connecting of the socket included. What comes twice is sent again, as QoS 1 may be.',
    columns: [
      figure('p50', 'resumeP50'),
      figure('p99', 'resumeP99'),
      figure('max', 'resumeMax'),
      figure('sessions gone', 'sessionsGone'),
      ['acknowledged', ({ acknowledged }) => acknowledged.toLocaleString('en-US')],
      ['lost', lossText],
      troubles,
    ],
  },
  {
    title: 'A million subscriptions, a million Retained Messages',
    takes: (name) => name.startsWith('many'),
    about:
      'A node that starts among them, its memory for each, and wildcard SUBSCRIBEs with 100 matches: ms to the last of them.',
    columns: [
      figure('start s', 'startSeconds'),
      figure('bytes each', 'startBytesEach'),
      figure('SUBSCRIBE p50', 'wildcardP50'),
      figure('p99', 'wildcardP99'),
      figure('max', 'wildcardMax'),
      figure('missing', 'wildcardMissing'),
      troubles,
    ],
  },
]

function headText({ date, command, machine, versions, settings }: Head): string {
  return [
    '# Benchmark',
    '',
    `- ${date}, \`${command}\``,
    `- ${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, Linux ${machine.kernel}`,
    `- ${Object.entries(versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(', ')}`,
    `- ${Object.entries(settings)
      .map(([name, value]) => `${name} ${String(value)}`)
      .join(', ')}`,
  ].join('\n')
}

export function markdown(head: Head, summaries: readonly Summary[], verdicts: readonly Verdict[]): string {
  const order = patterns.map(({ name }) => name)
  const parts = sections.flatMap(({ title, about, takes, columns }) => {
    const rows = summaries
      .filter(({ pattern }) => takes(pattern))
      .sort((a, b) => order.indexOf(a.pattern) - order.indexOf(b.pattern))
    if (rows.length === 0) return []
    return [
      `## ${title}\n\n${about}\n\n${table(
        ['pattern', 'system', ...columns.map(([name]) => name)],
        rows.map((row) => [row.pattern, row.system, ...columns.map(([, of]) => of(row))]),
      )}`,
    ]
  })
  if (verdicts.length > 0) {
    parts.push(
      `## Budgets\n\n${table(
        ['budget', 'wanted', 'measured', ''],
        verdicts.map(({ budget, wanted, measured, met }) => [
          budget,
          wanted,
          digits(measured),
          met ? 'met' : 'MISSED',
        ]),
      )}`,
    )
  }
  return [headText(head), ...parts].join('\n\n') + '\n'
}
