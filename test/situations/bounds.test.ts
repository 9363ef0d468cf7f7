// Who asks for more than a bound allows is told so, in the words of MQTT, and nobody else notices: filters,
// identifiers, CONNECT, publishes that are not released, the age of a session.
import { connect, type Socket } from 'node:net'
import { once } from 'node:events'
import { expect, test } from 'vitest'
import type { HeldCause, RefusalCause } from '../../broker/access/refusals.ts'
import { frame, properties, str, u16, WireClient, type Version } from '../support/wire.ts'
import { situation, type Place } from '../support/situation.ts'

const argv = [
  '--connecting-max',
  '5',
  '--connections-max',
  '40',
  '--subscriptions-max',
  '10',
  '--subscribe-filters-max',
  '12',
  '--topic-bytes-max',
  '100',
  '--topic-levels-max',
  '8',
  '--receive-maximum',
  '20',
  '--session-expiry-seconds-max',
  '1000',
  '--client-id-bytes-max',
  '30',
  '--connect-bytes-max',
  '2000',
]
const versions = [4, 5] as const
const refused = (version: Version, code: number): number => (version === 5 ? code : 0x80)

function filtersOf(client: WireClient, topics: readonly string[], qos: 0 | 1 = 1): Promise<number[]> {
  client.send({
    cmd: 'subscribe',
    messageId: 7,
    subscriptions: topics.map((topic) => ({ topic, qos, nl: false, rap: false, rh: 0 })),
  })
  return client.next('suback').then(({ granted }) => granted as number[])
}

/** What happens in `work` is counted, on some node. */
async function counted<Result>(
  place: Place,
  cause: RefusalCause | HeldCause,
  work: () => Promise<Result>,
  counter = 'refusals',
): Promise<Result> {
  const refusals = async (): Promise<number> => {
    let sum = 0
    for (const [, count] of (await place.metrics()).matchAll(
      new RegExp(`^aedes_cluster_${counter}_total\\{cause="${cause}"\\} (\\d+)`, 'gm'),
    ))
      sum += Number(count)
    return sum
  }
  const before = await refusals()
  const result = await work()
  await expect.poll(refusals).toBeGreaterThan(before)
  return result
}

const numbered = (count: number, from = 0): string[] =>
  Array.from({ length: count }, (_, n) => `f/${from + n}/+`)

