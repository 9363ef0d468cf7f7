// SCRAM-SHA-256 (scram.ts) as a link of the chain, by AUTH packets (MQTT 5): its users are those of the password links, as
// far as keys of it are kept of their passwords (`aedes-cluster passwd --format scram-sha-256`). Who is not there, or has no
// such keys, is answered like the others and refused at the end. State: the exchange that each connection has under way.
import type { Exchanged, Link } from './chain.ts'
import { Refusal, type Answer } from './gate.ts'
import type { LinkName } from './link-names.ts'
import { keptOf, scramIterations } from './passwords.ts'
import { Scram, ScramError, type ScramKeys } from './scram.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'

/** A user as one of the password links knows him. */
export interface ScramUser {
  /** The link that the user belongs to. */
  readonly by: LinkName
  /** What is kept of the password, as a text. */
  readonly kept: string
}

interface UnderWay {
  readonly scram: Scram
  readonly user: ScramUser | undefined
}

export const scramMethod = 'SCRAM-SHA-256'

const no = (reason: string): Refusal => new Refusal(ReasonCode.notAuthorized, `SCRAM: ${reason}`)

/**
 * @param userOf a user by his name; undefined: there is none
 * @param others keys of some users: what is answered to who is not there is like them
 */
export function scramLink(
  userOf: (name: string) => Answer<ScramUser | Refusal | undefined>,
  others: () => readonly ScramKeys[],
): Link {
  const underWay = new WeakMap<object, UnderWay>()
  const challenge = (scram: Scram, user: ScramUser | undefined, from: object): Exchanged => {
    const keys = user && keptOf(user.kept)?.scram
    const data = scram.challenge(keys, others(), scramIterations)
    underWay.set(from, { scram, user: keys && user })
    return { principal: undefined, data }
  }
  const begin = (data: Buffer | undefined, from: object): Answer<Exchanged | Refusal> => {
    const scram = new Scram(data)
    const found = userOf(scram.user)
    const goOn = (user: ScramUser | Refusal | undefined): Exchanged | Refusal =>
      user instanceof Refusal ? user : challenge(scram, user, from)
    return found instanceof Promise ? found.then(goOn) : goOn(found)
  }
  const end = (data: Buffer | undefined, from: object): Answer<Exchanged | Refusal> => {
    const begun = underWay.get(from)
    underWay.delete(from)
    const proof = begun?.scram.verify(data)
    const refused = no(`no user ${begun?.scram.user ?? ''} of that password`)
    if (begun?.user === undefined || proof === undefined) return refused
    const { scram, user } = begun
    // An exchange takes its client's time: by now another password may be kept.
    const goOn = (now: ScramUser | Refusal | undefined): Exchanged | Refusal => {
      if (now instanceof Refusal) return now
      return now?.kept === user.kept ? { principal: { user: scram.user, ...user }, data: proof } : refused
    }
    const found = userOf(scram.user)
    return found instanceof Promise ? found.then(goOn) : goOn(found)
  }
  return {
    name: 'scram',
    authenticate: () => undefined, // a password is another link's
    method: scramMethod,
    exchange: ({ data, stage }, from) => {
      try {
        return stage === 'continue' ? end(data, from) : begin(data, from)
      } catch (error) {
        if (!(error instanceof ScramError)) throw error
        return no(error.message)
      }
    },
  }
}
