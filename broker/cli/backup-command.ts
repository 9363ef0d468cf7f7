// `aedes-cluster backup FILE` and `aedes-cluster restore FILE`: what is durable of a cluster, into one file while it runs,
// and out of it into an empty one. A file is written beside its name, on the disk before it gets it, and is for its owner
// alone: it has messages, and what is kept of passwords. No state.
import { createReadStream } from 'node:fs'
import { open, rename, unlink } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { BridgeError, importTargets, type Backups } from '../../bridge/index.ts'
import { loadConfig, operatorErrorOf, options, storeOf, type Config } from '../config/config.ts'
import { usage } from '../config/sources.ts'
import { OperatorError } from '../operator-errors.ts'
import { version } from '../version.ts'
import type { Interrupt } from './node-process.ts'
import { parseArguments, type FlagShape } from './arguments.ts'

type Flags = Record<string, FlagShape & { readonly shape: string; readonly about: string }>

export const backupFlags: Flags = {
  config: { shape: 'file', about: 'configuration of a node, which names the store' },
  ...Object.fromEntries(
    Object.entries(importTargets).map(([name, about]) => [
      name,
      { shape: options[name as keyof typeof importTargets].shape, about },
    ]),
  ),
}

export const restoreFlags: Flags = {
  ...backupFlags,
  add: {
    switch: true,
    shape: '',
    about: 'also into a cluster that is not empty: what it has stays as it is, and what it has not is added',
  },
}

export const backupAbout = `  While the cluster runs: sessions with subscriptions, queue and what is in flight, Retained Messages, backlogs of groups, users, rules and
  bans, each session as it was at one moment. Time stands still in the file: what had an hour left has it from the restore on.
`
export const restoreAbout = `  From any backup into any Redis, also from one server into a Redis Cluster, and back. Clients get what was in flight again, with DUP.
`

const counted = (counts: object): string =>
  Object.entries(counts)
    .map(([what, count]: [string, number | { found: number; restored: number }]) =>
      typeof count === 'number' ? `${what} ${count}` : `${what} ${count.restored}/${count.found}`,
    )
    .join(' · ')

/** A backup ends when nothing comes from the store for so long. */
const standsMs = 60_000

type Backup = Awaited<ReturnType<Backups['take']>>

interface Asked {
  readonly file: string
  readonly values: Readonly<Record<string, string | true | string[]>>
  readonly config: Config
  readonly backups: Backups
}

/** @throws OperatorError when a word or an option is wrong, or the store takes none */
function askedOf(command: string, argv: readonly string[], flags: Flags): Asked {
  const file = argv[0]?.startsWith('-') === false ? argv[0] : undefined
  const { values, problems } = parseArguments(file === undefined ? argv : argv.slice(1), flags)
  const found = [...problems]
  if (file === undefined)
    found.push(
      usage(command, undefined, 'wants FILE', `Write aedes-cluster ${command} FILE, and options behind it`),
    )
  const { add: _, ...given } = values
  const config = loadConfig(given, process.env, found)
  const { backups } = storeOf(config)
  if (backups === undefined)
    throw usage(
      '--redis',
      undefined,
      'is missing',
      'Name the Redis of the cluster, e.g. --redis redis://host; of a node without Redis, stop it and copy its --state-file',
    )
  return { file: file!, values, config, backups }
}

const wasEnded = (field: string, hint: string, cause?: unknown): OperatorError =>
  new OperatorError('was ended before it was done', {
    reason: 'interrupted',
    field,
    value: undefined,
    hint,
    cause,
  })

function fileError(file: string, error: unknown): OperatorError {
  const { code = 'error' } = error as NodeJS.ErrnoException
  const hint =
    code === 'EEXIST'
      ? 'Another backup writes it, or one was killed: remove it then'
      : 'Name a file that may be written, or read, on a disk with room'
  return usage('FILE', file, `cannot be used (${code})`, hint, error)
}

const operatorError = (config: Config, error: unknown, file: string): unknown => {
  if (error instanceof Error && 'syscall' in error) return fileError(file, error)
  if (!(error instanceof BridgeError)) return error
  if (error.code === 'ERR_BRIDGE_BACKUP') return usage('FILE', file, error.message, error.remedy, error)
  return operatorErrorOf(config, storeOf(config), error)
}

/** @throws OperatorError when an option is wrong, the store cannot be read, or the file not be written */
export async function backupCommand(argv: readonly string[], interrupt: Interrupt): Promise<void> {
  const { file, config, backups } = askedOf('backup', argv, backupFlags)
  const partial = `${file}.partial`
  const out = await open(partial, 'wx', 0o600).catch((error: unknown) => {
    throw fileError(partial, error)
  })
  // Redis that goes away is waited for by its connection for ever: whoever is first ends it
  let stands: NodeJS.Timeout | undefined
  const stopped = new Promise<never>((_, reject) => {
    void interrupt.first.then(() =>
      reject(wasEnded('backup', 'Run it again: the file before, if there was one, is as it was')),
    )
    stands = setTimeout(
      () => reject(new BridgeError('ERR_BRIDGE_REDIS_UNREACHABLE', `nothing came for ${standsMs / 1_000} s`)),
      standsMs,
    )
  })
  const write = async (): Promise<Backup['counts']> => {
    const taken = await backups.take(version())
    let text = ''
    for await (const line of taken.texts) {
      stands?.refresh()
      text += line
      if (text.length < 1_048_576) continue
      await out.appendFile(text) // write() may write a part of it, where a disk is full, and say nothing
      text = ''
    }
    await out.appendFile(text)
    return taken.counts
  }
  try {
    const counts = await Promise.race([write(), stopped])
    await out.sync()
    await out.close()
    await rename(partial, file)
    process.stdout.write(`${file}: ${counted(counts)}\n`)
    const { later, damaged } = counts
    if (later + damaged > 0)
      process.stderr.write(
        `aedes-cluster: left out: ${later} records of a later version, ${damaged} that are damaged\n`,
      )
  } catch (error) {
    await out.close().catch(() => undefined)
    await unlink(partial).catch(() => undefined)
    throw operatorError(config, error, file)
  } finally {
    clearTimeout(stands)
  }
}

/** @throws OperatorError when an option is wrong, the file is none, or the target is not empty */
export async function restoreCommand(argv: readonly string[], interrupt: Interrupt): Promise<void> {
  const { file, values, config, backups } = askedOf('restore', argv, restoreFlags)
  const ended = new AbortController()
  void interrupt.first.then(() => ended.abort())
  const lines = async function* (): AsyncGenerator<string> {
    const handle = await open(file, 'r').catch((error: unknown) => {
      throw fileError(file, error)
    })
    await handle.close()
    yield* createInterface({ input: createReadStream(file), crlfDelay: Infinity })
  }
  try {
    const counts = await backups.restore(
      { open: lines, isAdding: values.add === true, onProgress: () => undefined },
      ended.signal,
    )
    process.stdout.write(`restored/found, the others were there already: ${counted(counts)}\n`)
  } catch (error) {
    if (ended.signal.aborted && error instanceof BridgeError)
      throw wasEnded(
        'restore',
        'Empty the target and run it again, or run it with --add: backlogs of groups that have members by now stay as they are',
        error,
      )
    throw operatorError(config, error, file)
  }
}
