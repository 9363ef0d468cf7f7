// What broker/aedes/engine.ts takes for granted about the insides of Aedes and mqtt-packet, one test per
// assumption, on the real Aedes over in-memory streams. An upgrade that breaks one of them fails here, under
// the name of the assumption, before it fails as a riddle in a cluster. broker/aedes/engine.ts itself is not
// loaded: it would replace what is examined.
import { execFileSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { readFileSync } from 'node:fs'
import { Duplex } from 'node:stream'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { Aedes } from 'aedes'
import mqttPacket, { type Packet } from 'mqtt-packet'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

type Listener = (packet: { topic: string }, done: () => void) => void

interface Client extends NodeJS.EventEmitter {
  id: string
  version: number
  clean: boolean
  receiveMaximum: number
  maximumPacketSize: number | undefined
  connackSent: boolean
  subscriptions: Record<
    string,
    { qos: number; func: Listener; nl?: boolean; rap?: boolean; rh?: number; si?: number }
  >
  _keepaliveTimer: NodeJS.Timeout | null
  _keepaliveInterval: number
  _parsingBatch: number
  _nextBatch: (error?: Error) => void
  _parser: NodeJS.EventEmitter & { parse(bytes: Buffer): number }
  disconnect(options: { reasonCode: number }): void
}

interface Insides extends NodeJS.EventEmitter {
  clients: Record<string, Client>
  brokers: Record<string, unknown>
  mq: {
    on(topic: string, listener: Listener, done?: () => void): void
    removeListener(topic: string, listener: Listener, done?: () => void): void
    emit(packet: object, done?: () => void): void
    close(done: () => void): void
  }
  publish(
    packet: { topic: string; payload: Buffer; properties?: object },
    client: unknown,
    done?: () => void,
  ): void
  handle(stream: Duplex): Client
  listen(): Promise<void>
  close(done: () => void): void
}

/** One end of a connection in memory; what Aedes writes is in `packets`. */
class Line extends Duplex {
  readonly packets: Packet[] = []
  readonly #parser = mqttPacket.parser({ protocolVersion: 5 })
  constructor() {
    super()
    this.#parser.on('packet', (packet) => this.packets.push(packet))
    this.on('error', () => undefined)
  }

  override _read(): void {
    /* push() is called from outside */
  }
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.#parser.parse(chunk)
    done()
  }
}

const bytes = (packet: Packet): Buffer => mqttPacket.generate(packet, { protocolVersion: 5 })
const connectBytes = (more: object = {}): Buffer =>
  bytes({
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: 5,
    clean: true,
    clientId: 'c',
    keepalive: 10,
    ...more,
  })
const subscribeBytes = (topic: string, qos: 0 | 1 | 2 = 0, messageId = 1): Buffer =>
  bytes({
    cmd: 'subscribe',
    messageId,
    subscriptions: [{ topic, qos, nl: true, rap: true, rh: 1 }],
    properties: { subscriptionIdentifier: 5 },
  })

let aedes: Insides
beforeEach(async () => {
  aedes = new Aedes({ id: 'n' }) as unknown as Insides
  await aedes.listen()
})
afterEach(
  () =>
    new Promise<void>((resolve) => {
      aedes.close(resolve)
    }),
)

/**
 * A connection as engine.ts makes one: fed through `_parser`, no 'readable' listener, `_nextBatch` that reads
 * nothing.
 */
function handle(line = new Line()): { line: Line; client: Client } {
  const client = aedes.handle(line)
  line.removeAllListeners('readable')
  client._parsingBatch = 0
  client._nextBatch = (error) => {
    client._parsingBatch = 0
    if (error !== undefined && error !== null) client.emit('error', error)
  }
  return { line, client }
}

async function connected(more: object = {}): Promise<{ line: Line; client: Client }> {
  const both = handle()
  const ready = new Promise<void>((resolve) => {
    both.client.once('connected', resolve)
  })
  both.client._parser.parse(connectBytes(more))
  await ready
  return both
}

