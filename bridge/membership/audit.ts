// Whether Redis still has what it must have of this node: its place in every partition, without which the scripts
// refuse it, and the sessions of its clients. It looks several times a lease, also while nothing is
// published: a master of a Redis Cluster may fail over to a replica that lacks the last writes, and Redis does not
// report lost data. What is missing, or older than it was, is written down again. A session that names this node as
// its owner and is no client's here is released again. State: {s<n>}:appended; here how far the audit is. Invariant: a
// node that was declared dead gets no place again (R4).
import { nameDamage } from '../redis/damage.ts'
import { isSid, partitionOf, type Keys } from '../redis/keys.ts'
import { onServerChange, retrying, type Redis } from '../redis/redis.ts'
import { pack } from '../redis/pack.ts'
import { runScript } from '../redis/scripts.ts'
import { epochOf, type Session } from '../sessions/session.ts'
import type { Sessions } from '../sessions/sessions.ts'

/**
 * Sessions looked at in one round, and owners in Redis: a sixteenth of those that are connected, so that it
 * costs little beside what they do. After a change of server rounds follow at once until all were looked at.
 */
const roundMax = 1_000
const roundMin = 100
const roundsForAll = 16

export interface AuditEvents {
  /** Whether the cluster has not declared this boot dead. */
  isPlaced(): Promise<boolean>
  /** A partition has no place of us: resolves when it has again, rejects when we were declared dead. */
  onFenced(): Promise<void>
}

export class Audit {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #nodeId: string
  readonly #sessions: Sessions
  readonly #events: AuditEvents
  /** Where the round is. */
  #walk: Iterator<Session>
  /** Where the search for strays is. */
  #stray = { partition: 0, cursor: '0' }
  #serverChanged = false
  #timer: NodeJS.Timeout | undefined

  constructor(redis: Redis, keys: Keys, nodeId: string, sessions: Sessions, events: AuditEvents) {
    this.#redis = redis
    this.#keys = keys
    this.#nodeId = nodeId
    this.#sessions = sessions
    this.#events = events
    this.#walk = sessions.here[Symbol.iterator]()
    onServerChange(redis, () => {
      this.#serverChanged = true
    })
  }

