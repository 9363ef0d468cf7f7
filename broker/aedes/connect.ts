// A CONNECT from Aedes' `preConnect` to CONNACK: the gate decides, AUTH packets are exchanged, the earlier connection
// of the Client Identifier makes way, the node becomes the owner of the client's session, and the session's
// subscriptions are registered. Aedes writes CONNACK (aedes-packets.ts); one that refuses before Aedes is asked is
// `Connection.sayRefused`. State: Client Identifier → the connection here whose CONNECT came last.
import type { IConnectPacket } from 'mqtt-packet'
import { randomBytes } from 'node:crypto'
import {
  isShared,
  isValidFilter,
  ownFilter,
  connectsWait,
  laterConnect,
  nameIn,
  Message,
  SessionOption,
  Slice,
  turnIsOver,
  type SessionRequest,
} from '../../bridge/index.ts'
import type { AedesClient, AedesSubscription } from './aedes-client.ts'
import type { EngineHost } from './engine-host.ts'
import { Authentication } from '../connection/enhanced-authentication.ts'
import type { BanList } from '../access/ban-list.ts'
import { Counts } from '../access/counts.ts'
import { Refusal, type Answer } from '../access/gate.ts'
import { tenantNameOf, userKeyOf } from '../access/tenancy.ts'
import { isOwn, optionsOf } from './subscribe.ts'
import { limits } from '../config/limits.ts'
import type { Connection } from '../connection/connection.ts'
import { boundedExpiry } from '../connection/inbound.ts'
import { isReserved } from '../protocol/control-packets.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'

type Done = (error: Error | null, ok: boolean) => void
type Will = NonNullable<SessionRequest['will']>

/** What the gate grants a session that comes back otherwise than it had it. */
interface Regranted {
  readonly denied: string[]
  /** By the filter that takes the place of one among `denied`. */
  readonly others: Map<string, AedesSubscription>
}

export const goneUser = 'its user is gone, or has another password'
const noUser = new Refusal(ReasonCode.notAuthorized, goneUser)
const largeWill = new Refusal(ReasonCode.quotaExceeded, 'its will is larger than it may be (willBytesMax)')
const foreign = new Refusal(
  ReasonCode.clientIdentifierNotValid,
  'its Client Identifier is that of another user, who is connected',
)
const tooManyOfTenant = new Refusal(
  ReasonCode.quotaExceeded,
  'as many connections as a tenant may have (tenantConnectionsMax)',
)
const tooMany = new Refusal(
  ReasonCode.quotaExceeded,
  'as many connections as a user may have (userConnectionsMax)',
)

/** Resolves with `promise`, or after `limits.leaveMs`. */
async function forAMoment(promise: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const moment = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, limits.leaveMs)
  })
  await Promise.race([promise, moment])
  clearTimeout(timer)
}

export class Connects {
  readonly #host: EngineHost
  readonly #latest = new Map<string, Connection>()
  readonly #bans: BanList
  readonly #flaps: (clientId: string) => void
  /** Connections of each user. */
  readonly #users = new Counts(Infinity)
  readonly #userOf = new Map<Connection, string>()
  /** Settles when its session is claimed, or is not. */
  readonly #claiming = new WeakMap<Connection, Promise<void>>()
  /** Whom a connection replaces when it is accepted. */
  readonly #replaced = new WeakMap<Connection, Connection>()

  /** @param flaps hears of a client that connects too often */
  constructor(host: EngineHost, bans: BanList, flaps: (clientId: string) => void) {
    this.#host = host
    this.#bans = bans
    this.#flaps = flaps
  }

  /** The connection here that has this Client Identifier, or is about to. */
  latest(clientId: string): Connection | undefined {
    return this.#latest.get(clientId)
  }

