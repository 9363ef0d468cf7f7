// Walks every key under a prefix and names those that nothing living reaches: a leak. To be called when
// faults are over and estates are done. Each rule says what keeps a key or a field alive.
import { once } from 'node:events'
import { mastersOf, type Redis } from '../../bridge/redis/redis.ts'
import { connectStock } from '../../bridge/redis/stock-redis.ts'

/** The keys that match a pattern, on all servers. */
export async function allKeys(redis: Redis, match: string): Promise<string[]> {
  if (redis.status !== 'ready') await once(redis, 'ready')
  const found: string[] = []
  for (const master of mastersOf(redis))
    for await (const keys of master.scanStream({ match, count: 1_000 }) as AsyncIterable<string[]>)
      found.push(...keys)
  return found
}

/** What is left over; empty when nothing leaks. */
export async function orphans(url: string, prefix: string): Promise<string[]> {
  const redis = connectStock(url, '', () => undefined)
  try {
    const found: string[] = []
    const nodes = new Set(await redis.hkeys(`${prefix}:{bus}:nodes`))
    const sids = new Set<string>()
    const gids = new Set<string>()
    // the subscriptions of members, by session
    const wanted = new Map<string, Set<string>>()
    // publishers whose session has ended, until nothing of them can be under way
    const forgotten = new Set<string>()
    for (let p = 0; p < 16; p++) {
      const owners = await redis.hgetall(`${prefix}:{s${p}}:owners`)
      for (const member of await redis.zrange(`${prefix}:{s${p}}:due`, 0, -1))
        if (member.startsWith('f:')) forgotten.add(member.slice(2))
      for (const [name, entry] of Object.entries(await redis.hgetall(`${prefix}:{s${p}}:groups`))) {
        const gid = entry.split(' ')[0]!
        gids.add(gid)
        const members = await redis.hgetall(`${prefix}:{s${p}}:members:${gid}`)
        if (Object.keys(members).length === 0) found.push(`group ${name} has no member`)
        for (const [sid, record] of Object.entries(members)) {
          const [, lasting, state, owner = ''] = /^\d ([01]) ([012]) (?:\d+ ){6}(.*)$/.exec(record) ?? []
          if (lasting === undefined) found.push(`group ${name} has a damaged member ${sid}`)
          if (lasting === '1') wanted.set(sid, (wanted.get(sid) ?? new Set()).add(name))
          if (state !== '0' && !nodes.has(owner.split(' ')[0]!))
            found.push(`group ${name} has a member at ${owner}, which is not alive`)
        }
      }
      const clients = new Set(Object.values(await redis.hgetall(`${prefix}:{s${p}}:clients`)))
      for (const [sid, owner] of Object.entries(owners)) {
        sids.add(sid)
        if (owner === '?') continue // messages wait for it, for two leases, and then go
        if (!clients.has(sid)) found.push(`session ${sid} has no client`)
        if (owner !== '' && !nodes.has(owner.split(' ')[0]!))
          found.push(`session ${sid} is owned by ${owner}, which is not alive`)
      }
      for (const sid of clients)
        if (owners[sid] === undefined) found.push(`a client has session ${sid}, which does not exist`)
    }
    for (const [sid, names] of wanted) {
      const has = new Set(
        await redis.hkeys(`${prefix}:{s${Number.parseInt(sid[0]!, 16)}}:subscriptions:${sid}`),
      )
      for (const name of names)
        if (!has.has(name)) found.push(`group ${name} has a member ${sid}, which is none`)
    }
    for (const key of await allKeys(redis, `${prefix}:*`))
      found.push(
        ...(await orphan(
          redis,
          key.slice(prefix.length + 1),
          key,
          nodes,
          new Set([...sids, ...gids]),
          forgotten,
        )),
      )
    return [...new Set(found)]
  } finally {
    redis.disconnect()
  }
}

async function orphan(
  redis: Redis,
  name: string,
  key: string,
  nodes: ReadonlySet<string>,
  sids: ReadonlySet<string>,
  forgotten: ReadonlySet<string>,
): Promise<string[]> {
  const [, tag, noun, id] = /^\{([^}]+)\}:([a-z]+)(?::(.*))?$/.exec(name) ?? []
  if (tag === undefined || noun === undefined) return [`${key} is not ours`]
  if (tag === 'bus') {
    if (noun === 'routes') return nodes.has(id!) ? [] : [`${key}: no such node`]
    if (noun === 'leases' || noun === 'batches')
      return (await redis.hkeys(key))
        .filter((node) => !nodes.has(node))
        .map((node) => `${key}: ${node} is not alive`)
    return noun === 'dead'
      ? (await redis.smembers(key)).map((node) => `the estate of ${node} is not done`)
      : []
  }
  if (tag.startsWith('inbox:')) return nodes.has(tag.slice(6)) ? [] : [`${key}: no such node`]
  if (tag.startsWith('r')) return []
  if (id !== undefined) return sids.has(id) ? [] : [`${key}: no such session`]
  switch (noun) {
    case 'appended':
    case 'calls':
      return (await redis.hkeys(key))
        .filter((node) => !nodes.has(node))
        .map((node) => `${key}: ${node} is not alive`)
    case 'published':
      return (await redis.hkeys(key))
        .map((field) => field.replace(/^(retained|group):/, ''))
        .filter((sid) => !sids.has(sid) && !forgotten.has(sid))
        .map((sid) => `${key}: no session ${sid}`)
    case 'wills':
      return (await redis.hkeys(key))
        .filter((will) => !sids.has(will.replace(/^tak(en|ing):/, '').split(':')[0]!))
        .map((will) => `${key}: ${will} belongs to no session`)
    case 'due': {
      const retained = new Set(await redis.hkeys(key.replace(/:due$/, ':retained')))
      const known = (member: string): boolean =>
        member.startsWith('f:') ||
        (member.startsWith('r:') ? retained.has(member.slice(2)) : sids.has(member.split(':')[1]!))
      return (await redis.zrange(key, 0, -1))
        .filter((member) => !known(member))
        .map((member) => `${key}: ${member} belongs to no session and no Retained Message`)
    }
    default:
      return []
  }
}
