// Sessions over nodes: they follow their client at once, one connection owns them, their queues are bounded
// and drained in order, wills and expiries survive their node, and nothing is left behind.
import type { IPublishPacket } from 'mqtt-packet'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Redis } from '../../bridge/redis/redis.ts'
import { connectStock } from '../../bridge/redis/stock-redis.ts'
import type { TestClient } from '../support/client.ts'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { allKeys, orphans } from '../support/orphans.ts'
import { seededRandom } from '../support/random.ts'
import { WireClient } from '../support/wire.ts'

const random = seededRandom()
let cluster: TestCluster
let redis: Redis
beforeAll(async () => {
  cluster = await startCluster({ nodes: 3, argv: ['--lease-ms', '3000', '--queue-messages-max', '5000'] })
  redis = connectStock(cluster.redis.url, '', () => undefined)
})
afterAll(async () => {
  redis.disconnect()
  await cluster[Symbol.asyncDispose]()
})

const persistent = { clean: false } as const
const numbers = (count: number): number[] => Array.from({ length: count }, (_, n) => n)
const leftOver = (): Promise<string[]> => orphans(cluster.redis.url, 'test')

/** A session that outlives its connection, for a raw client. */
const kept = { clean: false, properties: { sessionExpiryInterval: 600 } }

async function publishes(client: WireClient, count: number): Promise<IPublishPacket[]> {
  const packets: IPublishPacket[] = []
  while (packets.length < count) packets.push(await client.next('publish'))
  return packets
}

async function sidOf(clientId: string): Promise<string | undefined> {
  const sids = await Promise.all(numbers(16).map((p) => redis.hget(`test:{s${p}}:clients`, clientId)))
  return sids.find((sid) => sid !== null) ?? undefined
}

/** Messages in flight to a client, as Redis has them. */
async function inFlight(clientId: string): Promise<number> {
  const sid = (await sidOf(clientId))!
  return redis.hlen(`test:{s${Number.parseInt(sid.charAt(0), 16)}}:inflight:${sid}`)
}

/** Ends a session for good. */
async function forget(clientId: string): Promise<void> {
  const client = await cluster.node(0).connect(clientId, { clean: true })
  await client.disconnect()
}

/** What repeats is shorter on a Redis Cluster: it is about the store, not about the odds. */
const often = (count: number): number => (process.env.TEST_STORE === undefined ? count : count / 5)

test(`a Client Identifier that connects to three nodes at once, ${often(40)} rounds: one connection survives, nothing is lost`, async () => {
  const publisher = await cluster.node(0).connect('takeover-publisher')
  const all: string[] = []
  let survivor: TestClient = await cluster
    .node(0)
    .connect('contended', { ...persistent, version: 5, properties: { sessionExpiryInterval: 600 } })
  // QoS 2 over connections needs a client that remembers: the ledger has them
  await survivor.subscribe('contended/#', { qos: 1 })
  for (let round = 0; round < often(40); round++) {
    // Three CONNECTs race; whoever is last in the cluster's order stays. A connection may be taken over
    // before its CONNACK.
    const racing = await Promise.allSettled(
      cluster.nodes.map((node) =>
        node.connect('contended', { ...persistent, version: 5, properties: { sessionExpiryInterval: 600 } }),
      ),
    )
    const publishing = publisher.publish('contended/x', `${round}`, { qos: 1 })
    const connected = racing.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
    await survivor.closed()
    all.push(...survivor.takeAll())
    // Fenced from the moment of the newer claim, told a moment later.
    await expect
      .poll(() => connected.filter(({ mqtt }) => mqtt.connected).length, {
        interval: 2,
        message: `round ${round}`,
      })
      .toBe(1)
    for (const client of connected.filter(({ mqtt }) => !mqtt.connected)) {
      expect(client.serverDisconnect, 'the reason of the one that lost').toBe(0x8e)
      all.push(...client.takeAll())
    }
    const alive = connected.filter(({ mqtt }) => mqtt.connected)
    survivor = alive[0]!
    expect(survivor.sessionPresent).toBe(true)
    await publishing
  }
  await survivor.arrives((packet) => packet.payload.toString() === `${often(40) - 1}`)
  await survivor.settle()
  all.push(...survivor.takeAll())
  expect([...new Set(all.map(Number))].sort((a, b) => a - b)).toEqual(numbers(often(40)))
  await survivor.disconnect()
  await forget('contended')
}, 120_000)

