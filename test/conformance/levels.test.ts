// What differs by protocol level: MQTT 3.1 as its standard has it, levels that nobody knows, what 3.1.1
// cannot be told, and packets that are larger than an MQTT 5 client takes.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { frame, properties, str, u16, u32, WireClient } from '../support/wire.ts'

let cluster: TestCluster
beforeAll(async () => {
  cluster = await startCluster({ nodes: 1 })
})
afterAll(() => cluster[Symbol.asyncDispose]())
const url = (): string => cluster.node(0).url

/** The raw bytes that come until the connection closes. */
async function answer(...sent: Buffer[]): Promise<string> {
  const client = await WireClient.open(url(), 4)
  let came = Buffer.alloc(0)
  client.socket.on('data', (chunk: Buffer) => {
    came = Buffer.concat([came, chunk])
  })
  client.send(...sent)
  await client.closed
  return came.toString('hex')
}

describe('[MQTT-3.1.2-2] a protocol level that is not known is answered, then closed', () => {
  const connect = (name: string, level: number): Buffer =>
    frame(0x10, str(name), level, 2, u16(0), str('level'))
  test.each([
    ['MQTT', 0, '20020001'],
    ['MQTT', 2, '20020001'],
    ['MQTT', 3, '20020001'],
    ['MQIsdp', 2, '20020001'],
    ['MQIsdp', 4, '20020001'],
    ['MQTT', 0x82, '20020001'],
    ['MQTT', 6, '2003008400'],
    ['MQTT', 0x7f, '2003008400'],
    ['MQIsdp', 5, '2003008400'],
  ])('%s, level %i', async (name, level, wanted) => {
    expect(await answer(connect(name, level))).toBe(wanted)
  })
})

describe('MQTT 3.1', () => {
  const connect = (clientId: string, flags = 2, ...rest: Buffer[]): Buffer =>
    frame(0x10, str('MQIsdp'), 3, flags, u16(0), str(clientId), ...rest)
  async function connected(...args: Parameters<typeof connect>): Promise<WireClient> {
    const client = await WireClient.open(url(), 4)
    client.send(connect(...args))
    expect(await client.next('connack')).toMatchObject({ returnCode: 0, sessionPresent: false })
    return client
  }

  test('SUBSCRIBE, UNSUBSCRIBE and PUBREL may have DUP set, and flags of others mean nothing', async () => {
    await using client = await connected('dup')
    client.send(frame(0x8a, u16(1), str('dup'), 1))
    await client.next('suback')
    client.send(frame(0x3c, str('dup'), u16(2), Buffer.from('x'))) // QoS 2
    expect([(await client.any()).cmd, (await client.any()).cmd].sort()).toEqual(['publish', 'pubrec'])
    client.send(frame(0x6a, u16(2)))
    await client.next('pubcomp')
    client.send(frame(0x38, str('other'), Buffer.from('x')), frame(0xaa, u16(3), str('dup')))
    await client.next('unsuback')
    client.send(frame(0xc9), frame(0xef))
    await client.next('pingresp')
    await client.closed
  })

  test.each([0, 2])(
    'an empty Client Identifier is refused with 2, flags %i: only 3.1.1 has one assigned',
    async (flags) => {
      expect(await answer(connect('', flags))).toBe('20020002')
    },
  )

  test("CONNACK's first byte is reserved, also of a session that is resumed", async () => {
    const first = await connected('reserved', 0)
    first.socket.destroy()
    await first.closed
    await using _ = await connected('reserved', 0)
  })

  test.each([
    ['the reserved flag', 0x03],
    ['a will QoS and RETAIN without a will', 0x3a],
    ['a user name flag, and the packet ends before it', 0x82],
    ['a password flag, and the packet ends before it', 0xc2],
  ])('%s of CONNECT means nothing', async (_, flags) => {
    await using client = await connected('flags', flags)
    expect(await client.settled()).toEqual([])
  })

  test('a user name, and the packet ends before the password', async () => {
    await using client = await connected('user', 0xc2, str('user'))
    expect(await client.settled()).toEqual([])
  })
})

