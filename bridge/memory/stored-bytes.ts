// What the messages of all sessions take in the memory of a node without Redis: those that wait, those in
// flight and wills, each body once however many sessions share it. And whose queues hold most: beyond the
// bound they lose their oldest. State: counters beside those of state.ts, which changes both. O(1) a message.
import type { StoredState } from './stored-state.ts'

/** What a body takes besides its bytes, and what each place takes in which it stands; roughly. */
const bodyBytes = 192
const placeBytes = 64

export class StoredBytes {
  bytes = 0
  /** Body → places in which it stands. */
  readonly #places = new Map<Buffer, number>()
  /** Sessions that have something in their queue, by the power of two of its bytes. */
  readonly #bySize: (Set<StoredState> | undefined)[] = []
  readonly #sizes = new Map<StoredState, number>()

  take(body: Buffer | undefined): void {
    if (body === undefined) return
    const places = this.#places.get(body) ?? 0
    this.#places.set(body, places + 1)
    this.bytes += placeBytes + (places === 0 ? body.length + bodyBytes : 0)
  }

  drop(body: Buffer | undefined): void {
    const places = body === undefined ? undefined : this.#places.get(body)
    if (places === undefined) return
    this.bytes -= placeBytes
    if (places > 1) this.#places.set(body!, places - 1)
    else {
      this.#places.delete(body!)
      this.bytes -= body!.length + bodyBytes
    }
  }

  takeAll(session: StoredState): void {
    for (const body of bodiesOf(session)) this.take(body)
    this.resized(session)
  }

  dropAll(session: StoredState): void {
    for (const body of bodiesOf(session)) this.drop(body)
    this.#move(session, undefined)
  }

  /** Its queue may hold another amount than before. */
  resized(session: StoredState): void {
    const { queue } = session
    this.#move(session, queue.length === 0 ? undefined : 32 - Math.clz32(queue.bytes / 1_024))
  }

  #move(session: StoredState, size: number | undefined): void {
    const before = this.#sizes.get(session)
    if (before === size) return
    if (before !== undefined) this.#bySize[before]!.delete(session)
    if (size === undefined) return void this.#sizes.delete(session)
    this.#sizes.set(session, size)
    ;(this.#bySize[size] ??= new Set()).add(session)
  }

  /**
   * One of those whose queues hold most, within a factor of two, each in its turn: what they share is gone
   * when each of them has lost it. undefined: nothing waits.
   */
  fullest(): StoredState | undefined {
    for (let size = this.#bySize.length - 1; size >= 0; size--) {
      const sessions = this.#bySize[size]
      if (sessions === undefined) continue
      for (const session of sessions) {
        sessions.delete(session)
        sessions.add(session)
        return session
      }
    }
    return undefined
  }
}

function* bodiesOf({ queue, inFlight, will }: StoredState): Generator<Buffer | undefined> {
  yield* queue.oldest()
  for (const { body } of inFlight.values()) yield body
  yield will?.body
}
