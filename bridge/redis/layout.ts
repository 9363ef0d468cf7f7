// How the data in Redis are laid out: the version of the keys, and how many partitions they have. Both are
// fixed when the first node of a cluster writes its first key, and stand in {bus}:format.
import { Keys, partitionsOfCluster } from './keys.ts'
import { isCluster, retrying, type Redis } from './redis.ts'

/**
 * Version of the layout of the keys (P11); each record has one of its own (codec.ts), so that it can change
 * without this one.
 */
export const layoutVersion = 4

/** Entries of the journal that are kept, whoever appends one; a node that sleeps for longer reads the snapshot. */
export const journalLength = 10_000

/** What {bus}:format says of such keys. */
export const formatOf = ({ partitions }: Keys): string => `${layoutVersion}/${partitions}`

/**
 * The keys of a cluster: with as many partitions as its data have, or, where there are none yet, as suit this
 * Redis. Data that were made on one server keep their one partition when they move to a Redis Cluster.
 * @throws BridgeError ERR_BRIDGE_CLOSED
 */
export async function keysOf(redis: Redis, prefix: string): Promise<Keys> {
  const format = await retrying(redis, () => redis.get(new Keys(prefix).bus('format')))
  const partitions = partitionsIn(format ?? '') ?? (await partitionsOf(redis, prefix))
  return new Keys(prefix, partitions ?? (isCluster(redis) ? partitionsOfCluster : 1))
}

/** Undefined: it is not of this version, or damaged. */
export function partitionsIn(format: string): number | undefined {
  const [, version, partitions] = /^(\d+)\/(1|2|4|8|16)$/.exec(format) ?? []
  return Number(version) === layoutVersion ? Number(partitions) : undefined
}

/** By the places that nodes have in the partitions, where the format was lost or damaged; undefined: there are none. */
async function partitionsOf(redis: Redis, prefix: string): Promise<number | undefined> {
  const all = new Keys(prefix, partitionsOfCluster)
  const there = await Promise.all(
    Array.from({ length: partitionsOfCluster }, (_, p) =>
      retrying(redis, () => redis.exists(all.partition(p, 'appended'))),
    ),
  )
  const last = there.lastIndexOf(1)
  return last < 0 ? undefined : last === 0 ? 1 : partitionsOfCluster
}
