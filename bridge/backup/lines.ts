// A backup as lines of JSON, one thing a line: a head, which says what it is, then users, rules, bans, Retained Messages,
// sessions, groups, and an end, which has the number of the lines before it and their SHA-256. What belongs to a session (in
// flight, queued, its will) or to a group (its backlog) follows it, in order. It names no key and no identifier of the
// store, so that it is read into any store, by any version that knows the version of the head. Time stands still in it:
// what had ten minutes left has ten minutes left from its restore on, and no clock is compared with another. No state.
import { isUtf8 } from 'node:buffer'
import { createHash } from 'node:crypto'
import { BridgeError } from '../errors.ts'
import { Message, secondsLeft } from '../messages/message.ts'

export const backupVersion = 1
const format = 'aedes-cluster backup'

/** A message as JSON. */
export interface StoredMessage {
  readonly topic: string
  readonly qos: 0 | 1 | 2
  readonly retain?: true
  readonly payload: string
  readonly encoding?: 'base64'
  /** PUBLISH properties of MQTT 5, base64. */
  readonly properties?: string
  /** What is left until it expires, and its interval as it was published. */
  readonly expiresInMs?: number
  readonly expirySeconds?: number
  /** Of a will: whose. */
  readonly willOf?: string
  /** Of a will, by whom rules are asked when it is published; null: a client without user; none: they are not. */
  readonly willUser?: string | null
  /** A Retained Message because of a SUBSCRIBE. */
  readonly replay?: true
}

export type Line =
  | { readonly kind: 'user'; readonly name: string; readonly kept: string }
  | { readonly kind: 'rules'; readonly text: string }
  | {
      readonly kind: 'ban'
      readonly of: 'client' | 'user' | 'network'
      readonly name: string
      readonly reason: string
      readonly secondsLeft?: number
    }
  | { readonly kind: 'retained'; readonly message: StoredMessage }
  | {
      readonly kind: 'session'
      readonly client: string
      readonly user?: string
      /** -1: for ever. */
      readonly expirySeconds: number
      /** Whether its client was connected, and else what is left of it. */
      readonly isConnected: boolean
      readonly endsInMs?: number
      /** Filter, options, and Subscription Identifier (0: none). */
      readonly subscriptions: readonly (readonly [filter: string, options: number, identifier: number])[]
      /** Packet Identifiers of QoS 2 publishes that PUBREC was sent for, and no PUBREL came. */
      readonly received: readonly number[]
    }
  /** Without a message: PUBREC came. */
  | { readonly kind: 'inflight'; readonly id: number; readonly message?: StoredMessage }
  | { readonly kind: 'queued'; readonly message: StoredMessage }
  /** It waits for its Will Delay Interval. */
  | { readonly kind: 'will'; readonly message: StoredMessage; readonly dueInMs: number }
  | { readonly kind: 'group'; readonly group: string }
  | { readonly kind: 'backlog'; readonly message: StoredMessage }

interface Head {
  readonly kind: 'head'
  readonly format: string
  readonly version: number
  /** Of aedes-cluster, and when by the clock of the machine: for whoever reads it. */
  readonly by: string
  readonly at: string
}

interface End {
  readonly kind: 'end'
  readonly lines: number
  readonly sha256: string
}

export function storedMessage(message: Message): StoredMessage {
  const { topic, qos, retain, payload, properties, expiresAt, expirySeconds, isWill, replay, by } = message
  const isText = isUtf8(payload)
  return {
    topic,
    qos,
    ...(retain && { retain: true as const }),
    payload: payload.toString(isText ? 'utf8' : 'base64'),
    ...(!isText && { encoding: 'base64' as const }),
    ...(properties !== undefined && { properties: properties.toString('base64') }),
    ...(expiresAt !== 0 && { expiresInMs: Math.max(0, Math.round(expiresAt - performance.now())) }),
    ...((expiresAt !== 0 || expirySeconds !== undefined) && {
      expirySeconds: expirySeconds ?? secondsLeft(expiresAt),
    }),
    ...(isWill && { willOf: by?.clientId ?? '' }),
    ...(isWill && by?.user !== undefined && { willUser: by.user }),
    ...(replay && { replay: true as const }),
  }
}

export function messageOf(stored: StoredMessage): Message {
  const { topic, qos, retain = false, payload, encoding = 'utf8', properties, expiresInMs, willOf } = stored
  return Message.of({
    topic,
    qos,
    retain,
    payload: Buffer.from(payload, encoding),
    properties: properties === undefined ? undefined : Buffer.from(properties, 'base64'),
    expiresAt: expiresInMs === undefined ? 0 : performance.now() + expiresInMs,
    expirySeconds: stored.expirySeconds,
    isWill: willOf !== undefined,
    replay: stored.replay === true,
    stamp: undefined,
    by: willOf === undefined ? undefined : { clientId: willOf, user: stored.willUser },
  })
}

/** One line, also for readers that take these two separators of JavaScript for ends of lines. */
const textOf = (line: object): string =>
  `${JSON.stringify(line).replaceAll('\u2028', '\\u2028').replaceAll('\u2029', '\\u2029')}\n`

/** Lines as they go into a file. */
export async function* written(lines: AsyncIterable<Line>, by: string): AsyncGenerator<string> {
  const hash = createHash('sha256')
  let count = 0
  const of = (line: object): string => {
    const text = textOf(line)
    hash.update(text)
    count++
    return text
  }
  yield of({ kind: 'head', format, version: backupVersion, by, at: new Date().toISOString() } satisfies Head)
  for await (const line of lines) yield of(line)
  yield textOf({ kind: 'end', lines: count, sha256: hash.digest('hex') } satisfies End)
}

const broken = (problem: string): BridgeError => new BridgeError('ERR_BRIDGE_BACKUP', problem)

/**
 * Lines as a file has them, without head and end, as they are read.
 * @throws BridgeError ERR_BRIDGE_BACKUP when it is none, of a later version, damaged, or not whole: known at its end alone
 */
export async function* readLines(texts: AsyncIterable<string>): AsyncGenerator<Line> {
  const hash = createHash('sha256')
  let count = 0
  let end: End | undefined
  for await (const text of texts) {
    if (end !== undefined) throw broken('something stands behind its end')
    let line: Line | Head | End | null
    try {
      line = JSON.parse(text) as typeof line
    } catch {
      throw broken(`line ${count + 1} is no JSON`)
    }
    if (line === null) throw broken(`line ${count + 1} is nothing`)
    if (line.kind === 'session' && !Array.isArray(line.subscriptions))
      throw broken(`line ${count + 1} is a session without subscriptions`)
    if (count === 0) {
      if (line.kind !== 'head' || line.format !== format) throw broken('it is no backup of aedes-cluster')
      if (line.version !== backupVersion)
        throw broken(`it is of version ${line.version}, this one reads version ${backupVersion}`)
    } else if (line.kind === 'end') {
      end = line
      continue
    }
    hash.update(`${text}\n`)
    count++
    if (line.kind !== 'head') yield line
  }
  if (end === undefined) throw broken('it has no end: it was cut off, or whoever wrote it was ended')
  if (end.lines !== count || end.sha256 !== hash.digest('hex'))
    throw broken('it is not what was written: lines are missing, or others')
}
