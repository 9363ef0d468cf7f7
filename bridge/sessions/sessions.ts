// Sessions: who owns which, what outlives a connection, and when it ends. All of a session lies in one of 16
// this.#keys.partitions by hash of its Client Identifier, so that every transition is one script. State: {s<n>}:*; here
// the sessions whose clients are connected to this node. Invariants: every write of an owner names the owner
// (node id and epoch) and is refused once there is another (P6); a sid is never used again, so what was
// matched for an old session cannot reach a new one.
import type { Clock } from '../pace/clock.ts'
import type { ClusterSessions } from '../cluster.ts'
import { packMessage, type Change } from '../messages/codec.ts'
import { nameDamage } from '../redis/damage.ts'
import { BridgeError, toBridgeError } from '../errors.ts'
import { Handovers } from './handover.ts'
import { freshSid, isSid, partitionOf, type Keys } from '../redis/keys.ts'
import type { DataPlaneOptions } from '../options.ts'
import { OwedReplays } from './owed-replays.ts'
import { reportsOf, retrying, type Redis } from '../redis/redis.ts'
import { runScript } from '../redis/scripts.ts'
import type { InFlightEntry, Session, SessionRequest } from './session.ts'
import type { SessionEvents } from './session-events.ts'
import { decodeInFlight, decodeIncoming, decodeSubscriptions, numberOf, pairs } from './stored.ts'
import { encodeSubscription, journaled, Subscriptions, type StoredSubscription } from './subscriptions.ts'
import { Sweep } from './sweep.ts'
import { Wills } from './wills.ts'
import { together } from '../pace/together.ts'

const sweepMs = 1_000
/** How often claims that were not sent yet look whether Redis has gone. */
const lookMs = 100
/** Looks in which Redis answered no claim as it should: then they are refused. */
const idleLooksMax = 5
/**
 * What was applied of a publisher outlives it for so many leases: a batch of a node that is alive is not
 * later.
 */
const forgetLeases = 2
/**
 * sid, epoch, present, owner before, will due, subscriptions, in flight, incoming, n, pending, replays,
 * changed: as session-claim.lua says.
 */
type ClaimReply = [
  Buffer,
  Buffer,
  number,
  Buffer,
  Buffer,
  Buffer[],
  Buffer[],
  Buffer[],
  Buffer,
  Buffer,
  Buffer[],
  Buffer,
]

/** Most sessions that come have nothing: what they share must not be written to. */
const noSubscriptions = new Map<string, StoredSubscription>()
const noIncoming: Session['incoming'] = new Map()
const noneInFlight: readonly InFlightEntry[] = []

const tooMany = (): BridgeError =>
  new BridgeError('ERR_BRIDGE_REDIS_UNREACHABLE', 'as many CONNECTs wait for Redis as may')

export const epochOf = (owner: string): number => Number(owner.slice(owner.indexOf(' ') + 1))

export class Sessions implements ClusterSessions {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #nodeId: () => string
  readonly #events: SessionEvents
  readonly #forgetMs: number
  /** In each partition. */
  readonly #sessionsMax: number
  readonly #clock: Clock
  /** sid → session of a client that is connected here. */
  readonly #connected = new Map<string, Session>()
  /**
   * Claims under way, and sids with owners that are being released: Redis may have them as ours, and `#own`
   * does not.
   */
  readonly #claiming = new Set<number>()
  readonly #releasing = new Set<string>()
  readonly subscriptions: Subscriptions
  readonly #handovers: Handovers
  #sweeping: NodeJS.Timeout | undefined
  readonly #sweep: Sweep
  readonly #wills: Wills
  #claims = 0
  /**
   * Claims that are to be sent when Redis has answered others: so many may be unanswered as may wait, since
   * one that was sent may have been done, and can be refused no more. Called with why they are refused.
   */
  readonly #unsent = new Set<(refusal?: BridgeError) => void>()
  /** Those that were sent and wait for their first answer. */
  #sentFirst = 0
  #looking: NodeJS.Timeout | undefined
  /** When Redis answered one, or the first of those that it owes an answer was sent; looks since then. */
  #answeredAt = 0
  #idleLooks = 0
  /**
   * When the last CONNECT came, µs of cluster time: of two at this node the later one has the later time,
   * whatever becomes of the estimate.
   */
  #cameLast = 0

