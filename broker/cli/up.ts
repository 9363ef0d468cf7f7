// `aedes-cluster up`: the local cluster: an embedded Redis and some nodes, each a process of its own, as
// children of this one. A node or Redis that dies is started again; when this process ends, however it ends,
// its children end.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { z } from 'zod'
import { whole } from '../../bridge/index.ts'
import { flagOf } from '../config/config.ts'
import { OperatorError } from '../errors.ts'
import { bind } from '../listeners/bind.ts'
import { parseArguments } from './arguments.ts'
import { startFlags } from './collector.ts'
import { refuseDataInUse, startEmbeddedRedis, type EmbeddedRedis } from './embedded-redis.ts'
import type { Interrupt } from './node.ts'

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

/** A child node: started, watched, started again when it dies, until `stop`. */
class NodeProcess {
  readonly id: string
  readonly #argv: readonly string[]
  #child: ChildProcess | undefined
  #stopping = false

  constructor(id: string, argv: readonly string[]) {
    this.id = id
    this.#argv = argv
  }

  /**
   * Resolves to the endpoints once the node serves.
   * @throws OperatorError when it ends before that; it said why itself
   */
  async start(): Promise<string[]> {
    const child = spawn(process.execPath, [...startFlags(), ...this.#argv], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      detached: true,
    })
    this.#child = child
    const message = await new Promise<{ listen: string[]; admin?: string }>((resolve, reject) => {
      child.once('message', (value) => resolve(value as { listen: string[]; admin?: string }))
      child.once('exit', (code) => reject(new ChildEnded(code ?? 1)))
    })
    child.once('exit', (code, signal) => {
      if (!this.#stopping) void this.#again(code, signal)
    })
    return [...message.listen, ...(message.admin === undefined ? [] : [message.admin])]
  }

  async #again(code: number | null, signal: string | null): Promise<void> {
    process.stderr.write(
      `node ${this.id} ended (${signal ?? `exit code ${code ?? '?'}`}); starting it again\n`,
    )
    await new Promise((resolve) => setTimeout(resolve, restartMs))
    if (this.#stopping) return
    try {
      await this.start()
      process.stderr.write(`node ${this.id} serves again\n`)
    } catch (error) {
      if (!(error instanceof ChildEnded)) throw error
      if (!this.#stopping) await this.#again(error.code, null)
    }
  }

  async stop(): Promise<void> {
    this.#stopping = true
    const child = this.#child
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGTERM')
    await once(child, 'exit')
  }
}

/** A node ended before it served; its own one-line error stands on standard error already. */
export class ChildEnded extends Error {
  readonly code: number

  constructor(code: number) {
    super(`a node ended with exit code ${code}`)
    this.code = code
  }
}

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
    return new NodeProcess(id, [
      program,
      'node',
      '--id',
      id,
      '--redis',
      redis.url,
      '--log-level',
      'warn',
      '--listen',
      `mqtt://${hostText(config.host)}:${config.port + i}`,
      '--listen',
      `ws://${hostText(config.host)}:${config.wsPort + i}/mqtt`,
      '--admin',
      `http://127.0.0.1:${config.adminPort + i}`,
      ...(config.authentication === undefined ? [] : ['--authentication', config.authentication]),
    ])
  })
  try {
    const failed = keepRedis(redis)
    const serving = await Promise.race([
      Promise.all(nodes.map((node) => node.start())),
      interrupt.first.then(() => []),
    ])
    if (serving.length > 0) {
      process.stdout.write(`aedes-cluster: ${config.nodes} nodes, one broker; data in ${config.data}\n`)
      serving.forEach((endpoints, i) => process.stdout.write(`  ${nodes[i]!.id}  ${endpoints.join('  ')}\n`))
      process.stdout.write('Ctrl-C stops everything.\n')
      await Promise.race([interrupt.first, failed])
    }
  } finally {
    stopping = true
    await Promise.all(nodes.map((node) => node.stop()))
    await redis.stop()
  }
}
