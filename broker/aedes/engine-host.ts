// What the engine needs of the node around it: broker/routing/router.ts gives it. No state.
import type { SessionRequest } from '../../bridge/index.ts'
import type { Tenants } from '../access/tenancy.ts'
import type { Connection } from '../connection/connection.ts'
import type { ConnectionHost } from '../connection/connection-host.ts'
import type { SubscriptionOptions } from '../routing/local-table.ts'
import type { FilterRefusal } from '../routing/subscription-bounds.ts'

/** What a node does for its engine. */
export interface EngineHost extends Omit<
  ConnectionHost<Connection>,
  'violated' | 'listener' | 'readerLimits' | 'outboxLimits' | 'broken' | 'over' | 'mayShare' | 'lookAt'
> {
  /** Those that have connections here. */
  readonly tenants: Tenants
  /** Whether clients may have Shared Subscriptions. */
  readonly hasGroups: boolean
  /** Makes this node the owner of the client's session, as `connection.session`; before CONNACK. */
  claim(connection: Connection, request: SessionRequest): Promise<void>
  /** Takes filters out of the connection's session; before UNSUBACK. */
  forget(connection: Connection, filters: readonly string[]): Promise<void>
  /**
   * Resolves when every node can know of the subscription: then SUBACK is sent. `replays`: and Retained
   * Messages after it.
   */
  subscribe(
    connection: Connection,
    filter: string,
    options: SubscriptionOptions,
    replays: boolean,
  ): Promise<void>
  /** The same for a Shared Subscription: resolves to what SUBACK says. */
  share(
    connection: Connection,
    name: string,
    options: SubscriptionOptions,
    resumes?: boolean,
  ): Promise<number>
  /** Undefined: nothing has to be waited for before UNSUBACK. */
  unsubscribe(connection: Connection, filter: string): Promise<void> | undefined
  /** Why the connection may not subscribe to a filter; undefined: it may. */
  refusalOf(connection: Connection, filter: string): FilterRefusal | undefined
  /** SUBACK is on its way: Retained Messages may follow. */
  replay(connection: Connection, filter: string): void
  /** Whether anybody in the cluster subscribed to what `topic` matches. */
  isWanted(topic: string): boolean
  onClientError(connection: Connection, error: Error): void
  /** Nothing of it is left. */
  onEnd(connection: Connection): void
  onError(error: Error): void
}
