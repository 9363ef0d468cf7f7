// After Redis lost data every node asserts its own routes again. Until the others have said so, or for a
// while, nothing is published here: a subscription that was acknowledged just before the loss, and that this
// node had not heard of, would miss it. State: the nodes that have not spoken since.

const settleMs = 1_500

export class AbsentNodes {
  readonly #nodes = new Set<string>()
  #settled: Promise<void> | undefined
  #resolve: () => void = () => undefined
  #timer: NodeJS.Timeout | undefined

  /** Resolves when nobody is awaited any more; undefined when nobody is. */
  get settled(): Promise<void> | undefined {
    return this.#settled
  }

  /** Begins to wait for `nodes`; who waits already, waits for them, too. */
  await(nodes: readonly string[]): void {
    for (const nodeId of nodes) this.#nodes.add(nodeId)
    if (this.#nodes.size === 0) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#settle(), settleMs)
    this.#settled ??= new Promise((resolve) => {
      this.#resolve = resolve
    })
  }

  #settle(): void {
    clearTimeout(this.#timer)
    this.#nodes.clear()
    this.#settled = undefined
    this.#resolve()
  }

  /** A node has asserted its routes, or is gone. */
  heard(nodeId: string): void {
    if (this.#nodes.delete(nodeId) && this.#nodes.size === 0) this.#settle()
  }

  close(): void {
    this.#settle()
  }
}
