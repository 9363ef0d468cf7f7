// The bridge's errors as the operator's: which option they are about, and what to do.
import { withoutRedisPassword, type BridgeError } from '../bridge/index.ts'
import { atSource, type Config } from './config/config.ts'
import { OperatorError, type OperatorErrorDetails } from './errors.ts'

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
    'It has fewer databases: choose another number behind the address, or raise databases in redis.conf',
  ],
  [/Protocol error, got/, 'It is no Redis: check the port'],
]

const redisOf = ({ redis }: Config): string | undefined =>
  redis === undefined ? undefined : withoutRedisPassword(redis)

function detailsOf(config: Config, error: BridgeError): Omit<OperatorErrorDetails, 'cause'> {
  const kind = kinds.find(([pattern]) => pattern.test(error.message))
  if (kind !== undefined) return { reason: 'redis', field: '--redis', value: redisOf(config), hint: kind[1] }
  switch (error.code) {
    case 'ERR_BRIDGE_DUPLICATE_NODE':
      return {
        reason: 'duplicate',
        field: '--id',
        value: config.id,
        hint: 'Give each node its own --id; a node that was killed on another machine may come back under its name when its lease is over',
      }
    case 'ERR_BRIDGE_FILE':
      return { reason: 'file', field: '--state-file', value: config.stateFile, hint: error.remedy }
    case 'ERR_BRIDGE_FORMAT':
      return { reason: 'format', field: '--prefix', value: config.prefix, hint: error.remedy }
    case 'ERR_BRIDGE_REPLICAS':
      return {
        reason: 'redis',
        field: '--durability-replicas',
        value: config.durabilityReplicas,
        hint: error.remedy,
      }
    case 'ERR_BRIDGE_REDIS_UNREACHABLE':
      return { reason: 'redis', field: '--redis', value: redisOf(config), hint: start }
    case 'ERR_BRIDGE_REDIS_REFUSED':
      return {
        reason: 'redis',
        field: '--redis',
        value: redisOf(config),
        hint: /NOAUTH/.test(error.message)
          ? 'Write the password into a file and name it with --redis-password-file'
          : error.remedy,
      }
    default:
      return {
        reason: 'redis',
        field: '--redis',
        value: redisOf(config),
        hint: error.remedy === '' ? start : error.remedy,
      }
  }
}

export const operatorErrorOf = (config: Config, error: BridgeError): OperatorError =>
  atSource(config, new OperatorError(error.message, { ...detailsOf(config, error), cause: error }))
