// One message to so many sessions, or groups, that it goes to Redis in several calls. Those of a partition have an
// order, which every node knows: by their place. That of a session is made of two random characters of its sid, which
// lua/queue-append.lua knows, too; that of a group of its name. Parts are written in that order, and until the last one
// is stored the partition says beside the message's number up to which place they have it. So whoever publishes it
// again, here or elsewhere, takes up where the last one ended, and nobody gets it twice. State: this process, what is
// not written.
import { partitionOf } from '../redis/keys.ts'

/** Of a session among those of its partition: one of 4,096, evenly. queue-append.lua counts the same. */
const placeOf = (sid: string): number => (sid.charCodeAt(1) || 0) * 128 + (sid.charCodeAt(2) || 0)

/** A session and the QoS that is granted to it. */
export interface Granted {
  readonly sid: string
  readonly granted: number
}

export interface Part<Item> {
  readonly items: readonly Item[]
  /** The last place of it; undefined: it is the last part. */
  readonly upTo: number | undefined
}

/** The sessions, or groups, of one partition. */
export class Parts<Item> {
  readonly #places = new Map<number, Item[]>()
  /** Once the first part was taken: the places that are left, the first one last. */
  #left: number[] | undefined
  #count = 0

  get count(): number {
    return this.#count
  }

  /** @param place one of some thousand, evenly */
  add(place: number, item: Item): void {
    const there = this.#places.get(place)
    if (there === undefined) this.#places.set(place, [item])
    else there.push(item)
    this.#count++
  }

  /** The next part, of about `max`. */
  take(max: number): Part<Item> {
    this.#left ??= [...this.#places.keys()].sort((a, b) => b - a)
    const items: Item[] = []
    for (;;) {
      const place = this.#left.pop()!
      items.push(...this.#places.get(place)!)
      this.#places.delete(place)
      const next = this.#left.at(-1)
      if (next === undefined) return { items, upTo: undefined }
      if (items.length + this.#places.get(next)!.length > max) return { items, upTo: place }
    }
  }
}

/** The sessions that a message goes to, collected in slices, by partition. */
export class Collected {
  readonly partitions = new Map<number, Parts<Granted>>()

  add(sid: string, granted: number): void {
    const partition = partitionOf(sid)
    let parts = this.partitions.get(partition)
    if (parts === undefined) this.partitions.set(partition, (parts = new Parts()))
    parts.add(placeOf(sid), { sid, granted })
  }
}
