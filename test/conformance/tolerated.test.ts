// Input that is strange and allowed, and input that is random: acknowledgements of what nobody sent, names
// that JavaScript objects are born with, split and glued packets, and a seeded fuzz of mutated packets over
// hundreds of connections. A client that behaves loses nothing meanwhile, and the node lives on.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import mqttPacket, { type Packet } from 'mqtt-packet'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { seededRandom, type Random } from '../support/random.ts'
import { frame, properties, str, u16, WireClient, type Version } from '../support/wire.ts'

let cluster: TestCluster
beforeAll(async () => {
  cluster = await startCluster({ nodes: 1 })
})
afterAll(async () => {
  await cluster[Symbol.asyncDispose]()
})

const url = (): string => cluster.node(0).url

describe.each([4, 5] as const)('MQTT version %i', (version) => {
  test('PUBACK and PUBCOMP for unknown Packet Identifiers are ignored', async () => {
    await using client = await WireClient.connect(url(), 'unknown-ack', { version })
    client.send(frame(0x40, u16(77)), frame(0x70, u16(78)))
    expect(await client.settled()).toEqual([])
  })

  test('PUBREL for an unknown Packet Identifier is answered, under MQTT 5 with 0x92', async () => {
    await using client = await WireClient.connect(url(), 'unknown-rel', { version })
    client.send(frame(0x62, u16(77)))
    expect(await client.next('pubcomp')).toMatchObject({
      messageId: 77,
      ...(version === 5 && { reasonCode: 0x92 }),
    })
  })

  test('PUBREC for an unknown Packet Identifier is answered, under MQTT 5 with 0x92', async () => {
    await using client = await WireClient.connect(url(), 'unknown-rec', { version })
    client.send(frame(0x50, u16(77)))
    expect(await client.next('pubrel')).toMatchObject({
      messageId: 77,
      ...(version === 5 && { reasonCode: 0x92 }),
    })
  })

  test('a packet byte by byte, and many in one segment', async () => {
    await using client = await WireClient.connect(url(), 'bytewise', { version })
    await client.subscribe('bytewise', { qos: 0 })
    const publish = frame(0x30, str('bytewise'), properties(version), Buffer.from('p'))
    for (const byte of publish) {
      client.send(Buffer.from([byte]))
      await new Promise((resolve) => setImmediate(resolve))
    }
    await client.next('publish')
    client.send(...Array.from({ length: 500 }, () => publish))
    const got: Packet[] = []
    while (got.length < 500) got.push(await client.next('publish'))
    expect(await client.settled()).toEqual([])
  })

  test.each(['__proto__', 'constructor', 'toString', 'hasOwnProperty'])(
    '%s is a Client Identifier, a filter and a topic like any other',
    async (name) => {
      await using client = await WireClient.connect(url(), name, { version })
      await client.subscribe(name, { qos: 1 })
      client.send({ cmd: 'publish', topic: name, payload: 'p', qos: 0, retain: false, dup: false })
      expect(await client.next('publish')).toMatchObject({ topic: name })
      client.send({ cmd: 'unsubscribe', messageId: 2, unsubscriptions: [name] })
      await client.next('unsuback')
      await using again = await WireClient.connect(url(), name, { version }) // takes over
      await client.untilClosed()
      expect(await again.settled()).toEqual([])
      expect(cluster.node(0).running).toBe(true)
    },
  )

  test('[MQTT-3.9.3-1] the same filter twice in one SUBSCRIBE: one code per filter in SUBACK', async () => {
    await using client = await WireClient.connect(url(), 'twice', { version })
    client.send(frame(0x82, u16(6), properties(version), str('twice'), 0, str('twice'), 1))
    expect((await client.next('suback')).granted).toHaveLength(2)
  })

  // What throws behind the first slice of what came has nobody above it.
  test('UNSUBSCRIBE from more levels than any filter has is answered, also behind 64 KiB of PINGREQ in one write; SUBSCRIBE is refused', async () => {
    const deep = 'a/'.repeat(101) + 'a'
    await using client = await WireClient.connect(url(), 'deep', { version })
    client.send(
      Buffer.alloc(65_000, Buffer.from([0xc0, 0])),
      frame(0xa2, u16(7), properties(version), str(deep)),
      frame(0x82, u16(8), properties(version), str(deep), 1),
    )
    const answers = []
    while (answers.length < 2) {
      const packet = await client.any()
      if (packet.cmd !== 'pingresp') answers.push(packet)
    }
    expect(answers).toMatchObject([
      { cmd: 'unsuback', messageId: 7 },
      { cmd: 'suback', granted: [version === 5 ? 0x8f : 0x80] },
    ])
  })

  test('[MQTT-3.9.3-1] the codes in SUBACK are in the order of the filters, also of those that look like numbers', async () => {
    await using client = await WireClient.connect(url(), 'in-order', { version })
    client.send(frame(0x82, u16(6), properties(version), str('letters'), 2, str('7'), 0, str('3'), 1))
    expect((await client.next('suback')).granted).toEqual([2, 0, 1])
  })
})

