// The control plane over mqemitter-redis: what may be missed once, heard on every node. It carries $SYS: who came and went,
// which node lives. Every topic travels as `<prefix>/<topic>`, so that clusters and foreign channels on one Redis do not hear
// each other. State: the listeners of this process.
import mqemitterRedis from 'mqemitter-redis'
import { connectStock } from './stock-redis.ts'

export class Emitter {
  readonly #prefix: string
  readonly #mq: ReturnType<typeof mqemitterRedis>

  constructor(url: string, prefix: string, onError: (error: Error) => void) {
    this.#prefix = `${prefix}/`
    this.#mq = mqemitterRedis({ subConn: connectStock(url, '', onError), pubConn: connectStock(url, '', onError), matchEmptyLevels: true })
    this.#mq.state.on('error', onError)
  }

  /** Hears what is emitted on any node, this one included. */
  on(filter: string, listener: (topic: string, payload: Buffer) => void): void {
    this.#mq.on(this.#prefix + filter, (message, heard) => {
      listener(message.topic.slice(this.#prefix.length), Buffer.from(message.payload as string | Uint8Array))
      heard()
    })
  }

  emit(topic: string, payload: Buffer): void {
    this.#mq.emit({ topic: this.#prefix + topic, payload })
  }

  close(done?: () => void): void {
    this.#mq.close(done)
  }
}
