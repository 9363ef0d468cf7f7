// A SUBSCRIBE or UNSUBSCRIBE on its way through Aedes: handed to it a filter at a time, in slices. SUBACK:
// Aedes answers each filter, protocol/split-request.ts joins the answers, aedes-packets.ts hands the whole to
// the connection. What our bounds refuse, and shared filters, are answered here before Aedes; what Aedes
// registers and takes out comes back through its `mq` and goes on to the router. State: the subscription that
// Aedes noted and registers next, in the same turn.
import type { ISubscribePacket, IUnsubscribePacket, Packet } from 'mqtt-packet'
import {
  isShared,
  isValidFilter,
  ownFilter,
  sharedFilterOf,
  Slice,
  tenantOf,
  type Tenant,
} from '../../bridge/index.ts'
import {
  Trap,
  type AedesClient,
  type AedesStream,
  type AedesSubscription,
  type PacketListener,
  type Noted,
} from './aedes-client.ts'
import type { EngineHost } from './engine-host.ts'
import { writePacket } from './aedes-packets.ts'
import { Connection } from '../connection/connection.ts'
import type { SubscriptionOptions } from '../routing/local-table.ts'
import { Refusal, type Answer, type AskedSubscription } from '../access/gate.ts'
import { limits } from '../config/limits.ts'
import { hex, ReasonCode, reasonOf } from '../protocol/reason-codes.ts'
import { PacketType } from '../protocol/control-packets.ts'
import { SplitRequest } from '../protocol/split-request.ts'

type SubscribePart = ISubscribePacket & Packet

const tooLate = new Refusal(ReasonCode.implementationSpecificError, 'the decision before was too late', {
  isLate: true,
})

/** Its filter as it is called outside the tenant of its client. */
function enter(part: SubscribePart | IUnsubscribePacket, tenant: Tenant): void {
  if (part.cmd === 'unsubscribe') part.unsubscriptions[0] = tenant.filter(part.unsubscriptions[0]!)
  else part.subscriptions[0]!.topic = tenant.filter(part.subscriptions[0]!.topic)
}

/** Whether a filter is one of the tenant of whoever subscribes, whatever a hook made of it. */
export const isOwn = (filter: string, { tenant }: Connection): boolean => tenantOf(filter) === tenant?.name

const isSubscribe = (packet: Packet): packet is SubscribePart => packet.cmd === 'subscribe'

function askedOf({ subscriptions: [subscription] }: SubscribePart): AskedSubscription {
  const { topic, qos, nl, rap, rh } = subscription!
  return {
    filter: topic,
    qos,
    noLocal: nl === true,
    retainAsPublished: rap === true,
    retainHandling: (rh ?? 0) as 0 | 1 | 2,
  }
}

