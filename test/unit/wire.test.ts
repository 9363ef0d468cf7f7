// The bytes of MQTT, both ways, against mqtt-packet as the other opinion: random valid packets of versions 4
// and 5 through the packet reader, split at every byte, all at once and in random pieces; frames and
// acknowledgements that we encode, through mqtt-packet's parser; every valid control packet accepted, and no
// prefix of one. Seeded: SEED=… repeats a run.
import { isUtf8 } from 'node:buffer'
import { describe, expect, onTestFinished, test } from 'vitest'
import mqttPacket, { type IConnectPacket, type IPublishPacket, type Packet } from 'mqtt-packet'
import { Message } from '../../bridge/index.ts'
import { limits } from '../../broker/config/limits.ts'
import { PacketReader, type PacketHandler } from '../../broker/protocol/packet-reader.ts'
import {
  allowedProperties,
  checkUtf8,
  ProtocolViolation,
  readVariable,
  scanProperties,
} from '../../broker/protocol/properties.ts'
import { writeAcknowledgement } from '../../broker/protocol/acknowledgements.ts'
import { messageOf } from '../../broker/protocol/foreign-message.ts'
import { publishFrame, type Frame } from '../../broker/protocol/publish-frame.ts'
import { withoutUserProperties } from '../../broker/protocol/user-properties.ts'
import { seededRandom, type Random } from '../support/random.ts'
import { u16, variable } from '../support/wire.ts'

type Version = 4 | 5

const texts = ['a', 'b/c', 'ümläut', '日本/語', '𝄞/clef', 'x'.repeat(200), ' ', '/', '//', '$x/y']

/** The PUBLISH properties that a client may send, each one time out of two. */
function randomProperties(random: Random): NonNullable<IPublishPacket['properties']> {
  const all = {
    payloadFormatIndicator: random.below(2) === 1,
    messageExpiryInterval: 1 + random.below(4_000_000_000),
    contentType: random.pick(texts),
    responseTopic: random.pick(texts),
    correlationData: Buffer.alloc(random.below(300), random.below(256)),
    userProperties: { [random.pick(texts)]: random.pick(texts), list: ['1', '2'] },
  }
  return Object.fromEntries(Object.entries(all).filter(() => random.below(2) === 1))
}

function randomPublish(random: Random, version: Version): IPublishPacket {
  const qos = random.below(3) as 0 | 1 | 2
  return {
    cmd: 'publish',
    topic: random.pick(texts),
    payload: Buffer.alloc(
      random.pick([0, 1, 100, 127, 128, 20_000].slice(0, 3 + random.below(4))),
      random.below(256),
    ),
    qos,
    retain: random.below(2) === 1,
    dup: qos > 0 && random.below(2) === 1,
    ...(qos > 0 && { messageId: 1 + random.below(65_535) }),
    ...(version === 5 && { properties: randomProperties(random) }),
  }
}

const codes = {
  puback: [0, 0x10, 0x80, 0x97],
  pubrec: [0, 0x10, 0x80, 0x97],
  pubrel: [0, 0x92],
  pubcomp: [0, 0x92],
} as const

function randomPacket(random: Random, version: Version): Packet {
  const messageId = 1 + random.below(65_535)
  const user = version === 5 ? { userProperties: { name: random.pick(texts) } } : {}
  const cmd = random.pick([
    'publish',
    'publish',
    'publish',
    'puback',
    'pubrec',
    'pubrel',
    'pubcomp',
    'subscribe',
    'unsubscribe',
    'pingreq',
  ] as const)
  switch (cmd) {
    case 'publish':
      return randomPublish(random, version)
    case 'subscribe':
      return {
        cmd,
        messageId,
        properties: version === 5 ? { subscriptionIdentifier: 1 + random.below(268_435_455), ...user } : {},
        subscriptions: Array.from({ length: 1 + random.below(4) }, () => ({
          topic: random.pick([...texts, '#', '+/a', 'a/#']),
          qos: random.below(3) as 0,
          ...(version === 5 && {
            nl: random.below(2) === 1,
            rap: random.below(2) === 1,
            rh: random.below(3) as 0,
          }),
        })),
      }
    case 'unsubscribe':
      return {
        cmd,
        messageId,
        unsubscriptions: Array.from({ length: 1 + random.below(4) }, () => random.pick(texts)),
        properties: user,
      }
    case 'pingreq':
      return { cmd }
    default:
      return {
        cmd,
        messageId,
        ...(version === 5 && {
          reasonCode: random.pick(codes[cmd]),
          ...(random.below(2) === 1 && { properties: user }),
        }),
      }
  }
}

