// Tenants: what one has never meets what another has, whichever way it is tried. Two tenants do the same under the same
// names (Client Identifiers, users, topics, groups, wills, Retained Messages), on a node without Redis and on two nodes of
// a cluster, and each of them sees what a broker of its own would show. What a client could write to reach the other one
// is tried as raw bytes; random operations of both end with nobody having seen a byte of the other.
import type { IConnackPacket, IPublishPacket } from 'mqtt-packet'
import { createHmac, randomBytes } from 'node:crypto'
import { mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { tenantNameOf, type TenantSource } from '../../broker/access/tenancy.ts'
import { access } from '../../broker/cli/access-command.ts'
import { adviceOn } from '../../broker/config/config-advice.ts'
import { loadConfig } from '../../broker/config/config.ts'
import { createNode, type Node, type NodeOptions } from '../../broker/index.ts'
import { built } from '../support/cluster.ts'
import { seededRandom } from '../support/random.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { frame, properties, str, u16, WireClient } from '../support/wire.ts'

let redis: TestRedis
let count = 0
beforeAll(async () => {
  redis = await startRedis('--appendonly', 'no')
})
afterAll(() => redis[Symbol.asyncDispose]())

const serve = (options: NodeOptions = {}, id = 'a', create = createNode): Promise<Node> =>
  create(
    { id, listen: ['mqtt://127.0.0.1:0'], authentication: ['hooks'], tenants: 'on', ...options },
    { authenticate: (_client, _username, _password, done) => done(null, true) },
  )

type Wire = WireClient & { connack: IConnackPacket }
type Options = Parameters<typeof WireClient.connect>[2]

/** A client of the tenant; it says that it is alice there. */
const come = (node: Node, tenant: string, clientId: string, options: Options = {}): Promise<Wire> =>
  WireClient.connect(node.endpoints[0]!, clientId, { username: `${tenant}/alice`, ...options })

const lasting = { clean: false, properties: { sessionExpiryInterval: 600 } }

/** Answers QoS 1 and 2 as a client must: what is published to it until so much has come, and a ping is answered. */
async function published(client: WireClient, atLeast = 0): Promise<string[]> {
  const seen: string[] = []
  for (let more = true; more || seen.length < atLeast;) {
    const packets = seen.length < atLeast ? [await client.any()] : await client.settled()
    more = packets.length > 0
    for (const packet of packets) {
      if (packet.cmd === 'publish') {
        seen.push(`${packet.topic} ${packet.payload.toString()}${packet.retain ? ' retained' : ''}`)
        if (packet.qos === 1) client.send({ cmd: 'puback', messageId: packet.messageId! })
        if (packet.qos === 2) client.send({ cmd: 'pubrec', messageId: packet.messageId! })
      } else if (packet.cmd === 'pubrel') client.send({ cmd: 'pubcomp', messageId: packet.messageId! })
    }
  }
  return seen
}

async function publish(
  client: WireClient,
  topic: string,
  payload: string,
  { qos = 1, ...rest }: Partial<IPublishPacket> = {},
): Promise<void> {
  client.send({ cmd: 'publish', topic, payload, qos, retain: false, dup: false, messageId: 9, ...rest })
  if (qos === 1) expect((await client.first('puback')).reasonCode ?? 0).toBeLessThan(0x80)
  if (qos === 2) {
    await client.first('pubrec')
    client.send({ cmd: 'pubrel', messageId: 9 })
    await client.first('pubcomp')
  }
  if (qos === 0) {
    client.send({ cmd: 'pingreq' })
    await client.first('pingresp')
  }
}

describe.each(['memory', 'Redis'])('%s', (store) => {
  let nodes: Node[]
  beforeAll(async () => {
    const at = { redis: redis.url, prefix: `ten${++count}` }
    nodes = store === 'memory' ? [await serve()] : [await serve(at, 'a'), await serve(at, 'b')]
  })
  afterAll(async () => void (await Promise.all(nodes.map((node) => node.close()))))
  const [here, there] = [() => nodes[0]!, () => nodes.at(-1)!]

  test.each([3, 4, 5])(
    'MQTT level %i: every kind of filter, every QoS, live, retained and queued',
    async (level) => {
      const version = level === 5 ? 5 : 4
      const options = {
        version,
        ...(level === 3 && { protocolId: 'MQIsdp' as const, protocolVersion: 3 as const }),
      } as Options
      const filters = ['#', '+/t', 'r/t', '$SYS/#', '+/+/#', '$share/g/#', '/#', 'r/#']
      const [acme, globex] = [
        await come(here(), 'acme', `s${level}`, options),
        await come(there(), 'globex', `s${level}`, options),
      ]
      for (const filter of filters)
        for (const client of [acme, globex]) await client.subscribe(filter, { qos: 2 })
      const talker = await come(there(), 'acme', `p${level}`, options)
      for (const qos of [0, 1, 2] as const)
        for (const retain of [true, false]) await publish(talker, 'r/t', `a${qos}`, { qos, retain })
      await publish(talker, '$own/t', 'a')
      const own = await published(acme)
      expect(own.filter((one) => one.startsWith('r/t a1')).length).toBeGreaterThanOrEqual(2)
      expect(own.every((one) => one.startsWith('r/t a'))).toBe(true) // and `#` had no `$own/t` [MQTT-4.7.2-1]
      expect(await published(globex)).toEqual([])
      // retained: whoever comes later
      const late = await come(there(), 'globex', `l${level}`, options)
      for (const filter of ['#', 'r/t', '$own/t']) await late.subscribe(filter, { qos: 2 })
      expect(await published(late)).toEqual([])
      // what one clears the other keeps
      await publish(late, 'r/t', 'g', { retain: true })
      await publish(talker, 'r/t', '', { retain: true })
      const last = await come(here(), 'globex', `m${level}`, options)
      await last.subscribe('r/t')
      expect(await published(last)).toEqual(['r/t g retained'])
      await publish(last, 'r/t', '', { retain: true })
      for (const client of [acme, globex, talker, late, last]) client.socket.destroy()
    },
  )

  test('equal Client Identifiers: nobody is taken over, sessions and queues are apart, each resumes its own', async () => {
    const [acme, globex] = [
      await come(here(), 'acme', 'same', lasting),
      await come(here(), 'globex', 'same', lasting),
    ]
    expect([acme.connack.sessionPresent, globex.connack.sessionPresent]).toEqual([false, false])
    await acme.subscribe('q/#')
    await globex.subscribe('q/1')
    expect([await published(acme), acme.isClosed]).toEqual([[], false])
    acme.socket.destroy()
    globex.socket.destroy()
    const [talker, other] = [await come(there(), 'acme', 'talker'), await come(there(), 'globex', 'talker')]
    await publish(talker, 'q/1', 'of acme')
    await publish(talker, 'q/2', 'of acme')
    await publish(other, 'q/1', 'of globex')
    const again = await come(there(), 'globex', 'same', lasting)
    expect(again.connack.sessionPresent).toBe(true)
    expect(await published(again, 1)).toEqual(['q/1 of globex'])
    const back = await come(there(), 'acme', 'same', lasting)
    expect(await published(back, 2)).toEqual(['q/1 of acme', 'q/2 of acme'])
    expect(again.isClosed).toBe(false)
    // its own earlier connection is
    const later = await come(here(), 'acme', 'same', lasting)
    expect((await back.first('disconnect')).reasonCode).toBe(0x8e)
    // a Clean Start ends the session of that tenant alone
    await come(there(), 'acme', 'same').then((client) => client.socket.destroy())
    await later.untilClosed()
    again.socket.destroy()
    const third = await come(here(), 'globex', 'same', lasting)
    expect(third.connack.sessionPresent).toBe(true)
    for (const client of [third, talker, other]) client.socket.destroy()
  })

  test('wills, also those that another node publishes, and equal groups', async () => {
    const members = await Promise.all(
      ['acme', 'globex'].flatMap((tenant) =>
        nodes.map((node, i) => come(node, tenant, `member${i}`, i === 0 ? lasting : {})),
      ),
    )
    for (const member of members) await member.subscribe('$share/crew/w/+')
    const [acme, globex] = [await come(there(), 'acme', 'ear'), await come(there(), 'globex', 'ear')]
    for (const client of [acme, globex]) await client.subscribe('#')
    const will = { topic: 'w/x', payload: Buffer.from('will of acme'), qos: 1 as const, retain: true }
    const dying = await come(here(), 'acme', 'dying', { will })
    const twin = await come(here(), 'globex', 'dying', {
      will: { ...will, payload: Buffer.from('will of globex'), retain: false },
    })
    dying.socket.destroy()
    expect((await acme.next('publish')).payload.toString()).toBe('will of acme')
    expect(await published(globex)).toEqual([])
    twin.send({ cmd: 'disconnect' }) // no will
    await twin.untilClosed()
    const got = members.map((): string[] => [])
    await expect
      .poll(async () => {
        for (const [i, member] of members.entries()) got[i]!.push(...(await published(member)))
        return got.slice(0, nodes.length).flat()
      })
      .toEqual(['w/x will of acme'])
    expect(got.slice(nodes.length).flat()).toEqual([])
    expect(await published(globex)).toEqual([])
    for (const client of [...members, acme, globex]) client.socket.destroy()
  })

  test('a group whose members end with their connections, at another node than the publisher', async () => {
    const members = [await come(there(), 'acme', 'clean1'), await come(there(), 'globex', 'clean2')]
    for (const member of members) await member.subscribe('$share/clean/jobs', { qos: 1 })
    const publisher = await come(here(), 'acme', 'gives jobs')
    await publish(publisher, 'jobs', '1')
    await publish(publisher, 'jobs', '2')
    expect(await published(members[0]!, 2)).toEqual(['jobs 1', 'jobs 2'])
    expect(await published(members[1]!)).toEqual([])
    for (const client of [...members, publisher]) client.socket.destroy()
  })

  test('Topic Aliases, Response Topic, assigned identifiers: as their clients have them, at their sizes', async () => {
    const five = await come(here(), 'acme', '', {
      properties: { topicAliasMaximum: 2, requestResponseInformation: true, maximumPacketSize: 60 },
    })
    const assigned = five.connack.properties?.assignedClientIdentifier
    expect(assigned).toMatch(/^[\w-]+$/)
    await five.subscribe('a/#', { qos: 0 })
    const twin = await come(there(), 'globex', assigned!) // and nobody is taken over
    await twin.subscribe('#')
    const talker = await come(there(), 'acme', 'aliases')
    const alias = { properties: { topicAlias: 1, responseTopic: 'answers/1' } }
    await publish(talker, 'a/b', '1', { qos: 0, ...alias })
    await publish(talker, '', '2', { qos: 0, ...alias })
    await publish(talker, 'a/b', 'x'.repeat(40), { qos: 0, ...alias }) // 60 bytes in all
    const got = [await five.next('publish'), await five.next('publish'), await five.next('publish')]
    expect(got.map(({ payload }) => payload.length)).toEqual([1, 1, 40])
    for (const packet of got) {
      expect(['a/b', '']).toContain(packet.topic)
      expect(packet.properties?.responseTopic).toBe('answers/1')
    }
    expect([await published(twin), twin.isClosed]).toEqual([[], false])
    const more = await come(here(), 'acme', '', {})
    await more.subscribe('a/'.repeat(99) + 'a', { qos: 0 }) // 100 levels, as without tenants
    await publish(more, 'a/'.repeat(99) + 'a', 'deep', { qos: 0 })
    expect(await published(more)).toEqual([`${'a/'.repeat(99)}a deep`])
    for (const client of [five, twin, talker, more]) client.socket.destroy()
  })

  test('bans of one tenant, by Client Identifier, user and network, are none of another', async () => {
    const [acme, globex] = [await come(there(), 'acme', 'banned'), await come(there(), 'globex', 'banned')]
    const code = async (tenant: string): Promise<number | undefined> => {
      const client = await come(here(), tenant, 'banned')
      client.socket.destroy()
      return client.connack.reasonCode
    }
    await here().ban('client', 'banned', { tenant: 'acme', reason: 'noise' })
    expect((await acme.next('disconnect')).reasonCode).toBe(0x98)
    expect(await here().banned()).toMatchObject([{ kind: 'client', name: 'banned', tenant: 'acme' }])
    expect(await code('acme')).toBe(0x8a)
    expect([await published(globex), globex.isClosed]).toEqual([[], false])
    await here().unban('client', 'banned', { tenant: 'acme' })
    for (const [kind, name, tenant] of [
      ['user', 'alice', 'acme'],
      ['user', 'acme/alice', 'acme'], // as clients and the log show it
      ['user', 'acme/alice', undefined],
      ['network', '127.0.0.0/8', 'acme'],
    ] as const) {
      const of = tenant === undefined ? {} : { tenant }
      await here().ban(kind, name, of)
      expect(await code('acme')).toBe(0x8a)
      expect([await published(globex), globex.isClosed]).toEqual([[], false])
      expect(await here().unban(kind, name, of)).toBe(true)
    }
    await here().ban('client', 'banned') // of no tenant: nobody's
    expect(await code('acme')).toBe(0)
    await here().unban('client', 'banned')
    globex.socket.destroy()
  })

  test('raw bytes: a name of the other tenant cannot be written, and what looks like one is none', async () => {
    const globex = await come(there(), 'globex', 'victim', lasting)
    for (const filter of ['#', '$SYS/#']) await globex.subscribe(filter)
    const inside = '$\0globex/t'
    const tries: ((version: 4 | 5) => Buffer)[] = [
      (v) => frame(0x30, str(inside), properties(v), Buffer.from('x')),
      (v) => frame(0x32, str('globex\0/t'), u16(1), properties(v), Buffer.from('x')),
      (v) => frame(0x82, u16(1), properties(v), str(inside), 1),
      (v) => frame(0x82, u16(1), properties(v), str('$\0globex/#'), 1),
      (v) => frame(0x82, u16(1), properties(v), str('$share/g/$\0globex/#'), 1),
      (v) => frame(0x82, u16(1), properties(v), str('$share/\0/#'), 1),
      (v) => frame(0xa2, u16(1), properties(v), str(inside)),
      // over-long and broken encodings of U+0000
      (v) => frame(0x30, str(Buffer.from([0x24, 0xc0, 0x80, 0x67, 0x2f, 0x74])), properties(v)),
      (v) => frame(0x30, str(Buffer.from([0x24, 0xe0, 0x80, 0x80, 0x67, 0x2f, 0x74])), properties(v)),
    ]
    for (const version of [4, 5] as const)
      for (const bytes of tries) {
        const client = await come(here(), 'acme', 'raw', { version })
        client.send(bytes(version))
        await client.untilClosed()
      }
    for (const clientId of ['globex\0victim', '\0globex', '\0$share/g/#']) {
      const client = await WireClient.open(here().endpoints[0]!)
      const head = [str('MQTT'), 5, 2, u16(0), properties(5)]
      client.send(frame(0x10, ...head, str(clientId)))
      const said = (await client.untilClosed()) as IConnackPacket[]
      expect(said.every(({ cmd, reasonCode = 0 }) => cmd === 'connack' && reasonCode >= 0x80)).toBe(true)
    }
    // what is written without it is a topic like any other
    const client = await come(here(), 'acme', 'raw')
    for (const topic of ['$globex/t', 'globex/t', '$globex$/$SYS/x', '$\u0001globex/t', '/globex/t'])
      await publish(client, topic, 'x', { retain: true })
    await client.subscribe('$globex/#', { qos: 0 })
    expect(await published(client)).toEqual(['$globex/t x retained'])
    for (const topic of ['$globex/t', 'globex/t', '$globex$/$SYS/x', '$\u0001globex/t', '/globex/t'])
      await publish(client, topic, '', { retain: true })
    expect([await published(globex), globex.isClosed]).toEqual([[], false])
    for (const one of [client, globex]) one.socket.destroy()
  })

  test('random operations of two tenants under the same names: neither sees a byte of the other', async () => {
    const random = seededRandom()
    const tenants = ['acme', 'globex']
    const topics = ['a', 'a/b', 'a/b/c', '$x/a', '/a', 'b/']
    const filters = [
      ...topics,
      '#',
      '+',
      '+/#',
      'a/+',
      '$x/#',
      '$SYS/#',
      '$share/g/a/#',
      '$share/g/#',
      '$share/h/+/b',
    ]
    const open = new Map<string, Wire>()
    const bytes = new Map<string, Buffer[]>()
    const sent = new Map<string, number>()
    const operate = async (tenant: string, step: number): Promise<void> => {
      const id = random.pick(['c0', 'c1', 'c2'])
      const key = `${tenant} ${id}`
      let client = open.get(key)
      if (client === undefined || client.isClosed || random.below(12) === 0) {
        if (random.below(2) === 0) client?.socket.destroy() // or it is taken over
        const payload = Buffer.from(`<${tenant}> will`)
        client = await come(random.pick(nodes), tenant, id, {
          ...(random.below(3) > 0 ? lasting : {}),
          ...(random.below(2) === 0 && {
            will: { topic: random.pick(topics), payload, qos: 1, retain: random.below(2) === 0 },
          }),
        })
        const of = bytes.get(tenant) ?? []
        bytes.set(tenant, of)
        client.socket.on('data', (chunk: Buffer) => of.push(chunk))
        open.set(key, client)
        expect(client.connack.reasonCode, `seed ${random.seed}`).toBe(0)
      }
      const messageId = 1 + (step % 60_000)
      const qos = random.below(3) as 0 | 1 | 2
      const topic = random.pick(topics)
      const what = random.below(10)
      if (what < 3)
        client.send({
          cmd: 'subscribe',
          messageId,
          subscriptions: [{ topic: random.pick(filters), qos, rh: 0, nl: false, rap: random.below(2) === 0 }],
        })
      else if (what === 3)
        client.send({ cmd: 'unsubscribe', messageId, unsubscriptions: [random.pick(filters)] })
      else {
        const payload = random.below(6) === 0 ? '' : `<${tenant}> ${step}`
        const retain = random.below(3) === 0
        client.send({ cmd: 'publish', topic, payload, qos, retain, dup: false, messageId })
        sent.set(tenant, (sent.get(tenant) ?? 0) + 1)
      }
      if (random.below(4) === 0) await published(client).catch(() => undefined) // it may be taken over
    }
    for (let step = 0; step < 400; step++) await operate(random.pick(tenants), step)
    for (const client of open.values()) if (!client.isClosed) await published(client).catch(() => undefined)
    for (const [i, tenant] of tenants.entries()) {
      const seen = Buffer.concat(bytes.get(tenant)!).toString('latin1')
      expect(seen.includes(`<${tenant}>`), `seed ${random.seed}`).toBe(true)
      expect(seen.includes(tenants[1 - i]!), `seed ${random.seed}`).toBe(false)
      expect(seen.includes(`\0${tenant}`), `seed ${random.seed}`).toBe(false) // nor what it is called outside
    }
    for (const client of open.values()) client.socket.destroy()
  })
})

test.each<[string, string, NodeOptions]>([
  ['alice', 'it belongs to no tenant', {}],
  ['/alice', 'names a tenant that can be none', {}],
  ['a+b/alice', 'names a tenant that can be none', {}],
  [`${'x'.repeat(65)}/alice`, 'names a tenant that can be none', {}],
  ['globex/alice', 'name two tenants', { listeners: [{ url: 'mqtt://127.0.0.1:0', tenant: 'acme' }] }],
])('who says %j is refused: %s', async (username, reason, options) => {
  const { listen: _listen, ...rest } = { listen: undefined, ...options }
  await using node = await createNode(
    {
      id: 'a',
      authentication: ['hooks'],
      tenants: 'on',
      ...(rest.listeners === undefined && { listen: ['mqtt://127.0.0.1:0'] }),
      ...rest,
    },
    { authenticate: (_client, _username, _password, done) => done(null, true) },
  )
  const errors: string[] = []
  node.on('clientError', (_client, error) => errors.push(error.message))
  const client = await WireClient.connect(node.endpoints[0]!, 'c', { username })
  expect(client.connack.reasonCode).toBe(0x87)
  expect(errors.join()).toContain(reason)
  client.socket.destroy()
})

/** Tokens of ann, and the file of the key that signs them. */
async function signing(): Promise<{ keyFile: string; token: (claims: object) => Buffer }> {
  const secret = randomBytes(32).toString('hex')
  const keyFile = join(await mkdtemp(join(tmpdir(), 'tenants-')), 'secret')
  await writeFile(keyFile, `${secret}\n`)
  const base64 = (text: string): string => Buffer.from(text).toString('base64url')
  const token = (claims: object): Buffer => {
    const text = `${base64('{"alg":"HS256"}')}.${base64(JSON.stringify({ sub: 'ann', exp: Date.now() / 1_000 + 60, ...claims }))}`
    return Buffer.from(`${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`)
  }
  return { keyFile, token }
}

test('a token names the tenant of its owner, who stays there: a later token of another tenant ends it', async () => {
  const { keyFile, token } = await signing()
  await using node = await createNode({
    id: 'a',
    listeners: [{ url: 'mqtt://127.0.0.1:0', authentication: ['jwt'] }],
    tenants: 'on',
    jwt: { keyFile, algorithms: ['HS256'] },
    mqtt: { responseInformation: 'answers/%c/' },
  })
  const connect = (claims: object): Promise<Wire> =>
    WireClient.connect(node.endpoints[0]!, 'c', {
      properties: {
        authenticationMethod: 'JWT',
        authenticationData: token(claims),
        requestResponseInformation: true,
      },
    })
  for (const claims of [{}, { tenant: 'a/b' }, { tenant: 'acme', sub: 'globex/ann' }])
    expect((await connect(claims)).connack.reasonCode).toBe(0x87)
  expect((await connect({ tenant: 7 })).connack.reasonCode).toBe(0x86)
  const [acme, globex] = [await connect({ tenant: 'acme' }), await connect({ tenant: 'globex' })]
  expect(acme.connack.properties?.responseInformation).toBe('answers/c/')
  const again = (client: WireClient, claims: object): void =>
    client.send({
      cmd: 'auth',
      reasonCode: 0x19,
      properties: { authenticationMethod: 'JWT', authenticationData: token(claims) },
    })
  again(acme, { tenant: 'acme' })
  expect((await acme.next('auth')).reasonCode).toBe(0)
  again(globex, { tenant: 'acme' })
  expect((await globex.next('disconnect')).reasonCode).toBe(0x87)
  again(acme, {}) // of none: what was said to be acme's it does not say any more
  expect((await acme.next('disconnect')).reasonCode).toBe(0x87)
  acme.socket.destroy()
})

test('a certificate and a server name: those that are asked for name a tenant, and all must agree', () => {
  const certificate = {
    commonName: 'x',
    organization: 'acme',
    unit: undefined,
    alternativeName: undefined,
    serial: '',
    fingerprint: '',
  }
  const of = (serverName: string | undefined, user: string | undefined, ...from: TenantSource[]): string => {
    const found = tenantNameOf(
      { principal: { user, by: undefined }, certificate, listener: {}, serverName },
      from,
    )
    return typeof found === 'string' ? found : found.reason
  }
  expect(of('acme.mqtt.example', 'globex/ann', 'certificate', 'sni')).toBe('acme')
  expect(of('globex.mqtt.example', undefined, 'certificate', 'sni')).toContain('two tenants')
  expect(of('acme.mqtt.example', 'globex/ann', 'user', 'sni')).toContain('two tenants')
  expect(of(undefined, 'ann', 'user', 'sni')).toBe('it belongs to no tenant')
  expect(of('ACME.mqtt.example', undefined, 'certificate', 'sni')).toBe('acme')
  for (const from of [['sni'], ['user', 'sni']] as const)
    // whoever asks for it
    expect(of('acme.mqtt.example', 'ann', ...from)).toContain('no proof')
})

test('a node whose clients would be named by a server name alone says so', () => {
  const advice = (options: object, tenantFrom: string[]): string[] =>
    adviceOn(
      loadConfig(
        {
          listeners: [{ url: 'mqtt://127.0.0.1:0', authentication: ['anonymous'], ...options }],
          tenants: 'on',
          access: { tenantFrom },
        },
        {},
      ),
    )
  expect(advice({}, ['sni'])).toEqual([expect.stringContaining('is no proof of one')])
  expect([...advice({ tenant: 'acme' }, ['sni']), ...advice({}, ['user', 'sni'])]).toEqual([])
})

test('where tenants are off a token may have a claim of that name for its own use', async () => {
  const { keyFile, token } = await signing()
  await using node = await createNode({
    id: 'a',
    listeners: [{ url: 'mqtt://127.0.0.1:0', authentication: ['jwt'] }],
    jwt: { keyFile, algorithms: ['HS256'] },
  })
  for (const tenant of [42, '', ['a'], 'a/b']) {
    const properties = { authenticationMethod: 'JWT', authenticationData: token({ tenant }) }
    const client = await WireClient.connect(node.endpoints[0]!, 'c', { properties })
    expect(client.connack.reasonCode).toBe(0)
    client.socket.destroy()
  }
})

test("rules: topics, %u and %c are the tenant's own, `tenant` says of which; wills, deliveries and what a session has, too", async () => {
  const rulesFile = join(await mkdtemp(join(tmpdir(), 'tenants-')), 'rules')
  await writeFile(
    rulesFile,
    `rules:
  - { allow: all, topic: 'u/%u/%c/#' }
  - { allow: all, topic: 'shared/#', tenant: acme }
  - { allow: receive, topic: '#', user: globex/alice }
  - { allow: subscribe, topic: 'jobs/#', group: crew }
`,
  )
  await using node = await serve({ access: { rulesFile } })
  const [acme, globex] = [await come(node, 'acme', 'c'), await come(node, 'globex', 'c')]
  const granted = async (client: WireClient, filter: string): Promise<unknown> => {
    client.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: filter, qos: 1 }] })
    return (await client.next('suback')).granted[0]
  }
  for (const client of [acme, globex]) {
    expect(await granted(client, 'u/alice/c/#')).toBe(1)
    expect(await granted(client, '#')).toBe(0x87)
    expect(await granted(client, 'u/acme/c/#')).toBe(0x87)
    expect(await granted(client, '$share/crew/jobs/#')).toBe(1)
  }
  expect([await granted(acme, 'shared/#'), await granted(globex, 'shared/#')]).toEqual([1, 0x87])
  await publish(acme, 'u/alice/c/1', 'x')
  expect([await published(acme), await published(globex)]).toEqual([['u/alice/c/1 x'], []])
  const evil = { topic: 'shared/w', payload: Buffer.from('x'), qos: 1 as const, retain: false }
  expect((await come(node, 'globex', 'evil', { will: evil })).connack.reasonCode).toBe(0x87)
  const dying = await come(node, 'acme', 'evil', { will: evil })
  expect(dying.connack.reasonCode).toBe(0)
  dying.socket.destroy() // rules are asked again when its will is published
  expect((await acme.next('publish')).topic).toBe('shared/w')
  const said = vi.spyOn(process.stdout, 'write').mockReturnValue(true)
  try {
    const ask = ['explain', '--rules-file', rulesFile, '--client', 'c', '--user', 'acme/alice']
    await access([...ask, '--tenant', 'acme', '--publish', 'shared/x'])
    await access([...ask, '--tenant', 'acme', '--publish', 'u/alice/c/x'])
    await access([...ask, '--publish', 'shared/x'])
    expect(said.mock.calls.map(([text]) => String(text).split(' ')[0])).toEqual([
      'allowed',
      'allowed',
      'denied:',
    ])
    await expect(access([...ask, '--tenant', 'a/b', '--publish', 'x'])).rejects.toThrow('can be no tenant')
  } finally {
    said.mockRestore()
  }
})

