// A map that mostly holds one entry, such as the subscribers of a device's own filter: that one costs no
// table of its own, and there are as many of these maps as filters. State: its entries. Keys are never
// undefined.

export class SmallMap<Key, Value> {
  #key: Key | undefined
  #value: Value | undefined
  /** All entries, once there were two. */
  #all: Map<Key, Value> | undefined

  get size(): number {
    return this.#all?.size ?? (this.#key === undefined ? 0 : 1)
  }

  get(key: Key): Value | undefined {
    if (this.#all !== undefined) return this.#all.get(key)
    return this.#key === key ? this.#value : undefined
  }

  has(key: Key): boolean {
    return this.get(key) !== undefined
  }

  set(key: Key, value: Value): void {
    if (this.#all !== undefined) this.#all.set(key, value)
    else if (this.#key === undefined || this.#key === key) {
      this.#key = key
      this.#value = value
    } else {
      this.#all = new Map([
        [this.#key, this.#value!],
        [key, value],
      ])
      this.#key = this.#value = undefined
    }
  }

  /** Whether it was there. */
  delete(key: Key): boolean {
    if (this.#all !== undefined) return this.#all.delete(key)
    if (this.#key !== key || key === undefined) return false
    this.#key = this.#value = undefined
    return true
  }

  /**
   * In the order in which they came; what comes or goes while they are being walked is given or not, and
   * what goes and comes again perhaps twice.
   */
  entries(): Iterator<readonly [Key, Value]> {
    if (this.#all !== undefined) return this.#all.entries()
    return (this.#key === undefined ? [] : [[this.#key, this.#value!] as const]).values()
  }

  /** In the order in which they came. */
  forEach(visit: (value: Value, key: Key) => void): void {
    if (this.#all !== undefined) this.#all.forEach(visit)
    else if (this.#key !== undefined) visit(this.#value!, this.#key)
  }
}
