// The replies of the scripts that begin and end sessions, by name: REPLY in redis/lua/session-claim.lua,
// session-release.lua and session-expire.lua. No state.

export interface ClaimReply {
  readonly sid: string
  /** Of the owner that the claim made. */
  readonly epoch: string
  readonly isPresent: boolean
  /** The owner before; empty: nobody. */
  readonly previousOwner: string
  /** The epoch of the known session whose will became due; undefined: none did. */
  readonly willDue: string | undefined
  /** Filter, options … of this session, or of the one that ended. */
  readonly subscriptions: readonly Buffer[]
  /** Packet Identifier, entry … */
  readonly inFlight: readonly Buffer[]
  /** Packet Identifier, n … */
  readonly incoming: readonly Buffer[]
  readonly n: Buffer
  /** The change of its subscriptions that is not journaled; empty: none. */
  readonly pending: string
  /** Field, value … */
  readonly replays: Buffer[]
  /** The last change of its subscriptions; empty: none. */
  readonly changed: string
  /** How many of its subscriptions Redis has lost. */
  readonly lost: number
}

type RawClaim = [
  Buffer,
  Buffer,
  number,
  Buffer,
  Buffer,
  Buffer[],
  Buffer[],
  Buffer[],
  Buffer,
  Buffer,
  Buffer[],
  Buffer,
  number,
]

export function decodeClaim(reply: unknown): ClaimReply {
  const [
    sid,
    epoch,
    present,
    before,
    will,
    subscriptions,
    inFlight,
    incoming,
    n,
    pending,
    replays,
    changed,
    lost,
  ] = reply as RawClaim
  const willDue = will.toString()
  return {
    sid: sid.toString(),
    epoch: epoch.toString(),
    isPresent: present === 1,
    previousOwner: before.toString(),
    willDue: willDue === '0' ? undefined : willDue,
    subscriptions,
    inFlight,
    incoming,
    n,
    pending: pending.toString(),
    replays,
    changed: changed.toString(),
    lost,
  }
}

/** Of session-release and session-expire. */
export interface EndReply {
  /** It was released, or it ended; false: it was not the caller's, or is not due. */
  readonly isDone: boolean
  /** It ended without having been written down again: what it had subscribed to is unknown. */
  readonly isVanished: boolean
  readonly isWillDue: boolean
  /** Filter, options … of a session that ended. */
  readonly subscriptions: readonly Buffer[]
}

export function decodeEnd(reply: unknown): EndReply {
  const [done, willDue, subscriptions] = reply as [number, Buffer, Buffer[]]
  return { isDone: done > 0, isVanished: done === 2, isWillDue: willDue.toString() === '1', subscriptions }
}
