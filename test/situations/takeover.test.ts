// One Client Identifier, several CONNECTs within milliseconds: the later one has it [MQTT-3.1.4-3], and
// exactly one is left, whatever the versions and Clean Start.
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { situation } from '../support/situation.ts'
import { WireClient, type Version } from '../support/wire.ts'

const connectPacket = (clientId: string, version: Version, clean: boolean) =>
  ({
    cmd: 'connect',
    protocolId: 'MQTT',
    protocolVersion: version,
    clean,
    clientId,
    keepalive: 0,
    ...(version === 5 && { properties: { sessionExpiryInterval: 60 } }),
  }) as const

/** Four kinds of client, in turn. */
const kinds = [
  [4, true],
  [5, false],
  [4, false],
  [5, true],
] as const
const kindOf = (n: number): readonly [Version, boolean] => kinds[n % kinds.length]!

situation('CONNECTs of one Client Identifier', (place) => {
  test.each([0, 1, 4])('two of them %i ms apart: the later one stays', async (gapMs) => {
    for (let round = 0; round < 8; round++) {
      const [first, second] = [kindOf(round), kindOf(round >> 1)]
      const earlier = await WireClient.open(place.here, first[0])
      const later = await WireClient.open(place.here, second[0])
      earlier.send(connectPacket('two', ...first))
      if (gapMs > 0) await sleep(gapMs)
      later.send(connectPacket('two', ...second))
      await earlier.closed
      await later.next('connack')
      expect(await later.settled()).toEqual([])
      later.socket.destroy()
    }
  })

  test('[MQTT-3.1.2-8] a storm of 120: the last one stays; of the others those have a will that were accepted', async () => {
    const watcher = await place.connectThere('watches storms')
    await watcher.subscribe('storms')
    const all = await Promise.all(
      Array.from({ length: 120 }, (_, n) => WireClient.open(place.here, kindOf(n)[0])),
    )
    for (const [n, client] of all.entries())
      client.send({
        ...connectPacket('storm', ...kindOf(n)),
        will: { topic: 'storms', payload: Buffer.from(String(n)), qos: 1, retain: false },
      })
    const others = all.slice(0, -1)
    const last = all.pop()!
    await Promise.all(all.map(({ closed }) => closed))
    await last.next('connack')
    expect(await last.settled()).toEqual([])
    const accepted = [...others.keys()]
      .filter((n) => others[n]!.packets.some(({ cmd }) => cmd === 'connack'))
      .map(String)
    if (place.isOurs) await watcher.arrivals(accepted.length) // Mosquitto: not of those whose session goes on
    await watcher.settle()
    const wills = watcher.takeAll()
    expect(wills.filter((n) => !accepted.includes(n))).toEqual([])
    if (place.isOurs) expect(wills).toHaveLength(accepted.length)
    await using _ = last
  })

  test('a storm at both nodes leaves exactly one', async () => {
    const all = await Promise.all(
      Array.from({ length: 40 }, (_, n) =>
        WireClient.open(n % 2 === 0 ? place.here : place.there, kindOf(n >> 1)[0]),
      ),
    )
    for (const [n, client] of all.entries()) client.send(connectPacket('storm at both', ...kindOf(n >> 1)))
    const isOpen = (): WireClient[] => all.filter(({ isClosed }) => !isClosed)
    await expect.poll(() => isOpen().length).toBe(1)
    const [left] = isOpen()
    await left!.next('connack')
    expect(await left!.settled()).toEqual([])
    left!.socket.destroy()
  })

  test('a takeover gets what the earlier connection asked for: its session goes on, and its subscription with it', async () => {
    const earlier = await place.wire('goes on', { clean: false, properties: { sessionExpiryInterval: 60 } })
    await earlier.subscribe('goes/on')
    const later = await place.wireThere('goes on', {
      clean: false,
      properties: { sessionExpiryInterval: 60 },
    })
    await earlier.closed
    expect(later.connack.sessionPresent).toBe(true)
    later.send({ cmd: 'publish', topic: 'goes/on', payload: 'x', qos: 0, retain: false, dup: false })
    expect(String((await later.next('publish')).payload)).toBe('x')
  })
})
