// JSON Web Tokens (RFC 7519) as proof of who a client is: whether one is right, and what it says of its owner.
// Which algorithms may have signed it is fixed by options, never by the token; a key serves one family of
// algorithms only; a token without an end is refused, and one that lives for longer than it may. Whom one let
// in goes when its key is taken away. State: none besides that of where the keys come from.
import { decodeProtectedHeader, errors, jwtVerify, type JWTPayload } from 'jose'
import { notAuthenticated } from './chain.ts'
import { Refusal } from './gate.ts'
import type { KeySource } from './key-source.ts'
import type { Principal } from './principal.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'
import { readPermissions } from './rules-file.ts'
import { fittingKeys, type TokenAlgorithm, type TokenKey } from './token-keys.ts'

export interface TokenRules {
  readonly algorithms: readonly TokenAlgorithm[]
  readonly issuer: string | undefined
  /** Undefined: a token that is meant for somebody is not meant for us (RFC 7519, 4.1.3). */
  readonly audience: string | undefined
  /** Claims that hold the user name, the Client Identifier (undefined: it may have any), and rules. */
  readonly userClaim: string
  readonly clientClaim: string | undefined
  readonly rulesClaim: string
  /** Undefined: there are no tenants, and a token may have such a claim for its own use. */
  readonly tenantClaim: string | undefined
  /** What clocks may differ by. */
  readonly leewaySeconds: number
  /** From when it was issued, or from now, to its end; undefined: any time. */
  readonly lifeSecondsMax: number | undefined
}

/** Of a token that names no key: more are not tried. */
const triedMax = 8
/** Of one token: they are asked for each message. */
const rulesMax = 100
const textBytesMax = 65_535

/** Three parts, as a signed token has them: what is none is some other password. */
export const looksLikeToken = (text: string): boolean => /^[\w-]+\.[\w-]+\.[\w-]*$/.test(text)

/** For the log: nothing of the token itself. */
const no = (reason: string): Refusal => notAuthenticated(`its token: ${reason}`)

interface Verified {
  readonly claims: JWTPayload
  readonly key: TokenKey
}

export class Tokens {
  readonly #rules: TokenRules
  readonly #keys: KeySource
  readonly #algorithms: string[]

  constructor(rules: TokenRules, keys: KeySource) {
    this.#rules = rules
    this.#keys = keys
    this.#algorithms = rules.algorithms.flatMap((name) => (name === 'EdDSA' ? ['EdDSA', 'Ed25519'] : [name]))
  }

  /** Who the owner of a token is. */
  async principalOf(token: string): Promise<Principal | Refusal> {
    const verified = await this.#verify(token)
    return verified instanceof Refusal ? verified : this.#principalOf(verified)
  }

  /** Whether the key that a token was signed with is there still; who has none cannot tell. */
  isKnown(digest: string): boolean {
    return this.#keys.known?.has(digest) ?? true
  }

  async #verify(token: string): Promise<Verified | Refusal> {
    const header = headerOf(token)
    if (header?.alg === undefined) return no('it has no header')
    if (!this.#algorithms.includes(header.alg)) return no('its algorithm is none of those that may be')
    const keys = await this.#keys.current()
    if (keys === undefined)
      return new Refusal(ReasonCode.serverUnavailable, 'the keys of tokens cannot be had', {
        isUndecided: true,
      })
    let fitting = fittingKeys(keys, header)
    if (fitting.length === 0) fitting = fittingKeys((await this.#keys.renewed()) ?? [], header)
    if (fitting.length === 0) return no('it is signed with no key that is known here')
    return this.#verifyWith(token, fitting.slice(0, triedMax))
  }

  async #verifyWith(token: string, keys: readonly TokenKey[]): Promise<Verified | Refusal> {
    const { issuer, audience, leewaySeconds, userClaim, clientClaim } = this.#rules
    for (const key of keys) {
      try {
        const { payload } = await jwtVerify(token, key.key, {
          algorithms: this.#algorithms,
          clockTolerance: leewaySeconds,
          requiredClaims: ['exp', userClaim, ...(clientClaim === undefined ? [] : [clientClaim])],
          ...(issuer !== undefined && { issuer }),
          ...(audience !== undefined && { audience }),
        })
        if (audience === undefined && payload.aud !== undefined)
          return no('it is meant for somebody else (aud)')
        return { claims: payload, key }
      } catch (error) {
        if (error instanceof errors.JWSSignatureVerificationFailed) continue
        if (error instanceof errors.JOSEError) return no(error.message)
        throw error
      }
    }
    return no('its signature is wrong')
  }

  #principalOf({ claims, key }: Verified): Principal | Refusal {
    const {
      userClaim,
      clientClaim,
      rulesClaim,
      tenantClaim,
      leewaySeconds,
      lifeSecondsMax = Infinity,
    } = this.#rules
    const now = Date.now() / 1_000
    if (claims.exp! - Math.min(claims.iat ?? now, now) > lifeSecondsMax)
      return no(`it lives for longer than ${lifeSecondsMax} s`)
    const user = textOf(claims[userClaim])
    if (user === undefined) return no(`its claim ${userClaim} is no name`)
    const clientId = clientClaim === undefined ? undefined : textOf(claims[clientClaim])
    if (clientClaim !== undefined && clientId === undefined) return no(`its claim ${clientClaim} is no name`)
    const named = tenantClaim === undefined ? undefined : claims[tenantClaim]
    const tenant = textOf(named)
    if (tenant === undefined && named !== undefined) return no(`its claim ${tenantClaim} is no name`)
    const rules = claims[rulesClaim]
    if (Array.isArray(rules) && rules.length > rulesMax) return no(`it has more than ${rulesMax} rules`)
    const permissions = rules === undefined ? undefined : readPermissions(rules, `token of ${user}`)
    if (rules !== undefined && permissions === undefined)
      return no(`its claim ${rulesClaim} is no list of rules`)
    return {
      user,
      by: 'jwt',
      kept: key.digest,
      expiresAt: (claims.exp! + leewaySeconds) * 1_000,
      ...(clientId !== undefined && { clientId }),
      ...(tenant !== undefined && { tenant }),
      ...(permissions !== undefined && { permissions }),
    }
  }
}

function headerOf(token: string): { readonly alg?: string; readonly kid?: string } | undefined {
  try {
    const { alg, kid } = decodeProtectedHeader(token)
    return { ...(typeof alg === 'string' && { alg }), ...(typeof kid === 'string' && { kid }) }
  } catch {
    return undefined
  }
}

/** What MQTT can have as a text, and a log can show. */
const textOf = (claim: unknown): string | undefined =>
  typeof claim === 'string' &&
  claim !== '' &&
  Buffer.byteLength(claim) <= textBytesMax &&
  !/\p{Cc}/u.test(claim)
    ? claim
    : undefined
