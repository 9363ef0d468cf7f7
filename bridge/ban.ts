// Who may not connect, wherever in the cluster: Client Identifiers, users, addresses and networks. Each store keeps
// them its own way, and tells each node within a second of a change. No state.

export const banKinds = ['client', 'user', 'network'] as const
export type BanKind = (typeof banKinds)[number]

export interface Ban {
  readonly kind: BanKind
  /** A Client Identifier, a user, an address or a network. */
  readonly name: string
  readonly reason: string
  /** Infinity: for ever. Of `performance.now()`, since no two machines agree on the time. */
  readonly endsAt: number
}

/** More are refused: every node has all of them in memory. */
export const bansMax = 10_000

/** What a store lets do about bans. @throws BridgeError when it does not answer */
export interface BanChanges {
  list(): Promise<readonly Ban[]>
  /** From now on, in place of what was known of the same. @returns false: there are `bansMax` */
  add(kind: BanKind, name: string, reason: string, seconds: number | undefined): Promise<boolean>
  /** @returns false: there was none */
  remove(kind: BanKind, name: string): Promise<boolean>
}

export interface Bans extends BanChanges {
  /** Hears all bans whenever they changed, in place of who heard before. @returns resolves when it was told the first ones, or the store does not answer */
  hear(changed: (bans: readonly Ban[]) => void): Promise<void>
  close(): void
}
