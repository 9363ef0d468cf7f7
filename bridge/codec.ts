// The bytes between nodes: journal entries, inbox entries, Retained Messages. Each begins with a version; each record has
// a length, so that a node skips what it does not know, unless the record says that it must be understood (P11). Whatever
// the bytes, decoding never throws: what is not whole or not ours is undefined, and the caller counts it. No state.
import { randomBytes } from 'node:crypto'
import type { Message } from './message.ts'

const version = 1
const mustUnderstand = 0x80

/** Changes that the journal carries. */
export type Change =
  | { readonly type: 'route'; readonly filter: string; readonly kind: number }
  | { readonly type: 'joined' }
  | { readonly type: 'gone'; readonly nodeId: string }
  | { readonly type: 'anew' }
  | { readonly type: 'retained'; readonly topic: string; readonly present: boolean }
  /** A session's subscription with a queue behind it; `options` as in SessionOption, or undefined when it is gone. */
  | { readonly type: 'session'; readonly sid: string; readonly filter: string; readonly options: number | undefined }
  /** A session has another owner by now: a connection of an earlier one must go. */
  | { readonly type: 'taken'; readonly sid: string; readonly owner: string }
  /** A failover lost entries that the node had read: who had not read them cannot know what they told. */
  | { readonly type: 'lost' }

const recordKinds = { joined: 1, gone: 2, route: 3, retained: 4, cleared: 5, anew: 6, session: 7, taken: 8, lost: 9 } as const
const optionsGone = 0xff

function record(kind: number, extra: readonly number[], text: string): Buffer {
  const length = Buffer.byteLength(text)
  const bytes = Buffer.allocUnsafe(5 + extra.length + length)
  bytes[0] = kind | mustUnderstand
  bytes.writeUInt32BE(extra.length + length, 1)
  extra.forEach((byte, i) => { bytes[5 + i] = byte })
  bytes.write(text, 5 + extra.length)
  return bytes
}

function encodeChange(change: Change): Buffer {
  switch (change.type) {
    case 'route': return record(recordKinds.route, [change.kind], change.filter)
    case 'joined': return record(recordKinds.joined, [], '')
    case 'gone': return record(recordKinds.gone, [], change.nodeId)
    case 'anew': return record(recordKinds.anew, [], '')
    case 'retained': return record(change.present ? recordKinds.retained : recordKinds.cleared, [], change.topic)
    case 'session': return record(recordKinds.session, [change.options ?? optionsGone, change.sid.length], change.sid + change.filter)
    case 'taken': return record(recordKinds.taken, [change.sid.length], change.sid + change.owner)
    case 'lost': return record(recordKinds.lost, [], '')
  }
}

/** One journal entry; its random bytes tell it from any other entry that ever stood under the same number. */
export function encodeJournalEntry(nodeId: string, changes: readonly Change[]): Buffer {
  const name = Buffer.from(nodeId)
  const head = Buffer.allocUnsafe(11 + name.length)
  head[0] = version
  randomBytes(8).copy(head, 1)
  head.writeUInt16BE(name.length, 9)
  name.copy(head, 11)
  return Buffer.concat([head, ...changes.map(encodeChange)])
}

export interface JournalEntry {
  readonly nodeId: string
  readonly changes: readonly Change[]
  /** Records of a later version that were skipped. */
  readonly skipped: number
}

