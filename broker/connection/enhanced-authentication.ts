// Enhanced authentication of one connection (MQTT 5 section 4.12): the exchange between CONNECT and CONNACK, and any
// that its client begins later. The gate decides each step: an
// Authentication Method is a guard with `exchange` (access/gate.ts), such as embedding/scram-hook.ts. Authentication by what
// CONNECT itself says (user name, password, certificate) is not here: it is a link of a chain (access/chain.ts).
// CONTRIBUTING.md has the steps for either. Before CONNACK nothing but AUTH and DISCONNECT is read; later the rest goes
// on meanwhile. State: this connection's exchange. Bound: an exchange has `timeoutMs`, all of it.
import type { ConnectionParts } from './connection-parts.ts'
import { Refusal, type AuthenticationAnswer, type AuthenticationStep, type Gate } from '../access/gate.ts'
import { authFrame, readAuth } from '../protocol/auth.ts'
import { protocolError } from '../protocol/properties.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'

/** What becomes of a CONNECT: CONNACK carries `data`. */
type Done = (refusal: Refusal | undefined) => void

export class Authentication<Connection extends ConnectionParts = ConnectionParts> {
  readonly method: string
  readonly #connection: Connection
  readonly #gate: Gate<Connection>
  readonly #clientId: string
  readonly #timeoutMs: number
  /** The client's turn, or ours. */
  #state: 'none' | 'deciding' | 'waiting' = 'none'
  /** Of CONNECT, until it is decided. */
  #done: Done | undefined
  #timer: NodeJS.Timeout | undefined
  /** Of the last step, for CONNACK. */
  data: Buffer | undefined

  constructor(
    connection: Connection,
    gate: Gate<Connection>,
    method: string,
    clientId: string,
    timeoutMs: number,
  ) {
    this.#connection = connection
    this.#gate = gate
    this.method = method
    this.#clientId = clientId
    this.#timeoutMs = timeoutMs
  }

  /** CONNECT came. */
  begin(data: Buffer | undefined, done: Done): void {
    this.#done = done
    this.#start()
    this.#ask('connect', data)
  }

  /**
   * AUTH came.
   * @throws ProtocolViolation when it is not the client's turn
   */
  came(frame: Buffer): void {
    const { reasonCode, data } = readAuth(frame)
    const isAgain = reasonCode === ReasonCode.reAuthenticate
    if (isAgain ? this.#state !== 'none' : this.#state !== 'waiting')
      throw protocolError(isAgain ? 'an exchange is under way' : 'AUTH that nobody asked for')
    if (isAgain) this.#start()
    this.#ask(isAgain ? 'again' : 'continue', data)
  }

  /** Nothing is left of the connection. */
  close(): void {
    clearTimeout(this.#timer)
    this.#done = undefined
  }

  #start(): void {
    this.#timer = setTimeout(() => {
      this.#refused(new Refusal(ReasonCode.notAuthorized, `not authenticated within ${this.#timeoutMs} ms`))
    }, this.#timeoutMs)
  }

  #ask(stage: AuthenticationStep['stage'], data: Buffer | undefined): void {
    this.#state = 'deciding'
    if (stage === 'continue' && this.#done !== undefined) this.#connection.inbound.authenticate(false)
    const step = { method: this.method, clientId: this.#clientId, data, stage }
    const answer = this.#gate.exchange!(step, this.#connection)
    if (answer instanceof Promise)
      void answer.then((decided) => this.#connection.guarded(() => this.#decided(decided)))
    else this.#decided(answer)
  }

  #decided(answer: AuthenticationAnswer | Refusal | undefined): void {
    if (this.#state !== 'deciding' || this.#connection.isClosed || this.#connection.client.isClosed) return
    if (answer === undefined)
      // [MQTT-4.12.0-1]
      return this.#refused(new Refusal(ReasonCode.badAuthenticationMethod, `no method ${this.method}`))
    if (answer instanceof Refusal) return this.#refused(answer)
    if (!answer.isDone) {
      this.#state = 'waiting'
      this.#send(ReasonCode.continueAuthentication, answer.data) // [MQTT-4.12.0-2]
      if (this.#done !== undefined) this.#connection.inbound.authenticate(true)
      return
    }
    this.#state = 'none'
    clearTimeout(this.#timer)
    const done = this.#done
    this.#done = undefined
    this.data = answer.data
    if (done === undefined) this.#send(ReasonCode.success, answer.data)
    else done(undefined)
  }

  #send(reasonCode: number, data: Buffer | undefined): void {
    const frame = authFrame(reasonCode, this.method, data)
    const { inbound, outbox } = this.#connection
    // [MQTT-3.1.2-24]
    if (frame.length > (inbound.wishes?.maximumPacketSize ?? Infinity))
      this.#refused(new Refusal(ReasonCode.packetTooLarge, 'AUTH is larger than the client takes'))
    else outbox.push(frame)
  }

  /** [MQTT-4.12.0-4]; DISCONNECT has fewer words [MQTT-4.12.1-2]. */
  #refused(refusal: Refusal): void {
    this.#state = 'none'
    clearTimeout(this.#timer)
    const done = this.#done
    this.#done = undefined
    if (done !== undefined) return done(refusal)
    if (this.#connection.isClosed) return
    const { isUndecided, reason } = refusal
    this.#connection.endReason ||= reason
    this.#connection.disconnect(
      isUndecided ? ReasonCode.implementationSpecificError : ReasonCode.notAuthorized,
      isUndecided ? 'nobody decided about the authentication in time' : 'not authenticated again',
    )
  }
}
