// The calls of a node about groups (bridge/groups/group-calls.ts), where Redis is full and a reply is lost: on a real Redis behind
// a link that loses it.
import { expect, test } from 'vitest'
import { GroupCalls } from '../../bridge/groups/group-calls.ts'
import { Clock } from '../../bridge/pace/clock.ts'
import { connect } from '../../bridge/redis/redis.ts'
import { startRedis } from '../support/redis.ts'
import { startLink } from './link.ts'
import { keys, listen, messageOf, openClient } from './planes.ts'

const [name, gid] = ['$share/g/t', '0abcdefghijklg']

async function start() {
  const server = await startRedis()
  const admin = openClient(server)
  const link = await startLink(server)
  const redis = connect({ url: link.url, timeoutMs: 5_000, onError: () => undefined })
  await admin.hset(keys.partition(0, 'appended'), 'a', 0)
  const calls = new GroupCalls(redis, keys, 0, 'a', { queueMax: 100, queueBytesMax: 1e7 }, new Clock(), {
    takeWrites: () => [],
    onReply: () => undefined,
    onFenced: () => Promise.resolve(),
    known: () => ({ rule: { strategy: 'demand', ordered: false }, gid, isTold: true }),
    missing: () => new Promise((again) => setImmediate(() => again(true))),
  })
  const join = (): Promise<unknown> =>
    new Promise((done, failed) => {
      const packed = ['join', name, gid, 'sid', 'a 1', 50_000, 128, 1, 1, 1, 0, -1, '']
      calls.run({ packed, done, failed })
    })
  const append = (message = messageOf('t', 'kept')): Promise<void> =>
    new Promise((done, failed) => {
      calls.append({ message, groups: new Map([[name, 0]]), done, failed })
    })
  const setFull = (isFull: boolean): Promise<unknown> => admin.config('SET', 'maxmemory', isFull ? '1' : '0')
  return {
    link,
    join,
    append,
    setFull,
    waiting: () => admin.llen(keys.group(gid, 'backlog')),
    /** What waits, in its order. */
    payloads: async () =>
      (await admin.lrange(keys.group(gid, 'backlog'), 0, -1)).map((item) => /<(\d+)>/.exec(item)![1]),
    /** Bytes that Redis was sent so far. */
    sent: async () => Number(/total_net_input_bytes:(\d+)/.exec(await admin.info('stats'))![1]),
    async [Symbol.asyncDispose]() {
      redis.disconnect()
      admin.disconnect()
      await link[Symbol.asyncDispose]()
      await server[Symbol.asyncDispose]()
    },
  }
}

test('what a full Redis refused is appended when there is room, though the reply to what went ahead of it was lost', async () => {
  await using calls = await start()
  await calls.join()
  await calls.setFull(true)
  const joined = calls.join()
  const appended = calls.append()
  await calls.link.loseReply(gid)
  calls.link.freeze()
  await calls.setFull(false)
  calls.link.thaw()
  await joined
  await appended
  expect(await calls.waiting()).toBe(1)
})

test('while a full Redis refuses a message what frees memory goes on', async () => {
  await using calls = await start()
  await calls.join()
  await calls.setFull(true)
  const appended = calls.append()
  await calls.join() // behind it
  await calls.join()
  expect(await calls.waiting()).toBe(0)
  await calls.setFull(false)
  await appended
  expect(await calls.waiting()).toBe(1)
})

test('a call is bounded by all bytes of its messages, User Properties too', async () => {
  await using calls = await start()
  await calls.join()
  using scripts = listen<{ script: string }>('scriptBegins')
  const properties = Buffer.alloc(512 * 1024)
  await Promise.all(Array.from({ length: 4 }, () => calls.append(messageOf('t', '', { properties }))))
  expect(scripts.events).toEqual([{ script: 'group-serve' }, { script: 'group-serve' }])
})

test('messages for a group that is not there come into it in their order when it is, and are not sent again and again meanwhile', async () => {
  await using calls = await start()
  const body = '.'.repeat(64 * 1024)
  const appended = Array.from({ length: 20 }, (_, n) => calls.append(messageOf('t', `<${n}>${body}`)))
  const before = await calls.sent()
  using scripts = listen<{ script: string }>('script')
  await expect.poll(() => scripts.events.length).toBeGreaterThan(50) // it is asked for
  appended.push(calls.append(messageOf('t', '<20>')))
  await calls.join()
  await Promise.all(appended)
  expect(await calls.payloads()).toEqual(Array.from({ length: 21 }, (_, n) => String(n)))
  expect(((await calls.sent()) - before) / (20 * body.length)).toBeLessThan(3) // when they came, and into the group
})

test('a message of which nobody knows whether a full Redis has it, since the answer was lost before it was full: once', async () => {
  await using calls = await start()
  await calls.join()
  const lost = calls.link.loseReply(gid).then(() => calls.link.freeze())
  const joined = calls.join()
  const appended = calls.append()
  await lost
  await calls.setFull(true)
  calls.link.thaw()
  await joined
  await calls.setFull(false)
  await appended
  expect(await calls.waiting()).toBe(1)
})
