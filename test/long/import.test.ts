// Moving over: data that the stock stack itself wrote (Aedes, aedes-persistence-redis, mqemitter-redis,
// MQTT.js clients) is imported while nodes of the cluster run, and while none does, and is served by them:
// sessions present, queued messages in order and once, also when an import was killed. What a client cannot
// bring about at will is written by the package itself.
import { Aedes } from 'aedes'
import aedesPersistenceRedis from 'aedes-persistence-redis'
import { Redis } from 'ioredis'
import mqemitterRedis from 'mqemitter-redis'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { connectStock } from '../../bridge/redis/stock-redis.ts'
import { startLink } from '../bridge/link.ts'
import { TestClient } from '../support/client.ts'
import { mainPath, startCluster } from '../support/cluster.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { spawned } from '../support/spawned.ts'

/** What the package writes with; the parts that we use. */
interface StockWriter {
  addSubscriptions(client: { id: string }, subscriptions: { topic: string; qos: number }[]): Promise<unknown>
  outgoingEnqueueCombi(subscriptions: { clientId: string }[], packet: object): Promise<void>
  outgoingUpdate(client: { id: string }, packet: object): Promise<void>
  putWill(client: { id: string }, packet: object): Promise<unknown>
}

let counter = 0
const packet = (topic: string, payload: string, more: object = {}): object => ({
  cmd: 'publish',
  brokerId: 'old',
  brokerCounter: ++counter,
  topic,
  payload: Buffer.from(payload),
  qos: 1,
  retain: false,
  dup: false,
  ...more,
})

const strange = 'client: ü/%?[*]'

