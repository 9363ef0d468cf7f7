// The control plane over mqemitter-redis: what may be missed once, heard on every node. It carries $SYS (who
// came and went, which node lives) and requests from node to node (requests.ts). Every topic travels as `<prefix>/<topic>`, so that clusters and foreign
// channels on one Redis do not hear each other. What is not ours on those channels is counted and skipped:
// the package would throw it at the process. State: the listeners of this process, and how many emits Redis
// has not answered. Bound: `emitsMax` of them; while Redis is away none is kept: what may be missed once is
// dropped, and counted.
import mqemitterRedis, { type Subscriber } from 'mqemitter-redis'
import { noReports, type Reports } from '../diagnostics.ts'
import type { Redis } from '../redis/redis.ts'
import { connectStock } from '../redis/stock-redis.ts'
import type { SystemEvents } from './system-events.ts'

/** Emits that Redis has not answered. */
const emitsMax = 1_000

type Listener = (...args: Buffer[]) => void

/** A connection whose listeners for messages cannot throw. */
function guarded(redis: Redis, reports: Reports): Redis {
  const on = redis.on.bind(redis) as (event: string, listener: Listener) => Redis
  const guard =
    (listener: Listener): Listener =>
    (...args) => {
      try {
        listener(...args)
      } catch {
        reports.tell('garbage', { where: 'channel', bytes: args.at(-1)?.length ?? 0 })
      }
    }
  return Object.assign(redis, {
    on: (event: string, listener: Listener) =>
      on(event, /^p?messageBuffer$/.test(event) ? guard(listener) : listener),
  })
}

export class Emitter implements SystemEvents {
  readonly #reports: Reports
  readonly #prefix: string
  readonly #publisher: Redis
  readonly #mq: ReturnType<typeof mqemitterRedis>
  readonly #onError: (error: Error) => void
  #underWay = 0

  constructor(url: string, prefix: string, onError: (error: Error) => void, reports = noReports) {
    this.#reports = reports
    this.#prefix = `${prefix}/`
    this.#onError = onError
    this.#publisher = connectStock(url, '', onError)
    this.#mq = mqemitterRedis({
      subConn: guarded(connectStock(url, '', onError), reports),
      pubConn: this.#publisher,
      matchEmptyLevels: true,
    })
    this.#mq.state.on('error', onError)
  }

  on(filter: string, listener: (topic: string, payload: Buffer) => void): () => void {
    const hear: Subscriber = ({ topic, payload }, heard) => {
      if (Buffer.isBuffer(payload)) listener(topic.slice(this.#prefix.length), payload)
      else this.#reports.tell('garbage', { where: 'channel', bytes: 0 })
      heard()
    }
    this.#mq.on(this.#prefix + filter, hear)
    return () => this.#mq.removeListener(this.#prefix + filter, hear)
  }

  /** The connection would keep what it cannot send, for as long as Redis is away. */
  emit(topic: string, payload: Buffer): void {
    if (this.#publisher.status !== 'ready' || this.#underWay >= emitsMax)
      return this.#reports.tell('shed', { cause: 'events', count: 1 })
    this.#underWay++
    this.#mq.emit({ topic: this.#prefix + topic, payload }, (error) => {
      this.#underWay--
      if (error !== undefined) this.#onError(error)
    })
  }

  close(done?: () => void): void {
    this.#mq.close(done)
  }
}
