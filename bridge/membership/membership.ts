// Which nodes there are: each boot of a node has an id of its own (name@µs), a lease by Redis' clock that it
// renews, and places in {bus}:nodes and batches. Without both its renewals and journal entries are refused;
// one that was lost alone is written again. State: {bus}:names, nodes, leases, generation; here the identity.
// Invariants: only a node that was there for a whole lease may judge another (R5); the fence (its place in
// {bus}:nodes is deleted) comes before anything else of the estate.
import { randomBytes } from 'node:crypto'
import { readFileSync, readlinkSync } from 'node:fs'
import { hostname } from 'node:os'
import type { SharedSettings } from '../options.ts'
import { Clock } from '../pace/clock.ts'
import { encodeJournalEntry, recordVersions } from '../messages/codec.ts'
import { mendDamage, nameDamage } from '../redis/damage.ts'
import { endNode, toBridgeError } from '../errors.ts'
import { Keys } from '../redis/keys.ts'
import { formatOf, journalLength, keysOf } from '../redis/layout.ts'
import { reportsOf, retrying, type Redis } from '../redis/redis.ts'
import { runScript, type ScriptName } from '../redis/scripts.ts'
import type { Wait } from '../pace/waits.ts'

export interface MembershipEvents {
  onFenced(): void
  /** Redis holds another data set, or lost what others know this node by. */
  onAmnesia(): void
  /** The rest of a dead node's estate, after the fence; may be done again by another. */
  onDead(nodeId: string): Promise<void>
  /**
   * This node has left: nobody sends it anything any more. What is left for it goes to others, as long as it may send.
   * Rejects when it may not: others do it then.
   */
  onLeft(): Promise<void>
  /** An estate could not be finished, and is tried again. */
  onError(error: Error): void
}

/** Which process a boot is; whoever stands elsewhere can say nothing of it. */
interface NodeInfo {
  readonly host: string
  /**
   * The boot of the machine, and the namespaces that `pid` and `started` are counted in: containers and cloned
   * machines share a host name.
   */
  readonly machine: string
  readonly pids: string
  readonly times: string
  readonly pid: number
  /**
   * Start of the process in clock ticks since the machine booted: a pid alone may be another process by now.
   */
  readonly started: string
  /** Random: tells one boot of a process from the next. */
  readonly boot: string
  /** The first and the last version of records that it reads. */
  readonly records: readonly [number, number]
}

/**
 * Renewals per lease, at least one a second: node-renew.lua takes a third of a lease without one for a gap.
 */
const renewalsPerLease = 6
const renewMsMax = 1_000
/**
 * At first it is renewed more often: each reply is a sample of cluster time, by which CONNECTs at different
 * nodes are put in order.
 */
const quickRenewals = 10
const quickMs = 30
/** An estate that is not done after so many renewals is taken over: as often as they are made later on. */
const adoptRenewals = 5
/** How often a newcomer looks whether a boot of its name renews its lease. */
const watchMs = 50
/** How long a leaving node sees to its own estate; then the others do. */
const leaveMs = 5_000
function startOf(pid: number): string {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8') // pid (name) state …, and a name may have brackets
    return text.slice(text.lastIndexOf(')') + 2).split(' ')[19] ?? ''
  } catch {
    return '' // no /proc, no such process, or one of another user (hidepid, systemd's ProtectProc=invisible)
  }
}

function read(what: () => string): string {
  try {
    return what().trim()
  } catch {
    return '' // no /proc
  }
}

