// `aedes-cluster node --workers N`: N processes behind the same listening addresses, so that one machine's
// cores are used. This process only accepts connections and hands each to the next worker (node:cluster); a
// worker is a node of the cluster like any other, named `<id>-1` to `<id>-<N>`. One that dies is started
// again, and the others serve meanwhile. All stop together, and who does not is killed; when this process is killed
// they stop by themselves. The admin endpoint answers for all of them (admin/of-workers.ts).
import cluster from 'node:cluster'
import { AdminOfWorkers } from '../admin/of-workers.ts'
import { openAdmin } from '../admin/open.ts'
import type { AdminServer } from '../admin/server.ts'
import type { Config } from '../config/config.ts'
import { Log } from '../observe/log.ts'
import { startFlags } from './collector.ts'
import type { ServiceManager } from './service-manager.ts'
import { leavingMs, NodeProcess, type Interrupt, type Serving } from './node-process.ts'

export const workerName = (id: string, index: number): string => `${id}-${index}`

/**
 * Runs until `interrupt`, and tells whoever started this process when all workers serve.
 * @param argv of `node`
 * @param program what this process runs
 * @throws ChildEnded when a worker ends before it served for the first time; it said why itself
 */
export async function runWorkers(
  config: Config,
  argv: readonly string[],
  interrupt: Interrupt,
  program: string,
  manager: ServiceManager,
): Promise<void> {
  const log = new Log(config)
  const admin = new AdminOfWorkers(config)
  const stopMs = config.shutdownMs + leavingMs
  const workers = Array.from({ length: config.workers }, (_, i) => {
    const name = workerName(config.id, i + 1)
    const fork = () => {
      cluster.setupPrimary({
        exec: program,
        args: ['node', ...argv, '--worker', String(i + 1)],
        execArgv: [...startFlags()],
      })
      const worker = cluster.fork()
      worker.on('error', () => undefined) // its process says the same
      return worker.process
    }
    return new NodeProcess(
      name,
      fork,
      {
        onStart: (child) => admin.follow(name, child),
        onEnd: (worker, how, againMs) => log.event('worker-ended', { worker, how, againMs }),
        onServingAgain: (worker) => log.event('worker-back', { worker }),
        onKill: (worker) => log.event('worker-killed', { worker, stopMs }),
      },
      { stopMs },
    )
  })
  const opened: { server?: AdminServer | undefined } = {}
  interrupt.onReload(() => {
    workers.forEach((worker) => worker.reload())
    try {
      admin.readTokens()
      opened.server?.renew()
    } catch (error) {
      log.event('reload-failed', { what: 'admin endpoint', problem: (error as Error).message })
    }
  })
  const server = (opened.server = await openAdmin(config, admin, log))
  try {
    const startAll = async (): Promise<Serving> => {
      const first = await workers[0]!.start() // what is wrong with all of them is said once
      await Promise.all(workers.slice(1).map((worker) => worker.start()))
      return first
    }
    const serving = await Promise.race([startAll(), interrupt.first])
    if (serving === undefined) return
    log.event('workers-serve', { workers: workers.length, listen: serving.listen, admin: server?.url })
    process.send?.({ listen: serving.listen, admin: server?.url } satisfies Serving) // to `up`
    manager.ready()
    await interrupt.first
    void manager.stopping()
  } finally {
    await Promise.all(workers.map((worker) => worker.stop()))
    await server?.close()
    await log.close()
  }
}
