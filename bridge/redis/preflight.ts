// What would keep a node from starting, or its publishers waiting, found at once and without joining: what
// `check` asks of Redis. Writes nothing but the key of the probe, which its script removes again.
import { BridgeError, toBridgeError } from '../errors.ts'
import { Keys } from './keys.ts'
import { lookFor } from '../membership/membership.ts'
import { formatOf, partitionsIn } from './layout.ts'
import type { DataPlaneOptions } from '../options.ts'
import { mastersOf, type Redis } from './redis.ts'
import { refuseDenied } from './redis-rights.ts'
import { runLoaded } from './scripts.ts'
import { ask, ping } from './stock-redis.ts'

export type PreflightOptions = Pick<
  DataPlaneOptions,
  'redis' | 'prefix' | 'name' | 'redisTimeoutMs' | 'leaseMs' | 'durabilityReplicas'
>

/** The oldest Redis with what we use: functions of scripts' first line, XADD NOMKSTREAM. */
const redisMajorMin = 7

/** @throws BridgeError ERR_BRIDGE_REDIS_TOO_OLD; a version that nobody may ask for passes */
export function refuseOld(version: string): void {
  if (Number.parseInt(version, 10) < redisMajorMin)
    throw new BridgeError('ERR_BRIDGE_REDIS_TOO_OLD', `Redis ${version} is older than ${redisMajorMin}.0`)
}

/** All that is wrong; nothing when a node of these options would start, and store. */
export async function preflight(options: PreflightOptions): Promise<BridgeError[]> {
  const { redis: url, redisTimeoutMs } = options
  try {
    refuseOld(await ping(url, redisTimeoutMs))
    return await ask(url, redisTimeoutMs, async (redis) => {
      const keys = new Keys(options.prefix)
      const checks = [
        probe(redis, keys),
        replicas(redis, options.durabilityReplicas),
        layout(redis, keys),
        nameIsFree(redis, keys, options),
      ]
      const found = await Promise.all(checks.map((check) => check.then(() => undefined, toBridgeError)))
      const errors = found.filter((error) => error !== undefined)
      // a user without rights meets each of them
      return errors.filter(({ code }, i) => errors.findIndex((other) => other.code === code) === i)
    })
  } catch (error) {
    return [toBridgeError(error)]
  }
}

/** That Redis stores what a script writes, and lets us do the rest. */
async function probe(redis: Redis, keys: Keys): Promise<void> {
  await refuseDenied(redis, keys)
  await runLoaded(redis, 'probe', [keys.bus('probe')], [])
}

/** That each master has as many replicas as must have a message. */
async function replicas(redis: Redis, wanted: number): Promise<void> {
  if (wanted === 0) return
  for (const master of mastersOf(redis)) {
    const connected = Number(/connected_slaves:(\d+)/.exec(await master.info('replication'))?.[1] ?? 0)
    if (connected < wanted)
      throw new BridgeError(
        'ERR_BRIDGE_REPLICAS',
        `a master of Redis has ${connected} of ${wanted} replicas: nothing would be acknowledged`,
      )
  }
}

/** That the data are of the layout that this version knows. */
async function layout(redis: Redis, keys: Keys): Promise<void> {
  const written = await redis.get(keys.bus('format'))
  if (written !== null && partitionsIn(written) === undefined)
    throw new BridgeError(
      'ERR_BRIDGE_FORMAT',
      `the data are in format ${written}, this version knows format ${formatOf(keys)}`,
    )
}

/** That no boot of this name is alive, by the rule of node-join.lua. */
async function nameIsFree(redis: Redis, keys: Keys, { name, leaseMs }: PreflightOptions): Promise<void> {
  const nodeId = await redis.hget(keys.bus('names'), name)
  if (nodeId === null) return
  const [info, lease, [seconds]] = await Promise.all([
    redis.hget(keys.bus('nodes'), nodeId),
    redis.hget(keys.bus('leases'), nodeId),
    redis.time(),
  ])
  const renewed = Number(/:(\d+)$/.exec(lease ?? '')?.[1] ?? 0) / 1_000 // µs
  if (info === null || Number(seconds) * 1_000 - renewed >= leaseMs || lookFor(info) === 'ended') return
  throw new BridgeError('ERR_BRIDGE_DUPLICATE_NODE', `${nodeId} is live`)
}
