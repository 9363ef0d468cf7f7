// Inboxes under faults: whatever happens to connections, every message arrives once and in order; bytes that
// are not ours are counted and skipped; a reader that stands still is sealed out within about 2 s while
// publishers go on (P9); a node that was declared dead stores nothing any more, and nobody can make the inbox
// of a dead node again.
import { setTimeout as wait } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { Redis } from 'ioredis'
import { Clock } from '../../bridge/pace/clock.ts'
import { MessagePacker, packMessage } from '../../bridge/messages/codec.ts'
import { diagnostics, Reports } from '../../bridge/diagnostics.ts'
import { Waits } from '../../bridge/pace/waits.ts'
import { InboxReader } from '../../bridge/links/inbox-reader.ts'
import { InboxWriter } from '../../bridge/links/inbox-writer.ts'
import { runScript } from '../../bridge/redis/scripts.ts'
import { Membership } from '../../bridge/membership/membership.ts'
import { Sessions } from '../../bridge/sessions/sessions.ts'
import { connect, connectAll, whenReady } from '../../bridge/redis/redis.ts'
import { RouteKind } from '../../bridge/routes/routing-table.ts'
import { seededRandom } from '../support/random.ts'
import type { TestRedis } from '../support/redis.ts'
import { startLink } from './link.ts'
import {
  keys,
  killConnections,
  listen,
  messageOf,
  onEmptyRedis,
  publish,
  retainedOf,
  startPlane,
  untilEqual,
} from './planes.ts'

const { everything } = RouteKind
let redis: TestRedis
let client: Redis
onEmptyRedis((...both) => {
  ;[redis, client] = both
})

/** Declares a node dead, as a survivor does whose clock says so. */
async function bury(nodeId: string): Promise<void> {
  const connection = connect({ url: redis.url, timeoutMs: 2_000, onError: () => undefined })
  await whenReady(connection)
  const judge = new Membership(connection, keys.prefix, 'judge', 15_000)
  await judge.join()
  await judge.removeDead(nodeId)
  await new Sessions(
    connection,
    keys,
    () => judge.nodeId,
    { leaseMs: 15_000, sessionsMax: 1_000_000 },
    new Clock(),
    {
      append: () => Promise.resolve(),
      authorizeWill: (message) => message,
      publishWill: () => Promise.resolve(),
      expireRetained: () => Promise.resolve(),
      stillOwned: () => Promise.resolve(false),
      onMoved: () => undefined,
      onWanted: () => undefined,
      onWritten: () => undefined,
      onVanished: () => Promise.resolve(),
      subscriptionsOf: () => Promise.resolve([]),
      onFenced: async () => undefined,
    },
  ).releases.estate(nodeId)
  await judge.close()
  connection.disconnect()
}

const patience = { timeout: 20_000 }

const turn = (): Promise<void> =>
  new Promise((resolve) => {
    setImmediate(resolve)
  })

