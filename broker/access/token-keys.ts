// Keys that JSON Web Tokens are verified with, as a text has them: public keys or certificates in PEM, a JSON Web Key Set
// (RFC 7517), or secrets, one on a line. A key fits a token by its kind, which the algorithm asks for, and by its
// identifier where both have one. Of a set, what is no key for signatures that is known here is passed by. No state.
import {
  createHash,
  createPublicKey,
  createSecretKey,
  X509Certificate,
  type JsonWebKey,
  type KeyObject,
} from 'node:crypto'
import type { OptionProblem } from '../../bridge/index.ts'

export const tokenAlgorithms = [
  ...(['HS256', 'HS384', 'HS512'] as const),
  ...(['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512'] as const),
  ...(['ES256', 'ES384', 'ES512', 'EdDSA'] as const),
] as const
export type TokenAlgorithm = (typeof tokenAlgorithms)[number]

/** One secret is both who signs and who verifies: whoever has it may write tokens. */
export const isSymmetric = (algorithm: string): boolean => algorithm.startsWith('HS')

export interface TokenKey {
  readonly key: KeyObject
  /** The same for the same key, however it is written. */
  readonly digest: string
  readonly id: string | undefined
  /** The only one that it is for. */
  readonly algorithm: string | undefined
}

/** Of a text; further ones are an error. */
export const keysMax = 100
/** RFC 7518, 3.2: as many as the hash of HS256 has. */
const secretBytesMin = 32
/** RFC 7518, 3.3: a shorter key verifies nothing. */
const rsaBitsMin = 2_048
const curves: Readonly<Record<string, string>> = {
  ES256: 'prime256v1',
  ES384: 'secp384r1',
  ES512: 'secp521r1',
}

/** RFC 9864 gives EdDSA another name. */
const plainName = (algorithm: string | undefined): string | undefined =>
  algorithm === 'Ed25519' ? 'EdDSA' : algorithm

function isFor(key: KeyObject, algorithm: string): boolean {
  if (isSymmetric(algorithm))
    return key.type === 'secret' && key.symmetricKeySize! * 8 >= Number(algorithm.slice(2))
  if (key.type !== 'public') return false
  if (algorithm === 'EdDSA') return key.asymmetricKeyType === 'ed25519'
  return algorithm.startsWith('ES')
    ? key.asymmetricKeyType === 'ec' && key.asymmetricKeyDetails?.namedCurve === curves[algorithm]
    : key.asymmetricKeyType === 'rsa' && key.asymmetricKeyDetails!.modulusLength! >= rsaBitsMin
}

/** Those that may have signed a token of this header. */
export const fittingKeys = (
  keys: readonly TokenKey[],
  { alg, kid }: { readonly alg?: string | undefined; readonly kid?: string | undefined },
): TokenKey[] =>
  keys
    .filter(({ id }) => id === undefined || kid === undefined || id === kid)
    .filter(({ algorithm }) => algorithm === undefined || plainName(algorithm) === plainName(alg))
    .filter(({ key }) => isFor(key, plainName(alg) ?? ''))

const digestOf = (key: KeyObject): string =>
  createHash('sha256')
    .update(key.type === 'secret' ? key.export() : key.export({ type: 'spki', format: 'der' }))
    .digest('base64')

/** What is wrong with a text; never shows any of it. */
class KeysError extends Error {}

function ofSet(text: string): TokenKey[] {
  let keys: unknown
  try {
    ;({ keys } = JSON.parse(text) as { keys?: unknown })
  } catch {
    throw new KeysError('is not JSON')
  }
  if (!Array.isArray(keys)) throw new KeysError('has no `keys`, as a JSON Web Key Set does')
  if (keys.length > keysMax) throw new KeysError(`has more than ${keysMax} keys`)
  return (keys as unknown[]).flatMap((key) => ofJwk(key))
}

function ofJwk(jwk: unknown): TokenKey[] {
  if (typeof jwk !== 'object' || jwk === null) return []
  const { kty, k, kid, use, alg, key_ops: operations } = jwk as Record<string, unknown>
  if (use !== undefined && use !== 'sig') return []
  if (Array.isArray(operations) && !operations.includes('verify')) return []
  try {
    const key =
      kty === 'oct'
        ? createSecretKey(Buffer.from(k as string, 'base64url'))
        : createPublicKey({ key: jwk as JsonWebKey, format: 'jwk' })
    return [
      {
        key,
        digest: digestOf(key),
        id: typeof kid === 'string' ? kid : undefined,
        algorithm: typeof alg === 'string' ? alg : undefined,
      },
    ]
  } catch {
    return [] // of a kind that is not known here
  }
}

function ofPem(text: string): TokenKey[] {
  if (/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(text))
    throw new KeysError('holds a private key, which is for who signs alone')
  const blocks = text.match(/-----BEGIN ([A-Z0-9 ]+)-----[^-]*-----END \1-----/g) ?? []
  if (blocks.length === 0) throw new KeysError('holds no key in PEM')
  if (blocks.length > keysMax) throw new KeysError(`has more than ${keysMax} keys`)
  return blocks.map((block, i) => {
    try {
      const key = block.includes('CERTIFICATE-----')
        ? new X509Certificate(block).publicKey
        : createPublicKey(block)
      return { key, digest: digestOf(key), id: undefined, algorithm: undefined }
    } catch {
      throw new KeysError(`has key ${i + 1} of ${blocks.length} that cannot be read`)
    }
  })
}

function ofSecrets(text: string): TokenKey[] {
  const lines = text.split(/\r?\n/).filter((line) => line !== '')
  if (lines.length > keysMax) throw new KeysError(`has more than ${keysMax} secrets`)
  return lines.map((line, i) => {
    const bytes = Buffer.from(line)
    if (bytes.length < secretBytesMin)
      throw new KeysError(`has a secret on line ${i + 1} of less than ${secretBytesMin} bytes`)
    const key = createSecretKey(bytes)
    return { key, digest: digestOf(key), id: undefined, algorithm: undefined }
  })
}

/** @throws KeysError */
function keysOf(text: string): TokenKey[] {
  const begins = text.trimStart()
  const keys = begins.startsWith('{')
    ? ofSet(text)
    : begins.startsWith('-----')
      ? ofPem(text)
      : ofSecrets(text)
  if (keys.length === 0) throw new KeysError('has no key for signatures')
  return keys
}

/** The keys, or what is wrong with the text. */
export function readTokenKeys(text: string): readonly TokenKey[] | string {
  try {
    return keysOf(text)
  } catch (error) {
    if (error instanceof KeysError) return error.message
    throw error
  }
}

/** What is wrong with a file of keys. */
export function tokenKeysProblem(text: string): Omit<OptionProblem, 'option'> | undefined {
  const keys = readTokenKeys(text)
  if (typeof keys !== 'string') return undefined
  return {
    problem: keys,
    hint: 'Write a public key in PEM (openssl pkey -in KEY -pubout), a JSON Web Key Set, or for HS256 a secret of 32 bytes or more (openssl rand -base64 48)',
  }
}
