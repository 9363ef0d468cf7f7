// `aedes-cluster import`: moves an installation of Aedes + aedes-persistence-redis into the cluster. The old
// one must be stopped, since what it does meanwhile may be missed; the cluster may run. Run again it moves
// what is not there yet. `import --mosquitto FILE` prints a mosquitto.conf as our configuration instead.
import type { IPublishPacket } from 'mqtt-packet'
import {
  BridgeError,
  diagnostics,
  importSource,
  importTargets,
  type ImportCounts,
  type Option,
  type Store,
  type WaitReport,
} from '../../bridge/index.ts'
import {
  flagOf,
  loadConfig,
  operatorErrorOf,
  options,
  storeOf,
  valueOf,
  yamlOf,
  type Config,
} from '../config/config.ts'
import { readMosquitto } from '../config/mosquitto-conf.ts'
import { readText, usage } from '../config/sources.ts'
import { messageOfPacket } from '../aedes/aedes-packets.ts'
import { OperatorError } from '../operator-errors.ts'
import { waitedText, waitingText } from '../observe/cluster-events.ts'
import type { Interrupt } from './node-process.ts'
import { parseArguments, type FlagShape } from './arguments.ts'

/** The flags of `import`, as the help shows them. */
export const importFlags: Record<string, FlagShape & { readonly shape: string; readonly about: string }> = {
  ...importSource.options,
  ...Object.fromEntries(
    Object.entries(importTargets).map(([name, about]) => [
      name,
      { shape: options[name as keyof typeof importTargets].shape, about },
    ]),
  ),
  queueMessagesMax: {
    shape: 'count',
    about: 'as on the nodes: of longer queues the oldest messages are dropped',
  },
  mosquitto: {
    shape: 'file',
    about:
      'prints a mosquitto.conf as the configuration of a node, and says what could not be taken over; moves nothing',
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

/** The value of an option that says where the old installation stands; what is wrong is among the problems then. */
function sourceValue(
  name: keyof typeof importSource.options,
  value: unknown,
  problems: OperatorError[],
): string {
  const option: Option = importSource.options[name]
  const field = flagOf(name)
  if (problems.some(({ details }) => details.field === field)) return '' // said already
  if (value === undefined && !option.schema.safeParse(undefined).success)
    problems.push(usage(field, undefined, 'is missing', option.hint))
  else {
    const given = value === undefined ? undefined : { value, source: field }
    return valueOf(option, given, problems) as string
  }
  return ''
}

const targetMissing = [
  'is missing',
  { reason: 'usage', field: '--redis', value: undefined, hint: importSource.targetHint },
] as const

/** @throws OperatorError for each of the two that does not answer */
async function refuseWhoIsAway(config: Config, store: Store, from: string): Promise<void> {
  const asked = async (
    ping: Promise<unknown>,
    told: (error: BridgeError) => OperatorError,
  ): Promise<void> => {
    try {
      await ping
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error
      away.push(told(error))
    }
  }
  const away: OperatorError[] = []
  const { printed } = importSource.options.from
  await Promise.all([
    asked(
      importSource.ping(from),
      (error) =>
        new OperatorError(error.message, {
          reason: 'store',
          field: '--from',
          value: printed(from),
          hint: importSource.awayHint,
          cause: error,
        }),
    ),
    asked(store.ping(), (error) => operatorErrorOf(config, store, error)),
  ])
  OperatorError.throwAll(away)
}

/**
 * @throws OperatorError when an option is wrong, a Redis cannot be reached, or it is ended before it is done
 */
export async function importCommand(argv: readonly string[], interrupt: Interrupt): Promise<void> {
  const { values, problems } = parseArguments(argv, importFlags)
  const { dryRun, from, fromPrefix, mosquitto, ...flags } = values
  if (mosquitto !== undefined) return showMosquitto(mosquitto as string, [...Object.keys(values)], problems)
  const found = [...problems]
  const source = {
    from: sourceValue('from', from, found),
    fromPrefix: sourceValue('fromPrefix', fromPrefix, found),
  }
  const config = loadConfig(flags, process.env, found)
  const store = storeOf(config)
  const { importer } = store
  if (importer === undefined) throw new OperatorError(...targetMissing)
  await refuseWhoIsAway(config, store, source.from)
  const show = progress(dryRun === true)
  const ended = new AbortController()
  void interrupt.first.then(() => ended.abort())
  const unwatch = tellWaits(show.say)
  const counts = await importer
    .run(
      {
        ...source,
        dryRun: dryRun === true,
        messageOf: (packet) => messageOfPacket(packet as unknown as IPublishPacket),
        onError: () => undefined, // whoever waits because of it says so
        onSource: sourceTeller(show.say),
        onProgress: show,
      },
      ended.signal,
    )
    .catch((error: unknown) => {
      if (!(error instanceof BridgeError)) throw error
      throw ended.signal.aborted
        ? new OperatorError('was ended before it was done', {
            reason: 'interrupted',
            field: 'import',
            value: undefined,
            hint: importSource.again,
            cause: error,
          })
        : operatorErrorOf(config, importer, error)
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

/** @throws OperatorError when it cannot be read */
function showMosquitto(path: string, given: readonly string[], found: readonly OperatorError[]): void {
  const problems = [...found]
  if (given.length > 1)
    problems.push(usage('--mosquitto', undefined, 'moves nothing', 'Leave the other options out'))
  OperatorError.throwAll(problems)
  try {
    const { config, left } = readMosquitto(path, readText(path, '--mosquitto'))
    process.stdout.write(yamlOf(config))
    for (const line of left) process.stderr.write(`not taken over: ${line}\n`)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (error instanceof OperatorError || typeof code !== 'string') throw error
    throw usage(
      '--mosquitto',
      path,
      `names a folder that cannot be read (${code})`,
      'Correct its include_dir',
    )
  }
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
