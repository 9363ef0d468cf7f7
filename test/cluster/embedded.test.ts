// A node within a program: it publishes and subscribes as a client would, on any node of the cluster, and
// serves connections that the program accepted itself.
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect, createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createNode, type LocalMessage, type Node } from '../../broker/index.ts'
import { TestClient } from '../support/client.ts'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { startSlowLink } from '../support/slow-link.ts'

let cluster: TestCluster
let node: Node
beforeAll(async () => {
  cluster = await startCluster({ nodes: 1, argv: ['--lease-ms', '3000'] })
  node = await createNode({
    id: 'embedded',
    redis: cluster.redis.url,
    prefix: 'test',
    listen: ['mqtt://127.0.0.1:0'],
    admin: 'off',
    logLevel: 'silent',
    leaseMs: 3_000,
  })
})
afterAll(async () => {
  await node.close()
  await cluster[Symbol.asyncDispose]()
})

const text = ({ topic, payload, qos, retain }: LocalMessage): string =>
  `${topic} ${payload.toString()} ${qos} ${retain}`

test('a handler hears what is published anywhere from the moment it is there, until it is ended; what it throws is its own affair', async () => {
  const heard: string[] = []
  const end = await node.subscribe(
    'to/+',
    (message) => {
      heard.push(text(message))
    },
    { qos: 1 },
  )
  await node.subscribe('to/#', () => {
    throw new Error('a bug of the program')
  })
  await using client = await cluster.node(0).connect('client')
  await client.publish('to/1', 'one', { qos: 2, retain: true })
  await node.publish('to/2', 'two', { qos: 1 })
  await expect.poll(() => [...heard].sort()).toEqual(['to/1 one 1 true', 'to/2 two 1 false'])
  end()
  await client.publish('to/3', 'three')
  await node.publish('to/4', 'four', { qos: 1 })
  expect(heard.length).toBe(2)
})

test('what it publishes is stored when it resolves: for who is connected, for who sleeps, and as Retained Message', async () => {
  const sleeper = await cluster.node(0).connect('sleeper', { clean: false })
  await sleeper.subscribe('from/#')
  await sleeper.disconnect()
  await node.publish('from/x', Buffer.from('kept'), { qos: 1, retain: true })
  await using again = await cluster.node(0).connect('sleeper', { clean: false })
  await again.receives([{ topic: 'from/x', payload: 'kept', retain: false }])
  await using late = await cluster.node(0).connect('late')
  await late.subscribe('from/x')
  await late.receives([{ topic: 'from/x', payload: 'kept', retain: true }])
})

test.each([
  ['', 'x'],
  ['a/+', 'x'],
  ['$SYS/x', 'x'],
])('a topic that is none is refused: %s', async (topic, payload) => {
  await expect(node.publish(topic, payload)).rejects.toThrow(/is not a topic that may be published to/)
})

test('the bounds of clients hold', async () => {
  await expect(node.publish('large', Buffer.alloc(2_000_000), { qos: 1 })).rejects.toThrow(
    /larger than packetBytesMax, 1048576/,
  )
  await expect(node.publish('a/'.repeat(200) + 'a', 'deep')).rejects.toThrow(/100 levels/)
})

test.each([[''], ['a/#/b'], ['$share/g/x']])('a filter that is none is refused: %s', async (filter) => {
  await expect(node.subscribe(filter, () => undefined)).rejects.toThrow(/is not a filter/)
})

test('it serves a connection that the program accepted', async () => {
  const server = createServer((socket) => node.handle(socket)).listen(0, '127.0.0.1')
  await once(server, 'listening')
  await using client = await TestClient.connect(
    `mqtt://127.0.0.1:${(server.address() as AddressInfo).port}`,
    'by hand',
  )
  await client.subscribe('hand')
  await node.publish('hand', 'over')
  await client.receives([{ topic: 'hand', payload: 'over' }])
  server.close()
})

test('a boot that was declared dead: what was on its way says so, and the handlers are there again with the next one', async () => {
  const heard: string[] = []
  await node.subscribe('life', (message) => {
    heard.push(text(message))
  })
  await using client = await cluster.node(0).connect('teller')
  // this process stands still for more than a lease, and is declared dead
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 4_500)
  await expect
    .poll(async () =>
      node.publish('other', 'x', { qos: 1 }).then(
        () => 'stored',
        (error: unknown) => (error as Error).message,
      ),
    )
    .not.toBe('stored')
  await expect
    .poll(async () => {
      await client.publish('life', 'again')
      return heard.length
    })
    .toBeGreaterThan(0)
})