describe('once and in order', () => {
  test('connections are killed again and again, both ways at once', async () => {
    const random = seededRandom()
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    await Promise.all([a.plane.addRoute('to/a', everything), b.plane.addRoute('to/b', everything)])
    let pushing = true
    const flood = async (from: typeof a, topic: string): Promise<string[]> => {
      const pushed: string[] = []
      const done: string[] = []
      while (pushing) {
        for (let n = 1 + random.below(20); n > 0; n--) {
          const payload = `${topic} ${pushed.length}`
          pushed.push(payload)
          from.plane.publish(messageOf(topic, payload), () => done.push(payload))
        }
        for (let n = random.below(5); n >= 0; n--) await turn()
        if (pushed.length - done.length > 2_000)
          await expect.poll(() => pushed.length - done.length, { interval: 2 }).toBeLessThan(2_000)
      }
      await expect
        .poll(() => done.length, { message: `seed ${random.seed}: every publish is done`, timeout: 10_000 })
        .toBe(pushed.length)
      expect(done).toEqual(pushed)
      return pushed
    }
    const floods = [flood(a, 'to/b'), flood(b, 'to/a')] as const
    for (let round = 0; round < 60; round++) {
      const before = a.payloads.length + b.payloads.length
      await expect
        .poll(() => a.payloads.length + b.payloads.length, { interval: 1 })
        .toBeGreaterThan(before + random.below(100))
      await killConnections(client)
    }
    pushing = false
    const [toB, toA] = await Promise.all(floods)
    const seen = ({ payloads }: typeof a, topic: string): string[] =>
      payloads.filter((payload) => payload.startsWith(topic))
    for (const [to, topic, wanted] of [
      [a, 'to/a', toA],
      [b, 'to/b', toB],
    ] as const) {
      await expect.poll(() => seen(to, topic).length).toBeGreaterThanOrEqual(wanted.length)
      expect(
        seen(to, topic).join('\n') === wanted.join('\n'),
        `seed ${random.seed}: ${topic} arrived once and in order`,
      ).toBe(true)
    }
    expect([a.fenced, b.fenced]).toEqual([false, false])
  })

  test('a batch whose reply was lost is stored once', async () => {
    await using link = await startLink(redis)
    await using a = await startPlane(redis, 'a', { url: link.url })
    await using b = await startPlane(redis, 'b')
    await b.plane.addRoute('t', everything)
    await publish(a, messageOf('t', 'first'))
    const wanted = ['first']
    for (let round = 0; round < 10; round++) {
      // a barrier is answered with strings: the reply of the append is the first integer
      const lost = link.loseReply(':')
      await Promise.all([publish(a, messageOf('t', `${round}`)), lost])
      wanted.push(`${round}`)
    }
    await expect.poll(() => b.payloads).toEqual(wanted)
  })
})

test('an inbox that is made again where it is (a node heals twice) still gives what nobody read', async () => {
  await using a = await startPlane(redis, 'a')
  const connections = connectAll({ url: redis.url, timeoutMs: 2_000, onError: () => undefined }, 1_000, 0)
  await Promise.all([whenReady(connections.redis), whenReady(connections.inbox)])
  const received: string[] = []
  const reader = new InboxReader(connections, keys, 'b@1', new Clock(), {
    onMessage: ({ payload }) => {
      received.push(payload.toString())
    },
    onShared: () => undefined,
    onGiven: () => undefined,
    onLook: () => undefined,
    onBell: () => undefined,
    onHold: () => undefined,
    onFenced: () => undefined,
    onAmnesia: () => Promise.resolve(),
  })
  const writer = new InboxWriter(a.plane.connection, keys, a.plane.nodeId, 'b@1', new Clock(), {
    onOut: () => undefined,
    isGone: () => Promise.resolve(false),
    onFenced: () => undefined,
  })
  await reader.create()
  for (const payload of ['1', '2', '3']) await writer.push(messageOf('t', payload))
  await reader.create()
  reader.start()
  await writer.push(messageOf('t', '4'))
  await expect.poll(() => received.at(-1)).toBe('4')
  await reader.close()
  connections.redis.disconnect()
  expect(received).toEqual(['1', '2', '3', '4'])
})

test('what is sent to a node that was buried before is no longer tried when the journal says that it is gone', async () => {
  await using a = await startPlane(redis, 'a')
  let isGone = false
  const out: string[] = []
  const writer = new InboxWriter(a.plane.connection, keys, a.plane.nodeId, 'buried@1', new Clock(), {
    onOut: (nodeId) => {
      out.push(nodeId)
      writer.out()
    },
    isGone: () => Promise.resolve(isGone),
    onFenced: () => undefined,
  })
  using attempts = listen<{ script: string }>('scriptBegins')
  const pushed = writer.push(messageOf('t', 'late'))
  await expect
    .poll(() => attempts.events.filter(({ script }) => script === 'inbox-append').length)
    .toBeGreaterThan(2)
  isGone = true
  expect([await pushed, out]).toEqual(['no', ['buried@1']])
})

