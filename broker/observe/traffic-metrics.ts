// What Prometheus sees of the traffic of a node (traffic.ts): read when it asks. State: none of its own.
import { Counter, Histogram, type MetricObjectWithValues, type MetricValue, type Registry } from 'prom-client'
import { PacketType } from '../protocol/control-packets.ts'
import type { Latency, Traffic } from './traffic.ts'

const types = Object.entries(PacketType)

/** A histogram that somebody else has counted. */
class LatencyHistogram extends Histogram {
  readonly #latency: Latency
  readonly #about: { readonly name: string; readonly help: string }

  constructor(latency: Latency, registry: Registry, about: { readonly name: string; readonly help: string }) {
    super({ ...about, registers: [registry] })
    this.#latency = latency
    this.#about = about
  }

  override get(): Promise<MetricObjectWithValues<MetricValue<string>>> {
    const { name, help } = this.#about
    const { buckets, sum, count } = this.#latency.seconds
    const values = [
      ...buckets.map(({ le, count: value }) => ({
        labels: { le: le === Infinity ? '+Inf' : le },
        value,
        metricName: `${name}_bucket`,
      })),
      { labels: {}, value: sum, metricName: `${name}_sum` },
      { labels: {}, value: count, metricName: `${name}_count` },
    ]
    return Promise.resolve({ name, help, type: 'histogram', aggregator: 'sum', values } as never)
  }

  /** What the registry asks for, in this version of prom-client. */
  getForPromString(): Promise<MetricObjectWithValues<MetricValue<string>>> {
    return this.get()
  }
}

/** Adds what is counted of `traffic` to a registry. */
export function showTraffic(traffic: Traffic, registry: Registry): void {
  const counter = (
    name: string,
    help: string,
    values: () => Iterable<readonly [string, number]>,
    label: string,
  ) =>
    new Counter({
      name,
      help,
      labelNames: [label],
      registers: [registry],
      collect() {
        this.reset()
        for (const [of, value] of values()) this.inc({ [label]: of }, value)
      },
    })
  const total = (name: string, help: string, value: () => number) =>
    new Counter({
      name,
      help,
      registers: [registry],
      collect() {
        this.reset()
        this.inc(value())
      },
    })
  const byType =
    (counts: Float64Array): (() => Iterable<readonly [string, number]>) =>
    () =>
      types.map(([name, type]) => [name, counts[type]!] as const)
  counter(
    'aedes_cluster_packets_received_total',
    'packets read from clients, by type',
    byType(traffic.received),
    'type',
  )
  counter(
    'aedes_cluster_packets_sent_total',
    'packets written to clients, by type',
    byType(traffic.sent),
    'type',
  )
  total(
    'aedes_cluster_received_bytes_total',
    'bytes of MQTT from clients: of TLS and WebSocket what is in them',
    () => traffic.receivedBytes,
  )
  total('aedes_cluster_sent_bytes_total', 'the same to clients', () => traffic.sentBytes)
  counter(
    'aedes_cluster_deliveries_total',
    'PUBLISH packets written to clients, by the QoS they are sent with',
    () => [...traffic.delivered].map((count, qos) => [`${qos}`, count] as const),
    'qos',
  )
  total(
    'aedes_cluster_takeovers_total',
    'connections that ended since their Client Identifier connected again, here or at another node',
    () => traffic.takenOver,
  )
  new LatencyHistogram(traffic.acknowledged, registry, {
    name: 'aedes_cluster_acknowledge_seconds',
    help: 'from a PUBLISH of QoS 1 or 2 to its acknowledgement: until it is stored for everybody, and slow subscribers let go; a turn of the event loop counts as one moment',
  })
}