const commands = (line: Line): string[] => line.packets.map(({ cmd }) => cmd ?? '')

describe('packages', () => {
  test('aedes is pinned to 2.0.0-beta.1, and that is what is installed', () => {
    const version = (file: string): string =>
      (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version
    const { dependencies } = JSON.parse(readFileSync('package.json', 'utf8')) as {
      dependencies: Record<string, string>
    }
    expect([dependencies.aedes, version('node_modules/aedes/package.json')]).toEqual([
      '2.0.0-beta.1',
      '2.0.0-beta.1',
    ])
  })

  test('Aedes and we load one and the same copy of mqtt-packet', () => {
    const here = createRequire(import.meta.url)
    const there = createRequire(here.resolve('aedes'))
    expect(there.resolve('mqtt-packet')).toBe(here.resolve('mqtt-packet'))
    const all = execFileSync(
      'find',
      ['node_modules', '-path', '*/mqtt-packet/package.json', '-not', '-path', '*/test/*'],
      { encoding: 'utf8' },
    )
      .trim()
      .split('\n')
    expect(all).toEqual(['node_modules/mqtt-packet/package.json'])
  })

  test('everything that Aedes writes goes through the property mqttPacket.writeToStream, with the connection as its stream', async () => {
    const write = vi.spyOn(mqttPacket, 'writeToStream')
    try {
      const { line, client } = await connected()
      client._parser.parse(subscribeBytes('a'))
      await vi.waitFor(() => expect(commands(line)).toEqual(['connack', 'suback']))
      client._parser.parse(bytes({ cmd: 'pingreq' }))
      await vi.waitFor(() => expect(commands(line)).toEqual(['connack', 'suback', 'pingresp']))
      expect(
        write.mock.calls.filter(([, stream]) => (stream as unknown) === line).map(([packet]) => packet.cmd),
      ).toEqual(['connack', 'suback', 'pingresp'])
      expect(write.mock.calls.map(([, , options]) => options)).toEqual(
        [1, 2, 3].map(() => ({ protocolVersion: 5 })),
      )
    } finally {
      write.mockRestore()
    }
  })

  test('mqttPacket.generate does not go through that property: we encode with it while we stand in for it', () => {
    const write = vi.spyOn(mqttPacket, 'writeToStream')
    try {
      bytes({ cmd: 'pingresp' })
      expect(write).not.toHaveBeenCalled()
    } finally {
      write.mockRestore()
    }
  })

  test('a write that returns true is done: Aedes does not wait for drain', async () => {
    const write = vi.spyOn(mqttPacket, 'writeToStream').mockReturnValue(true)
    try {
      const { line, client } = await connected()
      client._parser.parse(bytes({ cmd: 'pingreq' }))
      await vi.waitFor(() => expect(write).toHaveBeenCalledTimes(2))
      expect([commands(line), line.listenerCount('drain')]).toEqual([[], 0])
    } finally {
      write.mockRestore()
    }
  })
})

describe('inbound', () => {
  test("handle() attaches exactly one 'readable' listener, and nothing is read without it", async () => {
    const line = new Line()
    const client = aedes.handle(line)
    expect(line.listenerCount('readable')).toBe(1)
    expect(line.listenerCount('data')).toBe(0)
    line.removeAllListeners('readable')
    const parsed = vi.fn()
    client._parser.on('packet', parsed)
    const data: Buffer[] = []
    line.on('data', (chunk: Buffer) => data.push(chunk))
    line.push(connectBytes())
    await nextTurn()
    await nextTurn()
    expect(Buffer.concat(data)).toEqual(connectBytes()) // all of it is ours
    expect(parsed).not.toHaveBeenCalled()
    line.destroy()
  })

  test('_parsingBatch is 1 at first and counts up per packet; the first packet is handled when it was 0 before', async () => {
    const line = new Line()
    const client = aedes.handle(line)
    expect([client._parsingBatch, typeof client._nextBatch]).toEqual([1, 'function'])
    line.destroy()
    const { client: ours } = await connected() // with _parsingBatch 0: CONNECT was handled, not queued
    expect(ours.connackSent).toBe(true)
  })

  test('_nextBatch is looked up for each packet, and called once when the packet is done', async () => {
    const { client } = await connected()
    const next = vi.fn()
    client._nextBatch = next
    client._parser.parse(bytes({ cmd: 'pingreq' }))
    expect(next).not.toHaveBeenCalled()
    await vi.waitFor(() => expect(next).toHaveBeenCalledTimes(1))
    expect(next.mock.calls[0]![0] ?? undefined).toBeUndefined()
  })

  test("_parser.parse(bytes) emits 'packet' to Aedes' handler at once, one per whole packet, and keeps nothing", async () => {
    const { line, client } = await connected()
    const seen: string[] = []
    client._parser.on('packet', ({ cmd }: Packet) => seen.push(cmd ?? ''))
    expect(client._parser.parse(bytes({ cmd: 'pingreq' }))).toBe(0)
    expect(client._parser.parse(subscribeBytes('a'))).toBe(0)
    expect(seen).toEqual(['pingreq', 'subscribe'])
    await vi.waitFor(() => expect(commands(line).sort()).toEqual(['connack', 'pingresp', 'suback']))
  })

  test('packets behind one that is not done yet are handled too: none is lost for want of _nextBatch', async () => {
    const { line, client } = await connected()
    for (let n = 1; n <= 100; n++) client._parser.parse(subscribeBytes(`t/${n}`, 0, n))
    await vi.waitFor(() => expect(line.packets.filter(({ cmd }) => cmd === 'suback')).toHaveLength(100))
  })

  test('_keepaliveTimer can be refreshed; _keepaliveInterval is 1.5 times Keep Alive in ms, and not positive without one', async () => {
    const { client } = await connected({ keepalive: 10 })
    expect(client._keepaliveTimer!.refresh()).toBe(client._keepaliveTimer)
    expect(client._keepaliveInterval).toBe(15_001)
    const { client: without } = await connected({ clientId: 'without', keepalive: 0 })
    expect(without._keepaliveTimer).toBeNull()
    expect(without._keepaliveInterval).toBeLessThanOrEqual(0)
  })

  test('refresh() of _keepaliveTimer does put the keep alive timeout off', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    try {
      const { line, client } = await connected({ keepalive: 1 })
      for (let n = 0; n < 5; n++) {
        vi.advanceTimersByTime(1_400)
        client._keepaliveTimer!.refresh()
      }
      expect(line.destroyed).toBe(false)
      vi.advanceTimersByTime(1_600)
      expect(line.destroyed).toBe(true)
    } finally {
      vi.useRealTimers()
    }
  })
})

