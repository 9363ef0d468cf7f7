// The bytes between nodes: journal entries, inbox entries, stored messages. Each begins with a version, then
// come records: a kind, a length and a body. That frame never changes, so that every version finds its way
// past what it does not know (P11). A record, or a field of a message, whose highest bit is set must be
// understood: who does not know it knows that much, and may not take it for nothing; without the bit it is
// skipped. Whatever the bytes, decoding never throws: `later` is what a later version wrote, undefined what
// is not whole or not ours. Moments of expiry are written in cluster time (bridge/pace/clock.ts). No state.
import { randomBytes } from 'node:crypto'
import type { Clock } from '../pace/clock.ts'
import { Message, secondsLeft } from './message.ts'
import { laterOption } from '../sessions/session-options.ts'

/**
 * What this version reads, from the first to the last, and writes: what all nodes of a cluster read
 * (bridge/membership/membership.ts).
 */
export const recordVersions = { min: 1, max: 2 } as const
/** From this one on records know Shared Subscriptions. */
export const recordsOfGroups = 2
/** Of the frame: the same in both. */
const version = 1
/** A version beyond it is no version but other bytes. */
const versionMax = 15
const mustUnderstand = 0x80

/** What a later version wrote and this one must not take for nothing. */
export type Later = 'later'

/** Whether a frame of records is whole from `at` on, whatever they hold. */
function isFramed(bytes: Buffer, at: number): boolean {
  while (at + 5 <= bytes.length) at += 5 + bytes.readUInt32BE(at + 1)
  return at === bytes.length
}

/** Changes that the journal carries. */
export type Change =
  | { readonly type: 'route'; readonly filter: string; readonly kind: number }
  | { readonly type: 'joined' }
  | { readonly type: 'gone'; readonly nodeId: string }
  | { readonly type: 'anew' }
  | { readonly type: 'retained'; readonly topic: string; readonly present: boolean }
  /**
   * A subscription of a session that has a queue; `options` as in SessionOption, or undefined when it is
   * gone.
   */
  | {
      readonly type: 'session'
      readonly sid: string
      readonly filter: string
      readonly options: number | undefined
    }
  /** A session has another owner by now: a connection of an earlier one must go. */
  | { readonly type: 'taken'; readonly sid: string; readonly owner: string }
  /** A client of whose session `owner` is the owner connects elsewhere: it is to be given up. */
  | { readonly type: 'wanted'; readonly sid: string; readonly owner: string }
  /** A failover lost entries that the node had read: who had not read them cannot know what they told. */
  | { readonly type: 'lost' }
  /** A message found no session where one was subscribed: whoever owns it writes it down again. */
  | { readonly type: 'missing'; readonly sid: string }

const recordKinds = {
  joined: 1,
  gone: 2,
  route: 3,
  retained: 4,
  cleared: 5,
  anew: 6,
  session: 7,
  taken: 8,
  lost: 9,
  missing: 10,
  wanted: 11,
} as const
const optionsGone = 0xff

function record(kind: number, extra: readonly number[], text: string): Buffer {
  const length = Buffer.byteLength(text)
  const bytes = Buffer.allocUnsafe(5 + extra.length + length)
  bytes[0] = kind | mustUnderstand
  bytes.writeUInt32BE(extra.length + length, 1)
  extra.forEach((byte, i) => {
    bytes[5 + i] = byte
  })
  bytes.write(text, 5 + extra.length)
  return bytes
}

