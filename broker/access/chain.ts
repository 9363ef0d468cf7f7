// The chain of authentication of a listener: links in their order, each says yes, no, or "not mine", and then the next
// is asked. Who is nobody's is refused. No state besides the links'.
import { Refusal, type Answer, type AuthenticationStep } from './gate.ts'
import type { LinkName } from './link-names.ts'
import { nobody, type Certificate, type Principal } from './principal.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'

/** What a client says of itself in its CONNECT, and what its connection shows. */
export interface Credentials {
  readonly username: string | undefined
  readonly password: Buffer | undefined
  readonly clientId: string
  /** Undefined: it has shown none that its listener trusts. */
  readonly certificate: () => Certificate | undefined
}

/** Yes; no; not mine. */
export type Verdict = Principal | Refusal | undefined

/** What a step of an exchange by AUTH comes to: its end has a principal. */
export interface Exchanged {
  readonly principal: Principal | undefined
  /** For the client. */
  readonly data: Buffer | undefined
}

export interface Link {
  readonly name: LinkName
  authenticate(credentials: Credentials): Answer<Verdict>
  /** The Authentication Method that it has. */
  readonly method?: string
  /** A step of that. @param from the connection, which is the same in each step */
  exchange?(step: AuthenticationStep, from: object): Answer<Exchanged | Refusal>
}

export const notAuthenticated = (reason: string): Refusal =>
  new Refusal(ReasonCode.badUserNameOrPassword, reason)

export class Chain {
  readonly #links: readonly Link[]
  readonly #waste: ((password: Buffer) => Promise<void>) | undefined

  /** @param waste takes as long as to find out whether a password is right; undefined: no link asks for one */
  constructor(links: readonly Link[], waste?: (password: Buffer) => Promise<void>) {
    this.#links = links
    this.#waste = waste
  }

  /** Undefined: no link has this Authentication Method. */
  exchange(step: AuthenticationStep, from: object): Answer<Exchanged | Refusal> | undefined {
    return this.#links.find(({ method }) => method === step.method)?.exchange?.(step, from)
  }

  authenticate(credentials: Credentials): Answer<Principal | Refusal> {
    return this.#ask(credentials, 0)
  }

  /** Without a promise where no link gives one. */
  #ask(credentials: Credentials, from: number): Answer<Principal | Refusal> {
    for (let i = from; i < this.#links.length; i++) {
      const verdict = this.#links[i]!.authenticate(credentials)
      if (verdict instanceof Promise)
        return verdict.then((decided) => decided ?? this.#ask(credentials, i + 1))
      if (verdict !== undefined) return verdict
    }
    const { username, password } = credentials
    if (username === undefined)
      return new Refusal(ReasonCode.notAuthorized, 'no user name, and nobody may come without')
    const refusal = notAuthenticated('its user name is none that anybody knows here')
    return password === undefined || this.#waste === undefined
      ? refusal
      : this.#waste(password).then(() => refusal)
  }
}

/**
 * Lets in who does not say who it is; where it is the only link, everybody. A name that nobody has proved is no user:
 * beside other links it is a slip, and refused.
 */
export const anonymousLink = (isAlone: boolean): Link => ({
  name: 'anonymous',
  authenticate: ({ username }) => (isAlone || username === undefined ? anonymous : undefined),
})

const anonymous: Principal = Object.freeze({ ...nobody, by: 'anonymous' })
