// The options of a stored subscription, as bits: how they stand in Redis and in the journal.
export const SessionOption = { qos: 3, noLocal: 4, retainAsPublished: 8 } as const
