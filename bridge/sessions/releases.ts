// How a session loses its owner, and how it ends: its client says good-bye (DISCONNECT), its connection
// goes, its node dies, its Session Expiry Interval passes. Invariant: only the owner that the caller names
// is released; whoever finds that it was not has nothing to do. State: {s<n>}:owners, due, wills and what
// the session has; here which releases are under way.
import type { Change } from '../messages/codec.ts'
import { nameDamage } from '../redis/damage.ts'
import { partitionOf, type Keys } from '../redis/keys.ts'
import { retrying, type Redis } from '../redis/redis.ts'
import { runScript } from '../redis/scripts.ts'
import { together } from '../pace/together.ts'
import { Slice } from '../pace/turns.ts'
import type { ConnectedSessions } from './connected.ts'
import type { SessionContext } from './session-context.ts'
import type { SessionEvents } from './session-events.ts'
import { allKeysOf, keysOf } from './session-keys.ts'
import { epochOf, type Session } from './session.ts'
import { decodeEnd, type EndReply } from './replies.ts'
import { pairs } from './stored.ts'
import { journaled } from './stored-subscription.ts'
import type { Wills } from './due-wills.ts'

export class Releases {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #forgetMs: number
  readonly #connected: ConnectedSessions
  readonly #events: Pick<SessionEvents, 'append'>
  readonly #wills: Wills
  readonly #isClaiming: (claim: number) => boolean
  /**
   * Releases under way, by sid, space, owner: Redis may have these sessions as ours, and their clients are not
   * here.
   */
  readonly #releasing = new Set<string>()

  /** @param isClaiming whether a claim of this node is under way */
  constructor(
    { redis, keys, forgetMs, connected, events }: SessionContext,
    wills: Wills,
    isClaiming: (claim: number) => boolean,
  ) {
    this.#redis = redis
    this.#keys = keys
    this.#forgetMs = forgetMs
    this.#connected = connected
    this.#events = events
    this.#wills = wills
    this.#isClaiming = isClaiming
  }

  /**
   * The client said good-bye. Behind it whoever claims the session finds no will, as long as nobody has taken
   * it to publish it.
   * @param voidsWill DISCONNECT with reason code 0 [MQTT-3.14.4-3]
   * @param expirySeconds when DISCONNECT changes it; -1: never
   */
  async farewell(session: Session, voidsWill: boolean, expirySeconds: number | undefined): Promise<void> {
    const { sid, owner, request } = session
    const { owners, due, wills, session: key } = keysOf(this.#keys, sid)
    session.request = {
      ...request,
      will: voidsWill ? undefined : request.will,
      expirySeconds: expirySeconds ?? request.expirySeconds,
    }
    await retrying(this.#redis, () =>
      runScript(
        this.#redis,
        'session-farewell',
        [owners, due, wills, key],
        [sid, owner, voidsWill ? '1' : '0', expirySeconds ?? ''],
      ),
    )
  }

  /** Tells who waits for the session that what its client sent before takes a moment yet. */
  async leaves({ sid, owner }: Session): Promise<void> {
    const { owners, due, wills, session: key } = keysOf(this.#keys, sid)
    await retrying(this.#redis, () =>
      runScript(this.#redis, 'session-farewell', [owners, due, wills, key], [sid, owner, '0', '', '1']),
    )
  }

  /** The connection is gone. */
  async release(session: Session): Promise<void> {
    this.#connected.remove(session)
    await this.#releaseOwned(session.sid, session.owner, session.request.expirySeconds, session)
  }

  /**
   * Redis has this node as the owner of a session that is no client's here: it was released, and a failover
   * lost that. Nobody else would ever do it again.
   */
  async releaseStray(sid: string, owner: string): Promise<void> {
    const isOurs = (): boolean =>
      this.#connected.get(sid)?.owner === owner || this.#releasing.has(`${sid} ${owner}`)
    if (isOurs()) return
    const claim = await retrying(this.#redis, () =>
      this.#redis.hget(this.#keys.session(sid, 'session'), 'claim'),
    )
    // its claim is under way: we have not heard of it yet
    if (isOurs() || this.#isClaiming(Number(claim))) return
    // otherwise its own release was done since we read who owns it
    if (!(await this.#releaseOwned(sid, owner))) return
    nameDamage(
      this.#redis,
      this.#keys.partition(partitionOf(sid), 'owners'),
      'a session that was released had its owner again; it was released once more',
    )
  }

  /**
   * The estate of a dead node: it may append nothing more (first, that is the fence), its sessions have
   * nobody.
   */
  async estate(nodeId: string): Promise<void> {
    for (let p = 0; p < this.#keys.partitions; p++) {
      await retrying(this.#redis, () => this.#redis.hdel(this.#keys.partition(p, 'appended'), nodeId))
      let cursor = '0'
      do {
        const [next, fields] = await retrying(this.#redis, () =>
          this.#redis.hscan(this.#keys.partition(p, 'owners'), cursor, 'COUNT', 1_000),
        )
        cursor = next
        const sids = fields.flatMap((sid, i) =>
          i % 2 === 0 && fields[i + 1]!.startsWith(`${nodeId} `) ? [[sid, fields[i + 1]!] as const] : [],
        )
        await together(sids, async ([sid, owner]) => {
          const { isDone, subscriptions } = await this.#release(sid, owner)
          if (isDone) await this.#ended(sid, subscriptions) // wills are swept within a second
        })
      } while (cursor !== '0')
    }
  }

  /** Whether its will is due now. */
  async expire(sid: string, vanished: Set<string>): Promise<boolean> {
    const ended = decodeEnd(
      await runScript(this.#redis, 'session-expire', allKeysOf(this.#keys, sid), [sid, this.#forgetMs]),
    )
    if (ended.isDone) await this.#ended(sid, ended.subscriptions)
    if (ended.isVanished) vanished.add(sid)
    return ended.isWillDue
  }

  /** Whether it was the owner's by then. */
  async #releaseOwned(
    sid: string,
    owner: string,
    expirySeconds?: number,
    session?: Session,
  ): Promise<boolean> {
    const name = `${sid} ${owner}`
    this.#releasing.add(name)
    try {
      const released = await this.#release(sid, owner, expirySeconds)
      if (!released.isDone) return false
      await this.#ended(sid, released.subscriptions)
      // Its client may be waiting to come back, and what it publishes then comes after its will; that the will
      // is stored it need not wait for. When this fails, or who wants the session does not come, the sweep comes
      // to it within a second or so.
      if (released.isWillDue && session?.isWanted !== true)
        await new Promise<void>((taken) => {
          this.#wills.publish(partitionOf(sid), `w:${sid}:${epochOf(owner)}`, taken).catch(() => undefined)
        })
      return true
    } finally {
      this.#releasing.delete(name)
    }
  }

  async #release(sid: string, owner: string, expirySeconds?: number): Promise<EndReply> {
    return decodeEnd(
      await retrying(this.#redis, () =>
        runScript(this.#redis, 'session-release', allKeysOf(this.#keys, sid), [
          sid,
          owner,
          this.#forgetMs,
          expirySeconds ?? '',
        ]),
      ),
    )
  }

  async #ended(sid: string, subscriptions: readonly Buffer[]): Promise<void> {
    const changes: Change[] = []
    const slice = new Slice()
    for (const [filter] of pairs(subscriptions)) {
      if (slice.isOver) await slice.next()
      changes.push(journaled(sid, filter.toString(), undefined))
    }
    if (changes.length > 0) await this.#events.append(changes)
  }
}
