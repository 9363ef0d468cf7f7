// Who gets a message that was published here: this node's own subscribers, the inboxes of nodes with live
// subscribers, the queues of sessions. State: none; the table is the routing table of the moment. A batch is
// handed on twice: ahead of its barrier to whom the table has by then, behind it to whom the barrier brought
// (bridge/publish/batches.ts keeps the order). Nobody gets what a client handed in whose session is taken: it is not
// acknowledged here, and comes again, or came, elsewhere.
import type { Links } from '../links/links.ts'
import type { Message } from '../messages/message.ts'
import type { Receiver } from '../options.ts'
import type { Queues } from './queues.ts'
import type { Retained } from '../retained/retained.ts'
import type { RoutingTable, Targets } from '../routes/routing-table.ts'
import { isBacklogged, workedOff } from '../pace/backlog.ts'
import { Slice } from '../pace/turns.ts'

/** A batch that live subscribers have: by which table, and what to wait for until it is stored for them. */
export interface Handed {
  readonly table: RoutingTable
  readonly version: number
  readonly targets: Targets[]
  readonly stored: Set<Promise<unknown>>
}

/**
 * Retained, of a client that had moved on before it was stored: it was not, so that nobody is told of it live
 * either.
 */
const isLeftOut = ({ retain, stamp, from }: Message): boolean =>
  retain && stamp === undefined && from?.isTaken === true

export class FanOut {
  readonly #nodeId: string
  readonly #receiver: Receiver
  readonly #table: () => RoutingTable
  readonly #links: Links
  readonly #queues: Queues
  readonly #retained: Retained

  constructor(
    nodeId: string,
    receiver: Receiver,
    table: () => RoutingTable,
    links: Links,
    queues: Queues,
    retained: Retained,
  ) {
    this.#nodeId = nodeId
    this.#receiver = receiver
    this.#table = table
    this.#links = links
    this.#queues = queues
    this.#retained = retained
  }

  /** QoS 0: at once, and once. */
  qos0(message: Message): void {
    this.#receiver.deliver(message)
    for (const nodeId of this.#table().match(message.topic).qos0) {
      if (nodeId !== this.#nodeId) this.#links.to(nodeId).pushQos0(message)
    }
  }

  /**
   * Ahead of the barrier: to the live subscribers that the table has by now. None of them is too many: who
   * unsubscribed meanwhile is sorted out by the node that it is connected to. Queues wait for the barrier,
   * since nobody sorts them out, and so does a batch with a Retained Message: who subscribes while that is
   * being stored must get it live or stored, and would get it neither way if it was handed on before it was
   * stored (R1).
   */
  async distribute(batch: readonly Message[]): Promise<Handed | undefined> {
    return batch.some(({ retain }) => retain) ? undefined : this.#distribute(batch)
  }

  /**
   * In slices, and by one table: once that has changed, the rest waits for the barrier. Otherwise a node
   * whose route came in between would get a later message ahead of the barrier and an earlier one behind it.
   */
  async #distribute(batch: readonly Message[]): Promise<Handed> {
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
      const targets = table.match(message.topic)
      handed.targets.push(targets)
      if (message.qos === 0) this.qos0(message)
      else if (message.from?.isTaken !== true) this.#live(message, targets.everything, handed.stored)
    }
    this.#links.flush()
    return handed
  }

  #live(message: Message, nodeIds: readonly string[], stored: Set<Promise<unknown>>): void {
    this.#receiver.deliver(message)
    this.#toNodes(message, nodeIds, stored)
  }

  #toNodes(message: Message, nodeIds: readonly string[], stored: Set<Promise<unknown>>): void {
    for (const nodeId of nodeIds)
      if (nodeId !== this.#nodeId) stored.add(this.#links.to(nodeId).push(message))
  }

  /**
   * Behind the barrier: to everybody who has not got it. Has handed it on when it resolves, in slices;
   * `stored` settles when it is stored. The sessions of one message are never parted by a slice: its number,
   * once noted, says that all of a partition have it.
   */
  async write(
    batch: readonly Message[],
    ahead: Handed | undefined,
  ): Promise<{ readonly stored: Promise<unknown> }> {
    const told = this.#retained.journalTopics(batch) // before they are handed on: it may change what a stamp says
    const {
      version,
      targets,
      stored,
      table: before,
    } = ahead ?? { version: 0, targets: [], stored: new Set<Promise<unknown>>(), table: undefined }
    if (told !== undefined) stored.add(told)
    const slice = new Slice()
    for (let i = 0; i < batch.length; i++) {
      const message = batch[i]!
      if (isBacklogged()) await workedOff()
      if (slice.isOver) await slice.next()
      const known = targets[i]
      if (message.qos === 0 && known === undefined && !isLeftOut(message)) this.qos0(message)
      if (message.qos === 0 || message.from?.isTaken === true) continue
      const table = this.#table()
      const { everything, sessions } =
        known === undefined || table !== before || table.version !== version
          ? table.match(message.topic)
          : known
      if (everything.length === 0 && sessions.length === 0) message.isUnmatched = true
      if (known === undefined) this.#live(message, everything, stored)
      else if (everything !== known.everything)
        this.#toNodes(
          message,
          everything.filter((nodeId) => !known.everything.includes(nodeId)),
          stored,
        )
      for (const { sid, qos, ownQos } of sessions) {
        const granted = message.origin?.sid === sid ? ownQos : qos
        if (granted > 0) stored.add(this.#queues.push(message, sid, granted))
      }
    }
    return { stored: Promise.all(stored) }
  }
}
