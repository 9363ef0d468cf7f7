// Shared Subscriptions of this node's connections: they join their groups and leave them, and get what a group gives
// here. The backlog and who has what of it are in bridge/groups. State: the members that are connected here.
import { BridgeError, type Cluster, type GroupRules, type Message } from '../../bridge/index.ts'
import type { RefusalCause } from '../access/refusals.ts'
import type { Connection } from '../connection/connection.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'
import { storedOptions, type Match, type SubscriptionOptions } from '../routing/local-table.ts'
import type { SubscriptionBounds } from '../routing/subscription-bounds.ts'
import type { Subscriber } from '../routing/subscriber.ts'
import { LocalGroups } from './local-groups.ts'

export interface SharedHost {
  plane(): Cluster
  give(message: Message, subscriber: Subscriber, match: Match<Subscriber>): void
  refused(cause: RefusalCause): void
}

export class SharedSubscriptions {
  readonly #groups: LocalGroups<Connection>
  readonly #bounds: SubscriptionBounds<Subscriber>
  readonly #host: SharedHost

  constructor(rules: GroupRules, bounds: SubscriptionBounds<Subscriber>, host: SharedHost) {
    this.#groups = new LocalGroups(rules)
    this.#bounds = bounds
    this.#host = host
  }

  /** Members of groups that are connected here. O(groups). */
  get size(): number {
    return this.#groups.size
  }

  get(name: string, connection: Connection): SubscriptionOptions | undefined {
    return this.#groups.get(name, connection)
  }

  /**
   * Joins a group, for a SUBSCRIBE or when the session resumes. Resolves to the code of SUBACK when every PUBLISH
   * from now on may come to the member. No Retained Messages (MQTT 5 section 4.8.2). The session is written first,
   * then the group: a node that dies in between leaves a subscription that joins its group with the next
   * connection.
   * @param resumes the session resumes: when joining is refused its subscription stays
   */
  async join(
    connection: Connection,
    name: string,
    options: SubscriptionOptions,
    resumes = false,
  ): Promise<number> {
    const { session, lasting } = connection
    const { groups, hasGroups } = this.#host.plane()
    if (!hasGroups || session === undefined) return ReasonCode.sharedSubscriptionsNotSupported
    const memberships = connection.outbound.groups
    const known = memberships.get(name) ?? memberships.revive(name, options)
    const base = session.subscriptions.get(name)?.base ?? known?.base ?? memberships.freeBase(session)
    if (base === undefined) return this.#noMember()
    if (known !== undefined) known.options = options
    const member = known ?? memberships.add(name, session, lasting, base, options)
    const isNew = this.#groups.set(name, connection, options)
    if (isNew) this.#bounds.added(connection, name)
    try {
      await Promise.all([
        isNew ? this.#host.plane().addMember(name) : undefined,
        lasting
          ? this.#host.plane().sessions.subscribe(session, name, { ...storedOptions(options), base })
          : undefined,
      ])
      await groups.join(member)
    } catch (error) {
      if (!(error instanceof BridgeError) || error.code !== 'ERR_BRIDGE_QUOTA') throw error
      await this.leave(connection, name)
      if (lasting && !resumes) await this.#host.plane().sessions.unsubscribe(session, [name])
      return this.#noMember()
    }
    // it left, or unsubscribed, meanwhile
    if (connection.isClosed || memberships.get(name) !== member) await groups.leave(member, false)
    return options.qos
  }

  leave(connection: Connection, name: string): Promise<void> | undefined {
    if (!this.#groups.delete(name, connection)) return undefined
    this.#bounds.removed(connection, name)
    this.#host.plane().removeMember(name)
    const member = connection.isClosed ? undefined : connection.outbound.groups.leave(name)
    return member === undefined ? undefined : this.#host.plane().groups.leave(member, true)
  }

  /**
   * Its connection is over: what it had of groups and did not acknowledge goes to others, before its session
   * is nobody's.
   */
  async leaveAll(connection: Connection): Promise<void> {
    const { groups } = this.#host.plane()
    const members = [...(connection.outbound.knownGroups?.all() ?? [])]
    await Promise.all(members.map((member) => groups.leave(member, false)))
  }

  /** Settles when it is stored, where the group proves to have a backlog; false: no member is here. */
  deliver(message: Message, name: string): boolean | Promise<void> {
    const member = this.#groups.pick(name, message)
    if (member === undefined) return false
    const { subscriber, options } = member
    // The publisher's table knew of no backlog: the message is put into it here.
    if (message.qos > 0 && options.qos > 0 && subscriber.lasting)
      return this.#host.plane().groups.push(message, [name])
    const { qos, retainAsPublished, identifier } = options
    this.#host.give(message, subscriber, {
      subscriber,
      qos,
      retainAsPublished,
      identifiers: identifier === undefined ? undefined : [identifier],
      noLocal: false, // [MQTT-3.8.3-4]
      own: undefined,
      since: undefined,
      queued: 'no',
    })
    return true
  }

  #noMember(): number {
    this.#host.refused('group-members')
    return ReasonCode.quotaExceeded
  }
}
