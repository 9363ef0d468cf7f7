// Bounds tried exactly: at the bound, one below, one above; what the wire says of each, and what is counted. On a
// node with Redis and on one without. Those of names and counts are in test/situations/bounds.test.ts, what memory
// they leave in test/fault/bounds.test.ts.
import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import type { Packet } from 'mqtt-packet'
import { Redis } from 'ioredis'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { packMessage } from '../../bridge/messages/codec.ts'
import { Clock } from '../../bridge/pace/clock.ts'
import { createNode, type Config, type Node } from '../../broker/index.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { messageOf } from '../bridge/planes.ts'
import { WireClient } from '../support/wire.ts'

let redis: TestRedis
let count = 0
const nodes: Node[] = []
beforeAll(async () => {
  redis = await startRedis('--appendonly', 'no')
})
afterEach(async () => {
  await Promise.all(nodes.splice(0).map((node) => node.close()))
})
afterAll(() => redis[Symbol.asyncDispose]())

const prefixed = (): string => `b${String(++count).padStart(3, '0')}`

async function serve(store: string, options: Partial<Config>): Promise<{ node: Node; url: string }> {
  const where = store === 'Redis' ? { redis: redis.url, prefix: prefixed() } : {}
  const node = await createNode({ listen: ['mqtt://127.0.0.1:0'], ...where, ...options })
  nodes.push(node)
  return { node, url: node.endpoints[0]! }
}

const counted = async (node: Node, counter: string): Promise<number> =>
  Number(
    (await node.metricsText())
      .split('\n')
      .find((line) => line.startsWith(`aedes_cluster_${counter} `))
      ?.split(' ')[1],
  )

const publish = (topic: string, bytes: number, messageId = 1): Packet => ({
  cmd: 'publish',
  topic,
  payload: Buffer.alloc(bytes),
  qos: 1,
  messageId,
  retain: false,
  dup: false,
})

async function granted(client: WireClient, topics: readonly string[]): Promise<number[]> {
  client.send({
    cmd: 'subscribe',
    messageId: 1,
    subscriptions: topics.map((topic) => ({ topic, qos: 1, nl: false, rap: false, rh: 0 })),
  })
  return (await client.next('suback')).granted as number[]
}

async function unsubscribed(client: WireClient, filters: string[]): Promise<void> {
  client.send({ cmd: 'unsubscribe', messageId: 2, unsubscriptions: filters })
  await client.next('unsuback')
}

const lasting = { properties: { sessionExpiryInterval: 600 } }
/** Of the connections of a test: it ends without what it is in the middle of. */
const leave = async (client: WireClient): Promise<void> => {
  client.send({ cmd: 'disconnect' })
  await client.untilClosed()
}

