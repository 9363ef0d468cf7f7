// Groups whose members' sessions outlive their connections: a backlog of their own, and nothing lost while
// members come and go.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ConnectOptions, TestClient } from '../support/client.ts'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { WireClient } from '../support/wire.ts'

let cluster: TestCluster
beforeAll(async () => {
  cluster = await startCluster({
    nodes: 2,
    argv: [
      '--group-strategies',
      'ordered/#=ordered;rr/#=round-robin;topic/#=hash-topic',
      '--queue-messages-max',
      '50',
    ],
  })
})
afterAll(async () => {
  await cluster[Symbol.asyncDispose]()
})

const lasting = { version: 5, clean: false, properties: { sessionExpiryInterval: 600 } } as const
const connect = (id: string, node = 0, more: ConnectOptions = lasting): Promise<TestClient> =>
  cluster.node(node).connect(id, more)
const numbered = (count: number): string[] => Array.from({ length: count }, (_, n) => String(n))

async function publishAll(
  topic: string,
  payloads: readonly string[],
  qos: 1 | 2 = 1,
  node = 0,
): Promise<void> {
  const publisher = await connect(`publisher-${Math.random()}`, node, { version: 5 })
  for (const payload of payloads) await publisher.publish(topic, payload, { qos })
  await publisher.disconnect()
}

const payloadsOf = (clients: readonly TestClient[]): string[] =>
  clients.flatMap((client) => client.takeAll()).sort((a, b) => Number(a) - Number(b))

async function allOf(clients: readonly TestClient[], count: number): Promise<string[]> {
  const got: string[] = []
  await expect.poll(() => got.push(...payloadsOf(clients)) && got.length).toBeGreaterThanOrEqual(count)
  await Promise.all(clients.map((client) => client.settle()))
  got.push(...payloadsOf(clients))
  return got.sort((a, b) => Number(a) - Number(b))
}

describe.each([1, 2] as const)('QoS %i', (qos) => {
  const group = `$share/g/backlog/${qos}`

  test('members scale 2 → 0 → 1: what came meanwhile waits, and each message comes to one of them', async () => {
    const members = [await connect(`a-${qos}`, 0), await connect(`b-${qos}`, 1)]
    for (const member of members) await member.subscribe(group, { qos })
    await publishAll(`backlog/${qos}`, numbered(20), qos)
    expect(await allOf(members, 20)).toEqual(numbered(20))
    for (const member of members) await member.disconnect()
    await publishAll(`backlog/${qos}`, numbered(10), qos, 1)
    const again = await connect(`a-${qos}`, 1)
    expect(again.sessionPresent).toBe(true)
    expect(await allOf([again], 10)).toEqual(numbered(10))
    await again.unsubscribe(group)
    const other = await connect(`b-${qos}`, 0)
    await publishAll(`backlog/${qos}`, numbered(5), qos)
    expect(await allOf([other], 5)).toEqual(numbered(5))
    expect(await allOf([again], 0)).toEqual([])
    await other.unsubscribe(group)
    await publishAll(`backlog/${qos}`, ['lost'], qos)
    await other.subscribe(group, { qos })
    await other.receives([])
    await other.unsubscribe(group)
  })
})

test('QoS 1 that a member does not acknowledge goes to another when its connection ends, without DUP', async () => {
  const silent = await WireClient.connect(cluster.node(0).url, 'silent', {
    clean: false,
    properties: { sessionExpiryInterval: 600, receiveMaximum: 10 },
  })
  await silent.subscribe('$share/g/silent')
  await publishAll('silent', numbered(5))
  for (let n = 0; n < 5; n++) expect((await silent.next('publish')).payload.toString()).toBe(String(n))
  const other = await connect('other', 1)
  await other.subscribe('$share/g/silent')
  silent.socket.destroy()
  await other.receives(numbered(5).map((payload) => ({ topic: 'silent', payload, qos: 1 })))
  expect(other.packets.map(({ dup }) => dup)).toEqual(Array(5).fill(false))
  await other.unsubscribe('$share/g/silent')
})

test('QoS 2 that was sent stays with its member, and is completed there when it comes back [MQTT-4.8.2-4]', async () => {
  const options = { clean: false, properties: { sessionExpiryInterval: 600 } }
  const silent = await WireClient.connect(cluster.node(0).url, 'silent 2', options)
  await silent.subscribe('$share/g/silent2', { qos: 2 })
  await publishAll('silent2', ['x', 'y'], 2)
  const [x, y] = [await silent.next('publish'), await silent.next('publish')]
  silent.send({ cmd: 'pubrec', messageId: y.messageId! })
  expect((await silent.next('pubrel')).messageId).toBe(y.messageId)
  const other = await connect('other 2', 1)
  await other.subscribe('$share/g/silent2', { qos: 2 })
  silent.socket.destroy()
  await other.receives([])
  const again = await WireClient.connect(cluster.node(1).url, 'silent 2', options)
  expect(await again.next('publish')).toMatchObject({ messageId: x.messageId, dup: true, qos: 2 })
  expect((await again.next('pubrel')).messageId).toBe(y.messageId)
  again.send({ cmd: 'pubrec', messageId: x.messageId! })
  expect((await again.next('pubrel')).messageId).toBe(x.messageId)
  again.send({ cmd: 'pubcomp', messageId: x.messageId! }, { cmd: 'pubcomp', messageId: y.messageId! })
  await publishAll('silent2', ['z'], 2)
  again.socket.destroy()
  await other.settle()
  await other.unsubscribe('$share/g/silent2')
})

