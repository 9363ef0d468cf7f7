// The QoS 2 publishes of one client between PUBLISH and PUBREL: a PUBLISH that comes again is published once
// (P5). For a session that outlives its connection each is written down, with a number, before it goes out,
// and forgotten at PUBREL: the number tells every queue whether it had the message before. State:
// {s<n>}:incoming (bridge/sessions/session-writer.ts) and here. ARCHITECTURE.md, "QoS 2, step by step", has the whole way
// to PUBCOMP, and what catches a crash at each step.
import { epochOf } from '../../bridge/index.ts'
import type { StoredSession } from './stored-session.ts'

interface Publish {
  /** 0 for a session that ends with its connection. */
  n: number
  /** `known` from an earlier connection, going out, or ready for PUBREC. */
  state: 'known' | 'publishing' | 'published'
}

export class Qos2Receiver {
  readonly #publishes = new Map<number, Publish>()
  readonly #stored: StoredSession | undefined
  /** Publishes of this connection that are not released yet. */
  open = 0
  /** The store's clock, µs, less performance.now(): its session's epoch is the moment of the claim. */
  readonly #clockOffset: number

  constructor(stored: StoredSession | undefined) {
    this.#stored = stored
    this.#clockOffset = stored === undefined ? 0 : epochOf(stored.session.owner) - performance.now() * 1_000
    if (stored !== undefined)
      for (const [messageId, { n, published }] of stored.session.incoming)
        this.#publishes.set(messageId, { n, state: published ? 'published' : 'known' })
  }

  /** A PUBLISH of this identifier came before. */
  has(messageId: number): boolean {
    return this.#publishes.has(messageId)
  }

  /**
   * A PUBLISH came. False: it came before and is not to be published; `again` when its PUBREC is to be sent
   * again.
   */
  begin(messageId: number, again: () => void): boolean {
    const known = this.#publishes.get(messageId)
    if (known === undefined || known.state === 'known') this.open++
    if (known === undefined) this.#publishes.set(messageId, { n: 0, state: 'publishing' })
    else if (known.state === 'known')
      known.state = 'publishing' // who had it may have died on the way: it goes out again under its number
    else {
      if (known.state === 'published') again()
      return false
    }
    return true
  }

  /**
   * Calls `publish` with its number when it is written down, or will never be because the session is
   * another's.
   */
  record(messageId: number, publish: (n: number, written: boolean) => void): void {
    const known = this.#publishes.get(messageId)
    // released before its PUBREC, while the gate decided: its client keeps no count of it any more
    if (known === undefined) return publish(0, true)
    if (this.#stored === undefined || known.n > 0) return publish(known.n, true)
    // Numbers follow the store's clock: one that was set ahead in Redis, by which publishes pass for duplicates, is
    // soon overtaken.
    const now = Math.floor(performance.now() * 1_000 + this.#clockOffset)
    known.n = this.#stored.session.n = Math.max(this.#stored.session.n + 1, now)
    this.#stored.record(messageId, known.n, (written) => publish(known.n, written))
  }

  /** It is stored for everybody: PUBREC may be sent. */
  markPublished(messageId: number): void {
    const known = this.#publishes.get(messageId)
    if (known === undefined) return
    known.state = 'published'
    // nobody waits for it: without it the publish goes out again, under its number
    this.#stored?.recordPublished(messageId, known.n)
  }

  /**
   * It is not published, and PUBREC says so. Where PUBREC has no words for it (3.1.1) `isAcknowledged`: its client
   * sends PUBREL, and until then it is known.
   */
  refuse(messageId: number, isAcknowledged: boolean): void {
    const known = this.#publishes.get(messageId)
    if (known === undefined) return
    if (isAcknowledged) known.state = 'published'
    else this.release(messageId, () => undefined) // the exchange is over [MQTT-4.3.3-4]
  }

  /** PUBREL came; `done` when PUBCOMP may be sent, with false when there was nothing to release. */
  release(messageId: number, done: (known: boolean) => void): void {
    const known = this.#publishes.get(messageId)
    if (known !== undefined && known.state !== 'known') this.open--
    if (!this.#publishes.delete(messageId)) done(false)
    else if (this.#stored === undefined) done(true)
    else this.#stored.forget(messageId, () => done(true))
  }
}
