// What `aedes-cluster --help` prints, made from the option tables.
import type { z } from 'zod'
import { environmentNameOf, flagOf, options } from '../config.ts'
import { importAbout, importFlags } from './import.ts'
import { upOptions } from './up.ts'

function defaultOf(schema: z.ZodType): string {
  const value = schema.safeParse(undefined).data
  return typeof value === 'string' || typeof value === 'number' || Array.isArray(value) ? ` [${value.toString()}]` : ''
}

export function helpText(): string {
  const row = (flag: string, about: string): string => `  ${flag.padEnd(30)} ${about}\n`
  return `aedes-cluster: an MQTT broker cluster on nothing but Redis

aedes-cluster up      a local cluster: several nodes and a Redis of its own
${Object.entries(upOptions).map(([name, { about, schema }]) => row(flagOf(name), about + defaultOf(schema))).join('')}
aedes-cluster node    one node in the foreground
aedes-cluster check   validate and print the configuration of a node; --offline does not try ports and Redis
${row('--config file', 'YAML file with these options (AEDES_CLUSTER_CONFIG)')}${Object.entries(options)
    .map(([name, { about, schema, shape }]) => row(`${flagOf(name)} ${shape}`, about + (name === 'id' ? '' : defaultOf(schema)))).join('')}
aedes-cluster import  move an installation of Aedes + aedes-persistence-redis into the cluster; may be run again
${Object.entries(importFlags).map(([name, { about, shape }]) => row(`${flagOf(name)} ${shape}`, about)).join('')}${importAbout}
Every option may stand in the file under its name (${flagOf('packetBytesMax')} as packetBytesMax) and in the environment
(${environmentNameOf('packetBytesMax')}). Precedence: defaults < file < environment < flags.
`
}
