// What a table makes of the entries that match a topic (who gets it, merged) is remembered as long as it is
// right. What is small is remembered with its topic, in the memory that the table's trie has for topics. What
// is large is shared by all topics that the same filters match: ten thousand subscribers of `f/#` are merged
// once, not once for each topic. It is made in slices, since half a million entries may match. State: this
// process. Bound: the trie's `cachedCost`, and `sharedBytesMax`; beyond them what is oldest is forgotten.
// Correctness rests on neither.
import type { FilterTrie } from './filter-trie.ts'
import { atOnce, type Making, type Pace } from './making.ts'
import { worked } from '../pace/turns.ts'

/** An entry of a trie; its version grows when what is made of it changes. */
interface Versioned {
  readonly version: number
}

/** Makes a value of entries, one after the other. */
export interface Maker<Entry, Value> {
  readonly value: Value
  /** Takes in an entry, as far as there is time; false: the rest of it at the next call. */
  take(entry: Entry, slice: Pace): boolean
}

interface Made<Value> {
  readonly version: number
  readonly value: Value
  readonly bytes: number
  /** The table's version when it was found to be right, last. */
  at: number
}

/** From so many bytes on it is shared, if so many filters match at most. */
const largeBytes = 4_096
const sharedFiltersMax = 16
const sharedBytesMax = 16 * 1024 * 1024
/** So many versions are summed up in some microseconds. */
const summedAtOnce = 1_000
/** Entries between two looks at the clock. */
const entriesAtOnce = 64

/** Versions only grow: an equal sum means no change. */
class Sum implements Making<number> {
  readonly #entries: readonly Versioned[]
  #sum = 0
  #i = 0

  constructor(entries: readonly Versioned[]) {
    this.#entries = entries
  }

  goOn(slice: Pace): number | undefined {
    const entries = this.#entries
    while (this.#i < entries.length) {
      const end = Math.min(entries.length, this.#i + summedAtOnce)
      for (; this.#i < end; this.#i++) this.#sum += entries[this.#i]!.version
      if (this.#i === entries.length) break
      worked(summedAtOnce)
      if (slice.isOver) return undefined
    }
    return this.#sum
  }
}

export class MatchCache<Entry extends Versioned, Value extends object> {
  readonly #trie: FilterTrie<Entry>
  readonly #tableVersion: () => number
  readonly #makerOf: (entries: readonly Entry[]) => Maker<Entry, Value>
  readonly #bytesOf: (value: Value) => number
  /**
   * By the array that the trie returned for a topic (the same while no filter of it comes or goes): what was
   * made, or where it is shared.
   */
  readonly #byTopic = new WeakMap<readonly Entry[], Made<Value> | string>()
  readonly #shared = new Map<string, Made<Value>>()
  #sharedBytes = 0
  readonly #numbers = new WeakMap<Entry, number>()
  #lastNumber = 0

  /**
   * @param tableVersion grows with every change of any entry: while it is the same, so is what was made
   * @param bytesOf memory that a value takes, roughly
   */
  constructor(
    trie: FilterTrie<Entry>,
    tableVersion: () => number,
    makerOf: (entries: readonly Entry[]) => Maker<Entry, Value>,
    bytesOf: (value: Value) => number,
  ) {
    this.#trie = trie
    this.#tableVersion = tableVersion
    this.#makerOf = makerOf
    this.#bytesOf = bytesOf
  }

  /** What is made of the entries that match `topic`; must not be changed. */
  match(topic: string): Value {
    return this.known(topic) ?? this.making(topic).goOn(atOnce)!
  }

  /** The same, if it is remembered and nothing changed. */
  known(topic: string): Value | undefined {
    const entries = this.#trie.known(topic)
    if (entries === undefined) return undefined
    const made = this.#madeOf(entries)
    if (made === undefined || made.at === this.#tableVersion()) return made?.value
    if (entries.length > summedAtOnce || made.version !== new Sum(entries).goOn(atOnce)) return undefined
    made.at = this.#tableVersion()
    return made.value
  }

  #madeOf(entries: readonly Entry[]): Made<Value> | undefined {
    const known = this.#byTopic.get(entries)
    return typeof known === 'string' ? this.#shared.get(known) : known
  }

  /**
   * The same in slices. An entry that is there from the beginning to the end is in it; what comes, goes or changes
   * meanwhile is in it or not, and then its version is that of before, so that it is made anew for the next one.
   */
  making(topic: string): Making<Value> {
    let matching: Making<readonly Entry[]> | undefined
    let entries: readonly Entry[] | undefined
    let making: Making<Value> | undefined
    return {
      goOn: (slice) => {
        if (matching === undefined) entries ??= this.#trie.known(topic)
        entries ??= (matching ??= this.#trie.matching(topic)).goOn(slice)
        if (entries === undefined) return undefined
        making ??= this.#makingOf(topic, entries)
        return making.goOn(slice)
      },
    }
  }

  #makingOf(topic: string, entries: readonly Entry[]): Making<Value> {
    const began = this.#tableVersion()
    const before = new Sum(entries)
    let version: number | undefined
    let maker: Maker<Entry, Value> | undefined
    let i = 0
    const place = entries.length <= sharedFiltersMax ? this.#placeOf(entries) : undefined
    const remember = (made: Made<Value>): Value => {
      made.at = began === this.#tableVersion() ? began : -1
      return this.#remember(topic, entries, place, made)
    }
    return {
      goOn: (slice) => {
        version ??= before.goOn(slice)
        if (version === undefined) return undefined
        if (maker === undefined) {
          const known = this.#madeOf(entries) ?? (place === undefined ? undefined : this.#shared.get(place))
          if (known?.version === version) return remember(known)
          maker = this.#makerOf(entries)
        }
        for (; i < entries.length; i++) {
          if (i % entriesAtOnce === entriesAtOnce - 1) {
            worked(entriesAtOnce)
            if (slice.isOver) return undefined
          }
          if (!maker.take(entries[i]!, slice)) return undefined
        }
        const { value } = maker
        return remember({ version, value, bytes: this.#bytesOf(value), at: -1 })
      },
    }
  }

  #remember(topic: string, entries: readonly Entry[], place: string | undefined, made: Made<Value>): Value {
    const isShared = place !== undefined && made.bytes >= largeBytes
    if (isShared) this.#share(place, made)
    this.#byTopic.set(entries, isShared ? place : made)
    this.#trie.charge(topic, entries, isShared ? place.length : made.bytes)
    return made.value
  }

  /** The same for the same entries, in whatever order. */
  #placeOf(entries: readonly Entry[]): string {
    return entries
      .map((entry) => {
        let number = this.#numbers.get(entry)
        if (number === undefined) this.#numbers.set(entry, (number = ++this.#lastNumber))
        return number
      })
      .sort((a, b) => a - b)
      .join()
  }

  #share(place: string, made: Made<Value>): void {
    const old = this.#shared.get(place)
    if (old === made) return
    this.#sharedBytes += made.bytes - (old?.bytes ?? 0)
    this.#shared.delete(place)
    this.#shared.set(place, made)
    for (const [oldest, { bytes }] of this.#shared) {
      if (this.#sharedBytes <= sharedBytesMax) break
      this.#shared.delete(oldest)
      this.#sharedBytes -= bytes
    }
  }
}
