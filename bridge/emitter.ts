// Aedes' `mq` over mqemitter-redis: what is emitted on one node is heard on all. Every topic travels as `<prefix>/<topic>`,
// so that clusters and foreign channels on one Redis do not hear each other. State: the listeners of this process.
import mqemitterRedis, { type Message, type Subscriber } from 'mqemitter-redis'
import { connectStock } from './stock-redis.ts'

export class Emitter {
  readonly #prefix: string
  readonly #mq: ReturnType<typeof mqemitterRedis>
  readonly #wrapped = new WeakMap<Subscriber, Map<string, Subscriber>>()

  constructor(url: string, prefix: string, onError: (error: Error) => void) {
    this.#prefix = `${prefix}/`
    this.#mq = mqemitterRedis({ subConn: connectStock(url, '', onError), pubConn: connectStock(url, '', onError), matchEmptyLevels: true })
    this.#mq.state.on('error', onError)
  }

  get current(): number {
    return this.#mq.current
  }

  on(topic: string, listener: Subscriber, done?: () => void): this {
    const wrapped: Subscriber = (message, heard) => listener({ ...message, topic: message.topic.slice(this.#prefix.length) }, heard)
    const byTopic = this.#wrapped.get(listener) ?? new Map<string, Subscriber>()
    this.#wrapped.set(listener, byTopic.set(topic, wrapped))
    this.#mq.on(this.#prefix + topic, wrapped, done)
    return this
  }

  removeListener(topic: string, listener: Subscriber, done?: () => void): this {
    const byTopic = this.#wrapped.get(listener)
    const wrapped = byTopic?.get(topic)
    if (wrapped === undefined) {
      if (done !== undefined) setImmediate(done)
      return this
    }
    byTopic?.delete(topic)
    this.#mq.removeListener(this.#prefix + topic, wrapped, done)
    return this
  }

  emit(message: Message, done?: (error?: Error) => void): void {
    this.#mq.emit({ ...message, topic: this.#prefix + message.topic }, done)
  }

  close(done?: () => void): void {
    this.#mq.close(done)
  }
}
