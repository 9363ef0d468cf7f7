// Random input for the doors of a node: HTTP requests, upgrades and frames of WebSocket, packets of MQTT,
// whole, damaged, torn and slow. The same seed makes the same choices; what happens between connections is up
// to their timing.
import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import mqttPacket, { type Packet } from 'mqtt-packet'
import { knock } from './door.ts'
import type { Random } from './random.ts'
import { frame, str, u16 } from './wire.ts'

const workers = 24
/** Words that mean something to JavaScript, to MQTT or to Redis. */
export const names = [
  '__proto__',
  'constructor',
  'prototype',
  'toString',
  'hasOwnProperty',
  'valueOf',
  '__defineGetter__',
  'length',
  'then',
  'undefined',
  'null',
  'NaN',
  '0',
  '',
  'a/__proto__/b',
  '__proto__/#',
  '+/constructor',
  '#',
  '+',
  '$SYS/#',
  '$share/__proto__/x',
  '$share//x',
  '/',
  '//',
  'a b',
  '{s1}:x',
  '*',
  '[a]?',
  '\u{1F4A9}',
  '\uFEFF',
  'x'.repeat(300),
]

export const bytes = (random: Random, max: number): Buffer =>
  Buffer.from(Array.from({ length: random.below(max + 1) }, () => random.below(256)))
export const chance = (random: Random, oneIn: number): boolean => random.below(oneIn) === 0
export const some = <T>(random: Random, list: readonly T[], max: number): T[] =>
  Array.from({ length: random.below(max + 1) }, () => random.pick(list))

/** Some bytes changed, lost, doubled or put in. */
export function damage(random: Random, input: Buffer): Buffer {
  let output = Buffer.from(input)
  for (let n = random.below(3); n >= 0 && output.length > 0; n--) {
    const at = random.below(output.length)
    switch (random.below(4)) {
      case 0:
        output[at] = random.below(256)
        break
      case 1:
        output = output.subarray(0, at)
        break
      case 2:
        output = Buffer.concat([output.subarray(0, at), output.subarray(random.below(at + 1))])
        break
      default:
        output = Buffer.concat([output.subarray(0, at), bytes(random, 8), output.subarray(at)])
    }
  }
  return output
}

/**
 * Writes it whole, in pieces, or byte by byte, and ends the connection in one of the ways in which they end.
 */
export async function send(random: Random, stream: Duplex, input: Buffer): Promise<void> {
  stream.on('error', () => undefined).resume()
  const closed = new Promise<void>((resolve) => {
    stream.once('close', () => resolve())
  })
  const pieces = random.pick([1, 1, 2, 5, Math.min(40, input.length)])
  for (let n = 0; n < pieces && !stream.destroyed; n++) {
    const flowing = stream.write(
      input.subarray(Math.floor((input.length * n) / pieces), Math.floor((input.length * (n + 1)) / pieces)),
    )
    if (!flowing) await Promise.race([closed, once(stream, 'drain').catch(() => undefined)])
    else if (chance(random, 2)) await new Promise((resolve) => setTimeout(resolve, random.below(8)))
    else await new Promise(setImmediate)
  }
  const wait = random.pick([0, 5, 30, 200])
  await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, wait))])
  if (chance(random, 2)) stream.end()
  else stream.destroy()
  await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, 100))])
  stream.destroy()
}

async function openStream(random: Random, url: string): Promise<Duplex> {
  const socket = await knock(url, chance(random, 2))
  if (!/^(mqtts|wss):/.test(url) || chance(random, 3)) return socket // bytes where TLS is spoken
  const secure = connectTls({
    socket,
    rejectUnauthorized: false,
    ...(chance(random, 4)
      ? { ALPNProtocols: some(random, ['mqtt', 'h2', 'http/1.1', 'x'.repeat(200)], 3) }
      : {}),
  })
  secure.on('error', () => undefined)
  await Promise.race([
    once(secure, 'secureConnect').catch(() => undefined),
    once(secure, 'close').catch(() => undefined),
  ])
  return secure
}

/**
 * Until the time is over, several at a time; ends early when `goesOn` says so.
 * @returns how many connections there were
 */
export async function untilOver(
  seconds: number,
  random: Random,
  goesOn: () => boolean,
  one: (random: Random) => Promise<void>,
): Promise<number> {
  const end = performance.now() + seconds * 1_000
  let count = 0
  await Promise.all(
    Array.from({ length: workers }, async () => {
      while (performance.now() < end && goesOn()) {
        try {
          await one(random)
          count++
        } catch (error) {
          if ((error as NodeJS.ErrnoException).syscall !== 'connect') throw error
          // refused: whether a node is gone is asked elsewhere
          await new Promise((resolve) => setTimeout(resolve, 100))
        }
      }
    }),
  )
  return count
}

