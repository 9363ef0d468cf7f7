// The one gate of a node. Every CONNECT, every PUBLISH (also wills, what an embedding program publishes and
// $SYS), every SUBSCRIBE and every delivery to a client passes it. Guards stand here: hooks, authentication
// and rules. A guard that may take time answers with a promise; what follows an answer keeps the client's
// order (decisions.ts, request-queue.ts). A step that no guard implements is undefined: callers skip it.
// State: the guards, which outlive a boot that was declared dead. Bounds: a decision has `decisionTimeoutMs`;
// one that does not come by then, or throws, is a refusal.
import type { IConnackPacket, IConnectPacket } from 'mqtt-packet'
import type { Message } from '../../bridge/index.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'

/** A guard's no. */
export class Refusal {
  /** In MQTT 5's words; 3.1.1 is told what it has a word for. */
  readonly reasonCode: number
  /** For the log. */
  readonly reason: string
  /** What the guard called back with, where somebody needs more of it. */
  readonly error: Error | undefined
  /** There was no decision in time. */
  readonly isLate: boolean
  /** There was no decision: the guard threw, or was late. Nobody said no. */
  readonly isUndecided: boolean

  constructor(
    reasonCode: number,
    reason: string,
    {
      error,
      isLate = false,
      isUndecided = isLate,
    }: { readonly error?: Error | undefined; readonly isLate?: boolean; readonly isUndecided?: boolean } = {},
  ) {
    this.reasonCode = reasonCode
    this.reason = reason
    this.error = error
    this.isLate = isLate
    this.isUndecided = isUndecided
  }
}

export type Answer<T> = T | Promise<T>

/** Who publishes: a client, a client that is gone, the program that embeds the node, or the node itself ($SYS). */
export type Source = 'client' | 'will' | 'program' | 'broker'

/** One filter of a SUBSCRIBE. */
export interface AskedSubscription {
  readonly filter: string
  readonly qos: 0 | 1 | 2
  readonly noLocal: boolean
  readonly retainAsPublished: boolean
  readonly retainHandling: 0 | 1 | 2
}

/** A step of enhanced authentication (MQTT 5 section 4.12). */
export interface AuthenticationStep {
  readonly method: string
  /** As CONNECT has it: '' is one that is made for it. */
  readonly clientId: string
  readonly data: Buffer | undefined
  /** CONNECT, what answers our AUTH, or the first of a re-authentication. */
  readonly stage: 'connect' | 'continue' | 'again'
}

/** `data` goes to the client: by AUTH, or by the CONNACK that accepts it. */
export interface AuthenticationAnswer {
  readonly isDone: boolean
  readonly data: Buffer | undefined
}

/** Whoever stands at the gate. What a guard has no method for is let through by it. */
export interface Guard<Client> {
  /** CONNECT came; nothing is known of the client but what it says. */
  connect?(packet: IConnectPacket, from: Client): Answer<Refusal | undefined>
  /** Whether the client is who it says; before its session is claimed. */
  authenticate?(
    username: string | undefined,
    password: Buffer | undefined,
    from: Client,
  ): Answer<Refusal | undefined>
  /**
   * The next step of an exchange by AUTH; undefined: not its method. Who is accepted by it is not asked for a password.
   */
  exchange?(step: AuthenticationStep, from: Client): Answer<AuthenticationAnswer | Refusal | undefined>
  /** Whether a client may come in, or stay, that another guard has accepted by an exchange. */
  confirm?(from: Client): Answer<Refusal | undefined>
  /** The message as it is to be published. `from`: the connection, while there is one. */
  publish?(message: Message, source: Source, from: Client | undefined): Answer<Message | Refusal>
  /** The subscription as it is granted. */
  subscribe?(asked: AskedSubscription, from: Client): Answer<AskedSubscription | Refusal>
  /** The message as this client gets it; undefined: it does not. Asked at once for each delivery. */
  forward?(message: Message, to: Client): Message | undefined
  /**
   * Whether a message that waited in its session, or is sent again, may still go to the client: it was queued
   * by a subscription that may not be allowed any more. Asked at once, ahead of `forward`.
   */
  mayReceive?(message: Message, to: Client): boolean
  /**
   * Whether the client's login still holds. Asked at once: before CONNACK, and when what is known of users
   * changes.
   */
  isStill?(client: Client): boolean
  /** Whether it may have a subscription that it has. Asked at once, when rules change. */
  mayKeep?(client: Client, filter: string, qos: 0 | 1 | 2): boolean

  // What happened, for who counts or traces

