// The commands that see a cluster and act in it, each over the admin API of any node: status, nodes, clients, client,
// disconnect, topics, groups, publish, subscribe, drain, reload, doctor; and those of retained-command.ts,
// top.ts and trace.ts. With --json each prints what the API says. No state.
import { BridgeError } from '../../bridge/index.ts'
import { loadConfig, operatorErrorOf, storeOf } from '../config/config.ts'
import { usage } from '../config/sources.ts'
import {
  AdminClient,
  columns,
  countOf,
  operands,
  print,
  printJson,
  sayUnanswered,
  type Cell,
  type Operation,
  type Unanswered,
  type Values,
} from './admin-client.ts'
import { retainedOperations } from './retained-command.ts'
import { queuesOperation, topOperation } from './top.ts'
import { traceOperation } from './trace.ts'

interface NodeRow {
  readonly node: string
  readonly version: string
  readonly uptimeSeconds: number
  readonly isReady: boolean
  readonly isDrained?: boolean
  readonly checks: Readonly<Record<string, string>>
  readonly connections: number
  readonly memoryBytes: number
  readonly loopUtilization: number
}

interface ClientRow {
  readonly clientId: string
  readonly isConnected: boolean
  readonly node?: string
  readonly tenant?: string
  readonly user?: string
  readonly address?: string
  readonly connectedSeconds?: number
}

interface Page extends Unanswered {
  readonly clients: readonly ClientRow[]
  readonly next?: string
}

const mebibytes = (bytes: number): string => `${Math.round(bytes / 1_048_576)} MiB`
const text = (value: Values[string]): string | undefined => (typeof value === 'string' ? value : undefined)

function duration(seconds: number): string {
  if (seconds < 120) return `${seconds} s`
  if (seconds < 7_200) return `${Math.floor(seconds / 60)} min`
  return seconds < 172_800 ? `${Math.floor(seconds / 3_600)} h` : `${Math.floor(seconds / 86_400)} d`
}

const nodeRows = (nodes: readonly NodeRow[]): string =>
  columns([
    ['NODE', 'READY', 'CLIENTS', 'MEMORY', 'BUSY', 'UP', 'VERSION'],
    ...nodes.map((one) => [
      one.node,
      one.isReady ? 'yes' : 'no',
      one.connections,
      mebibytes(one.memoryBytes),
      `${Math.round(100 * one.loopUtilization)} %`,
      duration(one.uptimeSeconds),
      one.version,
    ]),
  ])

const problemsOf = (nodes: readonly NodeRow[]): string =>
  nodes
    .flatMap(({ node, checks }) =>
      Object.entries(checks)
        .filter(([, state]) => state !== 'ok')
        .map(([check, state]) => `${node}: ${check}: ${state}\n`),
    )
    .join('')

/** All pages up to `max`. */
async function allClients(
  api: AdminClient,
  query: Readonly<Record<string, string | undefined>>,
  max: number,
): Promise<Page> {
  const clients: ClientRow[] = []
  const missing = new Map<string, { readonly node: string; readonly problem: string }>()
  let cursor: string | undefined
  do {
    const limit = Math.min(1_000, max - clients.length)
    const page: Page = await api.get('/clients', { ...query, limit, cursor })
    clients.push(...page.clients)
    for (const one of page.unanswered ?? []) missing.set(one.node, one)
    cursor = page.next
  } while (cursor !== undefined && clients.length < max)
  return { clients, unanswered: [...missing.values()], ...(cursor !== undefined && { next: cursor }) }
}

const stateFlag = { shape: 'connected|disconnected', about: 'only these' }

/** Whether no client is left at a node, and no session of one; or it is gone. One that does not answer may have some. */
async function isDrained(api: AdminClient, name: string, waits: () => void): Promise<boolean> {
  const { nodes, unanswered = [] } = await api.get<{ nodes: readonly NodeRow[] } & Unanswered>('/nodes')
  const one = nodes.find(({ node }) => node === name)
  if (unanswered.some(({ node }) => node === name)) waits()
  // a node of an earlier version does not say it
  return one === undefined
    ? !unanswered.some(({ node }) => node === name)
    : (one.isDrained ?? one.connections === 0)
}