test('limits of a tenant: connections and Retained Messages; others have theirs', async () => {
  await using node = await serve({ limits: { tenantConnectionsMax: 2, tenantRetainedMax: 1 } })
  const [one, two] = [await come(node, 'acme', '1'), await come(node, 'acme', '2')]
  expect((await come(node, 'acme', '3')).connack.reasonCode).toBe(0x97)
  expect((await come(node, 'acme', '2')).connack.reasonCode).toBe(0) // in its own place
  await two.untilClosed()
  const other = await come(node, 'globex', '1')
  expect(other.connack.reasonCode).toBe(0)
  const retain = async (client: WireClient, topic: string): Promise<number | undefined> => {
    client.send({ cmd: 'publish', topic, payload: 'x', qos: 1, retain: true, dup: false, messageId: 1 })
    return (await client.next('puback')).reasonCode
  }
  expect([await retain(one, 'a'), await retain(one, 'b'), await retain(one, 'a')]).toEqual([0x10, 0x97, 0x10])
  expect(await retain(other, 'b')).toBe(0x10)
  const metrics = await node.metricsText()
  expect(metrics).toContain('aedes_cluster_tenant_connections{tenant="acme"} 2')
  expect(metrics).toContain('aedes_cluster_tenant_publishes_total{tenant="globex"} 1')
  for (const client of [one, other]) client.socket.destroy()
})