function connectPacket(version: Version): Packet {
  return {
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: version,
    clean: true,
    clientId: 'ïd',
    keepalive: 10,
    username: 'ü',
    password: Buffer.from([0, 1]),
    will: {
      topic: 'w/t',
      payload: Buffer.from('w'),
      qos: 2,
      retain: true,
      ...(version === 5 && {
        properties: { willDelayInterval: 5, contentType: 'c', userProperties: { a: 'b' } },
      }),
    },
    ...(version === 5 && {
      properties: {
        sessionExpiryInterval: 9,
        receiveMaximum: 7,
        maximumPacketSize: 999,
        topicAliasMaximum: 3,
        requestProblemInformation: false,
        userProperties: { a: ['b', 'c'] },
      },
    }),
  }
}

/** Writes down what a reader reports, and feeds bytes the way a socket may: each chunk its own memory. */
class Recorder implements PacketHandler {
  onBug(error: unknown): void {
    throw error as Error
  }
  readonly got: unknown[] = []
  violation: ProtocolViolation | undefined
  readonly reader = new PacketReader(
    this,
    {
      ...limits,
      packetBytesMax: 100_000,
      topicAliasMax: 10,
      payloadFormat: 'pass',
      unusualCharacters: 'pass',
    },
    false,
  )
  onPublish(
    topic: string,
    payload: Buffer,
    qos: 0 | 1 | 2,
    retain: boolean,
    dup: boolean,
    messageId: number,
    properties: Buffer | undefined,
    expirySeconds: number,
  ): void {
    this.got.push({
      topic,
      payload: payload.toString('hex'),
      qos,
      retain,
      dup,
      messageId,
      properties: properties?.toString('hex'),
      expirySeconds,
    })
  }
  onPuback(messageId: number): void {
    this.got.push({ cmd: 'puback', messageId })
  }
  onPubrec(messageId: number, reasonCode: number): void {
    this.got.push({ cmd: 'pubrec', messageId, reasonCode })
  }
  onPubrel(messageId: number): void {
    this.got.push({ cmd: 'pubrel', messageId })
  }
  onPubcomp(messageId: number): void {
    this.got.push({ cmd: 'pubcomp', messageId })
  }
  onOther(type: number, frame: Buffer): void {
    this.got.push({ type, frame: frame.toString('hex') })
  }
  onViolation(violation: ProtocolViolation): void {
    this.violation = violation
  }
  onBehind(): void {
    throw new Error('it reads all at once')
  }
  onCaughtUp(): void {
    throw new Error('it reads all at once')
  }

  feed(bytes: Buffer, pieces: readonly number[]): this {
    let at = 0
    for (const end of [...pieces, bytes.length]) {
      this.reader.feed(Buffer.from(bytes.subarray(at, end)))
      at = end
    }
    return this
  }
}

const typeOf = { connect: 1, subscribe: 8, unsubscribe: 10, pingreq: 12, disconnect: 14 } as const

/** What a reader must report for a packet, from the packet itself. */
function expected(packet: Packet, version: Version): unknown {
  if (packet.cmd === 'publish') {
    const { messageExpiryInterval = -1, ...rest } = packet.properties ?? {}
    const kept = Object.keys(rest).length === 0 ? undefined : propertyBytes(rest)
    return {
      topic: packet.topic,
      payload: (packet.payload as Buffer).toString('hex'),
      qos: packet.qos,
      retain: packet.retain,
      dup: packet.dup,
      messageId: packet.messageId ?? 0,
      properties: kept,
      expirySeconds: messageExpiryInterval,
    }
  }
  if (packet.cmd === 'pubrec')
    return { cmd: 'pubrec', messageId: packet.messageId, reasonCode: packet.reasonCode ?? 0 }
  if (packet.cmd in codes) return { cmd: packet.cmd, messageId: packet.messageId }
  return {
    type: typeOf[packet.cmd as keyof typeof typeOf],
    frame: mqttPacket.generate(packet, { protocolVersion: version }).toString('hex'),
  }
}

/** The properties as mqtt-packet writes them, in hex, without their length. */
function propertyBytes(properties: NonNullable<IPublishPacket['properties']>): string {
  const frame = mqttPacket.generate(
    { cmd: 'publish', topic: 't', payload: '', qos: 0, retain: false, dup: false, properties },
    { protocolVersion: 5 },
  )
  const section = readVariable(frame, 1, frame.length).next + 3
  return frame.subarray(readVariable(frame, section, frame.length).next).toString('hex')
}

