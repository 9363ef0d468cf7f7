// Who gets a message that was published here: this node's own subscribers, the inboxes of nodes with live
// subscribers (links/inbox-writer.ts here, links/inbox-reader.ts at the other end), the queues of sessions.
// State: how much is on its way to queues; the table is the routing table of the moment. A batch is handed on
// twice: ahead of its barrier to whom the table has by then, after it to whom the barrier brought
// (bridge/publish/batches.ts keeps the order). What a client published whose session was taken over meanwhile
// is not delivered from here: it is not acknowledged here, and comes again, or came, at the session's owner.
import type { Groups } from '../groups/groups.ts'
import type { Group } from '../groups/group-table.ts'
import { NodePicks } from '../groups/node-picks.ts'
import { BridgeError } from '../errors.ts'
import type { Stored } from '../links/inbox-writer.ts'
import type { Links } from '../links/links.ts'
import type { Share } from '../messages/codec.ts'
import { noTrace, type MessageTrace } from '../messages/message-trace.ts'
import { isTooLate, type Message } from '../messages/message.ts'
import type { Receiver } from '../options.ts'
import { Collected } from './parts.ts'
import { pushedAtOnce, type Queues } from './queues.ts'
import type { Retained } from '../retained/retained.ts'
import type { RoutingTable, SessionTarget, Targets } from '../routes/routing-table.ts'
import { made } from '../matching/making.ts'
import { isBacklogged, workedOff, workOff } from '../pace/backlog.ts'
import { SingleFlight } from '../pace/single-flight.ts'
import { Slice } from '../pace/turns.ts'

/** What `handOnAhead` did with a batch: by which table, to whom, and what is not stored yet. */
export interface Handed {
  readonly table: RoutingTable
  readonly version: number
  readonly targets: Targets[]
  readonly stored: Set<Promise<unknown>>
}

/**
 * A retained message whose client was taken over before it was stored was not stored, so it is not delivered live
 * either.
 */
const isLeftOut = (message: Message): boolean =>
  message.retain && message.stamp === undefined && isTooLate(message)

/** The QoS that a session gets a message with; 0: it is not queued for it. */
const grantedTo = ({ sid, qos, ownQos }: SessionTarget, { by }: Message): number =>
  by?.sid === sid ? ownQos : qos

/** Of a message of a group that was not handed on. */
const nowhere: readonly string[] = []

/** Groups of one message that are served in one go. */
const groupsAtOnce = 100

/** Sessions of one message from which on it counts in `unstored`; a batch of messages to fewer is bounded by itself. */
const countedFrom = 100
/** What is beyond it on its way to queues when the next message is to be handed on: that waits. */
const deliveriesMax = 100_000
const deliveriesBytesMax = 64 * 1024 * 1024
/** Memory of a session among those of a message. */
const deliveryBytes = 120

/** Messages to many sessions, or groups, that are handed on and not stored. */
export interface Unstored {
  /** One for each of them. */
  readonly deliveries: number
  /** What they hold, roughly. */
  readonly bytes: number
}

export interface FanOutParts {
  readonly nodeId: string
  readonly receiver: Receiver
  readonly links: Links
  readonly queues: Queues
  readonly retained: Retained
  readonly groups: Pick<Groups, 'push' | 'collect' | 'rules'>
  /** The routing table of the moment. */
  readonly table: () => RoutingTable
  readonly barrier: () => Promise<void>
  /** A bug: handling one message threw. That message is passed by. */
  readonly onFailed: (error: unknown) => void
}

/** What can be retried was: this boot is over, and what it has not handed on others do. */
const isOver = (error: unknown): boolean => error instanceof BridgeError

/** A promise that is awaited later, with its batch: until then its failure is no unhandled rejection. */
function handled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined)
  return promise
}

export class FanOut {
  readonly #nodeId: string
  readonly #receiver: Receiver
  readonly #trace: MessageTrace
  readonly #links: Links
  readonly #queues: Queues
  readonly #retained: Retained
  readonly #picks: NodePicks
  readonly #groups: Pick<Groups, 'push' | 'collect'>
  readonly #table: () => RoutingTable
  /** The barrier of those that are handed on, for all who ask in one go. */
  readonly #handOver: SingleFlight
  readonly #onFailed: (error: unknown) => void
  #unstored: Unstored = { deliveries: 0, bytes: 0 }
  #whenStored: (() => void) | undefined

  constructor(parts: FanOutParts) {
    const { nodeId, receiver, links, queues, retained, groups, table, barrier, onFailed } = parts
    this.#nodeId = nodeId
    this.#receiver = receiver
    this.#trace = receiver.traces ?? noTrace
    this.#links = links
    this.#queues = queues
    this.#retained = retained
    this.#picks = new NodePicks(groups.rules)
    this.#groups = groups
    this.#table = table
    this.#handOver = new SingleFlight(barrier)
    this.#onFailed = onFailed
  }

