// Callers that wait until a connection has room for more, or is over. State: the waiting callers. Bound: the caller's, one
// for each replay of the connection (broker/routing/subscribe-replays.ts).
export class RoomWaiters {
  #waiting: (() => void)[] | undefined

  wait(): Promise<void> {
    return new Promise((resolve) => (this.#waiting ??= []).push(resolve))
  }

  give(): void {
    const waiting = this.#waiting ?? []
    this.#waiting = undefined
    for (const resolve of waiting) resolve()
  }
}
