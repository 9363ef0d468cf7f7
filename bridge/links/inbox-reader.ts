// This node's inbox, read in order and freed when it was handled: what inbox-writer.ts of the other nodes wrote.
// Each boot makes an inbox of its own. State: {inbox:<node id>}:stream, state; here how far it is read. Invariant: an
// entry is freed when all of it was handled, and what of it goes to other nodes is stored there; after a change of
// server what is there is read again, rather twice than not at all. A reader that does not progress for stallMs while
// its inbox is full is sealed out, so progress is noted on the way.
import type { Clock } from '../pace/clock.ts'
import { EntryReader, type Given, type OtherRecords, type Share } from '../messages/codec.ts'
import type { Reports } from '../diagnostics.ts'
import { toBridgeError, type BridgeError } from '../errors.ts'
import { stallMs } from './inbox-writer.ts'
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

const blockMs = 1_000
const entriesPerRead = 64
/** What was handled is freed after this many bytes, or this many milliseconds: not after each message. */
const trimBytes = 256 * 1024
const trimMs = 100
/** Who is busy with an entry says so this often. */
const progressMs = stallMs / 3

export interface InboxReaderEvents {
  /** A message for the live subscribers of this node. */
  onMessage(message: Message): void
  /**
   * A message for a member of a group. Settles when it is stored elsewhere: its entry stays until then; undefined:
   * there is nothing to wait for.
   */
  onShared(message: Message, share: Share): Promise<void> | undefined
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
 * Each record is handled by itself: an exception in one, which is a bug of ours, does not end the node, and the other
 * records of its entry are not read twice. `failed` tells of it.
 */
function guarded(
  events: InboxReaderEvents,
  reports: Reports,
  awaits: (handedOn: Promise<void> | undefined) => void,
): Omit<OtherRecords, 'onLater'> & Pick<InboxReaderEvents, 'onMessage'> {
  const guard =
    <Given extends readonly unknown[]>(handle: (...given: Given) => unknown) =>
    (...given: Given): void => {
      try {
        handle(...given)
      } catch (error) {
        reports.tell('failed', { where: 'inbox', error })
      }
    }
  return {
    onMessage: guard((message) => events.onMessage(message)),
    onShared: guard((message, share) => awaits(events.onShared(message, share))),
    onGiven: guard((message, given) => events.onGiven(message, given)),
    onLook: guard((name) => events.onLook(name)),
    onBell: guard((sid) => events.onBell(sid)),
    onHold: guard((nodeId, topics, held) => events.onHold(nodeId, topics, held)),
  }
}

/** Of a Redis Stream: id, and one field with its value. */
type Entry = [Buffer, [Buffer, Buffer]]

/** An entry that was read, and of which something is not handed on yet. */
interface Held {
  /** Where the inbox is freed up to meanwhile: the entry before it, and the bytes handled up to there. */
  last: string
  readonly handled: number
  count: number
}

/** Reads this node's inbox: entries in order, freed when they were handled. */
export class InboxReader {
  readonly #redis: Redis
  readonly #reader: Redis
  readonly #streamKey: string
  readonly #stateKey: string
  readonly #clock: Clock
  readonly #events: InboxReaderEvents
  #last = ''
  /** Bytes handled since the inbox was made. */
  #handled = 0
  /** How many of them are freed. */
  #freed = 0
  /** When something was freed last. */
  #trimmed = 0
  /** The oldest first. Bound: what the inbox holds. */
  readonly #held = new Set<Held>()
  /** The one that is being read. */
  #holding: Held | undefined
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
    this.#held.clear()
  }

  start(): void {
    this.#loop = this.#read()
  }

  async #read(): Promise<void> {
    const events = guarded(this.#events, reportsOf(this.#redis), (handedOn) => {
      if (handedOn !== undefined) this.#hold(handedOn)
    })
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
        await this.#untilWorkedOff()
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

  /** Keeps the entry that is being read. For ever when this boot is over: others hand on what it did not. */
  #hold(handedOn: Promise<void>): void {
    if (this.#holding?.handled !== this.#handled || !this.#held.has(this.#holding))
      this.#held.add((this.#holding = { last: this.#last, handled: this.#handled, count: 0 }))
    const held = this.#holding
    held.count++
    handedOn.then(
      () => {
        if (--held.count === 0) this.#held.delete(held)
      },
      () => undefined,
    )
  }

  /** Until what the messages before left is handed on; progress is noted meanwhile. */
  async #untilWorkedOff(): Promise<void> {
    const turn = workedOff()
    do await this.#noteProgress()
    while (!(await atMost(progressMs, turn)))
  }

  /** An error here shows again at the next trim, after the entry. */
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
    if ((await this.#reader.xrange(this.#streamKey, this.#last, this.#last)).length > 0) return
    this.#last = '0-0'
    for (const held of this.#held) held.last = '0-0' // what comes may stand under smaller ids
  }

  /** Frees what was handled, up to what is not handed on yet, and notes our progress. */
  async #trim(): Promise<void> {
    const { last, handled } = this.#held.values().next().value ?? { last: this.#last, handled: this.#handled }
    await runScript(this.#redis, 'inbox-trim', [this.#streamKey, this.#stateKey], [last, handled])
    // Set only now: while something is left to free, XREAD waits for `trimMs` only. A full inbox gets no entries,
    // so a longer wait would put off the trim that lets it have some. The inbox may have been made again meanwhile,
    // and counts from zero then: if more counted as freed, it would fill up before it is trimmed.
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
