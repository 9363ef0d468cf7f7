// lua/group-serve.lua on a real Redis: each operation, called twice, called by the loser; what is given back,
// and in which order.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Redis } from 'ioredis'
import { BridgeError, type BridgeErrorCode } from '../../bridge/errors.ts'
import { pack, type Packable } from '../../bridge/redis/pack.ts'
import { asideOf } from '../../bridge/redis/keys.ts'
import { loadScripts, runScript } from '../../bridge/redis/scripts.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { keys, openClient } from './planes.ts'

let server: TestRedis
let redis: Redis & Disposable
let calls = 0

beforeAll(async () => {
  server = await startRedis()
  redis = openClient(server)
  await loadScripts(redis)
})
afterAll(async () => {
  redis.disconnect()
  await server[Symbol.asyncDispose]()
})
beforeEach(async () => {
  await redis.flushall()
  calls = 0
  for (const node of ['a', 'b']) await redis.hset(keys.partition(0, 'appended'), node, 0)
})

interface Reply {
  readonly again: number
  readonly dropped: number
  readonly more: number
  readonly results: unknown[]
  /** As `sid id number what`. */
  readonly given: string[]
  readonly waiting: number
  readonly back: number
  readonly ended: number
  /** Indexes of messages. */
  readonly held: number[]
}

interface Called {
  readonly node?: string
  readonly call?: string
  readonly max?: number
  readonly bytesMax?: number
  readonly messages?: readonly Packable[]
  readonly membersMax?: number
  /** The group as the node knows it. */
  readonly known?: string
}

/** Numbers that follow the clock as `#`. */
const textOf = (value: unknown): unknown =>
  Buffer.isBuffer(value)
    ? value.toString().replace(/\b\d{16}\b/, '#')
    : Array.isArray(value)
      ? value.map(textOf)
      : value

