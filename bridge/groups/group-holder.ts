// A member of a group whose client is connected here, as the bridge knows it: broker/groups/group-member.ts. No state.
import type { Later } from '../messages/codec.ts'
import type { Message } from '../messages/message.ts'

/**
 * Identifiers of a member of a group: the last quarter of all is for groups, in blocks. What a session has of
 * its own stays below.
 */
export const groupIds = { first: 49_152, block: 128 } as const

/** What a member has to write. */
export interface GroupWrites {
  /** Messages that it takes at once. */
  readonly limit: number
  /** Packet Identifier, number, … of deliveries that are done. */
  readonly acknowledged: readonly number[]
  /** The same of those of which PUBREC came. */
  readonly received: readonly number[]
  /** Of those that were not sent, and go to others. */
  readonly returned: readonly number[]
}

/** A message that the member was given. */
export interface Delivery {
  /** Packet Identifier. */
  readonly id: number
  /** Its number among the messages of the member. */
  readonly seq: number
  /** Granted. */
  readonly qos: 0 | 1 | 2
  /** undefined: damaged; `later`: written by a later version. */
  readonly message: Message | Later | undefined
}

/** What an earlier connection of the session left: QoS 2. */
export interface LeftDelivery extends Omit<Delivery, 'message'> {
  /** undefined: PUBREC came. */
  readonly message: Message | Later | undefined
  readonly isReceived: boolean
}

export interface GroupHolder {
  /** Of its group. */
  readonly name: string
  readonly sid: string
  /** Of its session. */
  readonly owner: string
  /** Granted. */
  readonly qos: 0 | 1 | 2
  /** Its session outlives its connection. */
  readonly lasting: boolean
  /** The first of its identifiers. */
  readonly base: number
  /** Deliveries are unacknowledged. */
  readonly isBusy: boolean
  /** Packet Identifier, number, … of what its client has, or acknowledged a moment ago. */
  readonly kept: readonly number[]
  /** Messages that it takes at once, as it wrote last. */
  readonly limit: number
  /** What to write now; undefined: nothing. The same until `written` or `unwritten` is called. */
  takeWrites(): GroupWrites | undefined
  written(writes: GroupWrites): void
  /** It was refused, and is to be written again. */
  unwritten(writes: GroupWrites): void
  /** It has been given a message: each once, in the order of their numbers. */
  give(delivery: Delivery): void
  /** Its session has this from an earlier connection. */
  resume(left: readonly LeftDelivery[]): void
  /** Its connection is over: resolves when all that it has to write is written. */
  settled(): Promise<void>
  /** No longer a member, or taken over: pending writes are discarded. */
  lost(): void
}
