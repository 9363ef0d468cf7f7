// What the standard leaves to a server, and an option decides here: each value of each option, over raw sockets
// against a node in this process.
import type { Packet } from 'mqtt-packet'
import { afterAll, describe, expect, test } from 'vitest'
import { createNode, type Config, type Node } from '../../broker/index.ts'
import { frame, properties, str, u16, WireClient, type Version } from '../support/wire.ts'

const nodes: Node[] = []
afterAll(async () => {
  await Promise.all(nodes.map((node) => node.close()))
})

async function serve(options: Partial<Config>): Promise<{ node: Node; url: string }> {
  const node = await createNode({ listen: ['mqtt://127.0.0.1:0'], ...options })
  nodes.push(node)
  return { node, url: node.endpoints[0]! }
}

const connect = (version: Version, id: string, will: Buffer[] = []): Buffer =>
  frame(0x10, str('MQTT'), version, will.length === 0 ? 2 : 6, u16(0), properties(version), str(id), ...will)
const publish = (version: Version, topic: string, ...props: (Buffer | number)[]): Buffer =>
  frame(0x32, str(topic), u16(1), properties(version, ...props), 1)

describe.each([4, 5] as const)('unusualCharacters, MQTT version %i', (version) => {
  const unusual = [
    '\u0001',
    '\u001f',
    '\u007f',
    '\u0080',
    '\u009f',
    '\ufdd0',
    '\ufdef',
    '\ufffe',
    '\uffff',
    '\u{1fffe}',
    '\u{10ffff}',
  ]
  // their neighbours, and what has one of their bytes in it
  const usual = [
    ' ',
    '~',
    '\u00a0',
    '\ufdcf',
    '\ufdf0',
    '\ufffd',
    '\ufeff',
    '\u{1fffd}',
    '\u{20000}',
    '\u0fff',
    '\u{3ffbf}',
    '\u00bf',
  ]
  const ways: readonly (readonly [string, (text: string) => Buffer[], number])[] = [
    ['a Client Identifier', (text) => [connect(version, `a${text}b`)], 0],
    ['a Topic Name', (text) => [connect(version, 'c'), publish(version, `a/${text}`)], 1],
    [
      'a Will Topic',
      (text) => [connect(version, 'c', [properties(version), str(`w${text}`), str('gone')])],
      0,
    ],
    [
      'a filter of SUBSCRIBE',
      (text) => [connect(version, 'c'), frame(0x82, u16(1), properties(version), str(`+/${text}`), 0)],
      1,
    ],
    [
      'a filter of UNSUBSCRIBE',
      (text) => [connect(version, 'c'), frame(0xa2, u16(1), properties(version), str(`+/${text}`))],
      1,
    ],
  ]

  test.each(ways)(
    'refuse: %s with one is malformed, with its neighbour it is not',
    async (_, bytes, before) => {
      const { url } = await serve({ unusualCharacters: 'refuse' })
      for (const text of unusual) {
        await using client = await WireClient.open(url, version)
        client.send(...bytes(text))
        const packets = await client.untilClosed()
        const last = packets.at(-1) as Packet & { reasonCode?: number }
        if (version === 5) expect([packets.length, last.reasonCode], escape(text)).toEqual([before + 1, 0x81])
        else expect(packets.length, escape(text)).toBe(before)
      }
      for (const text of usual) {
        await using client = await WireClient.open(url, version)
        client.send(...bytes(text), frame(0xc0))
        const packets = [await client.any(), await client.any()].map(({ cmd }) => cmd)
        expect(packets[0], escape(text)).toBe('connack')
        expect(packets[1], escape(text)).not.toBe('disconnect')
      }
    },
  )

  test('pass: they are characters like any others', async () => {
    const { url } = await serve({})
    for (const text of unusual) {
      await using client = await WireClient.connect(url, `a${text}b`, { version })
      await client.subscribe(`+/${text}`, { qos: 0 })
      client.send(publish(version, `a/${text}`))
      const came = [await client.any(), await client.any()]
      expect(came.map(({ cmd }) => cmd).sort(), escape(text)).toEqual(['puback', 'publish'])
      expect(came.find(({ cmd }) => cmd === 'publish')).toMatchObject({ topic: `a/${text}` })
    }
  })
})

