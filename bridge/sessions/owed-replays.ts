// Replays of Retained Messages that a session is owed: a SUBSCRIBE began them, and they may take longer than
// its connection. Whoever has the session next goes on where it ended. State: fields of {s<n>}:session,
// written by its owner in the call that puts what is replayed in flight (redis/lua/session-serve.lua), so
// that nothing of a replay is lost or sent twice: `replay <number>` says what is owed, `replay <number>
// <page>` which values were handed over, `replays` that there are any. Bound: 9 bytes a value, until its
// replay ends.
import type { Reports } from '../diagnostics.ts'
import { partitionsOfCluster, hashIndex } from '../redis/keys.ts'
import type { Message } from '../messages/message.ts'

/** A field of the session's hash as it is to be; empty: removed. */
export type Field = readonly [name: string, value: Buffer | string]

const stampBytes = 8
const doneBytes = 1 + stampBytes
/**
 * Before the filter: whether it began its subscription, how many partitions there are, and their counters.
 */
const countsAt = 2

/** Names one value: no two of a partition have one stamp. */
function nameOf(topic: string, stamp: number): string {
  const name = Buffer.allocUnsafe(doneBytes)
  name.writeUInt8(hashIndex(topic, partitionsOfCluster))
  name.writeDoubleBE(stamp, 1)
  return name.toString('latin1')
}

export class OwedReplay {
  readonly number: number
  readonly filter: string
  /** The subscription began with it: what comes live of what it brings is left out. */
  readonly isFirst: boolean
  /** The counters of all partitions when it began (moment.ts): what was stored by then is owed. */
  readonly stamps: Float64Array
  readonly #done = new Set<string>()
  /** Numbers of the pages that stand there. */
  readonly #pages: number[] = []
  #nextPage = 0

  constructor(number: number, filter: string, isFirst: boolean, stamps: Float64Array) {
    this.number = number
    this.filter = filter
    this.isFirst = isFirst
    this.stamps = stamps
  }

  /** Whether an earlier connection had this value already. */
  isDone({ topic, stamp = 0 }: Message): boolean {
    return this.#done.size > 0 && this.#done.has(nameOf(topic, stamp))
  }

  get head(): Field {
    const bytes = Buffer.alloc(countsAt + this.stamps.length * stampBytes)
    bytes.writeUInt8(this.isFirst ? 1 : 0)
    bytes.writeUInt8(this.stamps.length, 1)
    for (const [partition, stamp] of this.stamps.entries())
      bytes.writeDoubleBE(stamp, countsAt + partition * stampBytes)
    return [`replay ${this.number}`, Buffer.concat([bytes, Buffer.from(this.filter)])]
  }

  /** These are handed over. */
  page(messages: readonly Message[]): Field {
    const names = messages.map(({ topic, stamp = 0 }) => nameOf(topic, stamp))
    this.#pages.push(this.#nextPage)
    return [`replay ${this.number} ${this.#nextPage++}`, Buffer.from(names.join(''), 'latin1')]
  }

  /** A page that an earlier connection wrote. */
  addPage(page: number, names: Buffer): void {
    this.#pages.push(page)
    this.#nextPage = Math.max(this.#nextPage, page + 1)
    for (let at = 0; at + doneBytes <= names.length; at += doneBytes)
      this.#done.add(names.toString('latin1', at, at + doneBytes))
  }

  /** Nothing stands of it any more. */
  get end(): Field[] {
    return [
      [`replay ${this.number}`, ''],
      ...this.#pages.map((page): Field => [`replay ${this.number} ${page}`, '']),
    ]
  }
}

/** Those of one session. */
export class OwedReplays {
  readonly #all = new Map<number, OwedReplay>()
  #next = 0
  /** Made when a session is resumed, by filter. */
  #firsts: Map<string, OwedReplay> | undefined

  /** From the fields of the session's hash; what is damaged is left out. */
  static of(fields: readonly Buffer[], reports: Reports): OwedReplays {
    const replays = new OwedReplays()
    const pages: [number, number, Buffer][] = []
    for (let i = 0; i + 1 < fields.length; i += 2) {
      const [name, value] = [fields[i]!.toString(), fields[i + 1]!]
      const [, number, page] = /^replay (\d{1,15})(?: (\d{1,15}))?$/.exec(name) ?? []
      const headBytes = countsAt + (value[1] ?? 0) * stampBytes
      const isDamaged = headBytes === countsAt || value.length <= headBytes
      if (number === undefined || (page === undefined && isDamaged))
        reports.tell('garbage', { where: 'session', bytes: value.length })
      else if (page !== undefined) pages.push([Number(number), Number(page), value])
      else
        replays.#add(
          Number(number),
          value.toString('utf8', headBytes),
          value[0] === 1,
          Float64Array.from({ length: value[1]! }, (_, partition) =>
            value.readDoubleBE(countsAt + partition * stampBytes),
          ),
        )
    }
    for (const [number, page, names] of pages) replays.#all.get(number)?.addPage(page, names)
    return replays
  }

  #add(number: number, filter: string, isFirst: boolean, stamps: Float64Array): OwedReplay {
    const replay = new OwedReplay(number, filter, isFirst, stamps)
    this.#all.set(number, replay)
    this.#next = Math.max(this.#next, number + 1)
    return replay
  }

  get all(): OwedReplay[] {
    return [...this.#all.values()]
  }

  /** The one with which its subscription began. */
  firstOf(filter: string): OwedReplay | undefined {
    this.#firsts ??= new Map(this.all.flatMap((replay) => (replay.isFirst ? [[replay.filter, replay]] : [])))
    return this.#firsts.get(filter)
  }

  begin(filter: string, isFirst: boolean, stamps: Float64Array): OwedReplay {
    return this.#add(this.#next, filter, isFirst, stamps)
  }

  /** What is to be written when one begins. */
  begun(replay: OwedReplay): Field[] {
    return [['replays', '1'], replay.head]
  }

  /** What is to be written when one is over; nothing when it was before. */
  end(replay: OwedReplay): Field[] {
    if (!this.#all.delete(replay.number)) return []
    return this.#all.size === 0 ? [...replay.end, ['replays', '']] : replay.end
  }

  /** What is to be written when Redis lost it. What was handed over stood there alone. */
  get heads(): Field[] {
    return this.#all.size === 0 ? [] : [['replays', '1'], ...[...this.#all.values()].map(({ head }) => head)]
  }
}
