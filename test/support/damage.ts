// What may be wrong with a key in Redis, by its type: for the tests of damaged data.
import type { Redis } from 'ioredis'

export type Damage = 'lost' | 'wrong type' | 'garbage' | 'set back' | 'set ahead' | 'truncated' | 'absurd'

/** A text with its last number changed. */
const renumbered = (text: string, change: (number: number) => number): string =>
  text.replace(/(\d+)(\D*)$/, (_, digits: string, rest: string) => change(Number(digits)).toFixed(0) + rest)

async function renumber(
  redis: Redis,
  key: string,
  type: string,
  change: (number: number) => number,
): Promise<void> {
  if (type === 'string') await redis.set(key, renumbered((await redis.get(key)) ?? '0', change))
  if (type === 'hash')
    for (const [field, value] of Object.entries(await redis.hgetall(key)))
      await redis.hset(key, field, renumbered(value, change))
  if (type === 'zset')
    for (const member of await redis.zrange(key, 0, -1))
      await redis.zadd(key, change(Number(await redis.zscore(key, member))), member)
}

/** Each value by another. */
async function rewritten(
  redis: Redis,
  key: string,
  type: string,
  change: (value: Buffer) => Buffer,
): Promise<void> {
  if (type === 'string') await redis.set(key, change((await redis.getBuffer(key)) ?? Buffer.alloc(0)))
  if (type === 'hash')
    for (const [field, value] of Object.entries(await redis.hgetallBuffer(key)))
      await redis.hset(key, field, change(value))
  if (type === 'list')
    for (const [i, value] of (await redis.lrangeBuffer(key, 0, -1)).entries())
      await redis.lset(key, i, change(value))
  if (type === 'zset')
    for (const member of await redis.zrange(key, 0, -1))
      await redis
        .multi()
        .zrem(key, member)
        .zadd(key, 0, member.slice(0, member.length >> 1))
        .exec()
  if (type === 'stream') await redis.xtrim(key, 'MAXLEN', (await redis.xlen(key)) >> 1)
}

export const damages: Readonly<
  Record<Damage, (redis: Redis, key: string, type: string) => Promise<unknown>>
> = {
  lost: (redis, key) => redis.del(key),
  'wrong type': (redis, key, type) =>
    type === 'string' ? redis.multi().del(key).rpush(key, 'x').exec() : redis.set(key, 'x'),
  garbage: async (redis, key, type) => {
    const text = Buffer.from([0x67, 0, 0xff, 0xc3, 0x28])
    if (type === 'string') await redis.set(key, text)
    if (type === 'hash')
      for (const field of [...(await redis.hkeys(key)), 'garbage']) await redis.hset(key, field, text)
    if (type === 'set') await redis.sadd(key, text)
    if (type === 'zset')
      for (const member of ['garbage', 'e:garbage', 'w:garbage', 'r:garbage', 'f:garbage', 'e:'])
        await redis.zadd(key, 0, member)
    if (type === 'list') await redis.lpush(key, text)
    if (type === 'stream') await redis.xadd(key, '*', 'garbage', text)
  },
  'set back': async (redis, key, type) => {
    await renumber(redis, key, type, (number) => Math.min(1, number))
    if (type === 'set') await redis.spop(key)
    if (type === 'list') await redis.rpop(key)
    if (type === 'stream') await redis.xtrim(key, 'MAXLEN', 0)
  },
  'set ahead': async (redis, key, type) => {
    await renumber(redis, key, type, (number) => number + 1_000)
    if (type === 'set')
      await redis.sadd(key, (await redis.hget(key.replace(/:[^:]*$/, ':names'), 'b')) ?? 'x')
    if (type === 'list') await redis.rpush(key, (await redis.lindex(key, 0)) ?? 'x')
    if (type === 'stream') {
      const [last] = (await redis.xrevrange(key, '+', '-', 'COUNT', 1))[0] ?? ['0-0']
      await redis.xadd(key, `${Number(last.split('-')[0]) + 1_000}-0`, 'what', 'ever')
    }
  },
  truncated: (redis, key, type) =>
    rewritten(redis, key, type, (value) => value.subarray(0, value.length >> 1)),
  absurd: async (redis, key, type) => {
    let count = 0
    const values = [
      '',
      '-1',
      '1e300',
      'nan',
      '99999999999999999999999',
      '0x10',
      ' ',
      '{',
      '{}',
      '[]',
      'null',
      '0-0',
      '\0'.repeat(70_000),
    ]
    await rewritten(redis, key, type, () => Buffer.from(values[count++ % values.length]!))
    const [low, high] = ['-inf', 'inf']
    if (type === 'zset')
      for (const [i, member] of (await redis.zrange(key, 0, -1)).entries())
        await redis.zadd(key, i % 2 === 0 ? low : high, member)
    if (type === 'hash') for (const value of values) await redis.hset(key, value.slice(0, 100), value)
    if (type === 'set') await redis.sadd(key, ...values)
    if (type === 'list') await redis.rpush(key, ...values)
    if (type === 'stream') await redis.xadd(key, '*', '', '')
  },
}
