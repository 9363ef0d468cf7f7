// What this node writes into the inbox of one other node: a packed entry per turn of the event loop. An inbox is a
// stream that a boot of a node makes for itself; inbox-reader.ts reads it. State: what is on its way there; in Redis
// {inbox:<node id>}:stream, senders, state. Invariants: a sender's batches arrive once and in order, whatever happens
// to connections; `push` resolves to whether it is stored in the inbox, and to nothing before that is known or the
// target is out (its inbox is sealed or gone). What this node hands on out of its own inbox goes by a writer of its own,
// in another lane: it waits for nothing that was published. Bounds: the inbox by bytes in Redis, each lane of it by
// itself. Above it QoS 0 is shed, QoS ≥ 1 waits, and a reader that stands still is sealed out.
import { randomBytes } from 'node:crypto'
import type { Clock } from '../pace/clock.ts'
import { MessagePacker, type Given, type Share } from '../messages/codec.ts'
import { BridgeError, endNode, mayHaveRun, toBridgeError } from '../errors.ts'
import type { Keys } from '../redis/keys.ts'
import type { Message } from '../messages/message.ts'
import { reportsOf, retrying, type Redis } from '../redis/redis.ts'
import { runScript } from '../redis/scripts.ts'

/** Bytes in an inbox above which it takes nothing until its reader has progressed. */
const inboxBytesMax = 16 * 1024 * 1024
/** The same of what was handed on so often as its lane says. */
const laneBytesMax = 1024 * 1024
/**
 * An inbox that is full for so long, while its reader stands still, is sealed (P9: nobody is held up for more
 * than about 2 s).
 */
export const stallMs = 1_500
/** Sessions with a bell, groups to look after and topics of the next entry; a node has no more of the last. */
const bellsMax = 10_000
const looksMax = 1_000
const holdsMax = 1_000
/** Bytes of one entry, and bytes that may wait for their turn before QoS 0 and what groups give are shed. */
const entryBytesMax = 1024 * 1024
const waitingBytesMax = 8 * 1024 * 1024
const nothing = Buffer.alloc(0)

/**
 * Whether it is in the inbox. `unknown`: the target is out, and the answer to the last attempt was lost: who reads
 * what a dead node left may find it, or its reader may have had it.
 */
export type Stored = 'yes' | 'no' | 'unknown'

interface Gathering {
  readonly settled: Promise<Stored>
  readonly settle: (stored: Stored) => void
}

interface Batch extends Gathering {
  readonly body: Buffer
  /** QoS 0 messages in it. */
  readonly qos0: number
}

export interface InboxWriterEvents {
  /** This node was declared dead: nothing it sends is taken. */
  onFenced(): void
  /** The target takes nothing any more: its route is gone. */
  onOut(nodeId: string): void
  /** Its inbox is not there: whether the node is gone, as of now, rather than making it again. */
  isGone(nodeId: string): Promise<boolean>
}

/** Stands for all of them. */
export const everyOne = ''

function addOrAll(names: Set<string>, name: string, max: number): void {
  if (names.has(everyOne)) return
  if (names.size < max) return void names.add(name)
  names.clear()
  names.add(everyOne)
}

/** Writes to the inbox of one other node: one batch under way, the next one grows meanwhile. */
export class InboxWriter {
  readonly #redis: Redis
  readonly #keys: readonly string[]
  readonly #sender: string
  readonly #target: string
  readonly #lane: number
  readonly #events: InboxWriterEvents
  readonly #packer: MessagePacker
  readonly #bells = new Set<string>()
  /** Groups that the target is to look after. */
  readonly #looks = new Set<string>()
  /** Topics whose publishers the target is to hold back, or no longer. */
  readonly #holds = new Map<string, boolean>()
  #open: Gathering | undefined
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
  /** This boot is over: nothing settles any more. */
  #isOver = false
  #full = false

