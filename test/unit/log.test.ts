// The log: what a line looks like, that it never waits for its reader and never throws, and how often a
// client is named.
import { Writable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Log } from '../../broker/observe/log.ts'

/** Standard error as a test sees it. */
class Reader extends Writable {
  text = ''
  isTTY: boolean
  #reads = true
  #goOn: (() => void) | undefined

  constructor(isTTY = false) {
    super({ decodeStrings: false })
    this.isTTY = isTTY
  }

  override _write(line: string, _encoding: string, done: () => void): void {
    const take = (): void => {
      this.text += line
      done()
    }
    if (this.#reads) take()
    else this.#goOn = take
  }

  stop(): void {
    this.#reads = false
  }

  resume(): void {
    this.#reads = true
    this.#goOn?.()
  }

  get lines(): Record<string, unknown>[] {
    return this.text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>)
  }
}

const logTo = (stream: Writable, onDropped?: (count: number) => void): Log =>
  new Log({ id: 'a', logLevel: 'info' }, onDropped, stream)

describe('a line', () => {
  test('of an event has its name, level and text; one that a client causes at will is one a minute with a count', async () => {
    const reader = new Reader()
    const log = logTo(reader)
    log.event('node-joined', { nodeId: 'b@1' })
    log.event('client-connected', { clientId: 'not shown' })
    log.event('advice', {}, 'raise it')
    for (let n = 0; n < 3; n++)
      log.eventPerMinute('connection-failed', 'c', { clientId: 'c', reason: `its error ${n}` })
    await log.close()
    expect(reader.lines).toMatchObject([
      { level: 'info', event: 'node-joined', nodeId: 'b@1', msg: 'a node joined' },
      { level: 'warn', event: 'advice', msg: 'raise it' },
      { event: 'connection-failed', clientId: 'c', reason: 'its error 0' },
      { event: 'connection-failed', clientId: 'c', reason: 'its error 2', leftOut: 2 },
    ])
  })

  test('has names as their tenant has them, and whose they are', () => {
    const reader = new Reader()
    const log = logTo(reader)
    log.info({ clientId: 'acme\0x', topic: '$\0acme/a/b', user: 'acme/ann' }, 'denied')
    log.info({ group: '$share/g/$\0acme$/$x', kind: 'client', whom: 'x' }, 'joined')
    expect(reader.lines).toMatchObject([
      { clientId: 'x', topic: 'a/b', user: 'acme/ann', tenant: 'acme' },
      { group: '$share/g/$x', whom: 'x', tenant: 'acme' },
    ])
    expect(reader.text).not.toMatch(/\\u0000/)
  })

  test('is JSON with an ISO time and the name of its level', () => {
    const reader = new Reader()
    const log = logTo(reader)
    log.debug({}, 'not shown')
    log.warn({ error: 'away', count: 3 }, 'redis')
    expect(reader.lines).toEqual([
      {
        level: 'warn',
        time: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/) as string,
        node: 'a',
        error: 'away',
        count: 3,
        msg: 'redis',
      },
    ])
  })

  test('is text at a terminal, where nothing of a client is a command', () => {
    const reader = new Reader(true)
    logTo(reader).info({ clientId: '\u001b[2J\u009b31m\n\u202e', gone: undefined }, 'came')
    expect(reader.text).toMatch(/^\S+Z INFO {2}a: came clientId="\\u001b\[2J\\u009b31m\\n\\u202e"\n$/)
  })

  test('has its message whole: it says at its end what to do', () => {
    const reader = new Reader()
    const message = `${'what is wrong '.repeat(50)}what to do`
    logTo(reader).info({}, message)
    expect(reader.lines[0]).toMatchObject({ msg: message })
  })

  test('has every text cut, wherever it stands', () => {
    const reader = new Reader()
    const long = 'x'.repeat(65_535)
    logTo(reader).info(
      { clientId: long, list: Array(10_000).fill(long), deep: { filter: long }, error: new Error(long) },
      long,
    )
    expect(reader.lines[0]).toMatchObject({
      clientId: `${'x'.repeat(256)}… (65535 characters)`,
      deep: { filter: expect.stringMatching(/^x{256}… /) as string },
    })
    expect(reader.text.length).toBeLessThan(20_000)
  })

  test.each([
    { big: 1n },
    { date: new Date(NaN) },
    {
      nested: {
        get value(): never {
          throw new Error('no')
        },
      },
    },
    Object.fromEntries([['__proto__', '\ud800']]),
  ])('is written whatever the value: %#', (fields) => {
    const reader = new Reader()
    const circle: { self?: unknown } = {}
    circle.self = circle
    logTo(reader).info({ circle }, 'odd')
    logTo(reader).info(fields, 'odd')
    expect(reader.text.match(/\n/g)).toHaveLength(2)
  })
})