test('what a reader hands on to another node stays in its inbox until it is stored there', async () => {
  await using a = await startPlane(redis, 'a')
  const connections = connectAll({ url: redis.url, timeoutMs: 2_000, onError: () => undefined }, 1_000, 0)
  await Promise.all([whenReady(connections.redis), whenReady(connections.inbox)])
  let store: () => void = () => undefined
  const reader = new InboxReader(connections, keys, 'b@1', new Clock(), {
    onMessage: () => undefined,
    onShared: () =>
      new Promise<void>((stored) => {
        store = stored
      }),
    onGiven: () => undefined,
    onLook: () => undefined,
    onBell: () => undefined,
    onHold: () => undefined,
    onFenced: () => undefined,
    onAmnesia: () => Promise.resolve(),
  })
  const writer = new InboxWriter(a.plane.connection, keys, a.plane.nodeId, 'b@1', new Clock(), {
    onOut: () => undefined,
    isGone: () => Promise.resolve(false),
    onFenced: () => undefined,
  })
  await reader.create()
  reader.start()
  const left = async (): Promise<number> =>
    (await client.xrange(keys.inbox('b@1', 'stream'), '-', '+')).filter(([, [, body]]) =>
      body!.includes('picked'),
    ).length
  await writer.push(messageOf('t', 'before'))
  await writer.push(messageOf('t', 'picked'), { name: '$share/g/t', visited: [] })
  await writer.push(messageOf('t', 'after'))
  using scripts = listen<{ script: string }>('script')
  await expect
    .poll(() => scripts.events.filter(({ script }) => script === 'inbox-trim').length)
    .toBeGreaterThan(2)
  expect(await left()).toBe(1)
  // what stands behind it is freed, but for the entry that proves the place
  await writer.push(messageOf('t', 'later'))
  await expect.poll(() => client.xlen(keys.inbox('b@1', 'stream'))).toBe(2)
  expect(await left()).toBe(1)
  store()
  await expect.poll(() => client.xlen(keys.inbox('b@1', 'stream'))).toBe(1)
  expect(await left()).toBe(0)
  await reader.close()
  connections.redis.disconnect()
})

// Members of both left at once, each to the other's node. What is handed on has room of its own in either inbox.
test('two inboxes are full of what their nodes have to hand on to one another: all of it arrives, once', async () => {
  await using link = await startLink(redis)
  const got: { a: string[]; b: string[] } = { a: [], b: [] }
  const groups = { a: '$share/a/t', b: '$share/b/t' }
  const planeOf = (id: 'a' | 'b') =>
    startPlane(redis, id, {
      url: link.url,
      deliverShared: ({ payload }, name) =>
        name === groups[id] && got[id].push(payload.toString('latin1', 0, 2)) > 0,
    })
  await using a = await planeOf('a')
  await using b = await planeOf('b')
  await Promise.all([a.plane.addMember(groups.a), b.plane.addMember(groups.b)])
  await untilEqual([a, b])
  link.freeze()
  // as who published by the tables of before: to each what has its member at the other by now
  const fill = async (nodeId: string, name: string): Promise<void> => {
    const key = (noun: 'stream' | 'senders' | 'state'): string => keys.inbox(nodeId, noun)
    for (let n = 10; n < 26; n++) {
      const packer = new MessagePacker(new Clock())
      packer.addShared({ name, visited: [] })
      packer.add(messageOf('t', Buffer.alloc(1024 * 1024, String(n))))
      await runScript(
        client,
        'inbox-append',
        [key('stream'), key('senders'), key('state')],
        ['p@1', `${n - 9}-w`, packer.take(), 2 ** 24, 1_500],
      )
    }
  }
  await fill(a.plane.nodeId, groups.b)
  await fill(b.plane.nodeId, groups.a)
  link.thaw()
  const all = Array.from({ length: 16 }, (_, n) => String(n + 10))
  await expect.poll(() => [got.a, got.b].map((each) => [...each].sort()), patience).toEqual([all, all])
  for (const { plane } of [a, b])
    await expect.poll(() => client.xlen(keys.inbox(plane.nodeId, 'stream')), patience).toBe(1)
  expect([a.fenced, b.fenced]).toEqual([false, false])
})

