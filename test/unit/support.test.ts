import { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import { startRedis } from '../support/redis.ts'

test('the test Redis keeps its data over kill -9 and a restart', async () => {
  await using redis = await startRedis()
  const client = new Redis(redis.url)
  await client.set('key', 'value')
  await redis.stop('SIGKILL')
  await redis.start()
  expect(await client.get('key')).toBe('value')
  client.disconnect()
})
