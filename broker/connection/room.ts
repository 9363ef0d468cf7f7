// Who waits until a connection has room for more. State: the waiting callers. Bound: the caller's, one for each of
// its replays (router.ts).
export class Room {
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
