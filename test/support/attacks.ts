// What one client can send that is much work for its node, or for all of them. Each attack ends when its work
// is done, and fails when a healthy client's pings were not answered meanwhile. `size` 1 is about a second of
// work, and half of it the least that has a middle.
import { once } from 'node:events'
import { connect as connectTcp } from 'node:net'
import { Worker } from 'node:worker_threads'
import { expect } from 'vitest'
import { built, type TestCluster, type TestNode } from './cluster.ts'
import type { PingerData, Pings } from './pinger.ts'
import { frame, properties, str, u16, variable, WireClient } from './wire.ts'

const repeat = (count: number, make: (n: number) => Buffer): Buffer =>
  Buffer.concat(Array.from({ length: count }, (_, n) => make(n)))
const pingreq = Buffer.from([0xc0, 0])
const publish = (topic: string, qos = 0): Buffer =>
  frame(0x30 | (qos << 1), str(topic), ...(qos === 0 ? [] : [u16(1)]), properties(5))
const subscribe = (filters: readonly string[], qos = 0): Buffer =>
  frame(
    0x82,
    u16(1),
    properties(5),
    Buffer.concat(filters.flatMap((filter) => [str(filter), Buffer.from([qos])])),
  )
const numbered = (count: number, name: string): string[] =>
  Array.from({ length: count }, (_, n) => `${name}/${n}/filter`)
const lasting = { clean: false, properties: { sessionExpiryInterval: 100 } }

/** A small frame, masked with zeros. */
const webSocketFrame = (opcode: number, payload: Buffer): Buffer =>
  Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | payload.length, 0, 0, 0, 0]), payload])

/** A connection that reads and does not parse: what it is sent is counted in bytes. */
class Attacker {
  readonly client: Pick<WireClient, 'socket'>
  bytes = 0
  #awaited: { bytes: number; resolve: () => void } | undefined
  #owed = 1

  constructor(client: Pick<WireClient, 'socket'>) {
    this.client = client
    client.socket.removeAllListeners('data').on('data', (chunk: Buffer) => {
      this.bytes += chunk.length
      if (this.#awaited !== undefined && this.bytes >= this.#awaited.bytes) this.#awaited.resolve()
    })
  }

  static async connect(
    url: string,
    options: Parameters<typeof WireClient.connect>[2] = {},
  ): Promise<Attacker> {
    return new Attacker(await WireClient.connect(url, `attacker-${Math.random()}`, options))
  }

  /** A WebSocket, without CONNECT. */
  static async upgrade(url: string): Promise<Attacker> {
    const socket = connectTcp(Number(new URL(url).port), '127.0.0.1')
    socket.write(
      'GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n',
    )
    await once(socket, 'data')
    return new Attacker({ socket })
  }

  /** Of what the last `send` waits for, the part that has come. */
  readonly progress = (): number =>
    this.#awaited === undefined ? 0 : 1 - (this.#awaited.bytes - this.bytes) / this.#owed

  /** Sends, and resolves when so many bytes have come since. */
  async send(what: Buffer, bytes: number): Promise<void> {
    this.#owed = bytes
    const all = new Promise<void>((resolve) => {
      this.#awaited = { bytes: this.bytes + bytes, resolve }
    })
    this.client.socket.write(what)
    await all
  }
}

/** Pings one after the other, in a thread of its own, until it is stopped (pinger.ts). */
class Pinger {
  readonly #worker: Worker

  private constructor(worker: Worker) {
    this.#worker = worker
  }

  static async start({ url, pid }: TestNode, part: SharedArrayBuffer): Promise<Pinger> {
    const connect = frame(0x10, str('MQTT'), 5, 2, u16(0), properties(5), str(`healthy-${Math.random()}`))
    const worker = new Worker(built('test/support/pinger.js'), {
      workerData: { url, pid, connect, part } satisfies PingerData,
      execArgv: [],
    })
    await once(worker, 'message')
    return new Pinger(worker)
  }

