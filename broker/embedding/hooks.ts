// Aedes' hooks, with Aedes' signatures, as a guard at the gate (access/gate.ts): they call back, at once or later,
// or return a promise that rejects. A hook that is not there is not asked, and costs nothing. No state.
import type { IConnectPacket, ISubscription } from 'mqtt-packet'
import { Refusal, type Answer, type AuthenticationAnswer, type Guard } from '../access/gate.ts'
import type { Connection } from '../connection/connection.ts'
import { ownFilter, type Message } from '../../bridge/index.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'
import { clientOf, type Client } from './hook-client.ts'
import { changedBy, packetOf, type AedesPublishPacket, type PublishPacket } from './hook-packets.ts'

/** `returnCode`: of MQTT 3.1.1, 2 to 5; `reasonCode`: of MQTT 5, from 0x80 on. */
export type AuthenticateError = Error & { returnCode?: number; reasonCode?: number }

/** What a hook may return besides calling back: a promise that rejects is an error. */
type Returned = void | Promise<void>

export interface Hooks {
  preConnect?:
    | ((
        client: Client,
        packet: IConnectPacket,
        callback: (error: Error | null, success?: boolean) => void,
      ) => Returned)
    | undefined
  authenticate?:
    | ((
        client: Client,
        username: string | undefined,
        password: Buffer | undefined,
        callback: (error: AuthenticateError | null, success?: boolean | null) => void,
      ) => Returned)
    | undefined
  /**
   * A step of enhanced authentication (MQTT 5 section 4.12): `connect` with CONNECT, `continue` with what answers the
   * data that the step before called back, `again` when the client authenticates anew. Calls back with an error, or
   * with what its client gets, `done` when that is all, or with neither: this method is not there (0x8C).
   */
  enhancedAuthenticate?:
    | ((
        client: Client,
        step: {
          readonly method: string
          readonly data: Buffer | undefined
          readonly stage: 'connect' | 'continue' | 'again'
        },
        callback: (
          error: AuthenticateError | null,
          answer?: { readonly done: boolean; readonly data?: Buffer | undefined },
        ) => void,
      ) => Returned)
    | undefined
  /** May change the packet: topic, payload, retain, properties. `client`: null for the will of one that is gone. */
  authorizePublish?:
    | ((
        client: Client | null,
        packet: AedesPublishPacket,
        callback: (error?: Error | null) => void,
      ) => Returned)
    | undefined
  /** May change the subscription; none is a refusal. */
  authorizeSubscribe?:
    | ((
        client: Client,
        subscription: ISubscription,
        callback: (error: Error | null, subscription?: ISubscription | null) => void,
      ) => Returned)
    | undefined
  /** Nothing: the client does not get it. */
  authorizeForward?:
    ((client: Client, packet: AedesPublishPacket) => PublishPacket | null | undefined | void) | undefined
  published?:
    | ((
        packet: AedesPublishPacket,
        client: Client | null,
        callback: (error?: Error | null) => void,
      ) => Returned)
    | undefined
}

export const hookNames = [
  'preConnect',
  'authenticate',
  'enhancedAuthenticate',
  'authorizePublish',
  'authorizeSubscribe',
  'authorizeForward',
  'published',
] as const satisfies readonly (keyof Hooks)[]

/** The reason codes of return codes. */
const reasonCodes = new Map<number, number>([
  [2, ReasonCode.clientIdentifierNotValid],
  [3, ReasonCode.serverUnavailable],
  [4, ReasonCode.badUserNameOrPassword],
  [5, ReasonCode.notAuthorized],
])

/** What a hook calls back with, or that it failed: at once when it does so at once. */
function answerOf<T>(ask: (answer: (decided: T) => void) => Returned): Answer<T> {
  let isNow: { readonly decided: T } | undefined
  let [resolve, reject]: [((decided: T) => void) | undefined, ((error: unknown) => void) | undefined] = [
    undefined,
    undefined,
  ]
  const returned = ask((decided) => {
    isNow ??= { decided }
    resolve?.(decided)
  }) as unknown
  const rejects = returned instanceof Promise ? returned : undefined
  if (isNow !== undefined) {
    rejects?.catch(() => undefined) // it has decided
    return isNow.decided
  }
  return new Promise<T>((onDecided, onFailed) => {
    ;[resolve, reject] = [onDecided, onFailed]
    rejects?.catch((error: unknown) => reject?.(error))
  })
}