describe('payloadFormat', () => {
  const notText = Buffer.from([0x61, 0xff])
  const publishOf = (qos: 0 | 1 | 2, payload: Buffer, indicator: number): Buffer =>
    frame(
      0x30 | (qos << 1),
      str('format'),
      ...(qos === 0 ? [] : [u16(qos)]),
      properties(5, 0x01, indicator),
      payload,
    )

  test('check: what says that it is UTF-8 and is not is refused with 0x99 in its order, and QoS 0 dropped', async () => {
    const { node, url } = await serve({ payloadFormat: 'check' })
    await using client = await WireClient.connect(url, 'format')
    await client.subscribe('format', { qos: 0 })
    client.send(
      publishOf(0, notText, 1),
      publishOf(1, notText, 1),
      publishOf(2, notText, 1),
      publishOf(0, notText, 0),
      publishOf(0, Buffer.from('ü'), 1),
    )
    const came = await client.settled()
    expect(came.filter(({ cmd }) => cmd !== 'publish')).toMatchObject([
      { cmd: 'puback', messageId: 1, reasonCode: 0x99 },
      { cmd: 'pubrec', messageId: 2, reasonCode: 0x99 },
    ])
    expect(came.flatMap((packet) => (packet.cmd === 'publish' ? [packet.payload] : []))).toEqual([
      notText,
      Buffer.from('ü'),
    ])
    expect(await node.metricsText()).toContain('messages_dropped_total{cause="refused",qos="0"} 1')
  })

  test('check: such a will is refused with its CONNECT, by 0x99', async () => {
    const { url } = await serve({ payloadFormat: 'check' })
    const will = (payload: Buffer): Buffer =>
      connect(5, 'will', [properties(5, 0x01, 1), str('w'), str(payload)])
    await using client = await WireClient.open(url)
    client.send(will(notText))
    expect(await client.untilClosed()).toMatchObject([{ cmd: 'connack', reasonCode: 0x99 }])
    await using other = await WireClient.open(url)
    other.send(will(Buffer.from('ü')))
    expect(await other.next('connack')).toMatchObject({ reasonCode: 0 })
  })

  test('pass: it comes as it is', async () => {
    const { url } = await serve({})
    await using client = await WireClient.connect(url, 'format')
    await client.subscribe('format', { qos: 0 })
    client.send(publishOf(0, notText, 1))
    expect(await client.next('publish')).toMatchObject({
      payload: notText,
      properties: { payloadFormatIndicator: true },
    })
  })
})

describe('keepAliveSecondsMax', () => {
  test('[MQTT-3.2.2-21] who asks for none or for more is told this one; [MQTT-3.2.2-22] who asks for less keeps its own', async () => {
    const { url } = await serve({ keepAliveSecondsMax: 60 })
    for (const [keepalive, told] of [
      [0, 60],
      [61, 60],
      [65_535, 60],
      [60, undefined],
      [1, undefined],
    ] as const) {
      await using client = await WireClient.connect(url, 'keeps', { keepalive })
      expect(client.connack.properties?.serverKeepAlive).toBe(told)
    }
    await using old = await WireClient.connect(url, 'keeps', { keepalive: 0, version: 4 })
    expect(await old.settled()).toEqual([])
  })

  test('[MQTT-3.1.2-22] whose Keep Alive ran out, its own or ours, is told 0x8D and why', async () => {
    const { url } = await serve({ keepAliveSecondsMax: 1 })
    await using client = await WireClient.connect(url, 'silent', { keepalive: 0 })
    await using old = await WireClient.connect(url, 'silent too', { keepalive: 1, version: 4 })
    expect(await client.untilClosed()).toMatchObject([
      { cmd: 'disconnect', reasonCode: 0x8d, properties: { reasonString: expect.any(String) as string } },
    ])
    expect(await old.untilClosed()).toEqual([])
  })
})

describe('responseInformation', () => {
  test('[MQTT-3.1.2-28] is told to who asks for it, of its own, and to nobody else', async () => {
    const { url } = await serve({ responseInformation: 'answers/%c/' })
    for (const [id, properties, told] of [
      ['asks', { requestResponseInformation: true }, 'answers/asks/'],
      ['a/+ #$&', { requestResponseInformation: true }, 'answers/a%2F%2B%20%23%24%26/'],
      ['asks', { requestResponseInformation: false }, undefined],
      ['asks', {}, undefined],
    ] as const) {
      await using client = await WireClient.connect(url, id, { properties })
      expect(client.connack.properties?.responseInformation).toBe(told)
    }
    const { url: without } = await serve({})
    await using client = await WireClient.connect(without, 'asks', {
      properties: { requestResponseInformation: true },
    })
    expect(client.connack.properties?.responseInformation).toBeUndefined()
  })
})

describe('serverReference', () => {
  test.each([
    [{ serverReference: 'b.example:1883 c.example' }, 0x9c],
    [{ serverReference: 'b.example:1883 c.example', serverMoved: 'on' }, 0x9d],
    [{}, 0x8b],
  ] as const)('a node with %j that stops says 0x%x', async (options, reasonCode) => {
    const { node, url } = await serve(options)
    await using client = await WireClient.connect(url, 'moves')
    await using small = await WireClient.connect(url, 'moves, small', {
      properties: { maximumPacketSize: 20 },
    })
    await using old = await WireClient.connect(url, 'moves, old', { version: 4 })
    const closing = node.close()
    const { serverReference } = options as { serverReference?: string }
    expect(await client.untilClosed()).toMatchObject([
      { cmd: 'disconnect', reasonCode, ...(serverReference && { properties: { serverReference } }) },
    ])
    expect(await small.untilClosed()).toMatchObject([{ cmd: 'disconnect', reasonCode }])
    expect(await old.untilClosed()).toEqual([])
    await closing
  })
})

