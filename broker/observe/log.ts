// The log: a line for each event, on standard error, so that standard output stays free for what a command
// answers. A terminal gets text, everything else JSON. Texts may come from clients: each is cut, and control
// characters are written as escapes. Logging never throws and never waits (log-output.ts).
import { ownFilter, ownName, tenantOf, tenantOfName } from '../../bridge/index.ts'
import type { Config } from '../config/config.ts'
import { logEvents, type FieldsOf, type LogEventName, type PerMinuteName } from './log-events.ts'
import { LogOutput, standardError } from './log-output.ts'
import { OnceAMinute } from './once-a-minute.ts'

const levels = ['debug', 'info', 'warn', 'error', 'silent'] as const
export type LogLevel = Exclude<(typeof levels)[number], 'silent'>
/** Keys are ours; values may come from anywhere. */
export type LogFields = Readonly<Record<string, unknown>>

/** Longest text of a field, in characters. */
const textMax = 256
/** Longest message: it is ours, but may quote. */
const messageMax = 1_024
const itemsMax = 50
/** How long the end of a node waits for the reader of its log. */
const flushMs = 200

export class Log {
  readonly #node: string
  readonly #config: Pick<Config, 'id' | 'logLevel'>
  readonly #output: LogOutput
  readonly #asText: boolean
  readonly #onceAMinute: OnceAMinute

  /** `onDropped` is told of lines that nobody could be given. */
  constructor(
    config: Pick<Config, 'id' | 'logLevel'>,
    onDropped: (count: number) => void = () => undefined,
    stream = standardError(),
  ) {
    this.#node = config.id
    this.#config = config
    this.#asText = 'isTTY' in stream && stream.isTTY === true
    this.#output = new LogOutput(
      stream,
      (count) => this.#line('warn', { event: 'lines-dropped', count }, logEvents['lines-dropped'].message),
      onDropped,
    )
    this.#onceAMinute = new OnceAMinute((count) => this.event('events-dropped', { count }))
  }

  /** @param message in place of the event's own, which says what stands there */
  event<Name extends LogEventName>(name: Name, fields: FieldsOf<Name>, message?: string): void {
    const { level, message: own } = logEvents[name]
    this.#write(level, { event: name, ...(fields as LogFields) }, message ?? own)
  }

  /** @param of which client, address or cause it is: each has its minute */
  eventPerMinute<Name extends PerMinuteName>(
    name: Name,
    of: string,
    fields: FieldsOf<Name>,
    message?: string,
  ): void {
    const { level, message: own } = logEvents[name]
    this.onceAMinute(level, name, of, { event: name, ...(fields as LogFields) }, message ?? own)
  }

  debug(fields: LogFields, message: string): void {
    this.#write('debug', fields, message)
  }

  info(fields: LogFields, message: string): void {
    this.#write('info', fields, message)
  }

  warn(fields: LogFields, message: string): void {
    this.#write('warn', fields, message)
  }

  error(fields: LogFields, message: string): void {
    this.#write('error', fields, message)
  }

  /**
   * For what clients can cause as often as they like: at most a line a minute for each cause and client. The
   * next one says how many were left out. `client` is an identifier or an address, as it is told apart.
   */
  onceAMinute(level: LogLevel, cause: string, client: string, fields: LogFields, message: string): void {
    if (!this.#has(level)) return
    this.#onceAMinute.say(`${cut(cause, textMax)}\0${cut(client, textMax)}`, (leftOut) => {
      this.#write(level, leftOut === 0 ? fields : { ...fields, leftOut }, message)
    })
  }

  #has(level: LogLevel): boolean {
    return levels.indexOf(level) >= levels.indexOf(this.#config.logLevel)
  }

  #write(level: LogLevel, fields: LogFields, message: string): void {
    if (this.#has(level)) this.#output.write(this.#line(level, fields, message))
  }

  #line(level: LogLevel, given: LogFields, message: string): string {
    const fields = ofTenant(given)
    const time = new Date().toISOString()
    const msg = cut(message, messageMax)
    if (!this.#asText) return `${json({ level, time, node: this.#node, ...fields, msg })}\n`
    const shown = Object.entries(fields).map(([name, value]) =>
      value === undefined ? '' : ` ${name}=${json(value)}`,
    )
    return `${time} ${level.toUpperCase().padEnd(5)} ${this.#node}: ${escape(msg)}${shown.join('')}\n`
  }

  /** The end: says what was left out so far, and waits a moment for the reader. */
  async close(): Promise<void> {
    this.#onceAMinute.close()
    await this.#output.flush(flushMs)
  }
}

/** Names in a tenant stand as the tenant has them, and beside them its own name. */
function ofTenant(fields: LogFields): LogFields {
  const isOne = (value: unknown): value is string => typeof value === 'string' && value.includes('\0')
  if (!Object.values(fields).some(isOne)) return fields
  let tenant: string | undefined
  const own = Object.entries(fields).map(([key, value]) => {
    if (!isOne(value)) return [key, value]
    const ofTopic = tenantOf(value)
    tenant ??= ofTopic ?? tenantOfName(value)
    return [key, ofTopic === undefined ? ownName(value) : ownFilter(value)]
  })
  return { ...(Object.fromEntries(own) as LogFields), tenant }
}

const cut = (text: string, max: number): string =>
  text.length <= max ? text : `${text.slice(0, max)}… (${text.length} characters)`

/**
 * What a terminal would take for a command or not show: C0 and C1 controls, what turns the direction of
 * writing.
 */
const escape = (text: string): string =>
  text.replaceAll(
    /[\0-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )

/** JSON with every text cut. Never throws, whatever the value. */
function json(value: unknown): string {
  try {
    return escape(JSON.stringify(value, short) ?? 'null')
  } catch {
    return '"(cannot be written)"'
  }
}

function short(key: string, value: unknown): unknown {
  if (typeof value === 'string') return cut(value, key === 'msg' ? messageMax : textMax)
  if (typeof value === 'bigint') return String(value)
  if (value instanceof Error) return cut(value.message, textMax)
  return Array.isArray(value) && value.length > itemsMax
    ? [...(value.slice(0, itemsMax) as unknown[]), `… (${value.length} items)`]
    : value
}
