// Bytes that may be held at once by all who share them: who wants more than is left waits, in turn. State:
// this object.

export class Allowance {
  readonly #bytesMax: number
  #taken = 0
  #waiting: { readonly bytes: number; readonly resolve: () => void }[] = []

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  /**
   * Resolves when `bytes` may be held; more than there are at all: when nobody else holds any. Whoever took
   * them gives them back.
   */
  take(bytes: number): Promise<void> {
    if (this.takeNow(bytes)) return Promise.resolve()
    return new Promise((resolve) => this.#waiting.push({ bytes, resolve }))
  }

  /** False: there is no room now. */
  takeNow(bytes: number): boolean {
    if (this.#waiting.length > 0 || !this.#fits(bytes)) return false
    this.#taken += bytes
    return true
  }

  give(bytes: number): void {
    this.#taken -= bytes
    for (let next = this.#waiting[0]; next !== undefined && this.#fits(next.bytes); next = this.#waiting[0]) {
      this.#waiting.shift()
      this.#taken += next.bytes
      next.resolve()
    }
  }

  #fits(bytes: number): boolean {
    return this.#taken === 0 || this.#taken + bytes <= this.#bytesMax
  }
}