describe('Reason Strings', () => {
  const refused = (topic = '$SYS/x'): Buffer[] => [
    publish(5, topic),
    frame(0x34, str(topic), u16(3), properties(5)),
    frame(0x82, u16(2), properties(5), str(`a${'/'.repeat(100)}`), 0),
    frame(0xa2, u16(4), properties(5), str('none')),
    frame(0x62, u16(9)),
  ]
  const reasons = (packets: readonly Packet[]): unknown[] =>
    packets.map(({ cmd, properties }: Packet & { properties?: { reasonString?: string } }) => [
      cmd,
      properties?.reasonString,
    ])

  test('[MQTT-3.1.2-29] stand in PUBACK, PUBREC, SUBACK and UNSUBACK for who wants them, and else only in CONNACK and DISCONNECT', async () => {
    const { url } = await serve({})
    for (const [wanted, text] of [
      [true, expect.any(String)],
      [undefined, expect.any(String)],
      [false, undefined],
    ] as const) {
      await using client = await WireClient.connect(url, 'reasons', {
        properties: wanted === undefined ? {} : { requestProblemInformation: wanted },
      })
      client.send(...refused())
      expect(reasons(await client.settled())).toEqual([
        ['puback', text],
        ['pubrec', text],
        ['suback', text],
        ['unsuback', text],
        ['pubcomp', undefined],
      ])
      client.send(frame(0x36, u16(0)))
      expect(reasons(await client.untilClosed())).toEqual([['disconnect', expect.any(String)]])
    }
  })

  test('[MQTT-3.4.2-2] [MQTT-3.5.2-2] [MQTT-3.9.2-1] [MQTT-3.11.2-1] [MQTT-3.14.2-3] are left out where the packet would be larger than the client takes', async () => {
    const { url } = await serve({})
    await using client = await WireClient.connect(url, 'reasons', { properties: { maximumPacketSize: 15 } })
    client.send(...refused())
    const packets = await client.settled()
    expect(reasons(packets)).toEqual([
      ['puback', undefined],
      ['pubrec', undefined],
      ['suback', undefined],
      ['unsuback', undefined],
      ['pubcomp', undefined],
    ])
    client.send(frame(0x36, u16(0)))
    expect(await client.untilClosed()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x81 }])
  })

  test('[MQTT-3.2.2-19] CONNACK says why a CONNECT is refused, where the client takes that', async () => {
    const { url } = await serve({})
    const longId = 'x'.repeat(2_000)
    for (const [maximumPacketSize, text] of [
      [undefined, expect.any(String)],
      [20, undefined],
    ] as const) {
      await using client = await WireClient.open(url)
      client.send({
        cmd: 'connect',
        protocolId: 'MQTT',
        protocolVersion: 5,
        clean: true,
        clientId: longId,
        keepalive: 0,
        ...(maximumPacketSize && { properties: { maximumPacketSize } }),
      })
      const came = await client.untilClosed()
      expect(came).toMatchObject([{ cmd: 'connack', reasonCode: 0x85 }])
      expect(reasons(came)).toEqual([['connack', text]])
    }
  })
})

describe('PUBACK and PUBREC', () => {
  test('0x10 when nobody is subscribed, 0 when somebody is, away or with another filter', async () => {
    const { url } = await serve({})
    await using client = await WireClient.connect(url, 'asks')
    const answer = async (topic: string, qos: 1 | 2): Promise<number | undefined> => {
      client.send(frame(0x30 | (qos << 1), str(topic), u16(1), properties(5), 1))
      const packet = await client.any()
      if (qos === 2) {
        client.send(frame(0x62, u16(1)))
        await client.next('pubcomp')
      }
      return (packet as { reasonCode?: number }).reasonCode ?? 0
    }
    for (const qos of [1, 2] as const) {
      expect(await answer('nobody/here', qos)).toBe(0x10)
      const away = await WireClient.connect(url, 'away', {
        clean: false,
        properties: { sessionExpiryInterval: 60 },
      })
      await away.subscribe('nobody/+')
      expect(await answer('nobody/here', qos)).toBe(0)
      away.socket.destroy()
      await away.closed
      expect(await answer('nobody/here', qos)).toBe(0)
      const gone = await WireClient.connect(url, 'away')
      gone.send({ cmd: 'disconnect' })
      await gone.untilClosed()
      await expect.poll(() => answer('nobody/here', qos)).toBe(0x10)
      const shared = await WireClient.connect(url, 'shared')
      await shared.subscribe('$share/g/nobody/+')
      expect(await answer('nobody/here', qos)).toBe(0)
      shared.socket.destroy()
      await shared.closed
      await expect.poll(() => answer('nobody/here', qos)).toBe(0x10)
      const live = await WireClient.connect(url, 'live')
      await live.subscribe('#', { qos: 0 })
      expect(await answer('nobody/here', qos)).toBe(0)
      live.socket.destroy()
      await live.closed
      await expect.poll(() => answer('nobody/here', qos)).toBe(0x10)
    }
  })
})
