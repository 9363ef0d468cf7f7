// What is due in the partitions: wills, ends of sessions and of Retained Messages, publishers to be
// forgotten. One node of the cluster looks for due entries and handles them. Invariant: an entry that cannot be
// handled now never blocks the others: what frees memory goes on while wills wait for room, and a
// partition whose server is away stops alone. State: {s<n>}:due; here what is under way.
import type { Clock } from '../pace/clock.ts'
import { nameDamage } from '../redis/damage.ts'
import { toBridgeError } from '../errors.ts'
import { isSid, type Keys } from '../redis/keys.ts'
import { reportsOf, retrying, type Redis } from '../redis/redis.ts'
import { runScript } from '../redis/scripts.ts'
import type { Wills } from './due-wills.ts'
import { atMost, together } from '../pace/together.ts'

/** When a due entry of a later version is looked at again. */
const putOffMs = 60_000

/** Entries of {s<n>}:due looked at at once, and how often in a sweep of a partition. */
const sweepMax = 100
const passesMax = 20
/**
 * How long a sweep waits for the wills of a pass, and for publishers to be forgotten, before it goes on to
 * what is behind.
 */
const patienceMs = 500
/** The same of a partition: of one whose server answers it sees the end, as long as not very much is due. */
const partitionMs = 2_000
/** What is done of what is due. */
export interface Due {
  /**
   * Ends a session; true when its will is due by that. What it had subscribed to may be unknown: then its sid
   * is added to `vanished`.
   */
  expire(sid: string, vanished: Set<string>): Promise<boolean>
  expireRetained(topic: string): Promise<void>
  onVanished(sids: ReadonlySet<string>): Promise<void>
}

export class Sweep {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #clock: Clock
  readonly #wills: Wills
  readonly #due: Due
  /**
   * What sweeps are still busy with: partitions, those of them whose publishers are being forgotten. And what
   * failed of it since the last sweep.
   */
  readonly #swept = new Set<number>()
  readonly #forgetting = new Set<number>()
  readonly #failures: Error[] = []

  constructor(redis: Redis, keys: Keys, clock: Clock, wills: Wills, due: Due) {
    this.#redis = redis
    this.#keys = keys
    this.#clock = clock
    this.#wills = wills
    this.#due = due
  }

  /**
   * A partition that fails or hangs, whose master is away perhaps, keeps none of the others from it, and no
   * sweep is at it twice at once. Rejects with the first failure, also of what an earlier sweep left under
   * way.
   */
  async all(): Promise<void> {
    for (let p = 0; p < this.#keys.partitions; p++) {
      if (this.#swept.has(p)) continue
      this.#swept.add(p)
      await atMost(
        partitionMs,
        this.#sweepPartition(p)
          .catch((error: unknown) => {
            this.#failures.push(toBridgeError(error))
          })
          .finally(() => this.#swept.delete(p)),
      )
    }
    const [failure] = this.#failures.splice(0)
    if (failure !== undefined) throw failure
  }

  async #sweepPartition(partition: number): Promise<void> {
    const left = new Set<string>() // kinds that no later pass need look at
    for (let pass = 0; pass < passesMax && (await this.#sweepPass(partition, left)); pass++);
  }

  /**
   * Those of a pass together: ten thousand that are due are not ten thousand round trips. True when there may
   * be more.
   */
  async #sweepPass(partition: number, left: Set<string>): Promise<boolean> {
    if (this.#wills.isFull) left.add('w')
    const due = (
      (await runScript(
        this.#redis,
        'due-list',
        [this.#keys.partition(partition, 'due')],
        [sweepMax, [...left].join('')],
      )) as Buffer[]
    ).map(String)
    let more = due.length === sweepMax
    const vanished = new Set<string>()
    const wills: string[] = []
    const strange: string[] = []
    const later: string[] = []
    await together(due, async (member) => {
      const name = member.slice(2)
      if (member.startsWith('w:') && isSid(name.split(':')[0]!, partition)) wills.push(member)
      else if (member.startsWith('e:') && isSid(name, partition))
        more = (await this.#due.expire(name, vanished)) || more
      else if (member.startsWith('r:') && this.#keys.partitionFor(name) === partition)
        await this.#due.expireRetained(name)
      else if (/^[a-z]:/.test(member) && !'werf'.includes(member[0]!)) later.push(member)
      else if (!member.startsWith('f:')) strange.push(member)
    })
    if (vanished.size > 0) await this.#due.onVanished(vanished)
    await this.#setAside(partition, strange, later)
    if (!(await this.#sendWills(partition, wills))) left.add('w')
    if (
      !(await this.#forget(
        partition,
        due.filter((member) => member.startsWith('f:')),
      ))
    )
      left.add('f')
    return more
  }

  /**
   * Begins to publish them. While Redis is full that lasts until there is room, which only what is due
   * besides them makes: nobody waits for it for long. False when they are not stored yet, or were left for a
   * later sweep.
   */
  async #sendWills(partition: number, members: readonly string[]): Promise<boolean> {
    let all = true
    const sent = members.map(async (member) => {
      const done = await this.#wills.publish(partition, member).catch((error: unknown) => {
        this.#failures.push(toBridgeError(error))
        return true
      })
      all &&= done
    })
    return (await atMost(patienceMs, Promise.all(sent))) && all
  }

  /**
   * Due, and nothing that we could do: it would stand first for ever. What a later version knows of stays,
   * and is looked at again.
   */
  async #setAside(partition: number, strange: readonly string[], later: readonly string[]): Promise<void> {
    const key = this.#keys.partition(partition, 'due')
    for (const member of later) {
      reportsOf(this.#redis).tell('later', { where: 'due', id: member })
      await retrying(this.#redis, () =>
        this.#redis.zadd(key, 'XX', this.#clock.toCluster(performance.now() + putOffMs), member),
      )
    }
    if (strange.length === 0) return
    nameDamage(this.#redis, key, `it had ${strange.length} entries that are not ours`)
    await retrying(this.#redis, () => this.#redis.zrem(key, ...strange))
  }

  /**
   * All partitions are asked, and one of them may be away: then it goes on beside what else is due, and this
   * is false.
   */
  async #forget(partition: number, members: readonly string[]): Promise<boolean> {
    if (members.length === 0) return true
    if (this.#forgetting.has(partition)) return false
    this.#forgetting.add(partition)
    return atMost(
      patienceMs,
      this.#forgetPublishers(partition, members)
        .catch((error: unknown) => {
          this.#failures.push(toBridgeError(error))
        })
        .finally(() => this.#forgetting.delete(partition)),
    )
  }

  /**
   * Nobody publishes under these identities any more, and what was published has arrived (or its node is
   * fenced).
   */
  async #forgetPublishers(partition: number, members: readonly string[]): Promise<void> {
    const sids = members.flatMap((member) =>
      ['', 'part:', 'retained:', 'group:', 'part:group:'].map((kind) => kind + member.slice(2)),
    )
    await Promise.all(
      Array.from({ length: this.#keys.partitions }, (_, p) =>
        retrying(this.#redis, () => this.#redis.hdel(this.#keys.partition(p, 'published'), ...sids)),
      ),
    )
    await retrying(this.#redis, () => this.#redis.zrem(this.#keys.partition(partition, 'due'), ...members))
  }
}