  /** QoS 0: at once, and once; in slices where very much matches (bridge/pace/backlog.ts). */
  qos0(message: Message): void {
    const { topic } = message
    const known = isBacklogged() ? undefined : this.#table().known(topic)
    this.#receiver.deliver(message)
    if (known !== undefined && known.groups.length === 0) return this.#qos0ToNodes(message, known)
    const making = this.#table().making(topic)
    let groups: Iterator<Group> | undefined
    workOff((slice) => {
      if (groups === undefined) {
        const targets = known ?? making.goOn(slice)
        if (targets === undefined) return false
        this.#qos0ToNodes(message, targets)
        groups = targets.groups.values()
      }
      for (let next = groups.next(); next.done !== true; next = groups.next()) {
        void this.#toMember(message, { name: next.value.name, visited: nowhere })
        if (slice.isOver) return false
      }
      return true
    })
  }

  #qos0ToNodes(message: Message, targets: Targets): void {
    const { qos0 } = targets
    if (this.#trace.isOn) {
      this.#tellMatched(message, qos0, targets)
      this.#tellSent(message, qos0)
    }
    for (const nodeId of qos0) if (nodeId !== this.#nodeId) this.#qos0ToNode(message, nodeId)
  }

  #qos0ToNode(message: Message, nodeId: string, share?: Share): void {
    const isTaken = this.#links.to(nodeId).pushQos0(message, share)
    if (!isTaken && this.#trace.isOn)
      this.#trace.tell('dropped', message, { nodes: [nodeId], cause: 'slow-node' })
  }

