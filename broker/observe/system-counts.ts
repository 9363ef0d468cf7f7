// Counts under $SYS/broker/, in Mosquitto's names and summed over the cluster, and those of each node under
// $SYS/broker/nodes/NAME/: told every `sysIntervalSeconds` by each node to its own subscribers. Nodes are asked for theirs
// only while somebody in the cluster is subscribed to one of them. They are not retained: who subscribes gets them with
// the next interval. State: the timer.
import { PacketType } from '../protocol/control-packets.ts'
import type { Traffic } from './traffic.ts'

/** Topics below $SYS/broker/ and what each counts. */
export type SystemCounts = Readonly<Record<string, number>>

export const root = '$SYS/broker/'
/** The same for all nodes, and not added up. */
const ofCluster = new Set(['retained messages/count', 'uptime'])

const sum = (counts: Float64Array): number => counts.reduce((all, one) => all + one, 0)

/** Those of one node. */
export const countsOf = (
  traffic: Traffic,
  now: { readonly clients: number; readonly subscriptions: number; readonly retained: number },
): SystemCounts => ({
  'clients/connected': now.clients,
  'messages/received': sum(traffic.received),
  'messages/sent': sum(traffic.sent),
  'publish/messages/received': traffic.received[PacketType.publish]!,
  'publish/messages/sent': traffic.sent[PacketType.publish]!,
  'bytes/received': traffic.receivedBytes,
  'bytes/sent': traffic.sentBytes,
  'subscriptions/count': now.subscriptions,
  'retained messages/count': now.retained,
  uptime: Math.floor(process.uptime()),
})

/** Every topic and what it says. @param byNode counts of the nodes that answered, by their names */
export function* toldCounts(
  byNode: ReadonlyMap<string, SystemCounts>,
): Iterable<readonly [topic: string, value: string]> {
  const all = new Map<string, number>()
  for (const [node, counts] of byNode)
    for (const [name, count] of Object.entries(counts)) {
      yield [`${root}nodes/${node}/${name}`, valueOf(name, count)]
      const before = all.get(name) ?? 0
      all.set(name, ofCluster.has(name) ? Math.max(before, count) : before + count)
    }
  for (const [name, count] of all) yield [root + name, valueOf(name, count)]
}

const valueOf = (name: string, count: number): string =>
  name === 'uptime' ? `${count} seconds` : String(count)

export interface SystemCountsHost {
  readonly nodes: readonly string[]
  /** Whether anybody in the cluster is subscribed to a topic. */
  isWanted(topic: string): boolean
  /** Of every node that answers, by its name. */
  ask(): Promise<ReadonlyMap<string, SystemCounts>>
  /** To the subscribers of this node. */
  tell(topic: string, value: string): void
}

/** @returns ends it */
export function tellCounts(seconds: number, names: readonly string[], host: SystemCountsHost): () => void {
  if (seconds === 0) return () => undefined
  let isAsking = false
  const tick = async (): Promise<void> => {
    for (const [topic, value] of toldCounts(await host.ask())) host.tell(topic, value)
  }
  const isWanted = (): boolean =>
    ['', ...host.nodes.map((node) => `nodes/${node}/`)].some((of) =>
      names.some((name) => host.isWanted(root + of + name)),
    )
  const timer = setInterval(() => {
    if (isAsking || !isWanted()) return
    isAsking = true
    tick()
      .catch(() => undefined) // the node begins anew, or asks too much: the next one tells
      .finally(() => (isAsking = false))
  }, 1_000 * seconds)
  timer.unref()
  return () => clearInterval(timer)
}
