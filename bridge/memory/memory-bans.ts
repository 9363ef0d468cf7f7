// Bans of a node without Redis. State: this process; they end with it.
import { bansMax, type Ban, type BanKind, type Bans } from '../ban.ts'

export class MemoryBans implements Bans {
  readonly #bans = new Map<string, Ban>()
  #changed: (bans: readonly Ban[]) => void = () => undefined

  #now(): Ban[] {
    for (const [key, { endsAt }] of this.#bans) if (endsAt <= performance.now()) this.#bans.delete(key)
    return [...this.#bans.values()]
  }

  list(): Promise<readonly Ban[]> {
    return Promise.resolve(this.#now())
  }

  add(kind: BanKind, name: string, reason: string, seconds: number | undefined): Promise<boolean> {
    const key = `${kind} ${name}`
    if (!this.#bans.has(key) && this.#now().length >= bansMax) return Promise.resolve(false)
    const endsAt = seconds === undefined ? Infinity : performance.now() + seconds * 1_000
    this.#bans.set(key, { kind, name, reason, endsAt })
    this.#changed(this.#now())
    return Promise.resolve(true)
  }

  remove(kind: BanKind, name: string): Promise<boolean> {
    const wasThere = this.#bans.delete(`${kind} ${name}`)
    this.#changed(this.#now())
    return Promise.resolve(wasThere)
  }

  hear(changed: (bans: readonly Ban[]) => void): Promise<void> {
    this.#changed = changed
    changed(this.#now())
    return Promise.resolve()
  }

  close(): void {
    this.#changed = () => undefined
  }
}
