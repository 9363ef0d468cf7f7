// The Retained Messages that a client gets because of a SUBSCRIBE: read a page at a time as the client has room, those that were
// stored before its subscription (bridge/moment.ts). A value that was read may be old when its turn comes: when a newer message of
// its topic went to the client meanwhile it is left out, so that nobody ends with an older value than the one stored (ATTACKS 3).
// State: the pages on their way to one client. Bounds: topics of a page, bytes read and not handed over yet.
import { Allowance, hasWildcard, isOfBefore, type Message, type Stamps } from '../../bridge/index.ts'

/** Replays of one client under way at once: one SUBSCRIBE may have 60,000 filters, each with a barrier and a read of its own. */
const replaysMax = 20
const topicsMax = 200
const pageBytes = 512 * 1024
/** Most filters without a wildcard have a small value, or none. */
const oneBytes = 16 * 1024
const heldBytesMax = 1024 * 1024

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

/** One replay: what `filter` matches and was stored before `stamps`. */
export interface ReplayRequest {
  readonly filter: string
  readonly stamps: Stamps | undefined
  /** Whether it is to go on. */
  isWanted(): boolean
  /** Whether the client has this value because of it. */
  isDone(message: Message): boolean
}

export interface ReplaySource {
  /** The topics that `filter` matches. */
  topics(filter: string): Promise<Iterator<string>>
  /** The Retained Messages of some topics, as many as have room. */
  retained(topics: readonly string[], bytesMax: number): Promise<{ readonly messages: readonly Message[]; readonly unread: readonly string[]; readonly nextBytes: number }>
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
  replay(page: readonly Replayed[]): Promise<void>
}

/** The replays of one client. */
export class Replays {
  readonly #source: ReplaySource
  readonly #pages = new Set<Page>()
  readonly #held = new Allowance(heldBytesMax)
  readonly #lanes: Promise<void>[] = []
  #count = 0

  constructor(source: ReplaySource) {
    this.#source = source
  }

  /** A message that was retained under `stamp` goes to the client live. */
  delivered(topic: string, stamp: number): void {
    for (const page of this.#pages) page.delivered(topic, stamp)
  }

  /** Sends it in its turn; resolves when it is over. */
  add(request: ReplayRequest, target: ReplayTarget): Promise<void> {
    const lane = this.#count++ % replaysMax
    const replayed = (this.#lanes[lane] ?? Promise.resolve()).then(() => this.#replay(request, target))
    this.#lanes[lane] = replayed.catch(() => undefined)
    return replayed
  }

  async #replay(request: ReplayRequest, target: ReplayTarget): Promise<void> {
    const { filter, stamps } = request
    if (!request.isWanted()) return
    const topics = await this.#source.topics(filter)
    let left: readonly string[] = []
    let [bytes, count] = hasWildcard(filter) ? [pageBytes, topicsMax] : [oneBytes, 1]
    for (;;) {
      await target.roomForMore()
      await this.#held.take(bytes)
      const [held, page] = [bytes, new Page(left = [...left, ...take(topics, topicsMax - left.length)])]
      this.#pages.add(page)
      try {
        if (left.length === 0 || !request.isWanted()) return
        const asked = left.slice(0, count)
        const { messages, unread, nextBytes } = await this.#source.retained(asked, bytes)
        const stored = messages.filter((message) => isOfBefore(stamps, message.topic, message.stamp ?? 0) && !request.isDone(message))
        await target.replay(stored.map((message) => ({ message, isWanted: () => request.isWanted() && page.isCurrent(message) })))
        left = [...unread, ...left.slice(count)]
        // As many as have room, or one that has none beside others by itself; carefully more when there was room for all.
        if (unread.length === asked.length) [bytes, count] = [Math.max(pageBytes, nextBytes), Math.max(1, Math.floor(pageBytes / nextBytes))]
        else [bytes, count] = [pageBytes, unread.length > 0 ? count : Math.min(topicsMax, count * 2)]
      } finally {
        this.#pages.delete(page)
        this.#held.give(held)
      }
    }
  }
}

function take(topics: Iterator<string>, count: number): string[] {
  const taken: string[] = []
  while (taken.length < count) {
    const { value } = topics.next() as IteratorResult<string, undefined>
    if (value === undefined) break
    taken.push(value)
  }
  return taken
}
