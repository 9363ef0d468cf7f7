// A rolling upgrade (P11): what a node of a later version would have written, by hand, in each place where
// records stand. What must be understood and is not is passed by alone where it travels, kept where it is
// stored, and said; what a node cannot do without makes it leave, or it is not let in. Everything else goes
// on.
import type { Redis } from 'ioredis'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Clock } from '../../bridge/pace/clock.ts'
import { packMessage } from '../../bridge/messages/codec.ts'
import { Keys } from '../../bridge/redis/keys.ts'
import { messageOf, openClient } from '../bridge/planes.ts'
import { startCluster, TestNode, type TestCluster } from '../support/cluster.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { WireClient } from '../support/wire.ts'

const keys = new Keys('test')
let redis: TestRedis
let cluster: TestCluster
let client: Redis & Disposable
beforeAll(async () => {
  redis = await startRedis()
  cluster = await startCluster({ nodes: 2, redis })
  client = openClient(redis)
})
afterAll(async () => {
  client.disconnect()
  await cluster[Symbol.asyncDispose]()
  await redis[Symbol.asyncDispose]()
})

const lasting = { clean: false, properties: { sessionExpiryInterval: 600 } } as const
const wire = (node: number, id: string, options: Parameters<typeof WireClient.connect>[2] = {}) =>
  WireClient.connect(cluster.node(node).url, id, options)
const packed = (topic: string, payload: string): Buffer => packMessage(messageOf(topic, payload), new Clock())

/** As one record of an entry. */
const recordOf = (topic: string, payload: string): Buffer => packed(topic, payload).subarray(1)
const unknownRecord = Buffer.from('ff' + '00000002' + '0707', 'hex')
/** A message with a field that must be understood: qos 1, fields, topic "later", one field. */
const laterMessage = Buffer.from(
  '01' + '81' + '00000012' + '81' + '00056c61746572' + '00000006' + '81' + '00000001' + '07',
  'hex',
)
const laterVersion = Buffer.concat([Buffer.from([2]), unknownRecord])
const laters = [laterMessage, laterVersion, Buffer.concat([Buffer.from([1]), unknownRecord])]

const said = async (node: number, where: string): Promise<number> =>
  Number(
    new RegExp(`aedes_cluster_later_records_total\\{where="${where}"\\} (\\d+)`).exec(
      (await cluster.node(node).admin('/metrics')).body,
    )?.[1] ?? 0,
  )

async function drop(gone: WireClient): Promise<void> {
  gone.socket.destroy()
  await gone.closed
}

/** The next messages, acknowledged. */
async function take(from: WireClient, count: number): Promise<string[]> {
  const got: string[] = []
  while (got.length < count) {
    const packet = await from.next('publish')
    if (packet.qos > 0) from.send({ cmd: 'puback', messageId: packet.messageId! })
    got.push(String(packet.payload))
  }
  return got
}

const sidOf = async (clientId: string): Promise<string> =>
  (await client.hget(keys.partition(keys.partitionFor(clientId), 'clients'), clientId))!

/** An offline session subscribed to its own name, with what is published meanwhile. */
async function asleep(clientId: string, ...payloads: string[]): Promise<string> {
  const sleeper = await wire(0, clientId, lasting)
  await sleeper.subscribe(clientId)
  await drop(sleeper)
  for (const payload of payloads) await cluster.node(1).publish(clientId, payload, { qos: 1 })
  return sidOf(clientId)
}

test('in an inbox: what is beside it in the same entry comes, and what comes after', async () => {
  await using subscriber = await wire(0, 'inbox')
  await subscriber.subscribe('inbox')
  const inbox = keys.inbox((await client.hget(keys.bus('names'), 'a'))!, 'stream')
  const before = await said(0, 'inbox')
  await client.xadd(
    inbox,
    '*',
    'b',
    Buffer.concat([
      packed('inbox', '1'),
      unknownRecord,
      recordOf('inbox', '2'),
      laterMessage.subarray(1),
      recordOf('inbox', '3'),
    ]),
  )
  await client.xadd(inbox, '*', 'b', laterVersion)
  await cluster.node(1).publish('inbox', '4', { qos: 1 })
  expect(await take(subscriber, 4)).toEqual(['1', '2', '3', '4'])
  expect((await said(0, 'inbox')) - before).toBe(3)
  expect(cluster.node(0).log).toContain('later version')
})

