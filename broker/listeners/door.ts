// The door of one address: it accepts, and whoever comes in has a deadline for becoming a client. The
// deadline of CONNECT begins here and covers what comes before it: the header of a proxy, a TLS handshake, the
// head of an HTTP request, an upgrade. State: the connections that are not handed over yet. Bounds: their time; the
// descriptors of the process; with `connectionsMax` their number, and of each address.
import { createServer, type Server, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Counts } from '../access/counts.ts'
import { plainAddress, subscriberOf, type Networks } from '../access/networks.ts'
import type { Peer } from '../connection/peer.ts'
import { bind } from './bind.ts'
import { takeProxyHeader } from './proxy-header.ts'
import { ConnectPace } from './connect-pace.ts'

/** Why a connection does not become a client's. */
export type TurnedAwayCause = (typeof turnedAwayCauses)[number]
export const turnedAwayCauses = [
  'descriptors',
  'deadline',
  'crowd',
  'pace',
  'proxy',
  'address',
  'handshake',
  'request',
] as const

export interface DoorEvents {
  turnedAway(cause: TurnedAwayCause, address: string, detail?: string): void
  /** A connection waits for its turn. */
  heldBack(): void
  /** A bug of ours: a handler threw. The connection is closed and the node goes on. */
  failed(error: Error): void
}

export interface DoorOptions {
  readonly deadlineMs: number
  readonly events: DoorEvents
  /** Counts a connection that was accepted, and until it closes; false when there is no place for it. */
  readonly places: { take(): boolean; give(): void; exhausted(): void }
  /** Takes what was accepted; calls `handOver` when it is somebody's. */
  readonly serve: (socket: Socket) => void
  /** Clients that have ended their side get what they are owed. */
  readonly allowHalfOpen?: boolean
  /** With it every connection comes from a proxy of these networks, which says who is behind it (PROXY protocol). */
  readonly proxies?: Networks | undefined
  /** So many come in within a second; the others wait. */
  readonly connectsPerSecondMax?: number | undefined
  /** Counts the connections of each subscriber; without it there may be any number. */
  readonly addresses?: Counts | undefined
  /** When so many are not handed over, the oldest of them goes. */
  readonly connectionsMax?: number
}

/** A client that is gone without a word is noticed by the system, also when its keep alive is 0. */
const keepAliveInitialDelay = 60_000

interface Waiting {
  readonly socket: Socket
  timer: NodeJS.Timeout
  readonly since: number
  readonly onClose: () => void
  /** As a proxy says. */
  peer: Peer | undefined
}

/** A connection when it is handed over. */
export interface HandedOver {
  /** What is left of its time. */
  readonly withinMs: number
  /** As a proxy says; undefined: as its socket does. */
  readonly peer: Peer | undefined
}

const ignore = (): void => undefined

export class Door {
  readonly #options: DoorOptions
  readonly #server: Server
  readonly #pace: ConnectPace | undefined
  /** By the address and port of the client: a TLS stream has those of its socket. */
  readonly #waiting = new Map<string, Waiting>()

  constructor(options: DoorOptions) {
    this.#options = options
    const { connectsPerSecondMax } = options
    this.#pace =
      connectsPerSecondMax === undefined
        ? undefined
        : new ConnectPace(connectsPerSecondMax, (socket) => this.#letIn(socket))
    this.#server = createServer(
      {
        pauseOnConnect: this.#pace !== undefined,
        noDelay: true,
        keepAlive: true,
        keepAliveInitialDelay,
        allowHalfOpen: options.allowHalfOpen ?? false,
      },
      (socket) => this.#accept(socket),
    )
  }

