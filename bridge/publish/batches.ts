// The way of a QoS ≥ 1 PUBLISH out of this node, in batches:
// 1. The batch is closed: later messages join the next one.
// 2. The journal's position is read once, and the routing table is brought to it: the barrier. Meanwhile the batch is
//    handed on to the live subscribers that the table has.
// 3. The batch is matched again; subscribers that the barrier brought get it, too.
// 4. Queues and inboxes are written. A message is done when it is stored for everyone who was subscribed (P1, P2).
// The next batch is closed when this one has passed its barrier, and its barrier is read while this one is being
// written. So batches are matched and written in order (P3), with little load a message leaves at once, and under
// load they grow. State: this process. A message in it was not acknowledged, so a dying node owes nobody anything.

export interface BatchStages<Message, Handed> {
  /**
   * Stores what must be found by a SUBSCRIBE after the acknowledgement: retained messages. Before the barrier
   * (R1).
   */
  store(batch: readonly Message[]): Promise<void> | undefined
  /** The routing table holds at least every route that was stored before the call. */
  barrier(): Promise<void>
  /**
   * Hands on, ahead of the barrier, what the table has by now; undefined: nothing of this batch may go ahead.
   */
  handOnAhead(batch: readonly Message[]): Promise<Handed | undefined>
  /**
   * Matches and hands on before it resolves, but what was `handed` on; `stored` settles when all is stored
   * where it must be.
   */
  handOnAfter(
    batch: readonly Message[],
    handed: Handed | undefined,
  ): Promise<{ readonly stored: Promise<unknown> }>
  /**
   * A stage failed though nobody closed the batches: a bug. Nothing of its batch, nor after it, will be
   * done.
   */
  broken(error: unknown): void
}

const underWayMax = 2
/** Messages of one batch: bounds the time that one turn of the event loop takes. */
export const batchMessagesMax = 1_000

export class Batches<Message, Handed> {
  readonly #stages: BatchStages<Message, Handed>
  /** Two lists in step, and no object for each. */
  #waiting: Message[] = []
  #dones: (() => void)[] = []
  /** When each batch that is under way was closed, the oldest first. */
  readonly #underWay: number[] = []
  /** A batch is being closed, or has not passed its barrier. */
  #busy = false
  /** Settles when all batches so far are done. */
  #last: Promise<void> = Promise.resolve()
  #closed = false

  constructor(stages: BatchStages<Message, Handed>) {
    this.#stages = stages
  }

  /**
   * Takes a message; `done` is called once, when it is stored. It is never called when the node stops or is
   * fenced.
   */
  push(message: Message, done: () => void): void {
    if (this.#closed) return
    this.#waiting.push(message)
    this.#dones.push(done)
    this.#schedule()
  }

  /**
   * Messages that were taken and are in no batch yet. Their bound: the publishers' in-flight
   * windows, and that of wills (sessions/due-wills.ts).
   */
  get waiting(): number {
    return this.#waiting.length
  }

  /** Since when the oldest batch waits to be stored; undefined: none does. */
  get since(): number | undefined {
    return this.#underWay[0]
  }

  close(): void {
    this.#closed = true
    this.#waiting = []
    this.#dones = []
  }

  #schedule(): void {
    if (this.#busy || this.#underWay.length >= underWayMax || this.#waiting.length === 0 || this.#closed)
      return
    this.#busy = true
    setImmediate(() => {
      if (this.#closed) return
      const [batch, dones] = [this.#waiting, this.#dones]
      this.#waiting = batch.length <= batchMessagesMax ? [] : batch.splice(batchMessagesMax)
      this.#dones = dones.length <= batchMessagesMax ? [] : dones.splice(batchMessagesMax)
      this.#underWay.push(performance.now())
      const run = (this.#last = this.#run(batch, this.#last))
      run.then(
        () => {
          this.#underWay.shift() // in order
          if (!this.#closed) for (const done of dones) done()
          this.#schedule()
        },
        (error: unknown) => {
          // The stages retry for as long as it can help; they reject when the node stops or is fenced.
          // Anything else is a bug: the node goes down and the others take over, rather than acknowledging
          // nothing for ever.
          if (!this.#closed) this.#stages.broken(error)
        },
      )
    })
  }

  /** Rejects when a stage does: then nothing after it is done either. */
  async #run(messages: readonly Message[], before: Promise<void>): Promise<void> {
    const stored = this.#stages.store(messages)
    stored?.catch(() => undefined) // looked at when the batch is handed on
    const handed = await this.#stages.handOnAhead(messages)
    if (stored !== undefined) await stored
    await this.#stages.barrier()
    const written = await this.#stages.handOnAfter(messages, handed)
    this.#busy = false
    this.#schedule()
    await written.stored
    await before // acknowledgements leave in order [MQTT-4.6.0-2]
  }
}