test('in a queue: it stays, in flight, neither sent nor acknowledged away; a node that understands it sends it', async () => {
  const sid = await asleep('queue', '1')
  await client.rpush(keys.session(sid, 'queue'), ...laters)
  await cluster.node(1).publish('queue', '2', { qos: 1 })
  const first = await wire(0, 'queue', lasting)
  expect(await take(first, 2)).toEqual(['1', '2'])
  await cluster.node(1).publish('queue', '3', { qos: 1 })
  expect(await take(first, 1)).toEqual(['3'])
  expect(await said(0, 'queue')).toBe(3)
  const inflight = keys.session(sid, 'inflight')
  await expect.poll(() => client.hlen(inflight)).toBe(3)
  // of what was never sent
  for (const id of await client.hkeys(inflight)) first.send({ cmd: 'puback', messageId: Number(id) })
  await cluster.node(1).publish('queue', '4', { qos: 1 })
  expect(await take(first, 1)).toEqual(['4'])
  await drop(first)
  await expect.poll(() => client.hlen(inflight)).toBe(3)
  const [id, entry] = Object.entries(await client.hgetall(inflight))[0]!
  await client.hset(
    inflight,
    id,
    Buffer.concat([Buffer.from(`${Number.parseInt(entry, 10)} `), packed('queue', 'understood')]),
  )
  await using second = await wire(1, 'queue', lasting)
  expect(await take(second, 1)).toEqual(['understood'])
  await expect.poll(() => client.hlen(inflight)).toBe(2)
  expect(await said(1, 'inflight')).toBe(2)
})

test('in flight: the session goes on beside it, and its identifier is given to nothing else', async () => {
  const sid = await asleep('flight', ...Array.from({ length: 9 }, (_, n) => String(n)))
  const inflight = keys.session(sid, 'inflight')
  for (const [i, later] of laters.entries())
    await client.hset(inflight, 2 * i + 1, Buffer.concat([Buffer.from(`${i} `), later]))
  await using back = await wire(1, 'flight', lasting)
  const ids: number[] = []
  for (let n = 0; n < 9; n++) {
    const packet = await back.next('publish')
    expect(String(packet.payload)).toBe(String(n))
    ids.push(packet.messageId!)
    back.send({ cmd: 'puback', messageId: packet.messageId! })
  }
  for (const kept of [1, 3, 5]) expect(ids).not.toContain(kept)
  await expect.poll(() => client.hkeys(inflight)).toEqual(['1', '3', '5'])
})

test('retained: the others are sent, and it stays', async () => {
  await cluster.node(0).publish('retained/known', 'known', { qos: 1, retain: true })
  await cluster.node(0).publish('retained/later', 'for the index', { qos: 1, retain: true })
  const partition = keys.partition(keys.partitionFor('retained/later'), 'retained')
  for (const record of laters) {
    const later = Buffer.concat([Buffer.alloc(8), record]) // its stamp: older than any SUBSCRIBE
    await client.hset(partition, 'retained/later', later)
    await using subscriber = await wire(1, 'retained')
    await subscriber.subscribe('retained/#')
    expect(await take(subscriber, 1)).toEqual(['known'])
    expect(await client.hgetBuffer(partition, 'retained/later')).toEqual(later)
  }
  await expect.poll(() => said(1, 'retained')).toBe(3)
})

test('a will: it is kept for who understands it, and others are published', async () => {
  await using watcher = await wire(1, 'watcher')
  await watcher.subscribe('will')
  const doomed = await wire(0, 'will', {
    ...lasting,
    will: { topic: 'will', payload: Buffer.from('later'), qos: 1, retain: false },
  })
  const sid = await sidOf('will')
  const wills = keys.partition(keys.partitionFor('will'), 'wills')
  const [name] = (await client.hkeys(wills)).filter((field) => field.startsWith(sid))
  await client.hset(wills, name!, laterMessage)
  await drop(doomed)
  await drop(
    await wire(0, 'another', {
      will: { topic: 'will', payload: Buffer.from('another'), qos: 1, retain: false },
    }),
  )
  expect(await take(watcher, 1)).toEqual(['another'])
  await expect.poll(() => client.hgetBuffer(wills, `taken:${name}`)).toEqual(laterMessage)
  await expect.poll(async () => (await said(0, 'will')) + (await said(1, 'will'))).toBeGreaterThan(0)
})

