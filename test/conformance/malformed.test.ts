// Input that the standard forbids, over raw sockets against a real node: the connection is closed, under MQTT
// 5 with the reason code that the standard names, and the node lives on and serves others. Each row stands
// for one rule. Where the standard names one code, the row does; where it leaves a choice, the row lists it.
// A CONNECT may be refused with a CONNACK or without a word [MQTT-4.13.1].
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { frame, properties, str, u16, u32, WireClient, type Version } from '../support/wire.ts'

let cluster: TestCluster
let healthy: WireClient
beforeAll(async () => {
  cluster = await startCluster({ nodes: 1, argv: ['--packet-bytes-max', '100000'] })
  healthy = await WireClient.connect(cluster.node(0).url, 'healthy')
  await healthy.subscribe('healthy', { qos: 0 })
})
afterAll(async () => {
  await cluster[Symbol.asyncDispose]()
})

/**
 * The node is alive and serves a client that was there all the time: its message, and nothing else, comes
 * back.
 */
async function expectServed(what: string): Promise<void> {
  healthy.send({ cmd: 'publish', topic: 'healthy', payload: what, qos: 0, retain: false, dup: false })
  expect(String((await healthy.next('publish')).payload)).toBe(what)
}

const garbage = Buffer.from(
  'GET /a/page/of/the/web HTTP/1.1\r\nHost: mqtt.example\r\nUser-Agent: one that mistook the port\r\nAccept: */*\r\n\r\n',
)

const malformed = [0x81]
const protocolError = [0x82]
const either = [0x81, 0x82]
const badTopic = [0x81, 0x82, 0x90]
const badFilter = [0x81, 0x82, 0x8f]

interface Row {
  readonly name: string
  readonly bytes: (version: Version) => Buffer
  /** Reason codes that the standard allows in the DISCONNECT. */
  readonly codes: readonly number[]
  /** Only under this version. */
  readonly only?: Version
}

/** PUBLISH of `topic`, QoS 0 unless `first` says more; its properties are for MQTT 5. */
const publish = (version: Version, topic: string | Buffer, ...props: (Buffer | number)[]): Buffer =>
  frame(0x30, str(topic), properties(version, ...props), Buffer.from('payload'))
const subscribe = (version: Version, filter: string | Buffer, options = 0): Buffer =>
  frame(0x82, u16(7), properties(version), str(filter), options)