describe.each([4, 5] as const)('packet reader, MQTT version %i', (version) => {
  const random = seededRandom()
  console.log(`SEED=${random.seed}`)
  const bytesOf = (packet: Packet): Buffer => mqttPacket.generate(packet, { protocolVersion: version })
  const connect = connectPacket(version)

  test('a random packet behind CONNECT, split in two at every byte', () => {
    for (let n = 0; n < 40; n++) {
      const packet = randomPacket(random, version)
      const bytes = bytesOf(packet)
      const wanted = [expected(connect, version), expected(packet, version)]
      const step = Math.max(1, Math.floor(bytes.length / 200))
      for (let split = 0; split <= bytes.length; split += step) {
        const recorder = new Recorder().feed(Buffer.concat([bytesOf(connect)]), []).feed(bytes, [split])
        expect(recorder.violation?.message, JSON.stringify(packet)).toBeUndefined()
        expect(recorder.got).toEqual(wanted)
      }
    }
  })

  test('streams of random packets in random pieces, down to single bytes, with pauses', () => {
    for (let n = 0; n < 40; n++) {
      const packets = [
        connect,
        ...Array.from({ length: 30 }, () => randomPacket(random, version)),
        { cmd: 'disconnect' } as Packet,
      ]
      const stream = Buffer.concat(packets.map(bytesOf))
      const recorder = new Recorder()
      for (let at = 0; at < stream.length;) {
        const size = 1 + random.below(random.pick([1, 3, 50, 5_000]))
        if (random.below(10) === 0) recorder.reader.pause()
        recorder.reader.feed(Buffer.from(stream.subarray(at, at + size)))
        if (random.below(3) === 0) recorder.reader.resume()
        at += size
      }
      recorder.reader.resume()
      expect(recorder.violation).toBeUndefined()
      expect(recorder.got).toEqual(packets.map((packet) => expected(packet, version)))
      expect(recorder.reader.unreadBytes).toBe(0)
    }
  })

  test('no packet that lost its last bytes is accepted, its length put right', () => {
    for (const packet of [connect, ...Array.from({ length: 40 }, () => randomPacket(random, version))]) {
      // nothing to lose; a shorter payload is a payload
      if (packet.cmd === 'pingreq' || packet.cmd === 'publish') continue
      const bytes = bytesOf(packet)
      const { next } = readVariable(bytes, 1, bytes.length)
      const body = bytes.subarray(next, -1)
      // an acknowledgement that ends early, legally
      const whole = packet.cmd in codes && (body.length === 2 || body.length === 3)
      if (whole && version === 5) continue
      const recorder = new Recorder()
      if (packet !== connect) recorder.feed(bytesOf(connect), [])
      const before = recorder.got.length
      recorder.feed(Buffer.concat([bytes.subarray(0, 1), variable(body.length), body]), [])
      expect(recorder.got.length, JSON.stringify(packet)).toBe(before)
      expect(recorder.violation, JSON.stringify(packet)).toBeInstanceOf(ProtocolViolation)
    }
  })

  test('random bytes: nothing is thrown, and nothing is reported behind a violation', () => {
    for (let n = 0; n < 1_000; n++) {
      const recorder = new Recorder().feed(bytesOf(connect), [])
      recorder.feed(Buffer.from(Array.from({ length: 1 + random.below(60) }, () => random.below(256))), [])
      if (recorder.violation === undefined) continue
      const count = recorder.got.length
      recorder.feed(bytesOf({ cmd: 'pingreq' }), [])
      recorder.reader.resume()
      expect(recorder.got.length).toBe(count)
      expect(recorder.reader.unreadBytes).toBe(0)
    }
  })
})

test('the reader reads a chunk in place, however many chunks came before', () => {
  const reported: Buffer[] = []
  const recorder = new Recorder()
  recorder.onPublish = (_topic, payload) => {
    reported.push(payload)
  }
  recorder.feed(mqttPacket.generate(connectPacket(4)), [])
  for (let n = 0; n < 3; n++) {
    const chunk = mqttPacket.generate({
      cmd: 'publish',
      topic: 't',
      payload: Buffer.alloc(50_000),
      qos: 0,
      retain: false,
      dup: false,
    })
    recorder.reader.feed(chunk)
    expect(reported[n]!.buffer, `the payload in chunk ${n} was copied`).toBe(chunk.buffer)
  }
})