describe.each(['memory', 'Redis'])('%s', (store) => {
  /** Filters of five bytes: each costs its client 788, and a node 660. */
  const ten = Array.from({ length: 10 }, (_, n) => `abc/${n}`)
  test.each([
    ['subscriptionBytesMax', 'subscription-bytes', 10 * 788],
    ['routingBytesMax', 'routing-bytes', 10 * 660],
  ])('%s: ten filters cost it exactly, one by one and in one SUBSCRIBE', async (option, cause, exact) => {
    for (const [more, isLast] of [
      [-1, false],
      [0, true],
      [1, true],
    ] as const) {
      const { node, url } = await serve(store, { [option]: exact + more })
      const client = await WireClient.connect(url, 'client')
      const answers = [...Array<number>(9).fill(1), isLast ? 1 : 0x97]
      expect(await granted(client, ten)).toEqual(answers)
      await unsubscribed(client, ten)
      // its routes go a moment later
      await expect.poll(() => [...node.routes().routes]).toEqual([])
      const each: number[] = []
      for (const filter of ten) each.push(...(await granted(client, [filter])))
      expect(each).toEqual(answers)
      expect(await counted(node, `refusals_total{cause="${cause}"}`)).toBe(isLast ? 0 : 2)
      if (isLast) expect(await granted(client, ['x'])).toEqual([0x97])
      expect(await granted(client, ten.slice(0, 2))).toEqual([1, 1]) // what it has
      await unsubscribed(client, ten.slice(0, 1))
      await expect.poll(() => granted(client, ['abc/x'])).toEqual([1]) // as large as the one that is gone
      await leave(client)
    }
  })

  test('queueBytesMax: three messages fill a queue exactly, the oldest goes for a byte less', async () => {
    /** What is left of three messages, under the bound; and how many bytes they took. */
    const left = async (
      queueBytesMax: number,
    ): Promise<{ topics: string[]; bytes: number; dropped: number }> => {
      const { node, url } = await serve(store, { queueBytesMax })
      const sleeper = await WireClient.connect(url, 'sleeper', lasting)
      await sleeper.subscribe('#', { qos: 1 })
      await leave(sleeper)
      for (const topic of ['1', '2', '3']) await node.publish(topic, Buffer.alloc(1_000), { qos: 1 })
      let bytes = NaN
      if (store === 'Redis') {
        const client = new Redis(redis.url)
        const [queue] = await client.keys(`b${String(count).padStart(3, '0')}:*:queue:*`)
        bytes = Number(await client.call('MEMORY', 'USAGE', queue!, 'SAMPLES', '0'))
        client.disconnect()
      }
      const again = await WireClient.connect(url, 'sleeper', { clean: false, ...lasting })
      const topics: string[] = []
      while (topics.at(-1) !== '3') topics.push((await again.next('publish')).topic)
      await leave(again)
      return {
        topics,
        bytes,
        dropped: await counted(node, 'messages_dropped_total{cause="full-queue",qos="1"}'),
      }
    }
    const all = await left(1_000_000)
    expect(all).toMatchObject({ topics: ['1', '2', '3'], dropped: 0 })
    // Redis: what the list takes of it; memory: the bodies
    const exact =
      store === 'Redis' ? all.bytes : 3 * packMessage(messageOf('1', Buffer.alloc(1_000)), new Clock()).length
    expect(await left(exact)).toMatchObject({ topics: ['1', '2', '3'], dropped: 0 })
    expect(await left(exact + 1)).toMatchObject({ topics: ['1', '2', '3'], dropped: 0 })
    expect(await left(exact - 1)).toMatchObject({ topics: ['2', '3'], dropped: 1 })
  })

  test('publishingBytesMax: who has so much on its way is read no further until it is stored', async () => {
    const { node, url } = await serve(store, { publishingBytesMax: 2_000 })
    const client = await WireClient.connect(url, 'client')
    let held = 0
    for (const [bytes, isHeld] of [
      [1_998, false],
      [1_999, true],
      [2_000, true],
    ] as const) {
      client.send(publish('t', bytes))
      await client.next('puback')
      if (isHeld) held++
      expect(await counted(node, 'held_back_total{cause="publishes"}')).toBe(held)
    }
  })

  test('inFlightMax and inFlightBytesMax: what is beyond waits until something is acknowledged', async () => {
    const { node, url } = await serve(store, { inFlightMax: 3, inFlightBytesMax: 65_536 })
    for (const [name, options] of Object.entries({ clean: {}, lasting })) {
      const client = await WireClient.connect(url, name, options)
      await client.subscribe(name, { qos: 1 })
      for (let n = 0; n < 4; n++) await node.publish(name, Buffer.alloc(10), { qos: 1 })
      expect(await arrived(client, 3)).toHaveLength(3)
      client.send({ cmd: 'puback', messageId: 1 })
      expect(await arrived(client, 1)).toHaveLength(1)
      await leave(client)
    }
    for (const [bytes, isFull] of [
      [32_766, false],
      [32_767, true],
      [32_768, true],
    ] as const) {
      const client = await WireClient.connect(url, `bytes-${bytes}`, lasting)
      await client.subscribe('b', { qos: 1 })
      await node.publish('b', Buffer.alloc(32_767), { qos: 1 })
      await arrived(client, 1)
      await node.publish('b', Buffer.alloc(bytes), { qos: 1 })
      await arrived(client, 1)
      await node.publish('b', Buffer.alloc(5_000), { qos: 1 })
      if (isFull) {
        expect(await client.settled()).toEqual([])
        client.send({ cmd: 'puback', messageId: 1 })
      }
      await arrived(client, 1)
      client.send({ cmd: 'subscribe', messageId: 9, subscriptions: [{ topic: 'none', qos: 0 }] })
      client.send({ cmd: 'disconnect', properties: { sessionExpiryInterval: 0 } })
      await client.closed
    }
  })

  test('waitingBytesMax: a client for which more waits is disconnected with 0x97', async () => {
    const { node, url } = await serve(store, {
      inFlightMax: 1,
      waitingBytesMax: 1_024,
      packetBytesMax: 1_024,
    })
    const dropped = (): Promise<number> =>
      counted(node, 'messages_dropped_total{cause="slow-subscriber",qos="1"}')
    for (const [last, isEnded] of [
      [246, false],
      [247, false],
      [248, true],
    ] as const) {
      const client = await WireClient.connect(url, `client-${last}`)
      await client.subscribe('t', { qos: 1 })
      // of 256 bytes; one is in flight
      for (let n = 0; n < 8; n++) await node.publish('t', Buffer.alloc(247), { qos: 1 })
      await node.publish('t', Buffer.alloc(last), { qos: 1 })
      if (isEnded)
        expect(await client.untilClosed()).toMatchObject([
          { cmd: 'publish' },
          { cmd: 'disconnect', reasonCode: 0x97 },
        ])
      else {
        expect(await arrived(client, 1)).toHaveLength(1)
        await leave(client)
      }
      expect(await dropped()).toBe(isEnded ? 1 : 0)
    }
  })

  test('topicAliasMax: CONNACK says it, one more is 0x94', async () => {
    for (const topicAliasMax of [0, 3]) {
      const { node, url } = await serve(store, { topicAliasMax })
      const client = await WireClient.connect(url, 'client')
      expect(client.connack.properties?.topicAliasMaximum ?? 0).toBe(topicAliasMax)
      const name = (topicAlias: number): void =>
        client.send({ ...publish('t', 1), properties: { topicAlias } } as Packet)
      for (let alias = 1; alias <= topicAliasMax; alias++) {
        name(alias)
        await client.next('puback')
      }
      name(topicAliasMax + 1)
      expect(await client.untilClosed()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x94 }])
      expect(await counted(node, 'refusals_total{cause="topic-alias"}')).toBe(1)
    }
  })

  test('slowBytesMax: from a byte more on QoS 1 holds its publisher and QoS 0 is dropped, until all has left', async () => {
    for (const [more, fits] of [
      [-1, 9],
      [0, 10],
      [1, 10],
    ] as const) {
      // a PUBLISH of 108 bytes at QoS 1, of 106 at QoS 0
      const { node, url } = await serve(store, { slowBytesMax: 10 * 108 + more, slowHoldMs: 86_400_000 })
      const slow = await behindValve(node)
      await slow.client.subscribe('t', { qos: 1 })
      slow.shut()
      const publisher = await WireClient.connect(url, 'publisher')
      for (let n = 1; n <= fits; n++) {
        publisher.send(publish('t', 100, n))
        await publisher.next('puback')
      }
      publisher.send(publish('t', 100, 100)) // this one is held
      const other = await WireClient.connect(url, 'other')
      for (let n = 1; n <= 3; n++) {
        other.send(publish('elsewhere', 100, n)) // stored after it
        await other.next('puback')
      }
      expect(await publisher.settled()).toEqual([])
      await node.publish('t', Buffer.alloc(100))
      expect(await counted(node, 'messages_dropped_total{cause="slow-subscriber",qos="0"}')).toBe(1)
      slow.open()
      await publisher.next('puback')
      expect(await arrived(slow.client, fits + 1)).toHaveLength(fits + 1)
      await leave(publisher)
    }
  })

  test('slowHoldMs: a client that reads nothing holds a publisher for so long, not for less, and no longer', async () => {
    const slowHoldMs = 200
    const { node, url } = await serve(store, { slowBytesMax: 1_024, slowHoldMs })
    const slow = await behindValve(node)
    await slow.client.subscribe('t', { qos: 1 })
    slow.shut()
    const publisher = await WireClient.connect(url, 'publisher')
    const began = performance.now()
    publisher.send(publish('t', 2_000))
    await publisher.next('puback') // though nothing was read
    expect(performance.now() - began).toBeGreaterThanOrEqual(slowHoldMs - 1)
    slow.open()
  })
})

