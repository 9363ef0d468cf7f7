// Which tenant a client belongs to (bridge/matching/tenant.ts has what its names become): decided once, when it is proved
// who it is and before its session is claimed. All that name one must name the same: so who has a token of one tenant
// does not come into another by its listener. A server name, which anybody may ask for, names nobody's tenant: it must
// not be another one's. Invariant: a connection never changes its tenant. State: the tenants of this process with
// connections, and what each of them did. Bound: those without connections are forgotten beyond `idleMax`.
import { isTenant, nameIn, Tenant, type BanKind } from '../../bridge/index.ts'
import type { TLSSocket } from 'node:tls'
import { Refusal, type Guard } from './gate.ts'
import type { Certificate, Principal } from './principal.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'

export const tenantSources = ['user', 'certificate', 'sni'] as const
export type TenantSource = (typeof tenantSources)[number]

/** What of a connection names its tenant. */
export interface Tenanted {
  readonly principal: Principal
  readonly certificate: Certificate | undefined
  readonly listener: { readonly tenant?: string | undefined } | undefined
  /** That it asked for in its TLS handshake. */
  readonly serverName: string | undefined
}

/** The server name of a TLS handshake with us. */
export function serverNameOf(socket: object): string | undefined {
  const { servername } = socket as Partial<TLSSocket>
  return typeof servername === 'string' && servername !== '' ? servername : undefined
}

const no = (reason: string): Refusal => new Refusal(ReasonCode.notAuthorized, reason)

/** The name of its tenant. */
export function tenantNameOf(client: Tenanted, from: readonly TenantSource[]): string | Refusal {
  const { principal, listener } = client
  const { user } = principal
  const named: (readonly [by: string, name: string | undefined])[] = [
    ['its listener', listener?.tenant],
    ['who let it in', principal.tenant],
    [
      'its user name',
      from.includes('user') && user?.includes('/') === true ? user.split('/', 1)[0] : undefined,
    ],
    ['its certificate', from.includes('certificate') ? client.certificate?.organization : undefined],
  ]
  const found = named.filter(([, name]) => name !== undefined) as (readonly [string, string])[]
  const [first] = found
  const server = from.includes('sni') ? client.serverName?.split('.', 1)[0] : undefined
  if (first === undefined)
    return no(
      server === undefined
        ? 'it belongs to no tenant'
        : 'its server name alone names its tenant, which is no proof',
    )
  const wrong = found.find(([, name]) => !isTenant(name))
  if (wrong !== undefined)
    return no(`${wrong[0]} names a tenant that can be none: 1 to 64 letters, digits, . _ -`)
  const other = found.find(([, name]) => name !== first[1])
  if (other !== undefined) return no(`${first[0]} and ${other[0]} name two tenants`)
  // host names have no case (RFC 6066 section 3)
  if (server !== undefined && server.toLowerCase() !== first[1].toLowerCase())
    return no(`${first[0]} and its server name name two tenants`)
  return first[1]
}

/** How a user is called in its tenant: what names the tenant itself is left out. */
export const ownUser = (user: string | undefined, tenant: string | undefined): string | undefined =>
  tenant !== undefined && user?.startsWith(`${tenant}/`) === true ? user.slice(tenant.length + 1) : user

/** A user as it is called outside its tenant, whether what it is called by names the tenant or not. */
export const userIn = (tenant: string, user: string): string => nameIn(tenant, ownUser(user, tenant)!)

/** Whom a ban is of, as it is called outside. */
export const bannedIn = (tenant: string | undefined, kind: BanKind, name: string): string => {
  if (tenant === undefined) return name
  return kind === 'user' ? userIn(tenant, name) : nameIn(tenant, name)
}

/** By what users are told apart: of two tenants they are never the same. */
export const userKeyOf = ({
  principal: { user },
  tenant,
}: {
  readonly principal: Principal
  readonly tenant: LiveTenant | undefined
}): string | undefined => {
  if (tenant === undefined || user === undefined) return user
  return userIn(tenant.name, user)
}

/** A tenant that has connections here, or had some. */
export class LiveTenant extends Tenant {
  connections = 0
  /** Messages that its clients published here, and that they were sent. */
  publishes = 0
  deliveries = 0
  #own = ''
  #topic = ''

  /** A client publishes: the topic as it is called outside. */
  published(own: string): string {
    this.publishes++
    // who publishes one thing mostly publishes more of it
    return own === this.#own ? this.#topic : (this.#topic = this.topic((this.#own = own)))
  }
}

/**
 * The second wall: whatever stands before it, a client gets nothing of another tenant. A guard (gate.ts), which is not
 * there where tenants are off.
 */
export const tenantWall: Guard<{ readonly tenant: LiveTenant | undefined }> = {
  forward: (message, { tenant }) => {
    if (tenant?.has(message.topic) !== true) return undefined
    tenant.deliveries++
    return message
  },
}

const idleMax = 1_000

export class Tenants {
  readonly #live = new Map<string, LiveTenant>()

  /** One more connection of it. Undefined: there are `max`. */
  enter(name: string, max = Infinity): LiveTenant | undefined {
    let tenant = this.#live.get(name)
    if (tenant !== undefined && tenant.connections >= max) return undefined
    if (tenant === undefined) {
      if (this.#live.size >= idleMax) this.#forgetIdle()
      this.#live.set(name, (tenant = new LiveTenant(name)))
    }
    tenant.connections++
    return tenant
  }

  leave(tenant: LiveTenant): void {
    tenant.connections--
  }

  #forgetIdle(): void {
    for (const [name, { connections }] of this.#live) if (connections === 0) this.#live.delete(name)
  }

  /** Those with most connections. O(tenants log tenants) */
  most(count: number): readonly LiveTenant[] {
    return [...this.#live.values()].sort((a, b) => b.connections - a.connections).slice(0, count)
  }
}
