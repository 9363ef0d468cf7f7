// User name and password of CONNECT, as a link of the chain: by a file of users, or by those in the store. No state of
// its own: who the users are is asked each time.
import { notAuthenticated, type Link, type Verdict } from './chain.ts'
import { Refusal, type Answer } from './gate.ts'
import type { LinkName } from './link-names.ts'
import type { Logins } from './logins.ts'

/** What is kept of a user's password; undefined: there is no such user; a refusal: nobody knows. */
export type KeptOf = (user: string) => Answer<string | Refusal | undefined>

const another = notAuthenticated('its password is another')

/** @param others hashes with which an unknown name is checked, so that it takes as long */
export function passwordLink(
  name: LinkName,
  keptOf: KeptOf,
  logins: Logins,
  others: () => readonly string[],
): Link {
  return {
    name,
    waste: (username, password) => logins.waste(username, password, others()),
    authenticate: ({ username, password }) => {
      if (username === undefined) return undefined
      const found = (kept: string | Refusal | undefined): Answer<Verdict> => {
        if (kept === undefined || kept instanceof Refusal) return kept
        if (password === undefined) return notAuthenticated('it brings no password')
        const decided = (isRight: boolean | Refusal): Verdict => {
          if (isRight instanceof Refusal) return isRight
          return isRight ? { user: username, by: name, kept } : another
        }
        const answer = logins.isRight(username, password, kept)
        if (!(answer instanceof Promise)) return decided(answer)
        // It may have waited for its turn: by now another password may be kept.
        return answer.then(async (isRight) => {
          const now = isRight === true ? await keptOf(username) : kept
          return now === kept ? decided(isRight) : now instanceof Refusal ? now : another
        })
      }
      const kept = keptOf(username)
      return kept instanceof Promise ? kept.then(found) : found(kept)
    },
  }
}
