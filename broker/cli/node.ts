// `aedes-cluster node`: one node in the foreground until a signal, or until the `up` that started it is gone.
import { loadConfig, options, type Config } from '../config/config.ts'
import { Node } from '../node.ts'
import { parseArguments, type FlagShape } from './arguments.ts'
import { tuneCollector } from './collector.ts'
import { consoleToLog } from './console-lines.ts'

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

export interface Interrupt {
  /** Settles at the first SIGINT, SIGTERM or SIGHUP, or when the parent process is gone. */
  readonly first: Promise<void>
}

/**
 * The configuration that a command line, the environment and a file give.
 * @throws OperatorError for all that is wrong with them
 */
export function configOf(argv: readonly string[]): Config {
  const { values, problems } = parseArguments(argv, nodeFlags)
  return loadConfig(values, process.env, problems)
}

/** @throws OperatorError when the node cannot start */
export async function node(argv: readonly string[], interrupt: Interrupt): Promise<void> {
  tuneCollector()
  const config = configOf(argv)
  consoleToLog(config)
  const running = await Node.start(config, interrupt.first)
  if (running === undefined) return // ended before it served
  process.send?.({ listen: running.endpoints, admin: running.adminUrl }) // to `up`
  await interrupt.first
  await running.stop()
}
