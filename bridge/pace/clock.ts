// Cluster time: the one clock that nodes agree on, which is Redis' own as this process estimates it. What a
// node writes for others says in cluster time when it expires; in a process waiting is counted by
// performance.now(), which nobody sets. No wall clock of a node is ever asked (P14). State: between which
// bounds the difference of the two clocks lies, by the samples that a lease renewal brings. Invariant: a
// sample that contradicts the ones before means that Redis' clock was set, or that another server answers:
// from then on it counts alone; what waits in a process does not notice.

/**
 * Clocks of two machines drift apart by less than this: 0.1 ms in a second. Ten times as much is possible, while
 * one is being set right, and shows as a contradiction. But with room for that the bounds of a quick sample were
 * those of any sample a second later, and of two nodes with a Redis next door one was up to 1.8 ms ahead of the
 * other, rather than 0.4.
 */
const driftMax = 1e-4

export class Clock {
  #low = 0
  #high = 0
  /** When the last sample came; -1: none did. */
  #at = -1

  /**
   * Redis said `time` (ms since the epoch) in reply to what was sent at `sent` and answered at `received`
   * (performance.now()). A reply that was long under way says little, and the bounds of a quick one before it
   * stay, widened by what clocks may drift.
   */
  sample(sent: number, received: number, time: number): void {
    if (!Number.isFinite(time)) return
    const drift = (received - this.#at) * driftMax
    const low = Math.max(time - received, this.#low - drift)
    const high = Math.min(time - sent, this.#high + drift)
    const isContradicted = this.#at < 0 || low > high
    this.#low = isContradicted ? time - received : low
    this.#high = isContradicted ? time - sent : high
    this.#at = received
  }

  /** Cluster time minus performance.now(), ms: in the middle of its bounds. */
  get #offset(): number {
    return (this.#low + this.#high) / 2
  }

  /** A moment of performance.now() in cluster time. */
  toCluster(at: number): number {
    return at + this.#offset
  }

  /** A moment of cluster time by performance.now(); negative when it was before this process began. */
  toLocal(time: number): number {
    return time - this.#offset
  }
}
