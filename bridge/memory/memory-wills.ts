// Wills that are due on a node without Redis. Where the gate decides at once a will is published in the turn in
// which it is due. Otherwise it stands in the state, apart from its session, until it is decided: whoever is
// killed meanwhile asks again when it starts. What is decided is taken out and queued in one turn, which is one
// frame of the file: so it is published once. Bound: `willsMax` decisions at once, the others wait for their turn;
// what they hold counts among what sessions hold (stored-bytes.ts). State: store.ts; here the order of those that wait.
import type { Clock } from '../pace/clock.ts'
import { unpackMessage, type Later } from '../messages/codec.ts'
import type { Reports } from '../diagnostics.ts'
import type { Message } from '../messages/message.ts'
import { Slice } from '../pace/turns.ts'
import type { DueWill } from './stored-state.ts'
import type { StateStore } from './state-store.ts'

/** Decisions at once. */
export const willsMax = 1_000

export interface WillEvents {
  /** The will as it may be published; undefined: it may not. */
  authorizeWill(message: Message): Message | undefined | Promise<Message | undefined>
  publishWill(message: Message): void
}

export class DueWills {
  readonly #store: StateStore
  readonly #clock: Clock
  readonly #reports: Reports
  readonly #events: WillEvents
  readonly #deciding = new Set<Promise<void>>()
  /** Those whose turn has not come, the oldest first. */
  readonly #waiting = new Set<number>()
  #working: Promise<void> | undefined
  #last = 0
  #closed = false

  constructor(store: StateStore, clock: Clock, reports: Reports, events: WillEvents) {
    this.#store = store
    this.#clock = clock
    this.#reports = reports
    this.#events = events
  }

  /** Those that were not decided when the process before ended. */
  start(): void {
    for (const id of this.#store.state.wills.keys()) {
      this.#last = Math.max(this.#last, id)
      this.#waiting.add(id)
    }
    this.#goOn()
  }

  /** Publishes a will that is in no session any more, now or when that is decided. */
  publish(will: DueWill): void {
    const isItsTurn = this.#deciding.size < willsMax && !this.#closed
    const answer = isItsTurn ? this.#ask(will) : undefined
    if (isItsTurn && answer !== 'later' && !(answer instanceof Promise)) return this.#publish(answer)
    const id = ++this.#last
    this.#store.change({ type: 'will', id, will })
    if (!isItsTurn) this.#waiting.add(id)
    else if (answer instanceof Promise) this.#decide(id, answer)
  }

  /** `later`: it is of a later version, and stays for who understands it. */
  #ask({ body, sid }: DueWill): Message | undefined | Promise<Message | undefined> | Later {
    const message = unpackMessage(body, this.#clock)
    if (message === 'later') return (this.#reports.tell('later', { where: 'will', id: sid }), message)
    if (message === undefined)
      return void this.#reports.tell('garbage', { where: 'will', bytes: body.length })
    return this.#events.authorizeWill(message.willPublished({ sid }))
  }

  #decide(id: number, answer: Promise<Message | undefined>): void {
    const deciding = answer
      .then((decided) => this.#decided(id, decided))
      .finally(() => {
        this.#deciding.delete(deciding)
        this.#goOn()
      })
    this.#deciding.add(deciding)
  }

  /** It may come after a stop that had no more time for it: then the next start asks again. */
  #decided(id: number, decided: Message | undefined): void {
    if (this.#closed) return
    this.#store.change({ type: 'will', id, will: undefined })
    this.#publish(decided)
  }

  #publish(decided: Message | undefined): void {
    if (decided !== undefined) this.#events.publishWill(decided)
  }

  #goOn(): void {
    if (this.#closed || this.#waiting.size === 0 || this.#deciding.size >= willsMax) return
    this.#working ??= this.#work().finally(() => {
      this.#working = undefined
      this.#goOn() // one may have been decided meanwhile
    })
  }

  /** In slices: the gate may decide at once by now. */
  async #work(): Promise<void> {
    const slice = new Slice()
    for (const id of this.#waiting) {
      if (slice.isOver) await slice.next()
      if (this.#closed || this.#deciding.size >= willsMax) return
      this.#waiting.delete(id)
      const will = this.#store.state.wills.get(id)!
      const answer = this.#ask(will)
      if (answer instanceof Promise) this.#decide(id, answer)
      else if (answer !== 'later') this.#decided(id, answer)
    }
  }

  /** Resolves when all are published or refused. */
  async settled(): Promise<void> {
    for (;;) {
      const underWay = [...this.#deciding, ...(this.#working === undefined ? [] : [this.#working])]
      if (underWay.length === 0) return
      await Promise.race(underWay)
    }
  }

  close(): void {
    this.#closed = true
  }
}
