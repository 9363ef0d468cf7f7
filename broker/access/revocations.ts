// Whose certificate has been revoked, or whose authority was taken away, while he was connected: who connects is found by
// OpenSSL, in his handshake. State: the lists of each file, as it was read last; the authorities of each, and whether there
// was ever another among them.
import { X509Certificate } from 'node:crypto'
import { certificatesIn } from './certificate.ts'
import { namedIn, readRevocationLists, type RevocationList } from './revocation-lists.ts'

export interface Revocable {
  readonly listener: { readonly tlsCrl?: string | undefined; readonly tlsCa?: string | undefined } | undefined
}

/** Of a file of authorities. */
interface Authorities {
  readonly all: readonly X509Certificate[]
  readonly fingerprints: ReadonlySet<string>
  /** One was taken away: who is connected may have come by it. */
  readonly isLess: boolean
}

export class Revocations<Client extends Revocable> {
  readonly #shownBy: (client: Client) => readonly Buffer[]
  readonly #lists = new Map<string, readonly RevocationList[]>()
  readonly #authorities = new Map<string, Authorities>()

  /** @param shownBy the certificate that a client has shown in its handshake with us, and those of its issuers, DER */
  constructor(shownBy: (client: Client) => readonly Buffer[]) {
    this.#shownBy = shownBy
  }

  /** Texts of files by their paths: they hold from now on; of one that is left out, what it said before. */
  load({
    revocationLists,
    authorities,
  }: {
    readonly revocationLists: ReadonlyMap<string, string>
    readonly authorities: ReadonlyMap<string, string>
  }): void {
    for (const [path, text] of revocationLists) {
      const lists = readRevocationLists(text)
      if (typeof lists !== 'string') this.#lists.set(path, lists)
    }
    for (const [path, text] of authorities) {
      const all = certificatesIn(text)
      const fingerprints = new Set(all.map(({ fingerprint256 }) => fingerprint256))
      const before = this.#authorities.get(path)
      const isLess =
        before !== undefined &&
        (before.isLess || [...before.fingerprints].some((fingerprint) => !fingerprints.has(fingerprint)))
      this.#authorities.set(path, { all, fingerprints, isLess })
    }
  }

  isRevoked(client: Client): boolean {
    const { tlsCrl = '', tlsCa = '' } = client.listener ?? {}
    const lists = this.#lists.get(tlsCrl)
    const authorities = this.#authorities.get(tlsCa)
    if (lists === undefined && authorities?.isLess !== true) return false
    const shown = this.#shownBy(client)
    if (shown.length === 0) return false
    if (lists !== undefined && namedIn(lists, shown[0]!)) return true
    return authorities?.isLess === true && !isOf(authorities, shown)
  }
}

/** Whether one of the authorities has signed it, or one of its issuers. A TLS session that went on shows no issuers. */
const isOf = ({ all, fingerprints }: Authorities, shown: readonly Buffer[]): boolean =>
  shown.some((der) => {
    const certificate = new X509Certificate(der)
    if (fingerprints.has(certificate.fingerprint256)) return true
    return all.some((one) => certificate.checkIssued(one) && certificate.verify(one.publicKey))
  })
