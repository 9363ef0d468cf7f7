// What the parts of sessions.ts share: where sessions are kept, who this node is, and which of them are
// connected here.
import type { Clock } from '../pace/clock.ts'
import type { Keys } from '../redis/keys.ts'
import type { Redis } from '../redis/redis.ts'
import type { ConnectedSessions } from './connected.ts'
import type { SessionEvents } from './session-events.ts'

export interface SessionContext {
  readonly redis: Redis
  readonly keys: Keys
  readonly nodeId: () => string
  readonly clock: Clock
  /** How long what was applied of a publisher outlives it, ms. */
  readonly forgetMs: number
  readonly connected: ConnectedSessions
  readonly events: SessionEvents
}
