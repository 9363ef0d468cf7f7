// Every Lua script on a real Redis, one by one: its documented reply, each documented failure and the error
// it becomes, called twice, called by the loser. At maxmemory what frees, renews and fences goes on, and what
// stores messages is refused. The keys that a script gets are those of the key table, in one slot, and it
// touches no others.
import type { Redis } from 'ioredis'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { BridgeError, type BridgeErrorCode } from '../../bridge/errors.ts'
import { asideOf, keyTable } from '../../bridge/redis/keys.ts'
import {
  loadScripts,
  runScript,
  scriptTable,
  scriptText,
  type ScriptName,
} from '../../bridge/redis/scripts.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { keys, openClient, prefix } from './planes.ts'

const lease = 300
const mark = 100
const hourMs = 3_600_000
const bus = (...nouns: Parameters<typeof keys.bus>[0][]): string[] => nouns.map((noun) => keys.bus(noun))

let server: TestRedis
let redis: Redis & Disposable
let generation: Buffer

/** Every call of a script that these tests make, to compare its keys with the key table. */
const calls: { name: ScriptName; keys: readonly string[] }[] = []

function run(
  name: ScriptName,
  its: readonly string[],
  argv: readonly (string | number | Buffer)[],
): Promise<unknown> {
  calls.push({ name, keys: its })
  return runScript(redis, name, its, argv)
}

let boots = 0
const infos = new Map<string, string>()
async function join(
  name: string,
  replace = '0',
  format = 1,
  records: readonly [number, number] = [1, 1],
): Promise<{ nodeId: string; before: string }> {
  const info = `boot ${++boots} "records":[${records.join(',')}]`
  const reply = (await run(
    'node-join',
    bus('generation', 'names', 'nodes', 'leases', 'batches', 'format', 'records'),
    [name, info, lease, replace, Buffer.from(`generation ${name}`), format, ...records],
  )) as [Buffer, Buffer, Buffer]
  generation = reply[1]
  infos.set(reply[0].toString(), info)
  return { nodeId: reply[0].toString(), before: reply[2].toString() }
}

const renewed = (nodeId: string, of = generation, reads = 1): Promise<unknown> =>
  run('node-renew', bus('generation', 'names', 'nodes', 'leases', 'batches', 'dead', 'format', 'records'), [
    nodeId,
    lease,
    of,
    nodeId.split('@')[0]!,
    infos.get(nodeId) ?? '{}',
    1,
    reads,
  ])
const renew = async (nodeId: string, of = generation): Promise<string[]> =>
  ((await renewed(nodeId, of)) as [Buffer[], Buffer[]])[0].map(String)
const rejoin = (nodeId: string, known: Buffer | string, format = 1): Promise<unknown> =>
  run('node-rejoin', bus('generation', 'names', 'nodes', 'leases', 'batches', 'format', 'records'), [
    nodeId,
    nodeId.split('@')[0]!,
    '{}',
    'anew',
    known,
    format,
    1,
  ])
const remove = (nodeId: string, leaseMs: number, of = generation): Promise<unknown> =>
  run(
    'node-remove',
    [...bus('generation', 'nodes', 'leases', 'batches', 'dead', 'position', 'journal'), keys.routes(nodeId)],
    [nodeId, leaseMs, of, 'gone', 100],
  )
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
const append = (
  to: string,
  sender: string,
  batch: number | string,
  body: string,
  stallMs = hourMs,
  lane = '',
): Promise<unknown> =>
  run(
    'inbox-append',
    [keys.inbox(to, 'stream'), keys.inbox(to, 'senders'), keys.inbox(to, 'state')],
    [sender, batch, body, mark, stallMs, lane],
  )
const trim = (nodeId: string, last: string, handled: number): Promise<unknown> =>
  run('inbox-trim', [keys.inbox(nodeId, 'stream'), keys.inbox(nodeId, 'state')], [last, last, `0 ${handled}`])
const seal = (nodeId: string): Promise<unknown> =>
  run('inbox-seal', [keys.inbox(nodeId, 'stream'), keys.inbox(nodeId, 'state')], [])
const fence = (nodeId: string, dead: string): Promise<unknown> =>
  run('inbox-fence', [keys.inbox(nodeId, 'senders')], [dead])
