// A client's membership in a group (Shared Subscription) while it is connected here: what the group gave it,
// under Packet Identifiers of its own block, and what the client acknowledges. State: {s<n>}:members and
// given (bridge/groups/groups.ts); here a mirror of what is in flight. Invariant: nothing is sent under an
// identifier that the client has not freed [MQTT-2.2.1-3..4]. Bounds: the block, and bytes: beyond them the
// group gives it nothing more.
import {
  groupIds,
  type Delivery,
  type GroupHolder,
  type GroupWrites,
  type LeftDelivery,
  type Message,
} from '../../bridge/index.ts'
import { PacketType } from '../protocol/control-packets.ts'
import type { SubscriptionOptions } from '../routing/local-table.ts'

interface InFlight {
  readonly seq: number
  readonly message: Message | undefined
  readonly qos: 0 | 1 | 2
  readonly dup: boolean
  state: 'waiting' | 'sent' | 'received' | 'done'
}

/** What a member needs of its connection. */
export interface MemberHost {
  /** There is something to write. */
  schedule(member: GroupMember): void
  /** A message waits to be sent. */
  waits(): void
  pubrel(id: number): void
  /** A delivery that counted against Receive Maximum is over. */
  over(): void
  /** The client is behind. */
  isSlow(): boolean
  /** Of all that is in flight of the member: beyond it nothing more is given. */
  readonly bytesMax: number
}

export class GroupMember implements GroupHolder {
  readonly name: string
  readonly sid: string
  readonly owner: string
  readonly lasting: boolean
  readonly base: number
  readonly #host: MemberHost
  /** As subscribed last. */
  options: SubscriptionOptions
  readonly #inFlight = new Map<number, InFlight>()
  #bytes = 0
  #limit = 0
  #acknowledged: number[] = []
  #received: number[] = []
  #returned: number[] = []
  #isWriting = false
  #whenSettled: (() => void) | undefined
  /** Nothing is sent any more: its connection is over. */
  #isClosed = false
  /** It unsubscribed: what was sent is completed, and nothing else is sent. */
  isLeaving = false
  /** Identifiers that its client has from a group that is gone: nothing is given until they are free. */
  readonly #foreign = new Set<number>()
  /** The group knows it no more: what its client says is written nowhere. */
  #isLost = false

  constructor(
    name: string,
    { sid, owner, lasting, base }: Pick<GroupHolder, 'sid' | 'owner' | 'lasting' | 'base'>,
    options: SubscriptionOptions,
    host: MemberHost,
  ) {
    this.name = name
    this.sid = sid
    this.owner = owner
    this.lasting = lasting
    this.base = base
    this.options = options
    this.#host = host
  }

  get qos(): 0 | 1 | 2 {
    return this.options.qos
  }

  has(id: number): boolean {
    return id >= this.base && id < this.base + groupIds.block
  }

  /** Whether its client may still answer to something. */
  get isBusy(): boolean {
    return this.#inFlight.size > 0
  }

