// The Lua scripts: loaded from lua/*.lua, where one may include what another has, too; run by EVALSHA, their
// error replies mapped to BridgeErrors. A NOSCRIPT is answered by loading and is retryable, so that whoever
// keeps an order sends again in that order (R3). Every call is published before it is sent and when it was
// answered: a test can stop the process between any two.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { diagnostics } from '../diagnostics.ts'
import { mendDamage } from './damage.ts'
import { BridgeError, toBridgeError } from '../errors.ts'
import { lookAgain, mastersOf, type Redis } from './redis.ts'

/**
 * The scripts by name and how many keys each has. Which script writes which key stands in the line WRITES of each
 * lua/*.lua, and as tables in bridge/README.md, by script and by key.
 */
export const scriptTable = {
  rights: { keys: 1, meaning: 'which of our commands Redis refuses this user' },
  probe: { keys: 1, meaning: 'writes and removes a key: whether Redis stores' },
  'node-join': { keys: 7, meaning: 'registers a boot of a node' },
  'node-rejoin': { keys: 7, meaning: 'registers a living boot again after Redis lost its data' },
  'node-renew': { keys: 8, meaning: 'renews a lease and tells which are over' },
  'node-remove': { keys: 8, meaning: 'declares a node dead: the fence' },
  'journal-mend': { keys: 2, meaning: 'the end of the journal, made right when it was damaged' },
  'journal-append': { keys: 6, meaning: "changes of a node's routes, to its snapshot and to all" },
  'inbox-create': { keys: 2, meaning: "makes a node's inbox" },
  'inbox-append': { keys: 3, meaning: 'a numbered batch of messages for another node' },
  'inbox-trim': { keys: 2, meaning: 'frees what the reader handled' },
  'inbox-fence': { keys: 1, meaning: 'refuses what a dead node may still send' },
  'inbox-seal': { keys: 2, meaning: 'the inbox of a dead node takes nothing any more' },
  'key-aside': { keys: 2, meaning: 'puts a key of a wrong type out of the way' },
  'retained-store': { keys: 4, meaning: 'sets and clears Retained Messages of one partition' },
  'retained-read': { keys: 1, meaning: 'Retained Messages of one partition, as many as fit' },
  'retained-expire': { keys: 2, meaning: 'clears a Retained Message that has expired' },
  'session-claim': { keys: 13, alsoFull: true, meaning: 'makes a node the owner of a session: CONNECT' },
  'session-farewell': {
    keys: 4,
    meaning: 'the client said good-bye: its will is void, its session may live shorter or longer',
  },
  'session-release': { keys: 10, meaning: 'the connection is gone: expiry and will fall due' },
  'session-expire': { keys: 10, meaning: 'ends a session whose expiry has passed' },
  'session-check': { keys: 4, meaning: 'whether Redis still has what it must have of a node in a partition' },
  'session-assert': { keys: 10, meaning: 'writes a connected session down again after Redis lost its data' },
  'session-adopt': { keys: 4, meaning: 'gives a session that was built apart to its client: `import`' },
  'session-read': { keys: 9, meaning: 'all of a session as it is at one moment: `backup`' },
  'orphan-remove': {
    keys: 7,
    meaning: 'removes what is left of a session or group that is not there: `doctor --repair`',
  },
  'orphan-client': {
    keys: 3,
    meaning: 'removes a Client Identifier whose session is not there: `doctor --repair`',
  },
  'group-read': { keys: 3, meaning: 'what no member of a group has acknowledged: `backup`' },
  'session-subscribe': { keys: 3, alsoFull: true, meaning: "changes a session's subscriptions" },
  'session-serve': {
    keys: 1,
    meaning: 'what owners write about messages of many sessions: acknowledge, receive, move, take in',
  },
  'queue-append': { keys: 4, meaning: 'a numbered batch of messages for the queues of sessions' },
  'group-serve': {
    keys: 4,
    alsoFull: true,
    meaning:
      'what a node does with groups: members come, go and acknowledge, messages come and are given to members',
  },
  'due-list': { keys: 1, meaning: 'what is due in a partition' },
  'will-take': { keys: 2, meaning: 'takes a will that is due, to publish it' },
  'will-hold': { keys: 1, meaning: "wills that were taken stay the taker's for longer" },
  'bans-change': { keys: 1, meaning: 'bans somebody, or lifts a ban' },
  'access-change': { keys: 1, meaning: 'sets or removes a user, or the rules' },
  'bans-read': { keys: 1, meaning: 'the bans, when they changed' },
  'will-done': { keys: 2, meaning: 'a will was published: forgets it' },
} as const

export type ScriptName = keyof typeof scriptTable

const textOf = (file: string): string => readFileSync(new URL(`./lua/${file}.lua`, import.meta.url), 'utf8')