describe('subscriptions', () => {
  test('client.subscriptions is an own property that may be replaced right behind handle(), and Aedes notes in it', async () => {
    const both = handle()
    expect(Object.hasOwn(both.client, 'subscriptions')).toBe(true)
    const own = Object.create(null) as Client['subscriptions']
    both.client.subscriptions = own
    both.client._parser.parse(connectBytes())
    await vi.waitFor(() => expect(commands(both.line)).toEqual(['connack']))
    both.client._parser.parse(subscribeBytes('a/b', 2))
    await vi.waitFor(() => expect(commands(both.line)).toEqual(['connack', 'suback']))
    expect(both.client.subscriptions).toBe(own)
    expect(own['a/b']).toMatchObject({ qos: 2, nl: true, rap: true, rh: 1, si: 5 })
  })

  test.each(['a/b', '#', '+/x', '$SYS/y'])(
    'mq.on(%s) is called with the very function just noted in client.subscriptions, and SUBACK waits for its done',
    async (filter) => {
      const { line, client } = await connected()
      const on = vi.spyOn(aedes.mq, 'on').mockImplementation(() => undefined)
      client._parser.parse(subscribeBytes(filter))
      await vi.waitFor(() => expect(on).toHaveBeenCalledTimes(1))
      const [topic, func, done] = on.mock.calls[0]!
      expect([topic, func === client.subscriptions[filter]!.func]).toEqual([filter, true])
      await nextTurn()
      await nextTurn()
      expect(commands(line)).toEqual(['connack'])
      done!()
      await vi.waitFor(() => expect(commands(line)).toEqual(['connack', 'suback']))
    },
  )

  test('a changed subscription to a filter: noted with its new function, then removeListener(old), then on(new)', async () => {
    const { line, client } = await connected()
    client._parser.parse(subscribeBytes('a', 0))
    await vi.waitFor(() => expect(commands(line)).toEqual(['connack', 'suback']))
    const old = client.subscriptions.a!.func
    const calls: string[] = []
    const name = (listener: Listener): string =>
      listener === old ? 'old' : listener === client.subscriptions.a!.func ? 'noted' : 'unknown'
    vi.spyOn(aedes.mq, 'removeListener').mockImplementation((_topic, listener, done) => {
      calls.push(`remove ${name(listener)}`)
      done?.()
    })
    vi.spyOn(aedes.mq, 'on').mockImplementation((_topic, listener, done) => {
      calls.push(`on ${name(listener)}`)
      done?.()
    })
    client._parser.parse(subscribeBytes('a', 1))
    await vi.waitFor(() => expect(commands(line)).toEqual(['connack', 'suback', 'suback']))
    expect(calls).toEqual(['remove old', 'on noted'])
  })

  test('UNSUBSCRIBE and the end of a connection call removeListener with the noted function, which is still noted then', async () => {
    const { line, client } = await connected()
    const removed: boolean[] = []
    const remove = aedes.mq.removeListener.bind(aedes.mq)
    vi.spyOn(aedes.mq, 'removeListener').mockImplementation((topic, listener, done) => {
      removed.push(client.subscriptions[topic]?.func === listener)
      remove(topic, listener, done)
    })
    for (const filter of ['a', 'b', 'c']) client._parser.parse(subscribeBytes(filter))
    await vi.waitFor(() => expect(line.packets).toHaveLength(4))
    client._parser.parse(bytes({ cmd: 'unsubscribe', messageId: 9, unsubscriptions: ['a'] }))
    await vi.waitFor(() => expect(commands(line).at(-1)).toBe('unsuback'))
    expect(removed).toEqual([true])
    line.destroy()
    await vi.waitFor(() => expect(removed).toEqual([true, true, true]))
  })

  test("'subscribe' is emitted once SUBACK was handed over, with the filters as `topic`", async () => {
    const { line, client } = await connected()
    const write = vi.spyOn(mqttPacket, 'writeToStream')
    const seen = new Promise<{ before: string[]; topics: string[] }>((resolve) => {
      aedes.once('subscribe', (subscriptions: { topic: string }[], from: Client) => {
        expect(from).toBe(client)
        resolve({
          before: write.mock.calls
            .filter(([, stream]) => (stream as unknown) === line)
            .map(([packet]) => packet.cmd ?? ''),
          topics: subscriptions.map(({ topic }) => topic),
        })
      })
    })
    client._parser.parse(subscribeBytes('a/#'))
    try {
      expect(await seen).toEqual({ before: ['suback'], topics: ['a/#'] })
    } finally {
      write.mockRestore()
    }
  })
})

