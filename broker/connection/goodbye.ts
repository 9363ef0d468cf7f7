// A client's DISCONNECT: told to Redis as soon as it has come, also while what stands before it waits to be
// read. State: whether it was told, and where we are in what waits. Only what a connection reads ahead is
// looked through (inbound.ts bounds it).
import type { Session } from '../../bridge/index.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'
import { PacketType, readDisconnect } from '../protocol/control-packets.ts'
import { LookAhead } from '../protocol/look-ahead.ts'
import { ProtocolViolation } from '../protocol/properties.ts'

/** `voidsWill`: the will is not to be published; seconds, -1: for ever, undefined: as CONNECT said. */
type Announce = (voidsWill: boolean, expirySeconds: number | undefined) => void

export class Goodbye {
  readonly #session: Session
  readonly #level: number
  readonly #announce: Announce
  #isAnnounced = false
  /** A DISCONNECT has come. */
  isSaid = false
  #lookAhead: LookAhead | undefined

  constructor(session: Session, level: number, tell: Announce) {
    this.#session = session
    this.#level = level
    this.#announce = tell
  }

  /**
   * Looks for it in `chunk`, or, when it has not looked yet, in all that is `unread`, which `chunk` is a part
   * of.
   */
  look(chunk: Buffer | undefined, unread: () => Iterable<Buffer>): void {
    if (this.#isAnnounced) return
    const pieces = chunk === undefined || this.#lookAhead === undefined ? unread() : [chunk]
    this.#lookAhead ??= new LookAhead(PacketType.disconnect)
    for (const piece of pieces) {
      const frame = this.#lookAhead.feed(piece)
      if (frame === undefined) continue
      try {
        return this.take(frame)
      } catch (error) {
        // it is not checked yet: that is said when it is read
        if (!(error instanceof ProtocolViolation)) throw error
      }
    }
  }

  /** Nothing waits any more. */
  lookNoMore(): void {
    this.#lookAhead = undefined
  }

  /** It was found or read. */
  take(frame: Buffer): void {
    if (this.#isAnnounced) return
    const { will, expirySeconds: asked } = this.#session.request
    const { reasonCode, expirySeconds } = readDisconnect(frame, this.#level)
    // it is refused when it is read
    if (expirySeconds !== undefined && expirySeconds !== 0 && asked === 0) return
    this.#isAnnounced = this.isSaid = true
    // [MQTT-3.14.4-3] [MQTT-3.1.2-10]
    const voidsWill = reasonCode === ReasonCode.success && will !== undefined
    if (voidsWill || expirySeconds !== undefined) this.#announce(voidsWill, expirySeconds)
  }
}
