// A real MQTT.js client that writes down everything it receives and can be asked, exactly, what that was.
import mqtt, { type IClientOptions, type IConnackPacket, type IPublishPacket, type MqttClient } from 'mqtt'
import { expect } from 'vitest'

export interface Received {
  readonly topic: string
  readonly payload: string
  readonly qos?: 0 | 1 | 2
  readonly retain?: boolean
}

export interface ConnectOptions extends IClientOptions {
  /** 4 (MQTT 3.1.1, the default here) or 5. */
  readonly version?: 4 | 5
}

/** How long a test waits for what must come before it fails. */
const patienceMs = 20_000

export class TestClient {
  readonly mqtt: MqttClient
  /** Everything received so far, in order. */
  readonly packets: IPublishPacket[] = []
  #connack: IConnackPacket | undefined
  #seen = 0
  #arrived: () => void = () => undefined
  /** Reason code of the DISCONNECT that the server sent, once it came (MQTT 5). */
  serverDisconnect: number | undefined

  constructor(url: string, clientId: string, { version = 4, ...options }: ConnectOptions) {
    this.mqtt = mqtt.connect(url, {
      clientId,
      protocolVersion: version,
      reconnectPeriod: 0,
      connectTimeout: patienceMs,
      ...options,
    })
    this.mqtt.on('connect', (packet) => {
      this.#connack = packet
    })
    this.mqtt.on('disconnect', (packet) => {
      this.serverDisconnect = packet.reasonCode
    })
    // MQTT.js drops a DISCONNECT that it has not handled when the socket closes: the last bytes tell it, too.
    this.mqtt.stream.on('data', (chunk: Buffer) => {
      const [type, length, reasonCode] = chunk.subarray(-3)
      if (type === 0xe0 && length === 1) this.serverDisconnect = reasonCode
    })
    this.mqtt.on('error', () => undefined) // a test that expects an error awaits `closed`
    this.mqtt.on('message', (_topic, _payload, packet) => {
      this.packets.push(packet)
      this.#arrived()
    })
  }

  static async connect(url: string, clientId: string, options: ConnectOptions = {}): Promise<TestClient> {
    const client = new TestClient(url, clientId, options)
    await new Promise<void>((resolve, reject) => {
      client.mqtt.once('connect', () => resolve())
      client.mqtt.once('error', reject)
      client.mqtt.once('close', () => reject(new Error(`${clientId}: connection closed before CONNACK`)))
    })
    return client
  }

  get sessionPresent(): boolean {
    return this.#connack?.sessionPresent ?? false
  }

  get connack(): IConnackPacket | undefined {
    return this.#connack
  }

  async subscribe(
    filter: string | string[],
    options: { qos?: 0 | 1 | 2; nl?: boolean; rap?: boolean; rh?: 0 | 1 | 2; properties?: object } = {},
  ): Promise<void> {
    await this.mqtt.subscribeAsync(filter, { qos: 1, ...options } as never)
  }

  async unsubscribe(filter: string | string[]): Promise<void> {
    await this.mqtt.unsubscribeAsync(filter)
  }

  /** Resolves when the publish is complete: PUBACK or PUBCOMP came, or a QoS 0 packet was written. */
  async publish(
    topic: string,
    payload: string | Buffer,
    options: { qos?: 0 | 1 | 2; retain?: boolean; properties?: object } = {},
  ): Promise<void> {
    await this.mqtt.publishAsync(topic, payload, { qos: 1, ...options } as never)
  }

  /** Waits for one ping round trip: what the server had written before is here. */
  async ping(): Promise<void> {
    const pong = new Promise<void>((resolve) => {
      const listener = (packet: { cmd: string }): void => {
        if (packet.cmd !== 'pingresp') return
        this.mqtt.off('packetreceive', listener)
        resolve()
      }
      this.mqtt.on('packetreceive', listener)
    })
    this.mqtt.sendPing()
    await pong
  }

  /** Waits until `count` messages came since they were last taken; fails when they do not. */
  async arrivals(count: number): Promise<void> {
    await this.#until(
      () => this.packets.length - this.#seen >= count,
      () => `${this.packets.length - this.#seen} of ${count} messages came`,
    )
  }

  /** Waits until a message that `is` it has come since they were last taken. */
  async arrives(is: (packet: IPublishPacket) => boolean): Promise<void> {
    await this.#until(
      () => this.packets.slice(this.#seen).some(is),
      () => 'the message did not come',
    )
  }

  async #until(there: () => boolean, problem: () => string): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () =>
          reject(
            new Error(
              `${this.mqtt.options.clientId ?? ''}: ${problem()}: ${JSON.stringify(this.#since().slice(0, 20)).slice(0, 2_000)}`,
            ),
          ),
        patienceMs,
      )
    })
    late.catch(() => undefined) // when there() is true at once, nobody waits for it
    while (!there())
      await Promise.race([
        late,
        new Promise<void>((resolve) => {
          this.#arrived = resolve
        }),
      ])
    clearTimeout(timer)
  }

  /** The payloads that came since they were last taken, and takes them. */
  takeAll(): string[] {
    const payloads = this.#since().map(({ payload }) => payload)
    this.#seen = this.packets.length
    return payloads
  }

  #since(): Received[] {
    return this.packets
      .slice(this.#seen)
      .map(({ topic, payload, qos, retain }) => ({ topic, payload: payload.toString(), qos, retain }))
  }

  /**
   * Exactly these messages, in this order, since the last call: fails on missing, extra and misordered ones.
   */
  async receives(expected: readonly Received[]): Promise<void> {
    await this.arrivals(expected.length)
    await this.settle()
    const got = this.#since()
    expect(got.map((message, i) => pick(message, expected[i]))).toEqual(expected)
    this.#seen = this.packets.length
  }

  /** Nothing more comes: a ping round trip and a short window, which can only prove an absence. */
  async settle(): Promise<void> {
    if (this.mqtt.connected) await this.ping()
    await new Promise((resolve) => setTimeout(resolve, 50))
  }

  async disconnect(): Promise<void> {
    await this.mqtt.endAsync()
  }

  /** Cuts the connection without a DISCONNECT. */
  async drop(): Promise<void> {
    const closed = this.closed()
    this.mqtt.stream.destroy()
    await closed
  }

  /** Settles when the connection is closed, by whomever. */
  async closed(): Promise<void> {
    if (this.mqtt.stream.destroyed && !this.mqtt.connected) return
    await new Promise<void>((resolve) => this.mqtt.once('close', () => resolve()))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.mqtt.endAsync(true)
  }
}

/** Of `message` the fields that `like` names, so that a test states only what it is about. */
function pick(message: Received, like: Received | undefined): Partial<Received> {
  return like === undefined
    ? message
    : Object.fromEntries(Object.keys(like).map((key) => [key, message[key as keyof Received]]))
}
