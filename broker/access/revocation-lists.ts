// Certificate revocation lists (RFC 5280, 5) and the part of a certificate that they name, read from DER. OpenSSL asks them
// in each handshake; here they are read for who is connected already, and for saying what is wrong with a file. No state.

export interface RevocationList {
  /** DER, hexadecimal digits. */
  readonly issuer: string
  /** When it is over: then nobody comes in by it. Undefined: it does not say. */
  readonly nextUpdate: Date | undefined
  /** Hexadecimal digits. */
  readonly serials: ReadonlySet<string>
}

interface Element {
  readonly tag: number
  readonly body: Buffer
  /** With tag and length. */
  readonly whole: Buffer
}

const tags = { integer: 0x02, utcTime: 0x17, generalizedTime: 0x18, sequence: 0x30, version: 0xa0 }

/** @throws RangeError when it is no DER */
function elementsOf(der: Buffer): Element[] {
  const elements: Element[] = []
  for (let at = 0; at < der.length;) {
    const first = der.readUInt8(at + 1)
    const lengthBytes = first < 0x80 ? 0 : first & 0x7f
    if (lengthBytes > 4) throw new RangeError('a length of more than 4 bytes')
    const length = lengthBytes === 0 ? first : der.readUIntBE(at + 2, lengthBytes)
    const begin = at + 2 + lengthBytes
    if (first === 0x80 || begin + length > der.length) throw new RangeError('a length that is none')
    elements.push({
      tag: der[at]!,
      body: der.subarray(begin, begin + length),
      whole: der.subarray(at, begin + length),
    })
    at = begin + length
  }
  return elements
}

/** The elements of what is signed: the first of the one that there is. */
const signedPartOf = (der: Buffer): Element[] => elementsOf(elementsOf(elementsOf(der)[0]!.body)[0]!.body)

const hex = ({ body }: Element): string => body.toString('hex').replace(/^(?:00)+(?=..)/, '')

/** YYMMDDhhmmssZ, or with four digits for the year. */
function timeOf({ tag, body }: Element): Date {
  const text = body.toString('latin1')
  const century = tag === tags.utcTime ? (Number(text.slice(0, 2)) < 50 ? '20' : '19') : ''
  const [, year, ...rest] = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(century + text) ?? []
  if (year === undefined) throw new RangeError('a time that is none')
  const [month, day, hour, minute, second] = rest.map(Number)
  return new Date(Date.UTC(Number(year), month! - 1, day, hour, minute, second))
}

function listOf(der: Buffer): RevocationList {
  const parts = signedPartOf(der)
  const from = parts[0]!.tag === tags.integer ? 1 : 0 // the version
  const issuer = parts[from + 1]!
  const times = parts.filter(({ tag }) => tag === tags.utcTime || tag === tags.generalizedTime)
  const revoked = parts.slice(from + 2).find(({ tag }) => tag === tags.sequence)
  return {
    issuer: issuer.whole.toString('hex'),
    nextUpdate: times[1] && timeOf(times[1]),
    serials: new Set(
      (revoked === undefined ? [] : elementsOf(revoked.body)).map(({ body }) => hex(elementsOf(body)[0]!)),
    ),
  }
}

/** The lists of a PEM file, each as a text of its own: of several in one text Node takes the first. */
export const listsIn = (text: string): string[] =>
  text.match(/-----BEGIN X509 CRL-----[^-]*-----END X509 CRL-----/g) ?? []

/** The lists of a PEM file, or what is wrong with it. */
export function readRevocationLists(text: string): readonly RevocationList[] | string {
  const blocks = listsIn(text)
  if (blocks.length === 0) return text.trim() === '' ? 'is empty' : 'holds no revocation list in PEM'
  const lists: RevocationList[] = []
  for (const [i, block] of blocks.entries()) {
    try {
      lists.push(listOf(Buffer.from(block.replaceAll(/-----[^-]*-----/g, ''), 'base64')))
    } catch {
      return `has list ${i + 1} of ${blocks.length} that cannot be read`
    }
  }
  return lists
}

/** What is wrong with a file of lists: with none in it nothing would be revoked any more. */
export function revocationListsProblem(text: string): { problem: string; hint: string } | undefined {
  const problem = readRevocationLists(text)
  return typeof problem === 'string'
    ? { problem, hint: 'Write the lists in PEM, each of them whole' }
    : undefined
}

/** By which a list names a certificate. @param der of it */
export function namedIn(lists: readonly RevocationList[], der: Buffer): boolean {
  const parts = signedPartOf(der)
  const from = parts[0]!.tag === tags.version ? 1 : 0
  const [serial, , issuer] = parts.slice(from)
  const [number, by] = [hex(serial!), issuer!.whole.toString('hex')]
  return lists.some((list) => list.issuer === by && list.serials.has(number))
}