situation(
  'more than a bound allows',
  (place) => {
    test.each(versions)(
      'subscriptions: the eleventh is refused alone, an UNSUBSCRIBE makes room (version %i)',
      async (version) => {
        const client = await place.wire(`subscriber-${version}`, { version })
        const quota = refused(version, 0x97)
        expect(await counted(place, 'subscriptions', () => filtersOf(client, numbered(12)))).toEqual([
          ...Array<number>(10).fill(1),
          quota,
          quota,
        ])
        // what it has it may ask for again
        expect(await filtersOf(client, ['f/3/+', 'f/10/+'], 0)).toEqual([0, quota])
        client.send({ cmd: 'unsubscribe', messageId: 8, unsubscriptions: ['f/3/+', 'f/4/+'] })
        await client.next('unsuback')
        expect(await filtersOf(client, numbered(4, 10))).toEqual([1, 1, quota, quota])
        const publisher = await place.connectThere(`publisher-${version}`)
        for (const topic of ['f/3/x', 'f/12/x', 'f/11/x']) await publisher.publish(topic, 'x', { qos: 1 })
        expect((await client.next('publish')).topic).toBe('f/11/x')
        const other = await place.wireThere(`other-${version}`, { version })
        expect(await filtersOf(other, numbered(2))).toEqual([1, 1]) // one client's bound is nobody else's
      },
    )

    test.each(versions)(
      'filters of one SUBSCRIBE: the thirteenth is refused (version %i)',
      async (version) => {
        const client = await place.wire(`many-${version}`, { version })
        const twelve = Array<string>(12).fill('same')
        expect(await filtersOf(client, twelve)).toEqual(Array(12).fill(1))
        expect(
          await counted(place, 'subscribe-filters', () => filtersOf(client, [...twelve, 'other'])),
        ).toEqual([...Array<number>(12).fill(1), refused(version, 0x97)])
        expect(await filtersOf(client, ['other'])).toEqual([1])
      },
    )

    test.each(versions)('a Shared Subscription counts as any other (version %i)', async (version) => {
      const client = await place.wire(`sharing-${version}`, { version })
      expect(
        await filtersOf(
          client,
          numbered(12).map((filter) => `$share/g/${filter}`),
        ),
      ).toEqual([...Array<number>(10).fill(1), ...Array<number>(2).fill(refused(version, 0x97))])
    })

    test.each(versions)(
      'a session resumes with what it had, and is counted again (version %i)',
      async (version) => {
        const lasting = {
          version,
          clean: false,
          ...(version === 5 && { properties: { sessionExpiryInterval: 100 } }),
        }
        const first = await place.wire(`lasting-${version}`, lasting)
        expect(await filtersOf(first, numbered(10))).toEqual(Array(10).fill(1))
        first.socket.destroy()
        await first.closed
        const again = await place.wireThere(`lasting-${version}`, lasting)
        expect(again.connack.sessionPresent).toBe(true)
        expect(await filtersOf(again, ['f/0/+', 'one/more'])).toEqual([1, refused(version, 0x97)])
      },
    )

    test.each(versions)(
      'a filter that is too long or too deep is refused, the others of its packet are not (version %i)',
      async (version) => {
        const client = await place.wire(`deep-${version}`, { version })
        const invalid = refused(version, 0x8f)
        const filters = [
          'good',
          'x'.repeat(101),
          'a/b/c/d/e/f/g/h/#',
          'a/b/c/d/e/f/g/#',
          'ü'.repeat(51),
          'good/too',
        ]
        expect(
          await counted(place, 'topic-levels', () =>
            counted(place, 'topic-bytes', () => filtersOf(client, filters)),
          ),
        ).toEqual([1, invalid, invalid, 1, invalid, 1])
      },
    )

    test.each(versions)(
      'an UNSUBSCRIBE from a filter that nobody may have is answered (version %i)',
      async (version) => {
        const client = await place.wire(`deeper-${version}`, { version })
        client.send({
          cmd: 'unsubscribe',
          messageId: 9,
          unsubscriptions: ['none', '/'.repeat(99), '/'.repeat(100)],
        })
        const { granted } = await client.next('unsuback')
        if (version === 5) expect(granted).toEqual([0x11, 0x11, 0x11])
      },
    )

    test.each([
      ['x'.repeat(101), 0x90],
      ['/a/b/c/d/e/f/g/h', 0x90],
    ])('a topic that is too long or too deep ends the connection: %s', async (topic, code) => {
      const client = await place.wire('talker')
      client.send({
        cmd: 'publish',
        topic: topic.slice(1),
        payload: 'x',
        qos: 1,
        messageId: 1,
        retain: false,
        dup: false,
      })
      await client.next('puback')
      client.send({ cmd: 'publish', topic, payload: 'x', qos: 1, messageId: 1, retain: false, dup: false })
      expect(await client.untilClosed()).toMatchObject([{ cmd: 'disconnect', reasonCode: code }])
    })

    test('[MQTT-3.1.3-8] a Client Identifier that is too long: 0x85, or 2 for 3.1.1', async () => {
      const name = 'c'.repeat(31)
      expect(
        (await counted(place, 'client-id', () => place.wire(name, { version: 5 }))).connack.reasonCode,
      ).toBe(0x85)
      const old = await place.wire(name, { version: 4 })
      expect(old.connack.returnCode).toBe(2)
      await old.closed
      expect((await place.wire('c'.repeat(30))).connack.reasonCode).toBe(0)
      const { assignedClientIdentifier } = (await place.wire('')).connack.properties!
      // it may come again with what it was given
      expect((await place.wire(assignedClientIdentifier!)).connack.reasonCode).toBe(0)
    })

    test('a CONNECT that is too large: 0x95 before the rest of it is sent; 3.1.1 has no word for it', async () => {
      const connect = (version: Version): Buffer =>
        frame(0x10, str('MQTT'), version, 2, u16(0), properties(version), str('large'), Buffer.alloc(3_000))
      const fits = (version: Version): Buffer =>
        frame(
          0x10,
          str('MQTT'),
          version,
          0xc2,
          u16(0),
          properties(version),
          str('fits'),
          str('u'),
          str('p'.repeat(version === 5 ? 1_975 : 1_976)),
        )
      for (const version of versions) {
        expect(fits(version)).toHaveLength(2_000)
        const client = await WireClient.open(place.here, version)
        client.send(fits(version))
        expect(await client.next('connack')).toMatchObject(
          version === 5 ? { reasonCode: 0 } : { returnCode: 0 },
        )
        client.socket.destroy()
      }
      for (const begun of [12, 3_000]) {
        const client = await WireClient.open(place.here)
        expect(
          await counted(place, 'connect-bytes', () => {
            client.send(connect(5).subarray(0, begun))
            return client.untilClosed()
          }),
        ).toMatchObject([{ cmd: 'connack', reasonCode: 0x95 }])
      }
      const old = await WireClient.open(place.here, 4)
      old.send(connect(4).subarray(0, 12))
      expect(await old.untilClosed()).toEqual([])
    })

    test('connections that do not say who they are: the oldest makes room', async () => {
      const silent: WireClient[] = []
      await counted(place, 'connecting', async () => {
        for (let n = 0; n < 6; n++) silent.push(await WireClient.open(place.here))
        await silent[0]!.untilClosed()
      })
      expect(silent.slice(1).some(({ isClosed }) => isClosed)).toBe(false)
      const [last] = silent.slice(-1)
      last!.send({
        cmd: 'connect',
        protocolId: 'MQTT',
        protocolVersion: 5,
        clean: true,
        clientId: 'slow',
        keepalive: 0,
      })
      expect((await last!.next('connack')).reasonCode).toBe(0)
      for (const client of silent) client.socket.destroy()
    })

    test.each([
      [5, 20],
      [4, 200],
    ] as const)('QoS 2 publishes that are not released: version %i may have %i', async (version, most) => {
      const heir = await place.connectThere(`heir-${version}`)
      await heir.subscribe(`unreleased/${version}`)
      const client = await place.wire(`unreleased-${version}`, {
        version,
        will: { topic: `unreleased/${version}`, payload: Buffer.from('it was ended'), qos: 1, retain: false },
      })
      const publish = (messageId: number): void =>
        client.send({
          cmd: 'publish',
          topic: 'q',
          payload: 'x',
          qos: 2,
          messageId,
          retain: false,
          dup: false,
        })
      for (let round = 0; round < 2; round++) {
        for (let id = 1; id <= most; id++) publish(id)
        for (let id = 1; id <= most; id++) expect((await client.next('pubrec')).messageId).toBe(id)
        if (round === 1) break
        for (let id = 1; id <= most; id++) client.send({ cmd: 'pubrel', messageId: id })
        for (let id = 1; id <= most; id++) await client.next('pubcomp')
      }
      client.send({
        cmd: 'publish',
        topic: 'q',
        payload: 'x',
        qos: 2,
        messageId: 1,
        retain: false,
        dup: true,
      }) // one of those: no more than before
      expect((await client.next('pubrec')).messageId).toBe(1)
      const end = await counted(place, 'receive-maximum', () => {
        publish(most + 1)
        return client.untilClosed()
      })
      expect(end).toMatchObject(version === 5 ? [{ cmd: 'disconnect', reasonCode: 0x93 }] : [])
      // its session is released, whatever was under way
      await heir.receives([{ topic: `unreleased/${version}`, payload: 'it was ended' }])
    })

    test('a QoS 1 publisher that does not wait is held back, not ended', async () => {
      const client = await place.wire('eager')
      await counted(
        place,
        'publishes',
        async () => {
          for (let id = 1; id <= 500; id++)
            client.send({
              cmd: 'publish',
              topic: 'e',
              payload: 'x',
              qos: 1,
              messageId: id,
              retain: false,
              dup: false,
            })
          for (let id = 1; id <= 500; id++) expect((await client.next('puback')).messageId).toBe(id)
        },
        'held_back',
      )
    })

    test('a session lives no longer than it may, and its client is told (3.2.2.3.2)', async () => {
      const expiryTold = async (sessionExpiryInterval: number): Promise<number | undefined> =>
        (await place.wire('old', { version: 5, properties: { sessionExpiryInterval } })).connack.properties
          ?.sessionExpiryInterval
      expect(await expiryTold(0xffffffff)).toBe(1_000)
      expect(await expiryTold(1_001)).toBe(1_000)
      expect(await expiryTold(1_000)).toBeUndefined() // as it asked
    })

    test('as many clients as a node may have: one more is told to go elsewhere, 0x97 or 3', async () => {
      const clients = []
      for (;;) {
        const client = await place.wire(`one-of-many-${clients.length}`)
        if (client.connack.reasonCode !== 0) break
        clients.push(client)
      }
      expect((await counted(place, 'connections', () => place.wire('one-more'))).connack.reasonCode).toBe(
        0x97,
      )
      expect((await place.wire('one-more', { version: 4 })).connack.returnCode).toBe(3)
      const lingering: Socket[] = [] // who was refused and does not go takes nobody's place
      for (let n = 0; n < 3; n++) {
        const socket = connect({
          port: Number(new URL(place.here).port),
          host: '127.0.0.1',
          allowHalfOpen: true,
        })
        lingering.push(socket.on('error', () => undefined))
        socket.write(frame(0x10, str('MQTT'), 5, 2, u16(0), 0, str(`lingering-${n}`)))
        await once(socket, 'data')
      }
      const [first] = clients
      first!.send({ cmd: 'disconnect' })
      await first!.closed
      expect((await place.wire('takes-its-place')).connack.reasonCode).toBe(0)
      for (const socket of lingering) socket.destroy()
      const here = (await place.metrics()).match(/^aedes_cluster_connections (\d+)$/m)
      expect(here?.[1]).toBe('40')
      // who is connected here takes its own place: its old connection may be half-open
      for (const version of versions) {
        const again = await place.wire('one-of-many-1', { version })
        expect(again.connack).toMatchObject(version === 5 ? { reasonCode: 0 } : { returnCode: 0 })
        clients.push(again)
      }
      await clients[1]!.untilClosed()
      expect((await place.wire('one-more-still')).connack.reasonCode).toBe(0x97)
      for (const client of clients) client.socket.destroy()
      await expect.poll(async () => (await place.wire('at-last')).connack.reasonCode).toBe(0)
    })
  },
  { ours: 'the bounds are options of ours', argv },
)