const here = {
  host: hostname(),
  machine: read(() => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8')),
  pids: read(() => readlinkSync('/proc/self/ns/pid')),
  times: read(() => readlinkSync('/proc/self/ns/time')),
}

export const thisProcess = (): NodeInfo => ({
  ...here,
  pid: process.pid,
  started: startOf(process.pid),
  boot: randomBytes(9).toString('base64url'),
  records: [recordVersions.min, recordVersions.max],
})

/**
 * Where the process that `text` names stands: here and known to have ended, here and alive, or where we
 * cannot look.
 */
export function lookFor(text: string): 'ended' | 'alive' | 'elsewhere' {
  let info: Partial<NodeInfo>
  try {
    info = JSON.parse(text) as Partial<NodeInfo>
  } catch {
    return 'elsewhere' // damaged
  }
  const { host, machine, pids, times, pid, started } = info
  if (
    typeof pid !== 'number' ||
    !Number.isSafeInteger(pid) ||
    host !== here.host ||
    machine !== here.machine ||
    pids !== here.pids ||
    times !== here.times
  )
    return 'elsewhere'
  const now = startOf(pid)
  if (now !== '' && started !== '') return now === started ? 'alive' : 'ended'
  try {
    process.kill(pid, 0)
    return now === started ? 'alive' : 'elsewhere'
  } catch (error) {
    // EPERM: there is a process, of another user, which may be another one by now
    return (error as NodeJS.ErrnoException).code === 'ESRCH' ? 'ended' : 'elsewhere'
  }
}

/** REPLY in redis/lua/node-join.lua. */
interface JoinReply {
  readonly nodeId: string
  readonly generation: Buffer
  /** The boot of this name before, which was removed; empty: there was none. */
  readonly before: string
  /** Redis' clock, ms. */
  readonly time: number
  readonly records: number
}

function decodeJoin(reply: unknown): JoinReply {
  const [nodeId, generation, before, time, records] = reply as [Buffer, Buffer, Buffer, Buffer, number]
  return { nodeId: nodeId.toString(), generation, before: before.toString(), time: Number(time), records }
}

/** REPLY in redis/lua/node-renew.lua. */
interface RenewReply {
  /** Node ids whose lease is over. */
  readonly expired: readonly string[]
  /** Node ids whose estate is not done. */
  readonly unburied: readonly string[]
  /** Redis' clock, ms. */
  readonly time: number
  readonly records: number
  /** Nouns of keys in which something was written down again. */
  readonly lost: readonly string[]
}

function decodeRenew(reply: unknown): RenewReply {
  const [expired, unburied, time, records, lost] = reply as [Buffer[], Buffer[], Buffer, number, Buffer[]]
  return {
    expired: expired.map(String),
    unburied: unburied.map(String),
    time: Number(time),
    records,
    lost: lost.map(String),
  }
}

export class Membership {
  readonly #redis: Redis
  /** As the data are laid out: known when it has joined. */
  keys: Keys
  readonly #name: string
  readonly #leaseMs: number
  readonly #settings: SharedSettings
  #events: MembershipEvents | undefined
  #timer: NodeJS.Timeout | undefined
  #info = ''
  #renewing: Promise<void> = Promise.resolve()
  /** While it cannot be renewed. */
  #wait: Wait | undefined
  /** Dead nodes → since when their estate is seen undone (performance.now()); estates that this node is doing. */
  readonly #seenDead = new Map<string, number>()
  readonly #burying = new Map<string, Promise<void>>()
  /** Cluster time, by the samples that joining and every renewal bring. */
  readonly clock = new Clock()
  /** The version in which records are written: the last one that every node of the cluster reads. */
  records = 0
  nodeId = ''
  generation: Buffer = Buffer.alloc(0)

  constructor(redis: Redis, prefix: string, name: string, leaseMs: number, settings: SharedSettings = {}) {
    this.#redis = redis
    this.keys = new Keys(prefix)
    this.#name = name
    this.#leaseMs = leaseMs
    this.#settings = settings
  }

  #bus(...nouns: Parameters<Keys['bus']>[0][]): string[] {
    return nouns.map((noun) => this.keys.bus(noun))
  }

  /**
   * Registers this boot. A boot of the same name whose process is known to have ended is removed first. One
   * that stands where we cannot look (another machine, another container) is alive when it renews its lease;
   * otherwise we wait until that is over.
   * @throws BridgeError ERR_BRIDGE_DUPLICATE_NODE when a boot of the same name is alive; ERR_BRIDGE_FORMAT
   */
  async join(): Promise<void> {
    this.keys = await keysOf(this.#redis, this.keys.prefix)
    for (let seen: string | undefined; ;) {
      const before =
        (await retrying(this.#redis, () => this.#redis.hget(this.keys.bus('names'), this.#name))) ?? ''
      const info = await retrying(this.#redis, () => this.#redis.hget(this.keys.bus('nodes'), before))
      const found = info === null ? 'elsewhere' : lookFor(info)
      try {
        return await this.#register(found === 'ended')
      } catch (reason) {
        if (toBridgeError(reason).code !== 'ERR_BRIDGE_DUPLICATE_NODE' || found === 'alive') throw reason
        const lease = `${before} ${(await retrying(this.#redis, () => this.#redis.hget(this.keys.bus('leases'), before))) ?? ''}`
        if (lease !== (seen ??= lease)) throw reason
        await new Promise((resolve) => setTimeout(resolve, watchMs))
      }
    }
  }

  async #register(replace: boolean): Promise<void> {
    this.#info = JSON.stringify({ ...thisProcess(), settings: this.#settings })
    const argv = [
      this.#name,
      this.#info,
      this.#leaseMs,
      replace ? '1' : '0',
      randomBytes(16),
      formatOf(this.keys),
      recordVersions.min,
      recordVersions.max,
    ]
    const { nodeId, generation, before, records } = await retrying(this.#redis, () =>
      this.#timed(
        'node-join',
        ['generation', 'names', 'nodes', 'leases', 'batches', 'format', 'records'],
        argv,
        decodeJoin,
      ),
    )
    this.records = records
    this.nodeId = nodeId
    this.generation = generation
    // its lease is over or its process has ended: the script has judged
    if (before !== '') await this.#remove(before, 0)
  }

  /** After Redis lost its data: the same boot registers again. @throws BridgeError ERR_BRIDGE_FENCED */
  async rejoin(): Promise<void> {
    this.generation = (await retrying(this.#redis, () =>
      runScript(
        this.#redis,
        'node-rejoin',
        this.#bus('generation', 'names', 'nodes', 'leases', 'batches', 'format', 'records'),
        [
          this.nodeId,
          this.#name,
          this.#info,
          randomBytes(16),
          this.generation,
          formatOf(this.keys),
          this.records,
        ],
      ),
    )) as Buffer
  }

  /** Runs a script whose reply has Redis' clock: a sample of cluster time. */
  async #timed<Reply extends { readonly time: number }>(
    name: ScriptName,
    nouns: Parameters<Keys['bus']>[0][],
    argv: readonly (string | number | Buffer)[],
    decode: (reply: unknown) => Reply,
  ): Promise<Reply> {
    const sent = performance.now()
    const reply = await runScript(this.#redis, name, this.#bus(...nouns), argv)
    const received = performance.now()
    const decoded = decode(reply)
    this.clock.sample(sent, received, decoded.time)
    return decoded
  }

  get #renewMs(): number {
    return Math.min(renewMsMax, this.#leaseMs / renewalsPerLease)
  }

  /** Begins to renew the lease. */
  start(events: MembershipEvents): void {
    this.#events = events
    const renewMs = this.#renewMs
    let quick = quickRenewals
    const renew = (): void => {
      this.#renewing = this.#renew().finally(() => {
        if (this.#timer !== undefined)
          this.#timer = setTimeout(renew, quick-- > 0 ? Math.min(quickMs, renewMs) : renewMs)
      })
    }
    this.#timer = setTimeout(renew, 0)
  }

  async #renew(): Promise<void> {
    try {
      const { expired, unburied, records, lost } = await this.#timed(
        'node-renew',
        ['generation', 'names', 'nodes', 'leases', 'batches', 'dead', 'format', 'records'],
        [
          this.nodeId,
          this.#leaseMs,
          this.generation,
          this.#name,
          this.#info,
          formatOf(this.keys),
          recordVersions.max,
        ],
        decodeRenew,
      )
      this.records = records
      for (const noun of lost)
        nameDamage(
          this.#redis,
          this.keys.bus(noun as 'nodes'),
          'it lacked what is known of a live node, which was written down again',
        )
      for (const nodeId of expired) if (await this.#remove(nodeId, this.#leaseMs)) this.#beginEstate(nodeId)
      this.#adopt(unburied)
      const [sealed, inbox] = await Promise.all([
        this.#redis.hexists(this.keys.inbox(this.nodeId, 'state'), 'sealed'),
        this.#redis.exists(this.keys.inbox(this.nodeId, 'stream')),
      ])
      if (sealed === 1)
        this.#events?.onFenced() // also told while nothing is read
      // nobody reaches us: an idle reader does not notice, and senders wait
      else if (inbox === 0 || lost.includes('nodes')) this.#events?.onAmnesia()
      this.#wait?.end()
      this.#wait = undefined
    } catch (reason) {
      await mendDamage(this.#redis, reason).catch(() => false)
      const error = toBridgeError(reason)
      if (error.code === 'ERR_BRIDGE_FENCED') this.#events?.onFenced()
      else if (error.code === 'ERR_BRIDGE_AMNESIA') this.#events?.onAmnesia()
      else if (error.code === 'ERR_BRIDGE_BUG') endNode(error, this.#redis.reports)
      else {
        // Redis is away, or refuses it: nobody can judge us meanwhile, since judging needs Redis for a whole
        // lease
        this.#wait ??= this.#redis.waits?.begin('write')
        this.#wait?.because(error)
      }
    }
  }

  /**
   * Whether this boot has not been declared dead: that deletes its place and its number at once, losing data
   * does not.
   */
  async isPlaced(): Promise<boolean> {
    const places = await retrying(this.#redis, () =>
      Promise.all(this.#bus('nodes', 'batches').map((key) => this.#redis.hexists(key, this.nodeId))),
    )
    return places.includes(1)
  }

  /** Deletes a node's entries in the cluster, which is the fence, and its routes. False: it renewed after all. */
  async #remove(nodeId: string, leaseMs: number): Promise<boolean> {
    await retrying(this.#redis, () =>
      runScript(
        this.#redis,
        'node-remove',
        [
          ...this.#bus('generation', 'nodes', 'leases', 'batches', 'dead', 'position', 'journal'),
          this.keys.routes(nodeId),
        ],
        [
          nodeId,
          leaseMs,
          this.generation,
          encodeJournalEntry(this.nodeId, [{ type: 'gone', nodeId }]),
          journalLength,
        ],
      ),
    )
    return (await retrying(this.#redis, () => this.#redis.hexists(this.keys.bus('nodes'), nodeId))) === 0
  }

  /**
   * Estates that nobody finished: who removed the dead node may have died, too. Doing one twice is
   * harmless.
   */
  #adopt(unburied: readonly string[]): void {
    for (const nodeId of this.#seenDead.keys()) if (!unburied.includes(nodeId)) this.#seenDead.delete(nodeId)
    for (const nodeId of unburied) {
      const since = this.#seenDead.get(nodeId) ?? performance.now()
      this.#seenDead.set(nodeId, since)
      const isLate = performance.now() - since >= (adoptRenewals - 1) * this.#renewMs
      if (isLate || nodeId.startsWith(`${this.#name}@`)) this.#beginEstate(nodeId)
    }
  }

  /** Declares a node dead that is known to be, and does its estate. */
  async removeDead(nodeId: string): Promise<void> {
    await this.#remove(nodeId, 0)
    await this.#estate(nodeId)
  }

  #beginEstate(nodeId: string): void {
    if (this.#burying.has(nodeId)) return
    const estate = this.#estate(nodeId)
      .catch((error: unknown) => this.#events?.onError(error as Error)) // tried again by whoever sees it next
      .finally(() => this.#burying.delete(nodeId))
    this.#burying.set(nodeId, estate)
  }

  /**
   * The estate of a node that was removed: what it may still send to any inbox, its own inbox, its sessions. Its inbox
   * is sealed before anybody reads what is left in it: what a slow sender appended after that would be acknowledged,
   * and read by nobody. It goes when all else is done.
   */
  async #estate(nodeId: string): Promise<void> {
    const nodes = await retrying(this.#redis, () => this.#redis.hkeys(this.keys.bus('nodes')))
    for (const target of nodes)
      await retrying(this.#redis, () =>
        runScript(this.#redis, 'inbox-fence', [this.keys.inbox(target, 'senders')], [nodeId]),
      )
    await this.#seal(nodeId)
    await this.#events?.onDead(nodeId)
    await Promise.all(
      (['stream', 'senders', 'state'] as const).map((noun) =>
        this.#redis.unlink(this.keys.inbox(nodeId, noun)),
      ),
    )
    await this.#redis.srem(this.keys.bus('dead'), nodeId)
    reportsOf(this.#redis).tell('nodeGone', { nodeId })
  }

  async #seal(nodeId: string): Promise<void> {
    const inbox = (['stream', 'state'] as const).map((noun) => this.keys.inbox(nodeId, noun))
    await retrying(this.#redis, () => runScript(this.#redis, 'inbox-seal', inbox, []))
  }

  /**
   * This node's own estate. What is left for it goes to others before it is fenced, since nothing that it sends is
   * taken after that. Others may do the same estate at the same time, when they take this node for dead.
   */
  async #leave(): Promise<void> {
    await this.#remove(this.nodeId, 0)
    await this.#seal(this.nodeId)
    await this.#events?.onLeft()
    await this.#estate(this.nodeId)
  }

  /**
   * `close`, for a start that is ended: it may have joined, and Redis may not let it leave. Resolves after
   * `ms` at the latest.
   */
  async leave(ms: number): Promise<void> {
    if (this.nodeId === '') return
    await Promise.race([this.close(), new Promise((resolve) => setTimeout(resolve, ms))])
  }

  /**
   * Stops renewing and leaves: the others need not wait for the lease. A boot that was fenced does so, too:
   * it may only have been sealed.
   */
  async close(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#wait?.end()
    if (this.#redis.status !== 'ready') return // the lease will tell
    // In `dead` it stands from the first step on: whatever keeps us from the rest, another node does it.
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, leaveMs)
    })
    // Redis went away meanwhile
    await Promise.race([this.#renewing.then(() => this.#leave()).catch(() => undefined), late])
    clearTimeout(timer)
  }
}
