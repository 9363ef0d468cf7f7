// A will is a PUBLISH that the broker makes for its client: what holds for a PUBLISH holds for it.
import { expect, test } from 'vitest'
import { situation, type Place } from '../support/situation.ts'
import { frame, properties, str, u16, u32, WireClient } from '../support/wire.ts'

type Will = NonNullable<NonNullable<Parameters<typeof WireClient.connect>[2]>['will']>
const lasting = { clean: false, properties: { sessionExpiryInterval: 600 } } as const
const will = (topic: string, more: Partial<Will> = {}): { will: Will } => ({
  will: { topic, payload: Buffer.from('gone'), qos: 1, retain: false, ...more },
})

async function drop(client: WireClient): Promise<void> {
  client.socket.destroy()
  await client.closed
}

/** CONNECT of MQTT 5 with a will whose properties are these bytes. */
const connect = (clientId: string, topic: string, ...willProperties: (Buffer | number)[]): Buffer =>
  frame(
    0x10,
    str('MQTT'),
    5,
    0x0e,
    u16(0),
    properties(5),
    str(clientId),
    properties(5, ...willProperties),
    str(topic),
    str('gone'),
  )

const asked = async ({ here }: Place, bytes: Buffer): Promise<WireClient> => {
  const client = await WireClient.open(here)
  client.send(bytes)
  return client
}

situation('wills', (place) => {
  const { wire, wireThere } = place

  test.each([0, 1, 2] as const)('QoS %i: it comes at its QoS, and a retained one stays', async (qos) => {
    const watcher = await wireThere(`watcher ${qos}`)
    await watcher.subscribe(`will/${qos}/#`, { qos: 2 })
    await drop(await wire(`plain ${qos}`, will(`will/${qos}/plain`, { qos })))
    expect(await watcher.next('publish')).toMatchObject({
      topic: `will/${qos}/plain`,
      payload: Buffer.from('gone'),
      qos,
      retain: false,
    })
    await drop(await wire(`retained ${qos}`, will(`will/${qos}/retained`, { qos, retain: true })))
    expect(await watcher.next('publish')).toMatchObject({ topic: `will/${qos}/retained`, qos })
    const late = await wireThere(`late ${qos}`)
    await late.subscribe(`will/${qos}/#`, { qos: 2 })
    expect(await late.next('publish')).toMatchObject({
      topic: `will/${qos}/retained`,
      payload: Buffer.from('gone'),
      qos,
      retain: true,
    })
    expect(await late.settled()).toEqual([])
  })

  test('its Message Expiry Interval begins when it is published, however long its connection lasted', async () => {
    const watcher = await wireThere('expiry watcher')
    await watcher.subscribe('expiry/#', { qos: 2 })
    const asleep = await wireThere('expiry asleep', lasting)
    await asleep.subscribe('expiry/#', { qos: 1 })
    await drop(asleep)
    const doomed = await Promise.all(
      [0, 1, 2].map((qos) =>
        wire(
          `expiry ${qos}`,
          will(`expiry/${qos}`, { qos: qos as 0 | 1 | 2, properties: { messageExpiryInterval: 2 } }),
        ),
      ),
    )
    await new Promise((resolve) => setTimeout(resolve, 2_200)) // what expires does so in real time
    for (const client of doomed) await drop(client)
    for (const [i] of doomed.entries())
      expect(
        (await watcher.next('publish')).properties?.messageExpiryInterval,
        `QoS ${i}`,
      ).toBeGreaterThanOrEqual(1)
    const awake = await wireThere('expiry asleep', lasting)
    expect((await awake.next('publish')).properties?.messageExpiryInterval).toBeGreaterThanOrEqual(1)
  })

  test('[MQTT-3.3.2-18] User Properties come as they were given: their order, and the same name twice', async () => {
    const pairs = [
      ['b', '1'],
      ['a', '2'],
      ['b', '3'],
      ['__proto__', '4'],
      ['a', '2'],
    ].map(([name, value]) => Buffer.concat([Buffer.from([0x26]), str(name!), str(value!)]))
    const watcher = await wireThere('order watcher')
    await watcher.subscribe('order/will')
    const raw: Buffer[] = []
    watcher.socket.on('data', (chunk: Buffer) => {
      raw.push(chunk)
    })
    const doomed = await asked(
      place,
      connect('order doomed', 'order/will', ...pairs, 0x18, u32(0), 0x03, str('text')),
    )
    await doomed.next('connack')
    await drop(doomed)
    await watcher.next('publish')
    expect(Buffer.concat(raw).includes(Buffer.concat(pairs)), Buffer.concat(raw).toString('latin1')).toBe(
      true,
    )
  })

  const refused = [
    ['a wildcard in its topic', connect('refused', 'a/+')],
    ['an empty topic', connect('refused', '')],
    ['a Content Type twice', connect('refused', 'a', 0x03, str('t'), 0x03, str('t'))],
  ] as const
  const refusedByUs = [
    ['[MQTT-3.3.2-14] a wildcard in its Response Topic', connect('refused', 'a', 0x08, str('r/#'))],
    ['an empty Response Topic', connect('refused', 'a', 0x08, str(''))],
    ['a Payload Format Indicator of 2', connect('refused', 'a', 0x01, 2)],
    ['a Topic Alias', connect('refused', 'a', 0x23, u16(1))],
    ['a Subscription Identifier', connect('refused', 'a', 0x0b, 1)],
    ['101 levels', connect('refused', `a${'/'.repeat(100)}`)],
  ] as const
  test.each(place.isOurs ? [...refused, ...refusedByUs] : refused)(
    'what PUBLISH is refused for CONNECT is: %s',
    async (_, bytes) => {
      const client = await asked(place, bytes)
      for (const packet of await client.untilClosed())
        expect((packet as { reasonCode?: number }).reasonCode).toBeGreaterThanOrEqual(0x80)
    },
  )

  const codes = [
    [0x00, false],
    [undefined, false],
    [0x04, true],
    [0x80, true],
    [0x81, true],
    [0x82, true],
    [0x83, true],
    [0x90, true],
    [0x93, true],
    [0x97, true],
    [0x99, true],
  ] as const
  // Mosquitto 2 publishes at 0x04 alone; the standard withholds at 0x00 alone (3.1.2.5).
  test.each(codes.filter(([code = 0]) => place.isOurs || code < 0x80))(
    '[MQTT-3.14.4-3] DISCONNECT with reason code %s: published %s',
    async (reasonCode, isPublished) => {
      const topic = `disconnect/${String(reasonCode)}`
      const watcher = await wireThere(`${topic} watcher`)
      await watcher.subscribe(topic, { qos: 1 })
      const leaving = await wire(`${topic} leaving`, will(topic))
      leaving.send(reasonCode === undefined ? frame(0xe0) : frame(0xe0, reasonCode))
      await leaving.untilClosed()
      await drop(await wire(`${topic} marker`, will(topic, { payload: Buffer.from('marker') })))
      const got = [String((await watcher.next('publish')).payload)]
      if (isPublished) got.push(String((await watcher.next('publish')).payload))
      expect(got).toEqual(isPublished ? ['gone', 'marker'] : ['marker'])
    },
  )

  test('[MQTT-3.8.3-3] No Local: a client does not get its own will, now or later', async () => {
    const watcher = await wireThere('local watcher')
    await watcher.subscribe('local/#')
    const own = await wire('local', { ...lasting, ...will('local/will') })
    await own.subscribe('local/#', { nl: true })
    await drop(own)
    await watcher.next('publish')
    const again = await wireThere('local', lasting)
    expect(again.connack.sessionPresent).toBe(true)
    watcher.send({
      cmd: 'publish',
      topic: 'local/marker',
      payload: 'of another client',
      qos: 1,
      messageId: 1,
      retain: false,
      dup: false,
    })
    expect((await again.next('publish')).topic).toBe('local/marker') // which is queued behind it
  })
})

