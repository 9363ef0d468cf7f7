// Sessions as they stand in Redis, for whoever looks: HSCAN over {s<n>}:clients, and a few fields of one session. What is
// damaged is left out. Each question is a fixed number of commands; of a session's messages only the first is read.
import { toBridgeError } from '../errors.ts'
import type { Clock } from '../pace/clock.ts'
import { isSid, partitionOf, type Keys } from '../redis/keys.ts'
import type { Redis } from '../redis/redis.ts'
import { readSubscriptions } from '../sessions/stored.ts'
import type { StoredSubscription } from '../sessions/stored-subscription.ts'
import { noReports } from '../diagnostics.ts'
import {
  subscriptionsShown,
  type ClusterInspection,
  type GroupFacts,
  queuesLookedAtMax,
  type QueuesLookedAt,
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

/** Sessions whose queues are measured by one pipeline. */
const lookedAtOnce = 500

/** Fields and values of a hash, as HSCAN answers them. */
const pairsOf = (fields: readonly string[]): (readonly [string, string])[] =>
  Array.from({ length: fields.length >> 1 }, (_, i) => [fields[2 * i]!, fields[2 * i + 1]!])

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
    const found = pairsOf(fields)
      .filter(([, sid]) => isSid(sid, partition))
      .map(([clientId, sid]) => ({ clientId, sid }))
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
    const sid = await this.sidOf(clientId)
    if (sid === undefined) return undefined
    const partition = partitionOf(sid)
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

  async sidOf(clientId: string): Promise<string | undefined> {
    const { redis, keys } = this.#view()
    const partition = keys.partitionFor(clientId)
    const sid = await redis.hget(keys.partition(partition, 'clients'), clientId)
    return sid !== null && isSid(sid, partition) ? sid : undefined
  }

  async clientsOf(sids: readonly string[]): Promise<readonly (string | undefined)[]> {
    const { redis, keys } = this.#view()
    const pipeline = redis.pipeline()
    for (const sid of sids) pipeline.hget(keys.session(sid, 'session'), 'client')
    return ((await pipeline.exec()) ?? []).map(([error, client]) => {
      if (error !== null) throw toBridgeError(error)
      return (client as string | null) ?? undefined
    })
  }

  async queues(count: number): Promise<QueuesLookedAt> {
    const { redis, keys } = this.#view()
    let found: { clientId: string; sid: string; messages: number }[] = []
    let [lookedAt, isCut] = [0, false]
    for (let partition = 0; partition < keys.partitions && !isCut; partition++) {
      let cursor = '0'
      do {
        const clients = keys.partition(partition, 'clients')
        const [next, fields] = await redis.hscan(clients, cursor, 'COUNT', lookedAtOnce)
        const some = pairsOf(fields).filter(([, sid]) => isSid(sid, partition))
        const pipeline = redis.pipeline()
        for (const [, sid] of some) pipeline.llen(keys.session(sid, 'queue'))
        const lengths = ((await pipeline.exec()) ?? []).map(([, length]) => Number(length))
        const queued = some
          .map(([clientId, sid], i) => ({ clientId, sid, messages: lengths[i]! }))
          .filter(({ messages }) => messages > 0)
        found = [...found, ...queued].sort((a, b) => b.messages - a.messages).slice(0, count)
        lookedAt += some.length
        cursor = next
        isCut = lookedAt >= queuesLookedAtMax && (cursor !== '0' || partition + 1 < keys.partitions)
      } while (cursor !== '0' && !isCut)
    }
    const pipeline = redis.pipeline()
    for (const { sid } of found)
      pipeline
        .hget(keys.partition(partitionOf(sid), 'owners'), sid)
        .memory('USAGE', keys.session(sid, 'queue'))
    const said = ((await pipeline.exec()) ?? []).map(([, value]) => value as string | number | null)
    const queues = found.map(({ clientId, messages }, i) => ({
      clientId,
      messages,
      isOwned: nodeOf(said[2 * i] as string | null) !== undefined,
      bytes: Number(said[2 * i + 1] ?? 0),
    }))
    return { queues, lookedAt, isCut }
  }

  targets(topic: string): Promise<TopicTargets> {
    return topicTargets(this.#view(), topic, (sids) => this.clientsOf(sids))
  }

  groups(): Iterable<GroupFacts> {
    return allGroups(this.#view())
  }
}