/**
 * What Redis gets. `-- @include name` is the text of a part (name, then .part.lua): what two scripts do
 * stands once.
 */
export const scriptText = (name: ScriptName): string =>
  textOf(name).replaceAll(/^-- @include (\S+)\n/gm, (_, part: string) => textOf(`${part}.part`))

const scripts = new Map(
  (Object.keys(scriptTable) as ScriptName[]).map((name) => {
    const source = Buffer.from(scriptText(name))
    return [name, { source, sha: createHash('sha1').update(source).digest('hex') }]
  }),
)

/**
 * Scripts that must run when Redis is full for some callers and must not for others: a session that is there
 * is claimed, so that its client comes and takes what fills Redis, and a new one is not. The same text with
 * another first line.
 */
const scriptsForFull = new Map(
  [...scripts]
    .filter(([name]) => 'alsoFull' in scriptTable[name])
    .map(([name, { source }]) => {
      const text = Buffer.from(source.toString().replace('#!lua', '#!lua flags=allow-oom'))
      return [name, { source: text, sha: createHash('sha1').update(text).digest('hex') }]
    }),
)

/** Loads every script into Redis; a connection that is about to be used in order does so first. */
export async function loadScripts(redis: Redis): Promise<void> {
  await Promise.all(
    mastersOf(redis).flatMap((master) =>
      [...scripts.values(), ...scriptsForFull.values()].map(({ source }) =>
        master.script('LOAD', source as unknown as string),
      ),
    ),
  )
}

/**
 * How long replicas may take; then the script, which changes nothing when it has run before, is sent again.
 */
const replicasMs = 500

/**
 * A script and after it WAIT, on the same connection: that is how Redis knows which writes are meant, and a
 * failover in between breaks the connection rather than to count the replicas of another master (R9).
 * Nothing else can pass on it meanwhile.
 */
async function replicated(
  redis: Redis,
  replicas: number,
  command: (string | number | Buffer)[],
): Promise<unknown> {
  const [script, wait] =
    (await redis.pipeline().callBuffer('EVALSHA', command).wait(replicas, replicasMs).exec()) ?? []
  const error = script?.[0] ?? wait?.[0]
  if (error != null) {
    lookAgain(redis)
    throw error
  }
  if (Number(wait![1]) < replicas)
    throw new BridgeError(
      'ERR_BRIDGE_REPLICAS',
      `${String(wait![1])} of ${replicas} replicas have the last write`,
    )
  return script![1]
}

export interface ScriptOptions {
  readonly whenFull?: boolean
  /** Keys whose names the script makes: what may be damaged, besides those that it is given. */
  readonly made?: () => readonly string[] | Promise<readonly string[]>
}

/**
 * Runs a script, `whenFull` also when Redis is full though it may store something; bulk replies are Buffers.
 * What it wrote is on as many replicas as the connection wants.
 * @throws BridgeError as its error reply says; retryable when Redis was away, refused it or did not know the
 * script
 */
export async function runScript(
  redis: Redis,
  name: ScriptName,
  keys: readonly string[],
  argv: readonly (string | number | Buffer)[],
  { whenFull = false, made = () => [] }: ScriptOptions = {},
): Promise<unknown> {
  const { sha } = (whenFull ? scriptsForFull : scripts).get(name)!
  const { replicas = 0 } = redis
  // handed over as a list: arguments of a call are bounded, those of a script may be many
  const command = [sha, keys.length, ...keys, ...argv]
  if (diagnostics.scriptBegins.hasSubscribers) diagnostics.scriptBegins.publish({ script: name })
  try {
    const reply: unknown =
      replicas > 0 ? await replicated(redis, replicas, command) : await redis.callBuffer('EVALSHA', command)
    if (diagnostics.script.hasSubscribers) diagnostics.script.publish({ script: name })
    return reply
  } catch (error) {
    const known = toBridgeError(error)
    if (known.code === 'ERR_BRIDGE_SCRIPT_UNKNOWN')
      await loadScripts(redis).catch((why: unknown) => {
        throw toBridgeError(why)
      })
    if (known.code === 'ERR_BRIDGE_REDIS_DAMAGED')
      await mendDamage(redis, error, [...keys, ...(await made())])
    throw known
  }
}

/** `runScript` where nothing keeps an order: once more when Redis did not know the script. */
export async function runLoaded(
  redis: Redis,
  name: ScriptName,
  keys: readonly string[],
  argv: readonly (string | number | Buffer)[],
): Promise<unknown> {
  try {
    return await runScript(redis, name, keys, argv)
  } catch (error) {
    if (toBridgeError(error).code !== 'ERR_BRIDGE_SCRIPT_UNKNOWN') throw error
    return runScript(redis, name, keys, argv)
  }
}
