// What a principal may do, as rules in their order: the first that is about a question decides it, and where there are
// rules what none is about is denied. A question about a topic is decided by the first rule whose topics have it. One about
// a filter by the first rule that allows all that the filter matches, or denies some of it: so whoever may subscribe to a
// filter may subscribe to each topic in it. No state.
import { ownName } from '../../bridge/index.ts'
import type { Certificate, Principal } from './principal.ts'
import { ownUser } from './tenancy.ts'
import type { Level, Name, Piece, Question, Rule, Topics } from './rule.ts'

/** Who asks. */
export interface Asker {
  /** Of a tenant: as it is called outside. */
  readonly clientId: string
  readonly tenant?: { readonly name: string } | undefined
  readonly principal: Principal
  /** The certificate that its connection has shown and its listener trusts. */
  readonly certificate?: Certificate | undefined
}

/** As its tenant calls it. */
export const userOf = ({ principal, tenant }: Asker): string | undefined =>
  ownUser(principal.user, tenant?.name)

const ofCertificate =
  (name: keyof Certificate) =>
  ({ certificate }: Asker): string | undefined =>
    certificate?.[name]

/** What stands for what, in a topic of a rule. */
export const placeholders = new Map<string, (asker: Asker) => string | undefined>([
  ['%c', ({ clientId }) => ownName(clientId)],
  ['%u', (asker) => userOf(asker)],
  ['%{cn}', ofCertificate('commonName')],
  ['%{o}', ofCertificate('organization')],
  ['%{ou}', ofCertificate('unit')],
  ['%{san}', ofCertificate('alternativeName')],
  ['%{serial}', ofCertificate('serial')],
  ['%{fingerprint}', ofCertificate('fingerprint')],
])

function levelOf(text: string): Level {
  if (!text.includes('%')) return text
  const pieces = text
    .split(/(%c|%u|%\{\w+\})/)
    .filter((piece) => piece !== '')
    .map((piece): Piece => (placeholders.has(piece) ? { placeholder: piece } : piece))
  return pieces.every((piece) => typeof piece === 'string') ? text : pieces
}

/** @param isLiteral `%c` is nothing but two characters */
export const filterTopics = (filter: string, isLiteral = false): Topics => ({
  kind: 'filter',
  levels: isLiteral ? filter.split('/') : filter.split('/').map(levelOf),
})

export const prefixTopics = (prefix: string): Topics => ({ kind: 'prefix', prefix })

const isOfCertificate = (piece: Piece): boolean =>
  typeof piece !== 'string' && piece.placeholder.startsWith('%{')

/**
 * A rule as it holds for a client whose certificate is not known any more, in favour of the client: what it
 * asks of the certificate is taken to be so where it allows, and not to be so where it denies.
 */
export function withoutCertificate(rule: Rule): Rule[] {
  const asks = (topics: Topics): boolean =>
    topics.kind === 'filter' &&
    topics.levels.some((level) => typeof level !== 'string' && level.some(isOfCertificate))
  if (rule.commonNames === undefined && rule.topics?.some(asks) !== true) return [rule]
  if (!rule.isAllowing) return []
  const open = (level: Level): Level =>
    typeof level !== 'string' && level.some(isOfCertificate) ? '+' : level
  const topics = rule.topics?.map((some): Topics =>
    some.kind === 'filter' ? { ...some, levels: some.levels.map(open) } : some,
  )
  return [{ ...rule, commonNames: undefined, topics }]
}

