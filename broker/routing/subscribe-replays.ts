// The replays of SUBSCRIBE: what is owed is written down before SUBACK, sent after it, and goes on with the next
// connection of a session. State: moments of subscriptions, for two leases; the pages under way are each
// connection's (replay-pages.ts).
import {
  Moment,
  type Cluster,
  type Message,
  type OwedReplay,
  type OwedReplays,
  type Session,
  type Stamps,
} from '../../bridge/index.ts'
import type { Config } from '../config/config.ts'
import type { Connection } from '../connection/connection.ts'
import type { AskedReplay } from '../connection/connection-host.ts'
import type { LocalTable, SubscriptionOptions } from './local-table.ts'
import { ReplayPages } from './replay-pages.ts'
import type { Subscriber } from './subscriber.ts'

export interface ReplayHost {
  plane(): Cluster
  onError(error: Error): void
}

export class SubscribeReplays {
  readonly #config: Config
  readonly #table: LocalTable<Subscriber>
  readonly #host: ReplayHost
  /** Moments of subscriptions, by the lease in which they were made: this one and the one before. */
  #moments: [Set<Moment>, Set<Moment>] = [new Set(), new Set()]
  #forgetting: NodeJS.Timeout | undefined

  constructor(config: Config, table: LocalTable<Subscriber>, host: ReplayHost) {
    this.#config = config
    this.#table = table
    this.#host = host
  }

  /** Before SUBACK: what is owed is written down, and the first page is read. `begin` sends it after SUBACK. */
  async prepare(
    connection: Connection,
    filter: string,
    options: SubscriptionOptions,
    isFirst: boolean,
    stamps: Stamps | undefined,
    told: Promise<void> | undefined,
  ): Promise<void> {
    const hasAny = await this.#host.plane().hasRetained(filter, told)
    const [owed, ahead] = await Promise.all([
      hasAny ? this.#record(connection, filter, options, isFirst, stamps) : undefined,
      hasAny ? this.#replaysOf(connection).readAhead(filter) : undefined,
    ])
    // closed: no SUBACK is sent. What is owed is stored, and the session's next connection sends it.
    if (connection.isClosed) return ahead?.drop()
    connection.replaysAfterSuback ??= new Map<string, AskedReplay>()
    // of two SUBSCRIBEs of a filter in one packet the second one is replayed
    const earlier = connection.replaysAfterSuback.get(filter)
    earlier?.ahead?.drop()
    if (earlier?.owed !== undefined) connection.stored?.endReplay(earlier.owed)
    connection.replaysAfterSuback.set(filter, { stamps, hasAny, owed, ahead })
  }

  begin(connection: Connection, filter: string): void {
    const asked = connection.replaysAfterSuback?.get(filter)
    connection.replaysAfterSuback?.delete(filter)
    // What is stored from its moment on comes live. Stamps of an era that is over say nothing: then it is replayed.
    if (asked?.hasAny === false && asked.stamps?.era.isOver === false) return
    const replays = this.#replaysOf(connection)
    if (!replays.begins(filter)) {
      // a SUBSCRIBE costs its sender ten bytes: one replay of a filter at a time, and one after it
      asked?.ahead?.drop()
      if (asked?.owed !== undefined) connection.stored?.endReplay(asked.owed)
      return
    }
    const replayed =
      asked === undefined ? this.#askAgain(connection, filter) : this.#start(connection, filter, asked)
    void replayed
      .catch((error: unknown) => this.#host.onError(error as Error))
      .then(() => {
        if (replays.over(filter) && !connection.isClosed) this.begin(connection, filter)
      })
  }

  /**
   * Aedes skips a SUBSCRIBE that changes nothing, so `prepare` was not called. SUBACK is on its way.
   */
  async #askAgain(connection: Connection, filter: string): Promise<void> {
    const { stamps, told } = await this.#host.plane().stamps()
    const options = this.#table.get(filter, connection)
    if (options === undefined || !(await this.#host.plane().hasRetained(filter, told))) return
    await this.#start(connection, filter, {
      stamps,
      hasAny: true,
      owed: await this.#record(connection, filter, options, false, stamps),
    })
  }

  goOn(connection: Connection, replays: OwedReplays): void {
    for (const owed of replays.all) {
      this.#start(
        connection,
        owed.filter,
        { stamps: this.#host.plane().stampsOf(owed.stamps), hasAny: true, owed },
        true,
      ).catch((error: unknown) => this.#host.onError(error as Error))
    }
  }

  /** @param again an earlier connection began the replay: values of QoS 0 are not sent again */
  async #start(
    connection: Connection,
    filter: string,
    { stamps, owed, ahead }: AskedReplay,
    again = false,
  ): Promise<void> {
    const subscription = this.#table.get(filter, connection)
    if (subscription !== undefined) {
      const { qos, identifier } = subscription
      const match = { qos, identifiers: identifier === undefined ? undefined : [identifier] }
      // Once UNSUBSCRIBE came nothing more is sent: what is read from now on may have been published after
      // the UNSUBACK.
      const isWanted = (): boolean =>
        !connection.isClosed && this.#table.get(filter, connection) !== undefined
      const isDone = (message: Message): boolean =>
        again && (message.qos === 0 || owed?.isDone(message) === true)
      await this.#replaysOf(connection).add(
        { filter, stamps, ahead, isWanted, isDone },
        { roomForMore: () => connection.roomForMore(), send: (page) => connection.replay(page, match, owed) },
      )
    }
    if (subscription === undefined) ahead?.drop()
    if (owed !== undefined) connection.stored?.endReplay(owed)
  }

  #replaysOf(connection: Connection): ReplayPages {
    return (connection.replays ??= new ReplayPages(this.#host.plane(), this.#config.replayBytesMax))
  }

  /**
   * What a session that has a queue is to get is written down before SUBACK: its connection may end sooner.
   */
  async #record(
    { stored }: Connection,
    filter: string,
    { qos }: SubscriptionOptions,
    isFirst: boolean,
    stamps: Stamps | undefined,
  ): Promise<OwedReplay | undefined> {
    if (stored === undefined || qos === 0 || stamps === undefined) return undefined
    return stored.beginReplay(filter, isFirst, stamps)
  }

  /** Of a subscription that an earlier connection began, and whose replay goes on with this one. */
  owedMoment(session: Session | undefined, filter: string): Moment | undefined {
    const owed = session?.replays?.firstOf(filter)
    if (owed === undefined) return undefined
    const moment = new Moment()
    moment.settle(this.#host.plane().stampsOf(owed.stamps))
    this.forgetLater(moment)
    return moment
  }

  /**
   * A message that was stored before a subscription may come live for as long as it is on its way. After a lease
   * nothing is: its sender, or this node, would have been declared dead.
   */
  forgetLater(moment: Moment): void {
    this.#moments[0].add(moment)
    this.#forgetting ??= this.#forgetOld()
  }

  /** Of a subscription that is gone: who subscribes and unsubscribes without end leaves none. */
  dropMoment(moment: Moment): void {
    for (const moments of this.#moments) moments.delete(moment)
  }

  #forgetOld(): NodeJS.Timeout {
    return setTimeout(() => {
      const [young, old] = this.#moments
      this.#moments = [new Set(), young]
      for (const moment of old) moment.forget()
      this.#forgetting = young.size > 0 ? this.#forgetOld() : undefined
    }, this.#config.leaseMs).unref()
  }
}
