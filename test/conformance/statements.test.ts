// The standards statement by statement (statements.ts): what no other file here has a test for, over raw sockets, on
// one node and spread over three, where the publisher, the subscriber and a session that comes back are at three
// different nodes. And that each statement which holds has a test, in whatever file.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { IConnackPacket, IPublishPacket, Packet } from 'mqtt-packet'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createNode, type Node } from '../../broker/index.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { frame, properties, str, u16, u32, WireClient } from '../support/wire.ts'
import { mqtt311, mqtt5 } from './statements.ts'

describe('the table', () => {
  const idsIn = (text: string): string[] =>
    [...text.matchAll(/\[(MQTT(?:311)?-[\d.]+-\d+)\]/g)].map(([, id]) => id!)
  const titles = readdirSync('test', { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.ts') && !name.startsWith('bridge'))
    .flatMap(
      (name) => readFileSync(join('test', name), 'utf8').match(/(['"`])\[MQTT(?:311)?-(?:(?!\1).)*\1/g) ?? [],
    )
  const known = [
    ...mqtt5.map((statement) => ({ ...statement, id: `MQTT-${statement.id}` })),
    ...mqtt311.map((statement) => ({ ...statement, id: `MQTT311-${statement.id}` })),
  ]

  test('each statement that holds has a test whose title begins with its id', () => {
    const tested = new Set(titles.flatMap(idsIn))
    expect(known.filter(({ id, state }) => state === 'holds' && !tested.has(id)).map(({ id }) => id)).toEqual(
      [],
    )
  })

  test('a title names no id that is not in the table, or that is not ours', () => {
    const ours = new Set(
      known.filter(({ state }) => state === 'holds' || 'departs' in state).map(({ id }) => id),
    )
    expect(titles.flatMap(idsIn).filter((id) => !ours.has(id))).toEqual([])
  })
})

let count = 0
/** A name that nothing else has. */
const fresh = (what: string): string => `${what}-${++count}`

type Options = Omit<NonNullable<Parameters<typeof WireClient.connect>[2]>, 'version'>

interface PublishOptions {
  readonly qos?: 0 | 1 | 2
  readonly retain?: boolean
  readonly dup?: boolean
  readonly messageId?: number
  readonly properties?: IPublishPacket['properties']
}

const text = ({ payload }: IPublishPacket): string => payload.toString()
const publishPacket = (
  topic: string,
  payload: string,
  { qos = 1, messageId = 1, retain = false, dup = false, properties }: PublishOptions = {},
): Packet => ({
  cmd: 'publish',
  topic,
  payload,
  qos,
  retain,
  dup,
  ...(qos > 0 && { messageId }),
  ...(properties && { properties }),
})

/** All bytes that come to a client from now on. */
function bytesOf(client: WireClient): () => Buffer {
  let bytes = Buffer.alloc(0)
  client.socket.on('data', (chunk: Buffer) => {
    bytes = Buffer.concat([bytes, chunk])
  })
  return () => bytes
}

describe.each([1, 3])('nodes: %i', (size) => {
  let redis: TestRedis | undefined
  const nodes: Node[] = []
  const clients: WireClient[] = []
  beforeAll(async () => {
    redis = size === 1 ? undefined : await startRedis()
    for (let i = 0; i < size; i++)
      nodes.push(
        await createNode({
          id: `n${i}`,
          listen: ['mqtt://127.0.0.1:0', 'ws://127.0.0.1:0/mqtt'],
          ...(redis && { redis: redis.url }),
        }),
      )
  })
  afterAll(async () => {
    for (const client of clients) client.socket.destroy()
    await Promise.all(nodes.map((node) => node.close()))
    await redis?.[Symbol.asyncDispose]()
  })

  /** The publisher's node, the subscriber's, and where a session comes back. */
  const [here, there, elsewhere] = [0, 1 % size, 2 % size]
  const url = (node = here): string => nodes[node]!.endpoints[0]!

  describe.each([4, 5] as const)('MQTT version %i', (version) => {
    async function open(node = here): Promise<WireClient> {
      const client = await WireClient.open(url(node), version)
      clients.push(client)
      return client
    }

    async function wire(
      id: string,
      node = here,
      options: Options = {},
    ): Promise<WireClient & { connack: IConnackPacket }> {
      const client = await WireClient.connect(url(node), id, { version, ...options })
      clients.push(client)
      return client
    }

    const lasting: Options = {
      clean: false,
      ...(version === 5 && { properties: { sessionExpiryInterval: 600 } }),
    }
    const withMore = (more: NonNullable<Options['properties']>, options: Options = {}): Options => ({
      ...options,
      properties: { ...options.properties, ...more },
    })
    const props = (...parts: (Buffer | number)[]): Buffer => properties(version, ...parts)

    async function cut(client: WireClient): Promise<void> {
      client.socket.destroy()
      await client.closed
    }

    /** Publishes, and takes the answers. */
    async function publish(
      client: WireClient,
      topic: string,
      payload: string,
      options: PublishOptions = {},
    ): Promise<void> {
      const { qos = 1, messageId = 1 } = options
      client.send(publishPacket(topic, payload, options))
      if (qos === 1) await client.first('puback')
      if (qos !== 2) return
      await client.first('pubrec')
      client.send({ cmd: 'pubrel', messageId })
      await client.first('pubcomp')
    }

    async function subscribe(
      client: WireClient,
      ...filters: (readonly [string, 0 | 1 | 2])[]
    ): Promise<number[]> {
      client.send({
        cmd: 'subscribe',
        messageId: 9,
        subscriptions: filters.map(([topic, qos]) => ({ topic, qos })),
      })
      return (await client.first('suback')).granted as number[]
    }

    /** The next PUBLISH, acknowledged to its end. */
    async function take(client: WireClient): Promise<IPublishPacket> {
      const packet = await client.next('publish')
      const { messageId = 0 } = packet
      if (packet.qos === 1) client.send({ cmd: 'puback', messageId })
      if (packet.qos === 2) {
        client.send({ cmd: 'pubrec', messageId })
        await client.first('pubrel')
        client.send({ cmd: 'pubcomp', messageId })
      }
      return packet
    }

    /** Nothing but `expected` comes: behind it a message of another topic, from the same publisher. */
    async function comes(client: WireClient, from: WireClient, expected: readonly string[]): Promise<void> {
      const mark = fresh('mark')
      await subscribe(client, [mark, 1])
      await publish(from, mark, 'mark')
      const got: string[] = []
      for (;;) {
        const packet = await take(client)
        if (packet.topic === mark) break
        got.push(text(packet))
      }
      expect(got).toEqual(expected)
    }

    /** It is closed, under MQTT 5 with a DISCONNECT or CONNACK of one of these codes. */
    async function closes(client: WireClient, codes: readonly number[]): Promise<void> {
      const last: (Packet & { reasonCode?: number }) | undefined = (await client.untilClosed()).at(-1)
      if (version === 5) expect(codes).toContain(last?.reasonCode)
      else expect(last).toBeUndefined()
    }

    /** A connection with a will, which is cut. */
    async function dies(
      topic: string,
      will: object = {},
      options: Options = {},
      name = fresh('dies'),
    ): Promise<void> {
      const client = await wire(name, here, {
        ...options,
        will: { topic, payload: Buffer.from('gone'), qos: 1, retain: false, ...will },
      })
      await cut(client)
    }

    describe('bytes', () => {
      const badTexts = [[0xff], [0xc0, 0xaf], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0x61, 0, 0x62]]
      const connectOf = (flags: number, ...payload: Buffer[]): Buffer =>
        frame(0x10, str('MQTT'), version, flags, u16(0), props(), ...payload)
      type Field = readonly [name: string, isConnect: boolean, bytes: (bad: Buffer) => Buffer]
      const fields: readonly Field[] = [
        ['[MQTT-3.1.3-4] [MQTT311-3.1.3-4] Client Identifier', true, (bad) => connectOf(2, str(bad))],
        [
          '[MQTT-3.1.3-11] [MQTT311-3.1.3-10] Will Topic',
          true,
          (bad) => connectOf(6, str('c'), props(), str(bad), str('w')),
        ],
        ['[MQTT-3.1.3-12] [MQTT311-3.1.3-11] user name', true, (bad) => connectOf(0x82, str('c'), str(bad))],
        ['[MQTT-3.3.2-1] [MQTT311-3.3.2-1] topic', false, (bad) => frame(0x30, str(bad), props())],
        [
          '[MQTT-3.8.3-1] [MQTT311-3.8.3-1] filter of SUBSCRIBE',
          false,
          (bad) => frame(0x82, u16(1), props(), str(bad), 0),
        ],
        [
          '[MQTT-3.10.3-1] [MQTT311-3.10.3-1] filter of UNSUBSCRIBE',
          false,
          (bad) => frame(0xa2, u16(1), props(), str(bad)),
        ],
        ...(version === 4 ? [] : fieldsOf5()),
      ]
      function fieldsOf5(): Field[] {
        return [
          ['[MQTT-3.3.2-13] Response Topic', false, (bad) => frame(0x30, str('t'), props(0x08, str(bad)))],
          ['[MQTT-3.3.2-19] Content Type', false, (bad) => frame(0x30, str('t'), props(0x03, str(bad)))],
          [
            '[MQTT-1.5.7-1] name of a pair',
            false,
            (bad) => frame(0x30, str('t'), props(0x26, str(bad), str('v'))),
          ],
          [
            '[MQTT-1.5.7-1] value of a pair',
            false,
            (bad) => frame(0x30, str('t'), props(0x26, str('n'), str(bad))),
          ],
        ]
      }
      test.each(fields)(
        '[MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-4.7.3-2] [MQTT311-1.5.3-1] [MQTT311-1.5.3-2] [MQTT311-4.7.3-2] a text that is not UTF-8, or has U+0000: %s',
        async (_, isConnect, bytes) => {
          for (const bad of badTexts) {
            const client = isConnect ? await open() : await wire(fresh('text'))
            client.send(bytes(Buffer.from(bad)))
            await closes(client, [0x81, 0x85, 0x90, 0x8f])
          }
        },
      )
      test('[MQTT-1.5.4-3] [MQTT-4.7.3-4] [MQTT311-1.5.3-3] [MQTT311-4.7.3-4] U+FEFF, and characters that a normal form would change, are themselves', async () => {
        const [to, from] = [await wire(fresh('to'), there), await wire(fresh('from'))]
        const topics = ['\ufeffa', 'a\ufeff', 'a', 'A', 'e\u0301', '\u00e9', 'a '].map(
          (name) => `${fresh('bom')}/${name}`,
        )
        const filters = topics.map((topic) => topic.replace(/^[^/]*/, '+'))
        for (const [i, filter] of filters.entries()) {
          await subscribe(to, [filter, 0])
          for (const topic of topics) await publish(from, topic, topic)
          await comes(to, from, [topics[i]!])
          to.send({ cmd: 'unsubscribe', messageId: 3, unsubscriptions: [filter] })
          await to.first('unsuback')
        }
      })

      test.each([
        ['[MQTT-3.6.1-1] [MQTT311-3.6.1-1] PUBREL', 0x60, [u16(1)]],
        ['[MQTT-3.8.1-1] [MQTT311-3.8.1-1] SUBSCRIBE', 0x80, [u16(1), props(), str('f'), 0]],
        ['[MQTT-3.10.1-1] [MQTT311-3.10.1-1] UNSUBSCRIBE', 0xa0, [u16(1), props(), str('f')]],
        ['[MQTT-2.1.3-1] [MQTT311-2.2.2-1] [MQTT311-2.2.2-2] PUBACK', 0x42, [u16(1)]],
        ['[MQTT-2.1.3-1] [MQTT311-2.2.2-1] [MQTT311-2.2.2-2] PINGREQ', 0xc2, []],
        ['[MQTT-3.14.1-1] [MQTT311-3.14.1-1] DISCONNECT', 0xe1, []],
      ] as const)('%s with other flags is malformed', async (_, first, body) => {
        const client = await wire(fresh('flags'))
        client.send(frame(first, ...body))
        await closes(client, [0x81])
      })

      test.each([
        [
          '[MQTT-2.2.1-3] [MQTT311-2.3.1-1] PUBLISH with Packet Identifier 0',
          frame(0x32, str('t'), u16(0), props()),
        ],
        [
          '[MQTT-2.2.1-3] [MQTT311-2.3.1-1] SUBSCRIBE with Packet Identifier 0',
          frame(0x82, u16(0), props(), str('f'), 0),
        ],
        ['[MQTT-3.3.1-4] [MQTT311-3.3.1-4] PUBLISH with QoS 3', frame(0x36, str('t'), u16(1), props())],
        ['[MQTT-3.3.1-2] [MQTT311-3.3.1-2] PUBLISH with QoS 0 and DUP', frame(0x38, str('t'), props())],
        [
          '[MQTT-3.3.2-2] [MQTT-4.7.0-1] [MQTT311-3.3.2-2] [MQTT311-4.7.1-1] PUBLISH to a/+',
          frame(0x30, str('a/+'), props()),
        ],
        ['[MQTT-4.7.3-1] [MQTT311-4.7.3-1] PUBLISH to nothing', frame(0x30, str(''), props())],
        [
          '[MQTT-4.7.3-1] [MQTT311-4.7.3-1] SUBSCRIBE to an empty filter',
          frame(0x82, u16(1), props(), str(''), 0),
        ],
        [
          '[MQTT-4.7.1-1] [MQTT311-4.7.1-2] SUBSCRIBE to a/#/b',
          frame(0x82, u16(1), props(), str('a/#/b'), 0),
        ],
        ['[MQTT-4.7.1-2] [MQTT311-4.7.1-3] SUBSCRIBE to a/b+', frame(0x82, u16(1), props(), str('a/b+'), 0)],
        ['[MQTT-3.8.3-2] [MQTT311-3.8.3-3] SUBSCRIBE to none', frame(0x82, u16(1), props())],
        [
          '[MQTT-3.8.3-5] [MQTT311-3.8.3-4] SUBSCRIBE with reserved bits',
          frame(0x82, u16(1), props(), str('f'), 0xc0),
        ],
        ['[MQTT-3.10.3-2] [MQTT311-3.10.3-2] UNSUBSCRIBE from none', frame(0xa2, u16(1), props())],
        [
          '[MQTT-3.1.0-2] [MQTT311-3.1.0-2] a second CONNECT',
          frame(0x10, str('MQTT'), version, 2, u16(0), props(), str('c')),
        ],
      ])('[MQTT-4.13.1-1] [MQTT-4.13.2-1] [MQTT311-4.8.0-1] ends its connection: %s', async (_, bytes) => {
        const client = await wire(fresh('wrong'))
        client.send(bytes)
        await closes(client, [0x81, 0x82, 0x8f, 0x90])
      })

      test('[MQTT-2.2.1-2] [MQTT-4.3.1-1] [MQTT311-2.3.1-5] [MQTT311-4.3.1-1] [MQTT-3.3.1-2] [MQTT311-3.3.1-2] QoS 0 is sent with QoS 0, DUP 0 and no Packet Identifier', async () => {
        const [to, from] = [await wire(fresh('to'), there), await wire(fresh('from'))]
        const topic = fresh('qos0')
        await subscribe(to, [topic, 2])
        const bytes = bytesOf(to)
        from.send(frame(0x30, str(topic), props(), Buffer.from('p')))
        await to.next('publish')
        expect(bytes()).toEqual(frame(0x30, str(topic), props(), Buffer.from('p')))
      })

      test('[MQTT-4.7.3-3] [MQTT311-4.7.3-3] a topic has room for 65,535 bytes', async () => {
        const [to, from] = [await wire(fresh('to'), there), await wire(fresh('from'))]
        const topic = fresh('long').padEnd(65_535, 'x')
        await subscribe(to, [topic, 0])
        from.send(publishPacket(topic, 'p', { qos: 0 }))
        expect((await to.next('publish')).topic).toBe(topic)
      })

      test('[MQTT-4.2.0-1] [MQTT-6.0.0-4] [MQTT311-4.2.0-1] [MQTT311-6.0.0-4] over TCP and WebSocket, whose subprotocol is mqtt', async () => {
        const { WebSocket } = await import('ws')
        const socket = new WebSocket(nodes[there]!.endpoints[1]!, ['other', 'mqtt'])
        const answer = new Promise<Buffer>((resolve) =>
          socket.once('message', resolve as (data: unknown) => void),
        )
        await new Promise((resolve) => socket.once('open', resolve))
        expect(socket.protocol).toBe('mqtt')
        socket.send(connectOf(2, str(fresh('ws'))))
        expect((await answer)[0]).toBe(0x20)
        socket.terminate()
      })

      test('[MQTT-6.0.0-1] [MQTT-6.0.0-2] [MQTT311-6.0.0-1] [MQTT311-6.0.0-2] a packet in several frames is one packet, and a text frame closes the connection', async () => {
        const { WebSocket } = await import('ws')
        const socket = new WebSocket(nodes[there]!.endpoints[1]!, 'mqtt')
        await new Promise((resolve) => socket.once('open', resolve))
        const answer = new Promise<Buffer>((resolve) =>
          socket.once('message', resolve as (data: unknown) => void),
        )
        for (const byte of connectOf(2, str(fresh('ws')))) socket.send(Buffer.from([byte]))
        expect((await answer)[0]).toBe(0x20)
        const closed = new Promise((resolve) => socket.once('close', resolve))
        socket.send('text')
        await closed
      })
    })

    describe('CONNECT', () => {
      const connectOf = (
        flags: number,
        payload: Buffer[],
        {
          name = 'MQTT',
          level = version,
          first = 0x10,
        }: { name?: string; level?: number; first?: number } = {},
      ): Buffer => frame(first, str(name), level, flags, u16(0), props(), ...payload)
      const id = str('c')
      const will = [props(), str('w'), str('gone')]
      const wrong: readonly (readonly [name: string, bytes: Buffer])[] = [
        ['[MQTT-3.1.0-1] [MQTT311-3.1.0-1] PINGREQ first', frame(0xc0)],
        ['[MQTT-3.1.2-1] [MQTT311-3.1.2-1] another protocol', connectOf(2, [id], { name: 'MQTA' })],
        ['[MQTT-3.1.2-3] [MQTT311-3.1.2-3] the reserved flag', connectOf(3, [id])],
        ['[MQTT-3.1.2-9] [MQTT311-3.1.2-9] Will Flag without a will', connectOf(6, [id])],
        [
          '[MQTT-3.1.2-11] [MQTT311-3.1.2-11] [MQTT311-3.1.2-13] Will QoS without Will Flag',
          connectOf(0x0a, [id]),
        ],
        [
          '[MQTT-3.1.2-13] [MQTT311-3.1.2-15] [MQTT311-3.1.2-11] Will Retain without Will Flag',
          connectOf(0x22, [id]),
        ],
        ['[MQTT-3.1.2-12] [MQTT311-3.1.2-14] Will QoS 3', connectOf(0x1e, [id, ...will])],
        ['[MQTT-3.1.2-16] [MQTT311-3.1.2-18] a user name without its flag', connectOf(2, [id, str('anna')])],
        ['[MQTT-3.1.2-17] [MQTT311-3.1.2-19] its flag without a user name', connectOf(0x82, [id])],
        [
          '[MQTT-3.1.2-18] [MQTT311-3.1.2-20] a password without its flag',
          connectOf(0x82, [id, str('anna'), str('secret')]),
        ],
        [
          '[MQTT-3.1.2-19] [MQTT311-3.1.2-21] its flag without a password',
          connectOf(0xc2, [id, str('anna')]),
        ],
        ['[MQTT-3.1.3-3] [MQTT311-3.1.3-3] no Client Identifier', connectOf(2, [])],
        ['[MQTT-3.1.4-1] [MQTT311-3.1.4-1] bytes behind its end', connectOf(2, [id, Buffer.from([1])])],
        ...(version === 4
          ? ([
              [
                '[MQTT311-3.1.2-22] [MQTT311-3.2.2-6] a password without a user name',
                connectOf(0x42, [id, str('secret')]),
              ],
            ] as const)
          : []),
      ]
      test.each(wrong)(
        '[MQTT-3.2.2-7] [MQTT-3.2.2-8] [MQTT-3.14.0-1] [MQTT311-3.1.4-1] is closed, by a CONNACK or without a word: %s',
        async (_, bytes) => {
          const client = await open()
          client.send(bytes, frame(0x32, str('t'), u16(1), props()))
          const came = await client.untilClosed()
          if (version === 4)
            expect(came.filter((packet) => (packet as IConnackPacket).returnCode !== 1)).toEqual([])
          else if (came.length > 0) {
            expect(came).toHaveLength(1)
            expect(came[0]).toMatchObject({ cmd: 'connack', sessionPresent: false })
            expect([0x81, 0x82, 0x84, 0x85, 0x95]).toContain((came[0] as IConnackPacket).reasonCode)
          }
        },
      )

      test('[MQTT-3.1.2-2] [MQTT311-3.1.2-2] [MQTT311-3.2.2-4] [MQTT311-3.2.2-5] a version that is not known: 0x84, or 1', async () => {
        const client = await open()
        const bytes = bytesOf(client)
        client.send(connectOf(2, [id], { level: version === 5 ? 6 : 2 }))
        await client.closed
        expect([...bytes().subarray(0, 4)]).toEqual(version === 5 ? [0x20, 3, 0, 0x84] : [0x20, 2, 0, 1])
      })

      test('[MQTT-3.1.3-1] [MQTT311-3.1.3-1] [MQTT-3.1.3-5] [MQTT311-3.1.3-5] [MQTT-3.1.4-5] [MQTT311-3.1.4-4] [MQTT-3.2.2-1] [MQTT311-3.2.0-1] all fields in their order, and 23 letters and digits of Client Identifier: accepted', async () => {
        const client = await open()
        const bytes = bytesOf(client)
        const name = '0123456789abcdefABCDEF'.padEnd(23, version === 5 ? 'z' : 'Z')
        client.send(connectOf(0xce | 0x20, [str(name), ...will, str('anna'), str('secret')]))
        const connack = await client.next('connack')
        expect(connack.reasonCode ?? connack.returnCode).toBe(0)
        expect([bytes()[0], bytes()[2]]).toEqual([0x20, 0])
        client.send(frame(0xe0))
      })

      test('[MQTT-3.1.4-6] [MQTT311-3.1.4-5] [MQTT-3.2.2-6] [MQTT311-3.1.3-9] [MQTT-3.1.3-8] nothing behind a CONNECT that is refused is processed', async () => {
        const [to, client] = [await wire(fresh('to'), there), await open()]
        const topic = fresh('refused')
        await subscribe(to, [topic, 1])
        const bytes = bytesOf(client)
        client.send(connectOf(2, [str('x'.repeat(1_025))]), frame(0x30, str(topic), props()))
        await client.closed
        expect([bytes()[2], bytes()[3]]).toEqual([0, version === 5 ? 0x85 : 2])
        await comes(to, await wire(fresh('from')), [])
      })

      if (version === 4)
        test('[MQTT311-3.1.3-8] [MQTT311-3.2.2-4] an empty Client Identifier with Clean Session 0: 2, and closed', async () => {
          const client = await open()
          client.send(connectOf(0, [str('')]))
          expect(await client.untilClosed()).toMatchObject([{ returnCode: 2, sessionPresent: false }])
        })

      test('[MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16] [MQTT311-3.1.3-6] an empty Client Identifier: another one each time', async () => {
        const [one, other] = [await wire('', here), await wire('', there)]
        const names = [one, other].map(({ connack }) => connack.properties?.assignedClientIdentifier)
        expect(new Set(names).size).toBe(version === 5 ? 2 : 1)
        for (const client of [one, other]) expect(await client.settled()).toEqual([])
      })

      test('[MQTT-3.1.4-3] [MQTT311-3.1.4-2] [MQTT-3.1.3-2] [MQTT311-3.1.3-2] the earlier connection of a Client Identifier makes way, on any node', async () => {
        const name = fresh('twice')
        const [first, second] = [await wire(name), await wire(name, there)]
        expect(await first.untilClosed()).toMatchObject(
          version === 5 ? [{ cmd: 'disconnect', reasonCode: 0x8e }] : [],
        )
        expect(await second.settled()).toEqual([])
      })

      test('[MQTT-3.2.0-1] [MQTT-3.2.0-2] [MQTT311-3.2.0-1] a session with messages: CONNACK first, and one', async () => {
        const [name, topic] = [fresh('first'), fresh('first')]
        const before = await wire(name, there, lasting)
        await subscribe(before, [topic, 1])
        await cut(before)
        await publish(await wire(fresh('from')), topic, 'waits')
        const again = await wire(name, elsewhere, lasting) // fails unless CONNACK comes first
        expect(text(await take(again))).toBe('waits')
        expect(await again.settled()).toEqual([])
      })

      test('[MQTT-3.12.4-1] [MQTT311-3.12.4-1] PINGREQ is answered', async () => {
        const client = await wire(fresh('ping'))
        client.send({ cmd: 'pingreq' })
        await client.next('pingresp')
      })
    })

    describe('sessions', () => {
      test('[MQTT-3.1.2-4] [MQTT-3.1.2-5] [MQTT-3.1.2-6] [MQTT-3.1.4-4] [MQTT-3.2.2-2] [MQTT-3.2.2-3] [MQTT311-3.1.2-4] [MQTT311-3.1.2-6] [MQTT311-3.1.4-3] [MQTT311-3.2.2-1] [MQTT311-3.2.2-2] [MQTT311-3.2.2-3] it goes on, or begins anew, as CONNECT says', async () => {
        const [name, topic] = [fresh('session'), fresh('session')]
        const from = await wire(fresh('from'))
        const first = await wire(name, here, lasting)
        expect(first.connack.sessionPresent).toBe(false)
        await subscribe(first, [topic, 1])
        await cut(first)
        const second = await wire(name, there, lasting)
        expect(second.connack.sessionPresent).toBe(true)
        await publish(from, topic, 'goes on')
        await comes(second, from, ['goes on'])
        await cut(second)
        const third = await wire(name, elsewhere, { ...lasting, clean: true })
        expect(third.connack.sessionPresent).toBe(false)
        await publish(from, topic, 'nobody')
        await comes(third, from, [])
        await cut(third)
        // of 3.1.1 it ended with its connection; of 5 Session Expiry Interval says
        expect((await wire(name, here, lasting)).connack.sessionPresent).toBe(version === 5)
      })

      test('[MQTT-3.1.2-23] [MQTT-4.1.0-1] [MQTT-4.5.0-1] [MQTT311-3.1.2-5] [MQTT311-4.1.0-1] [MQTT311-4.1.0-2] [MQTT311-4.5.0-1] what is published for it meanwhile is kept, QoS 1 and 2', async () => {
        const [name, topic] = [fresh('away'), fresh('away')]
        const first = await wire(name, there, lasting)
        await subscribe(first, [`${topic}/+`, 2])
        await cut(first)
        const from = await wire(fresh('from'))
        for (const qos of [1, 2] as const) await publish(from, `${topic}/${qos}`, `${qos}`, { qos })
        const again = await wire(name, elsewhere, lasting)
        expect([text(await take(again)), text(await take(again))].sort()).toEqual(['1', '2'])
      })

      test('[MQTT311-3.1.2-7] what is retained outlives the session that published it', async () => {
        const topic = fresh('outlives')
        const from = await wire(fresh('from'))
        await publish(from, topic, 'kept', { retain: true })
        await cut(from)
        const to = await wire(fresh('to'), there)
        await subscribe(to, [topic, 1])
        expect(await take(to)).toMatchObject({ retain: true, payload: Buffer.from('kept') })
        await publish(to, topic, '', { retain: true })
      })

      /**
       * A session with a PUBLISH of QoS 1 and one of QoS 2 in flight, of whose second one PUBREC is sent
       * where asked.
       */
      async function interrupted(pubrecs: boolean): Promise<{ name: string; sent: IPublishPacket[] }> {
        const [name, topic] = [fresh('interrupted'), fresh('interrupted')]
        const first = await wire(name, there, lasting)
        await subscribe(first, [topic, 2])
        const from = await wire(fresh('from'))
        await publish(from, topic, 'one', { qos: 1 })
        await publish(from, topic, 'two', { qos: 2 })
        const sent = [await first.next('publish'), await first.next('publish')]
        if (pubrecs) {
          first.send({ cmd: 'pubrec', messageId: sent[1]!.messageId! })
          await first.first('pubrel')
        }
        await cut(first)
        return { name, sent }
      }

      test('[MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.3.2-3] [MQTT-4.3.3-3] [MQTT-4.6.0-1] [MQTT311-4.4.0-1] [MQTT311-3.3.1-1] [MQTT311-4.6.0-1] what is unacknowledged comes again, in its order, with DUP and its identifiers', async () => {
        const { name, sent } = await interrupted(false)
        expect(sent.map(({ dup }) => dup)).toEqual([false, false])
        const again = await wire(name, elsewhere, lasting)
        for (const { messageId, payload, qos } of sent)
          expect(await again.next('publish')).toMatchObject({ messageId, payload, qos, dup: true })
      })

      test('[MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT311-4.3.3-1] behind PUBREC it is PUBREL that comes again, not PUBLISH, until PUBCOMP', async () => {
        const { name, sent } = await interrupted(true)
        for (let round = 0; round < 2; round++) {
          const again = await wire(name, round === 0 ? elsewhere : here, lasting)
          const came = [await again.any(), await again.any()]
          expect(came.find(({ cmd }) => cmd === 'publish')).toMatchObject({ messageId: sent[0]!.messageId })
          expect(came.find(({ cmd }) => cmd === 'pubrel')).toMatchObject({ messageId: sent[1]!.messageId })
          if (round === 1) again.send({ cmd: 'pubcomp', messageId: sent[1]!.messageId! })
          if (round === 1) again.send({ cmd: 'puback', messageId: sent[0]!.messageId! })
          expect(await again.settled()).toEqual([])
          await cut(again)
        }
        expect(await (await wire(name, there, lasting)).settled()).toEqual([])
      })

      if (version === 5) {
        test('[MQTT-4.4.0-2] [MQTT-4.3.3-9] a PUBACK or PUBREC that refuses is an acknowledgement: it does not come again', async () => {
          const [name, topic] = [fresh('refuses'), fresh('refuses')]
          const first = await wire(name, there, lasting)
          await subscribe(first, [topic, 2])
          const from = await wire(fresh('from'))
          for (const qos of [1, 2] as const) {
            await publish(from, topic, `${qos}`, { qos })
            const { messageId } = await first.next('publish')
            first.send({ cmd: qos === 1 ? 'puback' : 'pubrec', messageId: messageId!, reasonCode: 0x83 })
          }
          expect(await first.settled()).toEqual([])
          await cut(first)
          expect(await (await wire(name, elsewhere, lasting)).settled()).toEqual([])
        })
      }
    })

    describe('wills', () => {
      test('[MQTT-3.1.2-7] [MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.1.2-14] [MQTT-3.1.2-15] [MQTT311-3.1.2-8] [MQTT311-3.1.2-9] [MQTT311-3.1.2-10] [MQTT311-3.1.2-16] [MQTT311-3.1.2-17] is published once, at its QoS, retained or not', async () => {
        const [to, from] = [await wire(fresh('to'), there), await wire(fresh('from'))]
        for (const [qos, retain] of [
          [0, false],
          [1, true],
          [2, false],
        ] as const) {
          const topic = fresh('will')
          await subscribe(to, [topic, 2])
          await dies(topic, { qos, retain })
          expect(await take(to)).toMatchObject({ topic, qos, retain: false })
          await comes(to, from, [])
          const late = await wire(fresh('late'), elsewhere)
          await subscribe(late, [topic, 1])
          await comes(late, from, retain ? ['gone'] : [])
          if (!retain) continue
          await publish(from, topic, '', { retain: true })
          await take(to)
        }
      })

      test('[MQTT-3.14.4-3] [MQTT-3.1.2-10] [MQTT311-3.14.4-3] [MQTT311-3.1.2-10] [MQTT311-3.1.2-12] is void behind DISCONNECT; without a will nothing is published', async () => {
        const [to, from, topic] = [await wire(fresh('to'), there), await wire(fresh('from')), fresh('void')]
        await subscribe(to, [topic, 1])
        const client = await wire(fresh('leaves'), here, {
          will: { topic, payload: Buffer.from('void'), qos: 1, retain: false },
        })
        client.send(frame(0xe0), publishPacket(topic, 'behind it', { qos: 0 }))
        await client.untilClosed()
        await cut(await wire(fresh('without')))
        await comes(to, from, [])
      })
    })

    describe('PUBLISH', () => {
      test('[MQTT-2.2.1-5] [MQTT-3.3.4-1] [MQTT-4.3.2-4] [MQTT-4.3.3-8] [MQTT-4.3.3-11] [MQTT311-2.3.1-6] [MQTT311-3.3.4-1] [MQTT311-4.3.2-2] [MQTT311-4.3.3-2] is answered by PUBACK, or PUBREC and PUBCOMP, under its identifier', async () => {
        const from = await wire(fresh('from'))
        const topic = fresh('answers')
        for (const messageId of [1, 77, 65_535]) {
          from.send(publishPacket(topic, 'p', { qos: 1, messageId }))
          expect(await from.first('puback')).toMatchObject({ messageId })
          from.send(publishPacket(topic, 'p', { qos: 2, messageId }))
          expect(await from.first('pubrec')).toMatchObject({ messageId })
          from.send({ cmd: 'pubrel', messageId })
          expect(await from.first('pubcomp')).toMatchObject({ messageId })
        }
        from.send(publishPacket(topic, 'p', { qos: 0 }))
        expect(await from.settled()).toEqual([])
      })

      test('[MQTT-4.3.2-5] [MQTT-4.3.3-10] [MQTT-4.3.3-12] [MQTT-3.3.1-3] [MQTT311-4.3.2-2] [MQTT311-4.3.3-2] [MQTT311-3.3.1-3] the same identifier is the same message until PUBREL and another one behind PUBACK and PUBCOMP, whatever DUP says', async () => {
        const [to, from, topic] = [await wire(fresh('to'), there), await wire(fresh('from')), fresh('same')]
        await subscribe(to, [topic, 2])
        for (const dup of [false, true])
          await publish(from, topic, `one ${dup}`, { qos: 1, messageId: 5, dup })
        for (const dup of [false, true]) {
          from.send(publishPacket(topic, 'two', { qos: 2, messageId: 5, dup }))
          await from.first('pubrec')
        }
        from.send({ cmd: 'pubrel', messageId: 5 })
        await from.first('pubcomp')
        await publish(from, topic, 'three', { qos: 2, messageId: 5, dup: true })
        for (const payload of ['one false', 'one true', 'two', 'three'])
          expect(await take(to)).toMatchObject({ payload: Buffer.from(payload), dup: false })
        await comes(to, from, [])
      })

      test('[MQTT-2.2.1-4] [MQTT-4.3.2-1] [MQTT-4.3.2-2] [MQTT-4.3.3-1] [MQTT-4.3.3-2] [MQTT311-2.3.1-4] [MQTT311-4.3.2-1] [MQTT311-4.3.3-1] to a subscriber has an identifier that is not 0 and not in use, and DUP 0', async () => {
        const [to, from, topic] = [await wire(fresh('to'), there), await wire(fresh('from')), fresh('unused')]
        await subscribe(to, [topic, 2])
        for (let n = 0; n < 12; n++) await publish(from, topic, `${n}`, { qos: n % 2 === 0 ? 1 : 2 })
        const inUse = new Set<number>()
        for (let n = 0; n < 12; n++) {
          const { messageId, dup, qos } = await to.next('publish')
          expect([messageId! > 0, inUse.has(messageId!), dup, qos]).toEqual([
            true,
            false,
            false,
            n % 2 === 0 ? 1 : 2,
          ])
          inUse.add(messageId!)
        }
      })

      test('[MQTT-4.3.3-4] [MQTT-4.6.0-4] [MQTT311-4.6.0-4] [MQTT311-4.3.3-1] PUBREC is answered by PUBREL, in the order of the PUBRECs', async () => {
        const [to, from, topic] = [await wire(fresh('to'), there), await wire(fresh('from')), fresh('pubrel')]
        await subscribe(to, [topic, 2])
        for (let n = 0; n < 3; n++) await publish(from, topic, `${n}`, { qos: 2 })
        const ids = [await to.next('publish'), await to.next('publish'), await to.next('publish')].map(
          ({ messageId }) => messageId!,
        )
        const order = [ids[2]!, ids[0]!, ids[1]!]
        to.send(...order.map((messageId) => ({ cmd: 'pubrec', messageId }) as const))
        for (const messageId of order) expect(await to.first('pubrel')).toMatchObject({ messageId })
      })

      test('[MQTT-4.6.0-2] [MQTT-4.6.0-3] [MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT311-4.6.0-2] [MQTT311-4.6.0-3] [MQTT311-4.6.0-5] [MQTT311-4.6.0-6] answers and messages are in the order of the PUBLISHes, of each QoS', async () => {
        const [to, from, topic] = [await wire(fresh('to'), there), await wire(fresh('from')), fresh('order')]
        await subscribe(to, [topic, 2])
        const sent = Array.from({ length: 60 }, (_, n) => ({ n, qos: (n % 3) as 0 | 1 | 2 }))
        from.send(...sent.map(({ n, qos }) => publishPacket(topic, `${n}`, { qos, messageId: n + 1 })))
        const [answers, got]: [Packet[], number[][]] = [[], [[], [], []]]
        while (answers.length < 40) answers.push(await from.any())
        for (const [cmd, qos] of [
          ['puback', 1],
          ['pubrec', 2],
        ] as const)
          expect(answers.filter((answer) => answer.cmd === cmd).map(({ messageId }) => messageId)).toEqual(
            sent.filter((one) => one.qos === qos).map(({ n }) => n + 1),
          )
        for (let n = 0; n < 60; n++) {
          const packet = await to.next('publish')
          got[packet.qos]!.push(Number(text(packet)))
        }
        for (const qos of [0, 1, 2])
          expect(got[qos]).toEqual(sent.filter((one) => one.qos === qos).map(({ n }) => n))
      })

      if (version === 4)
        test('[MQTT311-3.3.5-2] one that is not allowed is acknowledged all the same', async () => {
          const from = await wire(fresh('from'))
          await publish(from, '$SYS/x', 'p')
          expect(await from.settled()).toEqual([])
        })

      test('[MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT-3.3.1-8] [MQTT311-3.3.1-5] [MQTT311-3.3.1-6] [MQTT311-3.3.1-7] [MQTT311-3.3.1-8] [MQTT311-3.3.1-9] [MQTT311-3.3.1-10] [MQTT311-3.3.1-11] [MQTT311-3.3.1-12] RETAIN: the last one is retained, an empty one takes it away, and what is not retained changes nothing', async () => {
        const [live, from, topic] = [
          await wire(fresh('live'), there),
          await wire(fresh('from')),
          fresh('retain'),
        ]
        await subscribe(live, [topic, 1])
        const retained = async (): Promise<string[]> => {
          const late = await wire(fresh('late'), elsewhere)
          await subscribe(late, [topic, 1])
          const mark = fresh('mark')
          await subscribe(late, [mark, 1])
          await publish(from, mark, 'mark')
          const got: IPublishPacket[] = []
          while (got.at(-1)?.topic !== mark) got.push(await take(late))
          const replayed = got.filter((packet) => packet.topic === topic)
          expect(replayed.every(({ retain }) => retain)).toBe(true)
          return replayed.map(text)
        }
        const expected: string[] = []
        for (const [payload, options, kept] of [
          ['a', { retain: true, qos: 1 }, ['a']],
          ['b', { retain: true, qos: 2 }, ['b']],
          ['c', { retain: false, qos: 1 }, ['b']],
          ['d', { retain: true, qos: 0 }, ['d']],
          ['', { retain: true, qos: 1 }, []],
          ['e', { retain: false, qos: 1 }, []],
        ] as const) {
          await publish(from, topic, payload, options)
          if (options.qos === 0) expect(await from.settled()).toEqual([])
          expected.push(payload)
          await expect.poll(retained).toEqual(kept)
        }
        const got: IPublishPacket[] = []
        while (got.length < expected.length) got.push(await take(live))
        expect(got.map(text).sort()).toEqual([...expected].sort())
        expect(got.some(({ retain }) => retain)).toBe(false)
      })
    })

    describe('SUBSCRIBE', () => {
      test('[MQTT-2.2.1-6] [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-3.9.3-1] [MQTT-3.9.3-2] [MQTT311-2.3.1-7] [MQTT311-3.8.4-1] [MQTT311-3.8.4-2] [MQTT311-3.8.4-4] [MQTT311-3.8.4-5] [MQTT311-3.9.3-1] [MQTT311-3.9.3-2] is answered by one SUBACK under its identifier, with a code for each filter in their order', async () => {
        const client = await wire(fresh('subscribes'))
        const deep = `a${'/a'.repeat(100)}`
        client.send({
          cmd: 'subscribe',
          messageId: 4_711,
          subscriptions: [
            { topic: 'z', qos: 2 },
            { topic: deep, qos: 1 },
            { topic: 'a', qos: 0 },
            { topic: '3', qos: 1 },
          ],
        })
        expect(await client.first('suback')).toMatchObject({
          messageId: 4_711,
          granted: [2, version === 5 ? 0x8f : 0x80, 0, 1],
        })
        expect(await client.settled()).toEqual([])
      })

      test('[MQTT-3.10.4-1] [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.10.4-6] [MQTT-3.11.3-1] [MQTT-3.11.3-2] [MQTT311-3.10.4-1] [MQTT311-3.10.4-4] [MQTT311-3.10.4-5] [MQTT311-3.10.4-6] UNSUBSCRIBE is answered by one UNSUBACK, and takes out what is the same character by character', async () => {
        const [to, from, root] = [await wire(fresh('to'), there), await wire(fresh('from')), fresh('un')]
        await subscribe(to, [`${root}/a`, 1], [`${root}/A`, 1], [`${root}/+`, 1])
        to.send({
          cmd: 'unsubscribe',
          messageId: 815,
          unsubscriptions: [`${root}/none`, `${root}/+`, `${root}/a`, `${root}/#`],
        })
        expect(await to.first('unsuback')).toMatchObject({
          messageId: 815,
          ...(version === 5 && { granted: [0x11, 0, 0, 0x11] }),
        })
        for (const name of ['a', 'A', 'b']) await publish(from, `${root}/${name}`, name)
        await comes(to, from, ['A'])
      })

      test('[MQTT-3.10.4-2] [MQTT-3.10.4-3] [MQTT311-3.10.4-2] [MQTT311-3.10.4-3] behind UNSUBACK nothing new comes, and what was begun is completed', async () => {
        const [to, from, topic] = [await wire(fresh('to'), there), await wire(fresh('from')), fresh('ends')]
        await subscribe(to, [topic, 2])
        await publish(from, topic, 'one', { qos: 1 })
        await publish(from, topic, 'two', { qos: 2 })
        const [one, two] = [await to.next('publish'), await to.next('publish')]
        to.send({ cmd: 'unsubscribe', messageId: 3, unsubscriptions: [topic] })
        await to.first('unsuback')
        await publish(from, topic, 'new')
        to.send({ cmd: 'puback', messageId: one.messageId! }, { cmd: 'pubrec', messageId: two.messageId! })
        expect(await to.first('pubrel')).toMatchObject({ messageId: two.messageId })
        to.send({ cmd: 'pubcomp', messageId: two.messageId! })
        await comes(to, from, [])
      })

      test('[MQTT-3.8.4-3] [MQTT-3.8.4-4] [MQTT311-3.8.4-3] the same filter again: another QoS, what is retained once more, and nothing lost', async () => {
        const [to, from, topic] = [await wire(fresh('to'), there), await wire(fresh('from')), fresh('again')]
        await publish(from, topic, 'kept', { retain: true })
        await subscribe(to, [topic, 0])
        expect(await take(to)).toMatchObject({ retain: true, qos: 0 })
        await subscribe(to, [topic, 1])
        expect(await take(to)).toMatchObject({ retain: true, qos: 1 })
        await publish(from, topic, 'new', { qos: 2 })
        expect(await take(to)).toMatchObject({ retain: false, qos: 1, payload: Buffer.from('new') })
        await comes(to, from, [])
        await publish(from, topic, '', { retain: true })
      })

      test('[MQTT-3.8.4-8] [MQTT-3.3.4-2] [MQTT-3.3.2-3] [MQTT311-3.8.4-6] [MQTT311-3.3.5-1] [MQTT311-3.3.2-3] messages come at the lower QoS of theirs and the highest that was granted, where they match', async () => {
        const [to, from, root] = [await wire(fresh('to'), there), await wire(fresh('from')), fresh('lower')]
        expect(await subscribe(to, [`${root}/+/x`, 0], [`${root}/1/+`, 1], [`${root}/2/#`, 2])).toEqual([
          0, 1, 2,
        ])
        for (const [level, granted] of [
          ['0', 0],
          ['1', 1],
          ['2', 2],
        ] as const)
          for (const qos of [0, 1, 2] as const) {
            await publish(from, `${root}/${level}/x`, 'p', { qos })
            expect(await take(to)).toMatchObject({ topic: `${root}/${level}/x`, qos: Math.min(qos, granted) })
          }
        await publish(from, `${root}/0/y`, 'p')
        await comes(to, from, [])
      })

      test('[MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.2-1] [MQTT311-4.7.1-2] [MQTT311-4.7.1-3] [MQTT311-4.7.2-1] wildcards match whole levels, # its parent too, and neither a topic that begins with $', async () => {
        const from = await wire(fresh('from'))
        const root = fresh('wild')
        for (const [filter, matches, not] of [
          [`${root}/#`, [root, `${root}/`, `${root}/a`, `${root}/a/b`], [`${root}x`, `x/${root}`]],
          [`${root}/+`, [`${root}/`, `${root}/a`], [root, `${root}/a/b`]],
          [`+/${root}`, [`/${root}`, `a/${root}`], [root, `$a/${root}`, `a/b/${root}`]],
          [`$a/${root}/+`, [`$a/${root}/b`], [`$b/${root}/b`]],
        ] as const) {
          const to = await wire(fresh('to'), there)
          await subscribe(to, [filter, 0])
          for (const topic of [...not, ...matches]) await publish(from, topic, topic)
          const got: string[] = []
          while (got.length < matches.length) got.push(text(await take(to)))
          expect(got.sort()).toEqual([...matches].sort())
          await comes(to, from, [])
          await cut(to)
        }
      })

      if (version === 5) {
        test('[MQTT-3.3.4-3] [MQTT-3.3.4-4] one copy with the Subscription Identifiers of all that match, live, queued and retained', async () => {
          const [name, root] = [fresh('identifiers'), fresh('identifiers')]
          const from = await wire(fresh('from'))
          await publish(from, `${root}/a`, 'kept', { retain: true })
          const to = await wire(name, there, lasting)
          for (const [filter, identifier] of [
            [`${root}/#`, 1],
            [`${root}/+`, 268_435_455],
            [`${root}/a`, undefined],
          ] as const) {
            to.send({
              cmd: 'subscribe',
              messageId: 1,
              subscriptions: [{ topic: filter, qos: 1, rh: identifier === 1 ? 0 : 2 }],
              ...(identifier && { properties: { subscriptionIdentifier: identifier } }),
            })
            await to.first('suback')
            if (identifier === 1) expect((await take(to)).properties?.subscriptionIdentifier).toBe(1)
          }
          await publish(from, `${root}/a`, 'live')
          const ids = ({ properties: { subscriptionIdentifier } = {} }: IPublishPacket): number[] =>
            [subscriptionIdentifier ?? []].flat().sort((a, b) => a - b)
          expect(ids(await take(to))).toEqual([1, 268_435_455])
          await cut(to)
          await publish(from, `${root}/a`, 'queued')
          const again = await wire(name, elsewhere, lasting)
          expect(ids(await take(again))).toEqual([1, 268_435_455])
          await publish(from, `${root}/a`, '', { retain: true })
        })

        test('[MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11] [MQTT-3.3.1-12] [MQTT-3.3.1-13] [MQTT-3.8.3-3] Retain Handling, Retain As Published and No Local', async () => {
          const [to, from, topic] = [
            await wire(fresh('to'), there),
            await wire(fresh('from')),
            fresh('options'),
          ]
          await publish(from, topic, 'kept', { retain: true })
          const again = (options: object): Promise<void> => to.subscribe(topic, options)
          for (const [options, expected] of [
            [{ rh: 2 }, []],
            [{ rh: 1 }, []],
            [{ rh: 0 }, ['kept']],
          ] as const) {
            await again(options)
            await comes(to, from, expected)
          }
          const other = await wire(fresh('other'), elsewhere)
          await other.subscribe(topic, { rh: 1 })
          await comes(other, from, ['kept'])
          for (const rap of [false, true]) {
            await again({ rh: 2, rap })
            await publish(from, topic, 'now', { retain: true })
            expect((await take(to)).retain).toBe(rap)
          }
          await again({ rh: 2, nl: true })
          await publish(from, topic, 'other’s')
          expect(text(await take(to))).toBe('other’s')
          to.send(publishPacket(topic, 'own'))
          await to.first('puback')
          await comes(to, from, [])
          await publish(from, topic, '', { retain: true })
        })
      }
    })

    describe('time', () => {
      test.concurrent(
        '[MQTT-3.1.2-22] [MQTT311-3.1.2-24] [MQTT-3.2.2-22] who is silent for one and a half times its Keep Alive is closed, whoever sends is not',
        async () => {
          const silent = await wire(fresh('silent'), here, { keepalive: 1 })
          const talking = await wire(fresh('talking'), here, { keepalive: 1 })
          const pinging = setInterval(() => talking.send({ cmd: 'pingreq' }), 300)
          const came = await silent.untilClosed()
          clearInterval(pinging)
          expect(came.map(({ cmd }) => cmd)).toEqual(version === 5 ? ['disconnect'] : [])
          expect(talking.isClosed).toBe(false)
        },
      )
      test.concurrent(
        '[MQTT-4.4.0-1] [MQTT311-4.4.0-1] nothing is sent again on the connection that it was sent on',
        async () => {
          const [to, topic] = [await wire(fresh('to'), there), fresh('once')]
          await subscribe(to, [topic, 1])
          await publish(await wire(fresh('from')), topic, 'p')
          await to.next('publish')
          await new Promise((resolve) => setTimeout(resolve, 150))
          expect(await to.settled()).toEqual([])
        },
      )
      if (version === 4) return
      test.concurrent(
        '[MQTT-4.1.0-2] it is gone when its Session Expiry Interval is over, also as DISCONNECT changed it',
        async ({ expect }) => {
          const names = [fresh('expires'), fresh('expires')]
          const short = await wire(names[0]!, here, withMore({ sessionExpiryInterval: 1 }, { clean: false }))
          const shortened = await wire(names[1]!, here, lasting)
          shortened.send({ cmd: 'disconnect', reasonCode: 0, properties: { sessionExpiryInterval: 1 } })
          await shortened.untilClosed()
          await cut(short)
          await new Promise((resolve) => setTimeout(resolve, 1_300))
          for (const name of names)
            await expect
              .poll(async () => {
                const again = await wire(
                  name,
                  there,
                  withMore({ sessionExpiryInterval: 1 }, { clean: false }),
                )
                await cut(again)
                await new Promise((resolve) => setTimeout(resolve, again.connack.sessionPresent ? 1_300 : 0))
                return again.connack.sessionPresent
              })
              .toBe(false)
        },
      )
      test.concurrent(
        '[MQTT-3.1.3-9] [MQTT-3.1.2-8] [MQTT-3.1.3-10] with a delay comes behind it, with its properties in their order, and not when its client is back',
        async () => {
          const [to, from, topic] = [
            await wire(fresh('to'), there),
            await wire(fresh('from')),
            fresh('delayed'),
          ]
          await subscribe(to, [`${topic}/+`, 1])
          const name = fresh('back')
          const bytes = bytesOf(to)
          const delayed = { properties: { willDelayInterval: 1 } }
          await dies(`${topic}/back`, delayed, lasting, name)
          const client = await open()
          const user = ['b', 'a', 'b'].map((key) => Buffer.concat([Buffer.from([0x26]), str(key), str(key)]))
          client.send(
            frame(
              0x10,
              str('MQTT'),
              5,
              0x06,
              u16(0),
              props(0x11, u32(60)),
              str(fresh('dies')),
              props(0x18, u32(1), ...user),
              str(`${topic}/gone`),
              str('gone'),
            ),
          )
          await client.next('connack')
          const before = Date.now()
          await cut(client)
          await wire(name, elsewhere, lasting)
          expect(await take(to)).toMatchObject({ topic: `${topic}/gone` })
          expect(Date.now() - before).toBeGreaterThanOrEqual(900)
          expect(bytes().includes(Buffer.concat(user))).toBe(true)
          await comes(to, from, [])
        },
      )
      test.concurrent(
        '[MQTT-4.3.3-7] [MQTT-4.3.3-13] [MQTT-3.3.2-5] what was sent does not expire: it comes again, and its exchange goes on; what was not is gone',
        async () => {
          const [name, topic] = [fresh('expired'), fresh('expired')]
          const first = await wire(name, there, withMore({ receiveMaximum: 1 }, lasting))
          await subscribe(first, [topic, 2])
          const from = await wire(fresh('from'))
          for (const payload of ['sent', 'waits'])
            await publish(from, topic, payload, { qos: 2, properties: { messageExpiryInterval: 1 } })
          const { messageId } = await first.next('publish')
          await cut(first)
          await new Promise((resolve) => setTimeout(resolve, 1_200))
          const again = await wire(name, elsewhere, lasting)
          expect(await take(again)).toMatchObject({ messageId, payload: Buffer.from('sent'), dup: true })
          await comes(again, from, [])
        },
      )
    })

    if (version === 5) {
      describe('properties', () => {
        test.each([
          [
            'live',
            async (to: () => Promise<WireClient>, send: () => Promise<void>) => {
              const client = await to()
              await send()
              return client
            },
          ],
          [
            'queued',
            async (to: () => Promise<WireClient>, send: () => Promise<void>) => {
              await cut(await to())
              await send()
              return to()
            },
          ],
        ] as const)(
          '[MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20] [MQTT-3.3.2-6] come unaltered and in their order: %s and retained',
          async (_, run) => {
            const [name, topic] = [fresh('properties'), fresh('properties')]
            const user = ['z', 'a', 'z'].map((key, n) =>
              Buffer.concat([Buffer.from([0x26]), str(key), str(`${n}`)]),
            )
            const section = Buffer.concat([
              Buffer.from([0x01, 1, 0x03]),
              str('text/plain'),
              Buffer.from([0x08]),
              str('answers'),
              Buffer.from([0x09]),
              str(Buffer.from([0, 1, 255])),
              ...user,
            ])
            const from = await wire(fresh('from'))
            let isFirst = true
            const client = await run(
              async () => {
                const to = await wire(name, isFirst ? there : elsewhere, lasting)
                if (isFirst) await subscribe(to, [topic, 1])
                isFirst = false
                return to
              },
              async () => {
                from.send(frame(0x33, str(topic), u16(1), props(section, 0x02, u32(1_000)), Buffer.from('p')))
                await from.first('puback')
              },
            )
            const late = await wire(fresh('late'), elsewhere)
            const bytes = bytesOf(late)
            await subscribe(late, [topic, 1])
            for (const packet of [await take(client), await take(late)]) {
              expect(packet.properties?.messageExpiryInterval).toBeGreaterThan(900)
              expect(packet.properties?.messageExpiryInterval).toBeLessThanOrEqual(1_000)
              expect(packet.properties).toMatchObject({
                payloadFormatIndicator: true,
                contentType: 'text/plain',
                responseTopic: 'answers',
                correlationData: Buffer.from([0, 1, 255]),
              })
            }
            expect(bytes().includes(section)).toBe(true)
            await publish(from, topic, '', { retain: true })
          },
        )

        test('[MQTT-2.2.2-1] a property section that is left out is malformed', async () => {
          const client = await wire(fresh('without'))
          client.send(frame(0x30, str('t')))
          await closes(client, [0x81])
        })

        test('[MQTT-1.5.5-1] a length of more bytes than it needs is malformed', async () => {
          const client = await wire(fresh('longer'))
          client.send(frame(0x30, str('t'), 0x80, 0))
          await closes(client, [0x81])
        })

        test('[MQTT-3.3.2-8] [MQTT-3.3.2-9] [MQTT-3.3.2-12] [MQTT-3.3.2-7] aliases of a client: up to our maximum, on their connection only', async () => {
          const [to, topic] = [await wire(fresh('to'), there), fresh('alias')]
          await subscribe(to, [topic, 0])
          const from = await wire(fresh('from'))
          const max = from.connack.properties!.topicAliasMaximum!
          from.send(
            frame(0x30, str(topic), props(0x23, u16(max)), 1),
            frame(0x30, str(''), props(0x23, u16(max)), 2),
          )
          for (const byte of [1, 2])
            expect(await to.next('publish')).toMatchObject({ topic, payload: Buffer.from([byte]) })
          for (const [alias, codes] of [
            [0, [0x82, 0x94]],
            [max + 1, [0x94]],
          ] as const) {
            const wrong = await wire(fresh('wrong'))
            wrong.send(frame(0x30, str(topic), props(0x23, u16(alias))))
            await closes(wrong, codes)
          }
          const other = await wire(fresh('other'))
          other.send(frame(0x30, str(''), props(0x23, u16(max))))
          await closes(other, [0x82])
        })

        test('[MQTT-3.3.4-6] a Subscription Identifier of a client, and [MQTT-3.3.2-14] a Response Topic with a wildcard, end its connection', async () => {
          for (const parts of [
            [0x0b, 1],
            [0x08, str('a/+')],
          ]) {
            const client = await wire(fresh('wrong'))
            client.send(frame(0x30, str('t'), props(...parts)))
            await closes(client, [0x81, 0x82, 0x90])
          }
        })
      })

      describe('Shared Subscriptions', () => {
        test('[MQTT-4.8.2-3] a message comes at the QoS that was granted to the member', async () => {
          const [from, root] = [await wire(fresh('from')), fresh('shared')]
          for (const granted of [0, 1, 2] as const) {
            const member = await wire(fresh('member'), there)
            await subscribe(member, [`$share/${root}${granted}/${root}`, granted])
            await publish(from, root, 'p', { qos: 2 })
            expect((await take(member)).qos).toBe(granted)
            await cut(member)
          }
        })

        test('[MQTT-4.8.2-4] what a member has begun of QoS 2 waits for it when it is away, and goes to nobody else', async () => {
          const [name, from, root] = [fresh('member'), await wire(fresh('from')), fresh('shared')]
          const filter = `$share/${root}/${root}`
          const first = await wire(name, there, lasting)
          expect(await subscribe(first, [filter, 2])).toEqual([2])
          await publish(from, root, 'begun', { qos: 2 })
          const { messageId } = await first.next('publish')
          const second = await wire(fresh('member'), elsewhere, lasting)
          await subscribe(second, [filter, 2])
          await cut(first)
          for (let n = 0; n < 3; n++) await publish(from, root, 'next', { qos: 2 })
          for (let n = 0; n < 3; n++) expect(text(await take(second))).toBe('next')
          const again = await wire(name, here, lasting)
          expect(await take(again)).toMatchObject({ messageId, payload: Buffer.from('begun'), dup: true })
          expect(await second.settled()).toEqual([])
        })

        test('[MQTT-4.8.2-5] [MQTT-4.8.2-6] what a member refuses, or had of QoS 2 when its session ended, goes to nobody else', async () => {
          const [from, root] = [await wire(fresh('from')), fresh('shared')]
          const filter = `$share/${root}/${root}`
          const first = await wire(fresh('member'), there)
          await subscribe(first, [filter, 2])
          for (const qos of [1, 2] as const) {
            await publish(from, root, 'refused', { qos })
            const { messageId } = await first.next('publish')
            first.send({ cmd: qos === 1 ? 'puback' : 'pubrec', messageId: messageId!, reasonCode: 0x97 })
          }
          await publish(from, root, 'begun', { qos: 2 })
          await first.next('publish')
          const second = await wire(fresh('member'), elsewhere)
          await subscribe(second, [filter, 2])
          expect(await first.settled()).toEqual([])
          await cut(first)
          const got: string[] = []
          // until the first one is known to be gone: then all of them come
          for (let n = 0; n < 100 && got.length < 2; n++) {
            await publish(from, root, 'next')
            for (const packet of await second.settled()) if (packet.cmd === 'publish') got.push(text(packet))
          }
          expect(new Set(got)).toEqual(new Set(['next']))
        })
      })

      describe('flow control', () => {
        test('[MQTT-3.3.4-9] [MQTT-3.3.4-10] [MQTT-4.9.0-1] [MQTT-4.9.0-2] [MQTT-4.9.0-3] no more in flight than Receive Maximum, and everything else goes on', async () => {
          const [to, from, topic] = [
            await wire(fresh('to'), there, withMore({ receiveMaximum: 2 })),
            await wire(fresh('from')),
            fresh('window'),
          ]
          await subscribe(to, [topic, 2])
          for (let n = 0; n < 4; n++) await publish(from, topic, `${n}`, { qos: n % 2 === 0 ? 1 : 2 })
          const [one, two] = [await to.next('publish'), await to.next('publish')]
          await publish(from, topic, 'QoS 0', { qos: 0 })
          expect(text(await to.next('publish'))).toBe('QoS 0')
          to.send(publishPacket(fresh('own'), 'own'))
          await to.first('puback')
          expect(await to.settled()).toEqual([])
          to.send({ cmd: 'puback', messageId: one.messageId! })
          expect(text(await to.next('publish'))).toBe('2')
          to.send({ cmd: 'pubrec', messageId: two.messageId! })
          await to.first('pubrel')
          expect(await to.settled()).toEqual([])
          to.send({ cmd: 'pubcomp', messageId: two.messageId! })
          expect(text(await to.next('publish'))).toBe('3')
        })

        test('[MQTT-4.9.0-2] a client that has more QoS 2 in flight than our Receive Maximum: 0x93', async () => {
          const from = await wire(fresh('from'))
          const max = from.connack.properties!.receiveMaximum!
          for (let n = 1; n <= max + 1; n++) from.send(frame(0x34, str('too/many'), u16(n), props()))
          await closes(from, [0x93])
        })

        test('[MQTT-3.1.2-24] [MQTT-3.1.2-25] a message too large for a client counts as delivered', async () => {
          const name = fresh('small')
          const [to, from, topic] = [
            await wire(name, there, withMore({ maximumPacketSize: 60 }, lasting)),
            await wire(fresh('from')),
            fresh('large'),
          ]
          await subscribe(to, [topic, 1])
          await publish(from, topic, 'x'.repeat(60))
          await publish(from, topic, 'small')
          expect(text(await take(to))).toBe('small')
          await cut(to)
          expect(await (await wire(name, elsewhere, lasting)).settled()).toEqual([])
        })

        test('[MQTT-3.2.2-20] [MQTT-3.4.2-3] [MQTT-3.5.2-3] [MQTT-3.6.2-2] [MQTT-3.6.2-3] [MQTT-3.7.2-2] [MQTT-3.7.2-3] [MQTT-3.9.2-2] [MQTT-3.11.2-2] [MQTT-3.14.2-4] [MQTT-3.14.2-2] [MQTT-3.15.2-2] [MQTT-3.15.2-3] we send no User Properties of our own, and Reason Strings only in CONNACK, PUBACK, PUBREC, SUBACK, UNSUBACK and DISCONNECT', async () => {
          const client = await wire(fresh('own'))
          client.send(
            publishPacket('$SYS/x', 'p', { qos: 1 }),
            publishPacket('$SYS/x', 'p', { qos: 2, messageId: 2 }),
            frame(0x62, u16(9)),
            frame(0x50, u16(9)),
            frame(0x82, u16(3), props(), str(`a${'/'.repeat(100)}`), 0),
            frame(0xa2, u16(4), props(), str('none')),
          )
          const came = [client.connack, ...(await client.settled())]
          client.send(frame(0x36, u16(0)))
          came.push(...(await client.untilClosed()))
          const reasoned = new Set<string>()
          for (const { cmd, properties } of came as (Packet & { properties?: Record<string, unknown> })[]) {
            expect(properties?.userProperties).toBeUndefined()
            if (cmd === 'disconnect') expect(properties?.sessionExpiryInterval).toBeUndefined()
            if (properties?.reasonString !== undefined) reasoned.add(cmd)
          }
          expect(came).toHaveLength(8)
          expect([...reasoned].sort()).toEqual(['disconnect', 'puback', 'pubrec', 'suback', 'unsuback'])
        })
      })

      test('[MQTT-3.4.2-1] [MQTT-3.5.2-1] 0x10 when nobody in the cluster is subscribed, 0 when somebody is, at another node, live or away', async () => {
        const [from, topic] = [await wire(fresh('from')), fresh('matching')]
        const code = async (qos: 1 | 2): Promise<number> => {
          from.send(publishPacket(topic, 'p', { qos }))
          const { reasonCode = 0 } = await from.first(qos === 1 ? 'puback' : 'pubrec')
          if (qos === 1) return reasonCode
          from.send({ cmd: 'pubrel', messageId: 1 })
          await from.first('pubcomp')
          return reasonCode
        }
        const both = async (): Promise<number[]> => [await code(1), await code(2)]
        expect(await both()).toEqual([0x10, 0x10])
        const live = await wire(fresh('live'), there)
        await subscribe(live, [topic, 0])
        expect(await both()).toEqual([0, 0])
        const away = await wire(fresh('away'), elsewhere, lasting)
        await subscribe(away, [topic, 2])
        await cut(away)
        await cut(live)
        expect(await both()).toEqual([0, 0])
        const member = await wire(fresh('member'), there)
        const alone = fresh('alone')
        await subscribe(member, [`$share/${alone}/${alone}`, 1])
        from.send(publishPacket(alone, 'p'))
        expect((await from.first('puback')).reasonCode ?? 0).toBe(0)
      })

      test('[MQTT-3.1.2-28] [MQTT-4.12.0-6] [MQTT-4.12.0-7] what nobody asked for is not there: Response Information, an Authentication Method; and AUTH is a protocol error', async () => {
        const client = await wire(fresh('plain'))
        const { responseInformation, authenticationMethod } = client.connack.properties ?? {}
        expect([responseInformation, authenticationMethod]).toEqual([undefined, undefined])
        client.send(frame(0xf0, 0x18, 0))
        await closes(client, [0x82])
      })

      test('[MQTT-3.14.4-1] [MQTT-3.14.4-2] [MQTT-4.13.2-1] DISCONNECT is the last packet either way, and the connection is closed behind it', async () => {
        const client = await wire(fresh('last'))
        client.send(frame(0x36, u16(0)), frame(0xc0))
        expect((await client.untilClosed()).map(({ cmd }) => cmd)).toEqual(['disconnect'])
        const leaving = await wire(fresh('last'))
        leaving.send(frame(0xe0), frame(0xc0))
        expect(await leaving.untilClosed()).toEqual([])
      })

      test('[MQTT-3.2.2-8] capabilities in CONNACK are what is enforced', async () => {
        const client = await wire(fresh('capabilities'))
        const { maximumPacketSize, receiveMaximum, topicAliasMaximum, ...others } = client.connack.properties!
        expect([maximumPacketSize, receiveMaximum, topicAliasMaximum]).toEqual([1_048_576, 1_000, 100])
        for (const name of [
          'retainAvailable',
          'wildcardSubscriptionAvailable',
          'subscriptionIdentifiersAvailable',
          'maximumQoS',
        ])
          expect(others).not.toHaveProperty(name) // available, QoS 2
        const header = 1 + 3 + 2 + 1 + 1
        client.send(frame(0x30, str('t'), props(), Buffer.alloc(maximumPacketSize! - header)))
        expect(await client.settled()).toEqual([])
        client.send(frame(0x30, str('t'), props(), Buffer.alloc(maximumPacketSize! - header + 1)))
        await closes(client, [0x95])
      })
    }
    if (version === 4)
      test('[MQTT311-7.0.0-2] [MQTT311-7.1.1-1] nothing beyond the standard is needed: CONNECT, PUBLISH, DISCONNECT in bytes', async () => {
        const client = await open()
        client.send(Buffer.from('100e00044d5154540402003c00026131', 'hex'))
        await client.next('connack')
        client.send(Buffer.from('3003000174e000', 'hex'))
        expect(await client.untilClosed()).toEqual([])
      })
  })
})
