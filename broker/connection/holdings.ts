// What a node holds for its clients as a whole, in bytes: packets that are not whole, publishes that are not
// stored, what waits to be read. Each connection has bounds of its own; this is the one for all of them.
// Beyond it publishers wait, in their order; large packets are not read on; QoS 0 is dropped for clients that have
// anything waiting. When it stays so for `patienceMs`, the node ends the clients with the most unread bytes or the
// most bytes of unfinished packets. A client that waits because of us (Redis is away, or others fill the node) is
// not ended. Publishes under way take at most half of the bound. State: what each connection held
// when it was counted last. O(those that hold something) 20 times a second.

export interface Holder {
  /** Bytes of packets that are not whole or not read. */
  readonly comingBytes: number
  /** Bytes that its client does not read. */
  readonly waitingBytes: number
  /** There is room for more of a large packet, or it is its turn. */
  readForRoom(): void
  /** It holds more than anybody else, and there is no room. */
  endForRoom(): void
}

/** Who holds less is not ended. */
const endBytesMin = 65_536
const recountMs = 50
const patienceMs = 1_000
interface Counted {
  bytes: number
  /** At which look something of its client came last. */
  heard: number
}

/** What a socket is read by: who has more of a packet waits for room before it reads on. */
const chunkBytes = 65_536
/**
 * A publish under way is held as it came, as it is queued, as it is sent to other nodes, and as a command for
 * Redis.
 */
const copies = 4
/** What it takes besides its bytes. */
const publishBytes = 256

export class Holdings {
  /** What is less is not counted. */
  readonly smallBytes = 4_096
  readonly #max: number
  /** How many looks are patience: a process that stands still does not take its clients for the culprits. */
  readonly #patience: number
  #looks = 0
  readonly #held = new Map<Holder, Counted>()
  #heldBytes = 0
  /** Publishes under way, and those that wait. */
  #storingBytes = 0
  #publishes: { readonly bytes: number; readonly go: () => void }[] = []
  /** Index of the first that still waits: shifting an array is not O(1) at every size. */
  #first = 0
  #publishesBytes = 0
  /** Those that read no more of a large packet until there is room. */
  readonly #readers = new Set<Holder>()
  /** Reads on though there is no room: its packet, once it is whole, makes some. */
  #favoured: Holder | undefined
  /** At which look a publish was stored last. */
  #stored = 0
  #timer: NodeJS.Timeout | undefined
  /** Since which look there is no room. */
  #fullSince: number | undefined

  constructor(max: number) {
    this.#max = max
    this.#patience = patienceMs / recountMs
  }

  get bytes(): number {
    return this.#heldBytes + this.#storingBytes + this.#publishesBytes
  }

  get isFull(): boolean {
    return this.bytes > this.#max
  }

