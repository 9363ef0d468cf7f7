// One client connection as we serve it: what comes (inbound.ts), what goes (outbound.ts), and its life
// between the first byte and the release of its session. The engine stands behind it for CONNECT, SUBSCRIBE,
// UNSUBSCRIBE and Keep Alive (engine-client.ts). State: how far its life is. The end of a connection comes
// after what came before it: when its client says good-bye, ends its side or is gone altogether, what we
// have read of it by then is still done, in its order; only then the session is released. The will is void as
// soon as a DISCONNECT that says so has been read, also while what stands before it waits.
//
// How it ends. Whatever begins it, `client.close()` makes Aedes close its stream, which calls `destroy`; that, or
// `onSocketClose`, calls `host.over`, and the engine calls `onOver` once: the session is released.
//
//   what happens                        called              flags that it sets              next
//   its client sent DISCONNECT          leave               isClosed, #endedBy 'said'       client.close
//   its client ended its side           onSocketEnd         hasEnded                        finish
//   what came before the end is done    finish              none                            client.close
//   its socket closed                   onSocketClose       #isSocketClosed, hasEnded       host.over, or finish
//   it broke a rule, Keep Alive is      disconnect          none                            Aedes writes DISCONNECT:
//   over, the node stops                                                                    onDisconnect
//   DISCONNECT is written               onDisconnect        disconnectCode; as toldWhy      Aedes closes
//   Aedes refuses CONNECT               onConnack           connackWritten; as toldWhy      Aedes closes
//   we refuse CONNECT                   refuse, sayRefused  as toldWhy                      client.close
//   the last packet is written          toldWhy             isClosed, #endedBy 'written'    whoever called goes on
//   another has its session             takenOver           as toldWhy, after CONNACK       client.close
//   a bug of ours                       onBug               none                            the socket is destroyed
//   Aedes closes its stream, or the     destroy             isClosed, #endedBy 'over'       by #endedBy: the socket is
//   node cuts it                                                                            closed at once ('none'), when
//                                                                                           it was read ('written'), when
//                                                                                           the session is released ('said')
import type { IConnackPacket } from 'mqtt-packet'
import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Message, OwedReplay, Session } from '../../bridge/index.ts'
import type { EngineClient } from './engine-client.ts'
import { HeldAcknowledgements } from './acknowledgements-held-back.ts'
import type { AskedReplay, ConnectionHost } from './connection-host.ts'
import type { Gate } from '../access/gate.ts'
import { certificateOf, certificateOfProxy } from '../access/certificate.ts'
import { nobody, type Certificate, type Principal } from '../access/principal.ts'
import { plainAddress } from '../access/networks.ts'
import { serverNameOf, type LiveTenant } from '../access/tenancy.ts'
import type { Authentication } from './enhanced-authentication.ts'
import { Inbound } from './inbound.ts'
import { closeBehind, linger } from './linger.ts'
import type { Outbox } from './outbox.ts'
import { Outbound } from './outbound.ts'
import type { Match } from '../routing/local-table.ts'
import type { SlowPolicy } from '../routing/pressure.ts'
import type { Replayed, ReplayPages } from '../routing/replay-pages.ts'
import { RoomWaiters } from './room-waiters.ts'
import type { Peer } from './peer.ts'
import type { StoredSession } from './stored-session.ts'
import type { ConnectionParts } from './connection-parts.ts'
import { hex, ReasonCode, reasonOf } from '../protocol/reason-codes.ts'
import { PacketType, type Will } from '../protocol/control-packets.ts'
import { elsewhereConnack, refusingConnack } from '../protocol/connack.ts'

/** Connections of this process so far. */
let connections = 0

