// The header of the PROXY protocol, versions 1 and 2 (haproxy.org/download/2.6/doc/proxy-protocol.txt): what a
// proxy says before the bytes of its client. It is read off the socket as it comes, however it is cut, and not
// a byte more of it. What is malformed, or not whole when the proxy ends its side, is said to the caller. State:
// of one header. Bounds: 107 bytes of version 1, `bytesMax` of version 2; the time is the door's.
import { isIPv4, isIPv6, type Socket } from 'node:net'
import type { Peer, PeerTls } from '../connection/peer.ts'
import { plainAddress } from '../access/networks.ts'

/** Behind the first 16 bytes: a certificate of a client fits in. */
const bytesMax = 8 * 1024
const textBytesMax = 107
const signature = Buffer.from('0d0a0d0a000d0a515549540a', 'hex')
/** The first bytes of either version tell it, and what is none. */
const tellingBytes = 6

class Malformed extends Error {}

type Reading = Generator<number, Peer | undefined, Buffer>

/** Asks for so many bytes at a time. @returns undefined: the connection is the proxy's own */
function* read(): Reading {
  const start = yield tellingBytes
  if (start.toString('latin1') === 'PROXY ') return yield* readText(start)
  if (start.equals(signature.subarray(0, tellingBytes))) return yield* readBinary(start)
  throw new Malformed('does not begin with a PROXY header')
}

function* readText(start: Buffer): Reading {
  let text = start.toString('latin1') + (yield 9).toString('latin1') // "PROXY UNKNOWN\r\n" is the shortest
  while (!text.endsWith('\r\n')) {
    if (text.length >= textBytesMax) throw new Malformed('a line of PROXY that does not end')
    text += (yield 1).toString('latin1')
  }
  const words = text.slice(6, -2).split(' ')
  const [protocol, address = '', to = '', port = '', toPort = ''] = words
  if (protocol === 'UNKNOWN') return undefined // of what else it says nothing counts
  const isAddress = protocol === 'TCP4' ? isIPv4 : protocol === 'TCP6' ? isIPv6 : undefined
  if (isAddress === undefined || words.length !== 5 || !isAddress(address) || !isAddress(to))
    throw new Malformed('a line of PROXY without two addresses')
  if (!isPort(port) || !isPort(toPort)) throw new Malformed('a line of PROXY without two ports')
  return { address: plainAddress(address), port: Number(port), tls: undefined }
}

const isPort = (text: string): boolean => /^(?:0|[1-9]\d{0,4})$/.test(text) && Number(text) <= 65_535

/** By family and transport: bytes of both addresses and ports, and of one address. */
const layouts = new Map([
  [0x11, { bytes: 12, address: 4 }],
  [0x21, { bytes: 36, address: 16 }],
  [0x31, { bytes: 216, address: 0 }], // a UNIX socket has none that means something here
  [0x00, { bytes: 0, address: 0 }],
])

function* readBinary(start: Buffer): Reading {
  const head = Buffer.concat([start, yield 10])
  if (!head.subarray(0, 12).equals(signature)) throw new Malformed('does not begin with a PROXY header')
  const command = head[12]!
  if (command !== 0x20 && command !== 0x21)
    throw new Malformed('a PROXY header of another version or command')
  const layout = layouts.get(head[13]!)
  const length = head.readUInt16BE(14)
  if (length > bytesMax) throw new Malformed(`a PROXY header of more than ${bytesMax} bytes`)
  const body = length === 0 ? Buffer.alloc(0) : yield length
  if (command === 0x20) return undefined // of what else it says nothing counts
  if (layout === undefined || length < layout.bytes)
    throw new Malformed('a PROXY header without the addresses of a stream')
  const facts = factsOf(body.subarray(layout.bytes))
  checkSum(facts.get(0x03), head, body)
  if (layout.address === 0) return undefined
  const address = layout.address === 4 ? [...body.subarray(0, 4)].join('.') : textOf6(body)
  const tls = tlsOf(facts)
  return { address: plainAddress(address), port: body.readUInt16BE(2 * layout.address), tls }
}