/** undefined: not ours, not whole, or of a version that must be understood and is not. */
export function decodeJournalEntry(bytes: Buffer): JournalEntry | undefined {
  if (bytes.length < 11 || bytes[0] !== version) return undefined
  let at = 11 + bytes.readUInt16BE(9)
  if (at > bytes.length) return undefined
  const nodeId = bytes.toString('utf8', 11, at)
  const changes: Change[] = []
  let skipped = 0
  while (at < bytes.length) {
    if (at + 5 > bytes.length) return undefined
    const kind = bytes[at]!
    const body = at + 5
    at = body + bytes.readUInt32BE(at + 1)
    if (at > bytes.length) return undefined
    const text = (from: number): string => bytes.toString('utf8', from, at)
    switch (kind & ~mustUnderstand) {
      case recordKinds.joined: changes.push({ type: 'joined' }); break
      case recordKinds.gone: changes.push({ type: 'gone', nodeId: text(body) }); break
      case recordKinds.route:
        if (body === at) return undefined
        changes.push({ type: 'route', kind: bytes[body]!, filter: text(body + 1) })
        break
      case recordKinds.retained: changes.push({ type: 'retained', topic: text(body), present: true }); break
      case recordKinds.cleared: changes.push({ type: 'retained', topic: text(body), present: false }); break
      case recordKinds.anew: changes.push({ type: 'anew' }); break
      case recordKinds.lost: changes.push({ type: 'lost' }); break
      case recordKinds.session: {
        const start = body + 2 + (bytes[body + 1] ?? 0) // a sid is ASCII
        if (body + 2 > at || start > at) return undefined
        changes.push({ type: 'session', sid: bytes.toString('latin1', body + 2, start), filter: text(start), options: bytes[body] === optionsGone ? undefined : bytes[body] })
        break
      }
      case recordKinds.taken: {
        const start = body + 1 + (bytes[body] ?? 0)
        if (body === at || start > at) return undefined
        changes.push({ type: 'taken', sid: bytes.toString('latin1', body + 1, start), owner: text(start) })
        break
      }
      default:
        if ((kind & mustUnderstand) !== 0) return undefined
        skipped++
    }
  }
  return { nodeId, changes, skipped }
}

const flagRetain = 0x04
const flagProperties = 0x08
const flagExpiry = 0x10
/** Not a message: a doorbell for sessions, their sids separated by spaces. */
const flagBell = 0x20
const flagReplay = 0x40
const knownFlags = 0x5f
/** Not messages either: topics whose publishers the sender of the entry wants held back, or no longer. */
const recordHold = 0x21
const recordGo = 0x22

const initialBytes = 4_096
const noBytes = Buffer.alloc(0)

/** Packs messages one behind the other into one growing buffer: an inbox entry, or one Retained Message. */
export class MessagePacker {
  #bytes: Buffer
  #length = 1
  count = 0

  constructor(bytes = initialBytes) {
    this.#bytes = Buffer.allocUnsafe(bytes)
  }

  get length(): number {
    return this.#length
  }

