// Moving over: data that the stock stack itself wrote (Aedes, aedes-persistence-redis, mqemitter-redis, MQTT.js clients) is
// imported while nodes of the cluster run, and is served by them: sessions present, queued messages in order and once.
import { Aedes } from 'aedes'
import aedesPersistenceRedis from 'aedes-persistence-redis'
import { Redis } from 'ioredis'
import mqemitterRedis from 'mqemitter-redis'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { TestClient } from '../support/client.ts'
import { mainPath, startCluster } from '../support/cluster.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'

const strange = 'client: ü/%?[*]'

/** Runs the stock stack on `redis` until `use` is done. */
async function withStock(redis: TestRedis, use: (url: string) => Promise<void>): Promise<void> {
  const open = (): Redis => new Redis(redis.url, { maxRetriesPerRequest: null }).on('error', () => undefined)
  const [store, publishing, subscribing] = [open(), open(), open()]
  const broker = await Aedes.createBroker({ id: 'old', persistence: aedesPersistenceRedis({ conn: store }), mq: mqemitterRedis({ pubConn: publishing, subConn: subscribing }) })
  const server = createServer((socket) => { broker.handle(socket) }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  await use(`mqtt://127.0.0.1:${(server.address() as AddressInfo).port}`)
  server.close()
  await new Promise<void>((resolve) => broker.close(() => resolve()))
  for (const connection of [store, publishing, subscribing]) connection.disconnect()
}

const run = async (...argv: string[]): Promise<{ stdout: string; stderr: string; code: number }> => {
  try {
    return { ...await promisify(execFile)(process.execPath, [mainPath, 'import', ...argv]), code: 0 }
  } catch (error) {
    const { stdout, stderr, code } = error as { stdout: string; stderr: string; code: number }
    return { stdout, stderr, code }
  }
}

async function dump(redis: Redis): Promise<string[]> {
  const keys = (await redis.keys('test:*')).sort()
  return Promise.all(keys.map(async (key) => `${key} ${(await redis.dumpBuffer(key)).toString('hex')}`))
}

test('sessions, queued and retained messages of a stock installation are served by the cluster', async () => {
  await using old = await startRedis()
  await withStock(old, async (url) => {
    for (const [clientId, filter, qos] of [['exact', 'plant/7', 1], ['wild', 'plant/#', 2], [strange, '+/7', 1]] as const) {
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
  const redis = new Redis(cluster.redis.url)
  const settled = async (): Promise<string[]> => (await dump(redis)).filter((line) => !/leases|:state |:stream /.test(line))
  const before = await settled()
  const flags = ['--from', old.url, '--redis', cluster.redis.url, '--prefix', 'test']
  const dry = await run(...flags, '--dry-run')
  expect(dry.stdout).toBe('found (dry run, nothing was written): sessions 3 · subscriptions 3 · messages 60 · retained 2 · wills 0\n')
  expect(await settled()).toEqual(before)
  expect((await run(...flags)).stdout).toBe('moved/found: sessions 3/3 · subscriptions 3/3 · messages 60/60 · retained 2/2 · wills 0/0\n')
  expect((await run(...flags)).stdout).toBe('moved/found: sessions 0/3 · subscriptions 0/3 · messages 0/60 · retained 0/2 · wills 0/0\n')
  await cluster.node(1).publish('plant/7', 'new', { qos: 1 })
  for (const [i, clientId] of ['exact', 'wild', strange].entries()) {
    const client = await cluster.node(i % 2).connect(clientId, { clean: false })
    expect(client.sessionPresent, clientId).toBe(true)
    await client.arrivals(21)
    await client.settle()
    const payloads = client.takeAll()
    // Per QoS in the publisher's order (a client hands QoS 2 on when it is released), and once.
    expect(payloads.filter((payload) => Number(payload) % 2 === 0 || payload === 'new')).toEqual([...Array.from({ length: 10 }, (_, n) => `${2 * n}`), 'new'])
    expect(payloads.filter((payload) => Number(payload) % 2 === 1)).toEqual(Array.from({ length: 10 }, (_, n) => `${2 * n + 1}`))
  }
  const fresh = await cluster.node(1).connect('fresh')
  await fresh.subscribe('kept/+')
  await fresh.arrivals(2)
  expect(fresh.takeAll().sort()).toEqual(['as well', 'retained'])
  redis.disconnect()
})

test('a wrong or missing --from is one line and an exit code', async () => {
  expect(await run()).toMatchObject({ code: 2, stderr: expect.stringMatching(/^aedes-cluster: --from: is missing\. .*\n$/) as string })
  expect(await run('--from', 'http://x')).toMatchObject({ code: 2, stderr: expect.stringMatching(/^aedes-cluster: --from=http:\/\/x: is not a Redis address\. .*\n$/) as string })
  expect(await run('--from', 'redis://127.0.0.1:1')).toMatchObject({ code: 4, stderr: expect.stringMatching(/^aedes-cluster: --from=redis:\/\/127\.0\.0\.1:1: .*\n$/) as string })
})
