// `$share/{ShareName}/{filter}` (MQTT 5 section 4.8.2): what is valid, and its parts. The whole text is the name of
// the group in tables, journal and links: the same share name with another filter is another group. No state.
import { ownTopic } from '../matching/tenant.ts'
import { isValidFilter } from '../matching/topic.ts'

const prefix = '$share/'

export interface SharedFilter {
  readonly share: string
  /** What topics are matched by. */
  readonly filter: string
}

/** Whether a filter of SUBSCRIBE is a Shared Subscription, or would be one. */
export const isShared = (filter: string): boolean => filter.startsWith(prefix)

/**
 * The parts of a Shared Subscription; undefined: its share name is empty or holds a wildcard [MQTT-4.8.2-1],
 * or no valid filter follows it [MQTT-4.8.2-2].
 */
export function sharedFilterOf(group: string): SharedFilter | undefined {
  const end = group.indexOf('/', prefix.length)
  if (!isShared(group) || end < 0) return undefined
  const [share, filter] = [group.slice(prefix.length, end), group.slice(end + 1)]
  return share === '' || /[+#]/.test(share) || !isValidFilter(ownTopic(filter))
    ? undefined
    : { share, filter }
}
