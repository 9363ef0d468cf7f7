// ws:// and wss://: MQTT over WebSocket (MQTT 5 section 6). Only binary frames, only the path of the URL,
// only the subprotocols of MQTT and, where they are named, only pages of the allowed origins; one MQTT packet
// may span frames and one frame may hold several [MQTT-6.0.0-2]. Whoever asks for something else gets an
// answer and is closed. Bounds: of frames nothing is kept (pieces.ts); what waits for a client that pings and
// does not read.
import {
  createServer as createHttpServer,
  STATUS_CODES,
  type IncomingMessage,
  type ServerResponse,
} from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import { createWebSocketStream, WebSocketServer, type WebSocket } from 'ws'
import { later, turnIsOver } from '../../bridge/index.ts'
import { limits } from '../config/limits.ts'
import { Door } from './door.ts'
import { doorOptions, type Listener, type ListenerContext } from './listener.ts'
import { readInPieces } from './pieces.ts'
import { pathOf } from './request-path.ts'
import { TlsContexts } from './tls-contexts.ts'

/** What waits for a client above which its pings are not answered, bytes. */
const pongBytesMax = 64 * 1024
const subprotocols = ['mqtt', 'mqttv3.1']
const ignore = (): void => undefined

/** What the client offers, in its order. */
const offeredBy = (request: IncomingMessage): string[] =>
  (request.headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim())

/** Answers on the socket of an upgrade, and closes it whether the client ends its side or not. */
function answer(socket: Duplex, status: number, text: string): void {
  const body = `${text}\n`
  socket.once('finish', () => socket.destroy())
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  )
}

/** @throws OperatorError (reason `listen`) when the address cannot be had */
export async function listenWebSocket(url: URL, context: ListenerContext): Promise<Listener> {
  const { config, onConnection } = context
  const contexts = url.protocol === 'wss:' ? new TlsContexts(config) : undefined
  const secure = contexts !== undefined
  const server = secure
    ? createHttpsServer({ ...contexts.options, handshakeTimeout: config.connectTimeoutMs })
    : createHttpServer()
  const door = new Door({
    ...doorOptions(context),
    allowHalfOpen: true,
    serve: (socket) => server.emit('connection', socket),
  })
  const path = url.pathname
  const origins =
    config.wsOrigins === undefined
      ? undefined
      : new Set(config.wsOrigins.map((origin) => origin.toLowerCase()))

  /** Why an upgrade is refused: status and text. */
  const problemOf = (request: IncomingMessage): [status: number, text: string] | undefined => {
    if (path !== '/' && pathOf(request.url) !== path) return [404, 'MQTT is served at another path.']
    const { origin } = request.headers
    if (origins !== undefined && origin !== undefined && !origins.has(origin.toLowerCase()))
      return [403, 'Pages of this origin may not connect.']
    return offeredBy(request).some((name) => subprotocols.includes(name))
      ? undefined
      : [400, 'Offer the subprotocol mqtt.'] // [MQTT-6.0.0-3]
  }

  const sockets = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    autoPong: false,
    maxPayload: 0, // of messages nothing is kept; the bounds of packets are the reader's
    handleProtocols: (_offered, request) =>
      offeredBy(request).find((name) => subprotocols.includes(name)) ?? false, // [MQTT-6.0.0-4]
  })
  const upgrade = (request: IncomingMessage, socket: Duplex, head: Buffer): void => {
    const problem = problemOf(request)
    if (problem !== undefined) {
      door.turnAway(socket, 'request', problem[1])
      return answer(socket, ...problem)
    }
    sockets.handleUpgrade(request, socket, head, (webSocket) =>
      door.guard(socket, () => {
        const handedOver = door.handOver(socket)
        if (handedOver === undefined) {
          // What it had sent by then is still read: a frame that is none would end the process.
          webSocket.on('error', ignore)
          return webSocket.terminate()
        }
        onConnection(streamOf(webSocket), handedOver, request)
      }),
    )
  }
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    socket.on('error', ignore) // a reset; what uses the socket hears of its close
    door.guard(socket, () => upgrade(request, socket, head))
  })
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    door.turnAway(request.socket, 'request', 'no upgrade')
    response
      .writeHead(426, { upgrade: 'websocket', connection: 'close' })
      .end('This is an MQTT endpoint: connect by WebSocket.\n')
  })
  if (secure)
    server.on('secureConnection', (socket: TLSSocket) => {
      const problem = contexts.problemOf(socket)
      if (problem === undefined) return
      door.turnAway(socket, 'handshake', problem)
      socket.destroy()
    })
  if (secure)
    server.on('tlsClientError', (error: Error, socket: Duplex) =>
      door.turnAway(socket, 'handshake', error.message),
    )
  const bound = await door.open(url, '--listen', secure ? 443 : 80)
  return {
    url: bound,
    renew: () => {
      contexts?.read()
      if ('setSecureContext' in server) server.setSecureContext(contexts!.first)
    },
    close: () => door.close(),
  }
}

function streamOf(webSocket: WebSocket): Duplex {
  readInPieces(webSocket)
  answerPings(webSocket)
  // A frame that is none: `ws` says so in a close frame, and would wait half a minute for the answer.
  webSocket.on('error', () => {
    setTimeout(() => webSocket.terminate(), limits.lingerMs).unref()
  })
  const stream = createWebSocketStream(webSocket, { readableObjectMode: false })
  // Whose client has ended its side, or is gone, is not written to any more. That is no error: what it sent before is
  // read to its end, and an error would throw it away.
  stream._write = (chunk: Buffer, _encoding, done) => webSocket.send(chunk, () => done())
  readTogether(webSocket, stream)
  readInTurns(webSocket, stream)
  return stream
}

/**
 * In place of what `ws` has for it: messages that came together are one piece of what is read, and each frame
 * may be one byte.
 */
function readTogether(webSocket: WebSocket, stream: Duplex): void {
  let messages: Buffer[] = []
  const hand = (): void => {
    const [first] = messages
    if (first === undefined || stream.destroyed) return
    const bytes = messages.length === 1 ? first : Buffer.concat(messages)
    messages = []
    if (!stream.push(bytes)) webSocket.pause()
  }
  webSocket.removeAllListeners('message').on('message', (message: Buffer, isBinary) => {
    if (!isBinary)
      webSocket.terminate() // [MQTT-6.0.0-1]
    else if (messages.push(message) === 1) process.nextTick(hand)
  })
  webSocket.prependOnceListener('close', hand)
}

/**
 * Of those that come together the last one is answered (RFC 6455, 5.5.3): a pong is 50 times as much work as
 * a ping.
 */
function answerPings(webSocket: WebSocket): void {
  let latest: Buffer | undefined
  webSocket.on('ping', (data: Buffer) => {
    if (latest === undefined) {
      setImmediate(() => {
        if (webSocket.bufferedAmount <= pongBytesMax) webSocket.pong(latest, undefined, ignore)
        latest = undefined
      })
    }
    latest = data
  })
}

/**
 * Frames are work, whatever is in them: when the turn has had enough, the socket is read on in a later one
 * (P12).
 */
function readInTurns(webSocket: WebSocket, stream: Duplex): void {
  let waits = false
  const read = stream._read.bind(stream) // it resumes what is paused
  stream._read = (size) => {
    if (!waits) read(size)
  }
  const look = (): void => {
    if (waits || !turnIsOver()) return
    waits = true
    webSocket.pause()
    later(() => {
      waits = false
      webSocket.resume()
    })
  }
  webSocket.on('message', look).on('ping', look).on('pong', look)
}
