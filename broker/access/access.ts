// Who may come in and do what, as a guard at the gate (gate.ts): the chain of the listener says who a client is, which
// its connection keeps as its principal, and rules say what that one may do. It stands before the hooks of a program that
// embeds the node, which may still say no. State: a chain for each listener; users and rules, as their files have them.
import type { Message } from '../../bridge/index.ts'
import { isShared, sharedFilterOf } from '../../bridge/index.ts'
import { certificateLink, type CertificateName } from './certificate-link.ts'
import { anonymousLink, Chain, type Credentials, type Exchanged, type Link } from './chain.ts'
import {
  Refusal,
  type Answer,
  type AskedSubscription,
  type AuthenticationAnswer,
  type AuthenticationStep,
  type Guard,
  type Source,
} from './gate.ts'
import { Expiries } from './expiries.ts'
import type { ForeignLinks } from './foreign-links.ts'
import type { LinkName } from './link-names.ts'
import { Logins } from './logins.ts'
import { readAcl } from './mosquitto-acl.ts'
import { readUsers } from './password-file.ts'
import { passwordLink } from './password-link.ts'
import type { Certificate, Principal } from './principal.ts'
import { Rights } from './rights.ts'
import type { Question, Rule } from './rule.ts'
import { readRules } from './rules-file.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'

/** What of a connection is looked at. */
export interface Accessed {
  readonly clientId: string
  /** By which it came; undefined: the program that embeds the node handed it in. */
  readonly listener: { readonly authentication: readonly LinkName[] } | undefined
  principal: Principal
  /** CONNACK accepted it. */
  readonly isConnected: boolean
  disconnect(reasonCode: number, reason: string): void
}

/** A file that an option names. */
export interface AccessFile {
  readonly path: string
  readonly text: string
}

export interface AccessFiles {
  readonly passwordFile?: AccessFile | undefined
  readonly rulesFile?: AccessFile | undefined
  readonly aclFile?: AccessFile | undefined
  readonly jwtKeyFile?: AccessFile | undefined
  readonly webhookSecretFile?: AccessFile | undefined
}

export interface AccessEvents {
  /** @param rule that decided; undefined: none was about it */
  onDenied(client: Pick<Accessed, 'clientId' | 'principal'>, question: Question, rule: Rule | undefined): void
}

export interface AccessOptions<Client> {
  /** The chain of connections that came by no listener. */
  readonly handedIn: readonly LinkName[]
  /** Whether a hook decides who a client without an Authentication Method is. */
  readonly hasHooks: () => boolean
  /** That it has shown in its TLS handshake. */
  readonly certificateOf: (client: Client) => Certificate | undefined
  /** What of a certificate is the user name, and whether it must be the Client Identifier as well. */
  readonly certificateUser: CertificateName
  readonly certificateClient: 'any' | 'same'
  /** Links that ask somebody else. */
  readonly foreign: ForeignLinks
  readonly events: AccessEvents
  /** Takes the guard, each time that it is another. */
  readonly stand: (guard: Guard<Client>) => void
}

/** Links that ask for a password. */
const asking = new Set<LinkName>(['password-file'])

/** All rules that files hold, in their order. */
export const rulesOf = ({ rulesFile, aclFile }: AccessFiles): Rule[] => [
  ...(rulesFile === undefined ? [] : readRules(rulesFile.path, rulesFile.text).rules),
  ...(aclFile === undefined ? [] : readAcl(aclFile.path, aclFile.text)),
]

/** Whether what no rule is about is denied: also where a file holds none. */
export const hasRules = ({ rulesFile, aclFile }: AccessFiles): boolean =>
  rulesFile !== undefined || aclFile !== undefined

