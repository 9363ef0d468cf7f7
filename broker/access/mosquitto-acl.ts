// An `acl_file` of Mosquitto as rules: `topic` lines of those without a user name, or of the `user` above them, and
// `pattern` lines of everybody, with %c and %u. As Mosquitto has it, what a user is denied comes first, then what it is
// allowed, then the same of patterns; `read` is asked when a message is delivered, and every SUBSCRIBE is taken. No state.
import { isValidFilter, type OptionProblem } from '../../bridge/index.ts'
import type { Action, Rule } from './rule.ts'
import { filterTopics } from './rules.ts'

const accesses = new Map<string, readonly Action[]>([
  ['read', ['receive']],
  ['write', ['publish']],
  ['readwrite', ['publish', 'receive']],
  ['deny', ['publish', 'receive']],
])

type Line =
  | { readonly kind: 'user'; readonly user: string }
  | { readonly kind: 'topic' | 'pattern'; readonly access: string; readonly filter: string }

/** Undefined: Mosquitto would not start with it. */
function lineOf(line: string): Line | undefined {
  const [, kind, rest] = /^(user|topic|pattern)\s+(.*)$/.exec(line) ?? []
  if (kind === undefined || rest === '') return undefined
  if (kind === 'user') return { kind, user: rest! }
  const [, access = 'readwrite', filter] = /^(?:(read|write|readwrite|deny)\s+)?(.+)$/.exec(rest!)!
  return isValidFilter(filter!) ? { kind: kind as 'topic' | 'pattern', access, filter: filter! } : undefined
}

const linesOf = (text: string): { line: string; number: number }[] =>
  text
    .split(/\r?\n/)
    .map((line, i) => ({ line: line.trim(), number: i + 1 }))
    .filter(({ line }) => line !== '' && !line.startsWith('#'))

export function aclFileProblem(text: string): Omit<OptionProblem, 'option'> | undefined {
  const wrong = linesOf(text).find(({ line }) => lineOf(line) === undefined)
  if (wrong === undefined) return undefined
  return {
    problem: `line ${wrong.number} is none that Mosquitto would take`,
    hint: 'Write `user NAME`, `topic [read|write|readwrite|deny] FILTER` or `pattern [read|write|readwrite|deny] FILTER`',
  }
}

const ofEverybody = {
  users: undefined,
  clients: undefined,
  isOfAnonymous: false,
  commonNames: undefined,
  topics: undefined,
  qos: undefined,
  retain: undefined,
  groups: undefined,
} as const

/** @param path as the log names it */
export function readAcl(path: string, text: string): Rule[] {
  let user: string | undefined
  const [own, patterns]: [Rule[], Rule[]] = [[], []]
  for (const { line, number } of linesOf(text)) {
    const read = lineOf(line)
    if (read?.kind === 'user') user = read.user
    if (read === undefined || read.kind === 'user') continue
    const isPattern = read.kind === 'pattern'
    ;(isPattern ? patterns : own).push({
      ...ofEverybody,
      isAllowing: read.access !== 'deny',
      actions: accesses.get(read.access)!,
      users: isPattern || user === undefined ? undefined : [user],
      isOfAnonymous: !isPattern && user === undefined,
      topics: [filterTopics(read.filter, !isPattern)],
      place: `${path}:${number}`,
      text: line,
    })
  }
  if (own.length + patterns.length === 0) return []
  const deniedFirst = (rules: readonly Rule[]): Rule[] => [
    ...rules.filter(({ isAllowing }) => !isAllowing),
    ...rules.filter(({ isAllowing }) => isAllowing),
  ]
  const subscribing: Rule = {
    ...ofEverybody,
    isAllowing: true,
    actions: ['subscribe'],
    place: path,
    text: 'every SUBSCRIBE is taken, as by Mosquitto',
  }
  return [...deniedFirst(own), ...deniedFirst(patterns), subscribing]
}