  /** CONNACK accepted it and has left. */
  accepted?(connection: Client): void
  /** Its Keep Alive ran out. */
  keepAliveExpired?(connection: Client): void
  /** The connection ends because of an error. */
  failed?(connection: Client, error: Error): void
  /** The connection is closed, and all that it held is given back. */
  ended?(connection: Client, wasClient: boolean): void
  /** CONNACK left, whatever it says. */
  connackSent?(packet: IConnackPacket, to: Client): void
  /** It is stored for everybody, or, with QoS 0, on its way. */
  published?(message: Message, source: Source, from: Client | undefined): void | Promise<void>
  /** SUBACK left. */
  subscribed?(subscriptions: readonly Granted[], by: Client): void
  /** UNSUBACK left. */
  unsubscribed?(filters: readonly string[], by: Client): void
  /** PUBACK or PUBCOMP came; undefined: of what was not sent by this connection. */
  acknowledged?(messageId: number, sent: Sent | undefined, by: Client): void
  pinged?(by: Client): void
}

export type Step = keyof Guard<never>
const facts = [
  'accepted',
  'keepAliveExpired',
  'failed',
  'ended',
  'connackSent',
  'published',
  'subscribed',
  'unsubscribed',
  'acknowledged',
  'pinged',
] as const
type Fact = (typeof facts)[number]

/** A filter as SUBACK answered it. */
export interface Granted {
  readonly filter: string
  /** QoS, or a reason code from 0x80 on. */
  readonly granted: number
}

/** A QoS ≥ 1 delivery that is in flight. */
export interface Sent {
  readonly topic: string
  readonly payload: Buffer
  readonly qos: 1 | 2
}

type Telling<Client, Name extends Fact> = (...facts: Parameters<Required<Guard<Client>>[Name]>) => void

export interface GateEvents {
  /** A guard said no. */
  onDenied(step: Step): void
  /** A guard did not answer in time. */
  onLate(step: Step): void
  /** A guard threw. */
  onFailed(step: Step, error: unknown): void
}

/** A guard that certainly has this method. */
type With<Client, Name extends Step> = Guard<Client> & Required<Pick<Guard<Client>, Name>>

const silent: GateEvents = { onDenied: () => undefined, onLate: () => undefined, onFailed: () => undefined }

/** @typeParam Client what a guard gets of whom it decides about: a connection */
export class Gate<Client> {
  readonly #timeoutMs: number
  readonly #events: GateEvents
  #standing: readonly Guard<Client>[] = []
  #guards: readonly Guard<Client>[] = []
  connect: Required<Guard<Client>>['connect'] | undefined
  authenticate: Required<Guard<Client>>['authenticate'] | undefined
  exchange: Required<Guard<Client>>['exchange'] | undefined
  publish: Required<Guard<Client>>['publish'] | undefined
  subscribe: Required<Guard<Client>>['subscribe'] | undefined
  forward: Required<Guard<Client>>['forward'] | undefined
  mayReceive: Required<Guard<Client>>['mayReceive'] | undefined
  isStill: Required<Guard<Client>>['isStill'] | undefined
  mayKeep: Required<Guard<Client>>['mayKeep'] | undefined
  accepted: Telling<Client, 'accepted'> | undefined
  keepAliveExpired: Telling<Client, 'keepAliveExpired'> | undefined
  failed: Telling<Client, 'failed'> | undefined
  ended: Telling<Client, 'ended'> | undefined
  connackSent: Telling<Client, 'connackSent'> | undefined
  published: Telling<Client, 'published'> | undefined
  subscribed: Telling<Client, 'subscribed'> | undefined
  unsubscribed: Telling<Client, 'unsubscribed'> | undefined
  acknowledged: Telling<Client, 'acknowledged'> | undefined
  pinged: Telling<Client, 'pinged'> | undefined

  /** @param timeoutMs what a guard has for a decision */
  constructor(timeoutMs = Infinity, events = silent) {
    this.#timeoutMs = timeoutMs
    this.#events = events
  }

  /** From now on these are asked before those of `setGuards`. */
  setStanding(guards: readonly Guard<Client>[]): void {
    this.#standing = guards
    this.#set([...guards, ...this.#guards])
  }

  /** From now on these are asked, one after the other; the first refusal ends the round. */
  setGuards(guards: readonly Guard<Client>[]): void {
    this.#guards = guards
    this.#set([...this.#standing, ...guards])
  }

