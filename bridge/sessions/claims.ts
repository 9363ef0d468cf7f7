// Claims: this node becomes the owner of a client's session, for a CONNECT. Of a claim that Redis did not
// answer it is found out whether it was done before anything else becomes of it. State: {s<n>}:clients,
// owners and what the session has; here which claims are under way.
import { packMessage, type Change } from '../messages/codec.ts'
import { BridgeError, toBridgeError } from '../errors.ts'
import type { DataPlaneOptions } from '../options.ts'
import type { Clock } from '../pace/clock.ts'
import { nextConnectTurn, Slice, turnIsOver } from '../pace/turns.ts'
import { freshSid, isSid, partitionOf, type Keys } from '../redis/keys.ts'
import { retryPause } from '../pace/retry.ts'
import { reportsOf, retrying, type Redis } from '../redis/redis.ts'
import { runScript } from '../redis/scripts.ts'
import { ClaimQueue } from './claim-queue.ts'
import type { ConnectedSessions } from './connected.ts'
import { Handovers } from './handover.ts'
import { OwedReplays } from './owed-replays.ts'
import { decodeClaim, type ClaimReply } from './replies.ts'
import type { SessionContext } from './session-context.ts'
import type { SessionEvents } from './session-events.ts'
import { allKeysOf } from './session-keys.ts'
import type { InFlightEntry, Session, SessionRequest } from './session.ts'
import { decodeInFlight, decodeIncoming, readSubscriptions, numberOf } from './stored.ts'
import { journaled, type StoredSubscription } from './stored-subscription.ts'
import type { Subscriptions } from './subscriptions.ts'
import type { Wills } from './due-wills.ts'

/** Most sessions that come have nothing: what they share must not be written to. */
const noSubscriptions = new Map<string, StoredSubscription>()
const noIncoming: Session['incoming'] = new Map()
const noneInFlight: readonly InFlightEntry[] = []

/** One attempt of a claim. */
interface Attempt {
  readonly claim: number
  /** The session that the client is known to have; empty: none. */
  readonly known: string
  /** The sid of the session that may be begun. */
  readonly fresh: string
  /** When the claim came first, as Redis said; empty: it has not. */
  readonly asked: string
  readonly came: number
  readonly hasLeft: boolean
  /** Spares an owner on another node, which is to be asked first. */
  readonly isPatient: boolean
  /** Also when Redis is full. */
  readonly whenFull: boolean
}

export class Claims {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #nodeId: () => string
  readonly #clock: Clock
  readonly #forgetMs: number
  readonly #connected: ConnectedSessions
  readonly #events: SessionEvents
  readonly #subscriptions: Subscriptions
  readonly #wills: Wills
  /** In each partition. */
  readonly #sessionsMax: number
  readonly #queue: ClaimQueue
  readonly #handovers: Handovers
  #claims = 0
  /** Claims under way: Redis may have their sessions as ours, and they are not connected here yet. */
  readonly #claiming = new Set<number>()
  /**
   * When the last CONNECT came, µs of cluster time: of two at this node the later one has the later time,
   * whatever becomes of the estimate.
   */
  #cameLast = 0

  /** In each partition; 0: any number, and they are not counted. */
  readonly #userSessionsMax: number
  readonly #tenantSessionsMax: number

  constructor(
    { redis, keys, nodeId, clock, forgetMs, connected, events }: SessionContext,
    subscriptions: Subscriptions,
    wills: Wills,
    {
      sessionsMax,
      userSessionsMax = 0,
      tenantSessionsMax = 0,
    }: Pick<DataPlaneOptions, 'sessionsMax' | 'userSessionsMax' | 'tenantSessionsMax'>,
  ) {
    this.#userSessionsMax = userSessionsMax
    this.#tenantSessionsMax = Math.ceil(tenantSessionsMax / keys.partitions)
    this.#redis = redis
    this.#keys = keys
    this.#nodeId = nodeId
    this.#clock = clock
    this.#forgetMs = forgetMs
    this.#connected = connected
    this.#events = events
    this.#subscriptions = subscriptions
    this.#wills = wills
    this.#sessionsMax = Math.ceil(sessionsMax / keys.partitions)
    this.#queue = new ClaimQueue(redis)
    this.#handovers = new Handovers((changes) => events.append(changes))
  }

  isUnderWay(claim: number): boolean {
    return this.#claiming.has(claim)
  }

