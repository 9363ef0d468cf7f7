// How much whoever connects may do: at each bound what the wire says, and what is counted.
import type { Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import type { Packet } from 'mqtt-packet'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { createNode, type Node, type NodeOptions } from '../../broker/index.ts'
import { makeCertificates, type Certificates } from '../support/certificates.ts'
import { knock, untilClosed, upgrade } from '../support/door.ts'
import { WireClient } from '../support/wire.ts'

let certificates: Certificates
beforeAll(() => {
  certificates = makeCertificates()
})
afterAll(() => certificates[Symbol.dispose]())
const nodes: Node[] = []
afterEach(async () => {
  await Promise.all(nodes.splice(0).map((node) => node.close()))
})

async function serve(options: NodeOptions, hooks: Parameters<typeof createNode>[1] = {}): Promise<Node> {
  const node = await createNode(
    { ...(options.listeners === undefined ? { listen: ['mqtt://127.0.0.1:0'] } : {}), ...options },
    hooks,
  )
  nodes.push(node)
  return node
}

const counted = async (node: Node, counter: string): Promise<number> =>
  Number(
    (await node.metricsText())
      .split('\n')
      .find((line) => line.startsWith(`aedes_cluster_${counter} `))
      ?.split(' ')[1],
  )

/** CONNECT of MQTT 3.1.1, clean, without a Client Identifier. */
const connectPacket = Buffer.from('100c00044d515454040200000000', 'hex')
const connack = '\x20\x02\0\0'

/** Resolves when this has come at the end of what came. */
async function comes(socket: Socket, text: string): Promise<void> {
  let all = ''
  for await (const chunk of socket.iterator({ destroyOnReturn: false }))
    if ((all += (chunk as Buffer).toString('latin1')).endsWith(text)) return
  throw new Error(`closed; it brought ${JSON.stringify(all)}`)
}

describe('connectsPerSecondMax', () => {
  const frame = Buffer.concat([Buffer.from([0x82, 0x80 | connectPacket.length, 0, 0, 0, 0]), connectPacket])
  const [plain, secure, ws] = [
    (url: string) => knock(url),
    async (url: string) => {
      const socket = connectTls({ socket: await knock(url), ca: certificates.caBytes, host: '127.0.0.1' })
      return socket.on('error', () => undefined)
    },
    async (url: string) => {
      const socket = await knock(url)
      socket.write(upgrade('/'))
      return socket
    },
  ]

  test('who is beyond it waits unread, comes in, and is counted: by each transport', async () => {
    const limits = { connectsPerSecondMax: 3 }
    const node = await serve({
      tls: { cert: certificates.server.cert, key: certificates.server.key },
      listeners: [
        { url: 'mqtt://127.0.0.1:0', limits },
        { url: 'mqtt://127.0.0.1:0', limits, proxy: { networks: ['127.0.0.1'] } },
        { url: 'mqtts://127.0.0.1:0', limits },
        { url: 'ws://127.0.0.1:0', limits },
      ],
    })
    const proxied = Buffer.concat([Buffer.from('PROXY UNKNOWN\r\n'), connectPacket])
    const says = [connectPacket, proxied, connectPacket, frame]
    const held = (): Promise<number> => counted(node, 'held_back_total{cause="connects"}')
    for (const [at, come] of [plain, plain, secure, ws].entries()) {
      const before = await held()
      const sockets: Socket[] = []
      // however slow this machine is: it is refilled with 3 in a second
      while ((await held()) === before) sockets.push(await come(node.endpoints[at]!))
      for (const socket of sockets) socket.write(says[at]!)
      await Promise.all(sockets.map((socket) => comes(socket, connack)))
      for (const socket of sockets) socket.destroy()
    }
  })

  test('as many wait as are let in within 20 seconds; one more is closed', async () => {
    const node = await serve({ limits: { connectsPerSecondMax: 1 } })
    const sockets: Socket[] = []
    for (let n = 0; n < 22; n++) sockets.push(await knock(node.endpoints[0]!))
    const held = await counted(node, 'held_back_total{cause="connects"}')
    // a second may have passed, and let one in
    for (let n = held; n <= 21; n++) sockets.push(await knock(node.endpoints[0]!))
    await expect.poll(() => counted(node, 'connections_turned_away_total{cause="pace"}')).toBeGreaterThan(0)
    for (const socket of sockets) socket.destroy()
  })
})

test('addressConnectionsMax: one more of an address, or of a network of IPv6, is closed and counted', async () => {
  const node = await serve({
    limits: { addressConnectionsMax: 2 },
    listeners: [
      { url: 'mqtt://127.0.0.1:0', proxy: { networks: ['127.0.0.1'] } },
      { url: 'ws://127.0.0.1:0', proxy: { networks: ['127.0.0.1'] } },
    ],
  })
  const come = async (address: string, at = 0): Promise<Socket> => {
    const socket = await knock(node.endpoints[at]!)
    const kind = address.includes(':') ? `TCP6 ${address} ::1` : `TCP4 ${address} 127.0.0.1`
    socket.write(`PROXY ${kind} 1 2\r\n`)
    return socket
  }
  const isIn = async (socket: Socket): Promise<Socket> => {
    socket.write(connectPacket)
    await comes(socket, connack)
    return socket
  }
  const first = await isIn(await come('192.0.2.7'))
  await come('192.0.2.7', 1) // also before it is a client, at whichever listener
  await expect.poll(() => counted(node, 'sockets')).toBe(2)
  expect(await untilClosed(await come('192.0.2.7'))).toBe('')
  expect(await untilClosed(await come('::ffff:192.0.2.7'))).toBe('')
  await isIn(await come('192.0.2.8'))
  await isIn(await come('2001:db8::1'))
  await isIn(await come('2001:db8:0:0:9::1'))
  expect(await untilClosed(await come('2001:db8::ffff'))).toBe('')
  await isIn(await come('2001:db8:0:1::1'))
  expect(await counted(node, 'connections_turned_away_total{cause="address"}')).toBe(3)
  first.destroy()
  await expect.poll(() => counted(node, 'sockets')).toBe(5)
  await isIn(await come('192.0.2.7'))
  // the proxy's own are nobody's
  for (let n = 0; n < 4; n++) {
    const socket = await knock(node.endpoints[0]!)
    socket.write('PROXY UNKNOWN\r\n')
    await isIn(socket)
  }
})

test('userConnectionsMax: one more of a user is refused with 0x97, and who connects anew is not one more', async () => {
  const node = await serve(
    { authentication: ['hooks'], limits: { userConnectionsMax: 2 } },
    { authenticate: (_client, _username, _password, done) => done(null, true) },
  )
  const url = node.endpoints[0]!
  const come = (
    clientId: string,
    username: string,
    version: 4 | 5 = 5,
  ): ReturnType<typeof WireClient.connect> => WireClient.connect(url, clientId, { username, version })
  const a = await come('a', 'anna')
  await come('b', 'anna')
  expect((await come('c', 'anna')).connack.reasonCode).toBe(0x97)
  expect((await come('c', 'anna', 4)).connack.returnCode).toBe(3)
  expect((await come('c', 'otto')).connack.reasonCode).toBe(0)
  expect((await come('b', 'anna')).connack.reasonCode).toBe(0)
  expect((await come('d', 'anna')).connack.reasonCode).toBe(0x97)
  expect(await counted(node, 'refusals_total{cause="user-connections"}')).toBe(3)
  a.send({ cmd: 'disconnect' })
  await a.untilClosed()
  await expect.poll(async () => (await come('d', 'anna')).connack.reasonCode).toBe(0)
})

test('userSessionsMax: one more session of a user that outlives its connection is refused with 0x97', async () => {
  const node = await serve(
    { authentication: ['hooks'], limits: { userSessionsMax: 1 } },
    { authenticate: (_client, _username, _password, done) => done(null, true) },
  )
  const come = (
    clientId: string,
    username: string | undefined,
    sessionExpiryInterval = 100,
  ): ReturnType<typeof WireClient.connect> =>
    WireClient.connect(node.endpoints[0]!, clientId, {
      clean: false,
      ...(username === undefined ? {} : { username }),
      properties: { sessionExpiryInterval },
    })
  const a = await come('a', 'anna')
  expect((await come('b', 'anna')).connack.reasonCode).toBe(0x97)
  const older = await WireClient.connect(node.endpoints[0]!, 'b', {
    version: 4,
    clean: false,
    username: 'anna',
  })
  expect(older.connack.returnCode).toBe(3)
  expect((await come('b', 'anna', 0)).connack.reasonCode).toBe(0)
  expect((await come('c', 'otto')).connack.reasonCode).toBe(0)
  for (const clientId of ['d', 'e']) expect((await come(clientId, undefined)).connack.reasonCode).toBe(0)
  expect((await come('a', 'anna')).connack).toMatchObject({ reasonCode: 0, sessionPresent: true })
  expect(await counted(node, 'refusals_total{cause="user-sessions"}')).toBe(2)
  await a.untilClosed()
  const last = await come('a', 'anna')
  last.send({ cmd: 'disconnect', properties: { sessionExpiryInterval: 0 } })
  await last.untilClosed()
  await expect.poll(async () => (await come('b', 'anna')).connack.reasonCode).toBe(0)
})

test('Retained Messages: their number, and the payload of each; the size of a will', async () => {
  const node = await serve({
    limits: { retainedMessagesMax: 2, retainedMessageBytesMax: 10, willBytesMax: 20 },
  })
  const url = node.endpoints[0]!
  const client = await WireClient.connect(url, 'c')
  const retain = async (topic: string, bytes: number): Promise<unknown> => {
    client.send({
      cmd: 'publish',
      topic,
      payload: Buffer.alloc(bytes),
      qos: 1,
      messageId: 1,
      retain: true,
      dup: false,
    })
    return (await client.next('puback')).reasonCode
  }
  const taken = 0x10 // nobody is subscribed
  expect([await retain('a', 10), await retain('b', 11), await retain('b', 10), await retain('c', 1)]).toEqual(
    [taken, 0x97, taken, 0x97],
  )
  expect([await retain('a', 1), await retain('a', 0), await retain('c', 1)]).toEqual([taken, taken, taken])
  expect(await counted(node, 'refusals_total{cause="retained"}')).toBe(2)
  const withWill = async (bytes: number, version: 4 | 5 = 5): Promise<unknown> => {
    const will = { topic: 'wills', payload: Buffer.alloc(bytes), qos: 1, retain: false } as const
    const { connack } = await WireClient.connect(url, 'w', { will, version })
    return connack.reasonCode ?? connack.returnCode
  }
  expect([await withWill(15), await withWill(16), await withWill(16, 4)]).toEqual([0, 0x97, 3])
  expect(await counted(node, 'refusals_total{cause="will-bytes"}')).toBe(2)
})

test.each([true, false])(
  'deliveriesPerSecondMax, clean session %s: QoS 0 beyond it is dropped and counted, QoS 1 waits, and all of it comes in order',
  async (clean) => {
    const node = await serve({ limits: { deliveriesPerSecondMax: 10 } })
    const client = await WireClient.connect(node.endpoints[0]!, 'c', {
      clean,
      properties: { sessionExpiryInterval: clean ? 0 : 100 },
    })
    await client.subscribe('#', { qos: 1 })
    const started = performance.now()
    for (let n = 0; n < 15; n++) await node.publish('a', String(n), { qos: 1 })
    for (let n = 0; n < 5; n++) await node.publish('dropped', String(n))
    for (let n = 0; n < 15; n++) {
      const packet = await client.next('publish')
      expect([packet.topic, packet.payload.toString()]).toEqual(['a', String(n)])
      client.send({ cmd: 'puback', messageId: packet.messageId! })
    }
    // ten at once, and one in each tenth of a second: not before that
    expect(performance.now() - started).toBeGreaterThan(400)
    expect(await counted(node, 'messages_dropped_total{cause="delivery-rate",qos="0"}')).toBe(5)
    expect(await client.settled()).toEqual([])
  },
)

describe('publishes within a second', () => {
  const publish = (n: number, qos: 0 | 1 | 2, bytes = 1): Packet => ({
    cmd: 'publish',
    topic: 't',
    payload: Buffer.alloc(bytes, n),
    qos,
    ...(qos === 0 ? {} : { messageId: n }),
    retain: false,
    dup: false,
  })
  const heldBack = 'held_back_total{cause="publish-rate"}'

  test.each([
    ['publishesPerSecondMax', 10, 1],
    ['publishBytesPerSecondMax', 10_000, 1_000],
  ])(
    '%s: who is faster is read no further for a while, and a ping of it is answered',
    async (option, max, bytes) => {
      const node = await serve({ limits: { [option]: max } })
      const client = await WireClient.connect(node.endpoints[0]!, 'fast')
      await client.subscribe('t')
      const ping: Packet = { cmd: 'pingreq' }
      const numbers = Array.from({ length: 13 }, (_, i) => i + 1)
      client.send(...numbers.map((n) => publish(n, 0, bytes)), ping, publish(14, 0, bytes), ping)
      const came: unknown[] = []
      while (came.at(-1) !== 14) {
        const packet = await client.any('a packet')
        came.push(packet.cmd === 'publish' ? packet.payload[0] : packet.cmd)
      }
      expect(came.filter((what) => what !== 'pingresp')).toEqual([...numbers, 14]) // each, in its order
      expect(came.filter((what) => what === 'pingresp')).toHaveLength(2)
      // answered while what came before them waited
      expect(came.indexOf('pingresp')).toBeLessThan(came.indexOf(13))
      expect(await counted(node, heldBack)).toBeGreaterThan(0)
      client.send(ping)
      expect((await client.any('a packet')).cmd).toBe('pingresp') // once each
      client.socket.destroy()
    },
  )

  test.each(['end of its side', 'good-bye'])(
    'whose end has come (%s) is not made to wait: what it published is taken, then its will',
    async (end) => {
      const node = await serve({ limits: { publishBytesPerSecondMax: 1 } })
      const url = node.endpoints[0]!
      const heir = await WireClient.connect(url, 'heir')
      await heir.subscribe('#')
      const will = { topic: 'will', payload: Buffer.from('gone'), qos: 1 as const, retain: false }
      const client = await WireClient.connect(url, 'fast', { will })
      client.send(...[1, 2, 3].map((n) => publish(n, 1, 1_000))) // a quarter of an hour each
      await expect.poll(() => counted(node, heldBack)).toBe(1)
      if (end === 'good-bye') client.send({ cmd: 'disconnect', reasonCode: 0x04 })
      else client.socket.end()
      for (const topic of ['t', 't', 't', 'will']) expect((await heir.next('publish')).topic).toBe(topic)
      await client.untilClosed()
    },
  )

  test('publishTooFast: refuse: 0x97, at QoS 0 dropped, 3.1.1 waits', async () => {
    const node = await serve({ limits: { publishesPerSecondMax: 1, publishTooFast: 'refuse' } })
    const codes = async (version: 4 | 5, qos: 1 | 2, count: number): Promise<unknown[]> => {
      const client = await WireClient.connect(node.endpoints[0]!, 'fast', { version })
      client.send(...Array.from({ length: count }, (_, n) => publish(n + 1, qos)))
      const all: unknown[] = []
      for (let n = 0; n < count; n++) {
        const packet = await client.next(qos === 1 ? 'puback' : 'pubrec')
        all.push((packet as { reasonCode?: number }).reasonCode)
      }
      client.socket.destroy()
      return all
    }
    const [first, second, ...others] = await codes(5, 1, 6)
    expect([first, second]).toEqual([0x10, 0x10])
    expect(others).toEqual([0x97, 0x97, 0x97, 0x97])
    expect((await codes(5, 2, 3)).at(-1)).toBe(0x97)
    expect(await counted(node, 'refusals_total{cause="publish-rate"}')).toBe(5)
    expect(await codes(4, 1, 3)).toHaveLength(3)
    const client = await WireClient.connect(node.endpoints[0]!, 'fast')
    await client.subscribe('t')
    client.send(publish(1, 0), publish(2, 0), publish(3, 0), publish(4, 0))
    client.send({ cmd: 'pingreq' })
    const came: string[] = []
    while (came.at(-1) !== 'pingresp') came.push((await client.any('a packet')).cmd)
    expect(came).toEqual(['publish', 'publish', 'pingresp'])
    expect(await counted(node, 'messages_dropped_total{cause="refused",qos="0"}')).toBe(2)
    client.socket.destroy()
  })

  test('publishTooFast: disconnect: 0x96, 3.1.1 closed', async () => {
    const node = await serve({ limits: { publishesPerSecondMax: 1, publishTooFast: 'disconnect' } })
    for (const version of [5, 4] as const) {
      const client = await WireClient.connect(node.endpoints[0]!, 'fast', { version })
      client.send(publish(1, 0), publish(2, 0), publish(3, 0))
      if (version === 5) expect((await client.next('disconnect')).reasonCode).toBe(0x96)
      await client.untilClosed()
    }
    expect(await counted(node, 'refusals_total{cause="publish-rate"}')).toBe(2)
  })
})

test('messageExpirySecondsMax: a longer Message Expiry Interval, or none, is this one; of wills, too', async () => {
  const node = await serve({ limits: { messageExpirySecondsMax: 100 } })
  const url = node.endpoints[0]!
  const client = await WireClient.connect(url, 'reads')
  await client.subscribe('#')
  const intervals = async (count: number): Promise<unknown[]> => {
    const all: unknown[] = []
    while (all.length < count) all.push((await client.next('publish')).properties?.messageExpiryInterval)
    return all
  }
  const of = (messageExpiryInterval?: number): Packet => ({
    cmd: 'publish',
    topic: 't',
    payload: 'x',
    qos: 0,
    retain: false,
    dup: false,
    ...(messageExpiryInterval === undefined ? {} : { properties: { messageExpiryInterval } }),
  })
  const [five, three] = [
    await WireClient.connect(url, 'five'),
    await WireClient.connect(url, 'three', { version: 4 }),
  ]
  five.send(of(7), of(100), of(101), of())
  expect(await intervals(4)).toEqual([7, 100, 100, 100])
  three.send(of())
  expect(await intervals(1)).toEqual([100])
  const will = { topic: 'w', payload: Buffer.from('x'), qos: 0, retain: false } as const
  const dies = await WireClient.connect(url, 'dies', { will })
  dies.socket.destroy()
  expect(await intervals(1)).toEqual([100])
})
