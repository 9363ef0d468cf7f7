// Which nodes there are: each boot of a node has an id of its own (name@epoch), a lease by Redis' clock that it renews, and
// a place in {bus}:nodes without which nothing it sends is taken. State: {bus}:names, nodes, leases, generation; here the
// identity. Invariant: only a node that was there for a whole lease may judge another (ATTACKS 6), and the fence (the
// place in {bus}:nodes is taken) comes before anything else of the estate.
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { Clock } from './clock.ts'
import { encodeJournalEntry, recordVersions } from './codec.ts'
import { diagnostics } from './diagnostics.ts'
import { BridgeError, endNode, toBridgeError } from './errors.ts'
import type { Keys } from './keys.ts'
import { retrying, type Redis } from './redis.ts'
import { runScript, type ScriptName } from './scripts.ts'
import type { Wait } from './waits.ts'

export interface MembershipEvents {
  onFenced(): void
  /** Redis holds another data set. */
  onAmnesia(): void
  /** The rest of a dead node's estate, behind the fence; may be done again by another. */
  onDead(nodeId: string): Promise<void>
}

interface NodeInfo {
  readonly host: string
  readonly pid: number
  /** Start of the process in clock ticks since the host booted: a pid alone may be another process by now. */
  readonly started: string
  /** Random: tells one boot of a process from the next. */
  readonly boot: string
  /** The first and the last version of records that it reads. */
  readonly records: readonly [number, number]
}

/** Renewals per lease, at least one a second: node-renew.lua takes a third of a lease without one for a gap. */
const renewalsPerLease = 6
const renewMsMax = 1_000
/** An estate that is not done after so many renewals is taken over. */
const adoptRenewals = 5
const journalLength = 10_000
/** Version of the layout of the keys (P11); each record has one of its own (codec.ts), so that it can change without this one. */
const format = 2

function startOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ')[19] ?? ''
  } catch {
    return '' // no /proc, or no such process
  }
}

const thisProcess = (): NodeInfo => ({ host: hostname(), pid: process.pid, started: startOf(process.pid), boot: randomBytes(9).toString('base64url'), records: [recordVersions.min, recordVersions.max] })

/** Whether the process that `info` names is on this host and known to have ended. */
function isKnownDead(info: NodeInfo): boolean {
  if (info.host !== hostname()) return false
  if (info.started !== '') return startOf(info.pid) !== info.started
  try {
    process.kill(info.pid, 0)
    return false
  } catch {
    return true
  }
}

export class Membership {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #name: string
  readonly #leaseMs: number
  #events: MembershipEvents | undefined
  #timer: NodeJS.Timeout | undefined
  #renewing: Promise<void> = Promise.resolve()
  /** While it cannot be renewed. */
  #wait: Wait | undefined
  /** Dead nodes → renewals in which their estate was not done; estates that this node is doing. */
  readonly #seenDead = new Map<string, number>()
  readonly #burying = new Map<string, Promise<void>>()
  /** Cluster time, by the samples that joining and every renewal bring. */
  readonly clock = new Clock()
  /** The version in which records are written: the last one that every node of the cluster reads. */
  records = 0
  nodeId = ''
  generation: Buffer = Buffer.alloc(0)

  constructor(redis: Redis, keys: Keys, name: string, leaseMs: number) {
    this.#redis = redis
    this.#keys = keys
    this.#name = name
    this.#leaseMs = leaseMs
  }

  #bus(...nouns: Parameters<Keys['bus']>[0][]): string[] {
    return nouns.map((noun) => this.#keys.bus(noun))
  }

