// Topic Aliases towards a client (MQTT 5 section 3.3.2.3.4): what it gets resolves to what was published, with as
// many aliases as it takes, for topics that come again; live, out of a queue and because of a SUBSCRIBE alike.
import type { IPublishPacket } from 'mqtt-packet'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createNode, type Node } from '../../broker/index.ts'
import { TestClient } from '../support/client.ts'
import { seededRandom } from '../support/random.ts'
import { frame, properties, str, u16, u32, WireClient } from '../support/wire.ts'

let node: Node
let url: string
beforeAll(async () => {
  node = await createNode({ listen: ['mqtt://127.0.0.1:0'] })
  url = node.endpoints[0]!
})
afterAll(() => node.close())

type Options = NonNullable<Parameters<typeof WireClient.connect>[2]>
interface Resolved {
  readonly topic: string
  readonly payload: string
  readonly alias: number | undefined
  readonly isNamed: boolean
}

/** What a client makes of a PUBLISH, by the aliases that it was told of so far. */
function resolver(max: number): (packet: IPublishPacket) => Resolved {
  const topics = new Map<number, string>()
  return ({ topic, payload, properties: { topicAlias } = {} }) => {
    if (topicAlias !== undefined) {
      expect(topicAlias).toBeGreaterThan(0) // [MQTT-3.3.2-8]
      expect(topicAlias).toBeLessThanOrEqual(max) // [MQTT-3.3.2-11]
      if (topic !== '') topics.set(topicAlias, topic)
    }
    const name = topic === '' ? topics.get(topicAlias!) : topic
    expect(name, 'an alias that it was not told of').toBeDefined()
    return { topic: name!, payload: payload.toString(), alias: topicAlias, isNamed: topic !== '' }
  }
}

const taking = (topicAliasMaximum: number, more: Options = {}): Options => ({
  ...more,
  properties: { ...more.properties, topicAliasMaximum },
})

async function receive(client: WireClient, count: number, max: number): Promise<Resolved[]> {
  const resolve = resolver(max)
  const got: Resolved[] = []
  while (got.length < count) {
    const packet = await client.any()
    if (packet.cmd === 'pubrel') client.send({ cmd: 'pubcomp', messageId: packet.messageId! })
    if (packet.cmd !== 'publish') continue
    if (packet.qos > 0)
      client.send({ cmd: packet.qos === 1 ? 'puback' : 'pubrec', messageId: packet.messageId! })
    got.push(resolve(packet))
  }
  return got
}

test('[MQTT-3.1.2-26] [MQTT-3.3.2-11] a topic has an alias from its second message on, and no name from its third', async () => {
  await using client = await WireClient.connect(url, 'second', taking(2))
  await client.subscribe('second/+', { qos: 0 })
  const topics = ['a', 'a', 'a', 'b', 'b', 'b', 'a', 'c', 'a', 'c', 'c', 'b', 'a'].map(
    (name) => `second/${name}`,
  )
  for (const topic of topics) await node.publish(topic, topic)
  const got = await receive(client, topics.length, 2)
  expect(got.map(({ topic }) => topic)).toEqual(topics)
  expect(got.map(({ alias, isNamed }) => [alias, isNamed])).toEqual([
    [undefined, true],
    [1, true],
    [1, false],
    [undefined, true],
    [2, true],
    [2, false],
    [1, false],
    [undefined, true],
    [1, false],
    [2, true], // c takes the place of b, which was used longest ago
    [2, false],
    [undefined, true],
    [1, false],
  ])
})

test.each([
  ['of none', {}],
  ['of 0', taking(0)],
])('[MQTT-3.1.2-27] a Topic Alias Maximum %s: no alias is sent', async (_, options) => {
  await using client = await WireClient.connect(url, 'none', options)
  await client.subscribe('none', { qos: 0 })
  for (let n = 0; n < 3; n++) await node.publish('none', '')
  for (const { alias } of await receive(client, 3, 0)) expect(alias).toBeUndefined()
})

