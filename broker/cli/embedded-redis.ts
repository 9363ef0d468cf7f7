// The Redis that `up` brings: a redis-server or valkey-server child on a unix socket, reachable only by this
// user, with an append-only file (`appendfsync always`: kill -9 of it loses nothing acknowledged) in the data
// folder. Its life is tied to ours: it is started through a shell that ends it when our end of a pipe closes,
// however we died.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, constants, mkdirSync, mkdtempSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { OperatorError } from '../operator-errors.ts'
import { findProgram, installPackages } from './packages.ts'

const readyLine = /ready to accept connections/i // “Ready …” on a port, “now ready …” on a socket
const programs = ['redis-server', 'valkey-server'] as const
const socketPathBytesMax = 100 // sun_path holds 108 bytes on Linux, 104 on macOS

// stdin is the pipe to us. When it closes, `cat` ends and Redis is told to stop; when Redis ends first, so
// does the shell.
const tether =
  'exec 3<&0; "$@" </dev/null & redis=$!; trap \'kill "$redis" 2>/dev/null\' TERM INT; { cat <&3 >/dev/null; kill "$redis" 2>/dev/null; } & wait "$redis"; exec 3<&-; kill $! 2>/dev/null; exit 0'

export interface EmbeddedRedis {
  /** For `--redis`: unix:///…/redis.sock */
  readonly url: string
  /** Settles when the server has ended, asked or not. */
  readonly ended: Promise<void>
  stop(): Promise<void>
}

function findRedis(): string {
  for (const program of programs) {
    const path = findProgram(program)
    if (path !== undefined) return path
  }
  installPackages([programs[0]])
  return findProgram(programs[0]) ?? programs[0]
}

const socketOf = (folder: string): string => join(folder, 'redis.sock')

/** @throws OperatorError (reason `dataInUse`) when a cluster is running on the folder `data` */
export async function refuseDataInUse(data: string): Promise<void> {
  if (!(await answers(socketOf(resolve(data, 'redis'))))) return
  throw new OperatorError('belongs to a cluster that is running', {
    reason: 'dataInUse',
    field: '--data',
    value: data,
    hint: 'Stop that cluster or choose another folder with --data',
  })
}

/** Whether something accepts connections on the unix socket `path`. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}

async function ready(child: ChildProcess, data: string): Promise<void> {
  let output = ''
  for await (const chunk of child.stdout!.iterator({ destroyOnReturn: false })) {
    output += String(chunk)
    if (readyLine.test(output)) break
  }
  child.stdout!.resume()
  if (readyLine.test(output)) return
  const reason = output.trim().split('\n').at(-1) ?? ''
  throw new OperatorError(`Redis did not start in this folder (${reason})`, {
    reason: 'store',
    field: '--data',
    value: data,
    hint: 'Choose another data folder, or mend the append-only file with redis-check-aof',
  })
}

/**
 * Starts the server on the append-only file under `data` (made when missing); resolves when it accepts
 * connections.
 * @param interrupted ends the start, which takes as long as Redis reads its data: then there is none
 * @throws OperatorError reasons `programMissing`, `usage`, `redis`
 */
export async function startEmbeddedRedis(
  data: string,
  interrupted: Promise<void>,
): Promise<EmbeddedRedis | undefined> {
  const program = findRedis()
  const folder = resolve(data, 'redis')
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    accessSync(folder, constants.W_OK)
  } catch (error) {
    throw new OperatorError(`cannot be written (${(error as NodeJS.ErrnoException).code ?? 'error'})`, {
      reason: 'usage',
      field: '--data',
      value: data,
      hint: 'Name a folder that may be written, e.g. --data ./data',
      cause: error,
    })
  }
  const near = socketOf(folder)
  const socket =
    Buffer.byteLength(near) <= socketPathBytesMax
      ? near
      : join(mkdtempSync(join(tmpdir(), 'aedes-cluster-')), 'redis.sock')
  const child = spawn(
    '/bin/sh',
    [
      '-c',
      tether,
      'redis',
      program,
      '--port',
      '0',
      '--unixsocket',
      socket,
      '--unixsocketperm',
      '600',
      '--dir',
      folder,
      '--save',
      '',
      '--appendonly',
      'yes',
      '--appendfsync',
      'always',
    ],
    { stdio: ['pipe', 'pipe', 'inherit'], detached: true },
  ) // detached: Ctrl-C reaches the nodes first, Redis last
  const ended = once(child, 'exit').then(() => undefined)
  const stop = async (): Promise<void> => {
    child.stdin.end()
    await ended
  }
  const isReady = ready(child, data).then(() => true)
  if (await Promise.race([isReady, interrupted.then(() => false)]))
    return { url: `unix://${socket}`, ended, stop }
  isReady.catch(() => undefined) // it ends before it is
  await stop()
  return undefined
}
