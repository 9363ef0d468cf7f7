// Something of which nobody knows beforehand how much work it is, made in slices: what one topic matches is mostly
// a filter or two, and may be half a million. No state.
import type { Slice } from '../pace/turns.ts'

/** Asked between two parts of the work. */
export type Pace = Pick<Slice, 'isOver'>

/** For work that is done in one go, however long it takes. */
export const atOnce: Pace = { isOver: false }

export interface Making<Value> {
  /** Goes on for a slice. Undefined: it is not done. Not to be called again once it is. */
  goOn(slice: Pace): Value | undefined
}

/** Resolves when it is done, in as many turns as it takes. */
export async function made<Value>(making: Making<Value>, slice: Slice): Promise<Value> {
  for (;;) {
    const value = making.goOn(slice)
    if (value !== undefined) return value
    await slice.next()
  }
}