describe('nobody reads', () => {
  test('lines are left out beyond 1 MiB, counted, and told when somebody reads again', async () => {
    const reader = new Reader()
    let dropped = 0
    const log = logTo(reader, (count) => {
      dropped += count
    })
    reader.stop()
    for (let n = 0; n < 10_000; n++) log.info({ text: 'x'.repeat(250) }, 'flood')
    expect(reader.writableLength).toBeLessThan(1.1 * 1024 * 1024)
    expect(dropped).toBeGreaterThan(1_000)
    reader.resume()
    await log.close()
    expect(reader.lines.filter(({ msg }) => msg === 'flood')).toHaveLength(10_000 - dropped)
    expect(reader.lines.find(({ count }) => count === dropped)).toMatchObject({
      level: 'warn',
      msg: expect.stringContaining('left out') as string,
    })
  })

  test('the reader is gone, or the disk is full: lines are counted, nothing is thrown', async () => {
    let dropped = 0
    const failing = [
      new Writable({ write: (_chunk, _encoding, done) => done(new Error('EPIPE')) }),
      Object.assign(new Writable(), {
        write: () => {
          throw new Error('ENOSPC')
        },
      }),
    ]
    for (const stream of failing) {
      stream.on('error', () => undefined)
      const log = logTo(stream, (count) => {
        dropped += count
      })
      for (let n = 0; n < 3; n++) log.error({}, 'lost')
      await log.close()
    }
    expect(dropped).toBeGreaterThanOrEqual(6)
  })
})

describe('once a minute', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
  })
  afterEach(() => {
    vi.useRealTimers()
  })

  test('each cause and client has a line, and later one that counts the rest', () => {
    const reader = new Reader()
    const log = logTo(reader)
    const say = (cause: string, client: string): void =>
      log.onceAMinute('info', cause, client, { cause, client }, 'ended')
    for (let n = 0; n < 5; n++) for (const client of ['x', 'y']) say('protocol', client)
    say('timeout', 'x')
    expect(reader.lines.map(({ cause, client }) => `${String(cause)} ${String(client)}`)).toEqual([
      'protocol x',
      'protocol y',
      'timeout x',
    ])
    vi.advanceTimersByTime(59_000)
    expect(reader.lines).toHaveLength(3)
    vi.advanceTimersByTime(1_000)
    expect(reader.lines.slice(3)).toMatchObject([
      { client: 'x', leftOut: 4 },
      { client: 'y', leftOut: 4 },
    ])
    say('protocol', 'x') // its next minute began with the count
    say('timeout', 'x')
    expect(reader.lines.slice(5)).toMatchObject([{ cause: 'timeout' }])
    vi.advanceTimersByTime(60_000)
    expect(reader.lines.slice(6)).toMatchObject([{ cause: 'protocol', leftOut: 1 }])
    vi.advanceTimersByTime(600_000)
    expect(vi.getTimerCount()).toBe(0)
    expect(reader.lines).toHaveLength(7)
  })

  test('a thousand clients at most are told apart, the others are counted together; the end says what was left out', async () => {
    const reader = new Reader()
    const log = logTo(reader)
    for (let n = 0; n < 5_000; n++)
      log.onceAMinute('info', 'protocol', 'x'.repeat(n % 3) + `${n}`, {}, 'ended')
    expect(reader.lines).toHaveLength(1_000)
    log.onceAMinute('info', 'protocol', '0', { client: '0' }, 'ended')
    await log.close()
    expect(reader.lines.slice(1_000)).toMatchObject([{ count: 4_000 }, { client: '0', leftOut: 1 }])
  })
})
