// What the bridge tells of single messages, step by step, while an operator follows some of them: broker/observe/traces.ts
// hears it. Nobody follows any, as a rule: then `isOn` is false, and looking at it is all that it costs. No state.
import type { Message } from './message.ts'

/** The steps of a message in the bridge. */
export type BridgeStep = 'matched' | 'sent' | 'arrived' | 'queued' | 'dropped'

/** Whom a step is about, and why it is as it is. */
export interface BridgeFacts {
  /** Nodes with live subscribers. */
  readonly nodes?: readonly string[] | undefined
  /** Sessions with a queue, by their sids. */
  readonly sids?: readonly string[] | undefined
  /** Shared Subscriptions. */
  readonly groups?: readonly string[] | undefined
  /** Of `dropped`. */
  readonly cause?: 'full-queue' | 'full-store' | 'slow-node' | undefined
}

export interface MessageTrace {
  /** Somebody follows messages: only then is anything told. */
  readonly isOn: boolean
  tell(step: BridgeStep, message: Message, facts: BridgeFacts): void
}

export const noTrace: MessageTrace = { isOn: false, tell: () => undefined }
