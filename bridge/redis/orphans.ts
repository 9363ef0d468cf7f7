// Keys and entries that nothing living reaches, and that nobody would ever remove: what is left of data that Redis lost in
// part, or that somebody changed by hand. Nodes leave none behind; what is of a session that ends, of a dead node or due
// they remove themselves, and that is left to them. An orphan is one that is found twice, a moment apart, by its whole
// name: no name of a session, of a group or of a boot comes back. Cost: SCAN over all keys of the Redis, page by page, so in
// a process of its own. State: none but what was found.
import { setTimeout as pause } from 'node:timers/promises'
import { isSid, type Keys } from './keys.ts'
import { mastersOf, type Redis } from './redis.ts'
import { runLoaded } from './scripts.ts'

const pageMax = 1_000
/** Between two looks: a node that has lost its place in Redis has it again by then. */
const apartMs = 2_000

/** What is to be removed. */
interface Orphan {
  readonly what: string
  /** @returns whether it was there */
  remove(): Promise<boolean>
}

/** @returns what was removed, a line each */
export async function removeOrphans(redis: Redis, keys: Keys): Promise<string[]> {
  const first = await new Look(redis, keys).all()
  if (first.size === 0) return []
  await pause(apartMs)
  const removed: string[] = []
  for (const [name, orphan] of await new Look(redis, keys).all())
    if (first.has(name) && (await orphan.remove())) removed.push(orphan.what)
  return removed
}

const sessionNouns = ['session', 'subscriptions', 'queue', 'inflight', 'incoming'] as const
const groupNouns = ['group', 'members', 'backlog', 'given'] as const
const isOfGroup: ReadonlySet<string> = new Set(groupNouns)
const isOfSession: ReadonlySet<string> = new Set(sessionNouns)

class Look {
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #found = new Map<string, Orphan>()

  constructor(redis: Redis, keys: Keys) {
    this.#redis = redis
    this.#keys = keys
  }

  async all(): Promise<ReadonlyMap<string, Orphan>> {
    const { prefix, partitions } = this.#keys
    const match = `${prefix.replaceAll(/[*?[\]\\^-]/g, (sign) => `\\${sign}`)}:*`
    for (const master of mastersOf(this.#redis))
      for await (const page of master.scanStream({ match, count: pageMax }) as AsyncIterable<string[]>)
        await this.#keysOf(page.map((key) => key.slice(prefix.length + 1)))
    for (let p = 0; p < partitions; p++) {
      await this.#clients(p)
      await this.#owners(p)
      await this.#wills(p)
    }
    return this.#found
  }

  #of(partition: number, noun: Parameters<Keys['partition']>[1]): string {
    return this.#keys.partition(partition, noun)
  }

  #add(name: string, remove: () => Promise<boolean>): void {
    this.#found.set(name, { what: name, remove })
  }

