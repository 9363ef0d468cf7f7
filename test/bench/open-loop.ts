// Sending at a fixed rate, whatever comes back, and what is said of the times that were measured so.
import type { Publisher } from './peers.ts'

const paceMs = 1

/**
 * Sends `rate` messages per second, spread over `publishers`; how late goes to `late`, in ms. Returns how to
 * stop it.
 */
export function pace(publishers: readonly Publisher[], rate: number, late: number[]): () => void {
  const start = performance.now()
  let sent = 0
  const timer = setInterval(() => {
    const now = performance.now()
    const due = Math.floor(((now - start) * rate) / 1000)
    if (due > sent) late.push(now - start - ((sent + 1) * 1000) / rate)
    while (sent < due) publishers[sent++ % publishers.length]!.send(1)
  }, paceMs)
  return () => clearInterval(timer)
}

/** Sorts the values; zeros when there are none. */
export function quantilesOf(values: number[]): { p50: number; p99: number; max: number } {
  const sorted = values.sort((a, b) => a - b)
  const at = (q: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? 0
  return { p50: at(0.5), p99: at(0.99), max: sorted.at(-1) ?? 0 }
}
