// The doors of a node: who comes and is no client is answered or closed in time, costs nothing afterwards and
// ends nothing.
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { Descriptors } from '../../broker/listeners/index.ts'
import { openClient } from '../bridge/planes.ts'
import { makeCertificates, type Certificates } from '../support/certificates.ts'
import { TestClient } from '../support/client.ts'
import { mainPath, startCluster, type TestCluster, type TestNode } from '../support/cluster.ts'
import { ask, descriptorsOf, knock, timerOf, untilClosed, upgrade } from '../support/door.ts'
import { startRedis } from '../support/redis.ts'
import { spawned } from '../support/spawned.ts'
import { u16, u32, WireClient } from '../support/wire.ts'

let certificates: Certificates
let cluster: TestCluster
let node: TestNode
let atStart: string
let every: Record<'mqtt' | 'ws' | 'mqtts' | 'wss' | 'admin', string>
beforeAll(async () => {
  certificates = makeCertificates()
  const { cert, key } = certificates.server
  cluster = await startCluster({
    nodes: 1,
    argv: [
      '--connect-timeout-ms',
      '700',
      '--tls-cert',
      cert,
      '--tls-key',
      key,
      '--listen',
      'mqtts://127.0.0.1:0',
      '--listen',
      'wss://127.0.0.1:0/mqtt',
      '--ws-origins',
      'https://app.example',
    ],
  })
  node = cluster.node(0)
  atStart = (await node.admin('/metrics')).body
  const [mqtts, wss] = node.furtherUrls
  every = { mqtt: node.url, ws: node.wsUrl, mqtts: mqtts!, wss: wss!, admin: node.adminUrl }
})
afterAll(async () => {
  await cluster[Symbol.asyncDispose]()
  certificates[Symbol.dispose]()
})

const metric = async (name: string): Promise<number> => {
  const line = (await node.admin('/metrics')).body.split('\n').find((row) => row.startsWith(`${name} `))
  return Number(line?.slice(name.length + 1))
}

const targets = [
  '//',
  '///',
  '//[',
  'http://[',
  '*',
  '/\\',
  '/%',
  '/mqtt/../mqtt',
  'ws://localhost/',
  '/'.repeat(8_000),
  '/mqtt%00',
  '?',
  '/constructor',
  '/__proto__',
]

describe('nobody who comes ends the node', () => {
  test.each(targets)('an upgrade of GET %.20s is answered and closed', async (target) => {
    expect(await ask(node.wsUrl, upgrade(target))).toMatch(/^HTTP\/1.1 4\d\d /)
    const answer = await ask(node.adminUrl, `GET ${target} HTTP/1.1\r\nhost: localhost\r\n\r\n`)
    expect(answer).toMatch(/^HTTP\/1.1 4\d\d /)
    await ask(node.adminUrl, upgrade(target))
  })

  test.each([
    ['no key', { 'sec-websocket-key': '' }],
    ['version 7', { 'sec-websocket-version': '7' }],
    ['no WebSocket', { upgrade: 'h2c' }],
    ['no subprotocol of MQTT', { 'sec-websocket-protocol': 'chat, mqttv4' }],
    ['an empty one', { 'sec-websocket-protocol': '' }],
    ['two commas', { 'sec-websocket-protocol': 'mqtt,,' }],
    ['a page of elsewhere', { origin: 'https://evil.example' }],
    ['a page of nowhere', { origin: 'null' }],
  ])('an upgrade with %s is refused', async (_what, headers) => {
    expect(await ask(node.wsUrl, upgrade('/mqtt', headers))).toMatch(/^HTTP\/1.1 4\d\d /) // [MQTT-6.0.0-3]
  })

  test.each(['mqtt', 'mqttv3.1'])(
    'a page that may come, with subprotocol %s, is served',
    async (subprotocol) => {
      const socket = new WebSocket(node.wsUrl, ['chat', subprotocol], { origin: 'https://app.example' })
      await once(socket, 'open')
      expect(socket.protocol).toBe(subprotocol) // [MQTT-6.0.0-4]
      socket.terminate()
    },
  )

  afterAll(async () => {
    await using client = await TestClient.connect(node.url, 'healthy')
    await client.ping()
    expect(await metric('aedes_cluster_connections_turned_away_total{cause="request"}')).toBeGreaterThan(0)
  })
})

/** Bytes of a TLS 1.2 ClientHello that stops. */
const hello = Buffer.from('1603010200010001fc0303', 'hex')

