// What clients can make the nodes and Redis keep, with the bounds as they are by default: the inputs that once cost
// hundreds of megabytes. Prints what each takes: resident memory at its highest beyond what the process had before,
// which has garbage in it, and what is held when that is collected. test/fault/bounds.test.ts has such inputs with
// small bounds.
import { readFileSync, writeFileSync } from 'node:fs'
import { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import { startCluster, type TestCluster, type TestNode } from '../support/cluster.ts'
import { startRedis } from '../support/redis.ts'
import { WireClient } from '../support/wire.ts'

const mib = 1_048_576
const lasting = { clean: false, properties: { sessionExpiryInterval: 600 } }

const status = (pid: number, what: string): number =>
  Number(new RegExp(`^${what}:\\s+(\\d+) kB`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) /
  1_024

interface Measured {
  /** Of each node: MiB of resident memory at its highest, beyond what it was before. */
  readonly peaks: number[]
  /** MiB that are held after it, beyond what was before. */
  readonly held: number[]
}

async function measure(
  about: string,
  nodes: readonly TestNode[],
  work: () => Promise<void>,
): Promise<Measured> {
  const before = await Promise.all(nodes.map((node) => node.heldBytes()))
  const resident = nodes.map(({ pid }) => status(pid, 'VmRSS'))
  for (const { pid } of nodes) writeFileSync(`/proc/${pid}/clear_refs`, '5') // its peak begins here
  const began = performance.now()
  await work()
  const took = performance.now() - began
  const peaks = nodes.map(({ pid }, i) => Math.round(status(pid, 'VmHWM') - resident[i]!))
  const after = await Promise.all(nodes.map((node) => node.heldBytes()))
  const held = after.map((bytes, i) => Math.round((bytes - before[i]!) / mib))
  console.log(
    `${about}: peak +${peaks.join(', +')} MiB, held +${held.join(', +')} MiB, ${took.toFixed(0)} ms`,
  )
  return { peaks, held }
}

const metric = async (node: TestNode, name: string): Promise<number> => {
  const { body } = await node.admin('/metrics')
  const line = body.split('\n').find((each) => each.startsWith(`aedes_cluster_${name} `))
  return Number(line?.split(' ')[1] ?? NaN)
}
const refusals = (node: TestNode, cause: string): Promise<number> =>
  metric(node, `refusals_total{cause="${cause}"}`)
const dropped = (node: TestNode, cause: string, qos = 0): Promise<number> =>
  metric(node, `messages_dropped_total{cause="${cause}",qos="${qos}"}`)

const adminOf = (url: string): Redis & Disposable => {
  const redis = new Redis(url)
  return Object.assign(redis, { [Symbol.dispose]: () => redis.disconnect() })
}
const usedByRedis = async (redis: Redis): Promise<number> =>
  Number(/used_memory:(\d+)/.exec(await redis.info('memory'))![1]) / mib

async function within(
  patienceMs: number,
  what: string,
  isSo: () => boolean | Promise<boolean>,
): Promise<void> {
  for (const end = Date.now() + patienceMs; !(await isSo());) {
    if (Date.now() > end) throw new Error(`${what} is not so after ${patienceMs} ms`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/** Resolves with what was granted; each SUBSCRIBE has so many filters. */
async function subscribe(
  client: WireClient,
  filters: readonly string[],
  each = 1_000,
  qos: 0 | 1 = 1,
): Promise<number> {
  let granted = 0
  for (let from = 0; from < filters.length; from += each) {
    client.send({
      cmd: 'subscribe',
      messageId: 1,
      subscriptions: filters
        .slice(from, from + each)
        .map((topic) => ({ topic, qos, nl: false, rap: false, rh: 2 as const })),
    })
    await within(60_000, 'a SUBACK', () => client.packets.some(({ cmd }) => cmd === 'suback'))
    granted += ((await client.first('suback')).granted as number[]).filter((code) => code < 0x80).length
  }
  return granted
}

const connectMany = async (
  node: TestNode,
  count: number,
  name: string,
  options = {},
): Promise<WireClient[]> => {
  const all: WireClient[] = []
  for (let from = 0; from < count; from += 200)
    all.push(
      ...(await Promise.all(
        Array.from({ length: Math.min(200, count - from) }, (_, n) =>
          WireClient.connect(node.url, `${name}-${from + n}`, options),
        ),
      )),
    )
  return all
}
const close = (clients: readonly WireClient[]): Promise<unknown> =>
  Promise.all(clients.map((client) => client[Symbol.asyncDispose]()))

const publish = (topic: string, payload: Buffer, qos: 0 | 1 | 2, messageId: number, retain = false) =>
  ({ cmd: 'publish', topic, payload, qos, messageId, retain, dup: false }) as const

async function startTwo(argv: readonly string[] = []): Promise<TestCluster> {
  return startCluster({ nodes: 2, argv })
}

test('100,000 deep filters of one client', async () => {
  await using cluster = await startTwo()
  await using client = await WireClient.connect(cluster.node(0).url, 'deep', lasting)
  const filters = Array.from({ length: 100_000 }, (_, n) => `+/${n}${'/abc'.repeat(77)}`)
  let granted = 0
  const { held } = await measure('100,000 filters of 79 levels', cluster.nodes, async () => {
    granted = await subscribe(client, filters, 2_000)
  })
  console.log(`  granted ${granted}, refused ${await refusals(cluster.node(0), 'subscription-bytes')}`)
  expect(held[0]).toBeLessThan(128)
  expect(held[1]).toBeLessThan(96)
})

test('filters of 64 KiB, in and out: what the journal keeps', async () => {
  await using cluster = await startTwo()
  using admin = adminOf(cluster.redis.url)
  await using client = await WireClient.connect(cluster.node(0).url, 'long')
  const before = await usedByRedis(admin)
  let highest = 0
  const { held } = await measure('3,000 SUBSCRIBE and UNSUBSCRIBE of 64 KiB', cluster.nodes, async () => {
    for (let n = 0; n < 3_000; n += 10) {
      const filters = Array.from({ length: 10 }, (_, i) => `${n + i}/`.padEnd(65_500, 'x'))
      expect(await subscribe(client, filters, 10)).toBe(10)
      client.send({ cmd: 'unsubscribe', messageId: 2, unsubscriptions: filters })
      await within(60_000, 'an UNSUBACK', () => client.packets.some(({ cmd }) => cmd === 'unsuback'))
      await client.first('unsuback')
      if (n % 500 === 0) highest = Math.max(highest, (await usedByRedis(admin)) - before)
    }
  })
  console.log(`  Redis at its highest +${highest.toFixed(0)} MiB`)
  expect(highest).toBeLessThan(128)
  for (const mibs of held) expect(mibs).toBeLessThan(64)
}, 300_000)

test('65,535 QoS 2 publishes that are never released', async () => {
  await using cluster = await startTwo()
  const clients = [
    await WireClient.connect(cluster.node(0).url, 'five'),
    await WireClient.connect(cluster.node(0).url, 'four', { version: 4 }),
  ]
  const last: unknown[] = []
  await measure('65,535 QoS 2 publishes', cluster.nodes, async () => {
    for (const client of clients) {
      for (let id = 1; id <= 65_535 && !client.isClosed; id += 1_000) {
        client.send(
          ...Array.from({ length: Math.min(1_000, 65_536 - id) }, (_, i) =>
            publish('t', Buffer.from('x'), 2, id + i),
          ),
        )
        await within(
          20_000,
          'PUBREC',
          () =>
            client.isClosed ||
            client.packets.some(
              (packet) => 'messageId' in packet && packet.messageId === Math.min(id + 999, 65_535),
            ),
        )
      }
      last.push(client.packets.at(-1), client.packets.filter(({ cmd }) => cmd === 'pubrec').length)
    }
  })
  console.log(`  ${JSON.stringify(last)}`)
  expect(last[0]).toMatchObject({ cmd: 'disconnect', reasonCode: 0x93 })
  expect(last[1]).toBeLessThanOrEqual(1_000)
  expect(last[3]).toBeLessThanOrEqual(10_000)
  await close(clients)
})

test('a hundred megabytes of Retained Messages, twenty SUBSCRIBEs of #, nothing is read', async () => {
  await using cluster = await startTwo()
  const publisher = await WireClient.connect(cluster.node(0).url, 'publisher')
  for (let n = 0; n < 1_000; n++) {
    publisher.send(publish(`retained/${n}`, Buffer.alloc(100_000), 1, 1, true))
    await publisher.next('puback')
  }
  for (const [about, at, count] of [
    ['one client, twenty SUBSCRIBEs', 0, 1],
    ['twenty clients, one SUBSCRIBE', 1, 20],
  ] as const) {
    const clients = await connectMany(cluster.node(at), count, `reads-${at}`)
    const { held, peaks } = await measure(about, cluster.nodes, async () => {
      for (const client of clients) {
        client.socket.pause()
        for (let messageId = 1; messageId <= 20 / count; messageId++)
          client.send({
            cmd: 'subscribe',
            messageId,
            subscriptions: [{ topic: '#', qos: 1, nl: false, rap: false, rh: 0 }],
          })
      }
      await new Promise((resolve) => setTimeout(resolve, 5_000))
    })
    expect(held[at]).toBeLessThan(96)
    expect(peaks[at]).toBeLessThan(250)
    await close(clients)
  }
}, 120_000)

test('a megabyte for five hundred sleeping sessions', async () => {
  await using cluster = await startTwo()
  using admin = adminOf(cluster.redis.url)
  const sleepers = await connectMany(cluster.node(0), 500, 'sleeper', lasting)
  await Promise.all(sleepers.map((client) => client.subscribe('big/#')))
  await close(sleepers)
  const publisher = await WireClient.connect(cluster.node(1).url, 'publisher')
  const before = await usedByRedis(admin)
  for (const [round, bytes] of [1_000_000, 1_000_000, 500_000].entries()) {
    await measure(`${bytes} bytes to 500 sessions`, cluster.nodes, async () => {
      publisher.send(publish('big/x', Buffer.alloc(bytes), 1, round + 1))
      await within(60_000, 'PUBACK', () => publisher.packets.length > round)
    })
    console.log(`  Redis +${((await usedByRedis(admin)) - before).toFixed(0)} MiB`)
  }
}, 120_000)

test('three hundred megabyte publishes at QoS 1, with Redis there and with Redis standing still', async () => {
  await using cluster = await startTwo()
  const reader = await cluster.node(1).connect('reader')
  await reader.subscribe('count/#', { qos: 1 })
  for (const stands of [false, true]) {
    const publishers = await connectMany(cluster.node(0), 300, `publisher-${stands}`)
    if (stands) cluster.redis.pause()
    const { peaks } = await measure(
      `300 × 1 MB at QoS 1, Redis ${stands ? 'stands still' : 'is there'}`,
      cluster.nodes,
      async () => {
        for (const client of publishers) client.send(publish('big', Buffer.alloc(1_000_000), 1, 1))
        const answered = (): number => publishers.filter(({ packets }) => packets[0]?.cmd === 'puback').length
        if (stands) {
          await new Promise((resolve) => setTimeout(resolve, 5_000))
          cluster.redis.resume()
        }
        await within(90_000, '300 PUBACKs', () => answered() === 300)
      },
    )
    expect(peaks[0]).toBeLessThan(800)
    await close(publishers)
  }
  expect(await refusals(cluster.node(0), 'client-bytes')).toBe(0)
}, 200_000)

test('two hundred subscribers that read nothing', async () => {
  await using cluster = await startTwo()
  for (const qos of [0, 1] as const) {
    const frozen = await connectMany(cluster.node(0), 200, `frozen-${qos}`)
    for (const client of frozen) {
      await client.subscribe(`flood-${qos}/#`, { qos })
      client.socket.pause()
    }
    const publishers = await connectMany(cluster.node(1), 20, `floods-${qos}`)
    const { peaks } = await measure(
      `200 unread receivers at QoS ${qos}, 20 MB published`,
      cluster.nodes,
      async () => {
        for (let n = 0; n < 10; n++)
          await Promise.all(
            publishers.map(async (client, i) => {
              client.send(publish(`flood-${qos}/${i}`, Buffer.alloc(100_000), 1, n + 1))
              await within(60_000, 'PUBACK', () => client.packets.length > n)
            }),
          )
      },
    )
    console.log(
      `  dropped at QoS 0: ${await dropped(cluster.node(0), 'client-bytes')} for the bound of all, ${await dropped(cluster.node(0), 'slow-subscriber')} as slow; ended ${await refusals(cluster.node(0), 'client-bytes')} and ${await dropped(cluster.node(0), 'slow-subscriber', 1)}`,
    )
    expect(peaks[0]).toBeLessThan(1_000)
    await close([...frozen, ...publishers])
  }
}, 200_000)

test('three hundred clients at maxmemory 60mb', async () => {
  await using redis = await startRedis('--maxmemory', '60mb', '--maxmemory-policy', 'noeviction')
  await using cluster = await startCluster({ nodes: 2, redis })
  using admin = adminOf(redis.url)
  const sleepers = await connectMany(cluster.node(0), 300, 'sleeper', lasting)
  await Promise.all(sleepers.map((client) => client.subscribe('own/#', { qos: 1 })))
  await close(sleepers.slice(0, 150))
  const live = sleepers.slice(150)
  let highest = 0
  const looking = setInterval(() => {
    usedByRedis(admin).then(
      (used) => (highest = Math.max(highest, used)),
      () => undefined,
    )
  }, 50)
  await measure('300 sessions, 60 MB', cluster.nodes, async () => {
    for (const [i, client] of live.entries())
      client.send(
        ...Array.from({ length: 200 }, (_, n) =>
          publish(`own/${i}`, Buffer.alloc(10_000), n % 2 === 0 ? 1 : 2, n + 1),
        ),
        publish(`retained/${i}`, Buffer.alloc(50_000), 1, 300, true),
      )
    await new Promise((resolve) => setTimeout(resolve, 10_000))
    for (const [i, client] of live.entries()) {
      client.send({ cmd: 'disconnect' })
      if (i % 2 === 0) client.socket.destroy()
    }
    await Promise.all(
      Array.from({ length: 100 }, async (_, n) =>
        WireClient.connect(cluster.node(1).url, `sleeper-${n}`, lasting).catch(() => undefined),
      ),
    )
    await new Promise((resolve) => setTimeout(resolve, 3_000))
  })
  clearInterval(looking)
  console.log(`  Redis at its highest ${highest.toFixed(1)} MiB`)
  expect(highest).toBeLessThan(120) // a call that begins below the bound is run to its end
  for (const node of cluster.nodes) expect(node.running).toBe(true)
}, 120_000)

test('ten thousand subscribers of f/#, a thousand topics', async () => {
  await using cluster = await startTwo()
  const subscribers = await connectMany(cluster.node(0), 10_000, 'many')
  await Promise.all(subscribers.map((client) => client.subscribe('f/#', { qos: 0 })))
  for (const client of subscribers) client.socket.removeAllListeners('data').on('data', () => undefined)
  for (const [about, at] of [
    ['at their node', 0],
    ['at the other', 1],
  ] as const) {
    const publisher = await cluster.node(at).connect(`publisher-${at}`)
    const { held } = await measure(
      `10,000 subscribers of f/#, 1,000 topics ${about}`,
      cluster.nodes,
      async () => {
        for (let n = 0; n < 1_000; n++) await publisher.publish(`f/${at}/${n}`, 'x', { qos: 1 })
      },
    )
    expect(held[0]).toBeLessThan(96)
    expect(held[1]).toBeLessThan(64)
  }
  await close(subscribers)
}, 300_000)

test('SUBSCRIBEs that wait, of two hundred clients', async () => {
  await using cluster = await startTwo()
  const clients = await connectMany(cluster.node(0), 200, 'waiting')
  const subscriptions = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'].map((letter) => ({
    topic: letter.repeat(60_000),
    qos: 1 as const,
    nl: false,
    rap: false,
    rh: 2 as const,
  }))
  cluster.redis.pause()
  const { peaks } = await measure('200 clients with 10 MB of SUBSCRIBEs each', cluster.nodes, async () => {
    for (const client of clients)
      for (let messageId = 1; messageId <= 20; messageId++)
        client.send({ cmd: 'subscribe', messageId, subscriptions })
    await new Promise((resolve) => setTimeout(resolve, 5_000))
  })
  expect(peaks[0]).toBeLessThan(700)
  cluster.redis.resume()
  await close(clients)
}, 120_000)

test('a node whose inbox is full: what is sent for it', async () => {
  await using cluster = await startTwo()
  using admin = adminOf(cluster.redis.url)
  const [here, there] = [cluster.node(0), cluster.node(1)]
  const reader = await there.connect('reader')
  await reader.subscribe('t', { qos: 1 })
  const publishers = await connectMany(here, 40, 'publisher')
  const input = async (): Promise<number> =>
    Number(/total_net_input_bytes:(\d+)/.exec(await admin.info('stats'))![1]) / mib
  const before = await input()
  process.kill(there.pid, 'SIGSTOP')
  await measure('40 MB for a node that stands still', [here], async () => {
    for (const client of publishers) client.send(publish('t', Buffer.alloc(1_000_000), 1, 1))
    await within(60_000, '40 PUBACKs', () => publishers.every(({ packets }) => packets.length > 0))
  })
  console.log(`  Redis got ${((await input()) - before).toFixed(0)} MiB`)
  expect((await input()) - before).toBeLessThan(120)
  process.kill(there.pid, 'SIGCONT')
  await close(publishers)
}, 120_000)