/** Runs the stock stack on `redis` until `use` is done. */
async function withStock(
  redis: TestRedis,
  use: (url: string, persistence: StockWriter) => Promise<void>,
  keyPrefix = '',
): Promise<void> {
  const [store, publishing, subscribing] = [keyPrefix, '', ''].map((keys) =>
    connectStock(redis.url, keys, () => undefined),
  ) as [Redis, Redis, Redis]
  const broker = await Aedes.createBroker({
    id: 'old',
    persistence: aedesPersistenceRedis({ conn: store }),
    mq: mqemitterRedis({ pubConn: publishing, subConn: subscribing }),
  })
  const server = createServer((socket) => {
    broker.handle(socket)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  await use(
    `mqtt://127.0.0.1:${(server.address() as AddressInfo).port}`,
    (broker as unknown as { persistence: StockWriter }).persistence,
  )
  server.close()
  await new Promise<void>((resolve) => broker.close(() => resolve()))
  // mqemitter-redis ends its two by itself; they must not outlive the Redis.
  await Promise.all(
    [publishing, subscribing].map(async (connection) => {
      if (connection.status !== 'end') await once(connection, 'end')
    }),
  )
  await store.quit()
}

/** A connection that ends with its test, also when it fails. */
function open(url: string): Redis & Disposable {
  const redis = new Redis(url).on('error', () => undefined)
  return Object.assign(redis, {
    [Symbol.dispose]: () => {
      redis.disconnect()
    },
  })
}

const run = async (...argv: string[]): Promise<{ stdout: string; stderr: string; code: number }> => {
  try {
    return { ...(await promisify(execFile)(process.execPath, [mainPath, 'import', ...argv])), code: 0 }
  } catch (error) {
    const { stdout, stderr, code } = error as { stdout: string; stderr: string; code: number }
    return { stdout, stderr, code }
  }
}

async function dump(redis: Redis, pattern = 'test:*'): Promise<string[]> {
  const keys = (await redis.keys(pattern)).sort()
  return Promise.all(keys.map(async (key) => `${key} ${(await redis.dumpBuffer(key)).toString('hex')}`))
}

test('sessions, queued and retained messages of a stock installation are served by the cluster', async () => {
  await using old = await startRedis()
  await withStock(old, async (url) => {
    for (const [clientId, filter, qos] of [
      ['exact', 'plant/7', 1],
      ['wild', 'plant/#', 2],
      [strange, '+/7', 1],
    ] as const) {
      const client = await TestClient.connect(url, clientId, { clean: false })
      await client.subscribe(filter, { qos })
      await client.disconnect()
    }
    const publisher = await TestClient.connect(url, 'publisher')
    for (let n = 0; n < 20; n++) await publisher.publish('plant/7', `${n}`, { qos: n % 2 === 0 ? 1 : 2 })
    await publisher.publish('kept/ü', 'retained', { retain: true })
    await publisher.publish('kept/other', 'as well', { retain: true })
    await publisher.disconnect()
  })
  await using cluster = await startCluster({ nodes: 2 })
  using redis = open(cluster.redis.url)
  const settled = async (): Promise<string[]> =>
    (await dump(redis)).filter((line) => !/leases|:state |:stream /.test(line))
  const before = await settled()
  const flags = ['--from', old.url, '--redis', cluster.redis.url, '--prefix', 'test']
  const dry = await run(...flags, '--dry-run')
  expect(dry.stdout).toBe(
    'found (dry run, nothing was written): sessions 3 · subscriptions 3 · messages 60 · retained 2 · wills 0\n',
  )
  expect(await settled()).toEqual(before)
  expect((await run(...flags)).stdout).toBe(
    'moved/found, the others were there already: sessions 3/3 · subscriptions 3/3 · messages 60/60 · retained 2/2 · wills 0/0\n',
  )
  expect((await run(...flags)).stdout).toBe(
    'moved/found, the others were there already: sessions 0/3 · subscriptions 0/3 · messages 0/60 · retained 0/2 · wills 0/0\n',
  )
  await cluster.node(1).publish('plant/7', 'new', { qos: 1 })
  for (const [i, clientId] of ['exact', 'wild', strange].entries()) {
    const client = await cluster.node(i % 2).connect(clientId, { clean: false })
    expect(client.sessionPresent, clientId).toBe(true)
    await client.arrivals(21)
    await client.settle()
    expect(
      [...new Set(client.packets.map(({ qos }) => qos))].sort(),
      `${clientId}: the lower of the published and the granted QoS`,
    ).toEqual(clientId === 'wild' ? [1, 2] : [1])
    const payloads = client.takeAll()
    // Per QoS in the publisher's order (a client hands QoS 2 on when it is released), and once.
    expect(payloads.filter((payload) => Number(payload) % 2 === 0 || payload === 'new')).toEqual([
      ...Array.from({ length: 10 }, (_, n) => `${2 * n}`),
      'new',
    ])
    expect(payloads.filter((payload) => Number(payload) % 2 === 1)).toEqual(
      Array.from({ length: 10 }, (_, n) => `${2 * n + 1}`),
    )
  }
  const fresh = await cluster.node(1).connect('fresh')
  await fresh.subscribe('kept/+')
  await fresh.arrivals(2)
  expect(fresh.takeAll().sort()).toEqual(['as well', 'retained'])
})

const sum = (counts: string): string => `moved/found, the others were there already: ${counts}\n`
const numbers = (count: number): string[] => Array.from({ length: count }, (_, n) => `${n}`)

test('an import that is killed is finished by the next one: every session whole, nothing missing, nothing twice; no node runs', async () => {
  await using old = await startRedis('--appendonly', 'no')
  const clients = Array.from({ length: 6 }, (_, i) => `client-${i}`)
  await withStock(old, async (_url, stock) => {
    for (const id of clients) {
      await stock.addSubscriptions({ id }, [{ topic: `to/${id}`, qos: 1 }])
      for (const n of numbers(600))
        await stock.outgoingEnqueueCombi([{ clientId: id }], packet(`to/${id}`, n)) // more than a page
    }
  })
  await using target = await startRedis()
  using redis = open(target.url)
  const flags = ['--from', old.url, '--redis', target.url, '--prefix', 'test']
  await using link = await startLink(old)
  // the last message of the last client does not come: it cannot be done
  const held = link.holdReply(`packet:old:${counter}`)
  const killed = spawned(process.execPath, [mainPath, 'import', ...flags, '--from', link.url], {
    stdio: 'ignore',
  })
  const ended = once(killed, 'exit')
  await held
  await expect
    .poll(async () => (await redis.keys('test:*:queue:*')).length, { interval: 1, timeout: 20_000 })
    .toBeGreaterThan(0)
  killed.kill('SIGKILL')
  expect(await ended).toEqual([null, 'SIGKILL'])
  expect((await run(...flags)).stdout).toMatch(/ sessions \d+\/6 /)
  expect((await run(...flags)).stdout).toBe(
    sum('sessions 0/6 · subscriptions 0/6 · messages 0/3600 · retained 0/0 · wills 0/0'),
  )
  await using cluster = await startCluster({ nodes: 2, redis: target })
  for (const [i, id] of clients.entries()) {
    await cluster.node(0).publish(`to/${id}`, 'new', { qos: 1 })
    const client = await cluster.node(i % 2).connect(id, { clean: false })
    expect(client.sessionPresent, id).toBe(true)
    await client.arrivals(601)
    await client.settle()
    expect(client.takeAll(), id).toEqual([...numbers(600), 'new'])
  }
}, 180_000)

test('a PUBREL that is owed is sent under its identifier; wills are published once; the old installation is only read', async () => {
  await using old = await startRedis('--appendonly', 'no')
  await withStock(old, async (_url, stock) => {
    await stock.addSubscriptions({ id: 'received' }, [{ topic: 'exactly/once', qos: 2 }])
    const message = packet('exactly/once', 'got it', { qos: 2, messageId: 42 })
    await stock.outgoingEnqueueCombi([{ clientId: 'received' }], message)
    await stock.outgoingUpdate({ id: 'received' }, message)
    await stock.outgoingUpdate({ id: 'received' }, { cmd: 'pubrel', messageId: 42 }) // PUBREC came
    await stock.addSubscriptions({ id: 'watcher' }, [{ topic: 'will/#', qos: 1 }])
    await stock.outgoingEnqueueCombi([{ clientId: 'watcher' }], packet('will/before', 'expired by packetTTL'))
    await stock.putWill({ id: 'gone' }, packet('will/gone', 'last words'))
  })
  using source = open(old.url)
  await source.del(`packet:old:${counter - 1}`) // what a packetTTL leaves: a reference to nothing
  const before = await dump(source, '*')
  await using cluster = await startCluster({ nodes: 1 })
  using redis = open(cluster.redis.url)
  const flags = ['--from', old.url, '--redis', cluster.redis.url, '--prefix', 'test']
  expect((await run(...flags, '--dry-run')).code).toBe(0)
  expect((await run(...flags)).stdout).toBe(
    sum('sessions 2/2 · subscriptions 2/2 · messages 0/0 · retained 0/0 · wills 1/1'),
  )
  expect((await run(...flags)).stdout).toBe(
    sum('sessions 0/2 · subscriptions 0/2 · messages 0/0 · retained 0/0 · wills 0/1'),
  )
  expect(await dump(source, '*')).toEqual(before)
  const [inFlight] = await redis.keys('test:*:inflight:*')
  expect(await redis.hgetall(inFlight!)).toEqual({ 42: '0' })
  await cluster.node(0).connect('received', { clean: false }) // MQTT.js answers PUBREL with PUBCOMP
  await expect.poll(() => redis.exists(inFlight!), { timeout: 20_000 }).toBe(0)
  const watcher = await cluster.node(0).connect('watcher', { clean: false })
  await watcher.receives([{ topic: 'will/gone', payload: 'last words' }])
})

test('500 sessions and more wills than the package reads at once; the rate is printed', async () => {
  await using old = await startRedis('--appendonly', 'no')
  const [sessions, wills] = [500, 10_050]
  await withStock(old, async (_url, stock) => {
    for (let from = 0; from < sessions; from += 500) {
      await Promise.all(
        Array.from({ length: 500 }, async (_, i) => {
          await stock.addSubscriptions({ id: `c${from + i}` }, [{ topic: `to/${from + i}`, qos: 1 }])
          await stock.outgoingEnqueueCombi([{ clientId: `c${from + i}` }], packet(`to/${from + i}`, 'x'))
        }),
      )
    }
    await stock.putWill({ id: 'w00000' }, packet('nobody/w', 'x', { qos: 0 }))
  })
  // The package looks through all wills for each that it writes: copies of one are there at once.
  const copies = new Redis(old.port)
  await copies.eval(
    `local first = redis.call('LINDEX', 'will', 0)
    local body = redis.call('GET', first)
    for n = 1, ${wills - 1} do
      local name = ('w%05d'):format(n)
      redis.call('RPUSH', 'will', (first:gsub('w00000', name)))
      redis.call('SET', (first:gsub('w00000', name)), (body:gsub('w00000', name)))
    end`,
    0,
  )
  copies.disconnect()
  await using target = await startRedis('--appendonly', 'no')
  const start = performance.now()
  const { stdout } = await run('--from', old.url, '--redis', target.url)
  const seconds = (performance.now() - start) / 1_000
  expect(stdout).toBe(
    sum(
      `sessions ${sessions}/${sessions} · subscriptions ${sessions}/${sessions} · messages ${sessions}/${sessions} · retained 0/0 · wills ${wills}/${wills}`,
    ),
  )
  console.log(
    `import: ${sessions} sessions and ${wills} wills in ${seconds.toFixed(1)} s, ${Math.round((sessions + wills) / seconds)} a second`,
  )
}, 180_000)

test('--from-prefix; queues longer than the bound say what they dropped', async () => {
  await using old = await startRedis('--appendonly', 'no')
  await withStock(
    old,
    async (url, stock) => {
      const publisher = await TestClient.connect(url, 'publisher')
      await publisher.publish('kept', 'retained', { retain: true })
      await publisher.disconnect()
      await stock.addSubscriptions({ id: 'long' }, [{ topic: 'to/long', qos: 1 }])
      for (const n of numbers(50))
        await stock.outgoingEnqueueCombi([{ clientId: 'long' }], packet('to/long', n))
      await stock.putWill({ id: 'gone' }, packet('will/gone', 'last words'))
    },
    'old/',
  )
  await using target = await startRedis()
  const flags = ['--from', old.url, '--redis', target.url, '--queue-messages-max', '10']
  expect((await run(...flags)).stdout).toBe(
    sum('sessions 0/0 · subscriptions 0/0 · messages 0/0 · retained 0/0 · wills 0/0'),
  )
  expect((await run(...flags, '--from-prefix', 'old/')).stdout).toBe(
    sum('sessions 1/1 · subscriptions 1/1 · messages 50/50 · retained 1/1 · wills 1/1') +
      'dropped: 40 messages, the oldest of queues longer than --queue-messages-max 10\n',
  )
})

test('a wrong or missing --from is one line and an exit code', async () => {
  expect(await run()).toMatchObject({
    code: 2,
    stderr: expect.stringMatching(/^aedes-cluster: --from: is missing\. .*\n$/) as string,
  })
  expect(await run('--from', 'http://x')).toMatchObject({
    code: 2,
    stderr: expect.stringMatching(/^aedes-cluster: --from=\*\*\*: is not a Redis address\. .*\n$/) as string,
  })
  await using target = await startRedis()
  expect(await run('--from', 'redis://127.0.0.1:1', '--redis', target.url)).toMatchObject({
    code: 4,
    stderr: expect.stringMatching(/^aedes-cluster: --from=redis:\/\/127\.0\.0\.1:1: .*\n$/) as string,
  })
})

test('an import says what it waits for, of either Redis, and when that is over; a signal ends it', async () => {
  await using old = await startRedis()
  await using target = await startRedis('--min-replicas-to-write', '1')
  using admin = open(target.url)
  const begin = (prefix: string): { said: () => string; ended: Promise<unknown[]>; end: () => void } => {
    const child = spawned(
      process.execPath,
      [mainPath, 'import', '--from', old.url, '--redis', target.url, '--prefix', prefix],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    )
    let said = ''
    child.stderr.on('data', (chunk: Buffer) => {
      said += chunk.toString()
    })
    return {
      said: () => said,
      ended: once(child, 'close'),
      end: () => {
        child.kill('SIGTERM')
      },
    }
  }
  const [finished, ended] = [begin('finished'), begin('ended')]
  for (const { said } of [finished, ended])
    await expect.poll(said).toMatch(/^Redis: NOREPLICAS .*1 write waiting.*min-replicas-to-write\.\n$/)
  ended.end()
  expect(await ended.ended).toEqual([9, null])
  expect(ended.said()).toMatch(/\naedes-cluster: import: was ended before it was done\. Run it again/)
  await old.stop('SIGKILL')
  await expect.poll(finished.said).toMatch(/\n--from: the Redis of the old installation is waited for: .*\n$/)
  await old.start()
  await expect.poll(finished.said).toMatch(/\n--from: the Redis of the old installation is back\n$/)
  await admin.config('SET', 'min-replicas-to-write', '0')
  expect(await finished.ended).toEqual([0, null])
  expect(finished.said()).toMatch(/\nRedis is back after .*1 write had waited\n/)
})
