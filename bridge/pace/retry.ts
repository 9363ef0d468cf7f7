// How long whoever tries again waits: the one policy for a store that refuses or is away, for a connection to
// it that broke and for a node that cannot join. Twice as long each time, up to a bound. No state.

const firstMs = 20
const lastMs = 320

/** @param tries how many there were before */
export const retryMs = (tries: number): number => Math.min(firstMs * 2 ** tries, lastMs)

export const retryPause = (tries = 0): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, retryMs(tries)))