test.each([false, true])(
  'QoS 2 that was given to a member and not sent goes to another when its connection ends; clean: %s',
  async (clean) => {
    const group = `$share/unsent/unsent/${clean}`
    const keeper = await connect(`unsent-keeper-${clean}`)
    await keeper.subscribe(group, { qos: 2 })
    await keeper.disconnect()
    const narrow = await WireClient.connect(cluster.node(0).url, `unsent-narrow-${clean}`, {
      clean,
      properties: { receiveMaximum: 1, ...(!clean && { sessionExpiryInterval: 600 }) },
    })
    await narrow.subscribe(group, { qos: 2 })
    await publishAll(`unsent/${clean}`, numbered(10), 2)
    expect((await narrow.next('publish')).payload.toString()).toBe('0')
    narrow.socket.destroy()
    await narrow.closed
    const other = await connect(`unsent-other-${clean}`, 1)
    await other.subscribe(group, { qos: 2 })
    expect(await allOf([other], 9)).toEqual(numbered(10).slice(1))
    await other.unsubscribe(group)
  },
)

test('QoS 2 of a member that is taken over while it has some that was not sent: each once, at its next connection', async () => {
  const group = '$share/taken/taken/+'
  const narrow = await WireClient.connect(cluster.node(0).url, 'taken', {
    clean: false,
    properties: { receiveMaximum: 1, sessionExpiryInterval: 600 },
  })
  await narrow.subscribe(group, { qos: 2 })
  await publishAll('taken/1', numbered(10), 2)
  expect((await narrow.next('publish')).payload.toString()).toBe('0')
  const next = await connect('taken', 0)
  await narrow.closed
  expect(await allOf([next], 10)).toEqual(numbered(10))
  await publishAll('taken/2', numbered(20), 2)
  expect(await allOf([next], 20)).toEqual(numbered(20))
  await next.unsubscribe(group)
})

test('ordered: one message of a topic in flight at a time, others go on', async () => {
  const silent = await WireClient.connect(cluster.node(0).url, 'one at a time', {
    clean: false,
    properties: { sessionExpiryInterval: 600 },
  })
  await silent.subscribe('$share/ordered/o/+')
  await publishAll('o/a', ['1', '2', '3'])
  await publishAll('o/b', ['4'])
  const first = [await silent.next('publish'), await silent.next('publish')]
  expect(first.map(({ payload }) => payload.toString())).toEqual(['1', '4'])
  silent.send({ cmd: 'puback', messageId: first[0]!.messageId! })
  expect((await silent.next('publish')).payload.toString()).toBe('2')
  const other = await connect('goes on', 1)
  await other.subscribe('$share/ordered/o/+')
  silent.socket.destroy()
  expect(await allOf([other], 3)).toEqual(['2', '3', '4'])
  expect(
    other.packets.filter(({ topic }) => topic === 'o/a').map(({ payload }) => payload.toString()),
  ).toEqual(['2', '3'])
  await other.unsubscribe('$share/ordered/o/+')
})

test('a backlog is bounded: the oldest goes; an expired message does not come', async () => {
  const member = await connect('bounded')
  await member.subscribe('$share/g/bounded')
  await member.disconnect()
  const publisher = await connect('bounded publisher', 1, { version: 5 })
  for (const payload of numbered(60)) await publisher.publish('bounded', payload)
  const again = await connect('bounded', 1)
  expect(await allOf([again], 50)).toEqual(numbered(60).slice(10))
  await again.disconnect()
  await publisher.publish('bounded', 'expired', { properties: { messageExpiryInterval: 1 } })
  await publisher.publish('bounded', 'stays')
  await new Promise((resolve) => setTimeout(resolve, 1_100)) // what is waited for is time
  const last = await connect('bounded', 0)
  await last.receives([{ topic: 'bounded', payload: 'stays' }])
  await last.unsubscribe('$share/g/bounded')
})

test('a member whose session ends with its connection helps with the backlog of the others', async () => {
  const brief = await connect('brief', 1, { version: 4 })
  await brief.subscribe('$share/rr/helped')
  const member = await connect('lasting')
  await member.subscribe('$share/rr/helped')
  await publishAll('helped', numbered(20))
  const [a, b] = [member, brief]
  await expect.poll(() => a.packets.length + b.packets.length).toBe(20)
  expect([a.packets.length, b.packets.length]).toEqual([10, 10])
  await brief.disconnect()
  await member.unsubscribe('$share/rr/helped')
})
