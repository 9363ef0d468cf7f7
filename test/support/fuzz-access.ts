// Random input for those who decide who a client is: what clients bring (tokens, passwords, messages of SCRAM), what a
// webhook answers, and what stands in Redis of users, rules and bans. Whom a ban or a rule of everybody would hit is left
// out.
import { createHmac } from 'node:crypto'
import type { RequestListener } from 'node:http'
import type { Redis } from 'ioredis'
import mqttPacket, { type Packet } from 'mqtt-packet'
import { bytes, chance, damage, names, send, untilOver } from './fuzz.ts'
import { oddJson, oddObject } from './fuzz-json.ts'
import { knock } from './door.ts'
import type { Random } from './random.ts'

const json = (texts: readonly string[]): string[] => texts.map((text) => JSON.stringify(text))
const base64 = (text: string | Buffer): string => Buffer.from(text).toString('base64url')
/** Whom everything below is about, besides words of JavaScript. */
const users = ['ann', 'bob', '__proto__', 'constructor', 'rules', 'version', 'a,b=c', 'é']

// What clients bring

const rules = [
  ...[
    '[]',
    '[{"allow":"all"}]',
    '[{"deny":"publish","topic":"%u/#"}]',
    '[{"allow":["read","read"],"qos":[1]}]',
  ],
  ...[
    '[[[[]]]]',
    '[{"__proto__":"x"}]',
    '[{"allow":"all","topic":["%{cn}/#","%c"]}]',
    '{"0":{"allow":"all"}}',
  ],
]

function token(random: Random, secret: string): string {
  const header = oddObject(random, {
    alg: json(['HS256', 'HS256', 'HS256', 'none', 'None', 'HS512', 'RS256', '__proto__', '']),
    typ: json(['JWT', 'JOSE']),
    kid: json(['x', '__proto__']),
    ...(chance(random, 8) && { crit: ['["x"]', '["b64"]', '7'], b64: ['false'], x: ['1'] }),
  })
  const claims = oddObject(random, {
    sub: json(users),
    exp: ['99999999999', '99999999999', '99999999999', '1', '1e308', '-1', '1e18', '0.5', '"x"'],
    acl: rules,
    ...(chance(random, 6) && { aud: json(['x']), nbf: ['1', '1e308', '"x"'], iat: ['1'], iss: json(['x']) }),
  })
  const text = `${base64(header)}.${base64(claims)}`
  const signature = createHmac('sha256', secret).update(text).digest()
  return `${text}.${base64(chance(random, 10) ? damage(random, signature) : signature)}`
}

/** @param challenge what the node answered to the first message */
function scramFinal(random: Random, challenge: string): string {
  const nonce = /^r=([^,]*)/.exec(challenge)?.[1] ?? 'x'
  const proof = Buffer.alloc(random.pick([32, 32, 32, 0, 31, 1000]), 7).toString('base64')
  return random.pick([
    `c=biws,r=${nonce},p=${proof}`,
    `c=biws,r=${nonce},p=${proof}`,
    `c=biws,r=${nonce},x=y,p=${proof}`,
    `c=,r=${nonce},p=`,
    `r=${nonce},c=biws,p=${proof}`,
    ',p=',
    oddJson(random),
  ])
}

const scramFirst = (random: Random): string => {
  const user = random
    .pick([...users, ...names])
    .replaceAll('=', '=3D')
    .replaceAll(',', '=2C')
  return random.pick([
    `n,,n=${user},r=abcdef`,
    `n,,n=${user},r=abcdef`,
    `y,a=${user},n=${user},r=${'x'.repeat(random.below(2_000))}`,
    `n,,n=${user},r=`,
    `n,,m=x,n=${user},r=abc`,
    `p=tls-unique,,n=${user},r=abc`,
    `n,,n==,r=abc`,
    oddJson(random),
  ])
}

interface Brought {
  readonly username?: string
  readonly password?: Buffer
  readonly properties?: { readonly authenticationMethod: string; readonly authenticationData: Buffer }
}

