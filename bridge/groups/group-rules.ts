// The names of the strategies, and the rules that say which group has which. Who is picked by them: a node in
// node-picks.ts, one of its members in broker/groups/local-groups.ts, and of a group with a backlog a member in
// redis/lua/group-serve.lua. No state.
import { ownFilter } from '../matching/tenant.ts'
import { filterMatches } from '../matching/topic.ts'

/**
 * Who gets the next message, by strategy. A member without room is skipped, unless the strategy's text says
 * that it is waited for. `demand` looks at windows within one node, or within a group with a backlog; of
 * several nodes with members of a group without one they take turns.
 */
export const strategies = {
  demand: 'whose window is freest',
  'round-robin': 'the one after the last one',
  random: 'anyone',
  sticky: 'the same one while it can take messages; of several nodes with members, the first by name',
  'hash-client':
    'the same one for all messages of a publisher, by its Client Identifier; it is waited for, until 100 messages wait',
  'hash-topic': 'the same one for all messages of a topic; it is waited for, until 100 messages wait',
  'local-first': "one on the publisher's node, if any can",
} as const

export type Strategy = keyof typeof strategies

export interface GroupRule {
  readonly strategy: Strategy
  /** One message of a topic in flight at a time, so that its order survives a member. */
  readonly ordered: boolean
}

const defaultRule: GroupRule = { strategy: 'demand', ordered: false }

interface Rule extends GroupRule {
  /** A filter that `{ShareName}/{filter}` is matched with. */
  readonly pattern: string
}

/** Rules as an operator writes them: `{pattern}={strategy}`, `{pattern}={strategy}+ordered`, separated by `;`. */
export class GroupRules {
  readonly #rules: readonly Rule[]

  /** @throws RangeError what is wrong with the text */
  constructor(text = '') {
    this.#rules = text
      .split(';')
      .map((rule) => rule.trim())
      .filter((rule) => rule !== '')
      .map(ruleOf)
  }

  /** The first rule whose pattern matches the group; without any `demand`. */
  of(group: string): GroupRule {
    const own = ownFilter(group)
    const name = own.slice(own.indexOf('/') + 1)
    return this.#rules.find(({ pattern }) => filterMatches(pattern, name)) ?? defaultRule
  }
}

function ruleOf(text: string): Rule {
  const at = text.lastIndexOf('=')
  const [pattern, how] = [text.slice(0, Math.max(at, 0)).trim(), text.slice(at + 1).trim()]
  const ordered = how.endsWith('+ordered') || how === 'ordered'
  const strategy = how === 'ordered' ? 'demand' : how.replace(/\+ordered$/, '')
  if (pattern === '') throw new RangeError('has a rule without a pattern')
  if (!Object.hasOwn(strategies, strategy)) throw new RangeError('names a strategy that is none')
  return { pattern, strategy: strategy as Strategy, ordered }
}
