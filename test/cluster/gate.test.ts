// The gate of a node (broker/access/gate.ts) from outside: a program's hooks decide, at once, later or never, and
// what clients see of it on the wire.
import type { Packet } from 'mqtt-packet'
import { once } from 'node:events'
import { copyFile, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { createNode, type Config, type Hooks, type Node } from '../../broker/index.ts'
import { MemoryCluster } from '../../bridge/memory/memory-cluster.ts'
import { WireClient, type Version } from '../support/wire.ts'

const nodes: Node[] = []
afterEach(async () => {
  await Promise.all(nodes.splice(0).map((node) => node.close()))
})

async function serve(hooks: Hooks, options: Partial<Config> = {}): Promise<{ node: Node; url: string }> {
  const node = await createNode({ listen: ['mqtt://127.0.0.1:0'], ...options }, hooks)
  nodes.push(node)
  return { node, url: node.endpoints[0]! }
}

type Called = (error?: Error | null) => void
const no = new Error('no')

/** Publishes on `later…` are decided by hand, in any order, those on `no` are refused, all others may be at once. */
function byHand(): { hooks: Hooks; called: Map<string, Called>; asked: (topic: string) => Promise<void> } {
  const called = new Map<string, Called>()
  const hooks: Hooks = {
    authorizePublish: (_client, { topic }, callback) => {
      if (topic.startsWith('later')) called.set(topic, callback)
      else callback(topic === 'no' ? no : null)
    },
  }
  return { hooks, called, asked: (topic) => expect.poll(() => called.has(topic)).toBe(true) }
}

const publish = (messageId: number, topic: string, qos: 0 | 1 | 2 = 1, payload = topic): Packet => ({
  cmd: 'publish',
  topic,
  payload,
  qos,
  retain: false,
  dup: false,
  ...(qos === 0 ? {} : { messageId }),
})
const shown = (packets: readonly Packet[]): string[] =>
  packets.map((packet) => {
    const { cmd, messageId, reasonCode, granted, topic } = packet as Packet & Record<string, unknown>
    return [cmd, messageId, topic, reasonCode, granted]
      .filter((part) => part !== undefined && part !== null && part !== '')
      .join(' ')
  })
const metric = async (node: Node, cause: string): Promise<number> =>
  Number(
    new RegExp(`aedes_cluster_refusals_total\\{cause="${cause}"\\} (\\d+)`).exec(
      await node.metricsText(),
    )?.[1],
  )

test('while a PUBLISH waits for its decision what came behind it waits in its order, and a PINGREQ does not', async () => {
  const { hooks, called, asked } = byHand()
  const { url } = await serve(hooks)
  const subscriber = await WireClient.connect(url, 'subscriber')
  await subscriber.subscribe('#')
  const client = await WireClient.connect(url, 'client')
  client.send(
    publish(1, 'later/1'),
    publish(2, 'now/2'),
    publish(0, 'now/3', 0),
    publish(4, 'no'),
    publish(5, 'later/5', 2),
    { cmd: 'subscribe', messageId: 6, subscriptions: [{ topic: 'x', qos: 0 }] },
    publish(7, '$SYS/7'),
    publish(8, 'now/8'),
  )
  await asked('later/5')
  called.get('later/5')!()
  expect(await client.settled()).toEqual([]) // nothing but the PINGRESP
  called.get('later/1')!()
  const answers: Packet[] = []
  while (answers.length < 7) answers.push(await client.any())
  const acknowledged = (...types: Packet['cmd'][]): string[] =>
    shown(answers.filter(({ cmd }) => types.includes(cmd)))
  // each QoS in its order [MQTT-4.6.0-2]; the SUBACK behind all that was published before the SUBSCRIBE
  expect(acknowledged('puback')).toEqual([
    'puback 1 0',
    'puback 2 0',
    'puback 4 135',
    'puback 7 135',
    'puback 8 0',
  ])
  expect(acknowledged('pubrec', 'suback')).toEqual(['pubrec 5 0', 'suback 6 0'])
  const got = shown(await subscriber.settled())
  expect(got.filter((one) => one !== 'publish now/3')).toEqual([
    'publish 1 later/1',
    'publish 2 now/2',
    'publish 3 later/5',
    'publish 4 now/8',
  ])
  expect(got).toContain('publish now/3')
})

test.each<[Version, Partial<Config>, string[]]>([
  [5, {}, ['puback 1 135', 'pubrec 2 135', 'pubrec 2 0', 'pubcomp 2 0']],
  [4, {}, ['puback 1', 'pubrec 2', 'pubrec 2', 'pubcomp 2', 'pubrec 2', 'pubcomp 2']],
])(
  'MQTT %i, %o: a PUBLISH that is refused, its identifier, and what comes behind it',
  async (version, options, answers) => {
    const { hooks } = byHand()
    const { node, url } = await serve(hooks, options)
    const heard: string[] = []
    await node.subscribe('#', ({ topic }) => heard.push(topic))
    const client = await WireClient.connect(url, 'client', { version })
    client.send(publish(0, 'no', 0), publish(1, 'no'), publish(2, 'no', 2))
    const got = [await client.any(), await client.any()]
    const release = async (): Promise<void> => {
      client.send({ cmd: 'pubrel', messageId: 2 })
      got.push(await client.any())
    }
    if (version === 4) {
      client.send(publish(2, 'no', 2)) // once more: it is known until PUBREL
      got.push(await client.any())
      await release()
    }
    client.send(publish(2, 'yes', 2))
    got.push(await client.any())
    await release()
    expect(shown(got)).toEqual(answers)
    expect(heard).toEqual(['yes'])
    expect(await metric(node, 'denied')).toBe(3)
  },
)

test('MQTT 3.1.1 with refusedPublish: close: a PUBLISH that is refused ends its connection', async () => {
  const { url } = await serve(byHand().hooks, { refusedPublish: 'close' })
  const client = await WireClient.connect(url, 'client', { version: 4 })
  client.send(publish(1, 'no'), publish(2, 'now'))
  expect(await client.untilClosed()).toEqual([])
})

test('a decision that never comes is a refusal when its time is over: of a PUBLISH, a CONNECT, each filter', async () => {
  const never = (): void => undefined
  const { node, url } = await serve(
    { authorizePublish: never, authorizeSubscribe: never },
    { decisionTimeoutMs: 60 },
  )
  const client = await WireClient.connect(url, 'client')
  client.send(publish(1, 'x'), publish(2, 'y', 2), {
    cmd: 'subscribe',
    messageId: 3,
    subscriptions: Array.from({ length: 300 }, (_, i) => ({ topic: `t${i}`, qos: 1 as const })),
  })
  expect([
    await client.next('puback'),
    await client.next('pubrec'),
    await client.next('suback'),
  ]).toMatchObject([
    { reasonCode: 0x83 },
    { reasonCode: 0x83 },
    { granted: Array.from({ length: 300 }, () => 0x83) },
  ])
  expect(await metric(node, 'decision-late')).toBe(102) // of the filters as many as are asked about at once
  node.authenticate = never
  expect((await WireClient.connect(url, 'five')).connack).toMatchObject({ reasonCode: 0x88 })
  expect((await WireClient.connect(url, 'four', { version: 4 })).connack).toMatchObject({ returnCode: 3 })
})

test.each([
  [
    'throws',
    () => {
      throw new Error('a bug of the program')
    },
  ],
  ['rejects', () => Promise.reject(new Error('a bug of the program'))],
])('a hook that %s refuses what it was asked about, and the node lives', async (_how, hook) => {
  const { node, url } = await serve({ authorizePublish: hook, authorizeSubscribe: hook, published: hook })
  const client = await WireClient.connect(url, 'client')
  client.send(publish(1, 'x'), { cmd: 'subscribe', messageId: 2, subscriptions: [{ topic: 'x', qos: 1 }] })
  expect(shown([await client.any(), await client.any()])).toEqual(['puback 1 131', 'suback 2 131'])
  expect(await metric(node, 'decision-failed')).toBe(2)
  node.authorizePublish = (_client, _packet, callback) => callback(null)
  client.send(publish(3, 'x'))
  expect(shown([await client.any()])).toEqual(['puback 3 16'])
  node.authenticate = hook
  expect((await WireClient.connect(url, 'other')).connack).toMatchObject({ reasonCode: 0x88 })
})

test('what a client sent before its end is published when its decision comes behind it; a later PUBLISH of its session comes behind', async () => {
  const { hooks, called, asked } = byHand()
  const { node, url } = await serve(hooks)
  const heard: string[] = []
  await node.subscribe('#', ({ topic }) => heard.push(topic))
  const client = await WireClient.connect(url, 'client', { clean: false })
  client.send(publish(1, 'later/1'), { cmd: 'disconnect' })
  await asked('later/1')
  await client.untilClosed()
  expect(heard).toEqual([])
  called.get('later/1')!()
  await expect.poll(() => heard).toEqual(['later/1'])
})

test('a QoS 2 PUBLISH that is decided behind the end of its connection is published once, also when it is sent again', async () => {
  const { hooks, called, asked } = byHand()
  const { node, url } = await serve(hooks)
  const options = { clean: false, properties: { sessionExpiryInterval: 60 } }
  const subscriber = await WireClient.connect(url, 'subscriber')
  await subscriber.subscribe('#')
  const client = await WireClient.connect(url, 'client', options)
  client.send(publish(1, 'later/1', 2))
  await asked('later/1')
  const gone = once(node, 'clientDisconnect')
  client.socket.destroy()
  await gone
  called.get('later/1')!()
  called.delete('later/1')
  const anew = await WireClient.connect(url, 'client', options)
  anew.send({ ...publish(1, 'later/1', 2), dup: true } as Packet)
  await asked('later/1')
  called.get('later/1')!()
  expect(shown([await anew.any()])).toEqual(['pubrec 1 0'])
  anew.send({ cmd: 'pubrel', messageId: 1 }, publish(2, 'end'))
  expect(shown([await anew.any(), await anew.any()])).toEqual(['pubcomp 1 0', 'puback 2 0'])
  const heard = shown([await subscriber.any(), await subscriber.any()])
  expect(heard.map((text) => text.split(' ').at(-1))).toEqual(['later/1', 'end'])
})

test.each([4, 5] as const)(
  'who hears of a client may publish to it, or end it, at once: MQTT %i',
  async (version) => {
    const { node, url } = await serve({})
    const options = { version, clean: false, properties: { sessionExpiryInterval: 60 } }
    const welcome = {
      topic: 'welcome',
      payload: 'x',
      qos: 0,
      retain: false,
      dup: false,
      cmd: 'publish',
    } as const
    node.once('client', (client) => client.publish(welcome, () => undefined))
    const client = await WireClient.connect(url, 'client', options)
    expect(await client.any()).toMatchObject({ topic: 'welcome', payload: Buffer.from('x') })
    await client.subscribe('#')
    client.socket.destroy()
    const other = await WireClient.connect(url, 'other')
    other.send(publish(1, 'queued'))
    await other.any()
    node.once('client', (client) => client.close())
    const ended = await WireClient.connect(url, 'client', options)
    expect(shown(await ended.untilClosed())).toEqual([])
    const anew = await WireClient.connect(url, 'client', options)
    expect(anew.connack.sessionPresent).toBe(true)
    expect(await anew.any()).toMatchObject({ topic: 'queued', dup: false })
  },
)

test('a session that is taken over while a PUBLISH waits for its decision: the new connection is served at once, the old one gets no answer', async () => {
  const { hooks, called, asked } = byHand()
  const { url } = await serve(hooks)
  const options = { clean: false, properties: { sessionExpiryInterval: 60 } }
  const old = await WireClient.connect(url, 'client', options)
  old.send(publish(1, 'later/1'))
  await asked('later/1')
  const anew = await WireClient.connect(url, 'client', options)
  expect(anew.connack.sessionPresent).toBe(true)
  expect(shown(await old.untilClosed())).toEqual(['disconnect 142'])
  called.get('later/1')!()
  await anew.subscribe('x')
  anew.send(publish(1, 'x'))
  expect(shown([await anew.any(), await anew.any()]).sort()).toEqual(['puback 1 0', 'publish 1 x'])
})

test('a hook may change what is published and how it is forwarded, for one client alone', async () => {
  const { url } = await serve({
    authorizePublish: (client, packet, callback) => {
      packet.topic = `${client!.id}/${packet.topic}`
      packet.payload = Buffer.from(`${packet.payload.toString()}!`)
      callback()
    },
    authorizeForward: (client, packet) =>
      client.id === 'b' ? { ...packet, payload: Buffer.from('hidden') } : packet,
  })
  const [a, b] = [await WireClient.connect(url, 'a'), await WireClient.connect(url, 'b')]
  for (const client of [a, b]) await client.subscribe('+/t', { qos: 1 })
  const properties = { userProperties: { one: ['1', '2'] }, responseTopic: 'r' }
  a.send({ ...publish(0, 't', 0, 'text'), properties } as Packet)
  const received = async (client: WireClient): Promise<unknown> => {
    const { topic, payload, properties } = await client.next('publish')
    return [topic, payload.toString(), { ...properties, userProperties: { ...properties?.userProperties } }]
  }
  expect([await received(a), await received(b)]).toEqual([
    ['a/t', 'text!', properties],
    ['a/t', 'hidden', properties],
  ])
})

test.each([0, 60])(
  'what is forwarded under another topic, of a session of %i s: by the subscription to what was published',
  async (sessionExpiryInterval) => {
    const { node, url } = await serve({
      authorizeForward: (_client, packet) => ({ ...packet, topic: 'other' }),
    })
    const client = await WireClient.connect(url, 'client', { properties: { sessionExpiryInterval } })
    client.send({
      cmd: 'subscribe',
      messageId: 1,
      subscriptions: [{ topic: 't', qos: 1, rap: true }],
      properties: { subscriptionIdentifier: 7 },
    })
    await client.next('suback')
    await node.publish('t', 'x', { qos: 1, retain: true })
    const { topic, retain, properties } = await client.next('publish')
    expect([topic, retain, properties?.subscriptionIdentifier]).toEqual(['other', true, 7])
  },
)

test.each([0, 1, 2] as const)(
  'what is not forwarded to a client, QoS %i, leaves no hole: live, queued, retained; the others get it',
  async (qos) => {
    const { node, url } = await serve({
      authorizeForward: (client, packet) =>
        client.id === 'poor' && packet.payload.toString() === 'secret' ? null : packet,
    })
    const properties = { sessionExpiryInterval: 60, receiveMaximum: 1 }
    const poor = await WireClient.connect(url, 'poor', { properties })
    const rich = await WireClient.connect(url, 'rich')
    for (const client of [poor, rich]) await client.subscribe('t/#', { qos })
    const payloads = async (client: WireClient, count: number): Promise<string[]> => {
      const got: string[] = []
      for (let open = 0; got.length < count || open > 0;) {
        const packet = await client.any()
        if (packet.cmd === 'pubrel') {
          open--
          client.send({ cmd: 'pubcomp', messageId: packet.messageId! })
        } else if (packet.cmd === 'publish') {
          got.push(packet.payload.toString())
          if (qos === 1) client.send({ cmd: 'puback', messageId: packet.messageId! })
          else if (qos === 2) client.send({ cmd: 'pubrec', messageId: packet.messageId! })
          if (qos === 2) open++
        }
      }
      return got
    }
    const say = async (...all: string[]): Promise<void> => {
      for (const [i, payload] of all.entries()) await node.publish(`t/${i}`, payload, { qos, retain: true })
    }
    await say('1', 'secret', 'secret', '2')
    expect(await payloads(rich, 4)).toEqual(['1', 'secret', 'secret', '2'])
    expect(await payloads(poor, 2)).toEqual(['1', '2'])
    poor.send({ cmd: 'disconnect' })
    await poor.untilClosed()
    await say('3', 'secret', '4', 'secret')
    const again = await WireClient.connect(url, 'poor', { clean: false, properties })
    if (qos > 0) expect(await payloads(again, 2)).toEqual(['3', '4'])
    await again.subscribe('t/#', { qos })
    expect((await payloads(again, 2)).sort()).toEqual(['3', '4'])
    await node.publish('t/end', 'end', { qos })
    expect(await payloads(again, 1)).toEqual(['end'])
    expect(await again.settled()).toEqual([])
  },
)

test.each<[string, boolean, object]>([
  ['the hook says no to it', true, {}],
  ['it is larger than its client takes now', false, { maximumPacketSize: 60 }],
])(
  'a QoS 2 message is in flight, its client comes back and %s: PUBREL ends it, and what comes next is no duplicate',
  async (_why, isDenied, more) => {
    let may = true
    const { node, url } = await serve({
      authorizeForward: (_client, packet) => (may || packet.topic === 'next' ? packet : null),
    })
    const properties = { sessionExpiryInterval: 60, receiveMaximum: 1 }
    const client = await WireClient.connect(url, 'client', { properties })
    await client.subscribe('#', { qos: 2 })
    await node.publish('first', Buffer.alloc(100), { qos: 2 })
    expect(shown([await client.any()])).toEqual(['publish 1 first'])
    client.socket.destroy() // its PUBREC is lost
    await expect.poll(() => node.connectedClients).toBe(0)
    await node.publish('next', 'x', { qos: 2 })
    may = !isDenied
    const again = await WireClient.connect(url, 'client', {
      clean: false,
      properties: { ...properties, ...more },
    })
    expect(shown([await again.any()])).toEqual(['pubrel 1 0'])
    again.send({ cmd: 'pubcomp', messageId: 1 })
    expect(shown([await again.any()])).toEqual(['publish 2 next'])
  },
)

test('a SUBSCRIBE is decided filter by filter, at once or later, and answered in its order; a hook may grant less', async () => {
  const later: (() => void)[] = []
  const { node, url } = await serve({
    authorizeSubscribe: (_client, subscription, callback) => {
      const { topic } = subscription
      if (topic === 'no') callback(null, null)
      else if (topic === 'error') callback(no)
      else if (topic === 'less') callback(null, { ...subscription, qos: 0 })
      else if (topic === 'later') later.push(() => callback(null, subscription))
      else callback(null, subscription)
    },
  })
  const filters = ['later', 'no', 'less', 'error', 'yes']
  const subscriptions = filters.map((topic) => ({ topic, qos: 1 as const }))
  for (const [version, code] of [
    [5, 0x87],
    [4, 0x80],
  ] as const) {
    const client = await WireClient.connect(url, `v${version}`, { version })
    client.send({ cmd: 'subscribe', messageId: 1, subscriptions })
    await expect.poll(() => later.length).toBe(1)
    later.pop()!()
    expect(await client.next('suback')).toMatchObject({ granted: [1, code, 0, code, 1] })
    for (const topic of filters) await node.publish(topic, 'x', { qos: 1 })
    expect(shown(await client.settled())).toEqual(['publish 1 later', 'publish less', 'publish 2 yes'])
  }
})

test('a session that comes back is asked about again: what it may not have any more it has no longer', async () => {
  let may = true
  const { node, url } = await serve({
    authorizeSubscribe: (_client, subscription, callback) =>
      callback(null, may || subscription.topic === 'open' ? subscription : null),
  })
  const properties = { sessionExpiryInterval: 60 }
  const client = await WireClient.connect(url, 'client', { properties })
  for (const filter of ['open', 'closed']) await client.subscribe(filter, { qos: 1 })
  client.send({ cmd: 'disconnect' })
  await client.untilClosed()
  may = false
  const again = await WireClient.connect(url, 'client', { clean: false, properties })
  expect(again.connack.sessionPresent).toBe(true)
  for (const topic of ['open', 'closed']) await node.publish(topic, 'x', { qos: 1 })
  expect(shown(await again.settled())).toEqual(['publish 1 open'])
})

test('a session that comes back has what is granted to it now: a lower QoS, another filter in the place of one', async () => {
  let isLess = false
  let asked: string[] = []
  const { node, url } = await serve({
    authorizeSubscribe: (_client, subscription, callback) => {
      const { topic } = subscription
      asked.push(topic)
      if (!isLess) return callback(null, subscription)
      if (topic === 'lower/#') callback(null, { ...subscription, qos: 0 })
      else if (topic === 'own') callback(null, { ...subscription, nl: true })
      else if (topic === 'all/#') callback(null, { ...subscription, topic: 'all/open' })
      else if (topic === 'bad') callback(null, { ...subscription, topic: 'a/#/b' })
      else callback(null, { ...subscription, topic: `${topic}/more` }) // and is not asked about that again
    },
  })
  const properties = { sessionExpiryInterval: 60 }
  const filters = ['lower/#', 'own', 'all/#', 'bad', '__proto__']
  const come = async (): Promise<WireClient> => {
    asked = []
    const client = await WireClient.connect(url, 'client', { clean: false, properties })
    expect(client.connack.sessionPresent).toBe(true)
    return client
  }
  const leave = async (client: WireClient): Promise<void> => {
    client.send({ cmd: 'disconnect' })
    await client.untilClosed()
  }
  const client = await WireClient.connect(url, 'client', { properties })
  for (const filter of filters) await client.subscribe(filter, { qos: 2 })
  await leave(client)
  isLess = true
  const again = await come()
  expect(asked.sort()).toEqual([...filters].sort())
  const topics = ['lower/1', 'all/closed', 'all/open', 'bad', '__proto__', '__proto__/more']
  const tell = async (): Promise<void> => {
    for (const topic of topics) await node.publish(topic, 'x', { qos: 1 })
  }
  await tell()
  again.send(publish(0, 'own', 0))
  const now = ['publish 1 all/open', 'publish 2 __proto__/more', 'publish lower/1']
  expect(shown(await again.settled()).sort()).toEqual(now)
  for (const messageId of [1, 2]) again.send({ cmd: 'puback', messageId })
  await leave(again)
  await tell() // what is granted is the session's, also while nobody is connected to it
  isLess = false
  const later = await come()
  expect(asked.sort()).toEqual(['__proto__/more', 'all/open', 'lower/#', 'own'])
  expect(shown(await later.settled())).toEqual(['publish 1 all/open', 'publish 2 __proto__/more'])
})

test('who may connect is asked before the session is touched, and the answer says why not', async () => {
  const codes = new Map([
    ['id', 2],
    ['away', 3],
    ['password', 4],
    ['no', 5],
  ])
  const { url } = await serve({
    preConnect: (_client, packet, callback) => callback(null, packet.clientId !== 'early'),
    authenticate: (client, username, password, callback) => {
      const returnCode = codes.get(username ?? '')
      if (returnCode !== undefined) callback(Object.assign(new Error('no'), { returnCode }), false)
      else callback(null, `${client.id} ${password?.toString()}` === 'user secret')
    },
  })
  const connect = async (version: Version, clientId: string, username: string): Promise<unknown> => {
    const options = { version, username, password: Buffer.from('secret') }
    const { connack } = await WireClient.connect(url, clientId, options)
    return version === 5 ? connack.reasonCode : connack.returnCode
  }
  const holder = await WireClient.connect(url, 'user', { username: 'u', password: Buffer.from('secret') })
  const answers: unknown[][] = []
  for (const version of [5, 4] as const)
    answers.push(
      await Promise.all(
        ['id', 'away', 'password', 'no']
          .map((username) => connect(version, 'user', username))
          .concat(connect(version, 'early', 'u'), connect(version, 'other', 'u')),
      ),
    )
  expect(answers).toEqual([
    [0x85, 0x88, 0x86, 0x87, 0x87, 0x87],
    [2, 3, 4, 5, 5, 5],
  ])
  expect(await holder.settled()).toEqual([]) // who was not let in threw nobody out
  expect(await connect(5, 'user', 'u')).toBe(0)
  expect(shown(await holder.untilClosed())).toEqual(['disconnect 142'])
})

test('of two CONNECTs of a client the later one stays, also when the earlier one is decided behind it', async () => {
  const decide: ((error: null, success: boolean) => void)[] = []
  const { url } = await serve({
    authenticate: (_client, _name, _password, callback) => void decide.push(callback),
  })
  const connect: Packet = {
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: 5,
    clean: true,
    clientId: 'client',
    keepalive: 0,
  }
  const [first, second] = [await WireClient.open(url), await WireClient.open(url)]
  first.send(connect)
  await expect.poll(() => decide.length).toBe(1)
  second.send(connect)
  await expect.poll(() => decide.length).toBe(2)
  decide[1]!(null, true)
  expect(await second.next('connack')).toMatchObject({ reasonCode: 0 })
  decide[0]!(null, true)
  expect(await first.untilClosed()).toEqual([])
  expect(await second.settled()).toEqual([])
})

test.each<[Version, Partial<Config>, string[]]>([
  [5, {}, ['connack 135']],
  [4, {}, ['connack']],
  [4, { refusedPublish: 'close' }, ['connack']],
])(
  'MQTT %i, %o: a will is decided when CONNECT comes, and again when it is published',
  async (version, options, answer) => {
    let may = true
    const { node, url } = await serve(
      { authorizePublish: (_client, { topic }, callback) => callback(may && topic !== 'no' ? null : no) },
      options,
    )
    const heard: string[] = []
    await node.subscribe('#', ({ topic, payload }) => heard.push(`${topic} ${payload.toString()}`))
    const will = (topic: string, payload: string) => ({
      version,
      will: { topic, payload: Buffer.from(payload), qos: 1 as const, retain: false },
    })
    const refused = await WireClient.connect(url, 'refused', will('no', 'never'))
    expect(shown([refused.connack])).toEqual(answer)
    const isRefused = version === 5 || options.refusedPublish === 'close'
    expect(isRefused ? await refused.untilClosed() : await refused.settled()).toEqual([])
    refused.socket.destroy()
    const first = await WireClient.connect(url, 'first', will('t', 'first'))
    const second = await WireClient.connect(url, 'second', will('t', 'second'))
    second.socket.destroy()
    await expect.poll(() => heard).toEqual(['t second'])
    may = false
    first.socket.destroy()
    await expect.poll(() => metric(node, 'denied')).toBe(2)
    expect(heard).toEqual(['t second'])
  },
)

test('who is thrown out before its CONNACK has no will: it was not accepted [MQTT-3.1.2-8]', async () => {
  let isHeld = false
  const held: (() => void)[] = []
  const { node, url } = await serve({
    authorizeSubscribe: (_client, subscription, callback) => {
      if (isHeld) held.push(() => callback(null, subscription))
      else callback(null, subscription)
    },
  })
  const heard: string[] = []
  await node.subscribe('#', ({ topic }) => heard.push(topic))
  const properties = { sessionExpiryInterval: 60 }
  const client = await WireClient.connect(url, 'client', { properties })
  await client.subscribe('a', { qos: 1 })
  client.send({ cmd: 'disconnect' })
  await client.untilClosed()
  isHeld = true
  const connect = async (topic: string): Promise<WireClient> => {
    const client = await WireClient.open(url)
    client.send({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 5,
      clean: false,
      clientId: 'client',
      properties,
      will: { topic, payload: Buffer.from('x'), qos: 1, retain: false },
    })
    return client
  }
  const first = await connect('will of the first')
  await expect.poll(() => held.length).toBe(1) // its session is claimed
  const second = await connect('will of the second')
  expect(await first.untilClosed()).toEqual([])
  await expect.poll(() => held.length).toBe(2)
  for (const go of held) go()
  expect(await second.next('connack')).toMatchObject({ reasonCode: 0 })
  second.socket.destroy()
  await expect.poll(() => heard).toEqual(['will of the second'])
})

test('a PUBREL that comes before the decision about its PUBLISH: the session is released all the same', async () => {
  const { hooks, called, asked } = byHand()
  const { node, url } = await serve(hooks)
  const heard: string[] = []
  await node.subscribe('#', ({ topic }) => heard.push(topic))
  const client = await WireClient.connect(url, 'client', {
    properties: { sessionExpiryInterval: 60 },
    will: { topic: 'will', payload: Buffer.from('x'), qos: 1, retain: false },
  })
  client.send(publish(1, 'later/1', 2))
  await asked('later/1')
  client.send({ cmd: 'pubrel', messageId: 1 })
  expect(shown([await client.any()])).toEqual(['pubcomp 1 0'])
  called.get('later/1')!()
  expect(shown([await client.any()])).toEqual(['pubrec 1 0'])
  client.socket.destroy()
  await expect.poll(() => heard).toEqual(['later/1', 'will'])
})

test.each([
  ['QoS 1', 1, 'bug'],
  ['QoS 2', 2, 'bug'],
  ['QoS 1, decided later', 1, 'later/bug'],
] as const)(
  'a bug of ours behind a PUBLISH, %s: its connection ends, its session is released, and its client comes back',
  async (_how, qos, topic) => {
    const { hooks, called, asked } = byHand()
    const { node, url } = await serve(hooks)
    const heard: string[] = []
    await node.subscribe('will', ({ topic }) => heard.push(topic))
    const works = Object.getOwnPropertyDescriptor(MemoryCluster.prototype, 'publish')!
    MemoryCluster.prototype.publish = function (message, done) {
      if (message.topic === topic) throw new TypeError('a bug of ours')
      ;(works.value as typeof this.publish).call(this, message, done)
    }
    try {
      const properties = { sessionExpiryInterval: 60 }
      const client = await WireClient.connect(url, 'client', {
        properties,
        will: { topic: 'will', payload: Buffer.from('x'), qos: 1, retain: false },
      })
      client.send(publish(1, topic, qos))
      if (topic === 'later/bug') {
        await asked(topic)
        called.get(topic)!()
      }
      expect(await client.untilClosed()).toEqual([])
      await expect.poll(() => heard).toEqual(['will'])
      await expect(node.publish(topic, 'x', { qos: 1 })).rejects.toThrow('a bug of ours')
      const again = await WireClient.connect(url, 'client', { clean: false, properties })
      again.send(publish(2, 'other'))
      expect((await again.next('puback')).messageId).toBe(2)
    } finally {
      Object.defineProperty(MemoryCluster.prototype, 'publish', works)
    }
  },
)

test('a full node: who takes the place of a client takes no more than one that is not proved, until it is let in', async () => {
  const waiting: ((error: null, success: boolean) => void)[] = []
  let isOpen = true
  const { node, url } = await serve(
    {
      authenticate: (_client, _name, _password, callback) => {
        if (isOpen) callback(null, true)
        else waiting.push(callback)
      },
    },
    { connectionsMax: 4, connectingMax: 2 },
  )
  const clients: WireClient[] = []
  for (let n = 0; n < 4; n++) clients.push(await WireClient.connect(url, `client-${n}`))
  isOpen = false
  const come = async (n: number): Promise<WireClient> => {
    const client = await WireClient.open(url)
    client.send({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 5,
      clean: true,
      clientId: `client-${n}`,
      keepalive: 0,
    })
    return client
  }
  const strangers = [await come(0), await come(1)]
  await expect.poll(() => waiting.length).toBe(2)
  const before = await metric(node, 'connections')
  expect(await (await come(2)).untilClosed()).toMatchObject([{ cmd: 'connack', reasonCode: 0x97 }])
  expect(await metric(node, 'connections')).toBe(before + 1)
  waiting[0]!(null, true) // it is let in: what was two is one
  expect(await strangers[0]!.next('connack')).toMatchObject({ reasonCode: 0 })
  await clients[0]!.untilClosed()
  const third = await come(2)
  await expect.poll(() => waiting.length).toBe(3)
  for (const answer of waiting.slice(1)) answer(null, false) // who is not let in throws nobody out
  for (const stranger of [strangers[1]!, third])
    expect(await stranger.untilClosed()).toMatchObject([{ cmd: 'connack', reasonCode: 0x87 }])
  for (const n of [1, 2, 3]) expect(await clients[n]!.settled()).toEqual([])
})

test.each<[string, Partial<Config>, () => void]>([
  ['does not answer in time', { decisionTimeoutMs: 50 }, () => undefined],
  [
    'throws',
    {},
    () => {
      throw new Error('nobody can say')
    },
  ],
])(
  'a session comes back while the hook %s: it is not let in, and keeps what it is subscribed to',
  async (_how, options, fails) => {
    let isAway = false
    const { node, url } = await serve(
      {
        authorizeSubscribe: (_client, subscription, callback) => {
          if (isAway) fails()
          else callback(null, subscription)
        },
      },
      options,
    )
    const properties = { sessionExpiryInterval: 60 }
    const client = await WireClient.connect(url, 'client', { properties })
    await client.subscribe('a', { qos: 1 })
    client.send({ cmd: 'disconnect' })
    await client.untilClosed()
    isAway = true
    const refused = await WireClient.connect(url, 'client', { clean: false, properties })
    expect(refused.connack.reasonCode).toBe(0x88)
    await refused.untilClosed()
    await node.publish('a', 'x', { qos: 1 })
    isAway = false
    const again = await WireClient.connect(url, 'client', { clean: false, properties })
    expect(again.connack.sessionPresent).toBe(true)
    expect(shown([await again.any()])).toEqual(['publish 1 a'])
  },
)

/** A client with a will; resolves when its connection has broken and the hook is asked about the will. */
async function dies(
  url: string,
  topic: string,
  { called, asked }: ReturnType<typeof byHand>,
): Promise<Called> {
  const client = await WireClient.open(url)
  const will = { topic, payload: Buffer.from('x'), qos: 1 as const, retain: false }
  client.send({ cmd: 'connect', protocolId: 'MQTT', protocolVersion: 5, clean: true, clientId: topic, will })
  await asked(topic)
  called.get(topic)!() // it may have such a will
  called.delete(topic)
  await client.next('connack')
  client.socket.destroy()
  await asked(topic)
  const decide = called.get(topic)!
  called.delete(topic)
  return decide
}

test('a node without Redis ends while a will waits for its decision: the next start asks again, and it is published once', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'gate-'))
  const stateFile = join(folder, 'state')
  const options = { stateFile, shutdownMs: 300 }
  const properties = { sessionExpiryInterval: 60 }
  const hand = byHand()
  let { node, url } = await serve(hand.hooks, options)
  const subscriber = await WireClient.connect(url, 'subscriber', { properties })
  await subscriber.subscribe('#', { qos: 1 })
  subscriber.send({ cmd: 'disconnect' })
  await subscriber.untilClosed()
  const inTime = await dies(url, 'later/1', hand)
  const stopped = node.close()
  inTime()
  await stopped
  ;({ node, url } = await serve(hand.hooks, options))
  const late = await dies(url, 'later/2', hand)
  await copyFile(stateFile, join(folder, 'killed')) // what a process that is killed now leaves behind
  await node.close()
  late() // nothing is written to a file that is closed
  for (const file of [stateFile, join(folder, 'killed')]) {
    ;({ node, url } = await serve(hand.hooks, { ...options, stateFile: file }))
    await hand.asked('later/2')
    hand.called.get('later/2')!()
    hand.called.delete('later/2')
    const again = await WireClient.connect(url, 'subscriber', { clean: false, properties })
    expect(shown([await again.any(), await again.any()])).toEqual(['publish 1 later/1', 'publish 2 later/2'])
    expect(await again.settled()).toEqual([])
    await node.close()
    ;({ node, url } = await serve(hand.hooks, { ...options, stateFile: file }))
    expect(hand.called.size).toBe(0) // decided once
    await node.close()
  }
  await rm(folder, { recursive: true })
})
