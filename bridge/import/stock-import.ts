// Moves an installation of Aedes + aedes-persistence-redis into the cluster: its sessions with subscriptions
// and queued messages, Retained Messages and wills, read through that package's own interface (only who there
// is comes from its set of clients). It joins as a node for as long as it takes, so that running nodes route
// to what it brings at once. State: none of its own but {bus}:imported. Invariants: the old installation is
// only read; a session is built apart, its queue before its subscriptions, and given to its client by one
// script when it is whole, so that whoever is killed here leaves nothing half: what was built apart expires,
// and the next run moves it. Bound: `clientsAtOnce` clients, `pageMax` messages of each.
import aedesPersistenceRedis from 'aedes-persistence-redis'
import { randomBytes } from 'node:crypto'
import { DataPlane } from '../data-plane.ts'
import { Reports } from '../diagnostics.ts'
import { BridgeError } from '../errors.ts'
import { FilterTrie } from '../matching/filter-trie.ts'
import { Keys } from '../redis/keys.ts'
import type { Message } from '../messages/message.ts'
import type { DataPlaneOptions } from '../options.ts'
import { allDone, retrying, type Redis } from '../redis/redis.ts'
import { runScript } from '../redis/scripts.ts'
import { SessionOption } from '../sessions/session-options.ts'
import { encodeSubscription, type StoredSubscription } from '../sessions/stored-subscription.ts'
import { connectStock } from '../redis/stock-redis.ts'
import { Waits } from '../pace/waits.ts'

/** A packet as aedes-persistence-redis stores it. */
export interface StockPacket {
  readonly cmd: string
  readonly topic: string
  readonly payload: Buffer
  readonly qos: 0 | 1 | 2
  readonly retain: boolean
  readonly properties?: object
  /** ms since the epoch */
  readonly messageExpiry?: number
  readonly clientId?: string
  readonly brokerId?: string
  readonly messageId?: number
}

interface StockSubscription {
  readonly topic: string
  readonly qos: 0 | 1 | 2
  readonly nl?: boolean
  readonly rap?: boolean
  readonly subscriptionIdentifier?: number
}

interface StockPersistence {
  subscriptionsByClient(client: { id: string }): Promise<StockSubscription[]>
  outgoingStream(client: { id: string }): AsyncIterable<StockPacket>
  createRetainedStream(pattern: string): AsyncIterable<StockPacket>
  streamWill(): AsyncIterable<StockPacket>
}

/** What is asked of an import, whatever it moves into. */
export interface ImportRequest {
  /** The Redis of the old installation, and what its keys begin with. */
  readonly from: string
  readonly fromPrefix: string
  /** Counts, and writes nothing into the cluster. */
  readonly dryRun: boolean
  /** The message of a stored packet; who knows the wire makes it. */
  readonly messageOf: (packet: StockPacket) => Message
  readonly onProgress: (counts: Readonly<ImportCounts>) => void
  /** The old installation's Redis broke off (why), or is there again. It is waited for. */
  readonly onSource: (problem: Error | undefined) => void
  readonly onError: (error: Error) => void
}

export type ImportOptions = Omit<DataPlaneOptions, 'name' | 'onError'> & ImportRequest

export interface ImportCounts {
  /** Found in the old installation, and of these moved now; the others were there already. */
  readonly sessions: { found: number; moved: number }
  readonly subscriptions: { found: number; moved: number }
  readonly messages: { found: number; moved: number }
  readonly retained: { found: number; moved: number }
  readonly wills: { found: number; moved: number }
  /** Messages, counted as moved, that queues longer than the cluster's bound dropped: the oldest. */
  dropped: number
}

/**
 * No node of an operator can have this name, under which waits are told, too; two imports at once are refused
 * as one name twice.
 */
export const nodeName = '~import'
const clientsAtOnce = 100
const pageMax = 500
/** A session that was built apart and not given to its client ends after so long. */
const apartMs = 3_600_000
const retainedAtOnce = 200

const none = (): { found: number; moved: number } => ({ found: 0, moved: 0 })

/**
 * Topic → the QoS that a session's queued message is owed at most; without a subscription any more as it was
 * published.
 */
function grantedBy(filters: readonly StockSubscription[]): (topic: string) => number {
  const trie = new FilterTrie<StockSubscription>()
  for (const filter of filters) trie.add(filter.topic, filter)
  return (topic) => trie.match(topic).reduce((highest, { qos }) => Math.max(highest, qos), 0) || 2
}

/**
 * The package over a connection on which it can only read: it removes dead references while it reads, which
 * an import, and a dry run above all, must not. Its lists, which it reads whole or cut at a fixed length,
 * come as the page from `from`.
 */
function stockReader(
  source: Redis,
  from = 0,
  onPage: (names: number) => void = () => undefined,
): StockPersistence {
  const reads = {
    hgetallBuffer: (key: string) => source.hgetallBuffer(key),
    getBuffer: (key: string) => source.getBuffer(key),
    hscanBufferStream: (key: string, options: object) => source.hscanBufferStream(key, options),
    lrem: () => Promise.resolve(0),
    lrange: async (key: string) => {
      const names = await source.lrange(key, from, from + pageMax - 1)
      onPage(names.length)
      return names
    },
  }
  return aedesPersistenceRedis({ conn: reads as unknown as Redis }) as unknown as StockPersistence
}

