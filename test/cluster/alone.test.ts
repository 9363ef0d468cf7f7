// A node without Redis: it says what it keeps, and where; what was acknowledged is there when it was killed
// and starts again; no second node takes its file.
import { execFileSync, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { mainPath, TestNode } from '../support/cluster.ts'
import { knock } from '../support/door.ts'
import { frame, properties, str, u16, WireClient, type Version } from '../support/wire.ts'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-alone-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

const readiness = async (node: TestNode): Promise<unknown> => (await fetch(`${node.adminUrl}/readyz`)).json()

test('in memory: it serves at once and says that nothing outlives it', async () => {
  await using node = new TestNode('m', [])
  await node.start()
  expect(node.log).toMatch(
    /no Redis is named: one node, which keeps sessions and messages in memory: they are gone when it stops/,
  )
  expect(await readiness(node)).toMatchObject({ ready: true, checks: { memory: 'ok', node: 'ok' } })
  await using client = await node.connect('c')
  await client.subscribe('t')
  await client.publish('t', 'x')
  await client.receives([{ topic: 't', payload: 'x' }])
})

test('with a file: killed and started again it has sessions, their queues and Retained Messages; a second node is refused', async () => {
  const file = join(folder, 'state')
  await using node = new TestNode('f', ['--state-file', file])
  await node.start()
  expect(await readiness(node)).toMatchObject({ checks: { file: 'ok' } })
  const sleeper = await node.connect('sleeper', { clean: false })
  await sleeper.subscribe('t/#')
  await sleeper.disconnect()
  await using publisher = await node.connect('publisher')
  for (const n of [1, 2, 3]) await publisher.publish(`t/${n}`, String(n), { qos: 1, retain: n === 3 })
  const second = spawnSync(
    process.execPath,
    [mainPath, 'node', '--id', 'g', '--listen', 'mqtt://127.0.0.1:0', '--admin', 'off', '--state-file', file],
    { encoding: 'utf8' },
  )
  expect([second.status, second.stderr]).toEqual([
    10,
    expect.stringMatching(
      /^aedes-cluster: --state-file=.*: .* is used by another node, which .*state\.lock names\. Name another file, .*\n$/,
    ),
  ])
  await node.kill()
  await node.start()
  await using again = await node.connect('sleeper', { clean: false })
  await again.receives([1, 2, 3].map((n) => ({ topic: `t/${n}`, payload: String(n), retain: false })))
  await using late = await node.connect('late')
  await late.subscribe('t/#')
  await late.receives([{ topic: 't/3', payload: '3', retain: true }])
})

test('WebSocket: what was sent before DISCONNECT and the end of the TCP connection is read, though nobody can be answered; no will', async () => {
  await using node = new TestNode('w', [])
  await node.start()
  await using watcher = await node.connect('watcher')
  await watcher.subscribe('#')
  const [count, rounds] = [900, 6]
  const publishes = Array.from({ length: count }, (_, n) =>
    frame(0x32, str('t'), u16(n + 1), properties(5), Buffer.alloc(200, `${n} `)),
  )
  for (let round = 0; round < rounds; round++) {
    const tcp = await knock(node.wsUrl)
    const socket = new WebSocket(node.wsUrl, 'mqtt', { createConnection: () => tcp })
    await once(socket, 'open')
    const will = [properties(5), str('will'), str('void')]
    const connect = frame(0x10, str('MQTT'), 5, 0x06, u16(0), properties(5), str(`leaves ${round}`), ...will)
    socket.send(Buffer.concat([connect, ...publishes, Buffer.from([0xe0, 0])]))
    tcp.end()
    await once(socket, 'close')
  }
  await watcher.arrivals(count * rounds)
  await watcher.settle()
  expect(watcher.packets.filter(({ topic }) => topic === 'will')).toEqual([])
  expect(watcher.packets).toHaveLength(count * rounds)
})

const counted = async (node: TestNode, what: string): Promise<number> =>
  Number(new RegExp(`^aedes_cluster_${what} (\\d+)$`, 'm').exec((await node.admin('/metrics')).body)?.[1])
const asleep = async (node: TestNode, name: string, filter: string): Promise<void> => {
  await using client = await node.connect(name, { clean: false })
  await client.subscribe(filter, { qos: 1 })
  await client.disconnect()
}
const kilobytes = (count: number): Buffer => Buffer.alloc(1_000 * count)

test('what waits for all sessions has one bound: where most waits the oldest goes; what they share counts once', async () => {
  await using node = new TestNode('bound', ['--stored-bytes-max', '4000000'])
  await node.start()
  const held = await node.heldBytes()
  await asleep(node, 'small', 'small')
  for (let n = 0; n < 30; n++) await asleep(node, `sharing-${n}`, 'shared/#')
  await using publisher = await node.connect('publisher')
  await publisher.publish('small', 'kept', { qos: 1 })
  // 90 MB, were it each one's
  for (let n = 0; n < 30; n++) await publisher.publish(`shared/${n}`, kilobytes(100), { qos: 1 })
  expect(await counted(node, 'messages_dropped_total{cause="full-store",qos="1"}')).toBe(0)
  await asleep(node, 'hog', 'hog/#')
  for (let n = 0; n < 300; n++) await publisher.publish(`hog/${n}`, kilobytes(100), { qos: 1 })
  expect((await node.heldBytes()) - held).toBeLessThan(16_000_000)
  expect(await counted(node, 'messages_dropped_total{cause="full-store",qos="1"}')).toBeGreaterThan(250)
  await using small = await node.connect('small', { clean: false })
  await small.receives([{ topic: 'small', payload: 'kept' }])
  await using hog = await node.connect('hog', { clean: false })
  await hog.arrives(({ topic }) => topic === 'hog/299')
})

test('when all of it is in flight a new session is refused, 0x97 or 3, and the others go on', async () => {
  await using node = new TestNode('flight', ['--stored-bytes-max', '1000000'])
  await node.start()
  const lasting = (version: Version) => ({
    version,
    clean: false,
    ...(version === 5 && { properties: { sessionExpiryInterval: 100 } }),
  })
  await using publisher = await WireClient.connect(node.url, 'publisher')
  await using keeper = await WireClient.connect(node.url, 'keeper', lasting(4))
  await keeper.subscribe('t')
  await using first = await WireClient.connect(node.url, 'first', lasting(4))
  await using second = await WireClient.connect(node.url, 'second', lasting(5))
  const publish = async (messageId: number, retain = false): Promise<void> => {
    publisher.send({
      cmd: 'publish',
      topic: retain ? `r/${messageId}` : 't',
      payload: kilobytes(20),
      qos: 1,
      messageId,
      retain,
      dup: false,
    })
    await publisher.next('puback')
  }
  const got: number[] = []
  for (let id = 1; id <= 49; id++) {
    await publish(id)
    got.push((await keeper.next('publish')).messageId!)
  }
  for (let id = 50; id <= 52; id++) await publish(id, true)
  await first.subscribe('r/#')
  await expect.poll(() => first.packets.length).toBe(3) // the last that there is room for
  await second.subscribe('r/#')
  for (const version of [4, 5] as const) {
    await using refused = await WireClient.connect(node.url, `new-${version}`, lasting(version))
    expect(refused.connack).toMatchObject(version === 5 ? { reasonCode: 0x97 } : { returnCode: 3 })
    await using clean = await WireClient.connect(node.url, `clean-${version}`, { version })
    expect(clean.connack).toMatchObject(version === 5 ? { reasonCode: 0 } : { returnCode: 0 })
  }
  expect(await counted(node, 'refusals_total{cause="sessions"}')).toBe(2)
  expect(await second.settled()).toEqual([]) // its Retained Messages wait for room
  for (const messageId of got) keeper.send({ cmd: 'puback', messageId })
  await expect.poll(() => second.packets.length).toBe(3)
  await using now = await WireClient.connect(node.url, 'new-5', lasting(5))
  expect(now.connack.reasonCode).toBe(0)
})

test('when its disk is full publishers wait, and some CONNECTs, log and /readyz say so, and all goes on when there is room', async () => {
  await using node = new TestNode('full', [
    '--state-file',
    join(folder, 'full'),
    '--claims-waiting-max',
    '2',
    '--shutdown-ms',
    '300',
  ])
  await node.start()
  const limit = (bytes: number | 'unlimited'): unknown =>
    execFileSync('prlimit', ['--pid', String(node.pid), `--fsize=${bytes}:unlimited`])
  await using publisher = await node.connect('publisher')
  limit(200_000)
  const publishes = Array.from({ length: 30 }, (_, n) =>
    publisher.publish(`t/${n}`, Buffer.alloc(10_000), { qos: 1, retain: true }),
  )
  await expect
    .poll(() => node.log)
    .toMatch(/the disk: EFBIG.*: 1 publisher, 1 write waiting for .*Make room on it/)
  const coming = [1, 2].map((n) => node.connect(`waits${n}`, { clean: false }))
  await expect
    .poll(async () => (await fetch(`${node.adminUrl}/metrics`)).text())
    .toContain('aedes_cluster_waiting{who="connects"} 2')
  await expect(node.connect('too many', { clean: false })).rejects.toThrow(/Server unavailable/)
  expect(await readiness(node)).toMatchObject({
    ready: false,
    checks: { file: expect.stringMatching(/EFBIG.*Make room/) as string },
  })
  limit('unlimited')
  await Promise.all(publishes)
  for (const client of await Promise.all(coming)) await client[Symbol.asyncDispose]()
  await expect.poll(() => node.log).toMatch(/the disk is back after/)
  expect(await readiness(node)).toMatchObject({ ready: true })
  await node.kill()
  await node.start()
  await using late = await node.connect('late')
  await late.subscribe('t/#')
  await late.arrivals(30)
  // a stop does not wait for room, and leaves the file to the next one
  limit(200_000)
  const never = late.publish('t/never', 'x', { qos: 1, retain: true })
  never.catch(() => undefined)
  await expect.poll(async () => (await readiness(node)) as { ready: boolean }).toMatchObject({ ready: false })
  await node.stop()
  expect(readdirSync(folder).filter((name) => name.startsWith('full.'))).toEqual([])
  await node.start()
  await using again = await node.connect('again')
  await again.subscribe('t/#')
  await again.arrivals(30)
})
