// A configuration file: YAML whose keys are options. Reads it into texts, each with its place
// (file:line:column), and says all that is wrong at once. Values stay texts, as a flag or an environment
// variable has them: `id: 1` and `prefix: on` are what they look like. Nothing of the file goes into an error
// but its keys: YAML's own errors show the text that they stumble over, which may be a secret.
import {
  isAlias,
  isMap,
  isPair,
  isScalar,
  isSeq,
  LineCounter,
  parseDocument,
  type Node,
  type Pair,
} from 'yaml'
import { OperatorError } from '../errors.ts'

export interface Given {
  /** As it was given; what was given several times, or as a list, is a list. */
  readonly value: unknown
  /** Where, as an error names it. */
  readonly source: string
  /** Where each entry of a list stands. */
  readonly sources?: readonly string[]
}

const see = 'See deploy/config/node.yaml for an example'

const meanings: Readonly<Record<string, string>> = {
  BAD_INDENT: 'the indentation does not fit',
  TAB_AS_INDENT: 'a tab where spaces belong',
  BAD_ALIAS: 'an alias (*) without its anchor (&)',
  TAG_RESOLVE_FAILED: 'a tag (!) that is not known',
  MISSING_CHAR: 'a character is missing, such as a closing quote or bracket, or the space behind a colon',
  MULTIPLE_DOCS: 'more than one document',
  BAD_SCALAR_START: 'a character that must stand in quotes at the start of a value',
  BAD_DQ_ESCAPE: 'a backslash in double quotes that escapes nothing',
  MULTILINE_IMPLICIT_KEY: 'a key of several lines, or a line without a colon',
  BLOCK_AS_IMPLICIT_KEY: 'a mapping where one value belongs: is there a second colon in the line?',
}

/**
 * What the YAML `text` of the file `path` gives.
 * @param isOption whether a key is an option
 * @param unknown the problem of a key that is none
 */
export function readYaml(
  path: string,
  text: string,
  isOption: (key: string) => boolean,
  unknown: (key: string, source: string, value: string | undefined) => OperatorError,
): { given: Map<string, Given>; problems: OperatorError[] } {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: false })
  const given = new Map<string, Given>()
  const problems: OperatorError[] = []
  const at = (offset: number, key = ''): string => {
    const { line, col } = lines.linePos(offset)
    return `${path}:${line}:${col}${key === '' ? '' : ` ${key}`}`
  }
  const wrong = (source: string, problem: string, hint: string = see): void => {
    problems.push(new OperatorError(problem, { reason: 'usage', field: source, value: undefined, hint }))
  }
  for (const { code, pos } of [...document.errors, ...document.warnings])
    wrong(at(pos[0]), `is not YAML (${meanings[code] ?? code})`)
  if (problems.length > 0) return { given, problems }

  const resolved = (node: unknown): unknown => (isAlias(node) ? node.resolve(document) : node)
  /** The text of a scalar; empty when there is none. */
  const textOf = (node: unknown): string | undefined => {
    if (node === null || node === undefined) return ''
    if (!isScalar(node)) return undefined
    return node.value === null ? '' : (node.source ?? '')
  }
  /** A key as it may be shown: a line whose colon stands in the wrong place makes a key of a secret. */
  const keyOf = (pair: Pair): [key: string, offset: number] => {
    const key = textOf(pair.key) ?? ''
    return [/^[\w.-]{1,64}$/.test(key) ? key : '(a key)', (pair.key as Node | null)?.range?.[0] ?? 0]
  }

  /** Options are one level deep: of a mapping each key is named, as one that does not exist. */
  const nested = (key: string, pairs: readonly unknown[]): void => {
    for (const pair of pairs.filter(isPair)) {
      const [inner, offset] = keyOf(pair)
      problems.push(unknown(`${key}.${inner}`, at(offset, `${key}.${inner}`), undefined))
    }
  }
  const root = document.contents
  if (root === null || (isScalar(root) && root.value === null)) return { given, problems }
  if (!isMap(root)) {
    wrong(
      at(root.range?.[0] ?? 0),
      'is not a mapping of options',
      `Write a line for each option: its name, a colon, a space, its value. ${see}`,
    )
    return { given, problems }
  }
  const places = new Map<string, number>()
  for (const pair of root.items) {
    const [key, offset] = keyOf(pair)
    const value = resolved(pair.value)
    const place = at((pair.value as Node | null)?.range?.[0] ?? offset, key)
    const before = places.get(key)
    places.set(key, offset)
    if (before !== undefined)
      wrong(at(offset, key), `stands in line ${lines.linePos(before).line} already`, 'Remove one of the two')
    else if (isMap(value) && value.items.length > 0) nested(key, value.items)
    else if (!isOption(key)) problems.push(unknown(key, at(offset, key), textOf(value)))
    else if (isSeq(value)) {
      const items = value.items.map((item) => ({
        text: textOf(resolved(item)),
        source: at((item as Node | null)?.range?.[0] ?? offset, key),
      }))
      const odd = items.filter(({ text }) => text === undefined)
      for (const { source } of odd)
        wrong(source, 'must be a value, not a list or mapping', 'Write a list of plain values')
      if (odd.length === 0)
        given.set(key, {
          value: items.map(({ text }) => text ?? ''),
          source: place,
          sources: items.map(({ source }) => source),
        })
    } else if (isMap(value)) wrong(place, 'must be a value, not a mapping')
    else given.set(key, { value: textOf(value) ?? '', source: place })
  }
  return { given, problems }
}
