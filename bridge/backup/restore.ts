// Brings what a backup has (lines.ts) into a cluster in Redis. It joins as a node for as long as it takes, so that nodes
// that run know at once of what it brings. A session is built apart, its queue before its subscriptions, and given to its
// client by one script when it is whole, so that whoever is killed here leaves nothing half: what was built apart ends
// within an hour. What stands there is never changed: a session, a topic, a user that the target has stays as it is, and
// what a run that was ended has restored is not restored twice. But a group gets its backlog from
// the run alone that gives it members. State: none. Bound: `sessionsAtOnce` sessions, each
// with its messages, in memory.
import { DataPlane } from '../data-plane.ts'
import { Reports } from '../diagnostics.ts'
import { BridgeError } from '../errors.ts'
import { groupIds, type GroupHolder } from '../groups/group-holder.ts'
import { isShared, sharedFilterOf } from '../groups/shared-filter.ts'
import { ownTopic } from '../matching/tenant.ts'
import { isValidFilter, isValidTopic } from '../matching/topic.ts'
import { packMessage } from '../messages/codec.ts'
import type { Message } from '../messages/message.ts'
import type { DataPlaneOptions } from '../options.ts'
import { Waits } from '../pace/waits.ts'
import { banChanges } from '../redis/redis-bans.ts'
import { freshSid, type Keys } from '../redis/keys.ts'
import { allDone, retrying, type Redis } from '../redis/redis.ts'
import { runScript } from '../redis/scripts.ts'
import { accessChanges } from '../redis/redis-access.ts'
import { SessionOption } from '../sessions/session-options.ts'
import { encodeSubscription, type StoredSubscription } from '../sessions/stored-subscription.ts'
import { messageOf, readLines, type Line, type StoredMessage } from './lines.ts'

/** No node of an operator can have this name; two at once are refused as one name twice. */
const nodeName = '~restore'
const sessionsAtOnce = 50
const messagesAtOnce = 500
/** A session that was built apart and not given to its client ends after so long. */
const apartMs = 3_600_000

type Of<Kind extends Line['kind']> = Extract<Line, { readonly kind: Kind }>

export interface RestoreCounts {
  /** Found in the file, and of these brought now; the others were there already. */
  readonly sessions: { found: number; restored: number }
  readonly messages: { found: number; restored: number }
  readonly retained: { found: number; restored: number }
  readonly backlog: { found: number; restored: number }
  readonly users: { found: number; restored: number }
  readonly bans: { found: number; restored: number }
}

export interface RestoreRequest {
  /** The lines of the file, from its beginning. */
  readonly open: () => AsyncIterable<string>
  /** Also into what is not empty. */
  readonly isAdding: boolean
  readonly onProgress: (counts: Readonly<RestoreCounts>) => void
}

/** What the line before may be of those that belong to another one. */
const follows: Readonly<Partial<Record<Line['kind'], readonly Line['kind'][]>>> = {
  will: ['session'],
  inflight: ['session', 'will', 'inflight'],
  queued: ['session', 'will', 'inflight', 'queued'],
  backlog: ['group', 'backlog'],
}

/** A session of the file and what follows it. */
interface Whole {
  readonly session: Of<'session'>
  readonly inflight: Of<'inflight'>[]
  readonly queued: StoredMessage[]
  will: Of<'will'> | undefined
}

const none = (): { found: number; restored: number } => ({ found: 0, restored: 0 })

/**
 * The whole file is read once before anything is written: what is damaged, or was cut off, is not restored by half.
 * @throws BridgeError ERR_BRIDGE_BACKUP when it is none, or the target is not empty; ERR_BRIDGE_DUPLICATE_NODE when
 * another restore runs; ERR_BRIDGE_CLOSED when it was ended
 */