test('who waits for room in an inbox is named with the node that it waits for', async () => {
  const reports = new Reports('a')
  const waits = new Waits(reports, 100)
  const redisOfA = connect({ url: redis.url, timeoutMs: 2_000, onError: () => undefined, waits, reports })
  await whenReady(redisOfA)
  const [stream, state] = [keys.inbox('b@1', 'stream'), keys.inbox('b@1', 'state')]
  await runScript(redisOfA, 'inbox-create', [stream, state], [])
  await client
    .multi()
    .xadd(stream, '*', 'b', '')
    .hset(state, 'in', 2 ** 25, 'in1', 2 ** 25)
    .exec()
  const [published, handedOn] = [0, 1].map((lane) => {
    const writer = new InboxWriter(
      redisOfA,
      keys,
      'a@1',
      'b@1',
      new Clock(),
      { onOut: () => undefined, isGone: () => Promise.resolve(false), onFenced: () => undefined },
      lane,
    )
    return writer.push(messageOf('t'))
  })
  const progress = setInterval(() => void client.hset(state, 'progress', Date.now() * 1_000), 20)
  try {
    await expect.poll(() => waits.named.map(({ code }) => code), patience).toEqual(['ERR_BRIDGE_INBOX_FULL'])
    expect(waits.named[0]!.reason).toMatch(/^inbox of b@1(, for what is handed on to it)?: \d+ bytes wait$/)
    await client.hset(state, 'in', 0, 'in1', 0)
    expect(await Promise.all([published, handedOn])).toEqual(['yes', 'yes'])
  } finally {
    clearInterval(progress)
    waits.close()
    redisOfA.disconnect()
  }
})

// Its clients are gone by then. What nobody reads any more would be handed on by others a lease later, and twice.
test('a node leaves: what it read and what it did not read for members of groups is elsewhere before it is fenced, once', async () => {
  const got: string[] = []
  await using c = await startPlane(redis, 'c', {
    deliverShared: ({ payload }) => got.push(payload.toString()) > 0,
  })
  let reads: () => void = () => undefined
  const isReading = new Promise<void>((resolve) => (reads = resolve))
  const b = await startPlane(redis, 'b', { deliverShared: () => (reads(), false) })
  await Promise.all([b, c].map(({ plane }) => plane.addMember('$share/g/t')))
  await untilEqual([b, c])
  using gone = listen<{ nodeId: string }>('nodeGone')
  const scripts: string[] = []
  const hear = (event: unknown): void => void scripts.push((event as { script: string }).script)
  diagnostics.script.subscribe(hear)
  const share = { name: '$share/g/t', visited: [] }
  const writer = new InboxWriter(c.plane.connection, keys, c.plane.nodeId, b.plane.nodeId, new Clock(), {
    onOut: () => writer.out(),
    isGone: () => Promise.resolve(true),
    onFenced: () => undefined,
  })
  const pushed = Array.from({ length: 300 }, (_, n) =>
    writer.push(messageOf('t', Buffer.from(String(n).padEnd(20_000))), share),
  )
  await isReading
  const closed = b.close()
  const stored = await Promise.all(pushed)
  await closed
  // by itself, not by another five seconds later
  expect([gone.events.length, scripts.filter((script) => script === 'inbox-fence').length]).toEqual([1, 1])
  diagnostics.script.unsubscribe(hear)
  const acknowledged = stored.flatMap((each, n) => (each === 'yes' ? [String(n)] : []))
  await expect.poll(() => got.length, patience).toBe(acknowledged.length)
  expect(got.map((payload) => payload.trim()).sort()).toEqual(acknowledged.sort())
  expect(scripts.lastIndexOf('inbox-append')).toBeLessThan(scripts.indexOf('inbox-fence'))
})

