// `aedes-cluster up`: the local cluster: an embedded Redis and some nodes, each a process of its own, as
// children of this one. A node or Redis that dies is started again; when this process ends, however it ends,
// its children end.
import { spawn } from 'node:child_process'
import { createServer } from 'node:net'
import { z } from 'zod'
import { whole } from '../../bridge/index.ts'
import { flagOf } from '../config/config.ts'
import { limits } from '../config/limits.ts'
import { OperatorError } from '../operator-errors.ts'
import { bind } from '../listeners/bind.ts'
import { parseArguments } from './arguments.ts'
import { startFlags } from './collector.ts'
import { refuseDataInUse, startEmbeddedRedis, type EmbeddedRedis } from './embedded-redis.ts'
import { leavingMs, NodeProcess, type Interrupt } from './node-process.ts'

const port = whole(1, 65_509) // 26 nodes count on from it

/** The options of `up`; the table in broker/README.md is checked against them. */
export const upOptions = {
  nodes: { schema: whole(1, 26).default(3), about: 'how many nodes', hint: 'Use a number from 1 to 26' },
  port: {
    schema: port.default(1883),
    about: 'MQTT port of the first node; the next ones follow',
    hint: 'Use a port number, e.g. --port 1883',
  },
  wsPort: {
    schema: port.default(8083),
    about: 'WebSocket port of the first node',
    hint: 'Use a port number, e.g. --ws-port 8083',
  },
  adminPort: {
    schema: port.default(18083),
    about: 'admin port of the first node, always on loopback',
    hint: 'Use a port number, e.g. --admin-port 18083',
  },
  host: {
    schema: z
      .string()
      .regex(/^[\w.:%[\]-]{1,255}$/, 'is not an address')
      .default('127.0.0.1'),
    about: 'address that MQTT and WebSocket listen on',
    hint: 'Use an address of this machine, e.g. --host 0.0.0.0',
  },
  authentication: {
    schema: z.string().optional(),
    about: 'as of a node; needed where others can reach --host: `anonymous` lets everybody in',
    hint: 'Write anonymous',
  },
  workers: {
    schema: whole(1, 64).default(1),
    about: 'processes of each node, behind its ports',
    hint: 'Use a number from 1 to 64',
  },
  data: {
    schema: z.string().default('./data'),
    about: 'folder of the embedded Redis',
    hint: 'Name a folder that may be written',
  },
} as const

type UpConfig = { readonly [K in keyof typeof upOptions]: z.infer<(typeof upOptions)[K]['schema']> }

const restartMs = 1_000

/** @throws OperatorError for all that is wrong with the command line */
function readOptions(argv: readonly string[]): UpConfig {
  const { values: given, problems: found } = parseArguments(
    argv,
    Object.fromEntries(Object.keys(upOptions).map((name) => [name, {}])),
  )
  const problems = [...found]
  const config: Record<string, unknown> = {}
  for (const [name, { schema, hint }] of Object.entries(upOptions)) {
    const result = given[name] === '' ? undefined : schema.safeParse(given[name])
    if (result?.success === true) config[name] = result.data
    else {
      const problem =
        result === undefined ? 'has no value' : (result.error.issues[0]?.message ?? 'is not valid')
      problems.push(
        new OperatorError(problem, {
          reason: 'usage',
          field: flagOf(name),
          value: result && given[name],
          hint,
        }),
      )
    }
  }
  if (problems.length === 0) problems.push(...overlaps(config as UpConfig))
  OperatorError.throwAll(problems)
  return config as UpConfig
}

/**
 * The ports that the nodes take, each with the option that says where they begin and the address of its
 * listener.
 */
const portsOf = ({
  nodes,
  port,
  wsPort,
  adminPort,
  host,
}: UpConfig): { flag: string; first: number; port: number; host: string; node: string }[] =>
  (
    [
      ['--port', port, host],
      ['--ws-port', wsPort, host],
      ['--admin-port', adminPort, '127.0.0.1'],
    ] as const
  ).flatMap(([flag, first, on]) =>
    Array.from({ length: nodes }, (_, i) => ({ flag, first, port: first + i, host: on, node: nameOf(i) })),
  )

function overlaps({ nodes, port, wsPort, adminPort }: UpConfig): OperatorError[] {
  const begins = [
    ['--port', port],
    ['--ws-port', wsPort],
    ['--admin-port', adminPort],
  ] as const
  return begins.flatMap(([flag, first], i) =>
    begins
      .slice(0, i)
      .filter(([, other]) => Math.abs(first - other) < nodes)
      .map(
        ([other, at]) =>
          new OperatorError(`meets the ports of ${other} ${at}`, {
            reason: 'usage',
            field: flag,
            value: first,
            hint: `${nodes} nodes count on from each: leave ${nodes} between the two`,
          }),
      ),
  )
}

