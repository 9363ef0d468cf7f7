// Aedes' `persistence` over aedes-persistence-redis: the sessions that outlive their connection, with their subscriptions,
// queues and wills, under the prefix. Retained Messages are not its business: bridge/retained.ts has them.
import type { Redis } from 'ioredis'
import aedesPersistenceRedis from 'aedes-persistence-redis'
import { connectStock } from './stock-redis.ts'

/** A packet as aedes-persistence-redis queues it. */
export interface StoredPacket {
  readonly cmd: string
  readonly topic: string
  readonly payload: Buffer
  readonly qos: 0 | 1 | 2
  readonly retain: boolean
  readonly brokerId: string
  readonly brokerCounter: number
  readonly properties?: object
  readonly messageExpiry?: number
  messageId?: number
}

/** The parts of the package's interface that we call ourselves; Aedes calls the rest. */
export interface Persistence {
  subscriptionsByTopic(topic: string): Promise<{ clientId: string; topic: string; qos: 0 | 1 | 2 }[]>
  outgoingEnqueueCombi(subscriptions: readonly { clientId: string }[], packet: StoredPacket): Promise<void>
  outgoingStream(client: { id: string }): AsyncIterable<StoredPacket>
  outgoingUpdate(client: { id: string }, packet: StoredPacket): Promise<void>
  outgoingClearMessageId(client: { id: string }, packet: { messageId: number }): Promise<StoredPacket | undefined>
}

export function createPersistence(url: string, prefix: string, onError: (error: Error) => void): { persistence: Persistence; connection: Redis } {
  const connection = connectStock(url, `${prefix}:`, onError)
  return { persistence: aedesPersistenceRedis({ conn: connection, maxSessionDelivery: 100_000 }) as unknown as Persistence, connection }
}
