// What broker/aedes/aedes-client.ts takes for granted about the insides of Aedes: that a client lives without the
// parts which are taken from it, with a stream that it cannot listen to. One test per assumption, on the real
// Aedes, like engine.test.ts.
import type { EventEmitter } from 'node:events'
import { Duplex } from 'node:stream'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { Aedes } from 'aedes'
import mqttPacket, { type Packet } from 'mqtt-packet'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import {
  AedesStream,
  strip,
  Trap,
  type AedesClient,
  type AedesSubscription,
  type Noted,
} from '../../broker/aedes/aedes-client.ts'
import type { Connection } from '../../broker/connection/connection.ts'

type Enqueue = (this: { client: AedesClient }, packet: Packet) => void
interface Insides extends EventEmitter {
  clients: Record<string, AedesClient>
  mq: {
    on(topic: string, listener: unknown, done?: () => void): void
    removeListener(topic: string, listener: unknown, done?: () => void): void
  }
  handle(stream: AedesStream): AedesClient
  listen(): Promise<void>
  close(done: () => void): void
}

let aedes: Insides
let written: string[]
beforeEach(async () => {
  written = []
  vi.spyOn(mqttPacket, 'writeToStream').mockImplementation((packet: Packet) => {
    written.push(packet.cmd ?? '')
    return packet.cmd !== 'connack'
  })
  aedes = new Aedes({ id: 'n' }) as unknown as Insides
  await aedes.listen()
})
afterEach(() => {
  vi.restoreAllMocks()
  return new Promise<void>((resolve) => {
    aedes.close(resolve)
  })
})

/** A connection as engine.ts makes one. */
function handle() {
  const line = new Duplex({
    read() {
      /* nothing comes */
    },
    write(_chunk, _encoding, done) {
      done()
    },
  })
  const onConnected = vi.fn()
  const connection = {
    connected: onConnected,
    destroy: () => {
      line.destroy()
    },
  } as unknown as Connection
  const joint = (connection.client = new AedesStream(line, connection, {
    onConnect: vi.fn(),
    onSubscribe: vi.fn(),
  }))
  const client = aedes.handle(joint)
  const listeners = (client._parser as EventEmitter).listeners('packet') as Enqueue[]
  strip(client)
  const send = (packet: object): void => {
    listeners[0]!.call({ client }, packet as Packet)
  }
  return { line, connection, onConnected, client, listeners, send }
}

const connect = {
  cmd: 'connect',
  protocolId: 'MQTT',
  protocolVersion: 5,
  clean: true,
  clientId: 'c',
  keepalive: 10,
  length: 13,
}
const subscribe = (topic: string, qos = 0): object => ({
  cmd: 'subscribe',
  messageId: 1,
  length: 8,
  subscriptions: [{ topic, qos, nl: false, rap: false, rh: 0 }],
})

async function connected() {
  const both = handle()
  both.send(connect)
  await vi.waitFor(() => expect(both.client.connected).toBe(true))
  return both
}

test('Aedes hangs nothing on a stream that is not told to, takes it for a living one, and leaves it alone', async () => {
  const { line, client } = handle()
  for (let turn = 0; turn < 5; turn++) await nextTurn()
  expect(line.eventNames()).toEqual([])
  expect([client.closed, line.destroyed]).toEqual([false, false])
})

test("one listener takes a parser's packets; of `this` it wants the client alone, and it takes _nextBatch along", async () => {
  const { client, listeners, send } = handle()
  expect(listeners).toHaveLength(1)
  const next = vi.fn()
  client._nextBatch = next
  send(connect)
  client._nextBatch = () => undefined
  await vi.waitFor(() => expect(client.connected).toBe(true))
  send({ cmd: 'pingreq', length: 0 })
  await vi.waitFor(() => expect(written).toEqual(['connack', 'pingresp']))
})

