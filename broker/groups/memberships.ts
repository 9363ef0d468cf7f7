// The groups that one connection is a member of: which identifiers belong to which, and what is sent next, as
// its window has room. State: its members. Bound: as many groups as there are blocks of identifiers.
import { groupIds, type GroupHolder, type Message, type Session } from '../../bridge/index.ts'
import type { SubscriptionOptions } from '../routing/local-table.ts'
import { GroupMember } from './group-member.ts'

const blocks = Math.floor((65_536 - groupIds.first) / groupIds.block)

/** What memberships need of their connection. */
export interface MembershipsHost {
  /** Messages that may be sent to the client now, besides those of groups that are in flight; 0: it is behind. */
  room(): number
  isSlow(): boolean
  readonly inFlightBytesMax: number
  /** CONNACK is written, and it is not over. */
  isReady(): boolean
  /** Writes a PUBLISH; its QoS, or undefined when the client cannot take it and it counts as delivered. */
  write(
    message: Message,
    id: number,
    qos: 0 | 1 | 2,
    dup: boolean,
    member: GroupMember,
  ): 0 | 1 | 2 | undefined
  pubrel(id: number): void
  failed(error: unknown): void
  schedule(holder: GroupHolder): void
  /** A delivery is over: there is room for others. */
  over(): void
}

export class Memberships {
  readonly #host: MembershipsHost
  readonly #members = new Map<string, GroupMember>()
  /** Those that unsubscribed, while something is in flight. */
  readonly #leaving = new Set<GroupMember>()
  #isPumping = false

  constructor(host: MembershipsHost) {
    this.#host = host
  }

  get(name: string): GroupMember | undefined {
    return this.#members.get(name)
  }

  *all(): Generator<GroupMember> {
    yield* this.#members.values()
    yield* this.#leaving
  }

  /** Deliveries in flight: Receive Maximum is about them, too. */
  get open(): number {
    let open = 0
    for (const member of this.all()) open += member.open
    return open
  }

  /** A block of identifiers that nothing has; undefined: there are as many groups as may be. */
  freeBase(session: Session): number | undefined {
    const taken = new Set<number>()
    for (const { base } of session.subscriptions.values()) if (base !== undefined) taken.add(base)
    for (const { base } of this.all()) taken.add(base)
    for (let block = 0; block < blocks; block++) {
      const base = groupIds.first + block * groupIds.block
      if (!taken.has(base)) return base
    }
    return undefined
  }

  /** @param base of its identifiers */
  add(
    name: string,
    session: Session,
    lasting: boolean,
    base: number,
    options: SubscriptionOptions,
  ): GroupMember {
    const member = new GroupMember(name, { sid: session.sid, owner: session.owner, lasting, base }, options, {
      schedule: (holder) => this.#host.schedule(holder),
      waits: () => this.pump(),
      pubrel: (id) => this.#host.pubrel(id),
      over: () => {
        this.#host.over()
        this.pump()
      },
      isSlow: () => this.#host.isSlow(),
      bytesMax: this.#host.inFlightBytesMax,
    })
    this.#members.set(name, member)
    return member
  }

  /** It subscribes again: what it has in flight goes on. */
  revive(name: string, options: SubscriptionOptions): GroupMember | undefined {
    for (const member of this.#leaving) {
      if (member.name !== name) continue
      this.#leaving.delete(member)
      this.#members.set(name, member)
      member.revive(options)
      return member
    }
    return undefined
  }

  /** UNSUBSCRIBE. */
  leave(name: string): GroupMember | undefined {
    const member = this.#members.get(name)
    if (member === undefined) return undefined
    this.#members.delete(name)
    member.leave()
    if (member.isBusy) this.#leaving.add(member)
    return member
  }

  /** Sends what waits, a member after the other, in the order of each. */
  pump(): void {
    if (this.#isPumping || !this.#host.isReady()) return
    this.#isPumping = true
    try {
      for (const member of this.all())
        for (const [id, { message, qos, dup }] of member.waiting()) {
          if (this.#host.room() - this.open <= 0) return
          if (message === undefined) {
            member.sent(id, 2)
            this.#host.pubrel(id)
          } else member.sent(id, this.#write(message, id, qos, dup, member))
        }
    } finally {
      this.#isPumping = false
    }
  }

  #write(
    message: Message,
    id: number,
    qos: 0 | 1 | 2,
    dup: boolean,
    member: GroupMember,
  ): 0 | 1 | 2 | undefined {
    try {
      return this.#host.write(message, id, qos, dup, member)
    } catch (error) {
      this.#host.failed(error)
      return undefined
    }
  }

  /** There may be room, or no more: members say what they take. */
  roomChanged(): void {
    for (const member of this.all()) this.#host.schedule(member)
    this.pump()
  }

  #of(id: number): GroupMember | undefined {
    if (id < groupIds.first) return undefined
    for (const member of this.all()) if (member.has(id)) return member
    return undefined
  }

  /** Whether a client may answer with such a packet; undefined: the identifier is none of a group. */
  mayAnswer(type: number, id: number): boolean | undefined {
    return this.#of(id)?.mayAnswer(type, id)
  }

  /** False: nothing of a group is in flight under the identifier. */
  complete(id: number): boolean {
    const member = this.#of(id)
    const isIts = member?.complete(id) === true
    if (member?.isLeaving === true && !member.isBusy) this.#leaving.delete(member)
    return isIts
  }

  /** PUBREC. False: nothing of a group is in flight under the identifier. */
  received(id: number): boolean {
    return this.#of(id)?.received(id) === true
  }

  close(): void {
    for (const member of this.all()) member.close()
  }

  async settled(): Promise<void> {
    await Promise.all([...this.all()].map((member) => member.settled()))
  }
}
