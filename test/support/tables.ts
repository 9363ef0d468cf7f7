// The tables in the READMEs, made from the code. `test/tidy.test.ts` compares them;
// UPDATE_TABLES=1 npx vitest run test/tidy.test.ts writes them.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import type { z } from 'zod'
import { channelTable } from '../../bridge/diagnostics.ts'
import { bridgeErrors } from '../../bridge/errors.ts'
import type { Option } from '../../bridge/option.ts'
import { keyTable } from '../../bridge/redis/keys.ts'
import { scriptTable, scriptText, type ScriptName } from '../../bridge/redis/scripts.ts'
import { schemas } from '../../broker/admin/api-schemas.ts'
import { operations } from '../../broker/cli/operate.ts'
import { upOptions } from '../../broker/cli/up.ts'
import { environmentNameOf, flagOf, options } from '../../broker/config/config.ts'
import { refusalCauses } from '../../broker/access/refusals.ts'
import { exitCodes } from '../../broker/operator-errors.ts'
import { logEvents } from '../../broker/observe/log-events.ts'
import { Metrics } from '../../broker/observe/metrics.ts'
import { dropReasons, traceSteps } from '../../broker/observe/traces.ts'
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

/** What each folder is about; the order is that of the maps. */
export const folders: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  broker: {
    cli: 'the commands, a file each',
    config: 'from files, environment and flags to options',
    listeners: 'where clients come in',
    protocol: 'the bytes of MQTT',
    aedes:
      'Aedes, the engine for CONNECT, SUBSCRIBE, UNSUBSCRIBE and Keep Alive, and all that knows its insides',
    connection: 'one client',
    routing: 'who gets a message on this node',
    groups: 'Shared Subscriptions',
    access: 'who may do what',
    embedding: 'a node in a program of your own ([EMBEDDING.md](EMBEDDING.md))',
    examples: 'small programs that embed a node, each run by a test',
    observe: 'what is told: log, metrics, $SYS',
    admin: 'probes, and the API of whoever operates the cluster',
  },
  bridge: {
    publish: 'the way of a PUBLISH out of a node',
    routes: 'which node wants a filter',
    groups: 'Shared Subscriptions',
    links: 'node to node',
    membership: 'which nodes there are, and what happens when one dies',
    sessions: 'what outlives a connection',
    retained: 'Retained Messages',
    messages: 'what travels',
    matching: 'filters and topics',
    redis: 'Redis as a store; `redis/lua/` has the scripts',
    memory: 'the store of a node without Redis',
    pace: 'time, turns and bounds',
    inspection: 'what an operator sees of sessions, routes and groups',
    control: 'what may be missed once, and what nodes ask one another',
    import: 'an installation of aedes-persistence-redis, moved over',
    backup: 'what is durable, as a file',
  },
}

/** What a file owns: how its head begins, up to where its first thought ends. */
function ownedBy(file: string): string {
  const head = /^(?:#!.*\n)?((?:\/\/.*\n)+)/.exec(readFileSync(file, 'utf8'))?.[1] ?? ''
  const text = head
    .replaceAll(/^\/\/ ?/gm, '')
    .replaceAll('\n', ' ')
    .trim()
  // A colon inside `code` ends nothing, and what is shorter says too little.
  return /^(?:`[^`]*`|[^`])*?(?:(?<=^.{25,})[.:;](?= )|$)/.exec(text)![0].replace(/[.:;]$/, '')
}

function mapOf(root: string): string {
  const files = readdirSync(root, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && /(?<!\.d)\.ts$/.test(entry.name))
    .map((entry) => `${entry.parentPath}/${entry.name}`)
    .sort()
  const rows = (inside: (file: string) => boolean): string[][] =>
    files.filter(inside).map((file) => [`\`${file.slice(root.length + 1)}\``, ownedBy(file)])
  return table(
    ['folder, file', 'what it owns'],
    [
      ...rows((file) => file.split('/').length === 2),
      ...Object.entries(folders[root]!).flatMap(([folder, about]) => [
        [`**\`${folder}/\`**`, `**${about}**`],
        ...rows((file) => file.startsWith(`${root}/${folder}/`)),
      ]),
    ],
  )
}

/** The keys of a script by noun, as its head names them. */
export interface ScriptHead {
  /** Given by the caller, in order. */
  readonly keys: readonly string[]
  /** Names that the script makes from its arguments. */
  readonly made: readonly string[]
  readonly writes: readonly string[]
}