test('of two nodes in one process, also of one name, each counts its own', async () => {
  const counted = async (of: Node): Promise<string[]> =>
    (await of.metricsText())
      .split('\n')
      .filter((line) =>
        /^aedes_cluster_(messages_dropped|garbage|later_records|failed_messages|damaged)_total/.test(line),
      )
      .filter((line) => !line.endsWith(' 0'))
  const before = await counted(node)
  const other = await createNode({
    id: 'embedded',
    redis: cluster.redis.url,
    prefix: 'other',
    listen: ['mqtt://127.0.0.1:0'],
    admin: 'off',
    logLevel: 'silent',
    queueMessagesMax: 1,
  })
  const sleeper = await TestClient.connect(other.endpoints[0]!, 'sleeper', { clean: false })
  await sleeper.subscribe('sleeps')
  await sleeper.disconnect()
  await Promise.all(['dropped', 'kept'].map((text) => other.publish('sleeps', text, { qos: 1 }))) // one batch
  await other.subscribe('fails', () => {
    throw new Error('a bug of the program')
  })
  await other.publish('fails', 'x', { qos: 1 })
  const connection = new Redis(cluster.redis.url)
  await connection.hset('other:{s0}:wills', '0x:1', 'no will of ours')
  await connection.zadd('other:{s0}:due', 1, 'w:0x:1', 2, 'z:of a later version', 3, 'strange')
  connection.disconnect()
  await expect
    .poll(() => counted(other), { timeout: 5_000 })
    .toEqual([
      'aedes_cluster_messages_dropped_total{cause="full-queue",qos="1"} 1',
      'aedes_cluster_messages_dropped_total{cause="failed",qos="1"} 1',
      'aedes_cluster_garbage_total{where="will"} 1',
      'aedes_cluster_later_records_total{where="due"} 1',
      'aedes_cluster_failed_messages_total{where="delivery"} 1',
      'aedes_cluster_damaged_total 1',
    ])
  expect(await counted(node)).toEqual(before)
  await other.close()
})

test('what ends a node does not end the program that listens for it: its connections are cut, `error` comes, then `closed`', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'embedded-'))
  const stateFile = join(folder, 'state')
  const ends = await createNode({ stateFile, listen: ['mqtt://127.0.0.1:0'], logLevel: 'silent' })
  try {
    await using client = await TestClient.connect(ends.endpoints[0]!, 'cut')
    const events: string[] = []
    ends.on('error', ({ message }) => events.push(message.replace(stateFile, 'FILE')))
    ends.on('closed', () => events.push('closed'))
    const isCut = new Promise<void>((resolve) => client.mqtt.once('close', () => resolve()))
    await writeFile(`${stateFile}.lock`, '{}') // another process took it
    await isCut
    await expect
      .poll(() => events, { timeout: 10_000 })
      .toEqual(['another process took FILE.lock: two nodes would write to one file', 'closed'])
  } finally {
    await ends.close()
    await rm(folder, { recursive: true })
  }
})

test('a node that stops is not ready, though its store is, and listens nowhere any more', async () => {
  let decide: (() => void) | undefined
  const other = await createNode(
    {
      id: 'leaving',
      listen: ['mqtt://127.0.0.1:0', 'ws://127.0.0.1:0/mqtt'],
      admin: 'http://127.0.0.1:0',
      logLevel: 'silent',
    },
    { authorizePublish: (_client, _packet, callback) => void (decide = callback) },
  )
  const { endpoints, adminUrl } = other
  const refused = (url: string): Promise<string> =>
    new Promise((resolve) => {
      const socket = connect(Number(new URL(url).port), '127.0.0.1')
      socket
        .on('connect', () => resolve('open'))
        .on('error', (error: NodeJS.ErrnoException) => resolve(error.code!))
      socket.on('connect', () => socket.destroy())
    })
  const client = await TestClient.connect(endpoints[0]!, 'publishes')
  client.publish('t', 'x', { qos: 1 }).catch(() => undefined) // the node is told to stop meanwhile
  await expect.poll(() => decide).toBeDefined()
  const readyz = async (): Promise<unknown> => {
    const answer = await fetch(`${adminUrl}/readyz`)
    return [answer.status, await answer.json()]
  }
  expect(await readyz()).toEqual([200, { ready: true, checks: { memory: 'ok', node: 'ok' } }])
  const closed = other.close()
  expect(await readyz()).toEqual([503, { ready: false, checks: { memory: 'ok', node: 'stopping' } }])
  expect(await Promise.all(endpoints.map(refused))).toEqual(['ECONNREFUSED', 'ECONNREFUSED'])
  decide!()
  await closed
  await client[Symbol.asyncDispose]()
})

test('a node that is stopped publishes nothing more', async () => {
  const other = await createNode({
    id: 'short',
    listen: ['mqtt://127.0.0.1:0'],
    admin: 'off',
    logLevel: 'silent',
  })
  await other.close()
  await expect(other.publish('t', 'x', { qos: 1 })).rejects.toThrow('the node does not serve now')
})

test('a stop whose time went by while the clients were told has left the cluster all the same', async () => {
  await using link = await startSlowLink(Number(new URL(cluster.redis.url).port), 0)
  const short = await createNode({
    id: 'hurried',
    redis: link.url,
    prefix: 'test',
    listen: ['mqtt://127.0.0.1:0'],
    admin: 'off',
    logLevel: 'silent',
    leaseMs: 3_000,
    shutdownMs: 1,
  })
  const client = await TestClient.connect(short.endpoints[0]!, 'told')
  link.delayMs = 25
  await short.close()
  const connection = new Redis(cluster.redis.url)
  expect(
    (await connection.hkeys('test:{bus}:nodes')).filter((nodeId) => nodeId.startsWith('hurried')),
  ).toEqual([])
  connection.disconnect()
  await client[Symbol.asyncDispose]()
})
