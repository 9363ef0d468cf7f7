// Rules (broker/access/rules.ts, client-rights.ts) against a naive oracle: thousands of random sets of rules, clients and topics.
import { expect, test } from 'vitest'
import { readAcl } from '../../broker/access/mosquitto-acl.ts'
import { nobody, type Principal } from '../../broker/access/principal.ts'
import { Rights } from '../../broker/access/client-rights.ts'
import { actions, type Question, type Rule } from '../../broker/access/rule.ts'
import { readPermissions, readRules, rulesFileProblem } from '../../broker/access/rules-file.ts'
import { filterMatches } from '../../bridge/index.ts'
import { seededRandom } from '../support/random.ts'

interface Plain {
  allow?: string[]
  deny?: string[]
  topic?: string[]
  prefix?: string[]
  user?: string[]
  client?: string[]
  anonymous?: boolean
  qos?: number[]
  retain?: boolean
  group?: string[]
}

const names = ['a', 'b', '', '$s', 'ab']
const clients = ['a', 'b', 'a/b', '+', '']
const users = [undefined, 'a', 'b', '#']
const words: Record<string, readonly string[]> = {
  publish: ['publish'],
  subscribe: ['subscribe'],
  receive: ['receive'],
  read: ['subscribe', 'receive'],
  write: ['publish'],
  all: actions,
}
const topics = [
  ...names,
  ...names.flatMap((one) => names.map((two) => `${one}/${two}`)),
  'a/b/a',
  'a/a/b',
].filter((topic) => topic !== '')

