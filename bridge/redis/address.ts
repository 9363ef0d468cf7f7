// Where Redis is, as an operator writes it: one server, the master that Sentinels name, or a Redis Cluster.
//   redis://[user:password@]host[:port][/db] rediss:// the same over TLS unix://[user:password@]/path
//   redis+sentinel://[…@]host[:port],…/service[/db]    the hosts are Sentinels      rediss+sentinel://
//   redis+cluster://[…@]host[:port],…                  some hosts of the cluster    rediss+cluster://

export interface RedisHost {
  readonly host: string
  readonly port: number
}

export interface RedisTarget {
  readonly kind: 'server' | 'socket' | 'sentinel' | 'cluster'
  readonly tls: boolean
  readonly username: string | undefined
  readonly password: string | undefined
  readonly hosts: readonly RedisHost[]
  /** File of a Unix socket, or what stands after the hosts, without its slash. */
  readonly path: string
}

const portOf = { server: 6379, socket: 0, sentinel: 26379, cluster: 6379 } as const
const pattern = /^(redis|rediss|unix)(?:\+(sentinel|cluster))?:\/\/(?:([^/]*)@)?([^/?#]*)(?:\/([^?#]*))?$/

function hostOf(text: string, port: number): RedisHost | undefined {
  const [, bracketed, name, digits] =
    /^(?:\[([0-9a-fA-F:.]+)\]|([^:\s,[\]]+))(?::(\d{1,5}))?$/.exec(text) ?? []
  const host = bracketed ?? name
  const number = digits === undefined ? port : Number(digits)
  return host === undefined || number < 1 || number > 65_535 ? undefined : { host, port: number }
}

/** @returns the target, or what is wrong with the text */
export function parseRedisAddress(text: string): RedisTarget | string {
  const match = pattern.exec(text)
  if (match === null)
    return 'must be a redis://, rediss://, redis+sentinel://, redis+cluster:// or unix:/// address'
  const [, scheme, variant, userinfo, hostText = '', path = ''] = match
  if (scheme === 'unix' && (variant !== undefined || hostText !== '' || path === ''))
    return 'must be unix:///path'
  const kind = scheme === 'unix' ? 'socket' : ((variant ?? 'server') as 'server' | 'sentinel' | 'cluster')
  if (kind !== 'socket' && path.includes('@')) return 'has a / before its @: write %2F for a / in a password'
  const [username, password] = userinfo === undefined ? [undefined, undefined] : split(userinfo)
  const hosts = kind === 'socket' ? [] : hostText.split(',').map((one) => hostOf(one, portOf[kind]))
  if (hosts.some((host) => host === undefined)) return 'must name hosts as host:port'
  if (kind === 'server' && hosts.length !== 1)
    return 'names more than one host: write redis+cluster:// or redis+sentinel://'
  if (kind === 'cluster' && path !== '') return 'must end after the hosts: Redis Cluster has one database'
  const [first, db, ...rest] = path.split('/')
  if (kind === 'sentinel' && (first === '' || rest.length > 0 || !/^\d*$/.test(db ?? '')))
    return 'must name the service after the hosts: redis+sentinel://host:26379/mymaster'
  if (kind === 'server' && !/^\d*$/.test(path)) return 'must end with the number of a database, or nothing'
  return {
    kind,
    tls: scheme === 'rediss',
    username,
    password,
    hosts: hosts as RedisHost[],
    path: kind === 'socket' ? `/${path}` : path,
  }
}

/** What is wrong with an address; undefined when nothing is. */
export function redisAddressProblem(text: string): string | undefined {
  const target = parseRedisAddress(text)
  return typeof target === 'string' ? target : undefined
}

function split(userinfo: string): [string | undefined, string | undefined] {
  const colon = userinfo.indexOf(':')
  const [user, password] =
    colon < 0 ? [userinfo, undefined] : [userinfo.slice(0, colon), userinfo.slice(colon + 1)]
  return [user === '' ? undefined : decode(user), password === undefined ? undefined : decode(password)]
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text // a % that escapes nothing
  }
}

const authority = /^([a-z+]+:\/\/)(?:([^/]*)@)?/

/** The address with this password in it. */
export function withRedisPassword(text: string, password: string): string {
  return text.replace(
    authority,
    (_, scheme: string, userinfo = '') =>
      `${scheme}${(userinfo as string).split(':')[0]!}:${encodeURIComponent(password)}@`,
  )
}

/**
 * The address as it may be shown. Of one that is none, or names a user without a password, nobody knows what
 * is the secret.
 */
export function withoutRedisPassword(text: string): string {
  const target = parseRedisAddress(text)
  if (typeof target === 'string') return '***'
  const known = target.password !== undefined && target.password !== ''
  return text.replace(authority, (whole: string, scheme: string, userinfo: string | undefined) =>
    userinfo === undefined ? whole : known ? `${scheme}${userinfo.split(':')[0]!}:***@` : `${scheme}***@`,
  )
}