test('bells and groups to look after, more than one entry takes: all of them are told', async () => {
  await using a = await startPlane(redis, 'a')
  const connections = connectAll({ url: redis.url, timeoutMs: 2_000, onError: () => undefined }, 1_000, 0)
  await Promise.all([whenReady(connections.redis), whenReady(connections.inbox)])
  const [bells, looks]: [string[], string[]] = [[], []]
  let held = 0
  const reader = new InboxReader(connections, keys, 'b@1', new Clock(), {
    onMessage: () => undefined,
    onShared: () => undefined,
    onGiven: () => undefined,
    onLook: (name) => void looks.push(name),
    onBell: (sid) => void bells.push(sid),
    onHold: (_, topics) => (held += topics.length),
    onFenced: () => undefined,
    onAmnesia: () => Promise.resolve(),
  })
  const writer = new InboxWriter(a.plane.connection, keys, a.plane.nodeId, 'b@1', new Clock(), {
    onOut: () => undefined,
    isGone: () => Promise.resolve(false),
    onFenced: () => undefined,
  })
  await reader.create()
  reader.start()
  for (let n = 0; n < 10_001; n++) writer.ring(`sid${n}`)
  for (let n = 0; n < 1_001; n++) writer.look(`$share/${n}/t`)
  for (let n = 0; n < 1_001; n++) writer.hold(`${n}`, true)
  await writer.push(messageOf('t'))
  await expect.poll(() => [bells, looks, held]).toEqual([[''], [''], 1_000])
  await reader.close()
  connections.redis.disconnect()
})

test('a node is buried while another writes to it: what comes after its inbox is read is in no inbox, and is said to be', async () => {
  await using a = await startPlane(redis, 'a')
  const connections = connectAll({ url: redis.url, timeoutMs: 2_000, onError: () => undefined }, 1_000, 0)
  await whenReady(connections.redis)
  const writer = new InboxWriter(a.plane.connection, keys, a.plane.nodeId, 'b@1', new Clock(), {
    onOut: () => undefined,
    isGone: () => Promise.resolve(false),
    onFenced: () => undefined,
  })
  const judge = new Membership(connections.redis, keys.prefix, 'judge', 15_000)
  await judge.join()
  await runScript(
    connections.redis,
    'inbox-create',
    [keys.inbox('b@1', 'stream'), keys.inbox('b@1', 'state')],
    [],
  )
  const share = { name: '$share/g/t', visited: [] }
  const before = await writer.push(messageOf('t', 'before'), share)
  let late: Promise<unknown> | undefined
  judge.start({
    onFenced: () => undefined,
    onAmnesia: () => undefined,
    onError: () => undefined,
    onLeft: () => Promise.resolve(),
    onDead: async () => {
      using attempts = listen<{ script: string }>('scriptBegins')
      late = writer.push(messageOf('t', 'late'), share)
      const refused = (): boolean =>
        attempts.events.filter(({ script }) => script === 'inbox-append').length > 1
      await Promise.race([late, expect.poll(refused).toBe(true)])
    },
  })
  await judge.removeDead('b@1')
  writer.out() // the journal says that it is gone
  expect([before, await late]).toEqual(['yes', 'no'])
  await judge.close()
  connections.redis.disconnect()
})

test('what members of a group are given finds no room on a link that is full: their node looks for it', async () => {
  await using a = await startPlane(redis, 'a')
  const connections = connectAll({ url: redis.url, timeoutMs: 2_000, onError: () => undefined }, 1_000, 0)
  await Promise.all([whenReady(connections.redis), whenReady(connections.inbox)])
  const given: number[] = []
  const looks: string[] = []
  const reader = new InboxReader(connections, keys, 'b@1', new Clock(), {
    onMessage: () => undefined,
    onShared: () => undefined,
    onGiven: (_message, { id }) => void given.push(id),
    onLook: (name) => void looks.push(name),
    onBell: () => undefined,
    onHold: () => undefined,
    onFenced: () => undefined,
    onAmnesia: () => Promise.resolve(),
  })
  const writer = new InboxWriter(a.plane.connection, keys, a.plane.nodeId, 'b@1', new Clock(), {
    onOut: () => undefined,
    isGone: () => Promise.resolve(false),
    onFenced: () => undefined,
  })
  await reader.create()
  reader.start()
  const message = messageOf('t', Buffer.alloc(1_000_000))
  for (let id = 1; id <= 12; id++)
    writer.give('$share/g/t', message, { gid: 'g', sid: 's', id, seq: id, qos: 1, owner: 'b@1 1' })
  await expect.poll(() => looks).toEqual(['$share/g/t'])
  expect(given).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]) // 8 MiB may wait
  await reader.close()
  connections.redis.disconnect()
})

