// Shared Subscriptions: each message to one member of the group, wherever its members are connected (MQTT 5
// section 4.8.2).
import { describe, expect, test } from 'vitest'
import type { TestClient } from '../support/client.ts'
import { situation, type Place } from '../support/situation.ts'
import { frame, properties, str, u16 } from '../support/wire.ts'

const numbered = (count: number): string[] => Array.from({ length: count }, (_, n) => String(n))

/** What each of them got since it was asked last, once all of it came. */
async function shared(members: readonly TestClient[], count: number): Promise<string[][]> {
  const all = members.map(() => [] as string[])
  const take = (): number => {
    members.forEach((member, i) => all[i]!.push(...member.takeAll()))
    return all.flat().length
  }
  await expect.poll(take).toBeGreaterThanOrEqual(count)
  await Promise.all(members.map((member) => member.settle()))
  take()
  return all
}

async function publishAll(publisher: TestClient, topic: string, qos: 0 | 1 | 2, count = 20): Promise<void> {
  await Promise.all(numbered(count).map((payload) => publisher.publish(topic, payload, { qos })))
}

const sorted = (payloads: string[][]): string[] => payloads.flat().sort((a, b) => Number(a) - Number(b))

/** Members here and there, of both versions. */
async function membersOf(place: Place, name: string, group: string, qos: 0 | 1 | 2): Promise<TestClient[]> {
  const members = [
    await place.connect(`${name}-a`, { version: 5 }),
    await place.connectThere(`${name}-b`, { version: 4 }),
    await place.connectThere(`${name}-c`, { version: 5 }),
  ]
  for (const member of members) await member.subscribe(group, { qos })
  return members
}

situation('groups', (place) => {
  test.each([0, 1, 2] as const)('QoS %i: each message comes to exactly one member', async (qos) => {
    const members = await membersOf(place, `one-${qos}`, `$share/g/one/${qos}/#`, qos)
    const publisher = await place.connect(`one-${qos}-publisher`)
    await publishAll(publisher, `one/${qos}/x`, qos)
    const got = await shared(members, 20)
    expect(sorted(got)).toEqual(numbered(20))
    for (const each of got) expect(each.length).toBeGreaterThan(0)
  })

  test('a client has ordinary and shared subscriptions, and each delivers', async () => {
    const client = await place.connectThere('both')
    await client.subscribe('both/#', { properties: { subscriptionIdentifier: 1 } })
    await client.subscribe('$share/g/both/+', { properties: { subscriptionIdentifier: 2 } })
    await client.subscribe('$share/h/both/+', { properties: { subscriptionIdentifier: 3 } })
    await (await place.connect('both-publisher')).publish('both/x', 'all')
    await client.receives(Array(3).fill({ topic: 'both/x', payload: 'all', qos: 1 }))
    expect(client.packets.map(({ properties }) => properties?.subscriptionIdentifier).sort()).toEqual([
      1, 2, 3,
    ])
  })

  test('each group gets each message, and QoS is the lower of the two', async () => {
    const [low, high] = [await place.connect('low'), await place.connectThere('high')]
    await low.subscribe('$share/low/levels', { qos: 0 })
    await high.subscribe('$share/high/levels', { qos: 2 })
    await (await place.connect('levels-publisher')).publish('levels', 'x', { qos: 2 })
    await low.receives([{ topic: 'levels', payload: 'x', qos: 0 }])
    await high.receives([{ topic: 'levels', payload: 'x', qos: 2 }])
  })

  test('who unsubscribes or leaves gets nothing more, the others do', async () => {
    const members = await membersOf(place, 'leaving', '$share/g/leaving', 1)
    const publisher = await place.connect('leaving-publisher')
    await members[0]!.unsubscribe('$share/g/leaving')
    await members[2]!.disconnect()
    await publishAll(publisher, 'leaving', 1)
    expect(sorted(await shared([members[1]!], 20))).toEqual(numbered(20))
    await members[0]!.receives([])
    await members[0]!.subscribe('$share/g/leaving')
    await members[1]!.disconnect()
    await publishAll(publisher, 'leaving', 1)
    expect(sorted(await shared([members[0]!], 20))).toEqual(numbered(20))
  })

  test('a member that is told to go, and has not closed its socket yet, gets nothing more: the others do', async () => {
    const told = await place.wireThere('told')
    await told.subscribe('$share/g/told')
    const other = await place.connectThere('told-other')
    await other.subscribe('$share/g/told')
    const publisher = await place.connect('told-publisher')
    told.socket.pause() // it does not see that the node ends its side
    await place.connectThere('told')
    await publishAll(publisher, 'told', 1)
    expect(sorted(await shared([other], 20))).toEqual(numbered(20))
  })
})

