// `aedes-cluster node`: one node in the foreground until a signal, or until whoever started it is gone: `up`, or
// the process of which it is a worker (workers.ts).
import cluster from 'node:cluster'
import { loadConfig, options, type Config } from '../config/config.ts'
import { Node } from '../node.ts'
import { parseArguments, type Arguments, type FlagShape } from './arguments.ts'
import { tuneCollector } from './collector.ts'
import { consoleToLog } from './console-lines.ts'
import type { Interrupt, Serving } from './node-process.ts'
import { runWorkers, workerName } from './workers.ts'

/** The flags of a node: every option of config.ts and the file that may hold them. */
export const nodeFlags: Record<string, FlagShape> = {
  ...Object.fromEntries(
    Object.keys(options).map((name) => [
      name,
      'list' in options[name as keyof typeof options] ? { repeats: true } : {},
    ]),
  ),
  config: {},
}

/** A worker is told which one it is. */
const workerFlags: Record<string, FlagShape> = { ...nodeFlags, worker: {} }

/** @throws OperatorError when the node cannot start; ChildEnded when a worker cannot, which said why */
export async function node(argv: readonly string[], interrupt: Interrupt, program: string): Promise<void> {
  const { values, problems } = parseArguments(argv, cluster.isWorker ? workerFlags : nodeFlags)
  const { worker, ...given } = values
  const config = loadConfig(given, process.env, problems)
  if (cluster.isWorker)
    return serve(configOfWorker(config, given, Number(worker)), interrupt, (admin) =>
      process.send!({ admin }),
    )
  return config.workers > 1 ? runWorkers(config, argv, interrupt, program) : serve(config, interrupt)
}

/** A worker has a name of its own, and an admin endpoint for whoever started it. */
function configOfWorker(config: Config, given: Arguments['values'], index: number): Config {
  // When whoever started it is gone it ends in order, and not at once, as node:cluster has it.
  cluster.worker!.exitedAfterDisconnect = true
  const admin = config.admin === 'off' ? 'off' : 'http://127.0.0.1:0'
  return loadConfig({ ...given, id: workerName(config.id, index), workers: '1', admin }, process.env)
}

async function serve(config: Config, interrupt: Interrupt, onAdmin?: (url: string) => void): Promise<void> {
  tuneCollector()
  consoleToLog(config)
  const running = await Node.start(config, interrupt.first, undefined, onAdmin)
  if (running === undefined) return // ended before it served
  process.send?.({ listen: running.endpoints, admin: running.adminUrl } satisfies Serving)
  await interrupt.first
  await running.stop()
}