describe('the life of a connection', () => {
  test("'connected' is emitted once, behind CONNACK, when version, clean, receiveMaximum and maximumPacketSize are known", async () => {
    const both = handle()
    const before: string[][] = []
    both.client.on('connected', () => before.push(commands(both.line)))
    both.client._parser.parse(
      connectBytes({ properties: { sessionExpiryInterval: 5, receiveMaximum: 7, maximumPacketSize: 99 } }),
    )
    await vi.waitFor(() => expect(before).toHaveLength(1))
    expect(before).toEqual([['connack']])
    expect(both.client).toMatchObject({
      id: 'c',
      version: 5,
      clean: false,
      receiveMaximum: 7,
      maximumPacketSize: 99,
    })
  })

  test('clients and brokers may be objects without prototype: a client named __proto__ is kept there and found', async () => {
    aedes.clients = Object.create(null) as Record<string, Client>
    aedes.brokers = Object.create(null) as Record<string, unknown>
    const { client } = await connected({ clientId: '__proto__' })
    expect(Object.keys(aedes.clients)).toEqual(['__proto__'])
    expect(aedes.clients['__proto__']).toBe(client)
    const closed = new Promise((resolve) => {
      aedes.once('clientDisconnect', resolve)
    })
    client.disconnect({ reasonCode: 0 })
    await closed
    expect(Object.keys(aedes.clients)).toEqual([])
  })

  test('publish is looked up on the instance: $SYS and wills go through what we put there', async () => {
    const topics: string[] = []
    aedes.publish = (packet, client, done) => {
      topics.push(packet.topic)
      if (packet.topic === 'will')
        expect(packet).toMatchObject({ payload: Buffer.from('gone'), properties: { contentType: 'c' } })
      const then = typeof client === 'function' ? (client as () => void) : done
      then?.()
    }
    const { line } = await connected({
      will: {
        topic: 'will',
        payload: Buffer.from('gone'),
        qos: 1,
        retain: false,
        properties: { contentType: 'c' },
      },
    })
    expect(topics).toEqual(['$SYS/n/new/clients'])
    line.destroy()
    await vi.waitFor(() =>
      expect(topics).toEqual(['$SYS/n/new/clients', 'will', '$SYS/n/disconnect/clients']),
    )
  })

  test('disconnect({ reasonCode }) writes DISCONNECT with it to an MQTT 5 client, then destroys the stream', async () => {
    const { line, client } = await connected()
    client.disconnect({ reasonCode: 0x97 })
    await vi.waitFor(() => expect(line.destroyed).toBe(true))
    expect(line.packets.at(-1)).toMatchObject({ cmd: 'disconnect', reasonCode: 0x97 })
  })

  test('what is written when disconnect() is called has one turn until the stream is destroyed: the outbox is flushed in it', async () => {
    const { line, client } = await connected()
    let flushed = false
    vi.spyOn(mqttPacket, 'writeToStream').mockImplementationOnce(() => {
      setImmediate(() => {
        flushed = !line.destroyed
      })
      return true
    })
    client.disconnect({ reasonCode: 0x97 })
    await vi.waitFor(() => expect(line.destroyed).toBe(true))
    expect(flushed).toBe(true)
  })

  test('disconnect() before CONNECT, and of an MQTT 3.1.1 client, closes without a packet', async () => {
    const early = handle()
    early.client.disconnect({ reasonCode: 0x81 })
    expect(early.line.destroyed).toBe(true)
    const { line, client } = await connected({ protocolVersion: 4, properties: undefined })
    client.disconnect({ reasonCode: 0x81 })
    await vi.waitFor(() => expect(line.destroyed).toBe(true))
    expect([early.line.packets, commands(line)]).toEqual([[], ['connack']])
  })

  test("an 'error' emitted on a client ends its connection and is told as 'clientError', 'connectionError' before CONNECT", async () => {
    const told: string[] = []
    for (const event of ['clientError', 'connectionError'])
      aedes.on(event, (_client, error: Error) => told.push(`${event} ${error.message}`))
    const { line, client } = await connected()
    client.emit('error', new Error('of ours'))
    const early = handle()
    early.client.emit('error', new Error('early'))
    await vi.waitFor(() => expect([line.destroyed, early.line.destroyed]).toEqual([true, true]))
    expect(told).toEqual(['clientError of ours', 'connectionError early'])
  })

  test('a stream that closes ends its client: clientDisconnect follows, once', async () => {
    const gone = vi.fn()
    aedes.on('clientDisconnect', gone)
    const { line } = await connected()
    line.destroy()
    await vi.waitFor(() => expect(gone).toHaveBeenCalledTimes(1))
    expect(aedes.clients.c).toBeUndefined()
  })
})
