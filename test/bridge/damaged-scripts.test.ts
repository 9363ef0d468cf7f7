// The scripts on damaged data: nothing of a call is written unless all of it is, what was stored is told from
// what was not, and numbers that were set back or ahead, or are none, keep nobody out. With their documented
// replies, as scripts.test.ts has them.
import type { Redis } from 'ioredis'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { BridgeError, type BridgeErrorCode } from '../../bridge/errors.ts'
import { asideOf, keyTable, typeOfKey } from '../../bridge/redis/keys.ts'
import { loadScripts, runScript, type ScriptName } from '../../bridge/redis/scripts.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { keys, openClient } from './planes.ts'

const lease = 300
const mark = 100
const stallMs = 200
const bus = (...nouns: Parameters<typeof keys.bus>[0][]): string[] => nouns.map((noun) => keys.bus(noun))

let server: TestRedis
let redis: Redis & Disposable
let generation: Buffer

const run = (
  name: ScriptName,
  its: readonly string[],
  argv: readonly (string | number | Buffer)[],
): Promise<unknown> => runScript(redis, name, its, argv)

async function join(name: string): Promise<{ nodeId: string }> {
  const reply = (await run(
    'node-join',
    bus('generation', 'names', 'nodes', 'leases', 'batches', 'format', 'records'),
    [name, '{}', lease, '0', 'data set', 1, 1, 1],
  )) as [Buffer, Buffer]
  generation = reply[1]
  return { nodeId: reply[0].toString() }
}
const tell = (
  nodeId: string,
  batch: number,
  changes: readonly string[],
  { anew = '0', of = generation }: { anew?: string; of?: Buffer } = {},
): Promise<unknown> =>
  run(
    'journal-append',
    [...bus('generation', 'nodes', 'batches', 'position', 'journal'), keys.routes(nodeId)],
    [nodeId, batch, of, 100, 1e6, `entry ${batch}`, anew, ...changes],
  )
const createInbox = async (nodeId: string): Promise<string> =>
  String(
    (
      (await run('inbox-create', [keys.inbox(nodeId, 'stream'), keys.inbox(nodeId, 'state')], [])) as [
        Buffer,
        number,
      ]
    )[0],
  )
const append = (to: string, sender: string, batch: number | string, body: string): Promise<unknown> =>
  run(
    'inbox-append',
    [keys.inbox(to, 'stream'), keys.inbox(to, 'senders'), keys.inbox(to, 'state')],
    [sender, batch, body, mark, stallMs],
  )
const trim = (nodeId: string, last: string, handled: number): Promise<unknown> =>
  run('inbox-trim', [keys.inbox(nodeId, 'stream'), keys.inbox(nodeId, 'state')], [last, last, `0 ${handled}`])
const renew = async (nodeId: string): Promise<string[][]> =>
  (
    (await run(
      'node-renew',
      bus('generation', 'names', 'nodes', 'leases', 'batches', 'dead', 'format', 'records'),
      [nodeId, lease, generation, 'a', '{}', 1, 1],
    )) as Buffer[][]
  )
    .filter(Array.isArray)
    .map((list) => list.map(String))

