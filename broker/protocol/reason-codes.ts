// MQTT 5 reason codes that this broker sends or expects, by the standard's names (section 2.4).

export const ReasonCode = {
  success: 0x00,
  noMatchingSubscribers: 0x10,
  continueAuthentication: 0x18,
  reAuthenticate: 0x19,
  malformedPacket: 0x81,
  protocolError: 0x82,
  noSubscriptionExisted: 0x11,
  implementationSpecificError: 0x83,
  clientIdentifierNotValid: 0x85,
  unsupportedProtocolVersion: 0x84,
  badUserNameOrPassword: 0x86,
  notAuthorized: 0x87,
  serverUnavailable: 0x88,
  serverBusy: 0x89,
  banned: 0x8a,
  serverShuttingDown: 0x8b,
  badAuthenticationMethod: 0x8c,
  keepAliveTimeout: 0x8d,
  sessionTakenOver: 0x8e,
  topicFilterInvalid: 0x8f,
  topicNameInvalid: 0x90,
  packetIdentifierNotFound: 0x92,
  receiveMaximumExceeded: 0x93,
  topicAliasInvalid: 0x94,
  packetTooLarge: 0x95,
  messageRateTooHigh: 0x96,
  quotaExceeded: 0x97,
  administrativeAction: 0x98,
  payloadFormatInvalid: 0x99,
  useAnotherServer: 0x9c,
  serverMoved: 0x9d,
  sharedSubscriptionsNotSupported: 0x9e,
  maximumConnectTime: 0xa0,
} as const

export type ReasonCode = (typeof ReasonCode)[keyof typeof ReasonCode]

/**
 * Reason Strings, in our words, for who reads a device's log; nothing that a hook or the store said is among them.
 * Those of violations are with the violation.
 */
const reasons = new Map<number, string>([
  [ReasonCode.noSubscriptionExisted, 'not subscribed to that'],
  [ReasonCode.implementationSpecificError, 'nobody decided about it in time'],
  [ReasonCode.notAuthorized, 'not authorized'],
  [ReasonCode.serverUnavailable, 'not available now: come again'],
  [ReasonCode.serverBusy, 'too many connect at once: come again'],
  [ReasonCode.banned, 'banned'],
  [ReasonCode.topicFilterInvalid, 'a filter of more levels or bytes than there may be'],
  [ReasonCode.quotaExceeded, 'more than there may be'],
  [ReasonCode.payloadFormatInvalid, 'its payload is not UTF-8, as it says'],
  [ReasonCode.sharedSubscriptionsNotSupported, 'no shared subscriptions'],
])

export const reasonOf = (reasonCode: number): string | undefined => reasons.get(reasonCode)

/** As the standard writes it: 0x8B. */
export const hex = (reasonCode: number): string =>
  `0x${reasonCode.toString(16).toUpperCase().padStart(2, '0')}`