/** By the words that call them. */
export const operations: Readonly<Record<string, Operation>> = {
  status: {
    words: [],
    flags: {},
    about: 'whether the cluster serves, and what is wrong',
    run: async (api) => {
      const [all, store] = await Promise.all([
        api.get<{ nodes: readonly NodeRow[] } & Unanswered>('/nodes'),
        api.get<{ store: string; isStoring: boolean; problem?: string }>('/store'),
      ])
      if (api.isJson) return printJson({ ...all, store })
      const clients = all.nodes.reduce((sum, { connections }) => sum + connections, 0)
      const ready = all.nodes.filter(({ isReady }) => isReady).length
      print(
        `${ready} of ${all.nodes.length} nodes are ready, ${clients} clients are connected, ${store.store} ${store.isStoring ? 'stores' : `does not store: ${store.problem}`}\n`,
      )
      print(nodeRows(all.nodes) + problemsOf(all.nodes))
      sayUnanswered(all)
    },
  },
  nodes: {
    words: [],
    flags: {},
    about: 'the nodes of the cluster',
    run: async (api) => {
      const all = await api.get<{ nodes: readonly NodeRow[] } & Unanswered>('/nodes')
      if (api.isJson) return printJson(all)
      print(nodeRows(all.nodes) + problemsOf(all.nodes))
      sayUnanswered(all)
    },
  },
  clients: {
    words: [],
    flags: {
      client: { shape: 'id', about: 'Client Identifier; * at its end is any rest' },
      user: { shape: 'name', about: 'user; * at its end is any rest' },
      address: { shape: 'network', about: 'address or network' },
      node: { shape: 'name', about: 'of one node' },
      state: stateFlag,
      limit: { shape: 'count', about: 'how many at most [1000]' },
    },
    about: 'clients of the whole cluster, connected or with a session',
    run: async (api, _words, { client, user, address, node, state, limit }) => {
      const query = {
        client: text(client),
        user: text(user),
        address: text(address),
        node: text(node),
        state: text(state),
      }
      const page = await allClients(api, query, countOf(limit, '--limit', 1_000))
      if (api.isJson) return printJson(page)
      const hasTenants = page.clients.some((one) => one.tenant !== undefined)
      print(
        columns([
          ['CLIENT', ...(hasTenants ? ['TENANT'] : []), 'NODE', 'USER', 'ADDRESS', 'CONNECTED'],
          ...page.clients.map((one) => [
            one.clientId,
            ...(hasTenants ? [one.tenant] : []),
            one.node,
            one.user,
            one.address,
            one.isConnected ? duration(one.connectedSeconds ?? 0) : 'no',
          ]),
        ]),
      )
      if (page.next !== undefined) process.stderr.write('aedes-cluster: there are more: raise --limit\n')
      sayUnanswered(page)
    },
  },
  client: {
    words: ['ID'],
    flags: {},
    about: 'one client: connection, session, subscriptions, queue, last disconnect',
    run: async (api, [id]) => {
      const client = await api.get<ClientDetail>(`/clients/${encodeURIComponent(id!)}`)
      if (api.isJson) return printJson(client)
      print(clientText(client))
      sayUnanswered(client)
    },
  },
  disconnect: {
    words: ['ID'],
    flags: {
      endSession: {
        shape: '',
        switch: true,
        about: 'ends its session, too: queue and subscriptions are gone',
      },
    },
    about: 'ends the connection of a client; its session stays, unless it is to end',
    run: async (api, [id], { endSession }) => {
      const path = `/clients/${encodeURIComponent(id!)}`
      type Done = { nodes: readonly string[] } & Unanswered
      const done = await (endSession === true
        ? api.delete<Done>(`${path}/session`, {})
        : api.send<Done>('POST', `${path}/disconnect`))
      if (api.isJson) return printJson(done)
      if (endSession === true) print('its session has ended\n')
      print(
        done.nodes.length === 0
          ? 'it is not connected\n'
          : `it was told to go by node ${done.nodes.join(', ')}\n`,
      )
      sayUnanswered(done)
    },
  },
  topics: {
    words: ['TOPIC'],
    flags: {},
    about: 'who would get a message of a topic',
    run: async (api, [topic]) => {
      const all = await api.get<Subscribers>('/subscribers', { topic })
      if (api.isJson) return printJson(all)
      print(
        columns([
          ['WHO', 'HOW', 'QOS'],
          ...all.live.map(({ clientId, node, qos }) => [clientId, `live at node ${node}`, qos]),
          ...all.sessions.map(({ clientId, qos }) => [clientId, 'by the queue of its session', qos]),
          ...all.groups.map(({ group }) => [group, 'one member of it', '']),
        ]),
      )
      if (all.isCut) process.stderr.write('aedes-cluster: there are more than these\n')
      sayUnanswered(all)
    },
  },
  groups: {
    words: [],
    flags: { limit: { shape: 'count', about: 'how many at most [1000]' } },
    about: 'Shared Subscriptions: members by node, backlog',
    run: async (api, _words, { limit }) => {
      const all = await api.get<{ groups: readonly GroupRow[]; isCut: boolean }>('/groups', {
        limit: countOf(limit, '--limit', 1_000),
      })
      if (api.isJson) return printJson(all)
      print(
        columns([
          ['GROUP', 'MEMBERS', 'BACKLOG'],
          ...all.groups.map(({ group, members, backlog, hasBacklog }) => [
            group,
            members.map(({ nodeId, count }) => `${nodeId.split('@')[0]}:${count}`).join(' ') || 'none',
            backlog === undefined
              ? hasBacklog
                ? 'kept'
                : 'none'
              : `${backlog.messages} messages, ${backlog.bytes} bytes`,
          ]),
        ]),
      )
    },
  },
  publish: {
    words: ['TOPIC', 'PAYLOAD'],
    flags: {
      qos: { shape: '0|1|2', about: 'QoS [0]' },
      retain: { shape: '', switch: true, about: 'retains it' },
    },
    about: 'publishes a message; done when it is stored for everybody who is subscribed',
    run: async (api, [topic, payload], { qos = '0', retain = false }) => {
      if (!['0', '1', '2'].includes(String(qos))) throw usage('--qos', qos, 'is no QoS', 'Use 0, 1 or 2')
      const done = await api.send('POST', '/publish', { topic, payload, qos: Number(qos), retain })
      if (api.isJson) return printJson(done)
      print('published\n')
    },
  },
  subscribe: {
    words: ['FILTER'],
    flags: {},
    about: 'prints the messages that a filter matches, as they are published',
    run: async (api, [filter]) => {
      type Line = { topic: string; payload: string; encoding: string; dropped?: number }
      for await (const { said, line } of api.lines<Line>('/messages', { filter: filter! })) {
        if (api.isJson) print(`${line}\n`)
        else if (said.dropped !== undefined)
          process.stderr.write(`aedes-cluster: ${said.dropped} messages were left out: they came too fast\n`)
        else
          print(columns([[said.topic, said.encoding === 'utf8' ? said.payload : `base64 ${said.payload}`]]))
      }
    },
  },
  trace: traceOperation,
  top: topOperation,
  queues: queuesOperation,
  drain: {
    words: ['NODE'],
    flags: {
      rate: { shape: 'count', about: 'clients that are told to go within a second [its drainRate]' },
      wait: { shape: '', switch: true, about: 'ends when no client is left' },
    },
    about: 'a node takes no connections any more and tells its clients to go; stop it when none is left',
    run: async (api, [node], { rate, wait }) => {
      const path = `/nodes/${encodeURIComponent(node!)}/drain`
      const done = await api.send<{ clients: number } & Unanswered>('POST', path, {
        clientsPerSecond: rate === undefined ? undefined : countOf(rate, '--rate', 1),
      })
      let isSaid = false
      const waits = (): void => {
        if (!isSaid)
          process.stderr.write(`${node} does not answer: waits for it until it does, or is declared dead\n`)
        isSaid = true
      }
      while (wait === true && !(await isDrained(api, node!, waits)))
        await new Promise((next) => setTimeout(next, 500))
      if (api.isJson) return printJson(done)
      print(wait === true ? 'no client is left\n' : `${done.clients} clients are told to go\n`)
      sayUnanswered(done)
    },
  },
  reload: {
    words: [],
    flags: { node: { shape: 'name', about: 'one node alone' } },
    about: 'nodes read their options, users, rules, certificates and admin tokens again, as by SIGHUP',
    run: async (api, _words, { node }) => {
      const query = node === undefined ? '' : `?node=${encodeURIComponent(text(node)!)}`
      const done = await api.send<{ nodes: readonly ReloadedNode[] } & Unanswered>('POST', `/reload${query}`)
      if (api.isJson) return printJson(done)
      print(done.nodes.map(reloadedText).join(''))
      sayUnanswered(done)
    },
  },
  doctor: {
    words: [],
    flags: {
      repair: { shape: '', switch: true, about: 'removes from --redis what is of no session, group or node' },
      config: { shape: 'file', about: 'with --repair: configuration of a node, which names the Redis' },
      redis: { shape: 'url', about: 'with --repair: the Redis of the cluster' },
      redisPasswordFile: { shape: 'file', about: 'with --repair: file that holds its password' },
      prefix: { shape: 'name', about: 'with --repair: prefix of the cluster' },
    },
    about: 'what should be otherwise, on any node, and what to do',
    run: async (api, _words, { repair, config, redis, redisPasswordFile, prefix }) => {
      if (repair === true) return repaired(api.isJson, { config, redis, redisPasswordFile, prefix })
      const all = await api.get<
        { findings: readonly { node: string; what: string; todo: string }[] } & Unanswered
      >('/findings')
      if (api.isJson) return printJson(all)
      print(
        all.findings.length === 0
          ? 'nothing is wrong that could be found\n'
          : all.findings.map(({ node, what, todo }) => `${node}: ${what}\n  ${todo}\n`).join(''),
      )
      sayUnanswered(all)
    },
  },
  ...retainedOperations,
}

