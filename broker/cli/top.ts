// `aedes-cluster top` and `queues`: who is busy, who is slow, and for whom most waits. `top` asks again and again, and each
// time the nodes count while it waits. No state.
import {
  columns,
  countOf,
  print,
  printJson,
  sayUnanswered,
  type Operation,
  type Unanswered,
} from './admin-client.ts'

interface Busy {
  readonly name: string
  readonly tenant?: string
  readonly messagesPerSecond: number
  readonly bytesPerSecond: number
}

interface Top extends Unanswered {
  readonly nodes: readonly {
    readonly node: string
    readonly receivedPerSecond: number
    readonly receivedBytesPerSecond: number
    readonly sentPerSecond: number
    readonly sentBytesPerSecond: number
  }[]
  readonly topics: readonly Busy[]
  readonly publishers: readonly Busy[]
  readonly receivers: readonly Busy[]
  readonly slow: readonly {
    readonly node: string
    readonly clientId: string
    readonly tenant?: string
    readonly waitingBytes: number
  }[]
}

const kibibytes = (bytes: number): string => (bytes / 1_024).toFixed(1)
const rate = (perSecond: number): string => perSecond.toFixed(perSecond < 10 ? 1 : 0)

/** Nothing where there are no tenants. */
const tenantColumn = (rows: readonly { readonly tenant?: string }[], text: string): readonly string[] =>
  rows.some(({ tenant }) => tenant !== undefined) ? [text] : []

const busyRows = (what: string, busy: readonly Busy[]): string =>
  busy.length === 0
    ? ''
    : `\n${columns([
        [what, ...tenantColumn(busy, 'TENANT'), 'MESSAGES/S', 'KIB/S'],
        ...busy.map(({ name, tenant = '-', messagesPerSecond, bytesPerSecond }) => [
          name,
          ...tenantColumn(busy, tenant),
          rate(messagesPerSecond),
          kibibytes(bytesPerSecond),
        ]),
      ])}`

function topText({ nodes, topics, publishers, receivers, slow }: Top): string {
  const rows = nodes.map((one) => [
    one.node,
    rate(one.receivedPerSecond),
    kibibytes(one.receivedBytesPerSecond),
    rate(one.sentPerSecond),
    kibibytes(one.sentBytesPerSecond),
  ])
  const slowRows = slow.map(({ clientId, tenant = '-', node, waitingBytes }) => [
    clientId,
    ...tenantColumn(slow, tenant),
    node,
    kibibytes(waitingBytes),
  ])
  return (
    columns([['NODE', 'PUBLISHED/S', 'KIB/S IN', 'SENT/S', 'KIB/S OUT'], ...rows]) +
    busyRows('TOPIC', topics) +
    busyRows('PUBLISHER', publishers) +
    busyRows('RECEIVER', receivers) +
    (slow.length === 0
      ? ''
      : `\n${columns([['DOES NOT READ', ...tenantColumn(slow, 'TENANT'), 'NODE', 'KIB WAITING'], ...slowRows])}`)
  )
}

/** The terminal from its beginning. */
const fromTheTop = '\x1b[H\x1b[2J'

export const topOperation: Operation = {
  words: [],
  flags: {
    seconds: { shape: 's', about: 'how long each round counts [2]' },
    rounds: { shape: 'count', about: 'how often; without it until it is ended' },
    limit: { shape: 'count', about: 'how many of each kind [10]' },
  },
  about: 'live: rates of the nodes, busiest topics and clients, and who does not read what it is sent',
  run: async (api, _words, { seconds, rounds, limit }) => {
    const query = { seconds: countOf(seconds, '--seconds', 2), limit: countOf(limit, '--limit', 10) }
    const last = rounds === undefined ? Infinity : countOf(rounds, '--rounds', 1)
    for (let round = 0; round < last; round++) {
      const top = await api.get<Top>('/top', query)
      if (api.isJson) print(`${JSON.stringify(top)}\n`)
      else print(`${process.stdout.isTTY ? fromTheTop : round === 0 ? '' : '\n'}${topText(top)}`)
      sayUnanswered(top)
    }
  },
}

export const queuesOperation: Operation = {
  words: [],
  flags: { limit: { shape: 'count', about: 'how many at most [20]' } },
  about: 'sessions for which most messages wait',
  run: async (api, _words, { limit }) => {
    const all = await api.get<{
      queues: readonly {
        clientId: string
        tenant?: string
        isOwned: boolean
        messages: number
        bytes: number
      }[]
      lookedAt: number
      isCut: boolean
    }>('/queues', { limit: countOf(limit, '--limit', 20) })
    if (api.isJson) return printJson(all)
    print(
      columns([
        ['CLIENT', ...tenantColumn(all.queues, 'TENANT'), 'CONNECTED', 'MESSAGES', 'KIB'],
        ...all.queues.map(({ clientId, tenant = '-', isOwned, messages, bytes }) => [
          clientId,
          ...tenantColumn(all.queues, tenant),
          isOwned ? 'yes' : 'no',
          messages,
          kibibytes(bytes),
        ]),
      ]),
    )
    if (all.isCut)
      process.stderr.write(`aedes-cluster: only the first ${all.lookedAt} sessions were looked at\n`)
  },
}
