// One message to so many sessions that it goes to Redis in several calls. The sessions of a partition have an
// order, which every node and lua/queue-append.lua knows: by their place, made of two random characters of the
// sid. Parts are written in that order, and until the last one is stored the partition says beside the
// message's number up to which place the sessions have it. So whoever publishes it again, here or elsewhere,
// takes up where the last one ended, and no session gets it twice. State: this process, what is not written.
import { partitionOf } from '../redis/keys.ts'

/** Of a session among those of its partition: one of 4,096, evenly. queue-append.lua counts the same. */
const placeOf = (sid: string): number => (sid.charCodeAt(1) || 0) * 128 + (sid.charCodeAt(2) || 0)

/** A session and the QoS that is granted to it. */
export interface Granted {
  readonly sid: string
  readonly granted: number
}

export interface Part {
  readonly sessions: readonly Granted[]
  /** The last place of it; undefined: it is the last part. */
  readonly upTo: number | undefined
}

/** The sessions of one partition. */
export class Parts {
  readonly #places = new Map<number, Granted[]>()
  /** Once the first part was taken: the places that are left, the first one last. */
  #left: number[] | undefined
  #count = 0

  get count(): number {
    return this.#count
  }

  add(sid: string, granted: number): void {
    const place = placeOf(sid)
    const there = this.#places.get(place)
    if (there === undefined) this.#places.set(place, [{ sid, granted }])
    else there.push({ sid, granted })
    this.#count++
  }

  /** The next part, of about `max` sessions. */
  take(max: number): Part {
    this.#left ??= [...this.#places.keys()].sort((a, b) => b - a)
    const sessions: Granted[] = []
    for (;;) {
      const place = this.#left.pop()!
      sessions.push(...this.#places.get(place)!)
      this.#places.delete(place)
      const next = this.#left.at(-1)
      if (next === undefined) return { sessions, upTo: undefined }
      if (sessions.length + this.#places.get(next)!.length > max) return { sessions, upTo: place }
    }
  }
}

/** The sessions that a message goes to, collected in slices, by partition. */
export class Collected {
  readonly partitions = new Map<number, Parts>()

  add(sid: string, granted: number): void {
    const partition = partitionOf(sid)
    let parts = this.partitions.get(partition)
    if (parts === undefined) this.partitions.set(partition, (parts = new Parts()))
    parts.add(sid, granted)
  }
}
