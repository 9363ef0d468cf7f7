// What may be configured about Redis. No state.
import { z } from 'zod'
import { dayMs, name, positiveMs, whole, type Option } from '../option.ts'
import { redisAddressProblem, withoutRedisPassword } from './address.ts'

export const redisUrl = z.string().superRefine((text, context) => {
  const problem = redisAddressProblem(text)
  if (problem !== undefined) context.addIssue({ code: 'custom', message: problem })
})

export const redisOptions = {
  redis: {
    at: 'redis.url',
    schema: redisUrl.optional(),
    about:
      'the Redis that the nodes share (without it there is one node, which keeps all in memory or in --state-file): redis://, unix:///path, redis+sentinel://host:port,…/service, redis+cluster://host:port,…; rediss is the same over TLS',
    shape: 'url',
    secret: true,
    printed: withoutRedisPassword,
    hint: 'Write redis://host:6379, unix:///run/redis.sock, redis+sentinel://host:26379/mymaster or redis+cluster://host:6379; start one with: aedes-cluster up',
  },
  redisPasswordFile: {
    at: 'redis.passwordFile',
    schema: z.string().optional(),
    about: 'file that holds the Redis password',
    shape: 'file',
    secret: true,
    file: true,
    contentProblem: (text) =>
      text.split('\n')[0]!.trim() === ''
        ? {
            problem: 'names a file whose first line is empty',
            hint: 'Write the password into its first line',
          }
        : undefined,
    needsStore: true,
    hint: 'Name a readable file whose first line is the password: the file, not the password',
  },
  prefix: {
    at: 'redis.prefix',
    schema: name.default('aedes'),
    about: 'what all our keys and channels in Redis begin with; one prefix is one cluster',
    shape: 'name',
    hint: 'Use 1 to 64 letters, digits, dots, dashes or underscores',
  },
  redisTimeoutMs: {
    at: 'redis.timeoutMs',
    schema: positiveMs.default(2_000),
    about: 'time after which a silent Redis counts as away',
    shape: 'ms',
    hint: 'Use a number of milliseconds, from 1 to 86400000',
  },
  leaseMs: {
    at: 'redis.leaseMs',
    schema: whole(3_000, dayMs).default(15_000),
    about:
      'time without a sign of life after which the others may declare this node dead; the same on every node',
    shape: 'ms',
    shared: true,
    hint: 'Use a number of milliseconds, from 3000 to 86400000',
  },
  storedUsers: {
    at: 'access.storedUsers',
    schema: z.enum(['on', 'off'], 'is neither on nor off').default('off'),
    about:
      'whether users that stand in Redis may connect (`aedes-cluster passwd --redis`), on all nodes from the moment that they are added',
    shape: 'on|off',
    needsStore: true,
    hint: 'Use on or off',
  },
  storedRules: {
    at: 'access.storedRules',
    schema: z.enum(['on', 'off'], 'is neither on nor off').default('off'),
    about:
      'whether rules that stand in Redis hold (`aedes-cluster access write --redis`), behind those of files; while there are none everything is denied that no file allows',
    shape: 'on|off',
    needsStore: true,
    hint: 'Use on or off',
  },
  durabilityReplicas: {
    at: 'redis.durabilityReplicas',
    schema: whole(0, 100).default(0),
    about:
      'replicas of Redis that must have a message before it is acknowledged (WAIT); with 0 a failover may lose what was acknowledged just before it; the same on every node',
    shape: 'count',
    shared: true,
    needsStore: true,
    hint: 'Use a whole number: at least as many as may be promoted, or 0',
  },
} as const satisfies Record<string, Option>
