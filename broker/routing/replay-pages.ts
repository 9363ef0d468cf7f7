// The Retained Messages that a client gets because of a SUBSCRIBE: read a page at a time as the client has
// room, the first one before SUBACK, those that were stored before its subscription (bridge/retained/moment.ts). A
// value that was read may be old when its turn comes: when a newer message of its topic went to the client
// meanwhile it is left out, so that nobody ends with an older value than the one stored (R2). State:
// the pages on their way to one client. Bounds: topics of a page, bytes read and not handed over yet.
import { Allowance, hasWildcard, isOfBefore, type Message, type Stamps } from '../../bridge/index.ts'
import { limits } from '../config/limits.ts'

/**
 * Replays of one client under way at once: one SUBSCRIBE may have 60,000 filters, each with a barrier and a
 * read of its own.
 */
const replaysMax = 20
/** Of one filter; who asks for more of it meanwhile gets one more after them. */
const replaysOfFilterMax = 10
const topicsMax = 200
const pageBytes = 512 * 1024
/** Most filters without a wildcard have a small value, or none. */
const oneBytes = 16 * 1024
/** What is read before SUBACK, so that it is what was there then. */
const [aheadBytes, aheadMax, aheadHeldMax] = [64 * 1024, 50, 256 * 1024]

const nothing = { messages: [], unread: [], nextBytes: 0 }

/** Topics that are being read for a client, and what went to it of them meanwhile. */
class Page {
  readonly #newest: Map<string, number>

  constructor(topics: readonly string[]) {
    this.#newest = new Map(topics.map((topic) => [topic, 0]))
  }

  delivered(topic: string, stamp: number): void {
    const newest = this.#newest.get(topic)
    if (newest !== undefined && stamp > newest) this.#newest.set(topic, stamp)
  }

  isCurrent({ topic, stamp = 0 }: Message): boolean {
    return stamp >= (this.#newest.get(topic) ?? 0)
  }
}

interface PageRead {
  readonly page: Page
  /** Of what is held for it, and how much. */
  readonly of: Allowance
  readonly bytes: number
  readonly messages: readonly Message[]
  /** Topics that there was no room for, and those after them. */
  readonly left: readonly string[]
  /** How to go on. */
  readonly nextBytes: number
  readonly nextCount: number
}

/** The first page of a replay that has not begun. Its bytes are held until the replay has it, or `drop`. */
export interface Ahead {
  readonly topics: AsyncIterator<string>
  readonly first: PageRead
  drop(): void
}

/** One replay: what `filter` matches and was stored before `stamps`. */
export interface ReplayRequest {
  readonly filter: string
  readonly stamps: Stamps | undefined
  readonly ahead?: Ahead | undefined
  /** Whether it is to go on. */
  isWanted(): boolean
  /** Whether the client has this value because of it. */
  isDone(message: Message): boolean
}

export interface ReplaySource {
  /** The topics that `filter` matches. */
  topics(filter: string): Promise<AsyncIterator<string>>
  /** The Retained Messages of some topics, as many as have room. */
  retained(
    topics: readonly string[],
    bytesMax: number,
  ): Promise<{
    readonly messages: readonly Message[]
    readonly unread: readonly string[]
    readonly nextBytes: number
  }>
}

/** A Retained Message to be sent, unless `isWanted` says no when its turn comes. */
export interface Replayed {
  readonly message: Message
  isWanted(): boolean
}

export interface ReplayTarget {
  /** Resolves when there is room for more. */
  roomForMore(): Promise<void>
  /** Takes what is wanted of some; resolves when all of them had their turn. */
  send(page: readonly Replayed[]): Promise<void>
}

/** The replays of one client. */
export class ReplayPages {
  readonly #source: ReplaySource
  readonly #pages = new Set<Page>()
  readonly #unsent: Allowance
  /** By itself: what is read ahead may wait for replays that wait for room. */
  readonly #heldAhead = new Allowance(aheadHeldMax)
  readonly #lanes: Promise<void>[] = []
  /** Filter → how many replays of it wait or are under way. */
  readonly #ofFilter = new Map<string, number>()
  readonly #again = new Set<string>()
  #count = 0

  /** @param bytesMax of what is read and not handed over */
  constructor(source: ReplaySource, bytesMax: number = limits.replayBytesMax) {
    this.#source = source
    this.#unsent = new Allowance(bytesMax)
  }