test('a session resumes on another node at once when its node was killed; the unacknowledged come again under their identifiers, with DUP', async () => {
  const first = await WireClient.connect(cluster.node(1).url, 'hopper', kept)
  await first.subscribe('hop/#', { qos: 2 })
  await Promise.all(
    numbers(10).map((n) => cluster.node(0).publish(`hop/${n % 2}`, `${n}`, { qos: n < 5 ? 1 : 2 })),
  )
  const before = await publishes(first, 10)
  const done = before.find(({ qos }) => qos === 1)!
  first.send({ cmd: 'puback', messageId: done.messageId! })
  await first.settled()
  await expect.poll(() => inFlight('hopper')).toBe(9)
  await cluster.node(1).kill()
  const start = performance.now()
  const second = await WireClient.connect(cluster.node(2).url, 'hopper', kept)
  console.log(
    `CONNACK ${(performance.now() - start).toFixed(1)} ms after connecting, node killed just before`,
  )
  expect(second.connack.sessionPresent).toBe(true)
  const again = await publishes(second, 9)
  const shown = ({ messageId, payload }: IPublishPacket, dup: boolean): object => ({
    messageId,
    dup,
    payload: payload.toString(),
  })
  expect(again.map((packet) => shown(packet, packet.dup))).toEqual(
    before.filter((packet) => packet !== done).map((packet) => shown(packet, true)),
  )
  second.socket.destroy()
  await cluster.node(1).start()
  await forget('hopper')
})

test('what is in flight or queued keeps the QoS that it was granted, though its subscription is lowered or raised', async () => {
  const [high, low] = await Promise.all(
    [2, 1].map(async (qos) => {
      const client = await WireClient.connect(cluster.node(qos).url, `granted-${qos}`, kept)
      await client.subscribe('granted/#', { qos: qos as 1 | 2 })
      return client
    }),
  )
  await cluster.node(0).publish('granted/x', 'in flight', { qos: 2 })
  const shown = ({ qos, dup, messageId, payload }: IPublishPacket): object => ({
    qos,
    dup,
    messageId,
    payload: payload.toString(),
  })
  const sent = await Promise.all([high!, low!].map((client) => client.next('publish')))
  expect(sent.map(({ qos }) => qos)).toEqual([2, 1])
  for (const [client, qos] of [
    [high!, 1],
    [low!, 2],
  ] as const) {
    await client.subscribe('granted/#', { qos })
    client.socket.destroy()
    await client.closed
  }
  await cluster.node(0).publish('granted/x', 'queued', { qos: 2 })
  const again = await Promise.all(
    [2, 1].map((qos) => WireClient.connect(cluster.node(0).url, `granted-${qos}`, kept)),
  )
  for (const [i, client] of again.entries()) {
    const packets = await publishes(client, 2)
    expect(packets.map(shown)).toMatchObject([
      shown({ ...sent[i]!, dup: true }),
      { qos: i + 1, dup: false, payload: 'queued' },
    ])
    client.socket.destroy()
  }
  await Promise.all([forget('granted-1'), forget('granted-2')])
})

test('the offline queue is bounded: the oldest go and are counted; the rest comes in order, live ones behind it', async () => {
  const sleeper = await cluster.node(0).connect('sleeper', persistent)
  await sleeper.subscribe('sleep/#', { qos: 1 })
  await sleeper.disconnect()
  const publisher = await cluster.node(1).connect('sleep-publisher')
  for (let n = 0; n < 6_000; n += 500)
    await Promise.all(numbers(500).map((i) => publisher.publish('sleep/x', `${n + i}`)))
  const dropped = await Promise.all(
    cluster.nodes.map(async (node) =>
      Number(/cause="full-queue",qos="1"\} (\d+)/.exec((await node.admin('/metrics')).body)?.[1] ?? 0),
    ),
  )
  expect(dropped).toEqual([0, 1_000, 0])
  const awake = await cluster.node(2).connect('sleeper', persistent)
  await awake.arrivals(200) // there is room again: what is published now drops nothing
  await Promise.all(numbers(100).map((n) => publisher.publish('sleep/x', `live ${n}`)))
  await awake.arrivals(5_100)
  expect(awake.takeAll()).toEqual([
    ...numbers(5_000).map((n) => `${n + 1_000}`),
    ...numbers(100).map((n) => `live ${n}`),
  ])
  await awake.disconnect()
  await forget('sleeper')
})

