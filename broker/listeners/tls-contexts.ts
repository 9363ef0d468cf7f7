// The certificates that a listener shows: the first to whoever names no server or one that is not known, and others by the
// name that a client asks for (SNI; RFC 6066, 3), as it stands in the certificate. All are read again together: a client
// that comes meanwhile gets the old ones or the new ones. Certificates of clients are verified in the same way whichever is
// shown. State: what was read last.
import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import {
  createSecureContext,
  type SecureContext,
  type SecureContextOptions,
  type TLSSocket,
  type TlsOptions,
} from 'node:tls'
import type { LinkName } from '../access/link-names.ts'
import { listsIn } from '../access/revocation-lists.ts'

export interface TlsFiles {
  readonly tlsCert: string | undefined
  readonly tlsKey: string | undefined
  readonly tlsCa: string | undefined
  readonly tlsCrl: string | undefined
  readonly tlsClients: 'certificate' | 'any' | undefined
  readonly tlsSniCert: readonly string[] | undefined
  readonly tlsSniKey: readonly string[] | undefined
  /** The listener's chain of authentication. */
  readonly authentication: readonly LinkName[]
}

/** A client without a certificate is let into a chain in which another link may know it. */
const mayLackCertificate = ({ tlsClients, authentication }: TlsFiles): boolean =>
  tlsClients === undefined
    ? authentication.includes('certificate') && authentication.length > 1
    : tlsClients === 'any'

/** Names of a certificate, in lower case: `*.example.com` as it stands. Those of addresses are none: SNI has no addresses. */
export function serverNamesOf({ subjectAltName, subject }: X509Certificate): string[] {
  const names = [...(subjectAltName ?? '').matchAll(/(?:^|, )DNS:([^,"]+)/g)].map(([, name]) => name!)
  if (names.length > 0) return names.map((name) => name.toLowerCase())
  const [, common] = /(?:^|\n)CN=([^\n]+)/.exec(subject) ?? []
  return common === undefined ? [] : [common.toLowerCase()]
}

export class TlsContexts {
  readonly #files: TlsFiles
  #byName = new Map<string, SecureContext>()
  #first!: SecureContextOptions

  /** @throws Error when they cannot be read, or do not fit */
  constructor(files: TlsFiles) {
    this.#files = files
    this.read()
  }

  /** All or nothing. @throws Error */
  read(): void {
    const { tlsCert, tlsKey, tlsCa, tlsCrl, tlsSniCert = [], tlsSniKey = [] } = this.#files
    if (tlsCert === undefined || tlsKey === undefined)
      throw new Error('tlsCert and tlsKey are checked by config.ts')
    const lists = tlsCrl === undefined ? undefined : listsIn(readFileSync(tlsCrl, 'utf8'))
    // OpenSSL would take no list for nothing to be asked
    if (lists?.length === 0) throw new Error(`${tlsCrl} holds no revocation list in PEM`)
    const clients = {
      ...(tlsCa !== undefined && { ca: readFileSync(tlsCa) }),
      ...(lists !== undefined && { crl: lists }),
    }
    const first = { cert: readFileSync(tlsCert), key: readFileSync(tlsKey), ...clients }
    createSecureContext(first) // throws when they do not fit
    const byName = new Map<string, SecureContext>()
    for (const [i, path] of tlsSniCert.entries()) {
      const cert = readFileSync(path)
      const context = createSecureContext({ cert, key: readFileSync(tlsSniKey[i]!), ...clients })
      for (const name of serverNamesOf(new X509Certificate(cert)))
        if (!byName.has(name)) byName.set(name, context)
    }
    this.#first = first
    this.#byName = byName
  }

  /** For `tls.createServer` and `https.createServer`. */
  get options(): TlsOptions {
    return {
      ...this.#first,
      // refused by `problemOf`, which says why: Node closes without a word
      ...(this.#files.tlsCa !== undefined && { requestCert: true, rejectUnauthorized: false }),
      ...(this.#files.tlsSniCert !== undefined && {
        SNICallback: (name: string, done: (error: null, context?: SecureContext) => void) =>
          done(null, this.#contextOf(name.toLowerCase())),
      }),
    }
  }

  /** Why a client may not come in whose handshake is done. */
  problemOf({ authorized, authorizationError }: TLSSocket): string | undefined {
    if (this.#files.tlsCa === undefined || authorized || mayLackCertificate(this.#files)) return undefined
    return `its certificate: ${String(authorizationError)}`
  }

  /** For `setSecureContext`. */
  get first(): SecureContextOptions {
    return this.#first
  }

  /** A wildcard stands for one label (RFC 6125, 6.4.3). */
  #contextOf(name: string): SecureContext | undefined {
    return this.#byName.get(name) ?? this.#byName.get(name.replace(/^[^.]+/, '*'))
  }
}