  /** @param lane how often what it writes was handed on: 0, never */
  constructor(
    redis: Redis,
    keys: Keys,
    sender: string,
    target: string,
    clock: Clock,
    events: InboxWriterEvents,
    lane = 0,
  ) {
    this.#redis = redis
    this.#lane = lane
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

  /** Takes a QoS 0 message, or sheds it because the link is full: false. */
  pushQos0(message: Message, share?: Share): boolean {
    const isTaken = !this.#out && !this.#isCrowded
    if (isTaken) this.#add(message, share)
    else reportsOf(this.#redis).tell('shed', { cause: 'slow-node', count: 1 })
    return isTaken
  }

  /**
   * Rings the bell of a session whose owner is the target. Never shed: a session is rung once however often,
   * until it is written; beyond `bellsMax` all of the target's are.
   */
  ring(sid: string): void {
    if (this.#out) return
    addOrAll(this.#bells, sid, bellsMax)
    this.#schedule()
  }

  /**
   * Tells the target whether to hold back publishers on `topic`: the last word on each. Of more topics than
   * `holdsMax`, which is what the target keeps, nothing is told: a hold that is not told again ends by itself there.
   */
  hold(topic: string, held: boolean): void {
    if (this.#out || (this.#holds.size >= holdsMax && !this.#holds.has(topic))) return
    this.#holds.set(topic, held)
    this.#schedule()
  }

  /**
   * The target looks what members of a group that are connected to it were given. Never shed: beyond `looksMax` it looks
   * after all of its groups.
   */
  look(name: string): void {
    if (this.#out) return
    addOrAll(this.#looks, name, looksMax)
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
   * Takes a QoS ≥ 1 message; resolves when it is stored in the inbox, or the target is out. Of a message for all that
   * is the same: there is nobody to store it for. One for a member of a group has others then.
   */
  push(message: Message, share?: Share): Promise<Stored> {
    if (this.#isOver) return new Promise(() => undefined)
    if (this.#out) return Promise.resolve('no')
    const settled = this.#settled() // before adding, which may close the entry
    this.#add(message, share)
    return settled
  }

  #settled(): Promise<Stored> {
    if (this.#open === undefined) {
      let settle!: (stored: Stored) => void
      const settled = new Promise<Stored>((resolve) => {
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
      this.#begin()
    })
  }

  /** Writes what was pushed, rather than at the end of the turn. */
  flush(): void {
    if (this.#scheduled && !this.#writing) this.#begin()
  }

  #begin(): void {
    this.#write().catch((error: unknown) => endNode(error, reportsOf(this.#redis)))
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
      if (batch === undefined || this.#out || this.#isOver) break
      const stored = await this.#send(batch)
      if (stored === undefined) this.#isOver = true
      else this.#settle(batch, stored)
    }
    this.#writing = false
    if (this.#out) this.#settleAll()
  }

  #settle(batch: Batch, stored: Stored): void {
    this.#queue.shift()
    this.#queuedBytes -= batch.body.length
    batch.settle(stored)
  }

  /** What was never sent, in its order: after what was under way when the target went out. */
  #settleAll(): void {
    if (this.#isOver) return
    for (const batch of [...this.#queue]) this.#settle(batch, 'no')
  }

  /** One batch until it is stored, or the target is out; undefined: this node is fenced, or stops. */
  async #send({ body }: Batch): Promise<Stored | undefined> {
    this.#number++
    let isUnknown = false
    let isGone = false
    const call = async (what: Buffer): Promise<void> => {
      await runScript(this.#redis, 'inbox-append', this.#keys, [
        this.#sender,
        `${this.#number}-${this.#id}`,
        what,
        this.#lane === 0 ? inboxBytesMax : laneBytesMax,
        stallMs,
        this.#lane === 0 ? '' : this.#lane,
      ])
    }
    const append = async (): Promise<void> => {
      if (this.#out) throw new BridgeError('ERR_BRIDGE_SEALED', `${this.#target} is out`)
      // asks for room: a megabyte for each refusal fills nothing but the line
      try {
        if (this.#full) await call(nothing)
      } catch (reason) {
        throw this.#named(toBridgeError(reason))
      }
      try {
        await call(body)
      } catch (reason) {
        const error = this.#named(toBridgeError(reason))
        // these are answers about this very batch: an attempt whose answer was lost did not store it either
        const isRefused = error.code === 'ERR_BRIDGE_SEALED' || error.code === 'ERR_BRIDGE_INBOX_FULL'
        isUnknown = mayHaveRun(error) || (isUnknown && !isRefused)
        // Something for a node that was buried before this link was made: nobody tells that it is out again.
        isGone = error.code === 'ERR_BRIDGE_GONE' && (await this.#events.isGone(this.#target))
        if (isGone) throw new BridgeError('ERR_BRIDGE_SEALED', `${this.#target} is gone`)
        throw error
      }
    }
    try {
      await retrying(this.#redis, append, { mend: (error) => this.#mend(error) })
      this.#full = false
      return 'yes'
    } catch (reason) {
      const { code } = toBridgeError(reason)
      if (code === 'ERR_BRIDGE_FENCED') this.#events.onFenced()
      else if (code === 'ERR_BRIDGE_SEALED') {
        if (!this.#out) {
          if (!isGone) reportsOf(this.#redis).tell('inboxSealed', { nodeId: this.#target })
          this.#events.onOut(this.#target)
        }
        return isUnknown ? 'unknown' : 'no'
      } else if (code !== 'ERR_BRIDGE_CLOSED') throw reason
      return undefined
    }
  }

  /** Whoever waits is told for which node. */
  #named(error: BridgeError): BridgeError {
    if (error.code !== 'ERR_BRIDGE_INBOX_FULL' && error.code !== 'ERR_BRIDGE_GONE') return error
    const why = error.message.replace(/^\S+ /, '')
    const what = this.#lane === 0 ? '' : ', for what is handed on to it'
    return new BridgeError(error.code, `inbox of ${this.#target}${what}: ${why}`, { cause: error })
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

  /**
   * The target is out: it gets nothing any more of what waits for it. What is under way settles by its own answer,
   * and what waits after it.
   */
  out(): void {
    this.#out = true
    this.#closeEntry()
    const shed = this.#queue.reduce((sum, { qos0 }) => sum + qos0, 0)
    if (shed > 0) reportsOf(this.#redis).tell('shed', { cause: 'slow-node', count: shed })
    if (!this.#writing) this.#settleAll()
  }

  /** This boot is over: whoever waits is told nothing. */
  close(): void {
    this.#isOver = true
    this.#out = true
  }
}