export class Access<Client extends Accessed> {
  readonly #options: AccessOptions<Client>
  readonly #chains = new Map<readonly LinkName[], Chain>()
  readonly #logins = new Logins()
  #users: ReadonlyMap<string, string> = new Map()
  /** Those of who came with a proof that ends. */
  readonly #expiries = new Expiries<Client>((client) =>
    client.disconnect(ReasonCode.maximumConnectTime, 'what it was let in with has ended'),
  )
  #rights = new Rights([])

  constructor(options: AccessOptions<Client>) {
    this.#options = options
    options.stand(this.#guard())
  }

  /** What the files say holds from now on. */
  load(files: AccessFiles): void {
    this.#users = files.passwordFile === undefined ? new Map() : readUsers(files.passwordFile.text)
    this.#rights = new Rights(rulesOf(files), hasRules(files))
    this.#options.foreign.load(files)
    this.#options.stand(this.#guard())
  }

  /** Whether a client is still who it proved to be: its password may be another by now, or its user gone. */
  isStill({ principal: { by, user, kept } }: Client): boolean {
    return by !== 'password-file' || this.#users.get(user!) === kept
  }

  /** Whether it may have a subscription that it has. */
  mayKeep(client: Client, filter: string, qos: 0 | 1 | 2): boolean {
    const asked = { filter, qos, noLocal: false, retainAsPublished: false, retainHandling: 0 } as const
    return this.#subscribe(asked, client) === asked
  }

  /** What there are no rules for is not asked about. */
  #guard(): Guard<Client> {
    return {
      authenticate: (username, password, from) =>
        this.#authenticate(
          {
            username,
            password,
            clientId: from.clientId,
            certificate: () => this.#options.certificateOf(from),
          },
          from,
        ),
      exchange: (step, from) => this.#exchange(step, from),
      ...(!this.#options.foreign.isEmpty && {
        accepted: (client) => this.#accepted(client),
        ended: (client, wasClient) => this.#ended(client, wasClient),
      }),
      ...((this.#rights.hasAny || !this.#options.foreign.isEmpty) && {
        publish: (message, source, from) => this.#publish(message, source, from),
        subscribe: (asked, from) => this.#subscribe(asked, from),
      }),
      ...((this.#rights.areDeliveriesAsked || !this.#options.foreign.isEmpty) && {
        forward: (message, to) => this.#forward(message, to),
      }),
    }
  }

  // Who it is

  #linksOf({ listener }: Client): readonly LinkName[] {
    return listener?.authentication ?? this.#options.handedIn
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
    if (name === 'certificate') {
      const { certificateUser, certificateClient } = this.#options
      return certificateLink(certificateUser, certificateClient === 'same')
    }
    const foreign = this.#options.foreign.linkOf(name)
    if (foreign !== undefined) return foreign
    // Who is passed on here is decided behind this guard, by the hooks themselves.
    return {
      name,
      authenticate: ({ username }) =>
        this.#options.hasHooks() ? { user: username, by: 'hooks' } : undefined,
    }
  }

  #authenticate(credentials: Credentials, client: Client): Answer<Refusal | undefined> {
    const decided = (found: Principal | Refusal): Refusal | undefined =>
      found instanceof Refusal ? found : this.#accept(found, client, client.clientId)
    const answer = this.#chainOf(client).authenticate(credentials)
    return answer instanceof Promise ? answer.then(decided) : decided(answer)
  }

  /** @param clientId that it has, or asks for */
  #accept(found: Principal, client: Client, clientId: string): Refusal | undefined {
    if (found.clientId !== undefined && found.clientId !== clientId)
      return new Refusal(
        ReasonCode.clientIdentifierNotValid,
        'its Client Identifier is not that of its certificate or token',
      )
    const certificate = this.#rights.hasAny ? this.#options.certificateOf(client) : undefined
    client.principal = certificate === undefined ? found : { ...found, certificate }
    return undefined
  }

  /** A method of a link; where the hooks may not let anybody in they are not asked. */
  #exchange(step: AuthenticationStep, client: Client): Answer<AuthenticationAnswer | Refusal | undefined> {
    const answer = this.#chainOf(client).exchange(step, client)
    if (answer !== undefined)
      return answer instanceof Promise
        ? answer.then((exchanged) => this.#exchanged(exchanged, step, client))
        : this.#exchanged(answer, step, client)
    const names = this.#linksOf(client)
    if (names.includes('hooks') || (names.length === 1 && names[0] === 'anonymous')) return undefined
    return new Refusal(ReasonCode.badAuthenticationMethod, 'no method of this listener')
  }

  #exchanged(
    exchanged: Exchanged | Refusal,
    { clientId }: AuthenticationStep,
    client: Client,
  ): AuthenticationAnswer | Refusal {
    if (exchanged instanceof Refusal) return exchanged
    const { principal, data } = exchanged
    if (principal === undefined) return { isDone: false, data }
    if (client.isConnected && principal.user !== client.principal.user)
      return new Refusal(ReasonCode.notAuthorized, 'another user than before')
    const refusal = this.#accept(principal, client, client.isConnected ? client.clientId : clientId)
    if (refusal !== undefined) return refusal
    if (client.isConnected) this.#expiries.set(client, principal.expiresAt)
    return { isDone: true, data }
  }

  #accepted(client: Client): void {
    this.#expiries.set(client, client.principal.expiresAt)
    this.#options.foreign.connected(client.principal)
  }

  #ended(client: Client, wasClient: boolean): void {
    this.#expiries.forget(client)
    if (wasClient) this.#options.foreign.left(client.principal)
  }

  // What it may do

  /** Without any rule everybody may; whose own are said may what they say. */
  #isAllowed(client: Client, question: Question): boolean {
    if (!this.#rights.hasAny && client.principal.permissions === undefined) return true
    return this.#rights.decide(question, client).isAllowed
  }

  #denied(client: Client, question: Question): Refusal {
    const { rule } = this.#rights.decide(question, client)
    this.#options.events.onDenied(client, question, rule)
    const reason = rule === undefined ? 'no rule allows it' : `denied by ${rule.place}`
    return new Refusal(ReasonCode.notAuthorized, reason)
  }

  /** A will was decided about with its CONNECT; what the program and the node publish is theirs. */
  #publish(message: Message, source: Source, from: Client | undefined): Message | Refusal {
    if (from === undefined || (source !== 'client' && source !== 'will')) return message
    const { topic, qos, retain } = message
    const question: Question = { action: 'publish', topic, qos, retain, group: undefined }
    return this.#isAllowed(from, question) ? message : this.#denied(from, question)
  }

  /** With the highest QoS, up to the one that was asked for, that it may have. */
  #subscribe(asked: AskedSubscription, from: Client): AskedSubscription | Refusal {
    const shared = isShared(asked.filter) ? sharedFilterOf(asked.filter) : undefined
    if (isShared(asked.filter) && shared === undefined) return asked // no filter at all, which is said to it
    const questionOf = (qos: 0 | 1 | 2): Question => ({
      action: 'subscribe',
      topic: shared?.filter ?? asked.filter,
      qos,
      retain: false,
      group: shared?.share,
    })
    for (const qos of [2, 1, 0] as const)
      if (qos <= asked.qos && this.#isAllowed(from, questionOf(qos)))
        return qos === asked.qos ? asked : { ...asked, qos }
    return this.#denied(from, questionOf(asked.qos))
  }

  #forward(message: Message, to: Client): Message | undefined {
    if (!this.#rights.areDeliveriesAsked && to.principal.permissions === undefined) return message
    const { topic, qos, retain } = message
    return this.#isAllowed(to, { action: 'receive', topic, qos, retain, group: undefined })
      ? message
      : undefined
  }
}
