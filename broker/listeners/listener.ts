// What every listener is to a node: it binds one address, hands each new connection on as a stream of MQTT
// bytes, and stops accepting when told. TCP, TLS, WebSocket and WebSocket over TLS stand behind it; nothing
// else knows which is which.
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { ListenerConfig } from '../config/config.ts'
import type { Counts } from '../access/counts.ts'
import { Networks } from '../access/networks.ts'
import type { DoorEvents, DoorOptions, HandedOver } from './door.ts'

/**
 * Takes a new connection: a duplex stream of MQTT bytes, how long it may still take to send its CONNECT, who it is
 * where a proxy says so and, for WebSocket, the HTTP request that opened it.
 */
export type OnConnection = (connection: Duplex, handedOver: HandedOver, request?: IncomingMessage) => void

export interface ListenerContext {
  readonly config: ListenerConfig
  readonly places: DoorOptions['places']
  readonly events: DoorEvents
  /** Of all listeners of the node. */
  readonly addresses: Counts | undefined
  readonly onConnection: OnConnection
}

export interface Listener {
  /** The address as configured, with the real port where port 0 asked for any. */
  readonly url: string
  /** Shows the certificate that its files have now, to those who come from now on. @throws Error when they do not fit */
  renew(): void
  /** Stops accepting; connections that are open stay open. */
  close(): void
}

/** What the doors of all transports have of a listener. */
export const doorOptions = ({
  config: { connectTimeoutMs, connectingMax, connectsPerSecondMax, proxyNetworks },
  places,
  events,
  addresses,
}: ListenerContext): Omit<DoorOptions, 'serve'> => ({
  deadlineMs: connectTimeoutMs,
  connectionsMax: connectingMax,
  connectsPerSecondMax,
  addresses,
  proxies: proxyNetworks === undefined ? undefined : new Networks(proxyNetworks),
  places,
  events,
})
