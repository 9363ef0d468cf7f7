// The bytes between nodes: what is packed comes out again, whatever it holds, and whatever bytes come in,
// nothing throws: random bytes, cut and changed encodings are decoded to something whole or reported as not
// ours. Records of a later version are skipped, unless they say that they must be understood: then they are
// said (P11). The version-1 layout itself is pinned by one example.
import { describe, expect, test } from 'vitest'
import { Clock } from '../../bridge/pace/clock.ts'
import {
  decodeJournalEntry,
  encodeJournalEntry,
  MessagePacker,
  packMessage,
  unpackMessage,
  unpackMessages,
  type Change,
} from '../../bridge/messages/codec.ts'
import { isExpired, Message, secondsLeft } from '../../bridge/messages/message.ts'
import { seededRandom, type Random } from '../support/random.ts'

/** Without a sample: cluster time is this process' own. */
const clock = new Clock()

const bytes = (random: Random, length: number): Buffer =>
  Buffer.from(Array.from({ length }, () => random.below(256)))
const text = (random: Random, lengthMax: number): string =>
  Array.from({ length: 1 + random.below(lengthMax) }, () =>
    random.pick(['a', 'B', '/', '$', 'é', '漢', '😀']),
  ).join('')

function randomMessage(random: Random): Message {
  const payload = random.pick([0, 1, 17, 17, 300, 300, 300, 9_000])
  return Message.of({
    topic: text(random, random.pick([1, 5, 40])),
    payload: bytes(random, random.below(payload + 1)),
    qos: random.pick([0, 1, 2] as const),
    retain: random.below(2) === 0,
    properties: random.below(2) === 0 ? undefined : bytes(random, random.below(30)),
    ...(random.below(2) === 0
      ? { expiresAt: 0 }
      : {
          expiresAt: performance.now() + random.below(1_000_000_000),
          expirySeconds: random.pick([1_000_000, 0xffffffff]),
        }),
  })
}

function randomChange(random: Random): Change {
  return random.pick<Change>([
    { type: 'route', filter: text(random, 20), kind: random.below(256) },
    { type: 'joined' },
    { type: 'anew' },
    { type: 'gone', nodeId: text(random, 20) },
    { type: 'taken', sid: 'a-Z_9', owner: text(random, 20) },
    { type: 'wanted', sid: 'a-Z_9', owner: text(random, 20) },
    { type: 'lost' },
    { type: 'retained', topic: text(random, 20), present: true },
    { type: 'retained', topic: text(random, 20), present: false },
  ])
}

/** The encoding with something wrong: cut, bytes changed, inserted or removed, or something behind it. */
function mutate(random: Random, encoded: Buffer): Buffer {
  const at = random.below(encoded.length)
  switch (random.below(5)) {
    case 0:
      return encoded.subarray(0, at)
    case 1:
      return Buffer.concat([
        encoded.subarray(0, at),
        bytes(random, 1 + random.below(8)),
        encoded.subarray(at),
      ])
    case 2:
      return Buffer.concat([encoded.subarray(0, at), encoded.subarray(at + 1 + random.below(8))])
    case 3:
      return Buffer.concat([encoded, bytes(random, 1 + random.below(8))])
    default: {
      const changed = Buffer.from(encoded)
      for (let n = 1 + random.below(3); n > 0; n--) changed[random.below(changed.length)] = random.below(256)
      return changed
    }
  }
}

/** All of a message as text: comparing long Buffers one byte at a time is slow. */
const print = ({ topic, payload, qos, retain, properties, expiresAt, expirySeconds }: Message): string =>
  JSON.stringify([
    topic,
    qos,
    retain,
    properties?.toString('hex'),
    expiresAt,
    expirySeconds,
    payload.toString('hex'),
  ])

function unpackAll(entry: Buffer): { whole: boolean; messages: string[]; later?: number } {
  const messages: string[] = []
  let later = 0
  const whole = unpackMessages(entry, clock, (message) => messages.push(print(message)), {
    onShared: () => undefined,
    onGiven: () => undefined,
    onLook: () => undefined,
    onBell: () => undefined,
    onHold: () => undefined,
    onLater: () => {
      later++
    },
  })
  return later === 0 ? { whole, messages } : { whole, messages, later }
}