  /** Nothing is left of it. */
  over(connection: Connection): void {
    const user = this.#userOf.get(connection)
    if (user !== undefined) this.#users.give(user)
    this.#userOf.delete(connection)
    if (connection.tenant !== undefined) this.#host.tenants.leave(connection.tenant)
    const latest = this.#latest.get(connection.clientId)
    let earlier = this.#replaced.get(connection)
    if (latest !== connection) {
      // Whoever replaced it does not keep it: a client that is taken over a thousand times is no row of a thousand.
      let later = latest
      while (later !== undefined && this.#replaced.get(later) !== connection)
        later = this.#replaced.get(later)
      if (later !== undefined && earlier === undefined) this.#replaced.delete(later)
      else if (later !== undefined) this.#replaced.set(later, earlier!)
      return
    }
    // It was refused, and the one before is still served.
    while (earlier?.isClosed === true) earlier = this.#replaced.get(earlier) // refused as well, or taken over
    if (earlier !== undefined) this.#latest.set(connection.clientId, earlier)
    else this.#latest.delete(connection.clientId)
  }

  /** CONNECT has come: the gate is asked before Aedes looks at it. */
  preConnect(client: AedesClient, packet: IConnectPacket, done: Done): void {
    const { connection } = client.conn
    const { connect } = this.#host.gate
    const { keepAliveSecondsMax } = this.#host.config
    // [MQTT-3.2.2-21]; 3.1.1 cannot be told, and is served by its own
    if (keepAliveSecondsMax !== undefined && packet.protocolVersion === 5) {
      const { keepalive = 0 } = packet
      if (keepalive === 0 || keepalive > keepAliveSecondsMax) client._serverKeepAlive = keepAliveSecondsMax
    }
    // with tenants, what it is called there is known later: its address alone is looked at
    const known = this.#host.config.tenants === 'off'
    if (
      this.#refuseBanned(connection, known ? packet.clientId : '', known ? packet.username : undefined, done)
    )
      return
    const { will } = connection
    const willBytes = will === undefined ? 0 : Buffer.byteLength(will.topic) + will.payload.length
    if (willBytes > (this.#host.config.willBytesMax ?? Infinity)) {
      this.#host.refused('will-bytes')
      return this.#refuse(connection, largeWill, done)
    }
    const goOn = (): void => this.#exchange(connection, packet, done)
    if (connect === undefined) goOn()
    else this.#goOn(connection, connect(packet, connection), done, goOn)
  }

  /**
   * Aedes has no Authentication Methods: it is handed a CONNECT without one, when the client has proved who it is. It
   * refuses the others with 0x8C.
   */
  #exchange(connection: Connection, packet: IConnectPacket, done: Done): void {
    const { properties } = packet
    const { authenticationMethod: method, authenticationData } = properties ?? {}
    if (properties === undefined || method === undefined || this.#host.gate.exchange === undefined)
      return done(null, true)
    connection.authentication = new Authentication(
      connection,
      this.#host.gate,
      method,
      packet.clientId,
      this.#host.config.connectTimeoutMs,
    )
    connection.authentication.begin(authenticationData, (refusal) => {
      if (connection.isClosed || connection.client.isClosed) return
      if (refusal !== undefined) return this.#refuse(connection, refusal, done)
      delete properties.authenticationMethod
      delete properties.authenticationData
      done(null, true)
    })
  }

  /** The client is who it says, then the node claims its session; Aedes goes on with what it is told. */
  authenticate(
    client: AedesClient,
    username: string | undefined,
    password: Buffer | undefined,
    done: Done,
  ): void {
    const { connection } = client.conn
    const { authenticate } = this.#host.gate
    // An identifier that we made is one that its client may come again with.
    if (client._assignedClientId !== undefined && client.id!.length > this.#host.config.clientIdBytesMax)
      client.id = client._assignedClientId = randomBytes(16).toString('base64url')
    // who was accepted by an exchange is not asked for a password
    if (authenticate === undefined || connection.authentication !== undefined) this.#claim(client, done)
    else {
      const answer = authenticate(username, password, connection)
      this.#goOn(connection, answer, done, () => this.#claim(client, done))
    }
  }

  /** Behind a decision: by then the client may be gone. */
  #goOn(connection: Connection, answer: Answer<Refusal | undefined>, done: Done, goOn: () => void): void {
    const decided = (refusal: Refusal | undefined): void => {
      if (connection.isClosed || connection.client.isClosed) return
      if (refusal === undefined) goOn()
      else this.#refuse(connection, refusal, done)
    }
    if (answer instanceof Promise) void answer.then((refusal) => connection.guarded(() => decided(refusal)))
    else decided(answer)
  }

  #refuse(connection: Connection, { reasonCode, reason, error }: Refusal, done: Done): void {
    if (error !== undefined && 'serverReference' in error) return done(error, false) // Aedes names the other server
    connection.endReason ||= reason
    this.#host.onClientError(connection, error ?? new Error(reason))
    connection.refuse(reasonCode)
  }

  /** The session first, then what it is subscribed to. */
  #claim(client: AedesClient, done: Done): void {
    const { connection } = client.conn
    // Aedes comes here a turn later, and looks behind it: what is counted now would be given back by nobody.
    if (connection.isClosed || connection.client.isClosed) return
    const outside = this.#enter(client)
    if (outside !== undefined) return this.#refuse(connection, outside, done)
    if (this.#refuseBanned(connection, client.id!, userKeyOf(connection), done)) return
    const latest = this.#latest.get(client.id!)
    if (latest !== undefined && this.#isTaken(connection, latest)) {
      this.#host.refused('session-user')
      return this.#refuse(connection, foreign, done)
    }
    const earlier = this.#ownOf(connection, latest)
    // The later of two CONNECTs stays, also where its decision came first; who is not let in throws nobody out.
    if (earlier !== undefined && earlier.inbound.cameAt > connection.inbound.cameAt)
      return connection.takenOver()
    if (!this.#countUser(connection, earlier)) return this.#refuse(connection, tooMany, done)
    this.#latest.set(client.id!, connection)
    if (latest !== undefined) this.#replaced.set(connection, latest)
    const claimed = async (): Promise<void> => {
      // until its session is released, which would be another user's still
      if (latest !== earlier && latest?.isConnected === true && latest.isLeaving)
        await forAMoment(latest.whenOver())
      if (earlier !== undefined) await this.#makeWay(earlier)
      const will = this.#willOf(client)
      const decided = will === undefined ? undefined : await this.#decideWill(connection, will)
      if (connection.isClosed) return // a later one came
      if (decided instanceof Refusal)
        return this.#refuse(connection, new Refusal(decided.reasonCode, `its will: ${decided.reason}`), done)
      const never = client.sessionExpiryInterval! >= 0xffffffff
      await this.#host.claim(connection, {
        clientId: client.id!,
        cleanStart: client._cleanStart,
        expirySeconds: never ? -1 : client.sessionExpiryInterval!,
        will: decided,
        cameAt: connection.inbound.cameAt,
        user: userKeyOf(connection),
        mayTakeAnybodys: this.#host.config.sessionTakeover === 'any',
      })
      if (connection.isClosed) return
      // Behind the claim: who may not have the session would get its owner banned.
      if (client._assignedClientId === undefined && this.#bans.connected(client.id!)) {
        this.#flaps(client.id!)
        return this.#refuseFor(connection, 'connects too often', done)
      }
      client.clean = !connection.lasting
      const undecided = await this.#restore(client)
      // it may have waited for a while
      if (!connection.isClosed && this.#host.gate.isStill?.(connection) === false)
        return this.#refuse(connection, noUser, done)
      if (undecided === undefined) return
      const reason = `what its session is subscribed to: ${undecided.reason}`
      const reasonCode = undecided.isUndecided ? ReasonCode.serverUnavailable : undecided.reasonCode
      this.#refuse(connection, new Refusal(reasonCode, reason), done)
    }
    // Aedes looks whether the client is still there.
    const begin = (): void => {
      const claiming = claimed().then(
        () => done(null, true),
        (error: unknown) => done(error as Error, false),
      )
      this.#claiming.set(connection, claiming)
      void claiming.then(() => this.#claiming.delete(connection))
    }
    // Aedes comes here with all CONNECTs of a turn in the next one, however little reading them was (P12).
    if (turnIsOver() || connectsWait())
      laterConnect(begin) // in their order
    else begin()
  }

  /**
   * From here on it is one of its tenant: all behind this has its Client Identifier and its topics as they are called
   * outside, and so nobody of another tenant can have, or name, the same.
   * @returns why it is in none
   */
  #enter(client: AedesClient): Refusal | undefined {
    const { connection } = client.conn
    const { config, tenants } = this.#host
    if (config.tenants === 'off') return undefined
    const name = tenantNameOf(connection, config.tenantFrom)
    if (name instanceof Refusal) {
      this.#host.refused('tenant')
      return name
    }
    const clientId = nameIn(name, client.id!)
    const replaces = this.#latest.has(clientId)
    const tenant = tenants.enter(name, replaces ? Infinity : config.tenantConnectionsMax)
    if (tenant === undefined) {
      this.#host.refused('tenant-connections')
      return tooManyOfTenant
    }
    connection.tenant = tenant
    client.id = clientId
    return undefined
  }

  /**
   * Another user has the session, by a connection here: that one stays, whose CONNECT came later or not. What the store
   * knows is asked with the claim; of a connection that is ending it decides.
   */
  #isTaken(connection: Connection, latest: Connection): boolean {
    const has = latest.session !== undefined && !latest.isEnding && latest.principal.user !== undefined
    return has && this.#isStranger(connection, latest)
  }