function drip(socket: Socket, text: string): void {
  let n = 0
  const timer = setInterval(() => {
    if (n < text.length) socket.write(text[n++]!)
  }, 20)
  socket.once('close', () => clearInterval(timer))
}

const lingering: [string, keyof typeof every, (socket: Socket) => void][] = [
  ['silence', 'mqtt', () => undefined],
  ['silence', 'ws', () => undefined],
  ['silence', 'mqtts', () => undefined],
  ['silence', 'wss', () => undefined],
  ['a ClientHello that stops', 'mqtts', (socket) => socket.write(hello)],
  ['a ClientHello that stops', 'wss', (socket) => socket.write(hello)],
  ['a ClientHello that drips', 'wss', (socket) => drip(socket, hello.toString('latin1'))],
  ['headers byte by byte', 'ws', (socket) => drip(socket, upgrade('/mqtt'))],
  ['an upgrade to another path', 'ws', (socket) => socket.write(upgrade('/other'))],
  ['an upgrade without CONNECT', 'ws', (socket) => socket.write(upgrade('/mqtt'))],
  [
    'an upgrade, then a CONNECT that drips',
    'ws',
    (socket) => {
      socket.write(upgrade('/mqtt'))
      drip(socket, '\x82\xff' + '\0'.repeat(100))
    },
  ],
  [
    'a request that is kept alive',
    'ws',
    (socket) => socket.write('GET /mqtt HTTP/1.1\r\nhost: localhost\r\n\r\n'),
  ],
  [
    'a body that does not come',
    'ws',
    (socket) => socket.write('POST /mqtt HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n'),
  ],
  ['half a CONNECT', 'mqtt', (socket) => socket.write(Buffer.from('1020', 'hex'))],
]

test('whoever does not become a client in time is closed, whatever it does meanwhile, and leaves no descriptor behind', async () => {
  await node.admin('/livez')
  const before = descriptorsOf(node.pid)
  const sockets = await Promise.all(
    lingering.flatMap(([, where, act]) =>
      Array.from({ length: 8 }, async () => {
        const socket = await knock(every[where], true)
        act(socket)
        return socket.resume()
      }),
    ),
  )
  expect(await metric('aedes_cluster_sockets')).toBeGreaterThan(0)
  await expect.poll(() => descriptorsOf(node.pid)).toBeLessThanOrEqual(before) // they stay, the node does not
  for (const socket of sockets) socket.destroy()
  expect(await metric('aedes_cluster_sockets')).toBe(0)
  expect(await metric('aedes_cluster_connections_turned_away_total{cause="deadline"}')).toBeGreaterThan(0)
})

test('the system watches over each connection: keepalive, over every transport', async () => {
  for (const url of [every.mqtt, every.mqtts, every.ws, every.wss]) {
    const socket = await knock(url)
    await expect.poll(() => timerOf(socket), { message: url }).toBe('02')
    socket.destroy()
  }
})

test('connections that hang up right behind CONNECT are not counted as clients', async () => {
  const connect = Buffer.from('101100044d5154540402000000056e616d65', 'hex') // one byte is random
  await Promise.all(
    Array.from({ length: 300 }, async (_, n) => {
      const socket = await knock(node.url)
      socket.write(Buffer.concat([connect, Buffer.from([97 + (n % 26)])]), () => {
        if (n % 2 === 0) socket.destroy()
        else socket.resetAndDestroy()
      })
      await untilClosed(socket)
    }),
  )
  await expect.poll(() => metric('aedes_cluster_sockets')).toBe(0)
  await using client = await node.connect('counted')
  await expect.poll(() => metric('aedes_cluster_connections')).toBe(1)
  await client.disconnect()
  await expect.poll(() => metric('aedes_cluster_connections')).toBe(0)
})

test('counters begin at 0, each label of them', () => {
  for (const series of [
    'publishes_received_total{qos="2"}',
    'messages_dropped_total{cause="slow-subscriber",qos="0"}',
    'messages_dropped_total{cause="client-bytes",qos="0"}',
    'garbage_total{where="inbox"}',
    'garbage_total{where="session"}',
    'failed_messages_total{where="delivery"}',
    'connections_turned_away_total{cause="descriptors"}',
    'log_lines_dropped_total',
  ]) {
    expect(atStart.split('\n')).toContain(`aedes_cluster_${series} 0`)
  }
})

