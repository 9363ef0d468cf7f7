// The chain of authentication of a listener: links in their order, each says yes, no, or "not mine", and then
// the next is asked. A client that no link claims is refused. To add a link: CONTRIBUTING.md. No state besides
// the links'.
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
  /**
   * Takes as long as `authenticate` of somebody whom it knows: how long a refusal takes tells nobody which names there
   * are. A refusal: there was no time, which whoever is known is told, too.
   */
  readonly waste?: (username: string, password: Buffer) => Promise<Refusal | undefined>
}

export const notAuthenticated = (reason: string): Refusal =>
  new Refusal(ReasonCode.badUserNameOrPassword, reason)

export class Chain {
  readonly #links: readonly Link[]

  constructor(links: readonly Link[]) {
    this.#links = links
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
        return verdict.then((decided) =>
          decided === undefined ? this.#ask(credentials, i + 1) : this.#decided(decided, credentials, i),
        )
      if (verdict !== undefined) return this.#decided(verdict, credentials, i)
    }
    const refusal =
      credentials.username === undefined
        ? new Refusal(ReasonCode.notAuthorized, 'no user name, and nobody may come without')
        : notAuthenticated('its user name is none that anybody knows here')
    return this.#decided(refusal, credentials, this.#links.length)
  }

  /**
   * A refusal after links that did not know the user takes as long as if one had. @param by which link decided
   */
  #decided(
    verdict: Principal | Refusal,
    { username, password }: Credentials,
    by: number,
  ): Answer<Principal | Refusal> {
    if (!(verdict instanceof Refusal) || username === undefined || password === undefined) return verdict
    const wasting = this.#links.slice(0, by).filter(({ waste }) => waste !== undefined)
    if (wasting.length === 0) return verdict
    return Promise.all(wasting.map((link) => link.waste!(username, password))).then(
      (busy) => busy.find((refusal) => refusal !== undefined) ?? verdict,
    )
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
