// `aedes-cluster import`: moves an installation of Aedes + aedes-persistence-redis into the cluster. The old
// one must be stopped, since what it does meanwhile may be missed; the cluster may run. Run again it moves
// what is not there yet.
import type { IPublishPacket } from 'mqtt-packet'
import {
  BridgeError,
  diagnostics,
  importInstallation,
  ping,
  redisAddressProblem,
  withoutRedisPassword,
  type ImportCounts,
  type WaitReport,
} from '../../bridge/index.ts'
import { redisOptionsOf, loadConfig, sourceOf } from '../config/config.ts'
import { messageOfPacket } from '../aedes/packets.ts'
import { OperatorError } from '../errors.ts'
import { waitedText, waitingText } from '../observe/cluster-events.ts'
import type { Interrupt } from './node.ts'
import { parseArguments, type FlagShape } from './arguments.ts'

/** The flags of `import`, as the help shows them. */
export const importFlags: Record<string, FlagShape & { readonly shape: string; readonly about: string }> = {
  from: { shape: 'url', about: 'the Redis of the old installation' },
  fromPrefix: {
    shape: 'text',
    about: 'what its keys begin with, when they do (keyPrefix of its ioredis connection)',
  },
  redis: { shape: 'url', about: 'the Redis of the cluster' },
  redisPasswordFile: { shape: 'file', about: 'file that holds its password' },
  prefix: { shape: 'name', about: 'prefix of the cluster' },
  queueMessagesMax: {
    shape: 'count',
    about: 'as on the nodes: of longer queues the oldest messages are dropped',
  },
  dryRun: { switch: true, shape: '', about: 'count what would be moved, write nothing' },
}

/** What the help says of it, below its flags. */
export const importAbout = `  Stop the old installation first; the nodes of the cluster may run. Sessions arrive with nobody connected and never expire.
  A session or retained topic that the cluster has is left alone. A will that the old installation still holds belongs to a
  connection that ended with it: it is published once. QoS 2 publishes between PUBLISH and PUBREL of a client are not moved.
`

const kinds = ['sessions', 'subscriptions', 'messages', 'retained', 'wills'] as const

const line = (counts: Readonly<ImportCounts>, dryRun: boolean): string =>
  kinds
    .map((kind) => `${kind} ${dryRun ? counts[kind].found : `${counts[kind].moved}/${counts[kind].found}`}`)
    .join(' · ')

/** What is wrong with `--from`; its value may hold a password anywhere. */
function fromProblems(from: unknown): OperatorError[] {
  const hint = 'Name the Redis of the old installation: --from redis://127.0.0.1:6379'
  if (typeof from !== 'string')
    return [new OperatorError('is missing', { reason: 'usage', field: '--from', value: undefined, hint })]
  const problem = /^(rediss?|unix):/.test(from) ? redisAddressProblem(from) : 'is not a Redis address'
  const value = /^https?:\/\/[\w.-]+\/?$/.test(from) ? from : '***' // a host alone holds no password
  return problem === undefined
    ? []
    : [
        new OperatorError(problem, {
          reason: 'usage',
          field: '--from',
          value,
          hint: `${hint}, rediss:// or unix:///path`,
        }),
      ]
}

/**
 * @throws OperatorError when an option is wrong, a Redis cannot be reached, or it is ended before it is done
 */
