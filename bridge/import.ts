// Moves an installation of Aedes + aedes-persistence-redis into the cluster: its sessions with subscriptions and queued
// messages, Retained Messages and wills, read through that package's own interface (only who there is comes from its set of
// clients). It joins as a node for as long as it takes, so that running nodes route to what it brings at once. State: none
// of its own but {bus}:imported; run again it moves what is not there yet. Bound: `clientsAtOnce` clients in memory.
import aedesPersistenceRedis from 'aedes-persistence-redis'
import { DataPlane } from './data-plane.ts'
import { Keys, partitions, shardOf } from './keys.ts'
import type { Message } from './message.ts'
import type { DataPlaneOptions } from './options.ts'
import type { Redis } from './redis.ts'
import { SessionOption } from './session-options.ts'
import type { Session } from './sessions.ts'
import { connectStock } from './stock-redis.ts'

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

export interface ImportOptions extends Omit<DataPlaneOptions, 'name'> {
  /** The Redis of the old installation, and what its keys begin with. */
  readonly from: string
  readonly fromPrefix: string
  /** Counts, and writes nothing into the cluster. */
  readonly dryRun: boolean
  /** The message of a stored packet; who knows the wire makes it. */
  readonly messageOf: (packet: StockPacket) => Message
  readonly onProgress: (counts: Readonly<ImportCounts>) => void
}

export interface ImportCounts {
  /** Found in the old installation, and of these moved now; the others were there already. */
  readonly sessions: { found: number; moved: number }
  readonly subscriptions: { found: number; moved: number }
  readonly messages: { found: number; moved: number }
  readonly retained: { found: number; moved: number }
  readonly wills: { found: number; moved: number }
}

const clientsAtOnce = 100
const retainedAtOnce = 200

const none = (): { found: number; moved: number } => ({ found: 0, moved: 0 })

/** @throws BridgeError when either Redis cannot be reached */
export async function importInstallation(options: ImportOptions): Promise<ImportCounts> {
  const source = connectStock(options.from, options.fromPrefix, options.onError)
  const stock = aedesPersistenceRedis({ conn: source, maxSessionDelivery: 10_000_000 }) as unknown as StockPersistence
  const plane = options.dryRun ? undefined : await DataPlane.start({ ...options, name: `import-${process.pid}` }, {
    deliver: () => undefined, pressure: () => undefined, ring: () => undefined, moved: () => undefined,
    onFenced: () => options.onError(new Error('declared dead by the other nodes while importing; run it again')),
  })
  const run = new Import(options, stock, source, plane)
  try {
    await run.sessions()
    await run.retained()
    await run.wills()
    return run.counts
  } finally {
    await plane?.close()
    source.disconnect()
  }
}

class Import {
  readonly counts: ImportCounts = { sessions: none(), subscriptions: none(), messages: none(), retained: none(), wills: none() }
  readonly #options: ImportOptions
  readonly #stock: StockPersistence
  readonly #source: Redis
  readonly #plane: DataPlane | undefined
  readonly #keys: Keys

  constructor(options: ImportOptions, stock: StockPersistence, source: Redis, plane: DataPlane | undefined) {
    this.#options = options
    this.#stock = stock
    this.#source = source
    this.#plane = plane
    this.#keys = new Keys(options.prefix)
  }

  async sessions(): Promise<void> {
    let cursor = '0'
    do {
      const [next, clients] = await this.#source.sscan('clients', cursor, 'COUNT', clientsAtOnce)
      cursor = next
      for (let i = 0; i < clients.length; i += clientsAtOnce) await Promise.all(clients.slice(i, i + clientsAtOnce).map((clientId) => this.#session(clientId)))
      this.#options.onProgress(this.counts)
    } while (cursor !== '0')
  }

  async #session(clientId: string): Promise<void> {
    const { sessions, subscriptions, messages } = this.counts
    const filters = await this.#stock.subscriptionsByClient({ id: clientId })
    sessions.found++
    subscriptions.found += filters.length
    const session = this.#plane === undefined || await this.#exists(clientId) ? undefined : await this.#claim(clientId)
    if (session !== undefined) {
      for (const { topic, qos, nl, rap, subscriptionIdentifier } of filters) {
        const options = qos | (nl === true ? SessionOption.noLocal : 0) | (rap === true ? SessionOption.retainAsPublished : 0)
        await this.#plane!.sessions.subscribe(session, topic, { options, identifier: subscriptionIdentifier })
        subscriptions.moved++
      }
    }
    let last: Promise<void> | undefined
    for await (const packet of this.#stock.outgoingStream({ id: clientId })) {
      if (packet.cmd !== 'publish') continue // PUBREC came: the client has the message
      messages.found++
      if (session === undefined) continue
      last = this.#plane!.enqueue(this.#message(packet), session.sid)
      messages.moved++
    }
    await last
    if (session === undefined) return
    await this.#plane!.sessions.release(session, true)
    sessions.moved++
  }

  #message(packet: StockPacket): Message {
    return { ...this.#options.messageOf(packet), expiresAt: packet.messageExpiry ?? 0 }
  }

  async #exists(clientId: string): Promise<boolean> {
    return await this.#plane!.connection.hexists(this.#keys.partition(shardOf(clientId, partitions), 'clients'), clientId) === 1
  }

  #claim(clientId: string): Promise<Session> {
    return this.#plane!.sessions.claim({ clientId, cleanStart: false, expirySeconds: -1, will: undefined })
  }

  async retained(): Promise<void> {
    let batch: Message[] = []
    for await (const packet of this.#stock.createRetainedStream('#')) {
      this.counts.retained.found++
      batch.push({ ...this.#message(packet), retain: true })
      if (batch.length < retainedAtOnce) continue
      await this.#keep(batch)
      batch = []
    }
    await this.#keep(batch)
  }

  async #keep(batch: readonly Message[]): Promise<void> {
    this.#options.onProgress(this.counts)
    if (this.#plane === undefined || batch.length === 0) return
    const there = new Set((await this.#plane.retainedOf(batch.map(({ topic }) => topic))).map(({ topic }) => topic))
    const missing = batch.filter(({ topic }) => !there.has(topic))
    await this.#plane.keep(missing)
    this.counts.retained.moved += missing.length
  }

  /** The connections that they belong to ended with the old installation: each is published, once. */
  async wills(): Promise<void> {
    for await (const packet of this.#stock.streamWill()) {
      this.counts.wills.found++
      if (this.#plane === undefined) continue
      const clientId = packet.clientId ?? ''
      if (await this.#plane.connection.sadd(this.#keys.bus('imported'), `${packet.brokerId ?? ''} ${clientId}`) === 0) continue
      await new Promise<void>((resolve) => this.#plane!.publish({ ...this.#message(packet), origin: undefined }, resolve))
      this.counts.wills.moved++
    }
    this.#options.onProgress(this.counts)
  }
}
