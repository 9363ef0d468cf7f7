// What goes in and out at the sockets of a node, counted where it passes, on the hot path: arrays that the metrics read
// when somebody asks for them, since a counter of prom-client costs more than a packet may. State: counts since the
// node began.

let turnAt = 0

function endTurn(): void {
  turnAt = 0
}

/** `performance.now()` as of when it was asked first in this turn of the event loop. */
export function turnTime(): number {
  if (turnAt === 0) {
    turnAt = performance.now()
    setImmediate(endTurn)
  }
  return turnAt
}

/** Upper bounds of a latency's buckets, ms. */
const bucketsMs = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000]

/** How long something took, as a histogram. A turn of the event loop counts as one moment. */
export class Latency {
  /** How many were within a bound and above the one before; the last: above all of them. */
  readonly #counts = new Float64Array(bucketsMs.length + 1)
  #sumMs = 0

  /** @param since `turnTime()` when it began */
  took(since: number): void {
    const ms = turnTime() - since
    let i = 0
    while (i < bucketsMs.length && ms > bucketsMs[i]!) i++
    this.#counts[i]!++
    this.#sumMs += ms
  }

  /** For Prometheus: seconds, each bucket with those before it. */
  get seconds(): {
    readonly buckets: readonly { readonly le: number; readonly count: number }[]
    readonly sum: number
    readonly count: number
  } {
    let count = 0
    const buckets = [...bucketsMs, Infinity].map((le, i) => ({
      le: le / 1_000,
      count: (count += this.#counts[i]!),
    }))
    return { buckets, sum: this.#sumMs / 1_000, count }
  }
}

export class Traffic {
  /** Packets by type (`PacketType`). */
  readonly received = new Float64Array(16)
  readonly sent = new Float64Array(16)
  /** Bytes of the connections' streams: of TLS and WebSocket what is in them. */
  receivedBytes = 0
  sentBytes = 0
  /** PUBLISH packets sent, by QoS. */
  readonly delivered = new Float64Array(3)
  /** Connections that were taken over. */
  takenOver = 0
  /** From a PUBLISH that is to be stored to its acknowledgement. */
  readonly acknowledged = new Latency()
}