  async stop(): Promise<Pings> {
    const told = once(this.#worker, 'message') as Promise<[Pings]>
    this.#worker.postMessage('stop')
    const [pings] = await told
    await this.#worker.terminate()
    return pings
  }
}

/** P12, in processor time of the node: on a machine that has no time for it a ping waits for others, too. */
const pingMsMax = 200
/** Fewer than this is a node that stood still. */
const answeredMin = 8
/**
 * Of all the time that the work takes, the most that one ping may wait: work that nobody sees the middle of
 * is done in several breaths.
 */
const shareMax = 1 / 3
/** Work that is done in one breath has no middle that a ping could be answered in. */
const midwayMin = 2

/**
 * Does `work` beside healthy clients at both nodes. `progress`: the part of it that can be seen to be done,
 * where that can be seen.
 */
async function beside(
  about: string,
  { nodes }: TestCluster,
  work: () => Promise<void>,
  progress?: () => number,
): Promise<void> {
  const part = new SharedArrayBuffer(8)
  const done = new Float64Array(part)
  const pingers = await Promise.all(nodes.map((node) => Pinger.start(node, part)))
  const looking = setInterval(() => {
    done[0] = progress?.() ?? 0
  }, 2)
  for (const node of new Set(nodes)) await node.longestTurnMs()
  const began = performance.now()
  await work()
  const took = performance.now() - began
  const turns: number[] = []
  for (const node of new Set(nodes)) turns.push(await node.longestTurnMs())
  clearInterval(looking)
  const pings = await Promise.all(pingers.map((pinger) => pinger.stop()))
  console.log(
    `${about}: ${took.toFixed(0)} ms, ${pings.map(({ answered, longestMs, longestCpuMs }) => `${answered} pings, the longest ${longestMs.toFixed(0)} ms, of which its node worked ${longestCpuMs.toFixed(0)} ms`).join('; ')}; longest turns ${turns.map((ms) => ms.toFixed(0)).join(', ')} ms`,
  )
  for (const { answered } of pings) expect(answered, `${about}: pings answered`).toBeGreaterThan(answeredMin)
  for (const { longestMs } of pings)
    expect(longestMs / took, `${about}: the share of the longest ping`).toBeLessThan(shareMax)
  for (const { longestCpuMs } of pings)
    expect(longestCpuMs, `${about}: what its node worked while a ping waited, ms`).toBeLessThan(pingMsMax)
  if (progress !== undefined)
    expect(pings[0]!.midway, `${about}: pings answered in the middle of it`).toBeGreaterThan(midwayMin)
}

/** Every combination of `+` and `a` on so many levels. */
const deep = (levels: number): string[] =>
  Array.from({ length: 2 ** levels }, (_, n) =>
    ['a', ...Array.from({ length: levels }, (_, bit) => (((n >> bit) & 1) === 1 ? '+' : 'a'))].join('/'),
  )

export const attacks = {
  async 'filters that all match'(cluster: TestCluster, size: number): Promise<void> {
    const attacker = await Attacker.connect(cluster.node(0).url)
    await attacker.send(subscribe(deep(12)), 4_096 + 6)
    const messages = 200 * size
    await beside(
      'filters',
      cluster,
      () =>
        attacker.send(
          repeat(messages, (n) => publish(`a/${'a/'.repeat(11)}${10_000 + n}`)),
          messages * (5 + 24 + 5),
        ),
      attacker.progress,
    )
    attacker.client.socket.destroy()
  },

  async 'PINGREQ without end'(cluster: TestCluster, size: number): Promise<void> {
    const attacker = await Attacker.connect(cluster.node(0).url)
    const bytes = 1_000_000 * size
    await beside(
      'pings',
      cluster,
      () => attacker.send(Buffer.alloc(bytes, pingreq), bytes),
      attacker.progress,
    )
    attacker.client.socket.destroy()
  },

  async 'small messages for 400 subscribers'(cluster: TestCluster, size: number): Promise<void> {
    const subscribers = await Promise.all(
      Array.from({ length: 400 }, async (_, n) => {
        const subscriber = await Attacker.connect(cluster.node(n % 2).url)
        await subscriber.send(subscribe(['t', 'last']), 7)
        return subscriber
      }),
    )
    const attacker = await Attacker.connect(cluster.node(0).url)
    const before = subscribers.map(({ bytes }) => bytes)
    await beside(
      'fan-out',
      cluster,
      async () => {
        await attacker.send(Buffer.concat([repeat(8_000 * size, () => publish('t')), publish('last', 1)]), 4)
        await expect.poll(() => subscribers.every(({ bytes }, n) => bytes - before[n]! >= 9)).toBe(true)
      },
      () => (subscribers[0]!.bytes - before[0]!) / (8_000 * size * 6),
    )
    for (const { client } of [attacker, ...subscribers]) client.socket.destroy()
  },

  async 'filters in one SUBSCRIBE and one UNSUBSCRIBE'(cluster: TestCluster, size: number): Promise<void> {
    const attacker = await Attacker.connect(cluster.node(0).url)
    const count = 15_000 * size
    await beside('SUBSCRIBE', cluster, () => attacker.send(subscribe(numbered(count, 's')), count + 6))
    await beside('UNSUBSCRIBE', cluster, () =>
      attacker.send(
        frame(0xa2, u16(2), properties(5), Buffer.concat(numbered(count, 's').map(str))),
        count + 6,
      ),
    )
    await attacker.send(subscribe(numbered(count, 's')), count + 6)
    attacker.client.socket.destroy()
  },

  async 'a session with many subscriptions that comes back'(
    cluster: TestCluster,
    size: number,
  ): Promise<void> {
    const count = 15_000 * size
    const clientId = `resumes-${Math.random()}`
    const first = new Attacker(await WireClient.connect(cluster.node(0).url, clientId, lasting))
    await first.send(subscribe(numbered(count, 'r'), 1), count + 6)
    first.client.socket.destroy()
    await beside('resume', cluster, async () => {
      const again = await WireClient.open(cluster.node(0).url)
      again.send({
        cmd: 'connect',
        protocolId: 'MQTT',
        protocolVersion: 5,
        clientId,
        keepalive: 0,
        ...lasting,
      })
      while (!again.packets.some(({ cmd }) => cmd === 'connack'))
        await new Promise((resolve) => {
          again.socket.once('data', resolve)
        })
      again.socket.destroy()
    })
  },

  async 'User Properties without end'(cluster: TestCluster, size: number): Promise<void> {
    const pair = Buffer.concat([Buffer.from([0x26]), str('é'), str('')])
    // CONNECT has a bound of its own
    const [section, connectSection] = [repeat(140_000, () => pair), repeat(50_000, () => pair)]
    // Of many pieces, each of which is too long, no ping waits for more than one: what tells is that those of
    // CONNECT, which another parser would read once more, take no longer than those of other packets.
    let [connectMs, othersMs] = [0, 0]
    await beside('User Properties', cluster, async () => {
      for (let n = 0; n < 10 * size; n++) {
        const attacker = new Attacker(await WireClient.open(cluster.node(0).url))
        const began = performance.now()
        await attacker.send(
          frame(
            0x10,
            str('MQTT'),
            5,
            2,
            u16(0),
            variable(connectSection.length),
            connectSection,
            str(`big-${Math.random()}`),
          ),
          3,
        )
        const connected = performance.now()
        attacker.client.socket.write(frame(0x30, str('t'), variable(section.length), section))
        await attacker.send(frame(0x82, u16(1), variable(section.length), section, str('u'), 0), 6)
        connectMs += connected - began
        othersMs += performance.now() - connected
        attacker.client.socket.destroy()
      }
    })
    console.log(`CONNECTs: ${connectMs.toFixed(0)} ms, the others ${othersMs.toFixed(0)} ms`)
    expect(connectMs / othersMs, 'CONNECT, of the time that other packets take').toBeLessThan(2)
  },
} as const satisfies Record<string, (cluster: TestCluster, size: number) => Promise<void>>

/** Too short, or too large, for the suite. */
export const largeAttacks = {
  /** At size 4. */
  async 'one message that 65,536 filters of four clients match'(
    cluster: TestCluster,
    size: number,
  ): Promise<void> {
    const filters = deep(14 + Math.log2(size)).map((filter) => `${filter}/+`)
    const attackers: Attacker[] = []
    for (let at = 0; at < filters.length; at += 8_192) {
      if (at % 16_384 === 0) attackers.push(await Attacker.connect(cluster.node(0).url))
      await attackers.at(-1)!.send(subscribe(filters.slice(at, at + 8_192)), 8_192 + 6)
    }
    const topics = Array.from({ length: 10 }, (_, n) => filters[0]!.replace('+', String(n)))
    const packets = Buffer.concat(topics.map((topic) => publish(topic)))
    await beside('one message', cluster, () => attackers[0]!.send(packets, packets.length))
    for (const { client } of attackers) client.socket.destroy()
  },

  async 'filters of a session with a queue that all match'(
    cluster: TestCluster,
    size: number,
  ): Promise<void> {
    const attacker = await Attacker.connect(cluster.node(0).url, lasting)
    await attacker.send(subscribe(deep(12), 1), 4_096 + 6)
    const messages = 200 * size // no more than may be in flight
    const packet = (n: number): Buffer =>
      frame(0x32, str(`a/${'a/'.repeat(11)}${10_000 + n}`), u16(n + 1), properties(5))
    await beside(
      'queue',
      cluster,
      () => attacker.send(repeat(messages, packet), messages * (packet(0).length + 4)),
      attacker.progress,
    )
    attacker.client.socket.destroy()
  },

  /** Of 16 clients: one may be a member of 128. */
  async 'groups that all match'(cluster: TestCluster, size: number): Promise<void> {
    const groups = deep(11).map((filter) => `$share/g/${filter}/+`)
    const members = await Promise.all(
      Array.from({ length: 16 }, async (_, n) => {
        const member = await Attacker.connect(cluster.node(0).url)
        await member.send(subscribe(groups.slice(128 * n, 128 * (n + 1))), 128 + 6)
        return member
      }),
    )
    const messages = 5 * size
    const published = repeat(messages, (n) => publish(`a/${'a/'.repeat(11)}${10_000 + n}`))
    await beside(
      'groups',
      cluster,
      async () => {
        await Promise.all(
          members.map((member, n) =>
            member.send(n === 0 ? published : Buffer.alloc(0), published.length * 128),
          ),
        )
      },
      members[0]!.progress,
    )
    for (const { client } of members) client.socket.destroy()
  },

  async 'PINGREQ without end on two hundred connections'(cluster: TestCluster, size: number): Promise<void> {
    const attackers = await Promise.all(
      Array.from({ length: 200 }, () => Attacker.connect(cluster.node(0).url)),
    )
    const bytes = 30_000 * size
    await beside('pings of many', cluster, async () => {
      await Promise.all(attackers.map((attacker) => attacker.send(Buffer.alloc(bytes, pingreq), bytes)))
    })
    for (const { client } of attackers) client.socket.destroy()
  },

  async 'WebSocket frames of one byte'(cluster: TestCluster, size: number): Promise<void> {
    const attacker = await Attacker.upgrade(cluster.node(0).wsUrl)
    const connect = frame(0x10, str('MQTT'), 5, 2, u16(0), properties(5), str(`frames-${Math.random()}`))
    await attacker.send(webSocketFrame(2, connect), 6)
    // no packet is whole on the way
    const large = frame(0x32, str('t'), u16(1), properties(5), Buffer.alloc(400_000))
    const bytes = Buffer.concat(
      Array.from({ length: size }, () =>
        repeat(large.length, (n) => webSocketFrame(2, large.subarray(n, n + 1))),
      ),
    )
    await beside('WebSocket frames', cluster, () => attacker.send(bytes, 4 * size))
    attacker.client.socket.destroy()
  },

  async 'CONNECTs of one client on 2,000 connections'(cluster: TestCluster): Promise<void> {
    const attackers: WireClient[] = []
    while (attackers.length < 2_000)
      attackers.push(
        ...(await Promise.all(Array.from({ length: 100 }, () => WireClient.open(cluster.node(0).url)))),
      )
    const connect = frame(0x10, str('MQTT'), 5, 2, u16(0), properties(5), str('crowd'))
    await beside('CONNECTs of one client', cluster, async () => {
      for (const { socket } of attackers) socket.write(connect)
      await Promise.all(attackers.slice(0, -1).map(({ closed }) => closed))
    })
    attackers.at(-1)!.socket.destroy()
  },

  async 'connections that end together'(cluster: TestCluster): Promise<void> {
    const attackers: Attacker[] = []
    while (attackers.length < 1_500)
      attackers.push(
        ...(await Promise.all(Array.from({ length: 100 }, () => Attacker.connect(cluster.node(0).url)))),
      )
    await beside('ends', cluster, async () => {
      for (const [i, { client }] of attackers.entries()) {
        client.socket.destroy()
        if (i % 50 === 0) await new Promise(setImmediate) // this process has pings to read, too
      }
      await expect
        .poll(
          async () => /aedes_cluster_sockets (\d+)/.exec((await cluster.node(0).admin('/metrics')).body)?.[1],
          { interval: 30 },
        )
        .toMatch(/^[1-9]$/)
    })
  },
} as const satisfies Record<string, (cluster: TestCluster, size: number) => Promise<void>>