async function fails(code: BridgeErrorCode, what: Promise<unknown>): Promise<void> {
  const error: unknown = await what.then(
    () => 'no failure',
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(BridgeError)
  expect((error as BridgeError).code, (error as BridgeError).message).toBe(code)
}

const bodies = async (nodeId: string): Promise<string[]> =>
  (await redis.xrange(keys.inbox(nodeId, 'stream'), '-', '+')).map(([, [, body]]) => body!)
const dump = async (): Promise<string[]> =>
  Promise.all(
    (await redis.keys('*'))
      .sort()
      .map(async (key) => `${key} ${(await redis.dumpBuffer(key)).toString('hex')}`),
  )

beforeAll(async () => {
  server = await startRedis()
  redis = openClient(server)
  await loadScripts(redis)
})

beforeEach(() => redis.flushall())

afterAll(async () => {
  redis.disconnect()
  await server[Symbol.asyncDispose]()
})

describe('journal-mend and journal-append on damaged data', () => {
  const mend = async (): Promise<string[]> =>
    ((await run('journal-mend', bus('position', 'journal'), ['nothing'])) as [number, Buffer, Buffer]).map(
      String,
    )
  const ids = async (): Promise<string[]> =>
    (await redis.xrange(keys.bus('journal'), '-', '+')).map(([id]) => id)

  test('what is whole stays as it is, also when there is nothing yet', async () => {
    expect(await mend()).toEqual(['0', '', ''])
    const { nodeId } = await join('a')
    await tell(nodeId, 1, ['x', '1'])
    const before = await dump()
    expect(await mend()).toEqual(['1', 'entry 1', ''])
    expect(await dump()).toEqual(before)
  })

  test.each([
    [
      'set ahead',
      async () => {
        await redis.set(keys.bus('position'), 900)
      },
      901,
    ],
    [
      'set back',
      async () => {
        await redis.set(keys.bus('position'), 1)
      },
      3,
    ],
    [
      'lost',
      async () => {
        await redis.del(keys.bus('position'))
      },
      3,
    ],
    [
      'garbage',
      async () => {
        await redis.set(keys.bus('position'), 'garbage')
      },
      3,
    ],
    [
      'beyond all counting',
      async () => {
        await redis.set(keys.bus('position'), '99999999999999999999')
      },
      3,
    ],
    [
      'without its journal',
      async () => {
        await redis.del(keys.bus('journal'))
      },
      3,
    ],
    [
      'behind a strange entry',
      async () => {
        await redis.xadd(keys.bus('journal'), '2-7', 'what', 'ever')
      },
      3,
    ],
    [
      'behind the last of all ids',
      async () => {
        await redis.xadd(keys.bus('journal'), '18446744073709551615-18446744073709551615', 'e', '')
      },
      3,
    ],
  ])(
    'position %s: both go on at a number that nobody has had; mended or not, the next entry comes behind',
    async (_what, damage, wanted) => {
      const { nodeId } = await join('a')
      await tell(nodeId, 1, [])
      await tell(nodeId, 2, [])
      await damage()
      const [position, entry, problem] = await mend()
      expect([position, entry]).toEqual([String(wanted), 'nothing'])
      expect(problem).toMatch(/^it said .*, the journal ended at /)
      expect(await mend()).toEqual([position, 'nothing', ''])
      expect(await tell(nodeId, 3, [])).toBe(wanted + 1)
      expect((await ids()).at(-1)).toBe(`${wanted + 1}-0`)
    },
  )

  test('an entry is refused before anything of it is written, so that the next attempt is not taken for stored', async () => {
    const { nodeId } = await join('a')
    await tell(nodeId, 1, ['x', '1'])
    for (const key of [keys.bus('journal'), keys.bus('position'), keys.routes(nodeId), keys.bus('batches')]) {
      await redis.rename(key, 'whole')
      await (key === keys.bus('position') ? redis.lpush(key, 'x') : redis.set(key, 'x')) // of a wrong type
      const others = async (): Promise<string[]> =>
        (await dump()).filter((line) => !line.startsWith(key) && !line.includes('damaged'))
      const before = await others()
      await fails('ERR_BRIDGE_REDIS_DAMAGED', tell(nodeId, 2, ['y', '1']))
      expect(await others(), key).toEqual(before)
      await redis.rename('whole', key)
    }
    await redis.set(keys.bus('position'), 0) // set back: the entry after it is there already
    expect(await tell(nodeId, 2, ['y', '1'])).toBe(2)
    expect(await redis.xlen(keys.bus('journal'))).toBe(2)
  })

  test('the journal is bounded in bytes, too', async () => {
    const { nodeId } = await join('a')
    const keysOf = [...bus('generation', 'nodes', 'batches', 'position', 'journal'), keys.routes(nodeId)]
    for (let n = 1; n <= 50; n++)
      await run('journal-append', keysOf, [nodeId, n, generation, 10_000, 5_000, '.'.repeat(1_000), '0'])
    expect(await redis.xlen(keys.bus('journal'))).toBeLessThanOrEqual(6)
    expect((await ids()).at(-1)).toBe('50-0')
    await run('journal-append', keysOf, [nodeId, 51, generation, 10_000, 5_000, '.'.repeat(50_000), '0'])
    expect(await ids()).toEqual(['51-0']) // the last one stays, however large
  })
})

describe('key-aside', () => {
  const aside = async (key: string, type: string): Promise<string> =>
    String(await run('key-aside', [key, asideOf(key)], [type, 60]))

  test('what is of a wrong type goes out of the way, for a while; what is not, stays', async () => {
    const key = keys.bus('nodes')
    expect(await aside(key, 'hash')).toBe('')
    await redis.hset(key, 'a@1', '{}')
    expect(await aside(key, 'hash')).toBe('')
    expect(await aside(key, 'list')).toBe('hash')
    expect(await aside(key, 'list')).toBe('') // twice
    expect([await redis.exists(key), await redis.hgetall(asideOf(key))]).toEqual([0, { 'a@1': '{}' }])
    expect(await redis.ttl(asideOf(key))).toBeGreaterThan(0)
  })

  test('every kind of key has a type and another place, in its slot', () => {
    for (const [kind, { key, type }] of Object.entries(keyTable)) {
      if (kind === 'damaged' || kind === 'probe') continue
      const one = `p:${key.replace('<node id>', 'a@1').replace('<sid>', '3s').replace('<n>', '3')}`
      expect([typeOfKey(one), /\{.*\}/.exec(asideOf(one))![0]], kind).toEqual([type, /\{.*\}/.exec(one)![0]])
      expect(typeOfKey(asideOf(one)), kind).toBeUndefined()
    }
  })
})

test('node-renew: what is lost of a live node is written down again; who was declared dead is not', async () => {
  const { nodeId } = await join('a')
  for (const noun of ['nodes', 'batches', 'names', 'format', 'leases'] as const) {
    await redis.del(keys.bus(noun))
    expect(await renew(nodeId), noun).toEqual([[], [], [noun]])
    expect((await renew(nodeId))[2], noun).toEqual([])
  }
  await redis.set(keys.bus('format'), 'garbage')
  await redis.hset(keys.bus('nodes'), nodeId, 'garbage')
  await redis.hset(keys.bus('names'), 'a', 'garbage')
  for (const damaged of ['garbage', '9000000000000000000:9000000000000000000', '5:1']) {
    await redis.hset(keys.bus('leases'), nodeId, damaged)
    expect((await renew(nodeId))[2], damaged).toContain('leases')
  }
  await redis.sadd(keys.bus('dead'), nodeId, 'other@1')
  expect((await renew(nodeId))[1]).toEqual(['other@1']) // it is there
  expect(await redis.hgetall(keys.bus('names'))).toEqual({ a: nodeId })
  for (const noun of ['nodes', 'batches'] as const) await redis.del(keys.bus(noun))
  await fails('ERR_BRIDGE_FENCED', renew(nodeId))
})

test('node-renew: a node that lost its lease, or has one that is no lease, is judged a lease later', async () => {
  const { nodeId: a } = await join('a')
  await redis.hset(keys.bus('nodes'), 'b@1', '{}', 'c@1', '{}')
  await redis.hset(keys.bus('leases'), 'c@1', 'garbage')
  expect((await renew(a))[2]).toEqual(['leases', 'leases'])
  expect((await redis.hkeys(keys.bus('leases'))).sort()).toEqual([a, 'b@1', 'c@1'])
})

describe('inboxes', () => {
  test('append: a batch of another writer of the sender is another batch, whatever its number', async () => {
    await createInbox('a@1')
    for (const batch of ['1-old', '2-old']) await append('a@1', 'b@1', batch, batch)
    for (const batch of ['1-new', '2-new'])
      await fails('ERR_BRIDGE_ORDER', append('a@1', 'b@1', batch, batch))
    for (const batch of ['3-new', '3-new', '4-new']) await append('a@1', 'b@1', batch, batch)
    expect(await bodies('a@1')).toEqual(['', '1-old', '2-old', '3-new', '4-new'])
  })

  test('append: damaged numbers and counts neither lose a batch nor keep it out', async () => {
    await createInbox('a@1')
    await append('a@1', 'b@1', '1-w', '1')
    for (const [stored, next] of [
      ['999', 1_000],
      ['99999999999999999999', 1],
      ['garbage', 1],
      ['0', 1],
    ] as const) {
      await redis.hset(keys.inbox('a@1', 'senders'), 'b@1', stored)
      if (next !== 1) await fails('ERR_BRIDGE_ORDER', append('a@1', 'b@1', '1-w', 'x'))
      await append('a@1', 'b@1', `${next}-w`, stored)
    }
    expect(await bodies('a@1')).toEqual(['', '1', '999', '99999999999999999999', 'garbage', '0'])
    const [last] = (await redis.xrevrange(keys.inbox('a@1', 'stream'), '+', '-', 'COUNT', 1))[0]!
    await redis.hset(keys.inbox('a@1', 'state'), 'in', 'garbage', 'out', -1e9, 'full', 9e15, 'progress', 'x')
    await trim('a@1', last, 7)
    await append('a@1', 'b@1', '2-w', 'goes in')
    await redis.hset(keys.inbox('a@1', 'state'), 'in', 1e9)
    await fails('ERR_BRIDGE_INBOX_FULL', append('a@1', 'b@1', '3-w', 'x'))
    // all was read: it counts anew
    await trim('a@1', (await redis.xrevrange(keys.inbox('a@1', 'stream'), '+', '-', 'COUNT', 1))[0]![0], 14)
    await append('a@1', 'b@1', '3-w', 'goes in, too')
    await redis.hset(keys.inbox('a@1', 'state'), 'in7', 1e9) // of a lane that nothing came by
    await trim('a@1', (await redis.xrevrange(keys.inbox('a@1', 'stream'), '+', '-', 'COUNT', 1))[0]![0], 26)
    expect(await redis.hget(keys.inbox('a@1', 'state'), 'in7')).toBe('0')
  })

  test('append without a body asks whether there is room', async () => {
    await createInbox('a@1')
    expect(await append('a@1', 'b@1', 1, '')).toBe(0)
    await append('a@1', 'b@1', 1, '.'.repeat(mark))
    await fails('ERR_BRIDGE_INBOX_FULL', append('a@1', 'b@1', 2, ''))
    expect(await bodies('a@1')).toHaveLength(2)
  })
})
