// A CONNECT between Aedes' `authenticate` and CONNACK: who had the Client Identifier makes way, the node becomes the
// owner of the client's session, and what the session is subscribed to is registered. State: Client Identifier →
// the connection here whose CONNECT came last.
import { randomBytes } from 'node:crypto'
import { SessionOption, Slice, type SessionRequest } from '../../bridge/index.ts'
import type { AedesClient, AedesSubscription } from './client.ts'
import type { EngineHost } from './host.ts'
import { optionsOf } from './subscribe.ts'
import { limits } from '../config/limits.ts'
import type { Connection } from '../connection/connection.ts'
import { isReserved } from '../protocol/control-packets.ts'

export class Connects {
  readonly #host: EngineHost
  readonly #latest = new Map<string, Connection>()

  constructor(host: EngineHost) {
    this.#host = host
  }

  /** Nothing is left of it. */
  over(connection: Connection): void {
    if (this.#latest.get(connection.clientId) === connection) this.#latest.delete(connection.clientId)
  }

  /** CONNECT: the session first, then what it is subscribed to; Aedes goes on with what it is told. */
  claim(client: AedesClient, done: (error: Error | null, ok: boolean) => void): void {
    const { connection } = client.conn
    // An identifier that we made is one that its client may come again with.
    if (client._assignedClientId !== undefined && client.id!.length > this.#host.config.clientIdBytesMax)
      client.id = client._assignedClientId = randomBytes(16).toString('base64url')
    const earlier = this.#latest.get(client.id!)
    this.#latest.set(client.id!, connection)
    const claimed = async (): Promise<void> => {
      if (earlier !== undefined) await this.#makeWay(earlier)
      if (connection.isClosed) return // a later one came
      const never = client.sessionExpiryInterval! >= 0xffffffff
      await this.#host.claim(connection, {
        clientId: client.id!,
        cleanStart: client._cleanStart,
        expirySeconds: never ? -1 : client.sessionExpiryInterval!,
        will: this.#willOf(client),
        cameAt: connection.inbound.cameAt,
      })
      client.clean = !connection.lasting
      await this.#restore(connection)
    }
    // Aedes looks whether the client is still there.
    claimed().then(
      () => done(null, true),
      (error: unknown) => done(error as Error, false),
    )
  }

  /**
   * The later CONNECT wins. An earlier connection that has its session gives it up when the later one claims
   * it. One that is still waiting for its own ends here: its claim, should it be sent again, must not come
   * behind. And one whose client has ended its side gets a moment for doing what was sent before, if only
   * CONNECT, PUBLISH, DISCONNECT in one segment.
   */
  async #makeWay(earlier: Connection): Promise<void> {
    if (earlier.isLeaving) {
      let timer: NodeJS.Timeout | undefined
      await Promise.race([
        earlier.over(),
        new Promise<void>((resolve) => {
          timer = setTimeout(resolve, limits.leaveMs)
        }),
      ])
      clearTimeout(timer)
    }
    if (!earlier.connackWritten) earlier.takenOver()
  }

  /**
   * Registers what the session is subscribed to, some at a time. Aedes would collect the filters in an
   * object, and die of one that is called `__proto__`; nothing of what it does with them otherwise is needed.
   */
  async #restore(connection: Connection): Promise<void> {
    const { client, session } = connection
    let some: Promise<void>[] = []
    const slice = new Slice()
    for (const [filter, { options: bits, identifier: si }] of session?.subscriptions ?? []) {
      const subscription: AedesSubscription = {
        qos: (bits & SessionOption.qos) as 0 | 1 | 2,
        nl: (bits & SessionOption.noLocal) !== 0,
        rap: (bits & SessionOption.retainAsPublished) !== 0,
        rh: 0,
        si,
        func: connection,
      }
      Object.defineProperty(client.subscriptions, filter, {
        value: subscription,
        writable: true,
        enumerable: true,
        configurable: true,
      }) // not as SUBSCRIBE, which the trap hears of
      if (slice.isOver) await slice.next()
      if (client.closed) return // and unsubscribed from what it had by then
      if (
        some.push(this.#host.subscribe(connection, filter, optionsOf(subscription), false)) <
        limits.restoredPerTurn
      )
        continue
      await Promise.all(some)
      some = []
    }
    await Promise.all(some)
  }

  /**
   * From the bytes of its CONNECT. One that 3.1.1 has no words to refuse is not published, like a PUBLISH:
   * bridges of Mosquitto have such a will.
   */
  #willOf(client: AedesClient): SessionRequest['will'] {
    const { will } = client.conn.connection
    if (will === undefined) return undefined
    const { delaySeconds, expirySeconds, ...message } = will
    if (isReserved(message.topic)) return (this.#host.dropped('refused', message.qos), undefined)
    const expires = { expiresAt: 0, expirySeconds: expirySeconds < 0 ? undefined : expirySeconds }
    return {
      delaySeconds,
      message: {
        ...message,
        ...expires,
        publisher: client.id!,
        isWill: true,
        origin: undefined,
        frames: undefined,
      },
    }
  }
}