  /**
   * Registers this boot. A boot of the same name whose process is known to have ended is removed first.
   * @throws BridgeError ERR_BRIDGE_DUPLICATE_NODE when a boot of the same name is alive; ERR_BRIDGE_FORMAT
   */
  async join(): Promise<void> {
    const before = await retrying(this.#redis, () => this.#redis.hget(this.#keys.bus('names'), this.#name))
    const info = before === null ? null : await retrying(this.#redis, () => this.#redis.hget(this.#keys.bus('nodes'), before))
    const dead = info !== null && isKnownDead(JSON.parse(info) as NodeInfo)
    const me = JSON.stringify(thisProcess())
    const argv = [this.#name, me, this.#leaseMs, dead ? '1' : '0', randomBytes(16), format, recordVersions.min, recordVersions.max]
    const reply = await retrying(this.#redis, () => this.#timed('node-join', ['generation', 'names', 'nodes', 'leases', 'batches', 'format', 'records'],
      argv, 3)) as [Buffer, Buffer, Buffer, Buffer, number]
    this.records = reply[4]
    this.nodeId = reply[0].toString()
    this.generation = reply[1]
    const old = reply[2].toString()
    if (old !== '') await this.#remove(old, 0) // its lease is over or its process has ended: the script has judged
  }

  /** After Redis lost its data: the same boot registers again. @throws BridgeError ERR_BRIDGE_FENCED */
  async rejoin(): Promise<void> {
    this.generation = await retrying(this.#redis, () => runScript(this.#redis, 'node-rejoin', this.#bus('generation', 'names', 'nodes', 'leases', 'batches', 'format', 'records'),
      [this.nodeId, this.#name, JSON.stringify(thisProcess()), randomBytes(16), this.generation, format, this.records])) as Buffer
  }

  /** Runs a script whose reply has Redis' clock at `place`: a sample of cluster time. */
  async #timed(name: ScriptName, nouns: Parameters<Keys['bus']>[0][], argv: readonly (string | number | Buffer)[], place: number): Promise<unknown> {
    const sent = performance.now()
    const reply = await runScript(this.#redis, name, this.#bus(...nouns), argv) as Buffer[]
    this.clock.sample(sent, performance.now(), Number(reply[place]))
    return reply
  }

  /** Begins to renew the lease. */
  start(events: MembershipEvents): void {
    this.#events = events
    const renewMs = Math.min(renewMsMax, this.#leaseMs / renewalsPerLease)
    const renew = (): void => {
      this.#renewing = this.#renew().finally(() => { if (this.#timer !== undefined) this.#timer = setTimeout(renew, renewMs) })
    }
    this.#timer = setTimeout(renew, 0)
  }

  async #renew(): Promise<void> {
    try {
      const [over, dead, , records] = await this.#timed('node-renew', ['generation', 'nodes', 'leases', 'dead', 'records'],
        [this.nodeId, this.#leaseMs, this.generation, recordVersions.max], 2) as [Buffer[], Buffer[], Buffer, number]
      this.records = records
      for (const nodeId of over) if (await this.#remove(nodeId.toString(), this.#leaseMs)) this.#bury(nodeId.toString())
      this.#adopt(dead.map(String))
      if (await this.#redis.hexists(this.#keys.inbox(this.nodeId, 'state'), 'sealed') === 1) this.#events?.onFenced() // also told while nothing is read
      this.#wait?.end()
      this.#wait = undefined
    } catch (reason) {
      const error = toBridgeError(reason)
      if (error.code === 'ERR_BRIDGE_FENCED') this.#events?.onFenced()
      else if (error.code === 'ERR_BRIDGE_AMNESIA') this.#events?.onAmnesia()
      else if (error.code === 'ERR_BRIDGE_BUG') endNode(error)
      else { // Redis is away, or refuses it: nobody can judge us meanwhile, since judging needs Redis for a whole lease
        this.#wait ??= this.#redis.waits?.begin('write')
        this.#wait?.because(error)
      }
    }
  }

  /** Takes a node's place in the cluster, which is the fence, and its routes. False: it renewed after all. */
  async #remove(nodeId: string, leaseMs: number): Promise<boolean> {
    await retrying(this.#redis, () => runScript(this.#redis, 'node-remove',
      [...this.#bus('generation', 'nodes', 'leases', 'batches', 'dead', 'position', 'journal'), this.#keys.routes(nodeId)],
      [nodeId, leaseMs, this.generation, encodeJournalEntry(this.nodeId, [{ type: 'gone', nodeId }]), journalLength]))
    return await retrying(this.#redis, () => this.#redis.hexists(this.#keys.bus('nodes'), nodeId)) === 0
  }

  /** Estates that nobody finished: who took the place of the dead node may have died, too. Doing one twice is harmless. */
  #adopt(dead: readonly string[]): void {
    for (const nodeId of this.#seenDead.keys()) if (!dead.includes(nodeId)) this.#seenDead.delete(nodeId)
    for (const nodeId of dead) {
      const times = (this.#seenDead.get(nodeId) ?? 0) + 1
      this.#seenDead.set(nodeId, times)
      if (times >= adoptRenewals || nodeId.startsWith(`${this.#name}@`)) this.#bury(nodeId)
    }
  }

  /** Declares a node dead that is known to be, and does its estate. */
  async bury(nodeId: string): Promise<void> {
    await this.#remove(nodeId, 0)
    await this.#estate(nodeId)
  }

  #bury(nodeId: string): void {
    if (this.#burying.has(nodeId)) return
    const estate = this.#estate(nodeId).catch(() => undefined).finally(() => this.#burying.delete(nodeId)) // tried again by whoever sees it next
    this.#burying.set(nodeId, estate)
  }

  /** The estate of a node whose place is taken: what it may still send to any inbox, its own inbox, its sessions. */
  async #estate(nodeId: string): Promise<void> {
    const nodes = await this.#redis.hkeys(this.#keys.bus('nodes'))
    for (const target of nodes) await retrying(this.#redis, () => runScript(this.#redis, 'inbox-fence', [this.#keys.inbox(target, 'senders')], [nodeId]))
    await this.#events?.onDead(nodeId)
    await Promise.all((['stream', 'senders', 'state'] as const).map((noun) => this.#redis.unlink(this.#keys.inbox(nodeId, noun))))
    await this.#redis.srem(this.#keys.bus('dead'), nodeId)
    diagnostics.nodeGone.publish({ nodeId })
  }

  /** `close`, for a start that is ended: it may have joined, and Redis may not let it leave. Resolves after `ms` at the latest. */
  async leave(ms: number): Promise<void> {
    if (this.nodeId === '') return
    await Promise.race([this.close(), new Promise((resolve) => setTimeout(resolve, ms))])
  }

  /** Stops renewing and leaves: the others need not wait for the lease. A boot that was fenced does so, too: it may only have been sealed. */
  async close(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    await this.#renewing
    this.#wait?.end()
    if (this.#redis.status !== 'ready') return // the lease will tell
    try {
      await this.bury(this.nodeId)
    } catch (error) {
      if (!(error instanceof BridgeError) && !(error instanceof Error)) throw error // Redis went away meanwhile
    }
  }
}