// Nodes of their own: one that dies of it should not take the other tests along.
test.each([4, 5] as const)(
  'MQTT version %i: a session with filters of such names is resumed, here and at another node',
  async (version) => {
    await using own = await startCluster({ nodes: 2 })
    const session = {
      version,
      clean: false,
      ...(version === 5 && { properties: { sessionExpiryInterval: 60 } }),
    }
    const filters = ['__proto__', 'constructor', 'toString', '7', 'plain', 'hasOwnProperty']
    const first = await WireClient.connect(own.node(0).url, 'resumed', session)
    first.send({
      cmd: 'subscribe',
      messageId: 5,
      subscriptions: filters.map((topic) => ({ topic, qos: 1, nl: false, rap: false, rh: 0 })),
    })
    await first.next('suback')
    first.socket.destroy()
    for (const node of [0, 1]) {
      const again = await WireClient.connect(own.node(node).url, 'resumed', session).catch((error: unknown) =>
        expect.unreachable(`${String(error)}\n${own.node(node).log}`),
      )
      expect(again.connack.sessionPresent).toBe(true)
      for (const topic of filters) {
        again.send({ cmd: 'publish', topic, payload: 'p', qos: 0, retain: false, dup: false })
        expect(await again.next('publish')).toMatchObject({ topic })
      }
      again.socket.destroy()
    }
    await using last = await WireClient.connect(own.node(0).url, 'resumed', session)
    last.send({ cmd: 'unsubscribe', messageId: 6, unsubscriptions: ['__proto__'] })
    await last.next('unsuback')
    last.send({ cmd: 'publish', topic: '__proto__', payload: 'p', qos: 0, retain: false, dup: false })
    expect(await last.settled()).toEqual([])
  },
)

test.each([4, 5] as const)(
  'MQTT version %i: __proto__ among several filters of one SUBSCRIBE',
  async (version) => {
    await using own = await startCluster({ nodes: 1 })
    await using client = await WireClient.connect(own.node(0).url, 'several', { version })
    client.send(frame(0x82, u16(5), properties(version), str('__proto__'), 0, str('constructor'), 0))
    expect(
      (
        await client
          .next('suback')
          .catch((error: unknown) => expect.unreachable(`${String(error)}\n${own.node(0).log}`))
      ).granted,
    ).toEqual([0, 0])
    for (const topic of ['__proto__', 'constructor'])
      client.send({ cmd: 'publish', topic, payload: 'p', qos: 0, retain: false, dup: false })
    for (const topic of ['__proto__', 'constructor'])
      expect(await client.next('publish')).toMatchObject({ topic })
    expect(own.node(0).running).toBe(true)
  },
)

test('a User Property named __proto__ in CONNECT, will and PUBLISH', async () => {
  const user = Buffer.concat([Buffer.from([0x26]), str('__proto__'), str('v')])
  await using client = await WireClient.open(url())
  client.send(
    frame(
      0x10,
      str('MQTT'),
      5,
      6,
      u16(0),
      properties(5, user),
      str('props'),
      properties(5, user),
      str('props/will'),
      str('gone'),
    ),
  )
  await client.next('connack')
  await using witness = await WireClient.connect(url(), 'witness')
  await witness.subscribe('props/#', { qos: 0 })
  client.send(frame(0x30, str('props/live'), properties(5, user), Buffer.from('p')))
  await witness.next('publish')
  client.socket.destroy()
  expect(await witness.next('publish')).toMatchObject({ topic: 'props/will' })
  expect(cluster.node(0).running).toBe(true)
})

