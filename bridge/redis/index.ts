// Redis as the store of a cluster: what is configured of it, the data plane and the control plane over it,
// and what its errors mean to an operator. The data plane carries the messages and keeps the sessions. The
// control plane (mqemitter-redis) carries what may be missed once: $SYS, and requests from node to node.
import { Backup } from '../backup/backup.ts'
import { written } from '../backup/lines.ts'
import { restore } from '../backup/restore.ts'
import type { Bridge } from '../bridge.ts'
import { Emitter } from '../control/emitter.ts'
import { DataPlane } from '../data-plane.ts'
import { endNode, toBridgeError, type BridgeError, type Ending } from '../errors.ts'
import { explainImport } from '../import/options.ts'
import type { ValuesOf } from '../option.ts'
import type { DataPlaneOptions } from '../options.ts'
import { Waits } from '../pace/waits.ts'
import type { Explained, StoreEvents, StoreKind } from '../store.ts'
import { withoutRedisPassword, withRedisPassword } from './address.ts'
import { adviceOnNodes, adviceOnRedis, healthOfRedis } from './redis-advice.ts'
import { banChanges, RedisBans } from './redis-bans.ts'
import { Keys } from './keys.ts'
import { keysOf } from './layout.ts'
import { redisOptions } from './options.ts'
import { removeOrphans } from './orphans.ts'
import { preflight, refuseOld } from './preflight.ts'
import { Probe } from './probe.ts'
import { ask, connectStock, ping } from './stock-redis.ts'
import { accessChanges, RedisStoredAccess } from './redis-access.ts'

type RedisOptions = ValuesOf<typeof redisOptions>

/** What a data plane is told, and how many CONNECTs may wait. */
type Settings = Omit<DataPlaneOptions, 'onError' | 'waits' | 'reports'> & {
  readonly claimsWaitingMax: number
}

/** @throws BridgeError why Redis cannot be used when it does not answer at start; ERR_BRIDGE_REDIS_TOO_OLD */
async function createBridge(settings: Settings, { onError, reports }: StoreEvents): Promise<Bridge> {
  const waits = new Waits(reports, settings.claimsWaitingMax)
  const options = { ...settings, waits, reports, onError: reportOf(onError, reports) }
  const asked = waits.begin('write') // a Redis that says nothing is named as late as any other wait
  try {
    refuseOld(await ping(options.redis, options.redisTimeoutMs))
  } catch (error) {
    waits.close()
    throw error
  }
  asked.end()
  const emitter = new Emitter(options.redis, options.prefix, options.onError, reports)
  const probe = new Probe(
    { url: options.redis, timeoutMs: options.redisTimeoutMs, onError: options.onError, reports },
    new Keys(options.prefix),
    options.durabilityReplicas,
    waits,
  )
  const address = { url: options.redis, timeoutMs: options.redisTimeoutMs, onError: options.onError, reports }
  const bans = new RedisBans(address, new Keys(options.prefix))
  const storedAccess = new RedisStoredAccess(address, new Keys(options.prefix))
  return {
    emitter,
    bans,
    storedAccess,
    join: async (receiver, ended) => {
      const plane = await DataPlane.start({ ...options, events: emitter }, receiver, ended)
      probe.joined(plane.keys)
      return plane
    },
    probe: () => probe.try(),
    get isStoring() {
      return probe.problem === undefined
    },
    get probeMs() {
      return probe.lastMs
    },
    get waiting() {
      return waits.waiting
    },
    get named() {
      return waits.named
    },
    close: async () => {
      probe.close()
      bans.close()
      storedAccess.close()
      waits.close()
      await new Promise<void>((resolve) => emitter.close(() => resolve()))
    },
  }
}

/** What goes wrong beside what anybody waits for; a bug among it ends the node. */
const reportOf =
  (onError: (error: Error) => void, ending: Ending) =>
  (reason: Error): void => {
    const error = toBridgeError(reason)
    if (error.code === 'ERR_BRIDGE_BUG') endNode(error, ending)
    else onError(error)
  }

const start =
  'Start Redis 7 or later (or `aedes-cluster up`, which brings its own) and check address, password, TLS (rediss:// or redis://) and network'