  #isStranger(connection: Connection, other: Connection): boolean {
    return this.#host.config.sessionTakeover === 'same-user' && userKeyOf(other) !== userKeyOf(connection)
  }

  /**
   * The connection that makes way for this one. Another user's that has not got the session yet is none: it may only
   * have said this Client Identifier. Were it believed, it would keep the owner out; were it thrown out, the owner
   * could be. Both claim the session, and the store says whose it is (session-claim.lua: FOREIGN).
   */
  #ownOf(connection: Connection, latest: Connection | undefined): Connection | undefined {
    let own = latest
    while (
      own !== undefined &&
      this.#isStranger(connection, own) &&
      (own.session === undefined || own.isEnding)
    )
      own = this.#replaced.get(own)
    return own
  }

  /** When its CONNECT comes, and again when it is known who it is. */
  #refuseBanned(connection: Connection, clientId: string, user: string | undefined, done: Done): boolean {
    if (this.#bans.isEmpty) return false
    const ban = this.#bans.of(clientId, user, connection.address, connection.tenant?.name)
    if (ban !== undefined) this.#refuseFor(connection, ban.reason, done)
    return ban !== undefined
  }

  #refuseFor(connection: Connection, reason: string, done: Done): void {
    this.#host.refused('banned')
    this.#refuse(connection, new Refusal(ReasonCode.banned, `banned: ${reason}`), done)
  }

  /** Who connects anew needs no more than it has: its earlier connection goes. */
  #countUser(connection: Connection, earlier: Connection | undefined): boolean {
    const user = userKeyOf(connection)
    if (user === undefined) return true
    const isReplacing = earlier !== undefined && this.#userOf.get(earlier) === user
    if (this.#users.take(user, isReplacing ? Infinity : this.#host.config.userConnectionsMax)) {
      this.#userOf.set(connection, user)
      return true
    }
    this.#host.refused('user-connections')
    return false
  }

  /**
   * A will that its client may not publish is not taken; the gate is asked again when it is published. 3.1.1 has no
   * words to refuse it, as with PUBLISH.
   */
  async #decideWill(connection: Connection, will: Will): Promise<Will | Refusal | undefined> {
    const { publish } = this.#host.gate
    if (publish === undefined) return will
    const message = await publish(will.message, 'will', connection)
    if (!(message instanceof Refusal)) return will
    if (connection.level === 5 || this.#host.config.refusedPublish === 'close') return message
    return (this.#host.dropped('refused', will.message.qos), undefined)
  }

  /**
   * The later CONNECT wins. An earlier connection that has its session gives it up when the later one claims
   * it. One that is still waiting for its own ends here: its claim, should it be sent again, must not come
   * behind. When its claim is on its way, its answer is waited for: only who knows the session can say that it was not
   * accepted, and has no will [MQTT-3.1.2-8]; the later claim would publish it. And one whose client has said
   * DISCONNECT or ended its side gets a moment for doing what was sent before, if only CONNECT, PUBLISH, DISCONNECT in
   * one segment.
   */
  async #makeWay(earlier: Connection): Promise<void> {
    if (earlier.isLeaving || (!earlier.connackWritten && earlier.inbound.hasGoodbye()))
      await forAMoment(earlier.whenOver())
    if (earlier.connackWritten) return
    earlier.takenOver()
    const claiming = this.#claiming.get(earlier)
    if (claiming !== undefined && earlier.session === undefined) await forAMoment(claiming)
  }

  /**
   * Registers what the session is subscribed to, some at a time. Aedes would collect the filters in an
   * object, and die of one that is called `__proto__`; nothing of what it does with them otherwise is needed.
   * @returns why the gate did not decide about one, or why it cannot have one
   */
  async #restore(client: AedesClient): Promise<Refusal | undefined> {
    const { connection } = client.conn
    let some: Promise<Refusal | undefined>[] = []
    const changes: Regranted = { denied: [], others: new Map() }
    const slice = new Slice()
    for (const [filter, stored] of connection.session?.subscriptions ?? []) {
      if (slice.isOver) await slice.next()
      if (client.closed) return undefined // and unsubscribed from what it had by then
      if (some.push(this.#restoreOne(client, filter, stored, changes)) < limits.restoredPerTurn) continue
      const undecided = (await Promise.all(some)).find((refusal) => refusal !== undefined)
      if (undecided !== undefined) return undecided
      some = []
    }
    const undecided = (await Promise.all(some)).find((refusal) => refusal !== undefined)
    if (undecided === undefined) await this.#regrant(client, changes)
    return undecided
  }

  /** Behind all that were asked about: what is granted instead is not asked about again. */
  async #regrant(client: AedesClient, { denied, others }: Regranted): Promise<void> {
    const { connection } = client.conn
    const slice = new Slice()
    for (const [filter, subscription] of others) {
      if (slice.isOver) await slice.next()
      if (client.closed) return
      const hasIt = client.subscriptions[filter] !== undefined // and may have it
      if (hasIt || this.#host.refusalOf(connection, filter) !== undefined) continue
      await this.#register(client, filter, subscription)
    }
    const gone = denied.filter((filter) => client.subscriptions[filter] === undefined)
    if (gone.length > 0) await this.#host.forget(connection, gone)
  }

  /**
   * The gate is asked again: rules may be others by now, and what is queued from now on is by this subscription. Who
   * cannot decide takes nothing out of a session: its client, told that the session is there, would not subscribe anew.
   */
  async #restoreOne(
    client: AedesClient,
    filter: string,
    { options: bits, identifier: si }: { readonly options: number; readonly identifier: number | undefined },
    { denied, others }: Regranted,
  ): Promise<Refusal | undefined> {
    const { connection } = client.conn
    let subscription: AedesSubscription = {
      qos: (bits & SessionOption.qos) as 0 | 1 | 2,
      nl: (bits & SessionOption.noLocal) !== 0,
      rap: (bits & SessionOption.retainAsPublished) !== 0,
      rh: 0,
      si,
      func: connection,
    }
    const { subscribe } = this.#host.gate
    if (subscribe !== undefined) {
      const { noLocal, qos, retainAsPublished } = optionsOf(subscription)
      const asked = { filter, qos, noLocal, retainAsPublished, retainHandling: 0 } as const
      const decided = await subscribe(asked, connection)
      if (client.closed) return undefined
      if (decided instanceof Refusal) {
        if (decided.isUndecided) return decided
        denied.push(filter)
        return undefined
      }
      subscription = {
        ...subscription,
        qos: decided.qos,
        nl: decided.noLocal,
        rap: decided.retainAsPublished,
      }
      if (decided.filter !== filter) {
        denied.push(filter)
        if (
          isValidFilter(ownFilter(decided.filter)) &&
          !decided.filter.startsWith('$share/') &&
          isOwn(decided.filter, connection)
        )
          others.set(decided.filter, subscription)
        return undefined
      }
    }
    return this.#register(client, filter, subscription)
  }

  /** A group that has no room for a member that its session is: told so, the client may come again. */
  async #register(
    client: AedesClient,
    filter: string,
    subscription: AedesSubscription,
  ): Promise<Refusal | undefined> {
    if (isShared(filter)) {
      client.conn.subscriptions[filter] = subscription
      const granted = await this.#host.share(client.conn.connection, filter, optionsOf(subscription), true)
      return granted < 0x80 ? undefined : new Refusal(granted, 'a group has as many members as it may')
    }
    Object.defineProperty(client.subscriptions, filter, {
      value: subscription,
      writable: true,
      enumerable: true,
      configurable: true,
    }) // not as SUBSCRIBE, which the trap hears of
    await this.#host.subscribe(client.conn.connection, filter, optionsOf(subscription), false)
    return undefined
  }

  /**
   * From the bytes of its CONNECT. One that 3.1.1 has no words to refuse, or that a bridge of Mosquitto has, is not
   * published, like a PUBLISH.
   */
  #willOf(client: AedesClient): Will | undefined {
    const { will } = client.conn.connection
    if (will === undefined) return undefined
    if (isReserved(will.topic)) return (this.#host.dropped('refused', will.qos), undefined)
    const expirySeconds = boundedExpiry(will.expirySeconds, this.#host.config.messageExpirySecondsMax)
    const { connection } = client.conn
    const topic = connection.tenant?.topic(will.topic) ?? will.topic
    const { user, permissions } = connection.principal
    const by = { clientId: client.id!, ...(permissions === undefined && { user: user ?? null }) }
    return { delaySeconds: will.delaySeconds, message: Message.will({ ...will, topic, expirySeconds }, by) }
  }
}
