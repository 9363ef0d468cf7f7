// What the parts of a connection (inbound.ts, outbound.ts, enhanced-authentication.ts) need of it and of one another: so none of
// them imports connection.ts, which is it and imports them. No state.
import type { Duplex } from 'node:stream'
import type { Session } from '../../bridge/index.ts'
import type { EngineClient } from './engine-client.ts'
import type { LiveTenant } from '../access/tenancy.ts'
import type { Holder } from './holdings.ts'
import type { Outbox } from './outbox.ts'
import type { Wishes } from '../protocol/control-packets.ts'

export interface ConnectionParts extends Holder {
  readonly stream: Duplex
  readonly number: number
  readonly client: EngineClient
  readonly session: Session | undefined
  readonly tenant: LiveTenant | undefined
  readonly level: number
  readonly mqtt5: boolean
  readonly isConnected: boolean
  readonly isClosed: boolean
  readonly hasEnded: boolean
  readonly isEnding: boolean
  endReason: string
  answering: { readonly isSubscribe: boolean; readonly filters: string[] } | undefined
  readonly authentication: { came(frame: Buffer): void } | undefined
  readonly replays: { delivered(topic: string, stamp: number): void } | undefined
  readonly outbox: Outbox
  readonly inbound: {
    readonly wishes: Wishes | undefined
    readonly isForeignBridge: boolean
    authenticate(isItsTurn: boolean): void
  }
  readonly outbound: {
    acknowledge(type: 4 | 5 | 6 | 7, messageId: number, reasonCode: number, reason?: string): void
    mayAnswer(type: 4 | 5 | 7, messageId: number): boolean
    complete(messageId: number): void
    received(messageId: number): void
    checkAnswers(): void
  }
  guarded(work: () => void): void
  onBug(error: unknown): void
  finish(): void
  letGo(): void
  leave(): void
  disconnect(reasonCode: number, reason: string): void
  sayRefused(reasonCode: number, reason?: string): void
}