export async function restore(
  options: Omit<DataPlaneOptions, 'name'>,
  request: RestoreRequest,
  ended: AbortSignal,
): Promise<RestoreCounts> {
  let lines = 0
  let last: Line['kind'] = 'rules'
  for await (const line of readLines(request.open())) {
    check(line)
    if (!(follows[line.kind]?.includes(last) ?? true)) throw bad(`the place of ${line.kind}`)
    last = line.kind
    lines++
  }
  if (lines === 0) throw new BridgeError('ERR_BRIDGE_BACKUP', 'there is nothing in it')
  const reports = new Reports(nodeName)
  const waits = new Waits(reports, 0)
  const interrupted = new Promise<never>((_, reject) => {
    const end = (): void => reject(new BridgeError('ERR_BRIDGE_CLOSED', 'it was ended before it was done'))
    if (ended.aborted) end()
    else ended.addEventListener('abort', end, { once: true })
  })
  interrupted.catch(() => undefined) // it may be over when it is ended
  const plane = await DataPlane.start(
    { ...options, name: nodeName, waits, reports },
    {
      publishers: 0,
      deliver: () => undefined,
      deliverShared: () => false,
      hold: () => undefined,
      ring: () => undefined,
      taken: () => undefined,
      wanted: () => undefined,
      onFenced: () => options.onError(new Error('declared dead by the other nodes; run it again')),
    },
    ended,
  )
  try {
    const run = new Restore(plane, request)
    await Promise.race([run.all(), interrupted])
    return run.counts
  } finally {
    // its lease tells otherwise
    await Promise.race([plane.close(), new Promise((resolve) => setTimeout(resolve, options.redisTimeoutMs))])
    waits.close()
  }
}

const bad = (what: string): BridgeError => new BridgeError('ERR_BRIDGE_BACKUP', `${what} is none that may be`)

/** What a file says is not believed because its sum is right. @throws BridgeError ERR_BRIDGE_BACKUP */
function check(line: Line): void {
  if ('message' in line && line.message !== undefined) {
    const { topic, qos, payload } = line.message
    if (
      typeof payload !== 'string' ||
      ![0, 1, 2].includes(qos) ||
      typeof topic !== 'string' ||
      !isValidTopic(ownTopic(topic))
    )
      throw bad(`a message (${line.kind})`)
  }
  if (line.kind === 'inflight' && !(Number.isInteger(line.id) && line.id > 0 && line.id < 65_536))
    throw bad('a Packet Identifier')
  if (line.kind === 'session') {
    if (typeof line.client !== 'string' || !Number.isFinite(line.expirySeconds)) throw bad('a session')
    for (const [filter, options] of line.subscriptions)
      if (
        !Number.isInteger(options) ||
        !(isShared(filter) ? sharedFilterOf(filter) !== undefined : isValidFilter(ownTopic(filter)))
      )
        throw bad('a subscription')
  }
  if (line.kind === 'group' && sharedFilterOf(line.group) === undefined) throw bad('a group')
}

class Restore {
  readonly counts: RestoreCounts = {
    sessions: none(),
    messages: none(),
    retained: none(),
    backlog: none(),
    users: none(),
    bans: none(),
  }
  readonly #plane: DataPlane
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #request: RestoreRequest
  /** Wills that are written and not due yet. */
  readonly #wills: { readonly partition: number; readonly sid: string; readonly dueInMs: number }[] = []
  /** Group → its members among the sessions that were restored. */
  readonly #members = new Map<string, { sid: string; qos: 0 | 1 | 2; base: number }[]>()
  /** Groups that have members by this restore: the backlog of any other is the target's own. */
  readonly #groups = new Set<string>()

  constructor(plane: DataPlane, request: RestoreRequest) {
    this.#plane = plane
    this.#redis = plane.connection
    this.#keys = plane.keys
    this.#request = request
  }