const publishRows: readonly Row[] = [
  {
    name: '[MQTT-3.3.1-4] QoS 3',
    bytes: (v) => frame(0x36, str('t'), u16(1), properties(v)),
    codes: malformed,
  },
  {
    name: '[MQTT-3.3.1-2] DUP with QoS 0',
    bytes: (v) => frame(0x38, str('t'), properties(v)),
    codes: either,
  },
  { name: 'an empty body', bytes: () => frame(0x30), codes: malformed },
  {
    name: 'a topic longer than the packet',
    bytes: () => frame(0x30, u16(20), Buffer.from('short')),
    codes: malformed,
  },
  { name: 'QoS 1 without Packet Identifier', bytes: () => frame(0x32, str('t')), codes: malformed },
  {
    name: '[MQTT-2.2.1-2] Packet Identifier 0',
    bytes: (v) => frame(0x32, str('t'), u16(0), properties(v)),
    codes: either,
  },
  { name: '[MQTT-1.5.4-2] U+0000 in the topic', bytes: (v) => publish(v, 'a\0b'), codes: badTopic },
  {
    name: '[MQTT-1.5.4-1] a topic that is not UTF-8',
    bytes: (v) => publish(v, Buffer.from([0x61, 0xc3, 0x28])),
    codes: badTopic,
  },
  {
    name: '[MQTT-1.5.4-1] a surrogate in the topic',
    bytes: (v) => publish(v, Buffer.from([0xed, 0xa0, 0x80])),
    codes: badTopic,
  },
  {
    name: 'an overlong U+002F in the topic',
    bytes: (v) => publish(v, Buffer.from([0xc0, 0xaf])),
    codes: badTopic,
  },
  { name: '[MQTT-3.3.2-2] a + in the topic', bytes: (v) => publish(v, 'a/+/b'), codes: badTopic },
  { name: '[MQTT-3.3.2-2] a # in the topic', bytes: (v) => publish(v, 'a/#'), codes: badTopic },
  { name: '[MQTT-4.7.3-1] an empty topic', bytes: () => frame(0x30, str('')), codes: badTopic, only: 4 },
  { name: 'an empty topic without alias', bytes: (v) => publish(v, ''), codes: protocolError, only: 5 },
  { name: 'without a property section', bytes: () => frame(0x30, str('t')), codes: malformed, only: 5 },
  {
    name: 'properties longer than the packet',
    bytes: () => frame(0x30, str('t'), 100, 0x01, 0),
    codes: malformed,
    only: 5,
  },
  {
    name: 'a property length of five bytes',
    bytes: () => frame(0x30, str('t'), 0x80, 0x80, 0x80, 0x80, 0x01),
    codes: malformed,
    only: 5,
  },
  {
    name: '[MQTT-1.5.5-1] a property length longer than need be',
    bytes: () => frame(0x30, str('t'), 0x80, 0x00),
    codes: malformed,
    only: 5,
  },
  {
    name: 'an unknown property [2.2.2.2]',
    bytes: (v) => publish(v, 't', 0x55, 0),
    codes: malformed,
    only: 5,
  },
  {
    name: 'a property of another packet [2.2.2.2]',
    bytes: (v) => publish(v, 't', 0x11, u32(1)),
    codes: malformed,
    only: 5,
  },
  {
    name: '[MQTT-3.3.4-6] a Subscription Identifier',
    bytes: (v) => publish(v, 't', 0x0b, 1),
    codes: either,
    only: 5,
  },
  {
    name: 'Content Type twice',
    bytes: (v) => publish(v, 't', 0x03, str('a'), 0x03, str('b')),
    codes: protocolError,
    only: 5,
  },
  {
    name: 'Message Expiry Interval twice',
    bytes: (v) => publish(v, 't', 0x02, u32(1), 0x02, u32(1)),
    codes: protocolError,
    only: 5,
  },
  {
    name: 'a truncated Message Expiry Interval',
    bytes: (v) => publish(v, 't', 0x02, u16(1)),
    codes: malformed,
    only: 5,
  },
  {
    name: 'a truncated Response Topic',
    bytes: (v) => publish(v, 't', 0x08, u16(50), Buffer.from('short')),
    codes: malformed,
    only: 5,
  },
  {
    name: 'a Topic Name of more levels than a filter may have',
    bytes: (v) => publish(v, `t${'/'.repeat(100)}`),
    codes: badTopic,
  },
  {
    name: '[MQTT-3.3.2-14] a Response Topic with a wildcard',
    bytes: (v) => publish(v, 't', 0x08, str('a/+')),
    codes: badTopic,
    only: 5,
  },
  {
    name: 'truncated Correlation Data',
    bytes: (v) => publish(v, 't', 0x09, u16(9), 1),
    codes: malformed,
    only: 5,
  },
  {
    name: 'a User Property without value',
    bytes: (v) => publish(v, 't', 0x26, str('name')),
    codes: malformed,
    only: 5,
  },
  {
    name: 'a Content Type that is not UTF-8',
    bytes: (v) => publish(v, 't', 0x03, str(Buffer.from([0xff]))),
    codes: malformed,
    only: 5,
  },
  { name: 'Payload Format Indicator 2', bytes: (v) => publish(v, 't', 0x01, 2), codes: either, only: 5 },
  {
    name: '[MQTT-3.3.2-8] Topic Alias 0',
    bytes: (v) => publish(v, 't', 0x23, u16(0)),
    codes: [0x82, 0x94],
    only: 5,
  },
  {
    name: '[MQTT-3.3.2-9] Topic Alias above the maximum',
    bytes: (v) => publish(v, 't', 0x23, u16(101)),
    codes: [0x94],
    only: 5,
  },
  {
    name: 'an unknown Topic Alias',
    bytes: (v) => publish(v, '', 0x23, u16(3)),
    codes: protocolError,
    only: 5,
  },
]