test('the program: hooks see own names and the tenant, and what they change stays there; it publishes and subscribes in one', async () => {
  const seen: unknown[] = []
  await using node = await createNode(
    { id: 'a', listen: ['mqtt://127.0.0.1:0'], authentication: ['hooks'], tenants: 'on', sysEvents: 'on' },
    {
      authenticate: (client, username, _password, done) => {
        client.tenant = username // a program knows
        done(null, true)
      },
      authorizePublish: (client, packet, done) => {
        seen.push(['publish', client?.id, client?.tenant, packet.topic, packet.tenant])
        if (packet.topic === 'in') packet.topic = 'changed'
        done(packet.topic === 'evil' ? new Error('no') : null)
      },
      authorizeSubscribe: (client, subscription, done) => {
        seen.push(['subscribe', client.id, subscription.topic])
        done(null, subscription)
      },
    },
  )
  const connect = (tenant: string): Promise<Wire> =>
    WireClient.connect(node.endpoints[0]!, 'c', { username: tenant })
  const [acme, globex] = [await connect('acme'), await connect('globex')]
  for (const client of [acme, globex]) await client.subscribe('#', { qos: 0 })
  await acme.subscribe('$SYS/+/new/clients', { qos: 0 })
  const heard: unknown[] = []
  await node.subscribe('#', (message) => heard.push(message), { tenant: 'acme' })
  await publish(acme, 'in', 'x', { qos: 0 })
  expect(await published(acme)).toEqual(['changed x'])
  expect(seen).toContainEqual(['publish', 'c', 'acme', 'in', 'acme'])
  expect(seen).toContainEqual(['subscribe', 'c', '#'])
  expect(heard).toMatchObject([{ topic: 'changed', tenant: 'acme' }])
  await node.publish('of/program', 'x', { tenant: 'acme' })
  await node.publish('of/nobody', 'x')
  expect(await published(acme)).toEqual(['of/program x'])
  for (const tenant of ['a/b', '', '+', 'a\0b'])
    await expect(node.publish('t', 'x', { tenant })).rejects.toThrow('can be no tenant')
  const newer = await WireClient.connect(node.endpoints[0]!, 'newer', { username: 'globex' })
  const own = await WireClient.connect(node.endpoints[0]!, 'own', { username: 'acme' })
  expect((await acme.next('publish')).payload.toString()).toBe('own') // of $SYS
  expect([await published(acme), await published(globex)]).toEqual([[], []])
  expect([...node.clients.keys()].sort()).toEqual(['acme/c', 'acme/own', 'globex/c', 'globex/newer'])
  expect(() => (node.clients.get('acme/c')!.tenant = 'globex')).toThrow('stays in its tenant')
  for (const client of [acme, globex, newer, own]) client.socket.destroy()
})

