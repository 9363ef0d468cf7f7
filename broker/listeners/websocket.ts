// ws:// and wss://: MQTT over WebSocket (MQTT 5 section 6). Only binary frames, only the path of the URL, and the
// subprotocol `mqtt`; one MQTT packet may span frames and one frame may hold several [MQTT-6.0.0-2].
import { createServer as createHttpServer, type IncomingMessage } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import type { Duplex } from 'node:stream'
import { createWebSocketStream, WebSocketServer } from 'ws'
import { limits } from '../limits.ts'
import { bind, readTls, stopAccepting, type Listener, type OnConnection, type TlsFiles } from './listener.ts'

export interface WebSocketLimits {
  /** Largest MQTT packet accepted, bytes. */
  readonly packetBytesMax: number
}

/** @throws OperatorError (reason `listen`) when the address cannot be had */
export async function listenWebSocket(
  url: URL, tls: TlsFiles, { packetBytesMax }: WebSocketLimits, onConnection: OnConnection, onError: (error: Error) => void,
): Promise<Listener> {
  const secure = url.protocol === 'wss:'
  const server = secure ? createHttpsServer(readTls(tls)) : createHttpServer()
  server.on('request', (_request, response) => response.writeHead(426, { upgrade: 'websocket' }).end('This is an MQTT endpoint: connect by WebSocket.\n'))
  const sockets = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    maxPayload: 2 * packetBytesMax + 65_536, // a message may hold several packets
    handleProtocols: (offered) => [...offered].find((name) => name === 'mqtt' || name.startsWith('mqttv3')) ?? false, // [MQTT-6.0.0-3], [MQTT-6.0.0-4]
  })
  const path = url.pathname === '' ? '/' : url.pathname
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    socket.on('error', onError)
    if (path !== '/' && new URL(request.url ?? '/', 'ws://localhost').pathname !== path) {
      socket.end('HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n')
      return
    }
    sockets.handleUpgrade(request, socket, head, (webSocket) => {
      webSocket.on('message', (_data, isBinary) => {
        if (!isBinary) webSocket.terminate() // [MQTT-6.0.0-1]
      })
      // A frame that is none: `ws` says so in a close frame, and would wait half a minute for the answer.
      webSocket.on('error', () => { setTimeout(() => webSocket.terminate(), limits.lingerMs).unref() })
      onConnection(createWebSocketStream(webSocket, { readableObjectMode: false }), request)
    })
  })
  const bound = await bind(server, url, '--listen', secure ? 443 : 80)
  server.on('error', onError)
  return { url: bound, close: () => stopAccepting(server) }
}
