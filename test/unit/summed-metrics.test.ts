// Metrics of several workers as one text: what is summed, what is not, and that no counter ever goes back.
import { expect, test } from 'vitest'
import { SummedMetrics } from '../../broker/admin/summed.ts'

const text = (
  connects: number,
  clients: number,
  storeUp: number,
  lag: number,
): string => `# HELP c_total connects
# TYPE c_total counter
c_total{cause="a b"} ${connects}

# HELP clients connected
# TYPE clients gauge
clients ${clients}

# HELP aedes_cluster_store_up up
# TYPE aedes_cluster_store_up gauge
aedes_cluster_store_up ${storeUp}

# HELP nodejs_eventloop_lag_seconds lag
# TYPE nodejs_eventloop_lag_seconds gauge
nodejs_eventloop_lag_seconds ${lag}

# HELP max descriptors
# TYPE max gauge
max +Inf

# HELP took a histogram
# TYPE took histogram
took_bucket{le="+Inf"} ${connects}
took_sum ${connects / 2}
took_count ${connects}
`

const valuesOf = (all: string): Record<string, string> =>
  Object.fromEntries(
    all
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#'))
      .map((line) => [line.slice(0, line.lastIndexOf(' ')), line.slice(line.lastIndexOf(' ') + 1)]),
  )

test('sums, except where a sum means nothing; heads once', () => {
  const metrics = new SummedMetrics()
  const [a, b] = [{}, {}]
  metrics.heard(a, text(3, 10, 1, 0.25))
  metrics.heard(b, text(4, 5, 0, 0.5))
  const all = metrics.text([a, b])
  expect(valuesOf(all)).toEqual({
    'c_total{cause="a b"}': '7',
    clients: '15',
    aedes_cluster_store_up: '0',
    nodejs_eventloop_lag_seconds: '0.5',
    max: '+Inf',
    'took_bucket{le="+Inf"}': '7',
    took_sum: '3.5',
    took_count: '7',
  })
  expect(all.match(/# TYPE c_total counter\n/g)).toHaveLength(1)
  expect(all.indexOf('# TYPE took')).toBeLessThan(all.indexOf('took_sum'))
})

test('counters do not go back: a worker ends, its next process begins at 0, a late answer of the old one is not heard', () => {
  const metrics = new SummedMetrics()
  const [a, b, next] = [{}, {}, {}]
  metrics.heard(a, text(3, 10, 1, 0))
  metrics.heard(b, text(4, 5, 1, 0))
  metrics.ended(b)
  metrics.heard(b, text(5, 5, 1, 0))
  expect(valuesOf(metrics.text([a]))).toMatchObject({ 'c_total{cause="a b"}': '7', clients: '10' })
  metrics.heard(next, text(0, 1, 1, 0))
  expect(valuesOf(metrics.text([a, next]))).toMatchObject({ 'c_total{cause="a b"}': '7', clients: '11' })
  metrics.heard(next, text(2, 1, 1, 0))
  expect(
    valuesOf(metrics.text([next])),
    'one that does not answer counts, but measures nothing',
  ).toMatchObject({ 'c_total{cause="a b"}': '9', clients: '1' })
})
