// A file of rules: `rules`, a list of mappings, each with `allow` or `deny` and what it is about. The same mappings are
// what a token says its owner may do. All that is wrong is said by where it stands. No state.
import { isValidFilter, type OptionProblem } from '../../bridge/index.ts'
import { readYaml } from '../config/file.ts'
import { treeOf, type Entry, type Tree } from '../config/tree.ts'
import { OperatorError } from '../operator-errors.ts'
import { actions, type Action, type Name, type Rule } from './rule.ts'
import { filterTopics, placeholders, prefixTopics } from './rules.ts'

const shorthands = new Map<string, readonly Action[]>([
  ...actions.map((action) => [action, [action]] as const),
  ['read', ['subscribe', 'receive']],
  ['write', ['publish']],
  ['all', actions],
])

const keys = [
  'allow',
  'deny',
  'topic',
  'prefix',
  'user',
  'client',
  'tenant',
  'cn',
  'anonymous',
  'qos',
  'retain',
  'group',
]
const see = `A rule has ${keys.join(', ')}`

type Wrong = (source: string, problem: string, hint?: string) => undefined

/** One value, or a list of some. */
function textsOf(tree: Tree, wrong: Wrong): string[] | undefined {
  const items = tree.kind === 'list' ? tree.items : [tree]
  const texts = items.map((item) =>
    item.kind === 'value' && ['string', 'number', 'boolean'].includes(typeof item.value)
      ? String(item.value)
      : '',
  )
  return texts.length === 0 || texts.includes('')
    ? wrong(tree.source, 'must be a text, or a list of texts')
    : texts
}

/** Topics have their placeholders checked with something in their place. */
function topicProblem(text: string): string | undefined {
  const unknown = /%\{[^}]*\}?/.exec(text)?.[0]
  if (unknown !== undefined && !placeholders.has(unknown))
    return `has ${JSON.stringify(unknown.slice(0, 40))}, which stands for nothing: use ${[...placeholders.keys()].join(', ')}`
  return isValidFilter(text.replaceAll(/%c|%u|%\{\w+\}/g, 'x')) ? undefined : 'is not a topic or filter'
}

/** A name may end with `*`, for all that begin so. */
const nameOf = (text: string): Name => (text.endsWith('*') ? { prefix: text.slice(0, -1) } : text)

function ruleOf(item: Tree, place: string, wrong: Wrong): Rule | undefined {
  if (item.kind !== 'mapping') return wrong(item.source, 'must be a mapping', see)
  const found = new Map<string, string[]>()
  for (const { key, source, tree } of item.entries) {
    if (!keys.includes(key)) return wrong(source, 'is not part of a rule', see)
    const texts = textsOf(tree, wrong)
    if (texts === undefined) return undefined
    found.set(key, texts)
  }
  const at = (key: string): string => item.entries.find((entry: Entry) => entry.key === key)!.source
  const [allow, deny] = [found.get('allow'), found.get('deny')]
  if ((allow === undefined) === (deny === undefined))
    return wrong(item.source, 'needs one of allow and deny', 'Write allow: publish, for example')
  const words = allow ?? deny!
  const unknown = words.find((word) => !shorthands.has(word))
  if (unknown !== undefined)
    return wrong(
      at(allow === undefined ? 'deny' : 'allow'),
      'names what nobody can do',
      `Use ${[...shorthands.keys()].join(', ')}`,
    )
  for (const text of found.get('topic') ?? []) {
    const problem = topicProblem(text)
    if (problem !== undefined)
      return wrong(at('topic'), problem, 'Write it as a client would subscribe to it')
  }
  const standsIn = (found.get('prefix') ?? []).map((text) => /%c|%u|%\{\w+\}/.exec(text)?.[0])
  const placeholder = standsIn.find((one) => one !== undefined)
  if (placeholder !== undefined)
    return wrong(
      at('prefix'),
      `has ${placeholder}, and is taken as it is written`,
      `Write topic, which has ${placeholder} stand for something: topic: devices/%c/#`,
    )
  const oneOf = (key: string, values: readonly string[]): boolean => {
    const texts = found.get(key)
    if (texts === undefined || texts.every((text) => values.includes(text))) return true
    return (wrong(at(key), 'is none of those that there are', `Use ${values.join(', ')}`), false)
  }
  if (!oneOf('qos', ['0', '1', '2']) || !oneOf('retain', ['true', 'false']) || !oneOf('anonymous', ['true']))
    return undefined
  const topics = [
    ...(found.get('topic') ?? []).map((text) => filterTopics(text)),
    ...(found.get('prefix') ?? []).map((text) => prefixTopics(text)),
  ]
  const retain = found.get('retain')
  return {
    isAllowing: allow !== undefined,
    actions: actions.filter((action) => words.some((word) => shorthands.get(word)!.includes(action))),
    users: found.get('user')?.map(nameOf),
    clients: found.get('client')?.map(nameOf),
    tenants: found.get('tenant')?.map(nameOf),
    isOfAnonymous: found.has('anonymous'),
    commonNames: found.get('cn')?.map(nameOf),
    topics: topics.length === 0 ? undefined : topics,
    qos: found.get('qos')?.map(Number),
    retain: retain === undefined || retain.length > 1 ? undefined : retain[0] === 'true',
    groups: found.get('group')?.map(nameOf),
    place,
    text: [...found].map(([key, texts]) => `${key}: ${texts.join(', ')}`).join('; '),
  }
}

/** The rules of a list; those that are wrong are not among them. */
function rulesOfTree(tree: Tree, placeOf: (source: string, index: number) => string, wrong: Wrong): Rule[] {
  if (tree.kind !== 'list') return (wrong(tree.source, 'must be a list of rules', see), [])
  return tree.items
    .map((item, i) => ruleOf(item, placeOf(item.source, i), wrong))
    .filter((rule) => rule !== undefined)
}

/**
 * What a file says.
 * @param path as the log names it
 */
export function readRules(path: string, text: string): { rules: Rule[]; problems: OperatorError[] } {
  const problems: OperatorError[] = []
  const wrong: Wrong = (source, problem, hint = see) =>
    void problems.push(new OperatorError(problem, { reason: 'usage', field: source, value: undefined, hint }))
  const { entries } = readYaml(path, text, problems)
  const rules = entries.flatMap(({ key, source, tree }) => {
    if (key !== 'rules') return (wrong(source, 'is not known here', 'Write rules: and a list below it'), [])
    return rulesOfTree(tree, (place) => /^.*?:\d+(?=:\d)/.exec(place)?.[0] ?? place, wrong)
  })
  return { rules, problems }
}

/** What is wrong with a file of rules first, by its line. */
export function rulesFileProblem(text: string): Omit<OptionProblem, 'option'> | undefined {
  const [first] = readRules('', text).problems
  if (first === undefined) return undefined
  const [, line, what] = /^:(\d+):\d+ ?(.*)$/.exec(first.details.field) ?? []
  return {
    problem: `line ${line ?? 1}${what === undefined || what === '' ? '' : `, ${what}`}: ${first.problem}`,
    hint: first.details.hint,
  }
}

/** Rules of one principal alone: those of a token, say. Undefined: some are not valid, and then none is. */
export function readPermissions(value: unknown, of: string): readonly Rule[] | undefined {
  let isWrong = false
  const wrong: Wrong = () => void (isWrong = true)
  const rules = rulesOfTree(
    treeOf(value, (key) => key),
    (_source, i) => `${of}, rule ${i + 1}`,
    wrong,
  )
  return isWrong ? undefined : rules
}
