// The cluster's errors: a code that is never reused, whether trying again can help, and the cause.

export const bridgeErrors = {
  ERR_BRIDGE_REDIS_UNREACHABLE: { retryable: true, meaning: 'Redis did not answer within its deadline or refused the connection' },
  ERR_BRIDGE_REDIS_TOO_OLD: { retryable: false, meaning: 'Redis is older than 7.0' },
  ERR_BRIDGE_FORMAT: { retryable: false, meaning: 'the data in Redis were written by a version with another layout' },
  ERR_BRIDGE_DUPLICATE_NODE: { retryable: false, meaning: 'a node of the same name is alive' },
  ERR_BRIDGE_FENCED: { retryable: false, meaning: 'the cluster declared this boot of the node dead; it closes its connections and starts anew' },
  ERR_BRIDGE_AMNESIA: { retryable: true, meaning: 'Redis lost data; the node registers again and asserts its live state' },
  ERR_BRIDGE_ORDER: { retryable: false, meaning: 'a numbered batch came out of order: the store lost an earlier one' },
  ERR_BRIDGE_SEALED: { retryable: false, meaning: 'the inbox of another node made no progress and takes nothing any more' },
  ERR_BRIDGE_INBOX_FULL: { retryable: true, meaning: 'the inbox of another node is above its mark' },
  ERR_BRIDGE_GONE: { retryable: true, meaning: 'the inbox of another node does not exist' },
  ERR_BRIDGE_REDIS_FULL: { retryable: true, meaning: 'Redis reached maxmemory; publishers are held until there is room' },
  ERR_BRIDGE_REPLICAS: { retryable: true, meaning: 'fewer replicas than asked for have what was written: it is not acknowledged yet' },
  ERR_BRIDGE_MOVED: { retryable: false, meaning: 'the session has another owner by now: its connection here must go' },
  ERR_BRIDGE_STALE: { retryable: true, meaning: 'the client got another session while its CONNECT was under way; claim again' },
  ERR_BRIDGE_CLOSED: { retryable: false, meaning: 'the bridge is closing' },
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

/** First word of an error reply of a script or of Redis → our code. */
const replies: Readonly<Record<string, BridgeErrorCode>> = {
  FENCED: 'ERR_BRIDGE_FENCED', AMNESIA: 'ERR_BRIDGE_AMNESIA', ORDER: 'ERR_BRIDGE_ORDER', SEALED: 'ERR_BRIDGE_SEALED',
  FULL: 'ERR_BRIDGE_INBOX_FULL', GONE: 'ERR_BRIDGE_GONE', DUPLICATE: 'ERR_BRIDGE_DUPLICATE_NODE', OOM: 'ERR_BRIDGE_REDIS_FULL',
  NOTOWNER: 'ERR_BRIDGE_MOVED', STALE: 'ERR_BRIDGE_STALE', FORMAT: 'ERR_BRIDGE_FORMAT',
}

/** Any failure of a command as a BridgeError; what no table knows counts as Redis being away. */
export function toBridgeError(error: unknown): BridgeError {
  if (error instanceof BridgeError) return error
  const message = error instanceof Error ? error.message : String(error)
  const word = /^-?([A-Z]+)\b/.exec(message)?.[1] ?? ''
  return new BridgeError(replies[word] ?? 'ERR_BRIDGE_REDIS_UNREACHABLE', message, { cause: error })
}