test('a subscription, and what is due: they stay as they are, whatever becomes of the session at a node that does not know them', async () => {
  const sid = await asleep('subscribed')
  const stored = keys.session(sid, 'subscriptions')
  const later = { 'later/bit': '129', 'later/qos': '3', 'later/fields': '1 7 x=y' }
  await client.hset(stored, later)
  const due = keys.partition(keys.partitionFor('subscribed'), 'due')
  await client.zadd(due, 1, 'x:what is it')
  await using back = await wire(0, 'subscribed', lasting)
  await back.subscribe('another')
  await cluster.node(1).publish('subscribed', 'known', { qos: 1 })
  expect(await take(back, 1)).toEqual(['known'])
  expect(await said(0, 'subscriptions')).toBe(1)
  await client.hset(keys.session(sid, 'session'), 'epoch', 1) // the node writes it down again
  await expect.poll(() => client.hget(keys.session(sid, 'session'), 'epoch')).not.toBe('1')
  expect(await client.hgetall(stored)).toEqual({ subscribed: '1', another: '1', ...later })
  await expect.poll(async () => Number(await client.zscore(due, 'x:what is it'))).toBeGreaterThan(Date.now())
  expect((await said(0, 'due')) + (await said(1, 'due'))).toBe(1)
  back.send({ cmd: 'unsubscribe', messageId: 9, unsubscriptions: ['later/qos'] })
  await back.next('unsuback')
  expect(Object.keys(await client.hgetall(stored)).sort()).toEqual([
    'another',
    'later/bit',
    'later/fields',
    'subscribed',
  ])
})

test('in the journal: who cannot follow leaves and joins again behind it; what may be skipped is', async () => {
  const [first, second] = await Promise.all([0, 1].map((node) => wire(node, `journal ${node}`)))
  const append = async (record: string): Promise<void> => {
    const position = await client.incr(keys.bus('position'))
    const head = Buffer.concat([Buffer.from('01' + '0102030405060708' + '0005', 'hex'), Buffer.from('x@123')])
    await client.xadd(
      keys.bus('journal'),
      `${position}-0`,
      'e',
      Buffer.concat([head, Buffer.from(record, 'hex')]),
    )
  }
  await append('7f' + '00000002' + '0707')
  await cluster.node(1).publish('journal', 'barrier', { qos: 1 })
  expect([await first!.settled(), await second!.settled()]).toEqual([[], []])
  await append('ff' + '00000002' + '0707')
  await Promise.all([first!.closed, second!.closed])
  for (const node of [0, 1]) {
    await expect.poll(async () => (await cluster.node(node).admin('/readyz')).status).toBe(200)
    expect(await said(node, 'journal')).toBe(1)
  }
  await using subscriber = await wire(0, 'journal after')
  await subscriber.subscribe('journal')
  await cluster.node(1).publish('journal', 'after', { qos: 1 })
  expect(await take(subscriber, 1)).toEqual(['after'])
})

test('a node that cannot read what is written is not let in, and says so', async () => {
  expect(JSON.parse((await client.hvals(keys.bus('nodes')))[0]!)).toMatchObject({ records: [1, 2] })
  const later = new Keys('later').bus('records') // of a cluster that was upgraded and is stopped
  await client.set(later, 3)
  await using node = new TestNode('late', ['--redis', redis.url, '--prefix', 'later'])
  await expect(node.start()).rejects.toThrow(/records are written in version 3, this version reads 1 to 2/)
  await client.set(later, 1)
  await node.start()
})

test('Shared Subscriptions are refused while a node is there that knows none', async () => {
  const old = new Keys('old')
  await client.set(old.bus('records'), 1)
  await client.hset(old.bus('nodes'), 'old@1', '{"records":[1,1]}')
  const now = `${Date.now()}000`
  await client.hset(old.bus('leases'), 'old@1', `${now}:${now}`)
  await using node = new TestNode('new', ['--redis', redis.url, '--prefix', 'old'])
  await node.start()
  const asked = async (id: string): Promise<unknown> => {
    const member = await WireClient.connect(node.url, id)
    const packet = {
      cmd: 'subscribe',
      messageId: 1,
      subscriptions: [{ topic: '$share/g/x', qos: 1 }],
    } as const
    member.send(packet as unknown as Parameters<typeof member.send>[0])
    return [member.connack?.properties?.sharedSubscriptionAvailable, (await member.next('suback')).granted]
  }
  expect(await asked('early')).toEqual([false, [0x9e]])
  await client.hdel(old.bus('nodes'), 'old@1')
  await client.hdel(old.bus('leases'), 'old@1')
  await expect.poll(() => client.get(old.bus('records'))).toBe('2')
  await expect.poll(() => asked('late')).toEqual([true, [1]])
})
