// Who a connection is: what the chain of authentication (chain.ts) found out. One for each
// connection, replaced when its client authenticates anew. No state.
import type { LinkName } from './link-names.ts'

export interface Principal {
  /** Proved, or of the certificate; undefined: nobody knows. A name that was merely said is none. */
  readonly user: string | undefined
  /** Which link said yes. */
  readonly by: LinkName | undefined
  /** The Client Identifier that it must have. */
  readonly clientId?: string | undefined
  /** When it ends, ms since 1970: then its connection does, too. */
  readonly expiresAt?: number | undefined
}

/** Of a connection before its CONNECT is accepted, and of one that nobody asked who it is. */
export const nobody: Principal = Object.freeze({ user: undefined, by: undefined })