const subscribeRows: readonly Row[] = [
  {
    name: '[MQTT-2.2.1-3] SUBSCRIBE with Packet Identifier 0',
    bytes: (v) => frame(0x82, u16(0), properties(v), str('a'), 0),
    codes: either,
  },
  {
    name: '[MQTT-3.8.3-2] SUBSCRIBE without a filter',
    bytes: (v) => frame(0x82, u16(1), properties(v)),
    codes: protocolError,
  },
  {
    name: 'SUBSCRIBE without options',
    bytes: (v) => frame(0x82, u16(1), properties(v), str('a')),
    codes: malformed,
  },
  {
    name: '[MQTT-3.8.1-1] SUBSCRIBE with flags 0',
    bytes: (v) => frame(0x80, u16(1), properties(v), str('a'), 0),
    codes: malformed,
  },
  { name: '[MQTT-4.7.1-1] SUBSCRIBE to a/#/b', bytes: (v) => subscribe(v, 'a/#/b'), codes: badFilter },
  { name: '[MQTT-4.7.1-1] SUBSCRIBE to a#', bytes: (v) => subscribe(v, 'a#'), codes: badFilter },
  { name: '[MQTT-4.7.1-2] SUBSCRIBE to a+', bytes: (v) => subscribe(v, 'a+'), codes: badFilter },
  { name: '[MQTT-4.7.3-1] SUBSCRIBE to an empty filter', bytes: (v) => subscribe(v, ''), codes: badFilter },
  {
    name: 'SUBSCRIBE to a filter that is not UTF-8',
    bytes: (v) => subscribe(v, Buffer.from([0xff, 0xfe])),
    codes: badFilter,
  },
  { name: 'SUBSCRIBE with QoS 3', bytes: (v) => subscribe(v, 'a', 3), codes: either, only: 4 },
  {
    name: 'SUBSCRIBE with QoS 3 (3.8.3.1: a Protocol Error)',
    bytes: (v) => subscribe(v, 'a', 3),
    codes: protocolError,
    only: 5,
  },
  {
    name: 'SUBSCRIBE with Retain Handling 3 (3.8.3.1: a Protocol Error)',
    bytes: (v) => subscribe(v, 'a', 0x30),
    codes: protocolError,
    only: 5,
  },
  {
    name: '[MQTT-3.8.3-5] SUBSCRIBE with reserved bits',
    bytes: (v) => subscribe(v, 'a', 0x80),
    codes: malformed,
  },
  {
    name: '[MQTT-3.8.3-4] SUBSCRIBE with No Local to a shared filter',
    bytes: (v) => subscribe(v, '$share/g/a', 4),
    codes: protocolError,
    only: 5,
  },
  {
    name: 'Subscription Identifier 0',
    bytes: (v) => frame(0x82, u16(1), properties(v, 0x0b, 0), str('a'), 0),
    codes: protocolError,
    only: 5,
  },
  {
    name: 'two Subscription Identifiers',
    bytes: (v) => frame(0x82, u16(1), properties(v, 0x0b, 1, 0x0b, 2), str('a'), 0),
    codes: protocolError,
    only: 5,
  },
  {
    name: '[MQTT-3.10.3-2] UNSUBSCRIBE without a filter',
    bytes: (v) => frame(0xa2, u16(1), properties(v)),
    codes: protocolError,
  },
  {
    name: '[MQTT-3.10.1-1] UNSUBSCRIBE with flags 0',
    bytes: (v) => frame(0xa0, u16(1), properties(v), str('a')),
    codes: malformed,
  },
  {
    name: 'UNSUBSCRIBE with Packet Identifier 0',
    bytes: (v) => frame(0xa2, u16(0), properties(v), str('a')),
    codes: either,
  },
]