function encodeChange(change: Change): Buffer {
  switch (change.type) {
    case 'route':
      return record(recordKinds.route, [change.kind], change.filter)
    case 'joined':
      return record(recordKinds.joined, [], '')
    case 'gone':
      return record(recordKinds.gone, [], change.nodeId)
    case 'anew':
      return record(recordKinds.anew, [], '')
    case 'retained':
      return record(change.present ? recordKinds.retained : recordKinds.cleared, [], change.topic)
    case 'session':
      return record(
        recordKinds.session,
        [change.options ?? optionsGone, change.sid.length],
        change.sid + change.filter,
      )
    case 'taken':
    case 'wanted':
      return record(recordKinds[change.type], [change.sid.length], change.sid + change.owner)
    case 'lost':
      return record(recordKinds.lost, [], '')
    case 'missing':
      return record(recordKinds.missing, [], change.sid)
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

/** undefined: not ours, or not whole; `later`: it holds what must be understood and is not. */
export function decodeJournalEntry(bytes: Buffer): JournalEntry | Later | undefined {
  if (bytes.length < 11 || bytes[0]! < version || bytes[0]! > versionMax) return undefined
  let at = 11 + bytes.readUInt16BE(9)
  if (at > bytes.length || !isFramed(bytes, at)) return undefined
  if (bytes[0] !== version) return 'later'
  const nodeId = bytes.toString('utf8', 11, at)
  const changes: Change[] = []
  let skipped = 0
  while (at < bytes.length) {
    const kind = bytes[at]!
    const body = at + 5
    at = body + bytes.readUInt32BE(at + 1)
    const text = (from: number): string => bytes.toString('utf8', from, at)
    switch (kind & ~mustUnderstand) {
      case recordKinds.joined:
        changes.push({ type: 'joined' })
        break
      case recordKinds.gone:
        changes.push({ type: 'gone', nodeId: text(body) })
        break
      case recordKinds.route:
        if (body === at) return undefined
        changes.push({ type: 'route', kind: bytes[body]!, filter: text(body + 1) })
        break
      case recordKinds.retained:
        changes.push({ type: 'retained', topic: text(body), present: true })
        break
      case recordKinds.cleared:
        changes.push({ type: 'retained', topic: text(body), present: false })
        break
      case recordKinds.anew:
        changes.push({ type: 'anew' })
        break
      case recordKinds.lost:
        changes.push({ type: 'lost' })
        break
      case recordKinds.missing:
        changes.push({ type: 'missing', sid: text(body) })
        break
      case recordKinds.session: {
        const start = body + 2 + (bytes[body + 1] ?? 0) // a sid is ASCII
        if (body + 2 > at || start > at) return undefined
        if (bytes[body] !== optionsGone && (bytes[body]! & laterOption) !== 0) return 'later'
        changes.push({
          type: 'session',
          sid: bytes.toString('latin1', body + 2, start),
          filter: text(start),
          options: bytes[body] === optionsGone ? undefined : bytes[body],
        })
        break
      }
      case recordKinds.taken:
      case recordKinds.wanted: {
        const start = body + 1 + (bytes[body] ?? 0)
        if (body === at || start > at) return undefined
        changes.push({
          type: (kind & ~mustUnderstand) === recordKinds.taken ? 'taken' : 'wanted',
          sid: bytes.toString('latin1', body + 1, start),
          owner: text(start),
        })
        break
      }
      default:
        if ((kind & mustUnderstand) !== 0) return 'later'
        skipped++
    }
  }
  return { nodeId, changes, skipped }
}

/**
 * Records of an entry: a message; a doorbell for sessions, their sids separated by spaces; topics whose
 * publishers the sender wants held back, or no longer; for which group the message after it is, and how often it was
 * handed on.
 */
const messageRecord = 0x01 | mustUnderstand
const bellRecord = 0x02 | mustUnderstand
const holdRecord = 0x03 | mustUnderstand
const goRecord = 0x04 | mustUnderstand
const sharedRecord = 0x05 | mustUnderstand
/**
 * Of the message after it: which member of a group it was given to; and of groups: their members may have got
 * more than they know.
 */
const givenRecord = 0x06 | mustUnderstand
const lookRecord = 0x07 | mustUnderstand

/** Of a message, beside its QoS in the lowest two bits: what it says, and which of its parts are there. */
const flagRetain = 0x04
const flagProperties = 0x08
const flagExpiry = 0x10
/** It is a will: the Client Identifier of its client stands in front. */
const flagWill = 0x20
const flagReplay = 0x40
/**
 * Further fields: length(4), then of each kind(1), its highest bit set when it must be understood, length(4),
 * body. A will has one: the user name that its client had proved, or that it had none.
 */
const flagFields = 0x80
const userField = 0x01
const noUserField = 0x02

/** Topics stand with U+0000 between them; one of a tenant has it behind its first character, and has it twice. */
const betweenTopics = /(?<!\0)\0(?!\0)/
const doubled = (topic: string): string => topic.replace('\0', '\0\0')
const single = (topic: string): string => topic.replace('\0\0', '\0')

/** Its length(2), then the text. */
function writeText(bytes: Buffer, text: string, at: number): number {
  const written = bytes.write(text, at + 2)
  bytes[at] = written >> 8
  bytes[at + 1] = written & 255
  return at + 2 + written
}

const initialBytes = 4_096
const noBytes = Buffer.alloc(0)

/** Packs messages one after the other into one growing buffer: an inbox entry, or one Retained Message. */
export class MessagePacker {
  readonly #clock: Clock
  #bytes: Buffer
  #length = 1
  count = 0

  constructor(clock: Clock, bytes = initialBytes) {
    this.#clock = clock
    this.#bytes = Buffer.allocUnsafe(bytes)
  }

  get length(): number {
    return this.#length
  }

  #room(bytes: number): Buffer {
    const needed = this.#length + bytes
    if (needed > this.#bytes.length) {
      const larger = Buffer.allocUnsafe(Math.max(needed, this.#bytes.length * 2, initialBytes))
      this.#bytes.copy(larger, 0, 0, this.#length)
      this.#bytes = larger
    }
    return this.#bytes
  }

  /**
   * flags(1) [expiry in cluster time(8) interval(4)] [stamp(8): of what is retained and comes live]
   * [publisher(2+n)] topic(2+n) [properties(4+n)] [fields(4+n)] payload
   */
  add(message: Message): void {
    const { topic, payload, properties, expiresAt } = message
    const expires = expiresAt !== 0 || message.expirySeconds !== undefined
    const publisher = message.isWill ? message.by?.clientId : undefined
    const user = publisher === undefined ? undefined : message.by?.user
    const bytes = this.#room(
      5 +
        1 +
        12 +
        8 +
        2 +
        (publisher?.length ?? 0) * 3 +
        2 +
        topic.length * 3 +
        4 +
        (properties?.length ?? 0) +
        9 +
        (user?.length ?? 0) * 3 +
        payload.length,
    )
    const start = this.#length
    bytes[start] = messageRecord
    bytes[start + 5] =
      message.qos |
      (message.retain ? flagRetain : 0) |
      (properties === undefined ? 0 : flagProperties) |
      (expires ? flagExpiry : 0) |
      (publisher === undefined ? 0 : flagWill) |
      (message.replay ? flagReplay : 0) |
      (user === undefined ? 0 : flagFields)
    let at = start + 6
    if (expires) {
      at = bytes.writeDoubleBE(expiresAt === 0 ? 0 : this.#clock.toCluster(expiresAt), at)
      at = bytes.writeUInt32BE(message.expirySeconds ?? secondsLeft(expiresAt), at)
    }
    if (message.retain && !message.replay) at = bytes.writeDoubleBE(message.stamp ?? 0, at)
    if (publisher !== undefined) at = writeText(bytes, publisher, at)
    at = writeText(bytes, topic, at)
    if (properties !== undefined) {
      at = bytes.writeUInt32BE(properties.length, at)
      at += properties.copy(bytes, at)
    }
    if (user !== undefined) {
      const written = user === null ? 0 : bytes.write(user, at + 9)
      bytes.writeUInt32BE(5 + written, at)
      bytes[at + 4] = user === null ? noUserField : userField
      bytes.writeUInt32BE(written, at + 5)
      at += 9 + written
    }
    at += payload.copy(bytes, at)
    bytes.writeUInt32BE(at - start - 5, start + 1)
    this.#length = at
    this.count++
  }

  /** Rings the bells of sessions whose owner reads this entry. */
  addBell(sids: Iterable<string>): void {
    this.#addRecord(bellRecord, Buffer.from([...sids].join(' '), 'latin1'))
  }

  /** Tells that publishers on `topics` are to be held back for `nodeId`, or no longer. */
  addHold(nodeId: string, topics: readonly string[], held: boolean): void {
    this.#addRecord(held ? holdRecord : goRecord, Buffer.from([nodeId, ...topics.map(doubled)].join('\0')))
  }

  /** The message that is added next is for one member of a group. */
  addShared({ name, visited }: Share): void {
    // a tenant's names hold U+0000 themselves
    this.#addRecord(sharedRecord, Buffer.from([doubled(name), ...visited].join('\0')))
  }

  /** The message that is added next was given to a member of a group. */
  addGiven({ gid, sid, id, seq, qos, owner }: Given): void {
    this.#addRecord(givenRecord, Buffer.from([gid, sid, id, seq, qos, owner].join(' ')))
  }

  /** The target looks what members of a group that are connected to it were given. */
  addLook(name: string): void {
    this.#addRecord(lookRecord, Buffer.from(name))
  }

  #addRecord(kind: number, text: Buffer): void {
    const bytes = this.#room(5 + text.length)
    bytes[this.#length] = kind
    bytes.writeUInt32BE(text.length, this.#length + 1)
    text.copy(bytes, this.#length + 5)
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
  if (
    lastTopicBytes.length !== end - start ||
    bytes.compare(lastTopicBytes, 0, lastTopicBytes.length, start, end) !== 0
  ) {
    lastTopicBytes = Buffer.from(bytes.subarray(start, end))
    lastTopic = bytes.toString('utf8', start, end)
  }
  return lastTopic
}

/** For one member of which group a message is. */
export interface Share {
  readonly name: string
  /** Nodes that it has been to, and that had no member any more. */
  readonly visited: readonly string[]
}

/** Which member of a group a message was given to. */
export interface Given {
  readonly gid: string
  readonly sid: string
  /** Packet Identifier. */
  readonly id: number
  /** Its number among the messages of the member. */
  readonly seq: number
  /** Granted. */
  readonly qos: 0 | 1 | 2
  /** Of the member's session. */
  readonly owner: string
}

function givenOf(text: string): Given | undefined {
  const [, gid, sid, id, seq, qos, owner] = /^(\S+) (\S+) (\d{1,5}) (\d{1,15}) ([012]) (.*)$/.exec(text) ?? []
  return owner === undefined
    ? undefined
    : { gid: gid!, sid: sid!, id: Number(id), seq: Number(seq), qos: Number(qos) as 0 | 1 | 2, owner }
}

/** What an entry holds besides messages. */
export interface OtherRecords {
  onShared(message: Message, share: Share): void
  onGiven(message: Message, given: Given): void
  onLook(name: string): void
  onBell(sid: string): void
  onHold(nodeId: string, topics: readonly string[], held: boolean): void
  /** A record that must be understood, and is not. */
  onLater(): void
}

/**
 * Reads an entry record by record, so that who reads may rest between two. What it does not know it passes
 * by.
 */
export class EntryReader {
  readonly #bytes: Buffer
  readonly #clock: Clock
  readonly #each: (message: Message) => void
  readonly #other: OtherRecords
  readonly #isLater: boolean
  #at = 1
  /** Of the message that comes next. */
  #share: Share | undefined
  #given: Given | undefined
  /**
   * False: the entry is not whole or not ours. Bad records of a frame that is whole are passed by alone, all
   * others were handed on.
   */
  isWhole = true
  #isFramed: boolean

  /** @param each gets each message; payloads and properties are slices of `bytes` */
  constructor(bytes: Buffer, clock: Clock, each: (message: Message) => void, other: OtherRecords) {
    this.#bytes = bytes
    this.#clock = clock
    this.#each = each
    this.#other = other
    this.#isLater = bytes[0] !== version
    this.#isFramed =
      bytes.length > 0 &&
      bytes[0]! >= version &&
      bytes[0]! <= versionMax &&
      (!this.#isLater || isFramed(bytes, 1))
    this.isWhole = this.#isFramed
  }

  /** Hands on the next record; false when there is none. */
  next(): boolean {
    if (!this.#isFramed || this.#at >= this.#bytes.length) return false
    if (!this.#read()) this.isWhole = false
    return this.#isFramed
  }

  #read(): boolean {
    const bytes = this.#bytes
    const start = this.#at + 5
    const end = start > bytes.length ? start : start + bytes.readUInt32BE(this.#at + 1)
    if (end > bytes.length) return (this.#isFramed = false)
    const kind = bytes[this.#at]!
    this.#at = end
    if (this.#isLater) this.#other.onLater()
    else if (kind === messageRecord) {
      const message = messageAt(bytes, start, end, this.#clock)
      const [share, given] = [this.#share, this.#given]
      this.#share = this.#given = undefined
      if (message === undefined) return false
      if (message === 'later') this.#other.onLater()
      else if (share !== undefined) this.#other.onShared(message, share)
      else if (given !== undefined) this.#other.onGiven(message, given)
      else this.#each(message)
    } else if (kind === sharedRecord) {
      const [name, ...visited] = bytes.toString('utf8', start, end).split(betweenTopics)
      this.#share = { name: single(name!), visited }
    } else if (kind === givenRecord) this.#given = givenOf(bytes.toString('utf8', start, end))
    else if (kind === lookRecord) this.#other.onLook(bytes.toString('utf8', start, end))
    else if (kind === bellRecord)
      for (const sid of bytes.toString('latin1', start, end).split(' ')) this.#other.onBell(sid)
    else if (kind === holdRecord || kind === goRecord) {
      const [nodeId, ...topics] = bytes.toString('utf8', start, end).split(betweenTopics)
      this.#other.onHold(nodeId!, topics.map(single), kind === holdRecord)
    } else if ((kind & mustUnderstand) !== 0) this.#other.onLater()
    return true
  }
}

/**
 * Hands each message of an entry to `each`, in one go.
 * @returns false when the entry is not whole or not ours, or a record of it is bad; all others were handed on
 */
export function unpackMessages(
  bytes: Buffer,
  clock: Clock,
  each: (message: Message) => void,
  other: OtherRecords,
): boolean {
  const reader = new EntryReader(bytes, clock, each, other)
  while (reader.next());
  return reader.isWhole
}

/**
 * Whether one of the fields must be understood, or they are no fields as this version knows them. It knows
 * none.
 */
function needsLater(bytes: Buffer, at: number, end: number): boolean {
  while (at + 5 <= end && (bytes[at]! & mustUnderstand) === 0) at += 5 + bytes.readUInt32BE(at + 1)
  return at !== end
}

/** Of whole fields. */
function userIn(bytes: Buffer, at: number, end: number): string | null | undefined {
  for (let next: number; at < end; at = next) {
    next = at + 5 + bytes.readUInt32BE(at + 1)
    if (bytes[at] === userField) return bytes.toString('utf8', at + 5, next)
    if (bytes[at] === noUserField) return null
  }
  return undefined
}

/**
 * When it expires by this process' clock, never 0: not later than its whole interval from now, whatever the
 * clocks say.
 */
function expiryAt(
  bytes: Buffer,
  at: number,
  clock: Clock,
): { readonly expiresAt: number; readonly expirySeconds: number } | undefined {
  const time = bytes.readDoubleBE(at)
  const expirySeconds = bytes.readUInt32BE(at + 8)
  if (!Number.isFinite(time)) return undefined
  if (time === 0) return { expiresAt: 0, expirySeconds }
  return {
    expiresAt: Math.min(clock.toLocal(time), performance.now() + expirySeconds * 1_000) || -1,
    expirySeconds,
  }
}

function messageAt(bytes: Buffer, start: number, end: number, clock: Clock): Message | Later | undefined {
  if (start + 3 > end) return undefined
  const flags = bytes[start]!
  const qos = flags & 3
  let at = start + 1
  if (qos === 3) return 'later' // what a later version means by it
  let expiry: ReturnType<typeof expiryAt>
  if ((flags & flagExpiry) !== 0) {
    if (at + 12 > end) return undefined
    if ((expiry = expiryAt(bytes, at, clock)) === undefined) return undefined
    at += 12
  }
  let stamp = 0
  if ((flags & (flagRetain | flagReplay)) === flagRetain) {
    if (at + 8 > end) return undefined
    stamp = bytes.readDoubleBE(at)
    at += 8
  }
  let publisher: string | undefined
  if ((flags & flagWill) !== 0) {
    const publisherEnd = at + 2 + (at + 2 > end ? 0 : bytes.readUInt16BE(at))
    if (publisherEnd > end) return undefined
    publisher = bytes.toString('utf8', at + 2, publisherEnd)
    at = publisherEnd
  }
  if (at + 2 > end) return undefined
  const topicEnd = at + 2 + bytes.readUInt16BE(at)
  if (topicEnd > end || topicEnd === at + 2) return undefined
  const topic = topicAt(bytes, at + 2, topicEnd)
  at = topicEnd
  let properties: Buffer | undefined
  if ((flags & flagProperties) !== 0) {
    if (at + 4 > end) return undefined
    const propertiesEnd = at + 4 + bytes.readUInt32BE(at)
    if (propertiesEnd > end) return undefined
    properties = bytes.subarray(at + 4, propertiesEnd)
    at = propertiesEnd
  }
  let user: string | null | undefined
  if ((flags & flagFields) !== 0) {
    const fieldsEnd = at + 4 + (at + 4 > end ? 0 : bytes.readUInt32BE(at))
    if (fieldsEnd > end || needsLater(bytes, at + 4, fieldsEnd)) return 'later'
    user = userIn(bytes, at + 4, fieldsEnd)
    at = fieldsEnd
  }
  return Message.of({
    topic,
    payload: bytes.subarray(at, end),
    qos: qos as 0 | 1 | 2,
    retain: (flags & flagRetain) !== 0,
    properties,
    expiresAt: expiry?.expiresAt ?? 0,
    expirySeconds: expiry?.expirySeconds,
    isWill: publisher !== undefined,
    replay: (flags & flagReplay) !== 0,
    stamp: stamp === 0 ? undefined : stamp,
    by: publisher === undefined ? undefined : { clientId: publisher, ...(user !== undefined && { user }) },
  })
}

/** One message as bytes of its own, no larger than needed. */
export function packMessage(message: Message, clock: Clock): Buffer {
  const packer = new MessagePacker(
    clock,
    81 +
      Buffer.byteLength(message.topic) * 3 +
      (message.by?.clientId?.length ?? 0) * 3 +
      (message.by?.user?.length ?? 0) * 3 +
      (message.properties?.length ?? 0) +
      message.payload.length,
  )
  packer.add(message)
  return packer.take()
}

/**
 * The message of `packMessage`; undefined when the bytes are not one, `later` when a later version wrote what
 * must be understood.
 */
export function unpackMessage(bytes: Buffer, clock: Clock): Message | Later | undefined {
  let found: Message | Later | undefined
  const nothing = (): void => undefined
  const isWhole = unpackMessages(
    bytes,
    clock,
    (message) => {
      found ??= message
    },
    {
      onShared: nothing,
      onGiven: nothing,
      onLook: nothing,
      onBell: nothing,
      onHold: nothing,
      onLater: () => {
        found = 'later'
      },
    },
  )
  return isWhole ? found : undefined
}