/** What may stand in a level: nothing that would be more than one, or a wildcard. */
const isOneLevel = (text: string | undefined): text is string =>
  text !== undefined && text !== '' && !/[+#/]/.test(text)

/**
 * The levels of a rule with the placeholders of the asker filled in. If a value cannot be one level, a rule
 * that allows matches nothing, and one that denies becomes `#` from there on.
 */
function resolved(
  levels: readonly Level[],
  asker: Asker,
  isAllowing: boolean,
): readonly string[] | undefined {
  if (levels.every((level) => typeof level === 'string')) return levels
  const all: string[] = []
  for (const level of levels) {
    if (typeof level === 'string') all.push(level)
    else {
      const parts = level.map((piece) =>
        typeof piece === 'string' ? piece : placeholders.get(piece.placeholder)!(asker),
      )
      if (!parts.every((part, i) => typeof level[i] === 'string' || isOneLevel(part))) {
        if (isAllowing) return undefined
        all.push('#')
        return all
      }
      all.push(parts.join(''))
    }
  }
  return all
}

const isWildcard = (level: string | undefined): boolean => level === '+' || level === '#'

/** Wildcards in the first level match nothing that begins with `$` [MQTT-4.7.2-1]. */
const isApart = (a: string | undefined, b: string | undefined): boolean =>
  isWildcard(a) && b?.startsWith('$') === true

/** Whether `wide` matches all that `asked`, a filter or topic, does. */
export function covers(wide: readonly string[], asked: readonly string[]): boolean {
  if (isApart(wide[0], asked[0])) return false
  for (let i = 0; i < wide.length; i++) {
    if (wide[i] === '#') return true // also the level above it
    if (i >= asked.length || asked[i] === '#') return false
    if (wide[i] !== '+' && wide[i] !== asked[i]) return false
  }
  return wide.length === asked.length
}

/** Whether there is a topic that both match. */
export function overlaps(one: readonly string[], other: readonly string[]): boolean {
  if (isApart(one[0], other[0]) || isApart(other[0], one[0])) return false
  for (let i = 0; ; i++) {
    if (one[i] === '#' || other[i] === '#') return true
    if (i >= one.length || i >= other.length) return one.length === other.length
    if (one[i] !== '+' && other[i] !== '+' && one[i] !== other[i]) return false
  }
}

/** What all that a filter matches begins with. */
function headOf(levels: readonly string[]): string {
  const at = levels.findIndex(isWildcard)
  if (at < 0) return levels.join('/')
  const head = levels.slice(0, at).join('/')
  return levels[at] === '#' || at === 0 ? head : `${head}/`
}

function isAbout(topics: Topics, asked: readonly string[], asker: Asker, isAllowing: boolean): boolean {
  if (topics.kind === 'prefix') {
    const { prefix } = topics
    const head = headOf(asked)
    if (head.startsWith(prefix)) return true
    return !isAllowing && asked.some(isWildcard) && prefix.startsWith(head) && !isApart(asked[0], prefix)
  }
  const levels = resolved(topics.levels, asker, isAllowing)
  if (levels === undefined) return false
  return isAllowing ? covers(levels, asked) : overlaps(levels, asked)
}

// Rules

const isNamed = (names: readonly Name[] | undefined, name: string | undefined): boolean =>
  names === undefined ||
  (name !== undefined &&
    names.some((one) => (typeof one === 'string' ? one === name : name.startsWith(one.prefix))))

/** Whether a rule may be about this user, whatever the question: as he logs in, or as his tenant calls him. */
export const isOfUser = ({ users, isOfAnonymous }: Rule, asker: Asker): boolean => {
  const { user } = asker.principal
  return (isNamed(users, user) || isNamed(users, userOf(asker))) && (!isOfAnonymous || user === undefined)
}

/** @returns the rule that decides; undefined: none is about it, which denies it */
export function decidingRule(rules: readonly Rule[], question: Question, asker: Asker): Rule | undefined {
  const { action, topic, qos, retain, group } = question
  if (action === 'publish' && topic.startsWith('$')) return undefined // the broker's [MQTT-4.7.2-1]
  const { certificate } = asker
  const clientId = ownName(asker.clientId)
  const asked = topic.split('/')
  return rules.find(
    (rule) =>
      rule.actions.includes(action) &&
      isOfUser(rule, asker) &&
      (rule.tenants === undefined || isNamed(rule.tenants, asker.tenant?.name)) &&
      isNamed(rule.clients, clientId) &&
      (rule.commonNames === undefined || isNamed(rule.commonNames, certificate?.commonName)) &&
      (rule.qos === undefined || action === 'receive' || rule.qos.includes(qos)) &&
      (rule.retain === undefined || action !== 'publish' || rule.retain === retain) &&
      (rule.groups === undefined || action !== 'subscribe' || isNamed(rule.groups, group)) &&
      (rule.topics === undefined ||
        rule.topics.some((topics) => isAbout(topics, asked, asker, rule.isAllowing))),
  )
}