const otherRows: readonly Row[] = [
  { name: '[MQTT-3.1.0-2] a second CONNECT', bytes: (v) => connect(v), codes: protocolError },
  { name: 'a packet of type 0', bytes: () => frame(0x00), codes: either },
  {
    name: 'a remaining length of five bytes',
    bytes: () => Buffer.from([0x30, 0x80, 0x80, 0x80, 0x80, 0x01]),
    codes: malformed,
  },
  {
    name: '[MQTT-1.5.5-1] a remaining length longer than need be',
    bytes: () => Buffer.from([0xc0, 0x80, 0x00]),
    codes: malformed,
    only: 5,
  },
  {
    name: 'a packet larger than the maximum',
    bytes: () => Buffer.from([0x30, 0xff, 0xff, 0x7f]),
    codes: [0x95],
  },
  { name: 'garbage', bytes: () => garbage, codes: either },
  { name: 'PINGREQ with a body', bytes: () => frame(0xc0, 1), codes: malformed },
  { name: 'PINGREQ with flags', bytes: () => frame(0xc1), codes: malformed },
  { name: 'PUBACK with flags', bytes: () => frame(0x41, u16(1)), codes: malformed },
  { name: 'PUBACK of one byte', bytes: () => frame(0x40, 1), codes: malformed },
  { name: 'PUBACK with Packet Identifier 0', bytes: () => frame(0x40, u16(0)), codes: either },
  { name: '[MQTT-3.6.1-1] PUBREL with flags 0', bytes: () => frame(0x60, u16(1)), codes: malformed },
  {
    name: 'PUBCOMP with a property of PUBLISH',
    bytes: () => frame(0x70, u16(1), 0, 2, 0x01, 1),
    codes: malformed,
    only: 5,
  },
  {
    name: 'PUBREC with bytes behind its properties',
    bytes: () => frame(0x50, u16(1), 0, 0, 1),
    codes: malformed,
    only: 5,
  },
  { name: 'PUBACK with a reason code', bytes: () => frame(0x40, u16(1), 0), codes: malformed, only: 4 },
  { name: 'DISCONNECT with a body', bytes: () => frame(0xe0, 0), codes: malformed, only: 4 },
  { name: '[MQTT-3.14.1-1] DISCONNECT with flags', bytes: () => frame(0xe1), codes: malformed },
  // of the server, of another packet, of nothing
  ...[0x8b, 0x8e, 0x18, 0x01, 0xff].map((code): Row => ({
    name: `[MQTT-3.14.2-1] DISCONNECT with reason code ${code}, which no client says`,
    bytes: () => frame(0xe0, code),
    codes: malformed,
    only: 5,
  })),
  ...(
    [
      ['[MQTT-3.4.2-1] PUBACK', 0x40, [0x01, 0x92, 0x93, 0xff]],
      ['[MQTT-3.5.2-1] PUBREC', 0x50, [0x01, 0x18, 0x92, 0x9e]],
      ['[MQTT-3.6.2-1] PUBREL', 0x62, [0x10, 0x80, 0x97, 0xff]],
      ['[MQTT-3.7.2-1] PUBCOMP', 0x70, [0x10, 0x91, 0x99, 0x04]],
    ] as const
  ).flatMap(([packet, first, codes]) =>
    codes.map((code): Row => ({
      name: `${packet} with reason code ${code}, which it does not have`,
      bytes: () => frame(first, u16(1), code),
      codes: malformed,
      only: 5,
    })),
  ),
  {
    name: 'DISCONNECT with a Session Expiry Interval where CONNECT had none (3.14.2.2.2)',
    bytes: () => frame(0xe0, 0, 5, 0x11, u32(60)),
    codes: protocolError,
    only: 5,
  },
  { name: 'AUTH under MQTT 3.1.1', bytes: () => frame(0xf0), codes: protocolError, only: 4 },
  ...[[], [0x18], [0x19, 0]].map((body): Row => ({
    name: `AUTH where CONNECT had no method, of ${body.length} bytes (4.12)`,
    bytes: () => frame(0xf0, ...body),
    codes: protocolError,
    only: 5,
  })),
  { name: 'AUTH with flags', bytes: () => frame(0xf1), codes: malformed, only: 5 },
  ...[0x20, 0x90, 0xb0, 0xd0].map((first): Row => ({
    name: `a packet that only servers send: type ${first >> 4}`,
    bytes: () => frame(first, u16(1)),
    codes: either,
  })),
]

describe.each([4, 5] as const)('MQTT version %i, after CONNECT', (version) => {
  const rows = [
    ...publishRows.map((row) => ({ ...row, name: `PUBLISH with ${row.name}` })),
    ...subscribeRows,
    ...otherRows,
  ]
  test.each(rows.filter(({ only }) => only === undefined || only === version))(
    '$name',
    async ({ name, bytes, codes }) => {
      await using client = await WireClient.connect(cluster.node(0).url, 'malformed', { version })
      client.send(bytes(version))
      const packets = await client.untilClosed()
      expect(packets.map(({ cmd }) => cmd)).toEqual(version === 5 ? ['disconnect'] : [])
      for (const packet of packets)
        expect(codes, `reason code ${JSON.stringify(packet)}`).toContain(
          (packet as { reasonCode?: number }).reasonCode ?? 0,
        )
      await expectServed(name)
    },
  )
})