  #set(guards: readonly Guard<Client>[]): void {
    const having = <Name extends Step>(name: Name): With<Client, Name>[] | undefined => {
      const some = guards.filter((guard): guard is With<Client, Name> => guard[name] !== undefined)
      return some.length === 0 ? undefined : some
    }
    const [connect, authenticate, publish] = [having('connect'), having('authenticate'), having('publish')]
    const [subscribe, forward, exchange] = [having('subscribe'), having('forward'), having('exchange')]
    const confirm = having('confirm') ?? []
    this.connect =
      connect &&
      ((packet, from) =>
        this.#decide('connect', () => inTurn(connect, undefined, (guard) => guard.connect(packet, from))))
    this.authenticate =
      authenticate &&
      ((username, password, from) =>
        this.#decide('authenticate', () =>
          inTurn(authenticate, undefined, (guard) => guard.authenticate(username, password, from)),
        ))
    this.exchange =
      exchange && ((step, from) => this.#decide('exchange', () => exchanged(exchange, confirm, step, from)))
    this.publish =
      publish &&
      ((message, source, from) =>
        this.#decide('publish', () =>
          inTurn(publish, message, (guard, current) => guard.publish(current, source, from)),
        ))
    this.subscribe =
      subscribe &&
      ((asked, from) =>
        this.#decide('subscribe', () =>
          inTurn(subscribe, asked, (guard, current) => guard.subscribe(current, from)),
        ))
    const [mayReceive, isStill, mayKeep] = [having('mayReceive'), having('isStill'), having('mayKeep')]
    this.mayReceive =
      mayReceive && ((message, to) => mayReceive.every((guard) => guard.mayReceive(message, to)))
    this.isStill = isStill && ((client) => isStill.every((guard) => guard.isStill(client)))
    this.mayKeep =
      mayKeep && ((client, filter, qos) => mayKeep.every((guard) => guard.mayKeep(client, filter, qos)))
    this.forward = forward && ((message, to) => this.#forward(forward, message, to))
    for (const name of facts) (this as Record<Fact, unknown>)[name] = this.#telling(name, having(name))
  }

  /** Tells all of them, whatever one of them throws. */
  #telling(
    name: Fact,
    guards: readonly Guard<Client>[] | undefined,
  ): ((...facts: unknown[]) => void) | undefined {
    if (guards === undefined) return undefined
    const tell = (guard: Guard<Client>, facts: unknown[]): void => {
      try {
        const told = (guard[name] as (...facts: unknown[]) => unknown)(...facts)
        if (told instanceof Promise) told.catch((error: unknown) => this.#events.onFailed(name, error))
      } catch (error) {
        this.#events.onFailed(name, error)
      }
    }
    return (...facts) => {
      for (const guard of guards) tell(guard, facts)
    }
  }

  #decide<T>(step: Step, ask: () => Answer<T | Refusal>): Answer<T | Refusal> {
    try {
      const answer = ask()
      if (answer instanceof Promise) return this.#inTime(step, answer)
      if (answer instanceof Refusal) this.#events.onDenied(step)
      return answer
    } catch (error) {
      return this.#failed(step, error)
    }
  }

  /** Never rejects. What is decided after the deadline is not heard any more. */
  async #inTime<T>(step: Step, answer: Promise<T | Refusal>): Promise<T | Refusal> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<undefined>((resolve) => {
      if (this.#timeoutMs !== Infinity) timer = setTimeout(resolve, this.#timeoutMs, undefined)
    })
    try {
      const first = await Promise.race([answer.then((decided) => ({ decided })), late])
      if (first === undefined) {
        this.#events.onLate(step)
        return new Refusal(codeOf(step), `no decision within ${this.#timeoutMs} ms`, { isLate: true })
      }
      if (first.decided instanceof Refusal) this.#events.onDenied(step)
      return first.decided
    } catch (error) {
      return this.#failed(step, error)
    } finally {
      clearTimeout(timer)
    }
  }

  #failed(step: Step, error: unknown): Refusal {
    this.#events.onFailed(step, error)
    return new Refusal(codeOf(step), `its decision threw: ${String(error)}`, { isUndecided: true })
  }

  #forward(guards: readonly With<Client, 'forward'>[], message: Message, to: Client): Message | undefined {
    let current: Message | undefined = message
    for (const guard of guards) {
      try {
        current = guard.forward(current, to)
      } catch (error) {
        this.#events.onFailed('forward', error)
        return undefined
      }
      if (current === undefined) return undefined
    }
    return current
  }
}

/** The reason code where there was no decision: a client may come again. */
const codeOf = (step: Step): number =>
  step === 'connect' || step === 'authenticate' || step === 'exchange'
    ? ReasonCode.serverUnavailable
    : ReasonCode.implementationSpecificError

/** Asks one guard after the other until one has the method; whom it accepts the others may still refuse. */
async function exchanged<Client>(
  guards: readonly With<Client, 'exchange'>[],
  confirming: readonly With<Client, 'confirm'>[],
  step: AuthenticationStep,
  from: Client,
): Promise<AuthenticationAnswer | Refusal | undefined> {
  for (const guard of guards) {
    const answer = await guard.exchange(step, from)
    if (answer === undefined) continue
    if (answer instanceof Refusal || !answer.isDone) return answer
    const others = confirming.filter((other) => (other as Guard<Client>) !== guard)
    return (await inTurn(others, undefined, (other) => other.confirm(from))) ?? answer
  }
  return undefined
}

/**
 * Asks one guard after the other, each about what the one before made of it; without a promise where none
 * gives one.
 */
function inTurn<T, Asked>(
  guards: readonly Asked[],
  first: T,
  ask: (guard: Asked, current: T) => Answer<T | Refusal>,
  from = 0,
): Answer<T | Refusal> {
  let current = first
  for (let i = from; i < guards.length; i++) {
    const answer = ask(guards[i]!, current)
    if (answer instanceof Promise)
      return answer.then((decided) =>
        decided instanceof Refusal ? decided : inTurn(guards, decided, ask, i + 1),
      )
    if (answer instanceof Refusal) return answer
    current = answer
  }
  return current
}
