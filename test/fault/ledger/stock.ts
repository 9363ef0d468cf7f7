// The stock stack under the ledger: nodes of it on the same Redis, with the verbs that the ledger has for
// nodes of ours. A node that dies by itself is noted and started again, as whoever runs it would do. State:
// the processes, ended with the cluster.
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Child } from '../../bench/children.ts'
import type { TestStore } from '../../support/redis.ts'
import type { LedgerNode } from './round.ts'

const stockPath = fileURLToPath(
  new URL(
    `${import.meta.url.endsWith('.ts') ? '../../../dist/' : '../../../'}test/bench/stock-node.js`,
    import.meta.url,
  ),
)
const againMs = 500

class StockNode implements LedgerNode {
  readonly id: string
  readonly #redisPort: string
  readonly #onDeath: (reason: string) => void
  #child: Child | undefined
  #wanted = false
  url = ''

  constructor(id: string, redisPort: string, onDeath: (reason: string) => void) {
    this.id = id
    this.#redisPort = redisPort
    this.#onDeath = onDeath
  }

  /** What it wrote. */
  get log(): string {
    return this.#child?.output ?? ''
  }

  get running(): boolean {
    return this.#child?.running ?? false
  }

  /** After the first start it keeps its port. Resolves when it serves, at whichever attempt. */
  async start(): Promise<void> {
    this.#wanted = true
    while (this.#wanted && !this.running) await this.#spawn().catch(() => pause(againMs))
  }

  async #spawn(): Promise<void> {
    const child = (this.#child = new Child(
      `stock ${this.id}`,
      process.execPath,
      [stockPath, this.id, this.#redisPort, this.url === '' ? '0' : new URL(this.url).port],
      { ipc: true },
    ))
    let url: string | undefined
    child.process.once('message', (message: { listen: string[] }) => {
      url = message.listen[0]
    })
    child.process.once('exit', () => {
      this.#died(child).catch(() => undefined)
    })
    this.url = await child.until(() => url)
  }

  async #died(child: Child): Promise<void> {
    if (child.crash === undefined || !this.#wanted) return // we did it
    this.#onDeath(child.crash)
    await pause(againMs)
    if (child === this.#child) await this.start()
  }

  /** kill -9. */
  async kill(): Promise<void> {
    this.#wanted = false
    await this.#child?.end()
  }

  pause(): void {
    this.#child?.process.kill('SIGSTOP')
  }

  resume(): void {
    this.#child?.process.kill('SIGCONT')
  }
}

/** `await using`: all nodes serve when it resolves, all are gone when it goes. */
export async function startStock(
  nodes: number,
  redis: TestStore,
  onDeath: (reason: string) => void,
): Promise<AsyncDisposable & { nodes: readonly LedgerNode[] }> {
  const { port } = new URL(redis.url)
  const list = Array.from(
    { length: nodes },
    (_, i) => new StockNode(String.fromCharCode(97 + i), port, onDeath),
  )
  const cluster = {
    nodes: list,
    [Symbol.asyncDispose]: async () => {
      await Promise.all(list.map((node) => node.kill()))
    },
  }
  try {
    for (const node of list) await node.start()
  } catch (error) {
    await cluster[Symbol.asyncDispose]()
    throw error
  }
  return cluster
}