const connectRefusal = (error: AuthenticateError | null, isAllowed: boolean): Refusal | undefined => {
  if (error === null && isAllowed) return undefined
  const { returnCode = 5, reasonCode = reasonCodes.get(returnCode) ?? ReasonCode.notAuthorized } = error ?? {}
  return new Refusal(reasonCode, error?.message || 'not authorized', { error: error ?? undefined })
}

/**
 * @param self what hooks are called on
 * @param brokerId stands in packets, as Aedes has it
 * @param onRefused a PUBLISH of a client was refused, which is no end of its connection
 */
export function guardOf(
  hooks: Hooks,
  self: unknown,
  brokerId: string,
  onRefused: (client: Client, error: Error) => void,
): Guard<Connection> {
  const { preConnect, authenticate, enhancedAuthenticate } = hooks
  const { authorizePublish, authorizeSubscribe, authorizeForward, published } = hooks
  const asked = (
    hook: NonNullable<typeof authenticate>,
    from: Connection,
    username: string | undefined,
    password: Buffer | undefined,
  ): Answer<Refusal | undefined> =>
    answerOf((answer) =>
      hook.call(self, clientOf(from), username, password, (error, isAllowed) =>
        answer(connectRefusal(error, isAllowed === true)),
      ),
    )
  const denied = (error?: Error | null): Refusal =>
    new Refusal(ReasonCode.notAuthorized, error?.message || 'not authorized', { error: error ?? undefined })
  return {
    ...(preConnect && {
      connect: (packet, from) =>
        answerOf<Refusal | undefined>((answer) =>
          preConnect.call(self, clientOf(from), packet, (error, isAllowed) =>
            answer(connectRefusal(error, isAllowed === true)),
          ),
        ),
    }),
    ...(authenticate && {
      authenticate: (username, password, from) => asked(authenticate, from, username, password),
      // of whom a link has accepted by AUTH: it has a name that is proved, and no password
      confirm: (from) => asked(authenticate, from, from.principal.user, undefined),
    }),
    ...(enhancedAuthenticate && {
      exchange: (step, from) =>
        answerOf<AuthenticationAnswer | Refusal | undefined>((answer) =>
          enhancedAuthenticate.call(self, clientOf(from), step, (error, given) => {
            if (error !== null) answer(connectRefusal(error, false))
            else answer(given && { isDone: given.done, data: given.data })
          }),
        ),
    }),
    ...(authorizePublish && {
      publish: (message, source, from) => {
        // what the program publishes, and the node itself, is not asked about, as in Aedes
        if (source === 'program' || source === 'broker') return message
        const packet = packetOf(message, brokerId)
        const client = from === undefined ? null : clientOf(from)
        const decided = (error?: Error | null): Message | Refusal => {
          if (error === undefined || error === null) return changedBy(packet, message)
          if (client !== null && source === 'client') onRefused(client, error)
          return denied(error)
        }
        const answer = answerOf<Error | null | undefined>((called) =>
          authorizePublish.call(self, client, packet, called),
        )
        return answer instanceof Promise ? answer.then(decided) : decided(answer)
      },
    }),
    ...(authorizeSubscribe && {
      subscribe: (asked, from) => {
        const { filter, qos, noLocal, retainAsPublished, retainHandling } = asked
        const subscription: ISubscription = {
          topic: ownFilter(filter),
          qos,
          nl: noLocal,
          rap: retainAsPublished,
          rh: retainHandling,
        }
        return answerOf<typeof asked | Refusal>((answer) =>
          authorizeSubscribe.call(self, clientOf(from), subscription, (error, granted) =>
            answer(
              error !== null || granted === undefined || granted === null
                ? denied(error)
                : {
                    filter: from.tenant?.filter(granted.topic) ?? granted.topic,
                    qos: granted.qos,
                    noLocal: granted.nl === true,
                    retainAsPublished: granted.rap === true,
                    retainHandling: (granted.rh ?? 0) as 0 | 1 | 2,
                  },
            ),
          ),
        )
      },
    }),
    ...(authorizeForward && {
      forward: (message, to) => {
        const packet = authorizeForward.call(self, clientOf(to), packetOf(message, brokerId))
        return packet === undefined || packet === null ? undefined : changedBy(packet, message)
      },
    }),
    ...(published && {
      published: (message, source, from) => {
        if (source === 'broker') return
        const client = from === undefined ? null : clientOf(from)
        const throwing = (error?: Error | null): void => {
          if (error !== undefined && error !== null) throw error
        }
        const called = answerOf<Error | null | undefined>((answer) =>
          published.call(self, packetOf(message, brokerId), client, answer),
        )
        return called instanceof Promise ? called.then(throwing) : throwing(called)
      },
    }),
  }
}