test.each([
  ['that ends with its connection', {}],
  ['with a queue', { clean: false, properties: { sessionExpiryInterval: 60 } }],
] as const)(
  'live, waiting for the window and retained, QoS 0 to 2, to a session %s: topics, properties and payloads are those published',
  async (kind, options) => {
    const random = seededRandom()
    console.log(`SEED=${random.seed}`)
    const { publisher, root } = {
      publisher: await WireClient.connect(url, `publisher ${kind}`),
      root: `mixed/${kind}`,
    }
    const user = Buffer.concat([Buffer.from([0x26]), str('k'), str('v'.repeat(100))]) // a length of two bytes, nearly
    const sent: string[] = []
    const send = (n: number, retain = false): void => {
      const qos = n % 3
      const topic = `${root}/${retain ? n : random.below(6)}`
      const payload = n % 10 === 7 ? 'x'.repeat(40_000) : `${n}`
      sent.push(`${topic} ${payload}`)
      const props = [...(n % 2 === 0 ? [user] : []), ...(n % 4 < 2 ? [0x02, u32(1_000)] : [])]
      publisher.send(
        frame(
          0x30 | (qos << 1) | (retain ? 1 : 0),
          str(topic),
          ...(qos === 0 ? [] : [u16(n + 1)]),
          properties(5, ...props),
          Buffer.from(payload),
        ),
      )
      if (qos === 2) publisher.send(frame(0x62, u16(n + 1)))
    }
    for (let n = 0; n < 9; n++) send(n, true)
    await expect.poll(() => publisher.packets.length).toBe(9)
    await using client = await WireClient.connect(
      url,
      `mixed ${kind}`,
      taking(4, { ...options, properties: { ...(options as Options).properties, receiveMaximum: 3 } }),
    )
    client.send(frame(0x82, u16(1), properties(5, 0x0b, 0xc8, 0x01), str(`${root}/#`), 2))
    await client.next('suback')
    for (let n = 10; n < 160; n++) send(n)
    const resolve = resolver(4)
    const got: string[] = []
    let unnamed = 0
    while (got.length < sent.length) {
      const packet = await client.any()
      if (packet.cmd === 'pubrel') client.send({ cmd: 'pubcomp', messageId: packet.messageId! })
      if (packet.cmd !== 'publish') continue
      if (packet.qos > 0)
        client.send({ cmd: packet.qos === 1 ? 'puback' : 'pubrec', messageId: packet.messageId! })
      const { topic, payload, isNamed } = resolve(packet)
      if (!isNamed) unnamed++
      got.push(`${topic} ${payload}`)
      expect(packet.properties?.subscriptionIdentifier).toBe(200)
      const n = sent.indexOf(`${topic} ${payload}`)
      if (payload.length < 10) {
        const nth = Number(payload)
        expect(packet.properties?.userProperties !== undefined, payload).toBe(nth % 2 === 0)
        expect((packet.properties?.messageExpiryInterval ?? 0) > 900, payload).toBe(nth % 4 < 2)
      }
      expect(n).toBeGreaterThanOrEqual(0)
    }
    expect([...got].sort()).toEqual([...sent].sort())
    expect(unnamed).toBeGreaterThan(30)
  },
)

test('[MQTT-3.1.2-24] [MQTT-3.3.2-7] an alias makes no packet larger than the client takes, and is forgotten with its connection', async () => {
  const options = { properties: { topicAliasMaximum: 3, maximumPacketSize: 60 } }
  const topic = 'fits/just'
  // 2 of the fixed header, 2 + 9 of the topic, 1 of the properties: with an alias it would be 63
  const payload = 'x'.repeat(60 - 14)
  for (let round = 0; round < 2; round++) {
    await using client = await WireClient.connect(url, 'fits', options)
    await client.subscribe('fits/+', { qos: 0 })
    for (let n = 0; n < 3; n++) await node.publish(topic, payload)
    await node.publish(topic, 'short')
    await node.publish(topic, 'short')
    await node.publish(topic, payload)
    const got = await receive(client, 6, 3)
    expect(got.map(({ payload }) => payload)).toEqual([payload, payload, payload, 'short', 'short', payload])
    expect(got.map(({ alias }) => alias)).toEqual([undefined, undefined, undefined, undefined, 1, 1])
  }
})

test('MQTT.js takes them', async () => {
  await using client = await TestClient.connect(url, 'mqtt.js', {
    version: 5,
    properties: { topicAliasMaximum: 10 },
  })
  await client.subscribe('js/#', { qos: 1 })
  const topics = Array.from({ length: 60 }, (_, n) => `js/${n % 4}/${n % 3}`)
  for (const topic of topics) await node.publish(topic, topic, { qos: 1 })
  await client.arrivals(topics.length)
  expect(client.packets.map(({ payload }) => payload.toString())).toEqual(topics)
})
