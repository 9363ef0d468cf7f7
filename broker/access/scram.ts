// SCRAM-SHA-256 (RFC 5802, RFC 7677) from the server's side, as data of enhanced authentication: a challenge
// for who says who it is, then the proof of both. The password is never sent, and what is stored of it is no
// password. An unknown user is refused only at the end, after a challenge that is always the same for that
// name, and like those of others. No channel binding. State: an exchange is an object.
import { createHash, createHmac, pbkdf2, randomBytes, timingSafeEqual } from 'node:crypto'
import { promisify } from 'node:util'

/** What is kept of a password. */
export interface ScramKeys {
  readonly salt: Buffer
  readonly iterations: number
  readonly storedKey: Buffer
  readonly serverKey: Buffer
}

const hash = 'sha256'
const hashBytes = 32
export const iterationsMin = 4_096
/** A client works as long as this says: RFC 7677 asks for 4,096 at least. */
export const iterationsMax = 10_000_000
const nonceBytesMax = 1_024
/** For names that nobody has, where there are no others: as long as this process lives. */
const secret = randomBytes(hashBytes)

const derive = promisify(pbkdf2)
const hmac = (key: Buffer, text: string | Buffer): Buffer => createHmac(hash, key).update(text).digest()

/**
 * What to keep of a password.
 * @throws RangeError when there are fewer iterations than 4,096
 */
export async function scramKeys(
  password: string,
  {
    salt = randomBytes(16),
    iterations = iterationsMin,
  }: { readonly salt?: Buffer; readonly iterations?: number } = {},
): Promise<ScramKeys> {
  if (!Number.isInteger(iterations) || iterations < iterationsMin || iterations > iterationsMax)
    throw new RangeError(`iterations are a whole number from ${iterationsMin} to ${iterationsMax}`)
  // SASLprep, of what is assigned: compatibility forms are one
  const salted = await derive(password.normalize('NFKC'), salt, iterations, hashBytes, hash)
  const clientKey = hmac(salted, 'Client Key')
  return {
    salt,
    iterations,
    storedKey: createHash(hash).update(clientKey).digest(),
    serverKey: hmac(salted, 'Server Key'),
  }
}

/** It is not what RFC 5802 has; the text is for the log. */
export class ScramError extends Error {}

const utf8 = new TextDecoder('utf-8', { fatal: true })

function textOf(data: Buffer | undefined): string {
  try {
    return utf8.decode(data)
  } catch {
    throw new ScramError('not UTF-8')
  }
}

/** The value of an attribute, `n=…`. */
function valueOf(part: string | undefined, name: string): string {
  if (part === undefined || !part.startsWith(`${name}=`)) throw new ScramError(`no attribute ${name}`)
  return part.slice(2)
}

function userOf(name: string): string {
  if (/=(?!2C|3D)/.test(name) || name === '') throw new ScramError('a user name that is not escaped')
  return name.replaceAll('=2C', ',').replaceAll('=3D', '=')
}

/**
 * For a name that nobody has: nobody has a proof for these, which are the hash of nothing. They are like those of one of
 * the others, and the same on each node that has the same users, today and after a restart: else two challenges would
 * tell.
 */
function nobodysKeys(user: string, others: readonly ScramKeys[], iterations: number): ScramKeys {
  const key = others[0]?.serverKey ?? secret
  const like =
    others.length === 0 ? undefined : others[hmac(key, `${user} like`).readUInt32BE() % others.length]
  return {
    salt: hmac(key, `${user} salt`).subarray(0, like?.salt.length ?? 16),
    iterations: like?.iterations ?? iterations,
    storedKey: hmac(key, `${user} stored`),
    serverKey: hmac(key, `${user} server`),
  }
}

export class Scram {
  readonly user: string
  readonly #header: string
  readonly #bare: string
  readonly #nonce: string
  #challenge = ''
  #keys!: ScramKeys

  /**
   * @param data client-first-message
   * @throws ScramError
   */
  constructor(data: Buffer | undefined) {
    const [binding, authorized, ...bare] = textOf(data).split(',')
    if (binding !== 'n' && binding !== 'y') throw new ScramError('channel binding, which is not there')
    this.user = userOf(valueOf(bare[0], 'n'))
    const nonce = valueOf(bare[1], 'r')
    // printable ASCII but the comma
    if (!/^[\x21-\x2b\x2d-\x7e]+$/.test(nonce) || nonce.length > nonceBytesMax)
      throw new ScramError('a nonce that is none')
    // no authorization identity (RFC 5802 a=)
    if (authorized !== '' && userOf(valueOf(authorized, 'a')) !== this.user)
      throw new ScramError('another identity than that of the user')
    this.#header = `${binding},${authorized},`
    this.#bare = bare.join(',')
    this.#nonce = nonce + randomBytes(18).toString('base64')
  }

  /**
   * server-first-message.
   * @param keys of the user; undefined: there is none
   * @param others keys of users that there are, always in the same order
   * @param usually iterations, where no others are given
   */
  challenge(keys: ScramKeys | undefined, others: readonly ScramKeys[] = [], usually = iterationsMin): Buffer {
    const nobodys = nobodysKeys(this.user, others, usually) // also for who is there: it takes its time
    this.#keys = keys ?? nobodys
    const { salt, iterations } = this.#keys
    this.#challenge = `r=${this.#nonce},s=${salt.toString('base64')},i=${iterations}`
    return Buffer.from(this.#challenge)
  }

  /**
   * server-final-message: the proof that we know the password, too. undefined: the client does not.
   * @param data client-final-message
   * @throws ScramError
   */
  verify(data: Buffer | undefined): Buffer | undefined {
    const text = textOf(data)
    const proofAt = text.lastIndexOf(',p=')
    const [binding, nonce] = text.split(',')
    if (proofAt < 0) throw new ScramError('no proof')
    if (valueOf(binding, 'c') !== Buffer.from(this.#header).toString('base64'))
      throw new ScramError('another channel binding than before')
    if (valueOf(nonce, 'r') !== this.#nonce) throw new ScramError('another nonce than ours')
    const proof = Buffer.from(text.slice(proofAt + 3), 'base64')
    if (proof.length !== hashBytes) throw new ScramError('a proof that is none')
    const signed = `${this.#bare},${this.#challenge},${text.slice(0, proofAt)}`
    const signature = hmac(this.#keys.storedKey, signed)
    const clientKey = proof.map((byte, i) => byte ^ signature[i]!)
    const isRight = timingSafeEqual(createHash(hash).update(clientKey).digest(), this.#keys.storedKey)
    if (!isRight) return undefined
    return Buffer.from(`v=${hmac(this.#keys.serverKey, signed).toString('base64')}`)
  }
}