/** A CONNECT in pieces. */
function connect(
  version: number,
  {
    flags = 2,
    props = [],
    will = [],
    id = str('x'),
    tail = [],
    name = 'MQTT',
  }: {
    flags?: number
    props?: (Buffer | number)[]
    will?: (Buffer | number)[]
    id?: Buffer
    tail?: (Buffer | number)[]
    name?: string
  } = {},
): Buffer {
  return frame(
    0x10,
    str(name),
    version,
    flags,
    u16(0),
    properties(version as Version, ...props),
    id,
    ...will,
    ...tail,
  )
}

const connectRows: readonly { name: string; bytes: Buffer; version?: Version }[] = [
  { name: '[MQTT-3.1.0-1] PINGREQ first', bytes: frame(0xc0) },
  { name: '[MQTT-3.1.0-1] PUBLISH first', bytes: publish(5, 't') },
  { name: 'garbage first', bytes: garbage },
  { name: 'zeros first', bytes: Buffer.alloc(64) },
  { name: 'a remaining length of five bytes', bytes: Buffer.from([0x10, 0xff, 0xff, 0xff, 0xff, 0x01]) },
  {
    name: 'a CONNECT larger than the maximum',
    bytes: Buffer.concat([Buffer.from([0x10, 0xff, 0xff, 0x7f]), str('MQTT'), Buffer.from([5])]),
  },
  { name: 'CONNECT with fixed header flags', bytes: frame(0x11, connect(5).subarray(2)) },
  { name: '[MQTT-3.1.2-1] CONNECT of another protocol', bytes: connect(5, { name: 'QTTM' }) },
  { name: '[MQTT-3.1.2-2] CONNECT of protocol level 6', bytes: connect(6) },
  { name: 'CONNECT of protocol level 0', bytes: connect(0), version: 4 },
  { name: 'CONNECT without a body', bytes: frame(0x10) },
  { name: 'CONNECT that ends behind its name', bytes: frame(0x10, str('MQTT')) },
  { name: '[MQTT-3.1.2-3] CONNECT with the reserved flag', bytes: connect(5, { flags: 3 }) },
  {
    name: '[MQTT-3.1.2-12] CONNECT with Will QoS 3',
    bytes: connect(5, { flags: 0x1e, will: [properties(5), str('w'), str('p')] }),
  },
  { name: '[MQTT-3.1.2-11] CONNECT with Will QoS without will', bytes: connect(5, { flags: 0x0a }) },
  { name: 'CONNECT with a will that is not there', bytes: connect(5, { flags: 6 }) },
  {
    name: 'CONNECT with a wildcard in the Will Topic',
    bytes: connect(5, { flags: 6, will: [properties(5), str('w/#'), str('p')] }),
  },
  {
    name: 'CONNECT with a Will Topic of more levels than a filter may have',
    bytes: connect(5, { flags: 6, will: [properties(5), str(`w${'/'.repeat(100)}`), str('p')] }),
  },
  { name: 'CONNECT with a user name that is not there', bytes: connect(5, { flags: 0x82 }) },
  { name: 'CONNECT with bytes behind its end', bytes: connect(5, { tail: [1, 2, 3] }) },
  {
    name: '[MQTT-3.1.3-4] CONNECT with a Client Identifier that is not UTF-8',
    bytes: connect(5, { id: str(Buffer.from([0xff])) }),
  },
  { name: 'CONNECT with U+0000 in its Client Identifier', bytes: connect(5, { id: str('a\0b') }) },
  { name: 'Session Expiry Interval twice', bytes: connect(5, { props: [0x11, u32(1), 0x11, u32(2)] }) },
  { name: 'Receive Maximum 0', bytes: connect(5, { props: [0x21, u16(0)] }) },
  { name: 'Maximum Packet Size 0', bytes: connect(5, { props: [0x27, u32(0)] }) },
  { name: 'Request Problem Information 2', bytes: connect(5, { props: [0x17, 2] }) },
  { name: 'an unknown property of CONNECT', bytes: connect(5, { props: [0x77, 1] }) },
  { name: 'a property that CONNECT does not have', bytes: connect(5, { props: [0x23, u16(1)] }) },
  { name: 'a truncated User Property', bytes: connect(5, { props: [0x26, u16(60), 1] }) },
  { name: 'properties longer than CONNECT', bytes: frame(0x10, str('MQTT'), 5, 2, u16(0), 0xff, 0x7f, 0x11) },
  { name: 'Authentication Data without method', bytes: connect(5, { props: [0x16, str('data')] }) },
  {
    name: 'an Authentication Method that we do not have',
    bytes: connect(5, { props: [0x15, str('SCRAM')] }),
  },
  {
    name: 'Will Delay Interval twice',
    bytes: connect(5, { flags: 6, will: [properties(5, 0x18, u32(1), 0x18, u32(1)), str('w'), str('p')] }),
  },
  {
    name: 'a property that a will does not have',
    bytes: connect(5, { flags: 6, will: [properties(5, 0x23, u16(1)), str('w'), str('p')] }),
  },
  {
    name: '[MQTT-3.1.2-22] 3.1.1: a password without a user name',
    bytes: connect(4, { flags: 0x42, tail: [str('secret')] }),
    version: 4,
  },
  {
    name: '[MQTT-3.1.3-8] 3.1.1: an empty Client Identifier without Clean Session',
    bytes: connect(4, { flags: 0, id: str('') }),
    version: 4,
  },
]

