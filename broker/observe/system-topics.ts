// What is told under $SYS/, on the control plane: Aedes' heartbeat of a node and, where the operator wants
// it, who comes, goes and subscribes. Nobody is asked who may subscribe there, so that by default nothing
// names a client or a filter.
import { ownFilter, ownName, Tenant, tenantOfName } from '../../bridge/index.ts'
import type { Config } from '../config/config.ts'

const namesNobody = /^\$SYS\/[^/]+\/(birth|heartbeat)$/

/** Whether a topic under $SYS/ is told, by this node and to its clients. */
export const isTold = ({ sysEvents }: Pick<Config, 'sysEvents'>): ((topic: string) => boolean) =>
  sysEvents === 'on' ? () => true : (topic) => namesNobody.test(topic)

interface Subscribed {
  readonly clientId: string
  /** Of SUBSCRIBE: with their options. */
  readonly subs: readonly (string | { readonly topic: string })[]
}

/**
 * What is told of a client of a tenant is told in that tenant alone, by the names that it has there. Undefined: it is
 * about no such client.
 */
export function inItsTenant(
  topic: string,
  payload: Buffer,
): { readonly topic: string; readonly payload: Buffer } | undefined {
  const text = payload.toString()
  const told = (clientId: string, own: string): { topic: string; payload: Buffer } | undefined => {
    const tenant = tenantOfName(clientId)
    return tenant === undefined
      ? undefined
      : { topic: new Tenant(tenant).topic(topic), payload: Buffer.from(own) }
  }
  if (topic.endsWith('/clients')) return told(text, ownName(text))
  if (!/\/new\/(?:un)?subscribes$/.test(topic)) return undefined
  const { clientId, subs } = JSON.parse(text) as Subscribed
  const own = subs.map((one) =>
    typeof one === 'string' ? ownFilter(one) : { ...one, topic: ownFilter(one.topic) },
  )
  return told(clientId, JSON.stringify({ clientId: ownName(clientId), subs: own }))
}