/** The packets of a list of the package, a page at a time. */
async function* pages(
  source: Redis,
  read: (stock: StockPersistence) => AsyncIterable<StockPacket>,
): AsyncGenerator<StockPacket[]> {
  for (let from = 0, names = pageMax; names === pageMax; from += pageMax) {
    names = 0
    const page: StockPacket[] = []
    for await (const packet of read(
      stockReader(source, from, (count) => {
        names = count
      }),
    ))
      page.push(packet)
    yield page
  }
}

/**
 * Waits for either Redis while it is away or refuses, until `ended`: then it leaves the cluster, and the next
 * run goes on.
 * @throws BridgeError when either Redis cannot be reached, ERR_BRIDGE_DUPLICATE_NODE when another import
 * runs, ERR_BRIDGE_CLOSED when it was ended
 */
export async function importInstallation(options: ImportOptions, ended: AbortSignal): Promise<ImportCounts> {
  const source = connectStock(options.from, options.fromPrefix, options.onSource)
  source.on('ready', () => options.onSource(undefined))
  const reports = new Reports(nodeName)
  const waits = new Waits(reports, 0)
  const interrupted = new Promise<never>((_, reject) => {
    const end = (): void => reject(new BridgeError('ERR_BRIDGE_CLOSED', 'it was ended before it was done'))
    if (ended.aborted) end()
    else ended.addEventListener('abort', end, { once: true })
  })
  interrupted.catch(() => undefined) // it may be over when it is ended
  try {
    const plane = options.dryRun
      ? undefined
      : await DataPlane.start(
          { ...options, name: nodeName, waits, reports },
          {
            publishers: 0,
            deliver: () => undefined,
            deliverShared: () => false,
            hold: () => undefined,
            ring: () => undefined,
            taken: () => undefined,
            wanted: () => undefined,
            onFenced: () =>
              options.onError(new Error('declared dead by the other nodes while importing; run it again')),
          },
          ended,
        )
    const run = new Import(options, source, plane)
    const deafen = reports.hear<{ cause: string; count: number }>('shed', ({ cause, count }) => {
      if (cause === 'full-queue') run.counts.dropped += count
    })
    try {
      await Promise.race([run.all(), interrupted])
      waits.look() // what was waited for last may be over a moment ago
      return run.counts
    } finally {
      deafen()
      await Promise.race([
        plane?.close(),
        new Promise((resolve) => setTimeout(resolve, options.redisTimeoutMs)),
      ]) // its lease tells otherwise
    }
  } finally {
    waits.close()
    source.disconnect()
  }
}

class Import {
  readonly counts: ImportCounts = {
    sessions: none(),
    subscriptions: none(),
    messages: none(),
    retained: none(),
    wills: none(),
    dropped: 0,
  }
  readonly #options: ImportOptions
  readonly #source: Redis
  readonly #stock: StockPersistence
  readonly #plane: DataPlane | undefined
  readonly #keys: Keys

  constructor(options: ImportOptions, source: Redis, plane: DataPlane | undefined) {
    this.#options = options
    this.#source = source
    this.#stock = stockReader(source)
    this.#plane = plane
    this.#keys = plane?.keys ?? new Keys(options.prefix)
  }

  async all(): Promise<void> {
    await this.#sessions()
    await this.#retained()
    await this.#wills()
  }

