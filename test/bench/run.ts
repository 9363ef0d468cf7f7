// One run: a fresh system, a load process, one answer. Whatever happens, it comes back with a result and
// leaves nothing running: a broker that dies is `crashed`, a load process that does not come to an end is
// `stalled` and is ended.
import { fileURLToPath } from 'node:url'
import { Child } from './children.ts'
import { identities, type Identities } from './identities.ts'
import type { LoadAnswer, LoadOrder, NodeAnswer, NodeOrder, Pattern } from './patterns.ts'
import { Running, type Fsync, type System } from './systems.ts'

export interface RunSettings {
  readonly payloadBytes: number
  readonly warmMs: number
  readonly windowMs: number
  readonly fsync: Fsync
  /** A folder of our own for data; each run has one inside it. */
  readonly folder: string
}

export interface RunResult extends Partial<Omit<LoadAnswer, 'status' | 'detail'>> {
  readonly system: string
  readonly pattern: string
  readonly round: number
  readonly status: LoadAnswer['status'] | 'crashed' | 'failed'
  readonly detail?: string
}

const loadPath = fileURLToPath(new URL('./load.js', import.meta.url))
/** Beyond its windows: connecting 20,000 clients twice, settling. */
const patienceMs = 180_000
/** Time for a dying broker's exit to be seen after its connections were. */
const autopsyMs = 500

/** Does what the load process asks for; an answer that is not given ends the run by its time. */
async function obey(running: Running, { order, node }: NodeOrder, asked: number): Promise<NodeAnswer> {
  const begun = performance.now()
  if (order === 'asked') return { port: 0, pid: 0, seconds: 0, asked }
  if (order === 'kill') await running.killNode(node)
  else await running.startNode(node)
  const { child, port } = running.nodes[node]!
  return { port, pid: child.pid, seconds: (performance.now() - begun) / 1000 }
}

async function load(
  running: Running,
  order: LoadOrder,
  asked: () => number,
): Promise<LoadAnswer | { status: 'stalled' | 'failed'; detail: string }> {
  const child = new Child('load', process.execPath, [loadPath], { ipc: true })
  let timer: NodeJS.Timeout | undefined
  try {
    return await new Promise((resolve) => {
      timer = setTimeout(
        () => resolve({ status: 'stalled', detail: 'the run did not come to an end' }),
        8 * order.warmMs + 6 * order.windowMs + patienceMs,
      )
      child.process.on('message', (message: LoadAnswer | NodeOrder) => {
        if (!('order' in message)) return resolve(message)
        obey(running, message, asked()).then(
          (answer) => {
            if (child.running) child.process.send(answer)
          },
          (error: unknown) => resolve({ status: 'failed', detail: (error as Error).message }),
        )
      })
      child.process.once('exit', () =>
        resolve({ status: 'failed', detail: `the load process ended: ${child.output.slice(-300)}` }),
      )
      child.process.send(order)
    })
  } finally {
    clearTimeout(timer)
    await child.end()
  }
}

async function attempt(
  system: System,
  pattern: Pattern,
  round: number,
  settings: RunSettings,
): Promise<RunResult> {
  const about = { system: system.name, pattern: pattern.name, round }
  const { payloadBytes, warmMs, windowMs } = settings
  let brought: Identities | undefined
  try {
    await using running = await Running.start(
      system,
      `${settings.folder}/${system.name}`,
      settings.fsync,
      pattern.nodes,
      async (folder, redisPort) => {
        if (pattern.kind !== 'logins') return []
        brought = await identities(pattern.link, pattern.count + 2, folder, redisPort)
        return brought.flags
      },
    )
    const order: LoadOrder = {
      pattern,
      payloadBytes: pattern.payloadBytes ?? payloadBytes,
      warmMs,
      windowMs,
      ports: running.nodes.map(({ port }) => port),
      brokerPids: running.nodes.flatMap(({ child, workers = [] }) => [child.pid, ...workers]),
      redisPid: running.redis?.child.pid,
      redisPort: running.redis?.port,
      proofs: brought?.proofs,
    }
    const answer = await load(running, order, () => brought?.asked ?? 0)
    if (answer.status === 'disconnected') await new Promise((resolve) => setTimeout(resolve, autopsyMs))
    const { crash } = running
    return { ...about, ...answer, ...(crash !== undefined && { status: 'crashed' as const, detail: crash }) }
  } catch (error) {
    return { ...about, status: 'failed', detail: (error as Error).message }
  } finally {
    await brought?.[Symbol.asyncDispose]()
  }
}

/**
 * A system that dies before the first message (stock does at times: a race of its Redis connections) gets a
 * second chance, and it shows.
 */
export async function run(
  system: System,
  pattern: Pattern,
  round: number,
  settings: RunSettings,
): Promise<RunResult> {
  const first = await attempt(system, pattern, round, settings)
  if (!['crashed', 'failed'].includes(first.status) || (first.sent ?? 0) > 0) return first
  const second = await attempt(system, pattern, round, settings)
  return {
    ...second,
    detail:
      `${second.detail ?? ''} (at the second attempt; the first: ${first.detail ?? first.status})`.trim(),
  }
}

/** Patterns across nodes need two; some are for some systems only. */
export const takesPart = (system: System, pattern: Pattern): boolean =>
  (!pattern.across || system.nodes > 1) && (pattern.systems?.includes(system.name.split('@')[0]!) ?? true)
