// From argv to options by name: `--kebab-case value` or `--kebab-case=value`; what may repeat becomes a list. An unknown
// flag is an error with the nearest known one; values are validated by who knows them.
import { flagOf, unknownOption } from '../config.ts'
import { OperatorError } from '../errors.ts'

export interface FlagShape {
  readonly repeats?: boolean
  /** A switch takes no value. */
  readonly switch?: boolean
}

/** @throws OperatorError (reason `usage`) */
export function parseArguments(argv: readonly string[], flags: Readonly<Record<string, FlagShape>>): Record<string, string | true | string[]> {
  const byFlag = new Map(Object.keys(flags).map((name) => [flagOf(name), name]))
  const values: Record<string, string | true | string[]> = {}
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i]!
    const equals = word.indexOf('=')
    const flag = equals > 0 ? word.slice(0, equals) : word
    const name = byFlag.get(flag)
    if (name === undefined) throw unknownOption(flag, equals > 0 ? word.slice(equals + 1) : undefined, [...byFlag.keys()])
    const shape = flags[name]!
    if (shape.switch === true) {
      values[name] = true
      continue
    }
    const value = equals > 0 ? word.slice(equals + 1) : argv[++i]
    if (value === undefined) throw new OperatorError('has no value', { reason: 'usage', field: flag, value: undefined, hint: `Write ${flag} VALUE` })
    if (shape.repeats !== true) values[name] = value
    else values[name] = [...((values[name] as string[] | undefined) ?? []), value]
  }
  return values
}
