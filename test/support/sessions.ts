// Sessions of clients that are away, written into Redis where thousands are wanted: nodes that start then know
// them from the snapshot.
import type { Redis } from 'ioredis'
import { freshSid, type Keys } from '../../bridge/redis/keys.ts'
import { formatOf } from '../../bridge/redis/layout.ts'
import { encodeSubscription } from '../../bridge/sessions/stored-subscription.ts'

/** So many with one subscription each. Resolves to their sids. */
export async function plantSessions(
  redis: Redis,
  keys: Keys,
  partition: number,
  count: number,
  filter: string,
  { options, expirySeconds = -1 }: { options: number; expirySeconds?: number },
): Promise<string[]> {
  const pipeline = redis.pipeline().set(keys.bus('format'), formatOf(keys), 'NX')
  const sids = Array.from({ length: count }, () => freshSid(partition))
  for (const sid of sids) {
    pipeline.hset(keys.partition(partition, 'clients'), `planted ${sid}`, sid)
    pipeline.hset(keys.partition(partition, 'owners'), sid, '')
    pipeline.hset(
      keys.session(sid, 'session'),
      'client',
      `planted ${sid}`,
      'epoch',
      1,
      'expiry',
      expirySeconds,
    )
    pipeline.hset(
      keys.session(sid, 'subscriptions'),
      filter,
      encodeSubscription({ options, identifier: undefined }),
    )
  }
  await pipeline.exec()
  return sids
}

/** Groups with a backlog, each with a member that is away. Resolves to what they are called. */
export async function plantGroups(
  redis: Redis,
  keys: Keys,
  partition: number,
  names: readonly string[],
): Promise<string[]> {
  const pipeline = redis.pipeline().set(keys.bus('format'), formatOf(keys), 'NX')
  const gids = names.map(() => `${freshSid(partition)}g`)
  for (const [i, name] of names.entries()) {
    pipeline.hset(keys.partition(partition, 'groups'), name, `${gids[i]} 1`)
    // no session's sid: an audit would look for its subscription
    pipeline.hset(keys.group(gids[i]!, 'members'), 'planted', '2 1 0 50000 128 0 0 0 0 0')
  }
  await pipeline.exec()
  return gids
}
