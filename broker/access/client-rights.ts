// A cache over rules.ts, asked on the way of every message: the rules of each user, and recent decisions of
// each connection. State: both. Bounds: users, and of a connection topics, in number and length; what is not
// there is worked out again. New rules make a new `Rights`, and a new principal of a connection starts without
// cached decisions.
import { nameIn } from '../../bridge/index.ts'
import type { Principal } from './principal.ts'
import type { Question, Rule } from './rule.ts'
import { decidingRule, isOfUser, type Asker } from './rules.ts'

const usersMax = 10_000
/** Of a connection. */
const topicsMax = 64
const topicLengthMax = 256

export interface Decision {
  readonly isAllowed: boolean
  /** Undefined: none is about it. */
  readonly rule: Rule | undefined
}

/** What was decided of late for a connection, as long as it is this principal. */
interface Decided {
  readonly principal: Principal
  readonly byQuestion: Map<string, Decision>
}

const noRule: Decision = { isAllowed: false, rule: undefined }
const decisions = new WeakMap<Rule, Decision>()

function decisionOf(rule: Rule | undefined): Decision {
  if (rule === undefined) return noRule
  let decision = decisions.get(rule)
  if (decision === undefined) decisions.set(rule, (decision = { isAllowed: rule.isAllowing, rule }))
  return decision
}

export const areDeliveriesAsked = (rules: readonly Rule[]): boolean =>
  rules.some(({ actions }) => actions.includes('receive') !== actions.includes('subscribe'))

export class Rights {
  readonly #rules: readonly Rule[]
  /** Whether what no rule is about is denied. */
  readonly hasAny: boolean
  readonly #ofUser = new Map<string | undefined, readonly Rule[]>()
  readonly #decided = new WeakMap<Asker, Decided>()

  /** @param hasAny also with a file that has none: one that is just being written must not open everything */
  constructor(rules: readonly Rule[], hasAny = rules.length > 0) {
    this.#rules = rules
    this.hasAny = hasAny
  }

  /** Whether a subscription that is allowed may bring messages that are not. */
  get areDeliveriesAsked(): boolean {
    return areDeliveriesAsked(this.#rules)
  }

  #rulesOf(asker: Asker): readonly Rule[] {
    const { user } = asker.principal
    const key = asker.tenant === undefined || user === undefined ? user : nameIn(asker.tenant.name, user)
    let rules = this.#ofUser.get(key)
    if (rules === undefined) {
      if (this.#ofUser.size >= usersMax) this.#ofUser.clear()
      this.#ofUser.set(key, (rules = this.#rules.filter((rule) => isOfUser(rule, asker))))
    }
    return rules
  }

  decide(question: Question, asker: Asker): Decision {
    const { action, topic, qos, retain } = question
    if (action === 'subscribe' || topic.length > topicLengthMax) return this.#find(question, asker)
    const { principal } = asker
    let decided = this.#decided.get(asker)
    if (decided?.principal !== principal)
      this.#decided.set(asker, (decided = { principal, byQuestion: new Map() }))
    const { byQuestion } = decided
    const key = `${action === 'receive' ? 'r' : qos + (retain ? 3 : 0)}${topic}`
    let decision = byQuestion.get(key)
    if (decision === undefined) {
      if (byQuestion.size >= topicsMax) byQuestion.clear()
      byQuestion.set(key, (decision = this.#find(question, asker)))
    }
    return decision
  }

  #find(question: Question, asker: Asker): Decision {
    const own = asker.principal.permissions
    const rules = this.#rulesOf(asker)
    return decisionOf(decidingRule(own === undefined ? rules : [...own, ...rules], question, asker))
  }
}
