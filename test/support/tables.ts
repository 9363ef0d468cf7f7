// The tables in the READMEs, made from the code. `test/tidy.test.ts` compares them;
// UPDATE_TABLES=1 npx vitest run test/tidy.test.ts writes them.
import { readFileSync, writeFileSync } from 'node:fs'
import type { z } from 'zod'
import { channelTable } from '../../bridge/diagnostics.ts'
import { bridgeErrors } from '../../bridge/errors.ts'
import type { Option } from '../../bridge/option.ts'
import { keyTable } from '../../bridge/redis/keys.ts'
import { scriptTable } from '../../bridge/redis/scripts.ts'
import { upOptions } from '../../broker/cli/up.ts'
import { environmentNameOf, flagOf, options } from '../../broker/config/config.ts'
import { exitCodes } from '../../broker/errors.ts'
import { Metrics } from '../../broker/observe/metrics.ts'
import { mqtt311, mqtt5, type Statement } from '../conformance/statements.ts'

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => '---'), ...rows]
    .map((row) => `| ${row.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`)
    .join('\n')

function defaultOf(name: string, schema: z.ZodType): string {
  const value = schema.safeParse(undefined).data
  if (name === 'id') return 'host name'
  return typeof value === 'string' || typeof value === 'number' || Array.isArray(value)
    ? `\`${value.toString()}\``
    : ''
}

async function metricRows(): Promise<string[][]> {
  const metrics = await new Metrics().registry.getMetricsAsJSON()
  return metrics
    .filter(({ name }) => name.startsWith('aedes_cluster_'))
    .map(({ name, type, help }) => [`\`${name}\``, String(type), help])
}

function statementRow(standard: string, statements: readonly Statement[]): string[] {
  const hold = statements.filter(({ state }) => state === 'holds')
  const departing = statements.flatMap(({ id, says, state }) =>
    typeof state === 'object' && 'departs' in state ? [`${id}: ${says}. ${state.departs}`] : [],
  )
  return [
    standard,
    String(statements.length),
    String(hold.length),
    String(statements.length - hold.length - departing.length),
    departing.join('; ') || 'none',
  ]
}

/** The keys of a script by noun, as its head names them. */
export interface ScriptHead {
  /** Given by the caller, in order. */
  readonly keys: readonly string[]
  /** Names that the script makes from its arguments. */
  readonly made: readonly string[]
  readonly writes: readonly string[]
}

export const scriptSource = (name: string): string => readFileSync(`bridge/redis/lua/${name}.lua`, 'utf8')

export function headOf(name: string): ScriptHead {
  const source = scriptSource(name)
  const list = (part: string): string[] => {
    const words = new RegExp(`^-- ${part} +(.*)$`, 'm').exec(source)?.[1]?.split(' ') ?? []
    return words.map((word) => word.replace(/\(.*\)$/, '')).filter((word) => word !== 'none')
  }
  return { keys: list('KEYS'), made: list('MADE'), writes: list('WRITES') }
}

/** What a script reads and does not write. */
const onlyRead = ({ keys, made, writes }: ScriptHead): string[] =>
  [...new Set([...keys, ...made])].filter((noun) => !writes.includes(noun))

/** The noun at the end of a key of the key table. */
export const nounOf = (key: string): string => /\}:([a-z]+)/.exec(key)![1]!

/** Keys that are written by a command alone, without a script, and by which file. */
export const plainWrites: Readonly<Record<string, readonly string[]>> = {
  'bridge/groups/groups.ts': ['calls'],
  'bridge/import/import.ts': ['due', 'owners', 'session', 'subscriptions', 'inflight', 'imported'],
  'bridge/membership/audit.ts': ['appended'],
  'bridge/membership/membership.ts': ['stream', 'senders', 'state', 'dead'],
  'bridge/sessions/releases.ts': ['appended'],
  'bridge/sessions/sweep.ts': ['due', 'published'],
}

