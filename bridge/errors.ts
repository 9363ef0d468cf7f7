// The cluster's errors: a code that is never reused, whether trying again can help, and the cause.

export const bridgeErrors = {
  ERR_BRIDGE_REDIS_UNREACHABLE: { retryable: true, meaning: 'Redis did not answer within its deadline or refused the connection' },
} as const

export type BridgeErrorCode = keyof typeof bridgeErrors

export class BridgeError extends Error {
  override readonly name = 'BridgeError'
  readonly code: BridgeErrorCode

  constructor(code: BridgeErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }

  get retryable(): boolean {
    return bridgeErrors[this.code].retryable
  }
}