export class Connection implements ConnectionParts {
  readonly stream: Duplex
  /** Which one it is, in the order in which they came. */
  readonly number = ++connections
  /** performance.now() when it came. */
  readonly since = performance.now()
  readonly #host: ConnectionHost<Connection>
  readonly inbound: Inbound<Connection>
  readonly outbound: Outbound<Connection>
  /** Of a WebSocket: the HTTP request that it began with. */
  request: IncomingMessage | undefined
  /** Who it is where a proxy says so; undefined: its socket does. */
  peer: Peer | undefined
  /** Made by the engine, and tied to it at once. */
  client!: EngineClient
  /** Filters of the SUBSCRIBE or UNSUBSCRIBE under way, when somebody wants to hear of its answer. */
  answering: { readonly isSubscribe: boolean; readonly filters: string[] } | undefined
  /** Of a client whose CONNECT names an Authentication Method. */
  authentication: Authentication<Connection> | undefined
  /**
   * Where tenants are on: the one that it belongs to, once its session is claimed, and from then on; its Client Identifier
   * is one of the tenant from then on, too.
   */
  tenant: LiveTenant | undefined
  #principal: Principal = nobody
  #certificate: Certificate | 'unread' | undefined = 'unread'
  /** Known with CONNACK. */
  mqtt5 = false
  /** CONNACK accepted it. */
  isConnected = false
  /** It is over: nothing is acknowledged any more. */
  isClosed = false
  /** Its client has ended its side: nothing more comes, and what came is still to be done. */
  hasEnded = false
  /** Decided when it ended. */
  #wasRefused: boolean | undefined
  /** Its socket is closed. */
  #isSocketClosed = false
  #over: RoomWaiters | undefined
  /**
   * Filters of SUBSCRIBEs that are not answered yet → which Retained Messages are to be sent after SUBACK.
   */
  replaysAfterSuback: Map<string, AskedReplay> | undefined
  /** Made with the first SUBSCRIBE that asks for Retained Messages. */
  replays: ReplayPages | undefined
  /** From now on a DISCONNECT may be sent [MQTT-3.14.0-1]. */
  connackWritten = false
  /** Of the DISCONNECT that we sent. */
  disconnectCode: number | undefined
  /** Why it ended, for the log: what came first. */
  endReason = ''
  /** Settles when its session is released. */
  #released: Promise<void> | undefined
  /** Who ends it: nobody in words, we (`written`) or the client (`said`). */
  #endedBy: 'none' | 'written' | 'said' | 'over' = 'none'
  /**
   * Its session has a queue: it outlives the connection, or an earlier one left it; known with the session.
   */
  lasting = false
  /** Settles when Redis knows that the client said good-bye; undefined: there is nothing to know. */
  goodbyeStored: Promise<void> | undefined
  /** Made when the first of its acknowledgements waits for slow subscribers. */
  #held: HeldAcknowledgements | undefined
  /** The client's session, once this node owns it. */
  session: Session | undefined

  /** Of its client, as `plainAddress` has it; empty where there is none. */
  get address(): string {
    return this.peer?.address ?? plainAddress((this.outbox.socket as Partial<Socket>).remoteAddress ?? '')
  }

  /** Who it is; known with its CONNECT. */
  get principal(): Principal {
    return this.#principal
  }

  /** A program may say so at any time. */
  set principal(principal: Principal) {
    this.#principal = principal
    if (this.isClient) this.#host.lookAt(this) // what another one was granted it may not have
  }

  /** That it has shown, and its listener trusts, or a proxy that it trusts; read when somebody asks for it. */
  get certificate(): Certificate | undefined {
    if (this.#certificate === 'unread') {
      const tls = this.peer?.tls
      this.#certificate =
        certificateOf(this.outbox.socket) ??
        (tls?.isVerified === true ? certificateOfProxy(tls.commonName, tls.certificate) : undefined)
    }
    return this.#certificate
  }

  /** That its client asked for in the TLS handshake, with us or with a proxy. */
  get serverName(): string | undefined {
    return this.peer?.tls?.serverName ?? serverNameOf(this.outbox.socket)
  }

  get listener(): ConnectionHost<Connection>['listener'] {
    return this.#host.listener
  }

