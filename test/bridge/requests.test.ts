// Requests from node to node over a real Redis: who is asked answers, who does not is named, and what is asked and
// gathered has its bounds.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Emitter } from '../../bridge/control/emitter.ts'
import { Requests, type NodeAnswer } from '../../bridge/control/requests.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { listen, openClient } from './planes.ts'

const names = ['a@1', 'b@1', 'c@1']
let redis: TestRedis
let emitters: Emitter[]
const [a, b, c] = [0, 1, 2] as const
let nodes: Requests[]
const heard: string[][] = [[], [], []]
/** What each answers, by what it is asked. */
const never = new Promise<Buffer>(() => undefined)
beforeAll(async () => {
  redis = await startRedis('--appendonly', 'no')
  emitters = names.map(() => new Emitter(redis.url, 'test', () => undefined))
  nodes = names.map((name, i) => new Requests(name, () => names, emitters[i]))
  for (const [i, node] of nodes.entries())
    node.answerWith((request) => {
      const text = request.toString()
      heard[i]!.push(text)
      if (text === 'fail' && i === b) return Promise.reject(new Error('cannot'))
      if (text === 'hang' && i === c) return never
      return Promise.resolve(text === 'much' ? Buffer.alloc(1_000_000) : Buffer.from(`${text} ${i}`))
    })
  // heard by all once each has subscribed
  while ((await nodes[a]!.ask(Buffer.from('?'), 50)).some(({ body }) => body === undefined));
})
afterAll(async () => {
  await Promise.all(emitters.map((emitter) => new Promise<void>((closed) => emitter.close(closed))))
  await redis[Symbol.asyncDispose]()
})

const said = (answers: readonly NodeAnswer[]): string[] =>
  answers.map(({ nodeId, body, problem }) => `${nodeId} ${body?.toString() ?? problem}`)
const ask = async (
  from: number,
  text: string,
  withinMs = 10_000,
  of?: readonly string[],
): Promise<string[]> => said(await nodes[from]!.ask(Buffer.from(text), withinMs, of))

test('all answer, in the order of their names; one that cannot says why', async () => {
  expect(await ask(a, 'all')).toEqual(['a@1 all 0', 'b@1 all 1', 'c@1 all 2'])
  expect(await ask(c, 'fail')).toEqual(['a@1 fail 0', 'b@1 cannot', 'c@1 fail 2'])
})

test('one is asked, and the others hear nothing of it', async () => {
  expect(await ask(a, 'one', 10_000, ['b@1'])).toEqual(['b@1 one 1'])
  expect(heard.map((texts) => texts.filter((text) => text === 'one').length)).toEqual([0, 1, 0])
})

test('who does not answer in time is named, and what it says later is nothing', async () => {
  expect(await ask(a, 'hang', 20, ['c@1', 'd@1'])).toEqual([
    'c@1 no answer within 0.02 s',
    'd@1 no answer within 0.02 s',
  ])
  expect(await ask(a, 'after')).toHaveLength(3)
})

test('while Redis stands still a node answers itself, and the others are named', async () => {
  redis.pause()
  expect(await ask(b, 'alone', 30)).toEqual([
    'a@1 no answer within 0.03 s',
    'b@1 alone 1',
    'c@1 no answer within 0.03 s',
  ])
  redis.resume()
  await expect.poll(() => ask(b, 'again', 100), { interval: 5 }).toContain('c@1 again 2')
})

test('so many asks at once, and no more', async () => {
  const asks = Array.from({ length: 101 }, () => ask(a, 'hang', 10_000))
  await expect(asks.pop()).rejects.toMatchObject({ code: 'ERR_BRIDGE_ASKS' })
  // one of its 32 places c has given to what an earlier test asked, and it never answers; the last ask is over behind
  // all that c refuses
  expect((await asks.at(-1)!).at(-1)).toBe('c@1 it answers 32 requests already')
  nodes[a]!.close()
  const all = await Promise.all(asks)
  expect(all.filter((answers) => answers.at(-1) === 'c@1 this node leaves the cluster')).toHaveLength(31)
  nodes[a] = new Requests('a@1', () => names, emitters[a])
})

test('what is not ours on the channels is left aside', async () => {
  using client = openClient(redis)
  using garbage = listen('garbage')
  await client.publish('test/ask/b@1', 'x')
  for (const text of [
    '',
    '{',
    '{}\n',
    'null\n',
    '{"ask":1,"from":"a@1","withinMs":1}\n',
    '{"answers":"1","from":"z"}\n',
  ])
    emitters[c]!.emit('ask/b@1', Buffer.from(text))
  expect(await ask(c, 'still', 10_000, ['b@1'])).toEqual(['b@1 still 1'])
  expect(garbage.events).toHaveLength(1)
})
