// Node to node: each boot of a node owns one stream, its inbox, made by it alone; others append a packed
// entry per turn of their event loop. State: {inbox:<node id>}:*; here what is on its way. Invariants: a
// sender's batches arrive once and in order, whatever happens to connections; what `push` resolved for is
// stored in the inbox, or the target is out. Bounds: the inbox by bytes in Redis (above it QoS 0 is shed, QoS
// ≥ 1 waits, and a reader that stands still is sealed out).
import { randomBytes } from 'node:crypto'
import type { Clock } from '../pace/clock.ts'
import { EntryReader, MessagePacker, type Given, type OtherRecords, type Share } from '../messages/codec.ts'
import type { Reports } from '../diagnostics.ts'
import { BridgeError, toBridgeError } from '../errors.ts'
import type { Keys } from '../redis/keys.ts'
import type { Message } from '../messages/message.ts'
import {
  onServerChange,
  reportsOf,
  retrying,
  whenReady,
  type Connections,
  type Redis,
} from '../redis/redis.ts'
import { runScript } from '../redis/scripts.ts'
import { isBacklogged, workedOff } from '../pace/backlog.ts'
import { atMost } from '../pace/together.ts'
import { Slice } from '../pace/turns.ts'

/** Bytes in an inbox above which it takes nothing until its reader has progressed. */
const inboxBytesMax = 16 * 1024 * 1024
/**
 * An inbox that is full for so long, while its reader stands still, is sealed (P9: nobody is held up for more
 * than about 2 s).
 */
const stallMs = 1_500
/** Bytes of one entry, and bytes that may wait for their turn before QoS 0 and what groups give are shed. */
const entryBytesMax = 1024 * 1024
const waitingBytesMax = 8 * 1024 * 1024
const nothing = Buffer.alloc(0)
const blockMs = 1_000
const entriesPerRead = 64
/**
 * What was handled is freed when so much of it came together, or after so long: at low load not after each
 * message.
 */
const trimBytes = 256 * 1024
const trimMs = 100
/** Who is busy with an entry says so this often. */
const progressMs = stallMs / 3

interface Batch {
  readonly body: Buffer
  /** QoS 0 messages in it. */
  readonly qos0: number
  readonly settled: Promise<void>
  readonly settle: () => void
}

export interface InboxWriterEvents {
  /** This node was declared dead: nothing it sends is taken. */
  onFenced(): void
  /** The target takes nothing any more: its route is gone. */
  onOut(nodeId: string): void
}

/** Writes to the inbox of one other node: one batch under way, the next one grows meanwhile. */
export class InboxWriter {
  readonly #redis: Redis
  readonly #keys: readonly string[]
  readonly #sender: string
  readonly #target: string
  readonly #events: InboxWriterEvents
  readonly #packer: MessagePacker
  readonly #bells = new Set<string>()
  /** Groups that the target is to look after. */
  readonly #looks = new Set<string>()
  /** Topics whose publishers the target is to hold back, or no longer. */
  readonly #holds = new Map<string, boolean>()
  #open: { settled: Promise<void>; settle: () => void } | undefined
  /** QoS 0 messages in the entry that is being packed. */
  #qos0 = 0
  #queue: Batch[] = []
  #queuedBytes = 0
  #number = 0
  /**
   * Signs the numbers: a writer that was made anew begins at 1, and its batches are not those of the one
   * before.
   */
  readonly #id = randomBytes(6).toString('hex')
  #writing = false
  #scheduled = false
  #out = false
  #full = false

  constructor(
    redis: Redis,
    keys: Keys,
    sender: string,
    target: string,
    clock: Clock,
    events: InboxWriterEvents,
  ) {
    this.#redis = redis
    this.#keys = [keys.inbox(target, 'stream'), keys.inbox(target, 'senders'), keys.inbox(target, 'state')]
    this.#sender = sender
    this.#target = target
    this.#packer = new MessagePacker(clock)
    this.#events = events
  }