  /** Largest packet that it may send, bytes; CONNACK says so. */
  get packetBytesMax(): number {
    return this.#host.readerLimits.packetBytesMax
  }

  constructor(stream: Duplex, host: ConnectionHost<Connection>) {
    this.stream = stream
    this.#host = host
    this.inbound = new Inbound<Connection>(this, host)
    this.outbound = new Outbound<Connection>(stream, this, host)
  }

  /** Whether it may have Shared Subscriptions. */
  get mayShare(): boolean {
    return this.#host.mayShare()
  }

  /** Messages of groups that it can take at once; less than 1: as many wait for it. */
  get groupRoom(): number {
    return this.outbound.groupRoom
  }

  get gate(): Gate<Connection> {
    return this.#host.gate
  }

  get outbox(): Outbox {
    return this.outbound.outbox
  }

  feed(chunk: Buffer): void {
    this.inbound.feed(chunk)
  }

  /** The will of its CONNECT. */
  get will(): Will | undefined {
    return this.inbound.will
  }

  get clientId(): string {
    return this.client.clientId
  }

  /** Of a session that has a queue. */
  get stored(): StoredSession | undefined {
    return this.outbound.stored
  }

  /** The protocol level that CONNECT names; 0 before it. */
  get level(): number {
    return this.inbound.level
  }

  /** It is a client's: CONNACK accepted it, and it is not over. */
  get isClient(): boolean {
    return this.isConnected && !this.isClosed
  }

  // What the engine answers

  /**
   * CONNACK. @param shortened without what its client can do without, when it takes only smaller packets
   * [MQTT-3.1.2-24]. @returns whether it accepts: then the engine calls `connected` when it is ready
   */
  onConnack(packet: IConnackPacket, frame: Buffer, shortened: () => Buffer): boolean {
    this.outbox.packetBytesMax = this.client.maximumPacketSize ?? Infinity
    if (!this.outbox.push(frame) && !this.outbox.push(shortened())) this.destroy() // it would wait for ever
    const code = packet.reasonCode ?? packet.returnCode ?? 0
    if (code !== 0) this.#wasRefused ??= !this.hasEnded // its session may be claimed by now
    this.connackWritten = true
    this.gate.connackSent?.(packet, this)
    if (code !== 0) this.toldWhy(`refused with ${hex(code)}`)
    return code === 0
  }

  /** SUBACK or UNSUBACK. @param shortened without its properties */
  onSuback(granted: readonly number[], frame: Buffer, shortened: () => Buffer): void {
    if (!this.outbox.push(frame)) this.outbox.push(shortened())
    this.inbound.answered(granted)
  }

  /** DISCONNECT; the engine closes the connection next. */
  onDisconnect(reasonCode: number, frame: Buffer, shortened: () => Buffer): void {
    if (!this.outbox.push(frame)) this.outbox.push(shortened())
    this.disconnectCode = reasonCode
    this.toldWhy(`told to go with ${hex(reasonCode)}`)
  }

  /** CONNACK is written: packets that came after CONNECT are read now. */
  connected(): void {
    this.isConnected = true
    this.mqtt5 = this.level === 5
    const session = this.lasting ? this.session : undefined
    const stored = this.outbound.start(session)
    this.inbound.start(stored)
    this.#host.onClient(this) // whoever hears of it may publish to it, or end it
    if (this.isClosed) return
    stored?.start()
    this.outbound.knownGroups?.pump()
    if (session?.replays !== undefined) this.#host.goOn(this, session.replays)
    this.inbound.resume()
    this.finish()
  }

  // The bound of all clients together

  get comingBytes(): number {
    return this.inbound.unreadBytes
  }

  get waitingBytes(): number {
    return this.outbound.waitingBytes
  }

  get slowPolicy(): SlowPolicy {
    return this.outbound.slowPolicy
  }

  progress(): number {
    return this.outbox.progress()
  }