test('slowHoldMs: nobody waits for acknowledgements to who is gone: what it published is taken, then its will', async () => {
  const { node, url } = await serve('memory', {
    slowBytesMax: 1_024,
    slowHoldMs: 86_400_000,
    receiveMaximum: 3, // the rest waits to be read
  })
  const slow = await behindValve(node)
  await slow.client.subscribe('t', { qos: 1 })
  slow.shut()
  const heir = await WireClient.connect(url, 'heir')
  await heir.subscribe('will')
  const will = { topic: 'will', payload: Buffer.from('gone'), qos: 1 as const, retain: false }
  const held = (): Promise<number> => counted(node, 'held_back_total{cause="publishes"}')
  for (const end of ['close', 'end of its side', 'good-bye'] as const) {
    const before = await held()
    const publisher = await WireClient.connect(url, 'publisher', { will })
    publisher.send(...[1, 2, 3, 4, 5, 6].map((n) => publish('t', 2_000, n)))
    await expect.poll(held).toBeGreaterThan(before)
    if (end === 'close') publisher.socket.resetAndDestroy()
    else if (end === 'end of its side') publisher.socket.end()
    else publisher.send({ cmd: 'disconnect', reasonCode: 0x04 })
    expect((await heir.next('publish')).topic, end).toBe('will')
    const acknowledged = (await publisher.untilClosed()).map(({ messageId }) => messageId)
    expect(acknowledged, end).toEqual([1, 2, 3, 4, 5, 6].slice(0, acknowledged.length)) // who reads on hears in order
  }
  slow.open()
  expect(await arrived(slow.client, 18)).toHaveLength(18)
})