  /** Those that were not sent are refused. */
  close(): void {
    this.#queue.close(new BridgeError('ERR_BRIDGE_CLOSED', 'the bridge is closing'))
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
   * @throws BridgeError ERR_BRIDGE_QUOTA when there are as many sessions as there may be, ERR_BRIDGE_FOREIGN when it
   * is another user's, ERR_BRIDGE_CLOSED when it has left, ERR_BRIDGE_MOVED
   *   when it has connected anew meanwhile; why Redis cannot, when as many as may wait for it
   */
  async claim(
    request: SessionRequest,
    abandoned: () => boolean = () => false,
    givenUp?: Promise<void>,
  ): Promise<Session> {
    const place = this.#queue.enter()
    const answered = place instanceof Promise ? await place : place
    const partition = this.#keys.partitionFor(request.clientId)
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
            const reply = await this.#send(request, {
              claim,
              known,
              fresh,
              asked,
              came,
              hasLeft: abandoned(),
              isPatient: handover.isPatient,
              whenFull,
            })
            const claimed = decodeClaim(reply)
            const isPresent = claimed.isPresent && !proposed.has(known)
            return await this.#toSession(
              request,
              claim,
              known,
              { ...claimed, isPresent },
              before,
              handover.wills,
            )
          } catch (reason) {
            const error = toBridgeError(reason)
            if (error.code === 'ERR_BRIDGE_FENCED') {
              await this.#events.onFenced()
              await retryPause()
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
            const { claim: stale } = error.details
            if (stale === undefined) {
              if (error.retryable) unknown ||= sent
              if (error.retryable && known !== '') before.add(known)
              throw error
            }
            if (turnIsOver()) await nextConnectTurn() // the answers to a thousand claims come together
            asked = stale.asked
            known = stale.sid
            if (stale.owner !== undefined) await handover.met(stale.sid, stale.owner.name, stale.owner.leaves)
          }
        }
      },
      {
        who: 'connect',
        givenUp,
        counted: answered, // from those sent to those that wait in one step: otherwise it counts twice, or not at all
        mend: (error) => {
          if (!waits && !unknown && error.retryable) this.#queue.stay(error)
          waits ||= error.retryable // it is one of those that wait
          return false
        },
      },
    ).finally(() => {
      this.#claiming.delete(claim)
      answered()
    })
  }

  /** Runs session-claim.lua. */
  #send(
    { clientId, cleanStart, expirySeconds, will, user = '', mayTakeAnybodys = false }: SessionRequest,
    { claim, known, fresh, asked, came, hasLeft, isPatient, whenFull }: Attempt,
  ): Promise<unknown> {
    const partition = partitionOf(fresh)
    const keys = [
      ...allKeysOf(this.#keys, known === '' ? fresh : known),
      this.#keys.session(fresh, 'session'),
      this.#keys.partition(partition, 'appended'),
      this.#keys.partition(partition, 'users'),
    ]
    const argv = [
      clientId,
      known,
      fresh,
      this.#nodeId(),
      cleanStart ? '1' : '0',
      expirySeconds,
      will === undefined ? '' : packMessage(will.message, this.#clock),
      will?.delaySeconds ?? 0,
      this.#forgetMs,
      claim,
      this.#sessionsMax,
      asked,
      hasLeft ? '1' : '0',
      isPatient ? '1' : '0',
      came,
      user,
      mayTakeAnybodys ? '1' : '0',
      this.#userSessionsMax,
      this.#tenantSessionsMax,
    ]
    return this.#queue.send(() => runScript(this.#redis, 'session-claim', keys, argv, { whenFull }))
  }

  async #toSession(
    request: SessionRequest,
    claim: number,
    known: string,
    reply: ClaimReply,
    uncertain: ReadonlySet<string>,
    wills: readonly string[],
  ): Promise<Session> {
    const { sid, subscriptions, inFlight, incoming, n, pending, replays } = reply
    const owner = `${this.#nodeId()} ${reply.epoch}`
    const reports = reportsOf(this.#redis)
    const later: string[] = []
    const stored = subscriptions.length === 0 ? noSubscriptions : new Map<string, StoredSubscription>()
    const numbers = sid === known ? Math.max(numberOf(n), Number(reply.epoch)) : 0
    const session: Session = {
      sid,
      owner,
      claim,
      request,
      isResumed: reply.isPresent,
      lost: reply.lost,
      present: reply.isPresent && reply.lost === 0,
      subscriptions: sid === known ? stored : noSubscriptions,
      reading: undefined,
      inFlight: inFlight.length === 0 ? noneInFlight : decodeInFlight(sid, inFlight, this.#clock, reports),
      incoming: incoming.length === 0 ? noIncoming : decodeIncoming(incoming, reports),
      replays: replays.length === 0 ? undefined : OwedReplays.of(replays, reports),
      changed: sid === known ? reply.changed : '',
      later: sid === known ? later : [],
      n: numbers,
      unpublishedN: sid === known && numberOf(n) > 0 ? undefined : numbers,
      underWay: undefined,
      isWanted: false,
      isTaken: false,
    }
    const old = this.#connected.get(known)
    // Where `known` names the session of another client that name is damaged: that session is left alone. The earlier
    // session of this client is moved also when it was ended: its claim, which may still be being journaled, finds
    // out so.
    if (old !== undefined && old.request.clientId === request.clientId) this.#connected.move(old)
    this.#connected.add(session) // in the order of the replies, and heard of when another node takes it
    const slice = new Slice()
    if (subscriptions.length > 0) {
      session.reading = readSubscriptions(subscriptions, reports, stored, later, slice)
      await session.reading
      session.reading = undefined
    }
    if (later.length > 0) reports.tell('later', { where: 'subscriptions', id: sid })
    const changes: Change[] = []
    const { previousOwner } = reply
    if (previousOwner !== '' && !previousOwner.startsWith(`${this.#nodeId()} `))
      changes.push({ type: 'taken', sid: known, owner })
    for (const sid of uncertain) changes.push({ type: 'taken', sid, owner })
    const told = (filter: string, options: number | undefined): number =>
      changes.push(journaled(known, filter, options))
    if (sid !== known)
      for (const filter of [...stored.keys(), ...later]) {
        if (slice.isOver) await slice.next()
        told(filter, undefined)
      }
    else if (pending.length > 0)
      for (const [filter, { options }] of stored) {
        if (slice.isOver) await slice.next()
        told(filter, options)
      }
    if (changes.length > 0) await this.#events.append(changes)
    if (sid === known && pending.length > 0) await this.#subscriptions.noteJournaled(session, pending)
    // Its own will before what it publishes now, which may be about the same thing; that it is stored we need
    // not wait for.
    const due = new Set([...wills, ...(reply.willDue === undefined ? [] : [`w:${known}:${reply.willDue}`])])
    for (const will of due)
      await new Promise<void>((taken) => {
        this.#wills.publish(partitionOf(sid), will, taken).catch(() => undefined)
      })
    return session
  }
}