test('a client that pings by WebSocket and does not read fills nothing', async () => {
  const socket = await knock(node.wsUrl)
  socket.write(upgrade('/mqtt'))
  await once(socket, 'readable')
  const held = await node.heldBytes()
  socket.pause()
  const ping = Buffer.concat([Buffer.from('89fd00000000', 'hex'), Buffer.alloc(125)])
  const burst = Buffer.concat(Array<Buffer>(1_000).fill(ping))
  const closed = new Promise((resolve) => {
    socket.once('close', resolve)
  })
  for (let n = 0; n < 150 && !socket.destroyed; n++)
    if (!socket.write(burst))
      await Promise.race([
        new Promise((resolve) => {
          socket.once('drain', resolve)
        }),
        closed,
      ])
  expect((await node.heldBytes()) - held).toBeLessThan(8_000_000)
  socket.destroy()
})

describe('[MQTT-6.0.0-2] frames of WebSocket are no packets', () => {
  const mask = Buffer.from('a1b2c3d4', 'hex')
  /** A frame that announces so many bytes, and some of its payload: as if it began at byte `from` of it. */
  const head = (first: number, bytes: number): Buffer =>
    Buffer.concat([Buffer.from([first, 0xff]), u32(Math.floor(bytes / 2 ** 32)), u32(bytes >>> 0), mask])
  const masked = (payload: Buffer, from = 0): Buffer =>
    payload.map((byte, i) => byte ^ mask[(from + i) & 3]!) as Buffer
  const connect = Buffer.from('100d00044d51545404020000000166', 'hex')
  const ping = Buffer.from('c000', 'hex')

  async function open(): Promise<{ socket: Socket; came: () => string }> {
    const socket = await knock(node.wsUrl)
    socket.write(upgrade('/mqtt'))
    await once(socket, 'data')
    let came = Buffer.alloc(0)
    socket.on('data', (chunk: Buffer) => {
      came = Buffer.concat([came, chunk])
    })
    return { socket: socket.setNoDelay(), came: () => came.toString('hex') }
  }

  test('nothing of one is kept: what is a packet of it is answered, however much was announced and whether it ever ends', async () => {
    const { socket, came } = await open()
    socket.write(Buffer.concat([head(0x82, 2 ** 33), masked(connect)]))
    await expect.poll(came).toBe('820420020000')
    for (const [i, byte] of ping.entries()) {
      socket.write(masked(Buffer.from([byte]), connect.length + i))
      await new Promise((resolve) => {
        setImmediate(resolve)
      })
    }
    await expect.poll(came).toBe('8204200200008202d000')
    socket.destroy()
  })

  test('fragments with pings between them, a packet over three of them, frames behind it: each in its order', async () => {
    const { socket, came } = await open()
    const parts = [connect.subarray(0, 3), connect.subarray(3, 4), connect.subarray(4)]
    const frames = parts.flatMap((part, n) => [
      head(n === 0 ? 0x02 : n === 2 ? 0x80 : 0x00, part.length),
      masked(part),
      Buffer.from('898000000000', 'hex'),
    ])
    for (const byte of Buffer.concat(frames)) socket.write(Buffer.from([byte]))
    await expect.poll(came).toContain('820420020000')
    socket.write(
      Buffer.concat([
        head(0x82, 0),
        head(0x02, 1),
        masked(ping.subarray(0, 1)),
        head(0x80, 1),
        masked(ping.subarray(1)),
        head(0x82, 4),
        masked(Buffer.concat([ping, ping])),
      ]),
    )
    await expect.poll(came).toContain('d000d000d000')
    socket.destroy()
  })

  test('who is no client is closed by the first bytes of a frame that does not end, text before its text', async () => {
    const [errors, refusals] = [
      'aedes_cluster_client_errors_total',
      'aedes_cluster_refusals_total{cause="connect-bytes"}',
    ]
    const before = [await metric(errors), await metric(refusals)]
    // a CONNECT of 2 MB
    const large = Buffer.concat([Buffer.from('10ffff7f00044d5154540402', 'hex'), Buffer.alloc(20)])
    for (const begin of [
      head(0x81, 900_000),
      Buffer.concat([head(0x82, 900_000), masked(Buffer.alloc(200))]),
      Buffer.concat([head(0x82, 900_000), masked(large)]),
    ]) {
      const { socket } = await open()
      socket.write(begin)
      await untilClosed(socket)
    }
    // text is closed without a word
    expect([await metric(errors), await metric(refusals)]).toEqual([before[0]! + 2, before[1]! + 1])
  })

  test('a reserved bit, a frame without mask, a continuation of nothing: closed', async () => {
    for (const wrong of ['c28100000000c0', '8202c000', '808100000000c0']) {
      const { socket } = await open()
      socket.write(Buffer.from(wrong, 'hex'))
      await untilClosed(socket)
    }
  })
})