/** Looks through all keys, which may take a while: by a connection of its own, and not by a node. */
async function repaired(isJson: boolean, given: Values): Promise<void> {
  const config = loadConfig(
    Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as never,
    process.env,
  )
  const store = storeOf(config)
  if (store.removeOrphans === undefined)
    throw usage(
      '--redis',
      undefined,
      'is missing',
      'Name the Redis of the cluster, e.g. --redis redis://host',
    )
  const removed = await store.removeOrphans().catch((error: unknown) => {
    throw error instanceof BridgeError ? operatorErrorOf(config, store, error) : error
  })
  if (isJson) return printJson({ removed })
  print(
    removed.length === 0
      ? 'everything belongs to somebody\n'
      : removed.map((line) => `removed ${line}\n`).join(''),
  )
}

interface ReloadedNode {
  readonly node: string
  readonly options: readonly string[]
  readonly later: readonly string[]
  readonly problems: readonly string[]
}

const reloadedText = ({ node, options, later, problems }: ReloadedNode): string =>
  [
    options.length === 0 ? 'read again' : `read again; changed: ${options.join(', ')}`,
    ...(later.length === 0 ? [] : [`others by now, from its next start on: ${later.join(', ')}`]),
    ...problems.map((problem) => `as before, since it is not in order: ${problem}`),
  ]
    .map((line) => `${node}: ${line}\n`)
    .join('')

