// The last connections that ended at this node, and why: what an operator asks first of a client that is gone. State:
// this process. Bounds: so many, the oldest goes; of a long Client Identifier none is kept.

export interface Departure {
  readonly reason: string
  readonly address: string
  /** performance.now() */
  readonly at: number
  readonly connectedSeconds: number
}

const departuresMax = 10_000
const identifierMax = 256
const reasonMax = 200

export class Departures {
  readonly #byClient = new Map<string, Departure>()

  add(clientId: string, { reason, ...rest }: Departure): void {
    if (clientId === '' || clientId.length > identifierMax) return
    this.#byClient.delete(clientId)
    this.#byClient.set(clientId, { reason: reason.slice(0, reasonMax), ...rest })
    if (this.#byClient.size > departuresMax) this.#byClient.delete(this.#byClient.keys().next().value!)
  }

  of(clientId: string): Departure | undefined {
    return this.#byClient.get(clientId)
  }
}
