// The stock packages come without types; these are the parts that we use.
declare module 'aedes-persistence-redis' {
  import type { Cluster, Redis } from 'ioredis'
  function persistence(options: { conn: Redis | Cluster; maxSessionDelivery?: number }): {
    destroy(done?: () => void): void
  }
  export default persistence
}

declare module 'mqemitter-redis' {
  import type { Cluster, Redis } from 'ioredis'
  import type { EventEmitter } from 'node:events'
  export type Message = { topic: string } & Record<string, unknown>
  export type Subscriber = (message: Message, done: () => void) => void
  interface MqEmitterRedis {
    readonly state: EventEmitter
    readonly current: number
    on(topic: string, listener: Subscriber, done?: () => void): this
    removeListener(topic: string, listener: Subscriber, done?: () => void): this
    emit(message: Message, done?: (error?: Error) => void): void
    close(done?: () => void): void
  }
  function mqemitterRedis(options: {
    subConn: Redis | Cluster
    pubConn: Redis | Cluster
    matchEmptyLevels?: boolean
    concurrency?: number
  }): MqEmitterRedis
  export default mqemitterRedis
}
