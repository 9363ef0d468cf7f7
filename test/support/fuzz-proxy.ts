// Random headers of the PROXY protocol, of both versions, whole, damaged and torn, with a client behind them.
import { bytes, chance, damage, packet, send, untilOver } from './fuzz.ts'
import { knock, upgrade } from './door.ts'
import type { Random } from './random.ts'
import { u16 } from './wire.ts'

const signature = Buffer.from('0d0a0d0a000d0a515549540a', 'hex')

function text(random: Random): Buffer {
  const address = (): string =>
    random.pick([
      '192.0.2.7',
      '::1',
      '::ffff:1.2.3.4',
      '999.1.1.1',
      '',
      'x'.repeat(random.below(200)),
      '1::%lo',
    ])
  const port = (): string => random.pick(['0', '1883', '65535', '65536', '-1', '01', 'x'])
  const words = [
    'PROXY',
    random.pick(['TCP4', 'TCP6', 'UNKNOWN', 'UDP4', '__proto__']),
    address(),
    address(),
    port(),
    port(),
  ]
  return Buffer.from(
    `${words.slice(0, random.pick([6, 6, 6, 5, 2])).join(' ')}${random.pick(['\r\n', '\r\n', '\n', ''])}`,
  )
}

function fact(random: Random, depth = 1): Buffer {
  const type = random.pick([0x01, 0x02, 0x03, 0x04, 0x05, 0x20, 0x20, 0x20, 0x21, 0x22, 0x23, 0x28, 0xff])
  const value =
    type === 0x20 && depth > 0
      ? Buffer.concat([
          Buffer.from([random.below(8), 0, 0, 0, random.below(2)]),
          ...Array.from({ length: random.below(4) }, () => fact(random, depth - 1)),
        ])
      : bytes(random, random.pick([0, 4, 20, 600]))
  return Buffer.concat([
    Buffer.from([type]),
    u16(chance(random, 8) ? random.below(65_536) : value.length),
    value,
  ])
}

function binary(random: Random): Buffer {
  const [family, length] = random.pick([
    [0x11, 12],
    [0x11, 12],
    [0x21, 36],
    [0x21, 36],
    [0x31, 216],
    [0x00, 0],
    [0x12, 12],
  ] as const)
  const addresses = Buffer.alloc(length, random.below(256))
  const body = Buffer.concat([addresses, ...Array.from({ length: random.below(5) }, () => fact(random))])
  const said = chance(random, 10) ? random.below(65_536) : body.length
  return Buffer.concat([
    signature,
    Buffer.from([random.pick([0x21, 0x21, 0x21, 0x20, 0x11, 0xff]), family]),
    u16(said),
    body,
  ])
}

/** @param urls of listeners that believe this machine @returns how many connections there were */
export function fuzzProxy(
  urls: readonly string[],
  seconds: number,
  random: Random,
  goesOn: () => boolean,
): Promise<number> {
  return untilOver(seconds, random, goesOn, async () => {
    const url = random.pick(urls)
    const header = chance(random, 3) ? text(random) : binary(random)
    const behind = url.startsWith('ws:') ? Buffer.from(upgrade('/mqtt')) : packet(random)
    const input = Buffer.concat([chance(random, 4) ? damage(random, header) : header, behind])
    await send(random, await knock(url, chance(random, 2)), input)
  })
}
