// The options of a stored subscription, as bits: how they stand in Redis and in the journal.
export const SessionOption = { qos: 3, noLocal: 4, retainAsPublished: 8 } as const

/**
 * A bit that must be understood: a subscription with it is of a later version. Without it, bits that this
 * version does not know change nothing.
 */
export const laterOption = 0x80
