// What a tenant may retain: beyond its bounds it has no new topic, whatever room others leave. No state.
import type { TopicTrie } from '../matching/topic-trie.ts'
import { tenantOf } from '../matching/tenant.ts'

export interface TenantBounds {
  readonly tenantRetainedMax?: number | undefined
  readonly tenantRetainedBytesMax?: number | undefined
}

/** Whether the tenant of a topic, if it is of one, may retain there; what has its place may change. */
export function hasRoomOfTenant(
  index: TopicTrie<unknown>,
  topic: string,
  { tenantRetainedMax = Infinity, tenantRetainedBytesMax = Infinity }: TenantBounds,
): boolean {
  if (tenantRetainedMax === Infinity && tenantRetainedBytesMax === Infinity) return true
  const tenant = tenantOf(topic)
  if (tenant === undefined) return true
  const { size, bytes } = index.ofTenant(tenant)
  return (size < tenantRetainedMax && bytes < tenantRetainedBytesMax) || index.has(topic)
}