test('an exception while one message is handled, a bug, is said; the others come once, and its entry is not read again', async () => {
  await using a = await startPlane(redis, 'a')
  await using b = await startPlane(redis, 'b')
  await untilEqual([a, b])
  const inbox = keys.inbox(b.plane.nodeId, 'stream')
  using failed = listen<{ where: string; error: unknown }>('failed')
  const push = b.received.push.bind(b.received)
  b.received.push = (message) => {
    if (message.payload.toString() === 'poison') throw new RangeError('a bug')
    return push(message)
  }
  const writer = new InboxWriter(a.plane.connection, keys, a.plane.nodeId, b.plane.nodeId, new Clock(), {
    onOut: () => undefined,
    isGone: () => Promise.resolve(false),
    onFenced: () => undefined,
  })
  // of one turn: one entry
  await Promise.all(['1', 'poison', '2'].map((payload) => writer.push(messageOf('t', payload))))
  expect(await client.xlen(inbox)).toBeLessThanOrEqual(2) // it, and the one that proves the stream
  await writer.push(messageOf('t', '3'))
  await expect.poll(() => b.payloads.at(-1)).toBe('3')
  expect(b.payloads).toEqual(['1', '2', '3'])
  expect(failed.events).toEqual([{ where: 'inbox', error: new RangeError('a bug') }])
  expect(b.fenced).toBe(false)
})

test('topics to hold are told to the other nodes, the last word on each', async () => {
  await using a = await startPlane(redis, 'a')
  await using b = await startPlane(redis, 'b')
  await untilEqual([a, b])
  a.plane.hold('ü/1', true)
  a.plane.hold('t', true)
  a.plane.hold('t', false)
  await expect
    .poll(() => b.holds)
    .toEqual([
      { nodeId: a.plane.nodeId, topics: ['ü/1'], held: true },
      { nodeId: a.plane.nodeId, topics: ['t'], held: false },
    ])
  await publish(a, messageOf('t', 'goes on'))
})

test("a failover lost the entry at the reader's place, and the new master's clock is behind: what comes then is read all the same", async () => {
  await using a = await startPlane(redis, 'a')
  await using b = await startPlane(redis, 'b')
  await b.plane.addRoute('t', everything)
  await publish(a, messageOf('t', 'lost with the old master'))
  await expect.poll(() => b.payloads).toEqual(['lost with the old master'])
  const inbox = keys.inbox(b.plane.nodeId, 'stream')
  await expect.poll(() => client.xlen(inbox)).toBe(1)
  await client
    .multi()
    .del(inbox)
    .xadd(inbox, '5-1', 'b', '')
    .xadd(inbox, '5-2', 'b', packMessage(messageOf('t', 'new'), new Clock()))
    .exec()
  await killConnections(client)
  await expect.poll(() => b.payloads.at(-1)).toBe('new')
})

