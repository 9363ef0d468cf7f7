// The bridge of a real Mosquitto to a node of ours, both directions on the same topics: as it comes out of
// the box, and with `try_private`, which marks it as a bridge. Each message is at each side once, and RETAIN
// is what it was.
import type { IPublishPacket } from 'mqtt-packet'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { TestClient } from '../support/client.ts'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { startMosquitto } from '../support/situation.ts'
import { frame, str, u16, WireClient } from '../support/wire.ts'

let cluster: TestCluster
beforeAll(async () => {
  cluster = await startCluster({ nodes: 2 })
})
afterAll(() => cluster[Symbol.asyncDispose]())

describe.each([
  ['out of the box', []],
  ['which says that it is one', ['try_private true']],
  ['of MQTT 3.1, which says that it is one', ['try_private true', 'bridge_protocol_version mqttv31']],
  // with its will and its PUBLISH below $SYS/
  ['of MQTT 5', ['try_private false', 'bridge_protocol_version mqttv50']],
] as const)('a bridge of Mosquitto, %s', (name, options) => {
  test('carries messages both ways, once', async () => {
    const node = cluster.node(0)
    const root = name.replaceAll(/\W/g, '')
    await using mosquitto = await startMosquitto([
      `connection ${root}`,
      `address ${new URL(node.url).host}`,
      `topic ${root}/# both 1`,
      'restart_timeout 1',
      'cleansession true',
      ...options,
    ])
    const ours = await cluster.node(1).connect(`ours ${root}`, { version: 5 })
    await ours.subscribe(`${root}/#`, { qos: 1, rap: true })
    await using theirs = await TestClient.connect(mosquitto.here, `theirs ${root}`, { version: 5 })
    await theirs.subscribe(`${root}/#`, { qos: 1, rap: true })
    // Until the bridge is there: a message that is asked for again and again, and counted as none.
    for (let n = 0; !theirs.packets.some(({ topic }) => topic.endsWith('/ready')); n++) {
      await ours.publish(`${root}/ready`, String(n))
      await new Promise((resolve) => setTimeout(resolve, 100))
      if (n > 150) throw new Error('the bridge does not come')
    }
    for (const [client, side] of [
      [ours, 'ours'],
      [theirs, 'theirs'],
    ] as const) {
      await client.publish(`${root}/from/${side}`, side, { retain: true })
      await client.publish(`${root}/from/${side}`, `${side} again`)
    }
    const of = (client: TestClient): string[] =>
      client.packets
        .filter(({ topic }) => topic.includes('/from/'))
        .map(({ payload, retain }) => `${payload.toString()} ${retain}`)
        .sort()
    const isPrivate = options.some((option) => option === 'try_private true')
    for (const client of [ours, theirs]) await expect.poll(() => of(client).length).toBeGreaterThanOrEqual(4)
    for (const client of [ours, theirs]) await client.settle()
    expect(of(ours).filter((line) => line.startsWith('ours'))).toEqual(['ours again false', 'ours true'])
    expect(of(theirs).filter((line) => line.startsWith('theirs'))).toEqual([
      'theirs again false',
      'theirs true',
    ])
    if (isPrivate) {
      expect(of(ours)).toEqual(['ours again false', 'ours true', 'theirs again false', 'theirs true'])
      expect(of(theirs)).toEqual(of(ours))
    }
  })
})

test('a bridge that says that it is one gets no more at once than Mosquitto takes; the rest as it acknowledges', async () => {
  const url = cluster.node(0).url
  await using bridge = await WireClient.open(url, 4)
  bridge.send(frame(0x10, str('MQTT'), 0x84, 2, u16(0), str('takes twenty')))
  await bridge.next('connack')
  await bridge.subscribe('window', { qos: 2 })
  const publisher = await cluster.node(0).connect('fills')
  await Promise.all(Array.from({ length: 21 }, (_, n) => publisher.publish('window', String(n), { qos: 2 })))
  const came = (await bridge.settled()) as IPublishPacket[]
  expect(came.map(({ payload }) => payload.toString())).toEqual(
    Array.from({ length: 20 }, (_, n) => String(n)),
  )
  bridge.send({ cmd: 'pubrec', messageId: came[0]!.messageId! })
  await bridge.next('pubrel')
  bridge.send({ cmd: 'pubcomp', messageId: came[0]!.messageId! })
  expect((await bridge.next('publish')).payload.toString()).toBe('20')
})
