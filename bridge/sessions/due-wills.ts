// Wills that are due, as this node publishes them. A will falls due when its connection ends or its node dies
// (releases.ts). It is taken, so that nobody else does and no return of the client cancels them
// (will-take.lua), handed to the data plane, and done with when they are stored (will-done.lua). State:
// {s<n>}:wills, {s<n>}:due; here those that are taken and not stored. Bound: `willsMax` of them, and
// `bytesMax`. While Redis is full none is stored, and further ones stay where they have been since CONNECT: a
// sweep comes to them again. The node that takes a will has one lease to publish it, and renews that lease
// while the gate decides or a full Redis makes it wait (will-hold.lua). When it does not renew, it has died or
// stands still, and another node takes the will.
import { unpackMessage } from '../messages/codec.ts'
import type { Message } from '../messages/message.ts'
import type { Clock } from '../pace/clock.ts'
import { partitionOf, type Keys } from '../redis/keys.ts'
import { reportsOf, retrying, type Redis } from '../redis/redis.ts'
import { runScript } from '../redis/scripts.ts'
import type { SessionEvents } from './session-events.ts'

export const willsMax = 1_000
const bytesMax = 16 * 1024 * 1024
/** How often a will that is under way is held anew while its hold lasts. */
const renewalsPerLease = 3

export class Wills {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #clock: Clock
  readonly #forgetMs: number
  readonly #leaseMs: number
  readonly #events: Pick<SessionEvents, 'authorizeWill' | 'publishWill'>
  /** Member of {s<n>}:due → settles when it is done with. */
  readonly #underWay = new Map<string, Promise<boolean>>()
  /** Those of them that Redis gave us. */
  readonly #taken = new Set<string>()
  #renewing: NodeJS.Timeout | undefined
  #bytes = 0
  /** Wills that are being taken: how large they are nobody knows yet. */
  #takes = 0

  constructor(
    redis: Redis,
    keys: Keys,
    clock: Clock,
    forgetMs: number,
    leaseMs: number,
    events: Pick<SessionEvents, 'authorizeWill' | 'publishWill'>,
  ) {
    this.#redis = redis
    this.#keys = keys
    this.#clock = clock
    this.#forgetMs = forgetMs
    this.#leaseMs = leaseMs
    this.#events = events
  }

  /** Taken and not stored. */
  get underWay(): number {
    return this.#underWay.size
  }

  /** No more are taken. */
  get isFull(): boolean {
    return this.#underWay.size >= willsMax || this.#bytes >= bytesMax
  }

  /** Resolves when those that are under way are stored. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#underWay.values())
  }

  /**
   * Publishes a will that is due.
   * @param taken what is published from then on comes after it; also called when it is left
   * @returns true when it is stored, or there is nothing to publish; false when it is left in Redis
   */
  publish(partition: number, member: string, taken: () => void = () => undefined): Promise<boolean> {
    if (this.#underWay.has(member)) return (taken(), Promise.resolve(false))
    if (this.isFull) return (taken(), Promise.resolve(this.#leave()))
    const publishing = this.#takeAndPublish(partition, member, taken).finally(() => {
      this.#underWay.delete(member)
      taken()
    })
    this.#underWay.set(member, publishing)
    return publishing
  }

  #leave(): false {
    reportsOf(this.#redis).tell('willsLeft', {})
    return false
  }

  async #takeAndPublish(partition: number, member: string, taken: () => void): Promise<boolean> {
    const keys = [this.#keys.partition(partition, 'due'), this.#keys.partition(partition, 'wills')]
    // Those that are taken together share the room. One alone may be of any size: what a client may send can be stored.
    const room =
      this.#underWay.size === 0 ? 0 : Math.max(1, Math.floor((bytesMax - this.#bytes) / (this.#takes + 1)))
    this.#takes++
    const bytes = (await runScript(this.#redis, 'will-take', keys, [member, this.#leaseMs, room]).finally(
      () => {
        this.#takes--
      },
    )) as Buffer | number | null
    if (bytes === null) return true
    if (typeof bytes === 'number') return this.#leave()
    this.#bytes += bytes.length
    this.#taken.add(member)
    this.#renewTaken()
    try {
      const message = unpackMessage(bytes, this.#clock)
      const reports = reportsOf(this.#redis)
      // who takes it next may understand it
      if (message === 'later') return (reports.tell('later', { where: 'will', id: member }), true)
      if (message === undefined) reports.tell('garbage', { where: 'will', bytes: bytes.length })
      else {
        const authorized = await this.#events.authorizeWill(await this.#toPublish(partition, member, message))
        const published = authorized === undefined ? undefined : this.#events.publishWill(authorized)
        taken()
        await published
      }
      // ours until that is written, too: Redis may refuse writes for longer than a lease
      await retrying(this.#redis, () => runScript(this.#redis, 'will-done', keys, [member, this.#forgetMs]))
      return true
    } finally {
      this.#bytes -= bytes.length
      this.#taken.delete(member)
    }
  }

  #renewTaken(): void {
    this.#renewing ??= setTimeout(() => {
      this.#renewing = undefined
      this.#renewTakenNow()
      if (this.#taken.size > 0) this.#renewTaken()
    }, this.#leaseMs / renewalsPerLease).unref()
  }

  /** While Redis is away nobody else can take them either. */
  #renewTakenNow(): void {
    const members = new Map<number, string[]>()
    for (const member of this.#taken) {
      const partition = partitionOf(member.slice(2))
      const known = members.get(partition)
      if (known === undefined) members.set(partition, [member])
      else known.push(member)
    }
    for (const [partition, some] of members)
      runScript(
        this.#redis,
        'will-hold',
        [this.#keys.partition(partition, 'due')],
        [this.#leaseMs, ...some],
      ).catch(() => undefined)
  }

  close(): void {
    clearTimeout(this.#renewing)
    this.#taken.clear()
  }

  /**
   * A will as it is published. Its identity keeps it from being queued twice when it is published twice, because
   * the node that took it died. For No Local it is of the session that its client has now.
   */
  async #toPublish(partition: number, member: string, message: Message): Promise<Message> {
    const [, sid = '', epoch] = member.split(':')
    const clientId = message.by?.clientId
    const current =
      clientId === undefined
        ? null
        : await retrying(this.#redis, () =>
            this.#redis.hget(this.#keys.partition(partition, 'clients'), clientId),
          )
    return message.willPublished({ sid: current ?? sid, number: Number(epoch), numberedBy: `w${sid}` })
  }
}