test.each(connectRows)('before CONNACK: $name', async ({ name, bytes, version = 5 }) => {
  await using client = await WireClient.open(cluster.node(0).url, version)
  client.send(bytes)
  const packets = await client.untilClosed()
  expect(packets.length).toBeLessThanOrEqual(1)
  for (const packet of packets) {
    expect(packet.cmd).toBe('connack')
    const { reasonCode, returnCode } = packet as { reasonCode?: number; returnCode?: number }
    if (version === 5) expect(reasonCode).toBeGreaterThanOrEqual(0x80)
    else expect(returnCode).toBeGreaterThan(0)
  }
  await expectServed(name)
})

describe.each([4, 5] as const)('MQTT version %i: the answer to a delivery', (version) => {
  describe.each([true, false])('of a session that ends with its connection: %s', (clean) => {
    const session = {
      version,
      clean,
      ...(version === 5 && !clean && { properties: { sessionExpiryInterval: 60 } }),
    }
    test.each([
      ['[MQTT-4.3.2-3] PUBREC for QoS 1', 1, [0x50]],
      ['[MQTT-4.3.2-3] PUBCOMP for QoS 1', 1, [0x70]],
      ['[MQTT-4.3.3-3] PUBACK for QoS 2', 2, [0x40]],
      ['[MQTT-4.3.3-3] PUBCOMP for QoS 2 without PUBREC', 2, [0x70]],
      ['[MQTT-4.3.3-4] PUBACK for QoS 2 behind PUBREC', 2, [0x50, 0x40]],
    ] as const)('[MQTT-4.13.1-1] %s is a protocol error', async (name, qos, answers) => {
      await using client = await WireClient.connect(cluster.node(0).url, `${version} ${name}`, session)
      await client.subscribe('answers', { qos })
      client.send({
        cmd: 'publish',
        topic: 'answers',
        payload: 'p',
        qos,
        messageId: 77,
        retain: false,
        dup: false,
      })
      let messageId: number | undefined
      while (messageId === undefined) {
        const packet = await client.any()
        if (packet.cmd === 'publish') ({ messageId } = packet)
      }
      for (const first of answers) {
        client.send(frame(first, u16(messageId)))
        if (first === 0x50 && qos === 2)
          for (let packet = await client.any(); packet.cmd !== 'pubrel';) packet = await client.any()
      }
      const last = (await client.untilClosed()).filter(({ cmd }) => cmd !== 'puback' && cmd !== 'pubrec')
      expect(last).toMatchObject(version === 5 ? [{ cmd: 'disconnect', reasonCode: 0x82 }] : [])
      await expectServed(name)
    })
  })
})
