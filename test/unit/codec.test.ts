// The bytes between nodes: what is packed comes out again, whatever it holds, and whatever bytes come in, nothing throws:
// random bytes, cut and changed encodings are decoded to something whole or reported as not ours. Records of a later version
// are skipped, unless they say that they must be understood (P11). The version-1 layout itself is pinned by one example.
import { describe, expect, test } from 'vitest'
import { decodeJournalEntry, encodeJournalEntry, MessagePacker, packMessage, unpackMessage, unpackMessages, type Change } from '../../bridge/codec.ts'
import type { Message } from '../../bridge/message.ts'
import { seededRandom, type Random } from '../support/random.ts'

const bytes = (random: Random, length: number): Buffer => Buffer.from(Array.from({ length }, () => random.below(256)))
const text = (random: Random, lengthMax: number): string => Array.from({ length: 1 + random.below(lengthMax) }, () => random.pick(['a', 'B', '/', '$', 'é', '漢', '😀'])).join('')

function randomMessage(random: Random): Message {
  const payload = random.pick([0, 1, 17, 17, 300, 300, 300, 9_000])
  return {
    topic: text(random, random.pick([1, 5, 40])), payload: bytes(random, random.below(payload + 1)), qos: random.pick([0, 1, 2] as const), retain: random.below(2) === 0,
    properties: random.below(2) === 0 ? undefined : bytes(random, random.below(30)),
    expiresAt: random.below(2) === 0 ? 0 : 1_700_000_000_000 + random.below(1_000_000_000), publisher: undefined, origin: undefined, frames: undefined,
  }
}

function randomChange(random: Random): Change {
  return random.pick<Change>([
    { type: 'route', filter: text(random, 20), kind: random.below(256) }, { type: 'joined' }, { type: 'anew' }, { type: 'gone', nodeId: text(random, 20) },
    { type: 'lost' }, { type: 'retained', topic: text(random, 20), present: true }, { type: 'retained', topic: text(random, 20), present: false },
  ])
}

/** The encoding with something wrong: cut, bytes changed, inserted or removed, or something behind it. */
function mutate(random: Random, encoded: Buffer): Buffer {
  const at = random.below(encoded.length)
  switch (random.below(5)) {
    case 0: return encoded.subarray(0, at)
    case 1: return Buffer.concat([encoded.subarray(0, at), bytes(random, 1 + random.below(8)), encoded.subarray(at)])
    case 2: return Buffer.concat([encoded.subarray(0, at), encoded.subarray(at + 1 + random.below(8))])
    case 3: return Buffer.concat([encoded, bytes(random, 1 + random.below(8))])
    default: {
      const changed = Buffer.from(encoded)
      for (let n = 1 + random.below(3); n > 0; n--) changed[random.below(changed.length)] = random.below(256)
      return changed
    }
  }
}

/** All of a message as text: comparing long Buffers one byte at a time is slow. */
const print = ({ topic, payload, qos, retain, properties, expiresAt }: Message): string => JSON.stringify([topic, qos, retain, properties?.toString('hex'), expiresAt, payload.toString('hex')])

function unpackAll(entry: Buffer): { whole: boolean; messages: string[] } {
  const messages: string[] = []
  const whole = unpackMessages(entry, (message) => messages.push(print(message)))
  return { whole, messages }
}

