// MQTT 5 reason codes that this broker sends, by the standard's names (section 2.4).

export const ReasonCode = {
  success: 0x00,
  malformedPacket: 0x81,
  protocolError: 0x82,
  implementationSpecificError: 0x83,
  clientIdentifierNotValid: 0x85,
  unsupportedProtocolVersion: 0x84,
  badUserNameOrPassword: 0x86,
  notAuthorized: 0x87,
  serverUnavailable: 0x88,
  serverShuttingDown: 0x8b,
  sessionTakenOver: 0x8e,
  topicFilterInvalid: 0x8f,
  topicNameInvalid: 0x90,
  packetIdentifierNotFound: 0x92,
  receiveMaximumExceeded: 0x93,
  topicAliasInvalid: 0x94,
  packetTooLarge: 0x95,
  quotaExceeded: 0x97,
  sharedSubscriptionsNotSupported: 0x9e,
} as const

export type ReasonCode = (typeof ReasonCode)[keyof typeof ReasonCode]

/** As the standard writes it: 0x8B. */
export const hex = (reasonCode: number): string =>
  `0x${reasonCode.toString(16).toUpperCase().padStart(2, '0')}`
