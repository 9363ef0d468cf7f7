// A healthy client of a node, which pings all the time while a test does something else to the node, and what
// the node holds before and after: it must serve, and must not keep anything.
import { expect } from 'vitest'
import type { TestNode } from './cluster.ts'
import { descriptorsOf } from './door.ts'
import { WireClient } from './wire.ts'

const pauseMs = 20
/** What may be held more than before: caches that are bounded, code that was compiled meanwhile. */
const growthBytesMax = 24 * 1024 * 1024
const patience = { timeout: 30_000, interval: 250 }

export class Watch {
  readonly #node: TestNode
  readonly #client: WireClient
  readonly #before: { readonly descriptors: number; readonly bytes: number; readonly pid: number }
  readonly #roundTripsMs: number[] = []
  readonly #pinging: Promise<void>
  #over = false
  #problem: unknown

  private constructor(
    node: TestNode,
    client: WireClient,
    before: { descriptors: number; bytes: number; pid: number },
  ) {
    this.#node = node
    this.#client = client
    this.#before = before
    this.#pinging = this.#ping().catch((error: unknown) => {
      this.#problem = error
    })
  }

  static async start(node: TestNode): Promise<Watch> {
    const client = await WireClient.connect(node.url, 'healthy')
    await node.admin('/livez')
    return new Watch(node, client, {
      bytes: await node.heldBytes(),
      descriptors: descriptorsOf(node.pid),
      pid: node.pid,
    })
  }

  async #ping(): Promise<void> {
    while (!this.#over) {
      const began = performance.now()
      await this.#client.settled()
      this.#roundTripsMs.push(performance.now() - began)
      await new Promise((resolve) => setTimeout(resolve, pauseMs))
    }
  }

  /** Whether the healthy client is still served. */
  get isServed(): boolean {
    return this.#problem === undefined && this.#node.running
  }

  /**
   * The node serves, it is the process that it was, threw nowhere, and holds what it held. Says what was
   * measured.
   */
  async expectUnharmed(what: string): Promise<void> {
    this.#over = true
    await this.#pinging
    expect(
      this.#problem,
      `the healthy client was not served: ${this.#node.log.slice(-3_000)}`,
    ).toBeUndefined()
    expect([this.#node.running, this.#node.pid]).toEqual([true, this.#before.pid])
    expect(this.#node.log).not.toMatch(/a bug:/)
    await expect
      .poll(() => descriptorsOf(this.#node.pid), patience)
      .toBeLessThanOrEqual(this.#before.descriptors)
    await expect
      .poll(() => this.#node.heldBytes(), patience)
      .toBeLessThan(this.#before.bytes + growthBytesMax)
    const sorted = this.#roundTripsMs.sort((a, b) => a - b)
    const at = (part: number): string => (sorted[Math.floor(sorted.length * part)] ?? NaN).toFixed(0)
    const grown = ((await this.#node.heldBytes()) - this.#before.bytes) / 1_048_576
    console.log(
      `${what}; ${sorted.length} pings of a healthy client: half within ${at(0.5)} ms, 99 % within ${at(0.99)}, slowest ${sorted.at(-1)?.toFixed(0)}, ` +
        `${sorted.filter((ms) => ms > 200).length} above 200; descriptors ${this.#before.descriptors} → ${descriptorsOf(this.#node.pid)}; held ${grown.toFixed(1)} MiB more`,
    )
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over = true
    await this.#client[Symbol.asyncDispose]()
  }
}
