// What the certificate says that a client has shown in its TLS handshake, to its listener or to a proxy that hands it on.
// No state.
import { X509Certificate } from 'node:crypto'
import type { DetailedPeerCertificate, PeerCertificate, TLSSocket } from 'node:tls'
import type { Certificate } from './principal.ts'

const first = (value: unknown): string | undefined =>
  Array.isArray(value) ? first(value[0]) : typeof value === 'string' ? value : undefined

/** The first name of a list such as `DNS:sensor-7, URI:urn:x`, whose names may stand in quotes. */
function alternativeNameOf(list: string | undefined): string | undefined {
  const [, quoted, plain] = /^(?:DNS|URI|email):(?:"((?:[^"\\]|\\.)*)"|([^,]*))/.exec(list ?? '') ?? []
  try {
    return quoted === undefined ? plain : (JSON.parse(`"${quoted}"`) as string)
  } catch {
    return undefined
  }
}

/** As many as OpenSSL follows. */
const issuersMax = 100

/** The certificate that was shown in a TLS handshake, and found valid then; behind it those of its issuers. DER. */
export function shownIn(socket: object): Buffer[] {
  const { authorized, getPeerCertificate } = socket as Partial<TLSSocket>
  const shown: Buffer[] = []
  if (authorized !== true || getPeerCertificate === undefined) return shown
  let one: Partial<DetailedPeerCertificate> | undefined = getPeerCertificate.call(socket as TLSSocket, true)
  while (one?.raw !== undefined && shown.length < issuersMax) {
    shown.push(one.raw)
    if (one.issuerCertificate === one) break // it has signed itself
    one = one.issuerCertificate
  }
  return shown
}

/** The certificates of a text in PEM. @throws Error when one cannot be read */
export const certificatesIn = (text: string): X509Certificate[] =>
  (text.match(/-----BEGIN ([A-Z0-9 ]*CERTIFICATE)-----[^-]*-----END \1-----/g) ?? []).map(
    (block) => new X509Certificate(block),
  )

/** Undefined: it has shown none that its listener trusts. */
export function certificateOf(socket: object): Certificate | undefined {
  const { authorized, getPeerCertificate } = socket as Partial<TLSSocket>
  if (authorized !== true || getPeerCertificate === undefined) return undefined
  return factsOf(getPeerCertificate.call(socket as TLSSocket, false))
}

/** Of a certificate that a proxy found valid. @param der undefined: it hands on no more than the name */
export function certificateOfProxy(
  commonName: string | undefined,
  der: Buffer | undefined,
): Certificate | undefined {
  try {
    if (der !== undefined) return factsOf(new X509Certificate(der).toLegacyObject())
  } catch {
    return undefined // it is none
  }
  if (commonName === undefined) return undefined
  const unknown = { organization: undefined, unit: undefined, alternativeName: undefined }
  return { ...unknown, commonName, serial: '', fingerprint: '' }
}

function factsOf({
  subject,
  subjectaltname,
  serialNumber,
  fingerprint256,
}: PeerCertificate): Certificate | undefined {
  if (fingerprint256 === undefined) return undefined
  return {
    commonName: first(subject.CN),
    organization: first(subject.O),
    unit: first(subject.OU),
    alternativeName: alternativeNameOf(subjectaltname),
    serial: serialNumber.toLowerCase(),
    fingerprint: fingerprint256.replaceAll(':', '').toLowerCase(),
  }
}