  /** flags(1) length of the rest(4) [expiry(8)] topic(2+n) [properties(4+n)] payload */
  add(message: Message): void {
    const { topic, payload, properties, expiresAt } = message
    const topicMax = topic.length * 3
    const needed = this.#length + 5 + 8 + 2 + topicMax + 4 + (properties?.length ?? 0) + payload.length
    if (needed > this.#bytes.length) {
      const larger = Buffer.allocUnsafe(Math.max(needed, this.#bytes.length * 2, initialBytes))
      this.#bytes.copy(larger, 0, 0, this.#length)
      this.#bytes = larger
    }
    const bytes = this.#bytes
    const start = this.#length
    bytes[start] = message.qos | (message.retain ? flagRetain : 0) | (properties === undefined ? 0 : flagProperties) | (expiresAt === 0 ? 0 : flagExpiry) | (message.replay === true ? flagReplay : 0)
    let at = start + 5
    if (expiresAt !== 0) at = bytes.writeDoubleBE(expiresAt, at)
    const written = bytes.write(topic, at + 2)
    bytes[at] = written >> 8
    bytes[at + 1] = written & 255
    at += 2 + written
    if (properties !== undefined) {
      at = bytes.writeUInt32BE(properties.length, at)
      at += properties.copy(bytes, at)
    }
    at += payload.copy(bytes, at)
    bytes.writeUInt32BE(at - start - 5, start + 1)
    this.#length = at
    this.count++
  }

  /** Rings the bells of sessions whose owner reads this entry. */
  addBell(sids: Iterable<string>): void {
    this.#addRecord(flagBell, Buffer.from([...sids].join(' '), 'latin1'))
  }

  /** Tells that publishers on `topics` are to be held back for `nodeId`, or no longer. */
  addHold(nodeId: string, topics: readonly string[], held: boolean): void {
    this.#addRecord(held ? recordHold : recordGo, Buffer.from([nodeId, ...topics].join('\0')))
  }

  #addRecord(kind: number, text: Buffer): void {
    if (this.#length + 5 + text.length > this.#bytes.length) {
      const larger = Buffer.allocUnsafe(Math.max(this.#length + 5 + text.length, this.#bytes.length * 2, initialBytes))
      this.#bytes.copy(larger, 0, 0, this.#length)
      this.#bytes = larger
    }
    this.#bytes[this.#length] = kind
    this.#bytes.writeUInt32BE(text.length, this.#length + 1)
    text.copy(this.#bytes, this.#length + 5)
    this.#length += 5 + text.length
    this.count++
  }

  /** The entry, and an empty packer again. The bytes are the caller's. */
  take(): Buffer {
    const bytes = this.#bytes.subarray(0, this.#length)
    bytes[0] = version
    this.#bytes = noBytes
    this.#length = 1
    this.count = 0
    return bytes
  }
}

/** The last topic decoded: the messages of an entry mostly repeat it, and one string keeps its hash. */
let lastTopicBytes = Buffer.alloc(0)
let lastTopic = ''

function topicAt(bytes: Buffer, start: number, end: number): string {
  if (lastTopicBytes.length !== end - start || bytes.compare(lastTopicBytes, 0, lastTopicBytes.length, start, end) !== 0) {
    lastTopicBytes = Buffer.from(bytes.subarray(start, end))
    lastTopic = bytes.toString('utf8', start, end)
  }
  return lastTopic
}

/** What an entry holds besides messages. */
export interface OtherRecords {
  onBell(sid: string): void
  onHold(nodeId: string, topics: readonly string[], held: boolean): void
}

const noOthers: OtherRecords = { onBell: () => undefined, onHold: () => undefined }

/**
 * Hands each message of an entry to `each`; payloads and properties are slices of `bytes`.
 * @returns false when the entry is not whole or not ours; what came before the bad record was handed on
 */
export function unpackMessages(bytes: Buffer, each: (message: Message) => void, other: OtherRecords = noOthers): boolean {
  if (bytes.length === 0 || bytes[0] !== version) return false
  let at = 1
  while (at < bytes.length) {
    if (at + 7 > bytes.length) return false
    const flags = bytes[at]!
    const end = at + 5 + bytes.readUInt32BE(at + 1)
    const qos = flags & 3
    if (end > bytes.length) return false
    if (flags === flagBell) {
      for (const sid of bytes.toString('latin1', at + 5, end).split(' ')) other.onBell(sid)
      at = end
      continue
    }
    if (flags === recordHold || flags === recordGo) {
      const [nodeId, ...topics] = bytes.toString('utf8', at + 5, end).split('\0')
      other.onHold(nodeId!, topics, flags === recordHold)
      at = end
      continue
    }
    if ((flags & ~knownFlags) !== 0 || qos === 3) return false
    at += 5
    let expiresAt = 0
    if ((flags & flagExpiry) !== 0) {
      if (at + 8 > end) return false
      expiresAt = bytes.readDoubleBE(at)
      at += 8
    }
    if (at + 2 > end) return false
    const topicEnd = at + 2 + bytes.readUInt16BE(at)
    if (topicEnd > end || topicEnd === at + 2) return false
    const topic = topicAt(bytes, at + 2, topicEnd)
    at = topicEnd
    let properties: Buffer | undefined
    if ((flags & flagProperties) !== 0) {
      if (at + 4 > end) return false
      const propertiesEnd = at + 4 + bytes.readUInt32BE(at)
      if (propertiesEnd > end) return false
      properties = bytes.subarray(at + 4, propertiesEnd)
      at = propertiesEnd
    }
    each({ topic, payload: bytes.subarray(at, end), qos: qos as 0 | 1 | 2, retain: (flags & flagRetain) !== 0, properties, expiresAt, publisher: undefined, origin: undefined, replay: (flags & flagReplay) !== 0, frames: undefined })
    at = end
  }
  return true
}

/** One message as bytes of its own, no larger than needed. */
export function packMessage(message: Message): Buffer {
  const packer = new MessagePacker(32 + Buffer.byteLength(message.topic) * 3 + (message.properties?.length ?? 0) + message.payload.length)
  packer.add(message)
  return packer.take()
}

/** The message of `packMessage`; undefined when the bytes are not one. */
export function unpackMessage(bytes: Buffer): Message | undefined {
  let found: Message | undefined
  return unpackMessages(bytes, (message) => { found = message }) ? found : undefined
}
