// Looks for the first packet of a type among bytes that wait to be read: only fixed headers are looked at,
// nothing is checked. A client's DISCONNECT makes its will void as soon as it has come, whatever waits before
// it. State: where in which packet the bytes ended that it was given; and the packet it seeks, once that
// begins, as far as it has come. Bound: `soughtBytesMax`.

/** A longer one is not found: a DISCONNECT is short. */
const soughtBytesMax = 4_096

export class LookAhead {
  readonly #type: number
  /** The fixed header at which the bytes ended. */
  #header: number[] = []
  /** Bytes of the packet under way that are still to come. */
  #left = 0
  #sought: Buffer[] | undefined
  /** Where in the bytes of the last call the packet ended that it returned. */
  readTo = 0

  constructor(type: number) {
    this.#type = type
  }

  /**
   * @param bytes the next ones; the first begin with a packet. @returns the packet, in the call that
   * completes it
   */
  feed(bytes: Buffer): Buffer | undefined {
    for (let at = 0; at < bytes.length;) {
      if (this.#left > 0) {
        const end = Math.min(bytes.length, at + this.#left)
        this.#sought?.push(Buffer.from(bytes.subarray(at, end)))
        this.#left -= end - at
        at = end
      } else {
        this.#header.push(bytes[at++]!)
        this.#begin()
      }
      if (this.#left === 0 && this.#header.length === 0 && this.#sought !== undefined) {
        this.readTo = at
        return this.#take()
      }
    }
    return undefined
  }

  /** Reads the fixed header when it is whole. */
  #begin(): void {
    const header = this.#header
    if (header.length < 2 || (header.at(-1)! >= 128 && header.length < 5)) return
    this.#left = header.slice(1).reduce((length, byte, i) => length + ((byte & 127) << (7 * i)), 0)
    this.#sought =
      header[0]! >> 4 === this.#type && this.#left <= soughtBytesMax ? [Buffer.from(header)] : undefined
    this.#header = []
  }

  #take(): Buffer {
    const packet = Buffer.concat(this.#sought!)
    this.#sought = undefined
    return packet
  }
}
