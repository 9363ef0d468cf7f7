// What every listener is to a node: it binds one address, hands each new connection on as a stream of MQTT
// bytes, and stops accepting when told. TCP, TLS, WebSocket and WebSocket over TLS stand behind it; nothing
// else knows which is which.
import { readFileSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import type { AddressInfo, Server } from 'node:net'
import type { Duplex } from 'node:stream'
import type { ListenerConfig } from '../config/config.ts'
import { OperatorError } from '../errors.ts'
import type { DoorEvents, DoorOptions } from './door.ts'

/**
 * Takes a new connection: a duplex stream of MQTT bytes, how long it may still take to send its CONNECT and,
 * for WebSocket, the HTTP request that opened it.
 */
export type OnConnection = (connection: Duplex, connectWithinMs: number, request?: IncomingMessage) => void

export interface ListenerOptions {
  readonly config: ListenerConfig
  readonly places: DoorOptions['places']
  readonly events: DoorEvents
  readonly onConnection: OnConnection
}

export interface Listener {
  /** The address as configured, with the real port where port 0 asked for any. */
  readonly url: string
  /** Stops accepting; connections that are open stay open. */
  close(): void
}

export interface TlsFiles {
  readonly tlsCert: string | undefined
  readonly tlsKey: string | undefined
  readonly tlsCa: string | undefined
}

/**
 * Options for `tls.createServer` and `https.createServer`; with a certificate authority clients must show a
 * certificate.
 */
export function readTls(files: TlsFiles): {
  cert: Buffer
  key: Buffer
  ca?: Buffer
  requestCert?: boolean
  rejectUnauthorized?: boolean
} {
  if (files.tlsCert === undefined || files.tlsKey === undefined)
    throw new Error('tlsCert and tlsKey are checked by config.ts')
  const pair = { cert: readFileSync(files.tlsCert), key: readFileSync(files.tlsKey) }
  return files.tlsCa === undefined
    ? pair
    : { ...pair, ca: readFileSync(files.tlsCa), requestCert: true, rejectUnauthorized: true }
}

/**
 * Binds `server` to the host and port of `url`; resolves to the URL with the port that was bound.
 * @throws OperatorError (reason `listen`) when the address cannot be had
 */
export function bind(server: Server, url: URL, field: string, defaultPort: number): Promise<string> {
  const host = url.hostname.replace(/^\[|\]$/g, '')
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const example = `${field} ${url.protocol}//${url.hostname}:${Number(url.port) + 1}`
      const [message, hint] =
        error.code === 'EADDRINUSE'
          ? ([
              'the port is in use',
              `Another node, an \`aedes-cluster up\` or another broker may be running: end it, or choose another port, e.g. ${example}${field === '--admin' ? ', or --admin off' : ''}`,
            ] as const)
          : ([
              `cannot listen (${error.code ?? error.message})`,
              'Choose an address of this machine and a port that you may use',
            ] as const)
      reject(
        new OperatorError(message, {
          reason: 'listen',
          field,
          value: url.href.replace(/\/$/, ''),
          hint,
          cause: error,
        }),
      )
    })
    server.listen({ host, port: url.port === '' ? defaultPort : Number(url.port) }, () => {
      server.removeAllListeners('error')
      const bound = new URL(url.href)
      bound.port = String((server.address() as AddressInfo).port)
      resolve(bound.href.replace(/\/$/, ''))
    })
  })
}
