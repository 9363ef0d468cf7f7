// The sessions of the clients that are connected here: claimed for CONNECT, released when a connection is over,
// given up when their client goes on elsewhere. State: which connection has which session, and releases under way.
// It is lost with the process: the sessions themselves are in Redis, and another node may claim them then.
import {
  atEndAsync,
  BridgeError,
  type Cluster,
  type Session,
  type SessionRequest,
} from '../../bridge/index.ts'
import type { RefusalCause } from '../access/refusals.ts'
import type { Config } from '../config/config.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'
import { withinDeadline } from './claim-deadline.ts'
import type { Connection } from './connection.ts'

export interface SessionsHost {
  plane(): Cluster
  refused(cause: RefusalCause): void
  /** Leaves all groups of a connection whose client is gone; called before its session is released. */
  leave(connection: Connection): Promise<void>
  onError(error: Error): void
}

export class ClientSessions {
  readonly #config: Config
  readonly #host: SessionsHost
  readonly #bySid = new Map<string, Connection>()
  readonly #releasing = new Set<Promise<void>>()

  constructor(config: Config, host: SessionsHost) {
    this.#config = config
    this.#host = host
  }

  /**
   * While Redis is away the client waits.
   * @throws ServerUnavailable after the deadline, or when too many wait
   */
  async claim(connection: Connection, request: SessionRequest): Promise<void> {
    const session = await withinDeadline(
      this.#config.claimTimeoutMs,
      (abandoned, givenUp) =>
        this.#host.plane().sessions.claim(request, () => connection.isClosed || abandoned(), givenUp),
      (session) => {
        // its CONNECT was refused: there is no will [MQTT-3.1.2-8]
        void this.#letGo(session, this.#host.plane().sessions.farewell(session, true, undefined))
      },
    ).catch((error: unknown) => this.#notClaimed(connection, error as Error))
    if (session === undefined) return
    connection.session = session
    // a session that is resumed keeps its queue, also when this CONNECT asks for expiry 0 (P15)
    connection.lasting = request.expirySeconds !== 0 || session.isResumed
    if (connection.isClosed)
      void this.release(connection) // it left while we asked
    // another node took the session before `#bySid` had this connection
    else if (this.#host.plane().sessions.connected(session.sid) !== session) connection.takenOver()
    else {
      this.#bySid.set(session.sid, connection)
      if (session.isWanted) this.wanted(session) // another node asked for it meanwhile
    }
  }

  #notClaimed(connection: Connection, error: Error): undefined {
    const code = error.cause instanceof BridgeError ? error.cause.code : undefined
    // a later CONNECT of the client was there first
    if (code === 'ERR_BRIDGE_MOVED') return void connection.takenOver()
    if (code === 'ERR_BRIDGE_QUOTA') {
      this.#host.refused('sessions')
      connection.refuse(ReasonCode.quotaExceeded)
    } else if (code === 'ERR_BRIDGE_USER_QUOTA') {
      this.#host.refused('user-sessions')
      connection.refuse(ReasonCode.quotaExceeded)
    } else if (code === 'ERR_BRIDGE_TENANT_QUOTA') {
      this.#host.refused('tenant-sessions')
      connection.refuse(ReasonCode.quotaExceeded)
    } else if (code === 'ERR_BRIDGE_FOREIGN') {
      this.#host.refused('session-user')
      connection.refuse(ReasonCode.clientIdentifierNotValid)
    } else if (code === 'ERR_BRIDGE_CROWD') {
      this.#host.refused('claims')
      connection.refuse(ReasonCode.serverBusy)
    } else if (error.cause instanceof BridgeError && error.cause.retryable) this.#host.refused('claims')
    throw error
  }

  farewell(connection: Connection, voidsWill: boolean, expirySeconds: number | undefined): void {
    if (connection.session === undefined) return
    const max = this.#config.sessionExpirySecondsMax
    const expiry =
      expirySeconds === undefined || max === 0
        ? expirySeconds
        : expirySeconds < 0
          ? max
          : Math.min(expirySeconds, max)
    const said = this.#host
      .plane()
      .sessions.farewell(connection.session, voidsWill, expiry)
      .catch((error: unknown) => this.#host.onError(error as Error))
    connection.goodbyeStored = said
  }

  release(connection: Connection): Promise<void> | undefined {
    const { session } = connection
    if (session === undefined) return undefined
    connection.session = undefined
    if (this.#bySid.get(session.sid) === connection) this.#bySid.delete(session.sid)
    // Released only after all its publishes are stored: from then on this node does not hear when its client goes on
    // elsewhere. A connection that was not accepted has no will [MQTT-3.1.2-8].
    return this.#letGo(
      session,
      connection.isRefused
        ? this.#host.plane().sessions.farewell(session, true, undefined)
        : connection.settled().then(() => this.#host.leave(connection)),
    )
  }

  #letGo(session: Session, behind: Promise<void>): Promise<void> {
    const failed = (error: unknown): void => this.#host.onError(error as Error)
    const releasing = behind
      .catch(failed) // whatever became of that: a session that is not released has neither expiry nor will
      .then(() => atEndAsync(() => this.#host.plane().sessions.release(session)))
      .catch(failed)
      .finally(() => this.#releasing.delete(releasing))
    this.#releasing.add(releasing)
    return releasing
  }

  /** Resolves when every session that was released is written down, and its will stored. */
  async settled(): Promise<void> {
    await Promise.all(this.#releasing)
    await this.#host.plane().sessions.settled()
  }

  ring(sid: string): void {
    this.#bySid.get(sid)?.ring()
  }

  /** Its session is another connection's by now. */
  taken(session: Session): void {
    const connection = this.#bySid.get(session.sid)
    if (connection?.session === session) connection.takenOver()
  }

  /** A write of its session was refused. */
  writeRefused(connection: Connection): void {
    const { session } = connection
    if (session === undefined) return
    this.#host
      .plane()
      .stillOwned(session)
      .then(
        (ours) => {
          if (ours) connection.ring()
          else connection.takenOver()
        },
        (error: unknown) => this.#host.onError(error as Error),
      )
  }

  /**
   * Another node's CONNECT asks for the session. Whatever the client sent here before it connected there has arrived in
   * the socket by now: one more turn of the event loop reads it, then the session is given up. A client that has said
   * DISCONNECT here is not thrown out, also while it waits for CONNACK: what it sent before is done, and its session
   * released, within a moment that the other node waits (bridge/sessions/handover.ts).
   */
  wanted(session: Session): void {
    const connection = this.#bySid.get(session.sid)
    const leaves = (): void => {
      this.#host
        .plane()
        .sessions.leaves(session)
        .catch((error: unknown) => this.#host.onError(error as Error))
    }
    if (connection?.session !== session) return leaves() // it is over, and is being released
    const giveUp = (): void => {
      if (connection.inbound.isBehind) return connection.inbound.whenCaughtUp(giveUp)
      if (connection.session !== session || connection.isEnding || connection.inbound.hasGoodbye())
        return leaves()
      connection.takenOver()
      void this.release(connection) // at once, not when its client closes
    }
    const inTheNextTurn = (): unknown => setImmediate(giveUp)
    setImmediate(inTheNextTurn)
  }
}
