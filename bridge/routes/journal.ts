// The journal: one Redis Stream of table changes with contiguous numbers, followed by every node in order.
// Start is position noted, snapshot, tail. Invariant: the listener's tables equal the journal up to `cursor`;
// when the past cannot be proven (a gap, a trim, another entry where the cursor stands) they are rebuilt from
// the snapshot at once. State: {bus}:journal, {bus}:position, {bus}:routes:*; here the cursor.
import { randomBytes } from 'node:crypto'
import { decodeJournalEntry, encodeJournalEntry, type Change } from '../messages/codec.ts'
import { nameDamage } from '../redis/damage.ts'
import { BridgeError, endNode, toBridgeError } from '../errors.ts'
import type { Keys } from '../redis/keys.ts'
import {
  isCluster,
  onServerChange,
  reportsOf,
  retrying,
  whenReady,
  type Connections,
  type Redis,
} from '../redis/redis.ts'
import { membersMax } from '../groups/group-table.ts'
import { isShared } from '../groups/shared-filter.ts'
import { RouteKind, type Route } from './routing-table.ts'
import { journalLength } from '../redis/layout.ts'
import { runScript } from '../redis/scripts.ts'
import { Slice } from '../pace/turns.ts'

/** What the journal says, in its order. Setting something twice must change nothing. */
export interface JournalListener {
  onChange(nodeId: string, change: Change): void
  /**
   * More of the snapshot, read after the routes of all nodes; what the journal has from after the position
   * is applied again.
   */
  readMore(): Promise<unknown>
  /**
   * The snapshot: the live nodes, all routes, and what `readMore` returned, to replace what is there; has done
   * so when it resolves. Meanwhile nothing changes.
   */
  onSnapshot(nodes: readonly string[], routes: readonly Route[], more: unknown): Promise<void>
  /** Redis lost the last entries: the tables are rebuilt, and what the others lost is not in them. */
  onLost(): void
  /**
   * An entry of a later version that must be understood: who cannot follow the journal has no place in the
   * cluster.
   */
  onLater(): void
  /** Redis lost data: resolves when the node is registered again (or never, when it is fenced). */
  onAmnesia(): Promise<void>
}

export interface Identity {
  readonly nodeId: string
  readonly generation: Buffer
}

/** Bytes of the entries that are kept. */
const journalBytesMax = 64 * 1024 * 1024
const blockMs = 1_000
/** Changes told in one entry, and bytes of their filters: bounds the time that one script takes. */
const changesMax = 2_000
const changesBytesMax = 1024 * 1024
/** Who waits for so long for the tail to come to a position looks whether the journal ever gets there. */
const stallMs = 1_000

const bytesOf = (change: Change): number =>
  'filter' in change ? change.filter.length : 'topic' in change ? change.topic.length : 0

export class Journal {
  readonly #redis: Redis
  readonly #control: Redis
  readonly #reader: Redis
  readonly #keys: Keys
  readonly #identity: () => Identity
  readonly #listener: JournalListener
  #cursor = 0
  /** The entry at the cursor, to prove after a reconnect that the past is still the same. */
  #last: Buffer | undefined
  #batch = 0
  /**
   * Signs the numbers of this writer's batches: those of another one, or damaged ones, are not taken for
   * them.
   */
  readonly #writer = randomBytes(6).toString('hex')
  /** The last of them that Redis confirmed, and in which data set. */
  #confirmed: { readonly batch: number; readonly generation: Buffer } | undefined
  #attempting: Promise<unknown> = Promise.resolve()
  #appending: Promise<unknown> = Promise.resolve()
  /** The next entry, while it may still grow. */
  #gathering: { readonly changes: Change[]; readonly appended: Promise<void> } | undefined
  #waiting: { position: number; resolve: () => void; reject: (error: Error) => void }[] = []
  #stalled: NodeJS.Timeout | undefined
  #closed = false
  #tail: Promise<void> = Promise.resolve()
  /** Counts rebuilds: what was read before one does not count after it. */
  #era = 0
  #rebuilding: Promise<void> | undefined

  constructor(
    { redis, control, journal }: Connections,
    keys: Keys,
    identity: () => Identity,
    listener: JournalListener,
  ) {
    this.#redis = redis
    this.#control = control
    this.#reader = journal
    this.#keys = keys
    this.#identity = identity
    this.#listener = listener
  }

  get cursor(): number {
    return this.#cursor
  }

  /** Builds the tables from the snapshot and follows the journal from there. */
  async start(): Promise<void> {
    await this.rebuild()
    this.#tail = this.#follow().catch((error: unknown) => endNode(error, reportsOf(this.#redis)))
  }