function writersOf(noun: string): string {
  const scripts = Object.keys(scriptTable).filter((name) => headOf(name).writes.includes(noun))
  const files = Object.keys(plainWrites).filter((file) => plainWrites[file]!.includes(noun))
  return [...scripts, ...files.map((file) => file.replace('bridge/', ''))]
    .map((name) => `\`${name}\``)
    .join(' ')
}

/** Every table by its name: the file it stands in and its text. */
export async function tables(): Promise<Record<string, { file: string; text: string }>> {
  return {
    statements: {
      file: 'README.md',
      text: table(
        [
          'standard',
          'statements',
          'hold, each with a test',
          'of clients, or of servers that lack something',
          'depart',
        ],
        [statementRow('MQTT 5.0', mqtt5), statementRow('MQTT 3.1.1', mqtt311)],
      ),
    },
    options: {
      file: 'broker/README.md',
      text: table(
        ['file', 'flag', 'environment', 'default', 'meaning'],
        Object.entries<Option>(options).map(([name, { schema, about, shape, at, ofListener }]) => [
          `\`${at ?? name}\`${ofListener === true ? ' *' : ''}`,
          `\`${flagOf(name)} ${shape}\``,
          `\`${environmentNameOf(name)}\``,
          defaultOf(name, schema),
          about,
        ]),
      ),
    },
    up: {
      file: 'broker/README.md',
      text: table(
        ['flag of `up`', 'default', 'meaning'],
        Object.entries(upOptions).map(([name, { schema, about }]) => [
          `\`${flagOf(name)}\``,
          defaultOf(name, schema),
          about,
        ]),
      ),
    },
    'exit-codes': {
      file: 'broker/README.md',
      text: table(
        ['exit code', 'reason', 'meaning'],
        Object.entries(exitCodes).map(([name, { code, meaning }]) => [String(code), `\`${name}\``, meaning]),
      ),
    },
    metrics: { file: 'broker/README.md', text: table(['metric', 'type', 'meaning'], await metricRows()) },
    errors: {
      file: 'bridge/README.md',
      text: table(
        ['code', 'retryable', 'meaning'],
        Object.entries(bridgeErrors).map(([code, { retryable, meaning }]) => [
          `\`${code}\``,
          retryable ? 'yes' : 'no',
          meaning,
        ]),
      ),
    },
    keys: {
      file: 'bridge/README.md',
      text: table(
        ['key, after `<prefix>:`', 'type', 'meaning', 'written by'],
        Object.values(keyTable).map(({ key, type, meaning }) => [
          `\`${key}\``,
          type,
          meaning,
          writersOf(nounOf(key)),
        ]),
      ),
    },
    scripts: {
      file: 'bridge/README.md',
      text: table(
        ['script', 'meaning', 'only reads', 'writes'],
        Object.entries(scriptTable).map(([name, { meaning }]) => [
          `\`lua/${name}.lua\``,
          meaning,
          onlyRead(headOf(name)).join(' '),
          headOf(name).writes.join(' '),
        ]),
      ),
    },
    channels: {
      file: 'bridge/README.md',
      text: table(
        ['channel', 'message', 'meaning'],
        Object.entries(channelTable).map(([name, { message, meaning }]) => [
          `\`aedes-cluster:${name}\``,
          `\`${message}\``,
          meaning,
        ]),
      ),
    },
  }
}

const mark = (name: string): [string, string] => [`<!-- table:${name} -->\n`, `\n<!-- /table:${name} -->`]

/** The table `name` as it stands in `file`; undefined when its marks are missing. */
export function tableIn(file: string, name: string): string | undefined {
  const text = readFileSync(file, 'utf8')
  const [open, close] = mark(name)
  const start = text.indexOf(open)
  const end = text.indexOf(close)
  return start < 0 || end < 0 ? undefined : text.slice(start + open.length, end)
}

export function writeTable(file: string, name: string, table: string): void {
  const old = tableIn(file, name)
  const [open, close] = mark(name)
  if (old !== undefined)
    writeFileSync(
      file,
      readFileSync(file, 'utf8').replace(open + old + close, () => open + table + close),
    )
}