interface GroupRow {
  readonly group: string
  readonly members: readonly { readonly nodeId: string; readonly count: number }[]
  readonly hasBacklog: boolean
  readonly backlog?: { readonly messages: number; readonly bytes: number }
}

interface Subscribers extends Unanswered {
  readonly live: readonly { readonly node: string; readonly clientId?: string; readonly qos: number }[]
  readonly sessions: readonly { readonly clientId: string; readonly qos: number }[]
  readonly groups: readonly GroupRow[]
  readonly isCut: boolean
}

interface ClientDetail extends Unanswered {
  readonly clientId: string
  readonly connection?: {
    readonly node: string
    readonly user?: string
    readonly address: string
    readonly listener?: string
    readonly protocolLevel: number
    readonly connectedSeconds: number
    readonly isSlow: boolean
    readonly inFlight: number
    readonly waitingBytes: number
  }
  readonly session?: {
    readonly expirySeconds: number
    readonly endsInSeconds?: number
    readonly subscriptions: readonly { readonly filter: string; readonly qos: number }[]
    readonly subscriptionCount: number
    readonly queue: {
      readonly messages: number
      readonly bytes: number
      readonly head?: { readonly topic: string; readonly qos: number; readonly payloadBytes: number }
    }
    readonly inFlight: number
  }
  readonly lastDisconnect?: {
    readonly node: string
    readonly reason: string
    readonly secondsAgo: number
    readonly connectedSeconds: number
  }
}