function brought(random: Random, secret: string): Brought {
  switch (random.below(5)) {
    case 0:
      return { username: random.pick(users), password: Buffer.from(token(random, secret)) }
    case 1:
      return {
        properties: { authenticationMethod: 'JWT', authenticationData: Buffer.from(token(random, secret)) },
      }
    case 2:
      return {
        properties: {
          authenticationMethod: random.pick(['SCRAM-SHA-256', 'SCRAM-SHA-256', 'SCRAM-SHA-256', ...names]),
          authenticationData: Buffer.from(scramFirst(random)),
        },
      }
    default:
      return { username: random.pick([...users, ...names]), password: bytes(random, 30) }
  }
}

function clientInput(random: Random, secret: string): { version: number; first: Buffer; method: string } {
  const { properties, ...credentials } = brought(random, secret)
  const version = properties === undefined ? random.pick([3, 4, 5]) : 5
  const connect = {
    cmd: 'connect',
    protocolId: version === 3 ? 'MQIsdp' : 'MQTT',
    protocolVersion: version,
    clean: chance(random, 2),
    clientId: random.pick(['ann', 'bob', 'x', '__proto__']),
    keepalive: 10,
    ...credentials,
    ...(version === 5 && { properties: properties ?? {} }),
  }
  const method = properties?.authenticationMethod ?? ''
  return { version, first: write(connect, version), method }
}

function write(packet: object, version: number): Buffer {
  try {
    return mqttPacket.generate(packet as Packet, { protocolVersion: version })
  } catch {
    return Buffer.from([0x10, 0])
  }
}

const auth = (reasonCode: number, method: string, data: string): object => ({
  cmd: 'auth',
  reasonCode,
  properties: { authenticationMethod: method, authenticationData: Buffer.from(data) },
})

async function client(random: Random, url: string, secret: string): Promise<void> {
  const { version, first, method } = clientInput(random, secret)
  const socket = await knock(url, chance(random, 2))
  socket.write(chance(random, 12) ? damage(random, first) : first)
  const said = await new Promise<Buffer>((resolve) => {
    const timer = setTimeout(resolve, 300, Buffer.alloc(0))
    socket.once('data', (chunk: Buffer) => {
      clearTimeout(timer)
      resolve(chunk)
    })
  })
  const challenge = /r=[^,]*,s=[^,]*,i=\d+/.exec(said.toString('latin1'))?.[0] ?? ''
  const publish = {
    cmd: 'publish',
    topic: 'ann/x',
    payload: 'x',
    qos: 1,
    messageId: 1,
    retain: false,
    dup: false,
  }
  const subscribe = { cmd: 'subscribe', messageId: 2, subscriptions: [{ topic: 'ann/#', qos: 1 }] }
  const more = [
    auth(0x18, method, scramFinal(random, challenge)),
    ...(chance(random, 3) ? [auth(random.pick([0x18, 0x19, 0]), method, token(random, secret))] : []),
    publish,
    subscribe,
  ].filter((packet) => version === 5 || packet === publish || packet === subscribe)
  await send(random, socket, Buffer.concat(more.map((packet) => write(packet, version))))
}

// What a webhook answers

/** One of what servers do, and of what they should not. */
export const oddAnswer =
  (random: Random): RequestListener =>
  (request, response) => {
    request.resume().on('error', () => undefined)
    const { socket } = response
    const answer = (status: number, text: string): void => void response.writeHead(status).end(text)
    const said = oddObject(random, {
      result: json(['allow', 'allow', 'allow', 'deny', 'ignore', 'x']),
      user: json(['ann', '__proto__', '', 'a\nb']),
      clientid: json(['ann', '']),
      rules,
      expire_at: [String(Date.now() / 1_000 + 5), '1', '1e308', '-1'],
    })
    switch (random.below(14)) {
      case 0:
        return answer(204, '')
      case 1:
        return answer(random.pick([401, 403, 302, 404, 500, 503, 299]), said)
      case 2:
        return answer(200, oddJson(random))
      case 3:
        return answer(200, said.slice(0, random.below(said.length)))
      case 4:
        return answer(200, 'x'.repeat(200_000))
      case 5:
        return void socket?.destroy()
      case 6:
        return void socket?.end(bytes(random, 200))
      case 7:
        return void socket?.end(
          `HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nx`,
        )
      case 8:
        return void socket?.end(`HTTP/1.1 200 OK\r\nx: ${'y'.repeat(100_000)}\r\n\r\n{}`)
      case 9: // half of it, and no more
        return void response.writeHead(200, { 'content-length': 1_000 }).write(said.slice(0, 5))
      case 10:
        return void socket?.write(
          `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n`,
        )
      default:
        return answer(200, said)
    }
  }