test('a packet in pieces of a byte lies in few buffers, whole', () => {
  const recorder = new Recorder().feed(mqttPacket.generate(connectPacket(4)), [])
  let got: Buffer | undefined
  recorder.onPublish = (_topic, payload) => {
    got = payload
  }
  const payload = Buffer.from(Array.from({ length: 90_000 }, (_, n) => n % 251))
  const bytes = mqttPacket.generate({
    cmd: 'publish',
    topic: 't',
    payload,
    qos: 0,
    retain: false,
    dup: false,
  })
  let most = 0
  for (let at = 0; at < bytes.length; at++) {
    recorder.reader.feed(Buffer.from(bytes.subarray(at, at + 1)))
    most = Math.max(most, recorder.reader.unreadParts)
  }
  expect(got?.equals(payload)).toBe(true)
  expect(most).toBeLessThan(100)
})

test('pause holds within a chunk: what comes behind is reported by resume, once, in order', () => {
  const recorder = new Recorder()
  const ping = mqttPacket.generate({ cmd: 'pingreq' })
  recorder.onPuback = () => {
    recorder.reader.pause()
  }
  recorder.feed(
    Buffer.concat([
      mqttPacket.generate(connectPacket(4)),
      mqttPacket.generate({ cmd: 'puback', messageId: 1 }),
      ping,
      ping,
    ]),
    [],
  )
  expect(recorder.got).toHaveLength(1)
  recorder.reader.resume()
  expect(recorder.got).toHaveLength(3)
})

test('Topic Aliases: set, used, replaced, each with its own number', () => {
  const recorder = new Recorder().feed(mqttPacket.generate(connectPacket(5)), [])
  const send = (topic: string, topicAlias: number): void => {
    recorder.reader.feed(
      mqttPacket.generate(
        { cmd: 'publish', topic, payload: '', qos: 0, retain: false, dup: false, properties: { topicAlias } },
        { protocolVersion: 5 },
      ),
    )
  }
  send('one', 1)
  send('ten', 10)
  send('', 1)
  send('', 10)
  send('other', 1)
  send('', 1)
  expect(recorder.got.slice(1).map((got) => (got as { topic: string }).topic)).toEqual([
    'one',
    'ten',
    'one',
    'ten',
    'other',
    'other',
  ])
  send('', 2)
  expect(recorder.violation?.reasonCode).toBe(0x82)
})

