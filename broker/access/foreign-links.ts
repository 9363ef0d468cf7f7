// Links that ask somebody else who a client is: whoever signs tokens, a webhook. Here they are made from the
// configuration. State: that of the links.
import type { Link } from './chain.ts'
import { jwtLink, type TokenField } from './jwt-link.ts'
import { FileKeys, UrlKeys, type KeySource } from './key-source.ts'
import type { LinkName } from './link-names.ts'
import type { TokenAlgorithm } from './token-keys.ts'
import type { Principal } from './principal.ts'
import { Tokens } from './jwt.ts'
import { Webhook, type DecidedBy, type whenDownPolicies } from './webhook.ts'
import { webhookLink } from './webhook-link.ts'

/** The options that are for them. */
export interface ForeignOptions {
  readonly jwtKeyFile?: string | undefined
  readonly jwtKeysUrl?: string | undefined
  readonly jwtKeysRefreshSeconds: number
  readonly jwtAlgorithms: readonly TokenAlgorithm[]
  readonly jwtIssuer?: string | undefined
  readonly jwtAudience?: string | undefined
  readonly jwtFrom: TokenField
  readonly jwtUserClaim: string
  readonly jwtClientClaim?: string | undefined
  readonly jwtRulesClaim: string
  readonly jwtTenantClaim: string
  readonly tenants: 'off' | 'on'
  readonly jwtLeewaySeconds: number
  readonly jwtLifeSecondsMax?: number | undefined
  readonly webhookUrl?: string | undefined
  readonly webhookTimeoutMs: number
  readonly webhookWhenDown: (typeof whenDownPolicies)[number]
  readonly webhookAllowedSeconds: number
  readonly webhookRefusedSeconds: number
  readonly webhookRequestsMax: number
}

/** The texts of files that options name. */
export interface ForeignFiles {
  readonly jwtKeyFile?: { readonly text: string } | undefined
  readonly webhookSecretFile?: { readonly text: string } | undefined
}

export interface ForeignEvents {
  /** Whom a link asks has answered, or has not: then this is why. */
  onAnswer(link: LinkName, problem: string | undefined): void
  /** How the webhook, or what is remembered of it, decided about a client. */
  onDecided(by: DecidedBy): void
  /** A key of tokens was taken away at its URL: not everybody may still be who he was. */
  onKeyTaken(): void
}

export class ForeignLinks {
  readonly #links = new Map<LinkName, Link>()
  #fileKeys: FileKeys | undefined
  #urlKeys: UrlKeys | undefined
  readonly #tokens: Tokens | undefined
  readonly #webhook: Webhook | undefined
  #webhookSecret: string | undefined

  constructor(options: ForeignOptions, events: ForeignEvents) {
    const keys = this.#keySourceOf(options, events)
    if (keys !== undefined) {
      this.#tokens = tokensOf(options, keys)
      this.#links.set('jwt', jwtLink(this.#tokens, options.jwtFrom))
    }
    this.#webhook = this.#webhookOf(options, events)
    if (this.#webhook !== undefined) this.#links.set('webhook', webhookLink(this.#webhook))
  }

  #keySourceOf(options: ForeignOptions, events: ForeignEvents): KeySource | undefined {
    const { jwtKeyFile, jwtKeysUrl, jwtKeysRefreshSeconds } = options
    if (jwtKeyFile !== undefined) return (this.#fileKeys = new FileKeys())
    if (jwtKeysUrl === undefined) return undefined
    return (this.#urlKeys = new UrlKeys(jwtKeysUrl, jwtKeysRefreshSeconds * 1_000, {
      onKeys: (problem) => events.onAnswer('jwt', problem),
      onTaken: () => events.onKeyTaken(),
    }))
  }

  #webhookOf(options: ForeignOptions, events: ForeignEvents): Webhook | undefined {
    const { webhookUrl: url } = options
    if (url === undefined) return undefined
    return new Webhook(
      {
        url,
        secret: () => this.#webhookSecret,
        timeoutMs: options.webhookTimeoutMs,
        whenDown: options.webhookWhenDown,
        allowedMs: options.webhookAllowedSeconds * 1_000,
        refusedMs: options.webhookRefusedSeconds * 1_000,
        requestsMax: options.webhookRequestsMax,
        hasTenants: options.tenants === 'on',
      },
      { onAnswer: (problem) => events.onAnswer('webhook', problem), onDecided: (by) => events.onDecided(by) },
    )
  }

  /** A client of this principal is connected, or is not any more. */
  connected(principal: Principal): void {
    if (principal.by === 'webhook') this.#webhook?.connected(principal)
  }

  left(principal: Principal): void {
    if (principal.by === 'webhook') this.#webhook?.left(principal)
  }

  /** Whether one of them may say what its clients may do. */
  get isEmpty(): boolean {
    return this.#links.size === 0
  }

  linkOf(name: LinkName): Link | undefined {
    return this.#links.get(name)
  }

  /** @param digest of a key that a token was signed with */
  isKeyKnown(digest: string): boolean {
    return this.#tokens?.isKnown(digest) ?? true
  }

  close(): void {
    this.#urlKeys?.close()
  }

  /** What the files say holds from now on; of one that is left out, what it said before. */
  load({ jwtKeyFile, webhookSecretFile }: ForeignFiles): void {
    if (webhookSecretFile !== undefined) this.#webhookSecret = webhookSecretFile.text.trim()
    if (jwtKeyFile !== undefined) this.#fileKeys?.set(jwtKeyFile.text)
    this.#urlKeys?.begin() // the first client does not wait for it
  }
}

const tokensOf = (options: ForeignOptions, keys: KeySource): Tokens =>
  new Tokens(
    {
      algorithms: options.jwtAlgorithms,
      issuer: options.jwtIssuer,
      audience: options.jwtAudience,
      userClaim: options.jwtUserClaim,
      clientClaim: options.jwtClientClaim,
      rulesClaim: options.jwtRulesClaim,
      tenantClaim: options.tenants === 'on' ? options.jwtTenantClaim : undefined,
      leewaySeconds: options.jwtLeewaySeconds,
      lifeSecondsMax: options.jwtLifeSecondsMax,
    },
    keys,
  )