situation(
  'groups of ours',
  (place) => {
    test('CONNACK says that there are Shared Subscriptions', async () => {
      const { connack } = await place.connect('connack')
      expect(connack?.properties?.sharedSubscriptionAvailable).not.toBe(false)
    })

    test.each(['$share//x', '$share/g', '$share/g/', '$share/+/x', '$share/#'])(
      '[MQTT-4.8.2-1] [MQTT-4.8.2-2] %s is refused, and the filter beside it granted',
      async (filter) => {
        for (const [version, code] of [
          [5, 0x8f],
          [4, 0x80],
        ] as const) {
          const client = await place.wire(`invalid-${version}-${filter}`, { version })
          client.send(frame(0x82, u16(1), properties(version), str(filter), 1, str('x'), 1))
          expect((await client.next('suback')).granted).toEqual([code, 1])
        }
      },
    )

    test('Retained Messages do not come because of SUBSCRIBE; RETAIN as published', async () => {
      const publisher = await place.connect('retained-publisher')
      await publisher.publish('kept', 'before', { retain: true })
      const member = await place.connectThere('retained')
      await member.subscribe('$share/g/kept', { rap: true })
      await publisher.publish('kept', 'live', { retain: true })
      await member.receives([{ topic: 'kept', payload: 'live', retain: true }])
    })

    test('[MQTT-3.8.3-4] No Local is a protocol error', async () => {
      const client = await place.wire('no-local')
      client.send(frame(0x82, u16(1), properties(5), str('$share/g/x'), 5))
      expect(await client.next('disconnect')).toMatchObject({ reasonCode: 0x82 })
    })

    describe.each([
      ['round-robin', [7, 7, 6]],
      ['sticky', [20, 0, 0]],
      ['hash-topic', [20, 0, 0]],
      ['hash-client', [20, 0, 0]],
    ] as const)('%s', (strategy, shares) => {
      test(`20 messages of one client on one topic: ${shares.join(', ')}`, async () => {
        const members = await membersOf(place, strategy, `$share/${strategy}/s/${strategy}`, 1)
        const publisher = await place.connect(`${strategy}-publisher`)
        for (const payload of numbered(20)) await publisher.publish(`s/${strategy}`, payload)
        const got = await shared(members, 20)
        expect(sorted(got)).toEqual(numbered(20))
        expect(got.map(({ length }) => length).sort((a, b) => b - a)).toEqual(shares)
      })
    })

    test('local-first: a member on the publisher’s node gets it', async () => {
      const [here, there] = [await place.connect('lf-here'), await place.connectThere('lf-there')]
      for (const member of [here, there]) await member.subscribe('$share/local-first/lf')
      await publishAll(await place.connect('lf-publisher'), 'lf', 1)
      const got = await shared([here, there], 20)
      expect(sorted(got)).toEqual(numbered(20))
      if (place.name === 'two nodes' && process.env.TEST_STORE !== 'memory') expect(got[0]).toHaveLength(20)
    })

    test('demand: a member that acknowledges nothing is passed by', async () => {
      const slow = await place.wire('slow')
      await slow.subscribe('$share/g/demand')
      const quick = await place.connect('quick')
      await quick.subscribe('$share/g/demand')
      const publisher = await place.connect('demand-publisher')
      for (const payload of numbered(50)) await publisher.publish('demand', payload)
      expect((await shared([quick], 40))[0]!.length).toBeGreaterThanOrEqual(40)
    })
  },
  {
    ours: 'strategies are options of ours; Debian’s Mosquitto takes No Local and sends Retained Messages',
    argv: [
      '--group-strategies',
      ['round-robin', 'sticky', 'hash-topic', 'hash-client', 'local-first']
        .map((each) => `${each}/#=${each}`)
        .join(';'),
    ],
  },
)
