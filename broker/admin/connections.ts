// The connections of this node as an operator sees them: pages of them, one, and who of them gets a topic. Each node is
// the index of its own: they are passed by in the order in which they came, so a page goes on after the last one of the
// page before, whoever came and went meanwhile. In slices; a page looks at so many and no more. No state.
import { ownName, Slice } from '../../bridge/index.ts'
import { Networks } from '../access/networks.ts'
import { ownUser } from '../access/tenancy.ts'
import type { Connection } from '../connection/connection.ts'

/** What a client must be to be listed; `*` at the end of a text is any rest. */
export interface ClientFilter {
  readonly client?: string | undefined
  readonly user?: string | undefined
  /** An address or network. */
  readonly address?: string | undefined
}

export interface ConnectionFacts {
  readonly clientId: string
  readonly user: string | undefined
  readonly address: string
  readonly listener: string | undefined
  /** 3, 4 (3.1.1) or 5. */
  readonly protocolLevel: number
  readonly connectedSeconds: number
  /** Its session outlives the connection. */
  readonly isLasting: boolean
  readonly isSlow: boolean
  /** Of what it sent and of what it has not read, bytes. */
  readonly unhandledBytes: number
  readonly waitingBytes: number
}

export interface ConnectionPage {
  readonly clients: readonly ConnectionFacts[]
  /** The last one that was looked at; undefined: there are no more. */
  readonly next: number | undefined
}

/** Connections that a page looks at: some 20 ms, in slices. */
const lookedAtMax = 50_000
/** Of a page as JSON, but for its first client: identifiers may be long, and an answer has 1 MiB. */
export const pageBytesMax = 524_288

export const jsonBytes = (facts: object): number => Buffer.byteLength(JSON.stringify(facts))

const fits = (pattern: string | undefined, text: string | undefined): boolean =>
  pattern === undefined ||
  (text !== undefined && (pattern.endsWith('*') ? text.startsWith(pattern.slice(0, -1)) : text === pattern))

/** Its own, or as it is called outside its tenant. */
const isIts = (pattern: string | undefined, name: string): boolean =>
  fits(pattern, name) || fits(pattern, ownName(name))

export function connectionFacts(connection: Connection): ConnectionFacts {
  const { clientId, principal, address, listener, level, lasting, outbox } = connection
  return {
    clientId,
    user: principal.user,
    address,
    listener: listener?.url,
    protocolLevel: level,
    connectedSeconds: Math.floor((performance.now() - connection.since) / 1_000),
    isLasting: lasting,
    isSlow: outbox.slow,
    unhandledBytes: connection.comingBytes,
    waitingBytes: connection.waitingBytes,
  }
}

/** Those for whom most bytes wait, where any do. In slices; O(connections). */
export async function slowest(connections: Iterable<Connection>, limit: number): Promise<ConnectionFacts[]> {
  const found: Connection[] = []
  const slice = new Slice()
  const most = (): void => {
    found.sort((a, b) => b.waitingBytes - a.waitingBytes)
    found.length = Math.min(found.length, limit)
  }
  for (const connection of connections) {
    if (slice.isOver) await slice.next()
    if (!connection.isClient || connection.waitingBytes === 0) continue
    if (found.push(connection) >= 2 * limit + 100) most()
  }
  most()
  const slow: ConnectionFacts[] = []
  let bytes = 0
  for (const facts of found.map(connectionFacts)) {
    bytes += jsonBytes(facts)
    if (bytes > pageBytesMax && slow.length > 0) break
    slow.push(facts)
  }
  return slow
}

/** @param after the last one of the page before; 0: none */
export async function connectionPage(
  connections: Iterable<Connection>,
  { client, user, address }: ClientFilter,
  after: number,
  limit: number,
): Promise<ConnectionPage> {
  const clients: ConnectionFacts[] = []
  const networks = address === undefined ? undefined : new Networks([address])
  const slice = new Slice()
  let lookedAt = 0
  let bytes = 0
  let last = after
  for (const connection of connections) {
    if (slice.isOver) await slice.next()
    if (connection.number <= after) continue
    if (clients.length >= limit || lookedAt >= lookedAtMax) return { clients, next: last }
    lookedAt++
    const { principal, tenant } = connection
    const isListed =
      connection.isClient &&
      isIts(client, connection.clientId) &&
      (fits(user, principal.user) || fits(user, ownUser(principal.user, tenant?.name))) &&
      networks?.has(connection.address) !== false
    if (isListed) {
      const facts = connectionFacts(connection)
      bytes += jsonBytes(facts)
      if (bytes > pageBytesMax && clients.length > 0) return { clients, next: last }
      clients.push(facts)
    }
    last = connection.number
  }
  return { clients, next: undefined }
}