// HTTP and WebSocket

const targets = [
  '/',
  '//',
  '///',
  '/mqtt',
  '/mqtt?',
  '/mqtt/',
  '/MQTT',
  '/mqtt#x',
  '/other',
  '*',
  'http://[',
  'ws://localhost/mqtt',
  '/livez',
  '/readyz',
  '/metrics',
  '/routes',
  '/routes?limit=',
  '/routes?limit=1e9',
  '/routes?limit=5',
  '?',
  '/%',
  '/%00',
  '/../..',
  'localhost:80',
]

function request(random: Random): Buffer {
  const target = chance(random, 5)
    ? `/${bytes(random, 60).toString('latin1')}`
    : random.pick([...targets, ...names, '/'.repeat(random.below(20_000))])
  const lines = [
    `${random.pick(['GET', 'GET', 'GET', 'GET', 'POST', 'HEAD', 'CONNECT', 'OPTIONS', 'PRI', 'get', '__proto__'])} ${target} ${random.pick(['HTTP/1.1', 'HTTP/1.1', 'HTTP/1.1', 'HTTP/1.0', 'HTTP/2.0', 'HTTP', ''])}`,
  ]
  const usual = {
    host: 'localhost',
    connection: 'Upgrade',
    upgrade: 'websocket',
    'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==',
    'sec-websocket-version': '13',
    'sec-websocket-protocol': 'mqtt',
  }
  for (const [name, value] of Object.entries(usual))
    if (!chance(random, 12)) lines.push(`${name}: ${chance(random, 15) ? random.pick(names) : value}`)
  const further = [
    'origin: null',
    'origin: https://evil.example',
    'expect: 100-continue',
    'content-length: 10',
    'content-length: -1',
    'transfer-encoding: chunked',
    'sec-websocket-extensions: permessage-deflate',
    'sec-websocket-extensions: ,;=',
    'sec-websocket-protocol: ,,',
    '__proto__: x',
    'constructor: y',
    'host: evil.example',
    `cookie: ${'x'.repeat(random.below(30_000))}`,
    'x',
    ': y',
  ]
  lines.push(...some(random, further, 3))
  return Buffer.from(`${lines.join(random.pick(['\r\n', '\r\n', '\r\n', '\n']))}\r\n\r\n`, 'latin1')
}

/** A frame from a client: masked, as a rule, of the length that it says, as a rule. */
function webSocketFrame(random: Random, payload: Buffer): Buffer {
  const opcode = random.pick([2, 2, 2, 2, 0, 1, 8, 9, 10, 3, 15])
  const first = (chance(random, 4) ? 0 : 0x80) | (chance(random, 20) ? random.below(8) << 4 : 0) | opcode
  const claimed = chance(random, 15) ? random.below(65_536) : payload.length
  const length = claimed < 126 ? [claimed] : [126, claimed >> 8, claimed & 255]
  const mask = chance(random, 20) ? undefined : bytes(random, 4)
  if (mask === undefined || mask.length < 4) return Buffer.concat([Buffer.from([first, ...length]), payload])
  return Buffer.concat([
    Buffer.from([first, 0x80 | length[0]!, ...length.slice(1)]),
    mask,
    payload.map((byte, i) => byte ^ mask[i % 4]!),
  ])
}

/** Requests, upgrades and frames against every address. @returns how many connections there were */
export function fuzzDoors(
  urls: readonly string[],
  seconds: number,
  random: Random,
  goesOn: () => boolean,
): Promise<number> {
  return untilOver(seconds, random, goesOn, async () => {
    const url = random.pick(urls)
    const frames = Array.from({ length: random.below(6) }, () =>
      webSocketFrame(random, chance(random, 3) ? bytes(random, 200) : packet(random)),
    )
    const input = Buffer.concat([
      ...Array.from({ length: random.pick([0, 1, 1, 1, 1, 2]) }, () => request(random)),
      ...frames,
    ])
    const stream = await openStream(random, url)
    await send(random, stream, chance(random, 4) ? damage(random, input) : input)
  })
}

// MQTT

const anyName = (random: Random): string =>
  chance(random, 6) ? bytes(random, 20).toString('utf8') : random.pick(names)
const userProperties = (random: Random): object => ({
  userProperties: Object.fromEntries(
    some(random, names, 4).map((name) => [name === '' ? 'empty' : name, random.pick(names)] as const),
  ),
})