  /**
   * Registers this boot in every partition: without it no batch of it is taken. Called again it changes
   * nothing.
   */
  async join(): Promise<void> {
    await Promise.all(
      Array.from({ length: this.#keys.partitions }, (_, p) =>
        retrying(this.#redis, () => this.#redis.hsetnx(this.#keys.partition(p, 'appended'), this.#nodeId, 0)),
      ),
    )
  }

  /**
   * Takes the places again that partitions lost, with what they lost of our sessions; false: we were declared
   * dead. That deletes the place in {bus}:nodes first, then those in the partitions: so we register
   * first and look then whether we still have that one.
   */
  async takePlaces(): Promise<boolean> {
    const places = await Promise.all(
      Array.from({ length: this.#keys.partitions }, (_, p) =>
        retrying(this.#redis, () => this.#redis.hexists(this.#keys.partition(p, 'appended'), this.#nodeId)),
      ),
    )
    const lost = places.flatMap((place, p) => (place === 1 ? [] : [p]))
    if (lost.length === 0) return true
    if (!(await this.#events.isPlaced())) return false
    await this.join()
    if (!(await this.#events.isPlaced())) return false
    for (const partition of lost)
      nameDamage(
        this.#redis,
        this.#keys.partition(partition, 'appended'),
        'it lacked a live node, which wrote down again what it knows',
      )
    await this.#sessions.recovery.assertSome(this.#sessions.here.in(lost))
    return true
  }

  /** Begins to look, every `ms`. */
  start(ms: number, onError: (error: Error) => void): void {
    this.#timer = setTimeout(() => {
      void this.round()
        .catch(onError)
        .finally(() => {
          if (this.#timer !== undefined) this.start(ms, onError)
        })
    }, ms)
    this.#timer.unref()
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  /** Every partition, and some of the sessions; all of them when another server may answer by now. */
  async round(): Promise<void> {
    const all = this.#serverChanged
    this.#serverChanged = false
    try {
      for (let left = this.#sessions.here.size; ; left -= roundMax) {
        await this.#someSessions(all ? roundMax : this.#some)
        if (!all || left <= roundMax || this.#timer === undefined) break
      }
      if (all) this.#stray = { partition: 0, cursor: '0' } // what was walked by now was another server's
      do await this.#someOwners(all ? roundMax : this.#some)
      while (all && this.#timer !== undefined && (this.#stray.partition > 0 || this.#stray.cursor !== '0'))
    } catch (error) {
      this.#serverChanged ||= all
      throw error
    }
  }

  /**
   * Owners as a partition has them. One that is ours and that we do not know was released, which a failover
   * lost.
   */
  async #someOwners(max: number): Promise<void> {
    const { partition, cursor } = this.#stray
    const [next, fields] = await retrying(this.#redis, () =>
      this.#redis.hscan(this.#keys.partition(partition, 'owners'), cursor, 'COUNT', max),
    )
    this.#stray =
      next === '0'
        ? { partition: (partition + 1) % this.#keys.partitions, cursor: next }
        : { partition, cursor: next }
    for (let i = 0; i < fields.length; i += 2) {
      const [sid, owner] = [fields[i]!, fields[i + 1]!]
      if (isSid(sid, partition) && owner.startsWith(`${this.#nodeId} `))
        await this.#sessions.releases.releaseStray(sid, owner)
    }
  }

  get #some(): number {
    return Math.min(roundMax, Math.max(roundMin, Math.ceil(this.#sessions.here.size / roundsForAll)))
  }

  async #someSessions(max: number): Promise<void> {
    const parts = Array.from({ length: this.#keys.partitions }, (): Session[] => [])
    for (let count = 0; count < Math.min(max, this.#sessions.here.size); count++) {
      let next = this.#walk.next()
      if (next.done === true) next = (this.#walk = this.#sessions.here[Symbol.iterator]()).next()
      if (next.done !== true) parts[partitionOf(next.value.sid)]!.push(next.value)
    }
    await Promise.all(parts.map((sessions, p) => this.#look(p, sessions)))
  }

  async #look(partition: number, sessions: readonly Session[]): Promise<void> {
    const { subscriptions } = this.#sessions
    const settled = sessions.map((session) => subscriptions.settledAt(session))
    const keys = (['appended', 'owners', 'clients', 'wills'] as const).map((noun) =>
      this.#keys.partition(partition, noun),
    )
    const known = sessions.map(({ sid, owner, claim, request, subscriptions, changed, later }) => [
      request.clientId,
      sid,
      owner,
      String(epochOf(owner)),
      String(claim),
      request.will === undefined ? 0 : 1,
      subscriptions.size + later.length,
      changed,
    ])
    const [placed, whole, ...wrong] = (await runScript(
      this.#redis,
      'session-check',
      keys,
      [this.#nodeId, this.#keys.sessions(partition), pack(known)],
      {
        made: () =>
          sessions.flatMap(({ sid }) => [
            this.#keys.session(sid, 'session'),
            this.#keys.session(sid, 'subscriptions'),
          ]),
      },
    )) as number[]
    if (placed === 0) return this.#events.onFenced()
    if (whole === 0 && sessions.length > 0)
      return this.#writeDown(partition, this.#sessions.here.in([partition]))
    // One that left or changed its subscriptions meanwhile is looked at again with the next round.
    const lost = wrong
      .map((i) => i - 1)
      .filter((i) => settled[i] !== undefined && subscriptions.settledAt(sessions[i]!) === settled[i])
    await this.#writeDown(
      partition,
      lost.map((i) => sessions[i]!),
    )
  }

  async #writeDown(partition: number, sessions: readonly Session[]): Promise<void> {
    const own = sessions.filter((session) => this.#sessions.connected(session.sid) === session)
    if (own.length === 0) return
    // of one that another node has taken, which we have not heard of yet, nothing is lost
    const written = await this.#sessions.recovery.assertSome(own)
    if (written.length === 0) return
    nameDamage(
      this.#redis,
      this.#keys.partition(partition, 'owners'),
      `Redis lacked something of ${written.length} connected sessions; their node wrote them down again`,
    )
  }
}
