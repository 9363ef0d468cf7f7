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
