// What is seen alike over every store: who gets a topic, and the groups, as a node's routing table has them; a message, a
// time and a subscription as they are stored. No state.
import type { Clock } from '../pace/clock.ts'
import { unpackMessage } from '../messages/codec.ts'
import type { Group } from '../groups/group-table.ts'
import { Slice } from '../pace/turns.ts'
import type { RoutingTable, Targets } from '../routes/routing-table.ts'
import { SessionOption } from '../sessions/session-options.ts'
import type { StoredSubscription } from '../sessions/stored-subscription.ts'
import {
  targetsMax,
  type GroupFacts,
  type QueueHead,
  type SubscriptionFacts,
  type TopicTargets,
} from './inspection.ts'

type Counts = ReadonlyMap<string, { readonly messages: number; readonly bytes: number }>

/** What a node knows of the cluster's routes now, and of its backlogs. */
export interface RoutesView {
  readonly table: RoutingTable
  readonly counts: Counts
}

const groupFacts = ({ name, nodes, gid }: Group, counts: Counts): GroupFacts => ({
  group: name,
  members: [...nodes].map(([nodeId, count]) => ({ nodeId, count })),
  backlog: counts.get(name),
  hasBacklog: gid !== undefined,
})

export function* allGroups({ table, counts }: RoutesView): Iterable<GroupFacts> {
  for (const group of table.groups.values()) yield groupFacts(group, counts)
}

/** In slices: half a million routes may match. */
async function matched(table: RoutingTable, topic: string): Promise<Targets> {
  const making = table.making(topic)
  const slice = new Slice()
  for (;;) {
    const targets = making.goOn(slice)
    if (targets !== undefined) return targets
    await slice.next()
  }
}

/** @param clientsOf whose sessions these are; undefined: it has ended */
export async function topicTargets(
  { table, counts }: RoutesView,
  topic: string,
  clientsOf: (sids: readonly string[]) => Promise<readonly (string | undefined)[]>,
): Promise<TopicTargets> {
  const { sessions, groups, qos0 } = await matched(table, topic)
  const named = sessions.slice(0, targetsMax)
  const clients = await clientsOf(named.map(({ sid }) => sid))
  return {
    sessions: named.flatMap(({ qos }, i) =>
      clients[i] === undefined ? [] : [{ clientId: clients[i], qos }],
    ),
    groups: groups.slice(0, targetsMax).map((group) => groupFacts(group, counts)),
    nodes: [...qos0],
    isCut: sessions.length > targetsMax || groups.length > targetsMax,
  }
}

export const subscriptionFacts = (
  filter: string,
  { options, identifier }: StoredSubscription,
): SubscriptionFacts => ({
  filter,
  qos: options & SessionOption.qos,
  noLocal: (options & SessionOption.noLocal) !== 0,
  retainAsPublished: (options & SessionOption.retainAsPublished) !== 0,
  identifier,
})

/** @param time cluster time, ms */
export const secondsTo = (clock: Clock, time: number): number =>
  Math.max(0, Math.round((clock.toLocal(time) - performance.now()) / 1_000))

/** Of a message as it is stored. */
export function headOf(clock: Clock, body: Buffer | null | undefined): QueueHead | undefined {
  const message = body == null ? undefined : unpackMessage(body, clock)
  if (message === undefined || message === 'later') return undefined
  const { topic, qos, payload } = message
  return { topic, qos, payloadBytes: payload.length }
}
