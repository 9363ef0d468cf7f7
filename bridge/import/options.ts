// What may be configured about a move of an old installation into the cluster. No state.
import { z } from 'zod'
import type { BridgeError } from '../errors.ts'
import type { Option } from '../option.ts'
import type { Explained } from '../store.ts'
import { redisAddressProblem, withoutRedisPassword } from '../redis/address.ts'
import { ping } from '../redis/stock-redis.ts'

const answerMs = 2_000

/** Where the old installation stands. */
export const importSource = {
  options: {
    from: {
      schema: z.string('is missing').superRefine((text, context) => {
        const problem = /^(rediss?|unix):/.test(text) ? redisAddressProblem(text) : 'is not a Redis address'
        if (problem !== undefined) context.addIssue({ code: 'custom', message: problem })
      }),
      about: 'the Redis of the old installation',
      shape: 'url',
      secret: true,
      printed: withoutRedisPassword,
      hint: 'Name the Redis of the old installation: --from redis://127.0.0.1:6379, rediss:// or unix:///path',
    },
    fromPrefix: {
      schema: z.string().default(''),
      about: 'what its keys begin with, when they do (keyPrefix of its ioredis connection)',
      shape: 'text',
      secret: true,
      hint: 'Write the keyPrefix of its ioredis connection',
    },
  } satisfies Record<string, Option>,
  /** Whether it answers. @throws BridgeError */
  ping: (from: string): Promise<unknown> => ping(from, answerMs),
  awayHint: 'Start Redis and check address, password and network',
  targetHint: 'Name the Redis of the cluster: --redis redis://127.0.0.1:6379',
  again: 'Run it again: what was moved is not moved twice',
} as const

/** What an error of a move means to an operator. */
export function explainImport({ code, remedy }: BridgeError, leaseMs: number): Explained {
  if (code === 'ERR_BRIDGE_DUPLICATE_NODE')
    return {
      reason: 'duplicate',
      option: 'prefix',
      problem: 'another import runs, or one was killed a moment ago',
      hint: `Wait ${leaseMs / 1_000} seconds and run it again`,
    }
  if (code === 'ERR_BRIDGE_FORMAT') return { reason: 'format', option: 'prefix', hint: remedy }
  return { reason: 'store', option: 'redis', hint: importSource.again }
}

/** The options that name where it is moved to, beside those of every store, and what the help says of them there. */
export const importTargets = {
  redis: 'the Redis of the cluster',
  redisPasswordFile: 'file that holds its password',
  prefix: 'prefix of the cluster',
} as const