/** As sockets have it. */
function textOf6(body: Buffer): string {
  const words = Array.from({ length: 8 }, (_, i) => body.readUInt16BE(2 * i))
  const isMapped = words.slice(0, 5).every((word) => word === 0) && words[5] === 0xffff
  if (isMapped) return [...body.subarray(12, 16)].join('.')
  return new URL(`http://[${words.map((word) => word.toString(16)).join(':')}]`).hostname.slice(1, -1)
}

/** Types and values; of a type that comes twice the first. */
function factsOf(bytes: Buffer): Map<number, Buffer> {
  const facts = new Map<number, Buffer>()
  for (let at = 0; at < bytes.length;) {
    const end = at + 3 > bytes.length ? Infinity : at + 3 + bytes.readUInt16BE(at + 1)
    if (end > bytes.length) throw new Malformed('a PROXY header with half a fact at its end')
    if (!facts.has(bytes[at]!)) facts.set(bytes[at]!, bytes.subarray(at + 3, end))
    at = end
  }
  return facts
}

function tlsOf(facts: ReadonlyMap<number, Buffer>): PeerTls | undefined {
  const tls = facts.get(0x20)
  if (tls === undefined) return undefined
  if (tls.length < 5) throw new Malformed('a PROXY header with half a fact of TLS')
  const [usesTls, showedCertificate] = [(tls[0]! & 1) !== 0, (tls[0]! & 6) !== 0]
  if (!usesTls) return undefined
  const isVerified = showedCertificate && tls.readUInt32BE(1) === 0
  const inner = factsOf(tls.subarray(5))
  const textOf = (bytes: Buffer | undefined): string | undefined => bytes?.toString('utf8')
  return {
    version: textOf(inner.get(0x21)),
    cipher: textOf(inner.get(0x23)),
    serverName: textOf(facts.get(0x02)),
    isVerified,
    commonName: isVerified ? textOf(inner.get(0x22)) : undefined,
    certificate: isVerified ? inner.get(0x28) : undefined,
  }
}

/** CRC-32C of the whole header, with its own four bytes as 0. */
function checkSum(sum: Buffer | undefined, head: Buffer, body: Buffer): void {
  if (sum === undefined) return
  if (sum.length !== 4) throw new Malformed('a PROXY header with half a checksum')
  const said = sum.readUInt32BE(0)
  sum.fill(0)
  let crc = 0xffffffff
  for (const bytes of [head, body])
    for (const byte of bytes) {
      crc ^= byte
      for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0)
    }
  if ((crc ^ 0xffffffff) >>> 0 !== said) throw new Malformed('a PROXY header with a wrong checksum')
}

/**
 * Reads the header off a socket that nobody reads.
 * @param told once, in a turn of its own: who connects, or undefined when the connection is the proxy's own; what
 * came behind the header is still to be read
 * @param failed once: what is wrong. Neither is called when the socket closes first.
 */
export function takeProxyHeader(
  socket: Socket,
  told: (peer: Peer | undefined) => void,
  failed: (problem: string) => void,
): void {
  const reading = read()
  let wanted = reading.next().value as number
  const stop = (): void => void socket.off('readable', go).off('end', ended)
  const fail = (problem: string): void => {
    stop()
    failed(problem)
  }
  const ended = (): void => fail('ended before its PROXY header')
  const go = (): void => {
    try {
      for (;;) {
        const bytes = socket.read(wanted) as Buffer | null
        if (bytes === null) return
        if (bytes.length < wanted) return ended() // it has ended its side, and this is the rest
        const step = reading.next(bytes)
        if (step.done !== true) wanted = step.value
        else {
          stop()
          // by then the stream knows that nobody waits for `readable`
          return process.nextTick(told, step.value)
        }
      }
    } catch (error) {
      // whatever it is: what comes over a wire never throws to the top
      fail(error instanceof Malformed ? error.message : String(error))
    }
  }
  socket.on('readable', go).on('end', ended)
}
