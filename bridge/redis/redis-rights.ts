// What Redis does not let this user do of all that a node does: asked beside each write that is tried
// (probe.ts), since a right may be missing that is needed rarely, or by a reader that nobody waits for. The
// commands are listed in lua/rights.lua. State: none.
import { BridgeError } from '../errors.ts'
import type { Keys } from './keys.ts'
import type { Redis } from './redis.ts'
import { runLoaded } from './scripts.ts'

/** Commands that a user may not run, and those that its Redis does not have at all (rename-command). */
export interface Denied {
  readonly refused: readonly string[]
  readonly lacking: readonly string[]
}

/** What is told of the cluster under $SYS, and what nodes ask one another. */
export const channelsOf = ({ prefix }: Keys): readonly string[] => [`${prefix}/$SYS*`, `${prefix}/ask/*`]

/**
 * What is denied on our keys and on our channels; nothing where Redis does not tell.
 * @param key where the probe writes, which tells the server that is asked
 */
export async function deniedTo(
  redis: Redis,
  keys: Keys,
  key = keys.bus('probe'),
): Promise<{ readonly onKeys: Denied; readonly onChannels: Denied }> {
  const denied = [
    ...new Set(((await runLoaded(redis, 'rights', [key], channelsOf(keys))) as Buffer[]).map(String)),
  ]
  const isOfChannels = (command: string): boolean => /^\??P?(PUBLISH|SUBSCRIBE)$/.test(command)
  return {
    onKeys: deniedOf(denied.filter((command) => !isOfChannels(command))),
    onChannels: deniedOf(denied.filter(isOfChannels)),
  }
}

const deniedOf = (commands: readonly string[]): Denied => ({
  refused: commands.filter((command) => !command.startsWith('?')),
  lacking: commands.filter((command) => command.startsWith('?')).map((command) => command.slice(1)),
})

/**
 * What is told under $SYS may be missed; without anything else a node does not do what it says.
 * @throws BridgeError ERR_BRIDGE_REDIS_LACKS or ERR_BRIDGE_REDIS_REFUSED, which name the commands
 */
export async function refuseDenied(redis: Redis, keys: Keys, key?: string): Promise<void> {
  const {
    onKeys: { refused, lacking },
  } = await deniedTo(redis, keys, key)
  if (lacking.length > 0)
    throw new BridgeError('ERR_BRIDGE_REDIS_LACKS', `Redis has no command ${lacking.join(', ')}`)
  if (refused.length === 0) return
  const rights = refused.map((command) => `+${command.toLowerCase()}`).join(' ')
  throw new BridgeError(
    'ERR_BRIDGE_REDIS_REFUSED',
    `Redis does not let this user run ${refused.join(', ')} on ${keys.prefix}:* (it needs ${rights})`,
  )
}
