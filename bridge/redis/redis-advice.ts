// What an operator should know of a cluster that works, before it does not: how Redis is set up, whether it
// lets us hear of $SYS, and settings that differ from those of the other nodes. `check` asks it, and a node
// when it starts: of Redis before it joins, of the others after it, so that of two that join at once one sees
// the other. Rights without which a node cannot work are no advice: redis-rights.ts. A Redis that does not tell is
// not complained about: managed ones forbid CONFIG, and some INFO. State: none.
import { endNode, toBridgeError } from '../errors.ts'
import { Keys } from './keys.ts'
import type { DataPlaneOptions } from '../options.ts'
import { isCluster, mastersOf, type Redis } from './redis.ts'
import { channelsOf, deniedTo } from './redis-rights.ts'
import { ask } from './stock-redis.ts'

export type AdviceOptions = Pick<
  DataPlaneOptions,
  'redis' | 'prefix' | 'name' | 'redisTimeoutMs' | 'settings'
>

type Advice = (redis: Redis, keys: Keys, options: AdviceOptions) => Promise<string[]>

/** One line about each thing that should be otherwise in Redis: what it is and what to do. */
export const adviceOnRedis = async (options: AdviceOptions): Promise<string[]> =>
  (await Promise.all([asked(onServers, options), asked(onRights, options)])).flat()

/** One line about each setting that another node has otherwise. */
export const adviceOnNodes = (options: AdviceOptions): Promise<string[]> => asked(onSettings, options)

/** One line about each thing that who looks should hear, and that no start need say. */
export const healthOfRedis = (options: AdviceOptions): Promise<string[]> => asked(onHealth, options)

/** What `advice` says, each line once. */
async function asked(advice: Advice, options: AdviceOptions): Promise<string[]> {
  try {
    const lines = await ask(options.redis, options.redisTimeoutMs, (redis) =>
      advice(redis, new Keys(options.prefix), options),
    )
    return [...new Set(lines)]
  } catch (reason) {
    const error = toBridgeError(reason)
    if (error.code === 'ERR_BRIDGE_BUG') endNode(error)
    return [] // it does not tell; whatever keeps it from working is named where it is needed
  }
}

type Info = ReadonlyMap<string, string>

async function infoOf(master: Pick<Redis, 'info'>): Promise<Info> {
  return new Map(
    (await master.info()).split('\r\n').map((line) => {
      const colon = line.indexOf(':')
      return [line.slice(0, colon), line.slice(colon + 1)]
    }),
  )
}

async function onServers(redis: Redis): Promise<string[]> {
  const infos = await Promise.all(mastersOf(redis).map(infoOf))
  return infos.flatMap((info) => onServer(isCluster(redis), info))
}

/** Clocks that differ by more make logs that cannot be put in order, s. */
const clockSecondsMax = 5
/** Part of maxmemory from which it is nearly full. */
const nearlyFull = 0.8
/** What Redis did last with its files, as INFO has it. */
const lastWrites = ['rdb_last_bgsave_status', 'aof_last_bgrewrite_status', 'aof_last_write_status']

async function onHealth(redis: Redis): Promise<string[]> {
  const lines = await Promise.all(
    mastersOf(redis).map(async (master) => {
      const [info, [seconds]] = await Promise.all([infoOf(master), master.time()])
      const apart = Math.round(Math.abs(Date.now() / 1_000 - Number(seconds)))
      return [
        ...healthIn(info),
        ...(apart > clockSecondsMax
          ? [
              `The clocks of this machine and of Redis are ${apart} s apart: logs cannot be put in order. Set both by NTP`,
            ]
          : []),
      ]
    }),
  )
  return lines.flat()
}

function healthIn(info: Info): string[] {
  const lines = lastWrites
    .filter((name) => ![undefined, 'ok'].includes(info.get(name)))
    .map(
      (name) =>
        `Redis could not write its files (${name} ${info.get(name)}): what it has is lost with its process. Make room on its disk and look at its log`,
    )
  if (info.get('connected_slaves') === '0')
    lines.push(
      'Redis has no replica: what it stores is gone with its machine. Start one (REPLICAOF), and let nodes wait for it: durabilityReplicas',
    )
  const [most, used] = [Number(info.get('maxmemory') ?? 0), Number(info.get('used_memory') ?? 0)]
  if (most === 0)
    lines.push(
      'Redis has no maxmemory: the system ends it when memory runs out, rather than publishers waiting. Set maxmemory to less than the machine has',
    )
  else if (used > nearlyFull * most)
    lines.push(
      `Redis is nearly full (${Math.round((100 * used) / most)} % of maxmemory): publishers wait when it is. Raise maxmemory, or remove what nobody needs: aedes-cluster clients --state disconnected, retained ls`,
    )
  return lines
}

function onServer(asCluster: boolean, info: Info): string[] {
  const lines: string[] = []
  if (!asCluster && info.get('redis_mode') === 'cluster')
    lines.push(
      'Redis is a member of a Redis Cluster: its other members have keys that this one refuses (MOVED). Name it as redis+cluster://host:port,host:port',
    )
  const policy = info.get('maxmemory_policy')
  if (info.get('aof_enabled') === '0')
    lines.push(
      'Redis keeps no append-only file: a restart of it loses what was acknowledged since its last snapshot. Set appendonly yes (CONFIG SET appendonly yes, and in redis.conf)',
    )
  if (policy !== undefined && policy !== 'noeviction')
    lines.push(
      `Redis removes keys of ours when it is full (maxmemory-policy ${policy}): sessions, queued messages, leases. Set maxmemory-policy noeviction`,
    )
  return lines
}

async function onRights(redis: Redis, keys: Keys): Promise<string[]> {
  const {
    onChannels: { refused, lacking },
  } = await deniedTo(redis, keys)
  const without =
    'Without it a node hears nothing of $SYS from the others, and nothing that they ask: the admin API knows this node alone'
  if (lacking.length > 0)
    return [
      `Redis has no command ${lacking.join(', ')}. Take it out of rename-command in redis.conf. ${without}`,
    ]
  if (refused.length === 0) return []
  const [channels, commands] = [channelsOf(keys), refused.join(', ')]
  const rights = refused.map((command) => `+${command.toLowerCase()}`).join(' ')
  return [
    `Redis does not let this user run ${commands} on ${channels.join(', ')}. Give it the rights: ACL SETUSER name ${channels.map((one) => `'&${one}'`).join(' ')} ${rights}. ${without}`,
  ]
}

/**
 * Nodes with other settings. They work together, since fences and numbers do not rest on them, but not as
 * either of them says.
 */
async function onSettings(
  redis: Redis,
  keys: Keys,
  { name, settings = {} }: AdviceOptions,
): Promise<string[]> {
  const nodes = Object.entries(await redis.hgetall(keys.bus('nodes')))
    .map(([nodeId, info]) => [nodeId.slice(0, nodeId.lastIndexOf('@')), info] as const)
    .filter(([other]) => other !== name)
  return nodes.flatMap(([other, info]) =>
    Object.entries(settingsIn(info))
      .filter(([option, value]) => Object.hasOwn(settings, option) && settings[option] !== value)
      .map(
        ([option, value]) =>
          `${option} is ${String(settings[option])} here and ${String(value)} on node ${other}. Give every node the same`,
      ),
  )
}

/** What stands in {bus}:nodes may be of another version, or damaged. */
function settingsIn(info: string): object {
  try {
    return (JSON.parse(info) as { settings?: object }).settings ?? {}
  } catch {
    return {}
  }
}
