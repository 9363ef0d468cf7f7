// What sessions (sessions.ts) need of the data plane, and tell it.
import type { Change } from '../messages/codec.ts'
import type { Reports } from '../diagnostics.ts'
import type { Message } from '../messages/message.ts'
import type { Receiver } from '../options.ts'
import type { Session } from './session.ts'

export interface SessionEvents {
  append(changes: readonly Change[]): Promise<void>
  /** A will is to be published, as it may be; undefined: it may not. */
  authorizeWill(message: Message): Message | undefined | Promise<Message | undefined>
  /**
   * A will is to be published; resolves when it is stored. `n` tells a second publishing of the same will.
   */
  publishWill(message: Message): Promise<void>
  /** A Retained Message is due to expire. */
  expireRetained(topic: string): Promise<void>
  /**
   * A write of ours was refused: whether the session is ours after all, because Redis lost its data and we
   * wrote it down again.
   */
  stillOwned(session: Session): Promise<boolean>
  /** A claim found no place of ours: Redis lost its data, or we were declared dead (then it throws). */
  onFenced(): Promise<void>
  /** Ends a connection whose session is owned by somebody else by now. */
  onMoved(session: Session): void
  /** Ends a connection in order, whose session another node asks for. */
  onWanted(session: Session): void
  /** By which messages are queued for it, as every node knows it from the journal. */
  subscriptionsOf(sid: string): Promise<readonly { readonly filter: string; readonly options: number }[]>
  /** It was written down again, and there may be something in its queue. */
  onWritten(session: Session): void
  /**
   * Sessions that ended without anybody knowing what they had subscribed to: no table may have anything of
   * them.
   */
  onVanished(sids: ReadonlySet<string>): Promise<void>
}

/** What the node that publishes a will makes of it. */
export const authorizedWill = (
  receiver: Receiver,
  message: Message,
): Message | undefined | Promise<Message | undefined> =>
  receiver.authorizeWill === undefined ? message : receiver.authorizeWill(message)

/**
 * A will as there is room for it: a topic that is one too many is not retained, as that of a PUBLISH which
 * cannot be refused.
 */
export function withRoom(
  will: Message,
  mayRetain: (topic: string, bytes: number) => boolean,
  reports: Reports,
): Message {
  const { topic, payload } = will
  if (!will.retain || payload.length === 0 || mayRetain(topic, payload.length)) return will
  reports.tell('unretained', { topic: will.topic })
  return will.with({ retain: false })
}
