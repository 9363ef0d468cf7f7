// What of a configuration may change while its node runs: limits and policies that are looked up each time. Whoever has
// the configuration finds the new values in it. What else is another by now holds from the next start, and is named.
// No state.
import type { Config, ListenerConfig, OptionName } from './options.ts'

/** Those of publishing hold for connections that come from then on. */
export const changeable = [
  'logLevel',
  'drainRate',
  'serverReference',
  'serverMoved',
  'connectionsMax',
  'connectingMax',
  'userConnectionsMax',
  'flappingConnectsMax',
  'flappingBanSeconds',
  'publishesPerSecondMax',
  'publishBytesPerSecondMax',
  'publishTooFast',
  'subscriptionsMax',
  'subscriptionBytesMax',
  'subscribeFiltersMax',
  'routingBytesMax',
  'keepAliveSecondsMax',
  'messageExpirySecondsMax',
  'claimTimeoutMs',
  'refusedPublish',
  'slowSubscriber',
  'sessionTakeover',
] as const satisfies readonly OptionName[]

const names: ReadonlySet<string> = new Set(changeable)
const isSame = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b)

/** What reading again has changed. */
export interface Reloaded {
  /** Names of options that hold as they are now, and of those that do from the next start. */
  readonly options: string[]
  readonly later: string[]
  /** What is not in order: of it holds what was read before. */
  readonly problems: string[]
}

type Values = Record<string, unknown>

/** @returns names of options that are others in `next`: those that hold now, and those that wait for the next start */
export function changeTo(config: Config, next: Config): { readonly now: string[]; readonly later: string[] } {
  const [now, later]: [Set<string>, Set<string>] = [new Set(), new Set()]
  const take = (from: Values, into: Values): void => {
    for (const name of new Set([...Object.keys(from), ...Object.keys(into)])) {
      if (name === 'listeners' || isSame(into[name], from[name])) continue
      if (names.has(name)) into[name] = from[name]
      ;(names.has(name) ? now : later).add(name)
    }
  }
  take(next, config)
  const urls = (listeners: readonly ListenerConfig[]): string[] => listeners.map(({ url }) => url)
  if (isSame(urls(next.listeners), urls(config.listeners)))
    for (const [i, listener] of next.listeners.entries()) take(listener, config.listeners[i]!)
  else later.add('listeners')
  return { now: [...now], later: [...later] }
}