describe('MQTT 3.1.1', () => {
  test('a Shared Subscription without a share name is refused, and the filter beside it granted', async () => {
    await using client = await WireClient.connect(url(), 'shares', { version: 4 })
    client.send(frame(0x82, u16(1), str('$share//x'), 1, str('x'), 1))
    expect((await client.next('suback')).granted).toEqual([0x80, 1])
  })

  test.each([1, 2] as const)(
    'a PUBLISH of QoS %i below $SYS/ is acknowledged, dropped and counted',
    async (qos) => {
      await using watcher = await WireClient.connect(url(), 'watches $SYS')
      await watcher.subscribe('$SYS/broker/connection/#')
      await using client = await WireClient.connect(url(), 'refused', { version: 4 })
      client.send({
        cmd: 'publish',
        topic: '$SYS/broker/connection/x/state',
        payload: '1',
        qos,
        messageId: 7,
        retain: true,
        dup: false,
      })
      await client.next(qos === 1 ? 'puback' : 'pubrec')
      if (qos === 2) {
        client.send({ cmd: 'pubrel', messageId: 7 })
        await client.next('pubcomp')
      }
      expect(await watcher.settled()).toEqual([])
      expect((await cluster.node(0).admin('/metrics')).body).toMatch(
        new RegExp(`messages_dropped_total\\{cause="refused",qos="${qos}"\\} 1`),
      )
    },
  )

  test('with refusedPublish: close its connection ends', async () => {
    await using own = await startCluster({ nodes: 1, argv: ['--refused-publish', 'close'] })
    await using client = await WireClient.connect(own.node(0).url, 'refused', { version: 4 })
    client.send({
      cmd: 'publish',
      topic: '$SYS/x',
      payload: '1',
      qos: 1,
      messageId: 7,
      retain: false,
      dup: false,
    })
    expect(await client.untilClosed()).toEqual([])
  })
})

describe("[MQTT-3.1.2-24] an MQTT 5 client's Maximum Packet Size holds for every packet to it", () => {
  /**
   * Sizes of the packets that come until there is one of `last` bytes, a PINGRESP for example, or the
   * connection closes.
   */
  async function sizes(
    maximumPacketSize: number,
    clientId: string,
    sent: Buffer[] = [],
    last = 2,
  ): Promise<number[]> {
    const client = await WireClient.open(url())
    const sizesOf: number[] = []
    client.socket.on('data', (chunk: Buffer) => {
      // none is longer than 127 bytes
      for (let at = 0; at < chunk.length; at += 2 + chunk[at + 1]!) sizesOf.push(2 + chunk[at + 1]!)
    })
    client.send(
      frame(0x10, str('MQTT'), 5, 2, u16(0), properties(5, 0x27, u32(maximumPacketSize)), str(clientId)),
      ...sent,
      frame(0xc0),
    )
    await expect.poll(() => client.isClosed || sizesOf.includes(last)).toBe(true)
    client.socket.destroy()
    return sizesOf
  }

  test('CONNACK goes without what the client can do without', async () => {
    expect(await sizes(5, 'small')).toEqual([5, 2])
  })

  test('with a Client Identifier that must be told and does not fit there is no CONNACK, and the connection ends', async () => {
    expect(await sizes(20, '')).toEqual([])
  })

  test('SUBACK, UNSUBACK and acknowledgements that do not fit are not sent, and the rest goes on', async () => {
    const many = Array.from({ length: 10 }, (_, n) => [str(`f${n}`), 0]).flat()
    const came = await sizes(
      12,
      'subscribes',
      [
        frame(0x82, u16(1), properties(5), ...many),
        frame(0xa2, u16(3), properties(5), ...many.filter((part) => part !== 0)),
        frame(0x82, u16(2), properties(5), str('one'), 0),
      ],
      6,
    )
    expect(Math.max(...came)).toBeLessThanOrEqual(12)
    expect(came).toContain(6) // the SUBACK of one filter
    expect(await sizes(5, 'refused', [frame(0x32, str('$SYS/x'), u16(1), properties(5))])).toEqual([5, 5, 2])
  })
})