export class Subscribes {
  readonly #host: EngineHost
  readonly #passToAedes: (client: AedesClient, packet: Packet) => void
  #noted: Noted | undefined
  readonly #note = (noted: Noted): void => {
    this.#noted = noted
  }

  /** @param passToAedes gives Aedes a packet */
  constructor(host: EngineHost, passToAedes: (client: AedesClient, packet: Packet) => void) {
    this.#host = host
    this.#passToAedes = passToAedes
  }

  /** What Aedes notes as the connection's subscriptions is ours to see. */
  watch(stream: AedesStream): void {
    stream.subscriptions = Object.create(null) as Record<string, AedesSubscription>
    stream.client.subscriptions = new Proxy(stream.subscriptions, new Trap(stream, this.#note))
  }

  /**
   * In slices, and no more at once than Redis is asked for in one go. Meanwhile nothing else of the
   * connection goes to Aedes but its end.
   */
  async onPacket(client: AedesClient, frame: Buffer): Promise<void> {
    const parts = new SplitRequest(frame, client.version)
    const slice = new Slice()
    const { connection } = client.conn
    const { gate } = this.#host
    const { subscribe } = gate
    /** Those that the gate decides, in their order. */
    const asked: (readonly [SubscribePart, Answer<AskedSubscription | Refusal>])[] = []
    let filters = 0
    let isLate = false
    const decide = async (): Promise<void> => {
      const [part, answer] = asked.shift()!
      const decided = await answer
      isLate ||= decided instanceof Refusal && decided.isLate
      this.#decided(client, part, decided, ++filters)
    }
    const isHeard = gate.subscribed !== undefined || gate.unsubscribed !== undefined || this.#host.traces.isOn
    if (isHeard) connection.answering = { isSubscribe: frame[0]! >> 4 === PacketType.subscribe, filters: [] }
    const { tenant } = connection
    for (const part of parts) {
      if (tenant !== undefined) enter(part, tenant)
      connection.answering?.filters.push(
        isSubscribe(part) ? part.subscriptions[0]!.topic : part.unsubscriptions[0]!,
      )
      if (parts.isFull) await parts.room()
      if (slice.isOver) await slice.next()
      if (asked.length >= limits.decisionsMax) await decide()
      if (client.closed) return
      if (!isSubscribe(part)) this.#passToAedes(client, part)
      else {
        if (connection.inbound.isForeignBridge)
          // nothing of its own comes back, and RETAIN as published
          Object.assign(part.subscriptions[0]!, { nl: true, rap: true })
        if (subscribe === undefined) this.#subscribe(client, part, ++filters)
        // After one late decision the rest is refused at once: a packet has room for 60,000 filters.
        else asked.push([part, isLate ? tooLate : subscribe(askedOf(part), connection)])
      }
    }
    while (asked.length > 0 && !client.closed) await decide()
  }

  #decided(
    client: AedesClient,
    part: SubscribePart,
    decided: AskedSubscription | Refusal,
    count: number,
  ): void {
    if (client.closed) return
    if (decided instanceof Refusal) return this.#refuse(client, part, decided.reasonCode, decided.reason)
    const { filter, qos, noLocal, retainAsPublished, retainHandling } = decided
    if (!isValidFilter(ownFilter(filter)) || !isOwn(filter, client.conn.connection))
      return this.#refuse(client, part, ReasonCode.topicFilterInvalid)
    const subscription = { topic: filter, qos, nl: noLocal, rap: retainAsPublished, rh: retainHandling }
    Object.assign(part.subscriptions[0]!, subscription)
    this.#subscribe(client, part, count)
  }

  #subscribe(client: AedesClient, part: SubscribePart, count: number): void {
    const refused = this.#refusal(client.conn.connection, part.subscriptions[0]!.topic, count)
    if (refused !== undefined) this.#refuse(client, part, refused)
    else if (isShared(part.subscriptions[0]!.topic)) this.#share(client, part)
    else this.#passToAedes(client, part)
  }

  /** Aedes refuses a Shared Subscription: it only notes it, for UNSUBSCRIBE and the end of the connection. */
  #share(client: AedesClient, part: SubscribePart): void {
    const { connection } = client.conn
    const { topic: name, qos, rap } = part.subscriptions[0]!
    const identifier = part.properties?.subscriptionIdentifier
    client.conn.subscriptions[name] = { qos, rap: rap === true, si: identifier, func: connection }
    this.#host
      .share(connection, name, { qos, noLocal: false, retainAsPublished: rap === true, identifier })
      .then(
        (granted) => {
          if (granted >= 0x80) {
            delete client.conn.subscriptions[name]
            this.#refuse(client, part, granted)
          } else if (!client.closed) this.#answer(client, part, granted)
        },
        (error: unknown) => client.emit('error', error),
      )
  }

  /** As Aedes would. */
  #refuse(
    client: AedesClient,
    part: SubscribePart,
    reasonCode: number,
    why = reasonOf(reasonCode) ?? '',
  ): void {
    const { traces } = this.#host
    if (traces.isOn)
      traces.client('refused', client.conn.connection.clientId, {
        filter: part.subscriptions[0]!.topic,
        code: hex(reasonCode),
        why,
      })
    this.#answer(client, part, client.version === 5 ? reasonCode : 0x80) // [MQTT-3.9.3-2]
  }

  #answer(client: AedesClient, { messageId }: SubscribePart, granted: number): void {
    writePacket({ cmd: 'suback', messageId: messageId!, granted: [granted] }, client.conn, client.version)
  }

  /** What SUBACK says of a filter that the connection may not have; it is the `count`th of its packet. */
  #refusal(connection: Connection, filter: string, count: number): number | undefined {
    if (isShared(filter) && sharedFilterOf(filter) === undefined) return ReasonCode.topicFilterInvalid // [MQTT-4.8.2-1]
    const cause =
      count > this.#host.config.subscribeFiltersMax
        ? 'subscribe-filters'
        : this.#host.refusalOf(connection, filter)
    if (cause === undefined) return undefined
    this.#host.refused(cause)
    return cause.startsWith('topic-') ? ReasonCode.topicFilterInvalid : ReasonCode.quotaExceeded
  }

  /** Aedes' `mq`: subscriptions of clients are the data plane's, its own ($SYS) the control plane's. */
  mq(): unknown {
    const on = (_topic: string, listener: PacketListener, done?: () => void): void => {
      const noted = this.#noted
      this.#noted = undefined
      if (noted?.listener !== listener)
        done?.() // Aedes' own: takeovers, wills and dead nodes are the bridge's
      else
        this.#host
          .subscribe(
            noted.connection,
            noted.filter,
            optionsOf(noted.subscription),
            wantsReplay(noted.connection.client as AedesStream, noted.filter, noted.subscription),
          )
          .then(
            () => done?.(),
            (error: unknown) => noted.connection.client.fail(error as Error),
          )
    }
    const removeListener = (filter: string, whose: PacketListener | Connection, done?: () => void): void => {
      // A new subscription to the same filter takes the place of the old one: it is noted by now, and
      // registered next.
      const left =
        whose instanceof Connection && this.#noted?.filter !== filter
          ? this.#host.unsubscribe(whose, filter)
          : undefined
      if (left === undefined) {
        if (done !== undefined) setImmediate(done)
      } else left.then(done, (error: unknown) => this.#host.onError(error as Error))
    }
    return { on, removeListener, close: (done: () => void) => setImmediate(done), current: 0 }
  }

  /** Emitted by Aedes after the SUBACK. */
  answered(subscriptions: readonly { topic: string }[], client: AedesClient): void {
    const { conn: stream } = client
    for (const { topic: filter } of subscriptions) {
      const subscription = client.subscriptions[filter]
      if (subscription !== undefined && wantsReplay(stream, filter, subscription))
        this.#host.replay(stream.connection, filter)
      stream.isNew?.delete(filter)
    }
    if (stream.isNew?.size === 0) stream.isNew = undefined
  }
}

/** [MQTT-3.3.1-9..11] */
const wantsReplay = ({ isNew }: AedesStream, filter: string, { rh }: AedesSubscription): boolean =>
  rh !== 2 && (rh !== 1 || isNew?.get(filter) === true)

export const optionsOf = ({ qos, nl, rap, si }: AedesSubscription): SubscriptionOptions => ({
  qos,
  noLocal: nl === true,
  retainAsPublished: rap === true,
  identifier: si,
})
