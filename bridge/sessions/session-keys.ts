// The keys of one session and of its partition, by noun, for the scripts that need several of them. No state.
import { partitionOf, type Keys } from '../redis/keys.ts'

export function keysOf(keys: Keys, sid: string) {
  const partition = partitionOf(sid)
  return {
    clients: keys.partition(partition, 'clients'),
    owners: keys.partition(partition, 'owners'),
    due: keys.partition(partition, 'due'),
    wills: keys.partition(partition, 'wills'),
    tenants: keys.partition(partition, 'tenants'),
    appended: keys.partition(partition, 'appended'),
    session: keys.session(sid, 'session'),
    subscriptions: keys.session(sid, 'subscriptions'),
    queue: keys.session(sid, 'queue'),
    inflight: keys.session(sid, 'inflight'),
    incoming: keys.session(sid, 'incoming'),
  }
}

/** All that a session has, in the order in which the scripts that begin and end sessions want it. */
export function allKeysOf(keys: Keys, sid: string): string[] {
  const { clients, owners, due, wills, session, subscriptions, queue, inflight, incoming, tenants } = keysOf(
    keys,
    sid,
  )
  return [clients, owners, due, wills, session, subscriptions, queue, inflight, incoming, tenants]
}
