// Aedes' `persistence` over aedes-persistence-redis: sessions, queued and retained messages and wills under the prefix.
import type { Redis } from 'ioredis'
import aedesPersistenceRedis from 'aedes-persistence-redis'
import { connectStock } from './stock-redis.ts'

export type Persistence = ReturnType<typeof aedesPersistenceRedis>

export function createPersistence(url: string, prefix: string, onError: (error: Error) => void): { persistence: Persistence; connection: Redis } {
  const connection = connectStock(url, `${prefix}:`, onError)
  return { persistence: aedesPersistenceRedis({ conn: connection, maxSessionDelivery: 100_000 }), connection }
}