function clientText({ connection, session, lastDisconnect }: ClientDetail): string {
  const rows: (readonly Cell[])[] = []
  if (connection === undefined) rows.push(['connected', 'no'])
  else
    rows.push(
      ['connected', `at node ${connection.node} for ${duration(connection.connectedSeconds)}`],
      ['from', `${connection.address} by ${connection.listener ?? 'the program'}`],
      ['user', connection.user],
      ['MQTT', { 3: '3.1', 4: '3.1.1', 5: '5' }[connection.protocolLevel]],
      ['in flight', connection.inFlight],
      ['waits for it', `${connection.waitingBytes} bytes${connection.isSlow ? ', it reads slowly' : ''}`],
    )
  if (session === undefined) rows.push(['session', 'none'])
  else {
    const { queue, expirySeconds, endsInSeconds, subscriptionCount } = session
    const life = expirySeconds < 0 ? 'for ever' : `${duration(expirySeconds)} beyond its connection`
    const end = endsInSeconds === undefined ? '' : `, ends in ${duration(endsInSeconds)}`
    rows.push(['session', life + end], ['queue', `${queue.messages} messages, ${queue.bytes} bytes`])
    if (queue.head !== undefined)
      rows.push([
        'next in it',
        `${queue.head.topic}, QoS ${queue.head.qos}, ${queue.head.payloadBytes} bytes`,
      ])
    rows.push(['subscriptions', subscriptionCount])
    for (const { filter, qos } of session.subscriptions) rows.push(['', `${filter} (QoS ${qos})`])
  }
  if (lastDisconnect !== undefined)
    rows.push([
      'last disconnect',
      `${duration(lastDisconnect.secondsAgo)} ago at node ${lastDisconnect.node}, after ${duration(lastDisconnect.connectedSeconds)}: ${lastDisconnect.reason}`,
    ])
  return columns(rows)
}

/** The first words of all. */
export const operationNames = [...new Set(Object.keys(operations).map((name) => name.split(' ')[0]!))]

/** Runs one of them. @throws OperatorError */
export async function operate(name: string, argv: readonly string[]): Promise<void> {
  const ofTwo = Object.keys(operations).filter((one) => one.startsWith(`${name} `))
  const two = ofTwo.find((one) => one === `${name} ${argv[0]}`)
  if (ofTwo.length > 0 && two === undefined)
    throw usage(name, undefined, 'wants to be told what to do', `Write one of ${ofTwo.join(', ')}`)
  if (two !== undefined) return operate(two, argv.slice(1))
  const operation = operations[name]!
  const given = operands(name, argv, operation.words, operation.flags)
  await operation.run(new AdminClient(given.values), given.words, given.values)
}