  /** A message that was retained under `stamp` goes to the client live. */
  delivered(topic: string, stamp: number): void {
    for (const page of this.#pages) page.delivered(topic, stamp)
  }

  /** False: too many replays of this filter wait or are under way; `over` says when it is to be begun. */
  begins(filter: string): boolean {
    const count = this.#ofFilter.get(filter) ?? 0
    if (count < replaysOfFilterMax) this.#ofFilter.set(filter, count + 1)
    else this.#again.add(filter)
    return count < replaysOfFilterMax
  }

  /** One that began is over. True: another was asked for meanwhile. */
  over(filter: string): boolean {
    const count = this.#ofFilter.get(filter)! - 1
    if (count > 0) this.#ofFilter.set(filter, count)
    else this.#ofFilter.delete(filter)
    return this.#again.delete(filter)
  }

  /** Sends it in its turn; resolves when it is over. */
  add(request: ReplayRequest, target: ReplayTarget): Promise<void> {
    const lane = this.#count++ % replaysMax
    const replayed = (this.#lanes[lane] ?? Promise.resolve()).then(() => this.#sendPages(request, target))
    this.#lanes[lane] = replayed.catch(() => undefined)
    return replayed
  }

  /**
   * Reads the first page, after the moment and before SUBACK: who publishes a newer value because of the
   * SUBACK does not take the place of what was there. Undefined: there is no room for it now, and it is read
   * in its turn.
   */
  async readAhead(filter: string): Promise<Ahead | undefined> {
    const [bytes, count] = hasWildcard(filter) ? [aheadBytes, aheadMax] : [oneBytes, 1]
    if (!this.#heldAhead.takeNow(bytes)) return undefined
    let asked: string[]
    let topics: AsyncIterator<string>
    try {
      topics = await this.#source.topics(filter)
      asked = await take(topics, topicsMax)
    } catch (error) {
      this.#heldAhead.give(bytes)
      throw error
    }
    const first = await this.#read(asked, this.#heldAhead, bytes, count)
    return { topics, first, drop: () => this.#done(first) }
  }

  /** Reads the first `count` of these topics into `bytes` that are held by now. */
  async #read(topics: readonly string[], of: Allowance, bytes: number, count: number): Promise<PageRead> {
    const page = new Page(topics)
    this.#pages.add(page)
    try {
      const asked = topics.slice(0, count)
      const { messages, unread, nextBytes } =
        asked.length === 0 ? nothing : await this.#source.retained(asked, bytes)
      const left = [...unread, ...topics.slice(count)]
      // As many as have room, or one that has none beside others by itself; carefully more when there was
      // room for all.
      if (unread.length === asked.length && asked.length > 0) {
        return {
          page,
          of,
          bytes,
          messages,
          left,
          nextBytes: Math.max(pageBytes, nextBytes),
          nextCount: Math.max(1, Math.floor(pageBytes / nextBytes)),
        }
      }
      return {
        page,
        of,
        bytes,
        messages,
        left,
        nextBytes: pageBytes,
        nextCount: unread.length > 0 ? count : Math.min(topicsMax, count * 2),
      }
    } catch (error) {
      this.#done({ page, of, bytes })
      throw error
    }
  }

  #done({ page, of, bytes }: Pick<PageRead, 'page' | 'of' | 'bytes'>): void {
    if (this.#pages.delete(page)) of.give(bytes)
  }

  async #sendPages(request: ReplayRequest, target: ReplayTarget): Promise<void> {
    const { filter, stamps, ahead } = request
    if (!request.isWanted()) return ahead?.drop()
    const topics = ahead?.topics ?? (await this.#source.topics(filter))
    let read = ahead?.first
    let [left, bytes, count]: [readonly string[], number, number] = [
      [],
      ...(hasWildcard(filter) ? ([pageBytes, topicsMax] as const) : ([oneBytes, 1] as const)),
    ]
    for (;;) {
      if (read === undefined) {
        await target.roomForMore()
        left = [...left, ...(await take(topics, topicsMax - left.length))]
        if (left.length === 0 || !request.isWanted()) return
        await this.#unsent.take(bytes)
        read = await this.#read(left, this.#unsent, bytes, count)
      }
      const { page, messages } = read
      try {
        const stored = messages.filter(
          (message) => isOfBefore(stamps, message.topic, message.stamp ?? 0) && !request.isDone(message),
        )
        await target.send(
          stored.map((message) => ({
            message,
            isWanted: () => request.isWanted() && page.isCurrent(message),
          })),
        )
      } finally {
        this.#done(read)
      }
      ;({ left, nextBytes: bytes, nextCount: count } = read)
      read = undefined
    }
  }
}

async function take(topics: AsyncIterator<string>, count: number): Promise<string[]> {
  const taken: string[] = []
  while (taken.length < count) {
    const { value } = (await topics.next()) as IteratorResult<string, undefined>
    if (value === undefined) break
    taken.push(value)
  }
  return taken
}
