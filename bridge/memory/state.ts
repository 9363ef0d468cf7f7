// All that a node without Redis must not forget: sessions and Retained Messages. It changes by records alone,
// and the same records in the same order make the same state: so a file of them is all of it (state-file.ts). A
// record about a session that is not there changes nothing. Bodies are messages as codec.ts packs them.
// State: this process.
import type { Field } from '../sessions/owed-replays.ts'
import { tenantOfName } from '../matching/tenant.ts'
import type { StoredSubscription } from '../sessions/stored-subscription.ts'
import { StoredBytes } from './stored-bytes.ts'
import { Queue } from './queue.ts'
import type { DueWill, StoredState, StoredWill } from './stored-state.ts'

export interface RetainedValue {
  readonly stamp: number
  readonly body: Buffer
}

/** One change. What happened in one turn stands in the file as a whole, or not at all. */
export type StateRecord =
  | {
      readonly type: 'claimed'
      readonly sid: string
      readonly clientId: string
      /** Undefined: nobody knows, and whose the session was it stays. */
      readonly user: string | undefined
      readonly epoch: number
      readonly expiry: number
      readonly will: StoredWill | undefined
    }
  | {
      readonly type: 'farewell'
      readonly sid: string
      readonly voidsWill: boolean
      readonly expiry: number | undefined
    }
  | { readonly type: 'released'; readonly sid: string; readonly at: number }
  | { readonly type: 'will-gone'; readonly sid: string }
  | { readonly type: 'will'; readonly id: number; readonly will: DueWill | undefined }
  | { readonly type: 'ended'; readonly sid: string }
  | {
      readonly type: 'subscribed'
      readonly sid: string
      readonly filter: string
      readonly subscription: StoredSubscription
    }
  | { readonly type: 'unsubscribed'; readonly sid: string; readonly filter: string }
  | { readonly type: 'published'; readonly sid: string; readonly n: number }
  | { readonly type: 'queued'; readonly body: Buffer; readonly sids: readonly string[] }
  | { readonly type: 'dropped'; readonly sid: string; readonly count: number }
  | Served
  | {
      readonly type: 'retained'
      readonly topic: string
      readonly stamp: number
      readonly body: Buffer | undefined
    }
  | { readonly type: 'session'; readonly whole: StoredState }

/** What an owner wrote: as redis/lua/session-serve.lua does it. */
export interface Served {
  readonly type: 'served'
  readonly sid: string
  readonly n: number
  readonly acknowledged: readonly number[]
  readonly received: readonly number[]
  readonly incoming: readonly (readonly [messageId: number, entry: string])[]
  readonly released: readonly number[]
  readonly order: number
  readonly given: readonly (readonly [messageId: number, body: Buffer])[]
  /** Under which identifiers messages came out of the queue. */
  readonly moved: readonly number[]
  readonly fields: readonly Field[]
}

export class State {
  readonly sessions = new Map<string, StoredState>()
  /** Client Identifier → sid */
  readonly clients = new Map<string, string>()
  /** User → sids of what is the user's. */
  readonly #ofUsers = new Map<string, Set<string>>()
  /** How many Client Identifiers of each tenant stand in `clients`. */
  readonly #ofTenants = new Map<string, number>()
  readonly retained = new Map<string, RetainedValue>()
  /** Wills that are due and not decided yet, by number. */
  readonly wills = new Map<number, DueWill>()
  /** Of what is retained. */
  retainedBytes = 0
  /** The last one that was given. */
  stamp = 0
  /** Messages of sessions. */
  readonly held = new StoredBytes()

  of(clientId: string): StoredState | undefined {
    return this.sessions.get(this.clients.get(clientId) ?? '')
  }

  apply(record: StateRecord): void {
    switch (record.type) {
      case 'claimed':
        return this.#claim(record)
      case 'retained':
        return this.#retain(record)
      case 'session':
        return this.#put(record.whole)
      case 'will':
        return this.#setDueWill(record)
      case 'queued':
        for (const sid of record.sids) this.#queue(sid, record.body)
        return
      default:
    }
    const session = this.sessions.get(record.sid)
    if (session === undefined) return
    switch (record.type) {
      case 'farewell':
        if (record.voidsWill) this.#setWill(session, undefined)
        session.expiry = record.expiry ?? session.expiry
        break
      case 'released':
        session.isOwned = false
        session.releasedAt = record.at
        break
      case 'will-gone':
        this.#setWill(session, undefined)
        break
      case 'ended':
        this.#end(session)
        break
      case 'subscribed':
        session.subscriptions.set(record.filter, record.subscription)
        break
      case 'unsubscribed':
        session.subscriptions.delete(record.filter)
        break
      case 'published':
        session.published = Math.max(session.published, record.n)
        break
      case 'dropped':
        for (let i = 0; i < record.count; i++) this.held.drop(session.queue.shift())
        this.held.resized(session)
        break
      case 'served':
        serve(session, record, this.held)
        this.held.resized(session)
    }
  }

