// Who may come in and do what, as a guard at the gate (gate.ts): the chain of the listener says who a client is, which
// its connection keeps as its principal, and rules say what that one may do. It stands before the hooks of a program that
// embeds the node, which may still say no. State: a chain for each listener; users and rules, as their files have them.
import type { Message, StoredAccess } from '../../bridge/index.ts'
import {
  BridgeError,
  isShared,
  ownName,
  ownTopic,
  tenantOfName,
  sharedFilterOf,
  Slice,
  storedRulesBytesMax,
} from '../../bridge/index.ts'
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
import { keptOf } from './passwords.ts'
import type { Certificate, Principal } from './principal.ts'
import { Rights } from './client-rights.ts'
import type { Question, Rule } from './rule.ts'
import { readRules } from './rules-file.ts'
import { withoutCertificate } from './rules.ts'
import type { LiveTenant } from './tenancy.ts'
import { ReasonCode } from '../protocol/reason-codes.ts'
import { Revocations } from './revocations.ts'
import { scramLink, type ScramUser } from './scram-link.ts'
import type { ScramKeys } from './scram.ts'

/** What of a connection is looked at. */
export interface Accessed {
  readonly clientId: string
  /** By which it came; undefined: the program that embeds the node handed it in. */
  readonly listener:
    | {
        readonly authentication: readonly LinkName[]
        readonly tlsCrl?: string | undefined
        readonly tlsCa?: string | undefined
      }
    | undefined
  principal: Principal
  /** CONNACK accepted it. */
  readonly isConnected: boolean
  /** Where tenants are on, once it is in one: its Client Identifier is as it is called outside then. */
  readonly tenant: LiveTenant | undefined
  disconnect(reasonCode: number, reason: string): void
  /** The certificate that it has shown and its listener trusts. */
  readonly certificate: Certificate | undefined
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
  /** Of listeners, by their paths. */
  readonly revocationLists: ReadonlyMap<string, string>
  readonly authorities: ReadonlyMap<string, string>
}

export interface AccessEvents {
  /** A stored user's password hash has an unknown format, or stored rules are wrong. */
  onDamaged(what: string, problem: string): void
  /** @param rule that decided; undefined: none was about it */
  onDenied(client: Pick<Accessed, 'clientId' | 'principal'>, question: Question, rule: Rule | undefined): void
}

export interface AccessOptions<Client> {
  /** The chain of connections that came by no listener. */
  readonly handedIn: readonly LinkName[]
  /** Whether a hook decides who a client without an Authentication Method is. */
  readonly hasHooks: () => boolean
  /** Whether a hook checks the password: anybody can state a name. */
  readonly haveHooksProof: () => boolean
  /** What of a certificate is the user name, and whether it must be the Client Identifier as well. */
  readonly certificateUser: CertificateName
  readonly certificateClient: 'any' | 'same'
  /**
   * The certificate that the client has shown in a handshake with us, and those of its issuers behind it, DER.
   */
  readonly shownBy: (client: Client) => readonly Buffer[]
  /** Links that ask somebody else. */
  readonly foreign: ForeignLinks
  readonly events: AccessEvents
  /** Whether users in the store are asked for. */
  readonly hasStoredUsers: boolean
  /** Whether rules in the store are used; while there are none, what only they could allow is denied. */
  readonly hasStoredRules: boolean
  /** Registers a new guard each time the rules change. */
  readonly stand: (guard: Guard<Client>) => void
}

/** Damaged users that are named but once. */
const namedMax = 1_000
/** Users that are asked for in one call. */
const askedAtOnce = 500
/** Where rules in the store stand, as the log names it. */
export const storedPlace = 'store'

/** All rules that files hold, in their order. */
export const rulesOf = ({ rulesFile, aclFile }: Pick<AccessFiles, 'rulesFile' | 'aclFile'>): Rule[] => [
  ...(rulesFile === undefined ? [] : readRules(rulesFile.path, rulesFile.text).rules),
  ...(aclFile === undefined ? [] : readAcl(aclFile.path, aclFile.text)),
]

/** Whether what no rule is about is denied: also where a file holds none. */
export const hasRules = ({ rulesFile, aclFile }: Pick<AccessFiles, 'rulesFile' | 'aclFile'>): boolean =>
  rulesFile !== undefined || aclFile !== undefined

/** Who proves anew who he is: what said his tenant before says the same one now. */
const isOfSameTenant = (found: Principal, { principal: before, tenant }: Accessed): boolean =>
  found.tenant === undefined
    ? found.by !== before.by || before.tenant === undefined
    : tenant === undefined || found.tenant === tenant.name