  async #sessions(): Promise<void> {
    let cursor = '0'
    do {
      const [next, clients] = await this.#source.sscan('clients', cursor, 'COUNT', clientsAtOnce)
      cursor = next
      for (let i = 0; i < clients.length; i += clientsAtOnce) {
        await Promise.all(clients.slice(i, i + clientsAtOnce).map((clientId) => this.#session(clientId)))
        this.#options.onProgress(this.counts)
      }
    } while (cursor !== '0')
  }

  async #session(clientId: string): Promise<void> {
    const { sessions, subscriptions, messages } = this.counts
    const filters = await this.#stock.subscriptionsByClient({ id: clientId })
    const granted = grantedBy(filters)
    sessions.found++
    subscriptions.found += filters.length
    const plane = this.#plane
    const sid =
      plane === undefined || (await this.#exists(plane, clientId))
        ? undefined
        : await this.#begin(plane, clientId)
    const owed: number[] = []
    let queued = 0
    for await (const page of pages(this.#source, (stock) => stock.outgoingStream({ id: clientId }))) {
      // After PUBREC the client has the message and awaits PUBREL, under that identifier: only that record is
      // its own. A PUBLISH is one record for all of its subscribers, whose identifier may be another
      // client's: it is queued anew.
      for (const { cmd, messageId } of page)
        if (cmd === 'pubrel' && messageId !== undefined) owed.push(messageId)
      const publishes = page.filter(({ cmd }) => cmd === 'publish')
      messages.found += publishes.length
      if (plane === undefined || sid === undefined) continue
      await Promise.all(
        publishes.map((packet) => plane.enqueue(this.#message(packet), sid, granted(packet.topic))),
      )
      queued += publishes.length
    }
    if (
      plane === undefined ||
      sid === undefined ||
      !(await this.#finish(plane, clientId, sid, filters, owed))
    )
      return
    sessions.moved++
    subscriptions.moved += filters.length
    messages.moved += queued
  }

  #message(packet: StockPacket): Message {
    const { messageExpiry } = packet
    return this.#options
      .messageOf(packet)
      .with({
        expiresAt: messageExpiry === undefined ? 0 : this.#plane?.clock.toLocal(messageExpiry) || -1,
        expirySeconds: undefined,
      })
  }

  async #exists(plane: DataPlane, clientId: string): Promise<boolean> {
    const key = this.#keys.partition(this.#keys.partitionFor(clientId), 'clients')
    return (await retrying(plane.connection, () => plane.connection.hexists(key, clientId))) === 1
  }

  /** A session that no client has: nobody finds it, and it expires unless it is given to its client. */
  async #begin({ connection }: DataPlane, clientId: string): Promise<string> {
    const partition = this.#keys.partitionFor(clientId)
    const sid = partition.toString(16) + randomBytes(9).toString('base64url')
    await retrying(connection, async () => {
      const [seconds] = await connection.time()
      allDone(
        await connection
          .multi()
          .zadd(this.#keys.partition(partition, 'due'), Number(seconds) * 1_000 + apartMs, `e:${sid}`)
          .hset(this.#keys.partition(partition, 'owners'), sid, '')
          .hset(
            this.#keys.session(sid, 'session'),
            'client',
            clientId,
            'epoch',
            0,
            'expiry',
            -1,
            'willDelay',
            0,
          )
          .exec(),
      )
    })
    return sid
  }

  /**
   * Its queue is there: from its subscriptions on, what is published comes after. False: the client has
   * another session by now.
   */
  async #finish(
    { connection, sessions }: DataPlane,
    clientId: string,
    sid: string,
    filters: readonly StockSubscription[],
    owed: readonly number[],
  ): Promise<boolean> {
    const stored = new Map<string, StoredSubscription>(
      filters.map(({ topic, qos, nl, rap, subscriptionIdentifier }) => [
        topic,
        {
          options:
            qos |
            (nl === true ? SessionOption.noLocal : 0) |
            (rap === true ? SessionOption.retainAsPublished : 0),
          identifier: subscriptionIdentifier,
        },
      ]),
    )
    await retrying(connection, async () => {
      const multi = connection.multi()
      for (const [filter, subscription] of stored)
        multi.hset(this.#keys.session(sid, 'subscriptions'), filter, encodeSubscription(subscription))
      for (const [order, messageId] of owed.entries())
        multi.hset(this.#keys.session(sid, 'inflight'), messageId, order)
      allDone(await multi.exec())
    })
    if (stored.size > 0) await sessions.announce(sid, stored)
    const keys = (['clients', 'owners', 'due', 'tenants'] as const).map((noun) =>
      this.#keys.partition(this.#keys.partitionFor(clientId), noun),
    )
    return (
      (await retrying(connection, () =>
        runScript(connection, 'session-adopt', keys, [clientId, sid, -1]),
      )) === 1
    )
  }

  async #retained(): Promise<void> {
    let batch: Message[] = []
    for await (const packet of this.#stock.createRetainedStream('#')) {
      this.counts.retained.found++
      batch.push(this.#message(packet).with({ retain: true }))
      if (batch.length < retainedAtOnce) continue
      await this.#importRetained(batch)
      batch = []
    }
    await this.#importRetained(batch)
  }

  async #importRetained(batch: readonly Message[]): Promise<void> {
    this.#options.onProgress(this.counts)
    if (this.#plane === undefined || batch.length === 0) return
    const there = new Set(await this.#plane.haveRetained(batch.map(({ topic }) => topic)))
    const missing = batch.filter(({ topic }) => !there.has(topic))
    await this.#plane.importRetained(missing)
    this.counts.retained.moved += missing.length
  }

  /**
   * The connections that they belong to ended with the old installation: each is published, and then noted as
   * published.
   */
  async #wills(): Promise<void> {
    for await (const page of pages(this.#source, (stock) => stock.streamWill())) {
      this.counts.wills.found += page.length
      const plane = this.#plane
      if (plane !== undefined)
        for (let i = 0; i < page.length; i += clientsAtOnce)
          await Promise.all(page.slice(i, i + clientsAtOnce).map((packet) => this.#will(plane, packet)))
      this.#options.onProgress(this.counts)
    }
  }

  async #will(plane: DataPlane, packet: StockPacket): Promise<void> {
    const [key, member] = [this.#keys.bus('imported'), `${packet.brokerId ?? ''} ${packet.clientId ?? ''}`]
    if ((await retrying(plane.connection, () => plane.connection.sismember(key, member))) === 1) return
    await new Promise<void>((resolve) => plane.publish(this.#options.messageOf(packet), resolve))
    await retrying(plane.connection, () => plane.connection.sadd(key, member))
    this.counts.wills.moved++
  }
}
