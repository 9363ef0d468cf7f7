// `aedes-cluster trace`: what becomes of the messages of a client or of topics, step by step on all nodes, as the admin
// API tells it (observe/traces.ts has the steps). A line each; with --json as the API says it. No state.
import { usage } from '../config/sources.ts'
import { inOneLine } from '../observe/shown.ts'
import { print, type Operation } from './admin-client.ts'

interface Line {
  readonly tracing?: readonly string[]
  readonly leftOut?: number
  readonly problem?: string
  readonly over?: string
  readonly node?: string
  readonly time?: string
  readonly step?: string
  readonly [field: string]: unknown
}

/** Said by their place in the line, not by their names. */
const placed = new Set(['node', 'time', 'step', 'client', 'topic', 'why'])

const valueOf = (value: unknown): string =>
  Array.isArray(value) ? value.join(',') : typeof value === 'string' ? value : JSON.stringify(value)

function textOf(line: Line): string {
  const { tracing, leftOut, problem, over, node, time, step, client, topic, why } = line
  if (tracing !== undefined) return `following at nodes ${tracing.join(', ')}`
  if (over !== undefined) return `it ended ${over}`
  const at = node === undefined ? '' : `node ${node}: `
  if (problem !== undefined) return `${at}is missing: ${problem}`
  if (leftOut !== undefined) return `${at}${leftOut} steps were left out: there were too many`
  const rest = Object.entries(line)
    .filter(([name]) => !placed.has(name))
    .map(([name, value]) => ` ${name}=${valueOf(value)}`)
  const about = [client, topic].filter((one) => one !== undefined).map((one) => ` ${valueOf(one)}`)
  return `${String(time).slice(11, 23)} ${String(node)} ${String(step).padEnd(12)}${about.join('')}${rest.join('')}${why === undefined ? '' : `: ${valueOf(why)}`}`
}

export const traceOperation: Operation = {
  words: [],
  flags: {
    client: { shape: 'id', about: 'a client: its connection, what it publishes, what it is to get' },
    topic: { shape: 'filter', about: 'all steps of the messages that a filter matches' },
    payload: { shape: '', switch: true, about: 'with the first 256 bytes of payloads' },
    seconds: { shape: 's', about: 'when it ends [600]' },
  },
  about: 'follows a client, or the messages of topics, over all nodes, and says why one did not arrive',
  run: async (api, _words, { client, topic, payload, seconds }) => {
    if (client === undefined && topic === undefined)
      throw usage(
        'trace',
        undefined,
        'wants to be told what to follow',
        'Write --client ID, --topic FILTER, or both',
      )
    const query = { client, topic, seconds } as Record<string, string | undefined>
    const asked = { ...query, payload: payload === true ? 'true' : undefined }
    for await (const { said, line } of api.lines<Line>('/trace', asked)) {
      print(`${api.isJson ? line : inOneLine(textOf(said))}\n`)
      if (said.over !== undefined) return
    }
  },
}