// What stands in Redis

export const kept = [
  '$scrypt$ln=1,r=1,p=1$AAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA',
  '$scrypt$ln=16,r=1,p=1$AAAAAAAA$AAAAAAAA',
  '$scrypt$ln=12,r=512,p=16$AAAAAAAA$AAAAAAAA',
  '$scrypt$ln=0,r=0,p=0$AAAA$AAAA',
  '$scrypt$ln=14,r=8,p=1$AAAA',
  '$scram-sha-256$4096$AAAAAAAA$AAAAAAAA$AAAAAAAA',
  `$scram-sha-256$4096$AAAAAAAA$${'A'.repeat(43)}=$${'A'.repeat(43)}=`,
  '$scram-sha-256$10000001$AAAA$AAAA$AAAA',
  '$7$1$AAAA$AAAA',
  '$7$99999999$AAAA$AAAA',
  '$6$AAAA$AAAA',
  '$__proto__$AAAA',
  '$',
  '',
  '$6$AAAA$' + 'A'.repeat(100_000),
]
export const storedRules = [
  'rules:\n- allow: all\n',
  'rules: []',
  'rules:\n- allow: all\n  topic: "%{__proto__}"\n',
  'rules: [{allow: all, allow: all}]',
  'a: &a [x, x, x]\nb: &b [*a, *a, *a]\nrules: [*b, *b]',
  '- x',
  '\0',
  '%',
  '!!js/function x',
  '__proto__: 1',
  'rules: {__proto__: x}',
]
const bans = [
  'c:__proto__',
  'c:nobody',
  'u:nobody',
  'n:10.0.0.0/8',
  'n:zzz',
  'n:',
  'n:fd00::/999',
  'x:y',
  ':',
  '',
]

async function damageStored(random: Random, redis: Redis, prefix: string): Promise<void> {
  const access = `${prefix}:{bus}:access`
  const bannedKey = `${prefix}:{bus}:bans`
  const odd = (): string | Buffer =>
    random.pick([oddJson(random), bytes(random, 40), random.pick(names), '9'.repeat(40)])
  const version = random.pick([String(random.below(1_000)), '', 'x', '-1', '9'.repeat(30)])
  switch (random.below(9)) {
    case 0:
    case 1:
    case 2:
      await redis.hset(access, `u:${random.pick(users)}`, chance(random, 4) ? odd() : random.pick(kept))
      return
    case 3:
    case 4:
      await redis.hset(
        access,
        'rules',
        chance(random, 4) ? odd() : random.pick(storedRules),
        'version',
        version,
      )
      return
    case 5:
    case 6: {
      const value = random.pick(['0 reason', '1 reason', '99999999999999 x', '-1 x', '0', 'x', ''])
      await redis.hset(bannedKey, random.pick(bans), chance(random, 4) ? odd() : value, 'version', version)
      return
    }
    case 7:
      await redis.hset(random.pick([access, bannedKey]), odd(), odd())
      return
    default: {
      const key = random.pick([access, bannedKey])
      await redis.del(key)
      if (chance(random, 2)) await redis.set(key, odd())
    }
  }
}

/**
 * Clients that bring what is odd, while what they are looked up in is changed and damaged.
 * @param secret of the node's key for tokens (HS256)
 * @returns how many connections there were
 */
export async function fuzzAccess(
  { url, secret, redis, prefix }: { url: string; secret: string; redis: Redis; prefix: string },
  seconds: number,
  random: Random,
  goesOn: () => boolean,
): Promise<number> {
  let isOver = false
  const damaging = (async () => {
    while (!isOver) {
      // it is of another type at times
      await damageStored(random, redis, prefix).catch(() => undefined)
      await new Promise((resolve) => setTimeout(resolve, random.below(20)))
    }
  })()
  try {
    return await untilOver(seconds, random, goesOn, () => client(random, url, secret))
  } finally {
    isOver = true
    await damaging
  }
}
