// From argv to options by name: `--kebab-case value` or `--kebab-case=value`; what may repeat becomes a list.
// An unknown flag is an error with the nearest known one; values are validated by who knows them. All that is
// wrong is found at once.
import { flagOf, unknownOption } from '../config/config.ts'
import { OperatorError } from '../operator-errors.ts'

export interface FlagShape {
  readonly repeats?: boolean
  /** A switch takes no value. */
  readonly switch?: boolean
}

export interface Arguments {
  readonly values: Readonly<Record<string, string | true | string[]>>
  readonly problems: readonly OperatorError[]
}

/**
 * A word of the command line as an error may name it: only what looks like a flag, since it may be a secret
 * that lost its flag.
 */
function nameOf(word: string, position: number): string {
  const [flag = ''] = /^--[a-zA-Z][a-zA-Z0-9-]*/.exec(word) ?? /^-[a-zA-Z]/.exec(word) ?? []
  return flag === '' ? `argument ${position}` : flag.length < word.length ? `${flag}…` : flag
}

export function parseArguments(
  argv: readonly string[],
  flags: Readonly<Record<string, FlagShape>>,
): Arguments {
  const byFlag = new Map(Object.keys(flags).map((name) => [flagOf(name), name]))
  const values: Record<string, string | true | string[]> = {}
  const problems: OperatorError[] = []
  const wrong = (flag: string, problem: string, hint: string): void => {
    problems.push(new OperatorError(problem, { reason: 'usage', field: flag, value: undefined, hint }))
  }
  const isFlag = (word: string | undefined): boolean => word?.startsWith('--') === true
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i]!
    const equals = word.indexOf('=')
    const flag = equals > 0 ? word.slice(0, equals) : word
    const given = equals > 0 ? word.slice(equals + 1) : undefined
    const name = byFlag.get(flag)
    if (name === undefined) {
      if (word.startsWith('-')) problems.push(unknownOption(nameOf(flag, i + 1), given, [...byFlag.keys()]))
      else
        wrong(
          nameOf(word, i + 1),
          'does not belong to an option',
          'Write options as --name VALUE; see aedes-cluster --help',
        )
      if (word.startsWith('-') && given === undefined && !isFlag(argv[i + 1])) i++ // its value
      continue
    }
    const { switch: isSwitch = false, repeats = false } = flags[name]!
    if (isSwitch) {
      if (given !== undefined) wrong(flag, 'takes no value', `Write ${flag} alone, or leave it out`)
      values[name] = true
      continue
    }
    if (given === undefined && (argv[i + 1] === undefined || isFlag(argv[i + 1]))) {
      wrong(flag, 'has no value', `Write ${flag} VALUE, or ${flag}=VALUE when the value begins with --`)
      continue
    }
    const value = given ?? argv[++i]!
    // the last one holds
    values[name] = repeats ? [...((values[name] as string[] | undefined) ?? []), value] : value
  }
  return { values, problems }
}
