// The stores that there are. A configuration means the first one that it names.
import { memoryStore } from './memory/index.ts'
import { memoryOptions } from './memory/options.ts'
import type { ValuesOf } from './option.ts'
import { redisStore } from './redis/index.ts'
import { redisOptions } from './redis/options.ts'
import type { SharedSettings } from './options.ts'
import type { Store, StoreKind, StoreSettings } from './store.ts'

export const storeOptions = { ...redisOptions, ...memoryOptions }

export type StoreOptions = ValuesOf<typeof storeOptions>

export const storeKinds: readonly StoreKind<StoreOptions>[] = [redisStore, memoryStore]

export const storeKindOf = (options: Partial<StoreOptions>): StoreKind<StoreOptions> =>
  storeKinds.find((kind) => kind.isNamed(options))!

/**
 * @param shared settings that must be the same on every node
 * @param textOf the text of the file that an option names
 */
export const storeOf = (
  options: StoreOptions & StoreSettings,
  shared: SharedSettings,
  textOf: (option: keyof StoreOptions) => string,
): Store => storeKindOf(options).of(options, shared, textOf)

/** An address of a store as it may be shown; undefined: the text is none. */
export function shownAddress(text: string): string | undefined {
  for (const kind of storeKinds) {
    const address = kind.shownAddress?.(text)
    if (address !== undefined) return address
  }
  return undefined
}
