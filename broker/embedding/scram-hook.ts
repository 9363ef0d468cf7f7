// SCRAM-SHA-256 (access/scram.ts) as a hook of a program that embeds a node: it brings the users. State: the exchange
// that each client has under way.
import { Scram, ScramError, type ScramKeys } from '../access/scram.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'
import type { Client } from './hook-client.ts'
import type { AuthenticateError, Hooks } from './hooks.ts'

export const scramMethod = 'SCRAM-SHA-256'

const refused = (message: string, reasonCode: number): AuthenticateError =>
  Object.assign(new Error(message), { reasonCode })

/**
 * @param keysOf what is kept of a user's password (`scramKeys`); undefined: there is no such user
 * @returns for `enhancedAuthenticate`: of other methods it says nothing. Who is accepted is `client.user`; who
 * authenticates again must be the same.
 */
export function scramSha256(
  keysOf: (user: string) => ScramKeys | undefined | Promise<ScramKeys | undefined>,
): NonNullable<Hooks['enhancedAuthenticate']> {
  const underWay = new WeakMap<Client, Scram>()
  return async (client, { method, data, stage }, callback) => {
    if (method !== scramMethod) return callback(null)
    try {
      const begun = underWay.get(client)
      underWay.delete(client)
      if (stage !== 'continue') {
        const scram = new Scram(data)
        if (stage === 'again' && scram.user !== client.user)
          return callback(refused('another user than before', ReasonCode.notAuthorized))
        const challenge = scram.challenge(await keysOf(scram.user))
        underWay.set(client, scram)
        return callback(null, { done: false, data: challenge })
      }
      const proof = begun?.verify(data)
      if (begun === undefined || proof === undefined)
        return callback(refused(`no user ${begun?.user ?? ''} of that password`, ReasonCode.notAuthorized))
      client.user = begun.user
      callback(null, { done: true, data: proof })
    } catch (error) {
      if (!(error instanceof ScramError)) throw error
      callback(refused(`SCRAM: ${error.message}`, ReasonCode.notAuthorized))
    }
  }
}
