// Acknowledgements of one connection that wait for subscribers which are behind with their topic
// (routing/pressure.ts), in the connection's order [MQTT-4.6.0-2]. They hold the client back; one whose end
// has come publishes nothing more, so it is let go: its session is released, and its will published, after
// what it published. State: this connection's. Bound: what may be unacknowledged (unstored-publishes.ts). The
// acknowledgements are sent by inbound.ts (`#acknowledge`), when the batch is stored
// (bridge/publish/batches.ts).

interface Held {
  isClear: boolean
  readonly done: () => void
}

export class HeldAcknowledgements {
  readonly #waiting: Held[] = []

  get isEmpty(): boolean {
    return this.#waiting.length === 0
  }

  /** Calls `done` after those before it. @param clear settles when nobody holds its topic; undefined: nobody does */
  add(clear: Promise<void> | undefined, done: () => void): void {
    const held = { isClear: clear === undefined, done }
    this.#waiting.push(held)
    void clear?.then(() => {
      held.isClear = true
      this.#goOn()
    })
  }

  letGo(): void {
    for (const held of this.#waiting) held.isClear = true
    this.#goOn()
  }

  /** Each may let its connection read on, or end it, which leads here again. */
  #goOn(): void {
    while (this.#waiting[0]?.isClear === true) this.#waiting.shift()!.done()
  }
}
