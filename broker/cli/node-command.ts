// `aedes-cluster node`: one node in the foreground until a signal, or until whoever started it is gone: `up`, or
// the process of which it is a worker (workers.ts).
import cluster from 'node:cluster'
import { loadConfig, options, type Config } from '../config/config.ts'
import { Node } from '../node.ts'
import { parseArguments, type Arguments, type FlagShape } from './arguments.ts'
import { tuneCollector } from './collector.ts'
import { consoleToLog } from './console-lines.ts'
import type { Interrupt, Serving } from './node-process.ts'
import { ServiceManager } from './service-manager.ts'
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
  if (cluster.isWorker) {
    // When whoever started it is gone it ends in order, and not at once, as node:cluster has it.
    cluster.worker!.exitedAfterDisconnect = true
    return serve(
      () => configOfWorker(config, given, Number(worker)),
      interrupt,
      new ServiceManager({}, process.pid), // its parent says it for all
      (admin) => process.send!({ admin }),
    )
  }
  const manager = new ServiceManager(process.env, process.pid)
  return config.workers > 1
    ? runWorkers(config, argv, interrupt, program, manager)
    : serve((isFirst) => (isFirst ? config : loadConfig(given, process.env)), interrupt, manager)
}

/** A worker has a name of its own, and an admin endpoint for whoever started it. */
function configOfWorker(config: Config, given: Arguments['values'], index: number): Config {
  const admin = config.admin === 'off' ? 'off' : 'http://127.0.0.1:0'
  return loadConfig({ ...given, id: workerName(config.id, index), workers: '1', admin }, process.env)
}

/** @param read gives the configuration, also when it is to be read again */
async function serve(
  read: (isFirst: boolean) => Config,
  interrupt: Interrupt,
  manager: ServiceManager,
  onAdmin?: (url: string) => void,
): Promise<void> {
  tuneCollector()
  const config = read(true)
  consoleToLog(config)
  interrupt.onReload(() => undefined) // it reads them anyway
  const running = await Node.start(config, interrupt.first, undefined, onAdmin)
  if (running === undefined) return // ended before it served
  running.source = () => read(false)
  interrupt.onReload(() => void running.reload(true))
  process.send?.({ listen: running.endpoints, admin: running.adminUrl } satisfies Serving)
  manager.ready()
  await interrupt.first
  await Promise.all([manager.stopping(), running.stop()])
}
