// Where log lines go: standard error, written without waiting for whoever reads it. A pipe that nobody reads,
// a terminal that is held, a disk that is full: the node goes on, and lines are left out and counted. State:
// how many were left out since the last line that could be written. Bounds: the bytes that wait in the
// stream.
import type { Writable } from 'node:stream'

/** Bytes that may wait for the reader of standard error. */
const waitingBytesMax = 1024 * 1024

export class LogOutput {
  readonly #stream: Writable
  /** Makes the line that says how many were left out. */
  readonly #sayLeftOut: (count: number) => string
  readonly #onDropped: (count: number) => void
  #leftOut = 0

  constructor(stream: Writable, sayLeftOut: (count: number) => string, onDropped: (count: number) => void) {
    this.#stream = stream
    this.#sayLeftOut = sayLeftOut
    this.#onDropped = onDropped
  }

  /** Never throws and never waits. */
  write(line: string): void {
    if (this.#stream.writableLength > waitingBytesMax) return this.#drop()
    this.#report()
    this.#put(line, () => this.#drop())
  }

  #put(line: string, onLost: () => void): void {
    try {
      this.#stream.write(line, (error) => {
        if (error)
          onLost() // the reader is gone, or a disk is full
        else if (this.#stream.writableLength <= waitingBytesMax / 2) this.#report()
      })
    } catch {
      onLost()
    }
  }

  #drop(): void {
    this.#leftOut++
    this.#onDropped(1)
  }

  #report(): void {
    const count = this.#leftOut
    if (count === 0) return
    this.#leftOut = 0
    this.#put(this.#sayLeftOut(count), () => {
      this.#leftOut += count
    })
  }

  /**
   * Resolves when what was written has left, or after `waitMs`: a reader that does not read holds nobody up.
   */
  async flush(waitMs: number): Promise<void> {
    if (this.#stream.writableLength === 0) return
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, waitMs)
    })
    await Promise.race([late, new Promise<void>((resolve) => this.#stream.write('', () => resolve()))])
    clearTimeout(timer)
  }
}

let prepared = false

/**
 * Standard error that neither blocks nor ends the process: pipes and sockets do not block by themselves, a
 * terminal does.
 */
export function standardError(): Writable {
  if (!prepared) {
    prepared = true
    process.stderr.on('error', () => undefined) // each line is told by its callback
    const { _handle } = process.stderr as { _handle?: { setBlocking?(blocking: boolean): void } }
    if (process.stderr.isTTY) _handle?.setBlocking?.(false)
  }
  return process.stderr
}