test('Clean Start wipes queue, in flight and subscriptions, on any node', async () => {
  const old = await cluster.node(0).connect('wiped', persistent)
  await old.subscribe('wipe/#', { qos: 1 })
  await old.disconnect()
  await cluster.node(1).publish('wipe/x', 'forgotten', { qos: 1 })
  const fresh = await cluster.node(2).connect('wiped', { clean: true })
  expect(fresh.sessionPresent).toBe(false)
  await cluster.node(1).publish('wipe/x', 'nobody wants it', { qos: 1 })
  await fresh.receives([])
  await fresh.disconnect()
  const third = await cluster.node(0).connect('wiped', persistent)
  expect(third.sessionPresent).toBe(false)
  await third.receives([])
  await third.disconnect()
  await forget('wiped')
})

test('a will is published once when its node is killed; with a delay it is cancelled by a return to any node', async () => {
  const watcher = await cluster.node(0).connect('watcher', { version: 5 })
  await watcher.subscribe('will/#', { qos: 1 })
  const will = (topic: string, willDelayInterval: number): object => ({
    will: { topic, payload: Buffer.from('gone'), qos: 1, retain: false, properties: { willDelayInterval } },
  })
  await cluster.node(1).connect('dies', { version: 5, ...will('will/now', 0) })
  await cluster
    .node(1)
    .connect('returns', {
      version: 5,
      clean: false,
      properties: { sessionExpiryInterval: 600 },
      ...will('will/delayed', 30),
    })
  await cluster.node(1).kill()
  const back = await cluster
    .node(2)
    .connect('returns', { version: 5, clean: false, properties: { sessionExpiryInterval: 600 } })
  expect(back.sessionPresent).toBe(true)
  await watcher.arrivals(1)
  await cluster.node(1).start()
  await watcher.receives([{ topic: 'will/now', payload: 'gone', qos: 1 }])
  await back.disconnect()
  await forget('returns')
})

test('a session expires though its node died, and is gone everywhere', async () => {
  const short = await cluster
    .node(1)
    .connect('short', { version: 5, clean: false, properties: { sessionExpiryInterval: 1 } })
  await short.subscribe('short/#', { qos: 1 })
  await cluster.node(1).restart()
  await expect
    .poll(async () => [...(await leftOver()), await sidOf('short')].filter((line) => line !== undefined), {
      timeout: 30_000,
      interval: 100,
    })
    .toEqual([])
  const again = await cluster
    .node(2)
    .connect('short', { version: 5, clean: false, properties: { sessionExpiryInterval: 1 } })
  expect(again.sessionPresent).toBe(false)
  await again.disconnect()
})

test('unsubscribing the last filter keeps the session and what is in flight', async () => {
  const client = await WireClient.connect(cluster.node(0).url, 'keeps', kept)
  await client.subscribe('keep/#')
  await cluster.node(1).publish('keep/x', 'kept', { qos: 1 })
  const [sent] = await publishes(client, 1)
  client.send({ cmd: 'unsubscribe', messageId: 2, unsubscriptions: ['keep/#'] })
  await client.next('unsuback')
  client.socket.destroy()
  const again = await WireClient.connect(cluster.node(2).url, 'keeps', kept)
  expect(again.connack.sessionPresent).toBe(true)
  const [resent] = await publishes(again, 1)
  expect(resent).toMatchObject({ messageId: sent!.messageId, dup: true })
  again.socket.destroy()
  await forget('keeps')
})

test('churn: 300 sessions of all kinds come and go, and nothing is left behind', async () => {
  for (let batch = 0; batch < 3; batch++) {
    await Promise.all(
      numbers(100).map(async (n) => {
        const clientId = `churn-${batch}-${n}`
        const client = await random
          .pick(cluster.nodes)
          .connect(
            clientId,
            n % 2 === 0
              ? { clean: true }
              : { version: 5, clean: false, properties: { sessionExpiryInterval: n % 4 === 1 ? 600 : 0 } },
          )
        await client.subscribe(`churn/${n}/+`, { qos: 1 })
        if (n % 8 === 1) await client.publish(`churn/${n}/x`, 'x', { qos: 2 })
        await client.disconnect()
        if (n % 4 === 1) {
          const clean = await random.pick(cluster.nodes).connect(clientId, { version: 5, clean: true })
          await clean.disconnect()
        }
      }),
    )
  }
  await expect
    .poll(async () => [...(await leftOver()), ...(await allKeys(redis, 'test:{s*}:subscriptions:*'))], {
      timeout: 20_000,
      interval: 100,
    })
    .toEqual([])
  const tables = await Promise.all(cluster.nodes.map(async (node) => (await node.admin('/routes')).body))
  for (const table of tables) expect(table).not.toContain('churn/')
}, 120_000)