/** What the answer of a server says about how its address should begin. */
const kinds: readonly (readonly [pattern: RegExp, hint: string])[] = [
  [/cluster support disabled/, 'It is one Redis and no Redis Cluster: name it as redis://host:port'],
  [
    /unknown command .?sentinel/i,
    'It is no Sentinel: name Redis itself as redis://host:port, or the port of its Sentinels (26379)',
  ],
  [
    /^Redis does not answer \(MOVED |\bMOVED \d/,
    'It belongs to a Redis Cluster: name it as redis+cluster://host:port,host:port',
  ],
  [
    /DB index is out of range/,
    'It has fewer databases: choose another number after the address, or raise databases in redis.conf',
  ],
  [
    /it is a Sentinel, which/,
    'Name it with the service that it watches: redis+sentinel://host:26379/mymaster',
  ],
  [
    /No such master with that name/,
    'The Sentinels watch no service of this name: SENTINEL MASTERS says which they do',
  ],
  [/Protocol error, got/, 'It is no Redis: check the port'],
]

function explain({ code, message, remedy }: BridgeError): Explained {
  const kind = kinds.find(([pattern]) => pattern.test(message))
  if (kind !== undefined) return { reason: 'store', option: 'redis', hint: kind[1] }
  switch (code) {
    case 'ERR_BRIDGE_DUPLICATE_NODE':
      return {
        reason: 'duplicate',
        option: 'id',
        hint: 'Give each node its own --id; a node that was killed on another machine may come back under its name when its lease is over',
      }
    case 'ERR_BRIDGE_FORMAT':
      return { reason: 'format', option: 'prefix', hint: remedy }
    case 'ERR_BRIDGE_REPLICAS':
      return { reason: 'store', option: 'durabilityReplicas', hint: remedy }
    case 'ERR_BRIDGE_REDIS_UNREACHABLE':
      return { reason: 'store', option: 'redis', hint: start }
    case 'ERR_BRIDGE_REDIS_REFUSED':
      return {
        reason: 'store',
        option: 'redis',
        hint: message.includes('NOAUTH')
          ? 'Write the password into a file and name it with --redis-password-file'
          : remedy,
      }
    default:
      return { reason: 'store', option: 'redis', hint: remedy === '' ? start : remedy }
  }
}

export const redisStore: StoreKind<RedisOptions> = {
  options: redisOptions,
  isNamed: ({ redis }) => redis !== undefined,
  unused: {
    problem: 'is about Redis, and no Redis is named',
    hint: 'Name it with --redis, or leave this out',
  },
  shownAddress: (text) => (/^\s*(redis|unix)\S*:/i.test(text) ? withoutRedisPassword(text) : undefined),
  of: (given, shared, textOf) => {
    const { id, redis = '', redisPasswordFile, ...options } = given
    const settings: Settings = {
      ...options,
      name: id,
      redis:
        redisPasswordFile === undefined
          ? redis
          : withRedisPassword(redis, textOf('redisPasswordFile').split('\n')[0]!.trim()),
      settings: shared,
    }
    return {
      label: 'redis',
      notice: undefined,
      open: (events) => createBridge(settings, events),
      ping: () => ping(settings.redis, settings.redisTimeoutMs),
      preflight: () => preflight(settings),
      advice: () => adviceOnRedis(settings),
      adviceOnNodes: () => adviceOnNodes(settings),
      health: () => healthOfRedis(settings),
      explain,
      changeBans: (change) =>
        ask(settings.redis, settings.redisTimeoutMs, (redis) =>
          change(banChanges(redis, new Keys(settings.prefix))),
        ),
      changeAccess: (change) =>
        ask(settings.redis, settings.redisTimeoutMs, (redis) =>
          change(accessChanges(redis, new Keys(settings.prefix))),
        ),
      removeOrphans: async () => {
        await ping(settings.redis, settings.redisTimeoutMs)
        const redis = connectStock(settings.redis, '', () => undefined)
        try {
          return await removeOrphans(redis, await keysOf(redis, settings.prefix))
        } finally {
          redis.disconnect()
        }
      },
      backups: {
        take: async (by) => {
          await ping(settings.redis, settings.redisTimeoutMs)
          const redis = connectStock(settings.redis, '', () => undefined)
          const backup = await Backup.of(redis, settings.prefix).catch((error: unknown) => {
            redis.disconnect()
            throw error
          })
          const texts = async function* (): AsyncGenerator<string> {
            try {
              yield* written(backup.lines(), by)
            } finally {
              redis.disconnect()
            }
          }
          return { texts: texts(), counts: backup.counts }
        },
        restore: async (request, ended) => {
          await ping(settings.redis, settings.redisTimeoutMs)
          return restore({ ...settings, onError: () => undefined }, request, ended)
        },
      },
      importer: {
        // a node that imports nothing has no use for the package that reads an old installation
        run: async (request, ended) =>
          (await import('../import/stock-import.ts')).importInstallation({ ...settings, ...request }, ended),
        explain: (error) => explainImport(error, settings.leaseMs),
      },
    }
  },
}
