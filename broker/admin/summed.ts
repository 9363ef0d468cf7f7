// The metrics of several workers as one text of Prometheus' format. Counters and histograms are summed, and
// never go back: what a worker had counted when it was last asked is carried on when it ends, or Prometheus
// would take the smaller sum for a restart of all. Gauges are summed as well; where a sum means nothing, the
// largest or smallest is shown.

type Kind = 'counter' | 'gauge' | 'histogram' | 'summary' | 'untyped'
type Pick = (values: readonly number[]) => number

const sum: Pick = (values) => values.reduce((all, value) => all + value, 0)
const largest: Pick = (values) => Math.max(...values)
const smallest: Pick = (values) => Math.min(...values)

/** Gauges that are not summed: by the beginning of their names. */
const picks: readonly (readonly [string, Pick])[] = [
  ['aedes_cluster_nodes', largest],
  ['aedes_cluster_group_backlog', largest],
  ['aedes_cluster_waiting_seconds', largest],
  ['aedes_cluster_store_up', smallest],
  ['aedes_cluster_store_probe_seconds', largest],
  ['aedes_cluster_retained_topics', largest],
  ['nodejs_eventloop_lag', largest],
  ['nodejs_version_info', largest],
  ['process_start_time_seconds', smallest],
]

interface Family {
  readonly head: string
  readonly kind: Kind
}

/** What one worker said, by series: `name{labels}` → value. */
interface Said {
  readonly counted: ReadonlyMap<string, number>
  readonly measured: ReadonlyMap<string, number>
}

export class SummedMetrics {
  /** In the order in which they are shown. */
  readonly #families = new Map<string, Family>()
  readonly #familyOf = new Map<string, string>()
  readonly #said = new Map<object, Said>()
  /** What workers that have ended had counted. */
  readonly #carried = new Map<string, number>()
  readonly #ended = new WeakSet<object>()

  /** @param worker one process of it: what it says after it has ended is not heard */
  heard(worker: object, text: string): void {
    if (!this.#ended.has(worker)) this.#said.set(worker, this.#read(text))
  }

  ended(worker: object): void {
    this.#ended.add(worker)
    for (const [series, value] of this.#said.get(worker)?.counted ?? [])
      this.#carried.set(series, (this.#carried.get(series) ?? 0) + value)
    this.#said.delete(worker)
  }

  /** @param answering whose gauges are shown; counters are those of all */
  text(answering: readonly object[]): string {
    const values = new Map<string, number[]>()
    const add = (of: Iterable<readonly [string, number]>): void => {
      for (const [series, value] of of) {
        const known = values.get(series)
        if (known === undefined) values.set(series, [value])
        else known.push(value)
      }
    }
    add(this.#carried)
    for (const [worker, { counted, measured }] of this.#said) {
      add(counted)
      if (answering.includes(worker)) add(measured)
    }
    const lines = new Map<string, string[]>([...this.#families.keys()].map((name) => [name, []]))
    for (const [series, all] of values) {
      const name = this.#familyOf.get(series)!
      const pick =
        this.#families.get(name)!.kind === 'gauge'
          ? (picks.find(([begin]) => name.startsWith(begin))?.[1] ?? sum)
          : sum
      lines.get(name)!.push(`${series} ${printed(pick(all))}`)
    }
    return [...this.#families]
      .map(([name, { head }]) => [head, ...lines.get(name)!].join('\n') + '\n')
      .join('\n')
  }

  #read(text: string): Said {
    const counted = new Map<string, number>()
    const measured = new Map<string, number>()
    let help = ''
    let name = ''
    for (const line of text.split('\n')) {
      if (line.startsWith('# HELP ')) help = line
      else if (line.startsWith('# TYPE ')) {
        const [, , family = '', kind] = line.split(' ')
        name = family
        if (!this.#families.has(name))
          this.#families.set(name, { head: `${help}\n${line}`, kind: kind as Kind })
      } else if (line !== '') {
        const end = line.lastIndexOf(' ')
        const series = line.slice(0, end)
        this.#familyOf.set(series, name)
        const of = this.#families.get(name)!.kind === 'gauge' ? measured : counted
        of.set(series, numberOf(line.slice(end + 1)))
      }
    }
    return { counted, measured }
  }
}

const numberOf = (text: string): number =>
  text === '+Inf' ? Infinity : text === '-Inf' ? -Infinity : Number(text)
const printed = (value: number): string =>
  value === Infinity ? '+Inf' : value === -Infinity ? '-Inf' : String(value)