test('of pings by WebSocket that come together the last one is answered', async () => {
  const socket = await knock(node.wsUrl)
  socket.write(upgrade('/mqtt'))
  const [answer] = (await once(socket, 'data')) as [Buffer]
  expect(answer.toString()).toContain('101')
  let pongs = Buffer.alloc(0)
  socket.on('data', (chunk: Buffer) => {
    pongs = Buffer.concat([pongs, chunk])
  })
  socket.write(
    Buffer.concat(
      Array.from({ length: 5_000 }, (_, n) => Buffer.concat([Buffer.from('898200000000', 'hex'), u16(n)])),
    ),
  )
  await expect.poll(() => pongs.subarray(-4).toString('hex')).toBe('8a02' + u16(4_999).toString('hex'))
  expect(pongs.length / 4).toBeLessThan(500)
  socket.destroy()
})

test('an accept that failed while few were connected makes room scarce for a while, not for ever', async () => {
  const places = new Descriptors(100)
  const before = places.max
  expect([places.take(), places.take()]).toEqual([true, true])
  places.exhausted()
  expect([places.max, places.take()]).toEqual([1, false])
  await expect.poll(() => places.max).toBe(before)
  expect(places.take()).toBe(true)
})

test('no descriptor is left for clients: they are refused and counted, /readyz and Redis are reached, and the log says it', async () => {
  await using redis = await startRedis()
  const argv = [
    '--id',
    'few',
    '--redis',
    redis.url,
    '--listen',
    'mqtt://127.0.0.1:0',
    '--admin',
    'http://127.0.0.1:0',
    '--connect-timeout-ms',
    '60000',
  ]
  const few = spawned(
    '/bin/sh',
    ['-c', 'ulimit -n 120; exec "$0" "$@"', process.execPath, mainPath, 'node', ...argv],
    { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] },
  )
  let log = ''
  few.stderr!.on('data', (chunk: Buffer) => {
    log += chunk.toString()
  })
  const [{ listen, admin }] = (await once(few, 'message')) as [{ listen: [string]; admin: string }]
  expect(log).toContain('the limit of open files is low')
  const sockets = await Promise.all(Array.from({ length: 300 }, () => knock(listen[0])))
  const metrics = async (): Promise<string> => (await fetch(admin + '/metrics')).text()
  await expect.poll(metrics).toMatch(/connections_turned_away_total\{cause="descriptors"\} 2\d\d$/m)
  for (let n = 0; n < 30; n++) expect((await fetch(admin + '/readyz')).status).toBe(200)
  expect(log).toContain('no file descriptor is left')
  for (const socket of sockets) socket.destroy()
  await expect.poll(metrics).toMatch(/^aedes_cluster_sockets 0$/m)
  await using client = await WireClient.connect(listen[0], 'later')
  expect(client.connack.reasonCode).toBe(0)
})

test('the limit of open files is lowered while a node serves: it says so, is asked and stores, and says when it is over', async () => {
  await using cluster = await startCluster({ nodes: 1 })
  const node = cluster.node(0)
  using admin = openClient(cluster.redis)
  const client = await node.connect('client')
  await client.subscribe('t', { qos: 1 })
  const [, soft, hard] = /Max open files +(\d+) +(\d+)/.exec(
    readFileSync(`/proc/${node.pid}/limits`, 'utf8'),
  )!
  const limit = (files: number | string): void => {
    const { status, stderr } = spawnSync('prlimit', ['--pid', `${node.pid}`, `--nofile=${files}:${hard}`])
    expect(status, String(stderr)).toBe(0)
  }
  limit(descriptorsOf(node.pid) + 3)
  const sockets = await Promise.all(Array.from({ length: 40 }, () => knock(node.url)))
  const ready = (): Promise<string> => node.admin('/readyz').then(({ status, body }) => `${status} ${body}`)
  await expect.poll(ready).toMatch(/^503 .*no file descriptor is left.*ulimit -n/)
  expect(node.log).toMatch(/no file descriptor is left/)
  await admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  await client.publish('t', 'stored', { qos: 1 })
  await client.receives([{ topic: 't', payload: 'stored' }])
  limit(soft!)
  await expect.poll(ready).toMatch(/^200 /)
  expect(node.log).toMatch(/there are file descriptors for connections again/)
  for (const socket of sockets) socket.destroy()
})
