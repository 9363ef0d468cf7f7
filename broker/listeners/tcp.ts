// mqtt:// and mqtts://: MQTT over TCP, plain or under TLS.
import { createServer as createTcpServer, type Server } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import { bind, readTls, stopAccepting, type Listener, type OnConnection, type TlsFiles } from './listener.ts'

/** @throws OperatorError (reason `listen`) when the address cannot be had */
export async function listenTcp(url: URL, tls: TlsFiles, onConnection: OnConnection, onError: (error: Error) => void): Promise<Listener> {
  const secure = url.protocol === 'mqtts:'
  const server: Server = secure
    ? createTlsServer({ ...readTls(tls), handshakeTimeout: 10_000 }, onConnection).on('tlsClientError', onError)
    : createTcpServer({ noDelay: true, keepAlive: true }, onConnection)
  const bound = await bind(server, url, '--listen', secure ? 8883 : 1883)
  server.on('error', onError)
  return { url: bound, close: () => stopAccepting(server) }
}
