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
const [other, otherGid] = ['$share/h/t', '0bbcdefghijklg']

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
    known: (of) => ({
      rule: { strategy: 'demand', ordered: false },
      gid: of === name ? gid : otherGid,
      isTold: true,
    }),
    missing: () => new Promise((again) => setImmediate(() => again(true))),
  })
  const join = (group = name, as = gid): Promise<unknown> =>
    new Promise((done, failed) => {
      const packed = ['join', group, as, 'sid', 'a 1', 50_000, 128, 1, 1, 1, 0, -1, '']
      calls.run({ packed, done, failed })
    })
  const append = (message = messageOf('t', 'kept'), groups = [name]): Promise<void> =>
    new Promise((done, failed) => {
      calls.append({ message, groups: new Map(groups.map((group) => [group, 0])), done, failed })
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

// Its group was dropped from the table of who publishes meanwhile, or the later message is for a part of its groups.
test('a message that is held for one of its groups is passed by in none of them, by what is on its topic', async () => {
  await using calls = await start()
  await calls.join()
  const held = [calls.append(messageOf('t', '<1>'), [other, name]), calls.append(messageOf('t', '<2>'))]
  using scripts = listen<{ script: string }>('script')
  await expect.poll(() => scripts.events.length).toBeGreaterThan(5) // it is asked for
  held.push(calls.append(messageOf('t', '<3>')))
  await calls.append(messageOf('another', '<4>'))
  expect(await calls.payloads()).toEqual(['4'])
  await calls.join(other, otherGid)
  await Promise.all(held)
  expect(await calls.payloads()).toEqual(['4', '1', '2', '3'])
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
