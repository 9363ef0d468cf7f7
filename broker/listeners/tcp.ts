// mqtt:// and mqtts://: MQTT over TCP, plain or under TLS.
import { createServer as createTlsServer } from 'node:tls'
import { Door } from './door.ts'
import { doorOptions, type Listener, type ListenerContext } from './listener.ts'
import { TlsContexts } from './tls-contexts.ts'

/** @throws OperatorError (reason `listen`) when the address cannot be had */
export async function listenTcp(url: URL, context: ListenerContext): Promise<Listener> {
  const { config, onConnection } = context
  const contexts = url.protocol === 'mqtts:' ? new TlsContexts(config) : undefined
  const secure =
    contexts && createTlsServer({ ...contexts.options, handshakeTimeout: config.connectTimeoutMs })
  const door = new Door({
    // A client that has ended its side gets what is owed to it; and a socket that node ends by itself, at the
    // moment that it reads the end, is work that cannot wait for its turn, of thousands that end at once.
    allowHalfOpen: secure === undefined,
    ...doorOptions(context),
    serve: (socket) => {
      if (secure === undefined) take(socket)
      else secure.emit('connection', socket)
    },
  })
  const take = (stream: Parameters<typeof onConnection>[0]): void =>
    door.guard(stream, () => {
      const handedOver = door.handOver(stream)
      if (handedOver === undefined) stream.destroy()
      else onConnection(stream, handedOver)
    })
  secure
    ?.on('secureConnection', (socket) => {
      const problem = contexts!.problemOf(socket)
      if (problem === undefined) return take(socket)
      door.turnAway(socket, 'handshake', problem)
      socket.destroy()
    })
    .on('tlsClientError', (error, socket) => door.turnAway(socket, 'handshake', error.message))
  const bound = await door.open(url, '--listen', secure === undefined ? 1883 : 8883)
  return {
    url: bound,
    renew: () => {
      contexts?.read()
      secure?.setSecureContext(contexts!.first)
    },
    close: () => door.close(),
  }
}
