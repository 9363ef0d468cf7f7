// A mosquitto.conf, its password file, ACL, certificates and revocation list, run by Mosquitto and, as
// `aedes-cluster import --mosquitto` writes it, by a node: the same clients do the same at both, and the same comes of it.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect as connectTcp } from 'node:net'
import { connect as connectTls, type ConnectionOptions } from 'node:tls'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { IConnectPacket, IPublishPacket } from 'mqtt-packet'
import { afterAll, expect, test } from 'vitest'
import { findProgram } from '../../broker/cli/packages.ts'
import { createNode, type NodeOptions } from '../../broker/index.ts'
import { Authority } from '../support/authority.ts'
import { mainPath } from '../support/cluster.ts'
import { freePort } from '../support/redis.ts'
import { WireClient, type Version } from '../support/wire.ts'
import { parse } from 'yaml'

const folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-moved-'))
const authority = new Authority()
afterAll(() => {
  rmSync(folder, { recursive: true })
  authority[Symbol.dispose]()
})
const file = (name: string, text: string): string => {
  writeFileSync(join(folder, name), text)
  return join(folder, name)
}

const server = authority.issue('server', { names: 'DNS:localhost', by: 'root' })
const [ann, eve] = [authority.issue('ann', { by: 'root' }), authority.issue('eve', { by: 'root' })]
const byCertificate = ({ cert, key }: typeof ann): ConnectionOptions => ({
  cert: authority.read(cert.split('/').at(-1)!),
  key: authority.read(key.split('/').at(-1)!),
})
authority.revoke('eve', 'root')
const crl = file('crl.pem', authority.lists())

const acl = file(
  'acl',
  `# of those without a name
topic read news/#
topic write guests/+
topic deny news/secret

user root
topic readwrite #

user ann
topic news/#
topic readwrite ann/#
topic deny ann/locked/#
topic read to/all

user bob
topic write bob/+/x
topic read bob/#
topic deny news/secret

pattern readwrite of/%u/%c
pattern deny of/%u/locked
pattern read to/%c
`,
)
const passwords = join(folder, 'passwords')
for (const [i, name] of ['root', 'ann', 'bob'].entries())
  execFileSync('mosquitto_passwd', ['-b', ...(i === 0 ? ['-c'] : []), passwords, name, `of-${name}`])

const topics = [
  ...['news/today', 'news/secret', 'news', 'guests/a', 'guests/a/b', 'ann/a', 'ann', 'ann/locked/a'],
  ...['bob/1/x', 'bob/1/y', 'of/ann/client', 'of/bob/client', 'of/ann/other', 'of/ann/locked'],
  ...['to/client', 'to/other', 'to/all', 'nobody/may'],
]

interface Who {
  readonly at: 'plain' | 'anonymous' | 'identity' | 'both'
  readonly username?: string
  readonly password?: string
  readonly tls?: ConnectionOptions
  readonly clientId?: string
}
/** Everybody at every door that he may try. */
const everybody: Who[] = [
  ...(['plain', 'anonymous'] as const).flatMap((at): Who[] => [
    { at },
    { at, username: 'ann', password: 'of-ann' },
    { at, username: 'ann', password: 'of-ann', clientId: 'other' },
    { at, username: 'bob', password: 'of-bob' },
    { at, username: 'bob', password: 'of-ann' },
    { at, username: 'bob' },
    { at, username: 'nobody', password: 'of-ann' },
  ]),
  ...(['identity', 'both'] as const).flatMap((at): Who[] =>
    [undefined, byCertificate(ann), byCertificate(eve)].flatMap((tls): Who[] => [
      { at, ...(tls && { tls }) },
      { at, ...(tls && { tls }), username: 'bob', password: 'of-bob' },
      { at, ...(tls && { tls }), username: 'bob', password: 'wrong' },
    ]),
  ),
]
type Ports = Record<Who['at'], number>

async function come(
  ports: Ports,
  { at, tls, clientId = 'client', username, password }: Who,
  version: Version,
  will?: IConnectPacket['will'],
): Promise<WireClient | undefined> {
  const isTls = at === 'identity' || at === 'both'
  const to = { port: ports[at], host: '127.0.0.1' }
  const socket = isTls
    ? connectTls({ ...to, ca: authority.read('root.pem'), checkServerIdentity: () => undefined, ...tls })
    : connectTcp(to)
  socket.on('error', () => undefined)
  const client = new WireClient(socket, version)
  client.send({
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: version,
    clean: true,
    clientId,
    keepalive: 0,
    ...(username !== undefined && { username }),
    ...(password !== undefined && { password: Buffer.from(password) }),
    ...(will !== undefined && { will }),
  })
  const answer = await client.any().catch(() => undefined)
  if (answer?.cmd === 'connack' && (answer.reasonCode ?? answer.returnCode) === 0) return client
  await client[Symbol.asyncDispose]()
  return undefined
}

const publish = (topic: string, messageId: number, payload: string): IPublishPacket => ({
  cmd: 'publish',
  topic,
  messageId,
  payload,
  qos: 1,
  retain: false,
  dup: false,
})

