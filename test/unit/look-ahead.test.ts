// What lies ahead in bytes that wait to be read, in pieces of any size.
import { expect, test } from 'vitest'
import mqttPacket, { type Packet } from 'mqtt-packet'
import { PacketType, readDisconnect } from '../../broker/protocol/control-packets.ts'
import { LookAhead } from '../../broker/protocol/look-ahead.ts'

const bytes = (...packets: Packet[]): Buffer =>
  Buffer.concat(packets.map((packet) => mqttPacket.generate(packet, { protocolVersion: 5 })))
const publish = (length: number): Packet => ({
  cmd: 'publish',
  topic: 't',
  payload: Buffer.alloc(length, 0xe0),
  qos: 0,
  retain: false,
  dup: false,
})
const disconnect: Packet = {
  cmd: 'disconnect',
  reasonCode: 4,
  properties: { sessionExpiryInterval: 7, reasonString: 'x'.repeat(300) },
}

test.each([1, 2, 3, 7, 100, 100_000])(
  'a DISCONNECT behind publishes is found, in pieces of %i bytes, and once',
  (size) => {
    const all = bytes(publish(0), publish(200), publish(20_000), disconnect, publish(5))
    const ahead = new LookAhead(PacketType.disconnect)
    const found: Buffer[] = []
    for (let at = 0; at < all.length; at += size) {
      const packet = ahead.feed(all.subarray(at, at + size))
      if (packet !== undefined) found.push(packet)
    }
    expect(found).toEqual([bytes(disconnect)])
    expect(readDisconnect(found[0]!, 5)).toEqual({ reasonCode: 4, expirySeconds: 7 })
  },
)

test('the short forms of DISCONNECT', () => {
  expect(new LookAhead(PacketType.disconnect).feed(Buffer.from([0xe0, 0]))).toEqual(Buffer.from([0xe0, 0]))
  expect(readDisconnect(Buffer.from([0xe0, 0]), 5)).toEqual({ reasonCode: 0, expirySeconds: undefined })
  expect(readDisconnect(Buffer.from([0xe0, 1, 0x81]), 5)).toEqual({
    reasonCode: 0x81,
    expirySeconds: undefined,
  })
  expect(readDisconnect(Buffer.from([0xe0, 0]), 4)).toEqual({ reasonCode: 0, expirySeconds: undefined })
})

test('bytes that are no packets end nothing', () => {
  expect(new LookAhead(PacketType.disconnect).feed(Buffer.alloc(1_000, 0xff))).toBeUndefined()
  expect(
    new LookAhead(PacketType.disconnect).feed(
      Buffer.concat([Buffer.from([0xe0, 0xff, 0xff, 0xff, 0x7f]), Buffer.alloc(10_000)]),
    ),
  ).toBeUndefined()
})