  /**
   * Appends changes of this node; resolves when they are stored. In order; routes also go to the snapshot.
   * What comes while an entry is under way goes together with the next: a crowd of clients is not as many
   * round trips, one after the other.
   * @throws BridgeError ERR_BRIDGE_FENCED
   */
  append(changes: readonly Change[]): Promise<void> {
    if (this.#gathering !== undefined) {
      for (const change of changes) this.#gathering.changes.push(change)
      return this.#gathering.appended
    }
    const gathered = [...changes]
    const appended = this.#appending.then(() => {
      this.#gathering = undefined
      return this.#append(gathered, false)
    })
    this.#gathering = { changes: gathered, appended }
    this.#appending = appended.catch(() => undefined)
    return appended
  }

  /** Each change is asked for when its entry is made: what goes meanwhile is not told again after its end. */
  async #append(changes: Iterable<Change>, anew: boolean, healing = false): Promise<void> {
    const left = changes[Symbol.iterator]()
    let isFirst = anew
    for (let isDone = false; !isDone;) {
      const part: Change[] = isFirst ? [{ type: 'anew' }] : []
      const routes: (string | number)[] = []
      for (let bytes = 0; part.length < changesMax && bytes < changesBytesMax;) {
        const next = left.next()
        if (next.done === true) {
          isDone = true
          break
        }
        const change = next.value
        bytes += bytesOf(change)
        part.push(change)
        if (change.type === 'route') routes.push(change.filter, change.kind)
      }
      if (part.length > 0) await this.#write(part, routes, isFirst, healing)
      isFirst = false
    }
  }

  async #write(
    changes: readonly Change[],
    routes: readonly (string | number)[],
    anew: boolean,
    healing: boolean,
  ): Promise<void> {
    for (;;) {
      const { generation } = this.#identity()
      try {
        await this.#inTurn(() => this.#attempt(changes, routes, anew))
        return
      } catch (reason) {
        const error = toBridgeError(reason)
        if (error.code === 'ERR_BRIDGE_AMNESIA' && !healing) {
          // otherwise it was healed while this waited
          if (generation.equals(this.#identity().generation)) await this.#listener.onAmnesia()
        } else if (error.code === 'ERR_BRIDGE_ORDER') {
          this.#batch = error.details.lastBatch ?? 0 // Redis lost a batch, or all
          if (!healing && this.#hasLost(this.#batch)) this.#rebuildLost().catch(() => undefined) // closed
        } else throw error
      }
    }
  }

  /**
   * Whether a batch that was confirmed is not there any more, when `own` is the last one that is. True once.
   */
  #hasLost(own: number, confirmed = this.#confirmed): boolean {
    if (
      confirmed === undefined ||
      own >= confirmed.batch ||
      !confirmed.generation.equals(this.#identity().generation)
    )
      return false
    if (this.#confirmed === confirmed) this.#confirmed = undefined
    return true
  }

  /**
   * What asserts all routes runs beside an entry that waits for it: a number that both took would make one of
   * them pass for stored. So a number is taken and used by one at a time, and never set back but by Redis.
   */
  #inTurn(attempt: () => Promise<unknown>): Promise<unknown> {
    const done = this.#attempting.then(attempt)
    this.#attempting = done.catch(() => undefined)
    return done
  }

  async #attempt(
    changes: readonly Change[],
    routes: readonly (string | number)[],
    anew: boolean,
  ): Promise<void> {
    const { nodeId, generation } = this.#identity()
    const keys = [
      this.#keys.bus('generation'),
      this.#keys.bus('nodes'),
      this.#keys.bus('batches'),
      this.#keys.bus('position'),
      this.#keys.bus('journal'),
      this.#keys.routes(nodeId),
    ]
    const batch = ++this.#batch
    const argv = [
      nodeId,
      `${batch}-${this.#writer}`,
      generation,
      journalLength,
      journalBytesMax,
      encodeJournalEntry(nodeId, changes),
      anew ? '1' : '0',
      ...routes,
    ]
    await retrying(this.#redis, () => runScript(this.#redis, 'journal-append', keys, argv))
    this.#confirmed = { batch, generation }
  }

  /**
   * Within onAmnesia, when the node is registered anew: its snapshot begins again, with all routes.
   * @throws BridgeError ERR_BRIDGE_AMNESIA when Redis lost its data once more
   */
  assertAll(changes: Iterable<Change>): Promise<void> {
    return this.#append(changes, true, true)
  }

  /**
   * Resolves when the tables hold at least what the journal held when this was called: one read of the
   * position, then catching up to it. The barrier of P2.
   * @param ahead a read that is done no later than that of the position, in the same round trip where one server
   * has both
   * @throws BridgeError that no retry helps
   */
  async barrier(ahead?: () => Promise<unknown>): Promise<void> {
    for (;;) {
      await this.#rebuilding
      const era = this.#era
      const seen = this.#cursor // what the tail brings while the position is being read may be behind it
      const { generation } = this.#identity()
      const [position, present] = await retrying(this.#control, async () => {
        const read = ahead?.()
        if (read !== undefined && isCluster(this.#control)) await read
        const position = this.#control.mgetBuffer(this.#keys.bus('position'), this.#keys.bus('generation'))
        return (await Promise.all([position, read]))[0]
      })
      if (this.#closed) throw new BridgeError('ERR_BRIDGE_CLOSED', 'the bridge is closing')
      if (era !== this.#era || !generation.equals(this.#identity().generation)) continue
      if (!(present?.equals(generation) ?? false)) {
        await this.#listener.onAmnesia()
        continue
      }
      const number = Number(position ?? 0)
      if (!(number >= seen))
        await this.#rebuildLost() // a failover lost the tail that we have seen, or it is no number
      else if (await this.#reached(number)) return
    }
  }

  /** False when the tables were rebuilt meanwhile, and the position means nothing any more. */
  #reached(position: number): Promise<boolean> {
    if (this.#cursor >= position) return Promise.resolve(true)
    this.#stalled ??= setTimeout(() => {
      this.#look().catch(() => undefined)
    }, stallMs)
    return new Promise<void>((resolve, reject) => this.#waiting.push({ position, resolve, reject })).then(
      () => true,
      (error: unknown) => {
        if (this.#closed) throw error
        return false
      },
    )
  }

  /**
   * Somebody has waited for long: a position ahead of the journal, which no script leaves behind, would be
   * waited for for ever.
   */
  async #look(): Promise<void> {
    this.#stalled = undefined
    if (this.#waiting.length === 0 || this.#closed) return
    const { position, mended } = await this.#end()
    if (mended) await this.rebuild()
    // of before it was mended, by another node perhaps: read again
    const ahead = this.#waiting.filter((waiter) => waiter.position > position)
    this.#waiting = this.#waiting.filter((waiter) => !ahead.includes(waiter))
    for (const { reject } of ahead) reject(new Error('ahead of the journal'))
    if (this.#waiting.length > 0)
      this.#stalled ??= setTimeout(() => {
        this.#look().catch(() => undefined)
      }, stallMs)
  }

  /** The end of the journal. Where its position and its entries disagree, they are set right. */
  async #end(): Promise<{ position: number; entry: Buffer | undefined; mended: boolean }> {
    const keys = [this.#keys.bus('position'), this.#keys.bus('journal')]
    const reply = await retrying(this.#control, () =>
      runScript(this.#control, 'journal-mend', keys, [encodeJournalEntry(this.#identity().nodeId, [])]),
    )
    const [position, entry, problem] = reply as [number, Buffer, Buffer]
    if (problem.length > 0) nameDamage(this.#redis, keys[0]!, problem.toString())
    return { position, entry: entry.length === 0 ? undefined : entry, mended: problem.length > 0 }
  }

  /**
   * The tables anew from the snapshot, as of this call or later. One at a time, and the tail applies nothing
   * meanwhile: an entry applied while an older snapshot is still being read would be undone by it, after the
   * back of a barrier.
   */
  rebuild(): Promise<void> {
    this.#era++
    for (const { reject } of this.#waiting.splice(0)) reject(new Error('rebuilt'))
    const before = this.#rebuilding
    const rebuilding = (async () => {
      await before?.catch(() => undefined)
      await this.#rebuild()
    })().finally(() => {
      if (this.#rebuilding === rebuilding) this.#rebuilding = undefined
    })
    return (this.#rebuilding = rebuilding)
  }

  /**
   * Position noted, snapshot, cursor. What the snapshot has from after the position is applied again by the
   * tail.
   */
  async #rebuild(): Promise<void> {
    const { position, last, nodes, routes, more } = await retrying(this.#redis, async () => {
      const { position, entry } = await this.#end()
      const nodes = await this.#redis.hkeys(this.#keys.bus('nodes'))
      const routes: Route[] = []
      for (const nodeId of nodes) await this.#readRoutes(nodeId, routes)
      return { position, last: entry, nodes, routes, more: await this.#listener.readMore() }
    })
    await this.#listener.onSnapshot(nodes, routes, more)
    this.#cursor = position
    this.#last = last
    this.#reach(position) // who began to wait between two rebuilds: no entry brings what the second one did
    reportsOf(this.#redis).tell('rebuilt', { position })
  }

  async #readRoutes(nodeId: string, into: Route[]): Promise<void> {
    let cursor = '0'
    do {
      const [next, fields] = await this.#redis.hscan(this.#keys.routes(nodeId), cursor, 'COUNT', 1_000)
      cursor = next
      for (let i = 0; i < fields.length; i += 2)
        into.push({ nodeId, filter: fields[i]!, kind: kindOf(fields[i]!, fields[i + 1]!) })
    } while (cursor !== '0')
  }

  async #follow(): Promise<void> {
    let proven = true
    onServerChange(this.#reader, () => {
      proven = false
    }) // also between two reads, where no command fails
    const read = async (): Promise<[number, [Buffer, [Buffer, Buffer]][]]> => {
      try {
        await whenReady(this.#reader)
        await this.#rebuilding
        while (!proven) {
          proven = true
          const past = await this.#past()
          if (past === 'lost') await this.#rebuildLost()
          else if (past === 'trimmed') await this.rebuild()
        }
        const era = this.#era
        const reply = (await this.#reader.callBuffer(
          'XREAD',
          'COUNT',
          '200',
          'BLOCK',
          blockMs,
          'STREAMS',
          this.#keys.bus('journal'),
          `${this.#cursor}-0`,
        )) as [Buffer, [Buffer, [Buffer, Buffer]][]][] | null
        return [era, reply?.[0]?.[1] ?? []]
      } catch (error) {
        proven = false
        throw error
      }
    }
    while (!this.#closed) {
      try {
        const [era, entries] = await retrying(this.#reader, read)
        if (era !== this.#era) continue
        const slice = new Slice()
        for (const [id, [, entry]] of entries) {
          if (!(await this.#apply(Number.parseInt(id.toString(), 10), entry, era, slice))) {
            await this.rebuild()
            break
          }
          if (this.#closed) return
          if (era !== this.#era) break
        }
      } catch (error) {
        if (this.#closed || toBridgeError(error).code === 'ERR_BRIDGE_CLOSED') return
        throw error // a bug
      }
    }
  }

  async #rebuildLost(): Promise<void> {
    await this.rebuild()
    this.#listener.onLost()
  }

  /**
   * Replication keeps prefixes: the same entry at the cursor proves that everything before it is the same,
   * and the number of our last entry that what we appended and have not read yet is there, too.
   */
  async #past(): Promise<'same' | 'trimmed' | 'lost'> {
    const confirmed = this.#confirmed
    const own =
      Number.parseInt(
        (await this.#reader.hget(this.#keys.bus('batches'), this.#identity().nodeId)) ?? '0',
        10,
      ) || 0
    const position = Number((await this.#reader.get(this.#keys.bus('position'))) ?? 0)
    if (this.#hasLost(own, confirmed)) return 'lost'
    if (this.#cursor === 0) return position === 0 ? 'same' : 'trimmed'
    if (position < this.#cursor) return 'lost'
    const id = `${this.#cursor}-0`
    const [entry] = await this.#reader.xrangeBuffer(this.#keys.bus('journal'), id, id)
    if (entry === undefined || this.#last === undefined) return 'trimmed'
    return entry[1][1]!.equals(this.#last) ? 'same' : 'lost'
  }

  /** False for a gap, entries were trimmed or lost, or for an entry that stands where none of ours can. */
  async #apply(number: number, bytes: Buffer, era: number, slice: Slice): Promise<boolean> {
    if (number !== this.#cursor + 1) return false
    const entry = decodeJournalEntry(bytes)
    if (entry === 'later') {
      reportsOf(this.#redis).tell('later', { where: 'journal', id: `${number}-0` })
      this.#closed = true
      this.#listener.onLater()
      return true
    }
    if (entry === undefined) reportsOf(this.#redis).tell('garbage', { where: 'journal', bytes: bytes.length })
    else {
      for (const change of entry.changes) {
        if (slice.isOver) {
          await slice.next()
          // the tables are being rebuilt, this entry included
          if (this.#closed || era !== this.#era) return true
        }
        this.#listener.onChange(entry.nodeId, change)
      }
    }
    this.#cursor = number
    this.#last = bytes
    this.#reach(number)
    return true
  }

  #reach(number: number): void {
    if (this.#waiting.length === 0) return
    const reached = this.#waiting.filter(({ position }) => position <= number)
    this.#waiting = this.#waiting.filter(({ position }) => position > number)
    for (const { resolve } of reached) resolve()
  }

  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#stalled)
    for (const { reject } of this.#waiting.splice(0))
      reject(new BridgeError('ERR_BRIDGE_CLOSED', 'the bridge is closing'))
    this.#reader.disconnect()
    await this.#tail
  }
}

/**
 * Bits of RouteKind. What is damaged counts as all of them: what comes too much finds no subscription. A group counts
 * members: a damaged number as one.
 */
function kindOf(filter: string, text: string): number {
  const kind = Number(text)
  if (isShared(filter)) return Number.isInteger(kind) && kind > 0 && kind <= membersMax ? kind : 1
  return kind === RouteKind.everything || kind === RouteKind.qos0
    ? kind
    : RouteKind.everything | RouteKind.qos0
}
