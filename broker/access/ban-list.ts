// The bans as this node knows them (bridge/ban.ts): by Client Identifier, user, address or network. A CONNECT
// is checked twice by aedes/connect.ts (`#refuseBanned`): before its password, and when its user is known.
// Open connections are ended by aedes/engine.ts (`#endBanned`). State: the bans, by whom; how often each
// client connected within this minute, where flapping is bounded.
import { ownName, tenantOfName, type Ban, type BanKind } from '../../bridge/index.ts'
import { Networks } from './networks.ts'

/** Clients that are counted; who comes after them is not, until the minute is over. */
const countedMax = 100_000
const minuteMs = 60_000

export class BanList {
  #bans = new Map<string, Ban>()
  #networks: readonly { readonly of: Networks; readonly tenant: string | undefined; readonly ban: Ban }[] = []
  readonly #flappingMax: () => number | undefined
  #connects = new Map<string, number>()
  #minute = performance.now()

  /** @param flappingMax connects of a client within a minute; undefined: any number */
  constructor(flappingMax: () => number | undefined = () => undefined) {
    this.#flappingMax = flappingMax
  }

  /** In place of those before. */
  set(bans: readonly Ban[]): void {
    this.#bans = new Map(bans.map((ban) => [`${ban.kind} ${ban.name}`, ban]))
    this.#networks = bans
      .filter(({ kind }) => kind === 'network')
      .flatMap((ban) => {
        try {
          return [{ of: new Networks([ownName(ban.name)]), tenant: tenantOfName(ban.name), ban }]
        } catch {
          return [] // whoever wrote it into the store: it is no network
        }
      })
  }

  get isEmpty(): boolean {
    return this.#bans.size === 0
  }

  /**
   * The ban that holds for a client; of a tenant: with the Client Identifier and user as they are called outside.
   * O(banned networks)
   */
  of(clientId: string, user: string | undefined, address: string, tenant?: string): Ban | undefined {
    const holding = (ban: Ban | undefined): ban is Ban => ban !== undefined && ban.endsAt > performance.now()
    const by = (kind: BanKind, name: string): Ban | undefined => this.#bans.get(`${kind} ${name}`)
    const found = [
      by('client', clientId),
      // a user of a tenant is shown as tenant/name: who bans what is shown bans it
      ...(user === undefined ? [] : [by('user', user), by('user', user.replace('\0', '/'))]),
      ...(address === ''
        ? []
        : this.#networks
            .filter((one) => (one.tenant === undefined || one.tenant === tenant) && one.of.has(address))
            .map(({ ban }) => ban)),
    ]
    return found.find(holding)
  }

  /** It has proved who it is, and connects. @returns whether that is too often */
  connected(clientId: string): boolean {
    const max = this.#flappingMax()
    if (max === undefined) return false
    if (performance.now() - this.#minute > minuteMs) {
      this.#connects = new Map()
      this.#minute = performance.now()
    }
    const count = (this.#connects.get(clientId) ?? 0) + 1
    if (count > 1 || this.#connects.size < countedMax) this.#connects.set(clientId, count)
    return count > max
  }
}
