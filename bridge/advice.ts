// What an operator should know of a cluster that works, before it does not: how Redis is set up, what it lets us do, and settings
// that differ from those of the other nodes. Asked once, when a node has joined. A Redis that does not tell is not complained
// about: managed ones forbid CONFIG, and some INFO. State: none.
import { endNode, toBridgeError } from './errors.ts'
import type { Keys } from './keys.ts'
import { mastersOf, type Redis } from './redis.ts'
import { runScript } from './scripts.ts'

/** Settings that must be the same on every node, by the name of their option. */
export type SharedSettings = Readonly<Record<string, number | string>>

/** One line about each thing that should be otherwise: what it is and what to do. */
export async function adviceOn(redis: Redis, keys: Keys, nodeId: string, settings: SharedSettings): Promise<string[]> {
  const asked = await Promise.all([onServers(redis), onRights(redis, keys), onSettings(redis, keys, nodeId, settings)].map((lines) => lines.catch((reason: unknown) => {
    const error = toBridgeError(reason)
    if (error.code === 'ERR_BRIDGE_BUG') endNode(error)
    return [] // it does not tell; whatever keeps it from working is named where it is needed
  })))
  return [...new Set(asked.flat())]
}

async function onServers(redis: Redis): Promise<string[]> {
  const lines = await Promise.all(mastersOf(redis).map(async (master) => onServer(new Map((await master.info()).split('\r\n').map((line) => {
    const colon = line.indexOf(':')
    return [line.slice(0, colon), line.slice(colon + 1)]
  })))))
  return lines.flat()
}

function onServer(info: ReadonlyMap<string, string>): string[] {
  const lines: string[] = []
  const policy = info.get('maxmemory_policy')
  if (info.get('aof_enabled') === '0') lines.push('Redis keeps no append-only file: a restart of it loses what was acknowledged since its last snapshot. Set appendonly yes (CONFIG SET appendonly yes, and in redis.conf)')
  if (policy !== undefined && policy !== 'noeviction') lines.push(`Redis removes keys of ours when it is full (maxmemory-policy ${policy}): sessions, queued messages, leases. Set maxmemory-policy noeviction`)
  return lines
}

async function onRights(redis: Redis, keys: Keys): Promise<string[]> {
  const ask = (): Promise<unknown> => runScript(redis, 'rights', [keys.bus('probe')], [])
  const denied = (await ask().catch((error: unknown) => {
    if (toBridgeError(error).code === 'ERR_BRIDGE_SCRIPT_UNKNOWN') return ask() // it is loaded by now
    throw error
  }) as Buffer[]).map(String)
  if (denied.length === 0) return []
  return [`Redis does not let this user run ${denied.join(', ')} on ${keys.prefix}:*. Give it the rights: ACL SETUSER name ~${keys.prefix}:* ${denied.map((command) => `+${command.toLowerCase()}`).join(' ')}`]
}

/** Nodes with other settings. They work together, since fences and numbers do not rest on them, but not as either of them says. */
async function onSettings(redis: Redis, keys: Keys, nodeId: string, settings: SharedSettings): Promise<string[]> {
  const nodes = Object.entries(await redis.hgetall(keys.bus('nodes'))).filter(([other]) => other !== nodeId)
  return nodes.flatMap(([other, info]) => Object.entries(settingsIn(info)).filter(([name, value]) => name in settings && settings[name] !== value)
    .map(([name, value]) => `${name} is ${String(settings[name])} here and ${String(value)} on node ${other.slice(0, other.lastIndexOf('@'))}. Give every node the same`))
}

/** What stands in {bus}:nodes may be of another version, or damaged. */
function settingsIn(info: string): object {
  try {
    return (JSON.parse(info) as { settings?: object }).settings ?? {}
  } catch {
    return {}
  }
}