  #queue(sid: string, body: Buffer): void {
    const session = this.sessions.get(sid)
    if (session === undefined) return
    session.queue.push(body)
    this.held.take(body)
    this.held.resized(session)
  }

  #setWill(session: StoredState, will: StoredWill | undefined): void {
    this.held.drop(session.will?.body)
    this.held.take(will?.body)
    session.will = will
  }

  #setDueWill({ id, will }: Extract<StateRecord, { type: 'will' }>): void {
    this.held.drop(this.wills.get(id)?.body)
    this.held.take(will?.body)
    if (will === undefined) this.wills.delete(id)
    else this.wills.set(id, will)
  }

  #claim({ sid, clientId, user, epoch, expiry, will }: Extract<StateRecord, { type: 'claimed' }>): void {
    const session = this.sessions.get(sid) ?? emptySession(sid, clientId)
    this.#setWill(session, will)
    if (user !== undefined && user !== session.user) this.#leaveUser(session)
    session.user = user ?? session.user
    this.#note(Object.assign(session, { epoch, expiry, isOwned: true }))
  }

  #put(session: StoredState): void {
    const before = this.sessions.get(session.sid)
    if (before !== undefined) this.held.dropAll(before)
    this.held.takeAll(session)
    this.#note(session)
  }

  /** Sessions of a user. */
  *sessionsOf(user: string): Iterable<StoredState> {
    for (const sid of this.#ofUsers.get(user) ?? []) yield this.sessions.get(sid)!
  }

  #leaveUser({ sid, user }: StoredState): void {
    if (user === undefined) return
    const sids = this.#ofUsers.get(user)
    sids?.delete(sid)
    if (sids?.size === 0) this.#ofUsers.delete(user)
  }

  /** Sessions of a tenant. */
  sessionsOfTenant(tenant: string): number {
    return this.#ofTenants.get(tenant) ?? 0
  }

  #countOfTenant(clientId: string, by: 1 | -1): void {
    const tenant = tenantOfName(clientId)
    if (tenant === undefined) return
    const count = this.sessionsOfTenant(tenant) + by
    if (count > 0) this.#ofTenants.set(tenant, count)
    else this.#ofTenants.delete(tenant)
  }

  #note(session: StoredState): void {
    const { sid, user } = session
    if (!this.clients.has(session.clientId)) this.#countOfTenant(session.clientId, 1)
    if (user !== undefined) {
      const sids = this.#ofUsers.get(user)
      if (sids === undefined) this.#ofUsers.set(user, new Set([sid]))
      else sids.add(sid)
    }
    this.sessions.set(session.sid, session)
    this.clients.set(session.clientId, session.sid)
  }

  #end(session: StoredState): void {
    const { sid, clientId } = session
    this.held.dropAll(session)
    this.#leaveUser(session)
    this.sessions.delete(sid)
    if (this.clients.get(clientId) !== sid) return
    this.clients.delete(clientId)
    this.#countOfTenant(clientId, -1)
  }

  #retain({ topic, stamp, body }: Extract<StateRecord, { type: 'retained' }>): void {
    this.stamp = Math.max(this.stamp, stamp)
    this.retainedBytes += (body?.length ?? 0) - (this.retained.get(topic)?.body.length ?? 0)
    if (body === undefined) this.retained.delete(topic)
    else this.retained.set(topic, { stamp, body })
  }
}

const emptySession = (sid: string, clientId: string): StoredState => ({
  sid,
  clientId,
  user: undefined,
  epoch: 0,
  isOwned: false,
  expiry: 0,
  will: undefined,
  releasedAt: 0,
  subscriptions: new Map(),
  queue: new Queue(),
  inFlight: new Map(),
  incoming: new Map(),
  n: 0,
  published: 0,
  fields: new Map(),
})

function serve(
  session: StoredState,
  { n, acknowledged, received, incoming, released, order, given, moved, fields }: Served,
  held: StoredBytes,
): void {
  const { inFlight, queue } = session
  for (const id of acknowledged) {
    held.drop(inFlight.get(id)?.body)
    inFlight.delete(id)
  }
  for (const id of received) {
    const delivery = inFlight.get(id)
    if (delivery === undefined) continue
    held.drop(delivery.body)
    inFlight.set(id, { order: delivery.order, body: undefined })
  }
  for (const [id, entry] of incoming) session.incoming.set(id, entry)
  if (incoming.length > 0) session.n = n
  for (const id of released) session.incoming.delete(id)
  let next = order
  for (const [id, body] of given) {
    held.take(body)
    inFlight.set(id, { order: next++, body })
  }
  for (const id of moved) inFlight.set(id, { order: next++, body: queue.shift() })
  for (const [name, value] of fields)
    if (value === '') session.fields.delete(name)
    else session.fields.set(name, value)
}