describe('what we encode', () => {
  const random = seededRandom()
  const parse = (bytes: Buffer, version: Version): Packet[] => {
    const packets: Packet[] = []
    const parser = mqttPacket.parser({ protocolVersion: version })
    parser.on('packet', (packet) => packets.push(packet))
    parser.on('error', (error) => {
      throw error
    })
    expect(parser.parse(bytes)).toBe(0)
    return packets
  }

  test.each([4, 5] as const)(
    'PUBLISH frames for version %i are read by mqtt-packet as they were meant',
    (version) => {
      for (let n = 0; n < 120; n++) {
        const { topic, payload, properties = {} } = randomPublish(random, 5)
        const { messageExpiryInterval: _, ...rest } = properties
        const hex = Object.keys(rest).length === 0 ? undefined : propertyBytes(rest)
        const message = Message.of({
          topic,
          payload: payload as Buffer,
          qos: 2,
          retain: true,
          properties: hex === undefined ? undefined : Buffer.from(hex, 'hex'),
          expiresAt: random.below(2) * (performance.now() + 90_500),
        })
        for (const qos of [0, 1, 2] as const) {
          const identifiers =
            random.below(2) === 0
              ? undefined
              : Array.from({ length: 1 + random.below(3) }, () => 1 + random.below(268_435_455))
          const retain = random.below(2) === 1
          const frame = publishFrame(message, version === 5, qos, retain, identifiers)
          const messageId = 1 + random.below(65_535)
          const bytes = Buffer.concat([
            frame.head,
            ...(qos > 0 ? [u16(messageId)] : []),
            frame.properties,
            frame.payload,
          ])
          expect(bytes.length).toBe(frame.length)
          const [packet] = parse(bytes, version) as IPublishPacket[]
          expect(packet).toMatchObject({ topic, qos, retain, dup: false, ...(qos > 0 && { messageId }) })
          // toEqual takes its time with 20 kB
          expect(message.payload.equals(packet!.payload as Buffer)).toBe(true)
          if (version === 4) continue
          const { subscriptionIdentifier, messageExpiryInterval, ...others } = packet!.properties ?? {}
          expect([subscriptionIdentifier ?? []].flat()).toEqual(identifiers ?? [])
          expect(messageExpiryInterval).toBe(message.expiresAt === 0 ? undefined : 91)
          expect(JSON.stringify(others)).toBe(
            JSON.stringify(
              parse(
                mqttPacket.generate(
                  { cmd: 'publish', topic, payload: '', qos: 0, retain: false, dup: false, properties: rest },
                  { protocolVersion: 5 },
                ),
                5,
              ).map((other) => (other as IPublishPacket).properties ?? {})[0],
            ),
          )
        }
      }
    },
  )

  test('a frame is encoded once per variant, and those with Subscription Identifiers are not shared', () => {
    const message = Message.of({
      topic: 't',
      payload: Buffer.from('p'),
      qos: 1,
      retain: false,
      properties: undefined,
      expiresAt: 0,
    })
    expect(publishFrame(message, true, 1, false, undefined)).toBe(
      publishFrame(message, true, 1, false, undefined),
    )
    expect(publishFrame(message, true, 1, true, undefined)).not.toBe(
      publishFrame(message, true, 1, false, undefined),
    )
    expect(publishFrame(message, true, 1, false, [1])).not.toBe(publishFrame(message, true, 1, false, [1]))
    // 3.1.1 knows none
    expect(publishFrame(message, false, 1, false, [1])).toBe(publishFrame(message, false, 1, false, [2]))
  })

  test('own() copies what is a slice of something larger', () => {
    const chunk = Buffer.from('....payload....')
    const message = Message.of({
      topic: 't',
      payload: chunk.subarray(4, 11),
      qos: 1,
      retain: false,
      properties: undefined,
      expiresAt: 0,
    })
    const frame = publishFrame(message, false, 1, false, undefined)
    frame.copyPayload()
    chunk.fill('x')
    expect(frame.payload.toString()).toBe('payload')
  })

  test('a frame that waits pins nothing of what its message came in, whoever else was sent it before', () => {
    const pinned = (frame: Frame | undefined, chunk: Buffer): boolean =>
      frame !== undefined && (frame.payload.buffer === chunk.buffer || pinned(frame.next, chunk))
    for (const identifiers of [undefined, [7]]) {
      const chunk = Buffer.alloc(1_000_000)
      const message = Message.of({
        topic: 't',
        payload: chunk.subarray(4, 11),
        qos: 1,
        retain: false,
        properties: undefined,
        expiresAt: 0,
      })
      publishFrame(message, false, 1, false, undefined)
      publishFrame(message, true, 0, false, undefined)
      const frame = publishFrame(message, true, 1, false, identifiers)
      expect(pinned(frame, chunk)).toBe(true)
      frame.copyPayload()
      expect(pinned(frame, chunk)).toBe(false)
    }
  })

  test.each([4, 5] as const)('acknowledgements for version %i', (version) => {
    for (const [type, cmd] of [
      [4, 'puback'],
      [5, 'pubrec'],
      [6, 'pubrel'],
      [7, 'pubcomp'],
    ] as const) {
      for (const messageId of [1, 255, 256, 65_535]) {
        for (const reasonCode of [0, type < 6 ? 0x97 : 0x92]) {
          const bytes = Buffer.alloc(6)
          const length = writeAcknowledgement(bytes, 1, type, messageId, version === 5, reasonCode)
          expect(parse(bytes.subarray(1, 1 + length), version)[0]).toMatchObject({
            cmd,
            messageId,
            ...(version === 5 && { reasonCode }),
          })
        }
      }
    }
  })

  test('a stored packet of another broker becomes a message with its properties, but for Will Delay Interval and what is ours', () => {
    const generate = (packet: Packet): Buffer => mqttPacket.generate(packet, { protocolVersion: 5 })
    const properties = { contentType: 'c', userProperties: { a: ['1', '2'] }, payloadFormatIndicator: true }
    const before = performance.now()
    const message = messageOf(
      {
        topic: 'w',
        payload: 'text',
        qos: 1,
        retain: true,
        dup: false,
        properties: { ...properties, messageExpiryInterval: 10, willDelayInterval: 3 } as never,
      },
      generate,
    )
    expect(message).toMatchObject({ topic: 'w', payload: Buffer.from('text'), qos: 1, retain: true })
    expect(message.properties!.toString('hex')).toBe(propertyBytes(properties))
    expect(message.expiresAt).toBeGreaterThanOrEqual(before + 10_000)
    expect(
      messageOf({ topic: 'w', payload: Buffer.from('b'), qos: 0, retain: false, dup: false }, generate),
    ).toMatchObject({ properties: undefined, expiresAt: 0 })
  })
})

