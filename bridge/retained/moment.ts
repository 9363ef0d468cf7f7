// Where a subscription stands among the Retained Messages: which were stored before it, and which come later.
// Each is stored under a stamp of its partition's counter (redis/lua/retained-store.lua). A SUBSCRIBE is journaled
// first, then the counters are read: its moment. What was stored later reads the journal later still, finds
// the subscription and comes live, for certain. What was stored before is found by the replay, or something
// newer in its place. So one stamp compared tells for each message which of the two brings it, and the other
// one leaves it out. State: this process.
import { partitionsOfCluster, hashIndex } from '../redis/keys.ts'

/** The counters of all partitions as they were read together, by partition. */
export interface Stamps {
  readonly of: Float64Array
  /** Set when what the index of topics knew was read anew: then nothing follows from them any more. */
  readonly era: { isOver: boolean }
}

/** Stamps as of now. */
export interface StampsRead {
  readonly stamps: Stamps
  /** Settles when the index of topics has whatever was stored before them. */
  readonly told: Promise<void>
}

/**
 * Whether a replay that began then sends a value that it found. After Redis lost data: rather twice than not
 * at all.
 */
export const isOfBefore = (stamps: Stamps | undefined, topic: string, stamp: number): boolean =>
  stamps === undefined || stamps.era.isOver || stamp <= stamps.of[hashIndex(topic, stamps.of.length)]!

/**
 * Of what was met by 16 partitions, that of one of fewer: their number divides 16, so each of the 16 lies in
 * one of them.
 */
const metIn = (met: Float64Array, partition: number, partitions: number): number[] =>
  [...met].filter((_, i) => i % partitions === partition)

export class Moment {
  /** Undefined: not known yet, or forgotten. */
  #stamps: Stamps | undefined
  #isForgotten = false
  /** What was met before the counters were known, and their number with them: by 16 partitions. */
  #met: Float64Array | undefined

  /**
   * The counters, read after the journal's entry of the subscription.
   * @returns whether it is where they say; otherwise what came live meanwhile moved it: what was told until they
   * were read is not all that was stored before it
   */
  settle(stamps: Stamps): boolean {
    if (this.#isForgotten) return false
    const met = this.#met
    this.#met = undefined
    this.#stamps =
      met === undefined
        ? stamps
        : {
            of: stamps.of.map((stamp, i) => Math.max(stamp, ...metIn(met, i, stamps.of.length))),
            era: stamps.era,
          }
    return met === undefined
  }

  /**
   * Whether a message that comes live was stored before: then the replay brings it. What comes while the
   * counters are being read is taken for that, and the moment moves after it: it is stored, so every replay
   * that is yet to read finds it. Of a stamp that says nothing (Infinity) it was not.
   */
  includes(topic: string, stamp: number): boolean {
    if (this.#isForgotten || stamp === Infinity) return false
    if (this.#stamps !== undefined) {
      const { era, of } = this.#stamps
      return !era.isOver && stamp <= of[hashIndex(topic, of.length)]!
    }
    const partition = hashIndex(topic, partitionsOfCluster)
    this.#met ??= new Float64Array(partitionsOfCluster)
    this.#met[partition] = Math.max(this.#met[partition]!, stamp)
    return true
  }

  /** Undefined: not known yet, or forgotten. */
  get stamps(): Stamps | undefined {
    return this.#stamps
  }

  /** Nothing that was stored before can still be on its way. */
  forget(): void {
    this.#isForgotten = true
    this.#stamps = this.#met = undefined
  }
}
