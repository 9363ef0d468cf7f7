// What a table makes of the entries that match a topic (who gets it, merged) is remembered as long as it is
// right. What is small is remembered with its topic, in the memory that the table's trie has for topics. What
// is large is shared by all topics that the same filters match: ten thousand subscribers of `f/#` are merged
// once, not once for each topic. State: this process. Bound: the trie's `cachedCost`, and `sharedBytesMax`;
// beyond them what is oldest is forgotten. Correctness rests on neither.
import type { FilterTrie } from './filter-trie.ts'
import { worked } from '../pace/turns.ts'

/** An entry of a trie; its version grows when what is made of it changes. */
interface Versioned {
  readonly version: number
}

interface Made<Value> {
  readonly version: number
  readonly value: Value
  readonly bytes: number
}

/** From so many bytes on it is shared, if so many filters match at most. */
const largeBytes = 4_096
const sharedFiltersMax = 16
const sharedBytesMax = 16 * 1024 * 1024

export class MatchCache<Entry extends Versioned, Value> {
  readonly #trie: FilterTrie<Entry>
  readonly #make: (entries: readonly Entry[]) => Value
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

  /** @param bytesOf memory that a value takes, roughly */
  constructor(
    trie: FilterTrie<Entry>,
    make: (entries: readonly Entry[]) => Value,
    bytesOf: (value: Value) => number,
  ) {
    this.#trie = trie
    this.#make = make
    this.#bytesOf = bytesOf
  }

  /**
   * What is made of the entries that match `topic`; must not be changed. O(matching filters) when nothing
   * changed.
   */
  match(topic: string): Value {
    const entries = this.#trie.match(topic)
    let version = 0
    // versions only grow: an equal sum means no change
    for (let i = 0; i < entries.length; i++) version += entries[i]!.version
    const known = this.#byTopic.get(entries)
    const made = typeof known === 'string' ? this.#shared.get(known) : known
    return made?.version === version ? made.value : this.#remember(topic, entries, version)
  }

  #remember(topic: string, entries: readonly Entry[], version: number): Value {
    const place = entries.length <= sharedFiltersMax ? this.#placeOf(entries) : undefined
    let made = place === undefined ? undefined : this.#shared.get(place)
    if (made?.version !== version) {
      const value = this.#make(entries)
      worked(entries.length)
      made = { version, value, bytes: this.#bytesOf(value) }
    }
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
