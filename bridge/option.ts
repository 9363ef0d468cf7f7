// What may be configured, as whoever needs it says it: a store its own options, a node (broker/config/)
// the rest. No state. Knows neither files nor flags: those are broker/config/'s.
import { z } from 'zod'

export interface Option {
  /** Gives the value, or says what is wrong with it: a message in lower case continues "the option …". */
  readonly schema: z.ZodType
  readonly about: string
  /** How a value is written in help and tables. */
  readonly shape: string
  /** What to do about a wrong one. */
  readonly hint: string
  /** Section and key in the file; without one it stands at the top. */
  readonly at?: `${string}.${string}`
  /** A listener may have one of its own. */
  readonly ofListener?: true
  /** Takes several values: the flag repeats, a text has commas, the file a list. */
  readonly list?: true
  /**
   * A text that may be a secret, or one in the wrong place: no error shows it; `unless-path`: it shows a
   * path.
   */
  readonly secret?: true | 'unless-path'
  /** Names a file that must be readable. */
  readonly file?: true
  /** Of such a file, what is wrong with what is in it; undefined: nothing. */
  readonly contentProblem?: (text: string) => Omit<OptionProblem, 'option'> | undefined
  /** Must be the same on every node. */
  readonly shared?: true
  /** Has a meaning only where the store is used that it belongs to. */
  readonly needsStore?: true
  /** The value as it may be printed. */
  readonly printed?: (value: string) => string
}

/** What is wrong with an option, and what to do. */
export interface OptionProblem {
  readonly option: string
  readonly problem: string
  readonly hint: string
}

/** The values of a table of options. */
export type ValuesOf<Options extends Readonly<Record<string, Option>>> = {
  readonly [K in keyof Options]: z.infer<Options[K]['schema']>
}

/** A whole number, also as text: digits and nothing else, no unit, no 1e3, no 0x10. */
export const whole = (min: number, max: number): z.ZodType<number> =>
  z.preprocess(
    (value) => (typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : value),
    z
      .number('is not a whole number in digits alone')
      .int('is not a whole number')
      .min(min, `is less than ${min}`)
      .max(max, `is more than ${max}`),
  )

/** Above 2^31 − 1 a timer of Node would fire at once. */
export const dayMs = 86_400_000
export const positiveMs = whole(1, dayMs)

export const name = z
  .string()
  .regex(
    /^[A-Za-z0-9._-]{1,64}$/,
    'has more than 64 characters, or others than letters, digits, dots, dashes and underscores',
  )
