// A set of Packet Identifiers, for the window of one connection: they are given out one after the other, so
// each has a place of its own in a small table that begins anew at its end. State: the table, twice as large
// at least as what is in it; none while it never held anything, as with most connections of a million.
// Identifiers are chosen in window.ts; for a stored session in stored-session.ts, for a group in
// group-serve.lua.

import { groupIds } from '../../bridge/index.ts'

/** Those after it are for messages of groups (bridge/groups/group-holder.ts). */
export const identifierMax = groupIds.first - 1
const initialPlaces = 32
const noPlaces = new Uint16Array(1)

export class Identifiers {
  /** Identifiers, each at its number modulo the length, a power of two; 0: free. */
  #places = noPlaces
  size = 0

  has(id: number): boolean {
    return id > 0 && this.#places[id & (this.#places.length - 1)] === id
  }

  /** Whether `add` may be called; with room for twice as many, the next one that may is near. */
  isFree(id: number): boolean {
    if ((this.size + 1) * 2 > this.#places.length && this.#places.length <= identifierMax) this.#grow()
    return this.#places[id & (this.#places.length - 1)] === 0
  }

  /** Adds one that is free; after `clear` nothing is added before somebody asks. */
  add(id: number): void {
    if (this.#places === noPlaces) return
    this.#places[id & (this.#places.length - 1)] = id
    this.size++
  }

  /** False when it was not there. */
  delete(id: number): boolean {
    if (!this.has(id)) return false
    this.#places[id & (this.#places.length - 1)] = 0
    this.size--
    return true
  }

  clear(): void {
    this.#places = noPlaces
    this.size = 0
  }

  #grow(): void {
    const places = new Uint16Array(Math.max(initialPlaces, this.#places.length * 2))
    for (const id of this.#places) if (id !== 0) places[id & (places.length - 1)] = id
    this.#places = places
  }
}