test('bytes that are not ours are counted and skipped, and what stands before and behind them arrives', async () => {
  await using a = await startPlane(redis, 'a')
  await using b = await startPlane(redis, 'b')
  await b.plane.addRoute('t', everything)
  using garbage = listen('garbage')
  const inbox = keys.inbox(b.plane.nodeId, 'stream')
  await publish(a, messageOf('t', 'before'))
  await client.xadd(inbox, '*', 'b', 'nonsense')
  await client.xadd(inbox, '*', 'what', Buffer.from([1, 0, 255, 255, 255, 255, 0, 1, 97]), 'more', 'fields')
  await publish(a, messageOf('t', 'behind'))
  await expect.poll(() => b.payloads).toEqual(['before', 'behind'])
  expect(garbage.events).toEqual([
    { where: 'inbox', bytes: 8 },
    { where: 'inbox', bytes: 9 },
  ])
  await expect.poll(() => client.xlen(inbox)).toBe(1) // handled, too: freed
})

describe('sealed', () => {
  test('the inbox of a reader that stands still: publishers wait about 2 s for it, then go on without', async () => {
    await using a = await startPlane(redis, 'a')
    await using link = await startLink(redis)
    await using b = await startPlane(redis, 'b', { url: link.url })
    await using c = await startPlane(redis, 'c')
    for (const { plane } of [b, c]) await plane.addRoute('t', everything)
    link.freeze()
    try {
      using sealed = listen('inboxSealed')
      using shed = listen('shed')
      const payload = Buffer.alloc(256 * 1024)
      const start = Date.now()
      for (let n = 0; n < 90; n++) await publish(a, messageOf('t', payload)) // 22.5 MiB, above the mark of 16
      console.log(
        `90 publishes of 256 KiB beside an inbox that is sealed on the way: ${Date.now() - start} ms`,
      )
      expect(sealed.events).toEqual([{ nodeId: b.plane.nodeId }])
      await expect.poll(() => c.payloads.length, patience).toBe(90)
      a.plane.publishQos0(messageOf('t', 'zero', { qos: 0 }))
      await expect.poll(() => c.payloads.at(-1), patience).toBe('zero')
      expect(shed.events).toEqual([]) // the full inbox is not on the way any more
    } finally {
      link.thaw()
    }
    // at its next step: what it missed it must not serve on
    await expect.poll(() => b.fenced, patience).toBe(true)
  })

  test('the owner of a sealed inbox is told, also when there is nothing to read (P9)', async () => {
    await using b = await startPlane(redis, 'b')
    await client.hset(keys.inbox(b.plane.nodeId, 'state'), 'sealed', '1') // as inbox-append.lua does
    await expect.poll(() => b.fenced, patience).toBe(true)
  })

  test('above the mark QoS 0 is shed and counted, and QoS ≥ 1 waits for a reader that goes on in time', async () => {
    await using a = await startPlane(redis, 'a')
    await using link = await startLink(redis)
    await using b = await startPlane(redis, 'b', { url: link.url })
    await b.plane.addRoute('t', everything)
    await publish(a, messageOf('t', 'first'))
    link.freeze()
    // however slow this machine is: in time
    await client.hset(keys.inbox(b.plane.nodeId, 'state'), 'progress', Date.now() * 1_000 + 60e6)
    using shed = listen<{ count: number }>('shed')
    let done = 0
    for (let n = 0; n < 90; n++)
      a.plane.publish(messageOf('t', Buffer.alloc(256 * 1024)), () => {
        done++
      })
    await expect
      .poll(
        () => {
          a.plane.publishQos0(messageOf('t', 'zero', { qos: 0 }))
          return shed.events.length
        },
        { ...patience, interval: 10 },
      )
      .toBeGreaterThan(0)
    expect(done).toBeLessThan(90)
    link.thaw()
    await expect.poll(() => done, patience).toBe(90)
    await expect.poll(() => b.received.filter(({ qos }) => qos === 1).length, patience).toBe(91)
    expect(b.fenced).toBe(false)
  })
})