/** What the rule says of one topic, from its words alone. */
function isAbout(
  rule: Plain,
  { action, topic, qos, retain, group }: Question,
  clientId: string,
  user?: string,
): boolean {
  const words_ = rule.allow ?? rule.deny!
  const ends = (list: string[] | undefined, name: string | undefined): boolean =>
    list === undefined || list.some((one) => (one === '*' ? name !== undefined : one === name))
  if (!words_.some((word) => words[word]!.includes(action))) return false
  if (!ends(rule.user, user) || !ends(rule.client, clientId)) return false
  if (rule.anonymous === true && user !== undefined) return false
  if (rule.qos !== undefined && action !== 'receive' && !rule.qos.includes(qos)) return false
  if (rule.retain !== undefined && action === 'publish' && rule.retain !== retain) return false
  if (rule.group !== undefined && action === 'subscribe' && !ends(rule.group, group)) return false
  if (rule.topic === undefined && rule.prefix === undefined) return true
  if (rule.prefix?.some((prefix) => topic.startsWith(prefix)) === true) return true
  return (rule.topic ?? []).some((filter) => {
    const isSafe = (value: string | undefined): boolean =>
      value !== undefined && value !== '' && !/[+#/]/.test(value)
    let about = filter
    if (isSafe(clientId)) about = about.replaceAll('%c', clientId)
    if (isSafe(user)) about = about.replaceAll('%u', user!)
    if (!/%[cu]/.test(about)) return filterMatches(about, topic)
    return rule.allow === undefined && filterMatches(about.replace(/[^/]*%[cu].*/, '#'), topic)
  })
}

function oracle(rules: readonly Plain[], question: Question, clientId: string, user?: string): boolean {
  if (question.action === 'publish' && question.topic.startsWith('$')) return false
  return rules.find((rule) => isAbout(rule, question, clientId, user))?.allow !== undefined
}

test('what is decided is what a naive reading of the rules decides, and who may subscribe may each topic', () => {
  const source = seededRandom()
  const { seed } = source
  const pick = <T>(all: readonly T[]): T => source.pick(all)
  const random = (): number => source.below(1_000_000) / 1_000_000
  const some = <T>(all: readonly T[]): T[] => [pick(all), ...(random() < 0.3 ? [pick(all)] : [])]
  const maybe = <T>(chance: number, make: () => T): T | undefined => (random() < chance ? make() : undefined)
  const filterOf = (): string =>
    Array.from({ length: 1 + Math.floor(random() * 3) }, (_, i) =>
      random() < 0.3
        ? '+'
        : random() < 0.15
          ? pick(['%c', '%u', 'x%c'])
          : i === 0 && random() < 0.1
            ? '$s'
            : pick(names),
    ).join('/') + (random() < 0.4 ? '/#' : '')
  const ruleOf = (): Plain => {
    const done = some(Object.keys(words))
    return JSON.parse(
      JSON.stringify({
        ...(random() < 0.6 ? { allow: done } : { deny: done }),
        topic: maybe(0.8, () => some([filterOf(), filterOf(), '#']).map((one) => (one === '' ? 'a' : one))),
        prefix: maybe(0.15, () => some(['a', 'a/', 'b/a', '$s'])),
        user: maybe(0.3, () => some(['a', 'b', '*'])),
        client: maybe(0.2, () => some(['a', 'b', '*'])),
        anonymous: maybe(0.1, () => true),
        qos: maybe(0.2, () => some([0, 1, 2])),
        retain: maybe(0.2, () => random() < 0.5),
        group: maybe(0.1, () => some(['g', 'h', '*'])),
      }),
    ) as Plain
  }
  const filters = [...topics, '#', '+', 'a/#', 'a/+', '+/b', '+/#', '$s/#', '$s/+', 'b/+/a']
  let allowed = 0
  const rounds = process.env.TEST_BRIEF === undefined ? 2_500 : 250
  for (let round = 0; round < rounds; round++) {
    const plain = Array.from({ length: 1 + Math.floor(random() * 6) }, ruleOf)
    const rules = readPermissions(plain, 'it')
    expect(rules, `seed ${seed}: ${JSON.stringify(plain)}`).toBeDefined()
    const rights = new Rights(rules!)
    const [clientId, user] = [pick(clients), pick(users)]
    const asker = { clientId, principal: { ...nobody, user } satisfies Principal }
    for (let i = 0; i < 4; i++) {
      const about = {
        qos: pick([0, 1, 2] as const),
        retain: random() < 0.5,
        group: random() < 0.2 ? pick(['g', 'h']) : undefined,
      }
      // the text is made when it is needed alone
      const same = (found: boolean, wanted: boolean, what: Question): void => {
        if (found !== wanted)
          expect(found, `seed ${seed}: ${JSON.stringify({ plain, clientId, user, what })}`).toBe(wanted)
      }
      const action = pick(['publish', 'receive'] as const)
      const question: Question = { ...about, action, topic: pick(topics), group: undefined }
      // twice: from the cache, too
      for (const _ of [1, 2])
        same(rights.decide(question, asker).isAllowed, oracle(plain, question, clientId, user), question)
      const filter = pick(filters)
      const subscribe: Question = { ...about, action: 'subscribe', topic: filter, retain: false }
      const isAllowed = rights.decide(subscribe, asker).isAllowed
      allowed += Number(isAllowed)
      const matched = topics.filter((topic) => filterMatches(filter, topic))
      if (isAllowed)
        for (const topic of matched)
          same(true, oracle(plain, { ...subscribe, topic }, clientId, user), { ...subscribe, topic })
      else if (matched.length === 1 && matched[0] === filter)
        same(false, oracle(plain, subscribe, clientId, user), subscribe)
    }
  }
  expect(allowed).toBeGreaterThan(rounds / 5) // or the half of it that matters was not tried
})

test('a file of rules says what is wrong with it by its lines', () => {
  const problemOf = (text: string): string => Object.values(rulesFileProblem(text) ?? {}).join('. ')
  for (const [text, says] of [
    ['rules:\n  - allow: publish\n    topc: a', 'line 3, rules[0].topc: is not part of a rule'],
    ['rules:\n  - topic: a', 'line 2, rules[0]: needs one of allow and deny'],
    ['rules:\n  - { allow: publish, deny: publish }', 'line 2, rules[0]: needs one of'],
    ['rules:\n  - allow: fly', 'line 2, rules[0].allow: names what nobody can do'],
    ['rules:\n  - { allow: all, topic: a#b }', 'line 2, rules[0].topic: is not a topic or filter'],
    ['rules:\n  - { allow: all, topic: "%{x}" }', 'stands for nothing: use %c, %u, %{cn}'],
    ['rules:\n  - { allow: all, prefix: a/%c/ }', 'rules[0].prefix: has %c, and is taken as it is written'],
    ['rules:\n  - { allow: all, qos: 3 }', 'line 2, rules[0].qos: is none of those'],
    ['rule: []', 'line 1, rule: is not known here'],
    ['rules: x', 'line 1, rules: must be a list of rules'],
    ['rules: [', 'line 1: is not YAML'],
    [`rules: ${'['.repeat(10_000)}`, 'line 1: is not YAML (nested too deep)'],
    [`rules:\n${'- '.repeat(10_000)}x`, 'is'],
  ])
    expect(problemOf(text!), text).toContain(says)
  expect(problemOf('rules:\n  - { allow: read, topic: [a/%c/#, "%{cn}/x"] }')).toBe('')
  // as deep as a token has room for
  expect(readPermissions(JSON.parse(`${'['.repeat(30_000)}${']'.repeat(30_000)}`), 'x')).toBeUndefined()
  const { rules } = readRules('rules.yaml', 'rules:\n  - allow: all\n    user: [ann, b*]\n')
  expect(rules.map(({ place, text }) => [place, text])).toEqual([
    ['rules.yaml:2', 'allow: all; user: ann, b*'],
  ])
})

test('an acl_file of Mosquitto: denials first, patterns last, nothing of %c in topic lines', () => {
  const acl = `# everybody without a name
topic read news/#
user ann
topic readwrite jobs/+
topic deny jobs/secret
topic %c/literal
user adm*
topic write adm
pattern write devices/%c/#
pattern deny devices/%c/lock
`
  const rights = new Rights(readAcl('acl', acl))
  const may = (
    user: string | undefined,
    clientId: string,
    action: Question['action'],
    topic: string,
  ): string => {
    const asker = { clientId, principal: { ...nobody, user } satisfies Principal }
    const { rule } = rights.decide({ action, topic, qos: 0, retain: false, group: undefined }, asker)
    return rule === undefined ? 'no' : `${rule.isAllowing ? 'yes' : 'no'} ${rule.place}`
  }
  expect([
    may(undefined, 'c', 'receive', 'news/today'),
    may('ann', 'c', 'receive', 'news/today'),
    may('ann', 'c', 'publish', 'jobs/1'),
    may('ann', 'c', 'publish', 'jobs/secret'),
    may('bob', 'c', 'publish', 'jobs/1'),
    may('ann', 'c', 'publish', '%c/literal'),
    may('ann', 'c', 'publish', 'c/literal'),
    may('bob', 'c', 'publish', 'devices/c/on'),
    may('bob', 'd', 'publish', 'devices/c/on'),
    may('bob', 'c', 'publish', 'devices/c/lock'),
    may('bob', '+', 'publish', 'devices/+/on'),
    may('bob', 'c', 'receive', 'devices/c/on'),
    may('bob', 'c', 'subscribe', '#'),
    may('adm*', 'c', 'publish', 'adm'),
    may('admin', 'c', 'publish', 'adm'),
  ]).toEqual([
    'yes acl:2',
    'no',
    'yes acl:4',
    'no acl:5',
    'no',
    'yes acl:6',
    'no',
    'yes acl:9',
    'no',
    'no acl:10',
    'no acl:10',
    'no',
    'yes acl',
    'yes acl:8',
    'no',
  ])
  const all = readAcl('acl', acl) as readonly Rule[]
  expect(all.map(({ place }) => place)).toEqual([
    'acl:5',
    'acl:2',
    'acl:4',
    'acl:6',
    'acl:8',
    'acl:10',
    'acl:9',
    'acl',
  ])
})