export function headOf(name: ScriptName): ScriptHead {
  const source = scriptText(name)
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
  'bridge/backup/restore.ts': ['due', 'owners', 'session', 'subscriptions', 'inflight', 'incoming', 'wills'],
  'bridge/import/stock-import.ts': ['due', 'owners', 'session', 'subscriptions', 'inflight', 'imported'],
  'bridge/membership/audit.ts': ['appended'],
  'bridge/membership/membership.ts': ['stream', 'senders', 'state', 'dead'],
  'bridge/sessions/releases.ts': ['appended'],
  'bridge/sessions/sweep.ts': ['due', 'published'],
}

function writersOf(noun: string): string {
  const scripts = (Object.keys(scriptTable) as ScriptName[]).filter((name) =>
    headOf(name).writes.includes(noun),
  )
  const files = Object.keys(plainWrites).filter((file) => plainWrites[file]!.includes(noun))
  return [...scripts, ...files.map((file) => file.replace('bridge/', ''))]
    .map((name) => `\`${name}\``)
    .join(' ')
}

/** Every table by its name: the file it stands in and its text. */
export async function tables(): Promise<Record<string, { file: string; text: string }>> {
  return {
    broker: { file: 'broker/README.md', text: mapOf('broker') },
    bridge: { file: 'bridge/README.md', text: mapOf('bridge') },
    statements: {
      file: 'README.md',
      text: table(
        ['standard', 'statements', 'hold, each with a test', 'not about this broker', 'depart'],
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
        Object.entries(exitCodes)
          .sort(([, a], [, b]) => a.code - b.code)
          .map(([name, { code, meaning }]) => [String(code), `\`${name}\``, meaning]),
      ),
    },
    refusals: {
      file: 'broker/README.md',
      text: table(
        ['cause', 'refused', 'bound', 'found in', 'a client of MQTT 5 gets', 'of 3.1.1'],
        Object.entries(refusalCauses).map(([cause, { what, bound, checkedIn, v5, v311 }]) => [
          `\`${cause}\``,
          what,
          bound,
          [checkedIn]
            .flat()
            .map((path) => `\`${path}\``)
            .join(', '),
          v5,
          v311,
        ]),
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
    api: {
      file: 'broker/README.md',
      text: table(
        ['below `/api/v1`', 'role', 'what it does'],
        Object.values(schemas).map(({ at, summary }) => [
          `\`${at}\``,
          at.startsWith('GET ') ? 'read' : 'write',
          summary,
        ]),
      ),
    },
    commands: {
      file: 'broker/README.md',
      text: table(
        ['command', 'what it does', 'options of its own'],
        Object.entries(operations).map(([name, { words, about, flags }]) => [
          `\`aedes-cluster ${[name, ...words].join(' ')}\``,
          about,
          Object.keys(flags)
            .map((flag) => `\`${flagOf(flag)}\``)
            .join(' '),
        ]),
      ),
    },
    'log-events': {
      file: 'broker/observe/EVENTS.md',
      text: table(
        ['event', 'level', 'fields', 'a minute', 'says'],
        Object.entries(logEvents).map(([name, one]) => [
          `\`${name}\``,
          one.level,
          one.fields.map((field) => `\`${field}\``).join(' '),
          'perMinute' in one ? 'a line' : '',
          one.message,
        ]),
      ),
    },
    'trace-steps': {
      file: 'broker/observe/EVENTS.md',
      text: table(
        ['step', 'meaning'],
        Object.entries(traceSteps).map(([step, meaning]) => [`\`${step}\``, meaning]),
      ),
    },
    'trace-causes': {
      file: 'broker/observe/EVENTS.md',
      text: table(
        ['cause', 'why'],
        Object.entries(dropReasons).map(([cause, why]) => [`\`${cause}\``, why]),
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
        (Object.keys(scriptTable) as ScriptName[]).map((name) => [
          `\`lua/${name}.lua\``,
          scriptTable[name].meaning,
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

/** The table `name` as it stands in `file`; undefined when its marks are missing, or there twice. */
export function tableIn(file: string, name: string): string | undefined {
  const text = readFileSync(file, 'utf8')
  const [open, close] = mark(name)
  const start = text.indexOf(open)
  const end = text.indexOf(close)
  // twice, as a merge of two branches leaves it: neither is the one
  const isOnce = start >= 0 && end >= 0 && !text.includes(open, start + 1)
  return isOnce ? text.slice(start + open.length, end) : undefined
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