test('the admin API sees all tenants, and acts in one; bans, explain and the log say whose it is', async () => {
  const tokens = join(await mkdtemp(join(tmpdir(), 'tenants-')), 'tokens')
  await writeFile(tokens, 'write ops 0123456789abcdef0123456789abcdef\n')
  const program = (await import(built('broker/index.js'))) as { createNode: typeof createNode } // it knows its version
  await using node = await serve(
    { admin: { url: 'http://127.0.0.1:0', tokensFile: tokens } },
    'a',
    program.createNode,
  )
  const ask = async (method: string, path: string, body?: object): Promise<Record<string, unknown>> => {
    const response = await fetch(`${node.adminUrl}/api/v1${path}`, {
      method,
      headers: {
        authorization: 'Bearer 0123456789abcdef0123456789abcdef',
        ...(body !== undefined && { 'content-type': 'application/json' }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
    return { status: response.status, ...((await response.json()) as object) }
  }
  const [acme, globex] = [await come(node, 'acme', 'same', lasting), await come(node, 'globex', 'same')]
  for (const client of [acme, globex]) {
    await client.subscribe('#', { qos: 0 })
    await client.subscribe('$share/g/a/#', { qos: 0 })
  }
  const clients = (await ask('GET', '/clients')).clients as { clientId: string; tenant: string }[]
  expect(clients.map(({ clientId, tenant }) => [clientId, tenant])).toEqual([
    ['same', 'acme'],
    ['same', 'globex'],
  ])
  const count = async (query: string): Promise<number> =>
    ((await ask('GET', `/clients?${query}`)).clients as object[]).length
  expect([
    await count('tenant=acme'),
    await count('client=same'),
    await count('tenant=acme&client=sa*'),
    await count('user=acme/alice'),
    await count('user=alice'),
    await count('tenant=acme&user=alice'),
  ]).toEqual([1, 2, 1, 1, 2, 1])
  expect(await ask('GET', '/clients/same?tenant=acme')).toMatchObject({
    status: 200,
    clientId: 'same',
    tenant: 'acme',
    session: { subscriptions: [{ filter: '#' }, { filter: '$share/g/a/#' }] },
  })
  expect((await ask('POST', '/publish', { topic: 'a/b', payload: 'x' })).status).toBe(400)
  expect((await ask('POST', '/publish?tenant=a/b', { topic: 'a/b', payload: 'x' })).status).toBe(400)
  const message = { topic: 'a/b', payload: 'x\0y', retain: true }
  expect(await ask('POST', '/publish?tenant=acme', message)).toMatchObject({ topic: 'a/b', tenant: 'acme' })
  expect((await published(acme)).sort()).toEqual(['a/b x\0y', 'a/b x\0y'])
  expect(await published(globex)).toEqual([])
  const [talker, other] = [await come(node, 'acme', 'talker'), await come(node, 'globex', 'talker')]
  const trace = await fetch(`${node.adminUrl}/api/v1/trace?tenant=acme&topic=a/%23&seconds=60`, {
    headers: { authorization: 'Bearer 0123456789abcdef0123456789abcdef' },
  })
  let [seen, isCounted] = ['', false]
  const top = ask('GET', '/top?seconds=0.3').finally(() => (isCounted = true))
  const reading = (async () => {
    for await (const bytes of trace.body!)
      if ((seen += String(Buffer.from(bytes))).includes('"received"')) return
  })()
  let isRead = false
  void reading.then(() => (isRead = true))
  while (!isRead || !isCounted) for (const client of [talker, other]) await publish(client, 'a/top', 'x')
  await reading
  const received = seen.split('\n').find((line) => line.includes('"received"'))!
  expect(JSON.parse(received)).toMatchObject({ topic: 'a/top', from: 'talker', tenant: 'acme' })
  expect(
    ((await top).topics as { name: string; tenant: string }[])
      .map((one) => `${one.name} ${one.tenant}`)
      .sort(),
  ).toEqual(['a/top acme', 'a/top globex'])
  for (const client of [talker, other]) client.socket.destroy()
  for (const client of [acme, globex]) await published(client)
  for (const query of ['', '?tenant=acme'])
    expect((await ask('GET', `/retained${query}`)).messages).toMatchObject([
      { topic: 'a/b', tenant: 'acme', payload: 'x\0y' },
    ])
  expect((await ask('GET', '/retained?tenant=globex')).messages).toEqual([])
  expect(await ask('GET', '/groups?tenant=globex')).toMatchObject({
    groups: [{ group: '$share/g/a/#', tenant: 'globex' }],
  })
  expect(await ask('GET', '/subscribers?topic=a/b&tenant=acme')).toMatchObject({
    live: [{ clientId: 'same', tenant: 'acme' }],
  })
  expect(await ask('POST', '/bans?tenant=globex', { kind: 'client', name: 'same' })).toMatchObject({
    name: 'same',
  })
  expect((await ask('GET', '/bans')).bans).toMatchObject([{ kind: 'client', name: 'same', tenant: 'globex' }])
  const user = { kind: 'user', name: 'globex/alice' }
  expect(await ask('POST', '/bans?tenant=globex', user)).toMatchObject({ name: 'alice', tenant: 'globex' })
  expect(await ask('DELETE', '/bans?tenant=globex&kind=user&name=alice')).toMatchObject({ status: 200 })
  expect((await globex.next('disconnect')).reasonCode).toBe(0x98)
  expect(await ask('DELETE', '/bans?tenant=globex&kind=client&name=same')).toMatchObject({ status: 200 })
  expect((await ask('POST', '/clients/same/disconnect?tenant=acme')).nodes).toEqual(['a'])
  await acme.untilClosed()
})
