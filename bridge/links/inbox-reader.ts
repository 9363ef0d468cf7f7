// This node's inbox, read in order and freed when it was handled: what inbox-writer.ts of the other nodes wrote.
// Each boot makes an inbox of its own. State: {inbox:<node id>}:stream, state; here how far it is read. Invariant: an
// entry is freed when all of it was handled, and what of it goes to other nodes is stored there; one that waits for that
// keeps no other from being freed. After a change of server what is there is read again, rather twice than not at all.
// A reader that does not progress for stallMs while its inbox is full is sealed out, so progress is noted on the way.
import type { Clock } from '../pace/clock.ts'
import { EntryReader, type Given, type OtherRecords, type Share } from '../messages/codec.ts'
import type { Reports } from '../diagnostics.ts'
import { endNode, toBridgeError, type BridgeError } from '../errors.ts'
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

/** An entry that was read. */
interface Handled {
  readonly id: string
  readonly bytes: number
  /** Of its sender: 0, what was published; otherwise how often what is in it was handed on. */
  readonly lane: number
}

/** One of which something is not handed on yet. */
interface Held extends Handled {
  readonly handedOn: Promise<void>
}

/** Ids of entries that are freed one by one: no more in one call. */
const idsMax = 1_000

const laneOf = (field: Buffer): number =>
  Number(/^b(\d{1,4})$/.exec(field.toString('latin1', 0, 6))?.[1] ?? 0)