  /** What nobody waits for finds no room. */
  get #isCrowded(): boolean {
    return this.#full || this.#queuedBytes + this.#packer.length > waitingBytesMax
  }

  /** Takes a QoS 0 message, or sheds it because the link is full. */
  pushQos0(message: Message, share?: Share): void {
    if (this.#out || this.#isCrowded) reportsOf(this.#redis).tell('shed', { cause: 'slow-node', count: 1 })
    else this.#add(message, share)
  }

  /**
   * Rings the bell of a session whose owner is the target. Never shed: a session is rung once however often,
   * until it is written.
   */
  ring(sid: string): void {
    if (this.#out) return
    this.#bells.add(sid)
    this.#schedule()
  }

  /**
   * Tells the target whether to hold back publishers on `topic`. Never shed: the last word on a topic is
   * told.
   */
  hold(topic: string, held: boolean): void {
    if (this.#out) return
    this.#holds.set(topic, held)
    this.#schedule()
  }

  /** The target looks what members of a group that are connected to it were given. Never shed. */
  look(name: string): void {
    if (this.#out) return
    this.#looks.add(name)
    this.#schedule()
  }

  /**
   * Takes a message that was given to a member of a group there. Nobody waits for it: when the link is full, the
   * target looks what its members were given, and reads it from Redis.
   */
  give(name: string, message: Message, given: Given): void {
    if (this.#out) return
    if (this.#isCrowded) return this.look(name)
    this.#packer.addGiven(given)
    this.#add(message, undefined)
  }

  /**
   * Takes a QoS ≥ 1 message; resolves when it is stored in the inbox, or the target is out and there is
   * nobody to store it for.
   */
  push(message: Message, share?: Share): Promise<void> {
    if (this.#out) return Promise.resolve()
    const settled = this.#settled() // before adding, which may close the entry
    this.#add(message, share)
    return settled
  }

  #settled(): Promise<void> {
    if (this.#open === undefined) {
      let settle!: () => void
      const settled = new Promise<void>((resolve) => {
        settle = resolve
      })
      this.#open = { settled, settle }
    }
    return this.#open.settled
  }

  /** @param share it is for a member of a group */
  #add(message: Message, share: Share | undefined): void {
    if (share !== undefined) this.#packer.addShared(share)
    this.#packer.add(message)
    if (message.qos === 0) this.#qos0++
    if (this.#packer.length >= entryBytesMax) this.#closeEntry()
    this.#schedule()
  }

  #schedule(): void {
    if (this.#scheduled || this.#writing) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      void this.#write()
    })
  }

  /** Writes what was pushed, rather than at the end of the turn. */
  flush(): void {
    if (this.#scheduled && !this.#writing) void this.#write()
  }

  /** Closes the entry that is being packed. */
  #closeEntry(): void {
    if (this.#bells.size > 0) {
      this.#packer.addBell(this.#bells)
      this.#bells.clear()
    }
    for (const held of [true, false]) {
      const topics = [...this.#holds].filter(([, wanted]) => wanted === held).map(([topic]) => topic)
      if (topics.length > 0) this.#packer.addHold(this.#sender, topics, held)
    }
    this.#holds.clear()
    for (const name of this.#looks) this.#packer.addLook(name)
    this.#looks.clear()
    if (this.#packer.count === 0) return
    const settled = this.#settled()
    const { settle } = this.#open!
    this.#open = undefined
    const body = this.#packer.take()
    this.#queue.push({ body, qos0: this.#qos0, settled, settle })
    this.#qos0 = 0
    this.#queuedBytes += body.length
  }

  async #write(): Promise<void> {
    if (this.#writing) return
    this.#writing = true
    for (;;) {
      if (this.#queue.length === 0) this.#closeEntry()
      const batch = this.#queue[0]
      if (batch === undefined || this.#out) break
      if (!(await this.#send(batch))) break
      this.#queue.shift()
      this.#queuedBytes -= batch.body.length
      batch.settle()
    }
    this.#writing = false
  }

  /**
   * One batch until it is stored; false when the target is out or this node is fenced: then nothing is
   * settled, nothing may be acknowledged.
   */
  async #send({ body }: Batch): Promise<boolean> {
    this.#number++
    const append = async (): Promise<void> => {
      if (this.#out) throw new BridgeError('ERR_BRIDGE_SEALED', `${this.#target} is out`)
      const call = (what: Buffer): Promise<unknown> =>
        runScript(this.#redis, 'inbox-append', this.#keys, [
          this.#sender,
          `${this.#number}-${this.#id}`,
          what,
          inboxBytesMax,
          stallMs,
        ])
      // asks for room: a megabyte for each refusal fills nothing but the line
      if (this.#full) await call(nothing)
      await call(body)
    }
    try {
      await retrying(this.#redis, append, { mend: (error) => this.#mend(error) })
      this.#full = false
      return true
    } catch (reason) {
      const { code } = toBridgeError(reason)
      if (code === 'ERR_BRIDGE_FENCED') this.#events.onFenced()
      else if (code === 'ERR_BRIDGE_SEALED' && !this.#out) {
        reportsOf(this.#redis).tell('inboxSealed', { nodeId: this.#target })
        this.#events.onOut(this.#target)
      } else if (code !== 'ERR_BRIDGE_SEALED' && code !== 'ERR_BRIDGE_CLOSED') throw reason
      return false
    }
  }

  /**
   * True: the next attempt has another number. Full, or Redis is away, or the inbox is gone: then the node is
   * being buried (the journal says so soon) or Redis lost its data and the node will make its inbox again.
   * Neither may be taken for "stored".
   */
  #mend({ code, details }: BridgeError): boolean {
    this.#full = code === 'ERR_BRIDGE_INBOX_FULL'
    if (code !== 'ERR_BRIDGE_ORDER') return false
    // its inbox was made anew, or a failover lost a batch
    this.#number = (details.lastBatch ?? 0) + 1
    return true
  }

  get isOut(): boolean {
    return this.#out
  }

  /** The target is out: whatever waits for it has nobody to wait for. */
  out(): void {
    this.#out = true
    this.#closeEntry()
    const shed = this.#queue.reduce((sum, { qos0 }) => sum + qos0, 0)
    if (shed > 0) reportsOf(this.#redis).tell('shed', { cause: 'slow-node', count: shed })
    for (const { settle } of this.#queue) settle()
    this.#queue = []
    this.#queuedBytes = 0
  }
}

export interface InboxReaderEvents {
  /** A message for this node. */
  onMessage(message: Message): void
  /** A message for a member of a group. */
  onShared(message: Message, share: Share): void
  /** A message that was given to a member of a group here. */
  onGiven(message: Message, given: Given): void
  /** Members of a group here may have been given more than they know. */
  onLook(name: string): void
  /** A session of this node has something in its queue. */
  onBell(sid: string): void
  /** Another node wants publishers on these topics held back, or no longer. */
  onHold(nodeId: string, topics: readonly string[], held: boolean): void
  onFenced(): void
  /** The inbox is gone: Redis lost data. Resolves when it is there again. */
  onAmnesia(): Promise<void>
}

/**
 * Each record by itself: an exception in one, which is a bug of ours, neither ends the node nor brings the
 * others of its entry again. It is not hidden: `failed` says it.
 */
function guarded(
  events: InboxReaderEvents,
  reports: Reports,
): Omit<OtherRecords, 'onLater'> & Pick<InboxReaderEvents, 'onMessage'> {
  const guard =
    <Given extends readonly unknown[]>(handle: (...given: Given) => void) =>
    (...given: Given): void => {
      try {
        handle(...given)
      } catch (error) {
        reports.tell('failed', { where: 'inbox', error })
      }
    }
  return {
    onMessage: guard((message) => events.onMessage(message)),
    onShared: guard((message, share) => events.onShared(message, share)),
    onGiven: guard((message, given) => events.onGiven(message, given)),
    onLook: guard((name) => events.onLook(name)),
    onBell: guard((sid) => events.onBell(sid)),
    onHold: guard((nodeId, topics, held) => events.onHold(nodeId, topics, held)),
  }
}

/** Of a Redis Stream: id, and one field with its value. */
type Entry = [Buffer, [Buffer, Buffer]]

/** Reads this node's inbox: entries in order, freed when they were handled. */
export class InboxReader {
  readonly #redis: Redis
  readonly #reader: Redis
  readonly #streamKey: string
  readonly #stateKey: string
  readonly #clock: Clock
  readonly #events: InboxReaderEvents
  #last = ''
  /** Bytes handled since the inbox was made, and how many of them were freed when. */
  #handled = 0
  #freed = 0
  #trimmed = 0
  #proven = true
  #closed = false
  #loop: Promise<void> = Promise.resolve()

  constructor(
    { control, inbox }: Pick<Connections, 'control' | 'inbox'>,
    keys: Keys,
    nodeId: string,
    clock: Clock,
    events: InboxReaderEvents,
  ) {
    this.#redis = control
    this.#clock = clock
    this.#reader = inbox
    this.#streamKey = keys.inbox(nodeId, 'stream')
    this.#stateKey = keys.inbox(nodeId, 'state')
    this.#events = events
    onServerChange(inbox, () => {
      this.#proven = false
    })
  }

  /** Makes the inbox when it is not there. Also after Redis lost it. */
  async create(): Promise<void> {
    const [last, made] = (await retrying(this.#redis, () =>
      runScript(this.#redis, 'inbox-create', [this.#streamKey, this.#stateKey], []),
    )) as [Buffer, number]
    if (made === 0 && this.#last !== '') return // it is the one that we read
    this.#last = last.toString()
    this.#handled = this.#freed = 0
  }

  start(): void {
    this.#loop = this.#read()
  }

  async #read(): Promise<void> {
    const events = guarded(this.#events, reportsOf(this.#redis))
    while (!this.#closed) {
      try {
        const entries = await retrying(this.#reader, () => this.#next())
        await this.#handle(entries, events)
        if (this.#handled - this.#freed < trimBytes && performance.now() - this.#trimmed < trimMs) continue
        await retrying(this.#redis, () => this.#trim())
      } catch (reason) {
        if (this.#closed) return
        this.#proven = false
        await this.#mend(toBridgeError(reason))
      }
    }
  }

  /**
   * The entries after our place; none when nothing came for a while, or the inbox was made anew meanwhile.
   */
  async #next(): Promise<[Buffer, [Buffer, Buffer]][]> {
    try {
      await whenReady(this.#reader)
      if (!this.#proven) await this.#prove()
      const from = this.#last
      const reply = (await this.#reader.callBuffer(
        'XREAD',
        'COUNT',
        entriesPerRead,
        'BLOCK',
        this.#handled > this.#freed ? trimMs : blockMs,
        'STREAMS',
        this.#streamKey,
        from,
      )) as [Buffer, [Buffer, [Buffer, Buffer]][]][] | null
      return from === this.#last ? (reply?.[0]?.[1] ?? []) : []
    } catch (error) {
      this.#proven = false
      throw error
    }
  }

  /**
   * In slices (bridge/pace/turns.ts): small messages for many subscribers are seconds of work in one entry.
   * Meanwhile the inbox may be made anew, and is then read from its own place; and who is busy does not stand
   * still, so progress is noted on the way.
   */
  async #handle(entries: readonly Entry[], events: ReturnType<typeof guarded>): Promise<void> {
    const slice = new Slice()
    for (const [id, [, body]] of entries) {
      const before = this.#last
      const onLater = (): void => {
        reportsOf(this.#redis).tell('later', { where: 'inbox', id: id.toString() })
      }
      const reader = new EntryReader(body, this.#clock, events.onMessage, { ...events, onLater })
      while (body.length > 0 && reader.next()) {
        if (!slice.isOver && !isBacklogged()) continue
        const turn = workedOff()
        do await this.#noteProgress()
        while (!(await atMost(progressMs, turn)))
        await slice.next()
        if (this.#closed) return
      }
      if (this.#last !== before) return
      if (body.length > 0 && !reader.isWhole)
        reportsOf(this.#redis).tell('garbage', { where: 'inbox', bytes: body.length })
      this.#handled += body.length
      this.#last = id.toString()
    }
  }

  /** What is wrong is met after the entry, too. */
  async #noteProgress(): Promise<void> {
    if (performance.now() - this.#trimmed > progressMs) await this.#trim().catch(() => undefined)
  }

  /**
   * After a change of server: the entry at our place stays until a later one is there, so without it a
   * failover lost it, and what comes may stand under smaller ids (R8). What is there is read again:
   * rather twice than not at all.
   */
  async #prove(): Promise<void> {
    this.#proven = true
    if ((await this.#reader.xrange(this.#streamKey, this.#last, this.#last)).length === 0) this.#last = '0-0'
  }

  /** Frees what was handled, and notes our progress. */
  async #trim(): Promise<void> {
    const handled = this.#handled
    await runScript(this.#redis, 'inbox-trim', [this.#streamKey, this.#stateKey], [this.#last, handled])
    // Not before: with something left to free the reader does not wait for entries that a full inbox gets
    // none of. The inbox may have been made again meanwhile, which begins to count anew: freed beyond that,
    // it would fill up before it is trimmed.
    this.#freed = Math.min(handled, this.#handled)
    this.#trimmed = performance.now()
  }

  async #mend(error: BridgeError): Promise<void> {
    if (error.code === 'ERR_BRIDGE_FENCED') {
      this.#closed = true
      this.#events.onFenced()
    } else if (error.code === 'ERR_BRIDGE_AMNESIA')
      await this.#events.onAmnesia().catch(() => {
        this.#closed = true // fenced: the boot is over
      })
    else if (error.code === 'ERR_BRIDGE_CLOSED') this.#closed = true
    else throw error // whatever can be waited for was waited for
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#reader.disconnect()
    await this.#loop
  }
}
