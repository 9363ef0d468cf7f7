// From a URL to the listener that serves its scheme.
import type { Config } from '../config.ts'
import type { Listener, OnConnection } from './listener.ts'
import { listenTcp } from './tcp.ts'
import { listenWebSocket } from './websocket.ts'

export type { Listener, OnConnection } from './listener.ts'

/** @throws OperatorError (reason `listen`) when the address cannot be had */
export function listen(address: string, config: Config, onConnection: OnConnection, onError: (error: Error) => void): Promise<Listener> {
  const url = new URL(address)
  return url.protocol.startsWith('ws')
    ? listenWebSocket(url, config, config, onConnection, onError)
    : listenTcp(url, config, onConnection, onError)
}
