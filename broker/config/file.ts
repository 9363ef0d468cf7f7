// A configuration file: YAML. Reads it into texts, each with its place (file:line:column), and says all
// that is wrong at once. Values stay texts, as a flag or an environment variable has them: `id: 1` and
// `prefix: on` are what they look like. Nothing of the file goes into an error but its keys: YAML's own
// errors show the text that they stumble over, which may be a secret.
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
  type YAMLMap,
} from 'yaml'
import { OperatorError } from '../operator-errors.ts'
import { within, type Entry, type Mapping, type Tree } from './tree.ts'

const see = 'See deploy/config/node.yaml for an example'
/** Aliases may be nested: nobody's configuration is as deep. */
const depthMax = 8
/** Nor is it as large: aliases of aliases make a file of a few lines one of millions of values. */
const valuesMax = 100_000
/** What follows from a mistake is no news. */
const mistakesShown = 5

const meanings: Readonly<Record<string, string>> = {
  BAD_INDENT: 'the indentation does not fit',
  TAB_AS_INDENT: 'a tab where spaces belong',
  BAD_ALIAS: 'an alias (*) without its anchor (&)',
  TAG_RESOLVE_FAILED: 'a tag (!) that is not known',
  MISSING_CHAR: 'a character is missing, such as a closing quote or bracket, or the space after a colon',
  MULTIPLE_DOCS: 'more than one document',
  BAD_SCALAR_START: 'a character that must stand in quotes at the start of a value',
  BAD_DQ_ESCAPE: 'a backslash in double quotes that escapes nothing',
  MULTILINE_IMPLICIT_KEY: 'a key of several lines, or a line without a colon',
  RESOURCE_EXHAUSTION: 'nested too deep',
  BLOCK_AS_IMPLICIT_KEY: 'a mapping where one value belongs: is there a second colon in the line?',
}

/**
 * What the YAML `text` of the file `path` gives; what is wrong with it as YAML is among the problems then.
 */
export function readYaml(path: string, text: string, problems: OperatorError[]): Mapping {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: false })
  const nothing: Mapping = { kind: 'mapping', entries: [], source: path }
  const at = (offset: number, key = ''): string => {
    const { line, col } = lines.linePos(offset)
    return `${path}:${line}:${col}${key === '' ? '' : ` ${key}`}`
  }
  const wrong = (source: string, problem: string, hint: string = see): void => {
    problems.push(new OperatorError(problem, { reason: 'usage', field: source, value: undefined, hint }))
  }
  if (text.includes('\0')) {
    wrong(path, 'is not UTF-8', 'Save it as UTF-8: it looks like UTF-16, or is no text')
    return nothing
  }
  const found = [...document.errors, ...document.warnings].slice(0, mistakesShown)
  for (const { code, pos } of found) wrong(at(pos[0]), `is not YAML (${meanings[code] ?? code})`)
  if (found.length > 0) return nothing

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
  let values = 0
  let saidTooDeep = false
  const read = (node: unknown, name: string, offset: number, depth: number): Tree => {
    const source = at((node as Node | null)?.range?.[0] ?? offset, name)
    const value = isAlias(node) ? node.resolve(document) : node
    if (++values > valuesMax) {
      if (values === valuesMax + 1) wrong(source, `is more than ${valuesMax} values, aliases (*) followed`)
    } else if (isAlias(node) && value === undefined) wrong(source, `is not YAML (${meanings.BAD_ALIAS})`)
    else if (depth > depthMax) {
      if (!saidTooDeep) wrong(source, 'is too deep')
      saidTooDeep = true
    } else if (isMap(value)) return { kind: 'mapping', source, entries: entriesOf(value, name, depth + 1) }
    else if (isSeq(value))
      return {
        kind: 'list',
        source,
        items: value.items.map((item, i) =>
          read(item, isScalar(item) ? name : within(name, i), offset, depth + 1),
        ),
      }
    return { kind: 'value', source, value: textOf(value) ?? '' }
  }
  const entriesOf = (map: YAMLMap, path: string, depth: number): Entry[] => {
    const places = new Map<string, number>()
    const entries: Entry[] = []
    for (const pair of map.items.filter(isPair)) {
      const [key, offset] = keyOf(pair)
      const name = within(path, key)
      const before = places.get(key)
      places.set(key, offset)
      if (before !== undefined)
        wrong(
          at(offset, name),
          `stands in line ${lines.linePos(before).line} already`,
          'Remove one of the two',
        )
      else entries.push({ key, source: at(offset, name), tree: read(pair.value, name, offset, depth) })
    }
    return entries
  }
  const root = document.contents
  if (root === null || (isScalar(root) && root.value === null)) return nothing
  if (isMap(root)) return { ...nothing, entries: entriesOf(root, '', 0) }
  wrong(
    at(root.range?.[0] ?? 0),
    'is not a mapping of options',
    `Write a line for each option: its name, a colon, a space, its value. ${see}`,
  )
  return nothing
}