  readForRoom(): void {
    this.inbound.readOn()
  }

  endForRoom(): void {
    this.#host.refused('client-bytes')
    if (this.connackWritten)
      this.disconnect(
        ReasonCode.quotaExceeded,
        'this node has no more memory for what you send or do not read',
      )
    else this.destroy()
  }

  // Messages for the client

  /** Delivers a message once, at the QoS and with the identifiers of `match`. */
  deliver(message: Message, match: Match<object>): void {
    this.outbound.deliver(message, match)
  }

  /** Something may be in the session's queue. */
  ring(): void {
    this.outbound.stored?.ring()
  }

  replay(
    page: readonly Replayed[],
    match: Pick<Match<object>, 'qos' | 'identifiers'>,
    owed: OwedReplay | undefined,
  ): Promise<void> {
    return this.outbound.replay(page, match, owed)
  }

  roomForMore(): Promise<void> {
    return this.outbound.roomForMore()
  }

  // Messages of the client

  /** Whether something that it published is not acknowledged. */
  get isPublishing(): boolean {
    return this.inbound.isPublishing
  }

  /**
   * Resolves when all that it published is stored, and what it acknowledged is written down; once, and when
   * nothing more comes.
   */
  async settled(): Promise<void> {
    await this.inbound.published()
    await Promise.all([
      this.outbound.stored?.settled(),
      this.outbound.knownGroups?.settled(),
      this.goodbyeStored,
    ])
  }

  /** No acknowledgement waits for slow subscribers. */
  get holdsNone(): boolean {
    return this.#held?.isEmpty !== false
  }

  /** Calls `done`, in the order of its calls, when its publish need not wait for slow subscribers. */
  whenClear(clear: Promise<void> | undefined, done: () => void): void {
    if (clear === undefined && this.holdsNone) return done()
    this.#held ??= new HeldAcknowledgements()
    this.#held.add(clear, done)
    if (this.isEnding) this.#held.letGo()
  }

  // The end

  /** Its CONNECT was not accepted, and that is not because its client left. */
  get isRefused(): boolean {
    return this.#wasRefused ?? (!this.connackWritten && !this.hasEnded)
  }

  /** What came before its end is still being done. */
  get isLeaving(): boolean {
    return this.hasEnded && !this.isClosed
  }

  /** Its end has come: what is left of it is done, and its session released, soon. */
  get isEnding(): boolean {
    return this.isClosed || this.hasEnded || this.inbound.saidGoodbye
  }

  /** Resolves when it is over, at once when it is. */
  whenOver(): Promise<void> {
    return this.isClosed ? Promise.resolve() : (this.#over ??= new RoomWaiters()).wait()
  }

  /**
   * The client has ended its side: what it sent before comes first [MQTT-4.6.0]; it need not have waited for
   * CONNACK (3.1.4).
   */
  onSocketEnd(): void {
    this.hasEnded = true
    this.letGo()
    this.finish()
  }

  /** The socket is closed. What was read of it is still done, with nobody to answer to. */
  onSocketClose(): void {
    this.#isSocketClosed = true
    this.outbox.close()
    const rest = this.stream.read() as Buffer | null // what the stream had read when it was closed
    if (rest !== null && !this.isClosed) this.feed(rest)
    if (this.client.isClosed) this.#host.over(this)
    else this.onSocketEnd()
  }

  failed(error: Error): void {
    if (!this.client.isClosed) this.#host.broken(this, error)
  }

  /** Its end has come: who publishes nothing more is not held back. */
  letGo(): void {
    this.#held?.letGo()
    this.inbound.paceNoMore()
  }

  /** Ends it, if its client has ended its side and what came before is done. */
  finish(): void {
    if (this.hasEnded && !this.client.isClosed && this.inbound.isDone) this.client.close()
  }

  /** The client said good-bye: its socket closes when what it sent is done and its session is released. */
  leave(): void {
    this.#endedBy = 'said'
    this.#end()
    this.client.close()
  }

  /** Its session is another's: from this moment nothing that it hands in is acknowledged (P6). */
  takenOver(): void {
    if (this.isClosed) return
    this.#host.traffic.takenOver++
    this.endReason ||= 'taken over by another connection of its Client Identifier'
    if (this.connackWritten && this.level === 5)
      this.outbox.push(Buffer.from([PacketType.disconnect << 4, 1, ReasonCode.sessionTakenOver]))
    // What was not accepted has no will [MQTT-3.1.2-8]: said ahead of the claim of who takes its place, which would
    // publish it, and not when the end of this one has its turn.
    if (!this.connackWritten && this.session !== undefined) this.#host.farewell(this, true, undefined)
    if (this.connackWritten) this.toldWhy()
    else this.#end()
    this.client.close()
  }

  /** Tells the client to go, and why. */
  disconnect(reasonCode: number, reason: string): void {
    this.client.disconnect(reasonCode, reason)
  }

  /** Nothing goes in or out any more, but what is written by now. */
  #end(): void {
    // Who was thrown out may hear its client's end before its claim is answered: that is no client that left.
    this.#wasRefused ??= !this.connackWritten && !this.hasEnded
    this.isClosed = true
    this.inbound.end()
    this.outbound.end()
    this.#held?.letGo()
  }

