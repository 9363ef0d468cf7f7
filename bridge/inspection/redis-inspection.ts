// Sessions as they stand in Redis, for whoever looks: HSCAN over {s<n>}:clients, and a few fields of one session. What is
// damaged is left out. Each question is a fixed number of commands; of a session's messages only the first is read.
import { toBridgeError } from '../errors.ts'
import type { Clock } from '../pace/clock.ts'
import { isSid, type Keys } from '../redis/keys.ts'
import type { Redis } from '../redis/redis.ts'
import { readSubscriptions } from '../sessions/stored.ts'
import type { StoredSubscription } from '../sessions/stored-subscription.ts'
import { noReports } from '../diagnostics.ts'
import {
  subscriptionsShown,
  type ClusterInspection,
  type GroupFacts,
  type SessionFacts,
  type SessionPage,
  type TopicTargets,
} from './inspection.ts'
import { allGroups, headOf, secondsTo, subscriptionFacts, topicTargets, type RoutesView } from './seen.ts'

/** The node of an owner as {s<n>}:owners has it, `node id epoch`. */
function nodeOf(owner: string | null | undefined): string | undefined {
  const node = owner?.slice(0, owner.lastIndexOf(' ')) ?? ''
  return node === '' ? undefined : node
}

/** A text as HSCAN's pattern has it. */
const literally = (text: string): string => text.replaceAll(/[*?[\]\\^-]/g, (sign) => `\\${sign}`)

/** Which partition a page is of, and where HSCAN goes on in it. */
const cursorOf = (text: string): readonly [partition: number, cursor: string] | undefined => {
  const [, partition, cursor] = /^(\d{1,2}):(\d{1,20})$/.exec(text === '' ? '0:0' : text) ?? []
  return partition === undefined ? undefined : [Number(partition), cursor!]
}

/** What a node has of its cluster now. */
interface StoredView extends RoutesView {
  readonly redis: Redis
  readonly keys: Keys
  readonly clock: Clock
}

export class RedisInspection implements ClusterInspection {
  readonly #view: () => StoredView

  constructor(view: () => StoredView) {
    this.#view = view
  }

  async sessions(text: string, count: number, begin = ''): Promise<SessionPage> {
    const { redis, keys } = this.#view()
    const [partition, cursor] = cursorOf(text) ?? [keys.partitions, '0']
    if (partition >= keys.partitions) return { entries: [], next: undefined }
    const [next, fields] = await redis.hscan(
      keys.partition(partition, 'clients'),
      cursor,
      'MATCH',
      `${literally(begin)}*`,
      'COUNT',
      count,
    )
    const found: { clientId: string; sid: string }[] = []
    for (let i = 0; i + 1 < fields.length; i += 2)
      if (isSid(fields[i + 1]!, partition)) found.push({ clientId: fields[i]!, sid: fields[i + 1]! })
    const owners =
      found.length === 0
        ? []
        : await redis.hmget(keys.partition(partition, 'owners'), ...found.map(({ sid }) => sid))
    const entries = found.map(({ clientId }, i) => ({ clientId, nodeId: nodeOf(owners[i]) }))
    if (next !== '0') return { entries, next: `${partition}:${next}` }
    return { entries, next: partition + 1 < keys.partitions ? `${partition + 1}:0` : undefined }
  }

  async session(clientId: string): Promise<SessionFacts | undefined> {
    const { redis, keys, clock } = this.#view()
    const partition = keys.partitionFor(clientId)
    const sid = await redis.hget(keys.partition(partition, 'clients'), clientId)
    if (sid === null || !isSid(sid, partition)) return undefined
    const key = (noun: Parameters<Keys['session']>[1]): string => keys.session(sid, noun)
    const of = (noun: 'owners' | 'due'): string => keys.partition(partition, noun)
    const replies = await redis
      .pipeline()
      .hget(of('owners'), sid)
      .zscore(of('due'), `e:${sid}`)
      .hget(key('session'), 'expiry')
      .hlen(key('subscriptions'))
      .hscan(key('subscriptions'), 0, 'COUNT', subscriptionsShown)
      .llen(key('queue'))
      .memory('USAGE', key('queue'))
      .lindexBuffer(key('queue'), 0)
      .hlen(key('inflight'))
      .hlen(key('incoming'))
      .exec()
    const values = (replies ?? []).map(([error, value]) => {
      if (error !== null) throw toBridgeError(error)
      return value
    })
    const [owner, due, expiry, subscriptionCount, scanned, messages, bytes, head, inFlight, incoming] =
      values as [
        string | null,
        string | null,
        string | null,
        number,
        [string, string[]],
        number,
        number | null,
        Buffer | null,
        number,
        number,
      ]
    const subscriptions = new Map<string, StoredSubscription>()
    await readSubscriptions(scanned[1].slice(0, 2 * subscriptionsShown), noReports, subscriptions)
    return {
      clientId,
      nodeId: nodeOf(owner),
      expirySeconds: Number(expiry ?? 0),
      endsInSeconds: due === null ? undefined : secondsTo(clock, Number(due)),
      subscriptions: [...subscriptions].map(([filter, stored]) => subscriptionFacts(filter, stored)),
      subscriptionCount,
      queue: { messages, bytes: bytes ?? 0, head: headOf(clock, head) },
      inFlight,
      incoming,
    }
  }

  targets(topic: string): Promise<TopicTargets> {
    const view = this.#view()
    return topicTargets(view, topic, async (sids) => {
      const pipeline = view.redis.pipeline()
      for (const sid of sids) pipeline.hget(view.keys.session(sid, 'session'), 'client')
      return ((await pipeline.exec()) ?? []).map(([error, client]) => {
        if (error !== null) throw toBridgeError(error)
        return (client as string | null) ?? undefined
      })
    })
  }

  groups(): Iterable<GroupFacts> {
    return allGroups(this.#view())
  }
}
