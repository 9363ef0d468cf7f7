// Names within a tenant, as everything behind the protocol has them. A topic or filter of the tenant `acme` begins with
// the level `$`, U+0000, `acme` (`acme$` where its own first level begins with `$`), a Client Identifier or user with
// `acme` and U+0000. Two rules of the standard are the wall: no client may write U+0000 [MQTT-1.5.4-2], and no filter
// that begins with a wildcard matches a topic that begins with `$` [MQTT-4.7.2-1]. So none of another tenant, or of none,
// can name or match what is in this one. The name of a Shared Subscription keeps its group before the filter. State: none.

/** What a tenant may be called: it stands in topics, keys, logs and labels of metrics. */
export const isTenant = (text: string): boolean => /^[A-Za-z0-9._-]{1,64}$/.test(text)

/** Bytes that a tenant adds to a topic or filter, at most. */
export const tenantBytesMax = 68

const dollar = 0x24
const share = '$share/'

const isShared = (filter: string): boolean => filter.startsWith(share)
const isInside = (topic: string): boolean => topic.charCodeAt(0) === dollar && topic.charCodeAt(1) === 0

/** Of a topic or filter; undefined: it is in none. */
export function tenantOf(topic: string): string | undefined {
  const inner = isShared(topic) ? topic.slice(topic.indexOf('/', share.length) + 1) : topic
  if (!isInside(inner)) return undefined
  const level = inner.slice(2, inner.indexOf('/'))
  return level.endsWith('$') ? level.slice(0, -1) : level
}

/** A topic or filter, but no Shared Subscription, as the tenant's clients write it; in none it stays as it is. */
export const ownTopic = (topic: string): string =>
  isInside(topic) ? topic.slice(topic.indexOf('/') + 1) : topic

/** The same, also of a Shared Subscription. */
export function ownFilter(filter: string): string {
  if (!isShared(filter)) return ownTopic(filter)
  const at = filter.indexOf('/', share.length) + 1
  return at === 0 ? filter : filter.slice(0, at) + ownTopic(filter.slice(at))
}

/** A Client Identifier or user as it is called in the tenant; in none it stays as it is. */
export const ownName = (name: string): string => name.slice(name.indexOf('\0') + 1)

/** A Client Identifier or user of a tenant as it is called outside. */
export const nameIn = (tenant: string, own: string): string => `${tenant}\0${own}`

/** Of a Client Identifier or user; undefined: it is in none. */
export function tenantOfName(name: string): string | undefined {
  const at = name.indexOf('\0')
  return at < 0 ? undefined : name.slice(0, at)
}

/** One tenant, and how its names are called outside. */
export class Tenant {
  readonly name: string
  readonly #prefix: string
  readonly #dollarPrefix: string

  /** @param name valid by `isTenant` */
  constructor(name: string) {
    this.name = name
    this.#prefix = `$\0${name}/`
    this.#dollarPrefix = `$\0${name}$/`
  }

  /** Of a topic, or a filter that is no Shared Subscription. */
  topic(own: string): string {
    return (own.charCodeAt(0) === dollar ? this.#dollarPrefix : this.#prefix) + own
  }

  /** Of a filter. A Shared Subscription that is none stays so, and is refused as such. */
  filter(own: string): string {
    if (!isShared(own)) return this.topic(own)
    const at = own.indexOf('/', share.length) + 1
    return at === 0 || at === own.length ? own : own.slice(0, at) + this.topic(own.slice(at))
  }

  /** Whether a topic is in it. */
  has(topic: string): boolean {
    return topic.startsWith(this.#prefix) || topic.startsWith(this.#dollarPrefix)
  }
}
