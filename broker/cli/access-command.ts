// `aedes-cluster access explain`: whether a client may publish, subscribe or receive, and by which rule, as a node of this
// configuration would decide it. Asks no node: what a token or another system grants a client is not known here.
// `access write`, `show` and `remove`: the rules that stand in the Redis of the cluster.
import { hasRules, rulesOf, storedPlace } from '../access/access.ts'
import { nobody } from '../access/principal.ts'
import { Rights } from '../access/client-rights.ts'
import { actions, type Question, type Rule } from '../access/rule.ts'
import { readRules } from '../access/rules-file.ts'
import {
  BridgeError,
  isShared,
  isTenant,
  isValidFilter,
  isValidTopic,
  sharedFilterOf,
  storedRulesBytesMax,
  type AccessChanges,
} from '../../bridge/index.ts'
import { accessFilesOf, flagOf, loadConfig, operatorErrorOf, storeOf, type Config } from '../config/config.ts'
import { usage } from '../config/sources.ts'
import { OperatorError } from '../operator-errors.ts'
import { isReserved } from '../protocol/control-packets.ts'
import { parseArguments, type FlagShape } from './arguments.ts'
import { nodeFlags } from './node-command.ts'
import { missingStore } from './passwd.ts'

/** The flags of `access explain`, besides those of a node. */
export const accessFlags: Record<string, FlagShape & { readonly shape: string; readonly about: string }> = {
  client: { shape: 'id', about: 'its Client Identifier' },
  user: { shape: 'name', about: 'its user name; without it, somebody whom nobody knows' },
  tenant: { shape: 'name', about: 'its tenant: topics are as it has them' },
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
  const change = changes.get(word ?? '')
  if (change !== undefined) return changeStored(rest, change)
  if (word !== 'explain')
    throw usage(
      'access',
      undefined,
      'does not do that',
      'Write access explain, access write, access show or access remove; see aedes-cluster help access',
    )
  const { values, problems } = parseArguments(rest, { ...nodeFlags, ...accessFlags })
  const { client, user, tenant, cn, publish, subscribe, receive, qos, retain, ...flags } = values
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
  const of = text(tenant)
  if (of !== undefined && !isTenant(of))
    throw usage(
      '--tenant',
      of,
      'can be no tenant',
      'Use 1 to 64 letters, digits, dots, dashes or underscores',
    )
  const asker = {
    clientId: text(client) ?? '',
    principal: { ...nobody, user: text(user) },
    tenant: of === undefined ? undefined : { name: of },
    certificate,
  }
  const files = accessFilesOf(config)
  const stored = config.storedRules === 'on' ? await storedRules(config) : undefined
  const rights = new Rights([...rulesOf(files), ...(stored ?? [])], stored !== undefined || hasRules(files))
  process.stdout.write(`${verdictOf(rights, question, asker)}\n`)
}

// Rules in the store

type Change = (access: AccessChanges, text: string | undefined) => Promise<string>

const changes = new Map<string, Change>([
  [
    'write',
    async (access, text) => {
      if (text === undefined)
        throw usage('--rules-file', undefined, 'is missing', 'Write --rules-file FILE, the rules to write')
      if (Buffer.byteLength(text) > storedRulesBytesMax)
        throw usage(
          '--rules-file',
          undefined,
          `has more than ${storedRulesBytesMax} bytes`,
          'Write fewer rules',
        )
      await access.setRules(text)
      return 'the rules of the cluster are those of the file\n'
    },
  ],
  ['show', async (access) => (await access.rules()) ?? ''],
  ['remove', async (access) => (await access.setRules(undefined), 'there are no rules of the cluster\n')],
])

/** @throws OperatorError when an option is wrong, or Redis cannot be reached */
async function changeStored(argv: readonly string[], change: Change): Promise<void> {
  const { values, problems } = parseArguments(argv, nodeFlags)
  const config = loadConfig(values, process.env, problems)
  const text = accessFilesOf(config).rulesFile?.text
  process.stdout.write(await ofStore(config, (access) => change(access, text)))
}

async function ofStore<T>(config: Config, use: (access: AccessChanges) => Promise<T>): Promise<T> {
  const store = storeOf(config)
  const changeAccess = store.changeAccess ?? missingStore()
  try {
    return await changeAccess(use)
  } catch (error) {
    throw error instanceof BridgeError ? operatorErrorOf(config, store, error) : error
  }
}

async function storedRules(config: Config): Promise<readonly Rule[]> {
  return readRules(storedPlace, (await ofStore(config, (access) => access.rules())) ?? '').rules
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