  /**
   * The last packet for the client is written [MQTT-3.14.4-1]: a DISCONNECT, or a CONNACK that refuses it.
   */
  toldWhy(reason = ''): void {
    this.#end()
    this.#endedBy = 'written'
    this.endReason ||= reason
  }

  /** A valid CONNECT is refused. */
  refuse(reasonCode: number): void {
    this.sayRefused(reasonCode, reasonOf(reasonCode))
    this.client.close()
  }

  /** A valid CONNECT is refused: its client is told to go elsewhere. */
  sendElsewhere(reasonCode: number, reference: string): void {
    const packetBytesMax = this.inbound.wishes?.maximumPacketSize ?? Infinity
    this.#writeRefusal(elsewhereConnack(this.level, reasonCode, reference, packetBytesMax), reasonCode)
    this.client.close()
  }

  /** CONNACK with the reason code, where its protocol has one for it. */
  sayRefused(reasonCode: number, reason?: string): void {
    const refusal = refusingConnack(this.level, reasonCode, this.inbound.wishes?.maximumPacketSize, reason)
    if (refusal !== undefined) this.#writeRefusal(refusal, reasonCode)
  }

  #writeRefusal(refusal: Buffer, reasonCode: number): void {
    this.outbox.push(refusal)
    this.gate.connackSent?.({ cmd: 'connack', sessionPresent: false, reasonCode }, this)
    this.toldWhy(`refused with ${hex(reasonCode)}`)
  }

  /** Closes the connection. A client that was told why gets a moment for reading it. */
  destroy(): void {
    this.#end()
    if (this.#isSocketClosed) return this.#host.over(this)
    if (this.#endedBy === 'none') this.stream.destroy()
    else if (this.#endedBy === 'written') linger(this.stream)
    else if (this.#endedBy === 'said') {
      this.#host.over(this)
      closeBehind(this.stream, this.#released)
    }
    this.#endedBy = 'over'
  }

  /** Called by the engine, once: nothing comes or goes any more. */
  onOver(): void {
    this.#end()
    this.authentication?.close()
    this.#host.holdings.forget(this)
    if (this.session !== undefined) this.#released = this.#host.releaseSession(this)
    this.outbound.closed()
    this.#over?.give()
  }

  /** A bug of ours is this connection's end, not everybody's: whoever calls, in whichever turn. */
  onBug(error: unknown): void {
    this.failed(error as Error)
    this.inbound.giveUp()
    this.stream.destroy()
  }

  guarded(work: () => void): void {
    try {
      work()
    } catch (error) {
      this.onBug(error)
    }
  }
}