/** Publishes all topics, one after the other is acknowledged. @returns those that are refused in so many words */
async function publishAll(client: WireClient, payload: string): Promise<string[]> {
  client.send(...topics.map((topic, i) => publish(topic, i + 1, payload)))
  const refused: string[] = []
  for (let i = 0; i < topics.length; i++) {
    const { messageId, reasonCode = 0 } = await client.first('puback')
    if (reasonCode >= 0x80) refused.push(topics[messageId! - 1]!)
  }
  return refused
}

let ends = 0
/** Topics of what came with this payload, up to what is published behind it, which everybody may read. */
async function heard(
  client: WireClient,
  clientId: string,
  root: WireClient,
  payload: string,
): Promise<string[]> {
  const end = `end ${++ends}`
  root.send(publish(`to/${clientId}`, 100, end))
  await root.first('puback')
  const all: string[] = []
  for (;;) {
    const came = await client.first('publish')
    const said = String(came.payload)
    if (said === end) return all.sort()
    if (said === payload) all.push(came.topic)
  }
}

const will = { topic: 'ann/will', payload: Buffer.from('will'), qos: 1, retain: false } as const

const subscribe = async (to: WireClient, filter: string): Promise<unknown> => {
  to.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: filter, qos: 0 }] })
  return (await to.first('suback')).granted[0]
}

/** What comes of it. @param root hears everything */
async function outcome(ports: Ports, who: Who, version: Version, root: WireClient): Promise<unknown> {
  // A CONNECT of MQTT 5 whose will is denied is refused here, and Mosquitto 2.0 drops the will.
  const client = await come(ports, who, version, version === 4 ? will : undefined)
  if (client === undefined) return 'refused'
  const granted: unknown[] = []
  for (const filter of ['#', 'ann/locked/#', 'nobody/may']) granted.push(await subscribe(client, filter))
  await publishAll(root, 'down')
  const mayRead = new Set(await heard(client, who.clientId ?? 'client', root, 'down'))
  await heard(root, 'root', root, 'down')
  const refused = await publishAll(client, 'up')
  const mayWrite = await heard(root, 'root', root, 'up')
  client.socket.destroy()
  await client.closed
  // One that is denied is nothing to wait for.
  const isDue = version === 4 && mayWrite.includes('ann/a')
  const willIs = isDue ? [(await root.first('publish')).topic] : await heard(root, 'root', root, 'will')
  return { granted, mayRead: [...mayRead], refused, mayWrite, willIs }
}

async function outcomes(ports: Ports): Promise<Record<string, unknown>> {
  const all: Record<string, unknown> = {}
  for (const version of [4, 5] as const) {
    await using root = (await come(
      ports,
      { at: 'plain', username: 'root', password: 'of-root', clientId: 'root' },
      version,
    ))!
    await subscribe(root, '#')
    for (const [i, who] of everybody.entries()) {
      const certificate = who.tls === undefined ? 'none' : i % 9 < 6 ? 'ann' : 'eve'
      const name = `${version} ${who.at} ${who.username} ${who.password} ${who.clientId} ${certificate} ${i}`
      all[name] = await outcome(ports, who, version, root)
    }
  }
  return all
}

test('what clients may and may not is the same at Mosquitto and at a node with its configuration', async () => {
  const first = await freePort([0, 1, 2, 3])
  const ports: Ports = { plain: first, anonymous: first + 1, identity: first + 2, both: first + 3 }
  const tls = `certfile ${server.cert}
keyfile ${server.key}
cafile ${authority.path('root.pem')}
crlfile ${crl}
require_certificate true
`
  const conf = file(
    'mosquitto.conf',
    `per_listener_settings true
user root
listener ${ports.plain} 127.0.0.1
allow_anonymous false
password_file ${passwords}
acl_file ${acl}
listener ${ports.anonymous} 127.0.0.1
allow_anonymous true
password_file ${passwords}
acl_file ${acl}
listener ${ports.identity} 127.0.0.1
acl_file ${acl}
use_identity_as_username true
${tls}listener ${ports.both} 127.0.0.1
allow_anonymous false
password_file ${passwords}
acl_file ${acl}
${tls}`,
  )
  const mosquitto = spawn(findProgram('mosquitto')!, ['-c', conf], { stdio: 'ignore' })
  const ended = once(mosquitto, 'exit')
  for (let isThere = false; !isThere;) {
    const socket = connectTcp(ports.both, '127.0.0.1')
    isThere = await new Promise((resolve) =>
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false)),
    )
    socket.destroy()
    if (mosquitto.exitCode !== null) throw new Error('mosquitto did not start')
  }
  const bob: Who = { at: 'plain', username: 'bob', password: 'of-bob', clientId: 'willing' }
  const isTakenWithWill = async (): Promise<boolean> => {
    const client = await come(ports, bob, 5, will)
    await client?.[Symbol.asyncDispose]()
    return client !== undefined
  }
  const willThere = await isTakenWithWill()
  const there = await outcomes(ports).finally(() => {
    mosquitto.kill('SIGKILL')
  })
  expect(willThere).toBe(true)
  await ended
  const written = execFileSync(process.execPath, [mainPath, 'import', '--mosquitto', conf], {
    encoding: 'utf8',
  })
  const node = await createNode(parse(written) as NodeOptions)
  const willHere = await isTakenWithWill()
  const here = await outcomes(ports)
  await node.close()
  expect(here).toEqual(there)
  expect(willHere).toBe(false) // told so by MQTT 5, in whose words it can be
})