  /** @throws OperatorError (reason `listen`) when the address cannot be had */
  async open(url: URL, field: string, defaultPort: number, exclusive = false): Promise<string> {
    const bound = await bind(this.#server, url, field, defaultPort, exclusive)
    this.#server.on('error', () => {
      // accept() failed: no descriptor is left
      this.#options.places.exhausted()
      this.#options.events.turnedAway('descriptors', '')
    })
    return bound
  }

  #accept(socket: Socket): void {
    const { places, events } = this.#options
    if (socket.remoteAddress === undefined) return void socket.destroy() // gone already
    if (!places.take()) {
      this.turnAway(socket, 'descriptors')
      return void socket.destroy()
    }
    socket.on('error', ignore).once('close', this.#closed) // until it is handed over nobody else listens
    if (this.#pace === undefined) return this.#letIn(socket)
    const turn = this.#pace.come(socket)
    if (turn === 'waits') events.heldBack()
    else if (turn === 'refused') {
      this.turnAway(socket, 'pace')
      socket.destroy()
    }
  }

  #letIn(socket: Socket): void {
    const { deadlineMs, proxies, connectionsMax = Infinity } = this.#options
    const key = keyOf(socket)
    if (key === undefined) return void socket.destroy() // gone while it waited
    if (this.#waiting.size >= connectionsMax) this.#dropOldest()
    const waiting: Waiting = {
      socket,
      timer: this.#deadline(socket, deadlineMs),
      since: performance.now(),
      onClose: () => this.#forget(key, waiting),
      peer: undefined,
    }
    this.#waiting.set(key, waiting)
    socket.once('close', waiting.onClose)
    if (proxies === undefined) this.#serve(socket, socket.remoteAddress)
    else this.#hearProxy(waiting, proxies)
  }

  #hearProxy(waiting: Waiting, proxies: Networks): void {
    const { socket } = waiting
    const refuse = (problem: string): void => {
      this.turnAway(socket, 'proxy', problem)
      socket.destroy()
    }
    if (!proxies.has(socket.remoteAddress)) return refuse('comes from no network of proxies')
    takeProxyHeader(
      socket,
      (peer) => {
        waiting.peer = peer
        if (!socket.destroyed) this.#serve(socket, peer?.address) // the proxy itself is none of those that are counted
      },
      refuse,
    )
  }

  #serve(socket: Socket, address: string | undefined): void {
    const { addresses, serve } = this.#options
    if (addresses !== undefined && address !== undefined) {
      const subscriber = subscriberOf(address)
      if (!addresses.take(subscriber)) {
        this.turnAway(socket, 'address')
        return void socket.destroy()
      }
      socket.once('close', () => addresses.give(subscriber))
    }
    this.guard(socket, () => serve(socket))
  }

  #deadline(socket: Socket, ms: number): NodeJS.Timeout {
    return setTimeout(() => {
      this.turnAway(socket, 'deadline')
      socket.destroy()
    }, ms).unref()
  }

  /** It has made its first step in time, and has so long for the rest. */
  extend(stream: Duplex, ms: number): void {
    const waiting = this.#waiting.get(keyOf(stream as Socket) ?? '')
    if (waiting === undefined) return
    clearTimeout(waiting.timer)
    waiting.timer = this.#deadline(waiting.socket, ms)
  }

  readonly #closed = (): void => this.#options.places.give()

  /** Its key may be the next one's by the time that it closes. */
  #forget(key: string, waiting: Waiting): void {
    clearTimeout(waiting.timer)
    if (this.#waiting.get(key) === waiting) this.#waiting.delete(key)
  }

  #dropOldest(): void {
    for (const [key, waiting] of this.#waiting) {
      this.turnAway(waiting.socket, 'crowd')
      this.#forget(key, waiting)
      return void waiting.socket.destroy()
    }
  }

  /** What comes over a wire never throws to the top: a connection whose handler does is closed. */
  guard(stream: Duplex, handle: () => void): void {
    try {
      handle()
    } catch (error) {
      stream.destroy()
      this.#options.events.failed(error as Error)
    }
  }

  /**
   * From now on the connection is its taker's, deadline and errors included.
   * @returns undefined when it is closed by now
   */
  handOver(stream: Duplex): HandedOver | undefined {
    const key = keyOf(stream as Socket)
    const waiting = key === undefined ? undefined : this.#waiting.get(key)
    if (waiting === undefined) return undefined
    this.#forget(key!, waiting)
    waiting.socket.off('close', waiting.onClose)
    if (waiting.socket === stream) waiting.socket.off('error', ignore)
    const withinMs = Math.max(1, this.#options.deadlineMs - (performance.now() - waiting.since))
    return { withinMs, peer: waiting.peer }
  }

  turnAway(stream: Duplex, cause: TurnedAwayCause, detail?: string): void {
    const peer = this.#waiting.get(keyOf(stream as Socket) ?? '')?.peer
    const address = peer?.address ?? plainAddress((stream as Socket).remoteAddress ?? '')
    this.#options.events.turnedAway(cause, address, detail)
  }

  /** Stops accepting, and closes what is not handed over; what is stays open. */
  close(): void {
    this.#server.close()
    this.#pace?.close()
    for (const { socket } of [...this.#waiting.values()]) socket.destroy()
  }
}

const keyOf = ({ remoteAddress, remotePort }: Socket): string | undefined =>
  remoteAddress === undefined ? undefined : `${remoteAddress} ${remotePort}`