  get kept(): readonly number[] {
    return [...this.#inFlight].flatMap(([id, { seq }]) => [id, seq])
  }

  /** Deliveries that were sent and are not over: Receive Maximum is about them. */
  open = 0

  get limit(): number {
    return this.#limit
  }

  // From the group

  give({ id, seq, qos, message }: Delivery): void {
    if (this.#isLost || message === 'later') return
    if (message === undefined) this.#acknowledged.push(id, seq)
    else if (this.isLeaving || this.#isClosed) this.#returned.push(id, seq)
    else {
      this.#set(id, { seq, message, qos, dup: false, state: 'waiting' })
      this.#host.waits()
      return
    }
    this.#host.schedule(this)
  }

  #set(id: number, delivery: InFlight): void {
    this.#inFlight.delete(id) // what was acknowledged under it stands no more
    this.#inFlight.set(id, delivery)
    if (delivery.message !== undefined) this.#bytes += delivery.message.bytes
  }

  /** QoS 2 of an earlier connection: sent again under its identifier, with DUP [MQTT-4.4.0-1]. */
  resume(left: readonly LeftDelivery[]): void {
    this.#limit = 0
    this.#isLost = false
    for (const [id, { state }] of this.#inFlight)
      if (state === 'sent' || state === 'received') this.#foreign.add(id)
      else this.#inFlight.delete(id)
    for (const { id, seq, qos, message, isReceived } of left) {
      if (message === 'later') continue
      if (message === undefined && !isReceived) {
        this.#acknowledged.push(id, seq)
        continue
      }
      this.#set(id, { seq, message, qos, dup: true, state: 'waiting' })
    }
    this.#host.waits()
    this.#settle()
  }

  /** Another connection has its session, or the group is gone. */
  lost(): void {
    this.#isLost = true
    this.#limit = 0
    this.#acknowledged = []
    this.#received = []
    this.#returned = []
    this.#isWriting = false
    for (const [id, { state }] of this.#inFlight) if (state === 'done') this.#inFlight.delete(id)
    this.#settle()
  }

  takeWrites(): GroupWrites | undefined {
    if (this.#isLost || this.#isWriting) return undefined
    const limit =
      this.#isClosed ||
      this.isLeaving ||
      this.#foreign.size > 0 ||
      this.#host.isSlow() ||
      this.#bytes > this.#host.bytesMax
        ? 0
        : groupIds.block
    const count = this.#acknowledged.length + this.#received.length + this.#returned.length
    if (count === 0 && limit === this.#limit) return undefined
    this.#isWriting = true
    this.#limit = limit
    const writes = {
      limit,
      acknowledged: this.#acknowledged,
      received: this.#received,
      returned: this.#returned,
    }
    this.#acknowledged = []
    this.#received = []
    this.#returned = []
    return writes
  }

  unwritten({ acknowledged, received, returned }: GroupWrites): void {
    this.#isWriting = false
    this.#acknowledged = [...acknowledged, ...this.#acknowledged]
    this.#received = [...received, ...this.#received]
    this.#returned = [...returned, ...this.#returned]
  }

  written({ acknowledged, received }: GroupWrites): void {
    this.#isWriting = false
    for (let i = 0; i < acknowledged.length; i += 2) {
      const delivery = this.#inFlight.get(acknowledged[i]!)
      if (delivery !== undefined && delivery.seq === acknowledged[i + 1] && delivery.state === 'done')
        this.#inFlight.delete(acknowledged[i]!)
    }
    for (let i = 0; i < received.length; i += 2) {
      const delivery = this.#inFlight.get(received[i]!)
      if (
        delivery !== undefined &&
        !this.#isClosed &&
        delivery.seq === received[i + 1] &&
        delivery.state === 'received'
      )
        this.#host.pubrel(received[i]!) // it was written down before [MQTT-4.3.3-5]
    }
    this.#host.schedule(this)
    this.#settle()
  }

  // To the client

  /** What is to be sent next, in its order. */
  *waiting(): Generator<readonly [id: number, delivery: Readonly<InFlight>]> {
    for (const entry of this.#inFlight) if (entry[1].state === 'waiting') yield entry
  }

  /** It was sent, or the client cannot take it (`qos` undefined) and it counts as done, or it is of QoS 0. */
  sent(id: number, qos: 0 | 1 | 2 | undefined): void {
    const delivery = this.#inFlight.get(id)
    if (delivery === undefined) return
    this.open++
    delivery.state = delivery.message === undefined ? 'received' : 'sent'
    if (qos === undefined || qos === 0) this.#done(id, delivery)
  }

  #done(id: number, delivery: InFlight): void {
    delivery.state = 'done'
    if (delivery.message !== undefined) this.#bytes -= delivery.message.bytes
    this.open--
    if (this.#isLost || this.#foreign.delete(id)) {
      this.#inFlight.delete(id)
      this.#host.schedule(this)
    } else {
      this.#acknowledged.push(id, delivery.seq)
      this.#host.schedule(this)
    }
    this.#host.over()
  }

  /** Undefined: nothing is in flight under the identifier. */
  mayAnswer(type: number, id: number): boolean | undefined {
    const delivery = this.#inFlight.get(id)
    if (delivery?.state === 'received') return type !== PacketType.puback
    if (delivery?.state !== 'sent') return undefined
    return type === (delivery.qos === 2 ? PacketType.pubrec : PacketType.puback)
  }

  /** PUBACK, PUBCOMP, or a PUBREC that refuses [MQTT-4.8.2-6]. */
  complete(id: number): boolean {
    const delivery = this.#inFlight.get(id)
    if (delivery?.state !== 'sent' && delivery?.state !== 'received') return false
    this.#done(id, delivery)
    return true
  }

  /** PUBREC: written down before PUBREL is sent. False: nothing is in flight under the identifier. */
  received(id: number): boolean {
    const delivery = this.#inFlight.get(id)
    if (delivery === undefined) return false
    const isUnwritten = this.#isLost || this.#foreign.has(id)
    if (delivery.state === 'received' || (isUnwritten && delivery.state === 'sent')) {
      delivery.state = 'received'
      this.#host.pubrel(id)
      return true
    }
    if (delivery.state !== 'sent') return false
    delivery.state = 'received'
    this.#received.push(id, delivery.seq)
    this.#host.schedule(this)
    return true
  }

  /** UNSUBSCRIBE: what was not sent goes to others, what was sent is completed [MQTT-3.10.4-3]. */
  leave(): void {
    this.isLeaving = true
    this.#returnUnsent()
  }

  #returnUnsent(): void {
    for (const [id, { state, dup, seq, message }] of this.#inFlight) {
      if (state !== 'waiting' || dup) continue
      this.#inFlight.delete(id)
      if (message !== undefined) this.#bytes -= message.bytes
      if (!this.#isLost) this.#returned.push(id, seq)
    }
    this.#host.schedule(this)
  }

  /** It subscribed again, while something was in flight. */
  revive(options: SubscriptionOptions): void {
    this.options = options
    this.isLeaving = false
  }

  /** What was not sent goes to others, QoS 2 too: nobody else knows that it was not. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#returnUnsent()
  }

  /**
   * Resolves when what the client said before the end of its connection is written down, what was not sent has gone back,
   * and the member is given nothing more.
   */
  settled(): Promise<void> {
    return new Promise((resolve) => {
      this.#whenSettled = resolve
      this.#settle()
    })
  }

  #settle(): void {
    if (this.#whenSettled === undefined || this.#isWriting) return
    const toWrite = this.#acknowledged.length + this.#received.length + this.#returned.length
    if (!this.#isLost && (toWrite > 0 || this.#limit !== 0)) this.#host.schedule(this)
    else this.#whenSettled()
  }
}
