// Who a connection is: what the chain of authentication (chain.ts) found out, and rules (rules.ts) go by. One for each
// connection, replaced when its client authenticates anew. No state.
import type { LinkName } from './link-names.ts'
import type { Rule } from './rule.ts'

/** What the certificate of a client says of it. */
export interface Certificate {
  readonly commonName: string | undefined
  readonly organization: string | undefined
  readonly unit: string | undefined
  /** The first DNS name, e-mail address or URI. */
  readonly alternativeName: string | undefined
  readonly serial: string
  /** SHA-256, hexadecimal digits without colons. */
  readonly fingerprint: string
}

export interface Principal {
  /** A proved name; undefined: none. A name that a client merely states does not count. */
  readonly user: string | undefined
  /** Which link said yes. */
  readonly by: LinkName | undefined
  /**
   * What is kept of the password that it brought; of a token the key that it was signed with; of a webhook the digest by
   * which its answer is remembered.
   */
  readonly kept?: string | undefined
  /** What its token, the webhook or a hook says; where tenants are on it is checked. */
  readonly tenant?: string | undefined
  /** The Client Identifier that it must have. */
  readonly clientId?: string | undefined
  /** What it may do, besides what rules say of everybody. */
  readonly permissions?: readonly Rule[] | undefined
  /** When it ends, ms since 1970: then its connection does, too. */
  readonly expiresAt?: number | undefined
}

/** Of a connection before its CONNECT is accepted, and of one that nobody asked who it is. */
export const nobody: Principal = Object.freeze({ user: undefined, by: undefined })