function connectPacket(random: Random, version: number): object {
  const will = {
    topic: anyName(random),
    payload: bytes(random, 20),
    qos: random.below(3),
    retain: chance(random, 2),
    ...(version === 5
      ? {
          properties: {
            willDelayInterval: random.below(3),
            messageExpiryInterval: random.pick([0, 1, 0xffffffff]),
            ...userProperties(random),
          },
        }
      : {}),
  }
  return {
    cmd: 'connect',
    protocolId: version === 3 ? 'MQIsdp' : 'MQTT',
    protocolVersion: version,
    clean: chance(random, 2),
    clientId: anyName(random),
    keepalive: random.below(100),
    ...(chance(random, 2) ? { will } : {}),
    ...(chance(random, 3) ? { username: anyName(random), password: bytes(random, 10) } : {}),
    ...(version === 5
      ? {
          properties: {
            sessionExpiryInterval: random.pick([0, 1, 20, 0xffffffff]),
            receiveMaximum: random.pick([1, 2, 65_535]),
            maximumPacketSize: random.pick([20, 1_000, 268_435_455]),
            topicAliasMaximum: random.below(10),
            ...userProperties(random),
          },
        }
      : {}),
  }
}

function further(random: Random, version: number): object {
  const messageId = random.pick([1, 1, 2, 3, 65_535])
  const properties = version === 5 ? { properties: userProperties(random) } : {}
  switch (random.below(10)) {
    case 0:
    case 1:
    case 2:
      return {
        cmd: 'subscribe',
        messageId,
        subscriptions: [...some(random, names, 4), anyName(random)].map((topic) => ({
          topic,
          qos: random.below(3),
          nl: chance(random, 4),
          rap: chance(random, 2),
          rh: random.below(3),
        })),
        ...properties,
      }
    case 3:
      return {
        cmd: 'unsubscribe',
        messageId,
        unsubscriptions: [...some(random, names, 3), anyName(random)],
        ...properties,
      }
    case 4:
    case 5:
    case 6:
      return {
        cmd: 'publish',
        messageId,
        topic: anyName(random),
        payload: bytes(random, 100),
        qos: random.below(3),
        retain: chance(random, 3),
        dup: chance(random, 5),
        ...(version === 5
          ? {
              properties: {
                messageExpiryInterval: random.pick([0, 1, 5, 0xffffffff]),
                topicAlias: random.pick([1, 2, 100]),
                responseTopic: anyName(random),
                correlationData: bytes(random, 10),
                ...userProperties(random),
              },
            }
          : {}),
      }
    case 7:
      return {
        cmd: random.pick(['puback', 'pubrec', 'pubrel', 'pubcomp']),
        messageId,
        ...(version === 5 ? { reasonCode: random.pick([0, 16, 128, 146]), ...properties } : {}),
      }
    case 8:
      return { cmd: 'pingreq' }
    default:
      return {
        cmd: 'disconnect',
        ...(version === 5
          ? {
              reasonCode: random.pick([0, 4, 130]),
              properties: { sessionExpiryInterval: random.pick([0, 5]), ...userProperties(random) },
            }
          : {}),
      }
  }
}

/** As bytes; what mqtt-packet refuses to write is written anyhow, as something else. */
function encode(random: Random, object: object, version: number): Buffer {
  try {
    return mqttPacket.generate(object as Packet, { protocolVersion: version })
  } catch {
    return frame(random.below(256), u16(random.below(4)), str(anyName(random)), bytes(random, 50))
  }
}

export function packet(random: Random, version = random.pick([3, 4, 5])): Buffer {
  const whole = encode(
    random,
    chance(random, 5) ? connectPacket(random, version) : further(random, version),
    version,
  )
  return chance(random, 5) ? damage(random, whole) : whole
}

/**
 * A client's life: CONNECT, as a rule, and packets behind it, some of them damaged.
 * @returns how many connections there were
 */
export function fuzzPackets(
  urls: readonly string[],
  seconds: number,
  random: Random,
  goesOn: () => boolean,
): Promise<number> {
  return untilOver(seconds, random, goesOn, async () => {
    const url = random.pick(urls)
    const version = random.pick([3, 4, 4, 5, 5, 5])
    const start = chance(random, 12)
      ? packet(random, version)
      : encode(random, connectPacket(random, version), version)
    const input = Buffer.concat([
      start,
      ...Array.from({ length: random.below(25) }, () => packet(random, version)),
    ])
    await send(random, await openStream(random, url), input)
  })
}
