// What is wrong with the files of TLS, found before anything listens: Node would say it in OpenSSL's words,
// or not until the first client connects.
import { createPrivateKey, X509Certificate, type KeyObject } from 'node:crypto'
import { createSecureContext } from 'node:tls'
import { listsIn, readRevocationLists } from '../access/revocation-lists.ts'
import { serverNamesOf } from '../listeners/tls-contexts.ts'

export type TlsOption = 'tlsCert' | 'tlsKey' | 'tlsCa' | 'tlsCrl'

export interface TlsProblem {
  readonly option: TlsOption
  readonly problem: string
  readonly hint: string
}

const certificateBlock =
  /-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----[^-]*-----END (?:TRUSTED |X509 )?CERTIFICATE-----/g
const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? 'error'

/** The certificates of a PEM file, or what is wrong with it. */
function readCertificates(text: string): X509Certificate[] | Omit<TlsProblem, 'option'> {
  const blocks = text.match(certificateBlock) ?? []
  if (blocks.length === 0) {
    if (/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(text))
      return {
        problem: 'holds a private key, not a certificate',
        hint: 'Name the certificate here and the key as tlsKey: are the two swapped?',
      }
    return {
      problem: text.trim() === '' ? 'is empty' : 'holds no certificate in PEM',
      hint: 'Name a file with -----BEGIN CERTIFICATE-----; from DER: openssl x509 -inform der -in FILE -out FILE.pem',
    }
  }
  const certificates: X509Certificate[] = []
  for (const [i, block] of blocks.entries()) {
    try {
      certificates.push(new X509Certificate(block))
    } catch (error) {
      return {
        problem: `certificate ${i + 1} of ${blocks.length} cannot be read (${codeOf(error)})`,
        hint: 'The file is damaged: take it anew from who issued it; openssl x509 -in FILE -noout -text reads the first',
      }
    }
  }
  return certificates
}

function readKey(text: string): KeyObject | Omit<TlsProblem, 'option'> {
  if (!/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(text)) {
    if (text.includes('-----BEGIN CERTIFICATE-----'))
      return {
        problem: 'holds a certificate, not a private key',
        hint: 'Name the private key here and the certificate as tlsCert: are the two swapped?',
      }
    return {
      problem: text.trim() === '' ? 'is empty' : 'holds no private key in PEM',
      hint: 'Name a file with -----BEGIN PRIVATE KEY-----; from DER: openssl pkey -inform der -in FILE -out FILE.pem',
    }
  }
  try {
    return createPrivateKey(text)
  } catch (error) {
    if (/ENCRYPTED/.test(text) || codeOf(error) === 'ERR_MISSING_PASSPHRASE') {
      return {
        problem: 'is encrypted with a passphrase, which nobody can be asked for',
        hint: 'Decrypt it into a file that only the node may read: openssl pkey -in FILE -out FILE.plain',
      }
    }
    return {
      problem: `is not a private key that can be read (${codeOf(error)})`,
      hint: 'The file is damaged: openssl pkey -in FILE -noout reads it when it is not',
    }
  }
}

/**
 * All that is wrong with the files, given as texts; what was not given, or could not be read, is left out.
 */
export function tlsProblems(texts: Readonly<Partial<Record<TlsOption, string>>>): TlsProblem[] {
  const { tlsCert, tlsKey, tlsCa, tlsCrl } = texts
  const problems: TlsProblem[] = []
  const certificates = tlsCert === undefined ? undefined : readCertificates(tlsCert)
  const key = tlsKey === undefined ? undefined : readKey(tlsKey)
  const authorities = tlsCa === undefined ? undefined : readCertificates(tlsCa)
  for (const [option, found] of [
    ['tlsCert', certificates],
    ['tlsKey', key],
    ['tlsCa', authorities],
  ] as const) {
    if (found !== undefined && 'problem' in found) problems.push({ option, ...found })
  }
  if (tlsCrl !== undefined) problems.push(...revocationProblems(tlsCrl))
  if (problems.length > 0 || !Array.isArray(certificates) || key === undefined || 'problem' in key)
    return problems
  if (!certificates[0]!.checkPrivateKey(key)) {
    const hint = certificates.slice(1).some((one) => one.checkPrivateKey(key))
      ? 'In the file of tlsCert put the certificate of this server first, those of its issuers after it'
      : 'Name the key that the certificate was made for; both of these must print the same: openssl x509 -in CERT -noout -pubkey, openssl pkey -in KEY -pubout'
    return [{ option: 'tlsKey', problem: 'does not fit the certificate of tlsCert', hint }]
  }
  try {
    createSecureContext({ cert: tlsCert, key: tlsKey, ca: tlsCa, crl: tlsCrl && listsIn(tlsCrl) })
  } catch (error) {
    // such as a key that is too short for OpenSSL's security level
    return [
      {
        option: 'tlsCert',
        problem: `is refused by OpenSSL (${codeOf(error)})`,
        hint: 'Have a certificate issued with a key of today: RSA of 2048 bits or more, or an elliptic curve',
      },
    ]
  }
  return []
}

function revocationProblems(text: string, now = Date.now()): TlsProblem[] {
  const lists = readRevocationLists(text)
  if (typeof lists === 'string')
    return [
      {
        option: 'tlsCrl',
        problem: lists,
        hint: 'Name a file with -----BEGIN X509 CRL-----; from DER: openssl crl -inform der -in FILE -out FILE.pem',
      },
    ]
  const over = lists.find(({ nextUpdate }) => nextUpdate !== undefined && nextUpdate.getTime() < now)
  if (over === undefined) return []
  return [
    {
      option: 'tlsCrl',
      problem: `has a list that was over at ${over.nextUpdate!.toISOString()}: nobody would come in`,
      hint: 'Take a newer one from the authority; openssl crl -in FILE -noout -nextupdate says until when one holds',
    },
  ]
}

/** What is wrong with a certificate for names of its own, given as texts with its key. */
export function sniProblem(cert: string, key: string): Omit<TlsProblem, 'option'> | undefined {
  const [first] = tlsProblems({ tlsCert: cert, tlsKey: key })
  if (first !== undefined) return { problem: first.problem.replace(' of tlsCert', ''), hint: first.hint }
  if (serverNamesOf(new X509Certificate(cert)).length > 0) return undefined
  return {
    problem: 'names no server',
    hint: 'Have it issued with a subjectAltName of DNS:name: clients are shown it by that',
  }
}

/** When the certificate that clients are shown is not valid now: clients refuse it. */
export function validityProblem(cert: string, now = Date.now()): string | undefined {
  const certificates = readCertificates(cert)
  if ('problem' in certificates) return undefined
  const { validFrom, validTo } = certificates[0]!
  if (now > Date.parse(validTo)) return `was valid until ${new Date(validTo).toISOString()}`
  return now < Date.parse(validFrom) ? `is not valid until ${new Date(validFrom).toISOString()}` : undefined
}
