// A stored subscription: its bytes in {s<n>}:subscriptions, and what the journal says of it. No state.
import type { Change, Later } from '../messages/codec.ts'
import { laterOption, SessionOption } from './session-options.ts'

export interface StoredSubscription {
  readonly options: number
  /** Subscription Identifier; undefined when it has none. */
  readonly identifier: number | undefined
  /** Of a Shared Subscription: the first Packet Identifier of its messages (groups/group-holder.ts). */
  readonly base?: number | undefined
}

export function encodeSubscription({ options, identifier, base }: StoredSubscription): string {
  if (base !== undefined) return `${options} ${identifier ?? 0} ${base}`
  return identifier === undefined ? String(options) : `${options} ${identifier}`
}

/** undefined: damaged; `later`: with more than this version knows of. */
export function decodeSubscription(text: string): StoredSubscription | Later | undefined {
  const [, options, identifier, base, more] = /^(\d{1,9})(?: (\d+)(?: (\d{5}))?)?( .*)?$/.exec(text) ?? []
  if (options === undefined) return undefined
  if (more !== undefined || Number(options) >= laterOption || (Number(options) & SessionOption.qos) === 3)
    return 'later'
  return {
    options: Number(options),
    identifier: identifier === undefined || identifier === '0' ? undefined : Number(identifier),
    ...(base !== undefined && { base: Number(base) }),
  }
}

/** What the journal must say of a stored subscription: only one with QoS ≥ 1 has a queue behind it. */
export const journaled = (sid: string, filter: string, options: number | undefined): Change => ({
  type: 'session',
  sid,
  filter,
  options: options === undefined || (options & SessionOption.qos) === 0 ? undefined : options,
})
