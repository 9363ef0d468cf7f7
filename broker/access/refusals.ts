// What bounds and guards refuse, by cause: each is a label of a metric, and has its answer on the wire. No state.

export const refusalCauses = [
  'topic-levels',
  'topic-bytes',
  'subscribe-filters',
  'subscriptions',
  'subscription-bytes',
  'routing-bytes', // a filter
  'client-id',
  'connect-bytes',
  'connections',
  'connecting',
  'claims',
  'sessions', // a connection
  'retained', // a PUBLISH or will
  'receive-maximum',
  'packet-bytes',
  'alias-bytes',
  'topic-alias',
  'client-bytes', // what ends one
  'denied',
  'decision-late',
  'decision-failed', // what a guard refuses (gate.ts)
] as const
export type RefusalCause = (typeof refusalCauses)[number]

/**
 * Why a connection is read no further for a while: nothing is refused, and what it sends waits in its socket.
 */
export const heldCauses = ['publishes', 'requests'] as const
export type HeldCause = (typeof heldCauses)[number]
