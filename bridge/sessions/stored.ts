// What stands in Redis of a session, as its keys say (keys.ts), read. Whatever the bytes, nothing here
// throws: what is damaged is left out, and counted as garbage. And the subscriptions of all sessions, for the
// snapshot. No state.
import type { Clock } from '../pace/clock.ts'
import { unpackMessage } from '../messages/codec.ts'
import type { Reports } from '../diagnostics.ts'
import { toBridgeError } from '../errors.ts'
import { isSid, type Keys } from '../redis/keys.ts'
import { reportsOf, retrying, type Redis } from '../redis/redis.ts'
import type { InFlightEntry, Session } from './session.ts'
import { decodeSubscription, type StoredSubscription } from './stored-subscription.ts'
import { ownFilter } from '../matching/tenant.ts'
import { isValidFilter } from '../matching/topic.ts'
import { Slice } from '../pace/turns.ts'

const identifierMax = 65_535

/** A list of names and values, two by two. */
export const pairs = function* (list: readonly Buffer[]): Iterable<[Buffer, Buffer]> {
  for (let i = 0; i + 1 < list.length; i += 2) yield [list[i]!, list[i + 1]!]
}

const isIdentifier = (id: number): boolean => Number.isInteger(id) && id > 0 && id <= identifierMax

export function decodeIncoming(list: readonly Buffer[], reports: Reports): Session['incoming'] {
  const entries = new Map<number, { n: number; published: boolean }>()
  for (const [id, text] of pairs(list)) {
    const [messageId, n] = [Number(id), Number.parseInt(text.toString('latin1', 0, 20), 10)]
    if (!isIdentifier(messageId) || !Number.isSafeInteger(n))
      reports.tell('garbage', { where: 'incoming', bytes: text.length })
    else entries.set(messageId, { n, published: text.includes(0x20) })
  }
  return entries
}

/**
 * Reads what stands in {s<n>}:subscriptions into `stored`, without what is damaged, and without what a later version
 * wrote: its filters go to `later`. In slices: they may be a hundred thousand.
 */
export async function readSubscriptions(
  list: readonly (Buffer | string)[],
  reports: Reports,
  stored: Map<string, StoredSubscription>,
  later: string[] = [],
  slice = new Slice(),
): Promise<void> {
  for (let i = 0; i + 1 < list.length; i += 2) {
    if (slice.isOver) await slice.next()
    const [filter, text] = [list[i]!.toString(), list[i + 1]!.toString()]
    const subscription = isValidFilter(ownFilter(filter)) ? decodeSubscription(text) : undefined
    if (subscription === undefined) reports.tell('garbage', { where: 'subscriptions', bytes: text.length })
    else if (subscription === 'later') later.push(filter)
    else stored.set(filter, subscription)
  }
}

export function decodeInFlight(
  sid: string,
  list: readonly Buffer[],
  clock: Clock,
  reports: Reports,
): InFlightEntry[] {
  const entries: InFlightEntry[] = []
  for (const [id, bytes] of pairs(list)) {
    const space = bytes.indexOf(0x20)
    const message = space < 0 ? undefined : unpackMessage(bytes.subarray(space + 1), clock)
    const [messageId, order] = [
      Number(id),
      Number(bytes.toString('latin1', 0, Math.min(space < 0 ? bytes.length : space, 20))),
    ]
    if (message === 'later') reports.tell('later', { where: 'inflight', id: sid })
    if ((space >= 0 && message === undefined) || !isIdentifier(messageId) || !Number.isSafeInteger(order)) {
      reports.tell('garbage', { where: 'inflight', bytes: bytes.length })
    } else entries.push({ messageId, order, message })
  }
  return entries.sort((a, b) => a.order - b.order)
}

/** A number that stands in Redis; 0: none that can be counted on from. */
export function numberOf(text: Buffer): number {
  const number = Number(text)
  return Number.isSafeInteger(number) && number > 0 && number < 9e15 ? number : 0
}

/** Sessions whose subscriptions are read at once. */
const sessionsAtOnce = 100

/** How many subscriptions Redis has lost of a session, by what was counted after its last change (session-subscribe.lua). */
export function lackingOf(fields: unknown, size: number): number {
  const [changed, counted] = fields as [string | null, string | null]
  const [, count, change] = /^(\d+) (.*)$/.exec(counted ?? '') ?? []
  return count === undefined || change !== (changed ?? '') ? 0 : Math.max(0, Number(count) - size)
}

/**
 * The stored subscriptions of all sessions, in slices: the snapshot of the routing table; of sessions whose clients are
 * away also how many of them Redis has lost. O(all).
 */
export async function* allSubscriptions(
  redis: Redis,
  keys: Keys,
  slice: Slice,
): AsyncGenerator<
  readonly [sid: string, subscriptions: ReadonlyMap<string, StoredSubscription>, lacking: number]
> {
  for (let p = 0; p < keys.partitions; p++) {
    let cursor = '0'
    do {
      const [after, fields] = await retrying(redis, () =>
        redis.hscan(keys.partition(p, 'owners'), cursor, 'COUNT', sessionsAtOnce),
      )
      cursor = after
      const sids: string[] = []
      const pipeline = redis.pipeline()
      for (let i = 0; i + 1 < fields.length; i += 2) {
        const [sid, owner] = [fields[i]!, fields[i + 1]]
        if (!isSid(sid, p)) continue
        sids.push(sid, owner === '' ? 'away' : '')
        // as a list: `hgetall` makes an object of each, which costs more than all the rest
        pipeline.call('HGETALL', keys.session(sid, 'subscriptions'))
        if (owner === '') pipeline.call('HMGET', keys.session(sid, 'session'), 'changed', 'counted')
      }
      const replies = ((await pipeline.exec()) ?? []).values()
      const next = (): unknown => {
        const [error, reply] = replies.next().value ?? []
        if (error != null) throw toBridgeError(error)
        return reply
      }
      for (let i = 0; i < sids.length; i += 2) {
        const stored = new Map<string, StoredSubscription>()
        const list = next() as string[]
        await readSubscriptions(list, reportsOf(redis), stored, [], slice)
        yield [sids[i]!, stored, sids[i + 1] === 'away' ? lackingOf(next(), list.length / 2) : 0]
      }
    } while (cursor !== '0')
  }
}