export class Access<Client extends Accessed> {
  readonly #options: AccessOptions<Client>
  readonly #chains = new Map<readonly LinkName[], Chain>()
  readonly #logins = new Logins()
  #users: ReadonlyMap<string, string> = new Map()
  /** What is kept of their passwords. */
  #kept: readonly string[] = []
  readonly #rules: { ofFile: readonly Rule[]; ofAcl: readonly Rule[] } = { ofFile: [], ofAcl: [] }
  #hasRules = false
  /** Clients whose token or webhook answer expires. */
  readonly #expiries = new Expiries<Client>((client) =>
    client.disconnect(ReasonCode.maximumConnectTime, 'what it was let in with has ended'),
  )
  #rights = new Rights([])
  /** Asked about a will when it is published: its record has nothing of its client's certificate. */
  #rightsOfWills = new Rights([])
  #stored: StoredAccess | undefined
  /** Undefined: not read yet. */
  #storedRules: readonly Rule[] | undefined
  /** Users in the store as they were when they were looked at last, of those who came by it. */
  #storedUsers = new Map<string, string | undefined>()
  /** The next one, while it is asked for. */
  #askedUsers: Map<string, string | undefined> | undefined
  /** What in the store was damaged and has been named. */
  readonly #named = new Set<string>()

  /** Those of whom keys of SCRAM are kept. */
  #scramKeys: readonly ScramKeys[] = []
  readonly #revocations: Revocations<Client>

  constructor(options: AccessOptions<Client>) {
    this.#options = options
    this.#revocations = new Revocations(options.shownBy)
    this.#stand()
  }

  #stand(): void {
    const { hasStoredRules } = this.#options
    const { ofFile, ofAcl } = this.#rules
    const rules = [...ofFile, ...ofAcl, ...(this.#storedRules ?? [])]
    this.#rights = new Rights(rules, this.#hasRules || hasStoredRules)
    this.#rightsOfWills = new Rights(rules.flatMap(withoutCertificate), this.#rights.hasAny)
    this.#options.stand(this.#guard())
  }

  /** What the files say holds from now on; of one that is left out, what it said before. */
  load(files: AccessFiles): void {
    const { passwordFile, rulesFile, aclFile } = files
    if (passwordFile !== undefined) this.#loadUsers(passwordFile.text)
    if (rulesFile !== undefined) this.#rules.ofFile = rulesOf({ rulesFile })
    if (aclFile !== undefined) this.#rules.ofAcl = rulesOf({ aclFile })
    this.#hasRules ||= hasRules(files)
    this.#options.foreign.load(files)
    this.#revocations.load(files)
    this.#stand()
  }

  #loadUsers(text: string): void {
    this.#users = readUsers(text)
    this.#kept = [...this.#users.values()]
    this.#scramKeys = this.#kept.map((kept) => keptOf(kept)?.scram).filter((keys) => keys !== undefined)
  }

  /** Nobody is asked any more. */
  close(): void {
    this.#options.foreign.close()
  }

  /** From now on users are looked up there. */
  ask(stored: StoredAccess): void {
    this.#stored = stored
  }

  /**
   * What stands in the store holds from now on: its rules, and which of the clients are still its users.
   * @throws BridgeError when the store does not answer: then what was read before holds
   */
  async loadStored(clients: Iterable<Client>): Promise<void> {
    const stored = this.#stored!
    if (this.#options.hasStoredRules) this.#takeStoredRules(await stored.rules())
    const users = new Map<string, string | undefined>()
    this.#askedUsers = users // whoever is looked up meanwhile is known better than what was asked before
    try {
      await this.#askFor(clients, users)
      this.#storedUsers = users
    } finally {
      // or each name that a stranger gives would be kept
      if (this.#askedUsers === users) this.#askedUsers = undefined
    }
  }

  async #askFor(clients: Iterable<Client>, users: Map<string, string | undefined>): Promise<void> {
    const slice = new Slice()
    const names = new Set<string>()
    for (const { principal } of clients) {
      if (slice.isOver) await slice.next()
      if (principal.by === 'stored-users') names.add(principal.user!)
    }
    const all = [...names]
    for (let i = 0; i < all.length; i += askedAtOnce) {
      const some = all.slice(i, i + askedAtOnce)
      const kept = await this.#stored!.keptOf(some)
      some.forEach((name, at) => users.set(name, kept[at]))
    }
  }

  /** Once, until it is in order: clients can have it looked at as often as they like. */
  #nameDamage(what: string, problem: string | undefined): void {
    if (problem === undefined) return void this.#named.delete(what)
    if (this.#named.has(what)) return
    if (this.#named.size >= namedMax) this.#named.clear()
    this.#named.add(what)
    this.#options.events.onDamaged(what, problem)
  }

  /** What is not in order changes nothing. */
  #takeStoredRules(text = ''): void {
    if (text.length > storedRulesBytesMax)
      return this.#nameDamage('rules in the store', `have more than ${storedRulesBytesMax} bytes`)
    const { rules, problems } = readRules(storedPlace, text)
    this.#nameDamage('rules in the store', problems[0]?.lines[0])
    if (problems.length > 0) return
    this.#storedRules = rules
    this.#stand()
  }

  /** Its password may be another by now, its user gone, its certificate revoked, the key of its token taken away. */
  #isStill(client: Client): boolean {
    const { by, user, kept } = client.principal
    if (this.#revocations.isRevoked(client)) return false
    if (by === 'jwt') return this.#options.foreign.isKeyKnown(kept!)
    if (by === 'stored-users') return !this.#storedUsers.has(user!) || this.#storedUsers.get(user!) === kept
    return by !== 'password-file' || this.#users.get(user!) === kept
  }

  async #storedKeptOf(user: string): Promise<string | Refusal | undefined> {
    try {
      const [kept] = await this.#stored!.keptOf([user])
      // Replies come in their order: this one is newer than what is known, and older than what comes yet.
      this.#askedUsers?.set(user, kept)
      if (this.#storedUsers.has(user)) this.#storedUsers.set(user, kept)
      const isDamaged = kept !== undefined && keptOf(kept) === undefined
      const problem = 'what is kept of the password is none of $scrypt$, $scram-sha-256$, $7$ and $6$'
      this.#nameDamage(`user ${JSON.stringify(user)} in the store`, isDamaged ? problem : undefined)
      return kept
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error
      return new Refusal(ReasonCode.serverUnavailable, `users are in the store: ${error.message}`, {
        isUndecided: true,
      })
    }
  }

  /** Of the file first, then in the store: as they are asked for a password where no chain is written down. */
  #scramUserOf(user: string): Answer<ScramUser | Refusal | undefined> {
    const kept = this.#users.get(user)
    if (kept !== undefined) return { by: 'password-file', kept }
    if (this.#stored === undefined || !this.#options.hasStoredUsers) return undefined
    return this.#storedKeptOf(user).then((stored) =>
      typeof stored === 'string' ? { by: 'stored-users', kept: stored } : stored,
    )
  }

  #mayKeep(client: Client, filter: string, qos: 0 | 1 | 2): boolean {
    const asked = { filter, qos, noLocal: false, retainAsPublished: false, retainHandling: 0 } as const
    return this.#subscribe(asked, client) === asked
  }

  /** What there are no rules for is not asked about. */
  #guard(): Guard<Client> {
    return {
      authenticate: (username, password, from) =>
        this.#authenticate(
          { username, password, clientId: from.clientId, certificate: () => from.certificate },
          from,
        ),
      exchange: (step, from) => this.#exchange(step, from),
      isStill: (client) => this.#isStill(client),
      ...(!this.#options.foreign.isEmpty && {
        accepted: (client) => this.#accepted(client),
        ended: (client, wasClient) => this.#ended(client, wasClient),
      }),
      ...((this.#rights.hasAny || !this.#options.foreign.isEmpty) && {
        publish: (message, source, from) => this.#publish(message, source, from),
        subscribe: (asked, from) => this.#subscribe(asked, from),
        mayReceive: (message, to) => this.#mayReceive(message, to),
        mayKeep: (client, filter, qos) => this.#mayKeep(client, filter, qos),
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
        (chain = new Chain(names.map((name) => this.#linkOf(name, names.length === 1)))),
      )
    return chain
  }

  #linkOf(name: LinkName, isAlone: boolean): Link {
    if (name === 'password-file')
      return passwordLink(
        name,
        (user) => this.#users.get(user),
        this.#logins,
        () => this.#kept,
      )
    if (name === 'stored-users')
      return passwordLink(
        name,
        (user) => this.#storedKeptOf(user),
        this.#logins,
        () => [], // as `passwd` writes them
      )
    if (name === 'scram')
      return scramLink(
        (user) => this.#scramUserOf(user),
        () => this.#scramKeys,
      )
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
        this.#options.hasHooks()
          ? { user: this.#options.haveHooksProof() ? username : undefined, by: 'hooks' }
          : undefined,
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
    if (found.clientId !== undefined && found.clientId !== ownName(clientId))
      return new Refusal(
        ReasonCode.clientIdentifierNotValid,
        'its Client Identifier is not that of its certificate or token',
      )
    const { user: written, tenant: said } = client.principal // by a hook, which knows
    const user = found.by === 'hooks' ? (written ?? found.user) : (found.user ?? written)
    const tenant = found.tenant ?? said
    client.principal = user === found.user && tenant === found.tenant ? found : { ...found, user, tenant }
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
    if (client.isConnected && !isOfSameTenant(principal, client))
      return new Refusal(ReasonCode.notAuthorized, 'of another tenant than before')
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

  /** Without any rule everything is allowed; a principal with permissions of its own may do what those say. */
  #isAllowed(client: Client, question: Question): boolean {
    if (!this.#rights.hasAny && client.principal.permissions === undefined) return true
    return this.#rights.decide(question, client).isAllowed
  }

  #denied(
    client: Pick<Accessed, 'clientId' | 'principal'>,
    question: Question,
    rule: Rule | undefined,
  ): Refusal {
    this.#options.events.onDenied(client, question, rule)
    const reason = rule === undefined ? 'no rule allows it' : `denied by ${rule.place}`
    return new Refusal(ReasonCode.notAuthorized, reason)
  }

  /** What the program and the node publish is not asked about. */
  #publish(message: Message, source: Source, from: Client | undefined): Message | Refusal {
    if (from === undefined) return source === 'will' ? this.#publishWill(message) : message
    if (source !== 'client' && source !== 'will') return message
    const { qos, retain } = message
    const topic = ownTopic(message.topic)
    const question: Question = { action: 'publish', topic, qos, retain, group: undefined }
    if (this.#isAllowed(from, question)) return message
    return this.#denied(from, question, this.#rights.decide(question, from).rule)
  }

  /**
   * A will that is published now, by any node, maybe long after its CONNECT: rules may have changed since.
   * They decide by the Client Identifier and the user in its record. What its CONNECT was allowed holds where
   * they cannot: its client had permissions of its own (of a token or a webhook), or rules in the store have
   * not been read yet.
   */
  #publishWill(message: Message): Message | Refusal {
    const { qos, retain, by } = message
    const isUnread = this.#options.hasStoredRules && this.#storedRules === undefined
    if (by?.clientId === undefined || by.user === undefined || isUnread) return message
    if (!this.#rightsOfWills.hasAny) return message
    const name = tenantOfName(by.clientId)
    const asker = {
      clientId: ownName(by.clientId),
      tenant: name === undefined ? undefined : { name },
      principal: { user: by.user ?? undefined, by: undefined },
    }
    const question: Question = {
      action: 'publish',
      topic: ownTopic(message.topic),
      qos,
      retain,
      group: undefined,
    }
    const { isAllowed, rule } = this.#rightsOfWills.decide(question, asker)
    return isAllowed ? message : this.#denied(asker, question, rule)
  }

  /** With the highest QoS, up to the one that was asked for, that it may have. */
  #subscribe(asked: AskedSubscription, from: Client): AskedSubscription | Refusal {
    const shared = isShared(asked.filter) ? sharedFilterOf(asked.filter) : undefined
    if (isShared(asked.filter) && shared === undefined) return asked // no filter at all, which is said to it
    const questionOf = (qos: 0 | 1 | 2): Question => ({
      action: 'subscribe',
      topic: ownTopic(shared?.filter ?? asked.filter),
      qos,
      retain: false,
      group: shared?.share,
    })
    for (const qos of [2, 1, 0] as const)
      if (qos <= asked.qos && this.#isAllowed(from, questionOf(qos)))
        return qos === asked.qos ? asked : { ...asked, qos }
    const question = questionOf(asked.qos)
    return this.#denied(from, question, this.#rights.decide(question, from).rule)
  }

  #forward(message: Message, to: Client): Message | undefined {
    if (!this.#rights.areDeliveriesAsked && to.principal.permissions === undefined) return message
    return this.#mayReceive(message, to) ? message : undefined
  }

  #mayReceive({ topic, qos, retain }: Message, to: Client): boolean {
    return this.#isAllowed(to, { action: 'receive', topic: ownTopic(topic), qos, retain, group: undefined })
  }
}