describe('messages', () => {
  test("what is for a member of a group names the group, a tenant's too, and the nodes that it has been to", () => {
    const random = seededRandom()
    const shares = ['$share/g/f', '$share/g/$\0acme/f'].flatMap((name) => [
      { name, visited: [] },
      { name, visited: ['a@1', 'b@2'] },
    ])
    const packer = new MessagePacker(clock)
    for (const share of shares) {
      packer.addShared(share)
      packer.add(randomMessage(random))
    }
    const read: unknown[] = []
    const nothing = (): undefined => undefined
    unpackMessages(packer.take(), clock, nothing, {
      onShared: (_, share) => read.push(share),
      onGiven: nothing,
      onLook: nothing,
      onBell: nothing,
      onHold: nothing,
      onLater: nothing,
    })
    expect(read).toEqual(shares)
  })

  test('a packed entry holds its messages, in order, also beyond its first buffer', () => {
    const random = seededRandom()
    const packer = new MessagePacker(clock)
    for (let round = 0; round < 100; round++) {
      const messages = Array.from({ length: 1 + random.below(20) }, () => randomMessage(random))
      for (const message of messages) packer.add(message)
      expect(packer.count).toBe(messages.length)
      const { length } = packer
      const entry = packer.take()
      expect([entry.length, packer.count]).toEqual([length, 0])
      expect(unpackAll(entry), `seed ${random.seed} round ${round}`).toEqual({
        whole: true,
        messages: messages.map(print),
      })
    }
  })

  test('the longest topic there is', () => {
    const topic = '漢'.repeat(21_845) // 65,535 bytes
    expect(
      (unpackMessage(packMessage(randomMessage(seededRandom()).with({ topic }), clock), clock) as Message)
        .topic,
    ).toBe(topic)
  })

  test('version 1 is these bytes: another node may be of an older release', () => {
    const message = Message.of({
      topic: 'a/b',
      payload: Buffer.from('hi'),
      qos: 1,
      retain: true,
      properties: Buffer.from([1, 1]),
      expiresAt: 2,
      expirySeconds: 7,
      stamp: 1,
      by: { clientId: 'x', sid: 's', number: 3 },
    })
    expect(packMessage(message, clock).toString('hex')).toBe(
      '01' +
        '81' +
        '00000022' +
        '1d' +
        '4000000000000000' +
        '00000007' +
        '3ff0000000000000' +
        '0003612f62' +
        '000000020101' +
        '6869',
    )
    expect(unpackMessage(packMessage(message, clock), clock)).toEqual(message.with({ by: undefined }))
    const will = message.with({
      qos: 0,
      retain: false,
      properties: undefined,
      expiresAt: 0,
      isWill: true,
      stamp: undefined,
    })
    expect(packMessage(will, clock).toString('hex')).toBe(
      '01' + '81' + '00000017' + '30' + '0000000000000000' + '00000007' + '000178' + '0003612f62' + '6869',
    )
    expect(unpackMessage(packMessage(will, clock), clock)).toEqual(will.with({ by: { clientId: 'x' } }))
    for (const user of ['', 'é', null]) {
      const named = will.with({ by: { clientId: 'x', user } })
      expect(unpackMessage(packMessage(named, clock), clock)).toEqual(named)
    }
  })

  test('random bytes never throw and are seldom a message', () => {
    const random = seededRandom()
    for (let round = 0; round < 10_000; round++) {
      const entry = bytes(random, random.below(60))
      if (random.below(2) === 0 && entry.length > 0) entry[0] = 1
      const messages: Message[] = []
      const whole = unpackMessages(entry, clock, (message) => messages.push(message), {
        onShared: () => undefined,
        onGiven: () => undefined,
        onLook: () => undefined,
        onBell: () => undefined,
        onHold: () => undefined,
        onLater: () => undefined,
      })
      if (entry[0] === 0 || entry[0]! > 15)
        expect([whole, messages.length], entry.toString('hex')).toEqual([false, 0])
      for (const { topic, qos } of messages)
        expect([topic.length > 0, qos < 3], entry.toString('hex')).toEqual([true, true])
    }
  })

  test('topics that publishers are held back from, also those of a tenant, which have U+0000', () => {
    const packer = new MessagePacker(clock)
    const topics = ['a', '$\0acme/a/b', '$', '$\0acme$/$x', 'b']
    packer.addHold('a@1', topics, true)
    packer.addHold('a@1', [], false)
    const held: unknown[] = []
    unpackMessages(packer.take(), clock, () => undefined, {
      onShared: () => undefined,
      onGiven: () => undefined,
      onLook: () => undefined,
      onBell: () => undefined,
      onHold: (...hold) => held.push(hold),
      onLater: () => undefined,
    })
    expect(held).toEqual([
      ['a@1', topics, true],
      ['a@1', [], false],
    ])
  })

  test('a changed encoding never throws; a cut one hands on only what came whole before', () => {
    const random = seededRandom()
    for (let round = 0; round < 1_500; round++) {
      const packer = new MessagePacker(clock)
      const messages = Array.from({ length: 1 + random.below(4) }, () => randomMessage(random))
      const ends = messages.map((message) => {
        packer.add(message)
        return packer.length
      })
      const entry = packer.take()
      unpackAll(mutate(random, entry))
      unpackMessage(mutate(random, entry), clock)
      const cut = 1 + random.below(entry.length - 1)
      expect(unpackAll(entry.subarray(0, cut)), `seed ${random.seed} round ${round}`).toEqual({
        whole: cut === 1 || ends.includes(cut),
        messages: messages.slice(0, ends.filter((end) => end <= cut).length).map(print),
      })
    }
  })

  test.each([
    ['nothing', ''],
    ['no version', '10'],
    ['a later version that is not whole', '02' + '81' + '00000009' + '00'],
    ['an empty topic', '01' + '81' + '00000003' + '00' + '0000'],
    ['a topic beyond its record', '01' + '81' + '00000004' + '00' + '000261' + '6161'],
    ['properties beyond their record', '01' + '81' + '00000008' + '08' + '000161' + '00000001' + 'ff'],
    ['no room for an expiry', '01' + '81' + '00000004' + '10' + '000161'],
    ['a Client Identifier beyond its record', '01' + '81' + '00000006' + '20' + '000961' + '0061'],
    [
      'an expiry that is no number',
      '01' + '81' + '00000010' + '10' + '7ff8000000000000' + '00000001' + '000161',
    ],
  ])('%s is not ours', (_, hex) => {
    const entry = Buffer.from(hex, 'hex')
    expect(unpackAll(entry)).toEqual({ whole: false, messages: [] })
    expect(unpackMessage(entry, clock)).toBeUndefined()
  })

  test('a bad record of a frame that is whole is passed by alone', () => {
    const [good, bad] = ['81' + '00000005' + '00' + '000161' + '62', '81' + '00000003' + '00' + '0000']
    expect(unpackAll(Buffer.from('01' + good + bad + good, 'hex'))).toMatchObject({
      whole: false,
      messages: { length: 2 },
    })
  })

  describe('of a later version (P11)', () => {
    const good = '81' + '00000005' + '00' + '000161' + '62'
    const field = (kind: string): string =>
      '81' + '0000000f' + '80' + '000161' + '00000006' + kind + '00000001' + 'ff' + '62'
    const message = print(Message.of({ topic: 'a', payload: Buffer.from('b'), qos: 0, retain: false }))

    test.each([
      [
        'a record that must be understood is passed by alone',
        good + 'ff' + '00000002' + '0707' + good,
        { messages: [message, message], later: 1 },
      ],
      [
        'a record that may be skipped is',
        good + '7f' + '00000002' + '0707' + good,
        { messages: [message, message] },
      ],
      ['a field of a message that may be skipped is', field('01'), { messages: [message] }],
      [
        'a message with a field that must be understood is passed by alone',
        good + field('81') + good,
        { messages: [message, message], later: 1 },
      ],
      [
        'a flag of a readable message that this version does not know',
        good + '81' + '00000005' + '80' + '000161' + '62' + good,
        { messages: [message, message], later: 1 },
      ],
      [
        'QoS 3',
        good + '81' + '00000004' + '03' + '000161' + good,
        { messages: [message, message], later: 1 },
      ],
      [
        'fields beyond their record',
        '81' + '0000000d' + '80' + '000161' + '00000001' + '0100000000' + good,
        { messages: [message], later: 1 },
      ],
      [
        'half a field',
        '81' + '0000000a' + '80' + '000161' + '00000002' + '0100' + good,
        { messages: [message], later: 1 },
      ],
    ])('%s', (_, hex, expected) => {
      expect(unpackAll(Buffer.from('01' + hex, 'hex'))).toEqual({ whole: true, ...expected })
    })

    test('an entry of a later version: each of its records, and nothing of it is taken for garbage', () => {
      const entry = Buffer.from('02' + good + '31' + '00000000', 'hex')
      expect(unpackAll(entry)).toEqual({ whole: true, messages: [], later: 2 })
      expect(unpackMessage(entry, clock)).toBe('later')
      expect(unpackMessage(Buffer.from('01' + field('81'), 'hex'), clock)).toBe('later')
    })
  })

  test('an expiry is never later than its whole interval from now, whatever the clock of the sender said', () => {
    const message = randomMessage(seededRandom()).with({ expirySeconds: 5 })
    for (const expiresAt of [performance.now() + 3_600_000, Number.MAX_VALUE]) {
      const got = unpackMessage(packMessage(message.with({ expiresAt }), clock), clock) as Message
      expect(secondsLeft(got.expiresAt, got.expirySeconds)).toBe(5)
    }
    const past = unpackMessage(packMessage(message.with({ expiresAt: -1 }), clock), clock) as Message
    expect([isExpired(past), secondsLeft(past.expiresAt, past.expirySeconds)]).toEqual([true, 1])
    expect(secondsLeft(performance.now() + 1e15)).toBe(0xffffffff)
    expect(secondsLeft(performance.now() + 1e15, 0xffffffff)).toBe(0xffffffff)
  })
})

