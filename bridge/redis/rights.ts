// What Redis does not let this user do of all that a node does: asked beside each write that is tried
// (probe.ts), since a right may be missing that is needed rarely, or by a reader that nobody waits for. State:
// none.
import { BridgeError } from '../errors.ts'
import type { Keys } from './keys.ts'
import type { Redis } from './redis.ts'
import { runLoaded } from './scripts.ts'

/** Commands that are refused, on our keys and on our channels; none where Redis does not tell. */
export interface Denied {
  readonly onKeys: readonly string[]
  readonly onChannels: readonly string[]
}

/** What is told of the cluster under $SYS. */
export const channelsOf = ({ prefix }: Keys): string => `${prefix}/$SYS*`

/** @param key where the probe writes, which tells the server that is asked */
export async function deniedTo(redis: Redis, keys: Keys, key = keys.bus('probe')): Promise<Denied> {
  const denied = ((await runLoaded(redis, 'rights', [key], [channelsOf(keys)])) as Buffer[]).map(String)
  const isOfChannels = (command: string): boolean => /^P?(PUBLISH|SUBSCRIBE)$/.test(command)
  return {
    onKeys: denied.filter((command) => !isOfChannels(command)),
    onChannels: denied.filter(isOfChannels),
  }
}

/**
 * What is told under $SYS may be missed; without anything else a node does not do what it says.
 * @throws BridgeError ERR_BRIDGE_REDIS_REFUSED, which names the commands
 */
export async function refuseDenied(redis: Redis, keys: Keys, key?: string): Promise<void> {
  const { onKeys } = await deniedTo(redis, keys, key)
  if (onKeys.length === 0) return
  const rights = onKeys.map((command) => `+${command.toLowerCase()}`).join(' ')
  throw new BridgeError(
    'ERR_BRIDGE_REDIS_REFUSED',
    `Redis does not let this user run ${onKeys.join(', ')} on ${keys.prefix}:* (it needs ${rights})`,
  )
}
