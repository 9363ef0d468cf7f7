// Whoever gets messages on this node: a client's connection, or a function of the program that embeds the
// node. No state.
import type { Message } from '../../bridge/index.ts'
import type { Match } from './local-table.ts'

export interface Subscriber {
  /** For No Local; undefined: what it publishes comes to it, too. */
  readonly clientId: string | undefined
  /**
   * Takes a message, once, as `match` grants it; never waits. What it throws is counted, and the others get
   * theirs.
   */
  deliver(message: Message, match: Match<Subscriber>): void
}
