// The admin API where tenants are on: `tenant` of a request says whose the names in it are, and in answers it stands
// beside them; without it who asks sees all tenants. One border for all routes, there and back: they themselves have names
// as they are called outside (bridge/matching/tenant.ts). No state.
import { isTenant, nameIn, ownFilter, ownName, Tenant, tenantOf, tenantOfName } from '../../bridge/index.ts'
import { userIn } from '../access/tenancy.ts'

/** What a request has, as its schema has checked it. */
export interface Asked {
  params: unknown
  query: unknown
  body?: unknown
}

type Names = Record<string, unknown>

/** Names that a request may have. `user` and `address` are looked for in all that is listed. */
const enter: Readonly<Record<string, (tenant: string, own: string) => string>> = {
  clientId: nameIn,
  client: nameIn,
  name: nameIn,
  topic: (tenant, own) => new Tenant(tenant).filter(own),
  filter: (tenant, own) => new Tenant(tenant).filter(own),
}

/** What lists may look for in all tenants. */
const isOfLists = (path: string, key: string): boolean =>
  (path === '/clients' && key === 'client') || (path === '/retained' && key === 'filter')

/** What has no names but of things that are of no tenant. */
const isOfNone = (names: Names): boolean => names.kind === 'network'

/**
 * From here on a request has names as they are called outside.
 * @param path of its route
 * @returns what is wrong with it
 */
export function enterTenant(
  request: Asked,
  method: string,
  path: string,
  areOn: boolean,
): { readonly error: string; readonly hint: string } | undefined {
  const { tenant, ...query } = request.query as Names & { readonly tenant?: string }
  if (tenant !== undefined && !areOn)
    return { error: 'there are no tenants', hint: 'Leave tenant out, or start the nodes with tenants: on' }
  if (!areOn) return undefined
  if (tenant !== undefined && !isTenant(tenant))
    return { error: 'tenant can be none', hint: 'Use 1 to 64 letters, digits, dots, dashes or underscores' }
  const entered = (names: Names): Names | undefined => {
    const own = Object.entries(names)
    const named = own.filter(([key, value]) => Object.hasOwn(enter, key) && typeof value === 'string')
    if (tenant === undefined)
      return isOfNone(names) || named.every(([key]) => method === 'GET' && isOfLists(path, key))
        ? names
        : undefined
    return {
      ...names,
      ...Object.fromEntries(named.map(([key, value]) => [key, enter[key]!(tenant, value as string)])),
      ...(names.kind === 'user' && { name: userIn(tenant, names.name as string) }),
    }
  }
  const all = [request.params, query, request.body].map((names) => entered((names ?? {}) as Names))
  const [params, asked, body] = all
  if (params === undefined || asked === undefined || body === undefined)
    return { error: 'tenant is missing', hint: 'Say whose it is: ?tenant=NAME' }
  request.params = params
  request.query = {
    ...(tenant !== undefined && path === '/clients' && { client: nameIn(tenant, '*') }),
    ...asked,
    tenant,
  }
  if (request.body !== undefined) request.body = body
  return undefined
}

const isInside = (value: unknown): value is string => typeof value === 'string' && value.includes('\0')

/** An answer: names as their tenants have them, and which those are. */
function left(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(left)
  if (isInside(value)) return tenantOf(value) === undefined ? ownName(value) : ownFilter(value)
  if (typeof value !== 'object' || value === null) return value
  const own = Object.entries(value) as [string, unknown][]
  const inside = own.find(([key, one]) => key !== 'payload' && isInside(one))?.[1] as string | undefined
  const tenant = inside === undefined ? undefined : (tenantOf(inside) ?? tenantOfName(inside))
  return {
    ...Object.fromEntries(own.map(([key, one]) => [key, key === 'payload' ? one : left(one)])),
    ...(tenant !== undefined && { tenant }),
  }
}

/** An answer as JSON. A payload is a text, too, which may have U+0000, and is not looked at. */
export function jsonOf(answer: unknown, areOn: boolean): string {
  return JSON.stringify(areOn ? left(answer) : answer)
}
