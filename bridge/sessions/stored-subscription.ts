// A stored subscription: its bytes in {s<n>}:subscriptions, and what the journal says of it. No state.
import type { Change, Later } from '../messages/codec.ts'
import { laterOption, SessionOption } from './session-options.ts'

export interface StoredSubscription {
  readonly options: number
  /** Subscription Identifier; undefined when it has none. */
  readonly identifier: number | undefined
}

export const encodeSubscription = ({ options, identifier }: StoredSubscription): string =>
  identifier === undefined ? String(options) : `${options} ${identifier}`

/** undefined: damaged; `later`: with more than this version knows of. */
export function decodeSubscription(text: string): StoredSubscription | Later | undefined {
  const [, options, identifier, more] = /^(\d{1,9})(?: (\d+))?( .*)?$/.exec(text) ?? []
  if (options === undefined) return undefined
  if (more !== undefined || Number(options) >= laterOption || (Number(options) & SessionOption.qos) === 3)
    return 'later'
  return { options: Number(options), identifier: identifier === undefined ? undefined : Number(identifier) }
}

/** What the journal must say of a stored subscription: only one with QoS ≥ 1 has a queue behind it. */
export const journaled = (sid: string, filter: string, options: number | undefined): Change => ({
  type: 'session',
  sid,
  filter,
  options: options === undefined || (options & SessionOption.qos) === 0 ? undefined : options,
})