  constructor(
    redis: Redis,
    keys: Keys,
    nodeId: () => string,
    { leaseMs, sessionsMax }: Pick<DataPlaneOptions, 'leaseMs' | 'sessionsMax'>,
    clock: Clock,
    events: SessionEvents,
  ) {
    this.#redis = redis
    this.#keys = keys
    this.#nodeId = nodeId
    this.#forgetMs = forgetLeases * leaseMs
    this.#sessionsMax = Math.ceil(sessionsMax / this.#keys.partitions)
    this.#clock = clock
    this.#events = events
    this.subscriptions = new Subscriptions(redis, keys, events)
    this.#wills = new Wills(redis, keys, clock, this.#forgetMs, events)
    this.#sweep = new Sweep(redis, keys, clock, this.#wills, {
      expire: (sid, vanished) => this.#expire(sid, vanished),
      expireRetained: (topic) => events.expireRetained(topic),
      onVanished: (sids) => events.onVanished(sids),
    })
    this.#handovers = new Handovers((changes) => events.append(changes))
  }

  connected(sid: string): Session | undefined {
    return this.#connected.get(sid)
  }

  get size(): number {
    return this.#connected.size
  }

  get all(): Iterable<Session> {
    return this.#connected.values()
  }

  /** The keys of a partition and of a session in it, as the scripts want them. */
  #keysOf(sid: string): string[] {
    const partition = partitionOf(sid)
    return [
      ...(['clients', 'owners', 'due', 'wills'] as const).map((noun) =>
        this.#keys.partition(partition, noun),
      ),
      ...(['session', 'subscriptions', 'queue', 'inflight', 'incoming'] as const).map((noun) =>
        this.#keys.session(sid, noun),
      ),
    ]
  }

  /**
   * Makes this node the owner of the client's session. When it resolves no earlier connection of the client
   * can touch the session, and nothing that one hands in from now on is acknowledged: the takeover stands in
   * the journal, which every PUBLISH of QoS ≥ 1 catches up with before it is acknowledged. Of two claims the
   * one whose CONNECT came later has the session, on whatever node and however often either has to ask again:
   * by Redis' clock, which each node knows to about half a round trip (clock.ts). Redis says with STALE when
   * that was. An owner on another node is asked for it first (handover.ts).
   * @param abandoned whether the client has left meanwhile: it may be with another node by now, and be thrown
   * out there
   * @param givenUp settles when nobody waits for it any more
   * @throws BridgeError ERR_BRIDGE_QUOTA when there are as many sessions as there may be, ERR_BRIDGE_CLOSED
   * when it has left, ERR_BRIDGE_MOVED
   *   when it has connected anew meanwhile; why Redis cannot, when as many as may wait for it
   */
  async claim(
    request: SessionRequest,
    abandoned: () => boolean = () => false,
    givenUp?: Promise<void>,
  ): Promise<Session> {
    const place = this.#place()
    const answered = place instanceof Promise ? await place : place
    const partition = this.#keys.shardOf(request.clientId)
    const claim = ++this.#claims // sent again it is known by this
    // a session that an attempt began whose reply was lost is not an earlier one
    const proposed = new Set<string>()
    // sessions that an attempt whose reply was lost may have taken from somebody
    const before = new Set<string>()
    let known = '' // most clients are new; of another the refusal tells the session
    // a client that has a session comes to take what fills Redis; a new session waits for room, until the
    // deadline of CONNECT
    let whenFull = false
    let asked = ''
    const came = (this.#cameLast = Math.max(
      this.#cameLast + 1,
      Math.round(this.#clock.toCluster(request.cameAt ?? performance.now()) * 1_000),
    ))
    this.#claiming.add(claim)
    const handover = this.#handovers.begin()
    let waits = false
    // an attempt whose reply was lost may have made us the owner: that must be found out, and undone by the
    // caller
    let unknown = false
    return retrying(
      this.#redis,
      async () => {
        for (;;) {
          if (!unknown && abandoned())
            throw new BridgeError(
              'ERR_BRIDGE_CLOSED',
              `${request.clientId} left before its session was claimed`,
            )
          const fresh = freshSid(partition)
          proposed.add(fresh)
          const sent = this.#redis.status === 'ready' // otherwise it is refused here
          try {
            const reply = (await this.#answered(() =>
              runScript(
                this.#redis,
                'session-claim',
                [
                  ...this.#keysOf(known === '' ? fresh : known),
                  this.#keys.session(fresh, 'session'),
                  this.#keys.partition(partition, 'appended'),
                ],
                [
                  request.clientId,
                  known,
                  fresh,
                  this.#nodeId(),
                  request.cleanStart ? '1' : '0',
                  request.expirySeconds,
                  request.will === undefined ? '' : packMessage(request.will.message, this.#clock),
                  request.will?.delaySeconds ?? 0,
                  this.#forgetMs,
                  claim,
                  this.#sessionsMax,
                  asked,
                  abandoned() ? '1' : '0',
                  handover.isPatient ? '1' : '0',
                  came,
                ],
                { whenFull },
              ),
            )) as ClaimReply
            if (proposed.has(known)) reply[2] = 0
            return await this.#toSession(request, claim, known, reply, before, handover.wills)
          } catch (reason) {
            const error = toBridgeError(reason)
            if (error.code === 'ERR_BRIDGE_FENCED') {
              await this.#events.onFenced()
              await new Promise((resolve) => setTimeout(resolve, 20))
              continue
            }
            if (error.code === 'ERR_BRIDGE_REDIS_FULL') {
              // nothing was run
              if (known === '')
                known =
                  (await this.#redis.hget(this.#keys.partition(partition, 'clients'), request.clientId)) ?? ''
              if (whenFull || !isSid(known, partition)) throw error
              whenFull = true
              continue
            }
            if (error.retryable && error.code !== 'ERR_BRIDGE_STALE') unknown ||= sent
            if (error.retryable && error.code !== 'ERR_BRIDGE_STALE' && known !== '') before.add(known)
            if (error.code !== 'ERR_BRIDGE_STALE') throw error
            const [, first = '', sid = '', leaves, owner] =
              /^STALE (\d+) (\S*)(?: ([01]) (.*))?$/.exec(error.message) ?? []
            asked = first
            known = sid
            if (owner !== undefined) await handover.met(sid, owner, leaves === '1')
          }
        }
      },
      {
        who: 'connect',
        givenUp,
        mend: (error) => {
          if (!waits && !unknown && error.retryable) this.#checkWaits(error)
          waits ||= error.retryable // it is one of those that wait
          setImmediate(answered) // then it is counted
          return false
        },
      },
    ).finally(() => {
      this.#claiming.delete(claim)
      answered()
    })
  }

  /**
   * A place among those that were sent and not answered, at once when there is one.
   * @returns gives it back, however often it is called
   * @throws BridgeError when Redis has gone before it answered as many as may wait
   */
  #place(): (() => void) | Promise<() => void> {
    let isTaken = false
    const take = (): void => {
      isTaken = true
      if (this.#sentFirst++ === 0 && (this.#redis.waits?.connects ?? 0) === 0) this.#noteAnswer()
    }
    const give = (): void => {
      if (isTaken) this.#sentFirst--
      isTaken = false
      this.#sendMore()
    }
    if (this.#unsent.size === 0 && this.#hasPlace) {
      take()
      return give
    }
    if (this.#redis.status !== 'ready' || performance.now() - this.#answeredAt > idleLooksMax * lookMs)
      throw tooMany()
    return new Promise((resolve, reject) => {
      const go = (refusal?: BridgeError): void => {
        this.#unsent.delete(go)
        if (refusal !== undefined) return reject(refusal)
        take()
        resolve(give)
      }
      this.#unsent.add(go)
      this.#looking ??= setInterval(() => this.#look(), lookMs)
    })
  }

  get #hasPlace(): boolean {
    return this.#redis.waits?.mayConnectBeside(this.#sentFirst) !== false
  }

  /** In the order in which they came. */
  #sendMore(): void {
    for (const go of this.#unsent) {
      if (!this.#hasPlace) return
      go()
    }
    clearInterval(this.#looking)
    this.#looking = undefined
  }

  /**
   * Redis is gone, says nothing, or refuses those that were sent, which are as many as may wait. A process
   * that stands still looks once in that time, and does not take its Redis for the culprit.
   */
  #look(): void {
    if (this.#redis.status !== 'ready' || ++this.#idleLooks > idleLooksMax)
      for (const go of this.#unsent) go(tooMany())
    this.#sendMore()
  }

  /** @throws BridgeError when no more claims may wait for Redis */
  #checkWaits(error: BridgeError): void {
    if (this.#redis.waits?.mayConnect === false) throw error
  }

  /** An answer that refuses nothing but this very claim is one, too. */
  async #answered<T>(claim: () => Promise<T>): Promise<T> {
    try {
      const reply = await claim()
      this.#noteAnswer()
      return reply
    } catch (error) {
      if (toBridgeError(error).kind === 'answer') this.#noteAnswer()
      throw error
    }
  }

  #noteAnswer(): void {
    this.#idleLooks = 0
    this.#answeredAt = performance.now()
  }

  async #toSession(
    request: SessionRequest,
    claim: number,
    known: string,
    reply: ClaimReply,
    uncertain: ReadonlySet<string>,
    wills: readonly string[],
  ): Promise<Session> {
    const [
      sidBytes,
      epoch,
      present,
      before,
      willDue,
      subscriptions,
      inFlight,
      incoming,
      n,
      pending,
      replays,
      changed,
    ] = reply
    const sid = sidBytes.toString()
    const owner = `${this.#nodeId()} ${epoch.toString()}`
    const reports = reportsOf(this.#redis)
    const later: string[] = []
    const stored =
      subscriptions.length === 0 ? noSubscriptions : decodeSubscriptions(subscriptions, reports, later)
    if (later.length > 0) reportsOf(this.#redis).tell('later', { where: 'subscriptions', id: sid })
    const changes: Change[] = []
    if (sid !== known)
      for (const filter of [...stored.keys(), ...later]) changes.push(journaled(known, filter, undefined))
    else if (pending.length > 0)
      for (const [filter, { options }] of stored) changes.push(journaled(sid, filter, options))
    const previous = before.toString()
    if (previous !== '' && !previous.startsWith(`${this.#nodeId()} `))
      changes.push({ type: 'taken', sid: known, owner })
    for (const sid of uncertain) changes.push({ type: 'taken', sid, owner })
    const numbers = sid === known ? Math.max(numberOf(n), Number(epoch)) : 0
    const session: Session = {
      sid,
      owner,
      claim,
      request,
      present: present === 1,
      subscriptions: sid === known ? stored : noSubscriptions,
      inFlight: inFlight.length === 0 ? noneInFlight : decodeInFlight(sid, inFlight, this.#clock, reports),
      incoming: incoming.length === 0 ? noIncoming : decodeIncoming(incoming, reports),
      replays: replays.length === 0 ? undefined : OwedReplays.of(replays, reports),
      changed: sid === known ? changed.toString() : '',
      later: sid === known ? later : [],
      n: numbers,
      unpublishedN: sid === known && numberOf(n) > 0 ? undefined : numbers,
      underWay: undefined,
      isWanted: false,
      isTaken: false,
    }
    const old = this.#connected.get(known)
    if (old !== undefined && old.request.clientId === request.clientId) {
      // the name of another client's session is damaged
      // also when it was ended: its claim may still be being journaled, and finds out by this
      this.#connected.delete(known)
      this.#events.onMoved(old)
    }
    this.#connected.set(sid, session)
    if (changes.length > 0) await this.#events.append(changes)
    if (sid === known && pending.length > 0)
      await this.subscriptions.noteJournaled(session, pending.toString())
    // Its own will before what it publishes now, which may be about the same thing; that it is stored we need
    // not wait for.
    const due = new Set([
      ...wills,
      ...(willDue.toString() === '0' ? [] : [`w:${known}:${willDue.toString()}`]),
    ])
    for (const will of due)
      await new Promise<void>((taken) => {
        this.#wills.publish(partitionOf(sid), will, taken).catch(() => undefined)
      })
    return session
  }

  /** What the journal says of a client that connects at another node, while `owner` has its session. */
  wanted(sid: string, owner: string): void {
    const session = this.#connected.get(sid)
    if (session?.owner !== owner) return
    session.isWanted = true
    this.#events.onWanted(session)
  }

  /** What the journal says of takeovers: a connection of ours whose session is another's goes. */
  taken(sid: string, owner: string): void {
    const session = this.#connected.get(sid)
    // Of two claims the earlier one may be journaled later: it is no news to the later one.
    if (session === undefined || epochOf(owner) <= epochOf(session.owner)) return
    session.isTaken = true
    this.#connected.delete(sid)
    this.#events.onMoved(session)
  }

  /**
   * The client said good-bye. Behind it whoever claims the session finds no will, as long as nobody has taken
   * it to publish it.
   * @param voidsWill DISCONNECT with reason code 0 [MQTT-3.14.4-3]
   * @param expirySeconds when DISCONNECT changes it; -1: never
   */
  async farewell(session: Session, voidsWill: boolean, expirySeconds: number | undefined): Promise<void> {
    const { sid, owner, request } = session
    const [, owners, due, wills, key] = this.#keysOf(sid)
    session.request = {
      ...request,
      will: voidsWill ? undefined : request.will,
      expirySeconds: expirySeconds ?? request.expirySeconds,
    }
    await retrying(this.#redis, () =>
      runScript(
        this.#redis,
        'session-farewell',
        [owners!, due!, wills!, key!],
        [sid, owner, voidsWill ? '1' : '0', expirySeconds ?? ''],
      ),
    )
  }

  /** Tells who waits for the session that what its client sent before takes a moment yet. */
  async leaves({ sid, owner }: Session): Promise<void> {
    const [, owners, due, wills, key] = this.#keysOf(sid)
    await retrying(this.#redis, () =>
      runScript(this.#redis, 'session-farewell', [owners!, due!, wills!, key!], [sid, owner, '0', '', '1']),
    )
  }

  /** Wills that are taken and not stored. */
  get willsUnderWay(): number {
    return this.#wills.underWay
  }

  /** Resolves when they are. */
  settled(): Promise<void> {
    return this.#wills.settled()
  }

  /** The connection is gone. */
  async release(session: Session): Promise<void> {
    if (this.#connected.get(session.sid) === session) this.#connected.delete(session.sid)
    await this.#releaseOwned(session.sid, session.owner, session.request.expirySeconds, session)
  }

  async #releaseOwned(sid: string, owner: string, expirySeconds?: number, session?: Session): Promise<void> {
    const name = `${sid} ${owner}`
    this.#releasing.add(name)
    try {
      const [released, willDue, subscriptions] = await this.#release(sid, owner, expirySeconds)
      if (released !== 1) return
      await this.#ended(sid, subscriptions)
      // Its client may be waiting to come back, and what it publishes then comes behind its will; that the will
      // is stored it need not wait for. When this fails, or who wants the session does not come, the sweep comes
      // to it within a second or so.
      if (willDue.toString() === '1' && session?.isWanted !== true)
        await new Promise<void>((taken) => {
          this.#wills.publish(partitionOf(sid), `w:${sid}:${epochOf(owner)}`, taken).catch(() => undefined)
        })
    } finally {
      this.#releasing.delete(name)
    }
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
    if (isOurs() || this.#claiming.has(Number(claim))) return
    nameDamage(
      this.#redis,
      this.#keys.partition(partitionOf(sid), 'owners'),
      'a session that was released had its owner again; it was released once more',
    )
    await this.#releaseOwned(sid, owner)
  }

  #release(sid: string, owner: string, expirySeconds?: number): Promise<[number, Buffer, Buffer[]]> {
    return retrying(this.#redis, () =>
      runScript(this.#redis, 'session-release', this.#keysOf(sid), [
        sid,
        owner,
        this.#forgetMs,
        expirySeconds ?? '',
      ]),
    ) as Promise<[number, Buffer, Buffer[]]>
  }

  async #ended(sid: string, subscriptions: readonly Buffer[]): Promise<void> {
    const changes = [...pairs(subscriptions)].map(([filter]) => journaled(sid, filter.toString(), undefined))
    if (changes.length > 0) await this.#events.append(changes)
  }

  /** Whether Redis has this node as the owner. */
  async isOwned({ sid, owner }: Session): Promise<boolean> {
    return (
      (await retrying(this.#redis, () =>
        this.#redis.hget(this.#keys.partition(partitionOf(sid), 'owners'), sid),
      )) === owner
    )
  }

  subscribe(...what: Parameters<Subscriptions['subscribe']>): Promise<void> {
    return this.subscriptions.subscribe(...what)
  }

  unsubscribe(...what: Parameters<Subscriptions['unsubscribe']>): Promise<void> {
    return this.subscriptions.unsubscribe(...what)
  }

  /** Tells all nodes of the stored subscriptions of a session that is no client's yet. */
  announce(sid: string, subscriptions: ReadonlyMap<string, StoredSubscription>): Promise<void> {
    return this.#events.append(
      [...subscriptions].map(([filter, { options }]) => journaled(sid, filter, options)),
    )
  }

  // Time

  /**
   * Begins to look, every second, for what is due, as long as `first` says that this node does it for all.
   */
  start(first: () => boolean, onError: (error: Error) => void): void {
    this.#sweeping = setTimeout(() => {
      const swept = first() ? this.sweep().catch(onError) : Promise.resolve()
      void swept.finally(() => {
        if (this.#sweeping !== undefined) this.start(first, onError)
      })
    }, sweepMs)
    this.#sweeping.unref()
  }

  close(): void {
    clearTimeout(this.#sweeping)
    this.#sweeping = undefined
    const closing = new BridgeError('ERR_BRIDGE_CLOSED', 'the bridge is closing')
    for (const go of this.#unsent) go(closing)
    this.#sendMore()
  }

  /**
   * Publishes the wills, ends the sessions and forgets the publishers that are due. Anybody may; one node of
   * the cluster does, every second.
   */
  sweep(): Promise<void> {
    return this.#sweep.all()
  }

  /** Whether its will is due now. */
  async #expire(sid: string, vanished: Set<string>): Promise<boolean> {
    const [ended, willDue, subscriptions] = (await runScript(
      this.#redis,
      'session-expire',
      this.#keysOf(sid),
      [sid, this.#forgetMs],
    )) as [number, Buffer, Buffer[]]
    if (ended > 0) await this.#ended(sid, subscriptions)
    if (ended === 2) vanished.add(sid)
    return willDue.toString() === '1'
  }

  // Faults

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
          const [released, , subscriptions] = await this.#release(sid, owner)
          if (released === 1) await this.#ended(sid, subscriptions) // wills are swept within a second
        })
      } while (cursor !== '0')
    }
  }

  /**
   * After Redis lost its data: every session that is connected here is written down again, as we know it.
   * Resolves to what to journal of them.
   */
  async assertAll(): Promise<Change[]> {
    const stale: Change[] = []
    await together([...this.#connected.values()], async (session) => {
      for (const change of (await this.#assert(session)) ?? []) stale.push(change)
    })
    return stale
  }

  /**
   * The same of some partitions, or of some sessions; and all nodes are told again, who may have read a
   * snapshot without them.
   */
  async assertSome(sessions: Iterable<Session>): Promise<Session[]> {
    const changes: Change[] = []
    const written: Session[] = []
    await together(sessions, async (session) => {
      const stale = await this.#assert(session)
      if (stale === undefined) return
      written.push(session)
      for (const change of stale) changes.push(change)
      for (const [filter, { options }] of session.subscriptions)
        changes.push(journaled(session.sid, filter, options))
    })
    if (changes.length > 0) await this.#events.append(changes)
    for (const session of written) this.#events.onWritten(session)
    return written
  }

  /** Sessions that are connected here, of these partitions. */
  in(partitions: readonly number[]): Session[] {
    return [...this.#connected.values()].filter(({ sid }) => partitions.includes(partitionOf(sid)))
  }

  /** Another owner stands in Redis: ours is written down again when it is the later one. */
  async reclaim(session: Session): Promise<boolean> {
    if ((await this.assertSome([session])).length === 0) return false
    nameDamage(
      this.#redis,
      this.#keys.partition(partitionOf(session.sid), 'owners'),
      'a connected session had an earlier owner again; its node wrote it down again',
    )
    return true
  }

  /** A message found no session where one was subscribed: ours is written down again. */
  async missing(sid: string): Promise<void> {
    const session = this.#connected.get(sid)
    if (session === undefined) return
    nameDamage(
      this.#redis,
      this.#keys.partition(partitionOf(sid), 'owners'),
      'a connected session was missing; its owner wrote it down again',
    )
    await this.assertSome([session])
  }

  /**
   * What the journal must say of it besides; undefined: somebody else has it by now, or the partition has no
   * place for us.
   */
  async #assert(session: Session): Promise<Change[] | undefined> {
    let earlier: readonly [sid: string, epoch: number] | undefined
    for (;;) {
      try {
        const stale = await retrying(this.#redis, async () =>
          this.#connected.get(session.sid) === session
            ? ((await this.#writeDown(session, earlier)) as Buffer[])
            : undefined,
        )
        return stale?.map((filter) => journaled(session.sid, filter.toString(), undefined))
      } catch (reason) {
        const error = toBridgeError(reason)
        // the audit finds it, too, and writes all of it down
        if (error.code === 'ERR_BRIDGE_FENCED') return undefined
        if (error.code !== 'ERR_BRIDGE_MOVED') throw error
        const [, other = ''] = / has another session (\S+)$/.exec(error.message) ?? []
        const epoch =
          isSid(other, partitionOf(session.sid)) && other !== earlier?.[0]
            ? await this.#epochOf(other)
            : Infinity
        if (epoch < epochOf(session.owner)) earlier = [other, epoch]
        else {
          // otherwise it left, or was claimed again here
          if (this.#connected.get(session.sid) === session) this.taken(session.sid, ' Infinity')
          return undefined
        }
      }
    }
  }

  /** When a session was claimed last. */
  async #epochOf(sid: string): Promise<number> {
    return Number(
      (await retrying(this.#redis, () => this.#redis.hget(this.#keys.session(sid, 'session'), 'epoch'))) ?? 0,
    )
  }

  #writeDown(
    session: Session,
    [earlier, earlierEpoch]: readonly [sid: string, epoch: number] = ['', 0],
  ): Promise<unknown> {
    const { request, sid, owner, claim, subscriptions, changed, later } = session
    const [clients, owners, due, wills, key, subscriptionsKey, , inflight, incoming] = this.#keysOf(sid) as [
      string,
      string,
      string,
      string,
      string,
      string,
      string,
      string,
      string,
    ]
    const underWay = session.underWay?.() ?? { inFlight: [], incoming: [], fields: [] }
    return runScript(
      this.#redis,
      'session-assert',
      [
        clients,
        owners,
        due,
        wills,
        key,
        subscriptionsKey,
        inflight,
        incoming,
        this.#keys.partition(partitionOf(sid), 'appended'),
      ],
      [
        request.clientId,
        sid,
        owner,
        epochOf(owner),
        claim,
        request.expirySeconds,
        request.will === undefined ? '' : packMessage(request.will.message, this.#clock),
        request.will?.delaySeconds ?? 0,
        session.n === session.unpublishedN ? 0 : session.n,
        changed,
        earlier,
        earlierEpoch,
        later.length,
        ...later,
        ...[underWay.inFlight, underWay.incoming, underWay.fields].flatMap<string | number | Buffer>(
          (entries) => [2 * entries.length, ...entries.flat()],
        ),
        ...[...subscriptions].flatMap(([filter, subscription]) => [filter, encodeSubscription(subscription)]),
      ],
    )
  }

  /** What the journal must say of all sessions that are connected here: after Redis lost its data. */
  *changes(): Iterable<Change> {
    for (const { sid, subscriptions } of this.#connected.values())
      for (const [filter, { options }] of subscriptions) yield journaled(sid, filter, options)
  }
}