describe('declared dead', () => {
  test('a node that wakes up is fenced, and nothing that it still sends is stored', async () => {
    await using link = await startLink(redis)
    await using victim = await startPlane(redis, 'victim', { url: link.url })
    await using b = await startPlane(redis, 'b')
    await b.plane.addRoute('#', everything)
    await publish(victim, messageOf('t', 'alive'))
    await expect.poll(() => b.payloads).toEqual(['alive'])
    link.freeze()
    let done = 0
    victim.plane.publishQos0(messageOf('t', 'dead zero', { qos: 0 }))
    victim.plane.publish(messageOf('t', 'dead'), () => {
      done++
    })
    const subscribed = victim.plane.addRoute('dead', everything).then(
      () => 'confirmed',
      () => 'refused',
    )
    await turn()
    await turn() // sent, and stuck on the way
    await bury(victim.plane.nodeId)
    await publish(b, messageOf('t', 'meanwhile'))
    link.thaw()
    await expect.poll(() => victim.fenced, { timeout: 10_000 }).toBe(true)
    expect(await subscribed).toBe('refused')
    await publish(b, messageOf('t', 'behind'))
    await wait(200) // proves an absence
    expect(done).toBe(0)
    expect(b.payloads).toEqual(['alive', 'meanwhile', 'behind'])
    expect(await client.keys(`*${victim.plane.nodeId}*`)).toEqual([])
  })

  test('nor does it change a Retained Message that the others have set since', async () => {
    await using link = await startLink(redis)
    await using victim = await startPlane(redis, 'victim', { url: link.url })
    await using b = await startPlane(redis, 'b')
    await publish(victim, messageOf('kept/1', 'first', { retain: true }))
    link.freeze()
    victim.plane.publish(messageOf('kept/1', 'dead', { retain: true }), () => undefined)
    victim.plane.publish(messageOf('kept/2', 'dead', { retain: true }), () => undefined)
    await turn()
    await turn() // sent, and stuck on the way
    await bury(victim.plane.nodeId)
    await publish(b, messageOf('kept/1', 'newer', { retain: true }))
    link.thaw()
    await expect.poll(() => victim.fenced, { timeout: 10_000 }).toBe(true)
    await publish(b, messageOf('t'))
    expect([await retainedOf(b, 'kept/1'), await retainedOf(b, 'kept/2')]).toEqual([['kept/1=newer'], []])
    expect(await retainedOf(b, 'kept/#')).toEqual(['kept/1=newer'])
  })

  test('a late sender cannot make the inbox of a dead node again, and is let go when the node is known to be gone', async () => {
    await using a = await startPlane(redis, 'a')
    const target = 'gone@1'
    let [outs, fenced] = [0, 0]
    const writer = new InboxWriter(a.plane.connection, keys, a.plane.nodeId, target, new Clock(), {
      isGone: () => Promise.resolve(false),
      onOut: () => {
        outs++
      },
      onFenced: () => {
        fenced++
      },
    })
    let settled = false
    const stored = writer.push(messageOf('t', 'late')).then(() => {
      settled = true
    })
    using scripts = listen('script')
    await wait(200) // several attempts; proves an absence
    expect([
      settled,
      outs,
      fenced,
      scripts.events.filter(({ script }) => script === 'inbox-append').length,
    ]).toEqual([false, 0, 0, 0])
    expect(await client.keys(`*${target}*`)).toEqual([])
    writer.out()
    await stored
    await expect(writer.push(messageOf('t', 'later'))).resolves.toBe('no')
    expect(await client.keys(`*${target}*`)).toEqual([])
  })

  test('a sender that was fenced out of an inbox: nothing settles, nothing is stored, its owner is told', async () => {
    await using a = await startPlane(redis, 'a')
    await using b = await startPlane(redis, 'b')
    await bury('dead@1')
    let fenced = 0
    const writer = new InboxWriter(a.plane.connection, keys, 'dead@1', b.plane.nodeId, new Clock(), {
      onOut: () => undefined,
      isGone: () => Promise.resolve(false),
      onFenced: () => {
        fenced++
      },
    })
    let settled = false
    void writer.push(messageOf('t', 'dead')).then(() => {
      settled = true
    })
    await expect.poll(() => fenced).toBe(1)
    await publish(a, messageOf('t', 'x'))
    expect([settled, b.payloads]).toEqual([false, []])
  })
})
