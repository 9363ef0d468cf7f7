// Who may come in and do what, as a guard at the gate (gate.ts): the chain of the listener says who a client is, which
// its connection keeps as its principal. It stands before the hooks of a program that embeds the node, which may still
// say no. State: a chain for each
// listener; users, as their file has them.
import { anonymousLink, Chain, type Credentials, type Link } from './chain.ts'
import { Logins } from './logins.ts'
import { readUsers } from './password-file.ts'
import { passwordLink } from './password-link.ts'
import {
  Refusal,
  type Answer,
  type AuthenticationAnswer,
  type AuthenticationStep,
  type Guard,
} from './gate.ts'
import type { LinkName } from './link-names.ts'
import type { Principal } from './principal.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'

/** What of a connection is looked at. */
export interface Accessed {
  readonly clientId: string
  /** By which it came; undefined: the program that embeds the node handed it in. */
  readonly listener: { readonly authentication: readonly LinkName[] } | undefined
  principal: Principal
}

/** What is read by name of its option: the texts of files that were looked at when the configuration was. */
export interface AccessFiles {
  readonly passwordFile?: string | undefined
}

/** Links that ask for a password. */
const asking = new Set<LinkName>(['password-file'])

export class Access<Client extends Accessed> {
  readonly #logins = new Logins()
  #users: ReadonlyMap<string, string> = new Map()
  readonly #chains = new Map<readonly LinkName[], Chain>()
  /** Of connections that came by no listener. */
  readonly #handedIn: readonly LinkName[]
  readonly #hasHooks: () => boolean
  readonly guard: Guard<Client>

  /**
   * @param handedIn the chain of connections that came by no listener
   * @param hasHooks whether a hook decides who a client without an Authentication Method is
   */
  constructor(handedIn: readonly LinkName[], hasHooks: () => boolean) {
    this.#handedIn = handedIn
    this.#hasHooks = hasHooks
    this.guard = {
      authenticate: (username, password, from) =>
        this.#authenticate({ username, password, clientId: from.clientId }, from),
      exchange: (step, from) => this.#exchange(step, from),
    }
  }

  /** What the files say holds from now on. */
  load({ passwordFile }: AccessFiles): void {
    this.#users = passwordFile === undefined ? new Map() : readUsers(passwordFile)
  }

  #linksOf({ listener }: Client): readonly LinkName[] {
    return listener?.authentication ?? this.#handedIn
  }

  #chainOf(client: Client): Chain {
    const names = this.#linksOf(client)
    let chain = this.#chains.get(names)
    if (chain === undefined)
      this.#chains.set(
        names,
        (chain = new Chain(
          names.map((name) => this.#linkOf(name, names.length === 1)),
          names.some((name) => asking.has(name)) ? (password) => this.#logins.waste(password) : undefined,
        )),
      )
    return chain
  }

  #linkOf(name: LinkName, isAlone: boolean): Link {
    if (name === 'password-file') return passwordLink(name, (user) => this.#users.get(user), this.#logins)
    if (name === 'anonymous') return anonymousLink(isAlone)
    // Who is passed on here is decided behind this guard, by the hooks themselves.
    return {
      name,
      authenticate: ({ username }) => (this.#hasHooks() ? { user: username, by: 'hooks' } : undefined),
    }
  }

  #authenticate(credentials: Credentials, client: Client): Answer<Refusal | undefined> {
    const decided = (found: Principal | Refusal): Refusal | undefined => {
      if (found instanceof Refusal) return found
      client.principal = found
      return undefined
    }
    const answer = this.#chainOf(client).authenticate(credentials)
    return answer instanceof Promise ? answer.then(decided) : decided(answer)
  }

  /** Where the hooks may not let anybody in they are not asked. */
  #exchange(_step: AuthenticationStep, client: Client): Answer<AuthenticationAnswer | Refusal | undefined> {
    const names = this.#linksOf(client)
    if (names.includes('hooks') || (names.length === 1 && names[0] === 'anonymous')) return undefined
    return new Refusal(ReasonCode.badAuthenticationMethod, 'no method of this listener')
  }
}