  /** First the keys were read, then is looked whose they are: what begins meanwhile is there by then. */
  async #keysOf(names: readonly string[]): Promise<void> {
    const ids = Array.from({ length: this.#keys.partitions }, () => new Map<string, string>())
    const boots = new Map<string, string[]>()
    for (const name of names) {
      const [, boot] = /^\{inbox:(.*)\}:[a-z]+$/s.exec(name) ?? /^\{bus\}:routes:(.*)$/s.exec(name) ?? []
      if (boot !== undefined) boots.set(boot, [...(boots.get(boot) ?? []), `${this.#keys.prefix}:${name}`])
      const [, partition, noun, id] = /^\{s(\d{1,2})\}:([a-z]+):([\w-]+)$/.exec(name) ?? []
      if (id !== undefined && (isOfSession.has(noun!) || isOfGroup.has(noun!)))
        ids[Number(partition)]?.set(id, noun!)
    }
    if (boots.size > 0) await this.#boots(boots)
    for (const [p, some] of ids.entries()) if (some.size > 0) await this.#ofPartition(p, some)
  }

  async #boots(boots: ReadonlyMap<string, readonly string[]>): Promise<void> {
    const names = [...boots.keys()]
    const alive = await this.#redis.hmget(this.#keys.bus('nodes'), ...names)
    const dead = new Set(await this.#redis.smembers(this.#keys.bus('dead'))) // their estates are under way
    for (const [i, boot] of names.entries())
      if (alive[i] === null && !dead.has(boot))
        for (const key of boots.get(boot)!)
          this.#add(`${key}: there is no such node`, async () => (await this.#redis.unlink(key)) === 1)
  }

  async #ofPartition(partition: number, ids: ReadonlyMap<string, string>): Promise<void> {
    const names = [...ids.keys()]
    const owners = await this.#redis.hmget(this.#of(partition, 'owners'), ...names)
    const missing = names.filter((_, i) => owners[i] === null)
    if (missing.length === 0) return
    const groups = await this.#redis.hvals(this.#of(partition, 'groups'))
    const gids = new Set(groups.map((entry) => entry.split(' ')[0]!))
    for (const id of missing.filter((id) => !gids.has(id))) {
      const isGroup = isOfGroup.has(ids.get(id)!)
      const own = isGroup
        ? groupNouns.map((noun) => this.#keys.group(id, noun))
        : sessionNouns.map((noun) => this.#keys.session(id, noun))
      while (own.length < sessionNouns.length) own.push(own[0]!) // a script has as many keys as it has
      const argv = [this.#of(partition, 'owners'), this.#of(partition, 'groups'), ...own]
      this.#add(
        `${this.#keys.sessions(partition)}${ids.get(id)!}:${id} and what goes with it: there is no such ${isGroup ? 'group' : 'session'}`,
        async () => Number(await runLoaded(this.#redis, 'orphan-remove', argv, [id])) > 0,
      )
    }
  }

  async *#pages(key: string): AsyncGenerator<(readonly [field: string, value: string])[]> {
    let cursor = '0'
    do {
      const [next, list] = await this.#redis.hscan(key, cursor, 'COUNT', pageMax)
      cursor = next
      const page: (readonly [string, string])[] = []
      for (let i = 0; i + 1 < list.length; i += 2) page.push([list[i]!, list[i + 1]!])
      if (page.length > 0) yield page
    } while (cursor !== '0')
  }

  async #clients(partition: number): Promise<void> {
    const key = this.#of(partition, 'clients')
    for await (const page of this.#pages(key)) {
      const sids = page.map(([, sid]) => sid)
      const owners = await this.#redis.hmget(this.#of(partition, 'owners'), ...sids)
      for (const [i, [client, sid]] of page.entries())
        if (owners[i] === null || !isSid(sid, partition))
          this.#add(`${key}: ${JSON.stringify(client)} has session ${sid}, which is not there`, async () => {
            // it may have come again since, with a session of its own
            const its = (['clients', 'owners', 'tenants'] as const).map((noun) => this.#of(partition, noun))
            return (await runLoaded(this.#redis, 'orphan-client', its, [client, sid])) === 1
          })
    }
  }

  /** One that nobody owns, that no client has, and that nothing will end: the next sweep does. */
  async #owners(partition: number): Promise<void> {
    const [key, due] = [this.#of(partition, 'owners'), this.#of(partition, 'due')]
    for await (const page of this.#pages(key))
      for (const [sid, owner] of page) {
        if (owner !== '' || (await this.#redis.zscore(due, `e:${sid}`)) !== null) continue
        const client = await this.#redis.hget(this.#keys.session(sid, 'session'), 'client')
        if (client !== null && (await this.#redis.hget(this.#of(partition, 'clients'), client)) === sid)
          continue
        this.#add(
          `${key}: session ${sid} is no client's: it ends with the next sweep`,
          async () => (await this.#redis.zadd(due, 'NX', 0, `e:${sid}`)) === 1,
        )
      }
  }

  async #wills(partition: number): Promise<void> {
    const [key, due] = [this.#of(partition, 'wills'), this.#of(partition, 'due')]
    for await (const page of this.#pages(key))
      for (const [field] of page) {
        const name = field.replace(/^tak(?:en|ing):/, '')
        const sid = name.split(':')[0]!
        if ((await this.#redis.hexists(this.#of(partition, 'owners'), sid)) === 1) continue
        if (field.startsWith('taking:') || (await this.#redis.zscore(due, `w:${name}`)) !== null) continue
        this.#add(
          `${key}: the will ${field} is no session's`,
          async () => (await this.#redis.hdel(key, field)) === 1,
        )
      }
  }
}
