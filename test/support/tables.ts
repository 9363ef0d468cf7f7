// The tables in the READMEs, made from the code. `test/tidy.test.ts` compares them; UPDATE_TABLES=1 npm test
// writes them.
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
        ['key, behind `<prefix>:`', 'type', 'meaning'],
        Object.values(keyTable).map(({ key, type, meaning }) => [`\`${key}\``, type, meaning]),
      ),
    },
    scripts: {
      file: 'bridge/README.md',
      text: table(
        ['script', 'keys', 'meaning'],
        Object.entries(scriptTable).map(([name, { keys, meaning }]) => [
          `\`lua/${name}.lua\``,
          String(keys),
          meaning,
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
