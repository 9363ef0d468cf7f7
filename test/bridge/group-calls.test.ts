// The calls of a node about groups (bridge/groups/group-calls.ts), where Redis is full and a reply is lost: on a real Redis behind
// a link that loses it.
import { expect, test } from 'vitest'
import { GroupCalls } from '../../bridge/groups/group-calls.ts'
import { Clock } from '../../bridge/pace/clock.ts'
import { connect } from '../../bridge/redis/redis.ts'
import { startRedis } from '../support/redis.ts'
import { startLink } from './link.ts'
import { keys, messageOf, openClient } from './planes.ts'

test('what a full Redis refused is appended when there is room, though the reply to what went ahead of it was lost', async () => {
  await using server = await startRedis()
  using admin = openClient(server)
  await using link = await startLink(server)
  const redis = connect({ url: link.url, timeoutMs: 5_000, onError: () => undefined })
  await admin.hset(keys.partition(0, 'appended'), 'a', 0)
  const calls = new GroupCalls(redis, keys, 0, 'a', { queueMax: 100, queueBytesMax: 1e6 }, new Clock(), {
    takeWrites: () => [],
    onReply: () => undefined,
    onFenced: () => Promise.resolve(),
    made: () => [],
  })
  const [name, gid] = ['$share/g/t', '0abcdefghijklg']
  const join = (): Promise<unknown> =>
    new Promise((done, failed) => {
      const packed = ['join', name, gid, 'sid', 'a 1', 50_000, 128, 1, 1, 'demand', 0, 1, 0]
      calls.run({ packed, done, failed })
    })
  await join()
  await admin.config('SET', 'maxmemory', '1')
  const joined = join()
  const appended = new Promise((done, failed) => {
    calls.append({ message: messageOf('t', 'kept'), groups: new Map([[name, 0]]), done, failed })
  })
  await link.loseReply(gid)
  link.freeze()
  await admin.config('SET', 'maxmemory', '0')
  link.thaw()
  await joined
  expect(await appended).toEqual([])
  expect(await admin.llen(keys.group(gid, 'backlog'))).toBe(1)
  redis.disconnect()
})