  #tellMatched(message: Message, nodes: readonly string[], { sessions, groups }: Targets): void {
    const facts = { nodes, sids: sessions.map(({ sid }) => sid), groups: groups.map(({ name }) => name) }
    this.#trace.tell('matched', message, facts)
  }

  #tellSent(message: Message, nodes: readonly string[]): void {
    const others = nodes.filter((nodeId) => nodeId !== this.#nodeId)
    if (others.length > 0) this.#trace.tell('sent', message, { nodes: others })
  }

  /** Whom a topic matches: a promise only where that takes several turns. */
  #targetsOf(topic: string, table: RoutingTable, slice: Slice): Targets | Promise<Targets> {
    const known = table.known(topic)
    if (known !== undefined) return known
    const making = table.making(topic)
    return making.goOn(slice) ?? made(making, slice)
  }

  /**
   * Another node sent this message here for one member of a group. The member may have left by now: then the
   * message is handed on, after a barrier, since a member that came before it was published may not be in the table
   * yet (P2). It comes to each node once: whoever is a member all the while gets it.
   * @returns settles when the message is stored elsewhere, and rejects when this boot is over: until then its
   *   entry must not be freed
   * @returns undefined when a member has it, or nobody can
   */
  onShared(message: Message, { name, visited }: Share): Promise<void> | undefined {
    if (this.#trace.isOn) this.#trace.tell('arrived', message, { groups: [name] })
    const delivered = this.#receiver.deliverShared(message, name)
    if (delivered instanceof Promise) return delivered
    if (delivered) return undefined
    const share = { name, visited: [...visited, this.#nodeId] }
    if (message.qos === 0) return void this.#toMember(message, share)
    return this.#handOver.next().then(() => this.handOver(message, share))
  }

  /** The same by the table as it is: what this node, or a dead one, was picked for goes to a member elsewhere. */
  async handOver(message: Message, share: Share): Promise<void> {
    try {
      await this.#toMember(message, share)
    } catch (error) {
      if (isOver(error)) throw error
      this.#onFailed(error) // one message ends no node, and keeps no other from being handed on
    }
  }

  /**
   * Hands a message to a member of a group, which is connected here or elsewhere.
   * @returns false when the table knows no member
   * @returns settles when it is stored for the member's node, or for the group if that has a backlog by now
   * @returns undefined when nothing has to be waited for
   */
  #toMember(message: Message, share: Share): Promise<unknown> | false | undefined {
    const { name, visited } = share
    let without: ReadonlySet<string> = this.#links.out
    // here there may be one again
    if (visited.length > 0) without = new Set([...without, ...visited.filter((id) => id !== this.#nodeId)])
    let picked = this.#pick(message, name, without)
    if (picked === this.#nodeId) {
      const delivered = this.#receiver.deliverShared(message, name)
      if (delivered instanceof Promise) return delivered
      if (delivered) return undefined
      without = new Set([...without, this.#nodeId])
      picked = this.#pick(message, name, without)
    }
    if (picked === undefined) return false
    if (this.#trace.isOn) this.#trace.tell('sent', message, { nodes: [picked], groups: [name] })
    if (message.qos === 0) return void this.#qos0ToNode(message, picked, share)
    return this.#stored(message, share, this.#links.to(picked, visited.length).push(message, share))
  }

  /**
   * The node that was picked may go out before it has the message: another one is picked. Where nobody can say whether
   * it has it, QoS 1 goes to another one, too, and may come twice; QoS 2 is gone with that node, as what it had is.
   */
  async #stored(message: Message, share: Share, pushed: Promise<Stored>): Promise<void> {
    const stored = await pushed
    if (stored === 'no' || (stored === 'unknown' && message.qos === 1)) await this.#toMember(message, share)
  }

  #pick(message: Message, name: string, without: ReadonlySet<string>): string | undefined {
    const group = this.#table().groups.get(name)
    return group === undefined ? undefined : this.#picks.nodeFor(group, message, this.#nodeId, without)
  }

  /**
   * Ahead of the barrier: to the live subscribers that the table has by now. Sending to one that has unsubscribed
   * does no harm: its node drops the message. Three wait for the barrier:
   * - queues, since nobody drops what is in them;
   * - groups: by then the table knows whether one has a backlog, where a message for its lasting members is stored;
   * - a batch with a Retained Message: who subscribes while that is being stored must get it live or stored, and would
   *   get it neither way if it was handed on before it was stored (R1).
   */
  async handOnAhead(batch: readonly Message[]): Promise<Handed | undefined> {
    return batch.some(({ retain }) => retain) ? undefined : this.#handOn(batch)
  }

  /**
   * In slices, and by one table: once that has changed, the rest waits for the barrier. Otherwise a node
   * whose route came in between would get a later message ahead of the barrier and an earlier one after it.
   */
  async #handOn(batch: readonly Message[]): Promise<Handed> {
    const table = this.#table()
    const { version } = table
    const handed: Handed = { table, version, targets: [], stored: new Set() }
    const slice = new Slice()
    for (const message of batch) {
      if (slice.isOver || isBacklogged()) {
        await workedOff()
        await slice.next()
        if (table !== this.#table() || table.version !== version) break
      }
      let targets = this.#targetsOf(message.topic, table, slice)
      if (targets instanceof Promise) {
        targets = await targets
        if (table !== this.#table() || table.version !== version) break
      }
      handed.targets.push(targets)
      if (message.qos === 0) this.qos0(message)
      else if (!isTooLate(message)) this.#live(message, targets.everything, handed.stored)
    }
    this.#links.flush()
    return handed
  }

  #live(message: Message, nodeIds: readonly string[], stored: Set<Promise<unknown>>): void {
    this.#receiver.deliver(message)
    this.#toNodes(message, nodeIds, stored)
  }

  /** In slices: half a million may match. Undefined: it is done. */
  #toGroups(
    message: Message,
    groups: readonly Group[],
    stored: Set<Promise<unknown>>,
    slice: Slice,
  ): Promise<void> | undefined {
    if (groups.length > groupsAtOnce) return this.#toManyGroups(message, groups, stored, slice)
    const backlogs = new Set<string>()
    for (const group of groups) this.#toGroup(message, group, stored, backlogs)
    if (backlogs.size > 0) stored.add(handled(this.#groups.push(message, [...backlogs])))
    if (this.#trace.isOn && backlogs.size > 0) this.#trace.tell('queued', message, { groups: [...backlogs] })
    return undefined
  }

  async #toManyGroups(
    message: Message,
    groups: readonly Group[],
    stored: Set<Promise<unknown>>,
    slice: Slice,
  ): Promise<void> {
    const backlogs = this.#groups.collect(message)
    for (const group of groups) {
      if (slice.isOver) await slice.next()
      this.#toGroup(message, group, stored, backlogs)
    }
    if (!isTooLate(message)) stored.add(this.#counted(groups.length, message, backlogs.push()))
  }

  /** @param backlogs gets the name of one that has a backlog: all of a message are pushed together */
  #toGroup(
    message: Message,
    { name, gid }: Group,
    stored: Set<Promise<unknown>>,
    backlogs: { add(name: string): unknown },
  ): void {
    if (gid !== undefined) return void backlogs.add(name)
    const shared = this.#toMember(message, { name, visited: nowhere })
    if (shared instanceof Promise) stored.add(handled(shared))
  }

  #toNodes(message: Message, nodeIds: readonly string[], stored: Set<Promise<unknown>>): void {
    if (this.#trace.isOn) this.#tellSent(message, nodeIds)
    for (const nodeId of nodeIds)
      if (nodeId !== this.#nodeId) stored.add(this.#links.to(nodeId).push(message))
  }

  /**
   * After the barrier: to everybody who has not got it. Has handed it on when it resolves, in slices;
   * `stored` settles when it is stored.
   */
  async handOnAfter(
    batch: readonly Message[],
    ahead: Handed | undefined,
  ): Promise<{ readonly stored: Promise<unknown> }> {
    const told = this.#retained.journalTopics(batch) // before they are handed on: it may change what a stamp says
    const {
      version,
      targets: handed,
      stored,
      table: before,
    } = ahead ?? { version: 0, targets: [], stored: new Set<Promise<unknown>>(), table: undefined }
    if (told !== undefined) stored.add(told)
    const slice = new Slice()
    for (let i = 0; i < batch.length; i++) {
      const message = batch[i]!
      while (this.#unstored.deliveries > deliveriesMax || this.#unstored.bytes > deliveriesBytesMax)
        await new Promise<void>((resolve) => (this.#whenStored = resolve))
      if (isBacklogged()) await workedOff()
      if (slice.isOver) await slice.next()
      const known = handed[i]
      if (message.qos === 0 && known === undefined && !isLeftOut(message)) this.qos0(message)
      if (message.qos === 0 || isTooLate(message)) continue
      const table = this.#table()
      const isKnown = known !== undefined && table === before && table.version === version
      let targets = isKnown ? known : this.#targetsOf(message.topic, table, slice)
      if (targets instanceof Promise) {
        targets = await targets
        if (isTooLate(message)) continue
      }
      const { everything, sessions, groups } = targets
      if (everything.length + sessions.length + groups.length === 0) message.isUnmatched = true
      if (this.#trace.isOn) this.#tellMatched(message, everything, targets)
      if (known === undefined) this.#live(message, everything, stored)
      else if (everything !== known.everything)
        this.#toNodes(
          message,
          everything.filter((nodeId) => !known.everything.includes(nodeId)),
          stored,
        )
      const toGroups = groups.length === 0 ? undefined : this.#toGroups(message, groups, stored, slice)
      if (toGroups !== undefined) await toGroups
      if (toGroups !== undefined && isTooLate(message)) continue
      if (sessions.length > countedFrom)
        stored.add((await this.#toManyQueues(message, sessions, slice)).stored)
      else this.#toQueues(message, sessions, stored)
    }
    return { stored: Promise.all(stored) }
  }

  #toQueues(message: Message, sessions: readonly SessionTarget[], stored: Set<Promise<unknown>>): void {
    for (const target of sessions) {
      const granted = grantedTo(target, message)
      if (granted > 0) stored.add(this.#queues.push(message, target.sid, granted))
    }
  }

  /** Resolves when they are collected, to when they are stored. */
  async #toManyQueues(
    message: Message,
    sessions: readonly SessionTarget[],
    slice: Slice,
  ): Promise<{ readonly stored: Promise<unknown> }> {
    const stored = new Set<Promise<unknown>>()
    if (sessions.length <= pushedAtOnce) this.#toQueues(message, sessions, stored)
    else {
      const collected = await this.#collected(message, sessions, slice)
      if (!isTooLate(message)) stored.add(this.#queues.pushAll(message, collected))
    }
    return { stored: this.#counted(sessions.length, message, Promise.all(stored)) }
  }

  /** Counts until it is stored. */
  #counted(deliveries: number, { bytes }: Message, stored: Promise<unknown>): Promise<unknown> {
    this.#count(deliveries, bytes)
    const uncounted = stored.finally(() => {
      this.#count(-deliveries, -bytes)
      this.#whenStored?.()
    })
    return handled(uncounted)
  }

  /**
   * In slices: they may be a million. All sessions are collected before the first part is pushed: a part is noted as
   * `n:place`, which says of every session up to that place that it has n.
   */
  async #collected(message: Message, sessions: readonly SessionTarget[], slice: Slice): Promise<Collected> {
    const collected = new Collected()
    for (const target of sessions) {
      if (slice.isOver) await slice.next()
      const granted = grantedTo(target, message)
      if (granted > 0) collected.add(target.sid, granted)
    }
    return collected
  }

  #count(deliveries: number, bytes: number): void {
    const { unstored } = this
    this.#unstored = {
      deliveries: unstored.deliveries + deliveries,
      bytes: unstored.bytes + deliveries * deliveryBytes + bytes,
    }
  }

  /** Bound: `deliveriesMax` and `deliveriesBytesMax`, and one message more. */
  get unstored(): Unstored {
    return this.#unstored
  }
}
