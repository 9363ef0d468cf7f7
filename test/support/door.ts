// What comes to a node's door and is no client: bytes on a socket, whatever they are, and what the node makes
// of them.
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'

const patienceMs = 20_000

/**
 * A TCP connection to a listener, whatever its scheme; its errors are closes. `stays`: it never ends its
 * side.
 */
export async function knock(url: string, stays = false): Promise<Socket> {
  const { hostname, port } = new URL(url)
  const socket = connect({ host: hostname, port: Number(port), allowHalfOpen: stays }).on(
    'error',
    () => undefined,
  )
  await once(socket, 'connect')
  return socket
}

/** Everything that comes until the node closes; fails when it does not. */
export async function untilClosed(socket: Socket): Promise<string> {
  let text = ''
  socket.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1')
  })
  if (socket.closed) return text
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new Error(`still open; it brought ${JSON.stringify(text)}`)),
      patienceMs,
    )
    socket.once('close', () => {
      clearTimeout(timer)
      resolve()
    })
  })
  return text
}

/** Writes all of it and waits for the close. */
export async function ask(url: string, text: string): Promise<string> {
  const socket = await knock(url)
  socket.write(text)
  return untilClosed(socket)
}

/** The head of an upgrade as a browser sends it. */
export const upgrade = (target: string, headers: Readonly<Record<string, string>> = {}): string => {
  const all = {
    host: 'localhost',
    connection: 'Upgrade',
    upgrade: 'websocket',
    'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==',
    'sec-websocket-version': '13',
    'sec-websocket-protocol': 'mqtt',
    ...headers,
  }
  return `GET ${target} HTTP/1.1\r\n${Object.entries(all)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join('')}\r\n`
}

/** Open file descriptors of a process. */
export const descriptorsOf = (pid: number): number => readdirSync(`/proc/${pid}/fd`).length

/**
 * The timer that the system runs at the node's end of a connection, as /proc/net/tcp has it; '02': keepalive.
 */
export function timerOf({ localPort, remotePort }: Socket): string | undefined {
  const hex = (port: number | undefined): string => (port ?? 0).toString(16).toUpperCase().padStart(4, '0')
  const line = readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .find(
      (row) =>
        row.includes(`:${hex(remotePort)} `) &&
        new RegExp(`:${hex(remotePort)} \\w+:${hex(localPort)} `).test(row),
    )
  return line?.trim().split(/\s+/)[5]?.slice(0, 2)
}