export async function importCommand(argv: readonly string[], interrupt: Interrupt): Promise<void> {
  const {
    values: { from, fromPrefix, dryRun, ...flags },
    problems,
  } = parseArguments(argv, importFlags)
  const config = loadConfig(flags, process.env, [
    ...problems,
    ...(problems.some(({ details }) => details.field === '--from') ? [] : fromProblems(from)),
  ])
  if (typeof from !== 'string') return // said already
  const options = redisOptionsOf(config)
  if (options === undefined)
    throw new OperatorError('is missing', {
      reason: 'usage',
      field: '--redis',
      value: undefined,
      hint: 'Name the Redis of the cluster: --redis redis://127.0.0.1:6379',
    })
  const target = options.redis
  const away = await Promise.all(
    (
      [
        ['--from', from],
        ['--redis', target],
      ] as const
    ).map(([field, url]) =>
      ping(url, config.redisTimeoutMs).then(
        () => undefined,
        (error: unknown) =>
          new OperatorError((error as Error).message, {
            reason: 'redis',
            field: field === '--redis' ? sourceOf(config, 'redis') : field,
            value: withoutRedisPassword(url),
            hint: 'Start Redis and check address, password and network',
            cause: error,
          }),
      ),
    ),
  )
  OperatorError.throwAll(away.filter((error) => error !== undefined))
  const show = progress(dryRun === true)
  const ended = new AbortController()
  void interrupt.first.then(() => ended.abort())
  const unwatch = tellWaits(show.say)
  const counts = await importInstallation(
    {
      ...options,
      from,
      fromPrefix: typeof fromPrefix === 'string' ? fromPrefix : '',
      dryRun: dryRun === true,
      messageOf: (packet) => messageOfPacket(packet as unknown as IPublishPacket),
      onError: () => undefined, // whoever waits because of it says so
      onSource: sourceTeller(show.say),
      onProgress: show,
    },
    ended.signal,
  )
    .catch((error: unknown) => {
      throw operatorErrorOf(
        error as Error,
        ended.signal.aborted,
        config.prefix,
        config.leaseMs,
        withoutRedisPassword(target),
      )
    })
    .finally(unwatch)
  show.done()
  process.stdout.write(
    `${dryRun === true ? 'found (dry run, nothing was written)' : 'moved/found, the others were there already'}: ${line(counts, dryRun === true)}\n`,
  )
  if (counts.dropped > 0)
    process.stdout.write(
      `dropped: ${counts.dropped} messages, the oldest of queues longer than --queue-messages-max ${config.queueMessagesMax}\n`,
    )
}

/** Says what is waited for, and when that is over. @returns ends it */
function tellWaits(say: (line: string) => void): () => void {
  const waiting = (report: unknown): void => say(waitingText(report as WaitReport))
  const waited = (report: unknown): void => say(waitedText(report as WaitReport))
  diagnostics.waiting.subscribe(waiting)
  diagnostics.waited.subscribe(waited)
  return () => {
    diagnostics.waiting.unsubscribe(waiting)
    diagnostics.waited.unsubscribe(waited)
  }
}

/** Says that the old Redis is away, once, and that it is back. */
function sourceTeller(say: (line: string) => void): (problem: Error | undefined) => void {
  let away = false
  return (problem) => {
    if (away === (problem !== undefined)) return
    away = problem !== undefined
    say(
      problem === undefined
        ? '--from: the Redis of the old installation is back'
        : `--from: the Redis of the old installation is waited for: ${problem.message}. Start it, or end this with Ctrl-C and run it again later`,
    )
  }
}

function operatorErrorOf(
  error: Error,
  interrupted: boolean,
  prefix: string,
  leaseMs: number,
  target: string,
): Error {
  if (!(error instanceof BridgeError)) return error
  const again = 'Run it again: what was moved is not moved twice'
  if (interrupted)
    return new OperatorError('was ended before it was done', {
      reason: 'interrupted',
      field: 'import',
      value: undefined,
      hint: again,
      cause: error,
    })
  if (error.code === 'ERR_BRIDGE_DUPLICATE_NODE')
    return new OperatorError('another import runs, or one was killed a moment ago', {
      reason: 'duplicate',
      field: '--prefix',
      value: prefix,
      hint: `Wait ${leaseMs / 1_000} seconds and run it again`,
      cause: error,
    })
  if (error.code === 'ERR_BRIDGE_FORMAT')
    return new OperatorError(error.message, {
      reason: 'format',
      field: '--prefix',
      value: prefix,
      hint: 'Run the version of aedes-cluster that wrote them, or import under another --prefix',
      cause: error,
    })
  return new OperatorError(error.message, {
    reason: 'redis',
    field: '--redis',
    value: target,
    hint: again,
    cause: error,
  })
}

/** One line that is written over on a terminal; otherwise a line every second. */
function progress(
  dryRun: boolean,
): ((counts: Readonly<ImportCounts>) => void) & {
  readonly done: () => void
  readonly say: (line: string) => void
} {
  const terminal = process.stderr.isTTY
  let last = 0
  const show = (counts: Readonly<ImportCounts>): void => {
    const now = Date.now()
    if (now - last < (terminal ? 100 : 1_000)) return
    last = now
    process.stderr.write(terminal ? `\r${line(counts, dryRun)}   ` : `${line(counts, dryRun)}\n`)
  }
  const done = (): void => {
    if (terminal && last > 0) process.stderr.write('\n')
  }
  return Object.assign(show, {
    done,
    say: (text: string) => {
      done()
      process.stderr.write(`${text}\n`)
    },
  })
}
