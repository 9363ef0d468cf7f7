// What is kept of a password, as a text, and whether a password is the one: scrypt (RFC 7914; what we write), the keys of
// SCRAM-SHA-256, and Mosquitto's $7$ (PBKDF2) and $6$ (one round of SHA-512: for passwords that are random). No state.
import { createHash, pbkdf2, randomBytes, scrypt, timingSafeEqual, type ScryptOptions } from 'node:crypto'
import { promisify } from 'node:util'
import { iterationsMax, iterationsMin, scramKeys, type ScramKeys } from './scram.ts'

/** 16 MiB and about 50 ms of one core. */
const scryptCost = { log: 14, r: 8, p: 1 }
/** Of SCRAM keys that we write. */
export const scramIterations = 100_000
const scryptBytesMax = 256 * 1024 * 1024
const pbkdf2IterationsMax = 10_000_000
/** More than any of these formats writes: a longer one is damaged, and each block of it would be all the work again. */
const hashBytesMax = 64
/** Of what SCRAM keeps: as long as its hash is. */
const scramKeyBytes = 32
const scryptBytes = promisify<Buffer, Buffer, number, ScryptOptions, Buffer>(scrypt)
const pbkdf2Bytes = promisify(pbkdf2)

export interface Kept {
  /** Whether to know costs more than a few microseconds: then it is work for another thread. */
  readonly isSlow: boolean
  /** Undefined: whoever has this password cannot use SCRAM. */
  readonly scram: ScramKeys | undefined
  isRight(password: Buffer): Promise<boolean>
}

const equal = (a: Buffer, b: Buffer): boolean => a.length === b.length && timingSafeEqual(a, b)
const base64 = (bytes: Buffer): string => bytes.toString('base64')
const bytesOf = (text: string | undefined): Buffer => Buffer.from(text ?? '', 'base64')
const isBase64 = (text: string | undefined): boolean => /^[A-Za-z0-9+/]{4,}={0,2}$/.test(text ?? '')
/** A hash as it may stand behind a salt. */
const isHash = (text: string | undefined): boolean => isBase64(text) && bytesOf(text).length <= hashBytesMax
const numberOf = (text: string | undefined, max: number): number | undefined =>
  /^\d{1,9}$/.test(text ?? '') && Number(text) >= 1 && Number(text) <= max ? Number(text) : undefined

type Parts = readonly (string | undefined)[]

/** `$scrypt$ln=14,r=8,p=1$salt$hash`, as PHC strings are. */
function ofScrypt([cost, salt, hash]: Parts): Kept | undefined {
  const [, log, r, p] = /^ln=(\d{1,2}),r=(\d{1,3}),p=(\d{1,2})$/.exec(cost ?? '') ?? []
  const options = { N: 2 ** Number(log), r: Number(r), p: Number(p), maxmem: 2 * scryptBytesMax }
  if (log === undefined || options.N < 2 || options.r < 1 || options.p < 1) return undefined
  if (128 * options.N * options.r > scryptBytesMax || options.p > 16) return undefined
  if (Number(log) >= 16 * options.r) return undefined // RFC 7914, 2
  if (!isBase64(salt) || !isHash(hash)) return undefined
  const [wanted, salted] = [bytesOf(hash), bytesOf(salt)]
  return {
    isSlow: true,
    scram: undefined,
    isRight: async (password) => equal(await scryptBytes(password, salted, wanted.length, options), wanted),
  }
}

function ofScram([count, salt, stored, server]: Parts): Kept | undefined {
  const iterations = numberOf(count, iterationsMax)
  if (iterations === undefined || iterations < iterationsMin) return undefined
  if (!isBase64(salt) || ![stored, server].every(isBase64)) return undefined
  const keys: ScramKeys = {
    salt: bytesOf(salt),
    iterations,
    storedKey: bytesOf(stored),
    serverKey: bytesOf(server),
  }
  if (keys.storedKey.length !== scramKeyBytes || keys.serverKey.length !== scramKeyBytes) return undefined
  return {
    isSlow: true,
    scram: keys,
    isRight: async (password) =>
      equal((await scramKeys(password.toString(), keys)).storedKey, keys.storedKey),
  }
}

function ofMosquitto7([count, salt, hash]: Parts): Kept | undefined {
  const iterations = numberOf(count, pbkdf2IterationsMax)
  if (iterations === undefined || !isBase64(salt) || !isHash(hash)) return undefined
  const [wanted, salted] = [bytesOf(hash), bytesOf(salt)]
  return {
    isSlow: true,
    scram: undefined,
    isRight: async (password) =>
      equal(await pbkdf2Bytes(password, salted, iterations, wanted.length, 'sha512'), wanted),
  }
}

function ofMosquitto6([salt, hash]: Parts): Kept | undefined {
  if (!isBase64(salt) || !isHash(hash)) return undefined
  const [wanted, salted] = [bytesOf(hash), bytesOf(salt)]
  return {
    isSlow: false,
    scram: undefined,
    isRight: (password) =>
      Promise.resolve(equal(createHash('sha512').update(password).update(salted).digest(), wanted)),
  }
}

const formats = new Map<string, (parts: Parts) => Kept | undefined>([
  ['scrypt', ofScrypt],
  ['scram-sha-256', ofScram],
  ['7', ofMosquitto7],
  ['6', ofMosquitto6],
])

/** What a text says is kept of a password; undefined: it says nothing that is known here. */
export function keptOf(text: string): Kept | undefined {
  const [empty, format, ...parts] = text.split('$')
  return empty === '' ? formats.get(format!)?.(parts) : undefined
}

export const passwordFormats = ['scrypt', 'scram-sha-256'] as const
export type PasswordFormat = (typeof passwordFormats)[number]

/** What to keep of a password. */
export async function keepPassword(password: string, format: PasswordFormat): Promise<string> {
  if (format === 'scram-sha-256') {
    const { salt, iterations, storedKey, serverKey } = await scramKeys(password, {
      iterations: scramIterations,
    })
    return `$${format}$${iterations}$${base64(salt)}$${base64(storedKey)}$${base64(serverKey)}`
  }
  const { log, r, p } = scryptCost
  const salt = randomBytes(16)
  const hash = await scryptBytes(Buffer.from(password), salt, 32, { N: 2 ** log, r, p })
  const bare = (bytes: Buffer): string => base64(bytes).replaceAll('=', '')
  return `$scrypt$ln=${log},r=${r},p=${p}$${bare(salt)}$${bare(hash)}`
}