  /**
   * `holder` may hold another amount than before; something of its client came. True: it is to read no more
   * until `readForRoom`.
   */
  heard(holder: Holder): boolean {
    this.count(holder)
    const held = this.#held.get(holder)
    if (held !== undefined) held.heard = this.#looks
    if (holder === this.#favoured) this.#checkFavoured() // its packet may be whole
    if (!this.isFull || holder.comingBytes < chunkBytes || holder === this.#favoured) return false
    this.#readers.add(holder)
    return true
  }

  isWaiting(holder: Holder): boolean {
    return this.#readers.has(holder)
  }

  /** `holder` may hold another amount than before. */
  count(holder: Holder): void {
    const bytes = holder.comingBytes + holder.waitingBytes
    const held = this.#held.get(holder)
    if (bytes < this.smallBytes) return held === undefined ? undefined : this.#drop(holder, held)
    if (held === undefined) this.#held.set(holder, { bytes, heard: this.#looks })
    else {
      this.#heldBytes -= held.bytes
      held.bytes = bytes
    }
    this.#heldBytes += bytes
    this.#watch()
  }

  #drop(holder: Holder, { bytes }: Counted): void {
    this.#heldBytes -= bytes
    this.#held.delete(holder)
  }

  /** `holder` is gone. */
  forget(holder: Holder): void {
    const held = this.#held.get(holder)
    if (held !== undefined) this.#drop(holder, held)
    this.#readers.delete(holder)
    if (holder === this.#favoured) this.#favoured = undefined
  }

  /** Whether a publish of so many bytes may go on: then it counts until it is `stored`. Otherwise it waits. */
  begin(bytes: number): boolean {
    const cost = copies * (bytes + publishBytes)
    if (this.#hasWaiting || !this.#hasRoom(cost)) return false
    this.#storingBytes += cost
    return true
  }

  /** Calls `go` when there is room for one that could not begin, after those that came before: it counts then. */
  wait(bytes: number, go: () => void): void {
    this.#publishes.push({ bytes: bytes + publishBytes, go })
    this.#publishesBytes += bytes + publishBytes
    this.#watch()
  }

  stored(bytes: number): void {
    this.#storingBytes -= copies * (bytes + publishBytes)
    this.#stored = this.#looks
    if (this.#hasWaiting) this.#goOn()
    if (this.#readers.size > 0) this.#readOn()
  }

  get #hasWaiting(): boolean {
    return this.#first < this.#publishes.length
  }

  /** One is always let through: what is stored makes room. */
  #hasRoom(cost: number): boolean {
    return this.#storingBytes === 0 || (this.#storingBytes + cost <= this.#max / 2 && this.bytes <= this.#max)
  }

  #goOn(): void {
    for (
      let next = this.#publishes[this.#first];
      next !== undefined && this.#hasRoom(next.bytes * copies);
      next = this.#publishes[this.#first]
    ) {
      this.#first++
      this.#publishesBytes -= next.bytes
      this.#storingBytes += next.bytes * copies
      next.go()
    }
    if (!this.#hasWaiting || this.#first > 1_024) {
      this.#publishes = this.#publishes.slice(this.#first)
      this.#first = 0
    }
  }

  #read(holder: Holder): void {
    this.#readers.delete(holder)
    holder.readForRoom()
  }

  /** As many as there is room for, in the order in which they came. */
  #readOn(): void {
    let chunks = Math.floor((this.#max - this.bytes) / chunkBytes)
    for (const holder of this.#readers) {
      if (--chunks < 0) break
      this.#read(holder)
    }
    // Nothing is under way that would make room for a chunk: the one goes on of whose packet most is there.
    if (this.#readers.size === 0 || this.#storingBytes > 0 || this.#favoured !== undefined) return
    this.#favoured = [...this.#readers].reduce((most, holder) =>
      holder.comingBytes > most.comingBytes ? holder : most,
    )
    this.#read(this.#favoured)
  }

  /** Its packet is whole, or it does not go on with it. */
  #checkFavoured(): void {
    const held = this.#favoured === undefined ? undefined : this.#held.get(this.#favoured)
    const isReading =
      held !== undefined &&
      this.#favoured!.comingBytes >= chunkBytes &&
      this.#looks - held.heard < this.#patience
    if (!isReading) this.#favoured = undefined
  }

  #watch(): void {
    this.#timer ??= setTimeout(() => this.#look(), recountMs).unref()
  }

  /** What sockets take in the meantime, nobody tells. */
  #look(): void {
    this.#timer = undefined
    this.#looks++
    for (const holder of this.#held.keys()) this.count(holder)
    if (!this.isFull) this.#fullSince = undefined
    else if (this.#looks - (this.#fullSince ??= this.#looks) >= this.#patience) this.#endLargest()
    this.#checkFavoured()
    this.#goOn()
    this.#readOn()
    if (this.#held.size > 0 || this.#hasWaiting || this.#readers.size > 0) this.#watch()
  }

  /**
   * What it does not read, and what it began to send and does not go on with; when nothing at all goes on,
   * what it began to send.
   */
  #blame(holder: Holder): number {
    const isStuck = this.#storingBytes === 0 && this.#looks - this.#stored >= this.#patience
    const hasStopped =
      !this.#readers.has(holder) && this.#looks - this.#held.get(holder)!.heard >= this.#patience
    return holder.waitingBytes + (isStuck || hasStopped ? holder.comingBytes : 0)
  }

  #endLargest(): void {
    const all = [...this.#held.keys()].map((holder) => ({ holder, bytes: this.#blame(holder) }))
    for (const { holder } of all
      .filter(({ bytes }) => bytes >= endBytesMin)
      .sort((a, b) => b.bytes - a.bytes)) {
      if (this.bytes <= this.#max * 0.75) return // not again and again for the same crowd
      this.forget(holder)
      holder.endForRoom()
    }
  }

  close(): void {
    clearTimeout(this.#timer)
  }
}