describe('properties', () => {
  test('Variable Byte Integers at their edges (MQTT 5 section 1.5.5, table 1-1)', () => {
    for (const value of [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455]) {
      const bytes = variable(value)
      expect(readVariable(bytes, 0, bytes.length)).toEqual({ value, next: bytes.length })
      for (let end = 0; end < bytes.length; end++)
        expect(() => readVariable(bytes, 0, end)).toThrow(ProtocolViolation)
    }
    for (const bad of [
      [0x80, 0],
      [0xff, 0xff, 0xff, 0xff, 1],
      [0x81, 0x80, 0],
    ])
      expect(() => readVariable(Buffer.from(bad), 0, bad.length)).toThrow(ProtocolViolation)
  })

  test('the scanner reports each property with its bounds, and never reads past the end', () => {
    const random = seededRandom()
    for (let n = 0; n < 100; n++) {
      const hex = propertyBytes({ ...randomProperties(random), contentType: 'always' })
      const section = Buffer.concat([variable(hex.length / 2), Buffer.from(hex, 'hex')])
      const pieces: string[] = []
      expect(
        scanProperties(section, 0, section.length, allowedProperties.publish, (_id, start, value, end) => {
          expect(value).toBe(start + 1)
          pieces.push(section.toString('hex', start, end))
        }),
      ).toBe(section.length)
      expect(pieces.join('')).toBe(hex)
      for (let end = 0; end < section.length; end += 1 + random.below(9))
        expect(() => scanProperties(section, 0, end, allowedProperties.publish)).toThrow(ProtocolViolation)
    }
  })
})

test('a CONNECT without its User Properties is the same CONNECT', () => {
  const random = seededRandom()
  const userProperties = (): Record<string, string[]> =>
    Object.fromEntries(Array.from({ length: 1 + random.below(4) }, (_, n) => [`name ${n}`, ['ä', '']]))
  const parsed = (frame: Buffer): IConnectPacket => {
    const parser = mqttPacket.parser()
    let got: IConnectPacket | undefined
    parser.on('packet', (packet) => {
      got = packet as IConnectPacket
    })
    parser.parse(frame)
    return got!
  }
  for (let n = 0; n < 2_000; n++) {
    const will =
      random.below(2) === 0
        ? {}
        : {
            will: {
              topic: 'w',
              payload: Buffer.from('gone'),
              qos: 1 as const,
              retain: false,
              properties: {
                willDelayInterval: 7,
                ...(random.below(3) === 0 ? {} : { userProperties: userProperties() }),
              },
            },
          }
    const packet: IConnectPacket = {
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 5,
      clean: true,
      clientId: `c${n}`,
      keepalive: 9,
      username: 'u',
      password: Buffer.from('p'),
      properties: {
        ...(random.below(2) === 0 ? {} : { sessionExpiryInterval: 60 }),
        ...(random.below(3) === 0 ? {} : { userProperties: userProperties() }),
        receiveMaximum: 5,
      },
      ...will,
    }
    const stripped = parsed(withoutUserProperties(mqttPacket.generate(packet)))
    delete packet.properties!.userProperties
    if (packet.will !== undefined) delete packet.will.properties!.userProperties
    const { length: _length, ...wanted } = parsed(mqttPacket.generate(packet))
    expect(stripped, `seed ${random.seed}`).toMatchObject(wanted)
    expect(stripped.properties?.userProperties ?? stripped.will?.properties?.userProperties).toBeUndefined()
  }
})

test('what is UTF-8 in a short string is what Node takes for it', () => {
  const edges = [
    0x01, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xed, 0xee, 0xf0,
    0xf1, 0xf4, 0xf5, 0xff,
  ]
  const others: string[] = []
  const check = (bytes: Buffer): void => {
    let taken = true
    try {
      checkUtf8(bytes, 0, bytes.length)
    } catch {
      taken = false
    }
    if (taken !== isUtf8(bytes)) others.push(bytes.toString('hex'))
  }
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0 // most of the time otherwise
  onTestFinished(() => {
    Error.stackTraceLimit = stackTraceLimit
  })
  for (const a of edges)
    for (const b of edges) for (const c of edges) for (const d of edges) check(Buffer.from([a, b, c, d]))
  for (const text of texts) for (let end = 0; end < 12; end++) check(Buffer.from(text).subarray(0, end))
  expect(others).toEqual([])
})
