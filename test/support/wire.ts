// An MQTT client that is nothing but a socket: it sends whatever bytes a test wants, also those that no
// client library would, and acknowledges nothing of its own accord. What the node answers is parsed by
// mqtt-packet. Below it the few pieces that malformed packets are made of.
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import mqttPacket, { type IConnackPacket, type IConnectPacket, type Packet } from 'mqtt-packet'

/** How long a test waits for what must come before it fails. */
const patienceMs = 5_000

export type Version = 4 | 5

export class WireClient {
  readonly socket: Socket
  readonly version: Version
  /** Everything received and not taken yet, in order. */
  readonly packets: Packet[] = []
  /** Resolves when the connection is closed, by whomever. */
  readonly closed: Promise<void>
  #changed: () => void = () => undefined
  #gone = false

  constructor(socket: Socket, version: Version) {
    this.socket = socket
    this.version = version
    const parser = mqttPacket.parser({ protocolVersion: version })
    parser.on('packet', (packet) => {
      this.packets.push(packet)
      this.#changed()
    })
    socket.on('data', (chunk: Buffer) => parser.parse(chunk))
    socket.on('error', () => undefined) // a reset is a close
    this.closed = new Promise((resolve) =>
      socket.once('close', () => {
        this.#gone = true
        this.#changed()
        resolve()
      }),
    )
  }

  get isClosed(): boolean {
    return this.#gone
  }

  /** A TCP connection, without CONNECT. */
  static async open(url: string, version: Version = 5): Promise<WireClient> {
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    await once(socket, 'connect')
    return new WireClient(socket.setNoDelay(), version)
  }

  /** A connection with its CONNACK. */
  static async connect(
    url: string,
    clientId: string,
    { version = 5, ...options }: Partial<Omit<IConnectPacket, 'cmd'>> & { version?: Version } = {},
  ): Promise<WireClient & { connack: IConnackPacket }> {
    const client = await WireClient.open(url, version)
    client.send({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: version,
      clean: true,
      clientId,
      keepalive: 0,
      ...options,
    })
    return Object.assign(client, { connack: await client.next('connack') })
  }

  send(...what: (Buffer | Packet)[]): void {
    this.socket.write(
      Buffer.concat(
        what.map((item) =>
          Buffer.isBuffer(item) ? item : mqttPacket.generate(item, { protocolVersion: this.version }),
        ),
      ),
    )
  }

  /**
   * Takes the next packet, which must be a `cmd`; fails when the connection closes or patience ends before
   * it.
   */
  async next<Cmd extends Packet['cmd']>(cmd: Cmd): Promise<Extract<Packet, { cmd: Cmd }>> {
    const packet = await this.any(String(cmd))
    if (packet.cmd !== cmd) throw new Error(`${JSON.stringify(packet)} where ${cmd} should come`)
    return packet as Extract<Packet, { cmd: Cmd }>
  }

  /** Takes the first `cmd`, and leaves what came before it. */
  async first<Cmd extends Packet['cmd']>(cmd: Cmd): Promise<Extract<Packet, { cmd: Cmd }>> {
    const problem = await this.#until(() => this.packets.some((packet) => packet.cmd === cmd))
    const at = this.packets.findIndex((packet) => packet.cmd === cmd)
    if (at < 0) throw new Error(`${problem} where ${String(cmd)} should come`)
    return this.packets.splice(at, 1)[0] as Extract<Packet, { cmd: Cmd }>
  }

  /** Takes the next packet, whatever it is. */
  async any(wanted = 'a packet'): Promise<Packet> {
    const problem = await this.#until(() => this.packets.length > 0)
    const packet = this.packets.shift()
    if (packet === undefined) throw new Error(`${problem} where ${wanted} should come`)
    return packet
  }

  async #until(there: () => boolean): Promise<string> {
    const end = Date.now() + patienceMs
    while (!there()) {
      if (this.#gone) return 'the connection closed'
      if (Date.now() >= end) return 'nothing came'
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, end - Date.now())
        this.#changed = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
    return ''
  }

  /** Waits for the close; returns all that came before it and was not taken. */
  async untilClosed(): Promise<Packet[]> {
    await this.#until(() => this.#gone)
    if (!this.#gone)
      throw new Error(`the connection is still open; it brought ${JSON.stringify(this.packets)}`)
    return this.packets.splice(0)
  }

  /** What came until a ping is answered: what the node had to say to this connection by now, it has said. */
  async settled(): Promise<Packet[]> {
    this.send({ cmd: 'pingreq' })
    const problem = await this.#until(() => this.packets.some(({ cmd }) => cmd === 'pingresp'))
    if (problem !== '') throw new Error(`${problem} where pingresp should come`)
    const at = this.packets.findIndex(({ cmd }) => cmd === 'pingresp')
    const before = this.packets.splice(0, at)
    this.packets.shift()
    return before
  }

  async subscribe(
    filter: string,
    options: { qos?: 0 | 1 | 2; nl?: boolean; rap?: boolean; rh?: 0 | 1 | 2 } = {},
  ): Promise<void> {
    this.send({
      cmd: 'subscribe',
      messageId: 1,
      subscriptions: [{ topic: filter, qos: 1, nl: false, rap: false, rh: 0, ...options }],
    })
    await this.next('suback')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.destroy()
    await this.closed
  }
}

export const u16 = (value: number): Buffer => Buffer.from([value >> 8, value & 255])
export const u32 = (value: number): Buffer =>
  Buffer.from([value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255])
export const str = (text: string | Buffer): Buffer =>
  Buffer.concat([u16(Buffer.byteLength(text)), Buffer.from(text)])

export function variable(value: number): Buffer {
  const bytes: number[] = []
  do {
    bytes.push((value & 127) | (value > 127 ? 128 : 0))
    value >>>= 7
  } while (value > 0)
  return Buffer.from(bytes)
}

const join = (parts: readonly (Buffer | number)[]): Buffer =>
  Buffer.concat(parts.map((part) => (typeof part === 'number' ? Buffer.from([part]) : part)))

/** A packet out of its first byte and the pieces of its body; numbers are single bytes. */
export function frame(first: number, ...body: (Buffer | number)[]): Buffer {
  const bytes = join(body)
  return join([first, variable(bytes.length), bytes])
}

/** A property section with its length; under MQTT 3.1.1 nothing. */
export function properties(version: Version, ...parts: (Buffer | number)[]): Buffer {
  const bytes = join(parts)
  return version === 5 ? join([variable(bytes.length), bytes]) : Buffer.alloc(0)
}