async function serve(
  operations: readonly Packable[][],
  {
    node = 'a',
    call = `${++calls}-w`,
    max = 100,
    bytesMax = 1e6,
    messages = [],
    known = '',
    membersMax = 3,
  }: Called = {},
): Promise<Reply> {
  const [again, dropped, more, results, given, counts, back, ended, held] = textOf(
    await runScript(
      redis,
      'group-serve',
      (['groups', 'calls', 'appended', 'published'] as const).map((noun) => keys.partition(0, noun)),
      [
        node,
        call,
        keys.sessions(0),
        max,
        bytesMax,
        1,
        membersMax,
        pack([messages, operations, [name, ...rule, known, other, ...rule, '']]),
      ],
      { whenFull: messages.length === 0, made: () => [keys.group(gid, 'backlog')] },
    ),
  ) as [number, number, number, unknown[], (string | number)[], (string | number)[], number, number, number[]]
  const list: string[] = []
  for (let i = 0; i < given.length; i += 8)
    list.push(
      [given[i + 2], given[i + 4], given[i + 5], String(given[i + 7]).replace(/^(#|\d+) .* /, '')].join(' '),
    )
  return { again, dropped, more, results, given: list, waiting: Number(counts[1] ?? 0), back, ended, held }
}

let rule: [strategy: string, ordered: number]
beforeEach(() => {
  rule = ['round-robin', 0]
})
const gid = '0abcdefghijklg'
const [name, other] = ['$share/g/f', '$share/h/f']
const join = (
  sid: string,
  { owner = `a 1`, base = 50_000, qos = 2, lasting = 1, limit = 2, next = -1, none = '' } = {},
): Packable[] => ['join', name, gid, sid, owner, base, 128, qos, lasting, 1, limit, next, none]
const leave = (sid: string, isLeft: 0 | 1, owner = 'a 1', kept: readonly number[] = []): Packable[] => [
  'leave',
  name,
  sid,
  owner,
  isLeft,
  kept,
]
const write = (
  sid: string,
  {
    owner = 'a 1',
    limit = 2,
    acknowledged = [],
    received = [],
    returned = [],
  }: {
    owner?: string
    limit?: number
    acknowledged?: number[]
    received?: number[]
    returned?: number[]
  } = {},
): Packable[] => ['write', name, sid, owner, limit, acknowledged, received, returned]

/** Messages of one call, appended to the group: body, publisher, n, QoS, topic's hash. */
const append = (
  bodies: readonly string[],
  {
    qos = 1,
    publisher = '',
    n = 0,
    topic = 7,
    ...called
  }: Called & { qos?: number; publisher?: string; n?: number; topic?: number } = {},
): Promise<Reply> =>
  serve([['append', name, bodies.flatMap((_, i) => [i + 1, i])]], {
    ...called,
    messages: bodies.flatMap((body) => [body, publisher, n, qos, topic]),
  })

async function fails(code: BridgeErrorCode, call: Promise<unknown>): Promise<void> {
  const error = await call.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(BridgeError)
  expect((error as BridgeError).code).toBe(code)
}

test('a message is given at once to who has room, what is beyond it waits, and comes when something is acknowledged', async () => {
  expect((await serve([join('s1'), join('s2', { base: 50_128 })])).results).toEqual([
    [gid, 1, 0, 50_000],
    [gid, 1, 0, 50_128],
  ])
  const first = await append(['v', 'w', 'x', 'y', 'z'])
  expect([first.given, first.waiting]).toEqual([
    ['s1 50000 0 1', 's2 50128 0 2', 's1 50001 1 3', 's2 50129 1 4'],
    1,
  ])
  const next = await serve([write('s2', { acknowledged: [50_129, 1] })])
  expect([next.given, next.waiting]).toEqual([['s2 50130 2 z'], 0])
})

test('called twice it appends nothing twice, and acknowledges nothing that was given since', async () => {
  await serve([join('s1')])
  expect((await append(['x'], { call: '2-w' })).given).toEqual(['s1 50000 0 1'])
  expect(await append(['x'], { call: '2-w' })).toMatchObject({
    again: 1,
    given: [],
    waiting: 0,
    results: [1],
  })
  calls = 2
  const acknowledge = [write('s1', { acknowledged: [50_000, 0] })]
  await serve(acknowledge)
  await append(['y', 'z'])
  await redis.hset(keys.partition(0, 'calls'), 'a', '3-w')
  // 50000 comes round: it has another number by then
  await redis.hset(keys.group(gid, 'given'), 's1 50000', '9 s 1 4 1 0 7 late')
  await serve(acknowledge, { call: '3-w' })
  expect(await redis.hget(keys.group(gid, 'given'), 's1 50000')).toBe('9 s 1 4 1 0 7 late')
})

test('a call out of its order, of another writer, of a node that was declared dead', async () => {
  await serve([join('s1')])
  await fails('ERR_BRIDGE_ORDER', serve([], { call: '9-w' }))
  await fails('ERR_BRIDGE_ORDER', serve([], { call: '1-v' }))
  await redis.hdel(keys.partition(0, 'appended'), 'a')
  await fails('ERR_BRIDGE_FENCED', serve([]))
})

test('the loser of a takeover writes nothing, and takes nothing back', async () => {
  await serve([join('s1')])
  await append(['x', 'y'], { qos: 1 })
  const taken = await serve([join('s1', { owner: 'b 2' })], { node: 'b', call: '1-b' })
  expect(taken).toMatchObject({ back: 2, given: ['s1 50002 2 x', 's1 50003 3 y'] })
  expect(
    (await serve([write('s1', { acknowledged: [50_002, 2] }), leave('s1', 0), join('s1')])).results,
  ).toEqual(['NOTOWNER', '', 'NOTOWNER b 2'])
  expect(await redis.hlen(keys.group(gid, 'given'))).toBe(2)
})

test('what members had goes back in its order, between what waits', async () => {
  await serve([join('s1'), join('s2', { base: 50_128 }), join('s3', { base: 50_256, limit: 0 })])
  await append(['v', 'w', 'x', 'y', 'z'])
  await serve([leave('s2', 0)]) // s1 has 1 and 3, s2 had 2 and 4
  await serve([leave('s1', 0)])
  expect((await redis.lrange(keys.group(gid, 'backlog'), 0, -1)).map((item) => item.slice(-1))).toEqual([
    'v',
    'w',
    'x',
    'y',
    'z',
  ])
  expect((await serve([write('s3', { limit: 5 })])).given.map((given) => given.slice(-1))).toEqual([
    'v',
    'w',
    'x',
    'y',
    'z',
  ])
})

test('QoS 2 stays with its member, as it is, until its session ends', async () => {
  await serve([join('s1'), join('s2', { base: 50_128, limit: 0 })])
  await append(['x', 'y'], { qos: 2 })
  await serve([write('s1', { received: [50_001, 1] })])
  expect(await serve([leave('s1', 0)])).toMatchObject({ back: 0, ended: 0 })
  expect((await serve([join('s1', { owner: 'a 2' })])).results).toEqual([
    [gid, 1, 2, 50_000, 50_000, '0 s 2 # 2 0 7 x', 50_001, '1 r 2 # 2 1 7 '],
  ])
  await serve([leave('s1', 0, 'a 2')])
  expect(await serve([leave('s1', 1, '')])).toMatchObject({ back: 0, ended: 2, results: [''] })
})

test('who unsubscribes completes what it has; the last one takes the group with it, whatever waits', async () => {
  await serve([join('s1'), join('s2', { base: 50_128 })])
  await append(['v', 'w', 'x', 'y', 'z'])
  expect(await serve([leave('s1', 1, 'a 1', [50_000, 0])])).toMatchObject({
    results: [''],
    waiting: 2,
    back: 1,
  })
  expect((await serve([write('s1', { acknowledged: [50_000, 0], returned: [50_001, 1] })])).waiting).toBe(2)
  expect(await redis.hkeys(keys.group(gid, 'members'))).toEqual(['s2'])
  expect((await serve([leave('s2', 1, 'a 1', [50_128, 0])])).results).toEqual([gid])
  expect((await redis.keys('*')).filter((key) => key.includes(gid))).toEqual([])
  expect((await append(['late'])).results).toEqual(['MISSING'])
})

describe('a group that is not there', () => {
  const both = (
    bodies: readonly string[],
    called: Called,
    publishers: readonly string[] = [],
    topics: readonly number[] = [],
  ): Promise<Reply> => {
    const all = bodies.flatMap((_, i) => [i + 1, i])
    const messages = bodies.flatMap((body, i) => [
      body,
      publishers[i] ?? '',
      i + 1,
      publishers[i] === undefined ? 1 : 2,
      topics[i] ?? 7 + i,
    ])
    return serve(
      [
        ['append', name, all],
        ['append', other, all.slice(0, 2)],
      ],
      { ...called, messages },
    )
  }

  test('a message for it and for another is appended to neither, whatever came with it is; so it is told when it comes again', async () => {
    await serve([join('s1', { limit: 0 })])
    expect(await both(['x', 'y'], { call: '2-w' })).toMatchObject({
      results: [1, 'MISSING'],
      held: [1],
      waiting: 1,
    })
    await serve([['join', other, '0abcdefghijkmg', ...join('s1').slice(3)]], { node: 'b', call: '1-b' })
    expect(await both(['x', 'y'], { call: '2-w' })).toMatchObject({ again: 1, held: [1], waiting: 1 })
    calls = 2
    expect(await both(['x'], {})).toMatchObject({ held: [], waiting: 2 })
  })

  test('the number of a message that is held is not noted: who sends it again, from another node, has it stored (R7)', async () => {
    await serve([join('s1', { limit: 0 })])
    const publishers = ['p', 'p', 'q']
    expect((await both(['x', 'y', 'z'], {}, publishers)).held).toEqual([1, 2])
    expect(await redis.hgetall(keys.partition(0, 'published'))).toEqual({ 'group:q': '3' })
    await serve([['join', other, '0abcdefghijkmg', ...join('s1').slice(3)]])
    expect(await both(['x', 'y', 'z'], { node: 'b', call: '1-b' }, publishers)).toMatchObject({
      held: [],
      waiting: 3,
    })
  })

  test('a message of a topic does not pass by one that is held, in a group that both go to', async () => {
    await serve([join('s1', { limit: 0 })])
    expect(await both(['x', 'y', 'z'], {}, [], [7, 8, 7])).toMatchObject({ held: [1, 3], waiting: 1 })
    await serve([['join', other, '0abcdefghijkmg', ...join('s1').slice(3)]], { node: 'b', call: '1-b' })
    expect(await both(['x', 'z'], {}, [], [7, 7])).toMatchObject({ held: [], waiting: 3 })
  })

  test('its entry was lost: it is there again with all that waits, as the node knows it', async () => {
    await serve([join('s1', { limit: 0 })])
    await append(['x'])
    await redis.del(keys.partition(0, 'groups'))
    expect((await append(['y'])).results).toEqual(['MISSING'])
    expect((await append(['y'], { known: `${gid} 1` })).waiting).toBe(2)
    expect(await redis.hgetall(keys.partition(0, 'groups'))).toEqual({ [name]: `${gid} 1` })
  })

  test('it was forgotten: nobody makes it again by what its node still knows', async () => {
    await serve([join('s1')])
    await serve([leave('s1', 1)])
    expect((await append(['y'], { known: `${gid} 1` })).results).toEqual(['MISSING'])
  })
})

test('what a member has was lost: what it acknowledges frees its place', async () => {
  await serve([join('s1')])
  await append(['x', 'y', 'z'])
  await redis.del(keys.group(gid, 'given'))
  await redis.hset(keys.group(gid, 'given'), 'other', '') // so that it is not empty
  const { given } = await serve([write('s1', { acknowledged: [50_000, 0] })])
  expect(given).toEqual(['s1 50002 2 z'])
})

test('a later owner that is none is replaced by who says that it is', async () => {
  await serve([join('s1', { owner: 'a 9' })])
  expect((await serve([join('s1')])).results).toEqual(['NOTOWNER a 9'])
  expect((await serve([join('s1', { none: 'a 9' })])).results).toEqual([[gid, 1, 0, 50_000]])
})

test('bytes of a backlog that were damaged are measured: nothing is dropped for them', async () => {
  await serve([join('s1', { limit: 0 })])
  await append(['x', 'y'])
  for (const damaged of ['1', '1e300', '99999999', 'nan', '-1']) {
    await redis.hset(keys.group(gid, 'group'), 'bytes', damaged)
    expect(await serve([['touch', name]])).toMatchObject({ dropped: 0, waiting: 2 })
    expect(Number(await redis.hget(keys.group(gid, 'group'), 'bytes'))).toBeGreaterThan(40)
  }
})

test('a full backlog drops its oldest, by number and by bytes', async () => {
  await serve([join('s1', { limit: 0 })])
  expect(await append(['v', 'w', 'x'], { max: 2 })).toMatchObject({ dropped: 1, waiting: 2 })
  expect(await append(['y'.repeat(500)], { bytesMax: 530 })).toMatchObject({ dropped: 2, waiting: 1 })
})

test('a QoS 2 message that was appended before is left out, whoever sends it again (R7)', async () => {
  await serve([join('s1', { limit: 0 })])
  const message = { qos: 2, publisher: 'p', n: 5 }
  expect((await append(['x'], message)).waiting).toBe(1)
  expect((await append(['x'], { ...message, node: 'b', call: '1-b' })).waiting).toBe(1)
})

describe('strategies', () => {
  const members = async (strategy: string, ordered = 0): Promise<void> => {
    rule = [strategy, ordered]
    await serve([join('s1', { limit: 4 }), join('s2', { base: 50_128, limit: 2 })])
  }
  const sids = ({ given }: Reply): string => given.map((text) => text.slice(1, 2)).join('')

  test.each([
    ['demand', '112121'],
    ['round-robin', '121211'],
    ['sticky', '111122'],
    ['hash-topic', '1212'],
    ['local-first', '112121'],
  ])(
    '%s gives six messages to %s, of whom the first takes four and the second two',
    async (strategy, expected) => {
      await members(strategy)
      expect(sids(await append(['a', 'b', 'c', 'd', 'e', 'f'].slice(0, expected.length)))).toBe(expected)
    },
  )

  test('random gives to all, and to nobody more than it takes', async () => {
    await members('random')
    expect(
      sids(await append(['a', 'b', 'c', 'd', 'e', 'f']))
        .split('')
        .sort()
        .join(''),
    ).toBe('111122')
  })

  test('a hash waits for its member, and others go on', async () => {
    await members('hash-topic')
    expect(sids(await append(['a', 'b', 'c', 'd', 'e', 'f', 'g']))).toBe('121211') // f waits for 2, g is 1's
    expect((await serve([write('s2', { acknowledged: [50_128, 0] })])).given).toEqual(['s2 50130 2 f'])
  })

  test('a hash passes by a member for which a hundred messages wait, and keeps those', async () => {
    await members('hash-topic')
    await serve([write('s1', { limit: 0 }), write('s2', { limit: 128 })])
    const even = Array.from({ length: 102 }, (_, i) => `m${i}`)
    const list = even.flatMap((_, i) => [i + 1, 0]) // all of them are the first member's
    const { given, waiting } = await serve([['append', name, list]], {
      max: 1_000,
      messages: even.flatMap((body) => [body, '', 0, 1, 7]),
    })
    expect([given.map((text) => text.split(' ')[0]), waiting]).toEqual([['s2', 's2'], 100])
    expect((await serve([write('s1', { limit: 1 })])).given).toEqual(['s1 50000 0 m0'])
  })

  test('five hundred messages for two hundred members: each takes as many as it has room for', async () => {
    for (const strategy of ['demand', 'round-robin', 'random', 'sticky', 'local-first']) {
      await redis.del(keys.partition(0, 'groups'), keys.group(gid, 'members'), keys.group(gid, 'given'))
      rule = [strategy, 0]
      const sids = Array.from({ length: 200 }, (_, i) => `s${String(i).padStart(3, '0')}`)
      await serve(
        sids.map((sid, i) => join(sid, { base: 50_000 + i, limit: (i % 4) + 1 })),
        { membersMax: 200 },
      )
      const { given, waiting } = await append(Array.from({ length: 500 }, () => 'x'))
      const counts = sids.map((sid) => given.filter((text) => text.startsWith(`${sid} `)).length)
      expect([counts, waiting], strategy).toEqual([sids.map((_, i) => (i % 4) + 1), 0])
    }
  })

  test('ordered: one message of a topic in flight, those behind it wait', async () => {
    await members('demand', 1)
    const reply = await serve([['append', name, [1, 0, 2, 0, 3, 0]]], {
      messages: ['a', '', 0, 1, 7, 'b', '', 0, 1, 7, 'c', '', 0, 1, 8],
    })
    expect([reply.given.map((text) => text.slice(-1)), reply.waiting]).toEqual([['1', '3'], 1])
    const next = await serve([write('s1', { acknowledged: [50_000, 0, 50_001, 1], limit: 4 })])
    expect(next.given.map((text) => text.slice(-1))).toEqual(['b'])
  })
})

test('a group is full with three members', async () => {
  const some = ['s1', 's2', 's3', 's4'].map((sid, i) => join(sid, { base: 50_000 + 128 * i }))
  expect((await serve(some)).results[3]).toBe('FULL')
})

test('at maxmemory members come, go and acknowledge; nothing is appended', async () => {
  await serve([join('s1')])
  await append(['x'])
  await redis.config('SET', 'maxmemory', '1')
  try {
    await fails('ERR_BRIDGE_REDIS_FULL', append(['y'], { call: '3-w' }))
    expect((await serve([write('s1', { acknowledged: [50_000, 0] })], { call: '3-w' })).results).toEqual([1])
  } finally {
    await redis.config('SET', 'maxmemory', '0')
  }
})

test('a key of a wrong type is put aside before anything is written', async () => {
  await serve([join('s1')])
  const backlog = keys.group(gid, 'backlog')
  await redis.set(backlog, 'damaged')
  await fails('ERR_BRIDGE_REDIS_DAMAGED', append(['x'], { call: '2-w' }))
  expect(await redis.get(asideOf(backlog))).toBe('damaged')
  expect((await append(['x'], { call: '2-w' })).given).toEqual(['s1 50000 0 1'])
})
