// When Redis lost its data, or a part of it, this node heals: it registers again, makes its inbox again and tells the
// others everything that it knows. A write that is refused may mean that, or that the others declared this node dead:
// `checkFence` tells the two apart. State: the healing under way.
import { noReports, type Reports } from '../diagnostics.ts'
import { BridgeError, toBridgeError } from '../errors.ts'
import type { Groups } from '../groups/groups.ts'
import type { InboxReader } from '../links/inbox-reader.ts'
import type { Change } from '../messages/codec.ts'
import type { DataPlaneOptions, Receiver } from '../options.ts'
import { SingleFlight } from '../pace/single-flight.ts'
import { atMost } from '../pace/together.ts'
import type { ClusterView } from '../routes/known-cluster.ts'
import type { Journal } from '../routes/journal.ts'
import { routeChange, type OwnRoutes } from '../routes/own-routes.ts'
import type { Sessions } from '../sessions/sessions.ts'
import type { Audit } from './audit.ts'
import type { Membership } from './membership.ts'

/** How long members of groups have for joining again before the others hear of us. */
const regroupMs = 1_000

export interface RedisLossParts {
  readonly receiver: Receiver
  readonly membership: Membership
  readonly reader: InboxReader
  readonly audit: Audit
  readonly sessions: Sessions
  readonly groups: Groups
  readonly journal: Journal
  readonly routes: OwnRoutes
  readonly view: ClusterView
  /** The others declared this node dead. */
  onFenced(): void
}

export class RedisLoss {
  readonly #options: DataPlaneOptions
  readonly #reports: Reports
  readonly #parts: RedisLossParts
  readonly #healing = new SingleFlight(() => this.#rejoin())

  constructor(options: DataPlaneOptions, parts: RedisLossParts) {
    this.#options = options
    this.#reports = options.reports ?? noReports
    this.#parts = parts
  }

  get isUnderWay(): boolean {
    return this.#healing.isUnderWay
  }

  /**
   * Redis lost its data: registers again, makes the inbox again, asserts all routes. One healing at a time; FENCED
   * ends it.
   */
  heal(): Promise<void> {
    return this.#healing.current()
  }

  /** All that this node has to tell the others, each thing as it is when it is asked for. */
  *#everything(stale: readonly Change[]): Iterable<Change> {
    for (const route of this.#parts.routes.all()) yield routeChange(route)
    yield* stale
    yield* this.#parts.sessions.here.changes()
    yield* this.#parts.groups.changes()
    yield { type: 'joined' } // the last word
  }

  async #rejoin(): Promise<void> {
    for (;;) {
      this.#reports.tell('amnesia', { nodeId: this.#parts.membership.nodeId })
      try {
        await this.#parts.membership.rejoin()
        await this.#parts.reader.create()
        await this.#parts.audit.join()
        const stale = await this.#parts.sessions.recovery.assertAll()
        // bounded: when Redis loses data again it waits for us
        await atMost(regroupMs, this.#parts.groups.rejoinAll())
        await this.#parts.journal.assertAll(this.#everything(stale))
        await this.#parts.journal.rebuild()
        for (const { sid } of this.#parts.sessions.here) this.#parts.receiver.ring(sid)
        this.#parts.groups.lookAll() // they are told of
        return
      } catch (reason) {
        const error = toBridgeError(reason)
        if (error.code === 'ERR_BRIDGE_AMNESIA') continue // it was lost once more meanwhile
        // Another boot has our name by now, or the data are laid out otherwise: this boot cannot go on. A bug ends
        // the node, and nobody else's connections for it.
        if (error.code !== 'ERR_BRIDGE_BUG' && error.code !== 'ERR_BRIDGE_CLOSED') this.#parts.onFenced()
        throw error
      }
    }
  }

  /**
   * A failover lost the last journal entries, also those of others. The publishers here wait for the other nodes,
   * and this node tells them (`joined`) when it has asserted what was missing.
   */
  onLost(): void {
    this.#parts.view.absent.await(
      [...this.#parts.view.nodes].filter((nodeId) => nodeId !== this.#parts.membership.nodeId),
    )
    // Only after all that the snapshot lacked of us is told (`ClusterView.asserted`): who reads `joined` goes on
    // publishing.
    void this.#parts.view.asserted
      .then(() => this.#parts.journal.append([{ type: 'lost' }, { type: 'joined' }]))
      .catch(this.#options.onError)
  }

  /**
   * A partition has no place of us: Redis lost data, all of it or this partition's, which heals it, or we
   * were declared dead.
   */
  async checkFence(): Promise<void> {
    const { generation } = this.#parts.membership
    if (this.#healing.isUnderWay) return this.#healing.current() // healing registers us in this partition, too
    await this.#parts.journal.barrier()
    // either we have registered again since the write was refused, or we do it here
    if (!generation.equals(this.#parts.membership.generation) || (await this.#parts.audit.takePlaces()))
      return
    this.#parts.onFenced()
    throw new BridgeError('ERR_BRIDGE_FENCED', `${this.#parts.membership.nodeId} was declared dead`)
  }
}