  async all(): Promise<void> {
    if (!this.#request.isAdding) await this.#refuseUnlessEmpty()
    let sessions: Whole[] = []
    let retained: Message[] = []
    let group: { readonly name: string; backlog: StoredMessage[] } | undefined
    const flush = async (): Promise<void> => {
      const [some, values] = [sessions, retained]
      ;[sessions, retained] = [[], []]
      await Promise.all(some.map((whole) => this.#session(whole)))
      await this.#retain(values)
      this.#request.onProgress(this.counts)
    }
    for await (const line of readLines(this.#request.open()))
      switch (line.kind) {
        case 'user':
        case 'rules':
        case 'ban':
          await this.#access(line)
          break
        case 'retained':
          retained.push(messageOf(line.message).with({ retain: true }))
          if (retained.length >= messagesAtOnce) await flush()
          break
        case 'session':
          if (sessions.length >= sessionsAtOnce) await flush()
          sessions.push({ session: line, inflight: [], queued: [], will: undefined })
          break
        case 'inflight':
          sessions.at(-1)!.inflight.push(line)
          break
        case 'queued':
          sessions.at(-1)!.queued.push(line.message)
          break
        case 'will':
          sessions.at(-1)!.will = line
          break
        case 'group':
          await flush()
          if (group !== undefined) await this.#backlog(group.name, group.backlog)
          group = { name: line.group, backlog: [] }
          await this.#joined(line.group)
          break
        case 'backlog':
          group!.backlog.push(line.message)
          if (group!.backlog.length < messagesAtOnce) break
          await this.#backlog(group!.name, group!.backlog)
          group!.backlog = []
      }
    await flush()
    if (group !== undefined) await this.#backlog(group.name, group.backlog)
    for (const name of [...this.#members.keys()]) await this.#joined(name) // those that had no backlog
    await this.#endWills()
  }

  async #refuseUnlessEmpty(): Promise<void> {
    const keys = [this.#keys.bus('bans'), this.#keys.bus('access')]
    for (let p = 0; p < this.#keys.partitions; p++)
      keys.push(...(['clients', 'groups', 'retained'] as const).map((noun) => this.#keys.partition(p, noun)))
    const counts = await Promise.all(keys.map((key) => retrying(this.#redis, () => this.#redis.hlen(key))))
    if (counts.some((count) => count > 0))
      throw new BridgeError(
        'ERR_BRIDGE_BACKUP',
        'the cluster that it is to be restored into is not empty: it has sessions, Retained Messages, users, rules or bans',
      )
  }

  async #access(line: Of<'user'> | Of<'rules'> | Of<'ban'>): Promise<void> {
    const access = accessChanges(this.#redis, this.#keys)
    const key = this.#keys.bus('access')
    if (line.kind === 'rules') {
      if ((await access.rules()) === undefined) await access.setRules(line.text)
    } else if (line.kind === 'user') {
      this.counts.users.found++
      if (
        (await this.#redis.hexists(key, `u:${line.name}`)) === 0 &&
        (await access.setUser(line.name, line.kept))
      )
        this.counts.users.restored++
    } else {
      this.counts.bans.found++
      const bans = banChanges(this.#redis, this.#keys)
      const isThere = (await bans.list()).some(({ kind, name }) => kind === line.of && name === line.name)
      if (!isThere && (await bans.add(line.of, line.name, line.reason, line.secondsLeft)))
        this.counts.bans.restored++
    }
  }

  async #retain(messages: readonly Message[]): Promise<void> {
    if (messages.length === 0) return
    this.counts.retained.found += messages.length
    const there = new Set(await this.#plane.haveRetained(messages.map(({ topic }) => topic)))
    const missing = messages.filter(({ topic }) => !there.has(topic))
    await this.#plane.importRetained(missing)
    this.counts.retained.restored += missing.length
  }

  async #session(whole: Whole): Promise<void> {
    const { session, inflight, queued } = whole
    const { sessions, messages } = this.counts
    sessions.found++
    messages.found += inflight.length + queued.length
    const partition = this.#keys.partitionFor(session.client)
    const clients = this.#keys.partition(partition, 'clients')
    if ((await retrying(this.#redis, () => this.#redis.hexists(clients, session.client))) === 1) return
    const sid = freshSid(partition)
    await this.#begin(partition, sid, whole)
    for (let i = 0; i < queued.length; i += messagesAtOnce)
      await Promise.all(
        queued.slice(i, i + messagesAtOnce).map((one) => this.#plane.enqueue(messageOf(one), sid, 2)),
      )
    if (!(await this.#finish(partition, sid, whole))) return
    sessions.restored++
    messages.restored += inflight.length + queued.length
  }

  /** A session that no client has: nobody finds it, and it ends unless it is given to its client. */
  async #begin(partition: number, sid: string, { session, inflight }: Whole): Promise<void> {
    const key = (noun: Parameters<Keys['session']>[1]): string => this.#keys.session(sid, noun)
    await retrying(this.#redis, async () => {
      const [seconds] = await this.#redis.time()
      const multi = this.#redis
        .multi()
        .zadd(this.#keys.partition(partition, 'due'), Number(seconds) * 1_000 + apartMs, `e:${sid}`)
        .hset(this.#keys.partition(partition, 'owners'), sid, '')
        .hset(
          key('session'),
          'client',
          session.client,
          'epoch',
          0,
          'expiry',
          session.expirySeconds,
          'willDelay',
          0,
        )
      if (session.user !== undefined) multi.hset(key('session'), 'user', session.user)
      for (const id of session.received) multi.hset(key('incoming'), id, '0 published')
      for (const [order, { id, message }] of inflight.entries()) {
        const packed = message === undefined ? undefined : packMessage(messageOf(message), this.#plane.clock)
        const entry = packed === undefined ? `${order}` : Buffer.concat([Buffer.from(`${order} `), packed])
        multi.hset(key('inflight'), String(id), entry)
      }
      allDone(await multi.exec())
    })
  }

  /** Its queue is there: from its subscriptions on, what is published comes after. False: the client has another session by now. */
  async #finish(partition: number, sid: string, { session, will }: Whole): Promise<boolean> {
    const stored = new Map<string, StoredSubscription>()
    const groups = new Map<string, { sid: string; qos: 0 | 1 | 2; base: number }>()
    for (const [filter, options, identifier] of session.subscriptions) {
      const base = groupIds.first + groups.size * groupIds.block
      const known = { options, identifier: identifier === 0 ? undefined : identifier }
      stored.set(filter, isShared(filter) ? { ...known, base } : known)
      if (isShared(filter)) groups.set(filter, { sid, qos: (options & SessionOption.qos) as 0 | 1 | 2, base })
    }
    const due = this.#keys.partition(partition, 'due')
    await retrying(this.#redis, async () => {
      const multi = this.#redis.multi()
      for (const [filter, subscription] of stored)
        multi.hset(this.#keys.session(sid, 'subscriptions'), filter, encodeSubscription(subscription))
      allDone(await multi.exec())
    })
    const own = new Map([...stored].filter(([filter]) => !isShared(filter)))
    if (own.size > 0) await this.#plane.sessions.announce(sid, own)
    const keys = (['clients', 'owners'] as const).map((noun) => this.#keys.partition(partition, noun))
    const tenants = this.#keys.partition(partition, 'tenants')
    // whose client was connected has its whole time from now on
    const left = session.expirySeconds < 0 ? -1 : (session.endsInMs ?? session.expirySeconds * 1_000)
    const isGiven = await retrying(this.#redis, () =>
      runScript(this.#redis, 'session-adopt', [...keys, due, tenants], [session.client, sid, left]),
    )
    if (isGiven !== 1) return false
    for (const [name, member] of groups) {
      const known = this.#members.get(name)
      if (known === undefined) this.#members.set(name, [member])
      else known.push(member)
    }
    if (will !== undefined) await this.#will(partition, sid, will)
    return true
  }

  async #will(partition: number, sid: string, { message, dueInMs }: Of<'will'>): Promise<void> {
    const packed = packMessage(messageOf(message), this.#plane.clock)
    await retrying(this.#redis, () =>
      this.#redis.hset(this.#keys.partition(partition, 'wills'), `${sid}:0`, packed),
    )
    this.#wills.push({ partition, sid, dueInMs })
  }

  /** Wills fall due when everything else is there: who is subscribed to one gets it, whichever stood first in the file. */
  async #endWills(): Promise<void> {
    for (const { partition, sid, dueInMs } of this.#wills)
      await retrying(this.#redis, async () => {
        const [seconds] = await this.#redis.time()
        const due = Number(seconds) * 1_000 + dueInMs
        await this.#redis.zadd(this.#keys.partition(partition, 'due'), due, `w:${sid}:0`)
      })
  }

  /** The restored members of a group stand in it, none of them connected: what comes waits for them. */
  async #joined(name: string): Promise<void> {
    const members = this.#members.get(name) ?? []
    this.#members.delete(name)
    for (const { sid, qos, base } of members.filter(({ qos }) => qos > 0)) {
      const holder = awayHolder(name, sid, `${this.#plane.nodeId} 1`, qos, base)
      await this.#plane.groups.join(holder)
      await this.#plane.groups.leave(holder, false)
      this.#groups.add(name)
    }
  }

  async #backlog(name: string, backlog: readonly StoredMessage[]): Promise<void> {
    this.counts.backlog.found += backlog.length
    if (!this.#groups.has(name)) return
    await Promise.all(backlog.map((one) => this.#plane.groups.push(messageOf(one), [name])))
    this.counts.backlog.restored += backlog.length
  }
}

/** A member that takes nothing. */
const awayHolder = (name: string, sid: string, owner: string, qos: 0 | 1 | 2, base: number): GroupHolder => ({
  name,
  sid,
  owner,
  qos,
  base,
  lasting: true,
  isBusy: false,
  kept: [],
  limit: 0,
  takeWrites: () => undefined,
  written: () => undefined,
  unwritten: () => undefined,
  give: () => undefined,
  resume: () => undefined,
  settled: () => Promise.resolve(),
  lost: () => undefined,
})