test('a group of a thousand members takes no more: a session that resumes keeps its subscription, and is told', async () => {
  const prefix = prefixed()
  const { node, url } = await serve('Redis', { prefix })
  const admin = new Redis(redis.url)
  const name = '$share/g/t'
  const lasting = { clean: false, properties: { sessionExpiryInterval: 100 } }
  const member = await WireClient.connect(url, 'member', lasting)
  expect(await granted(member, [name])).toEqual([1])
  const entry = (await admin.hget(`${prefix}:{s0}:groups`, name))!
  const members = `${prefix}:{s0}:members:${entry.split(' ')[0]!}`
  member.socket.destroy()
  await expect.poll(async () => (await admin.hvals(members))[0]).toMatch(/^1 1 0 /) // away
  const [record] = await admin.hvals(members)
  const others = Object.fromEntries(Array.from({ length: 1_000 }, (_, n) => [`other${n}`, record]))
  await admin.multi().del(members).hset(members, others).exec()
  const other = await WireClient.connect(url, 'other')
  expect(await granted(other, [name])).toEqual([0x97])
  const refused = await WireClient.connect(url, 'member', lasting)
  expect(refused.connack.reasonCode).toBe(0x97)
  expect(await counted(node, 'refusals_total{cause="group-members"}')).toBe(2)
  await refused.closed
  await admin.hdel(members, 'other0')
  const again = await WireClient.connect(url, 'member', lasting)
  expect(again.connack).toMatchObject({ reasonCode: 0, sessionPresent: true })
  other.send(publish('t', 1))
  expect((await again.next('publish')).topic).toBe('t')
  admin.disconnect()
})

/** Of a connection that the program accepted: what the node writes stays with the stream while it is shut. */
async function behindValve(node: Node): Promise<{ client: WireClient; shut: () => void; open: () => void }> {
  let isShut = false
  let held = (): void => undefined
  const client = new Duplex({
    read: () => undefined,
    write: (chunk: Buffer, _, done) => {
      inside.push(chunk)
      done()
    },
  })
  const inside = new Duplex({
    read: () => undefined,
    write: (chunk: Buffer, _, done) => {
      client.push(chunk)
      if (isShut) held = done
      else done()
    },
  })
  node.handle(inside)
  const wire = new WireClient(client as Socket, 5)
  wire.send({
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: 5,
    clean: true,
    clientId: 'slow',
    keepalive: 0,
  })
  await wire.next('connack')
  return {
    client: wire,
    shut: () => {
      isShut = true
    },
    open: () => {
      isShut = false
      held()
    },
  }
}

/** So many PUBLISH packets, and nothing else before a ping is answered. */
async function arrived(client: WireClient, count: number): Promise<Packet[]> {
  const packets: Packet[] = []
  while (packets.length < count) packets.push(await client.next('publish'))
  return [...packets, ...(await client.settled())]
}