describe('messages', () => {
  test('a packed entry holds its messages, in order, also beyond its first buffer', () => {
    const random = seededRandom()
    const packer = new MessagePacker()
    for (let round = 0; round < 100; round++) {
      const messages = Array.from({ length: 1 + random.below(20) }, () => randomMessage(random))
      for (const message of messages) packer.add(message)
      expect(packer.count).toBe(messages.length)
      const { length } = packer
      const entry = packer.take()
      expect([entry.length, packer.count]).toEqual([length, 0])
      expect(unpackAll(entry), `seed ${random.seed} round ${round}`).toEqual({ whole: true, messages: messages.map(print) })
    }
  })

  test('the longest topic there is', () => {
    const topic = '漢'.repeat(21_845) // 65,535 bytes
    expect(unpackMessage(packMessage({ ...randomMessage(seededRandom()), topic }))?.topic).toBe(topic)
  })

  test('version 1 is these bytes: another node may be of an older release', () => {
    const message: Message = { topic: 'a/b', payload: Buffer.from('hi'), qos: 1, retain: true, properties: Buffer.from([1, 1]), expiresAt: 2, publisher: 'x', origin: undefined, frames: undefined }
    expect(packMessage(message).toString('hex')).toBe('01' + '1d' + '00000015' + '4000000000000000' + '0003612f62' + '000000020101' + '6869')
    expect(unpackMessage(packMessage(message))).toEqual({ ...message, publisher: undefined, replay: false })
  })

  test('random bytes never throw and are seldom a message', () => {
    const random = seededRandom()
    for (let round = 0; round < 10_000; round++) {
      const entry = bytes(random, random.below(60))
      if (random.below(2) === 0 && entry.length > 0) entry[0] = 1
      const messages: Message[] = []
      const whole = unpackMessages(entry, (message) => messages.push(message))
      if (entry[0] !== 1) expect([whole, messages.length], entry.toString('hex')).toEqual([false, 0])
      for (const { topic, qos } of messages) expect([topic.length > 0, qos < 3], entry.toString('hex')).toEqual([true, true])
    }
  })

  test('a changed encoding never throws; a cut one hands on only what came whole before', () => {
    const random = seededRandom()
    for (let round = 0; round < 1_500; round++) {
      const packer = new MessagePacker()
      const messages = Array.from({ length: 1 + random.below(4) }, () => randomMessage(random))
      const ends = messages.map((message) => { packer.add(message); return packer.length })
      const entry = packer.take()
      unpackAll(mutate(random, entry))
      unpackMessage(mutate(random, entry))
      const cut = 1 + random.below(entry.length - 1)
      expect(unpackAll(entry.subarray(0, cut)), `seed ${random.seed} round ${round}`)
        .toEqual({ whole: cut === 1 || ends.includes(cut), messages: messages.slice(0, ends.filter((end) => end <= cut).length).map(print) })
    }
  })

  test.each([
    ['nothing', ''], ['another version', '02'], ['QoS 3', '01' + '03' + '00000003' + '000161'], ['an unknown flag', '01' + '80' + '00000003' + '000161'],
    ['an empty topic', '01' + '00' + '00000002' + '0000'], ['a topic beyond its record', '01' + '00' + '00000003' + '000261' + '6161'],
    ['properties beyond their record', '01' + '08' + '00000007' + '000161' + '00000001' + 'ff'], ['no room for an expiry', '01' + '10' + '00000003' + '000161'],
  ])('%s is not ours', (_, hex) => {
    const entry = Buffer.from(hex, 'hex')
    expect(unpackAll(entry)).toEqual({ whole: false, messages: [] })
    expect(unpackMessage(entry)).toBeUndefined()
  })
})

describe('journal entries', () => {
  test('an entry holds its changes, in order; two of the same changes are told apart', () => {
    const random = seededRandom()
    for (let round = 0; round < 1_000; round++) {
      const nodeId = text(random, 20)
      const changes = Array.from({ length: random.below(10) }, () => randomChange(random))
      const entry = encodeJournalEntry(nodeId, changes)
      expect(decodeJournalEntry(entry), `seed ${random.seed} round ${round}`).toEqual({ nodeId, changes, skipped: 0 })
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
      if (noise[0] !== 1) expect(decodeJournalEntry(noise)).toBeUndefined()
      const cut = random.below(entry.length)
      const decoded = decodeJournalEntry(entry.subarray(0, cut))
      // Whole records before the cut make an entry; half a record never does.
      if (decoded !== undefined) {
        expect(decoded.changes, `seed ${random.seed} round ${round}`).toEqual(changes.slice(0, decoded.changes.length))
        expect(encodeJournalEntry('node', decoded.changes)).toHaveLength(cut)
      } else if (cut >= head.length) expect(changes.some((_, n) => encodeJournalEntry('node', changes.slice(0, n)).length === cut)).toBe(false)
    }
  })

  test('a record of a later version is skipped, unless it must be understood (P11)', () => {
    const joined = encodeJournalEntry('node', [{ type: 'joined' }])
    const record = (kind: number): Buffer => Buffer.from([kind, 0, 0, 0, 2, 7, 7])
    expect(decodeJournalEntry(Buffer.concat([joined, record(0x7f)]))).toEqual({ nodeId: 'node', changes: [{ type: 'joined' }], skipped: 1 })
    expect(decodeJournalEntry(Buffer.concat([joined, record(0xff)]))).toBeUndefined()
    expect(decodeJournalEntry(Buffer.concat([Buffer.from([2]), joined.subarray(1)]))).toBeUndefined()
  })
})
