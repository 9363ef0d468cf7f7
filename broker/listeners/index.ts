// From a URL to the listener that serves its scheme.
import type { Listener, ListenerContext } from './listener.ts'
import { listenTcp } from './tcp.ts'
import { listenWebSocket } from './websocket.ts'

export { Descriptors, type DescriptorEvents } from './descriptors.ts'
export type { DoorEvents, HandedOver } from './door.ts'
export type { Listener, OnConnection } from './listener.ts'

/** @throws OperatorError (reason `listen`) when the address cannot be had */
export function listen(options: ListenerContext): Promise<Listener> {
  const url = new URL(options.config.url)
  return url.protocol.startsWith('ws') ? listenWebSocket(url, options) : listenTcp(url, options)
}