const retain = async (
  ...messages: [topic: string, record: string, publisher?: string, n?: number, leftMs?: number][]
): Promise<unknown> => {
  // at maxmemory it is there already
  await redis.hsetnx(keys.partition(3, 'appended'), 'a@1', 0).catch(() => undefined)
  return run(
    'retained-store',
    (['appended', 'retained', 'published', 'due'] as const).map((noun) => keys.partition(3, noun)),
    [
      'a@1',
      ...messages.flatMap(([topic, record, publisher = '', n = 0, leftMs = -1]) => [
        topic,
        record,
        publisher,
        n,
        leftMs,
      ]),
    ],
  )
}

async function fails(code: BridgeErrorCode, what: Promise<unknown>): Promise<void> {
  const error: unknown = await what.then(
    () => 'no failure',
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(BridgeError)
  expect((error as BridgeError).code, (error as BridgeError).message).toBe(code)
}

/** Waits until `ms` have passed on the clock of Redis. */
async function passed(ms: number): Promise<void> {
  const now = async (): Promise<number> => {
    const [s, us] = await redis.time()
    return Number(s) * 1_000 + Number(us) / 1_000
  }
  const start = await now()
  await expect.poll(async () => (await now()) - start, { interval: 10 }).toBeGreaterThan(ms)
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

describe('versions of records (P11)', () => {
  const written = async (nodeId: string, reads: number): Promise<unknown> =>
    ((await renewed(nodeId, generation, reads)) as unknown[])[3]

  test('nodes of two versions write what both read, and the later one when the last node of the earlier has left', async () => {
    const { nodeId: old } = await join('old', '0', 1, [1, 1])
    const { nodeId: young } = await join('young', '0', 1, [1, 2])
    expect([await written(young, 2), await written(old, 1)]).toEqual([1, 1])
    await remove(old, 0)
    expect([await written(young, 2), await redis.get(keys.bus('records'))]).toEqual([2, '2'])
  })

  test('who cannot read what is written, or could not be read, is refused', async () => {
    await join('young', '0', 1, [2, 3])
    await fails('ERR_BRIDGE_FORMAT', join('old', '0', 1, [1, 2]))
    await fails('ERR_BRIDGE_FORMAT', join('much younger', '0', 1, [4, 5]))
    expect(await redis.hlen(keys.bus('nodes'))).toBe(1)
    await join('younger', '0', 1, [3, 4])
  })

  test('when the version is lost nodes go on with what all of them read', async () => {
    await join('b', '0', 1, [1, 1])
    const { nodeId } = await join('a', '0', 1, [1, 2])
    await redis.del(keys.bus('records'))
    expect(await written(nodeId, 2)).toBe(1)
  })

  test('a reply has the time of Redis, for cluster time', async () => {
    const { nodeId } = await join('a')
    const before = await redis.time()
    const [, , time] = (await renewed(nodeId)) as [unknown, unknown, Buffer]
    expect(Number(time)).toBeGreaterThanOrEqual(Number(before[0]) * 1_000)
    expect(Number(time)).toBeLessThan(Number(before[0]) * 1_000 + 60_000)
  })
})

describe('node-join', () => {
  test('registers a boot, and the data set when there is none', async () => {
    const a = await join('a')
    expect(a).toEqual({ nodeId: expect.stringMatching(/^a@\d{16}$/) as string, before: '' })
    expect(generation.toString()).toBe('generation a')
    await join('b')
    expect(generation.toString()).toBe('generation a')
    expect(await redis.hgetall(keys.bus('batches'))).toMatchObject({ [a.nodeId]: '0' })
    expect(await redis.hget(keys.bus('leases'), a.nodeId)).toBe([1, 1].map(() => a.nodeId.slice(2)).join(':'))
  })

  test('a live boot of the name is a DUPLICATE; one that is known to be dead, gone or past its lease is not', async () => {
    const first = await join('a')
    const before = await dump()
    await fails('ERR_BRIDGE_DUPLICATE_NODE', join('a'))
    expect(await dump()).toEqual(before)
    const second = await join('a', '1')
    expect(second.before).toBe(first.nodeId)
    await remove(second.nodeId, 0)
    const third = await join('a')
    expect(third.before).toBe(second.nodeId)
    await passed(lease)
    expect((await join('a')).before).toBe(third.nodeId)
  })

  test('a node that knows another layout is refused, and changes nothing', async () => {
    await join('a')
    const before = await dump()
    await fails('ERR_BRIDGE_FORMAT', join('b', '0', 2))
    expect(await dump()).toEqual(before)
  })

  test('an epoch is never used twice, also when the clock was set back', async () => {
    const future = '5000000000000000'
    await redis.hset(keys.bus('names'), 'a', `a@${future}`)
    expect((await join('a')).nodeId).toBe('a@5000000000000001')
  })
})

describe('node-rejoin', () => {
  test('registers the same boot in a new data set; called twice it changes nothing', async () => {
    const { nodeId } = await join('a')
    await tell(nodeId, 1, [])
    await redis.flushall()
    expect(String(await rejoin(nodeId, generation))).toBe('anew')
    expect(await redis.hget(keys.bus('names'), 'a')).toBe(nodeId)
    generation = Buffer.from('anew')
    await tell(nodeId, 1, [])
    const before = await dump()
    expect(String(await rejoin(nodeId, 'whatever it knew'))).toBe('anew')
    expect(await dump()).toEqual(before)
  })

  test('a living boot is refused when a node of another layout was first in the new data set', async () => {
    const { nodeId } = await join('a')
    await redis.flushall()
    await join('b', '0', 2)
    const before = await dump()
    await fails('ERR_BRIDGE_FORMAT', rejoin(nodeId, generation))
    expect(await dump()).toEqual(before)
  })

  test('the loser, who was declared dead in the data set that it knows, is FENCED', async () => {
    const { nodeId } = await join('a')
    await remove(nodeId, 0)
    const before = await dump()
    await fails('ERR_BRIDGE_FENCED', rejoin(nodeId, generation))
    expect(await dump()).toEqual(before)
  })
})

describe('node-renew', () => {
  test('tells whose lease is over, but only to who was there for a whole lease', async () => {
    const { nodeId: a } = await join('a')
    const { nodeId: b } = await join('b')
    /**
     * Redis' clock goes on while a test runs: leases are put back instead of waited for. Of `nodeId`: begun
     * and renewed so many leases ago.
     */
    const age = async (nodeId: string, begun: number, renewed: number): Promise<void> => {
      const [seconds, micros] = (await redis.time()).map(Number) as [number, number]
      const ago = (leases: number): string => (seconds * 1e6 + micros - leases * lease * 1e3).toFixed(0)
      await redis.hset(keys.bus('leases'), nodeId, `${ago(begun)}:${ago(renewed)}`)
    }
    await age(b, 9, 2)
    expect(await renew(a)).toEqual([]) // a has not been there for a lease
    await age(a, 2, 0)
    expect(await renew(a)).toEqual([b])
    await age(a, 2, 0)
    expect(await renew(a)).toEqual([b]) // twice
    await age(a, 2, 0.5) // a gap: its own lease begins anew
    expect(await renew(a)).toEqual([])
    await age(a, 2, 0)
    await age(b, 9, 0)
    expect(await renew(a)).toEqual([])
  })

  test('FENCED without a place, AMNESIA in another data set', async () => {
    const { nodeId } = await join('a')
    await fails('ERR_BRIDGE_AMNESIA', renew(nodeId, Buffer.from('other')))
    await remove(nodeId, 0)
    await fails('ERR_BRIDGE_FENCED', renew(nodeId))
    await redis.flushall()
    await fails('ERR_BRIDGE_AMNESIA', renew(nodeId))
    expect(await redis.keys('*')).toEqual([])
  })
})

describe('node-remove', () => {
  test('takes place, lease, number and routes, and tells the others; the second who does it is told 0', async () => {
    const { nodeId: a } = await join('a')
    const { nodeId: b } = await join('b')
    await tell(a, 1, ['x', '1'])
    expect(await remove(a, 0)).toBe(1)
    expect(await remove(a, 0)).toBe(0)
    expect(await redis.xrange(keys.bus('journal'), '-', '+')).toEqual([
      ['1-0', ['e', 'entry 1', 't', '7']],
      ['2-0', ['e', 'gone', 't', '11']],
    ])
    expect(await redis.get(keys.bus('position'))).toBe('2')
    for (const noun of ['nodes', 'leases', 'batches'] as const)
      expect(await redis.hkeys(keys.bus(noun)), noun).toEqual([b])
    expect(await redis.exists(keys.routes(a))).toBe(0)
  })

  test('spares a node whose lease is alive, and takes it when it is over', async () => {
    const { nodeId } = await join('a')
    expect(await remove(nodeId, lease)).toBe(0)
    expect(await redis.hexists(keys.bus('nodes'), nodeId)).toBe(1)
    await passed(lease)
    expect(await remove(nodeId, lease)).toBe(1)
  })

  test('AMNESIA in another data set', async () => {
    const { nodeId } = await join('a')
    await fails('ERR_BRIDGE_AMNESIA', remove(nodeId, 0, Buffer.from('other')))
    expect(await redis.hexists(keys.bus('nodes'), nodeId)).toBe(1)
  })
})

describe('journal-append', () => {
  test('an entry for all and the routes of one; called twice it is appended once', async () => {
    const { nodeId } = await join('a')
    expect(await tell(nodeId, 1, ['x', '1', 'y', '3'])).toBe(1)
    expect(await tell(nodeId, 1, ['x', '1', 'y', '3'])).toBe(1)
    expect(await tell(nodeId, 2, ['x', '0', 'z', '2'])).toBe(2)
    expect(await redis.hgetall(keys.routes(nodeId))).toEqual({ y: '3', z: '2' })
    expect(await redis.xlen(keys.bus('journal'))).toBe(2)
    expect(await tell(nodeId, 3, ['w', '1'], { anew: '1' })).toBe(3)
    expect(await redis.hgetall(keys.routes(nodeId))).toEqual({ w: '1' })
  })

  test('FENCED for the loser, AMNESIA in another data set, ORDER for a batch too far: nothing is stored', async () => {
    const { nodeId } = await join('a')
    await fails('ERR_BRIDGE_ORDER', tell(nodeId, 2, ['x', '1']))
    await fails('ERR_BRIDGE_AMNESIA', tell(nodeId, 1, ['x', '1'], { of: Buffer.from('other') }))
    await remove(nodeId, 0)
    const before = await dump()
    await fails('ERR_BRIDGE_FENCED', tell(nodeId, 1, ['x', '1']))
    expect(await dump()).toEqual(before)
  })
})

test('journal-mend, key-aside: what is whole stays as it is (damaged-scripts.test.ts has what is not)', async () => {
  await join('a')
  const before = await dump()
  expect(
    ((await run('journal-mend', bus('position', 'journal'), ['nothing'])) as [number, Buffer, Buffer]).map(
      String,
    ),
  ).toEqual(['0', '', ''])
  expect(String(await run('key-aside', [keys.bus('nodes'), asideOf(keys.bus('nodes'))], ['hash', 60]))).toBe(
    '',
  )
  expect(await dump()).toEqual(before)
})

describe('inboxes', () => {
  test('create: the stream with one empty entry; called twice it changes nothing', async () => {
    const first = await createInbox('a@1')
    await append('a@1', 'b@1', 1, 'body')
    const before = await dump()
    const again = await createInbox('a@1')
    expect(await dump()).toEqual(before)
    expect(await bodies('a@1')).toEqual(['', 'body'])
    expect(again).not.toBe(first) // behind what was there
  })

  test('append: numbered, stored once, tells the bytes that wait; ORDER beyond the next', async () => {
    await createInbox('a@1')
    expect(await append('a@1', 'b@1', 1, '12345')).toBe(5)
    expect(await append('a@1', 'b@1', 1, '12345')).toBe(5)
    expect(await append('a@1', 'c@1', 1, '12')).toBe(7)
    await fails('ERR_BRIDGE_ORDER', append('a@1', 'b@1', 3, 'x'))
    expect(await bodies('a@1')).toEqual(['', '12345', '12'])
  })

  test('append: FULL above the mark, SEALED when the reader stands still, for good and for everybody', async () => {
    const last = await createInbox('a@1')
    await append('a@1', 'b@1', 1, '.'.repeat(mark))
    await passed(2) // nobody asked: it is full from the first who does
    await fails('ERR_BRIDGE_INBOX_FULL', append('a@1', 'b@1', 2, 'x', 1))
    await passed(2)
    await trim('a@1', last, 0) // it stands where it was, but it lives
    await fails('ERR_BRIDGE_INBOX_FULL', append('a@1', 'b@1', 2, 'x', 1))
    await passed(2)
    await fails('ERR_BRIDGE_INBOX_FULL', append('a@1', 'b@1', 2, 'x', hourMs))
    expect(await append('a@1', 'b@1', 1, 'again', 1)).toBe(mark) // stored before: full or not
    await fails('ERR_BRIDGE_SEALED', append('a@1', 'b@1', 2, 'x', 1))
    await fails('ERR_BRIDGE_SEALED', append('a@1', 'c@1', 1, 'x'))
    await fails('ERR_BRIDGE_FENCED', trim('a@1', last, mark)) // its owner, who comes too late
    expect(await bodies('a@1')).toHaveLength(2)
  })

  test('append: a progressing reader makes room again', async () => {
    await createInbox('a@1')
    await append('a@1', 'b@1', 1, '.'.repeat(mark))
    const [last] = (await redis.xrevrange(keys.inbox('a@1', 'stream'), '+', '-', 'COUNT', 1))[0]!
    expect(await trim('a@1', last, mark)).toBe(1)
    expect(await append('a@1', 'b@1', 2, 'x')).toBe(1)
    expect(await bodies('a@1')).toEqual(['.'.repeat(mark), 'x']) // the handled entry stays as a proof
    expect(await trim('a@1', last, mark)).toBe(1) // twice
    expect(await bodies('a@1')).toHaveLength(2)
  })

  test('append: what was handed on has numbers and room of its own, whatever waits of what was published', async () => {
    await createInbox('a@1')
    await append('a@1', 'b@1', 1, '.'.repeat(mark))
    await fails('ERR_BRIDGE_INBOX_FULL', append('a@1', 'b@1', 2, 'x'))
    expect(await append('a@1', 'b@1', 1, '-'.repeat(mark), hourMs, '1')).toBe(mark)
    expect(await append('a@1', 'b@1', 1, 'again', hourMs, '1')).toBe(mark)
    await fails('ERR_BRIDGE_INBOX_FULL', append('a@1', 'c@1', 1, 'x', hourMs, '1'))
    expect(await append('a@1', 'c@1', 1, '2', hourMs, '2')).toBe(1)
    expect(await bodies('a@1')).toEqual(['', '.'.repeat(mark), '-'.repeat(mark), '2'])
    await fence('a@1', 'b@1')
    await fails('ERR_BRIDGE_FENCED', append('a@1', 'b@1', 2, 'x', hourMs, '1'))
  })

  test('trim: what is held stays, what stands behind it goes, and its lane has room again', async () => {
    await createInbox('a@1')
    await append('a@1', 'b@1', 1, 'held')
    await append('a@1', 'b@1', 1, '.'.repeat(mark), hourMs, '1')
    await append('a@1', 'b@1', 2, 'last')
    const ids = (await redis.xrange(keys.inbox('a@1', 'stream'), '-', '+')).map(([id]) => id)
    const [, held, behind, last] = ids
    const free = (): Promise<unknown> =>
      run(
        'inbox-trim',
        [keys.inbox('a@1', 'stream'), keys.inbox('a@1', 'state')],
        [last!, held!, `0 4 1 ${mark}`, behind!],
      )
    for (let n = 0; n < 2; n++) expect(await free()).toBe(1)
    expect(await bodies('a@1')).toEqual(['held', 'last'])
    expect(await redis.hget(keys.inbox('a@1', 'state'), 'place')).toBe(last)
    expect(await append('a@1', 'b@1', 2, 'x', hourMs, '1')).toBe(1)
    expect(await append('a@1', 'b@1', 3, 'y')).toBe(5)
  })

  test('seal: GONE for what comes after it, and what is in it is in it, also sent again; its reader is FENCED', async () => {
    const last = await createInbox('a@1')
    await append('a@1', 'b@1', 1, 'x')
    for (let n = 0; n < 2; n++) expect(await seal('a@1')).toBe(1)
    expect(await append('a@1', 'b@1', 1, 'x')).toBe(1)
    await fails('ERR_BRIDGE_GONE', append('a@1', 'b@1', 2, 'y'))
    await fails('ERR_BRIDGE_GONE', append('a@1', 'c@1', 1, 'y'))
    await fails('ERR_BRIDGE_FENCED', trim('a@1', last, 1))
    expect(await redis.xlen(keys.inbox('a@1', 'stream'))).toBe(2)
  })

  test('append by the loser: FENCED, whatever the number; twice fenced is fenced', async () => {
    await createInbox('a@1')
    await append('a@1', 'b@1', 1, 'x')
    for (let n = 0; n < 2; n++) expect(await fence('a@1', 'b@1')).toBe(1)
    for (const batch of [1, 2, 9]) await fails('ERR_BRIDGE_FENCED', append('a@1', 'b@1', batch, 'x'))
    expect(await append('a@1', 'c@1', 1, 'y')).toBe(2)
    expect(await bodies('a@1')).toEqual(['', 'x', 'y'])
  })

  test('no inbox: GONE for a sender, AMNESIA for the reader, nothing to seal; none of them makes a key', async () => {
    await fails('ERR_BRIDGE_GONE', append('a@1', 'b@1', 1, 'x'))
    await fails('ERR_BRIDGE_AMNESIA', trim('a@1', '0-0', 0))
    expect(await seal('a@1')).toBe(1)
    expect(await redis.keys('*')).toEqual([])
  })
})

test('retained-store, retained-expire: what has expired is cleared once, and not when another one stands there', async () => {
  const expire = (topic: string, leftMs = -1): Promise<unknown> =>
    run('retained-expire', [keys.partition(3, 'due'), keys.partition(3, 'retained')], [topic, leftMs])
  const future = 0xffffffff * 1_000
  await retain(
    ['past', '1', '', 0, 0],
    ['future', '2', '', 0, future],
    ['never', '3'],
    ['replaced', '4', '', 0, 0],
    ['replaced', '5'],
    ['cleared', '6', '', 0, 0],
    ['cleared', ''],
  )
  await redis.zadd(keys.partition(3, 'due'), 2, 'r:past') // Redis' clock was set
  expect(await redis.zrange(keys.partition(3, 'due'), 0, -1)).toEqual(['r:past', 'r:future'])
  expect(await redis.zscore(keys.partition(3, 'due'), 'r:future')).toMatch(/^\d{13}(\.\d+)?$/)
  expect(
    [await expire('past', 1e9), await expire('past')],
    'it has time left by cluster time: looked at again later',
  ).toEqual([0, 0])
  await redis.zadd(keys.partition(3, 'due'), 2, 'r:past')
  expect([
    await expire('past'),
    await expire('past'),
    await expire('future'),
    await expire('never'),
    await expire('replaced'),
  ]).toEqual([1, 0, 0, 0, 0])
  expect((await redis.hkeys(keys.partition(3, 'retained'))).sort()).toEqual([
    '',
    'future',
    'never',
    'replaced',
  ])
})

test('retained-read: as far as they fit, in order; of the first that does not, its size', async () => {
  const read = async (room: number, ...topics: string[]): Promise<unknown[]> => {
    const [next, ...values] = (await run(
      'retained-read',
      [keys.partition(3, 'retained')],
      [room, ...topics],
    )) as [number, ...(Buffer | null)[]]
    return [next, ...values.map((value) => value?.toString('latin1', 8))]
  }
  await retain(['x', '12'], ['y', '3456'], ['z', '7'])
  expect(await read(1_000, 'x', 'none', 'y', 'z')).toEqual([0, '12', undefined, '3456', '7'])
  // nothing past one that does not fit
  expect(await read(21, 'x', 'none', 'y', 'z')).toEqual([12, '12', undefined])
  expect(await read(22, 'x', 'y', 'z')).toEqual([9, '12', '3456'])
  expect(await read(5, 'y')).toEqual([12])
})

test('at maxmemory what frees, renews and fences passes, and what stores messages is refused', async () => {
  const { nodeId: a } = await join('a')
  const { nodeId: b } = await join('b')
  const last = await createInbox(a)
  await retain(['x', '0'])
  await redis.config('SET', 'maxmemory', '1')
  try {
    await fails('ERR_BRIDGE_REDIS_FULL', append(a, b, 1, 'x'))
    await fails('ERR_BRIDGE_REDIS_FULL', retain(['x', '1']))
    expect(await tell(a, 1, ['x', '1'])).toBe(1)
    expect(await bodies(a)).toEqual([''])
    expect(await trim(a, last, 0)).toBe(1)
    expect(await fence(a, 'c@1')).toBe(1)
    expect(await seal('c@1')).toBe(1)
    expect(await createInbox(b)).toMatch(/^\d+-0$/)
    expect(await renew(a)).toEqual([])
    expect(await rejoin(a, generation)).toEqual(generation)
    expect(await remove(b, 0)).toBe(1)
    expect((await join('c')).before).toBe('')
  } finally {
    await redis.config('SET', 'maxmemory', '0')
  }
})

test('probe: leaves nothing behind, twice, and fails where nothing can be stored', async () => {
  for (const key of [keys.bus('probe'), keys.partition(3, 'probe')])
    expect(await run('probe', [key], [])).toBe(1)
  expect(await run('probe', bus('probe'), [])).toBe(1)
  expect(await redis.keys('*probe')).toEqual([])
  await redis.config('SET', 'maxmemory', '1')
  try {
    await fails('ERR_BRIDGE_REDIS_FULL', run('probe', bus('probe'), []))
  } finally {
    await redis.config('SET', 'maxmemory', '0')
  }
})

test('bans-change, bans-read: one hash, its version, the clock of the server', async () => {
  const read = async (known = ''): Promise<string[]> =>
    ((await run('bans-read', bus('bans'), [known])) as Buffer[]).map(String)
  const change = (whom: string, seconds: number, max = 2): Promise<unknown> =>
    run('bans-change', bus('bans'), [whom, seconds, `why ${whom}`, max])
  expect((await read()).length).toBe(2)
  expect(await read('0')).toEqual(['0'])
  for (let twice = 0; twice < 2; twice++) expect(await change('c:a', 0)).toBe(1)
  const [version, now, ...bans] = await read('0')
  expect(bans).toEqual(['c:a', '0 why c:a'])
  expect(await read(version)).toEqual([version])
  await redis.hset(keys.bus('bans'), 'version', 'damaged')
  expect(await change('u:b', 60)).toBe(1)
  expect((await read())[0]).toMatch(/^\d+\.\d+$/)
  const ends = Number((await read()).find((text) => text.endsWith('why u:b'))!.split(' ')[0])
  expect(ends - Number(now)).toBeGreaterThanOrEqual(60_000)
  expect(await change('n:10.0.0.0/8', 60)).toBe(0) // as many as may be
  expect(await change('u:b', 60)).toBe(1) // it is among them
  await redis.hset(keys.bus('bans'), 'u:b', `${Number(now) - 1} over`)
  expect(await change('n:10.0.0.0/8', 60)).toBe(1) // in the place of one that is over
  expect(await redis.hkeys(keys.bus('bans'))).not.toContain('u:b')
  expect(await change('c:a', -1)).toBe(1)
  expect(await change('c:a', -1)).toBe(0)
  expect((await read()).filter((text) => text.includes('c:a'))).toEqual([])
})

test('access-change: users and rules in one hash, and its version', async () => {
  const change = (field: string, sets: '0' | '1', value = '', max = 3): Promise<unknown> =>
    run('access-change', bus('access'), [field, sets, value, max])
  const key = keys.bus('access')
  expect(await change('u:ann', '0')).toBe(0)
  expect(await redis.exists(key)).toBe(0)
  const versions: (string | null)[] = []
  for (const value of ['a', 'a', 'b']) {
    expect(await change('u:ann', '1', value)).toBe(1)
    versions.push(await redis.hget(key, 'version'))
  }
  expect(new Set(versions).size).toBe(3)
  expect(await change('rules', '1', 'rules: []')).toBe(1)
  expect(await change('u:bob', '1', 'c')).toBe(0) // as many as may be
  expect(await change('u:ann', '1', 'd')).toBe(1) // it is among them
  expect(await redis.hgetall(key)).toMatchObject({ 'u:ann': 'd', rules: 'rules: []' })
  expect([await change('rules', '0'), await change('rules', '0')]).toEqual([1, 0])
})

test('orphan-remove: what is left of a session or group that is not there, and nothing of one that is', async () => {
  const [sid, gid] = ['0gone', '0other']
  const there = (['owners', 'groups'] as const).map((noun) => keys.partition(0, noun))
  const of = (id: string): string[] => [
    ...there,
    ...(['session', 'subscriptions', 'queue', 'inflight', 'incoming'] as const).map((noun) =>
      keys.session(id, noun),
    ),
  ]
  const left = of(sid).slice(2)
  const fill = (): Promise<unknown> => Promise.all(left.map((key) => redis.set(key, 'left')))
  await fill()
  await redis.hset(there[0]!, sid, '')
  expect(await run('orphan-remove', of(sid), [sid])).toBe(0)
  await redis.hdel(there[0]!, sid)
  await redis.hset(there[1]!, 'g a/b', `${sid} 1`)
  expect(await run('orphan-remove', of(sid), [sid])).toBe(0)
  await redis.hset(there[1]!, 'g a/b', `${gid} 1`)
  expect([await run('orphan-remove', of(sid), [sid]), await run('orphan-remove', of(sid), [sid])]).toEqual([
    5, 0,
  ])
  await redis.del(...there)
})

test('orphan-client: a client that has come meanwhile keeps its session', async () => {
  const its = (['clients', 'owners', 'tenants'] as const).map((noun) => keys.partition(0, noun))
  const remove = (client: string, sid: string): Promise<unknown> => run('orphan-client', its, [client, sid])
  await redis.hset(its[0]!, 'c', '0new', 'acme\0c', '0of')
  expect(await remove('c', '0old')).toBe(0)
  await redis.hset(its[1]!, '0new', '')
  expect(await remove('c', '0new')).toBe(0)
  await redis.hdel(its[1]!, '0new')
  expect([await remove('c', '0new'), await remove('c', '0new')]).toEqual([1, 0])
  await redis.hset(its[2]!, 'acme', 2)
  expect([await remove('acme\0c', '0of'), await remove('acme\0c', '0of')]).toEqual([1, 0])
  expect(await redis.hget(its[2]!, 'acme')).toBe('1')
  await redis.del(...its)
})

test('rights: which commands the user is refused', async () => {
  expect(await run('rights', bus('probe'), ['p/$SYS*', 'p/ask/*'])).toEqual([])
  await redis.call('ACL', 'SETUSER', 'default', '-xadd', '-time')
  try {
    const refused = (await run('rights', bus('probe'), ['p/$SYS*', 'p/ask/*'])) as Buffer[]
    expect(refused.map(String)).toEqual(['XADD', 'TIME'])
  } finally {
    await redis.call('ACL', 'SETUSER', 'default', '+@all')
  }
})

describe('what a script is', () => {
  const names = (Object.keys(scriptTable) as ScriptName[]).filter(
    (name) => typeof scriptTable[name].keys === 'number' && !/^(session|queue|will|due|group)-/.test(name),
  ) // those: session-scripts.test.ts, group-scripts.test.ts
  const source = scriptText

  test.each(names)('%s: documented, every key declared and in the key table', (name) => {
    const code = source(name)
      .split('\n')
      .filter((line) => !line.startsWith('--') && !line.startsWith('#!'))
      .join('\n')
    expect(source(name)).toMatch(/^#!lua.*\n-- [A-Z]/)
    for (const part of ['KEYS', 'ARGV', 'REPLY', 'COST'])
      expect(source(name), part).toMatch(new RegExp(`^-- ${part} `, 'm'))
    // Only names bound to KEYS[n] stand where a command wants its key: a key that is made up in the script
    // would be undeclared.
    const declared = [...code.matchAll(/\b(\w+Key)\b/g)].map(([, key]) => key!)
    for (const [, key] of code.matchAll(/redis\.call\('(?!TIME)\w+', ?([^,)]+)/g))
      expect([...declared, 'KEYS[1]'], `${name}: ${key}`).toContain(key!.trim())
    expect([...code.matchAll(/KEYS\[(\d)\]/g)].reduce((most, [, n]) => Math.max(most, Number(n)), 0)).toBe(
      Number(scriptTable[name].keys),
    )
    // What the tests above called: as many keys as the table says, all in the key table, one hash tag.
    const used = calls.filter((call) => call.name === name)
    expect(used.length).toBeGreaterThan(0)
    const patterns = Object.values(keyTable)
      .flatMap(({ key }) => key.split(', '))
      .map(
        (key) =>
          new RegExp(
            `^${prefix}:${key
              .replace(/[{}]/g, '\\$&')
              .replace(/<n>/, '\\d+')
              .replace(/<[sg]id>/, '[^{}:]+')
              .replace('<tag>', 'bus')
              .replace('<noun and the rest>', '.*')
              .replace(/<node id>/, '[^{}:]+')}$`,
          ),
      )
    for (const { keys: its } of used) {
      expect(its).toHaveLength(Number(scriptTable[name].keys))
      for (const key of its)
        expect(
          patterns.filter((pattern) => pattern.test(key)),
          key,
        ).toHaveLength(1)
      expect(new Set(its.map((key) => /\{.*?\}/.exec(key)![0])).size).toBe(1)
    }
  })

  test('a Redis that does not know the scripts: a retryable error, and the next attempt finds them', async () => {
    await redis.script('FLUSH')
    await fails('ERR_BRIDGE_SCRIPT_UNKNOWN', createInbox('a@1'))
    expect(await createInbox('a@1')).toMatch(/-0$/)
  })
})
