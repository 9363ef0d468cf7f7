// Networks of addresses: `10.0.0.0/8`, `fd00::/8`, one address. An IPv4 address that a socket shows as IPv6
// (`::ffff:10.0.0.1`) is the IPv4 address. State: the networks of one list, which do not change.
import { BlockList, isIP, isIPv6 } from 'node:net'

/** An address as it is compared, counted and shown. */
export const plainAddress = (address: string): string =>
  address.startsWith('::ffff:') && address.includes('.') ? address.slice(7) : address

/**
 * Of one subscriber: an IPv4 address is one, of IPv6 each has a network of 64 bits and may take any address in it.
 */
export function subscriberOf(address: string): string {
  const plain = plainAddress(address)
  if (!isIPv6(plain)) return plain
  const [before, after] = plain.split('%')[0]!.split('::') as [string, string | undefined]
  const words = before === '' ? [] : before.split(':')
  const last = after === undefined || after === '' ? [] : after.split(':')
  const all = [...words, ...Array<string>(Math.max(0, 8 - words.length - last.length)).fill('0'), ...last]
  return `${all
    .slice(0, 4)
    .map((word) => Number.parseInt(word, 16).toString(16))
    .join(':')}::/64`
}

/** Whether a text names an address or a network. */
export function isNetwork(text: string): boolean {
  const [address, bits, ...more] = text.split('/')
  const family = isIP(address!)
  if (family === 0 || more.length > 0 || address!.includes('%')) return false
  return bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128))
}

export class Networks {
  readonly #list = new BlockList()

  /** @param networks as `isNetwork` has them */
  constructor(networks: Iterable<string>) {
    for (const network of networks) {
      const [address, bits] = network.split('/')
      const family = isIPv6(address!) ? 'ipv6' : 'ipv4'
      if (bits === undefined) this.#list.addAddress(address!, family)
      else this.#list.addSubnet(address!, Number(bits), family)
    }
  }

  has(address: string | undefined): boolean {
    if (address === undefined) return false
    const plain = plainAddress(address)
    const family = isIP(plain)
    return family !== 0 && this.#list.check(plain, family === 6 ? 'ipv6' : 'ipv4')
  }
}
