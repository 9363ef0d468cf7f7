// `aedes-cluster bans list|add|remove`: who may not connect, in the whole cluster, by its Redis. The nodes hear of it
// within a second, and end the connections of those who are banned.
import {
  banKinds,
  BridgeError,
  importTargets,
  isTenant,
  ownName,
  tenantOfName,
  type BanChanges,
  type BanKind,
} from '../../bridge/index.ts'
import { isNetwork } from '../access/networks.ts'
import { bannedIn } from '../access/tenancy.ts'
import { flagOf, loadConfig, nearest, operatorErrorOf, options, storeOf } from '../config/config.ts'
import { usage } from '../config/sources.ts'
import type { OperatorError } from '../operator-errors.ts'
import { parseArguments, type FlagShape } from './arguments.ts'

/** The flags of `bans`, as the help shows them. */
export const bansFlags: Record<string, FlagShape & { readonly shape: string; readonly about: string }> = {
  client: { shape: 'id', about: 'a Client Identifier' },
  user: { shape: 'name', about: 'a user' },
  network: { shape: 'network', about: 'an address, or a network: 10.0.0.0/8' },
  tenant: {
    shape: 'name',
    about: 'of this tenant; --client has it where tenants are on, --user unless it is tenant/name',
  },
  reason: { shape: 'text', about: 'why, for the log and for whoever lists them' },
  seconds: { shape: 's', about: 'how long; without it until it is removed' },
  ...Object.fromEntries(
    Object.entries(importTargets).map(([name, about]) => [
      name,
      { shape: options[name as keyof typeof importTargets].shape, about },
    ]),
  ),
}

export const bansAbout = `  Takes effect on all nodes within a second; who is connected is told to go (0x98). A node without Redis keeps its own, and forgets
  them when it ends: a program that embeds it bans with node.ban().
`

const actions = ['list', 'add', 'remove'] as const
type Action = (typeof actions)[number]

const secondsMax = 10 * 365 * 86_400

interface Asked {
  readonly kind: BanKind
  readonly name: string
  readonly tenant: string | undefined
  readonly reason: string
  readonly seconds: number | undefined
}

function actionOf(word: string | undefined): Action {
  const action = actions.find((one) => one === word)
  if (action !== undefined) return action
  const near = word === undefined ? undefined : nearest(word, actions)
  throw usage(
    'bans',
    undefined,
    word === undefined ? 'wants to be told what to do' : 'does not do that',
    near === undefined ? `Write bans ${actions.join(', bans ')}` : `Did you mean bans ${near}?`,
  )
}

/** Whom it is about; undefined, with what is wrong among the problems. */
function askedOf(
  values: Readonly<Record<string, unknown>>,
  action: Action,
  problems: OperatorError[],
): Asked | undefined {
  const named = banKinds.filter((kind) => values[kind] !== undefined)
  const [kind] = named
  const name = kind === undefined ? '' : (values[kind] as string)
  const { reason = '', seconds, tenant } = values as { reason?: string; seconds?: string; tenant?: string }
  if (action === 'list') return undefined
  if (kind === undefined || named.length > 1)
    problems.push(
      usage('bans', undefined, 'wants one of whom', 'Write one of --client, --user and --network'),
    )
  else if (name === '' || Buffer.byteLength(name) > 65_535)
    problems.push(usage(flagOf(kind), undefined, 'has no value', 'Write whom it is about'))
  else if (kind === 'network' && !isNetwork(name))
    problems.push(
      usage('--network', name, 'is not an address or network', 'Write 192.0.2.7, 10.0.0.0/8 or fd00::/8'),
    )
  if (tenant !== undefined && !isTenant(tenant))
    problems.push(
      usage(
        '--tenant',
        tenant,
        'can be no tenant',
        'Use 1 to 64 letters, digits, dots, dashes or underscores',
      ),
    )
  if (Buffer.byteLength(reason) > 1_024)
    problems.push(usage('--reason', undefined, 'is longer than 1024 bytes', 'Say it shorter'))
  if (
    seconds !== undefined &&
    (!/^\d{1,9}$/.test(seconds) || Number(seconds) < 1 || Number(seconds) > secondsMax)
  )
    problems.push(usage('--seconds', seconds, 'is not a number of seconds', `Use 1 to ${secondsMax}`))
  if (kind === undefined) return undefined
  return { kind, name, tenant, reason, seconds: seconds === undefined ? undefined : Number(seconds) }
}

const shownBan = (kind: BanKind, name: string, tenant: string | undefined): string =>
  `${kind} ${JSON.stringify(name)}${tenant === undefined ? '' : ` of tenant ${tenant}`}`

async function listed(bans: BanChanges): Promise<string> {
  const lines = (await bans.list()).map(({ kind, name, reason, endsAt }) => {
    const left = Math.ceil((endsAt - performance.now()) / 1_000)
    return `${shownBan(kind, ownName(name), tenantOfName(name))} ${endsAt === Infinity ? 'until it is removed' : `for ${left} s`}${reason === '' ? '' : `: ${JSON.stringify(reason)}`}\n`
  })
  return lines.length === 0 ? 'nobody is banned\n' : lines.sort().join('')
}

async function done(
  bans: BanChanges,
  action: Action,
  { kind, name, tenant, reason, seconds }: Asked,
): Promise<string> {
  const whom = bannedIn(tenant, kind, name)
  if (action === 'add') {
    if (await bans.add(kind, whom, reason, seconds)) return `banned ${shownBan(kind, name, tenant)}\n`
    throw usage('bans', undefined, 'are as many as there may be', 'Remove some: aedes-cluster bans list')
  }
  if (await bans.remove(kind, whom)) return `removed ${shownBan(kind, name, tenant)}\n`
  throw usage(flagOf(kind), name, 'is not banned', 'See aedes-cluster bans list')
}

/** @throws OperatorError when an option is wrong, or Redis cannot be reached */
export async function bansCommand(argv: readonly string[]): Promise<void> {
  const action = actionOf(argv[0])
  const { values, problems } = parseArguments(argv.slice(1), bansFlags)
  const found = [...problems]
  const asked = askedOf(values, action, found)
  const targets = Object.fromEntries(
    Object.entries(values).filter(([name]) => Object.hasOwn(importTargets, name)),
  )
  const config = loadConfig(targets, process.env, found)
  const store = storeOf(config)
  if (store.changeBans === undefined)
    throw usage(
      '--redis',
      undefined,
      'is missing',
      'Name the Redis of the cluster, e.g. --redis redis://host',
    )
  try {
    process.stdout.write(
      await store.changeBans((bans) => (asked === undefined ? listed(bans) : done(bans, action, asked))),
    )
  } catch (error) {
    throw error instanceof BridgeError ? operatorErrorOf(config, store, error) : error
  }
}