/**
 * Ports that others hold, before anything is started.
 * @throws OperatorError (reason `listen`), a line for each option
 */
async function refusePortsInUse(config: UpConfig): Promise<void> {
  const problems = new Map<string, OperatorError>()
  for (const { flag, first, port, host, node } of portsOf(config)) {
    const server = createServer()
    await bind(server, new URL(`tcp://${hostText(host)}:${port}`), flag, port).then(
      () => server.close(),
      (error: unknown) => {
        if (!(error instanceof OperatorError)) throw error
        const { cause } = error.details
        const inUse = (cause as NodeJS.ErrnoException).code === 'EADDRINUSE'
        if (!problems.has(flag))
          problems.set(
            flag,
            new OperatorError(
              inUse ? `port ${port}, for node ${node}, is in use` : `${error.problem} on ${host}`,
              {
                reason: 'listen',
                field: flag,
                value: first,
                cause,
                hint: inUse
                  ? `Another \`aedes-cluster up\` or another broker, such as Mosquitto, may be running: end it, or choose another port, e.g. ${flag} ${first + 10_000}`
                  : 'Choose an address of this machine with --host and ports that you may use',
              },
            ),
          )
      },
    )
  }
  OperatorError.throwAll([...problems.values()])
}

const nameOf = (index: number): string => String.fromCharCode(97 + index)

/** An IPv6 address stands in brackets in a URL. */
const hostText = (host: string): string => (host.includes(':') && !host.startsWith('[') ? `[${host}]` : host)

/** @throws OperatorError, ChildEnded; whatever was started is ended */
export async function up(argv: readonly string[], interrupt: Interrupt, program: string): Promise<void> {
  const config = readOptions(argv)
  await refuseDataInUse(config.data)
  await refusePortsInUse(config)
  const first = await startEmbeddedRedis(config.data, interrupt.first)
  if (first === undefined) return // ended while Redis was reading its data
  let redis = first
  let stopping = false
  const keepRedis = async (running: EmbeddedRedis): Promise<void> => {
    await running.ended
    if (stopping) return
    process.stderr.write('Redis ended; starting it again\n')
    await new Promise((resolve) => setTimeout(resolve, restartMs))
    if (stopping) return
    const again = await startEmbeddedRedis(config.data, interrupt.first)
    return again === undefined ? undefined : keepRedis((redis = again))
  }
  const nodes = Array.from({ length: config.nodes }, (_, i) => {
    const id = nameOf(i)
    const nodeArgv = [
      program,
      'node',
      '--id',
      id,
      '--redis',
      redis.url,
      '--log-level',
      'warn',
      '--workers',
      String(config.workers),
      '--listen',
      `mqtt://${hostText(config.host)}:${config.port + i}`,
      '--listen',
      `ws://${hostText(config.host)}:${config.wsPort + i}/mqtt`,
      '--admin',
      `http://127.0.0.1:${config.adminPort + i}`,
      ...(config.authentication === undefined ? [] : ['--authentication', config.authentication]),
    ]
    const start = () =>
      spawn(process.execPath, [...startFlags(), ...nodeArgv], {
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
        detached: true,
      })
    return new NodeProcess(
      id,
      start,
      {
        onEnd: (name, how, againMs) =>
          process.stderr.write(`node ${name} ended (${how}); starting it again in ${againMs / 1_000} s\n`),
        onServingAgain: (name) => process.stderr.write(`node ${name} serves again\n`),
        onKill: (name) => process.stderr.write(`node ${name} did not stop in time; it is killed\n`),
      },
      // its workers are killed before it would be
      { stopMs: limits.shutdownMs + (config.workers > 1 ? 2 : 1) * leavingMs },
    )
  })
  interrupt.onReload(() => nodes.forEach((node) => node.reload()))
  try {
    const failed = keepRedis(redis)
    const serving = await Promise.race([
      Promise.all(nodes.map((node) => node.start())),
      interrupt.first.then(() => []),
    ])
    if (serving.length > 0) {
      process.stdout.write(`aedes-cluster: ${config.nodes} nodes, one broker; data in ${config.data}\n`)
      serving.forEach(({ listen, admin = '' }, i) =>
        process.stdout.write(`  ${[nodes[i]!.name, ...listen, admin].join('  ')}\n`),
      )
      process.stdout.write('Ctrl-C stops everything.\n')
      await Promise.race([interrupt.first, failed])
    }
  } finally {
    stopping = true
    await Promise.all(nodes.map((node) => node.stop()))
    await redis.stop()
  }
}
