// `aedes-cluster access explain`: whether a client may publish, subscribe or receive, and by which rule, as a node of this
// configuration would decide it. Asks no node: what a token or another system grants a client is not known here.
import { hasRules, rulesOf } from '../access/access.ts'
import { nobody } from '../access/principal.ts'
import { Rights } from '../access/rights.ts'
import { actions, type Question } from '../access/rule.ts'
import { isShared, isValidFilter, isValidTopic, sharedFilterOf } from '../../bridge/index.ts'
import { accessFilesOf, flagOf, loadConfig } from '../config/config.ts'
import { usage } from '../config/sources.ts'
import { OperatorError } from '../errors.ts'
import { isReserved } from '../protocol/control-packets.ts'
import { parseArguments, type FlagShape } from './arguments.ts'
import { nodeFlags } from './node.ts'

/** The flags of `access explain`, besides those of a node. */
export const accessFlags: Record<string, FlagShape & { readonly shape: string; readonly about: string }> = {
  client: { shape: 'id', about: 'its Client Identifier' },
  user: { shape: 'name', about: 'its user name; without it, somebody whom nobody knows' },
  cn: { shape: 'name', about: 'the common name of its certificate' },
  publish: { shape: 'topic', about: 'what it would publish to' },
  subscribe: { shape: 'filter', about: 'what it would subscribe to' },
  receive: { shape: 'topic', about: 'what it would be sent' },
  qos: { shape: '0|1|2', about: 'with which QoS [0]' },
  retain: { switch: true, shape: '', about: 'with RETAIN' },
}

/** @throws OperatorError for all that is wrong with the command line */
function questionOf(values: Readonly<Record<string, unknown>>): Question {
  const problems: OperatorError[] = []
  const asked = actions.filter((action) => values[action] !== undefined)
  const [action = 'publish'] = asked
  const { [action]: given, qos = '0' } = values
  const text = typeof given === 'string' ? given : ''
  if (asked.length !== 1)
    problems.push(
      usage(
        'access explain',
        undefined,
        'asks about one thing',
        `Write one of ${actions.map(flagOf).join(', ')}`,
      ),
    )
  else if (!(action === 'subscribe' ? isValidFilter(text) : isValidTopic(text)))
    problems.push(usage(flagOf(action), text, 'is none', 'Write it as a client would'))
  if (typeof qos !== 'string' || !/^[012]$/.test(qos))
    problems.push(usage('--qos', qos, 'is none', 'Use 0, 1 or 2'))
  OperatorError.throwAll(problems)
  const shared = isShared(text) ? sharedFilterOf(text) : undefined
  return {
    action,
    topic: shared?.filter ?? text,
    qos: Number(qos) as 0 | 1 | 2,
    retain: values.retain === true,
    group: shared?.share,
  }
}

/** @throws OperatorError when an option or a file is wrong */
export async function access(argv: readonly string[]): Promise<void> {
  const [word, ...rest] = argv
  if (word !== 'explain')
    throw usage(
      'access',
      undefined,
      'has one part',
      'Write aedes-cluster access explain …; see aedes-cluster help access',
    )
  const { values, problems } = parseArguments(rest, { ...nodeFlags, ...accessFlags })
  const { client, user, cn, publish, subscribe, receive, qos, retain, ...flags } = values
  const config = loadConfig(flags, process.env, problems)
  const question = questionOf({ publish, subscribe, receive, qos, retain })
  const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined)
  const certificate =
    cn === undefined
      ? undefined
      : {
          commonName: text(cn),
          organization: undefined,
          unit: undefined,
          alternativeName: undefined,
          serial: '',
          fingerprint: '',
        }
  const asker = { clientId: text(client) ?? '', principal: { ...nobody, user: text(user), certificate } }
  const files = accessFilesOf(config)
  const rights = new Rights(rulesOf(files), hasRules(files))
  process.stdout.write(`${verdictOf(rights, question, asker)}\n`)
}

function verdictOf(rights: Rights, question: Question, asker: Parameters<Rights['decide']>[1]): string {
  if (question.action === 'publish' && isReserved(question.topic))
    return 'denied: what is below $SYS/ the node alone publishes, whatever rules say'
  if (!rights.hasAny) return 'allowed: there are no rules'
  const { isAllowed, rule } = rights.decide(question, asker)
  if (rule === undefined)
    return question.action === 'publish' && question.topic.startsWith('$')
      ? 'denied: where there are rules nobody publishes to topics that begin with $'
      : 'denied: no rule is about it'
  return `${isAllowed ? 'allowed' : 'denied'} by ${rule.place} (${rule.text})`
}