describe('journal entries', () => {
  test('an entry holds its changes, in order; two of the same changes are told apart', () => {
    const random = seededRandom()
    for (let round = 0; round < 1_000; round++) {
      const nodeId = text(random, 20)
      const changes = Array.from({ length: random.below(10) }, () => randomChange(random))
      const entry = encodeJournalEntry(nodeId, changes)
      expect(decodeJournalEntry(entry), `seed ${random.seed} round ${round}`).toEqual({
        nodeId,
        changes,
        skipped: 0,
      })
      expect(encodeJournalEntry(nodeId, changes).equals(entry)).toBe(false)
    }
  })

  test('random and changed bytes never throw; a cut record is not ours', () => {
    const random = seededRandom()
    for (let round = 0; round < 4_000; round++) {
      const changes = Array.from({ length: 1 + random.below(4) }, () => randomChange(random))
      const head = encodeJournalEntry('node', [])
      const entry = encodeJournalEntry('node', changes)
      decodeJournalEntry(mutate(random, entry))
      const noise = bytes(random, random.below(40))
      if (noise[0] === 0 || noise[0]! > 15) expect(decodeJournalEntry(noise)).toBeUndefined()
      const cut = random.below(entry.length)
      const decoded = decodeJournalEntry(entry.subarray(0, cut))
      // Whole records before the cut make an entry; half a record never does.
      if (decoded !== undefined && decoded !== 'later') {
        expect(decoded.changes, `seed ${random.seed} round ${round}`).toEqual(
          changes.slice(0, decoded.changes.length),
        )
        expect(encodeJournalEntry('node', decoded.changes)).toHaveLength(cut)
      } else if (cut >= head.length)
        expect(changes.some((_, n) => encodeJournalEntry('node', changes.slice(0, n)).length === cut)).toBe(
          false,
        )
    }
  })

  test('a record of a later version is skipped, unless it must be understood (P11)', () => {
    const joined = encodeJournalEntry('node', [{ type: 'joined' }])
    const record = (kind: number): Buffer => Buffer.from([kind, 0, 0, 0, 2, 7, 7])
    expect(decodeJournalEntry(Buffer.concat([joined, record(0x7f)]))).toEqual({
      nodeId: 'node',
      changes: [{ type: 'joined' }],
      skipped: 1,
    })
    expect(decodeJournalEntry(Buffer.concat([joined, record(0xff)]))).toBe('later')
    expect(decodeJournalEntry(Buffer.concat([Buffer.from([2]), joined.subarray(1)]))).toBe('later')
    expect(
      decodeJournalEntry(Buffer.concat([Buffer.from([2]), joined.subarray(1), Buffer.from([1, 0])])),
    ).toBeUndefined()
  })
})