situation(
  'wills on topics of the broker',
  (place) => {
    test('MQTT 5: CONNECT is refused with 0x90, and nothing is published', async () => {
      for (const [i, topic] of ['$SYS', '$SYS/broker/connection/x', '$SYS/'].entries()) {
        const client = await WireClient.open(place.here)
        client.send({
          cmd: 'connect',
          protocolId: 'MQTT',
          protocolVersion: 5,
          clean: true,
          clientId: `broker ${i}`,
          keepalive: 0,
          ...will(topic),
        })
        expect(await client.next('connack')).toMatchObject({ reasonCode: 0x90 })
        await client.untilClosed()
      }
    })

    test('MQTT 5: that of a bridge of Mosquitto is left out', async () => {
      const watcher = await place.wireThere('watches bridges')
      for (const filter of ['$SYS/broker/connection/#', 'sign/bridge'])
        await watcher.subscribe(filter, { qos: 2 })
      await drop(
        await place.wire('a bridge', will('$SYS/broker/connection/x/state', { qos: 1, retain: true })),
      )
      await drop(await place.wire('sign of a bridge', will('sign/bridge', { qos: 1 })))
      expect((await watcher.next('publish')).topic).toBe('sign/bridge')
    })

    test.each([0, 1, 2] as const)(
      'MQTT 3.1.1 has no word for it: such a will is left out, as a PUBLISH is, QoS %i',
      async (qos) => {
        const watcher = await place.wireThere(`watcher ${qos}`)
        await watcher.subscribe('+/own', { qos: 2 })
        await watcher.subscribe('$SYS/own', { qos: 2 })
        for (const retain of [false, true])
          await drop(await place.wire(`doomed ${qos}`, { version: 4, ...will('$SYS/own', { qos, retain }) }))
        await drop(await place.wire(`sign ${qos}`, { version: 4, ...will('sign/own', { qos: 1 }) }))
        expect((await watcher.next('publish')).topic).toBe('sign/own')
        const late = await place.wireThere(`late ${qos}`)
        await late.subscribe('$SYS/own')
        expect(await late.settled()).toEqual([])
      },
    )
  },
  { ours: 'Mosquitto takes wills on topics of the broker' },
)
