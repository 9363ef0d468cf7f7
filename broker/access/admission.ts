// Which connections a node takes: as many clients as it may have, and as many that have not sent their
// CONNECT. State: the latter, and those that were turned away and are not closed yet. Bounds: connectionsMax,
// connectingMax.
import type { Config } from '../config/config.ts'
import type { Connection } from '../connection/connection.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'
import type { RefusalCause } from './refusals.ts'

export class Admission {
  readonly #limits: Pick<Config, 'connectionsMax' | 'connectingMax'>
  readonly #refused: (cause: RefusalCause) => void
  /** Those that have not sent their CONNECT, the oldest first. */
  readonly #connecting = new Set<Connection>()
  /** They take nobody's place, however slow they are to go. */
  readonly #turnedAway = new Set<Connection>()

  constructor(
    limits: Pick<Config, 'connectionsMax' | 'connectingMax'>,
    refused: (cause: RefusalCause) => void,
  ) {
    this.#limits = limits
    this.#refused = refused
  }

  /**
   * A connection without CONNECT. Who is slow to say who it is makes room: of honest clients CONNECT comes at
   * once.
   */
  came(connection: Connection): void {
    this.#connecting.add(connection)
    if (this.#connecting.size <= this.#limits.connectingMax) return
    const [oldest] = this.#connecting
    oldest!.endReason = 'more connections without CONNECT than there may be (connectingMax)'
    this.#turnAway(oldest!, 'connecting')
    oldest!.destroy()
  }

  /**
   * CONNECT came; `open` connections are there, of all kinds. False: there are as many clients as there may
   * be, and it is told.
   */
  admit(connection: Connection, open: number): boolean {
    this.#connecting.delete(connection)
    if (open - this.#connecting.size - this.#turnedAway.size <= this.#limits.connectionsMax) return true
    this.#turnAway(connection, 'connections')
    connection.refuse(ReasonCode.quotaExceeded)
    return false
  }

  #turnAway(connection: Connection, cause: RefusalCause): void {
    this.#connecting.delete(connection)
    this.#turnedAway.add(connection)
    this.#refused(cause)
  }

  /** Nothing is left of it. */
  over(connection: Connection): void {
    this.#connecting.delete(connection)
    this.#turnedAway.delete(connection)
  }
}