test('a CONNACK whose write returns false ends in waitForDrain, at once, with the client registered; nothing follows of itself', async () => {
  const { client, onConnected, send } = handle()
  const wait = vi.fn()
  client.waitForDrain = wait
  const ready = vi.fn()
  client.on('connected', ready)
  send(connect)
  await vi.waitFor(() => expect(wait).toHaveBeenCalledTimes(1))
  for (let turn = 0; turn < 5; turn++) await nextTurn()
  expect([client.connecting, client.connected, client.connackSent, aedes.clients.c === client]).toEqual([
    true,
    false,
    false,
    true,
  ])
  expect(ready).not.toHaveBeenCalled()
  expect(onConnected).not.toHaveBeenCalled()
})

test('with what follows done for it the client is as connected as any other: PINGREQ, SUBSCRIBE, UNSUBSCRIBE, DISCONNECT', async () => {
  const { client, onConnected, line, send } = await connected()
  expect(onConnected).toHaveBeenCalledTimes(1)
  const gone = vi.fn()
  aedes.on('clientDisconnect', gone)
  send({ cmd: 'pingreq', length: 0 })
  send(subscribe('a/+', 1))
  await vi.waitFor(() => expect(written).toEqual(['connack', 'pingresp', 'suback']))
  send({ cmd: 'unsubscribe', messageId: 2, length: 8, unsubscriptions: ['a/+'] })
  await vi.waitFor(() => expect(written.at(-1)).toBe('unsuback'))
  send({ cmd: 'disconnect', length: 0 })
  expect(line.destroyed).toBe(true)
  client.close() // engine.ts: the stream closed
  await vi.waitFor(() => expect(gone).toHaveBeenCalledTimes(1))
  expect(aedes.clients.c).toBeUndefined()
})

test('close() destroys the stream, also before CONNECT and twice, without anything that was taken from the client', () => {
  const { client, line } = handle()
  client.close()
  client.close()
  expect([client.closed, line.destroyed]).toEqual([true, true])
})

test("an 'error' of the client destroys the stream, which tells of none itself", async () => {
  const { client, line } = await connected()
  const told = vi.fn()
  aedes.on('clientError', told)
  const error = vi.fn()
  line.on('error', error)
  client.emit('error', new Error('of ours'))
  await nextTurn()
  expect([line.destroyed, told.mock.calls.length, error.mock.calls.length]).toEqual([true, 1, 0])
})

test('a subscription is noted and registered in one turn with the same function; unregistered is what stands in its place', async () => {
  const { client, connection, send } = await connected()
  let noted: Noted | undefined
  client.subscriptions = new Proxy(
    Object.create(null) as Record<string, AedesSubscription>,
    new Trap(client.conn, (what) => {
      noted = what
    }),
  )
  const calls: string[] = []
  vi.spyOn(aedes.mq, 'on').mockImplementation((topic, listener, done) => {
    calls.push(`on ${topic} ${noted?.filter === topic && noted.listener === listener}`)
    noted = undefined
    done?.()
  })
  vi.spyOn(aedes.mq, 'removeListener').mockImplementation((topic, listener, done) => {
    calls.push(
      `remove ${topic} ${listener === connection} ${noted === undefined ? 'the only one' : 'the one before'}`,
    )
    done?.()
  })
  send(subscribe('a'))
  send(subscribe('a', 1))
  send(subscribe('b'))
  await vi.waitFor(() => expect(written).toHaveLength(4))
  send({ cmd: 'unsubscribe', messageId: 2, length: 8, unsubscriptions: ['a'] })
  await vi.waitFor(() =>
    expect(calls).toEqual([
      'on a true',
      'remove a true the one before',
      'on a true',
      'on b true',
      'remove a true the only one',
    ]),
  )
  expect(client.subscriptions.a ?? undefined).toBeUndefined()
})

test('a client that is closed says so before its filters are looked at: Aedes takes none out, however many they are', async () => {
  const { client, send } = await connected()
  const target = Object.create(null) as Record<string, AedesSubscription>
  client.subscriptions = new Proxy(target, new Trap(client.conn, () => undefined))
  send(subscribe('a/b'))
  await vi.waitFor(() => expect(written).toContain('suback'))
  expect(Object.keys(client.subscriptions)).toEqual(['a/b'])
  const removed = vi.spyOn(aedes.mq, 'removeListener')
  client.close()
  await nextTurn()
  expect(removed).not.toHaveBeenCalled()
  expect(Object.keys(target)).toEqual(['a/b'])
})
