// What a node may rely on of its cluster, whatever keeps it: each promise on every implementation.
import { afterAll, describe, expect, test } from 'vitest'
import { isOfBefore } from '../../bridge/retained/moment.ts'
import { RouteKind } from '../../bridge/routes/routing-table.ts'
import { OwedReplay } from '../../bridge/sessions/owed-replays.ts'
import { SessionOption } from '../../bridge/sessions/session-options.ts'
import type { SessionRequest } from '../../bridge/sessions/session.ts'
import { messageOf } from '../bridge/planes.ts'
import { endAll, implementations, type Member } from './clusters.ts'

afterAll(endAll)

describe.each(Object.entries(implementations))('%s', (_name, open) => {
  const stored = (member: Member, topic: string, payload: string, more = {}): Promise<void> =>
    member.publish(messageOf(topic, payload, more))
  const willOf = (
    payload: string,
    delaySeconds = 0,
  ): { message: ReturnType<typeof messageOf>; delaySeconds: number } => ({
    message: messageOf('wills', payload, { by: { clientId: 'c' }, isWill: true }),
    delaySeconds,
  })

  test('what is published is delivered here, and done when it is stored, in order', async () => {
    await using member = await open()
    await member.cluster.addRoute('a/#', RouteKind.everything)
    const done: number[] = []
    await Promise.all([1, 2, 3].map((n) => stored(member, 'a/b', String(n)).then(() => done.push(n))))
    expect([done, member.payloads]).toEqual([
      [1, 2, 3],
      ['1', '2', '3'],
    ])
    expect([member.cluster.isWanted('a/x'), member.cluster.isWanted('b')]).toEqual([true, false])
    member.cluster.removeRoute('a/#', RouteKind.everything)
    await expect.poll(() => member.cluster.isWanted('a/x')).toBe(false)
  })

  test('a node that is asked answers itself too; why it does not is told, and who is not there is named', async () => {
    await using member = await open()
    const { nodeId, requests } = member.cluster
    const asked = async (text: string, withinMs = 10_000, of?: readonly string[]): Promise<string[]> =>
      (await requests.ask(Buffer.from(text), withinMs, of)).map(
        ({ nodeId: by, body, problem }) => `${by} ${body?.toString() ?? problem}`,
      )
    expect(await asked('early')).toEqual([`${nodeId} it is starting`])
    requests.answerWith(async (request) => {
      if (request.toString() === 'no') throw new Error('it will not')
      return Buffer.alloc(request.toString() === 'much' ? 2_000_000 : 2, request)
    })
    expect([...(await asked('yo')), ...(await asked('no')), ...(await asked('much'))]).toEqual([
      `${nodeId} yo`,
      `${nodeId} it will not`,
      `${nodeId} its answer is larger than 1048576 bytes: ask for less`,
    ])
    expect(await asked('yo', 10, ['nobody@1', nodeId])).toEqual([
      'nobody@1 no answer within 0.01 s',
      `${nodeId} yo`,
    ])
    await expect(asked('x'.repeat(100_000))).rejects.toMatchObject({ code: 'ERR_BRIDGE_ASKS' })
  })

  test('what is stored of a session is seen as it is, by pages and one by one, and who gets a topic', async () => {
    await using member = await open()
    const { inspection, nodeId } = member.cluster
    const here = await member.connect('sensor-1', { expirySeconds: 60 })
    const away = await member.connect('sensor-2', { expirySeconds: 3_600 })
    await member.connect('other')
    await away.subscribe('t/+', 1 | SessionOption.noLocal)
    await away.release()
    await stored(member, 't/1', 'first')
    await stored(member, 't/2', 'second')
    const listed = new Map<string, string | undefined>()
    for (let cursor: string | undefined = ''; cursor !== undefined;) {
      const page = await inspection.sessions(cursor, 1, 'sensor-')
      for (const entry of page.entries) listed.set(entry.clientId, entry.nodeId)
      cursor = page.next
    }
    expect([...listed].sort()).toEqual([
      ['sensor-1', nodeId],
      ['sensor-2', undefined],
    ])
    expect(await inspection.sessions('nonsense', 1)).toEqual({ entries: [], next: undefined })
    expect(await inspection.session('sensor-2')).toEqual({
      clientId: 'sensor-2',
      nodeId: undefined,
      expirySeconds: 3_600,
      endsInSeconds: expect.toSatisfy((seconds: number) => seconds > 3_500 && seconds <= 3_600) as number,
      subscriptions: [
        { filter: 't/+', qos: 1, noLocal: true, retainAsPublished: false, identifier: undefined },
      ],
      subscriptionCount: 1,
      queue: {
        messages: 2,
        bytes: expect.toSatisfy((bytes: number) => bytes > 10) as number,
        head: { topic: 't/1', qos: 1, payloadBytes: 5 },
      },
      inFlight: 0,
      incoming: 0,
    })
    expect(await inspection.session('sensor-1')).toMatchObject({ nodeId, endsInSeconds: undefined })
    expect(await inspection.session('nobody')).toBeUndefined()
    await member.cluster.addMember('$share/g/t/1')
    await member.cluster.addRoute('t/#', RouteKind.everything)
    expect(await inspection.targets('t/1')).toEqual({
      sessions: [{ clientId: 'sensor-2', qos: 1 }],
      groups: [
        { group: '$share/g/t/1', members: [{ nodeId, count: 1 }], backlog: undefined, hasBacklog: false },
      ],
      nodes: [nodeId],
      isCut: false,
    })
    expect([...inspection.groups()].map(({ group }) => group)).toEqual(['$share/g/t/1'])
    await here.release()
  })

  test('what only a group takes is not without subscribers', async () => {
    await using member = await open()
    const [before, behind] = [messageOf('a', 'before'), messageOf('a', 'behind')]
    const publish = (message: typeof before): Promise<void> =>
      new Promise((done) => member.cluster.publish(message, done))
    await publish(before)
    await member.cluster.addMember('$share/g/+')
    await publish(behind)
    expect([before.isUnmatched, behind.isUnmatched]).toEqual([true, false])
  })

  test('a session that nobody is connected to queues what it is subscribed to, at the lower QoS, in order, and no more', async () => {
    await using member = await open()
    const first = await member.connect('c')
    expect(first.session.present).toBe(false)
    await first.subscribe('t/+', 1)
    await first.release()
    for (const [n, qos] of [
      [1, 1],
      [2, 2],
      [3, 0],
    ] as const)
      await stored(member, `t/${n}`, String(n), { qos, retain: qos === 0 })
    await stored(member, 'other', 'no')
    const second = await member.connect('c')
    await second.has(2)
    expect([
      second.session.present,
      second.got.map(({ topic, qos }) => `${topic} ${qos}`),
      [...second.session.subscriptions.keys()],
    ]).toEqual([true, ['t/1 1', 't/2 1'], ['t/+']])
  })

  test('what is in flight is there again with the next connection, in its order; what was acknowledged is not; of what was received PUBREL is owed', async () => {
    await using member = await open()
    const first = await member.connect('c', {}, 4)
    await first.subscribe('t', 2)
    for (const n of [1, 2, 3, 4]) await stored(member, 't', String(n), { qos: 2 })
    await first.has(4)
    const [one, two] = [...first.open.keys()] as [number, number]
    await first.write({ acknowledged: [one], received: [two] })
    const { session } = await member.connect('c')
    expect(
      session.inFlight.map(({ message }) =>
        typeof message === 'object' ? message.payload.toString() : message,
      ),
    ).toEqual([undefined, '3', '4'])
  })

  test('the later connection has the session: the earlier one is told, and writes nothing more', async () => {
    await using member = await open()
    const first = await member.connect('c')
    await first.subscribe('t')
    const second = await member.connect('c')
    expect(member.thrownOut).toEqual([first.session])
    await first.write({ incoming: [[1, '7']] })
    expect([
      first.lost,
      await member.cluster.stillOwned(first.session),
      await member.cluster.stillOwned(second.session),
    ]).toEqual([true, false, true])
    await expect(first.subscribe('u')).rejects.toMatchObject({ code: 'ERR_BRIDGE_MOVED' })
    await first.release() // nothing happens
    await stored(member, 't', 'x')
    await second.has(1)
  })

  test('Clean Start, and an expiry of 0, end a session: it queues nothing more', async () => {
    await using member = await open()
    const first = await member.connect('c')
    await first.subscribe('t')
    const second = await member.connect('c', { cleanStart: true, expirySeconds: 0 })
    expect([
      second.session.present,
      second.session.sid === first.session.sid,
      second.session.subscriptions.size,
    ]).toEqual([false, false, 0])
    await second.subscribe('t')
    await second.release()
    await stored(member, 't', 'x')
    const third = await member.connect('c')
    await third.write({})
    expect([third.session.present, third.got]).toEqual([false, []])
  })

  test('a session is over when its time is', async () => {
    await using member = await open()
    const first = await member.connect('c', { expirySeconds: 1 })
    await first.release()
    const second = await member.connect('c', { expirySeconds: 1 })
    expect(second.session.present).toBe(true)
    await second.release()
    await new Promise((resolve) => setTimeout(resolve, 1_100))
    expect((await member.connect('c')).session.present).toBe(false)
  })

  test('a client that left before it was served has no session', async () => {
    await using member = await open()
    await expect(
      member.cluster.sessions.claim(
        { clientId: 'c', cleanStart: false, expirySeconds: -1, will: undefined },
        () => true,
      ),
    ).rejects.toMatchObject({ code: 'ERR_BRIDGE_CLOSED' })
    expect((await member.connect('c')).session.present).toBe(false)
  })

  test('a will is published when its connection breaks, or ends with its session; not behind a good-bye, nor when its client is back in time', async () => {
    await using member = await open()
    await member.cluster.addRoute('wills', RouteKind.everything)
    const broken = await member.connect('c', { will: willOf('broken') })
    await broken.release()
    await expect.poll(() => member.payloads).toEqual(['broken'])
    const polite = await member.connect('c', { will: willOf('polite') })
    await member.cluster.sessions.farewell(polite.session, true, undefined)
    await polite.release()
    const late = await member.connect('c', { will: willOf('late', 60) })
    await late.release()
    const back = await member.connect('c', { will: willOf('clean', 60) })
    await back.release()
    await member.connect('c', { cleanStart: true, will: willOf('taken over') })
    await expect.poll(() => member.payloads).toEqual(['broken', 'clean'])
    await member.connect('c')
    await expect.poll(() => member.payloads).toEqual(['broken', 'clean', 'taken over'])
  })

  test('a QoS 2 message that comes again is queued once, whoever hands it in', async () => {
    await using member = await open()
    const publisher = await member.connect('p')
    const subscriber = await member.connect('c')
    await subscriber.subscribe('t', 2)
    const by = { clientId: undefined, sid: publisher.session.sid, number: publisher.session.n + 1 }
    for (const payload of ['first', 'again']) await stored(member, 't', payload, { qos: 2, by })
    await stored(member, 't', 'next', { qos: 2, by: { ...by, number: by.number + 1 } })
    await subscriber.has(2)
    await subscriber.write({})
    expect(subscriber.payloads).toEqual(['first', 'next'])
  })

  test('No Local: a session does not queue what its own client publishes', async () => {
    await using member = await open()
    const client = await member.connect('c')
    await client.subscribe('t', 1 | SessionOption.noLocal)
    await stored(member, 't', 'own', { by: { clientId: undefined, sid: client.session.sid } })
    await stored(member, 't', 'of another')
    await client.has(1)
    expect(client.payloads).toEqual(['of another'])
  })

  test('what a publisher has said of its QoS 2 publishes is known to the next connection', async () => {
    await using member = await open()
    const first = await member.connect('c')
    await first.write({
      incoming: [
        [7, '1'],
        [8, '2 published'],
        [9, '3'],
      ],
    })
    await first.write({ released: [9] })
    const { session } = await member.connect('c')
    expect([...session.incoming]).toEqual([
      [7, { n: 1, published: false }],
      [8, { n: 2, published: true }],
    ])
    expect(session.n).toBeGreaterThanOrEqual(3)
  })

  test('many sessions at once, each touched at any moment: each gets what it is owed, once, in order', async () => {
    await using member = await open()
    const clients = await Promise.all(Array.from({ length: 100 }, (_, n) => member.connect(`c${n}`, {}, 4)))
    await Promise.all(clients.map((client) => client.subscribe('t')))
    for (const client of clients) client.isEager = true
    const payload = Buffer.alloc(2_000)
    for (let n = 0; n < 60; n++) {
      payload.write(`${n} `)
      await stored(member, 't', payload.toString())
    }
    await Promise.all(clients.map((client) => client.has(60)))
    for (const client of clients)
      expect(client.payloads.map((text) => Number.parseInt(text, 10))).toEqual(
        Array.from({ length: 60 }, (_, n) => n),
      )
  })

  test('a queue has a bound: the oldest goes', async () => {
    await using member = await open()
    const first = await member.connect('c')
    await first.subscribe('t')
    await first.release()
    for (let n = 1; n <= 63; n++) await stored(member, 't', String(n))
    const second = await member.connect('c')
    await second.has(60)
    expect([second.payloads[0], second.payloads.length]).toEqual(['4', 60])
  })

  test('a session that a user made is that one alone, until its time is over', async () => {
    await using member = await open()
    const ann = await member.connect('c', { user: 'ann' })
    const refused = async (request: Partial<SessionRequest>): Promise<void> => {
      await expect(member.connect('c', request)).rejects.toMatchObject({ code: 'ERR_BRIDGE_FOREIGN' })
    }
    await refused({ user: 'bob', cleanStart: true })
    await refused({})
    expect(member.thrownOut).toEqual([])
    expect((await member.connect('c', { user: 'ann' })).session.present).toBe(true)
    expect(member.thrownOut).toEqual([ann.session])
    // whoever may take anybody's has it from then on
    const bob = await member.connect('c', { user: 'bob', mayTakeAnybodys: true, expirySeconds: 1 })
    expect(bob.session.present).toBe(true)
    await refused({ user: 'ann' })
    await bob.release()
    await refused({ user: 'ann' })
    await expect
      .poll(() => member.connect('c', { user: 'ann' }).catch(() => undefined), { timeout: 5_000 })
      .toMatchObject({ session: { present: false } })
    // what nobody made is anybody's, and then his who took it
    await member.connect('d')
    expect((await member.connect('d', { user: 'ann' })).session.present).toBe(true)
    await expect(member.connect('d')).rejects.toMatchObject({ code: 'ERR_BRIDGE_FOREIGN' })
    // one that ends with its connection
    const short = await member.connect('e', { user: 'ann', expirySeconds: 0 })
    await expect(member.connect('e', { user: 'bob' })).rejects.toMatchObject({ code: 'ERR_BRIDGE_FOREIGN' })
    await short.release()
    await member.connect('e', { user: 'bob' })
  })

  test('sessions that outlive their connections have a bound', async () => {
    await using member = await open()
    await Promise.all(Array.from({ length: 600 }, (_, n) => member.connect(`c${n}`).catch(() => undefined)))
    await expect(
      Promise.all(Array.from({ length: 100 }, (_, n) => member.connect(`d${n}`))),
    ).rejects.toMatchObject({ code: 'ERR_BRIDGE_QUOTA' })
    await member.connect('e', { expirySeconds: 0 })
  })

  test('Retained Messages: the last one of a topic, found by filter, until it is cleared or expires', async () => {
    await using member = await open()
    const { stamps: before } = await member.cluster.stamps()
    const retained = async (filter: string): Promise<string[]> => {
      const found = await member.cluster.retained(topics, 1_000_000)
      expect(found.unread).toEqual([])
      for (const { topic, stamp } of found.messages)
        expect(isOfBefore(before, topic, stamp!), filter).toBe(false)
      return found.messages
        .map(({ topic, payload, replay }) => `${topic} ${payload.toString()} ${replay}`)
        .sort()
    }
    let topics: string[] = []
    const find = async (filter: string): Promise<string[]> => {
      const matching = await member.cluster.topics(filter)
      topics = []
      for (let next = await matching.next(); next.done !== true; next = await matching.next())
        topics.push(next.value)
      return retained(filter)
    }
    for (const [topic, payload] of [
      ['r/1', 'old'],
      ['r/1', 'new'],
      ['r/2', 'two'],
      ['s', 'other'],
      ['r/3', 'gone'],
    ] as const)
      await stored(member, topic, payload, { retain: true })
    await stored(member, 'r/3', '', { retain: true })
    await stored(member, 'r/4', 'short', {
      retain: true,
      expiresAt: performance.now() + 300,
      expirySeconds: 1,
    })
    expect(await find('r/+')).toEqual(['r/1 new true', 'r/2 two true', 'r/4 short true'])
    expect([await find('s'), await find('none')]).toEqual([['s other true'], []])
    expect([
      await member.cluster.hasRetained('r/#'),
      await member.cluster.hasRetained('none/#'),
      await member.cluster.hasRetained('s'),
    ]).toEqual([true, false, true])
    await expect.poll(() => find('r/4')).toEqual([])
    const small = await member.cluster.retained(['r/1', 'r/2'], 3)
    expect([small.messages.length, [...small.unread].sort(), small.nextBytes > 3]).toEqual([
      0,
      ['r/1', 'r/2'],
      true,
    ])
  })

  test('a replay that is owed is known to the next connection, until it is paid', async () => {
    await using member = await open()
    const first = await member.connect('c')
    await first.write({
      fields: [['replays', '1'], new OwedReplay(0, 'a/#', false, new Float64Array(1)).head],
      given: [[9, messageOf('a/1', 'kept')]],
    })
    const second = await member.connect('c')
    expect([
      second.session.replays?.all.map(({ filter }) => filter),
      second.session.inFlight.map(({ messageId }) => messageId),
    ]).toEqual([['a/#'], [9]])
    await second.write({
      fields: [
        ['replays', ''],
        ['replay 0', ''],
      ],
    })
    expect((await member.connect('c')).session.replays).toBeUndefined()
  })
})

test('memory: a session with many subscriptions ends, or gives them up, while others are served; what is published meanwhile is not queued for it', async () => {
  await using member = await implementations.memory!()
  const empty = member.cluster.routingBytes
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
  const filters = Array.from({ length: 20_000 }, (_, n) => `a/${n}/b/c/d/+`)
  const first = await member.connect('c')
  for (const filter of [...filters, 't/#']) await first.subscribe(filter)
  await member.publish(messageOf('t', 'before')) // matched, and remembered
  const second = await member.connect('c', { cleanStart: true })
  await turn()
  expect(member.cluster.routingBytes).toBeGreaterThan(empty) // others have had a turn
  await member.publish(messageOf('t', 'behind it'))
  await expect.poll(() => member.cluster.routingBytes).toBe(empty)
  for (const filter of filters) await second.subscribe(filter)
  let served = false
  setImmediate(() => {
    served = true
  })
  await member.cluster.sessions.unsubscribe(second.session, filters)
  await second.write({})
  expect([served, second.session.present, second.got, member.cluster.routingBytes, member.payloads]).toEqual([
    true,
    false,
    [],
    empty,
    ['before', 'behind it'],
  ])
})