const lasting = (version: Version) => ({
  version,
  clean: false,
  ...(version === 5 && { properties: { sessionExpiryInterval: 100 } }),
})

situation(
  'more sessions, and more for one of them, than a cluster holds',
  (place) => {
    test.each(versions)(
      'as many sessions as there may be, and one more, also of who is connected with one that ends with its connection (version %i)',
      async (version) => {
        const names = Array.from({ length: 18 }, (_, n) => `exact-${version}-${n}`)
        const [passing, second, first, ...others] = names
        const code = async (name: string, options = lasting(version)): Promise<number | undefined> => {
          const { reasonCode, returnCode } = (await place.wire(name, options)).connack
          return reasonCode ?? returnCode
        }
        const quota = version === 5 ? 0x97 : 3
        for (const name of others) expect(await code(name)).toBe(0)
        expect(await code(first!)).toBe(0) // the sixteenth
        expect(await counted(place, 'sessions', () => code(second!))).toBe(quota)
        expect(await code(passing!, { version, clean: true })).toBe(0)
        expect(await counted(place, 'sessions', () => code(passing!))).toBe(quota)
        expect(await code(first!)).toBe(0)
        const end = async (name: string): Promise<void> => {
          const last = await place.wireThere(name, { version }) // it takes the place of the lasting one
          last.send({ cmd: 'disconnect' })
          await last.untilClosed()
        }
        await end(first!)
        await expect.poll(() => code(passing!)).toBe(0)
        for (const name of [passing!, ...others]) await end(name)
      },
    )

    test('a new session is refused, 0x97 or 3; who has one resumes it, and who needs none is served', async () => {
      const open: string[] = []
      for (let n = 0; n < 20; n++) {
        const version = n % 2 === 0 ? 5 : 4
        const client = await (n < 10 ? place.wire : place.wireThere)(`sleeper-${n}`, lasting(version))
        const { reasonCode, returnCode } = client.connack
        if ((reasonCode ?? returnCode) === 0) open.push(`sleeper-${n}`)
        else expect(version === 5 ? reasonCode : returnCode).toBe(version === 5 ? 0x97 : 3)
        client.socket.destroy()
      }
      expect(open).toHaveLength(16)
      for (const name of open)
        expect((await place.wireThere(name, lasting(5))).connack).toMatchObject({
          reasonCode: 0,
          sessionPresent: true,
        })
      expect((await place.wire('sleeper-of-no-session')).connack.reasonCode).toBe(0)
    })

    test('more Retained Messages than the nodes remember topics of: 0x97, or not retained; known topics may be changed and cleared', async () => {
      const publisher = await place.wire('retainer')
      const put = async (topic: string, payload = 'x'): Promise<number> => {
        publisher.send({ cmd: 'publish', topic, payload, qos: 1, messageId: 1, retain: true, dup: false })
        const { reasonCode = 0 } = await publisher.next('puback')
        return reasonCode === 0x10 ? 0 : reasonCode // nobody is subscribed
      }
      let last = 0
      await counted(place, 'retained', async () => {
        while ((await put(`retained/${last}`)) === 0) last++
      })
      expect(last).toBeGreaterThan(5)
      expect(last).toBeLessThan(40)
      expect(await put('retained/0', 'y')).toBe(0)
      const old = await place.wireThere('old-retainer', { version: 4 })
      await old.subscribe('fresh/#')
      old.send({
        cmd: 'publish',
        topic: 'fresh/1',
        payload: 'x',
        qos: 1,
        messageId: 1,
        retain: true,
        dup: false,
      })
      expect([(await old.any()).cmd, (await old.any()).cmd].sort()).toEqual(['puback', 'publish'])
      for (const version of versions) {
        // a will is a PUBLISH that cannot be refused
        const will = {
          topic: `fresh/will-${version}`,
          payload: Buffer.from('x'),
          qos: 1 as const,
          retain: true,
        }
        await counted(place, 'retained', async () =>
          (await place.wireThere(`will-${version}`, { version, will })).socket.destroy(),
        )
        expect((await old.next('publish')).topic).toBe(will.topic)
      }
      const late = await place.wireThere('late')
      await late.subscribe('fresh/#')
      old.send({
        cmd: 'publish',
        topic: 'fresh/2',
        payload: 'x',
        qos: 1,
        messageId: 2,
        retain: false,
        dup: false,
      })
      expect((await late.next('publish')).topic).toBe('fresh/2')
      expect(await put('retained/0', '')).toBe(0)
      await expect.poll(() => put('retained/again')).toBe(0) // the room of the one that is cleared
    })

    test('Topic Aliases for more than a connection remembers: 0x97', async () => {
      const client = await place.wire('aliases')
      const name = (topicAlias: number): void =>
        client.send({
          cmd: 'publish',
          topic: String(topicAlias).repeat(60_000),
          payload: 'x',
          qos: 0,
          retain: false,
          dup: false,
          properties: { topicAlias },
        })
      for (let topicAlias = 1; topicAlias <= 4; topicAlias++) name(topicAlias)
      expect(await client.settled()).toEqual([])
      expect(
        await counted(place, 'alias-bytes', () => {
          name(5)
          return client.untilClosed()
        }),
      ).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x97 }])
    })

    test('the largest packet there may be is a bound of CONNECT, too: 0x95', async () => {
      const client = await WireClient.open(place.here)
      const connect = frame(0x10, str('MQTT'), 5, 2, u16(0), 0, str('large'), Buffer.alloc(70_000))
      expect(
        await counted(place, 'connect-bytes', () => {
          client.send(connect.subarray(0, 100))
          return client.untilClosed()
        }),
      ).toMatchObject([{ cmd: 'connack', reasonCode: 0x95 }])
    })

    test.each(versions)(
      'a packet that is too large: 0x95, or the end of the connection (version %i)',
      async (version) => {
        const client = await place.wire(`packets-${version}`, { version })
        const publish = (bytes: number): Buffer =>
          frame(0x32, str('p'), u16(1), properties(version), Buffer.alloc(bytes - (version === 5 ? 10 : 9)))
        expect(publish(70_000)).toHaveLength(70_000)
        client.send(publish(70_000))
        await client.next('puback')
        const end = await counted(place, 'packet-bytes', () => {
          client.send(publish(70_001))
          return client.untilClosed()
        })
        expect(end).toMatchObject(version === 5 ? [{ cmd: 'disconnect', reasonCode: 0x95 }] : [])
      },
    )

    test('of large messages for a session that is away the newest are kept', async () => {
      for (let n = 0; n < 16; n++)
        // ends its session: whoever is connected has one, too
        (await place.wire(`sleeper-${n}`, { version: 5, clean: true })).socket.destroy()
      const name = 'large'
      const taken = async (): Promise<number | undefined> => {
        sleeper = await place.wire(name, lasting(4))
        return sleeper.connack.returnCode
      }
      let sleeper!: Awaited<ReturnType<typeof place.wire>>
      await expect.poll(taken).toBe(0)
      await sleeper.subscribe('large/#')
      sleeper.socket.destroy()
      await sleeper.closed
      const publisher = await place.connectThere('large-publisher')
      for (let n = 0; n < 30; n++) await publisher.publish(`large/${n}`, Buffer.alloc(20_000), { qos: 1 })
      const again = await place.wireThere(name, lasting(4))
      const topics: string[] = []
      for (const packet of await again.settled()) if (packet.cmd === 'publish') topics.push(packet.topic)
      while (topics.at(-1) !== 'large/29') topics.push((await again.next('publish')).topic)
      expect(topics.length).toBeGreaterThan(5)
      expect(topics.length).toBeLessThan(11)
      expect(topics).toEqual(
        Array.from({ length: topics.length }, (_, i) => `large/${30 - topics.length + i}`),
      )
    })
  },
  {
    ours: 'the bounds are options of ours',
    argv: [
      '--packet-bytes-max',
      '70000',
      '--sessions-max',
      '16',
      '--queue-bytes-max',
      '200000',
      '--retained-bytes-max',
      '6000',
    ],
  },
)
