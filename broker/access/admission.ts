// Which connections a node takes: as many clients as it may have, and as many that have not sent their
// CONNECT; the same of each listener. Who is connected here and connects anew takes its own place: its old
// connection may be half-open, and nothing but the new CONNECT ends it. State: those without CONNECT,
// those that were turned away and are not closed yet, those that are being replaced. Bounds:
// connectionsMax, connectingMax. Once the node is drained it takes none. Nobody has proved yet who a CONNECT says it is, so that no more than
// connectingMax at once take a place that is not free.
import type { Config, ListenerConfig } from '../config/config.ts'
import type { Connection } from '../connection/connection.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'
import type { RefusalCause } from './refusals.ts'

type Bounds = Pick<Config, 'connectionsMax' | 'connectingMax'>

/** Who came by one listener. */
interface Crowd {
  /** Those that have not sent their CONNECT, the oldest first. */
  readonly connecting: Set<Connection>
  clients: number
  /** Those among them that are being replaced. */
  replaced: number
}

export class Admission {
  readonly #bounds: Bounds
  readonly #refused: (cause: RefusalCause) => void
  /** Those that have not sent their CONNECT, the oldest first. */
  readonly #connecting = new Set<Connection>()
  /** Refused connections that are not closed yet; they do not count. */
  readonly #turnedAway = new Set<Connection>()
  /** Connections whose client connected anew, and by which: they take no place beside that one. */
  readonly #replaced = new Map<Connection, Connection>()
  /** The same by the new one. */
  readonly #replacing = new Map<Connection, Connection>()
  readonly #crowds = new Map<ListenerConfig, Crowd>()
  /** Tells whoever connects where else to go; undefined: they may come. */
  #sendElsewhere: ((connection: Connection) => void) | undefined

  constructor(bounds: Bounds, refused: (cause: RefusalCause) => void) {
    this.#bounds = bounds
    this.#refused = refused
  }

  /** From now on whoever connects is told to go elsewhere. */
  close(sendElsewhere: (connection: Connection) => void): void {
    this.#sendElsewhere = sendElsewhere
  }

  #crowdOf({ listener }: Connection): Crowd | undefined {
    if (listener === undefined) return undefined
    let crowd = this.#crowds.get(listener)
    if (crowd === undefined)
      this.#crowds.set(listener, (crowd = { connecting: new Set(), clients: 0, replaced: 0 }))
    return crowd
  }

  /**
   * A connection without CONNECT. Who is slow to say who it is makes room: of honest clients CONNECT comes at
   * once.
   */
  came(connection: Connection): void {
    const crowd = this.#crowdOf(connection)
    this.#connecting.add(connection)
    crowd?.connecting.add(connection)
    if (crowd !== undefined) this.#makeRoom(crowd.connecting, connection.listener!.connectingMax)
    this.#makeRoom(this.#connecting, this.#bounds.connectingMax)
  }

  #makeRoom(connecting: ReadonlySet<Connection>, max: number): void {
    if (connecting.size <= max) return
    const [oldest] = connecting
    oldest!.endReason = 'more connections without CONNECT than there may be (connectingMax)'
    this.#turnAway(oldest!, 'connecting')
    oldest!.destroy()
  }

  /**
   * CONNECT came; `open` connections are there, of all kinds, and `earlier` is the one that its client has
   * here. False: there are as many clients as there may be, or the node takes none any more, and it is told.
   */
  admit(connection: Connection, open: number, earlier: Connection | undefined): boolean {
    const crowd = this.#crowdOf(connection)
    this.#connecting.delete(connection)
    crowd?.connecting.delete(connection)
    if (this.#sendElsewhere !== undefined) {
      this.#turnAway(connection, 'drained')
      this.#sendElsewhere(connection)
      return false
    }
    if (earlier !== undefined) this.#replace(earlier, connection)
    const replaced = Math.min(this.#replaced.size, this.#bounds.connectingMax)
    const others = this.#connecting.size + this.#turnedAway.size + replaced
    const fits =
      open - others <= this.#bounds.connectionsMax && (crowd === undefined || hasRoom(crowd, connection))
    if (fits) {
      if (crowd !== undefined) crowd.clients++
      return true
    }
    this.#turnAway(connection, 'connections')
    connection.refuse(ReasonCode.quotaExceeded)
    return false
  }

  #turnAway(connection: Connection, cause: RefusalCause): void {
    this.#connecting.delete(connection)
    this.#crowdOf(connection)?.connecting.delete(connection)
    this.#turnedAway.add(connection)
    this.#refused(cause)
  }

  /** Nothing is left of it. */
  over(connection: Connection): void {
    const crowd = this.#crowdOf(connection)
    crowd?.connecting.delete(connection)
    // in neither: it was admitted
    if (!this.#connecting.delete(connection) && !this.#turnedAway.delete(connection) && crowd !== undefined)
      crowd.clients--
    this.#unreplace(connection)
    const earlier = this.#replacing.get(connection)
    // it stays the client's connection: the new one was refused, or left before it had the session
    if (earlier?.isClosed === false && this.#replaced.get(earlier) === connection) this.#unreplace(earlier)
    this.#replacing.delete(connection)
  }

  #replace(earlier: Connection, connection: Connection): void {
    const crowd = this.#crowdOf(earlier)
    if (!this.#replaced.has(earlier) && crowd !== undefined) crowd.replaced++
    this.#replaced.set(earlier, connection)
    this.#replacing.set(connection, earlier)
  }

  #unreplace(earlier: Connection): void {
    const by = this.#replaced.get(earlier)
    if (by === undefined) return
    const crowd = this.#crowdOf(earlier)
    if (crowd !== undefined) crowd.replaced--
    this.#replaced.delete(earlier)
    if (this.#replacing.get(by) === earlier) this.#replacing.delete(by)
  }
}

const hasRoom = ({ clients, replaced }: Crowd, { listener }: Connection): boolean =>
  clients - Math.min(replaced, listener!.connectingMax) < listener!.connectionsMax
