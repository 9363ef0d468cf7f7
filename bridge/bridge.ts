// What a node holds of its store while it runs: boots that join the cluster, what is told under $SYS, and
// whether it stores.
import type { Bans } from './ban.ts'
import type { Cluster } from './cluster.ts'
import type { SystemEvents } from './control/system-events.ts'
import type { Receiver } from './options.ts'
import type { StoredAccess } from './stored-access.ts'
import type { Waiting, WaitReport } from './pace/waits.ts'

export interface Bridge {
  readonly bans: Bans
  /** Users and rules in the store; undefined: it keeps none. */
  readonly storedAccess: StoredAccess | undefined
  /** The control plane. */
  readonly emitter: SystemEvents
  /**
   * Joins the cluster with the data plane of a new boot; again after it was fenced. Waits for the store until
   * `ended`.
   */
  join(receiver: Receiver, ended?: AbortSignal): Promise<Cluster>
  /** Tries to store something, within a deadline. @throws BridgeError why the store does not */
  probe(): Promise<void>
  /** Whether the store took what was tried last, at most a second ago. */
  readonly isStoring: boolean
  /** How long that took, ms; the deadline when there was no answer. */
  readonly probeMs: number
  /** Who waits now. */
  readonly waiting: Waiting
  /** What is waited for by now for longer than two seconds. */
  readonly named: readonly WaitReport[]
  close(): Promise<void>
}