/** Valid packets, for mutation. */
function samples(version: Version): Buffer[] {
  const base = { qos: 0 as const, retain: false, dup: false, topic: 'fuzz/x', payload: 'payload' }
  const props = {
    contentType: 'c',
    responseTopic: 'r',
    correlationData: Buffer.from('d'),
    userProperties: { a: 'b' },
    messageExpiryInterval: 9,
    payloadFormatIndicator: true,
  }
  const packets: Packet[] = [
    {
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: version,
      clean: true,
      clientId: 'fuzz',
      keepalive: 9,
      will: { topic: 'w', payload: Buffer.from('w'), qos: 1, retain: false },
      username: 'u',
      password: Buffer.from('p'),
    },
    { cmd: 'publish', ...base },
    { cmd: 'publish', ...base, qos: 1, messageId: 3, properties: props },
    { cmd: 'publish', ...base, qos: 2, messageId: 4, retain: true, properties: { topicAlias: 3 } },
    { cmd: 'puback', messageId: 3 },
    { cmd: 'pubrec', messageId: 3 },
    { cmd: 'pubrel', messageId: 4 },
    { cmd: 'pubcomp', messageId: 3 },
    {
      cmd: 'subscribe',
      messageId: 5,
      subscriptions: [
        { topic: 'fuzz/+', qos: 1 },
        { topic: 'fuzz/#', qos: 2, nl: true, rap: true, rh: 1 },
      ],
      properties: { subscriptionIdentifier: 9 },
    },
    { cmd: 'unsubscribe', messageId: 6, unsubscriptions: ['fuzz/+', 'fuzz/#'] },
    { cmd: 'pingreq' },
    { cmd: 'disconnect', reasonCode: 4, properties: { reasonString: 'bye' } },
  ]
  return packets.map((packet) => mqttPacket.generate(packet, { protocolVersion: version }))
}

/**
 * One to four changes: bits, bytes, cuts, doublings, insertions; often with the length put right again, to
 * get further in.
 */
function mutate(bytes: Buffer, random: Random): Buffer {
  let result = Buffer.from(bytes)
  for (let n = 1 + random.below(4); n > 0 && result.length > 0; n--) {
    const at = random.below(result.length)
    switch (random.below(5)) {
      case 0:
        result[at]! ^= 1 << random.below(8)
        break
      case 1:
        result[at] = random.pick([0, 1, 2, 0x7f, 0x80, 0xff, random.below(256)])
        break
      case 2:
        result = Buffer.concat([result.subarray(0, at), result.subarray(at + 1 + random.below(4))])
        break
      case 3:
        result = Buffer.concat([result.subarray(0, at), result.subarray(random.below(at + 1))])
        break
      default:
        result = Buffer.concat([
          result.subarray(0, at),
          Buffer.from(Array.from({ length: 1 + random.below(6) }, () => random.below(256))),
          result.subarray(at),
        ])
    }
  }
  return random.below(3) > 0 && result.length > 2 && result.length < 130
    ? Buffer.concat([result.subarray(0, 1), Buffer.from([result.length - 2]), result.subarray(2)])
    : result
}

/** One hostile connection: sometimes CONNECT is mutated too; closed by whomever comes first. */
async function attack(random: Random, valid: Record<Version, Buffer[]>, name: string): Promise<number> {
  const version = random.pick([4, 5] as const)
  const client = await WireClient.open(url(), version)
  client.socket.removeAllListeners('data') // what comes back is of no interest, and may be any version
  client.socket.resume()
  const connect = mqttPacket.generate({
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: version,
    clean: random.below(4) > 0,
    clientId: name,
    keepalive: 0,
  })
  client.send(random.below(5) === 0 ? mutate(valid[version][0]!, random) : connect)
  const count = 5 + random.below(20)
  for (let n = 0; n < count && !client.socket.destroyed; n++) {
    client.send(mutate(random.pick(valid[version]), random))
    if (random.below(3) === 0) await new Promise((resolve) => setImmediate(resolve))
  }
  client.socket.end()
  setTimeout(() => client.socket.destroy(), 2_000).unref()
  await client.closed
  return count
}

test('a seeded fuzz of mutated packets: the node survives and a client that behaves loses nothing', async () => {
  const random = seededRandom()
  console.log(`SEED=${random.seed}`)
  const valid = { 4: samples(4), 5: samples(5) }
  const healthy = await cluster.node(0).connect('healthy', { version: 5 })
  await healthy.subscribe('healthy/#', { qos: 2 })
  let packets = 0
  const expected: { topic: string; payload: string }[] = []
  for (let round = 0; round < 15; round++) {
    const attacks = Array.from({ length: 10 }, (_, i) =>
      attack(random, valid, `fuzz-${(round * 10 + i) % 50}`),
    )
    for (const qos of [0, 1, 2] as const) {
      const payload = `${round}-${qos}`
      expected.push({ topic: 'healthy/x', payload })
      await healthy.publish('healthy/x', payload, { qos })
    }
    for (const count of await Promise.all(attacks)) packets += count
    expect(
      cluster.node(0).running,
      `the node died in round ${round}, SEED=${random.seed}\n${cluster.node(0).log.slice(-3_000)}`,
    ).toBe(true)
  }
  expect(packets).toBeGreaterThan(1_500)
  await healthy.receives(expected)
  expect((await cluster.node(0).admin('/livez')).status).toBe(200)
})
