// What bounds refuse, by cause: each is a label of a metric, and has its answer on the wire. No state.

export const refusalCauses = [
  'topic-levels', 'topic-bytes', 'subscriptions', 'subscription-bytes', 'routing-bytes', // a filter
  'client-id', 'connect-bytes', 'connections', 'connecting', 'sessions', // a connection
  'retained', // a PUBLISH
  'receive-maximum', 'packet-bytes', 'alias-bytes', 'client-bytes', // what ends one
] as const
export type RefusalCause = (typeof refusalCauses)[number]