/** Reads this node's inbox: entries in order, freed when they were handled. */
export class InboxReader {
  readonly #redis: Redis
  readonly #reader: Redis
  readonly #streamKey: string
  readonly #stateKey: string
  readonly #clock: Clock
  readonly #events: InboxReaderEvents
  /** The last entry that was handled, which stays. */
  #last = ''
  /** The oldest first. Bound: what the inbox holds. */
  readonly #held = new Set<Held>()
  /** Lane → bytes freed since the inbox was made, those included that the next trim frees. */
  readonly #freed = new Map<number, number>()
  /** How many of them the next trim frees. */
  #untrimmed = 0
  /** Entries that it frees and that stand behind one that is held. */
  #behind: string[] = []
  /** When something was freed last. */
  #trimmed = 0
  #proven = true
  #closed = false
  /** The boot is over: others hand on what this one did not. */
  #isOver = false
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
    this.#freed.clear()
    this.#untrimmed = 0
    this.#forgetHeld()
  }

  start(): void {
    this.#loop = this.#read().catch((error: unknown) => endNode(error, reportsOf(this.#redis)))
  }

  async #read(): Promise<void> {
    let handedOn: Promise<void>[] = []
    const events = guarded(this.#events, reportsOf(this.#redis), (one) => {
      if (one === undefined) return
      one.catch(() => undefined) // looked at when the entry is read to its end
      handedOn.push(one)
    })
    const takeHandedOn = (): readonly Promise<void>[] => {
      const taken = handedOn
      handedOn = []
      return taken
    }
    while (!this.#closed) {
      try {
        const entries = await retrying(this.#reader, () => this.#next())
        await this.#handle(entries, events, takeHandedOn)
        if (
          this.#untrimmed < trimBytes &&
          this.#behind.length < idsMax &&
          performance.now() - this.#trimmed < trimMs
        )
          continue
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
        this.#untrimmed > 0 || this.#held.size > 0 ? trimMs : blockMs,
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
  async #handle(
    entries: readonly Entry[],
    events: ReturnType<typeof guarded>,
    takeHandedOn: () => readonly Promise<void>[],
  ): Promise<void> {
    const slice = new Slice()
    for (const [id, [field, body]] of entries) {
      if (this.#closed) return
      const before = this.#last
      const onLater = (): void => {
        reportsOf(this.#redis).tell('later', { where: 'inbox', id: id.toString() })
      }
      const reader = new EntryReader(body, this.#clock, events.onMessage, { ...events, onLater })
      while (body.length > 0 && reader.next()) {
        if (!slice.isOver && !isBacklogged()) continue
        await this.#untilWorkedOff()
        await slice.next()
        if (this.#isOver) return
      }
      const handedOn = takeHandedOn()
      if (this.#last !== before) return
      if (body.length > 0 && !reader.isWhole)
        reportsOf(this.#redis).tell('garbage', { where: 'inbox', bytes: body.length })
      this.#last = id.toString()
      const handled = { id: this.#last, bytes: body.length, lane: laneOf(field) }
      if (handedOn.length === 0) this.#free(handled)
      else this.#hold(handled, handedOn)
    }
  }

  #free({ id, bytes, lane }: Handled): void {
    this.#freed.set(lane, (this.#freed.get(lane) ?? 0) + bytes)
    this.#untrimmed += bytes
    if (this.#held.size > 0) this.#behind.push(id)
  }

  /** Until all of it is handed on. For ever when this boot is over: others hand on what it did not. */
  #hold(handled: Handled, handedOn: readonly Promise<void>[]): void {
    const held: Held = {
      ...handled,
      handedOn: Promise.all(handedOn).then(
        () => {
          if (this.#held.delete(held)) this.#free(held)
        },
        () => undefined,
      ),
    }
    this.#held.add(held)
  }

  /** What comes may stand under smaller ids, or under those that we know. */
  #forgetHeld(): void {
    this.#held.clear()
    this.#behind = []
  }

  /** Resolves when everything that was read is handed on, or this boot is over. */
  async handedOn(): Promise<void> {
    await Promise.all([...this.#held].map((held) => held.handedOn))
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
    this.#forgetHeld()
  }

  /** Frees what was handled, but for what is not handed on yet, and notes our progress. */
  async #trim(): Promise<void> {
    const last = this.#last
    const [oldest] = this.#held
    const isLastHeld = [...this.#held].at(-1)?.id === last
    const untrimmed = this.#untrimmed
    const behind = this.#behind
    const ids = behind.filter((id) => id !== last)
    const isLastBehind = ids.length < behind.length
    const count = behind.length
    await runScript(
      this.#redis,
      'inbox-trim',
      [this.#streamKey, this.#stateKey],
      [
        isLastHeld ? '' : last,
        oldest?.id ?? last,
        [...this.#freed].map((pair) => pair.join(' ')).join(' '),
        ...ids,
      ],
    )
    // Set only now: while something is left to free, XREAD waits for `trimMs` only. A full inbox gets no entries,
    // so a longer wait would put off the trim that lets it have some. The inbox may have been made again meanwhile,
    // and counts from zero then.
    this.#untrimmed = Math.max(0, this.#untrimmed - untrimmed)
    behind.splice(0, count, ...(isLastBehind ? [last] : [])) // more may have come meanwhile
    this.#trimmed = performance.now()
  }

  async #mend(error: BridgeError): Promise<void> {
    if (error.code === 'ERR_BRIDGE_FENCED') {
      this.#closed = this.#isOver = true
      this.#events.onFenced()
    } else if (error.code === 'ERR_BRIDGE_AMNESIA')
      await this.#events.onAmnesia().catch(() => {
        this.#closed = this.#isOver = true // fenced: the boot is over
      })
    else if (error.code === 'ERR_BRIDGE_CLOSED') this.#closed = true
    else throw error // whatever can be waited for was waited for
  }

  /** Reads no further. What was handled by then is freed: whoever reads what is left hands on nothing twice. */
  async close(): Promise<void> {
    this.#closed = true
    this.#reader.disconnect()
    await this.#loop
    await this.free()
  }

  /** Once more, when what was read is handed on. */
  async free(): Promise<void> {
    if (this.#isOver || this.#redis.status !== 'ready') return
    await this.#trim().catch(() => undefined) // sealed, or gone: others read it
  }
}
