// What `aedes-cluster --help` prints, made from the option tables; `aedes-cluster help node` prints one
// command's part.
import type { z } from 'zod'
import { environmentNameOf, flagOf, options } from '../config/config.ts'
import { accessFlags } from './access-command.ts'
import { backupAbout, backupFlags, restoreAbout, restoreFlags } from './backup-command.ts'
import { bansAbout, bansFlags } from './bans-command.ts'
import { adminFlags } from './admin-client.ts'
import { importAbout, importFlags } from './import-command.ts'
import { operationNames, operations } from './operate.ts'
import { passwdAbout, passwdFlags } from './passwd.ts'
import { upOptions } from './up.ts'

function defaultOf(schema: z.ZodType): string {
  const value = schema.safeParse(undefined).data
  return typeof value === 'string' || typeof value === 'number' || Array.isArray(value)
    ? ` [${value.toString()}]`
    : ''
}

const row = (flag: string, about: string): string => `  ${flag.padEnd(30)} ${about}\n`

const nodeRows = (): string =>
  row('--config file', 'YAML file with these options (AEDES_CLUSTER_CONFIG)') +
  Object.entries(options)
    .map(([name, { about, schema, shape }]) =>
      row(`${flagOf(name)} ${shape}`, about + (name === 'id' ? '' : defaultOf(schema))),
    )
    .join('')

const upText = (): string => `aedes-cluster up      a local cluster: several nodes and a Redis of its own
${Object.entries(upOptions)
  .map(([name, { about, schema }]) => row(flagOf(name), about + defaultOf(schema)))
  .join('')}`
const nodeHead =
  'aedes-cluster node    one node in the foreground; SIGTERM and SIGINT drain it and end it, SIGHUP has it read its files again\n'
const checkHead = `aedes-cluster check   validate and print the configuration of a node, and try what it names: ports, Redis, its version and
                      replicas, whether the name is free; --offline does not try ports and Redis
`
const importText =
  (): string => `aedes-cluster import  move an installation of Aedes + aedes-persistence-redis into the cluster; may be run again
${Object.entries(importFlags)
  .map(([name, { about, shape }]) => row(`${flagOf(name)} ${shape}`, about))
  .join('')}${importAbout}`
const backupText = (): string => `aedes-cluster backup FILE   what is durable of a cluster, into a file
${Object.entries(backupFlags)
  .map(([name, { about, shape }]) => row(`${flagOf(name)} ${shape}`, about))
  .join('')}${backupAbout}`
const restoreText = (): string => `aedes-cluster restore FILE  out of such a file into an empty cluster
${Object.entries(restoreFlags)
  .map(([name, { about, shape }]) => row(`${flagOf(name)} ${shape}`, about))
  .join('')}${restoreAbout}`
const passwdText =
  (): string => `aedes-cluster passwd  add, change or remove a user, of a password file or of the cluster
${Object.entries(passwdFlags)
  .map(([name, { about, shape }]) => row(`${flagOf(name)} ${shape}`, about))
  .join('')}${passwdAbout}`
const accessText =
  (): string => `aedes-cluster access explain  by which rule a client may do something, or not; takes the options of a node, too
aedes-cluster access write    the rules of --rules-file become those of the cluster (--redis), for nodes with --stored-rules on
aedes-cluster access show     prints them
aedes-cluster access remove   there are none any more: nodes with --stored-rules on deny all that their files do not allow
${Object.entries(accessFlags)
  .map(([name, { about, shape }]) => row(`${flagOf(name)} ${shape}`, about))
  .join('')}`
const bansText =
  (): string => `aedes-cluster bans    list | add | remove: who may not connect, in the whole cluster
${Object.entries(bansFlags)
  .map(([name, { about, shape }]) => row(`${flagOf(name)} ${shape}`, about))
  .join('')}${bansAbout}`
const operationText = (name: string): string => {
  const { words, flags, about } = operations[name]!
  const rows = Object.entries(flags).map(([flag, one]) =>
    row(`${flagOf(flag)} ${one.shape}`.trim(), one.about),
  )
  return `aedes-cluster ${[name, ...words].join(' ').padEnd(7)} ${about}\n${rows.join('')}`
}
const adminRows = (): string =>
  Object.entries(adminFlags)
    .map(([flag, one]) => row(`${flagOf(flag)} ${one.shape}`.trim(), one.about))
    .join('')
const operatingText = (): string =>
  `${Object.keys(operations).map(operationText).join('')}Each of these asks the admin API of a node:
${adminRows()}`
const sources = `Every option may stand in the file in its section (${flagOf('packetBytesMax')} as packetBytesMax of limits; broker/README.md
has them all) or at the top by its name (packetBytesMax), and in the environment (${environmentNameOf('packetBytesMax')}).
In the file, listeners is a list: each has its url and, for itself, tls, websocket and limits. Precedence: defaults < file <
environment < flags.
`

const topics = new Map<string, () => string>(
  Object.entries({
    up: upText,
    node: () => `${nodeHead}${nodeRows()}\n${sources}`,
    check: () => `${checkHead}${nodeRows()}\n${sources}`,
    import: importText,
    backup: backupText,
    restore: restoreText,
    passwd: passwdText,
    access: accessText,
    bans: bansText,
    ...Object.fromEntries(
      operationNames.map((first) => [
        first,
        () =>
          Object.keys(operations)
            .filter((name) => name.split(' ')[0] === first)
            .map(operationText)
            .join('') + adminRows(),
      ]),
    ),
    help: () => 'aedes-cluster help [command]\n',
    version: () => 'aedes-cluster version\n',
  }),
)

export const helpTopics: readonly string[] = [...topics.keys()]

/** Of one command, or all. */
export function helpText(topic?: string): string {
  if (topic !== undefined) return topics.get(topic)!()
  return `aedes-cluster: an MQTT broker cluster on nothing but Redis

${upText()}
${nodeHead}${checkHead}${nodeRows()}
${importText()}
${backupText()}
${restoreText()}
${passwdText()}
${accessText()}
${bansText()}
${operatingText()}
aedes-cluster help [command], -h, --help · aedes-cluster version, -v, --version

${sources}`
}
